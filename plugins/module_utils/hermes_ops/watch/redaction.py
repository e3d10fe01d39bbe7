# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Secrets that are known, taken out of text in whatever form they got there.

Programs quote, escape, encode and wrap what they print, one on top of the other. So a text is not searched for each
form of each secret. Both are reduced to their letters and digits, with escapes undone: a secret then reads the same
in JSON within JSON, quoted for a shell, encoded twice for a URL, or broken over lines that each begin with a time and
a name. Only base64 and hexadecimal make other letters of it, and are looked for as secrets of their own.

What has no value that is known is the business of :func:`redact_text`.
"""

from __future__ import annotations

import base64
import bisect
import contextlib
import itertools
import json
import re
from collections.abc import Iterable, Iterator
from urllib.parse import parse_qsl, quote, urlsplit

from ..description.secrets import redact_text
from ..system.plan import HIDDEN

__all__ = ["KnownSecrets", "redact_text"]

# Characters. A shorter secret is not looked for: its letters are in too many other words.
SHORTEST = 6
# Different characters that it has at least: no text would be left without `00000000`.
DIFFERENT = 4
# Letters and digits of a secret that are enough to be sure. With fewer of them it is looked for as a word by itself.
_ENOUGH, _ENOUGH_DIGITS = 8, 12
# Of a long secret parts are known, too: texts are cut. So many letters, from every so many on.
_PART, _STEP = 16, 8
# A value without the name of a secret may be a sentence, of which parts stand elsewhere.
_PRIVATE_PART = 32
# Of a longer one no form is looked for that makes it longer still: base64 of base64, escapes of escapes.
_LONGEST = 256

_HEX = "[0-9a-fA-F]"
_BACKSLASH = r"(?:\\|%(?:25)*5[Cc])+"
# No percent-encoded backslash, which is a part of the former: the time would grow with the square of their number.
_PERCENT = rf"%(?!(?:25)*5[Cc])(?:25)*{_HEX}{{2}}"
_CODED = rf"{_BACKSLASH}(?:u{_HEX}{{4}}|U{_HEX}{{8}}|x{_HEX}{{2}}|[0-3][0-7]{{2}})|{_PERCENT}"
_UNIT = re.compile(
    rf"{_BACKSLASH}(?:[uU](?P<character>{_HEX}{{4,8}})|x(?P<hex>{_HEX}{{2}})|(?P<octal>[0-3][0-7]{{2}}))"
    rf"|%(?:25)*(?P<percent>{_HEX}{{2}})"
)
_ENTITY = (
    rf"(?:&|%(?:25)*26)(?:amp|apos|gt|lt|nbsp|quot|(?:\#|%(?:25)*23)(?:\d{{1,6}}|x{_HEX}{{1,5}}))(?:;|%(?:25)*3[Bb])"
)
_LETTERS = (
    rf"(?P<hidden>{re.escape(HIDDEN)})|(?P<word>[^\W_]+)|{_ENTITY}|(?P<coded>(?:{_CODED})+)|{_BACKSLASH}[abefnrtv0]?"
)
# What the journal (short-iso and short), `kubectl logs` and `docker compose logs` put before a line.
_STAMP = r"(?:[A-Z][a-z]{2} +\d{1,2} [\d:]{8}|\d{4}-\d\d-\d\d[T ][\d:.,]{8,18}(?:Z|[+-]\d\d:?\d\d)?)"
_JOURNAL = rf"(?:\n|\\n)(?:{_STAMP} (?:\S{{1,255}} [^\s\[\]:]{{1,255}}(?:\[\d+\])?: )?|[\w.-]{{1,100}} +\| )"
# What Hermes puts before a line of its logs (0.19.0 hermes_logging.py, _LOG_FORMAT and _LOG_FORMAT_VERBOSE).
_LEVEL = r"(?:DEBUG|INFO|WARNING|ERROR|CRITICAL)(?: ?\[[^\]\n]{0,100}\])?"
_LOG = rf"(?:{_STAMP} )?(?:{_LEVEL} [\w.]{{1,100}}: |- [\w.]{{1,100}} - {_LEVEL} - )"
# A line may go on behind its prefix. Which of it is prefix, only its reader knows: a text is read in each way.
_PREFIXES = (None, _JOURNAL, rf"(?:{_JOURNAL}|\n){_LOG}|{_JOURNAL}")
_READINGS = [
    (prefix and re.compile(prefix), re.compile(f"{prefix}|{_LETTERS}" if prefix else _LETTERS)) for prefix in _PREFIXES
]
_WORD = re.compile(r"[^\W_]*")
_WORD_BEFORE = 64


class Letters:
    """The letters and digits of a text, in lower case, with escapes undone, and where each stands in it."""

    def __init__(self, text: str, reading: re.Pattern[str] = _READINGS[0][1]) -> None:
        pieces: list[str] = []
        self._starts: list[int] = []
        self._places: list[tuple[int, int, bool]] = []
        length = 0
        for found in reading.finditer(text):
            kind = found.lastgroup
            if kind is None:
                continue
            piece = _lower(found[0]) if kind == "word" else "\0" if kind == "hidden" else _decoded(found[0])
            if piece:
                pieces.append(piece)
                self._starts.append(length)
                self._places.append((found.start(), found.end(), kind == "word"))
                length += len(piece)
        self.text = "".join(pieces)

    def place(self, start: int, end: int) -> tuple[int, int]:
        """Where in the text the letters from *start* to before *end* stand."""
        first = bisect.bisect_right(self._starts, start) - 1
        last = bisect.bisect_right(self._starts, end - 1) - 1
        begin, _end, plain = self._places[first]
        last_begin, last_end, last_plain = self._places[last]
        return (
            begin + (start - self._starts[first] if plain else 0),
            last_begin + end - self._starts[last] if last_plain else last_end,
        )


def _lower(word: str) -> str:
    lower = word.lower()
    return lower if len(lower) == len(word) else word


def _decoded(coded: str) -> str:
    """The letters and digits that *coded* stands for: ``\\u00e9``, ``\\xc3\\xa9``, ``\\303\\251``, ``%C3%A9``."""
    characters = []
    for kind, units in itertools.groupby(_UNIT.finditer(coded), key=lambda unit: unit.lastgroup):
        numbers = [int(unit[kind], 8 if kind == "octal" else 16) for unit in units]
        if kind == "character":
            characters += [chr(min(number, 0x10FFFF)) for number in numbers]
        else:
            characters.append(_text_of(bytes(number & 0xFF for number in numbers)))
    text = "".join(characters)
    # Halves of surrogates belong together.
    text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return _lower("".join(filter(str.isalnum, text)))


def _text_of(data: bytes) -> str:
    """UTF-8, and what is none as Python writes it: ``\\xe9`` is é."""
    text = data.decode("utf-8", "surrogateescape")
    return re.sub("[\udc80-\udcff]", lambda byte: chr(ord(byte[0]) - 0xDC00), text)


class KnownSecrets:
    """Secrets that must not leave the host.

    :param secrets: their values, as they are
    :param private: values that may be secret: they are hidden as a whole, and in parts of more letters
    """

    def __init__(self, secrets: Iterable[str], private: Iterable[str] = ()) -> None:
        self._heads: set[str] = set()
        self._needles: set[str] = set()
        words: set[str] = set()
        for values, part in ((secrets, _PART), (private, _PRIVATE_PART)):
            for value in {each for whole in values for each in parts_of(whole)}:
                if len(value) < SHORTEST or len(set(value)) < DIFFERENT:
                    continue
                if not self._add(Letters(value).text, part) or re.search(r"[\\%&]", value):
                    words |= _written(value[:_LONGEST])
                for form in _encoded(value):
                    self._add(form, part)
        self._lengths = sorted({len(needle) for needle in self._needles}, reverse=True)
        # What is hidden already is no secret, although an agent may call it one: nothing could be shown any more.
        longest = sorted({*words, HIDDEN}, key=lambda word: (-len(word), word))
        self._words = re.compile("|".join(map(_alone, longest)))

    def _add(self, letters: str, part: int) -> bool:
        """Look for *letters*; False when they are too few."""
        if len(letters) < (_ENOUGH_DIGITS if letters.isdigit() else _ENOUGH) or len(set(letters)) < DIFFERENT:
            return False
        length = min(len(letters), part)
        last = len(letters) - length
        for start in {*range(0, last, _STEP), last}:
            needle = letters[start : start + length]
            if len(set(needle)) >= DIFFERENT:
                self._needles.add(needle)
                self._heads.add(needle[:_ENOUGH])
        return True

    def hide(self, text: str) -> str:
        """*text* without these secrets."""
        pieces, position = [], 0
        for start, end in self._found(text):
            if start >= position:
                pieces += [text[position:start], HIDDEN]
            position = max(position, end)
        return "".join([*pieces, text[position:]])

    def stand_in(self, text: str) -> bool:
        """Whether one of them is in *text*."""
        return bool(self._found(text))

    def _found(self, text: str) -> list[tuple[int, int]]:
        """Where they stand in *text*, with the rest of the words that they are in, in order."""
        spans = {found.span() for found in self._words.finditer(text) if not found["hidden"]}
        for prefix, reading in _READINGS:
            if prefix and not prefix.search(text):
                continue
            letters = Letters(text, reading)
            for start, end in self._in_letters(letters.text):
                spans.add(_whole_words(text, *letters.place(start, end)))
        return sorted(spans)

    def _in_letters(self, letters: str) -> Iterator[tuple[int, int]]:
        heads, needles = self._heads, self._needles
        for start in range(len(letters) - _ENOUGH + 1) if heads else ():
            if letters[start : start + _ENOUGH] in heads:
                for length in self._lengths:
                    if letters[start : start + length] in needles:
                        yield start, start + length
                        break


def _alone(word: str) -> str:
    escaped = re.escape(word)
    return f"(?P<hidden>{escaped})" if word == HIDDEN else rf"(?<!\w){escaped}(?!\w)"


def _whole_words(text: str, start: int, end: int) -> tuple[int, int]:
    first = max(0, start - _WORD_BEFORE)
    while start > first and text[start - 1].isalnum():
        start -= 1
    word = _WORD.match(text, end, end + _WORD_BEFORE)
    return start, word.end() if word else end


def parts_of(value: str) -> Iterator[str]:
    """What of *value* is looked for: all of it, and its lines; of a URL what makes it secret."""
    value = value.strip()
    if "://" in value and not re.search(r"\s", value):
        # One that is none after all has no parts.
        with contextlib.suppress(ValueError):
            url = urlsplit(value)
            yield url.password or url.username or ""
            yield from (part for part in url.path.split("/") if len(part) >= _PART or _is_no_word(part))
            yield from (part for _name, part in parse_qsl(url.query))
            yield url.fragment
            return
    yield value
    if "\n" in value:
        yield from (line.strip() for line in value.splitlines() if len(line.strip()) >= _ENOUGH)


def _is_no_word(part: str) -> bool:
    return len(part) >= _ENOUGH and any(character.isdigit() or character.isupper() for character in part)


def _written(value: str) -> set[str]:
    """*value* as programs write it, where it has too few letters to be known by them."""
    once = {value, json.dumps(value)[1:-1], json.dumps(value, ensure_ascii=False)[1:-1], quote(_bytes(value), safe="")}
    return once | {json.dumps(form)[1:-1] for form in once} | {quote(_bytes(form), safe="") for form in once}


def _encoded(value: str) -> Iterator[str]:
    """The letters of *value* in hexadecimal and in base64, alone or within something longer, once and twice."""
    data = _bytes(value)
    yield data.hex()
    for once in _base64(data):
        yield _letters(once)
        if len(data) <= _LONGEST:
            yield from map(_letters, _base64(once.encode()))
    yield from map(_letters, _base64(value.encode("utf-16-le", "surrogatepass")))


def _base64(data: bytes) -> Iterator[str]:
    for before in range(3):
        encoded = base64.b64encode(bytes(before) + data).decode().rstrip("=")
        # What stands before it has a part in the first characters, what follows it in the last.
        yield encoded[(0, 2, 3)[before] : len(encoded) - ((before + len(data)) % 3 > 0)]


def _letters(encoded: str) -> str:
    return re.sub(r"[+/]", "", encoded).lower()


def _bytes(value: str) -> bytes:
    return value.encode("utf-8", "surrogatepass")
