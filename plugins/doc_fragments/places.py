# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Options of every module that reads the records and the releases."""

from __future__ import annotations


class ModuleDocFragment:
    DOCUMENTATION = r"""
options:
  ops_dir:
    description: Directory of the records, outside every agent's reach.
    type: path
    required: true
  root:
    description: Directory of the releases.
    type: path
    default: /opt/hermes
"""
