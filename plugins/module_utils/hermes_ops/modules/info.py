# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Report the state of the host."""

from __future__ import annotations

import os
from typing import Any

from ..description.agent import Agent
from ..host import volume_mount
from ..host.groundwork import SYSTEMS, look
from ..host.volume import DOCUMENTATION, Missing, Volume
from ..release.fitness import consider
from ..release.request import Request
from ..release.versions import version_key
from ..system.errors import OpsError
from ..system.plan import Plan
from ..system.systemd import Manager
from ..watch import info
from .call import Call, agents_of


def work(call: Call) -> dict[str, Any]:
    params = call.params
    agents, scope, ops_dir = agents_of(call), params["scope"], params["ops_dir"]
    found = {
        **look(agents, scope, params["data_dir"], ops_dir, params["packages"]),
        **info.gather(agents=agents, scope=scope, ops_dir=ops_dir, root=params["root"]),
    }
    to_build, unfit = release(call)
    to_mount, unusable = volume(call, agents)
    said = [*objections(found, params["data_dir"]), *unusable, *unfit]
    if params["refuse_as"] and said:
        return {"changed": False, "failed": True, "msg": f"{params['refuse_as']}: {'; '.join(said)}"}
    starting = [agent.name for agent in agents if agent.present]
    return {
        "changed": False,
        **found,
        "volume": to_mount,
        "objections": said,
        # Check mode does nothing that takes long.
        "awaited": [] if call.check_mode else awaited(found["missing_packages"], to_build, starting),
    }


def release(call: Call) -> tuple[str | None, list[str]]:
    """What :func:`consider` says of the release that is given; nothing if none is."""
    given = call.params["release"]
    if given is None:
        return None, []
    request = Request(**{**given, "extras": tuple(given["extras"]), "patches": tuple(given["patches"])})
    return consider(request, call.params["root"], call.params["packages"])


def volume(call: Call, agents: list[Agent]) -> tuple[list[str], list[str]]:
    """What is to be done about the data volume, and why it cannot be done, each as a sentence with its fix."""
    given, data_dir = call.params["volume"], call.params["data_dir"]
    said = [
        f"{os.path.basename(path)} mounts a data volume that is no longer declared. Fix: declare data_volume_enabled: "
        f"true and the hermes_data_dir of before, or take it away: {DOCUMENTATION}, Doing without"
        for path in volume_mount.units_elsewhere(data_dir if given else None)
    ]
    try:
        wanted = Volume(**given, data_dir=data_dir) if given else None
        manager = Manager.of_host()
        plan = volume_mount.plan_present(wanted, manager, agents, wait=False) if wanted else Plan()
    except Missing as error:
        # The role data_volume waits for it.
        return [str(error)], said
    except OpsError as error:
        return [], [*said, str(error)]
    return [difference.what for difference in plan.differences], said


def objections(found: dict[str, Any], data_dir: str) -> list[str]:
    """Why the host cannot be converged, from the facts about it, each as a sentence with its fix."""
    said = []
    system, owner = found["system"], found["data_dir_owner"]
    oldest = SYSTEMS.get(system["id"])
    # Debian testing has no version number; it counts as newer than every numbered one.
    is_old = oldest is None or (system["version"] and version_key(system["version"]) < version_key(oldest))
    if is_old or not system["systemd"]:
        said.append(
            f"this is {system['name']} {system['version']} with{'' if system['systemd'] else 'out'} systemd as service "
            "manager. Fix: use Debian 12 or newer, or Ubuntu 22.04 or newer, with systemd."
        )
    if found["superseded"]:
        said.append(
            f"this host was converged when all agents shared a home and a user ({found['superseded']}). "
            "Fix: take it over: docs/adopting.md, A host of an earlier version"
        )
    if owner not in (None, "root"):
        said.append(
            f"hermes_data_dir {data_dir} belongs to {owner}. Fix: declare a directory that belongs to root, and an "
            "existing home as home in hermes_agents"
        )
    if found["busy"]:
        jobs = " and ".join(found["busy"])
        said.append(f"{jobs} under way on this host. Fix: wait for it (hermes-ops status), then run this again")
    return [*said, *found["unfinished"], *found["separated"], *found["foreign_homes"], *found["port_conflicts"]]


def awaited(packages: list[str], to_build: str | None, agents: list[str]) -> list[str]:
    """What takes long on this host, before it is done: packages and builds, by far.

    :param to_build: the release that has to be built; None: it is there
    """
    said = []
    if packages or to_build:
        said.append("not everything is there yet, so this run takes longer")
    if packages:
        said.append(f"apt installs {', '.join(packages)} (half a minute or more)")
    if to_build:
        said.append(f"{to_build} is built with uv (half a minute to some minutes)")
    if to_build and agents:
        said.append(f"agents start with it: {', '.join(agents)} (some seconds)")
    return said
