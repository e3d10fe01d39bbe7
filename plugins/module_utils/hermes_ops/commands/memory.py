# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""``hermes-ops memory``: search the memories, context and conversations of agents."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from typing import Any

from ..agent import memory
from ..agent.quote import quoted
from ..cli import EXIT_OK, EXIT_UNHEALTHY, say
from ..host.installation import Installation
from ..system.errors import OpsError
from ..system.files import Account
from ..system.text import moment, one_line
from ..system.worker import Limits, Worker

# For one agent, whose database may be large.
SECONDS = 60.0

SUMMARY = "search what an agent knows: memories, context, conversations"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--agent", help="this agent only")
    options(parser)


def options(parser: argparse.ArgumentParser) -> None:
    """What to search for, in whichever home."""
    parser.add_argument("query", help='words that a text must all contain ("…" around a phrase); - for standard input')
    parser.add_argument("--limit", type=int, default=10, help="maximum number of results of each kind (%(default)s)")
    parser.add_argument("--json", action="store_true", help="print JSON for programs")


def work(arguments: argparse.Namespace) -> int:
    host = Installation.load()
    query = sys.stdin.read() if arguments.query == "-" else arguments.query
    homes = {agent.name: (host.account_of(agent), agent.home) for agent in host.select(arguments.agent)}
    return search(homes, query, arguments)


def search(homes: dict[str, tuple[Account, str]], query: str, arguments: argparse.Namespace) -> int:
    """Search and print what was found.

    :param homes: agent -> its user and its home
    :param arguments: see :func:`options`
    :returns: the exit status
    """
    words = memory.words_of(query)
    found: dict[str, list[memory.Found]] = {}
    status = EXIT_OK
    workers = {
        name: Worker(
            account, "agent.memory:search", (home, words, arguments.limit), Limits(seconds=SECONDS), where=home
        )
        for name, (account, home) in homes.items()
    }
    for name, worker in workers.items():
        try:
            found[name], problem = memory.checked(worker.result())
        except OpsError as error:
            found[name], problem = [], str(error)
        if problem is not None:
            sys.stderr.write(f"hermes-ops: agent {name}: not everything could be searched: {quoted(problem)}\n")
            status = EXIT_UNHEALTHY
    if arguments.json:
        say(json.dumps({name: [dataclasses.asdict(place) for place in places] for name, places in found.items()}))
    else:
        _print(found)
    return status


def _print(found: dict[str, list[Any]]) -> None:
    for name, places in found.items():
        say(f"agent {name}: {len(places) or 'nothing'} found")
        for place in places:
            say(f"  {one_line(place.where)}  {moment(place.when)}")
            say(f"      {one_line(place.text)}")
