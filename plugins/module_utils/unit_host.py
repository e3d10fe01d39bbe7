# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What modules share that write units which run a release."""

from __future__ import annotations

from typing import Any

from ansible.module_utils.basic import AnsibleModule

from .common import PLACES_ARGUMENTS
from .hermes_ops.supervise import units
from .hermes_ops.system import systemd
from .hermes_ops.system.files import Owner

# Beside doc_fragments/places.py and units.py. Scope and owner are needed as well, and have other words in each module.
UNITS_ARGUMENTS: dict[str, dict[str, Any]] = {
    **PLACES_ARGUMENTS,
    "data_dir": {"type": "path", "required": True},
    "restart_sec": {"type": "int", "default": 10},
    "restart_max_delay_sec": {"type": "int", "default": 300},
}


def units_host(module: AnsibleModule, owner: Owner, *, verbose: bool = False) -> units.Host:
    """The host as units are written for it.

    :param owner: of :func:`common.owner_of`
    :param verbose: see :class:`units.Host`
    """
    params = module.params
    return units.Host(
        scope=params["scope"],
        user=params["owner"],
        # Check mode on a host where the user is only planned.
        uid=owner.uid if owner.name == params["owner"] else f"(of {params['owner']})",
        data_dir=params["data_dir"],
        hermes_home=params["hermes_home"],
        root=params["root"],
        systemd=systemd.version(),
        restart_sec=params["restart_sec"],
        restart_max_delay_sec=params["restart_max_delay_sec"],
        verbose=verbose,
    )
