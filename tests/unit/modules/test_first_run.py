# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a run waits for, and why it refuses a host."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.modules import info

TOP = Path(__file__).resolve().parents[3]
(LOOK,) = yaml.safe_load((TOP / "roles/base/tasks/preflight.yml").read_text())
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
    assert LOOK["alwayson.hermes.info"]["refuse_as"] == "{{ inventory_hostname }}"
