# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The variables that people write: which names are ours, where a value was written, what YAML lost of it."""

from __future__ import annotations

import difflib
import os
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, Optional

import yaml

from .roles import LOADER, ROLES

# File and line, where Ansible knows them.
Place = tuple[str, Optional[int]]

# How similar two names must be, without their common prefix, to be taken for the same.
_SIMILAR = 0.7
# A shorter abbreviation says too little.
_ABBREVIATION = 4


def nearest(name: str, known: Collection[str], prefixes: Collection[str]) -> str | None:
    """The name among *known* that *name* is a slip of; None if *name* is known, or is somebody else's variable.

    Our prefixes are ordinary words: inventories have ``hermes_vault_key``, and other collections have ``backup_dir``.
    So only a name that is close to one of ours is taken for a slip. The prefix does not count, because names that share
    it would all be close. A name of ours with more words after it (``hermes_agents_berlin``) is the user's own: people
    compose ours of such variables.

    :param prefixes: the beginnings of our variables, with the underscore
    """
    prefix = next((prefix for prefix in prefixes if name.startswith(prefix)), None)
    if prefix is None or name in known or any(name.startswith(f"{ours}_") for ours in known):
        return None
    rest = name[len(prefix) :]
    ours = {each[len(prefix) :]: each for each in sorted(known) if each.startswith(prefix)}
    near = difflib.get_close_matches(rest, ours, 1, _SIMILAR)
    if not near and len(rest) >= _ABBREVIATION:
        near = [each for each in ours if each.startswith(rest)]
    return ours[near[0]] if near else None


def place_of(value: Any) -> Place | None:
    """The file and the line where somebody wrote *value*; None for a default of ours, and where Ansible does not know.

    Ansible has no public interface for this. Without the attributes, errors lack only the line.
    """
    # ansible-core 2.17 and 2.18 mark texts, lists and mappings from YAML; later versions tag numbers as well.
    position = getattr(value, "ansible_pos", None)
    tags = getattr(value, "_ansible_tags_mapping", {}).values()
    places = [(tag.path, tag.line_num) for tag in tags if getattr(tag, "path", None)]
    path, line = (*position[:2],) if position else next(iter(places), (None, None))
    return (path, line) if path and not os.path.realpath(path).startswith(f"{ROLES}/") else None


def place_in(value: Any, keys: list[str]) -> Place | None:
    """The place of the innermost part of *value* that the path *keys* leads to, as far as it exists.

    :param keys: keys of mappings; in a list of mappings, the ``name`` of one
    """
    found = place_of(value)
    for key in keys:
        if isinstance(value, list):
            value = next((each for each in value if isinstance(each, dict) and each.get("name") == key), None)
        else:
            value = value.get(key) if isinstance(value, dict) else None
        if value is None:
            break
        found = place_of(value) or found
    return found


def shown(place: Place | None) -> str:
    """*place* for people: relative to the working directory if it is below it."""
    if place is None:
        return ""
    path, line = place
    relative = os.path.relpath(path)
    path = path if relative.startswith("..") else relative
    return f"{path}:{line}" if line else path


def doubled(path: str) -> Iterator[tuple[str, int, int]]:
    """The keys that stand twice in one mapping of the YAML file *path*, with the lines of both.

    YAML keeps the last one and drops the other without a trace. Ansible only warns. A file that is encrypted or not
    YAML has none.
    """
    try:
        root = yaml.compose(Path(path).read_text(encoding="utf-8"), Loader=LOADER)
    except (OSError, ValueError, yaml.YAMLError):
        return
    nodes = [root]
    while nodes:
        node = nodes.pop()
        if isinstance(node, yaml.SequenceNode):
            nodes += node.value
        elif isinstance(node, yaml.MappingNode):
            first: dict[str, int] = {}
            for key, value in node.value:
                line = key.start_mark.line + 1
                if isinstance(key, yaml.ScalarNode) and key.value in first:
                    yield key.value, first[key.value], line
                elif isinstance(key, yaml.ScalarNode):
                    first[key.value] = line
                nodes.append(value)


def plain(value: Any) -> Any:
    """Templated, tagged and vaulted values as plain Python."""
    if isinstance(value, dict):
        return {plain(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    # In ansible-core < 2.19 a vaulted string is not a str, but str() decrypts it.
    if isinstance(value, str) or hasattr(value, "__ENCRYPTED__"):
        return str(value)
    return value
