# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a gateway says of itself."""

from __future__ import annotations

import os
from typing import Any

from ..system.errors import OpsError
from ..system.files import Owner, acting_as, read_json


def read_state(home: str, owner: Owner) -> dict[str, Any]:
    """What Hermes says of itself in gateway_state.json, ``{}`` when that says nothing.

    The agent may write there whatever it wants, and a power cut leaves the file empty: neither is an error of ours.
    """
    try:
        with acting_as(owner):
            state = read_json(os.path.join(home, "gateway_state.json"))
    except (OpsError, RecursionError):
        return {}
    if not isinstance(state, dict):
        return {}
    platforms = state.get("platforms")
    platforms = platforms if isinstance(platforms, dict) else {}
    pid = state.get("pid")
    return {
        **state,
        "pid": pid if isinstance(pid, int) and not isinstance(pid, bool) else 0,
        "platforms": {name: value for name, value in platforms.items() if isinstance(value, dict)},
    }
