# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Changes single keys of a YAML text in place; every other character stays as it was.

Texts are read with PyYAML, as Hermes reads them: its YAML 1.1 decides what ``off``, ``012`` or ``1:30`` mean. Edits cut
and insert at the positions that PyYAML reports; the tree is not dumped. So comments, order, quotes, blank lines, the
spelling of numbers and the kind of line break survive. Callers compare the result with the intended tree
(:func:`same`), so that a text too exotic for this module is refused, not damaged.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from typing import Any

from .errors import OpsError

try:
    import yaml
except ImportError:  # a bare host, before the role base
    yaml = None

Path = Sequence[str]

# The rest of a line, up to a line break that both Python and YAML know. The text keeps its own line breaks.
_END_OF_LINE = re.compile(r"[^\r\n]*")
_LINE_BREAK = re.compile(r"\r\n|\n|\r|\Z")
_ALIAS = re.compile(r"\s*:\s*\*[^\s,\]}]+")
_BRACKETS = re.compile(r"[\[\]{}]")
# Nested brackets that are accepted. libyaml's time grows with the square of their depth.
_BRACKET_DEPTH = 200
# Names at the end of a path that are kept.
_PATH = 8
# A quotation in PyYAML's messages: one character or the name of a token ('<block end>'), or else text of the file.
_QUOTATION = re.compile(r"('.'|'<[a-z ]+>')|['\"].*", re.DOTALL)
# Further characters that PyYAML takes for line breaks, and the byte order mark: a value with one needs double quotes.
_UNUSUAL_BREAKS = re.compile("[\x85\u2028\u2029\ufeff]")


# Files of Hermes and of people stay far below these limits; more is damage or an attack.
_DEPTH = 100
_VALUES = 100_000


def available() -> bool:
    """Whether PyYAML is installed on this host."""
    return yaml is not None


def load(text: str, path: str) -> dict[Any, Any]:
    """The mapping that Hermes sees in *text*; ``{}`` when it is empty.

    :param path: named in errors
    :raises OpsError: when it does not parse or is not a mapping; names the line
    """
    require()
    # The same loader as in Hermes (utils.py, fast_safe_load, 0.18.2 and 0.19.0).
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        _refuse_excess(text, loader, path)
        tree = yaml.load(text, Loader=loader)
    except yaml.YAMLError as error:
        raise _syntax_error(error, text, path) from None
    except (RecursionError, ValueError, TypeError, LookupError, AttributeError) as error:
        # PyYAML does not catch these errors, which come from values that do not fit their tag.
        raise OpsError(
            f"is not YAML that Hermes can read ({type(error).__name__})", where=path, fix="repair it"
        ) from None
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise OpsError(
            f"is a {type(tree).__name__}, not a mapping",
            where=f"{path}:1",
            fix="repair it; it was left as it is",
        )
    return tree


def is_too_deep(text: str) -> bool:
    """Whether *text* may nest brackets so deeply that a YAML parser would exhaust memory or time."""
    depth = 0
    for bracket in _BRACKETS.finditer(text):
        depth = max(0, depth + (1 if bracket[0] in "[{" else -1))
        if depth > _BRACKET_DEPTH:
            return True
    return False


