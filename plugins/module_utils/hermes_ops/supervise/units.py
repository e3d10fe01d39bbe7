# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The systemd unit of a gateway, as text. Every directive stands here once, with its reason."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable
from dataclasses import dataclass

from ..description.agent import Agent
from ..description.declaration import home_arguments
from ..system.files import Owner
from ..system.network import MOST_DESCRIPTORS
from ..system.systemd import check_path

TEMPLATE_NAME = "hermes-gateway@.service"
DASHBOARD_NAME = "hermes-dashboard.service"
# systemd that knows RestartSteps= and RestartMaxDelaySec= (its NEWS, version 254).
RESTART_STEPS_SINCE = 254
# Time for Hermes to close its platforms and databases once the declared drain is over. Hermes asks for 30 s
# more than its drain (0.19.0 gateway/shutdown_forensics.py: check_systemd_timing_alignment).
STOP_MARGIN = 30
# Time for the dashboard to say good-bye to its browsers. Whoever stops the gateway waits for it.
DASHBOARD_STOP = 10
# The link-local address where clouds hand out a machine's credentials.
METADATA_ADDRESSES = "169.254.169.254 fd00:ec2::254"

UNIT_DIRECTORIES = {"system": "/etc/systemd/system", "user": "/etc/systemd/user"}

# Directive -> value. Proved with Hermes 0.18.2 and 0.19.0: chat, webhook, terminal tool and cron work inside.
SANDBOX = {
    "NoNewPrivileges": "yes",
    "PrivateTmp": "yes",
    "PrivateDevices": "yes",
    # The system's bus: over it a user may be allowed to have its own manager started (loginctl enable-linger), which
    # would run the units that lie in the user's home.
    "InaccessiblePaths": "-/run/dbus",
    "ProtectSystem": "strict",
    # Hides /home, /root and /run/user, with it the user's own manager, whose processes would be outside of all this.
    # Not "yes": into what that makes inaccessible, an adopted home could not be bound.
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
    "IPAddressDeny": METADATA_ADDRESSES,
    "UMask": "0077",
}

# What a user's manager can build without privileges: filters, no name spaces.
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

# What an opened door (description.schema.DOORS) lifts. None takes the directive away, a text replaces it.
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
        # These imply NoNewPrivileges=yes for a unit with User= in systemd before 255, or filter system calls:
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
    "system": {"ProtectSystem": None},
    # :func:`_sandbox` binds the user's runtime directory, too, and :func:`_identity` says where it is.
    "user_manager": {"InaccessiblePaths": None},
}


def outermost(paths: Iterable[str]) -> list[str]:
    """Those of *paths* that lie in none of the others, each once."""
    distinct = list(dict.fromkeys(paths))
    return [path for path in distinct if not any(path != other and _is_below(path, other) for other in distinct)]


def _is_below(path: str, other: str) -> bool:
    return path.startswith(other.rstrip("/") + "/")


def user_home(agent: Agent, owner: Owner) -> str:
    """The directory in which *agent* works, and that it finds as ``~``.

    The home of its user. Where that is not the user's own directory (``/``, ``/nonexistent``, one of root's), the
    directory of the agent.
    """
    try:
        status = os.lstat(owner.home)
    except OSError:
        return agent.directory
    own = stat.S_ISDIR(status.st_mode) and status.st_uid == owner.uid and owner.home != "/"
    return owner.home if own else agent.directory


def data_paths(agent: Agent, owner: Owner) -> list[str]:
    """Where the agent's data lies: its home, and its user's."""
    return outermost([user_home(agent, owner), agent.home])


