# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A closer look at an agent's home, beyond its health, for ``check``, ``heartbeat`` and ``status``.

A worker looks (:func:`look`). Its caller turns the answer into a :class:`Closer`, whose texts are safe to repeat.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any

from ..agent import dotenv, sessions
from ..agent.quote import quoted
from ..description.schema import ENV_NAME
from ..supervise import sight
from ..system import worker
from ..system.answer import fits
from ..system.errors import OpsError
from ..system.files import read_bytes
from ..system.text import number
from . import expiry, growth, process, turns
from .turns import Turns

FUNCTION = "watch.sight:look"
# Written by the gateway's event loop itself, every 30 s (since 0.19.0, gateway/shutdown_watchdog.py).
HEARTBEAT = "state/gateway.heartbeat"
# A file that keeps gateways from serving the profile in whose directory it lies (since 0.21.4).
PARKED = "gateway.parked"
_MAX_BYTES = 1024 * 1024
_MAX_TOKENS = 100


@dataclass(frozen=True)
class Closer:
    """The checked result of a closer look; its texts are safe to repeat.

    :param tokens: variable -> when its token expires (seconds since 1970)
    :param telegram_calls: Telegram calls the gateway's webhook, so the gateway opens no connection
    :param beat: content of :data:`HEARTBEAT`; None when it is missing or invalid
    :param parked: whether :data:`PARKED` lies in the home
    :param wal: whether the database is in WAL mode
    :param turns: the turns of the last hour, or why they are unknown
    :param kept: see :func:`growth.growth_findings`
    :param sockets: see :func:`process.sockets`; None: not asked for
    """

    tokens: dict[str, float] = field(default_factory=dict)
    telegram_calls: bool = False
    beat: dict[str, Any] | None = None
    parked: bool = False
    wal: bool = False
    turns: Turns | str | None = None
    kept: tuple[int, int] = (0, 0)
    sockets: tuple[int, bool | None] | None = None

    @classmethod
    def of(cls, answer: Any) -> Closer:
        """Check a worker's answer, which may be anything."""
        answer = answer.get("closer") if isinstance(answer, dict) else None
        answer = answer if isinstance(answer, dict) else {}
        tokens = answer.get("tokens") if isinstance(answer.get("tokens"), dict) else {}
        ends = {quoted(name, 64): number(end) for name, end in list(tokens.items())[:_MAX_TOKENS]}
        beat = answer.get("beat")
        return cls(
            tokens={name: end for name, end in ends.items() if end is not None},
            telegram_calls=answer.get("telegram_calls") is True,
            beat=beat if isinstance(beat, dict) else None,
            parked=answer.get("parked") is True,
            wal=answer.get("wal") is True,
            turns=_turns(answer.get("turns")),
            kept=_kept(answer.get("kept")),
            sockets=_sockets(answer.get("sockets")),
        )


def _turns(said: Any) -> Turns | str:
    if fits(said, (int, int, int, float)) and min(said) >= 0:
        total, failed, recovered, answered = said
        return Turns(total, failed, bool(recovered), answered)
    return quoted(said) or "its turns cannot be read"


def _kept(said: Any) -> tuple[int, int]:
    return (said[0], said[1]) if fits(said, (int, int)) and min(said) >= 0 else (0, 0)


def _sockets(said: Any) -> tuple[int, bool | None] | None:
    if fits(said, (int, object)) and said[1] in (True, False, None):
        return said[0], said[1]
    return None


def look(wanted: dict[str, Any]) -> dict[str, Any]:
    """In a worker: the result of :func:`sight.look`, with ``closer`` added for :meth:`Closer.of`.

    :param wanted: as for :func:`sight.look`, and ``managed_dir``, ``now`` (seconds since 1970), ``pid`` of a gateway
        whose sockets only its own user may see, else 0, ``adopted``: whether the home is, ``rotated``: whether old logs
        are removed from it, or from no home of this host
    """
    home = wanted["home"]
    environment = _environment([home, wanted["managed_dir"]])
    ends = {name: expiry.token_end(value) for name, value in environment.items() if ENV_NAME.fullmatch(name)}
    found = {
        "tokens": {name: end for name, end in ends.items() if end is not None},
        "telegram_calls": bool(environment.get("TELEGRAM_WEBHOOK_URL")),
        "beat": _beat(os.path.join(home, HEARTBEAT)),
        "parked": os.path.lexists(os.path.join(home, PARKED)),
        "wal": _uses_wal(os.path.join(home, sessions.FILE_NAME)),
        "turns": _read_turns(home, wanted["now"]),
        "kept": [
            growth.old_sessions(home, wanted["managed_dir"], wanted["now"]) if wanted["adopted"] else 0,
            growth.old_logs(home, wanted["now"]) if wanted["adopted"] and not wanted["rotated"] else 0,
        ],
        "sockets": process.sockets(wanted["pid"]) if wanted["pid"] else None,
    }
    return {**sight.look(wanted), "closer": found}


def _environment(directories: list[str]) -> dict[str, str]:
    """The variables in the agent's ``.env`` and in that of its managed scope. Unreadable files are skipped."""
    found: dict[str, str] = {}
    for directory in directories:
        path = os.path.join(directory, dotenv.FILE_NAME)
        try:
            if os.path.getsize(path) <= _MAX_BYTES:
                found.update(dotenv.read_env(path))
        except (OpsError, OSError):
            continue
    return found


def _beat(path: str) -> dict[str, Any] | None:
    try:
        beat = worker.parse(read_bytes(path, _MAX_BYTES) or b"null")
    except OpsError:
        return None
    return {key: number(beat.get(key)) for key in ("pid", "monotonic")} if isinstance(beat, dict) else None


def _uses_wal(path: str) -> bool:
    # Bytes 18 and 19 of the header: 2 is WAL (SQLite's file format, 1.3.3).
    try:
        return (read_bytes(path, 20) or b"")[18:20] == b"\2\2"
    except OpsError:
        return False


def _read_turns(home: str, now: float) -> list[float] | str:
    try:
        counted = turns.read_turns(home, now)
    except OpsError as error:
        return f"{error.where} {error.what}"
    return [counted.total, counted.failed, int(counted.recovered), counted.answered]
