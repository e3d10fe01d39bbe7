#!/usr/bin/python
# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Module dashboard; the host's kit does the work (hermes_ops.modules.dashboard)."""

from __future__ import annotations

DOCUMENTATION = r"""
module: dashboard
short_description: The systemd unit of the dashboard of a host
version_added: 0.1.0
author:
  - The alwayson.hermes authors (@alwayson-hermes)
description:
  - Serves the web interface of Hermes with C(hermes-dashboard.service), a unit of the same kind as the gateways',
    restarted for ever.
  - It shows one agent, the one named C(default) or the only one. It runs as that agent's user, within its limits and
    sandbox, and is started and stopped with its gateway.
  - It is restarted if it runs another release than the current one, or if its unit or the C(.env) of that agent has
    changed since it was started.
extends_documentation_fragment:
  - alwayson.hermes.gateways
  - alwayson.hermes.units
attributes:
  check_mode:
    support: full
    description: Can run in check mode and says what would change.
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
  host:
    description:
      - The address to bind. On an address that the network can reach, Hermes requires a login. Such an address is
        refused unless O(environment) includes the variables of a login.
    type: str
    default: 127.0.0.1
  port:
    description: The port to bind.
    type: int
    default: 9119
  environment:
    description: The names, without values, of the variables that are declared for that agent.
    type: list
    elements: str
    default: []
"""

EXAMPLES = r"""
- name: The dashboard is served on loopback
  alwayson.hermes.dashboard:
    agents: "{{ common_gateways }}"

- name: No longer
  alwayson.hermes.dashboard:
    state: absent
    agents: "{{ common_gateways }}"
"""

RETURN = r"""
unit:
  description: The name of the unit.
  returned: always
  type: str
  sample: hermes-dashboard.service
"""

from typing import Any

from ansible_collections.alwayson.hermes.plugins.module_utils import arguments

ARGUMENTS: dict[str, dict[str, Any]] = {
    **arguments.GATEWAYS,
    **arguments.UNITS,
    "state": {"type": "str", "choices": ["started", "absent"], "default": "started"},
    "host": {"type": "str", "default": "127.0.0.1"},
    "port": {"type": "int", "default": 9119},
    "environment": {"type": "list", "elements": "str", "default": []},
}
SPECIFICATION: dict[str, Any] = {"argument_spec": ARGUMENTS}


def main() -> None:
    arguments.declare(SPECIFICATION)


if __name__ == "__main__":
    main()
