#!/usr/bin/python
# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Module kit; the work is done in hermes_ops.host.kit."""

from __future__ import annotations

DOCUMENTATION = r"""
module: kit
short_description: The commands hermes-ops and hermes on a host
version_added: 0.1.0
author:
  - The alwayson.hermes authors (@alwayson-hermes)
description:
  - Installs the kit that this module itself carries below C(/usr/local/lib/hermes-ops), and the command
    C(/usr/local/bin/hermes-ops) that runs it, so that a host can be checked without a controller by the very code that
    converged it. The version before stays until the next one, for jobs that are running.
  - Writes C(/usr/local/bin/hermes), which runs a command of Hermes as an agent, and C(/etc/hermes-ops/host.json), which
    holds names and paths for both and no secrets.
extends_documentation_fragment:
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
  scope:
    description: Which service manager runs the gateways, the system's or each user's own, which must linger.
    type: str
    choices: [system, user]
    default: system
requirements:
  - Python >= 3.9 on the host
"""

EXAMPLES = r"""
- name: The kit is on the host
  alwayson.hermes.kit:
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
    PLACES_ARGUMENTS,
    run_module,
)

# Ansible sends only what is imported: the whole kit has to be named here (tests/unit/host/test_kit.py compares).
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops import __version__
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.agent import carry, converge, removal
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.backup import collecting, reading
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.commands import (
    backup,
    backups,
    check,
    debug,
    drill,
    heartbeat,
    memory,
    port,
    rehearsal,
    restore,
    rollback,
    run,
    separate,
    status,
    tell,
    tidy,
    update,
    verify,
)
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.host import kit

# The commands of hermes-ops, which imports them only when they are called, and what only modules import.
SENT = (
    carry,
    converge,
    removal,
    collecting,
    reading,
    backup,
    backups,
    check,
    debug,
    drill,
    heartbeat,
    memory,
    port,
    rehearsal,
    restore,
    rollback,
    run,
    separate,
    status,
    tell,
    tidy,
    update,
    verify,
)

ARGUMENTS: dict[str, dict[str, Any]] = {
    **PLACES_ARGUMENTS,
    "scope": {"type": "str", "choices": ["system", "user"], "default": "system"},
    "data_dir": {"type": "path", "required": True},
    "managed_root": {"type": "path", "default": "/etc/hermes-ops/managed"},
}


def work(module: AnsibleModule) -> dict[str, Any]:
    params = module.params
    host = {name: params[name] for name in ("scope", "data_dir", "ops_dir", "root", "managed_root")}
    plan = kit.plan_kit(host)
    if plan.changed and not module.check_mode:
        plan.apply()
    return {"changed": plan.changed, "diff": plan.diff("commands"), "version": __version__}


def main() -> None:
    run_module(ARGUMENTS, work)


if __name__ == "__main__":
    main()
