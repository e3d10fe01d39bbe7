# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether an agent really is there: more than ``active``, and if not, why not and what to do about it.

Sources: Hermes 0.18.2 and 0.19.0, gateway/status.py (gateway_state.json).
"""

from __future__ import annotations

import os
import time
from typing import Any

from ..agent import config, dotenv
from ..agent.state import read_state
from ..host.records import Records
from ..system import network, yaml_edit
from ..system.errors import OpsError
from ..system.files import Owner, acting_as
from ..system.systemd import Manager, Unit
from .journal import explain
from .problems import CONFIG_FIX, Health, Problem
from .servers import REPLY_PROMPT, ask, call_webhook, server_problem

# A gateway that is still the same process after this many seconds is not in a crash loop.
STABLE_SECONDS = 3.0
# So many further starts while we wait, and it is one.
CRASH_LOOP = 3
POLL_SECONDS = 0.5
# systemd's own exit code for "cannot execute" (systemd.exec(5)).
EXIT_EXEC = 203
# Hermes' exit code for a configuration that cannot work (gateway/restart.py, since 0.18).
EXIT_CONFIG = 78


def explain_unit(unit: Unit) -> Problem | None:
    """What systemd itself knows about a unit that is not running."""
    if unit.running:
        return None
    if unit.load == "not-found":
        return Problem("not_installed", f"{unit.name} does not exist", "converge the host: site.yml", True)
    if unit.status == EXIT_EXEC:
        return Problem(
            "wrong_binary",
            "systemd cannot execute the release's hermes (status 203/EXEC)",
            "converge the host: the role install repairs /opt/hermes/current",
            # Before its next attempt it may be the account of one before a repair.
            final=unit.active != "activating",
        )
    if unit.result == "start-limit-hit":
        return Problem(
            "start_limit_hit",
            "systemd gave up restarting it",
            f"remove the cause, then: {unit.command('reset-failed')}",
            True,
        )
    if unit.result == "oom-kill":
        return Problem("out_of_memory", "it was killed for its memory limit", "raise limits.memory")
    if unit.status == EXIT_CONFIG:
        return Problem("bad_configuration", "Hermes says its configuration cannot work (status 78)", "see its log")
    return Problem(
        "not_running",
        f"the unit is {unit.active} ({unit.sub}; last result {unit.result or 'none'}, status {unit.status})",
        f"{unit.command('start')}; why it is not running: {unit.log}",
    )


def platform_problems(state: dict[str, Any], declared: list[str]) -> list[Problem]:
    """Which declared platforms are not connected, from gateway_state.json."""
    problems = []
    for name in declared:
        platform = state["platforms"].get(name)
        if platform is None:
            problems.append(
                Problem(
                    "platform_missing",
                    f"the platform {name} was not started",
                    "check its token, its settings and install_extras",
                )
            )
        elif platform.get("state") != "connected":
            detail = platform.get("error_message") or platform.get("error_code") or "no reason given"
            problems.append(
                Problem(
                    "platform_not_connected",
                    f"the platform {name} is {platform.get('state')}: {detail}",
                    "see the log",
                    platform.get("state") == "fatal",
                )
            )
    return problems


def taken_ports(profile: dict[str, Any], owner: Owner) -> dict[str, Problem]:
    """``api`` and ``webhook``, as far as somebody else has the port: another profile's gateway answers alike."""
    wanted = {profile[key]["port"]: key for key in ("api", "webhook") if profile[key]["enabled"]}
    taken = {}
    for port, pids in network.listeners(set(wanted), owner).items():
        key = wanted[port]
        if pids != network.outsiders(pids, {profile["name"]}):
            continue
        gateway = any(network.gateway_of(pid) for pid in pids)
        taken[key] = Problem(
            "port_in_use",
            f"port {port} ({key}.port) is taken by {network.describe(pids)}",
            f"{'one of the two needs' if gateway else 'stop that process, or declare'} another {key}.port",
            True,
        )
    return taken


