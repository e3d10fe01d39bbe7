# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The journal of a job, and its interruption."""

from __future__ import annotations

import os
import signal
from types import SimpleNamespace

import pytest
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.host import guard
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.host.installation import Installation
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.host.undertaking import (
    RESERVE,
    Interrupted,
    Undertaking,
)
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.errors import OpsError
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.update import frozen


@pytest.fixture
def undertaking(tmp_path, monkeypatch):
    monkeypatch.setattr(guard, "UNIT_DIRECTORY", str(tmp_path / "system"))
    names = ("user", "scope", "data_dir", "hermes_home", "root", "managed_root")
    host = Installation({**dict.fromkeys(names, "root"), "ops_dir": str(tmp_path / "ops")})
    return Undertaking(host, "update", needs="/opt/hermes")


def units(tmp_path):
    return sorted(path.name for path in tmp_path.glob("system/*.service"))


def test_a_journal_has_a_guard_as_long_as_it_is_there(undertaking, tmp_path):
    assert undertaking.read() is None
    undertaking.write({"step": "one"})
    undertaking.write({"step": "two"})
    assert undertaking.read() == {"step": "two"}
    assert units(tmp_path) == ["hermes-update-recovery.service"]
    undertaking.end()
    assert undertaking.read() is None
    assert units(tmp_path) == []
    undertaking.end()


def test_each_agent_has_time_of_its_own_to_be_recovered_at_a_boot(undertaking, monkeypatch):
    """What one agent can take (copies.py: three workers one after the other) does not end the unit for the others."""
    alone = guard.TIMEOUT
    assert alone >= frozen.REMOVE_SECONDS + 2 * frozen.BACK_SECONDS
    agents = [SimpleNamespace(user="root", home=f"/h/{name}") for name in "abc"]
    monkeypatch.setattr(type(undertaking.guard.host), "agents", agents)
    assert f"\nTimeoutStartSec={3 * alone}\n" in undertaking.guard.render()


def test_the_guard_comes_first(undertaking, tmp_path, monkeypatch):
    """A journal without a guard would stay interrupted until a person recovers it."""

    def killed():
        raise KeyboardInterrupt

    monkeypatch.setattr(undertaking.guard, "post", killed)
    with pytest.raises(KeyboardInterrupt):
        undertaking.write({"step": "one"})
    assert undertaking.read() is None


def test_space_to_go_back_is_there_until_it_is_needed(undertaking, tmp_path):
    undertaking.write({"step": "one"})
    undertaking.reserve()
    reserve = tmp_path / "ops/update/journal.reserve"
    assert reserve.stat().st_blocks * 512 >= RESERVE
    undertaking.release()
    undertaking.release()
    assert not reserve.exists()
    # A run that was killed has left one.
    undertaking.reserve()
    undertaking.reserve()
    undertaking.end()
    assert os.listdir(reserve.parent) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="SKIPPED, NOT PROVED: only root has what others may not change")
def test_what_others_may_change_is_not_believed(undertaking, tmp_path):
    undertaking.write({"step": "one"})
    os.chown(tmp_path / "ops", 65534, 65534)
    for action in (undertaking.read, lambda: undertaking.write({"step": "two"})):
        with pytest.raises(OpsError, match="cannot be trusted"):
            action()


def test_signals_interrupt_until_it_goes_back(undertaking):
    before = signal.getsignal(signal.SIGUSR1)
    try:
        undertaking.listen([signal.SIGUSR1])
        with pytest.raises(Interrupted, match="was ended by SIGUSR1"):
            signal.raise_signal(signal.SIGUSR1)
        undertaking.interruptible = False
        signal.raise_signal(signal.SIGUSR1)
    finally:
        signal.signal(signal.SIGUSR1, before)
