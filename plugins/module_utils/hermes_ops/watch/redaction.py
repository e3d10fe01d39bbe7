# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The secrets of a host, taken out of text, and looked for in what is left.

Two ways, for neither is enough alone: every secret that the host knows, in whatever form it may have got into a log;
and what looks like a secret, for those that it does not know.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import stat
from collections.abc import Iterable, Iterator
from typing import Any
from urllib.parse import quote, quote_plus, urlsplit

from ..agent import config, dotenv, webhooks
from ..description.declaration import OWNED_ENV
from ..description.secrets import SECRET_NAME, SECRET_VALUE, URL_CREDENTIALS, is_secret_setting, may_be_secret
from ..host import settings
from ..host.installation import Installation
from ..system import yaml_edit
from ..system.errors import OpsError
from ..system.files import Owner, acting_as, read_bytes
from ..system.plan import HIDDEN

# A shorter secret is only taken for one where it stands alone: its letters are in other words as well.
SHORT = 6
# A setting without a name that says secret may still be private: an account, a number of a person.
PRIVATE = 8
# Of an encoded secret this many characters are enough to be sure, and to be worth hiding.
ENCODED = 8

_PEM = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.S)
_AUTHORIZATION = re.compile(r"\b(Bearer|Basic)(\s+)[^\s\"']{8,}", re.I)
_NAME = re.compile(r"([\w-]+)[\"']?\s*[:=]\s*[\"']?")
_VALUE = re.compile(r"[^\s\"',;&}\]]+")
_WORD = re.compile(r"[^\s\"'=:,;&|<>()\[\]{}]+")
_URL_USER = re.compile(r"(://)[^/\s@]+(@)")


class Secrets:
    """What must not leave the host.

    :param values: every secret, as it is
    """

    def __init__(self, values: Iterable[str]) -> None:
        self.values = frozenset(part for value in values for part in _parts(value))
        forms = {form for value in self.values for form in forms_of(value)}
        # The longest first, for one may hold another.
        longest = sorted(forms, key=lambda form: (-len(form), form))
        patterns = [re.escape(form) if len(form) >= SHORT else rf"(?<!\w){re.escape(form)}(?!\w)" for form in longest]
        self._pattern = re.compile("|".join(patterns) or r"(?!)")
        # A log or a page of YAML may break a long one over lines.
        joined = {joined for form in longest if len(joined := "".join(form.split())) >= ENCODED}
        self._joined = re.compile("|".join(map(re.escape, sorted(joined))) or r"(?!)")

    def hidden(self, text: str) -> str:
        """*text* without the secrets, and without what looks like one."""
        return hide_patterns(self._pattern.sub(HIDDEN, text))

    def found_in(self, text: str) -> bool:
        """Whether a secret stands in *text*, also one that is broken over lines."""
        return bool(self._pattern.search(text) or self._joined.search("".join(text.split())))


def forms_of(value: str) -> set[str]:
    """*value* as programs write it: plain, escaped for JSON, Python and a URL, in hexadecimal, and in base64, alone or
    within something longer."""
    if len(value) < SHORT:
        return {value}
    data = value.encode("utf-8", "surrogateescape")
    forms = {value, json.dumps(value)[1:-1], json.dumps(value, ensure_ascii=False)[1:-1]}
    forms |= {repr(value)[1:-1], ascii(value)[1:-1], value.encode("unicode_escape").decode()}
    for quoted in (quote(data, safe=""), quote(data), quote_plus(data)):
        forms |= {quoted, re.sub("%[0-9A-F]{2}", lambda match: match[0].lower(), quoted)}
    forms |= {data.hex(), data.hex().upper()}
    for before in range(3):
        encoded = base64.b64encode(bytes(before) + data).decode().rstrip("=")
        # What stands before it has a part in the first characters, what follows it in the last.
        start, end = (0, 2, 3)[before], len(encoded) - ((before + len(data)) % 3 > 0)
        if end - start >= ENCODED:
            forms |= {encoded[start:end], encoded[start:end].translate(str.maketrans("+/", "-_"))}
    return forms


def hide_patterns(text: str) -> str:
    """*text* without what looks like a secret: by its name, by its look, or in a URL."""
    text = _PEM.sub(HIDDEN, text)
    text = _AUTHORIZATION.sub(rf"\1\2{HIDDEN}", text)
    text = _URL_USER.sub(lambda match: f"{match[1]}{HIDDEN}{match[2]}", text) if "@" in text else text
    text = "".join(_without_assigned(text))
    return _WORD.sub(lambda match: HIDDEN if SECRET_VALUE.match(match[0]) else match[0], text)


