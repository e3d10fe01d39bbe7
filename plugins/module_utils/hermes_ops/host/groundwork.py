# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The prerequisites for agents on a host: system, packages, users, directories."""

from __future__ import annotations

import glob
import os
import stat
from typing import Any

from ..description.agent import Agent
from ..system.files import read_json
from ..system.process import run
from . import volume_mount, volume_numbers
from .accounts import (
    FIXED_NUMBERS,
    SYSTEM_NUMBERS,
    account_of,
    has_group,
    has_user,
    name_of_group,
    name_of_user,
    number_of_group,
)
from .installation import HOST_FILE
from .records import check_ops, undeclared

# The oldest version that is supported of each system, by ID in os-release(5).
SYSTEMS = {"debian": "12", "ubuntu": "22.04"}
# systemd keeps one file here for each user whose manager runs without a login (loginctl(1), enable-linger).
LINGER = "/var/lib/systemd/linger"
# The comment in /etc/passwd that marks users made by the role base.
COMMENT = "Hermes agent"
# Below the ops directory: the records from the time when all agents shared a home and a user.
SUPERSEDED_RECORDS = "profiles"
# Others may pass through, but neither list nor change the content.
PARENT_MODE = 0o711
DIRECTORY_MODE = 0o700


def look(agents: list[Agent], scope: str, data_dir: str, ops_dir: str, packages: list[str]) -> dict[str, Any]:
    """The facts that the role base needs to decide.

    :param scope: the managers that run the gateways, ``system`` or ``user``
    :param packages: names of Debian packages
    :returns: ``system``, ``missing_packages``, ``missing_users``, ``foreign_homes``, ``wrong_directories``,
        ``data_dir_owner``, ``linger``, ``superseded``; see the module info
    """
    present = [agent for agent in agents if agent.present]
    # On a fresh host with a used volume they need their users, too: jobs look after every agent that has records.
    left = undeclared(ops_dir, [agent.name for agent in agents])
    users = {agent.user for agent in present}
    # Only those that another agent could read keep the declared ones from being converged.
    exposed = [agent for agent in left if _owner_of(agent.directory)[1] in users - {agent.user}]
    return {
        "system": system(),
        "missing_packages": missing_packages(packages),
        "missing_users": numbered(missing_users([*present, *left]), data_dir),
        # Only the numbers of declared agents are mapped.
        "foreign_homes": [*foreign_homes(present, data_dir), *foreign_homes(exposed, None)],
        "wrong_directories": wrong_directories(present, data_dir),
        "data_dir_owner": _named_owner_of(data_dir),
        "linger": missing_linger(agents, scope),
        "superseded": superseded(ops_dir),
    }


def missing_users(agents: list[Agent]) -> list[dict[str, Any]]:
    """``name``, ``home``, ``uid`` and ``gid`` of the users to make.

    :returns: uid and gid are None unless the agent's directory came with a data volume. Then they are the owner's, so
        that the files keep their owner. The gid is also set if a group of that name is there. Those users come first,
        before another one is given their number
    """
    found: dict[str, dict[str, Any]] = {}
    for agent in agents:
        if account_of(agent.user) is None and agent.user not in found:
            uid, gid = _unclaimed(_owner_of(agent.directory)), number_of_group(agent.user)
            if gid is None:
                gid = _unclaimed(_group_of(agent.directory))
            found[agent.user] = {"name": agent.user, "home": agent.directory, "uid": uid, "gid": gid}
    return sorted(found.values(), key=lambda user: user["uid"] is None)


def numbered(users: list[dict[str, Any]], data_dir: str) -> list[dict[str, Any]]:
    """*users* to make, such that none gets the number that owns the directory of an agent without a user.

    That agent is not declared any more, and its directory came with a data volume, or outlived its user. useradd knows
    the host's users only, and would give the secrets in it to the next one.
    """
    left = sorted(set(_owners_below(os.path.join(data_dir, "agents"))) - {user["uid"] for user in users})
    if not left:
        return users
    free = (number for number in SYSTEM_NUMBERS if number not in left and not _is_taken(number, users))
    return [{**user, "uid": next(free, None)} if user["uid"] is None else user for user in users]


def _owners_below(directory: str) -> list[int]:
    """The numbers without a user that own an entry of *directory*."""
    names = os.listdir(directory) if os.path.isdir(directory) else []
    owners = (_unclaimed(_owner_of(os.path.join(directory, name))) for name in names)
    return [uid for uid in owners if uid is not None]


def _is_taken(number: int, users: list[dict[str, Any]]) -> bool:
    """Whether *number* is that of a user or a group of the host, or of one of *users*."""
    return has_user(number) or has_group(number) or any(user["uid"] == number for user in users)


def foreign_homes(agents: list[Agent], data_dir: str | None) -> list[str]:
    """The agents' directories that belong to another user of this host, each as a sentence with its fix.

    They came with a data volume from a host with other users. Without this, that user could read the agent's secrets.
    Nor is a user made whose group would be another one's.

    :param data_dir: where the volume is mounted that can map the numbers of *agents*; None: none can
    """
    said = []
    for agent in agents:
        uid, owner = _owner_of(agent.directory)
        gid, group = _group_of(agent.directory)
        account = account_of(agent.user)
        if uid and owner != agent.user and (account or owner):
            said.append(
                f"{agent.directory} of agent {agent.name} belongs to user id {uid} ({owner or 'no user'}), not to "
                f"{agent.user}. Fix: {_mapped_by(agent, data_dir)}"
                f"give {f'user {owner}' if owner else agent.user} another id (usermod -u); "
                f"or declare that user; or change the owner of all its files: "
                f"chown -R --from={uid} {agent.user}: {agent.directory}"
            )
        elif account is None and group not in (None, agent.user) and gid not in FIXED_NUMBERS:
            said.append(
                f"{agent.directory} of agent {agent.name} belongs to group id {gid} ({group}), which user {agent.user} "
                f"would need. Fix: {_mapped_by(agent, data_dir)}give group {group} another id (groupmod -g)"
            )
    return said


