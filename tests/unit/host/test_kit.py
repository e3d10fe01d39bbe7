# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The commands on the host: one file with the whole kit, and a wrapper that runs the right agent."""

from __future__ import annotations

import ast
import getpass
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
    "scope": "system",
    "data_dir": "/d",
    "ops_dir": "/o",
    "root": "/opt/hermes",
    "managed_root": "/m",
}
AGENTS = [
    {"name": "default", "user": "hermes-default", "home": "/d/agents/default/.hermes", "directory": "/d/agents/x"}
]
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
    plan = kit.plan_kit(HOST, AGENTS)
    assert plan.changed
    assert os.listdir(commands) == []
    plan.apply()
    assert not kit.plan_kit(HOST, AGENTS).changed
    assert json.loads((commands / "etc/host.json").read_text()) == HOST
    assert (commands / "hermes-ops").stat().st_mode & 0o777 == 0o755


def test_what_somebody_changed_is_put_right(commands):
    kit.plan_kit(HOST, AGENTS).apply()
    (commands / "hermes").chmod(0o700)
    (commands / "hermes-ops").write_text("#!/bin/sh\n")
    plan = kit.plan_kit(HOST, AGENTS)
    assert [os.path.basename(d.what) for d in plan.differences] == ["hermes-ops", "hermes"]
    plan.apply()
    assert not kit.plan_kit(HOST, AGENTS).changed


ME = getpass.getuser()
PASSED = [
    ([], "default", []),
    (["chat", "-q", "hello there"], "default", ["chat", "-q", "hello there"]),
    (["-p", "coder", "chat"], "coder", ["chat"]),
    (["--profile=coder", "status"], "coder", ["status"]),
    (["-m", "a/b", "--yolo", "-p", "coder", "chat", "a  b"], "coder", ["-m", "a/b", "--yolo", "chat", "a  b"]),
    # The value of another option, or an option of the command.
    (["-z", "-p", "coder"], "default", ["-z", "-p", "coder"]),
    (["cron", "create", "-p", "coder"], "default", ["cron", "create", "-p", "coder"]),
    (["mcp", "add", "--profile=coder"], "default", ["mcp", "add", "--profile=coder"]),
    (["--", "-p", "coder"], "default", ["--", "-p", "coder"]),
    (["-p", "coder", "x", "-p", "other"], "coder", ["x", "-p", "other"]),
]


@pytest.fixture
def call(tmp_path):
    """A function that calls the wrapper; Hermes prints what it gets: home, managed scope, arguments."""
    binary = tmp_path / "root/current/bin"
    binary.mkdir(parents=True)
    (binary / "hermes").write_text('#!/bin/sh\nprintf "%s\\n" "$HERMES_HOME" "${HERMES_MANAGED_DIR:-none}" "$@"\n')
    (binary / "hermes").chmod(0o755)
    (tmp_path / "managed/coder").mkdir(parents=True)

    def run(agents, *arguments):
        wrapper = tmp_path / "hermes"
        wrapper.write_text(kit.wrapper(agents, root=str(tmp_path / "root"), managed_root=str(tmp_path / "managed")))
        return subprocess.run(["sh", str(wrapper), *arguments], capture_output=True, text=True, check=False)

    return run


def agent(name, home=None):
    return {"name": name, "user": ME, "home": home or f"/agents/{name}/.hermes", "directory": f"/agents/{name}"}


@pytest.mark.parametrize(("arguments", "name", "passed"), PASSED)
def test_the_wrapper_takes_the_agent_from_the_front_and_passes_the_rest(call, tmp_path, arguments, name, passed):
    answer = call([agent("default"), agent("coder"), agent("other")], *arguments)
    managed = str(tmp_path / "managed/coder") if name == "coder" else "none"
    # Hermes' own -p would look below the home for a profile of that name.
    expected = [f"/agents/{name}/.hermes", managed, "--profile", "default", *passed]
    assert answer.stdout.splitlines() == expected, answer.stderr


def test_the_wrapper_means_the_only_agent(call):
    assert call([agent("coder")]).stdout.startswith("/agents/coder/.hermes\n")


def test_the_wrapper_knows_its_agents(call):
    answer = call([agent("coder"), agent("other")], "-p", "codre", "status")
    assert answer.returncode == 2
    assert answer.stderr == "hermes: there is no agent 'codre'; known ones: coder, other\n"
    assert call([agent("coder"), agent("other")]).returncode == 2


def test_the_wrapper_chooses_a_profile_of_an_adopted_home_by_its_directory(call):
    answer = call([agent("work", "/home/ada/.hermes/profiles/work")], "status")
    assert answer.stdout.splitlines() == ["/home/ada/.hermes/profiles/work", "none", "status"]


def test_a_host_of_an_earlier_version_is_not_worked_on(tmp_path):
    path = tmp_path / "host.json"
    path.write_text(json.dumps({**HOST, "user": "hermes", "hermes_home": "/h"}))
    with pytest.raises(OpsError, match="earlier version"):
        installation.Installation.load(str(path))
