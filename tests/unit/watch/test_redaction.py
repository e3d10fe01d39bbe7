# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Known secrets are hidden in text, however often it was quoted, escaped, encoded and wrapped."""

from __future__ import annotations

import base64
import html
import json
import re
import shlex
import time
from functools import reduce
from urllib.parse import quote, quote_plus

import pytest
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.plan import HIDDEN
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.watch.redaction import (
    DIFFERENT,
    SHORTEST,
    KnownSecrets,
    Letters,
    Words,
)
from hypothesis import assume, example, given
from hypothesis import strategies as st

SECRET = "q7Zp+aR/9xK&vL2\"mN4w'Yt8 é\\n%41"
# Changes of a text by programs that keep its letters.
ESCAPES = {
    "nothing": lambda text: text,
    "JSON": lambda text: json.dumps({"x": text}),
    "JSON, not only ASCII": lambda text: json.dumps([text], ensure_ascii=False),
    "JSON of others": lambda text: json.dumps(text).replace("/", "\\/"),
    "Python": repr,
    "bytes": lambda text: repr(text.encode("utf-8", "surrogatepass")),
    "URL": lambda text: quote(text.encode("utf-8", "surrogatepass"), safe=""),
    "URL, lower case": lambda text: re.sub("%..", lambda found: found[0].lower(), ESCAPES["URL"](text)),
    "form": lambda text: quote_plus(text.encode("utf-8", "surrogatepass")),
    "URL, every character": lambda text: "".join(f"%{byte:02X}" for byte in text.encode("utf-8", "surrogatepass")),
    "HTML": html.escape,
    "shell": shlex.quote,
    "octal": lambda text: "".join(f"\\{byte:03o}" for byte in text.encode("utf-8", "surrogatepass")),
    "hexadecimal escapes": lambda text: "".join(f"\\x{byte:02x}" for byte in text.encode("utf-8", "surrogatepass")),
}
# Encodings by programs that change its letters.
CODES = {
    "nothing": lambda text: text,
    "base64": lambda text: base64.b64encode(text.encode()).decode(),
    "base64 behind something": lambda text: base64.b64encode(b"user:" + text.encode() + b"!").decode(),
    "base64 for URLs": lambda text: base64.urlsafe_b64encode(b"u" + text.encode()).decode(),
    "base64 in lines": lambda text: base64.encodebytes(b"x" * 50 + text.encode()).decode(),
    "base64 of base64": lambda text: base64.b64encode(base64.b64encode(text.encode())).decode(),
    "base64 of UTF-16": lambda text: base64.b64encode(text.encode("utf-16-le")).decode(),
    "hexadecimal": lambda text: text.encode().hex(),
    "hexadecimal, apart": lambda text: text.encode().hex(":"),
    "capitals": str.upper,
}
STAMPED = "2026-11-21T00:00:00+0000 box hermes[1]: "
LOGGED = "2026-11-21 00:00:00,123 INFO [s-1] gateway.run: "


@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("first", ESCAPES)
@pytest.mark.parametrize("second", ["nothing", "JSON", "URL", "JSON of others"])
def test_every_form_is_hidden(code, first, second):
    written = ESCAPES[second](ESCAPES[first](CODES[code](SECRET)))
    hidden = KnownSecrets([SECRET]).hide(f"log {written} end")
    assert HIDDEN in hidden
    for part in ("q7Zp", "9xK", "mN4w", "cTdacC", "71375a70", "Q7ZP"):
        assert part not in hidden
    assert hidden.startswith("log ")
    assert hidden.endswith(" end")


@pytest.mark.parametrize(
    "between",
    [
        "\n",
        "\n    ",
        f"\n{STAMPED}",
        f"\n{STAMPED}{LOGGED}",
        f"\n{LOGGED}",
        "\nNov 21 00:00:00 box hermes-gateway[12]: ",
        "\n2026-11-21T00:00:00.123456Z ",
        "\nhermes-1  | ",
        "\nERROR gateway.run: ",
        "\\n",
        " \\\n> ",
    ],
)
@pytest.mark.parametrize("at", [3, 9, 17])
def test_a_secret_that_is_broken_over_lines_is_hidden(between, at):
    hidden = KnownSecrets([SECRET]).hide(f"{STAMPED}x {SECRET[:at]}{between}{SECRET[at:]} y\n{STAMPED}z\n")
    assert hidden == f"{STAMPED}x {HIDDEN} y\n{STAMPED}z\n"


def test_parts_of_a_long_secret_are_hidden():
    known = KnownSecrets(["abcdefghijklmnopqrstuvwxyz0123456789ABCDEFGHIJ"])
    assert known.hide("cut: abcdefghijklmnopqrstuvwxyz0…") == f"cut: {HIDDEN}…"
    assert known.hide("…lmnopqrstuvwxyz0123456789ABCDEFGHIJ") == f"…{HIDDEN}"


def test_words_that_are_part_of_a_private_value_stay():
    """Text without the name of a secret may be a sentence."""
    sentence = "please answer in German whenever the user asks for something"
    known = KnownSecrets([], [sentence])
    assert known.hide(f"x {sentence} y") == f"x {HIDDEN} y"
    assert known.hide("answer in German") == "answer in German"


