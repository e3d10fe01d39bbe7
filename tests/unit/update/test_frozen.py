# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Databases are frozen as they are, put back where they were migrated, and nothing written since is lost."""

from __future__ import annotations

import contextlib
import errno
import os
import sqlite3
from pathlib import Path

import pytest
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.errors import OpsError
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.files import Account
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.update import copies, frozen
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.update.frozen import Frozen


@contextlib.contextmanager
def opened(path):
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        yield connection
    finally:
        connection.close()


def rows(path):
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        return [row[0] for row in connection.execute("SELECT text FROM said ORDER BY rowid")]


def version(path):
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        return connection.execute("SELECT version FROM schema_version").fetchone()[0]


def say(path, text):
    with opened(path) as connection:
        connection.execute("INSERT INTO said VALUES (?)", (text,))


def migrate(path):
    with opened(path) as connection:
        connection.execute("UPDATE schema_version SET version = version + 1")


BUDGET = 2**30


class World:
    def __init__(self, top: Path) -> None:
        self.home = top / "home"
        self.aside = top / "aside"
        self.directory = top / "frozen"
        (self.home / "cron").mkdir(parents=True)
        for name in ("state.db", "cron/executions.db"):
            with opened(self.home / name) as connection:
                connection.execute("CREATE TABLE schema_version (version INTEGER)")
                connection.execute("INSERT INTO schema_version VALUES (1)")
                connection.execute("CREATE TABLE said (text TEXT)")
                connection.execute("INSERT INTO said VALUES ('first')")
        (self.home / "config.yaml").write_text("_config_version: 33\nmodel: {default: m}\n")
        self.frozen = self.again()

    def again(self) -> Frozen:
        """Reads the database as another process would."""
        return Frozen("default", str(self.home), Account.current(), str(self.directory), str(self.aside))

    def freeze(self) -> None:
        self.frozen.copy_ahead(BUDGET)
        frozen.complete([self.frozen], BUDGET)

    def copies(self) -> list[str]:
        return sorted(str(path.relative_to(self.directory)) for path in self.directory.rglob("*") if path.is_file())


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_what_is_not_migrated_stays(world):
    world.freeze()
    say(world.home / "state.db", "second")
    (world.home / "config.yaml").write_text("_config_version: 33\nmodel: {default: another}\n")
    assert world.again().put_back() == []
    assert rows(world.home / "state.db") == ["first", "second"]
    assert "another" in (world.home / "config.yaml").read_text()


def test_what_is_migrated_goes_back_and_what_was_learnt_is_kept(world):
    world.freeze()
    migrate(world.home / "state.db")
    say(world.home / "state.db", "learnt")
    say(world.home / "cron/executions.db", "not migrated")
    assert world.again().put_back() == ["state.db"]
    assert rows(world.home / "state.db") == ["first"]
    assert rows(world.aside / "state.db") == ["first", "learnt"]
    assert rows(world.home / "cron/executions.db") == ["first", "not migrated"]
    assert os.stat(world.home / "state.db").st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    "statement",
    [
        "PRAGMA user_version = 7",
        "CREATE TABLE another (x)",
        "ALTER TABLE said ADD COLUMN x",
        "CREATE INDEX i ON said (text)",
        "INSERT INTO schema_version VALUES (2)",
    ],
)
def test_every_kind_of_migration_is_seen(world, statement):
    world.freeze()
    with opened(world.home / "cron/executions.db") as connection:
        connection.execute(statement)
    assert world.again().put_back() == ["cron/executions.db"]


def test_a_migration_that_is_only_in_the_log_is_seen_and_the_log_goes_aside(world):
    world.freeze()
    # As a gateway that was killed leaves it.
    with opened(world.home / "state.db") as living:
        living.execute("UPDATE schema_version SET version = 2")
        living.execute("INSERT INTO said VALUES ('learnt')")
        assert os.path.getsize(world.home / "state.db-wal")
        assert world.again().put_back() == ["state.db"]
    assert not (world.home / "state.db-wal").exists() or not os.path.getsize(world.home / "state.db-wal")
    assert rows(world.home / "state.db") == ["first"]
    assert rows(world.aside / "state.db") == ["first", "learnt"]


