# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A release tried on a copy of a home, where it can do no harm.

The canary is a gateway of its own, in a transient unit of the system's manager. It sees nothing of the agent but the
copy, and of what a gateway does it only does two things: it serves the API, on a free port of the loopback address,
and it answers a chat. Messaging platforms, webhooks, cron, kanban, hooks, plugins and MCP servers are off. That is
said three times over: the copy has neither tokens nor jobs any more; a managed scope switches them off (see
:mod:`copy` for both); and a canary whose own state file names another platform is ended at once.

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
from ..system.errors import OpsError
from ..system.files import Owner, changing, check_trusted, ensure_directory, failure, open_directory
from ..system.process import run, run_head
from ..system.systemd import COMMAND_TIMEOUT, Manager, Unit, check_path
from ..system.worker import Limits, work
from . import health, journal, servers, units
from .copy import MANAGED_NAME
from .problems import Problem

UNIT = "hermes-canary.service"
# How long it has to stay the same process. Hermes' own periodic work begins at once and comes again after 30 s (the
# heartbeat of its loop) and 60 s (cron, housekeeping): what does not die of its start dies of its first round, and a
# death within 20 s has been seen in the wild.
STABLE_SECONDS = 30.0
# What a stop may take: nothing is to be drained.
STOP_SECONDS = units.STOP_MARGIN
# Where Hermes looks for a managed scope that nobody named (hermes_cli/managed_scope.py).
DEFAULT_MANAGED_DIR = "/etc/hermes"
LOOPBACK = "127.0.0.1"
# Seconds for making the copy fit, and for removing it: the agent may have left millions of files.
FIT_SECONDS = 60.0
SWEEP_SECONDS = 120.0
# Seconds for one look at the canary; its API server has five of them.
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
    """A directory for a copy of the home of *agent*: its user's, outside of every home, gone afterwards.

    It lies in a directory of root's: systemd binds it into the canary's sandbox by its path, which has to lead
    there whatever the agent does meanwhile.

    :param job: that it is for; one at a time
    """
    sweep(host, agent, job, say)
    try:
        yield _make(host, agent, job)
    finally:
        sweep(host, agent, job, say)


def scratch_directory(host: Installation) -> str:
    """Where the copies lie; on the file system of the agents' own directories."""
    return os.path.join(host.data_dir, "scratch")


def _prefix(agent: Agent, job: str) -> str:
    # No name of an agent has a dot.
    return f"{job}.{agent.name}."


def _make(host: Installation, agent: Agent, job: str) -> str:
    parent, owner = scratch_directory(host), host.owner_of(agent)
    ensure_directory(parent, mode=0o711)
    check_trusted(parent, fix="see whether the data volume is mounted; hermes_data_dir has to be root's")
    try:
        path = tempfile.mkdtemp(prefix=_prefix(agent, job), dir=parent)
        os.chown(path, owner.uid, owner.gid)
    except OSError as error:
        raise failure("written", parent, error) from None
    return path


def sweep(host: Installation, agent: Agent, job: str, say: Callable[[str], object]) -> None:
    """Away with the copies of *agent*, also of runs that were killed. One that cannot be removed is only said."""
    pattern = os.path.join(glob.escape(scratch_directory(host)), f"{_prefix(agent, job)}*")
    for path in glob.glob(pattern):
        try:
            _remove(host.owner_of(agent), path, _named(agent))
        except (OpsError, OSError) as error:
            say(f"a copy of the home of {_named(agent)} stays in {path}: {error}")


def _remove(owner: Owner, path: str, where: str) -> None:
    with contextlib.suppress(OSError):
        # A run that was killed at once has left an empty one, perhaps still root's.
        os.rmdir(path)
        return
    with changing(open_directory(path), path) as copy:
        limits = Limits(seconds=SWEEP_SECONDS)
        work(owner, "supervise.copy:clear", copy, limits=limits, descriptors=[copy], where=where)
    os.rmdir(path)


