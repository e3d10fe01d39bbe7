# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The settings of a job: ``/etc/hermes-ops/<job>.json``, written by the module timer, readable by root only."""

from __future__ import annotations

import os
from typing import TypeVar

from ..system.errors import OpsError
from ..system.files import read_json
from ..system.typed import parse

DIRECTORY = "/etc/hermes-ops"

T = TypeVar("T")


def path_of(job: str) -> str:
    return os.path.join(DIRECTORY, f"{job}.json")


def load(job: str, kind: type[T]) -> T:
    """The settings of *job*, checked.

    :param kind: a dataclass; see :func:`parse`
    :raises OpsError: the file does not exist, we may not read it, or the settings are not valid
    """
    path = path_of(job)
    if not os.path.exists(path):
        raise OpsError("does not exist", where=path, fix=f"converge the host with the role {job}")
    return parse(kind, read_json(path), path)
