# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Skills, and the home of an OpenClaw agent, brought into a profile; nothing that is there is overwritten.

Where things go is what Hermes' own migration does (its optional skill openclaw-migration, which the wheels of 0.18.2
and 0.19.0 lack): skills without a category to ``skills/openclaw-imports/``, the persona to SOUL.md, entries of
MEMORY.md and USER.md to ``memories/`` as far as Hermes keeps them. Beyond that, every text goes to
``context/openclaw/`` as it is.
"""

from __future__ import annotations

import ast
import contextlib
import glob
import os
import re
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from ..description.declaration import MEMORY_LIMITS
from ..system.errors import OpsError
from ..system.files import Owner, acting_as, failure, read_bytes, read_text, write_atomic
from ..system.text import printable
from .tell import DIRECTORY as CONTEXT

SKILL_FILE = "SKILL.md"
# For skills that come without a category.
CATEGORY = "imported"
OPENCLAW_CATEGORY = "openclaw-imports"
OPENCLAW_CONTEXT = f"{CONTEXT}/openclaw"
# Where in an OpenClaw home its texts lie, today and under its older names; last, where a workspace itself is given.
WORKSPACES = ("workspace", "workspace-main", "workspace.default", "")
OPENCLAW_SETTINGS = ("openclaw.json", "clawdbot.json", "moltbot.json")
PERSONA = ("SOUL.md", "IDENTITY.md")
MEMORIES = {"MEMORY.md": "memories/MEMORY.md", "USER.md": "memories/USER.md"}
# 0.18.2 and 0.19.0 tools/memory_tool.py.
ENTRY_DELIMITER = "\n§\n"
# What is made anew and no part of a skill.
LEFT_OUT = frozenset({".git", ".venv", "__pycache__", "node_modules", "venv"})
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_FRONTMATTER_NAME = re.compile(r"\A---\s*\n(?:.*\n)*?name:[ \t]*[\"']?([^\"'\n]+?)[\"']?[ \t]*\n(?:.*\n)*?---")
# Marks a skill that is being copied, beside where it will be.
_UNFINISHED = ".hermes-ops"
# Why what lies in an OpenClaw home is not brought along.
_LEFT = {
    **dict.fromkeys(OPENCLAW_SETTINGS, "settings: declare what you need of them in hermes_agents"),
    ".env": "secrets: declare them in hermes_agents, under secrets",
    "credentials": "secrets: declare them in hermes_agents, under secrets",
    "cron": "jobs: make them anew: hermes cron create",
}


@dataclass(frozen=True)
class Item:
    """What becomes of one thing in the source.

    :param status: ``ported``, ``there already``, ``conflict``, ``refused`` or ``left``
    :param source: below the source directory
    :param target: below the profile's home
    :param action: does it; only of what is ``ported``
    """

    status: str
    source: str
    target: str = ""
    note: str = ""
    action: Callable[[], None] | None = None

    def __str__(self) -> str:
        arrow = f" -> {self.target}" if self.target else ""
        return printable(f"{self.status:13}  {self.source}{arrow}{f': {self.note}' if self.note else ''}")

    @property
    def failed(self) -> bool:
        return self.status in ("conflict", "refused")


class Source:
    """The directory to be ported, of which nothing is believed: read by descriptors, without following any link.

    :param path: absolute
    :raises OpsError: when it is no directory, or cannot be read
    """

    def __init__(self, path: str) -> None:
        self.name = os.path.basename(os.path.normpath(path))
        # Path below the directory -> what it is.
        self.entries: dict[str, os.stat_result] = {}
        self.left_out: list[str] = []
        try:
            self._top = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            for directory, directories, names, descriptor in os.fwalk(".", dir_fd=self._top):
                for name in (*directories, *names):
                    path_below = os.path.normpath(os.path.join(directory, name))
                    if name in LEFT_OUT:
                        self.left_out.append(path_below)
                    else:
                        self.entries[path_below] = os.lstat(name, dir_fd=descriptor)
                directories[:] = sorted(set(directories) - LEFT_OUT)
        except OSError as error:
            raise failure("read", path, error) from None

    def close(self) -> None:
        os.close(self._top)

    def below(self, directory: str) -> list[str]:
        """Everything in *directory* and its directories."""
        return sorted(path for path in self.entries if not directory or path.startswith(f"{directory}/"))

    def is_file(self, path: str) -> bool:
        return path in self.entries and stat.S_ISREG(self.entries[path].st_mode)

    def is_directory(self, path: str) -> bool:
        return not path or (path in self.entries and stat.S_ISDIR(self.entries[path].st_mode))

    @contextlib.contextmanager
    def open(self, path: str) -> Iterator[int]:
        """A descriptor of the file *path*.

        :raises OpsError: when there is a link on the way by now, or no file
        """
        *directories, name = path.split("/")
        descriptor = os.dup(self._top)
        try:
            for directory in directories:
                below = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=descriptor)
                os.close(descriptor)
                descriptor = below
            below = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=descriptor)
            os.close(descriptor)
            descriptor = below
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise OpsError("is not a regular file any more", where=path, fix="run again when nobody changes it")
            yield descriptor
        except OSError as error:
            raise failure("read", path, error) from None
        finally:
            os.close(descriptor)

    def read(self, path: str) -> bytes:
        with self.open(path) as descriptor, open(descriptor, "rb", closefd=False) as stream:
            return stream.read()

    def text(self, path: str) -> str:
        """:raises OpsError: when it is not UTF-8"""
        try:
            return self.read(path).decode("utf-8")
        except UnicodeDecodeError:
            raise OpsError("is not UTF-8 text", where=path, fix="save it as UTF-8") from None


def plan_port(source: Source, home: str, owner: Owner, *, default_soul: str | None) -> list[Item]:
    """What becomes of everything in *source*; nothing is changed.

    :param home: the profile's
    :param default_soul: the SOUL.md that Hermes writes where there is none, which is nobody's work
    :raises OpsError: when the profile or the source cannot be read
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
    items = list(_plan_skills(source, dict.fromkeys(places), home, owner, OPENCLAW_CATEGORY if openclaw else CATEGORY))
    if workspace is not None:
        items += _plan_persona(source, workspace, home, owner, default_soul)
        items += _plan_memories(source, workspace, home, owner)
        items += _plan_texts(source, workspace, home, owner)
    if not items:
        raise OpsError(
            f"there is nothing to port in {source.name!r}",
            fix="name a directory with skills (…/SKILL.md), or the home of an OpenClaw agent",
        )
    return items + list(_left(source, workspace, places, items))


