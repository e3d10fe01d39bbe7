# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Images with another release of Hermes: the same one under another id, which does what a test wants as it starts."""

from __future__ import annotations

import shlex

from containers import docker

_BASE = "/opt/hermes"
# Its database can no longer be read by the former release.
MIGRATE = """
import sqlite3
with sqlite3.connect("/opt/data/.hermes/state.db") as database:
    database.execute("alter table messages rename to moved")
"""
FAILS = f"python3 -c {shlex.quote(MIGRATE)}; exit 1"
# It is healthy, and its model is not there any more.
MUTE = "sed -i s,:18080/v1,:18080/gone, /opt/data/.hermes/config.yaml"
GOOD = "true"


def image(base: str, name: str, does: str) -> str:
    """Build an image from *base*.

    :param name: of the release, and in that of the image
    :param does: a command of the shell, before Hermes
    """
    made, program = f"hermes-test-image:{name}", f'#!/bin/sh\n{does}\nexec "$(dirname "$0")/former" "$@"\n'
    steps = (
        f"cd {_BASE}/releases",
        'former=$(basename "$(readlink ../current)")',
        f"mkdir -p {name}/bin",
        f'ln -s ../../"$former"/bin/hermes {name}/bin/former',
        f"printf %s {shlex.quote(program)} >{name}/bin/hermes",
        f"chmod 755 {name}/bin/hermes",
        f"ln -sfn releases/{name} ../current",
    )
    words = ["/bin/sh", "-ec", "; ".join(steps)]
    container = docker("create", "--user=0", f"--entrypoint={words[0]}", base, *words[1:]).stdout.strip()
    try:
        docker("start", "--attach", container)
        entrypoint, user = (
            docker("image", "inspect", "--format", f"{{{{json .Config.{what}}}}}", base).stdout.strip()
            for what in ("Entrypoint", "User")
        )
        changes = (f"ENTRYPOINT {entrypoint}", "CMD []", f"USER {user}")
        docker("commit", *(f"--change={each}" for each in changes), container, made)
    finally:
        docker("rm", "--force", "--volumes", container)
    return made
