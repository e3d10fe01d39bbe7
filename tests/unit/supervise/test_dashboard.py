# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The dashboard as a unit: where it may be served, and when it is restarted."""

from __future__ import annotations

import dataclasses
import os
import time
from pathlib import Path

import pytest
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.description import declaration
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.supervise import dashboard, units
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.errors import OpsError
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.files import Account
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.network import Listener
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.process import Completed
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.systemd import Manager
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.watch import info

LOGIN = ["HERMES_DASHBOARD_BASIC_AUTH_USERNAME", "HERMES_DASHBOARD_BASIC_AUTH_PASSWORD_HASH"]


def gateways(data_dir="/d", **over):
    declared = [{"name": "default", **over}, {"name": "coder", "api": {"port": 8643}}]
    resolved = declaration.resolve(declared, host="box", data_dir=data_dir, managed_root="/m")
    return [each.agent for each in resolved.values()]


def manager_of(host):
    return lambda _agent: Manager(host.scope, Account.current())


@pytest.mark.parametrize("address", ["127.0.0.1", "localhost", "::1"])
def test_loopback_needs_no_login(address):
    assert dashboard.check_address(address, 9119, gateways(), []).name == "default"


@pytest.mark.parametrize(
    ("environment", "accepted"),
    [
        ([], False),
        (LOGIN[:1], False),
        (LOGIN[1:], False),
        (["API_SERVER_KEY"], False),
        (LOGIN, True),
        (["HERMES_DASHBOARD_OIDC_ISSUER", "HERMES_DASHBOARD_OIDC_CLIENT_ID", "OTHER"], True),
        (["HERMES_DASHBOARD_OIDC_CLIENT_ID"], False),
    ],
)
@pytest.mark.parametrize("address", ["0.0.0.0", "10.0.0.5", "127.0.0.2", "::"])
def test_what_others_can_reach_needs_a_login(address, environment, accepted):
    if accepted:
        dashboard.check_address(address, 9119, gateways(), environment)
        return
    with pytest.raises(OpsError, match="nothing asks for a login"):
        dashboard.check_address(address, 9119, gateways(), environment)


@pytest.mark.parametrize(
    ("port", "message"),
    [(8643, "as is api.port of agent coder"), (80, "is 80"), (70000, "is 70000")],
)
def test_a_port_that_cannot_be_is_refused(port, message):
    with pytest.raises(OpsError, match=message):
        dashboard.check_address("127.0.0.1", port, gateways(), [])


@pytest.mark.parametrize("address", ["", "127.0.0.1\nExecStart=/bin/sh", "host name"])
def test_what_is_no_address_never_reaches_the_unit(address):
    with pytest.raises(OpsError, match="is '"):
        dashboard.check_address(address, 9119, gateways(), LOGIN)


def test_the_only_agent_is_shown_whatever_its_name():
    assert dashboard.check_address("127.0.0.1", 9119, gateways(state="absent"), []).name == "coder"


def test_of_several_agents_one_has_to_be_default():
    several = [dataclasses.replace(gateways()[1], name="one"), gateways()[1]]
    with pytest.raises(OpsError, match="not declared"):
        dashboard.check_address("127.0.0.1", 9119, several, [])


class Systemctl:
    """systemctl for one unit, and whether it serves its port."""

    def __init__(self):
        self.asked: list[str] = []
        self.state: dict[str, str] = {}
        self.others: Listener | None = None
        self.serves = True

    def call(self, *arguments):
        if arguments[0] == "show":
            return Completed(arguments, 0, "\n".join(f"{key}={value}" for key, value in self.state.items()), "")
        self.asked.append(" ".join(arguments))
        if arguments[0] == "enable":
            self.state["UnitFileState"] = "enabled"
        elif arguments[0] in ("start", "restart"):
            entered = str(int(time.clock_gettime(time.CLOCK_MONOTONIC) * 1e6))
            self.state.update(
                ActiveState="active", SubState="running", MainPID="4711", ActiveEnterTimestampMonotonic=entered
            )
        elif arguments[0] == "disable":
            self.state = {"ActiveState": "inactive", "UnitFileState": "disabled"}
        return Completed(arguments, 0, "", "")

    def listeners(self, ports, account):
        if self.others:
            return dict.fromkeys(ports, self.others)
        running = self.state.get("ActiveState") == "active"
        return dict.fromkeys(ports, Listener({account.uid}, {4711})) if running and self.serves else {}


