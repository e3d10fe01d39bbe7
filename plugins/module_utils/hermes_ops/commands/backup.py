# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""``hermes-ops backup``: back up the agents' homes, on this host and off it. The backup timer runs it."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
from collections.abc import Iterator
from functools import partial
from typing import Any

from ..backup import archives, making, offsite, order, preview
from ..backup.settings import ENV_CHOICES, Settings
from ..cli import EXIT_OK, EXIT_UNHEALTHY, say
from ..description.agent import Agent
from ..host import runtimes, settings
from ..host.installation import Installation
from ..host.undertaking import Interrupted
from ..supervise import runtime_agents
from ..system.errors import OpsError, as_error
from ..system.files import check_trusted
from ..system.text import brief, printable
from ..watch import heartbeat

# Most characters of one failure or problem, and most problems of one agent, in the message about a run.
CAUSE, FILES = 300, 3

SUMMARY = "back up the agents' homes while the agents run"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--agent", help="this agent only")
    options(parser)


def options(parser: argparse.ArgumentParser) -> None:
    """How to make a backup, of whichever agent."""
    parser.add_argument("--output", metavar="DIR", help="write archives to DIR only, and remove none there")
    parser.add_argument("--env", choices=ENV_CHOICES, help=".env in the archive (default: as declared)")
    parser.add_argument("--check", action="store_true", help="only say what would be made and removed")
    parser.add_argument("--json", action="store_true", help="print JSON for programs")


def work(arguments: argparse.Namespace) -> int:
    host = installation()
    wanted = declared()
    if arguments.check:
        return _preview(host, wanted, arguments)
    directory = _output(arguments.output) if arguments.output else archives.directory_of(host)
    # A partial backup must not be reported as the nightly one.
    whole = arguments.agent is None and arguments.output is None
    if whole:
        heartbeat.report(host, "backup", "start", "backup")
    made: list[dict[str, Any]] = []
    failures: list[str] = []
    try:
        if whole:
            # The unit's time-out. What was done until then is recorded.
            signal.signal(signal.SIGTERM, _end)
        env = wanted.env_of(arguments.env)
        agents = _chosen(host, arguments.agent, failures)
        repository = _repository(host, wanted, failures) if arguments.output is None else None
        for agent, where in order.quickest_first(host, agents, away=repository is not None):
            # A failure with one agent must not keep the others from their backups.
            with _collected(failures, agent), order.timed(host, agent, where):
                if repository and where == order.AWAY:
                    # With its .env: the repository is encrypted.
                    repository.save(agent.name, partial(making.stream, host, agent, env="include"))
                    repository.forget(agent.name)
                    continue
                done = making.create(host, agent, directory, env=env)
                made.append(_said(agent.name, done))
                if arguments.output is None:
                    archives.prune(directory, agent.name, wanted.keep)
        if repository:
            repository.look_after()
    except (OpsError, OSError, Interrupted) as error:
        failures.append(str(error))
    problems = [f"{each['agent']}: {path} {why}" for each in made for path, why in each["problems"].items()]
    wrong = [*(brief(failure, CAUSE) for failure in failures), *summed_up(made)]
    message = "; ".join(wrong) or f"backed up: {named([each['agent'] for each in made]) or 'none yet'}"
    if whole:
        with contextlib.suppress(OpsError) if failures else contextlib.nullcontext():
            heartbeat.conclude(host, "backup", bool(wrong), message, archives=made)
    if arguments.json:
        say(json.dumps(made, indent=2))
    else:
        for each in made:
            say(f"agent {each['agent']}: {each['path']} ({each['size'] / 2**20:.1f} MiB)")
        for problem in problems:
            say(f"problem: {problem}")
    if failures:
        raise OpsError("; ".join(failures))
    return EXIT_UNHEALTHY if problems else EXIT_OK


