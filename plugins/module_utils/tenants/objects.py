# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The objects of Kubernetes that tenants consist of, as they are applied: only the fields that we own.

A tenant is a Secret, which holds its description, too, for that may have secrets of webhooks in it; a volume; a Service
without an address of its own; and a StatefulSet of one pod. They all have one name, the Secret with a digest of what it
holds: it never changes, so a pod that is made again gets the description and the secrets that belong to its image.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Iterator, Mapping
from typing import Any

from ..hermes_ops.description.declaration import OF_THE_HOST
from ..hermes_ops.description.runtimes import API_KEY, DATA
from .declared import Declared, Tenant

MANAGER = "alwayson.hermes"
MANAGED = {"app.kubernetes.io/managed-by": MANAGER}
SELECTOR = ",".join(f"{name}={value}" for name, value in MANAGED.items())
# The label with the tenant's, on all that is its own.
TENANT = f"{MANAGER}/tenant"
# Annotations: the name as declared; a digest of what we applied; of what a pod is started with; what the tenant ran
# before an update that is not over; and the day from which on the volume of a tenant that is absent may go.
NAME, APPLIED, STARTED, FORMER, REMOVE = (
    f"{MANAGER}/{word}" for word in ("name", "applied", "started-with", "former", "remove-after")
)
# The container of a pod that is the agent's.
CONTAINER = "agent"
# The user of the image.
_UID = 10000
# Where the image looks for its description and its secrets.
_DESCRIPTION, _SECRETS = "/etc/hermes", "/run/secrets/hermes"
_FILE = "agent.json"
# Seconds until an agent that starts has to be healthy, and after which one that never answers is started again.
_START, _DEAF = 300, 180
# Seconds beyond the agent's own drain time until it is killed.
_GRACE = 15
# Seconds until a pod leaves a node that is gone.
_LOST = 15
# Not the internet: RFC 6890 and its like. The metadata service of a cloud is among them.
_NOT_PUBLIC = (
    *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24"),
    *("192.168.0.0/16", "198.18.0.0/15", "224.0.0.0/4", "240.0.0.0/4"),
)
_NOT_PUBLIC_6 = ("::/128", "::1/128", "64:ff9b::/96", "fc00::/7", "fe80::/10", "ff00::/8")


def annotations(found: Mapping[str, Any]) -> dict[str, str]:
    """Those of an object of the cluster, which may have none."""
    return found["metadata"].get("annotations") or {}


def of_namespace(declared: Declared) -> list[dict[str, Any]]:
    """What all tenants of a namespace have once, in the order in which it is needed."""
    level = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "audit", "warn")}
    namespace = _object("v1", "Namespace", declared.namespace, labels=level)
    return [namespace, *_walls(declared), _no_addresses(), _defaults()]


