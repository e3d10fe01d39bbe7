#!/usr/bin/python
# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs another module of the collection from what the host kept of it; called by plugins/action/cached_module.py.

Imports nothing of Ansible's and takes its arguments as text, so that Ansible sends this file and nothing else.
"""

from __future__ import annotations

DOCUMENTATION = r"""
module: cached_module
short_description: Run a module of this collection from what the host kept of it
version_added: 0.1.0
author:
  - The alwayson.hermes authors (@alwayson-hermes)
description:
  - The collection's modules call this one by themselves. No task needs it.
  - A host keeps the modules that it was sent in C(/run/hermes-ops/modules) until it reboots. Where it has the very
    code that the controller has, it is sent the arguments only, with pipelining and without.
  - A run in check mode keeps nothing. Nothing is taken from there while Ansible is told to keep remote files.
attributes:
  check_mode:
    support: full
    description: As the module that is run.
  diff_mode:
    support: full
    description: As the module that is run.
  idempotent:
    support: full
    description: As the module that is run.
options:
  tree:
    description: Directory in which one version of the code is kept.
    type: path
    required: true
  module:
    description: Full name of the module.
    type: str
    required: true
  arguments:
    description: Its arguments.
    type: dict
    required: true
"""

EXAMPLES = r"""
- name: What a task of the module logs becomes, where the host kept that module
  alwayson.hermes.cached_module:
    tree: /run/hermes-ops/modules/5cd7cb0b84d6ff6f1ffcb5ae90a7d7b2
    module: alwayson.hermes.logs
    arguments:
      profiles: []
      owner: hermes
"""

RETURN = r"""
cached:
  description: V(false) when the host has no such code, and nothing was done. Else there is what the module returns.
  returned: when the host has no such code
  type: bool
  sample: false
"""

import fcntl
import importlib
import io
import json
import os
import runpy
import sys

# By <<INCLUDE_ANSIBLE_MODULE_JSON_ARGS>> Ansible sees that it is to fill in the arguments, there and here.
REQUEST = "<<INCLUDE_ANSIBLE_MODULE_COMPLEX_ARGS>>"

ARGUMENTS = {
    "tree": {"type": "path", "required": True},
    "module": {"type": "str", "required": True},
    "arguments": {"type": "dict", "required": True},
}


def main() -> None:
    try:
        request = json.loads(REQUEST)
    except ValueError:
        # Nobody filled them in: ansible-test, which wants to know what they are.
        importlib.import_module("ansible.module_utils.basic").AnsibleModule(ARGUMENTS, supports_check_mode=True)
        raise
    tree, name, arguments = (request.pop(key) for key in ARGUMENTS)
    module = "ansible_collections.{}.{}.plugins.modules.{}".format(*name.split("."))
    if not os.path.exists(os.path.join(tree, module.replace(".", "/") + ".py")):
        sys.stdout.write(json.dumps({"cached": False}))
        return
    # Held until we end: nobody removes the tree.
    fcntl.flock(os.open(tree, os.O_RDONLY), fcntl.LOCK_SH)
    # What is left of the request are Ansible's own words to any module: check mode, diff, verbosity, …
    arguments = {**request, **arguments, "_ansible_module_name": name}
    sys.stdin = io.TextIOWrapper(io.BytesIO(json.dumps({"ANSIBLE_MODULE_ARGS": arguments}).encode()))
    sys.path.insert(0, tree)
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
