# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is declared of the environment, compared with ``.env``."""

from __future__ import annotations

import json

import pytest
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.agent import env
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.errors import OpsError


def planned(text, record=None, **declared):
    arguments = {"settings": {}, "hidden": {}, "generate": [], **declared}
    return env.plan_env(text, record=record or {}, make_secret=lambda: "f" * 64, **arguments)


def test_first_run_and_second_run():
    first = planned(None, settings={"PORT": "1"}, hidden={"MY_KEY": "s3cret"}, generate=["API_SERVER_KEY"])
    assert first.restart == ["env: PORT", "env: MY_KEY", "env: API_SERVER_KEY"]
    assert first.generated == ["API_SERVER_KEY"]
    assert "s3cret" not in json.dumps(first.record)
    assert "f" * 64 not in json.dumps(first.record)
    second = planned(
        first.text,
        first.record,
        settings={"PORT": "1"},
        hidden={"MY_KEY": "s3cret"},
        generate=["API_SERVER_KEY"],
    )
    assert (second.text, second.differences, second.restart, second.drift) == (None, [], [], [])
    assert second.record == first.record


def test_secrets_never_show_in_differences():
    plan = planned("MY_KEY=oldvalue\nGONE=x\n", hidden={"MY_KEY": "newvalue"})
    shown = repr(plan.differences)
    assert "oldvalue" not in shown
    assert "newvalue" not in shown
    assert plan.differences[0].before != plan.differences[0].after


def test_settings_are_shown():
    (difference,) = planned("PORT=1\n", settings={"PORT": "2"}).differences
    assert (difference.before, difference.after) == ("1", "2")


def test_a_key_that_leaves_the_declaration_leaves_the_file():
    first = planned("FOREIGN=1\n", hidden={"MY_KEY": "a"})
    after = planned(first.text, first.record)
    assert after.text == "FOREIGN=1\n"
    assert after.restart == ["env: MY_KEY"]
    assert after.record == {}


def test_a_key_changed_by_hand_stays_when_it_leaves_the_declaration():
    first = planned(None, hidden={"MY_KEY": "a"})
    after = planned("MY_KEY=by-hand\n", first.record)
    assert (after.text, after.left, after.record) == (None, ["MY_KEY"], {})


def test_a_hand_made_change_is_drift_and_put_right():
    first = planned(None, hidden={"MY_KEY": "a"})
    after = planned("MY_KEY=by-hand\n", first.record, hidden={"MY_KEY": "a"})
    assert (after.text, after.drift) == ("MY_KEY=a\n", ["MY_KEY"])


def test_a_changed_declaration_is_no_drift():
    first = planned(None, hidden={"MY_KEY": "a"})
    assert planned(first.text, first.record, hidden={"MY_KEY": "b"}).drift == []


def test_generated_values_are_never_rotated():
    first = planned(None, generate=["API_SERVER_KEY"])
    by_hand = planned("API_SERVER_KEY=mine\n", first.record, generate=["API_SERVER_KEY"])
    assert (by_hand.text, by_hand.drift) == (None, [])
    assert planned("API_SERVER_KEY=mine\n", by_hand.record).left == ["API_SERVER_KEY"]
    assert planned(first.text, first.record).text == ""


def test_an_empty_value_is_none_for_generate():
    assert planned("API_SERVER_KEY=\n", generate=["API_SERVER_KEY"]).generated == ["API_SERVER_KEY"]


def test_a_declared_value_wins_over_generate():
    plan = planned(None, hidden={"API_SERVER_KEY": "declared"}, generate=["API_SERVER_KEY"])
    assert (plan.text, plan.generated) == ("API_SERVER_KEY=declared\n", [])


def test_a_value_that_depends_on_another_variable_is_not_ours():
    assert planned("A=${HOME}\n", settings={"A": "/root"}).text == "A=/root\n"


@pytest.mark.parametrize("declared", [{"settings": {"A": "1"}, "hidden": {"A": "1"}}, {"settings": {"A_KEY": "1"}}])
def test_contradictions_are_refused(declared):
    with pytest.raises(OpsError):
        planned(None, **declared)


@pytest.mark.parametrize(
    ("name", "value", "word"),
    [
        ("A", "x\0SECRETVALUE", "NUL"),
        ("A", "SECRETVALUE\udc80", "surrogate"),
        ("A", 5, "quotes"),
        ("OPENAI_API_KEY", "SECRETVALUEé", "ASCII"),
        ("BOT_TOKEN", "“SECRETVALUE”", "ASCII"),
    ],
)
def test_bad_values_are_refused_without_showing_them(name, value, word):
    with pytest.raises(OpsError) as caught:
        env.check_value(name, value, name)
    assert word in str(caught.value)
    assert "SECRETVALUE" not in str(caught.value)


def test_unicode_is_fine_where_hermes_keeps_it():
    env.check_value("GREETING", "grüße 🎉", "GREETING")
