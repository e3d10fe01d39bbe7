# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether the agents of tenants are as healthy as before, and reply: by ``hermes-ops agent verify`` in their pods."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass

from ..hermes_ops.cli import EXIT_OK, EXIT_UNHEALTHY
from ..hermes_ops.supervise.servers import REPLY_TIMEOUT
from ..hermes_ops.system.answer import fits
from ..hermes_ops.system.errors import OpsError
from ..hermes_ops.system.text import brief
from ..hermes_ops.system.worker import WorkerDied, parse
from .cluster import Cluster, NotAllowed, Unreachable
from .declared import Tenant
from .execute import Command, Ended, execute

# Seconds that the kit may take besides those for the agent to become healthy: a reply, an answered webhook, and more.
_PROOF = 2 * REPLY_TIMEOUT + 60.0
# Bytes of its answer, in which there may be a reply; problems that are looked at; and characters that are shown of one.
_ANSWER, _MOST, _SHOWN = 2**20, 20, 300
_CAUSE = re.compile("[a-z_]{1,40}")


@dataclass(frozen=True)
class Look:
    """How an agent is, by its own account.

    :param causes: of its problems
    :param worse: its first problem that it had not before; None: there is none
    """

    causes: tuple[str, ...]
    worse: str | None


def look(cluster: Cluster, tenant: Tenant, before: Sequence[str] | None = None) -> Look:
    """Ask the agent of *tenant*. If it is as healthy as before, the release of its image is no longer on trial.

    :param before: causes of the problems that it had before an update, after which it may take its time to become
        healthy; None: there was none
    :raises OpsError: it cannot be asked
    """
    after = ("--wait=0",) if before is None else (f"--before={','.join(before)}",)
    words = ("hermes-ops", "agent", "verify", "--json", *after)
    command = Command(words, most=_ANSWER, seconds=tenant.agent.health.timeout + _PROOF)
    pod = f"{tenant.object}-0"
    try:
        ended, text = _run(cluster, pod, command)
    except (NotAllowed, Unreachable):
        raise
    except OpsError:
        # What lies between may have cut it off.
        ended, text = _run(cluster, pod, command)
    if ended.status not in (EXIT_OK, EXIT_UNHEALTHY):
        raise OpsError(f"cannot be asked how it is: status {ended.status}: {brief(ended.said, _SHOWN)}", where=pod)
    problems = _problems(text, pod)
    new = [what for cause, what in problems if cause not in (before or ())]
    causes = dict.fromkeys(cause for cause, _what in problems if _CAUSE.fullmatch(cause))
    worse = (new or ["it says that it is not healthy"])[0] if ended.status == EXIT_UNHEALTHY else None
    return Look(tuple(causes), worse)


def _run(cluster: Cluster, pod: str, command: Command) -> tuple[Ended, bytes]:
    with io.BytesIO() as out:
        return execute(cluster, pod, command, out), out.getvalue()


def _problems(text: bytes, where: str) -> list[tuple[str, str]]:
    """The cause and a sentence of each problem in the kit's answer."""
    try:
        answer = parse(text)
    except WorkerDied:
        answer = None
    found = answer.get("problems") if isinstance(answer, dict) else None
    if not fits(found, [{"cause": str, "what": str, "fix": str}]):
        raise OpsError("does not say how it is", where=where, fix="see what its agent left there")
    return [(each["cause"], brief(each["what"], _SHOWN)) for each in found[:_MOST]]
