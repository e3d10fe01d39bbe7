# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A release from an index, or from a directory of wheels."""

from __future__ import annotations

import os
import re
from typing import Any

from ..system.errors import OpsError
from ..system.files import read_text
from .interpreter import interpreter_for
from .patches import apply_patches
from .request import lock_text, normal_extra, shipped_lock
from .uv import PythonMismatch
from .workshop import Workshop, locking


def from_index(shop: Workshop, version: str) -> dict[str, Any]:
    shop.about = f"hermes-agent {version}"
    extras = f"[{','.join(shop.request.extras)}]" if shop.request.extras else ""
    requirement = f"hermes-agent{extras}=={version}"
    locked, text, requires = _lock_for(shop, version)
    python = interpreter_for(shop, requires or _requires(shop, version, text))
    if text is None:
        text = shop.resolve(requirement, python, "--generate-hashes")
    shop.environment(python)
    requirements = shop.write("requirements.txt", requirement + "\n")
    shop.install(requirements, text, "--requirement", requirements)
    requires = _check_metadata(shop)
    shop.compile(apply_patches(shop, shop.packages))
    return {
        "version": version,
        "source": {"index": shop.index.wheels or shop.index.url},
        "python": {"path": python, "requires": requires},
        **locking(locked, text),
    }


def newest_version(shop: Workshop, specifier: str) -> str:
    """The newest version in *specifier* that the index has for an interpreter of this host."""
    shop.about = f"hermes-agent {specifier}"
    try:
        text = shop.resolve(f"hermes-agent{specifier}", interpreter_for(shop, None), "--no-deps")
    except PythonMismatch as mismatch:
        text = shop.resolve(f"hermes-agent{specifier}", interpreter_for(shop, mismatch.requires), "--no-deps")
    return re.findall(r"^hermes-agent==([^\s;\\]+)", text, re.MULTILINE)[0]


def _check_metadata(shop: Workshop) -> str | None:
    """``requires-python`` of the installed hermes-agent.

    :raises OpsError: it has no such extra, which uv only warns about
    """
    metadata = _metadata(shop.packages)
    offered = {normal_extra(name) for name in re.findall(r"^Provides-Extra: (\S+)", metadata, re.MULTILINE)}
    unknown = [extra for extra in shop.request.extras if normal_extra(extra) not in offered]
    if unknown:
        raise OpsError(
            f"{shop.about} has no extra {', '.join(unknown)}; nothing was changed",
            where="extras",
            fix="it has " + ", ".join(sorted(offered)),
        )
    return _requires_python(metadata)


def _requires(shop: Workshop, version: str, lock: str | None) -> str | None:
    """``requires-python`` from the metadata of a version for which no lock is shipped.

    Read before anything is resolved, because uv heeds only the lower bound and would install on an interpreter that
    is too new.
    """
    target = os.path.join(shop.work, "metadata")
    pins = ["--require-hashes", "--constraint", shop.write("given.txt", lock)] if lock else []
    wanted = shop.write("metadata.txt", f"hermes-agent=={version}\n")
    try:
        shop.uv(
            "pip", "install", "--quiet", "--no-deps", "--target", target, "--python", interpreter_for(shop, None),
            *pins, *shop.uv.source, "--requirement", wanted, about=shop.about,
        )  # fmt: skip
    except PythonMismatch as mismatch:
        return mismatch.requires
    return _requires_python(_metadata(target))


def _lock_for(shop: Workshop, version: str) -> tuple[str, str | None, str | None]:
    """The kind of the lock, its text (None: no lock), and its ``requires-python`` (None: unknown)."""
    if shop.request.lock == "none":
        return "none", None, None
    if shop.request.lock != "auto":
        return "given", lock_text(shop.request.lock), None
    text = shipped_lock(shop.request, version)
    if text is None:
        return "none", None, None
    from .pins import REQUIRES_PYTHON

    return "shipped", text, REQUIRES_PYTHON


def _metadata(packages: str) -> str:
    """The METADATA of hermes-agent as installed in *packages*."""
    name = next(name for name in os.listdir(packages) if re.match(r"hermes_agent-.*\.dist-info$", name))
    return read_text(os.path.join(packages, name, "METADATA")) or ""


def _requires_python(metadata: str) -> str | None:
    match = re.search(r"^Requires-Python: (\S+)", metadata, re.MULTILINE)
    return match[1] if match else None
