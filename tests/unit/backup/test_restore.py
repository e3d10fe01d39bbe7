# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A home is either restored or unchanged, never in between, wherever the restore is killed."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import functools
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import tempfile
import time
from pathlib import Path

import described
import pytest
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops import cli
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.backup import (
    databases,
    extracting,
    kept,
    making,
    restore,
    selection,
)
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.commands import restore as command_restore
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.host import guard, held
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.host.installation import Installation
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.host.undertaking import RESERVE
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.supervise import health
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system import systemd, worker
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.errors import OpsError, Refused
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.files import Account
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.process import Completed
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.systemd import Manager

UNIT = "hermes-gateway@default.service"


START = time.time()
REAL = worker.Worker


@pytest.fixture
def host(tmp_path, monkeypatch, inline):
    """A host whose gateway runs while the file ``running`` exists, and is healthy unless ``sick`` exists, too."""
    host = Installation(
        {
            "scope": "system",
            "data_dir": str(tmp_path),
            "ops_dir": str(tmp_path / "ops"),
            "root": str(tmp_path / "opt"),
            "managed_root": str(tmp_path / "managed"),
        }
    )

    host.orders = []

    def call(_self, verb, *arguments, **_options):
        host.orders.append(verb)
        if verb == "show":
            state = "active" if (tmp_path / "running").exists() else "inactive"
            return Completed((), 0, f"ActiveState={state}\nSubState=running\nMainPID=1", "")
        if verb in ("start", "restart"):
            (tmp_path / "running").touch()
            if (tmp_path / "home/sick").exists():
                # If left behind, this companion file would be taken for the original database's.
                (tmp_path / "home/state.db-wal").write_text("of the restored database")
                (tmp_path / "home/made.json").write_text("{}")
        if verb == "stop":
            with contextlib.suppress(FileNotFoundError):
                (tmp_path / "running").unlink()
        return Completed((), 0, "", "")

    def look(agent, *_arguments):
        result = health.Health(agent.name)
        if not (tmp_path / "running").exists():
            result.problems.append(health.Problem("not_running", "it does not run", "start it"))
        if (tmp_path / "home/sick").exists():
            result.problems.append(health.Problem("sick", "it is sick", "heal it"))
        return result

    monkeypatch.setattr(Manager, "call", call)
    monkeypatch.setattr(Manager, "reachable", True)
    monkeypatch.setattr(health, "check", look)
    monkeypatch.setattr(health, "wait", lambda agents, *_arguments: [look(agent) for agent in agents])
    monkeypatch.setattr(guard, "UNIT_DIRECTORY", str(tmp_path / "units"))
    assert systemd.Manager is Manager
    make_home(tmp_path / "home")
    (tmp_path / "running").touch()
    host.records("default").prepare()
    host.records("default").write_agent(agent_of(tmp_path))
    return host


def orders(host):
    """What systemd was told to do."""
    return [verb for verb in host.orders if verb in ("start", "stop", "restart")]


def agent_of(tmp_path):
    return described.agent(home=str(tmp_path / "home"), directory=str(tmp_path), unit=UNIT, drain=0)


@pytest.fixture
def agent(host, tmp_path):
    return agent_of(tmp_path)


def make_home(home):
    for name, text in {
        ".env": "KEY=of the host\n",
        "config.yaml": "model: one\n",
        "memories/MEMORY.md": "old\n",
        "skills/a/SKILL.md": "a\n",
        "logs/gateway.log": "log\n",
        "profiles/other/config.yaml": "other\n",
        "gateway_state.json": "{}\n",
    }.items():
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text(text)
    with contextlib.closing(sqlite3.connect(home / "state.db")) as database:
        database.executescript(
            "CREATE TABLE sessions (id TEXT, source TEXT);"
            "CREATE TABLE messages (session_id TEXT, role TEXT, content TEXT, timestamp REAL)"
        )


def say_to(home, text, when):
    with contextlib.closing(sqlite3.connect(home / "state.db")) as database:
        database.execute("INSERT INTO messages VALUES ('s', 'user', ?, ?)", (text, when))
        database.commit()


def change(home):
    """What happens to a home after the backup."""
    (home / "memories/MEMORY.md").write_text("new\n")
    (home / "skills/b").mkdir()
    (home / "skills/b/SKILL.md").write_text("b\n")
    (home / "SOUL.md").write_text("soul\n")
    (home / "state.db-wal").write_text("of the new database")
    (home / ".env").write_text("KEY=newer\n")


def tree(top):
    found = {}
    for directory, directories, files in os.walk(top):
        for name in directories + files:
            path = os.path.join(directory, name)
            content = None
            if not os.path.isdir(path):
                with open(path, "rb") as stream:
                    content = stream.read()
                if content.startswith(databases.SQLITE_MAGIC):
                    # A copy by SQLite differs in a counter.
                    with contextlib.closing(sqlite3.connect(f"file:{path}?immutable=1", uri=True)) as database:
                        content = "\n".join(database.iterdump())
            found[os.path.relpath(path, top)] = content
    return found


@pytest.fixture
def made(host, agent, tmp_path):
    """A backup, and what was in the home then and is now."""
    home = tmp_path / "home"
    say_to(home, "hello", time.time() - 100)
    old = tree(home)
    path = making.create(host, agent, str(tmp_path / "backups")).path
    change(home)
    shutil.copytree(home, tmp_path / "saved")
    return path, old, tree(home)


