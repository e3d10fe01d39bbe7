# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a node says of its pods is looked at with care: it may be in other hands."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.errors import OpsError
from ansible_collections.alwayson.hermes.plugins.module_utils.tenants import objects, status

NAMES = ("acme", "globex")
GOOD = {
    "memory": {"workingSetBytes": 64 * 2**20},
    "volume": [{"pvcRef": {"name": "x"}, "usedBytes": 1, "availableBytes": 3}],
}


class Cluster:
    """Two tenants that are ready, each on a node of its own.

    :param answers: node -> what it says
    """

    namespace = "hermes"

    def __init__(self, answers: dict[str, Any]) -> None:
        self.answers = answers

    def all(self, api: str, kind: str, selector: str = "") -> dict[str, dict[str, Any]]:
        return {name: self._object(kind, name) for name in NAMES} if kind in ("StatefulSet", "Pod") else {}

    def _object(self, kind: str, name: str) -> dict[str, Any]:
        metadata = {"name": f"hermes-{name}", "labels": {objects.TENANT: name}, "generation": 1}
        if kind == "Pod":
            return {"metadata": {**metadata, "name": f"hermes-{name}-0"}, "spec": {"nodeName": f"node of {name}"}}
        container = {"name": objects.CONTAINER, "image": "i", "resources": {"requests": {"memory": "256Mi"}}}
        ready = {"observedGeneration": 1, "updatedReplicas": 1, "readyReplicas": 1}
        return {"metadata": metadata, "spec": {"template": {"spec": {"containers": [container]}}}, "status": ready}

    def measured(self, node: str) -> Any:
        if node not in self.answers:
            raise OpsError("does not answer")
        return self.answers[node]


def of(name: Any, **what: Any) -> dict[str, Any]:
    return {"podRef": {"name": name, "namespace": "hermes"}, **what}


def seen(**answers: Any) -> dict[str, tuple[int | None, float | None]]:
    found = status.look(Cluster({f"node of {name}": answer for name, answer in answers.items()}))
    assert list(status.lines(found))[-1] == "2 ready, 0 absent, 0 not ready"
    return {each.name.removeprefix("hermes-"): (each.memory, each.full) for each in found}


def test_what_is_measured_is_shown():
    assert seen(acme={"pods": [of("hermes-acme-0", **GOOD)]}) == {"acme": (64 * 2**20, 0.25), "globex": (None, None)}


@pytest.mark.parametrize(
    "answer",
    [
        *([], None, "x", {}, {"pods": None}, {"pods": {"a": 1}}, {"pods": [None, [], 1, {}]}),
        {"pods": [of(["hermes-acme-0"], **GOOD), of(None), {"podRef": "hermes-acme-0"}]},
        *({"pods": [of("hermes-acme-0", memory=each)]} for each in (None, [], {"workingSetBytes": "64"})),
        *({"pods": [of("hermes-acme-0", memory={"workingSetBytes": each})]} for each in (-1, 1.5, True, None, [1])),
        *({"pods": [of("hermes-acme-0", volume=each)]} for each in ("x", {"usedBytes": 1}, [None, 3, []])),
        {"pods": [of("hermes-acme-0", volume=[{"pvcRef": {"name": "x"}, "usedBytes": 1}])]},
        {"pods": [of("hermes-acme-0", volume=[{"pvcRef": {"name": "x"}, "usedBytes": 1, "availableBytes": -1}])]},
    ],
)
def test_an_answer_of_another_form_measures_nothing_and_no_other_node_is_the_worse_for_it(answer):
    of_globex = {"pods": [of("hermes-globex-0", **GOOD)]}
    assert seen(acme=answer, globex=of_globex) == {"acme": (None, None), "globex": (64 * 2**20, 0.25)}


def test_a_node_says_nothing_of_pods_that_run_elsewhere():
    lie = {"pods": [of("hermes-acme-0", memory={"workingSetBytes": 1})]}
    assert seen(acme={"pods": [of("hermes-acme-0", **GOOD)]}, globex=lie)["acme"] == (64 * 2**20, 0.25)
