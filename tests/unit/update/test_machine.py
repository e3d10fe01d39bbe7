# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The state machine of updates: real directories, databases, archives and locks; systemd, the build and what a release
does when it runs are played. On real hosts with real releases the scenario `update` proves the same."""

from __future__ import annotations

import contextlib
import dataclasses
import getpass
import json
import os
import shutil
import sqlite3
import time
from pathlib import Path

import pytest
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.backup import archives as backup
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.description import declaration
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.host import guard, settings
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.host.installation import Installation
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.release import build
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.release import decide as release
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.release.decide import (
    Installed,
    Observed,
    Request,
)
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.supervise import canary, gateway, health
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.supervise.health import Health, Problem
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.errors import OpsError
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.process import Completed
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.systemd import Manager, Unit
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.update import machine as update
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.update.machine import STEPS, Machine, Settings
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.watch import heartbeat
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

RANGE = {"version": ">=0.18,<0.30", "stable_seconds": 3}


class Killed(BaseException):
    """As SIGKILL: nothing of ours runs any more."""


class World:
    """A host with releases, two agents, and what happens to them.

    :param broken: what the new release does wrong
    """

    def __init__(self, top: Path, broken: str = "", **declared) -> None:
        self.top = top
        self.broken = broken
        self.units: dict[str, dict[str, str]] = {}
        self.asked: list[str] = []
        self.said: list[str] = []
        self.reports: list[tuple[str, str]] = []
        self.releases: dict[int, str] = {}
        self.offered = "0.19.0"
        self.left: int | None = None
        self.going_down = False
        self.meanwhile: dict[str, object] = {}
        self.host = Installation(
            {
                "scope": "system",
                "data_dir": str(top / "data"),
                "ops_dir": str(top / "data/ops"),
                "root": str(top / "opt"),
                "managed_root": str(top / "managed"),
            }
        )
        self.settings = Settings(**{**RANGE, **declared})
        for path in ("data/agents/default/.hermes/cron", "opt/releases", "system"):
            (top / path).mkdir(parents=True)
        self.old = self.install("0.18.2")
        (top / "opt/current").symlink_to(f"releases/{self.old}")
        resolved = declaration.resolve(
            [{"name": "default"}, {"name": "coder", "api": {"port": 8643}}],
            host="box",
            data_dir=self.host.data_dir,
            managed_root=self.host.managed_root,
        )
        for name, profile in resolved.items():
            # Root cannot be declared, and is who runs these tests.
            profile["gateway"]["user"] = getpass.getuser()
            home = Path(profile["gateway"]["home"])
            home.mkdir(parents=True, exist_ok=True)
            (home / ".env").write_text("A_KEY=of-the-model\n")
            (home / "config.yaml").write_text("_config_version: 33\n")
            with self.database(name) as connection:
                connection.execute("CREATE TABLE schema_version (version INTEGER)")
                connection.execute("INSERT INTO schema_version VALUES (1)")
                connection.execute("CREATE TABLE said (text TEXT)")
            self.speak(name, "first")
            records = self.host.records(name)
            records.prepare()
            records.write_applied("gateway", profile["gateway"])
            self.start(profile["gateway"]["unit"])

    # What there is.

    def install(self, version: str) -> str:
        request = Request(version=version)
        name = release.release_id(request, version)
        path = self.top / "opt/releases" / name
        (path / "bin").mkdir(parents=True, exist_ok=True)
        (path / "bin/python").touch()
        stamp = {"id": name, "version": version, "extras": ["homeassistant"]}
        (path / "release.json").write_text(json.dumps({**stamp, "identity": release.identity(request, version)}))
        return name

    @property
    def new(self) -> str:
        return release.release_id(Request(version="0.19.0"), "0.19.0")

    @property
    def current(self) -> str:
        return gateway.current_release(self.host.root)

    def home(self, profile: str) -> Path:
        return Path(self.host.select(profile)[0]["home"]) if self.host.profiles else self._home(profile)

    def _home(self, profile: str) -> Path:
        return Path(self.host.data_dir, "agents", profile, ".hermes")

    @contextlib.contextmanager
    def database(self, profile: str):
        connection = sqlite3.connect(self._home(profile) / "state.db", isolation_level=None)
        try:
            yield connection
        finally:
            connection.close()

    def speak(self, profile: str, text: str) -> None:
        with self.database(profile) as connection:
            connection.execute("INSERT INTO said VALUES (?)", (text,))

    def heard(self, profile: str) -> list[str]:
        with self.database(profile) as connection:
            return [row[0] for row in connection.execute("SELECT text FROM said")]

    def schema(self, profile: str) -> int:
        with self.database(profile) as connection:
            return connection.execute("SELECT version FROM schema_version").fetchone()[0]

    def set_aside(self) -> list[str]:
        found = []
        for path in (self.top / "data/ops/set-aside").glob("**/state.db"):
            with contextlib.closing(sqlite3.connect(path)) as connection:
                found += [row[0] for row in connection.execute("SELECT text FROM said")]
        return found

    @property
    def status(self) -> dict:
        return self.host.read_status("update")

    @property
    def failed(self) -> dict:
        path = self.top / "data/ops/update/failed.json"
        return json.loads(path.read_text()) if path.exists() else {}

    @property
    def journal(self) -> Path:
        return self.top / "data/ops/update/journal.json"

    # What systemd does.

    def call(self, manager, *arguments, **_options):
        if arguments[0] == "show":
            blocks = ["\n".join(f"{k}={v}" for k, v in self.units.get(name, {}).items()) for name in arguments[3:]]
            return Completed(arguments, 0, "\n\n".join(blocks), "")
        self.tick()
        self.asked.append(" ".join(arguments))
        for name in arguments[1:]:
            if not name.startswith("hermes-gateway@"):
                continue
            if arguments[0] in ("stop", "restart"):
                self.stop(name)
            if arguments[0] in ("start", "restart"):
                self.start(name)
            # As many as systemd was told before we died.
            self.tick()
        return Completed(arguments, 0, "", "")

    def stop(self, unit: str) -> None:
        self.units[unit].update(ActiveState="inactive", SubState="dead", MainPID="0")

    def start(self, unit: str) -> None:
        if self.units.get(unit, {}).get("ActiveState") == "active":
            return
        pid = len(self.releases) + 1000
        self.releases[pid] = self.current
        self.units[unit] = {"ActiveState": "active", "SubState": "running", "MainPID": str(pid)}
        self.run_release(unit.split("@")[1].split(".")[0])

    def run_release(self, profile: str) -> None:
        """What a release does as soon as it runs."""
        if self.current == self.old:
            return
        if self.broken != "migrates nothing":
            with self.database(profile) as connection:
                connection.execute("UPDATE schema_version SET version = 2")
        self.speak(profile, f"learnt by {profile}")

    def boot(self) -> None:
        """The power comes back; what guards an update runs before the gateways."""
        for unit in self.units:
            self.stop(unit)
        guarded = (self.top / "system/multi-user.target.wants/hermes-update-recovery.service").exists()
        if guarded and self.journal.exists():
            self.machine().recover(boot=True)
        for unit in self.units:
            self.start(unit)

    # What agents look like.

    def wait(self, profiles, _manager_of, records=None):
        results = []
        for profile in profiles:
            name, unit = profile["name"], self.units[profile["unit"]]
            problems = []
            if unit["ActiveState"] != "active":
                problems.append(Problem("not_running", "it does not run", "start it"))
            elif self.releases[int(unit["MainPID"])] == self.old:
                # The old one cannot read what the new one has migrated.
                if self.schema(name) != 1:
                    problems.append(Problem("no_answer", "it cannot read its database", "put it back"))
            elif self.broken == "unhealthy":
                problems.append(Problem("no_answer", "it does not answer", "see the log"))
            elif self.broken == "mute" and profile["health"]["reply"]:
                problems.append(Problem("no_reply", "it does not reply", "see the log"))
            results.append(Health(name, problems))
        self.happen("verify" if self.current != self.old else "preconditions")
        return results

    def happen(self, when: str) -> None:
        action = self.meanwhile.pop(when, None)
        if action:
            action()

    def sleep(self, seconds: float) -> None:
        """Time passes."""
        self.clock += seconds
        if self.broken == "dies" and self.current != self.old:
            for unit in self.units.values():
                unit["MainPID"] = str(int(unit["MainPID"]) + 1)
        self.happen("stable")

    clock = 0.0

    def machine(self) -> Machine:
        return Machine(self.host, self.settings, self.said.append)

    def tick(self) -> None:
        """One more thing that may be the last."""
        if self.left is not None:
            self.left -= 1
            if self.left < 0:
                raise Killed

    def killed_after(self, count: int, action) -> bool:
        """Whether *action* was killed at its *count*-th change to the world."""
        self.left = count
        with contextlib.suppress(Killed):
            action()
        finished = self.left >= 0
        self.left = None
        # The kernel closes what a dead process had open.
        return not finished


def play(patched: pytest.MonkeyPatch, world: World) -> World:
    """Let the kit work in *world*."""

    def ticking(original):
        def call(*arguments, **options):
            world.tick()
            return original(*arguments, **options)

        return call

    for name in ("rename", "replace", "unlink", "link", "symlink", "mkdir", "chmod", "rmdir"):
        patched.setattr(os, name, ticking(getattr(os, name)))
    # Thousands of them, and no power is cut here.
    patched.setattr(os, "fsync", lambda descriptor: None)
    patched.setattr(Manager, "call", lambda self, *a, **options: world.call(self, *a, **options))
    patched.setattr(Manager, "reachable", True)
    patched.setattr(gateway, "running_release", lambda pid, root: world.releases.get(pid))
    patched.setattr(health, "wait", world.wait)
    patched.setattr(health, "check", lambda profile, owner, unit: world.wait([profile], None)[0])
    patched.setattr(heartbeat, "report", lambda host, job, event, body: world.reports.append((event, body)))
    patched.setattr(canary, "boot", lambda *a, **options: played_canary(world, *a, **options))
    patched.setattr(build, "newest", lambda request, index, **_o: played_newest(world, request))
    patched.setattr(build, "ensure", lambda request, index, **_o: played_build(world, request))
    patched.setattr(guard, "UNIT_DIRECTORY", str(world.top / "system"))
    patched.setattr(Machine, "_shutting_down", lambda self: world.going_down)
    patched.setattr(time, "sleep", world.sleep)
    patched.setattr(time, "monotonic", lambda: world.clock)
    # Who waits for the next second, for a name that is free, sees it come when he has slept that long.
    now, gmtime = time.time, time.gmtime
    patched.setattr(time, "time", lambda: now() + world.clock)
    patched.setattr(time, "gmtime", lambda seconds=None: gmtime(time.time() if seconds is None else seconds))
    return world


def played_newest(world, request):
    if world.broken == "no network":
        raise OpsError("the index cannot be reached")
    return request if not request.is_range else dataclasses.replace(request, version=world.offered)


def played_build(world, request):
    world.tick()
    world.happen("build")
    if world.broken == "wheel":
        raise OpsError("the wheel is broken; nothing was changed")
    world.install(request.version)
    world.tick()


def played_canary(world, host, name, description, *, reply, timeout, stable):
    home = Path(description["home"])
    assert str(home.parent) == description["directory"]
    assert "A_KEY" in (home / ".env").read_text()
    with contextlib.closing(sqlite3.connect(home / "state.db")) as connection:
        assert connection.execute("SELECT count(*) FROM said").fetchone()[0] >= 1
    world.canaries = [*getattr(world, "canaries", []), (name, description["name"], reply)]
    world.tick()
    if world.broken == "canary":
        raise canary.CanaryFailed("ended by itself", where=f"release {name}", fix="see", log=["a line of its log"])
    return {"version": "0.19.0", "reply": None, "seconds": 1.0}


@pytest.fixture
def worlds(tmp_path, monkeypatch):
    """A function that makes the world of a test."""

    def make(broken: str = "", **declared) -> World:
        return play(monkeypatch, World(tmp_path / "world", broken, **declared))

    return make


def units(world):
    return {name: unit["ActiveState"] for name, unit in world.units.items()}


def runs(world, name, what="both"):
    """All gateways run the release *name*."""
    states = [unit for unit in world.units.values() if what == "both" or what in str(unit)]
    return all(u["ActiveState"] == "active" and world.releases[int(u["MainPID"])] == name for u in states)


def is_clean(world):
    assert not world.journal.exists()
    assert not list((world.top / "system").glob("**/*.service"))
    assert not list((world.top / "data").glob(".hermes-canary-*"))
    assert not list(world.top.glob("**/.reserve"))
    assert not [path for path in world.top.glob("**/*.partial*") if "backups" not in str(path)]


# An update.


def test_an_update_that_works(worlds):
    world = worlds()
    outcome = world.machine().update()
    assert (outcome.status, outcome.exit_status) == ("success", 0)
    assert world.current == world.new
    assert runs(world, world.new)
    assert world.heard("default") == ["first", "learnt by default"]
    assert world.heard("coder") == ["first", "learnt by coder"]
    assert world.status == {
        "status": "success",
        "message": f"{world.new} has replaced {world.old}",
        "finished": world.status["finished"],
        "started": world.status["started"],
        "from": world.old,
        "to": world.new,
        "failed_step": None,
    }
    assert [event for event, _body in world.reports] == ["start", "success"]
    # Each step in its order, one word each.
    assert [line for line in world.said if line in STEPS] == list(STEPS[2:])
    assert [name for name, _profile, _reply in world.canaries] == [world.new, world.new]
    is_clean(world)


def test_nothing_happens_to_what_runs_until_the_new_release_has_proved_itself_on_a_copy(worlds):
    world = worlds("canary")
    before = {name: dict(unit) for name, unit in world.units.items()}
    outcome = world.machine().update()
    assert (outcome.status, outcome.failed_step) == ("failed", "canary")
    assert "ended by itself" in outcome.message
    assert "\n" not in outcome.message
    assert any("a line of its log" in line for line in world.said)
    assert world.units == before
    assert world.current == world.old
    assert not [verb for verb in world.asked if "hermes-gateway@" in verb]
    is_clean(world)


def test_downtime_is_a_stop_and_a_start(worlds):
    world = worlds()
    world.machine().update()
    both = "hermes-gateway@coder.service hermes-gateway@default.service"
    verbs = [verb for verb in world.asked if "hermes-gateway@" in verb]
    assert verbs == [f"stop {both}", f"reset-failed {both}", f"start {both}"]


@pytest.mark.parametrize("broken", ["unhealthy", "dies", "mute"])
def test_a_release_that_does_not_prove_itself_is_left_again(worlds, broken):
    world = worlds(broken, reply=True)
    outcome = world.machine().update()
    assert (outcome.status, outcome.exit_status, outcome.failed_step) == ("rolled_back", 1, "verify")
    assert world.current == world.old
    assert runs(world, world.old)
    for profile in ("default", "coder"):
        assert world.schema(profile) == 1
        assert world.heard(profile) == ["first"]
    # What was learnt meanwhile is not lost, and named.
    assert sorted(world.set_aside()) == ["first", "first", "learnt by coder", "learnt by default"]
    assert "set-aside/update-" in world.status["message"]
    assert world.reports[-1][0] == "fail"
    is_clean(world)


def test_data_that_was_not_migrated_is_left_alone(worlds):
    world = worlds("unhealthy")
    world.broken = "migrates nothing"
    world.meanwhile["stable"] = lambda: setattr(world, "broken", "unhealthy")
    assert world.machine().update().status == "rolled_back"
    assert world.heard("default") == ["first", "learnt by default"]
    assert not (world.top / "data/ops/set-aside").exists() or not list((world.top / "data/ops/set-aside").iterdir())


def test_a_version_that_failed_is_not_tried_again_until_there_is_a_newer_one(worlds):
    world = worlds("unhealthy")
    world.machine().update()
    assert list(world.failed) == [world.new]
    world.broken, world.asked = "", []
    outcome = world.machine().update()
    assert (outcome.status, outcome.exit_status) == ("held", 0)
    assert not world.asked
    world.offered = "0.19.1"
    assert world.machine().update().status == "success"
    assert world.status["to"].startswith("0.19.1-")


def test_a_version_that_failed_is_tried_when_a_person_names_it(worlds):
    world = worlds("unhealthy")
    world.machine().update()
    world.broken = ""
    assert world.machine().update("0.19.0").status == "success"
    assert world.failed == {}


@pytest.mark.parametrize("broken", ["wheel", "no network"])
def test_what_is_not_the_versions_fault_is_tried_again(worlds, broken):
    world = worlds(broken)
    outcome = world.machine().update()
    assert (outcome.status, outcome.failed_step) == ("failed", {"wheel": "build", "no network": "resolve"}[broken])
    assert world.failed == {}
    is_clean(world)
    world.broken = ""
    assert world.machine().update().status == "success"


def test_a_hold_holds(worlds):
    world = worlds(hold="before the exhibition")
    outcome = world.machine().update()
    assert (outcome.status, outcome.message) == ("held", "updates are held: before the exhibition")
    assert world.current == world.old
    assert world.reports == [("success", outcome.message)]
    # But not who names the version, as a rollout through a fleet does.
    assert world.machine().update("0.19.0").status == "success"


def test_too_little_space(worlds, monkeypatch):
    world = worlds(min_free_mb=512)
    free = 400 * 2**20
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(free, 0, free))
    outcome = world.machine().update()
    assert (outcome.status, outcome.failed_step) == ("failed", "preconditions")
    assert "has 400 MB free, an update wants 512 MB" in outcome.message
    assert world.failed == {}


def test_while_data_is_restored_there_is_no_update(worlds):
    world = worlds()
    with world.host.lock("restore"):
        outcome = world.machine().update()
    assert (outcome.status, outcome.failed_step) == ("failed", "preconditions")


@pytest.mark.parametrize("job", ["restore", "update"])
def test_what_was_left_half_restored_is_undone_first(worlds, job):
    world = worlds()
    (Path(world.host.ops_dir) / "restore.json").write_text("{}")
    if job == "update":
        outcome = world.machine().update()
        assert (outcome.status, outcome.failed_step) == ("failed", "preconditions")
        assert "restore --recover" in outcome.message
    else:
        with pytest.raises(OpsError, match="restore was interrupted"):
            world.machine().rollback()
    assert runs(world, world.old)


def test_a_home_that_was_left_half_taken_apart_is_recovered_first(worlds):
    world = worlds()
    (Path(world.host.ops_dir) / "separate.json").write_text("{}")
    outcome = world.machine().update()
    assert (outcome.status, outcome.failed_step) == ("failed", "preconditions")
    assert "separate --recover" in outcome.message
    assert runs(world, world.old)


@pytest.mark.parametrize(("offered", "status"), [("0.21.3", "success"), ("0.21.4", "failed")])
def test_no_release_that_serves_several_agents_from_one_gateway(worlds, offered, status):
    world = worlds()
    world.offered = offered
    outer = world.host.select("default")[0]
    moved = {**world.host.select("coder")[0], "home": f"{outer['home']}/profiles/coder"}
    shutil.copytree(world.home("coder"), moved["home"])
    world.host.records("coder").write_applied("gateway", moved)
    del world.host.profiles
    outcome = world.machine().update()
    assert outcome.status == status
    if status == "failed":
        assert outcome.failed_step == "preconditions"
        assert "hermes-ops separate" in outcome.message
        assert world.failed == {}
        assert runs(world, world.old)


def test_the_second_of_two_updaters_says_so(worlds):
    world = worlds()
    with world.host.lock("update"), pytest.raises(OpsError, match="another update is running"):
        world.machine().update()
    assert world.status == {}


def test_a_gateway_that_a_person_had_stopped_stays_stopped(worlds):
    world = worlds()
    world.stop("hermes-gateway@coder.service")
    assert world.machine().update().status == "success"
    assert units(world)["hermes-gateway@coder.service"] == "inactive"
    assert [profile for _name, profile, _reply in world.canaries] == ["default"]


@pytest.mark.parametrize("broken", ["", "unhealthy"])
@pytest.mark.parametrize("when", ["build", "verify", "stable"])
def test_a_person_who_stops_a_gateway_meanwhile_is_respected(worlds, when, broken):
    world = worlds()
    if broken and when == "stable":
        world.meanwhile["verify"] = lambda: None
        world.sleep = lambda seconds: (World.sleep(world, seconds), setattr(world, "broken", broken))
    elif broken:
        world.broken = broken
    world.meanwhile[when] = lambda: world.stop("hermes-gateway@coder.service")
    outcome = world.machine().update()
    assert outcome.status == ("rolled_back" if broken and when != "stable" else outcome.status)
    assert units(world) == {
        "hermes-gateway@coder.service": "inactive",
        "hermes-gateway@default.service": "active",
    }


def test_an_agent_that_was_unhealthy_before_does_not_keep_the_others_from_an_update(worlds, monkeypatch):
    world = worlds()
    healthy = world.wait

    def wait(profiles, *arguments, **options):
        results = healthy(profiles, *arguments, **options)
        for result in results:
            if result.profile == "coder":
                result.problems.append(Problem("platform_not_connected", "its token is stale", "get a new one"))
        return results

    monkeypatch.setattr(health, "wait", wait)
    assert world.machine().update().status == "success"


def test_no_reply_is_asked_for_that_was_not_given_before(worlds, monkeypatch):
    """The model's provider is down: that says nothing about the release."""
    world = worlds(reply=True)
    healthy = world.wait

    def wait(profiles, *arguments, **options):
        results = healthy(profiles, *arguments, **options)
        for profile, result in zip(profiles, results):
            if profile["health"]["reply"]:
                result.problems.append(Problem("no_reply", "the provider is down", "wait"))
        return results

    monkeypatch.setattr(health, "wait", wait)
    assert world.machine().update().status == "success"
    assert [reply for _name, _profile, reply in world.canaries] == [False, False]


