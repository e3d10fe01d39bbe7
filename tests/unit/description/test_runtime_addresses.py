# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The addresses of the users' containers."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network

import pytest
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.description import runtime_addresses
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.errors import OpsError
from hypothesis import given
from hypothesis import strategies as st

NETWORK = IPv4Network("10.210.0.0/16")


@st.composite
def networks(draw) -> IPv4Network:
    """Every network that may be declared."""
    private = draw(st.sampled_from(runtime_addresses.PRIVATE))
    prefix = draw(st.integers(runtime_addresses.SHORTEST, runtime_addresses.LONGEST))
    inside = draw(st.integers(0, private.num_addresses - 1))
    return IPv4Network((int(private.network_address) + inside, prefix), strict=False)


def test_the_addresses_of_the_first_users():
    assert runtime_addresses.gateway_of(NETWORK) == IPv4Address("10.210.0.1")
    assert runtime_addresses.address_of(NETWORK, 0) == IPv4Address("10.210.0.2")
    assert runtime_addresses.address_of(NETWORK, 254) == IPv4Address("10.210.1.0")
    assert runtime_addresses.mac_of(IPv4Address("10.210.0.2")) == "02:68:0a:d2:00:02"
    assert runtime_addresses.room_of(NETWORK) == 65533


@given(networks(), st.data())
def test_each_user_has_an_address_that_is_nobody_elses(network, data):
    assert runtime_addresses.network_of(str(network), runtime_addresses.room_of(network)) == network
    numbers = st.integers(0, runtime_addresses.room_of(network) - 1)
    one, other = data.draw(numbers), data.draw(numbers)
    address = runtime_addresses.address_of(network, one)
    assert address in network
    taken = network.network_address, runtime_addresses.gateway_of(network), network.broadcast_address
    assert address not in taken
    assert (address == runtime_addresses.address_of(network, other)) == (one == other)
    mac = bytes.fromhex(runtime_addresses.mac_of(address).replace(":", ""))
    assert IPv4Address(mac[2:]) == address
    # Of one interface, and chosen locally (IEEE 802).
    assert mac[0] & 3 == 2


@given(networks())
def test_there_is_no_address_beyond_the_room(network):
    room = runtime_addresses.room_of(network)
    assert runtime_addresses.address_of(network, room - 1) == network[-2]
    for number in (-1, room):
        with pytest.raises(OpsError, match="has no address for the user with the number"):
            runtime_addresses.address_of(network, number)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "is no IPv4 network"),
        ("10.210.0.1/16", "is no IPv4 network .*host bits"),
        ("10.210.0.0/33", "is no IPv4 network"),
        ("10.210.0.0/16; flush ruleset", "is no IPv4 network"),
        ("fd00::/64", "is no IPv4 network"),
        ("8.8.0.0/16", "8.8.0.0/16 is not private"),
        ("100.64.0.0/16", "is not private"),
        ("169.254.0.0/16", "is not private"),
        ("10.0.0.0/8", "has the wrong size.*from /16 to /26"),
        ("172.16.0.0/15", "has the wrong size"),
        ("10.0.0.0/27", "has the wrong size"),
        ("10.0.0.5", "has the wrong size"),
    ],
)
def test_a_network_that_cannot_be_is_refused(text, why):
    with pytest.raises(OpsError, match=why):
        runtime_addresses.network_of(text)


def test_a_network_without_room_for_those_who_are_there_is_refused():
    assert runtime_addresses.network_of("10.0.0.0/26", 61).prefixlen == 26
    with pytest.raises(OpsError, match="has room for 61 users, not 62"):
        runtime_addresses.network_of("10.0.0.0/26", 62)


def test_private_networks_can_be_opened():
    given = ["192.168.50.10/31", "192.168.50.10", "100.64.0.0/10", "10.0.0.0/16"]
    assert set(map(str, runtime_addresses.opened(given, NETWORK))) == {
        "192.168.50.10/31",
        "100.64.0.0/10",
        "10.0.0.0/16",
    }
    assert runtime_addresses.opened([], NETWORK) == []


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("here", "is no IPv4 network"),
        ("192.168.1.1/24", "is no IPv4 network"),
        ("169.254.169.254/32", "is no private network"),
        ("127.0.0.0/8", "is no private network"),
        ("168.63.129.16/32", "is no private network"),
        ("0.0.0.0/0", "is no private network"),
        ("10.210.7.0/24", "overlaps the containers' own network"),
        ("10.0.0.0/8", "overlaps the containers' own network"),
    ],
)
def test_nothing_else_can_be_opened(text, why):
    with pytest.raises(OpsError, match=why):
        runtime_addresses.opened([text], NETWORK)
