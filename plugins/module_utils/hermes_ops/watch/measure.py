# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How a host and its agents are, in figures with thresholds."""

from __future__ import annotations

import base64
import calendar
import contextlib
import dataclasses
import itertools
import json
import os
import re
import stat
import time
import urllib.parse
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from ..agent.sessions import DATABASE_ERRORS
from ..supervise import health
from ..system.errors import OpsError
from ..system.files import Owner, acting_as, read_bytes, read_text
from ..system.systemd import Unit

HOUR = 3600
# A turn younger than this, in seconds, may still be answered.
PENDING = 120
# As many rows of an hour as are looked at, the newest.
MAX_ROWS = 20_000
DATABASE_SECONDS = 3.0
DATABASE_FIX = "when it stays so, go back to the last backup: hermes-ops restore"
# A gateway that started so lately may still connect.
STARTING = 60.0
CLIMB_HOURS = 12
SAFE_SQLITE = (3, 51, 3)
# Platforms that hold a connection of their own out of the gateway's process, as long as they are connected (0.18.2
# and 0.19.0, plugins/platforms: Discord's and Slack's web sockets, Telegram's long poll).
OUTBOUND = {"discord", "slack", "telegram"}
# States of a socket in /proc/net/tcp.
ESTABLISHED = "01"
LISTEN = "0A"

_UNITS = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


def size(text: str, where: str) -> int:
    """Bytes from ``512M`` or ``4G``, as systemd writes them.

    :raises OpsError: when it is no size
    """
    match = re.fullmatch(r"(\d+)([KMGT]?)", text)
    if not match:
        raise OpsError(f"{text!r} is no size", where=where, fix="write it like 512M or 4G")
    return int(match[1]) * _UNITS.get(match[2], 1)


@dataclass(frozen=True)
class Settings:
    """Where a figure becomes a finding.

    :param disk_percent: less of a file system is free
    :param memory: more is used by the unit of a gateway; a size such as ``4G``
    :param provider_error_percent: more of the last hour's calls to the model came to nothing
    :param restarts: more restarts of a gateway within an hour
    :param clock_seconds: the clock is off by more
    :param expiry_days: a certificate or token expires sooner
    :param certificates: files with X.509 certificates (PEM)
    :param backup_hours: the last backup is older
    :param data_volume: the data directory has to be a mount point, also where /etc/fstab does not say so
    :param reply_minutes: an agent is asked for a real reply when its last one is older; 0: never
    :param reply_seconds: what a reply may take
    """

    disk_percent: float = 10.0
    memory: str = "4G"
    provider_error_percent: float = 10.0
    restarts: int = 3
    clock_seconds: float = 30.0
    expiry_days: float = 14.0
    certificates: list[str] = field(default_factory=list)
    backup_hours: float = 36.0
    data_volume: bool = False
    reply_minutes: int = 0
    reply_seconds: int = 60

    def __post_init__(self) -> None:
        size(self.memory, "memory")
        for name in ("disk_percent", "provider_error_percent"):
            if not 0 <= getattr(self, name) <= 100:
                raise OpsError(f"{name} is no percentage", fix="declare a number from 0 to 100")
        for name in ("restarts", "clock_seconds", "expiry_days", "backup_hours", "reply_minutes"):
            if getattr(self, name) < 0:
                raise OpsError(f"{name} is negative", fix="declare 0 or more")
        if self.reply_seconds < 1:
            raise OpsError("reply_seconds is less than 1", fix="declare 1 or more")


@dataclass(frozen=True)
class Finding:
    """One thing that is not as it should be.

    :param cause: stable name for programs, e.g. ``disk_full``
    :param what: one sentence for people
    :param fix: what to do
    :param failure: somebody has to be told at once; otherwise it is worth a look
    :param profile: whose it is; None: the host's
    """

    cause: str
    what: str
    fix: str
    failure: bool = True
    profile: str | None = None

    def as_dict(self) -> dict[str, Any]:
        severity = "failure" if self.failure else "warning"
        return {**dataclasses.asdict(self), "severity": severity}

    def __str__(self) -> str:
        who = f"profile {self.profile}: " if self.profile else ""
        return f"{who}{self.what}. Fix: {self.fix}"


