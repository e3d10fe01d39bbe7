# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A call of an Ansible module, and functions that several modules share."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from ..description.agent import Agent
from ..description.hiding import shown
from ..supervise import units
from ..supervise.managers import ManagerOf
from ..system import systemd
from ..system.errors import OpsError, as_error
from ..system.files import Account
from ..system.plan import Plan
from ..system.systemd import Manager


@dataclass
class Call:
    """One call of a module, as sent by ``plugins/modules/host_kit.py``.

    :param params: the module's arguments, checked by its specification
    :param check_mode: change nothing
    :param diff_mode: include the differences in the result
    :param place: path on the host of the kit's version that the controller has
    :ivar warnings: shown to the caller
    """

    params: dict[str, Any]
    check_mode: bool = False
    diff_mode: bool = False
    place: str = ""
    warnings: list[str] = field(default_factory=list)

    def warn(self, text: str) -> None:
        self.warnings.append(text)

    def done(self, plan: Plan, header: str) -> dict[str, Any]:
        """Apply *plan* unless in check mode; returns ``changed`` and the diff, headed by *header*."""
        if not self.check_mode:
            plan.apply()
        return {"changed": plan.changed, "diff": plan.diff(header)}


def answer(work: Callable[[Call], dict[str, Any]], call: Call) -> dict[str, Any]:
    """The result that the module returns: that of *work*, or the error that it raised.

    *work* may also return ``failed`` and ``msg`` itself, to report a failure together with what was done nevertheless.
    """
    try:
        result = work(call)
    except (OpsError, OSError) as caught:
        error = as_error(caught)
        result = {"failed": True, "msg": str(error), "what": error.what, "where": error.where, "fix": error.fix}
    # The arguments that -vvv shows. Ansible hides those that the specification marks as secret. A secret in a free-form
    # mapping (config, settings, deliver_extra) can be recognized only by its name or look, so it is hidden here.
    return {**result, "warnings": call.warnings, "invocation": {"module_args": shown((), call.params)}}


def agents_of(call: Call) -> list[Agent]:
    """The agents in the argument ``agents``."""
    return [Agent.from_plain(each, f"agents[{number}]") for number, each in enumerate(call.params["agents"], 1)]


def manager_of(call: Call) -> ManagerOf:
    """The managers that run the gateways of ``agents``, see :data:`managers.ManagerOf`.

    The user may not exist: not yet in check mode, and perhaps never for an absent agent. Then our own user stands in.
    """

    def manager(agent: Agent) -> Manager:
        try:
            account = Account.named(agent.user)
        except OpsError:
            if not call.check_mode and agent.present:
                raise
            account = replace(Account.current(), name=agent.user, home=agent.directory)
        return Manager(call.params["scope"], account)

    return manager


def node() -> str:
    """The host's own name, for warnings: Ansible shows a warning of several hosts only once, and names none."""
    return os.uname().nodename


def unit_settings(call: Call, *, verbose: bool = False) -> units.UnitSettings:
    """The facts about the host that its units depend on.

    :param verbose: see :class:`units.UnitSettings`
    """
    params = call.params
    return units.UnitSettings(
        scope=params["scope"],
        root=params["root"],
        systemd=systemd.version(),
        restart_sec=params["restart_sec"],
        restart_max_delay_sec=params["restart_max_delay_sec"],
        verbose=verbose,
    )
