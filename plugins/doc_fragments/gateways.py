# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Options of every module that works on all gateways of a host."""

from __future__ import annotations


class ModuleDocFragment:
    DOCUMENTATION = r"""
options:
  agents:
    description:
      - The C(gateway) parts of the descriptions of all declared agents, from the filter
        P(alwayson.hermes.resolve_agents#filter). They hold no secrets.
    type: list
    elements: dict
    required: true
  scope:
    description: The service manager that runs the gateways, the system's or each user's own, which must linger.
    type: str
    choices: [system, user]
    default: system
requirements:
  - Python >= 3.9 on the host
"""
