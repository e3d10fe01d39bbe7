# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What may be declared of tenants, and what is refused before the cluster is asked for anything."""

from __future__ import annotations

import base64
import json
import re

import pytest
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.description.runtime_ids import hex_of
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.description.runtime_keys import key_of
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.errors import OpsError
from ansible_collections.alwayson.hermes.plugins.module_utils.tenants import objects
from ansible_collections.alwayson.hermes.plugins.module_utils.tenants.declared import (
    Resources,
    amount,
    label_of,
    resolve,
)
from ansible_collections.alwayson.hermes.plugins.modules.tenants import TEMPLATE
from hypothesis import given
from hypothesis import strategies as st

SECRET = "0123456789abcdef0123456789abcdef"
AMOUNTS = {
    name: {key: rule["default"] for key, rule in TEMPLATE[name]["options"].items()} for name in ("requests", "limits")
}
DEFAULTS = {name: rule["default"] for name, rule in TEMPLATE.items() if "default" in rule} | AMOUNTS
AGENT = {"config": {"model": {"provider": "custom", "default": "stub"}}, "secrets": {"MODEL_API_KEY": "sk-of-all"}}


def declared(*tenants, template=None, **more):
    shared = {**DEFAULTS, "image": "registry.example.com/agent:1", "agent": AGENT, "secret": SECRET, **(template or {})}
    return resolve(more.pop("namespace", "hermes"), shared, tenants, **more)


def one(**differs):
    return declared({"name": "acme", **differs}).tenants[0]


def test_a_tenant_is_the_template_with_what_differs():
    tenant = one(
        limits={"memory": "2Gi"},
        agent={"config": {"model": {"default": "other"}}, "secrets": {"EXTRA_TOKEN": "its own"}, "soul": "Be brief."},
    )
    assert (tenant.limits.cpu, tenant.limits.memory) == ("500m", "2Gi")
    assert tenant.entry["config"] == {"model": {"provider": "custom", "default": "other"}}
    assert tenant.entry["secrets"] == {"MODEL_API_KEY": "sk-of-all", "EXTRA_TOKEN": "its own"}
    assert tenant.entry["soul"] == "Be brief."
    assert one().entry == AGENT


def test_a_number_is_a_quantity_too():
    assert one(limits={"cpu": 2, "memory": 2**31}).limits == Resources("2", str(2**31))
    assert one(requests={"cpu": 0.25}).requests.cpu == "0.25"


def test_its_key_is_that_of_a_user():
    assert one().key == key_of(SECRET, hex_of("acme"))
    assert one(version=2).key == key_of(SECRET, hex_of("acme"), 2)


def test_secrets_are_in_no_representation():
    shown = repr(declared({"name": "acme", "agent": {"secrets": {"EXTRA_TOKEN": "its own"}}}))
    assert not any(secret in shown for secret in (SECRET, "sk-of-all", "its own"))


@pytest.mark.parametrize(
    ("wrong", "where", "fix"),
    [
        ({"limits": {"memory": "128Mi"}}, "tenant acme: requests.memory", "raise the limit"),
        ({"requests": {"cpu": "2"}}, "tenant acme: requests.cpu", "raise the limit"),
        ({"requests": {"memory": "much"}}, "tenant acme: requests.memory", "500m or 1Gi"),
        ({"requests": {"cpu": "0"}}, "tenant acme: requests.cpu", "more than 0"),
        ({"volume": "1Mi"}, "tenant acme: volume", "64Mi"),
        ({"image": "an image"}, "tenant acme: image", "name the image"),
        ({"image": ""}, "tenant acme: image", "name the image"),
        ({"state": "gone"}, "entry 1: state", "present or absent"),
        ({"agent": ["x"]}, "entry 1: agent", "keys and values"),
        ({"limit": {}}, "entry 1", "limits"),
        ({"limits": {"memroy": "1Gi"}}, "entry 1: limits", "memory"),
        ({"volume": 5}, "entry 1", "declare a str"),
        ({"node_selector": "ssd"}, "entry 1", "declare a dict"),
        ({"secret": "x"}, "entry 1", "what differs"),
        ({"agent": {"limits": {"memory": "1G"}}}, "tenant acme: agent: limits", "limits of the tenant"),
        ({"agent": {"name": "x"}}, "tenant acme: agent: name", "leave it out"),
        ({"agent": {"api": {"host": "127.0.0.1"}}}, "tenant acme: agent: api.host", "leave it out"),
        ({"agent": {"secrets": {"API_SERVER_KEY": SECRET}}}, "API_SERVER_KEY", "leave it out"),
        ({"agent": {"confg": {}}}, "tenant acme: agent", "config"),
        ({"version": 0}, "version", "1 to 999"),
        ({"name": "…"}, "hermes_tenants", "letters"),
        ({"name": "x" * 60}, "hermes_tenants", "letters"),
        ({"name": "a\nb"}, "user", "without"),
        ({"name": 1}, "entry 1", "name"),
    ],
    ids=lambda value: str(value)[:40] if isinstance(value, dict) else None,
)
def test_a_mistake_is_one_error_that_says_where_and_what_to_do(wrong, where, fix):
    with pytest.raises(OpsError) as caught:
        one(**wrong)
    assert where in str(caught.value.where)
    assert fix in str(caught.value.fix)


