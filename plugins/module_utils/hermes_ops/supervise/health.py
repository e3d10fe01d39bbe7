# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether an agent really is there: more than ``active``, and if not, why not and what to do about it.

Sources: Hermes 0.18.2 and 0.19.0, gateway/status.py (gateway_state.json), gateway/platforms/{api_server,webhook}.py.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import re
import time
import urllib.error
import urllib.request
import uuid
from dataclasses import dataclass, field
from typing import Any

from ..agent import config, dotenv, sessions, webhooks
from ..agent.state import read_state
from ..host.records import Records
from ..system import network as ports
from ..system import yaml_edit
from ..system.errors import OpsError
from ..system.files import Owner, acting_as
from ..system.process import run
from ..system.systemd import Manager, Unit
from .managers import ManagerOf, units_of

# A gateway that is still the same process after this many seconds is not in a crash loop.
STABLE_SECONDS = 3.0
# So many further starts while we wait, and it is one.
CRASH_LOOP = 3
POLL_SECONDS = 0.5
JOURNAL_LINES = 40
# systemd's own exit code for "cannot execute" (systemd.exec(5)).
EXIT_EXEC = 203
# Hermes' exit code for a configuration that cannot work (gateway/restart.py, since 0.18).
EXIT_CONFIG = 78
REPLY_TIMEOUT = 120.0

CONFIG_FIX = "repair the file, or put the last working copy back: hermes-ops restore --kept"
REPLY_PROMPT = "Health check: answer with one short word."


@dataclass(frozen=True)
class Problem:
    """One reason why an agent is not healthy.

    :param cause: stable name for programs, e.g. ``port_in_use``
    :param what: one sentence for people
    :param fix: what to do
    :param final: waiting will not help
    """

    cause: str
    what: str
    fix: str
    final: bool = False


@dataclass
class Health:
    """The result for one profile; healthy when there are no problems."""

    profile: str
    problems: list[Problem] = field(default_factory=list)
    pid: int = 0
    version: str | None = None
    platforms: dict[str, str] = field(default_factory=dict)
    reply: str | None = None
    log: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return not self.problems

    @property
    def causes(self) -> list[str]:
        return [problem.cause for problem in self.problems]

    def as_dict(self) -> dict[str, Any]:
        return {
            "profile": self.profile,
            "healthy": self.ok,
            "pid": self.pid,
            "version": self.version,
            "platforms": self.platforms,
            "reply": self.reply,
            "problems": [{"cause": p.cause, "what": p.what, "fix": p.fix} for p in self.problems],
            "log": self.log,
        }

    def __str__(self) -> str:
        if self.ok:
            return f"profile {self.profile}: healthy"
        lines = [f"profile {self.profile}: {problem.what}. Fix: {problem.fix}" for problem in self.problems]
        return "\n".join(lines + [f"  | {line}" for line in self.log])


# What the journal of a gateway says about itself -> the problem (B9). Only consulted for a gateway that is
# already known to be unhealthy: a text that changes with Hermes' version costs an explanation, never a verdict.
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
        # discord.py, python-telegram-bot and slack_sdk, as the adapters in plugins/platforms log them. Nothing of
        # "Unauthorized": that is what Hermes calls a person who may not talk to it.
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


def explain_journal(lines: list[str]) -> Problem | None:
    """The first known cause that *lines* name, the newest line first."""
    for line in reversed(lines):
        for pattern, problem in JOURNAL_CAUSES:
            if pattern.search(line):
                return problem
    return None


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


def _reachable(host: str) -> str:
    """The address to ask a server bound to *host*."""
    if host in ("0.0.0.0", "::", ""):
        return "127.0.0.1"
    return f"[{host}]" if ":" in host else host


def _request(
    url: str, *, timeout: float, body: bytes | None = None, headers: dict[str, str] | None = None
) -> tuple[int, bytes]:
    # No proxy between us and our own host.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    request = urllib.request.Request(url, data=body, headers=headers or {})
    try:
        with opener.open(request, timeout=timeout) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def server_problem(name: str, server: dict[str, Any], expected: str) -> tuple[Problem | None, dict[str, Any]]:
    """Ask ``/health`` of a server of the gateway; *expected* is the platform it must say it is."""
    url = f"http://{_reachable(server['host'])}:{server['port']}/health"
    try:
        status, body = _request(url, timeout=5)
        answer = json.loads(body) if status == 200 else {}
    except (OSError, ValueError) as error:
        return Problem("no_answer", f"{name} does not answer at {url} ({error})", "see the log"), {}
    if status != 200 or not isinstance(answer, dict) or answer.get("platform") != expected:
        return Problem(
            "foreign_answer",
            f"{url} is answered by something else than Hermes",
            f"see who holds port {server['port']}: ss -ltnp",
            True,
        ), {}
    return None, answer


