# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a host brings: read right, whatever it is."""

from __future__ import annotations

import os
import pwd

import pytest
from ansible_collections.alwayson.hermes.plugins.module_utils import groundwork
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.process import Completed


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('ID=debian\nNAME="Debian GNU/Linux"\nVERSION_ID="12"\n', ("debian", "Debian GNU/Linux", "12")),
        ("NAME='Ubuntu'\nVERSION_ID=\"24.04\"\nID=ubuntu\nID_LIKE=debian\n", ("ubuntu", "Ubuntu", "24.04")),
        # Debian testing.
        ('# a comment\n\nID=debian\nNAME="Debian GNU/Linux"\n', ("debian", "Debian GNU/Linux", "")),
        ("garbage", ("", "", "")),
    ],
)
def test_system(tmp_path, text, expected):
    (tmp_path / "os-release").write_text(text)
    found = groundwork.system(str(tmp_path / "os-release"))
    assert (found["id"], found["name"], found["version"]) == expected


def test_packages_that_are_removed_or_unknown_are_missing(monkeypatch):
    said = "installed git\nconfig-files logrotate\nnot-installed age\n"
    monkeypatch.setattr(groundwork, "run", lambda argv, **options: Completed(tuple(argv), 1, said, "no packages found"))
    monkeypatch.setattr(groundwork.os.path, "exists", lambda path: True)
    assert groundwork.missing_packages(["git", "logrotate", "age", "restic"]) == ["logrotate", "age", "restic"]
    assert groundwork.missing_packages([]) == []


def test_without_dpkg_all_is_missing(monkeypatch):
    monkeypatch.setattr(groundwork.os.path, "exists", lambda path: False)
    assert groundwork.missing_packages(["git"]) == ["git"]


def test_account_and_home(tmp_path):
    user = pwd.getpwuid(os.geteuid())
    (tmp_path / "home").mkdir()
    (tmp_path / "home").chmod(0o750)
    found = groundwork.look(user.pw_name, str(tmp_path / "home"), [])
    assert found["account"] == {"comment": user.pw_gecos, "home": user.pw_dir, "shell": user.pw_shell}
    assert (found["data_dir"]["owner"], found["data_dir"]["mode"]) == (user.pw_name, "0750")
    (tmp_path / "link").symlink_to(tmp_path / "home")
    for path in ("link", "nowhere"):
        assert groundwork.look("nobody-of-that-name", str(tmp_path / path), [])["data_dir"] is None
    assert groundwork.look("nobody-of-that-name", "/", [])["account"] is None
    assert groundwork.look("nobody-of-that-name", "/", [])["lingers"] is False
