# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Options of every module that writes units which run a release."""

from __future__ import annotations


class ModuleDocFragment:
    DOCUMENTATION = r"""
options:
  root:
    description: Directory of the releases.
    type: path
    default: /opt/hermes
  restart_sec:
    description: Seconds between the end of a service, for whatever reason, and its next start.
    type: int
    default: 10
  restart_max_delay_sec:
    description: Seconds to which this delay grows in a crash loop. Needs systemd 254; older ones keep O(restart_sec).
    type: int
    default: 300
requirements:
  - systemd >= 249 on the host
"""
