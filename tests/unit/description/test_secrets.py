# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What counts as a secret: in a declaration, in output, and in text that others wrote."""

from __future__ import annotations

import json
import shlex

import pytest
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.description.declaration import resolve
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.description.hiding import redact_text, shown
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.description.secrets import (
    is_secret,
    names_secret,
    secret_paths,
)
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.errors import OpsError
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.plan import HIDDEN
from hypothesis import given
from hypothesis import strategies as st

HOOKS = [
    "https://hooks.slack.com/services/T0AB/B0CD/hunter2hunter2",
    "https://discord.com/api/webhooks/123456/hunter2-hunter2",
    "https://contoso.webhook.office.com/webhookb2/hunter2@x/IncomingWebhook/y",
    "https://prod-12.westeurope.logic.azure.com:443/workflows/hunter2/triggers",
    "https://api.telegram.org/bot123:hunter2/sendMessage",
    "https://hc-ping.com/hunter2-0c1e-4a7f-a3ad-5b2c0a1e7d11",
]


@pytest.mark.parametrize(
    "name",
    ["API_KEY", "clientSecret", "accessToken", "bot_pass", "X-Api-Key", "botToken2", "SMTP_PWD", "APIKey", "TOKEN_1"],
)
def test_names_of_secrets(name):
    assert names_secret(name)
    assert "hunter2" not in str(shown((), {"deliver_extra": {name: "hunter2"}}))
    assert "hunter2" not in redact_text(f"said {name}=hunter2 end")


@pytest.mark.parametrize("name", ["max_tokens", "keyboard", "monkey", "token_count", "bypass", "compass", "tokenizer"])
def test_names_of_other_things(name):
    assert not names_secret(name)
    assert shown((), {name: "Hunter2"}) == {name: "Hunter2"}
    assert redact_text(f"{name}: Hunter2") == f"{name}: Hunter2"


@pytest.mark.parametrize(
    "config",
    [
        {"mcp_servers": {"x": {"args": ["--token", "hunter2"]}}},
        {"mcp_servers": {"x": {"args": ["run", "--api-key=hunter2"]}}},
        *({"platforms": {"slack": {"extra": {"url": url}}}} for url in HOOKS),
        {"platforms": {"x": {"clientSecret": "hunter2"}}},
    ],
)
def test_what_names_or_places_make_a_secret_is_refused_and_hidden(config):
    assert len(list(secret_paths(config))) == 1
    with pytest.raises(OpsError, match="is a secret") as refused:
        resolve([{"name": "default", "config": config}], host="box", data_dir="/d", managed_root="/m")
    assert "hunter2" not in str(refused.value)
    assert "hunter2" not in str(shown((), config))


def test_an_option_names_only_what_follows_it():
    arguments = ["--token", "${TOKEN}", "--port", "8080", "run"]
    assert shown((), {"args": arguments}) == {"args": arguments}
    assert not is_secret(("args", 1), "8080", "--port")


@pytest.mark.parametrize("name", ["pin", "auth", "signature", "SLACK_TOKEN_PROD", "password_hash", "webhook_url"])
def test_what_may_be_a_secret_is_hidden_but_not_refused(name):
    assert not names_secret(name)
    assert "hunter2" not in str(shown((), {name: "hunter2"}))
    assert "hunter2" not in redact_text(f'{{"{name}": "hunter2"}}')


def test_secrets_within_longer_text_are_hidden():
    tree = {"prompt": "call it with --token hunter2 please"}
    assert shown((), tree) == {"prompt": f"call it with --token {HIDDEN} please"}


