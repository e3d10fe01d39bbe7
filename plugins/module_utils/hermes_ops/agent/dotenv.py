# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reads and writes single keys of an agent's ``.env`` the way Hermes reads the file.

Hermes has two readers, which must agree on every line that we write (0.18.2 and 0.19.0, the same in both):

``load_hermes_dotenv`` (hermes_cli/env_loader.py)
    fills the environment at start. ``_sanitize_env_lines`` (hermes_cli/config.py) first rewrites the file line by
    line, then python-dotenv 1.2 parses it and expands ``${NAME}``, also within quotes. Both versions are locked to
    python-dotenv 1.2.2; its 1.2.4 reads some lines differently (:data:`GRAMMARS`).
``load_env`` (hermes_cli/config.py)
    a simple ``KEY=value`` reader behind ``get_env_value`` and the credential look-ups, which prefer it over the
    environment. It knows only the escapes ``\\`` and ``\"``, and expands nothing.

They agree on every line that we write, except for values that the second one cannot express: with a line break, with a
literal ``${``, or with a backslash at the end when quotes are needed for another reason. Both grammars of python-dotenv
read our lines alike.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from ..system.errors import OpsError
from ..system.files import read_text

FILE_NAME = ".env"
# Bytes of the largest file that is read.
LARGEST = 2**20

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")

# The grammar of python-dotenv 1.2 (dotenv/parser.py, dotenv/variables.py).
_MULTILINE_WHITESPACE = re.compile(r"\s*")
_WHITESPACE = re.compile(r"[^\S\r\n]*")
_EXPORT = re.compile(r"(?:export[^\S\r\n]+)?")
_QUOTED_KEY = re.compile(r"'([^']+)'")
_PLAIN_KEY = re.compile(r"([^=\#\s]+)")
_REST = re.compile(r"[^\r\n]*")
_INLINE_COMMENT = re.compile(r"\s+#.*")
_COMMENT = re.compile(r"(?:[^\S\r\n]*#[^\r\n]*)?")
_END_OF_LINE = re.compile(r"[^\S\r\n]*(?:\r\n|\n|\r|\Z)")
_BROKEN_LINE = re.compile(r"[^\r\n]*(?:\r\n|\n|\r)?")
_SINGLE_ESCAPES = re.compile(r"\\([\\'])")
_DOUBLE_ESCAPES = re.compile(r"\\([\\'\"abfnrtv])")
_ESCAPED = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}
_VARIABLE = re.compile(r"\$\{([^\}:]*)(?::-([^\}]*))?\}")


@dataclass(frozen=True)
class Grammar:
    """The differences between versions of python-dotenv (dotenv/parser.py).

    :param quoted: quote character -> pattern of a value in such quotes
    :param empty_before_comment: whether the value of ``KEY= # note`` is empty; otherwise it is ``# note``
    """

    quoted: Mapping[str, re.Pattern[str]]
    empty_before_comment: bool


GRAMMARS = {
    "1.2.2": Grammar(
        {"'": re.compile(r"'((?:\\'|[^'])*)'"), '"': re.compile(r'"((?:\\"|[^"])*)"')},
        empty_before_comment=False,
    ),
    # A backslash escapes any character, so a quote after an escaped backslash is not escaped.
    "1.2.4": Grammar(
        {"'": re.compile(r"'((?:\\.|[^'\\])*)'", re.S), '"': re.compile(r'"((?:\\.|[^"\\])*)"', re.S)},
        empty_before_comment=True,
    ),
}
_LOCKED, _NEWER = GRAMMARS.values()

# Values that need no quotes for both readers, a shell and systemd.
_PLAIN_VALUE = re.compile(r"[A-Za-z0-9_./:@%+,=-]*")
# `_sanitize_env_lines` cuts a line where a second known name is followed by `=`, unless white space precedes it in the
# value. A space after the first `=` prevents the cut, and both readers drop it.
_LOOKS_LIKE_ENTRY = re.compile(r"[A-Za-z0-9]*_[A-Za-z0-9_]*=")


