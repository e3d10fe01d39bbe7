# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The accounts of a soak: a message that should be somewhere and is not fails it, and so does a fault that stays."""

from __future__ import annotations

import json

import ledger
import pytest
from ledger import Full, Message, Recovery

FULL = Full(agents=("small",), began=100.0, ended=110.0)


def messages(*answered: float | None, agent: str = "default") -> list[Message]:
    """Messages from number 1 on, each sent a second before its answer."""
    return [Message(number, agent, (moment or 1.0) - 1.0, moment) for number, moment in enumerate(answered, start=1)]


def test_each_acknowledged_message_is_counted_once():
    result = ledger.balance(messages(10.0, 20.0, 30.0, None), kept={1, 2}, aside={2, 3}, full=[])
    assert (result.sent, result.acknowledged, result.kept, result.set_aside) == (4, 3, 2, 1)
    assert (result.lost_while_full, result.lost) == (0, ())


def test_an_acknowledged_message_that_is_nowhere_is_lost():
    result = ledger.balance(messages(10.0, 20.0), kept={1}, aside=set(), full=[FULL])
    assert [each.number for each in result.lost] == [2]


def test_a_message_that_was_not_acknowledged_is_never_lost_and_never_kept():
    result = ledger.balance(messages(None, None), kept={1}, aside=set(), full=[])
    assert (result.acknowledged, result.kept, result.lost) == (0, 0, ())


@pytest.mark.parametrize(
    ("agent", "sent", "answered", "excused"),
    [
        ("small", 101.0, 102.0, True),
        ("small", 99.0, 100.5, True),
        ("small", 109.5, 111.0, True),
        ("small", 98.0, 99.0, False),
        ("small", 110.5, 111.0, False),
        # The disk of another agent.
        ("default", 101.0, 102.0, False),
    ],
)
def test_only_a_full_disk_of_its_own_agent_excuses_a_loss(agent, sent, answered, excused):
    message = Message(1, agent, sent, answered)
    result = ledger.balance([message], kept=set(), aside=set(), full=[FULL])
    assert (result.lost_while_full, result.lost) == ((1, ()) if excused else (0, (message,)))


def test_what_was_kept_although_the_disk_was_full_is_kept():
    result = ledger.balance([Message(1, "small", 101.0, 102.0)], kept={1}, aside=set(), full=[FULL])
    assert (result.kept, result.lost_while_full) == (1, 0)


RECOVERIES = [
    Recovery(1, "power cut", "power cut during update", 4.0),
    Recovery(2, "restore killed", "restore killed", 2.5, ("hermes-ops restore --recover",)),
    Recovery(3, "power cut", "power cut", 6.0),
    Recovery(4, "power cut", "power cut", 9.5),
]
GOOD = ledger.balance(messages(10.0), kept={1}, aside=set(), full=[])


def test_the_table_has_a_row_for_each_kind_that_happened():
    lines = ledger.table(RECOVERIES, GOOD).splitlines()
    assert "| power cut | 3 | 6.0 s | 9.5 s | 0 |" in lines
    assert "| restore killed | 1 | 2.5 s | 2.5 s | 1 |" in lines
    assert "| all | 4 | 5.0 s | 9.5 s | 1 |" in lines
    assert not [line for line in lines if "gateway killed" in line]
    assert lines[-1] == "| 1 | 1 | 1 | 0 | 0 | 0 |"


def test_the_table_names_what_did_not_heal():
    stuck = Recovery(5, "power cut", "power cut", None, problem="agent small has answered nothing")
    lines = ledger.table([*RECOVERIES, stuck], GOOD).splitlines()
    assert "| power cut | 4 | 6.0 s | 1 did not heal | 0 |" in lines
    assert ledger.table([stuck], GOOD)


def test_a_soak_passes_only_if_all_healed_and_nothing_is_lost():
    assert ledger.passed(RECOVERIES, GOOD)
    lost = ledger.balance(messages(10.0), kept=set(), aside=set(), full=[])
    assert not ledger.passed(RECOVERIES, lost)
    assert not ledger.passed([*RECOVERIES, Recovery(5, "power cut", "power cut", None)], GOOD)


def test_a_soak_that_did_nothing_has_not_passed():
    assert not ledger.passed([], GOOD)
    assert not ledger.passed(RECOVERIES, ledger.balance(messages(None), kept=set(), aside=set(), full=[]))


def test_programs_get_the_same():
    result = json.loads(json.dumps(ledger.as_dict(7, RECOVERIES, GOOD)))
    assert result["seed"] == 7
    assert result["passed"] is True
    assert result["messages"]["acknowledged"] == 1
    assert result["messages"]["lost"] == []
    assert result["faults"][1]["helped"] == ["hermes-ops restore --recover"]