# The host's own files, which a restore leaves in place.
STAYS = ("logs", "profiles", "gateway_state.json", ".env")


def expected(old, new):
    """A home after the restore: the backup's, with what belongs to the host."""
    mine = {path: value for path, value in new.items() if path.split("/")[0] in STAYS}
    return {**{path: value for path, value in old.items() if path.split("/")[0] not in STAYS}, **mine}


def run(host, agent, path, **options):
    said = []
    aside = restore.Restore(host, agent.name, said.append).restore(path, **options)
    return aside, said


def leftovers(tmp_path):
    """What a restore must not leave behind."""
    paths = [*(tmp_path / "ops/agents/default").glob("restore.*"), *(tmp_path / "home").glob(f"{selection.OURS}*")]
    return [str(path) for path in paths if path.exists()] + [
        os.path.join(directory, name)
        for directory, _names, files in os.walk(tmp_path / "units")
        for name in files
        # A partial unit file, which its next writer removes.
        if not name.endswith(".hermes-ops")
    ]


def test_restored_and_what_was_there_is_set_aside(host, agent, made, tmp_path):
    path, old, new = made
    aside, _said = run(host, agent, path, force=True)
    assert tree(tmp_path / "home") == expected(old, new)
    assert os.path.dirname(aside) == str(tmp_path / "ops/set-aside")
    assert os.path.basename(aside).startswith("default-")
    gone = tree(aside)
    # The companion of the old database went with it; nothing was lost.
    assert gone == {
        p: v for p, v in new.items() if p.split("/")[0] not in ("logs", "profiles", "gateway_state.json", ".env")
    }
    assert "state.db-wal" in gone
    assert (tmp_path / "running").exists()
    assert leftovers(tmp_path) == []


def test_env_of_the_backup_replaces_that_of_the_host(host, agent, tmp_path):
    path = making.create(host, agent, str(tmp_path / "backups"), env="include").path
    (tmp_path / "home/.env").write_text("KEY=newer\n")
    (tmp_path / "home/.env.bak").write_text("KEY=another\n")
    aside, _said = run(host, agent, path)
    assert (tmp_path / "home/.env").read_text() == "KEY=of the host\n"
    assert sorted(name for name in os.listdir(aside) if name.startswith(".env")) == [".env", ".env.bak"]


def test_an_empty_home_of_another_host(host, agent, made, tmp_path):
    path, old, _new = made
    shutil.rmtree(tmp_path / "home")
    (tmp_path / "home/memories").mkdir(parents=True)
    # The home is as site.yml has just made it.
    (tmp_path / "home/config.yaml").write_text("model: two\n")
    (tmp_path / "home/.env").write_text("KEY=of another host\n")
    run(host, agent, path)
    expected = {
        p: v for p, v in old.items() if p.split("/")[0] not in ("logs", "profiles", "gateway_state.json", ".env")
    }
    assert tree(tmp_path / "home") == {**expected, ".env": b"KEY=of another host\n"}


@pytest.mark.parametrize("what", ["message", "memories/MEMORY.md", "skills/b/SKILL.md", "config.yaml", "SOUL.md"])
def test_a_home_that_knows_more_is_not_overwritten(host, agent, tmp_path, what):
    home = tmp_path / "home"
    say_to(home, "hello", time.time() - 100)
    path = making.create(host, agent, str(tmp_path / "backups")).path
    assert extracting.compare(path, Account.current(), str(home)).learnt == []
    later = time.time() + 60
    if what == "message":
        say_to(home, "and this?", later)
    else:
        (home / what).parent.mkdir(exist_ok=True)
        (home / what).write_text("learnt\n")
        os.utime(home / what, (later, later))
    before = tree(home)
    with pytest.raises(OpsError, match="knows more than the backup") as caught:
        run(host, agent, path)
    assert ("somebody spoke" if what == "message" else what) in str(caught.value)
    assert "--force" in caught.value.fix
    with pytest.raises(OpsError, match="knows more than the backup"):
        restore.Restore(host, agent.name, print).check(path)
    assert "would restore" in restore.Restore(host, agent.name, print).check(path, force=True)
    assert tree(home) == before
    assert leftovers(tmp_path) == []
    run(host, agent, path, force=True)


@pytest.mark.parametrize(
    "harmless", ["touched", "our own question", "nobody ever spoke", "the log", "an unreadable database"]
)
def test_what_is_no_knowledge_does_not_stop_it(host, agent, tmp_path, harmless):
    home, later = tmp_path / "home", time.time() + 60
    if harmless != "nobody ever spoke":
        say_to(home, "hello", time.time() - 100)
    path = making.create(host, agent, str(tmp_path / "backups")).path
    if harmless == "touched":
        os.utime(home / "memories/MEMORY.md", (later, later))
    elif harmless == "our own question":
        say_to(home, health.REPLY_PROMPT, later)
    elif harmless == "nobody ever spoke":
        (home / "memories/MEMORY.md").write_text("seeded")
        os.utime(home / "memories/MEMORY.md", (later, later))
    elif harmless == "the log":
        os.utime(home / "logs/gateway.log", (later, later))
    else:
        (home / "state.db").write_bytes(b"no database")
    run(host, agent, path)


