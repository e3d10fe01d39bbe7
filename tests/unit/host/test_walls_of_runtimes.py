# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The walls around the users' containers, with real packets, in network namespaces of their own.

A namespace plays the host, one the world behind it, and two the containers. Each probe is also tried without the walls,
where it has to get through: otherwise it would prove nothing.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import re
import shlex
import shutil
import socket
import struct
import subprocess
import threading
import time
from ipaddress import IPv4Address, IPv4Network

import pytest
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.description.runtime_addresses import (
    address_of,
    gateway_of,
    mac_of,
)
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.host import (
    runtime_network,
    runtime_walls,
)
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.host.runtime_walls import BRIDGE

NETWORK = IPv4Network("10.210.0.0/16")
GATEWAY = str(gateway_of(NETWORK))
MINE, OTHERS = (str(address_of(NETWORK, number)) for number in (0, 1))
HOST = "203.0.113.1"
# Another bridge of the host, and what is on it, such as a container of somebody else.
HOST_LAN, GUEST = "192.168.77.1", "192.168.77.2"
WORLD = "203.0.113.2"
PUBLIC = "198.51.100.7"
OPENED, CLOSED, TAILNET = "192.168.50.10", "192.168.50.11", "100.64.0.9"
RESOLVER = "10.0.0.53"
METADATA, ALIBABA, AZURE = "169.254.169.254", "100.100.100.200", "168.63.129.16"
# On the bridge, in a container, and of the metadata service: nobody gives containers such addresses.
GATEWAY6, MINE6, METADATA6 = "fd00:7::1", "fd00:7::2", "fd00:ec2::254"
HOST6, WORLD6 = "fd00:8::1", "fd00:8::2"
PORT = 8642
# Seconds that a probe waits for what is to come, and for what is not: here a packet arrives at once, or never.
PATIENCE, GLANCE = 5.0, 0.25
CLONE_NEWNET = 0x40000000


class Namespace:
    """A network namespace, kept by a process that sleeps."""

    def __init__(self, stack: contextlib.ExitStack) -> None:
        process = subprocess.Popen(["unshare", "--net", "sleep", "600"], stderr=subprocess.DEVNULL)
        stack.callback(process.wait)
        stack.callback(process.kill)
        self.pid = process.pid
        before = os.readlink("/proc/self/ns/net")
        deadline = time.monotonic() + 5
        while process.poll() is None and os.readlink(f"/proc/{self.pid}/ns/net") == before:
            if time.monotonic() > deadline:
                pytest.fail("unshare makes no namespace")
            time.sleep(0.01)
        if process.poll() is not None:
            pytest.skip("SKIPPED, NOT PROVED: the walls of the containers, because we may make no network")

    def run(self, script: str, given: str = "") -> str:
        command = ["nsenter", f"--net=/proc/{self.pid}/ns/net", "sh", "-e", "-c", script]
        done = subprocess.run(command, input=given, text=True, capture_output=True, timeout=20)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def socket(self, *kind: int) -> socket.socket:
        """A socket of this namespace. It stays there: only the thread that makes it has to be in the namespace."""
        made = []

        def make() -> None:
            with open(f"/proc/{self.pid}/ns/net", "rb") as namespace:
                if ctypes.CDLL(None, use_errno=True).setns(namespace.fileno(), CLONE_NEWNET):
                    raise OSError(ctypes.get_errno(), "setns")
            made.append(socket.socket(*kind))

        thread = threading.Thread(target=make)
        thread.start()
        thread.join()
        made[0].settimeout(PATIENCE)
        return made[0]

    def listen(self, stack: contextlib.ExitStack, *ports: int) -> None:
        """Accept TCP connections: the kernel does, without anybody's accept(2)."""
        for port in ports:
            # This one takes connections of IPv4, too.
            server = stack.enter_context(self.socket(socket.AF_INET6, socket.SOCK_STREAM))
            server.bind(("::", port))
            server.listen(1000)

    def connects(self, address: str, port: int = PORT) -> bool:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with self.socket(family, socket.SOCK_STREAM) as client:
            return client.connect_ex((address, port)) == 0

    def pings(self, address: str) -> bool:
        """Whether *address* answers an echo request (RFC 792)."""
        with self.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as raw:
            body = struct.pack("!BBHHH", 8, 0, 0, 7, 1)
            raw.sendto(body[:2] + checksum(body) + body[4:], (address, 0))
            return any(packet[20] == 0 and sender[0] == address for packet, sender in received(raw))

    def sniff(self) -> socket.socket:
        """A socket that gets each frame that comes to this namespace."""
        return self.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.ntohs(3))


