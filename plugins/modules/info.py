#!/usr/bin/python
# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Module info; the work is done in hermes_ops.info."""

from __future__ import annotations

DOCUMENTATION = r"""
module: info
short_description: What is installed, running, declared and drifted on a host
version_added: 0.1.0
author:
  - The alwayson.hermes authors (@alwayson-hermes)
description:
  - Looks at a host and changes nothing. Works on a host where nothing was installed yet.
  - No value of a secret is read or returned.
extends_documentation_fragment:
  - alwayson.hermes.gateways
attributes:
  check_mode:
    support: full
    description: Changes nothing.
  diff_mode:
    support: none
    description: Changes nothing.
  idempotent:
    support: full
    description: Changes nothing.
options:
  hermes_home:
    description: Hermes' home.
    type: path
    required: true
  root:
    description: Where the releases lie.
    type: path
    default: /opt/hermes
"""

EXAMPLES = r"""
- name: Look at the host
  alwayson.hermes.info:
    profiles: "{{ common_gateways }}"
    owner: hermes
    hermes_home: /var/lib/hermes/.hermes
    ops_dir: /var/lib/hermes/ops
  register: found
"""

RETURN = r"""
systemd:
  description: Version of the host's systemd.
  returned: always
  type: int
  sample: 252
user:
  description: The user that Hermes runs as, null when there is no such user yet.
  returned: always
  type: str
  sample: hermes
release:
  description: The release that is current, null when there is none.
  returned: always
  type: dict
  sample: {id: 0.19.0, version: 0.19.0, method: pypi, commit: null, locked: true}
releases:
  description: All complete releases.
  returned: always
  type: list
  elements: str
  sample: [0.18.2, 0.19.0]
profiles:
  description: >-
    Each profile: its unit, process, release, platforms, the reasons for a pending restart, the keys of config.yaml
    that we declared, and as C(drift) what somebody changed by hand of that which we wrote. There C(agent.max_turns)
    is a key of config.yaml, C(env: DISCORD_BOT_TOKEN) one of C(.env), C(webhook: build) a subscription. A key that
    the host generated and somebody replaced is among them, and stays replaced.
  returned: always
  type: dict
  sample:
    default:
      state: present
      home: /var/lib/hermes/.hermes
      exists: true
      unit: hermes-gateway@default.service
      active: active
      enabled: true
      pid: 4711
      restarts: 0
      running_release: 0.19.0
      restart_pending: []
      platforms: {api_server: connected}
      declared_keys: [approvals.mode]
      drift: ["env: DISCORD_BOT_TOKEN"]
undeclared_profiles:
  description: Profiles that exist on the host and are not declared.
  returned: always
  type: list
  elements: str
  sample: []
jobs:
  description: >-
    What is switched on of what can be switched off: the jobs of M(alwayson.hermes.timer), C(logrotate), C(dashboard) and
    C(audit).
  returned: always
  type: list
  elements: str
  sample: [heartbeat, logrotate]
port_conflicts:
  description: Declared ports that another process holds, each as a sentence with its fix.
  returned: always
  type: list
  elements: str
  sample: []
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.alwayson.hermes.plugins.module_utils.common import GATEWAYS_ARGUMENTS, run_module
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops import info

ARGUMENTS: dict[str, dict[str, Any]] = {
    **GATEWAYS_ARGUMENTS,
    "hermes_home": {"type": "path", "required": True},
    "root": {"type": "path", "default": "/opt/hermes"},
}


def work(module: AnsibleModule) -> dict[str, Any]:
    params = module.params
    found = info.gather(
        profiles=params["profiles"],
        scope=params["scope"],
        user=params["owner"],
        hermes_home=params["hermes_home"],
        ops_dir=params["ops_dir"],
        root=params["root"],
    )
    return {"changed": False, **found}


def main() -> None:
    run_module(ARGUMENTS, work)


if __name__ == "__main__":
    main()