@dataclass
class Report:
    """What a look at the host found.

    :param findings: failures first
    :param profiles: the health of each agent
    :param figures: what was measured, for programs
    """

    findings: list[Finding] = field(default_factory=list)
    profiles: list[health.Health] = field(default_factory=list)
    figures: dict[str, Any] = field(default_factory=dict)

    @property
    def failures(self) -> list[Finding]:
        return [finding for finding in self.findings if finding.failure]

    @property
    def healthy(self) -> bool:
        return not self.failures

    @property
    def message(self) -> str:
        """One line."""
        warnings = len(self.findings) - len(self.failures)
        more = f", {_count(warnings, 'warning')}" if warnings else ""
        if self.failures:
            return f"{_count(len(self.failures), 'failure')}{more}: {self.failures[0].what}"
        return f"{_count(len(self.profiles), 'agent')} healthy{more}"

    def about(self, profile: str) -> Report:
        """What of it concerns one profile."""
        return Report(
            [finding for finding in self.findings if finding.profile == profile],
            [health for health in self.profiles if health.profile == profile],
        )

    def as_dict(self) -> dict[str, Any]:
        return {
            "healthy": self.healthy,
            "message": self.message,
            "findings": [finding.as_dict() for finding in self.findings],
            "profiles": [health.as_dict() for health in self.profiles],
            "figures": self.figures,
        }


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


# --- what the host says ----------------------------------------------------------------------------------------


def disk_findings(path: str, status: os.statvfs_result, settings: Settings) -> list[Finding]:
    """What is wrong with the file system at *path*: full, or read-only."""
    found = []
    if status.f_flag & os.ST_RDONLY:
        found.append(
            Finding("read_only", f"{path} is read-only", "see why: dmesg; then mount the file system writable again")
        )
    for free, share in (("space", _free(status)), ("inodes", _free_inodes(status))):
        if share < settings.disk_percent:
            found.append(
                Finding(
                    "disk_full",
                    f"{path} has {share:.0f} % of its {free} free, less than {settings.disk_percent:g} %",
                    f"free space below {path}, or make the disk larger",
                )
            )
    return found


def disk_figures(status: os.statvfs_result) -> dict[str, float]:
    return {"free_bytes": status.f_bavail * status.f_frsize, "free_percent": _free(status)}


def _free(status: os.statvfs_result) -> float:
    """Per cent of what its users can have, as df(1) counts."""
    used = status.f_blocks - status.f_bfree
    return 100.0 * status.f_bavail / ((used + status.f_bavail) or 1) if status.f_blocks else 100.0


def _free_inodes(status: os.statvfs_result) -> float:
    # Some file systems make them as they need them, and have none to count.
    return 100.0 * status.f_ffree / status.f_files if status.f_files else 100.0


def volume_findings(data_dir: str, declared: bool, fstab: str) -> list[Finding]:
    """Whether what has to be mounted is: *data_dir*, where it is *declared*, or the host's own *fstab* says so."""
    places = {words[1] for words in map(str.split, fstab.splitlines()) if len(words) > 1 and words[0][0] != "#"}
    if os.path.ismount(data_dir) or not (declared or data_dir.rstrip("/") in places):
        return []
    return [
        Finding(
            "volume_missing",
            f"nothing is mounted at {data_dir}, where the data volume belongs",
            f"attach the volume, then: mount {data_dir}",
        )
    ]


def job_findings(name: str, status: dict[str, Any]) -> list[Finding]:
    """What came of the last run of the job *name*, as it wrote down itself."""
    if status.get("status") not in ("failed", "rolled_back"):
        return []
    message = str(status.get("message") or "it did not say why")
    return [
        Finding(
            f"{name}_{status['status']}",
            f"the last {name}: {message}",
            f"see hermes-ops status and the log: journalctl -u hermes-{name}",
        )
    ]