def test_config_goes_back_by_its_version_alone(world):
    world.freeze()
    (world.home / "config.yaml").write_text("_config_version: 34\nmodel: {default: m}\n")
    assert world.again().put_back() == ["config.yaml"]
    assert "_config_version: 33" in (world.home / "config.yaml").read_text()
    assert "_config_version: 34" in (world.aside / "config.yaml").read_text()


@pytest.mark.parametrize("damage", [b"no database at all", None])
def test_a_database_that_is_damaged_or_gone_goes_back(world, damage):
    world.freeze()
    (world.home / "state.db").unlink()
    if damage:
        (world.home / "state.db").write_bytes(damage)
    assert world.again().put_back() == ["state.db"]
    assert rows(world.home / "state.db") == ["first"]
    assert not damage or (world.aside / "state.db").read_bytes() == damage


def test_a_database_of_the_new_release_alone_stays(world):
    world.freeze()
    with opened(world.home / "new.db") as connection:
        connection.execute("CREATE TABLE said (text)")
    assert world.again().put_back() == []
    assert (world.home / "new.db").exists()


def test_only_what_changed_since_is_copied_again(world, monkeypatch):
    for name in ("state.db", "cron/executions.db"):
        os.utime(world.home / name, (1, 1))
    world.frozen.copy_ahead(BUDGET)
    say(world.home / "state.db", "second")
    seen = []
    monkeypatch.setattr(copies, "_transfer", lambda stream, target: seen.append(stream.name))
    frozen.complete([world.frozen], BUDGET)
    assert len(seen) == 1


def test_a_copy_is_completed_block_by_block(world):
    with opened(world.home / "state.db") as connection:
        connection.executemany("INSERT INTO said VALUES (?)", [(f"{n:0100000d}",) for n in range(60)])
    world.frozen.copy_ahead(BUDGET)
    with opened(world.home / "state.db") as connection:
        connection.execute("UPDATE said SET text = 'changed' WHERE rowid = 30")
        connection.execute("DELETE FROM said WHERE rowid > 50")
        connection.execute("VACUUM")
    frozen.complete([world.frozen], BUDGET)
    assert rows(world.directory / "state.db") == rows(world.home / "state.db")
    with contextlib.closing(sqlite3.connect(world.directory / "state.db")) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def test_what_somebody_still_writes_is_copied_consistently(world):
    """A person's own chat may be open while the gateway is down."""
    world.frozen.copy_ahead(BUDGET)
    with opened(world.home / "state.db") as living:
        living.execute("INSERT INTO said VALUES ('second')")
        assert os.path.getsize(world.home / "state.db-wal")
        frozen.complete([world.frozen], BUDGET)
        assert rows(world.directory / "state.db") == ["first", "second"]


def test_a_database_that_comes_or_goes_between_the_two(world):
    world.frozen.copy_ahead(BUDGET)
    with opened(world.home / "late.db") as connection:
        connection.execute("CREATE TABLE said (text)")
    (world.home / "cron/executions.db").unlink()
    frozen.complete([world.frozen], BUDGET)
    assert world.copies() == ["config.yaml", "late.db", "state.db"]


class Killed(BaseException):
    pass


def calls_until_killed(monkeypatch, count):
    """From the *count*-th call on, every change of the disk plays SIGKILL: no clean-up runs after it."""
    left = [count]

    def wrap(original):
        def call(*arguments, **options):
            left[0] -= 1
            if left[0] < 0:
                raise Killed
            return original(*arguments, **options)

        return call

    for name in ("rename", "replace", "unlink", "link", "chown", "chmod", "mkdir", "symlink", "rmdir"):
        monkeypatch.setattr(os, name, wrap(getattr(os, name)))
    return left


