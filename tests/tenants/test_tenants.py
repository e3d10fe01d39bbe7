# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Tenants in a real API server: made, changed, removed, and what goes wrong on the way. Nothing runs their pods."""

from __future__ import annotations

import base64
import gc
import json
import logging
import threading
import urllib.error
from datetime import timedelta
from typing import Any

import pytest
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.errors import OpsError
from ansible_collections.alwayson.hermes.plugins.module_utils.tenants import cluster as calls
from ansible_collections.alwayson.hermes.plugins.module_utils.tenants import status
from ansible_collections.alwayson.hermes.plugins.module_utils.tenants.cluster import Cluster, Unreachable
from api_server import free_port
from space import KINDS, TEMPLATE, TODAY, Space

ACME, GLOBEX, INITECH = ({"name": name} for name in ("acme", "globex", "Initech GmbH"))


def test_check_then_made_then_nothing(space):
    checked = space.converge(ACME, GLOBEX, check=True)
    assert checked.words == {"acme": "created", "globex": "created"}
    with pytest.raises(urllib.error.HTTPError):
        space.server.ask("GET", f"/api/v1/namespaces/{space.namespace}")

    made = space.converge(ACME, GLOBEX)
    assert (made.words, made.errors) == (checked.words, {})
    assert [each.what for each in made.differences] == [each.what for each in checked.differences]
    before = space.versions()
    assert len(before) == 2 * len(KINDS)
    again = space.converge(ACME, GLOBEX)
    assert again.words == {"acme": "unchanged", "globex": "unchanged"}
    assert not again.changed
    assert space.written(before) == set()


def test_a_tenant_is_what_its_agent_needs(space):
    space.converge(INITECH)
    pod = space.get("StatefulSet", "initech-gmbh")["spec"]["template"]
    (container,) = pod["spec"]["containers"]
    (secret,) = space.secrets("initech-gmbh")
    held = secret["data"]
    described = json.loads(base64.b64decode(held["agent.json"]))
    assert described["config"] == TEMPLATE["agent"]["config"]
    mounts = {each["mountPath"]: each for each in container["volumeMounts"]}
    assert mounts.keys() == {"/opt/data", "/etc/hermes", "/run/secrets/hermes", "/tmp"}
    files = {
        each["name"]: [item["key"] for item in each.get("secret", {}).get("items", ())]
        for each in pod["spec"]["volumes"]
    }
    assert files["description"] == ["agent.json"]
    used = {each["secret"]["secretName"] for each in pod["spec"]["volumes"] if "secret" in each}
    assert (used, secret["immutable"]) == ({secret["metadata"]["name"]}, True)
    assert sorted([*files["secrets"], "agent.json"]) == sorted(held)
    assert container["resources"]["limits"] == {"cpu": "500m", "memory": "1Gi"}
    assert {each["port"] for each in space.get("Service", "initech-gmbh")["spec"]["ports"]} == {8642, 8644}
    # The drain time of an agent is 30 s.
    assert pod["spec"]["terminationGracePeriodSeconds"] > 30


def test_its_pod_is_one_that_the_namespace_takes(space):
    space.converge(ACME)
    template = space.get("StatefulSet", "acme")["spec"]["template"]
    path = f"/api/v1/namespaces/{space.namespace}/pods?dryRun=All"
    pod = {"apiVersion": "v1", "kind": "Pod", **template, "metadata": {"name": "x", **template["metadata"]}}
    assert space.server.ask("POST", path, pod)["status"]["phase"] == "Pending"
    # The namespace is what refuses others.
    pod["spec"]["containers"][0]["securityContext"]["allowPrivilegeEscalation"] = True
    with pytest.raises(urllib.error.HTTPError, match="403"):
        space.server.ask("POST", path, pod)


