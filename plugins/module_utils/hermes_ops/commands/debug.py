# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""``hermes-ops debug``: write a bundle for somebody who diagnoses this host."""

from __future__ import annotations

import argparse
import json
import os
import platform
import time

from ..cli import EXIT_OK, say
from ..host.installation import Installation
from ..system.files import check_trusted, write_atomic
from ..watch import bundle as debug

SUMMARY = "write a bundle for triage, without secrets"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--output", metavar="FILE", help="default: hermes-debug-<host>-<time>.tar.gz, here")
    parser.add_argument("--lines", type=int, default=500, help="lines of each journal (%(default)s)")
    parser.add_argument("--json", action="store_true", help="print JSON for programs")


def work(arguments: argparse.Namespace) -> int:
    host = Installation.load(unmounted=True)
    name = f"hermes-debug-{platform.node()}-{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}"
    path = os.path.abspath(arguments.output or f"{name}.tar.gz")
    check_trusted(
        os.path.dirname(path),
        "go to a directory that only root can change, such as /root, or name a file there: --output",
    )
    made = debug.bundle(host, name, arguments.lines)
    write_atomic(path, made.data, mode=0o600)
    if arguments.json:
        say(json.dumps({"bundle": path, "members": made.members, "left_out": made.left_out}, indent=2))
        return EXIT_OK
    say(f"bundle: {path} ({len(made.members)} files, {len(made.data)} bytes)")
    say("redacted: the secrets known on this host, and everything named or looking like a secret")
    for member, why in sorted(made.left_out.items()):
        say(f"left out: {member}: {why}")
    return EXIT_OK
