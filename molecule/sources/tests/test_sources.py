# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Secrets from sources: what agents get, what changes, and what happens when a source is away."""

from __future__ import annotations

import base64
import json
import secrets
import subprocess
from collections.abc import Callable
from typing import Any

import pytest

PORTS = {"default": 8642, "sealed": 8650, "told": 8651}
ENV = "/var/lib/hermes/agents/default/.hermes/.env"
FETCHED = "/run/hermes-ops/secrets/default.env"
# Every value that a test made, in /run, so that a later test can look for it.
USED = "/run/made/used"


@pytest.fixture
def agents(agent: Callable[..., Any]) -> dict[str, Any]:
    return {name: agent(name, port=port) for name, port in PORTS.items()}


@pytest.fixture
def new_value(controller: Any) -> Callable[[], str]:
    def make() -> str:
        value = f"new-{secrets.token_hex(20)}"
        controller.shell(f'echo "$1" >>{USED}', value)
        return value

    return make


def test_each_agent_has_what_its_source_gives_to_the_byte(agents, sources, environment, model):
    for name, agent in agents.items():
        its = environment(agent.pid)
        assert {key: its.get(key) for key in sources.made[name]} == sources.made[name], name
        assert agent.ask("well?", key=sources.made[name]["API_SERVER_KEY"]).status == 200
        assert "MODEL_API_KEY" not in agent.read(".env")
        assert "API_SERVER_KEY" not in agent.read(".env")
    keys = {request["authorization"] for request in model.requests()}
    assert keys == {f"Bearer {sources.made[name]['MODEL_API_KEY']}" for name in agents}


def test_only_root_may_read_what_was_fetched(controller):
    assert controller.shell("find /run/hermes-ops/secrets -mindepth 1 -printf '%m %U %G\\n' | sort -u") == "600 0 0\n"
    assert controller.shell("stat -c '%a %U' /run/hermes-ops/secrets") == "700 root\n"
    assert controller.shell("stat -f -c %T /run/hermes-ops/secrets").strip() == "tmpfs"


def test_the_environment_of_a_gateway_is_its_users_alone_and_no_crash_records_it(controller, agents):
    pid = agents["default"].pid
    read = f"cat /proc/{pid}/environ 2>/dev/null | wc -c"
    for user, may in (("hermes-default", True), ("hermes-told", False), ("nobody", False)):
        assert (controller.shell(f"runuser -u {user} -- sh -c '{read}'").strip() != "0") == may, user
    # The kernel starts no handler of crashes for a process with this limit, such as systemd-coredump.
    limit = controller.shell(f"grep 'Max core file size' /proc/{pid}/limits").split()
    assert limit[4:6] == ["1", "1"]


@pytest.mark.parametrize("user", ["hermes-default", "hermes-told"])
def test_agents_users_cannot_reach_the_metadata_service(controller, user):
    ask = "curl -sS -m 5 -o /dev/null -w '%{http_code}' -X PUT -H 'X-aws-ec2-metadata-token-ttl-seconds: 60'"
    url = "http://169.254.169.254/latest/api/token"
    assert controller.shell(f"{ask} {url}") == "200"
    # A terminal of the user's own, to which no unit's sandbox applies.
    assert controller.shell(f"runuser -u {user} -- {ask} {url} 2>&1 || true").endswith("000")
    # And the sandbox by itself, where the rules are gone.
    controller.shell("nft delete table inet hermes_metadata")
    assert "hermes-metadata.service" in findings_of(controller)["metadata_open"]["fix"]
    assert controller.shell(f"runuser -u {user} -- {ask} {url}") == "200"
    unit = f"systemd-run --quiet --wait --pipe -p User={user} -p 'IPAddressDeny=169.254.169.254 fd00:ec2::254'"
    assert controller.shell(f"{unit} {ask} {url} 2>&1 || true").endswith("000")
    controller.shell("systemctl restart hermes-metadata.service")
    assert "metadata_open" not in findings_of(controller)


def findings_of(controller: Any) -> dict[str, Any]:
    found = json.loads(controller.shell("hermes-ops check --json || true"))["findings"]
    return {each["cause"]: each for each in found}


def test_a_changed_parameter_restarts_its_agent_and_no_other(agents, sources, environment, new_value, wait_until):
    pids = {name: agent.pid for name, agent in agents.items()}
    assert sources.fetch() == ""
    assert {name: agent.pid for name, agent in agents.items()} == pids
    sources.put(MODEL_API_KEY=new_value())
    log = sources.fetch()
    assert "changed: MODEL_API_KEY" in log
    assert sources.made["default"]["MODEL_API_KEY"] not in log
    assert {name for name, agent in agents.items() if agent.pid != pids[name]} == {"default"}
    assert environment(agents["default"].pid)["MODEL_API_KEY"] == sources.made["default"]["MODEL_API_KEY"]
    wait_until(agents["default"].is_healthy, "the gateway with its new secret")
    assert not sources.findings()


