# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Updates that cannot brick an agent: one state machine, which a timer, a person and a playbook drive alike.

::

    resolve -> preconditions -> build -> snapshot -> canary -> freeze -> stop -> switch -> start -> verify -> prune

Up to ``stop`` nothing is touched that runs. From ``stop`` to ``verify`` whatever goes wrong leads back: the old
release, and the data as it was where it has been migrated. With ``prune`` the new release is the good one.

The journal is written before each step and removed at the end::

    <ops_dir>/update/journal.json           the step that was begun last, and what it needs to be undone
    <ops_dir>/update/frozen/<run>/          what the last update froze, see :mod:`frozen`; stays for a rollback by hand
    <ops_dir>/update/failed.json            releases that are not tried again by themselves, and why
    <ops_dir>/update/backups/<profile>/     archives made before each update, the newest few
    <ops_dir>/set-aside/<run>/              what an agent had written into data that was put back

What is found there after a kill decides alone (:func:`after_kill`); nothing is remembered anywhere else.
"""

from __future__ import annotations

import contextlib
import dataclasses
import glob
import os
import shutil
import signal
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, cast

from ..backup import archives as backup
from ..backup import separable
from ..host.guard import Guard
from ..host.installation import JOURNALS, Installation
from ..release import build
from ..release import decide as release
from ..release.decide import Installed, Observed, Request
from ..release.uv import Index
from ..release.versions import is_version, satisfies, version_key
from ..supervise import canary, gateway, health
from ..supervise.managers import grouped, units_of
from ..system.errors import OpsError
from ..system.files import (
    Owner,
    acting_as,
    ensure_directory,
    failure,
    lock,
    read_json,
    remove_tree,
    sync_directory,
    write_json,
)
from ..system.process import run
from ..system.systemd import Manager, Unit
from ..watch import heartbeat
from .frozen import Frozen

STEPS = (
    "resolve",
    "preconditions",
    "build",
    "snapshot",
    "canary",
    "freeze",
    "stop",
    "switch",
    "start",
    "verify",
    "prune",
)
# Releases are removed at the end, not while one is built.
_ALL = 10**6
# Bytes that are kept free for the way back: Hermes does not start on a disk without any (0.18.2, 0.19.0).
RESERVE = 16 * 2**20
# How a run may end, and with which exit status.
ENDS = {"success": 0, "up_to_date": 0, "held": 0, "failed": 1, "rolled_back": 1}
# A run that was killed so often before anything was touched is not begun again by itself.
ATTEMPTS = 3
# Seconds that the hook may take.
HOOK_TIMEOUT = 60.0
# Beside the agent's home, which the canary must not see: <data_dir>/agents/<name>/<prefix>….
SCRATCH = ".hermes-canary-"


@dataclass(frozen=True)
class Settings:
    """``/etc/hermes-ops/update.json``: what the role install knows about the release, and how it is updated.

    :param version: a range: what an update may go to
    :param channel: ``git``: a glob of tags instead
    :param path: ``path``: wheels on the host
    :param hold: why there are no updates for now, but to a version that is named; empty: there are
    :param min_free_mb: MiB that must be free where releases and data lie, beside what the copies need
    :param canary: try the release on a copy of every home first
    :param reply: the agent must answer a chat, on the copy and afterwards
    :param stable_seconds: how long the gateways must stay up until the release counts as good
    :param keep: how many other releases stay
    :param keep_backups: how many archives of each profile stay
    :param build_timeout: seconds for each step of a build
    :param hook: a program and its arguments, called at each end with the facts in its environment
    """

    method: str = "pypi"
    version: str | None = None
    extras: list[str] = field(default_factory=lambda: ["homeassistant"])
    url: str | None = None
    channel: str | None = None
    path: str | None = None
    lock: str = "auto"
    patches: list[str] = field(default_factory=list)
    python: str | None = None
    python_downloads: bool = False
    index_url: str | None = None
    index_username: str | None = None
    index_password: str | None = None
    ca_bundle: str | None = None
    wheels: str | None = None
    hold: str = ""
    min_free_mb: int = 512
    canary: bool = True
    reply: bool = False
    stable_seconds: int = 60
    keep: int = 2
    keep_backups: int = 7
    build_timeout: int = 900
    hook: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if not self.request().is_range:
            raise OpsError(
                "the release is declared exactly, which leaves nothing to update to",
                fix="declare a range (hermes_version: '>=0.18,<0.20'), or with install_method git an install_channel",
            )
        for name, least in (("min_free_mb", 0), ("stable_seconds", 3), ("keep", 1), ("keep_backups", 1)):
            if getattr(self, name) < least:
                raise OpsError(f"{name} is less than {least}", fix=f"declare {least} or more")

    @classmethod
    def like(cls, current: Installed) -> Settings:
        """For a way back on a host where nothing is declared of updates."""
        return cls(version=f">={current.version}", extras=current.stamp["extras"])

    def request(self) -> Request:
        """The release as declared, still a range."""
        return Request(
            method=self.method,
            version=self.version,
            extras=tuple(self.extras),
            url=self.url,
            channel=self.channel,
            path=self.path,
            lock=self.lock,
            patches=tuple(self.patches),
            python=self.python,
            python_downloads=self.python_downloads,
        )

    def index(self) -> Index:
        return Index(
            url=self.index_url,
            username=self.index_username,
            password=self.index_password,
            ca_bundle=self.ca_bundle,
            wheels=self.wheels,
        )


class Interrupted(BaseException):
    """Somebody asked us to stop (SIGTERM): systemctl stop, or a time-out of our unit. Nobody's error, so that nothing
    which looks whether an agent answers takes it for an answer."""


@dataclass
class Journal:
    """What has to be known to finish or undo what was begun.

    :param kind: ``update`` or ``rollback``
    :param began: seconds since 1970
    :param source: id of the release to go back to
    :param target: id of the release to go to
    :param gateways: profiles whose gateways were stopped, and have to run again
    :param before: profile -> causes of the problems that its gateway had before
    :param attempt: how often the run was begun
    :param problem: why it goes back; empty: it does not
    :param failed_step: where that happened
    :param blame: the release is at fault
    """

    kind: str
    began: float
    source: str
    target: str
    step: str = "build"
    gateways: list[str] = field(default_factory=list)
    before: dict[str, list[str]] = field(default_factory=dict)
    attempt: int = 1
    problem: str = ""
    failed_step: str = ""
    blame: bool = False

    @property
    def name(self) -> str:
        """Of all that this run leaves."""
        return f"{self.kind}-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime(self.began))}"


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    :param status: one of :data:`ENDS`
    :param message: for people, one or a few sentences
    :param source: id of the release that was current before
    :param target: id of the release that was wanted
    """

    status: str
    message: str
    began: float
    source: str | None = None
    target: str | None = None
    failed_step: str | None = None

    @property
    def exit_status(self) -> int:
        return ENDS[self.status]


