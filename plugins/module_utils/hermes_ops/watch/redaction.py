# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Remove known secrets from text, in whatever form they appear there.

Programs quote, escape, encode and wrap their output, often several times over, so a search for every form of every
secret is impossible. Instead, both the text and the secrets are reduced to letters and digits, with escapes undone. A
secret then reads the same in JSON within JSON, quoted for a shell, encoded twice for a URL, or broken over lines that
each begin with a time and a name. Only base64 and hexadecimal change the letters; these forms are searched for as
further secrets.

Secrets with an unknown value are left to :func:`redact_text`.
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

from ..description.hiding import redact_text
from ..system.plan import HIDDEN

__all__ = ["KnownSecrets", "redact_text"]

# Characters. Shorter secrets are not searched for: their letters occur in too many other words.
SHORTEST = 6
# A secret needs this many different characters: hiding `00000000` would spoil every text.
DIFFERENT = 4
# Letters, or digits if there are only digits, that identify a secret. One with fewer is searched for only as a separate
# word.
_ENOUGH, _ENOUGH_DIGITS = 8, 12
# Texts may be cut, so a long secret is also found by its parts: _PART letters long, starting at every _STEP-th letter.
_PART, _STEP = 16, 8
# A private value may be a sentence whose words occur elsewhere, so its parts are longer.
_PRIVATE_PART = 32
# For secrets beyond this length, forms that make them even longer are not searched for: base64 of base64, escapes of
# escapes.
_LONGEST = 256

_HEX = "[0-9a-fA-F]"
_BACKSLASH = r"(?:\\|%(?:25)*5[Cc])+"
# Excludes the percent-encoded backslash, which _BACKSLASH matches: with both, the time would be quadratic.
_PERCENT = rf"%(?!(?:25)*5[Cc])(?:25)*{_HEX}{{2}}"
_CODED = rf"{_BACKSLASH}(?:u{_HEX}{{4}}|U{_HEX}{{8}}|x{_HEX}{{2}}|[0-3][0-7]{{2}})|{_PERCENT}"
_UNIT = re.compile(
    rf"{_BACKSLASH}(?:[uU](?P<character>{_HEX}{{4,8}})|x(?P<hex>{_HEX}{{2}})|(?P<octal>[0-3][0-7]{{2}}))"
    rf"|%(?:25)*(?P<percent>{_HEX}{{2}})"
)
_SEMICOLON = "(?:;|%(?:25)*3[Bb])"
# Escaped several times, its ampersand is `&amp;amp;`.
_ENTITY = (
    rf"(?:&|%(?:25)*26)(?:amp{_SEMICOLON})*"
    rf"(?:amp|apos|gt|lt|nbsp|quot|(?:\#|%(?:25)*23)(?:\d{{1,6}}|x{_HEX}{{1,5}})){_SEMICOLON}"
)
_LETTERS = (
    rf"(?P<hidden>{re.escape(HIDDEN)})|(?P<word>[^\W_]+)|{_ENTITY}"
    rf"|(?P<coded>(?:(?!{_ENTITY})(?:{_CODED}))+)|{_BACKSLASH}[abefnrtv0]?"
)
# Line prefixes of the journal (short-iso and short), `kubectl logs` and `docker compose logs`.
_STAMP = r"(?:[A-Z][a-z]{2} +\d{1,2} [\d:]{8}|\d{4}-\d\d-\d\d[T ][\d:.,]{8,18}(?:Z|[+-]\d\d:?\d\d)?)"
_JOURNAL = rf"(?:\n|\\n)(?:{_STAMP} (?:\S{{1,255}} [^\s\[\]:]{{1,255}}(?:\[\d+\])?: )?|[\w.-]{{1,100}} +\| )"
# Line prefixes of Hermes' logs (0.19.0 hermes_logging.py, _LOG_FORMAT and _LOG_FORMAT_VERBOSE).
_LEVEL = r"(?:DEBUG|INFO|WARNING|ERROR|CRITICAL)(?: ?\[[^\]\n]{0,100}\])?"
_LOG = rf"(?:{_STAMP} )?(?:{_LEVEL} [\w.]{{1,100}}: |- [\w.]{{1,100}} - {_LEVEL} - )"
# A wrapped secret may continue after the prefix of a line. It is unknown which part is the prefix, so each text is read
# in every one of these ways.
_PREFIXES = (None, _JOURNAL, rf"(?:{_JOURNAL}|\n){_LOG}|{_JOURNAL}")
_READINGS = [
    (prefix and re.compile(prefix), re.compile(f"{prefix}|{_LETTERS}" if prefix else _LETTERS)) for prefix in _PREFIXES
]
_WORD = re.compile(r"[^\W_]*")
_WORD_BEFORE = 64


class Letters:
    """The letters and digits of a text, in lower case and with escapes undone, and the place of each in the text."""

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
        """The place in the text of the letters from *start* up to *end* (exclusive)."""
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
    # Joins surrogate pairs.
    text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return _lower("".join(filter(str.isalnum, text)))


