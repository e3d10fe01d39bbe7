# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Searches an agent's memories, the context that it was given, and its conversations."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ..system.errors import OpsError
from ..system.files import read_bytes
from ..system.text import number
from . import sessions, tell

# Below the agent's home.
DIRECTORIES = ("memories", tell.DIRECTORY)
# Bytes at the beginning of a file that are searched; Hermes' own memories have a few thousand characters.
MAX_BYTES = 4 * 1024 * 1024
# Files and levels of directories beyond these limits are not searched.
MAX_FILES = 10_000
MAX_DEPTH = 20
# Characters that are shown of a name from the database.
MAX_NAME = 100
# Characters shown before and after the first word that was found.
AROUND = 160

# An entry of Hermes' memory ends with a line that holds only § (0.18.2 and 0.19.0 tools/memory_tool.py); a paragraph of
# other text ends with a blank line.
_PARAGRAPH_END = re.compile(r"\n[ \t]*\n|\n§\n")


@dataclass(frozen=True)
class Found:
    """One place that holds all words.

    :param where: a file below the home with its line, or a conversation
    :param when: the time of the file's last change or of the message, in seconds since 1970
    :param text: the text around the first word, on one line
    """

    where: str
    when: float
    text: str


def words_of(query: str) -> list[str]:
    """The words of *query*; a phrase in double quotes is one word.

    :raises OpsError: when there is none
    """
    words = [" ".join((quoted or word).split()) for quoted, word in re.findall(r'"([^"]+)"|([^\s"]+)', query)]
    words = [word for word in words if word]
    if not words:
        raise OpsError("there is nothing to search for", fix="give a word")
    return words


def search(home: str, words: list[str], limit: int) -> dict[str, Any]:
    """In a worker: all places that hold all *words*.

    :returns: ``found``: a list of :class:`Found` as mappings; ``problem``: why the conversations could not be searched,
        None when they were
    """
    found = search_files(home, words, limit)
    try:
        found += search_sessions(home, words, limit)
    except OpsError as error:
        return {"found": [dataclasses.asdict(place) for place in found], "problem": str(error)}
    return {"found": [dataclasses.asdict(place) for place in found], "problem": None}


def checked(answer: Any) -> tuple[list[Found], str | None]:
    """The places and the problem in a worker's answer, see :func:`search`."""
    answer = answer if isinstance(answer, dict) else {}
    places = answer.get("found") if isinstance(answer.get("found"), list) else []
    found = [
        Found(str(place.get("where")), number(place.get("when")) or 0.0, str(place.get("text")))
        for place in places
        if isinstance(place, dict)
    ]
    problem = answer.get("problem")
    return found, problem if problem is None else str(problem)


def search_files(home: str, words: Sequence[str], limit: int) -> list[Found]:
    """In a worker: paragraphs of memories and context that hold all *words*, the newest files first."""
    found: list[Found] = []
    for changed, relative in sorted(_files(home), reverse=True):
        try:
            data = read_bytes(os.path.join(home, relative), MAX_BYTES)
        except OpsError:
            continue  # a pipe, or a file that the agent itself may not read
        text = (data or b"").decode("utf-8", "replace")
        for line, paragraph in _paragraphs(text):
            if _holds(paragraph, words):
                found.append(Found(f"{relative}:{line}", changed, excerpt(paragraph, words)))
            if len(found) == limit:
                return found
    return found


def search_sessions(home: str, words: Sequence[str], limit: int) -> list[Found]:
    """In a worker: the newest messages that hold all *words*.

    :raises OpsError: see :func:`sessions.reading`
    """
    return [
        Found(
            f"session {message.session[:MAX_NAME]} ({message.source[:MAX_NAME]}), {message.role[:MAX_NAME]}",
            message.when,
            excerpt(message.text, words),
        )
        for message in sessions.search(home, words, limit)
    ]


def excerpt(text: str, words: Sequence[str]) -> str:
    """The part of *text* around the first of *words* in it, on one line."""
    text = " ".join(text.split())
    places = [match.start() for word in words if (match := re.search(re.escape(word), text, re.I))]
    place = min(places, default=0)
    start, end = max(0, place - AROUND), place + AROUND
    return ("…" if start else "") + text[start:end] + ("…" if end < len(text) else "")


def _files(home: str) -> Iterator[tuple[float, str]]:
    """The text files of memories and context, with the time of their last change."""
    left = [os.path.join(home, top) for top in DIRECTORIES]
    known = 0
    while left and known < MAX_FILES:
        directory = left.pop()
        # The agent may remove files and directories at any moment.
        with contextlib.suppress(OSError), os.scandir(directory) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    if os.path.relpath(entry.path, home).count(os.sep) < MAX_DEPTH:
                        left.append(entry.path)
                elif entry.name.endswith(".md"):
                    known += 1
                    with contextlib.suppress(OSError):
                        yield entry.stat(follow_symlinks=False).st_mtime, os.path.relpath(entry.path, home)


def _paragraphs(text: str) -> Iterator[tuple[int, str]]:
    """Each paragraph with the number of its first line."""
    line, start = 1, 0
    for end in [*_PARAGRAPH_END.finditer(text), None]:
        paragraph = text[start : end.start() if end else len(text)]
        blank = len(paragraph) - len(paragraph.lstrip("\n"))
        if paragraph.strip():
            yield line + blank, paragraph
        if end:
            line += text.count("\n", start, end.end())
            start = end.end()


def _holds(text: str, words: Sequence[str]) -> bool:
    text = " ".join(text.split()).casefold()
    return all(word.casefold() in text for word in words)
