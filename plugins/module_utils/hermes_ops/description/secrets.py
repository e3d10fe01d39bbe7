# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Recognises secrets by name, form or place in declarations.

There are two questions. *Is it a secret?* decides whether a declaration is refused, so plain values must not be taken
for secrets (:func:`is_secret`). *May it be one?* decides whether a value is shown, so no secret may be missed
(:func:`may_be_secret`, and :mod:`.hiding`).

Every pattern here must run in linear time, because agents write the text that it is applied to. So a repetition is
either bounded, or begins only where no character of its kind precedes it (a lookbehind).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

Path = tuple[Any, ...]

# Names with these last words have a secret as value.
_SECRET_NAME = re.compile(
    r"(^|_)(api_?keys?|authorization|cookies?|credentials?|key|pass|passphrase|passwd|passwords?|pwd|secrets?|token)$"
)
# Names whose value may be a secret or a plain word, as in `auth: oauth`.
_PRIVATE_NAME = re.compile(
    r"(^|_)(auth|connection_string|dsn|j?sessionid|jwt|mnemonic|otp|phpsessid|pin|private|sig|signature"
    r"|(web)?hook(_url)?)$"
)
# Words that mark a secret anywhere in a name (SLACK_TOKEN_PROD, password_hash), unless its last word is a harmless one.
_SECRET_WORD = re.compile(r"(^|_)(apikey|api_key|credentials?|passphrase|passwd|password|secret|token)_")
_HARMLESS_WORD = re.compile(
    r"_(at|budget|count|dir|endpoint|env|expiry|expires|file|id|in|length|limit|name|path|ttl|type|uri|url|usage|used)$"
)
# Characters at the end of a name that are examined.
_NAME_LENGTH = 128
# Any text below these keys may be a secret: the environment of an MCP server, the headers of a request.
SECRET_PARENTS = frozenset({"env", "headers", "extra_headers"})

# Tokens with a known form, by issuer.
TOKEN = "|".join(
    (
        r"sk-[\w-]{16,}",  # OpenAI and compatible services
        r"[rs]k_(?:live|test)_\w{10,}",  # Stripe
        r"whsec_[\w+/=]{16,}",
        r"xox[a-z]-[\w-]{10,}|xapp-[\w-]{10,}",  # Slack
        r"gh[pousr]_\w{20,}|github_pat_\w{20,}",
        r"gl(?:pat|ptt|dt|rt|cbt)-[\w-]{16,}",
        r"A[KS]IA[A-Z0-9]{12,}",  # AWS
        r"AIza[\w-]{30,}|ya29\.[\w-]{10,}|GOCSPX-[\w-]{6,}",  # Google
        r"hf_\w{20,}|r8_\w{20,}|gsk_\w{20,}|xai-[\w-]{20,}|pplx-\w{20,}|tvly-[\w-]{16,}",  # model and search services
        r"npm_\w{30,}|pypi-[\w-]{30,}",
        r"do[opr]_v1_\w{30,}|hv[sb]\.[\w-]{20,}|tskey-[\w-]{10,}|SG\.[\w-]{16,}|ntn_\w{20,}|shp(?:at|ss)_\w{20,}",
        r"AGE-SECRET-KEY-1\w{20,}",
        r"h[uw]\d{1,3}_[\w-]{43}",  # ours: runtime_keys.py
        r"\d{8,10}:[\w-]{35}",  # Telegram
        r"[MNO][\w-]{23,28}\.[\w-]{6}\.[\w-]{27,}",  # Discord
        r"eyJ[\w-]{8,500}\.eyJ[\w-]{8,}(?:\.[\w-]*)?",  # a JSON Web Token
    )
)
_SECRET_VALUE = re.compile(
    rf"(?:{TOKEN}|-----BEGIN [A-Z ]*PRIVATE KEY|Bearer\s+\S{{8,}}$|Basic\s+(?=\S*[A-Z\d=])[A-Za-z\d+/]{{8,}}=*$)"
)
# A password in a URL; in an HTTP URL also a user without a password, which is a token.
_URL_CREDENTIALS = re.compile(r"://[^/\s:@]*:[^/\s]+@|https?://[^/\s:@]+@", re.I)
# URLs that are secret as a whole, because anybody who knows them can post. The match is the prefix that may be shown.
HOOK_URL = re.compile(
    r"(?:(?:hooks?\.[\w.-]+|[\w.-]+\.webhook\.office\.com|outlook\.office(?:365)?\.com/webhook"
    r"|[\w.-]+\.logic\.azure\.com(?::443)?|(?:[\w-]+\.)?discord(?:app)?\.com/api/(?:v\d+/)?webhooks"
    r"|chat\.googleapis\.com/v1/spaces|hc-ping\.com|maker\.ifttt\.com)/|api\.telegram\.org/(?:file/)?bot)(?=.)",
    re.I,
)
# What follows the scheme of a URL, also where its slashes are escaped.
URL = re.compile(r":(?:\\*/){2}((?:[^\s\"'<>\\`]+|\\+/)+)")
# References to a secret: a variable, as Hermes expands it in its config (${NAME}) and for MCP servers (${env:NAME}),
# or an item of 1Password (0.18.2 and 0.19.0).
REFERENCE = re.compile(r"\$\{(env:)?[A-Za-z_][A-Za-z0-9_]*\}|^op://.*$")
# An option of a command, which may name the next value in a list of arguments.
_OPTION = re.compile(r"--?([A-Za-z][\w-]*)")
_OPTION_VALUE = re.compile(r"--?([A-Za-z][\w-]*)=(.+)", re.S)


