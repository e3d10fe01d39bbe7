# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Recognises secrets by name, form or place, in declarations and in text that others wrote.

There are two questions. *Is it a secret?* decides whether a declaration is refused, so plain values must not be taken
for secrets (:func:`is_secret`). *May it be one?* decides whether a value is shown, so no secret may be missed
(:func:`may_be_secret`, :func:`shown`, :func:`redact_text`).

Every pattern here must run in linear time, because agents write the text that it is applied to. So a repetition is
either bounded, or begins only where no character of its kind precedes it (a lookbehind).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from ..system.plan import HIDDEN
from ..system.text import printable

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
_TOKEN = "|".join(
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
        r"\d{8,10}:[\w-]{35}",  # Telegram
        r"[MNO][\w-]{23,28}\.[\w-]{6}\.[\w-]{27,}",  # Discord
        r"eyJ[\w-]{8,500}\.eyJ[\w-]{8,}(?:\.[\w-]*)?",  # a JSON Web Token
    )
)
_SECRET_VALUE = re.compile(
    rf"(?:{_TOKEN}|-----BEGIN [A-Z ]*PRIVATE KEY|Bearer\s+\S{{8,}}$|Basic\s+(?=\S*[A-Z\d=])[A-Za-z\d+/]{{8,}}=*$)"
)
# A password in a URL; in an HTTP URL also a user without a password, which is a token.
_URL_CREDENTIALS = re.compile(r"://[^/\s:@]*:[^/\s]+@|https?://[^/\s:@]+@", re.I)
# URLs that are secret as a whole, because anybody who knows them can post. The match is the prefix that may be shown.
_HOOK_URL = re.compile(
    r"(?:(?:hooks?\.[\w.-]+|[\w.-]+\.webhook\.office\.com|outlook\.office(?:365)?\.com/webhook"
    r"|[\w.-]+\.logic\.azure\.com(?::443)?|(?:[\w-]+\.)?discord(?:app)?\.com/api/(?:v\d+/)?webhooks"
    r"|chat\.googleapis\.com/v1/spaces|hc-ping\.com|maker\.ifttt\.com)/|api\.telegram\.org/(?:file/)?bot)(?=.)",
    re.I,
)
# References to a secret: a variable, as Hermes expands it in its config (${NAME}) and for MCP servers (${env:NAME}),
# or an item of 1Password (0.18.2 and 0.19.0).
REFERENCE = re.compile(r"\$\{(env:)?[A-Za-z_][A-Za-z0-9_]*\}|^op://.*$")
# An option of a command, which may name the next value in a list of arguments.
_OPTION = re.compile(r"--?([A-Za-z][\w-]*)")
_OPTION_VALUE = re.compile(r"--?([A-Za-z][\w-]*)=(.+)", re.S)


# Names and forms


def names_secret(name: str) -> bool:
    """Whether the value of *name* (a key, a variable, a header) is a secret: ``API_KEY``, ``botToken``, ``TOKEN_2``."""
    return _SECRET_NAME.search(_words(name)) is not None


def _may_name_secret(name: str, value: str) -> bool:
    words = _words(name)
    return _names_surely(words) or (_PRIVATE_NAME.search(words) is not None and _is_no_word(value))


def _names_surely(words: str) -> bool:
    return bool(_SECRET_NAME.search(words) or (_SECRET_WORD.search(words) and not _HARMLESS_WORD.search(words)))


def _is_no_word(value: str) -> bool:
    return len(value) > 3 and not (value.isalpha() and value.islower())


def _words(name: str) -> str:
    """*name* in lower case, its words joined by ``_``, without leading or trailing digits."""
    apart = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name[-_NAME_LENGTH:])
    return re.sub(r"[\W_]+", "_", apart).lower().rstrip("_0123456789").lstrip("_0123456789")


def _looks_secret(text: str) -> bool:
    urls = (match[1] for match in _URL.finditer(text))
    return bool(_SECRET_VALUE.match(text) or _URL_CREDENTIALS.search(text) or any(map(_HOOK_URL.match, urls)))


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
    return below or _may_name_secret(_name_of(path, before), str(value))


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


