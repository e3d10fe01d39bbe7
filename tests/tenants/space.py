# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A namespace for a test, and what its tests declare."""

from __future__ import annotations

import copy
import urllib.error
from datetime import date, timedelta
from typing import Any

from ansible_collections.alwayson.hermes.plugins.module_utils.tenants.cluster import Cluster
from ansible_collections.alwayson.hermes.plugins.module_utils.tenants.converge import converge
from ansible_collections.alwayson.hermes.plugins.module_utils.tenants.declared import Declared, resolve
from api_server import ApiServer

TODAY = date(2026, 11, 23)
TEMPLATE: dict[str, Any] = {
    "image": "registry.example.com/hermes-agent:1",
    "secret": "0123456789abcdef0123456789abcdef",
    "agent": {
        "config": {"model": {"provider": "custom", "default": "stub"}},
        "secrets": {"MODEL_API_KEY": "sk-secret-of-all"},
        "webhooks": [{"name": "push", "prompt": "x", "secret": "secret-of-the-webhook"}],
    },
    "requests": {"cpu": "100m", "memory": "256Mi"},
    # Not as the server writes them.
    "limits": {"cpu": "0.5", "memory": "1024Mi"},
    "volume": "5Gi",
    "storage_class": "",
    "node_selector": {"disk": "ssd"},
    "tolerations": [{"key": "agents", "operator": "Exists", "effect": "NoSchedule"}],
    "version": 1,
}
KINDS = {
    "Secret": "/api/v1/namespaces/{}/secrets",
    "PersistentVolumeClaim": "/api/v1/namespaces/{}/persistentvolumeclaims",
    "Service": "/api/v1/namespaces/{}/services",
    "StatefulSet": "/apis/apps/v1/namespaces/{}/statefulsets",
}


class Space:
    """A namespace for a test, with what it holds."""

    def __init__(self, server: ApiServer, namespace: str) -> None:
        self.server, self.namespace = server, namespace

    def converge(
        self,
        *tenants: dict[str, Any],
        template: dict[str, Any] | None = None,
        today: date = TODAY,
        declared: dict[str, Any] | None = None,
        **more,
    ):
        resolved = self.declared(*tenants, template=template, **(declared or {}))
        with Cluster(more.pop("kubeconfig", self.server.kubeconfig), "", self.namespace) as cluster:
            # The nodes that tests play have none.
            return converge(cluster, resolved, today, room=False, **more)

    @property
    def leases(self) -> str:
        return f"/apis/coordination.k8s.io/v1/namespaces/{self.namespace}/leases"

    def free(self) -> None:
        """Have no next run wait for one that could not give back its Lease."""
        self.server.ask("DELETE", f"{self.leases}/hermes-run")

    def declared(self, *tenants: dict[str, Any], template: dict[str, Any] | None = None, **more: Any) -> Declared:
        rest = {"callers": ("kube-system",), "keep": timedelta(days=30), **more}
        return resolve(self.namespace, {**copy.deepcopy(TEMPLATE), **(template or {})}, tenants, **rest)

    def path(self, kind: str, name: str = "") -> str:
        return KINDS[kind].format(self.namespace) + (f"/hermes-{name}" if name else "")

    def get(self, kind: str, name: str) -> dict[str, Any] | None:
        try:
            return self.server.ask("GET", self.path(kind, name))
        except urllib.error.HTTPError as error:
            if error.code != 404:
                raise
            return None

    def secrets(self, name: str) -> list[dict[str, Any]]:
        """Those of a tenant, whose names nobody knows before."""
        found = self.server.ask("GET", f"{self.path('Secret')}?labelSelector=alwayson.hermes/tenant={name}")
        return found["items"]

    def versions(self) -> dict[str, str]:
        """Each object of a tenant -> its version, which every write changes."""
        return {
            f"{kind} {each['metadata']['name']}": each["metadata"]["resourceVersion"]
            for kind in KINDS
            for each in self.server.ask("GET", self.path(kind))["items"]
        }

    def written(self, before: dict[str, str]) -> set[str]:
        """What was written since *before*."""
        now = self.versions()
        return {name for name in before.keys() | now.keys() if before.get(name) != now.get(name)}
