# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A tree is removed completely, whatever is in it, and nothing outside of it."""

from __future__ import annotations

import contextlib
import os
import subprocess

import pytest
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system import files, trees
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.errors import OpsError


def test_a_directory_with_many_directories(tmp_path):
    for number in range(100):
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
        with pytest.raises(OpsError, match=r"cannot be removed .*mounted"):
            trees.remove(str(tmp_path / "top"))
        assert (below / "kept").exists()
    finally:
        subprocess.run(["umount", below], check=True)


def test_a_tree_is_removed_also_where_it_forbids_that(ground):
    """Go's module cache has such directories."""
    account = files.Account.named("nobody") if os.geteuid() == 0 else files.Account.current()
    place = ground / "forbidding"
    top = place / "top"
    below = top / "pkg/mod"
    below.mkdir(parents=True)
    (below / "file").write_text("x")
    for path in (top, top / "pkg", below):
        os.chown(path, account.uid, account.gid)
        path.chmod(0o555)
    place.chmod(0o777)
    with files.acting_as(account):
        trees.remove(str(top))
        assert not top.exists()
        trees.remove(str(top))


def nest(top, depth):
    """*depth* nested directories, however long the path becomes."""
    os.mkdir(top)
    descriptor = os.open(top, os.O_RDONLY)
    for _each in range(depth):
        os.mkdir("d", dir_fd=descriptor)
        below = os.open("d", os.O_RDONLY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = below
    os.close(descriptor)


def test_a_tree_is_removed_however_deep_it_is(tmp_path):
    nest(tmp_path / "top", 5000)
    try:
        trees.remove(str(tmp_path / "top"))
        assert os.listdir(tmp_path) == []
    finally:
        # pytest cannot remove it.
        subprocess.run(["rm", "-rf", str(tmp_path / "top")], check=True)


def test_links_in_a_tree_are_removed_and_not_followed(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/precious").write_text("x")
    (tmp_path / "top/below").mkdir(parents=True)
    (tmp_path / "top/below/link").symlink_to(tmp_path / "elsewhere")
    os.mkfifo(tmp_path / "top/below/pipe")
    trees.remove(str(tmp_path / "top"))
    assert (tmp_path / "elsewhere/precious").read_text() == "x"
    assert os.listdir(tmp_path) == ["elsewhere"]
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    trees.remove(str(tmp_path / "link"))
    trees.remove(str(tmp_path / "nothing"))
    assert os.listdir(tmp_path) == ["elsewhere"]
    assert (tmp_path / "elsewhere/precious").read_text() == "x"


@contextlib.contextmanager
def bound(source, target):
    done = subprocess.run(["mount", "--bind", source, target], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"SKIPPED, NOT PROVED: that mounts are not crossed, because none can be made: {done.stderr}")
    try:
        yield
    finally:
        subprocess.run(["umount", target], check=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="SKIPPED, NOT PROVED: only root mounts")
@pytest.mark.parametrize("where", ["top/a/media", "top"])
def test_what_is_mounted_below_a_tree_is_not_removed(tmp_path, where):
    """The mount is of the same file system, so that only the mount itself can reveal it."""
    (tmp_path / "others").mkdir()
    (tmp_path / "others/precious").write_text("x")
    (tmp_path / "top/a/media").mkdir(parents=True)
    (tmp_path / "top/a/own").write_text("x")
    with bound(tmp_path / "others", tmp_path / where):
        with pytest.raises(OpsError, match="mounted"):
            trees.remove(str(tmp_path / "top"))
        assert (tmp_path / "others/precious").read_text() == "x"
    assert (tmp_path / "top/a/own").exists() == (where == "top")
    trees.remove(str(tmp_path / "top"))
    assert (tmp_path / "others/precious").read_text() == "x"