SECRET = "hunter2-hunter2"
TEXTS = {
    "assignment": f"PASSWORD={SECRET}",
    "with blanks, at the beginning of a line": f"export PASSWORD={SECRET} {SECRET}",
    "in YAML": f"  - password: {SECRET} {SECRET}\n",
    "with other characters": f"x PASSWORD=;&,{SECRET}",
    "in quotes": f'x password="{SECRET} \\" {SECRET}" y',
    "in YAML's quotes": f"password: 'it''s {SECRET}'",
    "in a shell's quotes": "run --password " + shlex.quote(f"it's {SECRET}"),
    "JSON": json.dumps({"clientSecret": SECRET}),
    "JSON in JSON": json.dumps(json.dumps({"clientSecret": f'"{SECRET}'})),
    "JSON three times": json.dumps(json.dumps(json.dumps({"clientSecret": SECRET}))),
    "number": '{"pin": 493817}'.replace("493817", SECRET),
    "option": f"tool --token {SECRET} --verbose",
    "options in JSON": json.dumps(["tool", "--token", SECRET]),
    "options in YAML": f"- --token\n- {SECRET}\n",
    "curl": f"curl -u me:{SECRET} http://x",
    "header": f"Authorization: Token {SECRET}",
    "cookie": f"Set-Cookie: a=b; id={SECRET}; Secure",
    "bearer": f"got Bearer {SECRET}",
    "basic": "got Basic aHVudGVyMi1odW50ZXIy".replace("aHVudGVyMi1odW50ZXIy", "QWxhZGRpbjpvcGVu"),
    "URL": f"https://user:{SECRET}@example.org/x",
    "URL, password with @": f"https://user:p@{SECRET}@example.org/x",
    "URL, password with /": f"postgres://user:a/{SECRET}@example.org/x",
    "URL, token": f"https://{SECRET}@example.org/x",
    "query": f"https://example.org/x?y=1&access_token={SECRET}",
    "code": f"https://example.org/callback?code={SECRET}",
    "hook in JSON of others": f"https:\\/\\/hooks.slack.com\\/services\\/T0\\/{SECRET}",
    "said": f"Incorrect API key provided: {SECRET}",
    "coloured": f"\x1b[32mtoken\x1b[0m=\x1b[31m{SECRET}\x1b[0m",
    "one after the other": f"key: token: {SECRET}",
    "nested": f"credentials:\n  password: {SECRET}\n",
    "block of YAML": f"- password: |\n    {SECRET}\n    {SECRET}\n  next: 1",
    "YAML, next line": f"password:\n  {SECRET}\n",
    "element": f"<password>{SECRET}</password>",
    "call": f'set_token("{SECRET}")',
    "pair": f"('authorization', b'Token {SECRET}')",
    "form in a form": f"%22token%22%3A%22{SECRET}%22",
    "netrc": f"machine x login me password {SECRET}",
    "sshpass": f"sshpass -p {SECRET} ssh box",
    "mysql": f"mysql -p{SECRET} x",
    "between characters that nobody sees": f"to\u200bken={SECRET}",
    "full width": f"token：{SECRET}",
    "key": f"-----BEGIN RSA PRIVATE KEY-----\n{SECRET}\n-----END RSA PRIVATE KEY-----",
    "key in JSON": f"-----BEGIN PRIVATE KEY-----\\n{SECRET}\\n-----END PRIVATE KEY-----",
    "key in a URL": f"-----BEGIN%20PRIVATE%20KEY-----%0A{SECRET}%0A-----END%20PRIVATE%20KEY-----",
}


@pytest.mark.parametrize("place", TEXTS)
def test_text_without_secrets(place):
    text = TEXTS[place]
    assert SECRET in text or place in ("basic", "JSON in JSON")
    redacted = redact_text(text)
    assert "hunter2" not in redacted
    assert "QWxhZGRp" not in redacted
    assert HIDDEN in redacted


@pytest.mark.parametrize("hook", HOOKS)
def test_hook_urls(hook):
    assert "hunter2" not in redact_text(f"POST {hook} failed")


TOKENS = [
    "sk-abcdefghijklmnopqrstuvwx",
    "sk_live_51Habcdefghijk",
    "xoxb-1234567890-abc",
    "ghp_abcdefghijklmnopqrstuvwx",
    "hu1_DJavI0qcpxJCi157cwp-hAQP_wAadtr81XMY6i07hUY",
    "/w/550e8400e29b41d4a716446655440000/hw2_DJavI0qcpxJCi157cwp-hAQP_wAadtr81XMY6i07hUY/push",
    "glpat-abcdefghijklmnop",
    "AIzaSyD-abcdefghijklmnopqrstuvwxyz01234",
    "ya29.A0ARrdaM-abcdef",
    "GOCSPX-zzzzzz",
    "123456789:AAabcdefghijklmnopqrstuvwxyz0123456",
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.abc",
    "q7Zp4aRk9xKavL2bmN4wcYt8q7Zp4aRk9xKavL2bmN4wcYt8",
]