def test_what_differs_is_written_and_nothing_else(space):
    space.converge(ACME, GLOBEX, INITECH)
    before = space.versions()
    (old,) = space.secrets("globex")
    changed = space.converge(ACME, {**GLOBEX, "agent": {"secrets": {"MODEL_API_KEY": "sk-secret-of-one"}}}, INITECH)
    assert changed.words == {"acme": "unchanged", "globex": "changed", "Initech GmbH": "unchanged"}
    # What runs goes on with the secrets that it has until it is replaced.
    (new,) = [each["metadata"]["name"] for each in space.secrets("globex") if each != old]
    assert space.written(before) == {f"Secret {new}", "StatefulSet hermes-globex"}
    shown = str(changed.diff("x"))
    assert "MODEL_API_KEY" in shown
    assert "secret-of-one" not in shown
    assert base64.b64encode(b"sk-secret-of-one").decode() not in shown


def test_a_field_that_is_no_longer_declared_goes(space):
    space.converge(ACME)
    space.converge(ACME, template={"node_selector": {}})
    assert "nodeSelector" not in space.get("StatefulSet", "acme")["spec"]["template"]["spec"]


def test_fields_of_others_stay_theirs(space):
    space.converge(ACME)
    note = {"metadata": {"annotations": {"example.com/note": "keep"}, "labels": {"team": "a"}}}
    space.server.ask("PATCH", space.path("StatefulSet", "acme"), note, kind="merge-patch+json")
    assert space.converge(ACME).words == {"acme": "unchanged"}
    space.converge({**ACME, "limits": {"memory": "2Gi"}})
    kept = space.get("StatefulSet", "acme")["metadata"]
    assert kept["annotations"]["example.com/note"] == "keep"
    assert kept["labels"]["team"] == "a"


def test_somebody_who_changes_what_we_declare_is_named_and_the_others_go_on(space):
    space.converge(ACME, GLOBEX)
    scale = {"spec": {"replicas": 0}}
    path = f"{space.path('StatefulSet', 'acme')}?fieldManager=a-colleague"
    space.server.ask("PATCH", path, scale, kind="merge-patch+json")
    checked = space.converge(ACME, {**GLOBEX, "limits": {"memory": "2Gi"}}, check=True)
    assert "a-colleague" in str(checked.errors["acme"])
    done = space.converge(ACME, {**GLOBEX, "limits": {"memory": "2Gi"}})
    assert list(done.errors) == ["acme"]
    assert "a-colleague" in str(done.errors["acme"])
    assert "spec.replicas" in str(done.errors["acme"])
    assert done.words == {"globex": "changed"}
    assert space.get("StatefulSet", "acme")["spec"]["replicas"] == 0
    # What came before the refusal is a change.
    half = space.converge({**ACME, "agent": {"secrets": {"MODEL_API_KEY": "sk-another"}}}, GLOBEX, wait=0)
    assert list(half.errors) == ["acme"]
    assert half.changed


def test_a_namespace_that_goes_meanwhile_is_an_error(space, monkeypatch):
    applied = Cluster.apply

    def apply(self: Cluster, wanted: dict[str, Any], *, check: bool) -> None:
        if wanted["kind"] == "Service":
            monkeypatch.setattr(self, "namespace", f"{self.namespace}-gone")
        applied(self, wanted, check=check)

    with monkeypatch.context() as patch:
        patch.setattr(Cluster, "apply", apply)
        outcome = space.converge(ACME)
    assert "not found" in str(outcome.errors["acme"])


def test_an_object_of_somebody_else_is_not_touched(space):
    space.converge(GLOBEX)
    foreign = space.get("StatefulSet", "globex")
    foreign["metadata"] = {"name": "hermes-acme", "labels": {"app": "theirs"}}
    space.server.ask("POST", space.path("StatefulSet"), {**foreign, "status": {}})
    before = space.versions()
    done = space.converge(ACME, GLOBEX)
    assert "StatefulSet hermes-acme: is there, and not ours" in str(done.errors["acme"])
    assert space.written(before) == set()
    gone = space.converge({**ACME, "state": "absent", "purge": True}, GLOBEX)
    assert (gone.words["acme"], gone.errors) == ("absent", {})
    assert space.written(before) == set()


