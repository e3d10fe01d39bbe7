# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Findings about the host as a node of its tailnet."""

from __future__ import annotations

from typing import Any

from ..host import firewall, tailnet
from ..system.errors import OpsError
from .expiry import expiry_findings
from .findings import Finding, Settings

_RENEW = "declare a valid tailscale_auth_key, and converge: site.yml"
_FORGET = f"remove {tailnet.RECORD} below hermes_ops_dir"
# Where the answer of tailscaled is kept from one look to the next.
_SEEN = "tailnet_twice"


def look(ops_dir: str, memory: dict[str, Any], now: float, settings: Settings) -> list[Finding]:
    """Ask tailscaled, on a host that the collection made a node; on others, nothing is run.

    :param memory: data from earlier looks, updated for the next one
    """
    if not tailnet.declared_here():
        return []
    return [*_filter_findings(), *_daemon_findings(ops_dir, memory, now, settings)]


def _filter_findings() -> list[Finding]:
    """Check that the rules that were kept are in force. Whoever loads rules may flush those of all others first."""
    if not firewall.TABLE.lost():
        return []
    what = "the packet filter of the tailnet is not loaded: neighbours reach the node's addresses, and what it closed"
    return [Finding("tailnet_open", what, f"load its rules: systemctl restart {firewall.TABLE.unit}")]


def _daemon_findings(ops_dir: str, memory: dict[str, Any], now: float, settings: Settings) -> list[Finding]:
    """What tailscaled says, and whether another host says the same."""
    try:
        node = tailnet.observe()
        record = tailnet.recorded(ops_dir)
        found = node_findings(node, record, now, settings)
        twice = node.state == "Running" and elsewhere(*tailnet.endpoints())
    except OpsError as error:
        return [Finding("tailnet_down", f"{error.where}: {error.what}", error.fix or "see journalctl -u tailscaled")]
    # Once may be a change of the host's own network, of which the control server has not heard yet.
    if twice and memory.get(_SEEN):
        found.append(
            Finding(
                "tailnet_twice",
                f"another host uses the identity of this one ({record.get('name') or node.name}) in the tailnet",
                "find it, probably a copy of this host or of its data volume, and stop tailscaled there. If both are "
                "to live, empty its /var/lib/tailscale/, and converge it with a key",
            )
        )
    memory[_SEEN] = twice
    return found


def elsewhere(own: set[str], known: set[str]) -> bool:
    """Whether the control server has been told the addresses of another host for this node.

    :param own: addresses with ports under which peers find tailscaled, by its own account
    :param known: the same as the control server has them; the last tailscaled that reported wins
    """
    return bool(own and known and not own & known)


def node_findings(node: tailnet.Node, record: dict[str, Any], now: float, settings: Settings) -> list[Finding]:
    """Findings from what tailscaled says.

    :param record: the node that this host is to be
    """
    name = record.get("name") or node.flags["hostname"]
    if node.expired:
        return [Finding("tailnet_expired", f"the key of the node {name} has expired: the tailnet is cut off", _RENEW)]
    if node.out:
        what = f"this host is logged out of the tailnet: {name} was removed there, or its state was lost"
        # It may come back as another node, which is not the recorded one.
        return [Finding("tailnet_out", what, f"to join again, {_FORGET}, {_RENEW}")]
    if node.state in tailnet.IDLE:
        return [Finding("tailnet_out", *tailnet.IDLE[node.state])]
    if node.state in tailnet.UNSURE:
        what = f"the tailnet's control server does not answer: {'; '.join(node.troubles) or node.state}"
        fix = "see that the host reaches it: tailscale netcheck. The agents work on, without the tailnet"
        return [Finding("tailnet_unreachable", what, fix)]
    found = []
    if record.get("id") and node.id != record["id"]:
        found.append(
            Finding(
                "tailnet_other",
                f"this host is the node {node.id} ({node.name}), and is to be {record['id']} ({name})",
                "bring back the state of that node to tailscale/ on the data volume; or, to stay this one, "
                f"{_FORGET}, and converge",
            )
        )
    elif node.flags["hostname"] and node.name != node.flags["hostname"]:
        found.append(
            Finding(
                "tailnet_name",
                f"the tailnet calls this host {node.name}, because another node is {node.flags['hostname']}",
                "if that is the ghost of an earlier host, remove it in the tailnet's console; then rename this one",
                False,
            )
        )
    if node.expiry is not None:
        for each in expiry_findings("key", f"of the node {name}", node.expiry, now, settings):
            fix = "switch key expiry off for it in the tailnet's console, or give it a tag"
            found.append(Finding(each.cause, each.what, fix, each.failure, subject="tailnet"))
    return found
