#!/usr/bin/python
# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Module host_kit, sent to a host in place of the collection's modules: see plugins/action/host_kit.py."""

from __future__ import annotations

DOCUMENTATION = r"""
module: host_kit
short_description: Have the kit on the host do the work of a module
version_added: 0.1.0
author:
  - The alwayson.hermes authors (@alwayson-hermes)
description:
  - The collection's modules call this one. No task needs it.
  - Refuses to work as another user than root.
  - Hands the arguments of a module, as JSON, to C(hermes-ops module) of the same kit that the controller has. On the
    host that kit is in a directory named by its hash. So Ansible sends only arguments, and the code that converges a
    host also runs on it at night.
  - If the host lacks that kit, it is sent with the module, for this one run, in Ansible's temporary directory.
    The module M(alwayson.hermes.kit) installs it permanently.
attributes:
  check_mode:
    support: full
    description: As for the module that is run.
  diff_mode:
    support: full
    description: As for the module that is run.
  idempotent:
    support: full
    description: As for the module that is run.
options:
  name:
    description: Name of the module.
    type: str
    required: true
  arguments:
    description: Its arguments, already checked.
    type: dict
    required: true
  secrets:
    description: The texts in O(arguments) that no output may show.
    type: list
    elements: str
    default: []
  place:
    description: Directory of the kit on hosts.
    type: path
    required: true
  sent:
    description: The archive with the kit, if it had to be sent.
    type: path
requirements:
  - Python >= 3.9 on the host
"""

EXAMPLES = r"""
- name: This is what a task of the module logs becomes
  alwayson.hermes.host_kit:
    name: logs
    arguments:
      agents: []
    place: /usr/local/lib/hermes-ops/5cd7cb0b84d6ff6f
"""

RETURN = r"""
missing:
  description: V(true) if the host lacks the kit, and nothing was done. Otherwise the module's own values are returned.
  returned: when the host lacks the kit
  type: bool
  sample: true
"""

import hashlib
import json
import os
import pwd
import subprocess
import sys
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

DIRECTORY = "/usr/local/lib/hermes-ops"
# Hexadecimal digits of a version's name.
DIGITS = 16
# This interpreter also runs the kit at night, with Debian's PyYAML. A bare host may have only another one.
INTERPRETER = "/usr/bin/python3"
# With -I neither the environment nor the working directory affects imports.
_START = """\
import sys
sys.path.insert(0, sys.argv.pop(1))
from hermes_ops.cli import main
raise SystemExit(main())
"""
# Characters of stderr that are shown after a kit failed without an answer.
_WORDS = 4000

ARGUMENTS: dict[str, dict[str, Any]] = {
    "name": {"type": "str", "required": True},
    "arguments": {"type": "dict", "required": True},
    "secrets": {"type": "list", "elements": "str", "default": [], "no_log": True},
    "place": {"type": "path", "required": True},
    "sent": {"type": "path"},
}


class Module(AnsibleModule):
    """Does not log its arguments to the host's journal: Ansible does not mask a secret in a list that needs escapes."""

    def _log_invocation(self) -> None:
        pass


def is_whole(place: str) -> bool:
    """Whether *place*, a directory named by its version, holds that kit, complete and unchanged."""
    return version_of(place) == os.path.basename(place)


def version_of(directory: str) -> str:
    """The version of the kit in *directory*, which has the package ``hermes_ops``: a hash of its sources."""
    digest = hashlib.sha256()
    for path in sorted(Path(directory, "hermes_ops").glob("**/*.py")):
        data = path.read_bytes()
        digest.update(f"{path.relative_to(directory)}\0{len(data)}\0".encode())
        digest.update(data)
    return digest.hexdigest()[:DIGITS]


def is_root() -> bool:
    return os.geteuid() == 0


def answer_of(kit: str, name: str, call: dict[str, Any]) -> dict[str, Any]:
    """Run the module *name* and return its answer.

    :param kit: a directory or an archive with the package ``hermes_ops``
    :param call: see ``hermes_ops.modules.call.Call``; it may hold secrets, so it is passed through standard input
    """
    interpreter = INTERPRETER if os.path.exists(INTERPRETER) else sys.executable
    process = subprocess.run(
        [interpreter, "-I", "-c", _START, kit, "module", name],
        input=json.dumps(call).encode(),
        capture_output=True,
        check=False,
    )
    try:
        return json.loads(process.stdout)
    except ValueError:
        words = process.stderr.decode("utf-8", "replace")[-_WORDS:].strip()
        msg = f"{kit}: ended with status {process.returncode} and no answer: {words}. "
        return {"failed": True, "msg": f"{msg}Fix: remove {kit}, and run again; it will be sent again"}


def main() -> None:
    module = Module(ARGUMENTS, supports_check_mode=True)
    params = module.params
    # Ansible must not show the arguments; the kit's answer includes those that may be shown.
    nothing = {"module_args": {}}
    if not is_root():
        user = pwd.getpwuid(os.geteuid()).pw_name
        module.fail_json(
            f"not root: Ansible works as {user} here. Fix: let it become root (take become: false, ansible_become and "
            "become_user away), and allow the user who logs in to use sudo",
            invocation=nothing,
        )
    if not params["sent"] and not is_whole(params["place"]):
        module.exit_json(changed=False, missing=True, invocation=nothing)
    call = {
        "params": params["arguments"],
        "check_mode": module.check_mode,
        "diff_mode": module._diff,
        "place": params["place"],
    }
    answer = answer_of(params["sent"] or params["place"], params["name"], call)
    for text in answer.pop("warnings", []):
        module.warn(text)
    (module.fail_json if answer.get("failed") else module.exit_json)(**{"invocation": nothing, **answer})


if __name__ == "__main__":
    main()
