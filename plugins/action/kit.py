# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How the collection's modules run: by the kit on the host (plugins/module_utils/host_kit.py).

``meta/runtime.yml`` names this action for each of them. A host that lacks the controller's kit is sent it along with
the module, for this one run, in Ansible's temporary directory. For good it is put down by the module kit.
"""

from __future__ import annotations

import os
import tempfile
import zipfile
from pathlib import Path
from typing import Any

from ansible import constants
from ansible.plugins.action import ActionBase
from ansible_collections.alwayson.hermes.plugins.module_utils.host_kit import DIRECTORY, version_of

# The directory in which the package hermes_ops lies here.
SOURCES = Path(__file__).resolve().parent.parent / "module_utils"


class ActionModule(ActionBase):
    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result = super().run(tmp, task_vars)
        version = version_of(str(SOURCES))
        arguments = {**self._task.args, "_kit": f"{DIRECTORY}/{version}"}
        answer = self._execute_module(module_args=arguments, task_vars=task_vars)
        if answer.get("kit_is_missing"):
            arguments["_sent"] = self._send(archive(version))
            answer = self._execute_module(module_args=arguments, task_vars=task_vars)
        return {**result, **answer}

    def _send(self, path: str) -> str:
        """Have the file *path* on the host until the task has ended."""
        shell = self._connection._shell
        if not shell.tmpdir:
            self._make_tmp_path()
        there = shell.join_path(shell.tmpdir, "hermes-ops.zip")
        self._transfer_file(path, there)
        self._fixup_perms2((shell.tmpdir, there), execute=False)
        return there


def archive(version: str) -> str:
    """The kit as a file, from which Python can import; made once in a run of Ansible."""
    path = os.path.join(constants.DEFAULT_LOCAL_TMP, f"hermes-ops-{version}.zip")
    if not os.path.exists(path):
        # Each host's task is a process of its own.
        handle, unfinished = tempfile.mkstemp(dir=constants.DEFAULT_LOCAL_TMP)
        with open(handle, "wb") as stream, zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as kit:
            for source in sorted(SOURCES.glob("hermes_ops/**/*.py")):
                kit.write(source, source.relative_to(SOURCES))
        os.rename(unfinished, path)
    return path
