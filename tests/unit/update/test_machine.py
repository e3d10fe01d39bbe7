# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""An update from its first step to its end, with everything that may go wrong."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.backup import archives, making
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.host import held
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.host.installation import Installation
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.host.undertaking import Interrupted
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.release import build, store
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.supervise import health
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.supervise.health import Problem
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.errors import OpsError, Refused
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.update import frozen
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.update.journal import (
    STEPS,
)


def test_an_update_that_works(worlds):
    world = worlds()
    outcome = world.machine().update()
    assert (outcome.status, outcome.exit_status) == ("success", 0)
    assert world.current == world.new
    assert world.runs(world.new)
    assert world.heard("default") == ["first", "learnt by default"]
    assert world.heard("coder") == ["first", "learnt by coder"]
    assert world.status == {
        "status": "success",
        "message": f"{world.new} has replaced {world.old}",
        "finished": world.status["finished"],
        "started": world.status["started"],
        "from": world.old,
        "to": world.new,
        "failed_step": None,
    }
    assert [event for event, _body in world.reports] == ["start", "success"]
    # Each step in its order, one word each.
    assert [line for line in world.said if line in STEPS] == list(STEPS[2:])
    assert [name for name, _agent, _reply in world.canaries] == [world.new, world.new]
    world.assert_clean()


def test_nothing_happens_to_what_runs_until_the_new_release_has_proved_itself_on_a_copy(worlds):
    world = worlds("canary")
    before = {name: dict(unit) for name, unit in world.units.items()}
    outcome = world.machine().update()
    assert (outcome.status, outcome.failed_step) == ("failed", "canary")
    assert "ended by itself" in outcome.message
    assert "\n" not in outcome.message
    assert any("a line of its log" in line for line in world.said)
    assert world.units == before
    assert world.current == world.old
    assert not [verb for verb in world.asked if "hermes-gateway@" in verb]
    world.assert_clean()


def test_downtime_is_a_stop_and_a_start(worlds):
    world = worlds()
    world.machine().update()
    both = "hermes-gateway@coder.service hermes-gateway@default.service"
    verbs = [verb for verb in world.asked if "hermes-gateway@" in verb]
    assert verbs == [f"stop {both}", f"reset-failed {both}", f"start {both}"]


@pytest.mark.parametrize("broken", ["unhealthy", "dies", "mute"])
def test_a_release_that_does_not_prove_itself_is_left_again(worlds, broken):
    world = worlds(broken, reply=True)
    outcome = world.machine().update()
    assert (outcome.status, outcome.exit_status, outcome.failed_step) == ("rolled_back", 1, "verify")
    assert world.current == world.old
    assert world.runs(world.old)
    for agent in ("default", "coder"):
        assert world.schema(agent) == 1
        assert world.heard(agent) == ["first"]
    # Data that was learnt in the meantime is set aside, and the message names it.
    assert sorted(world.set_aside()) == ["first", "first", "learnt by coder", "learnt by default"]
    assert "set-aside/update-" in world.status["message"]
    assert world.reports[-1][0] == "fail"
    world.assert_clean()


def test_the_space_to_go_back_is_reserved_while_agents_are_down_and_freed_before_they_start_again(worlds):
    world = worlds("unhealthy")
    seen = []
    world.meanwhile["stop"] = lambda: seen.append(world.reserve.stat().st_blocks * 512)
    # Once more when the agents run on the old release again.
    again = {"preconditions": lambda: seen.append(world.reserve.exists())}
    world.meanwhile["verify"] = lambda: world.meanwhile.update(again)
    assert world.machine().update().status == "rolled_back"
    assert seen == [seen[0], False]
    assert seen[0] >= 16 * 2**20


def read(note: str) -> list[str]:
    """The messages in the file that *note* names."""
    (path,) = re.findall(r"less (\S+)\)", note)
    return [json.loads(line)["text"] for line in Path(path).read_text().splitlines()]


