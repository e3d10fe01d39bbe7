#!/usr/bin/python
# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Module secrets; the host's kit does the work (hermes_ops.modules.secrets)."""

from __future__ import annotations

DOCUMENTATION = r"""
module: secrets
short_description: Have secrets fetched from their sources
version_added: 0.1.0
author:
  - The alwayson.hermes authors (@alwayson-hermes)
description:
  - Writes C(hermes-secrets@.service), which fetches the secrets of an agent before its gateway starts, and
    C(hermes-secrets.timer), which has them fetched again.
  - Keeps the users of the agents from the metadata service of the cloud, with rules of nftables in a table of their
    own, which C(hermes-metadata.service) loads. Other rules of the host are left alone.
  - Fetches nothing itself. The module M(alwayson.hermes.agents) does when it meets an agent for the first time.
attributes:
  check_mode:
    support: full
    description: Can run in check mode and says what would change.
  diff_mode:
    support: full
    description: Shows the units and the rules; they hold no secrets.
  idempotent:
    support: full
    description: A second run changes nothing.
options:
  state:
    description: >-
      V(absent) stops the timer, and removes units, rules and what was fetched. It is refused while an agent on the
      host, declared or not, has its secrets from a source.
    type: str
    choices: [present, absent]
    default: present
  interval:
    description: Seconds between two looks at the sources, 10 or more.
    type: int
    default: 60
  agents:
    description:
      - The agents of the host, as C(gateway) in the result of the filter P(alwayson.hermes.resolve_agents#filter).
      - An agent with C(metadata) in C(sandbox.open) may reach the metadata service.
    type: list
    elements: dict
    default: []
  data_dir:
    description: Directory of the agents' data. Where it is a mount point, the job does not start without it.
    type: path
    default: /var/lib/hermes
  ops_dir:
    description: Directory of the records.
    type: path
    default: /var/lib/hermes/ops
requirements:
  - the Debian package nftables on the host
"""

EXAMPLES = r"""
- name: Secrets are fetched, and no agent reaches the metadata service
  alwayson.hermes.secrets:
    interval: 60
    agents: "{{ common_gateways }}"
"""

RETURN = r"""
timer:
  description: The name of the timer that has secrets fetched again.
  returned: always
  type: str
  sample: hermes-secrets.timer
"""

from typing import Any

from ansible_collections.alwayson.hermes.plugins.module_utils import arguments

ARGUMENTS: dict[str, dict[str, Any]] = {
    "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
    "interval": {"type": "int", "default": 60},
    "agents": {"type": "list", "elements": "dict", "default": []},
    "data_dir": {"type": "path", "default": "/var/lib/hermes"},
    "ops_dir": {"type": "path", "default": "/var/lib/hermes/ops"},
}
SPECIFICATION: dict[str, Any] = {"argument_spec": ARGUMENTS}


def main() -> None:
    arguments.declare(SPECIFICATION)


if __name__ == "__main__":
    main()
