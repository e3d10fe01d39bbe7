# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Backups off the host: an encrypted repository of restic (https://restic.net), on any back end that restic supports.

Each snapshot is one file, the tar stream of :mod:`tarstream`. It has the tag ``hermes-unfinished`` until it is
complete, because restic takes the end of a pipe for the end of the file, even when our process was killed.

The password is passed by a descriptor, the keys of a back end only in the environment of restic, which runs as root.
Neither is ever in a process list.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import json
import os
import re
import secrets
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, BinaryIO, cast

from ..host.installation import Installation
from ..system.errors import OpsError
from ..system.files import read_json, write_json
from ..system.plan import HIDDEN, Difference, Plan
from ..system.process import Completed, last_line, run
from . import archives, settings
from .extracting import Manifest
from .retention import superfluous

TAG = "hermes"
_UNFINISHED = "hermes-unfinished"
# Exit statuses of restic since 0.17; older ones (0.14, Debian 12) differ only in their messages.
_NO_REPOSITORY, _LOCK_FAILED, _WRONG_PASSWORD = 10, 11, 12
CACHE = "/var/cache/hermes-ops/restic"
# Seconds for a command that moves no data. A command that moves data is limited by its job.
TIMEOUT = 600.0
# Seconds that restic gets to exit after its output was refused, so that its own error is known.
_LAST_WORDS = 5.0
# Seconds to wait for a lock of another host or job on the repository, and between two attempts.
_LOCKED, _PAUSE = 30.0, 3.0
# Seconds between two checks of the whole repository, which remove unused data as well.
CHECK_EVERY = 7 * 24 * 3600.0


def plan_password(before: Any, wanted: settings.Settings) -> Plan:
    """Plan that the password of *wanted* opens the repository, if it differs from the one used until now.

    :param before: the settings as they were written last; anything, if there are none
    """
    plan = Plan()
    if isinstance(before, dict) and before.get("restic_repository") == wanted.restic_repository != "":
        old = before.get("restic_password")
        if isinstance(old, str) and old not in ("", wanted.restic_password):
            plan.add(
                Difference("password of the restic repository", HIDDEN, HIDDEN),
                lambda: Repository(Installation.load().ops_dir, wanted).change_password(old),
            )
    return plan


@dataclass(frozen=True)
class Snapshot:
    """A complete copy of a home in the repository. ``created``: seconds since 1970."""

    id: str
    agent: str
    host: str
    created: float


class Running:
    """A running restic, with a pipe to or from it.

    :param failed: makes an error from its messages
    """

    def __init__(self, process: subprocess.Popen[bytes], failed: Callable[[], OpsError]) -> None:
        self.process = process
        self.failed = failed

    @property
    def stdin(self) -> BinaryIO:
        return cast(BinaryIO, self.process.stdin)

    @property
    def stdout(self) -> BinaryIO:
        return cast(BinaryIO, self.process.stdout)

    def finish(self) -> None:
        """Close its input and wait for its end.

        :raises OpsError: it failed
        """
        if self.process.stdin:
            with contextlib.suppress(BrokenPipeError):
                self.process.stdin.close()
        if self.process.wait():
            raise self.failed()


