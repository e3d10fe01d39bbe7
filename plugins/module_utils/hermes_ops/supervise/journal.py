# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Causes of a failure, found in the journal of a gateway."""

from __future__ import annotations

import contextlib
import re

from ..agent.quote import quoted
from ..description.agent import Agent
from ..system.errors import OpsError
from ..system.process import run_head
from ..system.systemd import Manager
from .problems import CONFIG_FIX, Health, Problem
from .supervisor import Supervisor

JOURNAL_LINES = 40
# Limited, because an agent can write lines of megabytes.
JOURNAL_BYTES = 1024 * 1024
_INVOCATION = re.compile(r"[0-9a-f]{1,32}")

# Pattern of a journal line -> the problem that it shows. Used only for a gateway that is already known to be unhealthy:
# when a new version of Hermes words a message differently, we lose an explanation, but the verdict stays correct.
JOURNAL_CAUSES: list[tuple[re.Pattern[str], Problem]] = [
    (
        re.compile(r"API_SERVER_KEY is a placeholder or too short", re.I),
        Problem(
            "key_too_short",
            "API_SERVER_KEY is too short or a placeholder, so the API server stays closed",
            "declare one of at least 16 characters: openssl rand -hex 32",
            True,
        ),
    ),
    (
        re.compile(r"Refusing to start: (binding|API_SERVER_KEY is required)|requires API_SERVER_KEY", re.I),
        Problem(
            "refused_bind",
            "it refuses to bind a network-accessible address without a key",
            "declare secrets.API_SERVER_KEY, or bind 127.0.0.1",
            True,
        ),
    ),
    (
        re.compile(r"aiohttp not installed|No module named|ModuleNotFoundError|missing dependenc", re.I),
        Problem(
            "missing_dependency",
            "the release lacks a package that a declared platform needs",
            "declare the extra that brings it: install_extras",
            True,
        ),
    ),
    (
        # Errors of discord.py, python-telegram-bot and slack_sdk, as logged by the adapters in plugins/platforms.
        # "Unauthorized" does not count: Hermes logs it for a person who may not talk to the agent.
        re.compile(
            r"Improper token has been passed|The token \S* ?was rejected by the server"
            r"|'error': '(invalid_auth|not_authed|account_inactive|token_revoked|token_expired)'"
            r"|TOKEN is set to a placeholder"
        ),
        Problem(
            "stale_token",
            "a platform refuses its bot token",
            "get a new token from the platform and declare it under secrets",
            True,
        ),
    ),
    (
        re.compile(r"Failed to parse \S*config\.yaml|Failed to process config\.yaml", re.I),
        Problem(
            "config_unparsable",
            "config.yaml does not parse, so it runs on defaults",
            CONFIG_FIX,
            True,
        ),
    ),
    (
        re.compile(r"another gateway instance|already running \(PID", re.I),
        Problem(
            "second_instance",
            "another gateway already runs on this home",
            "stop it: hermes gateway stop, or the unit that Hermes itself installed",
            True,
        ),
    ),
]


def explain_journal(lines: list[str]) -> Problem | None:
    """The first known cause in *lines*, searched from the newest line back."""
    for line in reversed(lines):
        for pattern, problem in JOURNAL_CAUSES:
            if pattern.search(line):
                return problem
    return None


def explain(agent: Agent, supervisor: Supervisor, health: Health) -> None:
    """Add the last lines of the journal to *health*, and put the cause that they name first among its problems."""
    looping = any(problem.cause == "crash_loop" for problem in health.problems)
    lines = supervisor.log(agent, before=looping)
    health.log = [quoted(line) for line in lines]
    known = explain_journal(lines)
    if known is not None:
        # A problem found by looking at the agent has more detail than the generic text.
        cause = next((problem for problem in health.problems if problem.cause == known.cause), known)
        health.problems = [cause, *(problem for problem in health.problems if problem is not cause)]


def last_lines(manager: Manager, agent: Agent, *, before: bool) -> list[str]:
    """The last lines of the gateway's present process, or of its last one when it is not running.

    :param before: include the previous process: in a crash loop the present one has hardly started
    """
    invocations: list[str] = []
    # A user's manager is under the agent's control: it may answer anything, or nothing.
    with contextlib.suppress(OpsError):
        shown = manager.ask("show", "--property", "InvocationID", "--value", agent.unit)
        invocations = [word for word in shown.stdout.split() if _INVOCATION.fullmatch(word)][:1]
    # systemd forgets the invocation id of a unit that is stopped and not enabled, so the journal is asked instead.
    if before or not invocations:
        wanted = ["--lines", str(10 * JOURNAL_LINES), "--output-fields", "_SYSTEMD_INVOCATION_ID"]
        recent = _journalctl(manager, agent, *wanted)
        invocations += [invocation for invocation in reversed(recent) if invocation not in invocations][:1]
    if not invocations:
        return []
    matches = [f"_SYSTEMD_INVOCATION_ID={invocation}" for invocation in invocations]
    return _journalctl(manager, agent, "--lines", str(JOURNAL_LINES), *matches)


def _journalctl(manager: Manager, agent: Agent, *arguments: str) -> list[str]:
    command = ["journalctl", *manager.journal(agent.unit), "--boot", "--no-pager"]
    said = run_head([*command, "--output", "cat", *arguments], limit=JOURNAL_BYTES, timeout=20)
    return [line.rstrip() for line in said.splitlines() if line.strip()]
