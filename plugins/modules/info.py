#!/usr/bin/python
# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Module info; the host's kit does the work (hermes_ops.modules.info)."""

from __future__ import annotations

DOCUMENTATION = r"""
module: info
short_description: Report what is installed, running, declared and drifted on a host
version_added: 0.1.0
author:
  - The alwayson.hermes authors (@alwayson-hermes)
description:
  - Reads the state of a host and changes nothing. Works on a bare host, too.
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
    description: Directory of the agents' data, the data volume's mount point.
    type: path
    default: /var/lib/hermes
  packages:
    description: Debian packages that the host should have; none is installed.
    type: list
    elements: str
    default: []
  refuse_as:
    description: >-
      The host's name in the error. If it is given, the module fails with all RV(objections) if there are any.
    type: str
  release:
    description:
      - A release that the host should be able to run, as the options of M(alwayson.hermes.release) describe it.
      - It is compared with the host's machine, Python and free space; nothing is fetched or installed.
    type: dict
    suboptions:
      method:
        description: Where the release comes from.
        type: str
        choices: [pypi, git, path]
        default: pypi
      version:
        description: Exact version or range.
        type: str
      extras:
        description: Extras of hermes-agent.
        type: list
        elements: str
        default: [homeassistant]
      url:
        description: Repository.
        type: str
      ref:
        description: Tag or branch.
        type: str
      commit:
        description: Full commit.
        type: str
      channel:
        description: Pattern of tags.
        type: str
      path:
        description: Source tree or directory of wheels on the host.
        type: path
      lock:
        description: Lock of the packages.
        type: str
        default: auto
      python:
        description: Interpreter for the release.
        type: str
      python_downloads:
        description: Whether uv may download an interpreter.
        type: bool
        default: false
      patches:
        description: Patches for the release.
        type: list
        elements: str
        default: []
  volume:
    description:
      - The data volume that the host should have at O(data_dir), as the options of M(alwayson.hermes.data_volume)
        describe it.
      - It is only looked at.
    type: dict
    suboptions:
      device:
        description:
          - The device. A path below C(/dev), the id of an EBS volume (V(vol-…)), V(LABEL=…) or V(UUID=…).
          - Empty for the one volume that carries O(volume.label).
        type: str
        default: ""
      fstype:
        description: File system that a blank device is formatted with. One that is there is kept.
        type: str
        choices: [ext4, xfs]
        default: ext4
      label:
        description: Label of the file system. One with another label is refused.
        type: str
        default: hermes-data
      format:
        description: Whether a device that is named and provably blank may be formatted.
        type: bool
        default: false
      min_size:
        description: Smallest size of the device, such as V(10G). A smaller one is refused.
        type: str
        default: 1G
      timeout:
        description: Seconds to wait for the device, in this module and at each boot.
        type: int
        default: 30
      quota:
        description: Whether it is mounted such that users can be held to limits.
        type: bool
        default: false
"""

EXAMPLES = r"""
- name: Read the state of the host
  alwayson.hermes.info:
    agents: "{{ common_gateways }}"
    ops_dir: /var/lib/hermes/ops
  register: found
"""

RETURN = r"""
system:
  description: The system according to os-release, and whether it was booted with systemd.
  returned: always
  type: dict
  sample: {id: debian, name: Debian GNU/Linux, version: "12", systemd: true}
missing_packages:
  description: The packages of O(packages) that are not installed.
  returned: always
  type: list
  elements: str
  sample: []
missing_users:
  description: >-
    The users of agents that do not exist yet, with their home directories. C(uid) and C(gid) are set if that directory
    exists and its owner has no account, as on a data volume from another host; C(gid) also if the user's group exists.
    C(uid) is also set where useradd might choose the number of such an owner for another agent.
  returned: always
  type: list
  elements: dict
  sample: [{name: hermes-default, home: /var/lib/hermes/agents/default, uid: null, gid: null}]
foreign_homes:
  description: >-
    The agents' directories that belong to another user or group of the host, each as a sentence with its fix.
  returned: always
  type: list
  elements: str
  sample: []
wrong_directories:
  description: O(data_dir) and the agents' directories below it that are missing or have a wrong owner or mode.
  returned: always
  type: list
  elements: dict
  sample: [{path: /var/lib/hermes/agents/default, owner: hermes-default, mode: "0700"}]
volume:
  description: >-
    What M(alwayson.hermes.data_volume) has to do on this host for O(volume), or what that is still waiting for. Empty
    if it is mounted as declared.
  returned: always
  type: list
  elements: str
  sample: []
data_dir_owner:
  description: Owner of O(data_dir), null if it does not exist.
  returned: always
  type: str
  sample: root
linger:
  description: The users whose own service manager has to run without a login but does not yet.
  returned: always
  type: list
  elements: str
  sample: []
superseded:
  description: >-
    The path that shows that an earlier version converged the host, with one home and one user for all agents. Null if
    none did.
  returned: always
  type: str
  sample: null
systemd:
  description: Version of the host's systemd, 0 if it has none.
  returned: always
  type: int
  sample: 252
release:
  description: The current release, null if there is none.
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
    Each agent with its user, unit, process, release, platforms, the reasons for a pending restart, the declared keys of
    config.yaml, and as C(drift) the written keys that somebody changed by hand. There C(agent.max_turns) is a key of
    config.yaml, C(env: DISCORD_BOT_TOKEN) one of C(.env), C(webhook: build) a subscription. A key that the host
    generated and somebody replaced is listed, too, and stays replaced.
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
  description: The users that run several agents, with these agents. Nothing protects such agents from each other.
  returned: always
  type: dict
  sample: {}
undeclared_profiles:
  description: Homes of Hermes' own profiles below an agent's home that are not declared as agents.
  returned: always
  type: list
  elements: str
  sample: []
jobs:
  description: >-
    The optional features that are installed on the host: the jobs of M(alwayson.hermes.timer), C(logrotate),
    C(dashboard) and C(audit).
  returned: always
  type: list
  elements: str
  sample: [heartbeat, logrotate]
busy:
  description: The jobs that are changing the host right now, of C(update), C(restore) and C(separate).
  returned: always
  type: list
  elements: str
  sample: []
unfinished:
  description: The jobs of the same kinds that were interrupted and neither finished nor undone, each with the fix.
  returned: always
  type: list
  elements: str
  sample: []
separated:
  description: >-
    Agents that C(hermes-ops separate) has given a home of their own, but whose declaration in O(agents) still names the
    old home, each as a sentence with its fix.
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
objections:
  description: Why the host cannot be converged, or cannot run O(release), each as a sentence with its fix.
  returned: always
  type: list
  elements: str
  sample: []
awaited:
  description: >-
    What a run that converges the host will take long for, in sentences: packages of O(packages) that are missing, and
    O(release) if it has to be built. They are shown at once. Empty in check mode.
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
    "refuse_as": {"type": "str"},
    "volume": {"type": "dict", "options": arguments.VOLUME},
    "release": {"type": "dict", "options": arguments.RELEASE},
}
SPECIFICATION: dict[str, Any] = {"argument_spec": ARGUMENTS}


def main() -> None:
    arguments.declare(SPECIFICATION)


if __name__ == "__main__":
    main()
