# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whatever lies in the place of gateway_state.json, it is read in bounded memory and says nothing harmful."""

from __future__ import annotations

import json
import os

import pytest
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.agent import state
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.files import Account
from hypothesis import given
from hypothesis import strategies as st

OWNER = Account.current()
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)


@pytest.mark.parametrize(
    "content", [b"", b"[1]", b"{", b"null", b"\xff", b"[" * 10**5, b'{"pid": ' + b"1" * 10**5 + b"}", b'{"pid": NaN}']
)
def test_what_says_nothing(content, tmp_path):
    (tmp_path / state.FILE_NAME).write_bytes(content)
    assert state.read_state(str(tmp_path), OWNER) == {}


def test_a_hole_of_600_megabytes_is_not_read(tmp_path, monkeypatch):
    with open(tmp_path / state.FILE_NAME, "wb") as stream:
        stream.truncate(600 * 2**20)
    wanted = []
    read_bytes = state.read_bytes
    monkeypatch.setattr(state, "read_bytes", lambda path, limit: wanted.append(limit) or read_bytes(path, limit))
    assert state.look(str(tmp_path)) is None
    assert all(0 < limit < 2**21 for limit in wanted)


def test_what_is_no_file(tmp_path):
    os.mkfifo(tmp_path / state.FILE_NAME)
    assert state.read_state(str(tmp_path), OWNER) == {}


def test_names_and_words_are_printable_and_without_secrets(tmp_path):
    token = "7712345678:AAF-" + "secretsecretsecretsecretsecret123"
    platform = {
        "state": "fatal\x1b[2J",
        "error_message": f"The token `{token}` was rejected\x1b]0;owned\x07",
        "more": 1,
    }
    said = {"pid": 7, "gateway_state": "\x1b[31mrunning", "platforms": {"tele\x1bgram": platform}}
    (tmp_path / state.FILE_NAME).write_text(json.dumps(said))
    found = state.read_state(str(tmp_path), OWNER)
    assert found["pid"] == 7
    assert token not in json.dumps(found)
    assert "\x1b" not in "".join(
        [*found["platforms"], found["gateway_state"], *found["platforms"]["tele\\x1bgram"].values()]
    )
    assert set(found["platforms"]["tele\\x1bgram"]) == {"state", "error_message"}


def test_a_million_names_are_cut_off():
    said = {
        "pid": 1,
        "platforms": {str(number): {} for number in range(10**5)},
        "served_profiles": ["x" * 10**6] * 10**5,
    }
    found = state.checked(said)
    assert len(found["platforms"]) == 100
    assert len(json.dumps(found)) < 100_000


@given(JSON, JSON)
def test_it_may_say_anything(value, other):
    for said in (value, dict.fromkeys(("pid", "platforms", "served_profiles", "gateway_state"), value)):
        found = state.checked(said)
        assert state.checked(found) == found
    state.checked({"platforms": {"x": value, "y": {"state": other}}, "served_profiles": [value, other]})
