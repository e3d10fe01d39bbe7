# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""When it is a tenant's turn in an update."""

from __future__ import annotations

import json
from typing import Any

import pytest
from ansible_collections.alwayson.hermes.plugins.module_utils.tenants.editions import turn_of
from ansible_collections.alwayson.hermes.plugins.module_utils.tenants.objects import APPLIED, FORMER
from ansible_collections.alwayson.hermes.plugins.module_utils.tenants.steps import Turn


def keeper(*, ready: bool, applied: str = "new", former: str = "", had: Any = None) -> dict[str, Any]:
    note = json.dumps({"applied": former, "template": {}, "had": had})
    notes = {APPLIED: applied, **({FORMER: note} if former else {})}
    status = {"observedGeneration": 1, "updatedReplicas": 1, "readyReplicas": int(ready)}
    return {"metadata": {"generation": 1, "annotations": notes}, "status": status}


@pytest.mark.parametrize(
    ("present", "again", "turn"),
    [
        (keeper(ready=True), True, Turn.ROLLED),
        (keeper(ready=True), False, Turn.AT_ONCE),
        (keeper(ready=False), True, Turn.LAST),
        (keeper(ready=False), False, Turn.AT_ONCE),
        (keeper(ready=False, former="old"), False, Turn.BEGUN),
        (keeper(ready=False, former="old", applied="old"), True, Turn.BEGUN),
        # Nobody has asked its agent yet, as it was begun.
        (keeper(ready=True, former="old", had=[]), False, Turn.BEGUN),
        (keeper(ready=True, former="old", had=["no_reply"]), True, Turn.ROLLED),
        (keeper(ready=True, former="old", applied="old", had=[]), False, Turn.AT_ONCE),
        (keeper(ready=True, former="old"), False, Turn.AT_ONCE),
        # It went back, is declared so, and is ill all the same: nobody has to wait for it.
        (keeper(ready=False, former="old", applied="old"), False, Turn.AT_ONCE),
    ],
)
def test_a_turn(present, again, turn):
    assert turn_of(present, again=again) is turn
