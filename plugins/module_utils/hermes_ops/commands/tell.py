# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""``hermes-ops tell``: keep a text in the agent's home as context, send it to the agent, print the answer."""

from __future__ import annotations

import argparse
import sys
import time

from ..agent import tell
from ..cli import EXIT_OK, EXIT_UNHEALTHY, say
from ..description.agent import Placement
from ..host.installation import Installation
from ..supervise import servers
from ..system.files import Account
from ..system.text import printable

# Whether the agent has got a text that it has not answered -> how that is said, and what the operator does then.
_UNANSWERED = {
    "yes": ("kept and delivered, but not answered", "Do not send it again: the agent has it."),
    "no": ("kept, but not delivered", "Send it again once that is done: the agent has not got it."),
    "unknown": (
        "kept, but it is unknown whether it was delivered",
        "Ask the agent, or search its conversations (hermes-ops memory), before you send it again.",
    ),
}

SUMMARY = "give an agent context, and print its answer"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = "Keep the text on standard input in the agent's home, send it to the agent, print its answer."
    parser.add_argument("--agent", help="the agent (default: the only one, or the one named default)")
    options(parser)


def options(parser: argparse.ArgumentParser) -> None:
    """What to tell, to whichever agent."""
    parser.add_argument("--topic", help="what it is about (default: the first line of the text)")
    parser.add_argument("--webhook", default=tell.WEBHOOK, help="its webhook subscription (%(default)s)")
    parser.add_argument("--timeout", type=float, default=300.0, help="seconds the agent may take (%(default)g)")
    parser.add_argument("--check", action="store_true", help="only say what would be done")


def work(arguments: argparse.Namespace) -> int:
    host = Installation.load()
    agent = host.one(arguments.agent)
    return deliver(agent, host.account_of(agent), sys.stdin.buffer.read(tell.MAX_BYTES + 1), arguments)


def deliver(agent: Placement, account: Account, text: bytes, arguments: argparse.Namespace) -> int:
    """Keep *text*, send it, and print the answer.

    :param arguments: see :func:`options`
    :returns: the exit status
    """
    topic, body = tell.parse(text, arguments.topic)
    path = tell.archive_path(agent.home, topic, time.time())
    url = servers.webhook_url(agent, account, arguments.webhook)
    if arguments.check:
        say(f"would keep: {path}")
        say(f"would tell: agent {agent.name}, by {url}: {printable(topic)} ({len(body)} characters)")
        return EXIT_OK
    tell.archive(path, account, topic, body)
    say(f"kept:   {path}")
    try:
        answer = servers.call_webhook(
            agent, account, arguments.webhook, {"topic": topic, "body": body}, timeout=arguments.timeout
        )
    except servers.NotAnswered as error:
        what, then = _UNANSWERED.get(error.delivered, _UNANSWERED["unknown"])
        sys.stderr.write(f"hermes-ops: {what}: {printable(str(error))}\n{then}\n")
        return EXIT_UNHEALTHY
    say(f"told:   agent {agent.name}, by {url}")
    say(f"answer: {printable(answer)}")
    return EXIT_OK
