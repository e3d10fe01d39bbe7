#!/usr/bin/python
# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Module gateway; the work is done in hermes_ops.gateway."""

from __future__ import annotations

DOCUMENTATION = r"""
module: gateway
short_description: The systemd units of all gateways of a host
version_added: 0.1.0
author:
  - The alwayson.hermes authors (@alwayson-hermes)
description:
  - Writes the template unit C(hermes-gateway@.service) and a drop-in for each agent, enables and starts the
    gateways that are declared, stops and disables those that are declared absent.
  - A gateway that already runs is not touched by O(state=started). What would need a restart is returned in
    RV(restart) and done by O(state=restarted), for those gateways only.
  - Reasons to restart are remembered on the host until the restart is done. A run that was killed in between
    is finished by the next one.
extends_documentation_fragment:
  - alwayson.hermes.gateways
  - alwayson.hermes.units
attributes:
  check_mode:
    support: full
    description: Can run in check mode and tells what would be changed.
  diff_mode:
    support: full
    description: Shows the units' texts and states.
  idempotent:
    support: full
    description: A second run changes nothing.
options:
  ops_dir:
    description: Directory in which is remembered what was applied, outside every agent's reach.
    type: path
    required: true
  state:
    description:
      - V(started) converges units, and starts what does not run.
      - V(restarted) does the same and then restarts the gateways that need it, and no other.
    type: str
    choices: [started, restarted]
    default: started
  verbose:
    description:
      - Whether the gateways tell the journal all that C(logs/agent.log) holds, which includes the beginnings of
        messages, and not warnings only.
    type: bool
    default: false
"""

EXAMPLES = r"""
- name: Gateways are as declared
  alwayson.hermes.gateway:
    profiles: "{{ common_gateways }}"
    ops_dir: /var/lib/hermes/ops
"""

RETURN = r"""
restart:
  description: The running gateways that need a restart, with the reasons.
  returned: always
  type: dict
  sample:
    default: ["config: platforms.webhook.extra.port"]
units:
  description: The units of the agents that are present.
  returned: always
  type: list
  elements: str
  sample: [hermes-gateway@default.service]
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.alwayson.hermes.plugins.module_utils.common import (
    manager_of,
    run_module,
)
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.host import installation
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.host.records import Records, remembered
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.supervise import gateway
from ansible_collections.alwayson.hermes.plugins.module_utils.unit_host import UNITS_ARGUMENTS, units_host

ARGUMENTS: dict[str, dict[str, Any]] = {
    **UNITS_ARGUMENTS,
    "ops_dir": {"type": "path", "required": True},
    "state": {"type": "str", "choices": ["started", "restarted"], "default": "started"},
    "verbose": {"type": "bool", "default": False},
}


def work(module: AnsibleModule) -> dict[str, Any]:
    params = module.params
    manager = manager_of(module)
    host = units_host(module, verbose=params["verbose"])
    profiles = params["profiles"]
    names = dict.fromkeys([*(profile["name"] for profile in profiles), *remembered(params["ops_dir"])])
    records = {name: Records(params["ops_dir"], name) for name in names}
    plan = gateway.plan_gateways(host, profiles, manager, records)
    if not module.check_mode:
        plan.apply()
        for profile in profiles:
            gateway.remember(records[profile["name"]], profile)
            installation.publish(profile)
        if params["state"] == "restarted":
            gateway.restart(manager, profiles, records, list(plan.restart))
    return {
        "changed": plan.changed,
        "diff": plan.diff("gateways"),
        "restart": plan.restart,
        "units": [profile["unit"] for profile in profiles if profile["state"] == "present"],
    }


def main() -> None:
    run_module(ARGUMENTS, work)


if __name__ == "__main__":
    main()