def test_a_namespace_of_somebody_else_is_refused(space):
    space.server.ask("POST", "/api/v1/namespaces", {"metadata": {"name": space.namespace}})
    with pytest.raises(OpsError, match=f"Namespace {space.namespace}: is there, and not ours.*kubectl label"):
        space.converge(ACME)
    assert space.versions() == {}


def test_an_absent_tenant_leaves_its_volume_until_its_day(space):
    space.converge(ACME)
    volume = space.get("PersistentVolumeClaim", "acme")["metadata"]["uid"]
    absent = {**ACME, "state": "absent"}
    before = space.versions()
    assert space.converge(absent, check=True).words == {"acme": "removed"}
    assert space.written(before) == set()
    assert space.converge(absent).words == {"acme": "removed"}
    assert [space.get(kind, "acme") for kind in ("StatefulSet", "Service")] == [None] * 2
    assert space.secrets("acme") == []
    # Nothing more until then.
    almost = TODAY + timedelta(days=29)
    assert space.converge(absent, today=almost).words == {"acme": "absent"}
    assert space.converge(today=almost).undeclared == []

    # One that comes back in time has its memory.
    assert space.converge(ACME, today=almost).words == {"acme": "created"}
    found = space.get("PersistentVolumeClaim", "acme")["metadata"]
    assert found["uid"] == volume
    assert "alwayson.hermes/remove-after" not in found["annotations"]
    assert space.converge(ACME, today=almost).words == {"acme": "unchanged"}

    space.converge(absent)
    assert space.converge(absent, today=TODAY + timedelta(days=30)).words == {"acme": "removed"}
    assert removed(space, "acme")


def removed(space: Space, name: str) -> bool:
    """Whether the volume goes. What protects volumes in use is a controller's to take away."""
    found = space.get("PersistentVolumeClaim", name)
    return found is None or "deletionTimestamp" in found["metadata"]


def test_a_volume_goes_at_once_if_asked(space):
    space.converge(ACME)
    space.converge({**ACME, "state": "absent", "purge": True})
    assert removed(space, "acme")
    # It is not taken while it goes.
    if space.get("PersistentVolumeClaim", "acme"):
        assert "is being removed" in str(space.converge(ACME).errors["acme"])


def test_a_tenant_that_is_not_declared_is_named_and_stays(space):
    space.converge(ACME, INITECH)
    before = space.versions()
    found = space.converge(ACME)
    assert (found.undeclared, found.changed) == (["Initech GmbH"], False)
    assert space.written(before) == set()
    purged = space.converge(ACME, purge=True)
    assert purged.words == {"acme": "unchanged", "Initech GmbH": "removed"}
    assert space.get("StatefulSet", "initech-gmbh") is None
    assert not removed(space, "initech-gmbh")
    before = space.versions()
    assert space.converge(ACME, purge=True).undeclared == []
    assert space.written(before) == set()
    # Its day comes also for one that nobody declares any more.
    assert space.converge(ACME, today=TODAY + timedelta(days=30)).words["Initech GmbH"] == "removed"
    assert removed(space, "initech-gmbh")


def test_what_the_server_refuses_is_told_of_the_tenant_alone(space):
    done = space.converge({**ACME, "node_selector": {"not a label": "x"}}, GLOBEX)
    assert list(done.errors) == ["acme"]
    assert "not a label" in str(done.errors["acme"])
    assert done.words == {"globex": "created"}


def test_a_volume_that_cannot_be_as_declared_is_told_and_all_else_is_done(space):
    space.converge(ACME, GLOBEX, template={"storage_class": "slow"})
    wanted = {"storage_class": "fast", "limits": {"memory": "2Gi"}}
    done = space.converge({**ACME, "volume": "1Gi", **wanted}, GLOBEX, template={"storage_class": "slow"})
    assert list(done.errors) == ["acme"]
    said = str(done.errors["acme"])
    assert "has 5Gi and cannot become 1Gi, which is smaller and has the class slow and cannot get fast" in said
    assert done.words == {"acme": "changed", "globex": "unchanged"}
    (container,) = space.get("StatefulSet", "acme")["spec"]["template"]["spec"]["containers"]
    assert container["resources"]["limits"]["memory"] == "2Gi"
    before = space.versions()
    again = space.converge({**ACME, "volume": "1Gi", **wanted}, GLOBEX, template={"storage_class": "slow"})
    assert (list(again.errors), again.changed, space.written(before)) == (["acme"], False, set())


