# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""``hermes-ops status``: what there is on this host, for people."""

from __future__ import annotations

import argparse
import json

from . import info
from .cli import EXIT_OK, say
from .installation import Installation


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON for programs")


def work(arguments: argparse.Namespace) -> int:
    host = Installation.load()
    found = info.gather(
        profiles=host.profiles,
        scope=host.scope,
        user=host.user,
        hermes_home=host.hermes_home,
        ops_dir=host.ops_dir,
        root=host.root,
    )
    if arguments.json:
        say(json.dumps(found, indent=2))
        return EXIT_OK
    release = found["release"]
    say(f"release  {release['id'] if release else 'none'}")
    for name, profile in found["profiles"].items():
        platforms = ", ".join(f"{key} {value}" for key, value in profile["platforms"].items()) or "no platform"
        say(f"profile  {name}: {profile['active']}, pid {profile['pid']}, {platforms}")
        for reason in profile["restart_pending"]:
            say(f"         restart pending: {reason}")
        for drift in profile["drift"]:
            say(f"         changed by hand: {drift}")
    return EXIT_OK
