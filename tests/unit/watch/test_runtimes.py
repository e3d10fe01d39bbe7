# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is found when the walls around users' agents, or the server before them, are gone."""

from __future__ import annotations

import dataclasses

import pytest
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.host import runtimes as host
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.host.nftables import Table
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.supervise import editions
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.supervise.rollout import Journal
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.systemd import Manager
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.watch import runtimes


@pytest.mark.parametrize(
    ("present", "lost", "active", "causes"),
    [
        (True, False, "active", []),
        (True, True, "active", ["walls_open"]),
        (True, False, "failed", ["proxy_down"]),
        # Between two tries of systemd.
        (True, False, "activating", []),
        (False, True, "failed", []),
    ],
)
def test_what_is_gone_is_found_on_a_host_with_runtimes(tmp_path, monkeypatch, present, lost, active, causes):
    def units(self, names):
        return {name: dataclasses.replace(self._unit(name, {}), active=active) for name in names}

    monkeypatch.setattr(host, "present", lambda: present)
    monkeypatch.setattr(Table, "lost", lambda self: lost)
    monkeypatch.setattr(Manager, "units", units)
    assert [finding.cause for finding in runtimes.look(str(tmp_path))] == causes


@pytest.mark.parametrize(("phase", "causes"), [("failed", ["rollout_failed"]), ("batches", []), ("back", [])])
def test_a_declaration_that_was_rolled_back_is_found(tmp_path, monkeypatch, phase, causes):
    monkeypatch.setattr(host, "present", lambda: True)
    monkeypatch.setattr(Table, "lost", lambda self: False)
    monkeypatch.setattr(
        Manager,
        "units",
        lambda self, names: {name: dataclasses.replace(self._unit(name, {}), active="active") for name in names},
    )
    editions.write_journal(str(tmp_path), Journal("new", phase, problem="image 2: user ada: it ended"))
    found = runtimes.look(str(tmp_path))
    assert [finding.cause for finding in found] == causes
    assert all("user ada" in finding.what for finding in found)
