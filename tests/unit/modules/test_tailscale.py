# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module tailscale: what it leaves alone while the host is not in its tailnet; and the role, what it cleans up."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.host import tailnet
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.modules import tailscale
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.modules.call import Call
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.errors import OpsError
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.files import Account
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.plan import Plan
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.systemd import Manager

SETTINGS = tailnet.Settings("bridge", (), False, False, True, "https://control.example.org")
NODE = tailnet.Node(
    state="Running",
    id="n1",
    name="bridge",
    addresses=("100.64.0.1",),
    tags=(),
    expiry=None,
    server=SETTINGS.login_server,
    flags=SETTINGS.flags,
    served={},
    troubles=(),
)


@pytest.fixture
def planned(monkeypatch, tmp_path):
    """A function that converges a node; gives the filter that was planned, None without one, and the warnings."""

    def converge(node):
        found = []
        monkeypatch.setattr(
            tailscale.firewall, "plan_filter", lambda rules, _manager: found.append(rules) or (Plan(), False)
        )
        params = {"ops_dir": str(tmp_path), "agents": [], "firewall": False, "firewall_ports": [], "confirm": False}
        call = Call(params)
        assert tailscale.Converging(call, None, SETTINGS, None).at_node(node) is False
        return found[0] if found else None, call.warnings

    return converge


@pytest.mark.parametrize(
    ("state", "fix"),
    [("Stopped", "Fix: tailscale up"), ("NeedsMachineAuth", "approve it"), ("New", "tailscale status")],
)
def test_a_node_that_is_not_in_its_tailnet_keeps_its_packet_filter(planned, state, fix):
    """It has no addresses then, and a filter without them lets neighbours in."""
    rules, warnings = planned(NODE)
    assert (rules.addresses, warnings) == (NODE.addresses, [])
    rules, (warning,) = planned(dataclasses.replace(NODE, state=state, addresses=()))
    assert rules is None
    assert fix in warning


@pytest.mark.parametrize(
    ("has", "unit", "missing"),
    [
        ({"tailscale", "nft"}, "loaded", ""),
        ({"tailscale"}, "loaded", "nftables"),
        ({"tailscale", "nft"}, "not-found", "package"),
        ({"nft"}, "not-found", "package"),
    ],
)
def test_a_host_that_has_tailscale_gets_no_repository_for_it(monkeypatch, systemd, has, unit, missing):
    systemd.states[tailnet.UNIT] = {"LoadState": unit}
    monkeypatch.setattr(tailscale.shutil, "which", lambda name: name if name.rpartition("/")[2] in has else None)
    manager = Manager("system", Account.current())
    assert tailscale.lacking({"install": "apt"}, manager) == missing
    if missing:
        with pytest.raises(OpsError, match="is missing on"):
            tailscale.lacking({"install": "present"}, manager)


def test_the_archive_is_removed_from_the_host_also_if_what_follows_fails(tmp_path):
    tasks = Path(__file__).resolve().parents[3] / "roles/tailscale/tasks/install.yml"
    shutil.copy(tasks, tmp_path)
    shown = "{{ (tailscale_archive_brought is file) | ternary('the archive is there', '') }}"
    (tmp_path / "node.yml").write_text(json.dumps([{"ansible.builtin.fail": {"msg": shown}}]))
    (tmp_path / "tailscale.tgz").write_text("of Tailscale")
    (tmp_path / "tmp").mkdir()
    given = {
        "tailscale_found": {"missing": "archive"},
        "tailscale_archive": str(tmp_path / "tailscale.tgz"),
        # Nothing is installed on this machine.
        "tailscale_nft": {"stat": {"exists": True}},
        "ansible_connection": "local",
        "ansible_python_interpreter": sys.executable,
    }
    play = {"hosts": "zeus", "gather_facts": False, "tasks": [{"ansible.builtin.include_tasks": "install.yml"}]}
    (tmp_path / "play.yml").write_text(json.dumps([play]))
    environment = {**os.environ, "ANSIBLE_NOCOLOR": "1", "TMPDIR": str(tmp_path / "tmp")}
    environment.update({f"ANSIBLE_{kind}_TEMP": str(tmp_path / kind) for kind in ("LOCAL", "REMOTE")})
    command = ["ansible-playbook", "-i", "zeus,", "play.yml", "-e", json.dumps(given)]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode != 0
    assert "the archive is there" in done.stdout, done.stdout
    assert list((tmp_path / "tmp").iterdir()) == []