@pytest.fixture
def systemctl(monkeypatch, tmp_path):
    told = Systemctl()
    monkeypatch.setattr(Manager, "call", lambda _manager, *words, **_options: told.call(*words))
    monkeypatch.setattr(Manager, "reachable", True)
    monkeypatch.setattr(dashboard.network, "look_at_listeners", told.listeners)
    monkeypatch.setattr(dashboard, "START_SECONDS", 0.3)
    monkeypatch.setattr(units, "UNIT_DIRECTORIES", {scope: str(tmp_path / scope) for scope in ("system", "user")})
    return told


@pytest.fixture
def host(tmp_path):
    (tmp_path / "agents/default/.hermes").mkdir(parents=True)
    return units.UnitSettings(
        scope="system",
        root=str(tmp_path / "opt"),
        systemd=257,
        restart_sec=10,
        restart_max_delay_sec=300,
    )


def plan(host, **over):
    described = gateways(os.path.dirname(host.root), **over)
    return dashboard.plan_dashboard(host, described, manager_of(host), "127.0.0.1", 9119, [])


def converge(host, **over):
    planned = plan(host, **over)
    planned.apply()
    return planned


def test_check_then_apply_then_nothing(systemctl, host):
    assert plan(host).changed
    assert systemctl.asked == []
    assert not dashboard.present()
    converge(host)
    assert systemctl.asked[:2] == ["enable --no-reload hermes-dashboard.service", "daemon-reload"]
    assert systemctl.asked[-1] == "start hermes-dashboard.service"
    assert info.FEATURES["dashboard"].present()
    systemctl.asked.clear()
    assert not converge(host).changed
    assert systemctl.asked == []


def test_it_lives_by_the_rules_of_the_gateways(systemctl, host):
    converge(host, limits={"memory": "1G"}, sandbox={"open": ["devices"]}, config_scope="managed")
    unit = Path(host.dashboard_path).read_text()
    for directive in (
        "StartLimitIntervalSec=0",
        "Restart=always",
        "RestartSec=10",
        "RestartMaxDelaySec=300",
        f"User={Account.current().name}",
        "SyslogIdentifier=hermes-dashboard",
        "MemoryMax=1G",
        "ProtectSystem=strict",
        "NoNewPrivileges=yes",
        # An update or a restore stops the gateway, and then the dashboard must not write in the home either.
        "StopPropagatedFrom=hermes-gateway@default.service",
        "After=hermes-gateway@default.service",
        "WantedBy=hermes-gateway@default.service",
        "Environment=HERMES_MANAGED_DIR=/m/default",
        f"ExecStart={host.root}/current/bin/hermes --profile default dashboard --host 127.0.0.1 --port 9119 --no-open "
        "--skip-build",
    ):
        assert f"\n{directive}\n" in unit
    assert "PrivateDevices" not in unit
    # Its clean stop is systemd's own signal.
    assert "KillSignal" not in unit


def test_a_changed_unit_restarts_it(systemctl, host):
    converge(host)
    systemctl.asked.clear()
    converge(host, limits={"memory": "1G"})
    unit = "hermes-dashboard.service"
    assert systemctl.asked == [f"reenable --no-reload {unit}", "daemon-reload", f"restart {unit}"]


def test_a_changed_login_restarts_it(systemctl, host):
    converge(host)
    # A file's time may lag behind the clock by some milliseconds.
    systemctl.state["ActiveEnterTimestampMonotonic"] = str(int((time.clock_gettime(time.CLOCK_MONOTONIC) - 1) * 1e6))
    env = Path(os.path.dirname(host.root), "agents/default/.hermes/.env")
    env.write_text("HERMES_DASHBOARD_BASIC_AUTH_USERNAME=ada\n")
    assert [d.what for d in converge(host).differences] == ["hermes-dashboard.service restart"]
    assert not converge(host).changed


def test_another_release_restarts_it(systemctl, host, monkeypatch):
    converge(host)
    systemctl.asked.clear()
    monkeypatch.setattr(dashboard, "running_release", lambda pid, root: "0.18.2")
    monkeypatch.setattr(dashboard, "current_release", lambda root: "0.19.0")
    (difference,) = converge(host).differences
    assert difference.after == "release: 0.18.2 -> 0.19.0"
    assert systemctl.asked == ["restart hermes-dashboard.service"]


def test_a_port_that_somebody_else_has_is_refused_before_anything_is_changed(systemctl, host):
    systemctl.others = Listener({0}, {1})
    with pytest.raises(OpsError, match="9119 is taken by pid 1"):
        converge(host)
    assert systemctl.asked == []
    assert not dashboard.present()


