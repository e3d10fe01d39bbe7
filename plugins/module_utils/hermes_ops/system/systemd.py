# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""systemd, asked and told through systemctl; the system's manager and a user's alike."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace

from .errors import OpsError
from .files import Owner
from .process import Completed, run

# For everything but a stop, which takes as long as the gateway may drain.
COMMAND_TIMEOUT = 120.0
# For a user's manager that is asked something: it is the agent's, and may never answer.
ASK_TIMEOUT = 10.0

# systemd's words for a unit that nobody starts again.
DEAD = ("inactive", "failed")

# What a path may hold so that it means itself in every directive: no white space, quote, `%`, `:` or `\`.
UNIT_PATH = re.compile(r"/[\w./@+,=~-]*")

# What systemd says of a unit, and how long a number of it may be.
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
    "NeedDaemonReload": "no",
    "LoadState": "not-found",
    "Job": "",
}


@dataclass(frozen=True)
class Unit:
    """What systemd says of a unit, in systemd's own words.

    :param entered: when it became active, seconds of the monotonic clock; 0.0 when it is not
    :param user: whose manager runs it; "" for the system's
    :param queued: systemd has yet to begin with something it was told to do with it
    :param unknown: why nothing is known of it; "" when its state is
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
    unknown: str = ""

    def command(self, verb: str) -> str:
        """What root types to have *verb* done to it."""
        manager = f"systemctl --user -M {self.user}@" if self.user else "systemctl"
        return f"{manager} {verb} {self.name}"

    @property
    def log(self) -> str:
        """What root types to read its log."""
        # Of another user's units journalctl finds the lines by the identifier only, which ours have.
        identifier = self.name.removesuffix(".service").replace("@", "-")
        return f"journalctl -t {identifier}" if self.user else f"journalctl -u {self.name}"

    @property
    def dead(self) -> bool:
        """Whether it has ended, and systemd does not start it again by itself."""
        return self.active in DEAD

    @property
    def over(self) -> bool:
        """Whether it neither runs nor is about to."""
        return self.dead and not self.queued

    @property
    def running(self) -> bool:
        return self.active == "active" and self.sub == "running" and self.pid > 0

    @property
    def age(self) -> float:
        """Seconds since it became active."""
        return time.clock_gettime(time.CLOCK_MONOTONIC) - self.entered if self.entered else 0.0

    def is_older_than(self, path: str) -> bool:
        """Whether *path* was written after it became active: what it reads at its start, it has not read.

        Files say so themselves, so nothing is lost when we are killed between writing one and a restart.
        """
        try:
            written = os.stat(path).st_mtime
        except FileNotFoundError:
            return False
        now = time.time()
        # A time that has yet to come says nothing: the clock was set back meanwhile.
        return bool(self.entered) and now - self.age < written <= now


class Manager:
    """One service manager.

    :param scope: ``system`` or ``user``
    :param owner: whose manager it is, for ``user``
    """

    def __init__(self, scope: str, owner: Owner) -> None:
        self.scope = scope
        self.owner = owner

    def call(self, *arguments: str, check: bool = True, timeout: float = COMMAND_TIMEOUT) -> Completed:
        """Run ``systemctl [--user] arguments``."""
        if self.scope == "system":
            return run(["systemctl", *arguments], timeout=timeout, check=check)
        return run(
            ["systemctl", "--user", *arguments],
            timeout=timeout,
            check=check,
            user=self.owner,
            env={"XDG_RUNTIME_DIR": f"/run/user/{self.owner.uid}"},
        )

    def ask(self, *arguments: str) -> Completed:
        """Like :meth:`call`, for what only asks and may fail.

        :raises OpsError: it does not answer, or without end
        """
        return self.call(*arguments, check=False, timeout=COMMAND_TIMEOUT if self.scope == "system" else ASK_TIMEOUT)

    def journal(self, unit: str) -> list[str]:
        """The matches of journalctl for what *unit* says.

        By what journald itself notes of who speaks; its identifier is what any process likes to call itself.
        """
        if self.scope == "system":
            return [f"_SYSTEMD_UNIT={unit}"]
        return [f"_SYSTEMD_USER_UNIT={unit}", f"_UID={self.owner.uid}"]

    @property
    def reachable(self) -> bool:
        """Whether the manager runs: a user's does once the user lingers."""
        if self.scope == "system":
            return os.path.isdir("/run/systemd/system")
        return os.path.exists(f"/run/user/{self.owner.uid}/systemd/private")

    def units(self, names: Iterable[str]) -> dict[str, Unit]:
        """The state of the named units, in one call."""
        names = list(names)
        if not names or not self.reachable:
            return {name: self._unit(name, {}) for name in names}
        answer = self.ask("show", "--property", ",".join(_PROPERTIES), *names)
        blocks = answer.stdout.split("\n\n")
        found = {}
        for name, block in zip(names, blocks):
            found[name] = self._unit(name, dict(line.split("=", 1) for line in block.splitlines() if "=" in line))
        return {name: found.get(name) or self._unit(name, {}) for name in names}

    def unknown(self, name: str, why: str) -> Unit:
        """A unit of which this manager says nothing."""
        states = dict.fromkeys(("LoadState", "ActiveState", "SubState"), "unknown")
        return replace(self._unit(name, states), unknown=why)

    def _unit(self, name: str, properties: dict[str, str]) -> Unit:
        # A user's manager is the agent's: it may say anything.
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
            stale=values["NeedDaemonReload"] == "yes",
            user=self.owner.name if self.scope == "user" else "",
            queued=bool(values["Job"]),
        )


def _word(value: str) -> str:
    """*value*, as far as it is one of systemd's words, numbers, or names of units."""
    return value if _WORD.fullmatch(value) else "nonsense"


def _number(value: str) -> int:
    return int(value) if _NUMBER.fullmatch(value) else 0


def version() -> int:
    """The version of the host's systemd, e.g. 252; 0 when it has none."""
    if not os.path.isdir("/run/systemd/system"):
        return 0
    words = run(["systemctl", "--version"], timeout=10).stdout.split()
    return int("".join(character for character in words[1] if character.isdigit())[:3])


def check_path(path: str, where: str) -> None:
    """:raises OpsError: when *path* cannot stand in a unit as it is"""
    if not UNIT_PATH.fullmatch(path) or ".." in path.split("/"):
        raise OpsError(
            f"{path!r} cannot stand in a unit of systemd",
            where=where,
            fix="use an absolute path of letters, digits and ._@+,=~- without '..'",
        )