def test_a_restore_that_fails_still_leaves_the_old_release_running(worlds, monkeypatch):
    world = worlds("unhealthy")

    def broken(self):
        raise OpsError("cannot be copied (Input/output error)", where=self.home)

    monkeypatch.setattr(update.Frozen, "put_back", broken)
    outcome = world.machine().update()
    assert (outcome.status, outcome.exit_status) == ("failed", 1)
    assert "Input/output error" in outcome.message
    assert world.reports[-1][0] == "fail"
    assert runs(world, world.old)
    # The only copies of what was before: kept, and said where.
    (kept,) = (world.top / "data/ops/set-aside").glob("*/before-the-switch/default/state.db")
    assert str(kept.parents[2]) in outcome.message
    assert not world.journal.exists()


def test_what_cannot_go_back_now_is_tried_again(worlds, monkeypatch):
    world = worlds("unhealthy")
    switch = build.switch

    def stuck(root, name):
        if name == world.old:
            raise OSError(30, "Read-only file system")
        switch(root, name)

    with monkeypatch.context() as patched:
        patched.setattr(build, "switch", stuck)
        outcome = world.machine().update()
    assert (outcome.status, outcome.exit_status) == ("failed", 1)
    assert set(units(world).values()) == {"active"}
    assert world.journal.exists()
    assert world.machine().update().status == "rolled_back"
    assert runs(world, world.old)
    is_clean(world)


