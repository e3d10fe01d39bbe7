# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A gateway serves its own profile; anything else is reported, but is not a failure."""

from __future__ import annotations

import pytest
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.agent.state import checked
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.watch.serving import serving_findings


@pytest.mark.parametrize(
    ("state", "parked", "causes"),
    [
        ({}, False, []),
        ({"served_profiles": []}, False, []),
        ({"served_profiles": ["default"]}, False, []),
        ({"served_profiles": ["default", "work"]}, False, ["serves_others"]),
        ({}, True, ["parked"]),
        ({"multiplex_standalone_reason": "single-profile install: nothing to multiplex"}, False, []),
        ({"multiplex_standalone_reason": "gateway.standalone is set"}, False, ["standalone"]),
        ({"served_profiles": "default", "multiplex_standalone_reason": ["x"]}, False, []),
    ],
)
def test_which_profiles_are_served(state, parked, causes):
    found = serving_findings(checked({"pid": 1, **state}), parked, "default")
    assert [finding.cause for finding in found] == causes
    assert all(not finding.failure and finding.fix for finding in found)


def test_names_of_profiles_are_the_agent_s_words():
    (finding,) = serving_findings(checked({"pid": 1, "served_profiles": ["a\x1b[2J\x1b[31m", "b"]}), False, "default")
    assert finding.what.endswith(": a, b")
