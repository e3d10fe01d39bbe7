# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Fixtures of this scenario: the sources, and the job that looks at them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from control import controller
from killer import killer

__all__ = ["controller", "killer"]

STORE = "http://127.0.0.1:14566"
TOP = "/hermes/test/default/"


class Sources:
    """The sources in the box.

    :ivar made: agent -> its secrets, as they are in its source now
    """

    def __init__(self, controller: Any) -> None:
        self.controller = controller
        self.made: dict[str, dict[str, str]] = json.loads(controller.shell("cat /run/made/made.json"))

    def put(self, **values: str) -> None:
        """Change parameters of the agent ``default``."""
        self.made["default"].update(values)
        self.controller.write("/run/made/made.json", json.dumps(self.made))
        self.refill()

    def refill(self) -> None:
        """Give the store, which has only memory, its parameters."""
        parameters = {TOP + name: value for name, value in self.made["default"].items()}
        self.controller.write("/run/made/parameters", json.dumps(parameters))
        self.tell("PUT", "/parameters", "@/run/made/parameters")

    def tell(self, method: str, path: str, body: str = "") -> str:
        script = 'curl -sS --retry 20 --retry-connrefused --retry-delay 1 --request "$1" --data "$3" "$2"'
        return self.controller.shell(script, method, STORE + path, body)

    def faults(self, *faults: dict[str, Any]) -> None:
        self.tell("POST", "/faults", json.dumps(faults))

    def fetch(self, *, check: bool = True) -> str:
        """Have them fetched again as the timer does; returns what the job logs."""
        # On a fast machine the tests start it more often than systemd's limit allows.
        self.controller.shell("systemctl reset-failed hermes-secrets.service || true")
        self.controller.shell("systemctl start hermes-secrets.service" + ("" if check else " || true"))
        return self.controller.shell(
            'journalctl --output=cat "_SYSTEMD_INVOCATION_ID=$(systemctl show -P InvocationID hermes-secrets.service)"'
        )

    def findings(self) -> dict[str, dict[str, Any]]:
        """What ``check`` says of secrets, by cause."""
        found = json.loads(self.controller.shell("hermes-ops check --json || true"))["findings"]
        return {each["cause"]: each for each in found if each["cause"].startswith(("secrets", "metadata"))}


@pytest.fixture
def sources(controller: Any) -> Iterator[Sources]:
    made = Sources(controller)
    yield made
    made.tell("DELETE", "/faults")


@pytest.fixture
def environment(controller: Any) -> Callable[[int], dict[str, str]]:
    """A function that gives the environment of a process."""

    def read(pid: int) -> dict[str, str]:
        words = controller.shell(f"cat /proc/{pid}/environ").split("\0")
        return dict(word.split("=", 1) for word in words if word)

    return read
