# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Watch the disks of the agents' homes, and stop a gateway before it answers what it cannot store.

An agent may fill its disk on purpose, again and again. So each gateway is judged by the disk of its own home only, and
stopped by a thread of its own, since an agent can delay its stop.
"""

from __future__ import annotations

import contextlib
import math
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from ..description.agent import Agent
from ..host import held, jobs, settings
from ..host.held import Hold
from ..host.installation import JOURNALS, Installation
from ..host.records import check_ops
from ..system.errors import OpsError
from ..system.files import allocate
from ..system.systemd import Manager
from . import gateway
from .systemd import supervisor_of

# Seconds between two looks, of which each takes 0.2 ms of the processor.
PERIOD = 0.1
# Seconds between two reads of the list of agents.
RELOAD = 5.0
# Seconds until a reserve is tried again that could not be made or released: a line in the log each time.
AGAIN = 60.0
# Seconds for which there must be room before a gateway starts again.
SETTLED = 10.0
# Seconds between two alarms about an agent, which may fill a disk of its own again and again: as between heartbeats.
ALARM = 120.0
# In units of the least free space: room to start again; to keep the reserve; the reserve itself.
ROOM, AMPLE, RESERVE = 2, 6, 2
# With less than this share of the least free space, a gateway is killed: what it would still answer would be lost.
LAST = 8
# Exists once the first look since the boot is done.
_LOOKED = ".looked"


@dataclass(frozen=True)
class Disk:
    """The file system of a directory.

    :param free: bytes that unprivileged users may write
    :param size: bytes
    """

    device: int
    free: int
    size: int


def disk_of(directory: str) -> Disk | None:
    """The disk of *directory*; None if that cannot be said.

    Nothing is opened for reading, and no symbolic link is followed in its last place, since an agent may own it.
    """
    try:
        descriptor = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            status, device = os.fstatvfs(descriptor), os.fstat(descriptor).st_dev
        finally:
            os.close(descriptor)
    except OSError:
        return None
    # Without blocks: not a disk, or one about which its owner tells root nothing (FUSE).
    size = status.f_blocks * status.f_frsize
    return Disk(device, status.f_bavail * status.f_frsize, size) if size else None


def decide(free: int, least: int) -> str:
    """What a gateway may do: ``run``, ``stay`` as it is, ``end`` its work, or nothing any more: ``die``.

    :param free: bytes on its disk
    :param least: bytes below which the disk is nearly full
    """
    if free < least // LAST:
        return "die"
    if free < least:
        return "end"
    return "run" if free >= ROOM * least else "stay"


def decide_reserve(free: int, least: int, *, exists: bool) -> str:
    """What to do about the reserve: ``release``, ``make``, or "" for nothing. Parameters as of :func:`decide`."""
    if exists:
        return "release" if free < least else ""
    return "make" if free >= AMPLE * least else ""


def explain(agent: Agent, disk: Disk, least: int) -> tuple[str, str]:
    """Why the gateway of *agent* is held, and the remedy."""
    what = (
        f"its gateway was stopped, because the disk of {agent.home} has {_mb(disk.free)} free, less than "
        f"{_mb(least)}: it would answer messages that it cannot store"
    )
    return what, f"free space there, or make the disk larger; the gateway starts when {_mb(ROOM * least)} are free"


class Watch:
    """The service that watches the disks. Its state is in :data:`held.DIRECTORY`, so it may be restarted at any time.

    :param declared: bytes that are to stay free on each disk
    :param say: called with each line of its log
    """

    def __init__(self, declared: int, say: Callable[[str], object]) -> None:
        self.declared = declared
        self.say = say
        self.host: Installation | None = None
        self.agents: list[Agent] = []
        self.loaded = -RELOAD
        # By agent: since when there is room again, and a lock, because its gateway is stopped and started in threads.
        self.room: dict[str, float] = {}
        self.locks: dict[str, threading.Lock] = {}
        # Agents whose gateways were told to end since the list was read. They are told again, in case one was started.
        self.stopped: set[str] = set()
        # By agent: when the alarm was raised last.
        self.alarmed: dict[str, float] = {}
        self.killed: set[str] = set()
        # When the reserve could last neither be made nor released.
        self.failed = -math.inf
        held.declare(declared)
        # No gateway runs yet at a boot, and all are going to.
        looked = os.path.join(held.DIRECTORY, _LOOKED)
        self.booting = not os.path.exists(looked)
        self.look()
        self.booting = False
        with open(looked, "w", encoding="ascii"):
            pass

    def look(self) -> None:
        """Look once at the disk of each agent, and act."""
        self._load()
        if self.host is None:
            return
        disks = {agent.name: disk_of(agent.home) for agent in self.agents}
        released = self._keep_reserve(self.host.ops_dir, {disk.device for disk in disks.values() if disk})
        for agent in self.agents:
            disk = disk_of(agent.home) if released else disks[agent.name]
            if disk:
                self._judge(self.host, agent, disk)

    def _load(self) -> None:
        """Read the list of agents again, now and then."""
        now = time.monotonic()
        if now - self.loaded < RELOAD:
            return
        self.loaded = now
        self.stopped.clear()
        self.killed.clear()
        try:
            host = Installation.load(unmounted=True)
            self.agents = host.agents
        except OpsError as error:
            self.say(f"the agents cannot be read: {error}")
            return
        self.host = host
        # Of agents that are gone. Without any agent, the data volume is not mounted.
        for name in set(held.names()) - {agent.name for agent in self.agents} if self.agents else ():
            held.remove(name)

    def _keep_reserve(self, ops_dir: str, devices: set[int]) -> bool:
        """Make the reserve, or release it if its disk is nearly full.

        It is below *ops_dir*, because an agent could remove it anywhere else.

        :param devices: the disks of the homes; a reserve on another one would be of no use
        :returns: whether it was released
        """
        disk, path = disk_of(ops_dir), os.path.join(ops_dir, held.RESERVE_FILE)
        if not disk or disk.device not in devices:
            return False
        least = held.least_of(disk.size, self.declared)
        wanted = decide_reserve(disk.free, least, exists=os.path.lexists(path))
        if time.monotonic() - self.failed < AGAIN:
            return False
        try:
            if wanted == "make":
                check_ops(ops_dir)
                allocate(path, RESERVE * least)
            elif wanted == "release":
                os.unlink(path)
                self.say(f"{ops_dir}: {_mb(disk.free)} free, and {_mb(RESERVE * least)} more that were kept in reserve")
        except (OpsError, OSError) as error:
            self.failed = time.monotonic()
            self.say(f"{path}: {error}")
        return wanted == "release"

    def _judge(self, host: Installation, agent: Agent, disk: Disk) -> None:
        name, least, booting = agent.name, held.least_of(disk.size, self.declared), self.booting
        hold, may = held.read(name), decide(disk.free, least)
        if may in ("end", "die"):
            new = hold is None
            if hold is None:
                hold = Hold(*explain(agent, disk, least), start=True)
                # First of all: from here on nothing starts it.
                held.write(name, hold)
                self.say(f"agent {name}: {hold.what}")
                self.stopped.discard(name)
                self.killed.discard(name)
            if may == "die" and name not in self.killed and not self._lock(_kill_of(name)).locked():
                self.killed.add(name)
                _in_thread(lambda: self._kill(host, agent))
            if name not in self.stopped and not self._lock(name).locked():
                self.stopped.add(name)
                _in_thread(lambda: self._stop(host, agent, hold, asked=new and not booting))
        if may != "run":
            self.room.pop(name, None)
        elif hold and self._settled(name) and not self._lock(name).locked() and not _busy(host, agent):
            del self.room[name]
            _in_thread(lambda: self._let_go(host, agent, hold))

    def _settled(self, name: str) -> bool:
        """Whether there has been room for some time."""
        now = time.monotonic()
        return now - self.room.setdefault(name, now) >= SETTLED

    def _lock(self, name: str) -> threading.Lock:
        return self.locks.setdefault(name, threading.Lock())

    # In threads.

    def _kill(self, host: Installation, agent: Agent) -> None:
        with self._lock(_kill_of(agent.name)), self._told(agent):
            host.manager_of(agent).call("kill", "--signal=KILL", agent.unit, check=False)

    def _stop(self, host: Installation, agent: Agent, hold: Hold, *, asked: bool) -> None:
        """Stop a gateway that is held.

        :param asked: if it does not run, ask whether somebody had stopped it
        """
        with self._lock(agent.name), self._told(agent):
            supervisor = supervisor_of(host)
            if not supervisor.state([agent])[agent.name].ended:
                supervisor.stop([agent])
                self.say(f"agent {agent.name}: its gateway is stopped")
                now = time.monotonic()
                if now - self.alarmed.get(agent.name, -ALARM) >= ALARM:
                    self.alarmed[agent.name] = now
                    _raise_alarm()
            elif asked and not _busy(host, agent):
                held.write(agent.name, replace(hold, start=False))

    def _let_go(self, host: Installation, agent: Agent, hold: Hold) -> None:
        with self._lock(agent.name), self._told(agent):
            held.remove(agent.name)
            self.say(f"agent {agent.name}: there is room again")
            if hold.start:
                gateway.start(supervisor_of(host), [agent], {agent.name: host.records(agent.name)})

    @contextlib.contextmanager
    def _told(self, agent: Agent) -> Iterator[None]:
        """Log an error: it must not end the watch over the others."""
        try:
            yield
        except (OpsError, OSError) as error:
            self.say(f"agent {agent.name}: {error}")


def _kill_of(name: str) -> str:
    """The name of a lock: an agent is killed even while a stop waits for it, but by one thread at a time."""
    return f"kill {name}"


def _busy(host: Installation, agent: Agent) -> bool:
    """Whether a job is under way that stops and starts gateways itself."""
    return any(host.busy(job) or host.unfinished(job, agent.name) for job in JOURNALS)


def _in_thread(action: Callable[[], object]) -> None:
    threading.Thread(target=action, daemon=True).start()


def _raise_alarm() -> None:
    """Have the heartbeat, where there is one, tell it now."""
    heartbeat = jobs.JOBS["heartbeat"]
    if os.path.exists(settings.path_of(heartbeat.name)):
        Manager.of_host().call("start", "--no-block", heartbeat.service, check=False)


def _mb(size: int) -> str:
    return f"{size / 2**20:.3g} MB"
