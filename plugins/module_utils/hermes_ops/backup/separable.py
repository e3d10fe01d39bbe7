# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which agents :mod:`separate` is about, and whether it can be done at all. Nothing here changes anything."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import stat
import time
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any

from ..agent.quote import quoted
from ..description.agent import Agent
from ..description.schema import PROFILES_DIRECTORY, USER_NAME, USER_PREFIX
from ..host.installation import Installation
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

# The role base gives it to the users that it makes.
COMMENT = "Hermes agent"
# From here on one gateway serves all Hermes profiles of a home, and the other gateways stop with 78 (gateway/run.py).
ONE_GATEWAY_SINCE = "0.21.4"
SEPARATE = "give each a home of its own: hermes-ops separate"
# Homes are small, but a disk may be slow.
LIMITS = Limits(seconds=3600.0)
# Where originals go that cannot go to the ops directory: beside the outermost home.
ASIDE = f"{OURS}set-aside"
# Patterns of names in a home that no copy gets: other agents' homes, and what a restore has left there.
LEFT_OUT = [PROFILES_DIRECTORY, f"{OURS}*"]
# Characters, and lines, that are shown of what a worker says.
LINE, LISTED = 300, 20
# Bytes that stay free.
RESERVE = 256 * 2**20


@dataclass
class Journal:
    """What is needed to undo, or to finish.

    :param before: the agent as it was
    :param after: the same with its new home and user
    :param verbose: see :class:`units.Host`
    :param original: inode of the old home
    :param aside: where the old home goes
    :param began: seconds since 1970
    :param copy: inode of the agent's new directory, once it is made
    :param step: that was begun last
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
    """What :func:`carry.survey` says of a home, as far as it has the shape that it should have."""

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
    """The lines of text that a worker answered, as far as they are such, fit to be shown."""
    return [quoted(line, LINE) for line in _texts(said)]


def paths(said: Any) -> list[str]:
    """The same for paths. They are not hidden, whatever they look like: somebody has to find the file."""
    return [" ".join(printable(path[:LINE]).split()) for path in _texts(said)]


def _texts(said: Any) -> list[str]:
    found = said if isinstance(said, list) else []
    return [text for text in found[:LISTED] if isinstance(text, str)]


def standard_home(agent: Agent) -> str:
    """The home of an agent that has one of its own."""
    return f"{agent.directory}/.hermes"


def together(agents: list[Agent], gone: list[Separated]) -> list[Agent]:
    """The adopted agents that are not apart: one's home lies in another's, or they have a user in common.

    :param gone: where agents were that were separated before: who is left there, comes after them
    """

    def share(one: Agent, other: Agent | Separated) -> bool:
        nested = _lies_in(one.home, other.home) or _lies_in(other.home, one.home)
        return nested or one.user == other.user

    others: list[Agent | Separated] = [*agents, *gone]
    adopted = [agent for agent in agents if agent.home != standard_home(agent)]
    return [one for one in adopted if any(other is not one and share(one, other) for other in others)]


def choose(agents: list[Agent], names: list[str], gone: list[Separated]) -> list[Agent]:
    """The agents to separate, a home before the one that it lies in.

    :param agents: all that there are
    :param names: of those that are wanted; empty: all that are :func:`together`
    :param gone: see there
    :raises OpsError: there is no such agent, it has a home of its own already, or others' homes lie in its home
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
    """What a release of *version* makes of homes that hold several agents' homes, one sentence for each.

    :param version: None, or a text that is none: nothing is known of it, and nothing said
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
    """What is to be done, and in which order; nothing is changed.

    :param names: of the agents that are wanted, see :func:`choose`
    :raises OpsError: it cannot be done for one of them
    """
    if host.scope != "system":
        raise OpsError(
            "the gateways run below their users' own managers",
            fix="converge the host with gateway_scope: system first",
        )
    agents = host.agents
    gone = [was for name in remembered(host.ops_dir) if (was := host.records(name).separated())]
    chosen = choose(agents, names, gone)
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    plans = []
    for agent in chosen:
        user = USER_PREFIX + agent.name
        after = replace(agent, user=user, home=standard_home(agent))
        check_user(user, agent, agents)
        _refuse_leftovers(agent)
        status = _refuse_mount(agent.home)
        aside = os.path.join(aside_parent(host, agent, agents, status.st_dev), f"{agent.name}-{stamp}")
        verbose = _verbose(host, agent)
        if not supervisor_of(host).state([agent])[agent.name].running:
            raise OpsError(
                f"agent {agent.name} does not run, so nobody could say whether it does as well afterwards",
                where=agent.unit,
                fix="start it, or converge the host: site.yml",
            )
        journal = Journal(agent, after, verbose, status.st_ino, aside, time.time())
        plans.append((journal, survey(host, agent, agent)))
    size, free = sum(seen.size for _journal, seen in plans), shutil.disk_usage(host.data_dir).free
    if free < size + RESERVE:
        raise OpsError(
            f"has {free // 2**20} MiB free; the copies take {(size + RESERVE) // 2**20} MiB",
            where=host.data_dir,
            fix="free space",
        )
    return plans


def _refuse_leftovers(agent: Agent) -> None:
    for path in (new_directory(agent), before_directory(agent)):
        if os.path.lexists(path):
            raise OpsError("is in the way", where=path, fix="see what it is, and move it away")


def _refuse_mount(home: str) -> os.stat_result:
    """What a rename moves has to be a directory, and none that something is mounted on."""
    with opened(os.path.dirname(home)) as parent:
        status = os.stat(os.path.basename(home), dir_fd=parent, follow_symlinks=False)
        if not stat.S_ISDIR(status.st_mode):
            raise OpsError("is not a directory", where=home, fix="declare the real path as its home")
        if status.st_dev != os.fstat(parent).st_dev:
            raise OpsError(
                "is a mount of its own, which cannot be set aside",
                where=home,
                fix="mount the file system above it, and let the home be a directory in it",
            )
    return status


def _verbose(host: Installation, agent: Agent) -> bool:
    """Whether its unit is the one for an audited host; it has to be as declared."""
    owner = host.owner_of(agent)
    found = read_text(units_host(host, False).drop_in_path(agent.name))
    for verbose in (False, True):
        if found == units.render_drop_in(units_host(host, verbose), agent, owner):
            return verbose
    raise OpsError(
        "is not what the host was converged to",
        where=units_host(host, False).drop_in_path(agent.name),
        fix="converge the host: site.yml",
    )


def units_host(host: Installation, verbose: bool) -> units.Host:
    # A drop-in says nothing of the rest.
    return units.Host(host.scope, host.root, 0, 0, 0, verbose=verbose)


def survey(host: Installation, agent: Agent, before: Agent) -> Survey:
    """Look at the home of *agent*, for what names the home or the user's home of *before*."""
    roots = [before.home]
    home = units.user_home(before, host.owner_of(before))
    if home != before.directory:
        roots.append(home)
    owner, where = host.owner_of(agent), agent.home
    return Survey.of(work(owner, "agent.carry:survey", where, LEFT_OUT, roots, limits=LIMITS, where=where), where)


