# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is said and remembered of an update that could not go back wholly."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

import pytest
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.host.undertaking import Undertaking


def make(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(exist_ok=True)
        with contextlib.closing(sqlite3.connect(path)) as database:
            database.execute("CREATE TABLE note (text)")


@pytest.fixture
def outcome(worlds):
    """Of an update after which data of `default` cannot be put back, and very much of `coder` is."""
    world = worlds("unhealthy")
    many = [world.home("coder") / "own" / f"{number} {'x' * 200}.db" for number in range(40)]
    mine = world.home("default") / "mine"
    make(*many, mine / "notes.db")

    def spoil():
        for path in many:
            path.unlink()
        mine.rename(mine.with_name("elsewhere"))
        mine.write_text("in the way")

    world.meanwhile["verify"] = spoil
    outcome = world.machine().update()
    assert (outcome.status, outcome.failed_step) == ("failed", "verify")
    assert world.runs(world.old)
    return world, outcome


def test_the_names_of_one_agent_s_files_leave_room_for_the_trouble_of_another(outcome):
    world, outcome = outcome
    assert "36 more of coder" in outcome.message
    assert "agent default: mine: is not a directory" in outcome.message
    assert f"copies from before the switch lie in {world.host.ops_dir}/set-aside/update-" in outcome.message


def test_a_release_that_was_worse_is_not_tried_again_even_if_not_all_went_back(outcome):
    world, outcome = outcome
    assert list(world.failed) == [world.new]
    assert world.machine().update().status == "held"


def test_what_is_reserved_for_going_back_is_released_when_no_agent_can_take_it(worlds, monkeypatch):
    world, states, release = worlds("unhealthy"), [], Undertaking.release

    def noted(undertaking):
        if world.reserve.exists():
            states.append(set(world.states().values()))
        release(undertaking)

    monkeypatch.setattr(Undertaking, "release", noted)
    assert world.machine().update().status == "rolled_back"
    assert states == [{"inactive"}]
