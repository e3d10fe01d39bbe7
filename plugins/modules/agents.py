#!/usr/bin/python
# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Module agents; the host's kit does the work (hermes_ops.modules.agents)."""

from __future__ import annotations

DOCUMENTATION = r"""
module: agents
short_description: All agents of a host, their homes and their gateways' systemd units
version_added: 0.1.0
author:
  - The alwayson.hermes authors (@alwayson-hermes)
description:
  - Creates the home of each agent with the directories that Hermes expects, and corrects modes and owners that Hermes
    or a C(sudo hermes) left wrong. C(SOUL.md) stays as declared. C(USER.md) and C(MEMORY.md) are written once and
    belong to the agent afterwards.
  - Merges the declared keys into C(config.yaml), where comments, order, spelling and all other keys stay exactly as
    they are, into C(.env), so that Hermes reads exactly the declared values, whatever bytes they hold, and into
    C(webhook_subscriptions.json), where undeclared fields and subscriptions stay.
  - Records the keys that it writes. So a key that leaves the declaration leaves the file, together with the parents
    that were made for it, and a manual change is reported in RV(agents) and reverted. A key of C(config.yaml) or
    C(.env) that left the declaration after somebody had changed it by hand is theirs, and stays.
  - A file that does not parse, or in which a key cannot be changed without changing others, is an error that names
    the line. Such an agent is left as it is, its unit as well. The others are converged. Then the module fails with all
    errors, which are also in RV(errors).
  - In an adopted home, growth limits apply only if they are declared under O(agents[].config).
  - Warns when it removes the model or the key of a provider from an agent, and of agents that are on the host but not
    among O(agents). These are left alone.
  - Writes the template unit C(hermes-gateway@.service) and a drop-in for each agent, enables and starts the
    gateways of present agents, stops and disables those of absent ones.
  - Keeps a service that stops a gateway while its disk is nearly full. Such a gateway is not started here, either.
  - Restarts a running gateway only if something changed that it cannot pick up while running. The reasons are recorded
    on the host until the restart is done, so the next run finishes a killed one.
  - Finally removes the agents that are declared absent with O(agents[].purge).
extends_documentation_fragment:
  - alwayson.hermes.units
attributes:
  check_mode:
    description:
      - Can run in C(check_mode) and says what would change, also on a bare host.
      - If a file cannot be read yet (no PyYAML on the host, or the file is root's and will be given to the agent's
        user), it reports a change, and the diff says that it cannot be predicted.
    support: full
  diff_mode:
    description: Shows the changes by agent and file, and the units. Secrets are hidden, including old ones.
    support: full
  idempotent:
    description: A second run with the same declaration changes nothing.
    support: full
options:
  agents:
    description:
      - The descriptions of all declared agents, from the filter P(alwayson.hermes.resolve_agents#filter).
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description: Name of the agent, and of its records.
        type: str
        required: true
      state:
        description:
          - V(absent) stops the gateway and removes its unit. The home stays, unless O(agents[].purge) is set.
        type: str
        choices: [present, absent]
        default: present
      home:
        description: Absolute path of the agent's home, its E(HERMES_HOME).
        type: path
        required: true
      gateway:
        description:
          - Where the agent runs, and the part of its description that its supervisor needs. Holds no secrets.
          - Its C(drain), C(limits) and C(health) belong to the description. C(agent.restart_drain_timeout) in
            C(config.yaml) follows from C(drain).
          - Its C(user) runs the agent. A process of this user reads and writes the files in O(agents[].home), also in
            check mode. In check mode the user need not exist yet. Then a home that is to be adopted is read as its
            present owner.
          - Its C(config_scope) says where the keys of O(agents[].config) are written. V(home) is C(config.yaml) in
            O(agents[].home), which the agent can change. V(managed) is C(config.yaml) in its C(managed_dir), which
            overrides the other one in Hermes, and which the agent can only read. Hermes 0.13 does not know it. If the
            home has no C(config.yaml), an empty one is written, because Hermes reads the managed one only beside it.
            When the scope changes, the keys leave the other file.
          - Its C(directory) is the agent's own directory, which usually contains the home.
          - Its C(api) and C(webhook) are the addresses of the agent's servers. C(API_SERVER_ENABLED),
            C(API_SERVER_HOST) and C(API_SERVER_PORT) in C(.env) follow from C(api). C(enabled), C(extra.host) and
            C(extra.port) below C(platforms.webhook) in C(config.yaml) follow from C(webhook), if it is enabled.
          - An enabled API server needs C(API_SERVER_KEY) in C(.env). If the key is neither declared in
            O(agents[].secrets) nor in the file, the host generates 64 hexadecimal digits. An existing value is kept,
            whoever made it.
        type: dict
        required: true
      soul:
        description: Content of C(SOUL.md). Without it the file is the agent's own.
        type: str
      user_profile:
        description: Initial content of C(memories/USER.md), at most 1375 characters. An existing file is left as it is.
        type: str
      memory:
        description: >-
          Initial content of C(memories/MEMORY.md), at most 2200 characters. An existing file is left as it is.
        type: str
      config:
        description:
          - The declared keys, nested as in C(config.yaml).
          - Every leaf is a key of its own. A list is one value and is replaced as a whole. An empty mapping only means
            that a mapping exists, with any content.
          - Strings that YAML 1.1 would read as something else, for example V(off), are quoted in the file.
          - A key below a value that is not a mapping replaces that value. A bare C(model) string is kept as
            C(model.default), which is its meaning in Hermes.
          - No secrets. They belong in O(agents[].secrets).
        type: dict
        default: {}
      settings:
        description:
          - Keys of C(.env) whose values may be shown, for example V(HERMES_TIMEZONE).
          - Integers and booleans are written as C(8642), C(true) and C(false).
          - The name of a secret, such as C(..._KEY) or C(..._TOKEN), is refused. It belongs in O(agents[].secrets).
        type: dict
        default: {}
      secrets:
        description:
          - Keys of C(.env) whose values must not be shown. Ansible masks these values everywhere in the module's
            output.
          - Values are strings. Quote numbers, otherwise YAML may change them.
          - Hermes strips everything that is not ASCII from the values of names that end in C(_API_KEY),
            C(_TOKEN), C(_SECRET) or C(_KEY), so such a value is refused.
        type: dict
        default: {}
      webhooks:
        description:
          - The webhook subscriptions of the agent. Of an existing one only the declared fields change; its secret,
            C(created_at) and fields that this module does not know stay as they are.
          - A running gateway reads them at its next request. Nothing has to be restarted.
        type: list
        elements: dict
        default: []
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
              - Secret that signs the calls.
              - If it is not declared, the one in the file is kept. If there is none either, the host generates one that
                only the file holds.
            type: str
          events:
            description: Kinds of event that are accepted; all if empty.
            type: list
            elements: str
          skills:
            description: Skills; the first that exists is loaded.
            type: list
            elements: str
          deliver:
            description: Where the answer goes, for example V(telegram); V(log) if not declared.
            type: str
          deliver_only:
            description: Deliver the prompt itself, without asking the agent. Needs O(agents[].webhooks[].deliver).
            type: bool
          deliver_extra:
            description: Details of the delivery, for example C(chat_id).
            type: dict
          enabled:
            description: With V(false) the gateway answers calls with status 403.
            type: bool
          script:
            description: >-
              Script below C(scripts) in O(agents[].home) that checks or changes the payload. Since Hermes 0.19.
            type: str
          filters:
            description: Conditions on the payload, a list of mappings or one mapping. Since Hermes 0.19.
            type: raw
      webhooks_purge:
        description: Remove subscriptions that are not declared, whoever made them.
        type: bool
        default: false
      purge:
        description:
          - With O(agents[].state=absent), remove the home with all its data, the agent's own directory, its managed
            scope, and its records. It is refused while a gateway runs on the home, and if the home holds profiles of
            Hermes.
        type: bool
        default: false
  min_free_mb:
    description:
      - A gateway is stopped while the disk of its home has less free than this, in MiB, or than 5 % of that disk, if
        that is less. C(hermes-disks.service) watches them. It starts the gateway again when twice as much is free.
      - V(0) removes that service.
    type: int
    default: 256
  ops_dir:
    description:
      - Directory of the records, outside every agent's reach.
      - It belongs to root, and must outlive the host, as the homes must.
    type: path
    required: true
  scope:
    description: The service manager that runs the gateways, the system's or each user's own, which must linger.
    type: str
    choices: [system, user]
    default: system
  verbose:
    description:
      - Whether the gateways write the content of C(logs/agent.log) to the journal, not only warnings. It includes the
        beginnings of messages.
    type: bool
    default: false
requirements:
  - Python >= 3.9 on the host
  - PyYAML on the host (the package C(python3-yaml))
  - the kit on the host, see M(alwayson.hermes.kit), unless O(min_free_mb=0)
notes:
  - Hermes reads C(.env) when it starts. A running gateway picks up changes of C(model), C(approvals.mode) and a few
    other keys of C(config.yaml).
  - Hermes has a second, simpler reader of C(.env), which cannot read values with a line break or a literal C(${). They
    reach the environment of the gateway unchanged.
  - The gateway serves webhooks if C(platforms.webhook.enabled) is V(true) in C(config.yaml). A route of the same
    name under C(platforms.webhook.extra.routes) overrides a subscription.
seealso:
  - module: alwayson.hermes.health
"""

