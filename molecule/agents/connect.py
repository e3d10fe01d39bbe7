#!/usr/bin/env python3
# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Connects ssh (ProxyCommand, ProxyUseFdpass) with a box, whose address may change with each reboot."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

BOX = Path(__file__).resolve().parent.parent.parent / "tests" / "hosts" / "box.py"

address = subprocess.check_output([sys.executable, BOX, "address", sys.argv[1]], text=True).strip()
with socket.create_connection((address, 22)) as connection, socket.socket(fileno=sys.stdout.fileno()) as ssh:
    socket.send_fds(ssh, [b"\0"], [connection.fileno()])
