# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""An agent's text is repeated without secrets, printable and short."""

from __future__ import annotations

import pytest
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.agent import quote
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.agent.quote import MAX, quoted
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.plan import HIDDEN
from hypothesis import given
from hypothesis import strategies as st

# Made up, and in pieces, so that no scanner takes them for real secrets.
SECRETS = [
    "7712345678:AAF-" + "secretsecretsecretsecretsecret123",
    "sk-" + "abcdefghijklmnopqrstuvwx",
    "xoxb-" + "1234567890-abcdefghij",
    "MTk4NjIyNDgzNDcxOTI1MjQ4" + ".GXabcd." + "abcdefghijklmnopqrstuvwxyz0",
    "0123456789abcdef" * 4,
    "Zm9vYmFyYmF6cXV4" + "Zm9vYmFyYmF6cXV4",
]


@pytest.mark.parametrize("secret", SECRETS)
@pytest.mark.parametrize(
    "text",
    [
        "The token `{}` was rejected by the server.",
        "GET https://api.example/v1/{}/getMe failed",
        "Bearer {}",
        'Headers: {{"Authorization": "{}"}}',
        "{}",
    ],
)
def test_a_token_is_not_repeated(secret, text):
    said = quoted(text.format(secret))
    assert secret not in said
    assert HIDDEN in said


def test_a_token_of_telegram_within_a_word():
    said = quoted(f"GET https://api.telegram.org/bot{SECRETS[0]}/getMe")
    assert said.startswith(f"GET https://api.telegram.org/bot{HIDDEN}")
    assert SECRETS[0][:12] not in said


@pytest.mark.parametrize(
    "text",
    [
        "password=short",
        "api_key: short",
        "https://somebody:short@example.org/",
        "-----BEGIN PRIVATE KEY-----\nshort\n-----END PRIVATE KEY-----",
        "-----BEGIN PRIVATE KEY-----\nshort, and cut off",
    ],
)
def test_what_its_name_calls_a_secret_is_not_repeated(text):
    assert "short" not in quoted(text)


@pytest.mark.parametrize(
    "text",
    [
        "failed to connect",
        "model claude-sonnet-4-20250514 not found (status 404)",
        "[Errno 98] error while attempting to bind on address ('127.0.0.1', 8642): address already in use",
        "/var/lib/hermes/agents/work/.hermes/config.yaml:12 is not YAML (expected ',' or ']')",
        "API_SERVER_KEY is a placeholder or too short",
    ],
)
def test_what_is_no_secret_stays(text):
    assert quoted(text) == text


def test_nothing_moves_the_cursor_and_nothing_is_long():
    said = quoted("\x1b]0;owned\x07\x1b[2J one\r\ntwo \u202e " + "word " * 1000)
    assert said.startswith("\\x1b]0;owned\\x07 one")
    assert not set(said) & set("\x1b\x07\r\n\u202e")
    assert len(said) == MAX


@pytest.mark.parametrize("value", [None, 1, [], {}, b"x"])
def test_what_is_no_text_says_nothing(value):
    assert quoted(value) == ""


@given(st.text())
def test_it_is_always_short_and_printable(text):
    said = quoted(text, 50)
    assert len(said) <= 50
    assert "\n" not in said


# Texts on which one of the patterns reads far before it fails, or starts at every position. With more than linear work
# these tests would take too long.
@pytest.mark.parametrize(
    "text",
    [
        "a" * 10**6,
        "a1A-" * 10**5,
        "-----BEGIN PRIVATE KEY-----" * 10**5,
        "Bearer " * 10**5,
        "Bearer" + " " * 10**6,
        "://" + "a" * 10**6,
        "://" * 10**5,
        "token" + " " * 10**6 + "=",
        "token=" * 10**5,
        "1" * 10**6 + ":",
        "a." * 10**5,
    ],
)
def test_the_patterns_take_no_longer_than_the_text(text, monkeypatch):
    # This holds for the whole text, not only for its beginning.
    monkeypatch.setattr(quote, "_LOOKED_AT", len(text))
    assert len(quoted(text)) <= MAX
