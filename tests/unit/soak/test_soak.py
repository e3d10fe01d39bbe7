# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""When a fault counts as healed, what helps it, and how a soak ends; without a host, by a clock of its own."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import faults
import pytest
import soak
from faults import Fault
from ledger import Balance, Recovery

START = 1000.0
GATEWAY = Fault(1, faults.GATEWAY_KILLED, 1.0, (), 0.5, "default", "data", 5.0)
RESTORE = Fault(2, faults.RESTORE_KILLED, 1.0, ("restore",), 0.5, "default", "data", 5.0)


class Host:
    """A host that is well in the given times, and from a remedy on.

    :ivar well: pairs of seconds since the fault
    :ivar cure: the command after which all is well
    """

    def __init__(self, clock: Any) -> None:
        self.clock = clock
        self.well: list[tuple[float, float]] = []
        self.cure = ""
        self.busy_until = 0.0
        self.typed: list[tuple[str, float]] = []
        self.calls: list[str] = []

    def busy(self) -> bool:
        return self.clock.now - START < self.busy_until

    def problems(self, *, of_jobs: bool) -> list[str]:
        since = self.clock.now - START
        cured = self.cure in [command for command, _moment in self.typed]
        return [] if cured or any(begin <= since < end for begin, end in self.well) else ["not_running: it is dead"]

    def shell(self, script: str, *, check: bool = True) -> str:
        self.typed.append((script, self.clock.now - START))
        return ""

    def bundle(self) -> None:
        self.calls.append("bundle")

    def down(self) -> None:
        self.calls.append("down")


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> Any:
    clock = SimpleNamespace(now=START)
    clock.time = clock.monotonic = lambda: clock.now
    clock.sleep = lambda seconds: setattr(clock, "now", clock.now + seconds)
    monkeypatch.setattr(soak, "time", clock)
    monkeypatch.setattr(soak, "RESULTS", tmp_path)
    made = soak.Soak(Host(clock))
    # Users get an answer whenever the host is well.
    monkeypatch.setattr(made.users, "silent_since", lambda moment: [])
    return made


def ended(status: int = 0) -> Any:
    return SimpleNamespace(poll=lambda: status, wait=lambda seconds: status, returncode=status)


def test_the_time_of_a_recovery_ends_when_all_is_well_and_stays_well(made):
    made.host.well = [(2.0, 3.0), (10.0, 1e9)]
    made.host.busy_until = 20.0
    helped: list[str] = []
    assert made.recovery(GATEWAY, {}, START, helped) == pytest.approx(10.0, abs=0.3)
    assert helped == []


def test_a_job_that_goes_on_is_waited_for(made):
    made.host.well = [(2.0, 1e9)]
    process = SimpleNamespace(poll=lambda: 0 if made.host.clock.now - START > 30 else None)
    assert made.recovery(GATEWAY, {"update": process}, START, []) == pytest.approx(2.0, abs=0.3)
    assert made.host.clock.now - START >= 30


def test_the_documented_commands_come_after_a_minute_and_one_at_a_time(made):
    made.host.cure = soak.REMEDIES[1]
    helped: list[str] = []
    assert made.recovery(GATEWAY, {}, START, helped) > soak.UNAIDED
    assert helped == list(soak.REMEDIES[:2])
    (_first, began), (_second, then) = made.host.typed
    assert began > soak.UNAIDED
    assert then - began > soak.AIDED


def test_nothing_is_typed_while_a_job_is_under_way(made):
    made.host.busy_until = 100.0
    made.host.cure = soak.REMEDIES[0]
    assert made.recovery(GATEWAY, {}, START, []) == pytest.approx(100.0, abs=1)


def test_a_killed_restore_gets_its_documented_command_at_once(made):
    made.host.cure = soak.RECOVER_RESTORE
    helped: list[str] = []
    assert made.recovery(RESTORE, {"restore": ended(1)}, START, helped) < 1
    assert helped == [soak.RECOVER_RESTORE]


def test_a_kill_that_came_too_late_needs_no_help(made):
    made.host.well = [(0.0, 1e9)]
    helped: list[str] = []
    made.recovery(RESTORE, {"restore": ended()}, START, helped)
    assert helped == []


def test_what_never_heals_is_given_up(made):
    with pytest.raises(soak.NotHealed, match="it is dead"):
        made.recovery(GATEWAY, {}, START, [])
    assert made.host.clock.now - START == pytest.approx(soak.BOUND, abs=1)
    assert [command for command, _moment in made.host.typed] == list(soak.REMEDIES)


@pytest.mark.parametrize(("seconds", "status", "call"), [(3.0, 0, "down"), (None, 1, "bundle")])
def test_a_failed_soak_leaves_its_host_and_a_bundle(made, capsys, tmp_path, seconds, status, call):
    made.recoveries = [Recovery(1, faults.POWER_CUT, "power cut", seconds)]
    assert soak.report(made, 7, Balance(2, 1, 1, 0, 0, ())) == status
    assert made.host.calls == [call]
    said = capsys.readouterr().out
    assert "| power cut | 1 |" in said
    assert ("FAILED with seed 7" in said) == bool(status)
    assert json.loads((tmp_path / "result.json").read_text())["passed"] == (not status)
    assert (tmp_path / "result.md").read_text().rstrip() in said
