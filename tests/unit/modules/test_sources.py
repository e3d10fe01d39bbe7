# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the modules agents and secrets do about sources: fetched once, refused early, forgotten at the end."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from types import SimpleNamespace

import pytest
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.description import declaration
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.host import metadata
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.modules import secrets, sources
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.modules.call import Call
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.secrets import store, units
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.supervise import fetching
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.errors import OpsError
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.files import Account

VALUE = "hunter2-and-more"


def declared(name="work", **words):
    agents = [{"name": name, "api": {"enabled": False}, "secrets_from": {"ssm": "/x"}, **words}]
    return declaration.resolve(agents, host="box", data_dir="/data", managed_root="/m")[name]


@pytest.fixture
def given(tmp_path, monkeypatch):
    """What the source gives; counts how often it was asked."""
    monkeypatch.setattr(store, "DIRECTORY", str(tmp_path / "run"))
    monkeypatch.setattr(store, "_kind_of", lambda _path: "tmpfs")
    monkeypatch.setattr(sources.units, "PATH", str(tmp_path / "unit"))
    (tmp_path / "unit").write_text("")
    state = SimpleNamespace(answer={"A": VALUE}, asked=0)

    def read_all(wanted):
        state.asked += len(wanted)
        return dict.fromkeys(wanted, state.answer)

    monkeypatch.setattr(fetching.sources, "read_all", read_all)
    return state


def call(check_mode=False, **params):
    return Call({"scope": "system", "ops_dir": "/nowhere", **params}, check_mode=check_mode)


def test_secrets_are_fetched_once_and_again_from_another_source(given):
    agent = declared().agent
    for asked, changes in ((1, 1), (1, 0)):
        fetched, diffs, errors = sources.fetch(call(), [agent])
        assert (fetched, len(diffs), errors, given.asked) == ({"work": ["A"]}, changes, {}, asked)
        assert VALUE not in str(diffs)
    other = declared(secrets_from={"ssm": "/y"}).agent
    given.answer = {"B": VALUE}
    assert sources.fetch(call(), [other])[0] == {"work": ["B"]}
    assert given.asked == 2


def test_check_mode_fetches_nothing_and_says_that_it_would(given, tmp_path):
    (tmp_path / "unit").unlink()
    fetched, diffs, errors = sources.fetch(call(check_mode=True), [declared().agent])
    assert (fetched, len(diffs), errors, given.asked) == ({"work": []}, 1, {}, 0)
    assert not (tmp_path / "run").exists()


def test_a_source_that_is_away_is_an_error_only_for_who_has_no_secrets(given):
    given.answer = OpsError("cannot be reached", where="ssm /x", fix="see the network")
    _fetched, diffs, errors = sources.fetch(call(), [declared().agent])
    assert (diffs, str(errors["work"])) == ([], "ssm /x: cannot be reached. Fix: see the network")
    given.answer = {"A": VALUE}
    sources.fetch(call(), [declared().agent])
    given.answer = OpsError("cannot be reached")
    assert sources.fetch(call(), [declared().agent])[2] == {}
    # Those of another source are not the declared ones.
    assert "work" in sources.fetch(call(), [declared(secrets_from={"ssm": "/y"}).agent])[2]


def test_a_host_without_the_role_is_refused(given, tmp_path):
    (tmp_path / "unit").unlink()
    with pytest.raises(OpsError, match="secrets_enabled"):
        sources.fetch(call(), [declared().agent])
    assert given.asked == 0


def test_a_host_without_sources_is_not_touched(given, tmp_path):
    with sources.changing(call(), [declared(secrets_from={"ssm": "/x"}, state="absent").agent]):
        assert sources.fetch(call(), []) == ({}, [], {})
    assert sources.forget(call(), []) == []
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("words", [{"state": "absent"}, {"secrets_from": {"ssm": "/x"}, "state": "absent"}])
def test_who_has_no_source_any_more_has_no_secrets_either(given, words, monkeypatch):
    told = []
    monkeypatch.setattr(sources.Manager, "call", lambda _self, *words, **_options: told.append(words))
    with sources.changing(call(), [declared().agent]):
        sources.fetch(call(), [declared().agent])
    assert sources.forget(call(), [declared().agent]) == []
    (checked,) = sources.forget(call(check_mode=True), [declared(**words).agent])
    assert store.secrets_of("work")
    assert sources.forget(call(), [declared(**words).agent]) == [checked]
    assert store.secrets_of("work") is None
    assert told == [("stop", "hermes-secrets@work.service"), ("reset-failed", "hermes-secrets@work.service")]


def test_agents_that_are_kept_from_the_metadata_service(monkeypatch):
    me = "nobody"
    agents = [
        declared(user=me).agent.to_plain(),
        declared(user=me, sandbox={"open": ["metadata"]}).agent.to_plain(),
        declared(user="no-such-user").agent.to_plain(),
        declared(user=me, state="absent").agent.to_plain(),
    ]
    left = declared(user=me).agent
    monkeypatch.setattr(secrets, "undeclared", lambda _ops_dir, _names: [left])
    uid = Account.named(me).uid
    assert secrets.walled(call(agents=agents)) == [uid, uid]
    assert f"skuid {{ {uid} }}" in metadata.render([uid, uid])


@pytest.mark.parametrize("check_mode", [False, True])
def test_secrets_stay_while_an_agent_that_runs_needs_them(given, monkeypatch, check_mode):
    store.keep("left", {"A": VALUE})
    left = [declared(name=name).agent for name in ("left", "other")]
    monkeypatch.setattr(secrets, "undeclared", lambda _ops_dir, _names: [*left, plain])
    plain = replace(declared(name="plain").agent, source=None)
    gone = declared(state="absent").agent.to_plain()
    with pytest.raises(OpsError) as caught:
        secrets.work(call(check_mode=check_mode, state="absent", agents=[gone]))
    assert "left, other" in caught.value.what
    assert not {"plain", "work"} & set(str(caught.value).split())
    assert "state: absent" in str(caught.value.fix)
    assert store.secrets_of("left")


def test_nothing_else_happens_while_the_lock_is_held(given):
    with (
        sources.changing(call(), [declared().agent]),
        pytest.raises(OpsError, match="held by another process"),
        store.changing(timeout=0.1),
    ):
        pass


def test_a_run_waits_as_long_as_the_job_may_take(given, monkeypatch):
    """The job holds the lock while it restarts one gateway after the other."""
    waited = []
    monkeypatch.setattr(store, "lock", lambda _path, timeout: waited.append(timeout) or contextlib.nullcontext())
    with sources.changing(call(), [declared().agent]):
        pass
    # The job itself gives up before systemd ends it.
    with store.changing():
        pass
    assert waited[1] < units.TIMEOUT == waited[0]
