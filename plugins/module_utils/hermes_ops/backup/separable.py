# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Decides which agents :mod:`separate` handles and whether each can be separated. Changes nothing."""

from __future__ import annotations

import contextlib
import os
import pwd
import stat
import time
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any

from ..agent.quote import quoted
from ..description.agent import Agent
from ..description.schema import PROFILES_DIRECTORY, USER_NAME, USER_PREFIX
from ..host import held
from ..host.installation import Installation, refuse_unfinished
from ..host.records import Separated, remembered
from ..release.versions import is_version, version_key
from ..supervise import units
from ..supervise.systemd import supervisor_of
from ..system.answer import fits
from ..system.errors import OpsError
from ..system.files import changing, open_directory, read_text
from ..system.text import printable
from ..system.worker import Limits, work
from .selection import OURS

# The comment (GECOS) of the users that the role base creates.
COMMENT = "Hermes agent"
# Since this version one gateway serves all Hermes profiles of a home; the others exit with 78 (gateway/run.py).
ONE_GATEWAY_SINCE = "0.21.4"
SEPARATE = "give each a home of its own: hermes-ops separate"
# For work on a whole home. Homes are small, but a disk may be slow.
LIMITS = Limits(seconds=3600.0)
# Directory beside the outermost home, for originals that cannot be renamed into the ops directory.
ASIDE = f"{OURS}set-aside"
# Patterns of names in a home that are not copied: homes of other agents, and leftovers of a restore.
LEFT_OUT = [PROFILES_DIRECTORY, f"{OURS}*"]
# Most characters of a line, and most lines, that are shown of a worker's answer.
LINE, LISTED = 300, 20
# Bytes that must stay free.
RESERVE = 256 * 2**20


@dataclass
class Journal:
    """The facts needed to undo or finish the separation of one agent.

    :param before: the agent before the separation
    :param after: the agent with its new home and user
    :param verbose: see :class:`units.UnitSettings`
    :param original: inode of the old home
    :param aside: path that the old home is moved to
    :param began: seconds since 1970
    :param copy: inode of the agent's new directory; 0 until it is made
    :param step: the step that began last
    """

    before: Agent
    after: Agent
    verbose: bool
    original: int
    aside: str
    began: float
    copy: int = 0
    step: str = "copy"

    @property
    def name(self) -> str:
        return self.before.name


@dataclass(frozen=True)
class Survey:
    """The answer of :func:`carry.survey` about a home, after its form was checked."""

    digest: str
    entries: int
    size: int
    naming: list[str]
    more: int

    @classmethod
    def of(cls, said: Any, where: str) -> Survey:
        if not fits(said, {"digest": str, "entries": int, "size": int, "naming": list, "more": int}):
            raise OpsError("cannot be looked at", where=where, fix="see what its agent left there")
        return cls(**{**said, "naming": paths(said["naming"])})


def lines(said: Any) -> list[str]:
    """The texts in a worker's answer, fit to be shown: bounded, one line each, secrets hidden."""
    return [quoted(line, LINE) for line in _texts(said)]


def paths(said: Any) -> list[str]:
    """The paths in a worker's answer, fit to be shown. Nothing in them is hidden: somebody has to find the file."""
    return [" ".join(printable(path[:LINE]).split()) for path in _texts(said)]


def _texts(said: Any) -> list[str]:
    found = said if isinstance(said, list) else []
    return [text for text in found[:LISTED] if isinstance(text, str)]


def standard_home(agent: Agent) -> str:
    """Path of the home of an agent that has one of its own."""
    return f"{agent.directory}/.hermes"


def together(agents: list[Agent], gone: list[Separated]) -> list[Agent]:
    """The adopted agents that share something: one's home lies in another's, or two have the same user.

    :param gone: former homes and users of separated agents; an agent that still shares one of these is included
    """

    def share(one: Agent, other: Agent | Separated) -> bool:
        nested = _lies_in(one.home, other.home) or _lies_in(other.home, one.home)
        return nested or one.user == other.user

    others: list[Agent | Separated] = [*agents, *gone]
    adopted = [agent for agent in agents if agent.adopted]
    return [one for one in adopted if any(other is not one and share(one, other) for other in others)]


