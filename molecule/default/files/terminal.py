# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Plays a person at a terminal: types into root's shell, and prints what the terminal showed.

terminal.py '[["what to wait for", "what to type then"], …]'
"""

from __future__ import annotations

import json
import os
import pty
import select
import sys

# Seconds without output after which a test fails; no passing test waits that long.
PATIENCE = 60


def main() -> None:
    steps = json.loads(sys.argv[1])
    pid, terminal = pty.fork()
    if pid == 0:
        os.environ.update(PS1="READY> ", TERM="xterm", MARKER="the secret of root's shell")
        os.execvp("bash", ["bash", "--norc", "--noprofile", "-i"])
    shown, done = "", 0
    while True:
        if steps and steps[0][0] in shown[done:]:
            done = len(shown)
            os.write(terminal, steps.pop(0)[1].encode())
            continue
        readable, _, _ = select.select([terminal], [], [], PATIENCE)
        try:
            said = os.read(terminal, 1 << 16) if readable else b""
        except OSError:
            said = b""
        if not said:
            break
        shown += said.decode(errors="replace")
    print(json.dumps({"shown": shown, "left": steps}))


if __name__ == "__main__":
    main()
