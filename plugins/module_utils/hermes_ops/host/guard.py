# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Recover from an interrupted job when the host boots."""

from __future__ import annotations

import contextlib
import glob
import os

from ..system.files import ensure_directory, write_atomic
from .installation import JOURNALS, Installation
from .jobs import UNIT_DIRECTORY
from .kit import COMMAND
from .runtimes import BOOT as USERS_AGENTS

# Seconds for the recovery of one agent. An agent can use up its own, and then the others must not start a release on
# data that was not put back.
TIMEOUT = 900


def name_of(job: str) -> str:
    return f"hermes-{job}-recovery.service"


def posted() -> list[str]:
    """The units of all guards on this host."""
    return [name for name in map(name_of, JOURNALS) if os.path.exists(os.path.join(UNIT_DIRECTORY, name))]


class Guard:
    """A unit that exists only while a job is in progress: ``hermes-<job>-recovery.service``.

    :param job: a key of :data:`JOURNALS`; the unit runs ``hermes-ops <job> --recover --boot``
    :param needs: a path that must be mounted for the recovery, besides the journal and the agents' homes
    """

    def __init__(self, host: Installation, job: str, *, needs: str) -> None:
        self.host = host
        self.job = job
        self.needs = needs
        name = name_of(job)
        self.path = os.path.join(UNIT_DIRECTORY, name)
        self.link = os.path.join(UNIT_DIRECTORY, "multi-user.target.wants", name)

    def post(self) -> None:
        """Install and enable the unit, so that a boot before :meth:`lift` recovers."""
        ensure_directory(os.path.dirname(self.link), mode=0o755)
        write_atomic(self.path, self.render(), mode=0o644)
        with contextlib.suppress(FileExistsError):
            os.symlink(os.path.join("..", os.path.basename(self.path)), self.link)

    def lift(self) -> None:
        for path in (self.link, self.path):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)

    def _runners(self) -> list[str]:
        """The units that start a release: the gateways, or in user scope the managers of their users."""
        agents = self.host.agents
        if self.host.scope == "system":
            return [agent.unit for agent in agents]
        return sorted({f"user@{self.host.account_of(agent).uid}.service" for agent in agents})

    def render(self) -> str:
        """The unit file: it starts after the disks are mounted and before anything that runs a release."""
        journals = os.path.join(glob.escape(self.host.ops_dir), JOURNALS[self.job])
        homes = [agent.home for agent in self.host.agents]
        return f"""\
# Written by hermes-ops. Exists only while the job is in progress.

[Unit]
Description=Recover from an interrupted {self.job} of Hermes
ConditionPathExistsGlob={journals}
RequiresMountsFor={" ".join([self.host.ops_dir, self.needs, *homes])}
Before={" ".join(self._runners())} {USERS_AGENTS} hermes-update.service

[Service]
Type=oneshot
ExecStart={COMMAND} {self.job} --recover --boot
TimeoutStartSec={TIMEOUT * max(1, len(homes))}

[Install]
WantedBy=multi-user.target
"""