def taken_ports(profile: dict[str, Any], owner: Owner) -> dict[str, Problem]:
    """``api`` and ``webhook``, as far as somebody else has the port: another profile's gateway answers alike."""
    wanted = {profile[key]["port"]: key for key in ("api", "webhook") if profile[key]["enabled"]}
    taken = {}
    for port, pids in ports.listeners(set(wanted), owner).items():
        key = wanted[port]
        if pids != ports.outsiders(pids, {profile["name"]}):
            continue
        gateway = any(ports.gateway_of(pid) for pid in pids)
        taken[key] = Problem(
            "port_in_use",
            f"port {port} ({key}.port) is taken by {ports.describe(pids)}",
            f"{'one of the two needs' if gateway else 'stop that process, or declare'} another {key}.port",
            True,
        )
    return taken


def ask(server: dict[str, Any], key: str, prompt: str, *, timeout: float = REPLY_TIMEOUT) -> str:
    """Have the agent answer *prompt* through its API server.

    :raises OpsError: when it does not; Hermes answers 200 with finish_reason ``error`` for a dead model
    """
    url = f"http://{_reachable(server['host'])}:{server['port']}/v1/chat/completions"
    body = json.dumps({"model": "hermes-agent", "messages": [{"role": "user", "content": prompt}]}).encode()
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    try:
        status, answer = _request(url, timeout=timeout, body=body, headers=headers)
    except OSError as error:
        raise OpsError(f"no reply within {timeout:g} s ({error})", where=url, fix="see the log") from None
    if status == 401:
        raise OpsError("refuses our API_SERVER_KEY", where=url, fix="restart the gateway: it runs with an older key")
    try:
        choice = json.loads(answer)["choices"][0]
        text = choice["message"]["content"]
    except (ValueError, LookupError, TypeError):
        raise OpsError(f"status {status} and no reply", where=url, fix="see the log") from None
    if choice.get("finish_reason") == "error" or not text:
        raise OpsError(
            "the agent answered with an error instead of a reply",
            where=url,
            fix="check the model: its name, provider, key and quota",
        )
    return str(text)


def sign(secret: str, body: bytes, timestamp: int) -> dict[str, str]:
    """The headers of a signed webhook call: V2, bound to the time, and the one 0.13 knows."""
    mac = hmac.new(secret.encode(), f"{timestamp}.".encode() + body, hashlib.sha256).hexdigest()
    return {
        "Content-Type": "application/json",
        "X-Webhook-Timestamp": str(timestamp),
        "X-Webhook-Signature-V2": mac,
        "X-Request-ID": str(uuid.uuid4()),
    }


def find_webhook(profile: dict[str, Any], owner: Owner, name: str) -> tuple[str, dict[str, Any]]:
    """Where the subscription *name* is called, and its entry.

    :raises OpsError: when there is none
    """
    server = profile["webhook"]
    url = f"http://{_reachable(server['host'])}:{server['port']}/webhooks/{name}"
    with acting_as(owner):
        subscriptions = webhooks.read_subscriptions(os.path.join(profile["home"], webhooks.FILE_NAME))
    if not server["enabled"] or name not in subscriptions:
        known = ", ".join(sorted(subscriptions)) or "none"
        raise OpsError(
            f"profile {profile['name']} has no subscription {name!r} (it has: {known})",
            fix="declare it under the profile's webhooks and converge, or name another one",
        )
    return url, subscriptions[name]


