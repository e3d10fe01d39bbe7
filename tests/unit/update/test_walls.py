# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whatever an agent puts into its home, root does not hang, the disk does not fill up, and a rollback works."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sqlite3
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.supervise import canary
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.errors import OpsError
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.files import Account
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.worker import WorkerDied
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.update import copies, frozen
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.update.frozen import Frozen

BUDGET = 2**30
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="SKIPPED, NOT PROVED: only root starts workers as others")
pytestmark = needs_root

ENDLESS = """
    DROP TABLE IF EXISTS schema_version;
    CREATE VIEW schema_version AS
        WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT x, hex(zeroblob(1000)) FROM c;
"""
# A single slow call of an SQL function, which SQLite's progress handler cannot interrupt.
SLOW = """
    DROP TABLE IF EXISTS schema_version;
    CREATE TABLE schema_version (version);
    INSERT INTO schema_version VALUES (1);
    ALTER TABLE schema_version ADD COLUMN slow AS (
        printf('%.*c', 50000000, 'a') LIKE '%' || printf('%.*c', 20000, 'a') || 'b%'
    );
"""


class Home:
    """The home of an agent that runs as nobody, and what root froze of it."""

    def __init__(self, top: Path) -> None:
        self.account = Account.named("nobody")
        self.home = top / "home"
        self.home.mkdir()
        self.own(self.home)
        self.ops = top / "ops"
        for name in ("state.db", "notes.db"):
            self.sql(name, "CREATE TABLE schema_version (version); INSERT INTO schema_version VALUES (1)")
        self.put("config.yaml", b"_config_version: 33\n")
        self.frozen = Frozen(
            "coder", str(self.home), self.account, str(self.ops / "frozen/run/coder"), str(self.ops / "aside/run/coder")
        )

    def own(self, path: Path) -> None:
        os.chown(path, self.account.uid, self.account.gid, follow_symlinks=False)

    def put(self, name: str, text: bytes) -> Path:
        path = self.home / name
        path.write_bytes(text)
        self.own(path)
        return path

    def sql(self, name: str, script: str) -> None:
        with contextlib.closing(sqlite3.connect(self.home / name)) as connection:
            connection.executescript(script)
        self.own(self.home / name)

    def pipe(self, name: str) -> None:
        os.mkfifo(self.home / name)
        self.own(self.home / name)

    def freeze(self) -> None:
        self.frozen.copy_ahead(BUDGET)
        frozen.complete([self.frozen], BUDGET)

    def copied(self) -> set[str]:
        return {path.name for path in (self.ops / "frozen/run/coder").rglob("*") if path.is_file()}


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that every user may enter, unlike pytest's own."""
    path = Path(tempfile.mkdtemp(prefix="hermes-walls-"))
    path.chmod(0o755)
    yield path
    subprocess.run(["rm", "-rf", path], check=True)


@pytest.fixture
def home(real_workers, place) -> Home:
    return Home(place)


