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
  - alwayson.hermes.places
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
  data_dir:
    description: The user's home and the data volume's mount point.
    type: path
    default: /var/lib/hermes
  packages:
    description: Debian packages that the host should have; none is installed.
    type: list
    elements: str
    default: []
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
system:
  description: What os-release says of the system, and whether it was booted with systemd.
  returned: always
  type: dict
  sample: {id: debian, name: Debian GNU/Linux, version: "12", systemd: true}
missing_packages:
  description: Those of O(packages) that are not installed.
  returned: always
  type: list
  elements: str
  sample: []
account:
  description: The entry of the user in the host's user database, null when there is none.
  returned: always
  type: dict
  sample: {comment: Hermes agent, home: /var/lib/hermes, shell: /bin/bash}
data_dir:
  description: Owner, group and mode of O(data_dir), null when it is no directory yet.
  returned: always
  type: dict
  sample: {owner: root, group: hermes, mode: "1770"}
lingers:
  description: Whether the user's own manager runs without a login.
  returned: always
  type: bool
  sample: true
systemd:
  description: Version of the host's systemd, 0 when it has none.
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
    What is switched on of what can be switched off: the jobs of M(alwayson.hermes.timer), C(logrotate),
    C(dashboard) and C(audit).
  returned: always
  type: list
  elements: str
  sample: [heartbeat, logrotate]
busy:
  description: Who changes the host right now by itself, an C(update) or a C(restore).
  returned: always
  type: list
  elements: str
  sample: []
unfinished:
  description: Those of them that were interrupted and neither finished nor undone.
  returned: always
  type: list
  elements: str
  sample: []
port_conflicts:
  description: Declared ports that another process holds, each as a sentence with its fix.
  returned: always
  type: list
  elements: str
  sample: []
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.alwayson.hermes.plugins.module_utils.common import (
    GATEWAYS_ARGUMENTS,
    PLACES_ARGUMENTS,
    run_module,
)
from ansible_collections.alwayson.hermes.plugins.module_utils.groundwork import look
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.watch import info

ARGUMENTS: dict[str, dict[str, Any]] = {
    **GATEWAYS_ARGUMENTS,
    **PLACES_ARGUMENTS,
    "data_dir": {"type": "path", "default": "/var/lib/hermes"},
    "packages": {"type": "list", "elements": "str", "default": []},
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
    return {"changed": False, **look(params["owner"], params["data_dir"], params["packages"]), **found}


def main() -> None:
    run_module(ARGUMENTS, work)


if __name__ == "__main__":
    main()