def shown(path: Path, value: Any, before: Any = None) -> Any:
    """*value*, a scalar or a tree, with every secret hidden, also within longer text."""
    if isinstance(value, dict):
        return {name: shown((*path, str(name)), part) for name, part in value.items()}
    if isinstance(value, list):
        return [
            shown((*path, number), part, before) for number, (before, part) in enumerate(zip([None, *value], value))
        ]
    if may_be_secret(path, value, before):
        return HIDDEN
    return without_secrets(value) if isinstance(value, str) else value


# Text


def redact_text(text: str, limit: int | None = None) -> str:
    """*text* from others, made safe to show, send and store: printable, bounded, without recognisable secrets.

    It does not know the host's secrets. A secret that neither its name nor its form gives away is not hidden.

    :param limit: maximum length of the result, in characters
    """
    text = printable(without_secrets(text))
    return text if limit is None or len(text) <= limit else text[: max(0, limit - 1)] + "…"


# Colour codes and invisible characters.
_UNSEEN = re.compile("\x1b\\[[\\d;]*[A-Za-z]|[\u00ad\u200b\u2060\ufeff]")
_SPACE = r"(?:[ +]|%20)"
_PEM_BEGIN = re.compile(
    rf"-----BEGIN{_SPACE}(?:[A-Z0-9]{{1,20}}{_SPACE}){{0,3}}PRIVATE{_SPACE}KEY(?:{_SPACE}BLOCK)?-----"
)
_PEM_END = re.compile(rf"-----END{_SPACE}(?:[A-Z0-9]{{1,20}}{_SPACE}){{0,3}}PRIVATE{_SPACE}KEY(?:{_SPACE}BLOCK)?-----")
# Characters within which a key must end. If its end is missing, following lines that end in base64 count as part of it.
_PEM_LENGTH = 16384
_PEM_LINE = re.compile(
    r"[^\n]{0,200}?(?:[A-Za-z0-9+/]{16,}={0,2}|(?<![^\s:])[A-Za-z0-9+/]{1,16}={1,2})[^\S\n]*(?:\n|\Z)"
)
_URL = re.compile(r":(?:\\*/){2}((?:[^\s\"'<>\\`]+|\\+/)+)")
_AUTHORIZATION = re.compile(
    r"\b((?i:bearer)\s+(?!\$\{)[^\s\"'\\]{8,}|(?i:basic)\s+(?=[^\s\"']*[A-Z\d=])[A-Za-z\d+/]{8,}=*)"
)
# A name, perhaps in quotes, with the characters between it and its value.
_ASSIGNMENT = re.compile(
    r"(?<![\w.-])([\w.-]+)(?:\\*[\"'`]|%2[27])?\s*"
    r"(?:=>|[:=：＝]=?|%3[ADad]|\((?=\\*[\"'`])|(?<=[\"'`]),\s*b?(?=\\*[\"'`]))[^\S\n]*"
)
_ELEMENT = re.compile(r"<([\w:.-]{1,64})>(?=[^<\s])")
# A key of YAML whose value begins on the next line.
_BLOCK = re.compile(r"(?:^|(?<=\n))([ \t]*)(?:-[ \t]+)?[\"']?([\w.-]+)[\"']?:[ \t]*([|>][-+\d]*)?[ \t]*\n")
_ARGUMENT = re.compile(r"(?<![\w-])--?([A-Za-z][\w-]*)(?:\\*[\"'])?(?:\s*,\s*|\s+)(?:-\s+)?(?=[^\s-])")
_SAID = re.compile(
    r"\b((?:password|passphrase|token|secret|key) (?:is|was|provided|given|used)\b[:=]?\s*[\"'`]?)([^\s\"'`]+)", re.I
)
# curl -u me:X, sshpass -p X, mysql -pX, .netrc.
_WRITTEN = re.compile(
    r"((?<!\S)(?:(?:-u|--user)\s+[^\s:]{0,100}:|sshpass\s+-p\s*|mysql\w*\s+(?:-u\S{0,100}\s+)?-p"
    r"|login\s+\S{1,100}\s+password\s+))[^\s\"'`]+"
)
_QUERY_CODE = re.compile(r"([?&]code=)[^&\s\"'<>\\]+")
_QUOTE = re.compile(r"\\*[\"'`]|%2[27]")
# Text that may follow a closing quote. After anything else the value goes on: 'it''s', 'it'"'"'s'.
_AFTER_QUOTE = re.compile(r"\\*[\"'`]?(?:[\s,;:)\]}>&|<.]|\\+[nrt\"']|\Z)")
_WORD = re.compile(r"[^\s\"'`]+")
# Characters of a value or line that are examined.
_VALUE_LENGTH = 65536
_LINE_START = re.compile(r"(?:\A|\n)[ \t]*(?:-[ \t]+|export[ \t]+)?\Z")
# Placeholders that stand for no secret.
_NOTHING = re.compile(
    r"(?:null|none|nil|true|false|\*+|…|\$\{(?:env:)?\w+\})[,;)\]}.]*|\(secret\).*|[,;)\]}|>&]+", re.I
)
_HEADERS = ("authorization", "cookie")
_TOKEN_IN_TEXT = re.compile(rf"(?<![A-Za-z0-9])(?:{_TOKEN})")
# Words of at least 40 characters that may be random; `_is_random` rules out checksums in lower-case hexadecimal.
_RANDOM = re.compile(r"(?<![\w+/.-])[\w+/-]{40,}={0,2}(?![\w+/.-])", re.A)


