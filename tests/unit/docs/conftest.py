# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A user of the collection who has nothing yet."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]


class User:
    """A user with an empty home and the programs of this environment.

    :ivar directory: the present directory of the user's shell
    """

    def __init__(self, home: Path) -> None:
        self.home = self.directory = home
        known = ("LANG", "LC_ALL", "PATH", "SSL_CERT_FILE")
        self.environment = {
            **{name: os.environ[name] for name in known if name in os.environ},
            "HOME": str(home),
            "EDITOR": str(home / "editor"),
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        }

    def types(self, command: str, *answers: tuple[str, str]) -> str:
        """Run *command* in the user's shell at a terminal. It writes to the user's home what it would write to /tmp.

        :param answers: the beginning of each question that it asks, in order, and what the user types
        :returns: what it said
        """
        command = command.replace("/tmp", f"{self.home}/tmp")
        pid, terminal = pty.fork()
        if not pid:
            os.chdir(self.directory)
            os.execve("/bin/bash", ["bash", "-c", f'{command} && echo "now in $PWD"'], self.environment)
        said, left, seen = "", list(answers), 0
        while True:
            try:
                said += os.read(terminal, 65536).decode(errors="replace")
            except OSError:
                # How a terminal ends on Linux.
                break
            if left and (asked := said.find(left[0][0], seen)) >= 0 and said.endswith(": "):
                seen = asked + len(left[0][0])
                os.write(terminal, f"{left.pop(0)[1]}\n".encode())
        os.close(terminal)
        _pid, status = os.waitpid(pid, 0)
        assert (status, left) == (0, []), said
        self.directory = Path(re.findall(r"now in (.+?)\r?\n", said)[-1])
        return said

    def asks(self, *command: str) -> str:
        return subprocess.run(
            command, cwd=self.directory, env=self.environment, capture_output=True, text=True, check=True
        ).stdout


@pytest.fixture
def user(tmp_path: Path) -> User:
    home = tmp_path / "user"
    (home / "tmp").mkdir(parents=True)
    return User(home)