def test_a_way_back_ends_with_the_messages_that_it_sets_aside(worlds):
    world = worlds("unhealthy")
    world.receive("coder", "before")
    world.meanwhile["build"] = lambda: world.receive("coder", "still to the old release")
    world.meanwhile["verify"] = lambda: world.receive("coder", "one", "two\x1b[2J", health.REPLY_PROMPT)
    outcome = world.machine().update()
    assert outcome.status == "rolled_back"
    assert world.said[-1].endswith("and send again what still counts")
    note = outcome.message.rpartition("; ")[2]
    assert note.startswith("2 messages came in meanwhile that coder does not know any more: read them (less /")
    assert read(note) == ["one", "two\x1b[2J"]
    assert "\x1b" not in next(world.top.glob("**/messages.jsonl")).read_text()
    # The other agent got none, and nothing is said about it.
    assert outcome.message.count("came in meanwhile") == 1


def test_messages_are_no_reason_not_to_go_back(worlds):
    world = worlds("unhealthy")

    def spoil():
        with world.database("coder") as connection:
            connection.execute("DROP TABLE messages")

    world.meanwhile["verify"] = spoil
    outcome = world.machine().update()
    assert outcome.status == "rolled_back"
    assert "came in meanwhile" not in outcome.message


def test_data_that_was_not_migrated_is_left_alone(worlds):
    world = worlds("unhealthy")
    world.broken = "migrates nothing"
    world.meanwhile["verify"] = lambda: setattr(world, "broken", "unhealthy")
    assert world.machine().update().status == "rolled_back"
    assert world.heard("default") == ["first", "learnt by default"]
    assert not (world.top / "data/ops/set-aside").exists() or not list((world.top / "data/ops/set-aside").iterdir())


def test_a_version_that_failed_is_not_tried_again_until_there_is_a_newer_one(worlds):
    world = worlds("unhealthy")
    world.machine().update()
    assert list(world.failed) == [world.new]
    world.broken, world.asked = "", []
    outcome = world.machine().update()
    assert (outcome.status, outcome.exit_status) == ("held", 0)
    assert not world.asked
    world.offered = "0.19.1"
    outcome = world.machine().update()
    assert outcome.status == "success", outcome.message
    assert world.status["to"].startswith("0.19.1-")


def test_a_full_disk_does_not_count_against_a_version(worlds, tmp_path, monkeypatch):
    world = worlds("unhealthy")
    monkeypatch.setattr(held, "DIRECTORY", str(tmp_path / "held"))
    held.write("default", held.Hold("no room", "make some", True))
    assert world.machine().update().status == "rolled_back"
    assert world.failed == {}


def test_a_version_that_failed_is_tried_when_a_person_names_it(worlds):
    world = worlds("unhealthy")
    world.machine().update()
    world.broken = ""
    assert world.machine().update("0.19.0").status == "success"
    assert world.failed == {}


@pytest.mark.parametrize("broken", ["wheel", "no network"])
def test_what_is_not_the_versions_fault_is_tried_again(worlds, broken):
    world = worlds(broken)
    outcome = world.machine().update()
    assert (outcome.status, outcome.failed_step) == ("failed", {"wheel": "build", "no network": "resolve"}[broken])
    assert world.failed == {}
    world.assert_clean()
    world.broken = ""
    outcome = world.machine().update()
    assert outcome.status == "success", outcome.message


def test_a_hold_holds(worlds):
    world = worlds(hold="before the exhibition")
    outcome = world.machine().update()
    assert (outcome.status, outcome.message) == ("held", "updates are held: before the exhibition")
    assert world.current == world.old
    assert world.reports == [("success", outcome.message)]
    # A named version is not held, as in a rollout through a fleet.
    assert world.machine().update("0.19.0").status == "success"


def test_too_little_space(worlds, monkeypatch):
    world = worlds(min_free_mb=512)
    free = 400 * 2**20
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(free, 0, free))
    outcome = world.machine().update()
    assert (outcome.status, outcome.failed_step) == ("failed", "preconditions")
    assert "has 400 MB free, an update wants 512 MB" in outcome.message
    assert world.failed == {}


def test_while_data_is_restored_there_is_no_update(worlds):
    world = worlds()
    for action in (world.machine().update, world.machine().rollback):
        with world.host.lock("restore"), pytest.raises(Refused, match="a restore is running"):
            action()
    # A refusal is no outcome: it hides neither that of the last run nor its report.
    assert world.status == {}
    assert world.reports == []
    world.assert_clean()