def backup_findings(status: dict[str, Any], since: float, now: float, settings: Settings) -> list[Finding]:
    """Whether there is a young backup, on a host that makes some.

    :param status: of the job backup
    :param since: when backups were declared (seconds since 1970): the first is still to come then
    """
    failed = job_findings("backup", status)
    if failed:
        return failed
    finished = number(status.get("finished")) or since
    hours = (now - finished) / 3600
    if hours <= settings.backup_hours:
        return []
    return [
        Finding(
            "backup_old",
            f"the last backup is {hours:.0f} h old" if status else "no backup was ever made",
            "see why: systemctl status hermes-backup.timer hermes-backup.service",
        )
    ]


def clock_findings(offset: float | None, settings: Settings) -> list[Finding]:
    """Whether the clock agrees with the ping server's.

    :param offset: seconds that the server is ahead; None: nobody told
    """
    if offset is None or abs(offset) <= settings.clock_seconds:
        return []
    return [
        Finding(
            "clock_off",
            f"the clock is {abs(offset):.0f} s {'behind' if offset > 0 else 'ahead'}, by the ping server's",
            "see timedatectl; install systemd-timesyncd or chrony. Signed webhooks are refused beyond 300 s",
        )
    ]


# --- certificates and tokens -----------------------------------------------------------------------------------

_PEM = re.compile(r"-----BEGIN CERTIFICATE-----(.+?)-----END CERTIFICATE-----", re.S)
_JWT = re.compile(r"[\w-]+\.([\w-]+)\.[\w-]*", re.ASCII)


def _der(data: bytes, start: int) -> tuple[int, int, int]:
    """The element of ASN.1 (DER) at *start*: its tag, and where its content begins and ends.

    :raises ValueError: when there is none
    """
    try:
        tag, length, start = data[start], data[start + 1], start + 2
        if length > 0x80:
            size = length & 0x7F
            length = int.from_bytes(data[start : start + size], "big")
            start += size
    except IndexError:
        raise ValueError("no certificate") from None
    if start + length > len(data):
        raise ValueError("no certificate")
    return tag, start, start + length


def certificate_end(der: bytes) -> float:
    """When an X.509 certificate expires (RFC 5280: notAfter), seconds since 1970.

    Python's ssl module tells that of a connection only.

    :raises ValueError: when *der* is none
    """
    _tag, at, _end = _der(der, 0)
    _tag, at, _end = _der(der, at)
    tag, _start, end = _der(der, at)
    # version (optional), serial number, signature and issuer come before validity.
    for _each in range(3 if tag == 0xA0 else 2):
        _tag, _start, end = _der(der, end)
    _tag, start, _end = _der(der, end)
    _tag, _start, end = _der(der, start)
    tag, start, end = _der(der, end)
    text = der[start:end].decode("ascii")
    # UTCTime has two digits for the year, GeneralizedTime four.
    if tag == 0x17:
        text = ("19" if text[:2] >= "50" else "20") + text
    return calendar.timegm(time.strptime(text, "%Y%m%d%H%M%SZ"))


def pem_end(text: str) -> float:
    """When the first of the certificates in *text* expires.

    :raises ValueError: when there is none
    """
    return min(certificate_end(base64.b64decode(match[1])) for match in _PEM.finditer(text))


def token_end(value: str) -> float | None:
    """When a token expires that says so itself (a JSON Web Token with ``exp``), seconds since 1970; None: unknown."""
    match = _JWT.fullmatch(value)
    if not match:
        return None
    try:
        payload = json.loads(base64.urlsafe_b64decode(match[1] + "=" * (-len(match[1]) % 4)))
    except (ValueError, RecursionError):
        return None
    return number(payload.get("exp")) if isinstance(payload, dict) else None


def expiry_findings(what: str, end: float, now: float, settings: Settings, profile: str | None = None) -> list[Finding]:
    days = (end - now) / 86400
    if days >= settings.expiry_days:
        return []
    text = f"{what} expires in {days:.0f} days" if days >= 0 else f"{what} has expired"
    return [Finding("expiry", text, "get a new one, and declare it", days < 0, profile)]