def test_a_damaged_archive_touches_nothing(host, agent, made, tmp_path):
    path, _old, new = made
    with open(path, "r+b") as stream:
        stream.truncate(os.path.getsize(path) - 30)
    with pytest.raises(OpsError, match=r"damaged|incomplete"):
        run(host, agent, path, force=True)
    assert tree(tmp_path / "home") == new
    assert leftovers(tmp_path) == []
    assert (tmp_path / "running").exists()


def test_a_sender_that_fails_at_its_end_touches_nothing(host, agent, made, tmp_path):
    path, _old, new = made

    def finish():
        raise OpsError("was cut off")

    with pytest.raises(OpsError, match="was cut off"):
        run(host, agent, path, force=True, finish=finish)
    assert tree(tmp_path / "home") == new
    assert leftovers(tmp_path) == []


def test_an_agent_that_is_not_well_on_it_gets_its_home_back(host, agent, tmp_path):
    home = tmp_path / "home"
    (home / "sick").touch()
    path = making.create(host, agent, str(tmp_path / "backups")).path
    (home / "sick").unlink()
    before = tree(home)
    with pytest.raises(OpsError, match="it is sick"):
        run(host, agent, path)
    assert tree(home) == before
    assert (tmp_path / "running").exists()
    assert leftovers(tmp_path) == []
    # What the restored agent may have written in the meantime is not lost.
    (undone,) = os.listdir(tmp_path / "ops/set-aside")
    assert undone.endswith("-undone")
    gone = tree(tmp_path / "ops/set-aside" / undone)
    assert gone["state.db-wal"] == b"of the restored database"
    assert {"sick", "made.json", "state.db"} < set(gone)


def undone_by(host, agent, tmp_path, monkeypatch, *messages):
    """The error of a restore that is undone after *messages* came in."""
    home = tmp_path / "home"
    (home / "sick").touch()
    path = making.create(host, agent, str(tmp_path / "backups")).path
    (home / "sick").unlink()
    start = restore.gateway.start

    def start_and_receive(*arguments):
        start(*arguments)
        if (home / "sick").exists():
            (home / "state.db-wal").unlink()
            for text in messages:
                say_to(home, text, time.time() + 2)

    monkeypatch.setattr(restore.gateway, "start", start_and_receive)
    with pytest.raises(OpsError, match="it is sick") as caught:
        run(host, agent, path, force=True)
    return str(caught.value)


def test_messages_to_a_restored_agent_that_was_not_well_are_named_last(host, agent, tmp_path, monkeypatch):
    say_to(tmp_path / "home", "before", time.time() - 100)
    said = undone_by(host, agent, tmp_path, monkeypatch, "one", "two", health.REPLY_PROMPT)
    assert "2 messages came in meanwhile that default does not know any more: read them (less /" in said
    assert said.endswith("and send again what still counts")
    lines = Path(said.partition("(less ")[2].partition(")")[0]).read_text().splitlines()
    assert [json.loads(line)["text"] for line in lines] == ["one", "two"]
    assert leftovers(tmp_path) == []


def test_without_such_messages_nothing_is_said_about_them(host, agent, tmp_path, monkeypatch):
    assert "came in meanwhile" not in undone_by(host, agent, tmp_path, monkeypatch)
    assert not list((tmp_path / "ops/set-aside").glob("*/messages.jsonl"))


def test_killed_on_its_way_back_it_still_says_so(host, agent, made, tmp_path, monkeypatch, killed_at):
    path, _old, _new = made

    def stop_there(*_arguments):
        os.kill(os.getpid(), signal.SIGKILL)

    for number in range(100):
        again(tmp_path)
        with monkeypatch.context() as patch:
            patch.setattr(restore.Restore, "_start", stop_there)
            assert not killed_at(10**6, lambda: run(host, agent, path, force=True))
        say_to(tmp_path / "home", "to the restored one", time.time() + 2)
        killed = not killed_at(number, lambda: restore.Restore(host, "default", lambda _text: None).recover(boot=True))
        moved = list((tmp_path / "ops").glob("set-aside/*-undone"))
        said: list[str] = []
        restore.Restore(host, "default", said.append).recover(boot=True)
        (found,) = list((tmp_path / "ops/set-aside").glob("*-undone/messages.jsonl"))
        assert '"to the restored one"' in found.read_text()
        if not killed:
            break
        # Once the messages are where they stay, status shows them, and the rest of the way back says nothing new.
        assert moved or said[-1].startswith("1 message came in meanwhile")
    assert number > 10


def test_an_agent_that_was_not_well_before_either_keeps_it(host, agent, made, tmp_path):
    (tmp_path / "home/sick").touch()
    run(host, agent, made[0], force=True)
    assert not (tmp_path / "home/sick").exists()
    (tmp_path / "home/sick").touch()
    sick = making.create(host, agent, str(tmp_path / "backups")).path
    run(host, agent, sick, force=True)
    assert (tmp_path / "home/sick").exists()


def test_only_one_at_a_time_and_not_during_an_update(host, agent, made):
    path = made[0]
    with host.lock("restore"), pytest.raises(Refused, match="is held by another process"):
        run(host, agent, path, force=True)
    with host.lock("update"), pytest.raises(Refused, match="an update is running"):
        run(host, agent, path, force=True)
    (Path(host.ops_dir) / "separate.json").write_text("{}")
    with pytest.raises(OpsError, match=r"a separation was interrupted.*separate --recover"):
        run(host, agent, path, force=True)