def test_one_wrong_of_fifty_is_named_and_nothing_is_resolved():
    tenants = [{"name": f"tenant {number}"} for number in range(50)]
    tenants[31]["agent"] = {"config": "none"}
    with pytest.raises(OpsError, match="tenant tenant 31: agent"):
        declared(*tenants)


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (("acme", "acme"), "is declared twice"),
        (("acme", "Acme"), "would be called like 'acme'"),
        (("a b", "a-b"), "would be called"),
    ],
)
def test_two_that_would_share_objects_are_refused(names, said):
    with pytest.raises(OpsError, match=said):
        declared(*({"name": name} for name in names))


def test_what_all_share_is_checked_as_well():
    with pytest.raises(OpsError, match="namespace"):
        declared(namespace="Hermes_1")
    with pytest.raises(OpsError, match="callers"):
        declared(callers=("a/b",))
    with pytest.raises(OpsError, match="egress"):
        declared(egress=("the model",))
    with pytest.raises(OpsError, match="'acme' is no tenant"):
        declared({"name": "globex"}, canaries=("globex", "acme"))
    with pytest.raises(OpsError, match="batch"):
        declared(batch=0)
    with pytest.raises(OpsError, match="at least 32"):
        declared({"name": "acme"}, template={"secret": "short"})


@given(st.text(min_size=1, max_size=80))
def test_a_name_is_refused_or_can_be_that_of_each_object(name):
    try:
        label = label_of(name)
    except OpsError:
        return
    # The longest name of an object, and the label of its pods that Kubernetes makes of it.
    assert re.fullmatch("[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", f"hermes-{label}-0123456789")


@pytest.mark.parametrize(
    ("quantity", "number"), [("1", 1), ("500m", 0.5), ("0.5", 0.5), ("1k", 1000), ("1Ki", 1024), ("1.5Gi", 1.5 * 2**30)]
)
def test_a_quantity_is_a_number(quantity, number):
    assert amount(quantity, "x") == number


@pytest.mark.parametrize("quantity", ["", "-1", "1 Gi", "1e3", "1GB", "m", "1\n"])
def test_what_is_no_quantity_is_refused(quantity):
    with pytest.raises(OpsError, match="Fix: write one such as"):
        amount(quantity, "x")


# --- objects ---------------------------------------------------------------------------------------------------


def by_kind(tenant):
    return {each["kind"]: each for each in objects.of_tenant(tenant)}


def test_secrets_are_in_the_secret_only():
    tenant = one(agent={"webhooks": [{"name": "push", "prompt": "x", "secret": "of-the-webhook"}]})
    made = by_kind(tenant)
    held = {name: base64.b64decode(value).decode() for name, value in made.pop("Secret")["data"].items()}
    assert held.pop("API_SERVER_KEY") == tenant.key
    assert held.pop("MODEL_API_KEY") == "sk-of-all"
    described = json.loads(held.pop("agent.json"))
    assert held == {}
    assert described["webhooks"][0]["secret"] == "of-the-webhook"
    assert "secrets" not in described
    rest = json.dumps(made)
    assert not any(secret in rest for secret in ("sk-of-all", "of-the-webhook", tenant.key))


def test_no_guess_of_a_secret_can_be_checked_by_what_is_not_secret():
    other = declared({"name": "acme"}, template={"secret": "another-secret-of-32-characters!"}).tenants[0]
    notes = [
        made["StatefulSet"]["spec"]["template"]["metadata"]["annotations"] for made in map(by_kind, (one(), other))
    ]
    assert notes[0] != notes[1]


def test_its_pod_is_started_again_for_what_it_reads_at_its_start_only():
    def started(**differs):
        return by_kind(one(**differs))["StatefulSet"]["spec"]["template"]

    assert started() == started(volume="6Gi")
    assert started() != started(agent={"soul": "Be brief."})
    assert started() != started(agent={"secrets": {"EXTRA_TOKEN": "x"}})


def test_without_a_priority_class_a_pod_is_as_it_was():
    pod = by_kind(one())["StatefulSet"]["spec"]["template"]["spec"]
    assert "priorityClassName" not in pod
    wanted = by_kind(one(priority_class="tenants"))["StatefulSet"]["spec"]["template"]["spec"]
    assert wanted == {**pod, "priorityClassName": "tenants"}


def test_a_namespace_without_callers_lets_nobody_in():
    policies = {each["metadata"]["name"]: each["spec"] for each in objects.of_namespace(declared())[1:4]}
    assert policies["hermes-callers"]["ingress"] == []
    assert policies["hermes-default-deny"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
