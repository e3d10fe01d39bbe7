# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The unit's text: for each systemd what it knows, for each door what it lifts."""

from __future__ import annotations

import dataclasses
import re

import pytest
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.description import declaration
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.supervise import units
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.errors import OpsError


def host(scope="system", systemd=257):
    return units.Host(
        scope=scope,
        user="hermes",
        uid=999,
        data_dir="/data",
        hermes_home="/data/.hermes",
        root="/opt/hermes",
        systemd=systemd,
        restart_sec=10,
        restart_max_delay_sec=300,
    )


def description(**declared):
    profile = {"name": "default", **declared}
    return declaration.resolve([profile], host="box", hermes_home="/data/.hermes", managed_root="/m")["default"][
        "gateway"
    ]


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
    text = units.render_template(dataclasses.replace(host(), verbose=verbose))
    assert section(text, "Service")["ExecStart"] == [f"/opt/hermes/current/bin/hermes --profile %i {command}"]


def test_a_gateway_that_exits_0_comes_back():
    assert section(units.render_template(host()), "Service")["Restart"] == ["always"]


@pytest.mark.parametrize(("systemd", "known"), [(252, False), (253, False), (254, True), (262, True)])
def test_back_off_only_where_systemd_knows_it(systemd, known):
    service = section(units.render_template(host(systemd=systemd)), "Service")
    assert ("RestartSteps" in service) is known
    assert ("RestartMaxDelaySec" in service) is known


def test_the_clean_stop_has_time_for_the_drain():
    assert section(units.render_template(host()), "Service")["KillSignal"] == ["SIGINT"]
    drop_in = section(units.render_drop_in(host(), description(drain=100)), "Service")
    assert int(drop_in["TimeoutStopSec"][0]) == 100 + units.STOP_MARGIN


def test_limits_of_a_profile():
    drop_in = section(
        units.render_drop_in(host(), description(limits={"memory": "1G", "cpu": "150%", "tasks": 99})), "Service"
    )
    assert (drop_in["MemoryMax"], drop_in["CPUQuota"], drop_in["TasksMax"]) == (["1G"], ["150%"], ["99"])


def test_the_user_scope_names_no_user_and_keeps_what_an_unprivileged_manager_can_do():
    template = section(units.render_template(host("user")), "Service")
    assert "User" not in template
    drop_in = section(units.render_drop_in(host("user"), description()), "Service")
    assert drop_in["NoNewPrivileges"] == ["yes"]
    assert "ProtectSystem" not in drop_in
    assert "BindPaths" not in drop_in


def test_the_way_out_of_the_sandbox():
    drop_in = section(units.render_drop_in(host(), description(sandbox={"enabled": False})), "Service")
    assert not set(drop_in) & set(units.SANDBOX)


def test_every_door_that_may_be_declared_leads_somewhere():
    assert tuple(sorted(units.DOORS)) == declaration.DOORS


@pytest.mark.parametrize("door", declaration.DOORS)
def test_a_door_changes_what_it_names_and_nothing_else(door):
    closed = section(units.render_drop_in(host(), description()), "Service")
    opened = section(units.render_drop_in(host(), description(sandbox={"open": [door]})), "Service")
    implied = {"home": {"BindPaths"}, "system": {"ReadWritePaths"}}.get(door, set())
    different = {key for key in closed.keys() | opened.keys() if closed.get(key) != opened.get(key)}
    assert different == set(units.DOORS[door]) | implied


def test_a_data_directory_below_home_stays_visible():
    at_home = dataclasses.replace(host(), data_dir="/home/ada")
    binds = section(units.render_drop_in(at_home, description()), "Service")["BindPaths"]
    assert "-/home/ada" in binds[0].split()


@pytest.mark.parametrize("name", ["data_dir", "hermes_home", "root"])
def test_a_path_that_would_break_the_unit_is_refused(name):
    with pytest.raises(OpsError, match=name):
        dataclasses.replace(host(), **{name: "/srv/a b"})


def test_a_hermes_home_of_its_own_place_can_be_written():
    elsewhere = dataclasses.replace(host(), hermes_home="/home/ada/.hermes")
    assert section(units.render_template(elsewhere), "Unit")["RequiresMountsFor"] == ["/data /home/ada/.hermes"]
    drop_in = section(units.render_drop_in(elsewhere, description()), "Service")
    assert drop_in["ReadWritePaths"] == ["-/data -/home/ada/.hermes"]
    assert drop_in["BindPaths"] == ["-/run/user/999 -/home/ada/.hermes"]


@pytest.mark.parametrize("home", ["/data/.hermes", "/data"])
def test_a_hermes_home_below_the_data_directory_is_not_named_again(home):
    below = dataclasses.replace(host(), hermes_home=home)
    assert section(units.render_drop_in(below, description()), "Service")["ReadWritePaths"] == ["-/data"]


def test_the_managed_scope_is_the_profile_s_own():
    drop_in = section(units.render_drop_in(host(), description(config_scope="managed")), "Service")
    assert "HERMES_MANAGED_DIR=/m/default" in drop_in["Environment"]
