# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Plans for the gateways' units, without a systemd."""

from __future__ import annotations

import dataclasses
import os
import time
from pathlib import Path

import pytest
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.description import declaration
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.host import held
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.host.records import Moved, Records
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.supervise import gateway, units
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.supervise.systemd import Systemd
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system import network as ports
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.errors import OpsError
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.files import Account
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.systemd import Manager


@pytest.fixture
def host(tmp_path):
    return units.UnitSettings(
        scope="system",
        root=str(tmp_path / "opt"),
        systemd=252,
        restart_sec=10,
        restart_max_delay_sec=300,
    )


@pytest.fixture
def records(tmp_path):
    return {name: Records(str(tmp_path / "ops"), name) for name in ("default", "coder")}


def agents(**over):
    declared = [{"name": "default"}, {"name": "coder", "api": {"port": 8643}, **over}]
    resolved = declaration.resolve(declared, host="box", data_dir="/d", managed_root="/m")
    return [each.agent for each in resolved.values()]


def manager_of(host, users=()):
    """The service manager of each agent's gateway; *users* have numeric ids of their own."""

    def manager(agent):
        me = Account.current()
        return Manager(host.scope, me if agent.name not in users else dataclasses.replace(me, uid=4000))

    return manager


def converge(host, described, records):
    plan = gateway.plan_gateways(host, described, manager_of(host), records)
    plan.apply()
    return plan


def test_first_run_enables_and_starts_then_nothing(systemd, host, records):
    described = agents()
    check = gateway.plan_gateways(host, described, manager_of(host), records)
    assert check.changed
    assert systemd.asked == []
    assert not os.path.exists(host.template_path)
    converge(host, described, records)
    assert "enable --no-reload hermes-gateway@coder.service" in systemd.verbs
    assert "start hermes-gateway@default.service hermes-gateway@coder.service" in systemd.verbs
    again = gateway.plan_gateways(host, described, manager_of(host), records)
    assert not again.changed
    assert not again.restart


def test_a_gateway_whose_disk_is_nearly_full_is_not_started(systemd, host, records):
    converge(host, agents(), records)
    held.write("coder", held.Hold("no room", "make some", True))
    for name in ("default", "coder"):
        systemd.states[f"hermes-gateway@{name}.service"].update(ActiveState="inactive", SubState="dead", MainPID="0")
    systemd.asked.clear()
    converge(host, agents(), records)
    assert [verb for verb in systemd.verbs if "start" in verb] == ["start hermes-gateway@default.service"]
    assert not converge(host, agents(), records).changed
    assert f"ConditionPathExists=!{held.DIRECTORY}/%i\n" in Path(host.template_path).read_text()


def test_a_gateway_that_was_stopped_before_its_disk_was_nearly_full_starts_when_there_is_room(systemd, host, records):
    converge(host, agents(), records)
    held.write("coder", held.Hold("no room", "make some", False))
    systemd.states["hermes-gateway@coder.service"].update(ActiveState="inactive", SubState="dead", MainPID="0")
    assert not converge(host, agents(), records).changed
    hold = held.read("coder")
    assert hold
    assert hold.start


def test_an_agent_that_has_moved_is_converged_but_neither_enabled_nor_started(systemd, host, records):
    records["coder"].write_moved(Moved("user-1", True))
    for _run in range(2):
        plan = converge(host, agents(), records)
        assert str(plan.failed["coder"]).startswith("has moved to user-1. Fix: ")
    assert [verb for verb in systemd.verbs if "coder" in verb] == []
    assert "start hermes-gateway@default.service" in systemd.verbs
    # Nor by a command that restarts it.
    coder = [each for each in agents() if each.name == "coder"]
    for act in (gateway.start, gateway.restart):
        with pytest.raises(OpsError, match="agent coder: has moved to user-1"):
            act(Systemd(manager_of(host)), coder, records)
    assert [verb for verb in systemd.verbs if "coder" in verb] == []
    # All that it needs is there when it moves back.
    assert os.path.exists(host.drop_in_path("coder"))
    records["coder"].write_moved(None)
    assert not converge(host, agents(), records).failed
    assert "start hermes-gateway@coder.service" in systemd.verbs


def test_a_changed_drop_in_restarts_exactly_one(systemd, host, records):
    converge(host, agents(), records)
    systemd.asked.clear()
    plan = converge(host, agents(limits={"memory": "1G"}), records)
    assert list(plan.restart) == ["coder"]
    assert systemd.verbs == ["daemon-reload"]
    gateway.restart(Systemd(manager_of(host)), [each for each in agents() if each.name in plan.restart], records)
    assert systemd.verbs[-1] == "restart hermes-gateway@coder.service"
    assert not gateway.plan_gateways(host, agents(limits={"memory": "1G"}), manager_of(host), records).changed


