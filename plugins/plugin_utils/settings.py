# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The checks that the kit makes on a host of the settings that roles hand to it, made before any host is touched."""

from __future__ import annotations

import dataclasses
import difflib
import re
import zoneinfo
from collections.abc import Callable, Collection, Iterator
from typing import Any

from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.backup.settings import Settings as Backup
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.description.runtimes import Runtimes
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.host.volume import Volume
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.release.image import Image
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.release.request import Request, check_extras
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.release.uv import Index
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.secrets.settings import Settings as Secrets
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.errors import OpsError
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.typed import parse
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.update.settings import Settings as Update
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.watch import acknowledged
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.watch.declared import Settings as Heartbeat

# Role -> the class of the kit that checks them, and the role's variable that holds them.
SETTINGS = {
    "backup": (Backup, "backup_jobs.backup.settings"),
    "heartbeat": (Heartbeat, "heartbeat_settings"),
    "auto_update": (Update, "auto_update_settings"),
    "data_volume": (Volume, "common_volume | combine({'data_dir': hermes_data_dir})"),
    "secrets": (Secrets, "{'interval': secrets_interval}"),
}
# The roles for which there is something to check. For the others the controller is spared their variables.
CHECKED = frozenset({"image", "install", "ops", "runtimes", *SETTINGS})


def problems(role: str, value: Callable[[str], Any]) -> Iterator[OpsError]:
    """What the settings of *role*, one of :data:`CHECKED`, are refused for if it is enabled; see :func:`in_variables`.

    :param value: the value of an expression, with the variables and defaults of the role
    """
    checks: list[Callable[[], None]] = []
    if role == "install":
        checks += [lambda: _check_release(value), lambda: _check_index(value)]
    elif role == "image":
        checks.append(lambda: _check_image(value))
    elif role == "ops":
        checks.append(lambda: _check_acknowledged(value("ops_acknowledged")))
    elif role == "runtimes":
        if value("runtimes_enabled | bool"):
            checks.append(lambda: _check_runtimes(value))
    elif value(f"{role}_enabled | bool"):
        checks.append(lambda: _check_job(role, value))
        if role == "heartbeat":
            checks.append(lambda: _check_agents(value("heartbeat_agent_urls.keys() | list"), value("common_present")))
        elif role not in ("data_volume", "secrets"):
            checks.append(lambda: check_timezone(value(f"{role}_timezone")))
    for check in checks:
        try:
            check()
        except OpsError as error:
            yield error


def _check_job(role: str, value: Callable[[str], Any]) -> None:
    kind, expression = SETTINGS[role]
    parse(kind, value(expression), role)


def _check_release(value: Callable[[str], Any]) -> None:
    declared = {name: each for name, each in value("common_release").items() if each is not None}
    check_extras(parse(Request, declared, "install"))


def _check_index(value: Callable[[str], Any]) -> None:
    url = value("install_index_url | default('')")
    if url:
        Index(url=url)


def _check_image(value: Callable[[str], Any]) -> None:
    declared = {name: value(f"image_{name}") for name in ("name", "base", "variant", "packages")}
    parse(Image, {**declared, "release": value("common_release")}, "image")
    for name in ("index_username", "index_password", "wheels"):
        if value(f"install_{name} is defined"):
            raise OpsError(
                "is declared, and a build has no use for it",
                where=name,
                fix="name an index that can be read without it (index_url), for the hosts that build",
            )


def _check_runtimes(value: Callable[[str], Any]) -> None:
    declared = {field.name: value(f"runtimes_{field.name} | default(none)") for field in dataclasses.fields(Runtimes)}
    parse(Runtimes, {name: each for name, each in declared.items() if each is not None}, "runtimes")


def _check_acknowledged(entries: list[dict[str, Any]]) -> None:
    if entries:
        acknowledged.parse(entries)


def _check_agents(named: list[str], present: list[str]) -> None:
    unknown = [name for name in named if name not in present]
    if unknown:
        known = ", ".join(present)
        raise OpsError(f"there is no agent {', '.join(unknown)}", where="agent_urls", fix=f"known ones are {known}")


def check_timezone(name: str) -> None:
    """:raises OpsError: *name* is no time zone that the controller knows; one without the database knows none"""
    if not name or _is_timezone(name) or not _is_timezone("Europe/London"):
        return
    near = difflib.get_close_matches(name, sorted(zoneinfo.available_timezones()), 1)
    fix = f"did you mean {near[0]}?" if near else "write one such as Europe/London"
    raise OpsError(f"{name!r} is not a time zone", where="timezone", fix=fix)


def _is_timezone(name: str) -> bool:
    try:
        zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        return False
    return True


def in_variables(error: OpsError, role: str, known: Collection[str]) -> tuple[str, str, str]:
    """The variable that *error* is about, what is wrong with it, and the fix, in the names that a person declared.

    The kit names its own settings: ``keep`` for ``backup_keep``.

    :param known: the names of all variables
    """

    def variable_of(setting: str) -> str | None:
        names = ("hermes_version",) if setting == "version" else (setting, f"{role}_{setting}", f"install_{setting}")
        return next((name for name in names if name in known), None)

    what = error.what.removeprefix("check: ")
    first, _space, rest = what.partition(" ")
    by_where = variable_of((error.where or "").rpartition(": ")[2])
    by_word = variable_of(first.rstrip(":"))
    fix = re.sub(r"\b[a-z]+_[a-z_]+\b", lambda word: variable_of(word[0]) or word[0], error.fix or "")
    if by_where:
        return by_where, what, fix
    if by_word:
        return by_word, rest, fix
    # The version is the only part of a release that is checked without being named.
    return ("hermes_version" if role == "install" else f"{role}_enabled"), what, fix
