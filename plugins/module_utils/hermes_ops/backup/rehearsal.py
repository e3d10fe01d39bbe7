# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The rehearsal of a restore: the newest backup, on a home of its own, with an agent that answers."""

from __future__ import annotations

import contextlib
import glob
import os
import sqlite3
import tempfile
import time
import urllib.parse
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..agent import config
from ..agent.sessions import DATABASE_ERRORS
from ..host.installation import Installation
from ..supervise import canary, gateway, health
from ..system.errors import OpsError
from ..system.files import acting_as, remove_tree
from . import archives, extracting, offsite, selection, settings

# Where the agent's user may have a directory, and outside of every home: <data_dir>/<prefix>….
SCRATCH = ".hermes-rehearsal-"
# Seconds to wait for an update or a restore, which want the canary or the home for themselves.
BUSY_TIMEOUT = 1800.0


@dataclass(frozen=True)
class Settings:
    """``/etc/hermes-ops/rehearsal.json``.

    :param reply: have the agent answer a chat, where a model is configured
    """

    reply: bool = True


def rehearse(
    host: Installation,
    profile: dict[str, Any],
    wanted: Settings,
    backups: settings.Settings,
    say: Callable[[str], object],
) -> str:
    """Restore the newest backup of *profile* into a scratch home and have the current release live on it.

    From the repository where there is one: that is the copy that is left when the host is not.

    :returns: what was proved, in one sentence
    :raises OpsError: there is no backup, or it is no good; says why
    """
    release = gateway.current_release(host.root)
    if release is None:
        raise OpsError("there is no current release", where=host.root, fix="converge the host: site.yml")
    _wait_for_others(host)
    _sweep(host)
    with acting_as(host.owner):
        scratch = tempfile.mkdtemp(prefix=SCRATCH, dir=host.data_dir)
    try:
        label, manifest = _extract(host, profile, backups, scratch)
        say(f"{profile['name']}: {label} of {time.strftime('%Y-%m-%d %H:%M', time.gmtime(manifest['created']))} UTC")
        with acting_as(host.owner):
            for name in selection.databases(scratch):
                _check_database(scratch, name)
        if not os.path.lexists(os.path.join(scratch, selection.ENV)):
            canary.lend_env(host, profile, scratch)
        described = canary.prepare(host, profile, scratch)
        with acting_as(host.owner):
            model = config.read_config(os.path.join(scratch, config.FILE_NAME)).get("model")
        reply = wanted.reply and bool(model or profile["config_scope"] == "managed")
        # It is the backup that is tried, not the release: no need to watch it for long.
        answer = canary.boot(
            host,
            release,
            described,
            reply=reply,
            timeout=profile["health"]["timeout"],
            stable=health.STABLE_SECONDS,
        )
    finally:
        _sweep(host)
    said = "answers" if answer["reply"] else "is healthy"
    return f"{profile['name']}: {answer['version']} {said} on {label}"


def _extract(
    host: Installation, profile: dict[str, Any], backups: settings.Settings, scratch: str
) -> tuple[str, dict[str, Any]]:
    if backups.restic_repository:
        repository = offsite.Repository(host, backups)
        snapshot = repository.find("latest", profile["name"])
        with repository.reading(snapshot) as restic:
            manifest = extracting.extract(restic.stdout, scratch, host.owner)
            restic.finish()
        return f"the snapshot {snapshot.id}", manifest
    found = archives.listed(archives.directory_of(host), profile["name"])
    if not found:
        raise OpsError(f"there is no backup of {profile['name']}", fix="make one: hermes-ops backup")
    return os.path.basename(found[-1].path), extracting.extract(found[-1].path, scratch, host.owner)


def _check_database(home: str, name: str) -> None:
    path = os.path.join(home, name)
    try:
        with contextlib.closing(sqlite3.connect(f"file:{urllib.parse.quote(path)}?mode=ro", uri=True)) as database:
            (first, *_more) = database.execute("PRAGMA quick_check(1)").fetchone()
    except DATABASE_ERRORS as error:
        first = str(error)
    if first != "ok":
        raise OpsError(
            f"the backup's {name} is damaged ({first})",
            fix=f"see whether the agent's own is: sqlite3 {name} 'PRAGMA integrity_check'; take an older backup",
        )


def _wait_for_others(host: Installation) -> None:
    deadline = time.monotonic() + BUSY_TIMEOUT
    while busy := [job for job in ("update", "restore") if host.busy(job)]:
        if time.monotonic() > deadline:
            raise OpsError(f"a job has been running for more than {BUSY_TIMEOUT:g} s: {busy[0]}", fix="see its log")
        time.sleep(5)


def _sweep(host: Installation) -> None:
    """Away with scratch homes, also those of a rehearsal that was killed."""
    for path in glob.glob(os.path.join(glob.escape(host.data_dir), f"{SCRATCH}*")):
        with acting_as(host.owner), contextlib.suppress(OSError):
            remove_tree(path)
