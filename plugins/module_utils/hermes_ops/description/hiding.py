# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Hides secrets: in values that are shown by their path, and in text that others wrote.

Every pattern has to run in linear time, as in :mod:`.secrets`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from ..system.plan import HIDDEN
from ..system.text import printable
from .secrets import (
    HOOK_URL,
    REFERENCE,
    TOKEN,
    URL,
    Path,
    is_no_word,
    may_be_secret,
    may_name_secret,
    names_secret,
    words_of,
)

# Colour codes and invisible characters.
_UNSEEN = re.compile("\x1b\\[[\\d;]*[A-Za-z]|[\u00ad\u200b\u2060\ufeff]")
_SPACE = r"(?:[ +]|%20)"
_PEM_BEGIN = re.compile(
    rf"-----BEGIN{_SPACE}(?:[A-Z0-9]{{1,20}}{_SPACE}){{0,3}}PRIVATE{_SPACE}KEY(?:{_SPACE}BLOCK)?-----"
)
_PEM_END = re.compile(rf"-----END{_SPACE}(?:[A-Z0-9]{{1,20}}{_SPACE}){{0,3}}PRIVATE{_SPACE}KEY(?:{_SPACE}BLOCK)?-----")
# Characters within which a key must end. If its end is missing, following lines that end in base64 count as part of it.
_PEM_LENGTH = 16384
_PEM_LINE = re.compile(
    r"[^\n]{0,200}?(?:[A-Za-z0-9+/]{16,}={0,2}|(?<![^\s:])[A-Za-z0-9+/]{1,16}={1,2})[^\S\n]*(?:\n|\Z)"
)
_AUTHORIZATION = re.compile(
    r"\b((?i:bearer)\s+(?!\$\{)[^\s\"'\\]{8,}|(?i:basic)\s+(?=[^\s\"']*[A-Z\d=])[A-Za-z\d+/]{8,}=*)"
)
# A name, perhaps in quotes, with the characters between it and its value.
_ASSIGNMENT = re.compile(
    r"(?<![\w.-])([\w.-]+)(?:\\*[\"'`]|%2[27])?\s*"
    r"(?:=>|[:=：＝]=?|%3[ADad]|\((?=\\*[\"'`])|(?<=[\"'`]),\s*b?(?=\\*[\"'`]))[^\S\n]*"
)
_ELEMENT = re.compile(r"<([\w:.-]{1,64})>(?=[^<\s])")
# A key of YAML whose value begins on the next line.
_BLOCK = re.compile(r"(?:^|(?<=\n))([ \t]*)(?:-[ \t]+)?[\"']?([\w.-]+)[\"']?:[ \t]*([|>][-+\d]*)?[ \t]*\n")
_ARGUMENT = re.compile(r"(?<![\w-])--?([A-Za-z][\w-]*)(?:\\*[\"'])?(?:\s*,\s*|\s+)(?:-\s+)?(?=[^\s-])")
_SAID = re.compile(
    r"\b((?:password|passphrase|token|secret|key) (?:is|was|provided|given|used)\b[:=]?\s*[\"'`]?)([^\s\"'`]+)", re.I
)
# curl -u me:X, sshpass -p X, mysql -pX, .netrc.
_WRITTEN = re.compile(
    r"((?<!\S)(?:(?:-u|--user)\s+[^\s:]{0,100}:|sshpass\s+-p\s*|mysql\w*\s+(?:-u\S{0,100}\s+)?-p"
    r"|login\s+\S{1,100}\s+password\s+))[^\s\"'`]+"
)
_QUERY_CODE = re.compile(r"([?&]code=)[^&\s\"'<>\\]+")
_QUOTE = re.compile(r"\\*[\"'`]|%2[27]")
# Text that may follow a closing quote. After anything else the value goes on: 'it''s', 'it'"'"'s'.
_AFTER_QUOTE = re.compile(r"\\*[\"'`]?(?:[\s,;:)\]}>&|<.]|\\+[nrt\"']|\Z)")
_WORD = re.compile(r"[^\s\"'`]+")
# Characters of a value or line that are examined.
_VALUE_LENGTH = 65536
_LINE_START = re.compile(r"(?:\A|\n)[ \t]*(?:-[ \t]+|export[ \t]+)?\Z")
# Placeholders that stand for no secret.
_NOTHING = re.compile(
    r"(?:null|none|nil|true|false|\*+|…|\$\{(?:env:)?\w+\})[,;)\]}.]*|\(secret\).*|[,;)\]}|>&]+", re.I
)
_HEADERS = ("authorization", "cookie")
_TOKEN_IN_TEXT = re.compile(rf"(?<![A-Za-z0-9])(?:{TOKEN})")
# Words of at least 40 characters that may be random; `_is_random` rules out checksums in lower-case hexadecimal.
_RANDOM = re.compile(r"(?<![\w+/.-])[\w+/-]{40,}={0,2}(?![\w+/.-])", re.A)


