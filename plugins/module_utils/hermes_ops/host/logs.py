# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Logs that stay small: logrotate for the files that Hermes does not bound itself, limits for the journal.

What Hermes writes, who bounds it and how it is kept open stands in docs/logs.md, with the source of each fact.

An agent can make its logs terabytes long, or have a hundred thousand of them. So each agent's are rotated by a unit of
their own, with a configuration, a state file and limits of their own: an agent delays nobody's rotation but its own.
"""

from __future__ import annotations

import glob
import grp
import os
import pwd
import re
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from ..description.schema import GATEWAY_UNIT
from ..system.errors import OpsError
from ..system.files import write_atomic
from ..system.plan import Plan
from ..system.process import run
from ..system.services import plan_active, plan_files_gone, plan_gone, plan_young
from ..system.systemd import Manager
from .jobs import HARDENING, IN_THE_BACKGROUND
from .kit import COMMAND
from .log_owner import first_of_others, owner_of_directory

# Files of a rotation, by its name.
#
# Not in /etc/logrotate.d: the host's own run would start gzip as an agent's user, outside of the sandbox of our units.
CONFIG = "/etc/hermes-ops/logrotate-{}.conf"
STATE = "/var/lib/logrotate/hermes-{}.status"
UNIT = "/etc/systemd/system/hermes-logrotate@{}.service"
JOURNALD = "/etc/systemd/journald.conf.d/hermes.conf"
# Starts the rotations, every hour.
SERVICE = "/etc/systemd/system/hermes-logrotate.service"
TIMER = "/etc/systemd/system/hermes-logrotate.timer"
_TIMER_UNIT = os.path.basename(TIMER)
_JOURNALD_UNIT = "systemd-journald.service"
CONFIG_MODE = 0o644

# Below an agent's home (Hermes 0.18.2 and 0.19.0; the sources stand in docs/logs.md). Not here, because Hermes
# rotates them itself: logs/{agent,errors,gateway,gui,tool_calls}.log.
#
# Handed to a child that writes to it as long as it lives, and cannot be told to open it again.
KEPT_OPEN = (
    "logs/mcp-stderr.log",
    "logs/openviking-server.log",
    "logs/hindsight-embed.log",
    "logs/action-*.log",
    "logs/gateway-restart.log",
    "logs/gateway-start.log",
    "logs/gateway-stop.log",
    "logs/hermes-update.log",
    "logs/update.log",
    "platforms/whatsapp/bridge.log",
    "whatsapp/bridge.log",
)
# Opened for each entry: a rename loses nothing.
OPENED_ANEW = (
    "logs/dashboard-auth.log",
    "logs/gateway-exit-diag.log",
    "logs/gateway-shutdown-diag.log",
    "logs/gateway-shutdown-watchdog.log",
    "logs/tui_gateway_crash.log",
    "disk-cleanup/cleanup.log",
    "interrupt_debug.log",
)
# logrotate runs gzip as the agent's user, and what runs as that user the agent can trace, change and reach through
# (/proc/PID/root). So it sees and may no more than a gateway: supervise.units has the reasons.
CONFINEMENT = (
    ("NoNewPrivileges", "yes"),
    ("PrivateTmp", "yes"),
    ("PrivateDevices", "yes"),
    ("InaccessiblePaths", "-/run/dbus -/run/systemd/notify"),
    ("ProtectSystem", "strict"),
    ("ReadOnlyPaths", "/run"),
    ("ProtectHome", "tmpfs"),
    ("ProtectClock", "yes"),
    ("ProtectControlGroups", "yes"),
    ("ProtectHostname", "yes"),
    ("ProtectKernelLogs", "yes"),
    ("ProtectKernelModules", "yes"),
    ("ProtectKernelTunables", "yes"),
    ("ProtectProc", "invisible"),
    ("RestrictAddressFamilies", "AF_UNIX"),
    ("RestrictNamespaces", "yes"),
    ("RestrictRealtime", "yes"),
    ("RestrictSUIDSGID", "yes"),
    ("LockPersonality", "yes"),
    ("MemoryDenyWriteExecute", "yes"),
    ("KeyringMode", "private"),
    ("SystemCallArchitectures", "native"),
    ("SystemCallFilter", "@system-service"),
    ("SystemCallErrorNumber", "EPERM"),
    ("DevicePolicy", "closed"),
    ("IPAddressDeny", "any"),
    ("MemoryMax", "512M"),
    ("TasksMax", "32"),
)
# Resources of one rotation. A copy of 8 GB is compressed within 5 minutes by a gzip that does 30 MB a second.
LIMITS = (
    ("LimitFSIZE", "8G"),
    # For logrotate and for each gzip. When a gzip is killed for it, logrotate removes the unfinished file and goes on.
    ("LimitCPU", "5min"),
    ("TimeoutStartSec", "15min"),
    # An error for each of very many logs would push everybody's entries out of the journal.
    ("LogRateLimitIntervalSec", "1h"),
    ("LogRateLimitBurst", "200"),
    ("Nice", "19"),
    ("IOSchedulingClass", "best-effort"),
    ("IOSchedulingPriority", "7"),
)
_HEADER = ("# Written by the Ansible collection alwayson.hermes.", "")

# A file that logrotate can be given: absolute (it expands no `~`), patterns of glob(7) within it.
_PATH = re.compile(r"/[\w./@+,=:*?\[\]-]+")
_SIZE = re.compile(r"[1-9]\d*[kMG]?", re.ASCII)
_JOURNAL_SIZE = re.compile(r"[1-9]\d*[KMGT]?", re.ASCII)


@dataclass(frozen=True)
class Settings:
    """How long and how large.

    :param days: rotated files are kept for so many days
    :param max_size: a file that is larger is rotated before its day is over, as logrotate writes sizes (``50M``)
    :param paths: more files, absolute, with patterns of glob(7); their writers may keep them open
    :param journal_max_use: what the journal may take of the disk, as journald.conf(5) writes sizes (``500M``)
    :param journal_days: entries of the journal that are older go; 0: none goes for its age
    """

    days: int
    max_size: str
    paths: tuple[str, ...]
    journal_max_use: str
    journal_days: int

    def __post_init__(self) -> None:
        for name, least in (("days", 1), ("journal_days", 0)):
            if getattr(self, name) < least:
                raise OpsError(f"is {getattr(self, name)}", where=name, fix=f"declare {least} or more")
        for name, pattern, example in (
            ("max_size", _SIZE, "50M (units: k, M, G)"),
            ("journal_max_use", _JOURNAL_SIZE, "500M (units: K, M, G, T)"),
        ):
            if not pattern.fullmatch(getattr(self, name)):
                raise OpsError(f"{getattr(self, name)!r} is no size", where=name, fix=f"declare one such as {example}")
        for path in self.paths:
            if not _PATH.fullmatch(path) or ".." in path.split("/"):
                raise OpsError(
                    f"{path!r} is nothing that logrotate could find",
                    where="paths",
                    fix="declare absolute paths without spaces and '..'; logrotate expands no '~'",
                )


@dataclass(frozen=True)
class Home:
    """An agent's home, and whose files lie in it.

    :param name: the agent's
    :param path: absolute
    :param user: whose files they are; logrotate acts with the rights of *user* and *group*
    """

    name: str
    path: str
    user: str
    group: str


@dataclass(frozen=True)
class Rotation:
    """The logs of one agent, or those of :attr:`Settings.paths` that lie with one user.

    :param name: of its files and its unit: the agent's, or ``uid.<number>``, which is no agent's
    :param config: what logrotate is told
    :param opened: where its unit may write: the home, or the paths of the logs
    """

    name: str
    config: str
    opened: tuple[str, ...]


def group_of(user: str) -> str:
    """The primary group of *user*; where there is none yet (check mode), the one of its own that it will get."""
    try:
        return grp.getgrgid(pwd.getpwnam(user).pw_gid).gr_name
    except KeyError:
        return user


def rotations(settings: Settings, homes: Iterable[Home]) -> list[Rotation]:
    """One for each agent, and one for each user with whom some of the further logs lie.

    :raises OpsError: a log would be rotated twice, or belongs to nobody
    """
    homes = list(homes)
    _refuse_twice(settings.paths, homes)
    found = [Rotation(home.name, render_config(settings, home), (home.path,)) for home in homes]
    owned: dict[pwd.struct_passwd, list[str]] = {}
    for path in settings.paths:
        owned.setdefault(owner_of_directory(path, {home.group for home in homes}), []).append(path)
    for user, paths in owned.items():
        su = f"su {user.pw_name} {group_of(user.pw_name)}"
        section = _section("Their writers may keep them open.", paths, [*_common(settings), su, "copytruncate"])
        found.append(Rotation(f"uid.{user.pw_uid}", "\n".join([*_HEADER, *section]), tuple(paths)))
    return found


def _refuse_twice(paths: Sequence[str], homes: Iterable[Home]) -> None:
    """:raises OpsError: when two patterns name the same log, one of *paths* and another one"""
    others = [f"{home.path}/{name}" for home in homes for name in (*KEPT_OPEN, *OPENED_ANEW)]
    for path in paths:
        for other in others:
            if _overlap(path, other):
                raise OpsError(
                    f"is rotated already, as {other}",
                    where=path,
                    fix="correct logrotate_paths: two rotations of one log would each count their own",
                )
        others.append(path)


def _overlap(one: str, other: str) -> bool:
    """Whether two patterns of glob(7) can name the same file, as far as one of them names the other in each part."""
    parts, others = one.split("/"), other.split("/")
    alike = (fnmatchcase(this, that) or fnmatchcase(that, this) for this, that in zip(parts, others))
    return len(parts) == len(others) and all(alike)


def _common(settings: Settings) -> list[str]:
    return [
        "daily",
        f"rotate {settings.days}",
        f"maxage {settings.days}",
        f"maxsize {settings.max_size}",
        "compress",
        "missingok",
        "notifempty",
    ]


def render_config(settings: Settings, home: Home) -> str:
    """What logrotate is told of an agent's logs."""
    common = [*_common(settings), f"su {home.user} {home.group}"]
    kept_open, opened_anew = ([f"{home.path}/{name}" for name in names] for names in (KEPT_OPEN, OPENED_ANEW))
    lines = [
        *_HEADER,
        *_section("Their writers keep them open.", kept_open, [*common, "copytruncate"]),
        *_section(
            "Opened for each entry. The last writer may still be at it while the file is renamed.",
            opened_anew,
            [*common, "nocreate", "delaycompress"],
        ),
    ]
    return "\n".join(lines)


