# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Says what a backup would make and remove, and changes nothing."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from ..description.agent import Agent
from ..host.installation import Installation, refuse_unfinished
from ..system.errors import OpsError
from ..system.text import moment
from . import archives
from .offsite import Repository, Snapshot
from .settings import Settings

_ENV = {"exclude": "without .env", "include": "with .env", "encrypt": "with .env, encrypted"}


@dataclass
class Preview:
    """What a backup would do.

    :param directory: where archives would be written
    :param env: how they would include ``.env``; see :class:`Settings`
    :param agents: agent -> the archives that would be removed, and the snapshots that would be forgotten
    :param away: whether copies would leave the host
    :param creates: whether the repository would be created
    :param checks: whether it would be checked, and unused data removed from it
    :param failures: what would fail, or could not be found out
    """

    directory: str
    env: str
    agents: dict[str, tuple[list[str], list[Snapshot]]] = field(default_factory=dict)
    away: bool = False
    creates: bool = False
    checks: bool = False
    failures: list[str] = field(default_factory=list)

    def lines(self) -> Iterator[str]:
        if self.creates:
            yield "would create the restic repository"
        for name, (removed, forgotten) in self.agents.items():
            yield f"agent {name}: would write an archive to {self.directory}, {_ENV[self.env]}"
            for path in removed:
                yield f"agent {name}: would then remove {path}"
            if self.away:
                yield f"agent {name}: would write a snapshot to the restic repository"
            for snapshot in forgotten:
                yield f"agent {name}: would then forget restic:{snapshot.id} of {moment(snapshot.created)}"
        if self.checks:
            yield "would check the restic repository, and remove data from it that no snapshot uses"

    def as_dict(self) -> dict[str, Any]:
        return {
            "directory": self.directory,
            "env": self.env,
            "agents": {
                name: {"remove": removed, "forget": [snapshot.id for snapshot in forgotten]}
                for name, (removed, forgotten) in self.agents.items()
            },
            "snapshots": self.away,
            "create_repository": self.creates,
            "check_repository": self.checks,
            "failures": self.failures,
        }


def preview(host: Installation, agents: list[Agent], wanted: Settings, *, output: str | None, env: str) -> Preview:
    """What a backup of *agents* would do.

    :param output: directory for archives only; none would be removed there. None: as declared
    :param env: one of :data:`settings.ENV_CHOICES`
    """
    found = Preview(output or archives.directory_of(host), env)
    for agent in agents:
        try:
            refuse_unfinished(host, agent)
        except OpsError as error:
            found.failures.append(f"{agent.name}: {error}")
            continue
        removed = [] if output else _removed(found.directory, agent.name, wanted.keep)
        found.agents[agent.name] = (removed, [])
    if wanted.restic_repository and not output:
        try:
            _look_away(found, Repository(host.ops_dir, wanted))
        except OpsError as error:
            found.failures.append(str(error))
    return found


def _removed(directory: str, agent: str, keep: int) -> list[str]:
    new = archives.Archive("", agent, time.time(), 0)
    after = archives.in_order([*archives.listed(directory, agent), new])
    return [each.path for each in archives.surplus(after, keep) if each is not new]


def _look_away(found: Preview, repository: Repository) -> None:
    found.creates, found.checks = not repository.exists(), repository.check_is_due()
    found.away = True
    if not found.creates:
        for name, (_removed, forgotten) in found.agents.items():
            forgotten += repository.would_forget(name)
