#!/usr/bin/python
# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Module profile; the work is done in hermes_ops.agent."""

from __future__ import annotations

DOCUMENTATION = r"""
module: profile
short_description: The home of an agent and its persona
version_added: 0.1.0
author:
  - The alwayson.hermes authors (@alwayson-hermes)
description:
  - Makes the home of an agent with the directories that Hermes expects, and puts modes and owners right where
    Hermes, or a C(sudo hermes), left them wrong.
  - C(SOUL.md) stays as declared. C(USER.md) and C(MEMORY.md) are written once and belong to the agent afterwards.
extends_documentation_fragment:
  - alwayson.hermes.profile
attributes:
  check_mode:
    support: full
    description: Can run in check mode and tells what would be changed.
  diff_mode:
    support: full
    description: Shows the texts.
  idempotent:
    support: full
    description: A second run changes nothing.
options:
  state:
    description:
      - V(absent) removes the home with all its data, and what is remembered of the agent. It is refused while a
        gateway runs on it, and where the home holds profiles of Hermes.
    type: str
    choices: [present, absent]
    default: present
  managed_dir:
    description: Directory of the agent's managed scope, which O(state=absent) removes too.
    type: path
  directory:
    description: The agent's own directory, in which the home usually lies, and which O(state=absent) removes too.
    type: path
  soul:
    description: Content of C(SOUL.md). Without it the file is the agent's.
    type: str
  user_profile:
    description: What C(memories/USER.md) starts with, at most 1375 characters. An existing file is left as it is.
    type: str
  memory:
    description: What C(memories/MEMORY.md) starts with, at most 2200 characters. An existing file is left as it is.
    type: str
"""

EXAMPLES = r"""
- name: The agent has its persona
  alwayson.hermes.profile:
    profile: default
    home: /var/lib/hermes/agents/default/.hermes
    owner: hermes-default
    ops_dir: /var/lib/hermes/ops
    soul: |
      You are terse, kind and exact.
    user_profile: |
      The user is called Ada and lives in London.
"""

RETURN = r"""
home:
  description: The agent's home.
  returned: always
  type: str
  sample: /var/lib/hermes/agents/default/.hermes
"""

import os
import shutil
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.alwayson.hermes.plugins.module_utils.agent_home import converge, home_owner_of
from ansible_collections.alwayson.hermes.plugins.module_utils.common import PROFILE_ARGUMENTS, run_module
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.agent import removal
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.agent.converge import AgentHome, Home
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.description.declaration import (
    PROFILES_DIRECTORY,
)
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.host.records import Records
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.errors import OpsError
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.files import Owner
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.plan import Difference, Plan, diff

ARGUMENTS: dict[str, dict[str, Any]] = {
    **PROFILE_ARGUMENTS,
    "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
    "managed_dir": {"type": "path"},
    "directory": {"type": "path"},
    "soul": {"type": "str"},
    "user_profile": {"type": "str"},
    "memory": {"type": "str"},
}


def work(module: AnsibleModule) -> dict[str, Any]:
    params = module.params
    name, home = params["profile"], params["home"]
    if params["state"] == "absent":
        plan = plan_absent(module, name, home)
        differences = plan.differences
        if not module.check_mode:
            plan.apply()
    else:
        # Of Hermes' profiles in an adopted home each may be another agent's.
        declared = Home(params["soul"], params["user_profile"], params["memory"], (PROFILES_DIRECTORY,))
        differences = converge(module, AgentHome(home=declared)).parts["home"].differences
    return {"changed": bool(differences), "diff": diff(differences, os.path.join(home, "")), "home": home}


def plan_absent(module: AnsibleModule, name: str, home: str) -> Plan:
    # Of an agent that never was, neither data nor user are there.
    there = [path for path in (home, module.params["directory"]) if path and os.path.lexists(path)]
    owner = home_owner_of(module) if there else Owner.current()
    pid = removal.running(home, owner)
    if pid and not module.check_mode:
        raise OpsError(f"a gateway (pid {pid}) runs on it", where=home, fix="stop it first")
    removal.refuse_profiles(home, owner)
    plan = Plan()
    for path in there:
        plan.add(Difference(path, "present", None), lambda path=path: removal.remove(path, owner))
    records = Records(module.params["ops_dir"], name)
    if records.exist():
        plan.add(Difference(records.directory, "present", None), records.remove)
    managed = module.params["managed_dir"]
    if managed and os.path.isdir(managed):
        plan.add(Difference(managed, "present", None), lambda: shutil.rmtree(managed))
    return plan


def main() -> None:
    run_module(ARGUMENTS, work)


if __name__ == "__main__":
    main()
