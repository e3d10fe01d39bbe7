# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Tailscale from an archive: only the declared one, complete or not at all."""

from __future__ import annotations

import hashlib
import io
import os
import tarfile

import pytest
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.host import tailnet_files
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.errors import OpsError


def pack(path, *names: str) -> str:
    with tarfile.open(path, "w:gz") as archive:
        for name in names:
            member = tarfile.TarInfo(name)
            member.size = 3
            archive.addfile(member, io.BytesIO(b"elf"))
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setattr(tailnet_files, "LINK", str(tmp_path / "tailscale"))
    return tmp_path / "opt"


def test_the_programs_of_the_archive_are_installed_beside_and_then_instead_of_others(root, tmp_path):
    archive = tmp_path / "a.tgz"
    sums = []
    for version in ("1", "2"):
        sums.append(pack(archive, f"t_{version}/tailscale", f"t_{version}/tailscaled", f"t_{version}/systemd/x"))
        tailnet_files.plan_files(str(root), sums[-1], str(archive)).apply()
    # A unit that is not written yet names the old one.
    assert sorted(os.listdir(root / "tailscale")) == sorted(each[:16] for each in sums)
    tailnet_files.plan_pruned(str(root), sums[1]).apply()
    (directory,) = (root / "tailscale").iterdir()
    assert directory.name == sums[1][:16]
    assert sorted(os.listdir(directory)) == ["tailscale", "tailscaled"]
    assert os.access(directory / "tailscaled", os.X_OK)
    assert (tmp_path / "tailscale").resolve() == directory / "tailscale"
    assert not tailnet_files.plan_files(str(root), sums[1], None).changed
    assert not tailnet_files.plan_pruned(str(root), sums[1]).changed
    assert str(directory / "tailscaled") in tailnet_files.unit_files(str(root), sums[1])[tailnet_files.UNIT_PATH]


def test_a_program_of_somebody_else_is_not_replaced_without_a_word(root, tmp_path):
    archive = tmp_path / "a.tgz"
    checksum = pack(archive, "t/tailscale", "t/tailscaled")
    (tmp_path / "tailscale").write_text("built by hand")
    *_programs, link = tailnet_files.plan_files(str(root), checksum, str(archive)).differences
    assert (link.what, link.before) == (str(tmp_path / "tailscale"), "a file")


def test_another_archive_is_refused_before_anything_is_changed(root, tmp_path):
    archive = tmp_path / "a.tgz"
    pack(archive, "t/tailscale", "t/tailscaled")
    with pytest.raises(OpsError, match="is declared"):
        tailnet_files.plan_files(str(root), "0" * 64, str(archive))
    assert not root.exists()


def test_an_archive_that_lacks_a_program_installs_nothing(root, tmp_path):
    archive = tmp_path / "a.tgz"
    checksum = pack(archive, "t/tailscale")
    with pytest.raises(OpsError, match="lacks tailscaled"):
        tailnet_files.plan_files(str(root), checksum, str(archive)).apply()
    assert not tailnet_files.is_there(str(root), checksum)


def test_what_is_no_archive_is_an_error_with_a_fix(root, tmp_path):
    archive = tmp_path / "a.tgz"
    archive.write_bytes(b"nothing")
    checksum = hashlib.sha256(b"nothing").hexdigest()
    with pytest.raises(OpsError, match="is not a tar archive"):
        tailnet_files.plan_files(str(root), checksum, str(archive)).apply()


def test_a_checksum_is_declared_in_full():
    with pytest.raises(OpsError, match="is not a SHA-256 sum"):
        tailnet_files.check("abc", "/opt/hermes")
