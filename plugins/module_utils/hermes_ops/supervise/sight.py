# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A look at an agent's home and servers, for its health.

A worker looks (:func:`look`). Its caller turns the answer into a :class:`Sight`, whose texts are safe to repeat.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from ..agent import config, state
from ..agent.quote import quoted, quoted_error
from ..description.agent import Placement
from ..system import network, yaml_edit
from ..system.errors import OpsError
from ..system.files import Account
from ..system.worker import Limits, Worker
from . import provider, servers

# Enough for both servers and the database to use up their time-outs, and short enough for the shortest heartbeat
# period.
LIMITS = Limits(seconds=15.0)
# Bytes; a normal config.yaml has a few thousand.
_MAX_CONFIG = 4 * 1024 * 1024


@dataclass(frozen=True)
class Sight:
    """The checked result of a look; its texts are safe to repeat.

    :param state: see :func:`state.checked`
    :param config: why config.yaml does not parse; None when it does
    :param no_provider: whether it certainly has no provider of models
    :param servers: ``api`` and ``webhook`` -> see :func:`servers.look`; None: the gateway was not looked at
    :param listeners: see :func:`network.seen_listeners`; for :func:`network.merge_seen`
    """

    state: dict[str, Any] = field(default_factory=dict)
    config: str | None = None
    no_provider: bool = False
    servers: dict[str, Any] | None = None
    listeners: Any = None

    @classmethod
    def of(cls, answer: Any) -> Sight:
        """Check a worker's answer, which may be anything."""
        answer = answer if isinstance(answer, dict) else {}
        said = answer.get("servers")
        return cls(
            state.checked(answer.get("state")),
            quoted(answer.get("config")) or None,
            answer.get("no_provider") is True,
            said if isinstance(said, dict) else None,
            answer.get("listeners"),
        )


def wanted_of(placement: Placement, *, gateway: int, blind: Iterable[int], contained: bool = False) -> dict[str, Any]:
    """The argument of :func:`look`.

    :param gateway: the process of the running gateway to ask; 0: there is none
    :param blind: ports whose listening process only the agent's own user may be able to see
    :param contained: see :class:`State`
    """
    enabled = {key: server.to_plain() for key, server in placement.servers.items()}
    return {
        "home": placement.home,
        "gateway": gateway,
        "servers": enabled,
        "blind": sorted(blind),
        "contained": contained,
    }


def start(account: Account, wanted: dict[str, Any], function: str = "supervise.sight:look") -> Callable[[], Any]:
    """Start a worker that looks.

    :returns: a function that waits, and returns the worker's answer or an :class:`OpsError` that explains its absence
    """
    try:
        worker = Worker(account, function, (wanted,), LIMITS, where=wanted["home"])
    except OpsError as error:
        failed = error
        return lambda: failed

    def answer() -> Any:
        try:
            return worker.result()
        except OpsError as error:
            return quoted_error(error)

    return answer


def look(wanted: dict[str, Any]) -> dict[str, Any]:
    """In a worker: look, and return an answer for :meth:`Sight.of`."""
    found: dict[str, Any] = {"listeners": network.seen_listeners(wanted["blind"])}
    if wanted["gateway"]:
        home = wanted["home"]
        found["state"] = state.checked(state.look(home))
        found["config"] = _config_problem(os.path.join(home, config.FILE_NAME))
        found["no_provider"] = provider.has_none(home, wanted["gateway"])
        found["servers"] = servers.look(wanted["servers"], wanted["contained"])
    return found


def _config_problem(path: str) -> str | None:
    """Why config.yaml does not parse; None when it does. Hermes would silently run on defaults."""
    try:
        if os.path.lexists(path) and os.path.getsize(path) > _MAX_CONFIG:
            return f"{path} is larger than {_MAX_CONFIG} bytes"
        if yaml_edit.available():
            config.read_config(path)
    except OpsError as error:
        return f"{error.where} {error.what}"
    except OSError as error:
        return f"{path} cannot be read ({error.strerror})"
    return None