def deep(path: Path, account: Account, depth: int = 1300) -> None:
    """Nested directories, deeper than a path or the kit's own stack can be."""
    os.mkdir(path)
    os.chown(path, account.uid, account.gid)
    descriptor = os.open(path, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir("d", dir_fd=descriptor)
        os.chown("d", account.uid, account.gid, dir_fd=descriptor)
        below = os.open("d", os.O_RDONLY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = below
    os.close(descriptor)


def test_copies_are_the_agent_s_where_only_root_may_enter(home):
    home.freeze()
    inside = home.ops / "frozen/run/coder"
    assert inside.stat().st_uid == (inside / "state.db").stat().st_uid == home.account.uid
    for path in (home.ops, home.ops / "frozen", home.ops / "frozen/run", home.ops / "frozen/run/coder.json"):
        assert (path.stat().st_uid, stat.S_IMODE(path.stat().st_mode) & 0o077) == (0, 0)
    reached = subprocess.run(["ls", inside], user="nobody", group=home.account.gid, extra_groups=[], check=False)
    assert reached.returncode != 0


@pytest.mark.parametrize("suffix", ["-journal", "-wal", "-shm", ""])
def test_a_pipe_beside_a_database_stops_an_update_before_anything_is_touched(home, suffix):
    (home.home / "state.db").unlink(missing_ok=not suffix)
    if suffix:
        home.sql("state.db", "CREATE TABLE said (text)")
    home.pipe(f"state.db{suffix}")
    if suffix:
        with pytest.raises(OpsError, match=r"agent coder: .*state\.db.*: is not a regular file"):
            home.frozen.copy_ahead(BUDGET)
    else:
        # No database at all: the agent has nothing that could be migrated.
        home.frozen.copy_ahead(BUDGET)
        assert "state.db" not in home.copied()


def test_a_pipe_beside_a_database_of_the_agent_s_own_concerns_nobody(home):
    home.pipe("notes.db-journal")
    home.freeze()
    assert home.copied() == {"state.db", "config.yaml"}


@pytest.mark.parametrize("suffix", ["-journal", "-wal"])
def test_a_pipe_that_comes_later_goes_aside(home, suffix):
    home.freeze()
    home.pipe(f"state.db{suffix}")
    assert home.frozen.put_back() == ["state.db"]
    assert not (home.home / f"state.db{suffix}").exists()
    assert stat.S_ISFIFO((home.ops / f"aside/run/coder/state.db{suffix}").lstat().st_mode)


def test_a_view_that_never_ends_is_not_asked(home):
    home.sql("notes.db", ENDLESS)
    home.freeze()
    assert home.copied() == {"state.db", "config.yaml"}
    home.sql("state.db", ENDLESS)
    with pytest.raises(OpsError, match="agent coder"):
        home.freeze()
    # A schema that cannot be read counts as migrated.
    assert home.frozen.put_back() == ["state.db"]


def test_what_cannot_be_interrupted_is_killed_and_named(home, monkeypatch):
    monkeypatch.setattr(frozen, "STOPPED_SECONDS", 3.0)
    home.sql("state.db", SLOW)
    home.frozen.copy_ahead(BUDGET)
    with pytest.raises(WorkerDied, match=r"agent coder: .* did not finish within 3 s"):
        frozen.complete([home.frozen], BUDGET)


def test_who_makes_the_comparison_hang_gets_everything_back(home, monkeypatch):
    monkeypatch.setattr(frozen, "BACK_SECONDS", 3.0)
    home.freeze()
    home.sql("state.db", SLOW)
    assert home.frozen.put_back() == ["config.yaml", "notes.db", "state.db"]
    with contextlib.closing(sqlite3.connect(home.home / "state.db")) as connection:
        assert connection.execute("SELECT version FROM schema_version").fetchall() == [(1,)]


HOLD = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN EXCLUSIVE")
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def held(home) -> Iterator[None]:
    """Somebody holds a lock on state.db and does not let go."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, home.home / "state.db"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout.readline() == b"held\n"
        yield
        holder.stdin.close()


def test_a_lock_that_is_held_for_ever_is_found_before_anything_is_touched(home, monkeypatch, played_here, request):
    monkeypatch.setattr(copies, "BUSY_SECONDS", 0.1)
    request.getfixturevalue("held")
    with pytest.raises(OpsError, match=r"agent coder: .*state\.db.*locked"):
        home.frozen.copy_ahead(BUDGET)


def test_a_lock_that_is_held_for_ever_does_not_keep_anybody_from_going_back(home, monkeypatch, played_here, request):
    home.freeze()
    monkeypatch.setattr(copies, "SCHEMA_SECONDS", 0.1)
    request.getfixturevalue("held")
    assert home.frozen.put_back() == ["state.db"]


@pytest.fixture
def played_here(monkeypatch, played_worker) -> None:
    """Runs workers in the test's own process, for tests about waiting."""
    monkeypatch.setattr(frozen, "Worker", played_worker)


def test_a_hole_takes_no_space(home):
    path = home.home / "notes.db"
    os.truncate(path, 2**29)
    home.freeze()
    copy = home.ops / "frozen/run/coder/notes.db"
    assert copy.stat().st_size == 2**29
    # Written in blocks of a megabyte.
    assert copy.stat().st_blocks * 512 < 2**21
    assert home.frozen.size() < 2**20


@pytest.mark.parametrize("size", [2**31, 2**42])
def test_what_is_larger_than_the_disk_is_left_out_or_stops_an_update(home, size):
    os.truncate(home.home / "notes.db", size)
    home.freeze()
    assert home.copied() == {"state.db", "config.yaml"}
    os.truncate(home.home / "state.db", size)
    with pytest.raises(OpsError, match=r"agent coder: .*state\.db: is too large"):
        home.frozen.copy_ahead(BUDGET)


@pytest.mark.parametrize("kind", ["pipe", "sparse", "directory"])
def test_a_config_that_is_none(home, kind):
    path = home.home / "config.yaml"
    path.unlink()
    if kind == "pipe":
        home.pipe("config.yaml")
    elif kind == "directory":
        path.mkdir()
        home.own(path)
    else:
        home.put("config.yaml", b"")
        os.truncate(path, 2**39)
    with pytest.raises(OpsError, match=r"agent coder: .*config\.yaml"):
        home.frozen.copy_ahead(BUDGET)


@pytest.mark.parametrize("kind", ["pipe", "sparse", "directory"])
def test_a_config_that_is_none_afterwards_goes_back(home, kind):
    home.freeze()
    (home.home / "config.yaml").unlink()
    test = {"pipe": lambda: home.pipe("config.yaml"), "sparse": lambda: home.put("config.yaml", b"")}
    if kind == "directory":
        deep(home.home / "config.yaml", home.account)
    else:
        test[kind]()
        if kind == "sparse":
            os.truncate(home.home / "config.yaml", 2**39)
    assert home.frozen.put_back() == ["config.yaml"]
    assert (home.home / "config.yaml").read_bytes() == b"_config_version: 33\n"


def test_names_that_are_taken_keep_nobody_from_anything(home):
    with contextlib.closing(sqlite3.connect(home.home / "state.db")) as living:
        living.execute("PRAGMA journal_mode = WAL")
        living.execute("INSERT INTO schema_version VALUES (2)")
        living.commit()
        for path in home.home.glob("state.db-*"):
            path.chmod(0o666)
        (home.home / ".state.db.hermes-ops").mkdir()
        deep(home.home / ".state.db.partial", home.account)
        home.freeze()
        living.execute("CREATE TABLE more (text)")
        assert home.frozen.put_back() == ["state.db"]
    with contextlib.closing(sqlite3.connect(home.home / "state.db")) as connection:
        assert connection.execute("SELECT version FROM schema_version").fetchall() == [(1,), (2,)]
    assert not list(home.home.glob(".state.db.*partial"))
    assert not list(home.home.glob(".state.db.*.hermes-ops"))


def test_a_home_that_forbids_writing_goes_back(home):
    (home.home / "cron").mkdir()
    home.own(home.home / "cron")
    home.sql("cron/executions.db", "CREATE TABLE said (text)")
    home.freeze()
    home.sql("cron/executions.db", "CREATE TABLE more (text)")
    home.sql("state.db", "CREATE TABLE more (text)")
    (home.home / "cron").chmod(0)
    home.home.chmod(0o500)
    assert home.frozen.put_back() == ["cron/executions.db", "state.db"]


def test_one_file_that_cannot_go_back_keeps_no_other_from_it(home, place):
    (home.home / "a").mkdir()
    home.own(home.home / "a")
    home.sql("a/one.db", "CREATE TABLE said (text)")
    home.freeze()
    home.sql("state.db", "CREATE TABLE more (text)")
    shutil.rmtree(home.home / "a")
    (home.home / "a").symlink_to(place)
    with pytest.raises(OpsError, match=r"agent coder: .*symbolic link"):
        home.frozen.put_back()
    assert "more" not in {name for (name,) in tables(home.home / "state.db")}


def tables(path: Path) -> list[tuple[str]]:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return connection.execute("SELECT name FROM sqlite_master").fetchall()


def test_copies_are_removed_whatever_is_in_them(home):
    home.freeze()
    inside = home.ops / "frozen/run/coder"
    deep(inside / "deep", home.account)
    os.mkfifo(inside / "pipe")
    (inside / "shut").mkdir()
    (inside / "shut" / "file").touch()
    for path in (inside / "shut", inside / "shut" / "file"):
        home.own(path)
    (inside / "shut").chmod(0)
    (inside / "link").symlink_to(home.home)
    frozen.discard(str(inside.parent))
    assert not inside.parent.exists()
    assert (home.home / "state.db").exists()


def test_copies_of_a_user_that_is_gone_are_removed(home):
    home.freeze()
    inside = home.ops / "frozen/run/coder"
    for path in (inside, *inside.rglob("*")):
        os.chown(path, 54321, 54321)
    frozen.discard(str(inside.parent))
    assert not inside.parent.exists()


# Through a whole update.


@pytest.fixture
def world(real_workers, world_in, place, monkeypatch):
    """A host whose agents run as nobody."""
    world = world_in(monkeypatch, place / "world")
    agent = Account.named("nobody")
    for name in ("default", "coder"):
        records = world.host.records(name)
        records.write_agent(replace(records.agent(), user=agent.name))
        directory = world.directory(name)
        for path in (directory, *directory.rglob("*")):
            os.chown(path, agent.uid, agent.gid)
    return world


def left_alone(world) -> bool:
    return world.runs(world.old) and not any("hermes-gateway@" in verb for verb in world.asked)


def test_an_update_with_workers_that_run_as_the_agent(world):
    assert world.machine().update().status == "success", world.said
    assert world.runs(world.new)
    world.assert_clean()


def test_a_release_that_fails_is_left_with_workers_that_run_as_the_agent(world):
    world.broken = "unhealthy"
    assert world.machine().update().status == "rolled_back"
    assert [world.heard(name) for name in ("default", "coder")] == [["first"], ["first"]]
    assert os.stat(world.home("coder") / "state.db").st_uid == Account.named("nobody").uid
    world.assert_clean()


def test_an_agent_that_makes_the_freeze_impossible_fails_the_update_by_name(world):
    """It does so after the backup and the canary, so that only the freeze can notice before the stop."""
    world.meanwhile["canary"] = lambda: os.mkfifo(world.home("coder") / "state.db-journal")
    outcome = world.machine().update()
    assert (outcome.status, outcome.failed_step) == ("failed", "freeze")
    assert "agent coder" in outcome.message
    assert left_alone(world)
    world.assert_clean()


def spoil_databases(world):
    os.mkfifo(world.home("coder") / "state.db-journal")


def spoil_config(world):
    (world.home("coder") / "config.yaml").unlink()
    os.mkfifo(world.home("coder") / "config.yaml")


def spoil_home(world):
    """No backup can be made of it."""
    shutil.rmtree(world.home("coder"))
    os.mkfifo(world.home("coder"))


def hang(world):
    """A worker that never answers, as one that an agent has stopped."""
    world.hanging = True


@pytest.fixture
def hanging(world, monkeypatch):
    """Once a test sets ``world.hanging``, workers on the agent's databases are killed at their deadline."""
    world.hanging, result = False, frozen.Worker.result

    def killed(self):
        if world.hanging and self.where == "agent coder":
            self.end()
            raise WorkerDied("did not finish", where=self.where, fix="see its home")
        return result(self)

    monkeypatch.setattr(frozen.Worker, "result", killed)


@pytest.mark.parametrize("when", ["before", "canary", "stop"])
@pytest.mark.parametrize("spoil", [spoil_databases, spoil_config, spoil_home, hang])
def test_an_agent_whose_gateway_is_stopped_keeps_nobody_from_an_update(world, hanging, spoil, when):
    """This is how an operator updates the other agents if one agent makes its own files unusable."""
    world.stop("hermes-gateway@coder.service")
    if when == "before":
        spoil(world)
    else:
        world.meanwhile[when] = lambda: spoil(world)
    outcome = world.machine().update()
    assert outcome.status == "success", outcome.message
    assert world.states() == {"hermes-gateway@coder.service": "inactive", "hermes-gateway@default.service": "active"}
    if (spoil, when) == (spoil_home, "before"):
        assert any("coder does not block this, its gateway does not run" in line for line in world.said)
    world.assert_clean()


@pytest.mark.parametrize("spoil", [spoil_databases, spoil_config, spoil_home, hang])
def test_an_agent_that_runs_keeps_all_from_an_update_and_is_named_with_the_way_out(world, hanging, spoil):
    world.meanwhile["canary"] = lambda: spoil(world)
    outcome = world.machine().update()
    assert (outcome.status, outcome.failed_step) == ("failed", "freeze")
    assert "coder" in outcome.message
    assert "or stop its gateway and update without it" in outcome.message
    assert left_alone(world)


def test_nobody_who_hangs_keeps_an_operator_from_going_back(world, hanging):
    world.broken = "migrates nothing"
    assert world.machine().update().status == "success"
    world.hanging = True
    assert world.machine().rollback().status == "success", world.said
    assert world.runs(world.old)


def test_an_agent_that_makes_the_last_copy_impossible_has_everybody_started_again(world):
    def spoil():
        (world.home("coder") / "config.yaml").unlink()
        os.mkfifo(world.home("coder") / "config.yaml")

    world.meanwhile["stop"] = spoil
    outcome = world.machine().update()
    assert (outcome.status, outcome.failed_step) == ("rolled_back", "stop")
    assert "agent coder" in outcome.message
    assert world.runs(world.old)
    world.assert_clean()


def test_an_agent_that_spoils_its_home_while_the_new_release_runs_goes_back(world):
    world.broken = "unhealthy"

    def spoil():
        home = world.home("coder")
        os.mkfifo(home / "state.db-journal")
        (home / "config.yaml").unlink()
        os.mkfifo(home / "config.yaml")

    world.meanwhile["verify"] = spoil
    assert world.machine().update().status == "rolled_back"
    assert world.heard("coder") == ["first"]
    world.assert_clean()


def test_a_journal_that_somebody_planted_is_not_followed(world):
    """While the data volume is not mounted, the agent may control its mount point."""
    ops, agent = Path(world.host.ops_dir), Account.named("nobody")
    shutil.rmtree(ops)
    (ops / "update").mkdir(parents=True)
    planted = {"kind": "update", "began": 1.0, "source": "../../planted", "target": world.new, "step": "start"}
    (ops / "update/journal.json").write_text(json.dumps(planted))
    for path in (ops, *ops.rglob("*")):
        os.chown(path, agent.uid, agent.gid)
    with pytest.raises(OpsError, match="cannot be trusted"):
        world.machine().recover()
    assert world.current == world.old


def test_a_copy_for_the_canary_that_nobody_can_remove_by_recursion(world):
    agent = Account.named("nobody")
    place = Path(canary.scratch_directory(world.host))
    place.mkdir()
    deep(place / "canary.default.x", agent)
    world.meanwhile["canary"] = lambda: deep(next(place.glob("canary.default.*")) / "x", agent)
    assert world.machine().update().status == "success"
    world.assert_clean()


@pytest.mark.parametrize(
    "answer", [None, [], {"/etc/passwd": "x"}, {"../x": "x"}, {"a\0": "x"}, {"state.db": 1}, {"": "x"}]
)
def test_an_answer_that_cannot_be_true_is_refused(home, answer):
    with pytest.raises(WorkerDied, match="agent coder"):
        home.frozen._by_path(answer, str)
