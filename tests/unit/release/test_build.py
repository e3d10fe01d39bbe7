# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Builds real releases: a stand-in for Hermes from wheels made here, and Hermes itself from the index.

The stand-in makes faults cheap (a broken release, a kill at every step); uv, pip, git and the package itself are the
real ones. Needs a package index, or a cache filled by an earlier run; a skipped test names the reason.
"""

from __future__ import annotations

import base64
import dataclasses
import difflib
import hashlib
import http.server
import json
import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.release import (
    build,
    observe,
    pins,
    store,
    uv,
)
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.release.request import Request
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.release.uv import Index
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.errors import OpsError
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.files import lock

CHECKOUT = Path(__file__).resolve().parents[3]
CACHE = CHECKOUT / ".cache" / "uv"


@pytest.fixture(scope="module", autouse=True)
def shared_cache() -> Iterator[None]:
    CACHE.mkdir(parents=True, exist_ok=True)
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("UV_CACHE_DIR", str(CACHE))
        patched.setenv("UV_HTTP_RETRIES", "0")
        yield


@pytest.fixture
def wheels(root: Path) -> Path:
    return make_wheels(root.parent / "wheels")


def make_wheels(path: Path) -> Path:
    """A directory of wheels, with the dependencies of Hermes."""
    path.mkdir()
    make_wheel(path, "aiohttp", "3.0", {"aiohttp.py": ""})
    return path


def make_wheel(directory: Path, name: str, version: str, files: dict[str, str], metadata: str = "") -> Path:
    info = f"{name}-{version}.dist-info"
    files = {
        **files,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name.replace('_', '-')}\nVersion: {version}\n{metadata}",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(
        f"{file},sha256={base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).decode().rstrip('=')},{len(text)}\n"
        for file, text in files.items()
    )
    path = directory / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for file, text in {**files, f"{info}/RECORD": record + f"{info}/RECORD,,\n"}.items():
            archive.writestr(file, text)
    return path


def make_hermes(
    directory: Path, version: str, *, main: str | None = None, gateway: str = "", python: str = ">=3.9"
) -> Path:
    """A wheel that behaves as Hermes does, as far as a build looks."""
    main = main or f"print('Hermes Agent v{version} (2026.1.1)')"
    files = {
        "hermes_cli/__init__.py": "",
        "hermes_cli/main.py": f"import sys\n\ndef main():\n    {main}\n",
        "gateway/__init__.py": gateway,
        f"hermes_agent-{version}.dist-info/entry_points.txt": "[console_scripts]\nhermes = hermes_cli.main:main\n",
    }
    extra = "Provides-Extra: homeassistant\nRequires-Dist: aiohttp; extra == 'homeassistant'\n"
    return make_wheel(directory, "hermes_agent", version, files, f"Requires-Python: {python}\n{extra}")


def from_wheels(wheels: Path, version: str | None = None, **options) -> Request:
    return Request(method="path", path=str(wheels), version=version, **options)


def state(root: Path) -> dict[str, str]:
    """Everything below *root* that a failed run must leave as it was; the builder's lock file may appear."""
    found = {}
    for directory, names, files in os.walk(root):
        for name in [*names, *files]:
            path = Path(directory, name)
            if path.name != ".lock" or path.parent != root:
                found[str(path.relative_to(root))] = (
                    os.readlink(path) if path.is_symlink() else str(path.lstat().st_mtime_ns)
                )
    return {name: value for name, value in found.items() if value and name not in ("releases", "tools")}


def assert_complete(root: Path, version: str) -> None:
    """``current`` is a release of *version*, and no unfinished build is left."""
    said = subprocess.run([root / "current/bin/hermes", "--version"], capture_output=True, text=True, check=False)
    assert f"v{version}" in said.stdout, said.stderr
    assert not [path.name for path in (root / "releases").iterdir() if path.name.endswith(observe.GARBAGE)]
    assert not (root / ".current").is_symlink()


def assert_compiled(directory: Path) -> None:
    """The build has compiled the code of Hermes in *directory*: nothing has imported this file yet."""
    assert list((directory / "gateway/__pycache__").glob("run.*.pyc"))


def test_a_release_is_complete_readable_for_all_and_writable_for_nobody_else(root, wheels, monkeypatch) -> None:
    make_hermes(wheels, "1.0.0")
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "86400")
    before = os.umask(0o077)
    try:
        outcome = build.ensure(from_wheels(wheels), Index(), root=str(root))
    finally:
        assert os.umask(before) == 0o077
    assert outcome.plan.changed
    assert outcome.previous is None
    assert_complete(root, "1.0.0")
    assert os.readlink(root / "current") == f"releases/{outcome.stamp['id']}"
    home = root / "current"
    stamp = json.loads((home / "release.json").read_text())
    assert (stamp["version"], stamp["method"], stamp["locked"], stamp["patches"]) == ("1.0.0", "path", False, [])
    assert stamp["built"] == "1970-01-02T00:00:00Z"
    assert "aiohttp==3.0" in (home / "requirements.lock").read_text()
    assert list(home.glob("lib/python3*/site-packages/gateway/__pycache__/*.pyc"))
    for path in (root / "releases").rglob("*"):
        mode = path.lstat().st_mode
        if not stat.S_ISLNK(mode):
            assert not mode & 0o022, path
            assert mode & 0o044 == 0o044, path
            assert not stat.S_ISREG(mode) or path.stat().st_nlink == 1, path


def test_somebody_else_may_compile(root, wheels) -> None:
    make_hermes(wheels, "1.0.0")
    build.ensure(from_wheels(wheels), Index(), root=str(root), compiled=False)
    assert_complete(root, "1.0.0")
    # Nothing has imported it.
    assert not list((root / "current").glob("lib/python3*/site-packages/__pycache__/aiohttp.*.pyc"))


