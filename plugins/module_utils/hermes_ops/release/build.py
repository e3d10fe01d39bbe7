# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Apply a request for a release: build, prove, switch, prune. decide.py decides which of these are needed."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from ..system.errors import OpsError
from ..system.files import ensure_directory, lock, sync_directory, write_json
from ..system.plan import Plan
from ..system.process import run
from .decide import Decision, choose_id, decide, describe, identity, pin_installed, superfluous
from .fitness import NEEDED_BYTES
from .index import from_index, newest_version
from .observe import STAMP, observe, used_by_processes
from .proof import prove
from .request import Request, digest, read_patches
from .store import remove, retire, switch
from .tree import from_tree, newest_tag
from .uv import Index, building
from .workshop import Workshop


@dataclass
class Outcome:
    """What was done, or in check mode would be."""

    plan: Plan
    decision: Decision
    previous: str | None
    stamp: dict[str, Any] | None = None


def ensure(
    request: Request,
    index: Index,
    *,
    root: str = "/opt/hermes",
    current: bool = True,
    keep: int = 2,
    timeout: float = 900.0,
    compiled: bool = True,
    check: bool = False,
) -> Outcome:
    """Satisfy *request*: build, prove, switch, prune. Does nothing when it is already satisfied.

    :param timeout: seconds for each step of a build, and to wait for another builder
    :param compiled: compile all modules; otherwise the caller does
    :param check: only say what would be done
    :raises OpsError: it failed; the current release is unchanged
    """
    outcome = _consider(request, root, current, keep)
    if check or not outcome.plan.changed:
        return outcome
    with _alone(root, timeout) as descriptor:
        releases = os.path.join(root, "releases")
        # Another builder may have done it while we waited.
        outcome = _consider(request, root, current, keep)
        for name in outcome.decision.garbage:
            remove(os.path.join(releases, name))
        if outcome.decision.build:
            before = observe(root)
            wanted = pin_installed(request, before)
            stamp = build(Workshop(wanted, index, root, timeout, descriptor, compiled), outcome.decision)
            built = before.find(stamp["id"]) is None
            outcome = _after_build(outcome, request, root, current, keep, stamp, built)
        if outcome.decision.switch:
            switch(root, outcome.decision.release_id or "")
        for name in outcome.decision.remove:
            retire(releases, name)
    return outcome


def newest(request: Request, index: Index, *, root: str = "/opt/hermes", timeout: float = 900.0) -> Request:
    """*request* pinned to the newest that is offered: a version of its range, or a tag and commit of its channel.

    Builds and changes nothing. A request that is no range is returned as it is, without asking the network.

    :param timeout: seconds for each question, and to wait for another builder
    :raises OpsError: nothing in the range is offered, or the index or repository cannot be reached
    """
    if not request.is_range:
        return request
    with _alone(root, timeout) as descriptor:
        # Left by a process that was killed.
        remove(os.path.join(root, "releases", "newest.work"))
        shop = Workshop(request, index, root, timeout, descriptor)
        with shop.opened("newest"):
            return _pin(shop)


@contextlib.contextmanager
def _alone(root: str, timeout: float) -> Iterator[int]:
    """Hold the lock of the only builder below *root*; yields its descriptor."""
    with building():
        for directory in (root, os.path.join(root, "releases"), os.path.join(root, "tools")):
            ensure_directory(directory, mode=0o755)
        with lock(os.path.join(root, ".lock"), timeout=timeout) as descriptor:
            yield descriptor


def _consider(request: Request, root: str, current: bool, keep: int) -> Outcome:
    observed = observe(root, request)
    decision = decide(request, observed, current=current, keep=keep)
    if decision.remove:
        # Walking /proc is slow, so it is done only when something could be removed.
        decision = decide(request, observed, current=current, keep=keep, in_use=used_by_processes(root))
    there = observed.find(decision.release_id)
    return Outcome(describe(decision, observed, request), decision, observed.current, there.stamp if there else None)


