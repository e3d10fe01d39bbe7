# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Imports skills, or the home of an OpenClaw agent, into an agent's home. Existing files are not overwritten.

The targets are those of Hermes' own migration (its optional skill openclaw-migration, which the wheels of 0.18.2 and
0.19.0 lack): skills without a category go to ``skills/openclaw-imports/``, the persona to SOUL.md, and as many entries
of MEMORY.md and USER.md as Hermes keeps to ``memories/``. In addition, every text goes unchanged to
``context/openclaw/``.
"""

from __future__ import annotations

import ast
import contextlib
import glob
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ..description.schema import MEMORY_LIMITS
from ..system.answer import fits
from ..system.errors import OpsError
from ..system.files import Account, failure, read_bytes, read_text, write_atomic
from ..system.text import one_line, printable
from ..system.walk import walk
from ..system.worker import Limits, work
from .parcel import LARGEST_FILE, LEFT_OUT, SKILL_FILE, TEXT_SUFFIX, Parcel, parents
from .tell import DIRECTORY as CONTEXT

# The categories for skills without one.
CATEGORY = "imported"
OPENCLAW_CATEGORY = "openclaw-imports"
OPENCLAW_CONTEXT = f"{CONTEXT}/openclaw"
# Directories of an OpenClaw home that may hold its texts, now or in older versions; "" if the source is the workspace.
WORKSPACES = ("workspace", "workspace-main", "workspace.default", "")
OPENCLAW_SETTINGS = ("openclaw.json", "clawdbot.json", "moltbot.json")
PERSONA = ("SOUL.md", "IDENTITY.md")
MEMORIES = {"MEMORY.md": "memories/MEMORY.md", "USER.md": "memories/USER.md"}
# 0.18.2 and 0.19.0 tools/memory_tool.py.
ENTRY_DELIMITER = "\n§\n"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
# Characters at the beginning of a SKILL.md in which its name is searched.
_HEAD = 4000
_LIMITS = Limits(seconds=300, memory=2**30, answer=16 * 2**20)
# Limits for the agent's home: levels of directories, number of files, bytes of an existing text that are read.
_DEPTH = 32
_ENTRIES = 100_000
_LARGEST_TEXT = 2**20
# Ending of the temporary directory, next to the target, into which a skill is copied.
_UNFINISHED = ".hermes-ops"
# Why these entries of an OpenClaw home are not imported.
_LEFT = {
    **dict.fromkeys(OPENCLAW_SETTINGS, "settings: declare those that you need in hermes_agents"),
    ".env": "secrets: declare them in hermes_agents, under secrets",
    "credentials": "secrets: declare them in hermes_agents, under secrets",
    "cron": "jobs: create them again with: hermes cron create",
}


STATUSES = ("ported", "there already", "conflict", "refused", "left")


@dataclass(frozen=True)
class Item:
    """The decision about one entry of the source.

    :param status: one of :data:`STATUSES`
    :param source: its path below the source directory
    :param target: its path below the agent's home
    :param action: the function that imports it; only if the status is ``ported``
    """

    status: str
    source: str
    target: str = ""
    note: str = ""
    action: Callable[[], None] | None = None

    def __str__(self) -> str:
        arrow = f" -> {self.target}" if self.target else ""
        return one_line(f"{self.status:13}  {self.source}{arrow}{f': {self.note}' if self.note else ''}")

    @property
    def failed(self) -> bool:
        return self.status in ("conflict", "refused")


# As root


def port(
    name: str, index: Mapping[str, Any], descriptor: int, home: str, account: Account, *, soul: str | None, check: bool
) -> list[Item]:
    """Import a parcel into an agent's home; with *check*, only say what would be done.

    :param name: this, *index* and *descriptor* are the arguments of :class:`Parcel`
    :param soul: the default SOUL.md of Hermes, which may be replaced because it is nobody's work
    :raises OpsError: when the home cannot be read or written; items that were ported before the error stay
    """
    arguments = (home, name, index, descriptor, soul, check)
    items = work(account, "agent.transfer:unpack", *arguments, limits=_LIMITS, descriptors=(descriptor,), where=home)
    if not fits(items, [(str, str, str, str)]) or not {status for status, *_rest in items} <= {*STATUSES}:
        raise OpsError(
            "the worker that read it gave a malformed answer", where=home, fix="see what the agent left there"
        )
    return [Item(*fields) for fields in items]


def default_soul(root: str) -> str | None:
    """The default SOUL.md of the current release (0.18.2 and 0.19.0 hermes_cli/default_soul.py); None when unknown."""
    for path in glob.glob(f"{glob.escape(root)}/current/lib/python3*/site-packages/hermes_cli/default_soul.py"):
        for node in ast.walk(ast.parse(read_text(path) or "")):
            if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "DEFAULT_SOUL_MD":
                return ast.literal_eval(node.value)
    return None


# As the agent's user


def unpack(
    home: str, name: str, index: Mapping[str, Any], descriptor: int, soul: str | None, check: bool
) -> list[tuple[str, str, str, str]]:
    """The part of :func:`port` that runs in the worker; returns the fields of each item."""
    items = plan(Parcel(name, index, descriptor), home, soul)
    for item in items if not check else ():
        if item.action:
            try:
                item.action()
            except OSError as error:
                raise failure("written", item.target, error) from None
    return [(item.status, item.source, item.target, item.note) for item in items]


def plan(source: Parcel, home: str, default_soul: str | None) -> list[Item]:
    """Decide about every entry of *source*; nothing is changed.

    :raises OpsError: when the agent's home cannot be read, or *source* holds nothing to import
    """
    known = (*PERSONA, *MEMORIES)
    workspace = next(
        (place for place in WORKSPACES if any(_join(place, name) in source.entries for name in known)),
        None,
    )
    openclaw = workspace is not None or any(name in source.entries for name in OPENCLAW_SETTINGS)
    places = (
        [_join(workspace or "", "skills"), "skills"] if openclaw else ["skills" if "skills" in source.entries else ""]
    )
    items = list(_plan_skills(source, dict.fromkeys(places), home, OPENCLAW_CATEGORY if openclaw else CATEGORY))
    if workspace is not None:
        items += _plan_persona(source, workspace, home, default_soul)
        items += _plan_memories(source, workspace, home)
        items += _plan_texts(source, workspace, home)
    if not items:
        raise OpsError(
            f"there is nothing to port in {source.name!r}",
            fix="name a directory with skills (…/SKILL.md), or the home of an OpenClaw agent",
        )
    return items + list(_left(source, workspace, places, items))


# Skills


def _plan_skills(source: Parcel, places: Iterable[str], home: str, category: str) -> Iterator[Item]:
    present = dict(_present_skills(os.path.join(home, "skills")))
    for place in places:
        for directory in _skills_in(source, place):
            rest = os.path.relpath(directory or ".", place or ".")
            parts = [source.name] if rest == "." else rest.split("/")
            target = "/".join(["skills", *(parts if len(parts) > 1 else [category, *parts])])
            item = _plan_skill(source, directory, target, present, home)
            if item.status == "ported":
                present[parts[-1]] = present[_name(source.read(_join(directory, SKILL_FILE)), parts[-1])] = target
            yield item


def _skills_in(source: Parcel, place: str) -> list[str]:
    """The directories below *place* that are a skill; a skill within another one is part of that one."""
    found: set[str] = set()
    if not source.is_directory(place):
        return []
    for path in sorted(source.below(place), key=lambda path: path.count("/")):
        if path.rpartition("/")[2] == SKILL_FILE and found.isdisjoint(parents(path)):
            found.add(path.rpartition("/")[0])
    return sorted(found)


def _plan_skill(source: Parcel, directory: str, target: str, present: dict[str, str], home: str) -> Item:
    shown = directory or "."
    for name in target.split("/"):
        if not _NAME.fullmatch(name):
            return Item("refused", shown, note=f"{name!r} cannot be the name of a skill or category; rename it")
    paths = source.below(directory)
    for path in paths:
        if not (source.is_file(path) or source.is_directory(path)):
            return Item(
                "refused", shown, note=f"{path} is not a regular file (a symbolic link, a pipe): put the file there"
            )
        if printable(path) != path or "\n" in path or "\t" in path:
            return Item("refused", shown, note=f"{path!r} has control characters in its name; rename it")
    files = [path for path in paths if source.is_file(path)]
    name = target.rpartition("/")[2]
    there = present.get(_name(source.read(_join(directory, SKILL_FILE)), name), present.get(name))
    if there is None and os.path.lexists(os.path.join(home, target)):
        there = target
    if there is not None:
        if _is_same(source, directory, files, os.path.join(home, there)):
            return Item("there already", shown, there)
        return Item(
            "conflict", shown, there, "a skill of this name is there and differs: rename one, or remove it there"
        )
    return Item("ported", shown, target, f"{len(files)} files", lambda: _copy(source, directory, home, target))


def _present_skills(top: str) -> Iterator[tuple[str, str]]:
    """Name and path below the home of each existing skill, under its directory's name and the name in its SKILL.md."""
    skills: set[str] = set()
    for path in _files(top):
        directory, _separator, name = path.rpartition("/")
        if name == SKILL_FILE and directory and not directory.endswith(_UNFINISHED):
            skills.add(directory)
    for directory in sorted(skills):
        # A skill within another one is part of that one.
        if skills.isdisjoint(parents(directory)):
            name, path = os.path.basename(directory), os.path.join("skills", directory)
            yield name, path
            with contextlib.suppress(OpsError):
                yield _name(read_bytes(os.path.join(top, directory, SKILL_FILE), 4 * _HEAD) or b"", name), path


