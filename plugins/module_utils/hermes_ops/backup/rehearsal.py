# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Rehearses a restore: puts the newest backup into a scratch home and lets an agent answer from it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..agent import config
from ..description.agent import Agent
from ..host.installation import Installation
from ..supervise import canary, gateway, health
from ..system.answer import fits
from ..system.errors import OpsError
from ..system.text import moment, one_line
from ..system.worker import Limits, WorkerDied, work
from . import archives, databases, extracting, offsite, selection
from .extracting import Manifest
from .settings import Settings as BackupSettings

# Name of this job's copies of homes, see canary.scratch.
SCRATCH = "rehearsal"
# For a look at such a home.
_LIMITS = Limits(seconds=1800.0)
# Seconds to wait for an update or a restore, which need the canary or the home for themselves.
BUSY_TIMEOUT = 1800.0


@dataclass(frozen=True)
class Settings:
    """``/etc/hermes-ops/rehearsal.json``.

    :param reply: let the agent answer a chat, if a model is configured
    """

    reply: bool = True


def rehearse(
    host: Installation,
    agent: Agent,
    wanted: Settings,
    backups: BackupSettings,
    say: Callable[[str], object],
) -> str:
    """Restore the newest backup of *agent* into a scratch home and run the current release on it.

    The backup comes from the repository if one is declared, because that copy survives the loss of the host.

    :returns: the result in one sentence
    :raises OpsError: there is no backup, or it does not work; says why
    """
    release = gateway.current_release(host.root)
    if release is None:
        raise OpsError("there is no current release", where=host.root, fix="converge the host: site.yml")
    _wait_for_others(host)
    with canary.scratch(host, agent, SCRATCH, say) as scratch:
        label, manifest, found = _unpack(host, agent, backups, scratch, say)
        if not manifest.env_inside:
            canary.lend_env(host, agent, scratch)
        described = canary.prepare(host, agent, scratch)
        reply = wanted.reply and bool(found["model"] or agent.config_scope == "managed")
        # This tests the backup and not the release, so a short watch is enough.
        answer = canary.boot(
            host,
            release,
            described,
            reply=reply,
            timeout=agent.health.timeout,
            stable=health.STABLE_SECONDS,
        )
    said = "answers" if answer["reply"] else "is healthy"
    return f"{agent.name}: {answer['version']} {said} on {label}"


def read(host: Installation, agent: Agent, backups: BackupSettings, say: Callable[[str], object]) -> str:
    """Restore the newest backup of a user's *agent* into a scratch home, and check its databases and configuration.

    It is not started: the image that it runs is not a release of this host.

    :returns: the result in one sentence
    :raises OpsError: there is no backup, or it is damaged; says why
    """
    _wait_for_others(host)
    with canary.scratch(host, agent, SCRATCH, say) as scratch:
        label, _manifest, _found = _unpack(host, agent, backups, scratch, say)
    return f"{agent.name}: {label} can be read"


def _unpack(
    host: Installation, agent: Agent, backups: BackupSettings, scratch: str, say: Callable[[str], object]
) -> tuple[str, Manifest, dict[str, Any]]:
    """Restore the newest backup into *scratch*, and :func:`look` at it; returns its name, too.

    :raises OpsError: there is none, or a database is damaged
    """
    label, manifest = _extract(host, agent, backups, scratch)
    say(f"{agent.name}: {label} of {moment(manifest.created)}")
    found = work(host.account_of(agent), "backup.rehearsal:look", scratch, limits=_LIMITS, where=label)
    if not fits(found, {"databases": {str: str}, "model": object}):
        raise WorkerDied("was looked at, but the worker's answer has the wrong form", where=label)
    _refuse_damaged(found["databases"])
    return label, manifest, found


def _extract(host: Installation, agent: Agent, backups: BackupSettings, scratch: str) -> tuple[str, Manifest]:
    if backups.restic_repository:
        repository = offsite.Repository(host.ops_dir, backups)
        snapshot = repository.find("latest", agent.name)
        with repository.reading(snapshot) as restic:
            manifest = extracting.extract(restic.stdout, scratch, host.account_of(agent))
            restic.finish()
        return f"the snapshot {snapshot.id}", manifest
    found = archives.listed(archives.directory_of(host), agent.name)
    if not found:
        raise OpsError(f"there is no backup of {agent.name}", fix="make one: hermes-ops backup")
    return os.path.basename(found[-1].path), extracting.extract(found[-1].path, scratch, host.account_of(agent))


def look(scratch: str) -> dict[str, Any]:
    """Look at a home that was extracted from a backup. Runs in a worker.

    :returns: ``databases``: the defects of up to ten, by name; ``model``: whether one is configured
    """
    wrong = databases.check(scratch, selection.databases(scratch))
    model = config.read_config(os.path.join(scratch, config.FILE_NAME)).get("model")
    return {"databases": dict(sorted(wrong.items())[:10]), "model": bool(model)}


def _refuse_damaged(wrong: dict[str, str]) -> None:
    for name, why in wrong.items():
        raise OpsError(
            f"the backup's {one_line(name)} is damaged ({one_line(why)})",
            fix="see whether the agent's own is: sqlite3 FILE 'PRAGMA integrity_check'; take an older backup",
        )


def _wait_for_others(host: Installation) -> None:
    deadline = time.monotonic() + BUSY_TIMEOUT
    while busy := [job for job in ("update", "restore") if host.busy(job)]:
        if time.monotonic() > deadline:
            raise OpsError(f"a job has been running for more than {BUSY_TIMEOUT:g} s: {busy[0]}", fix="see its log")
        time.sleep(5)
