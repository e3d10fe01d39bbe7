# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is a secret, by its name, its look or its place."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

# Names, of config.yaml and of variables, whose value is a secret. Used on what is declared and on all that is shown.
SECRET_NAME = re.compile(
    r"(^|[_-])(api_?keys?|authorization|cookie|credentials?|key|passphrase|passwd|passwords?|secrets?|token)$", re.I
)
# Below these everything may be one: an MCP server's environment, the headers of a request.
SECRET_PARENTS = frozenset({"env", "headers", "extra_headers"})
# Values that are secrets wherever they stand: keys of OpenAI-like providers, Slack, GitHub, AWS, PEM blocks, what
# HTTP sends as Authorization.
SECRET_VALUE = re.compile(
    r"^(sk-[\w-]{16,}|xox[abpr]-\S{10,}|gh[pousr]_\w{20,}|AKIA\w{12,}|-----BEGIN [A-Z ]*PRIVATE KEY"
    r"|Bearer\s+\S{8,}$|Basic\s+(?=\S*[A-Z\d=])[A-Za-z\d+/]{8,}=*$)"
)
# A password in a URL, or, to HTTP, a user without one: a token.
URL_CREDENTIALS = re.compile(r"://[^/\s:@]*:[^/\s]+@|https?://[^/\s:@]+@", re.I)
# What stands for a secret: a variable as Hermes' config (${NAME}) and its MCP servers (${env:NAME}) expand it, an
# item of 1Password (0.18.2 and 0.19.0).
REFERENCE = re.compile(r"\$\{(env:)?[A-Za-z_][A-Za-z0-9_]*\}|^op://.*$")


def is_secret(path: tuple[str | int, ...], value: Any) -> bool:
    """Whether the scalar *value* at *path* of a config is a secret, by its name or its look.

    One that holds a ``${REFERENCE}`` is none, unless what stands beside the reference looks like one.

    :param path: names, and numbers for the places in lists
    """
    if value is None or isinstance(value, bool):
        return False
    text = REFERENCE.sub("", str(value))
    if SECRET_VALUE.match(text) or URL_CREDENTIALS.search(text):
        return True
    if not text or text != str(value):
        return False
    names = [part for part in path if isinstance(part, str)]
    if not names:
        return False
    # An element of `tokens` is a token; `max_tokens` itself is none.
    name = names[-1] if path[-1] == names[-1] else names[-1].rstrip("s")
    return SECRET_NAME.search(name) is not None


def may_be_secret(path: tuple[str | int, ...], value: Any) -> bool:
    """Whether *value* must not be shown: a secret, or any text below a key like ``env`` that is no reference."""
    below = isinstance(value, str) and not SECRET_PARENTS.isdisjoint(path[:-1])
    return is_secret(path, value) or (below and value != "" and REFERENCE.sub("", value) == value)


def is_secret_setting(name: str, value: str) -> bool:
    """Whether the variable *name* must not be shown with this *value*. Nothing in ``.env`` is a reference."""
    return bool(value) and (SECRET_NAME.search(name) is not None or is_secret((name,), value))


def secret_paths(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Where in *value* secrets stand, within lists too."""
    if isinstance(value, dict):
        for name, part in value.items():
            yield from secret_paths(part, (*path, str(name)))
    elif isinstance(value, list):
        for number, part in enumerate(value):
            yield from secret_paths(part, (*path, number))
    elif is_secret(path, value):
        yield path
