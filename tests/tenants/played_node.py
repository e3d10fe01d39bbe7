# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Plays a node of a cluster that only executes commands, by Kubernetes' own protocol, on this machine."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from api_server import ApiServer


class PlayedNode:
    """:attr:`name` is its own; what is executed is the program :attr:`container`, with pod, container and words."""

    def __init__(self, server: ApiServer, program: Path, container: Path) -> None:
        self.server, self.program, self.container = server, program, container

    def __enter__(self) -> PlayedNode:
        self.process = subprocess.Popen(
            [self.program, self.container],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        port = int(self.process.stdout.readline().rpartition(":")[2])
        self.name = f"node-{port}"
        self.server.ask("POST", "/api/v1/nodes", {"metadata": {"name": self.name}})
        status = {
            "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": port}},
        }
        self._set_status(f"/api/v1/nodes/{self.name}", status)
        return self

    def __exit__(self, *_error: object) -> None:
        self.process.kill()
        self.process.communicate()
        self.server.ask("DELETE", f"/api/v1/nodes/{self.name}")

    def run(self, namespace: str, name: str, state: str = "running") -> None:
        """Make the pod of a StatefulSet as its controller would, with its container in *state*."""
        keeper = self.server.ask("GET", f"/apis/apps/v1/namespaces/{namespace}/statefulsets/{name}")
        template = keeper["spec"]["template"]
        spec = {**template["spec"], "nodeName": self.name}
        pods, pod = f"/api/v1/namespaces/{namespace}/pods", {"name": f"{name}-0", **template["metadata"]}
        # The taint with which a node begins, until somebody says that it is ready.
        self.server.ask("POST", pods, {"metadata": pod, "spec": spec})
        container = {
            **{"name": "agent", "image": "x", "imageID": "", "ready": state == "running", "restartCount": 0},
            "state": {state: {"reason": "CrashLoopBackOff"} if state == "waiting" else {}},
        }
        self._set_status(f"{pods}/{name}-0", {"phase": "Running", "containerStatuses": [container]})

    def kill(self) -> None:
        """Kill the node; wait until nothing listens there."""
        self.process.kill()
        self.process.wait()
        time.sleep(0.1)

    def _set_status(self, path: str, status: object) -> None:
        self.server.ask("PATCH", f"{path}/status", {"status": status}, kind="merge-patch+json")


def put(node: PlayedNode, program: str) -> None:
    """Have the container execute *program*, in Python; ``words`` are those of the command."""
    inside = node.container.with_name("inside")
    inside.write_text(f"#!{sys.executable}\nimport os, sys, time\nwords = sys.argv[1:]\n{program}\n")
    inside.chmod(0o755)
    # Its first arguments are the pod and the container; then come the words, of which the first four are the shell's.
    text = '#!/bin/sh\nexport POD="$1 $2"\nshift 2\none=$1 two=$2 three=$3 four=$4\nshift 4\n'
    node.container.write_text(f'{text}exec "$one" "$two" "$three" "$four" {inside} "$@"\n')
    node.container.chmod(0o755)
