# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Several agents on one host: each on its own, and what changes for one leaves the others alone.

The tests that change something declare it on top of what is declared already, and stay that way.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import signal
import subprocess
from pathlib import Path

import pytest
from control import end_at_once

EPHEMERAL = Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"])
OPS_DIR = "/var/lib/hermes/ops"
ANSWERING = ("default", "work", "family", "bridge")
CRON_ONLY = "nightly"


@pytest.fixture(scope="module")
def declared(host):
    """What is declared of each profile; tests change it and converge."""
    return {profile["name"]: profile for profile in host.ansible.get_variables()["hermes_profiles"]}


@pytest.fixture
def agents(agent, declared):
    """All agents of the host, by name."""
    return {
        name: agent(
            name,
            port=profile.get("api", {}).get("port", 8642),
            webhook_port=profile.get("webhook", {}).get("port", 8644),
            scope="user",
        )
        for name, profile in declared.items()
    }


@pytest.fixture
def playbook(host, declared, tmp_path):
    """A function that gives the command which converges this host to what is declared now."""

    def command(**variables):
        file = tmp_path / "declared.json"
        file.write_text(json.dumps({"hermes_profiles": list(declared.values()), **variables}))
        options = ["--inventory", EPHEMERAL / "inventory", "--limit", host.backend.host, "--extra-vars", f"@{file}"]
        return ["ansible-playbook", *options, "alwayson.hermes.site"]

    return command