def test_backups_are_made_before_and_pruned_by_their_number(worlds):
    world = worlds(keep_backups=2)
    directory = world.top / "data/ops/update/backups"
    for version in ("0.19.0", "0.19.1", "0.19.2"):
        world.offered = version
        assert world.machine().update().status == "success"
    for profile in ("default", "coder"):
        assert len(backup.archives(str(directory), profile)) == 2


def test_a_release_that_failed_goes_before_one_that_was_good(worlds):
    world = worlds("unhealthy", keep=1)
    world.machine().update()
    world.broken, world.offered = "", "0.19.1"
    assert world.machine().update().status == "success"
    there = {path.name for path in (world.top / "opt/releases").iterdir()}
    assert there == {world.old, world.current}


def test_the_hook_is_told_and_cannot_fail_the_update(worlds, tmp_path):
    facts = tmp_path / "facts"
    world = worlds(hook=["sh", "-c", f"env | grep ^HERMES_UPDATE >{facts}; exit 3"])
    assert world.machine().update().status == "success"
    assert sorted(facts.read_text().splitlines()) == [
        "HERMES_UPDATE_FAILED_STEP=",
        f"HERMES_UPDATE_FROM={world.old}",
        f"HERMES_UPDATE_MESSAGE={world.new} has replaced {world.old}",
        "HERMES_UPDATE_STATUS=success",
        f"HERMES_UPDATE_TO={world.new}",
    ]
    assert any(line.startswith("the hook failed") for line in world.said)


