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
import stat
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from ..host.records import Records
from ..system import yaml_edit
from ..system.errors import OpsError
from ..system.files import Owner, check_trusted, ensure_directory, failure, open_directory
from ..system.plan import Difference
from ..system.text import printable
from ..system.worker import Limits, WorkerDied, work
from . import config, dotenv, env, home, ownership, webhooks
from .part import TEXT, Changed, Maybe, Part, fits

# A file of the largest size, each of whose characters needs an escape, for each part.
LIMITS = Limits(seconds=120, answer=32 * 2**20)
# The parts in the order in which they are made right, each a module with `decide` and `RECORD_FORM`.
_PARTS: dict[str, Any] = {"home": home, "config": config, "env": env, "webhooks": webhooks}
_FILES = {"config": config.FILE_NAME, "env": dotenv.FILE_NAME, "webhooks": webhooks.FILE_NAME}
_MANAGED_MODE, _MANAGED_DIRECTORY_MODE = 0o644, 0o755
# Root's finds reveal others, a directory each; somebody else may write while we do.
_ROUNDS = 50
_ATTEMPTS = 5


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
    """What :func:`converge` did, or in check mode would do.

    :param parts: of those that were declared, by the name of the field of :class:`AgentHome`
    :param notes: what could not be looked at
    """

    parts: dict[str, Part]
    notes: list[str] = field(default_factory=list)

    @property
    def changed(self) -> bool:
        return any(part.differences for part in self.parts.values())

    @property
    def restart(self) -> list[str]:
        """Why the gateway has to be restarted; recorded already."""
        return [reason for part in self.parts.values() for reason in part.restart]


# As root


def converge(path: str, owner: Owner, records: Records, desired: AgentHome, *, check: bool) -> Outcome:
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
    outcome = job.look(check)
    if check or not job.pending(outcome):
        return outcome
    records.prepare()
    with records.lock():
        # Somebody may have written between the first look and the lock.
        outcome = job.look(check)
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
    """:func:`converge` for one home."""

    def __init__(self, path: str, owner: Owner, records: Records, desired: AgentHome) -> None:
        self.path = path
        self.owner = owner
        self.records = records
        self.desired = desired

    def look(self, check: bool) -> Outcome:
        """What differs; what root left in the home is given back on the way, unless *check*."""
        self.remembered = {name: self.records.applied(name) for name in _FILES if self._wanted(name)}
        self.requests, self.managed = self._requests()
        given: list[str] = []
        for _round in range(_ROUNDS):
            answer = self._ask("look", self._seeks)
            found = self._give_back(answer["found"], check)
            given += [each for each in found if each not in given]
            if check or not found:
                break
        parts = {name: self._heard(name, said) for name, said in answer["parts"].items()}
        unknown = [part for part in parts.values() if part.unpredicted]
        if unknown and not check:
            raise OpsError(unknown[0].unpredicted or "", where=unknown[0].path, fix="give it to the agent's user")
        if given:
            parts["home"].differences[:0] = [
                Difference(f"{printable(os.path.join(self.path, each)).rstrip('/')} owner", "0", str(self.owner.uid))
                for each in given
            ]
        for part in self.managed:
            parts["config"].join(part)
        incomplete = answer["found"] is not None and not answer["found"]["complete"]
        notes = [f"{self.path} holds too much to look through all of it for files of root's"] if incomplete else []
        return Outcome(parts, notes)

    def pending(self, outcome: Outcome) -> bool:
        return outcome.changed or any(
            self._record(name, part) != self.remembered[name] for name, part in self._of(outcome)
        )

    def apply(self, outcome: Outcome) -> None:
        """Do what is in *outcome*, remembering before what has to follow, and after what was done."""
        self.records.request_restart(outcome.restart)
        changing = {name: part for name, part in outcome.parts.items() if part.differences}
        for name, part in self._of(outcome):
            if name in changing and part.before is not None:
                self.records.keep_content(_FILES[name], part.before.encode())
        for part in self.managed:
            self._write_managed(part)
        if self.desired.home is not None and not os.path.lexists(self.path):
            _make_home(self.path, self.owner)
        if changing:
            self._apply(outcome)
        for name, part in self._of(outcome):
            self._remember(name, part)

    def _apply(self, outcome: Outcome) -> None:
        for _attempt in range(_ATTEMPTS):
            answer = self._ask("apply", self.records.restart_reasons())
            for name, said in answer["parts"].items():
                part = self._heard(name, said)
                outcome.parts[name].record = part.record
                if name in _FILES:
                    self._remember(name, outcome.parts[name])
            if answer["error"] is not None:
                what, where, fix = answer["error"]
                raise OpsError(what, where=where, fix=fix)
            if not answer["more"]:
                return
            # A file was changed since the look; nothing was written that asks for a restart which is not recorded.
            for name, reasons in answer["more"].items():
                outcome.parts[name].restart += reasons
                self.records.request_restart(reasons)
        raise OpsError("is changed by somebody else all the time", where=self.path, fix="stop who does, and run again")

    @property
    def _seeks(self) -> bool:
        """Whether what root left is looked for."""
        return self.desired.home is not None and os.geteuid() == 0 and self.owner.uid != 0

    def _wanted(self, name: str) -> bool:
        return getattr(self.desired, name) is not None

    def _of(self, outcome: Outcome) -> list[tuple[str, Part]]:
        """The parts of which something is remembered."""
        return [(name, part) for name, part in outcome.parts.items() if name in _FILES]

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
        for name in _PARTS:
            declared = getattr(self.desired, name)
            if declared is not None and name != "config":
                asked[name] = [asdict(declared), self.remembered.get(name, {})]
        if self.desired.config is not None:
            asked["config"], managed = self._config_request(self.desired.config, self.remembered["config"])
        return {name: asked[name] for name in _PARTS if name in asked}, managed

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
        call = (self.owner, f"agent.converge:{what}", self.path)
        where = os.path.join(self.path, _FILES.get(next(iter(self.requests)), "")).rstrip("/")
        try:
            answer = work(*call, self.requests, more, limits=LIMITS, where=where)
        except WorkerDied as died:
            if what == "look":
                for name, request in self.requests.items() if len(self.requests) > 1 else ():
                    file = os.path.join(self.path, _FILES.get(name, "")).rstrip("/")
                    work(*call, {name: request}, more, limits=LIMITS, where=file)
            raise died
        fit = fits(answer, _LOOK if what == "look" else _APPLY) and answer["parts"].keys() <= self.requests.keys()
        if not fit or (what == "look" and len(answer["parts"]) != len(self.requests)):
            raise OpsError("what a look at it answered has no meaning", where=self.path, fix="see what the agent left")
        return answer

    def _heard(self, name: str, said: dict[str, Any]) -> Part:
        return Part.heard(os.path.join(self.path, _FILES.get(name, "")), said, _PARTS[name].RECORD_FORM)

    def _give_back(self, found: dict[str, Any] | None, check: bool) -> list[str]:
        """The paths that are given to the agent's user, or in check mode would be."""
        if found is None or not os.path.lexists(self.path):
            return []
        if not check:
            ownership.check(self.path, self.owner)
        return ownership.give_back(self.path, self.owner, found["paths"], mend=not check)

    # Root's own files

    def _write_managed(self, part: Part) -> None:
        if not part.differences:
            return
        ensure_directory(os.path.dirname(part.path), mode=_MANAGED_DIRECTORY_MODE)
        for step in part.steps:
            step()


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


