# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The filter resolve_profiles: hermes_profiles, checked and completed, before any host is touched."""

from __future__ import annotations

from typing import Any

from ansible.errors import AnsibleFilterError
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.description import declaration
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.errors import OpsError

DOCUMENTATION = r"""
name: resolve_profiles
short_description: Check and complete a list of profiles
version_added: 0.1.0
author:
  - The alwayson.hermes authors (@alwayson-hermes)
description:
  - Turns C(hermes_profiles) as a person writes it into one complete description of each profile, with paths,
    ports, unit names and the configuration that follows from them.
  - Refuses what could not work with one error that names host, profile, key and fix. Nothing on the host is
    looked at or changed.
positional: _input
options:
  _input:
    description: The list of profiles.
    type: list
    elements: dict
    required: true
  host:
    description: The inventory's name of the host, for error messages.
    type: str
    required: true
  hermes_home:
    description: Absolute path of Hermes' home.
    type: str
    required: true
  managed_root:
    description: Directory below which the managed scope of each profile lies.
    type: str
    required: true
"""

EXAMPLES = r"""
- name: Show the ports of all profiles
  ansible.builtin.debug:
    msg: >-
      {{ [{'name': 'default'}] | alwayson.hermes.resolve_profiles(host=inventory_hostname,
      hermes_home='/var/lib/hermes/.hermes', managed_root='/etc/hermes-ops/managed')
      | dict2items | map(attribute='value.gateway.api.port') }}
"""

RETURN = r"""
_value:
  description: The complete description of every profile by its name, in the declared order.
  type: dict
"""


def _plain(value: Any) -> Any:
    """Templated, tagged and vaulted values as plain Python."""
    if isinstance(value, dict):
        return {_plain(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    # A vaulted string of core < 2.19 is no str, but becomes one.
    if isinstance(value, str) or hasattr(value, "__ENCRYPTED__"):
        return str(value)
    return value


def resolve_profiles(profiles: Any, host: str, hermes_home: str, managed_root: str) -> dict[str, Any]:
    try:
        return declaration.resolve(_plain(profiles), host=host, hermes_home=hermes_home, managed_root=managed_root)
    except OpsError as error:
        raise AnsibleFilterError(str(error)) from None


class FilterModule:
    """The filters of this file."""

    def filters(self) -> dict[str, Any]:
        return {"resolve_profiles": resolve_profiles}