def test_somebody_else_started_the_old_release_meanwhile(worlds, monkeypatch):
    world = worlds()
    switch = build.switch

    def late(root, name):
        # A site.yml that found the gateways down.
        for unit in world.units:
            world.start(unit)
        switch(root, name)

    monkeypatch.setattr(build, "switch", late)
    assert world.machine().update().status == "success"
    assert runs(world, world.new)


def test_asked_to_stop_it_goes_back(worlds):
    world = worlds()

    def stop():
        raise update.Interrupted("was asked to stop")

    world.meanwhile["verify"] = stop
    outcome = world.machine().update()
    assert (outcome.status, outcome.failed_step) == ("rolled_back", "verify")
    assert world.failed == {}
    assert runs(world, world.old)


def test_when_the_host_goes_down_the_next_boot_goes_back(worlds):
    world = worlds()

    def stop():
        world.going_down = True
        raise update.Interrupted("was asked to stop")

    world.meanwhile["verify"] = stop
    with pytest.raises(SystemExit):
        world.machine().update()
    assert world.journal.exists()
    world.going_down = False
    world.boot()
    assert world.status["status"] == "rolled_back"
    assert runs(world, world.old)
    is_clean(world)


def test_a_defect_of_ours_leads_back_as_well(worlds):
    world = worlds()
    world.meanwhile["verify"] = lambda: 1 / 0
    outcome = world.machine().update()
    assert (outcome.status, outcome.failed_step) == ("rolled_back", "verify")
    assert "ZeroDivisionError" in outcome.message
    assert runs(world, world.old)