def _mapped_by(agent: Agent, data_dir: str | None) -> str:
    """How the numbers of *agent* come to be mapped; "" if they cannot be."""
    if not data_dir or not agent.directory.startswith(f"{data_dir}/"):
        return ""
    if not (os.path.exists(volume_mount.path_of(data_dir)) and volume_numbers.can_map()):
        return ""
    return f"stop the agents, unmount {data_dir} and run this again, which maps the number; or "


def _unclaimed(owner: tuple[int | None, str | None]) -> int | None:
    number, name = owner
    return number if name is None else None


def wrong_directories(agents: list[Agent], data_dir: str) -> list[dict[str, str]]:
    """The wanted ``path``, ``owner`` and ``mode`` of the directories that are missing or different."""
    wanted = [(data_dir, "root", PARENT_MODE), (os.path.join(data_dir, "agents"), "root", PARENT_MODE)]
    wanted += [(agent.directory, agent.user, DIRECTORY_MODE) for agent in agents]
    return [
        {"path": path, "owner": owner, "mode": f"{mode:04o}"}
        for path, owner, mode in wanted
        if not _is_directory(path, owner, mode)
    ]


def _is_directory(path: str, owner: str, mode: int) -> bool:
    try:
        status = os.lstat(path)
    except PermissionError:
        # Only what its own user has mounted there (FUSE) hides it from root. That is an error of this agent alone, told
        # when its home is converged.
        return owner != "root"
    except OSError:
        return False
    account = account_of(owner)
    owned = account is not None and status.st_uid == account.pw_uid
    return stat.S_ISDIR(status.st_mode) and owned and stat.S_IMODE(status.st_mode) == mode


def missing_linger(agents: list[Agent], scope: str) -> list[str]:
    """The users whose manager must run without a login and does not yet."""
    return sorted(user for user in _with_manager(agents, scope) if not os.path.exists(os.path.join(LINGER, user)))


def needless_linger(agents: list[Agent], scope: str) -> list[str]:
    """The users made by the role base whose manager runs without a login, but no longer needs to."""
    users = {agent.user for agent in agents} - _with_manager(agents, scope)
    ours = {user for user in users if (account := account_of(user)) and account.pw_gecos.split(",")[0] == COMMENT}
    return sorted(user for user in ours if os.path.exists(os.path.join(LINGER, user)))


def _with_manager(agents: list[Agent], scope: str) -> set[str]:
    return {
        agent.user for agent in agents if agent.present and (scope == "user" or "user_manager" in agent.sandbox.open)
    }


def superseded(ops_dir: str) -> str | None:
    """A path that proves that the host was converged when all agents shared a home and a user; None: it was not."""
    if "hermes_home" in (read_json(HOST_FILE) or {}):
        return HOST_FILE
    if os.path.lexists(ops_dir):
        check_ops(ops_dir)
    for directory in sorted(glob.glob(os.path.join(glob.escape(ops_dir), SUPERSEDED_RECORDS, "*"))):
        gateway = read_json(os.path.join(directory, "applied/gateway.json")) or {}
        if "home" in gateway and "user" not in gateway:
            return directory
    return None


def system(path: str = "/etc/os-release") -> dict[str, Any]:
    """``id``, ``name`` and ``version`` from os-release(5) (version is "" where the system has no number), and
    ``systemd``: whether the host was booted with systemd (sd_booted(3))."""
    values = {}
    with open(path, encoding="utf-8", errors="replace") as stream:
        for line in stream:
            name, separator, value = line.strip().partition("=")
            if separator:
                values[name] = value.strip("\"'")
    return {
        "id": values.get("ID", ""),
        "name": values.get("NAME", ""),
        "version": values.get("VERSION_ID", ""),
        "systemd": os.path.isdir("/run/systemd/system"),
    }


def missing_packages(names: list[str]) -> list[str]:
    """The packages in *names* that are not installed; all of them where there is no dpkg."""
    if not names or not os.path.exists("/usr/bin/dpkg-query"):
        return names
    shown = "--showformat=${db:Status-Status} ${Package}\\n"
    # dpkg-query exits with 1 when it does not know one of the packages.
    answer = run(["dpkg-query", "--show", shown, *names], timeout=60, check=False).stdout
    installed = {line.split()[1] for line in answer.splitlines() if line.startswith("installed ")}
    return [name for name in names if name not in installed]


def _named_owner_of(path: str) -> str | None:
    uid, name = _owner_of(path)
    return name if uid is None or name is not None else str(uid)


def _owner_of(path: str) -> tuple[int | None, str | None]:
    """The owner's uid (None: *path* does not exist) and name (None: no user has that uid)."""
    try:
        uid = os.lstat(path).st_uid
    except OSError:
        return None, None
    return uid, name_of_user(uid)


def _group_of(path: str) -> tuple[int | None, str | None]:
    """Like :func:`_owner_of`, of its group."""
    try:
        gid = os.lstat(path).st_gid
    except OSError:
        return None, None
    return gid, name_of_group(gid)
