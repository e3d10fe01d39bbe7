# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A worker that is lost and back, in a real API server. Nothing runs on its nodes, and nothing judges them."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.errors import OpsError
from ansible_collections.alwayson.hermes.plugins.module_utils.tenants import nodes
from ansible_collections.alwayson.hermes.plugins.module_utils.tenants.cluster import Cluster
from api_server import ApiServer
from playbook import Playbook, changed
from test_playbook import DECLARED

TAINT = {"key": "node.kubernetes.io/out-of-service", "value": "nodeshutdown", "effect": "NoExecute"}
OTHER = {"key": "node.kubernetes.io/unreachable", "effect": "NoExecute"}


class Node:
    """A node of a test, of which this says how it is."""

    def __init__(self, server: ApiServer) -> None:
        server.count += 1
        self.server, self.name = server, f"worker-{server.count}"
        body = {"metadata": {"name": self.name}, "spec": {"taints": [OTHER]}}
        server.ask("POST", "/api/v1/nodes", {"apiVersion": "v1", "kind": "Node", **body})

    def is_ready(self, status: str, seconds: float = 300) -> None:
        since = (datetime.now(timezone.utc) - timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")
        condition = {"type": "Ready", "status": status, "lastTransitionTime": since, "reason": "x", "message": "x"}
        path = f"/api/v1/nodes/{self.name}/status"
        self.server.ask("PATCH", path, {"status": {"conditions": [condition]}}, kind="merge-patch+json")

    @property
    def taints(self) -> list[dict[str, Any]]:
        # The API server itself taints a new node, with NoSchedule.
        found = self.server.ask("GET", f"/api/v1/nodes/{self.name}")["spec"].get("taints", [])
        return [
            {key: value for key, value in each.items() if key != "timeAdded"}
            for each in found
            if each["effect"] == "NoExecute"
        ]


@pytest.fixture
def node(server: ApiServer) -> Iterator[Node]:
    node = Node(server)
    yield node
    # Other tests have a cluster without nodes.
    server.ask("DELETE", f"/api/v1/nodes/{node.name}")


@pytest.fixture
def playbook(server, namespace, tmp_path):
    return Playbook(tmp_path, DECLARED, server.kubeconfig, namespace)


def test_a_lost_node_is_given_up_and_used_again(node, playbook):
    node.is_ready("Unknown")
    words = {"name": "node_lost", "node": node.name}
    for options, expected in ((["--check", "--diff"], [OTHER]), (["--diff"], [OTHER, TAINT])):
        status, output = playbook.run(*options, **words, node_is_off=True)
        assert (status, changed(output)) == (0, 1), output
        assert "out-of-service" in output
        assert node.taints == expected
    status, output = playbook.run(**words)
    assert (status, changed(output)) == (0, 0), output
    status, output = playbook.run(**words, state="back")
    assert status != 0
    assert "is not ready" in output
    node.is_ready("True")
    for options, expected in ((["--check"], [OTHER, TAINT]), ([], [OTHER])):
        assert playbook.run(*options, **words, state="back")[0] == 0
        assert node.taints == expected
    status, output = playbook.run(**words, state="back")
    assert (status, changed(output)) == (0, 0), output


@pytest.mark.parametrize(
    ("ready", "seconds", "is_off", "said"),
    [
        ("True", 300, True, "answers: it is ready"),
        ("False", 300, True, "is not given up by the cluster: Ready is False"),
        ("", 300, True, "Ready is not known"),
        ("Unknown", 30, True, "is silent for 3. s only"),
        ("Unknown", 300, False, "node_is_off=true"),
    ],
)
def test_a_node_that_may_still_run_is_not_given_up(server, node, ready, seconds, is_off, said):
    if ready:
        node.is_ready(ready, seconds)
    with Cluster(server.kubeconfig, "", "hermes") as cluster, pytest.raises(OpsError, match=said):
        nodes.lost(cluster, node.name, datetime.now(timezone.utc), is_off=is_off)
    assert node.taints == [OTHER]


@pytest.mark.parametrize("name", ["nobody", "", "../namespaces/default", "UPPER"])
def test_a_name_of_no_node_is_refused(server, name):
    with Cluster(server.kubeconfig, "", "hermes") as cluster, pytest.raises(OpsError, match="is none of the cluster"):
        nodes.lost(cluster, name, datetime.now(timezone.utc), is_off=True)


def test_a_node_that_changed_meanwhile_is_not_given_up(server, node, monkeypatch):
    node.is_ready("Unknown")
    with Cluster(server.kubeconfig, "", "hermes") as cluster:
        found = cluster.get("v1", "Node", node.name)
        node.is_ready("True")
        monkeypatch.setattr(cluster, "get", lambda *_words: found)
        with pytest.raises(OpsError):
            nodes.lost(cluster, node.name, datetime.now(timezone.utc), is_off=True)
    assert node.taints == [OTHER]


def test_a_node_that_says_something_in_between_is_looked_at_again(server, node, monkeypatch):
    node.is_ready("Unknown", 300)
    with Cluster(server.kubeconfig, "", "hermes") as cluster:
        get, before = cluster.get, [cluster.get("v1", "Node", node.name)]
        node.is_ready("Unknown", 400)
        monkeypatch.setattr(cluster, "get", lambda *words: before.pop() if before else get(*words))
        assert nodes.lost(cluster, node.name, datetime.now(timezone.utc), is_off=True)
    assert len(node.taints) == 2
