# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""In which order tenants are updated, and how many at a time."""

from __future__ import annotations

from ansible_collections.alwayson.hermes.plugins.module_utils.tenants.rollout import batches
from hypothesis import given
from hypothesis import strategies as st

NAMES = st.lists(st.text("abcdef", min_size=1, max_size=3), unique=True, max_size=30)


def test_canaries_are_by_themselves_and_the_first_is_one_if_none_of_them_changes():
    names = ["a", "b", "c", "d", "e"]
    assert list(batches(names, ["d", "b"], 2)) == [["b", "d"], ["a", "c"], ["e"]]
    assert list(batches(names, ["x"], 3)) == [["a"], ["b", "c", "d"], ["e"]]
    assert list(batches(names, names, 2)) == [["a", "b"], ["c", "d"], ["e"]]
    assert list(batches([], ["a"], 2)) == []


@given(NAMES, NAMES, st.integers(1, 12))
def test_each_has_its_turn_once_and_no_batch_is_too_large(names, canaries, size):
    found = list(batches(names, canaries, size))
    assert sorted(name for batch in found for name in batch) == sorted(names)
    assert all(0 < len(batch) <= size for batch in found)
