# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""``hermes-ops agent``: the entrypoint of a container that is one agent's alone, and what is asked of that agent by
commands beside its gateway."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from types import FrameType

from ..agent import tell
from ..backup import contained as contained_backup
from ..cli import EXIT_OK, EXIT_UNHEALTHY, say, say_now
from ..supervise import entrypoint
from ..system.errors import OpsError
from ..system.text import moment, printable
from ..update import contained as contained_update
from ..watch import contained as contained_bundle
from . import memory as command_memory
from . import tell as command_tell

SUMMARY = "run the agent of this container: converge its home, then become its gateway; or ask something of it"
# Those of the entrypoint.
_STARTS = ("run", "check")
# Bytes of the longest query.
_QUERY = 64 * 1024


def arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    for name, text in (
        ("run", "run it"),
        ("check", "only say what a start would change (1), or not (0)"),
        ("memory", "search what it knows: memories, context, conversations"),
        ("tell", "give it context, and print its answer"),
        ("debug", "write a bundle for triage to standard output, as tar.gz, without secrets"),
        ("backup", "write an archive of its home to standard output, while it runs"),
        ("restore", "replace its home by that of an archive on standard input, while it does not run"),
        ("verify", "say whether it is healthy and replies; if so, the release of its image is no longer on trial"),
    ):
        action = actions.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
        _places(action)
        if name in _STARTS:
            _entrypoint(action)
        if name == "run":
            _trial(action)
        if name == "verify":
            _verified(action)
        if name == "memory":
            command_memory.options(action)
        if name == "tell":
            command_tell.options(action)
        if name == "restore":
            action.add_argument(
                "--force", action="store_true", help="restore even if the home holds newer data than the backup"
            )
            action.add_argument(
                "--former", action="store_true", help="no archive: have the home be the one before the last restore"
            )
        if name in ("memory", "tell", "restore"):
            # The API of Kubernetes closes standard input only since 1.30.
            action.add_argument("--bytes", type=int, metavar="N", help="of standard input (default: to its end)")


def _places(parser: argparse.ArgumentParser) -> None:
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


def _trial(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--trial",
        action="store_true",
        help="if the image has another release of Hermes than the one that ran last, keep a copy of the data before it "
        "starts. If the former one is started again, the data go back with it; unless the other one was verified, or "
        "has run for an hour",
    )


def _verified(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--before",
        type=lambda text: text.split(","),
        default=[],
        metavar="CAUSE,…",
        help="causes of problems that it had before, as --json shows them, which do not count; after no_reply, it is "
        "not asked for a reply",
    )
    parser.add_argument("--wait", type=float, metavar="SECONDS", help="for it to become healthy (default: as declared)")
    parser.add_argument("--json", action="store_true", help="print JSON for programs")


def _entrypoint(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--entrypoint",
        nargs=argparse.REMAINDER,
        default=[],
        metavar="COMMAND",
        help="last: an image's own entrypoint with its arguments, which is called in place of the gateway. If it needs "
        "root, the home is given to HERMES_UID and HERMES_GID (10000)",
    )
    parser.epilog = (
        "exit status: 78 the description or a secret is wrong, and nothing was touched; 73 there can be no "
        "copy of the data before another release, and nothing was touched; 74 the home could not be converged; 0 "
        "stopped meanwhile; else that of the gateway"
    )


def work(arguments: argparse.Namespace) -> int:
    if arguments.action not in _STARTS:
        # Beside the gateway, root only becomes the agent's user.
        container = _load(arguments, wraps=True)
        return entrypoint.as_its_user(container, lambda: globals()[f"_{arguments.action}"](container, arguments))
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)
    container = _load(arguments, wraps=bool(arguments.entrypoint))
    if container.unused:
        say_now(f"hermes-ops: not used in a container: {', '.join(container.unused)}")
    if arguments.action == "check":
        return entrypoint.as_its_user(
            container, lambda: EXIT_UNHEALTHY if _converge(container, check=True) else EXIT_OK
        )
    entrypoint.give(container)
    status = entrypoint.as_its_user(container, lambda: _start(container, arguments))
    if status == EXIT_OK:
        entrypoint.become(container, arguments.root, arguments.entrypoint, os.environ)
    return status


def _load(arguments: argparse.Namespace, *, wraps: bool) -> entrypoint.Container:
    return entrypoint.load(arguments.description, arguments.secrets, arguments.data, os.environ, wraps=wraps)


def _memory(container: entrypoint.Container, arguments: argparse.Namespace) -> int:
    query = arguments.query
    if query == "-":
        query = _given(arguments, _QUERY).decode("utf-8", "replace")
    agent = container.declared.agent
    return command_memory.search({agent.name: (container.account, agent.home)}, query, arguments)


def _tell(container: entrypoint.Container, arguments: argparse.Namespace) -> int:
    text = _given(arguments, tell.MAX_BYTES + 1)
    return command_tell.deliver(container.declared.agent, container.account, text, arguments)


def _debug(container: entrypoint.Container, arguments: argparse.Namespace) -> int:
    made = contained_bundle.make(container, arguments.description, arguments.root, "hermes-debug")
    sys.stdout.buffer.write(made.data)
    for member, why in sorted(made.left_out.items()):
        sys.stderr.write(f"hermes-ops: left out: {member}: {why}\n")
    return EXIT_OK


def _backup(container: entrypoint.Container, arguments: argparse.Namespace) -> int:
    manifest = contained_backup.send(container, arguments.root, sys.stdout.buffer)
    for path, why in sorted(manifest.problems.items()):
        sys.stderr.write(f"hermes-ops: problem: {path} {why}\n")
    return EXIT_UNHEALTHY if manifest.problems else EXIT_OK


def _restore(container: entrypoint.Container, arguments: argparse.Namespace) -> int:
    if arguments.former:
        contained_backup.put_back(container)
        contained_update.settle(container)
        say("the home is the former one again; what was there until now is kept in its place")
        return EXIT_OK
    manifest = contained_backup.restore(container, sys.stdin.buffer, arguments.bytes, force=arguments.force)
    # Copies of what it replaced must not come back with a former image.
    contained_update.settle(container)
    for path, why in sorted(manifest.problems.items()):
        say(f"problem in the backup: {path} {why}")
    made = f"{manifest.members} files of {manifest.agent} on {manifest.host}, {moment(manifest.created)}"
    say(f"restored: {made}; what was there is kept: --former")
    return EXIT_OK


def _verify(container: entrypoint.Container, arguments: argparse.Namespace) -> int:
    found, problems = contained_update.verify(container, arguments.before, arguments.wait)
    say(json.dumps(found.as_dict()) if arguments.json else str(found))
    return EXIT_UNHEALTHY if problems else EXIT_OK


def _given(arguments: argparse.Namespace, limit: int) -> bytes:
    """What was given on standard input, but no more than *limit* bytes.

    :raises OpsError: it ended early
    """
    wanted = arguments.bytes
    text = sys.stdin.buffer.read(limit if wanted is None else max(0, min(wanted, limit)))
    if wanted is not None and len(text) < min(wanted, limit):
        raise OpsError(f"ended after {len(text)} bytes", where="standard input", fix="run it again")
    return text


def _start(container: entrypoint.Container, arguments: argparse.Namespace) -> int:
    entrypoint.alone(container)
    contained_backup.recover(container)
    if arguments.trial:
        for line in contained_update.begin(container, arguments.root):
            say_now(f"hermes-ops: {printable(line)}")
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
