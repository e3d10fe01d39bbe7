# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The releases on a host: make one current, remove others."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Container
from dataclasses import replace

from ..system.errors import OpsError
from ..system.files import sync_directory
from .decide import superfluous
from .observe import observe, used_by_processes


def switch(root: str, release: str) -> None:
    """Make *release* the current one, atomically. The caller holds the lock of *root*."""
    link = os.path.join(root, "current")
    fresh = os.path.join(root, ".current")
    with contextlib.suppress(FileNotFoundError):
        os.unlink(fresh)
    before = os.path.realpath(link)
    os.symlink(os.path.join("releases", release), fresh)
    os.replace(fresh, link)
    sync_directory(root)
    # Record the use: the order in which releases were last used decides which are kept.
    for path in (before, os.path.realpath(link)):
        with contextlib.suppress(OSError):
            os.utime(path)


def prune(root: str, *, keep: int, first: Container[str] = ()) -> None:
    """Remove all but the current release and the *keep* last used others. A release that is in use stays.

    The caller holds the lock of *root*.

    :param first: ids of releases to remove first, since nobody wants to go back to them
    """
    observed = observe(root)
    releases = tuple(replace(each, used=0.0) if each.id in first else each for each in observed.releases)
    observed = replace(observed, releases=releases)
    if superfluous(observed, observed.current, switch=False, keep=keep):
        for name in superfluous(observed, observed.current, switch=False, keep=keep, in_use=used_by_processes(root)):
            retire(os.path.join(root, "releases"), name)


def retire(releases: str, name: str) -> None:
    # Renamed first: even if the removal stops halfway, the rest is not taken for a release.
    going = os.path.join(releases, f"{name}.removed")
    os.rename(os.path.join(releases, name), going)
    remove(going)


def remove(path: str) -> None:
    try:
        shutil.rmtree(path)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise OpsError(f"cannot be removed ({error.strerror})", where=path, fix="remove it by hand") from None
