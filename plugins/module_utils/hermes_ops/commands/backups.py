# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""``hermes-ops backups``: list the backups, on this host and off it."""

from __future__ import annotations

import argparse
import dataclasses
import json
import time

from ..backup import archives, offsite, settings
from ..cli import EXIT_OK, say
from ..host.installation import Installation
from . import backup as command_backup

SUMMARY = "list the backups"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--agent", help="this agent only")
    parser.add_argument("--json", action="store_true", help="print JSON for programs")


def work(arguments: argparse.Namespace) -> int:
    host, wanted = command_backup.installation(), command_backup.declared()
    kept = archives.listed(archives.directory_of(host), arguments.agent)
    if arguments.json:
        found = {"archives": kept, "snapshots": _snapshots(host, wanted, arguments.agent)}
        say(json.dumps({key: [dataclasses.asdict(each) for each in value] for key, value in found.items()}, indent=2))
        return EXIT_OK
    for archive in kept:
        say(f"{_when(archive.created)}  {archive.agent:20}  {archive.size / 2**20:8.1f} MiB  {archive.path}")
    # The archives on the host are listed first, so that they are shown even when the repository is out of reach.
    snapshots = _snapshots(host, wanted, arguments.agent)
    for snapshot in snapshots:
        say(f"{_when(snapshot.created)}  {snapshot.agent:20}  {snapshot.host:12}  restic:{snapshot.id}")
    if not kept and not snapshots:
        say("there is no backup; make one: hermes-ops backup")
    return EXIT_OK


def _snapshots(host: Installation, wanted: settings.Settings, agent: str | None) -> list[offsite.Snapshot]:
    """The snapshots off the host; empty when no repository is declared, or before the first backup."""
    repository = offsite.Repository(host.ops_dir, wanted)
    return repository.snapshots(agent) if wanted.restic_repository and repository.exists() else []


def _when(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(seconds))
