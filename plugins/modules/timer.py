#!/usr/bin/python
# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Module timer; the host's kit does the work (hermes_ops.modules.timer)."""

from __future__ import annotations

DOCUMENTATION = r"""
module: timer
short_description: Run a job of hermes-ops by a timer of systemd
version_added: 0.1.0
author:
  - The alwayson.hermes authors (@alwayson-hermes)
description:
  - Writes the job's settings, which only root may read, and the units C(hermes-<name>.service) and
    C(hermes-<name>.timer), and keeps the timer enabled and started.
  - The settings are checked by the job's own code before anything is changed.
  - If C(backup) gets another C(restic_password) for the same repository, the key in the repository is replaced first,
    by C(restic key passwd). If that fails, the settings stay as they were.
  - This module neither interrupts a running job nor starts it a second time.
  - Warns when it takes the repository off the host from the settings of V(backup).
attributes:
  check_mode:
    support: full
    description: Can run in check mode and says what would change.
  diff_mode:
    support: full
    description: Shows the units' texts; for the settings it only shows that they differ.
  idempotent:
    support: full
    description: A second run changes nothing.
options:
  name:
    description: The job.
    type: str
    choices: [backup, heartbeat, rehearsal, update]
    required: true
  state:
    description: V(absent) stops the timer and removes units and settings.
    type: str
    choices: [present, absent]
    default: present
  settings:
    description: The job's settings. The role that calls this module describes them.
    type: dict
    default: {}
  data_dir:
    description: Directory of the agents' data. Where it is a mount point, no job but V(heartbeat) starts without it.
    type: path
    default: /var/lib/hermes
  every:
    description:
      - Seconds between the beginnings of two runs. Each host has its own offset within that time.
      - Either this or O(calendar).
    type: int
  calendar:
    description: When it runs, as in systemd.time(7), optionally with a time zone.
    type: str
  randomized_delay:
    description: Seconds by which each run may begin later.
    type: int
    default: 0
  timeout:
    description: Seconds that a run may take.
    type: int
    default: 3600
requirements:
  - Python >= 3.9 on the host
  - the kit on the host, see M(alwayson.hermes.kit)
"""

EXAMPLES = r"""
- name: The agents are checked every two minutes
  alwayson.hermes.timer:
    name: heartbeat
    settings:
      ping_url: "{{ vault_ping_url }}"
    every: 120
    timeout: 110

- name: No longer
  alwayson.hermes.timer:
    name: heartbeat
    state: absent
"""

RETURN = r"""
timer:
  description: The timer's name.
  returned: always
  type: str
  sample: hermes-heartbeat.timer
"""

from typing import Any

from ansible_collections.alwayson.hermes.plugins.module_utils import arguments

ARGUMENTS: dict[str, dict[str, Any]] = {
    "name": {"type": "str", "choices": ["backup", "heartbeat", "rehearsal", "update"], "required": True},
    "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
    "settings": {"type": "dict", "default": {}, "no_log": True},
    "data_dir": {"type": "path", "default": "/var/lib/hermes"},
    "every": {"type": "int"},
    "calendar": {"type": "str"},
    "randomized_delay": {"type": "int", "default": 0},
    "timeout": {"type": "int", "default": 3600},
}
SPECIFICATION: dict[str, Any] = {"argument_spec": ARGUMENTS}


def main() -> None:
    arguments.declare(SPECIFICATION)


if __name__ == "__main__":
    main()
