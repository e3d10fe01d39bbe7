# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Checks the form of a worker's answer, which is not trusted: the worker ran as the agent's user."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Maybe:
    """A form that is either *form* or null."""

    form: Any


def fits(value: Any, form: Any) -> bool:
    """Whether *value*, a part of an answer, has the form *form*.

    :param form: a type; ``[form]``: a list whose elements have that form; ``{str: form}``: a mapping from any names to
        values of that form; ``{"a": form, …}``: a mapping with exactly these keys; ``(form, form)``: a list with
        exactly these elements; or a :class:`Maybe`
    """
    if isinstance(form, Maybe):
        return value is None or fits(value, form.form)
    if isinstance(form, type):
        return isinstance(value, form) and (form is object or not isinstance(value, bool))
    if isinstance(form, tuple):
        return isinstance(value, list) and len(value) == len(form) and all(map(fits, value, form))
    if isinstance(form, list):
        return isinstance(value, list) and all(fits(each, form[0]) for each in value)
    if not isinstance(value, dict):
        return False
    if set(form) == {str}:
        return all(fits(each, form[str]) for each in value.values())
    return value.keys() == form.keys() and all(fits(value[name], form[name]) for name in form)
