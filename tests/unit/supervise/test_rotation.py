# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Rotation: who is restarted and who is not, and what is remembered of a source that fails."""

from __future__ import annotations

import os
import time
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace

import described
import pytest
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.description.agent import Source
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.secrets import store
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.supervise import fetching, rotation
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.supervise.problems import Health, Problem
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.errors import OpsError

AWAY = OpsError("cannot be reached", where="ssm /x", fix="see the network")


class Host:
    """A host with the agents one and two, whose gateways have run for an hour.

    :ivar given: agent -> what its source gives
    :ivar entered: agent -> when its gateway was started
    :ivar told: the restarts
    """

    def __init__(self):
        self.agents = [replace(described.agent(name), source=Source(ssm=f"/{name}")) for name in ("one", "two")]
        self.given = {"one": {"A": "1"}, "two": {"A": "1"}}
        self.entered = dict.fromkeys(self.given, time.time() - 3600)
        self.running = set(self.given)
        self.killed: set[str] = set()
        self.disabled: set[str] = set()
        self.in_env = {"one": [], "two": []}
        self.told: list[str] = []
        self.jobs: set[str] = set()
        self.journals: set[str] = set()
        self.ill: set[str] = set()
        self.said: list[str] = []

    def busy(self, job):
        return job in self.jobs

    def unfinished(self, job, _agent="*"):
        return job in self.journals

    @contextmanager
    def lock(self, job):
        assert job == "restore"
        yield 3

    def account_of(self, agent):
        return agent.name

    def manager_of(self, _agent):
        return SimpleNamespace(units=self.units)

    def records(self, name):
        return name

    def rotate(self):
        self.told.clear()
        self.said.clear()
        return fetching.rotate(self, lambda text: self.said.append(str(text)))

    def units(self, names):
        def older(name):
            return lambda path: os.path.exists(path) and os.stat(path).st_mtime > self.entered[name]

        found = {}
        for agent in self.agents:
            runs = agent.name in self.running
            found[agent.unit] = SimpleNamespace(
                running=runs, over=not runs, enabled=agent.name not in self.disabled, is_older_than=older(agent.name)
            )
            state = "failed" if agent.name in self.killed else "active"
            found[store.unit_of(agent.name)] = SimpleNamespace(active=state)
        assert set(found) == set(names)
        return found

    def restart(self, _supervisor, agents, _records):
        for agent in agents:
            if agent.name == "stuck":
                raise OpsError("does not stop")
            self.told.append(agent.name)
            self.entered[agent.name] = time.time()

    def health(self, name):
        return Health(name, [Problem("no_reply", "is ill", "heal it")] if name in self.ill else [])


@pytest.fixture
def host(tmp_path, monkeypatch):
    made = Host()
    monkeypatch.setattr(store, "DIRECTORY", str(tmp_path / "run"))
    monkeypatch.setattr(store, "_kind_of", lambda _path: "tmpfs")
    monkeypatch.setattr(fetching.sources, "read_all", lambda wanted: {name: made.given[name] for name in wanted})
    monkeypatch.setattr(rotation, "work", lambda account, *_more, **_options: made.in_env[account])
    monkeypatch.setattr(
        rotation,
        "supervisor_of",
        lambda _host: SimpleNamespace(state=lambda agents: dict.fromkeys(agent.name for agent in agents)),
    )
    monkeypatch.setattr(rotation.gateway, "restart", made.restart)
    monkeypatch.setattr(rotation.health, "wait", lambda agents, _s: [made.health(agent.name) for agent in agents])
    monkeypatch.setattr(rotation.health, "check", lambda agent, *_more: made.health(agent.name))
    monkeypatch.setattr(rotation.health, "prove", lambda _agent, _account: (None, None))
    # As site.yml does before the gateways start.
    with store.changing():
        fetching.fetch(made.agents)
    for name in made.given:
        os.utime(store.path_of(name), (0, 0))
    return made


def test_without_a_change_nobody_is_restarted(host):
    assert host.rotate()
    assert (host.told, host.said) == ([], [])


def test_only_the_agent_whose_secret_changed_is_restarted_once(host):
    host.given["two"] = {"A": "2"}
    assert host.rotate()
    assert host.told == ["two"]
    assert "agent two: changed: A" in host.said
    assert store.secrets_of("two") == {"A": "2"}
    assert host.rotate()
    assert host.told == []


def test_a_gateway_that_systemd_gave_up_at_the_boot_is_started_once_there_are_secrets(host):
    # hermes-secrets@one.service was killed while it waited, so the start of its gateway failed.
    store.forget("one")
    host.running.discard("one")
    host.killed.add("one")
    host.given["one"] = AWAY
    assert not host.rotate()
    assert host.told == []
    host.given["one"] = {"A": "1"}
    host.disabled.add("one")
    assert host.rotate()
    assert host.told == []
    host.disabled.clear()
    assert host.rotate()
    assert host.told == ["one"]


def test_agents_that_share_a_source_are_restarted_together(host):
    host.agents = [replace(agent, source=Source(ssm="/shared")) for agent in host.agents]
    host.given = {"one": {"A": "2"}, "two": {"A": "2"}}
    # Also after a kill between the two restarts.
    host.running.discard("two")
    assert host.rotate()
    assert host.told == ["one"]
    host.running.add("two")
    assert host.rotate()
    assert host.told == ["two"]
    assert store.secrets_of("one") == store.secrets_of("two") == {"A": "2"}


def test_an_agent_that_is_stopped_stays_stopped(host):
    host.running.discard("two")
    host.given["two"] = {"A": "2"}
    assert host.rotate()
    assert host.told == []
    assert store.secrets_of("two") == {"A": "2"}


