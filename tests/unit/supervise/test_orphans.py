# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is left of users who have no runtime is found, and nothing of those who have one is touched."""

from __future__ import annotations

import os

import pytest
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.description.runtimes import Runtimes
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.supervise import orphans
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.supervise.orphans import Orphan
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.supervise.runtime_host import Host
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.errors import OpsError
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.process import Completed

MODEL = {"config": {"model": {"provider": "custom"}}}


class Podman:
    """Remembers what it was asked to remove."""

    def __init__(self, containers, volumes):
        self.containers, self.volumes = containers, volumes
        self.removed = []

    def run(self, argv, **options):
        words = list(argv)[1:]
        listed = {"ps": self.containers, "volume": self.volumes}.get(words[0], [])
        if "rm" in words:
            self.removed.append(words[-1])
            listed = []
        return Completed(tuple(argv), 0, "\n".join(listed) + "\n", "")


@pytest.fixture
def host(tmp_path, monkeypatch):
    (tmp_path / "data/ops/runtimes").mkdir(parents=True)
    (tmp_path / "data/users").mkdir()
    (tmp_path / "wanted").mkdir()
    monkeypatch.setattr(orphans, "WANTED", str(tmp_path / "wanted"))
    one = Host(Runtimes("localhost/x:1", "s" * 32, MODEL), str(tmp_path / "data"), str(tmp_path / "data/ops"))
    (ada,) = one.users.enrol(["ada"], 100)
    os.mkdir(ada.directory(one.data_dir))
    os.symlink("/dev/null", tmp_path / f"wanted/hermes-user@{ada.id}.socket")
    return one


@pytest.fixture
def podman(host, monkeypatch):
    ada = host.users.get("ada")
    fake = Podman([ada.container, "hermes-user-gone", "somebody-s"], ["hermes-user-gone-data", "mine", "hermes-data"])
    monkeypatch.setattr(orphans, "run", fake.run)
    return fake


def found(host):
    return {(each.kind, os.path.basename(each.name), each.data) for each in orphans.find(host)}


def test_what_belongs_to_nobody_is_found(host, podman, tmp_path):
    (tmp_path / "data/users/0123").mkdir()
    (tmp_path / "wanted/hermes-user@0123.socket").symlink_to("/dev/null")
    assert found(host) == {
        ("container", "hermes-user-gone", False),
        ("socket", "hermes-user@0123.socket", False),
        ("volume", "hermes-user-gone-data", True),
        ("directory", "0123", True),
    }


def test_without_purge_data_stay(host, podman):
    left = orphans.remove(host, orphans.find(host), purge=False)
    assert podman.removed == ["hermes-user-gone"]
    assert left == [Orphan("volume", "hermes-user-gone-data", True)]


def test_with_purge_they_go(host, podman):
    assert orphans.remove(host, orphans.find(host), purge=True) == []
    assert podman.removed == ["hermes-user-gone", "hermes-user-gone-data"]


def test_one_who_got_a_runtime_meanwhile_keeps_it(host, podman, tmp_path):
    name = "bob"
    (bob,) = host.users.enrol([name], 100)
    host.users.forget(bob)
    os.mkdir(bob.directory(host.data_dir))
    before = orphans.find(host)
    assert ("directory", bob.id, True) in found(host)
    host.users.enrol([name], 100)
    orphans.remove(host, before, purge=True)
    assert os.path.isdir(bob.directory(host.data_dir))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory to another user")
def test_a_directory_is_removed_as_its_user(host, podman, tmp_path):
    path = tmp_path / "data/users/0123"
    (path / "deep/er").mkdir(parents=True)
    for each in (path, path / "deep", path / "deep/er"):
        os.chown(each, 700_123, 700_123)
    for above in (tmp_path, *tmp_path.parents):
        if above.stat().st_uid == os.geteuid() and above != above.parent:
            above.chmod(above.stat().st_mode | 0o011)
    orphans.remove(host, orphans.find(host), purge=True)
    assert not path.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="the directory has to be root's")
def test_what_is_root_s_is_left_to_a_person(host, podman, tmp_path):
    (tmp_path / "data/users/0123").mkdir()
    with pytest.raises(OpsError, match="belongs to root"):
        orphans.remove(host, orphans.find(host), purge=True)
    assert (tmp_path / "data/users/0123").exists()


COPIES = {
    "data/ops/backups/user-{}-20260101T000000Z.tar.gz": "archive",
    "data/ops/backups/user-{}-20260102T000000Z.tar.gz.partial": "archive",
    "data/ops/set-aside/user-{}-20260101T000000Z": "directory",
    "data/ops/set-aside/user-{}-20260101T000000Z-undone": "directory",
    "data/scratch/rehearsal.user-{}.x1": "directory",
}


def make_copies(top, identity):
    paths = {str(top / path.format(identity)): kind for path, kind in COPIES.items()}
    for path, kind in paths.items():
        os.makedirs(path if kind == "directory" else os.path.dirname(path), exist_ok=True)
        if kind == "archive":
            open(path, "w", encoding="utf-8").close()
    return paths


def test_copies_of_whom_nobody_knows_are_found_and_only_a_purge_removes_them(host, podman, tmp_path, monkeypatch):
    gone, ada = make_copies(tmp_path, "0" * 32), make_copies(tmp_path, host.users.get("ada").id)
    make_copies(tmp_path, "mine")
    monkeypatch.setattr(orphans, "_remove_directory", os.rmdir)
    monkeypatch.setattr(orphans, "_set_aside", lambda _host, each: each.name)
    found = [each for each in orphans.find(host) if each.kind != "volume" and each.data]
    assert {each.name: each.kind for each in found} == gone
    orphans.remove(host, found, purge=False)
    assert all(map(os.path.exists, gone))
    orphans.remove(host, found, purge=True)
    assert not any(map(os.path.exists, gone))
    assert all(map(os.path.exists, [*ada, *make_copies(tmp_path, "mine")]))