def test_again_is_no_work_at_all(root, wheels, monkeypatch) -> None:
    make_hermes(wheels, "1.0.0")
    build.ensure(from_wheels(wheels), Index(), root=str(root))
    before = state(root)
    monkeypatch.setattr(subprocess, "Popen", lambda *a, **k: pytest.fail("a program was started"))
    monkeypatch.setattr(build, "lock", lambda *a, **k: pytest.fail("the lock was taken"))
    outcome = build.ensure(from_wheels(wheels), Index(), root=str(root))
    assert not outcome.plan.changed
    assert outcome.stamp["version"] == "1.0.0"
    assert state(root) == before


def test_check_mode_on_an_empty_host_tells_and_touches_nothing(root, wheels) -> None:
    make_hermes(wheels, "1.0.0")
    nowhere = root.parent / "nothing" / "here"
    outcome = build.ensure(from_wheels(wheels), Index(), root=str(nowhere), check=True)
    assert outcome.plan.changed
    assert outcome.decision.version == "1.0.0"
    outcome = build.ensure(Request(version=">=0.18"), Index(), root=str(nowhere), check=True)
    assert (outcome.plan.changed, outcome.decision.release_id) == (True, None)
    assert not nowhere.parent.exists()


def test_old_releases_are_kept_by_number_the_last_used_first(root, wheels) -> None:
    for version in ("1.0.0", "1.1.0", "1.2.0", "1.3.0"):
        make_hermes(wheels, version)
    names = {}
    for step, version in enumerate(("1.0.0", "1.1.0", "1.0.0", "1.2.0", "1.3.0")):
        outcome = build.ensure(from_wheels(wheels, version), Index(), root=str(root), keep=2)
        names[version] = outcome.stamp["id"]
        # The times of directories decide, and two steps within one tick of the clock would be equal.
        os.utime(root / "releases" / outcome.stamp["id"], (step, step))
    assert outcome.decision.remove == (names["1.1.0"],)
    assert {path.name for path in (root / "releases").iterdir()} == {names[v] for v in ("1.0.0", "1.2.0", "1.3.0")}
    assert outcome.previous == names["1.2.0"]


def test_a_release_that_a_process_uses_stays(root, wheels) -> None:
    for version in ("1.0.0", "1.1.0", "1.2.0"):
        make_hermes(wheels, version)
    first = build.ensure(from_wheels(wheels, "1.0.0"), Index(), root=str(root), keep=1).stamp["id"]
    user = subprocess.Popen([root / "releases" / first / "bin" / "python", "-c", "input()"], stdin=subprocess.PIPE)
    try:
        for version in ("1.1.0", "1.2.0"):
            build.ensure(from_wheels(wheels, version), Index(), root=str(root), keep=1)
        assert (root / "releases" / first).is_dir()
    finally:
        user.communicate(b"\n")
    outcome = build.ensure(from_wheels(wheels, "1.2.0"), Index(), root=str(root), keep=1)
    assert outcome.decision.remove == (first,)


def test_built_but_not_switched_when_current_is_not_asked_for(root, wheels) -> None:
    make_hermes(wheels, "1.0.0")
    make_hermes(wheels, "1.1.0")
    build.ensure(from_wheels(wheels, "1.0.0"), Index(), root=str(root))
    outcome = build.ensure(from_wheels(wheels, "1.1.0"), Index(), root=str(root), current=False)
    assert (outcome.decision.build, outcome.decision.switch) == (True, False)
    assert_complete(root, "1.0.0")
    outcome = build.ensure(from_wheels(wheels, "1.1.0"), Index(), root=str(root))
    assert (outcome.decision.build, outcome.decision.switch) == (False, True)
    assert_complete(root, "1.1.0")


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ({"main": "sys.exit('cannot start')"}, "cannot start"),
        ({"main": "print('Hermes Agent')"}, "names no version"),
        ({"gateway": "import nothing_like_this"}, "nothing_like_this"),
        ({"python": ">=3.99"}, "requires Python >=3.99, this interpreter is Python 3."),
    ],
    ids=["does not start", "no version", "import fails", "interpreter"],
)
def test_what_cannot_work_never_becomes_current_and_leaves_nothing(root, wheels, fault, said) -> None:
    make_hermes(wheels, "1.0.0")
    build.ensure(from_wheels(wheels, "1.0.0"), Index(), root=str(root))
    make_hermes(wheels, "1.1.0", **fault)
    before = state(root)
    with pytest.raises(OpsError, match=r"1\.1\.0") as error:
        build.ensure(from_wheels(wheels, "1.1.0"), Index(), root=str(root))
    assert said in str(error.value)
    assert state(root) == before
    assert_complete(root, "1.0.0")


@pytest.mark.parametrize("requires", [">=3.99", "<3.9,>=3.7"])
def test_the_error_about_the_interpreter_names_both_whatever_lock(root, wheels, requires) -> None:
    # uv itself ignores the second one, because it ignores upper bounds.
    wheel = make_hermes(wheels, "1.0.0", python=requires)
    given_lock = f"hermes-agent==1.0.0 --hash=sha256:{hashlib.sha256(wheel.read_bytes()).hexdigest()}"
    for wanted in ("auto", "none", given_lock):
        with pytest.raises(OpsError, match=rf"requires Python {requires}, this interpreter is Python 3\.\d+\.\d+"):
            build.ensure(from_wheels(wheels, lock=wanted), Index(), root=str(root))


def test_an_interpreter_that_is_not_there_is_named(root, wheels) -> None:
    make_hermes(wheels, "1.0.0")
    with pytest.raises(OpsError, match=r"this host has no Python 3\.6"):
        build.ensure(from_wheels(wheels, python="3.6"), Index(), root=str(root))


