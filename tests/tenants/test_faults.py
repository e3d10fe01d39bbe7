# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What goes wrong in a cluster while tenants are converged: a store that stops, too many calls, a login that ends, a
quota, and another run at the same time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.errors import OpsError
from ansible_collections.alwayson.hermes.plugins.module_utils.tenants import lease
from ansible_collections.alwayson.hermes.plugins.module_utils.tenants.cluster import Cluster, Unreachable
from api_server import PATIENCE, ApiServer, free_port
from space import TEMPLATE, Space

ACME, GLOBEX, INITECH = ({"name": name} for name in ("acme", "globex", "initech"))
MANY = [{"name": f"tenant {number}"} for number in range(100)]


@pytest.fixture
def before_apply(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[int, dict[str, Any]], None]], None]:
    """Have a function called before each object is applied, with the number of those before it."""

    def patch(act: Callable[[int, dict[str, Any]], None]) -> None:
        apply, lock, numbers = Cluster.apply, threading.Lock(), iter(range(10**6))

        def patched(self: Cluster, wanted: dict[str, Any], *, check: bool) -> None:
            with lock:
                number = next(numbers)
            act(number, wanted)
            apply(self, wanted, check=check)

        monkeypatch.setattr(Cluster, "apply", patched)

    return patch


def keyed(key: str) -> dict[str, Any]:
    return {"agent": {**TEMPLATE["agent"], "secrets": {"MODEL_API_KEY": key}}}


def test_many_are_made_changed_and_removed(space):
    assert set(space.converge(*MANY).words.values()) == {"created"}
    assert not space.converge(*MANY).changed
    assert set(space.converge(*MANY, template=keyed("sk-another")).words.values()) == {"changed"}
    gone = space.converge(*({**each, "state": "absent"} for each in MANY))
    assert (set(gone.words.values()), gone.errors) == ({"removed"}, {})
    assert {name.split()[0] for name in space.versions()} == {"PersistentVolumeClaim"}


def test_one_wrong_of_fifty_is_refused_before_anything(space):
    with pytest.raises(OpsError, match="tenant tenant 31: agent"):
        space.converge(*MANY[:31], {**MANY[31], "agent": {"config": "none"}}, *MANY[32:50])
    assert space.versions() == {}


def test_a_store_that_stops_for_a_while_is_waited_for(space, before_apply):
    etcd = space.server.processes[0]
    went_on = threading.Timer(8, lambda: etcd.send_signal(signal.SIGCONT))

    def stop(number: int, _wanted: dict[str, Any]) -> None:
        if number == 150:
            etcd.send_signal(signal.SIGSTOP)
            went_on.start()

    before_apply(stop)
    try:
        outcome = space.converge(*MANY)
    finally:
        went_on.join()
    assert outcome.errors == {}
    assert not space.converge(*MANY).changed


def test_an_object_that_was_replaced_meanwhile_is_left_and_told(space, monkeypatch):
    space.converge(ACME, GLOBEX)
    delete = Cluster.delete

    def replaced(self: Cluster, found: dict[str, Any], api: str, kind: str) -> None:
        if (kind, found["metadata"]["name"]) == ("StatefulSet", "hermes-acme"):
            space.server.ask("DELETE", space.path(kind, "acme"))
            foreign = {**found, "metadata": {"name": "hermes-acme", "labels": {"app": "theirs"}}}
            space.server.ask("POST", space.path(kind), {"apiVersion": api, "kind": kind, **foreign, "status": {}})
        delete(self, found, api, kind)

    monkeypatch.setattr(Cluster, "delete", replaced)
    done = space.converge(*({**each, "state": "absent"} for each in (ACME, GLOBEX)))
    assert list(done.errors) == ["acme"]
    assert "was changed meanwhile" in str(done.errors["acme"])
    assert done.words == {"globex": "removed"}
    assert space.get("StatefulSet", "acme")["metadata"]["labels"] == {"app": "theirs"}


def login(server: ApiServer, path: Path) -> str:
    """Write a kubeconfig of an account that may do everything; its name in the namespace default."""
    name = "operator"
    server.ask("POST", "/api/v1/namespaces/default/serviceaccounts", {"metadata": {"name": name}})
    subject = {"kind": "ServiceAccount", "name": name, "namespace": "default"}
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"}
    binding = {"metadata": {"name": f"{path.parent.name}-{name}"}, "roleRef": role, "subjects": [subject]}
    server.ask("POST", "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", binding)
    asked = {"spec": {"expirationSeconds": 3600}}
    made = server.ask("POST", f"/api/v1/namespaces/default/serviceaccounts/{name}/token", asked)
    server.write_kubeconfig(str(path), token=made["status"]["token"])
    return made["status"]["token"]


