#!/usr/bin/python
# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Documentation of the action declarations, which works on the controller: plugins/action/declarations.py."""

from __future__ import annotations

DOCUMENTATION = r"""
module: declarations
short_description: Check the variables of several roles before any of them runs
version_added: 0.1.0
author:
  - The alwayson.hermes authors (@alwayson-hermes)
description:
  - Checks the variables that a host declares for roles of this collection against the roles' argument specifications,
    in one task. It runs on the controller and contacts no host.
  - Then makes the checks of the settings that the host would make later, such as those of C(hermes_agents), of ping
    URLs and of time zones.
  - Refuses a variable that no role knows if its name is a slip of one that a role knows. A name that only begins like
    ours is the user's own. Also refuses a variable of an earlier version, a key that stands twice in a mapping of a
    file that declares one of our variables, and another C(become_user) than root.
  - Fails with one line for each mistake, with the host, the variable, the role, the fix, and the file and line where
    the value was written, as far as Ansible knows them. The value of a secret is not shown.
  - Ansible's own check of a role, which costs a task for each role, can then be turned off by C(rolespec_validate) of
    C(import_role) and C(include_role).
attributes:
  check_mode:
    support: full
    description: Only reads.
  diff_mode:
    support: none
    description: There is nothing to compare.
  idempotent:
    support: full
    description: Never reports a change.
options:
  roles:
    description:
      - Names of roles of this collection, without the collection's name. Dependencies of a role are not added.
      - Of a role that is off, such as C(backup) with C(backup_enabled=false), only this variable is checked.
    type: list
    elements: str
    required: true
"""

EXAMPLES = r"""
- name: The declarations fit their descriptions
  alwayson.hermes.declarations:
    roles: [common, logrotate]

- name: Logs stay small
  ansible.builtin.include_role:
    name: alwayson.hermes.logrotate
    # Checked above.
    rolespec_validate: false
"""

RETURN = r"""
msg:
  description: What is wrong, one line for each mistake.
  returned: failure
  type: str
  sample: >-
    zeus: backup_keep: is 'seven', not a whole number. Fix: write a whole number (role backup; group_vars/hermes.yml:7)
"""