def named_values(text: str) -> Iterator[str]:
    """The values in *text* that :func:`redact_text` hides because of their name."""
    return (text[start:end].strip() for start, end in _named(text))


def without_secrets(text: str) -> str:
    """*text* without secrets, recognised by name, form or place in a URL; control characters stay."""
    text = _UNSEEN.sub("", text)
    text = "".join(_without_keys(text))
    text = _URL.sub(_safe_url, text)
    text = _AUTHORIZATION.sub(lambda match: f"{match[0].split()[0]} {HIDDEN}", text)
    text = _QUERY_CODE.sub(rf"\1{HIDDEN}", text)
    text = "".join(_without_named(text))
    text = _WRITTEN.sub(rf"\1{HIDDEN}", text)
    text = _SAID.sub(lambda match: match[1] + HIDDEN if _is_no_word(match[2].rstrip(".,;")) else match[0], text)
    text = _TOKEN_IN_TEXT.sub(HIDDEN, text)
    return _RANDOM.sub(lambda match: HIDDEN if _is_random(match[0]) else match[0], text)


def _without_keys(text: str) -> Iterator[str]:
    """The pieces of *text* without private keys, even if each line has a prefix or the end is missing."""
    position = 0
    while begin := _PEM_BEGIN.search(text, position):
        yield text[position : begin.start()]
        yield HIDDEN
        end = _PEM_END.search(text, begin.end(), begin.end() + _PEM_LENGTH)
        position = end.end() if end else begin.end()
        if end is None:
            rest_of_line = re.compile(r"\s*?\n").match(text, position)
            position = rest_of_line.end() if rest_of_line else position
            while line := _PEM_LINE.match(text, position):
                if line.end() == position:
                    break
                position = line.end()
    yield text[position:]


def _safe_url(match: re.Match[str]) -> str:
    """A URL without credentials; of a URL that is secret as a whole, only the prefix that may be shown."""
    rest = match[1].replace("\\", "")
    before, colon, after = rest.partition("/")[0].partition(":")
    place = after if "@" not in before else ""
    has_password = bool(colon) and not place.isdigit()
    end = rest.rfind("@") if has_password else rest.partition("/")[0].rfind("@")
    if end >= 0:
        user, rest = rest[:end], rest[end + 1 :]
        scheme = match.string[max(0, match.start() - 5) : match.start()].lower()
        plain = not has_password and not scheme.endswith(("http", "https"))
        rest = f"{user if plain or not REFERENCE.sub('', user).strip(':') else HIDDEN}@{rest}"
    hook = _HOOK_URL.match(rest)
    if hook:
        return f"://{hook[0]}{HIDDEN}"
    return f"://{rest}" if end >= 0 else match[0]


