# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The command ``hermes`` works like any other, and hands nothing of its caller's to the agent's code."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from control import Controller

FILES = Path(__file__).resolve().parent.parent / "files"
CURRENT = "/opt/hermes/current"
HOME = "/var/lib/hermes/agents/default/.hermes"
KNOWN = {
    *("HERMES_DISABLE_LAZY_INSTALLS", "HERMES_HOME", "HOME", "LANG", "LOGNAME", "PATH", "SHELL", "TERM", "USER"),
    # Set by systemd, the shell and Python.
    *("INVOCATION_ID", "SYSTEMD_EXEC_PID", "MEMORY_PRESSURE_WATCH", "MEMORY_PRESSURE_WRITE"),
    *("OLDPWD", "PWD", "_", "SHLVL", "LC_CTYPE"),
}


class Caller:
    """Root in a box."""

    def __init__(self, host):
        self.controller = Controller(host)

    def run(self, command):
        """The standard output of *command*, and its exit status."""
        said, _, status = (
            self.controller.shell(f"export MARKER=root; cd /root; rc=0; {{ {command}; }} || rc=$?; echo; echo $rc")
            .rpartition("\n")[0]
            .rpartition("\n")
        )
        return said.removesuffix("\n"), int(status)

    def at_a_terminal(self, *steps):
        """Type into root's shell, and return what the terminal showed.

        :param steps: a text to wait for, and the keys to type then
        """
        steps = [*([wait, keys] for wait, keys in steps), ["READY> ", "exit\n"]]
        answer = json.loads(self.controller.shell('python3 /opt/terminal.py "$1"', json.dumps(steps)))
        assert answer["left"] == [], answer["shown"]
        return answer["shown"]


@pytest.fixture
def caller(host):
    caller = Caller(host)
    caller.controller.write("/opt/terminal.py", (FILES / "terminal.py").read_text())
    return caller


@pytest.fixture
def hostile(caller):
    """Replaces the agent's code by files/hostile.py for a test."""
    current = caller.controller.shell(f"readlink {CURRENT}").strip()
    caller.controller.shell("mkdir -p /opt/hostile/bin")
    caller.controller.write("/opt/hostile/bin/hermes", (FILES / "hostile.py").read_text())
    caller.controller.shell(
        f"chmod 0755 /opt/hostile /opt/hostile/bin /opt/hostile/bin/*; ln -sfn /opt/hostile {CURRENT}"
    )
    yield
    caller.controller.shell(f"ln -sfn {current} {CURRENT}")


def found_in(text):
    return json.loads(re.search(r"\{\"descriptors\".*\}", text)[0])


def test_root_s_terminal_and_environment_stay_root_s(hostile, caller):
    shown = caller.at_a_terminal(("READY> ", "tty\n"), ("READY> ", "cd /root; hermes look\n"))
    found = found_in(shown)
    # The line went into a terminal of the code's own; root's shell would have answered it.
    assert "proved" not in shown
    (ours,) = re.findall(r"(/dev/pts/\d+)\r\n", shown)
    assert found["terminals"] == [True, True, True]
    assert ours not in found["descriptors"].values()
    assert not found["marked"]
    assert set(found["environment"]) <= KNOWN
    assert found["confined"]
    assert found["user"] != 0
    # In the sandbox /root is empty, and not accessible.
    assert found["directory"] == HOME


@pytest.mark.parametrize(
    "command",
    [
        "hermes look 2>/dev/null",
        "hermes look | cat",
        "echo hello | hermes look",
        "hermes look </dev/null",
        "hermes look 2>&1 | cat",
        "hermes look <&-",
    ],
)
def test_a_terminal_among_other_things_is_not_handed_on(hostile, caller, command):
    shown = caller.at_a_terminal(("READY> ", f"{command}\n"))
    found = found_in(shown)
    assert "proved" not in shown
    assert not found["has_terminal"]
    assert found["pushed"] == []
    assert all(path.startswith("pipe:") for path in found["descriptors"].values())
    assert not found["marked"]


