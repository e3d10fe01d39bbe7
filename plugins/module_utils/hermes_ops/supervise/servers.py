# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Requests to the servers of a gateway: their health, a chat reply, a signed webhook call.

Workers send the requests, as the agent's user, and only to servers of the same user. Any other process that holds the
port receives neither the API key nor the agent's context (:mod:`request`).

Sources: Hermes 0.18.2 and 0.19.0, gateway/platforms/{api_server,webhook}.py.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import time
from collections.abc import Sequence
from typing import Any

from ..agent import dotenv, sessions, webhooks
from ..agent.quote import quoted, quoted_error
from ..description.agent import Placement, Server
from ..system import request, worker
from ..system.answer import Maybe, fits
from ..system.errors import OpsError
from ..system.files import Account
from ..system.request import Foreign, NotSent, url
from ..system.worker import Limits, work
from .problems import Problem

POLL_SECONDS = 0.5
REPLY_TIMEOUT = 120.0
REPLY_PROMPT = "Health check: answer with one short word."
HEALTH_SECONDS = 5.0
# Seconds for the worker itself, in addition to those of a reply.
_MARGIN = 10.0
# Largest answer, in bytes: _SMALL for /health and webhooks, _LARGE for a chat.
_SMALL = 64 * 1024
_LARGE = 4 * 1024 * 1024
# Longest reply that is passed on, in characters.
_REPLY = 100_000

MODEL_FIX = "check the model: its name, provider, key and quota"


# Health


def server_problem(name: str, server: Server, expected: str, account: Account) -> tuple[Problem | None, dict[str, Any]]:
    """Ask a server of *account*'s gateway for ``/health``.

    :param expected: the platform that the answer must name
    :returns: the problem, if any, and the ``version`` that the server reports
    """
    try:
        said = work(account, "supervise.servers:look", {name: server.to_plain()}, where=name)
    except OpsError as error:
        return Problem("no_answer", f"{name}: {quoted_error(error).what}", "see the log"), {}
    said = said.get(name) if isinstance(said, dict) else None
    return judge(name, server, expected, said), {"version": version_of(said)}


def look(servers: dict[str, dict[str, Any]], contained: bool = False) -> dict[str, Any]:
    """In a worker: the answer of each server (a :class:`Server`, plain) at ``/health``: ``platform`` and ``version``
    where it gives them, or ``problem``. ``foreign`` is set when the answer does not come from the agent's Hermes.

    :param contained: their addresses are a container's, which is the agent's alone
    """
    uid = None if contained else os.getuid()
    return {name: _ask_health(Server(**server), uid) for name, server in servers.items()}


def _ask_health(server: Server, uid: int | None) -> dict[str, Any]:
    try:
        reply = request.request(server.host, server.port, "/health", uid=uid, seconds=HEALTH_SECONDS, limit=_SMALL)
        answer = worker.parse(reply.body) if reply.status == 200 else None
    except Foreign as error:
        return {"problem": error.what, "foreign": True}
    except worker.WorkerDied:
        return {"problem": "is answered by something other than Hermes", "foreign": True}
    except OpsError as error:
        return {"problem": error.what}
    answer = answer if isinstance(answer, dict) else {}
    return {key: answer[key] for key in ("platform", "version") if isinstance(answer.get(key), str)}


def judge(name: str, server: Server, expected: str, said: Any) -> Problem | None:
    """The problem of a server, None when it is healthy.

    :param said: the server's part of the result of :func:`look`
    """
    said = said if isinstance(said, dict) else {}
    where = url(server.host, server.port, "/health")
    if "problem" in said and not said.get("foreign"):
        return Problem("no_answer", f"{name} at {where}: {quoted(said['problem'])}", "see the log")
    if said.get("foreign") or said.get("platform") != expected:
        reason = quoted(said.get("problem")) or "is answered by something other than Hermes"
        return Problem("foreign_answer", f"{where} {reason}", f"see who holds port {server.port}: ss -ltnp", True)
    return None


def version_of(said: Any) -> str | None:
    """The version that a server reports; None when it reports none.

    :param said: as for :func:`judge`
    """
    return (quoted(said.get("version"), 64) or None) if isinstance(said, dict) else None


# A reply