def received(sniffer: socket.socket):
    """What *sniffer* gets soon."""
    deadline = time.monotonic() + PATIENCE
    with contextlib.suppress(TimeoutError):
        while time.monotonic() < deadline:
            yield sniffer.recvfrom(4096)


def checksum(data: bytes) -> bytes:
    """RFC 1071."""
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return struct.pack("!H", ~total & 0xFFFF)


def octets(mac: str) -> bytes:
    return bytes.fromhex(mac.replace(":", ""))


def ipv4(source: str, target: str, text: bytes) -> bytes:
    """A UDP datagram to :data:`PORT`, without a checksum, in a packet."""
    datagram = struct.pack("!HHHH", 999, PORT, 8 + len(text), 0) + text
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(datagram), 1, 0, 64, 17, 0)
    ends = socket.inet_aton(source) + socket.inet_aton(target)
    return head[:10] + checksum(head + ends) + ends + datagram


def ipv6(text: bytes) -> bytes:
    """A UDP datagram to all nodes of the link."""
    datagram = struct.pack("!HHHH", 999, PORT, 8 + len(text), 0) + text
    ends = socket.inet_pton(socket.AF_INET6, "fe80::7"), socket.inet_pton(socket.AF_INET6, "ff02::1")
    return struct.pack("!IHBB", 0x60000000, len(datagram), 17, 64) + b"".join(ends) + datagram


def question(address: str, mac: str) -> bytes:
    """ARP: who has the gateway, asked by *address*."""
    asked = octets(mac) + socket.inet_aton(address) + bytes(6) + socket.inet_aton(GATEWAY)
    return struct.pack("!HHBBH", 1, 0x0800, 6, 4, 1) + asked


