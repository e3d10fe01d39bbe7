# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Fetched secrets are kept in memory, for root only, and replaced as a whole."""

from __future__ import annotations

import os
import stat

import pytest
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.secrets import store
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.errors import OpsError


@pytest.fixture(autouse=True)
def directory(tmp_path, monkeypatch):
    monkeypatch.setattr(store, "DIRECTORY", str(tmp_path / "run/secrets"))
    monkeypatch.setattr(store, "_kind_of", lambda _path: "tmpfs")
    return tmp_path / "run/secrets"


def test_kept_secrets_are_read_back_and_only_a_change_is_written(directory):
    assert store.secrets_of("work") is None
    assert store.keep("work", {"A": "1", "B": '"x\n'}) == ["A", "B"]
    written = os.stat(store.path_of("work"))
    assert stat.S_IMODE(written.st_mode) == 0o600
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert store.keep("work", {"A": "1", "B": '"x\n'}) == []
    assert os.stat(store.path_of("work")).st_ino == written.st_ino
    assert store.keep("work", {"A": "2", "C": "3"}) == ["A", "B", "C"]
    assert store.secrets_of("work") == {"A": "2", "C": "3"}
    # Nothing of the value before is left.
    assert not [name for name in os.listdir(directory) if name != "work.env"]


def test_a_share_without_anything_is_still_a_file():
    assert store.keep(".canary", {}) == []
    assert os.path.exists(store.path_of(".canary"))
    assert store.agents() == []


def test_nothing_is_kept_on_a_disk(directory, monkeypatch):
    monkeypatch.setattr(store, "_kind_of", lambda _path: "ext4")
    with pytest.raises(OpsError, match="lies on ext4, not in memory"):
        store.keep("work", {"A": "1"})
    assert os.listdir(directory) == []


def test_the_kind_of_a_file_system(monkeypatch):
    monkeypatch.undo()
    assert store._kind_of("/proc") == "proc"
    assert store._kind_of("/dev/shm") in store._IN_MEMORY


def test_what_is_known_besides_the_values():
    assert store.status_of("work") == store.Status()
    status = store.Status(source={"ssm": "/x"}, fetched=1.5, changed=("A",), unwell=2.0)
    store.write_status("work", status)
    assert store.status_of("work") == status
    store.keep("work", {"A": "1"})
    store.keep("other", {"A": "1"})
    assert store.agents() == ["other", "work"]
    store.forget("work")
    assert store.agents() == ["other"]
    assert store.value_of("other", "A") == "1"
    assert store.value_of("work", "A") is None


def test_one_at_a_time(directory):
    with store.changing():
        pid = os.fork()
        if not pid:
            try:
                with store.changing(timeout=0.1):
                    os._exit(0)
            except OpsError:
                os._exit(1)
        assert os.waitpid(pid, 0)[1]


def test_the_directory_goes_as_a_whole(directory):
    assert not store.plan_absent().changed
    store.keep("work", {"A": "1"})
    plan = store.plan_absent()
    assert plan.changed
    plan.apply()
    assert not directory.exists()