def apply(item: Item) -> None:
    """Do what is planned.

    :raises OpsError: when it cannot be written
    """
    if item.action:
        try:
            item.action()
        except OSError as error:
            raise failure("written", item.target, error) from None


def default_soul(root: str) -> str | None:
    """The SOUL.md that the current release writes (0.18.2 and 0.19.0 hermes_cli/default_soul.py); None when unknown."""
    for path in glob.glob(f"{glob.escape(root)}/current/lib/python3*/site-packages/hermes_cli/default_soul.py"):
        for node in ast.walk(ast.parse(read_text(path) or "")):
            if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "DEFAULT_SOUL_MD":
                return ast.literal_eval(node.value)
    return None


# Skills


def _plan_skills(source: Source, places: Iterable[str], home: str, owner: Owner, category: str) -> Iterator[Item]:
    with acting_as(owner):
        present = dict(_present_skills(os.path.join(home, "skills")))
    for place in places:
        for directory in _skills_in(source, place):
            rest = os.path.relpath(directory or ".", place or ".")
            parts = [source.name] if rest == "." else rest.split("/")
            target = "/".join(["skills", *(parts if len(parts) > 1 else [category, *parts])])
            item = _plan_skill(source, directory, target, present, home, owner)
            if item.status == "ported":
                present[parts[-1]] = present[_name(source.read(_join(directory, SKILL_FILE)), parts[-1])] = target
            yield item


def _skills_in(source: Source, place: str) -> list[str]:
    """The directories below *place* that are a skill; one within a skill belongs to it."""
    found: list[str] = []
    if not source.is_directory(place):
        return found
    for path in sorted([_join(place, SKILL_FILE), *source.below(place)], key=lambda path: path.count("/")):
        directory, _separator, name = path.rpartition("/")
        inside = any(not skill or f"{directory}/".startswith(f"{skill}/") for skill in found)
        if name == SKILL_FILE and path in source.entries and not inside:
            found.append(directory)
    return sorted(found)


