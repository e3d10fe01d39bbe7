# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Documentation of the action tenants_exec, which works on the controller: plugins/action/tenants_exec.py."""

from __future__ import annotations

DOCUMENTATION = r"""
module: tenants_exec
short_description: Ask the agents of tenants on Kubernetes
version_added: 0.1.0
author:
  - The alwayson.hermes authors (@alwayson-hermes)
description:
  - Runs the kit in the pods of tenants, by exec through the API server, beside their agents; eight tenants at a time.
  - Texts are handed over on standard input, and are on no command line. Output is bounded, and shown without characters
    that act on a terminal. A file has the mode 0600, and its name once it is whole and was verified.
  - If O(restic) has a repository, C(backup) also makes a snapshot there of each archive, and removes older ones.
  - An error of one tenant is no other's. The task fails at its end if there was one.
  - Runs on the controller, whose login has to have the right to create C(pods/exec).
extends_documentation_fragment:
  - alwayson.hermes.cluster
  - alwayson.hermes.restic
attributes:
  check_mode:
    support: full
    description: C(memory) searches; C(tell) says what would be sent; of the others it is said what would be fetched.
  diff_mode:
    support: none
    description: Nothing declared changes.
  idempotent:
    support: none
    description: Each run asks again.
options:
  command:
    description: >-
      What is asked. C(memory) searches memories, context and conversations; C(tell) gives the agent context, and waits
      for its answer; C(debug) fetches a bundle for triage, without secrets; C(backup) fetches an archive of the home,
      in the form of those of a host.
    type: str
    choices: [memory, tell, debug, backup]
    required: true
  tenants:
    description: The tenants by name; without any, all that are there.
    type: list
    elements: str
    default: []
  text:
    description: For C(memory), the words to search for; for C(tell), what is told.
    type: str
    default: ""
  topic:
    description: For C(tell), what it is about.
    type: str
    default: ""
  webhook:
    description: For C(tell), the subscription that is called.
    type: str
    default: claude-context
  timeout:
    description: For C(tell), the seconds that the agent may take.
    type: float
    default: 300
  limit:
    description: For C(memory), the maximum number of results of each kind.
    type: int
    default: 10
  directory:
    description: For C(debug) and C(backup), where the files go on the controller. It is made if it is not there.
    type: path
    default: .
seealso:
  - module: alwayson.hermes.tenants
  - module: alwayson.hermes.tenants_status
"""

EXAMPLES = r"""
- name: Fetch an archive of each tenant's home
  alwayson.hermes.tenants_exec:
    command: backup
    directory: hermes-backups

- name: What does one of them know of zebras?
  alwayson.hermes.tenants_exec:
    command: memory
    tenants: [acme]
    text: zebra
"""

RETURN = r"""
lines:
  description: What the tenants answered, by name.
  returned: always
  type: dict
paths:
  description: The files that came from them, by name.
  returned: always
  type: dict
errors:
  description: Why there is no answer, or what is wrong with it, by name.
  returned: always
  type: dict
"""

from typing import Any

from ansible_collections.alwayson.hermes.plugins.module_utils.arguments import CLUSTER, RESTIC, declare

SPECIFICATION: dict[str, Any] = {
    "argument_spec": {
        **CLUSTER,
        **RESTIC,
        "command": {"type": "str", "choices": ["memory", "tell", "debug", "backup"], "required": True},
        "tenants": {"type": "list", "elements": "str", "default": []},
        "text": {"type": "str", "default": ""},
        "topic": {"type": "str", "default": ""},
        "webhook": {"type": "str", "default": "claude-context"},
        "timeout": {"type": "float", "default": 300},
        "limit": {"type": "int", "default": 10},
        "directory": {"type": "path", "default": "."},
    }
}


def main() -> None:
    declare(SPECIFICATION)


if __name__ == "__main__":
    main()
