# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether a host can run a release that it does not have yet, from what is known without packages and without network.

It is asked before anything is changed, so that nobody waits for apt to hear that the host's Python is too old. Where
nothing is known, nothing is objected to; the build then finds out.
"""

from __future__ import annotations

import contextlib
import glob
import itertools
import os
import re
import shutil
import sys
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from ..system.errors import OpsError
from ..system.files import read_text
from ..system.process import run
from .decide import decide
from .observe import observe
from .request import Request, normal_extra, shipped_lock
from .uv import SEARCH_PATH
from .versions import check_specifier, is_version, satisfies, tag_key, version_key

# A build is refused below this. A release with messaging takes 281 MB (0.19.0), and its wheels come on top.
NEEDED_BYTES = 512 * 1024 * 1024
# The machines that uv and the locked packages are made for, as uname(2) names them.
MACHINES = {"x86_64": "x86-64", "aarch64": "arm64"}
# requires-python -> the versions that declare it, from the metadata of the packages on PyPI, read on 2026-11-21.
PACKAGES = {">=3.11,<3.14": ("0.16.0", "0.17.0", "0.18.0", "0.18.1", "0.18.2", "0.19.0")}
# The same for tags of the repository, from upstream's sources. It holds for all tags between the first and the last.
TAGS = {
    ">=3.11,<3.14": ("v2026.7.7", "v2026.7.20", "v2026.8.3", "v2026.8.31", "v2026.9.24"),
    ">=3.14,<3.15": ("v0.22.1", "v0.22.5"),
}
# A range that admits one of these may mean a later version, of which nothing is known.
_LATER = ("0.1000.0", "1000.0.0")
# A version of Python in uv's syntax. Others, such as ``>=3.12``, are left to uv.
_PYTHON = re.compile(r"(?:c?python@?)?(3\.\d+)(?:\.\d+)?")
_ELSEWHERE = "name a suitable one in install_python, declare install_python_downloads: true, or use another system"


@dataclass(frozen=True)
class Host:
    """The facts about a host that decide.

    :param machine: as uname(2) names it
    :param wide: whether its system is a 64-bit one; a 32-bit system may run on a 64-bit kernel
    :param pythons: the interpreters that uv would find, such as ``3.11``, also those that missing packages bring;
        empty: nothing is known
    :param declared: the version of the interpreter in ``install_python``; None: there is no such interpreter
    :param root: where releases are installed
    :param free: bytes that are free there, or will be without the remains of builds that were killed
    """

    machine: str = "x86_64"
    wide: bool = True
    pythons: tuple[str, ...] = ()
    declared: str | None = None
    root: str = "/opt/hermes"
    free: int = 2**40


def consider(request: Request, root: str, packages: Sequence[str]) -> tuple[str | None, list[str]]:
    """The release that has to be built for *request*, None if it is there; and why this host cannot run it.

    :param packages: the packages that the host will have by then
    """
    try:
        if _is_there(request, root):
            return None, []
        needed, host = requirements(request), look(request, root, packages)
    except OpsError as error:
        # Mostly a directory, a lock or a patch is declared that is not on the host.
        patches = dict.fromkeys(request.patches, "install_patches")
        variable = {**patches, request.lock: "install_lock", request.path: "install_path"}.get(error.where)
        return None, [f"{variable}: {error}" if variable else str(error)]
    extras = f" with {', '.join(request.extras)}" if request.extras else ""
    return f"{_named(request)}{extras}", objections(request, host, needed)


def _is_there(request: Request, root: str) -> bool:
    if _is_tree(request):
        # Whether its content has changed is found out when it is installed; comparing it takes long.
        return any(
            release.intact and release.stamp["identity"].get("path") == request.path
            for release in observe(root).releases
        )
    return not decide(request, observe(root, request), current=False, keep=1).build


def _is_tree(request: Request) -> bool:
    return request.method == "path" and os.path.isfile(_project(request))


def _project(request: Request) -> str:
    return os.path.join(request.path or "", "pyproject.toml")


def requirements(request: Request) -> list[str]:
    """``requires-python`` of each release that *request* may mean; empty: it is not known."""
    if _is_tree(request) or request.method == "git":
        if request.patches:
            # A patch may change what the tree requires.
            return []
        if request.method == "git":
            return _of_tags(request)
        match = re.search(r"^requires-python\s*=\s*[\"']([^\"']+)", read_text(_project(request)) or "", re.MULTILINE)
        if match:
            check_specifier(match[1])
        return [match[1]] if match else []
    wanted = request.version
    if wanted is None or (request.is_range and any(satisfies(later, wanted) for later in _LATER)):
        return []
    specifier = wanted if request.is_range else f"=={wanted}"
    return [python for python, known in PACKAGES.items() if any(satisfies(version, specifier) for version in known)]


def _of_tags(request: Request) -> list[str]:
    if request.channel is None:
        tag = request.ref or ""
        if not is_version(tag):
            return []
        return [python for python, known in TAGS.items() if tag_key(known[0]) <= tag_key(tag) <= tag_key(known[-1])]
    if any(request.is_offered(f"v{later}") for later in _LATER):
        return []
    return [python for python, known in TAGS.items() if any(map(request.is_offered, known))]


def look(request: Request, root: str, packages: Sequence[str]) -> Host:
    """The facts about this host. Starts nothing but an interpreter that is declared by its path."""
    directories = [*SEARCH_PATH.split(":"), *glob.glob(os.path.join(glob.escape(root), "tools/python/*/bin"))]
    names = [os.path.basename(path) for directory in directories for path in glob.glob(f"{directory}/python3.*")]
    # Of packages such as python3.13 or python3.13-venv.
    coming = {name.partition("-")[0] for name in packages}
    pythons = {name[len("python") :] for name in {*names, *coming} if re.fullmatch(r"python3\.\d+", name)}
    there = root
    while not os.path.exists(there):
        there = os.path.dirname(there)
    return Host(
        machine=os.uname().machine,
        wide=sys.maxsize > 2**32,
        pythons=tuple(sorted(pythons, key=version_key)),
        declared=_declared(request, pythons, coming),
        root=root,
        free=_free(root, there),
    )


def _free(root: str, there: str) -> int:
    free = shutil.disk_usage(there).free
    if free < NEEDED_BYTES:
        # A build removes them first of all. They are looked through only here, because that takes long.
        free += _taken(os.path.join(root, "releases", name) for name in observe(root).garbage)
    return free


def _taken(directories: Iterable[str]) -> int:
    """Bytes that *directories* take on their disk."""
    sizes = {}
    for path, _directories, files in itertools.chain.from_iterable(map(os.walk, directories)):
        for name in files:
            with contextlib.suppress(FileNotFoundError):
                status = os.lstat(os.path.join(path, name))
                # Once each: uv links files to its cache, which is garbage as well.
                sizes[status.st_ino] = 512 * status.st_blocks
    return sum(sizes.values())


def _declared(request: Request, pythons: Collection[str], coming: Collection[str]) -> str | None:
    python = request.python or ""
    if not python.startswith("/"):
        match = _PYTHON.fullmatch(python)
        return match[1] if match and (request.python_downloads or match[1] in pythons) else None
    if not os.access(python, os.X_OK):
        name = os.path.basename(python)
        return name[len("python") :] if name in coming else None
    query = [python, "-I", "-c", "import platform; print(platform.python_version())"]
    version = run(query, timeout=20, check=False).stdout.strip()
    return version if is_version(version) else None


def objections(request: Request, host: Host, needed: Sequence[str]) -> list[str]:
    """Why *host* cannot run the release that *request* means, each as a sentence with its fix. Pure.

    :param needed: see :func:`requirements`
    """
    found = []
    if host.machine not in MACHINES or not host.wide:
        found.append(
            f"{_variable(request)}: {_named(request)} cannot run here: uv and the packages exist for "
            f"{' and '.join(MACHINES.values())} with a 64-bit system, and this is {host.machine}"
            f"{'' if host.wide else ' with a 32-bit system'}. Fix: use another machine or system"
        )
    if host.free < NEEDED_BYTES:
        found.append(
            f"hermes_root: {host.root} has {host.free // 2**20} MB free, a build wants {NEEDED_BYTES // 2**20} MB. "
            "Fix: free space there"
        )
    return [*found, *(_objections_to_declared if request.python else _objections_to_found)(request, host, needed)]


def _objections_to_declared(request: Request, host: Host, needed: Sequence[str]) -> list[str]:
    python = request.python or ""
    if host.declared is None:
        if not python.startswith("/") and not _PYTHON.fullmatch(python):
            return []
        where = "at " if python.startswith("/") else ""
        return [f"install_python: this host has no Python {where}{python}. Fix: install it, {_ELSEWHERE}"]
    if needed and not _fitting([host.declared], needed):
        return [
            f"install_python: {python} is Python {host.declared}, and {_named(request)} requires Python "
            f"{' or '.join(needed)}. Fix: name one that fits"
        ]
    return _objections_to_extras(request, [host.declared])


def _objections_to_found(request: Request, host: Host, needed: Sequence[str]) -> list[str]:
    fitting = _fitting(host.pythons, needed) if needed else list(host.pythons)
    if host.pythons and not fitting:
        if request.python_downloads:
            return []
        return [
            f"{_variable(request)}: {_named(request)} requires Python {' or '.join(needed)}, and this host has "
            f"Python {', '.join(host.pythons)}. Fix: {_ELSEWHERE} (docs/releases.md, What fits together)"
        ]
    return _objections_to_extras(request, fitting)


def _fitting(pythons: Sequence[str], needed: Sequence[str]) -> list[str]:
    return [python for python in pythons if any(satisfies(python, each) for each in needed)]


def _objections_to_extras(request: Request, pythons: Sequence[str]) -> list[str]:
    """Extras of a locked version with a package that the lock has for none of *pythons*."""
    if not pythons or request.method == "git" or _is_tree(request) or shipped_lock(request, request.version) is None:
        return []
    from .pins import LACKING, REQUIRES_PYTHON

    lacking = LACKING[request.version or ""]
    every = [python for number in range(99) if satisfies(python := f"3.{number}", REQUIRES_PYTHON)]
    found = []
    for extra in map(normal_extra, request.extras):
        able = [python for python in every if extra not in lacking.get(python, ())]
        if able and not {".".join(python.split(".")[:2]) for python in pythons} & set(able):
            found.append(
                f"install_extras: {extra} of {_named(request)} has no packages for Python {', '.join(pythons)}. "
                f'Fix: leave it out, or declare install_python: "{able[-1]}", and install_python_downloads: true if '
                "the host has none"
            )
    return found


def _variable(request: Request) -> str:
    if request.method == "git":
        return "install_channel" if request.channel else "install_ref"
    return "install_path" if _is_tree(request) else "hermes_version"


def _named(request: Request) -> str:
    if request.method == "path":
        return f"hermes-agent in {request.path}"
    return f"hermes-agent {request.channel or request.ref or request.version}"
