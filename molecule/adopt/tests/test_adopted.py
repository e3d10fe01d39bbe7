# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""None of alice's data is lost, the declared keys are written, and her agent answers under the collection's unit.

/root/before is a copy of her home from before.
"""

from __future__ import annotations

import copy
import difflib
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from control import differences

HOME = "/home/alice/.hermes"
BEFORE = "/root/before/.hermes"

# Exactly these lines are removed and added; every other byte of the file stays.
CONFIG_CHANGES = """\
-"display": {compact: yes, personality: "kawaii"}   # flow
+"display": {compact: false, personality: "kawaii"}   # flow
-  default: old-model     # from the shop
+  default: stub-model     # from the shop
-  api_key: 'an-old-key-of-alice'
+  api_key: '${MODEL_API_KEY}'
-   max_turns:   60
+   max_turns:   90
+   restart_drain_timeout: 30
+      host: 127.0.0.1
+gateway:
+  respawn_storm:
+    max_starts: 0
+updates:
+  check: false
+cron:
+  require_restart_safe_scope: false
+security:
+  allow_lazy_installs: false
+  tirith_enabled: false
+approvals:
+  mode: 'off'
"""
ENV_CHANGES = """\
-MODEL_API_KEY='an old key'  # overwritten
+MODEL_API_KEY=the-model-s-key  # overwritten
+HERMES_TIMEZONE=Europe/Berlin
+API_SERVER_ENABLED=true
+API_SERVER_HOST=127.0.0.1
+API_SERVER_PORT=8642
"""


def lines_changed(before: bytes, after: bytes) -> str:
    lines = difflib.ndiff(before.decode().splitlines(True), after.decode().splitlines(True))
    return "".join(line[0] + line[2:].rstrip("\n") + "\n" for line in lines if line[0] in "+-")


@pytest.fixture
def agents(request: pytest.FixtureRequest) -> list[dict[str, Any]]:
    variables = Path(request.path).parents[1] / "group_vars/hermes.yml"
    return copy.deepcopy(yaml.safe_load(variables.read_text())["hermes_agents"])


def test_config_keeps_every_byte_of_hers(controller):
    before, after = controller.read(f"{BEFORE}/config.yaml"), controller.read(f"{HOME}/config.yaml")
    assert lines_changed(before, after) == CONFIG_CHANGES
    hers, now = yaml.safe_load(before), yaml.safe_load(after)
    for key in ("voice", "night_voice", "my_own"):
        assert now[key] == hers[key]


def test_env_keeps_every_byte_of_hers(controller):
    before, after = controller.read(f"{BEFORE}/.env"), controller.read(f"{HOME}/.env")
    assert lines_changed(before, after) == ENV_CHANGES


def test_her_clients_need_no_new_key(alices):
    assert alices.key == "made-by-hand-0123456789abcdef"
    assert alices.ask("hello").status == 200


def test_her_webhooks_stay(controller, alices):
    before = json.loads(controller.read(f"{BEFORE}/webhook_subscriptions.json"))
    after = json.loads(controller.read(f"{HOME}/webhook_subscriptions.json"))
    assert after.pop("ci") == before["ci"]
    ours = {"prompt": "Incoming context: {body}"}
    assert after == {"claude-context": {**before["claude-context"], **ours}}
    assert alices.post("ci", "the-secret-of-alice-s-ci", {"body": "x"}).status in (200, 202)
    assert alices.post("claude-context", "the-secret-that-alice-gave-out", {"body": "x"}).status == 202


@pytest.mark.parametrize(
    "name",
    [
        "SOUL.md",
        "memories/USER.md",
        "memories/MEMORY.md",
        "skills/kitchen/bread/SKILL.md",
        "active_profile",
        "workspace-notes.txt",
        "config.yaml.old",
    ],
)
def test_her_other_files_stay(name, controller):
    assert controller.read(f"{HOME}/{name}") == controller.read(f"{BEFORE}/{name}")


def test_her_other_profile_is_untouched(controller):
    look = 'cd "$1/profiles" && find . -printf "%p %m %u %g %s %T@ %l\\n" | sort && cat notes/config.yaml'
    assert controller.shell(look, HOME) == controller.shell(look, BEFORE)


def test_what_is_hers_elsewhere_stays(controller):
    assert controller.read("/etc/cron.d/alice") == b"5 4 * * * alice true\n"
    assert controller.shell("getent passwd alice").split(":")[4:] == [
        "Alice, who was here first",
        "/home/alice",
        "/bin/bash\n",
    ]
    # Her unit is left out: Hermes rewrites it at each start of a gateway.
    look = 'cd "$1/hermes-venv" && find . -type f -printf "%p %m %u %s %T@\\n" | grep -v __pycache__ | sort | sha256sum'
    assert controller.shell(look, "/home/alice") == controller.shell(look, "/root/before")
    assert "MADE_BY=alice" in controller.shell("systemctl show --property Environment hermes-gateway@default")


def test_her_sessions_are_there(controller, alices):
    alices.reply("another one")
    ask = (
        "import sqlite3; print([row[0] for row in sqlite3.connect("
        f"'{HOME}/state.db').execute(\"select content from messages where role = 'user'\")])"
    )
    messages = controller.shell('python3 -c "$1"', ask)
    assert "remember the sourdough" in messages
    assert "another one" in messages


def test_her_old_sessions_and_logs_stay_until_she_decides(controller, alices, wait_until):
    old = (
        "import sqlite3, time; old = time.time() - 200 * 86400; "
        f"database = sqlite3.connect('{HOME}/state.db', timeout=30); "
        "database.execute('INSERT INTO sessions (id, source, started_at, ended_at) VALUES (?, ?, ?, ?)', "
        "('of-last-winter', 'cli', old, old + 60)); database.commit()"
    )
    log = f"{HOME}/sessions/request_dump_of-last-winter.json"
    controller.shell('runuser -u alice -- python3 -c "$1"', old)
    controller.shell('runuser -u alice -- touch --date "20 days ago" "$1"', log)
    controller.shell("systemctl restart hermes-gateway@default && systemctl start hermes-logrotate")
    wait_until(alices.is_healthy, "her agent after the restart")
    count = "import sqlite3; print(sqlite3.connect('{}/state.db').execute(\"{}\").fetchone()[0])"
    query = "select count(*) from sessions where id = 'of-last-winter'"
    assert controller.shell('python3 -c "$1"', count.format(HOME, query)) == "1\n"
    controller.shell('test -e "$1"', log)
    assert "would remove 1 session that ended" in controller.shell("hermes-ops check --agent default")


def test_modes_and_owners_are_right(controller):
    private = f"{HOME} {HOME}/.env {HOME}/config.yaml {HOME}/SOUL.md {HOME}/webhook_subscriptions.json"
    modes = controller.shell(f"stat --format '%a %U:%G' {private}").splitlines()
    assert modes == ["700 alice:alice", *["600 alice:alice"] * 4]
    strangers = controller.shell(f"find {HOME} ! -user alice -o ! -group alice")
    assert not strangers
    assert controller.shell("stat --format '%a %U' /var/lib/hermes/ops").strip() == "700 root"


def test_her_agent_answers_under_our_unit(controller, alices):
    assert alices.reply("are you it?") == "The model heard: are you it?"
    running = controller.shell("tr '\\0' ' ' </proc/$1/cmdline", str(alices.pid))
    assert running.startswith("/opt/hermes/releases/0.19.0")


def test_the_command_reaches_her_home(controller):
    # active_profile names notes; it is alice's setting, for her own commands.
    for caller in ("", "runuser -u ops -- ", "runuser -u alice -- "):
        assert "sourdough" in controller.shell(f"cd / && {caller}/usr/local/bin/hermes sessions list")
    # -p names an agent. A profile that is not declared is not an agent, and has no sandbox to run in.
    refused = controller.shell("/usr/local/bin/hermes -p notes sessions list 2>&1", check=False)
    assert "known ones: bob, default, work" in refused
    status = json.loads(controller.shell("hermes-ops status --json"))
    assert status["undeclared_profiles"] == [f"{HOME}/profiles/notes"]


def test_a_key_changed_by_hand_is_reported_and_put_right(controller, alices, agents):
    config = controller.read(f"{HOME}/config.yaml")
    assert b"max_turns:   90" in config
    controller.write(f"{HOME}/config.yaml", config.replace(b"max_turns:   90", b"max_turns:   7  # hers now"))
    status = json.loads(controller.shell("hermes-ops status --json"))
    assert status["agents"]["default"]["drift"] == ["agent.max_turns"]
    run = controller.run(None, "-v")
    assert run.rc == 0
    assert "declared: 90 file: config.yaml found: 7 key: agent.max_turns" in run.text
    assert controller.read(f"{HOME}/config.yaml") == config.replace(b"max_turns:   90", b"max_turns:   90  # hers now")
    assert json.loads(controller.shell("hermes-ops status --json"))["agents"]["default"]["drift"] == []


def test_a_key_that_leaves_the_declaration_leaves_the_file(controller, alices, agents):
    before = controller.read(f"{HOME}/config.yaml"), controller.read(f"{HOME}/.env")
    del agents[0]["config"]["approvals"], agents[0]["settings"]
    controller.converge({"hermes_agents": agents})
    config, env = controller.read(f"{HOME}/config.yaml"), controller.read(f"{HOME}/.env")
    assert lines_changed(before[0], config) == "-approvals:\n-  mode: 'off'\n"
    assert lines_changed(before[1], env) == "-HERMES_TIMEZONE=Europe/Berlin\n"
    assert alices.reply("still?") == "The model heard: still?"
    controller.converge()
    assert controller.read(f"{HOME}/config.yaml") == before[0]
    assert sorted(controller.read(f"{HOME}/.env").splitlines()) == sorted(before[1].splitlines())


def test_her_other_profile_becomes_an_agent_with_its_home_as_it_is(controller, alices, agent, agents):
    hers, *others = agents
    notes = {
        **hers,
        "name": "notes",
        "home": f"{HOME}/profiles/notes",
        "api": {"port": 8652},
        "webhook": {"port": 8653},
    }
    before, pid = controller.read(f"{BEFORE}/profiles/notes/config.yaml"), alices.pid
    controller.converge({"hermes_agents": [hers, notes, *others]})
    assert before.splitlines()[0] in controller.read(f"{HOME}/profiles/notes/config.yaml")
    other = agent("notes", port=8652)
    other.home = f"{HOME}/profiles/notes"
    assert other.reply("who are you?") == "The model heard: who are you?"
    # Each agent has its own sessions, whatever active_profile says, and alice's setting was not touched.
    assert "who are you" in controller.shell("hermes -p notes sessions list")
    assert "who are you" not in controller.shell("hermes -p default sessions list")
    assert alices.pid == pid
    status = controller.shell("hermes-ops status")
    assert "the user alice runs several agents: default, notes" in status
    controller.converge({"hermes_agents": [hers, {**notes, "state": "absent"}, *others]})
    assert not other.is_healthy()
    assert alices.pid == pid


def test_a_host_of_an_earlier_version_is_refused_with_the_way_out(controller):
    path, now = "/etc/hermes-ops/host.json", controller.read("/etc/hermes-ops/host.json")
    try:
        controller.write(
            path, json.dumps({**json.loads(now), "user": "hermes", "hermes_home": "/var/lib/hermes/.hermes"})
        )
        before = controller.manifest()
        run = controller.run()
        assert run.rc != 0
        assert f"when all agents shared a home and a user ({path}). Fix: take it over: docs/adopting.md" in run.text
        assert not differences(before, controller.manifest())
    finally:
        controller.write(path, now)


def test_it_comes_back_after_a_reboot_and_hers_does_not(controller, alices, reboot, wait_until):
    reboot()
    wait_until(alices.is_healthy, "her agent after the reboot")
    assert alices.reply("still there?") == "The model heard: still there?"
    assert controller.shell("pgrep --full --count '[h]ermes-venv' || true").strip() == "0"
