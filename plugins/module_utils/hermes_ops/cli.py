# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The command ``hermes-ops``: the kit without a controller."""

from __future__ import annotations

import argparse
import importlib
import os
import pkgutil
import sys
import traceback
from collections.abc import Sequence
from types import ModuleType

from . import __version__
from .system.errors import OpsError

EXIT_OK = 0
EXIT_UNHEALTHY = 1
EXIT_ERROR = 2


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


def commands() -> list[str]:
    """The names of all commands: each is a module of the package ``commands``.

    Such a module has ``SUMMARY``, ``arguments(parser)``, and ``work(arguments)``, which returns the exit status. One
    whose words are another program's has ``VERBATIM``: it gets them as they are, as ``arguments.words``.
    """
    from . import commands as package

    return sorted(module.name for module in pkgutil.iter_modules(package.__path__))


def implementation(name: str) -> ModuleType | None:
    """The module of the command *name*; None when there is no such command."""
    if not name.isidentifier() or name.startswith("_"):
        return None
    module = f"{__package__}.commands.{name}"
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name == module:
            return None
        raise


def parser(names: Sequence[str]) -> argparse.ArgumentParser:
    """The command line with the commands *names*."""
    main = argparse.ArgumentParser(
        prog="hermes-ops",
        description="Operate the Hermes agents of this host.",
        epilog="exit status: 0 done, or all is well; 1 something is not healthy or failed; 2 the command could not do "
        "its work, or not all of it",
    )
    # On a host the directory's name is the hash of the kit.
    place = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    main.add_argument("--version", action="version", version=f"hermes-ops {__version__} ({place})")
    subparsers = main.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name in names:
        module = implementation(name)
        text = module.SUMMARY
        command = subparsers.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        module.arguments(command)
        command.set_defaults(work=module.work)
    return main


def call(argv: Sequence[str]) -> int:
    """Do what *argv* says. Only the command that is called is imported: a check every two minutes has to be cheap.

    :returns: the exit status
    """
    module = implementation(argv[0]) if argv else None
    if getattr(module, "VERBATIM", False):
        return module.work(argparse.Namespace(words=list(argv[1:])))
    if module or argv[:1] == ["--version"]:
        arguments = parser([argv[0]] if module else []).parse_args(argv)
    else:
        arguments = parser(commands()).parse_args(argv)
    return arguments.work(arguments)


def main(argv: list[str] | None = None) -> int:
    # Files we make are private unless we say otherwise.
    os.umask(0o077)
    for stream in (sys.stdout, sys.stderr):
        # What others wrote may be text that no encoding has.
        stream.reconfigure(errors="backslashreplace")
    argv = sys.argv[1:] if argv is None else argv
    try:
        return call(argv)
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