def test_a_source_that_is_away_changes_nothing_but_the_check(agents, sources, controller):
    pids = {name: agent.pid for name, agent in agents.items()}
    sources.faults({"status": 500, "times": 0})
    assert "InternalServerError" in sources.fetch(check=False)
    assert {name: agent.pid for name, agent in agents.items()} == pids
    found = sources.findings()["secrets_stale"]
    assert (found["agent"], found["severity"]) == ("default", "warning")
    # Also a gateway that restarts has its secrets.
    controller.shell("systemctl restart hermes-gateway@default.service")
    sources.tell("DELETE", "/faults")
    sources.fetch()
    assert not sources.findings()


def test_killed_while_it_fetches(agents, sources, controller, new_value):
    pid = agents["default"].pid
    sources.put(MODEL_API_KEY=new_value())
    sources.faults({"hold": True, "times": 0})
    asked = sources.tell("GET", "/asked")
    controller.shell("systemctl start --no-block hermes-secrets.service")
    controller.shell('until [ "$(curl -s http://127.0.0.1:14566/asked)" != "$1" ]; do sleep 0.1; done', asked)
    controller.shell("systemctl kill --signal=KILL hermes-secrets.service")
    # A start before its end would wait for the one that was killed, and fail with it.
    ended = 'until [ "$(systemctl show -P ActiveState hermes-secrets.service)" = failed ]; do sleep 0.1; done'
    controller.shell(ended)
    sources.tell("DELETE", "/faults")
    assert agents["default"].pid == pid
    assert "changed: MODEL_API_KEY" in sources.fetch()
    assert agents["default"].pid != pid


@pytest.mark.parametrize(
    ("event", "words"),
    [("os.rename", f"'{FETCHED}'"), ("subprocess.Popen", "'restart'")],
    ids=["before the file", "before the restart"],
)
def test_killed_while_it_rotates(agents, sources, environment, controller, killer, new_value, event, words):
    sources.put(MODEL_API_KEY=new_value())
    killer.order(event, words)
    sources.fetch(check=False)
    killer.obeyed()
    assert environment(agents["default"].pid)["MODEL_API_KEY"] != sources.made["default"]["MODEL_API_KEY"]
    sources.fetch()
    assert environment(agents["default"].pid)["MODEL_API_KEY"] == sources.made["default"]["MODEL_API_KEY"]


def test_a_value_that_does_not_work_is_told_and_the_one_before_is_not_kept(
    agents, sources, environment, model, new_value, controller
):
    sources.put(MODEL_API_KEY=new_value())
    model.faults({"status": 401, "times": 0})
    sources.fetch(check=False)
    found = sources.findings()
    status = json.loads(controller.shell("cat /run/hermes-ops/secrets/default.json"))
    assert status["unwell"]
    assert status["changed"] == ["MODEL_API_KEY"]
    assert "MODEL_API_KEY" in found["secrets_unwell"]["what"]
    assert environment(agents["default"].pid)["MODEL_API_KEY"] == sources.made["default"]["MODEL_API_KEY"]
    model.faults()
    sources.put(MODEL_API_KEY=new_value())
    sources.fetch()
    assert not sources.findings()


def test_a_key_in_both_is_refused_before_anything_starts(agents, sources, controller, new_value):
    pids = {name: agent.pid for name, agent in agents.items()}
    controller.shell(f"cp -p {ENV} /run/made/env && echo 'MORE_3=mine' >>{ENV}")
    run = controller.run()
    assert run.rc != 0, run.output
    assert "has MORE_3, and so has the agent's source of secrets" in run.text
    # On the host as well, once it would restart the gateway for another secret.
    sources.put(MORE_4=new_value())
    assert "has MORE_3" in sources.fetch(check=False)
    assert "MORE_3" in sources.findings()["secrets_stale"]["what"]
    assert {name: agent.pid for name, agent in agents.items()} == pids
    controller.shell(f"cp -p /run/made/env {ENV}")
    sources.fetch()
    assert not sources.findings()