@pytest.mark.skipif(os.geteuid() != 0, reason="SKIPPED, NOT PROVED: an interpreter only root can run needs root")
def test_an_interpreter_that_only_root_can_run_is_refused(root, wheels) -> None:
    make_hermes(wheels, "1.0.0")
    python = root.parent / "private" / "bin" / "python3"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", "--copies", python.parents[1]], check=True)
    python.parents[1].chmod(0o700)
    with pytest.raises(OpsError, match="only root can run this interpreter"):
        build.ensure(from_wheels(wheels, python=str(python)), Index(), root=str(root))


def test_nobody_else_can_hold_a_lock_that_uv_waits_for(root, wheels, monkeypatch) -> None:
    make_hermes(wheels, "1.0.0")
    # Without a shared cache, uv's is in the work directory.
    monkeypatch.delenv("UV_CACHE_DIR")
    really, seen = uv.Uv._run, set()

    def watched(self: uv.Uv, *arguments: Any, **options: Any) -> Any:
        done = really(self, *arguments, **options)
        for path in (root / "releases").rglob(".lock"):
            way = path.relative_to(root / "releases").parents[:-1]
            closed = [each for each in way if not (root / "releases" / each).stat().st_mode & stat.S_IXOTH]
            assert closed, f"everybody can open {path}"
            seen.add(path.parent.suffix or path.parent.name)
        return done

    monkeypatch.setattr(uv.Uv, "_run", watched)
    build.ensure(from_wheels(wheels), Index(), root=str(root))
    assert seen == {".partial", "cache", "metadata"}
    assert_complete(root, "1.0.0")


def test_the_lock_of_downloaded_interpreters_is_roots_even_if_an_agent_held_it(root, wheels, monkeypatch) -> None:
    make_hermes(wheels, "1.0.0")
    monkeypatch.setenv("UV_OFFLINE", "1")
    monkeypatch.setenv("UV_LOCK_TIMEOUT", "1")
    path = root / "tools" / "python" / ".lock"
    path.parent.mkdir()
    path.touch()
    path.chmod(0o666)
    with lock(str(path)):
        with pytest.raises(OpsError, match=r"Python 3\.6"):
            build.ensure(from_wheels(wheels, python="3.6", python_downloads=True), Index(), root=str(root))
        with lock(str(path), timeout=0.0):
            assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_an_unknown_extra_is_refused(root, wheels) -> None:
    make_hermes(wheels, "1.0.0")
    with pytest.raises(OpsError, match=r"no extra discord.*homeassistant"):
        build.ensure(from_wheels(wheels, extras=("discord",)), Index(), root=str(root))
    assert not list((root / "releases").iterdir())


def test_a_package_with_another_hash_than_the_locks_is_refused(root, wheels) -> None:
    wheel = make_hermes(wheels, "1.0.0")
    digests = {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in wheels.iterdir()}
    lines = [
        f"{p.name.split('-')[0].replace('_', '-')}=={p.name.split('-')[1]} --hash=sha256:{d}"
        for p, d in digests.items()
    ]
    good = "\n".join(lines)
    bad = good.replace(digests[wheel], "0" * 64)
    with pytest.raises(OpsError, match=r"hermes-agent 1\.0\.0: another file than the pinned one was offered"):
        build.ensure(from_wheels(wheels, lock=bad), Index(), root=str(root))
    with pytest.raises(OpsError, match=r"the lock has no hash \(aiohttp\)"):
        build.ensure(
            from_wheels(wheels, lock="\n".join(e for e in lines if "aiohttp" not in e)), Index(), root=str(root)
        )
    assert not list((root / "releases").iterdir())
    assert not (root / "current").exists()
    lockfile = root.parent / "lock.txt"
    lockfile.write_text(good)
    assert build.ensure(from_wheels(wheels, lock=str(lockfile)), Index(), root=str(root)).stamp["locked"]


# The stand-in's hermes_cli/main.py, which is what these change.
GOOD_PATCH = """\
--- a/hermes_cli/main.py
+++ b/hermes_cli/main.py
@@ -2,3 +2,4 @@

 def main():
+    print('as we want it')
     print('Hermes Agent v1.0.0 (2026.1.1)')
--- /dev/null
+++ b/hermes_cli/ours.py
@@ -0,0 +1 @@
+OURS = True
"""
STALE_PATCH = GOOD_PATCH.replace("v1.0.0", "v0.9.0")


def test_a_patch_is_applied_compiled_and_part_of_what_the_release_is(root, wheels) -> None:
    make_hermes(wheels, "1.0.0")
    plain = build.ensure(from_wheels(wheels), Index(), root=str(root)).stamp
    file = root.parent / "ours.patch"
    file.write_text(GOOD_PATCH)
    stamp = build.ensure(from_wheels(wheels, patches=(str(file),)), Index(), root=str(root)).stamp
    assert plain["id"] != stamp["id"]
    assert stamp["patches"] == [{"name": "ours.patch", "sha256": hashlib.sha256(GOOD_PATCH.encode()).hexdigest()}]
    assert_complete(root, "1.0.0")
    said = subprocess.run([root / "current/bin/hermes", "--version"], capture_output=True, text=True, check=True)
    assert said.stdout.startswith("as we want it\n")
    (packages,) = (root / "current").glob("lib/python3*/site-packages")
    (compiled,) = (packages / "hermes_cli/__pycache__").glob("main.*.pyc")
    assert b"as we want it" in compiled.read_bytes()
    assert (packages / "hermes_cli/ours.py").read_text() == "OURS = True\n"
    # The same patch as a text instead of a file is the same release.
    again = build.ensure(from_wheels(wheels, patches=(GOOD_PATCH,)), Index(), root=str(root))
    assert not again.plan.changed