def _section(comment: str, paths: list[str], directives: list[str]) -> list[str]:
    return [f"# {comment}", *paths, "{", *(f"    {directive}" for directive in directives), "}", ""]


def render_service(settings: Settings, names: Iterable[str]) -> str:
    """The unit that starts all rotations side by side, waits for them, and fails when one of them has.

    :param names: of the rotations
    """
    wanted = " ".join(map(_unit_name, names))
    directives = "".join(f"{name}={value}\n" for name, value in (*HARDENING, *IN_THE_BACKGROUND))
    # systemctl refuses to start nothing, as there is when the last agent has left.
    start = f"/usr/bin/systemctl start {wanted}" if wanted else "/usr/bin/true"
    return f"""\
# Written by the Ansible collection alwayson.hermes.

[Unit]
Description=Rotate the logs of the Hermes agents
Documentation=man:logrotate(8)

[Service]
Type=oneshot
ExecStart={start}
# Also when a log of some agent could not be rotated.
ExecStopPost={COMMAND} tidy --days {settings.days}
# Longer than each of them may take.
TimeoutStartSec=30min
# For ExecStopPost, too: one agent may take its time.
TimeoutStopSec=30min
{directives}"""


def _unit_name(name: str) -> str:
    return os.path.basename(UNIT.format(name))


