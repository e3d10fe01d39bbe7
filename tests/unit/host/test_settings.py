# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Settings of a job: known keys, of the right type."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.host import settings
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.errors import OpsError


@dataclass(frozen=True)
class Some:
    number: int = 1
    share: float = 0.5
    on: bool = False
    text: str = ""
    maybe: str | None = None
    names: list[str] = field(default_factory=list)
    words: tuple[str, ...] = ()


@dataclass(frozen=True)
class Outer:
    some: Some
    more: int = 1


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, Some()),
        (
            {"number": 2, "share": 3, "on": True, "text": "7", "maybe": None, "names": ["a"]},
            Some(2, 3, True, "7", None, ["a"]),
        ),
        # The types that Ansible 2.17 makes of a template.
        ({"number": "2", "share": "2.5", "on": "True"}, Some(2, 2.5, True)),
    ],
)
def test_good_ones(values, expected):
    assert settings.parse(Some, values, "here") == expected


def test_one_within_another():
    assert settings.parse(Outer, {"some": {"number": 2, "words": ["a"]}}, "here") == Outer(Some(2, words=("a",)))


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({}, "here: some is missing"),
        ({"some": {"nmber": 1}}, "here: some: 'nmber' is not a setting"),
        ({"some": []}, "here: some: is not a mapping"),
        ({"some": {"words": "a"}}, "here: some: words is not of type tuple"),
    ],
)
def test_bad_ones_within_another(values, said):
    with pytest.raises(OpsError) as caught:
        settings.parse(Outer, values, "here")
    assert str(caught.value).startswith(said)


@pytest.mark.parametrize(
    "values",
    [
        *([], {"nmber": 1}, {"number": "two"}, {"number": True}, {"number": "true"}, {"number": 1.5}, {"on": 1}),
        *({"on": "1"}, {"share": "nan"}, {"text": 7}, {"text": None}, {"names": "a"}),
    ],
)
def test_bad_ones(values):
    with pytest.raises(OpsError) as caught:
        settings.parse(Some, values, "here")
    assert str(caught.value).startswith("here: ")
    assert caught.value.fix
