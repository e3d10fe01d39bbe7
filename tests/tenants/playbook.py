# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs the collection's playbooks for tenants."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from pathlib import Path
from typing import Any

COLLECTIONS = Path(__file__).resolve().parents[2] / ".cache/collections"


class Playbook:
    """A playbook, as somebody runs it.

    :param directory: where it is run, an empty one
    :param declared: the variables of tenants
    """

    def __init__(self, directory: Path, declared: dict[str, Any], kubeconfig: str, namespace: str) -> None:
        self.directory = directory
        self.variables = {**declared, "tenants_kubeconfig": kubeconfig, "tenants_namespace": namespace}

    def run(self, *options: str, name: str = "tenants", **variables: Any) -> tuple[int, str]:
        """Its status and all that it printed."""
        process = self.begin(*options, name=name, **variables)
        output, _none = process.communicate()
        return process.returncode, output

    def begin(self, *options: str, name: str, **variables: Any) -> subprocess.Popen[str]:
        """Start it."""
        (self.directory / "variables.json").write_text(json.dumps({**self.variables, **variables}))
        return subprocess.Popen(
            ["ansible-playbook", "-i", "localhost,", f"alwayson.hermes.{name}", "-e", "@variables.json", *options],
            cwd=self.directory,
            env={**os.environ, "ANSIBLE_COLLECTIONS_PATH": str(COLLECTIONS), "ANSIBLE_NOCOLOR": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )


def kill(process: subprocess.Popen[str]) -> None:
    """Kill a playbook with all that it started; the workers of Ansible are in sessions of their own."""
    found = [process.pid]
    for each in found:
        found += map(int, Path(f"/proc/{each}/task/{each}/children").read_text().split())
    for each in found:
        os.kill(each, signal.SIGKILL)
    process.communicate()


def changed(output: str) -> int:
    """How many tasks changed something."""
    return int(re.search(r"^localhost +: .* changed=(\d+)", output, re.M)[1])
