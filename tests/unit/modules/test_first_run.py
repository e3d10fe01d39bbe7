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
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.modules import info

TOP = Path(__file__).resolve().parents[3]
LOOK, DECIDE = yaml.safe_load((TOP / "roles/base/tasks/preflight.yml").read_text())
FOUND = {
    "system": {"id": "debian", "name": "Debian GNU/Linux", "version": "12", "systemd": True},
    **{name: [] for name in ("separated", "foreign_homes", "port_conflicts", "busy", "unfinished")},
    **dict.fromkeys(("superseded", "data_dir_owner")),
}
PACKAGES = ["python3-venv", "git"]
BUILD = "hermes-agent 0.19.0 with homeassistant"
FIRST = "not everything is there yet, so this run takes longer"
APT = "apt installs python3-venv, git (half a minute or more)"
UV = "hermes-agent 0.19.0 with homeassistant is built with uv (half a minute to some minutes)"
START = "agents start with it: default, work (some seconds)"


@pytest.fixture
def decide(tmp_path):
    """A function that takes what the module info found, and returns what the run then says."""

    def run(objections: list[str], awaited: list[str], *options: str) -> str:
        facts = {LOOK["register"]: {"objections": objections, "awaited": awaited}}
        play = {"hosts": "zeus", "gather_facts": False, "vars": facts, "tasks": [DECIDE]}
        (tmp_path / "play.yml").write_text(json.dumps([play]))
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
    ("packages", "to_build", "lines"),
    [
        (PACKAGES, BUILD, [FIRST, APT, UV, START]),
        (PACKAGES, None, [FIRST, APT]),
        ([], BUILD, [FIRST, UV, START]),
        ([], None, []),
    ],
)
def test_what_takes_long(packages, to_build, lines):
    assert info.awaited(packages, to_build, ["default", "work"]) == lines
    assert info.awaited(packages, to_build, []) == lines[: len(lines) - (START in lines)]


def test_what_takes_long_is_said_before_it_is_done(decide):
    said = decide([], [FIRST, APT])
    assert json.loads(re.search(r"ok: \[zeus\] => (\{.*?^\})", said, re.M | re.S)[1])["msg"] == [FIRST, APT]


def test_nothing_is_said_when_nothing_takes_long_or_nothing_is_done(decide):
    for said in (decide([], []), decide([], [FIRST, APT], "--check")):
        assert re.search(r"^ok: \[zeus\]$", said, re.M), said
        assert FIRST not in said


def test_a_host_that_cannot_be_converged_is_named_in_the_error(decide):
    said = decide(["hermes_version: does not fit. Fix: use another", "update under way. Fix: wait"], [FIRST, APT])
    assert '"msg": "zeus: hermes_version: does not fit. Fix: use another; update under way. Fix: wait"' in said
    assert FIRST not in said


@pytest.mark.parametrize(
    ("change", "objection"),
    [
        ({}, None),
        ({"version": "13"}, None),
        # Debian testing has none.
        ({"version": ""}, None),
        ({"id": "ubuntu", "version": "22.04"}, None),
        ({"id": "ubuntu", "version": "24.04"}, None),
        ({"version": "11"}, "this is Debian GNU/Linux 11 with systemd as service manager. Fix: use Debian 12 or newer"),
        ({"id": "ubuntu", "version": "20.04"}, "this is Debian GNU/Linux 20.04 with systemd"),
        ({"id": "fedora", "name": "Fedora Linux", "version": "43"}, "this is Fedora Linux 43 with systemd"),
        ({"systemd": False}, "this is Debian GNU/Linux 12 without systemd as service manager"),
    ],
)
def test_systems(change, objection):
    said = info.objections({**FOUND, "system": {**FOUND["system"], **change}}, "/data")
    assert [each[: len(objection or "")] for each in said] == ([objection] if objection else [])


@pytest.mark.parametrize(
    ("found", "objection"),
    [
        ({"data_dir_owner": "root"}, None),
        ({"data_dir_owner": "ada"}, "hermes_data_dir /data belongs to ada. Fix: declare a directory that belongs"),
        ({"superseded": "/o/profiles/a"}, "this host was converged when all agents shared a home and a user (/o/prof"),
        ({"busy": ["update", "restore"]}, "update and restore under way on this host. Fix: wait for it"),
        ({"unfinished": ["a was interrupted"]}, "a was interrupted"),
        ({"separated": ["b is separate"]}, "b is separate"),
        ({"foreign_homes": ["d is foreign"]}, "d is foreign"),
        ({"port_conflicts": ["c is taken"]}, "c is taken"),
    ],
)
def test_what_keeps_a_host_from_being_converged(found, objection):
    said = info.objections({**FOUND, **found}, "/data")
    assert [each[: len(objection or "")] for each in said] == ([objection] if objection else [])


def test_the_host_is_judged_before_anything_is_installed():
    tasks = yaml.safe_load((TOP / "roles/base/tasks/main.yml").read_text())
    assert [next(iter(set(task) - {"name", "when"})) for task in tasks] == [
        "ansible.builtin.import_tasks",
        "ansible.builtin.include_tasks",
    ]
    assert tasks[0]["ansible.builtin.import_tasks"] == "preflight.yml"