EXAMPLES = r"""
- name: Agents are as declared
  alwayson.hermes.agents:
    agents: >-
      {{ hermes_agents | alwayson.hermes.resolve_agents(host=inventory_hostname, data_dir='/var/lib/hermes',
      managed_root='/etc/hermes-ops/managed') | dict2items | map(attribute='value') | list }}
    ops_dir: /var/lib/hermes/ops
  vars:
    hermes_agents:
      - name: default
        soul: |
          You are terse, kind and exact.
        config:
          model:
            provider: openrouter
            default: anthropic/claude-sonnet-4.5
        secrets:
          OPENROUTER_API_KEY: "{{ vault_openrouter_api_key }}"
        webhooks:
          - name: alerts
            description: Alertmanager
            prompt: "Alert {alert.name}: find out why, and say so in two sentences."
            deliver: telegram
            deliver_extra:
              chat_id: "-100123"
      - name: support
        config_scope: managed
        config:
          approvals:
            mode: manual
"""

RETURN = r"""
agents:
  description: Results for the homes of the present agents, by name. An agent with an error is missing.
  returned: always
  type: dict
  contains:
    changed:
      description: Whether something in the home was changed.
      type: bool
    home:
      description: The agent's home.
      type: str
    restart:
      description: Why the changes in the home require a restart of the gateway. Empty if they do not.
      type: list
      elements: str
    drift:
      description: >-
        Declared keys that somebody changed or removed since they were written, with C(file) and C(key); for
        C(config.yaml) also the value that was C(found), null if the key was gone, and the one that is C(declared).
        Secrets are hidden.
      type: list
      elements: dict
    migrated:
      description: >-
        Declared keys that differed after Hermes had moved C(config.yaml) to another version of its format
        (C(_config_version)), in the same form. They are restored as well.
      type: list
      elements: dict
    left:
      description: >-
        Keys that left the declaration but stay in the file, because somebody changed them, with C(file) and C(key), and
        for C(config.yaml) the value that was C(found). Secrets are hidden.
      type: list
      elements: dict
    generated:
      description: >-
        Keys and webhook subscriptions that got a new random secret, as C(file) and C(key). The value is only in the
        file.
      type: list
      elements: dict
  sample:
    default:
      changed: true
      home: /var/lib/hermes/agents/default/.hermes
      restart: ["env: API_SERVER_KEY"]
      drift:
        - {file: config.yaml, key: approvals.mode, found: "off", declared: smart}
      migrated: []
      left: []
      generated:
        - {file: .env, key: API_SERVER_KEY}
errors:
  description: >-
    Agents that were left as they are, with the error and its fix. The module fails with them, after it has converged
    the others.
  returned: always
  type: dict
  sample: {}
restarted:
  description: The running gateways that were restarted (in check mode, would be restarted), with the reasons.
  returned: when at least one home could be converged
  type: dict
  sample:
    default: ["config: platforms.webhook.extra.port"]
units:
  description: The units of the present agents that could be converged.
  returned: when at least one agent could be converged
  type: list
  elements: str
  sample: [hermes-gateway@default.service]
purged:
  description: The agents with data that was removed because of O(agents[].purge).
  returned: when at least one home could be converged
  type: list
  elements: str
  sample: []
"""

