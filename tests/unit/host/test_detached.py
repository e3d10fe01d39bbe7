# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A command in a unit of its own is followed to its end, line by line, and its exit status is passed on."""

from __future__ import annotations

import pytest
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.host import detached as apart
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.host import jobs
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.errors import OpsError
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.process import Completed
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.systemd import Manager, Unit

UNIT = "hermes-update-by-hand.service"


class Systemd:
    """Plays systemd and its journal: the state and the lines that each call finds."""

    def __init__(self, *looks):
        self.looks = list(looks)
        self.started = None
        self.places = []

    def units(self, names):
        active, result, status, _lines = self.looks[0] if self.started else ("inactive", "", 0, [])
        queued, active = active == "queued", active.replace("queued", "inactive")
        return {UNIT: Unit(UNIT, "loaded", active, "", False, 0, 0, result, status, 0.0, False, queued=queued)}

    def run(self, argv, **_options):
        if argv[0] == "systemd-run":
            self.started = argv
        elif "--sync" not in argv:
            self.places.append(next(word for word in argv if word.startswith(("--since", "--after"))))
            lines = self.looks.pop(0)[3] if len(self.looks) > 1 else self.looks[0][3]
            text = "".join(f"{line}\n" for line in lines)
            return Completed(tuple(argv), 0, text + (f"-- cursor: s={len(self.places)}\n" if lines else ""), "")
        return Completed(tuple(argv), 0, "", "")


@pytest.fixture
def follow(monkeypatch):
    def make(*looks):
        systemd = Systemd(*looks)
        monkeypatch.setattr(Manager, "units", lambda self, names: systemd.units(names))
        monkeypatch.setattr(Manager, "call", lambda self, *a, **o: Completed(a, 0, "", ""))
        monkeypatch.setattr(apart, "run", systemd.run)
        monkeypatch.setattr(apart.time, "sleep", lambda seconds: None)
        said = []
        systemd.said = said
        systemd.end = lambda: apart.follow(jobs.JOBS["update"], ["update", "--here"], said.append)
        return systemd

    return make


def test_every_line_once_and_the_exit_status(follow):
    systemd = follow(
        ("activating", "", 0, []),
        ("activating", "", 0, ["build", "snapshot"]),
        # Killed, and about to be started again, so this is not the end.
        ("activating", "signal", 9, []),
        ("failed", "exit-code", 1, ["rolled_back: it does not answer"]),
    )
    assert systemd.end() == 1
    assert systemd.said == ["build", "snapshot", "rolled_back: it does not answer"]
    since, *after = systemd.places
    assert since.startswith("--since=@")
    assert [since, "--after-cursor=s=2", "--after-cursor=s=2"] == [after[0], *after[1:]]
    # The same restart setting as in the timer's unit, so that it survives the same faults.
    assert "--property=Restart=on-abnormal" in systemd.started
    assert systemd.started[-3:] == ["/usr/local/bin/hermes-ops", "update", "--here"]


def test_one_with_which_systemd_has_not_begun_is_not_over(follow):
    systemd = follow(
        ("queued", "", 0, []), ("activating", "", 0, ["build"]), ("failed", "exit-code", 1, ["failed: no"])
    )
    assert systemd.end() == 1
    assert systemd.said == ["build", "failed: no"]


def test_a_success_of_which_systemd_knows_nothing_any_more(follow):
    systemd = follow(("inactive", "", 0, ["success: done"]))
    assert systemd.end() == 0
    assert systemd.said == ["success: done"]


def test_what_was_killed_for_good_is_no_result(follow):
    systemd = follow(("failed", "timeout", 15, []))
    with pytest.raises(OpsError, match="ended with timeout"):
        systemd.end()


def test_one_that_runs_already(follow):
    systemd = follow(("activating", "", 0, []))
    systemd.started = ["by somebody else"]
    with pytest.raises(OpsError, match="runs already"):
        systemd.end()
