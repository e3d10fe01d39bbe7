# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Shows people what the hosts of a fleet answered: a table for the terminal, one page for the browser.

A host may be compromised. So every part of an answer is treated as text of bounded length, or left out.
"""

from __future__ import annotations

import datetime
import errno
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.text import printable, table
from ansible_collections.alwayson.hermes.plugins.plugin_utils.pages import counted, render, when

# Limits for a host's answer: characters of one text, entries of one list.
TEXT_LIMIT = 400
LIST_LIMIT = 50

# Worst first.
STATES = ("trouble", "unreachable", "unknown", "well")
# What the module command says of a program that it cannot start: in ansible-core 2.19, and before.
_NOT_STARTED = re.compile(
    r"Error executing command\.|\[Errno 2\] No such file or directory: b?'/usr/local/bin/hermes-ops'"
)
UTC = datetime.timezone.utc

# --- hostile input --------------------------------------------------------------------------------------------------


def text(value: Any) -> str:
    """*value* on one line, without characters that control a terminal or change the writing direction."""
    if value is None or isinstance(value, (dict, list)):
        return ""
    line = printable(" ".join(str(value)[: 2 * TEXT_LIMIT].split()))
    return line if len(line) <= TEXT_LIMIT else line[: TEXT_LIMIT - 1] + "…"


def texts(value: Any) -> list[str]:
    return [line for line in map(text, sequence(value)) if line]


def mapping(value: Any) -> dict[str, Any]:
    """*value* cut to :data:`LIST_LIMIT` entries; empty if it is not a mapping."""
    return dict(list(value.items())[:LIST_LIMIT]) if isinstance(value, Mapping) else {}


def sequence(value: Any) -> list[Any]:
    """*value* cut to :data:`LIST_LIMIT` entries; empty if it is not a list."""
    return list(value[:LIST_LIMIT]) if isinstance(value, (list, tuple)) else []


def moment(value: Any) -> datetime.datetime | None:
    """*value*, seconds since 1970, as a time; None if it is not one."""
    try:
        return datetime.datetime.fromtimestamp(value, UTC)
    except (TypeError, ValueError, OverflowError, OSError):
        return None


def document(output: Any) -> Any:
    """The JSON that a command printed; None if it is not JSON."""
    try:
        return json.loads(output)
    except (TypeError, ValueError, RecursionError):
        return None


# --- what a host answered -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Finding:
    """:param subject: the agent concerned; empty for the host itself"""

    subject: str
    what: str
    fix: str

    def __str__(self) -> str:
        line = f"{self.subject}: {self.what}" if self.subject else self.what
        return f"{line}. Fix: {self.fix}" if self.fix else line


@dataclass(frozen=True)
class Agent:
    """One agent.

    :param well: None if the host did not say
    :param notes: its unit and release; pending restarts, manual changes
    """

    name: str
    well: bool | None
    notes: list[str]


@dataclass(frozen=True)
class Job:
    """How the last run of a job ended.

    :param status: empty if the host did not say
    :param notes: the job's message, and when it runs next
    """

    name: str
    well: bool
    status: str
    finished: datetime.datetime | None
    notes: list[str]


@dataclass(frozen=True)
class Host:
    """
    :param state: one of :data:`STATES`
    :param failures: why it is in that state
    :param warnings: findings that are only worth a look
    """

    name: str
    state: str
    failures: list[Finding] = field(default_factory=list)
    warnings: list[Finding] = field(default_factory=list)
    release: str = ""
    agents: list[Agent] = field(default_factory=list)
    jobs: list[Job] = field(default_factory=list)

    @property
    def named(self) -> str:
        """The names of its agents, each with its state unless that is well or unknown."""
        return ", ".join(f"{agent.name} (not healthy)" if agent.well is False else agent.name for agent in self.agents)

    def last(self, job: str, now: datetime.datetime) -> str:
        """How *job* last ended, for a cell of a table."""
        for found in self.jobs:
            if found.name == job and found.status:
                return f"{found.status} {age(found.finished, now)}" if found.finished else found.status
        return "-"


def silence(answer: dict[str, Any]) -> Finding:
    """Why *answer* has no document, in the words of Ansible or ``hermes-ops``."""
    lines = texts([answer.get(key) for key in ("stderr", "module_stderr", "msg", "stdout")])
    # The only line, because what did not start has no output.
    if answer.get("rc") == errno.ENOENT and len(lines) == 1 and _NOT_STARTED.fullmatch(text(answer.get("msg"))):
        return Finding("", "there is no hermes-ops", "converge the host: alwayson.hermes.site")
    return Finding("", lines[0] if lines else "hermes-ops said nothing", "")


def host_of(name: str, answer: Any) -> Host:
    """
    :param answer: what the task that ran ``hermes-ops status --json`` registered
    """
    answer = mapping(answer)
    if answer.get("unreachable"):
        finding = Finding("", text(answer.get("msg")) or "no answer", "start the host, or repair the connection to it")
        return Host(name, "unreachable", [finding])
    said = mapping(document(answer.get("stdout")))
    if "agents" not in said:
        return Host(name, "unknown", [silence(answer)])
    check = mapping(said.get("check"))
    failures, warnings = findings_of(check)
    release = mapping(said.get("release"))
    state = "well" if check.get("healthy") is True and not failures else "trouble"
    if not check:
        state = "unknown"
        what = "its hermes-ops is too old to say whether its agents are healthy"
        failures = [Finding("", what, "converge the host: alwayson.hermes.site")]
    return Host(
        name,
        state,
        failures,
        warnings,
        release=text(release.get("version")) or text(release.get("id")),
        agents=agents_of(said, check),
        jobs=jobs_of(said),
    )


def findings_of(check: dict[str, Any]) -> tuple[list[Finding], list[Finding]]:
    """:returns: failures, and warnings that nobody has acknowledged"""
    failures, warnings = [], []
    for finding in map(mapping, sequence(check.get("findings"))):
        if finding.get("acknowledged") and finding.get("severity") == "warning":
            continue
        agent, known_as = text(finding.get("agent")), text(finding.get("id"))
        fix = "; or ".join(filter(None, [text(finding.get("fix")), f"acknowledge {known_as}" if known_as else ""]))
        found = Finding(f"agent {agent}" if agent else "", text(finding.get("what")), fix)
        (warnings if finding.get("severity") == "warning" else failures).append(found)
    return failures, warnings


def agents_of(said: dict[str, Any], check: dict[str, Any]) -> list[Agent]:
    looked = {text(mapping(one).get("agent")): mapping(one).get("healthy") for one in sequence(check.get("agents"))}
    found = []
    for key, agent in mapping(said["agents"]).items():
        name, agent = text(key), mapping(agent)
        unit, release = text(agent.get("active")), text(agent.get("running_release"))
        platforms = [f"{text(key)} {text(value)}" for key, value in mapping(agent.get("platforms")).items()]
        notes = [
            ", ".join([f"{unit} on {release}" if release else unit, *platforms]),
            *(f"restart pending: {reason}" for reason in texts(agent.get("restart_pending"))),
            *(f"changed by hand: {what}" for what in texts(agent.get("drift"))),
        ]
        well = looked.get(name)
        found.append(Agent(name, well if isinstance(well, bool) else None, notes))
    return found


def jobs_of(said: dict[str, Any]) -> list[Job]:
    """The jobs that have a timer, or ran at least once."""
    timers, last = mapping(said.get("timers")), mapping(said.get("last"))
    found = []
    for name in sorted({*timers, *last}):
        timer, ended = mapping(timers.get(name)), mapping(last.get(name))
        status, following = text(ended.get("status")), moment(timer.get("next"))
        notes = texts([ended.get("message")])
        if following:
            notes.append(f"next {when(following)}")
        elif timer and timer.get("active") is not True:
            notes.append("its timer does not run")
        # The heartbeat has no record of its last run; its timer knows the time.
        finished = moment(ended.get("finished")) or moment(timer.get("last"))
        found.append(Job(text(name), status not in ("failed", "rolled_back"), status, finished, notes))
    return found


def status(answers: Mapping[str, Any]) -> list[Host]:
    """The hosts of the fleet, worst state first."""
    hosts = [host_of(text(name), answer) for name, answer in answers.items()]
    return sorted(hosts, key=lambda host: (STATES.index(host.state), host.name))


@dataclass(frozen=True)
class Outcome:
    """How a command ended on one host.

    :param wrong: somebody has to look at it; a host that was not reached does not count
    :param result: one or two words
    :param lines: what the host said, or what it made
    """

    host: str
    wrong: bool
    result: str
    lines: list[str]


def outcomes(answers: Mapping[str, Any]) -> list[Outcome]:
    """How a command ended on each host, in the order of the hosts.

    The command printed ``{"status": …, "message": …}``, or the archives that it made (``backup``), or that the host is
    not well (``check``).
    """
    found = []
    for key, value in answers.items():
        name, answer = text(key), mapping(value)
        said = document(answer.get("stdout"))
        failed = answer.get("rc") != 0
        if answer.get("unreachable"):
            found.append(Outcome(name, True, "unreachable", [text(answer.get("msg"))]))
        elif answer.get("skipped") or not answer:
            found.append(Outcome(name, False, "not reached", ["nothing was done"]))
        elif text(mapping(said).get("status")):
            found.append(Outcome(name, failed, text(said["status"]), [text(said.get("message"))]))
        elif mapping(said).get("healthy") is False:
            found.append(Outcome(name, True, "not healthy", [text(said.get("message"))]))
        elif isinstance(said, list):
            found.append(Outcome(name, failed, "failed" if failed else "success", archives(said)))
        else:
            found.append(Outcome(name, True, "error", [str(silence(answer))]))
    return found


def archives(entries: Any) -> list[str]:
    """The paths of archives, each with its problems.

    :param entries: mappings with ``path`` and ``problems``, a mapping of files and reasons
    """
    found = []
    for entry in map(mapping, sequence(entries)):
        problems = [f"{text(file)} {text(why)}" for file, why in mapping(entry.get("problems")).items()]
        found.append(text(" ".join([text(entry.get("path")), *(f"({problem})" for problem in problems)])))
    return found or ["no archive"]


# --- how it is shown ------------------------------------------------------------------------------------------------

WORDS = {"trouble": "in trouble", "unreachable": "unreachable", "unknown": "unknown", "well": "well"}


def age(time: datetime.datetime, now: datetime.datetime) -> str:
    """How long ago *time* is, or how far ahead, in the largest unit that fits at least twice."""
    seconds = int((now - time).total_seconds())
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if abs(seconds) >= 2 * length:
            amount = f"{abs(seconds) // length} {unit}"
            return f"{amount} ago" if seconds > 0 else f"in {amount}"
    return "now"


def summary(hosts: list[Host]) -> str:
    """The whole fleet in a few words."""
    wrong = sum(host.state != "well" for host in hosts)
    if wrong:
        return f"{wrong} of {counted(len(hosts), 'host')} {'needs' if wrong == 1 else 'need'} attention"
    return f"{counted(len(hosts), 'host')}, all well" if len(hosts) > 1 else "The host is well"


def grouped(hosts: list[Host]) -> list[tuple[Finding, list[str]]]:
    """Each warning once, with its hosts, because the hosts of a fleet tend to have the same ones."""
    found: dict[Finding, list[str]] = {}
    for host in hosts:
        for warning in host.warnings:
            found.setdefault(warning, []).append(host.name)
    return list(found.items())


def status_lines(hosts: list[Host], now: datetime.datetime) -> list[str]:
    """For the terminal: the failures, the warnings, the table."""
    lines = [summary(hosts)]
    lines += [f"{host.name}: {finding}" for host in hosts for finding in host.failures]
    lines += [f"Worth a look: {warning} ({', '.join(names)})" for warning, names in grouped(hosts)]
    # The names of many agents are long, so they come last.
    heads = ("HOST", "STATE", "RELEASE", "BACKUP", "REHEARSAL", "UPDATE", "AGENTS")
    rows = [
        (
            host.name,
            WORDS[host.state],
            host.release or "-",
            *(host.last(job, now) for job in ("backup", "rehearsal", "update")),
            host.named or "-",
        )
        for host in hosts
    ]
    return [*lines, "", *table([heads, *rows])]


def outcome_lines(found: list[Outcome]) -> list[str]:
    rows = [("HOST", "RESULT", "")]
    for outcome in found:
        first, *others = outcome.lines
        rows += [(outcome.host, outcome.result, first), *(("", "", line) for line in others)]
    return table(rows)


def page(hosts: list[Host], now: datetime.datetime) -> str:
    """One HTML page."""
    return render(
        "fleet.html.j2",
        subject="Hermes fleet",
        hosts=hosts,
        summary=summary(hosts),
        counts=[(state, number) for state in STATES if (number := sum(host.state == state for host in hosts))],
        warnings=grouped(hosts),
        words=WORDS,
        now=now,
        age=lambda time: age(time, now),
        anchor=lambda host: f"host-{hosts.index(host) + 1}",
    )
