# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Plays the cluster's controller of StatefulSets and its kubelets, in the namespace of a test."""

from __future__ import annotations

import hashlib
import json
import threading
import urllib.error
from typing import Any

from space import Space

# Seconds between two looks.
PAUSE = 0.02
# A part of an image -> in which state its containers stay.
BAD: dict[str, dict[str, Any]] = {
    "bad-registry": {"state": {"waiting": {"reason": "ImagePullBackOff", "message": "it is bad"}}},
    "bad-name": {"state": {"waiting": {"reason": "InvalidImageName", "message": "it is bad"}}},
    "bad-description": {
        "state": {"waiting": {"reason": "CrashLoopBackOff"}},
        "lastState": {"terminated": {"exitCode": 78}},
    },
}


class Player:
    """While it is entered, pods of images in :data:`BAD` stay as they are, and all others become ready.

    It stands for the module time, too. Its seconds pass by sleeping only: one that sleeps is woken when all has been
    looked at since, and if nothing but what is bad was left to be done, an hour has passed. So nothing depends on how
    fast a test is.

    :attr:`events` are ``("ready", tenant, image)`` and ``("bad", tenant, image)``, each before the cluster says so.
    :attr:`jumps`: whether such hours pass.
    """

    def __init__(self, space: Space) -> None:
        self.space, self.now, self.jumps = space, 0.0, True
        self.events: list[tuple[str, str, str]] = []
        self._pods = f"/api/v1/namespaces/{space.namespace}/pods"
        self._ends = threading.Event()
        self._looked = threading.Condition()
        self._looks, self._idle = 0, False
        self._thread = threading.Thread(target=self._play)
        self._error: BaseException | None = None

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        with self._looked:
            # The look that is under way may have begun before.
            until = self._looks + 2
            self._looked.wait_for(lambda: self._looks >= until or self._error)
            self.now += 3600 if self._idle and self.jumps else seconds
        if self._error:
            raise self._error

    def __enter__(self) -> Player:
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._ends.set()
        self._thread.join()
        if self._error:
            raise self._error

    def _play(self) -> None:
        while not self._ends.wait(PAUSE):
            idle = False
            try:
                idle = self._look()
            except urllib.error.HTTPError as error:
                # The namespace is not there yet, or somebody was faster.
                if error.code not in (404, 409):
                    self._error = error
            except Exception as error:
                self._error = error
            with self._looked:
                self._looks, self._idle = self._looks + 1, idle
                self._looked.notify_all()
            if self._error:
                return

    def _look(self) -> bool:
        """Whether nothing was to be done."""
        keepers = self.space.server.ask("GET", self.space.path("StatefulSet"))["items"]
        pods = {each["metadata"]["name"]: each for each in self.space.server.ask("GET", self._pods)["items"]}
        # Each of them, whatever was to be done for another.
        done = [self._one(each, pods.get(f"{each['metadata']['name']}-0")) for each in keepers]
        return True not in done

    def _one(self, keeper: dict[str, Any], pod: dict[str, Any] | None) -> bool:
        """Do the next thing for one StatefulSet, as Kubernetes does it with pods in order; whether there was one."""
        name, template = keeper["metadata"]["name"], keeper["spec"]["template"]
        revision = hashlib.sha256(json.dumps(template, sort_keys=True).encode()).hexdigest()[:10]
        tenant, image = name.removeprefix("hermes-"), template["spec"]["containers"][0]["image"]
        if pod is None:
            labels = {**template["metadata"]["labels"], "controller-revision-hash": revision}
            metadata = {"name": f"{name}-0", "labels": labels, "annotations": template["metadata"]["annotations"]}
            pod = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]}
            self.space.server.ask("POST", self._pods, pod)
            return True
        current = pod["metadata"]["labels"]["controller-revision-hash"] == revision
        ready = any(each["status"] == "True" for each in pod["status"].get("conditions", ()))
        if not current and ready:
            # One without a node is gone at once.
            self.space.server.ask("DELETE", f"{self._pods}/{name}-0")
            return True
        stays = next((state for word, state in BAD.items() if word in pod["spec"]["containers"][0]["image"]), None)
        if current and not ready and not stays:
            self.events.append(("ready", tenant, image))
            self._say(f"{self._pods}/{name}-0", {"conditions": [{"type": "Ready", "status": "True"}]})
            return True
        if stays and not pod["status"].get("containerStatuses"):
            self.events.append(("bad", tenant, image))
            container = {"name": "agent", "image": "x", "imageID": "", "ready": False, "restartCount": 0}
            self._say(f"{self._pods}/{name}-0", {"containerStatuses": [{**container, **stays}]})
            return True
        status = {"observedGeneration": keeper["metadata"]["generation"], "replicas": 1}
        status |= {"readyReplicas": int(ready), "updatedReplicas": int(current)}
        if {key: keeper.get("status", {}).get(key, 0) for key in status} != status:
            self._say(self.space.path("StatefulSet", tenant), status)
            return True
        return False

    def _say(self, path: str, status: dict[str, Any]) -> None:
        self.space.server.ask("PATCH", f"{path}/status", {"status": status}, kind="merge-patch+json")