def ask(
    server: Server,
    account: Account,
    prompt: str,
    *,
    key_in: Sequence[str],
    key: str | None = None,
    timeout: float = REPLY_TIMEOUT,
) -> str:
    """Have *account*'s agent answer *prompt* through its API server.

    :param key_in: directories whose ``.env`` may hold the API key; the last one that does wins
    :param key: the API key if none of them does: the one that the gateway got from a source of secrets
    :raises OpsError: there is no reply. When the model fails, Hermes still answers 200, with finish_reason ``error``
    """
    limits = Limits(seconds=timeout + _MARGIN)
    try:
        return quoted(
            work(
                account, "supervise.servers:chat", server.to_plain(), prompt, list(key_in), key, timeout, limits=limits
            )
        )
    except OpsError as error:
        raise quoted_error(error) from None


def chat(server: dict[str, Any], prompt: str, key_in: list[str], key: str | None, timeout: float) -> str:
    """In a worker: see :func:`ask`."""
    address = Server(**server)
    environment = {"API_SERVER_KEY": key} if key else {}
    for directory in key_in:
        environment.update(dotenv.read_env(os.path.join(directory, dotenv.FILE_NAME)))
    where = url(address.host, address.port, "/v1/chat/completions")
    body = json.dumps({"model": "hermes-agent", "messages": [{"role": "user", "content": prompt}]}).encode()
    headers = {
        "Authorization": f"Bearer {environment.get('API_SERVER_KEY', '')}",
        "Content-Type": "application/json",
    }
    reply = request.request(
        address.host,
        address.port,
        "/v1/chat/completions",
        uid=os.getuid(),
        seconds=timeout,
        limit=_LARGE,
        body=body,
        headers=headers,
    )
    if reply.status == 401:
        raise OpsError("refuses our API_SERVER_KEY", where=where, fix="restart the gateway: it runs with an older key")
    try:
        choice = json.loads(reply.body)["choices"][0]
        text = choice["message"]["content"]
    except (ValueError, LookupError, TypeError, RecursionError):
        raise OpsError(f"answers with status {reply.status} and no reply", where=where, fix="see the log") from None
    if choice.get("finish_reason") == "error" or not text:
        raise OpsError("the agent answered with an error instead of a reply", where=where, fix=MODEL_FIX)
    return str(text)[:_REPLY]


# A webhook


class NotAnswered(OpsError):
    """The agent did not answer a call of a webhook.

    :ivar delivered: whether the agent has got it: ``yes``, ``no`` or ``unknown``
    """

    delivered = "unknown"

    @classmethod
    def because(cls, error: OpsError, delivered: str = "unknown") -> NotAnswered:
        """From the *error* of a worker, whose words are made safe to repeat."""
        error = quoted_error(error)
        made = cls(error.what, where=error.where, fix=error.fix)
        made.delivered = delivered
        return made


# The form of what :func:`deliver` returns.
_OUTCOME = {"answer": Maybe(str), "delivered": str, "what": str, "where": Maybe(str), "fix": Maybe(str)}


def sign(secret: str, body: bytes, timestamp: int) -> dict[str, str]:
    """The headers of a signed webhook call. The signature (V2) covers the body and the time."""
    mac = hmac.new(secret.encode(), f"{timestamp}.".encode() + body, hashlib.sha256).hexdigest()
    return {
        "Content-Type": "application/json",
        "X-Webhook-Timestamp": str(timestamp),
        "X-Webhook-Signature-V2": mac,
    }


def webhook_url(placement: Placement, account: Account, name: str) -> str:
    """The URL at which the subscription *name* is called.

    :raises OpsError: there is no such subscription
    """
    try:
        work(account, "supervise.servers:find_webhook", *_webhook_of(placement), name)
    except OpsError as error:
        raise quoted_error(error) from None
    return _webhook_url(placement.webhook, name)


def _webhook_of(placement: Placement) -> tuple[str, str, dict[str, Any]]:
    """The arguments that a worker needs to call a subscription of the agent."""
    return placement.name, placement.home, placement.webhook.to_plain()


def _webhook_url(server: Server, name: str) -> str:
    return url(server.host, server.port, f"/webhooks/{name}")


def find_webhook(agent: str, home: str, server: dict[str, Any], name: str) -> None:
    """In a worker: see :func:`webhook_url`."""
    _subscription(agent, home, Server(**server), name)


def _subscription(agent: str, home: str, server: Server, name: str) -> dict[str, Any]:
    subscriptions = webhooks.read_subscriptions(os.path.join(home, webhooks.FILE_NAME))
    if not server.enabled or name not in subscriptions:
        known = ", ".join(sorted(subscriptions)) or "none"
        raise OpsError(
            f"agent {agent} has no subscription {name!r} (it has: {known})",
            fix="declare it under the agent's webhooks and converge, or name another one",
        )
    return subscriptions[name]


