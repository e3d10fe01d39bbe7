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
from ..host.runtimes import BOOT, JOB, ROLLOUT, User
from ..system.errors import OpsError
from ..system.files import read_json
from ..system.plan import Difference, Plan
from ..system.process import run
from ..system.services import plan_enabled, plan_files_gone, plan_gone, plan_started
from ..system.systemd import Manager
from ..system.typed import plain
from . import editions, proxy, runtime_disk, runtime_units
from .resting import REST, WAKE
from .rollout import FAILED
from .runtime_files import PROXY_SECRETS, check_owner, is_complete, is_written, write
from .runtime_host import Host
from .runtime_units import AGENT, FRONT, LENT, PODMAN, SOCKET, WANTED
from .runtimes import complete, enrol

# Seconds for an image that has to be fetched.
_PULL = 1800.0
# Seconds for all agents to end their work in progress, side by side.
_STOP = 1800.0
# Seconds for a rollout. Agents that are at work are waited for.
_ROLLOUT = 6 * 3600.0


def plan_present(host: Host, manager: Manager) -> Plan:
    """Compare the host with one that has the declared runtimes.

    :raises OpsError: what is declared does not fit what is there; when it is applied: the change was bad, and is undone
    """
    declared = host.settings
    path = settings.path_of(JOB)
    users = host.users.all()
    _check(host, users)
    network = network_of(declared.network, 1 + max((user.number for user in users), default=-1))
    plan = Plan()
    # First: without it nothing else is of use.
    _plan_image(plan, declared.image)
    _plan_end_of_another(plan, host, manager)
    # Before anything is given to its group.
    proxy.plan_user(plan)
    text = json.dumps(plain(declared), indent=2, sort_keys=True) + "\n"
    plan.add_file(path, text, mode=0o600, shown=False)
    plan.join(runtime_network.plan_network(network, declared.egress, manager))
    effective = editions.in_effect(declared, host.ops_dir)
    texts = runtime_units.render(declared, effective, host.data_dir, host.ops_dir)
    units = plan_enabled(plan, manager, [BOOT, ROLLOUT], texts)
    if not plan_started(plan, manager, units[BOOT]) and not is_written(host):
        # Not a restart of the unit, which would stop every agent.
        plan.add(Difference(runtimes.RUN, "another declaration", "this one"), lambda: _write(host, manager))
    plan.join(runtime_disk.plan_limits(host, users))
    _plan_users(plan, host, users)
    plan.join(proxy.plan_proxy(proxy_of(declared), manager))
    _plan_rollout(plan, host, manager)
    return plan


def plan_absent(manager: Manager, ops_dir: str) -> Plan:
    """Compare the host with one that has no runtimes. The users' data, and who they are, stay.

    :param ops_dir: directory of the records
    """
    plan = Plan()
    if not runtimes.present():
        return plan
    plan.join(proxy.plan_no_proxy(manager))
    plan_gone(plan, manager, ROLLOUT, [f"{runtime_units.UNIT_DIRECTORY}/{ROLLOUT}"])
    plan.add(Difference("the agents of users", "present", None), lambda: _stop_all(manager, f"{WAKE}.timer", SOCKET))
    files = [f"{runtime_units.UNIT_DIRECTORY}/{unit.format('')}" for unit in (SOCKET, FRONT, REST, AGENT)]
    lent = glob.glob(os.path.join(LENT, AGENT.format("*")))
    plan_files_gone(plan, [*glob.glob(os.path.join(WANTED, SOCKET.format("*"))), *lent, *files])
    plan_gone(plan, manager, BOOT, [f"{runtime_units.UNIT_DIRECTORY}/{BOOT}"])
    # Only then its bridge is gone, which podman removes with the last container.
    plan.join(runtime_network.plan_no_network(manager))
    plan.actions.append(lambda: shutil.rmtree(runtimes.RUN, ignore_errors=True))
    # They hold secrets, and nothing runs any more that could go back.
    plan_files_gone(plan, editions.records(ops_dir))
    # Last: by it a run that follows a kill finds the rest.
    plan_files_gone(plan, [settings.path_of(JOB)])
    return plan


def _plan_end_of_another(plan: Plan, host: Host, manager: Manager) -> None:
    """Plan that what is rolled out and no longer declared is not rolled out to its end.

    It would count as proven then, and the files of what is declared be removed as those that nobody uses.
    """
    kept = editions.journal(host.ops_dir)
    if kept and kept.phase != FAILED and kept.target != host.settings.edition.id:
        plan.add(Difference("rollout of another declaration", "under way", None), lambda: manager.call("stop", ROLLOUT))


def _plan_rollout(plan: Plan, host: Host, manager: Manager) -> None:
    """Plan that the agents get the declared edition."""
    if not editions.is_due(host.settings, host.ops_dir):
        return
    changes = editions.changes(editions.former(host.settings, host.ops_dir), host.settings.edition)
    plan.add(Difference("rollout to users' agents", None, changes), lambda: roll_out(host, manager))


def roll_out(host: Host, manager: Manager, *, again: bool = False) -> None:
    """Have the agents get the declared edition, by a unit, which survives the end of this process, and a kill.

    :param again: also if it has failed before
    :raises OpsError: it failed, or did so before, and the former edition is back
    """
    if again and editions.failure(host.settings, host.ops_dir):
        editions.forget_journal(host.ops_dir)
    # The first one may have been under way with what was declared before, or is killed, after which it goes on.
    for _start in range(2):
        done = manager.call("start", ROLLOUT, check=False, timeout=_ROLLOUT)
        failed = editions.failure(host.settings, host.ops_dir)
        if failed or not editions.is_due(host.settings, host.ops_dir):
            break
    if failed:
        raise failed
    if not done.ok:
        raise OpsError(
            "did not come to its end", where=ROLLOUT, fix=f"read its log: journalctl -u {ROLLOUT}; then run this again"
        )


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


def proxy_of(declared: Runtimes) -> proxy.Proxy:
    """The server that all callers use."""
    return proxy.Proxy(declared.listen, declared.certificate, declared.certificate_key)


def _check(host: Host, users: list[User]) -> None:
    """:raises OpsError: what is declared does not fit what is on this host; nothing was changed"""
    for name, path in host.settings.plugins.items():
        if not os.path.isdir(path):
            raise OpsError("is no directory of this host", where=f"plugins: {name}: {path}", fix="put it there first")
    runtime_disk.check(host)
    for user in users:
        check_owner(host, user)
    able = {*host.settings.users, *(user.name for user in users)} - {user.name for user in users if user.off}
    for name in host.settings.canaries:
        if name not in able:
            fix = "name another, or make it: hermes-ops runtime ensure"
            raise OpsError("has no runtime here, or is stopped", where=f"canaries: {name}", fix=fix)
    path = settings.path_of(JOB)
    if users and os.path.exists(path):
        former, servers = settings.load(JOB, Runtimes).supervised.servers, host.settings.supervised.servers
        # Two editions are beside each other for a while, and everybody has to find both.
        for name in former.keys() & servers.keys():
            was, now = former[name].port, servers[name].port
            if was != now:
                raise OpsError(f"was {was} and is {now}", where=f"agent: {name}.port", fix=f"declare {was} again")


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
