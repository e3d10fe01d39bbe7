# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Fixtures of this scenario: runs of site.yml, and a check that they changed nothing."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from control import Controller, Run, controller, differences
from killer import killer

__all__ = ["controller", "killer"]


@pytest.fixture
def unharmed(controller: Any, agent: Any) -> Iterator[None]:
    """The host is the same after the test as before, and its agent keeps running."""
    before, pid = controller.manifest(), agent().pid
    assert pid
    yield
    assert not differences(before, controller.manifest())
    assert agent().pid == pid
    assert agent().reply("well?") == "The model heard: well?"


@dataclass(frozen=True)
class Case:
    """The result of one case of a run.

    ``name``: its host; ``error``: why it failed, with single spaces; ``failed`` and ``changed``: counts of
    the recap.
    """

    name: str
    error: str
    failed: int
    changed: int


@pytest.fixture
def run_as(host: Any, tmp_path: Path) -> Callable[[dict[str, dict[str, Any]]], tuple[Run, dict[str, Case]]]:
    """A function that runs site.yml once for several cases, each with variables of its own.

    Each case is a separate host for Ansible, and all of these hosts are this box.
    """

    def outcome(run: Run, name: str) -> Case:
        # Ansible reports an item of a loop as "failed", and then the task as "fatal".
        errors = re.findall(
            rf"^(?:fatal|failed): \[{name}\].*?(?=^(?:fatal|failed|ok|changed|skipping): |^\n)", run.output, re.M | re.S
        )
        recap = re.search(rf"^{name} +: ok=\d+ +changed=(\d+) .*failed=(\d+)", run.output, re.M)
        assert recap, run.output
        return Case(name, re.sub(r"\s+", " ", "".join(errors)), int(recap[2]), int(recap[1]))

    def run(cases: dict[str, dict[str, Any]]) -> tuple[Run, dict[str, Case]]:
        box = host.backend.host
        names = {case: f"{box}-{re.sub(r'[^a-z]+', '-', case.lower())}" for case in cases}
        hosts = {
            names[case]: {"ansible_connection": "community.docker.docker", "ansible_host": box, **variables}
            for case, variables in cases.items()
        }
        inventory = tmp_path / "cases.json"
        inventory.write_text(json.dumps({"hermes": {"children": {"cases": {"hosts": hosts}}}}))
        done = Controller(host, limit="cases").run(None, "--inventory", str(inventory))
        return done, {case: outcome(done, name) for case, name in names.items()}

    return run