def render_unit(rotation: Rotation) -> str:
    """The unit of one rotation, in its sandbox."""
    config, state = CONFIG.format(rotation.name), STATE.format(rotation.name)
    directives = "".join(f"{name}={value}\n" for name, value in (*LIMITS, *CONFINEMENT))
    # The agent can have gzip, which is its user's, write into its home: not while its gateway is stopped for a copy, a
    # restore or its removal. A name with a dot is no agent's.
    part_of = "" if "." in rotation.name else f"PartOf={GATEWAY_UNIT.format(rotation.name)}\n"
    return f"""\
# Written by the Ansible collection alwayson.hermes.

[Unit]
Description=Rotate the logs of the Hermes agents: {rotation.name}
Documentation=man:logrotate(8)
{part_of}
[Service]
Type=oneshot
# A log that is too large to be copied is an error of that log: without the signal, logrotate goes on with the next.
# Whatever further groups it has, logrotate hands on to gzip: in a container, systemd is of the group root.
ExecStart=/bin/sh -c "trap '' XFSZ; exec setpriv --clear-groups /usr/sbin/logrotate --state {state} {config}"
# logrotate's own word for: another one is at it.
SuccessExitStatus=3
{directives}ReadWritePaths=-{os.path.dirname(state)}
{"".join(map(_opened, rotation.opened))}"""


def _opened(path: str) -> str:
    """What lets the unit write where the agent's home, or the log, *path* lies.

    The directory is one of root's, or lies in one: the agent can put no link, or nothing at all, in its place.
    """
    directory = first_of_others(os.path.join(path, ""))[0]
    return f"# {path}\nBindPaths=-{directory}\nReadWritePaths=-{directory}\n"


def moved_config(text: str, before: Home, after: Home) -> str:
    """What :func:`render_config` said, for an agent whose home was *before* and is *after*."""
    prefix, su = f"{before.path}/", f"    su {before.user} {before.group}"
    return "\n".join(
        f"{after.path}/{line[len(prefix) :]}"
        if line.startswith(prefix)
        else f"    su {after.user} {after.group}"
        if line == su
        else line
        for line in text.split("\n")
    )


