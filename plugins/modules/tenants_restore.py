# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Documentation of the action tenants_restore, which works on the controller: plugins/action/tenants_restore.py."""

from __future__ import annotations

DOCUMENTATION = r"""
module: tenants_restore
short_description: Restore the home of a tenant's agent on Kubernetes
version_added: 0.1.0
author:
  - The alwayson.hermes authors (@alwayson-hermes)
description:
  - Stops the agent of a tenant, has a pod that does nothing take its volume, runs the kit in that, and starts the agent
    again. It need not work before.
  - The home until now is set aside on the volume, where one is kept; without an archive it is the home again.
  - A home that has learnt something since the backup is left as it is, unless O(force).
  - If this is killed, the next run of it or of M(alwayson.hermes.tenants) starts the agent.
  - Runs on the controller, whose login has to have the right to create, patch and delete C(pods), and to create
    C(pods/exec).
extends_documentation_fragment:
  - alwayson.hermes.cluster
  - alwayson.hermes.restic
attributes:
  check_mode:
    support: full
    description: Verifies the archive, and says what would be done.
  diff_mode:
    support: none
    description: Nothing declared changes.
  idempotent:
    support: none
    description: Each run restores again.
options:
  tenant:
    description: The tenant by name.
    type: str
    required: true
  archive:
    description:
      - An archive of a home on the controller, of a tenant or of a host's agent.
      - Without one and without O(snapshot), the home is again the one before the last restore, and the present
        one takes its place.
    type: path
    default: ""
  snapshot:
    description: >-
      In place of O(archive), a snapshot in the repository of O(restic) by its id; V(latest) is the newest of this
      tenant.
    type: str
    default: ""
  directory:
    description: That of M(alwayson.hermes.tenants_exec), where stands what is to be remembered of the repository.
    type: path
    default: .
  force:
    description: Restore even if the home has learnt something since the backup.
    type: bool
    default: false
  wait:
    description: Seconds for the pods to be ready.
    type: float
    default: 300
seealso:
  - module: alwayson.hermes.tenants
  - module: alwayson.hermes.tenants_exec
"""

EXAMPLES = r"""
- name: Restore the home of a tenant's agent
  alwayson.hermes.tenants_restore:
    tenant: acme
    archive: hermes-backups/acme-20261123T100000Z.tar.gz
"""

RETURN = r"""
lines:
  description: What was restored, or would be.
  returned: success
  type: list
  elements: str
"""

from typing import Any

from ansible_collections.alwayson.hermes.plugins.module_utils.arguments import CLUSTER, RESTIC, declare

SPECIFICATION: dict[str, Any] = {
    "argument_spec": {
        **CLUSTER,
        **RESTIC,
        "tenant": {"type": "str", "required": True},
        "archive": {"type": "path", "default": ""},
        "snapshot": {"type": "str", "default": ""},
        "directory": {"type": "path", "default": "."},
        "force": {"type": "bool", "default": False},
        "wait": {"type": "float", "default": 300},
    },
}


def main() -> None:
    declare(SPECIFICATION)


if __name__ == "__main__":
    main()
