# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A home survives the way into an archive and back, whatever its agent does; incomplete archives are refused."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import gzip
import hashlib
import io
import json
import os
import pwd
import shutil
import signal
import socket
import sqlite3
import stat
import subprocess
import tarfile
import threading
import time
import tracemalloc
from dataclasses import replace

import described
import pytest
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.backup import (
    archives,
    collecting,
    databases,
    extracting,
    making,
    reading,
    selection,
    space,
    tarstream,
)
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.host.installation import Installation
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.errors import OpsError
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.files import Account
from hypothesis import given
from hypothesis import strategies as st

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="SKIPPED, NOT PROVED: only root mounts")


@pytest.fixture
def host(tmp_path):
    host = Installation(
        {
            "scope": "system",
            "data_dir": str(tmp_path),
            "ops_dir": str(tmp_path / "ops"),
            "root": str(tmp_path / "opt"),
            "managed_root": str(tmp_path / "managed"),
        }
    )
    release = tmp_path / "opt/releases/0.19.0-abc"
    release.mkdir(parents=True)
    (release / "release.json").write_text('{"version": "0.19.0"}')
    (tmp_path / "opt/current").symlink_to("releases/0.19.0-abc")
    return host


@pytest.fixture
def home(tmp_path):
    """A home with every kind of file."""
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    for name, text in {
        ".env": "API_SERVER_KEY=a-secret-of-the-home\n",
        ".env.bak": "API_SERVER_KEY=an-older-secret\n",
        ".envs/of-a-tool": "KEY=of-a-tool\n",
        "config.yaml": "model: {default: m}\n",
        "SOUL.md": "I am.\n",
        "webhook_subscriptions.json": "{}\n",
        "memories/MEMORY.md": "remembered\n",
        "skills/tools/x/SKILL.md": "---\nname: x\n---\n",
        "cron/jobs.json": '{"jobs": []}\n',
        "sessions/s.jsonl": "{}\n",
        "workspace/poetry.lock": "[[package]]\n",
        "workspace/notes-journal": "not SQLite's\n",
        "workspace/notes": "text\n",
        "workspace/.env": "the agent's own\n",
        "state/gateway.heartbeat": "1\n",
        # Left out
        "logs/gateway.log": "x\n",
        "cache/images/a.png": "x\n",
        "audio_cache/a.ogg": "x\n",
        "models_dev_cache.json": "{}\n",
        "gateway.pid": "1\n",
        "gateway.lock": "1\n",
        "gateway_state.json": "{}\n",
        "cron/.tick.lock": "",
        "workspace/.venv/bin/python": "x\n",
        "workspace/target/CACHEDIR.TAG": "Signature: 8a477f597d28d172789f06886806bc55\n",
        "profiles/other/config.yaml": "{}\n",
        ".config.yaml.abc.hermes-ops": "unfinished: secret\n",
        ".hermes-ops-restore-1/config.yaml": "{}\n",
    }.items():
        path = home / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (home / "workspace/run.sh").write_text("#!/bin/sh\n")
    (home / "workspace/run.sh").chmod(0o755)
    (home / "workspace/empty").mkdir(mode=0o750)
    (home / "inside").symlink_to("skills/tools")
    (home / "skills/soul").symlink_to(home / "SOUL.md")
    (home / "outside").symlink_to("/etc/passwd")
    os.mkfifo(home / "workspace/pipe")
    with contextlib.closing(sqlite3.connect(home / "state.db")) as database:
        database.executescript(
            "PRAGMA journal_mode = WAL; CREATE TABLE schema_version (version INTEGER);"
            "INSERT INTO schema_version VALUES (22);"
            "CREATE TABLE messages (id INTEGER PRIMARY KEY, session_id TEXT, content TEXT)"
        )
    return home


LEFT_OUT = {
    "logs",
    "cache",
    "audio_cache",
    "models_dev_cache.json",
    "gateway.pid",
    "gateway.lock",
    "gateway_state.json",
    "cron/.tick.lock",
    "workspace/.venv",
    "workspace/target",
    "workspace/pipe",
    "profiles",
    ".config.yaml.abc.hermes-ops",
    ".hermes-ops-restore-1",
    ".env",
    ".env.bak",
    ".envs",
}


@pytest.fixture
def agent(home):
    return described.agent(home=str(home))


@pytest.fixture
def me():
    return Account.current()


