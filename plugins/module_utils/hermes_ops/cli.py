# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The command ``hermes-ops``: the kit without a controller.

It starts every minute. So here, and in what every command imports, that which only errors need is imported where it is
used.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from types import ModuleType

from . import __version__
from .system.errors import OpsError

EXIT_OK = 0
EXIT_UNHEALTHY = 1
EXIT_ERROR = OpsError.exit_status


def say(text: object) -> None:
    """Write one line of the command's output."""
    sys.stdout.write(f"{text}\n")


def say_now(text: object) -> None:
    """Write a progress line and flush it, for somebody who watches. If the reader is gone, the work goes on."""
    try:
        say(text)
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def commands() -> list[str]:
    """The names of all commands: each is a module of the package ``commands``.

    A command's module has ``SUMMARY``, ``arguments(parser)``, and ``work(arguments)``, which returns the exit status.
    A command that passes its words on to another program has ``VERBATIM``: it gets them unparsed, as
    ``arguments.words``.
    """
    import pkgutil

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
    """The parser of a command line with the commands *names*."""
    main = argparse.ArgumentParser(
        prog="hermes-ops",
        description="Operate the Hermes agents of this host.",
        epilog="exit status: 0 done, or all is healthy; 1 something is unhealthy or failed; 2 the command could not do "
        "its work, or only part of it; 3 refused, because another job is under way: nothing was changed",
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
    """Run the command in *argv*. Only that command is imported, since a check every two minutes has to be cheap.

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
    # New files are private unless their mode is set.
    os.umask(0o077)
    for stream in (sys.stdout, sys.stderr):
        # Text from other programs may hold bytes that cannot be encoded; they are escaped.
        stream.reconfigure(errors="backslashreplace")
    argv = sys.argv[1:] if argv is None else argv
    try:
        return call(argv)
    except OpsError as error:
        from .system.text import printable

        # It may name what others have named: a user of an application, a file.
        sys.stderr.write(f"hermes-ops: {printable(str(error))}\n")
        return error.exit_status
    except BrokenPipeError:
        # The reader of our output, such as head, closed the pipe.
        sys.stderr.close()
        return EXIT_OK
    except OSError as error:
        sys.stderr.write(f"hermes-ops: {error}\n")
        return EXIT_ERROR
    except Exception:
        # A bug of hermes-ops. Exit status 1 would mean that an agent is unhealthy.
        import traceback

        traceback.print_exc()
        return EXIT_ERROR
