# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""``hermes-ops backup``: the agents' homes, on this host and off it; what the timer runs."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
from collections.abc import Iterator
from typing import Any

from ..backup import archives, making, offsite
from ..backup.settings import ENV_CHOICES, Settings
from ..cli import EXIT_OK, EXIT_UNHEALTHY, say
from ..description.agent import Agent
from ..host import settings
from ..host.installation import Installation
from ..system.errors import OpsError, as_error
from ..system.files import check_trusted
from ..system.text import printable
from ..watch import heartbeat

SUMMARY = "back the agents' homes up, while they work"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--agent", help="this agent only")
    parser.add_argument("--output", metavar="DIR", help="there and nowhere else, and nothing is removed there")
    parser.add_argument("--env", choices=ENV_CHOICES, help=".env in the archive (default: as declared)")
    parser.add_argument("--json", action="store_true", help="print JSON for programs")


def work(arguments: argparse.Namespace) -> int:
    host = installation()
    wanted = declared()
    directory = _output(arguments.output) if arguments.output else archives.directory_of(host)
    # What is not the whole of it says nothing about the nightly one.
    whole = arguments.agent is None and arguments.output is None
    if whole:
        heartbeat.report(host, "backup", "start", "backup")
    made: list[dict[str, Any]] = []
    failures: list[str] = []
    try:
        env = wanted.env_of(arguments.env)
        agents = host.select(arguments.agent)
        if not agents:
            raise OpsError("there is no agent", fix="converge the host: site.yml")
        for agent in agents:
            # One agent's home must not keep the others from their backups.
            with _collected(failures, agent):
                done = making.create(host, agent, directory, env=env)
                made.append(_said(agent.name, done))
                if arguments.output is None:
                    archives.prune(directory, agent.name, wanted.keep)
        if arguments.output is None and wanted.restic_repository:
            _off_the_host(host, wanted, agents, failures)
    except (OpsError, OSError) as error:
        failures.append(str(error))
    problems = [f"{each['agent']}: {path} {why}" for each in made for path, why in each["problems"].items()]
    wrong = [*failures, *problems]
    message = "; ".join(wrong) or f"backed up: {', '.join(each['agent'] for each in made)}"
    if whole:
        with contextlib.suppress(OpsError) if failures else contextlib.nullcontext():
            heartbeat.conclude(host, "backup", bool(wrong), message, archives=made)
    if arguments.json:
        say(json.dumps(made, indent=2))
    else:
        for each in made:
            say(f"agent {each['agent']}: {each['path']} ({each['size'] / 2**20:.1f} MiB)")
        for problem in problems:
            say(f"not as it should be: {problem}")
    if failures:
        raise OpsError("; ".join(failures))
    return EXIT_UNHEALTHY if problems else EXIT_OK


def _output(directory: str) -> str:
    """The directory that was named, or is made where it was; reached through no link.

    :raises OpsError: somebody else could put another archive in the place of ours, and so choose what a restore brings
    """
    directory = there = os.path.realpath(directory)
    while not os.path.lexists(there):
        there = os.path.dirname(there)
    check_trusted(there, "name a directory of root's: --output")
    return directory


@contextlib.contextmanager
def _collected(failures: list[str], agent: Agent) -> Iterator[None]:
    """Take what goes wrong with one agent for a failure of that agent."""
    try:
        yield
    except Exception as error:
        failures.append(f"{agent.name}: {printable(str(as_error(error)))}")


def _off_the_host(host: Installation, wanted: Settings, agents: list[Agent], failures: list[str]) -> None:
    repository = offsite.Repository(host, wanted)
    repository.prepare()
    for agent in agents:
        with _collected(failures, agent):
            repository.save(agent)
            repository.forget(agent.name)
    repository.look_after()


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
        raise OpsError("backups are root's", fix="use sudo")
    return Installation.load()


def declared() -> Settings:
    """What the role backup wrote down, or what is so without it."""
    if os.path.exists(settings.path_of("backup")):
        return settings.load("backup", Settings)
    return Settings()
