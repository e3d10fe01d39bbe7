# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Logs that stay small: logrotate for the files that Hermes does not bound itself, limits for the journal.

What Hermes writes, who bounds it and how it is kept open stands in docs/logs.md, with the source of each fact.
"""

from __future__ import annotations

import grp
import os
import pwd
import re
import stat
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass

from ..system.errors import OpsError
from ..system.files import write_atomic
from ..system.plan import Plan
from ..system.process import run
from ..system.services import plan_active, plan_files_gone, plan_gone, plan_young
from ..system.systemd import Manager
from .kit import COMMAND

# Not in /etc/logrotate.d: the host's own run would start gzip as an agent's user, outside of the sandbox of our unit.
CONFIG = "/etc/hermes-ops/logrotate.conf"
# Where it was before.
_FORMER_CONFIG = "/etc/logrotate.d/hermes"
# As Debian and Red Hat build logrotate.
_STATE_DIRECTORY = "/var/lib/logrotate"
JOURNALD = "/etc/systemd/journald.conf.d/hermes.conf"
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
    ("InaccessiblePaths", "-/run/dbus"),
    ("ProtectSystem", "strict"),
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

# As many symbolic links as Linux follows on one way (path_resolution(7)).
_LINKS = 40
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

    :param path: absolute
    :param user: whose files they are; logrotate acts with the rights of *user* and *group*
    """

    path: str
    user: str
    group: str


def group_of(user: str) -> str:
    """The primary group of *user*; where there is none yet (check mode), the one of its own that it will get."""
    try:
        return grp.getgrgid(pwd.getpwnam(user).pw_gid).gr_name
    except KeyError:
        return user


def _first_of_others(path: str) -> tuple[str, int]:
    """The first directory on the way to the file *path* that is not root's, or the last one, and its owner's uid."""
    directory, here, uid, links = "/", "/", 0, 0
    ahead = os.path.dirname(re.split(r"[*?\[]", path)[0]).split("/")
    # What lies in another user's directory may be a link of that user's: nobody follows it.
    while ahead and uid == 0:
        here = os.path.normpath(os.path.join(directory, ahead.pop(0)))
        try:
            status = os.lstat(here)
            target = os.readlink(here) if stat.S_ISLNK(status.st_mode) and links < _LINKS else None
        except OSError:
            break
        uid = status.st_uid
        if target is None:
            directory = here
        else:
            links += 1
            ahead = ["/" if target.startswith("/") else ".", *target.split("/"), *ahead]
    return here, uid


def _owner_of_directory(path: str) -> str:
    """The user with whose rights *path* is rotated: whose the first directory on its way is that is not root's."""
    here, uid = _first_of_others(path)
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        raise OpsError(
            f"lies in {here}, which belongs to nobody (uid {uid})", where=path, fix="give the directory an owner"
        ) from None


def render_config(settings: Settings, homes: Iterable[Home]) -> str:
    """What logrotate is told."""
    homes = list(homes)
    common = [
        "daily",
        f"rotate {settings.days}",
        f"maxage {settings.days}",
        f"maxsize {settings.max_size}",
        "compress",
        "missingok",
        "notifempty",
    ]
    lines = ["# Written by the Ansible collection alwayson.hermes.", ""]
    for home in homes:
        su = f"su {home.user} {home.group}"
        lines += _section(
            "Their writers keep them open.",
            [f"{home.path}/{name}" for name in KEPT_OPEN],
            [*common, su, "copytruncate"],
        )
        lines += _section(
            "Opened for each entry. The last writer may still be at it while the file is renamed.",
            [f"{home.path}/{name}" for name in OPENED_ANEW],
            [*common, su, "nocreate", "delaycompress"],
        )
    for path in settings.paths:
        user = _owner_of_directory(path)
        su = [f"su {user} {group_of(user)}"]
        lines += _section("Its writer may keep it open.", [path], [*common, *su, "copytruncate"])
    return "\n".join(lines)


def _section(comment: str, paths: list[str], directives: list[str]) -> list[str]:
    """Nothing where there are no *paths*, as after the last agent has left: logrotate wants at least one."""
    if not paths:
        return []
    return [f"# {comment}", *paths, "{", *(f"    {directive}" for directive in directives), "}", ""]


