# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Kills at an exact moment: Python reports its next action to an audit hook (sys.addaudithook).

A file in the box names the event and the words in its arguments at which Python kills itself with SIGKILL. A scenario
imports the fixture from here.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

ORDER = "/run/kill/at"
_KILLER = f"""
import os, signal, sys

def prepare():
    try:
        with open("{ORDER}") as stream:
            event, words = stream.read().split("\\n")[:2]
    except FileNotFoundError:
        return

    def hook(name, arguments):
        if name == event and words in repr(arguments) and os.path.exists("{ORDER}"):
            os.rename("{ORDER}", "{ORDER}.done")
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)

prepare()
"""


class Killer:
    def __init__(self, controller: Any) -> None:
        self.controller = controller

    def order(self, event: str, words: str) -> None:
        """Kill the next Python in the box that is about to do *event* with *words* in its arguments."""
        self.controller.write(ORDER, f"{event}\n{words}\n")

    def obeyed(self, said: str = "") -> None:
        """Check that the kill has happened at the ordered event.

        :param said: the output of what should have been killed, shown if it was not
        """
        last = self.controller.shell(f"cat {ORDER} 2>/dev/null || rm {ORDER}.done")
        assert not last, f"not killed at {last}\n{said}"


@pytest.fixture
def killer(controller: Any) -> Iterator[Killer]:
    """Installs the hook in the box's Python for the test."""
    site = controller.shell("python3 -c 'import site; print(site.getsitepackages()[0])'").strip()
    # The hook renames the order as root or as the agent's user.
    controller.shell('mkdir -p "$1" && mkdir -p -m 0777 /run/kill', site)
    controller.write(f"{site}/killer.py", _KILLER)
    controller.write(f"{site}/killer.pth", "import killer\n")
    yield Killer(controller)
    controller.shell('rm -rf "$1"/killer.* "$1"/__pycache__/killer.* /run/kill', site)
