# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Documentation of the action tenants_status, which works on the controller: plugins/action/tenants_status.py."""

from __future__ import annotations

DOCUMENTATION = r"""
module: tenants_status
short_description: How the tenants on Kubernetes are
version_added: 0.1.0
author:
  - The alwayson.hermes authors (@alwayson-hermes)
description:
  - Prints a table of the tenants of a namespace, those with trouble first, with the reason in the words of the cluster.
  - Runs on the controller, and changes nothing.
extends_documentation_fragment:
  - alwayson.hermes.cluster
attributes:
  check_mode:
    support: full
    description: It changes nothing.
  diff_mode:
    support: none
    description: It changes nothing.
  idempotent:
    support: full
    description: It never reports a change.
options:
  page:
    description: A file on the controller, which becomes a page for a browser; without one, there is none.
    type: path
    default: ""
seealso:
  - module: alwayson.hermes.tenants
"""

EXAMPLES = r"""
- name: See how the tenants are
  alwayson.hermes.tenants_status:
"""

RETURN = r"""
tenants:
  description: Each tenant that is there, or whose volume is.
  returned: always
  type: list
  elements: dict
  contains:
    name:
      description: The name as declared.
      type: str
    state:
      description: V(ready), V(not ready), or V(absent), of which only the volume is there.
      type: str
    why:
      description: Why it is not ready, until when its volume stays, or that it is nearly full.
      type: str
    image:
      description: The image with which it runs.
      type: str
    restarts:
      description: How often its agent was started again since its pod was made.
      type: int
    node:
      description: The node on which it runs.
      type: str
    volume:
      description: The size of its volume.
      type: str
    memory:
      description: Bytes that it cannot do without; none if its node does not say, or this login may not ask.
      type: int
    request:
      description: Bytes of memory that it is given.
      type: int
    full:
      description: The part of its volume that is used, 0 to 1; none if its node does not say.
      type: float
"""

from typing import Any

from ansible_collections.alwayson.hermes.plugins.module_utils.arguments import CLUSTER, declare

ARGUMENTS: dict[str, dict[str, Any]] = {**CLUSTER, "page": {"type": "path", "default": ""}}
SPECIFICATION: dict[str, Any] = {"argument_spec": ARGUMENTS}


def main() -> None:
    declare(SPECIFICATION)


if __name__ == "__main__":
    main()
