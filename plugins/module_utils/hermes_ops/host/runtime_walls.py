# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The walls around the users' containers: rules of nftables for the bridge that podman puts them on.

A container reaches public addresses, its resolvers, and the private networks that are declared open. It reaches no
other container, no address of the host, no metadata service, and no neighbour. Only the host opens connections to it.

podman has rules of its own in the same hooks (netavark, in the table ``filter`` of iptables or in one of nftables), and
so may others. No priority has to be won against them: a packet that one table accepts still goes through the others,
and a packet that one drops is gone. Only a rule of others that drops could break the network; none can open a wall.

The rules do not depend on podman giving the containers no capability, but for one thing: with CAP_NET_RAW, a container
could take another one's MAC address, or send broadcasts to the others, one way, from a MAC address that is not its own.
nftables can match the name of a bridge in the family bridge, which would end the latter; not every kernel has that
(CONFIG_NFT_BRIDGE_META).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address, IPv4Network

from ..description.runtime_addresses import PRIVATE, SHARED, mac_of, opened
from . import settings
from .nftables import Table

# The network of podman, and its bridge.
BRIDGE = "hermes-users"
TABLE = Table(
    name="hermes_users",
    unit="hermes-walls.service",
    description="Walls around the containers of Hermes' users",
    rules=os.path.join(settings.DIRECTORY, "walls.nft"),
    families=("inet", "bridge", "arp"),
)
# At once, of one container, to the world: a small host's kernel has room for 65,536 (nf_conntrack_max).
_CONNECTIONS = 4096
# Never opened but for a resolver: services of clouds for their machines, some of which hand out credentials. Link-local
# addresses (most clouds), Alibaba's within the shared ones, and Azure's wire server, which looks public.
_CLOUD = (IPv4Network("169.254.0.0/16"), IPv4Network("100.100.100.200/32"), IPv4Network("168.63.129.16/32"))
# Networks that are not the public Internet (IANA's registry of special-purpose addresses; multicast; reserved).
_NOT_PUBLIC = (
    *PRIVATE,
    SHARED,
    IPv4Network("0.0.0.0/8"),
    IPv4Network("127.0.0.0/8"),
    IPv4Network("192.0.0.0/24"),
    IPv4Network("198.18.0.0/15"),
    IPv4Network("224.0.0.0/3"),
)


def render(network: IPv4Network, egress: Iterable[str], resolvers: Iterable[IPv4Address]) -> str:
    """The rules for the containers in *network*.

    :param egress: see :func:`opened`
    :param resolvers: addresses of which port 53 is open
    :raises OpsError: see :func:`opened`
    """
    first, last = network[2], network[-2]
    addresses, macs = f"{first}-{last}", f"{mac_of(first)}-{mac_of(last)}"
    # A rule with "ip" matches no IPv6, which the containers do not have: it ends at the last rule of each chain.
    inet = {
        "prerouting": [
            f'iifname != "{BRIDGE}" accept',
            f"ip saddr {addresses} ether saddr {macs} accept",
            "drop",
        ],
        "input": [
            f'iifname != "{BRIDGE}" accept',
            # Answers to the host, and nothing of a connection that a container opened before the walls stood.
            "ct state established,related ct direction reply accept",
            # Unlike a drop, a reject is an answer: what the agent tries ends at once.
            "reject",
        ],
        "forward": [
            # Also what a container sends to another one by way of the bridge's address.
            f'iifname != "{BRIDGE}" oifname "{BRIDGE}" ct state established,related ct direction reply accept',
            f'oifname "{BRIDGE}" drop',
            f'iifname != "{BRIDGE}" accept',
            # The kernel's table of connections is the whole host's: one who fills it would cut off all.
            f"ct state new meter connections size 65535 {{ ip saddr ct count over {_CONNECTIONS} }} reject",
            # TCP and UDP, as numbers: a small host has no /etc/protocols.
            *_accept(sorted(set(resolvers)), "meta l4proto { 6, 17 } th dport 53"),
            f"ip daddr {_set(_CLOUD)} reject",
            *_accept(opened(egress, network)),
            f"ip daddr != {_set(_NOT_PUBLIC)} accept",
            "reject",
        ],
        "output": [
            # The bridge goes with its last container. A request to an agent that has just ended, with the agent's key,
            # would then leave by the default route.
            f'ip daddr {network} oifname != {{ "lo", "{BRIDGE}" }} reject',
        ],
    }
    bridge = {
        # From one port of a bridge to another. Without CONFIG_NFT_BRIDGE_META, the containers are known by their MAC
        # addresses. A frame to one is dropped whatever its sender claims to be.
        "forward": [f"ether saddr {macs} drop", f"ether daddr {macs} drop"],
    }
    arp = {
        "input": [
            f'iifname != "{BRIDGE}" accept',
            f"arp saddr ip {addresses} arp saddr ether {macs} accept",
            "drop",
        ],
    }
    return TABLE.render(inet=inet, bridge=bridge, arp=arp)


def _accept(addresses: Sequence[IPv4Address | IPv4Network], of_these: str = "") -> list[str]:
    """The rule that accepts packets to *addresses*; none without addresses, because nft refuses an empty set.

    :param of_these: what else has to be true of a packet
    """
    return [" ".join(filter(None, [f"ip daddr {_set(addresses)}", of_these, "accept"]))] if addresses else []


def _set(addresses: Iterable[IPv4Address | IPv4Network]) -> str:
    return f"{{ {', '.join(map(str, addresses))} }}"
