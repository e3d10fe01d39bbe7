# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The part of PEP 440 that version ranges and ``requires-python`` need; hosts do not have ``packaging``.

Left out on purpose: epochs, local versions (``+…``) and ``===``. Hermes and CPython use none of them, and they are
refused. As in PEP 440, a range includes pre-releases only when it names one itself.
"""

from __future__ import annotations

import re

from ..system.errors import OpsError

_VERSION = re.compile(
    r"v?(?P<release>\d+(?:\.\d+)*)"
    r"(?:[-_.]?(?P<pre>a|b|rc|alpha|beta|c|pre|preview)[-_.]?(?P<pre_n>\d*))?"
    r"(?:[-_.]?post[-_.]?(?P<post>\d*))?"
    r"(?:[-_.]?dev[-_.]?(?P<dev>\d*))?",
    re.IGNORECASE,
)
_CLAUSE = re.compile(r"\s*(?P<operator>~=|==|!=|<=|>=|<|>)\s*(?P<version>[^\s,]+?)(?P<wildcard>\.\*)?\s*")
_PRE = {"a": "a", "alpha": "a", "b": "b", "beta": "b", "c": "rc", "rc": "rc", "pre": "rc", "preview": "rc"}

Key = tuple[tuple[int, ...], tuple[str, int], int, float]


def is_version(text: str) -> bool:
    """Whether *text* is one exact version, such as ``0.19.0`` or ``0.20.0rc1``."""
    return _VERSION.fullmatch(text) is not None


def normal(text: str) -> str:
    """The version *text* in the one form for records, names and comparisons: ``0.19`` is ``0.19.0``.

    It has at least three numbers, as Hermes writes them, and pre-releases as in PEP 440. Other text stays as it is.
    """
    match = _VERSION.fullmatch(text)
    if match is None:
        return text
    release = [int(part) for part in match["release"].split(".")]
    while len(release) > 3 and release[-1] == 0:
        release.pop()
    release += [0] * (3 - len(release))
    pre = f"{_PRE[match['pre'].lower()]}{int(match['pre_n'] or 0)}" if match["pre"] else ""
    post, dev = (f".{name}{int(match[name] or 0)}" if match[name] is not None else "" for name in ("post", "dev"))
    return ".".join(map(str, release)) + pre + post + dev


def version_key(text: str) -> Key:
    """A key that sorts versions as PEP 440 does: dev < a < b < rc < final < post.

    :raises OpsError: *text* is not a supported version
    """
    match = _VERSION.fullmatch(text.strip())
    if match is None:
        raise OpsError(f"{text!r} is not a version", fix="write it as 0.19.0 or 0.20.0rc1")
    release = tuple(int(part) for part in match["release"].split("."))
    while len(release) > 1 and release[-1] == 0:
        release = release[:-1]
    post = -1 if match["post"] is None else int(match["post"] or 0)
    dev = float("inf") if match["dev"] is None else int(match["dev"] or 0)
    if match["pre"] is not None:
        pre = (_PRE[match["pre"].lower()], int(match["pre_n"] or 0))
    elif match["dev"] is not None and match["post"] is None:
        # "1.0.dev1" comes before "1.0a1".
        pre = ("", 0)
    else:
        pre = ("~", 0)
    return release, pre, post, dev


def tag_key(tag: str) -> tuple[bool, Key]:
    """A key that sorts tags of Hermes by age: by version, but years (v2026.9.24) before v0.22.1, which came later."""
    key = version_key(tag)
    return key[0][0] < 2000, key


def is_prerelease(text: str) -> bool:
    match = _VERSION.fullmatch(text.strip())
    return match is not None and (match["pre"] is not None or match["dev"] is not None)


def check_specifier(specifier: str) -> None:
    """:raises OpsError: *specifier* is not a list of clauses such as ``>=0.18,<0.20``"""
    for clause in specifier.split(","):
        match = _CLAUSE.fullmatch(clause)
        if match is None or not is_version(match["version"]):
            raise OpsError(
                f"{specifier!r} is neither a version nor a range",
                fix="write 0.19.0 or, as a range, >=0.18,<0.20",
            )
        if match["wildcard"] and match["operator"] not in ("==", "!="):
            raise OpsError(f"{specifier!r}: .* works with == and != only", fix="write ==0.19.*")
        if match["operator"] == "~=" and "." not in match["version"]:
            raise OpsError(f"{specifier!r}: ~= needs at least two numbers", fix="write ~=0.19 or ~=0.19.0")


def satisfies(version: str, specifier: str) -> bool:
    """Whether *version* lies in *specifier* (comma-separated clauses, all of which must hold).

    :raises OpsError: either is not supported
    """
    check_specifier(specifier)
    key = version_key(version)
    clauses = [_CLAUSE.fullmatch(clause) for clause in specifier.split(",")]
    named = [clause["version"] for clause in clauses if clause["operator"] != "!="]
    if is_prerelease(version) and not any(map(is_prerelease, named)):
        return False
    return all(_holds(key, *clause.group("operator", "version", "wildcard")) for clause in clauses)


def _holds(key: Key, operator: str, version: str, wildcard: str | None) -> bool:
    other = version_key(version)
    if operator == "~=":
        length = len(_VERSION.fullmatch(version)["release"].split(".")) - 1
        return key >= other and _begins(key, version, length)
    if wildcard:
        length = len(_VERSION.fullmatch(version)["release"].split("."))
        return _begins(key, version, length) == (operator == "==")
    if operator == ">":
        # "1.0.post1" is not > "1.0": a post-release of the bound itself is excluded. If the bound is a development
        # release, it has no post-releases.
        return key > other and not (key[:2] == other[:2] and key[2] >= 0 and other[2:] == (-1, float("inf")))
    if operator == "<" and not _early(other):
        # "1.0rc1" is not < "1.0": a pre-release of the bound is excluded as well.
        return key < version_key(f"{version}.dev0")
    return {"==": key == other, "!=": key != other, ">=": key >= other, "<=": key <= other, "<": key < other}[operator]


def _early(key: Key) -> bool:
    return key[1][0] != "~" or key[3] != float("inf")


def _begins(key: Key, version: str, length: int) -> bool:
    wanted = [int(part) for part in _VERSION.fullmatch(version)["release"].split(".")][:length]
    padded = list(key[0]) + [0] * length
    return padded[:length] == wanted