def test_not_while_its_disk_is_nearly_full(host, agent, made, tmp_path, monkeypatch):
    """Its gateway could not start, so the restore would be undone in the end."""
    monkeypatch.setattr(held, "DIRECTORY", str(tmp_path / "held"))
    held.write("default", held.Hold("no room", "make some", True))
    (tmp_path / "running").unlink()
    with pytest.raises(OpsError, match=r"no room\. Fix: make some"):
        run(host, agent, made[0], force=True)
    assert orders(host) == []
    held.remove("default")
    (tmp_path / "running").touch()
    run(host, agent, made[0], force=True)


def test_no_backup_of_a_home_that_is_half_restored(host, agent, tmp_path):
    (tmp_path / "ops/agents/default/restore.json").write_text("{}")
    with pytest.raises(OpsError, match="was interrupted"):
        making.create(host, agent, str(tmp_path / "backups"))


def test_a_restore_that_cannot_be_undone_keeps_nobody_else_from_a_backup(host, agent, tmp_path):
    other = dataclasses.replace(agent, name="other")
    host.records("other").prepare()
    (tmp_path / "ops/agents/other/restore.json").write_text("{}")
    assert os.path.exists(making.create(host, agent, str(tmp_path / "backups")).path)
    with pytest.raises(OpsError, match="was interrupted"):
        making.create(host, other, str(tmp_path / "backups"))


def test_a_backup_of_the_future_is_not_known_to_be_newer(host, agent, made, tmp_path, monkeypatch):
    path, _old, new = made
    ten_years = 10 * 365 * 86400
    say_to(tmp_path / "home", "said since", time.time())
    new = tree(tmp_path / "home")
    monkeypatch.setattr(time, "time", lambda: START - ten_years)
    with pytest.raises(OpsError, match="made with a clock that was fast"):
        run(host, agent, path)
    assert tree(tmp_path / "home") == new


def test_a_gateway_that_somebody_starts_meanwhile_is_not_left_on_what_was_set_aside(
    host, agent, made, tmp_path, monkeypatch
):
    path, _old, _new = made
    exchange = restore.Restore._exchange

    def meanwhile(self, *arguments):
        self.host.manager_of(agent).call("start", UNIT)
        exchange(self, *arguments)

    monkeypatch.setattr(restore.Restore, "_exchange", meanwhile)
    run(host, agent, path, force=True)
    assert orders(host) == ["stop", "start", "stop", "start"]


def test_a_backup_that_reads_the_home_comes_to_its_end_first(host, agent, made, tmp_path, monkeypatch):
    path, _old, new = made
    monkeypatch.setattr(making, "LOCK_TIMEOUT", 0.1)
    with host.lock("backup"), pytest.raises(OpsError, match="is held by another process"):
        run(host, agent, path, force=True)
    assert tree(tmp_path / "home") == new
    assert leftovers(tmp_path) == []


def test_somebody_who_writes_into_the_home_meanwhile_loses_nothing(host, agent, made, tmp_path, monkeypatch):
    path, _old, new = made
    original = selection.replaced

    def replaced(names, **options):
        names = original(names, **options)
        # Only in the call that chooses the files to set aside.
        if "SOUL.md" in names:
            names.remove("config.yaml")
        return names

    monkeypatch.setattr(selection, "replaced", replaced)
    with pytest.raises(OpsError, match=r"'config\.yaml' cannot be replaced"):
        run(host, agent, path, force=True)
    assert tree(tmp_path / "home") == new


def test_links_out_of_the_home(host, agent, tmp_path):
    home = tmp_path / "home"
    (tmp_path / "elsewhere").mkdir()
    (home / "workspace").symlink_to(tmp_path / "elsewhere")
    (home / "gone").symlink_to("/nonexistent")
    path = making.create(host, agent, str(tmp_path / "backups")).path
    run(host, agent, path)
    assert os.readlink(home / "workspace") == str(tmp_path / "elsewhere")
    # The link is unchanged, although it has no target.
    assert os.readlink(home / "gone") == "/nonexistent"


# Killed


EVENTS = ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.symlink")


@pytest.fixture
def killed_at(killed_at_change):
    """Killed right before a change of the disk."""
    return functools.partial(killed_at_change, is_change=lambda event, _arguments: event in EVENTS)


def again(tmp_path):
    """The home, and the kit's own records, as before the restore."""
    for name in ("home", "ops/set-aside", "units"):
        shutil.rmtree(tmp_path / name, ignore_errors=True)
    shutil.copytree(tmp_path / "saved", tmp_path / "home")
    (tmp_path / "running").touch()


def undone(host, tmp_path, new):
    """Checks the state after a kill and a recovery."""
    assert tree(tmp_path / "home") == new
    assert leftovers(tmp_path) == []
    assert (tmp_path / "running").exists()
    kept = os.listdir(tmp_path / "ops/set-aside") if (tmp_path / "ops/set-aside").exists() else []
    assert all(name.endswith("-undone") for name in kept)