# Back by hand.


def test_a_rollback_and_its_hold(worlds):
    world = worlds("migrates nothing")
    world.machine().update()
    outcome = world.machine().rollback()
    assert outcome.status == "success"
    assert runs(world, world.old)
    assert world.heard("default") == ["first", "learnt by default"]
    # The next night does not go where somebody has just come from.
    assert world.machine().update().status == "held"
    assert world.machine().update("0.19.0").status == "success"


def test_a_rollback_to_what_cannot_read_the_data_goes_forward_again(worlds):
    world = worlds()
    world.machine().update()
    outcome = world.machine().rollback()
    assert (outcome.status, outcome.failed_step) == ("rolled_back", "verify")
    assert runs(world, world.new)
    # Started twice, and nothing was put back.
    assert world.heard("default") == ["first", "learnt by default", "learnt by default"]


def test_a_rollback_to_what_is_current_changes_nothing(worlds):
    world = worlds("migrates nothing")
    world.machine().update()
    assert world.machine().check_rollback("0.18.2")[0] == "available"
    assert world.machine().rollback("0.18.2").status == "success"
    assert world.machine().check_rollback("0.18.2")[0] == "up_to_date"
    assert world.machine().rollback("0.18.2").status == "up_to_date"
    assert runs(world, world.old)


