# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Programs that print secrets, run as root in a sandbox, and files that age or SOPS decrypts."""

from __future__ import annotations

import contextlib
import secrets
import shlex
import shutil

from ..description.agent import Source
from ..description.sources import AGE
from ..system.errors import OpsError
from ..system.files import check_own
from ..system.process import run
from ..system.systemd import NO_CORE
from . import values

# Seconds that a program may take, and bytes of memory that it may use.
SECONDS, MEMORY = 30, "512M"
# Bytes that it may print: JSON in which every character is an escape.
_LARGEST = 6 * values.LARGEST_IN_ALL
# It may read what root may, because that is where logins of such programs lie, and write nothing but its own /tmp.
_SANDBOX = {
    "ProtectSystem": "strict",
    "ProtectHome": "read-only",
    "PrivateTmp": "yes",
    "PrivateDevices": "yes",
    "ProtectClock": "yes",
    "ProtectControlGroups": "yes",
    "ProtectHostname": "yes",
    "ProtectKernelLogs": "yes",
    "ProtectKernelModules": "yes",
    "ProtectKernelTunables": "yes",
    "NoNewPrivileges": "yes",
    "RestrictNamespaces": "yes",
    "RestrictRealtime": "yes",
    "RestrictSUIDSGID": "yes",
    "LockPersonality": "yes",
    "CapabilityBoundingSet": "CAP_DAC_READ_SEARCH",
    "UMask": "0077",
    "MemoryMax": MEMORY,
    "TasksMax": "64",
    # Nothing of its start and end, which would fill the journal every minute.
    "LogLevelMax": "err",
    "RuntimeMaxSec": str(SECONDS),
}


def read_command(source: Source) -> dict[str, str]:
    """What the program of *source* prints.

    systemd starts it, so that it gets nothing of this process: no environment, no open file.

    :raises OpsError: it fails, takes too long, prints too much or something else, or somebody other than root could
        replace it. The error quotes nothing that it printed, not even its errors
    """
    program = check_own(source.command[0])
    unit = f"hermes-secrets-command-{secrets.token_hex(4)}.service"
    argv = [
        *("systemd-run", "--quiet", "--collect", "--wait", "--pipe", "--service-type=exec", f"--unit={unit}"),
        # The default description is the command line, which would end up in the journal.
        "--description=Source of secrets of a Hermes agent",
        "--setenv=HOME=/root",
        *(f"--property={name}={value}" for name, value in (*_SANDBOX.items(), NO_CORE)),
        "--",
        # systemd expands variables in the command line.
        *(word.replace("$", "$$") for word in source.command),
    ]
    return values.parse(_run(argv, f"secrets_from.command {program}", shlex.join(source.command), unit=unit), program)


def read_file(source: Source) -> dict[str, str]:
    """The secrets in the encrypted file of *source*.

    :raises OpsError: it cannot be decrypted, or holds something else; see :func:`read_command`
    """
    path = check_own(str(source.file))
    identity = check_own(source.identity, secret=True) if source.identity else None
    if path.endswith(AGE):
        argv = ["age", "--decrypt", "--identity", str(identity), path]
        return values.parse(_run(argv, path, shlex.join(argv)), path)
    argv = ["sops", "--decrypt", "--output-type", "json", path]
    env = {"SOPS_AGE_KEY_FILE": identity} if identity else {}
    by_hand = shlex.join([*(f"{name}={value}" for name, value in env.items()), *argv])
    return values.parse(_run(argv, path, by_hand, env=env), path)


def _run(
    argv: list[str], where: str, by_hand: str, *, env: dict[str, str] | None = None, unit: str | None = None
) -> str:
    if shutil.which(argv[0]) is None:
        what, fix = f"needs {argv[0]}, which is not on this host", f"install {argv[0]}, in root's PATH"
        raise OpsError(what, where=where, fix=fix)
    fix = f"run it as root by hand: {by_hand}"
    if unit:
        # systemd-run exits 1 after a time-out or a lack of memory, and 255 after a signal.
        fix += f"; as a source it has {SECONDS} s and {MEMORY} of memory"
    try:
        done = run(argv, timeout=SECONDS + 10, check=False, env=env, limit=_LARGEST)
    except OpsError as error:
        if unit:
            # systemd goes on with what systemd-run no longer waits for.
            with contextlib.suppress(OpsError):
                run(["systemctl", "kill", "--signal=KILL", unit], timeout=10, check=False)
        raise OpsError(error.what, where=where, fix=fix) from None
    if not done.ok:
        raise OpsError(f"failed with status {done.rc}", where=where, fix=fix)
    return done.stdout
