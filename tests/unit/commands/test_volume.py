# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""``hermes-ops volume``: what could not start without the data volume is started."""

from __future__ import annotations

import described
import pytest
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops import cli
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.commands import volume
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.host.installation import Installation
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.host.records import Moved
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.systemd import Manager

UNIT = "hermes-gateway@default.service"


@pytest.fixture
def host(tmp_path, monkeypatch):
    """A function that makes a host with one agent, which is no node of a tailnet."""

    def make(scope):
        names = {name: str(tmp_path) for name in ("data_dir", "root", "managed_root")}
        host = Installation({**names, "scope": scope, "ops_dir": str(tmp_path / "ops")})
        agent = described.agent("default", home=str(tmp_path / "default"), directory=str(tmp_path))
        host.records("default").write_agent(agent)
        monkeypatch.setattr(volume.Installation, "load", lambda: host)
        return host

    monkeypatch.setattr(volume.guard, "posted", lambda: [])
    monkeypatch.setattr(volume.tailnet, "declared_here", lambda: False)
    return make


@pytest.mark.parametrize(
    ("scope", "reachable", "asked"),
    [
        ("system", True, [f"start --no-block {UNIT}"]),
        ("user", True, [f"start --no-block {UNIT}"]),
        # At a boot, the user's manager may come later than the volume. It starts its gateways itself.
        ("user", False, []),
    ],
)
def test_the_agents_are_started(host, monkeypatch, systemd, scope, reachable, asked):
    host(scope)
    monkeypatch.setattr(Manager, "reachable", reachable)
    assert cli.main(["volume"]) == 0
    assert systemd.verbs == asked


def test_an_agent_that_has_moved_is_not_started(host, monkeypatch, systemd):
    host("system").records("default").write_moved(Moved("user-1", False))
    monkeypatch.setattr(Manager, "reachable", True)
    assert cli.main(["volume"]) == 0
    assert systemd.verbs == []


def test_tailscaled_is_started_on_a_node(host, monkeypatch, systemd):
    """It requires the volume, and may be the only way to the host."""
    host("system")
    monkeypatch.setattr(volume.guard, "posted", lambda: ["hermes-update-recovery.service"])
    monkeypatch.setattr(volume.tailnet, "declared_here", lambda: True)
    assert cli.main(["volume"]) == 0
    first = "start --no-block hermes-update-recovery.service tailscaled.service"
    assert systemd.verbs == [first, f"start --no-block {UNIT}"]
