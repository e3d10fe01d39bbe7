# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The disk fills up during an update; its rollback needs no space."""

from __future__ import annotations

from typing import Any

import pytest

testinfra_hosts = ["ansible://update-small"]


@pytest.fixture(autouse=True)
def quick(box: Any) -> None:
    """A range without 0.19.0, and no canary: these tests do not depend on what a release does."""
    box.set(version=">=0.18.2,<0.19", canary=False, reply=False, stable_seconds=3)
    box.forgive()


FULL = {
    # Fault of the release, step, number of events after which the disk fills, final status.
    "making a backup": ("", "snapshot", 0, "failed"),
    "copying a home for a canary": ("", "canary", 0, "failed"),
    "freezing": ("", "freeze", 0, "failed"),
    # At once, because the number of events depends on the agent's writes; the gateways stop first.
    "freezing the rest": ("", "stop", 0, "rolled_back"),
    "switching": ("", "switch", 0, "rolled_back"),
    "starting gateways": ("", "start", 0, "rolled_back"),
    "going back with data": ("migrates", "verify", 0, "rolled_back"),
    "clearing up": ("", "prune", 0, "success"),
}


@pytest.mark.parametrize("when", FULL)
def test_the_disk_is_full_while(when, box, agent, well, wait_until):
    wrong, step, after, status = FULL[when]
    agent().reply(f"said before {when}")
    # Built only once, because a full disk does not count against a release.
    box.offer("0.18.70", wrong)
    box.set(canary=step == "canary")
    box.orders(
        (step, after, "cd /var/lib/hermes; dd if=/dev/zero of=filler bs=1M; dd if=/dev/zero of=filler.rest bs=4k")
    )
    ended = box.command("update")
    box.shell("rm /var/lib/hermes/filler*")
    assert box.orders_done(), ended.stdout
    assert ended.returncode == (status != "success"), ended.stdout
    assert f"\n{status}: " in ended.stdout
    wait_until(agent().is_healthy, "the agent")
    well("0.18.70" if status == "success" else "0.18.2")
    assert f"said before {when}" in box.words()
