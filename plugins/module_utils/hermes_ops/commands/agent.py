# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""``hermes-ops agent``: the entrypoint of a container that is one agent's alone."""

from __future__ import annotations

import argparse
import os
import signal
from types import FrameType

from ..cli import EXIT_OK, EXIT_UNHEALTHY, say_now
from ..supervise import entrypoint

SUMMARY = "run the agent of this container: converge its home, then become its gateway"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "action", choices=["run", "check"], help="run it; or only say what a start would change (1), or not (0)"
    )
    parser.add_argument(
        "--description",
        default="/etc/hermes/agent.json",
        metavar="FILE",
        help="an entry of hermes_agents as JSON (%(default)s)",
    )
    parser.add_argument(
        "--secrets", default="/run/secrets/hermes", metavar="DIR", help="a file for each secret (%(default)s)"
    )
    parser.add_argument("--data", default="/opt/data", metavar="DIR", help="what outlives the container (%(default)s)")
    parser.add_argument("--root", default="/opt/hermes", metavar="DIR", help="the releases (%(default)s)")
    parser.add_argument(
        "--entrypoint",
        nargs=argparse.REMAINDER,
        default=[],
        metavar="COMMAND",
        help="last: an image's own entrypoint with its arguments, which is called in place of the gateway. If it needs "
        "root, the home is given to HERMES_UID and HERMES_GID (10000)",
    )
    parser.epilog = (
        "exit status: 78 the description or a secret is wrong, and nothing was touched; 74 the home could not be "
        "converged; 0 stopped meanwhile; else that of the gateway"
    )


def work(arguments: argparse.Namespace) -> int:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)
    places = (arguments.description, arguments.secrets, arguments.data)
    container = entrypoint.load(*places, os.environ, wraps=bool(arguments.entrypoint))
    if container.unused:
        say_now(f"hermes-ops: not used in a container: {', '.join(container.unused)}")
    if arguments.action == "check":
        return entrypoint.as_its_user(
            container, lambda: EXIT_UNHEALTHY if _converge(container, check=True) else EXIT_OK
        )
    entrypoint.give(container)
    status = entrypoint.as_its_user(container, lambda: _start(container))
    if status == EXIT_OK:
        entrypoint.become(container, arguments.root, arguments.entrypoint, os.environ)
    return status


def _start(container: entrypoint.Container) -> int:
    entrypoint.alone(container)
    _converge(container, check=False)
    return EXIT_OK


def _converge(container: entrypoint.Container, *, check: bool) -> bool:
    changed, lines = entrypoint.bring_up(container, check=check)
    for line in lines:
        say_now(f"hermes-ops: {line}")
    return changed


def _stop(_number: int, _frame: FrameType | None) -> None:
    """A stop before the gateway runs is a clean one: files are whole at any moment."""
    raise SystemExit(EXIT_OK)
