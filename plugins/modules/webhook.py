#!/usr/bin/python
# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
module: webhook
version_added: 0.1.0
short_description: Declare a Hermes profile's webhook subscriptions
description:
  - Writes the declared subscriptions to C(webhook_subscriptions.json) in the profile's directory, mode V(0600).
  - A running gateway takes them at its next request. Nothing has to be restarted, and no command of Hermes is run.
  - Of an existing subscription only the declared fields change. Its secret, C(created_at) and fields that this
    module does not know stay as they are.
  - Remembers what it wrote. A subscription that leaves the declaration leaves the file, and a field that leaves it
    goes back to Hermes' default. Subscriptions that somebody else made stay, unless O(purge) is set.
  - A file that is not JSON is an error that names the line. It is left as it is.
author:
  - The alwayson.hermes authors (@alwayson-hermes)
extends_documentation_fragment:
  - alwayson.hermes.profile
attributes:
  check_mode:
    description: Can run in C(check_mode) and says what would change, on a host too where nothing exists yet.
    support: full
  diff_mode:
    description: Says which fields change. Secrets are hidden, old ones as well.
    support: full
  idempotent:
    description: A second run with the same declaration changes nothing.
    support: full
options:
  webhooks:
    description: The subscriptions of the profile.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description:
          - Name of the subscription, the last part of its URL C(/webhooks/<name>).
          - Lower-case letters, digits, hyphens and underscores, beginning with a letter or digit.
        type: str
        required: true
      state:
        description: V(absent) removes the subscription, whoever made it.
        type: str
        choices: [present, absent]
        default: present
      description:
        description: What it is for.
        type: str
      prompt:
        description: What the agent is asked, with fields of the payload as C({alert.name}).
        type: str
      secret:
        description:
          - Secret with which calls are signed.
          - When not declared, the one in the file is kept. When there is none either, the host generates one, and
            only the file holds it.
        type: str
      events:
        description: Kinds of event that are taken; all when empty.
        type: list
        elements: str
      skills:
        description: Skills of which the first that exists is loaded.
        type: list
        elements: str
      deliver:
        description: Where the answer goes, for example V(telegram); V(log) when not declared.
        type: str
      deliver_only:
        description: Deliver the prompt itself, without asking the agent. Needs O(webhooks[].deliver).
        type: bool
      deliver_extra:
        description: More about where the answer goes, for example C(chat_id).
        type: dict
      enabled:
        description: With V(false) the gateway answers calls with status 403.
        type: bool
      script:
        description: Script below C(scripts) in O(home) that checks or changes the payload. Since Hermes 0.19.
        type: str
      filters:
        description: Conditions on the payload, a list of mappings or one mapping. Since Hermes 0.19.
        type: raw
  purge:
    description: Remove subscriptions that are not declared, whoever made them.
    type: bool
    default: false
notes:
  - The gateway serves webhooks when C(platforms.webhook.enabled) is V(true) in C(config.yaml). Set
    C(platforms.webhook.extra.host) as well, since by default it listens on every address.
  - A route of the same name under C(platforms.webhook.extra.routes) wins over a subscription.
seealso:
  - module: alwayson.hermes.config
"""

EXAMPLES = r"""
- name: Alerts and deployments
  alwayson.hermes.webhook:
    profile: default
    home: /var/lib/hermes/agents/default/.hermes
    owner: hermes-default
    ops_dir: /var/lib/hermes/ops
    webhooks:
      - name: alerts
        description: Alertmanager
        prompt: "Alert {alert.name}: find out why, and say so in two sentences."
        deliver: telegram
        deliver_extra:
          chat_id: "-100123"
      - name: deployments
        prompt: "{repository.name} was deployed."
        events: [deployment]
        secret: "{{ vault_deployments_secret }}"
"""

RETURN = r"""
generated:
  description: Names of subscriptions that got a new secret. It is in the file, and nowhere else.
  returned: success
  type: list
  elements: str
  sample: ["alerts"]
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.alwayson.hermes.plugins.module_utils.agent_home import converge
from ansible_collections.alwayson.hermes.plugins.module_utils.common import PROFILE_ARGUMENTS, run_module
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.agent.converge import AgentHome, Webhooks
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.plan import diff

ARGUMENTS = {
    **PROFILE_ARGUMENTS,
    "webhooks": {
        "type": "list",
        "elements": "dict",
        "required": True,
        "options": {
            "name": {"type": "str", "required": True},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "description": {"type": "str"},
            "prompt": {"type": "str"},
            "secret": {"type": "str", "no_log": True},
            "events": {"type": "list", "elements": "str"},
            "skills": {"type": "list", "elements": "str"},
            "deliver": {"type": "str"},
            "deliver_only": {"type": "bool"},
            "deliver_extra": {"type": "dict"},
            "enabled": {"type": "bool"},
            "script": {"type": "str"},
            "filters": {"type": "raw"},
        },
    },
    "purge": {"type": "bool", "default": False},
}


def work(module: AnsibleModule) -> dict[str, Any]:
    parameters = module.params
    declared = Webhooks(tuple(parameters["webhooks"]), parameters["purge"])
    part = converge(module, AgentHome(webhooks=declared)).parts["webhooks"]
    result = {"changed": bool(part.differences), "generated": part.generated}
    if module._diff:
        result["diff"] = diff(part.differences, part.path)
    return result


def main() -> None:
    run_module(ARGUMENTS, work)


if __name__ == "__main__":
    main()