class Site:
    """The host with its containers, and the world."""

    def __init__(self, stack: contextlib.ExitStack) -> None:
        namespaces = [Namespace(stack) for _each in range(5)]
        self.host, self.world, self.mine, self.others, self.guest = namespaces
        self.host.run(
            f"""
            ip link set lo up
            ip link add {BRIDGE} type bridge
            ip address add {GATEWAY}/16 dev {BRIDGE}
            ip link set {BRIDGE} up
            ip link add lan type bridge; ip address add {HOST_LAN}/24 dev lan; ip link set lan up
            ip link add guest type veth peer name eth0 netns {self.guest.pid}; ip link set guest master lan up
            ip link add wan type veth peer name wan netns {self.world.pid}
            ip address add {HOST}/24 dev wan; ip link set wan up; ip route add default via {WORLD}
            ip address add {GATEWAY6}/64 dev {BRIDGE} nodad; ip address add {HOST6}/64 dev wan nodad
            ip -6 route add default via {WORLD6}
            echo 1 > /proc/sys/net/ipv4/ip_forward; echo 1 > /proc/sys/net/ipv6/conf/all/forwarding
            # As netavark does where a port is published.
            echo 1 > /proc/sys/net/ipv4/conf/{BRIDGE}/route_localnet
            # As netavark: answers come back to the host.
            nft add table ip others
            nft 'add chain ip others after {{ type nat hook postrouting priority srcnat; }}'
            nft 'add chain ip others between {{ type filter hook forward priority filter - 50; }}'
            nft add rule ip others after ip saddr {NETWORK} ip daddr != {NETWORK} masquerade
            nft add rule ip others between accept
            """
        )
        addresses = " ".join((PUBLIC, OPENED, CLOSED, TAILNET, RESOLVER, METADATA, ALIBABA, AZURE))
        self.world.run(
            f"""
            ip link set lo up; ip address add {WORLD}/24 dev wan; ip link set wan up
            for each in {addresses}; do ip address add $each/32 dev lo; done
            ip address add {WORLD6}/64 dev wan nodad; ip address add {METADATA6}/128 dev lo nodad
            ip -6 route add {MINE6} via {HOST6}; ip route add {NETWORK} via {HOST}; ip route add {GUEST} via {HOST}
            """
        )
        self.guest.run(
            f"""
            ip address add {GUEST}/24 dev eth0; ip link set eth0 up; ip route add default via {HOST_LAN}
            """
        )
        for number, container in enumerate((self.mine, self.others)):
            address = address_of(NETWORK, number)
            self.host.run(
                f"""
                ip link add veth{number} type veth peer name eth0 netns {container.pid}
                ip link set veth{number} master {BRIDGE} up
                """
            )
            container.run(
                f"""
                ip link set lo up
                ip link set eth0 address {mac_of(address)} up
                ip address add {address}/16 dev eth0; ip route add default via {GATEWAY}
                """
            )
        self.mine.run(f"ip address add {MINE6}/64 dev eth0 nodad; ip -6 route add default via {GATEWAY6}")
        for each in namespaces:
            each.listen(stack, PORT, 53)

    @property
    def bridge_mac(self) -> str:
        return json.loads(self.host.run(f"ip -json link show {BRIDGE}"))[0]["address"]

    def wall(self, egress: tuple[str, ...] = (f"{OPENED}/32",)) -> None:
        rules = runtime_walls.render(NETWORK, egress, [IPv4Address(RESOLVER), IPv4Address(METADATA)])
        self.host.run(f"nft -f -; ip neighbour flush dev {BRIDGE}", rules)

    def tear_down_walls(self) -> None:
        # A try without walls may have told the host a lie about a container's MAC address.
        self.host.run(f"ip neighbour flush dev {BRIDGE}")
        for family in runtime_walls.TABLE.families:
            table = f"{family} {runtime_walls.TABLE.name}"
            self.host.run(f"nft add table {table}; nft delete table {table}")

    def gets_through(
        self, payload: bytes, *, to: Namespace, kind: int = 0x0800, mac: str = "", at: str = "", answer: bytes = b""
    ) -> bool:
        """Whether a frame that my container makes by hand comes to another namespace.

        :param kind: the Ethernet type of *payload*
        :param mac: of the sender, in place of my container's own
        :param at: MAC address of the target, in place of the bridge's
        :param answer: what to wait for there, in place of *payload*'s end
        """
        frame = octets(at or self.bridge_mac) + octets(mac or mac_of(IPv4Address(MINE))) + struct.pack("!H", kind)
        with to.sniff() as sniffer, self.mine.sniff() as sender:
            sender.bind(("eth0", 0))
            sender.send(frame + payload)
            wanted = answer or payload[-8:]
            outgoing = 4
            return any(wanted in seen and where[2] != outgoing for seen, where in received(sniffer))

    def host_gets(self, target: str) -> bool:
        """Whether a datagram to *target* by way of the bridge comes to a program of the host."""
        with self.host.socket(socket.AF_INET, socket.SOCK_DGRAM) as server, self.mine.sniff() as sender:
            server.bind(("0.0.0.0", PORT))
            sender.bind(("eth0", 0))
            head = octets(self.bridge_mac) + octets(mac_of(IPv4Address(MINE))) + b"\x08\x00"
            sender.send(head + ipv4(MINE, target, b"loopback"))
            return any(text == b"loopback" for text, _sender in received(server))


@pytest.fixture(scope="module", params=["0", "1"], ids=["br_netfilter off", "br_netfilter on"])
def site(request):
    for tool in ("unshare", "nsenter", "ip", "nft"):
        if shutil.which(tool) is None:
            pytest.skip(f"SKIPPED, NOT PROVED: the walls of the containers, because there is no {tool}")
    if os.geteuid() != 0:
        pytest.skip("SKIPPED, NOT PROVED: the walls of the containers, because only root makes networks")
    with contextlib.ExitStack() as stack:
        made = Site(stack)
        switch = "/proc/sys/net/bridge/bridge-nf-call-iptables"
        there = made.host.run(f"[ ! -e {switch} ] || {{ echo {request.param} > {switch}; echo yes; }}")
        if request.param == "1" and not there:
            pytest.skip("SKIPPED, NOT PROVED: the walls where frames of bridges are packets, without br_netfilter")
        yield made


