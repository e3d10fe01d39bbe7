# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Measures a thousand tenants in a real API server, against the same objects applied without a look and a client; and
real tenants on real nodes."""

from __future__ import annotations

import http.client
import json
import resource
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import date, datetime, timezone
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests/hosts"))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests/tenants"))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / ".cache/collections"))
import agent_image
import whole
from ansible_collections.alwayson.hermes.plugins.module_utils.tenants import nodes, objects, status
from ansible_collections.alwayson.hermes.plugins.module_utils.tenants.cluster import CALLS, Cluster
from ansible_collections.alwayson.hermes.plugins.module_utils.tenants.converge import converge
from ansible_collections.alwayson.hermes.plugins.module_utils.tenants.declared import Declared, resolve
from api_server import TOKEN, ApiServer
from built import once, run
from containers import model_server, until

from bench import seconds

# Plays nodes (https://kwok.sigs.k8s.io), so many of them; and tenants that are updated at a time.
KWOK, VERSION, NODES, WAVE = "sigs.k8s.io/kwok", "v0.8.0", 45, 50
STAGES = ("node/fast", "node/heartbeat-with-lease", "pod/fast")
BUILDER = Path(__file__).resolve().parent.parent / "tests/hosts/kubernetes_programs.py"
TENANTS = 1000
# Of those that run, and how many of them are updated at a time.
REAL, BATCH = 20, 5
TEMPLATE = {
    "image": "registry.example.com/hermes-agent:1",
    "secret": "secret-of-the-bench-0123456789abcdef",
    "agent": {"config": {"model": {"provider": "custom", "default": "stub"}}, "secrets": {"MODEL_API_KEY": "sk-bench"}},
    "requests": {"cpu": "100m", "memory": "256Mi"},
    "limits": {"cpu": "500m", "memory": "1Gi"},
    "volume": "5Gi",
    "storage_class": "",
    "node_selector": {},
    "tolerations": [],
}
PLURALS = {"Secret": "secrets", "PersistentVolumeClaim": "persistentvolumeclaims", "Service": "services"}


def declared(namespace: str, tenants: list[dict[str, Any]]) -> Declared:
    return resolve(namespace, TEMPLATE, tenants)


def ours(server: ApiServer, tenants: list[dict[str, Any]]) -> None:
    with Cluster(server.kubeconfig, "", "ours") as cluster:
        outcome = converge(cluster, declared("ours", tenants), date.today())
    if outcome.errors:
        raise SystemExit(str(outcome.errors))


def raw(server: ApiServer, tenants: list[dict[str, Any]]) -> None:
    """Apply each object, as many at a time as we do."""
    own, trusting = threading.local(), ssl.create_default_context(cafile=server.authority)
    headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/apply-patch+yaml"}

    def apply(each: dict[str, Any]) -> None:
        if not hasattr(own, "connection"):
            own.connection = http.client.HTTPSConnection("127.0.0.1", server.port, context=trusting)
        group = "apis/apps/v1" if each["kind"] == "StatefulSet" else "api/v1"
        plural = PLURALS.get(each["kind"], "statefulsets")
        path = f"/{group}/namespaces/raw/{plural}/{each['metadata']['name']}?fieldManager=bench"
        own.connection.request("PATCH", path, json.dumps(each), headers)
        answer = own.connection.getresponse()
        answer.read()
        if answer.status >= 300:
            raise SystemExit(f"{path}: {answer.status}")

    with ThreadPoolExecutor(CALLS) as pool:
        found = declared("raw", tenants).tenants
        list(pool.map(apply, [each for tenant in found for each in objects.of_tenant(tenant)]))


def on_nodes(programs: Path, directory: Path) -> None:
    """Tenants that run, on two nodes that have the image."""
    tenants: list[dict[str, Any]] = [{"name": f"tenant-{number}"} for number in range(REAL)]
    with ExitStack() as stack:
        model = stack.enter_context(model_server(agent_image.build()))
        cluster = whole.cluster(stack, programs, directory, model, network=model, volumes=REAL)
        template = {**TEMPLATE, "image": cluster.image, "storage_class": whole.CLASS}
        template["agent"] = {"config": {"model": {"provider": "custom", "default": "stub", "base_url": "http://x"}}}

        def converge_to(count: int, **changes: Any) -> None:
            wanted = resolve("real", {**template, **changes}, tenants[:count], batch=BATCH)
            with Cluster(cluster.server.kubeconfig, "", "real") as calls:
                outcome = converge(calls, wanted, date.today(), wait=300)
            if outcome.errors:
                raise SystemExit(str(outcome.errors))

        converge_to(1)
        took = seconds(lambda: converge_to(2))
        print(f"| a tenant declared, to ready | {took:.1f} s | | | ≤ 6 s |", flush=True)
        converge_to(REAL)
        with Cluster(cluster.server.kubeconfig, "", "real") as calls:
            until(lambda: all(each.memory for each in status.look(calls)), "memory is measured", 120)
            used = sorted(each.memory or 0 for each in status.look(calls))
        print(f"| an idle tenant's memory, the median of {REAL} | {used[REAL // 2] / 1e6:.0f} MB | | | ≤ 130 MB |")
        limits = {"cpu": "500m", "memory": "1100Mi"}
        took = seconds(lambda: converge_to(REAL, limits=limits))
        print(f"| an update of {REAL} tenants that run, {BATCH} at a time | {took:.1f} s | | | |", flush=True)
        lost(cluster)


def lost(cluster: whole.Cluster) -> None:
    """From the moment at which a node is given up, to an answer of a tenant that ran there."""
    pod = cluster.pod("real", "tenant-0")
    node = next(each for each in cluster.nodes if each.name == pod["spec"]["nodeName"])
    node.kill()
    until(lambda: not cluster.is_ready(node), "the node is missed")
    with Cluster(cluster.server.kubeconfig, "", "real") as calls:
        later = datetime.fromtimestamp(time.time() + 3600, timezone.utc)
        nodes.lost(calls, node.name, later, is_off=True)
    took = seconds(lambda: until(lambda: answers(cluster, pod), "it answers elsewhere", 300))
    print(f"| a lost node, from the taint to an answer | {took:.1f} s | | | ≤ 30 s |", flush=True)


def answers(cluster: whole.Cluster, before: dict[str, Any]) -> bool:
    """Whether another pod than *before* answers."""
    try:
        pod = cluster.pod("real", "tenant-0")
    except OSError:
        return False
    runs = pod["metadata"]["uid"] != before["metadata"]["uid"] and "podIP" in pod["status"]
    return runs and cluster.call(pod, 8642, "/health")[0] == 200


def kwok(target: Path) -> None:
    """Build kwok, and have what it does with nodes and pods beside it."""
    run(
        "nice",
        "go",
        "install",
        f"{KWOK}/cmd/kwok@{VERSION}",
        cwd=target,
        env={"CGO_ENABLED": "0", "GOBIN": str(target)},
    )
    module = Path(json.loads(run("go", "mod", "download", "-json", f"{KWOK}@{VERSION}", cwd=target))["Dir"])
    stages = [each for name in STAGES for each in sorted((module / "kustomize/stage" / name).glob("*-*.yaml"))]
    (target / "stages.yaml").write_text("\n---\n".join(each.read_text() for each in stages))


def on_played_nodes(server: ApiServer, tenants: list[dict[str, Any]]) -> None:
    """An update of *tenants* by Kubernetes' controllers and scheduler, on nodes that only say that they run them."""
    server.control()
    login, played = f"--kubeconfig={server.kubeconfig}", once("kwok", [Path(__file__)], kwok)
    with (server.directory / "kwok.log").open("wb") as log:
        # A node is missed by the controllers of these tests after ten seconds.
        words = [played / "kwok", login, f"--config={played}/stages.yaml", "--manage-all-nodes=true"]
        words.append("--node-lease-duration-seconds=8")
        server.processes.append(subprocess.Popen(words, stdout=log, stderr=log))
    held = {"cpu": "16", "memory": "64Gi", "pods": "110"}
    for number in range(NODES):
        node = {"metadata": {"name": f"played-{number}"}, "status": {"capacity": held, "allocatable": held}}
        server.ask("POST", "/api/v1/nodes", {"apiVersion": "v1", "kind": "Node", **node})
    kind = {"provisioner": "kubernetes.io/no-provisioner", "metadata": {"name": whole.CLASS}}
    server.ask("POST", "/apis/storage.k8s.io/v1/storageclasses", kind)
    for number in range(len(tenants)):
        spec = {"capacity": {"storage": "5Gi"}, "accessModes": ["ReadWriteOnce"], "hostPath": {"path": "/none"}}
        volume = {"metadata": {"name": f"volume-{number}"}, "spec": {**spec, "storageClassName": whole.CLASS}}
        server.ask("POST", "/api/v1/persistentvolumes", volume)

    def converge_to(image: str) -> None:
        wanted = resolve("played", {**TEMPLATE, "image": image, "storage_class": whole.CLASS}, tenants, batch=WAVE)
        with Cluster(server.kubeconfig, "", "played") as calls:
            # There is nobody who could be asked.
            outcome = converge(calls, wanted, date.today(), wait=600, reply=False)
        if outcome.errors:
            raise SystemExit(str(next(iter(outcome.errors.items()))))

    until(lambda: all(map(is_untainted, server.ask("GET", "/api/v1/nodes")["items"])), "the nodes are ready", 120)
    converge_to("registry.example.com/hermes-agent:1")
    took = seconds(lambda: converge_to("registry.example.com/hermes-agent:2"))
    print(f"| an update of {len(tenants)} tenants on nodes of kwok, {WAVE} at a time | {took:.0f} s | | | ≤ 300 s |")


