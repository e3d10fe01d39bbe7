# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""An agent's home made what is declared of it: the one entrance for modules, images and tests.

Root decides what is declared and remembers what was applied. All that touches the home is done by a worker, as the
agent's user::

    root                                     worker
    what is declared, what was applied  ->   look: what differs
    asks for the restart, keeps files
    what is declared, what was applied  ->   apply: decides again, writes
    remembers what was applied          <-   what was applied

A run that is killed anywhere is finished by the next. Without a difference there is one worker, and in check mode too.
"""

from __future__ import annotations

import os
import pwd
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from ..description.agent import Description, Placement
from ..description.schema import PROFILES_DIRECTORY
from ..host.records import Records
from ..system import yaml_edit
from ..system.answer import fits
from ..system.errors import OpsError
from ..system.files import Owner, check_trusted, ensure_directory, open_directory
from ..system.plan import Difference
from ..system.text import printable
from ..system.worker import Limits, WorkerDied, work
from . import config, env, home, ownership, parts
from .part import Changed, Part, fit

# A file of the largest size, each of whose characters needs an escape, for each part.
LIMITS = Limits(seconds=120, answer=32 * 2**20)
_MANAGED_MODE, _MANAGED_DIRECTORY_MODE = 0o644, 0o755
# Root's finds reveal others, a directory each; somebody else may write while we do.
_ROUNDS = 50
parts.ATTEMPTS = 5


# What is declared


@dataclass(frozen=True)
class Home:
    """Directories, modes, owners and the persona; see :func:`home.decide`.

    :param skipped: directories of the home that are not looked through for what root left
    """

    soul: str | None = None
    user: str | None = None
    memory: str | None = None
    skipped: tuple[str, ...] = ()


@dataclass(frozen=True)
class Config:
    """Keys of ``config.yaml``.

    :param managed_dir: root's directory, in whose ``config.yaml`` they stand instead; Hermes lets that one win
    """

    declared: Mapping[str, Any]
    managed_dir: str | None = None


@dataclass(frozen=True)
class Env:
    """Keys of ``.env``; see :func:`env.plan_env`."""

    settings: Mapping[str, str] = field(default_factory=dict)
    secrets: Mapping[str, str] = field(default_factory=dict)
    generate: tuple[str, ...] = ()


@dataclass(frozen=True)
class Webhooks:
    """Webhook subscriptions; see :func:`webhooks.plan_webhooks`."""

    webhooks: tuple[Mapping[str, Any], ...] = ()
    purge: bool = False


@dataclass(frozen=True)
class AgentHome:
    """What is declared of an agent's home. A part that is None is left alone."""

    home: Home | None = None
    config: Config | None = None
    env: Env | None = None
    webhooks: Webhooks | None = None


@dataclass
class Outcome:
    """What :func:`converge_home` did, or in check mode would do.

    :param parts: of those that were declared, by the name of the field of :class:`AgentHome`
    :param notes: what could not be looked at
    :param given: whether there is something of root's that the agent's user gets
    """

    parts: dict[str, Part]
    notes: list[str] = field(default_factory=list)
    given: bool = False

    @property
    def changed(self) -> bool:
        return any(part.differences for part in self.parts.values())

    @property
    def restart(self) -> list[str]:
        """Why the gateway has to be restarted; recorded already."""
        return [reason for part in self.parts.values() for reason in part.restart]


# As root


def converge(description: Description, placement: Placement, owner: Owner, records: Records, *, check: bool) -> Outcome:
    """Make the home of an agent what is declared; see :func:`converge_home`."""
    return converge_home(placement.home, owner, records, desired(description, placement), check=check)


def desired(description: Description, placement: Placement) -> AgentHome:
    """What *description* makes of a home at *placement*."""
    settings = {name: env.as_text(value) for name, value in description.settings.items()}
    return AgentHome(
        # Of Hermes' profiles in an adopted home each may be another agent's.
        home=Home(description.soul, description.user_profile, description.memory, (PROFILES_DIRECTORY,)),
        config=Config(description.config, placement.managed),
        env=Env(settings, description.secrets, description.generate),
        webhooks=Webhooks(description.webhooks, description.webhooks_purge),
    )


def converge_home(path: str, owner: Owner, records: Records, desired: AgentHome, *, check: bool) -> Outcome:
    """Make the home at *path* what is declared.

    :param owner: the agent's user; in check mode :func:`reader` may stand in for one that does not exist yet
    :raises OpsError: names the file; nothing is changed where a part of it cannot be made right
    :raises WorkerDied: what the agent left cannot even be looked at; names the file
    """
    if desired.home is not None:
        home.check_declared(asdict(desired.home))
    if desired.config is not None and not check:
        yaml_edit.require()
    job = _Job(path, owner, records, desired)
    outcome = job.look()
    if check or not job.pending(outcome):
        return outcome
    records.prepare()
    with records.lock():
        if job.is_stale(outcome):
            outcome = job.look(mend=True)
        job.apply(outcome)
    return outcome