def check(profile: dict[str, Any], owner: Owner, unit: Unit) -> Health:
    """Look once; wait for nothing.

    :param profile: the ``gateway`` part of a description made by :func:`declaration.resolve`
    :param unit: the unit as it is now
    """
    health = Health(profile["name"], pid=unit.pid)
    taken = taken_ports(profile, owner)
    health.problems += taken.values()
    problem = explain_unit(unit)
    if problem:
        health.problems.append(problem)
        return health
    if unit.age < STABLE_SECONDS:
        health.problems.append(
            Problem("not_stable", f"it has run for less than {STABLE_SECONDS:g} s", "wait, then look again")
        )
    state = read_state(profile["home"], owner)
    with acting_as(owner):
        problem = _config_problem(os.path.join(profile["home"], config.FILE_NAME))
    if problem:
        health.problems.append(problem)
    if state.get("pid") != unit.pid or state.get("gateway_state") != "running":
        health.problems.append(
            Problem(
                "not_ready",
                f"Hermes says it is {state.get('gateway_state', 'not started')}"
                + (", of an earlier process" if state.get("pid", unit.pid) != unit.pid else ""),
                "wait, then see the log",
            )
        )
    else:
        health.platforms = {name: str(value.get("state")) for name, value in state["platforms"].items()}
        health.problems += platform_problems(state, profile["health"]["platforms"])
    for key, expected in (("api", "hermes-agent"), ("webhook", "webhook")):
        if profile[key]["enabled"] and key not in taken:
            problem, answer = server_problem(f"the {key} server", profile[key], expected)
            if problem:
                health.problems.append(problem)
            elif key == "api":
                health.version = answer.get("version")
    return health


def _config_problem(path: str) -> Problem | None:
    """Hermes runs on defaults, silently, when its config.yaml does not parse."""
    if not yaml_edit.available():
        return None
    try:
        config.read_config(path)
    except OpsError as error:
        return Problem("config_unparsable", f"{error.where} {error.what}, so it runs on defaults", CONFIG_FIX, True)
    return None


def wait(
    profiles: list[dict[str, Any]], manager: Manager, owner: Owner, records: dict[str, Records] | None = None
) -> list[Health]:
    """Wait until every gateway is healthy, waiting cannot help, or its time (``health.timeout``) is over.

    :param records: where given, what proved to work (config.yaml, .env) is kept there
    :returns: one result a profile, in order; unhealthy ones carry the last lines of their journal
    """
    results: dict[str, Health] = {}
    units = {p["name"]: p["unit"] for p in profiles}
    first_restarts: dict[str, int] = {}
    started = time.monotonic()
    waiting = list(profiles)
    while waiting:
        states = manager.units(units[p["name"]] for p in waiting)
        still = []
        for profile in waiting:
            unit = states[profile["unit"]]
            health = check(profile, owner, unit)
            results[profile["name"]] = health
            attempts = unit.restarts - first_restarts.setdefault(profile["name"], unit.restarts)
            looping = attempts >= CRASH_LOOP
            if looping:
                health.problems.insert(
                    0,
                    Problem(
                        "crash_loop",
                        f"it was restarted {unit.restarts} times; the last exit status was {unit.status}",
                        "see the log",
                    ),
                )
            over = time.monotonic() - started >= profile["health"]["timeout"]
            hopeless = looping or any(
                problem.final or (problem.cause == "wrong_binary" and attempts > 0) for problem in health.problems
            )
            if not health.ok and not over and not hopeless:
                still.append(profile)
        waiting = still
        if waiting:
            time.sleep(POLL_SECONDS)
    for profile in profiles:
        health = results[profile["name"]]
        if health.ok:
            _prove(profile, owner, health)
        if health.ok and records:
            for name in ("config.yaml", ".env"):
                records[profile["name"]].keep(os.path.join(profile["home"], name), owner, replace=True)
        elif not health.ok:
            explain(profile, manager, health)
    return [results[p["name"]] for p in profiles]


def _prove(profile: dict[str, Any], owner: Owner, health: Health) -> None:
    """A real reply and a real webhook, where they are asked for."""
    try:
        if profile["health"]["reply"]:
            with acting_as(owner):
                key = dotenv.read_env(os.path.join(profile["home"], ".env")).get("API_SERVER_KEY", "")
            health.reply = ask(profile["api"], key, REPLY_PROMPT)
        if profile["health"]["webhook"]:
            payload = {"topic": "health", "body": REPLY_PROMPT}
            call_webhook(profile, owner, profile["health"]["webhook"], payload)
    except OpsError as error:
        health.problems.append(
            Problem("no_reply", f"{error.where}: {error.what}" if error.where else error.what, error.fix or "")
        )