def test_no_file_of_root_s_is_handed_on(hostile, caller):
    caller.run("echo before >/root/log; hermes look </etc/shadow >>/root/log 2>>/root/log")
    before, said = caller.controller.shell("cat /root/log").split("\n", 1)
    assert before == "before"
    assert all(path.startswith("pipe:") for path in found_in(said)["descriptors"].values())


def test_its_exit_status_is_handed_on(hostile, caller):
    assert [caller.run(f"hermes exit {status}")[1] for status in (0, 1, 75, 255)] == [0, 1, 75, 255]
    # The status is the same as in a shell, also for signals that systemd counts as success.
    assert [caller.run(f"hermes die {number} 2>/dev/null")[1] for number in (2, 9, 15)] == [130, 137, 143]
    shown = caller.at_a_terminal(("READY> ", "hermes exit 3; echo it was $?\n"))
    assert "it was 3" in shown


def test_its_words_are_handed_on_as_they_are(hostile, caller):
    words = ["$HOME", "${HOME}", "$$", "%i %%", "a  b", "it's", "", "\\n", '"', "--", "-p", "x", "*"]
    answer = caller.controller.shell('hermes words "$@"', *words)
    assert json.loads(answer) == words


def test_what_goes_in_and_what_comes_out_is_whole(hostile, caller):
    assert caller.run("hermes much 5000000 | wc --bytes")[0] == "5000000"
    assert caller.run("echo hello | hermes shout 2>/dev/null")[0].strip() == "HELLO"
    assert caller.run("hermes shout </dev/null 2>&1 >/dev/null")[0].strip() == "done"
    # The command ends when its reader is gone.
    assert caller.run("hermes much 50000000 2>/dev/null | head --bytes 1")[0] == "x"


@pytest.mark.parametrize("redirection", ["", " | cat"])
def test_ctrl_c_ends_it_and_nothing_is_left(hostile, caller, redirection):
    shown = caller.at_a_terminal(
        ("READY> ", f"hermes wait{redirection}; echo it was ${{PIPESTATUS[0]}}\n"), ("waiting\r\n", "\x03")
    )
    assert "KeyboardInterrupt" in shown
    if not redirection:
        assert "it was 130" in shown
    # The command may be answered a moment before systemd forgets the failed unit.
    left = 'systemctl list-units --all --no-legend "hermes-run-*"'
    assert caller.run(f"timeout 30 sh -c 'while {left} | grep .; do sleep 0.1; done'")[1] == 0


def test_it_is_the_caller_s_directory_where_the_agent_may_be_there(hostile, caller):
    assert found_in(caller.run("cd /srv; hermes look")[0])["directory"] == "/srv"
    assert found_in(caller.run("mkdir -p /tmp/here; cd /tmp/here; hermes look")[0])["directory"] == HOME


def test_an_administrator_s_call_is_confined_too(hostile, caller):
    found = found_in(caller.run("cd /; runuser -u ops -- hermes look")[0])
    assert found["confined"]
    assert all(path.startswith("pipe:") for path in found["descriptors"].values())


def test_the_agent_s_own_user_runs_it_where_it_is(hostile, caller):
    found = found_in(caller.run("cd /; runuser -u hermes-default -- hermes look")[0])
    assert not found["confined"]
    assert found["user"] == int(caller.run("id --user hermes-default")[0])


def test_a_name_that_no_agent_has(caller):
    said, status = caller.run("hermes -p nobody status 2>&1")
    assert status == 2
    assert "there is no agent 'nobody'" in said
    assert "known ones: default" in said


def test_a_chat_with_the_real_one(caller):
    assert caller.run("hermes -z 'in one go'")[0].strip() == "The model heard: in one go"
    assert re.match(r"Hermes Agent v\d", caller.run("hermes --version | cat")[0])
    shown = caller.at_a_terminal(
        ("READY> ", "hermes chat\n"),
        ("Welcome", "by hand\r"),
        ("The model heard: by hand", "/exit\r"),
    )
    assert "Resume this session with" in shown