def _text_of(data: bytes) -> str:
    """*data* as UTF-8. Bytes that are not UTF-8 become the character with that number: ``\\xe9`` is é in Python."""
    text = data.decode("utf-8", "surrogateescape")
    return re.sub("[\udc80-\udcff]", lambda byte: chr(ord(byte[0]) - 0xDC00), text)


class Words:
    """Finds words in texts. An agent chooses both, so one look takes as long for a thousand words as for ten."""

    def __init__(self, words: Iterable[str]) -> None:
        # HIDDEN itself is never a secret. Otherwise an agent could declare it one, and nothing could be shown any more.
        self._words = sorted({*words} - {"", HIDDEN})
        self._longest = max(map(len, self._words), default=0)
        # For each word, the place of the longest other one that it begins with; -1: there is none.
        self._shorter: list[int] = []
        open_: list[int] = []
        for place, word in enumerate(self._words):
            while open_ and not word.startswith(self._words[open_[-1]]):
                open_.pop()
            self._shorter.append(open_[-1] if open_ else -1)
            open_.append(place)
        heads = "".join(re.escape(head) for head in sorted({word[0] for word in self._words}))
        self._starts = re.compile(rf"(?P<hidden>{re.escape(HIDDEN)})" + (rf"|(?<!\w)[{heads}]" if heads else ""))

    def found(self, text: str) -> Iterator[tuple[int, int]]:
        """The places in *text* of the longest words that stand alone."""
        position = 0
        for found in self._starts.finditer(text):
            start = found.start()
            if start < position:
                continue
            if found["hidden"]:
                position = found.end()
                continue
            end = self._end(text, start)
            if end:
                position = end
                yield start, end

    def _end(self, text: str, start: int) -> int:
        """The end of the longest word that stands at *start*; 0 when none does."""
        rest = text[start : start + self._longest]
        # Every word that *rest* begins with is one that the word before *rest* begins with, or that word itself.
        place = bisect.bisect_right(self._words, rest) - 1
        while place >= 0:
            end = start + len(self._words[place])
            if rest.startswith(self._words[place]) and not re.match(r"\w", text[end : end + 1]):
                return end
            place = self._shorter[place]
        return 0


class KnownSecrets:
    """Secrets that must not leave the host.

    :param secrets: their plain values
    :param private: values that may be secret: hidden as a whole, and in longer parts than those of secrets
    """

    def __init__(self, secrets: Iterable[str], private: Iterable[str] = ()) -> None:
        self._heads: set[str] = set()
        self._needles: set[str] = set()
        words: set[str] = set()
        for values, part in ((secrets, _PART), (private, _PRIVATE_PART)):
            # HIDDEN is no part of a secret. Otherwise each part that was hidden could make up a new one.
            for value in {part for whole in values for each in parts_of(whole) for part in each.split(HIDDEN)}:
                if len(value) < SHORTEST or len(set(value)) < DIFFERENT:
                    continue
                if not self._add(Letters(value).text, part) or re.search(r"[\\%&]", value):
                    words |= _written(value[:_LONGEST])
                for form in _encoded(value):
                    self._add(form, part)
        self._lengths = sorted({len(needle) for needle in self._needles}, reverse=True)
        self._words = Words(words)

    def _add(self, letters: str, part: int) -> bool:
        """Search for *letters* from now on; returns False when they are too few to be unmistakable."""
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
        """The places of secrets in *text*, in order, each extended to whole words."""
        spans = set(self._words.found(text))
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


def _whole_words(text: str, start: int, end: int) -> tuple[int, int]:
    first = max(0, start - _WORD_BEFORE)
    while start > first and text[start - 1].isalnum():
        start -= 1
    word = _WORD.match(text, end, end + _WORD_BEFORE)
    return start, word.end() if word else end


def parts_of(value: str) -> Iterator[str]:
    """The parts of *value* to search for: the value and its lines; in a URL, only the parts that may be secret."""
    value = value.strip()
    if "://" in value and not re.search(r"\s", value):
        # An invalid URL cannot be split, so it is searched for as a whole.
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
    """The forms in which programs write *value*, for values that a search by letters may miss."""
    once = {value, json.dumps(value)[1:-1], json.dumps(value, ensure_ascii=False)[1:-1], quote(_bytes(value), safe="")}
    return once | {json.dumps(form)[1:-1] for form in once} | {quote(_bytes(form), safe="") for form in once}


def _encoded(value: str) -> Iterator[str]:
    """The letters of *value* in hexadecimal and in base64 (once and twice), alone or as part of a longer value."""
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
        # Drops the first and last characters that depend on the neighbouring bytes.
        yield encoded[(0, 2, 3)[before] : len(encoded) - ((before + len(data)) % 3 > 0)]


def _letters(encoded: str) -> str:
    return re.sub(r"[+/]", "", encoded).lower()


def _bytes(value: str) -> bytes:
    return value.encode("utf-8", "surrogatepass")
