# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Names what a run takes from an agent without which it may be unable to answer: its model, keys of providers."""

from __future__ import annotations

import re
from collections.abc import Mapping

from .part import Part

_MODEL = re.compile(r"model|model\.(default|model|provider|api_key)")
# The variables that Hermes reads for its providers (0.18.2 and 0.19.0, hermes_cli/auth.py: PROVIDER_REGISTRY), except
# those that also serve other purposes, and the keys that a declared model refers to, by the usual name.
_KEY = re.compile(
    r"\w+_API_KEY|ANTHROPIC_TOKEN|AWS_BEARER_TOKEN_BEDROCK|CLAUDE_CODE_OAUTH_TOKEN|COPILOT_GITHUB_TOKEN|HF_TOKEN"
)
_MANAGED = "managed: "


def losses(parts: Mapping[str, Part]) -> list[str]:
    """The keys of a model, and the variables with keys of providers, that are removed and not written elsewhere.

    :param parts: the changes to a home, by the names of :data:`parts.PARTS`
    """
    return [
        name
        for part, pattern in (("config", _MODEL), ("env", _KEY))
        if part in parts
        for name in _removed(parts[part])
        if pattern.fullmatch(name)
    ]


def _removed(part: Part) -> list[str]:
    """The keys that are removed. One that only moves, to another scope or from a bare value to one below it, is not."""
    changes = [(each.what.removeprefix(_MANAGED), each.after) for each in part.differences]
    written = [name for name, after in changes if after is not None]
    gone = dict.fromkeys(name for name, after in changes if after is None)
    return [name for name in gone if not any(f"{new}.".startswith(f"{name}.") for new in written)]
