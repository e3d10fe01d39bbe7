# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Module tenants; plugins/action/tenants.py does the work, on the controller."""

from __future__ import annotations

DOCUMENTATION = r"""
module: tenants
short_description: An agent on Kubernetes for each tenant
version_added: 0.1.0
author:
  - The alwayson.hermes authors (@alwayson-hermes)
description:
  - Keeps the objects of Kubernetes that tenants consist of as declared; a Secret with description and secrets, a
    volume, a Service, and a StatefulSet of one pod for each, all with the name C(hermes-) and the tenant's, the Secret
    with a digest of what it holds; and once for all, the namespace, whose pods are C(restricted), policies of the
    network that keep tenants from each other, a quota that keeps the namespace from getting public addresses, and
    resources for containers that declare none.
  - What differs is found by a few lists. Only that is written, by server-side apply with a field manager of our own, so
    fields of others stay theirs.
  - Tenants that run, and whose pods have to be started again, are updated in batches, with canaries first. If one that
    was ready is not ready in time with what is declared, or its agent does not reply any more, those of its batch that
    failed go back to what they ran before, with their data, and no further tenant is tried. A run that was killed is
    gone on with by the next one, which also tries again what failed.
  - Any other error of one tenant is no other's. The task fails at its end if there was one.
  - Runs on the controller.
extends_documentation_fragment:
  - alwayson.hermes.cluster
attributes:
  check_mode:
    support: full
    description: The API server is asked whether it would take what differs, and changes nothing.
  diff_mode:
    support: full
    description: Shows which fields differ. What is in a Secret is not shown.
  idempotent:
    support: full
    description: A second run writes nothing, if the first one waited until the tenants were ready.
options:
  secret:
    description: >-
      From which the keys of the tenants' APIs are derived, at least 32 characters; see C(docs/runtimes-keys.md).
    type: str
    required: true
  template:
    description: What all tenants share.
    type: dict
    required: true
    suboptions:
      image:
        description: The image of the agent.
        type: str
        required: true
      agent:
        description: >-
          What the agents are, as an entry of C(hermes_agents), without C(name), C(home), C(limits), C(secrets_from),
          and the C(host) of C(api) and C(webhook).
        type: dict
        default: {}
      requests:
        description: What a tenant is given of the node.
        type: dict
        suboptions:
          cpu:
            description: Cores.
            type: str
            default: 100m
          memory:
            description: Bytes.
            type: str
            default: 256Mi
      limits:
        description: What a tenant may use at most.
        type: dict
        suboptions:
          cpu:
            description: Cores.
            type: str
            default: 500m
          memory:
            description: Bytes.
            type: str
            default: 1Gi
      volume:
        description: The size of a tenant's volume. It can grow where the storage class allows that.
        type: str
        default: 5Gi
      storage_class:
        description: The storage class of the volumes; without one, the cluster's default.
        type: str
        default: ""
      node_selector:
        description: Labels of the nodes on which tenants run.
        type: dict
        default: {}
      tolerations:
        description: Taints of nodes on which tenants run all the same, as Kubernetes wants them.
        type: list
        elements: dict
        default: []
      priority_class:
        description: >-
          The priority class of the pods; without one, the cluster's default. It is the cluster's to have; a name that
          it does not know is an error of the tenant.
        type: str
        default: ""
      version:
        description: The version of the keys, 1 to 999. Another one replaces them all.
        type: int
        default: 1
  tenants:
    description:
      - The tenants, each a mapping with C(name) and what differs from O(template). Mappings are merged, all else is
        replaced.
      - C(state=absent) removes the tenant and keeps its volume for O(keep_days); with C(purge=true) the volume goes at
        once. A tenant that comes back in time has its memory.
    type: list
    elements: dict
    required: true
  callers:
    description: Namespaces whose pods may call the tenants, such as that of an ingress controller.
    type: list
    elements: str
    default: [kube-system]
  egress:
    description: Private ranges that agents may reach, such as that of a model's server. Public addresses are open.
    type: list
    elements: str
    default: []
  keep_days:
    description: For how many days the volume of a tenant stays that is absent.
    type: int
    default: 30
  purge:
    description: Whether tenants that are there and not declared become absent. Otherwise they are only named.
    type: bool
    default: false
  room:
    description: >-
      Whether a tenant is refused for which the nodes have no room. V(false) is for clusters that add nodes by
      themselves.
    type: bool
    default: true
  wait:
    description: >-
      Seconds for the tenants that changed to be ready, for each batch of an update. With V(0) all tenants are changed
      at once, and nothing is waited for.
    type: int
    default: 300
  reply:
    description: >-
      Whether the agents that an update is about are asked how they are, and for a reply where a model is configured. An
      agent that is not as well afterwards as it was before counts as not ready. The login has to have the right to
      create C(pods/exec); without it there is a warning, and a tenant counts as updated as soon as it is ready.
    type: bool
    default: true
  canaries:
    description: >-
      Names of the tenants that are updated first. If none of them changes, and was ready, it is the first of those that
      are.
    type: list
    elements: str
    default: []
  batch:
    description: How many tenants an update makes unavailable at a time, at most.
    type: int
    default: 10
"""