@dataclass(frozen=True)
class Binding:
    """One ``KEY=value`` as python-dotenv sees it; offsets count characters of the file.

    :param raw: the value before ``${NAME}`` is expanded; None when there is no ``=``
    :param start: the beginning of the line, after blank lines
    :param value_start: the beginning of the value, including its opening quote
    :param value_end: the end of the value, including its closing quote
    :param end: the end of the line, including its line break
    :param certain: whether all :data:`GRAMMARS` read this value
    """

    name: str
    raw: str | None
    start: int
    value_start: int
    value_end: int
    end: int
    certain: bool = True

    @property
    def value(self) -> str | None:
        """The value that Hermes reads; None if that depends on another variable or the version of python-dotenv."""
        if self.raw is None or not self.certain or any(name for name, _default in _VARIABLE.findall(self.raw)):
            return None
        return _VARIABLE.sub(lambda match: match[2] or "", self.raw)


def _translated(text: str) -> str:
    # Both readers open the file in Python's text mode, which turns every line break into "\n".
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _value_at(text: str, position: int, grammar: Grammar) -> tuple[str, int] | None:
    """The raw value at *position*, and its end; None when a quote is never closed."""
    first = text[position : position + 1]
    if first in grammar.quoted:
        quoted = grammar.quoted[first].match(text, position)
        if quoted is None:
            return None
        escapes = _SINGLE_ESCAPES if first == "'" else _DOUBLE_ESCAPES
        decoded = escapes.sub(lambda match: _ESCAPED.get(match[1], match[1]), _translated(quoted[1]))
        return decoded, quoted.end()
    part = _REST.match(text, position)[0]
    value = _INLINE_COMMENT.sub("", part).rstrip()
    return value, position + len(value)


def _binding_at(text: str, position: int, grammar: Grammar = _LOCKED) -> tuple[Binding | None, int]:
    """The binding at *position*, and where the next line begins; the binding is None for a comment or a broken line."""
    start = _MULTILINE_WHITESPACE.match(text, position).end()
    key_start = _EXPORT.match(text, start).end()
    name, raw, cursor = None, None, key_start
    if text[key_start : key_start + 1] not in ("#", ""):
        key = (_QUOTED_KEY if text[key_start] == "'" else _PLAIN_KEY).match(text, key_start)
        if key is None:
            return None, _BROKEN_LINE.match(text, key_start).end()
        name, cursor = key[1], key.end()
    cursor = value_start = value_end = _WHITESPACE.match(text, cursor).end()
    if text[cursor : cursor + 1] == "=":
        value_start = _WHITESPACE.match(text, cursor + 1).end()
        comment = value_start > cursor + 1 and text[value_start : value_start + 1] == "#"
        is_empty = comment and grammar.empty_before_comment
        value = ("", value_start) if is_empty else _value_at(text, value_start, grammar)
        if value is None:
            return None, _BROKEN_LINE.match(text, value_start).end()
        raw, value_end = value
        cursor = value_end
    comment_end = _COMMENT.match(text, cursor).end()
    end = _END_OF_LINE.match(text, comment_end)
    if end is None:
        return None, _BROKEN_LINE.match(text, comment_end).end()
    if name is None:
        return None, end.end()
    return Binding(name, raw, start, value_start, value_end, end.end()), end.end()


def parse(text: str) -> Iterator[Binding]:
    """The bindings of a ``.env`` in their order; comments, blank and broken lines are skipped."""
    newer = {(binding.name, binding.raw) for binding in parse_by(_NEWER, text)}
    for binding in parse_by(_LOCKED, text):
        yield binding if (binding.name, binding.raw) in newer else replace(binding, certain=False)


def parse_by(grammar: Grammar, text: str) -> Iterator[Binding]:
    """Like :func:`parse`, for one version of python-dotenv."""
    position = 0
    while position < len(text):
        binding, position = _binding_at(text, position, grammar)
        if binding is not None:
            yield binding


def read(text: str) -> dict[str, str]:
    """The values that Hermes reads from a ``.env``, without keys whose :attr:`Binding.value` is not known."""
    values = {binding.name: binding.value for binding in parse(text)}
    return {name: value for name, value in values.items() if value is not None}


def read_env(path: str) -> dict[str, str]:
    """:func:`read` for a file; ``{}`` when it does not exist.

    :raises OpsError: when it is not UTF-8 text or cannot be read
    """
    return read(read_text(path, LARGEST) or "")


def check_name(name: str) -> None:
    """:raises OpsError: when *name* is not a valid name of an environment variable"""
    if not _NAME.fullmatch(name):
        raise OpsError(
            f"{name!r} is not the name of an environment variable",
            fix="use letters, digits and underscores, not beginning with a digit",
        )


