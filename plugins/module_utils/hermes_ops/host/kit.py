# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The commands on the host: ``hermes-ops``, one file that is this very package, and ``hermes``."""

from __future__ import annotations

import io
import json
import pkgutil
import shlex
import zipfile
from typing import Any

from .. import __name__ as package
from .. import __path__ as package_path
from ..description.declaration import DEFAULT_PROFILE, home_arguments
from ..system.plan import Plan
from .installation import HOST_FILE

COMMAND = "/usr/local/bin/hermes-ops"
WRAPPER = "/usr/local/bin/hermes"
# A zip archive's oldest date: the same sources make the same bytes.
_EPOCH = (1980, 1, 1, 0, 0, 0)
_MAIN = "import sys\nfrom hermes_ops.cli import main\nsys.exit(main())\n"


def archive() -> bytes:
    """This package as an executable zip archive (:mod:`zipapp`'s format), byte for byte reproducible."""
    buffer = io.BytesIO()
    buffer.write(b"#!/usr/bin/python3\n")
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archived:
        _add(archived, "__main__.py", _MAIN.encode())
        for name in sources():
            _add(archived, f"hermes_ops/{name}", pkgutil.get_data(package, name) or b"")
    return buffer.getvalue()


def sources() -> list[str]:
    """The kit's files, as paths below the package."""
    found = ["__init__.py"]
    for module in pkgutil.walk_packages(package_path, prefix=f"{package}."):
        path = module.name[len(package) + 1 :].replace(".", "/")
        found.append(f"{path}/__init__.py" if module.ispkg else f"{path}.py")
    return sorted(found)


def _add(archived: zipfile.ZipFile, name: str, data: bytes) -> None:
    entry = zipfile.ZipInfo(name, _EPOCH)
    entry.external_attr = 0o644 << 16
    entry.compress_type = zipfile.ZIP_DEFLATED
    archived.writestr(entry, data)


def wrapper(profiles: list[dict[str, Any]], *, root: str, managed_root: str) -> str:
    """``hermes`` for the operator: the current release, as the agent's user, on its home.

    Secrets stay where they are; the command line is Hermes' own, except for ``-p``, which names an agent.

    :param profiles: the ``gateway`` parts of the agents that are present
    """
    names = [profile["name"] for profile in profiles]
    default = names[0] if len(names) == 1 else DEFAULT_PROFILE
    root, managed_root = shlex.quote(root), shlex.quote(managed_root)
    cases = "".join(case(profile) for profile in profiles)
    known = shlex.quote(f"; known ones: {', '.join(names) or 'none'}")
    return f"""#!/bin/sh
# Written by the Ansible collection alwayson.hermes.
# hermes [-p AGENT] …: the current release of Hermes, as the agent's user, on its home, whoever calls it.
set -eu
agent={default}
next=option
count=$#
while [ "$count" -gt 0 ]; do
    argument=$1
    count=$((count - 1))
    shift
    case "$next" in
    agent) agent=$argument && next=none && continue ;;
    value) next=option ;;
    option)
        case "$argument" in
        --profile=*) agent=${{argument#--profile=}} && next=none && continue ;;
        -p | --profile) next=agent && continue ;;
        # Options of Hermes whose value follows (0.18.2 and 0.19.0 hermes_cli/main.py).
        -z | --oneshot | -m | --model | --provider | -t | --toolsets | -r | --resume | -s | --skills | --usage-file)
            next=value
            ;;
        --) next=none ;;
        -*) ;;
        # The command: what follows is its own.
        *) next=none ;;
        esac
        ;;
    esac
    set -- "$@" "$argument"
done
case "$agent" in
{cases}*) echo "hermes: there is no agent '$agent'"{known} >&2 && exit 2 ;;
esac
if [ "$(id -un)" != "$user" ]; then
    [ "$(id -u)" -eq 0 ] && exec runuser -u "$user" -- "$0" -p "$agent" "$@"
    exec sudo -u "$user" -- "$0" -p "$agent" "$@"
fi
HOME=$(getent passwd "$user" | cut -d: -f6)
[ -O "$HOME" ] || HOME=$directory
export HOME HERMES_HOME="$home" HERMES_DISABLE_LAZY_INSTALLS=1
if [ -d {managed_root}/"$agent" ]; then
    export HERMES_MANAGED_DIR={managed_root}/"$agent"
fi
# Whatever active_profile in the home says.
exec {root}/current/bin/hermes $select "$@"
"""


def case(profile: dict[str, Any]) -> str:
    """What :func:`wrapper` knows of one agent."""
    values = {
        "user": profile["user"],
        "home": profile["home"],
        "directory": profile["directory"],
        "select": " ".join(home_arguments(profile["home"])),
    }
    words = " ".join(f"{name}={shlex.quote(value)}" for name, value in values.items())
    return f"{profile['name']}) {words} ;;\n"


def plan_kit(host: dict[str, Any], profiles: list[dict[str, Any]]) -> Plan:
    """Compare the host's commands with what they should be.

    :param host: what :meth:`installation.Installation.load` will read
    :param profiles: the ``gateway`` parts of the agents that are present
    """
    plan = Plan()
    text = wrapper(profiles, root=host["root"], managed_root=host["managed_root"])
    plan.add_file(COMMAND, archive(), mode=0o755, shown=False)
    plan.add_file(WRAPPER, text, mode=0o755)
    plan.add_file(HOST_FILE, json.dumps(host, indent=2) + "\n", mode=0o644)
    return plan
