# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which profiles a gateway serves: its own, and no other.

Since 0.21.4 one gateway serves all profiles below its home, unless there is but one (gateway/status.py:
``served_profiles``, ``multiplex_standalone_reason``).
"""

from __future__ import annotations

from typing import Any

from .findings import Finding

# Why a gateway serves only its own profile, where that is as it should be.
_ALONE = "single-profile"


def serving_findings(state: dict[str, Any], parked: bool, agent: str) -> list[Finding]:
    """What is odd about the profiles that a gateway serves.

    :param state: what it says of itself, see :func:`state.checked`
    :param parked: whether a file in its home keeps gateways from serving it
    """
    found = []
    served = state.get("served_profiles", [])
    if len(served) > 1:
        found.append(
            Finding(
                "serves_others",
                f"its gateway serves {len(served)} profiles: {', '.join(served[:10])}",
                "give each profile a home of its own, below hermes_agents",
                False,
                agent,
            )
        )
    if parked:
        found.append(
            Finding(
                "parked",
                "gateway.parked lies in its home, which keeps Hermes 0.21.4 and later from serving it",
                "remove that file, and restart the gateway",
                False,
                agent,
            )
        )
    reason = state.get("multiplex_standalone_reason", "")
    if reason and _ALONE not in reason:
        found.append(
            Finding(
                "standalone",
                f"Hermes would let another gateway serve this profile, but for a reason: {reason}",
                "give the agent a home of its own; upstream removes what keeps it alone here",
                False,
                agent,
            )
        )
    return found
