# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The watch over the disks: when a gateway is stopped, killed and started, and what keeps it from starting."""

from __future__ import annotations

import errno
import os
import time
from types import SimpleNamespace

import described
import pytest
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.backup import space
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.host import disk_watch, held
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.supervise import disks
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.supervise.disks import Disk, Watch
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.supervise.systemd import Systemd, state_of
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.errors import OpsError
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.files import Account
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.systemd import Manager, Unit
from hypothesis import given
from hypothesis import strategies as st

MB = 2**20
LEAST = 100 * MB
SIZE = 20 * LEAST


@pytest.mark.parametrize(
    ("free", "may"),
    [
        *((0, "die"), (LEAST // 8 - 1, "die"), (LEAST // 8, "end"), (LEAST - 1, "end")),
        *((LEAST, "stay"), (2 * LEAST - 1, "stay"), (2 * LEAST, "run"), (SIZE, "run")),
    ],
)
def test_what_a_gateway_may_do(free, may):
    assert disks.decide(free, LEAST) == may


def test_of_a_small_disk_only_a_twentieth_has_to_be_free():
    assert held.least_of(1000 * MB, LEAST) == 50 * MB
    assert held.least_of(10**12, LEAST) == LEAST


@pytest.mark.parametrize(
    ("free", "allowed"),
    [
        # Otherwise the copies of one agent would have the gateways of all others on that disk stopped.
        (10_000, 10_000 - 256 - 16),
        (270, 0),
        # Too little for gateways already: none runs there.
        (200, 200 - 16),
        (10, 0),
    ],
)
def test_jobs_leave_what_gateways_need_to_run(tmp_path, monkeypatch, free, allowed):
    monkeypatch.setattr(held, "DIRECTORY", str(tmp_path / "held"))
    held.declare(256 * 2**20)
    status = SimpleNamespace(f_blocks=20_000 * 2**20, f_frsize=1, f_bavail=free * 2**20)
    monkeypatch.setattr(os, "statvfs", lambda _path: status)
    assert held.spare(str(tmp_path), 16 * 2**20) == allowed * 2**20


@given(free=st.integers(0, SIZE), exists=st.booleans())
def test_the_reserve_alone_never_stops_or_starts_a_gateway(free, exists):
    done = disks.decide_reserve(free, LEAST, exists=exists)
    if done == "release":
        assert disks.decide(free, LEAST) in ("end", "die")
        # A disk that was filled up once has room for every gateway again.
        assert disks.decide(free + disks.RESERVE * LEAST, LEAST) == "run"
    if done == "make":
        assert not exists
        assert disks.decide(free - disks.RESERVE * LEAST, LEAST) == "run"


def test_only_a_directory_has_a_disk(tmp_path):
    disk = disks.disk_of(str(tmp_path))
    status = os.statvfs(tmp_path)
    assert disk
    assert (disk.device, disk.size) == (tmp_path.stat().st_dev, status.f_blocks * status.f_frsize)
    # An agent may replace its home.
    (tmp_path / "link").symlink_to(tmp_path)
    os.mkfifo(tmp_path / "fifo")
    for place in ("link", "fifo", "missing"):
        assert disks.disk_of(str(tmp_path / place)) is None
    # About some, the kernel knows no size.
    assert disks.disk_of("/proc") is None


class Host:
    """A host with the agents ``one`` and ``two``, each on a disk of its own, and with the ops directory on a third.

    :ivar free: bytes, by directory
    :ivar told: calls of the supervisor
    :ivar running: agents
    """

    def __init__(self, tmp_path):
        self.ops_dir = str(tmp_path / "ops")
        os.mkdir(self.ops_dir, 0o700)
        self.agents = [described.agent(name, home=f"/{name}") for name in ("one", "two")]
        self.free = {"/one": SIZE, "/two": SIZE, self.ops_dir: SIZE}
        self.devices = {"/one": 1, "/two": 2, self.ops_dir: 3}
        self.running = {"one", "two"}
        self.told: list[str] = []
        self.jobs: set[str] = set()

    def disk_of(self, place):
        return Disk(self.devices[place], self.free[place], SIZE) if place in self.free else None

    def busy(self, job):
        return job in self.jobs

    def unfinished(self, _job, _agent):
        return False

    def records(self, _name):
        return SimpleNamespace(restarted=lambda _since: None, refuse_moved=lambda: None)

    def manager_of(self, agent):
        return SimpleNamespace(call=lambda verb, *_words, **_options: self._tell(verb, [agent]))

    # A supervisor's.

    def state(self, agents):
        return {agent.name: SimpleNamespace(ended=agent.name not in self.running) for agent in agents}

    def stop(self, agents):
        self._tell("stop", agents)
        self.running -= {agent.name for agent in agents}

    def start(self, agents):
        self._tell("start", agents)
        self.running |= {agent.name for agent in agents}

    def _tell(self, verb, agents):
        self.told += [f"{verb} {agent.name}" for agent in agents]


@pytest.fixture
def host(tmp_path, monkeypatch):
    host = Host(tmp_path)
    monkeypatch.setattr(held, "DIRECTORY", str(tmp_path / "held"))
    (tmp_path / "held").mkdir()
    monkeypatch.setattr(disks.Installation, "load", lambda **_options: host)
    monkeypatch.setattr(disks, "disk_of", host.disk_of)
    monkeypatch.setattr(disks, "supervisor_of", lambda _host: host)
    monkeypatch.setattr(disks, "SETTLED", 0.0)
    monkeypatch.setattr(disks, "ALARM", 0.0)
    monkeypatch.setattr(disks, "allocate", lambda path, size: open(path, "x").close())
    monkeypatch.setattr(disks, "_in_thread", lambda action: action())
    monkeypatch.setattr(disks, "_raise_alarm", lambda: host.told.append("alarm"))
    return host


@pytest.fixture
def watch(host):
    """A watch that has begun while there was room."""
    return Watch(LEAST, host.told.append)


def done(host):
    """What was done since the last call; log lines have more words."""
    told = [line for line in host.told if len(line.split()) <= 2]
    host.told.clear()
    return told


def test_stopped_while_there_is_no_room_and_the_neighbour_goes_on(host, watch):
    host.free["/one"] = LEAST - 1
    watch.look()
    watch.look()
    assert done(host) == ["stop one", "alarm"]
    hold = held.read("one")
    assert hold
    assert hold.what.startswith("its gateway was stopped, because the disk of /one has 100 MB free, less than 100 MB")
    assert hold.fix.endswith("the gateway starts when 200 MB are free")
    assert held.names() == ["one"]
    host.free["/one"] = 2 * LEAST - 1
    watch.look()
    assert done(host) == []
    host.free["/one"] = 2 * LEAST
    watch.look()
    watch.look()
    assert done(host) == ["start one"]
    assert held.names() == []
    # And again.
    host.free["/one"] = LEAST - 1
    watch.look()
    assert done(host) == ["stop one", "alarm"]


def test_killed_where_nothing_can_be_stored_any_more(host, watch):
    host.free["/one"] = LEAST // 2
    watch.look()
    assert done(host) == ["stop one", "alarm"]
    host.free["/one"] = 0
    watch.look()
    watch.look()
    assert done(host) == ["kill one"]
    host.free["/two"] = 0
    watch.look()
    assert done(host) == ["kill two", "stop two", "alarm"]


def test_a_kill_that_does_not_end_is_not_repeated(host, watch, monkeypatch):
    """In user scope it is a question to the agent's own manager."""
    monkeypatch.setattr(disks, "RELOAD", 0.0)
    waiting: list[str] = []

    def call(verb, *_words, **_options):
        waiting.append(verb)
        if len(waiting) == 1:
            for _each in range(3):
                watch.look()

    monkeypatch.setattr(host, "manager_of", lambda _agent: SimpleNamespace(call=call))
    host.free["/one"] = 0
    watch.look()
    assert waiting == ["kill"]
    watch.look()
    assert waiting == ["kill"] * 2


def test_one_that_somebody_had_stopped_stays_stopped(host, watch):
    host.running.remove("one")
    host.free["/one"] = 0
    watch.look()
    host.free["/one"] = SIZE
    watch.look()
    assert "stop one" not in host.told
    assert "start one" not in host.told
    assert held.names() == []


def test_one_that_a_job_had_stopped_starts_after_the_job(host, watch):
    host.running.remove("one")
    host.jobs = {"update"}
    host.free["/one"] = 0
    watch.look()
    host.free["/one"] = SIZE
    watch.look()
    assert held.names() == ["one"]
    host.jobs = set()
    done(host)
    watch.look()
    assert done(host) == ["start one"]


@pytest.mark.parametrize("act", ["start", "restart"])
def test_one_that_waits_for_the_slowest_of_a_restart_starts_when_there_is_room(host, watch, systemd, monkeypatch, act):
    """All are stopped before the first is started, and the slowest may fill the disk meanwhile."""
    monkeypatch.setattr(held, "DIRECTORY", os.path.join(os.path.dirname(host.ops_dir), "held"))
    host.running.remove("one")
    host.free["/one"] = LEAST - 1
    watch.look()
    hold = held.read("one")
    assert hold
    assert not hold.start
    getattr(Systemd(lambda _agent: Manager("system", Account.current())), act)(host.agents)
    hold = held.read("one")
    assert hold
    assert hold.start
    host.free["/one"] = SIZE
    watch.look()
    assert "start one" in done(host)


def test_at_a_boot_all_are_going_to_run(host):
    host.running.clear()
    host.free["/one"] = 0
    watch = Watch(LEAST, host.told.append)
    assert held.names() == ["one"]
    host.free["/one"] = SIZE
    done(host)
    watch.look()
    assert done(host) == ["start one"]


def test_a_watch_that_is_started_again_goes_on(host, watch):
    host.free["/one"] = LEAST - 1
    watch.look()
    host.running.add("one")
    done(host)
    again = Watch(LEAST, host.told.append)
    assert done(host) == ["stop one", "alarm"]
    host.free["/one"] = SIZE
    again.look()
    assert done(host) == ["start one"]


def test_an_agent_that_fills_its_disk_again_and_again_raises_few_alarms(host, watch, monkeypatch):
    monkeypatch.setattr(disks, "ALARM", 120.0)
    clock = [0.0]
    monkeypatch.setattr(disks, "time", SimpleNamespace(monotonic=lambda: clock[0]))

    def fill_again_and_again(seconds):
        for _each in range(0, seconds, 10):
            for free in (LEAST - 1, SIZE):
                host.free["/one"] = free
                clock[0] += 5
                watch.look()
        return done(host)

    told = fill_again_and_again(240)
    assert told.count("stop one") == 24
    assert told.count("alarm") == 2
    host.free["/two"] = LEAST - 1
    watch.look()
    # Its neighbour's does not wait for that.
    assert done(host) == ["stop two", "alarm"]


def test_room_has_to_last(host, watch, monkeypatch):
    monkeypatch.setattr(disks, "SETTLED", 10.0)
    clock = [0.0]
    monkeypatch.setattr(disks, "time", SimpleNamespace(monotonic=lambda: clock[0], time=time.time))
    for free in (0, SIZE, 0, SIZE):
        host.free["/one"] = free
        clock[0] += 9
        watch.look()
    assert "start one" not in host.told
    clock[0] += 10
    watch.look()
    assert "start one" in host.told


def test_one_that_was_started_nevertheless_is_stopped_again(host, watch, monkeypatch):
    host.free["/one"] = LEAST - 1
    watch.look()
    host.running.add("one")
    done(host)
    watch.look()
    assert done(host) == []
    monkeypatch.setattr(disks, "RELOAD", 0.0)
    watch.look()
    watch.look()
    assert done(host) == ["stop one", "alarm"]
    # Somebody has removed the file.
    held.remove("one")
    host.running.add("one")
    watch.look()
    assert done(host) == ["stop one", "alarm"]
    assert held.names() == ["one"]


def test_an_agent_that_is_gone_is_not_held(host, watch, monkeypatch):
    monkeypatch.setattr(disks, "RELOAD", 0.0)
    host.free["/one"] = 0
    watch.look()
    (_one, two) = host.agents
    host.agents = [two]
    watch.look()
    assert held.names() == []


def test_an_error_with_one_ends_no_watch(host, watch, monkeypatch):
    def fail(_agents):
        raise OpsError("its user's manager does not answer")

    monkeypatch.setattr(host, "stop", fail)
    host.free.update({"/one": LEAST - 1, "/two": LEAST - 1})
    watch.look()
    assert held.names() == ["one", "two"]
    assert next(line for line in host.told if "does not answer" in line).startswith("agent one: ")


def test_a_home_that_cannot_be_found_is_left_alone(host, watch):
    del host.free["/one"]
    watch.look()
    assert done(host) == []


def test_a_reserve_is_released_first(host):
    """It lies where no agent can remove it, so it serves the homes on that disk only."""
    host.devices["/one"] = host.devices[host.ops_dir]
    watch = Watch(LEAST, host.told.append)
    reserve = os.path.join(host.ops_dir, held.RESERVE_FILE)
    assert os.path.exists(reserve)
    disk_of = host.disk_of

    def filled_once(place):
        host.free["/one"] = host.free[host.ops_dir] = 0 if os.path.exists(reserve) else disks.RESERVE * LEAST
        return disk_of(place)

    disks.disk_of = filled_once
    watch.look()
    assert not os.path.exists(reserve)
    assert done(host) == []
    disks.disk_of = disk_of
    host.free["/one"] = host.free[host.ops_dir] = 0
    watch.look()
    assert done(host) == ["kill one", "stop one", "alarm"]
    host.free["/one"] = host.free[host.ops_dir] = SIZE
    watch.look()
    assert os.path.exists(reserve)


def test_a_reserve_that_cannot_be_made_does_not_fill_the_log(host, monkeypatch):
    host.devices["/one"] = host.devices[host.ops_dir]
    clock = [1000.0]
    monkeypatch.setattr(disks, "time", SimpleNamespace(monotonic=lambda: clock[0], time=time.time))

    def allocate(path, _size):
        raise OSError(errno.EOPNOTSUPP, "Operation not supported", path)

    monkeypatch.setattr(disks, "allocate", allocate)
    watch = Watch(LEAST, host.told.append)
    for _each in range(620):
        clock[0] += disks.PERIOD
        watch.look()
    said = [line for line in host.told if "Operation not supported" in line]
    assert len(said) == 2


def test_backups_leave_what_the_watch_wants(host, watch, tmp_path, monkeypatch):
    """An agent with a disk of its own may have more data than the disk of the archives has room."""
    assert held.least_of(SIZE, held.declared()) == LEAST
    # The workers that write them run as the agents' users.
    assert os.stat(held.declared_path()).st_mode & 0o777 == 0o644
    assert held.names() == []
    status = SimpleNamespace(f_blocks=SIZE, f_frsize=1, f_bavail=LEAST + space.RESERVE + 5)
    monkeypatch.setattr(os, "statvfs", lambda _descriptor: status)
    assert space.free(0) == 5
    with pytest.raises(OpsError, match="no room"):
        space.check_space(0, "/backups/one.tar.gz", 6)
    # There is nobody to stop any more.
    status.f_bavail = LEAST - 1
    assert space.free(0) == LEAST - 1 - space.RESERVE


def test_no_reserve_on_a_disk_without_homes(host, watch):
    assert os.listdir(host.ops_dir) == []


# What the hold means to others.


def test_a_held_gateway_is_not_one_that_somebody_stopped(tmp_path, monkeypatch):
    monkeypatch.setattr(held, "DIRECTORY", str(tmp_path))
    assert held.read("default") is None
    held.write("default", held.Hold("no room", "make some", True))
    unit = Unit("hermes-gateway@default.service", "loaded", "inactive", "dead", True, 0, 0, "", 0, 0.0, False)
    state = state_of(unit, held.read("default"))
    assert state.held
    assert state.ended
    assert not state.stopped
    assert state.problem
    assert (state.problem.cause, state.problem.what, state.problem.final) == ("no_space", "no room", True)
    assert state_of(unit).stopped


def test_a_damaged_hold_is_one_as_well(tmp_path, monkeypatch):
    monkeypatch.setattr(held, "DIRECTORY", str(tmp_path))
    (tmp_path / "default").write_text("{")
    hold = held.read("default")
    assert hold
    assert "is not JSON" in hold.what


# The unit.


def test_the_unit_comes_and_goes(systemd, tmp_path):
    manager = Manager("system", Account.current())
    ops_dir = str(tmp_path / "ops")
    os.mkdir(ops_dir)
    plan = disk_watch.plan_present(256, manager)
    assert systemd.asked == []
    plan.apply()
    assert {f"enable --no-reload {held.UNIT}", f"start {held.UNIT}"} <= set(systemd.verbs)
    assert not disk_watch.plan_present(256, manager).changed
    systemd.asked.clear()
    disk_watch.plan_present(512, manager).apply()
    assert f"restart {held.UNIT}" in systemd.verbs
    held.write("default", held.Hold("no room", "make some", True))
    held.declare(LEAST)
    (tmp_path / "ops" / held.RESERVE_FILE).touch()
    disk_watch.plan_absent(ops_dir, manager).apply()
    assert held.names() == []
    assert held.least_of(SIZE, held.declared()) == 0
    assert os.listdir(ops_dir) == []
    assert not os.path.exists(disk_watch.PATH)
    assert not disk_watch.plan_absent(ops_dir, manager).changed


def test_it_sees_disks_that_are_mounted_later():
    """With mounts of its own, it sees only what is propagated to them, and in a container nothing is."""
    own = ("Private", "Protect", "ReadWritePaths", "ReadOnlyPaths", "BindPaths", "InaccessiblePaths", "TemporaryFile")
    assert [line for line in disk_watch.render(256).splitlines() if line.startswith(own)] == []


def test_it_can_end_the_programs_that_it_starts():
    """In user scope some run as an agent's user, which can stop them, and then they would add up."""
    (capabilities,) = (
        line.partition("=")[2].split()
        for line in disk_watch.render(256).splitlines()
        if line.startswith("CapabilityBoundingSet=")
    )
    assert {"CAP_SETUID", "CAP_KILL"} <= set(capabilities)


def test_less_than_nothing_is_refused(systemd):
    with pytest.raises(OpsError, match="declare megabytes, or 0"):
        disk_watch.plan_present(-1, Manager("system", Account.current()))
