# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Killed at every event: one release, its data, and agents that answer."""

from __future__ import annotations

import json
import shutil

import pytest
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.update import machine
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.update.journal import (
    STEPS,
)
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st


def consistent(world):
    """Checks the end state: one release, its data, every message that was ever stored, and agents that answer."""
    # What every run begins with finds nothing left to do.
    assert world.machine().recover() is None
    world.assert_clean()
    assert world.current in (world.old, world.new)
    assert world.runs(world.current), world.units
    for agent in ("default", "coder"):
        assert world.schema(agent) == (1 if world.current == world.old else 2)
        assert world.heard(agent)[0] == "first"
    assert all(result.ok for result in world.wait(world.host.agents, None, None))
    said = {text for agent in ("default", "coder") for text in world.heard(agent)} | set(world.set_aside())
    learnt = {f"learnt by {u.split('@')[1].split('.')[0]}" for u in world.units}
    if any(name == world.new for name in world.releases.values()):
        assert said & learnt
    return world.current


def recover(world, how):
    """Continues after a kill, as systemd would."""
    if how == "boot":
        world.boot()
    else:
        world.machine().update()


@pytest.mark.parametrize("how", ["boot", "again"])
@pytest.mark.parametrize("broken", ["", "unhealthy"], ids=["good", "bad"])
def test_killed_anywhere(world_in, tmp_path, how, broken):
    count, seen = 0, set()
    killed = True
    while killed:
        with pytest.MonkeyPatch.context() as patched:
            world = world_in(patched, tmp_path / str(count), broken)
            killed = world.killed_after(count, world.machine().update)
            if killed:
                step = json.loads(world.journal.read_text())["step"] if world.journal.exists() else None
                recover(world, how)
                end = consistent(world)
                seen.add(step)
                # Killing says nothing about a version.
                assert broken or world.failed == {}
                if how == "again" and not broken:
                    assert end == (world.old if step in STEPS[STEPS.index("stop") : -1] else world.new)
        shutil.rmtree(tmp_path / str(count))
        # At every event while the agents are down; elsewhere at every fourth event.
        count += 1 if step in ("stop", "switch", "start") else 4
    # It was killed in every recorded step, and often.
    assert seen >= {None, *STEPS[2:]} - ({"prune"} if broken else set())
    assert count > 100


@given(
    first=st.integers(20, 140),
    second=st.integers(0, 60),
    third=st.integers(0, 60),
    hows=st.tuples(*[st.sampled_from(["boot", "again"])] * 3),
    broken=st.sampled_from(["", "unhealthy"]),
)
@hypothesis_settings(max_examples=hypothesis_settings.default.max_examples // 4)
def test_killed_again_and_again(world_in, tmp_path_factory, first, second, third, hows, broken):
    top = tmp_path_factory.mktemp("killed")
    with pytest.MonkeyPatch.context() as patched:
        world = world_in(patched, top / "world", broken)
        world.killed_after(first, world.machine().update)
        cut = False
        for count, how in ((second, hows[0]), (third, hows[1]), (10**6, hows[2])):
            # Power that is cut while the host boots comes back with another boot.
            how = "boot" if cut else how
            killed = world.killed_after(count, lambda how=how: recover(world, how))
            cut = killed and how == "boot"
        consistent(world)
    shutil.rmtree(top)


def test_a_run_that_is_killed_every_time_is_given_up(worlds):
    world = worlds()
    for _attempt in range(machine.ATTEMPTS):
        assert world.killed_after(15, world.machine().update)
    outcome = world.machine().update()
    assert (outcome.status, outcome.failed_step) == ("failed", "preconditions")
    assert "interrupted 3 times" in outcome.message
    # The next night starts a new count of attempts.
    assert world.machine().update().status == "success"
