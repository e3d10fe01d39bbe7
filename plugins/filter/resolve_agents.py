# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The filter resolve_agents: checks and completes hermes_agents before any host is touched."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ansible.errors import AnsibleFilterError
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.description import declaration
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.errors import OpsError
from ansible_collections.alwayson.hermes.plugins.plugin_utils.variables import plain

DOCUMENTATION = r"""
name: resolve_agents
short_description: Check and complete a list of agents
version_added: 0.1.0
author:
  - The alwayson.hermes authors (@alwayson-hermes)
description:
  - Turns the declared C(hermes_agents) into one complete description of each agent, with its user, paths, ports, unit
    name and the configuration that every agent gets. Keys of C(config.yaml) and C(.env) with its addresses and its
    drain time are not in it; the module M(alwayson.hermes.agents) derives them.
  - Refuses a declaration that cannot work, with one error that names host, agent, key and fix. Nothing on the host is
    read or changed.
positional: _input
options:
  _input:
    description: The list of agents.
    type: list
    elements: dict
    required: true
  host:
    description: Name of the host in the inventory, for error messages.
    type: str
    required: true
  data_dir:
    description: Absolute path of the directory of the agents' data.
    type: str
    required: true
  managed_root:
    description: Directory of the agents' managed scopes.
    type: str
    required: true
  declared:
    description:
      - Names of the host's variables. A variable of an earlier version is refused; the error names its replacement.
    type: list
    elements: str
    default: []
  tailnet:
    description: Whether the host is to be a node of a tailnet. Otherwise the host V(tailnet) of a server is refused.
    type: bool
    default: false
"""

EXAMPLES = r"""
- name: Show the ports of all agents
  ansible.builtin.debug:
    msg: >-
      {{ [{'name': 'default'}] | alwayson.hermes.resolve_agents(host=inventory_hostname,
      data_dir='/var/lib/hermes', managed_root='/etc/hermes-ops/managed')
      | dict2items | map(attribute='value.gateway.api.port') }}
"""

RETURN = r"""
_value:
  description: The complete description of every agent, by name, in the declared order.
  type: dict
"""


def resolve_agents(
    agents: Any, host: str, data_dir: str, managed_root: str, declared: Iterable[str] = (), tailnet: bool = False
) -> dict[str, Any]:
    try:
        declaration.refuse_replaced(plain(declared), host)
        resolved = declaration.resolve(
            plain(agents), host=host, data_dir=data_dir, managed_root=managed_root, tailnet=tailnet
        )
    except OpsError as error:
        raise AnsibleFilterError(str(error)) from None
    return {name: each.to_plain() for name, each in resolved.items()}


class FilterModule:
    """The filters of this file."""

    def filters(self) -> dict[str, Any]:
        return {"resolve_agents": resolve_agents}