def moved_unit(text: str, before: Home, after: Home) -> str:
    """The same for :func:`render_unit`."""
    return re.sub(rf"^# {re.escape(before.path)}\n(\w+=.*\n)+", lambda _found: _opened(after.path), text, flags=re.M)


def render_timer() -> str:
    # Not at the full hour, when the host's own run has its time.
    return """\
# Written by the Ansible collection alwayson.hermes.

[Unit]
Description=Rotate the logs of the Hermes agents, every hour

[Timer]
OnCalendar=*:17
AccuracySec=1min

[Install]
WantedBy=timers.target
"""


def render_journald(settings: Settings) -> str:
    lines = ["# Written by the Ansible collection alwayson.hermes.", "", "[Journal]"]
    lines.append(f"SystemMaxUse={settings.journal_max_use}")
    if settings.journal_days:
        lines.append(f"MaxRetentionSec={settings.journal_days}day")
    return "\n".join(lines) + "\n"


def check_config(text: str, where: str) -> None:
    """Show *text* to logrotate, which looks at every word of it, and at no log: they are an agent's.

    :param where: the file that *text* is for
    :raises OpsError: when logrotate would refuse any of it, or is not installed
    """
    with tempfile.TemporaryDirectory(prefix="hermes-logrotate-") as directory:
        path = os.path.join(directory, "config")
        # As the user that the configuration names, logrotate could not even look into our directory.
        nowhere = re.sub("^/", "/nonexistent/", text, flags=re.M)
        # logrotate ignores a configuration that others than its owner may write to.
        write_atomic(path, nowhere, mode=CONFIG_MODE)
        done = run(["logrotate", "--debug", "--state", os.path.join(directory, "state"), path], timeout=60, check=False)
    errors = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    if errors or not done.ok:
        raise OpsError(
            f"logrotate refuses it: {errors[0][len('error:') :].strip() if errors else done.last_words}",
            where=where,
            fix="the old one is still in place; correct logrotate_paths, or see what stands at that file",
        )


def plan_logs(settings: Settings, homes: Iterable[Home], manager: Manager) -> Plan:
    """Compare the host with *settings*.

    :param manager: the system's
    """
    plan = Plan()
    wanted = rotations(settings, homes)
    names = [rotation.name for rotation in wanted]
    _plan_rotations_gone(plan, manager, kept=names)
    checked = len(plan.actions)
    for rotation in wanted:
        path, text = CONFIG.format(rotation.name), rotation.config
        if plan.add_file(path, text, mode=CONFIG_MODE):
            # All are checked before the first is written.
            plan.actions.insert(checked, lambda path=path, text=text: check_config(text, path))
    unit_files = {UNIT.format(rotation.name): render_unit(rotation) for rotation in wanted}
    unit_files.update({SERVICE: render_service(settings, names), TIMER: render_timer()})
    plan_active(plan, manager, _TIMER_UNIT, unit_files=unit_files)
    plan.add_file(JOURNALD, render_journald(settings), mode=CONFIG_MODE)
    plan_young(plan, manager, manager.units([_JOURNALD_UNIT])[_JOURNALD_UNIT], [JOURNALD])
    return plan


def rotated(name: str) -> bool:
    """Whether the logs of the agent *name* are rotated here."""
    return os.path.exists(CONFIG.format(name))


def plan_no_logs(manager: Manager) -> Plan:
    """Compare the host with one where all of this never was. Logs, rotated or not, stay."""
    plan = Plan()
    plan_gone(plan, manager, _TIMER_UNIT, [TIMER, SERVICE])
    _plan_rotations_gone(plan, manager)
    if os.path.exists(JOURNALD):
        plan_files_gone(plan, [JOURNALD])
        plan.actions.append(lambda: manager.call("restart", _JOURNALD_UNIT))
    return plan


def _plan_rotations_gone(plan: Plan, manager: Manager, kept: Iterable[str] = ()) -> None:
    """Nothing is left of rotations but of those that are *kept*, as of an agent that has left."""
    for name in sorted(_found() - set(kept)):
        plan_gone(plan, manager, _unit_name(name), [pattern.format(name) for pattern in (UNIT, CONFIG, STATE)])


def _found() -> set[str]:
    """The names of the rotations of which there is a file."""
    names = set()
    for pattern in (UNIT, CONFIG, STATE):
        before, after = pattern.split("{}")
        names.update(path[len(before) : -len(after)] for path in glob.glob(pattern.format("*")))
    return names


def present() -> bool:
    """Whether something of this is on the host."""
    return any(map(os.path.lexists, (TIMER, SERVICE, JOURNALD))) or bool(_found())
