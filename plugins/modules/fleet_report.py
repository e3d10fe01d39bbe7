#!/usr/bin/python
# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Documentation of the action fleet_report, which works on the controller: plugins/action/fleet_report.py."""

from __future__ import annotations

DOCUMENTATION = r"""
module: fleet_report
short_description: Show what the hosts of a fleet answered, on the terminal and as a page
version_added: 0.1.0
author:
  - The alwayson.hermes authors (@alwayson-hermes)
description:
  - Prints a table of the answers of C(hermes-ops) on each host, problems first, with their fixes. It runs on the
    controller and contacts no host.
  - A host may be compromised. Its answer is treated as text of bounded length, which cannot control the terminal or
    the page.
attributes:
  check_mode:
    support: full
    description: Writes no page.
  diff_mode:
    support: none
    description: The page is output, not state.
  idempotent:
    support: full
    description: Never reports a change. The page shows its own time, so it is rewritten each time.
options:
  of:
    description: >-
      V(status) for the answers of C(hermes-ops status --json); V(job) for those of a command that does something,
      such as C(hermes-ops update --json).
    type: str
    choices: [status, job]
    required: true
  answers:
    description: >-
      The registered results of a task, by host name. A host with a skipped task counts as not reached.
    type: dict
    required: true
  page:
    description: >-
      File for the page; a relative path is below the directory in which C(ansible-playbook) was called. Empty for none.
      Only with O(of=status).
    type: str
    default: ""
"""

EXAMPLES = r"""
- name: Show the fleet
  alwayson.hermes.fleet_report:
    of: status
    answers: >-
      {{ dict(ansible_play_hosts_all
      | zip(ansible_play_hosts_all | map('extract', hostvars, 'status_answer'))) }}
    page: hermes-fleet.html
  run_once: true
"""

RETURN = r"""
wrong:
  description: The hosts that are not well, or on which the command failed.
  returned: always
  type: list
  elements: str
  sample: [zeus.example.org]
"""
