# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Puts config.yaml and .env back as they last worked, without a backup."""

from __future__ import annotations

import base64
import os
import time
from collections.abc import Callable

from ..description.agent import Agent
from ..host.installation import Installation, refuse_others
from ..host.records import read_as
from ..supervise import gateway, health
from ..supervise.systemd import supervisor_of
from ..system.errors import OpsError
from ..system.files import ensure_directory, write_atomic
from ..system.worker import work
from .selection import ENV


def put_back_kept(host: Installation, agent: Agent, say: Callable[[str], object]) -> str | None:
    """Replace config.yaml and .env by the copies that last worked, and restart the gateway.

    :returns: the directory that holds the replaced files; None when nothing differed
    :raises OpsError: no copies are kept, or the agent is not healthy with them either
    """
    records, account = host.records(agent.name), host.account_of(agent)
    aside = None
    with host.lock("restore"):
        refuse_others(host, agent)
        records.prepare()
        with records.lock():
            kept, present = _copies(host, agent)
            differ = {name: data for name, data in kept.items() if data != present[name]}
            if differ:
                stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
                aside = os.path.join(host.ops_dir, "set-aside", f"{agent.name}-{stamp}")
                ensure_directory(aside, mode=0o700)
            for name in differ:
                if present[name] is not None:
                    write_atomic(os.path.join(aside, name), present[name], mode=0o600)
            texts = {name: base64.b64encode(data).decode() for name, data in differ.items()}
            if differ:
                work(account, "backup.kept:write", agent.home, texts, where=agent.home)
            for name in differ:
                say(f"{name} is the last working copy again")
        # Restart is a single order, so killing this process leaves no gateway stopped.
        host.manager_of(agent).call("reset-failed", agent.unit, check=False)
        gateway.restart(supervisor_of(host), [agent], {agent.name: records})
    result = health.wait([agent], supervisor_of(host))[0]
    say(result)
    if not result.ok:
        raise OpsError("the agent is not healthy with what last worked either", fix="see its problems above")
    return aside


def check_kept(host: Installation, agent: Agent) -> list[str]:
    """The names of the files that :func:`put_back_kept` would replace.

    :raises OpsError: no copies are kept, or another job prevents it
    """
    refuse_others(host, agent)
    kept, present = _copies(host, agent)
    return [name for name, data in kept.items() if data != present[name]]


def _copies(host: Installation, agent: Agent) -> tuple[dict[str, bytes], dict[str, bytes | None]]:
    """The kept files, and those in the home under the same names."""
    records = host.records(agent.name)
    kept = {name: data for name in ("config.yaml", ENV) if (data := records.read_kept(name)) is not None}
    if not kept:
        raise OpsError("nothing is kept yet: the agent was never healthy here", fix="converge the host: site.yml")
    paths = [os.path.join(agent.home, name) for name in kept]
    return kept, dict(zip(kept, read_as(host.account_of(agent), paths)))


def write(home: str, texts: dict[str, str]) -> None:
    """Write files of a home. Runs in workers.

    :param texts: name -> content in base64
    """
    for name, text in texts.items():
        write_atomic(os.path.join(home, name), base64.b64decode(text), mode=0o600)
