# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Tenants that have no room on the workers, and the command that says how many workers they take."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from api_server import ApiServer
from playbook import Playbook, changed
from test_playbook import DECLARED

PRICES = {
    "tenants_workers": [{"type": "small", "cpu": "3900m", "memory": "7500Mi", "price": 6.5}],
    "tenants_priced": "2026-04-15",
}


@pytest.fixture
def playbook(server, namespace, tmp_path):
    return Playbook(tmp_path, {**DECLARED, "tenants_room": True}, server.kubeconfig, namespace)


@pytest.fixture
def worker(server: ApiServer) -> Iterator[Callable[[str], None]]:
    """A function that gives the cluster one worker with this memory, or gives the worker another one."""
    names = []

    def work(memory: str) -> None:
        if not names:
            server.count += 1
            names.append(f"room-{server.count}")
            body = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": names[0]}}
            server.ask("POST", "/api/v1/nodes", body)
            # The API server taints a new node until somebody says that it is ready.
            server.ask("PATCH", f"/api/v1/nodes/{names[0]}", {"spec": {"taints": []}}, kind="merge-patch+json")
        there = {"cpu": "4", "memory": memory, "pods": "110"}
        status = {"status": {"allocatable": there, "capacity": there}}
        server.ask("PATCH", f"/api/v1/nodes/{names[0]}/status", status, kind="merge-patch+json")

    yield work
    for name in names:
        server.ask("DELETE", f"/api/v1/nodes/{name}")


def test_tenants_without_room_are_refused_before_one_is_made(server, playbook, worker):
    worker("500Mi")
    for options in (["--check"], []):
        status, output = playbook.run(*options)
        assert status != 0
        text = " ".join(output.split())
        assert "hermes_tenants: ask for 0.50 GiB, and 1 workers have 0.49 left" in text
        assert "alwayson.hermes.tenants_capacity" in text
    where = f"/apis/apps/v1/namespaces/{playbook.variables['tenants_namespace']}/statefulsets"
    assert server.ask("GET", where)["items"] == []
    worker("512Mi")
    status, output = playbook.run()
    assert (status, changed(output)) == (0, 1), output
    # Nobody asks again while none is added.
    worker("1Mi")
    status, output = playbook.run()
    assert (status, changed(output)) == (0, 0), output


def test_a_cluster_without_nodes_is_only_a_warning(playbook):
    status, output = playbook.run()
    assert status == 0
    assert "[WARNING]: the cluster has no nodes, so that no tenant can start" in " ".join(output.split())


def test_the_command_counts_the_declared_tenants_or_a_number(playbook):
    tenants = [{"name": "acme"}, {"name": "globex", "state": "present"}, {"name": "gone", "state": "absent"}]
    for number, head, row in (
        (0, "2 tenants, with prices of 2026-04-15:", "small 29 2 13.00 6.50"),
        (1000, "1000 tenants, with prices of 2026-04-15:", "small 29 36 234.00 0.23"),
    ):
        status, output = playbook.run(name="tenants_capacity", hermes_tenants=tenants, tenants_number=number, **PRICES)
        assert (status, changed(output)) == (0, 0), output
        assert head in output
        assert row in " ".join(output.split())


def test_a_plan_needs_prices_with_a_date(playbook):
    status, output = playbook.run(name="tenants_capacity", tenants_workers=[{"type": "small"}])
    assert status != 0
    assert "missing required arguments" in " ".join(output.split())
