# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A tree is removed whatever is in it, and nothing beside it."""

from __future__ import annotations

import os
import subprocess

import pytest
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system import trees
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.errors import OpsError


def test_links_lead_to_nothing_that_is_removed(tmp_path):
    outside, top = tmp_path / "outside", tmp_path / "top"
    (outside / "kept").mkdir(parents=True)
    top.mkdir()
    (top / "link").symlink_to(outside)
    (top / "below").mkdir()
    (top / "below" / "link").symlink_to(outside)
    trees.remove(str(top))
    assert not top.exists()
    trees.remove(str(tmp_path / "nothing"))
    (tmp_path / "a link").symlink_to(outside)
    trees.remove(str(tmp_path / "a link"))
    assert sorted(os.listdir(tmp_path)) == ["outside"]
    assert os.listdir(outside) == ["kept"]


def test_a_directory_with_more_entries_than_are_looked_at_together(tmp_path, monkeypatch):
    monkeypatch.setattr(trees, "_BATCH", 3)
    for number in range(10):
        (tmp_path / "top" / f"{number}" / "below" / "deeper").mkdir(parents=True)
        (tmp_path / "top" / f"{number}" / "below" / "file").touch()
    trees.remove(str(tmp_path / "top"))
    assert not os.listdir(tmp_path)


def test_what_is_mounted_there_stays_and_is_named(tmp_path):
    below = tmp_path / "top" / "mounted"
    below.mkdir(parents=True)
    done = subprocess.run(["mount", "-t", "tmpfs", "tmpfs", below], capture_output=True, check=False)
    if done.returncode:
        pytest.skip("SKIPPED, NOT PROVED: a mount below the tree, because no tmpfs can be mounted here")
    try:
        (below / "kept").touch()
        with pytest.raises(OpsError, match=r"mounted: is another file system"):
            trees.remove(str(tmp_path / "top"))
        assert (below / "kept").exists()
    finally:
        subprocess.run(["umount", below], check=True)
