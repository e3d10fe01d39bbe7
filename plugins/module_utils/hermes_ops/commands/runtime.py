# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""``hermes-ops runtime``: the agents in containers, one for each user."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from ..backup import moving
from ..cli import EXIT_OK, EXIT_UNHEALTHY, say, say_now
from ..description.runtime_keys import key_of, webhook_path_of
from ..host.installation import Installation, refuse_others
from ..host.runtimes import ROLLOUT, User
from ..host.undertaking import Interrupted
from ..supervise import orphans, runtime_agents, runtime_fleet, runtime_plan, runtimes
from ..supervise.runtime_disk import NEARLY_FULL
from ..supervise.runtime_host import Host
from ..supervise.runtime_units import AGENT, PODMAN
from ..system.errors import OpsError
from ..system.text import printable
from . import backup as command_backup
from . import restore as command_restore

SUMMARY = "the agents in containers, one for each user"
_USER = "the user's id, as the application knows it"
_MOVE = (
    "The one that is left is stopped, stays so, and keeps its data. What the other one had is "
    "set aside, and put back if it is not healthy afterwards. If killed, it is finished by the next call. "
    "exit status: 0 moved; 2 not moved; 3 the same, because another job is under way"
)
# What the units call, and nobody else.
_INTERNAL = {
    "boot": "write what the units need in memory",
    "wait": "wait until an agent is healthy",
    "rest": "wait until its work is done",
}


def arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    for name, text in (
        ("ensure", "make the user's runtime if there is none, and wait until its agent is healthy"),
        ("list", "all users who have a runtime"),
        ("status", "one of them"),
        ("key", "print the user's key"),
        ("webhook", "print where a webhook of the user's agent is called: a path at the proxy, with a token"),
        ("rollout", "bring a changed declaration to the agents that run, or back if it is bad"),
        ("stop", "stop the agent; no call wakes it until the next ensure"),
        ("remove", "remove the runtime; the data and the backups stay"),
        ("orphans", "what is left of users who have no runtime"),
        ("logs", "read the agent's log"),
        ("exec", "run a command in the container"),
    ):
        action = actions.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        if name not in ("list", "rollout", "orphans"):
            action.add_argument("user", metavar="USER", help=_USER)
        if name in ("ensure", "list", "status"):
            action.add_argument("--json", action="store_true", help="print JSON for programs")
        if name == "rollout":
            action.add_argument("--again", action="store_true", help="also one that has failed before")
            # For the unit.
            action.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
        if name == "webhook":
            action.add_argument("name", metavar="NAME", help="of the agent's subscription")
        if name in ("key", "webhook"):
            action.add_argument("--version", type=int, help="another version than the first that is accepted")
        if name == "orphans":
            action.add_argument("--remove", action="store_true", help="remove it, but no data")
        if name in ("remove", "orphans"):
            action.add_argument(
                "--purge", action="store_true", help="remove the data and the backups on this host as well"
            )
        if name == "logs":
            action.add_argument("--lines", type=int, default=100, metavar="N", help="the last N (%(default)s)")
            action.add_argument("--follow", action="store_true", help="wait for more")
        if name == "exec":
            action.add_argument("command_line", nargs=argparse.REMAINDER, metavar="COMMAND", help="with its arguments")
    action = actions.add_parser("backup", help="back up the user's home, whether the agent runs or sleeps")
    action.add_argument("user", metavar="USER", help=_USER)
    command_backup.options(action)
    action = actions.add_parser("restore", help="restore the user's home from a backup, or leave it as it was")
    action.add_argument("user", metavar="USER", help=_USER)
    command_restore.options(action)
    action.set_defaults(kept=False, recover=False, own=True)
    text = "move an agent of this host into the user's runtime, or back, with all that it knows"
    action = actions.add_parser("move", help=text, description=f"{text[0].upper()}{text[1:]}.", epilog=_MOVE)
    action.add_argument("user", metavar="USER", help=_USER)
    action.add_argument("--check", action="store_true", help="only say whether it can be moved")
    way = action.add_mutually_exclusive_group(required=True)
    way.add_argument("--from", dest="source", metavar="AGENT", help="what AGENT knows becomes the user's")
    way.add_argument("--to", dest="target", metavar="AGENT", help="what the user's agent knows becomes AGENT's")
    for name, text in _INTERNAL.items():
        action = actions.add_parser(name, help=f"{text}; a unit runs this")
        if name != "boot":
            action.add_argument("user", metavar="ID")