@dataclass(frozen=True)
class Target:
    """A release that can be built.

    :param request: exact
    """

    request: Request

    @property
    def version(self) -> str:
        """As people call it: the version, or the tag."""
        return self.request.ref or self.request.version or ""

    @property
    def id(self) -> str:
        return release.release_id(self.request, self.request.version)

    def is_older_than(self, other: Installed) -> bool:
        """Whether it is an earlier one of the same kind."""
        identity, tags = other.stamp["identity"], self.request.method == "git"
        if (identity["method"] == "git") != tags:
            return False
        if tags:
            return release.tag_key(self.version) < release.tag_key(identity["ref"])
        return version_key(self.version) < version_key(other.version)


# Deciding: values in, values out.


def after_kill(step: str) -> str:
    """What is left to do when *step* was begun and nobody knows how far it came.

    :returns: ``again``: nothing that runs was touched; ``undo``: back to the old release; ``finish``: the new one
        has proved itself
    """
    if step == "prune":
        return "finish"
    return "undo" if STEPS.index(step) >= STEPS.index("stop") else "again"


def data_is_frozen(step: str) -> bool:
    """Whether the frozen copies are complete, and the new release may have run since."""
    return STEPS.index(step) >= STEPS.index("switch")


def to_start(stopped: list[str], units: dict[str, Unit], *, respect: bool) -> list[str]:
    """Which gateways have to run after an undo.

    :param stopped: profiles whose gateways were stopped for the update
    :param units: profile -> its unit as it is now
    :param respect: they have been started again since: one that is inactive was stopped by a person, and stays so,
        for systemd restarts whatever ends by itself
    """
    ours = [name for name in stopped if name in units and not (respect and units[name].active == "inactive")]
    others = [name for name, unit in units.items() if name not in ours and unit.active not in gateway.DEAD]
    return ours + others


def choose(current: Installed, target: Target, failed: dict[str, Any], asked: bool) -> tuple[str, str]:
    """Whether to go from *current* to *target*.

    :param failed: releases that are not tried again by themselves
    :param asked: a person named this very version
    :returns: ``available``, ``up_to_date`` or ``held``, and a sentence
    """
    if target.id == current.id:
        return "up_to_date", f"{target.id} is the newest, and current"
    if target.is_older_than(current):
        return "up_to_date", f"{current.id} is current, and newer than {target.version}, the newest that is offered"
    if target.id in failed and not asked:
        known = failed[target.id]
        return "held", f"{target.id} is not tried again until there is a newer one: {known['reason']} ({known['when']})"
    return "available", f"{target.id} can replace {current.id}"


