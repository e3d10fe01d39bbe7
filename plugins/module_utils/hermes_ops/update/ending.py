# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reports how an update ended. A report that fails does not change the outcome."""

from __future__ import annotations

from collections.abc import Callable

from ..host.installation import Installation
from ..system.process import run
from ..system.text import brief
from ..watch import heartbeat
from .journal import Outcome

# Seconds that the hook may take.
HOOK_TIMEOUT = 60.0
# Most characters of a message about a run; agents and releases contribute text to it.
LONGEST = 2000
# Most files of one agent that a message names; Hermes has five that it migrates.
FILES = 5


def shown(text: str, longest: int = LONGEST) -> str:
    """*text* on one line, printable and bounded."""
    return brief(text, longest)


def summed_up(agent: str, names: list[str]) -> list[str]:
    """The files of *agent*, so few and so short that a message has room for the others': their names are its own."""
    few = [f"{shown(name, 60)} of {agent}" for name in names[:FILES]]
    return few if len(names) <= FILES else [*few, f"{len(names) - FILES} more of {agent}"]


def tell(host: Installation, hook: list[str], outcome: Outcome, say: Callable[[str], object]) -> None:
    """Write the status, send the heartbeat and call the *hook*. A failure of these is only reported to *say*."""
    facts = {"from": outcome.source, "to": outcome.target, "failed_step": outcome.failed_step}

    def write() -> None:
        host.write_status("update", outcome.status, outcome.message, started=outcome.began, **facts)

    def report() -> None:
        heartbeat.report(host, "update", "fail" if outcome.exit_status else "success", outcome.message)

    for action, what in (
        (write, "the status cannot be written"),
        (report, "the heartbeat failed"),
        (lambda: call_hook(hook, outcome), "the hook failed"),
    ):
        try:
            action()
        except Exception as error:
            say(shown(f"{what}: {error}"))


def call_hook(hook: list[str], outcome: Outcome) -> None:
    """Run the declared *hook*, with the facts in its environment; nothing if it is empty.

    :raises OpsError: it fails
    """
    facts = {
        "STATUS": outcome.status,
        "MESSAGE": outcome.message,
        "FROM": outcome.source or "",
        "TO": outcome.target or "",
        "FAILED_STEP": outcome.failed_step or "",
    }
    if hook:
        run(hook, timeout=HOOK_TIMEOUT, env={f"HERMES_UPDATE_{name}": value for name, value in facts.items()})