def test_of_a_url_only_what_makes_it_secret_is_hidden():
    known = KnownSecrets(["https://me:hunter2hunter2@example.org/api/v1?key=abcdefgh12"])
    assert known.hide("https://example.org/api/v1 answered") == "https://example.org/api/v1 answered"
    assert known.hide("hunter2hunter2, abcdefgh12") == f"{HIDDEN}, {HIDDEN}"


@pytest.mark.parametrize("value", ["", "e", "12345", "aaaaaaaaaaaaaaaa", "--------", "0" * 40])
def test_what_would_leave_nothing_of_a_text_is_no_secret(value):
    text = "2026-11-21 hermes 12345 ---------------- aaaaaaaaaaaaaaaa " + "0" * 40
    assert KnownSecrets([value]).hide(text) == text


def test_a_number_is_one_by_itself_only():
    known = KnownSecrets(["20261121"])
    assert known.hide("2026-11-21 20261121 120261121") == f"2026-11-21 {HIDDEN} 120261121"


@pytest.mark.parametrize("value", ["secret", "(secret)", "(secret", "secret)", "=(secret", "(secret)(secret)"])
def test_an_agent_that_calls_our_own_mark_a_secret_hides_nothing_more(value):
    """Otherwise one line of its .env would remove every part from every bundle."""
    known = KnownSecrets([value, "hunter2-and-more"])
    for text in ("password=hunter2-and-more", f"a={HIDDEN}{HIDDEN} b={HIDDEN}", f"what is {value} is hidden"):
        hidden = known.hide(known.hide(text))
        assert HIDDEN in hidden
        assert not known.stand_in(hidden)
    assert known.hide("(secret)s and secrets") == "(secret)s and secrets"


def test_nothing_known_hides_nothing():
    assert KnownSecrets([]).hide("some text") == "some text"
    assert not KnownSecrets([""]).stand_in("some text")


text = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
# Escaping every single character of an escaped text is the one case that is not undone.
EVERY = {"URL, every character", "octal", "hexadecimal escapes"}
chains = st.tuples(
    st.sampled_from(sorted(ESCAPES)), st.lists(st.sampled_from(sorted(ESCAPES.keys() - EVERY)), max_size=2)
).map(lambda chain: [chain[0], *chain[1]])


@given(value=text, before=text, after=text, chain=chains)
@example(value="a%41bcdefgh", before="", after="", chain=["URL", "URL"])
@example(value="(secret", before="(secret)", after="secret", chain=["JSON"])
@example(value="00000000000001\x80²¹", before="", after="", chain=["Python", "URL"])
@example(value="p\\alpha\\x41beta", before="\\", after="", chain=["JSON", "JSON"])
@example(value="000000\u00b2'00000001\u00b9", before="", after="", chain=["HTML", "URL"])
@example(value="000000000000012<\u00b9", before="", after="", chain=["HTML", "HTML"])
@example(value="000000000000012'\u00b9", before="", after="", chain=["HTML", "HTML", "HTML"])
def test_any_secret_is_hidden_whatever_was_done_to_it(value, before, after, chain):
    """A blank separates the secret from the surrounding text, whose letters could change the escapes at its ends."""
    assume(len(value.strip()) >= SHORTEST and len(set(value.strip())) >= DIFFERENT)
    assume("://" not in value)
    known = KnownSecrets([value])
    written = reduce(lambda done, name: ESCAPES[name](done), chain, f"{before} {value} {after}")
    hidden = known.hide(written)
    assert not known.stand_in(hidden)
    letters = Letters(value).text
    if len(letters) >= 16 and len(set(letters[-16:])) >= DIFFERENT:
        assert HIDDEN in hidden


@given(st.text(max_size=200))
def test_any_text_comes_back(said):
    assert KnownSecrets(["some-other-secret-1"]).hide(said) == said


@pytest.mark.parametrize(
    "part", ["\\", "%25", "%5C", "%5Cu", "\\u0041", "&#", "\n", "a", "é", "\na | ", "\nNov 1 00:00:00 "]
)
def test_the_time_it_takes_grows_with_the_text_only(part):
    known = KnownSecrets([SECRET, "some-other-secret-1"])
    assert known.hide(part * (200_000 // len(part)) + f"\n {SECRET}").endswith(HIDDEN)


ALIKE = "\\%&ab"


@pytest.mark.parametrize(
    "words", [[ALIKE * 25 + str(n) for n in range(450)], ["\\" * n + "abcdef" for n in range(1, 250)]]
)
def test_many_secrets_that_are_alike_take_no_longer(words):
    """An agent chooses its secrets and its log, and root reads both."""
    known = KnownSecrets(words)
    text = f"{words[-1][:-1]} " * (100_000 // len(words[-1]))
    began = time.monotonic()
    known.hide(text)
    assert time.monotonic() - began < 10


def test_of_words_the_longest_that_stands_alone_counts():
    words = Words(["a-b", "a-b-c", "-b", "a-", "x"])
    text = "a-b-cd a-b-c -b xx x xa-b é-b a-!"
    assert [text[start:end] for start, end in words.found(text)] == ["a-b", "a-b-c", "-b", "x", "a-"]
    assert list(Words([]).found("anything")) == []