@pytest.mark.parametrize("token", TOKENS)
@pytest.mark.parametrize("around", ["{}", "({})", "x={},", "/{}?", '"{}"'])
def test_tokens_are_known_by_their_look(token, around):
    assert token not in redact_text(f"said {around.format(token)} end")


@pytest.mark.parametrize(
    "text",
    [
        "2026-11-21T00:00:00+0000 box hermes[1]: INFO gateway.run: 3 tools, max_tokens: 5, token_count=7",
        "sha256:" + "ab12" * 16,
        "KeyError: 'foo'",
        "Basic knowledge of a bearer token; the token is invalid; auth: oauth",
        "http://127.0.0.1:8642/health ssh://git@example.org/x /opt/hermes/releases/0.19.0+python3.11/bin/hermes",
        "api_key: ${A_KEY}, token: null, password: ***",
        "secrets:\n  onepassword:\n    enabled: true\n",
        "CPU: 5% Memory: 4G Tasks: 12 (limit: 1024)",
    ],
)
def test_what_triage_needs_stays(text):
    assert redact_text(text) == text


def test_a_key_in_a_journal_ends_where_its_lines_end():
    prefix = "2026-11-21T00:00:00+0000 box hermes[1]: "
    body = ["-----BEGIN PRIVATE KEY-----", "MIIEvQIBADANBgkqhkiG9w0BAQEFAASCBKcwggSj", "MzEfYyjiWA4R4+2M=="]
    whole = "".join(f"{prefix}{line}\n" for line in [*body, "-----END PRIVATE KEY-----", "next"])
    cut = "".join(f"{prefix}{line}\n" for line in [*body, "next"])
    for text in (whole, cut):
        redacted = redact_text(text)
        assert redacted.endswith(f"{prefix}next\n")
        assert "MIIE" not in redacted
        assert "MzEf" not in redacted


def test_what_is_shown_is_printable_and_bounded():
    assert redact_text("a\x1b]0;title\x07b") == "a\\x1b]0;title\\x07b"
    assert redact_text("x" * 100, limit=10) == "x" * 9 + "…"
    # Text is shortened after its secrets were hidden.
    assert redact_text(f"token={'s' * 50}", limit=10) == "token=(se…"


@given(st.text(max_size=200))
def test_any_text(text):
    assert len(redact_text(text, limit=50)) <= 50


def test_keys_of_any_length_do_not_matter():
    assert redact_text(f"{'a' * 500}_token={SECRET}") == f"{'a' * 500}_token={HIDDEN}"


# So long that work with the square or the cube of the length would never end.
LONG = 200_000


REPEATED = (
    r"""a|a-|a.|a=|token=|token="|token="\"|pin: |a\|a |--a|--a |--token |cookie: |token:|sk-|Aa0+|-u |'|\|"""
    r"""<token>|<a>|token('|'token',|"""
    "://| x://a:b|://a@|://a:@|eyJ-|Basic |key is |-----BEGIN PRIVATE KEY-----|-----BEGIN PRIVATE KEY"
)


@pytest.mark.parametrize(
    "part", [*REPEATED.split("|"), "token:\n", "token:\n x\n", " token: >\n", "-----BEGIN PRIVATE KEY-----\n"]
)
def test_the_time_it_takes_grows_with_the_text_only(part):
    text = part * (LONG // len(part))
    assert redact_text(f"{text}\npassword={SECRET}", limit=10) is not None
    assert "hunter2" not in redact_text(f"{text[:1000]}\npassword={SECRET}")


@pytest.mark.parametrize("head", ["a", "token=", 'token="', "Bearer ", "https://x/", "-----BEGIN PRIVATE KEY-----\n"])
@pytest.mark.parametrize("filler", [" ", "a", "\\", "=", "A", "@", "\t"])
def test_nor_with_what_follows_a_name(head, filler):
    assert len(redact_text(head + filler * LONG, limit=10)) <= 10
