# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""An agent's ``config.yaml``: we own the declared keys in it, not the file."""

from __future__ import annotations

import copy
import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..description.declaration import leaves
from ..description.hiding import shown
from ..system import yaml_edit
from ..system.errors import OpsError
from ..system.files import read_text
from ..system.plan import Difference
from .part import FILE_MODE, Part, mode_of, replace, wrong_mode

FILE_NAME = "config.yaml"
RECORD = "config"
# The form of the record that :func:`decide` returns.
RECORD_FORM = {"keys": [([str], str)], "created": [[str]], "config_version": object}
# Bytes of the largest file that is read. A real file has about a fiftieth of it.
LARGEST = 2**20
VERSION_KEY = "_config_version"

KeyPath = tuple[str, ...]

# Keys that a running gateway reads again in each turn; a change of any other key needs a restart. From 0.18.2 and
# 0.19.0: gateway/run.py (`_load_gateway_config` and `_resolve_gateway_model` run in the turn, a change of
# `_CACHE_BUSTING_CONFIG_KEYS` rebuilds a cached agent), tools/approval.py (`_get_approval_mode` reads the file at each
# question).
LIVE_KEYS: tuple[KeyPath, ...] = (
    ("model",),
    ("approvals", "mode"),
    ("compression", "enabled"),
    ("compression", "threshold"),
    ("compression", "target_ratio"),
    ("compression", "protect_last_n"),
    ("agent", "disabled_toolsets"),
)


def read_config(path: str) -> dict[Any, Any]:
    """The tree that Hermes sees in the ``config.yaml`` at *path*; ``{}`` when the file is missing or empty.

    :raises OpsError: when it is not UTF-8, does not parse or is not a mapping; names the line
    """
    text = read_text(path, LARGEST)
    return yaml_edit.load(text, path) if text else {}


def is_live(keys: KeyPath) -> bool:
    """Whether a running gateway notices a change of this key without a restart."""
    return any(keys[: len(live)] == live for live in LIVE_KEYS)


def fingerprint(value: Any) -> str:
    """The hash of a value that the record keeps."""
    return hashlib.sha256(_json(value).encode("utf-8", "surrogatepass")).hexdigest()


def _json(value: Any) -> str:
    def plain(part: Any) -> Any:
        if isinstance(part, dict):
            return {str(name): plain(each) for name, each in part.items()}
        return [plain(each) for each in part] if isinstance(part, list) else part

    return json.dumps(plain(value), sort_keys=True, ensure_ascii=False, default=str)


def version_of(tree: Mapping[Any, Any]) -> int | str | None:
    """The version of its format that the file claims; None when that is neither a number nor text."""
    version = tree.get(VERSION_KEY)
    return version if isinstance(version, (int, str)) else None


# The tree


_ABSENT = object()


def _get(tree: Any, keys: Iterable[str]) -> Any:
    for name in keys:
        key = yaml_edit.key_in(tree, name) if isinstance(tree, dict) else None
        if key is None:
            return _ABSENT
        tree = tree[key]
    return tree


def _set(tree: dict[Any, Any], keys: KeyPath, value: Any) -> None:
    for name in keys[:-1]:
        key = yaml_edit.key_in(tree, name)
        if key is None or not isinstance(tree[key], dict):
            key = name if key is None else key
            tree[key] = {}
        tree = tree[key]
    key = yaml_edit.key_in(tree, keys[-1])
    tree[keys[-1] if key is None else key] = copy.deepcopy(value)


def _delete(tree: dict[Any, Any], keys: KeyPath) -> None:
    parent = _get(tree, keys[:-1])
    del parent[yaml_edit.key_in(parent, keys[-1])]


@dataclass
class ConfigPlan:
    """The result of :func:`plan_config`.

    :param edits: ``(keys, value)`` to set and ``(keys,)`` to remove, in this order
    :param tree: the tree that Hermes must see afterwards
    :param keys: ``[[path, fingerprint], …]`` for the record
    :param created: parents that we created, for the record
    :param drift: ``{key, found, declared}`` of keys that somebody changed since we wrote them
    :param migrated: the same for keys that Hermes changed when it migrated the file to another ``_config_version``
    :param left: ``{key, found}`` of keys that are no longer declared but stay, because somebody changed them
    :param restart: reasons to restart the gateway
    """

    tree: dict[Any, Any]
    edits: list[tuple[Any, ...]] = field(default_factory=list)
    differences: list[Difference] = field(default_factory=list)
    keys: list[list[Any]] = field(default_factory=list)
    created: list[list[str]] = field(default_factory=list)
    drift: list[dict[str, Any]] = field(default_factory=list)
    migrated: list[dict[str, Any]] = field(default_factory=list)
    left: list[dict[str, Any]] = field(default_factory=list)
    restart: list[str] = field(default_factory=list)


