# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Options of every module that works on all gateways of a host."""

from __future__ import annotations


class ModuleDocFragment:
    DOCUMENTATION = r"""
options:
  profiles:
    description:
      - The C(gateway) parts of the descriptions of all declared profiles, as made by the filter
        P(alwayson.hermes.resolve_profiles#filter). They hold no secrets.
    type: list
    elements: dict
    required: true
  scope:
    description: Which service manager runs the gateways, the system's or the user's own, which must linger.
    type: str
    choices: [system, user]
    default: system
  owner:
    description: The user that Hermes runs as.
    type: str
    required: true
  ops_dir:
    description: Directory in which is remembered what was applied, outside the agent's reach.
    type: path
    required: true
requirements:
  - Python >= 3.9 on the host
"""
