# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The entrypoint of a container that is one agent's alone: converges its home, then becomes its gateway.

It needs no root, no systemd and no name for its user. What it reads comes from the platform: a description, which is an
entry of ``hermes_agents`` as JSON, and secrets, which never reach a disk.

An image with an entrypoint of its own, such as upstream's, starts as root and drops to the agent's user later. Its
entrypoint is called once the home is converged, as that user.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

from ..agent import converge, healing, ownership, parts
from ..agent.losses import losses
from ..description.agent import Declared
from ..description.declaration import OF_THE_HOST, resolve_alone
from ..description.secrets import is_secret_setting
from ..host.records import Records
from ..secrets import values
from ..system.errors import OpsError, as_error
from ..system.files import Account, failure, read_bytes
from ..system.worker import end_server
from . import command

# Bytes of the largest description. A Secret or ConfigMap of Kubernetes holds as much.
_LARGEST = 2**20
# Of the agent, in its directory. It can change them, so nothing depends on them but what it does to itself. Backups and
# restores leave out what has such a name.
RECORDS = ".hermes-ops-records"
# Locked while an agent runs on the volume.
RUNNING = ".hermes-ops-running"


class Misdeclared(OpsError):
    """The description or a secret is wrong. Nothing was touched, and another start does not help."""

    # EX_CONFIG, with which Hermes ends for the same reason.
    exit_status = 78


class Unconverged(OpsError):
    """The home could not be converged. What was there is as it was."""

    # EX_IOERR
    exit_status = 74


@dataclass(frozen=True)
class Container:
    """An agent in its container.

    :param declared: from the description
    :param account: the user that it runs as
    :param secrets: the variables that the platform hands in, as files or in the environment
    :param unused: the keys of the description that only a host has a use for
    """

    declared: Declared
    account: Account
    secrets: dict[str, str] = field(repr=False)
    unused: tuple[str, ...]

    @property
    def data_dir(self) -> str:
        """The directory that outlives the container."""
        return self.declared.agent.directory


def load(description: str, secrets: str, data_dir: str, environ: Mapping[str, str], *, wraps: bool) -> Container:
    """Read what the platform gives.

    :param description: a file with one entry of ``hermes_agents`` as JSON
    :param secrets: a directory with a file for each secret; it need not exist
    :param environ: the container's environment. What is a secret in it, by its name or form, is handed in, too
    :param wraps: whether the image has an entrypoint of its own, which may need root
    :raises Misdeclared: for the first mistake
    """
    data_dir = data_dir.rstrip("/")
    with ending(Misdeclared):
        account = _account(environ, data_dir, wraps)
        declared = _read(description)
        files = _secrets_in(secrets)
        handed = {name: value for name, value in environ.items() if is_secret_setting(name, value)}
        doubled = sorted(files.keys() & handed.keys())
        if doubled:
            raise OpsError(
                "is in the environment as well", where=os.path.join(secrets, doubled[0]), fix="remove one of the two"
            )
        given = {**handed, **files}
        if given:
            given = values.check(given.items(), "the secrets handed in")
        resolved = resolve_alone(
            declared,
            description,
            user=account.name,
            data_dir=data_dir,
            home=environ.get("HERMES_HOME", f"{data_dir}/.hermes"),
            given=given,
        )
    return Container(resolved, account, given, tuple(key for key in OF_THE_HOST if key in declared))


def _account(environ: Mapping[str, str], data_dir: str, wraps: bool) -> Account:
    """The user that the agent runs as: the container's own, or the one that upstream's image drops to."""
    uid, gid = os.geteuid(), os.getegid()
    if uid == 0:
        if not wraps:
            raise OpsError(
                "an agent does not run as root", where="the container's user", fix="run it as another, such as 10000"
            )
        numbers = [environ.get(name, "10000") for name in ("HERMES_UID", "HERMES_GID")]
        if not all(number.isascii() and number.isdigit() and 0 < int(number) < 2**32 - 1 for number in numbers):
            raise OpsError("are no ids of a user and a group", where="HERMES_UID, HERMES_GID", fix="use 10000, or none")
        uid, gid = map(int, numbers)
    return Account(f"user id {uid}", uid, gid, data_dir)


