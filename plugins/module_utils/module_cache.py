# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The modules that a host was sent, kept until it reboots; plugins/action/cached_module.py says what for.

Each tree holds one version of the code, laid out as Ansible packs it. Python adds the byte code.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
import zipfile

from ansible.module_utils import basic

# In memory: what a power cut leaves half written is gone with it.
CACHE = "/run/hermes-ops/modules"
# The environment variable by which a module is told the tree to keep itself in.
VARIABLE = "HERMES_OPS_MODULE_TREE"


def keep() -> None:
    """Keep what the running module was sent as, where that is asked for. A host that cannot, just does not."""
    tree = os.environ.get(VARIABLE)
    archive = getattr(basic.__spec__.loader, "archive", None)
    if not tree or not archive:
        return
    # Readable for all: a task may act for another user than the one before.
    os.umask(0o022)
    with contextlib.suppress(OSError), zipfile.ZipFile(archive) as sent:
        # The module last: where it is, there is all that it imports.
        for name in sorted(sent.namelist(), key=lambda name: "/plugins/modules/" in name):
            _add(os.path.join(tree, name), sent.read(name))
        _remove_others(tree)


def _add(path: str, data: bytes) -> None:
    if os.path.exists(path):
        return
    directory = os.path.dirname(path)
    os.makedirs(directory, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=directory) as unfinished:
        unfinished.write(data)
        unfinished.flush()
        os.fchmod(unfinished.fileno(), 0o644)
        with contextlib.suppress(FileExistsError):
            os.link(unfinished.name, path)


def _remove_others(tree: str) -> None:
    """Remove what other versions kept, but what runs at the moment: plugins/modules/cached_module.py locks that."""
    for entry in os.scandir(os.path.dirname(tree)):
        if entry.path == tree:
            continue
        directory = os.open(entry.path, os.O_RDONLY)
        try:
            fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(entry.path)
        except BlockingIOError:
            pass
        finally:
            os.close(directory)
