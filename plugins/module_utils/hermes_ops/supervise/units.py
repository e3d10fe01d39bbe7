# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The systemd unit of a gateway, as text. Every directive stands here once, with its reason."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

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
    "ProtectSystem": "strict",
    # Not "yes": that would hide /run/user, and cron (since 0.21.1) starts its jobs in the user's own manager.
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

# What an opened door (description.declaration.DOORS) lifts. None takes the directive away, a text replaces it.
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
}


def data_paths(data_dir: str, hermes_home: str) -> list[str]:
    """Where the agent's data lies."""
    below = os.path.commonpath([data_dir, hermes_home]) == os.path.normpath(data_dir)
    return [data_dir] if below else [data_dir, hermes_home]


@dataclass(frozen=True)
class Host:
    """What the units of a host have in common.

    :param scope: ``system``, or ``user`` for the manager of the lingering user
    :param user: name of the user Hermes runs as
    :param uid: its number; text where it is not known yet
    :param data_dir: the user's home and the data volume's mount point
    :param hermes_home: Hermes' home, usually below it
    :param root: where releases lie, ``/opt/hermes``
    :param systemd: the version of the host's systemd
    :param restart_sec: seconds between a gateway's end and its next start
    :param restart_max_delay_sec: what that grows to where systemd knows how
    :param verbose: the gateways tell the journal what agent.log holds, not only warnings
    """

    scope: str
    user: str
    uid: int | str
    data_dir: str
    hermes_home: str
    root: str
    systemd: int
    restart_sec: int
    restart_max_delay_sec: int
    verbose: bool = False

    def __post_init__(self) -> None:
        for name in ("data_dir", "hermes_home", "root"):
            check_path(getattr(self, name), name)

    @property
    def directory(self) -> str:
        return UNIT_DIRECTORIES[self.scope]

    @property
    def data_paths(self) -> list[str]:
        return data_paths(self.data_dir, self.hermes_home)

    @property
    def template_path(self) -> str:
        return os.path.join(self.directory, TEMPLATE_NAME)

    @property
    def dashboard_path(self) -> str:
        return os.path.join(self.directory, DASHBOARD_NAME)

    def drop_in_path(self, profile: str) -> str:
        return os.path.join(self.directory, f"hermes-gateway@{profile}.service.d", "profile.conf")


def render_template(host: Host) -> str:
    """The template unit that all gateways of a host are instances of."""
    return _unit(
        host,
        "Hermes gateway of profile %i",
        "hermes-gateway-%i",
        # Below -v it says warnings only (0.19.0 gateway/run.py: start_gateway).
        "--profile %i gateway run" + (" -v" if host.verbose else ""),
        [
            # Hermes asks to be restarted with 75 (EX_TEMPFAIL).
            ("SuccessExitStatus", "75"),
            # SIGTERM ends Hermes with status 1 and leaves "running" behind; SIGINT is its clean stop.
            ("KillSignal", "SIGINT"),
        ],
    )


def render_dashboard(host: Host, profile: dict[str, Any], address: str, port: int) -> str:
    """The unit of the host's dashboard, which is one for all profiles.

    :param profile: the default profile: the dashboard works in its home, within its limits and its sandbox, since the
        agent that one talks to there is this one
    """
    # Built into the wheel: without --skip-build it would look for npm. SIGTERM is its clean stop (0.19.0
    # hermes_cli/main.py: cmd_dashboard, hermes_cli/web_server.py: start_server).
    command = f"--profile {profile['name']} dashboard --host {address} --port {port} --no-open --skip-build"
    service = [("TimeoutStopSec", str(DASHBOARD_STOP)), *_confinement(host, profile)]
    return _unit(host, "Hermes dashboard", "hermes-dashboard", command, service, with_unit=profile["unit"])


