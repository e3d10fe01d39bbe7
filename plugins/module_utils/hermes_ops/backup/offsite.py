# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Backups off the host: an encrypted repository of restic (https://restic.net), in whatever it can reach.

Each snapshot is one file, the tar stream of :mod:`archive`. It has the tag ``hermes-unfinished`` until all of it is
there: restic takes the end of a pipe for the end of the file, also where our process was killed.

The password is passed by a descriptor, the keys of a back end by the environment of restic alone, which is root's;
never in a list of processes.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import json
import os
import re
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO, cast

from ..description.agent import Agent
from ..host.installation import Installation
from ..system.errors import OpsError
from ..system.files import read_json, write_json
from ..system.process import Completed, last_line, run
from . import archives, making, settings
from .extracting import Manifest

TAG = "hermes"
_UNFINISHED = "hermes-unfinished"
# Exit statuses of restic since 0.17; before, only what it says tells (0.14, Debian 12).
_NO_REPOSITORY, _WRONG_PASSWORD = 10, 12
CACHE = "/var/cache/hermes-ops/restic"
# Seconds for everything but moving data, which takes as long as the job that does it may.
TIMEOUT = 600.0
# Seconds that restic gets to end by itself, where what it wrote was of no use.
_LAST_WORDS = 5.0
# Seconds between two looks at the repository as a whole; unused data is removed then, too.
CHECK_EVERY = 7 * 24 * 3600.0


@dataclass(frozen=True)
class Snapshot:
    """A complete copy of a home in the repository. ``created``: seconds since 1970."""

    id: str
    agent: str
    host: str
    created: float


