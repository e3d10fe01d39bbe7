#!/usr/bin/python
# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Module host_kit: the one that Ansible sends for all that work on a host; see plugins/action/host_kit.py."""

from __future__ import annotations

DOCUMENTATION = r"""
module: host_kit
short_description: Have the kit on the host do the work of a module
version_added: 0.1.0
author:
  - The alwayson.hermes authors (@alwayson-hermes)
description:
  - The collection's modules call this one by themselves. No task needs it.
  - Hands the arguments of a module, as JSON, to C(hermes-ops module) of the very kit that the controller has, which
    lies on the host in a directory named by its hash. So Ansible sends arguments only, and what converges a host is
    what runs on it at night.
  - A host that lacks that kit is sent it along with the module, for this one run, in Ansible's temporary directory.
    The module M(alwayson.hermes.kit) puts it down for good.
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
  name:
    description: The module.
    type: str
    required: true
  arguments:
    description: Its arguments, checked.
    type: dict
    required: true
  secrets:
    description: The texts among them that no output may show.
    type: list
    elements: str
    default: []
  place:
    description: Where the kit lies on hosts.
    type: path
    required: true
  sent:
    description: The archive that the kit was sent as, where it does not lie there.
    type: path
requirements:
  - Python >= 3.9 on the host
"""

EXAMPLES = r"""
- name: What a task of the module logs becomes
  alwayson.hermes.host_kit:
    name: logs
    arguments:
      agents: []
    place: /usr/local/lib/hermes-ops/5cd7cb0b84d6ff6f
"""

RETURN = r"""
missing:
  description: V(true) when the host lacks the kit, and nothing was done. Else there is what the module returns.
  returned: when the host lacks the kit
  type: bool
  sample: true
"""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

DIRECTORY = "/usr/local/lib/hermes-ops"
# Hexadecimal digits of a version's name.
DIGITS = 16
# The one that also runs the kit at night, with Debian's PyYAML. A host that is still bare may have another one only.
INTERPRETER = "/usr/bin/python3"
# With -I neither the environment nor the working directory decides what is imported.
_START = """\
import sys
sys.path.insert(0, sys.argv.pop(1))
from hermes_ops.cli import main
raise SystemExit(main())
"""
# Characters of what a kit that broke down said.
_WORDS = 4000

ARGUMENTS: dict[str, dict[str, Any]] = {
    "name": {"type": "str", "required": True},
    "arguments": {"type": "dict", "required": True},
    "secrets": {"type": "list", "elements": "str", "default": [], "no_log": True},
    "place": {"type": "path", "required": True},
    "sent": {"type": "path"},
}


class Module(AnsibleModule):
    """A module that tells the host's journal nothing: Ansible misses a secret within a list that needs escapes."""

    def _log_invocation(self) -> None:
        pass


def is_whole(place: str) -> bool:
    """Whether the kit lies in *place*, a directory named by its version, as it was sent."""
    return version_of(place) == os.path.basename(place)


def version_of(directory: str) -> str:
    """The name of the version of the kit whose package ``hermes_ops`` lies in *directory*: a hash of its sources."""
    digest = hashlib.sha256()
    for path in sorted(Path(directory, "hermes_ops").glob("**/*.py")):
        data = path.read_bytes()
        digest.update(f"{path.relative_to(directory)}\0{len(data)}\0".encode())
        digest.update(data)
    return digest.hexdigest()[:DIGITS]


def answer_of(kit: str, name: str, call: dict[str, Any]) -> dict[str, Any]:
    """What the module *name* returns.

    :param kit: a directory or an archive with the package ``hermes_ops``
    :param call: see ``hermes_ops.modules.call.Call``; may hold secrets, and goes by standard input
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
        return {"failed": True, "msg": f"{msg}Fix: remove {kit}, and run again; it is sent anew"}


def main() -> None:
    module = Module(ARGUMENTS, supports_check_mode=True)
    params = module.params
    # What the kit answers says itself what may be shown of the arguments.
    nothing = {"module_args": {}}
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
