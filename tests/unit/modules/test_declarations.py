# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The check of all declarations in one task: real ansible-playbook, no host."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from ansible_collections.alwayson.hermes.plugins.action import declarations as action

TOP = Path(__file__).resolve().parents[3]
SITE = TOP / "playbooks/site.yml"
(PLAY,) = yaml.safe_load(SITE.read_text())
ROLES = PLAY["pre_tasks"][0]["alwayson.hermes.declarations"]["roles"]
KNOWN = sorted(path.name for path in (TOP / "roles").iterdir())
SECRET = "hunter2-hunter2"


def playbook(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ,
        "ANSIBLE_COLLECTIONS_PATH": str(TOP / ".cache/collections"),
        "ANSIBLE_CALLBACK_RESULT_FORMAT": "json",
        "ANSIBLE_NOCOLOR": "1",
        "ANSIBLE_LOCAL_TEMP": str(directory / "local"),
    }
    return subprocess.run(
        ["ansible-playbook", *arguments], env=environment, cwd=directory, capture_output=True, text=True, check=False
    )


@pytest.fixture
def check(tmp_path) -> Callable[..., tuple[list[str], str]]:
    """A function that checks a host's variables and returns the lines of the error, and all output at -vvv.

    Like in site.yml, the defaults of the role common are known, and those of the other roles are not.
    """

    def run(*, roles: list[str] = ROLES, options: tuple[str, ...] = (), **variables: object) -> tuple[list[str], str]:
        tasks = [{"alwayson.hermes.declarations": {"roles": roles}}]
        play = {"hosts": "zeus", "gather_facts": False, "roles": ["alwayson.hermes.common"], "pre_tasks": tasks}
        (tmp_path / "play.yml").write_text(json.dumps([play]))
        # No connection to this host is possible.
        host = {"ansible_connection": "local", "ansible_remote_tmp": "/dev/null/tmp", **variables}
        (tmp_path / "hosts.json").write_text(json.dumps({"all": {"hosts": {"zeus": host}}}))
        done = playbook(tmp_path, "-vvv", "-i", "hosts.json", "play.yml", *options)
        said = done.stdout + done.stderr
        assert "Traceback" not in said
        result = re.search(r"^fatal: \[zeus\]: FAILED! => (\{.*?^\})", done.stdout, re.M | re.S)
        assert (done.returncode == 0) == (result is None), said
        return json.loads(result[1])["msg"].split("\n") if result else [], said

    return run


WRONG = {
    "a type": (
        {"backup_keep": "seven"},
        "backup_keep: is 'seven', not a whole number. Fix: write a whole number (role backup)",
    ),
    "a choice": (
        {"gateway_scope": "both"},
        "gateway_scope: is 'both'. Fix: known ones are system, user (role common)",
    ),
    "a list's element": (
        {"hermes_agents": ["default"]},
        "hermes_agents: has an element of another type. Fix: write a list of mappings (role common)",
    ),
    "a structure": (
        {"logrotate_journal_days": {"days": 3}},
        "logrotate_journal_days: is not a whole number. Fix: write a whole number (role logrotate)",
    ),
    "an undefined variable": (
        {"install_index_password": "{{ vault_index_password }}"},
        "install_index_password: uses vault_index_password, which is undefined. "
        "Fix: define vault_index_password, or correct its name here (role install)",
    ),
    "an undefined variable deep within": (
        {"backup_restic_environment": {"AWS_SECRET_ACCESS_KEY": "{{ vault_aws }}"}},
        "backup_restic_environment: uses vault_aws, which is undefined. "
        "Fix: define vault_aws, or correct its name here (role backup)",
    ),
    "a switch": (
        {"audit_enabled": "ture"},
        "audit_enabled: is 'ture', not true or false. Fix: write true or false (role common)",
    ),
    "a switch that is off by default": (
        {"heartbeat_enabled": "ture"},
        "heartbeat_enabled: is 'ture', not true or false. Fix: write true or false (role heartbeat)",
    ),
    "a variable that two roles describe": (
        {"hermes_version": "{{ ours }}"},
        "hermes_version: uses ours, which is undefined. Fix: define ours, or correct its name here (role common)",
    ),
}


def test_each_error_is_one_line_with_host_variable_role_and_fix(check):
    variables = {name: value for wrong, _error in WRONG.values() for name, value in wrong.items()}
    lines, said = check(**variables)
    assert sorted(lines) == sorted(f"zeus: {error}" for _wrong, error in WRONG.values())
    assert "EXEC" not in said


