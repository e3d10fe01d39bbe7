# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The operators' pages match the code: docs/recovery.md is generated from it, and every command exists."""

from __future__ import annotations

import importlib.util
import re
import shlex
from pathlib import Path

import pytest
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops import cli

ROOT = Path(__file__).resolve().parents[3]
DOCS = ROOT / "docs"
RECOVERY = (DOCS / "recovery.md").read_text(encoding="utf-8")
OPERATORS = (DOCS / "operators.md").read_text(encoding="utf-8")
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
    # Commands that only timers and Ansible call.
    assert named == set(cli.commands()) - {"heartbeat", "module", "rehearsal", "tidy"}