def test_pods_of_others_have_limits(space):
    space.converge(ACME)
    container = {"name": "x", "image": "x", "securityContext": {"allowPrivilegeEscalation": False}}
    container["securityContext"] |= {"capabilities": {"drop": ["ALL"]}, "runAsNonRoot": True}
    container["securityContext"] |= {"seccompProfile": {"type": "RuntimeDefault"}}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": {"containers": [container]}}
    path = f"/api/v1/namespaces/{space.namespace}/pods?dryRun=All"
    (made,) = space.server.ask("POST", path, pod)["spec"]["containers"]
    assert made["resources"] == {
        "requests": {"cpu": "100m", "memory": "128Mi"},
        "limits": {"cpu": "500m", "memory": "512Mi"},
    }


@pytest.mark.parametrize(
    ("policy", "opened"),
    [
        ("default-deny", {"ingress": [{}]}),
        ("default-deny", {"podSelector": {"matchLabels": {"a": "b"}}}),
        ("callers", {"policyTypes": ["Ingress", "Egress"], "egress": [{}]}),
        ("callers", {"ingress": [{}]}),
    ],
    ids=["field", "selector", "type", "rule"],
)
def test_a_policy_that_somebody_opens_is_an_error(space, policy, opened):
    space.converge(ACME)
    path = f"/apis/networking.k8s.io/v1/namespaces/{space.namespace}/networkpolicies/hermes-{policy}"
    space.server.ask("PATCH", f"{path}?fieldManager=a-colleague", {"spec": opened}, kind="merge-patch+json")
    with pytest.raises(OpsError, match=f"NetworkPolicy hermes-{policy}: (has fields|is changed by somebody)"):
        space.converge(ACME)
    space.server.ask("DELETE", path)
    assert space.converge(ACME).errors == {}
    # What is declared differently is ours.
    assert space.converge(ACME, declared={"callers": (), "egress": ("192.0.2.7/32",)}).errors == {}
    assert space.converge(ACME).changed


def test_two_runs_at_once_make_the_same(space):
    space.converge()
    tenants = [{"name": f"tenant {number}"} for number in range(20)]
    outcomes: list[Any] = []
    runs = [threading.Thread(target=lambda: outcomes.append(space.converge(*tenants))) for _number in range(2)]
    for run in runs:
        run.start()
    for run in runs:
        run.join()
    assert [outcome.errors for outcome in outcomes] == [{}, {}]
    assert not space.converge(*tenants).changed


@pytest.mark.parametrize("wrong", ["token", "port", "file", "context", "text", "list", "bytes"])
def test_a_cluster_that_cannot_be_asked_is_one_error(space, tmp_path, monkeypatch, wrong):
    monkeypatch.setattr(calls, "_ATTEMPTS", 1)
    path = str(tmp_path / "kubeconfig")
    given = {"token": {"token": "another"}, "port": {"port": free_port()}}.get(wrong, {})
    if wrong in ("text", "list", "bytes"):
        (tmp_path / "kubeconfig").write_bytes({"text": b"a: b: c", "list": b"[1]", "bytes": b"\xff"}[wrong])
    elif wrong != "file":
        space.server.write_kubeconfig(path, **given)
    with (
        pytest.raises(OpsError, match="Fix: ") as caught,
        Cluster(path, "x" * (wrong == "context"), "hermes") as cluster,
    ):
        cluster.all("v1", "Secret")
    assert isinstance(caught.value, Unreachable)
    assert "\n" not in str(caught.value)


