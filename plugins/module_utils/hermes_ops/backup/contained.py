# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Backs up the home of an agent in a container of its own, from inside of it."""

from __future__ import annotations

import os
from typing import BinaryIO

from ..supervise import gateway
from ..supervise.entrypoint import Container
from ..system.files import lock
from . import making
from .extracting import Manifest

# Beside the home. Two backups at one time would remove each other's copies of databases.
_LOCK = ".hermes-ops-backing-up"
_ENV = "exclude"
# Seconds to wait for another backup.
_TIMEOUT = 60.0


def send(container: Container, root: str, out: BinaryIO) -> Manifest:
    """Write an archive of the home to *out*, in the form of those of a host, and check it on its way.

    :param root: the directory of the releases
    :raises OpsError: it failed; what *out* has received is no backup
    """
    agent = container.declared.agent
    about = making.about(agent.name, root, gateway.current_release(root), _ENV)
    with lock(os.path.join(container.data_dir, _LOCK), timeout=_TIMEOUT) as held:
        subject = making.Subject(container.account, agent.home, about, _ENV, held)
        return making.send(subject, out, packed=True)
