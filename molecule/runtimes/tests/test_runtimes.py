# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""An agent for each user: made, called, woken, at rest, removed."""

from __future__ import annotations

import json
import secrets
from datetime import datetime, timedelta, timezone

from users import SECRET, URL, WEBHOOK, WEBHOOK_SECRET, key_of, webhook_path_of

testinfra_hosts = ["ansible://hermes"]

# All that the 404 of a call says, but for its date.
REFUSED = {"server", "content-type", "content-length", "connection"}


# Made


def test_ensure_answers_once_the_agent_is_healthy(user):
    eve = user("Eve Öster/50 %")
    starts = eve.starts()
    made = json.loads(eve.command("ensure", "--json"))
    assert (made["user"], made["id"], made["state"]) == (eve.name, eve.id, "running")
    assert made["url"].startswith(f"{URL}/u/")
    assert eve.call().json["status"] == "ok"
    # Again, at once: nothing is started.
    again = json.loads(eve.command("ensure", "--json"))
    assert {**again, "since": 0} == {**made, "since": 0}
    assert eve.starts() == starts + 1


def test_the_key_is_what_an_application_computes(ada, bob):
    for each in (ada, bob):
        assert each.command("key").strip() == key_of(each.name, 2)
        assert [each.call(key=key_of(each.name, version)).status for version in (1, 2, 3)] == [200, 200, 404]


def test_all_users_are_listed_and_one_has_a_status(ada, bob, asleep, wait_until):
    def listed():
        found = {each["user"]: each for each in json.loads(ada.shell("hermes-ops runtime list --json"))}
        # On a busy machine she may be at rest again.
        return found if ada.answers() and found[ada.name]["state"] == "running" else None

    asleep(bob)
    found = wait_until(listed, "ada runs")
    assert found[bob.name]["state"] == "asleep"
    assert bob.status() == found[bob.name]
    assert found[ada.name]["container"] == ada.container
    assert "hermes-ops" in ada.inside("cat", "/proc/1/cmdline")


def test_no_output_shows_a_secret(controller):
    run = controller.run({}, "--check", "--diff", "-vvv")
    assert run.rc == 0, run.output
    for secret in (SECRET, WEBHOOK_SECRET, "the-model-s-key"):
        assert secret not in run.output


# Called


def test_it_answers_with_what_its_model_says(ada):
    token = secrets.token_hex(4)
    assert ada.reply(f"say {token}") == f"The model heard: say {token}"


def test_a_stream_comes_as_it_is_made(ada):
    body = {"model": "hermes-agent", "stream": True, "messages": [{"role": "user", "content": "a b c"}]}
    answer = ada.call("/v1/chat/completions", body)
    assert answer.headers["content-type"].startswith("text/event-stream")
    events = [line.removeprefix("data: ") for line in answer.text.splitlines() if line.startswith("data: ")]
    assert events[-1] == "[DONE]"
    said = [json.loads(event)["choices"][0]["delta"].get("content") or "" for event in events[:-1]]
    assert "".join(said) == "The model heard: a b c"


def test_whoever_lacks_the_key_learns_nothing(ada, bob, user, asleep):
    asleep(bob)
    refused = [
        # A user whom there is not, with the right key of such a user, and with a wrong one.
        user("nobody@example.org").call(),
        user("nobody@example.org").call(key="hu1_x"),
        # A user whom there is.
        ada.call(key=""),
        ada.call(key="hu1_x"),
        ada.call(key=key_of(bob.name)),
        ada.call(key=key_of(ada.name, secret=f"{SECRET}!")),
        ada.call(key=SECRET),
        bob.call(key=key_of(ada.name)),
    ]
    seen = {(each.status, each.text, *((name, each.headers[name]) for name in sorted(REFUSED))) for each in refused}
    assert len(seen) == 1
    assert refused[0].status == 404
    assert all(each.headers.keys() == refused[0].headers.keys() for each in refused)
    # His key, for an address that leads from her to him.
    assert ada.call(f"/../../u/{bob.name}/health", key=key_of(bob.name)).status == 404
    # Nor is anybody woken by any of it.
    assert bob.asleep


# Woken, and at rest


def test_many_calls_at_once_wake_it_once(ada, asleep):
    asleep(ada)
    starts = ada.starts()
    call = f"curl -s -o /dev/null -w '%{{http_code}} ' -H 'Authorization: Bearer {key_of(ada.name)}'"
    said = ada.shell(f"for i in $(seq 20); do {call} '{URL}/u/{ada.name}/health' & done; wait")
    assert said.split() == ["200"] * 20
    assert ada.starts() == starts + 1


def test_it_rests_when_nobody_calls_and_wakes_as_the_same(ada, wait_until):
    token = secrets.token_hex(4)
    session = ada.call("/api/sessions", {"title": token}).json["session"]["id"]
    assert token in ada.call(f"/api/sessions/{session}/chat", {"message": f"keep {token}"}).text
    starts = ada.starts()
    wait_until(lambda: ada.asleep, "the agent rests", seconds=120)
    assert ada.shell(f"podman ps --all --quiet --filter name={ada.container}") == ""
    assert ada.status()["state"] == "asleep"

    assert f"The model heard: keep {token}" in ada.call(f"/api/sessions/{session}/messages").text
    assert ada.starts() == starts + 1


