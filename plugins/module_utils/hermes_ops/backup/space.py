# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The space that stays free on a disk to which backups are written."""

from __future__ import annotations

import os

from ..host import held
from ..system.errors import OpsError

MIB = 1024 * 1024
# Bytes that stay free on a disk we write to: an agent whose volume is full cannot even report it.
RESERVE = 64 * MIB


def free(descriptor: int) -> int:
    """Bytes that may be written to the file system of an open file."""
    return held.spare(descriptor, RESERVE)


def check_space(descriptor: int, path: str, size: int) -> None:
    """:raises OpsError: when *size* more bytes are more than :func:`free`

    :param descriptor: of a file there
    :param path: of the file, for errors
    """
    if free(descriptor) < size:
        raise no_room(path, size)


def no_room(path: str, size: int = 0) -> OpsError:
    """The error when *size* more bytes, or any, are more than :func:`free`."""
    return OpsError(
        f"has no room for {size // MIB + 1} MiB more: what is still free there is for the agents",
        where=os.path.dirname(path),
        fix="free space",
    )
