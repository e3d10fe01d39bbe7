# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""``hermes-ops port``: bring skills, or the home of an OpenClaw agent, to an agent."""

from __future__ import annotations

import argparse
import collections
import functools
import json
import os
from collections.abc import Callable
from typing import Any

from ..agent import parcel, transfer
from ..cli import EXIT_OK, EXIT_UNHEALTHY, say
from ..description.agent import Agent
from ..host.installation import Installation
from ..supervise import gateway, health
from ..supervise.systemd import supervisor_of
from ..system.errors import OpsError

SUMMARY = "bring skills, or the home of an OpenClaw agent, to an agent"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("directory", help="contains skills (…/SKILL.md), or is the home of an OpenClaw agent")
    parser.add_argument("--agent", help="the agent (default: the only one, or the one named default)")
    parser.add_argument("--check", action="store_true", help="only say what would be done")
    parser.add_argument("--json", action="store_true", help="print JSON for programs")


def work(arguments: argparse.Namespace) -> int:
    host = Installation.load()
    agent = host.one(arguments.agent)
    path = os.path.abspath(arguments.directory)
    with parcel.packed(path) as (index, descriptor):
        bring = functools.partial(_bring, host, agent, os.path.basename(path), index, descriptor)
        items = bring(check=True) if arguments.check else _port(host, agent, bring)
    counts = collections.Counter(item.status for item in items)
    if arguments.json:
        fields = ("status", "source", "target", "note")
        say(json.dumps([{name: getattr(item, name) for name in fields} for item in items], indent=2))
    else:
        for item in items:
            say(item)
        summary = ", ".join(f"{number} {status}" for status, number in counts.items())
        say(f"agent {agent.name}: {summary}{'; only looked, nothing was changed' if arguments.check else ''}")
    return EXIT_UNHEALTHY if any(item.failed for item in items) else EXIT_OK


def _bring(
    host: Installation, agent: Agent, name: str, index: dict[str, Any], descriptor: int, *, check: bool
) -> list[transfer.Item]:
    soul = transfer.default_soul(host.root)
    return transfer.port(name, index, descriptor, agent.home, host.account_of(agent), soul=soul, check=check)


def _port(host: Installation, agent: Agent, bring: Callable[..., list[transfer.Item]]) -> list[transfer.Item]:
    if host.busy("update"):
        raise OpsError("an update is running", fix="wait until it has ended: hermes-ops status")
    records = host.records(agent.name)
    records.prepare()
    with records.lock():
        items = bring(check=True)
        skills = [item.target for item in items if item.status == "ported" and item.target.startswith("skills/")]
        running = supervisor_of(host).state([agent])[agent.name].running
        if skills and running:
            # A gateway caches its list of skills until it restarts (0.18.2 and 0.19.0 agent/prompt_builder.py).
            records.request_restart([f"skill: {target}" for target in skills])
        items = bring(check=False)
    if skills and running:
        gateway.restart(supervisor_of(host), [agent], {agent.name: records})
        (result,) = health.wait([agent], supervisor_of(host))
        if not result.ok:
            raise OpsError(f"all was ported, but after its restart the agent is not healthy: {result}")
    return items
