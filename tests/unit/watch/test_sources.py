# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Findings about sources of secrets and the wall before the metadata service."""

from __future__ import annotations

import base64
import json
from dataclasses import replace

import pytest
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.host import metadata, nftables
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.secrets import store
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.watch import sources

NOW = 1_795_000_000.0
GOOD = store.Status(source={"ssm": "/x"}, fetched=NOW - 30)
AWAY = replace(GOOD, failed=NOW - 10, what="ssm /x: cannot be reached", fix="see the network")


@pytest.fixture(autouse=True)
def directory(tmp_path, monkeypatch):
    monkeypatch.setattr(store, "DIRECTORY", str(tmp_path / "run"))
    monkeypatch.setattr(store, "_kind_of", lambda _path: "tmpfs")
    monkeypatch.setattr(sources.settings, "interval", lambda: 60)


def found(status, *, has=True):
    if has:
        store.keep("work", {"A_KEY": "hunter2-and-more"})
    store.write_status("work", status)
    findings = sources.source_findings("work", NOW)
    assert all(each.agent == "work" and each.fix and "hunter2" not in str(each) for each in findings)
    return [(each.cause, "failure" if each.failure else "warning", each.what) for each in findings]


def test_all_is_well():
    assert found(GOOD) == []


def test_none_since_the_boot():
    assert found(store.Status(), has=False) == [
        ("secrets_missing", "failure", "it has no secrets, so its gateway waits: not fetched yet")
    ]
    assert "cannot be reached" in found(replace(AWAY, fetched=0.0), has=False)[0][2]


@pytest.mark.parametrize(
    ("status", "severity"),
    [
        (AWAY, "warning"),
        (replace(AWAY, fetched=NOW - 599), "warning"),
        (replace(AWAY, fetched=NOW - 601), "failure"),
        # The job itself does not run any more, so that nothing says that it fails.
        (replace(GOOD, fetched=NOW - 601), "failure"),
    ],
)
def test_a_source_that_is_away(status, severity):
    ((cause, said, what),) = found(status)
    assert (cause, said) == ("secrets_stale", severity)
    assert "gone after a boot" in what


def test_a_long_interval_is_no_failure(monkeypatch):
    monkeypatch.setattr(sources.settings, "interval", lambda: 3600)
    assert found(replace(GOOD, fetched=NOW - 7200)) == []


def test_a_new_value_that_does_not_work():
    ((cause, said, what),) = found(replace(GOOD, changed=("A_KEY", "B"), unwell=NOW - 60))
    assert (cause, said) == ("secrets_unwell", "failure")
    assert "A_KEY, B" in what


def test_a_damaged_status(tmp_path):
    store.keep("work", {"A": "1"})
    (tmp_path / "run/work.json").write_text("{")
    assert [each.cause for each in sources.source_findings("work", NOW)] == ["secrets_unknown"]


def test_tokens_that_expire():
    payload = base64.urlsafe_b64encode(json.dumps({"exp": 5}).encode()).decode().rstrip("=")
    store.keep("work", {"A": f"e30.{payload}.x", "B": "no token"})
    assert sources.token_ends("work") == {"A": 5.0}
    assert sources.token_ends("other") == {}


@pytest.mark.parametrize(("declared", "stands", "open"), [(0, 0, 0), (1, 1, 0), (1, 0, 1)])
def test_the_wall(tmp_path, monkeypatch, declared, stands, open):
    rules = tmp_path / "metadata.nft"
    if declared:
        rules.touch()
    monkeypatch.setattr(metadata, "TABLE", replace(metadata.TABLE, rules=str(rules)))
    monkeypatch.setattr(nftables.Table, "stands", lambda _table: stands)
    assert [each.cause for each in sources.wall_findings()] == ["metadata_open"] * open
