# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The fetched secrets of a host: in memory only, readable by root only.

::

    /run/hermes-ops/secrets/<agent>.env     the variables, for EnvironmentFile= of the agent's units
    /run/hermes-ops/secrets/<agent>.json    where they came from and when, and what went wrong last; no values
    /run/hermes-ops/secrets/lock            held while one of them changes
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from ..system import trees
from ..system.errors import OpsError
from ..system.files import ensure_directory, lock, read_json, read_text, write_atomic, write_json
from ..system.plan import Difference, Plan
from ..system.systemd import NO_CORE
from ..system.typed import parse
from . import values

DIRECTORY = "/run/hermes-ops/secrets"
# The unit that fetches the secrets of an agent before its gateway starts.
TEMPLATE_NAME = "hermes-secrets@.service"
_FILE_MODE, _DIRECTORY_MODE = 0o600, 0o700
# File systems that live in memory (proc_pid_mountinfo(5)).
_IN_MEMORY = ("tmpfs", "ramfs")
# Seconds to wait for another process that fetches, or converges the agents.
_LOCK_SECONDS = 120.0


@dataclass(frozen=True)
class Status:
    """What is known of an agent's secrets besides their values.

    :param source: the source that they came from, as plain JSON
    :param fetched: when they were last found there, in seconds since 1970
    :param failed: since when that fails; 0.0: it does not
    :param what: why it fails
    :param fix: the remedy
    :param changed: the names of those that changed last
    :param unwell: since when the agent is not healthy after such a change; 0.0: it is
    """

    source: dict[str, Any] = field(default_factory=dict)
    fetched: float = 0.0
    failed: float = 0.0
    what: str = ""
    fix: str = ""
    changed: tuple[str, ...] = ()
    unwell: float = 0.0


def unit_of(agent: str) -> str:
    """The unit that fetches the secrets of *agent* before its gateway starts."""
    return TEMPLATE_NAME.replace("@", f"@{agent}")


def path_of(agent: str) -> str:
    return os.path.join(DIRECTORY, f"{agent}.env")


def directives(agent: str) -> list[tuple[str, str]]:
    """The directives of a unit that gets the secrets of *agent*."""
    return [("EnvironmentFile", path_of(agent)), NO_CORE]


def _status_path(agent: str) -> str:
    return os.path.join(DIRECTORY, f"{agent}.json")


def secrets_of(agent: str) -> dict[str, str] | None:
    """The secrets of *agent* by name; None: none were fetched since the boot."""
    text = read_text(path_of(agent))
    return None if text is None else values.decode(text)


def value_of(agent: str, name: str) -> str | None:
    """One secret of *agent*; None: it has none of that name, or we may not read it."""
    with contextlib.suppress(OpsError):
        return (secrets_of(agent) or {}).get(name)
    return None


def status_of(agent: str) -> Status:
    """:raises OpsError: it cannot be read"""
    found = read_json(_status_path(agent))
    return parse(Status, found, _status_path(agent)) if found else Status()


def write_status(agent: str, status: Status) -> None:
    ensure_directory(DIRECTORY, mode=_DIRECTORY_MODE)
    write_json(_status_path(agent), asdict(status))


def keep(agent: str, found: Mapping[str, str]) -> list[str]:
    """Replace the secrets of *agent* by *found*; the file is left alone if they are the same.

    :returns: the names of those that changed, are new or gone
    """
    before = secrets_of(agent)
    changed = sorted(name for name in {*found, *(before or {})} if found.get(name) != (before or {}).get(name))
    if changed or before is None:
        prepare()
        write_atomic(path_of(agent), values.encode(found), mode=_FILE_MODE)
    return changed


def forget(agent: str) -> None:
    """Remove what was fetched for *agent*."""
    for path in (path_of(agent), _status_path(agent)):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)


def agents() -> list[str]:
    """The agents for which something was fetched."""
    try:
        names = os.listdir(DIRECTORY)
    except OSError:
        return []
    ours = (name for name in names if not name.startswith("."))
    return sorted({os.path.splitext(name)[0] for name in ours if name.endswith((".env", ".json"))})


def prepare() -> None:
    """Make the directory.

    :raises OpsError: it would lie on a disk
    """
    parent = os.path.dirname(DIRECTORY)
    if not os.path.isdir(parent):
        ensure_directory(parent, mode=0o755)
    ensure_directory(DIRECTORY, mode=_DIRECTORY_MODE)
    kind = _kind_of(DIRECTORY)
    if kind not in _IN_MEMORY:
        raise OpsError(
            f"lies on {kind}, not in memory", where=DIRECTORY, fix="mount a tmpfs at /run, as systemd does at the boot"
        )


def _kind_of(path: str) -> str:
    """The type of the file system that *path* lies on."""
    device = os.stat(path).st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    with open("/proc/self/mountinfo", encoding="utf-8", errors="replace", newline="\n") as stream:
        for line in stream:
            first, _dash, last = line.partition(" - ")
            if first.split()[2] == wanted:
                return last.split()[0]
    return "an unknown file system"


def plan_absent() -> Plan:
    """Compare the host with one on which nothing was fetched."""
    plan = Plan()
    if os.path.isdir(DIRECTORY):
        plan.add(Difference(DIRECTORY, "present", None), lambda: trees.remove(DIRECTORY))
    return plan


@contextlib.contextmanager
def changing(timeout: float = _LOCK_SECONDS) -> Iterator[None]:
    """Hold the lock under which secrets are fetched and kept, and gateways restarted for new ones.

    :param timeout: seconds to wait for another holder
    :raises Refused: another process still holds it
    """
    prepare()
    with lock(os.path.join(DIRECTORY, "lock"), timeout=timeout):
        yield
