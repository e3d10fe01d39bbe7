# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Another release of Hermes in the image of an agent's container is on trial, with copies of the data to go back to.

Whoever runs the container replaces its image, and goes back by the former one. The container learns of that at its
start only. So it keeps copies from before the first start with another release, and puts them back if it is started
with the former one again while they are fresh, and nobody has said that the new one is good (:func:`verify`).

::

    <volume>/.hermes-ops-update/
        record.json     see Record
        copies/         of the data as the former release left it, see frozen.py; and space for going back
        set-aside/      the data that copies have replaced, until the next trial begins

The agent can change all of this. It harms nobody but itself: everything here is done as its user.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Collection, Iterator
from dataclasses import asdict, dataclass, replace

from ..agent import state
from ..backup import meanwhile, space
from ..description.runtimes import API_KEY
from ..host import held
from ..host.undertaking import RESERVE
from ..supervise import gateway, health
from ..supervise.entrypoint import Container, ending
from ..supervise.problems import Health, Problem
from ..supervise.supervisor import State
from ..system.errors import OpsError
from ..system.files import allocate, ensure_directory, read_json, write_json
from ..system.text import number
from ..system.typed import parse
from . import frozen
from .ending import summed_up
from .frozen import Frozen
from .verdict import worse

_DIRECTORY = ".hermes-ops-update"
# Seconds since the last start of a release on trial for which copies are put back. One that runs for longer is good,
# and its data count for more. One that cannot run is started again and again.
FRESH = 3600.0
# Bytes of the largest record.
_LARGEST = 4096


class NotCopied(OpsError):
    """There are no copies of the data, so another release must not touch it. Nothing was touched."""

    # EX_CANTCREAT
    exit_status = 73


@dataclass
class Record:
    """What there is to know about the releases of a volume.

    :param release: id of the one that ran last; empty: unknown
    :param former: id of the one that left the data of which there are copies; empty: none is on trial
    :param since: when another release was last started, in seconds since 1970
    :param back: whether they are being put back
    """

    release: str = ""
    former: str = ""
    since: float = 0.0
    back: bool = False

    @property
    def is_fresh(self) -> bool:
        return abs(time.time() - self.since) < FRESH


def begin(container: Container, root: str) -> Iterator[str]:
    """Before a start: keep copies of the data if the image has another release than the one that ran last, or put them
    back if it has the former one again.

    Can be killed at any point, and is then begun again.

    :param root: the directory of the releases; without a current one, nothing is done
    :returns: what was done, as sentences
    :raises NotCopied: nothing was touched
    """
    current = gateway.current_release(root)
    if current is None:
        return
    with ending(NotCopied):
        volume = _Volume(container)
        record = volume.read()
        # One that has begun to go back goes on, whatever the image has by now: some of the data are back already.
        if record.back or (record.former == current and record.is_fresh):
            # The new release may have filled the volume.
            volume.release()
            volume.write(replace(record, back=True))
            yield from volume.put_back()
            record = Record(record.former)
            volume.write(record)
        elif record.former and not record.is_fresh:
            record = Record(record.release)
            volume.write(record)
        if not record.former:
            # Also what a start has left that was killed.
            frozen.discard(volume.copies)
        if record.release == current:
            if record.former:
                with contextlib.suppress(OpsError):
                    volume.write(replace(record, since=time.time()))
            return
        if record.release and not record.former:
            volume.freeze()
            yield f"{current} is on trial: the data as {record.release} left it is kept until it has run for an hour"
            record = Record(former=record.release)
        # Copies of a release that was good are better than those of one that was on trial itself.
        volume.write(replace(record, release=current, since=time.time()))


def verify(container: Container, before: Collection[str], wait: float | None) -> tuple[Health, list[Problem]]:
    """Look at the agent, whose gateway runs, as an update on a host does; if it is as well as before, nothing is on
    trial any more.

    :param before: causes of problems that it had before, which do not count. With ``no_reply``, it is not asked for a
        reply, and neither is one that has another problem
    :param wait: seconds for it to become healthy; None: as declared
    :returns: how it is, and which of its problems count
    """
    agent, account = container.declared.agent, container.account
    asked = agent.checked_by(reply=agent.api.enabled and "no_reply" not in before)
    had = {agent.name: list(before)}
    deadline = time.monotonic() + (agent.health.timeout if wait is None else wait)
    while True:
        result = health.check(asked, account, _state(container))
        problems = worse(had, result)
        if not problems or any(each.final for each in problems) or time.monotonic() >= deadline:
            break
        time.sleep(health.POLL_SECONDS)
    if result.ok:
        result.reply, problem = health.prove(asked, account, container.secrets.get(API_KEY))
        result.problems += [problem] if problem else []
        problems = worse(had, result)
    if not problems:
        settle(container)
    return result, problems


