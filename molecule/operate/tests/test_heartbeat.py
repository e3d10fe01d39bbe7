# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The heartbeat: problems arrive with reason and fix, and its own failures are harmless."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

testinfra_hosts = ["ansible://operate-trixie"]

# As in group_vars.
HOST, WORK = (f"{digit * 8}-{digit * 4}-4{digit * 3}-8{digit * 3}-{digit * 12}" for digit in "12")
PING_SERVER = "http://127.0.0.1:18090"
SETTINGS = "/etc/hermes-ops/heartbeat.json"
SERVICE = "hermes-heartbeat.service"
TIMER = "hermes-heartbeat.timer"
HOMES = {"default": "/var/lib/hermes/agents/default/.hermes", "work": "/var/lib/hermes/agents/work/.hermes"}


class Pings:
    """The ping server in the box; its control requests are described in tests/fakes/healthchecks_server.py."""

    def __init__(self, controller: Any) -> None:
        self.controller = controller

    def tell(self, method: str, path: str, value: Any = None) -> Any:
        script = f'curl --silent --show-error --fail --request {method} --data-raw "$1" {PING_SERVER}/control{path}'
        return json.loads(self.controller.shell(script, "" if value is None else json.dumps(value)))

    def faults(self, *faults: dict[str, Any]) -> None:
        self.tell("POST", "/faults", list(faults))

    def seen(self) -> list[str]:
        return self.tell("GET", "/seen")

    def of(self, uuid: str) -> tuple[str, str]:
        """Kind and body of the last ping of a check."""
        return [(ping["kind"], ping["body"]) for ping in self.tell("GET", "/pings") if ping["uuid"] == uuid][-1]


@pytest.fixture
def pings(controller: Any) -> Iterator[Pings]:
    server = Pings(controller)
    server.tell("DELETE", "")
    yield server
    server.tell("DELETE", "")


@pytest.fixture(autouse=True)
def _no_other_heartbeat(controller: Any) -> Iterator[None]:
    """Stops the timer, because the tests start the heartbeat themselves."""
    controller.shell(f"systemctl stop {TIMER}; while systemctl is-active --quiet {SERVICE}; do sleep 0.1; done")
    yield
    # Otherwise systemd limits starts that follow each other so fast.
    controller.shell(f"systemctl reset-failed {SERVICE} {TIMER} || true; systemctl start {TIMER}")


@pytest.fixture
def beat(controller: Any) -> Callable[[], int]:
    """A function that lets systemd run one heartbeat to its end, and returns the command's exit status."""

    def run() -> int:
        controller.shell(f"systemctl start {SERVICE} || true")
        return int(controller.shell(f"systemctl show --property ExecMainStatus --value {SERVICE}"))

    return run


@contextmanager
def meanwhile(controller: Any, begin: str, end: str) -> Iterator[None]:
    controller.shell(begin)
    try:
        yield
    finally:
        controller.shell(end)


@contextmanager
def replaced(controller: Any, path: str, content: str) -> Iterator[None]:
    """*path* has other *content* during the block; mode and owner stay."""
    before = controller.read(path)
    controller.write(path, content)
    try:
        yield
    finally:
        controller.write(path, before)


@contextmanager
def declared(controller: Any, **changes: Any) -> Iterator[None]:
    """Other settings for the heartbeat during the block."""
    settings = json.loads(controller.read(SETTINGS))
    settings["check"].update(changes.pop("check", {}))
    with replaced(controller, SETTINGS, json.dumps({**settings, **changes})):
        yield


def check(controller: Any) -> dict[str, Any]:
    return json.loads(controller.shell("hermes-ops check --json || [ $? = 1 ]"))


def findings(controller: Any) -> dict[str, dict[str, Any]]:
    return {finding["cause"]: finding for finding in check(controller)["findings"]}


def test_the_timer_has_run_it(host, controller, wait_until):
    # It ran within its first period after the converge; the fixture has stopped the timer since.
    controller.shell(f"systemctl start {TIMER}")
    assert host.service(TIMER).is_enabled
    log = f"journalctl --boot --quiet --unit {SERVICE} --output cat --lines 1"
    wait_until(lambda: controller.shell(log), "a first heartbeat", seconds=180)


def test_all_is_well(controller, beat, pings, wait_until):
    # How often systemd restarted agents whose disk earlier tests had filled depends on how fast the machine is.
    controller.shell("rm -f /var/lib/hermes/ops/status/check.json")
    # An agent answers some seconds before all of it is there, and earlier tests have restarted both.
    wait_until(lambda: all(agent["healthy"] for agent in check(controller)["agents"]), "both agents")
    assert beat() == 0
    kind, body = pings.of(HOST)
    assert kind == "success", body
    assert body.startswith("2 agents healthy")
    assert "\n" not in body
    assert pings.of(WORK)[0] == "success"
    textfile = controller.read("/var/lib/hermes.prom").decode()
    assert "\nhermes_healthy 1\n" in textfile
    assert 'hermes_gateway_healthy{agent="work"} 1' in textfile
    assert controller.shell("stat --format %a /var/lib/hermes.prom") == "644\n"