# As the agent's user

_LOOK = {"parts": {str: dict}, "found": Maybe({"paths": [str], "complete": object})}
_APPLY = {"parts": {str: dict}, "more": {str: [str]}, "error": Maybe((str, TEXT, TEXT))}


def look(path: str, requests: Mapping[str, Any], seeks: bool) -> dict[str, Any]:
    """What differs in the home at *path*.

    :param requests: part -> what is declared of it, and its record
    :param seeks: whether to look for what root left in the home
    :returns: ``parts``, and ``found`` of :func:`ownership.find`
    """
    parts = {name: _look(path, name, *request).said() for name, request in requests.items()}
    skipped = requests["home"][0]["skipped"] if seeks and "home" in requests else ()
    return {"parts": parts, "found": ownership.find(path, skipped) if seeks else None}


def apply(path: str, requests: Mapping[str, Any], requested: list[str]) -> dict[str, Any]:
    """Put right what differs, one part after the other.

    :param requested: why a restart is recorded already. A part that asks for one for another reason is not changed
    :returns: ``parts`` that were put right; ``more``: such reasons, by part; ``error`` that ended it
    """
    done: dict[str, Any] = {}
    more: dict[str, list[str]] = {}
    for name, (declared, record) in requests.items():
        try:
            part, reasons = _apply(path, name, declared, record, requested)
        except OpsError as error:
            return {"parts": done, "more": more, "error": [error.what, error.where, error.fix]}
        if reasons:
            more[name] = reasons
        else:
            done[name] = part.said()
    return {"parts": done, "more": more, "error": None}


def _look(path: str, name: str, declared: Mapping[str, Any], record: Mapping[str, Any]) -> Part:
    file = os.path.join(path, _FILES.get(name, ""))
    # A file of root's is about to be given back, and cannot be read yet.
    files = (path, os.path.join(path, home.SOUL)) if name == "home" else (file,)
    if not all(map(_readable, files)):
        return Part.unpredictable(file, "the agent's user may not read it")
    return _decide(path, name, declared, record)


def _readable(path: str) -> bool:
    """Whether the file or directory *path* may be read, or does not exist."""
    try:
        return os.access(path, os.R_OK | (os.X_OK if stat.S_ISDIR(os.stat(path).st_mode) else 0))
    except PermissionError:
        return False
    except OSError:
        return True


def _decide(path: str, name: str, declared: Mapping[str, Any], record: Mapping[str, Any]) -> Part:
    """:raises OpsError: for whatever the agent's files do to those who read them"""
    file = os.path.join(path, _FILES.get(name, ""))
    try:
        return _PARTS[name].decide(path, declared, record)
    except OSError as error:
        raise failure("read", error.filename or file, error) from None
    except (ArithmeticError, LookupError, MemoryError, RecursionError, TypeError, ValueError) as error:
        raise OpsError(
            f"holds what cannot be used ({type(error).__name__})", where=file, fix="repair it; it was left as it is"
        ) from None


def _apply(
    path: str, name: str, declared: Mapping[str, Any], record: Mapping[str, Any], requested: list[str]
) -> tuple[Part, list[str]]:
    """The part, put right; or left, with the reasons for a restart that have to be recorded before."""
    for _attempt in range(_ATTEMPTS):
        part = _decide(path, name, declared, record)
        if part.unpredicted:
            raise OpsError(part.unpredicted, where=part.path)
        reasons = [reason for reason in part.restart if reason not in requested]
        if reasons:
            return part, reasons
        try:
            for step in part.steps:
                step()
            return part, []
        except Changed:
            continue
        except OSError as error:
            raise failure("written", error.filename or part.path, error) from None
    raise OpsError("is changed by somebody else all the time", where=part.path, fix="stop who does, and run again")
