# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which numbers on the volume are mapped to others on this host, decided from values."""

from __future__ import annotations

import described
import pytest
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.host import volume_mount, volume_numbers
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.host.volume_numbers import Numbers, Owner
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.errors import OpsError
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.process import Completed
from hypothesis import example, given
from hypothesis import strategies as st

DATA = "/data"
EVERY = 2**32 - 1


class Accounts:
    """The users and groups of a host: name -> number."""

    def __init__(self, monkeypatch, users, groups=None):
        self.users, self.groups = dict(users), dict(users if groups is None else groups)
        patched = {
            "number_of_user": self.users.get,
            "_number_of_group": self.groups.get,
            "has_user": lambda number: number in self.users.values(),
            "has_group": lambda number: number in self.groups.values(),
        }
        for name, function in patched.items():
            monkeypatch.setattr(volume_numbers, name, function)


def plan(numbers, before=None, absent=()):
    """The mapping for directories with these *numbers*, by the name of their agent.

    Those of agents that are not declared begin with an underscore.
    """
    agents = [
        described.agent(
            name, user=name, directory=f"{DATA}/agents/{name}", state="absent" if name in absent else "present"
        )
        for name in numbers
        if not name.startswith("_")
    ]
    pairs = {name: each if isinstance(each, tuple) else (each, each) for name, each in numbers.items()}
    owners = [Owner(f"agents/{name}", *pair) for name, pair in pairs.items()]
    return volume_numbers.plan(agents, owners, DATA, before or Numbers())


def same(moved):
    return Numbers(moved, moved)


