# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What sources print becomes variables, and the file of variables is read back unchanged."""

from __future__ import annotations

import json

import pytest
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.secrets import values
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.errors import OpsError
from hypothesis import given
from hypothesis import strategies as st

NAMES = st.from_regex(r"[A-Z]{1,8}_[a-z]{1,4}X", fullmatch=True)
TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\ufffd"), max_size=50)


def read_by_systemd(text: str) -> dict[str, str]:
    """The variables in *text* by the rules of systemd 252, src/basic/env-file.c, for names and values in quotes."""
    found, position = {}, 0
    while position < len(text):
        equals = text.index('="', position)
        name, position, value = text[position:equals], equals + 2, ""
        while text[position] != '"':
            if text[position] == "\\":
                position += 1
                # SHELL_NEED_ESCAPE; a line break would be dropped, anything else keeps its backslash.
                value += "" if text[position] in '"\\`$\n' else "\\"
                value += "" if text[position] == "\n" else text[position]
            else:
                value += text[position]
            position += 1
        assert text[position + 1] == "\n"
        found[name], position = value, position + 2
    return found


@given(st.dictionaries(NAMES, TEXTS))
def test_systemd_and_we_read_back_what_was_written(secrets):
    text = values.encode(secrets)
    assert values.decode(text) == secrets
    assert read_by_systemd(text) == secrets


@given(st.dictionaries(NAMES, TEXTS, min_size=1))
def test_json_keeps_every_character(secrets):
    assert values.parse(json.dumps(secrets), "it") == secrets


def test_lines():
    text = "# a comment\n\n A=1\nexport B = two words \nC='$HOME'\nD=\"x=y\"\r\nE=\nF='open\n"
    assert values.parse(text, "it") == {"A": "1", "B": "two words", "C": "$HOME", "D": "x=y", "E": "", "F": "'open"}


SECRET = "hunter2-and-more"


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "gives no secrets"),
        ("# nothing\n", "gives no secrets"),
        ("{}", "gives no secrets"),
        (f"{SECRET}\n", "line 1 that is not KEY=value"),
        (f"A=1\n{SECRET}", "line 2 that is not KEY=value"),
        (f'{{"A": "{SECRET}"', "JSON that cannot be read (line 1)"),
        (f'{{"A": ["{SECRET}"]}}', "is not text"),
        (f'{{"A": {{"B": "{SECRET}"}}}}', "is not text"),
        ('{"A": null}', "is not text"),
        (f'{{"A": "{SECRET}", "A": "2"}}', "stands there twice"),
        (f"A={SECRET}\nA=2", "stands there twice"),
        (f"A-B={SECRET}", "is not the name of a variable"),
        (f"PATH={SECRET}", "decides what the unit runs"),
        (f"LD_PRELOAD={SECRET}", "decides what the unit runs"),
        (f"PYTHONPATH={SECRET}", "decides what the unit runs"),
        (f"HERMES_HOME={SECRET}", "decides what the unit runs"),
        ("API_SERVER_PORT=1", "has a place of its own"),
        ("API_SERVER_KEY=short", "is shorter than 16 characters"),
        (f"MY_API_KEY={SECRET}é", "not ASCII"),
        (f'{{"A": "{SECRET}\\u0000"}}', "NUL"),
        (f"A={SECRET}\0", "NUL"),
        (f'{{"A": "{SECRET}\\ud800"}}', "lone surrogate"),
        (f"A={SECRET}\ufffd", "not UTF-8"),
        (f"A={SECRET * 5000}", "more than 65536 bytes"),
        ("\n".join(f"A{number}=1" for number in range(300)), "300 secrets, more than 256"),
        ("A=" + "x" * 2**20, "more than 1048576 bytes"),
        ("{" + '"A":{' * 100000, "JSON that cannot be read"),
    ],
)
def test_anything_else_is_one_error_that_quotes_no_value(text, what):
    with pytest.raises(OpsError) as caught:
        values.parse(text, "the source")
    assert what in str(caught.value)
    assert caught.value.fix
    assert "the source" in str(caught.value)
    assert SECRET not in str(caught.value)


def test_ordinary_names_that_look_like_those_of_a_unit():
    names = ("LDAP_PASSWORD", "HOMEASSISTANT_TOKEN", "ENVIRONMENT", "PATH_PREFIX", "USER_TOKEN", "HERMES_INFERENCE_KEY")
    assert values.parse("\n".join(f"{name}=x" for name in names), "it").keys() == set(names)
