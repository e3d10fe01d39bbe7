# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The addresses of the users' containers: what may be declared, and what follows from a user's number."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, collapse_addresses

from ..system.errors import OpsError

# RFC 1918.
PRIVATE = (IPv4Network("10.0.0.0/8"), IPv4Network("172.16.0.0/12"), IPv4Network("192.168.0.0/16"))
# Tailnets, and networks of providers (RFC 6598).
SHARED = IPv4Network("100.64.0.0/10")
# The prefixes of a declared network: the longest prefix has room for 61 users.
SHORTEST, LONGEST = 16, 26
# The network itself, the bridge's address and the address for broadcasts belong to no user.
_RESERVED = 3
_WHERE = "network"


def network_of(text: str, numbers: int = 0) -> IPv4Network:
    """The declared network.

    :param text: such as ``10.210.0.0/16``
    :param numbers: how many numbers of users were given
    :raises OpsError: it is no private IPv4 network, or has the wrong size
    """
    try:
        network = IPv4Network(text)
    except ValueError as error:
        raise OpsError(f"is no IPv4 network ({error})", where=_WHERE, fix="declare one such as 10.210.0.0/16") from None
    if not any(network.subnet_of(private) for private in PRIVATE):
        private = ", ".join(map(str, PRIVATE))
        raise OpsError(f"{network} is not private", where=_WHERE, fix=f"declare a part of {private}")
    if not SHORTEST <= network.prefixlen <= LONGEST:
        fix = f"declare a network from /{SHORTEST} to /{LONGEST}"
        raise OpsError(f"{network} has the wrong size", where=_WHERE, fix=fix)
    if numbers > room_of(network):
        fix = "declare a larger network"
        raise OpsError(f"{network} has room for {room_of(network)} users, not {numbers}", where=_WHERE, fix=fix)
    return network


def room_of(network: IPv4Network) -> int:
    """How many users have an address in *network*."""
    return network.num_addresses - _RESERVED


def gateway_of(network: IPv4Network) -> IPv4Address:
    """The address of the bridge."""
    return network[1]


def address_of(network: IPv4Network, number: int) -> IPv4Address:
    """The address of the user with this *number*, which counts from 0.

    :raises OpsError: the network has no room for it
    """
    if not 0 <= number < room_of(network):
        fix = "declare a larger network"
        raise OpsError(f"{network} has no address for the user with the number {number}", where=_WHERE, fix=fix)
    return network[number + 2]


def mac_of(address: IPv4Address) -> str:
    """The MAC address of the container with this *address*.

    podman 4.3 would choose another one at each start, and the host would send to the old one for as long as it is in
    its ARP cache.
    """
    return "02:68:" + address.packed.hex(":")


def opened(egress: Iterable[str], network: IPv4Network) -> list[IPv4Network]:
    """The private networks that are declared open, without overlaps, which nft refuses.

    :raises OpsError: one is no private network, or is the containers' own
    """
    found = []
    for text in egress:
        try:
            each = IPv4Network(text)
        except ValueError as error:
            raise OpsError(f"is no IPv4 network ({error})", where="egress", fix="use one such as 10.0.0.5/32") from None
        if not any(each.subnet_of(private) for private in (*PRIVATE, SHARED)):
            fix = "leave it out: public addresses are open, and no others can be opened"
            raise OpsError(f"{each} is no private network", where="egress", fix=fix)
        if each.overlaps(network):
            fix = "leave it out: containers never reach each other"
            raise OpsError(f"{each} overlaps the containers' own network {network}", where="egress", fix=fix)
        found.append(each)
    return list(collapse_addresses(found))