def plan_config(
    tree: Mapping[Any, Any], declared: Mapping[str, Any], record: Mapping[str, Any] | None = None
) -> ConfigPlan:
    """Decide which keys of *tree* have to change.

    A key that is no longer declared is removed if it still holds the value that we wrote, together with parents that
    we created and that become empty. A key that somebody changed since is no longer ours: it stays, in ``left``.

    A declared key below a value that is not a mapping replaces that value. A bare ``model: x/y`` is kept as
    ``model.default``, because Hermes reads it so (hermes_cli/config.py, 0.18.2 and 0.19.0).

    :param tree: the tree that Hermes sees now
    :param record: the record of the last run: ``keys``, ``created`` and ``config_version``
    """
    record = record or {}
    plan = ConfigPlan(copy.deepcopy(dict(tree)))
    known = {tuple(keys): mark for keys, mark in record.get("keys", [])}
    wanted = leaves(declared)
    plan.keys = [[list(keys), fingerprint(value)] for keys, value in wanted]
    plan.created = [keys for keys in record.get("created", []) if _is_parent(tuple(keys), wanted)]
    changed: list[KeyPath] = []
    for keys in _leaving(known, wanted):
        found = _get(plan.tree, keys)
        if found is _ABSENT or (isinstance(found, dict) and found):
            continue
        if fingerprint(found) != known[keys]:
            plan.left.append({"key": ".".join(keys), "found": shown(keys, found)})
            continue
        changed.append(keys)
        plan.differences.append(_difference(keys, found, _ABSENT))
        _remove(plan, keys)
    migrated = "config_version" in record and record["config_version"] != version_of(tree)
    for keys, value in wanted:
        found = _get(tree, keys)
        if _satisfied(found, value):
            continue
        changed.append(keys)
        if keys in known and (found is _ABSENT or fingerprint(found) != known[keys]):
            entry = {
                "key": ".".join(keys),
                "found": None if found is _ABSENT else shown(keys, found),
                "declared": shown(keys, value),
            }
            (plan.migrated if migrated else plan.drift).append(entry)
        _put(plan, keys, found, value, known)
    made = {tuple(keys) for keys in record.get("created", [])} - {keys for keys, _value in wanted}
    for keys in changed:
        parent = keys[:-1]
        while parent in made and _get(plan.tree, parent) == {}:
            _remove(plan, parent)
            parent = parent[:-1]
    plan.restart = [f"config: {'.'.join(keys)}" for keys in changed if not is_live(keys)]
    return plan


def _is_parent(keys: KeyPath, wanted: list[tuple[KeyPath, Any]]) -> bool:
    return any(len(keys) < len(leaf) and leaf[: len(keys)] == keys for leaf, _value in wanted)


def _satisfied(found: Any, value: Any) -> bool:
    if value == {} and isinstance(value, dict):
        return isinstance(found, dict)
    return found is not _ABSENT and yaml_edit.same(_unordered(found), _unordered(value))


def _unordered(value: Any) -> Any:
    """*value* with the keys of its mappings sorted, also within lists: their order does not matter to Hermes."""
    if isinstance(value, dict):
        return {name: _unordered(value[name]) for name in sorted(value, key=lambda key: (str(type(key)), str(key)))}
    return [_unordered(part) for part in value] if isinstance(value, list) else value


def _leaving(known: Iterable[KeyPath], wanted: list[tuple[KeyPath, Any]]) -> list[KeyPath]:
    """The recorded keys to remove: no declared key is equal to them, lies below them or replaces them."""

    def stays(keys: KeyPath) -> bool:
        return any(
            (leaf == keys[: len(leaf)] and (len(leaf) == len(keys) or value != {})) or leaf[: len(keys)] == keys
            for leaf, value in wanted
        )

    return [keys for keys in known if not stays(keys)]


def _remove(plan: ConfigPlan, keys: KeyPath) -> None:
    _delete(plan.tree, keys)
    plan.edits.append((keys,))


def _put(plan: ConfigPlan, keys: KeyPath, found: Any, value: Any, known: Iterable[KeyPath]) -> None:
    for depth in range(1, len(keys)):
        parent = keys[:depth]
        there = _get(plan.tree, parent)
        if (there is _ABSENT or parent in known) and list(parent) not in plan.created:
            plan.created.append(list(parent))
        if there is not _ABSENT and there is not None and not isinstance(there, dict):
            plan.differences.append(_difference(parent, there, _ABSENT))
            if parent == ("model",) and isinstance(there, str) and there:
                _apply(plan, parent, {"default": there})
                if keys != ("model", "default"):
                    plan.differences.append(_difference(("model", "default"), _ABSENT, there))
    plan.differences.append(_difference(keys, found, value))
    _apply(plan, keys, value)


