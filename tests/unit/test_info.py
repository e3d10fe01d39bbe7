# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What there is on a host, also on one where files are not what they should be."""

from __future__ import annotations

import time

import pytest
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops import info
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.files import Owner
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.systemd import Manager, Unit


@pytest.fixture
def host(tmp_path, monkeypatch):
    """What :func:`info.gather` takes, for one profile whose unit runs."""
    name = "hermes-gateway@default.service"
    unit = Unit(name, "loaded", "active", "running", True, 42, 0, "success", 0, time.monotonic(), False)
    monkeypatch.setattr(Manager, "units", lambda self, names: {name: unit})
    monkeypatch.setattr(info.systemd, "version", lambda: 252)
    home = tmp_path / "home"
    home.mkdir()
    profile = {
        "name": "default",
        "state": "present",
        "home": str(home),
        "unit": name,
        "api": {"enabled": False},
        "webhook": {"enabled": False},
    }
    return {
        "profiles": [profile],
        "scope": "system",
        "user": Owner.current().name,
        "hermes_home": str(home),
        "ops_dir": str(tmp_path / "ops"),
        "root": str(tmp_path / "root"),
    }


@pytest.mark.parametrize(
    ("content", "platforms"),
    [("", {}), ("[1]", {}), ('{"platforms": {"a": 1, "discord": {"state": "connected"}}}', {"discord": "connected"})],
)
def test_a_broken_state_file_hides_nothing_else(host, tmp_path, content, platforms):
    (tmp_path / "home" / "gateway_state.json").write_text(content)
    found = info.gather(**host)["profiles"]["default"]
    assert found["active"] == "active"
    assert found["platforms"] == platforms
