# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The network of the users' containers, as podman and the host see it. Its walls: test_walls_of_runtimes.py."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from pathlib import Path

import pytest
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.host import (
    nftables,
    runtime_network,
    runtime_walls,
)
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.errors import OpsError
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.files import Account
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.process import Completed
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.systemd import Manager

NETWORK = IPv4Network("10.210.0.0/16")
BRIDGE = runtime_walls.BRIDGE
# As `ip -4 -json` of iproute2 6.1 prints them, with what else it says left out.
ADDRESSES = """[
    {"ifname": "lo", "addr_info": [{"local": "127.0.0.1", "prefixlen": 8}]}, {},
    {"ifname": "eth0", "addr_info": [{"local": "192.168.1.5", "prefixlen": 24}, {"local": "10.8.0.1", "prefixlen": 32}]}
]"""
ROUTES = """[
    {"dst": "default", "gateway": "192.168.1.1", "dev": "eth0"}, {"dst": "0.0.0.0/1", "dev": "tun0"},
    {"dst": "192.168.1.0/24", "dev": "eth0"}, {"type": "local", "dst": "192.168.1.5", "dev": "eth0", "table": "local"},
    {"type": "blackhole", "dst": "172.16.0.0/12", "flags": []}
]"""


@pytest.fixture
def host(tmp_path, monkeypatch, systemd):
    """A host with podman, which sees the network's file, and with nft; what ``ip`` prints; its commands in order."""
    monkeypatch.setattr(runtime_walls, "TABLE", replace(runtime_walls.TABLE, rules=str(tmp_path / "walls.nft")))
    monkeypatch.setattr(runtime_network, "FILE", str(tmp_path / "networks" / f"{BRIDGE}.json"))
    monkeypatch.setattr(runtime_network, "RESOLVERS", (str(tmp_path / "resolv.conf"), str(tmp_path / "resolved.conf")))
    monkeypatch.setattr(runtime_network, "IN_USE", str(tmp_path / "bridge"))
    monkeypatch.setattr(nftables, "UNIT_DIRECTORY", str(tmp_path))
    monkeypatch.setattr(nftables, "NFT", "/bin/true")
    (tmp_path / "resolv.conf").write_text("nameserver 192.168.1.1\n")
    systemd.path, systemd.calls = tmp_path, []
    systemd.says = {"address": ADDRESSES, "route": ROUTES}

    def run(argv, **_options):
        systemd.calls.append(list(argv))
        if argv[0] == "ip":
            return Completed(tuple(argv), 0, systemd.says[argv[3]], "")
        if argv[0] == "podman":
            seen = [json.loads(Path(runtime_network.FILE).read_text())]
            return systemd.says.get("podman") or Completed(tuple(argv), 0, json.dumps(seen), "")
        return Completed(tuple(argv), 0, "", "")

    monkeypatch.setattr(runtime_network, "run", run)
    monkeypatch.setattr(nftables, "run", run)
    return systemd


def plan(egress=(), network=NETWORK):
    return runtime_network.plan_network(network, egress, Manager("system", Account.current()))


def no_plan():
    return runtime_network.plan_no_network(Manager("system", Account.current()))


def settled(host):
    plan().apply()
    host.states[runtime_walls.TABLE.unit] = {"ActiveState": "active", "UnitFileState": "enabled", "LoadState": "loaded"}


def test_podman_is_told_of_the_bridge_and_of_nothing_that_it_would_open():
    text = runtime_network.podman_network(NETWORK)
    assert text == runtime_network.podman_network(NETWORK)
    told = json.loads(text)
    # As podman reads it: the file's name without its end, and 64 characters.
    assert told["name"] + ".json" == os.path.basename(runtime_network.FILE)
    assert len(told["id"]) == 64
    # IFNAMSIZ, with the byte that ends it (Linux, include/uapi/linux/if.h).
    assert len(told["network_interface"]) < 16
    assert told["subnets"] == [{"subnet": "10.210.0.0/16", "gateway": "10.210.0.1"}]
    assert told["dns_enabled"] is False
    assert told["ipv6_enabled"] is False


def test_the_walls_stand_before_podman_knows_the_network(host):
    before = plan()
    files = [difference.what for difference in before.differences]
    assert files[0] == runtime_walls.TABLE.rules
    assert files[-1] == runtime_network.FILE
    before.apply()
    assert f"start {runtime_walls.TABLE.unit}" in host.verbs
    assert host.calls[-1] == ["podman", "network", "inspect", BRIDGE]
    assert os.stat(runtime_network.FILE).st_mode & 0o777 == 0o644


def test_the_same_again_is_no_change_and_asks_podman_nothing(host):
    settled(host)
    host.calls.clear()
    assert not plan().changed
    assert not any(call[0] == "podman" for call in host.calls)


def test_another_resolver_means_other_rules(host):
    settled(host)
    (host.path / "resolv.conf").write_text("nameserver 192.168.1.2\n")
    after = plan()
    assert [each.what for each in after.differences] == [
        runtime_walls.TABLE.rules,
        f"{runtime_walls.TABLE.unit} restart",
    ]
    assert "192.168.1.2 } meta l4proto { 6, 17 } th dport 53 accept" in after.differences[0].after