def scalars(text: str) -> Iterator[tuple[tuple[Any, ...], str, str | None]]:
    """The scalars in *text*: path, value as spelled, and the scalar before it in its list.

    Suitable for hostile or broken text: there is no recursion, aliases are not expanded, and the scalars before a
    syntax error are returned. Without PyYAML there are none.
    """
    if yaml is None or is_too_deep(text):
        return
    # For each open collection: its path, whether it is a mapping, the key that waits for a value, the previous item.
    stack: list[list[Any]] = []
    anchored: dict[str, str] = {}
    try:
        for event in yaml.parse(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
            if isinstance(event, yaml.events.CollectionEndEvent):
                stack.pop()
                continue
            if not isinstance(event, yaml.events.NodeEvent):
                continue
            top = stack[-1] if stack else [(), False, None, None]
            path, is_mapping, key, before = top
            if isinstance(event, yaml.events.CollectionStartEvent):
                # Only the last names of a path are kept: the name of a value is close to it.
                below = (*path, key if is_mapping else 0)[-_PATH:]
                stack.append([below, isinstance(event, yaml.events.MappingStartEvent), None, None])
                top[2:] = [None, None]
                continue
            is_alias = isinstance(event, yaml.events.AliasEvent)
            value = anchored.get(event.anchor, "") if is_alias else event.value
            if event.anchor and not is_alias:
                anchored[event.anchor] = value
            if is_mapping and key is None:
                top[2] = value
                continue
            yield (*path, key if is_mapping else 0), value, before
            top[2:] = [None, None if is_mapping else value]
    except (yaml.YAMLError, ValueError):
        return


def _refuse_excess(text: str, loader: Any, path: str) -> None:
    """Refuse a text that would exhaust the stack or memory of its parser, or of code that walks the result.

    Counts the parser's events, each of which is small. An alias counts as many values as its anchor holds.

    :raises OpsError: names the line
    """
    # For each open collection: its anchor, and the number of values before it.
    opened: list[tuple[str | None, int]] = []
    held: dict[str | None, int] = {}
    values = 0
    for event in yaml.parse(text, Loader=loader):
        excess = None
        if isinstance(event, yaml.AliasEvent):
            values += held.get(event.anchor, 0)
            if any(anchor == event.anchor for anchor, _before in opened):
                excess = "has an alias that refers to a collection around it"
        elif isinstance(event, yaml.CollectionStartEvent):
            opened.append((event.anchor, values))
            values += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = opened.pop()
            held[anchor] = values - before
        elif isinstance(event, yaml.ScalarEvent):
            values += 1
            held[event.anchor] = 1
        if len(opened) > _DEPTH:
            excess = f"is nested more than {_DEPTH} levels deep"
        if values > _VALUES:
            excess = f"holds more than {_VALUES} values, counting those that aliases refer to"
        if excess:
            place = f"{path}:{event.start_mark.line + 1}"
            raise OpsError(excess, where=place, fix="repair it; it was left as it is")


def require() -> None:
    """:raises OpsError: PyYAML is not installed on this host"""
    if yaml is None:
        raise OpsError("PyYAML is missing on this host", fix="install the package python3-yaml, or run the role base")


def _syntax_error(error: Exception, text: str, path: str) -> OpsError:
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    # For a character that is not allowed, PyYAML gives a position only.
    before = text.count("\n", 0, getattr(error, "position", None) or 0)
    line = (before if mark is None else mark.line) + 1
    # The error's full text quotes the line, which may hold a secret. So does `problem` for tags, anchors and aliases.
    reason = getattr(error, "problem", None) or getattr(error, "reason", None) or type(error).__name__
    reason = _QUOTATION.sub(lambda quoted: quoted[1] or "…", reason)
    return OpsError(f"is not YAML ({reason})", where=f"{path}:{line}", fix="repair it; it was left as it is")


def same(one: Any, other: Any) -> bool:
    """Whether both are equal, also in type and order: ``1``, ``1.0`` and ``true`` differ, NaN equals NaN."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return list(map(_key, one)) == list(map(_key, other)) and all(
            same(a, b) for a, b in zip(one.values(), other.values())
        )
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(same(a, b) for a, b in zip(one, other))
    if isinstance(one, float) and math.isnan(one):
        return math.isnan(other)
    return bool(one == other)


def _key(key: Any) -> tuple[str, Any]:
    return type(key).__name__, key


def key_in(mapping: dict[Any, Any], name: str) -> Any:
    """The key of *mapping* that *name* means: *name*, or the integer that it spells; None when there is none.

    Names pass through JSON, which has text keys only; files also have integers (``123456789: …``).
    """
    if name in mapping:
        return name
    # In Python a bool is an int, but no name spells one.
    numbers = (key for key in mapping if isinstance(key, int) and not isinstance(key, bool))
    return next((key for key in numbers if str(key) == name), None)


# Writing


def set_value(text: str, keys: Path, value: Any, path: str) -> str:
    """*text* with *value* at *keys*; parents that are missing or not mappings become mappings.

    :raises OpsError: when the place cannot be edited (an alias, a key that occurs twice)
    """
    root = _compose(text, path)
    if root is None:
        return _ended(text) + _block(_nested(keys, value), 0, _newline(text))
    if root.flow_style and not root.value:
        start, end = root.start_mark.index, root.end_mark.index
        return text[:start] + _block(_nested(keys, value), 0, _newline(text)).rstrip("\r\n") + text[end:]
    node, flow = root, False
    for depth, name in enumerate(keys):
        flow = flow or bool(node.flow_style)
        pair = _pair(node, name, path)
        if pair is None:
            return _insert(text, node, _nested(keys[depth:], value), flow)
        key, child = pair
        _refuse_alias(key, child, keys, path)
        rest = keys[depth + 1 :]
        if not rest or not isinstance(child, yaml.MappingNode) or not child.value:
            return _replace(text, key, child, _nested(rest, value), flow)
        node = child
    raise AssertionError("keys is empty")


def delete(text: str, keys: Path, path: str) -> str:
    """*text* without the key at *keys*, which must exist; a mapping that loses its last key becomes ``{}``.

    :raises OpsError: when the place cannot be edited
    """
    node = key = None
    child = _compose(text, path)
    for name in keys:
        if key is not None:
            _refuse_alias(key, child, keys, path)
        node = child
        pair = _pair(node, name, path)
        if pair is None:
            raise _too_exotic(keys, node, path)
        key, child = pair
    if len(node.value) == 1 and len(keys) > 1:
        return set_value(text, keys[:-1], {}, path)
    end = _pair_end(text, key, child)
    if node.flow_style:
        return _cut_from_flow(text, node, key, end)
    start = _line_start(text, key.start_mark.index)
    if text[start : key.start_mark.index].strip(" \ufeff"):
        raise _too_exotic(keys, key, path)
    if text[start : start + 1] == "\ufeff":
        start += 1
    return text[:start] + text[_next_line(text, end) :]


def line_of(text: str, keys: Path, path: str) -> int | None:
    """The line of the key at *keys*, or of its nearest existing parent; None when there is none."""
    node, line = _compose(text, path), None
    for name in keys:
        pairs = [pair for pair in getattr(node, "value", ()) if _is_named(pair[0], name)]
        if not isinstance(node, yaml.MappingNode) or not pairs:
            break
        line, node = pairs[-1][0].start_mark.line + 1, pairs[-1][1]
    return line


def _compose(text: str, path: str):
    require()
    try:
        # The pure Python loader, because its marks count characters; libyaml's marks skip a byte order mark.
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        raise _syntax_error(error, text, path) from None
    return root if isinstance(root, yaml.MappingNode) else None


def _is_named(key, name: str) -> bool:
    if not isinstance(key, yaml.ScalarNode):
        return False
    if key.tag == "tag:yaml.org,2002:str":
        return key.value == name
    return key.tag == "tag:yaml.org,2002:int" and key.value == name


def _pair(mapping, name: str, path: str):
    pairs = [pair for pair in mapping.value if _is_named(pair[0], name)]
    if len(pairs) > 1:
        raise OpsError(
            f"{name!r} occurs {len(pairs)} times",
            where=f"{path}:{pairs[-1][0].start_mark.line + 1}",
            fix="keep the last one, which Hermes reads; the file was left as it is",
        )
    return pairs[0] if pairs else None


def _is_alias(key, value) -> bool:
    # PyYAML puts the anchor's node, which stands further up in the text, in place of the alias.
    return value.start_mark.index < key.end_mark.index


def _refuse_alias(key, value, keys: Path, path: str) -> None:
    if _is_alias(key, value):
        raise _too_exotic(keys, key, path)


def _too_exotic(keys: Path, node, path: str) -> OpsError:
    return OpsError(
        f"{'.'.join(keys)} cannot be changed in place (anchor, alias, merge key or unusual form)",
        where=f"{path}:{node.start_mark.line + 1}",
        fix="write this key out plainly; the file was left as it is",
    )


def _nested(keys: Path, value: Any) -> Any:
    for name in reversed(keys):
        value = {name: value}
    return value


def _newline(text: str) -> str:
    return "\r\n" if "\r\n" in text else "\n"


def _ended(text: str) -> str:
    return text if not text or text.endswith(("\n", "\r", "\ufeff")) else text + _newline(text)


def _line_start(text: str, position: int) -> int:
    return max(text.rfind("\n", 0, position), text.rfind("\r", 0, position)) + 1


def _line_end(text: str, position: int) -> int:
    return _END_OF_LINE.match(text, position).end()


def _next_line(text: str, position: int) -> int:
    return _LINE_BREAK.match(text, _line_end(text, position)).end()


def _last_character(text: str, node) -> int:
    """Where the last scalar in *node* ends, not counting aliases."""
    start, end = node.start_mark.index, node.end_mark.index
    if isinstance(node, yaml.ScalarNode):
        if node.style in ("|", ">"):
            return start + len(text[start:end].rstrip())
        return end
    if node.flow_style:
        return end
    children = [part for item in node.value for part in (item if isinstance(item, tuple) else (item,))]
    # The node of an alias is its anchor's: it begins before *node*, or is *node* itself.
    own = [child for child in children if child.start_mark.index >= start and child is not node]
    return max([start, *(_last_character(text, child) for child in own)])


def _end(text: str, node) -> int:
    """Where *node* ends; for a block collection, the end of its last line that is not a comment."""
    last = _last_character(text, node)
    if isinstance(node, yaml.ScalarNode) or node.flow_style:
        return last
    # PyYAML ends a block where the next token begins; comments and blank lines before that are not part of the block.
    end = node.end_mark.index
    while end > last:
        start = max(_line_start(text, end), last)
        line = text[start:end].strip()
        if line and not line.startswith("#"):
            break
        end = max(len(text[:start].rstrip("\r\n")), last) if start > last else last
    return _line_end(text, end)


def _pair_end(text: str, key, value) -> int:
    if _is_alias(key, value):
        return _ALIAS.match(text, key.end_mark.index).end()
    return _end(text, value)


def _insert(text: str, mapping, addition: dict[str, Any], flow: bool) -> str:
    last_key, last_value = mapping.value[-1]
    end = _pair_end(text, last_key, last_value)
    if flow:
        return f"{text[:end]}, {_inline(addition)[1:-1]}{text[end:]}"
    position = _next_line(text, end)
    block = _block(addition, mapping.value[0][0].start_mark.column, _newline(text))
    return _ended(text[:position]) + block + text[position:]


def _replace(text: str, key, old, value: Any, flow: bool) -> str:
    start, end = old.start_mark.index, _end(text, old)
    in_line = old.start_mark.line == key.end_mark.line
    space = " " if text[start - 1] == ":" else ""
    if flow:
        return text[:start] + space + _inline(value) + text[end:]
    as_block = _needs_block(value)
    if not as_block and in_line:
        return text[:start] + space + _inline(value) + text[end:]
    newline = _newline(text)
    if not as_block:
        colon = text.index(":", key.end_mark.index) + 1
        between = text[colon : _line_start(text, start)]
        return f"{text[:colon]} {_inline(value)}{between}{text[_next_line(text, end) :]}"
    column = key.start_mark.column
    if isinstance(value, str):
        # A literal block begins on the key's line, before its comment.
        body = _block({"k": value}, column, newline)
        header, _separator, body = body.lstrip(" ")[2:].partition(newline)
    else:
        header, body = "", _block(value, column + 2, newline)
    colon = text.index(":", key.end_mark.index) + 1
    if in_line:
        comment = text[end : _line_end(text, end)].rstrip()
        return f"{text[:colon]}{header}{comment}{newline}{body}{text[_next_line(text, end) :]}"
    between = text[colon : _line_start(text, start)]
    if header:
        comment = between.splitlines()[0] if between.strip() else ""
        between = comment + newline
    return f"{text[:colon]}{header}{between}{body}{text[_next_line(text, end) :]}"


def _cut_from_flow(text: str, mapping, key, end: int) -> str:
    index = [pair[0] for pair in mapping.value].index(key)
    if index + 1 < len(mapping.value):
        return text[: key.start_mark.index] + text[mapping.value[index + 1][0].start_mark.index :]
    if index:
        return text[: _pair_end(text, *mapping.value[index - 1])] + text[end:]
    return text[: key.start_mark.index] + text[end:]


def _needs_block(value: Any) -> bool:
    if isinstance(value, str):
        return _literal(value)
    return isinstance(value, (dict, list)) and bool(value)


def _literal(value: str) -> bool:
    """Whether a text is written as a literal block (``|``)."""
    return (
        "\n" in value
        and all(line == line.rstrip() and line.replace("\t", "").isprintable() for line in value.split("\n"))
        and not _UNUSUAL_BREAKS.search(value)
        and bool(value.strip())
    )


def _dumper(in_flow: bool):
    class Dumper(yaml.SafeDumper):
        def increase_indent(self, flow=False, indentless=False):
            # Indents lists below their key.
            return super().increase_indent(flow, False)

        def ignore_aliases(self, data):
            return True

    def represent_str(dumper, value: str):
        style = None
        if not in_flow and _literal(value):
            style = "|"
        elif "\n" in value or "\r" in value or _UNUSUAL_BREAKS.search(value):
            style = '"'
        return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)

    Dumper.add_representer(str, represent_str)
    return Dumper


def _inline(value: Any) -> str:
    text = _dump([value], in_flow=True).rstrip("\n")
    return text[1:-1]


def _block(value: Any, column: int, newline: str) -> str:
    lines = _dump(value, in_flow=False).split("\n")[:-1]
    return "".join((" " * column + line if line else "") + newline for line in lines)


def _dump(value: Any, *, in_flow: bool) -> str:
    require()
    return yaml.dump(
        value,
        Dumper=_dumper(in_flow),
        default_flow_style=in_flow,
        allow_unicode=True,
        sort_keys=False,
        width=math.inf,
    )