@dataclass(frozen=True)
class Host:
    """What the units of a host have in common.

    :param scope: ``system``, or ``user`` for the managers of the agents' users, who linger
    :param root: where releases lie, ``/opt/hermes``
    :param systemd: the version of the host's systemd
    :param restart_sec: seconds between a gateway's end and its next start
    :param restart_max_delay_sec: what that grows to where systemd knows how
    :param verbose: the gateways tell the journal what agent.log holds, not only warnings
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


def render_template(host: Host) -> str:
    """The template unit that all gateways of a host are instances of.

    Not complete, and so never started, without the drop-in of an agent, which says as whom and what.
    """
    return _unit(
        host,
        "Hermes gateway of agent %i",
        "hermes-gateway-%i",
        [
            # Hermes asks to be restarted with 75 (EX_TEMPFAIL).
            ("SuccessExitStatus", "75"),
            # SIGTERM ends Hermes with status 1 and leaves "running" behind; SIGINT is its clean stop.
            ("KillSignal", "SIGINT"),
        ],
    )


def render_dashboard(host: Host, agent: Agent, owner: Owner, address: str, port: int) -> str:
    """The unit of the dashboard.

    :param agent: the agent that it shows: it works in its home, as its user, within its limits and its sandbox
    """
    # Built into the wheel: without --skip-build it would look for npm. SIGTERM is its clean stop (0.19.0
    # hermes_cli/main.py: cmd_dashboard, hermes_cli/web_server.py: start_server).
    command = ["dashboard", "--host", address, "--port", str(port), "--no-open", "--skip-build"]
    own_unit, own_service = _identity(host, agent, owner, command)
    service = [("TimeoutStopSec", str(DASHBOARD_STOP)), *own_service, *confinement(agent, owner, host.scope)]
    name = "Hermes dashboard"
    return _unit(host, name, "hermes-dashboard", service, unit=own_unit, with_unit=agent.unit)


def moved_dashboard(host: Host, text: str, before: tuple[Agent, Owner], after: tuple[Agent, Owner]) -> str:
    """The *text* of a dashboard's unit, for an agent that was *before* and is *after*; of another agent, as it is."""
    served = re.search(r"^ExecStart=.* dashboard --host (\S+) --port (\d+) ", text, re.M)
    if served:
        parts = (_own_parts(render_dashboard(host, *agent, served[1], int(served[2]))) for agent in (before, after))
        for old, new in zip(*parts):
            text = text.replace(old, new, 1)
    return text


def _own_parts(text: str) -> list[str]:
    """What a dashboard's unit says of its agent: a part of [Unit], and the end of [Service]."""
    return re.findall(r"^RequiresMountsFor=.*$|^TimeoutStopSec=(?:.+\n)+", text, re.M)


def _unit(
    host: Host,
    description: str,
    identifier: str,
    service: list[tuple[str, str]],
    *,
    unit: list[tuple[str, str]] | None = None,
    with_unit: str | None = None,
) -> str:
    """A unit that runs ``hermes`` for ever.

    :param identifier: its name in the journal
    :param service: more of its section ``[Service]``
    :param unit: more of its section ``[Unit]``
    :param with_unit: another unit with which it is started, and before whose stop it is stopped: who stops that one,
        for an update or a restore, wants nobody to write in the home. It is gone, too, while that one waits for its
        next start after a crash
    """
    about = [
        ("Description", description),
        ("Documentation", "https://hermes-agent.nousresearch.com/docs/"),
        # Restart for ever: the delay below is what keeps a crash loop cheap.
        ("StartLimitIntervalSec", "0"),
    ]
    common = [
        ("Type", "exec"),
        ("Environment", "PYTHONUNBUFFERED=1"),
        # Hermes 0.21 and later install packages at run time unless told not to.
        ("Environment", "HERMES_DISABLE_LAZY_INSTALLS=1"),
        # A gateway may exit 0 after an unhandled error: on-failure would leave it dead.
        ("Restart", "always"),
        ("RestartSec", str(host.restart_sec)),
    ]
    if host.systemd >= RESTART_STEPS_SINCE:
        common += [("RestartSteps", "6"), ("RestartMaxDelaySec", str(host.restart_max_delay_sec))]
    common += [("KillMode", "mixed"), ("SyslogIdentifier", identifier), ("OOMPolicy", "stop"), *service]
    if host.scope == "system":
        about += [("Wants", "network-online.target"), ("After", "network-online.target")]
    target = "multi-user.target" if host.scope == "system" else "default.target"
    about += unit or []
    if with_unit:
        about += [("After", with_unit), ("StopPropagatedFrom", with_unit)]
    install = [("WantedBy", with_unit or target)]
    return _text([("Unit", about), ("Service", common), ("Install", install)])


