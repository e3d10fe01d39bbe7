# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The Python that a release is built with."""

from __future__ import annotations

import os

from ..system.errors import OpsError
from ..system.process import run
from .uv import PythonMismatch
from .versions import satisfies
from .workshop import Workshop


def interpreter_for(shop: Workshop, requires: str | None) -> str:
    """Path of the interpreter to build with.

    :raises OpsError: none is found, it does not satisfy *requires* (the error names both), or only root can run it
    """
    found = _find(shop, shop.request.python or requires)
    if found is None and not shop.request.python:
        # No interpreter fits. Take the host's own one for the error, which names its version and the required one.
        found = _find(shop, None)
    if found is None:
        needs = f" ({shop.about} requires {requires})" if requires else ""
        raise OpsError(
            f"{shop.about}: this host has no Python {shop.request.python or ''}{needs}; nothing was changed",
            where="python",
            fix="install it, name another in python, or allow python_downloads",
        )
    query = [found, "-I", "-c", "import platform; print(platform.python_version())"]
    version = run(query, timeout=20).stdout.strip()
    if requires and not satisfies(version, requires):
        raise PythonMismatch(shop.about, version, requires, found)
    if not _everybody_can_run(shop, query):
        raise OpsError(
            f"{shop.about}: only root can run this interpreter; nothing was changed",
            where=found,
            fix="set python to one outside private directories, e.g. /usr/bin/python3.11",
        )
    return found


def _find(shop: Workshop, request: str | None) -> str | None:
    """The interpreter that uv finds for *request*, its links resolved; None when there is none.

    Links are resolved because the target of /usr/bin/python3 changes with the distribution, but a release must not
    change.
    """
    downloads = [] if shop.request.python_downloads else ["--no-python-downloads"]
    arguments = ["--no-project", "--system", *downloads, *([request] if request else [])]
    try:
        return os.path.realpath(shop.uv("python", "find", *arguments, about=shop.about).strip())
    except OpsError:
        if shop.request.python_downloads and request:
            shop.uv.own_lock()
            # uv downloads an interpreter only when told to install one.
            shop.uv("python", "install", "--no-bin", request, about=f"Python {request}")
            return os.path.realpath(shop.uv("python", "find", *arguments, about=shop.about).strip())
        return None


def _everybody_can_run(shop: Workshop, argv: list[str]) -> bool:
    if shop.nobody is None:
        return True
    try:
        return run(argv, timeout=20, check=False, user=shop.nobody, cwd="/").ok
    except OpsError:
        return False
