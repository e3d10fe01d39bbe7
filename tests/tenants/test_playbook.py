# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The playbook tenants, as somebody runs it, against a real API server."""

from __future__ import annotations

import base64
import re
from pathlib import Path
from typing import Any

import pytest
from api_server import ApiServer
from playbook import Playbook, changed

SECRETS = {
    "tenants": "secret-of-the-tenants-0123456789abcdef",
    "model": "sk-secret-of-all-0123",
    "one": "secret-of-one-0123",
    "webhook": "secret-of-the-webhook-0123",
}
# Nothing runs pods here, so nothing would become ready.
DECLARED: dict[str, Any] = {
    "tenants_wait": 0,
    "tenants_secret": SECRETS["tenants"],
    "tenants_image": "registry.example.com/hermes-agent:1",
    "tenants_agent": {
        "config": {"model": {"provider": "custom", "default": "stub"}},
        "secrets": {"MODEL_API_KEY": SECRETS["model"]},
        "webhooks": [{"name": "push", "prompt": "x", "secret": SECRETS["webhook"]}],
    },
    "hermes_tenants": [
        {"name": "acme"},
        {"name": "globex", "limits": {"memory": "2Gi"}, "agent": {"secrets": {"OWN_TOKEN": SECRETS["one"]}}},
    ],
}


@pytest.fixture
def playbook(server: ApiServer, namespace: str, tmp_path: Path) -> Playbook:
    return Playbook(tmp_path, DECLARED, server.kubeconfig, namespace)


def test_check_then_made_then_nothing_and_no_output_shows_a_secret(playbook):
    outputs = []
    for options, expected in ((["--check"], 1), ([], 1), ([], 0), (["--check"], 0)):
        status, output = playbook.run("-vvv", "--diff", *options)
        assert status == 0, output
        assert changed(output) == expected
        outputs.append(output)
    other = {**DECLARED["tenants_agent"], "secrets": {"MODEL_API_KEY": "another-secret-0123"}}
    status, output = playbook.run("-vvv", "--diff", tenants_agent=other)
    assert (status, changed(output)) == (0, 1)
    assert "MODEL_API_KEY" in output
    outputs.append(output)
    for secret in (*SECRETS.values(), "another-secret-0123"):
        for form in (secret, base64.b64encode(secret.encode()).decode()):
            assert not any(form in output for output in outputs)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"hermes_tenants": [{"name": "acme"}, {"name": "Acme"}]}, "would be called like 'acme'"),
        ({"tenants_image": ""}, "tenant acme: image"),
        ({"tenants_secret": "short"}, "at least 32"),
        ({"hermes_tenants": [{"name": "acme", "agent": {"secrets": "x"}}]}, "acme"),
        ({"tenants_limts": {}}, "did you mean tenants_limits"),
        ({"tenants_kubeconfig": "/nowhere"}, "/nowhere"),
    ],
    ids=lambda value: str(value)[:30] if isinstance(value, dict) else None,
)
def test_a_mistake_is_one_error_before_anything_changed(playbook, wrong, said):
    status, output = playbook.run(**wrong)
    assert status != 0
    assert said in re.sub(r"\s+", " ", output)
    assert "Fix: " in output
    assert "Traceback" not in output
    assert changed(output) == 0


def test_a_tenant_that_fails_is_named_and_the_run_fails(playbook):
    tenants = [{"name": "acme", "node_selector": {"no label": "x"}}, {"name": "globex"}]
    status, output = playbook.run(hermes_tenants=tenants)
    assert status != 0
    assert "tenant acme: StatefulSet hermes-acme: is refused" in re.sub(r"\s+", " ", output)
    assert '"globex": "created"' in output
    status, output = playbook.run(name="tenants_status")
    assert (status, changed(output)) == (0, 0)
    assert re.search(r"^globex +not ready +0 +5Gi .*\(the cluster has made no pod for it\)$", output, re.M)
