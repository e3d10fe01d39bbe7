# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Real nodes of Kubernetes in boxes: containerd and a kubelet, on a network of docker's."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from box import HERE, alone, boot, digest, ensure_image, image_exists, run, say, wait_for_boot
from containers import docker

# Its containerd runs on both versions of control groups.
SUITE = "bookworm"
PAUSE = "localhost/pause:1"
# What outlives a node, as the disks of a storage system do.
VOLUMES = "/srv/volumes"


@dataclass(frozen=True)
class Node:
    """A node.

    :param number: from 1 on; its pods have addresses in 10.244.<number>.0/24
    :param programs: the directory with Kubernetes' programs
    :param volumes: a directory of this machine that all nodes have as /srv/volumes
    """

    number: int
    network: str
    programs: Path
    volumes: Path

    @property
    def name(self) -> str:
        return f"{self.network}-node{self.number}"

    @property
    def pods(self) -> str:
        return f"10.244.{self.number}.0/24"

    @property
    def address(self) -> str:
        form = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}"
        return docker("inspect", "--format", form, self.name).stdout.strip()

    def start(self, kubeconfig: Path, authority: Path, images: list[str]) -> None:
        """Start it, in place of one that was there, with *images* of this machine's docker.

        :param kubeconfig: its login; it names the certificate of the API server as /etc/kubernetes/ca.crt
        """
        options = [
            *("--security-opt=systempaths=unconfined", f"--network={self.network}"),
            # Layers of containers cannot lie on layers of containers.
            *("--volume=/var/lib/containerd", "--volume=/var/lib/kubelet"),
            *(f"--volume={self.programs}:/opt/kubernetes:ro", f"--volume={self.volumes}:{VOLUMES}"),
        ]
        boot(self.name, node_image(), SUITE, options)
        self.write("/etc/cni/net.d/10-pods.conflist", json.dumps(_network(self.pods)))
        self.write("/etc/kubernetes/kubeconfig", kubeconfig.read_text())
        self.write("/etc/kubernetes/ca.crt", authority.read_text())
        self.execute("systemctl", "start", "containerd")
        self.take(pause(self.programs))
        for image in images:
            self.take(image)
        self.execute("systemctl", "start", "kubelet")

    def take(self, image: str) -> None:
        """Give it the *image* of this machine's docker."""
        # Through a pipe: an image is large.
        words = (
            "sh",
            "-ec",
            f"docker save {image} | docker exec -i {self.name} ctr --namespace k8s.io images import -",
        )
        run(*words)
        # Docker's names are short.
        for name in self.execute("ctr", "--namespace", "k8s.io", "images", "ls", "-q").split():
            if name == f"docker.io/library/{image}":
                self.execute("ctr", "--namespace", "k8s.io", "images", "tag", name, f"localhost/{image}")

    def reach(self, others: list[Node]) -> None:
        """Have its pods reach those of the *others*."""
        for other in others:
            self.execute("ip", "route", "replace", other.pods, "via", other.address)

    def write(self, path: str, text: str) -> None:
        docker("exec", "--interactive", self.name, "sh", "-c", f"cat >{path}", input=text)

    def execute(self, *words: str, check: bool = True, **options: Any) -> str:
        """What a command of root prints on the node."""
        return docker("exec", *(["--interactive"] if options else []), self.name, *words, check=check, **options).stdout

    def kill(self) -> None:
        """As when its power fails."""
        docker("kill", self.name)

    def power_on(self, others: list[Node]) -> None:
        """As when its power comes back."""
        docker("start", self.name)
        wait_for_boot(self.name)
        self.reach(others)
        self.execute("systemctl", "start", "kubelet")

    def remove(self) -> None:
        docker("rm", "--force", "--volumes", self.name, check=False)


def node_image() -> str:
    """The image of nodes, built once for its ingredients; its name."""
    bare = ensure_image(SUITE)
    here = HERE / "node"
    name = f"hermes-test-node:{digest(bare.encode(), *(path.read_bytes() for path in sorted(here.iterdir())))}"
    with alone("image-node"):
        if not image_exists(name):
            say(f"building {name} on {bare}")
            run("docker", "build", "--build-arg", f"BASE={bare}", "--tag", name, str(here))
    return name


def pause(programs: Path) -> str:
    """The image whose container keeps the name spaces of a pod; its name."""
    with alone("image-pause"):
        if not image_exists(PAUSE):
            run("docker", "import", "--change", 'ENTRYPOINT ["/pause"]', str(programs / "pause.tar"), PAUSE)
    return PAUSE


def _network(pods: str) -> dict[str, Any]:
    """What CNI is told: the addresses of the node's pods, and that they reach the world by the node's."""
    ipam = {"type": "host-local", "ranges": [[{"subnet": pods}]], "routes": [{"dst": "0.0.0.0/0"}]}
    bridge = {"type": "bridge", "bridge": "pods", "isGateway": True, "ipMasq": True, "ipam": ipam}
    return {"cniVersion": "0.4.0", "name": "pods", "plugins": [bridge]}
