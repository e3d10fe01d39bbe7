# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""systemd as the supervisor: a gateway is a unit of the system's manager, or of its user's."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator

from ..description.agent import Agent
from ..host import held
from ..host.held import Hold
from ..host.installation import Installation
from ..system.errors import OpsError
from ..system.files import Account
from ..system.systemd import Manager, Unit
from . import journal, units
from .managers import ManagerOf, grouped, units_of
from .problems import Problem
from .supervisor import State, Supervisor

# systemd's exit code for a program that it cannot execute (systemd.exec(5)).
EXIT_EXEC = 203
# Hermes' exit code for a configuration that cannot work (gateway/restart.py, since 0.18).
EXIT_CONFIG = 78
# Seconds for the end of a user's manager: systemd kills it after 120 s.
USER_MANAGER_TIMEOUT = 180.0


def supervisor_of(host: Installation) -> Supervisor:
    """The supervisor of the gateways of *host*."""
    return Systemd(host.manager_of)


class Systemd:
    """A :class:`Supervisor` on systemd.

    :param manager_of: agent -> the manager that runs its unit
    """

    def __init__(self, manager_of: ManagerOf) -> None:
        self.manager_of = manager_of

    def account_of(self, agent: Agent) -> Account:
        return self.manager_of(agent).account

    def state(self, agents: Iterable[Agent]) -> dict[str, State]:
        agents = list(agents)
        found = units_of(agents, self.manager_of)
        return {agent.name: state_of(found[agent.unit], held.read(agent.name)) for agent in agents}

    def start(self, agents: Iterable[Agent]) -> None:
        _with_each(grouped(agents, self.manager_of), _start_afresh)

    def stop(self, agents: Iterable[Agent]) -> None:
        _with_each(grouped(agents, self.manager_of), _stop)

    def restart(self, agents: Iterable[Agent]) -> None:
        agents = list(agents)
        if len(agents) == 1:
            # A single command: if we are killed in the middle, systemd still completes the restart.
            (agent,) = agents
            self.manager_of(agent).call("restart", agent.unit, timeout=stop_timeout(agents))
            held.ask(agent.name)
            return
        self.stop(agents)
        _with_each(grouped(agents, self.manager_of), _start)

    def log(self, agent: Agent, *, before: bool) -> list[str]:
        return journal.last_lines(self.manager_of(agent), agent, before=before)


def _with_each(groups: list[tuple[Manager, list[Agent]]], action: Callable[[Manager, list[Agent]], object]) -> None:
    """Call *action* for each manager. The failure of one, which may be its agent's doing, stops none of the others.

    :raises OpsError: of the managers that failed
    """
    errors = []
    for manager, members in groups:
        try:
            action(manager, members)
        except OpsError as error:
            names = ", ".join(agent.name for agent in members)
            errors.append(error if manager.scope == "system" else _named(error, names))
    if len(errors) == 1:
        raise errors[0]
    if errors:
        raise OpsError("; ".join(map(str, errors)))


def _named(error: OpsError, names: str) -> OpsError:
    return OpsError(error.what, where=f"agent {names}: {error.where}", fix=error.fix or "see what its user runs")


def _start_afresh(manager: Manager, agents: list[Agent]) -> None:
    # Also resets the restart delay of a crash loop.
    manager.call("reset-failed", *(agent.unit for agent in agents), check=False)
    _start(manager, agents)


def _start(manager: Manager, agents: list[Agent]) -> None:
    if manager.scope == "user":
        # It has been ended if it was silent at a stop.
        _system(manager).call("start", f"user@{manager.account.uid}.service")
    manager.call("start", *(agent.unit for agent in agents))
    for agent in agents:
        held.ask(agent.name)


def _stop(manager: Manager, agents: list[Agent]) -> None:
    with excused(manager, end=True):
        manager.call("stop", *(agent.unit for agent in agents), timeout=stop_timeout(agents))


@contextlib.contextmanager
def excused(manager: Manager, *, end: bool = False) -> Iterator[None]:
    """What fails in the block is no error if *manager* is a user's, which is its agent's to hold up.

    :param end: have the system's manager end it then, with everything that it runs
    """
    try:
        yield
    except OpsError:
        if manager.scope == "system":
            raise
        if end:
            _system(manager).call("stop", f"user@{manager.account.uid}.service", timeout=USER_MANAGER_TIMEOUT)


def _system(manager: Manager) -> Manager:
    return Manager("system", manager.account)


def stop_timeout(agents: Iterable[Agent]) -> float:
    """Seconds that systemctl may take to stop all of *agents*, in parallel."""
    return max(agent.drain for agent in agents) + 2.0 * units.STOP_MARGIN


def state_of(unit: Unit, hold: Hold | None = None) -> State:
    """Translate systemd's state of a gateway's unit.

    :param hold: why it must not run now; None: it may
    """
    problem = explain_unit(unit)
    if problem and hold:
        problem = Problem("no_space", hold.what, hold.fix, True)
    return State(
        running=unit.running,
        # A unit in auto-restart is not passing: it may wait for minutes before its next start.
        passing=unit.active in ("activating", "deactivating", "reloading") and unit.sub != "auto-restart",
        ended=unit.dead,
        # systemd restarts a gateway that ends on its own, so an inactive one was stopped.
        stopped=unit.active == "inactive" and hold is None,
        pid=unit.pid,
        entered=unit.entered,
        restarts=unit.restarts,
        status=unit.status,
        problem=problem,
        log=unit.log,
        restart=unit.command("restart"),
        held=hold is not None,
        memory=unit.memory,
    )


def explain_unit(unit: Unit) -> Problem | None:
    """The reason, as far as systemd knows it, why a unit is not running; None when it is."""
    if unit.running:
        return None
    if unit.unknown:
        return Problem(
            "manager_silent",
            f"its state is unknown because its user's manager {unit.unknown}",
            "end what that user runs (loginctl terminate-user), then converge the host: site.yml",
        )
    if unit.load == "not-found":
        return Problem("not_installed", f"{unit.name} does not exist", "converge the host: site.yml", True)
    if unit.status == EXIT_EXEC:
        return Problem(
            "wrong_binary",
            "systemd cannot execute the release's hermes (status 203/EXEC)",
            "converge the host: the role install repairs /opt/hermes/current",
            # While it is activating, the status may still be that of an attempt before a repair.
            final=unit.active != "activating",
        )
    if unit.result == "start-limit-hit":
        return Problem(
            "start_limit_hit",
            "systemd gave up restarting it",
            f"remove the cause, then: {unit.command('reset-failed')}",
            True,
        )
    if unit.result == "oom-kill":
        return Problem("out_of_memory", "it was killed for its memory limit", "raise limits.memory")
    if unit.status == EXIT_CONFIG:
        return Problem("bad_configuration", "Hermes rejects its own configuration (exit status 78)", "see its log")
    return Problem(
        "not_running",
        f"the unit is {unit.active} ({unit.sub}; last result {unit.result or 'none'}, status {unit.status})",
        f"{unit.command('start')}; why it is not running: {unit.log}",
    )
