# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which release to move to, and how to go on after a kill."""

from __future__ import annotations

import pytest
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.release.decide import identity, release_id
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.release.observe import Installed, Observed
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.release.request import Request
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.supervise.systemd import state_of
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.errors import OpsError
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.systemd import Unit
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.update import verdict
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.update.journal import (
    STEPS,
    after_kill,
    data_is_frozen,
)


def test_every_step_has_its_way_out():
    assert [after_kill(step) for step in STEPS] == ["again"] * 6 + ["undo"] * 4 + ["finish"]
    assert [step for step in STEPS if data_is_frozen(step)] == ["switch", "start", "verify", "prune"]


def installed(version, used=0.0, intact=True):
    known = identity(Request(version=version), version)
    return Installed(f"{version}-x", {"version": version, "identity": known}, used, intact)


@pytest.mark.parametrize(
    ("current", "offered", "failed", "asked", "status"),
    [
        ("0.18.2", "0.19.0", False, False, "available"),
        ("0.19.0", "0.19.0", False, False, "available"),  # the same version with other extras or patches
        ("0.19.1", "0.19.0", False, False, "up_to_date"),
        ("0.18.2", "0.19.0", True, False, "held"),
        ("0.18.2", "0.19.0", True, True, "available"),
        ("0.19.1", "0.19.0", False, True, "up_to_date"),
    ],
)
def test_where_to_go(current, offered, failed, asked, status):
    target = verdict.Target(Request(version=offered))
    known = {target.id: {"reason": "failed at verify", "when": "2026-11-20"}} if failed else {}
    assert verdict.choose(installed(current), target, known, asked)[0] == status


def test_tags_are_compared_as_tags():
    def tagged(tag):
        return Request(method="git", url="https://example.org/h.git", ref=tag, commit="a" * 40)

    current = Installed("x", {"version": "0.0.0", "identity": identity(tagged("v2026.9.24"), None)}, 0.0, True)
    assert verdict.choose(current, verdict.Target(tagged("v0.22.1")), {}, False)[0] == "available"
    assert verdict.choose(current, verdict.Target(tagged("v2026.7.20")), {}, False)[0] == "up_to_date"


def test_back_to_what_was_used_last_and_has_not_failed():
    there = Observed((installed("0.17", 3), installed("0.18", 2), installed("0.16", 9, intact=False)), "0.19-x")
    assert verdict.choose_rollback(there, {}, None).version == "0.17"
    assert verdict.choose_rollback(there, {"0.17-x": {}}, None).version == "0.18"
    assert verdict.choose_rollback(there, {"0.17-x": {}}, "0.17").version == "0.17"
    assert verdict.choose_rollback(there, {}, "0.18-x").version == "0.18"


def test_a_version_may_be_spelt_in_any_way_when_a_person_names_it():
    assert verdict.narrowed(Request(version=">=0.18,<0.20"), "0.19") == Request(version="0.19.0")
    there = Observed((installed("0.19.0", 3), installed("0.18.0", 2)), "x")
    assert verdict.choose_rollback(there, {}, "0.18").version == "0.18.0"


def test_a_current_release_without_its_lock_is_replaced_by_the_same_version_with_it():
    request = Request(version="0.19.0")
    name, stamp = release_id(request, "0.19.0"), {"version": "0.19.0", "identity": identity(request, "0.19.0")}
    current = Installed(name, {**stamp, "locked": False}, 0.0, True)
    target = verdict.Target(Request(version="0.19"), Observed((current,), name))
    assert target.id == f"{name}-2"
    assert verdict.choose(current, target, {}, False)[0] == "available"
    again = Installed(target.id, {**stamp, "locked": True}, 0.0, True)
    target = verdict.Target(request, Observed((current, again), again.id))
    assert verdict.choose(again, target, {}, False)[0] == "up_to_date"


def state(active):
    return state_of(Unit("u", "loaded", active, "running", True, 1, 0, "", 0, 0.0, False))


def test_what_we_stopped_is_started_again():
    found = {"a": state("inactive"), "b": state("inactive"), "c": state("active")}
    assert verdict.to_start(["a"], found, respect=False) == ["a", "c"]


def test_what_a_person_stopped_after_we_had_started_it_is_not():
    found = {"a": state("inactive"), "b": state("failed"), "c": state("activating"), "d": state("inactive")}
    assert verdict.to_start(["a", "b", "c"], found, respect=True) == ["b", "c"]


def test_a_channel_of_tags_can_be_updated():
    declared = Request(method="git", url="https://example.org/h.git", channel="v2026.*")
    assert verdict.narrowed(declared, "v2026.7.20").channel == "v2026.7.20"
    with pytest.raises(OpsError, match="not within v2026"):
        verdict.narrowed(declared, "v0.22.1")
    with pytest.raises(OpsError, match="not within >=0"):
        verdict.narrowed(Request(version=">=0.18,<0.30"), "0.30.0")
