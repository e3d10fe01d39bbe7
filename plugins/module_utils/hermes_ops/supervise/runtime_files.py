# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the units of users' agents find on the host: variables and secrets in memory, the directory of data, the link
by which systemd makes a socket at boot."""

from __future__ import annotations

import contextlib
import grp
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from ipaddress import IPv4Address

from ..description.runtime_addresses import mac_of
from ..description.runtime_keys import api_key_of
from ..description.runtimes import API_KEY, Edition, Runtimes
from ..host import runtimes
from ..host.runtimes import User
from ..system.errors import OpsError
from ..system.files import check_trusted, ensure_directory, read_text, write_atomic, write_json
from ..system.typed import plain
from . import editions, runtime_disk
from .proxy import USER as PROXY_USER
from .runtime_host import Host
from .runtime_units import SOCKET, WANTED

PROXY_SECRETS = f"{runtimes.RUN}/proxy/secrets.json"
# What was written of the declaration.
_WRITTEN = f"{runtimes.RUN}/written"


def write(host: Host, say: Callable[[str], object]) -> None:
    """Write what the units need in memory, for all users.

    :param say: as for :func:`boot`
    """
    make_places()
    for user in known(host, say):
        try:
            if not user.off:
                write_variables(host, user)
        except OpsError as error:
            say(f"user {user.name}: {error}")
    _write_proxy_secrets(host.settings)
    for edition in editions.wanted(host.settings, host.ops_dir):
        editions.write_files(edition)
    # Last: by it all of this counts as written.
    write_atomic(_WRITTEN, _digest(host.settings), mode=0o600)


def is_written(host: Host) -> bool:
    """Whether what is in memory is what is declared."""
    return read_text(_WRITTEN) == _digest(host.settings) and editions.are_written(host.settings, host.ops_dir)


def _digest(declared: Runtimes) -> str:
    return hashlib.sha256(json.dumps(plain(declared), sort_keys=True).encode()).hexdigest()


def known(host: Host, say: Callable[[str], object]) -> Iterator[User]:
    """The users whose records can be used."""
    for identity in host.users.ids():
        try:
            user = host.users.by_id(identity)
        except OpsError as error:
            say(str(error))
            continue
        if user:
            yield user


def is_complete(host: Host, user: User) -> bool:
    """Whether nothing is missing for the user's agent to be woken."""
    return all(
        os.path.lexists(path) for path in (user.directory(host.data_dir), _address(user), link(user), user.socket)
    )


def make_places() -> None:
    for path, mode in (
        (runtimes.RUN, 0o711),
        (runtimes.SHARED, 0o700),
        (runtimes.USERS, 0o700),
        (runtimes.SOCKETS, 0o755),
        (runtimes.FAILED, 0o755),
        (runtimes.WEBHOOKS, 0o711),
        (os.path.dirname(PROXY_SECRETS), 0o711),
    ):
        ensure_directory(path, mode=mode)


def _write_proxy_secrets(declared: Runtimes) -> None:
    # Never there and unreadable for the proxy.
    new = f"{PROXY_SECRETS}.new"
    write_json(new, {"secret": declared.secret, "versions": declared.versions}, mode=0o640)
    os.chown(new, 0, grp.getgrnam(PROXY_USER).gr_gid)
    os.replace(new, PROXY_SECRETS)


def write_variables(host: Host, user: User) -> None:
    declared = host.settings
    address = host.address_of(user)
    variables = {
        "HOST": address,
        "ADDRESS": f"{address}:{declared.supervised.api.port}",
        "MAC": mac_of(address),
        "NUMBER": host.account_of(user).uid,
        "IDLE": declared.idle,
    }
    ensure_directory(f"{runtimes.USERS}/{user.id}", mode=0o700)
    for edition in editions.wanted(declared, host.ops_dir):
        _write_secrets(declared, edition, user)
    _write_webhooks(declared, address, user)
    # Last: by it the user's files count as complete.
    text = "".join(f"{name}={value}\n" for name, value in variables.items())
    write_atomic(_address(user), text, mode=0o600)


def _write_webhooks(declared: Runtimes, address: IPv4Address, user: User) -> None:
    """Tell the proxy where the user's agent takes webhooks, if it does."""
    server = declared.supervised.webhook
    if server.enabled:
        write_atomic(user.webhooks, f"{address}:{server.port}", mode=0o644)
        return
    with contextlib.suppress(FileNotFoundError):
        os.unlink(user.webhooks)


def _write_secrets(declared: Runtimes, edition: Edition, user: User) -> None:
    """The secrets of the user's agent, as files: podman would keep variables of a container on its disk.

    The directory above is root's alone, so on the host nobody else reads them; in the container its user has to.
    """
    directory = editions.secrets_of(user, edition.id)
    secrets = {**edition.agent.get("secrets", {}), API_KEY: api_key_of(declared.secret, user.id)}
    ensure_directory(os.path.dirname(directory), mode=0o700)
    ensure_directory(directory, mode=0o555)
    for name, value in secrets.items():
        write_atomic(f"{directory}/{name}", value, mode=0o444)
    for name in set(os.listdir(directory)) - secrets.keys():
        os.unlink(f"{directory}/{name}")


def _address(user: User) -> str:
    return f"{runtimes.USERS}/{user.id}/address"


def make_directory(host: Host, user: User) -> None:
    path, account = user.directory(host.data_dir), host.account_of(user)
    check_trusted(os.path.dirname(path), "give it to root: chown root, and chmod 711")
    with contextlib.suppress(FileExistsError):
        os.mkdir(path, 0o700)
    check_owner(host, user)
    # Before the user has it.
    runtime_disk.limit(host, user)
    if os.lstat(path).st_uid == 0:
        # Made just now, or by a run that was killed here.
        os.chown(path, account.uid, account.gid, follow_symlinks=False)


def check_owner(host: Host, user: User) -> None:
    """:raises OpsError: the user's data are there, and belong to another number"""
    path, uid = user.directory(host.data_dir), host.account_of(user).uid
    try:
        owner = os.lstat(path).st_uid
    except FileNotFoundError:
        return
    if owner not in (0, uid):
        raise OpsError(
            f"belongs to user id {owner}, and not to {uid}, as which the user's container runs",
            where=path,
            fix=f"declare runtimes_first_uid: {owner - user.number}, as where it was made",
        )


def link(user: User) -> str:
    return os.path.join(WANTED, SOCKET.format(user.id))


def enable(user: User) -> None:
    """Have systemd make the user's socket at boot."""
    ensure_directory(WANTED, mode=0o755)
    with contextlib.suppress(FileExistsError):
        os.symlink(os.path.join(os.path.dirname(WANTED), SOCKET.format("")), link(user))