@pytest.mark.parametrize(
    ("patch", "said"),
    [
        (STALE_PATCH, r"patch 2 does not apply \(patch failed: hermes_cli/main.py:2.*v0\.9\.0"),
        (GOOD_PATCH, "patch 2 is in it already"),
        (GOOD_PATCH.replace("hermes_cli/main", "hermes_cli/gone"), "hermes_cli/gone.py: No such file"),
        (GOOD_PATCH.replace("@@ -2,3 +2,4 @@", "@@ -2,3 +2,9 @@"), "patch 2 does not apply"),
        (GOOD_PATCH.replace("b/hermes_cli/ours.py", "b/../../../ours.py"), "patch 2 does not apply"),
        (GOOD_PATCH.replace("b/hermes_cli/ours.py", "b/linked/ours.py"), "beyond a symbolic link"),
    ],
    ids=["stale", "applied", "gone", "corrupt", "outside", "link"],
)
def test_a_patch_that_does_not_apply_exactly_fails_the_build_and_says_where(root, wheels, patch, said) -> None:
    make_hermes(wheels, "1.0.0")
    build.ensure(from_wheels(wheels), Index(), root=str(root))
    before = state(root)
    link = """\
diff --git a/linked b/linked
new file mode 120000
--- /dev/null
+++ b/linked
@@ -0,0 +1 @@
+..
\\ No newline at end of file
"""
    first = GOOD_PATCH if "already" in said else link
    with pytest.raises(OpsError) as error:
        build.ensure(from_wheels(wheels, patches=(first, patch)), Index(), root=str(root))
    assert re.search(said, str(error.value), re.DOTALL), str(error.value)
    assert "nothing was changed" in str(error.value)
    assert error.value.fix
    assert state(root) == before


def test_a_tree_is_patched_before_it_is_built(root) -> None:
    tree = root.parent / "tree"
    (tree / "hermes_cli").mkdir(parents=True)
    (tree / "gateway").mkdir()
    (tree / "gateway/__init__.py").write_text("")
    (tree / "hermes_cli/main.py").write_text("import sys\n\ndef main():\n    print('Hermes Agent v1.0.0 (2026.1.1)')\n")
    (tree / "pyproject.toml").write_text(
        "[project]\nname = 'hermes-agent'\nversion = '1.0.0'\nrequires-python = '>=3.99'\n"
        "[project.scripts]\nhermes = 'hermes_cli.main:main'\n"
    )
    bound = (
        "--- a/pyproject.toml\n+++ b/pyproject.toml\n@@ -2,5 +2,5 @@\n name = 'hermes-agent'\n version = '1.0.0'\n"
        "-requires-python = '>=3.99'\n+requires-python = '>=3.98'\n [project.scripts]\n"
        " hermes = 'hermes_cli.main:main'\n"
    )
    with pytest.raises(OpsError, match=r"requires Python >=3\.98"):
        build.ensure(Request(method="path", path=str(tree), patches=(GOOD_PATCH, bound)), Index(), root=str(root))
    assert "3.99" in (tree / "pyproject.toml").read_text()


@pytest.mark.parametrize(
    ("patch", "said"), [("just text", "entry 1 is neither"), ("/nowhere/x.patch", "no such patch on the host")]
)
def test_what_is_no_patch_is_refused_before_anything_is_begun(root, wheels, patch, said) -> None:
    make_hermes(wheels, "1.0.0")
    with pytest.raises(OpsError, match=said):
        build.ensure(from_wheels(wheels, patches=(patch,)), Index(), root=str(root))
    assert not (root / "releases").exists()


def test_a_release_whose_interpreter_went_away_is_built_anew_beside_it(root, wheels) -> None:
    make_hermes(wheels, "1.0.0")
    name = build.ensure(from_wheels(wheels), Index(), root=str(root)).stamp["id"]
    python = root / "releases" / name / "bin" / "python"
    python.unlink()
    python.symlink_to("/usr/bin/python3.0")
    before = (root / "releases" / name).stat().st_ino
    outcome = build.ensure(from_wheels(wheels), Index(), root=str(root))
    assert (outcome.decision.build, outcome.decision.switch, outcome.stamp["id"]) == (True, True, f"{name}-2")
    assert (root / "releases" / name).stat().st_ino == before
    assert_complete(root, "1.0.0")
    assert not build.ensure(from_wheels(wheels), Index(), root=str(root)).plan.changed


@pytest.mark.parametrize("spelt", ["1", "1.0", "v1.0.0", "1.0.0.0"])
def test_another_spelling_of_the_version_is_the_same_release(root, wheels, spelt) -> None:
    make_hermes(wheels, "1.0.0")
    there = build.ensure(from_wheels(wheels, "1.0.0"), Index(), root=str(root)).stamp
    outcome = build.ensure(from_wheels(wheels, spelt), Index(), root=str(root))
    assert not outcome.plan.changed
    assert (outcome.stamp["built"], [*state(root)]) == (there["built"], [*state(root)])


def test_a_wheel_whose_version_is_spelt_shorter_has_the_normal_form_in_name_and_stamp(root, wheels) -> None:
    make_hermes(wheels, "1.0")
    outcome = build.ensure(from_wheels(wheels), Index(), root=str(root))
    assert outcome.stamp["id"].startswith("1.0.0-")
    assert (outcome.stamp["version"], outcome.stamp["identity"]["version"]) == ("1.0.0", "1.0.0")
    assert not build.ensure(from_wheels(wheels, "1.0.0"), Index(), root=str(root)).plan.changed


