# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Moves an agent between this host's own agents and those of users: a backup of the one is restored to the other.

::

    record the move -> stop the source -> back it up -> restore that to the target -> record that it is done

The record (:class:`Moved`) keeps the source from being started by anything, so the two never run the same jobs. What
the source has stays where it is, and what the target had is set aside. A failure leaves both as they were. A move that
was killed is finished by the next call.
"""

from __future__ import annotations

import signal
from collections.abc import Callable

from ..description.agent import Agent
from ..host.installation import Installation, refuse_others
from ..host.records import Moved
from ..supervise import gateway, runtime_agents, runtimes
from ..supervise.runtime_host import Host
from ..system.errors import OpsError
from . import archives, making
from .restore import Restore


def move(host: Installation, source: Agent, target: Agent, say: Callable[[str], object]) -> str | None:
    """Have *target* go on with what *source* knows. *source* is stopped and stays as it is.

    :param say: called with each progress message
    :returns: the directory that holds what *target* had; None: the agent had moved there before
    :raises OpsError: nothing was moved, and says why
    """
    with host.lock("move"):
        if not check(host, source, target):
            return None
        left, arrives = host.records(source.name), host.records(target.name)
        before, elsewhere = left.moved(), arrives.moved()
        running = not runtime_agents.supervisor_for(host, source.name).state([source])[source.name].ended
        restore = Restore(host, target.name, say)
        try:
            # Before it stops: from here on nobody starts it.
            left.write_moved(Moved(target.name, False))
            say(f"stopping {source.name}")
            _retire(host, source)
            made = making.create(host, source, archives.directory_of(host))
            say(f"{made.path}: {made.manifest.members} files")
            arrives.write_moved(None)
            _employ(host, target)
            # A closed terminal or a stopped unit rolls back instead of stopping halfway.
            restore.undertaking.listen((signal.SIGHUP, signal.SIGINT, signal.SIGTERM))
            aside = restore.restore(made.path)
        except BaseException as error:
            if elsewhere:
                arrives.write_moved(elsewhere)
                _retire(host, target)
            # An earlier call was killed, perhaps after the restore; or this one's restore is not undone yet.
            unsure = before is not None or host.unfinished("restore", target.name)
            if not unsure:
                say(f"{source.name} stays where it is")
                _give_up(host, source, running)
            elif isinstance(error, OpsError):
                error.what += f"; {source.name} stays stopped, since {target.name} may have what it knows"
            raise
        left.write_moved(Moved(target.name, True))
    return aside


def check(host: Installation, source: Agent, target: Agent) -> bool:
    """Whether there is anything to move; changes nothing.

    :raises OpsError: :func:`move` would refuse, and why
    """
    left, arrives = host.records(source.name), host.records(target.name)
    before, elsewhere = left.moved(), arrives.moved()
    if elsewhere and elsewhere != Moved(source.name, True):
        arrives.refuse_moved()
    if before == Moved(target.name, True):
        return False
    if before and before.to != target.name:
        left.refuse_moved()
    refuse_others(host, source)
    return True


def _give_up(host: Installation, source: Agent, running: bool) -> None:
    """Have *source* be started again; now if it was *running*."""
    records = host.records(source.name)
    records.write_moved(None)
    _employ(host, source)
    if running:
        gateway.start(runtime_agents.supervisor_for(host, source.name), [source], {source.name: records})


def _retire(host: Installation, agent: Agent) -> None:
    """Stop *agent*; neither a boot nor a call starts it again."""
    if runtime_agents.is_users(agent.name):
        found = Host.of(host)
        runtimes.stop(found, runtime_agents.user_of(found, agent))
    else:
        gateway.leave(host.manager_of(agent), agent)


def _employ(host: Installation, agent: Agent) -> None:
    """Have a boot start *agent*. That calls wake a user's agent is part of its start."""
    if not runtime_agents.is_users(agent.name):
        host.manager_of(agent).call("enable", agent.unit)
