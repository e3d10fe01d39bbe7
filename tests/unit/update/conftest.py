# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The world of an update: real directories, databases, archives and locks.

systemd, the build and the behaviour of a release are played. The scenario `update` proves the same on real hosts with
real releases. Workers run in the test's own process, so that a kill at any of their events kills the updater.
"""

from __future__ import annotations

import contextlib
import dataclasses
import getpass
import importlib
import json
import os
import sqlite3
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.description import declaration
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.host import guard
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.host.installation import Installation
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.release import build
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.release.decide import identity, release_id
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.release.request import Request
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.supervise import canary, gateway, health
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.supervise.health import Health, Problem
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system import worker
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.errors import OpsError
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.process import Completed
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.systemd import Manager
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.update import frozen
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.update.machine import Machine
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.update.settings import Settings
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.watch import heartbeat

RANGE = {"release": Request(version=">=0.18,<0.30"), "stable_seconds": 3}


class Killed(BaseException):
    """Plays SIGKILL: none of the kit's code runs after it."""


class World:
    """A host with releases and two agents, and its behaviour.

    :param broken: the fault of the new release
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
        for name, each in resolved.items():
            # The tests may run as root, which cannot be declared as an agent's user.
            agent = dataclasses.replace(each.agent, user=getpass.getuser())
            home = Path(agent.home)
            home.mkdir(parents=True, exist_ok=True)
            (home / ".env").write_text("A_KEY=of-the-model\n")
            (home / "config.yaml").write_text("_config_version: 33\n")
            with self.database(name) as connection:
                connection.execute("CREATE TABLE sessions (id TEXT, source TEXT)")
                connection.execute("CREATE TABLE messages (session_id TEXT, role TEXT, content TEXT, timestamp REAL)")
                connection.execute("CREATE TABLE schema_version (version INTEGER)")
                connection.execute("INSERT INTO schema_version VALUES (1)")
                connection.execute("CREATE TABLE said (text TEXT)")
            self.speak(name, "first")
            self.host.records(name).write_agent(agent)
            self.start(agent.unit)

    # The parts of the world.

    def install(self, version: str) -> str:
        request = Request(version=version)
        name = release_id(request, version)
        path = self.top / "opt/releases" / name
        if path.exists():
            return name
        partial = self.top / "opt" / name
        (partial / "bin").mkdir(parents=True, exist_ok=True)
        (partial / "bin/python").touch()
        stamp = {"id": name, "version": version, "extras": ["homeassistant"]}
        (partial / "release.json").write_text(json.dumps({**stamp, "identity": identity(request, version)}))
        # A release that is not complete never has its name.
        partial.rename(path)
        return name

    @property
    def new(self) -> str:
        return release_id(Request(version="0.19.0"), "0.19.0")

    @property
    def current(self) -> str:
        return gateway.current_release(self.host.root)

    def home(self, agent: str) -> Path:
        return Path(self.host.select(agent)[0].home) if self.host.agents else self._home(agent)

    def directory(self, agent: str) -> Path:
        return Path(self.host.data_dir, "agents", agent)

    def _home(self, agent: str) -> Path:
        return self.directory(agent) / ".hermes"

    @contextlib.contextmanager
    def database(self, agent: str):
        connection = sqlite3.connect(self._home(agent) / "state.db", isolation_level=None)
        try:
            yield connection
        finally:
            connection.close()

    def speak(self, agent: str, text: str) -> None:
        with self.database(agent) as connection:
            connection.execute("INSERT INTO said VALUES (?)", (text,))

    def receive(self, agent: str, *texts: str) -> None:
        """Messages of a user reach the agent."""
        with self.database(agent) as connection:
            for text in texts:
                connection.execute("INSERT INTO messages VALUES ('s', 'user', ?, ?)", (text, time.time()))

    def heard(self, agent: str) -> list[str]:
        with self.database(agent) as connection:
            return [row[0] for row in connection.execute("SELECT text FROM said")]

    def schema(self, agent: str) -> int:
        with self.database(agent) as connection:
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

    # Questions about its state.

    def states(self) -> dict[str, str]:
        return {name: unit["ActiveState"] for name, unit in self.units.items()}

    def runs(self, name: str) -> bool:
        """Whether all gateways run the release *name*."""
        return all(
            unit["ActiveState"] == "active" and self.releases[int(unit["MainPID"])] == name
            for unit in self.units.values()
        )

    @property
    def reserve(self) -> Path:
        return self.journal.with_suffix(".reserve")

    @property
    def frozen(self) -> set[str]:
        """The runs whose copies are kept."""
        path = self.top / "data/ops/update/frozen"
        return {each.name for each in path.iterdir()} if path.exists() else set()

    @property
    def previous(self) -> set[str]:
        """The run whose copies ``rollback --data`` takes."""
        path = self.top / "data/ops/update/previous.json"
        return {json.loads(path.read_text())["run"]} if path.exists() else set()

    def assert_clean(self) -> None:
        assert self.frozen <= self.previous
        assert not self.journal.exists()
        assert not list((self.top / "system").glob("**/*.service"))
        assert not list((self.top / "data").glob("scratch/*"))
        assert not list(self.top.glob("**/*.reserve"))
        assert not [path for path in self.top.glob("**/*.partial*") if "backups" not in str(path)]

    # Played systemd.

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
        self.happen("stop")
        self.units[unit].update(ActiveState="inactive", SubState="dead", MainPID="0")

    def start(self, unit: str) -> None:
        if self.units.get(unit, {}).get("ActiveState") == "active":
            return
        pid = len(self.releases) + 1000
        self.releases[pid] = self.current
        self.units[unit] = {"ActiveState": "active", "SubState": "running", "MainPID": str(pid)}
        self.run_release(unit.split("@")[1].split(".")[0])

    def run_release(self, agent: str) -> None:
        """Plays a release as soon as it runs."""
        if self.current == self.old:
            return
        if self.broken != "migrates nothing":
            with self.database(agent) as connection:
                connection.execute("UPDATE schema_version SET version = 2")
        self.speak(agent, f"learnt by {agent}")

    def boot(self) -> None:
        """The power comes back; the unit that recovers an update runs before the gateways."""
        for unit in self.units:
            self.stop(unit)
        guarded = (self.top / "system/multi-user.target.wants/hermes-update-recovery.service").exists()
        if guarded and self.journal.exists():
            self.machine().recover(boot=True)
        for unit in self.units:
            self.start(unit)

    # Played agents.

    def wait(self, agents, _manager_of, records=None):
        results = []
        for agent in agents:
            name, unit = agent.name, self.units[agent.unit]
            problems = []
            if unit["ActiveState"] != "active":
                problems.append(Problem("not_running", "it does not run", "start it"))
            elif self.releases[int(unit["MainPID"])] == self.old:
                # The old release cannot read data that the new one has migrated.
                if self.schema(name) != 1:
                    problems.append(Problem("no_answer", "it cannot read its database", "put it back"))
            elif self.broken == "unhealthy":
                problems.append(Problem("no_answer", "it does not answer", "see the log"))
            elif self.broken == "mute" and agent.health.reply:
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
        """Count an event, and kill the updater if it is the last one."""
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
        # As the kernel closes the files of a dead process.
        return not finished


def play(patched: pytest.MonkeyPatch, world: World) -> World:
    """Patch the kit so that it works in *world*."""

    def ticking(original):
        def call(*arguments, **options):
            world.tick()
            return original(*arguments, **options)

        return call

    for name in ("rename", "replace", "unlink", "link", "symlink", "mkdir", "chmod", "rmdir"):
        patched.setattr(os, name, ticking(getattr(os, name)))
    # fsync is called thousands of times, and these tests cut no power.
    patched.setattr(os, "fsync", lambda descriptor: None)
    patched.setattr(Manager, "call", lambda self, *a, **options: world.call(self, *a, **options))
    patched.setattr(Manager, "reachable", True)
    patched.setattr(gateway, "running_release", lambda pid, root: world.releases.get(pid))
    patched.setattr(health, "wait", world.wait)
    patched.setattr(health, "check", lambda agent, account, unit: world.wait([agent], None)[0])
    patched.setattr(heartbeat, "report", lambda host, job, event, body: world.reports.append((event, body)))
    patched.setattr(canary, "boot", lambda *a, **options: played_canary(world, *a, **options))
    patched.setattr(build, "newest", lambda request, index, **_o: played_newest(world, request))
    patched.setattr(build, "ensure", lambda request, index, **_o: played_build(world, request))
    patched.setattr(guard, "UNIT_DIRECTORY", str(world.top / "system"))
    patched.setattr(Machine, "_shutting_down", lambda self: world.going_down)
    # Workers are real, and so is the time that they take.
    patched.setattr(worker, "time", SimpleNamespace(monotonic=time.monotonic))
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


def played_canary(world, host, name, agent, *, reply, timeout, stable):
    home = Path(agent.home)
    assert str(home.parent) == canary.scratch_directory(host)
    assert "A_KEY" in (home / ".env").read_text()
    with contextlib.closing(sqlite3.connect(home / "state.db")) as connection:
        assert connection.execute("SELECT count(*) FROM said").fetchone()[0] >= 1
    world.canaries = [*getattr(world, "canaries", []), (name, agent.name, reply)]
    world.happen("canary")
    world.tick()
    if world.broken == "canary":
        raise canary.CanaryFailed("ended by itself", where=f"release {name}", fix="see", log=["a line of its log"])
    return {"version": "0.19.0", "reply": None, "seconds": 1.0}


@pytest.fixture(scope="session")
def world_in():
    """A function that makes a world in a directory, in which the kit works as long as it is patched."""

    def make(patched: pytest.MonkeyPatch, top: Path, broken: str = "", **declared) -> World:
        return play(patched, World(top, broken, **declared))

    return make


@pytest.fixture
def worlds(tmp_path, monkeypatch):
    """A function that makes the world of a test."""

    def make(broken: str = "", **declared) -> World:
        return play(monkeypatch, World(tmp_path / "world", broken, **declared))

    return make


class PlayedWorker:
    """Arguments and answer pass through JSON, as with a real worker."""

    def __init__(self, account, function, arguments=(), limits=None, descriptors=(), where=None) -> None:
        module, name = function.split(":")
        call = getattr(importlib.import_module(f"{worker.PACKAGE}.{module}"), name)
        self.value, self.error = None, None
        try:
            self.value = json.loads(json.dumps(call(*json.loads(json.dumps(list(arguments))))))
        except Exception as error:
            self.error = error

    def result(self):
        if self.error:
            raise self.error
        return self.value

    def end(self) -> None:
        pass


@pytest.fixture
def played_worker() -> type[PlayedWorker]:
    return PlayedWorker


@pytest.fixture
def real_workers() -> None:
    """Real workers, for tests of the separation between a worker and root."""


@pytest.fixture(autouse=True)
def played_workers(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if "real_workers" not in request.fixturenames:
        monkeypatch.setattr(worker, "Worker", PlayedWorker)
        monkeypatch.setattr(frozen, "Worker", PlayedWorker)