def reader(path: str) -> Owner:
    """Who may look at the home at *path* while its own user does not exist yet: whom it belongs to, but never root."""
    try:
        status = os.lstat(path)
        if status.st_uid:
            return Owner(str(status.st_uid), status.st_uid, status.st_gid, path)
    except OSError:
        pass
    try:
        nobody = pwd.getpwnam("nobody")
    except KeyError:
        return Owner("nobody", 65534, 65534, "/")
    return Owner("nobody", nobody.pw_uid, nobody.pw_gid, "/")


class _Job:
    """:func:`converge_home` for one home."""

    def __init__(self, path: str, owner: Owner, records: Records, desired: AgentHome) -> None:
        self.path = path
        self.owner = owner
        self.records = records
        self.desired = desired

    def look(self, *, mend: bool = False) -> Outcome:
        """What differs.

        :param mend: give back what root left in the home, so that all of it can be looked at
        :raises OpsError: then, where something can still not be read
        """
        self.remembered = self._applied()
        self.requests, self.managed = self._requests()
        given: list[str] = []
        for _round in range(_ROUNDS):
            answer = self._ask("look", self._seeks)
            found = self._give_back(answer["found"], mend)
            given += [each for each in found if each not in given]
            if not mend or not found:
                break
        heard = {name: self._heard(name, said) for name, said in answer["parts"].items()}
        unknown = [part for part in heard.values() if part.unpredicted]
        if unknown and mend:
            raise OpsError(unknown[0].unpredicted or "", where=unknown[0].path, fix="give it to the agent's user")
        for each in reversed(given):
            what = f"{printable(os.path.join(self.path, each)).rstrip('/')} owner"
            heard["home"].differences.insert(0, Difference(what, "0", str(self.owner.uid)))
        for part in self.managed:
            heard["config"].join(part)
        incomplete = answer["found"] is not None and not answer["found"]["complete"]
        notes = [f"{self.path} holds too much to look through all of it for files of root's"] if incomplete else []
        return Outcome(heard, notes, bool(given))

    def pending(self, outcome: Outcome) -> bool:
        return outcome.changed or any(
            self._record(name, part) != self.remembered[name] for name, part in self._of(outcome)
        )

    def is_stale(self, outcome: Outcome) -> bool:
        """Whether *outcome*, from before the lock, may not be all there is, or is no longer true.

        What others write into the home meanwhile, the worker finds itself.
        """
        unknown = any(part.unpredicted for part in outcome.parts.values())
        return outcome.given or unknown or bool(self.managed) or self._applied() != self.remembered

    def apply(self, outcome: Outcome) -> None:
        """Do what is in *outcome*, remembering before what has to follow, and after what was done."""
        self.records.request_restart(outcome.restart)
        changing = {name: part for name, part in outcome.parts.items() if part.differences}
        for name, part in self._of(outcome):
            if name in changing and part.before is not None:
                self.records.keep_content(parts.FILES[name], part.before.encode())
        for part in self.managed:
            self._write_managed(part)
        if self.desired.home is not None and not os.path.lexists(self.path):
            _make_home(self.path, self.owner)
        if changing:
            self._apply(outcome)
        for name, part in self._of(outcome):
            self._remember(name, part)

    def _apply(self, outcome: Outcome) -> None:
        for _attempt in range(parts.ATTEMPTS):
            answer = self._ask("apply", self.records.restart_reasons())
            for name, said in answer["parts"].items():
                part = self._heard(name, said)
                outcome.parts[name].record = part.record
                if name in parts.FILES:
                    self._remember(name, outcome.parts[name])
            if answer["error"] is not None:
                what, where, fix = fit(answer["error"])
                raise OpsError(what, where=where, fix=fix)
            if not answer["more"]:
                return
            # A file was changed since the look; nothing was written that asks for a restart which is not recorded.
            for name, reasons in fit(answer["more"]).items():
                outcome.parts[name].restart += reasons
                self.records.request_restart(reasons)
        raise OpsError("is changed by somebody else all the time", where=self.path, fix="stop who does, and run again")

    @property
    def _seeks(self) -> bool:
        """Whether what root left is looked for."""
        return self.desired.home is not None and os.geteuid() == 0 and self.owner.uid != 0

    def _applied(self) -> dict[str, dict[str, Any]]:
        return {name: self.records.applied(name) for name in parts.FILES if getattr(self.desired, name) is not None}

    def _of(self, outcome: Outcome) -> list[tuple[str, Part]]:
        """The parts of which something is remembered."""
        return [(name, part) for name, part in outcome.parts.items() if name in parts.FILES]

    def _record(self, name: str, part: Part) -> dict[str, Any]:
        """What is to be remembered of a part."""
        if name != "config" or self.desired.config is None:
            return part.record
        file = self.managed[-1] if self.desired.config.managed_dir else part
        if file.unpredicted:
            return self.remembered[name]
        return {**_scope(self.desired.config), **file.record} if file.record["keys"] else {}

    def _remember(self, name: str, part: Part) -> None:
        record = self._record(name, part)
        if record != self.remembered[name]:
            self.records.write_applied(name, record)
            self.remembered[name] = record

    # What the worker is asked

    def _requests(self) -> tuple[dict[str, Any], list[Part]]:
        """By part what the worker is asked, as declaration and record; and what differs in managed scopes."""
        asked: dict[str, Any] = {}
        managed: list[Part] = []
        for name in parts.PARTS:
            declared = getattr(self.desired, name)
            if declared is not None and name != "config":
                asked[name] = [asdict(declared), self.remembered.get(name, {})]
        if self.desired.config is not None:
            asked["config"], managed = self._config_request(self.desired.config, self.remembered["config"])
        return {name: asked[name] for name in parts.PARTS if name in asked}, managed

    def _config_request(self, declared: Config, record: dict[str, Any]) -> tuple[list[Any], list[Part]]:
        """Where the scope has changed since the last time, our keys leave the other file."""
        scope = _scope(declared)
        moved = bool(record) and {name: record.get(name) for name in scope} != scope
        managed = []
        if moved and record["scope"] == "managed":
            managed.append(_managed(record["managed_dir"], {}, record))
        if declared.managed_dir is None:
            return [{"keys": declared.declared, "beside": False}, {} if moved else record], managed
        managed.append(_managed(declared.managed_dir, declared.declared, {} if moved else record))
        left = record if moved and record["scope"] == "home" else {}
        return [{"keys": {}, "beside": True}, left], managed

    def _ask(self, what: str, more: Any) -> dict[str, Any]:
        """Have a worker do *what*; where it dies, find out over which file.

        :raises OpsError: what came back has no meaning
        """
        call = (self.owner, f"agent.parts:{what}", self.path)
        where = parts.place(self.path, next(iter(self.requests)))
        try:
            answer = work(*call, self.requests, more, limits=LIMITS, where=where)
        except WorkerDied as died:
            if what == "look":
                for name, request in self.requests.items() if len(self.requests) > 1 else ():
                    file = parts.place(self.path, name)
                    work(*call, {name: request}, more, limits=LIMITS, where=file)
            raise died
        asked = self.requests.keys()
        if what == "look":
            right = fits(answer, parts.LOOK_FORM) and answer["parts"].keys() == asked
        else:
            right = fits(answer, parts.APPLY_FORM) and answer["parts"].keys() | answer["more"].keys() <= asked
        if not right:
            raise OpsError("what a look at it answered has no meaning", where=self.path, fix="see what the agent left")
        return answer

    def _heard(self, name: str, said: dict[str, Any]) -> Part:
        return Part.heard(parts.place(self.path, name), said, parts.PARTS[name].RECORD_FORM)

    def _give_back(self, found: dict[str, Any] | None, mend: bool) -> list[str]:
        """The paths that are given to the agent's user, or without *mend* would be."""
        if found is None or not os.path.lexists(self.path):
            return []
        ownership.check(self.path, self.owner)
        return ownership.give_back(self.path, self.owner, found["paths"], mend=mend)

    # Root's own files

    def _write_managed(self, part: Part) -> None:
        if not part.differences:
            return
        ensure_directory(os.path.dirname(part.path), mode=_MANAGED_DIRECTORY_MODE)
        try:
            for step in part.steps:
                step()
        except Changed:
            raise OpsError("was changed by somebody else", where=part.path, fix="run again") from None


