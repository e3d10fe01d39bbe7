# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The units with which systemd runs an agent for each user: woken by a call, stopped when nobody needs it.

A caller's connection waits in the socket. It starts the *front*, which pulls up the *agent* and passes the connection
on. Without a call for a while the front ends, and the *rest* keeps the agent up until its own work is done. Then
nothing needs the agent, and systemd stops it. No process of ours stays.

They are templates, whose instance is the id of a user. What differs from one user to another is in files of variables
below :data:`runtimes.USERS`, so a further user changes no unit, and systemd has nothing to load again.
"""

from __future__ import annotations

import os

from ..description.runtimes import DATA, PLUGINS, Edition, Runtimes
from ..host.jobs import HARDENING, UNIT_DIRECTORY
from ..host.kit import COMMAND
from ..host.nftables import NFT
from ..host.runtime_walls import BRIDGE
from ..host.runtime_walls import TABLE as WALLS
from ..host.runtimes import BOOT, FAILED, ROLLOUT, SHARED, SOCKETS, STARTING, USERS, VOLUMES
from ..system.errors import OpsError
from .proxy import USER as PROXY_USER
from .resting import REST

SOCKET, FRONT, AGENT = "hermes-user@{}.socket", "hermes-user@{}.service", "hermes-user-agent@{}.service"
# The label of a container with the id of its edition.
EDITION = "hermes.edition"
# Enables a socket: what `systemctl enable` makes, which would have systemd load all units again for each user.
WANTED = f"{UNIT_DIRECTORY}/sockets.target.wants"
# Here a canary has a unit file of its own, which systemd prefers to the template (systemd.unit(5)). After a boot the
# template is all there is.
LENT = "/run/systemd/system"
PODMAN = "/usr/bin/podman"
# Seconds beyond the agent's own drain time until it is killed.
_GRACE = 15
# Agents that may be starting, for each processor.
_AT_ONCE = 2
# Seconds that a front lives whose agent could not be started: the callers who wait are told, the next one tries again.
_FAILED_SECONDS = 1

_HEADER = "# Written by the Ansible collection alwayson.hermes.\n"

_SOCKET = """\
[Unit]
Description=Calls for the Hermes agent of user %i

[Socket]
ListenStream={sockets}/%i.sock
SocketGroup={group}
SocketMode=0660
DirectoryMode=0755
# Without it, a call meets no socket, as if there were no such user.
RemoveOnStop=yes
TriggerLimitIntervalSec=0

[Install]
WantedBy=sockets.target
"""

_FRONT = """\
[Unit]
Description=Way to the Hermes agent of user %i
# Not Requires=: if the agent cannot be started, the callers that wait are to be told, which closing their connections
# does. Failing instead would leave them in the socket, which would start all this again at once.
Wants={agent}
After={agent}
OnSuccess={rest}
# A limit would end with the socket gone, and the user unknown to callers.
StartLimitIntervalSec=0

[Service]
EnvironmentFile={users}/%i/address
User={group}
# Each connection takes six descriptors.
LimitNOFILE=8192
CPUQuota=100%
# At an address where nothing is, a container's that could not be started, a connection waits for seconds. It ends soon
# even if calls keep coming, so that one of them tries again.
ExecStart=/bin/sh -c 'test ! -e {failed}/%i || {{ ADDRESS=127.0.0.1:1; (sleep {failed_seconds}; kill $$$$) & }}; \\
  exec /lib/systemd/systemd-socket-proxyd --connections-max=1024 --exit-idle-time=$${{IDLE}}s $${{ADDRESS}}'
# Fails in place of a rest, which would start the agent once more.
ExecStopPost=/usr/bin/test ! -e {failed}/%i
{hardening}
PrivateDevices=yes
ProtectHome=yes
ProtectSystem=strict
"""

_AGENT = """\
[Unit]
Description=Hermes agent of user %i
Requires={boot}
# Not Requires=: new rules are loaded by a restart of that unit, which would restart all agents.
Wants={walls}
After={boot} {walls} network-online.target
RequiresMountsFor={data_dir}
StopWhenUnneeded=yes
# A call may try again at any time. What keeps failing costs a start for each call, and no more.
StartLimitIntervalSec=0

[Service]
Type=notify
NotifyAccess=all
EnvironmentFile={users}/%i/address
# Never without walls.
ExecStartPre=/bin/sh -c '{{ {listed}; }} >/dev/null'
# If all were started at once that many callers want, none would be healthy in time: each waits for its turn. What is
# older than a start can be is left of one that was killed. Agents that failed the last time have half of the turns, so
# that those who fail on purpose do not take all, and wait in a line of their own.
ExecStartPre=/bin/sh -c 'mkdir -p {starting}; most=$$(({at_once} * $$(nproc))); \\
  full() {{ test $$(find {starting} -type f -newermt "-{start} seconds" | wc -l) -ge $$1; }}; \\
  test ! -e {failed}/%i || {{ exec 8>{starting}.failed; flock 8; while full $$((most / 2)); do sleep 0.1; done; }}; \\
  exec 9>{starting}.lock; flock 9; while full $$most; do sleep 0.1; done; touch {starting}/%i'
