# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Decides, from the declaration and what AWS has, which steps lead from one to the other.

Each step is decided from what AWS shows, never from what an earlier run remembers. So a run that was interrupted
anywhere is continued by running it again.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from ..hermes_ops.system.plan import HIDDEN, Difference, Plan
from . import guards
from .acts import Acts
from .declared import DLM, EC2, METADATA, REPLACES, Declared, trust
from .state import Instance, Role, State, Volume
from .watch import KINDS, alarms, rules


def plan_host(declared: Declared, state: State, goal: str, acts: Acts) -> Plan:
    """The steps to *goal*, in order.

    :param goal: the module's ``state``
    :raises OpsError: when there is a doubt about volume or instances
    """
    return {"present": present, "replacing": replacing, "replaced": replaced, "absent": absent}[goal](
        declared, state, acts
    )


def present(declared: Declared, state: State, acts: Acts) -> Plan:
    """One instance with the data volume, as declared as it can be without launching another."""
    plan = Plan()
    guards.group_fits(declared, state)
    volume = guards.the_volume(declared, state)
    instance = guards.the_instance(declared, state)
    _surroundings(plan, declared, state, acts)
    _volume(plan, declared, volume, acts)
    if instance is None:
        _add(plan, "instance", None, f"{declared.instance_type}, {state.image}", partial(acts.launch, state.image, {}))
    else:
        _heal(plan, declared, state, instance, acts)
    _attach(plan, volume, instance, acts)
    _alarms(plan, declared, state, instance, acts)
    return plan


def replacing(declared: Declared, state: State, acts: Acts) -> Plan:
    """A fresh instance with the data volume, and no other instance.

    It is launched first: where AWS has no room for it, the old one serves on. The old one is stopped, which stops its
    agents in order, before it loses the volume.
    """
    plan = Plan()
    guards.group_fits(declared, state)
    volume = guards.the_volume(declared, state)
    successor = guards.successor_of(declared, state, volume)
    old = [instance for instance in state.live if instance is not successor]
    guards.may_go(declared, state, old)
    _surroundings(plan, declared, state, acts)
    _volume(plan, declared, volume, acts)
    if successor is None:
        marker = {REPLACES: " ".join(each.id for each in old) or "none"}
        what = f"{declared.instance_type}, {state.image}"
        _add(plan, "instance", None, what, partial(acts.launch, state.image, marker))
    else:
        _heal(plan, declared, state, successor, acts)
    for instance in old:
        _let_go(plan, instance, volume, acts)
    _attach(plan, volume, successor, acts)
    _alarms(plan, declared, state, successor, acts)
    for instance in old:
        _terminate(plan, instance, acts)
    return plan


def replaced(declared: Declared, state: State, acts: Acts) -> Plan:
    """The instance that took over is well: the next replacement launches another one."""
    plan = Plan()
    instance = guards.the_instance(declared, state)
    if instance and instance.is_successor:
        before = f"takes over from {instance.tags[REPLACES]}"
        _add(plan, f"instance {instance.id}", before, "has taken over", partial(acts.unmark, instance))
    return plan


def absent(declared: Declared, state: State, acts: Acts) -> Plan:
    """No instance, and nothing that only an instance needs. The data volume and its snapshots stay."""
    plan = Plan()
    volume = guards.the_volume(declared, state) if state.volumes else None
    guards.may_go(declared, state, state.live)
    for instance in state.live:
        _let_go(plan, instance, volume, acts)
        _terminate(plan, instance, acts)
    _no_alarms(plan, state, list(state.alarms), acts)
    no_ground(plan, declared, state, acts)
    return plan


def _add(plan: Plan, what: str, before: str | None, after: str | None, action: Callable[[], object]) -> None:
    plan.add(Difference(what, before, after), action)


def ground(plan: Plan, declared: Declared, state: State, acts: Acts) -> None:
    """What an instance stands on: it may be launched only when all of it is there."""
    if state.group is None:
        _add(plan, f"security group {declared.name}", None, "without ingress", partial(acts.create_group, state.vpc))
    elif state.group.ingress:
        shown = "; ".join(_rule(each) for each in state.group.ingress)
        _add(
            plan,
            f"security group {state.group.id}",
            shown,
            "without ingress",
            partial(acts.revoke, state.group.ingress),
        )
    _role(plan, declared.name, state.role, EC2, declared.core_policy, acts)
    if state.role is None or state.role.policy != declared.own_policy:
        before = "another policy" if state.role and state.role.policy else None
        _add(plan, f"role {declared.name}: own secrets", before, declared.secrets_path or "none", acts.put_own_policy)
    if state.profile is None:
        _add(plan, f"instance profile {declared.name}", None, declared.name, acts.create_profile)
    elif declared.name not in state.profile:
        before = ", ".join(state.profile) or "without a role"
        _add(
            plan, f"instance profile {declared.name}", before, declared.name, partial(acts.fill_profile, state.profile)
        )


def no_ground(plan: Plan, declared: Declared, state: State, acts: Acts) -> None:
    """Nothing that only an instance needs, when that is gone."""
    if state.group:
        _add(plan, f"security group {declared.name}", state.group.id, None, acts.delete_group)
    if state.profile is not None:
        _add(plan, f"instance profile {declared.name}", "exists", None, partial(acts.delete_profile, state.profile))
    if state.role:
        _add(plan, f"role {declared.name}", "exists", None, partial(acts.delete_role, state.role))