def encode(name: str, value: str) -> str:
    """The line, without line break, from which Hermes reads *value*.

    The value is written plain if nothing in it is special, else in single quotes, else without quotes (if it ends with
    a backslash), else in double quotes with escapes. A literal ``${`` is written as ``${:-$}{``: a variable without a
    name, whose default is ``$``.
    """
    literal = value.replace("${", "${:-$}{")
    space = " " if _LOOKS_LIKE_ENTRY.search(literal) else ""
    bare = (
        literal == literal.strip() and literal[:1] not in ("'", '"') and not re.search(r"[\r\n]|\s#", space + literal)
    )
    if _PLAIN_VALUE.fullmatch(literal):
        shown = literal
    elif not re.search(r"['\\\r\n]", literal):
        shown = f"'{literal}'"
    elif bare and literal.endswith("\\"):
        # A backslash before a closing quote would escape the quote.
        shown = literal
    else:
        escaped = literal.replace("\\", "\\\\").replace('"', '\\"')
        escaped = escaped.replace("\n", "\\n").replace("\r", "\\r")
        if escaped.endswith("\\"):
            escaped += "${:-}"
        shown = f'"{escaped}"'
    return f"{name}={space}{shown}"


def edit(text: str, values: Mapping[str, str], removed: Iterable[str], path: str = FILE_NAME) -> str:
    """*text* with *values* set and the keys *removed* deleted; everything else stays byte for byte.

    A key is rewritten at its last occurrence, which is the one that Hermes reads; earlier ones are deleted. New keys
    are appended. If a broken line above would swallow them there (a quote that is never closed), they go to the top.

    :raises OpsError: when Hermes would not read the intended values from the result
    """
    gone = set(removed)
    for place in (_appended, _prepended):
        result = place(text, values, gone)
        if all(_is_right(grammar, text, result, values, gone) for grammar in GRAMMARS.values()):
            return result
    raise OpsError(
        "a quote in it is never closed, so keys cannot be changed without changing others",
        where=f"{path}:{_first_broken_line(text)}",
        fix="close the quote; the file was left as it is",
    )


def _is_right(grammar: Grammar, before: str, after: str, values: Mapping[str, str], gone: set[str]) -> bool:
    """Whether *after* holds *values*, none of the keys in *gone*, and all other bindings of *before*."""
    ours = {*values, *gone}

    def others(text: str) -> list[tuple[str, str | None]]:
        return [(binding.name, binding.raw) for binding in parse_by(grammar, text) if binding.name not in ours]

    found = {binding.name: binding.value for binding in parse_by(grammar, after)}
    ours_right = all(found.get(name) == value for name, value in values.items())
    return ours_right and not gone & found.keys() and others(after) == others(before)


def _first_broken_line(text: str) -> int:
    position = 0
    while position < len(text):
        start = _MULTILINE_WHITESPACE.match(text, position).end()
        binding, position = _binding_at(text, position)
        line = text[start:position].lstrip()
        if binding is None and line and not line.startswith("#"):
            return text.count("\n", 0, start) + 1
    return 1


def _without(text: str, names: set[str], last: Mapping[str, str]) -> tuple[str, list[str]]:
    """*text* without the keys *names*, and with the last occurrence of each key of *last* replaced.

    :returns: also the keys of *last* that were not found
    """
    bindings = [binding for binding in parse(text) if binding.name in names or binding.name in last]
    final = {binding.name: binding for binding in bindings if binding.name in last}
    pieces, position = [], 0
    for binding in bindings:
        pieces.append(text[position : binding.start])
        position = binding.end
        if final.get(binding.name) is not binding:
            continue
        line = encode(binding.name, last[binding.name])
        export = _EXPORT.match(text, binding.start)[0]
        rest = text[binding.value_end : binding.end]
        pieces.append(export + line + (rest.rstrip("\r\n") if "#" in rest else "") + _line_break(rest))
    pieces.append(text[position:])
    return "".join(pieces), [name for name in last if name not in final]


def _line_break(rest: str) -> str:
    return rest[len(rest.rstrip("\r\n")) :] or "\n"


def _appended(text: str, values: Mapping[str, str], gone: set[str]) -> str:
    kept, new = _without(text, gone, values)
    if new and kept and not kept.endswith(("\n", "\r")):
        kept += "\n"
    return kept + "".join(encode(name, values[name]) + "\n" for name in new)


def _prepended(text: str, values: Mapping[str, str], gone: set[str]) -> str:
    kept, _new = _without(text, {*gone, *values}, {})
    return "".join(encode(name, value) + "\n" for name, value in values.items()) + kept
