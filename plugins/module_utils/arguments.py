# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Arguments that several modules have, and how a module says which it has."""

from __future__ import annotations

from typing import Any

from ansible.module_utils.basic import AnsibleModule

# Beside doc_fragments/gateways.py, which documents them.
GATEWAYS: dict[str, dict[str, Any]] = {
    "agents": {"type": "list", "elements": "dict", "required": True},
    "scope": {"type": "str", "choices": ["system", "user"], "default": "system"},
}
# Beside doc_fragments/places.py.
PLACES: dict[str, dict[str, Any]] = {
    "ops_dir": {"type": "path", "required": True},
    "root": {"type": "path", "default": "/opt/hermes"},
}
# Beside doc_fragments/units.py.
UNITS: dict[str, dict[str, Any]] = {
    "root": {"type": "path", "default": "/opt/hermes"},
    "restart_sec": {"type": "int", "default": 10},
    "restart_max_delay_sec": {"type": "int", "default": 300},
}
# Beside doc_fragments/cluster.py.
CLUSTER: dict[str, dict[str, Any]] = {
    "namespace": {"type": "str", "default": "hermes"},
    "kubeconfig": {"type": "path", "default": ""},
    "context": {"type": "str", "default": ""},
}
# Beside doc_fragments/restic.py: the fields of the kit's settings of backups that begin with restic_.
RESTIC: dict[str, dict[str, Any]] = {
    "restic": {
        "type": "dict",
        "default": {},
        "options": {
            "repository": {"type": "str", "default": ""},
            "password": {"type": "str", "default": "", "no_log": True},
            "environment": {"type": "dict", "default": {}, "no_log": True},
            "keep_daily": {"type": "int", "default": 7},
            "keep_weekly": {"type": "int", "default": 4},
            "keep_monthly": {"type": "int", "default": 6},
        },
    },
}
# What is declared of a data volume: the fields of the kit's Volume, but for data_dir.
VOLUME: dict[str, dict[str, Any]] = {
    "device": {"type": "str", "default": ""},
    "fstype": {"type": "str", "choices": ["ext4", "xfs"], "default": "ext4"},
    "label": {"type": "str", "default": "hermes-data"},
    "format": {"type": "bool", "default": False},
    "min_size": {"type": "str", "default": "1G"},
    "timeout": {"type": "int", "default": 30},
    "quota": {"type": "bool", "default": False},
}
# All that tells one release from another: the fields of the kit's Request.
RELEASE: dict[str, dict[str, Any]] = {
    "method": {"type": "str", "choices": ["pypi", "git", "path"], "default": "pypi"},
    "version": {"type": "str"},
    "extras": {"type": "list", "elements": "str", "default": ["homeassistant"]},
    "url": {"type": "str"},
    "ref": {"type": "str"},
    "commit": {"type": "str"},
    "channel": {"type": "str"},
    "path": {"type": "path"},
    "lock": {"type": "str", "default": "auto"},
    "python": {"type": "str"},
    "python_downloads": {"type": "bool", "default": False},
    "patches": {"type": "list", "elements": "str", "default": []},
}


def amounts(cpu: str, memory: str) -> dict[str, Any]:
    """The option of what a tenant is given or may use, with these defaults."""
    options = {"cpu": {"type": "str", "default": cpu}, "memory": {"type": "str", "default": memory}}
    return {"type": "dict", "options": options, "apply_defaults": True}


def declare(specification: dict[str, Any]) -> None:
    """Be a module of which plugins/action/host_kit.py reads the specification, and which it never runs."""
    module = AnsibleModule(**specification, supports_check_mode=True)
    module.fail_json(msg="is run by the action plugin alwayson.hermes.host_kit only")
