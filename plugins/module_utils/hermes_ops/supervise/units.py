# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The text of the systemd units of gateways and of the dashboard. Each directive appears once, with its reason."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable
from dataclasses import dataclass

from ..description.agent import Agent
from ..description.declaration import home_arguments
from ..host import held, metadata
from ..secrets import store
from ..system.files import Account
from ..system.network import MOST_DESCRIPTORS
from ..system.paths import check_path

TEMPLATE_NAME = "hermes-gateway@.service"
DASHBOARD_NAME = "hermes-dashboard.service"
# The first systemd with RestartSteps= and RestartMaxDelaySec= (its NEWS, version 254).
RESTART_STEPS_SINCE = 254
# Seconds for Hermes to close its platforms and databases after the declared drain. Hermes asks for 30 s more than its
# drain (0.19.0 gateway/shutdown_forensics.py: check_systemd_timing_alignment).
STOP_MARGIN = 30
# Seconds for the dashboard to close its browser connections. A stop of the gateway waits for the dashboard.
DASHBOARD_STOP = 10

UNIT_DIRECTORIES = {"system": "/etc/systemd/system", "user": "/etc/systemd/user"}

# Directive -> value. Tested with Hermes 0.18.2 and 0.19.0: chat, webhook, terminal tool and cron work inside.
SANDBOX = {
    "NoNewPrivileges": "yes",
    "PrivateTmp": "yes",
    "PrivateDevices": "yes",
    # Hides the system bus. Over it, a user may be allowed to start its own manager (loginctl enable-linger), which
    # would run units from the user's home outside this sandbox. And the socket for messages to systemd: it logs each
    # one that it does not expect, until journald drops what systemd says of all units.
    "InaccessiblePaths": "-/run/dbus -/run/systemd/notify",
    "ProtectSystem": "strict",
    # Beside ProtectControlGroups=, ProtectKernelTunables= or ProtectProc=, ProtectSystem= leaves out /run, where all
    # may write into /run/lock.
    "ReadOnlyPaths": "/run",
    # Hides /home, /root and /run/user. Without /run/user the agent cannot reach its user's manager, whose processes
    # run outside this sandbox. "yes" would not do: no adopted home could be bound into an inaccessible directory.
    "ProtectHome": "tmpfs",
    "ProtectClock": "yes",
    "ProtectControlGroups": "yes",
    "ProtectHostname": "yes",
    "ProtectKernelLogs": "yes",
    "ProtectKernelModules": "yes",
    "ProtectKernelTunables": "yes",
    "ProtectProc": "invisible",
    "RestrictAddressFamilies": "AF_INET AF_INET6 AF_NETLINK AF_UNIX",
    "RestrictNamespaces": "yes",
    "RestrictRealtime": "yes",
    "RestrictSUIDSGID": "yes",
    "LockPersonality": "yes",
    "RemoveIPC": "yes",
    "KeyringMode": "private",
    "CapabilityBoundingSet": "",
    "AmbientCapabilities": "",
    "SystemCallArchitectures": "native",
    "SystemCallFilter": "@system-service",
    "SystemCallErrorNumber": "EPERM",
    "DevicePolicy": "closed",
    "IPAddressDeny": f"{metadata.IPV4} {metadata.IPV6}",
    "UMask": "0077",
}

# The directives that a user's manager can apply without privileges: filters, but no namespaces.
USER_SANDBOX = (
    "NoNewPrivileges",
    "RestrictAddressFamilies",
    "RestrictNamespaces",
    "RestrictRealtime",
    "RestrictSUIDSGID",
    "LockPersonality",
    "SystemCallArchitectures",
    "SystemCallFilter",
    "SystemCallErrorNumber",
    "UMask",
)

