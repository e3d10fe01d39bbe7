# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A request for a release."""

from __future__ import annotations

import fnmatch
import hashlib
import os
import re
import urllib.parse
from collections.abc import Sequence
from dataclasses import dataclass

from ..system.errors import OpsError
from ..system.files import read_text
from .versions import check_specifier, is_prerelease, is_version, normal, satisfies

_FULL_COMMIT = re.compile(r"[0-9a-f]{40}([0-9a-f]{24})?")
_REF = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/+-]*")
_CHANNEL = re.compile(r"[A-Za-z0-9*?][A-Za-z0-9*?._/+-]*")
# The header of a file in a unified diff.
_DIFF = re.compile(r"^--- \S.*\n\+\+\+ \S", re.MULTILINE)


@dataclass(frozen=True)
class Request:
    """The release that is wanted. Raises OpsError when the parts do not make sense together.

    :param method: ``pypi``, ``git`` or ``path``
    :param version: ``pypi``, and ``path`` with wheels: exact, or a range such as ``>=0.18,<0.20``
    :param extras: extras of hermes-agent
    :param url: ``git``: any URL that git fetches from, without credentials
    :param ref: ``git``: tag or branch; must be at *commit*
    :param commit: ``git``: full commit
    :param channel: ``git``, instead of *ref* and *commit*: a glob of tags such as ``v2026.*``, the counterpart of a
        range of versions
    :param path: ``path``: a source tree, or a directory with wheels, on the host
    :param lock: ``auto`` (shipped lock, or the tree's uv.lock), ``none``, an absolute path, or the text itself
    :param python: interpreter: absolute path, or version request in uv's syntax; None: uv finds one
    :param python_downloads: uv may download an interpreter when the host has none that fits
    :param patches: unified diffs (``a/gateway/run.py``) applied to the release as it is built, in this order:
        absolute paths on the host, or the texts themselves
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
        if self.version is not None:
            object.__setattr__(self, "version", normal(self.version))
            if not is_version(self.version):
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
        # The user part is often a token (https://TOKEN@…). Only with SSH is the user no secret.
        if "@" in parts.netloc and (parts.password or parts.scheme != "ssh"):
            raise OpsError(
                "holds credentials, which would be visible in the process list and in release.json",
                where="url",
                fix="leave them to git's credential helper, ~/.netrc or an SSH key",
            )
        if self.channel is not None:
            if self.ref or self.commit or not _CHANNEL.fullmatch(self.channel):
                raise OpsError(
                    f"{self.channel!r} is not a pattern of tags, or ref or commit is given as well",
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
        """Whether *tag* is a version in the channel; a pre-release only when the channel itself names one."""
        channel = self.channel or ""
        named = is_prerelease(re.sub("[*?]", "0", channel))
        return is_version(tag) and fnmatch.fnmatchcase(tag, channel) and (named or not is_prerelease(tag))


def available_in(request: Request, versions: Sequence[str] | None) -> list[str]:
    """The *versions* that the request allows; a pre-release only when it is named."""
    wanted = request.version or ">=0"
    specifier = wanted if request.is_range or not request.version else f"=={wanted}"
    return [version for version in versions or () if satisfies(version, specifier)]


def digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def lock_text(value: str) -> str:
    """The text of the lock in the parameter ``lock``, which is a path or the text itself."""
    if not value.startswith("/"):
        return value
    text = read_text(value)
    if text is None:
        raise OpsError("there is no such lock file on the host", where=value, fix="copy it there, or give its text")
    return text


def shipped_lock(request: Request, version: str | None) -> str | None:
    """The shipped lock with which *request* installs *version* from an index or wheels; None: there is none."""
    if request.lock != "auto":
        return None
    from .pins import HERMES

    return HERMES.get(version or "")


def normal_extra(name: str) -> str:
    """The name of an extra in the one form that packages are compared in (PEP 685)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def check_extras(request: Request) -> None:
    """:raises OpsError: an extra that the locked version does not have, which uv would only warn about"""
    # A tree may be of any version, whatever is declared.
    if request.method != "pypi" or shipped_lock(request, request.version) is None:
        return
    from .pins import EXTRAS

    known = EXTRAS[request.version or ""].split()
    for extra in request.extras:
        if normal_extra(extra) not in known:
            import difflib

            near = difflib.get_close_matches(normal_extra(extra), known, 1)
            fix = f"did you mean {near[0]}?" if near else f"it has {', '.join(known)}"
            raise OpsError(f"hermes-agent {request.version} has no extra {extra}", where="extras", fix=fix)


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
