# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What breaks, and what a caller sees of it. A jump of the clock is not here: a box has the clock of its machine."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from typing import Any

import pytest
from inside import inside
from users import URL, hex_of, key_of

testinfra_hosts = ["ansible://hermes"]

IMAGE = "localhost/hermes-test-image:slim"
# systemd's message that a unit could not be started (sd-messages.h).
NOT_STARTED = "be02cf6855d2428ba40df7e9d022f03d"


def unavailable(answer: Any) -> str:
    """Why the agent cannot be called, as a caller is told."""
    assert answer.status == 503, answer
    assert int(answer.headers["retry-after"]) > 0
    assert answer.json["error"]["type"] == "agent_unavailable"
    # Before anybody would call it a hang.
    assert answer.seconds < 20
    return answer.json["error"]["message"]


# Killed


@pytest.mark.parametrize("what", ["conmon", "init", "gateway", "front"])
def test_what_is_killed_is_there_at_the_next_calls(ada, wait_until, what):
    container = f"podman inspect --format '{{{{.State.Pid}}}}' {ada.container}"
    pid = {
        "conmon": f"systemctl show --property=MainPID --value {ada.agent}",
        "front": f"systemctl show --property=MainPID --value {ada.front}",
        "init": container,
        "gateway": f"pgrep --parent $({container})",
    }[what]
    starts = ada.starts()
    assert int(ada.shell(f"pid=$({pid}); kill -9 $pid; echo $pid")) > 1
    # Calls that come while the rest of it dies are told so.
    wait_until(lambda: ada.answers() and ada.starts() == starts + (what != "front"), "the agent answers", seconds=30)
    assert ada.reply("hello") == "The model heard: hello"
    assert ada.shell("podman ps --all --format '{{.Names}}'").split().count(ada.container) == 1
    assert ada.status()["state"] == "running"
    assert ada.shell("systemctl list-units --failed --plain --no-legend") == ""


def test_one_that_ends_well_is_woken_by_the_next_call(ada, wait_until):
    """As a gateway does that was told to stop from inside, or that gives up with status 0."""
    starts = ada.starts()
    assert ada.call().status == 200
    ada.shell(f"podman exec {ada.container} sh -c 'kill -TERM 1'")
    wait_until(lambda: ada.answers() and ada.starts() > starts, "the agent answers", seconds=30)
    assert ada.status()["state"] == "running"


def test_podman_is_killed_while_it_starts_a_container(ada, asleep, wait_until):
    asleep(ada)
    kill = f"timeout 30 sh -c 'until pkill -KILL --full \"[p]odman.* run --name={ada.container}\"; do :; done'"
    call = f"curl --silent --output /dev/null --max-time 60 {URL}/u/{ada.name}/health"
    ada.shell(f"{kill} & {call} --header 'Authorization: Bearer {key_of(ada.name)}' || true; wait $!")
    wait_until(ada.answers, "the agent answers", seconds=30)
    assert ada.shell("podman ps --all --format '{{.Names}}'").split().count(ada.container) == 1
    assert ada.reply("hello") == "The model heard: hello"


# Cannot start


def test_a_full_disk_at_ensure_leaves_nothing_behind(user):
    ivy = user("ivy@example.org")
    full = "mount -t tmpfs -o size=4k none /var/lib/hermes/ops/runtimes; echo x >/var/lib/hermes/ops/runtimes/x"
    said = ivy.shell(f"unshare --mount sh -c '{full}; hermes-ops runtime ensure {ivy.name}' 2>&1 || echo status $?")
    assert len(said.splitlines()) == 2, said
    assert "No space left on device" in said
    assert ivy.name not in ivy.shell("hermes-ops runtime list")
    ivy.command("ensure")
    assert ivy.call().status == 200
    ivy.command("remove", "--purge")


