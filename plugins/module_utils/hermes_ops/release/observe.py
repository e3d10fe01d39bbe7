# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Observe the releases on a host. Each is one installed version of Hermes, built aside, proved, then never changed.

::

    <root>/releases/<id>/            bin/python, bin/hermes, release.json, requirements.lock; src/ for git and path
    <root>/releases/<id>.partial/    being built; becomes <id> by rename(2) when it is complete and proved
    <root>/releases/<id>.work/       cache and temporary files of the build
    <root>/releases/<id>.removed/    being removed
    <root>/current -> releases/<id>  replaced by rename(2)
    <root>/.lock                     one builder at a time

An id is ``<version>-<8 hex>`` (git: ``<ref>-…``; a tree: ``<its name>-…``). The hex digits are a digest of the
identity (:func:`decide.identity`), so the same version with other extras is another release. If that release cannot be
used any more, it is built again as ``<id>-2`` beside it, and so on. ``release.json`` is written last, just before the
rename. A directory without it is no release. Its content alone decides whether there is anything to do; neither Hermes
nor the network is asked.

This module only reads; it changes and starts nothing.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import time
from dataclasses import dataclass
from typing import Any

from ..system.errors import OpsError
from ..system.files import read_json
from .request import Request, available_in
from .versions import is_version, normal, version_key

STAMP = "release.json"
GARBAGE = (".partial", ".work", ".removed")
# Bytes that are read of a process's command line and of its mappings: the process chooses how long both are, up to
# terabytes. Those of a gateway have less than one megabyte.
_MUCH = 4 * 2**20
# Bytes of a process's status, which names its user.
_STATUS = 4096
# Seconds for reading the processes of one user.
_SECONDS = 5.0
# Never part of a release: history, virtual environments, caches.
LEFT_OUT = (".git", ".venv", "venv", "node_modules", "__pycache__", ".pytest_cache")


@dataclass(frozen=True)
class Tree:
    """The directory of method ``path``: a source tree, or a directory of wheels with the versions in it."""

    name: str
    fingerprint: str
    versions: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Installed:
    """A complete release on the host.

    :param used: when it was built, or last became or ceased to be the current one (mtime of its directory)
    :param intact: its interpreter still exists (an upgrade of the distribution may remove it)
    """

    id: str
    stamp: dict[str, Any]
    used: float
    intact: bool

    @property
    def version(self) -> str:
        return self.stamp["version"]


@dataclass(frozen=True)
class Observed:
    """What is on the host.

    :param garbage: directories that builds and removals left
    :param foreign: all other names in the directory of releases, which are neither used nor removed
    """

    releases: tuple[Installed, ...] = ()
    current: str | None = None
    garbage: tuple[str, ...] = ()
    tree: Tree | None = None
    foreign: tuple[str, ...] = ()

    def find(self, release_id: str | None) -> Installed | None:
        return next((release for release in self.releases if release.id == release_id), None)


def stamp_of(root: str, release: str | None) -> dict[str, Any]:
    """The stamp of the release *release*; ``{}`` when there is no such release."""
    stamp = read_json(os.path.join(root, "releases", release, STAMP)) if release else None
    return stamp if isinstance(stamp, dict) else {}


def observe(root: str, request: Request | None = None) -> Observed:
    """Read the stamps, the link ``current``, and for ``path`` the directory. Changes and starts nothing."""
    directory = os.path.join(root, "releases")
    releases: list[Installed] = []
    garbage: list[str] = []
    foreign: list[str] = []
    with contextlib.suppress(FileNotFoundError):
        for name in sorted(os.listdir(directory)):
            if name.endswith(GARBAGE):
                garbage.append(name)
            elif found := _installed(directory, name):
                releases.append(found)
            else:
                foreign.append(name)
    try:
        current = os.path.basename(os.readlink(os.path.join(root, "current")))
    except FileNotFoundError:
        current = None
    except OSError:
        raise OpsError("is not a symbolic link", where=os.path.join(root, "current"), fix="move it away") from None
    tree = examine(request) if request is not None and request.method == "path" else None
    return Observed(tuple(releases), current, tuple(garbage), tree, tuple(foreign))


