# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Documentation of the action tenants_capacity, which works on the controller: plugins/action/tenants_capacity.py."""

from __future__ import annotations

DOCUMENTATION = r"""
module: tenants_capacity
short_description: How many workers tenants take, and what they cost
version_added: 0.1.0
author:
  - The alwayson.hermes authors (@alwayson-hermes)
description:
  - Computes, for each type of worker, how many tenants fit on one, how many workers that makes, and what they cost a
    month. Prints a table, the cheapest first.
  - Asks no cluster and no provider.
options:
  tenants:
    description: How many.
    type: int
    required: true
  requests:
    description: What a tenant is given of a worker.
    type: dict
    suboptions:
      cpu:
        description: Cores.
        type: str
        default: 100m
      memory:
        description: Bytes.
        type: str
        default: 256Mi
  workers:
    description: Types of machines.
    type: list
    elements: dict
    required: true
    suboptions:
      type:
        description: The provider's name of it.
        type: str
        required: true
      cpu:
        description: Cores that pods may request, C(allocatable) in C(kubectl describe node).
        type: str
        required: true
      memory:
        description: Bytes that pods may request.
        type: str
        required: true
      price:
        description: Of one a month.
        type: float
        required: true
      pods:
        description: Pods that one may have.
        type: int
        default: 110
      disk:
        description: For volumes, where the workers keep them.
        type: str
        default: "0"
  priced:
    description: The date of the prices, which is printed beside them.
    type: str
    required: true
  storage:
    description:
      - What a tenant takes of the disks of workers, with all copies. A volume of 5 GiB that Longhorn has twice is
        V(10Gi), or V(2Gi) if Longhorn may promise five times what is there.
      - V(0) if volumes are elsewhere.
    type: str
    default: "0"
  spare:
    description: Workers that may be lost, and all tenants still have room.
    type: int
    default: 1
  reserved:
    description: What pods of others request on each worker, such as those of the storage.
    type: dict
    suboptions:
      cpu:
        description: Cores.
        type: str
        default: "0"
      memory:
        description: Bytes.
        type: str
        default: "0"
  base:
    description: What is there once costs a month, such as servers and a load balancer.
    type: float
    default: 0
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
seealso:
  - module: alwayson.hermes.tenants
"""

EXAMPLES = r"""
- name: A thousand tenants
  alwayson.hermes.tenants_capacity:
    tenants: 1000
    workers:
      - {type: cx33, cpu: 3900m, memory: 7400Mi, price: 6.49}
    priced: "2026-04-15"
    base: 20
"""

RETURN = r"""
offers:
  description: Each type of worker on which a tenant fits, the cheapest first.
  returned: success
  type: list
  elements: dict
  contains:
    type:
      description: The type of worker.
      type: str
    fits:
      description: Tenants on one.
      type: int
    workers:
      description: How many, with those to spare.
      type: int
    price:
      description: Of all a month.
      type: float
"""

from typing import Any

from ansible_collections.alwayson.hermes.plugins.module_utils.arguments import amounts, declare

SPECIFICATION: dict[str, Any] = {
    "argument_spec": {
        "tenants": {"type": "int", "required": True},
        "requests": amounts("100m", "256Mi"),
        "workers": {
            "type": "list",
            "elements": "dict",
            "required": True,
            "options": {
                "type": {"type": "str", "required": True},
                "cpu": {"type": "str", "required": True},
                "memory": {"type": "str", "required": True},
                "price": {"type": "float", "required": True},
                "pods": {"type": "int", "default": 110},
                "disk": {"type": "str", "default": "0"},
            },
        },
        "priced": {"type": "str", "required": True},
        "storage": {"type": "str", "default": "0"},
        "spare": {"type": "int", "default": 1},
        "reserved": amounts("0", "0"),
        "base": {"type": "float", "default": 0},
    }
}


def main() -> None:
    declare(SPECIFICATION)


if __name__ == "__main__":
    main()