def _plan_skill(source: Source, directory: str, target: str, present: dict[str, str], home: str, owner: Owner) -> Item:
    shown = directory or "."
    for name in target.split("/"):
        if not _NAME.fullmatch(name):
            return Item("refused", shown, note=f"{name!r} cannot be the name of a skill or category; rename it")
    paths = source.below(directory)
    for path in paths:
        if not (source.is_file(path) or source.is_directory(path)):
            return Item(
                "refused", shown, note=f"{path} is no regular file (a symbolic link, a pipe): put the file there"
            )
        if printable(path) != path or "\n" in path or "\t" in path:
            return Item("refused", shown, note=f"{path!r} has control characters in its name; rename it")
    files = [path for path in paths if source.is_file(path)]
    name = target.rpartition("/")[2]
    there = present.get(_name(source.read(_join(directory, SKILL_FILE)), name), present.get(name))
    if there is None:
        with acting_as(owner):
            there = target if os.path.lexists(os.path.join(home, target)) else None
    if there is not None:
        wanted = {os.path.relpath(path, directory or "."): source.read(path) for path in files}
        with acting_as(owner):
            same = _content(os.path.join(home, there)) == wanted
        if same:
            return Item("there already", shown, there)
        return Item(
            "conflict", shown, there, "a skill of this name is there and differs: rename one, or remove it there"
        )
    return Item("ported", shown, target, f"{len(files)} files", lambda: _copy(source, directory, home, target, owner))


def _present_skills(top: str) -> Iterator[tuple[str, str]]:
    """Name (of the directory, and as SKILL.md says) -> path below the home, of the skills that are there."""
    for directory, directories, names in os.walk(top):
        if SKILL_FILE in names and not directory.endswith(_UNFINISHED):
            directories.clear()
            path = os.path.join("skills", os.path.relpath(directory, top))
            name = os.path.basename(directory)
            yield name, path
            with contextlib.suppress(OpsError):
                yield _name(read_bytes(os.path.join(directory, SKILL_FILE)) or b"", name), path


def _name(skill: bytes, directory: str) -> str:
    """The name by which Hermes knows a skill: the one in its SKILL.md, else that of its directory."""
    found = _FRONTMATTER_NAME.match(skill.decode("utf-8", "replace")[:4000])
    return found[1] if found else directory


def _content(directory: str) -> dict[str, bytes]:
    """The files of a skill that is there."""
    content = {}
    for path, directories, names in os.walk(directory):
        directories[:] = sorted(set(directories) - LEFT_OUT)
        for name in names:
            file = os.path.join(path, name)
            with contextlib.suppress(OpsError):
                content[os.path.relpath(file, directory)] = read_bytes(file) or b""
    return content


def _copy(source: Source, directory: str, home: str, target: str, owner: Owner) -> None:
    """Copy a skill, so that the agent sees all of it or nothing."""
    parent, name = os.path.split(os.path.join(home, target))
    unfinished = os.path.join(parent, f".{name}{_UNFINISHED}")
    with acting_as(owner):
        os.makedirs(parent, 0o700, exist_ok=True)
        # Of a run that was killed.
        shutil.rmtree(unfinished, ignore_errors=True)
        os.mkdir(unfinished, 0o700)
    try:
        # What makes it a skill comes last.
        for path in sorted(source.below(directory), key=lambda path: (os.path.basename(path) == SKILL_FILE, path)):
            to = os.path.join(unfinished, os.path.relpath(path, directory or "."))
            if source.is_directory(path):
                with acting_as(owner):
                    os.makedirs(to, 0o700, exist_ok=True)
            else:
                _copy_file(source, path, to, owner)
        with acting_as(owner):
            os.rename(unfinished, os.path.join(parent, name))
    finally:
        with acting_as(owner):
            shutil.rmtree(unfinished, ignore_errors=True)


