# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The filter runtime_key: the key with which an application reaches the agent of one user."""

from __future__ import annotations

from typing import Any

from ansible.errors import AnsibleFilterError
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.description.runtime_ids import hex_of
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.description.runtime_keys import key_of
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.errors import OpsError
from ansible_collections.alwayson.hermes.plugins.plugin_utils.variables import plain

DOCUMENTATION = r"""
name: runtime_key
short_description: The key for the agent of one user
version_added: 0.1.0
author:
  - The alwayson.hermes authors (@alwayson-hermes)
description:
  - Computes the key with which an application calls the agent of a user, on a host that runs one container for each
    user. C(docs/runtimes-keys.md) has the rule, so that an application can compute keys itself.
  - The result is a secret.
positional: _input, secret
options:
  _input:
    description: The id of the user, 1 to 256 characters.
    type: str
    required: true
  secret:
    description: The host's secret for keys, at least 32 characters.
    type: str
    required: true
  version:
    description: The version of the key, 1 to 999; the host has to accept it.
    type: int
    default: 1
"""

EXAMPLES = r"""
- name: Give an application the key of one user
  ansible.builtin.copy:
    content: "{{ 'alice@example.com' | alwayson.hermes.runtime_key(hermes_runtimes_secret) }}"
    dest: /etc/application/alice.key
    mode: "0600"
  no_log: true
"""

RETURN = r"""
_value:
  description: The key, for the header C(Authorization) after C(Bearer).
  type: str
"""


def runtime_key(user: Any, secret: Any, version: int = 1) -> str:
    user, secret = plain(user), plain(secret)
    if not isinstance(user, str) or not isinstance(secret, str):
        raise AnsibleFilterError("runtime_key: the id of the user or the secret is not text. Fix: quote it")
    try:
        return key_of(secret, hex_of(user), int(version))
    except OpsError as error:
        raise AnsibleFilterError(str(error)) from None


class FilterModule:
    """The filters of this file."""

    def filters(self) -> dict[str, Any]:
        return {"runtime_key": runtime_key}