def test_an_agent_whose_restore_cannot_be_undone_keeps_nobody_from_an_update(worlds):
    """Trying to undo it has stopped its gateway. One that runs again is named, with the way out."""
    world = worlds()
    world.host.records("coder").prepare()
    (Path(world.host.ops_dir) / "agents/coder/restore.json").write_text("{}")
    outcome = world.machine().update()
    assert (outcome.status, outcome.failed_step) == ("failed", "snapshot")
    assert "restore --recover; or stop its gateway" in outcome.message
    world.stop("hermes-gateway@coder.service")
    outcome = world.machine().update()
    assert outcome.status == "success", outcome.message


def test_a_home_that_was_left_half_taken_apart_is_recovered_first(worlds):
    world = worlds()
    (Path(world.host.ops_dir) / "separate.json").write_text("{}")
    outcome = world.machine().update()
    assert (outcome.status, outcome.failed_step) == ("failed", "preconditions")
    assert "separate --recover" in outcome.message
    assert world.runs(world.old)


@pytest.mark.parametrize(("offered", "status"), [("0.21.3", "success"), ("0.21.4", "failed")])
def test_no_release_that_serves_several_agents_from_one_gateway(worlds, offered, status):
    world = worlds()
    world.offered = offered
    outer = world.host.select("default")[0]
    moved = replace(world.host.select("coder")[0], home=f"{outer.home}/profiles/coder")
    shutil.copytree(world.home("coder"), moved.home)
    world.host.records("coder").write_agent(moved)
    del world.host.agents
    outcome = world.machine().update()
    assert outcome.status == status
    if status == "failed":
        assert outcome.failed_step == "preconditions"
        assert "hermes-ops separate" in outcome.message
        assert world.failed == {}
        assert world.runs(world.old)


def test_the_second_of_two_updaters_says_so(worlds):
    world = worlds()
    with world.host.lock("update"), pytest.raises(Refused, match="another update is running"):
        world.machine().update()
    assert world.status == {}


def test_a_gateway_that_a_person_had_stopped_stays_stopped(worlds):
    world = worlds()
    world.stop("hermes-gateway@coder.service")
    outcome = world.machine().update()
    assert outcome.status == "success", outcome.message
    assert world.states()["hermes-gateway@coder.service"] == "inactive"
    assert [agent for _name, agent, _reply in world.canaries] == ["default"]


@pytest.mark.parametrize("broken", ["", "unhealthy"])
@pytest.mark.parametrize("when", ["build", "verify", "stable"])
def test_a_person_who_stops_a_gateway_meanwhile_is_respected(worlds, when, broken):
    world = worlds("" if when == "stable" else broken)

    def stop():
        world.stop("hermes-gateway@coder.service")
        world.broken = broken

    world.meanwhile[when] = stop
    assert world.machine().update().status == ("rolled_back" if broken else "success")
    assert world.states() == {
        "hermes-gateway@coder.service": "inactive",
        "hermes-gateway@default.service": "active",
    }


def test_an_agent_that_was_unhealthy_before_does_not_keep_the_others_from_an_update(worlds, monkeypatch):
    world = worlds()
    healthy = world.wait

    def wait(agents, *arguments, **options):
        results = healthy(agents, *arguments, **options)
        for result in results:
            if result.agent == "coder":
                result.problems.append(Problem("platform_not_connected", "its token is stale", "get a new one"))
        return results

    monkeypatch.setattr(health, "wait", wait)
    outcome = world.machine().update()
    assert outcome.status == "success", outcome.message


def test_no_reply_is_asked_for_that_was_not_given_before(worlds, monkeypatch):
    """The model's provider is down: that says nothing about the release."""
    world = worlds(reply=True)
    healthy = world.wait

    def wait(agents, *arguments, **options):
        results = healthy(agents, *arguments, **options)
        for agent, result in zip(agents, results):
            if agent.health.reply:
                result.problems.append(Problem("no_reply", "the provider is down", "wait"))
        return results

    monkeypatch.setattr(health, "wait", wait)
    outcome = world.machine().update()
    assert outcome.status == "success", outcome.message
    assert [reply for _name, _agent, reply in world.canaries] == [False, False]


