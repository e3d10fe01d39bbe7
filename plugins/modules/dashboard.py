#!/usr/bin/python
# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Module dashboard; the work is done in hermes_ops.dashboard."""

from __future__ import annotations

DOCUMENTATION = r"""
module: dashboard
short_description: The systemd unit of the dashboard of a host
version_added: 0.1.0
author:
  - The alwayson.hermes authors (@alwayson-hermes)
description:
  - Serves the web interface of Hermes with C(hermes-dashboard.service), a unit of the same kind as the gateways',
    restarted for ever and within the limits and the sandbox of the default profile.
  - It is started and stopped with the gateway of the default profile.
  - It is restarted when it runs another release than the current one, or without what its unit or the C(.env) of the
    default profile say by now.
extends_documentation_fragment:
  - alwayson.hermes.places
  - alwayson.hermes.units
attributes:
  check_mode:
    support: full
    description: Can run in check mode and tells what would be changed.
  diff_mode:
    support: full
    description: Shows the unit's text and state.
  idempotent:
    support: full
    description: A second run changes nothing.
options:
  state:
    description:
      - V(started) converges the unit, and ends when the dashboard is served.
      - V(absent) stops it and removes the unit.
    type: str
    choices: [started, absent]
    default: started
  profiles:
    description:
      - The C(gateway) parts of the descriptions of all declared profiles, as made by the filter
        P(alwayson.hermes.resolve_profiles#filter). They hold no secrets.
    type: list
    elements: dict
    required: true
  scope:
    description: Which service manager runs it, the system's or the user's own, which must linger.
    type: str
    choices: [system, user]
    default: system
  owner:
    description: The user that Hermes runs as.
    type: str
    required: true
  host:
    description:
      - The address to bind. On one that others can reach, Hermes wants a login; it is refused here unless the variables
        of one are among O(environment).
    type: str
    default: 127.0.0.1
  port:
    description: The port to bind.
    type: int
    default: 9119
  environment:
    description: The names, without values, of the variables that are declared for the default profile.
    type: list
    elements: str
    default: []
"""

EXAMPLES = r"""
- name: The dashboard is served on loopback
  alwayson.hermes.dashboard:
    profiles: "{{ common_gateways }}"
    owner: hermes
    data_dir: /var/lib/hermes
    hermes_home: /var/lib/hermes/.hermes

- name: No longer
  alwayson.hermes.dashboard:
    state: absent
    profiles: "{{ common_gateways }}"
    owner: hermes
    data_dir: /var/lib/hermes
    hermes_home: /var/lib/hermes/.hermes
"""

RETURN = r"""
unit:
  description: The name of the unit.
  returned: always
  type: str
  sample: hermes-dashboard.service
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.alwayson.hermes.plugins.module_utils.common import owner_of, run_module
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.supervise import dashboard, units
from ansible_collections.alwayson.hermes.plugins.module_utils.unit_host import UNITS_ARGUMENTS, units_host

ARGUMENTS: dict[str, dict[str, Any]] = {
    **UNITS_ARGUMENTS,
    "state": {"type": "str", "choices": ["started", "absent"], "default": "started"},
    "profiles": {"type": "list", "elements": "dict", "required": True},
    "scope": {"type": "str", "choices": ["system", "user"], "default": "system"},
    "owner": {"type": "str", "required": True},
    "host": {"type": "str", "default": "127.0.0.1"},
    "port": {"type": "int", "default": 9119},
    "environment": {"type": "list", "elements": "str", "default": []},
}


def work(module: AnsibleModule) -> dict[str, Any]:
    params = module.params
    owner = owner_of(module)
    host = units_host(module, owner)
    if params["state"] == "absent":
        plan = dashboard.plan_no_dashboard(host, owner)
    else:
        plan = dashboard.plan_dashboard(
            host, params["profiles"], owner, params["host"], params["port"], params["environment"]
        )
    if not module.check_mode:
        plan.apply()
    return {"changed": plan.changed, "diff": plan.diff("dashboard"), "unit": units.DASHBOARD_NAME}


def main() -> None:
    run_module(ARGUMENTS, work)


if __name__ == "__main__":
    main()
