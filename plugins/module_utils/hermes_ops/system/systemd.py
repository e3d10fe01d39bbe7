# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Queries and controls systemd through systemctl, both the system's manager and a user's."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from .files import Account
from .process import Completed, run

# Seconds, for every command except a stop, which takes as long as the gateway may drain.
COMMAND_TIMEOUT = 120.0
# Seconds, for queries to a user's manager: it belongs to the agent, and may never answer.
ASK_TIMEOUT = 10.0

# For every unit that has secrets in its memory. When a process crashes, systemd-coredump writes its environment into
# the journal, even if the limit is 0. With the limit 1, and no other, the kernel does not start it (do_coredump() in
# fs/coredump.c).
NO_CORE = ("LimitCORE", "1")

# Units in one call. A name of 255 bytes at most, and 2 MiB for all arguments (ARG_MAX).
_AT_ONCE = 1000

# States of a unit that does not run and that systemd will not restart.
DEAD = ("inactive", "failed")

# Words and numbers that are accepted in systemd's answer, with their maximum lengths.
_WORD = re.compile(r"[\w.@:\\-]{0,255}", re.ASCII)
_NUMBER = re.compile(r"\d{1,20}", re.ASCII)

_PROPERTIES = {
    "Id": "",
    "ActiveState": "inactive",
    "SubState": "dead",
    "UnitFileState": "",
    "MainPID": "0",
    "NRestarts": "0",
    "Result": "",
    "ExecMainStatus": "0",
    "ActiveEnterTimestampMonotonic": "0",
    "InactiveExitTimestampMonotonic": "0",
    "NeedDaemonReload": "no",
    "LoadState": "not-found",
    "Job": "",
    "MemoryCurrent": "",
}


@dataclass(frozen=True)
class Unit:
    """The state of a unit, in systemd's own words.

    :param entered: when it became active, in seconds of the monotonic clock; 0.0 when it never did
    :param began: when its last start began, on the same clock; 0.0 when it never did
    :param user: the user whose manager runs it; "" for the system's manager
    :param queued: systemd has a pending job for it
    :param memory: bytes that count against its limit; None: not measured
    :param unknown: why its state is not known; "" when it is known
    """

    name: str
    load: str
    active: str
    sub: str
    enabled: bool
    pid: int
    restarts: int
    result: str
    status: int
    entered: float
    stale: bool
    user: str = ""
    queued: bool = False
    memory: int | None = None
    unknown: str = ""
    began: float = 0.0

    def command(self, verb: str) -> str:
        """The command with which root applies *verb* to it."""
        manager = f"systemctl --user -M {self.user}@" if self.user else "systemctl"
        return f"{manager} {verb} {self.name}"

    @property
    def log(self) -> str:
        """The command with which root reads its log."""
        # journald sets this field itself; an identifier is chosen by whoever writes.
        return f"journalctl _SYSTEMD_USER_UNIT={self.name}" if self.user else f"journalctl -u {self.name}"

    @property
    def dead(self) -> bool:
        """Whether it ended and systemd will not restart it."""
        return self.active in DEAD

    @property
    def over(self) -> bool:
        """Whether it neither runs nor is about to start."""
        return self.dead and not self.queued

    @property
    def running(self) -> bool:
        return self.active == "active" and self.sub == "running" and self.pid > 0

    @property
    def age(self) -> float:
        """Seconds since it became active."""
        return time.clock_gettime(time.CLOCK_MONOTONIC) - self.entered if self.entered else 0.0

    def is_older_than(self, path: str) -> bool:
        """Whether *path* was written after the unit's start began, so that the unit may not have read it.

        The file's own time decides, so a run that is killed between the write and the restart loses nothing. When the
        unit became active is too late: systemd reads an environment file first, and sets up the sandbox then.
        """
        try:
            written = os.stat(path).st_mtime
        except FileNotFoundError:
            return False
        now, age = time.time(), time.clock_gettime(time.CLOCK_MONOTONIC) - (self.began or self.entered)
        # A time in the future is ignored: the clock was set back after the write.
        return bool(self.entered) and now - age < written <= now


def batches(names: Sequence[str]) -> Iterator[list[str]]:
    """*names* in lists of :data:`_AT_ONCE`, since the kernel limits the arguments of a program."""
    for start in range(0, len(names), _AT_ONCE):
        yield list(names[start : start + _AT_ONCE])