def certificate_findings(path: str, now: float, settings: Settings) -> list[Finding]:
    try:
        end = pem_end(read_text(path) or "")
    except (ValueError, OpsError) as error:
        reason = error.what if isinstance(error, OpsError) else "holds no X.509 certificate that can be read"
        return [Finding("expiry_unknown", f"{path} {reason}", "correct heartbeat_certificates", False)]
    return expiry_findings(f"the certificate {path}", end, now, settings)


# --- calls to the model ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Turns:
    """The last hour of a profile: what was said to the agent, and how often nothing came of it."""

    total: int
    failed: int


def count_turns(rows: Iterable[tuple[Any, Any, float]], now: float) -> Turns:
    """Turns, and those of them that ended without an answer.

    A turn is what one message to the agent sets off. When the model cannot be reached, or fails after all retries,
    Hermes stores the message, perhaps results of tools, and no answer (0.18.2 and 0.19.0: agent/conversation_loop.py
    persists the history as it is; both tried). One that was interrupted looks the same.

    :param rows: (session, role, seconds since 1970), the newest first; roles are ``user``, ``assistant``, ``tool``
    """
    last: dict[Any, tuple[Any, float]] = {}
    total = failed = 0
    for session, role, when in rows:
        ended_by, ended_at = last.setdefault(session, (role, when))
        if role != "user":
            continue
        del last[session]
        # A young one may still be answered.
        if when < now - HOUR or (ended_by != "assistant" and ended_at > now - PENDING):
            continue
        total += 1
        failed += ended_by != "assistant"
    return Turns(total, failed)


def read_turns(home: str, owner: Owner, now: float) -> Turns:
    """The turns of the last hour, from the profile's ``state.db``.

    That file, and not a log: it is not rotated, and does not change its words with Hermes' version or language.
    Read with the agent's rights and as a reader only, which in WAL mode holds up no writer.

    :raises OpsError: when it cannot be read
    """
    import sqlite3

    path = os.path.join(home, "state.db")
    deadline = time.monotonic() + DATABASE_SECONDS
    with acting_as(owner):
        try:
            if not stat.S_ISREG(os.stat(path).st_mode):
                raise OpsError("is no regular file", where=path, fix="move it away")
            connection = sqlite3.connect(f"file:{urllib.parse.quote(path)}?mode=ro", uri=True, timeout=1.0)
        except FileNotFoundError:
            # Nobody has ever said anything to it.
            return Turns(0, 0)
        except (OSError, sqlite3.Error) as error:
            raise OpsError(f"cannot be read ({error})", where=path, fix=DATABASE_FIX) from None
        try:
            connection.text_factory = bytes
            # The agent could put a view there that never ends.
            connection.set_progress_handler(lambda: time.monotonic() > deadline, 10_000)
            # By the primary key, the newest first: as much as belongs to that hour, whatever the size of the rest.
            rows = connection.execute(
                "SELECT session_id, CAST(role AS TEXT), timestamp FROM messages WHERE observed IS NOT 1 AND role IN "
                "('user', 'assistant', 'tool') AND typeof(timestamp) IN ('real', 'integer') ORDER BY id DESC LIMIT ?",
                (MAX_ROWS,),
            )
            recent = itertools.takewhile(lambda row: row[2] > now - 2 * HOUR, rows)
            return count_turns(((session, role.decode(), when) for session, role, when in recent), now)
        except (*DATABASE_ERRORS, OverflowError) as error:
            raise OpsError(f"cannot be read ({error})", where=path, fix=DATABASE_FIX) from None
        finally:
            connection.close()


def turn_findings(turns: Turns, settings: Settings, profile: str) -> list[Finding]:
    if turns.failed == 0 or 100.0 * turns.failed / turns.total <= settings.provider_error_percent:
        return []
    return [
        Finding(
            "provider_errors",
            f"{turns.failed} of the last hour's {turns.total} turns ended without an answer of the model",
            "check the model: its name, provider, key and quota; see logs/errors.log in the profile's home",
            # A single one may be anybody's hiccup.
            turns.failed > 1,
            profile,
        )
    ]


# --- processes -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Process:
    """A gateway's process, as the kernel sees it.

    :param descriptors: open file descriptors, -1 when we may not see them
    :param connected: whether it has a TCP connection that somebody else did not open; None when we cannot see
    :param memory: bytes that cannot be had back, of its whole unit where that is known
    """

    descriptors: int
    connected: bool | None
    memory: int