from typing import Any

from ansible_collections.alwayson.hermes.plugins.module_utils import arguments

WEBHOOK_ARGUMENTS: dict[str, dict[str, Any]] = {
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
}
AGENT_ARGUMENTS: dict[str, dict[str, Any]] = {
    "name": {"type": "str", "required": True},
    "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
    "home": {"type": "path", "required": True},
    "gateway": {"type": "dict", "required": True},
    "soul": {"type": "str"},
    "user_profile": {"type": "str"},
    "memory": {"type": "str"},
    "config": {"type": "dict", "default": {}},
    "settings": {"type": "dict", "default": {}},
    "secrets": {"type": "dict", "default": {}, "no_log": True},
    "webhooks": {"type": "list", "elements": "dict", "default": [], "options": WEBHOOK_ARGUMENTS},
    "webhooks_purge": {"type": "bool", "default": False},
    "purge": {"type": "bool", "default": False},
}
ARGUMENTS: dict[str, dict[str, Any]] = {
    **arguments.UNITS,
    "agents": {"type": "list", "elements": "dict", "required": True, "options": AGENT_ARGUMENTS},
    "min_free_mb": {"type": "int", "default": 256},
    "ops_dir": {"type": "path", "required": True},
    "scope": {"type": "str", "choices": ["system", "user"], "default": "system"},
    "verbose": {"type": "bool", "default": False},
}
SPECIFICATION: dict[str, Any] = {"argument_spec": ARGUMENTS}


def main() -> None:
    arguments.declare(SPECIFICATION)


if __name__ == "__main__":
    main()
