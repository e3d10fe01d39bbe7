# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Findings about the sources of secrets, and about the wall before the metadata service."""

from __future__ import annotations

from ..host import metadata
from ..secrets import settings, store
from ..system.errors import OpsError
from ..system.text import moment
from .expiry import token_end
from .findings import Finding

# A source may be away for this many looks, and at least for so many seconds, before that is a failure.
LOOKS, SECONDS = 10, 600


def source_findings(agent: str, now: float) -> list[Finding]:
    """Findings about the secrets of *agent*, which has a source."""
    try:
        status, is_there = store.status_of(agent), store.secrets_of(agent) is not None
        late = max(SECONDS, LOOKS * settings.interval())
    except OpsError as error:
        what = f"its secrets cannot be looked at: {error.where} {error.what}"
        return [Finding("secrets_unknown", what, error.fix or "see dmesg", agent=agent)]
    why, fix = status.what or "not fetched yet", status.fix or f"see systemctl status {store.unit_of(agent)}"
    if not is_there:
        return [Finding("secrets_missing", f"it has no secrets, so its gateway waits: {why}", fix, agent=agent)]
    found = []
    # Also if nothing fetches any more: then nothing says that it fails.
    if status.failed or now - status.fetched > late:
        why = status.what or "nothing fetches them any more"
        what = f"its secrets were fetched last at {moment(status.fetched)}, and would be gone after a boot: {why}"
        fix = status.fix or "see systemctl status hermes-secrets.timer hermes-secrets.service"
        found.append(Finding("secrets_stale", what, fix, now - status.fetched > late, agent))
    if status.unwell:
        names = ", ".join(status.changed) or "nothing"
        what = f"it is not healthy since {moment(status.unwell)}, when {names} had changed in its source"
        fix = "put a value that works into the source; the one before is not kept"
        found.append(Finding("secrets_unwell", what, fix, agent=agent))
    return found


def token_ends(agent: str) -> dict[str, float]:
    """The tokens among the fetched secrets of *agent* that expire, and when (seconds since 1970)."""
    try:
        fetched = store.secrets_of(agent) or {}
    except OpsError:
        return {}
    ends = {name: token_end(value) for name, value in fetched.items()}
    return {name: end for name, end in ends.items() if end is not None}


def wall_findings() -> list[Finding]:
    """Check that the declared rules of nftables are in force."""
    if not metadata.TABLE.lost():
        return []
    what = "agents may reach the metadata service, and with it the credentials of this machine"
    return [Finding("metadata_open", what, f"load its rules: systemctl restart {metadata.TABLE.unit}")]