def check_user(user: str, agent: Agent, agents: list[Agent]) -> None:
    """:raises OpsError: when *user* cannot be the user of *agent* and of no other agent"""
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
                f"there is a user {user} already, who is somebody else ({found.pw_gecos!r}, {found.pw_dir})",
                where=where,
                fix="rename that user, or declare the agent under another name first",
            )


def aside_parent(host: Installation, agent: Agent, agents: list[Agent], device: int) -> str:
    """Where the old home of *agent* goes: with what is ours, or outside of all homes, wherever a rename leads.

    :param device: number of the file system that the home is on
    :raises OpsError: it leads to neither
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
    # No agent is called so.
    return f"{agent.directory}.new"


def before_directory(agent: Agent) -> str:
    return f"{agent.directory}.before"


def identity(path: str, directory: int | None = None) -> int:
    """The inode of *path*, which is below *directory* if one is given; 0 when there is nothing.

    It tells one directory from another after renames. The device's number would not be the same after a reboot.
    """
    try:
        return os.stat(path, dir_fd=directory, follow_symlinks=False).st_ino
    except FileNotFoundError:
        return 0


def opened(path: str) -> AbstractContextManager[int]:
    """A descriptor of a directory, through no link of an agent's; what the system refuses is an error of ours."""
    return changing(open_directory(path), path)