ExecStart={podman} --events-backend=none run --name=hermes-user-%i --replace --detach --pull=never \\
  --label={label}={edition} \\
  --cgroups=split --sdnotify=conmon --log-driver=passthrough \\
  --network={network} --ip=${{HOST}} --mac-address=${{MAC}} --user=${{NUMBER}}:${{NUMBER}} \\
  --read-only --tmpfs=/tmp:mode=1777 --cap-drop=all --security-opt=no-new-privileges \\
  --volume={volumes}/%i:{data} \\
  --volume={shared}/agent.json:/etc/hermes/agent.json:ro \\
  --volume={users}/%i/secrets/{edition}:/run/secrets/hermes:ro \\
{plugins}  {image}
ExecStartPost={command} runtime wait %i
ExecStop={podman} --events-backend=none stop --ignore --time={drain} hermes-user-%i
# Whoever calls next is told why it does not run. A front that passes on to an agent that has ended, even well, has to
# go, so that the next call starts both; one that still waits for the agent's start is not active, and stays.
ExecStopPost=/bin/sh -c 'rm -f {starting}/%i; test "$$SERVICE_RESULT" = success || \\
  echo "$$SERVICE_RESULT $$EXIT_STATUS" >{failed}/%i; \\
  systemctl --quiet is-active {front} && systemctl --no-block stop {front}; true'
ExecStopPost=-{podman} --events-backend=none rm --force --ignore --time=0 hermes-user-%i
TimeoutStartSec={start}
TimeoutStopSec={stop}
Delegate=yes
# Else a line that begins with <0> would be written to all terminals.
SyslogLevelPrefix=no
{limits}
"""

_REST = """\
[Unit]
Description=Rest of the Hermes agent of user %i, when its own work is done
# For as long as this runs, the agent is needed.
Requires={agent}
After={agent}
StartLimitIntervalSec=0

[Service]
Type=oneshot
TimeoutStartSec=infinity
ExecStart={command} runtime rest %i
# What it reads is the agent's.
MemoryMax=512M
CPUQuota=50%
Nice=10
{hardening}
"""

_BOOT = """\
[Unit]
Description=What the Hermes agents of users need in memory: their description, secrets and variables
RequiresMountsFor={data_dir} {ops_dir}
After=local-fs.target

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart={command} runtime boot
{hardening}

[Install]
WantedBy=multi-user.target
"""

_ROLLOUT = """\
[Unit]
Description=Rollout of a changed declaration to the Hermes agents of users
# Else multi-user.target would wait for its end at a boot.
DefaultDependencies=no
Conflicts=shutdown.target
Before=shutdown.target
Requires={boot}
After={boot} {walls} network-online.target
RequiresMountsFor={data_dir} {ops_dir}

[Service]
Type=oneshot
# As long as agents are at work.
TimeoutStartSec=infinity
ExecStart={command} runtime rollout --here
# However it ended, no front stays stopped.
ExecStopPost=-/bin/systemctl kill --signal=SIGCONT {front_of_all}
# If killed, it goes on. If all canaries are at work, it is tried again. What has failed has gone back already.
Restart=on-failure
RestartPreventExitStatus=1 {failed_status}
RestartSec=5

[Install]
WantedBy=multi-user.target
"""


def render(settings: Runtimes, edition: Edition, data_dir: str, ops_dir: str) -> dict[str, str]:
    """The text of each unit by its path, but for those of the network and of the server that callers reach.

    :param edition: with which agents start
    """
    agent = settings.having(edition).supervised
    limits = [("MemoryMax", agent.limits.memory), ("MemorySwapMax", "0"), ("TasksMax", str(agent.limits.tasks))]
    if agent.limits.cpu:
        limits.append(("CPUQuota", agent.limits.cpu))
    plugins = [f"  --volume={path}:{PLUGINS}/{name}:ro \\\n" for name, path in sorted(edition.plugins.items())]
    values = {
        "agent": AGENT.format("%i"),
        "front": FRONT.format("%i"),
        "front_of_all": FRONT.format("*"),
        "rest": REST.format("%i"),
        "boot": BOOT,
        "walls": WALLS.unit,
        "listed": " && ".join(f"{NFT} list table {family} {WALLS.name}" for family in WALLS.families),
        "sockets": SOCKETS,
        "users": USERS,
        "starting": STARTING,
        "at_once": _AT_ONCE,
        "failed": FAILED,
        "shared": f"{SHARED}/{edition.id}",
        "label": EDITION,
        "edition": edition.id,
        "group": PROXY_USER,
        "network": BRIDGE,
        "command": COMMAND,
        "podman": PODMAN,
        "data": DATA,
        "data_dir": data_dir,
        "volumes": os.path.join(data_dir, VOLUMES),
        "ops_dir": ops_dir,
        "image": edition.image,
        "plugins": "".join(plugins),
        "drain": agent.drain + _GRACE // 2,
        "start": settings.start,
        "stop": agent.drain + _GRACE,
        "failed_status": OpsError.exit_status,
        "failed_seconds": _FAILED_SECONDS,
        "limits": _lines(limits),
        "hardening": _lines(HARDENING),
    }
    texts = {SOCKET: _SOCKET, FRONT: _FRONT, AGENT: _AGENT, REST: _REST, BOOT: _BOOT, ROLLOUT: _ROLLOUT}
    return {
        f"{UNIT_DIRECTORY}/{name.format('')}": f"{_HEADER}\n{text.format(**values)}" for name, text in texts.items()
    }


def _lines(directives: list[tuple[str, str]] | tuple[tuple[str, str], ...]) -> str:
    return "\n".join(f"{name}={value}" for name, value in directives)
