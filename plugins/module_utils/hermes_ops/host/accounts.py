# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The users and groups of this host, and their numbers."""

from __future__ import annotations

import grp
import pwd

# The same on all systems (Debian policy, 9.2.2), or nobody's; 100 is the group users.
FIXED_NUMBERS = frozenset({*range(101), 65534})
# Those that useradd(8) --system gives away, in its order, by default (SYS_UID_MAX and SYS_UID_MIN in login.defs(5)).
SYSTEM_NUMBERS = range(999, 100, -1)


def account_of(name: str) -> pwd.struct_passwd | None:
    try:
        return pwd.getpwnam(name)
    except KeyError:
        return None


def number_of_user(name: str) -> int | None:
    account = account_of(name)
    return account.pw_uid if account else None


def name_of_user(number: int) -> str | None:
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return None


def number_of_group(name: str) -> int | None:
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        return None


def name_of_group(number: int) -> str | None:
    try:
        return grp.getgrgid(number).gr_name
    except KeyError:
        return None


def has_user(number: int) -> bool:
    return name_of_user(number) is not None


def has_group(number: int) -> bool:
    return name_of_group(number) is not None
