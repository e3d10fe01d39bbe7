# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the role cluster writes on the machines of a cluster, as Ansible itself renders it."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml
from rendered_cluster import rendered

TOP = Path(__file__).resolve().parents[3]
COLLECTIONS = TOP / ".cache/collections"
DOUBLES = TOP / "tests/fakes/collections"
ALL = {
    "cluster_longhorn_enabled": True,
    "cluster_cert_manager_enabled": True,
    "cluster_cert_manager_email": "ops: {{ 'x' }} # 'quoted'\"",
    "cluster_hcloud_enabled": True,
    "cluster_hcloud_token": "token: of the cloud",
    "cluster_hcloud_network": "agents",
}


def run(directory: Path, *arguments: str, collections: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["ansible-playbook", *arguments],
        cwd=directory,
        env={
            **os.environ,
            "ANSIBLE_COLLECTIONS_PATH": collections or str(COLLECTIONS),
            "ANSIBLE_NOCOLOR": "1",
            "ANSIBLE_LOCAL_TEMP": str(directory / "local"),
        },
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def render(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    return partial(rendered, tmp_path)


def charts(files: dict[str, list[dict[str, Any]]]) -> dict[str, dict[str, Any]]:
    """The specs of the charts, with their values as they are read."""
    found = {}
    for each in (each for objects in files.values() for each in objects):
        if each["kind"] in ("HelmChart", "HelmChartConfig"):
            spec = each["spec"]
            found[each["metadata"]["name"]] = {**spec, "valuesContent": yaml.safe_load(spec["valuesContent"])}
    return found


def test_by_default_a_cluster_is_closed_and_has_what_k3s_brings(render):
    got = render(cluster_node_ip="10.0.0.11", cluster_interface="enp7s0")
    both = {"protect-kernel-defaults": True, "node-ip": "10.0.0.11", "flannel-iface": "enp7s0"}
    assert got["agents"] == both
    servers = got["servers"]
    assert servers.items() >= {**both, "secrets-encryption": True, "advertise-address": "10.0.0.11"}.items()
    assert "audit-policy-file=/var/lib/rancher/k3s/server/audit.yaml" in servers["kube-apiserver-arg"]
    assert servers["node-taint"] == ["node-role.kubernetes.io/control-plane=true:NoSchedule"]
    assert not {"disable", "disable-cloud-controller", "kubelet-arg"} & servers.keys()
    assert list(got["files"]) == ["hermes-traefik"]
    entrances = charts(got["files"])["traefik"]["valuesContent"]["ports"]
    for name in ("web", "websecure"):
        timeouts = entrances[name]["transport"]["respondingTimeouts"]
        assert timeouts == {"readTimeout": "3600s", "writeTimeout": "0s", "idleTimeout": "180s"}


def test_a_single_machine_takes_tenants(render):
    assert "node-taint" not in render(workers=False)["servers"]


def test_declared_configuration_wins(render):
    got = render(cluster_server_config={"cluster-cidr": "10.52.0.0/16"}, cluster_agent_config={"node-label": ["a=b"]})
    assert got["servers"]["cluster-cidr"] == "10.52.0.0/16"
    assert got["agents"] == {"protect-kernel-defaults": True, "node-label": ["a=b"]}


def test_all_add_ons(render):
    got = render(**ALL)
    servers, files = got["servers"], got["files"]
    assert servers["disable"] == ["servicelb", "local-storage"]
    assert servers["disable-cloud-controller"] is True
    assert got["agents"]["kubelet-arg"] == servers["kubelet-arg"] == ["cloud-provider=external"]
    found = charts(files)
    assert sorted(found) == ["cert-manager", "hccm", "longhorn", "traefik"]
    for name in sorted(found.keys() - {"traefik"}):
        assert found[name]["version"]
        assert found[name]["repo"].startswith("https://")
    longhorn = found["longhorn"]["valuesContent"]
    assert longhorn["persistence"]["defaultClassReplicaCount"] == 2
    assert longhorn["defaultSettings"]["nodeDownPodDeletionPolicy"] == "delete-both-statefulset-and-deployment-pod"
    # Nothing that fails may take the volumes with it.
    assert found["longhorn"]["failurePolicy"] == "abort"
    (job,) = files["hermes-longhorn-snapshots"]
    assert job["spec"] == {
        **{"task": "snapshot", "cron": "0 */6 * * *", "retain": 8, "concurrency": 2},
        "groups": ["default"],
    }
    (issuer,) = files["hermes-cert-manager-issuer"]
    assert issuer["spec"]["acme"]["email"] == ALL["cluster_cert_manager_email"]
    secret, _chart = files["hermes-hcloud"]
    assert secret["stringData"] == {"token": ALL["cluster_hcloud_token"], "network": "agents"}
    assert found["hccm"]["valuesContent"]["env"]["HCLOUD_NETWORK_ROUTES_ENABLED"] == {"value": "false"}


def test_the_audit_log_has_no_contents():
    policy = yaml.safe_load((TOP / "roles/cluster/files/audit.yaml").read_text())
    assert {rule["level"] for rule in policy["rules"]} == {"None", "Metadata"}
    assert policy["rules"][-1] == {"level": "Metadata"}


@pytest.mark.parametrize("servers", [0, 2, 4])
def test_a_cluster_has_one_or_three_servers(servers, tmp_path):
    hosts = {"server": {"hosts": {f"s{number}": {} for number in range(servers)}}}
    (tmp_path / "hosts.json").write_text(json.dumps({"k3s_cluster": {"children": hosts}}))
    where = f"{COLLECTIONS}{os.pathsep}{DOUBLES}"
    done = run(tmp_path, "-i", "hosts.json", "alwayson.hermes.cluster", collections=where)
    assert done.returncode != 0
    assert f"the group server has {servers} hosts. Fix: " in " ".join(done.stdout.split())
    assert "Prepare the machines" not in done.stdout


def test_the_example_is_one_that_the_playbook_takes(tmp_path):
    (tmp_path / "password").write_text("example")
    where = f"{COLLECTIONS}{os.pathsep}{DOUBLES}"
    options = ("-i", str(TOP / "inventories/cluster"), "--vault-password-file", "password")
    done = run(tmp_path, *options, "alwayson.hermes.cluster", "--list-hosts", collections=where)
    assert done.returncode == 0, done.stderr
    for host in ("server1.example.org", "worker1.example.org", "worker2.example.org"):
        assert host in done.stdout
    done = run(tmp_path, *options, "alwayson.hermes.cluster", "--syntax-check")
    assert done.returncode != 0
    assert "k3s.orchestration" in done.stderr
