# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The text of the units: directives for each version of systemd, and the effect of each door."""

from __future__ import annotations

import dataclasses
import os
import re

import pytest
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.description import declaration, schema
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.supervise import units
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system import network
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.errors import OpsError
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.files import Account


def host(scope="system", systemd=257):
    return units.UnitSettings(
        scope=scope,
        root="/opt/hermes",
        systemd=systemd,
        restart_sec=10,
        restart_max_delay_sec=300,
    )


def description(**declared):
    agent = {"name": "default", **declared}
    return declaration.resolve([agent], host="box", data_dir="/data", managed_root="/m")["default"].agent


# Its user's home is not there, so it lives in its own directory.
OWNER = Account("hermes-default", 999, 999, "/nonexistent")


def drop_in(scope="system", account=OWNER, verbose=False, **declared):
    return units.render_drop_in(dataclasses.replace(host(scope), verbose=verbose), description(**declared), account)


def section(text, name):
    """Directive -> all its values, of one section."""
    body = re.search(rf"^\[{name}\]\n(.*?)(?=^\[|\Z)", text, re.M | re.S).group(1)
    found = {}
    for line in body.splitlines():
        if "=" in line:
            key, value = line.split("=", 1)
            found.setdefault(key, []).append(value)
    return found


def test_start_limits_stand_where_systemd_reads_them():
    text = units.render_template(host())
    assert section(text, "Unit")["StartLimitIntervalSec"] == ["0"]
    assert not any(key.startswith("StartLimit") for key in section(text, "Service"))


@pytest.mark.parametrize(("verbose", "command"), [(False, "gateway run"), (True, "gateway run -v")])
def test_an_audited_gateway_tells_the_journal_more(verbose, command):
    service = section(drop_in(verbose=verbose), "Service")
    assert service["ExecStart"] == [f"/opt/hermes/current/bin/hermes --profile default {command}"]


@pytest.mark.parametrize("scope", ["system", "user"])
def test_without_an_agent_s_drop_in_there_is_nothing_to_start(scope):
    # It would run as root, on a home that Hermes would choose.
    assert "ExecStart" not in section(units.render_template(host(scope)), "Service")


def test_each_agent_runs_as_its_user_on_its_home():
    service = section(drop_in(), "Service")
    assert service["User"] == ["hermes-default"]
    assert {"HERMES_HOME=/data/agents/default/.hermes", "HOME=/data/agents/default"} <= set(service["Environment"])
    assert service["WorkingDirectory"] == ["/data/agents/default"]
    assert service["ReadWritePaths"] == ["-/data/agents/default"]
    assert section(drop_in(), "Unit")["RequiresMountsFor"] == ["/data/agents/default"]


def test_in_user_scope_nothing_starts_without_a_home():
    # A user's manager ignores RequiresMountsFor= for the system's mounts.
    unit = section(drop_in("user"), "Unit")
    assert unit == {"ConditionPathIsDirectory": ["/data/agents/default/.hermes"]}
    dashboard = units.render_dashboard(host("user"), description(), OWNER, "127.0.0.1", 9119)
    assert section(dashboard, "Unit")["ConditionPathIsDirectory"] == unit["ConditionPathIsDirectory"]


@pytest.mark.parametrize("scope", ["system", "user"])
def test_the_dashboard_of_an_agent_that_moves_goes_with_it(scope):
    moved = dataclasses.replace(description(), directory="/data/agents/new", home="/data/agents/new/.hermes")
    texts = [units.render_dashboard(host(scope), each, OWNER, "::1", 9119) for each in (description(), moved)]
    assert texts[0] != texts[1]
    assert units.moved_dashboard(host(scope), texts[0], (description(), OWNER), (moved, OWNER)) == texts[1]


def test_what_a_source_gives_comes_before_the_gateway_and_not_into_the_unit():
    text = drop_in(secrets_from={"ssm": "/hermes/prod"})
    assert section(text, "Service")["EnvironmentFile"] == ["/run/hermes-ops/secrets/default.env"]
    unit = section(text, "Unit")
    assert unit["Requires"] == ["hermes-secrets@default.service"]
    # A source that is away must not keep the boot from its end.
    assert set(unit["After"]) >= {"hermes-secrets@default.service", "multi-user.target"}
    # Its commands and the dashboard have them, too.
    agent = description(secrets_from={"ssm": "/hermes/prod"})
    confined = units.confinement(agent, OWNER, "system")
    assert ("EnvironmentFile", "/run/hermes-ops/secrets/default.env") in confined
    # Not 0, with which systemd-coredump still writes the environment into the journal.
    assert ("LimitCORE", "1") in confined
    for directive in ("EnvironmentFile=", "Requires=", "multi-user.target"):
        assert directive not in drop_in()


def test_a_profile_of_an_adopted_home_is_chosen_by_its_directory():
    service = section(drop_in(home="/home/ada/.hermes/profiles/work"), "Service")
    assert service["ExecStart"] == ["/opt/hermes/current/bin/hermes --profile work gateway run"]
    assert "HERMES_HOME=/home/ada/.hermes/profiles/work" in service["Environment"]


def test_a_user_who_was_there_works_in_its_own_home(tmp_path):
    ada = Account("ada", os.geteuid(), os.getegid(), str(tmp_path))
    service = section(drop_in(account=ada, user="ada", home=f"{tmp_path}/.hermes"), "Service")
    assert service["WorkingDirectory"] == [str(tmp_path)]
    assert service["ReadWritePaths"] == [f"-{tmp_path}"]
    elsewhere = section(drop_in(account=ada, user="ada", home="/srv/hermes"), "Service")
    assert elsewhere["ReadWritePaths"] == [f"-{tmp_path} -/srv/hermes"]