def work(arguments: argparse.Namespace) -> int:
    if os.geteuid() != 0:
        raise OpsError("only root can work with containers", fix="use sudo")
    return globals()[f"_{arguments.action}"](Host.load(), arguments)


def _ensure(host: Host, arguments: argparse.Namespace) -> int:
    found = runtimes.ensure(host, arguments.user)
    say(json.dumps(found, indent=2) if arguments.json else found["url"])
    return EXIT_OK


def _list(host: Host, arguments: argparse.Namespace) -> int:
    _tell(runtimes.report(host, host.users.all()), arguments)
    return EXIT_OK


def _status(host: Host, arguments: argparse.Namespace) -> int:
    (found,) = runtimes.report(host, [host.users.get(arguments.user)])
    _tell([found], arguments)
    return EXIT_UNHEALTHY if found["state"] == "failed" else EXIT_OK


def _tell(found: Sequence[dict[str, Any]], arguments: argparse.Namespace) -> None:
    if arguments.json:
        say(json.dumps(found if arguments.action == "list" else found[0], indent=2))
        return
    for each in found:
        why = f"  ({each['reason']})" if each["reason"] else ""
        full = f"  (disk {each['disk']} % full)" if (each["disk"] or 0) >= NEARLY_FULL else ""
        say(f"{each['state']:<9} {each['id']}  {printable(each['user'])}{why}{full}")


def _key(host: Host, arguments: argparse.Namespace) -> int:
    say(key_of(host.settings.secret, host.users.get(arguments.user).id, _version(host, arguments)))
    return EXIT_OK


def _webhook(host: Host, arguments: argparse.Namespace) -> int:
    user, version = host.users.get(arguments.user), _version(host, arguments)
    say(webhook_path_of(host.settings.secret, user.id, arguments.name, version))
    return EXIT_OK


def _version(host: Host, arguments: argparse.Namespace) -> int:
    accepted = host.settings.versions
    version = accepted[0] if arguments.version is None else arguments.version
    if version not in accepted:
        raise OpsError(
            f"{version} is not accepted", where="--version", fix=f"use one of {', '.join(map(str, accepted))}"
        )
    return version


def _rollout(host: Host, arguments: argparse.Namespace) -> int:
    if not arguments.here:
        runtime_plan.roll_out(host, host.manager, again=arguments.again)
        say(f"The agents that run have what is declared. Which ones were at work all the time: journalctl -u {ROLLOUT}")
        return EXIT_OK
    # Lets the calls go on that wait for an agent; the next rollout does the rest.
    signal.signal(signal.SIGTERM, _end)
    for name in runtime_fleet.rollout(host, lambda text: say_now(printable(text))):
        say(f"at work; gets it at the next start: {printable(name)}")
    return EXIT_OK


def _end(number: int, _frame: Any) -> NoReturn:
    raise SystemExit(128 + number)


def _stop(host: Host, arguments: argparse.Namespace) -> int:
    runtimes.stop(host, host.users.get(arguments.user))
    return EXIT_OK


def _remove(host: Host, arguments: argparse.Namespace) -> int:
    user = host.users.get(arguments.user)
    runtimes.remove(host, user, purge=arguments.purge)
    if arguments.purge:
        _tell_of_snapshots(f"--tag hermes,agent:{user.agent}")
    else:
        say(f"The data stay in {user.directory(host.data_dir)}, and the backups.")
    return EXIT_OK


def _tell_of_snapshots(tag: str) -> None:
    """Name what a purge does not reach, and how to find it with restic by *tag*."""
    if command_backup.declared().restic_repository:
        say(
            f"Snapshots off the host stay. restic snapshots {tag} lists them, and restic forget --prune ID removes them"
        )


def _orphans(host: Host, arguments: argparse.Namespace) -> int:
    found = left = orphans.find(host)
    word = "found"
    if arguments.remove or arguments.purge:
        left, word = orphans.remove(host, found, purge=arguments.purge), "left"
    if arguments.purge:
        _tell_of_snapshots("--tag hermes")
    for each in found:
        data = ", with data" if each.data else ""
        say(f"{word if each in left else 'removed'}: {each.kind} {printable(each.name)}{data}")
    return EXIT_OK


