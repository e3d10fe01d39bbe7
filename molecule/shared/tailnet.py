# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A scenario's tailnet (tailnet.yml), as its administrator and its operator see it."""

from __future__ import annotations

import json
import shlex
import subprocess
from dataclasses import dataclass
from typing import Any

from inside import inside
from signing import signed

CONTROL = "http://127.0.0.1:8080"


def shell(box: str, script: str, check: bool = True) -> str:
    """Run *script* as root in *box*, return what it prints."""
    done = subprocess.run(
        [*inside(box), "bash", "-c", script], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0 or not check, f"{box}: {script}: {done.stdout}{done.stderr}"
    return done.stdout


@dataclass(frozen=True)
class Tailnet:
    """*operator*: the box of the operator's node, which also is the control server."""

    operator: str

    def administer(self, what: str) -> None:
        shell(self.operator, f"curl --silent --fail '{CONTROL}/admin/{what}'")

    def nodes(self) -> dict[str, Any]:
        """The nodes by id, as the administrator sees them."""
        return json.loads(shell(self.operator, f"curl --silent --fail {CONTROL}/admin/nodes"))

    def id_of(self, name: str) -> str:
        (found,) = [each for each, node in self.nodes().items() if node["name"] == name]
        return found

    def address(self, name: str) -> str:
        return self.nodes()[self.id_of(name)]["address"]

    def post(self, url: str, secret: str, payload: Any) -> str:
        """What the operator's node gets for *payload*, signed with *secret*; empty while nobody answers."""
        body = json.dumps(payload)
        headers = [part for name, value in signed(secret, body.encode()).items() for part in ("-H", f"{name}: {value}")]
        return shell(
            self.operator, f"curl --silent --max-time 10 {shlex.join([*headers, '--data', body, url])}", check=False
        )