def test_killed_anywhere_it_is_undone(host, agent, made, tmp_path, killed_at):
    path, old, new = made
    for number in range(1000):
        again(tmp_path)
        if killed_at(number, lambda: run(host, agent, path, force=True)):
            break
        with host.lock("restore"):
            restore.Restore(host, "default", lambda _text: None).recover()
        if tree(tmp_path / "home") == expected(old, new):
            # Killed after the restore had been found healthy.
            assert leftovers(tmp_path) == []
            continue
        undone(host, tmp_path, new)
    assert number > 30
    assert tree(tmp_path / "home") == expected(old, new)


def test_killed_when_it_counts_it_is_finished(host, agent, made, tmp_path, monkeypatch, killed_at):
    path, old, new = made
    again(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(restore.Restore, "_keep", lambda *_arguments: os.kill(os.getpid(), signal.SIGKILL))
        assert not killed_at(10**6, lambda: run(host, agent, path, force=True))
    said: list[str] = []
    assert restore.Restore(host, "default", said.append).recover()
    assert "interrupted after it had succeeded: finishing it" in said[0]
    assert tree(tmp_path / "home") == expected(old, new)
    assert leftovers(tmp_path) == []
    assert len(os.listdir(tmp_path / "ops/set-aside")) == 1


@pytest.mark.parametrize("step", ["switch", "start"])
def test_killed_anywhere_while_it_is_undone_it_is_undone_by_the_next(
    host, agent, made, tmp_path, step, monkeypatch, killed_at
):
    path, _old, new = made

    def stop_there(self, journal, *arguments):
        original(self, journal, *arguments)
        os.kill(os.getpid(), signal.SIGKILL)

    original = getattr(restore.Restore, f"_{step}")
    for number in range(1000):
        again(tmp_path)
        with monkeypatch.context() as patch:
            patch.setattr(restore.Restore, f"_{step}", stop_there)
            assert not killed_at(1000, lambda: run(host, agent, path, force=True))
        assert tree(tmp_path / "home") != new
        # At boot no gateway runs.
        over = killed_at(number, lambda: restore.Restore(host, "default", lambda _text: None).recover(boot=True))
        restore.Restore(host, "default", lambda _text: None).recover()
        (tmp_path / "running").touch()
        undone(host, tmp_path, new)
        if over:
            break
    assert number > 10


def test_the_next_restore_undoes_the_one_that_was_killed_and_does_its_own(host, agent, made, tmp_path, killed_at):
    path, old, new = made
    assert not killed_at(20, lambda: run(host, agent, path, force=True))
    assert (tmp_path / "ops/agents/default/restore.json").exists()
    guards = [name for _d, _n, files in os.walk(tmp_path / "units") for name in files]
    assert "hermes-restore-recovery.service" in guards
    time.sleep(1.1)
    run(host, agent, path, force=True)
    assert tree(tmp_path / "home") == expected(old, new)
    assert leftovers(tmp_path) == []


RESERVES = ("ops/agents/default/restore.reserve", "home/.hermes-ops-restore-*.reserve")


def reserves(tmp_path):
    """The reserves that exist: pattern -> bytes on the disk."""
    return {name: path.stat().st_blocks * 512 for name in RESERVES for path in tmp_path.glob(name)}


@pytest.mark.parametrize("step", ["switch", "start"])
@pytest.mark.parametrize("boot", [True, False])
def test_interrupted_on_a_full_disk_it_is_undone_by_what_was_reserved(
    host, agent, made, tmp_path, monkeypatch, killed_at, step, boot
):
    """``restore --recover`` said that there was no space left, and the agent stayed down until somebody made some."""
    path, _old, new = made
    again(tmp_path)

    def stop_there(*arguments):
        original(*arguments)
        os.kill(os.getpid(), signal.SIGKILL)

    original = getattr(restore.Restore, f"_{step}") if step == "switch" else lambda *_arguments: None
    with monkeypatch.context() as patch:
        patch.setattr(restore.Restore, f"_{step}", stop_there)
        assert not killed_at(10**6, lambda: run(host, agent, path, force=True))
    taken = reserves(tmp_path)
    mkdir = os.mkdir

    def full(*arguments, **options):
        # Both are needed: home and journal may be on two disks.
        if set(taken) != set(RESERVES) or reserves(tmp_path):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        mkdir(*arguments, **options)

    monkeypatch.setattr(os, "mkdir", full)
    restore.Restore(host, "default", lambda _text: None).recover(boot=boot)
    (tmp_path / "running").touch()
    undone(host, tmp_path, new)
    assert min(taken.values()) >= RESERVE


@pytest.mark.parametrize("where", ["ops", "home"])
def test_without_space_to_go_back_nothing_is_begun(host, agent, made, tmp_path, monkeypatch, where):
    path, _old, new = made
    fallocate = os.posix_fallocate

    def full(descriptor, *arguments):
        if os.readlink(f"/proc/self/fd/{descriptor}").startswith(f"{tmp_path}/{where}/"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fallocate(descriptor, *arguments)

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OpsError, match=r"No space left.*Fix: free space"):
        run(host, agent, path, force=True)
    assert tree(tmp_path / "home") == new
    assert orders(host) == []
    assert leftovers(tmp_path) == []


# What an agent may do to it

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="SKIPPED, NOT PROVED: only root acts for an agent")


