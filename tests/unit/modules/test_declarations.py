# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The check of all declarations in one task: real ansible-playbook, no host."""

from __future__ import annotations

import datetime
import json
import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from ansible_collections.alwayson.hermes.plugins.action import declarations as action
from ansible_collections.alwayson.hermes.plugins.plugin_utils import settings, variables
from ansible_collections.alwayson.hermes.plugins.plugin_utils.roles import SPECIFICATIONS

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
        declare(tmp_path, "zeus", variables)
        done = playbook(tmp_path, "-vvv", "-i", "hosts.json", "play.yml", *options)
        said = done.stdout + done.stderr
        assert "Traceback" not in said
        result = re.search(r"^fatal: \[zeus\]: FAILED! => (\{.*?^\})", done.stdout, re.M | re.S)
        assert (done.returncode == 0) == (result is None), said
        return json.loads(result[1])["msg"].split("\n") if result else [], said

    return run


def declare(directory: Path, host: str, variables: dict[str, object] | str) -> None:
    """Declare *variables* for *host* in a file of its own, and the host in the inventory. It cannot be reached."""
    path = directory / "host_vars" / f"{host}.yml"
    path.parent.mkdir(exist_ok=True)
    path.write_text(variables if isinstance(variables, str) else yaml.safe_dump(variables, sort_keys=False))
    reached = {"ansible_connection": "local", "ansible_remote_tmp": "/dev/null/tmp"}
    hosts = {path.stem: reached for path in path.parent.iterdir()}
    (directory / "hosts.json").write_text(json.dumps({"hermes": {"hosts": hosts}}))


def place_of(variable: str, variables: dict[str, object]) -> str:
    """The file and the line in which :func:`declare` declares *variable*."""
    lines = yaml.safe_dump(variables, sort_keys=False).splitlines()
    (number,) = [number for number, line in enumerate(lines, start=1) if line.startswith(f"{variable}:")]
    # A list or a mapping begins in the next line.
    return f"host_vars/zeus.yml:{number + isinstance(variables[variable], (list, dict))}"


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


def test_each_error_is_one_line_with_host_variable_role_fix_and_place(check):
    variables = {name: value for wrong, _error in WRONG.values() for name, value in wrong.items()}
    lines, said = check(**variables)
    expected = [
        f"zeus: {error.removesuffix(')')}; {place_of(name, variables)})"
        for wrong, error in WRONG.values()
        for name in wrong
    ]
    assert sorted(lines) == sorted(expected)
    assert "EXEC" not in said


@pytest.mark.parametrize(("number", "right"), [(0.19, True), (0.2, False), (1.0, False)])
def test_a_version_without_quotes_is_refused_only_if_yaml_may_have_changed_it(check, number, right):
    lines, _said = check(roles=["common", "install"], hermes_version=number)
    error = (
        f"zeus: hermes_version: is the number {number}, which may have been written {number}0. Fix: put it in quotes"
    )
    assert lines == ([] if right else [f"{error} (role common; host_vars/zeus.yml:1)"])


def test_a_version_without_quotes_is_text_in_the_settings_of_updates(tmp_path):
    files = [f"{TOP}/roles/{place}/main.yml" for place in ("common/vars", "auto_update/defaults", "auto_update/vars")]
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
    assert (
        "zeus: backup_restic_password: cannot be evaluated. Fix: correct the template "
        "(role backup; host_vars/zeus.yml:9)" in lines
    )


def test_a_value_of_a_vault_whose_password_is_missing(tmp_path):
    (tmp_path / "password").write_text("of the vault")
    line = ["ansible-vault", "encrypt_string", "--vault-password-file", "password", "--name", "audit_key", SECRET]
    encrypted = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    declare(tmp_path, "zeus", f"audit_enabled: true\n{encrypted}")
    done = playbook(tmp_path, "-i", "hosts.json", str(SITE))
    error = "audit_key: is encrypted, and there is no password for it. Fix: give it with --ask-vault-pass"
    assert f"zeus: {error}" in done.stdout
    assert "host_vars/zeus.yml:2" in done.stdout


