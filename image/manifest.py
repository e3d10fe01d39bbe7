# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The list of all that is in the image: a line for each path, with its type and mode, owner, and SHA-256 or target.

Two images with the same list have the same content. Run in a container, it prints the list anew:
docker run --rm --user 0 --entrypoint python3 --volume …/manifest.py:/manifest.py:ro IMAGE -I /manifest.py
"""

from __future__ import annotations

import hashlib
import os
import stat
import sys
from collections.abc import Iterator

PATH = "/usr/share/hermes/manifest"
# What an engine mounts or writes into each container, this list, and the volume.
LEFT_OUT = frozenset(
    ("dev", "proc", "run", "sys", "tmp", ".dockerenv", "etc/hostname", "etc/hosts", "etc/mtab", "etc/resolv.conf",
     "opt/data", PATH.lstrip("/"))
)  # fmt: skip


def lines(root: str = "/", left_out: frozenset[str] = LEFT_OUT) -> Iterator[str]:
    """The list of what is below *root*, sorted.

    :param left_out: paths below *root*; nothing below them is listed either
    """
    for path in _paths(root, "", left_out):
        full = os.path.join(root, path)
        status = os.lstat(full)
        if stat.S_ISREG(status.st_mode):
            with open(full, "rb") as stream:
                content = hashlib.sha256(stream.read()).hexdigest()
        else:
            content = os.readlink(full) if stat.S_ISLNK(status.st_mode) else "-"
        yield f"{status.st_mode:06o} {status.st_uid}:{status.st_gid} {content} /{path}"


def _paths(root: str, below: str, left_out: frozenset[str]) -> Iterator[str]:
    with os.scandir(os.path.join(root, below)) as entries:
        found = sorted(entries, key=lambda entry: entry.name)
    for entry in found:
        path = os.path.join(below, entry.name)
        if path not in left_out:
            yield path
            if entry.is_dir(follow_symlinks=False):
                yield from _paths(root, path, left_out)


if __name__ == "__main__":
    # Names of files need not be text.
    sys.stdout.reconfigure(encoding="utf-8", errors="surrogateescape")
    for line in lines():
        print(line)
