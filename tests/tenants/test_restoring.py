# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Restores of tenants in a real API server, with a node that speaks the kubelet's protocol: what is written, and runs
that are killed on the way."""

from __future__ import annotations

import itertools
import os
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.backup import collecting
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.errors import OpsError
from ansible_collections.alwayson.hermes.plugins.module_utils.tenants import readiness, restoring
from ansible_collections.alwayson.hermes.plugins.module_utils.tenants.cluster import Cluster
from played_node import PlayedNode, put
from space import Space

TAKES = "data = sys.stdin.buffer.read(int(words[3].partition('=')[2]))\nprint(words[:3], words[4:], len(data))"
RESTORING = "alwayson.hermes/restoring"


class Killed(BaseException):
    """Nothing catches it."""


class Played:
    """Stands for the module time: in each pause the cluster does what is to be done.

    :ivar together: whether an agent ever had its volume while a restore had it
    """

    def __init__(self, space: Space, node: PlayedNode) -> None:
        self.space, self.node, self.now, self.together = space, node, 0.0, False
        self.pods = f"/api/v1/namespaces/{space.namespace}/pods"

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        keeper, names = self.space.get("StatefulSet", "acme"), self.names()
        self.together |= len(names) > 1 and keeper["spec"]["replicas"] == 1
        if keeper["spec"]["replicas"] == 0 and "hermes-acme-0" in names:
            self.space.server.ask("DELETE", f"{self.pods}/hermes-acme-0?gracePeriodSeconds=0")
        if keeper["spec"]["replicas"] == 1 and "hermes-acme-0" not in names:
            self.node.run(self.space.namespace, "hermes-acme")
        ready = {"readyReplicas": 1, "updatedReplicas": 1} if keeper["spec"]["replicas"] else {}
        status = {"observedGeneration": keeper["metadata"]["generation"], "replicas": len(ready), **ready}
        path = f"{self.space.path('StatefulSet', 'acme')}/status"
        self.space.server.ask(
            "PATCH",
            path,
            {"status": {"readyReplicas": None, "updatedReplicas": None, **status}},
            kind="merge-patch+json",
        )
        pod = f"{self.pods}/hermes-acme-restore"
        if "hermes-acme-restore" in names:
            found = self.space.server.ask("GET", pod)
            if found["metadata"].get("deletionTimestamp"):
                self.space.server.ask("DELETE", f"{pod}?gracePeriodSeconds=0")
            elif not found["spec"].get("nodeName"):
                target = {"target": {"kind": "Node", "name": self.node.name}}
                self.space.server.ask("POST", f"{pod}/binding", {"metadata": {"name": "hermes-acme-restore"}, **target})
                state = {"image": "x", "imageID": "", "ready": True, "restartCount": 0, "state": {"running": {}}}
                status = {"phase": "Running", "containerStatuses": [{"name": "agent", **state}]}
                self.space.server.ask("PATCH", f"{pod}/status", {"status": status}, kind="merge-patch+json")

    def names(self) -> set[str]:
        return {each["metadata"]["name"] for each in self.space.server.ask("GET", self.pods)["items"]}


@pytest.fixture
def played(space: Space, node: PlayedNode, monkeypatch: pytest.MonkeyPatch) -> Played:
    space.converge({"name": "acme"})
    node.run(space.namespace, "hermes-acme")
    put(node, TAKES)
    played = Played(space, node)
    for module in (restoring, readiness):
        monkeypatch.setattr(module, "time", played)
    played.sleep(0)
    return played


@pytest.fixture
def archive(tmp_path: Path) -> str:
    home = tmp_path / "home"
    (home / "memories").mkdir(parents=True)
    (home / "memories/MEMORY.md").write_bytes(os.urandom(2**20))
    path = tmp_path / "acme-20261123T100000Z.tar.gz"
    about = {"agent": "acme", "host": "there", "created": 1.0, "kit": "1", "release": None, "version": None}
    with open(path, "wb") as file:
        collecting.collect(file.fileno(), str(path), str(home), {**about, "env": "exclude"}, False, None, True)
    return str(path)


def restore(space: Space, archive: str, **more: Any) -> str:
    with Cluster(space.server.kubeconfig, "", space.namespace) as cluster:
        return restoring.restore(cluster, "acme", archive, **{"force": False, "wait": 60.0, **more})


def test_a_pod_that_waits_gets_the_archive_while_the_agent_does_not_run(space, played, archive, monkeypatch):
    made: list[dict[str, Any]] = []
    apply = Cluster.apply

    def watched(self: Cluster, wanted: dict[str, Any], *, check: bool) -> None:
        made.append(wanted)
        apply(self, wanted, check=check)

    monkeypatch.setattr(Cluster, "apply", watched)
    before = space.get("StatefulSet", "acme")
    text = restore(space, archive, force=True)
    size = os.path.getsize(archive)
    assert text == f"['hermes-ops', 'agent', 'restore'] ['--force'] {size}\n"
    (pod,) = (each for each in made if each["kind"] == "Pod")
    template = before["spec"]["template"]["spec"]
    assert pod["spec"]["containers"][0]["command"] == ["sleep", "infinity"]
    assert not [key for key in pod["spec"]["containers"][0] if key.endswith("Probe")]
    for kept in ("volumes", "securityContext", "nodeSelector", "tolerations", "automountServiceAccountToken"):
        assert pod["spec"][kept] == template[kept]
    # No caller of the tenant reaches it, and it goes with the tenant.
    assert "alwayson.hermes/tenant" not in pod["metadata"]["labels"]
    assert pod["metadata"]["ownerReferences"][0]["uid"] == before["metadata"]["uid"]
    after = space.get("StatefulSet", "acme")
    assert (after["spec"], played.names()) == (before["spec"], {"hermes-acme-0"})
    assert after["metadata"]["annotations"] == before["metadata"]["annotations"]
    assert not played.together
    # And it is as declared.
    assert space.converge({"name": "acme"}).words == {"acme": "unchanged"}


def test_a_restore_that_fails_starts_the_agent_again(space, played, archive, node):
    put(node, "sys.stdin.buffer.read(int(words[3].partition('=')[2]))\nsys.exit('hermes-ops: it knows more')")
    with pytest.raises(OpsError, match="tenant acme: was not restored: ended with status 1: it knows more"):
        restore(space, archive)
    played.sleep(1)
    assert played.names() == {"hermes-acme-0"}
    assert space.converge({"name": "acme"}).words == {"acme": "unchanged"}


def test_what_cannot_be_restored_touches_nothing(space, played, archive):
    before = space.versions()
    with open(archive, "r+b") as file:
        file.seek(-10_000, os.SEEK_END)
        file.write(os.urandom(1000))
    with pytest.raises(OpsError, match="acme-2026"):
        restore(space, archive)
    with Cluster(space.server.kubeconfig, "", space.namespace) as cluster:
        with pytest.raises(OpsError, match="tenant nobody: is not there"):
            restoring.restore(cluster, "nobody", archive, force=False, wait=1)
        with pytest.raises(OpsError, match="acme-2026"):
            restoring.preview(cluster, "acme", archive)
        assert "the home before the last restore" in restoring.preview(cluster, "acme", "")
    assert space.written(before) == set()


def test_a_pod_that_does_not_go_is_told(space, played, archive, monkeypatch):
    monkeypatch.setattr(played, "sleep", lambda seconds: setattr(played, "now", played.now + seconds))
    with pytest.raises(OpsError, match=r"Pod hermes-acme-0: is still there\. Fix: if its node is lost"):
        restore(space, archive)
    assert space.get("StatefulSet", "acme")["spec"]["replicas"] == 1


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("next_run", ["tenants", "tenant_restore"])
def test_a_run_that_is_killed_is_ended_by_the_next(space, played, archive, monkeypatch, after, next_run):
    """At each write and each execution, before or after it is done."""
    calls = {name: getattr(Cluster, name) for name in ("apply", "delete", "execute")}
    for number in itertools.count():
        left = iter(range(number))

        def call(name: str, *words: Any, left: Any = left, **more: Any) -> Any:
            kills = next(left, None) is None
            done = calls[name](*words, **more) if after or not kills else None
            if kills:
                if name == "execute" and done:
                    done.shutdown()
                raise Killed
            return done

        with monkeypatch.context() as patch:
            for name in calls:
                patch.setattr(Cluster, name, lambda *words, name=name, **more: call(name, *words, **more))
            try:
                restore(space, archive)
                break
            except Killed:
                pass
        if next_run == "tenants":
            outcome = space.converge({"name": "acme"}, wait=60.0)
            assert outcome.errors == {}
        else:
            restore(space, archive)
        played.sleep(1)
        assert played.names() == {"hermes-acme-0"}
        assert RESTORING not in space.get("StatefulSet", "acme")["metadata"]["annotations"]
        assert not played.together
        assert space.converge({"name": "acme"}).words == {"acme": "unchanged"}
    assert number >= 5
