# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The state of a host, also of one with damaged files."""

from __future__ import annotations

import json
import os
import time
from dataclasses import replace

import described
import pytest
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.agent import config
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.agent.converge import (
    AgentHome,
    Env,
    Webhooks,
    converge_home,
)
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.host.records import Records
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.files import Account, lock
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.systemd import Manager, Unit
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.watch import info


@pytest.fixture
def host(tmp_path, monkeypatch):
    """What :func:`info.gather` takes, for one agent whose unit runs."""
    name = "hermes-gateway@default.service"
    unit = Unit(name, "loaded", "active", "running", True, 42, 0, "success", 0, time.monotonic(), False)
    monkeypatch.setattr(Manager, "units", lambda self, names: {name: unit})
    monkeypatch.setattr(info.systemd, "version", lambda: 252)
    home = tmp_path / "home"
    home.mkdir()
    return {
        "agents": [described.agent(home=str(home))],
        "scope": "system",
        "ops_dir": str(tmp_path / "ops"),
        "root": str(tmp_path / "root"),
    }


@pytest.mark.parametrize(
    ("content", "platforms"),
    [("", {}), ("[1]", {}), ('{"platforms": {"a": 1, "discord": {"state": "connected"}}}', {"discord": "connected"})],
)
def test_a_broken_state_file_hides_nothing_else(host, tmp_path, content, platforms):
    (tmp_path / "home" / "gateway_state.json").write_text(content)
    found = info.gather(**host)["agents"]["default"]
    assert found["active"] == "active"
    assert found["platforms"] == platforms


def test_agents_that_share_a_user_are_named(host):
    (one,) = host["agents"]
    host["agents"] += [replace(one, name="work"), replace(one, name="gone", state="absent")]
    assert info.gather(**host)["shared_users"] == {one.user: ["default", "work"]}
    host["agents"][1] = replace(one, name="work", user="no-such-user")
    assert info.gather(**host)["shared_users"] == {}


def test_profiles_of_an_adopted_home_that_are_no_agents_are_named(host, tmp_path):
    for name in ("work", "notes"):
        (tmp_path / "home/profiles" / name).mkdir(parents=True)
    (one,) = host["agents"]
    host["agents"].append(replace(one, name="work", home=str(tmp_path / "home/profiles/work")))
    assert info.gather(**host)["undeclared_profiles"] == [str(tmp_path / "home/profiles/notes")]


def test_who_changes_the_host_right_now(host, tmp_path):
    (tmp_path / "ops").mkdir()
    assert info.gather(**host)["busy"] == []
    with lock(str(tmp_path / "ops/update.lock")):
        assert info.gather(**host)["busy"] == ["update"]
    assert info.gather(**host)["busy"] == []


SECRET = "0123456789abcdef"


@pytest.fixture
def converged(host, tmp_path):
    """A key of each kind as the modules write it; gives the home and what :func:`info.gather` says drifted."""
    home, account, records = str(tmp_path / "home"), Account.current(), Records(host["ops_dir"], "default")
    records.prepare()
    (tmp_path / "home" / "config.yaml").write_text("a: 1\n")
    records.write_applied("config", {"keys": [[["a"], config.fingerprint(1)]]})
    desired = AgentHome(
        env=Env({"LEVEL": "1"}, {"A_TOKEN": SECRET}, ("A_KEY",)),
        webhooks=Webhooks(({"name": "build", "prompt": "look", "secret": SECRET}, {"name": "open"})),
    )
    converge_home(home, account, records, desired, check=False)
    return tmp_path / "home", lambda: info.gather(**host)["agents"]["default"]["drift"]


def test_what_was_written_has_not_drifted(converged):
    _home, drift = converged
    assert drift() == []


def test_a_key_of_config_that_was_changed_by_hand(converged):
    home, drift = converged
    (home / "config.yaml").write_text("a: 2\n")
    assert drift() == ["a"]


@pytest.mark.parametrize(
    ("line", "found"), [("A_TOKEN=fedcba9876543210", ["env: A_TOKEN"]), ("LEVEL=2", ["env: LEVEL"]), ("OTHER=1", [])]
)
def test_a_key_of_env_that_was_changed_by_hand(converged, line, found):
    home, drift = converged
    with open(home / ".env", "a") as stream:
        stream.write(f"{line}\n")
    assert drift() == found


def test_an_env_that_is_gone(converged):
    home, drift = converged
    os.unlink(home / ".env")
    assert drift() == ["env: LEVEL", "env: A_TOKEN", "env: A_KEY"]


@pytest.mark.parametrize(
    ("name", "change", "found"),
    [
        ("build", {"prompt": "say hello"}, ["webhook: build"]),
        ("build", {"secret": "fedcba9876543210"}, ["webhook: build"]),
        ("build", {"events": ["push"]}, []),
        ("open", {"secret": "somebody rotated what we made"}, []),
        ("other", {"prompt": "not ours"}, []),
    ],
)
def test_a_subscription_that_was_changed_by_hand(converged, name, change, found):
    home, drift = converged
    path = home / "webhook_subscriptions.json"
    entries = json.loads(path.read_text())
    entries.setdefault(name, {}).update(change)
    path.write_text(json.dumps(entries))
    assert drift() == found
    del entries["build"]
    path.write_text(json.dumps(entries))
    assert drift() == ["webhook: build"]


def test_files_that_cannot_be_read_say_so(converged):
    home, drift = converged
    (home / ".env").write_bytes(b"\xff")
    (home / "webhook_subscriptions.json").write_text("")
    texts = drift()
    assert [os.path.basename(text.split(":")[0]) for text in texts] == [".env", "webhook_subscriptions.json"]


def test_no_record_and_no_answer_holds_a_secret(converged, tmp_path):
    home, drift = converged
    (home / ".env").write_text("A_TOKEN=fedcba9876543210\n")
    applied = tmp_path / "ops" / "agents" / "default" / "applied"
    texts = [path.read_text() for path in applied.iterdir()] + drift()
    assert not any(secret in text for text in texts for secret in (SECRET, "fedcba9876543210"))