def test_a_login_that_ends_in_between_is_one_error(space, before_apply, tmp_path):
    space.converge()
    token = login(space.server, tmp_path / "kubeconfig")

    def end(number: int, _wanted: dict[str, Any]) -> None:
        if number == 100:
            space.server.ask("DELETE", "/api/v1/namespaces/default/serviceaccounts/operator")
            # The server remembers for so long that it knew the token.
            time.sleep(11)

    before_apply(end)
    outcome = space.converge(*MANY, kubeconfig=str(tmp_path / "kubeconfig"))
    assert outcome.errors
    assert {str(error) for error in outcome.errors.values()} == {
        "the login of the kubeconfig: is not accepted. Fix: renew it"
    }
    assert token not in str(outcome)
    space.free()
    assert space.converge(*MANY).errors == {}
    assert not space.converge(*MANY).changed


def test_a_server_that_takes_few_calls_at_a_time_is_given_time(programs, tmp_path, before_apply):
    few = ("--enable-priority-and-fairness=false", "--max-requests-inflight=1", "--max-mutating-requests-inflight=1")
    with ApiServer(programs, tmp_path, "127.0.0.1", *few) as server:
        # Those who may do everything by their group are not limited.
        login(server, tmp_path / "of-operator")
        space = Space(server, "few")
        outcome = space.converge(*MANY, kubeconfig=str(tmp_path / "of-operator"))
        assert outcome.errors == {}
        assert set(outcome.words.values()) == {"created"}
        metrics = server.ask("GET", "/metrics")
        assert 'code="429"' in metrics or "apiserver_dropped_requests_total" in metrics


def test_retries_say_nothing_to_a_terminal(space, tmp_path):
    path = str(tmp_path / "kubeconfig")
    space.server.write_kubeconfig(path, port=free_port())
    module = "ansible_collections.alwayson.hermes.plugins.module_utils.tenants"
    script = f"""
import sys
from {module} import cluster
cluster._ATTEMPTS = 2
try:
    cluster.Cluster(sys.argv[1], "", "x")
except cluster.Unreachable:
    sys.exit(7)
"""
    done = subprocess.run(
        [sys.executable, "-c", script, path],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2] / ".cache/collections")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (7, "", "")


# --- another run -------------------------------------------------------------------------------------------------


def test_two_runs_with_different_declarations_leave_each_tenant_a_secret(space, player, before_apply):
    first, second = keyed("sk-first"), keyed("sk-second")
    space.converge(ACME, template=first, wait=60)
    written, ended = threading.Event(), threading.Event()

    def pause(_number: int, wanted: dict[str, Any]) -> None:
        if wanted["kind"] == "StatefulSet" and not written.is_set():
            # The new Secret is there, and nothing uses it yet.
            written.set()
            ended.wait(5)

    before_apply(pause)
    outcomes: list[Any] = []
    runs = threading.Thread(target=lambda: outcomes.append(space.converge(ACME, template=second, wait=60)))
    runs.start()
    assert written.wait(30)
    outcomes.append(space.converge(ACME, template=first, wait=60))
    ended.set()
    runs.join()
    assert [each.errors for each in outcomes] == [{}, {}]
    pod = space.get("StatefulSet", "acme")["spec"]["template"]["spec"]
    used = {each["secret"]["secretName"] for each in pod["volumes"] if "secret" in each}
    assert used == {each["metadata"]["name"] for each in space.secrets("acme")}


def hold(space: Space, holder: str) -> None:
    """Have somebody else hold the Lease."""
    path, body = space.leases, {"spec": {"holderIdentity": holder}}
    if any(each["metadata"]["name"] == lease.NAME for each in space.server.ask("GET", path)["items"]):
        space.server.ask("PATCH", f"{path}/{lease.NAME}", body, kind="merge-patch+json")
    else:
        space.server.ask("POST", path, {"metadata": {"name": lease.NAME}, **body})