def render_drop_in(host: Host, agent: Agent, owner: Owner) -> str:
    """All that is one agent's own: user, home, command, limits, time-outs, managed scope, sandbox.

    :param owner: its user
    """
    # Below -v it says warnings only (0.19.0 gateway/run.py: start_gateway).
    command = ["gateway", "run", *(["-v"] if host.verbose else [])]
    unit, service = _identity(host, agent, owner, command)
    stop = ("TimeoutStopSec", str(agent.drain + STOP_MARGIN))
    sections = [("Service", [*service, stop, *confinement(agent, owner, host.scope)])]
    return _text([("Unit", unit), *sections] if unit else sections)


def _identity(
    host: Host, agent: Agent, owner: Owner, command: list[str]
) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """As whom, where and what: directives of ``[Unit]`` and of ``[Service]``.

    :param command: arguments of ``hermes``
    """
    home = user_home(agent, owner)
    check_path(home, f"the home of the user {owner.name}")
    unit: list[tuple[str, str]] = []
    service = [
        ("Environment", f"HERMES_HOME={agent.home}"),
        ("Environment", f"HOME={home}"),
        ("WorkingDirectory", home),
        # Resolves to releases/<id> at start (the script's interpreter is absolute): what is running never loads code
        # of another release.
        ("ExecStart", " ".join([f"{host.root}/current/bin/hermes", *home_arguments(agent.home), *command])),
    ]
    if host.scope == "system":
        unit.append(("RequiresMountsFor", " ".join(data_paths(agent, owner))))
        service.insert(0, ("User", owner.name))
        if "user_manager" in agent.sandbox.open:
            manager = f"user@{owner.uid}.service"
            unit += [("Wants", manager), ("After", manager)]
            service += [
                ("Environment", f"XDG_RUNTIME_DIR={_runtime_directory(owner)}"),
                ("Environment", f"DBUS_SESSION_BUS_ADDRESS=unix:path={_runtime_directory(owner)}/bus"),
            ]
    return unit, service


def _runtime_directory(owner: Owner) -> str:
    return f"/run/user/{owner.uid}"


def confinement(agent: Agent, owner: Owner, scope: str) -> list[tuple[str, str]]:
    """Limits, managed scope and sandbox of whatever runs as the agent *agent*: its gateway, or a command."""
    limits = agent.limits
    service = [("MemoryMax", limits.memory), ("TasksMax", str(limits.tasks))]
    # systemd's own limit, half a million for each process, is more than a look at them has time for.
    service.append(("LimitNOFILE", str(MOST_DESCRIPTORS)))
    if limits.cpu:
        service.append(("CPUQuota", limits.cpu))
    if agent.managed:
        service.append(("Environment", f"HERMES_MANAGED_DIR={agent.managed}"))
    if agent.sandbox.enabled:
        service += _sandbox(agent, owner, scope)
    return service


def _sandbox(agent: Agent, owner: Owner, scope: str) -> list[tuple[str, str]]:
    sandbox = agent.sandbox
    directives: dict[str, str | None] = dict(SANDBOX)
    for door in sandbox.open:
        directives.update(DOORS[door])
    if scope == "user":
        return [(name, directives[name]) for name in USER_SANDBOX if directives[name] is not None]
    paths = outermost([*data_paths(agent, owner), *sandbox.paths])
    result = [(name, value) for name, value in directives.items() if value is not None]
    visible = _below_home(paths) + ([_runtime_directory(owner)] if "user_manager" in sandbox.open else [])
    if directives["ProtectHome"] is not None and visible:
        result.append(("BindPaths", " ".join(f"-{path}" for path in visible)))
    if directives["ProtectSystem"] is not None:
        result.append(("ReadWritePaths", " ".join(f"-{path}" for path in paths)))
    return result


def _below_home(paths: list[str]) -> list[str]:
    """Those of *paths* that ProtectHome= would hide."""
    return [path for path in paths if path.startswith(("/home/", "/root/", "/run/user/"))]


def _text(sections: list[tuple[str, list[tuple[str, str]]]]) -> str:
    lines = ["# Written by the Ansible collection alwayson.hermes; add your own in a drop-in beside it."]
    for name, directives in sections:
        lines += ["", f"[{name}]", *(f"{key}={value}" for key, value in directives)]
    return "\n".join(lines) + "\n"
