# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Converges an agent's home to its declaration: the one entry point for modules, images and tests.

Root holds the declaration and the records of what was applied. A worker does everything that touches the home, as the
agent's user::

    root                                          worker
    sends the declaration and the records    ->   look: finds the differences
    records the restart, keeps old contents
    sends the declaration and the records    ->   apply: decides again, writes
    records what was applied                 <-   reports what was applied

If a run is killed, the next run finishes its work. Without differences, and in check mode, one worker runs only once.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from ..description.agent import Description, Placement, Server
from ..description.declaration import BASE_CONFIG, GROWTH_LIMITS, merge
from ..description.schema import PROFILES_DIRECTORY
from ..host.records import Records
from ..system import yaml_edit
from ..system.answer import fits
from ..system.errors import OpsError
from ..system.files import Account, check_trusted, ensure_directory, open_directory
from ..system.plan import Difference
from ..system.text import printable
from ..system.worker import Limits, WorkerDied, work
from . import config, env, home, ownership, parts
from .part import Changed, Part, fit

# The answer holds, for each part, a file of the largest size in which every character needs an escape.
LIMITS = Limits(seconds=120, answer=32 * 2**20)
_MANAGED_MODE, _MANAGED_DIRECTORY_MODE = 0o644, 0o755


# The declaration


@dataclass(frozen=True)
class Home:
    """Directories, modes, owners and the persona; see :func:`home.decide`.

    :param skipped: directories of the home that are not searched for files of root
    """

    soul: str | None = None
    user: str | None = None
    memory: str | None = None
    skipped: tuple[str, ...] = ()


@dataclass(frozen=True)
class Config:
    """Keys of ``config.yaml``.

    :param managed_dir: a directory of root whose ``config.yaml`` holds the keys instead; in Hermes that file wins
    """

    declared: Mapping[str, Any]
    managed_dir: str | None = None


@dataclass(frozen=True)
class Env:
    """Keys of ``.env``; see :func:`env.plan_env`.

    :param elsewhere: variables that the gateway gets from a source of secrets, and that must not be in the file
    """

    settings: Mapping[str, str] = field(default_factory=dict)
    secrets: Mapping[str, str] = field(default_factory=dict)
    generate: tuple[str, ...] = ()
    elsewhere: tuple[str, ...] = ()


@dataclass(frozen=True)
class Webhooks:
    """Webhook subscriptions; see :func:`webhooks.plan_webhooks`."""

    webhooks: tuple[Mapping[str, Any], ...] = ()
    purge: bool = False


@dataclass(frozen=True)
class AgentHome:
    """The declaration of an agent's home. A part that is None is left alone."""

    home: Home | None = None
    config: Config | None = None
    env: Env | None = None
    webhooks: Webhooks | None = None


@dataclass
class Outcome:
    """The changes that :func:`converge_home` made, or would make in check mode.

    :param parts: the declared parts, by the name of their field in :class:`AgentHome`
    :param notes: what was not examined, as sentences
    :param given: whether files of root are given to the agent's user
    """

    parts: dict[str, Part]
    notes: list[str] = field(default_factory=list)
    given: bool = False

    @property
    def changed(self) -> bool:
        return any(part.differences for part in self.parts.values())

    @property
    def restart(self) -> list[str]:
        """Why the gateway must be restarted; these reasons are recorded."""
        return [reason for part in self.parts.values() for reason in part.restart]

    def entries(self, kind: str) -> Iterator[dict[str, Any]]:
        """The entries of the lists *kind* of all parts that are files: with values for config.yaml, else names only.

        :param kind: ``drift``, ``migrated``, ``left`` or ``generated``
        """
        for name, file in parts.FILES.items():
            for entry in getattr(self.parts[name], kind) if name in self.parts else ():
                yield {"file": file, **(entry if isinstance(entry, dict) else {"key": entry})}


# As root


def converge(
    description: Description,
    placement: Placement,
    account: Account,
    records: Records,
    *,
    check: bool,
    elsewhere: Sequence[str] = (),
) -> Outcome:
    """Converge the home of an agent; see :func:`converge_home`.

    :param elsewhere: variables that its gateway gets from a source of secrets
    """
    wanted = desired(description, placement, limited=not records.adopted(placement), elsewhere=elsewhere)
    return converge_home(placement.home, account, records, wanted, check=check)