def test_a_release_that_was_built_without_its_lock_is_built_anew_beside_it(root, wheels, monkeypatch) -> None:
    make_hermes(wheels, "1.0.0")
    name = build.ensure(from_wheels(wheels, "1.0.0"), Index(), root=str(root)).stamp["id"]
    # The next version of the collection ships a lock.
    digests = {path.name.split("-")[0]: hashlib.sha256(path.read_bytes()).hexdigest() for path in wheels.iterdir()}
    lines = (("aiohttp", "3.0"), ("hermes_agent", "1.0.0"))
    text = "".join(
        f"{package.replace('_', '-')}=={version} --hash=sha256:{digests[package]}\n" for package, version in lines
    )
    monkeypatch.setitem(pins.HERMES, "1.0.0", text)
    before = (root / "releases" / name / "release.json").read_bytes()
    foreseen = build.ensure(from_wheels(wheels, "1.0"), Index(), root=str(root), check=True)
    assert foreseen.decision.release_id == f"{name}-2"
    outcome = build.ensure(from_wheels(wheels, "1.0"), Index(), root=str(root))
    assert (outcome.stamp["locked"], outcome.decision.switch) == (True, True)
    assert os.readlink(root / "current") == f"releases/{name}-2"
    assert (root / "releases" / name / "release.json").read_bytes() == before
    assert_complete(root, "1.0.0")
    assert not build.ensure(from_wheels(wheels, "1.0.0"), Index(), root=str(root)).plan.changed


def test_what_is_not_ours_below_releases_stays(root, wheels) -> None:
    make_hermes(wheels, "1.0.0")
    (root / "releases" / "by-hand").mkdir(parents=True)
    build.ensure(from_wheels(wheels), Index(), root=str(root), keep=1)
    assert (root / "releases" / "by-hand").is_dir()


def test_too_little_space_is_said_before_anything_is_begun(root, wheels, monkeypatch) -> None:
    make_hermes(wheels, "1.0.0")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 9, 100 * 2**20))
    with pytest.raises(OpsError, match="has 100 MB free, a build wants 512 MB"):
        build.ensure(from_wheels(wheels), Index(), root=str(root))
    assert not list((root / "releases").iterdir())


def test_a_disk_that_fills_up_leaves_nothing_behind(root, wheels, monkeypatch) -> None:
    make_hermes(wheels, "1.0.0")
    make_wheel(wheels, "aiohttp", "3.1", {"aiohttp.py": "#" * 80_000_000})
    small = root.parent / "small"
    small.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", small], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("SKIPPED, NOT PROVED: a full disk, because no tmpfs can be mounted here")
    try:
        monkeypatch.setattr(build, "NEEDED_BYTES", 0)
        (small / "tools").mkdir()
        shutil.copy2(root / "tools" / "uv", small / "tools" / "uv")
        with pytest.raises(OpsError, match=r"disk is full|No space left"):
            build.ensure(from_wheels(wheels), Index(), root=str(small))
        assert not list((small / "releases").iterdir())
    finally:
        subprocess.run(["umount", small], check=True)


def test_a_removal_that_gets_stuck_leaves_no_half_release_under_its_name(root, monkeypatch) -> None:
    (root / "releases" / "a").mkdir(parents=True)
    monkeypatch.setattr(shutil, "rmtree", lambda path: (_ for _ in ()).throw(OSError(5, "Input/output error")))
    with pytest.raises(OpsError, match=r"a\.removed: cannot be removed"):
        store.retire(str(root / "releases"), "a")
    assert [path.name for path in (root / "releases").iterdir()] == ["a.removed"]


# Each is a place where the builder is killed: something that build.py uses, before it or after it.
PLACES = [
    ("building", "before"),
    ("Uv.ensure", "before"),
    ("Workshop.environment", "after"),
    ("Workshop.install", "after"),
    ("prove", "after"),
    ("_complete", "before"),
    ("write_json", "after"),
    ("retire", "before"),
    ("_complete", "after"),
    ("switch", "before"),
    ("os.symlink", "after"),
    ("switch", "after"),
    ("shutil.rmtree", "before"),
]

KILLED = """
    import os, shutil, signal, sys
    from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.release import build, uv
    from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.release.request import Request
    from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.release.uv import Index
    root, wheels, place, when = sys.argv[1:]
    *path, name = place.split(".")
    owner = uv if path == ["Uv"] else build
    for part in path:
        owner = getattr(owner, part)
    real = getattr(owner, name)
    def killed(*arguments, **options):
        if when == "after":
            real(*arguments, **options)
        os.kill(os.getpid(), signal.SIGKILL)
    setattr(owner, name, killed)
    build.ensure(Request(method="path", path=wheels, version="1.2.0"), Index(), root=root, keep=1)
"""


def start(script: str, *arguments: object) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script), *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture(scope="module")
def two_releases(ground: Path, pinned_uv: Path) -> tuple[Path, Path]:
    """A root in which 1.1.0 replaced 1.0.0, and wheels for another release: built once, tests change copies of it."""
    top = Path(tempfile.mkdtemp(dir=ground))
    top.chmod(0o755)
    root, wheels = top / "opt", make_wheels(top / "wheels")
    (root / "tools").mkdir(parents=True)
    shutil.copy2(pinned_uv, root / "tools" / "uv")
    for version in ("1.0.0", "1.1.0", "1.2.0"):
        make_hermes(wheels, version)
    for version in ("1.0.0", "1.1.0"):
        build.ensure(from_wheels(wheels, version), Index(), root=str(root), keep=1)
    return root, wheels


