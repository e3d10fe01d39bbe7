# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Several agents on one host: each is independent, and a change of one leaves the others alone.

A test that changes something adds it to the current declaration, where it stays. Tests that do not depend on the
version of Hermes are in test_units.py.
"""

from __future__ import annotations

import json
import re
import secrets

ANSWERING = ("default", "work", "family", "bridge")
CRON_ONLY = "nightly"


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


def test_a_webhook_is_refused_with_the_secret_of_another_agent(agents):
    assert agents["bridge"].post("mail", "another-secret", {"body": "x"}).status == 202
    assert agents["bridge"].post("mail", "the-secret-of-the-mail", {"body": "x"}).status == 401
    assert agents["work"].post("mail", "another-secret", {"body": "x"}).status == 401


def test_it_runs_the_version_that_is_declared(host, agents):
    version = host.ansible.get_variables()["hermes_version"]
    answers = [json.loads(host.check_output("curl --silent %s/health", agents[name].url)) for name in ANSWERING]
    assert {answer["version"] for answer in answers} == {version}


def test_the_agent_without_platforms_listens_nowhere(host, agents):
    with host.sudo():
        listening = host.check_output("ss --listening --tcp --no-header --processes")
    assert f"pid={agents['work'].pid}," in listening
    assert f"pid={agents[CRON_ONLY].pid}," not in listening


def test_the_cron_job_of_the_agent_without_platforms_runs(host, agents, wait_until):
    token = secrets.token_hex(4)
    # The job is due at once; the gateway checks once a minute.
    now = host.check_output("date --utc +%FT%TZ")
    created = host.check_output("hermes --profile %s cron create --deliver local %s %s", CRON_ONLY, now, token)
    job = re.search(r"Created job: (\w+)", created)[1]

    def response():
        with host.sudo():
            output = host.run("grep --recursive --no-filename '' %s/cron/output/%s", agents[CRON_ONLY].home, job).stdout
        return output.partition("## Response")[2]

    wait_until(lambda: token in response(), "the job's response", seconds=150)


def test_each_runs_as_its_own_user_below_the_system_s_manager(host, agents):
    for agent in agents.values():
        # In a container the path of the cgroup has a prefix.
        assert agent.show("ControlGroup").endswith(f"/system.slice/system-hermes\\x2dgateway.slice/{agent.unit}")
        assert agent.show("UnitFileState") == "enabled"
        assert host.check_output("ps --no-headers -o user:32 --pid %s", str(agent.pid)) == agent.user
        directory = agent.home.rpartition("/")[0]
        with host.sudo():
            assert host.check_output("stat --format '%%a %%U' %s", directory) == f"700 {agent.user}"


def test_a_unit_without_an_agent_does_not_start(host):
    """The template alone names neither a user nor a home."""
    with host.sudo():
        assert host.run("systemctl start hermes-gateway@nobody-s.service").rc != 0


def test_a_user_that_two_share_is_named(host):
    with host.sudo():
        assert "the user hermes-family runs several agents: family, nightly" in host.check_output("hermes-ops status")


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
    assert "hermes-work" in reply
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


# Changes, and the gateways that they restart


def test_a_change_restarts_only_whom_it_has_to(agents, declared, converge, restarted, model):
    work, family, bridge = agents["work"], agents["family"], agents["bridge"]
    # Picked up while running: the model, and webhooks.
    declared["work"]["config"]["model"]["default"] = "another-model"
    declared["work"]["webhooks"][0]["secret"] = "a-rotated-secret"
    declared["work"]["webhooks"].append({"name": "calendar", "secret": "of-the-calendar", "prompt": "{body}"})
    assert work.post("calendar", "of-the-calendar", {"body": "x"}).status == 404
    # Needs a restart: everything else in the configuration, limits, the environment.
    declared["family"]["config"]["agent"] = {"max_turns": 30}
    declared["family"]["limits"] = {"memory": "1G"}
    key = secrets.token_hex(16)
    declared["bridge"]["secrets"]["API_SERVER_KEY"] = key
    said = converge()
    assert restarted() == {"family", "bridge"}
    assert set(re.findall(r"agent (\w+) was restarted: ", said)) == {"family", "bridge"}

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
    converge(dashboard_enabled=True)
    assert restarted() == {"bridge", "work", "family"}

    # The managed scope overrides the keys that a chat can change.
    with host.sudo(bridge.user):
        host.run_expect([0], f"echo '{own}' >{bridge.home}/config.yaml")
    bridge.reply("hello")
    assert {request["body"]["model"] for request in model.requests()} == {"stub-model"}

    for name, other in (("work", "family"), ("family", "work")):
        agents[name].url, before = f"http://127.0.0.1:{declared[name]['api']['port']}", agents[name].url
        assert before == f"http://127.0.0.1:{declared[other]['api']['port']}"
        assert agents[name].reply("moved?") == "The model heard: moved?"

    pids = {name: agent.pid for name, agent in agents.items()}
    converge(dashboard_enabled=True)
    assert pids == {name: agent.pid for name, agent in agents.items()}
    # The declared keys are in the managed scope, so the home's file stays as the agent wrote it.
    assert bridge.read("config.yaml").strip() == own


def test_a_look_at_all_of_them(host, declared):
    # This works in user scope, and with the older Hermes, too.
    with host.sudo():
        report = json.loads(host.run("hermes-ops check --json").stdout)
    assert {found["agent"]: found["healthy"] for found in report["agents"]} == dict.fromkeys(declared, True)
    figures = report["figures"]["agents"]
    assert all(figures[name]["memory_bytes"] > 2**20 and figures[name]["open_files"] > 0 for name in declared)
    assert figures["default"]["turns"] > 0


def test_a_backup_of_one_is_restored(host, agents, restarted):
    agents["work"].reply("said before the backup")
    with host.sudo():
        host.check_output("hermes-ops backup --agent work --output /root/backups")
        archive = host.check_output("ls /root/backups/*")
    agents["work"].reply("said after it")
    with host.sudo():
        host.check_output("hermes-ops restore --force %s", archive)
        known = host.check_output("hermes-ops memory --agent work --json said")
    assert "said before the backup" in known
    assert "said after it" not in known
    assert restarted() == {"work"}
    assert agents["work"].reply("well?") == "The model heard: well?"


# Removal, last


def test_all_survive_a_reboot(host, agents, reboot, wait_until):
    reboot()
    for name in ANSWERING:
        wait_until(agents[name].is_healthy, f"{name} after the reboot")
    assert agents["work"].reply("still there?") == "The model heard: still there?"
    assert agents[CRON_ONLY].show("ActiveState") == "active"
    page = "curl --silent --fail http://127.0.0.1:9119/"
    wait_until(lambda: "<html" in host.run(page).stdout.lower(), "the dashboard after the reboot")