def _scope(declared: Config) -> dict[str, Any]:
    return {"scope": "home" if declared.managed_dir is None else "managed", "managed_dir": declared.managed_dir}


def _managed(directory: str, keys: Mapping[str, Any], record: Mapping[str, Any]) -> Part:
    """What differs in a managed scope. The agent reads it and cannot change it (hermes_cli/managed_scope.py, 0.18)."""
    check_trusted(directory, "declare a place of root's as managed_dir")
    path = os.path.join(directory, config.FILE_NAME)
    return config.decide_file(path, keys, record, mode=_MANAGED_MODE, prefix="managed: ")


def _make_home(path: str, owner: Owner) -> None:
    """Make the directory *path*, where that takes root; the agent makes what lies in a place of its own."""
    missing: list[str] = []
    parent = path
    while not os.path.lexists(parent):
        parent, name = os.path.split(parent)
        missing.insert(0, name)
    descriptor = open_directory(parent)
    try:
        if os.geteuid() != 0 or os.fstat(descriptor).st_uid != 0:
            return
        for name in missing:
            os.mkdir(name, home.HOME_MODE, dir_fd=descriptor)
            below = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=descriptor)
            os.close(descriptor)
            descriptor = below
            if name is not missing[-1]:
                os.fchmod(descriptor, 0o755)
        os.fchown(descriptor, owner.uid, owner.gid)
    finally:
        os.close(descriptor)
