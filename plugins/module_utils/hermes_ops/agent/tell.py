# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Context for an agent: kept in its home for later, and sent to it, so that it knows at once."""

from __future__ import annotations

import os
import re
import time

from ..system.errors import OpsError
from ..system.files import Account, ensure_directory, write_atomic
from ..system.worker import work

# Below the agent's home.
DIRECTORY = "context"
WEBHOOK = "claude-context"
# Hermes accepts webhook calls of up to 1 MiB (0.18.2 and 0.19.0 gateway/platforms/webhook.py: max_body_bytes). The
# difference is room for the JSON around the text and for its escapes.
MAX_BYTES = 900 * 1024
_SLUG_LENGTH = 48


def parse(data: bytes, topic: str | None) -> tuple[str, str]:
    """Topic and body.

    :param data: the body; without *topic*, its first line is the topic, as in a git commit message
    :raises OpsError: not text, too long, or without a topic or body
    """
    if len(data) > MAX_BYTES:
        raise OpsError(
            f"the context is larger than {MAX_BYTES} bytes, which a webhook does not accept",
            fix="put it where the agent can read it, and tell it where that is",
        )
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        raise OpsError("the context is not UTF-8 text", fix="save it as UTF-8") from None
    if topic is None:
        topic, _separator, text = text.lstrip().partition("\n")
    topic, body = " ".join(topic.split()), text.strip()
    if not topic or not body:
        raise OpsError(
            f"there is no {'body' if topic else 'topic'}",
            fix="give --topic, or the topic as the first line, and the body on standard input",
        )
    return topic, body


def archive_path(home: str, topic: str, when: float) -> str:
    """The file for context about *topic*: ``<home>/context/<UTC date and time>-<slug>.md``."""
    slug = re.sub(r"[^a-z0-9]+", "-", topic.lower())[:_SLUG_LENGTH].strip("-")
    stamp = time.strftime("%Y-%m-%d-%H%M%S", time.gmtime(when))
    return os.path.join(home, DIRECTORY, "-".join(filter(None, (stamp, slug))) + ".md")


def archive(path: str, account: Account, topic: str, body: str) -> None:
    """Write the context to *path*, as the agent's user.

    :raises OpsError: when it cannot be written, or *path* already exists
    """
    work(account, "agent.tell:keep", path, f"# {topic}\n\n{body}\n", where=path)


def keep(path: str, text: str) -> None:
    """In a worker: see :func:`archive`."""
    ensure_directory(os.path.dirname(path), mode=0o700)
    if os.path.lexists(path):
        raise OpsError("exists already", where=path, fix="run the command again a second later")
    write_atomic(path, text, mode=0o600)
