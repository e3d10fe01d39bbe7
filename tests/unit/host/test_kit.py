# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The commands on the host: one file with the whole kit, and a wrapper that runs the right agent."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
import zipfile
from io import BytesIO
from pathlib import Path

import pytest
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops import cli
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.host import installation, kit
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.errors import OpsError

HOST = {
    "user": "hermes",
    "scope": "system",
    "data_dir": "/d",
    "hermes_home": "/h",
    "ops_dir": "/o",
    "root": "/opt/hermes",
    "managed_root": "/m",
}
SOURCES = Path(kit.__file__).parents[1]


def test_the_archive_is_the_whole_kit_byte_for_byte():
    with zipfile.ZipFile(BytesIO(kit.archive())) as archived:
        packed = {name: archived.read(name) for name in archived.namelist() if name != "__main__.py"}
    assert packed == {f"hermes_ops/{path.relative_to(SOURCES)}": path.read_bytes() for path in SOURCES.rglob("*.py")}
    assert kit.archive() == kit.archive()


def test_ansible_sends_the_whole_kit():
    """Ansible sends a module what it imports, and what that imports."""
    sent: set[Path] = set()
    todo = [SOURCES.parents[1] / "modules/kit.py"]
    while todo:
        path = todo.pop()
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.ImportFrom):
                continue
            if node.level:
                base = path.parents[node.level - 1]
            elif ".hermes_ops" in (node.module or ""):
                base = SOURCES.parent
            else:
                continue
            module = (node.module or "") if node.level else node.module[node.module.index("hermes_ops") :]
            target = base.joinpath(*filter(None, module.split(".")))
            found = [target.with_suffix(".py"), *(target / f"{alias.name}.py" for alias in node.names)]
            new = {file for file in found if file.is_file()} - sent
            sent |= new
            todo += new
    assert sent == {path for path in SOURCES.rglob("*.py") if path.name not in ("__init__.py", "cli.py")} | {
        SOURCES / "cli.py"
    }


def test_the_archive_runs_alone(tmp_path):
    command = tmp_path / "hermes-ops"
    command.write_bytes(kit.archive())
    answer = subprocess.run(
        [sys.executable, "-I", str(command), "--version"], capture_output=True, text=True, check=True, cwd="/"
    )
    assert answer.stdout.startswith("hermes-ops ")


def test_a_host_that_was_not_converged_says_so(tmp_path, monkeypatch, capsys):
    with pytest.raises(OpsError, match="converge the host"):
        installation.Installation.load(str(tmp_path / "host.json"))
    monkeypatch.setattr(installation.Installation, "load", not_converged)
    assert cli.main(["status"]) == cli.EXIT_ERROR
    assert "Fix: " in capsys.readouterr().err


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyError("a defect")])
def test_what_nobody_expected_is_no_finding_about_the_agents(error, monkeypatch, capsys):
    def broken():
        raise error

    monkeypatch.setattr(installation.Installation, "load", broken)
    assert cli.main(["status"]) == cli.EXIT_ERROR
    assert str(error) in capsys.readouterr().err


def not_converged():
    raise OpsError("does not exist", where="/x", fix="converge the host")


def test_every_command_has_its_help(capsys):
    for name in cli.COMMANDS:
        with pytest.raises(SystemExit) as ended:
            cli.main([name, "--help"])
        assert ended.value.code == 0
        assert f"hermes-ops {name}" in capsys.readouterr().out


@pytest.fixture
def commands(tmp_path, monkeypatch):
    monkeypatch.setattr(kit, "COMMAND", str(tmp_path / "hermes-ops"))
    monkeypatch.setattr(kit, "WRAPPER", str(tmp_path / "hermes"))
    monkeypatch.setattr(kit, "HOST_FILE", str(tmp_path / "etc" / "host.json"))
    return tmp_path


def test_check_then_apply_then_nothing(commands):
    plan = kit.plan_kit(HOST)
    assert plan.changed
    assert os.listdir(commands) == []
    plan.apply()
    assert not kit.plan_kit(HOST).changed
    assert json.loads((commands / "etc/host.json").read_text()) == HOST
    assert (commands / "hermes-ops").stat().st_mode & 0o777 == 0o755


def test_what_somebody_changed_is_put_right(commands):
    kit.plan_kit(HOST).apply()
    (commands / "hermes").chmod(0o700)
    (commands / "hermes-ops").write_text("#!/bin/sh\n")
    plan = kit.plan_kit(HOST)
    assert [os.path.basename(d.what) for d in plan.differences] == ["hermes-ops", "hermes"]
    plan.apply()
    assert not kit.plan_kit(HOST).changed


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], ["--profile", "default"]),
        (["chat", "-q", "hello there"], ["--profile", "default", "chat", "-q", "hello there"]),
        (["-p", "coder", "chat"], ["-p", "coder", "chat"]),
        (["--profile=coder", "status"], ["--profile=coder", "status"]),
        (["-m", "a/b", "--yolo", "-p", "coder", "chat"], ["-m", "a/b", "--yolo", "-p", "coder", "chat"]),
        # The value of another option, or an option of the command.
        (["-z", "-p", "coder"], ["--profile", "default", "-z", "-p", "coder"]),
        (["cron", "create", "-p", "coder"], ["--profile", "default", "cron", "create", "-p", "coder"]),
        (["mcp", "add", "--profile=coder"], ["--profile", "default", "mcp", "add", "--profile=coder"]),
        (["--", "-p", "coder"], ["--profile", "default", "--", "-p", "coder"]),
        (["-p", "coder", "x", "-p", "other"], ["-p", "coder", "x", "-p", "other"]),
        (["--profile=coder", "-p", "other"], ["--profile=coder", "-p", "other"]),
    ],
)
def test_the_wrapper_always_names_a_profile(tmp_path, arguments, expected):
    import getpass

    binary = tmp_path / "root/current/bin"
    binary.mkdir(parents=True)
    (binary / "hermes").write_text('#!/bin/sh\nprintf "%s\\n" "$HERMES_HOME" "${HERMES_MANAGED_DIR:-none}" "$@"\n')
    (binary / "hermes").chmod(0o755)
    managed = tmp_path / "managed"
    (managed / "coder").mkdir(parents=True)
    wrapper = tmp_path / "hermes"
    wrapper.write_text(
        kit.wrapper(
            user=getpass.getuser(), hermes_home="/some/home", root=str(tmp_path / "root"), managed_root=str(managed)
        )
    )
    answer = subprocess.run(["sh", str(wrapper), *arguments], capture_output=True, text=True, check=True)
    home, managed_dir, *passed = answer.stdout.splitlines()
    assert home == "/some/home"
    assert passed == expected
    assert managed_dir == ("none" if passed[:2] == ["--profile", "default"] else str(managed / "coder"))
