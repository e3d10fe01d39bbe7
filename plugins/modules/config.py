#!/usr/bin/python
# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
module: config
version_added: 0.1.0
short_description: Declare keys in a Hermes profile's config.yaml
description:
  - Merges the declared keys into a profile's C(config.yaml). Comments, order, spelling and all other keys stay
    exactly as they are.
  - Remembers what it wrote. So a key that leaves the declaration leaves the file, together with the parents that
    were made for it, and one that somebody changed by hand is reported in RV(drift) and put right.
  - A key that left the declaration after somebody had changed it by hand is theirs. It stays, and is named in
    RV(left).
  - A file that does not parse, or in which a key cannot be changed without changing others, is an error that
    names the line. It is left as it is.
author:
  - The alwayson.hermes authors (@alwayson-hermes)
extends_documentation_fragment:
  - alwayson.hermes.profile
attributes:
  check_mode:
    description:
      - Can run in C(check_mode) and says what would change, on a host too where nothing exists yet.
      - Where there is a file but no PyYAML to read it, it reports a change and warns that it cannot be predicted.
    support: full
  diff_mode:
    description: Says which keys change. Values that look like secrets are hidden, old ones as well.
    support: full
  idempotent:
    description: A second run with the same declaration changes nothing.
    support: full
options:
  config:
    description:
      - The declared keys, nested as in C(config.yaml).
      - Every leaf is a key of its own. A list is one value and replaced as a whole. An empty mapping means that
        there is a mapping, whatever is in it.
      - Strings that YAML 1.1 would read as something else, for example V(off), are quoted in the file.
      - A key below something that is no mapping replaces it. A bare C(model) string is kept as C(model.default),
        which is what it means to Hermes.
      - No secrets. They belong into C(.env); see M(alwayson.hermes.env).
    type: dict
    required: true
  scope:
    description:
      - Where the keys are written.
      - V(home) is C(config.yaml) in O(home), which the agent can change.
      - V(managed) is C(config.yaml) in O(managed_dir), which Hermes lets win and the agent can only read. The
        gateway's unit must set E(HERMES_MANAGED_DIR) to it. Hermes 0.13 does not know it. Where the home has no
        C(config.yaml) an empty one is written, for Hermes reads the managed one only beside it.
      - When the scope changes, the keys leave the other file.
    type: str
    choices: [home, managed]
    default: home
  managed_dir:
    description: Absolute path of the profile's managed directory. Made when missing, V(0755).
    type: path
requirements:
  - PyYAML on the host (the package C(python3-yaml))
seealso:
  - module: alwayson.hermes.env
"""

EXAMPLES = r"""
- name: A model, a webhook port, and no lazy installs
  alwayson.hermes.config:
    profile: default
    home: /var/lib/hermes/agents/default/.hermes
    owner: hermes-default
    ops_dir: /var/lib/hermes/ops
    config:
      model:
        provider: openrouter
        default: anthropic/claude-sonnet-4.5
      approvals:
        mode: smart
      security:
        allow_lazy_installs: false
      platforms:
        webhook:
          enabled: true
          extra:
            host: 127.0.0.1
            port: 8644

- name: The same keys where a chat cannot change them
  alwayson.hermes.config:
    profile: support
    home: /var/lib/hermes/agents/default/.hermes/profiles/support
    owner: hermes-default
    ops_dir: /var/lib/hermes/ops
    scope: managed
    managed_dir: /etc/hermes/profiles/support
    config:
      approvals:
        mode: manual
"""

RETURN = r"""
restart:
  description:
    - Why the gateway has to be restarted. Empty when it need not be.
    - A running gateway notices changes of C(model), C(approvals.mode) and a few others by itself.
  returned: success
  type: list
  elements: str
  sample: ["config: platforms.webhook.extra.port"]
drift:
  description: Declared keys that somebody changed or removed since they were written here.
  returned: success
  type: list
  elements: dict
  contains: &entry
    key:
      description: The key, its parts joined by dots.
      type: str
      sample: approvals.mode
    found:
      description: What was there; null when the key was gone. Secrets are hidden.
      type: raw
      sample: "off"
    declared:
      description: What is there now. Secrets are hidden.
      type: raw
      sample: smart
migrated:
  description:
    - Declared keys that differed after Hermes had moved the file to another version of its format
      (C(_config_version)). Put right as well.
  returned: success
  type: list
  elements: dict
  contains: *entry
left:
  description: Keys that left the declaration and stay in the file, because somebody changed them.
  returned: success
  type: list
  elements: dict
  contains:
    key:
      description: The key, its parts joined by dots.
      type: str
      sample: approvals.mode
    found:
      description: What is there. Secrets are hidden.
      type: raw
      sample: "off"
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.alwayson.hermes.plugins.module_utils.agent_home import converge
from ansible_collections.alwayson.hermes.plugins.module_utils.common import PROFILE_ARGUMENTS, run_module
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.agent.config import FILE_NAME
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.agent.converge import AgentHome, Config
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.plan import diff

ARGUMENTS = {
    **PROFILE_ARGUMENTS,
    "config": {"type": "dict", "required": True},
    "scope": {"type": "str", "choices": ["home", "managed"], "default": "home"},
    "managed_dir": {"type": "path"},
}


def work(module: AnsibleModule) -> dict[str, Any]:
    parameters = module.params
    managed = parameters["managed_dir"] if parameters["scope"] == "managed" else None
    part = converge(module, AgentHome(config=Config(parameters["config"], managed))).parts["config"]
    result = {
        "changed": bool(part.differences),
        "restart": part.restart,
        "drift": part.drift,
        "migrated": part.migrated,
        "left": part.left,
    }
    if module._diff:
        result["diff"] = diff(part.differences, f"{managed or parameters['home']}/{FILE_NAME}")
    return result


def main() -> None:
    run_module(ARGUMENTS, work, required_if=[("scope", "managed", ("managed_dir",))])


if __name__ == "__main__":
    main()