def test_a_run_that_goes_on_is_named_and_one_that_was_killed_is_not_waited_for(space, monkeypatch):
    space.converge(ACME)
    hold(space, "ann@laptop, process 7")
    # One that writes nothing needs nobody's leave.
    assert space.converge(ACME).words == {"acme": "unchanged"}
    monkeypatch.setattr(lease, "_PATIENCE", 2.0)
    before = space.versions()
    with pytest.raises(OpsError, match=r"is held by another run, of ann@laptop, process 7\..*Fix: wait for that run"):
        space.converge(ACME, GLOBEX)
    assert space.written(before) == set()
    monkeypatch.setattr(lease, "_PATIENCE", 60.0)
    monkeypatch.setattr(lease, "_LASTS", 3.0)
    monkeypatch.setattr(lease, "_RENEWED", 0.5)
    assert space.converge(ACME, GLOBEX).words == {"acme": "unchanged", "globex": "created"}


def test_a_run_that_lost_it_writes_nothing_more(space, before_apply, monkeypatch):
    space.converge()
    monkeypatch.setattr(lease, "_RENEWED", 0.1)

    def take_away(number: int, _wanted: dict[str, Any]) -> None:
        if number == 100:
            hold(space, "ann@laptop, process 7")
            time.sleep(2)

    before_apply(take_away)
    outcome = space.converge(*MANY)
    assert outcome.errors
    assert all(isinstance(error, Unreachable) for error in outcome.errors.values())
    assert {str(error) for error in outcome.errors.values()} == {
        "Lease hermes-run: was lost. Fix: run this again once no other run is under way"
    }
    found = space.server.ask("GET", f"{space.leases}/{lease.NAME}")
    assert found["spec"]["holderIdentity"] == "ann@laptop, process 7"


# --- the cluster's own controllers ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def controlled(programs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    """A cluster without nodes, whose controllers make pods."""
    with ApiServer(programs, tmp_path_factory.mktemp("controlled")) as server:
        server.control()
        log = server.directory / "kube-controller-manager.log"
        deadline = time.monotonic() + PATIENCE
        # One of them makes it.
        while not server.ask("GET", "/api/v1/namespaces/default/serviceaccounts")["items"]:
            assert time.monotonic() < deadline, log.read_text()[-2000:]
            time.sleep(0.2)
        yield server


def quota(space: Space, **hard: str) -> None:
    """Give the namespace another quota, and wait until it counts."""
    path = f"/api/v1/namespaces/{space.namespace}/resourcequotas"
    wanted = {name.replace("_", "."): value for name, value in hard.items()}
    space.server.ask("POST", path, {"metadata": {"name": "theirs"}, "spec": {"hard": wanted}})
    deadline = time.monotonic() + 60
    while space.server.ask("GET", f"{path}/theirs").get("status", {}).get("hard") != wanted:
        assert time.monotonic() < deadline, "the quota does not count"
        time.sleep(0.2)


def test_a_priority_class_that_is_not_there_is_told_in_the_words_of_the_cluster(controlled):
    space = Space(controlled, "classes")
    known = {"metadata": {"name": "known"}, "value": 1000}
    controlled.ask("POST", "/apis/scheduling.k8s.io/v1/priorityclasses", known)
    done = space.converge(ACME, {**GLOBEX, "priority_class": "nobodys"}, template={"priority_class": "known"}, wait=15)
    assert "no PriorityClass with name nobodys was found" in str(done.errors["globex"])
    # There are no nodes.
    assert "PriorityClass" not in str(done.errors["acme"])
    pod = controlled.ask("GET", "/api/v1/namespaces/classes/pods/hermes-acme-0")
    assert (pod["spec"]["priorityClassName"], pod["spec"]["priority"]) == ("known", 1000)


def test_a_quota_that_is_reached_is_the_error_of_those_that_it_keeps_out(controlled):
    space = Space(controlled, "quotas")
    space.converge(ACME)
    quota(space, requests_storage="10Gi", pods="1")
    done = space.converge(ACME, GLOBEX, wait=15)
    assert "exceeded quota: theirs, requested: pods=1" in str(done.errors["globex"])
    third = space.converge(ACME, {**GLOBEX, "limits": {"memory": "2Gi"}}, INITECH, wait=0)
    assert list(third.errors) == ["initech"]
    said = str(third.errors["initech"])
    assert "PersistentVolumeClaim hermes-initech: is refused" in said
    assert "exceeded quota: theirs, requested: requests.storage=5Gi" in said
    assert "Fix: raise the quota" in said
    assert third.words == {"acme": "unchanged", "globex": "changed"}
