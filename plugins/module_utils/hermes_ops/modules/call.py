# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A call of one of Ansible's modules, and what several of them share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from ..description.agent import Agent
from ..description.secrets import shown
from ..supervise import units
from ..supervise.managers import ManagerOf
from ..system import systemd
from ..system.errors import OpsError, as_error
from ..system.files import Owner
from ..system.plan import Plan
from ..system.systemd import Manager


@dataclass
class Call:
    """What a module was called with; ``plugins/modules/host_kit.py`` sends it.

    :param params: the module's arguments, checked by its specification
    :param check_mode: nothing may be changed
    :param diff_mode: the result is to tell what changes
    :param place: where the kit that the controller has lies on hosts
    :ivar warnings: what the caller is warned of
    """

    params: dict[str, Any]
    check_mode: bool = False
    diff_mode: bool = False
    place: str = ""
    warnings: list[str] = field(default_factory=list)

    def warn(self, text: str) -> None:
        self.warnings.append(text)

    def done(self, plan: Plan, header: str) -> dict[str, Any]:
        """Apply *plan*, but in check mode; what the module returns of it, with the diff below *header*."""
        if not self.check_mode:
            plan.apply()
        return {"changed": plan.changed, "diff": plan.diff(header)}


def answer(work: Callable[[Call], dict[str, Any]], call: Call) -> dict[str, Any]:
    """What the module returns: the result of *work*, or the one clear error that it raised.

    A result with ``failed`` and ``msg`` is a failure that tells more than an error could: what was done nevertheless.
    """
    try:
        result = work(call)
    except (OpsError, OSError) as caught:
        error = as_error(caught)
        result = {"failed": True, "msg": str(error), "what": error.what, "where": error.where, "fix": error.fix}
    # What -vvv shows of the arguments. Ansible hides what a specification names; a secret in a free-form mapping
    # (config, settings, deliver_extra) only shows by its name or look.
    return {**result, "warnings": call.warnings, "invocation": {"module_args": shown((), call.params)}}


def agents_of(call: Call) -> list[Agent]:
    """The agents in the argument ``agents``."""
    return [Agent.from_plain(each, f"agents[{number}]") for number, each in enumerate(call.params["agents"], 1)]


def manager_of(call: Call) -> ManagerOf:
    """Who runs the gateways of ``agents``, see :data:`managers.ManagerOf`.

    Where the user is only planned (check mode), or never was (an agent that is absent), our own rights will do.
    """

    def manager(agent: Agent) -> Manager:
        try:
            owner = Owner.named(agent.user)
        except OpsError:
            if not call.check_mode and agent.present:
                raise
            owner = replace(Owner.current(), name=agent.user, home=agent.directory)
        return Manager(call.params["scope"], owner)

    return manager


def units_host(call: Call, *, verbose: bool = False) -> units.Host:
    """The host as units are written for it.

    :param verbose: see :class:`units.Host`
    """
    params = call.params
    return units.Host(
        scope=params["scope"],
        root=params["root"],
        systemd=systemd.version(),
        restart_sec=params["restart_sec"],
        restart_max_delay_sec=params["restart_max_delay_sec"],
        verbose=verbose,
    )