def test_a_turn_is_not_cut_by_a_rest(ada, model, wait_until):
    token = secrets.token_hex(4)
    model.tell("POST", "/faults", [{"hold": True}])
    # Nobody is connected while it is done.
    run = ada.call("/v1/runs", {"input": f"say {token}"}).json["run_id"]
    wait_until(lambda: model.tell("GET", "/requests"), "the model is asked")
    starts = ada.starts()
    wait_until(lambda: ada.show("ActiveState", ada.front) == "inactive", "nobody calls")
    # What keeps it up waits for as long as the model does.
    wait_until(lambda: ada.show("ActiveState", ada.rest) == "activating", "it rests once its work is done")
    assert ada.runs
    model.tell("POST", "/release", {})
    wait_until(lambda: ada.asleep, "the agent rests", seconds=120)
    # The end of the run is in the session, after another start.
    said = ada.shell(f"grep --recursive --text --only-matching 'The model heard: say {token}' {ada.data} | head -n 1")
    assert token in said, run
    assert ada.starts() == starts


def test_a_job_of_cron_wakes_it(ada, wait_until):
    token = secrets.token_hex(4)
    # Later than a minute after the start of the rest, for which the agent would stay awake.
    due = datetime.now(timezone.utc) + timedelta(seconds=110)
    job = {"name": "nightly", "schedule": due.strftime("%Y-%m-%dT%H:%M:%SZ"), "prompt": f"say {token}"}
    answer = ada.call("/api/jobs", job)
    assert answer.status == 200, answer
    wait_until(lambda: ada.asleep, "the agent rests", seconds=120)
    starts = ada.starts()
    output = f"cat {ada.data}/.hermes/cron/output/{answer.json['job']['id']}/* 2>/dev/null || true"
    wait_until(lambda: token in ada.shell(output).partition("## Response")[2], "the job's response", seconds=240)
    assert ada.starts() == starts + 1
    wait_until(lambda: ada.asleep, "the agent rests again", seconds=120)


def test_a_webhook_wakes_it_and_its_turn_is_not_cut(ada, model, asleep, wait_until):
    token = secrets.token_hex(4)
    assert ada.command("webhook", after=(WEBHOOK,)).strip() == webhook_path_of(ada.name, version=2)
    asleep(ada)
    starts = ada.starts()
    model.tell("POST", "/faults", [{"hold": True}])
    assert ada.send(token).status == 202
    wait_until(lambda: model.tell("GET", "/requests"), "the model is asked")
    wait_until(lambda: ada.show("ActiveState", ada.front) == "inactive", "nobody calls")
    wait_until(lambda: ada.show("ActiveState", ada.rest) == "activating", "it rests once its work is done")
    assert ada.runs
    model.tell("POST", "/release", {})
    wait_until(lambda: ada.asleep, "the agent rests", seconds=120)
    said = f"The model heard: say {token}"
    assert said in ada.shell(f"grep --recursive --text --only-matching '{said}' {ada.data} | head -n 1")
    assert ada.starts() == starts + 1


def test_a_webhook_needs_its_token_and_its_signature(ada, bob, asleep):
    asleep(ada)
    for path in (
        webhook_path_of(ada.name, version=3),
        webhook_path_of(bob.name).replace(bob.id, ada.id),
        webhook_path_of(ada.name).replace(f"/{WEBHOOK}", "/other"),
        f"{webhook_path_of(ada.name)}/../../health",
    ):
        assert ada.send("never", path=path).status == 404, path
    assert ada.asleep
    # The agent's own answer.
    assert ada.send("never", secret="another").status == 401


# Stopped and removed


def test_a_stopped_one_is_woken_by_nobody_until_ensure(user):
    carl = user("carl@example.org")
    carl.command("ensure")
    carl.command("stop")
    assert carl.status()["state"] == "off"
    assert carl.call().status == 404
    assert not carl.runs
    carl.command("ensure")
    assert carl.call().status == 200


def test_a_removed_one_keeps_its_data_until_they_are_purged(user):
    dora = user("dora@example.org")
    dora.command("ensure")
    dora.python("open('/opt/data/kept', 'w').write('x')")
    number = dora.status()["uid"]
    dora.command("remove")
    assert dora.call().status == 404
    left = "ls -d /run/hermes-runtimes/*/$1 /run/hermes-runtimes/sockets/$1.sock /etc/systemd/system/*/*$1* || true"
    assert dora.shell(f"{left} 2>/dev/null", dora.id) == ""
    assert dora.shell(f"ls {dora.data}").split() == ["kept"]

    assert json.loads(dora.command("ensure", "--json"))["uid"] == number
    assert dora.python("print(open('/opt/data/kept').read())").strip() == "x"

    dora.command("remove", "--purge")
    assert dora.shell(f"ls -d {dora.data} 2>/dev/null || true") == ""
    assert dora.name not in dora.shell("hermes-ops runtime list --json")
    dora.command("ensure")
    assert "kept" not in dora.inside("ls", "/opt/data")
    dora.command("remove", "--purge")


def test_a_user_without_a_runtime_is_one_error(controller):
    for action in ("status", "stop", "remove", "key", "webhook", "logs", "exec"):
        command = " true" if action in ("exec", "webhook") else ""
        said = controller.shell(f"hermes-ops runtime {action} nobody{command} 2>&1 || echo status $?").splitlines()
        assert len(said) == 2, (action, said)
        assert "user nobody: has no runtime here. Fix: " in said[0]
        assert said[1] not in ("status 0", "status 1"), action


def test_root_reads_its_log_and_runs_a_command_beside_it(ada):
    assert "Hermes Gateway" in ada.shell("hermes-ops runtime logs --lines=100000 ada@example.org")
    sessions = ada.shell("hermes-ops runtime exec ada@example.org hermes --profile default sessions list")
    assert "Preview" in sessions or "No sessions" in sessions