def choose(agents: list[Agent], names: list[str], gone: list[Separated]) -> list[Agent]:
    """The agents to separate, each before the agent whose home contains its home.

    :param agents: all agents of the host
    :param names: the wanted agents; empty: all that are :func:`together`
    :param gone: see :func:`together`
    :raises OpsError: an agent is unknown, has a home of its own already, or its home contains that of an agent that is
        not chosen
    """
    known = {agent.name: agent for agent in agents}
    for name in names:
        if name not in known:
            raise OpsError(f"there is no agent {name!r}", fix=f"known ones: {', '.join(known) or 'none'}")
        if known[name].home == standard_home(known[name]):
            raise OpsError(f"agent {name} has a home of its own already", where=known[name].home)
    chosen = [known[name] for name in dict.fromkeys(names)] or together(agents, gone)
    for outer in chosen:
        for inner in agents:
            if _lies_in(inner.home, outer.home) and inner not in chosen:
                raise OpsError(
                    f"the home of agent {outer.name} holds that of agent {inner.name}",
                    where=outer.home,
                    fix=f"separate both: hermes-ops separate {inner.name} {outer.name}",
                )
    return sorted(chosen, key=lambda agent: (-agent.home.count("/"), agent.name))


def shared_homes(agents: list[Agent], version: str | None) -> list[str]:
    """Homes that contain other agents' homes and that *version* would serve from one gateway, one sentence each.

    :param version: of a release; when it is None or not a version, the result is empty
    """
    if not version or not is_version(version) or version_key(version) < version_key(ONE_GATEWAY_SINCE):
        return []
    found = []
    for outer in agents:
        inner = [agent.name for agent in agents if _lies_in(agent.home, outer.home)]
        if inner:
            found.append(
                f"{outer.home} holds the homes of {' and '.join([outer.name, *inner])}, and Hermes {version} "
                f"serves all of them from the gateway of {outer.name}"
            )
    return found


def _lies_in(home: str, other: str) -> bool:
    return home.startswith(f"{other}/")


def plan(host: Installation, names: list[str]) -> list[tuple[Journal, Survey]]:
    """The separations to do, in order. Changes nothing.

    :param names: the wanted agents, see :func:`choose`
    :raises OpsError: one of them cannot be separated
    """
    if host.scope != "system":
        raise OpsError(
            "the gateways run under their users' own service managers",
            fix="converge the host with gateway_scope: system first",
        )
    agents = host.agents
    gone = [was for name in remembered(host.ops_dir) if (was := host.records(name).separated())]
    chosen = choose(agents, names, gone)
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    plans = []
    for agent in chosen:
        refuse_unfinished(host, agent)
        user = USER_PREFIX + agent.name
        after = replace(agent, user=user, home=standard_home(agent))
        check_user(user, agent, agents)
        _refuse_leftovers(agent)
        status = _refuse_mount(agent.home)
        aside = os.path.join(aside_parent(host, agent, agents, status.st_dev), f"{agent.name}-{stamp}")
        verbose = _verbose(host, agent)
        if not supervisor_of(host).state([agent])[agent.name].running:
            raise OpsError(
                f"agent {agent.name} does not run, so its health before and after cannot be compared",
                where=agent.unit,
                fix="start it, or converge the host: site.yml",
            )
        journal = Journal(agent, after, verbose, status.st_ino, aside, time.time())
        plans.append((journal, survey(host, agent, agent)))
    size, free = sum(seen.size for _journal, seen in plans), held.spare(host.data_dir, RESERVE)
    if free < size:
        raise OpsError(
            f"has {free // 2**20} MiB for the copies, which take {size // 2**20 + 1} MiB; the rest is for the agents",
            where=host.data_dir,
            fix="free space",
        )
    return plans


def _refuse_leftovers(agent: Agent) -> None:
    for path in (new_directory(agent), before_directory(agent)):
        if os.path.lexists(path):
            raise OpsError("is in the way", where=path, fix="see what it is, and move it away")


def _refuse_mount(home: str) -> os.stat_result:
    """The status of *home*, which must be a directory and not a mount point: the home is moved by a rename."""
    with opened(os.path.dirname(home)) as parent:
        status = os.stat(os.path.basename(home), dir_fd=parent, follow_symlinks=False)
        if not stat.S_ISDIR(status.st_mode):
            raise OpsError("is not a directory", where=home, fix="declare the real path as its home")
        if status.st_dev != os.fstat(parent).st_dev:
            raise OpsError(
                "is a mount point, which cannot be set aside",
                where=home,
                fix="mount the file system above it, and let the home be a directory in it",
            )
    return status