def test_a_restart_that_was_not_reached_is_made_up_for(host):
    # Killed between the file and the restart.
    store.keep("one", {"A": "1", "B": "2"})
    host.given["one"] = {"A": "1", "B": "2"}
    assert host.rotate()
    assert host.told == ["one"]


@pytest.mark.parametrize("job", ["update", "separate"])
def test_restarts_wait_for_jobs_that_stop_gateways(host, job):
    host.given["one"] = {"A": "2"}
    host.jobs.add(job)
    host.rotate()
    assert host.told == []
    assert f"{job} is under way" in host.said[-1]
    host.jobs.clear()
    host.journals.add("restore")
    host.rotate()
    assert host.told == []
    host.journals.clear()
    host.rotate()
    assert host.told == ["one"]


def test_a_source_that_is_away_leaves_the_secrets_and_the_gateway(host):
    host.given["one"] = AWAY
    assert not host.rotate()
    assert host.told == []
    assert store.secrets_of("one") == {"A": "1"}
    first = store.status_of("one")
    assert first.failed
    assert (first.what, first.fix) == ("ssm /x: cannot be reached", "see the network")
    host.rotate()
    # Since when, not when last.
    assert store.status_of("one") == first
    host.given["one"] = {"A": "1"}
    assert host.rotate()
    assert not store.status_of("one").failed
    assert store.status_of("one").fetched > first.fetched


def test_one_agents_source_does_not_keep_another_one_from_its_secrets(host):
    host.given = {"one": AWAY, "two": {"A": "2"}}
    assert not host.rotate()
    assert host.told == ["two"]


def test_a_variable_that_env_has_too_is_refused(host):
    host.given["one"] = {"A": "2", "B": "3"}
    host.in_env["one"] = ["B", "C"]
    assert not host.rotate()
    assert host.told == []
    assert store.secrets_of("one") == {"A": "1"}
    assert "has B, and so has" in store.status_of("one").what


@pytest.mark.parametrize("answer", [None, 1, [1], {"A": 1}])
def test_an_agent_that_answers_nonsense_about_its_env_is_named(host, answer):
    host.in_env["one"] = answer
    host.given["one"] = {"A": "2"}
    assert not host.rotate()
    assert store.status_of("one").what.endswith("could not be read")


def test_an_agent_that_is_not_healthy_with_a_new_value_is_remembered_until_it_is(host):
    host.given["one"] = {"A": "2"}
    host.ill.add("one")
    assert not host.rotate()
    status = store.status_of("one")
    assert status.unwell
    assert status.changed == ("A",)
    # Neither restarted again nor given the value before.
    assert not host.rotate()
    assert host.told == []
    assert store.status_of("one").unwell == status.unwell
    host.ill.clear()
    assert host.rotate()
    assert not store.status_of("one").unwell


def test_an_unhealthy_agent_is_not_blamed_on_secrets_that_did_not_change(host):
    host.ill.add("one")
    assert host.rotate()
    assert not store.status_of("one").unwell


def test_an_agent_that_cannot_be_restarted_delays_no_other(host):
    stuck = replace(host.agents[0], name="stuck")
    host.agents.insert(0, stuck)
    host.given = {name: {"A": "2"} for name in ("stuck", "one", "two")}
    host.entered["stuck"] = 0.0
    host.in_env["stuck"] = []
    store.keep("stuck", {"A": "1"})
    host.running.add("stuck")
    host.rotate()
    assert host.told == ["one", "two"]


def test_at_a_boot_it_is_tried_until_there_are_secrets(host, monkeypatch):
    store.forget("one")
    monkeypatch.setattr(fetching.Installation, "load", lambda: host)
    host.one = lambda name: next(agent for agent in host.agents if agent.name == name)
    answers = [AWAY, AWAY, {"A": "9"}]
    monkeypatch.setattr(fetching.sources, "read_all", lambda _wanted: {"one": answers.pop(0)})
    slept: list[float] = []
    monkeypatch.setattr(fetching.time, "sleep", slept.append)
    said: list[str] = []
    fetching.wait("one", said.append)
    assert store.secrets_of("one") == {"A": "9"}
    # Each reason once, however long it lasts.
    assert len(said) == 1
    assert [round(seconds / step) for seconds, step in zip(slept, (1, 2))] == [1, 1]
    # There already: nothing is asked.
    fetching.wait("one", said.append)


def test_at_a_boot_it_is_tried_for_ever_once_a_minute_at_last(host, monkeypatch):
    store.forget("one")
    monkeypatch.setattr(fetching.Installation, "load", lambda: host)
    host.one = lambda name: next(agent for agent in host.agents if agent.name == name)
    answers = [*[AWAY] * 5000, {"A": "9"}]
    monkeypatch.setattr(fetching.sources, "read_all", lambda _wanted: {"one": answers.pop(0)})
    slept: list[float] = []
    monkeypatch.setattr(fetching.time, "sleep", slept.append)
    monkeypatch.setattr(store, "write_status", lambda *_more: None)
    fetching.wait("one", lambda _text: None)
    assert len(slept) == 5000
    assert max(slept) <= 75
    assert min(slept[10:]) >= 45


def test_at_a_boot_without_its_records_it_is_tried_again(host, monkeypatch):
    store.forget("one")
    tries = []

    def load():
        tries.append(1)
        if len(tries) < 3:
            raise OpsError("is not mounted")
        return SimpleNamespace(one=lambda _name: replace(host.agents[0], source=None))

    monkeypatch.setattr(fetching.Installation, "load", load)
    monkeypatch.setattr(fetching.time, "sleep", lambda _seconds: None)
    fetching.wait("one", lambda _text: None)
    assert len(tries) == 3