def _logs(host: Host, arguments: argparse.Namespace) -> int:
    words = ["journalctl", f"--unit={AGENT.format(host.users.get(arguments.user).id)}", f"--lines={arguments.lines}"]
    _become([*words, *(["--follow"] if arguments.follow else [])])


def _exec(host: Host, arguments: argparse.Namespace) -> int:
    user, words = host.users.get(arguments.user), arguments.command_line
    if not words:
        raise OpsError("is missing", where="COMMAND", fix="name one, such as: hermes --profile default sessions list")
    (found,) = runtimes.report(host, [user])
    if found["state"] != "running":
        raise OpsError("does not run", where=f"user {user.name}", fix="wake it: hermes-ops runtime ensure")
    terminal = ["--tty"] if sys.stdin.isatty() and sys.stdout.isatty() else []
    _become([PODMAN, "exec", "--interactive", *terminal, user.container, *words])


def _backup(host: Host, arguments: argparse.Namespace) -> int:
    arguments.agent = host.users.get(arguments.user).agent
    return command_backup.work(arguments)


def _restore(host: Host, arguments: argparse.Namespace) -> int:
    user = host.users.get(arguments.user)
    if not os.path.lexists(user.home(host.data_dir)):
        raise OpsError(
            "has no home yet", where=f"user {user.name}", fix="make it: hermes-ops runtime ensure, then restore"
        )
    arguments.agent = user.agent
    return command_restore.work(arguments)


def _move(host: Host, arguments: argparse.Namespace) -> int:
    installation = Installation.load()
    # Not that of a user: --from and --to name agents of the host.
    agent = next((each for each in installation.agents if each.name == (arguments.source or arguments.target)), None)
    if agent is None:
        names = ", ".join(each.name for each in installation.agents)
        raise OpsError("there is no such agent here", where="--from, --to", fix=f"declare it, or use one of: {names}")
    user = host.users.find(arguments.user) if arguments.source else host.users.get(arguments.user)
    if not user or not os.path.lexists(user.home(host.data_dir)):
        if arguments.target:
            raise OpsError("has no home yet", where=f"user {arguments.user}", fix="there is nothing to move")
        if arguments.check:
            installation.records(agent.name).refuse_moved()
            refuse_others(installation, agent)
            say(f"would give user {printable(arguments.user)} a runtime, and move {agent.name} into it")
            return EXIT_OK
        runtimes.ensure(host, arguments.user)
        user = host.users.get(arguments.user)
    (users,) = runtime_agents.agents_of(host, [user])
    source, target = (agent, users) if arguments.source else (users, agent)
    if arguments.check:
        due = moving.check(installation, source, target)
        say(f"{source.name} {'would move' if due else 'had moved'} to {target.name}{'' if due else ' before'}")
        return EXIT_OK
    try:
        aside = moving.move(installation, source, target, say_now)
    except Interrupted as error:
        raise OpsError(f"{error}; nothing was moved", fix="run it again") from None
    if aside is None:
        say(f"{source.name} had moved to {target.name} before")
        return EXIT_OK
    say(f"{target.name} goes on with what {source.name} knew; what it had is in {aside}")
    if arguments.source:
        say(f"Now declare {{name: {agent.name}, state: absent}} in hermes_agents. Its data stay in {agent.home}.")
    else:
        say("Now run site.yml, which brings what is declared for the agent.")
    return EXIT_OK


def _boot(host: Host, _arguments: argparse.Namespace) -> int:
    runtimes.boot(host, say_now)
    return EXIT_OK


def _wait(host: Host, arguments: argparse.Namespace) -> int:
    process = os.environ.get("MAINPID", "")
    if not process.isdecimal():
        raise OpsError("is not the number of a process", where="MAINPID", fix="start the unit, which calls this")
    runtimes.await_health(host, _by_id(host, arguments), int(process))
    return EXIT_OK


def _rest(host: Host, arguments: argparse.Namespace) -> int:
    runtimes.rest(host, _by_id(host, arguments), say_now)
    return EXIT_OK


def _by_id(host: Host, arguments: argparse.Namespace) -> User:
    user = host.users.by_id(arguments.user)
    if not user:
        raise OpsError("is nobody's", where=f"id {arguments.user}", fix="stop its units")
    return user


def _become(words: list[str]) -> NoReturn:
    sys.stdout.flush()
    try:
        os.execvp(words[0], words)
    except OSError as error:
        raise OpsError(f"cannot be run ({error.strerror})", where=words[0], fix="install it") from None