def render_service(settings: Settings, homes: Iterable[Home]) -> str:
    """The unit that looks at the files every hour."""
    confinement = "".join(f"{name}={value}\n" for name, value in CONFINEMENT)
    opened = "".join(map(_opened, [*(home.path for home in homes), *settings.paths]))
    return f"""\
# Written by the Ansible collection alwayson.hermes.

[Unit]
Description=Rotate the logs of the Hermes agents
Documentation=man:logrotate(8)
# The host's own run fails when it finds the lock taken: it waits for ours.
Before=logrotate.service

[Service]
Type=oneshot
ExecStart=/usr/sbin/logrotate {CONFIG}
# Also when a log of some agent could not be rotated.
ExecStopPost={COMMAND} tidy --days {settings.days}
# logrotate's own word for: another one is at it.
SuccessExitStatus=3
TimeoutStartSec=1800
# For ExecStopPost, too: one agent may take its time.
TimeoutStopSec=1800
Nice=19
IOSchedulingClass=best-effort
IOSchedulingPriority=7
{confinement}ReadWritePaths=-{_STATE_DIRECTORY}
{opened}"""


def _opened(path: str) -> str:
    """What lets the unit write where the agent's home, or the log, *path* lies.

    The directory is one of root's, or lies in one: the agent can put no link, or nothing at all, in its place.
    """
    directory = _first_of_others(os.path.join(path, ""))[0]
    return f"# {path}\nBindPaths=-{directory}\nReadWritePaths=-{directory}\n"


def moved_config(text: str, before: Home, after: Home) -> str:
    """What :func:`render_config` said, for an agent whose home was *before* and is *after*."""
    sections = text.split("\n\n")
    for number, section in enumerate(sections):
        lines = section.split("\n")
        # Its first file: another home may lie below this one.
        if not {f"{before.path}/{names[0]}" for names in (KEPT_OPEN, OPENED_ANEW)} & set(lines):
            continue
        prefix, su = f"{before.path}/", f"    su {before.user} {before.group}"
        sections[number] = "\n".join(
            f"{after.path}/{line[len(prefix) :]}"
            if line.startswith(prefix)
            else f"    su {after.user} {after.group}"
            if line == su
            else line
            for line in lines
        )
    return "\n\n".join(sections)


def moved_service(text: str, before: Home, after: Home) -> str:
    """The same for :func:`render_service`."""
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


def check_config(text: str) -> None:
    """Show *text* to logrotate, which looks at every word and file of it and changes nothing.

    :raises OpsError: when logrotate would refuse any of it, or is not installed
    """
    with tempfile.TemporaryDirectory(prefix="hermes-logrotate-") as directory:
        path = os.path.join(directory, "config")
        # logrotate ignores a configuration that others than its owner may write to.
        write_atomic(path, text, mode=CONFIG_MODE)
        done = run(["logrotate", "--debug", "--state", os.path.join(directory, "state"), path], timeout=60, check=False)
    errors = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    if errors or not done.ok:
        raise OpsError(
            f"logrotate refuses it: {errors[0][len('error:') :].strip() if errors else done.last_words}",
            where=CONFIG,
            fix="the old one is still in place; correct logrotate_paths, or see what stands at that file",
        )


def plan_logs(settings: Settings, homes: Iterable[Home], manager: Manager) -> Plan:
    """Compare the host with *settings*.

    :param manager: the system's
    """
    plan = Plan()
    homes = list(homes)
    text = render_config(settings, homes)
    plan_files_gone(plan, [_FORMER_CONFIG])
    checked = len(plan.actions)
    if plan.add_file(CONFIG, text, mode=CONFIG_MODE):
        plan.actions.insert(checked, lambda: check_config(text))
    unit_files = {SERVICE: render_service(settings, homes), TIMER: render_timer()}
    plan_active(plan, manager, _TIMER_UNIT, unit_files=unit_files)
    plan.add_file(JOURNALD, render_journald(settings), mode=CONFIG_MODE)
    plan_young(plan, manager, manager.units([_JOURNALD_UNIT])[_JOURNALD_UNIT], [JOURNALD])
    return plan


def plan_no_logs(manager: Manager) -> Plan:
    """Compare the host with one where all of this never was. Logs, rotated or not, stay."""
    plan = Plan()
    plan_gone(plan, manager, _TIMER_UNIT, [TIMER, SERVICE, CONFIG, _FORMER_CONFIG])
    if os.path.exists(JOURNALD):
        plan_files_gone(plan, [JOURNALD])
        plan.actions.append(lambda: manager.call("restart", _JOURNALD_UNIT))
    return plan


def present() -> bool:
    """Whether something of this is on the host."""
    return any(map(os.path.lexists, (CONFIG, _FORMER_CONFIG, TIMER, SERVICE, JOURNALD)))