@pytest.fixture
def nobodys(host, ground, monkeypatch):
    """A home of another user's, with real workers."""
    for module in (worker, extracting, making):
        monkeypatch.setattr(module, "Worker", REAL)
    top = Path(tempfile.mkdtemp(dir=ground))
    top.chmod(0o755)
    host.data_dir, host.ops_dir = str(top), str(top / "ops")
    home = top / "home"
    make_home(home)
    subprocess.run(["chown", "-R", "nobody", str(home)], check=True)
    agent = described.agent(user="nobody", home=str(home), directory=str(top), unit=UNIT, drain=0)
    host.records("default").write_agent(agent)
    yield top, home, agent
    # pytest cannot remove what is nested deeply.
    subprocess.run(["rm", "-rf", str(top)], check=True)


def as_agent(program, *arguments):
    subprocess.run(["/usr/bin/python3", "-c", program, *map(str, arguments)], user="nobody", check=True)


NEST = """
import os, sys
os.mkdir(sys.argv[1])
descriptor = os.open(sys.argv[1], os.O_RDONLY)
for _each in range(1300):
    os.mkdir("d", dir_fd=descriptor)
    descriptor, above = os.open("d", os.O_RDONLY, dir_fd=descriptor), descriptor
    os.close(above)
"""


@needs_root
def test_deep_directories_in_the_way_stop_neither_restores_nor_backups(host, nobodys):
    top, home, agent = nobodys
    path = making.create(host, agent, str(top / "backups")).path
    for name in (".hermes-ops-restore-1", ".hermes-ops-copy-1", ".hermes-ops-restore"):
        as_agent(NEST, home / name)
    run(host, agent, path, force=True)
    assert not (home / ".hermes-ops-restore-1").exists()
    making.create(host, agent, str(top / "backups"))
    assert not (home / ".hermes-ops-copy-1").exists()
    assert restore.Restore(host, "default", print).recover() is False


@needs_root
@pytest.mark.parametrize("what", ["a pipe", "a cache", "a link", "a database"])
def test_whatever_lies_in_a_home_gives_way_to_the_backup(host, nobodys, what):
    top, home, agent = nobodys
    path = making.create(host, agent, str(top / "backups")).path
    program = {
        "a pipe": "os.unlink('config.yaml'); os.mkfifo('config.yaml')",
        "a cache": "open('memories/CACHEDIR.TAG', 'w').write('Signature: 8a477f597d28d172789f06886806bc55')",
        "a link": "os.rename('memories', 'gone'); os.symlink('/etc', 'memories')",
        "a database": "os.mkfifo('state.db-journal')",
    }[what]
    as_agent(f"import os, sys; os.chdir(sys.argv[1]); {program}", home)
    run(host, agent, path)
    assert (home / "config.yaml").read_text() == "model: one\n"
    assert (home / "memories/MEMORY.md").read_text() == "old\n"
    assert not (home / "memories").is_symlink()
    assert {os.lstat(each).st_uid for each in home.rglob("*")} == {Account.named("nobody").uid}


IN_THE_WAY = {
    "files": "[open(name, 'w') for name in names]",
    "closed directories": "[os.mkdir(name, 0) for name in names]",
    "links": "[os.symlink('/etc', name) for name in names]",
    "full directories": "[os.makedirs(name + '/full') for name in names]",
}


@needs_root
@pytest.mark.parametrize("what", IN_THE_WAY)
@pytest.mark.parametrize("step", ["_switch", "_start"])
def test_an_agent_that_takes_the_names_of_its_restore_gets_its_home_back(host, nobodys, monkeypatch, step, what):
    """It sees the time of the restore in the name of the first directory, while its gateway runs."""
    top, home, agent = nobodys
    path = making.create(host, agent, str(top / "backups")).path
    (home / "config.yaml").write_text("model: two\n")
    original = getattr(restore.Restore, step)

    def plant(self, journal, *arguments):
        ours = ("setting-aside", "going-back", "undone", *(("set-aside",) if step == "_switch" else ()))
        as_agent(
            f"import os, sys; os.chdir(sys.argv[1]); names = sys.argv[2:]; {IN_THE_WAY[what]}; os.chmod('.', 0o500)",
            home,
            *(f".hermes-ops-{name}-{journal.stamp}" for name in ours),
        )
        monkeypatch.setattr(restore.Restore, "_start", fail)
        return None if step == "_start" and fail() else original(self, journal, *arguments)

    def fail(*_arguments):
        raise OpsError("is not healthy")

    monkeypatch.setattr(restore.Restore, step, plant)
    with pytest.raises(OpsError):
        run(host, agent, path, force=True)
    assert not (top / "ops/agents/default/restore.json").exists()
    assert (home / "config.yaml").read_text() == "model: two\n"
    assert restore.Restore(host, "default", print).recover() is False


@needs_root
def test_a_hostile_database_keeps_no_home_from_being_put_back(host, nobodys, monkeypatch):
    top, home, agent = nobodys
    path = making.create(host, agent, str(top / "backups")).path
    before = tree(home)

    def spoil(*_arguments):
        with contextlib.closing(sqlite3.connect(home / "state.db")) as database:
            database.execute("INSERT INTO messages VALUES ('s', 'user', x'ff', 'late')")
            database.execute("INSERT INTO messages VALUES ('s', 'user', zeroblob(300000000), 9e99)")
            database.commit()
        raise OpsError("is not healthy")

    monkeypatch.setattr(restore.Restore, "_start", spoil)
    with pytest.raises(OpsError, match="is not healthy"):
        run(host, agent, path, force=True)
    assert tree(home) == before


