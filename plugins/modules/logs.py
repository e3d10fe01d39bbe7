#!/usr/bin/python
# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Module logs; the host's kit does the work (hermes_ops.modules.logs)."""

from __future__ import annotations

DOCUMENTATION = r"""
module: logs
short_description: Keep the logs of all agents small
version_added: 0.1.0
author:
  - The alwayson.hermes authors (@alwayson-hermes)
description:
  - Writes a configuration of logrotate for each agent, C(/etc/hermes-ops/logrotate-<agent>.conf), with every log that
    Hermes does not bound itself, after logrotate has accepted it, and a unit that rotates these logs,
    C(hermes-logrotate@<agent>.service). One agent's rotation cannot delay another's.
  - The timer C(hermes-logrotate.timer) starts these units every hour, so that O(max_size) also holds within a day.
  - Limits the journal with a drop-in, C(/etc/systemd/journald.conf.d/hermes.conf), and restarts C(systemd-journald) if
    it runs without these settings.
attributes:
  check_mode:
    support: full
    description: Can run in check mode and says what would change.
  diff_mode:
    support: full
    description: Shows the texts.
  idempotent:
    support: full
    description: A second run changes nothing.
options:
  state:
    description: V(absent) removes these files and units. Logs, rotated or not, stay.
    type: str
    choices: [present, absent]
    default: present
  agents:
    description:
      - The C(gateway) parts of the descriptions of all declared agents, from the filter
        P(alwayson.hermes.resolve_agents#filter). They hold no secrets.
    type: list
    elements: dict
    required: true
  ops_dir:
    description:
      - Directory of the agents' records.
      - An agent in them that is not among O(agents) has left the declaration, but not the host. Its logs are still
        rotated.
    type: path
    required: true
  days:
    description:
      - For how many days rotated logs are kept; 14 if not declared.
      - The logs in an adopted home are rotated only if this is declared.
    type: int
  max_size:
    description: A larger log is rotated before its day is over.
    type: str
    default: 50M
  paths:
    description:
      - More logs, as absolute paths with the patterns of glob(7). They are rotated with the rights of the user that
        owns their directory, and their writers may keep them open.
      - A path that is rotated already is refused.
    type: list
    elements: str
    default: []
  journal_max_use:
    description: Disk space that the host's journal may use.
    type: str
    default: 500M
  journal_days:
    description: Older entries of the journal are removed; V(0) removes none for its age.
    type: int
    default: 0
requirements:
  - logrotate >= 3.18 on the host
"""

EXAMPLES = r"""
- name: Logs stay small
  alwayson.hermes.logs:
    agents: "{{ common_gateways }}"
    ops_dir: /var/lib/hermes/ops
    days: 30
    paths:
      - /var/lib/hermes/agents/default/bridges/*.log
"""

RETURN = r"""
configs:
  description: The configurations of logrotate, one for each agent, as a pattern of glob(7).
  returned: always
  type: str
  sample: /etc/hermes-ops/logrotate-*.conf
"""

from typing import Any

from ansible_collections.alwayson.hermes.plugins.module_utils import arguments

ARGUMENTS: dict[str, dict[str, Any]] = {
    "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
    "agents": {"type": "list", "elements": "dict", "required": True},
    "ops_dir": {"type": "path", "required": True},
    "days": {"type": "int"},
    "max_size": {"type": "str", "default": "50M"},
    "paths": {"type": "list", "elements": "str", "default": []},
    "journal_max_use": {"type": "str", "default": "500M"},
    "journal_days": {"type": "int", "default": 0},
}
SPECIFICATION: dict[str, Any] = {"argument_spec": ARGUMENTS}


def main() -> None:
    arguments.declare(SPECIFICATION)


if __name__ == "__main__":
    main()
