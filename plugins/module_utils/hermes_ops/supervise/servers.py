# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The servers of a gateway, asked: its health, a reply, a signed webhook call.

Sources: Hermes 0.18.2 and 0.19.0, gateway/platforms/{api_server,webhook}.py.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import time
import urllib.error
import urllib.request
import uuid
from typing import Any

from ..agent import sessions, webhooks
from ..system.errors import OpsError
from ..system.files import Owner, acting_as
from .problems import Problem

POLL_SECONDS = 0.5
REPLY_TIMEOUT = 120.0
REPLY_PROMPT = "Health check: answer with one short word."


def _reachable(host: str) -> str:
    """The address to ask a server bound to *host*."""
    if host in ("0.0.0.0", "::", ""):
        return "127.0.0.1"
    return f"[{host}]" if ":" in host else host


def _request(
    url: str, *, timeout: float, body: bytes | None = None, headers: dict[str, str] | None = None
) -> tuple[int, bytes]:
    # No proxy between us and our own host.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    request = urllib.request.Request(url, data=body, headers=headers or {})
    try:
        with opener.open(request, timeout=timeout) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def server_problem(name: str, server: dict[str, Any], expected: str) -> tuple[Problem | None, dict[str, Any]]:
    """Ask ``/health`` of a server of the gateway; *expected* is the platform it must say it is."""
    url = f"http://{_reachable(server['host'])}:{server['port']}/health"
    try:
        status, body = _request(url, timeout=5)
        answer = json.loads(body) if status == 200 else {}
    except (OSError, ValueError) as error:
        return Problem("no_answer", f"{name} does not answer at {url} ({error})", "see the log"), {}
    if status != 200 or not isinstance(answer, dict) or answer.get("platform") != expected:
        return Problem(
            "foreign_answer",
            f"{url} is answered by something else than Hermes",
            f"see who holds port {server['port']}: ss -ltnp",
            True,
        ), {}
    return None, answer


def ask(server: dict[str, Any], key: str, prompt: str, *, timeout: float = REPLY_TIMEOUT) -> str:
    """Have the agent answer *prompt* through its API server.

    :raises OpsError: when it does not; Hermes answers 200 with finish_reason ``error`` for a dead model
    """
    url = f"http://{_reachable(server['host'])}:{server['port']}/v1/chat/completions"
    body = json.dumps({"model": "hermes-agent", "messages": [{"role": "user", "content": prompt}]}).encode()
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    try:
        status, answer = _request(url, timeout=timeout, body=body, headers=headers)
    except OSError as error:
        raise OpsError(f"no reply within {timeout:g} s ({error})", where=url, fix="see the log") from None
    if status == 401:
        raise OpsError("refuses our API_SERVER_KEY", where=url, fix="restart the gateway: it runs with an older key")
    try:
        choice = json.loads(answer)["choices"][0]
        text = choice["message"]["content"]
    except (ValueError, LookupError, TypeError):
        raise OpsError(f"status {status} and no reply", where=url, fix="see the log") from None
    if choice.get("finish_reason") == "error" or not text:
        raise OpsError(
            "the agent answered with an error instead of a reply",
            where=url,
            fix="check the model: its name, provider, key and quota",
        )
    return str(text)


def sign(secret: str, body: bytes, timestamp: int) -> dict[str, str]:
    """The headers of a signed webhook call: V2, bound to the time, and the one 0.13 knows."""
    mac = hmac.new(secret.encode(), f"{timestamp}.".encode() + body, hashlib.sha256).hexdigest()
    return {
        "Content-Type": "application/json",
        "X-Webhook-Timestamp": str(timestamp),
        "X-Webhook-Signature-V2": mac,
        "X-Request-ID": str(uuid.uuid4()),
    }


def find_webhook(profile: dict[str, Any], owner: Owner, name: str) -> tuple[str, dict[str, Any]]:
    """Where the subscription *name* is called, and its entry.

    :raises OpsError: when there is none
    """
    server = profile["webhook"]
    url = f"http://{_reachable(server['host'])}:{server['port']}/webhooks/{name}"
    with acting_as(owner):
        subscriptions = webhooks.read_subscriptions(os.path.join(profile["home"], webhooks.FILE_NAME))
    if not server["enabled"] or name not in subscriptions:
        known = ", ".join(sorted(subscriptions)) or "none"
        raise OpsError(
            f"profile {profile['name']} has no subscription {name!r} (it has: {known})",
            fix="declare it under the profile's webhooks and converge, or name another one",
        )
    return url, subscriptions[name]


def call_webhook(
    profile: dict[str, Any], owner: Owner, name: str, payload: dict[str, Any], *, timeout: float = REPLY_TIMEOUT
) -> str:
    """Post a signed call to the subscription *name* and wait until the agent has answered it.

    :param payload: what the subscription's prompt may name
    :param timeout: seconds that the agent may take
    :returns: what the agent said last, wherever that was delivered
    :raises OpsError: when the call is refused, or no answer follows
    """
    url, subscription = find_webhook(profile, owner, name)
    body = json.dumps(payload, ensure_ascii=False).encode()
    headers = sign(subscription.get("secret", ""), body, int(time.time()))
    if subscription.get("events"):
        headers["X-GitHub-Event"] = subscription["events"][0]
    try:
        status, _answer = _request(url, timeout=30, body=body, headers=headers)
    except OSError as error:
        raise OpsError(f"does not answer ({error})", where=url, fix="see why: hermes-ops check") from None
    if status == 200:
        raise OpsError(
            "took a signed call without waking the agent",
            where=url,
            fix="look at deliver_only and filters of the subscription",
        )
    if status != 202:
        raise OpsError(f"refused a signed call with status {status}", where=url, fix="see the log")
    # The delivery id, by which the conversation is known, is the request id we sent.
    chat = f"webhook:{name}:{headers['X-Request-ID']}"
    deadline = time.monotonic() + timeout
    while True:
        left = deadline - time.monotonic()
        answer = sessions.last_words(profile["home"], owner, chat)
        if answer:
            return answer
        if answer is not None:
            raise OpsError(
                "the agent ended without an answer", where=url, fix="check the model: its name, provider, key and quota"
            )
        if left <= 0:
            raise OpsError(f"took the call, but no answer came within {timeout:g} s", where=url, fix="see the log")
        time.sleep(min(POLL_SECONDS, left))
