# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""``hermes-ops status``: show this host on one screen, problems first."""

from __future__ import annotations

import argparse
import json
import os
import sys
import textwrap
import time
from typing import Any

from ..cli import EXIT_OK, say
from ..host import jobs
from ..host.installation import RECORDED_JOBS, Installation
from ..system.errors import OpsError
from ..system.text import printable
from ..update import aside
from ..watch import acknowledged, info, look
from ..watch.declared import thresholds

SUMMARY = "show what is wrong, installed, running and changed by hand"
WIDTH = 100
# Width of the column with the labels.
MARGIN = 11
# Lines about what is set aside.
MOST_ASIDE = 8
# Escape sequences of a terminal (ECMA-48, SGR).
RED, GREEN, YELLOW, BOLD = "31", "32", "33", "1"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON for programs")


def work(arguments: argparse.Namespace) -> int:
    host = Installation.load(unmounted=True)
    found = gather(host)
    if arguments.json:
        say(json.dumps(found, indent=2))
    else:
        for line in screen(found, time.time(), coloured=sys.stdout.isatty() and not os.environ.get("NO_COLOR")):
            say(line)
    return EXIT_OK


def gather(host: Installation) -> dict[str, Any]:
    """The facts of :func:`info.gather`, plus ``check`` (a report), ``timers``, ``last`` (how each job ended) and
    ``set_aside`` (see :func:`aside.found`)."""
    report = look.look(host, thresholds())
    found = info.gather(
        agents=host.agents,
        scope=host.scope,
        ops_dir=host.ops_dir,
        root=host.root,
    )
    return {
        **found,
        "check": report.as_dict(),
        "timers": jobs.next_runs(),
        "set_aside": aside.found(host),
        "last": {job: status for job in RECORDED_JOBS if (status := _last(host, job))},
    }


def _last(host: Installation, job: str) -> dict[str, Any]:
    try:
        return host.read_status(job)
    except OpsError:
        # For a job that is declared, the check reports this as a finding.
        return {}


def screen(found: dict[str, Any], now: float, *, coloured: bool) -> list[str]:
    """*found* for people, line by line."""

    def paint(text: str, colour: str) -> str:
        return f"\033[{colour}m{text}\033[0m" if coloured else text

    check = found["check"]
    lines = [paint(check["message"], BOLD + ";" + (GREEN if check["healthy"] else RED))]
    for finding in check["findings"]:
        if finding["acknowledged"]:
            continue
        failure = finding["severity"] == "failure"
        who = f"agent {finding['agent']}: " if finding["agent"] else ""
        lines += [
            paint(f"{'FAILURE' if failure else 'warning':<{MARGIN}}", RED if failure else YELLOW)
            + who
            + finding["what"],
            *_indented(f"fix: {finding['fix']}" + (f"; or acknowledge {finding['id']}" if finding["id"] else "")),
        ]
    lines += [line for one in check["acknowledged"] for line in _acknowledged_lines(one)]
    for user, names in found["shared_users"].items():
        lines += _indented(f"the user {user} runs several agents: {', '.join(names)}")
    release = found["release"]
    lines += ["", f"{'release':<{MARGIN}}{release['id'] if release else 'none'}"]
    for name, agent in found["agents"].items():
        lines += _agent_lines(name, agent, check["figures"]["agents"].get(name, {}), paint)
    if users := check["figures"].get("users"):
        failed = f", {users['failed']} could not be started" if users["failed"] else ""
        lines.append(f"{'users':<{MARGIN}}{users['known']} have an agent, {users['running']} of them run{failed}")
    if found["timers"] or found["last"]:
        lines.append("")
    for job in sorted({*found["timers"], *found["last"]}):
        timer, last = found["timers"].get(job, {}), found["last"].get(job, {})
        said = [f"{last.get('status', 'unknown')} {_ago(last.get('finished'), now)}"] if last else []
        if timer:
            said.append(f"next {_at(timer['next'])}" if timer["active"] else paint("its timer does not run", RED))
        lines.append(f"{job:<{MARGIN}}{'; '.join(said)}")
    return lines + _aside_lines(found["set_aside"], now)


def _acknowledged_lines(one: dict[str, str]) -> list[str]:
    more = {
        acknowledged.HOLDS: "",
        acknowledged.OVER: "; that day is over: declare a later one, or remove it from ops_acknowledged",
        acknowledged.UNUSED: "; there is no such warning now: if it never comes back, remove it from ops_acknowledged",
    }
    return _indented(f"acknowledged: {one['finding']}, until {one['until']}: {one['reason']}{more[one['state']]}")


def _aside_lines(items: list[dict[str, Any]], now: float) -> list[str]:
    lines = [
        f"{_size(item)}, {_ago(item['since'], now)}: {printable(item['path'])}"
        + (f" (for {item['use']})" if item["use"] else "")
        for item in items[:MOST_ASIDE]
    ]
    if rest := items[MOST_ASIDE:]:
        together = {"bytes": sum(item["bytes"] for item in rest), "complete": all(item["complete"] for item in rest)}
        lines.append(f"{_size(together)} in {len(rest)} more, which are older; see --json")
    if not lines:
        return []
    first, *others = lines
    return ["", f"{'set aside':<{MARGIN}}{first}", *(" " * MARGIN + line for line in others)]


def _size(item: dict[str, Any]) -> str:
    return f"{'' if item['complete'] else 'at least '}{item['bytes'] / 2**20:.1f} MiB"


def _agent_lines(name: str, agent: dict[str, Any], figures: dict[str, Any], paint: Any) -> list[str]:
    platforms = ", ".join(f"{key} {value}" for key, value in agent["platforms"].items()) or "no platform"
    state = paint(agent["active"], GREEN if agent["active"] == "active" else RED)
    lines = [f"{'agent':<{MARGIN}}{name}: {state}, pid {agent['pid']}, {platforms}"]
    figure = []
    if "memory_bytes" in figures:
        figure.append(f"{figures['memory_bytes'] / 2**20:.0f} MiB")
    if figures.get("open_files", -1) >= 0:
        figure.append(f"{figures['open_files']} open files")
    if "turns" in figures:
        figure.append(f"{figures['turns']} turns in the last hour, {figures['turns_failed']} without an answer")
    more = [", ".join(figure)] if figure else []
    more += [f"restart pending: {reason}" for reason in agent["restart_pending"]]
    more += [f"changed by hand: {drift}" for drift in agent["drift"]]
    return lines + [line for text in more for line in _indented(text)]


def _indented(text: str) -> list[str]:
    margin = " " * MARGIN
    return textwrap.wrap(
        text, WIDTH, initial_indent=margin, subsequent_indent=margin, break_long_words=False, break_on_hyphens=False
    )


def _ago(when: Any, now: float) -> str:
    if not isinstance(when, (int, float)) or isinstance(when, bool):
        return "at an unknown time"
    seconds = max(0.0, now - when)
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit} ago"
    return "just now"


def _at(when: float | None) -> str:
    return time.strftime("%a %d %b %H:%M:%S", time.localtime(when)) if when else "not known"