def test_a_rollback_with_data(worlds):
    world = worlds()
    world.machine().update()
    world.speak("default", "a day later")
    outcome = world.machine().rollback(data=True)
    assert str(world.top / "data/ops/set-aside/rollback-") in outcome.message
    assert outcome.status == "success"
    assert runs(world, world.old)
    assert world.heard("default") == ["first"]
    assert "a day later" in world.set_aside()
    is_clean(world)


def test_a_rollback_with_data_that_is_not_kept_any_more(worlds):
    world = worlds()
    world.install("0.17.0")
    world.machine().update()
    with pytest.raises(OpsError, match="not kept any more"):
        world.machine().rollback("0.17.0", data=True)


def test_a_rollback_needs_somewhere_to_go(worlds):
    world = worlds()
    with pytest.raises(OpsError, match="no release to go back to"):
        world.machine().rollback()
    with pytest.raises(OpsError, match=r"no release 0\.1 to go back to"):
        world.machine().rollback("0.1")


# Killed.


def consistent(world):
    """Whatever happened: one release, its data, every word that was ever said, and agents that answer."""
    # What every run begins with finds nothing left to do.
    assert world.machine().recover() is None
    is_clean(world)
    assert world.current in (world.old, world.new)
    assert runs(world, world.current), world.units
    for profile in ("default", "coder"):
        assert world.schema(profile) == (1 if world.current == world.old else 2)
        assert world.heard(profile)[0] == "first"
    assert all(result.ok for result in world.wait(world.host.profiles, None, None))
    said = {text for profile in ("default", "coder") for text in world.heard(profile)} | set(world.set_aside())
    learnt = {f"learnt by {u.split('@')[1].split('.')[0]}" for u in world.units}
    if any(name == world.new for name in world.releases.values()):
        assert said & learnt
    return world.current


