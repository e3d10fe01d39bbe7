# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""``hermes-ops run``: run a command of Hermes as the right agent. ``/usr/local/bin/hermes`` calls it."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence

from ..host.installation import Installation, Published, choose, published
from ..host.kit import WRAPPER
from ..supervise import command
from ..system.errors import OpsError
from ..system.files import Account

SUMMARY = "run a command of Hermes as an agent (short: hermes)"
VERBATIM = True

# Options before the command of Hermes that take a value, always or optionally (0.19.0 hermes_cli/main.py:
# _apply_profile_override).
_WITH_VALUE = frozenset(
    "-z --oneshot -m --model --provider -t --toolsets -r --resume -s --skills --usage-file".split()  # noqa: SIM905
)
_MAYBE_WITH_VALUE = ("-c", "--continue")


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("words", nargs="*", help="[-p NAME] and the command of Hermes (default: a chat)")


def work(arguments: argparse.Namespace) -> int:
    name, words = split(arguments.words)
    caller = Account.current()
    if caller.uid == 0:
        host = Installation.load()
        return command.run_in_unit(host, host.one(name), words)
    own = [agent for agent in published() if agent.user == caller.name]
    if own and (name is None or name in [agent.name for agent in own]):
        _become(Installation.load(), choose(own, name), words, caller)
    try:
        # Through root: only root can start it in the agent's sandbox.
        os.execvp("sudo", ["sudo", "--user=root", "--", WRAPPER, *arguments.words])
    except OSError:
        raise OpsError("only root may run an agent's commands, and there is no sudo", fix="run it as root") from None


def split(words: Sequence[str]) -> tuple[str | None, list[str]]:
    """The agent named before the command (None: no name), and the remaining words.

    :raises OpsError: ``-p`` or ``--profile`` without a name
    """
    words, place = list(words), 0
    while place < len(words):
        word, following = words[place], words[place + 1 : place + 2]
        if word in ("-p", "--profile"):
            if not following:
                raise OpsError(f"{word} needs a name", fix=f"hermes {word} NAME …")
            return following[0], words[:place] + words[place + 2 :]
        if word.startswith("--profile="):
            return word.partition("=")[2], words[:place] + words[place + 1 :]
        if word in _WITH_VALUE or (word in _MAYBE_WITH_VALUE and following and not following[0].startswith("-")):
            place += 2
        elif word.startswith("-") and word != "--":
            place += 1
        else:
            break
    return None, words


def _become(host: Installation, agent: Published, words: Sequence[str], caller: Account) -> None:
    """Replace this process by Hermes. The caller is the agent's own user; no sandbox is added or removed."""
    environ = {**os.environ, "HOME": caller.home, **command.environment(agent.home)}
    environ.pop("HERMES_MANAGED_DIR", None)
    if agent.managed_dir:
        environ["HERMES_MANAGED_DIR"] = agent.managed_dir
    argv = command.hermes(host.root, agent.home, words)
    try:
        os.execve(argv[0], argv, environ)
    except OSError as error:
        raise OpsError(f"cannot be run ({error.strerror})", where=argv[0], fix="converge the host: site.yml") from None
