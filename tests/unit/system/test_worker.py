# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A worker has nothing of root's, ends in time, and its answer cannot do harm."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system import view, worker
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.errors import OpsError
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.files import Account
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.process import run
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.worker import Limits, WorkerDied

KIT = Path(worker.__file__).resolve().parents[1]
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="SKIPPED, NOT PROVED: only root starts workers as others")


@pytest.fixture
def nobody() -> Account:
    return Account.named("nobody")


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., object]]:
    """A function that lets a worker run a given function body, in a copy of the kit."""
    # Only root can read it, like the directory from which a module may run.
    directory = Path(tempfile.mkdtemp(prefix="hermes-kit-"))
    shutil.copytree(KIT, directory / "hermes_ops", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(worker, "_import_directory", lambda: str(directory))

    def run(body: str, *arguments: object, account: Account | None = None, **options: object) -> object:
        text = "import os, subprocess, sys, threading, time\nfrom .errors import OpsError\ndef act(*arguments):\n"
        acts(text + textwrap.indent(textwrap.dedent(body), "    "))
        return worker.work(account or Account.current(), "system.acts:act", *arguments, **options)

    yield run
    worker.end_server()
    shutil.rmtree(directory)


def acts(text: str) -> None:
    """Make *text* the module ``system.acts`` of the kit's copy that the fixture ``call`` has made."""
    Path(worker._import_directory(), "hermes_ops/system/acts.py").write_text(text)
    # The one that is there has imported the last text.
    worker.end_server()


def test_it_returns_what_the_function_returned(call):
    assert call("return {'given': arguments}", 1, ["ä", None]) == {"given": [1, ["ä", None]]}


def test_what_is_prepared_is_imported_before_there_is_a_worker(call, tmp_path):
    imported = tmp_path / "imported"
    acts(f"open({str(imported)!r}, 'x').close()\ndef act():\n    return 1\n")
    worker.prepare("system.acts:act")
    deadline = time.monotonic() + 30
    while not imported.exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert worker.work(Account.current(), "system.acts:act") == 1


def test_what_cannot_be_prepared_is_an_error_of_its_workers_only(call):
    worker.prepare("system.missing:act")
    assert call("return 1") == 1
    worker.prepare("system.missing:act")
    assert worker.work(Account.current(), "system.acts:act") == 1


def test_an_error_of_the_function_is_an_error_here(call):
    with pytest.raises(OpsError) as caught:
        call("raise OpsError('is odd', where='/a', fix='make it even')")
    assert (caught.value.what, caught.value.where, caught.value.fix) == ("is odd", "/a", "make it even")
    assert not isinstance(caught.value, WorkerDied)


def test_an_error_is_printable_and_bounded(call):
    with pytest.raises(OpsError) as caught:
        call(r"raise OpsError('\x1b[2J\nagent other: ' + 'x' * 10**6)")
    assert caught.value.what.startswith("\\x1b[2J\\nagent other: x")
    assert len(caught.value.what) < 3000


@needs_root
def test_it_is_the_agent_s_user_and_no_longer_root(call, nobody):
    ids = call("return [os.getresuid(), os.getresgid(), os.getgroups()]", account=nobody)
    assert ids == [[nobody.uid] * 3, [nobody.gid] * 3, [nobody.gid]]


@needs_root
def test_it_cannot_become_root_again(call, nobody):
    with pytest.raises(WorkerDied, match="PermissionError"):
        call("os.setuid(0)", account=nobody)


@needs_root
def test_it_has_nothing_of_the_caller(call, nobody, monkeypatch, tmp_path):
    monkeypatch.setenv("RESTIC_PASSWORD", "the-password")
    with open(tmp_path / "open", "w") as stream:
        os.set_inheritable(stream.fileno(), True)
        seen = call(
            """
            held = [os.readlink(f"/proc/self/fd/{number}") for number in os.listdir("/proc/self/fd")
                    if os.path.lexists(f"/proc/self/fd/{number}")]
            return {"environment": dict(os.environ), "files": held, "session": os.getsid(0) == os.getpid()}
            """,
            account=nobody,
        )
    assert "RESTIC_PASSWORD" not in seen["environment"]
    assert seen["environment"]["HOME"] == nobody.home
    assert str(tmp_path / "open") not in seen["files"]
    assert not [path for path in seen["files"] if "/tty" in path or "/pts" in path]
    assert seen["session"]


@needs_root
def test_the_agent_cannot_read_its_environment_or_memory_nor_reach_through_it(call, nobody):
    """Both have the same user, but the worker has secrets in memory, and its root is outside of any sandbox."""
    acts("import os, time\ndef act(writing):\n    os.write(writing, b'x')\n    time.sleep(100)\n")
    reading, writing = os.pipe()
    it = worker.Worker(nobody, "system.acts:act", (writing,), descriptors=[writing])
    try:
        # From now on it is no longer root.
        assert os.read(reading, 1) == b"x"
        look = f"""
import os
for what in (lambda: open("/proc/{it._status.pid}/environ", "rb").read(1),
             lambda: open("/proc/{it._status.pid}/mem", "rb").read(1),
             lambda: os.listdir("/proc/{it._status.pid}/fd"),
             lambda: os.listdir("/proc/{it._status.pid}/root/")):
    try:
        print(what())
    except PermissionError:
        print("refused")
"""
        done = run(["/usr/bin/python3", "-I", "-c", look], timeout=20, user=nobody, cwd="/")
        assert done.stdout.split() == ["refused"] * 4
    finally:
        it.end()
        os.close(reading)
        os.close(writing)


@needs_root
@pytest.mark.parametrize(
    "start",
    [
        "os.fork()",
        "os.posix_spawn('/bin/true', ['true'], {})",
        "import subprocess; subprocess.run(['/bin/true'])",
        "import threading; threading.Thread(target=print).start()",
    ],
)
def test_it_starts_no_program(call, nobody, start):
    """Another program could be traced by the agent, whose user it would have, and is not in the agent's sandbox."""
    with pytest.raises(WorkerDied, match=r"BlockingIOError|can't start new thread"):
        call(start, account=nobody)


@needs_root
@pytest.mark.parametrize("place", ["/home", "/root", "/run/user", "/tmp", "/var/tmp"])
def test_it_sees_what_it_works_on_and_nothing_else_of_other_people(call, nobody, place):
    """A link of the agent's would have it read there what others let everybody read."""
    os.makedirs(place, exist_ok=True)
    # All may pass, as on many a host: nothing but the worker's own view is in the way.
    mode = os.stat(place).st_mode
    directory = Path(tempfile.mkdtemp(prefix="hermes-view-", dir=place))
    try:
        os.chmod(place, mode | 0o055)
        own, other = directory / "own", directory / "other"
        for path in (directory, own, other):
            path.mkdir(exist_ok=True)
            path.chmod(0o755)
            (path / "file").write_text(path.name)
        os.chown(own, nobody.uid, nobody.gid)
        (own / "link").symlink_to(other / "file")
        (own / "up").symlink_to("../other/file")
        look = """
            def read(name):
                try:
                    return open(os.path.join(arguments[0]["home"], name)).read()
                except FileNotFoundError:
                    return None
            open(os.path.join(arguments[0]["home"], "written"), "w").close()
            return [read(name) for name in ("file", "link", "up")]
            """
        assert call(look, {"home": str(own)}, account=nobody) == ["own", None, None]
        assert (own / "written").stat().st_uid == nobody.uid
        # Ours is as it was: what a worker mounts, nobody else sees.
        assert (other / "file").read_text() == "other"
    finally:
        os.chmod(place, mode)
        shutil.rmtree(directory)


@needs_root
def test_it_does_not_see_what_a_record_or_a_declaration_names(call, nobody):
    """A record holds what an agent wrote (the version in its config.yaml), which may be a directory of others."""
    directory = Path(tempfile.mkdtemp(prefix="hermes-view-", dir="/root"))
    try:
        directory.chmod(0o755)
        told = [{"keys": {"model": str(directory)}}, {"config_version": str(directory)}]
        body = f"return os.path.exists('/root/' + '{directory.name}')"
        assert call(body, "/nowhere", {"config": told}, {"config": {"config": told[1]}}, account=nobody) is False
        # The marks of an update: file -> version.
        assert call(body, "/nowhere", {"config.yaml": str(directory)}, account=nobody) is False
    finally:
        shutil.rmtree(directory)


@needs_root
@pytest.mark.parametrize("theirs", [True, False])
def test_it_sees_its_users_own_home(call, nobody, theirs):
    """An adopted agent keeps its skills elsewhere in its user's home, say; its gateway sees that home, too."""
    home = Path(tempfile.mkdtemp(prefix="hermes-view-", dir="/home"))
    try:
        (home / "file").write_text("own")
        home.chmod(0o755)
        (home / "file").chmod(0o644)
        if theirs:
            os.chown(home, nobody.uid, nobody.gid)
        # In two, so that it is not something to work on.
        body = f"return os.path.exists('/home/' + '{home.name}/file')"
        assert call(body, account=replace(nobody, home=str(home))) is theirs
    finally:
        shutil.rmtree(home)


@needs_root
@pytest.mark.parametrize("link", ["its home", "what is above"])
def test_it_sees_a_home_that_the_operator_moved_elsewhere(call, nobody, link):
    """With a link of root's in its old place."""
    place = Path(tempfile.mkdtemp(prefix="hermes-view-", dir="/home"))
    elsewhere = Path(tempfile.mkdtemp(prefix="hermes-view-", dir="/var/lib"))
    try:
        for path in (place, elsewhere, elsewhere / "bob", elsewhere / "bob/.hermes"):
            path.mkdir(exist_ok=True)
            path.chmod(0o755)
        (elsewhere / "bob/.hermes/file").write_text("own")
        (elsewhere / "bob/.profile").write_text("own")
        subprocess.run(["chown", "-R", str(nobody.uid), str(elsewhere / "bob")], check=True)
        if link == "its home":
            (place / "bob").symlink_to(elsewhere / "bob")
        else:
            place.rmdir()
            place.symlink_to(elsewhere)
        look = "return [os.path.isfile(path) for path in (arguments[0] + '/file', arguments[0] + '/../.profile')]"
        seen = call(look, f"{place}/bob/.hermes", account=replace(nobody, home=f"{place}/bob"))
        assert seen == [True, True]
    finally:
        place.unlink() if place.is_symlink() else shutil.rmtree(place)
        shutil.rmtree(elsewhere)


def test_a_directory_below_home_has_two_names_where_home_is_a_link(monkeypatch, tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "home").symlink_to("real")
    monkeypatch.setattr(view, "HIDDEN", (f"{tmp_path}/home",))
    told = [f"{tmp_path}/home/bob", {"home": f"{tmp_path}/real/eve/x"}, f"{tmp_path}/other", "home/bob"]
    assert list(view._told(told, [f"{tmp_path}/real"])) == [f"{tmp_path}/real/bob", f"{tmp_path}/real/eve/x"]


@needs_root
def test_it_sorts_what_is_larger_than_its_memory_for_that(call, nobody):
    """SQLite would make a temporary file, and finds no directory for it."""
    directory = Path(tempfile.mkdtemp(prefix="hermes-view-", dir="/var/lib"))
    try:
        directory.chmod(0o755)
        with contextlib.closing(sqlite3.connect(directory / "state.db")) as database:
            database.execute("CREATE TABLE sessions (id, source)")
            database.execute(
                "CREATE TABLE messages (id INTEGER, session_id, role, content, timestamp, active, compacted)"
            )
            database.execute("INSERT INTO sessions VALUES ('s', 'cli')")
            rows = ((n, "s", "user", "word " + "x" * 2**20, float(9 - n), 1, 0) for n in range(10))
            database.executemany("INSERT INTO messages VALUES (?, ?, ?, ?, ?, ?, ?)", rows)
            database.commit()
        answer = worker.work(nobody, "agent.memory:search", str(directory), ["word"], 8)
        assert answer["problem"] is None
        assert [place["when"] for place in answer["found"]] == [9.0, 8.0, 7.0, 6.0, 5.0, 4.0, 3.0, 2.0]
    finally:
        shutil.rmtree(directory)


@needs_root
def test_a_link_in_the_place_of_its_home_leads_nowhere(call, nobody):
    directory = Path(tempfile.mkdtemp(prefix="hermes-view-"))
    try:
        for path in (directory, directory / "other", directory / "agents"):
            path.mkdir(exist_ok=True)
            path.chmod(0o755)
        (directory / "other/file").write_text("other")
        os.chown(directory / "agents", nobody.uid, nobody.gid)
        (directory / "agents/home").symlink_to(directory / "other")
        look = "return [os.path.lexists(path) for path in (arguments[0], arguments[0] + '/file')]"
        assert call(look, f"{directory}/agents/home", account=nobody) == [True, False]
    finally:
        shutil.rmtree(directory)


@needs_root
@pytest.mark.parametrize("place", ["/tmp", "/var/lib"])
@pytest.mark.parametrize("link", ["its home", "what is below"])
def test_of_a_container_it_follows_no_link(call, place, link):
    """In the container it leads to the container's files, here to the host's."""
    directory, volume = (Path(tempfile.mkdtemp(prefix=f"hermes-{name}-", dir=place)) for name in ("host", "view"))
    try:
        (directory / "file").write_text("of the host")
        for path in (directory, volume):
            path.chmod(0o755)
        (volume / "own").mkdir()
        (volume / "own/file").write_text("own")
        if link == "its home":
            (volume / "home").symlink_to(directory)
        else:
            (volume / "home").mkdir()
            (volume / "home/below").symlink_to(directory)
        subprocess.run(["chown", "-hR", "700123:700123", volume], check=True)
        body = """
        def read(path):
            try:
                return open(path).read()
            except OSError as error:
                return error.strerror
        below = arguments[0] + ("" if os.path.islink(arguments[0]) else "/below")
        return [read(below + "/file"), os.readlink(below) if os.path.lexists(below) else None, read(arguments[1])]
        """
        account = Account.of("700123")
        of_host, target, own = call(body, f"{volume}/home", f"{volume}/own/file", account=account)
        assert of_host in ("Too many levels of symbolic links", "No such file or directory")
        assert (target, own) == (str(directory), "own")
        # A host's own agent may keep links, to what it sees in its sandbox.
        assert (
            place == "/tmp"
            or call(body, f"{volume}/home", "", account=replace(account, name="ada"))[0] == "of the host"
        )
    finally:
        shutil.rmtree(directory)
        shutil.rmtree(volume)


def test_a_descriptor_that_is_handed_over_stays(call, tmp_path):
    with open(tmp_path / "file", "wb") as stream:
        call("os.write(arguments[0], b'from below')", stream.fileno(), descriptors=[stream.fileno()])
    assert (tmp_path / "file").read_bytes() == b"from below"


def test_one_that_does_not_end_is_killed_with_its_children(call):
    # Like no other on this machine.
    seconds = f"1000.{os.getpid()}"
    with pytest.raises(WorkerDied, match=r"did not finish within 0\.5 s"):
        call(f"import subprocess; subprocess.run(['sleep', '{seconds}'])", limits=Limits(seconds=0.5))
    left = subprocess.run(["pgrep", "--full", f"^sleep {seconds}$"], capture_output=True, text=True, check=False)
    assert left.stdout == ""


def test_one_that_hangs_in_c_ends_although_its_caller_was_killed(call, tmp_path):
    """Code that never returns to Python does not notice Python's own time-outs."""
    program = f"""
        import os, sys
        sys.path.insert(0, {worker._import_directory()!r})
        from hermes_ops.system import view, worker
        from hermes_ops.system.files import Account
        it = worker.Worker(Account.current(), "system.acts:act", (), worker.Limits(seconds=0.5))
        print(it._status.pid, flush=True)
        os.kill(os.getpid(), 9)
        """
    acts("import re\ndef act():\n    re.match('(a+)+$', 'a' * 64 + 'b')\n")
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, check=False)
    pid = int(done.stdout)
    # Nobody waits for it but init, or whoever reaps here.
    descriptor = _pidfd(pid)
    if descriptor is not None:
        import select

        assert select.select([descriptor], [], [], 60)[0]
        os.close(descriptor)