# Python leaves the socket of a server that resets the connection before the handshake to the garbage collector.
@pytest.mark.filterwarnings("ignore:unclosed <ssl.SSLSocket:ResourceWarning")
def test_a_server_that_is_killed_in_between_is_told_and_the_next_run_ends_it(space, monkeypatch, caplog):
    # What the client logs would hold on to them until the next test.
    caplog.set_level(logging.CRITICAL, "urllib3")
    monkeypatch.setattr(calls, "_ATTEMPTS", 1)
    tenants = [{"name": f"tenant {number}"} for number in range(60)]
    applied = Cluster.apply
    left = iter(range(40))

    def apply(self: Cluster, *words: Any, **more: Any) -> None:
        if next(left, None) is None and space.server.processes[-1].poll() is None:
            space.server.processes[-1].kill()
        applied(self, *words, **more)

    with monkeypatch.context() as patch:
        patch.setattr(Cluster, "apply", apply)
        outcome = space.converge(*tenants)
    assert outcome.errors
    assert all(isinstance(error, Unreachable) for error in outcome.errors.values())
    # The errors hold on to such sockets, and no other test may be blamed for them.
    del outcome
    gc.collect()
    space.server.processes.pop().wait()
    space.server.start()
    space.free()
    assert space.converge(*tenants).errors == {}
    assert not space.converge(*tenants).changed


def test_what_is_not_ready_in_time_is_told_in_the_words_of_the_cluster(space):
    space.converge()
    done = threading.Thread(target=lambda: _play_controller(space))
    done.start()
    outcome = space.converge(ACME, GLOBEX, wait=6)
    done.join()
    assert list(outcome.errors) == ["globex"]
    assert "ImagePullBackOff: no such image" in str(outcome.errors["globex"])
    assert f"kubectl --namespace {space.namespace} logs hermes-globex-0" in str(outcome.errors["globex"])

    space.converge(ACME, GLOBEX, {**INITECH, "volume": "1Gi"})
    space.converge(ACME, GLOBEX, {**INITECH, "state": "absent"})
    with Cluster(space.server.kubeconfig, "", space.namespace) as cluster:
        globex, initech, acme = found = status.look(cluster)
    assert (globex.name, globex.state, globex.restarts) == ("globex", "not ready", 3)
    assert globex.why == "ImagePullBackOff: no such image"
    assert (initech.name, initech.state, initech.volume) == ("Initech GmbH", "absent", "1Gi")
    assert initech.why == "its volume stays until 2026-12-23"
    assert (acme.name, acme.state, acme.image) == ("acme", "ready", TEMPLATE["image"])
    shown = list(status.lines(found))
    assert shown[1].endswith("hermes-agent:1  (ImagePullBackOff: no such image)")
    assert shown[-1] == "1 ready, 1 absent, 1 not ready"


def _play_controller(space: Space) -> None:
    """Say of one tenant that it is ready, and of the other that its image is not there."""
    for name in ("acme", "globex"):
        while not (keeper := space.get("StatefulSet", name)):
            pass
        template = keeper["spec"]["template"]
        pod = {"apiVersion": "v1", "kind": "Pod", **template}
        pod["metadata"] = {"name": f"hermes-{name}-0", **template["metadata"]}
        path = f"/api/v1/namespaces/{space.namespace}/pods"
        space.server.ask("POST", path, pod)
        if name == "acme":
            ready = {"observedGeneration": 1, "replicas": 1, "readyReplicas": 1, "updatedReplicas": 1}
            where, status = f"{space.path('StatefulSet', name)}/status", ready
        else:
            waiting = {"reason": "ImagePullBackOff", "message": "no such image"}
            container = {"name": "agent", "image": "x", "imageID": "", "ready": False, "restartCount": 3}
            status = {"phase": "Pending", "containerStatuses": [{**container, "state": {"waiting": waiting}}]}
            where = f"{path}/hermes-{name}-0/status"
        space.server.ask("PATCH", where, {"status": status}, kind="merge-patch+json")