@pytest.mark.parametrize("separate", [False, True], ids=["one file system", "two file systems"])
def test_killed_anywhere_and_called_again(tmp_path, separate):
    count = 0
    while True:
        world = World(tmp_path / str(count))
        world.freeze()
        migrate(world.home / "state.db")
        # The whole migration is in the WAL: the database file alone looks as if it had never been migrated.
        living = sqlite3.connect(world.home / "cron/executions.db", isolation_level=None)
        living.execute("PRAGMA wal_autocheckpoint = 0")
        living.execute("UPDATE schema_version SET version = 2")
        living.execute("INSERT INTO said VALUES ('learnt')")
        (world.home / "config.yaml").write_text("_config_version: 34\n")
        with pytest.MonkeyPatch.context() as patched:
            if separate:
                patched.setattr(os, "rename", across(os.rename, world))
                patched.setattr(os, "link", refuse)
            left = calls_until_killed(patched, count)
            with contextlib.suppress(Killed):
                world.again().put_back()
        finished = left[0] >= 0
        with pytest.MonkeyPatch.context() as patched:
            if separate:
                patched.setattr(os, "rename", across(os.rename, world))
                patched.setattr(os, "link", refuse)
            world.again().put_back()
        living.close()
        for name in ("state.db", "cron/executions.db"):
            assert rows(world.home / name) == ["first"], (count, name)
            assert version(world.home / name) == 1, (count, name)
        assert rows(world.aside / "cron/executions.db") == ["first", "learnt"], count
        assert "33" in (world.home / "config.yaml").read_text()
        assert "34" in (world.aside / "config.yaml").read_text()
        assert not [name for _d, _n, files in os.walk(world.home) for name in files if name.endswith(".partial")]
        if finished:
            break
        count += 1
    assert count > 10


def refuse(*_arguments, **_options):
    raise OSError(errno.EXDEV, "Invalid cross-device link")


def across(rename, world):
    """Plays rename between a home and copies on two file systems."""

    def call(source, target, *, src_dir_fd=None, dst_dir_fd=None):
        if src_dir_fd is not None and within(src_dir_fd, world.home) != within(dst_dir_fd, world.home):
            refuse()
        return rename(source, target, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd)

    return call


def within(descriptor, top):
    return Path(os.readlink(f"/proc/self/fd/{descriptor}")).is_relative_to(top)


def test_a_full_disk_leaves_the_home_as_it_is(world, monkeypatch):
    world.freeze()
    migrate(world.home / "state.db")
    say(world.home / "state.db", "learnt")
    monkeypatch.setattr(os, "link", refuse)

    def full(_source, _target):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(copies, "_transfer", full)
    with pytest.raises(OpsError, match="free space"):
        world.again().put_back()
    # The old release starts with the data as it is, rather than not at all.
    assert rows(world.home / "state.db") == ["first", "learnt"]


def test_a_link_of_the_agent_is_not_followed(world, tmp_path):
    world.freeze()
    migrate(world.home / "cron/executions.db")
    elsewhere = tmp_path / "elsewhere"
    os.rename(world.home / "cron", elsewhere)
    (world.home / "cron").symlink_to(elsewhere)
    before = rows(elsewhere / "executions.db"), version(elsewhere / "executions.db")
    with pytest.raises(OpsError, match="symbolic link"):
        world.again().put_back()
    assert (rows(elsewhere / "executions.db"), version(elsewhere / "executions.db")) == before


def test_somebody_else_s_damaged_database_keeps_nobody_from_an_update(world):
    (world.home / "workspace").mkdir()
    damaged = world.home / "workspace/browser.db"
    damaged.write_bytes(b"SQLite format 3\0" + b"x" * 5000)
    world.freeze()
    assert not (world.directory / "workspace/browser.db").exists()
    migrate(world.home / "state.db")
    assert world.frozen.put_back() == ["state.db"]
    assert damaged.exists()


def test_a_damaged_database_of_hermes_stops_an_update_but_no_way_back(world):
    (world.home / "state.db").write_bytes(b"SQLite format 3\0" + b"x" * 5000)
    with pytest.raises(OpsError, match=r"state\.db"):
        world.frozen.copy_ahead(BUDGET)
    lenient = world.again()
    lenient.strict = False
    lenient.copy_ahead(BUDGET)
    frozen.complete([lenient], BUDGET)
    assert not (world.directory / "state.db").exists()
    assert (world.directory / "cron/executions.db").exists()
