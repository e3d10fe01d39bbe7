# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The data and records of updates below ``<ops_dir>/update``, besides the journal.

::

    frozen/<run>/           the copies of the last update, see :mod:`frozen`; they stay for a rollback by hand
    previous.json           the release that this run left
    failed.json             releases that are not tried again automatically, and why
    backups/                archives made before each update, the newest few
    ../set-aside/<run>/     the agents' files that were replaced when copies were put back
"""

from __future__ import annotations

import contextlib
import os
import time
from typing import Any

from ..description.agent import Agent
from ..host.installation import JOURNALS, Installation
from ..system.errors import OpsError
from ..system.files import ensure_directory, read_json, write_json
from .frozen import Frozen, discard
from .journal import Journal


class Data:
    """The directories and records of updates. Only root enters them; only workers touch homes and their copies."""

    def __init__(self, host: Installation) -> None:
        self.host = host
        self.directory = os.path.join(host.ops_dir, "update")
        self.backups = os.path.join(self.directory, "backups")

    # Copies.

    def frozen(self, journal: Journal, agent: Agent, earlier: str | None = None) -> Frozen:
        """The copies of this run, or of the *earlier* one."""
        name = agent.name
        aside = self.left(journal) if earlier else self.aside(journal)
        return Frozen(
            name,
            agent.home,
            self.host.account_of(agent),
            os.path.join(self._run(earlier or journal.name), name),
            os.path.join(aside, name),
            # Not for a rollback, whose reason may be a damaged database, nor for a gateway that does not run, because
            # nothing migrates its data.
            strict=journal.kind == "update" and name in journal.before,
        )

    def left(self, journal: Journal) -> str:
        """Directory for the data that a rollback replaces by that of an earlier run."""
        return os.path.join(self.host.ops_dir, "set-aside", journal.name)

    def aside(self, journal: Journal) -> str:
        """Directory for the data that an undo replaces."""
        return self.left(journal) + ("-undone" if journal.kind == "rollback" else "")

    def keep(self, journal: Journal, earlier: str | None = None) -> str:
        """Move the copies to the set-aside directory, so that a later update does not remove them; says where they lie.

        :param earlier: those of this run
        """
        aside = self.left(journal) if earlier else self.aside(journal)
        with contextlib.suppress(OSError, OpsError):
            ensure_directory(aside, mode=0o700)
            os.rename(self._run(earlier or journal.name), os.path.join(aside, "before-the-switch"))
        return f"copies from before the switch lie in {aside}"

    def discard(self, journal: Journal) -> None:
        """Remove the copies of this run."""
        discard(self._run(journal.name))
        self.remove_empty(journal)

    def sweep(self) -> None:
        """Remove the copies that nobody can need: all but those for ``rollback --data``. No run is under way.

        A run that was killed or met a full disk may leave its copies, and so does a rollback that used them up. What
        cannot be removed now is left to the next run.
        """
        with contextlib.suppress(OSError, OpsError):
            for path, use in self.uses().items():
                if not use:
                    discard(path)

    def uses(self) -> dict[str, str]:
        """The directory of each run's copies -> what they are needed for; empty: for nothing.

        :raises OpsError: the record of the last run is damaged
        """
        kept, running = read_json(self._previous) or {}, read_json(self._journal)
        try:
            names = sorted(os.listdir(os.path.join(self.directory, "frozen")))
        except FileNotFoundError:
            return {}
        uses = {kept.get("run"): f"rollback --data --to {kept.get('source')}"}
        if running:
            uses = dict.fromkeys(names, "the update that is under way, or was interrupted")
        return {self._run(name): uses.get(name, "") for name in names}

    def remove_empty(self, journal: Journal) -> None:
        """Remove set-aside directories that stayed empty."""
        for top in (self.aside(journal), self.left(journal)):
            with contextlib.suppress(OSError):
                for name in os.listdir(top):
                    with contextlib.suppress(OSError):
                        os.rmdir(os.path.join(top, name))
                os.rmdir(top)

    def _run(self, name: str) -> str:
        return os.path.join(self.directory, "frozen", name)

    # Records.

    def previous(self, target: str) -> str:
        """The name of the run that left *target* and froze its data.

        :raises OpsError: its copies are not kept any more
        """
        value = read_json(self._previous) or {}
        if value.get("source") != target or not os.path.isdir(self._run(str(value.get("run")))):
            raise OpsError(
                f"the data as it was with {target} is not kept any more",
                fix="go back without --data, or restore a backup: hermes-ops restore",
            )
        return value["run"]

    def remember_previous(self, journal: Journal) -> None:
        write_json(self._previous, {"source": journal.source, "target": journal.target, "run": journal.name})

    def forget_previous(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._previous)

    @property
    def _journal(self) -> str:
        return os.path.join(self.host.ops_dir, JOURNALS["update"])

    @property
    def _previous(self) -> str:
        return os.path.join(self.directory, "previous.json")

    def failed(self) -> dict[str, Any]:
        """Releases that are not tried again automatically -> ``reason`` and ``when``."""
        return read_json(self._failed) or {}

    def remember_failed(self, release: str, reason: str) -> None:
        self._write_failed({**self.failed(), release: _why(reason)})

    def remember_good(self, journal: Journal) -> dict[str, Any]:
        """Allow the target again. A rollback by hand left its source on purpose, so that is not tried again.

        :returns: the new value of :meth:`failed`
        """
        failed = self.failed()
        failed.pop(journal.target, None)
        if journal.kind == "rollback":
            failed[journal.source] = _why("was left by hand")
        self._write_failed(failed)
        return failed

    def _write_failed(self, failed: dict[str, Any]) -> None:
        ensure_directory(self.directory, mode=0o700)
        write_json(self._failed, failed)

    @property
    def _failed(self) -> str:
        return os.path.join(self.directory, "failed.json")


def _why(reason: str) -> dict[str, str]:
    return {"reason": reason, "when": time.strftime("%Y-%m-%d", time.gmtime())}
