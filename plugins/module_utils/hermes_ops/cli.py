# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The command ``hermes-ops``: the kit without a controller."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import traceback

from . import __version__
from .system.errors import OpsError

EXIT_OK = 0
EXIT_UNHEALTHY = 1
EXIT_ERROR = 2

# Command -> the module that does it, and what it is for. A module has ``arguments(parser)`` and ``work(arguments)``,
# which returns the exit status; it is only imported when it is called (a check every two minutes has to be cheap).
COMMANDS = {
    "status": ("status", "what is installed, running, declared and drifted"),
    "check": ("check", "whether all is well with the agents and their host, and if not, why not"),
    "heartbeat": ("heartbeat", "look as check does, and tell whoever is declared"),
    "drill": ("drill", "make the alert arrive on purpose, and take it back"),
    "update": ("update", "go to the newest release within what is declared, or back to what worked"),
    "rollback": ("rollback", "go back to a release that worked"),
    "backup": ("backup", "back the agents' homes up, while they work"),
    "backups": ("backups", "which backups there are"),
    "verify": ("verify", "whether an archive is whole"),
    "restore": ("restore", "make a home what it was in a backup, or its configuration what last worked"),
    "rehearsal": ("rehearsal", "prove that the newest backups restore, beside the agents"),
    "separate": ("separate", "give each agent of an adopted home a home and a user of its own"),
    "debug": ("debug", "write a bundle for triage, without secrets"),
    "tell": ("tell", "give an agent context: kept in its home, said to it, answered by it"),
    "port": ("port", "bring skills, or the home of an OpenClaw agent, into a profile"),
    "memory": ("memory", "search what an agent knows: memories, context, conversations"),
}


def say(text: object) -> None:
    """The command's output, line by line."""
    sys.stdout.write(f"{text}\n")


def say_now(text: object) -> None:
    """A line of what is being done, now: whoever follows it waits. That nobody can read it any more ends nothing."""
    try:
        say(text)
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def parser(chosen: str | None) -> argparse.ArgumentParser:
    """The whole command line; options only of the command *chosen*."""
    main = argparse.ArgumentParser(
        prog="hermes-ops",
        description="Operate the Hermes agents of this host.",
        epilog="exit status: 0 done, or all is well; 1 something is not healthy or failed; 2 the command could not do "
        "its work, or not all of it",
    )
    main.add_argument("--version", action="version", version=f"hermes-ops {__version__}")
    commands = main.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (module, text) in COMMANDS.items():
        command = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        if name == chosen:
            implementation = importlib.import_module(f".commands.{module}", __package__)
            implementation.arguments(command)
            command.set_defaults(work=implementation.work)
    return main


def main(argv: list[str] | None = None) -> int:
    # Files we make are private unless we say otherwise.
    os.umask(0o077)
    for stream in (sys.stdout, sys.stderr):
        # What others wrote may be text that no encoding has.
        stream.reconfigure(errors="backslashreplace")
    argv = sys.argv[1:] if argv is None else argv
    try:
        arguments = parser(argv[0] if argv else None).parse_args(argv)
        return arguments.work(arguments)
    except OpsError as error:
        sys.stderr.write(f"hermes-ops: {error}\n")
        return EXIT_ERROR
    except BrokenPipeError:
        # The reader of our output has seen enough.
        sys.stderr.close()
        return EXIT_OK
    except OSError as error:
        sys.stderr.write(f"hermes-ops: {error}\n")
        return EXIT_ERROR
    except Exception:
        # A defect of ours; 1 would say that something is not well with the agents.
        traceback.print_exc()
        return EXIT_ERROR
