#!/usr/bin/python
# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Module health; the host's kit does the work (hermes_ops.modules.health)."""

from __future__ import annotations

DOCUMENTATION = r"""
module: health
short_description: Wait until gateways are truly healthy, or say why they are not
version_added: 0.1.0
author:
  - The alwayson.hermes authors (@alwayson-hermes)
description:
  - An active unit says little about an agent. Healthy means that the unit runs, its process is stable, Hermes itself
    reports that it runs, this Hermes answers C(/health), and every declared platform is connected.
  - If it is declared for an agent, the agent must also give a real reply, and answer a signed webhook call.
  - On failure the message names the cause of each unhealthy agent and its fix. RV(agents) has the last lines of its
    journal.
  - The config.yaml and C(.env) of a healthy agent are kept as its last working copy.
extends_documentation_fragment:
  - alwayson.hermes.gateways
options:
  ops_dir:
    description: Directory of the records, outside every agent's reach.
    type: path
    required: true
  errors:
    description:
      - Agents that could not be converged, with the errors that M(alwayson.hermes.agents) returned.
      - They are not looked at. The module fails with these errors after it has looked at the others, also in check
        mode.
    type: dict
    default: {}
attributes:
  check_mode:
    support: full
    description: Waits for nothing, and fails only with O(errors), because nothing was converged.
  diff_mode:
    support: none
    description: Changes nothing.
  idempotent:
    support: full
    description: Changes nothing.
"""

EXAMPLES = r"""
- name: Every agent is healthy
  alwayson.hermes.health:
    agents: "{{ common_gateways }}"
    ops_dir: /var/lib/hermes/ops
"""

RETURN = r"""
healthy:
  description: Whether all agents are healthy.
  returned: always
  type: bool
agents:
  description: The result of each agent.
  returned: always
  type: list
  elements: dict
  sample:
    - agent: default
      healthy: true
      pid: 4711
      version: 0.19.0
      platforms: {api_server: connected}
      reply: null
      problems: []
      log: []
"""

from typing import Any

from ansible_collections.alwayson.hermes.plugins.module_utils import arguments

ARGUMENTS: dict[str, dict[str, Any]] = {
    **arguments.GATEWAYS,
    "ops_dir": {"type": "path", "required": True},
    "errors": {"type": "dict", "default": {}},
}
SPECIFICATION: dict[str, Any] = {"argument_spec": ARGUMENTS}


def main() -> None:
    arguments.declare(SPECIFICATION)


if __name__ == "__main__":
    main()
