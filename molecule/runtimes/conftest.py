# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Fixtures of this scenario."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from control import Controller, controller

sys.path.insert(0, str(Path(__file__).resolve().parent))
from users import Model, User

__all__ = ["controller"]


@pytest.fixture
def user(controller: Controller) -> Callable[[str], User]:
    """A function that gives a user, who may have no runtime yet."""
    return lambda name: User(controller, name)


@pytest.fixture
def ada(user: Callable[[str], User], wait_until: Callable[..., Any]) -> User:
    """A declared user, whose agent runs."""
    found = user("ada@example.org")
    wait_until(found.answers, "the agent of ada answers")
    return found


@pytest.fixture
def bob(user: Callable[[str], User], wait_until: Callable[..., Any]) -> User:
    """Another one, who has a UUID."""
    found = user("6F1D3C1A-53C5-4F0E-9A53-0B2E7C6C7F11")
    wait_until(found.answers, "the agent of bob answers")
    return found


@pytest.fixture
def asleep(wait_until: Callable[..., Any]) -> Callable[[User], None]:
    """A function that puts the agent of a user to sleep, and returns when it sleeps."""

    def put(user: User) -> None:
        user.lie_down()
        wait_until(lambda: user.asleep, f"the agent of {user.name} sleeps")

    return put


@pytest.fixture
def model(host: Any, controller: Controller) -> Iterator[Model]:
    """The model server of the host's agents, blank before and after the test."""
    described = json.loads(controller.shell("cat /run/hermes-runtimes/shared/*/agent.json"))
    server = Model(controller, described["config"]["model"]["base_url"].removesuffix("/v1"))
    server.tell("DELETE", "")
    yield server
    server.tell("DELETE", "")
