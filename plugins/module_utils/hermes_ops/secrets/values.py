# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Secrets as text: what sources print, and the file of variables that systemd reads."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from ..description.checks import check_value, is_api_key
from ..description.schema import API_KEY_MINIMUM, ENV_NAME, OWNED_ENV
from ..system.errors import OpsError

# The most secrets of an agent, and the most bytes of one and of all. Linux takes no variable of more than 128 KiB
# (execve(2)), and a parameter of AWS has 8 KiB at most.
MOST, LARGEST, LARGEST_IN_ALL = 256, 65536, 2**20
# Variables that say what runs, where and with which libraries: a unit sets them, or nobody.
_OF_THE_UNIT = re.compile(r"(LD|XDG|DBUS|SYSTEMD)_\w+|PYTHON\w*|HOME|PATH|SHELL|USER|LOGNAME|IFS|BASH_ENV|ENV")
_OWN = frozenset({"HERMES_HOME", "HERMES_MANAGED_DIR", "HERMES_DISABLE_LAZY_INSTALLS", "NOTIFY_SOCKET"})
_LINE = re.compile(r"(?:export[ \t]+)?([^=\s]+)[ \t]*=(.*)", re.S)
# Within double quotes these are escaped (systemd.exec(5), EnvironmentFile=).
_SPECIAL = re.compile(r'[\\"$`]')
_ENTRY = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"\n', re.S)


def parse(text: str, where: str) -> dict[str, str]:
    """The secrets in *text*: a JSON object, or lines ``KEY=value``.

    In a line everything behind ``=`` is the value; a pair of quotes around it is taken away, and nothing in it is
    expanded. Empty lines, and those that begin with ``#``, are left out.

    :raises OpsError: *text* is neither; the message quotes no value
    """
    if len(text.encode("utf-8", "surrogatepass")) > LARGEST_IN_ALL:
        raise OpsError(f"gives more than {LARGEST_IN_ALL} bytes", where=where, fix="leave out what is no secret")
    if "\ufffd" in text:
        raise OpsError("gives something that is not UTF-8 text", where=where, fix="encode binary secrets as text")
    found = _from_json(text, where) if text.lstrip().startswith("{") else _from_lines(text, where)
    return check(found, where)


def _from_json(text: str, where: str) -> list[tuple[str, Any]]:
    try:
        found = json.loads(text, object_pairs_hook=list)
    except (ValueError, RecursionError) as error:
        # Its own message quotes nothing of the text; its position tells where to look.
        place = f" (line {error.lineno})" if isinstance(error, json.JSONDecodeError) else ""
        raise OpsError(f"gives JSON that cannot be read{place}", where=where, fix="print one JSON object") from None
    for name, value in found:
        if isinstance(value, (list, dict)) or value is None:
            raise OpsError("is not text", where=f"{where}: {name[:64]!r}", fix="print one object of names and texts")
    return [(name, value if isinstance(value, str) else json.dumps(value)) for name, value in found]


def _from_lines(text: str, where: str) -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    # Not splitlines(), which also breaks at characters that a value may hold.
    for number, line in enumerate(text.split("\n"), start=1):
        line = line.strip(" \t\r")
        if not line or line.startswith("#"):
            continue
        match = _LINE.fullmatch(line)
        if not match:
            raise OpsError(
                f"gives a line {number} that is not KEY=value", where=where, fix="print KEY=value lines, or JSON"
            )
        value = match[2].strip(" \t")
        if len(value) > 1 and value[0] == value[-1] and value[0] in "\"'":
            value = value[1:-1]
        found.append((match[1], value))
    return found


def check(found: Iterable[tuple[str, str]], where: str) -> dict[str, str]:
    """*found*, names and values, as a mapping.

    :raises OpsError: there are none or too many; a name is no name of a secret, or stands twice; a value is too long,
        or would not reach Hermes unchanged
    """
    values: dict[str, str] = {}
    for name, value in found:
        here = f"{where}: {name[:64]!r}"
        if not ENV_NAME.fullmatch(name):
            raise OpsError("is not the name of a variable", where=here, fix="use letters, digits and '_'")
        if name in OWNED_ENV:
            raise OpsError("has a place of its own", where=here, fix=f"declare {OWNED_ENV[name]} instead")
        if name in _OWN or _OF_THE_UNIT.fullmatch(name):
            raise OpsError("decides what the unit runs", where=here, fix="take it out of the source")
        if name in values:
            raise OpsError("stands there twice", where=here, fix="remove one of the two")
        if len(value.encode("utf-8", "surrogatepass")) > LARGEST:
            raise OpsError(f"has more than {LARGEST} bytes", where=here, fix="shorten it, or put it into a file")
        check_value(name, value, here)
        if name == "API_SERVER_KEY" and not is_api_key(value):
            raise OpsError(
                f"is shorter than {API_KEY_MINIMUM} characters or a placeholder: Hermes would not open the port",
                where=here,
                fix="store a real one (openssl rand -hex 32)",
            )
        values[name] = value
    if not values:
        raise OpsError("gives no secrets", where=where, fix="store at least one, or take secrets_from away")
    if len(values) > MOST:
        raise OpsError(
            f"gives {len(values)} secrets, more than {MOST}", where=where, fix="leave out what is not needed"
        )
    if sum(len(name) + len(value.encode()) for name, value in values.items()) > LARGEST_IN_ALL:
        raise OpsError(f"gives more than {LARGEST_IN_ALL} bytes", where=where, fix="leave out what is not needed")
    return values


def encode(values: Mapping[str, str]) -> str:
    """*values* as a file for ``EnvironmentFile=``, which systemd reads back unchanged."""
    return "".join('{}="{}"\n'.format(name, _SPECIAL.sub(r"\\\g<0>", value)) for name, value in sorted(values.items()))


def decode(text: str) -> dict[str, str]:
    """The variables in a file that :func:`encode` made."""
    return {name: re.sub(r"\\(.)", r"\1", value, flags=re.S) for name, value in _ENTRY.findall(text)}