def look_at_process(pid: int, owner: Owner, unit_memory: int | None) -> Process:
    """:param unit_memory: what systemd says the unit uses (``MemoryCurrent``), None when it does not count"""
    inodes = _sockets(pid)
    if inodes is None:
        # In a container even root may not see another user's.
        with acting_as(owner):
            inodes = _sockets(pid)
    resident = _statm(pid)
    if unit_memory is not None:
        # Of the page cache the kernel takes back what it needs.
        unit_memory = max(0, unit_memory - _inactive_file(pid))
    memory = resident if unit_memory is None else unit_memory
    if inodes is None:
        return Process(-1, None, memory)
    sockets = {inode for inode in inodes if inode}
    return Process(len(inodes), _connected(pid, sockets), memory)


def _sockets(pid: int) -> list[str] | None:
    """Of each open descriptor the inode, when it is a socket, else ``""``."""
    found = []
    try:
        with os.scandir(f"/proc/{pid}/fd") as entries:
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):
                    target = os.readlink(entry.path)
                    found.append(target[8:-1] if target.startswith("socket:[") else "")
    except OSError:
        return None
    return found


def _connected(pid: int, sockets: set[str]) -> bool:
    rows = []
    for table in ("tcp", "tcp6"):
        with contextlib.suppress(OSError), open(f"/proc/{pid}/net/{table}", encoding="ascii") as stream:
            rows += [line.split() for line in stream.read().splitlines()[1:]]
    ours = [row for row in rows if row[9] in sockets]
    ports = {row[1].rsplit(":", 1)[1] for row in ours if row[3] == LISTEN}
    return any(row[3] == ESTABLISHED and row[1].rsplit(":", 1)[1] not in ports for row in ours)