def desired(
    description: Description, placement: Placement, *, limited: bool = True, elsewhere: Sequence[str] = ()
) -> AgentHome:
    """The declaration of the home at *placement* that follows from *description*.

    The addresses of the agent's servers come from *placement*, everything else from *description*.

    :param limited: whether growth limits that *description* does not name apply
    :param elsewhere: see :func:`converge`
    """
    return AgentHome(
        # In an adopted home, Hermes' profiles may be the homes of other agents.
        home=Home(description.soul, description.user_profile, description.memory, (PROFILES_DIRECTORY,)),
        config=Config(_config(description, placement.webhook, limited), placement.managed),
        env=_env(description, placement.api, tuple(elsewhere)),
        webhooks=Webhooks(description.webhooks, description.webhooks_purge),
    )


def _config(description: Description, webhook: Server, limited: bool) -> dict[str, Any]:
    """The keys of ``config.yaml``: those of *description*, and below them the drain time, the growth limits, and the
    address of the server that takes webhooks."""
    declared = description.config
    server = {"enabled": True, "extra": {"host": webhook.host, "port": webhook.port}}
    # A new file gets its keys in this order: those of every agent, the limits, the server's, the declared ones.
    common = {key: value for key, value in declared.items() if key in BASE_CONFIG}
    common["agent"] = {"restart_drain_timeout": description.drain}
    ours = merge(common, GROWTH_LIMITS) if limited else common
    return merge({**ours, **({"platforms": {"webhook": server}} if webhook.enabled else {})}, declared)


def _env(description: Description, api: Server, elsewhere: tuple[str, ...]) -> Env:
    """The variables of ``.env``: those of *description*, and those that open the API server.

    The API server needs a key. Without one that is declared or comes from a source, the host generates it.
    """
    settings = {**description.settings, "API_SERVER_ENABLED": api.enabled}
    if api.enabled:
        settings.update(API_SERVER_HOST=api.host, API_SERVER_PORT=api.port)
    texts = {name: env.as_text(value) for name, value in settings.items()}
    own_key = api.enabled and "API_SERVER_KEY" not in (*description.secrets, *elsewhere)
    return Env(texts, description.secrets, ("API_SERVER_KEY",) if own_key else (), elsewhere)


def converge_home(path: str, account: Account, records: Records, desired: AgentHome, *, check: bool) -> Outcome:
    """Converge the home at *path* to *desired*.

    :param account: the agent's user; in check mode another one may stand in for it while it does not exist
    :raises OpsError: names the file; if the look finds a part that cannot be corrected, nothing is changed
    :raises WorkerDied: the worker died while reading the home; names the file
    """
    if desired.home is not None:
        home.check_declared(asdict(desired.home))
    if desired.config is not None and not check:
        yaml_edit.require()
    job = _Job(path, account, records, desired)
    outcome = job.look()
    if check or not job.pending(outcome):
        return outcome
    records.prepare()
    with records.lock():
        if job.is_stale(outcome):
            outcome = job.look(mend=True)
        job.apply(outcome)
    return outcome