def _copy_file(source: Source, path: str, to: str, owner: Owner) -> None:
    mode = 0o700 if source.entries[path].st_mode & 0o111 else 0o600
    # Opened with our rights, written with the agent's.
    with source.open(path) as descriptor, open(descriptor, "rb", closefd=False) as stream, acting_as(owner):
        os.makedirs(os.path.dirname(to), 0o700, exist_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        with open(os.open(to, flags, mode), "wb") as out:
            shutil.copyfileobj(stream, out)


# Texts


def _plan_persona(source: Source, workspace: str, home: str, owner: Owner, default: str | None) -> Iterator[Item]:
    paths = [path for name in PERSONA if (path := _join(workspace, name)) in source.entries]
    if paths:
        text, refusal = _texts(source, paths)
        yield refusal or _plan_text(
            ", ".join(paths),
            "SOUL.md",
            "\n\n".join(part.strip() for part in text) + "\n",
            home,
            owner,
            "a persona is there: declare the one you want as soul in hermes_agents",
            replaceable=(default,),
        )


def _plan_memories(source: Source, workspace: str, home: str, owner: Owner) -> Iterator[Item]:
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
            yield Item("left", path, note="its first entry is longer than all that Hermes keeps")
        else:
            note = (
                "" if len(kept) == len(entries) else f"{len(kept)} of {len(entries)} entries, as many as Hermes keeps"
            )
            reason = f"memories are there: let the agent take over from {OPENCLAW_CONTEXT}/{name} what it needs"
            yield _plan_text(path, target, ENTRY_DELIMITER.join(kept) + "\n", home, owner, reason, note=note)


def _plan_texts(source: Source, workspace: str, home: str, owner: Owner) -> Iterator[Item]:
    """Every text of the workspace and of its daily memory, as it is."""
    for path in source.below(workspace):
        relative = os.path.relpath(path, workspace or ".")
        directory, _separator, name = relative.rpartition("/")
        if directory not in ("", "memory") or not name.endswith(".md"):
            continue
        if not _NAME.fullmatch(name):
            yield Item("refused", path, note="its name has other characters than letters, digits, '.', '_', '-'")
            continue
        text, refusal = _texts(source, [path])
        target = f"{OPENCLAW_CONTEXT}/{relative}"
        yield refusal or _plan_text(path, target, text[0], home, owner, "another text is there: move it away")


def _texts(source: Source, paths: list[str]) -> tuple[list[str], Item | None]:
    try:
        for path in paths:
            if not source.is_file(path):
                raise OpsError("is no regular file (a symbolic link, a pipe): put the file there", where=path)
        return [source.text(path) for path in paths], None
    except OpsError as error:
        return [], Item("refused", error.where or paths[0], note=error.what)


def _plan_text(
    source: str,
    target: str,
    text: str,
    home: str,
    owner: Owner,
    reason: str,
    *,
    note: str = "",
    replaceable: tuple[str | None, ...] = (),
) -> Item:
    path = os.path.join(home, target)
    try:
        with acting_as(owner):
            present = read_bytes(path)
    except OpsError as error:
        return Item("conflict", source, target, error.what)
    if present is not None and present.strip() == text.encode().strip():
        return Item("there already", source, target)
    nobodys = [b"", *(other.encode().strip() for other in replaceable if other)]
    if present is not None and present.strip() not in nobodys:
        return Item("conflict", source, target, reason)
    return Item("ported", source, target, note, lambda: _write(path, text, owner))


def _write(path: str, text: str, owner: Owner) -> None:
    with acting_as(owner):
        os.makedirs(os.path.dirname(path), 0o700, exist_ok=True)
        write_atomic(path, text, mode=0o600)


def entries_of(text: str) -> list[str]:
    """The entries of a Markdown text: its list items and paragraphs, each after the headings it stands below."""
    entries: list[str] = []
    headings: list[str] = []
    lines: list[str] = []

    def finish() -> None:
        said = " ".join(filter(None, lines))
        lines.clear()
        if said:
            # The first heading is the title of the whole.
            entry = ": ".join([*filter(None, headings[1:]), said])
            if entry not in entries:
                entries.append(entry)

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
    return entries


def fitting(entries: list[str], limit: int) -> list[str]:
    """The first of *entries* that Hermes keeps, *limit* characters with what stands between them."""
    kept: list[str] = []
    for entry in entries:
        if len(ENTRY_DELIMITER.join([*kept, entry])) > limit:
            break
        kept.append(entry)
    return kept


def _left(source: Source, workspace: str | None, places: Iterable[str], items: list[Item]) -> Iterator[Item]:
    """What is not ported, as far up as nothing of it is."""
    used = {path for item in items for path in item.source.split(", ")} - {"."}
    ported_all = any(item.source == "." for item in items)
    around = {parent for path in used for parent in _parents(path)}
    around |= {place for place in (*places, workspace) if place and source.is_directory(place)}
    for path in sorted(source.entries):
        inside = ported_all or any(parent in used for parent in [path, *_parents(path)])
        if inside or path in around or any(parent not in around for parent in _parents(path)):
            continue
        known = source.is_file(path) or source.is_directory(path)
        why = "it has no place in a profile" if known else "it is a symbolic link, or no file"
        yield Item("left", path, note=_LEFT.get(os.path.basename(path), why))
    for path in sorted(source.left_out):
        yield Item("left", path, note="made anew where it is needed")


def _parents(path: str) -> list[str]:
    parts = path.split("/")
    return ["/".join(parts[:number]) for number in range(1, len(parts))]


def _join(directory: str, name: str) -> str:
    return f"{directory}/{name}" if directory else name