def test_a_gateway_that_was_stopped(controller, beat, pings, agent, wait_until):
    unit = "hermes-gateway@work.service"
    with meanwhile(controller, f"systemctl stop {unit}", f"systemctl start {unit}"):
        assert beat() == 0
        for uuid in (HOST, WORK):
            kind, body = pings.of(uuid)
            assert kind == "fail"
            assert "agent work: the unit is inactive" in body
            assert f"journalctl -u {unit}" in body
        assert controller.shell("hermes-ops check >/dev/null || echo $?") == "1\n"
        # An update that is under way explains why it is down.
        report = json.loads(controller.shell("flock /var/lib/hermes/ops/update.lock hermes-ops check --json"))
        assert report["healthy"]
        (finding,) = [finding for finding in report["findings"] if finding["agent"] == "work"]
        assert "(an update is running)" in finding["what"]
    wait_until(agent("work", 8643).is_healthy, "the agent is back")
    assert beat() == 0
    assert pings.of(HOST)[0] == pings.of(WORK)[0] == "success"


def age_turns(controller: Any, seconds: int, newer_than: int = 0) -> int:
    """Make messages look older; returns the number of the last message."""
    script = (
        "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); "
        "c.execute('UPDATE messages SET timestamp = timestamp - ? WHERE id > ?', sys.argv[2:]); c.commit(); "
        "print(c.execute('SELECT coalesce(max(id), 0) FROM messages').fetchone()[0])"
    )
    command = f'setpriv --reuid=hermes-work --regid=hermes-work --clear-groups python3 -c "{script}" "$@"'
    return int(controller.shell(command, f"{HOMES['work']}/state.db", str(seconds), str(newer_than)))


def test_a_model_that_is_dead(controller, beat, pings, agent, model):
    work = agent("work", 8643)
    assert work.reply("well?") == "The model heard: well?"
    last = age_turns(controller, 7200)
    # Hermes retries this, and it leaves no trace.
    model.faults({"status": 429, "retry_after": 1})
    assert work.reply("still?") == "The model heard: still?"
    model.faults({"status": 500, "times": 0})
    for text in ("one", "two"):
        assert work.ask(text).json["choices"][0]["finish_reason"] == "error"
    # Messages of the last two minutes do not count yet, because they may still be answered.
    assert check(controller)["figures"]["agents"]["work"]["turns_failed"] == 0
    try:
        age_turns(controller, 600, last)
        assert beat() == 0
        kind, body = pings.of(WORK)
        assert kind == "fail"
        assert "2 of the last hour's 3 turns ended without an answer from the model" in body
        assert "Fix: check the model" in body
        # It is repaired, and a reply proves that.
        model.faults()
        assert work.reply("better?") == "The model heard: better?"
        assert "provider_errors" not in findings(controller)
    finally:
        age_turns(controller, 7200, last)


def test_a_reply_is_asked_for(controller, model):
    # With the default settings no agent is asked.
    check(controller)
    with declared(controller, check={"reply_minutes": 60, "reply_seconds": 60}):
        for _each in HOMES:
            assert "no_reply" not in findings(controller)
        figures = check(controller)["figures"]["agents"]
        assert all(0 < figures[name]["reply_seconds"] < 60 for name in HOMES)
        # Each agent was asked once, without counting the request for a title of the conversation.
        asked = [
            request for request in model.requests() if "Health check" in json.dumps(request["body"]["messages"][-1])
        ]
        assert len([request for request in asked if request["body"].get("tools")]) == len(HOMES)


