# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs playbooks from within a test, and compares a box before and after.

A scenario's conftest.py imports the fixtures that it needs from here.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import tempfile
from dataclasses import dataclass
from typing import Any

import pytest
from inside import inside

PLAYBOOK = "alwayson.hermes.site"

# Everything that a converge may touch: mode, owner, size, ctime, target. ctime also reveals a file that was replaced by
# an identical one.
_MANIFEST = r"""
import glob, json, os, stat, sys
left_out = json.loads(sys.argv[1])
paths = [path for pattern in json.loads(sys.argv[2]) for path in glob.glob(pattern)]
for top in list(paths):
    for directory, directories, files in os.walk(top):
        paths += [os.path.join(directory, name) for name in directories + files]
found = {}
for path in paths:
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        continue
    if path in left_out or os.path.basename(path) in (".", ".."):
        continue
    found[path] = [oct(status.st_mode), status.st_uid, status.st_gid]
    if stat.S_ISLNK(status.st_mode):
        found[path].append(os.readlink(path))
    elif stat.S_ISREG(status.st_mode):
        found[path] += [status.st_size, status.st_ctime_ns]
json.dump(found, sys.stdout)
"""
HOME = "/var/lib/hermes/agents/default/.hermes"
# Only the declared files of the agent's home; the running gateway writes the others.
PATHS = (
    "/etc",
    "/opt",
    "/usr/local",
    "/var/lib/dpkg/status",
    "/var/lib/systemd/linger",
    "/var/lib/hermes/ops",
    *(f"{HOME}/{name}" for name in (".*", "*.yaml", "webhook_subscriptions.json", "*.md", "memories", "skills")),
)
# These files belong to Docker.
LEFT_OUT = ("/etc/resolv.conf", "/etc/hosts", "/etc/hostname")


@dataclass(frozen=True)
class Run:
    """The result of a playbook. ``output``: everything that it printed; ``text``: the same, with single spaces."""

    rc: int
    output: str

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", self.output)

    @property
    def changed(self) -> int:
        return int(re.search(r"^\S+ +: ok=\d+ +changed=(\d+)", self.output, re.M)[1])

    @property
    def changes(self) -> list[str]:
        """The tasks that changed something, by their names."""
        found = []
        for task in self.output.split("\nTASK [")[1:]:
            if re.search("^changed: ", task, re.M):
                found.append(task.partition("]")[0].rpartition(" : ")[2])
        return found


class Controller:
    """The machine that converges a box.

    :param limit: the hosts that a playbook is run for
    """

    def __init__(self, host: Any, limit: str | None = None) -> None:
        self.box = host.backend.host
        self.limit = limit or self.box
        self.inventory = host.backend.ansible_inventory

    def run(
        self,
        variables: dict[str, Any] | None = None,
        *options: str,
        env: dict[str, str] | None = None,
        playbook: str = PLAYBOOK,
    ) -> Run:
        """Run a playbook to its end, with *variables* over those of the inventory."""
        environment = {**os.environ, "ANSIBLE_NOCOLOR": "1", "ANSIBLE_FORCE_COLOR": "0", **(env or {})}
        # As JSON in a file: on a command line all values would be text, and visible to others.
        with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
            json.dump(variables or {}, file)
            file.flush()
            done = subprocess.run(
                [
                    *("ansible-playbook", "--inventory", self.inventory, "--limit", self.limit),
                    *("--extra-vars", f"@{file.name}", *options, playbook),
                ],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                check=False,
            )
        return Run(done.returncode, done.stdout)

    def converge(self, variables: dict[str, Any] | None = None) -> Run:
        """Run site.yml, which has to succeed."""
        run = self.run(variables)
        assert run.rc == 0, run.output
        return run

    def shell(self, script: str, *arguments: str, check: bool = True) -> str:
        """Run *script* as root in the box, return what it prints."""
        done = subprocess.run(
            [*inside(self.box), "sh", "-ec", script, "sh", *arguments],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0 or not check, f"{script}: {done.stderr}{done.stdout}"
        return done.stdout

    def write(self, path: str, content: str | bytes) -> None:
        """Replace the content of *path* in the box; mode and owner stay what they are."""
        data = content.encode() if isinstance(content, str) else content
        subprocess.run(
            [*inside(self.box), "sh", "-ec", 'cat >"$1"', "sh", path],
            input=data,
            check=True,
        )

    def read(self, path: str) -> bytes:
        done = subprocess.run([*inside(self.box), "cat", path], capture_output=True, check=True)
        return done.stdout

    def manifest(self, paths: tuple[str, ...] = PATHS) -> dict[str, Any]:
        """Every file below *paths* (glob patterns) with mode, owner, size and ctime; and the gateways' units."""
        done = subprocess.run(
            [*inside(self.box), "python3", "-c", _MANIFEST, json.dumps(LEFT_OUT), json.dumps(paths)],
            capture_output=True,
            text=True,
            check=True,
        )
        found = json.loads(done.stdout)
        found["units"] = self.shell(
            "systemctl show --property=Id,MainPID,ActiveState,UnitFileState,NRestarts,NeedDaemonReload "
            "'hermes-gateway@*.service'; systemctl list-unit-files --no-legend 'hermes*' || true"
        )
        return found


def differences(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """The differences of two manifests, in readable form."""
    return [
        f"{path}: {before.get(path)} -> {after.get(path)}"
        for path in sorted(before.keys() | after.keys())
        if before.get(path) != after.get(path)
    ]


def end_at_once(controller: subprocess.Popen[Any]) -> None:
    """Kill a run of ansible-playbook with its workers, each of which has its own session."""
    family = [controller.pid]
    for pid in family:
        found = subprocess.run(["pgrep", "--parent", str(pid)], capture_output=True, text=True, check=False)
        family += map(int, found.stdout.split())
    for pid in family:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    controller.wait()


@pytest.fixture
def controller(host: Any) -> Controller:
    return Controller(host)
