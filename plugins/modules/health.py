#!/usr/bin/python
# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Module health; the work is done in hermes_ops.health."""

from __future__ import annotations

DOCUMENTATION = r"""
module: health
short_description: Wait until gateways are truly healthy, or say why they are not
version_added: 0.1.0
author:
  - The alwayson.hermes authors (@alwayson-hermes)
description:
  - An active unit says little about an agent. Healthy means that the unit runs, its process is stable, Hermes itself
    says that it runs, C(/health) is answered by this Hermes, and every declared platform is connected.
  - Where an agent asks for it, the agent must also give a real reply, and answer a signed webhook call.
  - On failure the message names the cause and its fix, followed by the last lines of the gateway's journal.
  - The config.yaml and C(.env) of a healthy agent are kept as its last working copy.
extends_documentation_fragment:
  - alwayson.hermes.gateways
options:
  ops_dir:
    description: Directory in which is remembered what was applied, outside every agent's reach.
    type: path
    required: true
attributes:
  check_mode:
    support: full
    description: Waits for nothing and never fails, since nothing was converged.
  diff_mode:
    support: none
    description: Changes nothing.
  idempotent:
    support: full
    description: Changes nothing.
"""

EXAMPLES = r"""
- name: Every agent is there
  alwayson.hermes.health:
    profiles: "{{ common_gateways }}"
    ops_dir: /var/lib/hermes/ops
"""

RETURN = r"""
healthy:
  description: Whether all are.
  returned: always
  type: bool
profiles:
  description: The result of each agent.
  returned: always
  type: list
  elements: dict
  sample:
    - profile: default
      healthy: true
      pid: 4711
      version: 0.19.0
      platforms: {api_server: connected}
      reply: null
      problems: []
      log: []
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.alwayson.hermes.plugins.module_utils.common import (
    GATEWAYS_ARGUMENTS,
    agents_of,
    manager_of,
    run_module,
)
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.host.records import Records
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.supervise import health
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.supervise.systemd import Systemd

ARGUMENTS: dict[str, dict[str, Any]] = {**GATEWAYS_ARGUMENTS, "ops_dir": {"type": "path", "required": True}}


def work(module: AnsibleModule) -> dict[str, Any]:
    params = module.params
    agents = [agent for agent in agents_of(module) if agent.present]
    supervisor = Systemd(manager_of(module))
    if module.check_mode:
        states = supervisor.state(agents)
        results = [health.check(agent, supervisor.owner_of(agent), states[agent.name]) for agent in agents]
    else:
        records = {agent.name: Records(params["ops_dir"], agent.name) for agent in agents}
        results = health.wait(agents, supervisor, records)
    healthy = all(result.ok for result in results)
    answer = {"changed": False, "healthy": healthy, "profiles": [result.as_dict() for result in results]}
    if not healthy and not module.check_mode:
        module.fail_json(msg="\n".join(str(result) for result in results if not result.ok), **answer)
    return answer


def main() -> None:
    run_module(ARGUMENTS, work)


if __name__ == "__main__":
    main()