@needs_root
def test_a_journal_that_an_agent_planted_is_not_believed(host, nobodys):
    """The agent could do so while the volume was not mounted."""
    top, _home, agent = nobodys
    target = top / "cron.d"
    target.mkdir()
    shutil.rmtree(top / "ops")
    top.chmod(0o1777)
    stamp = "20260101T000000Z"
    journal = {"agent": "default", "home": str(target), "inode": os.stat(target).st_ino, "stamp": stamp}
    journal |= {"running": False, "step": "switch"}
    as_agent(
        "import os, sys; os.mkdir(sys.argv[1]); open(sys.argv[1] + '/restore.json', 'w').write(sys.argv[2])",
        top / "ops",
        json.dumps(journal),
    )
    with pytest.raises(OpsError, match="cannot be trusted"):
        restore.Restore(host, "default", print).recover(boot=True)
    for job in ("restore", "backup"):
        with pytest.raises(OpsError, match="cannot be trusted"), host.lock(job):
            pass
    with pytest.raises(OpsError, match="cannot be trusted"):
        making.create(host, agent, str(top / "backups"))
    assert os.listdir(target) == []


@needs_root
def test_root_changes_nothing_where_a_journal_says_that_a_home_was(host, nobodys):
    """This holds even if the home is root's own: the work is done as the agent's user."""
    top, _home, _agent = nobodys
    target = top / "cron.d"
    stamp = "20260101T000000Z"
    (target / f".hermes-ops-set-aside-{stamp}").mkdir(parents=True)
    (target / f".hermes-ops-set-aside-{stamp}/evil").touch()
    inode = os.stat(target).st_ino
    journal = restore.Journal("x", "nobody", str(target), inode, stamp, running=False, step="switch")
    restore.Restore(host, "default", print).undertaking.write(dataclasses.asdict(journal))
    with pytest.raises(OpsError):
        restore.Restore(host, "default", print).recover(boot=True)
    assert os.listdir(target) == [f".hermes-ops-set-aside-{stamp}"]


@needs_root
def test_a_home_whose_volume_is_not_mounted_is_left_alone(host, nobodys, killed_at):
    top, home, agent = nobodys
    path = making.create(host, agent, str(top / "backups")).path
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(restore.Restore, "_start", lambda *_arguments: os.kill(os.getpid(), signal.SIGKILL))
        assert not killed_at(10**6, lambda: run(host, agent, path, force=True))
    home.rename(top / "unmounted")
    home.mkdir()
    # As after a mount of an old copy: not even a name that is ours is touched.
    (stamp,) = (path.name[-16:] for path in (top / "unmounted").glob(".hermes-ops-set-aside-*"))
    (home / f".hermes-ops-restore-{stamp}.reserve").touch()
    with pytest.raises(OpsError, match=r"is another directory than before.*Fix: mount its volume"):
        restore.Restore(host, "default", print).recover()
    (home / f".hermes-ops-restore-{stamp}.reserve").unlink()
    assert (top / "ops/agents/default/restore.json").exists()
    home.rmdir()
    (top / "unmounted").rename(home)
    assert restore.Restore(host, "default", print).recover()
    assert not (top / "ops/agents/default/restore.json").exists()


@needs_root
def test_what_is_mounted_in_a_home_stays_where_it_is(host, nobodys):
    top, home, agent = nobodys
    path = making.create(host, agent, str(top / "backups")).path
    (top / "others").mkdir()
    (top / "others/precious").write_text("x")
    (home / "media").mkdir()
    if subprocess.run(["mount", "--bind", top / "others", home / "media"]).returncode:
        pytest.skip("SKIPPED, NOT PROVED: that mounts stay, because none can be made")
    try:
        run(host, agent, path, force=True)
        assert (home / "media/precious").read_text() == "x"
        assert os.stat(top / "others/precious").st_uid == 0
    finally:
        subprocess.run(["umount", home / "media"], check=True)


@needs_root
def test_directories_that_may_not_be_written_to_change_places_like_others(host, nobodys):
    top, home, agent = nobodys
    as_agent("import os, sys; os.chmod(sys.argv[1], 0o555)", home / "skills")
    path = making.create(host, agent, str(top / "backups")).path
    aside, _said = run(host, agent, path, force=True)
    assert {os.stat(each).st_mode & 0o777 for each in (home / "skills", Path(aside, "skills"))} == {0o555}


@needs_root
def test_an_agent_that_holds_everything_in_its_home_is_one_error(host, nobodys):
    """Files of root's that the agent cannot read are not touched."""
    top, home, agent = nobodys
    path = making.create(host, agent, str(top / "backups")).path
    (home / "memories/roots").mkdir(mode=0o700)
    (home / "memories/roots/file").write_text("root's")
    aside, _said = run(host, agent, path, force=True)
    assert Path(aside, "memories/roots/file").read_text() == "root's"
    assert os.stat(Path(aside, "memories/roots")).st_uid == 0


# What last worked