def call_webhook(
    placement: Placement, account: Account, name: str, payload: dict[str, Any], *, timeout: float = REPLY_TIMEOUT
) -> str:
    """Post a signed call to the subscription *name*, and wait for the agent's answer.

    :param payload: the values that the subscription's prompt can use
    :param timeout: seconds that the agent may take
    :returns: the agent's last message, wherever it was delivered. These are raw words of the agent: quote them before
        printing
    :raises NotAnswered: the call was refused, or no answer followed
    """
    # 30 s for the call to be accepted, *timeout* for the answer.
    limits = Limits(seconds=timeout + 30 + _MARGIN)
    arguments = (*_webhook_of(placement), name, payload, timeout)
    try:
        outcome = work(account, "supervise.servers:deliver", *arguments, limits=limits)
    except OpsError as error:
        raise NotAnswered.because(error) from None
    if not fits(outcome, _OUTCOME):
        raise NotAnswered("the process that called the webhook returned something else", fix="see the log")
    if outcome["answer"] is None:
        error = OpsError(outcome["what"], where=outcome["where"], fix=outcome["fix"])
        raise NotAnswered.because(error, quoted(outcome["delivered"]))
    return str(outcome["answer"])


def deliver(
    agent: str, home: str, server: dict[str, Any], name: str, payload: dict[str, Any], timeout: float
) -> dict[str, str | None]:
    """In a worker: see :func:`call_webhook`.

    :returns: ``answer``; if it is None, ``delivered`` as in :class:`NotAnswered`, and the error
    """
    address, chat = Server(**server), f"webhook:{name}:{os.urandom(16).hex()}"
    try:
        _post(address, name, _subscription(agent, home, address, name), payload, chat)
    except OpsError as error:
        return _unanswered(error, "unknown" if isinstance(error, _Sent) else "no")
    try:
        answer = _await_answer(home, chat, _webhook_url(address, name), timeout)
    except OpsError as error:
        # Hermes accepts calls while it stops, and drops them (0.19.0).
        return _unanswered(error, "yes" if sessions.has_begun(home, chat) else "unknown")
    return {"answer": answer, "delivered": "yes", "what": "", "where": None, "fix": None}


def _unanswered(error: OpsError, delivered: str) -> dict[str, str | None]:
    return {"answer": None, "delivered": delivered, "what": error.what, "where": error.where, "fix": error.fix}


class _Sent(OpsError):
    """A call that was sent has no reply that says whether it was accepted."""


def _post(address: Server, name: str, subscription: dict[str, Any], payload: dict[str, Any], chat: str) -> None:
    """Post the call that begins the conversation *chat*.

    :raises _Sent: it may have been accepted
    :raises OpsError: it was not
    """
    where = _webhook_url(address, name)
    body = json.dumps(payload, ensure_ascii=False).encode()
    headers = sign(str(subscription.get("secret", "")), body, int(time.time()))
    # Hermes names the conversation after the delivery id, which is the request id that we send.
    headers["X-Request-ID"] = chat.rpartition(":")[2]
    events = subscription.get("events")
    if events and isinstance(events, list):
        headers["X-GitHub-Event"] = str(events[0])
    try:
        reply = request.request(
            address.host,
            address.port,
            f"/webhooks/{name}",
            uid=os.getuid(),
            seconds=30,
            limit=_SMALL,
            body=body,
            headers=headers,
        )
    except Foreign:
        raise
    except NotSent as error:
        fix = "start the agent, or see why it does not answer: hermes-ops check"
        raise OpsError(error.what, where=error.where, fix=fix) from None
    except OpsError as error:
        raise _Sent(error.what, where=error.where, fix=error.fix) from None
    if reply.status == 200:
        raise OpsError(
            "accepted a signed call without waking the agent",
            where=where,
            fix="check deliver_only and filters of the subscription",
        )
    if reply.status != 202:
        raise OpsError(f"refused a signed call with status {reply.status}", where=where, fix="see the log")


def _await_answer(home: str, chat: str, where: str, timeout: float) -> str:
    deadline = time.monotonic() + timeout
    while True:
        left = deadline - time.monotonic()
        answer = sessions.last_words(home, chat)
        if answer:
            return answer[:_REPLY]
        if answer is not None:
            raise OpsError("the agent ended without an answer", where=where, fix=MODEL_FIX)
        if left <= 0:
            raise OpsError(
                f"accepted the call, but no answer came within {timeout:g} s", where=where, fix="see the log"
            )
        time.sleep(min(POLL_SECONDS, left))