@pytest.mark.parametrize("family", runtime_walls.TABLE.families)
def test_walls_of_which_a_part_was_flushed_are_a_finding_and_come_back(host, monkeypatch, family):
    settled(host)
    assert not runtime_walls.TABLE.lost()

    def run(argv, **_options):
        return Completed(tuple(argv), int(argv[1:4] == ["list", "table", family]), "", "")

    monkeypatch.setattr(nftables, "run", run)
    assert runtime_walls.TABLE.lost()
    plan().apply()
    assert host.verbs[-1] == f"restart {runtime_walls.TABLE.unit}"


def test_podman_that_does_not_see_the_network_is_an_error(host):
    host.says["podman"] = Completed(("podman",), 125, "[]", "Error: unable to find network hermes-users\n")
    with pytest.raises(OpsError, match=r"podman does not take it: .*unable to find.*netavark"):
        plan().apply()
    other = json.loads(runtime_network.podman_network(IPv4Network("10.211.0.0/16")))
    host.says["podman"] = Completed(("podman",), 0, json.dumps([other]), "")
    with pytest.raises(OpsError, match="sees another network"):
        plan(network=IPv4Network("10.212.0.0/16")).apply()


def test_the_resolvers_are_those_of_ipv4_that_are_not_on_loopback(host):
    text = "# nameserver 1.1.1.1\nnameserver 127.0.0.53\nnameserver ::1\nnameserver\nnameserver 10.0.0.2 # the VPC's\n"
    (host.path / "resolv.conf").write_text(text + "search nameserver\nnameserver } accept\nnameserver fe80::1%eth0\n")
    (host.path / "resolved.conf").write_text("nameserver 10.0.0.2\nnameserver 9.9.9.9\n")
    assert runtime_network.resolvers() == [IPv4Address("9.9.9.9"), IPv4Address("10.0.0.2")]
    for path in runtime_network.RESOLVERS:
        os.unlink(path)
    assert runtime_network.resolvers() == []
    assert "dport 53" not in runtime_walls.render(NETWORK, [], [])


def test_a_host_that_is_its_own_resolver_is_refused(host):
    (host.path / "resolv.conf").write_text("nameserver 192.168.1.5\n")
    with pytest.raises(OpsError, match=r"192.168.1.5 is this host"):
        plan()


def test_what_the_kernel_says_is_read(host):
    found = runtime_network.host_networks()
    assert ("eth0", IPv4Interface("192.168.1.5/24")) in found.addresses
    assert ("lo", IPv4Interface("127.0.0.1/8")) in found.addresses
    assert ("eth0", IPv4Network("192.168.1.5/32")) in found.routes
    assert ("", IPv4Network("172.16.0.0/12")) in found.routes
    host.says["address"] = host.says["route"] = ""
    assert runtime_network.host_networks() == runtime_network.HostNetworks((), ())


@pytest.mark.parametrize(
    ("network", "why"),
    [
        ("192.168.1.0/26", "overlaps 192.168.1.0/24, which the host reaches over eth0"),
        ("192.168.0.0/16", "overlaps 192.168.1.0/24"),
        ("10.8.0.0/16", "overlaps 10.8.0.1/32, which the host reaches over eth0"),
        ("172.20.0.0/16", "overlaps 172.16.0.0/12, which the host reaches by a route"),
    ],
)
def test_a_network_that_the_host_has_is_refused(host, network, why):
    with pytest.raises(OpsError, match=why):
        plan(network=IPv4Network(network))


def test_the_bridge_itself_is_no_conflict_but_another_network_on_it_is(host):
    address = {"ifname": BRIDGE, "addr_info": [{"local": "10.210.0.1", "prefixlen": 16}]}
    host.says["address"] = json.dumps([address])
    host.says["route"] = json.dumps([{"dst": "10.210.0.0/16", "dev": BRIDGE}, {"dst": "10.210.0.1", "dev": BRIDGE}])
    assert plan().changed
    for other in ("10.210.0.0/17", "10.99.0.0/16"):
        with pytest.raises(OpsError, match=r"while agents run in 10.210.0.0/16.*stop the agents"):
            plan(network=IPv4Network(other))


def test_network_and_walls_go_without_a_trace(host):
    left = sorted(host.path.iterdir())
    settled(host)
    host.calls.clear()
    no_plan().apply()
    names = [call[1:] for call in host.calls if call[0] == nftables.NFT]
    assert names == [["delete", "table", family, "hermes_users"] for family in ("inet", "bridge", "arp")]
    (host.path / "networks").rmdir()
    assert sorted(host.path.iterdir()) == left
    assert not no_plan().changed


def test_the_walls_of_a_container_that_runs_stay(host):
    settled(host)
    (host.path / "bridge").mkdir()
    with pytest.raises(OpsError, match="is in use"):
        no_plan().apply()
