# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The numbers of users and groups on the data volume, where this host has given them to others.

The kernel can map them for a mount (mount_setattr(2), since Linux 5.12 for ext4 and xfs): the files keep their numbers
on the volume, and on this host all processes, also root's, see and use those of the agents' users. The mapping is a
permutation. What it pushes aside takes the place that was left, so a user of this host who has a number of the volume
reaches nothing with it.

The mapping is an option in the mount's unit and nowhere else. It belongs to this host, and the volume knows nothing of
it. It changes only when the volume is mounted by a run of site.yml.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from ..description.agent import Agent
from ..system.errors import OpsError
from ..system.process import run
from .accounts import (
    FIXED_NUMBERS,
    SYSTEM_NUMBERS,
    account_of,
    has_group,
    has_user,
    number_of_group,
    number_of_user,
)

# Seconds. Mounting may replay a journal.
TIMEOUT = 300.0
# Numbers have 32 bits; the last one means "none".
_ALL = 2**32 - 1
_OPTION = re.compile(r"^Options=.*,X-mount\.idmap=(.+)$", re.M)
_EXTENT = re.compile(r"([ug]):(\d{1,10}):(\d{1,10}):(\d{1,10})")

# In a mount namespace of its own, which ends with it: if it is killed, no mount is left behind. It unmounts the volume
# itself, because the kernel would do that a moment later, and a mount in between fails.
_LOOK = """\
set -e
where=$2
mount -t "$3" -o ro,nodev,nosuid,noexec "$1" "$where"
cd "$where"
shift 3
for path in ./agents/* "$@"; do
    find "$path" -maxdepth 0 -type d -printf '%U %G %p\\0' || true
done
cd /
umount "$where"
"""


@dataclass(frozen=True)
class Owner:
    """The numbers that own a directory on the volume.

    :param path: below the volume's root
    """

    path: str
    uid: int
    gid: int


@dataclass(frozen=True)
class Numbers:
    """A mapping: number on the volume -> number on this host, for those that differ."""

    users: Mapping[int, int] = field(default_factory=dict)
    groups: Mapping[int, int] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.users or self.groups)

    def option(self) -> str:
        """The option of mount(8); "" if no number differs."""
        if not self:
            return ""
        parts = [f"u:{extent}" for extent in _extents(self.users)] + [f"g:{extent}" for extent in _extents(self.groups)]
        return f"X-mount.idmap={' '.join(parts)}"

    def shown(self) -> list[str]:
        """Each number that differs, in words."""
        return [
            f"{what} {number} of the volume is {here} on this host"
            for what, moved in (("user id", self.users), ("group id", self.groups))
            for number, here in sorted(moved.items())
        ]


def _extents(moved: Mapping[int, int]) -> list[str]:
    """All numbers, as ``volume:host:count``: neighbours that move alike share one."""
    extents: list[list[int]] = []

    def add(number: int, here: int, count: int) -> None:
        if extents and extents[-1][0] + extents[-1][2] == number and extents[-1][1] + extents[-1][2] == here:
            extents[-1][2] += count
        elif count:
            extents.append([number, here, count])

    position = 0
    for number in sorted(moved):
        add(position, position, number - position)
        add(number, moved[number], 1)
        position = number + 1
    add(position, position, _ALL - position)
    return [":".join(map(str, extent)) for extent in extents]


def read(unit: str) -> Numbers:
    """The mapping in the text of a mount unit."""
    match = _OPTION.search(unit)
    found: dict[str, dict[int, int]] = {"u": {}, "g": {}}
    for kind, *extent in _EXTENT.findall(match[1]) if match else ():
        number, here, count = map(int, extent)
        # Ours are short; one of somebody else's could have billions.
        if number != here and count <= len(SYSTEM_NUMBERS):
            found[kind].update((number + each, here + each) for each in range(count))
    return Numbers(found["u"], found["g"])


def can_map() -> bool:
    """Whether mount(8) knows the option (since util-linux 2.39). Earlier versions silently ignore it."""
    return "idmapping" in run(["mount", "--version"], timeout=TIMEOUT).stdout


