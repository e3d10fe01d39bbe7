# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The playbook drill: whom it asks, how long it waits, and that it ends what it began."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

TOP = Path(__file__).resolve().parents[3]
QUESTION = "This raises the alert of every host: atlas, zeus. Type yes if you mean that"
REFUSED = "Fix: name those you mean, such as --limit atlas; or say that you mean all of them: -e drill_all=true"
pytestmark = pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")


@pytest.fixture
def drill(tmp_path: Path) -> Callable[..., Any]:
    """Run the playbook for two hosts that are this machine; returns its status, its output, and what it ran there."""
    (tmp_path / "hosts.yml").write_text(json.dumps({"hermes": {"hosts": {"atlas": {}, "zeus": {}}}}))
    ops, calls = tmp_path / "hermes-ops", tmp_path / "calls"
    environment = {
        **os.environ,
        "ANSIBLE_COLLECTIONS_PATH": str(TOP / ".cache/collections"),
        "ANSIBLE_NOCOLOR": "1",
        "ANSIBLE_LOCAL_TEMP": str(tmp_path / "local"),
        "ANSIBLE_REMOTE_TEMP": str(tmp_path / "remote"),
    }

    def run(
        *options: str, fails: bool = False, types: str | None = None, **variables: Any
    ) -> tuple[int, str, list[str]]:
        ops.write_text(f'#!/bin/sh\necho "$@" >>{calls}\necho done\nexit {2 * fails}\n')
        ops.chmod(0o755)
        calls.write_text("")
        given = {
            **{"ansible_connection": "local", "ansible_become": False, "drill_command": [str(ops)]},
            "ansible_python_interpreter": "{{ ansible_playbook_python }}",
            **variables,
        }
        words = ["ansible-playbook", "-i", "hosts.yml", "-e", json.dumps(given), *options, "alwayson.hermes.drill"]
        if types is not None:
            status, said = at_terminal(words, environment, tmp_path, types)
        else:
            done = subprocess.run(
                words,
                **{"cwd": tmp_path, "env": environment, "stdin": subprocess.DEVNULL},
                **{"capture_output": True, "text": True, "check": False},
            )
            status, said = done.returncode, done.stdout + done.stderr
        return status, " ".join(said.split()), calls.read_text().splitlines()

    return run


def at_terminal(words: list[str], environment: dict[str, str], directory: Path, types: str) -> tuple[int, str]:
    """Run *words* at a terminal, and type *types* when :data:`QUESTION` is asked."""
    pid, terminal = pty.fork()
    if not pid:
        os.chdir(directory)
        os.execvpe(words[0], words, environment)
    said, ends = "", time.monotonic() + 60
    while time.monotonic() < ends:
        if not select.select([terminal], [], [], 1)[0]:
            # Ansible drops what is typed before it reads.
            if f"{QUESTION}:" in said:
                os.write(terminal, f"{types}\r".encode())
            continue
        try:
            said += os.read(terminal, 65536).decode(errors="replace")
        except OSError:
            # How a terminal ends on Linux.
            break
    else:
        os.kill(pid, signal.SIGKILL)
    os.close(terminal)
    _pid, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status), said


def starts(*options: str) -> list[str]:
    return sorted([f"start --minutes 15{''.join(options)}"] * 2 + ["stop"] * 2)


def test_all_hosts_without_a_terminal_need_a_variable(drill):
    status, said, calls = drill(drill_seconds=1)
    assert status != 0
    assert f"Nobody said yes to the alert of every host: atlas, zeus. {REFUSED}" in said
    assert calls == []
    status, said, calls = drill(drill_seconds=1, drill_all=True)
    assert status == 0, said
    assert sorted(calls) == starts()


@pytest.mark.parametrize(("types", "right"), [("yes", True), ("y", False)])
def test_a_person_is_asked_about_all_hosts(drill, types, right):
    status, said, calls = drill(drill_seconds=1, types=types)
    assert (status == 0) is right, said
    assert QUESTION in said
    assert (REFUSED in said) is not right
    assert sorted(calls) == (starts() if right else [])


def test_hosts_that_are_named_are_not_asked_about(drill):
    status, said, calls = drill("--limit", "zeus", drill_seconds=1)
    assert status == 0, said
    assert calls == ["start --minutes 15", "stop"]
    # It is not a matter of the terminal how long it waits.
    assert "Pausing for 1 seconds" in said
    assert "stdin is not interactive" not in said


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, "would send failures instead of the heartbeat for 120 s"),
        ({"drill_silence": True}, "would send no heartbeat for 720 s"),
        ({"drill_seconds": "5"}, "would send failures instead of the heartbeat for 5 s"),
    ],
)
def test_it_lasts_until_a_ping_server_has_raised_the_alert(drill, variables, expected):
    status, said, calls = drill("--check", **variables)
    assert status == 0, said
    assert f"zeus: {expected}, and then end the drill" in said
    assert calls == []


def test_the_host_itself_ends_it_later(drill):
    # A wait that is too long to try: the host is told before it begins.
    _status, _said, calls = drill("--limit", "zeus", drill_seconds=1200, fails=True)
    assert calls[0] == "start --minutes 25"


def test_what_failed_is_ended_as_well(drill):
    status, _said, calls = drill("--limit", "zeus", drill_seconds=1, fails=True)
    assert status != 0
    assert calls == ["start --minutes 15", "stop"]
    status, said, calls = drill("--limit", "zeus", drill_seconds="soon")
    assert status != 0
    assert "drill_seconds is soon, not a number of seconds. Fix: write one such as 120" in said
    assert calls == []
