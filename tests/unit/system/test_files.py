# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Files are never half written; locks exclude; root follows no link of the agent's."""

from __future__ import annotations

import fcntl
import os
import resource
import stat
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.host.records import Records
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system import files, process
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.errors import OpsError
from hypothesis import given
from hypothesis import strategies as st


@given(st.binary())
def test_every_byte_is_written(tmp_path, data):
    path = tmp_path / "file"
    files.write_atomic(str(path), data, mode=0o640)
    assert path.read_bytes() == data
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert os.listdir(tmp_path) == ["file"]


def test_what_a_killed_writer_left_is_removed(tmp_path):
    left, living, other = (tmp_path / name for name in (".file.a.hermes-ops", ".file.b.hermes-ops", ".file.old"))
    for path in (left, living, other):
        path.write_text("a secret")
    with living.open() as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        files.write_atomic(str(tmp_path / "file"), "new", mode=0o600)
    assert sorted(os.listdir(tmp_path)) == [".file.b.hermes-ops", ".file.old", "file"]


def test_a_link_is_replaced_and_not_followed(tmp_path):
    target, link = tmp_path / "target", tmp_path / "link"
    target.write_text("theirs")
    link.symlink_to(target)
    files.write_atomic(str(link), "ours", mode=0o600)
    assert target.read_text() == "theirs"
    assert not link.is_symlink()


def test_a_write_that_fails_leaves_what_was_there(tmp_path):
    path = tmp_path / "file"
    path.write_text("before")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    code = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        f"sys.path[:0] = {sys.path!r}\n"
        f"from {files.__name__} import write_atomic\n"
        f"write_atomic({str(path)!r}, b'x' * 100000, mode=0o600)\n"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "cannot be written" in answer.stderr
    assert path.read_text() == "before"
    assert os.listdir(tmp_path) == ["file"]
    assert resource.getrlimit(resource.RLIMIT_FSIZE) == (soft, hard)


def test_a_missing_directory_is_one_clear_error(tmp_path):
    with pytest.raises(OpsError, match="cannot be written"):
        files.write_atomic(str(tmp_path / "no" / "file"), "x", mode=0o600)


def test_what_is_not_text_names_its_line(tmp_path):
    (tmp_path / "file").write_bytes(b"fine\n\xff\n")
    with pytest.raises(OpsError, match="file:2: is not UTF-8"):
        files.read_text(str(tmp_path / "file"))
    (tmp_path / "file").write_text('{"a":\n}')
    with pytest.raises(OpsError, match="file:2: is not JSON"):
        files.read_json(str(tmp_path / "file"))


def test_a_lock_excludes_and_is_given_back(tmp_path):
    path = str(tmp_path / "lock")
    with files.lock(path), pytest.raises(OpsError, match="held by another"), files.lock(path, timeout=0):
        pass
    with files.lock(path, timeout=0):
        pass


def test_directories_get_their_mode(tmp_path):
    path = tmp_path / "a"
    assert files.ensure_directory(str(path), mode=0o700)
    assert not files.ensure_directory(str(path), mode=0o700)
    path.chmod(0o755)
    assert files.ensure_directory(str(path), mode=0o700)
    (tmp_path / "file").write_text("")
    with pytest.raises(OpsError, match="not a directory"):
        files.ensure_directory(str(tmp_path / "file"), mode=0o700)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as somebody else")
def test_root_acts_as_the_agent(tmp_path):
    nobody = files.Account.named("nobody")
    tmp_path.chmod(0o755)
    secret = tmp_path / "secret"
    secret.write_text("root's")
    secret.chmod(0o600)
    with files.acting_as(nobody), pytest.raises(OpsError, match="cannot be read"):
        files.read_text(str(secret))
    assert os.geteuid() == 0
    assert files.read_text(str(secret)) == "root's"


def test_an_unknown_user_is_one_clear_error():
    with pytest.raises(OpsError, match="no user 'nobody-here'"):
        files.Account.named("nobody-here")


def test_a_program_is_killed_with_its_children(tmp_path):
    mark = tmp_path / "pid"
    with pytest.raises(OpsError, match="did not finish within"):
        process.run(["sh", "-c", f"sleep 1000 & echo $! > {mark}; wait"], timeout=1)
    child = int(mark.read_text())
    # It has SIGKILL by now, but dies only when the machine gives it a processor.
    deadline = time.monotonic() + 60
    while running(child):
        assert time.monotonic() < deadline, "the program's child was not killed"
        time.sleep(0.05)


