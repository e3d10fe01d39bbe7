# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Shared by the modules that converge a part of an agent's home."""

from __future__ import annotations

from ansible.module_utils.basic import AnsibleModule

from .hermes_ops.agent import converge as agent
from .hermes_ops.host.records import Records
from .hermes_ops.system.errors import OpsError
from .hermes_ops.system.files import Owner


def home_owner_of(module: AnsibleModule) -> Owner:
    """The user as whom the module looks at the home of its profile, and in which it changes it.

    In check mode on a host where that user is only planned there is either no home, or one that is adopted: then its
    present user looks at it.
    """
    try:
        return Owner.named(module.params["owner"])
    except OpsError:
        if module.check_mode:
            return agent.reader(module.params["home"])
        raise


def converge(module: AnsibleModule, desired: agent.AgentHome) -> agent.Outcome:
    """Make the home of the module's profile what is *desired*; see :func:`agent.converge.converge`."""
    parameters = module.params
    records = Records(parameters["ops_dir"], parameters["profile"])
    outcome = agent.converge(parameters["home"], home_owner_of(module), records, desired, check=module.check_mode)
    for note in outcome.notes:
        module.warn(note)
    for part in outcome.parts.values():
        if part.unpredicted:
            module.warn(f"{part.path}: what would change cannot be predicted: {part.unpredicted}")
    return outcome
