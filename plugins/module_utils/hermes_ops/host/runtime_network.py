# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The network of the users' containers: podman's bridge, and the walls around it.

podman is given the network as a file. ``podman network create`` of podman 4.3 cannot name the bridge
(``--interface-name`` came later), and the walls know the bridge by its name. podman 4.3.1 and 5.4.2 read the same file
(containers/common v0.50.1 and v0.62.3, libnetwork/netavark/network.go: loadNetworks, parseNetwork); the network has to
have the file's name, and an id of 64 characters.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from typing import Any

from ..description.runtime_addresses import gateway_of, mac_of
from ..system.errors import OpsError
from ..system.files import read_text
from ..system.plan import Plan
from ..system.process import run
from ..system.services import plan_files_gone
from ..system.systemd import Manager
from . import runtime_walls
from .runtime_walls import BRIDGE

FILE = f"/etc/containers/networks/{BRIDGE}.json"
# Exists while a container runs: podman removes the bridge with the last one.
IN_USE = f"/sys/class/net/{BRIDGE}"
# Where podman takes a container's resolvers from: the second in place of systemd-resolved's stub, the third in place of
# NetworkManager's (containers/common v0.62.3, libnetwork/resolvconf/resolv.go: getDefaultResolvConf).
RESOLVERS = (
    "/etc/resolv.conf",
    "/run/systemd/resolve/resolv.conf",
    "/run/NetworkManager/no-stub-resolv.conf",
)
# A route with a shorter prefix leads to most of the world (a VPN has 0.0.0.0/1): it is a default route.
_DEFAULT_ROUTE = 8


@dataclass(frozen=True)
class HostNetworks:
    """The IPv4 addresses and routes of this host.

    :param addresses: each with its interface's name
    :param routes: where each leads to, with its interface's name, or "" if it has none
    """

    addresses: tuple[tuple[str, IPv4Interface], ...]
    routes: tuple[tuple[str, IPv4Network], ...]


def podman_network(network: IPv4Network) -> str:
    """The content of :data:`FILE`."""
    declared = {
        "name": BRIDGE,
        # The same one each time, so that the file changes only with what is declared.
        "id": hashlib.sha256(BRIDGE.encode()).hexdigest(),
        "driver": "bridge",
        "network_interface": BRIDGE,
        "subnets": [{"subnet": str(network), "gateway": str(gateway_of(network))}],
        "ipv6_enabled": False,
        "internal": False,
        # podman's DNS would be a server on the host, which the walls close.
        "dns_enabled": False,
        "ipam_options": {"driver": "host-local"},
    }
    return json.dumps(declared, indent=2) + "\n"


def host_networks() -> HostNetworks:
    """Ask the kernel, by ip(8).

    :raises OpsError: ip is missing, or failed
    """
    addresses = [
        (link["ifname"], IPv4Interface(f"{each['local']}/{each['prefixlen']}"))
        for link in _ip("address")
        for each in link.get("addr_info", ())
    ]
    routes = [
        (route.get("dev", ""), IPv4Network(route["dst"]))
        for route in _ip("route", "show", "table", "all")
        if route["dst"] != "default"
    ]
    return HostNetworks(tuple(addresses), tuple(routes))


def _ip(*arguments: str) -> list[dict[str, Any]]:
    # Without an entry, ip prints nothing at all, or a list of empty objects.
    return [entry for entry in json.loads(run(["ip", "-4", "-json", *arguments], timeout=20).stdout or "[]") if entry]


def check_free(network: IPv4Network, host: HostNetworks) -> None:
    """:raises OpsError: the host uses *network* otherwise, or containers still run in another one"""
    ours = IPv4Interface(f"{gateway_of(network)}/{network.prefixlen}")
    for interface, address in host.addresses:
        if interface == BRIDGE and address != ours:
            fix = "stop the agents of all users, then converge again"
            raise OpsError(f"cannot become {network} while agents run in {address.network}", where="network", fix=fix)
    others = [(interface, address.network) for interface, address in host.addresses] + list(host.routes)
    for interface, other in others:
        if interface != BRIDGE and other.prefixlen >= _DEFAULT_ROUTE and other.overlaps(network):
            reached = f"over {interface}" if interface else "by a route"
            fix = "declare a network that nothing else uses"
            raise OpsError(f"{network} overlaps {other}, which the host reaches {reached}", where="network", fix=fix)