def test_what_last_worked_is_put_back(host, agent, tmp_path):
    home, records = tmp_path / "home", host.records("default")
    for name in ("config.yaml", ".env"):
        records.keep(str(home / name), Account.current(), replace=True)
    (home / "config.yaml").write_text("broken: [")
    (home / ".env").write_text("KEY=broken\n")
    said = []
    assert kept.check_kept(host, agent) == ["config.yaml", ".env"]
    assert (home / "config.yaml").read_text() == "broken: ["
    assert orders(host) == []
    aside = kept.put_back_kept(host, agent, said.append)
    assert (home / "config.yaml").read_text() == "model: one\n"
    assert (home / ".env").read_text() == "KEY=of the host\n"
    assert os.stat(home / ".env").st_mode & 0o777 == 0o600
    assert tree(aside) == {"config.yaml": b"broken: [", ".env": b"KEY=broken\n"}
    # One call of systemctl: after a kill between a stop and a start nothing would start the gateway.
    assert orders(host) == ["restart"]
    # No file differs, so the gateway is only restarted.
    assert kept.check_kept(host, agent) == []
    assert kept.put_back_kept(host, agent, said.append) is None


def test_what_last_worked_is_only_compared_with_check(host, agent, tmp_path, monkeypatch, capsys):
    """``restore --kept --check`` restored: of two things to do, one was forgotten."""
    host.records("default").write_agent(agent)
    host.records("default").keep(str(tmp_path / "home/config.yaml"), Account.current(), replace=True)
    monkeypatch.setattr(command_restore.command_backup, "installation", lambda: host)
    for text, said in (
        ("broken: [", "agent default: would put back config.yaml; would restart it\n"),
        ("model: one\n", "agent default: config.yaml and .env are what last worked; would restart it\n"),
    ):
        (tmp_path / "home/config.yaml").write_text(text)
        assert cli.main(["restore", "--kept", "--check"]) == 0
        assert capsys.readouterr().out == said
        assert (tmp_path / "home/config.yaml").read_text() == text
    assert orders(host) == []


@pytest.mark.parametrize("other", [["--recover"], ["restic:latest"]])
def test_what_last_worked_comes_from_no_backup(host, monkeypatch, other, capsys):
    monkeypatch.setattr(command_restore.command_backup, "installation", lambda: host)
    assert cli.main(["restore", "--kept", *other]) == 2
    assert "--kept takes no backup" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["restore", "separate"])
def test_check_is_no_word_beside_what_changes_something(command, capsys):
    with pytest.raises(SystemExit):
        cli.main([command, "--check", "--recover"])
    assert "not allowed with argument --check" in capsys.readouterr().err


def test_nothing_was_ever_kept(host, agent):
    with pytest.raises(OpsError, match="nothing is kept"):
        kept.put_back_kept(host, agent, print)


@needs_root
def test_an_agent_that_prevents_the_undoing_of_its_restore_is_named_and_blocks_nobody_else(host, nobodys, killed_at):
    top, home, agent = nobodys
    path = making.create(host, agent, str(top / "backups")).path
    make_home(top / "other")
    subprocess.run(["chown", "-R", "nobody", str(top / "other")], check=True)
    other = dataclasses.replace(agent, name="other", home=str(top / "other"), unit="hermes-gateway@other.service")
    host.records("other").write_agent(other)
    host.__dict__.pop("agents", None)
    before = tree(top / "other")
    theirs = making.create(host, other, str(top / "backups")).path
    for each, archive in ((agent, path), (other, theirs)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(restore.Restore, "_start", lambda *_arguments: os.kill(os.getpid(), signal.SIGKILL))
            assert not killed_at(10**6, lambda each=each, archive=archive: run(host, each, archive, force=True))
    home.rename(top / "away")
    with pytest.raises(OpsError) as caught:
        restore.recover_all(host, print)
    journal = top / "ops/agents/default/restore.json"
    assert str(caught.value).startswith(f"agent default: {home}: is another directory than before. Fix: ")
    assert f"rm {journal}" in str(caught.value)
    assert journal.exists()
    # The other agent's was undone, and it can be backed up and restored again.
    assert tree(top / "other") == before
    run(host, other, making.create(host, other, str(top / "backups")).path, force=True)
    (top / "away").rename(home)
    restore.recover_all(host, print)
    assert not host.unfinished("restore")
    assert not os.path.exists(restore.Restore(host, "default", print).undertaking.guard.path)


def test_at_boot_no_agent_uses_up_the_time_of_the_others(host, agent, made, monkeypatch, killed_at):
    """All gateways wait for the unit that recovers."""
    path, _old, _new = made
    with monkeypatch.context() as patch:
        patch.setattr(restore.Restore, "_start", lambda *_arguments: os.kill(os.getpid(), signal.SIGKILL))
        assert not killed_at(10**6, lambda: run(host, agent, path, force=True))
    host.records("other").prepare()
    host.records("third").prepare()
    for name in ("other", "third"):
        journal = restore.Journal(name, agent.user, "/nonexistent", 1, "20260101T000000Z", running=False, step="switch")
        restore.Restore(host, name, print).undertaking.write(dataclasses.asdict(journal))
    seconds, work = [], restore.work

    def noted(*arguments, limits, **options):
        seconds.append(limits.seconds)
        return work(*arguments, limits=limits, **options)

    monkeypatch.setattr(restore, "work", noted)
    with pytest.raises(OpsError, match="agent other: /nonexistent: is another directory") as caught:
        restore.recover_all(host, print, boot=True)
    assert "agent third: " in str(caught.value)
    # The content is put back, and the staging directory is removed.
    assert len(seconds) >= 2
    assert 3 * 2 * max(seconds) <= guard.TIMEOUT
