# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The rules that keep agents' users from the metadata service."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.host import metadata, nftables
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.supervise import units


def test_rules_for_each_user_and_both_addresses():
    text = metadata.render([998, 997, 998])
    assert "meta skuid { 997, 998 } ip daddr 169.254.169.254 reject" in text
    assert "meta skuid { 997, 998 } ip6 daddr fd00:ec2::254 reject" in text
    assert "skuid" not in metadata.render([])


RANGES = (
    "root:100000:65536\n4242:165536:65536\n4243:200000:65536\n4244:300000:1\nnobody-here:1:9\n4242:0x1:2\n4243:7:0\n"
)


def test_a_user_does_not_get_there_with_the_numbers_of_its_containers():
    assert metadata.numbers([4242], RANGES) == [(4242, 4242), (165536, 231071)]
    # Overlapping ranges, which nft would refuse as a whole.
    assert metadata.numbers([4242, 4243], RANGES) == [(4242, 4242), (4243, 4243), (165536, 265535)]
    assert metadata.numbers([0], RANGES) == [(0, 0), (100000, 165535)]
    assert "meta skuid { 4242, 165536-231071 } ip daddr" in metadata.render([4242], RANGES)


@pytest.mark.parametrize("uids", [[], [1000], [1000, 1001], [4242, 4243]])
def test_nft_takes_them(uids, tmp_path):
    nft = shutil.which("nft", path="/usr/sbin:/usr/bin:/sbin")
    if not nft:
        pytest.skip("SKIPPED, NOT PROVED: that nft takes the rules, because there is none")
    rules = tmp_path / "rules"
    rules.write_text(metadata.render(uids, RANGES))
    done = subprocess.run(["unshare", "--net", nft, "--check", "--file", rules], capture_output=True, text=True)
    if done.returncode and "unshare" in done.stderr:
        pytest.skip("SKIPPED, NOT PROVED: that nft takes the rules, because we may make no network")
    assert done.returncode == 0, done.stderr


def test_the_sandbox_denies_the_same_addresses():
    assert units.SANDBOX["IPAddressDeny"].split() == [metadata.IPV4, metadata.IPV6]


class Manager:
    """systemd: the unit runs, and is older than nothing."""

    def __init__(self):
        self.calls = []

    def units(self, names):
        unit = SimpleNamespace(
            enabled=True,
            active="active",
            stale=False,
            dead=False,
            name=metadata.TABLE.unit,
            is_older_than=lambda _path: False,
        )
        return dict.fromkeys(names, unit)

    def call(self, *words, **_options):
        self.calls.append(words)


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.setattr(metadata, "TABLE", replace(metadata.TABLE, rules=str(tmp_path / "metadata.nft")))
    monkeypatch.setattr(metadata, "SUBORDINATE", str(tmp_path / "none"))
    monkeypatch.setattr(nftables, "UNIT_DIRECTORY", str(tmp_path))
    monkeypatch.setattr(nftables, "NFT", "/bin/true")
    return tmp_path


def test_another_agent_means_other_rules(place, monkeypatch):
    manager = Manager()
    monkeypatch.setattr(nftables.Table, "stands", lambda _table: True)
    first = metadata.plan_present([997], manager)
    assert first.changed
    first.apply()
    assert not metadata.plan_present([997], manager).changed
    metadata.plan_present([997, 998], manager).apply()
    assert ("restart", metadata.TABLE.unit) in manager.calls
    assert "997, 998" in Path(metadata.TABLE.rules).read_text()


def test_rules_that_somebody_flushed_come_back(place, monkeypatch):
    manager = Manager()
    monkeypatch.setattr(nftables.Table, "stands", lambda _table: True)
    metadata.plan_present([997], manager).apply()
    monkeypatch.setattr(nftables.Table, "stands", lambda _table: False)
    manager.calls.clear()
    metadata.plan_present([997], manager).apply()
    assert manager.calls == [("restart", metadata.TABLE.unit)]


def test_they_go_without_a_trace(place, monkeypatch):
    monkeypatch.setattr(nftables.Table, "stands", lambda _table: True)
    ran = []
    metadata.plan_present([997], Manager()).apply()
    files = sorted(place.iterdir())

    def run(words, **_options):
        # A run that is killed here is gone on with: the next one finds the files.
        assert sorted(place.iterdir()) == files
        ran.append(words)

    monkeypatch.setattr(nftables, "run", run)
    metadata.TABLE.plan_absent(Manager()).apply()
    assert ran == [["/bin/true", "delete", "table", "inet", "hermes_metadata"]]
    assert list(place.iterdir()) == []
    assert not metadata.TABLE.plan_absent(Manager()).changed
