# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Options of every module that works on one agent."""

from __future__ import annotations


class ModuleDocFragment:
    DOCUMENTATION = r"""
options:
  profile:
    description: Name of the agent, under which is remembered what was applied.
    type: str
    required: true
  home:
    description: Absolute path of the agent's home, its E(HERMES_HOME).
    type: path
    required: true
  owner:
    description:
      - The user that the agent runs as. A process of this user reads and writes the files in O(home), also in check
        mode.
      - In check mode the user need not exist yet. Then a home that is to be adopted is looked at as its present user.
    type: str
    required: true
  ops_dir:
    description:
      - Directory in which is remembered what was applied, outside the agent's reach.
      - Belongs to root and outlives the host, as O(home) does.
    type: path
    required: true
requirements:
  - Python >= 3.9 on the host
"""