def _after_build(
    before: Outcome, request: Request, root: str, current: bool, keep: int, stamp: dict[str, Any], built: bool
) -> Outcome:
    """The outcome now that the version is known and the release is there: the build, and what is left to do.

    :param built: it was built now; the newest of a range may have been there
    """
    name = stamp["id"]
    observed = observe(root)
    switch = current and observed.current != name
    gone = superfluous(observed, name, switch=switch, keep=keep)
    if gone:
        gone = superfluous(observed, name, switch=switch, keep=keep, in_use=used_by_processes(root))
    decision = Decision(stamp["version"], name, built, switch, gone, before.decision.garbage)
    return Outcome(describe(decision, observed, request), decision, before.previous, stamp)


def build(shop: Workshop, decision: Decision) -> dict[str, Any]:
    """Build what *decision* names, beside all other releases, and return its stamp."""
    free = shutil.disk_usage(shop.root).free
    if free < NEEDED_BYTES:
        raise OpsError(
            f"has {free // 2**20} MB free, a build wants {NEEDED_BYTES // 2**20} MB; nothing was changed",
            where=shop.root,
            fix="free space there",
        )
    with shop.opened(decision.release_id or "unresolved"):
        version, name = decision.version, decision.release_id
        if name is None:
            # The newest of a range or channel, whose name is known only now.
            shop.request = _pin(shop)
            version, observed = shop.request.version, observe(shop.root)
            name = choose_id(shop.request, version, observed)
            there = observed.find(name)
            if there:
                return there.stamp
            shop.partial = os.path.join(os.path.dirname(shop.partial), f"{name}.partial")
        stamp = _fill(shop, version, name)
        _complete(shop, stamp)
    return stamp


def _pin(shop: Workshop) -> Request:
    if shop.request.channel:
        ref, commit = newest_tag(shop)
        return replace(shop.request, channel=None, ref=ref, commit=commit)
    return replace(shop.request, version=newest_version(shop, shop.request.version or ""))


def _fill(shop: Workshop, version: str | None, name: str) -> dict[str, Any]:
    if shop.request.method == "git" or (shop.tree is not None and shop.tree.versions is None):
        stamp = from_tree(shop)
    else:
        stamp = from_index(shop, version or "")
    _close_to_others(shop.partial)
    version = stamp["version"] = prove(shop, stamp["version"])
    return {
        "id": name,
        "method": shop.request.method,
        **stamp,
        "extras": list(shop.request.extras),
        "uv": shop.uv.version,
        "patches": [{"name": name, "sha256": digest(text)} for name, text in read_patches(shop.request)],
        "built": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(_now())),
        "identity": identity(shop.request, version, shop.tree),
    }


def _now() -> float:
    """The time, unless a build is to be the same each time: https://reproducible-builds.org/specs/source-date-epoch/"""
    return float(os.environ.get("SOURCE_DATE_EPOCH") or time.time())


def _complete(shop: Workshop, stamp: dict[str, Any]) -> None:
    """Write the stamp, sync everything to disk, and rename the directory, which makes it a release.

    Its name is free (:func:`decide.choose_id`): a complete release is never replaced.
    """
    write_json(os.path.join(shop.partial, STAMP), stamp, mode=0o644)
    # A release that a power cut left half on disk would look complete.
    run(["sync", "--file-system", shop.partial], timeout=shop.timeout, check=False)
    final = os.path.join(os.path.dirname(shop.partial), stamp["id"])
    os.rename(shop.partial, final)
    sync_directory(os.path.dirname(final))


def _close_to_others(path: str) -> None:
    """Make all files readable for everybody and writable for their owner only, whatever a wheel or tree had set."""
    for entry in _walk(path):
        mode = entry.stat(follow_symlinks=False).st_mode
        wanted = 0o755 if stat.S_ISDIR(mode) or mode & stat.S_IXUSR else 0o644
        if stat.S_IMODE(mode) != wanted:
            os.chmod(entry.path, wanted)
    os.chmod(path, 0o755)


def _walk(path: str) -> Iterator[os.DirEntry[str]]:
    with os.scandir(path) as entries:
        for entry in entries:
            if entry.is_symlink():
                continue
            yield entry
            if entry.is_dir():
                yield from _walk(entry.path)
