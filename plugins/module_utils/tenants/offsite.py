# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Backups of tenants in a repository of restic, as those of a host: one snapshot each, of an archive that is not
compressed, since nothing else would have parts in common with the one before."""

from __future__ import annotations

import contextlib
import gzip
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO

from ..hermes_ops.backup import extracting, offsite, space
from ..hermes_ops.backup.settings import Settings
from ..hermes_ops.system.errors import OpsError, as_error
from ..hermes_ops.system.typed import parse
from .asking import Answers
from .declared import label_of

_CHUNK = 2**20


def repository(declared: Mapping[str, Any], directory: str, namespace: str) -> offsite.Repository | None:
    """The declared repository; None: there is none.

    :param declared: ``repository``, ``password``, ``environment``, ``keep_daily``, ``keep_weekly``, ``keep_monthly``
    :param directory: of the archives; what is to be remembered of the repository is there, too
    :raises OpsError: a mistake in what is declared
    """
    if not declared.get("repository"):
        return None
    settings = parse(Settings, {f"restic_{name}": value for name, value in declared.items()}, "restic")
    cache = os.path.expanduser("~/.cache/restic")
    return offsite.Repository(directory, settings, origin=f"tenants.{namespace}", cache=cache)


def keep(repository: offsite.Repository, answers: Answers) -> None:
    """Make a snapshot of each archive in *answers*, and remove those that are older than is declared."""
    try:
        repository.prepare()
    except OpsError as error:
        answers.errors.update({name: error for name in answers.paths if name not in answers.errors})
        return
    for name, path in sorted(answers.paths.items()):
        label = label_of(name)
        try:
            repository.save(label, lambda out, path=path: _unpacked(path, out))
            repository.forget(label)
        except (OpsError, OSError) as error:
            answers.errors[name] = as_error(error)
    repository.look_after()


@contextlib.contextmanager
def fetched(repository: offsite.Repository, snapshot: str, name: str) -> Iterator[str]:
    """The path of an archive from a snapshot, during the block.

    :param snapshot: its id; ``latest``: the newest of the tenant *name*
    :raises OpsError: there is none, or it cannot be read
    """
    found = repository.find(snapshot, label_of(name) if snapshot == "latest" else None)
    with tempfile.TemporaryDirectory(prefix="hermes-restore-", dir="/var/tmp") as directory:
        path = os.path.join(directory, f"{found.agent}.tar.gz")
        with repository.reading(found) as restic:
            with open(path, "xb") as file, gzip.GzipFile("", "wb", 1, file) as out:
                while data := restic.stdout.read(_CHUNK):
                    space.check_space(file.fileno(), path, len(data))
                    out.write(data)
            restic.finish()
        yield path


def _unpacked(path: str, out: BinaryIO) -> extracting.Manifest:
    """Write the archive *path* to *out*, not compressed."""
    manifest = extracting.verify(path)
    with gzip.open(path) as file:
        shutil.copyfileobj(file, out, _CHUNK)
    return manifest