def test_a_restore_that_fails_still_leaves_the_old_release_running(worlds, monkeypatch):
    world = worlds("unhealthy")

    def broken(self):
        raise OpsError("cannot be copied (Input/output error)", where=self.home)

    monkeypatch.setattr(frozen.Frozen, "put_back", broken)
    outcome = world.machine().update()
    assert (outcome.status, outcome.exit_status) == ("failed", 1)
    assert "Input/output error" in outcome.message
    assert world.reports[-1][0] == "fail"
    assert world.runs(world.old)
    # The only copies of the old data are kept, and the message names their directory.
    (kept,) = (world.top / "data/ops/set-aside").glob("*/before-the-switch/default/state.db")
    assert str(kept.parents[2]) in outcome.message
    assert not world.journal.exists()


def test_what_cannot_go_back_now_is_tried_again(worlds, monkeypatch):
    world = worlds("unhealthy")
    switch = store.switch

    def stuck(root, name):
        if name == world.old:
            raise OSError(30, "Read-only file system")
        switch(root, name)

    with monkeypatch.context() as patched:
        patched.setattr(store, "switch", stuck)
        outcome = world.machine().update()
    assert (outcome.status, outcome.exit_status) == ("failed", 1)
    assert set(world.states().values()) == {"active"}
    assert world.journal.exists()
    assert world.machine().update().status == "rolled_back"
    assert world.runs(world.old)
    world.assert_clean()


def test_backups_are_made_before_and_pruned_by_their_number(worlds):
    world = worlds(keep_backups=2)
    directory = world.top / "data/ops/update/backups"
    for version in ("0.19.0", "0.19.1", "0.19.2"):
        world.offered = version
        outcome = world.machine().update()
    assert outcome.status == "success", outcome.message
    for agent in ("default", "coder"):
        assert len(archives.listed(str(directory), agent)) == 2


def test_a_release_that_failed_goes_before_one_that_was_good(worlds):
    world = worlds("unhealthy", keep=1)
    world.machine().update()
    world.broken, world.offered = "", "0.19.1"
    outcome = world.machine().update()
    assert outcome.status == "success", outcome.message
    there = {path.name for path in (world.top / "opt/releases").iterdir()}
    assert there == {world.old, world.current}


def test_the_hook_is_told_and_cannot_fail_the_update(worlds, tmp_path):
    facts = tmp_path / "facts"
    world = worlds(hook=["sh", "-c", f"env | grep ^HERMES_UPDATE >{facts}; exit 3"])
    outcome = world.machine().update()
    assert outcome.status == "success", outcome.message
    assert sorted(facts.read_text().splitlines()) == [
        "HERMES_UPDATE_FAILED_STEP=",
        f"HERMES_UPDATE_FROM={world.old}",
        f"HERMES_UPDATE_MESSAGE={world.new} has replaced {world.old}",
        "HERMES_UPDATE_STATUS=success",
        f"HERMES_UPDATE_TO={world.new}",
    ]
    assert any(line.startswith("the hook failed") for line in world.said)


def test_what_the_hook_is_told_is_printable_and_bounded(worlds, tmp_path, monkeypatch):
    facts = tmp_path / "facts"
    world = worlds(hook=["sh", "-c", f"env -0 >{facts}"])

    def hostile(*_arguments, **_options):
        raise OpsError("says \0 and \x1b[2J\nHERMES_UPDATE_STATUS=success" + "x" * 10**5)

    monkeypatch.setattr(build, "ensure", hostile)
    assert world.machine().update().status == "failed"
    told = dict(entry.split("=", 1) for entry in facts.read_text().split("\0") if entry.startswith("HERMES_UPDATE"))
    assert told["HERMES_UPDATE_STATUS"] == "failed"
    assert told["HERMES_UPDATE_MESSAGE"].startswith(r"says \x00 and \x1b[2J")
    assert len(told["HERMES_UPDATE_MESSAGE"]) < 3000
    assert "\n" not in told["HERMES_UPDATE_MESSAGE"]
    assert not [line for line in world.said if "\x1b" in line]


