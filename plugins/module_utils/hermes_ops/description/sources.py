# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The key ``secrets_from`` of a declaration: checked, and complete. Nothing of a source itself is secret."""

from __future__ import annotations

import re
import urllib.parse
from collections.abc import Iterable
from typing import Any

from ..system.errors import OpsError
from ..system.paths import check_path
from .agent import Agent, Source
from .checks import is_loopback
from .secrets import secret_paths

# Kind of source -> the keys that go with it.
KINDS = {"ssm": ("region", "endpoint"), "command": (), "file": ("identity",)}
# Files with this ending are decrypted by age, all others by SOPS.
AGE = ".age"
_SSM_PATH = re.compile(r"(/[\w.-]+)+", re.ASCII)
_REGION = re.compile(r"[a-z]{2,4}(-[a-z]+)+-[0-9]{1,2}")


def source_of(declared: dict[str, Any] | None, where: str) -> Source | None:
    """The source that *declared*, the value of ``secrets_from``, describes; None: nothing is declared.

    :raises OpsError: it describes none, or more than one, or one that cannot be
    """
    if declared is None:
        return None
    kinds = [kind for kind in KINDS if kind in declared]
    if len(kinds) != 1:
        raise OpsError(
            f"names {' and '.join(kinds) or 'no source'}", where=where, fix=f"declare one of {', '.join(KINDS)}"
        )
    (kind,) = kinds
    for key in declared:
        if key != kind and key not in KINDS[kind]:
            raise OpsError(f"does not go with {kind}", where=f"{where}.{key}", fix="take it away")
    for path in secret_paths(declared):
        raise OpsError(
            "holds a secret, and sources are shown in output and in the list of processes",
            where=f"{where}.{path[0]}",
            fix="have the program read it from a file that only root can read",
        )
    _CHECKS[kind](declared, where)
    return Source(**{**declared, "command": tuple(declared.get("command", ()))})


def _check_ssm(declared: dict[str, Any], where: str) -> None:
    if not _SSM_PATH.fullmatch(declared["ssm"]):
        raise OpsError(
            f"{declared['ssm'][:80]!r} is not a path of the parameter store",
            where=f"{where}.ssm",
            fix="write the path above the parameters, such as /hermes/prod/work",
        )
    if not _REGION.fullmatch(declared.get("region", "eu-west-1")):
        raise OpsError("is not a region of AWS", where=f"{where}.region", fix="write one such as eu-west-1")
    if "endpoint" in declared:
        _check_endpoint(declared["endpoint"], f"{where}.endpoint")


def _check_endpoint(url: str, where: str) -> None:
    try:
        parts = urllib.parse.urlsplit(url)
        host, _port = parts.hostname or "", parts.port
    except ValueError:
        host, parts = "", urllib.parse.urlsplit("")
    clean = url.isascii() and url.isprintable() and "@" not in parts.netloc and not (parts.query or parts.fragment)
    if not host or not clean or parts.path not in ("", "/"):
        raise OpsError(
            "is not the URL of an endpoint", where=where, fix="write one such as https://vpce-….amazonaws.com"
        )
    if parts.scheme != "https" and not (parts.scheme == "http" and is_loopback(host)):
        raise OpsError("would send secrets in clear text", where=where, fix="use https; http is for loopback only")


def _check_command(declared: dict[str, Any], where: str) -> None:
    command = declared["command"]
    if not command or any("\0" in word for word in command):
        raise OpsError("is not a command", where=f"{where}.command", fix="write a list: the program, its arguments")
    check_path(command[0], f"{where}.command")


def _check_file(declared: dict[str, Any], where: str) -> None:
    check_path(declared["file"], f"{where}.file")
    if "identity" in declared:
        check_path(declared["identity"], f"{where}.identity")
    elif declared["file"].endswith(AGE):
        raise OpsError(
            "is not declared", where=f"{where}.identity", fix="name the file with the age identity that decrypts it"
        )


_CHECKS = {"ssm": _check_ssm, "command": _check_command, "file": _check_file}


def check_host(agents: Iterable[Agent], scope: str, enabled: bool, where: str) -> None:
    """:raises OpsError: an agent declares a source that its host is not to read, or cannot use"""
    for agent in agents:
        if not agent.present or agent.source is None:
            continue
        here = f"{where}: agent {agent.name}: secrets_from"
        if not enabled:
            raise OpsError("is declared, and secrets_enabled is false", where=here, fix="declare secrets_enabled: true")
        if scope != "system":
            raise OpsError(
                "needs gateway_scope: system; a user's manager may not read what root fetched",
                where=here,
                fix="declare gateway_scope: system, or take secrets_from away",
            )