def _verbose(host: Installation, agent: Agent) -> bool:
    """Whether the gateway of *agent* is verbose (:class:`units.UnitSettings`). Its drop-in must be as declared."""
    account = host.account_of(agent)
    found = read_text(unit_settings(host, False).drop_in_path(agent.name))
    for verbose in (False, True):
        if found == units.render_drop_in(unit_settings(host, verbose), agent, account):
            return verbose
    raise OpsError(
        "is not what the host was converged to",
        where=unit_settings(host, False).drop_in_path(agent.name),
        fix="converge the host: site.yml",
    )


def unit_settings(host: Installation, verbose: bool) -> units.UnitSettings:
    # A drop-in depends on none of the other fields.
    return units.UnitSettings(host.scope, host.root, 0, 0, 0, verbose=verbose)


def survey(host: Installation, agent: Agent, before: Agent) -> Survey:
    """Survey the home of *agent* for files that name the home, or the user's home, of *before*."""
    roots = [before.home]
    home = units.user_home(before, host.account_of(before))
    if home != before.directory:
        roots.append(home)
    account, where = host.account_of(agent), agent.home
    return Survey.of(work(account, "agent.carry:survey", where, LEFT_OUT, roots, limits=LIMITS, where=where), where)


def check_user(user: str, agent: Agent, agents: list[Agent]) -> None:
    """:raises OpsError: when *user* cannot become the user of *agent* alone"""
    where = f"agent {agent.name}"
    if not USER_NAME.fullmatch(user):
        raise OpsError(
            f"its user {user} would have more than the 32 characters that a user's name may have",
            where=where,
            fix="declare the agent under a shorter name first",
        )
    others = [other.name for other in agents if other.user == user and other.name != agent.name]
    if others:
        raise OpsError(f"its user {user} runs agent {others[0]} already", where=where, fix="rename one of them")
    with contextlib.suppress(KeyError):
        found = pwd.getpwnam(user)
        if found.pw_gecos.split(",")[0] != COMMENT or found.pw_dir != agent.directory or found.pw_uid == 0:
            raise OpsError(
                f"user {user} exists already and is not this agent's ({found.pw_gecos!r}, {found.pw_dir})",
                where=where,
                fix="rename that user, or declare the agent under another name first",
            )


def aside_parent(host: Installation, agent: Agent, agents: list[Agent], device: int) -> str:
    """The directory that the old home of *agent* is moved to: in the ops directory, or beside the outermost home.

    The home is moved by a rename, so the directory must be on the same file system.

    :param device: number of the home's file system
    :raises OpsError: neither directory is on that file system
    """
    homes = [other.home for other in agents if f"{agent.home}/".startswith(f"{other.home}/")]
    outermost = min(homes, key=len)
    for directory, name in ((host.ops_dir, "set-aside"), (os.path.dirname(outermost), ASIDE)):
        with opened(directory) as descriptor:
            same = os.fstat(descriptor).st_dev == device
        if same:
            return os.path.join(directory, name)
    raise OpsError(
        "lies on a file system of its own, where it cannot be set aside",
        where=agent.home,
        fix=f"declare hermes_ops_dir on the file system of {outermost}",
    )


def new_directory(agent: Agent) -> str:
    # No name of an agent has a dot.
    return f"{agent.directory}.new"


def before_directory(agent: Agent) -> str:
    return f"{agent.directory}.before"


def identity(path: str, directory: int | None = None) -> int:
    """The inode of *path*, relative to the descriptor *directory* if one is given; 0 when it does not exist.

    It identifies a directory across renames. The device number is left out, because a reboot may change it.
    """
    try:
        return os.stat(path, dir_fd=directory, follow_symlinks=False).st_ino
    except FileNotFoundError:
        return 0


def opened(path: str) -> AbstractContextManager[int]:
    """A descriptor of the directory *path*, reached through no agent's link; an OSError in the block is an OpsError."""
    return changing(open_directory(path), path)