def prepare(host: Installation, agent: Agent, home: str) -> Agent:
    """Make a copy of an agent's home fit for the canary, and describe the agent that it has become.

    :param agent: whose home it is a copy of
    :param home: the copy, outside of every agent's home
    :returns: its ``health.reply`` says whether it can answer a chat: with a login that only the real agent may renew it
        cannot
    :raises OpsError: when a file of it does not parse; says which, and the line
    """
    check_path(home, "the canary's home")
    # Below a directory "profiles" Hermes takes it for a profile of another home (hermes_constants.py).
    homes = [each.home for each in [*host.agents, agent]]
    if any(os.path.commonpath([home, other]) in (home, other) for other in homes) or "profiles" in home.split(os.sep):
        raise OpsError("is no place for a copy", where=home, fix=f"take one outside of {', '.join(homes)}")
    scope = agent.managed or DEFAULT_MANAGED_DIR
    api = Server(True, LOOPBACK, _free_port())
    key = env.new_secret()
    # A Hermes profile without a login of its own uses that of the home around it (hermes_cli/auth.py).
    around = agent.home.rpartition(f"/{PROFILES_DIRECTORY}/")[0] or None
    limits = Limits(seconds=FIT_SECONDS)
    renewed = work(
        host.owner_of(agent),
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
        health=replace(agent.health, platforms=("api_server",), reply=not renewed, webhook=None),
    )


def lend_env(host: Installation, agent: Agent, home: str) -> None:
    """Put ``.env`` of *agent* into a copy that comes out of a backup, which has none: the model's keys."""
    work(host.owner_of(agent), "supervise.copy:lend_env", agent.home, home, where=_named(agent))


def _named(agent: Agent) -> str:
    return f"agent {agent.name}"


def _free_port() -> int:
    with socket.socket() as server:
        server.bind((LOOPBACK, 0))
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
    """Let *release* run on the copy: start, answer, stay, stop. One at a time on a host.

    :param release: id of a release that is installed
    :param canary: from :func:`prepare`
    :param reply: have it answer a chat as well, if it can
    :param timeout: seconds until it must be healthy; also how long another canary is waited for
    :param stable: seconds that it must stay the same, healthy process after that
    :returns: ``version`` as it says itself, ``reply`` (None when it was not asked), ``seconds`` until it was healthy
    :raises CanaryFailed: when it does not do all that; carries the last lines of its log
    """
    reply = reply and canary.health.reply
    # Whatever happens to us, it is gone after this.
    longest = timeout + servers.REPLY_TIMEOUT + stable + 60
    with host.lock("canary", timeout=timeout):
        owner = host.owner_of(canary)
        manager = Manager("system", owner)
        # Left over from a run that was killed.
        end(manager)
        attempt = _Attempt(owner, release, canary, manager)
        program = os.path.join(host.root, "releases", release, "bin", "hermes")
        try:
            run(
                [
                    *("systemd-run", "--quiet", "--collect", f"--unit={UNIT}", "--service-type=exec"),
                    *(f"--property={name}={value}" for name, value in properties(host, canary, longest, online=reply)),
                    *(program, "--profile", "default", "gateway", "run"),
                ],
                timeout=COMMAND_TIMEOUT,
            )
        except OpsError as error:
            end(manager)
            raise attempt.failed(Problem("not_started", f"does not start ({error.what})", "see its log")) from None
        try:
            version = attempt.await_health(timeout)
            seconds = attempt.age
            said = attempt.ask() if reply else None
            attempt.stay(stable)
            attempt.stop()
        finally:
            end(manager)
        return {"version": version, "reply": said, "seconds": seconds}