@pytest.fixture
def converge(playbook):
    """A function that converges this host to what is declared now."""

    def run(**variables):
        done = subprocess.run(playbook(**variables), capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr

    return run


@pytest.fixture
def restarted(agents):
    """A function that names the agents whose process is another one than at the start of the test."""
    before = {name: agent.pid for name, agent in agents.items()}
    assert all(before.values()), before
    return lambda: {name for name, agent in agents.items() if agent.pid != before[name]}


# As converged


def test_it_was_converged_over_ssh_by_somebody_without_rights(host):
    with host.sudo():
        log = host.check_output("journalctl --boot --output cat --identifier sudo")
    callers = {line.split()[0] for line in log.splitlines() if "BECOME-SUCCESS" in line}
    assert callers == {"ops"}


def test_each_answers_on_its_own_port(agents):
    for name in ANSWERING:
        token = secrets.token_hex(4)
        assert agents[name].reply(f"say {token}") == f"The model heard: say {token}"


def test_each_accepts_its_own_key_only(agents):
    for name in ANSWERING:
        for other in ANSWERING:
            expected = 200 if name == other else 401
            assert agents[name].ask("hello", key=agents[other].key).status == expected, (name, other)


def test_a_webhook_is_refused_with_the_secret_of_another_profile(agents):
    assert agents["bridge"].post("mail", "another-secret", {"body": "x"}).status == 202
    assert agents["bridge"].post("mail", "the-secret-of-the-mail", {"body": "x"}).status == 401
    assert agents["work"].post("mail", "another-secret", {"body": "x"}).status == 401


def test_it_runs_the_version_that_is_declared(host, agents):
    version = host.ansible.get_variables()["hermes_version"]
    answers = [json.loads(host.check_output("curl --silent %s/health", agents[name].url)) for name in ANSWERING]
    assert {answer["version"] for answer in answers} == {version}


def test_the_profile_without_platforms_listens_nowhere(host, agents):
    with host.sudo():
        listening = host.check_output("ss --listening --tcp --no-header --processes")
    assert f"pid={agents['work'].pid}," in listening
    assert f"pid={agents[CRON_ONLY].pid}," not in listening


def test_the_cron_job_of_the_profile_without_platforms_runs(host, agents, wait_until):
    token = secrets.token_hex(4)
    # Due at once: the gateway looks once a minute.
    now = host.check_output("date --utc +%FT%TZ")
    created = host.check_output("hermes --profile %s cron create --deliver local %s %s", CRON_ONLY, now, token)
    job = re.search(r"Created job: (\w+)", created)[1]

    def response():
        with host.sudo():
            output = host.run("grep --recursive --no-filename '' %s/cron/output/%s", agents[CRON_ONLY].home, job).stdout
        return output.partition("## Response")[2]

    wait_until(lambda: token in response(), "the job's response", seconds=150)


def test_units_run_in_a_manager_that_needs_no_login(host, agents):
    assert host.check_output("loginctl show-user hermes --property Linger --value") == "yes"
    assert host.check_output("loginctl show-user hermes --property State --value") == "lingering"
    for agent in agents.values():
        assert "/user@" in agent.show("ControlGroup")
        assert agent.show("UnitFileState") == "enabled"
        assert host.check_output("systemctl show --property LoadState --value %s", agent.unit) == "not-found"


def test_the_sandbox_is_in_effect(host, agents):
    for agent in agents.values():
        assert agent.show("NoNewPrivileges") == "yes"
        assert "AF_INET" in agent.show("RestrictAddressFamilies")
        with host.sudo():
            status = host.file(f"/proc/{agent.pid}/status").content_string
        assert "NoNewPrivs:\t1" in status
        assert "Seccomp:\t2" in status


def test_its_terminal_works_in_the_sandbox(agents, model):
    model.script({"tool": "terminal", "arguments": {"command": "id --user --name; grep NoNewPrivs /proc/self/status"}})
    reply = agents["work"].reply("who are you?")
    assert "hermes" in reply
    assert "NoNewPrivs:\\t1" in reply or "NoNewPrivs:\t1" in reply


def test_declared_limits_are_set(agents):
    assert agents["work"].show("MemoryMax") == str(1536 << 20)
    assert agents["work"].show("TasksMax") == "512"
    assert agents["family"].show("MemoryMax") == str(4 << 30)


def test_each_has_a_name_in_the_journal(host, agents):
    for name, agent in agents.items():
        with host.sudo():
            lines = host.check_output("journalctl --boot --output json --identifier %s", f"hermes-gateway-{name}")
        assert str(agent.pid) in {json.loads(line)["_PID"] for line in lines.splitlines()}, name


# What a change restarts


def test_a_change_restarts_only_whom_it_has_to(agents, declared, converge, restarted, model):
    work, family, bridge = agents["work"], agents["family"], agents["bridge"]
    # Live: the model, and webhooks.
    declared["work"]["config"]["model"]["default"] = "another-model"
    declared["work"]["webhooks"][0]["secret"] = "a-rotated-secret"
    declared["work"]["webhooks"].append({"name": "calendar", "secret": "of-the-calendar", "prompt": "{body}"})
    assert work.post("calendar", "of-the-calendar", {"body": "x"}).status == 404
    # Not live: everything else in the configuration, limits, the environment.
    declared["family"]["config"]["agent"] = {"max_turns": 30}
    declared["family"]["limits"] = {"memory": "1G"}
    key = secrets.token_hex(16)
    declared["bridge"]["secrets"]["API_SERVER_KEY"] = key
    converge()
    assert restarted() == {"family", "bridge"}

    work.reply("hello")
    assert {request["body"]["model"] for request in model.requests()} == {"another-model"}
    assert work.post("calendar", "of-the-calendar", {"body": "x"}).status == 202
    assert work.post("mail", "a-rotated-secret", {"body": "x"}).status == 202
    assert work.post("mail", "the-secret-of-the-mail", {"body": "x"}).status == 401
    assert family.show("MemoryMax") == str(1 << 30)
    assert family.reply("hello") == "The model heard: hello"
    assert bridge.ask("hello", key=key).status == 200


def test_one_becomes_managed_and_two_swap_their_ports(host, agents, declared, converge, restarted, model):
    bridge, own = agents["bridge"], "model: {default: its-own-choice}"
    work, family = declared["work"], declared["family"]
    declared["bridge"]["config_scope"] = "managed"
    work["api"], family["api"] = family["api"], work["api"]
    converge()
    assert restarted() == {"bridge", "work", "family"}

    # What is managed wins over what a chat can change.
    with host.sudo("hermes"):
        host.run_expect([0], f"echo '{own}' >{bridge.home}/config.yaml")
    bridge.reply("hello")
    assert {request["body"]["model"] for request in model.requests()} == {"stub-model"}

    for name, other in (("work", "family"), ("family", "work")):
        agents[name].url, before = f"http://127.0.0.1:{declared[name]['api']['port']}", agents[name].url
        assert before == f"http://127.0.0.1:{declared[other]['api']['port']}"
        assert agents[name].reply("moved?") == "The model heard: moved?"

    pids = {name: agent.pid for name, agent in agents.items()}
    converge()
    assert pids == {name: agent.pid for name, agent in agents.items()}
    # Ours is elsewhere: what stands in the home is nobody's business any more.
    assert bridge.read("config.yaml").strip() == own


def test_a_run_that_is_killed_before_the_restart_is_finished_by_the_next(
    host, agents, declared, playbook, converge, restarted, wait_until
):
    pending = f"{OPS_DIR}/profiles/default/restart.json"
    declared["default"]["config"]["agent"] = {"max_turns": 31}

    def remembered():
        with host.sudo():
            return host.file(pending).exists

    assert not remembered()
    run = subprocess.Popen(playbook(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        # The first profile's configuration is written, and the others' come first before any restart.
        wait_until(lambda: remembered() and "max_turns: 31" in agents["default"].read("config.yaml"), "the change")
    finally:
        end_at_once(run)
    assert run.returncode == -signal.SIGKILL
    assert remembered()
    assert restarted() == set()
    converge()
    assert restarted() == {"default"}
    assert not remembered()


# Profiles and units that go


def test_a_profile_that_is_absent_keeps_its_data_unless_purged(host, agents, declared, converge, restarted):
    family, bridge = agents["family"], agents["bridge"]
    key = family.key
    declared["family"]["state"] = declared["bridge"]["state"] = "absent"
    declared["bridge"]["purge"] = True
    converge()
    assert restarted() == {"family", "bridge"}
    for agent in (family, bridge):
        assert agent.pid == 0
        assert agent.show("ActiveState") == "inactive"
        assert agent.show("UnitFileState") != "enabled"
        assert not agent.is_healthy()
        assert not host.file(f"/etc/systemd/user/{agent.unit}.d").exists
    assert family.key == key
    with host.sudo():
        assert host.file(f"{family.home}/state.db").exists
        assert not host.file(bridge.home).exists

    for name in ("family", "bridge"):
        declared[name].pop("state")
    del declared["bridge"]["purge"]
    converge()
    assert restarted() == {"family", "bridge"}
    assert family.key == key
    for agent in (family, bridge):
        assert agent.reply("back?") == "The model heard: back?"


def test_a_look_at_all_of_them(host, declared):
    # In this scope, and with the older Hermes, too.
    with host.sudo():
        report = json.loads(host.run("hermes-ops check --json").stdout)
    assert {found["profile"]: found["healthy"] for found in report["profiles"]} == dict.fromkeys(declared, True)
    figures = report["figures"]["profiles"]
    assert all(figures[name]["memory_bytes"] > 2**20 and figures[name]["open_files"] > 0 for name in declared)
    assert figures["default"]["turns"] > 0


def test_a_backup_of_one_is_restored(host, agents, restarted):
    agents["work"].reply("said before the backup")
    with host.sudo():
        host.check_output("hermes-ops backup --profile work --output /root/backups")
        archive = host.check_output("ls /root/backups/*")
    agents["work"].reply("said after it")
    with host.sudo():
        host.check_output("hermes-ops restore --force %s", archive)
        known = host.check_output("hermes-ops memory --profile work --json said")
    assert "said before the backup" in known
    assert "said after it" not in known
    assert restarted() == {"work"}
    assert agents["work"].reply("well?") == "The model heard: well?"


def units_of(host, scope):
    """What there is of the gateways below /etc/systemd."""
    found = host.check_output("find %s -name %s", f"/etc/systemd/{scope}", "hermes-gateway*").split()
    with host.sudo():
        home = host.check_output("find /var/lib/hermes/.config -name %s 2>/dev/null || true", "hermes-gateway*").split()
    return found + (home if scope == "user" else [])


def test_a_change_of_scope_leaves_no_unit_behind(host, agents, agent, converge):
    converge(gateway_scope="system")
    assert units_of(host, "user") == []
    assert units_of(host, "system")
    for name, ours in agents.items():
        assert ours.pid == 0
        assert agent(name).pid != 0
    for name in ANSWERING:
        assert agents[name].reply("hello") == "The model heard: hello"

    converge(dashboard_enabled=True)
    assert units_of(host, "system") == []
    assert units_of(host, "user")
    for name, ours in agents.items():
        assert ours.pid != 0
        assert agent(name).pid == 0
    for name in ANSWERING:
        assert agents[name].reply("hello") == "The model heard: hello"


# And at last


def test_all_survive_a_reboot(host, agents, reboot, wait_until):
    reboot()
    for name in ANSWERING:
        wait_until(agents[name].is_healthy, f"{name} after the reboot")
        assert agents[name].reply("still there?") == "The model heard: still there?"
    assert agents[CRON_ONLY].show("ActiveState") == "active"
    page = "curl --silent --fail http://127.0.0.1:9119/"
    wait_until(lambda: "<html" in host.run(page).stdout.lower(), "the dashboard after the reboot")
    assert host.check_output("loginctl show-user hermes --property State --value") == "lingering"
