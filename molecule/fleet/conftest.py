# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Fixtures of this scenario: all its hosts together, as playbooks see them."""

from __future__ import annotations

import json
import re
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from control import Controller, Run, end_at_once

# An inventory with a host that cannot be reached.
ELSEWHERE = Path(__file__).with_name("elsewhere.ini")
# A row of a table: its columns are two or more spaces apart. A line of Ansible's recap has a colon there.
ROW = re.compile(r"^(fleet-\w+) {2,}(?![ :])(.+?)(?: {2,}(.*))?$", re.M)


@dataclass(frozen=True)
class Box:
    """One host of the fleet."""

    controller: Controller

    def shell(self, script: str, *arguments: str, check: bool = True) -> str:
        return self.controller.shell(script, *arguments, check=check)

    @property
    def version(self) -> str:
        """The version of Hermes that answers; empty if none does."""
        answer = self.shell("curl --silent http://127.0.0.1:8642/health || true")
        return json.loads(answer)["version"] if answer else ""

    @property
    def pid(self) -> str:
        return self.shell("systemctl show --property MainPID --value hermes-gateway@default").strip()

    @property
    def last_update(self) -> dict[str, Any]:
        return json.loads(self.shell("cat /var/lib/hermes/ops/status/update.json 2>/dev/null || echo '{}'"))

    def tell_index(self, what: str, value: Any) -> None:
        """Control the package index of the box; the requests are described in tests/fakes/package_index.py."""
        self.shell('curl --silent --fail --data "$2" "http://127.0.0.1:18090/control/$1"', what, json.dumps(value))


class Fleet:
    """:param boxes: the hosts, by the last part of their names"""

    def __init__(self, controller: Controller, boxes: dict[str, Box]) -> None:
        self.controller = controller
        self.boxes = boxes

    def __getitem__(self, name: str) -> Box:
        return self.boxes[name]

    @property
    def versions(self) -> dict[str, str]:
        return {name: box.version for name, box in self.boxes.items()}

    @property
    def pids(self) -> dict[str, str]:
        return {name: box.pid for name, box in self.boxes.items()}

    def play(self, name: str, variables: dict[str, Any] | None = None, *options: str, gone: bool = False) -> Run:
        """Run ``alwayson.hermes.<name>`` on the whole fleet; *gone* adds a host that cannot be reached."""
        inventory = ("--inventory", str(ELSEWHERE)) if gone else ()
        return self.controller.run(variables, *inventory, *options, playbook=f"alwayson.hermes.{name}")

    @staticmethod
    def rows(run: Run) -> dict[str, tuple[str, str]]:
        """The table that *run* printed: host -> its first column, and the rest of the row."""
        return {name.removeprefix("fleet-"): (result, more) for name, result, more in ROW.findall(run.output)}

    @contextmanager
    def playing(self, name: str, variables: dict[str, Any]) -> Iterator[None]:
        """Run the playbook during the block, then kill its controller."""
        command = ["ansible-playbook", "--inventory", self.controller.inventory, f"alwayson.hermes.{name}"]
        with tempfile.TemporaryFile("w+") as output:
            player = subprocess.Popen(
                [*command, "--extra-vars", json.dumps(variables)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
            try:
                yield
            finally:
                end_at_once(player)
                # pytest shows it with a failure.
                output.seek(0)
                print(output.read())


@pytest.fixture
def fleet(host: Any) -> Fleet:
    controller = Controller(host, limit="all")
    names = ("alpha", "beta", "gamma")
    hosts = {name: host.get_host(f"ansible://fleet-{name}", ansible_inventory=controller.inventory) for name in names}
    return Fleet(controller, {name: Box(Controller(each)) for name, each in hosts.items()})
