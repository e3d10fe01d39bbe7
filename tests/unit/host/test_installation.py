# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which agent a command selects, and the public facts about an agent."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import replace

import described
import pytest
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.host import installation
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.errors import OpsError

ADA = described.agent("ada", user="hermes-ada", home="/srv/ada", managed_dir="/m/ada")


def agents(*names):
    return [described.agent(name) for name in names]


@pytest.mark.parametrize(
    ("names", "name", "chosen"),
    [
        (["ada"], None, "ada"),
        (["ada", "bob"], "bob", "bob"),
        (["ada", "default"], None, "default"),
    ],
)
def test_the_agent_that_is_meant(names, name, chosen):
    assert installation.choose(agents(*names), name).name == chosen


@pytest.mark.parametrize(
    ("names", "name", "error"),
    [
        (["ada", "bob"], None, "several agents.*name one: ada, bob"),
        (["ada", "bob"], "eve", "no agent 'eve'.*ada, bob"),
        (["ada"], "default", "no agent 'default'.*ada"),
        ([], None, "no agent 'default'.*none"),
        (["ada"], "", "no agent ''.*ada"),
    ],
)
def test_a_name_that_is_none_and_one_that_is_needed(names, name, error):
    with pytest.raises(OpsError, match=error):
        installation.choose(agents(*names), name)


def test_a_worker_that_nothing_ends_keeps_no_later_job_from_its_lock(tmp_path):
    """One that waits for a file system of its agent's own (FUSE) outlives SIGKILL, with all that it was handed."""
    names = ("scope", "data_dir", "root", "managed_root")
    host = installation.Installation({**dict.fromkeys(names, ""), "ops_dir": str(tmp_path / "ops")})
    with host.lock("backup") as descriptor:
        worker = subprocess.Popen(["sleep", "60"], pass_fds=[descriptor])
        assert host.busy("backup")
    try:
        assert not host.busy("backup")
        with host.lock("backup", timeout=0):
            assert worker.poll() is None
    finally:
        worker.kill()
        worker.wait()


@pytest.fixture
def public(tmp_path, monkeypatch):
    monkeypatch.setattr(installation, "AGENTS", str(tmp_path / "agents"))
    return tmp_path / "agents"


def test_an_agent_s_own_user_can_find_it(public):
    assert installation.published() == []
    before = os.umask(0o077)
    try:
        installation.publish(ADA)
    finally:
        os.umask(before)
    assert public.stat().st_mode & 0o777 == 0o755
    assert (public / "ada.json").stat().st_mode & 0o777 == 0o644
    expected = {"name": "ada", "user": "hermes-ada", "home": "/srv/ada", "managed_dir": None}
    assert json.loads((public / "ada.json").read_text()) == expected
    installation.publish(replace(ADA, config_scope="managed"))
    assert installation.published() == [installation.Published("ada", "hermes-ada", "/srv/ada", "/m/ada")]
    installation.publish(replace(ADA, state="absent"))
    assert installation.published() == []
    # A second time is no error.
    installation.publish(replace(ADA, state="absent"))