@needs_root
def test_one_that_its_agent_stopped_is_not_waited_for(call, nobody, monkeypatch):
    """The collector of a backup may take two hours, and holds a lock that others wait for."""
    monkeypatch.setattr(worker, "_LOOK_SECONDS", 0.2)
    with pytest.raises(WorkerDied, match="was stopped by a signal"):
        call("import signal; os.kill(os.getpid(), signal.SIGSTOP)", account=nobody, limits=Limits(seconds=7200))


def test_one_that_is_slow_is_waited_for(call, monkeypatch):
    monkeypatch.setattr(worker, "_LOOK_SECONDS", 0.1)
    assert call("time.sleep(1); return 7", limits=Limits(seconds=60)) == 7


@needs_root
def test_it_cannot_read_its_own_request(call, nobody, tmp_path):
    """A link of the agent's may lead to /dev/stdin."""
    assert call("return open('/dev/stdin', 'rb').read().decode()", "a secret", account=nobody) == ""


@needs_root
def test_one_that_its_agent_stopped_ends_with_its_caller(call, nobody):
    """A stopped process is deaf to its timers; what it holds, like the lock of a job, it would hold for ever."""
    acts("import os, signal\ndef act():\n    os.kill(os.getpid(), signal.SIGSTOP)\n")
    program = f"""
        import os, sys, time
        sys.path.insert(0, {worker._import_directory()!r})
        from hermes_ops.system import view, worker
        from hermes_ops.system.files import Account
        it = worker.Worker(Account.named("nobody"), "system.acts:act", (), worker.Limits(seconds=1000))
        while open(f"/proc/{{it._status.pid}}/stat").read().rpartition(")")[2].split()[0] != "T":
            time.sleep(0.01)
        print(it._status.pid, flush=True)
        os.kill(os.getpid(), 9)
        """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, check=False)
    descriptor = _pidfd(int(done.stdout))
    if descriptor is not None:
        import select

        try:
            assert select.select([descriptor], [], [], 30)[0]
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(done.stdout), 9)
            os.close(descriptor)


