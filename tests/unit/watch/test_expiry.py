# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The expiry of certificates and tokens, and input that is neither."""

from __future__ import annotations

import base64
import contextlib
import functools
import json
import shutil
import subprocess
import time

import pytest
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.watch import (
    expiry,
)
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.watch.findings import Settings
from hypothesis import given
from hypothesis import strategies as st

NOW = 1_795_000_000.0
HOUR, DAY = 3600, 86400
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)


def causes(findings):
    return [(finding.cause, "failure" if finding.failure else "warning") for finding in findings]


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """A function that makes a certificate with openssl, valid for so many days."""
    if not shutil.which("openssl"):
        pytest.skip("openssl is not on this machine")
    directory = tmp_path_factory.mktemp("certificates")

    @functools.cache
    def make(days):
        path = directory / f"{days}.pem"
        command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
        command += ["-keyout", str(directory / "key"), "-subj", "/CN=x", "-days", str(days), "-out", str(path)]
        subprocess.run(command, check=True, capture_output=True)
        shown = subprocess.run(
            ["openssl", "x509", "-in", str(path), "-noout", "-enddate"], check=True, capture_output=True, text=True
        ).stdout
        end = time.strptime(shown.strip().removeprefix("notAfter="), "%b %d %H:%M:%S %Y GMT")
        return path, time.mktime(end) - time.timezone

    return make


# After 2049 a certificate encodes the time differently.
@pytest.mark.parametrize("days", [1, 20, 10000])
def test_certificates_are_read_as_openssl_reads_them(certificate, days):
    path, end = certificate(days)
    assert expiry.pem_end(path.read_text()) == end


def test_of_a_chain_the_first_end_counts(certificate):
    (soon, end), (late, _end) = certificate(1), certificate(20)
    text = f"some words\n{late.read_text()}{soon.read_text()}"
    assert expiry.pem_end(text) == end


def test_certificates_become_findings(certificate, tmp_path):
    path, end = certificate(20)

    def found(now):
        return causes(expiry.certificate_findings(str(path), now, Settings()))

    assert found(end - 15 * DAY) == []
    assert found(end - 13 * DAY) == [("expiry", "warning")]
    assert found(end + 1) == [("expiry", "failure")]
    path = tmp_path / "none.pem"
    assert found(NOW) == [("expiry_unknown", "warning")]
    path.write_bytes(b"\xff\xfe")
    assert found(NOW) == [("expiry_unknown", "warning")]


def der(tag, *parts):
    content = b"".join(parts)
    return bytes([tag, len(content)]) + content


def test_a_certificate_of_the_first_version():
    # It does not say its version.
    times = der(0x30, der(0x17, b"260101000000Z"), der(0x18, b"20501224120000Z"))
    body = der(0x30, der(2, b"\7"), der(0x30, b"\5\0"), der(0x30), times)
    assert time.gmtime(expiry.certificate_end(der(0x30, body)))[:4] == (2050, 12, 24, 12)


@given(st.binary(max_size=80))
def test_what_is_no_certificate(data):
    with pytest.raises(ValueError, match=r"."):
        expiry.certificate_end(data)


@given(st.data())
def test_a_certificate_that_was_damaged(certificate, data):
    path, _end = certificate(20)
    body = path.read_text().split("-----")[2]
    der = bytearray(base64.b64decode(body))
    der[data.draw(st.integers(0, 140))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(ValueError):
        expiry.certificate_end(bytes(der))
    text = data.draw(st.text())
    with contextlib.suppress(ValueError):
        expiry.pem_end(f"-----BEGIN CERTIFICATE-----{text}-----END CERTIFICATE-----")


def token(payload):
    return f"e30.{base64.urlsafe_b64encode(payload.encode()).decode().rstrip('=')}.c2ln"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (token(json.dumps({"exp": NOW})), NOW),
        (token(json.dumps({"exp": "soon"})), None),
        (token(json.dumps([NOW])), None),
        (token("{"), None),
        ("MTk4NjIyNDgzNDc.GXXXXX.a-Discord-token", None),
        ("xoxb-1-2-3", None),
        ("", None),
    ],
)
def test_tokens_that_say_when_they_end(value, expected):
    assert expiry.token_end(value) == expected


@given(JSON | st.text())
def test_a_token_may_hold_anything(value):
    expiry.token_end(token(value if isinstance(value, str) else json.dumps(value)))
    if isinstance(value, str):
        expiry.token_end(value)


@pytest.mark.parametrize("number", [0, 1, 5, 6, 100])
def test_however_many_tokens_an_agent_has_there_are_few_findings(number):
    """A report of hundreds would hide what is wrong with the other agents."""
    ends = {f"SOON_{each}": NOW + DAY for each in range(number)}
    found = expiry.token_findings({**ends, "EXPIRED": NOW - DAY}, NOW, Settings(), "work")
    assert len(found) == min(number + 1, expiry.MOST_TOKENS + 1)
    assert found[0].what == "the token EXPIRED has expired"
    assert [finding.failure for finding in found] == [True, *[False] * (len(found) - 1)]
    if number > 4:
        assert found[-1].what.startswith(f"{number + 1 - expiry.MOST_TOKENS} more of its tokens")


def test_a_million_beginnings_are_read_once():
    """Reading to the end from each position would take days."""
    with pytest.raises(ValueError, match=r"."):
        expiry.pem_end("-----BEGIN CERTIFICATE-----" * 10**6)