def _walls(declared: Declared) -> Iterator[dict[str, Any]]:
    """The policies of the network: nobody reaches a tenant, and a tenant reaches nothing, but for what is here."""
    callers = [
        {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": each}}} for each in declared.callers
    ]
    public = [_range("0.0.0.0/0", _NOT_PUBLIC), _range("::/0", _NOT_PUBLIC_6)]
    dns = {
        "to": [{"namespaceSelector": {}, "podSelector": {"matchLabels": {"k8s-app": "kube-dns"}}}],
        "ports": [{"port": 53, "protocol": protocol} for protocol in ("UDP", "TCP")],
    }
    egress = [dns, {"to": public}, *({"to": [_range(each)]} for each in declared.egress)]
    for name, rules in (
        ("default-deny", {"policyTypes": ["Ingress", "Egress"]}),
        # A rule without anybody would let everybody in.
        ("callers", {"policyTypes": ["Ingress"], "ingress": [{"from": callers}] if callers else []}),
        ("internet", {"policyTypes": ["Egress"], "egress": egress}),
    ):
        yield _object("networking.k8s.io/v1", "NetworkPolicy", f"hermes-{name}", spec={"podSelector": {}, **rules})


def _range(cidr: str, without: tuple[str, ...] = ()) -> dict[str, Any]:
    return {"ipBlock": {"cidr": cidr, **({"except": list(without)} if without else {})}}


def _no_addresses() -> dict[str, Any]:
    """Nothing in the namespace gets an address that the world can reach."""
    hard = {"services.loadbalancers": "0", "services.nodeports": "0"}
    return _object("v1", "ResourceQuota", "hermes-no-addresses", spec={"hard": hard})


def _defaults() -> dict[str, Any]:
    """Pods that are not ours, such as those of ``kubectl run``, cannot take a node's memory from the tenants."""
    # As the server writes them.
    amounts = {
        "defaultRequest": {"cpu": "100m", "memory": "128Mi"},
        "default": {"cpu": "500m", "memory": "512Mi"},
    }
    return _object("v1", "LimitRange", "hermes-defaults", spec={"limits": [{"type": "Container", **amounts}]})


def of_tenant(tenant: Tenant) -> list[dict[str, Any]]:
    """What *tenant* consists of, in the order in which it is needed."""
    secret = _secret(tenant)
    return [secret, _volume(tenant), _service(tenant), _pod_keeper(tenant, secret["metadata"]["name"])]


def _secret(tenant: Tenant) -> dict[str, Any]:
    kept = {key: value for key, value in tenant.entry.items() if key not in ("secrets", *OF_THE_HOST)}
    values = {
        **tenant.entry.get("secrets", {}),
        API_KEY: tenant.key,
        _FILE: json.dumps({"name": tenant.label, **kept}, sort_keys=True),
    }
    data = {name: base64.b64encode(value.encode()).decode() for name, value in sorted(values.items())}
    return _own(tenant, "v1", "Secret", f"-{_digest(tenant, data)}", type="Opaque", immutable=True, data=data)


def _volume(tenant: Tenant) -> dict[str, Any]:
    spec = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": tenant.volume}}}
    if tenant.storage_class:
        spec["storageClassName"] = tenant.storage_class
    return _own(tenant, "v1", "PersistentVolumeClaim", spec=spec)


def _service(tenant: Tenant) -> dict[str, Any]:
    ports = [{"name": name, "port": server.port} for name, server in tenant.agent.servers.items()]
    spec = {"clusterIP": "None", "selector": {TENANT: tenant.label}, "ports": ports}
    return _own(tenant, "v1", "Service", spec=spec)


def _pod_keeper(tenant: Tenant, secret: str) -> dict[str, Any]:
    """The StatefulSet. It never has two pods at once on the volume, also not on a lost node."""
    selector, pod = {TENANT: tenant.label}, _pod(tenant, secret)
    spec = {
        "replicas": 1,
        "serviceName": tenant.object,
        "selector": {"matchLabels": selector},
        "template": {
            "metadata": {"labels": {**MANAGED, **selector}, "annotations": {STARTED: _digest(tenant, pod)}},
            "spec": pod,
        },
    }
    return _own(tenant, "apps/v1", "StatefulSet", spec=spec)


def _pod(tenant: Tenant, name: str) -> dict[str, Any]:
    secret = {"secretName": name, "defaultMode": 0o440}
    described = {"items": [{"key": _FILE, "path": _FILE}]}
    others = sorted({API_KEY, *tenant.entry.get("secrets", {})})
    volumes = [
        {"name": "data", "persistentVolumeClaim": {"claimName": tenant.object}},
        {"name": "description", "secret": {**secret, **described}},
        {"name": "secrets", "secret": {**secret, "items": [{"key": name, "path": name} for name in others]}},
        {"name": "tmp", "emptyDir": {"medium": "Memory"}},
    ]
    lost = [
        {"key": f"node.kubernetes.io/{what}", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": _LOST}
        for what in ("not-ready", "unreachable")
    ]
    spread = {
        "maxSkew": 1,
        "topologyKey": "kubernetes.io/hostname",
        "whenUnsatisfiable": "ScheduleAnyway",
        "labelSelector": {"matchLabels": MANAGED},
    }
    return {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": tenant.agent.drain + _GRACE,
        "securityContext": {
            **{"runAsNonRoot": True, "runAsUser": _UID, "runAsGroup": _UID, "fsGroup": _UID},
            # Else each start would walk through all files of the volume.
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "nodeSelector": dict(tenant.node_selector),
        "tolerations": [*lost, *map(dict, tenant.tolerations)],
        "topologySpreadConstraints": [spread],
        "containers": [_container(tenant)],
        "volumes": volumes,
        # Left out where none is declared, since another pod template would start each tenant again.
        **({"priorityClassName": tenant.priority_class} if tenant.priority_class else {}),
    }


def _container(tenant: Tenant) -> dict[str, Any]:
    health = {"httpGet": {"path": "/health", "port": "api"}}
    mounts = {"data": DATA, "description": _DESCRIPTION, "secrets": _SECRETS, "tmp": "/tmp"}
    read_only = ("description", "secrets")
    return {
        "name": CONTAINER,
        "image": tenant.image,
        # For its entrypoint: if it goes back to another release of Hermes, so do its data.
        "args": ["--trial"],
        "resources": {
            "requests": {"cpu": tenant.requests.cpu, "memory": tenant.requests.memory},
            "limits": {"cpu": tenant.limits.cpu, "memory": tenant.limits.memory},
        },
        "ports": [{"name": name, "containerPort": server.port} for name, server in tenant.agent.servers.items()],
        "startupProbe": {**health, "periodSeconds": 1, "timeoutSeconds": 5, "failureThreshold": _START},
        "readinessProbe": {**health, "periodSeconds": 10, "timeoutSeconds": 5},
        # Its process runs, and it answers nobody.
        "livenessProbe": {**health, "periodSeconds": 30, "timeoutSeconds": 20, "failureThreshold": _DEAF // 30},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [
            {"name": name, "mountPath": path, **({"readOnly": True} if name in read_only else {})}
            for name, path in mounts.items()
        ],
    }


def _digest(tenant: Tenant, value: Any) -> str:
    """By which a change is noticed, and no guess of a secret can be checked."""
    text = json.dumps(value, sort_keys=True)
    return hmac.new(tenant.secret.encode(), text.encode(), hashlib.sha256).hexdigest()[:16]


def _own(tenant: Tenant, api: str, kind: str, suffix: str = "", **content: Any) -> dict[str, Any]:
    # By the digest a field that is no longer applied is noticed, too.
    metadata = {NAME: tenant.name, APPLIED: _digest(tenant, content)}
    name = f"{tenant.object}{suffix}"
    return _object(api, kind, name, labels={TENANT: tenant.label}, annotations=metadata, **content)


def _object(
    api: str, kind: str, name: str, labels: Mapping[str, str] | None = None, annotations: Any = None, **content: Any
) -> dict[str, Any]:
    metadata = {"name": name, "labels": {**MANAGED, **(labels or {})}}
    if annotations:
        metadata["annotations"] = dict(annotations)
    return {"apiVersion": api, "kind": kind, "metadata": metadata, **content}