# Names and forms


def names_secret(name: str) -> bool:
    """Whether the value of *name* (a key, a variable, a header) is a secret: ``API_KEY``, ``botToken``, ``TOKEN_2``."""
    return _SECRET_NAME.search(words_of(name)) is not None


def may_name_secret(name: str, value: str) -> bool:
    """Whether *name* may be that of a secret; for some names this depends on the *value*."""
    words = words_of(name)
    return _names_surely(words) or (_PRIVATE_NAME.search(words) is not None and is_no_word(value))


def _names_surely(words: str) -> bool:
    return bool(_SECRET_NAME.search(words) or (_SECRET_WORD.search(words) and not _HARMLESS_WORD.search(words)))


def is_no_word(value: str) -> bool:
    """Whether *value* is no short or plain word, such as ``oauth``."""
    return len(value) > 3 and not (value.isalpha() and value.islower())


def words_of(name: str) -> str:
    """*name* in lower case, its words joined by ``_``, without leading or trailing digits."""
    apart = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name[-_NAME_LENGTH:])
    return re.sub(r"[\W_]+", "_", apart).lower().rstrip("_0123456789").lstrip("_0123456789")


def _looks_secret(text: str) -> bool:
    urls = (match[1] for match in URL.finditer(text))
    return bool(_SECRET_VALUE.match(text) or _URL_CREDENTIALS.search(text) or any(map(HOOK_URL.match, urls)))


# Trees: config.yaml, subscriptions, arguments of modules


def is_secret(path: Path, value: Any, before: Any = None) -> bool:
    """Whether the scalar *value* at *path* of a config is a secret, by its name or its form.

    A value with a ``${REFERENCE}`` is not, unless the text around the reference has the form of a secret.

    :param path: names, and numbers for positions in lists
    :param before: the element before it in its list
    """
    if value is None or isinstance(value, bool):
        return False
    text = REFERENCE.sub("", str(value))
    if _looks_secret(text):
        return True
    if not text or text != str(value):
        return False
    option = _OPTION_VALUE.fullmatch(text)
    return bool(option and names_secret(option[1])) or names_secret(_name_of(path, before))


def may_be_secret(path: Path, value: Any, before: Any = None) -> bool:
    """Whether *value* must not be shown: it may be a secret, or is text below a key like ``env`` and no reference."""
    if is_secret(path, value, before):
        return True
    if value is None or isinstance(value, bool) or str(value) == "" or REFERENCE.sub("", str(value)) != str(value):
        return False
    below = isinstance(value, str) and not SECRET_PARENTS.isdisjoint(path[:-1])
    return below or may_name_secret(_name_of(path, before), str(value))


def _name_of(path: Path, before: Any) -> str:
    """The name of the value at *path*: that of the option before it, its key, or the key of its list."""
    option = _OPTION.fullmatch(before) if isinstance(before, str) else None
    if option:
        return option[1]
    names = [part for part in path if isinstance(part, str)]
    if not names:
        return ""
    # An element of `tokens` is a token, but the value of `max_tokens` is not.
    return names[-1] if path[-1] == names[-1] else names[-1].rstrip("s")


def is_secret_setting(name: str, value: str) -> bool:
    """Whether the variable *name* of ``.env`` must not be shown with this *value*.

    A name of a secret decides, even if the value is a reference.
    """
    return bool(value) and (names_secret(name) or is_secret((name,), value))


def secret_paths(value: Any, path: Path = ()) -> Iterator[Path]:
    """The paths of secrets in *value*, also within lists."""
    for where, part, before in leaves_of(value, path):
        if is_secret(where, part, before):
            yield where


def leaves_of(value: Any, path: Path = (), before: Any = None) -> Iterator[tuple[Path, Any, Any]]:
    """The scalars of a tree: path, value, and the element before it in its list."""
    if isinstance(value, dict):
        for name, part in value.items():
            yield from leaves_of(part, (*path, str(name)))
    elif isinstance(value, list):
        for number, (before, part) in enumerate(zip([None, *value], value)):
            yield from leaves_of(part, (*path, number), before)
    else:
        yield path, value, before
