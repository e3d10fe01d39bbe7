#!/usr/bin/python
# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
module: env
version_added: 0.1.0
short_description: Declare keys in a Hermes profile's .env
description:
  - Writes the declared keys to C(.env) in the profile's directory, mode V(0600), so that Hermes reads exactly
    the declared values, whatever bytes they hold. All other lines stay byte for byte as they are.
  - Remembers which keys it wrote, by name and by a keyed fingerprint of the value. So a key that leaves the
    declaration leaves the file, and one that somebody changed by hand is reported in RV(drift) and put right.
  - A key that left the declaration after somebody had changed it by hand is theirs. It stays, and is named in
    RV(left).
  - A value is never part of the output, unless it was declared in O(settings).
author:
  - The alwayson.hermes authors (@alwayson-hermes)
extends_documentation_fragment:
  - alwayson.hermes.profile
attributes:
  check_mode:
    description: Can run in C(check_mode) and says what would change, on a host too where nothing exists yet.
    support: full
  diff_mode:
    description: Says which keys are added, changed or removed, with the values of O(settings) only.
    support: full
  idempotent:
    description: A second run with the same declaration changes nothing.
    support: full
options:
  settings:
    description:
      - Keys whose values may be shown, for example V(API_SERVER_PORT).
      - Integers and booleans are written as C(8642), C(true) and C(false).
      - A name that says that its value is secret, such as C(..._KEY) or C(..._TOKEN), is refused. It belongs
        in O(secrets).
    type: dict
    default: {}
  secrets:
    description:
      - Keys whose values must not be shown. Ansible masks these values everywhere in the module's output.
      - Values are strings. Quote numbers, or YAML may change them on their way.
      - Hermes strips everything that is not ASCII from the values of names that end in C(_API_KEY),
        C(_TOKEN), C(_SECRET) or C(_KEY), so such a value is refused.
    type: dict
    default: {}
  generate:
    description:
      - Names of keys that get a random value of 64 hexadecimal digits, made on the host, when they are
        neither declared nor in the file.
      - A value that is there is kept, whoever made it. It is never changed again.
    type: list
    elements: str
    default: []
notes:
  - Hermes reads C(.env) when it starts. RV(restart) says when the gateway has to be restarted.
  - Values that Hermes' simple second reader cannot express hold a line break or a literal C(${). They reach
    the environment of the gateway as they are.
seealso:
  - module: alwayson.hermes.config
"""

EXAMPLES = r"""
- name: The API server and the model's key
  alwayson.hermes.env:
    profile: default
    home: /var/lib/hermes/agents/default/.hermes
    owner: hermes-default
    ops_dir: /var/lib/hermes/ops
    settings:
      API_SERVER_ENABLED: true
      API_SERVER_PORT: 8642
    secrets:
      OPENROUTER_API_KEY: "{{ vault_openrouter_api_key }}"
    generate:
      - API_SERVER_KEY
"""

RETURN = r"""
restart:
  description: Why the gateway has to be restarted. Empty when it need not be.
  returned: success
  type: list
  elements: str
  sample: ["env: API_SERVER_PORT"]
drift:
  description: Names of declared keys that somebody changed or removed since they were written here.
  returned: success
  type: list
  elements: str
  sample: ["OPENROUTER_API_KEY"]
left:
  description: Names of keys that left the declaration and stay in the file, because somebody changed them.
  returned: success
  type: list
  elements: str
  sample: []
generated:
  description: Names of keys that got a new random value.
  returned: success
  type: list
  elements: str
  sample: ["API_SERVER_KEY"]
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.alwayson.hermes.plugins.module_utils.agent_home import converge
from ansible_collections.alwayson.hermes.plugins.module_utils.common import PROFILE_ARGUMENTS, run_module
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.agent.converge import AgentHome, Env
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.plan import diff

ARGUMENTS = {
    **PROFILE_ARGUMENTS,
    "settings": {"type": "dict", "default": {}},
    "secrets": {"type": "dict", "default": {}, "no_log": True},
    "generate": {"type": "list", "elements": "str", "default": []},
}


def as_text(value: Any) -> Any:
    """A setting's value as it stands in the file."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, int) else value


def work(module: AnsibleModule) -> dict[str, Any]:
    parameters = module.params
    settings = {name: as_text(value) for name, value in parameters["settings"].items()}
    declared = Env(settings, parameters["secrets"], tuple(parameters["generate"]))
    part = converge(module, AgentHome(env=declared)).parts["env"]
    result = {
        "changed": bool(part.differences),
        "restart": part.restart,
        "drift": part.drift,
        "left": part.left,
        "generated": part.generated,
    }
    if module._diff:
        result["diff"] = diff(part.differences, part.path)
    return result


def main() -> None:
    run_module(ARGUMENTS, work)


if __name__ == "__main__":
    main()
