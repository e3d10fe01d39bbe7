# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The host's packet filter for the tailnet: one table of nftables, beside everybody else's.

It always keeps neighbours out of the tailnet's addresses: Linux accepts a packet for any address of the host on any
interface, so a machine on the same network could send one for the node's address there, and reach what only the tailnet
may. On request it also closes everything else. Who closes a host may lock himself out, so these rules are tried: a
timer takes them back unless a new connection confirms them, and so does a reboot.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from ..system.errors import OpsError
from ..system.files import read_text, write_atomic
from ..system.plan import Difference, Plan
from ..system.process import run
from ..system.systemd import Manager
from . import nftables, settings
from .nftables import Table

TABLE = Table(
    name="hermes",
    unit="hermes-firewall.service",
    description="Packet filter of the tailnet",
    rules=os.path.join(settings.DIRECTORY, "firewall.nft"),
)
# The rules on trial: tmpfs, so a reboot forgets them.
TRIAL = "/run/hermes-firewall.nft"
UNDO = "hermes-firewall-undo"
# Seconds until rules on trial are taken back. A controller with many hosts takes a while to come back to each.
TRIAL_SECONDS = 120
# The interface of tailscaled (its --tun).
INTERFACE = "tailscale0"
# The UDP port on which tailscaled talks to other nodes directly (its --port, as packaged).
PORT = 41641


@dataclass(frozen=True)
class Filter:
    """What may come in.

    :param addresses: of the node
    :param closed: whether only the tailnet, *ports* and answers may reach the host
    :param ports: TCP ports that stay open to all networks
    """

    addresses: tuple[str, ...]
    closed: bool
    ports: tuple[int, ...]

    def __post_init__(self) -> None:
        for port in self.ports:
            if not 1 <= port <= 65535:
                raise OpsError(f"{port} is not a port", where="tailscale_firewall_ports", fix="use 1 to 65535")


def render(rules: Filter) -> str:
    lines = [f'iifname != {{ "lo", "{INTERFACE}" }} {_family(each)} daddr {each} drop' for each in rules.addresses]
    if rules.closed:
        lines += [
            f'iifname {{ "lo", "{INTERFACE}" }} accept',
            "ct state established,related accept",
            # ICMP and ICMPv6: neighbour discovery, without which IPv6 ends, and path MTU discovery. As numbers, because
            # a small host has no /etc/protocols.
            "meta l4proto { 1, 58 } accept",
            f"udp dport {PORT} accept",
            # Answers to a DHCP client come from an address that it did not ask.
            "udp dport { 68, 546 } accept",
        ]
        if rules.ports:
            lines.append(f"tcp dport {{ {', '.join(map(str, sorted(set(rules.ports))))} }} accept")
        lines.append("drop")
    return TABLE.render(inet={"input": lines})


def _family(address: str) -> str:
    return "ip6" if ":" in address else "ip"


def plan_filter(rules: Filter, manager: Manager) -> tuple[Plan, bool]:
    """Compare the host's packet filter with *rules*.

    :returns: the plan, and whether it only begins a trial, which :func:`plan_confirmed` ends
    :raises OpsError: nft is missing
    """
    import shutil

    if shutil.which(nftables.NFT) is None:
        raise OpsError("is missing", where=nftables.NFT, fix="install the package nftables")
    text = render(rules)
    kept = TABLE.kept()
    if not rules.closed or kept == text:
        return TABLE.plan_present(text, manager), False
    plan = Plan()
    shown = f"on trial for {TRIAL_SECONDS} s: {text}"
    plan.add(Difference("packet filter", kept, shown), lambda: _try(text, manager))
    return plan, True


def plan_confirmed(manager: Manager) -> Plan:
    """Keep the rules on trial. Called over a connection that was made since.

    :raises OpsError: there are none any more
    """
    text = read_text(TRIAL)
    if text is None or manager.units([f"{UNDO}.timer"])[f"{UNDO}.timer"].active != "active":
        raise OpsError(
            f"were taken back: no connection confirmed them within {TRIAL_SECONDS} s",
            where="the rules of tailscale_firewall",
            fix="see that the controller reaches the host over the tailnet, or declare its port in "
            "tailscale_firewall_ports; then converge again",
        )
    plan = TABLE.plan_present(text, manager)
    # From here on the timer would only load the same rules again.
    plan.actions.append(lambda: manager.call("stop", f"{UNDO}.timer"))
    plan.actions.append(lambda: os.unlink(TRIAL))
    return plan


def _try(text: str, manager: Manager) -> None:
    write_atomic(TRIAL, text, mode=0o600)
    _nft("--check", "--file", TRIAL)
    # What is kept, or nothing.
    undo = ["systemctl", "reload-or-restart", TABLE.unit] if TABLE.kept() is not None else TABLE.delete()
    manager.call("stop", f"{UNDO}.timer", check=False)
    # By default, systemd may let a timer wait for another minute.
    timer = [f"--on-active={TRIAL_SECONDS}", "--timer-property=AccuracySec=1s"]
    run(["systemd-run", "--quiet", "--collect", f"--unit={UNDO}", *timer, *undo], timeout=20)
    _nft("--file", TRIAL)


def _nft(*arguments: str) -> None:
    run([nftables.NFT, *arguments], timeout=20)