def test_what_works_passes_also_in_check_mode(check):
    for options in ((), ("--check",), ("--tags", "none")):
        lines, said = check(
            options=options,
            hermes_agents=[{"name": "default", "secrets": {"A": SECRET}}],
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


# What only the kit on the host used to find, each in the middle of a run.
SETTINGS = {
    "a repository without a password": (
        {"backup_restic_repository": "/mnt/backup"},
        "backup_restic_password: is missing. Fix: declare one, and keep it elsewhere as well (role backup)",
    ),
    "a time zone": (
        {"backup_timezone": "Europe/Lodnon"},
        "backup_timezone: 'Europe/Lodnon' is not a time zone. Fix: did you mean Europe/London? "
        "(role backup; host_vars/zeus.yml:1)",
    ),
    "a ping URL": (
        {"heartbeat_ping_url": f"ftp://{SECRET}", "heartbeat_enabled": True},
        "heartbeat_ping_url: is not a ping URL. Fix: declare one such as https://hc-ping.com/<uuid>, without a query "
        "(role heartbeat; host_vars/zeus.yml:1)",
    ),
    "a ping URL of an agent": (
        {"heartbeat_agent_urls": {"default": f"{SECRET}?"}, "heartbeat_enabled": True},
        "heartbeat_agent_urls: default is not a ping URL. Fix: declare one such as https://hc-ping.com/<uuid>, without "
        "a query (role heartbeat; host_vars/zeus.yml:2)",
    ),
    "a ping URL of an agent that is not declared": (
        {"heartbeat_agent_urls": {"wrok": "https://example.com/1"}, "heartbeat_enabled": True},
        "heartbeat_agent_urls: there is no agent wrok. Fix: known ones are default "
        "(role heartbeat; host_vars/zeus.yml:2)",
    ),
    "an acknowledgement of a warning that does not exist": (
        {"ops_acknowledged": [{"finding": "sqlite_wall", "reason": "known", "until": datetime.date(2027, 3, 31)}]},
        "ops_acknowledged: sqlite_wall: sqlite_wall is not a warning that can be acknowledged. "
        "Fix: did you mean sqlite_wal? (role ops; host_vars/zeus.yml:2)",
    ),
    "an acknowledgement without an end": (
        {"ops_acknowledged": [{"finding": "sqlite_wal", "reason": "known"}]},
        "ops_acknowledged: sqlite_wal lacks one of finding, reason, until. Fix: write all three, such as finding: "
        "sqlite_wal, reason: Debian's own Python is our rule, until: 2027-03-31 (role ops; host_vars/zeus.yml:2)",
    ),
    "a threshold": (
        {"heartbeat_disk_percent": 110, "heartbeat_textfile": "/a.prom", "heartbeat_enabled": True},
        "heartbeat_disk_percent: is not a percentage. Fix: declare a number from 0 to 100 "
        "(role heartbeat; host_vars/zeus.yml:1)",
    ),
    "nobody to tell": (
        {"heartbeat_enabled": True},
        "heartbeat_enabled: the heartbeat has no receiver. Fix: declare heartbeat_ping_url, heartbeat_agent_urls or "
        "heartbeat_textfile (role heartbeat)",
    ),
    "updates of an exact version": (
        {"hermes_version": "0.19.0", "auto_update_enabled": True},
        "auto_update_enabled: the release is declared exactly, which leaves nothing to update to. Fix: declare a range "
        "(hermes_version: '>=0.18,<0.20'), or with install_method git an install_channel (role auto_update)",
    ),
    "no version": (
        {"hermes_version": "latest"},
        "hermes_version: 'latest' is neither a version nor a range. Fix: write 0.19.0 or, as a range, >=0.18,<0.20 "
        "(role install; host_vars/zeus.yml:1)",
    ),
    "a tag without its commit": (
        {"install_ref": "v1", "install_method": "git", "install_url": "https://example.com/hermes.git"},
        "install_commit: None is not a full commit. Fix: write all 40 digits (git rev-parse TAG^0) (role install)",
    ),
    "credentials in a URL": (
        {"install_index_url": f"https://me:{SECRET}@example.com/simple"},
        "install_index_url: holds a user name or a password. Fix: move them to install_index_username and "
        "install_index_password, which are kept out of sight (role install; host_vars/zeus.yml:1)",
    ),
    "a repository in a relative path": (
        {"backup_restic_repository": "backups", "backup_restic_password": SECRET},
        "backup_restic_repository: is a relative path, which means another place in each working directory. Fix: write "
        "an absolute path, or begin with a back end of restic: azure:, b2:, gs:, rclone:, rest:, s3:, sftp:, swift: "
        "(role backup; host_vars/zeus.yml:1)",
    ),
    "a key of an agent": (
        {"hermes_agents": [{"name": "default"}, {"name": "work", "api": {"port": 8700}, "confg": {}}]},
        "hermes_agents: agent work: unknown key confg. Fix: did you mean config? (host_vars/zeus.yml:3)",
    ),
    "a key within": (
        {"hermes_agents": [{"name": "default"}, {"name": "work", "api": {"enabled": True, "port": 80}}]},
        "hermes_agents: agent work: api.port: is 80: the agent runs unprivileged and cannot bind it. "
        "Fix: use a port from 1024 on (host_vars/zeus.yml:6)",
    ),
    "a variable of earlier versions": (
        {"base_user_managed": False},
        "base_user_managed: is not used any more. Fix: leave it out: a user that exists is never changed; see "
        "docs/agents.md (host_vars/zeus.yml:1)",
    ),
    "a variable without its last letter": (
        {"hermes_agent": [{"name": "default"}]},
        "hermes_agent: is not a variable of this collection. Fix: did you mean hermes_agents? Give it another name if "
        "it is your own (host_vars/zeus.yml:2)",
    ),
    "an abbreviation": (
        {"backup_restic_repo": SECRET},
        "backup_restic_repo: is not a variable of this collection. Fix: did you mean backup_restic_repository? Give it "
        "another name if it is your own (host_vars/zeus.yml:1)",
    ),
}


@pytest.mark.parametrize("case", SETTINGS)
def test_what_the_kit_would_refuse_is_refused_here_in_the_names_of_variables(case, check):
    wrong, error = SETTINGS[case]
    lines, said = check(**wrong)
    assert lines == [f"zeus: {error}"]
    assert "EXEC" not in said
    assert SECRET not in said
    # Only what we say, and not where our own task stands.
    for noise in ("caused by", "Finalization", "filter plugin", "Origin: "):
        assert noise not in said


def test_an_acknowledgement_may_have_its_date_without_quotes(check):
    entry = {"finding": "work/climbs:memory", "reason": "known", "until": datetime.date(2027, 3, 31)}
    assert check(ops_acknowledged=[entry])[0] == []


def test_mistakes_of_all_kinds_are_told_at_once(check):
    lines, said = check(
        backup_keep="seven",
        backup_timezone="Europe/Lodnon",
        heartbeat_enabled=True,
        heartbeat_agent_urls={"wrok": "https://example.com/1"},
        hermes_agent=[],
        hermes_agents=[{"name": "default"}, {"name": "default"}],
    )
    assert [line.split(": ")[1] for line in lines] == ["hermes_agent", "backup_keep", "hermes_agents"]
    lines, said = check(
        gateway_scope="both",
        heartbeat_enabled=True,
        heartbeat_agent_urls={"wrok": "https://example.com/1"},
        hermes_agents=[{"name": "default"}, {"name": "default"}],
    )
    assert [line.split(": ")[1] for line in lines] == ["gateway_scope"]
    assert "caused by" not in said


def test_a_list_that_became_one_mapping_is_refused(tmp_path):
    text = f"hermes_agents:\n  - name: default\n    secrets: {{A: {SECRET}}}\n    name: work\n    api: {{port: 8650}}\n"
    declare(tmp_path, "zeus", text)
    done = playbook(tmp_path, "-i", "hosts.json", str(SITE))
    assert done.returncode == 2
    assert (
        "zeus: host_vars/zeus.yml:4: name stands twice in one mapping, so the one in line 2 is lost. "
        "Fix: begin each entry of a list with '- ', or remove one of the two"
    ) in done.stdout
    assert SECRET not in done.stdout


def test_a_wrong_declaration_of_one_host_keeps_the_run_from_all(tmp_path):
    declare(tmp_path, "hera", {})
    declare(tmp_path, "zeus", {"backup_keep": "seven"})
    done = playbook(tmp_path, "-i", "hosts.json", str(SITE))
    assert done.returncode == 2
    assert done.stdout.count("TASK [") == 1, done.stdout
    assert re.search(r"^hera +: ok=1 ", done.stdout, re.M)


def test_another_user_than_root_is_refused_first(tmp_path):
    declare(tmp_path, "zeus", {"backup_keep": "seven", "ansible_become_user": "ada"})
    done = playbook(tmp_path, "-i", "hosts.json", str(SITE))
    said = '"msg": "zeus: not root: this play becomes ada. Fix: take become_user and ansible_become_user away"'
    assert said in done.stdout
    assert done.stdout.count("TASK [") == 1


# init runs before there are hosts, those of tenants on the controller, and cluster on groups of its own.
@pytest.mark.parametrize(
    "name",
    sorted(
        {path.stem for path in SITE.parent.glob("*.yml") if not path.stem.startswith("tenant")}
        - {"init", "cluster", "node_lost"}
    ),
)
def test_a_pattern_that_matches_no_host_ends_the_run(name, tmp_path):
    declare(tmp_path, "zeus", {})
    path = str(SITE.parent / f"{name}.yml")
    more = ("--extra-vars", json.dumps({"hermes_hosts": "hermse"}), "--tags", "none")
    done = playbook(tmp_path, "-i", "hosts.json", path, *more)
    assert done.returncode != 0
    assert "no host of the inventory matches hermse. Fix: name your inventory with -i" in done.stdout + done.stderr
    assert playbook(tmp_path, path, *more, "--syntax-check").returncode == 0


@pytest.mark.parametrize(
    ("slip", "meant"),
    [
        ("hermes_agent", "hermes_agents"),
        ("hermes_agnets", "hermes_agents"),
        ("hermes_host", "hermes_hosts"),
        ("hermes_versoin", "hermes_version"),
        ("gateway_helth", "gateway_health"),
        ("backup_enable", "backup_enabled"),
        ("backup_restic_repo", "backup_restic_repository"),
        ("backup_repository", "backup_restic_repository"),
        ("auto_update_time_zone", "auto_update_timezone"),
        ("audit_cert", "audit_certificate"),
        ("install_pyhton", "install_python"),
        ("heartbeat_pingurl", "heartbeat_ping_url"),
    ],
)
def test_a_slip_is_told_with_the_nearest_name(slip, meant):
    assert variables.nearest(slip, action.KNOWN, action.PREFIXES) == meant


@pytest.mark.parametrize(
    "name",
    [
        *("hermes_vault_key", "hermes_model", "hermes_agents_berlin", "hermes_common_config", "hermes_hosts"),
        *("backup_dir", "backup_path", "backup_server", "backup_user", "backup_s3_bucket", "gateway_ip"),
        *("install_docker", "install_packages", "audit_rules", "dashboard_domain", "base_domain", "ops_email"),
        *("ansible_user", "my_backup_enable"),
    ],
)
def test_a_variable_of_the_users_own_is_not_taken_for_a_slip(name):
    assert variables.nearest(name, action.KNOWN, action.PREFIXES) is None


def test_no_variable_of_the_roles_and_playbooks_is_taken_for_a_slip():
    for path in [*TOP.glob("roles/*/*/*.yml"), *TOP.glob("playbooks/**/*.yml")]:
        for name in re.findall(r"\b[a-z]+_[a-z_]+\b", path.read_text()):
            # Names of tasks, texts and files are in there as well.
            assert (
                name in ("backup_jobs", "tenants_restore")
                or variables.nearest(name, action.KNOWN, action.PREFIXES) is None
            ), (
                path,
                name,
            )


def test_keys_that_stand_twice_are_found_at_any_depth(tmp_path):
    path = tmp_path / "a.yml"
    path.write_text("a: 1\nb:\n  - {c: 1}\n  - c: 1\n    d: {e: [{f: 1, f: 2}]}\n    c: 3\na: 2\n")
    assert sorted(variables.doubled(str(path))) == [("a", 1, 7), ("c", 4, 6), ("f", 5, 5)]
    for text in ("$ANSIBLE_VAULT;1.1;AES256\n6162\n", "[hermes]\nzeus\n", "", "a: [\n", "- !vault |\n  x\n"):
        path.write_text(text)
        assert list(variables.doubled(str(path))) == []
    assert list(variables.doubled(str(tmp_path / "missing.yml"))) == []


def test_without_a_database_any_time_zone_passes(monkeypatch):
    monkeypatch.setattr(settings, "_is_timezone", lambda name: False)
    settings.check_timezone("Europe/Kyiv")


def test_a_role_that_does_not_exist_is_named(check):
    lines, _said = check(roles=["common", "../plugins"])
    assert lines == [
        f"declarations: roles: there is no role ../plugins. Fix: known ones are {', '.join(KNOWN)}",
    ]


def test_every_option_fits_its_own_default():
    for role in ROLES:
        path = TOP / "roles" / role / "defaults/main.yml"
        defaults = yaml.safe_load(path.read_text()) if path.exists() else {}
        assert list(action.errors(SPECIFICATIONS[role], defaults)) == [], role


def test_every_option_names_its_type_and_the_default_that_it_has():
    defaults: dict[str, object] = {}
    for path in TOP.glob("roles/*/defaults/main.yml"):
        defaults.update(yaml.safe_load(path.read_text()))
    for role in KNOWN:
        for name, rule in SPECIFICATIONS[role].items():
            assert "type" in rule, name
            assert rule.get("default") == defaults.get(name), name


def test_numbers_are_not_negative(check):
    lines, _said = check(gateway_min_free_mb=-1, backup_keep="-7", logrotate_days=0)
    assert [line.partition(" (")[0] for line in lines] == [
        "zeus: gateway_min_free_mb: is -1, less than 0. Fix: write 0 or more",
        "zeus: backup_keep: is -7, less than 0. Fix: write 0 or more",
    ]


@pytest.mark.parametrize(
    ("variables", "line"),
    [
        (
            {"image_name": "hermes:1"},
            "image_name: 'hermes:1' is not the name of a repository. Fix: write it as HOST/NAME, with no tag",
        ),
        (
            {"hermes_version": ">=0.19"},
            "hermes_version: an image holds one exact release. "
            "Fix: declare the version, or ref and commit, for the host that builds",
        ),
        (
            {"install_method": "git", "install_url": "https://example.org/h.git", "install_channel": "v*"},
            "install_channel: an image holds one exact release. "
            "Fix: declare the version, or ref and commit, for the host that builds",
        ),
        (
            {"install_index_password": SECRET},
            "install_index_password: is declared, and a build has no use for it. "
            "Fix: name an index that can be read without it (install_index_url), for the hosts that build",
        ),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_makes_no_image_is_refused_in_the_names_of_variables(check, variables, line):
    (said,), output = check(roles=["common", "install", "image"], **variables)
    assert said.partition(" (host_vars")[0].partition(" (role")[0] == f"zeus: {line}"
    assert SECRET not in output


def test_what_makes_an_image_is_accepted(check):
    assert check(roles=["common", "install", "image"], image_packages=["git"], install_extras=["messaging"])[0] == []


# The others of settings.CHECKED are disabled until a variable of theirs is declared.
@pytest.mark.parametrize("role", ["install", "backup"])
def test_the_settings_of_a_role_without_a_declaration_need_no_check(check, role):
    """They are not checked, because a fleet would pay for it; with one variable declared as it is, they are."""
    defaults = yaml.safe_load((TOP / "roles" / role / "defaults/main.yml").read_text())
    name = next(name for name, value in defaults.items() if isinstance(value, (int, str)))
    assert check(**{name: defaults[name]})[0] == []


def test_site_checks_all_roles_first_and_has_ansible_check_none(tmp_path):
    # The others have playbooks of their own, which check their variables.
    assert sorted([*ROLES, "aws", "cluster", "image", "tenants"]) == KNOWN
    (tmp_path / "hosts.json").write_text(json.dumps({"hermes": {"hosts": {"zeus": {}}}}))
    for options in ((), ("--tags", "none")):
        done = playbook(tmp_path, "-i", "hosts.json", str(SITE), "--list-tasks", *options)
        tasks = re.findall(r"^      (\S.*?)\tTAGS", done.stdout, re.M)
        assert tasks[0] == PLAY["pre_tasks"][0]["name"], done.stdout + done.stderr
        assert "Validating arguments" not in done.stdout