def properties(host: Installation, canary: Agent, longest: float, *, online: bool) -> list[tuple[str, str | float]]:
    """The directives of its unit: the sandbox of a gateway, closer.

    :param longest: seconds after which systemd ends it
    :param online: it has to reach a model
    """
    home, limits = canary.home, canary.limits
    # Hides whatever lies there, other agents, keys and backups included; the copy is put back into it.
    hidden = units.outermost([host.data_dir, *(agent.home for agent in host.agents)])
    network = {} if online else {"IPAddressAllow": "localhost", "IPAddressDeny": "any"}
    return [
        *{**units.SANDBOX, **network}.items(),
        *(("TemporaryFileSystem", f"{path}:ro") for path in hidden),
        ("InaccessiblePaths", f"-{host.managed_root}"),
        ("BindReadOnlyPaths", host.root),
        ("BindPaths", home),
        ("ReadWritePaths", home),
        ("User", host.owner_of(canary).name),
        ("WorkingDirectory", home),
        ("Environment", f"HOME={home}"),
        ("Environment", f"HERMES_HOME={home}"),
        ("Environment", f"HERMES_MANAGED_DIR={canary.managed_dir}"),
        ("Environment", "PYTHONUNBUFFERED=1"),
        ("SyslogIdentifier", UNIT),
        ("MemoryMax", limits.memory),
        ("TasksMax", limits.tasks),
        # Where memory or time is short the real gateways go first.
        ("OOMScoreAdjust", 900),
        ("Nice", 10),
        ("KillSignal", "SIGINT"),
        ("KillMode", "mixed"),
        ("TimeoutStopSec", STOP_SECONDS),
        ("RuntimeMaxSec", longest),
    ]


def end(manager: Manager) -> None:
    """End it, whatever it does; no error when there is none."""
    manager.call("kill", "--signal=KILL", UNIT, check=False)
    manager.call("stop", UNIT, check=False)
    manager.call("reset-failed", UNIT, check=False)


class _Attempt:
    """One start of the canary, from its first second to its last."""

    def __init__(self, owner: Owner, release: str, canary: Agent, manager: Manager) -> None:
        self.owner = owner
        self.release = release
        self.canary = canary
        self.manager = manager
        self.began = time.time()
        self.started = time.monotonic()

    @property
    def age(self) -> float:
        return time.monotonic() - self.started

    def failed(self, problem: Problem) -> CanaryFailed:
        """The error, with the cause that the log names in front."""
        run(["journalctl", "--sync"], timeout=COMMAND_TIMEOUT, check=False)
        # Anybody may have written there, any amount.
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
        """:returns: the version that it says it is"""
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
            return servers.ask(self.canary.api, self.owner, servers.REPLY_PROMPT, key_in=key_in)
        except OpsError as error:
            problem, _version = self._look()
            if problem is None or problem.cause != "ended":
                problem = Problem("no_reply", f"does not answer a chat ({error.what})", error.fix or "see its log")
            raise self.failed(problem) from None

    def stay(self, stable: float) -> None:
        """From now on: on a busy host the start alone may take longer than *stable*."""
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
        """What is wrong with it, or the version that it says it is."""
        unit: Unit = self.manager.units([UNIT])[UNIT]
        if not unit.running:
            return Problem("ended", f"ended by itself after {self.age:.0f} s", "see its log", True), None
        try:
            said = self._work("look", self.canary.home, self.canary.api.to_plain(), limits=Limits(seconds=LOOK_SECONDS))
            return judge(said, unit.pid, self.age), said.get("version")
        except (OpsError, LookupError, TypeError, ValueError, AttributeError):
            # It says nonsense of itself, perhaps because it has just begun.
            return Problem("not_ready", f"says nothing that can be read after {self.age:.0f} s", "see its log"), None

    def _work(self, function: str, *arguments: Any, limits: Limits) -> Any:
        where = _named(self.canary)
        return work(self.owner, f"supervise.copy:{function}", *arguments, limits=limits, where=where)


def judge(said: dict[str, Any], pid: int, age: float) -> Problem | None:
    """What is wrong with a canary.

    :param said: what :func:`copy.look` returned
    :param pid: of its unit
    :param age: seconds since its start
    """
    # Before anything else: it must not even get to try.
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
