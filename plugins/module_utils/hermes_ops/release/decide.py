# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Releases: one installed version of Hermes each, built aside, proved, and never changed again.

::

    <root>/releases/<id>/            bin/python, bin/hermes, release.json, requirements.lock; src/ for git and path
    <root>/releases/<id>.partial/    being built; becomes <id> by rename(2) when it is complete and proved
    <root>/releases/<id>.work/       what the build needs beside it (cache, temporary files)
    <root>/releases/<id>.removed/    on its way out
    <root>/current -> releases/<id>  replaced by rename(2)
    <root>/.lock                     one builder at a time

An id is ``<version>-<8 hex>`` (git: ``<ref>-…``; a tree: ``<its name>-…``). The hex digits are a digest of all
that makes the release what it is, so the same version with other extras is another release. ``release.json`` is
written last before the rename: a directory without it is no release, and what it says decides, without
a look at Hermes or the network, whether there is anything to do.

Here is decided what to do; build.py does it.
"""

from __future__ import annotations

import contextlib
import fnmatch
import hashlib
import json
import os
import re
import urllib.parse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..system.errors import OpsError
from ..system.files import read_text
from ..system.plan import Difference, Plan
from .uv import redact
from .versions import Key, check_specifier, is_prerelease, is_version, satisfies, version_key

STAMP = "release.json"
GARBAGE = (".partial", ".work", ".removed")
# Never part of a release: history, other people's environments, caches.
LEFT_OUT = (".git", ".venv", "venv", "node_modules", "__pycache__", ".pytest_cache")
_FULL_COMMIT = re.compile(r"[0-9a-f]{40}([0-9a-f]{24})?")
_REF = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/+-]*")
_CHANNEL = re.compile(r"[A-Za-z0-9*?][A-Za-z0-9*?._/+-]*")
# What a unified diff begins a file with.
_DIFF = re.compile(r"^--- \S.*\n\+\+\+ \S", re.MULTILINE)


@dataclass(frozen=True)
class Request:
    """What is asked for. Raises OpsError when the parts do not make sense together.

    :param method: ``pypi``, ``git`` or ``path``
    :param version: ``pypi``, and ``path`` with wheels: exact, or a range such as ``>=0.18,<0.20``
    :param extras: extras of hermes-agent
    :param url: ``git``: any URL that git fetches from, without credentials
    :param ref: ``git``: tag or branch; must be at *commit*
    :param commit: ``git``: full commit
    :param channel: ``git``, instead of *ref* and *commit*: a glob of tags such as ``v2026.*``, which is to tags what a
        range is to versions
    :param path: ``path``: a source tree, or a directory with wheels, on the host
    :param lock: ``auto`` (shipped lock, or the tree's uv.lock), ``none``, an absolute path, or the text itself
    :param python: interpreter: absolute path or version request as uv takes it; None: uv finds one
    :param python_downloads: uv may download an interpreter when the host has none that fits
    :param patches: unified diffs (``a/gateway/run.py``) that are applied to what is built, in this order: absolute
        paths on the host, or the texts themselves
    """

    method: str = "pypi"
    version: str | None = None
    extras: tuple[str, ...] = ("homeassistant",)
    url: str | None = None
    ref: str | None = None
    commit: str | None = None
    channel: str | None = None
    path: str | None = None
    lock: str = "auto"
    python: str | None = None
    python_downloads: bool = False
    patches: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "extras", tuple(sorted(set(self.extras))))
        for extra in self.extras:
            if not re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?", extra):
                raise OpsError(f"{extra!r} is not the name of an extra", where="extras", fix="see the docs of Hermes")
        if self.version is not None and not is_version(self.version):
            check_specifier(self.version)
        if self.method == "pypi" and not self.version:
            raise OpsError("is missing", where="version", fix="write 0.19.0 or, as a range, >=0.18,<0.20")
        if self.method == "git":
            self._check_git()
        if self.method == "path" and not os.path.isabs(self.path or ""):
            raise OpsError(f"{self.path!r} is not an absolute path", where="path", fix="name a directory on the host")
        for number, patch in enumerate(self.patches, start=1):
            if not patch.startswith("/") and not _DIFF.search(patch):
                raise OpsError(
                    f"entry {number} is neither an absolute path nor a unified diff",
                    where="patches",
                    fix="name a file on the host, or give the text that git diff writes",
                )

    def _check_git(self) -> None:
        try:
            parts = urllib.parse.urlsplit(self.url or "-")
        except ValueError:
            parts = urllib.parse.urlsplit("-")
        if parts.path.startswith("-"):
            raise OpsError("is missing or no URL", where="url", fix="write https://HOST/PATH.git or git@HOST:PATH.git")
        # A token is often the whole of it (https://TOKEN@…). Only to SSH a user is no secret.
        if "@" in parts.netloc and (parts.password or parts.scheme != "ssh"):
            raise OpsError(
                "holds credentials, which would be seen in the list of processes and in release.json",
                where="url",
                fix="leave them to git's credential helper, ~/.netrc or an SSH key",
            )
        if self.channel is not None:
            if self.ref or self.commit or not _CHANNEL.fullmatch(self.channel):
                raise OpsError(
                    f"{self.channel!r} is no pattern of tags, or ref and commit are given as well",
                    where="channel",
                    fix="write a pattern such as v2026.*, or ref and commit",
                )
            return
        if not _REF.fullmatch(self.ref or ""):
            raise OpsError(f"{self.ref!r} is not a tag or branch", where="ref", fix="write a tag such as v2026.9.24")
        if not _FULL_COMMIT.fullmatch(self.commit or ""):
            raise OpsError(
                f"{self.commit!r} is not a full commit", where="commit", fix="write all 40 digits (git rev-parse TAG^0)"
            )

    @property
    def is_range(self) -> bool:
        if self.method == "git":
            return self.channel is not None
        return self.version is not None and not is_version(self.version)

    def is_offered(self, tag: str) -> bool:
        """Whether *tag* is a version of the channel; a pre-release only when the channel itself names one."""
        channel = self.channel or ""
        named = is_prerelease(re.sub("[*?]", "0", channel))
        return is_version(tag) and fnmatch.fnmatchcase(tag, channel) and (named or not is_prerelease(tag))


@dataclass(frozen=True)
class Tree:
    """What stands behind a ``path``: a source tree, or a directory of wheels with the versions in it."""

    name: str
    fingerprint: str
    versions: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Installed:
    """A complete release on the host.

    :param used: when it was built or last became, or ceased to be, the current one (mtime of its directory)
    :param intact: its interpreter is still there (an upgrade of the distribution may take it away)
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
    """What is on the host."""

    releases: tuple[Installed, ...] = ()
    current: str | None = None
    garbage: tuple[str, ...] = ()
    tree: Tree | None = None

    def find(self, release_id: str | None) -> Installed | None:
        return next((release for release in self.releases if release.id == release_id), None)


@dataclass(frozen=True)
class Decision:
    """What is to be done.

    :param version: what to build or what is there; None: the newest of a range, or only known after the build
    :param release_id: None when that depends on a version not yet known
    """

    version: str | None
    release_id: str | None
    build: bool
    switch: bool
    remove: tuple[str, ...] = ()
    garbage: tuple[str, ...] = ()


def identity(request: Request, version: str | None, tree: Tree | None = None) -> dict[str, Any]:
    """All that makes a release what it is. Two with the same identity are the same release.

    A range is not part of it, the version that came of it is. A shipped lock counts as ``auto``: one that is
    regenerated, or shipped later for the version, does not rebuild what runs.
    """
    value: dict[str, Any] = {"method": request.method, "extras": list(request.extras)}
    if request.method == "git":
        value.update(url=redact(request.url or ""), ref=request.ref, commit=request.commit)
    elif tree is not None and tree.versions is None:
        value.update(path=request.path, fingerprint=tree.fingerprint)
    else:
        value.update(method="pypi", version=version)
    if request.lock != "auto":
        value["lock"] = request.lock if request.lock == "none" else digest(lock_text(request.lock))
    if request.python:
        value["python"] = request.python
    if request.patches:
        value["patches"] = [digest(text) for _name, text in read_patches(request)]
    return value


def release_id(request: Request, version: str | None, tree: Tree | None = None) -> str:
    """The name of the release's directory: readable, and unique for its :func:`identity`."""
    value = identity(request, version, tree)
    label = request.ref if request.method == "git" else value.get("version") or (tree.name if tree else "tree")
    label = re.sub(r"[^A-Za-z0-9._+-]+", "-", label or "").strip("-.") or "tree"
    return f"{label[:64]}-{digest(json.dumps(value, sort_keys=True))[:8]}"


def digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def lock_text(value: str) -> str:
    """The lock that the parameter ``lock`` gives, by path or as text."""
    if not value.startswith("/"):
        return value
    text = read_text(value)
    if text is None:
        raise OpsError("there is no such lock file on the host", where=value, fix="copy it there, or give its text")
    return text


def read_patches(request: Request) -> list[tuple[str, str]]:
    """Name and text of each patch."""
    found = []
    for number, patch in enumerate(request.patches, start=1):
        if not patch.startswith("/"):
            found.append((f"patch {number}", patch))
            continue
        text = read_text(patch)
        if text is None:
            raise OpsError("there is no such patch on the host", where=patch, fix="copy it there, or give its text")
        found.append((os.path.basename(patch), text))
    return found


def tag_key(tag: str) -> tuple[bool, Key]:
    """A key by which tags of Hermes sort by age: by version, the years (v2026.9.24) before v0.22.1, which followed."""
    key = version_key(tag)
    return key[0][0] < 2000, key


def pin_installed(request: Request, observed: Observed) -> Request:
    """A *request* for a channel, pinned to a tag of it that is installed: the current one, else the newest.

    So nothing in a channel is ever replaced by an older one, and moving up is left to an update. Itself when there
    is none, or when it is for no channel.
    """
    if request.channel is None:
        return request
    known = [release for release in observed.releases if _is_of_channel(release, request)]
    if not known:
        return request
    chosen = next((release for release in known if release.id == observed.current), None)
    chosen = chosen or max(known, key=lambda release: tag_key(release.stamp["identity"]["ref"]))
    return replace(
        request, channel=None, ref=chosen.stamp["identity"]["ref"], commit=chosen.stamp["identity"]["commit"]
    )


def _is_of_channel(release: Installed, request: Request) -> bool:
    value = release.stamp["identity"]
    return value["method"] == "git" and value["url"] == redact(request.url or "") and request.is_offered(value["ref"])


def choose_version(request: Request, observed: Observed) -> str | None:
    """The version that a request means, as far as that is known without the network.

    For a range: what is current, when it lies in the range; else the newest installed that would do as it is.
    So nothing in a range is ever replaced by an older one, and moving up is left to an update. None: the
    newest that the index has.
    """
    available = available_in(request, observed.tree.versions if observed.tree else None)
    if not request.is_range:
        return request.version or max(available, key=version_key, default=None)
    current = observed.find(observed.current)
    if current and _is_package(current) and satisfies(current.version, request.version or ""):
        return current.version
    fitting = [
        release.version
        for release in observed.releases
        if _is_package(release)
        and satisfies(release.version, request.version or "")
        and release.stamp["identity"] == identity(request, release.version, observed.tree)
    ]
    return max(fitting or available, key=version_key, default=None)


def available_in(request: Request, versions: Sequence[str] | None) -> list[str]:
    """Those of *versions* that the request allows; a pre-release only when it is named."""
    wanted = request.version or ">=0"
    specifier = wanted if request.is_range or not request.version else f"=={wanted}"
    return [version for version in versions or () if satisfies(version, specifier)]


def _is_package(release: Installed) -> bool:
    return release.stamp["identity"]["method"] == "pypi"


def decide(request: Request, observed: Observed, *, current: bool, keep: int, in_use: Sequence[str] = ()) -> Decision:
    """What to do so that *request* is met. Pure.

    :param current: the release shall be the current one
    :param keep: how many releases stay besides the current one and the one that is asked for
    :param in_use: ids of releases that running processes use; they stay in any case
    """
    request = pin_installed(request, observed)
    version = choose_version(request, observed) if request.method != "git" else None
    is_tree = observed.tree is not None and not observed.tree.versions
    known = version is not None or is_tree or (request.method == "git" and not request.is_range)
    wanted = release_id(request, version, observed.tree) if known else None
    there = observed.find(wanted)
    build = there is None or not there.intact
    switch = current and (wanted is None or observed.current != wanted)
    return Decision(
        version=there.version if there else version,
        release_id=wanted,
        build=build,
        switch=switch,
        remove=superfluous(observed, wanted, switch=switch, keep=keep, in_use=in_use),
        garbage=observed.garbage,
    )


def superfluous(
    observed: Observed, wanted: str | None, *, switch: bool, keep: int, in_use: Sequence[str] = ()
) -> tuple[str, ...]:
    """The ids of the releases to remove, longest unused first.

    The one that is current until the switch counts as the last used, so it is always the first to be kept.
    """
    spared = {wanted, *in_use} if switch else {wanted, observed.current, *in_use}
    others = [
        release for release in observed.releases if release.id not in {wanted, None if switch else observed.current}
    ]
    others.sort(key=lambda release: (release.id == observed.current, release.used))
    surplus = others[: max(0, len(others) - keep)]
    return tuple(release.id for release in surplus if release.id not in spared)


def describe(decision: Decision, observed: Observed, request: Request) -> Plan:
    """The decision as differences, for ``changed`` and ``--diff``."""
    plan = Plan()
    name = decision.release_id or f"the newest hermes-agent {request.channel or request.version}"
    if decision.build:
        plan.add(Difference(f"release {name}", None, "present"))
    if decision.switch:
        plan.add(Difference("current", observed.current, name))
    for gone in decision.remove:
        plan.add(Difference(f"release {gone}", "present", None))
    for rest in decision.garbage:
        plan.add(Difference(f"unfinished {rest}", "present", None))
    return plan


def observe(root: str, request: Request | None = None) -> Observed:
    """Read the stamps, the link, and for ``path`` what stands there. Touches nothing, starts nothing."""
    directory = os.path.join(root, "releases")
    releases: list[Installed] = []
    garbage: list[str] = []
    with contextlib.suppress(FileNotFoundError):
        for name in sorted(os.listdir(directory)):
            if name.endswith(GARBAGE):
                garbage.append(name)
            else:
                releases += _installed(directory, name)
    try:
        current = os.path.basename(os.readlink(os.path.join(root, "current")))
    except FileNotFoundError:
        current = None
    except OSError:
        raise OpsError("is not a symbolic link", where=os.path.join(root, "current"), fix="move it away") from None
    tree = examine(request) if request is not None and request.method == "path" else None
    return Observed(tuple(releases), current, tuple(garbage), tree)


def _installed(directory: str, name: str) -> list[Installed]:
    path = os.path.join(directory, name)
    try:
        with open(os.path.join(path, STAMP), encoding="utf-8") as stream:
            stamp = json.load(stream)
        used = os.stat(path).st_mtime
    except (OSError, ValueError):
        # Somebody else's directory. It is neither used nor removed.
        return []
    return [Installed(name, stamp, used, os.path.exists(os.path.join(path, "bin", "python")))]


def examine(request: Request) -> Tree:
    """Look at the directory of method ``path``.

    A tree is fingerprinted by its contents (a copied tree has new times but is the same), a directory
    of wheels by the names and sizes of the files.

    :raises OpsError: it is neither
    """
    path = request.path or ""
    if not os.path.isdir(path):
        raise OpsError("there is no such directory on the host", where=path, fix="copy the tree or the wheels there")
    name = os.path.basename(os.path.normpath(path))
    if any(os.path.isfile(os.path.join(path, file)) for file in ("pyproject.toml", "setup.py")):
        return Tree(name, _fingerprint(path))
    files = sorted(entry.name for entry in os.scandir(path) if entry.is_file())
    versions = {m[1] for m in (re.match(r"hermes_agent-([^-]+?)(?:-.*\.whl|\.tar\.gz)$", file) for file in files) if m}
    usable = tuple(sorted((v for v in versions if is_version(v)), key=version_key))
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
    """Ids of the releases that a running process was started from or has loaded a library of."""
    pattern = re.compile(re.escape(os.path.join(root, "releases", "")).encode() + rb"([^/\0\n]+)/")
    found: set[str] = set()
    for pid in filter(str.isdigit, os.listdir("/proc")):
        for name in ("cmdline", "maps"):
            # A process may end, or not be ours to look at.
            with contextlib.suppress(OSError), open(f"/proc/{pid}/{name}", "rb") as stream:
                found.update(match.decode("utf-8", "replace") for match in pattern.findall(stream.read()))
    return sorted(found)