# Door (description.schema.DOORS) -> the directives that it lifts: None removes a directive, a text replaces its value.
DOORS: dict[str, dict[str, str | None]] = {
    # Chromium builds its own sandbox from user namespaces.
    "browser": {"RestrictNamespaces": None, "SystemCallFilter": "@system-service @mount @sandbox chroot"},
    "devices": {"PrivateDevices": None, "DevicePolicy": None},
    "home": {"ProtectHome": None},
    "metadata": {"IPAddressDeny": None},
    "sudo": {
        "NoNewPrivileges": None,
        "CapabilityBoundingSet": None,
        "AmbientCapabilities": None,
        "RestrictSUIDSGID": None,
        "SystemCallFilter": None,
        "InaccessiblePaths": None,
        # In systemd before 255 these imply NoNewPrivileges=yes for a unit with User=, or they filter system calls:
        "LockPersonality": None,
        "PrivateDevices": None,
        "ProtectClock": None,
        "ProtectHostname": None,
        "ProtectKernelLogs": None,
        "ProtectKernelModules": None,
        "ProtectKernelTunables": None,
        "RestrictAddressFamilies": None,
        "RestrictNamespaces": None,
        "RestrictRealtime": None,
        "SystemCallArchitectures": None,
    },
    "system": {"ProtectSystem": None, "ReadOnlyPaths": None},
    # In addition, :func:`_sandbox` binds the user's runtime directory, and :func:`_identity` sets its variables.
    "user_manager": {"InaccessiblePaths": "-/run/systemd/notify"},
}


def outermost(paths: Iterable[str]) -> list[str]:
    """*paths* without duplicates and without those below another one."""
    distinct = list(dict.fromkeys(paths))
    return [path for path in distinct if not any(path != other and _is_below(path, other) for other in distinct)]


def _is_below(path: str, other: str) -> bool:
    return path.startswith(other.rstrip("/") + "/")


def user_home(agent: Agent, account: Account) -> str:
    """The working directory of *agent*, which is also its ``~``.

    This is the home of its user. If that is not a directory of the user's own (``/``, ``/nonexistent``, a directory of
    root), it is the agent's directory.
    """
    try:
        status = os.lstat(account.home)
    except OSError:
        return agent.directory
    own = stat.S_ISDIR(status.st_mode) and status.st_uid == account.uid and account.home != "/"
    return account.home if own else agent.directory


def data_paths(agent: Agent, account: Account) -> list[str]:
    """The directories with the agent's data: its home, and that of its user."""
    return outermost([user_home(agent, account), agent.home])


@dataclass(frozen=True)
class UnitSettings:
    """The settings that all units of a host share.

    :param scope: ``system``, or ``user`` for the lingering managers of the agents' users
    :param root: directory that holds the releases, ``/opt/hermes``
    :param systemd: the version of the host's systemd
    :param restart_sec: seconds between the end of a gateway and its next start
    :param restart_max_delay_sec: the longest such delay in a crash loop; needs :data:`RESTART_STEPS_SINCE`
    :param verbose: log everything that agent.log holds to the journal, not only warnings
    """

    scope: str
    root: str
    systemd: int
    restart_sec: int
    restart_max_delay_sec: int
    verbose: bool = False

    def __post_init__(self) -> None:
        check_path(self.root, "root")

    @property
    def directory(self) -> str:
        return UNIT_DIRECTORIES[self.scope]

    @property
    def template_path(self) -> str:
        return os.path.join(self.directory, TEMPLATE_NAME)

    @property
    def dashboard_path(self) -> str:
        return os.path.join(self.directory, DASHBOARD_NAME)

    def drop_in_path(self, agent: str) -> str:
        return os.path.join(self.directory, f"hermes-gateway@{agent}.service.d", "agent.conf")


def render_template(settings: UnitSettings) -> str:
    """The template unit for all gateways of a host.

    It is incomplete: it cannot be started without an agent's drop-in, which sets the user and the command.
    """
    return _unit(
        settings,
        "Hermes gateway of agent %i",
        "hermes-gateway-%i",
        [
            # Hermes exits with 75 (EX_TEMPFAIL) to be restarted.
            ("SuccessExitStatus", "75"),
            # SIGINT stops Hermes cleanly. On SIGTERM it exits with 1, and its state file still says "running".
            ("KillSignal", "SIGINT"),
        ],
        unit=[("ConditionPathExists", f"!{held.path_of('%i')}"), ("After", held.UNIT)],
    )