OUTSIDER = "02:11:22:33:44:55"
EVERYBODY = "ff:ff:ff:ff:ff:ff"
OTHERS_MAC = mac_of(IPv4Address(OTHERS))
# What a container tries; each is closed by the walls, and open without.
TRIES = {
    "another container, TCP": lambda site: site.mine.connects(OTHERS),
    "another container, ping": lambda site: site.mine.pings(OTHERS),
    "another container, from an address that is not mine": lambda site: site.gets_through(
        ipv4("10.210.0.99", OTHERS, b"not mine"), to=site.others, at=OTHERS_MAC
    ),
    "another container, from a MAC address that is not mine": lambda site: site.gets_through(
        ipv4(MINE, OTHERS, b"another!"), to=site.others, at=OTHERS_MAC, mac=OUTSIDER
    ),
    "another container, by way of the bridge": lambda site: site.gets_through(
        ipv4(MINE, OTHERS, b"by route"), to=site.others
    ),
    "all containers": lambda site: site.gets_through(
        ipv4(MINE, "255.255.255.255", b"everyone"), to=site.others, at=EVERYBODY
    ),
    "all containers, IPv6": lambda site: site.gets_through(
        ipv6(b"everyone"), to=site.others, at="33:33:00:00:00:01", kind=0x86DD
    ),
    "another container, no protocol": lambda site: site.gets_through(
        b"anything at all", to=site.others, at=OTHERS_MAC, kind=0x88B5
    ),
    "another container's ARP": lambda site: site.gets_through(
        question(MINE, mac_of(IPv4Address(MINE))), to=site.others, at=OTHERS_MAC, kind=0x0806
    ),
    "the bridge's address": lambda site: site.mine.connects(GATEWAY),
    "the bridge's address, ping": lambda site: site.mine.pings(GATEWAY),
    "the host's DNS": lambda site: site.mine.connects(GATEWAY, 53),
    "the host's public address": lambda site: site.mine.connects(HOST),
    "another interface of the host": lambda site: site.mine.connects(HOST_LAN),
    "the host's loopback": lambda site: site.host_gets("127.0.0.1"),
    "the host, IPv6": lambda site: site.mine.connects(GATEWAY6),
    "the metadata service, IPv6": lambda site: site.mine.connects(METADATA6),
    "the metadata service": lambda site: site.mine.connects(METADATA),
    "Alibaba's metadata service": lambda site: site.mine.connects(ALIBABA),
    "Azure's wire server": lambda site: site.mine.connects(AZURE),
    "a neighbour": lambda site: site.mine.connects(CLOSED),
    "a neighbour, ping": lambda site: site.mine.pings(CLOSED),
    "a neighbour in the tailnet": lambda site: site.mine.connects(TAILNET),
    "a neighbour's DNS": lambda site: site.mine.connects(CLOSED, 53),
    "another port of the resolver": lambda site: site.mine.connects(RESOLVER),
    "the world, from an address outside of the network": lambda site: site.gets_through(
        ipv4("203.0.113.77", PUBLIC, b"not mine"), to=site.world
    ),
    "the world, from the bridge's address": lambda site: site.gets_through(
        ipv4("10.210.255.255", PUBLIC, b"not mine"), to=site.world
    ),
    "the world, from another MAC address": lambda site: site.gets_through(
        ipv4(MINE, PUBLIC, b"not mine"), to=site.world, mac=OUTSIDER
    ),
    "the host's ARP, for an address outside of the network": lambda site: site.gets_through(
        question("203.0.113.77", mac_of(IPv4Address(MINE))),
        to=site.mine,
        kind=0x0806,
        answer=b"\x08\x00\x06\x04\x00\x02",
    ),
    "the host's ARP, for another MAC address": lambda site: site.gets_through(
        question(MINE, OUTSIDER), to=site.mine, kind=0x0806, answer=b"\x08\x00\x06\x04\x00\x02"
    ),
    "from the world to a container": lambda site: site.world.connects(MINE),
}


@pytest.mark.parametrize("name", TRIES)
def test_a_container_does_not_reach(site, name, monkeypatch):
    site.tear_down_walls()
    assert TRIES[name](site), "the try itself fails, so it proves nothing"
    site.wall()
    monkeypatch.setitem(globals(), "PATIENCE", GLANCE)
    assert not TRIES[name](site)


