# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The keys with which callers reach the agent of one user, all computed from one secret of the host.

An application that has the secret computes a user's key itself, and nothing has to be stored for each user. The rule
for applications, and its vectors, are those of ``runtime_ids.py``. A sender of webhooks cannot be given a key, for it
sends no header of ours: it is given an address that nobody can guess.
"""

from __future__ import annotations

import base64
import hashlib
import hmac

from ..system.errors import OpsError
from .schema import SUBSCRIPTION_NAME

# Of the secret, in characters.
SHORTEST = 32
LAST_VERSION = 999


def key_of(secret: str, user_hex: str, version: int = 1) -> str:
    """The key of a user.

    :param secret: the host's
    :param user_hex: of :func:`runtime_ids.hex_of`
    :param version: 1 to :data:`LAST_VERSION`; a host accepts the versions that it declares, so all keys can be replaced
        without replacing the secret
    :raises OpsError: the secret is too short, or this is not a version
    """
    return f"hu{version}_{_versioned(secret, 'key', version, user_hex)}"


def webhook_path_of(secret: str, user_hex: str, name: str, version: int = 1) -> str:
    """The path at the proxy where the webhook *name* of a user's agent is called.

    :param name: of the subscription, as Hermes takes them
    :raises OpsError: also for a name that Hermes does not take

    The others as those of :func:`key_of`.
    """
    if not SUBSCRIPTION_NAME.fullmatch(name):
        raise OpsError(f"{name!r} is not one", where="the name of a webhook", fix="use that of the subscription")
    return f"/w/{user_hex}/hw{version}_{_versioned(secret, 'webhook', version, f'{user_hex}/{name}')}/{name}"


def _versioned(secret: str, kind: str, version: int, text: str) -> str:
    if not 1 <= version <= LAST_VERSION:
        raise OpsError(f"is {version}", where="the version of a key", fix=f"use a number from 1 to {LAST_VERSION}")
    code = base64.urlsafe_b64encode(_code(secret, f"alwayson.hermes/{kind}/{version}/{text}"))
    return code.decode().rstrip("=")


def api_key_of(secret: str, user_hex: str) -> str:
    """The ``API_SERVER_KEY`` of a user's agent. Only root, the agent and the proxy know it.

    Parameters and errors as those of :func:`key_of`.
    """
    return _code(secret, f"alwayson.hermes/api/1/{user_hex}").hex()


def _code(secret: str, text: str) -> bytes:
    # Guessed, the secret opens every agent.
    if len(secret) < SHORTEST:
        raise OpsError(
            f"has {len(secret)} characters",
            where="the secret for the users' keys",
            fix=f"use at least {SHORTEST} random characters, e.g. those that openssl rand -hex 32 prints",
        )
    return hmac.new(secret.encode(), text.encode(), hashlib.sha256).digest()