def resolvers() -> list[IPv4Address]:
    """The resolvers that podman may give to a container on this host."""
    found = set()
    for path in RESOLVERS:
        for line in (read_text(path) or "").splitlines():
            words = line.split()
            if len(words) > 1 and words[0] == "nameserver":
                found.add(words[1])
    addresses = (_address(text) for text in found)
    # podman leaves out those on loopback.
    return sorted(address for address in addresses if address and not address.is_loopback)


def _address(text: str) -> IPv4Address | None:
    """None: it is none of IPv4, and containers have no IPv6."""
    try:
        return IPv4Address(text)
    except ValueError:
        return None


def check_resolvers(named: Iterable[IPv4Address], host: HostNetworks) -> None:
    """:raises OpsError: a resolver is the host itself, of which the containers may reach nothing"""
    own = {address.ip for _name, address in host.addresses}
    for resolver in named:
        if resolver in own:
            fix = "let the host ask a resolver on another address; one on loopback is fine, as podman leaves it out"
            raise OpsError(f"{resolver} is this host, which containers may not reach", where=RESOLVERS[0], fix=fix)


def pinning(network: IPv4Network) -> list[list[str]]:
    """The commands that keep the bridge's MAC address the same; for after each start of a container, before its work.

    netavark 1.4.0 (of podman 4.3.1) lets the bridge have the address of one of its ports, so it changes as containers
    come and go (src/network/bridge.rs; later versions pin it at its creation). The other containers would then send to
    an address that nobody has, until their ARP caches forget it.
    """
    return [
        # Tells containers that know the bridge already of its new address.
        ["sysctl", "--quiet", f"net.ipv4.conf.{BRIDGE}.arp_notify=1"],
        ["ip", "link", "set", "dev", BRIDGE, "address", mac_of(gateway_of(network))],
    ]


def plan_network(network: IPv4Network, egress: Iterable[str], manager: Manager) -> Plan:
    """Compare the host with one that has the network *network* and its walls.

    :param egress: private networks that the containers may reach, such as ``192.168.1.10/32``
    :raises OpsError: the host uses the network otherwise, or *egress* is not valid
    """
    host, named = host_networks(), resolvers()
    check_free(network, host)
    check_resolvers(named, host)
    # The walls stand before a container can run.
    plan = runtime_walls.TABLE.plan_present(runtime_walls.render(network, egress, named), manager)
    # Readable by all, as podman writes it.
    if plan.add_file(FILE, podman_network(network), mode=0o644):
        plan.actions.append(lambda: confirm(network))
    return plan


def confirm(network: IPv4Network) -> None:
    """:raises OpsError: podman does not see the network, as without netavark"""
    done = run(["podman", "network", "inspect", BRIDGE], timeout=60, check=False)
    declared = json.loads(podman_network(network))
    seen = json.loads(done.stdout or "[]") if done.ok else []
    if not seen or any(seen[0].get(key) != value for key, value in declared.items()):
        reason = "sees another network" if done.ok else f"does not take it: {done.last_words}"
        fix = "let podman use netavark, which this shows: podman info --format '{{.Host.NetworkBackend}}'"
        raise OpsError(f"podman {reason}", where=FILE, fix=fix)


def plan_no_network(manager: Manager) -> Plan:
    """Compare the host with one that has neither the network nor its walls.

    :raises OpsError: when it is applied: a container still runs in it
    """
    plan = Plan(actions=[_refuse_use])
    plan_files_gone(plan, [FILE])
    return plan.join(runtime_walls.TABLE.plan_absent(manager))


def _refuse_use() -> None:
    if os.path.exists(IN_USE):
        fix = "stop the agents of all users first"
        raise OpsError("is in use, and its containers must not lose their walls", where=f"network {BRIDGE}", fix=fix)