def test_an_agent_without_room_on_its_volume_is_told_of_until_it_has_some(user):
    jon = user("jon@example.org")
    jon.shell(f"mkdir -m 700 {jon.data}; mount -t tmpfs -o size=16k none {jon.data}; echo x >{jon.data}/x")
    try:
        said = jon.shell(f"hermes-ops runtime ensure {jon.name} 2>&1 || echo status $?")
        assert "its home could not be converged" in said
        assert "could not be started" in unavailable(jon.call())
        jon.shell(f"mount -o remount,size=100M {jon.data}")
        jon.command("ensure")
        assert jon.reply("hello") == "The model heard: hello"
        jon.command("remove")
    finally:
        jon.shell(f"umount {jon.data}")
    jon.command("ensure")
    jon.command("remove", "--purge")


def test_without_its_image_callers_are_told_until_it_is_back(ada, asleep, wait_until):
    asleep(ada)
    ada.shell(f"podman tag {IMAGE} localhost/aside:1; podman untag {IMAGE} {IMAGE}")
    starts = ada.starts()
    try:
        # More often than systemd would start a unit by default, after which its socket would be gone.
        failed = f"journalctl --boot --quiet --output=cat UNIT={ada.agent} MESSAGE_ID={NOT_STARTED} | wc -l"
        before = int(ada.shell(failed))
        wait_until(
            lambda: "could not be started" in unavailable(ada.call()) and int(ada.shell(failed)) > before + 6,
            "calls tried again and again",
        )
        assert ada.status()["state"] == "failed"
        assert ada.starts() == starts
    finally:
        ada.shell(f"podman tag localhost/aside:1 {IMAGE}; podman untag localhost/aside:1 localhost/aside:1")
    assert ada.command("ensure").strip().startswith(URL)
    assert ada.call().status == 200
    assert ada.status()["state"] == "running"


def test_a_description_that_cannot_be_used_is_the_reason(ada, asleep, wait_until):
    asleep(ada)
    shared = ada.shell("ls /run/hermes-runtimes/shared/*/agent.json").strip()
    ada.shell(f"cp {shared} /run/aside.json; echo '{{\"unknown\": 1}}' >{shared}")
    try:
        assert "description" in unavailable(ada.call())
    finally:
        ada.shell(f"cat /run/aside.json >{shared}")
    # No run of anything: the next call tries again.
    wait_until(ada.answers, "the agent answers", seconds=30)


def test_nobody_outside_is_taken_for_an_agent_that_is_gone(controller, model):
    """podman removes the bridge with its last container. Calls, with the agent's key, then had the default route."""
    outside, port = re.match(r"http://([0-9.]+):(\d+)", model.url).groups()
    subprocess.run([*inside("users-models"), "ip", "address", "replace", "10.210.9.9/32", "dev", "lo"], check=True)
    subprocess.run([*inside("users-models"), "ip", "address", "replace", "10.211.9.9/32", "dev", "lo"], check=True)
    controller.shell(f"for net in 10.210.9.0 10.211.9.0; do ip route replace $net/24 via {outside}; done")
    try:
        ask = "curl --silent --max-time 5 --output /dev/null --write-out '%{http_code} %{time_total}'"
        assert controller.shell(f"{ask} http://10.211.9.9:{port}/v1/models").startswith("200 ")
        status, seconds = controller.shell(f"{ask} http://10.210.9.9:{port}/v1/models || true").split()
        assert status == "000"
        assert float(seconds) < 1
    finally:
        controller.shell("for net in 10.210.9.0 10.211.9.0; do ip route del $net/24; done")


# At once


def test_two_who_ensure_the_same_user_at_once_make_one(user):
    finn = user("finn@example.org")
    starts = finn.starts()
    ensure = "hermes-ops runtime ensure --json finn@example.org"
    said = finn.shell(f"{ensure} >/run/one & {ensure} >/run/two; wait $!; cat /run/one; echo ---; cat /run/two")
    one, two = map(json.loads, said.split("---"))
    assert {**one, "since": 0} == {**two, "since": 0}
    assert (one["state"], finn.starts()) == ("running", starts + 1)
    finn.command("remove", "--purge")