def _statm(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/statm", encoding="ascii") as stream:
            return int(stream.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError):
        return 0


def _inactive_file(pid: int) -> int:
    """Bytes of page cache in the unit's cgroup (version 2) that were not used lately; 0 when nobody counts."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        with open(f"/proc/{pid}/cgroup", encoding="utf-8") as stream:
            (path,) = [line[3:].strip() for line in stream if line.startswith("0::")]
        with open(f"/sys/fs/cgroup{path}/memory.stat", encoding="ascii") as stream:
            return int(next(line.split()[1] for line in stream if line.startswith("inactive_file ")))
    return 0


def memory_findings(memory: int, settings: Settings, profile: str) -> list[Finding]:
    if memory <= size(settings.memory, "memory"):
        return []
    return [
        Finding(
            "memory",
            f"the unit uses {memory / 2**30:.1f} GiB of memory, more than {settings.memory}",
            "restart it, and declare limits.memory so that it cannot take the host with it",
            profile=profile,
        )
    ]


def deaf_platforms(state: dict[str, Any], process: Process) -> list[str]:
    """Platforms that say they are connected, of a process that has no connection to anywhere."""
    if process.connected is not False:
        return []
    return sorted(name for name in OUTBOUND & set(state["platforms"]) if _is_connected(state["platforms"][name]))


def _is_connected(platform: dict[str, Any]) -> bool:
    return platform.get("state") == "connected"


def frozen_for(heartbeat: Any, pid: int, now: float) -> float:
    """Seconds since the gateway's event loop last turned; 0.0 when it does not say.

    :param heartbeat: ``state/gateway.heartbeat``, written every 30 s by the loop itself (since 0.19.0,
        gateway/shutdown_watchdog.py)
    :param now: of the monotonic clock, which is the host's
    """
    if not isinstance(heartbeat, dict) or heartbeat.get("pid") != pid:
        return 0.0
    written = number(heartbeat.get("monotonic"))
    return max(0.0, now - written) if written is not None else 0.0


def number(value: Any) -> float | None:
    """*value*, when it is a number that one can reckon with."""
    if isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e15:
        return float(value)
    return None


# --- what only time shows --------------------------------------------------------------------------------------


def remember_restarts(samples: Any, restarts: int, now: float) -> list[Any]:
    """*samples* of the last hour, with what systemd counts now."""
    samples = samples if isinstance(samples, list) else []
    known = [sample for sample in samples if isinstance(sample, list) and len(sample) == 2]
    known = [sample for sample in known if all(number(value) is not None for value in sample)]
    young = [sample for sample in known if now - HOUR <= sample[0] <= now]
    return [*young, [int(now), restarts]]


def climbed(samples: list[Any]) -> int:
    """How often systemd restarted a gateway while it was watched; a start by hand sets the counter back to 0."""
    counts = [int(sample[1]) for sample in samples]
    return sum(later - before if later >= before else later for before, later in zip(counts, counts[1:]))


def remember_hour(kept: Any, pid: int, process: Process, now: float) -> dict[str, Any]:
    """The least that a process used in each of the last hours: ``{"pid": …, "hours": [[hour, fds, memory], …]}``."""
    hours = []
    if isinstance(kept, dict) and kept.get("pid") == pid and isinstance(kept.get("hours"), list):
        hours = [row for row in kept["hours"] if isinstance(row, list) and len(row) == 3]
        hours = [row for row in hours if all(number(value) is not None for value in row)]
    row = [int(now // HOUR), process.descriptors, process.memory]
    if hours and hours[-1][0] == row[0]:
        row = [row[0], min(hours[-1][1], row[1]), min(hours[-1][2], row[2])]
        hours.pop()
    return {"pid": pid, "hours": [*hours, row][-CLIMB_HOURS:]}


def climb_findings(hours: list[list[Any]], profile: str) -> list[Finding]:
    """What grew with each of the last :data:`CLIMB_HOURS` hours, and never came down."""
    if len(hours) < CLIMB_HOURS:
        return []
    found = []
    for column, least, what, unit in ((1, 100, "open files", 1), (2, 256 * 2**20, "memory (MiB)", 2**20)):
        values = [row[column] for row in hours]
        grows = all(before <= later for before, later in zip(values, values[1:]))
        if grows and values[-1] >= 2 * values[0] and values[-1] - values[0] >= least:
            found.append(
                Finding(
                    "climbs",
                    f"its {what} only climbed for {CLIMB_HOURS} h: {values[0] // unit:.0f} -> {values[-1] // unit:.0f}",
                    "a leak of Hermes or of a tool: restart it in a quiet hour, and look for an update",
                    False,
                    profile,
                )
            )
    return found


# --- an agent, its database --------------------------------------------------------------------------------------


def health_findings(result: health.Health, unit: Unit, excuse: str | None) -> list[Finding]:
    """What is wrong with an agent: a failure, unless it is only coming or going.

    :param excuse: what is being done to the host that may take it down
    """
    passing = unit.active in ("activating", "deactivating", "reloading") and unit.sub != "auto-restart"
    starting = unit.running and unit.age < STARTING and not any(problem.final for problem in result.problems)
    failure = not (excuse or passing or starting)
    more = f" ({excuse})" if excuse else ""
    return [
        Finding(problem.cause, problem.what + more, problem.fix, failure, result.profile) for problem in result.problems
    ]


def sqlite_findings(version: str) -> list[Finding]:
    """An SQLite before 3.51.3 can damage a database in WAL mode when two connections meet in a reset of the WAL."""
    if tuple(int(part) for part in re.findall(r"\d+", version)) >= SAFE_SQLITE:
        return []
    return [
        Finding(
            "sqlite_wal",
            f"the release's SQLite is {version}; before 3.51.3 it can, rarely, damage a database in WAL mode",
            "build the release on a Python that brings a newer one (install_python_downloads); keep backups",
            False,
        )
    ]


def uses_wal(home: str, owner: Owner) -> bool:
    """Whether the profile's database is in WAL mode."""
    # Bytes 18 and 19 of the header: 2 is WAL (SQLite's file format, 1.3.3).
    try:
        with acting_as(owner):
            return (read_bytes(os.path.join(home, "state.db"), 20) or b"")[18:20] == b"\2\2"
    except OpsError:
        return False
