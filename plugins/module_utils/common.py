# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What all modules of the collection share: arguments in, plan, result or one clear error out."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from .hermes_ops.description.agent import Agent
from .hermes_ops.description.secrets import shown
from .hermes_ops.supervise.managers import ManagerOf
from .hermes_ops.system.errors import OpsError
from .hermes_ops.system.files import Owner
from .hermes_ops.system.systemd import Manager
from .module_cache import keep

# Beside doc_fragments/gateways.py, which documents them.
GATEWAYS_ARGUMENTS: dict[str, dict[str, Any]] = {
    "profiles": {"type": "list", "elements": "dict", "required": True},
    "scope": {"type": "str", "choices": ["system", "user"], "default": "system"},
}

# Beside doc_fragments/places.py.
PLACES_ARGUMENTS: dict[str, dict[str, Any]] = {
    "ops_dir": {"type": "path", "required": True},
    "root": {"type": "path", "default": "/opt/hermes"},
}


class Module(AnsibleModule):
    """A module that tells the host's journal nothing.

    Ansible hides what is marked with no_log there, but misses a secret within a list that needs escapes; and its
    own switch for all of it (the constructor's no_log) is overwritten by what the task says.
    """

    def _log_invocation(self) -> None:
        pass


def run_module(
    argument_spec: dict[str, dict[str, Any]],
    work: Callable[[AnsibleModule], dict[str, Any]],
    **options: Any,
) -> None:
    """Make the AnsibleModule, call *work* with it and leave with the result that it returns.

    A result with ``failed`` and ``msg`` is a failure that tells more than an error could: what was done nevertheless.

    :param options: further arguments of AnsibleModule, e.g. ``mutually_exclusive``
    """
    module = Module(argument_spec=argument_spec, supports_check_mode=True, **options)
    # Files we make are private unless we say otherwise.
    os.umask(0o077)
    # What -vvv shows of the arguments. Ansible hides what a specification names; a secret in a free-form mapping
    # (config, settings, deliver_extra) only shows by its name or look.
    invocation = {"module_args": shown((), module.params)}
    try:
        result = work(module)
    except (OpsError, OSError) as caught:
        error = as_error(caught)
        module.fail_json(msg=str(error), what=error.what, where=error.where, fix=error.fix, invocation=invocation)
    if result.get("failed"):
        module.fail_json(**result, invocation=invocation)
    if not module.check_mode:
        keep()
    module.exit_json(**result, invocation=invocation)


def as_error(caught: OpsError | OSError) -> OpsError:
    """*caught* as an error that names its file."""
    if isinstance(caught, OpsError):
        return caught
    return OpsError(str(caught.strerror or caught), where=caught.filename)


def agents_of(module: AnsibleModule) -> list[Agent]:
    """The agents in the argument ``profiles``."""
    return [Agent.from_plain(each, f"profiles[{number}]") for number, each in enumerate(module.params["profiles"], 1)]


def manager_of(module: AnsibleModule) -> ManagerOf:
    """Who runs the gateways of ``profiles``, see :data:`managers.ManagerOf`.

    Where the user is only planned (check mode), or never was (an agent that is absent), our own rights will do.
    """

    def manager(agent: Agent) -> Manager:
        try:
            owner = Owner.named(agent.user)
        except OpsError:
            if not module.check_mode and agent.present:
                raise
            owner = replace(Owner.current(), name=agent.user, home=agent.directory)
        return Manager(module.params["scope"], owner)

    return manager
