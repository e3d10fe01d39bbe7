# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module tailscale: what it leaves alone while the host is not in its tailnet."""

from __future__ import annotations

import dataclasses

import pytest
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.host import tailnet
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.modules import tailscale
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.modules.call import Call
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.errors import OpsError
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.files import Account
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.plan import Plan
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.systemd import Manager

SETTINGS = tailnet.Settings("bridge", (), False, False, True, "https://control.example.org")
NODE = tailnet.Node(
    state="Running",
    id="n1",
    name="bridge",
    addresses=("100.64.0.1",),
    tags=(),
    expiry=None,
    server=SETTINGS.login_server,
    flags=SETTINGS.flags,
    served={},
    troubles=(),
)


@pytest.fixture
def planned(monkeypatch, tmp_path):
    """A function that converges a node; gives the filter that was planned, None without one, and the warnings."""

    def converge(node):
        found = []
        monkeypatch.setattr(
            tailscale.firewall, "plan_filter", lambda rules, _manager: found.append(rules) or (Plan(), False)
        )
        params = {"ops_dir": str(tmp_path), "agents": [], "firewall": False, "firewall_ports": [], "confirm": False}
        call = Call(params)
        assert tailscale.Converging(call, None, SETTINGS, None).at_node(node) is False
        return found[0] if found else None, call.warnings

    return converge


@pytest.mark.parametrize(
    ("state", "fix"),
    [("Stopped", "Fix: tailscale up"), ("NeedsMachineAuth", "approve it"), ("New", "tailscale status")],
)
def test_a_node_that_is_not_in_its_tailnet_keeps_its_packet_filter(planned, state, fix):
    """It has no addresses then, and a filter without them lets neighbours in."""
    rules, warnings = planned(NODE)
    assert (rules.addresses, warnings) == (NODE.addresses, [])
    rules, (warning,) = planned(dataclasses.replace(NODE, state=state, addresses=()))
    assert rules is None
    assert fix in warning


@pytest.mark.parametrize(
    ("has", "unit", "missing"),
    [
        ({"tailscale", "nft"}, "loaded", ""),
        ({"tailscale"}, "loaded", "nftables"),
        ({"tailscale", "nft"}, "not-found", "package"),
        ({"nft"}, "not-found", "package"),
    ],
)
def test_a_host_that_has_tailscale_gets_no_repository_for_it(monkeypatch, systemd, has, unit, missing):
    systemd.states[tailnet.UNIT] = {"LoadState": unit}
    monkeypatch.setattr(tailscale.shutil, "which", lambda name: name if name.rpartition("/")[2] in has else None)
    manager = Manager("system", Account.current())
    assert tailscale.lacking({"install": "apt"}, manager) == missing
    if missing:
        with pytest.raises(OpsError, match="is missing on"):
            tailscale.lacking({"install": "present"}, manager)
