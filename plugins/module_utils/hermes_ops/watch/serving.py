# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The profiles that a gateway serves: it should serve its own only.

Since 0.21.4 one gateway serves all profiles below its home, unless there is only one (gateway/status.py:
``served_profiles``, ``multiplex_standalone_reason``).
"""

from __future__ import annotations

from typing import Any

from .findings import Finding

# The reason that Hermes gives when a home holds one profile only, which is the intended case.
_ALONE = "single-profile"


def serving_findings(state: dict[str, Any], parked: bool, agent: str) -> list[Finding]:
    """Findings about the profiles that a gateway serves.

    :param state: the gateway's own state, see :func:`state.checked`
    :param parked: whether a file in the home keeps gateways from serving it
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
                str(len(served)),
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
                f"another gateway would serve this profile; so far Hermes makes an exception: {reason}",
                "give the agent a home of its own: upstream is removing this exception",
                False,
                agent,
            )
        )
    return found
