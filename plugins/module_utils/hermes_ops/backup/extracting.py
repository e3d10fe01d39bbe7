# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Archives read: checked, or put into a directory."""

from __future__ import annotations

from typing import Any, BinaryIO

from ..system.files import Owner
from . import tarstream


def verify(path: str) -> dict[str, Any]:
    """Read the archive *path* from its first byte to its last and compare all with its checksums.

    :returns: what it says of itself, see :mod:`archive`
    :raises OpsError: it is damaged, incomplete, or holds what no backup holds
    """
    with tarstream.opened(path) as source:
        return tarstream.read(source, path, tarstream.Nowhere())


def extract(source: str | BinaryIO, directory: str, owner: Owner) -> dict[str, Any]:
    """Put the home in an archive into *directory*, which must not exist or be empty, as *owner* throughout.

    :param source: path of an archive, or the tar stream itself
    :returns: like :func:`verify`
    :raises OpsError: likewise; what *directory* holds by then is to be thrown away
    """
    sink = tarstream.Directory(directory, owner)
    if isinstance(source, str):
        with tarstream.opened(source) as stream:
            manifest = tarstream.read(stream, source, sink)
    else:
        manifest = tarstream.read(source, "the stream", sink)
    sink.finish()
    return manifest
