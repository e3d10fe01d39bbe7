# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The health of an agent. ``active`` in systemd is not enough; an unhealthy agent gets a cause and a fix.

Sources: Hermes 0.18.2 and 0.19.0, gateway/status.py (gateway_state.json).
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Optional

from ..agent import config, dotenv
from ..description.agent import Agent, Placement
from ..host.records import Records
from ..secrets import store
from ..system import network
from ..system.errors import OpsError
from ..system.files import Account
from . import servers, sight
from .journal import explain
from .problems import CONFIG_FIX, PROVIDER_FIX, Health, Problem
from .servers import REPLY_PROMPT
from .sight import Sight
from .supervisor import State, Supervisor

# A gateway that is still the same process after this many seconds is not in a crash loop.
STABLE_SECONDS = 3.0
# A gateway that restarts this many times while we wait is in a crash loop.
CRASH_LOOP = 3
POLL_SECONDS = 0.5
# The pause between two looks, as a multiple of the time that the last look took.
REST = 4

# The reply, if one was asked for, and what went wrong.
Proof = tuple[Optional[str], Optional[Problem]]


def platform_problems(state: dict[str, Any], declared: Sequence[str]) -> list[Problem]:
    """The declared platforms that are not connected.

    :param state: content of gateway_state.json
    """
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


def wanted_ports(placement: Placement) -> dict[int, str]:
    """The ports of the agent's servers -> ``api``, ``webhook``."""
    return {server.port: key for key, server in placement.servers.items()}


def taken_ports(placement: Placement, listeners: dict[int, set[int]]) -> dict[str, Problem]:
    """``api`` and ``webhook``, where another process holds the port. An answer alone does not show this: the gateway of
    another agent answers in the same way.

    :param listeners: see :func:`network.listeners`
    """
    taken = {}
    for port, key in wanted_ports(placement).items():
        pids = listeners.get(port)
        if pids is None or pids != network.outsiders(pids, {placement.name}):
            continue
        gateway = any(network.gateway_of(pid) for pid in pids)
        taken[key] = Problem(
            "port_in_use",
            f"port {port} ({key}.port) is taken by {network.describe(pids)}",
            f"{'one of the two needs' if gateway else 'stop that process, or declare'} another {key}.port",
            True,
        )
    return taken


def check(agent: Agent, account: Account, state: State) -> Health:
    """The health of one agent, without waiting for a change.

    :param state: the present state of its gateway
    """
    return check_all([(agent, account)], {agent.name: state})[0]


def check_all(agents: list[tuple[Agent, Account]], states: Mapping[str, State]) -> list[Health]:
    """The health of each of *agents* (agent, user), in order. Their workers run in parallel."""
    looked_at = [agent for agent, _account in agents]
    on_host = [agent for agent in looked_at if not states[agent.name].contained]
    listeners = network.listeners(port for agent in on_host for port in wanted_ports(agent))
    started = [_see(agent, account, states[agent.name], listeners) for agent, account in agents]
    return [judge(agent, states[agent.name], listeners, answer()) for agent, answer in zip(looked_at, started)]


def _see(agent: Agent, account: Account, state: State, listeners: dict[int, set[int]]) -> Callable[[], Any]:
    """Start to look at an agent.

    :returns: a function that waits for the answer
    """
    blind = [] if state.contained else blind_ports(agent, listeners)
    pid = state.pid if state.running else 0
    wanted = sight.wanted_of(agent, gateway=pid, blind=blind, contained=state.contained)
    return sight.start(account, wanted) if state.running or wanted["blind"] else dict


def blind_ports(placement: Placement, listeners: dict[int, set[int]]) -> list[int]:
    """The agent's ports whose listening process we cannot see. The agent's own user may be able to."""
    return [port for port in wanted_ports(placement) if listeners.get(port) == set()]