def render_dashboard(settings: UnitSettings, agent: Agent, account: Account, address: str, port: int) -> str:
    """The unit of the dashboard.

    :param agent: the agent that it shows. The dashboard runs as this agent's user, in its home, with its limits and its
        sandbox
    """
    # --skip-build, because the wheel holds the built pages; otherwise Hermes looks for npm. The dashboard needs no
    # KillSignal=: SIGTERM stops it cleanly (0.19.0 hermes_cli/main.py: cmd_dashboard, hermes_cli/web_server.py:
    # start_server).
    command = ["dashboard", "--host", address, "--port", str(port), "--no-open", "--skip-build"]
    own_unit, own_service = _identity(settings, agent, account, command)
    service = [("TimeoutStopSec", str(DASHBOARD_STOP)), *own_service, *confinement(agent, account, settings.scope)]
    name = "Hermes dashboard"
    return _unit(settings, name, "hermes-dashboard", service, unit=own_unit, with_unit=agent.unit)


def moved_dashboard(
    settings: UnitSettings, text: str, before: tuple[Agent, Account], after: tuple[Agent, Account]
) -> str:
    """*text* of a dashboard's unit, changed from the agent *before* to *after*; unchanged if it shows another agent."""
    served = re.search(r"^ExecStart=.* dashboard --host (\S+) --port (\d+) ", text, re.M)
    if served:
        parts = (_own_parts(render_dashboard(settings, *agent, served[1], int(served[2]))) for agent in (before, after))
        for old, new in zip(*parts):
            text = text.replace(old, new, 1)
    return text


def _own_parts(text: str) -> list[str]:
    """The parts of a dashboard's unit that depend on its agent: a line of [Unit], and the end of [Service]."""
    return re.findall(r"^(?:RequiresMountsFor|ConditionPathIsDirectory)=.*$|^TimeoutStopSec=(?:.+\n)+", text, re.M)


def _unit(
    settings: UnitSettings,
    description: str,
    identifier: str,
    service: list[tuple[str, str]],
    *,
    unit: list[tuple[str, str]] | None = None,
    with_unit: str | None = None,
) -> str:
    """A unit that keeps ``hermes`` running.

    :param identifier: its name in the journal
    :param service: further directives of ``[Service]``
    :param unit: further directives of ``[Unit]``
    :param with_unit: another unit that starts this one, and that stops only after this one: while a gateway is stopped
        for an update or a restore, nothing may write to the home. This unit is also down while the other one waits to
        be restarted after a crash
    """
    about = [
        ("Description", description),
        ("Documentation", "https://hermes-agent.nousresearch.com/docs/"),
        # Never stop restarting. The delay below keeps a crash loop cheap.
        ("StartLimitIntervalSec", "0"),
    ]
    common = [
        ("Type", "exec"),
        ("Environment", "PYTHONUNBUFFERED=1"),
        # Hermes 0.21 and later would install packages at run time.
        ("Environment", "HERMES_DISABLE_LAZY_INSTALLS=1"),
        # A gateway may exit with 0 after an unhandled error; on-failure would not restart it.
        ("Restart", "always"),
        ("RestartSec", str(settings.restart_sec)),
    ]
    if settings.systemd >= RESTART_STEPS_SINCE:
        common += [("RestartSteps", "6"), ("RestartMaxDelaySec", str(settings.restart_max_delay_sec))]
    common += [("KillMode", "mixed"), ("SyslogIdentifier", identifier), ("OOMPolicy", "stop"), *service]
    if settings.scope == "system":
        about += [("Wants", "network-online.target"), ("After", "network-online.target")]
    target = "multi-user.target" if settings.scope == "system" else "default.target"
    about += unit or []
    if with_unit:
        about += [("After", with_unit), ("StopPropagatedFrom", with_unit)]
    install = [("WantedBy", with_unit or target)]
    return _text([("Unit", about), ("Service", common), ("Install", install)])


def render_drop_in(settings: UnitSettings, agent: Agent, account: Account) -> str:
    """The drop-in with an agent's own directives: user, home, command, limits, time-outs, managed scope, sandbox.

    :param account: the agent's user
    """
    # Without -v, a gateway prints only warnings (0.19.0 gateway/run.py: start_gateway).
    command = ["gateway", "run", *(["-v"] if settings.verbose else [])]
    unit, service = _identity(settings, agent, account, command)
    if agent.source:
        fetched = store.unit_of(agent.name)
        # The boot does not wait until a source that is away is back.
        unit += [("Requires", fetched), ("After", fetched), ("After", "multi-user.target")]
    stop = ("TimeoutStopSec", str(agent.drain + STOP_MARGIN))
    sections = [("Service", [*service, stop, *confinement(agent, account, settings.scope)])]
    return _text([("Unit", unit), *sections] if unit else sections)