def test_a_run_killed_before_the_restart_is_finished_by_the_next(systemd, host, records):
    converge(host, agents(), records)
    changed = agents(limits={"memory": "1G"})
    plan = gateway.plan_gateways(host, changed, manager_of(host), records)
    # After a kill at any step, before a restart, the next run still restarts the gateway.
    for steps in range(1, len(plan.actions) + 1):
        for action in plan.actions[:steps]:
            action()
        following = gateway.plan_gateways(host, changed, manager_of(host), records)
        assert list(following.restart) == ["coder"]


def test_in_user_scope_each_user_s_own_manager_is_told(host, records, monkeypatch):
    told = []
    monkeypatch.setattr(Manager, "call", lambda self, *words, **_options: told.append((self.account.uid, words)))
    user = dataclasses.replace(host, scope="user")
    Systemd(manager_of(user, users=["coder"])).stop(agents())
    Systemd(manager_of(host, users=["coder"])).stop(agents())
    one, other, both = told
    assert {one, other} == {
        (Account.current().uid, ("stop", "hermes-gateway@default.service")),
        (4000, ("stop", "hermes-gateway@coder.service")),
    }
    assert both[1] == ("stop", "hermes-gateway@default.service", "hermes-gateway@coder.service")


@pytest.fixture
def held_up(host, monkeypatch):
    """In user scope the manager of the first agent is stopped by its user; it answers again once it was ended."""
    told = []

    def call(self, *words, **_options):
        told.append((self.scope, *words))
        if self.scope == "system":
            return
        if self.account.uid == 4000 and ("system", "stop", "user@4000.service") not in told:
            raise OpsError("did not finish within 90 s", where="systemctl --user")

    monkeypatch.setattr(Manager, "call", call)
    return Systemd(manager_of(dataclasses.replace(host, scope="user"), users=["default"])), told


def test_a_user_s_manager_that_is_held_up_is_ended_by_the_system_s(held_up):
    supervisor, told = held_up
    supervisor.stop(agents())
    assert told[1:] == [("system", "stop", "user@4000.service"), ("user", "stop", "hermes-gateway@coder.service")]
    supervisor.start(agents())
    assert ("system", "start", "user@4000.service") in told
    assert ("user", "start", "hermes-gateway@default.service") in told


def test_a_user_s_manager_that_is_held_up_keeps_no_other_from_its_start(held_up):
    supervisor, told = held_up
    with pytest.raises(OpsError, match=r"agent default: .*90 s"):
        supervisor.start(agents())
    assert told[-1] == ("user", "start", "hermes-gateway@coder.service")


def test_a_user_s_manager_that_is_silent_keeps_no_other_from_being_converged(systemd, host, records, monkeypatch):
    converge(host, agents(), records)
    seen = gateway.units_of

    def units_of(*arguments):
        found = seen(*arguments)
        silent = dataclasses.replace(found["hermes-gateway@coder.service"], unknown="did not answer", user="alice")
        return {**found, silent.name: silent}

    with monkeypatch.context() as patch:
        patch.setattr(gateway, "units_of", units_of)
        slower = dataclasses.replace(host, restart_sec=20)
        plan = converge(slower, agents(limits={"memory": "1G"}), records)
        assert list(plan.restart) == ["default"]
        assert "the manager of alice did not answer. Fix: " in str(plan.errors["coder"])
        assert "MemoryMax=1G" not in Path(host.drop_in_path("coder")).read_text(encoding="utf-8")
    # Its restart for the template, which all share, is made up for.
    plan = gateway.plan_gateways(slower, agents(), manager_of(host), records)
    assert plan.restart["coder"] == [f"unit: {host.template_path}"]


def test_a_new_template_restarts_all(systemd, host, records):
    converge(host, agents(), records)
    plan = converge(dataclasses.replace(host, restart_sec=20), agents(), records)
    assert sorted(plan.restart) == ["coder", "default"]


def test_what_config_or_env_asked_for_is_done(systemd, host, records):
    converge(host, agents(), records)
    records["default"].prepare()
    records["default"].request_restart(["env: A"])
    plan = gateway.plan_gateways(host, agents(), manager_of(host), records)
    assert plan.restart == {"default": ["env: A"]}
    assert plan.changed


def test_check_mode_knows_what_would_ask_for_it(systemd, host, records):
    converge(host, agents(), records)
    asked = {"default": ["env: A"]}
    plan = gateway.plan_gateways(host, agents(), manager_of(host), records, asked)
    assert plan.restart == asked
    # A reason that has been recorded in the meantime is not listed twice.
    records["default"].prepare()
    records["default"].request_restart(["env: A"])
    assert gateway.plan_gateways(host, agents(), manager_of(host), records, asked).restart == asked