def _apply(plan: ConfigPlan, keys: KeyPath, value: Any) -> None:
    _set(plan.tree, keys, value)
    plan.edits.append((keys, value))


def _difference(keys: KeyPath, before: Any, after: Any) -> Difference:
    def text(value: Any) -> str | None:
        return None if value is _ABSENT else json.dumps(shown(keys, value), ensure_ascii=False, default=str)

    one, other = text(before), text(after)
    if one == other:
        # Both are hidden secrets, or values such as 1 and 1.0 that look the same in the diff.
        other = f"{other}, changed"
    return Difference(".".join(keys), one, other)


def edited(text: str, plan: ConfigPlan, path: str) -> str:
    """*text* with the plan's edits, verified by parsing the result.

    :raises OpsError: when Hermes would not see exactly the planned tree; names the line
    """
    original = text
    for keys, *value in plan.edits:
        try:
            text = yaml_edit.set_value(text, keys, value[0], path) if value else yaml_edit.delete(text, keys, path)
        except OpsError as error:
            # The line in *error* is that of the edited text, so it is looked up in the original.
            raise OpsError(error.what, where=_place(original, keys, path), fix=error.fix) from None
    try:
        right = yaml_edit.same(yaml_edit.load(text, path), plan.tree)
    except (OpsError, RecursionError):
        right = False
    if not right:
        suspect = next(keys for keys, *_value in plan.edits)
        raise OpsError(
            f"{'.'.join(suspect)} cannot be changed without changing others (anchor, alias, merge key, unusual form)",
            where=_place(original, suspect, path),
            fix="write the keys around it out plainly; the file was left as it is",
        )
    return text


def _place(text: str, keys: KeyPath, path: str) -> str:
    line = yaml_edit.line_of(text, keys, path)
    return f"{path}:{line}" if line else path


# Comparing a file


def drifted(path: str, record: Mapping[str, Any]) -> list[str]:
    """The keys of the file at *path* that no longer hold the values in *record*, in dotted form.

    :raises OpsError: when the file cannot be read as YAML
    """
    known = [(tuple(keys), mark) for keys, mark in record.get("keys", [])]
    tree = read_config(path) if known else {}
    found = [(keys, mark, _get(tree, keys)) for keys, mark in known]
    # A declared empty mapping only has to exist; keys that others add to it are no drift.
    return [
        ".".join(keys)
        for keys, mark, value in found
        if fingerprint(value) != mark and not (isinstance(value, dict) and mark == fingerprint({}))
    ]


# The gateway reads the managed scope only if the home has a config.yaml, even an empty one (gateway/config.py,
# load_gateway_config, 0.18.2 and 0.19.0).
BESIDE_MANAGED = "# The declared keys of this agent are in its managed scope, and win over keys in this file.\n"


def decide(home: str, declared: Mapping[str, Any], record: Mapping[str, Any]) -> Part:
    """Compare ``<home>/config.yaml`` with the declaration; see :mod:`part`.

    :param declared: ``keys`` that the file must hold, and ``beside``: whether the file must exist even without keys
    :raises OpsError: when the file does not parse, or a key cannot be changed
    """
    path = os.path.join(home, FILE_NAME)
    part = decide_file(path, declared["keys"], record)
    if declared["beside"] and part.before is None:
        part.restart.append(f"config: {path}")
        part.add(Difference(path, None, "empty"), lambda: replace(path, None, BESIDE_MANAGED))
    return part


def decide_file(
    path: str, keys: Mapping[str, Any], record: Mapping[str, Any], *, mode: int = FILE_MODE, prefix: str = ""
) -> Part:
    """Compare the ``config.yaml`` at *path* with the declaration.

    :param prefix: text before the name of each difference
    """
    text, found_mode = read_text(path, LARGEST), mode_of(path)
    if text and not yaml_edit.available():
        return Part.unpredictable(path, "there is no PyYAML on the host")
    tree = yaml_edit.load(text, path) if text else {}
    plan = plan_config(tree, keys, record)
    part = Part(
        path,
        [Difference(prefix + each.what, each.before, each.after) for each in plan.differences],
        record={"keys": plan.keys, "created": plan.created, "config_version": version_of(tree)},
        restart=plan.restart,
        drift=list(plan.drift),
        migrated=list(plan.migrated),
        left=list(plan.left),
        before=text,
    )
    part.differences += wrong_mode(found_mode, mode, prefix)
    if part.differences:
        # The new text is made in check mode, too, so that an edit that cannot be made fails there already.
        new = edited(text or "", plan, path) if plan.edits and yaml_edit.available() else text or ""
        part.steps.append(lambda: replace(path, text, new, mode=mode))
    return part