def _without_named(text: str) -> Iterator[str]:
    """The pieces of *text* without the values whose name is that of a secret."""
    position = 0
    for start, end in sorted(_named(text)):
        if start >= position:
            yield text[position:start]
            yield HIDDEN
        position = max(position, end)
    yield text[position:]


def _named(text: str) -> Iterator[tuple[int, int]]:
    """Start and end of each value in *text* whose name is that of a secret."""
    yield from _blocks(text)
    for pattern in (_ASSIGNMENT, _ARGUMENT, _ELEMENT):
        taken = 0
        for found in pattern.finditer(text):
            # A name within the previous value does not count: that value is hidden as a whole.
            if found.end() < taken or not _may_name_secret(found[1], HIDDEN):
                continue
            start, end = _value_at(text, found.end(), found if pattern is _ASSIGNMENT else None)
            if end > start and _may_name_secret(found[1], text[start:end]):
                taken = end
                yield start, end


def _blocks(text: str) -> Iterator[tuple[int, int]]:
    """Start and end of each YAML value that begins on the line below its key."""
    for found in _BLOCK.finditer(text):
        if not names_secret(found[2]):
            continue
        end = found.end()
        while end < len(text):
            line = text[end : _end_of_line(text, end)]
            is_deeper = line.startswith(found[1]) and line[len(found[1]) :][:1] in (" ", "\t")
            # Without `|` or `>` the lines below the key may be a mapping or a list.
            if not is_deeper or (not found[3] and re.match(r"\s*(?:-\s|[\"']?[\w.-]+[\"']?:(?:\s|\Z))", line)):
                break
            end += len(line) + 1
        if end > found.end():
            yield found.end(), min(end, len(text)) - (text[end - 1 : end] == "\n")


def _value_at(text: str, start: int, name: re.Match[str] | None = None) -> tuple[int, int]:
    """Start and end of the value at *start*; both are equal when there is none.

    :param name: the match of an assignment. If it begins a line or names a header, its value is the rest of the line
    """
    quote = _QUOTE.match(text, start)
    if quote:
        start = quote.end()
        coded = quote[0].startswith("%")
        end = text.find(quote[0], start, _end_of_line(text, start)) if coded else _closing(text, start, quote[0])
        end = _end_of_line(text, start) if end < 0 else end
    else:
        word = _WORD.match(text, start)
        if not word or _NOTHING.fullmatch(word[0]):
            return start, start
        end = start + len(word[0].partition("</")[0].rstrip(",;)]}."))
        if name is not None and text.find("\n", name.end(1), start) < 0:
            is_header = _words(name[1]).endswith(_HEADERS)
            whole_line = _LINE_START.search(text, max(0, name.start() - 40), name.start()) and names_secret(name[1])
            if is_header or whole_line:
                end = _end_of_line(text, start)
    value = text[start:end].strip()
    return (start, start) if not value or _NOTHING.fullmatch(value) else (start, end)


def _closing(text: str, start: int, quote: str) -> int:
    """The end of the quoted text at *start*; the end of the line when the quote is never closed."""
    end_of_line, depth = _end_of_line(text, start), len(quote) - 1
    position = text.find(quote[-1], start, end_of_line)
    while position >= 0:
        first = position
        while first > start and text[first - 1] == "\\":
            first -= 1
        if position - first <= depth and _AFTER_QUOTE.match(text, position + 1):
            return first
        position = text.find(quote[-1], position + 1, end_of_line)
    return end_of_line


def _end_of_line(text: str, start: int) -> int:
    end = text.find("\n", start, start + _VALUE_LENGTH)
    return min(len(text), start + _VALUE_LENGTH) if end < 0 else end


def _is_random(word: str) -> bool:
    """Whether *word* looks random: it is not a path, a name or a checksum."""
    digits = sum(character.isdigit() for character in word)
    upper = sum(character.isupper() for character in word)
    return (
        min(digits, upper, len(word) - digits - upper) >= 4 and not word.startswith("-") and not re.match("/.*/", word)
    )
