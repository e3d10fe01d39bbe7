# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Warnings that are acknowledged, until they get worse."""

from __future__ import annotations

import datetime
import re
import time
from pathlib import Path

import pytest
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.commands import status
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.errors import OpsError
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.watch import (
    acknowledged,
    expiry,
    heartbeat,
    history,
    host_findings,
    metrics,
    serving,
)
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.watch.declared import Settings as Declared
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.watch.findings import (
    WARNINGS,
    Finding,
    Report,
    Settings,
)

NOW = 1_795_000_000.0  # 2026-11-18
DAY = 86400
DOCS = Path(__file__).resolve().parents[3] / "docs"
SQLITE = {"finding": "sqlite_wal", "reason": "Debian's own Python is our rule", "until": "2027-03-31"}
FULL = Finding("disk_full", "/ has 1 % of its space free", "free space")


def applied(findings, *entries, now=NOW):
    report = Report(list(findings))
    acknowledged.apply(report, acknowledged.parse(entries), now)
    return report


def test_a_warning_that_is_acknowledged_is_shown_to_programs_only():
    report = applied([FULL, *host_findings.sqlite_findings("3.46.1")], SQLITE)
    assert report.message == "1 failure: / has 1 % of its space free"
    assert report.lines == [f"FAILURE  {FULL}", report.message]
    (ping,) = heartbeat.pings_of(Declared(ping_url="https://example.org/x"), report)
    assert ping.body == str(FULL)
    (_full, found) = report.as_dict()["findings"]
    assert (found["id"], found["severity"]) == ("sqlite_wal", "warning")
    assert found["acknowledged"] == {"reason": SQLITE["reason"], "until": "2027-03-31"}
    assert 'cause="sqlite_wal",agent="",severity="acknowledged"} 1' in metrics.textfile(report, NOW)


@pytest.mark.parametrize(
    ("until", "state", "message"),
    [
        ("2026-11-18", "holds", "0 agents healthy"),
        ("2026-11-17", "over", "0 agents healthy, 1 warning"),
        # As YAML reads it without quotes.
        (datetime.date(2027, 3, 31), "holds", "0 agents healthy"),
    ],
)
def test_it_comes_back_when_its_day_is_over(until, state, message):
    report = applied(host_findings.sqlite_findings("3.46.1"), {**SQLITE, "until": until})
    assert report.message == message
    assert report.acknowledged == [{**SQLITE, "until": str(until), "state": state}]


def token(days, name="GITHUB_TOKEN", agent="work"):
    return expiry.expiry_findings("token", name, NOW + days * DAY, NOW, Settings(), agent)


def climbing(files, memory=0, agent="work"):
    return history.climb_findings([[hour, files * (hour + 1), memory * (hour + 1)] for hour in range(12)], agent)


def served(*profiles):
    return serving.serving_findings({"served_profiles": list(profiles)}, False, "work")


@pytest.mark.parametrize(
    ("before", "worse"),
    [
        # It became a failure.
        (token(5), token(-1)),
        # It is about another thing as well, or another agent.
        (token(5), token(5, "OTHER_TOKEN")),
        (token(5), token(5, agent="default")),
        (climbing(100), climbing(0, 2**26)),
        # There are more.
        (served("work", "default"), served("work", "default", "notes")),
    ],
)
def test_it_comes_back_when_it_gets_worse(before, worse):
    (finding,) = before
    entry = {"finding": finding.id, "reason": "known", "until": "2027-03-31"}
    assert applied(before, entry).unacknowledged == []
    assert applied(worse, entry).unacknowledged == worse
    assert applied([*before, *worse], entry).unacknowledged == worse