def _pidfd(pid: int) -> int | None:
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError:
        return None


def test_one_that_answered_in_time_is_heard_late(call):
    """A caller with several workers reads the second answer after the first, which a hostile agent may delay."""
    acts("def act():\n    return 'x' * 500_000\n")
    late = worker.Worker(Account.current(), "system.acts:act", (), Limits(seconds=20))
    # It has ended, but its answer has not been read yet.
    assert late._status.wait(20) == 0
    late._deadline = 0.0
    assert late.result() == "x" * 500_000


@pytest.mark.parametrize(
    ("body", "how"),
    [
        ("os.kill(os.getpid(), 11)", "SIGSEGV"),
        ("os._exit(3)", "status 3"),
        ("return 'x' * 10**7", "more than 4194304 bytes"),
        ("return bytearray(2**40)", "more memory"),
        ("return float('nan')", "ValueError"),
        ("return open('/proc/self/mem')", "TypeError"),
        ("a = []\nfor _ in range(10**5): a = [a]\nreturn a", "RecursionError"),
        ("os.write(1, b'[' * 10**6); os._exit(0)", "RecursionError|ValueError"),
        ("os.write(1, b'{\"value\": ' + b'1' * 10**6 + b'}'); os._exit(0)", "ValueError"),
        ("os.write(1, b'[]'); os._exit(0)", "something else"),
        ("os.write(1, b'{\"error\": 1}'); os._exit(0)", "something else"),
    ],
)
def test_whatever_it_answers_is_one_error(call, body, how):
    with pytest.raises(WorkerDied, match=how):
        call(body)


def test_it_cannot_fill_the_disk(call, tmp_path):
    with pytest.raises(WorkerDied, match=r"SIGXFSZ|OSError"):
        call(f"open({str(tmp_path / 'large')!r}, 'wb').write(bytes(2 * 10**6))", limits=Limits(file=10**6))
    assert (tmp_path / "large").stat().st_size <= 10**6


def test_without_root_nobody_else_s_worker_starts(monkeypatch, nobody):
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    with pytest.raises(OpsError, match="without being root"):
        worker.work(nobody, "system.text:printable", "x")


@pytest.mark.parametrize("text", [b"[" * 200 + b"]" * 200, b'{"a":' * 200 + b"1" + b"}" * 200, b"1e999", b"[-1e999]"])
def test_an_answer_that_would_end_who_reads_it_is_none(text):
    with pytest.raises(worker.WorkerDied):
        worker.parse(text)


def test_an_answer_may_be_as_deep_as_an_agent_s_file():
    assert worker.parse(b"[" * 120 + b"]" * 120)


def test_an_answer_is_parsed_as_any_json():
    assert worker.parse(json.dumps({"a": [1, 2.5, "x", None, True]}).encode()) == {"a": [1, 2.5, "x", None, True]}