def test_another_release_asks_for_a_restart(systemd, host, records, monkeypatch, tmp_path):
    converge(host, agents(), records)
    os.makedirs(tmp_path / "opt/releases/0.19.0")
    os.symlink("releases/0.19.0", tmp_path / "opt/current")
    monkeypatch.setattr(ports, "command_line", lambda pid: [str(tmp_path / "opt/releases/0.18.2/bin/python"), "x"])
    plan = gateway.plan_gateways(host, agents(), manager_of(host), records)
    assert plan.restart["default"] == ["release: 0.18.2 -> 0.19.0"]


@pytest.mark.parametrize("said", ["\x1b]0;title\x07", "0.18.2\nfailed: all is lost", "..", "", "x" * 200])
def test_what_a_gateway_wrote_over_its_command_line_is_no_release(monkeypatch, said):
    monkeypatch.setattr(ports, "command_line", lambda pid: [f"/opt/hermes/releases/{said}/bin/python", "x"])
    assert gateway.running_release(7, "/opt/hermes") is None


def test_a_platform_that_hermes_gave_up_asks_for_a_restart(systemd, host, records, monkeypatch):
    converge(host, agents(), records)
    states = {"/d/agents/default/.hermes": {"pid": os.getpid(), "platforms": {"api_server": {"state": "fatal"}}}}
    monkeypatch.setattr(gateway, "read_state", lambda home, account: states.get(home, {}))
    plan = gateway.plan_gateways(host, agents(), manager_of(host), records)
    assert plan.restart == {"default": ["platform: api_server is fatal"]}
    states["/d/agents/default/.hermes"]["pid"] = 1
    assert not gateway.plan_gateways(host, agents(), manager_of(host), records).changed


def test_an_absent_agent_is_stopped_disabled_and_its_unit_files_gone(systemd, host, records):
    converge(host, agents(), records)
    systemd.asked.clear()
    gone = agents(state="absent")
    theirs = os.path.join(os.path.dirname(host.drop_in_path("coder")), "mine.conf")
    with open(theirs, "w", encoding="utf-8") as stream:
        stream.write("[Service]\nNice=5\n")
    converge(host, gone, records)
    assert os.path.exists(theirs)
    assert "disable --now hermes-gateway@coder.service" in systemd.verbs
    assert not os.path.exists(host.drop_in_path("coder"))
    assert os.path.exists(host.drop_in_path("default"))
    assert not gateway.plan_gateways(host, gone, manager_of(host), records).changed


def test_a_change_of_scope_leaves_no_unit_behind(systemd, host, records):
    converge(host, agents(), records)
    user = dataclasses.replace(host, scope="user")
    converge(user, agents(), records)
    assert not os.path.exists(host.template_path)
    assert not os.path.exists(host.drop_in_path("default"))
    assert os.path.exists(user.template_path)


def test_a_change_of_scope_ends_what_is_no_longer_declared_in_its_own_user_s_manager(
    systemd, host, records, monkeypatch
):
    user = dataclasses.replace(host, scope="user")
    converge(user, agents(), records)
    (_default, coder) = agents()
    records["coder"].write_agent(coder)
    told = []
    call = Manager.call

    def listen(self, *words, **options):
        if words[0] == "disable":
            told.append((self.scope, self.account.uid, words[-1]))
        return call(self, *words, **options)

    monkeypatch.setattr(Manager, "call", listen)
    gateway.plan_gateways(host, agents()[:1], manager_of(host, users=["coder"]), records).apply()
    assert ("user", 4000, "hermes-gateway@coder.service") in told
    assert not os.path.exists(user.drop_in_path("coder"))


def test_somebody_else_s_drop_in_is_left(systemd, host, records):
    converge(host, agents(), records)
    theirs = os.path.join(os.path.dirname(host.drop_in_path("default")), "mine.conf")
    with open(theirs, "w", encoding="utf-8") as stream:
        stream.write("[Service]\nNice=5\n")
    assert not gateway.plan_gateways(host, agents(), manager_of(host), records).changed


def test_a_failed_unit_of_an_absent_agent_is_dead_enough(systemd, host, records):
    converge(host, agents(), records)
    converge(host, agents(state="absent"), records)
    systemd.states["hermes-gateway@coder.service"]["ActiveState"] = "failed"
    assert not gateway.plan_gateways(host, agents(state="absent"), manager_of(host), records).changed


