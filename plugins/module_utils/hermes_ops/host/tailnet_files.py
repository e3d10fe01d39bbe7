# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Tailscale from its makers' archive, for hosts that reach no package repository.

::

    <root>/tailscale/<hash>/tailscale, tailscaled    the programs; the hash is that of the archive

A directory is complete once it has its name, and is never changed. The unit names it, so a tailscaled that runs keeps
its program.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tarfile

from ..system import trees
from ..system.errors import OpsError
from ..system.files import ensure_directory, failure, sync_directory
from ..system.paths import check_path
from ..system.plan import Difference, Plan
from ..system.process import run
from .jobs import UNIT_DIRECTORY
from .tailnet import UNIT

PROGRAMS = ("tailscale", "tailscaled")
UNIT_PATH = f"{UNIT_DIRECTORY}/{UNIT}"
# On the search path of every shell.
LINK = "/usr/local/bin/tailscale"
_DIGITS = 16
# Bytes that a program may have: it is unpacked by root.
_LARGEST = 256 * 2**20


def directory_of(root: str, sha256: str) -> str:
    return os.path.join(root, "tailscale", sha256[:_DIGITS])


def check(sha256: str, root: str) -> None:
    """:raises OpsError: *sha256* is not the hash of a file"""
    check_path(root, "hermes_root")
    if not re.fullmatch(r"[0-9a-f]{64}", sha256):
        raise OpsError(
            f"{sha256!r} is not a SHA-256 sum",
            where="tailscale_archive_sha256",
            fix="take it from where you took the archive",
        )


def is_there(root: str, sha256: str) -> bool:
    return os.path.isdir(directory_of(root, sha256))


def render_unit(directory: str) -> str:
    """The unit as the archive and the Debian package have it (1.102), with our path."""
    program = f"{directory}/tailscaled"
    return f"""\
# Written by the Ansible collection alwayson.hermes, after the unit of Tailscale's own package.

[Unit]
Description=Tailscale node agent
Documentation=https://tailscale.com/docs/
Wants=network-pre.target
After=network-pre.target NetworkManager.service systemd-resolved.service

[Service]
Type=notify
Environment=PORT=41641
EnvironmentFile=-/etc/default/tailscaled
ExecStart={program} --state=/var/lib/tailscale/tailscaled.state --socket=/run/tailscale/tailscaled.sock \
--port=${{PORT}} $FLAGS
ExecStopPost={program} --cleanup
Restart=on-failure
RuntimeDirectory=tailscale
RuntimeDirectoryMode=0755
StateDirectory=tailscale
StateDirectoryMode=0700
CacheDirectory=tailscale
CacheDirectoryMode=0750

[Install]
WantedBy=multi-user.target
"""


def unit_files(root: str, sha256: str) -> dict[str, str]:
    """Path -> text of the unit."""
    return {UNIT_PATH: render_unit(directory_of(root, sha256))}


def plan_files(root: str, sha256: str, archive: str | None) -> Plan:
    """Compare the host with one that has the programs of the archive with the hash *sha256*.

    :param archive: where it lies on the host; None if its programs are there already
    :raises OpsError: it is another archive, or lacks a program; nothing was changed
    """
    plan = Plan()
    directory = directory_of(root, sha256)
    if archive is not None and not is_there(root, sha256):
        _verify(archive, sha256)
        plan.add(Difference(directory, None, "tailscale, tailscaled"), lambda: _unpack(archive, directory))
    program = os.path.join(directory, "tailscale")
    linked = os.readlink(LINK) if os.path.islink(LINK) else None
    if linked != program:
        before = linked or ("a file" if os.path.lexists(LINK) else None)
        plan.add(Difference(LINK, before, program), lambda: _link(program))
    return plan


def plan_pruned(root: str, sha256: str) -> Plan:
    """Compare the host with one that has no other version; only once the unit names this one, and runs it."""
    plan = Plan()
    above, keep = os.path.split(directory_of(root, sha256))
    for name in sorted(os.listdir(above)) if os.path.isdir(above) else []:
        if name != keep:
            path = os.path.join(above, name)
            plan.add(Difference(path, "another version", None), lambda path=path: trees.remove(path))
    return plan


def _verify(archive: str, sha256: str) -> None:
    digest = hashlib.sha256()
    try:
        with open(archive, "rb") as stream:
            for block in iter(lambda: stream.read(2**20), b""):
                digest.update(block)
    except OSError as error:
        raise failure("read", archive, error) from None
    if digest.hexdigest() != sha256:
        raise OpsError(
            f"has the SHA-256 sum {digest.hexdigest()}, and {sha256} is declared",
            where=os.path.basename(archive),
            fix="fetch it again, or correct tailscale_archive_sha256",
        )


def _unpack(archive: str, directory: str) -> None:
    partial = f"{directory}.partial"
    trees.remove(partial)
    try:
        if not os.path.isdir(os.path.dirname(directory)):
            ensure_directory(os.path.dirname(directory), mode=0o755)
        os.mkdir(partial)
        os.chmod(partial, 0o755)
        with tarfile.open(archive) as content:
            for member in content:
                name = os.path.basename(member.name)
                if member.isfile() and name in PROGRAMS and member.size <= _LARGEST:
                    source, path = content.extractfile(member), os.path.join(partial, name)
                    with open(path, "wb") as target:
                        shutil.copyfileobj(source, target)
                    os.chmod(path, 0o755)
        lacking = sorted(set(PROGRAMS) - set(os.listdir(partial)))
        if lacking:
            raise OpsError(f"lacks {' and '.join(lacking)}", where=os.path.basename(archive), fix="use Tailscale's own")
        run(["sync", "--file-system", partial], timeout=120)
        os.rename(partial, directory)
        sync_directory(os.path.dirname(directory))
    except (tarfile.TarError, EOFError) as error:
        raise OpsError(
            f"is not a tar archive: {error}", where=os.path.basename(archive), fix="fetch it again"
        ) from None
    except OSError as error:
        raise failure("written", directory, error) from None


def _link(program: str) -> None:
    temporary = f"{LINK}.new"
    trees.remove(temporary)
    os.symlink(program, temporary)
    os.replace(temporary, LINK)
