# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The filter runtime_webhook: where a webhook of one user's agent is called."""

from __future__ import annotations

from typing import Any

from ansible.errors import AnsibleFilterError
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.description.runtime_ids import hex_of
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.description.runtime_keys import webhook_path_of
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.errors import OpsError
from ansible_collections.alwayson.hermes.plugins.plugin_utils.variables import plain

DOCUMENTATION = r"""
name: runtime_webhook
short_description: Where a webhook of one user's agent is called
version_added: 0.1.0
author:
  - The alwayson.hermes authors (@alwayson-hermes)
description:
  - Computes the path at which a sender calls a webhook of a user's agent, on a host that runs one container for each
    user. It has a token in it. C(docs/runtimes-keys.md) has the rule, so that an application can compute paths itself.
  - The result is a secret.
positional: _input, secret, webhook
options:
  _input:
    description: The id of the user, 1 to 256 characters.
    type: str
    required: true
  secret:
    description: The host's secret for keys, at least 32 characters.
    type: str
    required: true
  webhook:
    description: The name of the agent's subscription.
    type: str
    required: true
  version:
    description: The version of the token, 1 to 999; the host has to accept it.
    type: int
    default: 1
seealso:
  - plugin: alwayson.hermes.runtime_key
    plugin_type: filter
"""

EXAMPLES = r"""
- name: Have a repository tell the agent of one user about its changes
  community.general.github_webhook:
    repository: example/notes
    url: "https://agents.example.com{{ 'alice' | alwayson.hermes.runtime_webhook(runtimes_secret, 'push') }}"
    secret: "{{ vault_push_secret }}"
    content_type: json
    events: [push]
    user: "{{ vault_github_user }}"
    token: "{{ vault_github_token }}"
  no_log: true
"""

RETURN = r"""
_value:
  description: The path, which begins with C(/w/).
  type: str
"""


def runtime_webhook(user: Any, secret: Any, webhook: Any, version: int = 1) -> str:
    user, secret, webhook = plain(user), plain(secret), plain(webhook)
    if not all(isinstance(value, str) for value in (user, secret, webhook)):
        raise AnsibleFilterError("runtime_webhook: an id, the secret or the name is not text. Fix: quote it")
    try:
        return webhook_path_of(secret, hex_of(user), webhook, int(version))
    except OpsError as error:
        raise AnsibleFilterError(str(error)) from None


class FilterModule:
    """The filters of this file."""

    def filters(self) -> dict[str, Any]:
        return {"runtime_webhook": runtime_webhook}
