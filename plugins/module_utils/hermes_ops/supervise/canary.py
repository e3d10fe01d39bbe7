# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The canary: a release tried on a copy of a home, where it can do no harm.

The canary is a separate gateway in a transient unit of the system's manager. It sees nothing of the agent except the
copy. It does only two things: it serves the API on a free loopback port, and it answers a chat. Messaging platforms,
webhooks, cron, kanban, hooks, plugins and MCP servers are off. Three measures ensure this: tokens and jobs are removed
from the copy, a managed scope switches the rest off (:mod:`copy` does both), and a canary whose state file names any
other platform is killed at once.

The copy is as hostile as the home it was made from: only workers touch it.
"""

from __future__ import annotations

import contextlib
import glob
import os
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from ..agent import env
from ..agent.quote import quoted
from ..description.agent import Agent, Server
from ..description.schema import PROFILES_DIRECTORY
from ..host.installation import Installation
from ..secrets import store
from ..system import network
from ..system.errors import OpsError
from ..system.files import Account, changing, check_trusted, ensure_directory, failure, open_directory
from ..system.paths import check_path
from ..system.process import run, run_head
from ..system.systemd import COMMAND_TIMEOUT, Manager, Unit
from ..system.worker import Limits, work
from . import health, journal, servers, units
from .copy import MANAGED_NAME, is_lent
from .problems import Problem

UNIT = "hermes-canary.service"
# Seconds that the canary must remain the same process. Hermes starts its periodic work at once and repeats it after
# 30 s (heartbeat of its loop) and 60 s (cron, housekeeping). A release that survives its start but not this work fails
# in the first round; in production, one died within 20 s.
STABLE_SECONDS = 30.0
# Seconds that a stop may take. The canary has nothing to drain.
STOP_SECONDS = units.STOP_MARGIN
# Hermes' default directory for a managed scope (hermes_cli/managed_scope.py).
DEFAULT_MANAGED_DIR = "/etc/hermes"
LOOPBACK = "127.0.0.1"
# The name under which the canary's share of the agent's fetched secrets is kept; no agent can have it.
_LENT = ".canary"
# Seconds to prepare the copy, and to remove all that are left: the agent may have left millions of files.
FIT_SECONDS = 60.0
SWEEP_SECONDS = 120.0
# Seconds for one look at the canary, five of which are for its API server.
LOOK_SECONDS = 15.0


class CanaryFailed(OpsError):
    """The release does not work on the copy.

    :param log: the last lines of the canary's log
    """

    def __init__(self, what: str, *, where: str, fix: str, log: list[str]) -> None:
        self.log = log
        super().__init__(what, where=where, fix=fix)

    def __str__(self) -> str:
        return "\n".join([super().__str__(), *(f"  | {line}" for line in self.log)])


# The copy.


@contextlib.contextmanager
def scratch(host: Installation, agent: Agent, job: str, say: Callable[[str], object]) -> Iterator[str]:
    """A temporary directory for a copy of *agent*'s home, owned by the agent's user and outside every home.

    Its parent belongs to root: systemd binds the copy into the canary's sandbox by path, and the agent must not be able
    to redirect that path.

    :param job: the job that needs the copy; only one run of a job at a time
    """
    sweep(host, agent, job, say)
    try:
        yield _make(host, agent, job)
    finally:
        sweep(host, agent, job, say)


def scratch_directory(host: Installation) -> str:
    """The parent of all copies, on the same file system as the agents' directories."""
    return os.path.join(host.data_dir, "scratch")


def _prefix(agent: Agent, job: str) -> str:
    # Unambiguous: the name of an agent never contains a dot.
    return f"{job}.{agent.name}."


def _make(host: Installation, agent: Agent, job: str) -> str:
    parent, account = scratch_directory(host), host.account_of(agent)
    ensure_directory(parent, mode=0o711)
    check_trusted(parent, fix="see whether the data volume is mounted; hermes_data_dir has to be root's")
    try:
        path = tempfile.mkdtemp(prefix=_prefix(agent, job), dir=parent)
        os.chown(path, account.uid, account.gid)
    except OSError as error:
        raise failure("written", parent, error) from None
    return path