def _surroundings(plan: Plan, declared: Declared, state: State, acts: Acts) -> None:
    """What a host has besides instance and volume."""
    ground(plan, declared, state, acts)
    _role(plan, declared.snapshot_role, state.snapshot_role, DLM, declared.snapshot_policy, acts)
    for name in sorted(declared.secrets):
        path = declared.parameter(name)
        if path not in state.parameters:
            _add(plan, f"parameter {path}", None, HIDDEN, partial(acts.seed, name))
    for kind, days in rules(declared).items():
        known = state.rules[kind]
        # Of several rules for one resource, AWS keeps to the longest.
        if days not in known.values():
            before = f"{max(known.values())} days" if known else None
            action = partial(acts.put_rule, kind, days, next(iter(known), ""))
            _add(plan, f"Recycle Bin for {KINDS[kind]}", before, f"{days} days", action)


def _rule(permission: dict[str, Any]) -> str:
    """A rule of a security group for people."""
    sources = [each["CidrIp"] for each in permission.get("IpRanges", [])]
    sources += [each["CidrIpv6"] for each in permission.get("Ipv6Ranges", [])]
    sources += [each["GroupId"] for each in permission.get("UserIdGroupPairs", [])]
    sources += [each["PrefixListId"] for each in permission.get("PrefixListIds", [])]
    ports = f" {permission['FromPort']}-{permission['ToPort']}" if "FromPort" in permission else ""
    return f"{permission['IpProtocol']}{ports} from {', '.join(sources)}"


def _role(plan: Plan, name: str, role: Role | None, service: str, managed: str, acts: Acts) -> None:
    if role is None:
        _add(plan, f"role {name}", None, service, partial(acts.create_role, name, service))
    elif role.trust != trust(service):
        _add(plan, f"role {name}: trust", "another policy", service, partial(acts.trust, name, service))
    # More policies than these are the operator's own.
    if role is None or managed not in role.attached:
        _add(plan, f"role {name}: policy", None, managed, partial(acts.attach_policy, name, managed))


def _volume(plan: Plan, declared: Declared, volume: Volume | None, acts: Acts) -> None:
    if volume is None:
        _add(plan, "data volume", None, f"{declared.volume_size} GiB, blank", acts.create_volume)
    elif declared.volume_size > volume.size:
        after = f"{declared.volume_size} GiB"
        _add(plan, f"data volume {volume.id}", f"{volume.size} GiB", after, acts.grow_volume)


def _alarms(plan: Plan, declared: Declared, state: State, instance: Instance | None, acts: Acts) -> None:
    """Alarms about the instance that stays; None for one that this plan launches."""
    wanted = alarms(declared, instance.id if instance else "")
    for name, alarm in wanted.items():
        found = state.alarms.get(name)
        if instance is None or found != alarm:
            before = "another alarm" if found else None
            _add(plan, f"alarm {name}", before, declared.alarm_topic, partial(acts.put_alarm, name, instance))
    _no_alarms(plan, state, [name for name in state.alarms if name not in wanted], acts)


def _no_alarms(plan: Plan, state: State, names: list[str], acts: Acts) -> None:
    if names:
        shown = "; ".join(", ".join(state.alarms[name].get("AlarmActions", [])) for name in names)
        _add(plan, f"alarms {', '.join(names)}", shown, None, partial(acts.delete_alarms, names))


def _heal(plan: Plan, declared: Declared, state: State, instance: Instance, acts: Acts) -> None:
    """What of a live instance can be put right in place."""
    what = f"instance {instance.id}"
    metadata = {key: instance.metadata.get(key) for key in METADATA}
    if metadata != METADATA:
        _add(plan, f"{what}: metadata service", str(metadata), str(METADATA), partial(acts.protect_metadata, instance))
    if state.group and instance.groups != (state.group.id,):
        before = ", ".join(instance.groups)
        _add(plan, f"{what}: security groups", before, state.group.id, partial(acts.join_group, instance))
    if instance.profile != declared.name:
        before = instance.profile or None
        _add(plan, f"{what}: instance profile", before, declared.name, partial(acts.join_profile, instance))
    if instance.state in ("stopping", "stopped"):
        _add(plan, what, instance.state, "running", partial(acts.start, instance))


def _attach(plan: Plan, volume: Volume | None, instance: Instance | None, acts: Acts) -> None:
    """The volume on the instance that stays, of which it never becomes a part.

    :param instance: None for one that this plan launches
    """
    if not (volume and instance and volume.is_on(instance.id)):
        _add(
            plan,
            "data volume: attached to",
            None,
            instance.id if instance else "the new instance",
            partial(acts.attach, instance),
        )
    elif instance.data and instance.data[1]:
        _keep(plan, instance, acts)


def _keep(plan: Plan, instance: Instance, acts: Acts) -> None:
    what = f"instance {instance.id}: data volume"
    _add(plan, what, "deleted with the instance", "outlives the instance", partial(acts.keep, instance.id))


def _let_go(plan: Plan, instance: Instance, volume: Volume | None, acts: Acts) -> None:
    """An instance that has to go: it is stopped, and loses the volume, before anything else happens to it."""
    # First of all: whoever terminates the instance from now on does not delete the volume.
    if instance.data and instance.data[1]:
        _keep(plan, instance, acts)
    if instance.state != "stopped":
        _add(plan, f"instance {instance.id}", instance.state, "stopped", partial(acts.stop, instance))
    if volume and instance.id in [each[0] for each in volume.attachments]:
        _add(plan, "data volume: attached to", instance.id, None, partial(acts.detach, instance))


def _terminate(plan: Plan, instance: Instance, acts: Acts) -> None:
    _add(plan, f"instance {instance.id}", instance.state, None, partial(acts.terminate, instance))
