# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Decide what to do so that a release is present and current. Pure functions; build.py acts on the decision."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..system.plan import Difference, Plan
from .observe import Installed, Observed, Tree
from .request import Request, available_in, digest, lock_text, read_patches, shipped_lock
from .uv import redact
from .versions import satisfies, tag_key, version_key


@dataclass(frozen=True)
class Decision:
    """What is to be done.

    :param version: to build, or already present; None: the newest of a range, or known only after the build
    :param release_id: None when it depends on a version that is not known yet
    """

    version: str | None
    release_id: str | None
    build: bool
    switch: bool
    remove: tuple[str, ...] = ()
    garbage: tuple[str, ...] = ()


def identity(request: Request, version: str | None, tree: Tree | None = None) -> dict[str, Any]:
    """Everything that distinguishes one release from another. Equal identities mean the same release.

    A range is not part of it, but the version chosen from the range is. A shipped lock counts as ``auto``: when it is
    regenerated, the installed release is not rebuilt.
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
    """The name of the release's directory: readable, and unique for its :func:`identity`. See :func:`choose_id`."""
    value = identity(request, version, tree)
    label = request.ref if request.method == "git" else value.get("version") or (tree.name if tree else "tree")
    label = re.sub(r"[^A-Za-z0-9._+-]+", "-", label or "").strip("-.") or "tree"
    return f"{label[:64]}-{digest(json.dumps(value, sort_keys=True))[:8]}"


def choose_id(request: Request, version: str | None, observed: Observed) -> str:
    """The id of the release that *request* means: of an installed one that can be used, else a free one to build.

    A complete release is never changed, since gateways may run from it. So one that cannot be used is not built again
    in its place, but beside it, as ``<id>-2``.
    """
    name = release_id(request, version, observed.tree)
    again = re.compile(rf"{re.escape(name)}(-\d+)?")
    usable = [
        release for release in observed.releases if again.fullmatch(release.id) and is_usable(release, request, version)
    ]
    if usable:
        return max(usable, key=lambda release: (release.id == observed.current, release.used)).id
    taken = {*(release.id for release in observed.releases), *observed.foreign}
    return next(free for n in itertools.count(1) if (free := f"{name}-{n}" if n > 1 else name) not in taken)


def is_usable(release: Installed, request: Request, version: str | None) -> bool:
    """Whether *release*, which has the identity of *request*, has its interpreter, and its lock if one is shipped.

    It lacks the lock if a later version of the collection was the first to ship one.
    """
    unlocked = release.stamp.get("locked") is False
    return release.intact and not (unlocked and _is_package(release) and shipped_lock(request, version) is not None)


def pin_installed(request: Request, observed: Observed) -> Request:
    """A *request* for a channel, pinned to an installed tag of the channel: the current one, else the newest.

    So an installed release is never replaced by an older one of its channel, and only an update moves up. The request
    is returned as it is when no tag of the channel is installed, or when it names no channel.
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
    """The version that a request means, as far as it is known without the network.

    For a range: the current version if it lies in the range, else the newest installed one that fits unchanged.
    So an installed version is never replaced by an older one of the range, and only an update moves up. None: the
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


def _is_package(release: Installed) -> bool:
    return release.stamp["identity"]["method"] == "pypi"


def decide(request: Request, observed: Observed, *, current: bool, keep: int, in_use: Sequence[str] = ()) -> Decision:
    """What to do so that *request* is met. Pure.

    :param current: make the release the current one
    :param keep: how many releases to keep besides the current and the requested one
    :param in_use: ids of releases that running processes use; these are always kept
    """
    request = pin_installed(request, observed)
    version = choose_version(request, observed) if request.method != "git" else None
    is_tree = observed.tree is not None and not observed.tree.versions
    known = version is not None or is_tree or (request.method == "git" and not request.is_range)
    wanted = choose_id(request, version, observed) if known else None
    there = observed.find(wanted)
    build = there is None
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

    The release that is current before the switch counts as the last used, so it is kept first.
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