def recover(world, how):
    """What comes after a kill."""
    if how == "boot":
        world.boot()
    else:
        world.machine().update()


@pytest.mark.parametrize("how", ["boot", "again"])
@pytest.mark.parametrize("broken", ["", "unhealthy"], ids=["good", "bad"])
def test_killed_anywhere(tmp_path, how, broken):
    count, seen = 0, set()
    killed = True
    while killed:
        with pytest.MonkeyPatch.context() as patched:
            world = play(patched, World(tmp_path / str(count), broken))
            killed = world.killed_after(count, world.machine().update)
            if killed:
                step = json.loads(world.journal.read_text())["step"] if world.journal.exists() else None
                recover(world, how)
                end = consistent(world)
                seen.add(step)
                # Killing says nothing about a version.
                assert broken or world.failed == {}
                if how == "again" and not broken:
                    assert end == (world.old if step in STEPS[STEPS.index("stop") : -1] else world.new)
        shutil.rmtree(tmp_path / str(count))
        # Everywhere while the agents are away; elsewhere here and there.
        count += 1 if step in ("stop", "switch", "start") else 4
    # It was killed in every step that it writes down, and often.
    assert seen >= {None, *STEPS[2:]} - ({"prune"} if broken else set())
    assert count > 100


@given(
    first=st.integers(20, 140),
    second=st.integers(0, 60),
    third=st.integers(0, 60),
    hows=st.tuples(*[st.sampled_from(["boot", "again"])] * 3),
    broken=st.sampled_from(["", "unhealthy"]),
)
@hypothesis_settings(max_examples=25)
def test_killed_again_and_again(tmp_path_factory, first, second, third, hows, broken):
    top = tmp_path_factory.mktemp("killed")
    with pytest.MonkeyPatch.context() as patched:
        world = play(patched, World(top / "world", broken))
        world.killed_after(first, world.machine().update)
        cut = False
        for count, how in ((second, hows[0]), (third, hows[1]), (10**6, hows[2])):
            # Power that is cut while the host boots comes back with another boot.
            how = "boot" if cut else how
            killed = world.killed_after(count, lambda how=how: recover(world, how))
            cut = killed and how == "boot"
        consistent(world)
    shutil.rmtree(top)


