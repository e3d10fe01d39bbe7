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

    :raises OpsError: it, or the one that was asked for, does not satisfy *requires*; names both
    """
    found = _find(shop, shop.request.python or requires)
    if found is None and not shop.request.python:
        # None that fits: the host's own, for the error that names both.
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
            fix="name one in python that lies outside of a private directory, e.g. /usr/bin/python3.11",
        )
    return found


def _find(shop: Workshop, request: str | None) -> str | None:
    """What uv finds for *request*, its links resolved; None when there is no such interpreter.

    Not /usr/bin/python3: what that leads to changes with the distribution, a release must not.
    """
    downloads = [] if shop.request.python_downloads else ["--no-python-downloads"]
    arguments = ["--no-project", "--system", *downloads, *([request] if request else [])]
    try:
        return os.path.realpath(shop.uv("python", "find", *arguments, about=shop.about).strip())
    except OpsError:
        if shop.request.python_downloads and request:
            # uv only fetches one where it is told to install.
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