def look(device: str, kind: str, where: str, agents: Iterable[Agent]) -> list[Owner]:
    """The owners of all agents' directories on a volume that is not mounted.

    :param kind: its file system
    :param where: the mount point; others do not see the mount
    :raises OpsError: it cannot be mounted
    """
    below = {_below(agent, where) for agent in agents}
    elsewhere = [f"./{path}" for path in sorted(below) if path and not path.startswith("agents/")]
    command = ["unshare", "--mount", "sh", "-c", _LOOK, "sh", device, where, kind, *elsewhere]
    done = run(command, timeout=TIMEOUT, check=False)
    if not done.ok:
        what = f"the owners of its directories cannot be read: {done.last_words}"
        raise OpsError(what, where=device, fix="see the kernel's log: dmesg")
    found = [line.split(" ", 2) for line in done.stdout.split("\0") if line]
    return [Owner(path[len("./") :], int(uid), int(gid)) for uid, gid, path in found]


def _below(agent: Agent, where: str) -> str:
    """The path of the agent's directory below the volume's root; "" if it lies elsewhere."""
    return agent.directory[len(where) + 1 :] if agent.directory.startswith(f"{where}/") else ""


def plan(agents: Sequence[Agent], owners: Sequence[Owner], where: str, before: Numbers) -> Numbers:
    """Decide which numbers differ.

    :param owners: of the directories on the volume
    :param before: the mapping until now
    :raises OpsError: no number is free
    """
    # No user is made for an agent that is absent.
    expected = [agent for agent in agents if agent.present or number_of_user(agent.user) is not None]
    users = {_below(agent, where): agent.user for agent in expected}
    uids = {owner.path: owner.uid for owner in owners}
    gids = {owner.path: owner.gid for owner in owners}
    return Numbers(
        _moved(_wanted(uids, users, number_of_user), before.users, has_user),
        _moved(_wanted(gids, users, _number_of_group), before.groups, has_group),
    )


@dataclass(frozen=True)
class _Wanted:
    """What becomes of the numbers on the volume.

    :param accounts: number -> that of the account on this host, which is there
    :param missing: those of users that are still to be made
    :param others: those of directories that no agent is declared for; they stay as they are on this host
    """

    accounts: Mapping[int, int]
    missing: Sequence[int]
    others: Sequence[int]


def _wanted(found: Mapping[str, int], users: Mapping[str, str], number_of: Callable[[str], int | None]) -> _Wanted:
    accounts: dict[int, int] = {}
    missing, others = [], []
    for path, number in sorted(found.items()):
        here = number_of(users[path]) if path in users else None
        if number in FIXED_NUMBERS:
            continue
        if path in users and here is None:
            missing.append(number)
        # Two agents that share a number or an account here, but not there: it is the first one's, and the other one's
        # home is told about once the volume is mounted.
        elif here and number not in accounts and here not in accounts.values():
            accounts[number] = here
        else:
            others.append(number)
    return _Wanted(accounts, missing, others)


def _moved(wanted: _Wanted, before: Mapping[int, int], is_taken: Callable[[int], bool]) -> dict[int, int]:
    images = dict(wanted.accounts)
    known = {*images, *wanted.missing, *wanted.others}
    for number in [*wanted.missing, *wanted.others]:
        if number in images:
            continue
        kept = [before.get(number, number), number]
        if number in wanted.missing:
            kept = [each for each in kept if not is_taken(each)]
        free = (each for each in SYSTEM_NUMBERS if each not in known and not has_user(each) and not has_group(each))
        usable = (each for candidates in (kept, free) for each in candidates if each not in images.values())
        images[number] = _first(usable, number)
    moved = {number: here for number, here in images.items() if number != here}
    for end in set(moved.values()) - moved.keys():
        start, numbers = end, {here: number for number, here in moved.items()}
        while start in numbers:
            start = numbers[start]
        moved[end] = start
    return moved


def _first(usable: Iterable[int], number: int) -> int:
    for each in usable:
        return each
    raise OpsError(
        f"number {number} of the volume belongs to another one on this host, and none of {SYSTEM_NUMBERS[-1]} to "
        f"{SYSTEM_NUMBERS[0]} is free",
        fix="remove users or groups that nobody needs",
    )


def _number_of_group(user: str) -> int | None:
    """The number of the primary group that *user* has, or will have: one of the same name."""
    account = account_of(user)
    return account.pw_gid if account else number_of_group(user)