def sweep(host: Installation, agent: Agent, job: str, say: Callable[[str], object]) -> None:
    """Remove all copies of *agent*'s home, including those of killed runs. A failure is reported, not raised.

    The agent may hold a directory of each copy open, and fill it faster than it is cleared. So there is one time for
    all: otherwise each run would leave one more copy for all later ones to wait for.
    """
    deadline = time.monotonic() + SWEEP_SECONDS
    pattern = os.path.join(glob.escape(scratch_directory(host)), f"{_prefix(agent, job)}*")
    for path in glob.glob(pattern):
        try:
            _remove(host.account_of(agent), path, _named(agent), max(0.0, deadline - time.monotonic()))
        except (OpsError, OSError) as error:
            say(f"a copy of the home of {_named(agent)} could not be removed from {path}: {error}")


def _remove(account: Account, path: str, where: str, seconds: float) -> None:
    with contextlib.suppress(OSError):
        # A run that was killed early leaves an empty directory, which may still belong to root.
        os.rmdir(path)
        return
    with changing(open_directory(path), path) as copy:
        limits = Limits(seconds=seconds)
        work(account, "supervise.copy:clear", copy, limits=limits, descriptors=[copy], where=where)
    os.rmdir(path)


def prepare(host: Installation, agent: Agent, home: str) -> Agent:
    """Prepare a copy of an agent's home for the canary, and describe the agent that lives in the copy.

    :param agent: the original agent
    :param home: the copy, outside every agent's home
    :returns: the canary's agent. Its ``health.reply`` is false when the model needs a login that only the real agent
        may renew
    :raises OpsError: a file in the copy does not parse; names the file and the line
    """
    check_path(home, "the canary's home")
    # Below a directory "profiles", Hermes treats the copy as a profile of another home (hermes_constants.py).
    homes = [each.home for each in [*host.agents, agent]]
    if any(os.path.commonpath([home, other]) in (home, other) for other in homes) or "profiles" in home.split(os.sep):
        raise OpsError(
            "is not a safe place for a copy of a home",
            where=home,
            fix=f'choose one outside {", ".join(homes)} that is not below a directory "profiles"',
        )
    scope = agent.managed or DEFAULT_MANAGED_DIR
    api = Server(True, LOOPBACK, _free_port())
    key = env.new_secret()
    # A Hermes profile without its own login uses the login of the enclosing home (hermes_cli/auth.py).
    around = agent.home.rpartition(f"/{PROFILES_DIRECTORY}/")[0] or None
    limits = Limits(seconds=FIT_SECONDS)
    renewed = work(
        host.account_of(agent),
        "supervise.copy:fit",
        home,
        scope,
        api.to_plain(),
        key,
        around,
        limits=limits,
        where=_named(agent),
    )
    return replace(
        agent,
        home=home,
        unit=UNIT,
        config_scope="managed",
        managed_dir=os.path.join(home, MANAGED_NAME),
        api=api,
        webhook=replace(agent.webhook, enabled=False),
        health=replace(agent.health, platforms=(), reply=not renewed, webhook=None),
    )


def lend_env(host: Installation, agent: Agent, home: str) -> None:
    """Copy ``.env`` of *agent* into a copy made from a backup: backups hold no ``.env``, but the model needs keys."""
    work(host.account_of(agent), "supervise.copy:lend_env", agent.home, home, where=_named(agent))


def _named(agent: Agent) -> str:
    return f"agent {agent.name}"


def _free_port() -> int:
    """:raises OpsError: an agent, for example, holds all that the kernel would choose; names the likely one"""
    with socket.socket() as server:
        try:
            server.bind((LOOPBACK, 0))
        except OSError as error:
            raise OpsError(
                f"has no free port for a canary ({error.strerror}); of all users, {network.most_sockets()}",
                where=LOOPBACK,
                fix="stop what that user runs, such as its gateway, and try again",
            ) from None
        return server.getsockname()[1]


# The process.