def judge(agent: Agent, state: State, listeners: dict[int, set[int]], answer: Any) -> Health:
    """The health of an agent, from the results of one look.

    :param listeners: see :func:`network.listeners`
    :param answer: the worker's answer, from :func:`sight.start`
    """
    health = Health(agent.name, pid=state.pid)
    seen = Sight.of(answer)
    network.merge_seen(listeners, seen.listeners)
    taken = {} if state.contained else taken_ports(agent, listeners)
    health.problems += taken.values()
    if state.problem:
        health.problems.append(state.problem)
        return health
    if isinstance(answer, OpsError):
        what = f"{answer.where}: {answer.what}"
        health.problems.append(Problem("home_unreadable", what, answer.fix or "see what the agent left there"))
        return health
    not_stable = Problem("not_stable", f"it has run for less than {STABLE_SECONDS:g} s", "wait, then look again")
    if seen.servers is None:
        # It did not run yet when the worker was told what to look at.
        health.problems.append(not_stable)
        return health
    if seen.config:
        health.problems.append(Problem("config_unparsable", f"{seen.config}, so it runs on defaults", CONFIG_FIX, True))
    if seen.no_provider:
        what = "it has no provider of models, neither in its configuration nor a key or a login, so it cannot answer"
        health.problems.append(Problem("no_provider", what, PROVIDER_FIX, True))
    said = seen.state
    # A container counts as running once its gateway has answered, so what it says is not of an earlier process.
    pid = said.get("pid") if state.contained else state.pid
    if said.get("pid") != pid or said.get("gateway_state") != "running":
        health.problems.append(_not_ready(said, pid))
    else:
        health.platforms = {name: value.get("state", "") for name, value in said["platforms"].items()}
        health.problems += platform_problems(said, agent.platforms)
    for key, expected in (("api", "hermes-agent"), ("webhook", "webhook")):
        server = agent.servers.get(key)
        if server and key not in taken:
            answered = seen.servers.get(key)
            problem = servers.judge(f"the {key} server", server, expected, answered)
            if problem:
                health.problems.append(problem)
            elif key == "api":
                health.version = servers.version_of(answered)
    if health.ok and state.age < STABLE_SECONDS:
        health.problems.append(not_stable)
    return health


def _not_ready(said: dict[str, Any], pid: int | None) -> Problem:
    earlier = " (written by an earlier process)" if said.get("pid", pid) != pid else ""
    return Problem(
        "not_ready",
        f"Hermes reports its state as {said.get('gateway_state', 'not started')}{earlier}",
        "wait, then see the log",
    )


def wait(agents: list[Agent], supervisor: Supervisor, records: dict[str, Records] | None = None) -> list[Health]:
    """Wait until every gateway is healthy, cannot become healthy, or has used up its ``health.timeout``.

    :param records: where to keep a copy of the config.yaml and .env of each healthy agent, as the last working ones
    :returns: one result per agent, in order; unhealthy ones carry the last lines of their journal
    """
    results: dict[str, Health] = {}
    first_restarts: dict[str, int] = {}
    proofs: dict[tuple[str, int], Proof] = {}
    started = time.monotonic()
    waiting = list(agents)
    while waiting:
        states = supervisor.state(waiting)
        began = time.monotonic()
        looked = check_all([(agent, supervisor.account_of(agent)) for agent in waiting], states)
        took = time.monotonic() - began
        still = []
        for agent, health in zip(waiting, looked):
            state = states[agent.name]
            results[agent.name] = health
            attempts = state.restarts - first_restarts.setdefault(agent.name, state.restarts)
            over = time.monotonic() - started >= agent.health.timeout
            if health.causes == ["not_stable"] and (agent.name, health.pid) not in proofs:
                # It serves already. A reply takes about as long as is left until it is stable.
                proofs[agent.name, health.pid] = prove(agent, supervisor.account_of(agent))
            if not health.ok and not over and not _is_hopeless(health, state, attempts):
                still.append(agent)
        waiting = still
        if waiting:
            # Each look starts a process per agent. The pause leaves most of the CPU time to the starting gateways.
            time.sleep(max(POLL_SECONDS, REST * took))
    for agent in agents:
        health, account = results[agent.name], supervisor.account_of(agent)
        if health.ok:
            proof = proofs.get((agent.name, health.pid))
            health.reply, problem = proof if proof and not proof[1] else prove(agent, account)
            health.problems += [problem] if problem else []
        if health.ok and records:
            for name in (config.FILE_NAME, dotenv.FILE_NAME):
                records[agent.name].keep(os.path.join(agent.home, name), account, replace=True)
        elif not health.ok:
            explain(agent, supervisor, health)
    return [results[agent.name] for agent in agents]


def _is_hopeless(health: Health, state: State, attempts: int) -> bool:
    """Whether waiting cannot help. Adds a crash loop to the problems.

    :param attempts: restarts since the first look
    """
    if attempts >= CRASH_LOOP:
        what = f"it was restarted {state.restarts} times; the last exit status was {state.status}"
        health.problems.insert(0, Problem("crash_loop", what, "see the log"))
        return True
    return any(problem.final or (problem.cause == "wrong_binary" and attempts > 0) for problem in health.problems)


def prove(agent: Agent, account: Account, key: str | None = None) -> Proof:
    """Ask for a real reply and call a real webhook, where the agent declares that.

    :param key: of its API server, if it is neither in its home nor from its source of secrets
    """
    reply = None
    try:
        if agent.health.reply:
            key = store.value_of(agent.name, "API_SERVER_KEY") if agent.source else key
            reply = servers.ask(agent.api, account, REPLY_PROMPT, key_in=[agent.home], key=key)
        if agent.health.webhook:
            payload = {"topic": "health", "body": REPLY_PROMPT}
            servers.call_webhook(agent, account, agent.health.webhook, payload)
    except OpsError as error:
        what = f"{error.where}: {error.what}" if error.where else error.what
        return reply, Problem("no_reply", what, error.fix or "")
    return reply, None
