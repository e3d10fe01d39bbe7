#!/usr/bin/python
# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Documentation of the action fleet_report, which works on the controller: plugins/action/fleet_report.py."""

from __future__ import annotations

DOCUMENTATION = r"""
module: fleet_report
short_description: What the hosts of a fleet answered, on the terminal and as a page
version_added: 0.1.0
author:
  - The alwayson.hermes authors (@alwayson-hermes)
description:
  - Prints a table of what C(hermes-ops) answered on each host, what is wrong first, with its fix. Works on the
    controller and asks no host.
  - A host may be in somebody else's hands. What it answered is taken as text of bounded length; nothing in it reaches
    the terminal or the page as anything else.
attributes:
  check_mode:
    support: full
    description: Writes no page.
  diff_mode:
    support: none
    description: The page is output, not state.
  idempotent:
    support: full
    description: Never says changed. The page names the time of the look, so it is written again.
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
      What a task registered, by the name of the host. A host whose task was skipped counts as not reached.
    type: dict
    required: true
  page:
    description: >-
      File for the page, below the directory that C(ansible-playbook) was called in where it is no absolute path;
      empty for none. Only with O(of=status).
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
  description: The hosts that are not well, or where the command did not do its work.
  returned: always
  type: list
  elements: str
  sample: [zeus.example.org]
"""