def _files(top: str) -> Iterator[str]:
    """The paths of everything below *top* except directories; nothing when *top* does not exist."""
    try:
        descriptor = os.open(top, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        raise failure("read", top, error) from None
    try:
        for number, entry in enumerate(walk(descriptor, depth=_DEPTH, enter=lambda entry: entry.name not in LEFT_OUT)):
            if number == _ENTRIES:
                raise OpsError(f"holds more than {_ENTRIES} files", where=top, fix="clear it")
            if not entry.is_directory:
                yield entry.path
    finally:
        os.close(descriptor)


def _name(skill: bytes, directory: str) -> str:
    """The name of a skill in Hermes: the one in its SKILL.md, else that of its directory."""
    first, *lines = [*skill.decode("utf-8", "replace")[:_HEAD].split("\n"), ""]
    end = next((number for number, line in enumerate(lines) if line.startswith("---")), None)
    if end is None or not first.startswith("---") or first[3:].strip():
        return directory
    for line in lines[:end]:
        key, _colon, value = line.partition(":")
        value = value.strip()
        value = value[value[:1] in ("'", '"') and 1 :]
        value = value[: -1 if value[-1:] in ("'", '"') else None]
        if key == "name" and value and not {"'", '"'} & set(value):
            return value
    return directory


def _is_same(source: Parcel, directory: str, files: list[str], there: str) -> bool:
    """Whether the skill at *there* has exactly the *files* of the one in *directory*, with the same contents."""
    wanted = {os.path.relpath(path, directory or "."): path for path in files}
    if set(_files(there)) != wanted.keys():
        return False
    try:
        return all(
            read_bytes(os.path.join(there, name), LARGEST_FILE + 1) == source.read(path)
            for name, path in wanted.items()
        )
    except OpsError:
        return False


def _copy(source: Parcel, directory: str, home: str, target: str) -> None:
    """Copy a skill atomically, so that the agent sees all of it or nothing."""
    parent, name = os.path.split(os.path.join(home, target))
    unfinished = os.path.join(parent, f".{name}{_UNFINISHED}")
    os.makedirs(parent, 0o700, exist_ok=True)
    # A run that was killed may have left it.
    shutil.rmtree(unfinished, ignore_errors=True)
    os.mkdir(unfinished, 0o700)
    try:
        # SKILL.md, which makes the directory a skill, comes last.
        for path in sorted(source.below(directory), key=lambda path: (os.path.basename(path) == SKILL_FILE, path)):
            to = os.path.join(unfinished, os.path.relpath(path, directory or "."))
            if source.is_directory(path):
                os.makedirs(to, 0o700, exist_ok=True)
            else:
                _write_file(to, source.read(path), 0o700 if source.entries[path].executable else 0o600)
        os.rename(unfinished, os.path.join(parent, name))
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _write_file(path: str, content: bytes, mode: int) -> None:
    os.makedirs(os.path.dirname(path), 0o700, exist_ok=True)
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode), "wb") as out:
        out.write(content)