def _without_assigned(text: str) -> Iterator[str]:
    """The pieces of *text* without the values that stand after the name of a secret."""
    position = 0
    for name in _NAME.finditer(text):
        value = _VALUE.match(text, name.end())
        if name.start() >= position and value and SECRET_NAME.search(name[1]):
            yield text[position : name.end()]
            yield HIDDEN
            position = value.end()
    yield text[position:]


def _parts(value: str) -> Iterator[str]:
    """*value*, its lines, and of a URL what makes it secret."""
    lines = [line.strip() for line in value.splitlines()]
    yield from {value, value.strip(), *(line for line in lines if len(line) >= PRIVATE)} - {""}
    if "://" in value:
        # One that is none after all has no parts.
        with contextlib.suppress(ValueError):
            url = urlsplit(value.strip())
            yield from {url.password or "", *(part for part in url.path.split("/") if len(part) >= 2 * PRIVATE)} - {""}


# What the host knows


def known(host: Installation) -> Secrets:
    """Every secret of the host's profiles and jobs, wherever it is kept. A file that is broken is read all the same."""
    values = set(_private_files(settings.DIRECTORY))
    for profile in host.profiles:
        home, kept = profile["home"], os.path.join(host.records(profile["name"]).directory, "kept")
        current = Owner.current()
        for directory, owner in ((home, host.owner), (profile["managed_dir"], current), (kept, current)):
            values |= set(env_secrets(_text(os.path.join(directory, dotenv.FILE_NAME), owner)))
            values |= set(config_secrets(_text(os.path.join(directory, config.FILE_NAME), owner)))
        for name in (webhooks.FILE_NAME, "auth.json"):
            values |= set(json_secrets(_text(os.path.join(home, name), host.owner)))
    return Secrets(values)


def env_secrets(text: str) -> Iterator[str]:
    """The values of a ``.env`` that are secret or private, as its readers and as the eye see them."""
    pairs = [(binding.name, value) for binding in dotenv.parse(text) for value in (binding.raw, binding.value) if value]
    for line in text.splitlines():
        name, equals, value = line.partition("=")
        if equals:
            pairs.append((name.replace("export ", "").strip(" #'\""), value.strip().strip("'\"")))
    for name, value in pairs:
        private = len(value) >= PRIVATE and name not in OWNED_ENV and not value.startswith("/")
        if value and (private or is_secret_setting(name, value)):
            yield value


def config_secrets(text: str) -> Iterator[str]:
    """The secrets in a ``config.yaml``; of one that does not parse, what has the name of a secret."""
    with contextlib.suppress(OpsError):
        yield from _leaves(yaml_edit.load(text, config.FILE_NAME) if yaml_edit.available() else {})
    for name, value in re.findall(r"^[\s-]*[\"']?([\w-]+)[\"']?\s*:\s*(.+?)\s*$", text, re.M):
        if SECRET_NAME.search(name) and not value.startswith("${"):
            yield value.strip("'\"")


def json_secrets(text: str) -> Iterator[str]:
    """The secrets in a JSON file, and every URL in it; all long words of one that does not parse."""
    try:
        value = json.loads(text or "null")
    except (ValueError, RecursionError):
        yield from (word for word in _WORD.findall(text) if len(word) >= 2 * PRIVATE)
        return
    yield from _leaves(value, urls=True)


def _leaves(value: Any, path: tuple[str | int, ...] = (), *, urls: bool = False) -> Iterator[str]:
    if isinstance(value, dict):
        for name, part in value.items():
            yield from _leaves(part, (*path, str(name)), urls=urls)
    elif isinstance(value, list):
        for number, part in enumerate(value):
            yield from _leaves(part, (*path, number), urls=urls)
    elif may_be_secret(path, value) or (isinstance(value, str) and _is_secret_url(value, any_url=urls)):
        yield str(value)


def _is_secret_url(value: str, *, any_url: bool) -> bool:
    # That of a ping is the whole secret.
    return bool(URL_CREDENTIALS.search(value) or (any_url and re.fullmatch(r"\S*://\S+", value)))


def _private_files(top: str) -> Iterator[str]:
    """The secrets in files that only root may read."""
    for directory, _directories, names in os.walk(top):
        for name in names:
            path = os.path.join(directory, name)
            if stat.S_IMODE(os.lstat(path).st_mode) & 0o077:
                continue
            text = _text(path, Owner.current())
            if name.endswith(".json"):
                yield from json_secrets(text)
            else:
                yield text


def _text(path: str, owner: Owner) -> str:
    try:
        with acting_as(owner):
            return (read_bytes(path) or b"").decode("utf-8", "replace")
    except OpsError:
        return ""  # a pipe, or nothing that could be read into a log either
