# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Webhook subscriptions: the plan and the file."""

from __future__ import annotations

import json
import os
import stat

import pytest
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.agent import converge as agent
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.agent import webhooks
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.agent.converge import AgentHome, Webhooks
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.host.records import Records
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.errors import OpsError
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.files import Account
from hypothesis import given
from hypothesis import strategies as st

NOW = "2026-11-20T06:28:32Z"


def planned(entries, declared, routes=None, *, purge=False):
    return webhooks.plan_webhooks(
        entries, declared, {"routes": routes or {}}, purge=purge, now=NOW, make_secret=lambda: "made-here"
    )


def test_a_new_subscription_is_what_the_command_would_write():
    plan = planned({}, [{"name": "demo", "prompt": "Alert {a}", "events": ["test"], "skills": None}])
    assert plan.entries == {
        "demo": {
            "description": "",
            "events": ["test"],
            "secret": "made-here",
            "prompt": "Alert {a}",
            "skills": [],
            "deliver": "log",
            "created_at": NOW,
        }
    }
    assert plan.generated == ["demo"]
    assert "made-here" not in repr(plan.differences)


def test_secret_created_at_and_unknown_keys_are_kept():
    old = {"prompt": "old", "secret": "theirs", "created_at": "2020", "colour": "red"}
    plan = planned({"demo": old}, [{"name": "demo", "prompt": "new"}])
    assert plan.entries["demo"].items() >= {"secret": "theirs", "created_at": "2020", "colour": "red"}.items()
    assert plan.entries["demo"]["prompt"] == "new"
    assert plan.generated == []


def test_a_declared_secret_replaces_and_is_not_shown():
    plan = planned({"demo": {"secret": "oldvalue"}}, [{"name": "demo", "secret": "newvalue"}])
    assert plan.entries["demo"]["secret"] == "newvalue"
    assert "value" not in repr(plan.differences)
    assert any(each.what == "demo.secret" for each in plan.differences)


def test_what_leaves_the_declaration_goes_and_foreign_ones_stay():
    plan = planned({"ours": {"secret": "s"}, "theirs": {"secret": "t"}}, [], {"ours": []})
    assert list(plan.entries) == ["theirs"]
    assert "'s'" not in repr(plan.differences)


def test_purge():
    assert planned({"theirs": {"secret": "t"}}, [], purge=True).entries == {}


def test_absent():
    assert planned({"theirs": {"secret": "t"}}, [{"name": "theirs", "state": "absent"}]).entries == {}


def test_a_field_that_leaves_the_declaration_goes_back_to_the_default():
    old = {"secret": "s", "prompt": "p", "enabled": False, "skills": ["theirs"], "created_at": "2020"}
    plan = planned({"demo": old}, [{"name": "demo"}], {"demo": ["prompt", "enabled"]})
    assert plan.entries["demo"]["prompt"] == ""
    assert "enabled" not in plan.entries["demo"]
    assert plan.entries["demo"]["skills"] == ["theirs"]


@pytest.mark.parametrize("name", ["", "-a", "A", "a b", "a/b", "a\n", "é"])
def test_bad_names(name):
    with pytest.raises(OpsError, match="name"):
        planned({}, [{"name": name}])


@pytest.mark.parametrize(
    "declared",
    [
        [{"name": "a"}, {"name": "a"}],
        [{"name": "a", "secret": ""}],
        [{"name": "a", "deliver_only": True}],
        [{"name": "a", "deliver_only": True, "deliver": "log"}],
        [{"name": "a", "filters": "x"}],
    ],
)
def test_what_hermes_would_not_take(declared):
    with pytest.raises(OpsError):
        planned({}, declared)


values = st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.lists(st.text(max_size=3), max_size=2)
entries = st.dictionaries(
    st.sampled_from(["a", "b", "c"]),
    st.dictionaries(st.sampled_from([*webhooks.DEFAULTS, *webhooks.OPTIONAL, "secret", "other"]), values),
)
declarations = st.lists(
    st.fixed_dictionaries(
        {"name": st.sampled_from(["a", "b", "d"])},
        optional={
            "prompt": st.text(max_size=8),
            "events": st.lists(st.text(max_size=3), max_size=2),
            "enabled": st.booleans(),
            "secret": st.text(min_size=1, max_size=8),
        },
    ),
    unique_by=lambda each: each["name"],
)


@given(found=entries, declared=declarations)
def test_the_second_run_changes_nothing(found, declared):
    first = planned(found, declared)
    second = planned(first.entries, declared, first.routes)
    assert (second.differences, second.entries, second.generated) == ([], first.entries, [])
    for name in found.keys() - {each["name"] for each in declared}:
        assert first.entries[name] == found[name]
    assert bool(first.differences) == (first.entries != found)


# The file


@pytest.fixture
def the_agent(tmp_path):
    home = tmp_path / "home"
    home.mkdir()

    def converge(*declared, check=False):
        records = Records(str(tmp_path / "ops"), "p")
        desired = AgentHome(webhooks=Webhooks(declared))
        return agent.converge_home(str(home), Account.current(), records, desired, check=check).parts["webhooks"]

    converge.file = home / "webhook_subscriptions.json"
    return converge


def test_converge_twice(the_agent):
    assert the_agent({"name": "a"}, check=True).differences
    assert not the_agent.file.exists()
    assert the_agent({"name": "a"}).generated == ["a"]
    assert stat.S_IMODE(the_agent.file.stat().st_mode) == 0o600
    before = the_agent.file.stat().st_ctime_ns
    assert not the_agent({"name": "a"}).differences
    assert the_agent.file.stat().st_ctime_ns == before
    assert the_agent().differences
    assert json.loads(the_agent.file.read_text()) == {}
    assert not the_agent().differences


def test_every_write_is_newer_than_what_the_gateway_has_read(the_agent):
    the_agent({"name": "a"})
    future = 4_000_000_000
    os.utime(the_agent.file, (future, future))
    the_agent({"name": "a"}, {"name": "b"})
    assert the_agent.file.stat().st_mtime > future
    os.utime(the_agent.file, (1, 1))
    done = the_agent({"name": "a"}, {"name": "b"})
    assert [each.what for each in done.differences] == ["modification time"]
    assert the_agent.file.stat().st_mtime > future
    assert not the_agent({"name": "a"}, {"name": "b"}).differences


def test_a_wrong_mode_is_put_right(the_agent):
    the_agent({"name": "a"})
    the_agent.file.chmod(0o644)
    assert the_agent({"name": "a"}).differences
    assert stat.S_IMODE(the_agent.file.stat().st_mode) == 0o600


@pytest.mark.parametrize(
    ("text", "where"), [('{\n"a": {"secret": SECRETVALUE}}', ":2"), ("[]", ":1"), ('{"a": "SECRETVALUE"}', ": a")]
)
def test_a_broken_file_is_untouched(the_agent, text, where):
    the_agent.file.write_text(text)
    for check_mode in (True, False):
        with pytest.raises(OpsError) as caught:
            the_agent({"name": "b"}, check=check_mode)
        assert caught.value.where == f"{the_agent.file}{where}"
        assert "SECRETVALUE" not in str(caught.value)
    assert the_agent.file.read_text() == text
