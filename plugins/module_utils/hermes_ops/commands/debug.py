# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""``hermes-ops debug``: a bundle for somebody who is to find out what is wrong with this host."""

from __future__ import annotations

import argparse
import json
import os
import platform
import time

from ..cli import EXIT_OK, say
from ..host.installation import Installation
from ..system.files import write_atomic
from ..watch import bundle as debug

SUMMARY = "write a bundle for triage, without secrets"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--output", metavar="FILE", help="without it hermes-debug-<host>-<time>.tar.gz, here")
    parser.add_argument("--lines", type=int, default=500, help="so many of each journal (%(default)s)")
    parser.add_argument("--json", action="store_true", help="print JSON for programs")


def work(arguments: argparse.Namespace) -> int:
    host = Installation.load()
    name = f"hermes-debug-{platform.node()}-{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}"
    path = os.path.abspath(arguments.output or f"{name}.tar.gz")
    data, members = debug.bundle(host, name, arguments.lines)
    write_atomic(path, data, mode=0o600)
    if arguments.json:
        say(json.dumps({"bundle": path, "members": members}, indent=2))
    else:
        say(f"bundle: {path} ({len(members)} files, {len(data)} bytes)")
        say("searched for every secret that this host knows: none is in it")
    return EXIT_OK
