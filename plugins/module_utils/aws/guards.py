# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is refused before anything changes: doubts about the data volume, or about which instance is the host."""

from __future__ import annotations

from ..hermes_ops.system.errors import OpsError
from .declared import DEVICE, TAG, Declared
from .state import Instance, State, Volume


def the_volume(declared: Declared, state: State) -> Volume | None:
    """The one data volume; None if it is to be created.

    :raises OpsError: when there is none, or more than one, or when it cannot be this host's
    """
    where = f"{declared.host}: data volume"
    if len(state.volumes) > 1:
        raise OpsError(
            f"{len(state.volumes)} volumes have the tag {TAG}={declared.host}: "
            + ", ".join(f"{each.id} ({each.zone}, {each.state})" for each in state.volumes),
            where=where,
            fix="take the tag off all but the one that has the agents",
        )
    if not state.volumes:
        _refuse_none(declared, state, where)
        return None
    (volume,) = state.volumes
    where = f"{declared.host}: data volume {volume.id}"
    if volume.state not in ("available", "in-use", "creating"):
        raise OpsError(f"is in the state {volume.state}", where=where, fix="see what AWS says of it")
    if state.zone and volume.zone != state.zone:
        raise OpsError(
            f"is in {volume.zone}, and the subnet {declared.subnet} in {state.zone}",
            where=where,
            fix=f"name a subnet of {volume.zone} with aws_subnet",
        )
    if declared.volume_size and declared.volume_size < volume.size:
        raise OpsError(
            f"has {volume.size} GiB, and {declared.volume_size} are declared; a volume never shrinks",
            where=where,
            fix=f"declare aws_volume_size: {volume.size}",
        )
    _refuse_attached_elsewhere(declared, state, volume, where)
    return volume


def _refuse_none(declared: Declared, state: State, where: str) -> None:
    """Refuse to go on without a volume, unless a blank one was asked for and there never was another."""
    if not declared.create_volume:
        raise OpsError(
            f"no volume in {declared.region} has the tag {TAG}={declared.host}",
            where=where,
            fix="for a new host, say -e aws_create_volume=true with aws_provision, once; else see that aws_region and "
            "AWS_PROFILE are those of the host, or find the volume or a snapshot of it, and give it that tag",
        )
    if state.snapshots:
        raise OpsError(
            f"is gone, and has snapshots, the newest {state.snapshots[0]}; a blank one would forget the agents",
            where=where,
            fix=f"make a volume of it in the right zone, with the tag {TAG}={declared.host}; for agents that shall "
            "start from nothing take that tag off the snapshots",
        )


def _refuse_attached_elsewhere(declared: Declared, state: State, volume: Volume, where: str) -> None:
    ours = {instance.id for instance in state.instances}
    for instance, device, _state in volume.attachments:
        if instance not in ours:
            raise OpsError(
                f"is attached to {instance}, which is not an instance of this host",
                where=where,
                fix=f"stop {instance} and detach the volume, or give the instance the tag {TAG}={declared.host}",
            )
        if device != DEVICE:
            raise OpsError(
                f"is attached to {instance} as {device}, not as {DEVICE}",
                where=where,
                fix=f"stop {instance} and detach the volume; the same command then attaches it",
            )
    for instance in state.live:
        if instance.data and instance.data[0] != volume.id:
            raise OpsError(
                f"{DEVICE} of {instance.id} is {instance.data[0]}, another volume",
                where=where,
                fix=f"detach {instance.data[0]}, or attach it as another device",
            )


def the_instance(declared: Declared, state: State) -> Instance | None:
    """The one live instance; None if there is none.

    :raises OpsError: when there are several
    """
    if len(state.live) > 1:
        successors = [instance.id for instance in state.live if instance.is_successor]
        raise OpsError(
            f"{len(state.live)} instances have the tag {TAG}={declared.host}: "
            + ", ".join(f"{instance.id} ({instance.state})" for instance in state.live),
            where=declared.host,
            fix="a replacement was interrupted: run aws_replace again"
            if successors
            else "terminate the one that does not have the data volume",
        )
    return next(iter(state.live), None)


def may_go(declared: Declared, state: State, going: list[Instance]) -> None:
    """Refuse to begin what AWS would refuse only when the volume has moved: to end a protected instance."""
    for instance in going:
        for option in state.protected.get(instance.id, ()):
            raise OpsError(
                f"is protected against being {'stopped' if 'stop' in option else 'terminated'}",
                where=f"{declared.host}: instance {instance.id}",
                fix=f"aws ec2 modify-instance-attribute --region {declared.region} "
                f"--instance-id {instance.id} {option}",
            )


def successor_of(declared: Declared, state: State, volume: Volume | None) -> Instance | None:
    """The instance with which an interrupted replacement goes on; None if a new one is to be launched.

    One that was launched as is no longer declared counts as old: its image may be what was wrong. Of two that two
    operators launched at once, the one that got the volume stays.
    """
    found = [each for each in state.live if each.is_successor and not each.outdated(declared, state.image)]
    found.sort(key=lambda each: (not (volume and volume.is_on(each.id)), each.id))
    return next(iter(found), None)


def group_fits(declared: Declared, state: State) -> None:
    """Refuse a security group of another VPC."""
    if state.group and state.vpc and state.group.vpc != state.vpc:
        raise OpsError(
            f"is in {state.group.vpc}, and the subnet {declared.subnet} in {state.vpc}",
            where=f"{declared.host}: security group {state.group.id}",
            fix="run aws_destroy, which keeps the data volume, and then aws_provision",
        )
