#!/usr/bin/python
# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Module kit; the host's kit does the work (hermes_ops.modules.kit)."""

from __future__ import annotations

DOCUMENTATION = r"""
module: kit
short_description: Install the commands hermes-ops and hermes on a host
version_added: 0.1.0
author:
  - The alwayson.hermes authors (@alwayson-hermes)
description:
  - Installs the kit, which this module itself runs from, below C(/usr/local/lib/hermes-ops), and the command
    C(/usr/local/bin/hermes-ops), which runs it. So a host is checked without a controller by the same code that
    converged it. The previous version stays for running jobs until the next one is installed.
  - Writes C(/usr/local/bin/hermes), which runs a command of Hermes as an agent, and C(/etc/hermes-ops/host.json), which
    holds names, paths and acknowledgements, and no secrets.
extends_documentation_fragment:
  - alwayson.hermes.places
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
  acknowledged:
    description:
      - Warnings of C(hermes-ops check) that somebody has acknowledged. Each has C(finding), its name as
        C(hermes-ops status) shows it, C(reason), and C(until), the last day of the acknowledgement. docs/monitoring.md
        describes them.
    type: list
    elements: dict
    default: []
  data_dir:
    description: Directory of the agents' data, the data volume's mount point.
    type: path
    required: true
  data_volume:
    description: Whether O(data_dir) is the mount point of a declared data volume, without which C(hermes-ops) refuses.
    type: bool
    default: false
  managed_root:
    description: Directory of the agents' managed scopes.
    type: path
    default: /etc/hermes-ops/managed
  scope:
    description: The service manager that runs the gateways, the system's or each user's own, which must linger.
    type: str
    choices: [system, user]
    default: system
requirements:
  - Python >= 3.9 on the host
"""

EXAMPLES = r"""
- name: The kit is on the host
  alwayson.hermes.kit:
    data_dir: /var/lib/hermes
    ops_dir: /var/lib/hermes/ops
"""

RETURN = r"""
version:
  description: Version of the kit.
  returned: always
  type: str
  sample: 0.1.0
"""

from typing import Any

from ansible_collections.alwayson.hermes.plugins.module_utils import arguments

ARGUMENTS: dict[str, dict[str, Any]] = {
    **arguments.PLACES,
    "acknowledged": {"type": "list", "elements": "dict", "default": []},
    "scope": {"type": "str", "choices": ["system", "user"], "default": "system"},
    "data_dir": {"type": "path", "required": True},
    "data_volume": {"type": "bool", "default": False},
    "managed_root": {"type": "path", "default": "/etc/hermes-ops/managed"},
}
SPECIFICATION: dict[str, Any] = {"argument_spec": ARGUMENTS}


def main() -> None:
    arguments.declare(SPECIFICATION)


if __name__ == "__main__":
    main()