def boot(
    host: Installation,
    release: str,
    canary: Agent,
    *,
    reply: bool,
    timeout: float,
    stable: float = STABLE_SECONDS,
) -> dict[str, Any]:
    """Run *release* on the copy: start it, have it answer, see that it stays healthy, stop it. One at a time on a host.

    :param release: id of an installed release
    :param canary: from :func:`prepare`
    :param reply: also ask it for a chat reply, if it can answer
    :param timeout: seconds until it must be healthy; also the longest wait for another canary to finish
    :param stable: seconds that it must remain the same, healthy process after that
    :returns: ``version`` as reported by the canary, ``reply`` (None when it was not asked), ``seconds`` until it was
        healthy
    :raises CanaryFailed: one of these steps failed; carries the last lines of the canary's log
    """
    reply = reply and canary.health.reply
    # systemd ends the canary after this time, even if we were killed.
    longest = timeout + servers.REPLY_TIMEOUT + stable + 60
    with host.lock("canary", timeout=timeout):
        account = host.account_of(canary)
        manager = Manager("system", account)
        # A killed run may have left its canary behind.
        end(manager)
        attempt = _Attempt(account, release, canary, manager)
        program = os.path.join(host.root, "releases", release, "bin", "hermes")
        try:
            if canary.source:
                lent = store.secrets_of(canary.name) or {}
                store.keep(_LENT, {name: value for name, value in lent.items() if is_lent(name)})
            try:
                run(
                    [
                        *("systemd-run", "--quiet", "--collect", f"--unit={UNIT}", "--service-type=exec"),
                        *(
                            f"--property={name}={value}"
                            for name, value in properties(host, canary, longest, online=reply)
                        ),
                        *(program, "--profile", "default", "gateway", "run"),
                    ],
                    timeout=COMMAND_TIMEOUT,
                )
            except OpsError as error:
                raise attempt.failed(Problem("not_started", f"does not start ({error.what})", "see its log")) from None
            version = attempt.await_health(timeout)
            seconds = attempt.age
            said = attempt.ask() if reply else None
            attempt.stay(stable)
            attempt.stop()
        finally:
            end(manager)
            store.forget(_LENT)
        return {"version": version, "reply": said, "seconds": seconds}


def properties(host: Installation, canary: Agent, longest: float, *, online: bool) -> list[tuple[str, str | float]]:
    """The directives of the canary's unit: a gateway's sandbox, made tighter.

    :param longest: seconds after which systemd ends the canary
    :param online: whether it has to reach a model
    """
    home, limits = canary.home, canary.limits
    # Hides these directories, with all other agents, keys and backups. BindPaths= makes the copy visible again.
    hidden = units.outermost([host.data_dir, *(agent.home for agent in host.agents)])
    network = {} if online else {"IPAddressAllow": "localhost", "IPAddressDeny": "any"}
    secrets = store.directives(_LENT) if canary.source else []
    return [
        *{**units.SANDBOX, **network}.items(),
        *secrets,
        *(("TemporaryFileSystem", f"{path}:ro") for path in hidden),
        ("InaccessiblePaths", f"-{host.managed_root}"),
        ("BindReadOnlyPaths", host.root),
        ("BindPaths", home),
        ("ReadWritePaths", home),
        ("User", host.account_of(canary).name),
        ("WorkingDirectory", home),
        ("Environment", f"HOME={home}"),
        ("Environment", f"HERMES_HOME={home}"),
        ("Environment", f"HERMES_MANAGED_DIR={canary.managed_dir}"),
        ("Environment", "PYTHONUNBUFFERED=1"),
        ("SyslogIdentifier", UNIT),
        ("SyslogLevelPrefix", "no"),
        ("MemoryMax", limits.memory),
        ("TasksMax", limits.tasks),
        # The real gateways have priority when memory or CPU time is short.
        ("OOMScoreAdjust", 900),
        ("Nice", 10),
        ("KillSignal", "SIGINT"),
        ("KillMode", "mixed"),
        ("TimeoutStopSec", STOP_SECONDS),
        ("RuntimeMaxSec", longest),
    ]


def end(manager: Manager) -> None:
    """Kill the canary at once. No error when there is none."""
    manager.call("kill", "--signal=KILL", UNIT, check=False)
    manager.call("stop", UNIT, check=False)
    manager.call("reset-failed", UNIT, check=False)


