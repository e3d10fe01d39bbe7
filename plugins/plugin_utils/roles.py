# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the files of the roles say about their variables.

They are read when this is imported. Ansible imports a plugin before it forks a worker for each host, so that this is
done once for a whole fleet.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

try:
    from ansible.template import trust_as_template
except ImportError:

    def trust_as_template(value: str) -> str:
        """Before ansible-core 2.19 every text is a template."""
        return value


# The parser in C takes a tenth of the time of the one in Python.
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
ROLES = Path(__file__).resolve().parents[2] / "roles"


def _load(path: Path) -> Any:
    # LOADER is a safe loader.
    return yaml.load(path.read_text(encoding="utf-8"), Loader=LOADER) if path.is_file() else None


def _trusted(value: Any) -> Any:
    """*value* with its texts as templates."""
    if isinstance(value, dict):
        return {key: _trusted(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_trusted(each) for each in value]
    return trust_as_template(value) if isinstance(value, str) else value


def _options(role: str) -> dict[str, dict[str, Any]]:
    # The first entry has all variables of the role.
    entry, *_others = _load(ROLES / role / "meta/argument_specs.yml")["argument_specs"].values()
    return entry.get("options") or {}


def _own_values(role: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for part in ("defaults", "vars"):
        found.update(_trusted(_load(ROLES / role / part / "main.yml") or {}))
    return found


_NAMES = sorted(path.name for path in ROLES.iterdir() if path.is_dir())
# Role -> variable -> its rule in the role's argument specification.
SPECIFICATIONS = {name: _options(name) for name in _NAMES}
# Role -> variable -> the role's default, or what the role computes from others.
VALUES = {name: _own_values(name) for name in _NAMES}
