# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A run says what it waits for before it does it, and why it refuses a host: real ansible-playbook, no host."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

import pytest
import yaml

TOP = Path(__file__).resolve().parents[3]
LOOK, DECIDE = yaml.safe_load((TOP / "roles/base/tasks/preflight.yml").read_text())
NOTHING = {
    "system": {"id": "debian", "name": "Debian GNU/Linux", "version": "12", "systemd": True},
    **{name: [] for name in ("missing_packages", "separated", "port_conflicts", "busy", "unfinished", "unfit")},
    **dict.fromkeys(("superseded", "data_dir_owner", "to_build")),
}
PACKAGES = {"missing_packages": ["python3-venv", "git"]}
BUILD = {"to_build": "hermes-agent 0.19.0 with homeassistant"}
FIRST = "zeus: not everything is there yet, so this run takes longer"
APT = "apt installs python3-venv, git (half a minute or more)"
UV = "hermes-agent 0.19.0 with homeassistant is built with uv (half a minute to some minutes)"
START = "agents start with it: default, work (some seconds)"


@pytest.fixture
def decide(tmp_path):
    """A function that takes what the module info found, and returns what the run then says."""

    def run(found: dict[str, object], *options: str) -> str:
        facts = {LOOK["register"]: {**NOTHING, **found}, "common_present": ["default", "work"]}
        play = {"hosts": "zeus", "gather_facts": False, "vars_files": [str(TOP / "roles/base/vars/main.yml")]}
        (tmp_path / "play.yml").write_text(json.dumps([{**play, "vars": facts, "tasks": [DECIDE]}]))
        return subprocess.run(
            ["ansible-playbook", "-i", "zeus,", "play.yml", *options],
            env={**os.environ, "ANSIBLE_NOCOLOR": "1", "ANSIBLE_LOCAL_TEMP": str(tmp_path / "local")},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        ).stdout

    return run


@pytest.mark.parametrize(
    ("found", "lines"),
    [
        ({**PACKAGES, **BUILD}, [FIRST, APT, UV, START]),
        (PACKAGES, [FIRST, APT]),
        (BUILD, [FIRST, UV, START]),
    ],
)
def test_what_takes_long_is_said_before_it_is_done(decide, found, lines):
    said = decide(found)
    assert json.loads(re.search(r"ok: \[zeus\] => (\{.*?^\})", said, re.M | re.S)[1])["msg"] == lines


def test_nothing_is_said_when_nothing_takes_long_or_nothing_is_done(decide):
    for said in (decide({}), decide({**PACKAGES, **BUILD}, "--check")):
        assert re.search(r"^ok: \[zeus\]$", said, re.M), said
        assert "not everything" not in said


def test_a_host_that_cannot_run_the_release_is_named_in_the_error(decide):
    said = decide({"unfit": ["hermes_version: does not fit. Fix: use another"], **PACKAGES, **BUILD})
    assert '"msg": "zeus: hermes_version: does not fit. Fix: use another"' in said
    assert FIRST not in said


def test_the_host_is_judged_before_anything_is_installed():
    tasks = yaml.safe_load((TOP / "roles/base/tasks/main.yml").read_text())
    assert [next(iter(set(task) - {"name", "when"})) for task in tasks] == [
        "ansible.builtin.import_tasks",
        "ansible.builtin.include_tasks",
    ]
    assert tasks[0]["ansible.builtin.import_tasks"] == "preflight.yml"
