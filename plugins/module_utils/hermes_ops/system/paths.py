# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The form of the paths that may be declared."""

from __future__ import annotations

import re

from .errors import OpsError

# Paths that every directive of a unit takes literally: no white space, quote, `%`, `:` or `\`.
UNIT_PATH = re.compile(r"/[\w./@+,=~-]*")


def check_path(path: str, where: str) -> None:
    """:raises OpsError: when *path* cannot be written literally into a unit"""
    if not UNIT_PATH.fullmatch(path) or ".." in path.split("/"):
        raise OpsError(
            f"{path!r} cannot be used in a systemd unit",
            where=where,
            fix="use an absolute path of letters, digits and ._@+,=~- without '..'",
        )
