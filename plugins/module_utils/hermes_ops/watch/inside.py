# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The part of a bundle that comes from an agent's home: its secrets, to hide them everywhere, and what may be shown.

Runs in a worker, as the agent. Everything that it reads is under the agent's control, so everything has a limit. Files
with more secrets than the limit are named: the bundle then leaves out all parts about this agent.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import stat
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

from ..agent import config, dotenv, webhooks
from ..description.hiding import named_values, shown
from ..description.schema import OWNED_ENV
from ..description.secrets import is_secret_setting, leaves_of, may_be_secret
from ..system import yaml_edit
from ..system.errors import OpsError
from ..system.files import read_bytes
from ..system.text import moment, one_line

# Limits: bytes of one file that are read, and total length and number of the secrets of one agent.
FILE_LIMIT = 2**20
SECRETS_LENGTH = 2**16
SECRETS_NUMBER = 500
# Further files in a home that hold credentials (0.19.0: auth.json, .anthropic_oauth.json, slack_tokens.json), or have
# such a name; the most that are read, and the depth to which they are searched.
CREDENTIALS = re.compile(r"(auth|cred|oauth|secret|token)[^/]*\.json$|\.(key|pem)$|^id_(rsa|ecdsa|ed25519)$", re.I)
CREDENTIAL_FILES = 50
DEPTH = 2
# The most entries of a home that are listed, and that are looked at.
LISTED = 2000
LOOKED_AT = 200_000
# The most values in a config.yaml.
LEAVES = 20_000
# A value of at least this many characters counts as private even if its name is not that of a secret: it may be an
# account, or a person's number.
PRIVATE = 8
# Names that people give to settings. Any other name may be a piece of a pasted key.
_SETTING = re.compile(r"[A-Z][A-Z0-9_]{0,63}|[a-z][a-z0-9_]{0,63}")
_LONG_WORD = re.compile(r"[^\s\"'=:,;&|<>()\[\]{}]{16,}")
_URL = re.compile(r"\S*://\S+")


# Secrets


class Findings:
    """Collects the secrets of an agent, within limits."""

    def __init__(self) -> None:
        self.secrets: dict[str, None] = {}
        self.private: dict[str, None] = {}
        self.incomplete: list[str] = []
        self._length = 0

    def add(self, value: str, *, secret: bool, source: str) -> None:
        value = value.strip()
        if not value or value in self.secrets or (not secret and value in self.private):
            return
        self._length += len(value)
        if self._length > SECRETS_LENGTH or len(self.secrets) + len(self.private) >= SECRETS_NUMBER:
            if source not in self.incomplete:
                self.incomplete.append(source)
            return
        (self.secrets if secret else self.private)[value] = None


def secrets_in(home: str, copies: list[list[str]]) -> dict[str, list[str]]:
    """The secrets of the agent that lives in *home*.

    :param copies: name and text of further files of the agent, stored elsewhere
    :returns: ``secrets``, ``private`` (values that may be secret), ``incomplete`` (files not searched completely)
    """
    found = Findings()
    for name, text in copies:
        _take(found, name, text)
    for name in dict.fromkeys([dotenv.FILE_NAME, config.FILE_NAME, webhooks.FILE_NAME, *_credential_files(home)]):
        with contextlib.suppress(OpsError):  # unreadable (a pipe): no program can have copied it into a log either
            data = read_bytes(os.path.join(home, name), FILE_LIMIT + 1) or b""
            if len(data) > FILE_LIMIT:
                found.incomplete.append(name)
            _take(found, name, data[:FILE_LIMIT].decode("utf-8", "replace"))
    return {"secrets": list(found.secrets), "private": list(found.private), "incomplete": found.incomplete}


def _credential_files(home: str) -> list[str]:
    names = []
    for path, status in _entries(home):
        if stat.S_ISREG(status.st_mode) and path.count(os.sep) < DEPTH and CREDENTIALS.search(os.path.basename(path)):
            names.append(path)
    return sorted(names)[:CREDENTIAL_FILES]


def _take(found: Findings, name: str, text: str) -> None:
    if name.endswith(dotenv.FILE_NAME):
        values = env_values(text)
    elif name.endswith(".yaml"):
        values = ((value, True) for value in config_secrets(text))
    elif name.endswith(".json"):
        values = ((value, True) for value in json_secrets(text))
    else:
        values = ((value, True) for value in (text, *text.splitlines()) if len(value) >= PRIVATE)
    for value, secret in values:
        found.add(value, secret=secret, source=name)


def env_values(text: str) -> Iterator[tuple[str, bool]]:
    """The values of a ``.env``, and whether each is secret or only private.

    Values are yielded as parsed and as written. A line that is neither a setting nor a comment counts as part of a
    pasted secret.
    """
    pairs = [(binding.name, value) for binding in dotenv.parse(text) for value in (binding.raw, binding.value) if value]
    for line in text.splitlines():
        name, equals, value = line.partition("=")
        name = name.replace("export ", "").strip(" #'\"\t")
        if equals and _SETTING.fullmatch(name):
            pairs.append((name, value.strip().strip("'\"")))
        elif len(line.strip()) >= PRIVATE and not line.lstrip().startswith("#"):
            yield line.strip(), True
    for name, value in pairs:
        if is_secret_setting(name, value) or "\n" in value:
            yield value, True
        elif len(value) >= PRIVATE and name not in OWNED_ENV and not value.startswith("/"):
            yield value, False


