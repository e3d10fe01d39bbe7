# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""``hermes``: which agent it selects, and as which user its command runs."""

from __future__ import annotations

import os
import subprocess

import described
import pytest
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops import cli
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.commands import run
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.host import kit
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.host.installation import Published
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.files import Account


@pytest.mark.parametrize(
    ("words", "name", "rest"),
    [
        ([], None, []),
        (["chat", "-q", "hello there"], None, ["chat", "-q", "hello there"]),
        (["-p", "coder", "chat"], "coder", ["chat"]),
        (["--profile", "coder"], "coder", []),
        (["--profile=coder", "status"], "coder", ["status"]),
        (["-m", "a/b", "--yolo", "-p", "coder", "chat"], "coder", ["-m", "a/b", "--yolo", "chat"]),
        # The value of another option, or an option of the command.
        (["-z", "-p", "coder"], None, ["-z", "-p", "coder"]),
        (["cron", "create", "-p", "coder"], None, ["cron", "create", "-p", "coder"]),
        (["mcp", "add", "--profile=coder"], None, ["mcp", "add", "--profile=coder"]),
        (["--", "-p", "coder"], None, ["--", "-p", "coder"]),
        (["--resume", "1", "-p", "coder"], "coder", ["--resume", "1"]),
        (["-c", "name", "-p", "coder"], "coder", ["-c", "name"]),
        (["-c", "-p", "coder"], "coder", ["-c"]),
        # Only the first one is ours; Hermes is told one before the others.
        (["-p", "coder", "x", "-p", "other"], "coder", ["x", "-p", "other"]),
        (["--profile=coder", "-p", "other"], "coder", ["-p", "other"]),
    ],
)
def test_the_agent_is_named_before_the_command(words, name, rest):
    assert run.split(words) == (name, rest)


def test_the_words_reach_it_as_they_are(monkeypatch):
    seen = []
    monkeypatch.setattr(run, "work", lambda arguments: seen.append(arguments.words) or 7)
    words = ["--help", "--version", "--", "-x", "--json", "status"]
    assert cli.main(["run", *words]) == 7
    assert seen == [words]


class Became(BaseException):
    """The process that would be executed now."""


AGENTS = [
    Published("ada", "hermes-ada", "/a/.hermes", None),
    Published("eve", "hermes-ada", "/e/.hermes", "/m/eve"),
    Published("bob", "hermes-bob", "/b/.hermes", None),
]


class Host:
    root = "/opt/hermes"

    def one(self, name):
        return described.agent(name)


@pytest.fixture
def call(monkeypatch):
    """A function that calls ``hermes`` as a user, and returns the result."""

    def become(path, argv, environ=None):
        raise Became(path, argv, environ)

    def call(user, *words):
        monkeypatch.setattr(
            Account, "current", lambda: Account(user, 0 if user == "root" else 1000, 1000, f"/home/{user}")
        )
        monkeypatch.setattr(run.Installation, "load", Host)
        monkeypatch.setattr(run, "published", lambda: AGENTS)
        monkeypatch.setattr(run.command, "run_in_unit", lambda _host, agent, words: (agent.name, words))
        monkeypatch.setattr(os, "execvp", become)
        monkeypatch.setattr(os, "execve", become)
        try:
            return cli.call(["run", *words])
        except Became as became:
            return became.args

    return call


def test_root_has_it_run_in_a_unit(call):
    assert call("root", "-p", "bob", "cron", "list") == ("bob", ["cron", "list"])


@pytest.mark.parametrize(
    ("user", "words"),
    [
        ("ops", ["-p", "bob", "chat"]),
        ("ops", ["chat"]),
        # Its own user, of another agent.
        ("hermes-bob", ["-p", "ada", "chat"]),
    ],
)
def test_others_call_it_as_root(call, user, words):
    argv = ["sudo", "--user=root", "--", "/usr/local/bin/hermes", *words]
    assert call(user, *words) == ("sudo", argv, None)


def test_the_agent_s_own_user_becomes_hermes(call, monkeypatch):
    monkeypatch.setenv("HERMES_MANAGED_DIR", "/somebody/else's")
    path, argv, environ = call("hermes-bob", "chat")
    assert argv == [path, "--profile", "default", "chat"]
    assert path == "/opt/hermes/current/bin/hermes"
    assert (environ["HERMES_HOME"], environ["HOME"]) == ("/b/.hermes", "/home/hermes-bob")
    assert "HERMES_MANAGED_DIR" not in environ
    _path, _argv, environ = call("hermes-ada", "-p", "eve", "chat")
    assert (environ["HERMES_HOME"], environ["HERMES_MANAGED_DIR"]) == ("/e/.hermes", "/m/eve")


def test_a_user_of_two_agents_names_one(call, capsys):
    with pytest.raises(Exception, match="name one: ada, eve"):
        call("hermes-ada", "chat")


def test_the_wrapper_hands_every_word_on(tmp_path):
    """The wrapper calls another command here, which prints its arguments."""
    there = tmp_path / "hermes-ops"
    there.write_text('#!/bin/sh\nprintf "<%s>" "$@"\n')
    there.chmod(0o755)
    script = kit.wrapper().replace(kit.COMMAND, str(there))
    answer = subprocess.run(
        ["sh", "-c", script, "hermes", "a  b", "", "-p", "*"], capture_output=True, text=True, check=True
    )
    assert answer.stdout == "<run><a  b><><-p><*>"
