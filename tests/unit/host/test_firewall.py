# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The packet filter: neighbours kept out always, everything closed only on trial until it is confirmed."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import replace

import pytest
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.host import (
    firewall,
    metadata,
    nftables,
    runtime_walls,
)
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.errors import OpsError
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.files import Account
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.process import Completed
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.systemd import Manager

ADDRESSES = ("100.64.0.1", "fd7a:115c:a1e0::1")
OPEN = firewall.Filter(ADDRESSES, closed=False, ports=())
CLOSED = firewall.Filter(ADDRESSES, closed=True, ports=(22,))


@pytest.fixture
def host(tmp_path, monkeypatch, systemd):
    """A host with nft; its calls and those of systemd-run, in order."""
    calls = []
    monkeypatch.setattr(firewall, "TABLE", replace(firewall.TABLE, rules=str(tmp_path / "firewall.nft")))
    monkeypatch.setattr(firewall, "TRIAL", str(tmp_path / "trial"))
    monkeypatch.setattr(nftables, "UNIT_DIRECTORY", str(tmp_path))
    monkeypatch.setattr(nftables, "NFT", "/bin/true")

    def run(argv, **_options):
        calls.append(argv)
        return Completed(tuple(argv), 0, "", "")

    monkeypatch.setattr(firewall, "run", run)
    monkeypatch.setattr(nftables, "run", run)
    systemd.calls = calls
    return systemd


def manager() -> Manager:
    return Manager("system", Account.current())


def test_a_neighbour_never_reaches_the_addresses_of_the_node_and_nothing_else_is_touched():
    rules = firewall.render(OPEN)
    assert 'iifname != { "lo", "tailscale0" } ip daddr 100.64.0.1 drop' in rules
    assert 'iifname != { "lo", "tailscale0" } ip6 daddr fd7a:115c:a1e0::1 drop' in rules
    assert rules.count("drop") == 2
    assert "flush ruleset" not in rules


@pytest.mark.parametrize("rules", [OPEN, CLOSED, firewall.Filter((), closed=True, ports=())])
def test_nft_takes_the_rules(rules, tmp_path):
    if shutil.which("nft") is None:
        pytest.skip("SKIPPED, NOT PROVED: that nft takes the rules, because there is no nft")
    (tmp_path / "rules").write_text(firewall.render(rules))
    done = subprocess.run(["unshare", "--net", "nft", "-c", "-f", tmp_path / "rules"], capture_output=True, check=False)
    if b"unshare" in done.stderr:
        pytest.skip("SKIPPED, NOT PROVED: that nft takes the rules, because no network namespace can be made")
    assert done.returncode == 0, done.stderr


def test_the_rules_name_no_protocol_that_only_a_database_knows():
    """A small host has no /etc/protocols."""
    assert "icmp" not in firewall.render(CLOSED)


def test_the_guard_is_kept_at_once(host):
    plan, on_trial = firewall.plan_filter(OPEN, manager())
    plan.apply()
    assert not on_trial
    assert host.verbs[-1] == "start hermes-firewall.service"
    assert host.calls == []


def test_closing_is_only_tried_and_the_timer_comes_first(host):
    plan, on_trial = firewall.plan_filter(CLOSED, manager())
    plan.apply()
    assert on_trial
    check, timer, load = host.calls
    assert check[1] == "--check"
    assert timer[0] == "systemd-run"
    assert f"--on-active={firewall.TRIAL_SECONDS}" in timer
    assert timer[-4:] == ["/bin/true", "delete", "table", "inet", "hermes"][-4:]
    assert load[1] == "--file"
    assert not any("enable" in verb for verb in host.verbs), "a reboot forgets a trial"


def test_rules_that_were_kept_before_come_back_after_a_trial(host):
    plan, _on_trial = firewall.plan_filter(OPEN, manager())
    plan.apply()
    plan, _on_trial = firewall.plan_filter(CLOSED, manager())
    plan.apply()
    (timer,) = [call for call in host.calls if call[0] == "systemd-run"]
    assert timer[-3:] == ["systemctl", "reload-or-restart", "hermes-firewall.service"]


def test_only_a_trial_that_still_runs_can_be_confirmed(host):
    with pytest.raises(OpsError, match="were taken back"):
        firewall.plan_confirmed(manager())
    plan, _on_trial = firewall.plan_filter(CLOSED, manager())
    plan.apply()
    with pytest.raises(OpsError, match="no connection confirmed them"):
        firewall.plan_confirmed(manager())
    host.states["hermes-firewall-undo.timer"] = {"ActiveState": "active"}
    firewall.plan_confirmed(manager()).apply()
    assert host.verbs[-1] == "stop hermes-firewall-undo.timer"
    plan, on_trial = firewall.plan_filter(CLOSED, manager())
    assert not on_trial
    assert not plan.changed


def test_rules_that_somebody_flushed_come_back(host, monkeypatch):
    firewall.plan_filter(OPEN, manager())[0].apply()
    host.states[firewall.TABLE.unit] = {"ActiveState": "active", "UnitFileState": "enabled", "LoadState": "loaded"}
    assert not firewall.plan_filter(OPEN, manager())[0].changed
    assert not firewall.TABLE.lost()
    monkeypatch.setattr(nftables, "run", lambda argv, **_options: Completed(tuple(argv), 1, "", "No such file"))
    assert firewall.TABLE.lost()
    plan, _on_trial = firewall.plan_filter(OPEN, manager())
    assert plan.changed
    plan.apply()
    assert host.verbs[-1] == "restart hermes-firewall.service"


@pytest.mark.parametrize("table", [firewall.TABLE, metadata.TABLE, runtime_walls.TABLE], ids=lambda table: table.name)
def test_a_unit_before_the_network_neither_waits_for_the_rest_of_the_boot_nor_survives_a_flush(table):
    """cloud-init needs the network before sysinit.target: the default dependencies would close a circle, and systemd
    breaks it by not starting one of them."""
    lines = table.unit_text.splitlines()
    assert "DefaultDependencies=no" in lines
    assert "WantedBy=sysinit.target" in lines
    assert "PartOf=nftables.service" in lines
    assert "ReloadPropagatedFrom=nftables.service" in lines
    assert any(line.startswith("ExecReload=") for line in lines)
    # A restart, which changed rules cause, would leave the host without them for a moment.
    assert not any(line.startswith("ExecStop") for line in lines)


def test_a_port_that_is_none_is_refused():
    with pytest.raises(OpsError, match="70000 is not a port"):
        firewall.Filter(ADDRESSES, closed=True, ports=(22, 70000))


def test_without_nft_the_host_is_refused(monkeypatch):
    monkeypatch.setattr(nftables, "NFT", "/nowhere/nft")
    with pytest.raises(OpsError, match="is missing"):
        firewall.plan_filter(OPEN, manager())
