# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Root gives away the files that it left in a home, and no others, whatever the agent does."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.agent import ownership
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system import worker
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.files import Account

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="SKIPPED, NOT PROVED: only root can give files away")


@pytest.fixture
def home(public: Path, nobody: Account) -> Path:
    home = public / "home"
    home.mkdir()
    os.chown(home, nobody.uid, nobody.gid)
    return home


def given(home: Path, account: Account) -> list[str]:
    """The files that one round gives away."""
    found = worker.work(account, "agent.ownership:find", str(home), [])
    return ownership.give_back(str(home), account, found["paths"], mend=True)


def test_files_and_directories(home, nobody):
    (home / "a").mkdir()
    (home / "a/b").write_text("")
    assert sorted(given(home, nobody)) == ["a", "a/b"]
    assert given(home, nobody) == []
    assert {(home / path).stat().st_uid for path in ("a", "a/b")} == {nobody.uid}


def test_a_second_name_of_root_s_file_is_not_given(home, nobody, public):
    (public / "shadow").write_text("")
    os.link(public / "shadow", home / "shadow")
    assert given(home, nobody) == []
    assert ownership.give_back(str(home), nobody, ["shadow"], mend=True) == []
    assert (public / "shadow").stat().st_uid == 0


def test_where_users_may_link_root_s_files_none_is_given(home, nobody, public, monkeypatch):
    # The other name of a file may be gone by now, so a single name proves nothing.
    (public / "no").write_text("0\n")
    monkeypatch.setattr(ownership, "_PROTECTED_LINKS", str(public / "no"))
    (home / "file").write_text("")
    (home / "directory").mkdir()
    assert given(home, nobody) == ["directory"]


@pytest.mark.parametrize("kind", ["link", "fifo"])
def test_what_is_no_file_is_not_given(home, nobody, public, kind):
    (public / "victim").mkdir()
    (public / "victim/file").write_text("")
    if kind == "fifo":
        os.mkfifo(home / "it")
    else:
        (home / "it").symlink_to(public / "victim")
    assert ownership.give_back(str(home), nobody, ["it", "it/file"], mend=True) == []
    assert (public / "victim/file").stat().st_uid == (public / "victim").stat().st_uid == 0


@pytest.mark.parametrize(
    "path",
    ["../victim", "/etc/passwd", "a/../../victim", ".", "a//b", "nul\0", "no such", "half a \ud800", "a/b/" * 9999],
)
def test_a_find_leads_nowhere_else(home, nobody, public, path):
    (public / "victim").write_text("")
    (home / "a").mkdir()
    assert ownership.give_back(str(home), nobody, [path], mend=True) == []
    assert (public / "victim").stat().st_uid == os.stat("/etc/passwd").st_uid == 0


def test_a_mount_of_the_same_file_system_is_not_entered(home, nobody, public, mounted):
    (public / "photos").mkdir()
    (public / "photos/mine").write_text("")
    (home / "workspace").mkdir()
    os.chown(home / "workspace", nobody.uid, nobody.gid)

    def give() -> None:
        assert given(home, nobody) == []
        assert ownership.give_back(str(home), nobody, ["workspace", "workspace/mine"], mend=True) == []
        assert {(public / path).stat().st_uid for path in ("photos", "photos/mine")} == {0}

    mounted(public / "photos", home / "workspace", give)


def test_a_swap_while_root_looks_changes_nothing(home, nobody, public, monkeypatch):
    """Root gives away the file that it examined, even if another one has its name by then."""
    (public / "victim").write_text("")
    (home / "file").write_text("")

    def swapped(status: os.stat_result, may=ownership._may_be_given) -> bool:
        (home / "file").rename(home / "other")
        (home / "file").symlink_to(public / "victim")
        return may(status)

    monkeypatch.setattr(ownership, "_may_be_given", swapped)
    assert ownership.give_back(str(home), nobody, ["file"], mend=True) == ["file"]
    assert (home / "other").stat().st_uid == nobody.uid
    assert (public / "victim").stat().st_uid == 0


def test_more_than_can_be_looked_at_is_said(home, nobody, monkeypatch):
    monkeypatch.setattr(ownership, "_ENTRIES", 3)
    for number in range(3):
        (home / str(number)).write_text("")
    assert ownership.find(str(home), [])["complete"]
    (home / "3").write_text("")
    assert not ownership.find(str(home), [])["complete"]


def test_deep_directories_are_no_trouble(home, nobody, nest):
    nest(home, 3000)
    assert given(home, nobody)
