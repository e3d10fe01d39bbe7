# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The editions of what users' agents get: which one proved good, which one is rolled out, and their files in memory."""

from __future__ import annotations

import contextlib
import glob
import json
import os
import shutil
from collections.abc import Collection

from ..description.declaration import OF_THE_HOST
from ..description.runtimes import Edition, Runtimes
from ..host import runtimes
from ..host.records import check_ops
from ..system.errors import OpsError
from ..system.files import ensure_directory, read_json, write_atomic, write_json
from ..system.typed import parse, plain
from .rollout import BATCHES, FAILED, Journal, failed


def read_former(declared: Runtimes, ops_dir: str) -> Edition | None:
    """The edition that all agents had last; None: there was none.

    :raises OpsError: its record cannot be used, or agents cannot be started with it any more
    """
    path = _path(ops_dir, "proven")
    if not os.path.exists(path):
        return None
    edition = parse(Edition, read_json(path), path)
    try:
        declared.having(edition)
    except OpsError as error:
        raise OpsError(f"is no longer accepted: {error}", where=path) from None
    return edition


def former(declared: Runtimes, ops_dir: str) -> Edition | None:
    """The edition to go back to; None: there is none, or none that can be used.

    A damaged record, or another kit, must keep nobody's agent from starting.
    """
    try:
        return read_former(declared, ops_dir)
    except OpsError:
        return None


def prove(ops_dir: str, edition: Edition) -> None:
    # It holds secrets.
    write_json(_path(ops_dir, "proven"), plain(edition), mode=0o600)


def journal(ops_dir: str) -> Journal | None:
    """That of a rollout that did not finish, or failed; one that is damaged is none, and the rollout begins anew.

    :raises OpsError: the directory is not root's alone
    """
    if os.path.lexists(ops_dir):
        check_ops(ops_dir)
    path = _path(ops_dir, "rollout")
    try:
        return parse(Journal, read_json(path), path) if os.path.exists(path) else None
    except OpsError:
        return None


def write_journal(ops_dir: str, value: Journal) -> None:
    write_json(_path(ops_dir, "rollout"), plain(value))


def forget_journal(ops_dir: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(_path(ops_dir, "rollout"))


def records(ops_dir: str) -> list[str]:
    """The paths of what is remembered here."""
    return [_path(ops_dir, name) for name in ("proven", "rollout")]


def in_effect(declared: Runtimes, ops_dir: str) -> Edition:
    """The edition with which woken agents start: the declared one only when its canaries have passed."""
    edition, kept = declared.edition, journal(ops_dir)
    if kept and kept.target == edition.id and kept.phase == BATCHES:
        return edition
    return former(declared, ops_dir) or edition


def is_due(declared: Runtimes, ops_dir: str) -> bool:
    """Whether agents have not got what is declared, or an unfinished rollout has to be ended."""
    last = former(declared, ops_dir)
    return last is None or last.id != declared.edition.id or journal(ops_dir) is not None


def failure(declared: Runtimes, ops_dir: str) -> OpsError | None:
    """Why what is declared was rolled back; None: it was not."""
    kept = journal(ops_dir)
    return failed(kept) if kept and kept.phase == FAILED and kept.target == declared.edition.id else None


def wanted(declared: Runtimes, ops_dir: str) -> list[Edition]:
    """The editions with which agents may be started."""
    found = [in_effect(declared, ops_dir), declared.edition, *filter(None, [former(declared, ops_dir)])]
    return list({edition.id: edition for edition in found}.values())


def write_files(edition: Edition) -> None:
    """What every container gets, but for the secrets."""
    directory = os.path.join(runtimes.SHARED, edition.id)
    ensure_directory(directory, mode=0o755)
    entry = {key: value for key, value in edition.agent.items() if key not in ("secrets", *OF_THE_HOST)}
    write_atomic(f"{directory}/agent.json", json.dumps({"name": "agent", **entry}), mode=0o444)


def secrets_of(user: runtimes.User, edition: str) -> str:
    """The directory with the secrets of the user's agent in the *edition*."""
    return f"{runtimes.USERS}/{user.id}/secrets/{edition}"


def are_written(declared: Runtimes, ops_dir: str) -> bool:
    """Whether the files of all editions that are wanted are there."""
    ids = (edition.id for edition in wanted(declared, ops_dir))
    return all(os.path.exists(f"{runtimes.SHARED}/{each}/agent.json") for each in ids)


def keep_only(ids: Collection[str]) -> None:
    """Remove the files of all other editions. A container that runs needs those of its own."""
    for path in [*glob.glob(f"{runtimes.SHARED}/*"), *glob.glob(f"{runtimes.USERS}/*/secrets/*")]:
        if os.path.basename(path) not in ids:
            shutil.rmtree(path, ignore_errors=True)


def changes(before: Edition | None, after: Edition) -> str:
    """What differs, for people; nothing secret."""
    if before is None:
        return f"image {after.image}"
    found = [f"image {after.image}"] if before.image != after.image else []
    secrets = [edition.agent.get("secrets", {}) for edition in (before, after)]
    found += [f"agent: {key}" for key in _differing(before.agent, after.agent) if key != "secrets"] + [
        f"secret {name}" for name in _differing(*secrets)
    ]
    found += [f"plugin {name}" for name in _differing(before.plugins, after.plugins)]
    return ", ".join(found) or "secret of this host"


def _differing(before: dict[str, object], after: dict[str, object]) -> list[str]:
    return sorted(key for key in before.keys() | after.keys() if before.get(key) != after.get(key))


def _path(ops_dir: str, name: str) -> str:
    return os.path.join(ops_dir, f"{runtimes.JOB}.{name}.json")