def shown(path: Path, value: Any, before: Any = None) -> Any:
    """*value*, a scalar or a tree, with every secret hidden, also within longer text."""
    if isinstance(value, dict):
        return {name: shown((*path, str(name)), part) for name, part in value.items()}
    if isinstance(value, list):
        return [
            shown((*path, number), part, before) for number, (before, part) in enumerate(zip([None, *value], value))
        ]
    if may_be_secret(path, value, before):
        return HIDDEN
    return without_secrets(value) if isinstance(value, str) else value


def redact_text(text: str, limit: int | None = None) -> str:
    """*text* from others, made safe to show, send and store: printable, bounded, without recognisable secrets.

    It does not know the host's secrets. A secret that neither its name nor its form gives away is not hidden.

    :param limit: maximum length of the result, in characters
    """
    text = printable(without_secrets(text))
    return text if limit is None or len(text) <= limit else text[: max(0, limit - 1)] + "…"


def named_values(text: str) -> Iterator[str]:
    """The values in *text* that :func:`redact_text` hides because of their name."""
    return (text[start:end].strip() for start, end in _named(text))


def without_secrets(text: str) -> str:
    """*text* without secrets, recognised by name, form or place in a URL; control characters stay."""
    text = _UNSEEN.sub("", text)
    text = "".join(_without_keys(text))
    text = URL.sub(_safe_url, text)
    text = _AUTHORIZATION.sub(lambda match: f"{match[0].split()[0]} {HIDDEN}", text)
    text = _QUERY_CODE.sub(rf"\1{HIDDEN}", text)
    text = "".join(_without_named(text))
    text = _WRITTEN.sub(rf"\1{HIDDEN}", text)
    text = _SAID.sub(lambda match: match[1] + HIDDEN if is_no_word(match[2].rstrip(".,;")) else match[0], text)
    text = _TOKEN_IN_TEXT.sub(HIDDEN, text)
    return _RANDOM.sub(lambda match: HIDDEN if _is_random(match[0]) else match[0], text)


def _without_keys(text: str) -> Iterator[str]:
    """The pieces of *text* without private keys, even if each line has a prefix or the end is missing."""
    position = 0
    while begin := _PEM_BEGIN.search(text, position):
        yield text[position : begin.start()]
        yield HIDDEN
        end = _PEM_END.search(text, begin.end(), begin.end() + _PEM_LENGTH)
        position = end.end() if end else begin.end()
        if end is None:
            rest_of_line = re.compile(r"\s*?\n").match(text, position)
            position = rest_of_line.end() if rest_of_line else position
            while line := _PEM_LINE.match(text, position):
                if line.end() == position:
                    break
                position = line.end()
    yield text[position:]


def _safe_url(match: re.Match[str]) -> str:
    """A URL without credentials; of a URL that is secret as a whole, only the prefix that may be shown."""
    rest = match[1].replace("\\", "")
    before, colon, after = rest.partition("/")[0].partition(":")
    place = after if "@" not in before else ""
    has_password = bool(colon) and not place.isdigit()
    end = rest.rfind("@") if has_password else rest.partition("/")[0].rfind("@")
    if end >= 0:
        user, rest = rest[:end], rest[end + 1 :]
        scheme = match.string[max(0, match.start() - 5) : match.start()].lower()
        plain = not has_password and not scheme.endswith(("http", "https"))
        rest = f"{user if plain or not REFERENCE.sub('', user).strip(':') else HIDDEN}@{rest}"
    hook = HOOK_URL.match(rest)
    if hook:
        return f"://{hook[0]}{HIDDEN}"
    return f"://{rest}" if end >= 0 else match[0]