class Manager:
    """One service manager.

    :param scope: ``system`` or ``user``
    :param account: the user whose manager it is, for ``user``
    """

    def __init__(self, scope: str, account: Account) -> None:
        self.scope = scope
        self.account = account

    @classmethod
    def of_host(cls) -> Manager:
        """The host's own, called as whoever this process runs as."""
        return cls("system", Account.current())

    def call(self, *arguments: str, check: bool = True, timeout: float = COMMAND_TIMEOUT) -> Completed:
        """Run ``systemctl [--user] arguments``."""
        if self.scope == "system":
            return run(["systemctl", *arguments], timeout=timeout, check=check)
        return run(
            ["systemctl", "--user", *arguments],
            timeout=timeout,
            check=check,
            user=self.account,
            env={"XDG_RUNTIME_DIR": f"/run/user/{self.account.uid}"},
        )

    def ask(self, *arguments: str) -> Completed:
        """Like :meth:`call`, for queries. A failed query is no error.

        :raises OpsError: the manager does not answer in time, or its answer is too long
        """
        return self.call(*arguments, check=False, timeout=COMMAND_TIMEOUT if self.scope == "system" else ASK_TIMEOUT)

    def journal(self, unit: str) -> list[str]:
        """The journalctl matches for the lines of *unit*.

        They use fields that journald itself sets. The identifier is no proof: any process can choose its own.
        """
        if self.scope == "system":
            return [f"_SYSTEMD_UNIT={unit}"]
        return [f"_SYSTEMD_USER_UNIT={unit}", f"_UID={self.account.uid}"]

    @property
    def reachable(self) -> bool:
        """Whether the manager runs. A user's manager runs once lingering is enabled."""
        if self.scope == "system":
            return os.path.isdir("/run/systemd/system")
        return os.path.exists(f"/run/user/{self.account.uid}/systemd/private")

    def units(self, names: Iterable[str]) -> dict[str, Unit]:
        """The state of the named units."""
        names = list(names)
        if not self.reachable:
            return {name: self._unit(name, {}) for name in names}
        return {name: unit for some in batches(names) for name, unit in self._units(some).items()}

    def _units(self, names: list[str]) -> dict[str, Unit]:
        answer = self.ask("show", "--property", ",".join(_PROPERTIES), *names)
        blocks = answer.stdout.split("\n\n")
        found = {}
        for name, block in zip(names, blocks):
            found[name] = self._unit(name, dict(line.split("=", 1) for line in block.splitlines() if "=" in line))
        return {name: found.get(name) or self._unit(name, {}) for name in names}

    def unknown(self, name: str, why: str) -> Unit:
        """A unit whose state this manager did not report.

        :param why: the reason, for :attr:`Unit.unknown`
        """
        states = dict.fromkeys(("LoadState", "ActiveState", "SubState"), "unknown")
        return replace(self._unit(name, states), unknown=why)

    def _unit(self, name: str, properties: dict[str, str]) -> Unit:
        # A user's manager belongs to the agent, so its answer is not trusted.
        values = {key: _word(properties.get(key, default)) for key, default in _PROPERTIES.items()}
        return Unit(
            name=name,
            load=values["LoadState"],
            active=values["ActiveState"],
            sub=values["SubState"],
            enabled=values["UnitFileState"] == "enabled",
            pid=_number(values["MainPID"]),
            restarts=_number(values["NRestarts"]),
            result=values["Result"],
            status=_number(values["ExecMainStatus"]),
            entered=_number(values["ActiveEnterTimestampMonotonic"]) / 1e6,
            began=_number(values["InactiveExitTimestampMonotonic"]) / 1e6,
            stale=values["NeedDaemonReload"] == "yes",
            user=self.account.name if self.scope == "user" else "",
            queued=bool(values["Job"]),
            memory=_memory(values["MemoryCurrent"]),
        )


def _word(value: str) -> str:
    """*value*, if it can be a word, number or unit name of systemd; else ``nonsense``."""
    return value if _WORD.fullmatch(value) else "nonsense"


def _number(value: str) -> int:
    return int(value) if _NUMBER.fullmatch(value) else 0


def _memory(value: str) -> int | None:
    # Without the memory controller, systemd reports "[not set]" or the largest 64-bit number.
    return int(value) if _NUMBER.fullmatch(value) and int(value) < 2**63 else None


def version() -> int:
    """The version of the host's systemd, e.g. 252; 0 when the host does not run systemd."""
    if not os.path.isdir("/run/systemd/system"):
        return 0
    words = run(["systemctl", "--version"], timeout=10).stdout.split()
    return int("".join(character for character in words[1] if character.isdigit())[:3])
