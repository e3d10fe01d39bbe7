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
  - If the host lacks that kit, it is sent with the module, and kept below C(/run) for the modules that follow.
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
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

DIRECTORY = "/usr/local/lib/hermes-ops"
# Kits that were sent to hosts which lack them. Check mode puts them here as well, so they outlive no boot.
PASSING = "/run/hermes-ops-kit"
# Seconds for which such a kit may be in use.
_PASSING_AGE = 3600.0
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


def kit_of(place: str, sent: str | None) -> str | None:
    """The directory of the kit for *place*: this one, or one that was sent earlier in the run.

    :param sent: the archive with the kit, which is unpacked if both lack it
    :returns: None if there is no kit
    """
    passing = os.path.join(PASSING, os.path.basename(place))
    if is_whole(place):
        _remove_unused()
        return place
    if is_whole(passing):
        return passing
    return _unpacked(sent, passing) if sent else None


def _unpacked(sent: str, passing: str) -> str:
    """Unpack the archive *sent* as *passing*, which appears whole: another run may look for it."""
    os.makedirs(PASSING, mode=0o755, exist_ok=True)
    unfinished = tempfile.mkdtemp(dir=PASSING)
    try:
        with zipfile.ZipFile(sent) as archive:
            archive.extractall(unfinished)
        os.chmod(unfinished, 0o755)
        # One that is there was changed by hand.
        shutil.rmtree(passing, ignore_errors=True)
        try:
            os.rename(unfinished, passing)
        except OSError:
            # Another run was faster.
            if not is_whole(passing):
                raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return passing


def _remove_unused() -> None:
    """Remove kits in PASSING, except those from which a run may still import."""
    with suppress(FileNotFoundError):
        for entry in os.scandir(PASSING):
            if time.time() - entry.stat(follow_symlinks=False).st_mtime > _PASSING_AGE:
                shutil.rmtree(entry.path, ignore_errors=True)


def is_root() -> bool:
    return os.geteuid() == 0


def answer_of(kit: str, name: str, call: dict[str, Any]) -> dict[str, Any]:
    """Run the module *name* and return its answer.

    :param kit: a directory with the package ``hermes_ops``
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
    try:
        kit = kit_of(params["place"], params["sent"])
    except OSError as error:
        module.fail_json(f"{PASSING}: the kit cannot be unpacked: {error}. Fix: make room in /run", invocation=nothing)
    if kit is None:
        module.exit_json(changed=False, missing=True, invocation=nothing)
    call = {
        "params": params["arguments"],
        "check_mode": module.check_mode,
        "diff_mode": module._diff,
        "place": params["place"],
    }
    answer = answer_of(kit, params["name"], call)
    for text in answer.pop("warnings", []):
        module.warn(text)
    (module.fail_json if answer.get("failed") else module.exit_json)(**{"invocation": nothing, **answer})


if __name__ == "__main__":
    main()