@pytest.mark.parametrize("defect", [RecursionError, MemoryError, ValueError, OSError])
@pytest.mark.parametrize("when", ["preconditions", "verify"])
def test_whatever_a_look_at_an_agent_raises_the_run_comes_to_its_end(worlds, when, defect):
    world = worlds()

    def raising():
        raise defect("what an agent answered")

    world.meanwhile[when] = raising
    outcome = world.machine().update()
    assert outcome.status == ("failed" if when == "preconditions" else "rolled_back")
    assert world.status["status"] == outcome.status
    assert world.runs(world.old)
    world.assert_clean()


def test_whatever_a_look_raises_before_a_rollback_ends_it(worlds):
    world = worlds("migrates nothing")
    world.machine().update()

    def raising():
        raise RecursionError("what an agent answered")

    world.meanwhile["verify"] = raising
    outcome = world.machine().rollback()
    assert (outcome.status, outcome.failed_step) == ("failed", "preconditions")
    assert world.runs(world.new)
    world.assert_clean()


def test_whatever_a_look_raises_on_the_way_back_the_old_release_runs(worlds, monkeypatch):
    world = worlds("unhealthy")
    healthy = world.wait

    def wait(agents, *arguments, **options):
        if world.current == world.old and world.releases and "verify" in world.said:
            raise RecursionError("what an agent answered")
        return healthy(agents, *arguments, **options)

    monkeypatch.setattr(health, "wait", wait)
    outcome = world.machine().update()
    assert outcome.status == "failed"
    assert "RecursionError" in outcome.message
    assert world.runs(world.old)
    world.assert_clean()


def test_a_status_that_cannot_be_written_keeps_nobody_from_being_told(worlds, monkeypatch):
    world = worlds()

    def full(*_arguments, **_options):
        raise ValueError("a defect")

    monkeypatch.setattr(Installation, "write_status", full)
    outcome = world.machine().update()
    assert outcome.status == "success", outcome.message
    assert world.reports[-1][0] == "success"
    world.assert_clean()


def test_somebody_else_started_the_old_release_meanwhile(worlds, monkeypatch):
    world = worlds()
    switch = store.switch

    def late(root, name):
        # As a site.yml would, if it found the gateways stopped.
        for unit in world.units:
            world.start(unit)
        switch(root, name)

    monkeypatch.setattr(store, "switch", late)
    outcome = world.machine().update()
    assert outcome.status == "success", outcome.message
    assert world.runs(world.new)


def test_asked_to_stop_it_goes_back(worlds):
    world = worlds()

    def stop():
        raise Interrupted("was asked to stop")

    world.meanwhile["verify"] = stop
    outcome = world.machine().update()
    assert (outcome.status, outcome.failed_step) == ("rolled_back", "verify")
    assert world.failed == {}
    assert world.runs(world.old)


def test_a_timeout_names_the_agent_at_whose_files_it_worked(worlds, monkeypatch):
    world = worlds()

    def never_ends(*_arguments, **_options):
        raise Interrupted("was ended by SIGTERM")

    monkeypatch.setattr(making, "create", never_ends)
    outcome = world.machine().update()
    assert (outcome.status, outcome.failed_step) == ("failed", "snapshot")
    assert outcome.message == "was ended by SIGTERM at agent coder; nothing was changed"


def test_when_the_host_goes_down_the_next_boot_goes_back(worlds):
    world = worlds()

    def stop():
        world.going_down = True
        raise Interrupted("was asked to stop")

    world.meanwhile["verify"] = stop
    with pytest.raises(SystemExit):
        world.machine().update()
    assert world.journal.exists()
    world.going_down = False
    world.boot()
    assert world.status["status"] == "rolled_back"
    assert world.runs(world.old)
    world.assert_clean()


def test_a_defect_of_ours_leads_back_as_well(worlds):
    world = worlds()
    world.meanwhile["verify"] = lambda: 1 / 0
    outcome = world.machine().update()
    assert (outcome.status, outcome.failed_step) == ("rolled_back", "verify")
    assert "ZeroDivisionError" in outcome.message
    assert world.runs(world.old)
