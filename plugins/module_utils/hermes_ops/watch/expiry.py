# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The expiry of certificates and tokens."""

from __future__ import annotations

import base64
import calendar
import json
import re
import time

from ..system.errors import OpsError
from ..system.files import read_text
from ..system.text import number
from .findings import Finding, Settings

# Most tokens of an agent with a finding of their own.
MOST_TOKENS = 5
_BEGIN, _END = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"
_JWT = re.compile(r"[\w-]+\.([\w-]+)\.[\w-]*", re.ASCII)


def _der(data: bytes, start: int) -> tuple[int, int, int]:
    """The ASN.1 element (DER) at *start*: its tag, and the start and end of its content.

    :raises ValueError: *data* holds no complete element there
    """
    try:
        tag, length, start = data[start], data[start + 1], start + 2
        if length > 0x80:
            size = length & 0x7F
            length = int.from_bytes(data[start : start + size], "big")
            start += size
    except IndexError:
        raise ValueError("no certificate") from None
    if start + length > len(data):
        raise ValueError("no certificate")
    return tag, start, start + length


def certificate_end(der: bytes) -> float:
    """When an X.509 certificate expires (RFC 5280: notAfter), in seconds since 1970.

    Python's ssl module gives this only for a connection, not for a file.

    :raises ValueError: *der* is not a certificate
    """
    _tag, at, _end = _der(der, 0)
    _tag, at, _end = _der(der, at)
    tag, _start, end = _der(der, at)
    # Validity follows version (optional, tag 0xA0), serial number, signature and issuer.
    for _each in range(3 if tag == 0xA0 else 2):
        _tag, _start, end = _der(der, end)
    _tag, start, _end = _der(der, end)
    _tag, _start, end = _der(der, start)
    tag, start, end = _der(der, end)
    text = der[start:end].decode("ascii")
    # UTCTime (tag 0x17) has two digits for the year, GeneralizedTime four.
    if tag == 0x17:
        text = ("19" if text[:2] >= "50" else "20") + text
    return calendar.timegm(time.strptime(text, "%Y%m%d%H%M%SZ"))


def pem_end(text: str) -> float:
    """When the first of the certificates in *text* (PEM) expires, in seconds since 1970.

    :raises ValueError: *text* holds no certificate
    """
    # Not a regular expression: with many BEGIN lines and no END line, it would scan to the end of the text from each.
    blocks = [block.partition(_END) for block in text.split(_BEGIN)[1:]]
    return min(certificate_end(base64.b64decode(body)) for body, end, _more in blocks if end)


def token_end(value: str) -> float | None:
    """When a JSON Web Token with ``exp`` expires, in seconds since 1970; None for any other token."""
    match = _JWT.fullmatch(value)
    if not match:
        return None
    try:
        payload = json.loads(base64.urlsafe_b64decode(match[1] + "=" * (-len(match[1]) % 4)))
    except (ValueError, RecursionError):
        return None
    return number(payload.get("exp")) if isinstance(payload, dict) else None


def expiry_findings(
    kind: str, name: str, end: float, now: float, settings: Settings, agent: str | None = None
) -> list[Finding]:
    """:param kind: ``token`` or ``certificate``"""
    days = (end - now) / 86400
    if days >= settings.expiry_days:
        return []
    text = f"the {kind} {name} {f'expires in {days:.0f} days' if days >= 0 else 'has expired'}"
    return [Finding("expiry", text, "get a new one, and declare it", days < 0, agent, name)]


def token_findings(tokens: dict[str, float], now: float, settings: Settings, agent: str) -> list[Finding]:
    """Findings about the tokens of an agent, the expired ones first: few, because it can have any number of them.

    :param tokens: variable -> when its token expires
    """
    found = [
        finding for name, end in tokens.items() for finding in expiry_findings("token", name, end, now, settings, agent)
    ]
    found.sort(key=lambda finding: not finding.failure)
    if len(found) > MOST_TOKENS:
        what = f"{len(found) - MOST_TOKENS} more of its tokens expire or have expired"
        fix = "get new ones, and declare them"
        found[MOST_TOKENS:] = [Finding("expiry", what, fix, found[MOST_TOKENS].failure, agent)]
    return found


def certificate_findings(path: str, now: float, settings: Settings) -> list[Finding]:
    try:
        end = pem_end(read_text(path) or "")
    except (ValueError, OpsError) as error:
        reason = error.what if isinstance(error, OpsError) else "holds no readable X.509 certificate"
        return [Finding("expiry_unknown", f"{path} {reason}", "correct heartbeat_certificates", False, None, path)]
    return expiry_findings("certificate", path, end, now, settings)