class _Attempt:
    """One run of the canary, from start to stop."""

    def __init__(self, account: Account, release: str, canary: Agent, manager: Manager) -> None:
        self.account = account
        self.release = release
        self.canary = canary
        self.manager = manager
        self.began = time.time()
        self.started = time.monotonic()

    @property
    def age(self) -> float:
        return time.monotonic() - self.started

    def failed(self, problem: Problem) -> CanaryFailed:
        """The error for *problem*, with the cause that the canary's log names, if any."""
        run(["journalctl", "--sync"], timeout=COMMAND_TIMEOUT, check=False)
        # Limited: the canary may have written any amount.
        lines = run_head(
            [
                *("journalctl", *self.manager.journal(UNIT), f"--since=@{int(self.began)}", "--boot", "--no-pager"),
                *("--output", "cat", "--lines", str(journal.JOURNAL_LINES)),
            ],
            limit=journal.JOURNAL_BYTES,
            timeout=COMMAND_TIMEOUT,
        ).splitlines()
        cause = journal.explain_journal(lines)
        known = f": {cause.what}" if cause and cause.cause != problem.cause else ""
        return CanaryFailed(
            f"on a copy of the home it {problem.what}{known}; the agent itself was not touched",
            where=f"release {self.release}, agent {self.canary.name}",
            fix=cause.fix if cause else problem.fix,
            log=[quoted(line) for line in lines if line.strip()],
        )

    def await_health(self, timeout: float) -> str | None:
        """:returns: the version that the canary reports"""
        while True:
            problem, version = self._look()
            if problem is None:
                return version
            if problem.final or self.age >= timeout:
                raise self.failed(problem)
            time.sleep(health.POLL_SECONDS)

    def ask(self) -> str:
        key_in = [self.canary.managed_dir]
        try:
            return servers.ask(self.canary.api, self.account, servers.REPLY_PROMPT, key_in=key_in)
        except OpsError as error:
            problem, _version = self._look()
            if problem is None or problem.cause != "ended":
                problem = Problem("no_reply", f"does not answer a chat ({error.what})", error.fix or "see its log")
            raise self.failed(problem) from None

    def stay(self, stable: float) -> None:
        """Watch for *stable* seconds from now, not from the start: on a busy host the start may take longer."""
        until = time.monotonic() + stable
        while (left := until - time.monotonic()) > 0:
            time.sleep(min(1.0, left))
            problem, _version = self._look()
            if problem is not None:
                raise self.failed(problem)

    def stop(self) -> None:
        began = time.monotonic()
        self.manager.call("stop", UNIT, timeout=2 * STOP_SECONDS + COMMAND_TIMEOUT)
        if time.monotonic() - began >= STOP_SECONDS:
            raise self.failed(
                Problem("no_stop", f"does not stop within {STOP_SECONDS:g} s and had to be killed", "see its log")
            )

    def _look(self) -> tuple[Problem | None, str | None]:
        """The canary's problem or None, and the version that it reports."""
        unit: Unit = self.manager.units([UNIT])[UNIT]
        if not unit.running:
            return Problem("ended", f"exited on its own after {self.age:.0f} s", "see its log", True), None
        try:
            said = self._work("look", self.canary.home, self.canary.api.to_plain(), limits=Limits(seconds=LOOK_SECONDS))
            return judge(said, unit.pid, self.age), said.get("version")
        except (OpsError, LookupError, TypeError, ValueError, AttributeError):
            # The state is unreadable, perhaps because the canary has only just started.
            return Problem("not_ready", f"reports no readable state after {self.age:.0f} s", "see its log"), None

    def _work(self, function: str, *arguments: Any, limits: Limits) -> Any:
        where = _named(self.canary)
        return work(self.account, f"supervise.copy:{function}", *arguments, limits=limits, where=where)


def judge(said: dict[str, Any], pid: int, age: float) -> Problem | None:
    """The problem of a canary, None when it is healthy.

    :param said: the result of :func:`copy.look`
    :param pid: main process of the canary's unit
    :param age: seconds since its start
    """
    # Checked first, so that the canary is stopped before a foreign platform can connect.
    others = sorted(set(said["platforms"]) - {"api_server"})
    if others:
        what = f"started {quoted(', '.join(others))} although that was switched off"
        return Problem("platform_started", what, "report it: this collection does not know the release", True)
    if said["pid"] != pid or said["state"] != "running":
        return Problem("not_ready", f"is not ready ({quoted(said['state'])}) after {age:.0f} s", "see its log")
    problems = health.platform_problems(said, ["api_server"])
    if problems:
        return Problem(problems[0].cause, f"is not healthy: {quoted(problems[0].what)}", problems[0].fix)
    if said["problem"]:
        cause, what, fix = map(str, said["problem"])
        return Problem(cause, f"is not healthy: {quoted(what)}", quoted(fix))
    return None