def settle(container: Container) -> None:
    """End the trial of a release, if there is one: the data stay as they are."""
    volume = _Volume(container)
    record = volume.read()
    if record.former and not record.back:
        volume.write(Record(record.release))
        frozen.discard(volume.copies)


class _Volume:
    """The copies and the record of an agent's volume."""

    def __init__(self, container: Container) -> None:
        agent = container.declared.agent
        self.home = agent.home
        self.directory = os.path.join(container.data_dir, _DIRECTORY)
        self.copies = os.path.join(self.directory, "copies")
        self.aside = os.path.join(self.directory, "set-aside")
        places = (os.path.join(directory, "data") for directory in (self.copies, self.aside))
        self.frozen = Frozen(agent.name, agent.home, container.account, *places)
        self._record = os.path.join(self.directory, "record.json")
        self._reserve = os.path.join(self.copies, "reserve")

    def read(self) -> Record:
        """The record; an empty one if there is none that can be used."""
        try:
            found = parse(Record, read_json(self._record, _LARGEST) or {}, self._record)
        except (OpsError, RecursionError):
            return Record()
        return replace(found, since=number(found.since) or 0.0)

    def write(self, record: Record) -> None:
        ensure_directory(self.directory, mode=0o700)
        write_json(self._record, asdict(record))

    def freeze(self) -> None:
        """Make copies of the data.

        :raises OpsError: there is no space for them, or a database of Hermes cannot be copied
        """
        frozen.discard(self.copies)
        frozen.discard(self.aside)
        if not os.path.isdir(self.home):
            return
        ensure_directory(self.copies, mode=0o700)
        try:
            self._copy()
        except OpsError:
            frozen.discard(self.copies)
            raise

    def _copy(self) -> None:
        allocate(self._reserve, RESERVE)
        room, size = held.spare(self.directory, space.RESERVE), self.frozen.size()
        if size > room:
            raise OpsError(
                f"has room for {room // 2**20} MB more, and copies of the agent's databases take {size // 2**20} MB; "
                "without them, another release of Hermes is not started",
                where=self.directory,
                fix="make the volume larger, or go back to the former image and free space there",
            )
        self.frozen.copy_ahead(room)
        frozen.complete([self.frozen], room)

    def release(self) -> None:
        """Make the space for going back free."""
        with contextlib.suppress(OSError):
            os.unlink(self._reserve)

    def put_back(self) -> Iterator[str]:
        """Put back what was migrated since; says what. If the agent prevents that, it runs with what it has."""
        try:
            back = summed_up(self.frozen.name, self.frozen.put_back())
            if back:
                yield f"put back {', '.join(back)} as before the update, the later versions are in {self.aside}"
        except OpsError as error:
            with contextlib.suppress(OSError, OpsError):
                ensure_directory(self.aside, mode=0o700)
                os.rename(self.copies, os.path.join(self.aside, "before-the-update"))
            yield f"not all data could be put back: {error}; copies from before the update lie in {self.aside}"
        if self.frozen.came > 0:
            yield meanwhile.note(self.frozen.name, self.frozen.came, self.frozen.aside)


def _state(container: Container) -> State:
    """The state of the gateway, as a supervisor beside it sees it."""
    pid = state.read_state(container.declared.agent.home, container.account).get("pid", 0)
    entered = _entered(pid)
    problem = None if entered else Problem("not_ready", "its gateway does not say that it runs", "see its log")
    return State(
        running=entered > 0,
        passing=False,
        ended=False,
        stopped=False,
        pid=pid,
        entered=entered,
        restarts=0,
        status=0,
        problem=problem,
        log="",
        restart="",
        contained=True,
    )


def _entered(pid: int) -> float:
    """When a process was started, in seconds of the monotonic clock; 0.0: there is none."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as stream:
            return int(stream.read().rpartition(")")[2].split()[19]) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError):
        return 0.0