class Repository:
    """The repository of a host.

    ::

        <ops_dir>/restic.json    which repository was used before, when it was last checked, and whether its password is
                             being changed

    :param settings: with a ``restic_repository``
    :param origin: the host of its own snapshots; empty: this one
    :param cache: a directory of restic's; empty: :data:`CACHE`
    """

    def __init__(self, ops_dir: str, settings: settings.Settings, *, origin: str = "", cache: str = "") -> None:
        self.settings = settings
        self.origin = origin or socket.gethostname()
        self.memory_path = os.path.join(ops_dir, "restic.json")
        self.env = {
            **settings.restic_environment,
            "RESTIC_REPOSITORY": settings.restic_repository,
            "RESTIC_CACHE_DIR": cache or CACHE,
        }

    def exists(self) -> bool:
        """Whether there is a repository. False only before the first backup.

        :raises OpsError: a repository that was used before is gone, or cannot be opened (e.g. a wrong password)
        """
        done = self._open()
        if not done.ok and (self._known() or not self._is_missing(done)):
            raise self._failed(done)
        return done.ok

    def prepare(self) -> None:
        """Create the repository if there is none, and remove stale locks.

        restic takes a lock for stale when its process is dead or it is half an hour old; a live process renews its own.
        """
        if not self.exists():
            self._run("init")
        self._remember(repository=self._fingerprint)
        self._run("unlock")

    def change_password(self, old: str) -> None:
        """Replace the keys of the password *old* by one of the declared password, with ``restic key``.

        ``restic key passwd`` (0.14, 0.18) adds the new key, sees that it opens the repository, and only then removes
        the one that it was opened with. So one of the two passwords opens it whenever this is killed, and the next call
        finishes it. A key that somebody else has added for the declared password is used, and then those of *old* stay:
        they may be in use elsewhere.

        :raises OpsError: neither password opens the repository, it cannot be reached, or it stays locked
        """
        begun = self._memory().get("password_change") == self._fingerprint
        if self._opens() and not begun:
            return
        former = Repository(os.path.dirname(self.memory_path), replace(self.settings, restic_password=old))
        if former._opens():
            self._remember(password_change=self._fingerprint)
            self._replace_keys(former)
        elif not self._opens():
            raise OpsError(
                "neither the declared password nor the one before opens the repository",
                where="restic",
                fix="correct backup_restic_password",
            )
        self._remember(password_change="")

    def _replace_keys(self, former: Repository) -> None:
        def over() -> bool:
            # Another host that shares the repository may change it at the same time.
            return self._opens() and not former._opens()

        if not self._opens():
            with self._password() as (descriptor, _env):
                words = ("key", "passwd", "--new-password-file", f"/proc/self/fd/{descriptor}")
                former._insist(over, *words, descriptors=[descriptor])
        # Each of them: a change that was killed leaves two keys of one password.
        while former._opens():
            listed = former._insist(over, "key", "list", "--json")
            if listed.ok:
                current = next(key["id"] for key in json.loads(listed.stdout) if key["current"])
                self._insist(over, "key", "remove", current)

    def _insist(self, over: Callable[[], bool], *arguments: str, descriptors: Sequence[int] = ()) -> Completed:
        """Run restic until it gets the lock, or until *over*.

        :returns: how it ended, not always well if it is over
        :raises OpsError: it failed, or did not get the lock in time
        """
        deadline = time.monotonic() + _LOCKED
        while True:
            # Each time: who holds the lock may be killed meanwhile, and the dead look alive until they are waited for.
            self._run("unlock", check=False)
            done = self._run(*arguments, check=False, descriptors=descriptors)
            if done.ok or over():
                return done
            if not _is_locked(done) or time.monotonic() > deadline:
                raise self._failed(done)
            time.sleep(_PAUSE)

    def _opens(self) -> bool:
        """Whether the password opens the repository, or there is none yet, which will be made with it.

        :raises OpsError: it cannot be reached, or was there before and is gone
        """
        done = self._open()
        if _is_wrong_password(done):
            return False
        if not done.ok and (self._known() or not self._is_missing(done)):
            raise self._failed(done)
        return True

    def _open(self) -> Completed:
        # Without a lock of its own: restic refuses to make one beside the lock of a restic that was killed (0.14).
        done = self._run("cat", "config", "--no-lock", check=False)
        if done.ok or _is_wrong_password(done) or self._is_missing(done):
            return done
        # restic lists the keys and then reads them: it fails if one is replaced meanwhile, by another host.
        return self._run("cat", "config", "--no-lock", check=False)

    def save(self, name: str, write: Callable[[BinaryIO], Manifest]) -> Manifest:
        """Make a snapshot of the home of an agent.

        :param write: writes an archive, not compressed, to what it is called with; raises if it cannot be restored, so
            that only one that can becomes a complete snapshot
        """
        # By its time it could be confused with one of a killed run: that may have had a clock that was fast.
        mark = f"{_UNFINISHED}:{secrets.token_hex(8)}"
        with self._started(
            *("backup", "--stdin", "--stdin-filename", f"{name}.tar", "--host", self.origin),
            *("--tag", f"{TAG},{self._tag(name)},{_UNFINISHED},{mark}"),
            stdin=subprocess.PIPE,
        ) as restic:
            try:
                manifest = write(restic.stdin)
            except BrokenPipeError:
                # restic exited early: finish() raises its own error.
                restic.finish()
                raise
            restic.finish()
        own = [each for each in self._list(name) if each["hostname"] == self.origin]
        made = next((each["id"] for each in own if mark in each["tags"]), None)
        if made is None:
            raise OpsError(
                "its snapshot was removed: another backup took it for that of a killed one",
                where="restic",
                fix="let one backup end before the next: hermes-ops backup",
            )
        self._run("tag", "--remove", f"{_UNFINISHED},{mark}", made)
        killed = [each["id"] for each in own if _UNFINISHED in each["tags"] and mark not in each["tags"]]
        if killed:
            self._run("forget", *killed)
        return manifest

    def forget(self, agent: str) -> None:
        """Apply the retention to the snapshots of *agent* from this host."""
        keep = self.settings
        self._run(
            *("forget", "--host", self.origin, "--tag", f"{TAG},{self._tag(agent)}"),
            *("--group-by", "host,tags"),
            *("--keep-daily", str(keep.restic_keep_daily), "--keep-weekly", str(keep.restic_keep_weekly)),
            *("--keep-monthly", str(keep.restic_keep_monthly)),
        )

    def look_after(self) -> bool:
        """Every :data:`CHECK_EVERY`, remove unused data and check the repository; returns whether it was done now."""
        if not self.check_is_due():
            return False
        self._run("prune", timeout=None)
        self._run("check", timeout=None)
        self._remember(checked=time.time())
        return True

    def check_is_due(self) -> bool:
        """Whether :meth:`look_after` would do something now."""
        return not 0 <= time.time() - self._memory().get("checked", 0.0) < CHECK_EVERY

    def would_forget(self, agent: str) -> list[Snapshot]:
        """The snapshots of *agent* that :meth:`save` and :meth:`forget` would remove now, in groups of equal tags."""
        own = [each for each in self._list(agent) if each["hostname"] == self.origin]
        gone = [each for each in own if _UNFINISHED in each["tags"]]
        tags = {TAG, self._tag(agent)}
        keep = {period: getattr(self.settings, f"restic_keep_{period}") for period in ("daily", "weekly", "monthly")}
        version = re.findall(r"\d+", self._run("version").stdout)[:2]
        for group in {frozenset(each["tags"]) for each in own if each not in gone} | {frozenset(tags)}:
            members = [each for each in own if set(each["tags"]) == group]
            made = [_moment(each) for each in members]
            # The new snapshot counts as well.
            made += [datetime.datetime.now().astimezone()] if group == tags else []
            gone += [members[index] for index in superfluous(made, keep, tuple(map(int, version)))]
        gone.sort(key=_created)
        return [Snapshot(each["id"][:8], agent, each["hostname"], _created(each)) for each in gone]

    def snapshots(self, agent: str | None = None) -> list[Snapshot]:
        """Complete snapshots of all hosts, of all agents or one, oldest first."""
        found = []
        for each in self._list(agent):
            tag = next((tag for tag in each["tags"] if tag.startswith(self._tag(""))), None)
            if tag and _UNFINISHED not in each["tags"]:
                found.append(Snapshot(each["id"][:8], tag[len(self._tag("")) :], each["hostname"], _created(each)))
        return sorted(found, key=lambda snapshot: archives.age_key(snapshot.created))

    def find(self, wanted: str, agent: str | None) -> Snapshot:
        """A snapshot by its id; ``latest``: the newest of this host.

        :raises OpsError: there is none; names the hosts that have snapshots
        """
        snapshots = self.snapshots(agent)
        if wanted == "latest":
            own = [each for each in snapshots if each.host == self.origin]
        else:
            own = [each for each in snapshots if each.id == wanted[:8]]
        if own:
            return own[-1]
        hosts = sorted({each.host for each in snapshots})
        others = f"there are snapshots of {', '.join(hosts)}" if hosts else "there is none at all"
        raise OpsError(f"there is no snapshot {wanted!r} of this host; {others}", fix="see: hermes-ops backups")

    @contextlib.contextmanager
    def reading(self, snapshot: Snapshot) -> Iterator[Running]:
        """Run restic, which writes the tar stream of *snapshot* to its ``stdout``, during the block.

        :raises OpsError: restic is missing; when the block raises an OpsError because restic failed, restic's own error
        """
        with self._started("dump", snapshot.id, f"/{snapshot.agent}.tar", stdout=subprocess.PIPE) as restic:
            try:
                yield restic
            except OpsError as error:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    if restic.process.wait(_LAST_WORDS):
                        raise restic.failed() from error
                raise

    @staticmethod
    def _tag(agent: str) -> str:
        return f"agent:{agent}"

    def _list(self, agent: str | None) -> list[dict[str, Any]]:
        tags = TAG if agent is None else f"{TAG},{self._tag(agent)}"
        words = ("snapshots", "--json", "--tag", tags)
        done = self._run(*words, check=False)
        if _is_locked(done):
            # A prune that was killed has left its lock, beside which nothing can be read, nor restored.
            self._run("unlock")
        if not done.ok:
            done = self._run(*words)
        return json.loads(done.stdout or "[]") or []

    # Calls of restic.

    def _run(
        self, *arguments: str, check: bool = True, timeout: float | None = TIMEOUT, descriptors: Sequence[int] = ()
    ) -> Completed:
        with self._password() as (descriptor, env):
            command, inherited = ["restic", "--quiet", *arguments], [descriptor, *descriptors]
            done = run(command, timeout=timeout or 24 * 3600.0, check=False, env=env, pass_fds=inherited)
        if check and not done.ok:
            raise self._failed(done)
        return done

    @contextlib.contextmanager
    def _started(self, *arguments: str, **pipes: Any) -> Iterator[Running]:
        """Run restic during the block. If that ends early, restic is killed before it sees the end of its pipe."""
        with tempfile.TemporaryFile() as words, self._password() as (descriptor, env):
            try:
                process = subprocess.Popen(
                    ["restic", "--quiet", *arguments],
                    stderr=words,
                    env={**os.environ, **env},
                    pass_fds=[descriptor],
                    **{"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, **pipes},
                )
            except OSError as error:
                raise OpsError(f"cannot be run ({error.strerror})", where="restic", fix=_INSTALL) from None

            def failed() -> OpsError:
                words.seek(0)
                said = words.read().decode("utf-8", "replace")
                return self._failed(Completed(arguments, process.returncode, "", said))

            try:
                yield Running(process, failed)
            finally:
                killed = process.poll() is None
                if killed:
                    process.kill()
                for pipe in (process.stdin, process.stdout):
                    if pipe:
                        with contextlib.suppress(OSError):
                            pipe.close()
                process.wait()
                if killed:
                    # It has left its lock, beside which no snapshot of another agent could be completed.
                    with contextlib.suppress(OpsError):
                        self._run("unlock", check=False)

    @contextlib.contextmanager
    def _password(self) -> Iterator[tuple[int, dict[str, str]]]:
        """A descriptor with the password, for restic to inherit, and the environment that names it."""
        with os.fdopen(os.memfd_create("password"), "wb") as stream:
            stream.write(self.settings.restic_password.encode())
            stream.flush()
            yield stream.fileno(), {**self.env, "RESTIC_PASSWORD_FILE": f"/proc/self/fd/{stream.fileno()}"}

    def _failed(self, done: Completed) -> OpsError:
        if _is_wrong_password(done):
            return OpsError(
                "the password does not open the repository", where="restic", fix="correct backup_restic_password"
            )
        if _is_locked(done):
            return OpsError(
                "the repository is in use: it stays locked",
                where="restic",
                fix="wait until the backups of all hosts that share it are over, and try again; the lock of a host "
                "that is gone counts for half an hour",
            )
        if self._is_missing(done) and self._known():
            return OpsError(
                "the repository, which was there before, is gone",
                where="restic",
                fix=f"bring it back (is it mounted?); to begin a new one remove {self.memory_path}",
            )
        if self._is_missing(done):
            return OpsError(
                "there is no repository yet", where="restic", fix="the first backup makes it: hermes-ops backup"
            )
        fatal = [line for line in done.stderr.splitlines() if line.startswith("Fatal: ")]
        said = fatal[-1][len("Fatal: ") :] if fatal else last_line(done.stderr) or f"failed with status {done.rc}"
        return OpsError(self._hidden(said), where="restic")

    @staticmethod
    def _is_missing(done: Completed) -> bool:
        return done.rc == _NO_REPOSITORY or "Is there a repository at the following location" in done.stderr

    def _hidden(self, text: str) -> str:
        """*text* without the secrets that restic was given."""
        text = re.sub(r"//[^/@\s]+@", "//", text)
        for secret in (self.settings.restic_password, *self.settings.restic_environment.values()):
            text = text.replace(secret, "(secret)") if secret else text
        return text

    # Records.

    @property
    def _fingerprint(self) -> str:
        return hashlib.sha256(self.settings.restic_repository.encode()).hexdigest()

    def _memory(self) -> dict[str, Any]:
        return read_json(self.memory_path) or {}

    def _known(self) -> bool:
        return self._memory().get("repository") == self._fingerprint

    def _remember(self, **values: Any) -> None:
        memory = self._memory()
        if memory != {**memory, **values}:
            write_json(self.memory_path, {**memory, **values})


_INSTALL = "converge the host with the role backup, or install the package"


def _is_wrong_password(done: Completed) -> bool:
    return done.rc == _WRONG_PASSWORD or "wrong password" in done.stderr


def _is_locked(done: Completed) -> bool:
    return done.rc == _LOCK_FAILED or "repository is already locked" in done.stderr


def _created(snapshot: dict[str, Any]) -> float:
    """Seconds since 1970."""
    return _moment(snapshot).timestamp()


def _moment(snapshot: dict[str, Any]) -> datetime.datetime:
    """When *snapshot* was made; restic writes nanoseconds, and any offset from UTC."""
    match = re.fullmatch(r"([\d-]+T[\d:]+)(?:\.\d+)?(Z|[+-]\d\d:\d\d)", snapshot["time"])
    if match is None:
        return datetime.datetime.fromtimestamp(0, datetime.timezone.utc)
    return datetime.datetime.fromisoformat(match[1] + match[2].replace("Z", "+00:00"))
