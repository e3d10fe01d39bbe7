# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How many workers tenants take, and whether those of a cluster have room."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.errors import OpsError
from ansible_collections.alwayson.hermes.plugins.module_utils.tenants.capacity import Worker, check, lines, plan
from ansible_collections.alwayson.hermes.plugins.module_utils.tenants.cluster import NotAllowed
from ansible_collections.alwayson.hermes.plugins.module_utils.tenants.declared import Resources
from ansible_collections.alwayson.hermes.plugins.module_utils.tenants.objects import TENANT

REQUESTS = Resources("100m", "256Mi")
SMALL = Worker("small", "3900m", "7500Mi", 6.49)
LARGE = Worker("large", "15800m", "31Gi", 24.0)


def test_the_plan_counts_whole_tenants_and_a_worker_to_spare():
    small, large = sorted(plan(1000, REQUESTS, [SMALL, LARGE], base=10), key=lambda each: each.fits)
    # 7500 / 256 = 29.3; 31744 / 256 = 124, and a node has 110 pods.
    assert (small.fits, small.workers, small.price) == (29, 36, 243.64)
    assert (large.fits, large.workers, large.price) == (110, 11, 274.0)


def test_what_others_request_and_the_spare_count():
    (offer,) = plan(24, REQUESTS, [SMALL], spare=2, reserved=Resources("1500m", "1Gi"))
    assert (offer.fits, offer.workers) == (24, 3)
    assert plan(25, REQUESTS, [SMALL], spare=0, reserved=Resources("1500m", "1Gi"))[0].workers == 2


def test_volumes_on_the_disks_of_workers_count():
    disks = Worker("small", "3900m", "7500Mi", 6.49, disk="52Gi")
    assert plan(1000, REQUESTS, [disks])[0].fits == 29
    assert plan(1000, REQUESTS, [disks], storage="10Gi")[0].fits == 5
    with pytest.raises(OpsError, match="fits on no worker"):
        plan(1000, REQUESTS, [SMALL], storage="10Gi")


def test_the_cheapest_is_first_and_what_is_too_small_is_left_out():
    tiny = Worker("tiny", "100m", "128Mi", 1.0)
    assert [each.type for each in plan(10, REQUESTS, [LARGE, tiny, SMALL])] == ["small", "large"]
    with pytest.raises(OpsError, match="fits on no worker"):
        plan(10, REQUESTS, [tiny])


def test_the_table_has_the_date():
    head, _names, row = lines(plan(100, REQUESTS, [SMALL]), 100, "2026-04-15")
    assert head == "100 tenants, with prices of 2026-04-15:"
    assert row.split() == ["small", "29", "5", "32.45", "0.32"]


@pytest.mark.parametrize("priced", ["", "yesterday"])
def test_prices_have_a_date(priced):
    with pytest.raises(OpsError, match="priced"):
        list(lines([], 1, priced))


def test_the_page_has_what_the_command_computes():
    page = (
        (Path(__file__).resolve().parents[3] / "docs/cluster.md")
        .read_text(encoding="utf-8")
        .partition("## How many workers")[2]
    )
    said = yaml.safe_load(re.search(r"```yaml\n(.*?)```", page, re.S)[1])
    reserved = Resources(**said["tenants_reserved"])
    rows = re.findall(r"^\| (\d+)(.*?)\| (\d) \| (\d+) \| (\d+) \| ([\d.]+) \| ([\d.]+) \|$", page, re.M)
    assert len(rows) == 4
    for tenants, more, servers, fits, workers, price, share in rows:
        storage = "10Gi" if "10Gi" in more else said["tenants_storage"]
        base = said["tenants_base"] * int(servers)
        types = [Worker(**each) for each in said["tenants_workers"]]
        (offer,) = plan(int(tenants), REQUESTS, types, storage=storage, reserved=reserved, base=base)
        assert (offer.fits, offer.workers, f"{offer.price:.2f}") == (int(fits), int(workers), price)
        assert f"{offer.price / int(tenants):.2f}" == share


# The check of a cluster


