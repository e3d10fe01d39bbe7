# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""``hermes-ops volume``: start what could not start while the data volume was missing."""

from __future__ import annotations

import argparse

from ..cli import EXIT_ERROR, EXIT_OK, say
from ..host import guard, tailnet
from ..host.installation import Installation
from ..system.errors import OpsError
from ..system.systemd import Manager

SUMMARY = "start what waits for the data volume once that is mounted; systemd runs this"


def arguments(parser: argparse.ArgumentParser) -> None:
    pass


def work(_arguments: argparse.Namespace) -> int:
    host = Installation.load()
    # Nothing is waited for: at a boot it may be queued behind this very command. Recoveries come first, since a gateway
    # starts only after those that are queued. tailscaled also needs the volume, and may be the only way in.
    first = [*guard.posted(), *([tailnet.UNIT] if tailnet.declared_here() else [])]
    if first:
        Manager.of_host().call("start", "--no-block", *first)
    failed = False
    for agent in host.agents:
        try:
            if host.records(agent.name).moved():
                continue
            manager = host.manager_of(agent)
            # A user's manager that is still to come finds the volume mounted, and starts its gateways itself.
            if manager.reachable:
                manager.call("start", "--no-block", agent.unit)
        except OpsError as error:
            say(f"agent {agent.name}: {error}")
            failed = True
    return EXIT_ERROR if failed else EXIT_OK
