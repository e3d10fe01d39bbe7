# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What modules share that write units which run a release."""

from __future__ import annotations

from typing import Any

from ansible.module_utils.basic import AnsibleModule

from .hermes_ops.supervise import units
from .hermes_ops.system import systemd

# Beside doc_fragments/units.py.
UNITS_ARGUMENTS: dict[str, dict[str, Any]] = {
    "root": {"type": "path", "default": "/opt/hermes"},
    "restart_sec": {"type": "int", "default": 10},
    "restart_max_delay_sec": {"type": "int", "default": 300},
}


def units_host(module: AnsibleModule, *, verbose: bool = False) -> units.Host:
    """The host as units are written for it.

    :param verbose: see :class:`units.Host`
    """
    params = module.params
    return units.Host(
        scope=params["scope"],
        root=params["root"],
        systemd=systemd.version(),
        restart_sec=params["restart_sec"],
        restart_max_delay_sec=params["restart_max_delay_sec"],
        verbose=verbose,
    )