def tree(top):
    """Everything below *top*: kind, mode, content."""
    found = {}
    for directory, directories, files in os.walk(top):
        for name in directories + files:
            if name.endswith(("-wal", "-shm")):
                continue
            path = os.path.join(directory, name)
            status = os.lstat(path)
            mode = stat.S_IMODE(status.st_mode)
            if stat.S_ISLNK(status.st_mode):
                found[os.path.relpath(path, top)] = ("link", os.readlink(path))
            elif stat.S_ISDIR(status.st_mode):
                found[os.path.relpath(path, top)] = ("directory", mode)
            elif stat.S_ISREG(status.st_mode):
                with open(path, "rb") as stream:
                    found[os.path.relpath(path, top)] = (mode, status.st_mtime // 1, stream.read())
    return found


def without(found, *gone):
    return {path: value for path, value in found.items() if not any((path + "/").startswith(f"{g}/") for g in gone)}


def test_what_goes_in_comes_out_and_nothing_else(host, home, agent, tmp_path, me):
    path = making.create(host, agent, str(tmp_path / "out")).path
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    assert os.listdir(tmp_path / "out") == [os.path.basename(path)]
    manifest = extracting.extract(path, str(tmp_path / "again"), me, links_out=True)
    expected = without(tree(home), *LEFT_OUT, "state.db")
    # A link into the home leads into the restored one.
    expected["skills/soul"] = ("link", "../SOUL.md")
    assert without(tree(tmp_path / "again"), "state.db") == expected
    assert list(manifest.left_out) == ["outside", "workspace/pipe", "workspace/target"]
    assert "leads out of the home, to /etc/passwd" in manifest.left_out["outside"]
    assert manifest.problems == {}
    assert (manifest.agent, manifest.host, manifest.env) == ("default", socket.gethostname(), "exclude")
    assert (manifest.release, manifest.version) == ("0.19.0-abc", "0.19.0")
    assert manifest.schemas == {"state.db": 22}
    assert selection.databases(str(tmp_path / "again")) == ["state.db"]
    assert [name for name in os.listdir(home) if name.startswith(".hermes-ops-copy")] == []
    with gzip.open(path) as stream:
        assert b"secret" not in stream.read().replace(b"the agent's own", b"")


def test_the_first_and_the_last_member_say_what_it_is(host, agent, tmp_path):
    with tarfile.open(making.create(host, agent, str(tmp_path / "out")).path) as opened:
        names = opened.getnames()
        about = json.load(opened.extractfile("about.json"))
    assert (names[0], names[-1]) == ("about.json", "summary.json")
    assert about["format"] == 2
    # tar alone can read an archive.
    assert "home/memories/MEMORY.md" in names


def test_a_stream_is_the_same_without_gzip(host, home, agent, tmp_path, me):
    with open(tmp_path / "stream", "w+b") as out:
        said = making.stream(host, agent, out)
        out.seek(0)
        manifest = extracting.extract(out, str(tmp_path / "again"), me)
    assert dataclasses.replace(manifest, env_inside=False) == said
    assert "memories/MEMORY.md" in tree(tmp_path / "again")


@pytest.mark.parametrize("name", [b"\xff\xfe".decode("utf-8", "surrogateescape"), "ä\n 'x'", "n" * 250])
def test_names_survive(host, home, agent, tmp_path, me, name):
    deep = home / "workspace" / ("d" * 200) / ("e" * 200)
    deep.mkdir(parents=True)
    (deep / name).write_text("x")
    (deep / "link").symlink_to(name)
    extracting.extract(making.create(host, agent, str(tmp_path / "out")).path, str(tmp_path / "again"), me)
    assert without(tree(tmp_path / "again"), "skills", "state.db") == without(
        tree(home), *LEFT_OUT, "skills", "state.db", "outside"
    )


def test_env_only_when_asked_for(host, home, agent, tmp_path, me):
    extracting.extract(
        making.create(host, agent, str(tmp_path / "out"), env="include").path, str(tmp_path / "again"), me
    )
    assert (tmp_path / "again/.env").read_text() == (home / ".env").read_text()


@pytest.mark.parametrize("user", ["root", "nobody"])
def test_env_is_encrypted_by_root_and_never_as_the_agent(host, home, agent, tmp_path, ground, monkeypatch, user):
    """The agent can trace every process of its user that is not a worker."""
    if os.geteuid() != 0:
        pytest.skip("SKIPPED, NOT PROVED: as whom age runs; needs root")
    program = ground / f"bin-{user}/age"
    program.parent.mkdir()
    program.write_text('#!/bin/sh\necho "$(id -un) $*"; rev\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    mine = ground / f"home-{user}"
    shutil.copytree(home, mine, symlinks=True, ignore=shutil.ignore_patterns("pipe"))
    for path in (mine, *mine.rglob("*")):
        os.chown(path, *pwd.getpwnam(user)[2:4], follow_symlinks=False)
    where = replace(agent, home=str(mine), user=user)
    path = making.create(host, where, str(tmp_path / "out"), env="age:age1xyz").path
    assert (
        extracting.verify(path).sealed_env == b"root --armor --recipient age1xyz\nemoh-eht-fo-terces-a=YEK_REVRES_IPA\n"
    )
    with gzip.open(path) as stream:
        assert b"a-secret-of-the-home" not in stream.read()


def test_an_env_that_is_none_is_not_handed_to_age(host, home, agent, tmp_path):
    (home / ".env").write_bytes(bytes(2 * 2**20))
    with pytest.raises(OpsError, match="is larger than"):
        making.create(host, agent, str(tmp_path / "out"), env="age:age1xyz")
    assert os.listdir(tmp_path / "out") == []


def test_a_busy_database_is_consistent(host, home, agent, tmp_path, me):
    """A writer in WAL mode never stops; each transaction writes two rows, and no copy has only one of them."""
    with contextlib.closing(sqlite3.connect(home / "state.db")) as database:
        database.executemany("INSERT INTO messages (content) VALUES (?)", [("x" * 500,)] * 20000)
        database.commit()
    stop, wrote = threading.Event(), []

    def hammer():
        with contextlib.closing(sqlite3.connect(home / "state.db", timeout=30)) as database:
            database.execute("PRAGMA wal_autocheckpoint = 5")
            while not stop.is_set():
                with database:
                    for _each in range(2):
                        database.execute("INSERT INTO messages (session_id, content) VALUES ('pair', ?)", ("y" * 3000,))
                wrote.append(1)

    writer = threading.Thread(target=hammer)
    writer.start()
    try:
        for number in range(3):
            before = len(wrote)
            path = making.create(host, agent, str(tmp_path / "out")).path
            assert len(wrote) > before
            copy = tmp_path / f"again{number}"
            extracting.extract(path, str(copy), me)
            assert sorted(name for name in os.listdir(copy) if name.startswith("state.db")) == ["state.db"]
            with contextlib.closing(sqlite3.connect(copy / "state.db")) as database:
                assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
                (pairs,) = database.execute("SELECT count(*) FROM messages WHERE session_id = 'pair'").fetchone()
            assert pairs % 2 == 0
            assert pairs >= 2 * before
    finally:
        stop.set()
        writer.join()


def test_a_damaged_database_is_kept_and_named(host, home, agent, tmp_path, me):
    (home / "old.db").write_bytes(b"SQLite format 3\0" + b"\xff" * 5000)
    manifest = extracting.extract(making.create(host, agent, str(tmp_path / "out")).path, str(tmp_path / "again"), me)
    assert list(manifest.problems) == ["old.db"]
    assert (tmp_path / "again/old.db").read_bytes() == (home / "old.db").read_bytes()
    with pytest.raises(OpsError, match="integrity_check"):
        databases.copy_database(str(home / "old.db"), str(tmp_path / "copy"), me)


def test_a_locked_database_is_named_and_nothing_waits_for_ever(host, home, agent, tmp_path, me, monkeypatch, inline):
    monkeypatch.setattr(databases, "SQLITE_TIMEOUT", 0.1)
    with contextlib.closing(sqlite3.connect(home / "locked.db")) as database:
        database.executescript("CREATE TABLE a (b); PRAGMA locking_mode = EXCLUSIVE; BEGIN EXCLUSIVE")
        manifest = extracting.extract(
            making.create(host, agent, str(tmp_path / "out")).path, str(tmp_path / "again"), me
        )
    assert list(manifest.problems) == ["locked.db"]
    assert "locked.db" not in os.listdir(tmp_path / "again")


def test_files_that_vanish_shrink_or_grow_meanwhile(host, home, agent, tmp_path, me, monkeypatch, inline):
    work = home / "workspace"
    big = b"0123456789abcdef" * 200_000
    for name in ("a", "grows", "rewritten", "shrinks", "vanishes"):
        (work / name).write_bytes(big)
    original = tarstream.Writer.file

    def file(self, name, *arguments, **options):
        """The agent is always faster: it acts between our stat of a file and the first byte that we read."""
        if name.endswith("/a"):
            (work / "vanishes").unlink()
        if name.endswith("/grows"):
            with open(work / "grows", "ab") as stream:
                stream.write(b"more")
        if name.endswith("/shrinks"):
            os.truncate(work / "shrinks", 1_500_000)
        if name.endswith("/rewritten"):
            with open(work / "rewritten", "r+b") as stream:
                stream.write(b"anew")
        return original(self, name, *arguments, **options)

    monkeypatch.setattr(tarstream.Writer, "file", file)
    manifest = extracting.extract(making.create(host, agent, str(tmp_path / "out")).path, str(tmp_path / "again"), me)
    changed = "changed while it was read"
    assert manifest.problems == {"workspace/shrinks": changed, "workspace/rewritten": changed}
    assert "vanishes" not in os.listdir(tmp_path / "again/workspace")
    assert (tmp_path / "again/workspace/grows").read_bytes() == big


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be somebody else")
@pytest.mark.parametrize("by", ["link", "socket", "pipe", "directory", "parent"])
def test_a_file_that_is_replaced_meanwhile_costs_no_other(host, home, agent, tmp_path, me, monkeypatch, inline, by):
    raced = home / "workspace/raced/file"
    raced.parent.mkdir()
    raced.write_text("a file")
    original = collecting.Collection._add_file

    def add_file(self, writer, name, path):
        if path == "workspace/raced/file":
            raced.unlink()
            if by == "link":
                raced.symlink_to("/etc/hostname")
            elif by == "socket":
                monkeypatch.chdir(raced.parent)
                with socket.socket(socket.AF_UNIX) as server:
                    server.bind(raced.name)
            elif by == "pipe":
                os.mkfifo(raced)
            elif by == "directory":
                raced.mkdir()
            else:
                raced.parent.rmdir()
                raced.parent.write_text("no directory")
        original(self, writer, name, path)

    monkeypatch.setattr(collecting.Collection, "_add_file", add_file)
    extracting.extract(making.create(host, agent, str(tmp_path / "out")).path, str(tmp_path / "again"), me)
    assert not os.path.lexists(tmp_path / "again/workspace/raced/file")
    assert (tmp_path / "again/memories/MEMORY.md").exists()


def test_a_file_with_a_lease_is_named_and_the_others_are_saved(host, home, agent, tmp_path, me, monkeypatch):
    leased = home / "workspace/leased"
    leased.write_text("a file")
    before = signal.signal(signal.SIGIO, signal.SIG_IGN)
    try:
        with open(leased, encoding="ascii") as stream:
            fcntl.fcntl(stream, fcntl.F_SETLEASE, fcntl.F_WRLCK)
            manifest = making.create(host, agent, str(tmp_path / "out")).manifest
            fcntl.fcntl(stream, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    finally:
        signal.signal(signal.SIGIO, before)
    assert manifest.problems == {"workspace/leased": "cannot be read (Resource temporarily unavailable)"}


def test_nothing_is_read_or_made_with_rights_that_the_agent_has_not(host, home, agent, tmp_path):
    nobody = Account.named("nobody")
    agent = replace(agent, user="nobody")
    os.chmod(tmp_path, 0o711)
    for directory in tmp_path.parents:
        if directory.stat().st_uid == 0 and str(directory).startswith("/tmp/"):
            directory.chmod(directory.stat().st_mode | 0o011)
    for directory, directories, files in os.walk(home):
        for name in [".", *directories, *files]:
            os.chown(os.path.join(directory, name), nobody.uid, nobody.gid, follow_symlinks=False)
    secret = tmp_path / "secret"
    secret.write_text("root's")
    secret.chmod(0o600)
    (home / "roots").write_text("left by sudo")
    (home / "roots").chmod(0o600)
    with contextlib.closing(sqlite3.connect(home / "state.db")) as open_database:
        # The database's companion files still belong to the agent.
        open_database.execute("INSERT INTO messages (content) VALUES ('x')")
        open_database.commit()
        for name in os.listdir(home):
            if name.startswith("state.db"):
                os.chown(home / name, nobody.uid, nobody.gid)
        path = making.create(host, agent, str(tmp_path / "out")).path
        assert all(os.stat(home / name).st_uid == nobody.uid for name in os.listdir(home) if name.startswith("state"))
    assert list(extracting.verify(path).problems) == ["roots"]
    (tmp_path / "again").mkdir()
    os.chown(tmp_path / "again", nobody.uid, nobody.gid)
    extracting.extract(path, str(tmp_path / "again"), nobody)
    owners = {os.lstat(os.path.join(top, n)).st_uid for top, d, f in os.walk(tmp_path / "again") for n in [".", *d, *f]}
    assert owners == {nobody.uid}
    with contextlib.closing(sqlite3.connect(tmp_path / "again/state.db")) as database:
        assert database.execute("SELECT content FROM messages").fetchall() == [("x",)]


def test_a_killed_one_is_swept_and_no_archive(host, home, agent, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    partial = out / "default-20260101T000000Z.tar.gz.partial"
    partial.write_text("half")
    (out / "default-20260101T000000Z.txt").write_text("somebody else's")
    (home / ".hermes-ops-copy-1").mkdir()
    (home / ".hermes-ops-copy-1/database").write_text("half")
    assert archives.listed(str(out)) == []
    path = making.create(host, agent, str(out)).path
    assert not partial.exists()
    assert not (home / ".hermes-ops-copy-1").exists()
    assert [each.path for each in archives.listed(str(out))] == [path]


def test_one_that_fails_leaves_nothing(host, home, agent, tmp_path, monkeypatch, inline):
    monkeypatch.setattr(space, "RESERVE", 1 << 60)
    with pytest.raises(OpsError, match="no room"):
        making.create(host, agent, str(tmp_path / "out"))
    assert os.listdir(tmp_path / "out") == []
    assert [name for name in os.listdir(home) if name.startswith(".hermes-ops-copy")] == []


def test_a_worker_that_may_write_no_more_has_no_room(host, home, agent, tmp_path, monkeypatch):
    """The limit that root sets applies before the worker checks the disk itself."""
    (home / "large").write_bytes(os.urandom(65536))
    monkeypatch.setattr(space, "free", lambda _descriptor: 4096)
    with pytest.raises(OpsError, match="no room"):
        making.create(host, agent, str(tmp_path / "out"))
    assert os.listdir(tmp_path / "out") == []


def test_pruned_by_count_and_by_agent(tmp_path):
    names = [f"{name}-2026010{day}T000000Z.tar.gz" for name in ("default", "default-2", "work") for day in range(1, 6)]
    for name in [*names, "default-20260101T000000Z.tar.gz.partial", "default.tar.gz"]:
        (tmp_path / name).write_text("x")
    assert len(archives.listed(str(tmp_path), "default")) == 5
    removed = archives.prune(str(tmp_path), "default", 2)
    assert [os.path.basename(path)[8:17] for path in removed] == ["20260101T", "20260102T", "20260103T"]
    assert len(os.listdir(tmp_path)) == 17 - 3
    # The newest one stays whatever is asked for.
    assert len(archives.prune(str(tmp_path), "default", 0)) == 1
    assert [each.agent for each in archives.listed(str(tmp_path))].count("default") == 1


def test_one_made_with_a_fast_clock_is_not_the_newest_for_years(tmp_path):
    now = time.time()
    names = []
    for ahead in (10 * 365 * 86400, -86400, -3600, 60):
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now + ahead))
        names.append(f"default-{stamp}{archives.SUFFIX}")
        (tmp_path / names[-1]).write_bytes(b"x")
    assert [os.path.basename(each.path) for each in archives.listed(str(tmp_path))] == names
    assert [os.path.basename(path) for path in archives.prune(str(tmp_path), "default", 2)] == names[:2]


def test_one_that_is_removed_while_they_are_listed_is_none(tmp_path, monkeypatch):
    kept, gone = (f"default-2026010{day}T000000Z{archives.SUFFIX}" for day in (2, 1))
    (tmp_path / kept).write_bytes(b"x")
    monkeypatch.setattr(os, "listdir", lambda _directory: [gone, kept])
    assert [each.path for each in archives.listed(str(tmp_path))] == [str(tmp_path / kept)]


def test_a_home_that_is_not_there_is_an_error_not_an_empty_backup(host, tmp_path):
    with pytest.raises(OpsError, match="cannot be read"):
        making.create(host, described.agent(home=str(tmp_path / "none")), str(tmp_path / "out"))
    assert os.listdir(tmp_path / "out") == []


def test_memory_is_flat(host, home, agent, tmp_path, me, inline):
    (home / "workspace/big").write_bytes(os.urandom(1 << 20) * 48)
    with contextlib.closing(sqlite3.connect(home / "state.db")) as database:
        database.executemany("INSERT INTO messages (content) VALUES (?)", [("x" * 100_000,)] * 300)
        database.commit()
    tracemalloc.start()
    try:
        path = making.create(host, agent, str(tmp_path / "out")).path
        extracting.verify(path)
        extracting.extract(path, str(tmp_path / "again"), me)
        _now, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 12 << 20


# What an agent may leave in its home


def made(host, agent, tmp_path, me, **options):
    """An archive of the home, and the directory that it was extracted to."""
    path, manifest = making.create(host, agent, str(tmp_path / "out"), **options)
    extracting.extract(path, str(tmp_path / "again"), me)
    return manifest, tmp_path / "again"


def test_memories_are_never_left_out_as_a_cache(host, home, agent, tmp_path, me):
    tag = "Signature: 8a477f597d28d172789f06886806bc55\n"
    (home / "memories/CACHEDIR.TAG").write_text(tag)
    (home / "skills/tools/x/CACHEDIR.TAG").write_text(tag)
    (home / "notes").mkdir()
    for name in ("notes/CACHEDIR.TAG", "workspace/CACHEDIR.TAG"):
        (home / name).write_text(tag)
    # An empty file, as from `touch`, is not a valid tag.
    (home / "workspace/work").mkdir()
    (home / "workspace/work/CACHEDIR.TAG").touch()
    manifest, again = made(host, agent, tmp_path, me)
    for name in ("memories/MEMORY.md", "skills/tools/x/SKILL.md", "notes", "workspace/run.sh", "workspace/work"):
        assert (again / name).exists(), name
    assert "cache" in manifest.left_out["workspace/target"]


def test_a_pipe_in_the_place_of_a_file_is_named(host, home, agent, tmp_path, me):
    (home / "SOUL.md").unlink()
    os.mkfifo(home / "SOUL.md")
    manifest, again = made(host, agent, tmp_path, me)
    assert "pipe" in manifest.left_out["SOUL.md"]
    assert not (again / "SOUL.md").exists()


@pytest.mark.parametrize("beside", ["state.db-journal", "state.db-wal", "state.db-shm"])
def test_a_pipe_beside_a_database_holds_nobody(host, home, agent, tmp_path, me, beside):
    with contextlib.suppress(FileNotFoundError):
        (home / beside).unlink()
    os.mkfifo(home / beside)
    manifest, _again = made(host, agent, tmp_path, me)
    assert "not a regular file" in manifest.problems["state.db"]


def test_a_version_that_is_computed_for_ever_is_no_version(host, home, agent, tmp_path, me):
    with contextlib.closing(sqlite3.connect(home / "state.db")) as database:
        database.executescript(
            "DROP TABLE schema_version; CREATE VIEW schema_version AS WITH RECURSIVE "
            "n(version) AS (SELECT 1 UNION ALL SELECT version + 1 FROM n) SELECT version FROM n"
        )
    manifest, again = made(host, agent, tmp_path, me)
    assert (manifest.problems, manifest.schemas) == ({}, {})
    assert (again / "state.db").exists()


def test_thousands_of_odd_links_make_an_archive_that_can_be_verified(host, home, agent, tmp_path, me):
    target = b"/" + b"\xff" * 4000
    (home / "l").mkdir()
    for number in range(11400):
        os.symlink(target, os.fsencode(home / "l") + b"/%d" % number)
    manifest, again = made(host, agent, tmp_path, me)
    assert manifest.members > 11400
    assert "more of these notes" in manifest.problems["."]
    assert (again / "memories/MEMORY.md").exists()
    assert len(extracting.verify(archives.listed(str(tmp_path / "out"))[0].path).left_out) < 100


def test_memory_does_not_grow_with_the_number_of_files(host, home, agent, tmp_path, inline):
    def peak():
        tracemalloc.start()
        try:
            making.create(host, agent, str(tmp_path / "out"))
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    few = peak()
    for number in range(4000):
        directory = home / f"many/{number % 200}"
        directory.mkdir(parents=True, exist_ok=True)
        (directory / ("n" * 100 + str(number))).touch()
    assert peak() < few + (1 << 20)


def test_a_hole_takes_no_space_where_it_is_restored(host, home, agent, tmp_path, me):
    with open(home / "workspace/disk.img", "wb") as stream:
        stream.write(b"first")
        stream.truncate(400 << 20)
        stream.seek(300 << 20)
        stream.write(b"last")
    manifest, again = made(host, agent, tmp_path, me)
    assert manifest.problems == {}
    status = os.stat(again / "workspace/disk.img")
    assert (status.st_size, status.st_blocks * 512 < 16 << 20) == (400 << 20, True)
    with open(again / "workspace/disk.img", "rb") as stream:
        assert stream.read(5) == b"first"
        stream.seek(300 << 20)
        assert stream.read(5) == b"last\0"


def test_more_holes_than_an_archive_takes_are_refused_by_name(host, home, agent, tmp_path, me):
    for name in ("a", "huge", "z"):
        (home / "workspace" / name).touch()
        os.truncate(home / "workspace" / name, (1 << 43) if name == "huge" else (10 << 20))
    with open(home / "workspace/db", "wb") as stream:
        stream.write(databases.SQLITE_MAGIC)
        stream.truncate(1 << 43)
    manifest, again = made(host, agent, tmp_path, me)
    assert sorted(manifest.problems) == ["workspace/db", "workspace/huge"]
    assert "are holes" in manifest.problems["workspace/huge"]
    assert (again / "workspace/z").stat().st_size == 10 << 20


def test_further_names_of_a_file_do_not_make_an_archive_larger_than_the_limit(home, monkeypatch):
    """No quota of the agent's user counts them."""
    monkeypatch.setattr(collecting, "NAMES_LIMIT", 25 << 20)
    for name in ("a", "z"):
        (home / "workspace" / name).write_bytes(os.urandom(10 << 20))
    for number in range(5):
        os.link(home / "workspace/a", home / f"workspace/name-{number}")
    out = io.BytesIO()
    about = {"agent": "default", "host": "h", "created": 0, "kit": "1", "env": "exclude", "release": None}
    collection = collecting.Collection(str(home), False, None)
    collection.write(out, {**about, "version": None})
    assert sorted(collection.notes.notes["problems"]) == [f"workspace/name-{number}" for number in (2, 3, 4)]
    assert 40 << 20 <= len(out.getvalue()) < 50 << 20


@pytest.mark.parametrize("depth", [1300, 3000])
def test_directories_that_are_nested_deeply(host, home, agent, tmp_path, me, depth):
    descriptor = os.open(home / "workspace", os.O_RDONLY)
    for _each in range(depth):
        os.mkdir("d", dir_fd=descriptor)
        below = os.open("d", os.O_RDONLY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = below
    os.close(descriptor)
    try:
        manifest, again = made(host, agent, tmp_path, me)
        assert manifest.members > 1300
        assert bool(manifest.problems) == (depth == 3000)
        assert (again / "memories/MEMORY.md").exists()
    finally:
        # pytest cannot remove them.
        subprocess.run(["rm", "-rf", home, tmp_path / "again"], check=True)


def test_times_that_no_clock_shows(host, home, agent, tmp_path, me):
    for number, when in enumerate((-(10**9), 2**33)):
        os.utime(home / "SOUL.md", (0, when))
        making.create(host, agent, str(tmp_path / f"out{number}"))


def test_bits_that_make_a_program_somebody_else_are_not_kept(host, home, agent, tmp_path, me):
    os.chmod(home / "workspace/run.sh", 0o6755)
    _manifest, again = made(host, agent, tmp_path, me)
    assert stat.S_IMODE(os.stat(again / "workspace/run.sh").st_mode) == 0o755


@needs_root
def test_what_is_mounted_in_a_home_is_left_out_and_named(host, home, agent, tmp_path, me):
    (tmp_path / "others").mkdir()
    (tmp_path / "others/precious").write_text("x")
    (home / "workspace/media").mkdir()
    done = subprocess.run(["mount", "--bind", tmp_path / "others", home / "workspace/media"], capture_output=True)
    if done.returncode:
        pytest.skip("SKIPPED, NOT PROVED: that mounts are left out, because none can be made")
    try:
        manifest, again = made(host, agent, tmp_path, me)
    finally:
        subprocess.run(["umount", home / "workspace/media"], check=True)
    assert "mounted" in manifest.left_out["workspace/media"]
    assert not (again / "workspace/media").exists()


def test_an_archive_that_does_not_verify_gets_no_name(host, home, agent, tmp_path, monkeypatch, inline_worker):
    """For the case that making and verifying ever disagree."""
    good = making.create(host, agent, str(tmp_path / "out")).path
    monkeypatch.setattr(tarstream, "PATH_LIMIT", 5)
    monkeypatch.setattr(extracting, "Worker", inline_worker)
    with pytest.raises(OpsError, match="not below home"):
        making.create(host, agent, str(tmp_path / "out"))
    assert os.listdir(tmp_path / "out") == [os.path.basename(good)]


def test_a_stream_that_is_refused_on_its_way_is_an_error(host, home, agent, tmp_path, monkeypatch):
    class Refusing(extracting.Checking):
        def result(self):
            super().result()
            raise OpsError("is refused")

    monkeypatch.setattr(extracting, "Checking", Refusing)
    with open(tmp_path / "stream", "wb") as out, pytest.raises(OpsError, match="is refused"):
        making.stream(host, agent, out)


def test_the_lock_of_a_backup_is_also_its_workers(host, home, agent):
    """No second backup starts beside a worker, whatever became of its caller."""
    reading, writing = os.pipe()
    with host.lock("backup") as lock:
        worker = making._collector(making._subject(host, agent, "exclude", lock), writing, "", 60, False)
        os.close(writing)
        # When it writes, it has everything that it was handed.
        os.read(reading, 1)
        held = os.listdir(f"/proc/{worker._status.pid}/fd")
        worker.end()
    os.close(reading)
    assert str(lock) in held


# Hostile archives


def member(name, kind=tarfile.REGTYPE, data=b"", **attributes):
    header = tarfile.TarInfo(name)
    header.type, header.size, header.mode = kind, len(data), 0o644
    for key, value in attributes.items():
        setattr(header, key, value)
    return header, data


ABOUT = {
    "format": 2,
    "agent": "default",
    "host": "h",
    "created": 1.0,
    "kit": "0",
    "release": None,
    "version": None,
    "env": "exclude",
}
HOME = member("home", tarfile.DIRTYPE, mode=0o700)


def tar(*members, about=ABOUT, summary=True, after=(), notes=None):
    """A tar of *members*, with a correct summary."""
    out = io.BytesIO()
    said = tarstream._Members()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as opened:
        for header, data in (member("about.json", data=json.dumps(about).encode()), *members):
            opened.addfile(header, io.BytesIO(data))
            mode = header.mode & 0o777
            if header.issym():
                said.add(header.name, "link", header.linkname)
            elif header.isdir():
                said.add(header.name, "directory", mode)
            else:
                said.add(header.name, "file", mode, len(data), int(header.mtime), hashlib.sha256(data).hexdigest())
        if summary:
            empty = {"problems": {}, "left_out": {}, "schemas": {}}
            header, data = member("summary.json", data=json.dumps({**said.said(), **empty, **(notes or {})}).encode())
            opened.addfile(header, io.BytesIO(data))
        for header, data in after:
            opened.addfile(header, io.BytesIO(data))
    return out.getvalue()


def extract_bytes(data, target):
    """Does the worker's job in this process; links that lead out are not made."""
    source = tarstream.unpacked(io.BufferedReader(data if isinstance(data, io.RawIOBase) else io.BytesIO(data)))
    with source as stream:
        return tarstream.read(stream, "the stream", reading.Directory(str(target), links_out=False))


def check(data, tmp_path, me):
    """The result of extracting *data*; checks that nothing was written outside of the directory."""
    target = tmp_path / "target"
    target.mkdir()
    (tmp_path / "beside").write_text("untouched")
    try:
        return extract_bytes(data, target)
    finally:
        assert sorted(os.listdir(tmp_path)) == ["beside", "target"]
        assert (tmp_path / "beside").read_text() == "untouched"


def test_a_good_one_made_by_hand_is_taken(tmp_path, me):
    data = tar(HOME, member("home/a", data=b"x"), member("home/l", tarfile.SYMTYPE, linkname="a"))
    assert check(data, tmp_path, me)["members"] == 4
    assert (tmp_path / "target/l").read_text() == "x"


SUB = member("home/sub", tarfile.DIRTYPE, mode=0o700)
HOSTILE = {
    "absolute": tar(HOME, member("/etc/passwd", data=b"x")),
    "absolute below home": tar(HOME, member("home//etc/passwd", data=b"x")),
    "dots": tar(HOME, member("home/../../beside", data=b"x")),
    "a dot": tar(HOME, member("home/./a", data=b"x")),
    "beside home": tar(HOME, member("beside", data=b"x")),
    "through a link": tar(HOME, SUB, member("home/l", tarfile.SYMTYPE, linkname="sub"), member("home/l/a", data=b"x")),
    "hard link": tar(HOME, member("home/h", tarfile.LNKTYPE, linkname="../beside")),
    "device": tar(HOME, member("home/d", tarfile.CHRTYPE, devmajor=1, devminor=3)),
    "pipe": tar(HOME, member("home/p", tarfile.FIFOTYPE)),
    "twice": tar(HOME, member("home/a", data=b"x"), member("home/a", data=b"y")),
    "a directory twice": tar(HOME, SUB, SUB),
    "a file as a directory": tar(HOME, member("home/a", data=b"x"), member("home/a/b", data=b"x")),
    "without its directory": tar(HOME, member("home/a/b", data=b"x")),
    "home as a file": tar(member("home", data=b"x")),
    "no home": tar(),
    "no summary": tar(HOME, member("home/a", data=b"x"), summary=False),
    "more after the summary": tar(HOME, after=[member("home/a", data=b"x")]),
    "another format": tar(HOME, about={**ABOUT, "format": 3}),
    "about says nothing": tar(HOME, about={"format": 2}),
    "about is too long": tar(HOME, about={**ABOUT, "kit": "x" * (2 << 20)}),
    "created at no time": tar(HOME, about={**ABOUT, "created": float("nan")}),
    "out of order": tar(HOME, member("home/b", data=b"x"), member("home/a", data=b"x")),
    "back in a directory that is complete": tar(
        HOME, SUB, member("home/t", data=b"x"), member("home/sub/a", data=b"x")
    ),
    "a link to nowhere": tar(HOME, member("home/l", tarfile.SYMTYPE, linkname="")),
    "a time that is none": tar(HOME, member("home/a", data=b"x", pax_headers={"mtime": "nan"})),
    "a size below nothing": tar(HOME, member("home/a", data=b"x", pax_headers={"size": "-512"})),
    "notes of another kind": tar(HOME, notes={"problems": {"a": 1}}),
    "nothing": b"",
    "no tar": b"hello" * 1000,
    "a tar of somebody else": tar(HOME)[1536:],
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_no_backup_holds_is_refused(name, tmp_path, me):
    with pytest.raises(OpsError, match="the stream: "):
        check(HOSTILE[name], tmp_path, me)


def test_wrong_checksums_are_refused(tmp_path, me):
    data = tar(HOME, member("home/a", data=b"right"))
    with pytest.raises(OpsError, match="does not match its checksum"):
        check(data.replace(b"right", b"wrong"), tmp_path, me)


def bomb(kind, size=8 << 30):
    """A header that promises *size* bytes of name, and a stream that would deliver them."""
    header = tarfile.TarInfo("././@PaxHeader")
    header.type, header.size = kind, size
    return header.tobuf(tarfile.GNU_FORMAT)


class Endless(io.RawIOBase):
    def __init__(self, head, limit):
        self.head, self.given, self.limit = io.BytesIO(head), 0, limit

    def readable(self):
        return True

    def readinto(self, buffer):
        data = self.head.read(len(buffer)) or b"9" * len(buffer)
        self.given += len(data)
        assert self.given < self.limit, "read on and on"
        buffer[: len(data)] = data
        return len(data)


@pytest.mark.parametrize(
    "kind",
    [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.GNUTYPE_SPARSE],
)
def test_headers_that_would_fill_the_memory_are_refused(kind, tmp_path, me):
    with pytest.raises(OpsError, match="damaged, or no backup"):
        check_stream(Endless(bomb(kind), 4 << 20), tmp_path, me)
    inside = tar(HOME, summary=False)
    inside = inside[: inside.rindex(b"home") // 512 * 512 + 512]
    with pytest.raises(OpsError, match="damaged, or no backup"):
        check_stream(Endless(inside + bomb(kind), 4 << 20), tmp_path / "2", me)


def check_stream(stream, tmp_path, me):
    tmp_path.mkdir(exist_ok=True)
    extract_bytes(stream, tmp_path / "target")


@pytest.mark.parametrize("headers", [{"GNU.sparse.major": "1", "GNU.sparse.minor": "0"}, {"GNU.sparse.map": "0,1"}])
def test_sparse_files_are_refused(headers, tmp_path, me):
    data = tar(HOME, member("home/a", data=b"x" * 512, pax_headers={**headers, "GNU.sparse.size": "1"}))
    with pytest.raises(OpsError, match="sparse"):
        check(data, tmp_path, me)


def test_a_file_larger_than_the_disk_is_refused_before_that_is_full(tmp_path, me, monkeypatch):
    monkeypatch.setattr(space, "RESERVE", 1 << 60)
    header = tarfile.TarInfo("home/a")
    header.size = 1 << 60
    head = tar(HOME, summary=False)
    head = head[: head.rindex(b"home") // 512 * 512 + 512] + header.tobuf(tarfile.GNU_FORMAT)
    with pytest.raises(OpsError, match="no room"):
        check_stream(Endless(head, 4 << 20), tmp_path, me)


def test_chained_headers_are_refused(tmp_path, me):
    header = tarfile.TarInfo("x")
    header.type, header.size = tarfile.XHDTYPE, 512
    with pytest.raises(OpsError, match="damaged, or no backup"):
        check((header.tobuf() + b"11 path=abc\n".ljust(512, b"\0")) * 5000, tmp_path, me)


class Bytes(tuple):
    def __repr__(self):
        return "an archive"


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A small archive, compressed and not."""
    top = tmp_path_factory.mktemp("small")
    (top / "home/sub").mkdir(parents=True)
    (top / "home/sub/a").write_text("some text\n" * 50)
    (top / "home/l").symlink_to("sub/a")
    host = Installation(
        {
            **dict.fromkeys(("data_dir", "root", "managed_root"), str(top)),
            "scope": "system",
            "ops_dir": str(top / "ops"),
        }
    )
    path = making.create(host, described.agent(home=str(top / "home")), str(top)).path
    extracting.verify(path)
    with open(path, "rb") as stream:
        packed = stream.read()
    return Bytes((packed, gzip.decompress(packed)))


def verify_bytes(data, tmp_path_factory):
    path = tmp_path_factory.mktemp("bytes") / "x.tar.gz"
    path.write_bytes(data)
    with open(path, "rb") as file, tarstream.unpacked(file) as stream:
        return tarstream.read(stream, str(path), tarstream.Nowhere())


@given(position=st.integers(0, 1 << 20))
def test_truncated_anywhere_is_refused(small, tmp_path_factory, position):
    with pytest.raises(OpsError):
        verify_bytes(small[0][: position % len(small[0])], tmp_path_factory)


@given(position=st.integers(0, 1 << 20), bit=st.integers(0, 7))
def test_a_flipped_bit_is_refused(small, tmp_path_factory, position, bit):
    packed = bytearray(small[0])
    # Not in gzip's own header, because the time there is ignored.
    packed[10 + position % (len(packed) - 10)] ^= 1 << bit
    try:
        verify_bytes(bytes(packed), tmp_path_factory)
    except OpsError:
        return
    # Some data, such as a run of zeros, can be encoded in two ways.
    assert gzip.decompress(packed) == small[1]


@given(position=st.integers(0, 1 << 20), bit=st.integers(0, 7))
def test_a_flipped_bit_of_the_tar_itself_never_passes_as_something_else(small, tmp_path_factory, position, bit):
    """Without gzip's checksum, data that is accepted equals the original."""
    raw = bytearray(small[1])
    raw[position % len(raw)] ^= 1 << bit
    try:
        found = verify_bytes(bytes(raw), tmp_path_factory)
    except OpsError:
        return
    assert found == verify_bytes(small[0], tmp_path_factory)


@given(st.binary(max_size=2000))
def test_arbitrary_bytes_are_refused(tmp_path_factory, data):
    with pytest.raises(OpsError):
        verify_bytes(data, tmp_path_factory)


def test_an_archive_that_is_not_there(tmp_path):
    with pytest.raises(OpsError, match="cannot be read"):
        extracting.verify(str(tmp_path / "none.tar.gz"))


def test_only_into_an_empty_directory(small, tmp_path, me):
    (tmp_path / "target").mkdir()
    (tmp_path / "target/there").write_text("x")
    with pytest.raises(OpsError, match="is not empty"):
        extract_bytes(small[1], tmp_path / "target")


@pytest.mark.parametrize(
    ("path", "target", "inside"),
    [
        ("l", "a", True),
        ("l", "a/b", True),
        ("a/l", "../b", True),
        ("a/l", "./../b", True),
        ("a/b/l", "../../c", True),
        ("l", "..", False),
        ("a/l", "../..", False),
        ("a/l", "../../home/b", False),
        ("l", "a/../b", False),
        ("l", "/etc", False),
        ("l", "", False),
        ("l", "a\0b", False),
    ],
)
def test_which_links_stay_inside(path, target, inside):
    assert tarstream.stays_inside(path, target) is inside