def test_a_run_that_is_killed_every_time_is_given_up(worlds):
    world = worlds()
    for _attempt in range(update.ATTEMPTS):
        assert world.killed_after(15, world.machine().update)
    outcome = world.machine().update()
    assert (outcome.status, outcome.failed_step) == ("failed", "preconditions")
    assert "interrupted 3 times" in outcome.message
    # The next night it may be another matter.
    assert world.machine().update().status == "success"


# Decisions.


def test_every_step_has_its_way_out():
    assert [update.after_kill(step) for step in STEPS] == ["again"] * 6 + ["undo"] * 4 + ["finish"]
    assert [step for step in STEPS if update.data_is_frozen(step)] == ["switch", "start", "verify", "prune"]


def installed(version, used=0.0, intact=True):
    identity = release.identity(Request(version=version), version)
    return Installed(f"{version}-x", {"version": version, "identity": identity}, used, intact)


@pytest.mark.parametrize(
    ("current", "offered", "failed", "asked", "status"),
    [
        ("0.18.2", "0.19.0", False, False, "available"),
        ("0.19.0", "0.19.0", False, False, "available"),  # the same version with other extras or patches
        ("0.19.1", "0.19.0", False, False, "up_to_date"),
        ("0.18.2", "0.19.0", True, False, "held"),
        ("0.18.2", "0.19.0", True, True, "available"),
        ("0.19.1", "0.19.0", False, True, "up_to_date"),
    ],
)
def test_where_to_go(current, offered, failed, asked, status):
    target = update.Target(Request(version=offered))
    known = {target.id: {"reason": "failed at verify", "when": "2026-11-20"}} if failed else {}
    assert update.choose(installed(current), target, known, asked)[0] == status


def test_tags_are_compared_as_tags():
    def tagged(tag):
        return Request(method="git", url="https://example.org/h.git", ref=tag, commit="a" * 40)

    current = Installed("x", {"version": "0.0.0", "identity": release.identity(tagged("v2026.9.24"), None)}, 0.0, True)
    assert update.choose(current, update.Target(tagged("v0.22.1")), {}, False)[0] == "available"
    assert update.choose(current, update.Target(tagged("v2026.7.20")), {}, False)[0] == "up_to_date"


def test_back_to_what_was_used_last_and_has_not_failed():
    there = Observed((installed("0.17", 3), installed("0.18", 2), installed("0.16", 9, intact=False)), "0.19-x")
    assert update.choose_rollback(there, {}, None).version == "0.17"
    assert update.choose_rollback(there, {"0.17-x": {}}, None).version == "0.18"
    assert update.choose_rollback(there, {"0.17-x": {}}, "0.17").version == "0.17"
    assert update.choose_rollback(there, {}, "0.18-x").version == "0.18"


def unit(active):
    return Unit("u", "loaded", active, "running", True, 1, 0, "", 0, 0.0, False)


def test_what_we_stopped_is_started_again():
    found = {"a": unit("inactive"), "b": unit("inactive"), "c": unit("active")}
    assert update.to_start(["a"], found, respect=False) == ["a", "c"]


def test_what_a_person_stopped_after_we_had_started_it_is_not():
    found = {"a": unit("inactive"), "b": unit("failed"), "c": unit("activating"), "d": unit("inactive")}
    assert update.to_start(["a", "b", "c"], found, respect=True) == ["b", "c"]


@pytest.mark.parametrize(
    ("values", "error"),
    [
        ({}, "version: is missing"),
        ({"version": "0.19.0"}, "declared exactly"),
        ({"version": "newest"}, "neither a version nor a range"),
        ({"method": "git", "url": "https://example.org/h.git"}, "is not a tag"),
        ({**RANGE, "keep": 0}, "keep is less than 1"),
        ({**RANGE, "channels": "x"}, "'channels' is not a setting"),
    ],
)
def test_settings_that_cannot_work(values, error):
    with pytest.raises(OpsError, match=error):
        settings.parse(Settings, values, "update.json")


def test_a_channel_of_tags_can_be_updated():
    declared = Settings(method="git", url="https://example.org/h.git", channel="v2026.*")
    assert update.narrowed(declared.request(), "v2026.7.20").channel == "v2026.7.20"
    with pytest.raises(OpsError, match="not within v2026"):
        update.narrowed(declared.request(), "v0.22.1")
    with pytest.raises(OpsError, match="not within >=0"):
        update.narrowed(Settings(**RANGE).request(), "0.30.0")
