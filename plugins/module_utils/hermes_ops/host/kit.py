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


def wrapper(*, user: str, hermes_home: str, root: str, managed_root: str) -> str:
    """``hermes`` for the operator: the current release, as the right user, on the right home.

    Secrets stay where they are; the command line is Hermes' own.
    """
    user, home, root, managed_root = (shlex.quote(text) for text in (user, hermes_home, root, managed_root))
    return f"""#!/bin/sh
# Written by the Ansible collection alwayson.hermes.
# Runs the current release of Hermes as {user}, on its home, whoever calls it.
set -eu
if [ "$(id -un)" != {user} ]; then
    [ "$(id -u)" -eq 0 ] && exec runuser -u {user} -- "$0" "$@"
    exec sudo -u {user} -- "$0" "$@"
fi
# The profile is named before the command; without a name it is the default one, whatever active_profile says.
profile=
next=option
for argument in "$@"; do
    case "$next" in
    profile) profile=$argument && break ;;
    value) next=option && continue ;;
    esac
    case "$argument" in
    --profile=*) profile=${{argument#--profile=}} && break ;;
    -p | --profile) next=profile ;;
    # Options of Hermes whose value follows (0.18.2 and 0.19.0 hermes_cli/main.py).
    -z | --oneshot | -m | --model | --provider | -t | --toolsets | -r | --resume | -s | --skills | --usage-file)
        next=value
        ;;
    --) break ;;
    -*) ;;
    *) break ;;
    esac
done
[ -n "$profile" ] || {{ profile=default && set -- --profile default "$@"; }}
HOME=$(getent passwd {user} | cut -d: -f6)
export HOME HERMES_HOME={home} HERMES_DISABLE_LAZY_INSTALLS=1
if [ -d {managed_root}/"$profile" ]; then
    export HERMES_MANAGED_DIR={managed_root}/"$profile"
fi
exec {root}/current/bin/hermes "$@"
"""


def plan_kit(host: dict[str, Any]) -> Plan:
    """Compare the host's commands with what they should be.

    :param host: what :meth:`installation.Installation.load` will read
    """
    plan = Plan()
    text = wrapper(
        user=host["user"], hermes_home=host["hermes_home"], root=host["root"], managed_root=host["managed_root"]
    )
    plan.add_file(COMMAND, archive(), mode=0o755, shown=False)
    plan.add_file(WRAPPER, text, mode=0o755)
    plan.add_file(HOST_FILE, json.dumps(host, indent=2) + "\n", mode=0o644)
    return plan
