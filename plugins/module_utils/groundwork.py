# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a host has of its own that Hermes needs: system, packages, the user and its home."""

from __future__ import annotations

import grp
import os
import pwd
import stat
from typing import Any

from .hermes_ops.system.process import run

# systemd keeps a file there for each user whose manager runs without a login (loginctl(1), enable-linger).
LINGER = "/var/lib/systemd/linger"


def look(user: str, data_dir: str, packages: list[str]) -> dict[str, Any]:
    """What the role base decides by.

    :param packages: names of Debian packages
    :returns: ``system``, ``missing_packages``, ``account``, ``data_dir``, ``lingers``; see the module info
    """
    return {
        "system": system(),
        "missing_packages": missing_packages(packages),
        "account": _account(user),
        "data_dir": _directory(data_dir),
        "lingers": os.path.exists(os.path.join(LINGER, user)),
    }


def system(path: str = "/etc/os-release") -> dict[str, Any]:
    """``id``, ``name`` and ``version`` of os-release(5) (a system without a number has version ""), ``systemd``: it
    was booted with systemd (sd_booted(3))."""
    values = {}
    with open(path, encoding="utf-8", errors="replace") as stream:
        for line in stream:
            name, separator, value = line.strip().partition("=")
            if separator:
                values[name] = value.strip("\"'")
    return {
        "id": values.get("ID", ""),
        "name": values.get("NAME", ""),
        "version": values.get("VERSION_ID", ""),
        "systemd": os.path.isdir("/run/systemd/system"),
    }


def missing_packages(names: list[str]) -> list[str]:
    """Those of *names* that dpkg does not have installed; all where there is no dpkg."""
    if not names or not os.path.exists("/usr/bin/dpkg-query"):
        return names
    shown = "--showformat=${db:Status-Status} ${Package}\\n"
    # It exits with 1 when it has never heard of one of them.
    answer = run(["dpkg-query", "--show", shown, *names], timeout=60, check=False).stdout
    installed = {line.split()[1] for line in answer.splitlines() if line.startswith("installed ")}
    return [name for name in names if name not in installed]


def _account(user: str) -> dict[str, str] | None:
    try:
        entry = pwd.getpwnam(user)
    except KeyError:
        return None
    return {"comment": entry.pw_gecos, "home": entry.pw_dir, "shell": entry.pw_shell}


def _directory(path: str) -> dict[str, str] | None:
    try:
        status = os.lstat(path)
    except OSError:
        return None
    if not stat.S_ISDIR(status.st_mode):
        return None
    return {
        "owner": _name(pwd.getpwuid, status.st_uid),
        "group": _name(grp.getgrgid, status.st_gid),
        "mode": f"{stat.S_IMODE(status.st_mode):04o}",
    }


def _name(database: Any, number: int) -> str:
    try:
        return database(number)[0]
    except KeyError:
        return str(number)
