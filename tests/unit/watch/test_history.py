# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Findings that need a history."""

from __future__ import annotations

from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.watch import (
    history,
)
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.watch.process import Process
from hypothesis import given
from hypothesis import strategies as st

NOW = 1_795_000_000.0
HOUR, DAY = 3600, 86400
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)


def causes(findings):
    return [(finding.cause, "failure" if finding.failure else "warning") for finding in findings]


def test_restarts_within_the_hour():
    samples = []
    for minutes, count in [(0, 5), (2, 5), (30, 7), (58, 8), (59, 1), (60, 2)]:
        samples = history.remember_restarts(samples, count, NOW + 60 * minutes)
    # Two, one, and two after somebody had started it by hand.
    assert history.climbed(samples) == 5
    assert history.climbed(history.remember_restarts(samples, 2, NOW + 110 * 60)) == 2


@given(JSON)
def test_samples_may_be_anything(value):
    samples = value if isinstance(value, list) else [value]
    history.climbed(history.remember_restarts(samples, 1, NOW))
    kept = history.remember_hour(value, 7, Process(1, None, 1), NOW)
    assert kept["hours"][-1][0] == NOW // HOUR
    history.climb_findings(kept["hours"], "default")
    history.climb_findings(history.remember_hour({"pid": 7, "hours": value}, 7, Process(1, None, 1), NOW)["hours"], "x")


def hours(files, memory=lambda number: 0):
    kept = {}
    for number in range(20):
        # Two values in an hour: memory that is freed within the hour does not count.
        for more in (50, 0):
            process = Process(files(number) + more, None, memory(number))
            kept = history.remember_hour(kept, 7, process, NOW + HOUR * number + more)
    return kept["hours"]


def test_what_only_climbs():
    assert causes(history.climb_findings(hours(lambda number: 30 + 20 * number), "x")) == [("climbs", "warning")]
    both = history.climb_findings(hours(lambda number: 30 + 20 * number, lambda number: 2**26 * (number + 1)), "x")
    assert [finding.what.split(" only")[0] for finding in both] == ["its open files", "its memory (MiB)"]
    assert history.climb_findings(hours(lambda number: 30 + number), "x") == []
    assert history.climb_findings(hours(lambda number: 30 + 20 * (number % 6)), "x") == []
    assert history.climb_findings(hours(lambda number: 30 + 20 * number)[:11], "x") == []


def test_another_process_starts_anew():
    kept = {"pid": 7, "hours": [[1, 1, 1], [2, 2, 2]]}
    assert history.remember_hour(kept, 8, Process(5, None, 6), NOW)["hours"] == [[NOW // HOUR, 5, 6]]
