# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What there is to see of an agent in its home and at its servers, for its health.

A worker looks (:func:`look`); who asked for it gets a :class:`Sight`, whose words may be repeated.
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
from ..system.files import Owner
from ..system.worker import Limits, Worker
from . import servers

# Both servers and the database may use up their time. Less than the shortest period of a heartbeat leaves.
LIMITS = Limits(seconds=15.0)
# Bytes; a config.yaml has a few thousand.
_MAX_CONFIG = 4 * 1024 * 1024


@dataclass(frozen=True)
class Sight:
    """What a worker saw; words may be repeated.

    :param state: see :func:`state.checked`
    :param config: why config.yaml does not parse, None when it does
    :param servers: ``api`` and ``webhook`` -> see :func:`servers.look`; None: nothing of the gateway was looked at
    :param listeners: see :func:`network.seen_listeners`; for :func:`network.merge_seen`
    """

    state: dict[str, Any] = field(default_factory=dict)
    config: str | None = None
    servers: dict[str, Any] | None = None
    listeners: Any = None

    @classmethod
    def of(cls, answer: Any) -> Sight:
        """From what a worker answered, whatever that is."""
        answer = answer if isinstance(answer, dict) else {}
        said = answer.get("servers")
        return cls(
            state.checked(answer.get("state")),
            quoted(answer.get("config")) or None,
            said if isinstance(said, dict) else None,
            answer.get("listeners"),
        )


def wanted_of(placement: Placement, *, running: bool, blind: Iterable[int]) -> dict[str, Any]:
    """What :func:`look` is told.

    :param running: whether there is a gateway to be asked
    :param blind: ports whose listener only the agent's own user may see
    """
    enabled = {key: server.to_plain() for key, server in placement.servers.items()}
    return {"home": placement.home, "running": running, "servers": enabled, "blind": sorted(blind)}


def start(owner: Owner, wanted: dict[str, Any], function: str = "supervise.sight:look") -> Callable[[], Any]:
    """Start a worker that looks.

    :returns: waits for its answer; gives that, or the :class:`OpsError` that says why there is none
    """
    try:
        worker = Worker(owner, function, (wanted,), LIMITS, where=wanted["home"])
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
    """In a worker: what there is to see, as :class:`Sight` takes it."""
    found: dict[str, Any] = {"listeners": network.seen_listeners(wanted["blind"])}
    if wanted["running"]:
        home = wanted["home"]
        found["state"] = state.checked(state.look(home))
        found["config"] = _config_problem(os.path.join(home, config.FILE_NAME))
        found["servers"] = servers.look(wanted["servers"])
    return found


def _config_problem(path: str) -> str | None:
    """Hermes runs on defaults, silently, when its config.yaml does not parse."""
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