def config_secrets(text: str) -> Iterator[str]:
    """The secrets in a ``config.yaml`` and its comments, even if it does not parse."""
    yield from named_values(text)
    for path, value, before in yaml_edit.scalars(text):
        if may_be_secret(path, value, before):
            yield value


def json_secrets(text: str) -> Iterator[str]:
    """The secrets and URLs in a JSON file; all long words when it does not parse."""
    try:
        for path, value, before in leaves_of(json.loads(text or "null")):
            if may_be_secret(path, value, before) or (isinstance(value, str) and _URL.fullmatch(value)):
                yield str(value)
    except (ValueError, RecursionError):
        yield from _LONG_WORD.findall(text)


# Members of the bundle


MEMBERS = ("config.yaml.json", "env_names.txt", "webhooks.json", "gateway_state.json", "home.txt")
# Longest member, in characters.
MEMBER_LIMIT = 2**19


def members_of(home: str) -> dict[str, str]:
    """Member of the bundle -> its text, from *home*. Values whose name or form is that of a secret are hidden."""
    makers: dict[str, Callable[[], str]] = {
        "config.yaml.json": lambda: _config(home),
        "env_names.txt": lambda: env_names(_text(os.path.join(home, dotenv.FILE_NAME))),
        "webhooks.json": lambda: _webhooks(home),
        "gateway_state.json": lambda: _text(os.path.join(home, "gateway_state.json")) or "there is none\n",
        "home.txt": lambda: listing(home),
    }
    members = {}
    for member, make in makers.items():
        try:
            members[member] = make()[:MEMBER_LIMIT]
        except (OpsError, OSError, ValueError, RecursionError) as error:
            members[member] = f"not available: {error}\n"
    return members


def _text(path: str) -> str | None:
    data = read_bytes(path, FILE_LIMIT)
    return None if data is None else data.decode("utf-8", "replace")


def _config(home: str) -> str:
    """The values of config.yaml, with secrets hidden. Comments are dropped: they may hold secrets."""
    text = _text(os.path.join(home, config.FILE_NAME))
    if text is None:
        return "there is none\n"
    if yaml_edit.is_too_deep(text):
        raise OpsError("is nested too deeply", where=config.FILE_NAME)
    tree = yaml_edit.load(text, config.FILE_NAME)
    # YAML aliases of aliases can expand a small file beyond any memory.
    if next(itertools.islice(leaves_of(tree), LEAVES, None), None):
        raise OpsError(f"holds more than {LEAVES} values", where=config.FILE_NAME)
    return as_json(shown((), tree))


def env_names(text: str | None) -> str:
    """The names in a ``.env``, one a line. Names that may be a piece of a pasted key are only counted."""
    if text is None:
        return "there is none\n"
    names = [binding.name for binding in dotenv.parse(text) if binding.raw is not None]
    good = [name for name in names if _SETTING.fullmatch(name)]
    others = len(names) - len(good)
    return "".join(f"{name}\n" for name in good) + (f"and {others} not named like a setting\n" if others else "")


def _webhooks(home: str) -> str:
    return as_json(shown(("webhook",), webhooks.read_subscriptions(os.path.join(home, webhooks.FILE_NAME))))


def as_json(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False, default=str) + "\n"


def listing(home: str) -> str:
    """The entries of a home with mode, owner, size and time. Deeper levels are only summed up."""
    lines: list[str] = []
    deeper: dict[str, list[int]] = {}
    looked_at = left_out = 0
    for path, status in _entries(home):
        looked_at += 1
        if path.count(os.sep) >= DEPTH:
            total = deeper.setdefault(os.sep.join(path.split(os.sep)[:DEPTH]), [0, 0])
            total[0] += 1
            total[1] += status.st_size
        elif len(lines) < LISTED:
            about = f"{stat.filemode(status.st_mode)} {status.st_uid:>6} {status.st_size:>12}"
            lines.append(f"{about} {moment(status.st_mtime)} {one_line(path)}")
        else:
            left_out += 1
    more = [f"{one_line(path)}/…: {number} entries, {size} bytes" for path, (number, size) in sorted(deeper.items())]
    notes = [f"and {left_out} more"] if left_out else []
    if looked_at >= LOOKED_AT:
        notes.append(f"only the first {LOOKED_AT} entries were looked at")
    return "\n".join([*lines, *more[:LISTED], *notes]) + "\n"


def _entries(home: str) -> Iterator[tuple[str, os.stat_result]]:
    """Yield the entries of *home*, top down, as path relative to it and status; at most :data:`LOOKED_AT`."""
    left, number = deque([""]), 0
    while left:
        below = left.popleft()
        try:
            with os.scandir(os.path.join(home, below)) as entries:
                names = sorted(entry.name for entry in itertools.islice(entries, LOOKED_AT))
        except OSError:
            continue
        for name in names:
            path = os.path.join(below, name)
            number += 1
            if number > LOOKED_AT:
                return
            with contextlib.suppress(OSError):  # the running agent has just removed it, or its path is too long
                status = os.lstat(os.path.join(home, path))
                if stat.S_ISDIR(status.st_mode):
                    left.append(path)
                yield path, status