@pytest.mark.parametrize(("place", "when"), PLACES, ids=[f"{when} {place}" for place, when in PLACES])
def test_killed_anywhere_current_works_and_the_next_run_finishes(root, two_releases, place, when) -> None:
    before, wheels = two_releases
    shutil.copytree(before, root, symlinks=True, dirs_exist_ok=True)
    victim = start(KILLED, root, wheels, place, when)
    _, said = victim.communicate(timeout=120)
    assert victim.returncode == -signal.SIGKILL, said
    said = subprocess.run([root / "current/bin/hermes", "--version"], capture_output=True, text=True, check=True).stdout
    assert "v1.1.0" in said or "v1.2.0" in said
    build.ensure(from_wheels(wheels, "1.2.0"), Index(), root=str(root), keep=1)
    assert_complete(root, "1.2.0")
    assert len(list((root / "releases").iterdir())) == 2
    assert not build.ensure(from_wheels(wheels, "1.2.0"), Index(), root=str(root), keep=1).plan.changed


SLOW = """
    import sys
    from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.release import build, workshop
    from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system import process
    from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.release.request import Request
    from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.release.uv import Index
    root, wheels, pipe = sys.argv[1:]
    real = workshop.Workshop.install
    def slow(shop, *arguments):
        # A child as uv is one: it works on in the partial directory when we are gone, until it is told to end.
        write = (
            "import os, sys; open(sys.argv[2], 'w').close(); open(sys.argv[1]).read(); os.mkdir(sys.argv[3] + '/late')"
        )
        shop.uv._run([sys.executable, "-c", write, pipe, pipe + ".started", shop.partial])
    workshop.Workshop.install = slow
    build.ensure(Request(method="path", path=wheels), Index(), root=root)
"""


def test_a_child_that_outlives_a_killed_builder_keeps_the_next_one_out(root, wheels) -> None:
    make_hermes(wheels, "1.0.0")
    pipe = root.parent / "pipe"
    os.mkfifo(pipe)
    victim = start(SLOW, root, wheels, pipe)
    wait_for(lambda: Path(f"{pipe}.started").exists(), victim)
    victim.kill()
    victim.communicate()
    with pytest.raises(OpsError, match="is held by another process"):
        build.ensure(from_wheels(wheels), Index(), root=str(root), timeout=0.2)
    pipe.write_text("go on")
    build.ensure(from_wheels(wheels), Index(), root=str(root))
    assert_complete(root, "1.0.0")
    assert not (root / "current" / "late").exists()


def wait_for(condition: Callable[[], bool], process: subprocess.Popen) -> None:
    while not condition():
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)


ENSURE = """
    import sys
    from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.release import build
    from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.release.request import Request
    from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.release.uv import Index
    print(build.ensure(Request(method="path", path=sys.argv[2]), Index(), root=sys.argv[1]).decision.build)
"""


def test_of_two_builders_at_once_one_builds_and_both_are_content(root, wheels) -> None:
    make_hermes(wheels, "1.0.0")
    both = [start(ENSURE, root, wheels) for _ in range(2)]
    answers = [process.communicate(timeout=120) for process in both]
    assert [process.returncode for process in both] == [0, 0], answers
    # After a slow start the first one may be done before the second one looks, which then has nothing to build.
    assert sorted(out.strip() for out, _ in answers) == ["False", "True"]
    assert_complete(root, "1.0.0")


