#!/usr/bin/python
# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Module data_volume; the host's kit does the work (hermes_ops.modules.data_volume)."""

from __future__ import annotations

DOCUMENTATION = r"""
module: data_volume
short_description: Mount the volume that holds all agents
version_added: 0.1.0
author:
  - The alwayson.hermes authors (@alwayson-hermes)
description:
  - Mounts a volume at O(data_dir) with a mount unit of systemd, and grows its file system when the device grew.
  - Formats a device only if it is named, provably blank, and O(format) allows it. A file system with our label is
    adopted. Everything else is refused with the reason.
  - Nothing can be written below the mount point while nothing is mounted there.
  - Numbers of users and groups on the volume that this host has given to others are mapped for the mount, where
    mount(8) can do that (util-linux 2.39). The files keep theirs.
attributes:
  check_mode:
    support: full
    description: Can run in check mode and says what would change.
  diff_mode:
    support: full
    description: >-
      Shows what is done with the device, and the units' texts. Numbers that are mapped are seen on the volume only, and
      not shown in check mode.
  idempotent:
    support: full
    description: A second run changes nothing.
options:
  agents:
    description:
      - All agents of the host, as the filter P(alwayson.hermes.resolve_agents#filter) describes them under C(gateway).
      - Compared with the directories on the volume when it is mounted.
    type: list
    elements: dict
    default: []
  data_dir:
    description: The mount point.
    type: path
    default: /var/lib/hermes
  device:
    description:
      - The device. A path below C(/dev), the id of an EBS volume (V(vol-…)), V(LABEL=…) or V(UUID=…).
      - Empty for the one volume that carries O(label).
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
    description: >-
      Whether it is mounted such that users can be held to limits, as C(runtimes_disk) does. A blank device is formatted
      for that. An ext4 that was made without quotas, or is mounted without them, is refused.
    type: bool
    default: false
requirements:
  - Python >= 3.9 on the host
  - util-linux and e2fsprogs, for xfs also xfsprogs, on the host
"""

EXAMPLES = r"""
- name: The data volume is mounted; this time a blank one may be formatted
  alwayson.hermes.data_volume:
    device: vol-0123456789abcdef0
    format: true

- name: The volume from the old host is mounted, whatever its device
  alwayson.hermes.data_volume:
    agents: "{{ common_gateways }}"
"""

RETURN = r"""
unit:
  description: The mount unit.
  returned: always
  type: str
  sample: var-lib-hermes.mount
mapped:
  description: Each number of a user or group that is another one on the volume than on this host, as a sentence.
  returned: always
  type: list
  elements: str
  sample: [user id 998 of the volume is 994 on this host, user id 994 of the volume is 998 on this host]
"""

from typing import Any

from ansible_collections.alwayson.hermes.plugins.module_utils import arguments

ARGUMENTS: dict[str, dict[str, Any]] = {
    **arguments.VOLUME,
    "agents": {"type": "list", "elements": "dict", "default": []},
    "data_dir": {"type": "path", "default": "/var/lib/hermes"},
}
SPECIFICATION: dict[str, Any] = {"argument_spec": ARGUMENTS}


def main() -> None:
    arguments.declare(SPECIFICATION)


if __name__ == "__main__":
    main()