# Texts


def _plan_persona(source: Parcel, workspace: str, home: str, default: str | None) -> Iterator[Item]:
    paths = [path for name in PERSONA if (path := _join(workspace, name)) in source.entries]
    if paths:
        text, refusal = _texts(source, paths)
        yield refusal or _plan_text(
            ", ".join(paths),
            "SOUL.md",
            "\n\n".join(part.strip() for part in text) + "\n",
            home,
            "a persona is there: declare the one you want as soul in hermes_agents",
            replaceable=(default,),
        )


def _plan_memories(source: Parcel, workspace: str, home: str) -> Iterator[Item]:
    for name, target in MEMORIES.items():
        path = _join(workspace, name)
        if path not in source.entries:
            continue
        text, refusal = _texts(source, [path])
        if refusal:
            yield refusal
            continue
        entries = entries_of(text[0])
        kept = fitting(entries, MEMORY_LIMITS[target])
        if not kept:
            yield Item("left", path, note="its first entry is longer than what Hermes keeps in total")
        else:
            note = (
                "" if len(kept) == len(entries) else f"{len(kept)} of {len(entries)} entries, as many as Hermes keeps"
            )
            reason = f"memories are there: let the agent take over from {OPENCLAW_CONTEXT}/{name} what it needs"
            yield _plan_text(path, target, ENTRY_DELIMITER.join(kept) + "\n", home, reason, note=note)