class Running:
    """restic at work, with a pipe to or from it.

    :param failed: makes an error of what it said
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
        """That was all.

        :raises OpsError: not for restic
        """
        if self.process.stdin:
            with contextlib.suppress(BrokenPipeError):
                self.process.stdin.close()
        if self.process.wait():
            raise self.failed()


class Repository:
    """The repository of a host.

    ::

        <ops_dir>/restic.json    which repository was found here before, and when it was checked

    :param settings: with a ``restic_repository``
    """

    def __init__(self, host: Installation, settings: settings.Settings) -> None:
        self.host = host
        self.settings = settings
        self.memory_path = os.path.join(host.ops_dir, "restic.json")
        self.env = {
            **settings.restic_environment,
            "RESTIC_REPOSITORY": settings.restic_repository,
            "RESTIC_CACHE_DIR": CACHE,
        }

    def exists(self) -> bool:
        """Whether there is a repository. False before the first backup; one that was there and is gone is an error,
        like a wrong password.
        """
        done = self._run("cat", "config", check=False)
        if not done.ok and (self._known() or not self._is_missing(done)):
            raise self._failed(done)
        return done.ok

    def prepare(self) -> None:
        """Have a repository: the first time it is made. Locks whose process is dead or that are half an hour old are
        taken away; a living one stays.
        """
        if not self.exists():
            self._run("init")
        self._remember(repository=self._fingerprint)
        self._run("unlock")

    def save(self, agent: Agent) -> Manifest:
        """Write a snapshot of the home of *agent*, with its ``.env``: the repository is encrypted.

        It is checked on its way there, so that no snapshot is complete that cannot be restored.
        """
        name = agent.name
        with self._started(
            *("backup", "--stdin", "--stdin-filename", f"{name}.tar", "--host", socket.gethostname()),
            *("--tag", f"{TAG},{self._tag(name)},{_UNFINISHED}"),
            stdin=subprocess.PIPE,
        ) as restic:
            try:
                manifest = making.stream(self.host, agent, restic.stdin, env="include")
            except BrokenPipeError:
                # It ended by itself, and says why.
                restic.finish()
                raise
            restic.finish()
        own = [each for each in self._list(name) if each["hostname"] == socket.gethostname()]
        unfinished = sorted((_created(each), each["id"]) for each in own if _UNFINISHED in each["tags"])
        *older, (_when, newest) = unfinished
        self._run("tag", "--remove", _UNFINISHED, newest)
        if older:
            self._run("forget", *(snapshot for _when, snapshot in older))
        return manifest

    def forget(self, agent: str) -> None:
        """Apply the retention to the snapshots of *agent* of this host."""
        keep = self.settings
        self._run(
            *("forget", "--host", socket.gethostname(), "--tag", f"{TAG},{self._tag(agent)}"),
            *("--group-by", "host,tags"),
            *("--keep-daily", str(keep.restic_keep_daily), "--keep-weekly", str(keep.restic_keep_weekly)),
            *("--keep-monthly", str(keep.restic_keep_monthly)),
        )

    def look_after(self) -> bool:
        """Every :data:`CHECK_EVERY` remove data that nothing needs and check the rest; whether that was done now."""
        if 0 <= time.time() - self._memory().get("checked", 0.0) < CHECK_EVERY:
            return False
        self._run("prune", timeout=None)
        self._run("check", timeout=None)
        self._remember(checked=time.time())
        return True

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

        :raises OpsError: there is none; names those that there are
        """
        snapshots = self.snapshots(agent)
        if wanted == "latest":
            own = [each for each in snapshots if each.host == socket.gethostname()]
        else:
            own = [each for each in snapshots if each.id == wanted[:8]]
        if own:
            return own[-1]
        hosts = sorted({each.host for each in snapshots})
        others = f"there are snapshots of {', '.join(hosts)}" if hosts else "there is none at all"
        raise OpsError(f"there is no snapshot {wanted!r} of this host; {others}", fix="see: hermes-ops backups")

    @contextlib.contextmanager
    def reading(self, snapshot: Snapshot) -> Iterator[Running]:
        """restic while it writes the tar stream of *snapshot* to its ``stdout``.

        :raises OpsError: when there is no restic; and its own, where what reads the stream fails because it ends early
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
        return json.loads(self._run("snapshots", "--json", "--tag", tags).stdout or "[]") or []

    # restic itself.

    def _run(self, *arguments: str, check: bool = True, timeout: float | None = TIMEOUT) -> Completed:
        with self._password() as (descriptor, env):
            command = ["restic", "--quiet", *arguments]
            done = run(command, timeout=timeout or 24 * 3600.0, check=False, env=env, pass_fds=[descriptor])
        if check and not done.ok:
            raise self._failed(done)
        return done

    @contextlib.contextmanager
    def _started(self, *arguments: str, **pipes: Any) -> Iterator[Running]:
        """restic while the block lasts; killed when that ends early, so that it takes nothing for the end."""
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
                if process.poll() is None:
                    process.kill()
                for pipe in (process.stdin, process.stdout):
                    if pipe:
                        with contextlib.suppress(OSError):
                            pipe.close()
                process.wait()

    @contextlib.contextmanager
    def _password(self) -> Iterator[tuple[int, dict[str, str]]]:
        """A descriptor with the password, for restic to inherit, and the environment that names it."""
        with os.fdopen(os.memfd_create("password"), "wb") as stream:
            stream.write(self.settings.restic_password.encode())
            stream.flush()
            yield stream.fileno(), {**self.env, "RESTIC_PASSWORD_FILE": f"/proc/self/fd/{stream.fileno()}"}

    def _failed(self, done: Completed) -> OpsError:
        if done.rc == _WRONG_PASSWORD or "wrong password" in done.stderr:
            return OpsError(
                "the password does not open the repository", where="restic", fix="correct backup_restic_password"
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
        """*text* without anything secret that we gave restic."""
        text = re.sub(r"//[^/@\s]+@", "//", text)
        for secret in (self.settings.restic_password, *self.settings.restic_environment.values()):
            text = text.replace(secret, "(secret)") if secret else text
        return text

    # What is remembered.

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


def _created(snapshot: dict[str, Any]) -> float:
    """Seconds since 1970; restic writes nanoseconds, and any offset from UTC."""
    match = re.fullmatch(r"([\d-]+T[\d:]+)(?:\.\d+)?(Z|[+-]\d\d:\d\d)", snapshot["time"])
    if match is None:
        return 0.0
    return datetime.datetime.fromisoformat(match[1] + match[2].replace("Z", "+00:00")).timestamp()
