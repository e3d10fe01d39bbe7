# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The operators' pages match the code: docs/recovery.md is generated from it, and every command exists."""

from __future__ import annotations

import ast
import importlib.util
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops import cli

ROOT = Path(__file__).resolve().parents[3]
DOCS = ROOT / "docs"
RECOVERY = (DOCS / "recovery.md").read_text(encoding="utf-8")
OPERATORS = (DOCS / "operators.md").read_text(encoding="utf-8")
KIT = ROOT / "plugins/module_utils/hermes_ops"
PLAYBOOKS = {path.stem for path in (ROOT / "playbooks").glob("*.yml")}


@pytest.fixture(scope="module")
def writer():
    """docs/recovery.py"""
    specification = importlib.util.spec_from_file_location("recovery", DOCS / "recovery.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def test_the_page_is_what_the_code_says(writer):
    assert writer.page() == RECOVERY, "run docs/recovery.py"


def test_the_page_knows_the_causes_of_the_code(writer):
    causes = writer.causes()
    assert causes["key_too_short"].startswith("declare one of at least 16 characters")
    assert causes["disk_full"]
    # Every value that only a host knows has a placeholder that a reader understands.
    assert [fix for fix in causes.values() if "…" in fix] == []


@pytest.mark.parametrize("line", re.findall(r"^[#$] (hermes-ops .+)$|`(hermes-ops [^`]+)`", RECOVERY, re.M))
def test_every_command_on_the_page_is_one(line, capsys):
    _program, *arguments = shlex.split("".join(line))
    assert cli.parser([arguments[0]]).parse_args(arguments)


def test_operators_know_every_playbook():
    named = set(re.findall(r"`alwayson\.hermes\.(\w+)", OPERATORS))
    assert named == PLAYBOOKS


def test_operators_know_variables_that_are_used():
    sources = "\n".join(path.read_text() for path in (ROOT / "playbooks").rglob("*.yml"))
    prefixes = "|".join(PLAYBOOKS)
    named = set(re.findall(rf"\b((?:{prefixes})_[a-z]+)\b", OPERATORS)) - PLAYBOOKS
    assert {"tell_topic", "debug_directory", "rollback_data"} <= named
    assert [name for name in sorted(named) if name not in sources] == []


def test_operators_know_every_command_that_they_may_call():
    table = re.search(r"^\| `hermes-ops …` \|.*?(?=\n\n)", OPERATORS, re.M | re.S)[0]
    named = {words.split()[0] for words in re.findall(r"`([a-z][^`]*)`", table)} - {"hermes-ops"}
    # Commands that only systemd, Ansible and the engine of a container call.
    assert named == set(cli.commands()) - {"agent", "disks", "heartbeat", "module", "rehearsal", "tidy", "volume"}


# --- what a fix names, and the playbook that does it -----------------------------------------------------------

# A command of the host in a text. ``…`` stands for what only a host knows.
COMMAND = re.compile(
    r"hermes-ops (?P<ours>[a-zA-Z]+|…(?= --))(?P<flags>(?: --[a-z]+)*)"
    r"|(?<![/\w])systemctl (?P<verb>[a-z][a-z-]+)"
    r"|(?P<journal>journalctl)(?= |`)"
)


def texts(tree: ast.AST) -> Iterator[str]:
    """The texts in the code, without its docstrings; what :meth:`Unit.command` says stands for itself."""
    docs = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs:
            yield node.value
        elif isinstance(node, ast.JoinedStr):
            yield "".join(part.value if isinstance(part, ast.Constant) else "…" for part in node.values)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "command":
            yield from (f"systemctl {word.value}" for word in node.args if isinstance(word, ast.Constant))


def commands(text: str) -> set[str]:
    """The commands in *text*: ``restore --kept``, ``systemctl start``, ``journalctl``."""
    found = set()
    for match in COMMAND.finditer(text):
        ours, verb = match["ours"], match["verb"]
        word = ("JOB" if ours == "…" else ours) if ours else f"systemctl {verb}" if verb else match["journal"]
        found.add(word + (match["flags"] or ""))
    return found


def advised() -> set[str]:
    """The commands that the kit tells people to use."""
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in KIT.rglob("*.py")]
    return {command for tree in trees for text in texts(tree) for command in commands(text)}


def offered() -> dict[str, str]:
    """Each command in the table of docs/operators.md, and what to run instead."""
    section = OPERATORS.partition("## When a fix names a command\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (.+?) \| (`alwayson.+) \|$", section, re.M)
    return {command: cell for names, cell in rows for command in commands(names)}


def test_what_the_kit_advises_is_found():
    assert {"restore --kept", "JOB --recover", "backups", "separate", "rollback --to"} <= advised()
    assert {"systemctl start", "systemctl restart", "systemctl reset-failed", "journalctl"} <= advised()


def test_whatever_a_fix_names_has_a_playbook():
    table = offered()
    missing = [
        command for command in sorted(advised()) if not {command, re.sub("^[a-z]+(?= --)", "JOB", command)} & set(table)
    ]
    assert missing == [], "give it a playbook, and a row in docs/operators.md"


@pytest.mark.parametrize("command", sorted(offered()))
def test_the_playbook_does_what_the_fix_says(command):
    (name,) = set(re.findall(r"alwayson\.hermes\.(\w+)", offered()[command]))
    lines = (ROOT / f"playbooks/{name}.yml").read_text(encoding="utf-8").splitlines()
    source = "\n".join(line for line in lines if not line.startswith("#"))
    variables = re.findall(r'-e "?(\w+)=', offered()[command])
    words = [] if command.startswith(("systemctl", "journalctl", "check")) else command.split()
    missing = [word for word in [*variables, *words] if not re.search(rf"(?<![\w-]){word}(?!\w)", source)]
    assert [word for word in missing if word != "JOB"] == []