def _identity(
    settings: UnitSettings, agent: Agent, account: Account, command: list[str]
) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Directives of ``[Unit]`` and of ``[Service]`` that set user, directory, environment and command.

    :param command: arguments of ``hermes``
    """
    home = user_home(agent, account)
    check_path(home, f"the home of the user {account.name}")
    unit: list[tuple[str, str]] = []
    service = [
        ("Environment", f"HERMES_HOME={agent.home}"),
        ("Environment", f"HOME={home}"),
        ("WorkingDirectory", home),
        # Resolves to releases/<id> at the start, because the script names its interpreter by absolute path. A running
        # process therefore never loads code of another release.
        ("ExecStart", " ".join([f"{settings.root}/current/bin/hermes", *home_arguments(agent.home), *command])),
    ]
    if settings.scope == "system":
        unit.append(("RequiresMountsFor", " ".join(data_paths(agent, account))))
        service.insert(0, ("User", account.name))
        if "user_manager" in agent.sandbox.open:
            manager = f"user@{account.uid}.service"
            unit += [("Wants", manager), ("After", manager)]
            service += [
                ("Environment", f"XDG_RUNTIME_DIR={_runtime_directory(account)}"),
                ("Environment", f"DBUS_SESSION_BUS_ADDRESS=unix:path={_runtime_directory(account)}/bus"),
            ]
    else:
        # A user's manager can wait for no mount of the system. Where the data volume is missing, so is the home.
        unit.append(("ConditionPathIsDirectory", agent.home))
    return unit, service


def _runtime_directory(account: Account) -> str:
    return f"/run/user/{account.uid}"


def confinement(agent: Agent, account: Account, scope: str) -> list[tuple[str, str]]:
    """Limits, secrets, managed scope and sandbox of every process of *agent*: gateway, dashboard or a command."""
    limits = agent.limits
    service = [("MemoryMax", limits.memory), ("TasksMax", str(limits.tasks))]
    # systemd's default, half a million descriptors a process, is more than a health check has time to read.
    service.append(("LimitNOFILE", str(MOST_DESCRIPTORS)))
    # Else journald would write a line that begins with <0> to all terminals of the host.
    service.append(("SyslogLevelPrefix", "no"))
    if limits.cpu:
        service.append(("CPUQuota", limits.cpu))
    if agent.source:
        service += store.directives(agent.name)
    if agent.managed:
        service.append(("Environment", f"HERMES_MANAGED_DIR={agent.managed}"))
    if agent.sandbox.enabled:
        service += _sandbox(agent, account, scope)
    return service


def _sandbox(agent: Agent, account: Account, scope: str) -> list[tuple[str, str]]:
    sandbox = agent.sandbox
    directives: dict[str, str | None] = dict(SANDBOX)
    for door in sandbox.open:
        directives.update(DOORS[door])
    if scope == "user":
        return [(name, directives[name]) for name in USER_SANDBOX if directives[name] is not None]
    paths = outermost([*data_paths(agent, account), *sandbox.paths])
    result = [(name, value) for name, value in directives.items() if value is not None]
    visible = _below_home(paths) + ([_runtime_directory(account)] if "user_manager" in sandbox.open else [])
    if directives["ProtectHome"] is not None and visible:
        result.append(("BindPaths", " ".join(f"-{path}" for path in visible)))
    if directives["ProtectSystem"] is not None:
        result.append(("ReadWritePaths", " ".join(f"-{path}" for path in paths)))
    return result


def _below_home(paths: list[str]) -> list[str]:
    """Those of *paths* that ProtectHome= hides."""
    return [path for path in paths if path.startswith(("/home/", "/root/", "/run/user/"))]


def _text(sections: list[tuple[str, list[tuple[str, str]]]]) -> str:
    lines = ["# Written by the Ansible collection alwayson.hermes; add your own in a drop-in beside it."]
    for name, directives in sections:
        lines += ["", f"[{name}]", *(f"{key}={value}" for key, value in directives)]
    return "\n".join(lines) + "\n"
