# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The manifests of the role cluster in a real API server, against the real descriptions of their kinds."""

from __future__ import annotations

import json
import os
import subprocess
import time
import urllib.error
from pathlib import Path
from typing import Any

import pytest
import yaml
from api_server import ApiServer
from rendered_cluster import rendered

# Where the kinds are described, in the versions that k3s v1.34.9+k3s1 and the role bring. Longhorn's are in no module
# that a proxy has.
DESCRIPTIONS = (
    ("github.com/k3s-io/helm-controller@v0.17.1", "pkg/crds/yaml/generated/helm.cattle.io_helmcharts.yaml"),
    ("github.com/k3s-io/helm-controller@v0.17.1", "pkg/crds/yaml/generated/helm.cattle.io_helmchartconfigs.yaml"),
    ("github.com/cert-manager/cert-manager@v1.21.2", "deploy/crds/cert-manager.io_clusterissuers.yaml"),
)
UNDESCRIBED = ["RecurringJob"]
PLACES = {
    "HelmChart": "/apis/helm.cattle.io/v1/namespaces/kube-system/helmcharts",
    "HelmChartConfig": "/apis/helm.cattle.io/v1/namespaces/kube-system/helmchartconfigs",
    "ClusterIssuer": "/apis/cert-manager.io/v1/clusterissuers",
    "Secret": "/api/v1/namespaces/kube-system/secrets",
}
KINDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"


def apply(server: ApiServer, place: str, wanted: dict[str, Any]) -> dict[str, Any]:
    path = f"{place}/{wanted['metadata']['name']}?fieldManager=k3s&fieldValidation=Strict"
    return server.ask("PATCH", path, wanted, kind="apply-patch+yaml")


@pytest.fixture(scope="module")
def described(server: ApiServer, tmp_path_factory: pytest.TempPathFactory) -> ApiServer:
    """The server, once it knows the kinds."""
    for module, path in DESCRIPTIONS:
        done = subprocess.run(
            ["go", "mod", "download", "-json", module],
            cwd=tmp_path_factory.mktemp("go"),
            env={**os.environ, "GOFLAGS": "-mod=mod"},
            capture_output=True,
            text=True,
            check=True,
        )
        kind = yaml.safe_load((Path(json.loads(done.stdout)["Dir"]) / path).read_text())
        apply(server, KINDS, kind)
    deadline = time.monotonic() + 60
    for place in PLACES.values():
        while True:
            try:
                server.ask("GET", place)
                break
            except urllib.error.HTTPError:
                assert time.monotonic() < deadline, f"{place} is not served"
                time.sleep(0.2)
    return server


def test_the_api_server_takes_every_add_on(described, tmp_path):
    files = rendered(
        tmp_path,
        cluster_longhorn_enabled=True,
        cluster_cert_manager_enabled=True,
        cluster_cert_manager_email="ops@example.org",
        cluster_hcloud_enabled=True,
        cluster_hcloud_token="token-of-the-cloud",
        cluster_hcloud_network="agents",
    )["files"]
    left = []
    for wanted in (each for objects in files.values() for each in objects):
        if wanted["kind"] in PLACES:
            taken = apply(described, PLACES[wanted["kind"]], wanted)
            assert taken.get("spec", {}).items() >= wanted.get("spec", {}).items()
        else:
            left.append(wanted["kind"])
    assert left == UNDESCRIBED


@pytest.mark.parametrize("key", ["chartVersion", "failurePolicy"])
def test_a_wrong_key_or_value_is_refused(described, key):
    wrong = {"apiVersion": "helm.cattle.io/v1", "kind": "HelmChart", "metadata": {"name": "wrong"}, "spec": {key: "x"}}
    with pytest.raises(urllib.error.HTTPError):
        apply(described, PLACES["HelmChart"], wrong)