def narrowed(request: Request, version: str) -> Request:
    """*request*, but of its range only *version*, of its channel only the tag *version*.

    :raises OpsError: that is not within it
    """
    if request.method == "git":
        if request.is_offered(version):
            return dataclasses.replace(request, channel=version)
    elif is_version(version) and satisfies(version, request.version or ""):
        return dataclasses.replace(request, version=version)
    raise OpsError(
        f"{version} is not within {request.channel or request.version}",
        where="--version",
        fix="name one that is, or declare another range",
    )


def choose_rollback(observed: Observed, failed: dict[str, Any], to: str | None) -> Installed:
    """The release to go back to: the one that is named, by id or version, or the one that was used last.

    :raises OpsError: there is none
    """
    there = [r for r in observed.releases if r.intact and r.id != observed.current]
    if to is not None:
        there = [release for release in there if to in (release.id, release.version)]
    else:
        there = [release for release in there if release.id not in failed]
    if not there:
        known = ", ".join(release.id for release in observed.releases if release.id != observed.current) or "none"
        raise OpsError(
            f"there is no release {to} to go back to" if to else "there is no release to go back to",
            fix=f"other releases on this host: {known}; hermes-ops rollback --to ID",
        )
    return max(there, key=lambda release: release.used)


def worse(before: dict[str, list[str]], result: health.Health) -> list[health.Problem]:
    """The problems that a gateway did not have before."""
    return [problem for problem in result.problems if problem.cause not in before.get(result.profile, [])]


# Acting.