class Seen:
    """A cluster with these nodes and pods."""

    def __init__(self, nodes: list[dict[str, Any]], pods: list[dict[str, Any]] = (), *, allowed: bool = True) -> None:
        self.found, self.allowed, self.asked = {"Node": nodes, "Pod": list(pods)}, allowed, []

    def everywhere(self, _api: str, kind: str) -> list[dict[str, Any]]:
        self.asked.append(kind)
        if not self.allowed:
            raise NotAllowed("is not allowed", where=f"each {kind}", fix="give the login this right")
        return self.found[kind]


def node(name: str = "w1", *, cpu: str = "1", memory: str = "1Gi", pods: str = "110", **spec: Any) -> dict[str, Any]:
    allocatable = {"cpu": cpu, "memory": memory, "pods": pods}
    return {"metadata": {"name": name, "labels": {"disk": "ssd"}}, "spec": spec, "status": {"allocatable": allocatable}}


def pod(
    memory: str, *, place: str = "w1", namespace: str = "x", phase: str = "Running", **labels: str
) -> dict[str, Any]:
    container = {"resources": {"requests": {"memory": memory}}}
    return {
        "metadata": {"name": "p", "namespace": namespace, "labels": labels},
        "spec": {"nodeName": place, "containers": [container]},
        "status": {"phase": phase},
    }


def declared(number: int, **more: Any) -> Any:
    words = {"present": True, "requests": REQUESTS, "node_selector": {}, "tolerations": (), **more}
    return SimpleNamespace(
        namespace="hermes",
        tenants=[SimpleNamespace(name=f"t{each}", label=f"t{each}", **words) for each in range(number)],
    )


TAINT = {"key": "agents", "value": "yes", "effect": "NoSchedule"}
FULL = "ask for "


@pytest.mark.parametrize(
    ("nodes", "pods", "tenants", "said"),
    [
        ([node()], [], declared(4), None),
        ([node()], [], declared(5), "ask for 1.25 GiB, and 1 workers have 1.00 left"),
        ([node(memory="9Gi")], [], declared(11), "ask for 1.10 cores"),
        ([node(memory="9Gi", pods="3")], [], declared(4), "ask for 4.00 pods"),
        # Pods of others, those that ended, those elsewhere, and our own.
        ([node()], [pod("256Mi")], declared(4), FULL),
        ([node()], [pod("256Mi", phase="Succeeded"), pod("9Gi", place="w2")], declared(4), None),
        ([node()], [pod("1Gi", namespace="hermes", **{TENANT: "t1"})], declared(4), None),
        ([node()], [pod("1Gi", namespace="hermes", **{TENANT: "undeclared"})], declared(4), FULL),
        ([node()], [pod("1e9Q")], declared(4), None),
        # Where tenants are not placed.
        ([node(), node("w2", unschedulable=True)], [], declared(5), FULL),
        ([node(), node("w2", taints=[TAINT])], [], declared(5), FULL),
        ([node(), node("w2", taints=[{**TAINT, "effect": "PreferNoSchedule"}])], [], declared(5), None),
        ([node(taints=[TAINT])], [], declared(4, tolerations=({"key": "agents", "operator": "Exists"},)), None),
        ([node(taints=[TAINT])], [], declared(4, tolerations=({"key": "agents", "value": "no"},)), FULL),
        ([node()], [], declared(1, node_selector={"disk": "hdd"}), FULL),
        ([node()], [], declared(5, present=False), None),
    ],
)
def test_tenants_that_have_no_room_are_refused(nodes, pods, tenants, said):
    if said is None:
        assert check(Seen(nodes, pods), tenants) == []
    else:
        with pytest.raises(OpsError, match=said) as caught:
            check(Seen(nodes, pods), tenants)
        assert "tenants_capacity" in str(caught.value)


def test_what_cannot_be_found_out_is_said():
    assert check(Seen([]), declared(4)) == ["the cluster has no nodes, so that no tenant can start"]
    (said,) = check(Seen([node()], allowed=False), declared(4))
    assert "whether the workers have room was not checked" in said


def test_it_takes_two_lists():
    seen = Seen([node()])
    check(seen, declared(4))
    assert seen.asked == ["Node", "Pod"]