def is_untainted(node: dict[str, Any]) -> bool:
    return not node["spec"].get("taints")


def main() -> None:
    built = subprocess.run([sys.executable, BUILDER], capture_output=True, text=True, check=True)
    with tempfile.TemporaryDirectory() as directory:
        on_nodes(Path(built.stdout.strip()), Path(directory))
    tenants: list[dict[str, Any]] = [{"name": f"tenant {number}"} for number in range(TENANTS)]
    with tempfile.TemporaryDirectory() as directory, ApiServer(Path(built.stdout.strip()), Path(directory)) as server:
        server.ask("POST", "/api/v1/namespaces", {"metadata": {"name": "raw"}})
        for what, budget in (("first time", "≤ 35 s"), ("again", "≤ 5 s")):
            took, floor = seconds(lambda: ours(server, tenants)), seconds(lambda: raw(server, tenants))
            row = f"{TENANTS} tenants, {what} | {took:.1f} s | {floor:.1f} s applied without a look"
            print(f"| {row} | {took / floor:.2f} × | {budget} |", flush=True)
        tenants[TENANTS // 2]["agent"] = {"secrets": {"MODEL_API_KEY": "sk-another"}}
        print(f"| one changed secret among {TENANTS} | {seconds(lambda: ours(server, tenants)):.1f} s | | | ≤ 8 s |")
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(f"| the controller's memory with {TENANTS}, without Ansible's own | {peak:.0f} MiB | | | ≤ 300 MB |")
    with tempfile.TemporaryDirectory() as directory, ApiServer(Path(built.stdout.strip()), Path(directory)) as server:
        on_played_nodes(server, [{"name": f"tenant {number}"} for number in range(TENANTS)])


if __name__ == "__main__":
    main()