def test_a_gateway_that_waits_for_its_next_start_is_started_now(systemd, host, records):
    converge(host, agents(), records)
    records["coder"].prepare()
    records["coder"].request_restart(["config: x"])
    systemd.states["hermes-gateway@coder.service"].update(
        ActiveState="activating", SubState="auto-restart", MainPID="0"
    )
    systemd.asked.clear()
    plan = converge(host, agents(), records)
    assert plan.changed
    assert "start hermes-gateway@coder.service" in systemd.verbs
    assert records["coder"].restart_reasons() == []


def test_two_gateways_may_swap_their_ports(systemd, host, records):
    converge(host, agents(), records)
    systemd.asked.clear()
    gateway.restart(Systemd(manager_of(host)), agents(), records)
    both = "hermes-gateway@default.service hermes-gateway@coder.service"
    assert systemd.verbs == [f"stop {both}", f"start {both}"]


def test_an_absent_agent_is_not_remembered(host, records):
    (_default, coder) = agents()
    records["coder"].write_agent(coder)
    records["coder"].write_agent(dataclasses.replace(coder, state="absent"))
    records["default"].write_agent(dataclasses.replace(coder, state="absent"))
    assert records["coder"].agent() is None
    assert not records["default"].exist()


def test_the_host_remembers_what_it_runs(host, records):
    (default, _coder) = agents()
    records["default"].write_agent(default)
    assert records["default"].agent() == default


@pytest.fixture
def prevented(systemd, monkeypatch):
    """Orders that agent coder's user has its manager refuse: verbs."""
    refused = set()

    def call(_self, *words, **_options):
        if words[0] in refused and "hermes-gateway@coder.service" in words:
            # systemctl does what it can with the others that it was named.
            systemd.call(words[0], *(word for word in words[1:] if "@coder" not in word))
            raise OpsError("is masked", where=f"systemctl {' '.join(words)}")
        return systemd.call(*words)

    monkeypatch.setattr(Manager, "call", call)
    return refused


@pytest.mark.parametrize("verb", ["enable", "start"])
def test_an_agent_that_prevents_its_own_start_keeps_no_other_from_it(systemd, host, records, prevented, verb):
    prevented.add(verb)
    plan = converge(host, agents(), records)
    assert list(plan.failed) == ["coder"]
    assert "is masked" in str(plan.failed["coder"])
    assert systemd.states["hermes-gateway@default.service"]["ActiveState"] == "active"
    prevented.clear()
    assert not converge(host, agents(), records).failed
    assert systemd.states["hermes-gateway@coder.service"]["ActiveState"] == "active"


def test_an_agent_that_prevents_its_own_end_keeps_no_other_from_it(systemd, host, records, prevented):
    converge(host, agents(), records)
    prevented.add("disable")
    gone = [dataclasses.replace(agent, state="absent") for agent in agents()]
    assert list(converge(host, gone[::-1], records).failed) == ["coder"]
    assert systemd.states["hermes-gateway@default.service"]["ActiveState"] == "inactive"


def test_an_agent_that_prevents_its_own_restart_keeps_no_other_from_it(systemd, host, records, prevented):
    converge(host, agents(), records)
    for each in records.values():
        each.prepare()
        each.request_restart(["env: PORT"])
    plan = gateway.plan_gateways(host, agents(), manager_of(host), records)
    plan.apply()
    systemd.asked.clear()
    prevented.update({"start", "restart"})
    entered = f"{(time.clock_gettime(time.CLOCK_MONOTONIC) + 60) * 1e6:.0f}"
    systemd.states["hermes-gateway@default.service"]["ActiveEnterTimestampMonotonic"] = entered
    plan.restart_due(Systemd(manager_of(host)), agents()[::-1], records)
    assert list(plan.failed) == ["coder"]
    assert records["coder"].restart_reasons() == ["env: PORT"]
    assert records["default"].restart_reasons() == []
    assert not any(verb == "restart hermes-gateway@default.service" for verb in systemd.verbs)


def test_a_user_s_manager_that_is_held_up_keeps_nobody_from_another_scope(systemd, host, records, monkeypatch):
    user = dataclasses.replace(host, scope="user")
    converge(user, agents(), records)
    told = []

    def call(self, *words, **_options):
        told.append((self.scope, *words))
        if (self.scope, self.account.uid) == ("user", 4000):
            raise OpsError("did not finish within 10 s", where="systemctl --user")
        return systemd.call(*words)

    monkeypatch.setattr(Manager, "call", call)
    plan = gateway.plan_gateways(host, agents(), manager_of(host, users=["coder"]), records)
    plan.apply()
    assert not plan.failed
    assert ("system", "stop", "user@4000.service") in told
    assert not os.path.exists(user.template_path)
