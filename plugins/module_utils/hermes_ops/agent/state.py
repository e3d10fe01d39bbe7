# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reads the state that a gateway reports about itself.

Facts from gateway/status.py of 0.18.2 and 0.19.0; ``multiplex_standalone_reason`` exists since 0.21.4.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from typing import Any

from ..system import worker
from ..system.errors import OpsError
from ..system.files import Account, read_bytes
from .quote import quoted

FILE_NAME = "gateway_state.json"
# The file that Hermes writes has a few kilobytes.
_MAX_BYTES = 1024 * 1024
_MAX_NAMES = 100
_PLATFORM = ("state", "error_code", "error_message")


def read_state(home: str, account: Account) -> dict[str, Any]:
    """The state in gateway_state.json, see :func:`checked`; ``{}`` when the file cannot be used."""
    try:
        return checked(worker.work(account, "agent.state:look", home, where=home))
    except OpsError:
        return {}


def look(home: str) -> Any:
    """In a worker: the content of the file; None when it cannot be used.

    That is not an error: the agent may write anything into the file, and a power cut may leave it empty.
    """
    try:
        data = read_bytes(os.path.join(home, FILE_NAME), _MAX_BYTES + 1) or b""
        return worker.parse(data) if len(data) <= _MAX_BYTES else None
    except OpsError:
        return None


def checked(state: Any) -> dict[str, Any]:
    """The known fields of Hermes' *state*, with texts made safe to repeat; ``{}`` when there is nothing in it.

    ``pid`` (0: unknown), ``gateway_state`` if it is text, ``platforms`` (name -> ``state``, ``error_code``,
    ``error_message``), ``served_profiles`` (names), ``multiplex_standalone_reason`` (``""``: none).
    """
    if not isinstance(state, dict) or not state:
        return {}
    pid, platforms, served = state.get("pid"), state.get("platforms"), state.get("served_profiles")
    found = {
        "pid": pid if isinstance(pid, int) and not isinstance(pid, bool) else 0,
        "platforms": {
            quoted(name, 64): {key: quoted(platform[key]) for key in _PLATFORM if isinstance(platform.get(key), str)}
            for name, platform in _some(platforms if isinstance(platforms, dict) else {})
            if isinstance(platform, dict)
        },
        "served_profiles": sorted({quoted(name, 64) for name in _some(served) if isinstance(name, str)}),
        "multiplex_standalone_reason": quoted(state.get("multiplex_standalone_reason")),
    }
    if isinstance(state.get("gateway_state"), str):
        found["gateway_state"] = quoted(state["gateway_state"], 64)
    return found


def _some(values: Any) -> Iterator[Any]:
    """The first elements of a list, or items of a mapping; nothing for any other value."""
    if isinstance(values, dict):
        return itertools.islice(values.items(), _MAX_NAMES)
    return itertools.islice(values if isinstance(values, list) else (), _MAX_NAMES)
