# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""``hermes-ops verify``: check that an archive is complete and undamaged."""

from __future__ import annotations

import argparse
import json

from ..backup import archives, extracting
from ..cli import EXIT_OK, EXIT_UNHEALTHY, say
from ..system.errors import OpsError
from . import backup as command_backup

SUMMARY = "check that an archive is complete and undamaged"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("archive", nargs="?", default="latest", help="a file, or latest: the newest of each agent")
    parser.add_argument("--agent", help="with latest: this agent only")
    parser.add_argument("--json", action="store_true", help="print JSON for programs")


def work(arguments: argparse.Namespace) -> int:
    paths = [arguments.archive]
    if arguments.archive == "latest":
        host = command_backup.installation()
        newest = {each.agent: each.path for each in archives.listed(archives.directory_of(host), arguments.agent)}
        if not newest:
            raise OpsError("there is no archive on this host", fix="make one: hermes-ops backup")
        paths = list(newest.values())
    results = []
    for path in paths:
        try:
            manifest = extracting.verify(path)
            results.append({"path": path, "whole": True, "files": manifest.members})
            said = ("agent", "host", "created", "version", "problems", "left_out")
            results[-1].update({key: getattr(manifest, key) for key in said})
        except OpsError as error:
            results.append({"path": path, "whole": False, "error": str(error)})
    if arguments.json:
        say(json.dumps(results, indent=2))
    for each in [] if arguments.json else results:
        if each["whole"]:
            say(f"{each['path']}: whole, {each['files']} files of {each['agent']} on {each['host']}")
        else:
            say(each["error"])
    return EXIT_OK if all(each["whole"] for each in results) else EXIT_UNHEALTHY
