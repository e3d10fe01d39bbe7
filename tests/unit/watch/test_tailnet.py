# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Findings about the node: each fault has its own, with its fix, and a healthy node has none."""

from __future__ import annotations

import dataclasses

import pytest
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.host import nftables
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.host import tailnet as node_of
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.errors import OpsError
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.watch import tailnet
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.watch.findings import Settings

NOW = 1_800_000_000.0
NODE = node_of.Node(
    state="Running",
    id="n1",
    name="bridge",
    addresses=("100.64.0.1",),
    tags=(),
    expiry=None,
    server="https://control.example.org",
    flags={"hostname": "bridge"},
    served={},
    troubles=(),
)
RECORD = {"id": "n1", "name": "bridge"}


@pytest.mark.parametrize(
    ("changed", "cause", "fails"),
    [
        ({"state": "NeedsLogin"}, "tailnet_out", True),
        ({"state": "Stopped"}, "tailnet_out", True),
        ({"state": "NeedsMachineAuth"}, "tailnet_out", True),
        ({"state": "NoState", "troubles": ("no route",)}, "tailnet_unreachable", True),
        ({"state": "NeedsLogin", "expiry": 1.0}, "tailnet_expired", True),
        ({"id": "n2"}, "tailnet_other", True),
        ({"name": "bridge-1"}, "tailnet_name", False),
        ({"expiry": NOW + 86400}, "expiry", False),
    ],
)
def test_each_fault_has_its_finding(changed, cause, fails, monkeypatch):
    monkeypatch.setattr(node_of.time, "time", lambda: NOW)
    (found,) = tailnet.node_findings(dataclasses.replace(NODE, **changed), RECORD, NOW, Settings())
    assert (found.cause, found.failure) == (cause, fails)
    assert found.fix


def test_who_joins_again_forgets_the_node_that_is_gone():
    """The control server may make it another node, and that would be a finding for ever."""
    (found,) = tailnet.node_findings(dataclasses.replace(NODE, state="NeedsLogin"), RECORD, NOW, Settings())
    assert found.fix.startswith(
        "to join again, remove tailnet.json below hermes_ops_dir, declare a valid tailscale_auth"
    )


def test_a_healthy_node_has_none():
    assert tailnet.node_findings(NODE, RECORD, NOW, Settings()) == []
    assert tailnet.node_findings(dataclasses.replace(NODE, expiry=NOW + 86400 * 90), RECORD, NOW, Settings()) == []


@pytest.fixture
def host(monkeypatch, tmp_path):
    """A host that is a node, and the endpoints that it and the control server know."""
    seen = [{"192.0.2.1:41641"}, {"192.0.2.1:41641"}]
    monkeypatch.setattr(node_of, "declared_here", lambda: True)
    monkeypatch.setattr(node_of, "observe", lambda: NODE)
    monkeypatch.setattr(node_of, "endpoints", lambda: seen)
    monkeypatch.setattr(node_of, "recorded", lambda _ops: RECORD)
    return seen


def test_a_twin_is_told_when_it_was_seen_twice(host):
    memory: dict = {}
    assert tailnet.look("/ops", memory, NOW, Settings()) == []
    host[1] = {"192.0.2.9:41641"}
    assert tailnet.look("/ops", memory, NOW, Settings()) == []
    (found,) = tailnet.look("/ops", memory, NOW, Settings())
    assert (found.cause, found.failure) == ("tailnet_twice", True)
    host[1] = {"192.0.2.1:41641", "198.51.100.1:1024"}
    assert tailnet.look("/ops", memory, NOW, Settings()) == []


def test_a_dead_tailscaled_is_a_finding_and_no_error(host, monkeypatch):
    def fail():
        raise OpsError("does not answer", where="tailscaled", fix="restart it")

    monkeypatch.setattr(node_of, "observe", fail)
    (found,) = tailnet.look("/ops", {}, NOW, Settings())
    assert found.cause == "tailnet_down"


def test_flushed_rules_are_told_even_if_tailscaled_is_dead(host, monkeypatch):
    def fail():
        raise OpsError("does not answer")

    monkeypatch.setattr(nftables.Table, "lost", lambda _table: True)
    (found,) = tailnet.look("/ops", {}, NOW, Settings())
    assert (found.cause, found.failure) == ("tailnet_open", True)
    monkeypatch.setattr(node_of, "observe", fail)
    assert [each.cause for each in tailnet.look("/ops", {}, NOW, Settings())] == ["tailnet_open", "tailnet_down"]


def test_a_host_that_is_no_node_runs_nothing(monkeypatch):
    monkeypatch.setattr(node_of, "declared_here", lambda: False)
    monkeypatch.setattr(node_of, "observe", lambda: pytest.fail("asked"))
    assert tailnet.look("/ops", {}, NOW, Settings()) == []
