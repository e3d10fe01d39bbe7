# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""No program runs as an agent's user outside of its confinement, except those that are listed here.

A process of the agent's user that executed a program can be traced and changed by the agent, which reaches through it
(``/proc/PID/root``) whatever its sandbox hides. Workers are safe (test_worker.py): they start nothing.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system import worker

KIT = Path(worker.__file__).resolve().parents[1]
COLLECTION = KIT.parents[2]

_MANAGER = "asks the user's own manager, which is itself a process outside of every sandbox, and is there or is not"
# Function of the kit that starts a program as another user -> why no agent gains by it.
AS_A_USER = {
    "system/systemd.py: call": _MANAGER,
    "watch/bundle.py: output": _MANAGER,
    "release/interpreter.py: _everybody_can_run": "as nobody, who is no agent",
    "release/proof.py: prove": "as nobody, who is no agent",
}
# Text of a unit or of a command line that sets a program's user -> why no agent gains by it.
WORDS = {
    "supervise/units.py: User": "the gateway and the dashboard, with their confinement",
    "supervise/canary.py: User": "the canary, with a closer one",
    "supervise/proxy.py: User": "nginx, as a user that no agent is",
    "supervise/runtime_units.py: User": "systemd-socket-proxyd, as the proxy's user",
    "supervise/command.py: User": "a command, with the gateway's confinement",
    "backup/separate.py: --uid": "useradd(8), as root: the number of a user that it makes",
    "host/logs.py: setpriv": "root stays root, and loses its other groups",
    "host/logs.py: su": "logrotate, and gzip, in a unit that can do no more than a gateway (test_logs.py)",
}
_WORDS = re.compile(r"^User(=|$)|(^|[/ ])(setpriv|runuser|su) |--(re)?uid\b", re.M)
# Calls that start or execute a program. All other code has to use system/process.py.
_STARTS = re.compile(
    r"(subprocess\.(Popen|run|call|check_\w+)|os\.(exec\w+|spawn\w+|posix_spawn\w*|system|popen|fork))$"
)
STARTED_DIRECTLY = {
    "system/process.py": "the one way to run a program",
    "system/worker.py": "the process from which workers are forked",
    "system/forkserver.py": "workers",
    "supervise/command.py": "systemd-run, as root",
    "backup/offsite.py": "restic, as root",
    "supervise/entrypoint.py": "in a container, before its agent runs there: Hermes, or the image's own start",
    "commands/runtime.py": "journalctl, or podman, as root: in a container the agent's user is another one",
    "commands/run.py": "sudo, or Hermes, in the place of a caller who is that user already",
}


def modules() -> Iterator[tuple[str, ast.Module]]:
    for path in sorted(KIT.glob("**/*.py")):
        yield str(path.relative_to(KIT)), ast.parse(path.read_text(encoding="utf-8"))


def calls(tree: ast.AST) -> Iterator[tuple[str, ast.Call]]:
    """Each call, with its innermost function."""

    def visit(node: ast.AST, function: str) -> Iterator[tuple[str, ast.Call]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Call):
                yield function, child
            yield from visit(child, child.name if isinstance(child, ast.FunctionDef) else function)

    yield from visit(tree, "")


def test_programs_of_other_users_are_named_here_with_a_reason():
    found = {
        f"{name}: {function}"
        for name, tree in modules()
        for function, call in calls(tree)
        if name != "system/process.py"
        and {"run", "run_tail", "run_head", "Popen"} & {ast.unparse(call.func).rpartition(".")[2]}
        and {"user", "group", "preexec_fn"} & {keyword.arg for keyword in call.keywords}
    }
    assert found == set(AS_A_USER)


def test_programs_are_started_in_one_way():
    found = {
        name for name, tree in modules() for _function, call in calls(tree) if _STARTS.match(ast.unparse(call.func))
    }
    assert found == set(STARTED_DIRECTLY)


def test_units_and_command_lines_of_other_users_are_named_here_with_a_reason():
    found = {
        f"{name}: {words[0].strip('/ =')}"
        for name, tree in modules()
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
        for words in _WORDS.finditer(node.value)
    }
    assert found == set(WORDS)


@pytest.mark.parametrize("path", ["roles", "playbooks"])
def test_roles_run_nothing_as_an_agents_user(path):
    """Ansible would run Python as that user, outside of every sandbox."""
    texts = {str(file): file.read_text(encoding="utf-8") for file in (COLLECTION / path).glob("**/*.yml")}
    assert texts
    assert [name for name, text in texts.items() if re.search(r"\bbecome_user\b|\bsetpriv\b|\brunuser\b", text)] == []
