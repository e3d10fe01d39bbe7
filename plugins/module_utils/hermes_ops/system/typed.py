# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Converts plain JSON into dataclasses, checking it, and back."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import re
import sys
from typing import Any, TypeVar

from .errors import OpsError

T = TypeVar("T")

# The types that a field may be annotated with -> the types that JSON may hold for it.
_TYPES: dict[str, tuple[type, ...]] = {
    "bool": (bool,),
    "int": (int,),
    "float": (int, float),
    "str": (str,),
    "list": (list,),
    "tuple": (list,),
    "dict": (dict,),
}
_UNITS = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


def parse(kind: type[T], values: Any, where: str) -> T:
    """An instance of the dataclass *kind* from *values*; fields that *values* does not name get their defaults.

    Fields are annotated ``bool``, ``int``, ``float``, ``str``, ``list[…]``, ``tuple[…]``, ``dict[…]``, one of these
    ``| None``, or another such dataclass, also ``| None``. Further checks belong in the ``__post_init__`` of the class.
    Text that spells a number or a bool is accepted for one, because Ansible before 2.19 turns the result of a template
    into text.

    :param where: the file or the variable, for errors
    :raises OpsError: an unknown key (names the nearest known one), a missing key, or a value of another type
    """
    if not isinstance(values, dict):
        raise OpsError("is not a mapping", where=where, fix="converge the host again")
    fields = {field.name: str(field.type) for field in dataclasses.fields(kind)}
    nested = {name: hint for name, hint in _hints(kind).items() if dataclasses.is_dataclass(hint)}
    checked: dict[str, Any] = {}
    for name, value in values.items():
        if name not in fields:
            import difflib

            near = difflib.get_close_matches(name, fields, 1) or sorted(fields)
            raise OpsError(f"{name!r} is not a setting", where=where, fix=f"did you mean {' or '.join(near)}?")
        if name in nested and not (value is None and "None" in fields[name]):
            checked[name] = parse(nested[name], value, f"{where}: {name}")
            continue
        wanted = fields[name].split("[")[0].split(" | ")[0]
        if isinstance(value, str) and wanted in ("bool", "int", "float"):
            with contextlib.suppress(ValueError):
                value = json.loads(value.lower())
        optional = value is None and "None" in fields[name]
        if not optional and (not isinstance(value, _TYPES[wanted]) or (isinstance(value, bool) and wanted != "bool")):
            raise OpsError(f"{name} is not of type {wanted}", where=where, fix=f"declare a {wanted}")
        if fields[name].startswith(("list[str", "tuple[str")) and not all(isinstance(each, str) for each in value):
            raise OpsError(f"{name} holds something other than text", where=where, fix="quote its elements")
        checked[name] = tuple(value) if wanted == "tuple" else value
    missing = [field.name for field in dataclasses.fields(kind) if _is_missing(field, checked)]
    if missing:
        raise OpsError(f"{missing[0]} is missing", where=where, fix="converge the host again")
    return kind(**checked)


def _hints(kind: type) -> dict[str, Any]:
    """Field -> type, where the annotation names a class of the module; else None.

    ``typing.get_type_hints`` cannot be used: Python 3.9 does not know ``str | None``.
    """
    names = vars(sys.modules[kind.__module__])
    return {field.name: names.get(str(field.type).removesuffix(" | None")) for field in dataclasses.fields(kind)}


def _is_missing(field: dataclasses.Field[Any], values: dict[str, Any]) -> bool:
    needed = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    return needed and field.name not in values


def plain(value: Any) -> Any:
    """The dataclass *value* in the types of JSON, for :func:`parse`."""
    if dataclasses.is_dataclass(value):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {name: plain(each) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(each) for each in value]
    return value


def size(text: str, where: str) -> int:
    """The number of bytes in a size such as ``512M`` or ``4G``, in systemd's notation.

    :raises OpsError: *text* is not a size
    """
    match = re.fullmatch(r"(\d+)([KMGT]?)", text)
    if not match:
        raise OpsError(f"{text!r} is not a size", where=where, fix="declare one such as 512M or 4G")
    return int(match[1]) * _UNITS.get(match[2], 1)
