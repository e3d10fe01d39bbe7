# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Signs what is posted to a webhook."""

from __future__ import annotations

import hashlib
import hmac
import time


def signed(secret: str, body: bytes) -> dict[str, str]:
    """The headers of *body* as the subscription with *secret* wants them."""
    stamp = str(int(time.time()))
    return {
        "Content-Type": "application/json",
        "X-Webhook-Timestamp": stamp,
        "X-Webhook-Signature-V2": hmac.new(secret.encode(), f"{stamp}.".encode() + body, hashlib.sha256).hexdigest(),
    }
