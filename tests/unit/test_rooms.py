# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The kit's packages depend on each other in one direction only."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

KIT = Path(__file__).resolve().parents[2] / "plugins/module_utils/hermes_ops"
# From the ground up: a package may import those before it, and itself. The description knows of the system only.
ROOMS = (
    "system",
    "description",
    "release",
    "host",
    "secrets",
    "agent",
    "supervise",
    "backup",
    "watch",
    "update",
    "modules",
    "commands",
)
# The entry point, which imports every package, and the package itself, which has the version.
ABOVE = "cli"


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """The packages that *path* imports, with the line."""
    package = path.relative_to(KIT).parent.parts
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = package[: len(package) - node.level + 1]
            names = [*base, *(node.module or "").split(".")] if node.module else list(base)
            for alias in node.names:
                room = [*names, alias.name][0]
                if room in (*ROOMS, ABOVE):
                    yield node.lineno, room
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            assert not any(name.partition(".")[0] in ("ansible", "hermes_ops") for name in modules), path


# Files that may exceed the limits for files and functions -> why.
LONG = {"release/pins.py": "hashes, written by script/lock"}


@pytest.mark.parametrize("path", sorted(KIT.glob("**/*.py")), ids=lambda path: str(path.relative_to(KIT)))
def test_files_and_functions_can_be_read_at_once(path):
    text = path.read_text(encoding="utf-8")
    functions = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef)]
    long = [node.name for node in functions if (node.end_lineno or 0) - node.lineno >= 60]
    assert (str(path.relative_to(KIT)) in LONG) == bool(long or text.count("\n") > 500), long


def test_every_package_is_a_room():
    assert {path.parent.name for path in KIT.glob("*/__init__.py")} == set(ROOMS)


@pytest.mark.parametrize("room", ROOMS)
def test_dependencies_lead_downwards(room):
    allowed = {*ROOMS[: ROOMS.index(room) + 1], *([ABOVE] if room == "commands" else [])}
    wrong = [
        f"{path.relative_to(KIT)}:{line} imports {imported}"
        for path in sorted((KIT / room).glob("*.py"))
        for line, imported in imports(path)
        if imported not in allowed
    ]
    assert wrong == []


def test_what_is_declared_knows_nothing_of_hosts():
    found = {imported for path in (KIT / "description").glob("*.py") for _line, imported in imports(path)}
    assert found <= {"system", "description"}


# Modules that ask or change the host.
OF_THE_HOST = {"system.network", "system.process", "system.services", "system.systemd"}
# A place or a program of the host, at the beginning of a text.
PLACES = re.compile(r"/(etc|run|var)\b|(journal|login|system)ctl\b")


def test_a_home_is_converged_without_knowing_what_runs_the_agent():
    program = "import sys; sys.path.insert(0, sys.argv[1]); import hermes_ops.agent.converge; print(*sys.modules)"
    said = subprocess.run([sys.executable, "-c", program, KIT.parent], capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[2] for name in said.stdout.split() if name.startswith("hermes_ops.")}
    assert {"agent.parts", "description.agent", "host.records", "system.worker"} <= loaded
    assert loaded & OF_THE_HOST == set()
    # Records are files in a directory that is handed in.
    assert {name.partition(".")[0] for name in loaded - {"host", "host.records"}} == {"agent", "description", "system"}
    known = []
    for path in sorted(KIT / f"{name.replace('.', '/')}.py" for name in loaded if name.count(".")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [each.name for each in node.names] if isinstance(node, ast.Import) else []
            known += [f"{path.relative_to(KIT)} imports {name}" for name in names if name in ("grp", "pwd")]
            if isinstance(node, ast.Constant) and PLACES.match(str(node.value)):
                known.append(f"{path.relative_to(KIT)} says {node.value!r}")
    # For Account, which is handed in, too.
    assert known == ["system/files.py imports pwd"]


def test_the_ground_floor_knows_nothing_of_hermes():
    assert {imported for path in (KIT / "system").glob("*.py") for _line, imported in imports(path)} <= {"system"}
