#!/usr/bin/python3
# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Stands in for `hermes`: tries what an agent's code may try when somebody runs it, and prints what it found."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import sys
import termios
import time


def look() -> dict[str, object]:
    """Report the place and the descriptors that the code runs with, and try to type a line into root's shell."""
    pushed = []
    descriptors = {name: os.readlink(f"/proc/self/fd/{name}") for name in ("0", "1", "2")}
    try:
        terminal = os.open("/dev/tty", os.O_RDWR)
    except OSError:
        terminal = None
    for descriptor in (0, 1, 2, *([] if terminal is None else [terminal])):
        try:
            for character in "echo pro''ved\n":
                fcntl.ioctl(descriptor, termios.TIOCSTI, character.encode())
            pushed.append(descriptor)
        except OSError:
            pass
    environments = b""
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/environ", "rb") as stream:
                environments += stream.read()
        except OSError:
            pass
    with open("/proc/self/status") as stream:
        status = dict(line.strip().split(":\t", 1) for line in stream if ":\t" in line)
    return {
        "descriptors": descriptors,
        "terminals": [os.isatty(number) for number in (0, 1, 2)],
        "has_terminal": terminal is not None,
        "pushed": pushed,
        "marked": b"MARKER=" in environments or "MARKER" in os.environ,
        "environment": sorted(os.environ),
        "directory": os.getcwd(),
        "user": os.getuid(),
        "confined": status["NoNewPrivs"] == "1" and status["Seccomp"] == "2",
    }


def main() -> None:
    # Behind --profile NAME.
    command, *words = sys.argv[3:]
    if command == "look":
        print(json.dumps(look()))
    elif command == "words":
        print(json.dumps(words))
    elif command == "exit":
        sys.exit(int(words[0]))
    elif command == "die":
        os.kill(os.getpid(), int(words[0]))
    elif command == "much":
        sys.stdout.write("x" * int(words[0]))
    elif command == "shout":
        print(sys.stdin.read().upper())
        print("done", file=sys.stderr)
    elif command == "wait":
        signal.signal(signal.SIGINT, signal.default_int_handler)
        print("waiting", flush=True)
        time.sleep(600)


if __name__ == "__main__":
    main()
