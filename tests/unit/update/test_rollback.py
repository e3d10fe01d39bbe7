# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A manual rollback."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

import pytest
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.errors import OpsError


def test_a_rollback_and_its_hold(worlds):
    world = worlds("migrates nothing")
    world.machine().update()
    outcome = world.machine().rollback()
    assert outcome.status == "success"
    assert world.runs(world.old)
    assert world.heard("default") == ["first", "learnt by default"]
    # The next night does not install the release that was rolled back.
    assert world.machine().update().status == "held"
    assert world.machine().update("0.19.0").status == "success"


def test_a_rollback_to_what_cannot_read_the_data_goes_forward_again(worlds):
    world = worlds()
    world.machine().update()
    outcome = world.machine().rollback()
    assert (outcome.status, outcome.failed_step) == ("rolled_back", "verify")
    assert world.runs(world.new)
    # The release was started twice, and no data was put back.
    assert world.heard("default") == ["first", "learnt by default", "learnt by default"]


def test_a_rollback_to_what_is_current_changes_nothing(worlds):
    world = worlds("migrates nothing")
    world.machine().update()
    assert world.machine().check_rollback("0.18.2")[0] == "available"
    assert world.machine().rollback("0.18.2").status == "success"
    assert world.machine().check_rollback("0.18.2")[0] == "up_to_date"
    assert world.machine().rollback("0.18.2").status == "up_to_date"
    assert world.runs(world.old)


def test_a_rollback_with_data(worlds):
    world = worlds()
    world.machine().update()
    world.speak("default", "a day later")
    outcome = world.machine().rollback(data=True)
    assert str(world.top / "data/ops/set-aside/rollback-") in outcome.message
    assert outcome.status == "success"
    assert world.runs(world.old)
    assert world.heard("default") == ["first"]
    assert "a day later" in world.set_aside()
    world.assert_clean()


def test_an_agent_that_keeps_its_data_from_being_put_back_keeps_nobody_else_s(worlds):
    world = worlds()
    own = world.home("coder") / "own"
    own.mkdir()
    with contextlib.closing(sqlite3.connect(own / "notes.db")) as database:
        database.execute("CREATE TABLE note (text)")
    world.machine().update()
    own.rename(own.with_name("elsewhere"))
    own.write_text("in the way")
    world.stop("hermes-gateway@coder.service")
    outcome = world.machine().rollback(data=True)
    assert outcome.status == "failed"
    assert "agent coder: own: is not a directory" in outcome.message
    assert world.current == world.old
    assert world.heard("default") == ["first"]
    (kept,) = Path(world.host.ops_dir, "set-aside").glob("rollback-*")
    assert str(kept) in outcome.message
    assert (kept / "before-the-switch/coder/own/notes.db").is_file()
    world.assert_clean()


def test_a_rollback_with_data_ends_with_the_messages_since(worlds):
    world = worlds()
    world.machine().update()
    world.receive("default", "a day later")
    outcome = world.machine().rollback(data=True)
    assert outcome.status == "success"
    note = outcome.message.rpartition("; ")[2]
    assert note.startswith("1 message came in meanwhile that default does not know any more: read it (less ")
    assert '"a day later"' in (world.top / note.partition("less ")[2].partition(")")[0]).read_text()


def test_a_rollback_with_data_that_is_not_kept_any_more(worlds):
    world = worlds()
    world.install("0.17.0")
    world.machine().update()
    with pytest.raises(OpsError, match="not kept any more"):
        world.machine().rollback("0.17.0", data=True)


def test_copies_that_a_failed_rollback_used_up_do_not_stay(worlds):
    """They stayed, and nothing said what they were, until another update succeeded."""
    world = worlds()
    world.machine().update()
    assert world.frozen == world.previous != set()
    # The first look at the old release.
    world.meanwhile["preconditions"] = lambda: 1 / 0
    outcome = world.machine().rollback(data=True)
    assert (outcome.status, world.previous) == ("rolled_back", set())
    assert world.runs(world.new)
    world.assert_clean()


def test_a_rollback_needs_somewhere_to_go(worlds):
    world = worlds()
    with pytest.raises(OpsError, match="no release to go back to"):
        world.machine().rollback()
    with pytest.raises(OpsError, match=r"no release 0\.1 to go back to"):
        world.machine().rollback("0.1")
