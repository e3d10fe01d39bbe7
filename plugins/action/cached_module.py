# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How the collection's modules run: from what the host kept of an earlier run where that is this very code.

``meta/runtime.yml`` names this action for each of them. Most of what a module run costs is to pack the module with all
that it imports, once for each module of a play, to send that, and to compile it on the host. Where the host kept it
(module_utils/module_cache.py), plugins/modules/cached_module.py is sent instead, with the arguments.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from ansible import constants
from ansible.plugins.action.normal import ActionModule as NormalAction
from ansible.release import __version__ as ansible_version
from ansible_collections.alwayson.hermes.plugins.module_utils.module_cache import CACHE, VARIABLE

PLUGINS = Path(__file__).resolve().parent.parent


class ActionModule(NormalAction):
    """What Ansible does for any module, but for a look into the host's cache before."""

    def _execute_module(
        self,
        module_name: str | None = None,
        module_args: dict[str, Any] | None = None,
        task_vars: dict[str, Any] | None = None,
        wrap_async: bool = False,
        **options: Any,
    ) -> dict[str, Any]:
        tree = f"{CACHE}/{fingerprint(PLUGINS)}"
        module = self._shared_loader_obj.module_loader.find_plugin_with_context(
            self._task.action, collection_list=self._task.collections
        )
        kept = Kept(self._task.delegate_to or (task_vars or {}).get("inventory_hostname", ""))
        # Who asks to keep the files wants to see what Ansible sends.
        if not wrap_async and not constants.DEFAULT_KEEP_REMOTE_FILES and kept.may_have(module.resolved_fqcn):
            answer = super()._execute_module(
                "alwayson.hermes.cached_module",
                {"tree": tree, "module": module.resolved_fqcn, "arguments": module_args or self._task.args},
                task_vars=task_vars,
            )
            if answer.get("cached") is not False:
                return answer
        environment = self._task.environment
        if not (task_vars or {}).get("ansible_check_mode"):
            self._task.environment = [*environment, {VARIABLE: tree}]
            kept.add(module.resolved_fqcn)
        else:
            kept.add()
        try:
            return super()._execute_module(
                module_name, module_args, task_vars=task_vars, wrap_async=wrap_async, **options
            )
        finally:
            self._task.environment = environment


class Kept:
    """What a host that lacked a module is known to have since: it is not asked for each of the others in vain.

    Known to all tasks of a run, which are processes of their own: a file in Ansible's directory for the run.
    """

    def __init__(self, host: str) -> None:
        name = hashlib.sha256(host.encode()).hexdigest()
        self._file = Path(constants.DEFAULT_LOCAL_TMP, f"hermes-ops-{name}")

    def may_have(self, module: str) -> bool:
        return not self._file.exists() or module in self._file.read_text().split()

    def add(self, *modules: str) -> None:
        with self._file.open("a") as stream:
            stream.writelines(f"{module}\n" for module in modules)


def fingerprint(plugins: Path) -> str:
    """Names the code that hosts are sent from here: another one when a file of ours differs, or Ansible.

    :param plugins: the collection's directory ``plugins``
    :returns: 32 hexadecimal digits
    """
    digest = hashlib.sha256(ansible_version.encode())
    for path in sorted((*plugins.glob("modules/*.py"), *plugins.glob("module_utils/**/*.py"))):
        digest.update(f"\0{path.relative_to(plugins)}\0".encode() + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:32]
