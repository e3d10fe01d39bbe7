# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The page of tenants: what is wrong comes first, and no text of a cluster is more than text."""

from __future__ import annotations

import datetime
import re

from ansible_collections.alwayson.hermes.plugins.module_utils.tenants.status import Seen
from ansible_collections.alwayson.hermes.plugins.plugin_utils import tenants

NOW = datetime.datetime(2026, 11, 23, 8, 0, tzinfo=datetime.timezone.utc)
WELL = Seen("acme", "ready", image="agent:1", node="node1", volume="5Gi", memory=100 * 2**20, request=256 * 2**20)


def words(page: str) -> str:
    return " ".join(re.sub(r"<[^>]+>", " ", page.partition("<body>")[2]).split())


def test_all_is_well():
    said = words(tenants.page([WELL, Seen("old", "absent", why="its volume stays until 2026-12-01")], NOW))
    assert said.startswith("2 tenants, all well Hermes tenants, looked at on 2026-11-23 08:00 UTC 1 ready 1 absent")
    assert "acme ready 0 100/256Mi 5Gi node1 agent:1" in said
    assert "What is wrong" not in said


def test_what_is_wrong_comes_first():
    full = Seen("globex", "ready", why="its volume is 93% full", volume="5Gi", full=0.93)
    ill = Seen("initech", "not ready", why="ImagePullBackOff: no such image")
    said = words(tenants.page([ill, full, WELL], NOW))
    assert said.startswith("2 of 3 tenants need attention")
    assert said.index("ImagePullBackOff") < said.index("93% full") < said.index("Restarts")


def test_nothing_that_a_cluster_says_is_markup():
    hostile = "<script>alert(1)</script>\"'"
    page = tenants.page([Seen(hostile, "not ready", *[hostile] * 2, 0, hostile, hostile)], NOW)
    assert "<script" not in page
    assert page.count("&lt;script&gt;") >= 5
