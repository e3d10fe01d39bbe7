# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""config.yaml and .env as they last worked, put back without a backup."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

from ..host.installation import Installation
from ..supervise import gateway, health
from ..system.errors import OpsError
from ..system.files import acting_as, ensure_directory, read_bytes, write_atomic
from .making import refuse_unfinished
from .selection import ENV


def refuse_update(host: Installation) -> None:
    if host.busy("update") or host.unfinished("update"):
        raise OpsError("an update is running or was interrupted", fix="wait for it, or: hermes-ops update --recover")


def put_back_kept(host: Installation, profile: dict[str, Any], say: Callable[[str], object]) -> str | None:
    """Give config.yaml and .env back the copies that last proved to work, and the gateway a fresh start (B8).

    :returns: the directory that holds what was there; None when nothing differed
    :raises OpsError: when nothing is kept, or the agent is not healthy with it either
    """
    records = host.records(profile["name"])
    aside = None
    with host.lock("restore"):
        refuse_update(host)
        refuse_unfinished(host)
        records.prepare()
        kept = {name: records.read_kept(name) for name in ("config.yaml", ENV)}
        if not any(data is not None for data in kept.values()):
            raise OpsError("nothing is kept yet: no agent was ever healthy here", fix="converge the host: site.yml")
        with records.lock():
            for name, data in kept.items():
                path = os.path.join(profile["home"], name)
                with acting_as(host.owner):
                    present = read_bytes(path)
                if data is None or data == present:
                    continue
                if aside is None:
                    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
                    aside = os.path.join(host.ops_dir, "set-aside", f"{profile['name']}-{stamp}")
                    ensure_directory(aside, mode=0o700)
                if present is not None:
                    write_atomic(os.path.join(aside, name), present, mode=0o600)
                with acting_as(host.owner):
                    write_atomic(path, data, mode=0o600)
                say(f"{name} is the last working copy again")
        # One order: whoever ends us now ends no gateway.
        host.manager.call("reset-failed", profile["unit"], check=False)
        gateway.restart(host.manager, [profile], {profile["name"]: records}, [profile["name"]])
    result = health.wait([profile], host.manager, host.owner)[0]
    say(result)
    if not result.ok:
        raise OpsError("the agent is not healthy with what last worked either", fix="see what it says above")
    return aside