def test_what_is_closed_is_refused_at_once(site):
    """An agent that tries should not wait for minutes."""
    site.wall()
    for address in (GATEWAY, HOST, METADATA, CLOSED):
        with site.mine.socket(socket.AF_INET, socket.SOCK_STREAM) as client, pytest.raises(ConnectionRefusedError):
            client.connect((address, PORT))


def test_a_container_reaches_the_world_and_its_resolvers(site):
    site.wall()
    assert site.mine.connects(PUBLIC)
    assert site.mine.pings(PUBLIC)
    assert site.mine.connects(RESOLVER, 53)
    # Google's resolver has the address of its metadata service.
    assert site.mine.connects(METADATA, 53)


def test_one_who_opens_too_many_connections_takes_them_from_nobody(site, monkeypatch):
    monkeypatch.setattr(runtime_walls, "_CONNECTIONS", 5)
    site.wall()
    with contextlib.ExitStack() as stack:

        def connects(namespace):
            client = stack.enter_context(namespace.socket(socket.AF_INET, socket.SOCK_STREAM))
            return client.connect_ex((PUBLIC, PORT)) == 0

        assert [connects(site.mine) for _each in range(7)] == [True] * 5 + [False] * 2
        assert connects(site.others)


def test_what_is_declared_open_is_open_and_nothing_beside_it(site):
    site.wall(egress=())
    assert not site.mine.connects(OPENED)
    site.wall(egress=(f"{OPENED}/32", "192.168.50.10/31", "100.64.0.0/10"))
    assert site.mine.connects(OPENED)
    assert site.mine.connects(TAILNET)
    assert not site.mine.connects(ALIBABA)
    site.wall()
    assert site.mine.connects(OPENED)
    assert not site.mine.connects(CLOSED)


def test_the_host_reaches_a_container_and_gets_its_answers(site):
    site.wall()
    assert site.host.connects(MINE)
    assert site.host.connects(OTHERS)
    assert site.host.pings(MINE)


def test_a_container_goes_and_the_others_find_the_bridge(site):
    site.wall()
    # Until the bridge has an address of its own, it has the lowest one of its ports.
    come = f"ip link add goes type veth peer name went; ip link set goes address 00:00:00:00:00:07 master {BRIDGE} up"
    commands = "; ".join(map(shlex.join, runtime_network.pinning(NETWORK)))
    for pinned in (False, True):
        site.host.run(come)
        site.mine.run("ip neighbour flush dev eth0")
        assert site.mine.connects(PUBLIC)
        if pinned:
            site.host.run(commands)
            assert site.mine.connects(PUBLIC), "it knows the bridge by its address before"
        before = site.bridge_mac
        site.host.run("ip link delete goes")
        # With another one, who remembers it may wait for most of a minute, but need not.
        assert (site.bridge_mac == before) == pinned
    assert site.mine.connects(PUBLIC)


def test_everybody_else_on_the_host_is_left_alone(site):
    site.wall()
    assert site.host.connects(HOST_LAN)
    assert site.world.connects(HOST)
    assert site.world.connects(GUEST)
    assert site.guest.connects(HOST)
    assert site.guest.connects(CLOSED)


def test_a_request_to_an_agent_that_is_gone_never_leaves_the_host(site):
    """With the last container, its bridge goes; the default route would take the request, and the agent's key."""
    site.wall()
    site.host.run(f"ip link set {BRIDGE} down")
    try:
        # The world has a way back, and somebody there who answers.
        site.world.run(f"ip address add {MINE}/32 dev lo")
        assert not site.host.connects(MINE)
        site.tear_down_walls()
        assert site.host.connects(MINE)
    finally:
        site.world.run(f"ip address del {MINE}/32 dev lo")
        site.host.run(f"ip link set {BRIDGE} up")


def test_the_rules_name_no_protocol_that_only_a_database_knows():
    """A small host has no /etc/protocols."""
    rules = runtime_walls.render(NETWORK, [f"{OPENED}/32"], [IPv4Address(RESOLVER)])
    assert not re.search(r"\b(tcp|udp|icmp|icmpv6)\b", rules)
