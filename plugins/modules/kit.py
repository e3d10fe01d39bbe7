#!/usr/bin/python
# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Module kit; the work is done in hermes_ops.kit."""

from __future__ import annotations

DOCUMENTATION = r"""
module: kit
short_description: The commands hermes-ops and hermes on a host
version_added: 0.1.0
author:
  - The alwayson.hermes authors (@alwayson-hermes)
description:
  - Installs the kit that this module itself carries as the one file C(/usr/local/bin/hermes-ops), so that a host can
    be checked without a controller by the very code that converged it.
  - Writes C(/usr/local/bin/hermes), which runs the current release as the user and on the home of an agent, and
    C(/etc/hermes-ops/host.json), which holds names and paths for both and no secrets.
extends_documentation_fragment:
  - alwayson.hermes.gateways
  - alwayson.hermes.places
attributes:
  check_mode:
    support: full
    description: Can run in check mode and tells what would be changed.
  diff_mode:
    support: full
    description: Shows the texts.
  idempotent:
    support: full
    description: A second run changes nothing.
options:
  data_dir:
    description: The directory below which the agents live, the data volume's mount point.
    type: path
    required: true
  managed_root:
    description: Directory below which the managed scope of each agent lies.
    type: path
    default: /etc/hermes-ops/managed
"""

EXAMPLES = r"""
- name: The kit is on the host
  alwayson.hermes.kit:
    profiles: "{{ common_gateways }}"
    data_dir: /var/lib/hermes
    ops_dir: /var/lib/hermes/ops
"""

RETURN = r"""
version:
  description: Version of the kit.
  returned: always
  type: str
  sample: 0.1.0
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.alwayson.hermes.plugins.module_utils.common import (
    GATEWAYS_ARGUMENTS,
    PLACES_ARGUMENTS,
    run_module,
)

# Ansible sends only what is imported: the whole kit has to be named here (tests/unit/test_kit.py compares).
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops import __version__
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.agent import carry, home
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.commands import backup as command_backup
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.commands import backups as command_backups
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.commands import check as command_check
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.commands import debug as command_debug
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.commands import drill as command_drill
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.commands import heartbeat as command_heartbeat
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.commands import memory as command_memory
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.commands import port as command_port
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.commands import rehearsal as command_rehearsal
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.commands import restore as command_restore
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.commands import rollback as command_rollback
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.commands import separate as command_separate
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.commands import status as command_status
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.commands import tell as command_tell
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.commands import update as command_update
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.commands import verify as command_verify
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.host import kit

# The commands of hermes-ops, which imports them only when they are called, and what only modules import.
SENT = (
    carry,
    home,
    command_backup,
    command_backups,
    command_check,
    command_debug,
    command_drill,
    command_heartbeat,
    command_memory,
    command_port,
    command_rehearsal,
    command_restore,
    command_rollback,
    command_separate,
    command_status,
    command_tell,
    command_update,
    command_verify,
)

ARGUMENTS: dict[str, dict[str, Any]] = {
    **GATEWAYS_ARGUMENTS,
    **PLACES_ARGUMENTS,
    "data_dir": {"type": "path", "required": True},
    "managed_root": {"type": "path", "default": "/etc/hermes-ops/managed"},
}


def work(module: AnsibleModule) -> dict[str, Any]:
    params = module.params
    host = {name: params[name] for name in ("scope", "data_dir", "ops_dir", "root", "managed_root")}
    plan = kit.plan_kit(host, [profile for profile in params["profiles"] if profile["state"] == "present"])
    if plan.changed and not module.check_mode:
        plan.apply()
    return {"changed": plan.changed, "diff": plan.diff("commands"), "version": __version__}


def main() -> None:
    run_module(ARGUMENTS, work)


if __name__ == "__main__":
    main()
