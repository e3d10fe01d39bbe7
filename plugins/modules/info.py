#!/usr/bin/python
# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Module info; the host's kit does the work (hermes_ops.modules.info)."""

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
    description: The directory below which the agents live, the data volume's mount point.
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
    agents: "{{ common_gateways }}"
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
missing_users:
  description: >-
    The users of agents that are to be made, with their home directories; with C(uid) where that directory is there and
    belongs to nobody, as on a data volume that came from another host.
  returned: always
  type: list
  elements: dict
  sample: [{name: hermes-default, home: /var/lib/hermes/agents/default, uid: null}]
wrong_directories:
  description: O(data_dir) and the agents' directories below it, where they are missing or their owner or mode is wrong.
  returned: always
  type: list
  elements: dict
  sample: [{path: /var/lib/hermes/agents/default, owner: hermes-default, mode: "0700"}]
data_dir_owner:
  description: Whom O(data_dir) belongs to, null when it does not exist.
  returned: always
  type: str
  sample: root
linger:
  description: The users whose own manager has to run without a login and does not yet.
  returned: always
  type: list
  elements: str
  sample: []
superseded:
  description: What shows that the host was converged when all agents still shared a home and a user, null for nothing.
  returned: always
  type: str
  sample: null
systemd:
  description: Version of the host's systemd, 0 when it has none.
  returned: always
  type: int
  sample: 252
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
agents:
  description: >-
    Each agent: its user, unit, process, release, platforms, the reasons for a pending restart, the keys of config.yaml
    that we declared, and as C(drift) what somebody changed by hand of that which we wrote. There C(agent.max_turns)
    is a key of config.yaml, C(env: DISCORD_BOT_TOKEN) one of C(.env), C(webhook: build) a subscription. A key that
    the host generated and somebody replaced is among them, and stays replaced.
  returned: always
  type: dict
  sample:
    default:
      state: present
      user: hermes-default
      home: /var/lib/hermes/agents/default/.hermes
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
shared_users:
  description: The users that run several agents, with these. Nothing keeps such agents from each other.
  returned: always
  type: dict
  sample: {}
undeclared_profiles:
  description: Homes of Hermes' own profiles that lie below an agent's and are no agent's.
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
  description: Who changes the host right now by itself, an C(update), a C(restore) or C(separate).
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
separated:
  description: >-
    Agents that C(hermes-ops separate) has given a home of their own, and whose O(agents) would lead back to the one
    that they were in, each as a sentence with its fix.
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

from ansible_collections.alwayson.hermes.plugins.module_utils import arguments

ARGUMENTS: dict[str, dict[str, Any]] = {
    **arguments.GATEWAYS,
    **arguments.PLACES,
    "data_dir": {"type": "path", "default": "/var/lib/hermes"},
    "packages": {"type": "list", "elements": "str", "default": []},
}
SPECIFICATION: dict[str, Any] = {"argument_spec": ARGUMENTS}


def main() -> None:
    arguments.declare(SPECIFICATION)


if __name__ == "__main__":
    main()
