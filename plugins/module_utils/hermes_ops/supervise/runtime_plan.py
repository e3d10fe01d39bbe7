# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Plans a host with runtimes, and one without."""

from __future__ import annotations

import glob
import json
import os
import shutil

from ..description.runtime_addresses import network_of
from ..description.runtime_ids import hex_of
from ..description.runtimes import Runtimes
from ..host import runtime_network, runtimes, settings
from ..host.accounts import number_of_user
from ..host.runtimes import BOOT, JOB, User
from ..system.errors import OpsError
from ..system.files import read_json
from ..system.plan import Difference, Plan
from ..system.process import run
from ..system.services import plan_enabled, plan_files_gone, plan_gone, plan_started
from ..system.systemd import Manager
from ..system.typed import plain
from . import proxy, runtime_units
from .resting import REST, WAKE
from .runtime_units import AGENT, FRONT, PODMAN, SOCKET, WANTED
from .runtimes import PROXY_SECRETS, Host, check_owner, complete, enrol, is_complete, is_written, write

_PROXY_USER_FILE = "/etc/sysusers.d/hermes-proxy.conf"
_PROXY_USER_TEXT = f"""\
# Written by the Ansible collection alwayson.hermes.
u {proxy.USER} - "Proxy before the agents of users"
"""
# Seconds for an image that has to be fetched.
_PULL = 1800.0
# Seconds for all agents to end their work in progress, side by side.
_STOP = 1800.0


def plan_present(host: Host, manager: Manager) -> Plan:
    """Compare the host with one that has the declared runtimes.

    :raises OpsError: what is declared does not fit what is there
    """
    declared = host.settings
    path = settings.path_of(JOB)
    users = host.users.all()
    _check(host, users)
    network = network_of(declared.network, 1 + max((user.number for user in users), default=-1))
    plan = Plan()
    # First: without it nothing else is of use.
    _plan_image(plan, declared.image)
    _plan_proxy_user(plan)
    text = json.dumps(plain(declared), indent=2, sort_keys=True) + "\n"
    plan.add_file(path, text, mode=0o600, shown=False)
    plan.join(runtime_network.plan_network(network, declared.egress, manager))
    units = plan_enabled(plan, manager, [BOOT], runtime_units.render(declared, host.data_dir, host.ops_dir))
    if not plan_started(plan, manager, units[BOOT]) and not is_written(host):
        # Not a restart of the unit, which would stop every agent.
        plan.add(Difference(runtimes.RUN, "another declaration", "this one"), lambda: _write(host, manager))
    _plan_users(plan, host, users)
    return plan.join(proxy.plan_proxy(proxy_of(declared), manager))


def plan_absent(manager: Manager) -> Plan:
    """Compare the host with one that has no runtimes. The users' data, and who they are, stay."""
    plan = Plan()
    if not runtimes.present():
        return plan
    plan.join(proxy.plan_no_proxy(manager))
    plan.add(Difference("the agents of users", "present", None), lambda: _stop_all(manager, f"{WAKE}.timer", SOCKET))
    files = [f"{runtime_units.UNIT_DIRECTORY}/{unit.format('')}" for unit in (SOCKET, FRONT, REST, AGENT)]
    plan_files_gone(plan, [*glob.glob(os.path.join(WANTED, SOCKET.format("*"))), *files])
    plan_gone(plan, manager, BOOT, [f"{runtime_units.UNIT_DIRECTORY}/{BOOT}"])
    # Only then its bridge is gone, which podman removes with the last container.
    plan.actions.append(lambda: runtime_network.plan_no_network(manager).apply())
    plan.actions.append(lambda: shutil.rmtree(runtimes.RUN, ignore_errors=True))
    # Last: by it a run that follows a kill finds the rest.
    plan_files_gone(plan, [settings.path_of(JOB)])
    return plan


def _stop_all(manager: Manager, *more: str) -> None:
    """Stop all users' agents, once their work in progress is done, and the units *more* of each user."""
    patterns = [unit.format("*") for unit in (*more, FRONT, REST, AGENT)]
    manager.call("stop", *patterns, timeout=_STOP)
    manager.call("reset-failed", *patterns, check=False)


def _write(host: Host, manager: Manager) -> None:
    """Write what is in memory. Agents whose own key follows from a former secret would refuse every call: they stop."""
    former = (read_json(PROXY_SECRETS) or {}).get("secret", host.settings.secret)
    problems: list[str] = []
    if former != host.settings.secret:
        _stop_all(manager)
    write(host, problems.append)
    if former != host.settings.secret:
        # Those that were woken meanwhile.
        _stop_all(manager)
    if problems:
        raise OpsError("; ".join(problems))


def _plan_proxy_user(plan: Plan) -> None:
    """Plan the user of the server that callers reach, before anything is given to its group."""
    if plan.add_file(_PROXY_USER_FILE, _PROXY_USER_TEXT, mode=0o644) or number_of_user(proxy.USER) is None:
        plan.actions.append(lambda: run(["systemd-sysusers", _PROXY_USER_FILE], timeout=60.0))


def proxy_of(declared: Runtimes) -> proxy.Proxy:
    """The server that all callers use."""
    return proxy.Proxy(declared.listen, declared.certificate, declared.certificate_key)


def _check(host: Host, users: list[User]) -> None:
    """:raises OpsError: what is declared does not fit what is on this host; nothing was changed"""
    for name, path in host.settings.plugins.items():
        if not os.path.isdir(path):
            raise OpsError("is no directory of this host", where=f"plugins: {name}: {path}", fix="put it there first")
    for user in users:
        check_owner(host, user)


def _plan_image(plan: Plan, image: str) -> None:
    try:
        if run([PODMAN, "image", "exists", image], timeout=60.0, check=False).ok:
            return
    except OpsError:
        # Check mode on a host without podman.
        pass
    plan.add(Difference(f"image {image}", None, "present"), lambda: _pull(image))


def _pull(image: str) -> None:
    done = run([PODMAN, "pull", "--quiet", image], timeout=_PULL, check=False)
    if not done.ok:
        raise OpsError(
            f"is not on this host, and cannot be fetched: {done.last_words}",
            where=f"image {image}",
            fix="build it with the playbook image, or hand it over: podman save IMAGE | ssh HOST podman load",
        )


def _plan_users(plan: Plan, host: Host, users: list[User]) -> None:
    known = {user.id: user for user in users}
    new = [name for name in host.settings.users if hex_of(name) not in known]
    due = [user for user in known.values() if not user.off and not is_complete(host, user)]
    for name in [*new, *(user.name for user in due)]:
        plan.differences.append(Difference(f"runtime of {name}", None, "present"))
    if due:
        plan.actions.append(lambda: _complete(host, due))
    if new:
        plan.actions.append(lambda: enrol(host, new))


def _complete(host: Host, due: list[User]) -> None:
    with host.users.lock():
        complete(host, due)