def _installed(directory: str, name: str) -> Installed | None:
    path = os.path.join(directory, name)
    try:
        with open(os.path.join(path, STAMP), encoding="utf-8") as stream:
            stamp = json.load(stream)
        used = os.stat(path).st_mtime
    except (OSError, ValueError):
        return None
    return Installed(name, stamp, used, os.path.exists(os.path.join(path, "bin", "python")))


def examine(request: Request) -> Tree:
    """Look at the directory of method ``path``.

    A source tree is fingerprinted by its contents, since a copied tree has new times but is the same. A directory of
    wheels has no fingerprint: the version chosen from it counts.

    :raises OpsError: it is neither, or no wheel in it fits the request
    """
    path = request.path or ""
    if not os.path.isdir(path):
        raise OpsError("there is no such directory on the host", where=path, fix="copy the tree or the wheels there")
    name = os.path.basename(os.path.normpath(path))
    if any(os.path.isfile(os.path.join(path, file)) for file in ("pyproject.toml", "setup.py")):
        return Tree(name, _fingerprint(path))
    files = sorted(entry.name for entry in os.scandir(path) if entry.is_file())
    versions = {m[1] for m in (re.match(r"hermes_agent-([^-]+?)(?:-.*\.whl|\.tar\.gz)$", file) for file in files) if m}
    usable = tuple(sorted({normal(v) for v in versions if is_version(v)}, key=version_key))
    if not usable:
        raise OpsError(
            "is neither a source tree (no pyproject.toml) nor a directory with a wheel of hermes-agent",
            where=path,
            fix="fill it with: pip download 'hermes-agent[…]==VERSION' uv==…",
        )
    if not available_in(request, usable):
        raise OpsError(
            f"has hermes-agent {', '.join(usable)}, not {request.version or 'a final release'}",
            where=path,
            fix="bring the wheel, or correct version",
        )
    return Tree(name, "", usable)


def _fingerprint(path: str) -> str:
    digest = hashlib.sha256()
    for directory, names, files in os.walk(path):
        names[:] = sorted(name for name in names if name not in LEFT_OUT)
        for name in sorted(files):
            full = os.path.join(directory, name)
            digest.update(os.path.relpath(full, path).encode("utf-8", "surrogateescape") + b"\0")
            if os.path.islink(full):
                digest.update(os.readlink(full).encode("utf-8", "surrogateescape"))
            elif os.path.isfile(full):
                with open(full, "rb") as stream:
                    digest.update(hashlib.sha256(stream.read()).digest())
    return digest.hexdigest()


def used_by_processes(root: str) -> list[str]:
    """Ids of the releases from which a running process was started or has loaded a library.

    Each user's processes are read within a time of their own, and no more than :data:`_MUCH` of each. An agent that
    makes its lists longer hides its own use of a release that way, and no other user's.
    """
    directory = os.path.join(root, "releases", "")
    pattern = re.compile(re.escape(directory).encode() + rb"([^/\0\n]+)/")
    found: set[str] = set()
    there = {os.fsencode(name) for name in os.listdir(directory)} if os.path.isdir(directory) else set()
    left: dict[int, float] = {}
    for pid in filter(str.isdigit, os.listdir("/proc")) if there else ():
        began, uid = time.monotonic(), _user_of(pid)
        if left.setdefault(uid, _SECONDS) > 0:
            for name in ("cmdline", "maps"):
                named = {match[1] for match in pattern.finditer(_beginning(pid, name, _MUCH))}
                found.update(map(os.fsdecode, named & there))
            left[uid] -= time.monotonic() - began
    return sorted(found)


def _user_of(pid: str) -> int:
    """The user that a process runs as; -1: nobody knows. Its directory may belong to root (PR_SET_DUMPABLE)."""
    match = re.search(rb"^Uid:\t(\d+)", _beginning(pid, "status", _STATUS), re.M)
    return int(match[1]) if match else -1


def _beginning(pid: str, name: str, most: int) -> bytes:
    # The process may have ended, or we may not be allowed to read it.
    with contextlib.suppress(OSError), open(f"/proc/{pid}/{name}", "rb") as stream:
        return stream.read(most)
    return b""