def test_names_are_those_that_the_docs_show():
    found = [*token(5), *climbing(100, 2**26), *served("a", "b")]
    ids = ["work/expiry:GITHUB_TOKEN", "work/climbs:open_files", "work/climbs:memory", "work/serves_others:2"]
    assert [finding.id for finding in found] == ids
    page = (DOCS / "monitoring.md").read_text(encoding="utf-8")
    assert [name for name in (ids[0], ids[2]) if name not in page] == []
    assert FULL.id is None
    # A warning that passes on its own.
    assert Finding("no_answer", "it starts", "wait", failure=False, agent="work").id is None


def test_each_warning_of_the_docs_can_be_acknowledged():
    page = (DOCS / "monitoring.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([a-z_]+)` \|(.*warning.*)$", page, re.M)
    assert {cause for cause, _row in rows} == set(WARNINGS)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ([{**SQLITE, "finding": "sqlite_wall"}], r"sqlite_wall is not a warning .* Fix: did you mean sqlite_wal\?"),
        (
            [{**SQLITE, "finding": "disk_full"}],
            r"disk_full is not a warning .* Fix: known ones are climbs, disk_share, expiry, ",
        ),
        ([{**SQLITE, "finding": "work/"}], r"work/:  is not a warning"),
        ([{**SQLITE, "until": "soon"}], r"sqlite_wal: until is 'soon', not a date. Fix: write one such as 2027-03-31"),
        ([{**SQLITE, "until": "2027-02-30"}], r"until is '2027-02-30', not a date"),
        ([{**SQLITE, "reason": " "}], r"sqlite_wal lacks one of finding, reason, until. Fix: write all three"),
        ([{"reason": "x", "until": "2027-01-01"}], r"an entry lacks one of"),
        (["sqlite_wal"], r"an entry lacks one of"),
        (
            [{**SQLITE, "since": "2026-01-01"}],
            r"sqlite_wal: unknown key since. Fix: known ones are finding, reason, un",
        ),
        ([SQLITE, SQLITE], r"sqlite_wal: is acknowledged twice. Fix: remove one"),
    ],
)
def test_what_makes_no_sense_is_refused(entries, message):
    with pytest.raises(OpsError, match=f"acknowledged: .*{message}"):
        acknowledged.parse(entries)


def screen(report):
    rest = {"shared_users": {}, "release": None, "agents": {}, "timers": {}, "last": {}, "set_aside": []}
    return status.screen({"check": report.as_dict(), **rest}, time.time(), coloured=False)


def test_names_and_commands_are_not_broken_at_hyphens():
    unit = "hermes-backup-of-the-agents-that-nobody-knows-and-nobody-has-ever-seen.service"
    fix = f"see why: journalctl -u {unit}"
    lines = screen(applied([Finding("unit_failed", f"{unit} has failed", fix, failure=False, subject=unit)]))
    assert len([line for line in lines if unit in line]) == 3


def test_status_says_how_many_users_have_an_agent():
    report = applied([])
    report.figures["users"] = {"known": 20, "running": 3, "failed": 1}
    assert "users      20 have an agent, 3 of them run, 1 could not be started" in screen(report)


def test_status_says_how_to_acknowledge_and_what_became_of_it():
    lines = "\n".join(screen(applied([FULL, *token(5)])))
    assert "fix: get a new one, and declare it; or acknowledge work/expiry:GITHUB_TOKEN" in lines
    assert "fix: free space\n" in lines
    mine = {**SQLITE, "finding": "work/expiry:GITHUB_TOKEN"}
    lines = "\n".join(screen(applied(token(5), mine)))
    assert "expires in" not in lines
    assert "acknowledged: work/expiry:GITHUB_TOKEN, until 2027-03-31: Debian's own Python is our rule\n" in lines
    lines = " ".join(" ".join(screen(applied(token(5), {**mine, "until": "2026-01-01"}, SQLITE))).split())
    assert "expires in 5 days" in lines
    assert "rule; that day is over: declare a later one, or remove it from ops_acknowledged" in lines
    assert "rule; there is no such warning now: if it never comes back, remove it from ops_acknowledged" in lines