def test_several_who_are_made_at_once_have_numbers_of_their_own(user):
    names = [f"several-{number}@example.org" for number in range(4)]
    every = " ".join(names)
    said = user(names[0]).shell(
        f"for name in {every}; do hermes-ops runtime ensure --json $name >/run/$name.json & done; wait;"
        f" for name in {every}; do cat /run/$name.json; echo ---; done"
    )
    made = [json.loads(text) for text in said.split("---")[:-1]]
    assert [each["user"] for each in made] == names
    assert {each["state"] for each in made} == {"running"}
    assert len({each["uid"] for each in made}) == len(names)
    for name in names:
        assert user(name).call().status == 200
        user(name).command("remove", "--purge")


# Ids as attacks

GOOD_IDS = (
    "../x",
    "a b",
    "$(touch /run/attacked)",
    "%i",
    "%2e%2e",
    "-rf",
    "`id`",
    "'; id; '",
    "ñandú 🦤",
    "é" * 128,
    "x" * 256,
)
BAD_IDS = ("", "x" * 257, "a\nb", "a\tb", "\x7f", "\x85")


def test_any_text_is_an_id(user, controller):
    for name in ("$(touch /run/attacked)", "-rf"):
        each = user(name)
        made = json.loads(each.command("ensure", "--json"))
        assert (made["user"], made["id"]) == (name, hex_of(name))
        assert each.call().status == 200
        assert each.call(key=key_of("ada@example.org")).status == 404
        each.command("remove", "--purge")
    assert controller.shell("ls /run/attacked 2>/dev/null || true") == ""


def test_what_is_no_id_is_refused_with_one_error(controller):
    before = controller.shell("hermes-ops runtime list --json")
    for name in BAD_IDS:
        line = shlex.join(["hermes-ops", "runtime", "ensure", "--", name])
        said = controller.shell(f"{line} 2>&1 >/dev/null || echo status $?").splitlines()
        assert len(said) == 2, (name, said)
        assert said[1] not in ("status 0", "status 1"), (name, said)
        assert "\x85" not in said[0]
        assert "\x7f" not in said[0]
    # Bytes that are no UTF-8.
    said = controller.shell("hermes-ops runtime ensure -- \"$(printf '\\377')\" 2>&1 || echo status $?")
    assert "status" in said
    assert "Traceback" not in said
    assert {each["id"] for each in json.loads(controller.shell("hermes-ops runtime list --json"))} == {
        each["id"] for each in json.loads(before)
    }


# A reboot


def test_after_a_reboot_twenty_sleep_and_any_call_wakes_one(controller, user, reboot, wait_until):
    names = [*GOOD_IDS, *(f"resident-{number}" for number in range(20 - len(GOOD_IDS)))]
    declared = {"runtimes_users": ["ada@example.org", "6F1D3C1A-53C5-4F0E-9A53-0B2E7C6C7F11", *names]}
    assert controller.converge(declared).changes == ["Users have their agents"]
    assert controller.converge(declared).changes == []
    listed = {each["user"]: each for each in json.loads(controller.shell("hermes-ops runtime list --json"))}
    assert {name: listed[name]["id"] for name in names} == {name: hex_of(name) for name in names}
    found = controller.shell("ls /var/lib/hermes/users /run/hermes-runtimes/users /run/hermes-runtimes/sockets").split()
    assert all(re.fullmatch(r"[0-9a-f]{32}(\.sock)?|/\S+:", name) for name in found), found
    assert controller.shell("ls /run/attacked 2>/dev/null || true") == ""

    # Those that are awake when the host goes down are woken after it has come up, for their jobs.
    wait_until(lambda: controller.shell("podman ps --all --quiet") == "", "all sleep", seconds=120)
    reboot()
    assert controller.shell("podman ps --all --quiet") == ""
    residents = [user(name) for name in names]
    assert all(each.asleep for each in residents)
    assert residents[2].reply("hello") == "The model heard: hello"
    running = controller.shell("systemctl list-units --plain --no-legend --state=active 'hermes-user-agent@*'")
    assert [line.split()[0] for line in running.splitlines()] == [residents[2].agent]
    for each in residents:
        each.command("remove", "--purge")
