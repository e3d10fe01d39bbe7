# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A whole cluster: a real control plane on this machine, and real nodes in boxes."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import agent_image
from api_server import ApiServer
from containers import docker, request, until
from node import VOLUMES, Node

# The class of the volumes, which any node can have, as those of a storage system.
CLASS = "shared"
_LOGIN, _AUTHORITY = "kubeconfig-of-nodes", "/etc/kubernetes/ca.crt"


class Cluster:
    def __init__(self, server: ApiServer, nodes: list[Node], image: str, model: str) -> None:
        self.server, self.nodes, self.image, self.model = server, nodes, image, model

    @property
    def model_url(self) -> str:
        form = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}"
        return f"http://{docker('inspect', '--format', form, self.model).stdout.strip()}:18080/v1"

    def tell_model(self, what: str, value: Any = None) -> Any:
        """Control the model server: tests/fakes/model_server.py."""
        return request(self.model, 18080, f"/control/{what}", value)

    def calm_model(self) -> None:
        """Have the model forget what it was told, and answer what it holds."""
        request(self.model, 18080, "/control", method="DELETE")

    def start(self, node: Node) -> None:
        """Start a *node*, and wait until pods may run on it."""
        node.start(self.server.directory / _LOGIN, Path(self.server.authority), [self.image])
        until(lambda: self.is_ready(node), f"{node.name} is ready", 120)

    def is_ready(self, node: Node) -> bool:
        """Whether pods may run there. The taint goes a moment after the node says that it is ready."""
        with contextlib.suppress(OSError):
            found = self.server.ask("GET", f"/api/v1/nodes/{node.name}")
            conditions = {each["type"]: each["status"] for each in found["status"]["conditions"]}
            tainted = any(each["key"].endswith("/not-ready") for each in found["spec"].get("taints", ()))
            return conditions.get("Ready") == "True" and not tainted
        return False

    def add_volumes(self, count: int) -> None:
        """Make volumes that tenants can have, on whatever node their pods run."""
        names = [node.name for node in self.nodes]
        there = [{"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": names}]}]
        for number in range(count):
            name = f"volume-{number}"
            (self.nodes[0].volumes / name).mkdir()
            spec = {
                **{"capacity": {"storage": "5Gi"}, "accessModes": ["ReadWriteOnce"], "storageClassName": CLASS},
                **{"local": {"path": f"{VOLUMES}/{name}"}, "persistentVolumeReclaimPolicy": "Retain"},
                "nodeAffinity": {"required": {"nodeSelectorTerms": there}},
            }
            volume = {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": name}, "spec": spec}
            self.server.ask("POST", "/api/v1/persistentvolumes", volume)

    def pod(self, namespace: str, tenant: str) -> dict[str, Any]:
        return self.server.ask("GET", f"/api/v1/namespaces/{namespace}/pods/hermes-{tenant}-0")

    def call(self, pod: dict[str, Any], port: int, path: str, body: Any = None, **headers: str) -> tuple[int, str]:
        """The status and the text with which the *pod* answers its node."""
        (node,) = (node for node in self.nodes if node.name == pod["spec"]["nodeName"])
        words = ["curl", "--silent", "--show-error", "--max-time", "60", "--write-out", "\n%{http_code}"]
        for name, value in headers.items():
            words += ["--header", f"{name.replace('_', '-')}: {value}"]
        if body is not None:
            words += ["--header", "Content-Type: application/json", "--data", body]
        text, _newline, status = node.execute(
            *words, f"http://{pod['status']['podIP']}:{port}{path}", check=False
        ).rpartition("\n")
        return int(status or 0), text

    def reply(self, pod: dict[str, Any], key: str, said: str) -> str:
        """What the agent in *pod* says."""
        body = json.dumps({"model": "hermes-agent", "messages": [{"role": "user", "content": said}]})
        status, text = self.call(pod, 8642, "/v1/chat/completions", body, Authorization=f"Bearer {key}")
        assert status == 200, text
        return json.loads(text)["choices"][0]["message"]["content"]


def cluster(
    stack: contextlib.ExitStack,
    programs: Path,
    directory: Path,
    model: str,
    *,
    network: str,
    nodes: int = 2,
    volumes: int = 10,
) -> Cluster:
    """Start a cluster with *nodes*, and *volumes* for tenants.

    :param stack: gets what removes it
    :param directory: an empty one
    :param model: the container of the model server, on the *network* of docker's
    """
    image = agent_image.build()
    disks = directory / "volumes"
    disks.mkdir()
    gateway = "{{range .IPAM.Config}}{{.Gateway}}{{end}}"
    address = docker("network", "inspect", "--format", gateway, network).stdout.strip()
    server = stack.enter_context(ApiServer(programs, directory, address))
    server.control()
    server.write_kubeconfig(str(directory / _LOGIN), authority=_AUTHORITY)
    made = Cluster(server, [Node(number + 1, network, programs, disks) for number in range(nodes)], image, model)
    for node in made.nodes:
        stack.callback(node.remove)
        made.start(node)
    for node in made.nodes:
        node.reach([other for other in made.nodes if other is not node])
    provisioner = {"provisioner": "kubernetes.io/no-provisioner", "metadata": {"name": CLASS}}
    kind = {"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", **provisioner}
    server.ask("POST", "/apis/storage.k8s.io/v1/storageclasses", kind)
    made.add_volumes(volumes)
    return made