def _unit(
    host: Host,
    description: str,
    identifier: str,
    command: str,
    directives: list[tuple[str, str]],
    with_unit: str | None = None,
) -> str:
    """A unit that runs ``hermes`` for ever.

    :param identifier: its name in the journal
    :param command: arguments of ``hermes``
    :param directives: more of its section ``[Service]``
    :param with_unit: another unit with which it is started, and before whose stop it is stopped: who stops that one,
        for an update or a restore, wants nobody to write in the home. It is gone, too, while that one waits for its
        next start after a crash
    """
    unit = [
        ("Description", description),
        ("Documentation", "https://hermes-agent.nousresearch.com/docs/"),
        # Restart for ever: the delay below is what keeps a crash loop cheap.
        ("StartLimitIntervalSec", "0"),
    ]
    service = [
        ("Type", "exec"),
        ("Environment", f"HERMES_HOME={host.hermes_home}"),
        ("Environment", "PYTHONUNBUFFERED=1"),
        # Hermes 0.21 and later install packages at run time unless told not to.
        ("Environment", "HERMES_DISABLE_LAZY_INSTALLS=1"),
        ("WorkingDirectory", host.data_dir),
        # Resolves to releases/<id> at start (the script's interpreter is absolute): what is running never loads code
        # of another release.
        ("ExecStart", f"{host.root}/current/bin/hermes {command}"),
        # A gateway may exit 0 after an unhandled error: on-failure would leave it dead.
        ("Restart", "always"),
        ("RestartSec", str(host.restart_sec)),
    ]
    if host.systemd >= RESTART_STEPS_SINCE:
        service += [("RestartSteps", "6"), ("RestartMaxDelaySec", str(host.restart_max_delay_sec))]
    service += [("KillMode", "mixed"), ("SyslogIdentifier", identifier), ("OOMPolicy", "stop"), *directives]
    if host.scope == "system":
        unit += [
            ("Wants", f"network-online.target user@{host.uid}.service"),
            # The user's manager, which lingers, is where Hermes starts cron jobs (since 0.21.1).
            ("After", f"network-online.target user@{host.uid}.service"),
            ("RequiresMountsFor", " ".join(host.data_paths)),
        ]
        service += [
            ("User", host.user),
            ("Environment", f"XDG_RUNTIME_DIR=/run/user/{host.uid}"),
            ("Environment", f"DBUS_SESSION_BUS_ADDRESS=unix:path=/run/user/{host.uid}/bus"),
        ]
    target = "multi-user.target" if host.scope == "system" else "default.target"
    if with_unit:
        unit += [("After", with_unit), ("StopPropagatedFrom", with_unit)]
    install = [("WantedBy", with_unit or target)]
    return _text([("Unit", unit), ("Service", service), ("Install", install)])


def render_drop_in(host: Host, profile: dict[str, Any]) -> str:
    """What one profile's gateway differs in: limits, time-outs, managed scope, sandbox.

    :param profile: the ``gateway`` part of a description made by :func:`declaration.resolve`
    """
    stop = ("TimeoutStopSec", str(profile["drain"] + STOP_MARGIN))
    return _text([("Service", [stop, *_confinement(host, profile)])])


def _confinement(host: Host, profile: dict[str, Any]) -> list[tuple[str, str]]:
    return confinement(profile, host.scope, host.uid, host.data_paths)


def confinement(profile: dict[str, Any], scope: str, uid: int | str, paths: list[str]) -> list[tuple[str, str]]:
    """Limits, managed scope and sandbox of whatever runs as the agent *profile*: its gateway, or a command.

    :param uid: of its user
    :param paths: where its data lies
    """
    limits = profile["limits"]
    service = [("MemoryMax", limits["memory"]), ("TasksMax", str(limits["tasks"]))]
    if limits["cpu"]:
        service.append(("CPUQuota", limits["cpu"]))
    if profile["config_scope"] == "managed":
        service.append(("Environment", f"HERMES_MANAGED_DIR={profile['managed_dir']}"))
    if profile["sandbox"]["enabled"]:
        service += _sandbox(profile["sandbox"], scope, uid, paths)
    return service


def _sandbox(sandbox: dict[str, Any], scope: str, uid: int | str, paths: list[str]) -> list[tuple[str, str]]:
    directives: dict[str, str | None] = dict(SANDBOX)
    for door in sandbox["open"]:
        directives.update(DOORS[door])
    if scope == "user":
        return [(name, directives[name]) for name in USER_SANDBOX if directives[name] is not None]
    paths = [*paths, *sandbox["paths"]]
    result = [(name, value) for name, value in directives.items() if value is not None]
    if directives["ProtectHome"] == "tmpfs":
        visible = [f"/run/user/{uid}", *_below_home(paths)]
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