class Machine:
    """One run, on one host. Everything it says goes to *say*, a line at a time."""

    def __init__(self, host: Installation, settings: Settings, say: Callable[[str], object]) -> None:
        self.host = host
        self.settings = settings
        self.say = say
        self.directory = os.path.join(host.ops_dir, "update")
        self.journal_path = os.path.join(host.ops_dir, JOURNALS["update"])
        self.guard = Guard(host, "update", needs=host.root)
        self.journal: Journal | None = None
        self.step = "resolve"
        self.attempt = 1
        # Once it is decided where it ends nobody may keep it from that.
        self.committed = False

    # What one can ask for.

    def check(self, version: str | None = None) -> tuple[str, str, Target | None]:
        """What :meth:`update` would do: a status, a sentence, and the release it is about. Changes nothing."""
        if self.settings.hold and version is None:
            return "held", f"updates are held: {self.settings.hold}", None
        return self._resolve(version)

    def update(self, version: str | None = None) -> Outcome:
        """Go to the newest release in the declared range, or to *version* in it.

        :raises OpsError: another update is running
        """
        with self._alone():
            done = self.recover()
            if done is not None:
                return done
            began, attempt = time.time(), self.attempt
            current = gateway.current_release(self.host.root)
            target = None
            try:
                status, message, target = self.check(version)
                if status != "available" or target is None:
                    return self._end(Outcome(status, message, began, current, target.id if target else None))
                self.say(message)
                self.step = "preconditions"
                journal = Journal("update", began, current or "", target.id, attempt=attempt)
                journal.before = self._preconditions(target)
                if attempt > ATTEMPTS:
                    raise OpsError(f"was interrupted {ATTEMPTS} times in a row", fix="see its log")
                heartbeat.report(self.host, "update", "start", message)
            except (OpsError, OSError, Interrupted) as error:
                return self._end(
                    Outcome("failed", str(error), began, current, target.id if target else None, self.step)
                )
            return self._run(journal, lambda: self._prepare_update(journal, target))

    def check_rollback(self, to: str | None = None) -> tuple[str, str, Installed]:
        """What :meth:`rollback` would do: a status, a sentence, and the release it is about. Changes nothing.

        :raises OpsError: there is nothing to go back to
        """
        observed = release.observe(self.host.root)
        current = observed.find(observed.current)
        if current and to in (current.id, current.version):
            return "up_to_date", f"{current.id} is current", current
        target = choose_rollback(observed, self._failed(), to)
        return "available", f"{target.id} can replace {observed.current}", target

    def rollback(self, to: str | None = None, *, data: bool = False) -> Outcome:
        """Go back to the release that was current before, or to *to*, and stay there.

        :param to: id or version of a release on the host
        :param data: also put back what was frozen when that release was left, where it has been migrated since
        :raises OpsError: another update is running, or there is nothing to go back to
        """
        with self._alone():
            done = self.recover()
            if done is not None:
                return done
            began, current = time.time(), gateway.current_release(self.host.root) or ""
            self._refuse_company("restore")
            status, message, target = self.check_rollback(to)
            if status == "up_to_date":
                return self._end(Outcome(status, message, began, current, target.id))
            previous = self._previous(target.id) if data else None
            self.step = "preconditions"
            journal = Journal("rollback", began, current, target.id, step="freeze")
            # One look: what is left may well be what has to be left, and nobody waits for it.
            journal.before = self._health_before(wait=False)
            self.say(f"{current} is left for {target.id}")
            heartbeat.report(self.host, "update", "start", f"rollback to {target.id}")
            return self._run(journal, lambda: None, previous)

    def recover(self, *, boot: bool = False) -> Outcome | None:
        """Finish or undo what was killed; None when there is nothing to do.

        :param boot: only make release and data consistent, the host starts the gateways itself
        """
        value = read_json(self.journal_path)
        if value is None:
            # A run that was killed at its very end may have left its guard.
            self._forget()
            return None
        if not boot:
            self._refuse_company("restore")
        journal = self.journal = Journal(**value)
        self._sweep()
        what = after_kill(journal.step)
        self.say(f"the {journal.kind} to {journal.target} was interrupted at {journal.step}")
        if what == "finish":
            return self._finish(journal)
        if what == "undo":
            if not journal.problem:
                journal.problem, journal.failed_step = "was interrupted", journal.step
            return self._undo(journal, killed=True, boot=boot)
        # Nothing that runs was touched.
        self._discard(journal)
        self._forget()
        if boot:
            journal.failed_step = journal.step
            return self._end(self._outcome("rolled_back", "was interrupted; nothing had been changed", journal))
        # Our caller begins it again.
        self.attempt = journal.attempt + 1
        return None

    # There.

    def _run(self, journal: Journal, prepare: Callable[[], object], previous: str | None = None) -> Outcome:
        """From the first change on: whatever goes wrong leads back."""
        self.journal = journal
        try:
            # In this order: a journal without it would wait for the next night, and keep everybody else from the host.
            self.guard.post()
            self._enter(journal.step)
            prepare()
            self._change(journal, previous)
        except (Exception, KeyboardInterrupt, Interrupted) as error:
            self.committed = True
            if isinstance(error, (OpsError, Interrupted)):
                # A canary's log goes to ours.
                journal.problem, *log = str(error).splitlines()
                for line in log:
                    self.say(line)
            else:
                # A defect of ours: the log shall say where.
                journal.problem = f"{type(error).__name__}: {error}"
                self.say(traceback.format_exc())
            journal.failed_step = journal.step
            journal.blame = isinstance(error, canary.CanaryFailed) or (
                isinstance(error, OpsError) and journal.step in ("start", "verify")
            )
            self.say(f"failed at {journal.step}: {journal.problem}")
            if after_kill(journal.step) == "undo":
                return self._undo(journal)
            self._remember_failed(journal)
            self._sweep()
            self._discard(journal)
            self._forget()
            return self._end(self._outcome("failed", f"{journal.problem}; nothing was changed", journal))
        return self._finish(journal)

    def _prepare_update(self, journal: Journal, target: Target) -> None:
        build.ensure(
            target.request,
            self.settings.index(),
            root=self.host.root,
            current=False,
            keep=_ALL,
            timeout=self.settings.build_timeout,
        )
        # Of a branch, the version is known now.
        built = release.observe(self.host.root).find(journal.target)
        self._refuse_shared_homes(built.version if built else None)
        self._enter("snapshot")
        archives = {profile["name"]: self._snapshot(profile) for profile in self.host.profiles}
        self._enter("canary")
        if self.settings.canary:
            for profile in self.host.profiles:
                if profile["name"] in journal.before:
                    self._canary(journal, profile, archives[profile["name"]])

    def _change(self, journal: Journal, previous: str | None) -> None:
        if journal.step != "freeze":
            self._enter("freeze")
        self._discard(journal)
        self._reserve(journal)
        homes = {profile["name"]: self._frozen(journal, profile) for profile in self.host.profiles}
        for frozen in homes.values():
            frozen.copy_ahead()
        # From here to the end nobody else may switch or remove releases.
        with lock(os.path.join(self.host.root, ".lock"), timeout=self.settings.build_timeout):
            with _in_a_hurry():
                running = self._running()
                journal.gateways = [profile["name"] for profile in running]
                self._enter("stop")
                gateway.stop(self.host.manager_of, running)
                for frozen in homes.values():
                    frozen.complete()
                self._enter("switch")
                if previous:
                    # Used up, whatever comes of it.
                    with contextlib.suppress(FileNotFoundError):
                        os.unlink(os.path.join(self.directory, "previous.json"))
                for profile in self.host.profiles if previous else ():
                    self._put_back(self._frozen(journal, profile, previous), profile["name"])
                build.switch(self.host.root, journal.target)
                self._enter("start")
                self._start(running, journal.target)
            self._enter("verify")
            self._verify(running, journal.target, journal.before)
            self._enter("prune")

    def _finish(self, journal: Journal) -> Outcome:
        """The release is the good one: remember what was left, and clear away what is not needed any more."""
        self.committed = True
        message = f"{journal.target} has replaced {journal.source}"
        try:
            value = {"source": journal.source, "target": journal.target, "run": journal.name}
            self._release_reserve(journal)
            write_json(os.path.join(self.directory, "previous.json"), value)
            failed = self._failed()
            failed.pop(journal.target, None)
            if journal.kind == "rollback":
                failed[journal.source] = _why("was left by hand")
            write_json(self._failed_path, failed)
            for run_name in self._runs_kept():
                if run_name != journal.name:
                    shutil.rmtree(os.path.join(self.directory, "frozen", run_name), ignore_errors=True)
            with lock(os.path.join(self.host.root, ".lock"), timeout=self.settings.build_timeout):
                build.prune(self.host.root, keep=self.settings.keep, first=failed)
        except OpsError as error:
            # The agents run what they should; the next run clears up.
            message += f"; not everything could be cleared away: {error}"
        self._remove_empty(journal)
        if journal.kind == "rollback" and os.path.isdir(self._left(journal)):
            message += f"; what was written since into data that was put back lies in {self._left(journal)}"
        self._forget()
        return self._end(self._outcome("success", message, journal))

    # And back.

    def _undo(self, journal: Journal, *, killed: bool = False, boot: bool = False) -> Outcome:
        """Back to the old release, and to the data as it was where the new one has migrated it.

        :param killed: who was at it before us, perhaps at this very undo, did not live to tell
        :param boot: the host starts the gateways itself
        """
        self.committed = True
        if self._shutting_down():
            # Nothing can be started any more. The next boot goes on from the journal.
            self.say("the host is going down")
            raise SystemExit(128 + signal.SIGTERM)
        step = journal.step
        profiles = {profile["name"]: profile for profile in self.host.profiles}
        units = self._units()
        journal.gateways = to_start(journal.gateways, units, respect=step == "verify" and not killed)
        wanted = [profiles[name] for name in journal.gateways]
        self._release_reserve(journal)
        # The disk may be full all the same. Without this a kill from here on would only start too many of them.
        with contextlib.suppress(OpsError):
            write_json(self.journal_path, dataclasses.asdict(journal))
        troubles: list[str] = []
        with self._release_lock(), _in_a_hurry():
            if not boot:
                alive = [profiles[name] for name, unit in units.items() if unit.active not in gateway.DEAD]
                with _collected(troubles):
                    gateway.stop(self.host.manager_of, alive)
            with _collected(troubles):
                # Nothing was current: then there is nothing to go back to.
                if journal.source and gateway.current_release(self.host.root) != journal.source:
                    build.switch(self.host.root, journal.source)
            if troubles:
                # Which release the gateways would run with which data is not known: leave it to the next run.
                return self._stuck(journal, wanted, troubles, boot)
            back: list[str] = []
            if data_is_frozen(step):
                for profile in profiles.values():
                    with _collected(troubles):
                        back += self._put_back(self._frozen(journal, profile), profile["name"])
            if troubles:
                # The copies are the only ones: a later update must not take them for its own.
                self._keep(journal)
                troubles.append(f"copies from before the switch lie in {self._aside(journal)}")
            else:
                # Before the gateways start: they may need the space.
                self._discard(journal)
            if not boot:
                with _collected(troubles):
                    self._start(wanted, journal.source)
        message = f"{journal.problem}; went back to {journal.source}"
        if back:
            message += (
                f"; {', '.join(back)} as before the switch, what was written since lies in {self._aside(journal)}"
            )
        if boot:
            message += "; the gateways start with the host"
        else:
            with _collected(troubles):
                self._verify(wanted, journal.source, journal.before, briefly=True)
        if troubles:
            message += f"; but {'; '.join(troubles)}"
            return self._done(journal, "failed", message)
        self._remember_failed(journal)
        return self._done(journal, "rolled_back", message)

    def _done(self, journal: Journal, status: str, message: str) -> Outcome:
        self._remove_empty(journal)
        self._forget()
        return self._end(self._outcome(status, message, journal))

    def _stuck(self, journal: Journal, wanted: list[dict[str, Any]], troubles: list[str], boot: bool) -> Outcome:
        """It cannot go back. Whatever can run shall run; the journal stays, so that the next run tries again."""
        if not boot:
            with _collected(troubles):
                self._start(wanted, gateway.current_release(self.host.root))
        message = f"{journal.problem}; and it cannot go back yet: {'; '.join(troubles)}. The next run tries again"
        return self._end(self._outcome("failed", message, journal))

    # Steps.

    def _resolve(self, version: str | None) -> tuple[str, str, Target]:
        root, request = self.host.root, self.settings.request()
        observed = release.observe(root)
        current = observed.find(observed.current)
        if current is None:
            raise OpsError("there is no current release", where=root, fix="converge the host: site.yml")
        if version is not None:
            request = narrowed(request, version)
        target = Target(build.newest(request, self.settings.index(), root=root, timeout=self.settings.build_timeout))
        return *choose(current, target, self._failed(), asked=version is not None), target

    def _refuse_company(self, *jobs: str) -> None:
        for job in jobs:
            if self.host.busy(job):
                raise OpsError(f"a {job} is running", fix="wait for it")
        for job in ("restore", "separate"):
            if self.host.unfinished(job):
                raise OpsError(f"a {job} was interrupted", fix=f"have it undone first: hermes-ops {job} --recover")

    def _refuse_shared_homes(self, version: str | None) -> None:
        for problem in separable.shared_homes(self.host.profiles, version):
            raise OpsError(problem, fix=separable.SEPARATE)

    def _preconditions(self, target: Target) -> dict[str, list[str]]:
        # A rehearsal has a canary as well.
        self._refuse_company("restore", "separate", "rehearsal")
        self._refuse_shared_homes(target.version)
        copies = 3 * sum(self._size(profile) for profile in self.host.profiles)
        for path, more in ((self.host.root, 0), (self.host.ops_dir, copies), (self.host.data_dir, 0)):
            free, wanted = shutil.disk_usage(path).free, self.settings.min_free_mb * 2**20 + more
            if free < wanted:
                raise OpsError(
                    f"has {free // 2**20} MB free, an update wants {wanted // 2**20} MB; nothing was changed",
                    where=path,
                    fix="free space there",
                )
        return self._health_before()

    def _size(self, profile: dict[str, Any]) -> int:
        """Bytes of the databases, of which a backup, a copy for the canary, and a frozen one are made."""
        home = profile["home"]
        with acting_as(self.host.owner_of(profile)):
            return sum(os.stat(os.path.join(home, name)).st_size for name in backup.databases(home))

    def _health_before(self, *, wait: bool = True) -> dict[str, list[str]]:
        """Profile -> causes of its problems, of those whose gateway runs: they must not have more afterwards."""
        running = [self._asked(profile, []) for profile in self._running()]
        if wait:
            results = health.wait(running, self.host.manager_of)
        else:
            units = self._units()
            results = [
                health.check(profile, self.host.owner_of(profile), units[profile["name"]]) for profile in running
            ]
        for result in results:
            if not result.ok:
                self.say(f"before: {result}")
        return {result.profile: [problem.cause for problem in result.problems] for result in results}

    def _snapshot(self, profile: dict[str, Any]) -> str:
        directory = os.path.join(self.directory, "backups")
        path = backup.create(self.host, profile, directory)
        backup.prune(directory, profile["name"], self.settings.keep_backups)
        self.say(f"backup of {profile['name']}: {path}")
        return path

    def _canary(self, journal: Journal, profile: dict[str, Any], archive: str) -> None:
        """Try the release on what comes out of the backup, which proves that one as well."""
        owner = self.host.owner_of(profile)
        with acting_as(owner):
            scratch = tempfile.mkdtemp(prefix=SCRATCH, dir=profile["directory"])
        try:
            backup.extract(archive, scratch, owner)
            canary.lend_env(self.host, profile, scratch)
            copy = canary.prepare(self.host, profile, scratch)
            # Where the agent does not answer now it would prove nothing.
            reply = self._asked(profile, journal.before[profile["name"]])["health"]["reply"]
            answer = canary.boot(
                self.host,
                journal.target,
                copy,
                reply=reply,
                timeout=profile["health"]["timeout"],
                stable=min(canary.STABLE_SECONDS, self.settings.stable_seconds),
            )
            self.say(f"canary of {profile['name']}: {answer['version']} is healthy on a copy")
        finally:
            self._sweep()

    def _start(self, profiles: list[dict[str, Any]], wanted: str | None) -> None:
        records = {profile["name"]: self.host.records(profile["name"]) for profile in profiles}
        gateway.start(self.host.manager_of, profiles, records)
        for manager, members in grouped(profiles, self.host.manager_of):
            units = manager.units(profile["unit"] for profile in members)
            # Somebody, or systemd, was faster than the switch.
            late = [u.name for u in units.values() if u.running and self._runs(u) not in (None, wanted)]
            if late:
                manager.call("restart", *late, timeout=gateway.stop_timeout(members))

    def _verify(
        self, profiles: list[dict[str, Any]], wanted: str, before: dict[str, list[str]], *, briefly: bool = False
    ) -> None:
        """The gateways run *wanted*, are as healthy as before, and stay so.

        A gateway that a person stopped meanwhile says nothing. *briefly*: what has been good may be trusted.

        :raises OpsError: one is worse than before
        """
        began = time.monotonic()
        asked = [self._asked(profile, before.get(profile["name"], [])) for profile in profiles]
        results = health.wait(asked, self.host.manager_of)
        watched = self._judge(profiles, results, before)
        pids, restarts = {}, {}
        for profile, unit in watched:
            if self._runs(unit) not in (None, wanted):
                raise OpsError(f"runs {self._runs(unit)}, not {wanted}", where=f"profile {profile['name']}")
            if not before.get(profile["name"]):
                pids[profile["name"]], restarts[profile["name"]] = unit.pid, unit.restarts
        while not briefly and time.monotonic() - began < self.settings.stable_seconds:
            time.sleep(1.0)
            for name, unit in self._units().items():
                if unit.active == "inactive":
                    pids.pop(name, None)
                elif name in pids and unit.pid != pids[name] and unit.restarts == restarts[name] == 0 and unit.running:
                    # Somebody restarted it; systemd has not.
                    pids[name] = unit.pid
                elif name in pids and unit.pid != pids[name]:
                    raise OpsError(
                        f"did not stay up for {self.settings.stable_seconds} s (last exit status {unit.status})",
                        where=f"profile {name}",
                        fix=f"see its log: {unit.log}",
                    )
        if not briefly and pids:
            # Not only alive, but still well. What was asked for a reply is not asked again.
            again = [{**p, "health": {**p["health"], "reply": False, "webhook": None}} for p, _unit in watched]
            self._judge(profiles, health.wait(again, self.host.manager_of), before)

    def _judge(
        self, profiles: list[dict[str, Any]], results: list[health.Health], before: dict[str, list[str]]
    ) -> list[tuple[dict[str, Any], Unit]]:
        """Those that count, with their units.

        :raises OpsError: one is worse than before
        """
        units = self._units()
        counted = []
        for result in results:
            profile = next(profile for profile in profiles if profile["name"] == result.profile)
            unit = units[result.profile]
            if unit.active == "inactive":
                self.say(f"the gateway of {result.profile} was stopped by somebody meanwhile")
            elif problems := worse(before, result):
                self.say(str(result))
                raise OpsError(problems[0].what, where=f"profile {result.profile}", fix=problems[0].fix)
            else:
                counted.append((profile, unit))
        return counted

    def _asked(self, profile: dict[str, Any], before: list[str]) -> dict[str, Any]:
        """The profile, to be asked for a reply where settings say so and it gave one before."""
        checks = profile["health"]
        reply = (checks["reply"] or (self.settings.reply and profile["api"]["enabled"])) and "no_reply" not in before
        return {**profile, "health": {**checks, "reply": reply}}

    def _runs(self, unit: Unit) -> str | None:
        return gateway.running_release(unit.pid, self.host.root)

    def _units(self) -> dict[str, Unit]:
        """Profile -> unit, of all that are present."""
        units = units_of(self.host.profiles, self.host.manager_of)
        return {profile["name"]: units[profile["unit"]] for profile in self.host.profiles}

    def _running(self) -> list[dict[str, Any]]:
        units = self._units()
        return [profile for profile in self.host.profiles if units[profile["name"]].active not in gateway.DEAD]

    def _shutting_down(self) -> bool:
        return run(["systemctl", "is-system-running"], timeout=30, check=False).stdout.strip() == "stopping"

    @contextlib.contextmanager
    def _release_lock(self) -> Iterator[None]:
        """Against a site.yml that switches at the same time; going back does not wait for its build."""
        with contextlib.ExitStack() as stack:
            with contextlib.suppress(OpsError):
                stack.enter_context(lock(os.path.join(self.host.root, ".lock"), timeout=10.0))
            yield

    # Data.

    def _frozen(self, journal: Journal, profile: dict[str, Any], earlier: str | None = None) -> Frozen:
        """The copies of this run, or those of the *earlier* one."""
        name = profile["name"]
        aside = self._left(journal) if earlier else self._aside(journal)
        directory = os.path.join(self.directory, "frozen", earlier or journal.name)
        return Frozen(
            profile["home"],
            self.host.owner_of(profile),
            os.path.join(directory, name),
            os.path.join(aside, name),
            # Who goes back by hand may do so because a database is damaged.
            strict=journal.kind == "update",
        )

    def _left(self, journal: Journal) -> str:
        """Where the data goes that a rollback leaves for that of an earlier run."""
        return os.path.join(self.host.ops_dir, "set-aside", journal.name)

    def _aside(self, journal: Journal) -> str:
        """Where an undo puts what it takes away."""
        return self._left(journal) + ("-undone" if journal.kind == "rollback" else "")

    def _reserve(self, journal: Journal) -> None:
        path = self._reserve_path(journal)
        ensure_directory(os.path.dirname(path), mode=0o700)
        try:
            with open(path, "wb") as stream:
                os.posix_fallocate(stream.fileno(), 0, RESERVE)
        except OSError as error:
            raise failure("written", path, error) from None

    def _release_reserve(self, journal: Journal) -> None:
        with contextlib.suppress(OSError):
            os.unlink(self._reserve_path(journal))

    def _reserve_path(self, journal: Journal) -> str:
        return os.path.join(self.directory, "frozen", journal.name, ".reserve")

    def _put_back(self, frozen: Frozen, profile: str) -> list[str]:
        return [f"{name} of {profile}" for name in frozen.put_back()]

    def _runs_kept(self) -> list[str]:
        try:
            return sorted(os.listdir(os.path.join(self.directory, "frozen")))
        except FileNotFoundError:
            return []

    def _previous(self, target: str) -> str:
        """The run that left *target*, and froze what was there.

        :raises OpsError: it is not there any more
        """
        value = read_json(os.path.join(self.directory, "previous.json")) or {}
        if value.get("source") != target or value.get("run") not in self._runs_kept():
            raise OpsError(
                f"the data as it was with {target} is not kept any more",
                fix="go back without --data, or restore a backup: hermes-ops restore",
            )
        return value["run"]

    def _keep(self, journal: Journal) -> None:
        """Move the copies to what was set aside, out of the way of a later update."""
        with contextlib.suppress(OSError):
            os.rename(
                os.path.join(self.directory, "frozen", journal.name),
                os.path.join(self._aside(journal), "before-the-switch"),
            )

    def _discard(self, journal: Journal) -> None:
        shutil.rmtree(os.path.join(self.directory, "frozen", journal.name), ignore_errors=True)
        self._remove_empty(journal)

    def _remove_empty(self, journal: Journal) -> None:
        """The directories that were made for what never had to be set aside."""
        for top in (self._aside(journal), self._left(journal)):
            for directory, _names, _files in os.walk(top, topdown=False):
                with contextlib.suppress(OSError):
                    os.rmdir(directory)

    # The journal, and what else is remembered.

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        if self.host.busy("update"):
            raise OpsError("another update is running", fix="wait for it; it says how far it is in the journal")
        # Somebody else may just be looking whether it is held.
        with self.host.lock("update", timeout=2.0):
            yield

    def _enter(self, step: str) -> None:
        """Write down that *step* begins."""
        journal = cast(Journal, self.journal)
        self.say(step)
        ensure_directory(self.directory, mode=0o700)
        write_json(self.journal_path, {**dataclasses.asdict(journal), "step": step})
        journal.step = step

    def _forget(self) -> None:
        """Finished: without a journal there is nothing to recover."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.journal_path)
            sync_directory(self.directory)
        self.guard.lift()

    def _sweep(self) -> None:
        """Away with canaries and their copies, whoever left them."""
        canary.end(Manager("system", Owner.current()))
        for profile in self.host.profiles:
            with acting_as(self.host.owner_of(profile)), contextlib.suppress(OSError):
                for path in glob.glob(os.path.join(glob.escape(profile["directory"]), SCRATCH + "*")):
                    remove_tree(path)

    @property
    def _failed_path(self) -> str:
        return os.path.join(self.directory, "failed.json")

    def _failed(self) -> dict[str, Any]:
        return read_json(self._failed_path) or {}

    def _remember_failed(self, journal: Journal) -> None:
        if not journal.blame:
            return
        with contextlib.suppress(OpsError):
            reason = f"failed at {journal.failed_step}: {journal.problem}"
            write_json(self._failed_path, {**self._failed(), journal.target: _why(reason)})

    # The end.

    def _outcome(self, status: str, message: str, journal: Journal) -> Outcome:
        step = journal.failed_step or None
        return Outcome(status, message, journal.began, journal.source, journal.target, step)

    def _end(self, outcome: Outcome) -> Outcome:
        """Tell everybody how it ended; none of them can change that any more."""
        self.say(f"{outcome.status}: {outcome.message}")
        facts = {"from": outcome.source, "to": outcome.target, "failed_step": outcome.failed_step}
        try:
            self.host.write_status("update", outcome.status, outcome.message, started=outcome.began, **facts)
        except OpsError as error:
            self.say(f"the status cannot be written: {error}")
        heartbeat.report(self.host, "update", "fail" if outcome.exit_status else "success", outcome.message)
        if self.settings.hook:
            self._call_hook(outcome)
        return outcome

    def _call_hook(self, outcome: Outcome) -> None:
        facts = {
            "STATUS": outcome.status,
            "MESSAGE": outcome.message,
            "FROM": outcome.source or "",
            "TO": outcome.target or "",
            "FAILED_STEP": outcome.failed_step or "",
        }
        try:
            env = {f"HERMES_UPDATE_{name}": value for name, value in facts.items()}
            run(self.settings.hook, timeout=HOOK_TIMEOUT, env=env)
        except OpsError as error:
            self.say(f"the hook failed: {error}")


def _why(reason: str) -> dict[str, str]:
    return {"reason": reason, "when": time.strftime("%Y-%m-%d", time.gmtime())}


@contextlib.contextmanager
def _collected(troubles: list[str]) -> Iterator[None]:
    """Going back goes on: what goes wrong on the way is told at the end."""
    try:
        yield
    except (OpsError, OSError) as error:
        troubles.append(str(error))


@contextlib.contextmanager
def _in_a_hurry() -> Iterator[None]:
    """While the agent is away we are not a job in the background, where we may say so."""
    before = os.getpriority(os.PRIO_PROCESS, 0)
    with contextlib.suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, 0, min(before, 0))
    try:
        yield
    finally:
        os.setpriority(os.PRIO_PROCESS, 0, before)