def _without_named(text: str) -> Iterator[str]:
    """The pieces of *text* without the values whose name is that of a secret."""
    position = 0
    for start, end in sorted(_named(text)):
        if start >= position:
            yield text[position:start]
            yield HIDDEN
        position = max(position, end)
    yield text[position:]


def _named(text: str) -> Iterator[tuple[int, int]]:
    """Start and end of each value in *text* whose name is that of a secret."""
    yield from _blocks(text)
    for pattern in (_ASSIGNMENT, _ARGUMENT, _ELEMENT):
        taken = 0
        for found in pattern.finditer(text):
            # A name within the previous value does not count: that value is hidden as a whole.
            if found.end() < taken or not may_name_secret(found[1], HIDDEN):
                continue
            start, end = _value_at(text, found.end(), found if pattern is _ASSIGNMENT else None)
            if end > start and may_name_secret(found[1], text[start:end]):
                taken = end
                yield start, end


def _blocks(text: str) -> Iterator[tuple[int, int]]:
    """Start and end of each YAML value that begins on the line below its key."""
    for found in _BLOCK.finditer(text):
        if not names_secret(found[2]):
            continue
        end = found.end()
        while end < len(text):
            line = text[end : _end_of_line(text, end)]
            is_deeper = line.startswith(found[1]) and line[len(found[1]) :][:1] in (" ", "\t")
            # Without `|` or `>` the lines below the key may be a mapping or a list.
            if not is_deeper or (not found[3] and re.match(r"\s*(?:-\s|[\"']?[\w.-]+[\"']?:(?:\s|\Z))", line)):
                break
            end += len(line) + 1
        if end > found.end():
            yield found.end(), min(end, len(text)) - (text[end - 1 : end] == "\n")


def _value_at(text: str, start: int, name: re.Match[str] | None = None) -> tuple[int, int]:
    """Start and end of the value at *start*; both are equal when there is none.

    :param name: the match of an assignment. If it begins a line or names a header, its value is the rest of the line
    """
    quote = _QUOTE.match(text, start)
    if quote:
        start = quote.end()
        coded = quote[0].startswith("%")
        end = text.find(quote[0], start, _end_of_line(text, start)) if coded else _closing(text, start, quote[0])
        end = _end_of_line(text, start) if end < 0 else end
    else:
        word = _WORD.match(text, start)
        if not word or _NOTHING.fullmatch(word[0]):
            return start, start
        end = start + len(word[0].partition("</")[0].rstrip(",;)]}."))
        if name is not None and text.find("\n", name.end(1), start) < 0:
            is_header = words_of(name[1]).endswith(_HEADERS)
            whole_line = _LINE_START.search(text, max(0, name.start() - 40), name.start()) and names_secret(name[1])
            if is_header or whole_line:
                end = _end_of_line(text, start)
    value = text[start:end].strip()
    return (start, start) if not value or _NOTHING.fullmatch(value) else (start, end)


def _closing(text: str, start: int, quote: str) -> int:
    """The end of the quoted text at *start*; the end of the line when the quote is never closed."""
    end_of_line, depth = _end_of_line(text, start), len(quote) - 1
    position = text.find(quote[-1], start, end_of_line)
    while position >= 0:
        first = position
        while first > start and text[first - 1] == "\\":
            first -= 1
        if position - first <= depth and _AFTER_QUOTE.match(text, position + 1):
            return first
        position = text.find(quote[-1], position + 1, end_of_line)
    return end_of_line


def _end_of_line(text: str, start: int) -> int:
    end = text.find("\n", start, start + _VALUE_LENGTH)
    return min(len(text), start + _VALUE_LENGTH) if end < 0 else end


def _is_random(word: str) -> bool:
    """Whether *word* looks random: it is not a path, a name or a checksum."""
    digits = sum(character.isdigit() for character in word)
    upper = sum(character.isupper() for character in word)
    return (
        min(digits, upper, len(word) - digits - upper) >= 4 and not word.startswith("-") and not re.match("/.*/", word)
    )
