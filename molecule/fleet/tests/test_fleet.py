# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A rollout through a fleet, in this order: it stops at the first failure, continues from there, and is rolled back."""

from __future__ import annotations

import re

import html5lib

# Each test concerns all hosts, so it runs once.
testinfra_hosts = ["ansible://fleet-gamma"]

OLD = dict.fromkeys(("alpha", "beta", "gamma"), "0.18.2")
NEW = dict.fromkeys(OLD, "0.18.3")
ONE_BY_ONE = {"rollout_batches": [1]}
AT_ONCE = {"rollout_batches": ["100%"]}


def test_check_mode_says_what_would_happen_on_each_host(fleet):
    for box in fleet.boxes.values():
        box.tell_index("offer", {"0.18.3": "good"})
    pids = fleet.pids
    run = fleet.play("update", AT_ONCE, "--check", gone=True)
    found = fleet.rows(run)
    assert list(found) == ["gamma", "alpha", "beta", "gone"]
    for name in OLD:
        result, message = found[name]
        assert result == "available"
        assert re.fullmatch(r"0\.18\.3-\w+ can replace 0\.18\.2-\w+", message)
    assert found["gone"][0] == "unreachable"
    assert "Connection refused" in found["gone"][1]
    assert run.rc != 0
    assert fleet.pids == pids
    assert fleet.versions == OLD


def test_the_canary_comes_first_and_the_first_failure_ends_it(fleet):
    pids = fleet.pids
    fleet["alpha"].tell_index("fault", "error")
    run = fleet.play("update", ONE_BY_ONE)
    assert run.rc != 0
    found = fleet.rows(run)
    assert list(found) == ["gamma", "alpha", "beta"]
    assert [result for result, _message in found.values()] == ["success", "failed", "not reached"]
    assert "the index" in found["alpha"][1]
    assert fleet.versions == {**OLD, "gamma": "0.18.3"}
    assert [name for name in pids if fleet.pids[name] == pids[name]] == ["alpha", "beta"]
    assert not fleet["beta"].last_update
    # The recap agrees.
    failed = re.findall(r"^fleet-(\w+) .* failed=(\d)", run.output, re.M)
    assert sorted(failed) == [("alpha", "1"), ("beta", "0"), ("gamma", "0")]


def test_it_goes_on_where_it_stopped_even_without_its_controller(fleet, wait_until):
    alpha, beta = fleet["alpha"], fleet["beta"]
    alpha.tell_index("fault", "")
    journal = "test -e /var/lib/hermes/ops/update/journal.json && echo there || true"
    with fleet.playing("update", AT_ONCE):
        for box in (alpha, beta):
            wait_until(lambda box=box: box.shell(journal), "an update has begun", 300)
    for box in (alpha, beta):
        wait_until(lambda box=box: box.last_update.get("status", "failed") != "failed", "an update has ended", 300)
    assert fleet.versions == NEW
    run = fleet.play("update")
    assert run.rc == 0, run.output
    assert [result for result, _message in fleet.rows(run).values()] == ["up_to_date"] * 3


def test_a_host_that_is_not_well_ends_it_too(fleet):
    gamma = fleet["gamma"]
    config = "/var/lib/hermes/agents/default/.hermes/config.yaml"
    good = gamma.controller.read(config)
    gamma.controller.write(config, b"model:\n\tdefault: x\n")
    try:
        run = fleet.play("update", AT_ONCE)
    finally:
        gamma.controller.write(config, good)
    assert run.rc != 0
    found = fleet.rows(run)
    assert [found[name][0] for name in ("gamma", "alpha", "beta")] == ["not healthy", "not reached", "not reached"]
    assert "config.yaml" in found["gamma"][1]


def test_status(fleet, tmp_path, wait_until):
    page = tmp_path / "fleet.html"
    what = {"status_page": str(page)}
    beta = fleet["beta"]
    beta.shell("systemctl stop hermes-gateway@default")
    try:
        run = fleet.play("status", what, gone=True)
    finally:
        beta.shell("systemctl start hermes-gateway@default")
        wait_until(lambda: beta.version, "beta answers again")
    assert run.rc == 0, run.output
    assert run.changed == 0
    assert {name: state for name, (state, _more) in fleet.rows(run).items()} == {
        "beta": "in trouble",
        "gone": "unreachable",
        "alpha": "well",
        "gamma": "well",
    }
    assert "2 of 4 hosts need attention" in run.text
    assert "fleet-beta: agent default: the unit is inactive" in run.text
    assert re.search(
        r"^fleet-gone: .*Connection refused.* Fix: start the host, or repair the connection to it$", run.output, re.M
    )
    alpha = next(line for line in run.output.splitlines() if line.startswith("fleet-alpha  "))
    assert re.search(r" 0\.18\.3 +.* (success|up_to_date) \S.* default$", alpha)

    document = html5lib.HTMLParser(strict=True, namespaceHTMLElements=False).parse(page.read_text())
    summaries = [" ".join("".join(host.itertext()).split()) for host in document.iter("summary")]
    assert summaries == [
        "fleet-beta in trouble Hermes 0.18.3 agents: default (not healthy)",
        "fleet-gone unreachable",
        "fleet-alpha well Hermes 0.18.3 agents: default",
        "fleet-gamma well Hermes 0.18.3 agents: default",
    ]


def test_rollback(fleet):
    run = fleet.play("rollback")
    assert run.rc != 0
    assert "Name the release: -e rollback_to=0.18.2" in run.text
    assert fleet.versions == NEW

    back = {**AT_ONCE, "rollback_to": "0.18.2"}
    looked = fleet.play("rollback", back, "--check")
    assert looked.rc == 0, looked.output
    assert {result for result, _message in fleet.rows(looked).values()} == {"available"}
    assert fleet.versions == NEW

    run = fleet.play("rollback", back)
    assert run.rc == 0, run.output
    assert {name: result for name, (result, _message) in fleet.rows(run).items()} == dict.fromkeys(OLD, "success")
    assert fleet.versions == OLD

    # A second run does not move the hosts forward again.
    again = fleet.play("rollback", back)
    assert again.rc == 0, again.output
    assert {result for result, _message in fleet.rows(again).values()} == {"up_to_date"}
    assert fleet.versions == OLD