CASES = {
    "free, as on the first host": ({}, {"ada": 998}, {}),
    "a number that another one keeps is not free": (
        {"www": 998},
        {"ada": 998, "bob": 999},
        {998: 997, 997: 998},
    ),
    "its own": ({"ada": 998}, {"ada": 998}, {}),
    "taken: the agent gets a free one, its owner nothing": ({"www": 998}, {"ada": 998}, {998: 999, 999: 998}),
    "taken, and so are the highest": ({"a": 999, "b": 998, "c": 997}, {"ada": 998}, {998: 996, 996: 998}),
    "the agent's user has another one": ({"ada": 500}, {"ada": 998}, {998: 500, 500: 998}),
    "two have each other's": ({"ada": 997, "bob": 998}, {"ada": 998, "bob": 997}, {998: 997, 997: 998}),
    "three in a circle": (
        {"ada": 997, "bob": 996, "cay": 998},
        {"ada": 998, "bob": 997, "cay": 996},
        {998: 997, 997: 996, 996: 998},
    ),
    "a chain with an end": (
        {"ada": 997, "bob": 996, "www": 998},
        {"ada": 998, "bob": 997},
        {998: 997, 997: 996, 996: 998},
    ),
    "a user has the number of one that is still to be made": (
        {"ada": 997},
        {"ada": 998, "bob": 997},
        {998: 997, 997: 999, 999: 998},
    ),
    "and both numbers belong to others": (
        {"ada": 997, "www": 998},
        {"ada": 998, "bob": 997},
        {998: 997, 997: 999, 999: 998},
    ),
    "a directory that no agent is declared for stays as it is": ({"www": 998}, {"_old": 998}, {}),
    "but goes out of an agent's way": ({"ada": 998}, {"ada": 997, "_old": 998}, {997: 998, 998: 999, 999: 997}),
    "root's, and those that all systems have": ({"root": 0, "ada": 998, "www": 33}, {"ada": 0, "bob": 33}, {}),
    "a number that two agents share is the first one's": (
        {"ada": 997, "bob": 996},
        {"ada": 998, "bob": 998},
        {998: 997, 997: 998},
    ),
    "an account of root's is nobody's target": ({"ada": 0}, {"ada": 998}, {}),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_each_agent_s_files_are_its_user_s(monkeypatch, case):
    users, numbers, moved = case
    Accounts(monkeypatch, users)
    assert plan(numbers) == same(moved)


def test_users_and_groups_are_mapped_each_for_itself(monkeypatch):
    Accounts(monkeypatch, {"www": 998}, {"journal": 999})
    # A free number is neither a user's nor a group's.
    assert plan({"ada": (998, 996)}) == Numbers({998: 997, 997: 998}, {})
    assert plan({"ada": (996, 999)}) == Numbers({}, {999: 997, 997: 999})
    Accounts(monkeypatch, {"www": 998}, {"ada": 500})
    assert plan({"ada": (990, 990)}) == Numbers({}, {990: 500, 500: 990})


def test_what_was_decided_stays_while_it_can(monkeypatch):
    Accounts(monkeypatch, {"www": 998})
    before = same({998: 990, 990: 998})
    # We were killed before the user was made.
    assert plan({"ada": 998}, before) == before
    Accounts(monkeypatch, {"www": 998, "ada": 990})
    assert plan({"ada": 998}, before) == before
    # The agent's declaration is gone, its home and its user are there.
    assert plan({"_ada": 998}, before) == before
    assert plan({"ada": 998}, before, absent=["ada"]) == before
    # No user will be made.
    Accounts(monkeypatch, {"www": 998})
    assert plan({"ada": 998}, absent=["ada"]) == Numbers()
    Accounts(monkeypatch, {"www": 998, "games": 990})
    assert plan({"ada": 998}, before) == same({998: 999, 999: 998})


def test_a_third_host_where_the_number_is_free_maps_nothing(monkeypatch):
    Accounts(monkeypatch, {"ada": 998})
    assert plan({"ada": 998}) == Numbers()
    Accounts(monkeypatch, {})
    assert plan({"ada": 998}) == Numbers()


def test_without_a_free_number_it_is_told(monkeypatch):
    Accounts(monkeypatch, {str(number): number for number in range(1, 1000)})
    with pytest.raises(OpsError, match="number 998 of the volume belongs to another one"):
        plan({"ada": 998})


def test_an_agent_elsewhere_does_not_count(monkeypatch):
    Accounts(monkeypatch, {"ada": 500})
    ada = described.agent("ada", user="ada", directory="/home/ada")
    assert volume_numbers.plan([ada], [Owner("agents/ada", 998, 998)], DATA, Numbers()) == Numbers()


def image(extents, number):
    """What mount(8) makes of *number*."""
    found = [here + number - first for first, here, count in extents if first <= number < first + count]
    assert len(found) == 1
    return found[0]


def numbered(*names):
    """Some of *names*, each with a number of its own."""
    few = st.lists(st.integers(min_value=101, max_value=112), unique=True, max_size=len(names))
    return st.tuples(st.permutations(names), few).map(lambda pair: dict(zip(*pair)))


@given(numbered("a", "b", "c", "www", "mail"), numbered("a", "b", "c", "_d", "_e"), st.sets(st.integers(101, 112)))
@example({"www": 101}, {"a": 101}, set())
def test_always_a_permutation_of_all_numbers_in_which_no_agent_has_another_ones(users, numbers, before):
    moved = dict(zip(sorted(before), sorted(before, reverse=True)))
    with pytest.MonkeyPatch.context() as patch:
        Accounts(patch, users)
        found = plan(numbers, Numbers(moved, moved))
    # Nothing is lost, and nothing is shared.
    assert sorted(found.users) == sorted(found.users.values())
    assert all(number != here for number, here in found.users.items())
    unit = volume_mount.render_mount(DATA, "x", "ext4", found, udev=False, quota=False)
    assert volume_numbers.read(unit) == found
    if found:
        extents = [tuple(map(int, each.split(":"))) for each in volume_numbers._extents(found.users)]
        assert sum(count for _first, _here, count in extents) == EVERY
        assert {number: image(extents, number) for number in found.users} == found.users
        assert image(extents, 0) == 0
        assert image(extents, EVERY - 1) == EVERY - 1
    for name, number in numbers.items():
        here = found.users.get(number, number)
        assert here == users.get(name, here)
        assert name in users or name.startswith("_") or here not in users.values()


def test_neighbours_share_an_extent():
    moved = {number: number + 10 for number in range(200, 210)}
    moved.update({here: number for number, here in moved.items()})
    assert volume_numbers._extents(moved) == ["0:0:200", "200:210:10", "210:200:10", f"220:220:{EVERY - 220}"]


def test_the_option_names_all_numbers_of_both_kinds():
    option = Numbers({998: 999, 999: 998}, {}).option()
    assert option == (f"X-mount.idmap=u:0:0:998 u:998:999:1 u:999:998:1 u:1000:1000:{EVERY - 1000} g:0:0:{EVERY}")
    assert Numbers().option() == ""
    assert volume_numbers.read("[Mount]\nOptions=nofail,nodev,nosuid\n") == Numbers()
    assert volume_numbers.read(f"Options=nofail,X-mount.idmap=u:0:100000:{EVERY - 100000}") == Numbers()


@pytest.mark.parametrize(
    ("said", "can"),
    [
        # Debian 13, Ubuntu 24.04, Debian 12.
        ("mount from util-linux 2.41.5 (libmount 2.41.5: selinux, namespaces, idmapping, fd-based-mount, debug)", True),
        ("mount from util-linux 2.39.3 (libmount 2.39.3: selinux, namespaces, idmapping, statx, assert, debug)", True),
        ("mount from util-linux 2.38.1 (libmount 2.38.1: selinux, btrfs, namespaces, assert, debug)", False),
    ],
)
def test_an_old_mount_would_ignore_the_option(monkeypatch, said, can):
    monkeypatch.setattr(volume_numbers, "run", lambda argv, **options: Completed(tuple(argv), 0, said, ""))
    assert volume_numbers.can_map() is can