@pytest.mark.parametrize("home", ["/", "/nonexistent", "/proc"])
def test_a_home_that_is_not_the_user_s_own_is_not_opened(home):
    service = section(drop_in(account=Account("daemon", 1, 1, home), user="daemon"), "Service")
    assert service["ReadWritePaths"] == ["-/data/agents/default"]
    assert "HOME=/data/agents/default" in service["Environment"]


def test_nothing_leads_to_a_user_s_manager_unless_the_door_opens_it():
    closed = drop_in()
    assert "/run/user" not in closed + units.render_template(host())
    assert "user@" not in closed + units.render_template(host())
    opened = drop_in(sandbox={"open": ["user_manager"]})
    assert section(opened, "Unit")["After"] == ["user@999.service"]
    service = section(opened, "Service")
    assert "XDG_RUNTIME_DIR=/run/user/999" in service["Environment"]
    assert service["BindPaths"] == ["-/run/user/999"]


@pytest.mark.parametrize("door", [None, *(door for door in schema.DOORS if door != "system")])
def test_an_agent_writes_nothing_into_run(door):
    """ProtectSystem=strict leaves it out, beside directives that mount the kernel's file systems anew."""
    service = section(drop_in(sandbox={"open": [door] if door else []}), "Service")
    assert (service["ProtectSystem"], service["ReadOnlyPaths"]) == (["strict"], ["/run"])


@pytest.mark.parametrize("door", [None, *(door for door in schema.DOORS if door != "sudo")])
def test_no_message_of_an_agent_reaches_systemd(door):
    service = section(drop_in(sandbox={"open": [door] if door else []}), "Service")
    assert "-/run/systemd/notify" in service["InaccessiblePaths"][0].split()


def test_a_gateway_that_exits_0_comes_back():
    assert section(units.render_template(host()), "Service")["Restart"] == ["always"]


@pytest.mark.parametrize(("systemd", "known"), [(252, False), (253, False), (254, True), (262, True)])
def test_back_off_only_where_systemd_knows_it(systemd, known):
    service = section(units.render_template(host(systemd=systemd)), "Service")
    assert ("RestartSteps" in service) is known
    assert ("RestartMaxDelaySec" in service) is known


def test_the_clean_stop_has_time_for_the_drain():
    assert section(units.render_template(host()), "Service")["KillSignal"] == ["SIGINT"]
    assert int(section(drop_in(drain=100), "Service")["TimeoutStopSec"][0]) == 100 + units.STOP_MARGIN


def test_limits_of_an_agent():
    service = section(drop_in(limits={"memory": "1G", "cpu": "150%", "tasks": 99}), "Service")
    assert (service["MemoryMax"], service["CPUQuota"], service["TasksMax"]) == (["1G"], ["150%"], ["99"])
    assert service["LimitNOFILE"] == [str(network.MOST_DESCRIPTORS)]


@pytest.mark.parametrize("scope", ["system", "user"])
def test_no_line_of_an_agent_s_reaches_other_terminals(scope):
    assert section(drop_in(scope), "Service")["SyslogLevelPrefix"] == ["no"]


def test_the_user_scope_names_no_user_and_keeps_what_an_unprivileged_manager_can_do():
    service = section(drop_in("user"), "Service")
    assert "User" not in service
    assert service["NoNewPrivileges"] == ["yes"]
    assert "ProtectSystem" not in service
    assert "BindPaths" not in service


def test_the_way_out_of_the_sandbox():
    service = section(drop_in(sandbox={"enabled": False}), "Service")
    assert not set(service) & set(units.SANDBOX)


def test_every_door_that_may_be_declared_leads_somewhere():
    assert tuple(sorted(units.DOORS)) == schema.DOORS


@pytest.mark.parametrize("door", schema.DOORS)
def test_a_door_changes_what_it_names_and_nothing_else(door):
    closed, opened = section(drop_in(), "Service"), section(drop_in(sandbox={"open": [door]}), "Service")
    implied = {"system": {"ReadWritePaths"}, "user_manager": {"BindPaths", "Environment"}}.get(door, set())
    different = {key for key in closed.keys() | opened.keys() if closed.get(key) != opened.get(key)}
    assert different == set(units.DOORS[door]) | implied


def test_a_home_below_home_stays_visible():
    binds = section(drop_in(home="/home/ada/.hermes"), "Service")["BindPaths"]
    assert binds == ["-/home/ada/.hermes"]
    assert "BindPaths" not in section(drop_in(home="/home/ada/.hermes", sandbox={"open": ["home"]}), "Service")


def test_a_path_that_would_break_the_unit_is_refused(tmp_path):
    with pytest.raises(OpsError, match="root"):
        dataclasses.replace(host(), root="/srv/a b")
    odd = tmp_path / "a b"
    odd.mkdir()
    with pytest.raises(OpsError, match="home of the user ada"):
        drop_in(account=Account("ada", os.geteuid(), os.getegid(), str(odd)))


def test_the_managed_scope_is_the_agent_s_own():
    assert "HERMES_MANAGED_DIR=/m/default" in section(drop_in(config_scope="managed"), "Service")["Environment"]
