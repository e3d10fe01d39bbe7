# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""``hermes-ops disks``: what hermes-disks.service runs."""

from __future__ import annotations

import argparse
import os
import socket
import time

from ..cli import say_now
from ..supervise.disks import PERIOD, Watch

SUMMARY = "watch the agents' disks, and stop a gateway before it forgets; what hermes-disks.service runs"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--min-free-mb", type=int, required=True, help="what has to stay free on each disk")


def work(arguments: argparse.Namespace) -> int:
    watch = Watch(arguments.min_free_mb * 2**20, say_now)
    _tell_systemd("READY=1")
    while True:
        time.sleep(PERIOD)
        watch.look()


def _tell_systemd(text: str) -> None:
    """See sd_notify(3)."""
    address = os.environ.get("NOTIFY_SOCKET")
    if address:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
            # An abstract address begins with a null byte, which systemd writes as @.
            notify.sendto(text.encode(), address.replace("@", "\0", 1) if address[0] == "@" else address)