def call_webhook(
    profile: dict[str, Any], owner: Owner, name: str, payload: dict[str, Any], *, timeout: float = REPLY_TIMEOUT
) -> str:
    """Post a signed call to the subscription *name* and wait until the agent has answered it.

    :param payload: what the subscription's prompt may name
    :param timeout: seconds that the agent may take
    :returns: what the agent said last, wherever that was delivered
    :raises OpsError: when the call is refused, or no answer follows
    """
    url, subscription = find_webhook(profile, owner, name)
    body = json.dumps(payload, ensure_ascii=False).encode()
    headers = sign(subscription.get("secret", ""), body, int(time.time()))
    if subscription.get("events"):
        headers["X-GitHub-Event"] = subscription["events"][0]
    try:
        status, _answer = _request(url, timeout=30, body=body, headers=headers)
    except OSError as error:
        raise OpsError(f"does not answer ({error})", where=url, fix="see why: hermes-ops check") from None
    if status == 200:
        raise OpsError(
            "took a signed call without waking the agent",
            where=url,
            fix="look at deliver_only and filters of the subscription",
        )
    if status != 202:
        raise OpsError(f"refused a signed call with status {status}", where=url, fix="see the log")
    # The delivery id, by which the conversation is known, is the request id we sent.
    chat = f"webhook:{name}:{headers['X-Request-ID']}"
    deadline = time.monotonic() + timeout
    while True:
        left = deadline - time.monotonic()
        answer = sessions.last_words(profile["home"], owner, chat)
        if answer:
            return answer
        if answer is not None:
            raise OpsError(
                "the agent ended without an answer", where=url, fix="check the model: its name, provider, key and quota"
            )
        if left <= 0:
            raise OpsError(f"took the call, but no answer came within {timeout:g} s", where=url, fix="see the log")
        time.sleep(min(POLL_SECONDS, left))


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
    profiles: list[dict[str, Any]], manager_of: ManagerOf, records: dict[str, Records] | None = None
) -> list[Health]:
    """Wait until every gateway is healthy, waiting cannot help, or its time (``health.timeout``) is over.

    :param records: where given, what proved to work (config.yaml, .env) is kept there
    :returns: one result a profile, in order; unhealthy ones carry the last lines of their journal
    """
    results: dict[str, Health] = {}
    first_restarts: dict[str, int] = {}
    started = time.monotonic()
    waiting = list(profiles)
    while waiting:
        states = units_of(waiting, manager_of)
        still = []
        for profile in waiting:
            unit = states[profile["unit"]]
            health = check(profile, manager_of(profile).owner, unit)
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
        health, manager = results[profile["name"]], manager_of(profile)
        if health.ok:
            _prove(profile, manager.owner, health)
        if health.ok and records:
            for name in ("config.yaml", ".env"):
                records[profile["name"]].keep(os.path.join(profile["home"], name), manager.owner, replace=True)
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


def explain(profile: dict[str, Any], manager: Manager, health: Health) -> None:
    """Put the cause that the journal names in front."""
    looping = any(problem.cause == "crash_loop" for problem in health.problems)
    health.log = _journal(manager, profile, before=looping)
    known = explain_journal(health.log)
    if known is not None:
        # What was found by looking says more.
        cause = next((problem for problem in health.problems if problem.cause == known.cause), known)
        health.problems = [cause, *(problem for problem in health.problems if problem is not cause)]


def _journal(manager: Manager, profile: dict[str, Any], *, before: bool) -> list[str]:
    """The last lines of the gateway's present process, or of its last one when there is none or between restarts.

    :param before: of the process before too: in a crash loop the present one has hardly begun
    """
    shown = manager.call("show", "--property", "InvocationID", "--value", profile["unit"], check=False)
    invocations = shown.stdout.split()
    # systemd forgets those of a unit that was stopped and is not enabled.
    if before or not invocations:
        recent = _journalctl(profile, "--lines", str(10 * JOURNAL_LINES), "--output-fields", "_SYSTEMD_INVOCATION_ID")
        invocations += [invocation for invocation in reversed(recent) if invocation not in invocations][:1]
    if not invocations:
        return []
    matches = [f"_SYSTEMD_INVOCATION_ID={invocation}" for invocation in invocations]
    return _journalctl(profile, "--lines", str(JOURNAL_LINES), *matches)


def _journalctl(profile: dict[str, Any], *arguments: str) -> list[str]:
    command = ["journalctl", "--identifier", f"hermes-gateway-{profile['name']}", "--boot", "--no-pager"]
    answer = run([*command, "--output", "cat", *arguments], timeout=20, check=False)
    return [line.rstrip() for line in answer.stdout.splitlines() if line.strip()]
