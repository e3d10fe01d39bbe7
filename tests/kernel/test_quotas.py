# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Users' agents are limited on the disk by a kernel that has quotas: what inside.py tries in a virtual machine."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "hosts"))
sys.path.insert(0, str(Path(__file__).resolve().parent))
import machine

pytestmark = pytest.mark.skipif(
    bool(machine.missing()), reason=f"SKIPPED, NOT PROVED: quotas, since {machine.missing()}"
)

ON_BOTH = (
    "one_fills_its_own_and_harms_no_other",
    "files_are_limited_too",
    "a_database_outlives_it",
    "a_remount_keeps_it",
    "another_declaration_is_planned_and_holds_at_once",
    "a_purge_removes_it",
)


@pytest.fixture(scope="session")
def report(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], dict[str, Any]]:
    said = machine.run(tmp_path_factory.mktemp("machine"))
    found = [json.loads(line) for line in said.splitlines() if line.startswith('{"tried"')]
    assert found, said
    return {(each["tried"], each["on"]): each for each in found}


@pytest.mark.parametrize(
    ("tried", "on"),
    [
        *((tried, on) for on in ("ext4", "xfs") for tried in ON_BOTH),
        ("without_quotas_it_is_refused_until_the_fix_is_done", "ext4"),
    ],
)
def test_quotas(report: dict[tuple[str, str], dict[str, Any]], tried: str, on: str) -> None:
    assert report[tried, on]["problem"] == ""
