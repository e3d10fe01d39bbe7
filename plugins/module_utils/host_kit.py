# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How a module of the collection has the kit on its host do the work.

A module knows its arguments and nothing else. It hands them, as JSON, to ``hermes-ops module NAME`` of the very kit
that the controller has, which lies on the host in a directory named by its hash. So Ansible sends the arguments only,
and what converges a host is what runs on it at night. plugins/action/kit.py sends the kit to a host that lacks it.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
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
sys.exit(main())
"""
# Characters of what a kit that broke down said.
_WORDS = 4000

# Beside doc_fragments/gateways.py, which documents them.
GATEWAYS_ARGUMENTS: dict[str, dict[str, Any]] = {
    "profiles": {"type": "list", "elements": "dict", "required": True},
    "scope": {"type": "str", "choices": ["system", "user"], "default": "system"},
}
# Beside doc_fragments/places.py.
PLACES_ARGUMENTS: dict[str, dict[str, Any]] = {
    "ops_dir": {"type": "path", "required": True},
    "root": {"type": "path", "default": "/opt/hermes"},
}
# Beside doc_fragments/units.py.
UNITS_ARGUMENTS: dict[str, dict[str, Any]] = {
    "root": {"type": "path", "default": "/opt/hermes"},
    "restart_sec": {"type": "int", "default": 10},
    "restart_max_delay_sec": {"type": "int", "default": 300},
}
# What plugins/action/kit.py adds: where this version of the kit lies on hosts, and the file it was sent as, if it was.
_ACTION_ARGUMENTS: dict[str, dict[str, Any]] = {"_kit": {"type": "path"}, "_sent": {"type": "path"}}


class Module(AnsibleModule):
    """A module that tells the host's journal nothing.

    Ansible hides what is marked with no_log there, but misses a secret within a list that needs escapes; and its
    own switch for all of it (the constructor's no_log) is overwritten by what the task says.
    """

    def _log_invocation(self) -> None:
        pass


def ask(arguments: dict[str, dict[str, Any]], *, hidden: str | None = None, **options: Any) -> None:
    """Be the module that the running file is named for: leave with what the host's kit answers.

    :param arguments: the module's specification
    :param hidden: an option of it whose texts are secret, and whose numbers are not: Ansible would blot out every 1
        and every 2 of the answer
    :param options: further arguments of AnsibleModule, e.g. ``mutually_exclusive``
    """
    module = Module(argument_spec={**arguments, **_ACTION_ARGUMENTS}, supports_check_mode=True, **options)
    if hidden:
        module.no_log_values = set(filter(None, _texts(module.params[hidden])))
    place, sent = (module.params.pop(name) for name in _ACTION_ARGUMENTS)
    if not place:
        module.fail_json(msg="is run by its action plugin only (plugins/action/kit.py)", invocation={})
    if not sent and not is_whole(place):
        module.exit_json(changed=False, kit_is_missing=True, invocation={})
    call = {
        "params": module.params,
        "check_mode": module.check_mode,
        "diff_mode": module._diff,
        "place": place,
    }
    answer = answer_of(sent or place, module._name.rpartition(".")[2], call)
    for text in answer.pop("warnings", []):
        module.warn(text)
    (module.fail_json if answer.get("failed") else module.exit_json)(**answer)


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
        answer = json.loads(process.stdout)
    except ValueError:
        words = process.stderr.decode("utf-8", "replace")[-_WORDS:].strip()
        msg = f"{kit}: ended with status {process.returncode} and no answer: {words}. "
        return {"failed": True, "msg": f"{msg}Fix: remove {kit}, and run again; it is sent anew", "invocation": {}}
    return answer


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


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, (dict, list)):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _texts(part)
