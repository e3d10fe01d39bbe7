# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A home is removed completely, whatever is in it, and nothing outside of it."""

from __future__ import annotations

import os
import subprocess
import tracemalloc
from pathlib import Path

import pytest
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.agent import removal
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.errors import OpsError
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.files import Account

ME = Account.current()


@pytest.fixture
def home(public: Path) -> Path:
    (public / "home/skills/one").mkdir(parents=True)
    (public / "home/skills/one/SKILL.md").write_text("")
    (public / "home/.env").write_text("")
    return public / "home"


@pytest.fixture
def theirs(home: Path, nobody: Account) -> Path:
    if os.geteuid() != 0:
        pytest.skip("SKIPPED, NOT PROVED: only root can act as somebody else")
    subprocess.run(["chown", "-R", f"{nobody.uid}:{nobody.gid}", str(home)], check=True)
    return home


def test_nothing_is_left(home):
    removal.remove(str(home), ME)
    assert not home.exists()


def test_directories_may_be_deeper_than_a_path_can_say(home, nest):
    nest(home, 5000)
    removal.remove(str(home), ME)
    assert not home.exists()


@pytest.mark.parametrize("wide", ["beside each other", "at the bottom"])
def test_many_directories_are_no_matter_of_memory(home, wide, monkeypatch):
    """The worker's is limited, and the agent chooses how many there are, and how long their paths."""
    monkeypatch.setattr(removal, "_AT_ONCE", 100)
    descriptor = os.open(home, os.O_RDONLY)
    for _level in range(1000 if wide == "at the bottom" else 0):
        os.mkdir("d" * 250, dir_fd=descriptor)
        below = os.open("d" * 250, os.O_RDONLY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = below
    for number in range(90 if wide == "at the bottom" else 6_000):
        for name in (f"{number}", f"{number}/x"):
            os.mkdir(name, dir_fd=descriptor)
    os.close(descriptor)
    tracemalloc.start()
    try:
        assert removal.empty(str(home)) == {"left": [], "of_root": []}
        assert tracemalloc.get_traced_memory()[1] < 5 * 2**17
    finally:
        tracemalloc.stop()
    assert os.listdir(home) == []


def test_what_is_closed_to_its_own_owner_goes(theirs, nobody):
    (theirs / "skills/one").chmod(0)
    (theirs / "skills").chmod(0o500)
    theirs.chmod(0o500)
    removal.remove(str(theirs), nobody)
    assert not theirs.exists()


def test_links_are_not_followed(theirs, nobody, public):
    victim = public / "victim"
    victim.mkdir(mode=0o777)
    victim.chmod(0o777)
    (victim / "file").write_text("")
    (theirs / "link").symlink_to(victim)
    (theirs / "skills/link").symlink_to(victim)
    removal.remove(str(theirs), nobody)
    assert not theirs.exists()
    assert os.listdir(victim) == ["file"]


def test_a_link_where_only_root_can_make_one_is_no_home(theirs, nobody, public):
    """Somebody could have had root move it there."""
    (public / "precious").mkdir()
    (public / "precious/file").write_text("root's")
    (public / "link").symlink_to(public / "precious")
    os.lchown(public / "link", nobody.uid, nobody.gid)
    with pytest.raises(OpsError, match="is a symbolic link"):
        removal.remove(str(public / "link"), nobody)
    assert (public / "precious/file").read_text() == "root's"
    assert (public / "precious").stat().st_uid == 0


def test_what_root_left_goes_however_deep(theirs, nobody):
    (theirs / "roots/own/files").mkdir(parents=True, mode=0o700)
    (theirs / "roots").chmod(0o700)
    (theirs / "roots/own/files/one").write_text("")
    removal.remove(str(theirs), nobody)
    assert not theirs.exists()


def test_what_a_third_user_left_is_named(theirs, nobody):
    (theirs / "a/b").mkdir(parents=True)
    (theirs / "a/b/c").write_text("")
    os.chown(theirs / "a/b", 4711, 4711)
    os.chown(theirs / "a", nobody.uid, nobody.gid)
    with pytest.raises(OpsError, match=r"cannot be removed as 'nobody': .*a/b"):
        removal.remove(str(theirs), nobody)
    assert not (theirs / "skills").exists()


def test_what_is_named_cannot_act_on_a_terminal(theirs, nobody):
    (theirs / "evil\x1b[2J\nTASK [all is well\u202e]").mkdir()
    (theirs / "evil\x1b[2J\nTASK [all is well\u202e]/file").write_text("")
    os.chown(theirs / "evil\x1b[2J\nTASK [all is well\u202e]", 4711, 4711)
    with pytest.raises(OpsError) as caught:
        removal.remove(str(theirs), nobody)
    assert r"evil\x1b[2J\nTASK [all is well\u202e]" in str(caught.value)
    assert not set(str(caught.value)) & set("\x1b\n\u202e")


def test_a_home_with_a_mount_in_it_is_left(theirs, nobody, public, mounted):
    (public / "photos").mkdir()
    (public / "photos/family").write_text("")
    (theirs / "workspace").mkdir()

    def remove() -> None:
        with pytest.raises(OpsError, match=r"has something mounted below it, at '.*/home/workspace'"):
            removal.remove(str(theirs), nobody)
        assert (theirs / "skills/one/SKILL.md").exists()

    mounted(public / "photos", theirs / "workspace", remove)


@pytest.mark.parametrize("place", ["workspace", "deep/er/workspace"])
def test_a_mount_is_never_emptied(theirs, nobody, public, mounted, monkeypatch, place):
    # As if it had been mounted after the check for mounts.
    monkeypatch.setattr(removal, "_refuse_mounts", lambda _home: None)
    photos = public / "photos"
    photos.mkdir()
    (photos / "family").write_text("")
    (theirs / place).mkdir(parents=True)
    for path in (photos, theirs / "deep", theirs / "deep/er"):
        if path.exists():
            os.chown(path, nobody.uid, nobody.gid)

    def remove() -> None:
        with pytest.raises(OpsError, match=f"cannot be removed as 'nobody': {place}"):
            removal.remove(str(theirs), nobody)
        assert os.listdir(photos) == ["family"]

    mounted(photos, theirs / place, remove)


def test_a_directory_of_root_with_a_mount_in_it_is_no_way_around(theirs, nobody, public, mounted, monkeypatch):
    monkeypatch.setattr(removal, "_refuse_mounts", lambda _home: None)
    photos = public / "photos"
    photos.mkdir(mode=0o755)
    (photos / "family").write_text("")
    (theirs / "roots").mkdir()

    def remove() -> None:
        with pytest.raises(OpsError, match="cannot be removed"):
            removal.remove(str(theirs), nobody)
        # The mounted directory is root's: given away, it could be emptied.
        assert photos.stat().st_uid == 0
        assert os.listdir(photos) == ["family"]

    mounted(photos, theirs / "roots", remove)


def test_a_state_file_cannot_keep_a_home(theirs, nobody):
    (theirs / "gateway_state.json").write_text("[" * 200_000)
    assert removal.running(str(theirs), nobody) == 0
    os.truncate(theirs / "gateway_state.json", 3 * 2**30)
    assert removal.running(str(theirs), nobody) == 0
    (theirs / "gateway_state.json").write_text('{"pid": 1e400}')
    assert removal.running(str(theirs), nobody) == 0


def test_a_gateway_of_somebody_else_does_not_keep_a_home(theirs, nobody):
    # The agent may name any process in its state file.
    with subprocess.Popen(["hermes-gateway", "60"], executable="/bin/sleep", user=4711) as process:
        try:
            (theirs / "gateway_state.json").write_text(f'{{"pid": {process.pid}}}')
            assert removal.running(str(theirs), nobody) == 0
            (theirs / "gateway_state.json").chmod(0o644)
            assert removal.running(str(theirs), Account("they", 4711, 4711, "/")) == process.pid
        finally:
            process.kill()
