# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Lets `import ansible_collections.alwayson.hermes…` find this checkout, wherever it is."""

from __future__ import annotations

import compileall
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

ROOT = Path(__file__).resolve().parents[2]

# script/bootstrap links the checkout there, under the name that Ansible expects.
COLLECTIONS = ROOT / ".cache" / "collections"

if (COLLECTIONS / "ansible_collections/alwayson/hermes").resolve() != ROOT:
    raise RuntimeError(f"{COLLECTIONS} does not lead back to this checkout. Fix: run script/bootstrap")

# The servers in tests/fakes import each other by plain names, as in a box; so do the parts of the soak.
sys.path[:0] = [str(COLLECTIONS), str(ROOT / "tests/fakes"), str(ROOT / "tests/soak")]

# Every property test uses one of two profiles. A test with expensive examples takes a fraction of the profile's number:
# `@settings(max_examples=settings.default.max_examples // 4)`.
_SHARED = settings(
    # The machine may be busy with other tests, so times mean nothing.
    deadline=None,
    # The fixtures of these tests are the same for each example.
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
    # A run must not depend on the findings of another one.
    database=None,
)
# The same examples each time, so that a run fails only because of a change.
settings.register_profile("same", _SHARED, derandomize=True, max_examples=100, print_blob=False)
# script/test fuzz: other examples each time.
settings.register_profile("search", _SHARED, max_examples=5000, print_blob=True)
settings.load_profile("same")

# For tests that build releases.