def running(pid: int) -> bool:
    """Also False for a zombie, which only waits for its parent."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii") as stream:
            return stream.read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_what_a_program_says_last_is_the_reason():
    with pytest.raises(OpsError, match="status 3: no luck"):
        process.run(["sh", "-c", "echo fine; echo no luck >&2; exit 3"], timeout=10)
    with pytest.raises(OpsError, match="cannot be run"):
        process.run(["/no/such/program"], timeout=10)


def test_a_restart_is_asked_for_until_it_is_done(tmp_path):
    records = Records(str(tmp_path / "ops"), "default")
    assert records.restart_reasons() == []
    records.prepare()
    records.request_restart(["env: A"])
    records.request_restart(["env: A", "config: b"])
    assert Records(str(tmp_path / "ops"), "default").restart_reasons() == ["env: A", "config: b"]
    began = time.time()
    records.request_restart(["env: asked for while it restarts"])
    records.restarted(began)
    assert records.restart_reasons() == ["env: asked for while it restarts"]
    records.restarted(time.time())
    records.restarted(time.time())
    assert records.restart_reasons() == []


def test_a_copy_that_works_is_only_replaced_by_one_that_does(tmp_path):
    records = Records(str(tmp_path / "ops"), "default")
    records.prepare()
    me, path = files.Account.current(), tmp_path / "config.yaml"
    kept = tmp_path / "ops/agents/default/kept/config.yaml"
    path.write_text("first")
    records.keep(str(path), me)
    path.write_text("broken")
    records.keep(str(path), me)
    assert kept.read_text() == "first"
    records.keep(str(path), me, replace=True)
    assert kept.read_text() == "broken"
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600


@pytest.mark.parametrize("what", ["a pipe", "too large", "gone", "a link to a secret"])
def test_what_an_agent_puts_in_the_place_of_a_file_is_not_kept(ground, what):
    directory = Path(tempfile.mkdtemp(dir=ground))
    directory.chmod(0o755)
    records = Records(str(directory / "ops"), "default")
    records.prepare()
    account = files.Account.named("nobody") if os.geteuid() == 0 else files.Account.current()
    path = directory / "config.yaml"
    if what == "a pipe":
        os.mkfifo(path, 0o666)
    elif what == "too large":
        path.write_bytes(bytes(2 << 20))
    elif what == "a link to a secret":
        secret = directory / "ops/secret"
        secret.write_text("root's")
        path.symlink_to(secret)
    records.keep(str(path), account, replace=True)
    kept = os.listdir(directory / "ops/agents/default/kept")
    assert kept == [] or (what == "a link to a secret" and os.geteuid() != 0)


ROOT_ONLY = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to somebody else")


@ROOT_ONLY
@pytest.mark.parametrize("what", ["ops", "parent", "open parent", "link"])
def test_records_that_somebody_could_swap_are_refused(tmp_path, what):
    parent = tmp_path / "data"
    parent.mkdir()
    ops = parent / "ops"
    if what == "link":
        ops.symlink_to(tmp_path)
    else:
        ops.mkdir()
    if what == "open parent":
        parent.chmod(0o777)
    elif what != "link":
        os.chown(ops if what == "ops" else parent, 65534, 65534)
    with pytest.raises(OpsError, match=r"cannot be trusted: .*set hermes_ops_dir"):
        Records(str(ops), "default").prepare()


@ROOT_ONLY
def test_the_sticky_bit_is_enough(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data").chmod(0o1770)
    os.chown(tmp_path / "data", 0, 65534)
    Records(str(tmp_path / "data/ops"), "default").prepare()
    Records(str(tmp_path / "data/ops"), "default").prepare()


@ROOT_ONLY
def test_root_passes_no_link_that_the_agent_could_have_made(tmp_path):
    tmp_path.chmod(0o755)
    for name in ("real", "agents"):
        (tmp_path / name).mkdir()
    (tmp_path / "roots").symlink_to(tmp_path / "real")
    (tmp_path / "agents/link").symlink_to(tmp_path / "real")
    os.chown(tmp_path / "agents", 65534, 65534)
    os.close(files.open_directory(str(tmp_path / "roots")))
    with pytest.raises(OpsError, match="symbolic link that root did not make"):
        files.open_directory(str(tmp_path / "agents/link"))


@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize("kind", ["link", "pipe"])
def test_only_a_directory_of_an_agent_comes_to_where_root_trusts_links(tmp_path, monkeypatch, kind, swapped):
    for name in ("home", "home/old", "ops", "other"):
        (tmp_path / name).mkdir()
    home, ops = (os.open(tmp_path / name, os.O_RDONLY) for name in ("home", "ops"))
    rename = os.rename

    def swap():
        rename("old", "away", src_dir_fd=home, dst_dir_fd=home)
        if kind == "link":
            os.symlink("../other", "old", dir_fd=home)
        else:
            os.mkfifo("old", dir_fd=home)

    def swap_and_rename(*arguments, **options):
        swap()
        rename(*arguments, **options)

    try:
        if swapped:
            monkeypatch.setattr(os, "rename", swap_and_rename)
        else:
            swap()
        assert not files.take_directory("old", home, "new", ops)
        assert os.listdir(ops) == []
        monkeypatch.undo()
        assert files.take_directory("away", home, "new", ops)
        assert os.listdir(ops) == ["new"]
    finally:
        os.close(home)
        os.close(ops)


def test_a_pipe_is_no_file_and_does_not_block(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OpsError, match="not a regular file"):
        files.read_bytes(str(tmp_path / "pipe"))


def test_what_the_kernel_tells_about_processes_is_no_file(tmp_path):
    """The command line of another user's process is for everybody to read, but not in an agent's sandbox."""
    (tmp_path / ".env").symlink_to("/proc/1/cmdline")
    with pytest.raises(OpsError, match="not a regular file"):
        files.read_bytes(str(tmp_path / ".env"))


# Runs in a process of its own, because another thread of a pytest worker could take the signals.
INTERRUPTED = """
import contextlib, os, signal, subprocess, sys
from hermes_ops.system import files

nobody, armed = files.Account.named("nobody"), False
before = (os.geteuid(), os.getegid(), os.getgroups())

class Ended(Exception):
    pass

def end(number, frame):
    global armed
    if armed:
        armed = False
        raise Ended

signal.signal(signal.SIGTERM, end)
pester = "import os, random, time\\nwhile True: time.sleep(random.uniform(0.001, 0.004)); os.kill(os.getppid(), 15)"
killer = subprocess.Popen([sys.executable, "-c", pester])
try:
    for each in range(300):
        with contextlib.suppress(Ended):
            armed = True
            while True:
                with files.acting_as(nobody):
                    pass
        assert (os.geteuid(), os.getegid(), os.getgroups()) == before
finally:
    killer.kill()
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as somebody else")
def test_a_handler_that_raises_leaves_us_nobody_else():
    kit = str(Path(files.__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED], env={**os.environ, "PYTHONPATH": kit}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