EXAMPLES = r"""
- name: Two tenants
  alwayson.hermes.tenants:
    secret: "{{ vault_tenants_secret }}"
    template:
      image: registry.example.com/hermes-agent:0.19.0-slim-3f1c0a9b52de
      agent:
        config:
          model: {provider: openrouter, default: anthropic/claude-sonnet-4.5}
        secrets:
          OPENROUTER_API_KEY: "{{ vault_openrouter_api_key }}"
    tenants:
      - name: acme
      - name: globex
        limits: {memory: 2Gi}
        agent:
          soul: You work for Globex.
"""

RETURN = r"""
tenants:
  description: >-
    What became of each tenant; V(created), V(changed), V(unchanged), V(removed), V(absent), V(rolled back) or
    V(not tried).
  returned: always
  type: dict
  sample: {acme: created}
errors:
  description: Why a tenant is not as declared, by name.
  returned: always
  type: dict
undeclared:
  description: The names of tenants that are there and not declared.
  returned: always
  type: list
  elements: str
"""

from typing import Any

from ansible_collections.alwayson.hermes.plugins.module_utils.arguments import CLUSTER, amounts, declare

TEMPLATE: dict[str, dict[str, Any]] = {
    "image": {"type": "str", "required": True},
    "agent": {"type": "dict", "default": {}},
    "requests": amounts("100m", "256Mi"),
    "limits": amounts("500m", "1Gi"),
    "volume": {"type": "str", "default": "5Gi"},
    "storage_class": {"type": "str", "default": ""},
    "node_selector": {"type": "dict", "default": {}},
    "tolerations": {"type": "list", "elements": "dict", "default": []},
    "priority_class": {"type": "str", "default": ""},
    "version": {"type": "int", "default": 1},
}
ARGUMENTS: dict[str, dict[str, Any]] = {
    **CLUSTER,
    "secret": {"type": "str", "required": True, "no_log": True},
    "template": {"type": "dict", "required": True, "options": TEMPLATE},
    "tenants": {"type": "list", "elements": "dict", "required": True},
    "callers": {"type": "list", "elements": "str", "default": ["kube-system"]},
    "egress": {"type": "list", "elements": "str", "default": []},
    "keep_days": {"type": "int", "default": 30},
    "purge": {"type": "bool", "default": False},
    "room": {"type": "bool", "default": True},
    "wait": {"type": "int", "default": 300},
    "reply": {"type": "bool", "default": True},
    "canaries": {"type": "list", "elements": "str", "default": []},
    "batch": {"type": "int", "default": 10},
}
SPECIFICATION: dict[str, Any] = {"argument_spec": ARGUMENTS}


def main() -> None:
    declare(SPECIFICATION)


if __name__ == "__main__":
    main()