@pytest.fixture
def dead_index() -> Iterator[str]:
    """An index at a port that is bound, so that no other process gets it, but on which nothing listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}/simple"


@pytest.mark.parametrize("request_", [Request(version="0.19.0"), Request(version=">=0.18")], ids=["exact", "range"])
def test_without_network_the_error_names_the_index_and_nothing_is_changed(
    root, dead_index, request_, monkeypatch
) -> None:
    monkeypatch.setenv("UV_CACHE_DIR", str(root.parent / "cold"))
    before = state(root)
    index = Index(url=dead_index, username="me", password="hunter2")
    with pytest.raises(OpsError) as error:
        build.ensure(request_, index, root=str(root))
    assert f"the index {dead_index.split('/')[2]} cannot be reached" in str(error.value)
    assert "nothing was changed" in str(error.value)
    assert "hunter2" not in str(error.value)
    assert state(root) == before


def test_without_network_not_even_uv_comes_and_the_error_says_so(root, dead_index) -> None:
    (root / "tools" / "uv").unlink()
    with pytest.raises(OpsError, match=rf"uv {pins.UV_VERSION}: the index 127\.0\.0\.1:\d+ cannot be reached"):
        build.ensure(Request(version="0.19.0"), Index(url=dead_index), root=str(root))


@pytest.fixture
def private_index(wheels: Path) -> Iterator[str]:
    """A PEP 503 index of the wheels made here, protected by a password."""
    login = "Basic " + base64.b64encode(b"me:p@ss/hunter2").decode()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            name = self.path.strip("/").split("/")[-1]
            files = [path for path in wheels.iterdir() if path.name.startswith(name.replace("-", "_") + "-")]
            if self.headers.get("Authorization") != login:
                status, body = 401, b""
            elif (wheels / name).is_file():
                status, body = 200, (wheels / name).read_bytes()
            else:
                status, body = (
                    200 if files else 404,
                    "".join(f'<a href="/{f.name}">{f.name}</a>' for f in files).encode(),
                )
            self.send_response(status)
            if status == 401:
                self.send_header("WWW-Authenticate", "Basic")
            self.send_header("Content-Type", "text/html")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        do_HEAD = do_GET

        def log_message(self, *arguments: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/simple"
        server.shutdown()
        thread.join()


def test_a_private_index_is_asked_and_its_password_seen_nowhere(root, wheels, private_index, monkeypatch) -> None:
    make_hermes(wheels, "1.0.0")
    make_hermes(wheels, "1.1.0")
    commands: list[str] = []
    real = subprocess.Popen
    monkeypatch.setattr(
        subprocess, "Popen", lambda argv, **options: commands.append(" ".join(map(str, argv))) or real(argv, **options)
    )
    request = Request(version=">=1.0,<1.1")
    with pytest.raises(OpsError, match=r"the index 127\.0\.0\.1:\d+ refuses access") as error:
        build.ensure(request, Index(url=private_index, username="me", password="wrong-hunter2"), root=str(root))
    assert "hunter2" not in str(error.value)
    build.ensure(request, Index(url=private_index, username="me", password="p@ss/hunter2"), root=str(root))
    assert_complete(root, "1.0.0")
    assert len(commands) > 4
    assert not [command for command in commands if "hunter2" in command]
    release_ = (root / "current").resolve()
    found = subprocess.run(["grep", "-rl", "hunter2", release_], capture_output=True, text=True, check=False).stdout
    assert not found


@pytest.fixture(scope="session")
def index_answers(pinned_uv: Path, ground: Path) -> None:
    """Skips tests that need Hermes itself, with the reason."""
    asked = subprocess.run(
        [pinned_uv, "pip", "compile", "--quiet", "--no-deps", "--system-certs", "--python-version", "3.11", "-"],
        input="hermes-agent==0.19.0",
        text=True,
        capture_output=True,
        cwd=ground,
        check=False,
    )
    if asked.returncode:
        pytest.skip(f"SKIPPED, NOT PROVED: Hermes itself, because the index does not have it: {asked.stderr.strip()}")


@pytest.mark.usefixtures("index_answers", "uncompiled")
@pytest.mark.parametrize(("asked", "version"), [("0.18.2", "0.18.2"), (">=0.18,<0.20", "0.19.0")])
def test_hermes_from_the_index_with_the_shipped_lock(root, asked, version) -> None:
    outcome = build.ensure(Request(version=asked), Index(), root=str(root))
    assert outcome.stamp["lock"]["kind"] == "shipped"
    assert outcome.stamp["locked"]
    assert sorted(outcome.stamp["python"]["requires"].split(",")) == sorted(pins.REQUIRES_PYTHON.split(","))
    (metadata,) = (root / "current").resolve().glob(f"lib/*/site-packages/hermes_agent-{version}.dist-info/METADATA")
    assert {*pins.EXTRAS[version].split(), "dev"} == set(
        re.findall(r"^Provides-Extra: (\S+)", metadata.read_text(), re.M)
    )
    assert_complete(root, version)
    assert not build.ensure(Request(version=f"=={version}"), Index(), root=str(root)).plan.changed


@pytest.mark.usefixtures("index_answers")
def test_a_patch_of_the_real_hermes_goes_along_until_it_no_longer_applies(
    root, published, package_index, leave_uncompiled
) -> None:
    place = "hermes_cli/__init__.py"
    with zipfile.ZipFile(published.fetch(package_index.name_of("0.18.2"))) as wheel:
        before = wheel.read(place).decode()
    after = before.replace('__version__ = "0.18.2"', '__version__ = "0.18.2"\nOURS = True')
    lines = difflib.unified_diff(before.splitlines(True), after.splitlines(True), f"a/{place}", f"b/{place}")
    patch = "".join(lines)
    outcome = build.ensure(Request(version="0.18.2", patches=(patch,)), Index(), root=str(root))
    ask = [root / "current/bin/python", "-c", "import hermes_cli; print(hermes_cli.OURS)"]
    assert subprocess.run(ask, capture_output=True, text=True, check=True).stdout == "True\n"
    (packages,) = (root / "current").glob("lib/python3*/site-packages")
    assert_compiled(packages)
    leave_uncompiled()
    with pytest.raises(OpsError, match=rf"0\.19\.0: patch 1 does not apply \(patch failed: {place}"):
        build.ensure(Request(version="0.19.0", patches=(patch,)), Index(), root=str(root))
    assert os.readlink(root / "current") == f"releases/{outcome.stamp['id']}"
    assert_complete(root, "0.18.2")


@pytest.mark.usefixtures("index_answers")
def test_hermes_with_a_tampered_lock_is_refused(root, monkeypatch) -> None:
    digest = pins.HERMES["0.19.0"].split("\nrich==")[1].split("sha256:")[1][:64]
    monkeypatch.setitem(pins.HERMES, "0.19.0", pins.HERMES["0.19.0"].replace(digest, "0" * 64))
    with pytest.raises(OpsError, match=r"another file than the pinned one was offered \(rich"):
        build.ensure(Request(version="0.19.0"), Index(), root=str(root))
    assert not list((root / "releases").iterdir())


@pytest.fixture(scope="session")
def repository(pinned_uv: Path, index_answers: None, package_index: Any, published: Any) -> tuple[Path, dict[str, str]]:
    """A repository made of two published source trees, tagged as upstream tags; the newer one with a uv.lock.

    Kept between runs, and made by one worker for all.
    """
    kept = CHECKOUT / ".cache" / "repository"
    path, made = kept / "tree", kept / "made.json"
    maker = hashlib.sha256(Path(package_index.__file__).read_bytes() + Path(__file__).read_bytes()).hexdigest()
    # The lock contains the address of the index.
    made_of = [maker, pins.UV_VERSION, published.url]

    def prepare(tag: str) -> None:
        # Packed here, as on a real server; otherwise packing it for each fetch would take most of a build from git.
        for setting in ("core.compression", "pack.window"):
            subprocess.run(["git", "-C", path, "config", setting, "0"], check=True)
        if tag == "v2026.7.20":
            subprocess.run(
                [pinned_uv, "lock", "--quiet", "--system-certs", "--no-python-downloads"],
                cwd=path, check=True, env={**os.environ, "UV_CACHE_DIR": str(CACHE), "PATH": uv.SEARCH_PATH},
            )  # fmt: skip

    with lock(f"{kept}.lock", timeout=600):
        known = json.loads(made.read_text()) if made.exists() else {}
        if known.get("of") != made_of:
            shutil.rmtree(kept, ignore_errors=True)
            known = {"of": made_of, "commits": package_index.make_repository(path, published, prepare)}
            made.write_text(json.dumps(known))
    return path, known["commits"]


def test_hermes_from_git_with_the_trees_own_lock_frozen(root, repository) -> None:
    path, commits = repository
    wanted = {"method": "git", "url": path.as_uri(), "ref": "v2026.7.20"}
    with pytest.raises(OpsError) as error:
        build.ensure(Request(**wanted, commit=commits["v2026.7.7"]), Index(), root=str(root))
    assert commits["v2026.7.20"] in str(error.value)
    assert commits["v2026.7.7"] in str(error.value)
    assert not list((root / "releases").iterdir())
    outcome = build.ensure(Request(**wanted, commit=commits["v2026.7.20"]), Index(), root=str(root))
    assert outcome.stamp["lock"]["kind"] == "tree"
    assert (outcome.stamp["version"], outcome.stamp["commit"]) == ("0.19.0", commits["v2026.7.20"])
    assert_complete(root, "0.19.0")
    source = root / "current" / "src"
    assert not (source / ".git").exists()
    assert json.loads((source / "install-stamp.json").read_text())["updateMechanism"] == "external"
    # Hermes is imported from the tree, beside its skills, and not from the path of the unfinished build.
    where = subprocess.run(
        [root / "current/bin/python", "-c", "import hermes_cli; print(hermes_cli.__file__)"],
        capture_output=True, text=True, check=True, cwd="/",
    ).stdout.strip()  # fmt: skip
    assert Path(where).resolve() == (source / "hermes_cli/__init__.py").resolve()
    assert (source / "skills").is_dir()
    assert_compiled(source)
    assert list(root.glob("current/lib/python3*/site-packages/aiohttp/__pycache__/web.*.pyc"))


@pytest.mark.usefixtures("uncompiled")
def test_hermes_from_a_channel_stays_what_it_is_and_the_newest_is_told(root, repository) -> None:
    path, commits = repository
    wanted = Request(method="git", url=path.as_uri(), channel="v2026.7.7*")
    outcome = build.ensure(wanted, Index(), root=str(root))
    assert (outcome.stamp["version"], outcome.stamp["commit"]) == ("0.18.2", commits["v2026.7.7"])
    assert outcome.stamp["identity"]["ref"] == "v2026.7.7"
    wider = dataclasses.replace(wanted, channel="v2026.*")
    again = build.ensure(wider, Index(), root=str(root))
    assert not again.plan.changed
    assert again.decision.release_id == outcome.stamp["id"]
    newest = build.newest(wider, Index(), root=str(root))
    assert (newest.ref, newest.commit) == ("v2026.7.20", commits["v2026.7.20"])
    # Check mode names the release that an update would build.
    told = build.ensure(newest, Index(), root=str(root), check=True)
    assert told.plan.changed
    assert told.decision.release_id.startswith("v2026.7.20-")


def test_hermes_from_a_tree_whose_lock_is_wrong_is_refused(root, repository) -> None:
    path, _ = repository
    tree = root.parent / "tree"
    shutil.copytree(path, tree, ignore=shutil.ignore_patterns(".git"))
    text = (tree / "uv.lock").read_text()
    block = text.split('name = "rich"\nversion')[1].split("[[package]]")[0]
    digest = [part[:64] for part in block.split("sha256:")[1:]]
    for one in digest:
        text = text.replace(one, "0" * 64)
    (tree / "uv.lock").write_text(text)
    with pytest.raises(OpsError, match=r"another file than the pinned one was offered \(rich"):
        build.ensure(Request(method="path", path=str(tree)), Index(), root=str(root))
    assert not list((root / "releases").iterdir())


@pytest.mark.usefixtures("index_answers")
def test_a_tree_without_lock_says_so_and_its_version_is_what_hermes_says(root) -> None:
    tree = root.parent / "tree"
    for name, text in {
        "pyproject.toml": """
            [build-system]
            requires = ["setuptools>=77"]
            build-backend = "setuptools.build_meta"
            [project]
            name = "hermes-agent"
            version = "0.0.0"
            requires-python = ">=3.9"
            optional-dependencies = { homeassistant = ["idna"] }
            scripts = { hermes = "hermes_cli:main" }
            [tool.setuptools]
            packages = ["hermes_cli", "gateway"]
            """,
        "hermes_cli/__init__.py": "def main():\n    print('Hermes Agent v0.22.5')\n",
        "gateway/__init__.py": "",
        "skills/one/SKILL.md": "one",
    }.items():
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text(textwrap.dedent(text))
    tree.chmod(0o700)
    request = Request(method="path", path=str(tree), extras=())
    outcome = build.ensure(request, Index(), root=str(root))
    assert (outcome.stamp["version"], outcome.stamp["locked"]) == ("0.22.5", False)
    assert outcome.stamp["id"].startswith("tree-")
    assert_complete(root, "0.22.5")
    assert (root / "current/src/skills/one/SKILL.md").is_file()
    assert list((root / "current/src/gateway/__pycache__").glob("*.pyc"))
    assert not build.ensure(request, Index(), root=str(root)).plan.changed
    (tree / "hermes_cli/__init__.py").write_text("def main():\n    print('Hermes Agent v0.22.6')\n")
    assert build.ensure(request, Index(), root=str(root)).stamp["version"] == "0.22.6"
    assert_complete(root, "0.22.6")