class _Job:
    """:func:`converge_home` for one home."""

    def __init__(self, path: str, account: Account, records: Records, desired: AgentHome) -> None:
        self.path = path
        self.account = account
        self.records = records
        self.desired = desired

    def look(self, *, mend: bool = False) -> Outcome:
        """Compare the home with the declaration.

        :param mend: give files of root in the home to the agent's user, so that the worker can read everything
        :raises OpsError: with *mend*, if something still cannot be read
        """
        self.remembered = self._applied()
        self.requests, self.managed = self._requests()
        given: list[str] = []
        for _round in range(ownership.ROUNDS):
            answer = self._ask("look", self._seeks)
            found = self._give_back(answer["found"], mend)
            given += [each for each in found if each not in given]
            if not mend or not found:
                break
        heard = {name: self._heard(name, said) for name, said in answer["parts"].items()}
        unknown = [part for part in heard.values() if part.unpredicted]
        if unknown and mend:
            # Not "give it to the agent's user": chown(1) follows the link that an agent puts in the place of a file.
            fix = (
                f"give it to the agent's user: chown --no-dereference {self.account.name}; or replace the symbolic link"
            )
            raise OpsError(unknown[0].unpredicted or "", where=unknown[0].path, fix=fix)
        for each in reversed(given):
            what = f"{printable(os.path.join(self.path, each)).rstrip('/')} owner"
            heard["home"].differences.insert(0, Difference(what, "0", str(self.account.uid)))
        for part in self.managed:
            heard["config"].join(part)
        incomplete = answer["found"] is not None and not answer["found"]["complete"]
        notes = [f"{self.path} holds too many files to search all of it for files of root"] if incomplete else []
        return Outcome(heard, notes, bool(given))

    def pending(self, outcome: Outcome) -> bool:
        return outcome.changed or any(
            self._record(name, part) != self.remembered[name] for name, part in self._of(outcome)
        )

    def is_stale(self, outcome: Outcome) -> bool:
        """Whether *outcome*, which was decided before the lock was taken, may be incomplete or outdated.

        Changes in the home do not count: the worker decides again when it applies.
        """
        unknown = any(part.unpredicted for part in outcome.parts.values())
        return outcome.given or unknown or bool(self.managed) or self._applied() != self.remembered

    def apply(self, outcome: Outcome) -> None:
        """Apply *outcome*. The needed restart is recorded before the changes, and what was applied after them."""
        self.records.request_restart(outcome.restart)
        changing = {name: part for name, part in outcome.parts.items() if part.differences}
        for name, part in self._of(outcome):
            if name in changing and part.before is not None:
                self.records.keep_content(parts.FILES[name], part.before.encode())
        for part in self.managed:
            self._write_managed(part)
        if self.desired.home is not None and not os.path.lexists(self.path):
            _make_home(self.path, self.account)
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
            # A file changed after the look. Parts that now need a restart for a new reason were not written yet.
            for name, reasons in fit(answer["more"]).items():
                outcome.parts[name].restart += reasons
                self.records.request_restart(reasons)
        raise OpsError("is being changed by another process", where=self.path, fix="stop that process, and run again")

    @property
    def _seeks(self) -> bool:
        """Whether the home is searched for files of root."""
        return self.desired.home is not None and os.geteuid() == 0 and self.account.uid != 0

    def _applied(self) -> dict[str, dict[str, Any]]:
        return {name: self.records.applied(name) for name in parts.FILES if getattr(self.desired, name) is not None}

    def _of(self, outcome: Outcome) -> list[tuple[str, Part]]:
        """The parts that have a record."""
        return [(name, part) for name, part in outcome.parts.items() if name in parts.FILES]

    def _record(self, name: str, part: Part) -> dict[str, Any]:
        """The record to keep for a part."""
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

    # Requests to the worker

    def _requests(self) -> tuple[dict[str, Any], list[Part]]:
        """The declaration and record that the worker gets for each part, and the differences in managed scopes."""
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
        """The request for ``config.yaml``, and the differences in managed scopes.

        When the scope changed since the last run, our keys are removed from the file of the other scope.
        """
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
        """Have a worker do *what*. If the worker dies while it looks, find the file that killed it.

        :raises OpsError: the answer is malformed
        """
        call = (self.account, f"agent.parts:{what}", self.path)
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
            raise OpsError(
                "the worker that read it gave a malformed answer", where=self.path, fix="see what the agent left there"
            )
        return answer

    def _heard(self, name: str, said: dict[str, Any]) -> Part:
        return Part.heard(parts.place(self.path, name), said, parts.PARTS[name].RECORD_FORM)

    def _give_back(self, found: dict[str, Any] | None, mend: bool) -> list[str]:
        """The paths that are given to the agent's user; without *mend*, those that would be."""
        if found is None or not os.path.lexists(self.path):
            return []
        ownership.check(self.path, self.account)
        return ownership.give_back(self.path, self.account, found["paths"], mend=mend)

    # Files of root

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
    """The differences in a managed scope, which the agent can read but not write.

    Fact from hermes_cli/managed_scope.py, 0.18.
    """
    check_trusted(directory, "declare a directory that belongs to root as managed_dir")
    path = os.path.join(directory, config.FILE_NAME)
    return config.decide_file(path, keys, record, mode=_MANAGED_MODE, prefix="managed: ")


def _make_home(path: str, account: Account) -> None:
    """Create the directory *path* if its nearest existing parent belongs to root; else the worker creates it."""
    if os.geteuid() != 0:
        return
    missing: list[str] = []
    parent = path
    while not os.path.lexists(parent):
        parent, name = os.path.split(parent)
        missing.insert(0, name)
    descriptor = open_directory(parent)
    try:
        if os.fstat(descriptor).st_uid != 0:
            return
        for name in missing:
            os.mkdir(name, home.HOME_MODE, dir_fd=descriptor)
            below = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=descriptor)
            os.close(descriptor)
            descriptor = below
            if name is not missing[-1]:
                os.fchmod(descriptor, 0o755)
        os.fchown(descriptor, account.uid, account.gid)
    finally:
        os.close(descriptor)