def as_its_user(container: Container, act: Callable[[], int]) -> int:
    """Call *act* as the agent's user, in a process of its own if we are root.

    :returns: what it returns, or the status of its error
    """
    account = container.account
    if os.geteuid() == account.uid:
        return act()
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    status = OpsError.exit_status
    try:
        os.setgroups([])
        os.setgid(account.gid)
        os.setuid(account.uid)
        status = act()
    except OpsError as error:
        sys.stderr.write(f"hermes-ops: {error}\n")
        status = error.exit_status
    finally:
        end_server()
        sys.stdout.flush()
        os._exit(status)


def give(container: Container) -> None:
    """As root, give the volume and what root left in the home to the agent's user."""
    account, home = container.account, container.declared.agent.home
    if os.geteuid() != 0:
        return
    with ending(Unconverged):
        ownership.give_back(container.data_dir, account, [""], mend=True)
        ownership.give_all(home, account, ["lost+found"])
    end_server()


def alone(container: Container) -> None:
    """See to it that no other container uses the volume, until this one ends: also as the gateway.

    :raises Unconverged: one does
    """
    path = os.path.join(container.data_dir, RUNNING)
    with ending(Unconverged):
        _check_volume(container)
        try:
            # Inherited by the gateway, and closed by the kernel with its last process.
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
            os.set_inheritable(descriptor, True)
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise OpsError(
                "another container runs on this volume", where=container.data_dir, fix="stop it first"
            ) from None
        except OSError as error:
            raise failure("written", path, error) from None


def bring_up(container: Container, *, check: bool) -> tuple[bool, list[str]]:
    """Converge the agent's home.

    :param check: change nothing
    :returns: whether something changed, or would change; and what there is to say of it, without values
    :raises Unconverged: it cannot be converged
    """
    with ending(Unconverged):
        _check_volume(container)
        healed = healing.heal(container.declared.agent.home, check=check)
        outcome, repaired = _converge(container, check)
        return bool(healed or repaired) or outcome.changed, [*healed, *repaired, *_told(outcome)]


def _check_volume(container: Container) -> None:
    if not os.access(container.data_dir, os.W_OK | os.X_OK):
        raise OpsError(
            f"cannot be written by {container.account.name}",
            where=container.data_dir,
            fix="mount a volume there that this user may write; on Kubernetes, declare fsGroup",
        )


def become(container: Container, root: str, wrapped: Sequence[str], environ: Mapping[str, str]) -> NoReturn:
    """Replace this process by the gateway.

    :param root: the directory of the releases
    :param wrapped: the image's own entrypoint with its arguments, which is called instead; empty: there is none
    :raises Unconverged: it cannot be run
    """
    agent = container.declared.agent
    end_server()
    argv = [*wrapped] or command.hermes(root, agent.home, ["gateway", "run"])
    # Keys of a managed scope would win over the declared ones.
    inherited = {name: value for name, value in environ.items() if name != "HERMES_MANAGED_DIR"}
    own = {"PYTHONUNBUFFERED": "1", **command.environment(agent.home)}
    try:
        if not wrapped:
            own["HOME"] = container.data_dir
            os.chdir(container.data_dir)
        os.execvpe(argv[0], argv, {**inherited, **container.secrets, **own})
    except OSError as error:
        raise Unconverged(f"cannot be run ({error.strerror})", where=argv[0], fix="build the image again") from None


@contextlib.contextmanager
def ending(kind: type[OpsError]) -> Iterator[None]:
    """Errors end the container with the status of *kind*."""
    try:
        yield
    except kind:
        raise
    except Exception as caught:
        error = as_error(caught)
        raise kind(error.what, where=error.where, fix=error.fix) from None


