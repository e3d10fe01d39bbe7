# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The commands on the host: ``hermes-ops``, which is this very package, and ``hermes``.

::

    /usr/local/lib/hermes-ops/<hash>/hermes_ops/    the package and its byte code; the hash is that of its sources
    /usr/local/bin/hermes-ops                       runs the package of one hash

Each version of the kit is written beside the others and never changed. A rename switches the command to it, so the
command works at every moment.
"""

from __future__ import annotations

import json
import os
import pkgutil
import stat
from collections.abc import Iterator
from typing import Any

from .. import __name__ as package
from .. import __path__ as package_path
from ..system import trees
from ..system.files import ensure_directory, failure, read_bytes, sync_directory, write_atomic, write_tree
from ..system.plan import Difference, Plan
from ..system.process import run
from .installation import HOST_FILE

COMMAND = "/usr/local/bin/hermes-ops"
WRAPPER = "/usr/local/bin/hermes"
INTERPRETER = "/usr/bin/python3"
_PARTIAL = ".partial"
# Seconds. Compiling takes less than one second on a fast machine, but disks may be slow.
_TIMEOUT = 300.0
# Workers run as the agents' users and import the kit; it holds no secrets.
_DIRECTORY_MODE, _FILE_MODE = 0o755, 0o644


def sources() -> dict[str, bytes]:
    """The kit's files: path below the package's parent directory -> content."""
    names = ["__init__.py"]
    for module in pkgutil.walk_packages(package_path, prefix=f"{package}."):
        path = module.name[len(package) + 1 :].replace(".", "/")
        names.append(f"{path}/__init__.py" if module.ispkg else f"{path}.py")
    return {f"hermes_ops/{name}": pkgutil.get_data(package, name) or b"" for name in sorted(names)}


def launcher(directory: str) -> str:
    """The command ``hermes-ops``, which runs the kit in *directory*.

    With ``-I``, neither the environment nor the working directory affects what is imported.
    """
    return f"""#!{INTERPRETER} -I
# Written by the Ansible collection alwayson.hermes.
import sys

sys.path.insert(0, {directory!r})
from hermes_ops.cli import main

sys.exit(main())
"""


def wrapper() -> str:
    """The command ``hermes`` for people. :mod:`..commands.run` decides as which user and how it runs."""
    return f'#!/bin/sh\nexec {COMMAND} run "$@"\n'


def plan_kit(host: dict[str, Any], directory: str) -> Plan:
    """Compare the host's commands with what they should be.

    :param host: the content of the file that :meth:`installation.Installation.load` reads
    :param directory: the place of this version of the kit, named after its hash
    """
    plan = Plan()
    files = sources()
    if not _is_whole(directory, files):
        before = "another version" if os.path.lexists(directory) else None
        plan.add(Difference(directory, before, "this version"), lambda: _install(directory, files))
    older = _superfluous(directory)
    plan.add_file(COMMAND, launcher(directory), mode=0o755, shown=False)
    plan.add_file(WRAPPER, wrapper(), mode=0o755)
    plan.add_file(HOST_FILE, json.dumps(host, indent=2) + "\n", mode=0o644)
    for path in older:
        plan.add(Difference(path, "another version", None), lambda path=path: trees.remove(path))
    return plan


def _is_whole(directory: str, files: dict[str, bytes]) -> bool:
    """Whether the kit is complete in *directory*, readable by all and writable by its owner only."""
    try:
        return all(read_bytes(os.path.join(directory, name)) == data for name, data in files.items()) and all(
            stat.S_IMODE(os.lstat(path).st_mode) == mode for path, mode in _modes(directory)
        )
    except FileNotFoundError:
        return False


def _superfluous(directory: str) -> list[str]:
    """The paths beside *directory* that are not needed: unfinished versions, and all others but the last one in use.

    The last one in use stays, because a job that began before the switch still imports parts of it.
    """
    above = os.path.dirname(directory)
    try:
        names = set(os.listdir(above)) - {os.path.basename(directory)}
    except FileNotFoundError:
        return []
    others = {name for name in names if not name.endswith(_PARTIAL)}
    command = read_bytes(COMMAND) or b""
    in_use = {name for name in others if name.encode() in command}
    newest = max(others, key=lambda name: os.lstat(os.path.join(above, name)).st_mtime, default=None)
    return [os.path.join(above, name) for name in sorted(names - (in_use or {newest}))]


def _install(directory: str, files: dict[str, bytes]) -> None:
    ensure_directory(os.path.dirname(directory), mode=_DIRECTORY_MODE)
    if os.path.isdir(directory):
        # The version was changed by hand. It may be in use, so each file is repaired separately.
        for name, data in files.items():
            path = os.path.join(directory, name)
            ensure_directory(os.path.dirname(path), mode=_DIRECTORY_MODE)
            if read_bytes(path) != data:
                write_atomic(path, data, mode=_FILE_MODE)
        _compile(directory)
        return
    partial = directory + _PARTIAL
    trees.remove(partial)
    try:
        write_tree(partial, files)
        _compile(partial)
        # Without the sync, a power cut could leave a version that looks complete but is only half on disk.
        run(["sync", "--file-system", partial], timeout=_TIMEOUT, check=False)
        os.rename(partial, directory)
        sync_directory(os.path.dirname(directory))
    except OSError as error:
        raise failure("written", directory, error) from None


def _compile(directory: str) -> None:
    """Compile the kit with the interpreter that runs it.

    Byte code records the time and size of its source and the interpreter's name. It is ignored by another interpreter,
    and for a changed source.
    """
    compiler = [INTERPRETER, "-I", "-m", "compileall", "-q", "-f", "--invalidation-mode", "timestamp", directory]
    run(compiler, timeout=_TIMEOUT)
    for path, mode in _modes(directory):
        os.chmod(path, mode)


def _modes(directory: str) -> Iterator[tuple[str, int]]:
    """All paths in *directory*, including itself, each with the mode that it should have."""
    yield directory, _DIRECTORY_MODE
    for place, directories, files in os.walk(directory):
        yield from ((os.path.join(place, name), _DIRECTORY_MODE) for name in directories)
        yield from ((os.path.join(place, name), _FILE_MODE) for name in files)
