# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Documentation of the action node_lost, which works on the controller: plugins/action/node_lost.py."""

from __future__ import annotations

DOCUMENTATION = r"""
module: node_lost
short_description: Have a cluster give up a worker that is lost
version_added: 0.1.0
author:
  - The alwayson.hermes authors (@alwayson-hermes)
description:
  - Sets the taint C(node.kubernetes.io/out-of-service) on a node. Kubernetes then removes its pods at once and lets go
    of their volumes, so that the tenants start on other nodes.
  - On a machine that still runs, this would start tenants a second time on the same volumes. It is refused unless the
    cluster has not heard of the node for a minute, and O(is_off) says that somebody made sure.
  - Runs on the controller.
extends_documentation_fragment:
  - alwayson.hermes.cluster
options:
  node:
    description: The name of the node.
    type: str
    required: true
  state:
    description:
      - V(lost) sets the taint.
      - V(back) removes it, once the node is ready again.
    type: str
    choices: [lost, back]
    default: lost
  is_off:
    description: Whether you made sure that the machine is powered off, at its provider or by its switch.
    type: bool
    default: false
attributes:
  check_mode:
    support: full
    description: The same is refused, and the API server is asked whether it would take the change.
  diff_mode:
    support: full
    description: Shows the taint.
  idempotent:
    support: full
    description: A second run changes nothing.
seealso:
  - module: alwayson.hermes.tenants_status
"""

EXAMPLES = r"""
- name: Start the tenants of a worker elsewhere, whose machine is powered off
  alwayson.hermes.node_lost:
    node: worker2
    is_off: true

- name: Use it again
  alwayson.hermes.node_lost:
    node: worker2
    state: back
"""

RETURN = r"""
node:
  description: The name of the node.
  returned: success
  type: str
"""

from typing import Any

from ansible_collections.alwayson.hermes.plugins.module_utils.arguments import CLUSTER, declare

SPECIFICATION: dict[str, Any] = {
    "argument_spec": {
        **CLUSTER,
        "node": {"type": "str", "required": True},
        "state": {"type": "str", "choices": ["lost", "back"], "default": "lost"},
        "is_off": {"type": "bool", "default": False},
    }
}


def main() -> None:
    declare(SPECIFICATION)


if __name__ == "__main__":
    main()