def named(agents: list[str]) -> str:
    """*agents* in words: users' agents, of whom there may be hundreds, only by their number."""
    users = sum(map(runtime_agents.is_users, agents))
    declared = [name for name in agents if not runtime_agents.is_users(name)]
    return ", ".join([*declared, *([f"agents of {users} users"] if users > 1 else ["the agent of a user"] * users)])


def summed_up(made: list[dict[str, Any]]) -> list[str]:
    """The problems in the archives *made*: so few and so short that those of the other agents have room as well."""
    said = []
    for each in made:
        found = [brief(f"{each['agent']}: {path} {why}", CAUSE) for path, why in each["problems"].items()]
        said += found[:FILES]
        if len(found) > FILES:
            said.append(f"{each['agent']}: {len(found) - FILES} more files with a problem")
    return said


def _preview(host: Installation, wanted: Settings, arguments: argparse.Namespace) -> int:
    output = _output(arguments.output) if arguments.output else None
    wanted.env_of(arguments.env)
    env = arguments.env or wanted.env
    failures: list[str] = []
    found = preview.preview(host, _chosen(host, arguments.agent, failures), wanted, output=output, env=env)
    found.failures += failures
    for line in [json.dumps(found.as_dict(), indent=2)] if arguments.json else found.lines():
        say(line)
    if found.failures:
        raise OpsError("; ".join(found.failures))
    return EXIT_OK


def _chosen(host: Installation, name: str | None, failures: list[str]) -> list[Agent]:
    """The agent *name*, or all of them, with those of users.

    :param failures: if the users cannot be found out, why; then the other agents are still backed up
    :raises OpsError: there is no such agent, or none at all
    """
    if name:
        return [runtime_agents.one(host, name)]
    agents = list(host.agents)
    try:
        agents += runtime_agents.with_homes(host)
    except OpsError as error:
        failures.append(f"the agents of users: {error}")
    if not agents and not failures and not runtimes.present():
        raise OpsError("there is no agent", fix="converge the host: site.yml")
    return agents


def _end(number: int, _frame: Any) -> None:
    signal.signal(number, signal.SIG_IGN)
    raise Interrupted(f"was ended by {signal.Signals(number).name}")


def _output(directory: str) -> str:
    """The real path of *directory*, which need not exist yet; no link is left in it.

    :raises OpsError: somebody other than root could replace an archive there, and so choose what a restore brings back
    """
    directory = there = os.path.realpath(directory)
    while not os.path.lexists(there):
        there = os.path.dirname(there)
    check_trusted(there, "name a directory that only root can change: --output")
    return directory


@contextlib.contextmanager
def _collected(failures: list[str], agent: Agent) -> Iterator[None]:
    """Record an exception as a failure of *agent* and go on.

    :raises Interrupted: a signal has ended the job; names the agent, who may have used up its time
    """
    try:
        yield
    except Interrupted as error:
        raise Interrupted(f"{error} at agent {agent.name}") from None
    except Exception as error:
        failures.append(f"{agent.name}: {printable(str(as_error(error)))}")


def _repository(host: Installation, wanted: Settings, failures: list[str]) -> offsite.Repository | None:
    """The declared repository, ready for use; None when there is none, or when it fails, which is recorded."""
    if not wanted.restic_repository:
        return None
    repository = offsite.Repository(host.ops_dir, wanted)
    try:
        repository.prepare()
    except (OpsError, OSError) as error:
        failures.append(str(error))
        return None
    return repository


def _said(agent: str, done: making.Made) -> dict[str, Any]:
    return {
        "agent": agent,
        "path": done.path,
        "size": os.stat(done.path).st_size,
        "files": done.manifest.members,
        "problems": done.manifest.problems,
        "left_out": done.manifest.left_out,
    }


def installation() -> Installation:
    if os.geteuid() != 0:
        raise OpsError("only root can work with backups", fix="use sudo")
    return Installation.load()


def declared() -> Settings:
    """The settings that the role backup wrote, or the defaults where it did not run."""
    if os.path.exists(settings.path_of("backup")):
        return settings.load("backup", Settings)
    return Settings()