def _plan_texts(source: Parcel, workspace: str, home: str) -> Iterator[Item]:
    """Every text of the workspace and of its daily memory, unchanged."""
    for path in source.below(workspace):
        relative = os.path.relpath(path, workspace or ".")
        directory, _separator, name = relative.rpartition("/")
        if directory not in ("", "memory") or not name.endswith(TEXT_SUFFIX):
            continue
        if not _NAME.fullmatch(name):
            yield Item("refused", path, note="its name has characters other than letters, digits, '.', '_', '-'")
            continue
        text, refusal = _texts(source, [path])
        target = f"{OPENCLAW_CONTEXT}/{relative}"
        yield refusal or _plan_text(path, target, text[0], home, "another text is there: move it away")


def _texts(source: Parcel, paths: list[str]) -> tuple[list[str], Item | None]:
    try:
        for path in paths:
            if not source.is_file(path):
                raise OpsError("is not a regular file (a symbolic link, a pipe): put the file there", where=path)
        return [source.text(path) for path in paths], None
    except OpsError as error:
        return [], Item("refused", error.where or paths[0], note=error.what)


def _plan_text(
    source: str,
    target: str,
    text: str,
    home: str,
    reason: str,
    *,
    note: str = "",
    replaceable: tuple[str | None, ...] = (),
) -> Item:
    path = os.path.join(home, target)
    try:
        present = read_bytes(path, _LARGEST_TEXT + 1)
    except OpsError as error:
        return Item("conflict", source, target, error.what)
    if present is not None and present.strip() == text.encode().strip():
        return Item("there already", source, target)
    nobodys = [b"", *(other.encode().strip() for other in replaceable if other)]
    if present is not None and present.strip() not in nobodys:
        return Item("conflict", source, target, reason)
    return Item("ported", source, target, note, lambda: _write(path, text))


def _write(path: str, text: str) -> None:
    os.makedirs(os.path.dirname(path), 0o700, exist_ok=True)
    write_atomic(path, text, mode=0o600)


def entries_of(text: str) -> list[str]:
    """The entries of a Markdown text: its list items and paragraphs, each prefixed with its headings."""
    entries: dict[str, None] = {}
    headings: list[str] = []
    lines: list[str] = []

    def finish() -> None:
        said = " ".join(filter(None, lines))
        lines.clear()
        if said:
            # The first heading is the title of the text and is left out.
            entries[": ".join([*filter(None, headings[1:]), said])] = None

    for line in text.replace(ENTRY_DELIMITER, "\n\n").splitlines():
        heading = re.match(r"(#{1,6})\s+(.*)", line)
        item = re.match(r"(?:[-*+]|\d+[.)])\s+(.*)", line)
        if heading or item or not line.strip():
            finish()
        if heading:
            depth = len(heading[1])
            headings = [*headings, *[""] * depth][: depth - 1]
            headings.append(heading[2].strip())
        elif line.strip():
            lines.append((item[1] if item else line).strip())
    finish()
    return list(entries)


def fitting(entries: list[str], limit: int) -> list[str]:
    """The first of *entries* that fit into *limit* characters, counting the delimiters between them."""
    kept: list[str] = []
    for entry in entries:
        if len(ENTRY_DELIMITER.join([*kept, entry])) > limit:
            break
        kept.append(entry)
    return kept


def _left(source: Parcel, workspace: str | None, places: Iterable[str], items: list[Item]) -> Iterator[Item]:
    """The items that are not ported. A directory of which nothing is ported is one item."""
    used = {path for item in items for path in item.source.split(", ")} - {"."}
    if any(item.source == "." for item in items):
        used.add("")
    around = {parent for path in used for parent in parents(path)}
    around |= {place for place in (*places, workspace) if place and source.is_directory(place)}
    for path in sorted(source.entries):
        if path in around or not used.isdisjoint([path, *parents(path)]) or not around.issuperset(parents(path)[1:]):
            continue
        known = source.is_file(path) or source.is_directory(path)
        why = "it has no place in an agent's home" if known else "it is a symbolic link, or not a file"
        yield Item("left", path, note=_LEFT.get(os.path.basename(path), why))
    for path in sorted(source.left_out):
        yield Item("left", path, note="created again where it is needed")


def _join(directory: str, name: str) -> str:
    return f"{directory}/{name}" if directory else name