def test_a_hidden_process_of_another_user_is_not_the_dashboard(systemctl, host):
    converge(host)
    systemctl.others = Listener({4_000_000_000}, set())
    with pytest.raises(OpsError, match="9119 is taken by a process of user 4000000000 that cannot be seen"):
        plan(host)
    systemctl.others = Listener({Account.current().uid}, set())
    assert not plan(host).changed


def test_a_start_is_not_over_while_a_hidden_process_of_another_user_serves(systemctl, host):
    planned = plan(host)
    systemctl.others = Listener({4_000_000_000}, set())
    with pytest.raises(OpsError, match="does not serve port 9119"):
        planned.apply()


def test_one_that_does_not_serve_is_an_error(systemctl, host, monkeypatch):
    systemctl.serves = False
    asked = []

    def journalctl(words, *, limit, timeout):
        asked.append(words)
        return "boom\n"

    # The journal is read up to a limit, because the agent may write without end.
    monkeypatch.setattr(dashboard, "run_head", journalctl)
    with pytest.raises(OpsError, match=r"does not serve port 9119.*boom"):
        converge(host)
    assert "_SYSTEMD_UNIT=hermes-dashboard.service" in asked[0]


def test_switched_off_nothing_is_left(systemctl, host):
    converge(host)
    systemctl.asked.clear()
    gone = dashboard.plan_no_dashboard(host, gateways(), manager_of(host))
    gone.apply()
    assert systemctl.asked[0] == "disable --now hermes-dashboard.service"
    assert not os.path.exists(host.dashboard_path)
    assert not dashboard.plan_no_dashboard(host, gateways(), manager_of(host)).changed


def test_the_other_scope_is_cleared(systemctl, host):
    converge(host)
    converge(dataclasses.replace(host, scope="user"))
    assert not os.path.exists(host.dashboard_path)
    assert dashboard.present()


class Managers:
    """systemctl of the users' managers, which belong to their agents."""

    def __init__(self, **states):
        self.states = states
        self.asked: list[tuple[str, str]] = []

    def call(self, manager, *arguments, **_options):
        """A state is one of systemd's for the unit, or None: the manager is silent."""
        if manager.scope == "system":
            self.asked.append(("system", " ".join(arguments[:2])))
            return Completed(arguments, 0, "", "")
        state = self.states[manager.account.name]
        if state is None:
            raise OpsError("did not finish within 10 s", where="systemctl --user")
        if arguments[0] == "show":
            return Completed(arguments, 0, "\n".join(f"{key}={value}" for key, value in state.items()), "")
        self.asked.append((manager.account.name, arguments[0]))
        return Completed(arguments, 0, "", "")


RUNNING = {"ActiveState": "active", "SubState": "running", "MainPID": "1", "UnitFileState": "enabled"}


@pytest.fixture
def managers(monkeypatch, tmp_path, host):
    """Two agents, each with a user of its own; ``coder`` comes first, and may say what it likes."""
    monkeypatch.setattr(units, "UNIT_DIRECTORIES", {scope: str(tmp_path / scope) for scope in ("system", "user")})
    monkeypatch.setattr(Manager, "reachable", True)
    numbers = {"default": 1001, "coder": 1002}
    agents = list(reversed(gateways()))

    def switched_off(scope, **states):
        settings = dataclasses.replace(host, scope=scope)
        user = Path(dataclasses.replace(host, scope="user").dashboard_path)
        if scope == "user":
            user.parent.mkdir(exist_ok=True)
            user.write_text("[Unit]\n")
        told = Managers(**states)
        monkeypatch.setattr(Manager, "call", lambda manager, *words, **options: told.call(manager, *words, **options))
        accounts = {name: Account(name, number, number, "/") for name, number in numbers.items()}
        planned = dashboard.plan_no_dashboard(settings, agents, lambda agent: Manager(scope, accounts[agent.name]))
        planned.apply()
        assert not user.exists()
        return told.asked

    return switched_off


@pytest.mark.parametrize("lie", [RUNNING, {"UnitFileState": "enabled"}, {}, {"ActiveState": "nonsense"}])
def test_an_agent_that_claims_the_dashboard_does_not_keep_that_of_another_running(managers, lie):
    assert ("default", "disable") in managers("user", default=RUNNING, coder=lie)


def test_a_silent_manager_of_an_agent_keeps_no_other_dashboard_running(managers):
    asked = managers("user", default=RUNNING, coder=None)
    assert ("default", "disable") in asked
    assert ("system", "stop user@1002.service") in asked


def test_where_no_user_ran_a_dashboard_no_agent_is_asked(managers):
    """An agent with the door user_manager can make its manager silent."""
    assert managers("system", default=None, coder=None) == []