def test_no_value_is_anywhere_else(sources, controller, agents):
    """Every value that was ever used is looked for in all files, the journal, units, processes, backups and bundles."""
    controller.shell("hermes-ops backup >/dev/null")
    controller.shell("cd /root && hermes-ops debug >/dev/null")
    run = controller.run({"secrets_interval": 3000}, "-vvv", "--diff")
    assert run.rc == 0, run.output
    used = [value for its in sources.made.values() for value in its.values()]
    used += controller.shell(f"cat {USED}").split()
    words = [
        form for value in used for form in (value.split("\n")[0][:24], base64.b64encode(value.encode()).decode()[:30])
    ]
    assert len(words) > 50
    assert not [word for word in words if word in run.output]
    controller.write("/run/made/words", "\n".join(words))
    controller.shell(
        """
        {
          journalctl --no-pager --all --output=export
          systemctl show '*'
          runuser -u nobody -- ps axeww
          for each in $(find /var/lib/hermes/ops/backups /root -name '*.tar*'); do
            echo "archive $each"
            gzip --decompress --stdout --force "$each"
          done
        } >/run/made/shown 2>/dev/null
        """
    )
    count = "grep --text --count --fixed-strings"
    for there in ("archive /root/", "archive /var/lib/hermes/ops/backups/", "_SYSTEMD_UNIT=hermes-secrets.service"):
        assert int(controller.shell(f"{count} '{there}' /run/made/shown")), there
    assert int(controller.shell(f"{count} --file=/run/made/words {FETCHED}"))
    assert controller.shell(f"{count} --file=/run/made/words /run/made/shown || true") == "0\n"
    # All that is not in memory. The tests' own copies are.
    places = controller.shell(
        "findmnt --noheadings --list --output TARGET,FSTYPE | awk '$2 ~ /^(overlay|ext4|xfs|btrfs)$/ {print $1}'"
    ).split()
    assert "/" in places
    left_out = " ".join(f"--exclude-dir={name}" for name in ("proc", "sys", "run", "dev", "tmp"))
    look = "grep --recursive --text --files-with-matches --fixed-strings --file=/run/made/words --devices=skip"
    for place in places:
        assert controller.shell(f"{look} {left_out} {place} 2>/dev/null || true") == ""


def test_a_source_that_is_away_at_a_boot(agents, sources, controller, wait_until):
    controller.shell("systemctl disable --quiet parameter-store.service; cp -r /run/made /run/told /var/tmp")
    # Not the fixture reboot, which waits until nothing is about to start any more.
    subprocess.run(["docker", "restart", "--time", "60", controller.box], check=True, capture_output=True)
    wait_until(
        lambda: "active" in controller.shell("systemctl is-active multi-user.target || true").split(), "the boot"
    )
    controller.shell("mv /var/tmp/made /var/tmp/told /run")
    waiting = agents["default"]
    # Those whose sources are there do not wait for the others.
    wait_until(agents["sealed"].is_healthy, "the agent with a file")
    wait_until(agents["told"].is_healthy, "the agent with a program, which was away, too", 90)
    assert waiting.show("ActiveState") == "inactive"
    assert waiting.show("Result") == "success"
    assert controller.shell("systemctl show -P ActiveState hermes-secrets@default").strip() == "activating"
    found = findings_of(controller)["secrets_missing"]
    assert (found["agent"], found["severity"]) == ("default", "failure")
    # systemd gives up a gateway whose secrets nothing fetches any more.
    controller.shell("systemctl kill --signal=KILL hermes-secrets@default")
    wait_until(lambda: not waiting.show("Job"), "the end of its start")
    assert controller.shell("systemctl show -P ActiveState hermes-secrets@default").strip() == "failed"
    controller.shell("systemctl enable --quiet --now parameter-store.service")
    sources.refill()
    # Its health is awaited below, for longer.
    sources.fetch(check=False)
    wait_until(waiting.is_healthy, "the agent, once its source is back", 90)
    assert "secrets_missing" not in findings_of(controller)


def test_without_sources_nothing_is_left(controller, agents):
    plain = [{"name": name, "api": {"port": port}, "config": {}} for name, port in PORTS.items()]
    run = controller.run({"secrets_enabled": False, "hermes_agents": plain, "gateway_health": False})
    assert run.rc == 0, run.output
    left = controller.shell(
        "ls -d /run/hermes-ops/secrets /etc/hermes-ops/secrets.json /etc/hermes-ops/metadata.nft"
        " /etc/systemd/system/hermes-secrets* /etc/systemd/system/hermes-metadata* 2>/dev/null || true;"
        " nft list tables | grep hermes || true;"
        " systemctl list-units --plain --no-legend --all 'hermes-secrets*' 'hermes-metadata*'"
    )
    assert left == ""