FAULTS = {
    "an error": {"status": 500},
    "a redirect": {"redirect": "http://127.0.0.1:9/elsewhere"},
    "garbage": {"garbage": True},
    "an unknown check": {"unknown": True},
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_ping_server_that_misbehaves(fault, controller, beat, pings):
    pings.faults({**FAULTS[fault], "times": 0})
    assert beat() == 1
    pings.faults()
    assert beat() == 0
    assert pings.of(HOST)[0] == "success"


def test_a_ping_server_that_hangs_holds_up_nothing(controller, beat, pings):
    pings.faults({"hold": True, "times": 0})
    with declared(controller, period=30):
        controller.shell(f"systemctl start --no-block {SERVICE}")
        controller.shell(f"until [ \"$(curl --silent {PING_SERVER}/control/seen)\" != '[]' ]; do sleep 0.1; done")
        # The URL is in no command line, and no second heartbeat begins in the meantime.
        assert "11111111-" not in controller.shell("tr '\\0' ' ' </dev/null; cat /proc/[0-9]*/cmdline | tr '\\0' ' '")
        assert "another heartbeat has not ended yet" in controller.shell("hermes-ops heartbeat 2>&1 || true")
        # A manual check is not delayed either.
        assert check(controller)["agents"]
        controller.shell(
            f"while systemctl is-active --quiet {SERVICE} || [ $(systemctl show --property ActiveState "
            f"--value {SERVICE}) = activating ]; do sleep 0.2; done"
        )
    shown = controller.shell(f"systemctl show --property Result,ExecMainStatus {SERVICE}")
    # It ended on its own, not by systemd's time-out.
    assert "Result=exit-code" in shown
    assert "ExecMainStatus=1" in shown
    pings.tell("DELETE", "")
    assert beat() == 0
    assert pings.of(HOST)[0] == "success"


def test_a_ping_server_that_is_gone(controller, beat):
    # systemd counts the server as started before it listens.
    listens = f"until curl --silent {PING_SERVER}/control/seen; do sleep 0.1; done"
    back = f"systemctl start healthchecks-server; {listens}"
    with meanwhile(controller, "systemctl stop healthchecks-server", back):
        assert beat() == 1
    log = controller.shell(f"journalctl --unit {SERVICE} --output cat --lines 20")
    assert "ping_url: the ping server cannot be reached (Connection refused)" in log


def test_a_broken_kit_sends_nothing(controller, beat, pings):
    with replaced(controller, "/usr/local/bin/hermes-ops", "#!/usr/bin/python3\nthis is no kit\n"):
        assert beat() == 1
    with replaced(controller, "/etc/hermes-ops/host.json", "{"):
        assert beat() == 2
    with replaced(controller, "/var/lib/hermes/ops/agents/work/applied/gateway.json", "{"):
        assert beat() == 2
    assert pings.seen() == []


def test_a_data_disk_that_is_read_only(controller, beat, pings):
    seal = "mount --bind /var/lib/hermes /var/lib/hermes && mount -o remount,ro,bind /var/lib/hermes"
    with meanwhile(controller, seal, "umount /var/lib/hermes"):
        assert beat() == 0
        kind, body = pings.of(HOST)
    assert kind == "fail"
    assert "/var/lib/hermes is read-only. Fix: " in body


def test_a_data_volume_that_is_not_mounted(controller, beat, pings):
    # The mount point without its volume is empty.
    hide = "mount -t tmpfs tmpfs /var/lib/hermes"
    with meanwhile(controller, hide, "umount /var/lib/hermes"):
        assert beat() == 0
        assert controller.shell("ls -A /var/lib/hermes") == ""
    kind, body = pings.of(HOST)
    assert kind == "fail"
    assert "no agent is known on this host" in body


def test_a_disk_that_is_full(controller, beat, pings):
    with declared(controller, check={"disk_percent": 99.9}):
        assert beat() == 0
    kind, body = pings.of(HOST)
    assert kind == "fail"
    assert "of its space free, less than 99.9 %. Fix: free space below" in body


def test_a_config_that_does_not_parse(controller, beat, pings):
    with replaced(controller, f"{HOMES['work']}/config.yaml", "model:\n  default: x\n\tprovider: y\n"):
        assert beat() == 0
        kind, body = pings.of(WORK)
    assert kind == "fail"
    assert f"{HOMES['work']}/config.yaml:3 " in body
    assert "so it runs on defaults. Fix: repair the file" in body


def test_a_platform_that_says_it_is_connected_and_hears_nothing(controller, agent, wait_until):
    # A process that has just started has no connection at all, not even to its model.
    controller.shell("systemctl restart hermes-gateway@work")
    wait_until(agent("work", 8643).is_healthy, "the agent is back")
    path = f"{HOMES['work']}/gateway_state.json"
    state = json.loads(controller.read(path))
    assert state["pid"] == agent("work", 8643).pid
    state["platforms"]["discord"] = {**state["platforms"]["api_server"], "state": "connected"}
    with replaced(controller, path, json.dumps(state)):
        assert "deaf" not in findings(controller)
        assert findings(controller)["deaf"]["what"].startswith("discord: connected according to Hermes")
    assert "deaf" not in findings(controller)


def test_an_event_loop_that_stands_still(controller, agent, wait_until):
    path = f"{HOMES['work']}/state/gateway.heartbeat"
    beats = json.loads(controller.read(path))
    assert beats["pid"] == agent("work", 8643).pid
    with meanwhile(
        controller,
        "systemctl kill --signal STOP hermes-gateway@work",
        "systemctl kill --signal CONT hermes-gateway@work",
    ):
        with replaced(controller, path, json.dumps({**beats, "monotonic": beats["monotonic"] - 500})):
            found = findings(controller)
        assert "its event loop has been stuck for" in found["frozen"]["what"]
        assert "no_answer" in found
    wait_until(agent("work", 8643).is_healthy, "the agent is awake")


def test_a_drill(controller, pings):
    controller.shell("hermes-ops drill start")
    try:
        kind, body = pings.of(HOST)
        assert kind == "fail"
        assert "this is a drill" in body
    finally:
        controller.shell("hermes-ops drill stop")
    assert pings.of(HOST)[0] == "success"
    pings.tell("DELETE", "")
    controller.shell("hermes-ops drill start --silence")
    try:
        controller.shell("hermes-ops heartbeat")
        assert pings.seen() == []
    finally:
        controller.shell("hermes-ops drill stop")
    assert pings.of(HOST)[0] == "success"


@pytest.fixture
def none_failed(controller):
    """No unit has failed: the hourly rotation of logs may have met a disk that another test had filled."""
    controller.shell("systemctl reset-failed 'hermes-*'")


def test_a_failed_unit_is_forgotten_after_a_success_by_hand(controller, none_failed):
    unit = "hermes-rehearsal.service"
    broken = "/etc/hermes-ops/rehearsal.json"
    with replaced(controller, broken, "{"):
        controller.shell(f"systemctl start {unit} || true")
    found = findings(controller)["unit_failed"]
    assert (found["id"], found["severity"]) == (f"unit_failed:{unit}", "warning")
    controller.shell("hermes-ops backup && hermes-ops rehearsal")
    assert controller.shell(f"systemctl is-failed {unit}") == "failed\n"
    assert "unit_failed" not in findings(controller)
    controller.shell(f"systemctl reset-failed {unit}")


def test_a_warning_is_acknowledged_and_comes_back(controller, none_failed):
    unit = "hermes-dashboard.service"
    entry = {"finding": f"unit_failed:{unit}", "reason": "nobody reads it", "until": "2099-12-31"}
    # Other tests leave things behind, such as a unit that they restarted.
    controller.converge()
    controller.shell(f"systemd-run --quiet --wait --property Type=oneshot --unit {unit} false || true")
    try:
        assert f"or acknowledge {entry['finding']}" in " ".join(controller.shell("hermes-ops status").split())
        assert controller.converge({"ops_acknowledged": [entry]}).changes == ["The kit and the command hermes"]
        assert findings(controller)["unit_failed"]["acknowledged"] == {
            "reason": "nobody reads it",
            "until": "2099-12-31",
        }
        status = " ".join(controller.shell("hermes-ops status").split())
        assert f"acknowledged: {entry['finding']}, until 2099-12-31: nobody reads it" in status
        assert f"{unit} has failed" not in status
    finally:
        controller.shell(f"systemctl reset-failed {unit}")
        assert controller.converge().changes == ["The kit and the command hermes"]


def test_the_url_stays_where_it_is(controller, beat):
    assert beat() == 0
    assert controller.shell(f"stat --format '%a %U' {SETTINGS}") == "600 root\n"
    controller.shell("hermes-ops status; hermes-ops status --json; hermes-ops check --json || true")
    assert controller.shell("journalctl --boot --no-pager | grep -c 1111-4111 || true") == "0\n"
    places = "/etc /run /var/lib/hermes /usr/local/bin"
    found = controller.shell(f"grep --recursive --files-with-matches --devices=skip 1111-4111 {places} || true")
    assert found.split() == [SETTINGS]


def test_status_says_what_is_wrong_first(controller):
    with meanwhile(controller, "systemctl stop hermes-gateway@work", "systemctl start hermes-gateway@work"):
        lines = controller.shell("hermes-ops status").splitlines()
        found = json.loads(controller.shell("hermes-ops status --json"))
    assert lines[0].startswith("1 failure")
    assert lines[1].startswith("FAILURE    agent work: the unit is inactive")
    assert lines[2].strip().startswith("fix: ")
    assert "\033" not in "".join(lines)
    assert max(map(len, lines)) <= 160
    assert found["check"]["healthy"] is False
    assert found["timers"]["heartbeat"]["active"] is False
    assert found["jobs"]
    coloured = controller.shell("script --quiet --return --command 'TERM=xterm hermes-ops status' /dev/null")
    assert "\033[" in coloured
    plain = controller.shell("script --quiet --return --command 'NO_COLOR=1 hermes-ops status' /dev/null")
    assert "\033[" not in plain


def test_switched_off_nothing_is_left(controller):
    assert controller.converge({"heartbeat_enabled": False}).changed == 1
    left = controller.shell(
        "ls /etc/systemd/system /etc/hermes-ops; systemctl list-units --all --no-legend 'hermes-h*'"
    )
    assert "heartbeat" not in left
    assert controller.converge().changed == 1