@pytest.fixture(scope="session")
def ground() -> Iterator[Path]:
    """A directory that every user may enter, unlike pytest's own: releases are proved as nobody."""
    path = Path(tempfile.mkdtemp(prefix="hermes-release-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(scope="session")
def pinned_uv(ground: Path) -> Path:
    """uv, fetched as a release fetches it; kept between runs."""
    from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.release import pins, uv
    from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.errors import OpsError

    kept = ROOT / ".cache" / f"uv-{pins.UV_VERSION}"
    if not kept.exists():
        root = ground / "uv"
        (root / "tools").mkdir(parents=True)
        (root / "work" / "tmp").mkdir(parents=True)
        with open(root / "lock", "w") as stream:
            tool = uv.Uv(str(root), str(root / "work"), uv.Index(), timeout=300, lock=stream.fileno())
            try:
                tool.ensure()
            except OpsError as error:
                if "cannot be reached" not in str(error):
                    raise
                pytest.skip(f"SKIPPED, NOT PROVED: building releases, because no package index answers: {error}")
        kept.parent.mkdir(parents=True, exist_ok=True)
        # Renamed into place, because another pytest worker may look for it at the same moment.
        whole = shutil.copy2(root / "tools" / "uv", kept.parent / f"{kept.name}.{os.getpid()}")
        os.replace(whole, kept)
    return kept


@pytest.fixture
def root(ground: Path, pinned_uv: Path) -> Path:
    """A place for releases, with uv in it."""
    path = Path(tempfile.mkdtemp(dir=ground))
    path.chmod(0o755)
    (path / "opt" / "tools").mkdir(parents=True)
    shutil.copy2(pinned_uv, path / "opt" / "tools" / "uv")
    return path / "opt"


@pytest.fixture
def leave_uncompiled(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """A function after which releases are built without byte code.

    Compiling is most of the work of building Hermes. release/test_build.py proves once for a release from an index, and
    once for one from git, that builds do compile.
    """
    from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.release import uv, workshop
    from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.process import Completed

    call, run = uv.Uv.__call__, workshop.run

    def install(self: uv.Uv, *arguments: str, **options: Any) -> str:
        return call(self, *(argument for argument in arguments if argument != "--compile-bytecode"), **options)

    def unless_it_compiles(argv: Sequence[str], **options: Any) -> Completed:
        return Completed(tuple(argv), 0, "", "") if "compileall" in argv else run(argv, **options)

    def leave() -> None:
        monkeypatch.setattr(uv.Uv, "__call__", install)
        monkeypatch.setattr(workshop, "run", unless_it_compiles)

    return leave


@pytest.fixture
def uncompiled(leave_uncompiled: Callable[[], None]) -> None:
    leave_uncompiled()


@pytest.fixture(scope="session")
def sops() -> Path:
    """The directory of the real SOPS, and of age-keygen; they are kept between runs."""
    if shutil.which("go") is None:
        pytest.skip("SKIPPED, NOT PROVED: files of SOPS, because there is no Go to build it with")
    words = [sys.executable, ROOT / "tests/hosts/sops.py"]
    return Path(subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip())


@pytest.fixture
def sealed_by_sops(sops: Path, tmp_path: Path) -> Callable[[dict[str, str], str], tuple[Path, Path]]:
    """A function that makes an encrypted file of a kind, such as ``yaml``; returns it and the identity for it."""

    def seal(content: dict[str, str], kind: str) -> tuple[Path, Path]:
        identity, plain, sealed = (tmp_path / name for name in ("identity", "plain.json", f"sealed.{kind}"))
        subprocess.run([sops / "age-keygen", "--output", identity], check=True, capture_output=True)
        told = subprocess.run([sops / "age-keygen", "-y", identity], check=True, capture_output=True, text=True)
        plain.write_text(json.dumps({"section": content} if kind == "ini" else content))
        types = ("--input-type", "json", "--output-type", {"env": "dotenv"}.get(kind, kind))
        words = (sops / "sops", "--encrypt", "--age", told.stdout.strip(), *types, "--output", sealed, plain)
        subprocess.run(words, check=True, capture_output=True)
        plain.unlink()
        return sealed, identity

    return seal


@pytest.fixture(scope="session")
def package_index():
    """tests/fakes/package_index.py."""
    import package_index

    return package_index


@pytest.fixture(scope="session")
def published(package_index):
    """The published releases of Hermes; files are kept between runs."""
    return package_index.RealIndex(package_index.real_index(), ROOT / ".cache" / "published")


class Systemd:
    """Plays systemctl as far as a plan needs it: units with a state, and the calls that were made."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, ...]] = []
        self.states: dict[str, dict[str, str]] = {}

    def call(self, *arguments: str) -> Any:
        from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.process import Completed

        if arguments[0] == "show":
            blocks = ["\n".join(f"{k}={v}" for k, v in self.states.get(name, {}).items()) for name in arguments[3:]]
            return Completed(arguments, 0, "\n\n".join(blocks), "")
        self.asked.append(arguments)
        for name in arguments[1:]:
            state = self.states.setdefault(name, {})
            if arguments[0] == "enable":
                state["UnitFileState"] = "enabled"
            elif arguments[0] in ("start", "restart"):
                state.update(ActiveState="active", SubState="running", MainPID=str(os.getpid()))
            elif arguments[0] in ("disable", "stop"):
                state.update(ActiveState="inactive", SubState="dead", UnitFileState="disabled", MainPID="0")
        return Completed(arguments, 0, "", "")

    @property
    def verbs(self) -> list[str]:
        return [" ".join(arguments) for arguments in self.asked]


@pytest.fixture
def systemd(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Systemd:
    """Replaces all service managers; units are in the test's own directory."""
    from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.host import disk_watch, held
    from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.supervise import units
    from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.systemd import Manager

    fake = Systemd()
    monkeypatch.setattr(Manager, "call", lambda self, *arguments, **_options: fake.call(*arguments))
    monkeypatch.setattr(Manager, "reachable", True)
    directories = {scope: str(tmp_path / scope) for scope in ("system", "user")}
    monkeypatch.setattr(units, "UNIT_DIRECTORIES", directories)
    monkeypatch.setattr(disk_watch, "PATH", str(tmp_path / "system" / held.UNIT))
    monkeypatch.setattr(held, "DIRECTORY", str(tmp_path / "held"))
    return fake


@pytest.fixture(scope="session")
def killed_at_change() -> Callable[..., bool]:
    """A function that runs an action in a process that is killed before one of its changes."""

    def do(number: int, action: Callable[[], object], is_change: Callable[[str, tuple[Any, ...]], object]) -> bool:
        """Do *action* in a process that kills itself right before its *number*-th change.

        :param is_change: whether an audit event, with its arguments, is one
        :returns: whether it ended before that
        """
        pid = os.fork()
        if pid == 0:
            left = [number]

            def hook(event: str, arguments: tuple[Any, ...]) -> None:
                if is_change(event, arguments):
                    left[0] -= 1
                    if left[0] < 0:
                        os.kill(os.getpid(), signal.SIGKILL)

            try:
                sys.addaudithook(hook)
                action()
            except BaseException:
                os._exit(1)
            os._exit(0)
        _pid, status = os.waitpid(pid, 0)
        code = os.waitstatus_to_exitcode(status)
        assert code in (0, -signal.SIGKILL)
        return code == 0

    return do


@pytest.fixture(autouse=True)
def umask_of_the_tests():
    """Restores the umask after each test."""
    mask = os.umask(0o022)
    os.umask(mask)
    yield
    os.umask(mask)


@pytest.fixture
def run_module(monkeypatch, capsys) -> Callable[..., str]:
    """A function that calls an Ansible module, in diff mode, and returns its output.

    The kit runs in the test's own process, so that a test can patch it. The function's ``warnings`` are those of its
    last call; on a real host Ansible shows them.
    """
    testing = pytest.importorskip("ansible.module_utils.testing", reason="this ansible-core cannot run modules here")
    from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
    from ansible_collections.alwayson.hermes.plugins.action import host_kit as action
    from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops import cli
    from ansible_collections.alwayson.hermes.plugins.modules import host_kit

    def answer_of(kit: str, name: str, call: dict[str, Any]) -> dict[str, Any]:
        monkeypatch.setattr(sys, "stdin", io.StringIO(json.dumps(call)))
        cli.call(["module", name])
        return json.loads(capsys.readouterr().out)

    monkeypatch.setattr(host_kit, "is_root", lambda: True)
    monkeypatch.setattr(host_kit, "is_whole", lambda place: True)
    monkeypatch.setattr(host_kit, "answer_of", answer_of)
    monkeypatch.setattr(host_kit.Module, "warn", lambda _module, text: run.warnings.append(text))

    def run(module: ModuleType, given: dict[str, Any]) -> str:
        internal = {name: given.pop(name) for name in list(given) if name.startswith("_ansible_")}
        specification = module.SPECIFICATION["argument_spec"]
        checked = ArgumentSpecValidator(action.on_host(specification)).validate(given)
        assert checked.error_messages == []
        arguments = checked.validated_parameters
        run.warnings = []
        words = {
            "name": module.__name__.rpartition(".")[2],
            "arguments": arguments,
            "secrets": sorted(set(action.secrets(specification, arguments))),
            "place": "/kit",
        }
        with testing.patch_module_args({**words, "_ansible_diff": True, **internal}), pytest.raises(SystemExit):
            host_kit.main()
        return capsys.readouterr().out

    return run


@pytest.fixture
def public() -> Iterator[Path]:
    """A directory with parents that every user may enter, unlike pytest's own."""
    directory = Path(tempfile.mkdtemp())
    directory.chmod(0o755)
    yield directory
    # Unlike Python's rmtree, rm removes directories of any depth.
    subprocess.run(["rm", "-rf", str(directory)], check=True)


# An id without a name, as a platform gives to a container.
NAMELESS = 54321
# Runs as root in a mount namespace of its own: nothing in /etc, /run and /root, but the paths before "--". Then becomes
# that user, and runs the command after "--".
CONTAINER = """
set -e
mount -t tmpfs -o mode=755 none /run
mkdir /run/kept
number=0
for path in "$@"; do
    [ "$path" = -- ] && break
    number=$((number + 1)); mkdir "/run/kept/$number"; mount --bind "$path" "/run/kept/$number"
done
mount -t tmpfs -o mode=755 none /root
number=0
while [ "$1" != -- ]; do
    number=$((number + 1)); mkdir -p "$1"; mount --bind "/run/kept/$number" "$1"; shift
done
shift
mount -t tmpfs none /etc
exec setpriv --reuid "$UID_" --regid "$UID_" --clear-groups env -i "$@"
"""


class Contained:
    """Runs commands as in a container: as a user without a name, with neither a user database nor systemd.

    Where we are not root, they run as ourselves.
    """

    kit = ROOT / "plugins/module_utils"
    uid = NAMELESS if os.geteuid() == 0 else os.geteuid()

    def give(self, path: Path) -> None:
        """Give *path* to that user."""
        os.chown(path, self.uid, -1)

    def argv(self, argv: Sequence[str | Path], environ: Mapping[str, str]) -> list[str | Path]:
        if os.geteuid() != 0:
            return [*argv]
        kept = [sys.base_prefix, sys.prefix, str(self.kit)]
        variables = [f"{name}={value}" for name, value in environ.items()]
        return ["unshare", "--mount", "sh", "-c", CONTAINER, "sh", *kept, "--", *variables, *argv]

    def start(
        self, argv: Sequence[str | Path], environ: Mapping[str, str] | None = None, uid: int | None = None
    ) -> subprocess.Popen[str]:
        """Start *argv*, with pipes.

        :param environ: all of its environment, but for PATH
        :param uid: another user
        """
        environ = {"PATH": os.environ["PATH"], **(environ or {})}
        argv = self.argv(argv, environ)
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        uid = self.uid if uid is None else uid
        return subprocess.Popen(argv, env={**environ, "UID_": str(uid)}, text=True, **pipes)

    def run(
        self,
        argv: Sequence[str | Path],
        environ: Mapping[str, str] | None = None,
        uid: int | None = None,
        given: str = "",
    ) -> subprocess.CompletedProcess[str]:
        """As :meth:`start`, until it has ended.

        :param given: its standard input
        """
        with self.start(argv, environ, uid) as process:
            out, err = process.communicate(given, timeout=120)
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)


@pytest.fixture(scope="session")
def compiled_kit() -> None:
    """Byte code beside the kit's sources: a user without a name can write none, and would compile at each start."""
    compileall.compile_dir(Contained.kit, quiet=2)


@pytest.fixture
def contained(compiled_kit: None) -> Contained:
    if os.geteuid() == 0 and (not shutil.which("unshare") or subprocess.run(["unshare", "--mount", "true"]).returncode):
        pytest.skip("SKIPPED, NOT PROVED: root needs a mount namespace to run as in a container")
    return Contained()