@pytest.mark.parametrize(("number", "right"), [(0.19, True), (0.2, False), (1.0, False)])
def test_a_version_without_quotes_is_refused_only_if_yaml_may_have_changed_it(check, number, right):
    lines, _said = check(roles=["common", "install"], hermes_version=number)
    error = (
        f"zeus: hermes_version: is the number {number}, which may have been written {number}0. Fix: put it in quotes"
    )
    assert lines == ([] if right else [f"{error} (role common)"])


def test_a_version_without_quotes_is_text_in_the_settings_of_updates(tmp_path):
    files = [
        f"{TOP}/roles/{role}/{what}/main.yml" for role, what in (("auto_update", "defaults"), ("auto_update", "vars"))
    ]
    task = {"ansible.builtin.assert": {"that": "auto_update_settings.release.version is string"}}
    play = {"hosts": "localhost", "gather_facts": False, "vars_files": files, "tasks": [task]}
    (tmp_path / "play.yml").write_text(json.dumps([{**play, "vars": {"hermes_version": 0.19}}]))
    done = playbook(tmp_path, "play.yml")
    assert done.returncode == 0, done.stdout


def test_a_secret_in_a_wrong_value_is_not_shown(check):
    lines, said = check(
        heartbeat_enabled=True,
        audit_enabled=True,
        hermes_agents=f"{SECRET}: {{",
        heartbeat_agent_urls=[SECRET],
        heartbeat_job_urls=SECRET,
        backup_restic_environment=[SECRET],
        # Ansible's error quotes the template.
        backup_restic_password=f"{{{{ '{SECRET}' | no_such_filter('{SECRET}') }}}}",
        audit_key=f"{{{{ '{SECRET}' + ",
        install_index_password={"password": f"{{{{ {{'a': '{SECRET}'}}.b.c }}}}"},
    )
    assert [line.split(": ")[1] for line in lines] == [
        "hermes_agents",
        "install_index_password",
        "heartbeat_agent_urls",
        "heartbeat_job_urls",
        "backup_restic_password",
        "backup_restic_environment",
        "audit_key",
    ]
    assert SECRET not in said
    assert "zeus: backup_restic_password: cannot be evaluated. Fix: correct the template (role backup)" in lines


def test_what_works_passes_also_in_check_mode(check):
    for options in ((), ("--check",), ("--tags", "none")):
        lines, said = check(
            options=options,
            hermes_agents=[{"name": "default", "secrets": {"A": SECRET, "B": None}}],
            backup_keep="{{ 3 + 4 }}",
            # A default of the same role, which Ansible does not know yet.
            backup_rehearsal_calendar="{{ backup_calendar }}",
            # Nothing of a role that is off is evaluated.
            dashboard_port="{{ nobody }}",
            logrotate_enabled="no",
            logrotate_days="a few",
        )
        assert lines == []
        assert SECRET not in said


def test_a_role_that_does_not_exist_is_named(check):
    lines, _said = check(roles=["common", "../plugins"])
    assert lines == [
        f"declarations: roles: there is no role ../plugins. Fix: known ones are {', '.join(KNOWN)}",
    ]


def test_every_option_fits_its_own_default():
    for role in ROLES:
        path = TOP / "roles" / role / "defaults/main.yml"
        defaults = yaml.safe_load(path.read_text()) if path.exists() else {}
        assert list(action.errors(action.specification_of(role), defaults)) == [], role


def test_site_checks_all_roles_first_and_has_ansible_check_few(tmp_path):
    assert sorted(ROLES) == KNOWN
    (tmp_path / "hosts.json").write_text(json.dumps({"hermes": {"hosts": {"zeus": {}}}}))
    for options in ((), ("--tags", "none")):
        done = playbook(tmp_path, "-i", "hosts.json", str(SITE), "--list-tasks", *options)
        tasks = re.findall(r"^      (\S.*?)\tTAGS", done.stdout, re.M)
        assert tasks[0] == PLAY["pre_tasks"][0]["name"], done.stdout + done.stderr
        # Dependencies are always checked by Ansible; so is base, which is one of backup and audit.
        checked = {task.split(" : ")[0] for task in tasks if "Validating arguments" in task}
        assert checked == {"alwayson.hermes.common", "alwayson.hermes.base"}