def _read(path: str) -> Any:
    data = read_bytes(path, _LARGEST + 1)
    if data is None:
        raise OpsError("is missing", where=path, fix="mount the description of the agent there, as JSON")
    if len(data) > _LARGEST:
        raise OpsError(f"has more than {_LARGEST} bytes", where=path, fix="put large texts into skills")
    try:
        return json.loads(data.decode("utf-8"), object_pairs_hook=_once, parse_constant=_refuse_constant)
    except UnicodeDecodeError:
        raise OpsError("is not UTF-8 text", where=path, fix="write it as JSON in UTF-8") from None
    except RecursionError:
        raise OpsError("is nested too deeply", where=path, fix="write it as one entry of hermes_agents") from None
    except json.JSONDecodeError as error:
        # Its own message does not quote the text, which may hold secrets.
        raise OpsError(f"is not JSON ({error.msg})", where=f"{path}:{error.lineno}", fix="repair it there") from None
    except ValueError as error:
        raise OpsError(str(error), where=path, fix="write it as JSON") from None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        names = [name for name, _value in pairs]
        raise ValueError(f"has the key {next(name for name in names if names.count(name) > 1)[:64]!r} twice")
    return table


def _refuse_constant(word: str) -> Any:
    raise ValueError(f"has {word}, which JSON does not know")


def _secrets_in(directory: str) -> dict[str, str]:
    """The secrets in the files of *directory*, by their names; one line break at the end of a file is not its value."""
    try:
        # Kubernetes puts them into a hidden directory, and links to them.
        names = sorted(name for name in os.listdir(directory) if not name.startswith("."))
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise OpsError(f"cannot be read ({error.strerror})", where=directory, fix="let this user read it") from None
    found = {}
    for name in names[: values.MOST + 1]:
        path = os.path.join(directory, name)
        data = read_bytes(path, values.LARGEST + 3)
        try:
            text = (data or b"").decode("utf-8")
        except UnicodeDecodeError:
            raise OpsError("is not UTF-8 text", where=path, fix="encode binary secrets as text") from None
        found[name] = text.removesuffix("\n").removesuffix("\r")
    return found


def _converge(container: Container, check: bool) -> tuple[converge.Outcome, list[str]]:
    """Converge; without the records, if they are why it fails: the agent can write what is in them.

    Without records it is as at the first start: what is declared is written, and what we wrote before is the agent's.

    :returns: the outcome, and what became of the records, as sentences
    """
    ops_dir = os.path.join(container.data_dir, RECORDS)
    try:
        return _attempt(container, ops_dir, check), []
    except OpsError as error:
        if not os.path.lexists(ops_dir):
            raise
        try:
            outcome = _attempt(container, f"{ops_dir}-none", True)
        except OpsError:
            raise error from None
    aside = f"{ops_dir}-damaged-{int(time.time())}"
    if not check:
        os.rename(ops_dir, aside)
        outcome = _attempt(container, ops_dir, False)
    return outcome, [f"{ops_dir} could not be used: renamed to {aside}"]


def _attempt(container: Container, ops_dir: str, check: bool) -> converge.Outcome:
    declared, given = container.declared, tuple(container.secrets)
    records = Records(ops_dir, declared.agent.name)
    outcome = converge.converge(
        declared.description, declared.agent, container.account, records, check=check, elsewhere=given
    )
    if not check:
        # The gateway starts now.
        records.restarted(time.time())
    return outcome


def _told(outcome: converge.Outcome) -> Iterator[str]:
    """What *outcome* did, by file. Values stay out of the log."""
    for name, part in outcome.parts.items():
        if part.differences:
            yield f"{parts.FILES.get(name, 'home')}: {', '.join(each.what for each in part.differences)}"
    for kind, text in (
        ("drift", "changed since the last start, and declared again"),
        ("migrated", "changed by Hermes, which migrated the file"),
        ("left", "no longer declared, but kept, since somebody changed it"),
        ("generated", "generated"),
    ):
        for entry in outcome.entries(kind):
            yield f"{entry['file']}: {entry['key']}: {text}"
    lost = losses(outcome.parts)
    if lost:
        yield f"no longer declared, and removed: {', '.join(lost)}"
    yield from outcome.notes
