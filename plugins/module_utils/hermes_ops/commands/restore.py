# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""``hermes-ops restore``: restore a home from a backup, or its last working configuration."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
from collections.abc import Iterator
from typing import Any

from ..backup import archives, extracting, offsite
from ..backup.kept import check_kept, put_back_kept
from ..backup.restore import Restore, recover_all
from ..cli import EXIT_OK, say, say_now
from ..description.agent import Agent
from ..host.installation import Installation
from ..host.undertaking import Interrupted
from ..supervise import runtime_agents
from ..system.errors import OpsError
from ..system.files import check_trusted
from . import backup as command_backup

SUMMARY = "restore a home from a backup, or its last working configuration"
RESTIC = "restic:"
LAST_WORKED = "config.yaml and .env are what last worked"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "The present home is set aside, not deleted, and put back if the agent is not healthy afterwards. "
        "exit status: 0 restored; 2 not restored, and the home is as it was; "
        "3 the same, because another job is under way"
    )
    parser.add_argument("--agent", help="the agent whose home is replaced (default: the backup's)")
    only = options(parser)
    parser.add_argument(
        "--kept", action="store_true", help="no backup: put back config.yaml and .env as they last worked"
    )
    only.add_argument("--recover", action="store_true", help="only undo a restore that was interrupted")
    # For the recovery unit, at boot.
    parser.add_argument("--boot", action="store_true", help=argparse.SUPPRESS)
    parser.set_defaults(own=False)


def options(parser: argparse.ArgumentParser) -> Any:
    """How to restore, to whichever agent.

    :returns: a group for what excludes ``--check``
    """
    parser.add_argument(
        "source", nargs="?", default="latest", help="an archive, latest (default), restic:SNAPSHOT or restic:latest"
    )
    parser.add_argument(
        "--force", action="store_true", help="restore even if the home holds newer data than the backup"
    )
    parser.add_argument("--env-identity", metavar="FILE", help="age identity, for an archive with an encrypted .env")
    only = parser.add_mutually_exclusive_group()
    only.add_argument("--check", action="store_true", help="only say whether it can be restored")
    return only


def work(arguments: argparse.Namespace) -> int:
    host = command_backup.installation()
    if arguments.kept and (arguments.recover or arguments.source != "latest"):
        raise OpsError("--kept takes no backup, and not --recover", fix="leave out one of the two")
    if arguments.recover:
        with host.lock("restore") as lock:
            recover_all(host, say_now, boot=arguments.boot, locks=[lock])
        return EXIT_OK
    if arguments.kept:
        agent = host.one(arguments.agent)
        if arguments.check:
            names = " and ".join(check_kept(host, agent))
            say(f"agent {agent.name}: {f'would put back {names}' if names else LAST_WORKED}; would restart it")
            return EXIT_OK
        aside = put_back_kept(host, agent, say_now)
        say(f"what was there is in {aside}" if aside else f"nothing to do: {LAST_WORKED}")
        return EXIT_OK
    with _opened(host, arguments) as (agent, source, finish):
        restore = Restore(host, agent.name, say_now)
        if arguments.check:
            say(restore.check(source, force=arguments.force, finish=finish))
            return EXIT_OK
        # A closed terminal or a stopped unit rolls back instead of stopping halfway.
        restore.undertaking.listen((signal.SIGHUP, signal.SIGINT, signal.SIGTERM))
        try:
            aside = restore.restore(source, force=arguments.force, identity=arguments.env_identity, finish=finish)
        except Interrupted as error:
            what = "; ".join(filter(None, (str(error), "the home is what it was", restore.note)))
            raise OpsError(what, fix="run it again") from None
    say(f"agent {agent.name}: restored; what was there is in {aside}")
    return EXIT_OK


@contextlib.contextmanager
def _opened(host: Installation, arguments: argparse.Namespace) -> Iterator[tuple[Agent, Any, Any]]:
    """The agent, the archive or stream, and a function that raises if the stream was not complete."""
    if arguments.source.startswith(RESTIC):
        wanted = command_backup.declared()
        if not wanted.restic_repository:
            raise OpsError("no repository is declared", fix="declare backup_restic_repository")
        repository = offsite.Repository(host.ops_dir, wanted)
        name = arguments.source[len(RESTIC) :]
        agent = runtime_agents.one(host, arguments.agent) if name == "latest" or arguments.agent else None
        snapshot = repository.find(name, agent.name if name == "latest" and agent else None)
        agent = agent or runtime_agents.one(host, snapshot.agent)
        _check_own(arguments, agent, snapshot.agent, f"restic:{snapshot.id}")
        say(f"snapshot {snapshot.id} of {snapshot.agent} on {snapshot.host}")
        with repository.reading(snapshot) as restic:
            yield agent, restic.stdout, restic.finish
        return
    path = arguments.source
    agent = None
    if path == "latest":
        agent = runtime_agents.one(host, arguments.agent)
        found = archives.listed(archives.directory_of(host), agent.name)
        if not found:
            raise OpsError(f"there is no archive of {agent.name} here", fix="name one, or restic:latest")
        path = found[-1].path
    path = os.path.realpath(path)
    # The archive is verified before any of it is written.
    manifest = extracting.verify(path)
    agent = agent or runtime_agents.one(host, arguments.agent or _agent_of(path, manifest))
    _check_own(arguments, agent, manifest.agent, path)
    say(f"{path}: whole, {manifest.members} files of {manifest.agent} on {manifest.host}")
    yield agent, path, lambda: None


def _check_own(arguments: argparse.Namespace, agent: Agent, backed_up: str, where: str) -> None:
    """:raises OpsError: only a backup of the agent's own home is wanted, and this one is of another's"""
    if arguments.own and backed_up != agent.name:
        raise OpsError(f"is of {backed_up}, and not of this user", where=where, fix=f"name a backup of {agent.name}")


def _agent_of(path: str, manifest: extracting.Manifest) -> str:
    """The agent whose home an archive replaces.

    Anybody may have written the manifest inside. The file's name can be trusted, in a directory that only root can
    change, so the two have to agree.

    :raises OpsError: others can change the directory, or name and manifest do not agree
    """
    fix = f"say whose home it replaces: --agent {manifest.agent}"
    check_trusted(os.path.dirname(path), fix)
    if archives.agent_of(path) != manifest.agent:
        raise OpsError(f"says that it is of {manifest.agent}, its name does not", where=path, fix=fix)
    return manifest.agent
