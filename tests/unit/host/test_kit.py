# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The commands on the host: a directory with the complete kit, and the launchers."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
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
SOURCES = Path(kit.__file__).parents[1]


def test_the_whole_kit_is_sent_byte_for_byte():
    expected = {f"hermes_ops/{path.relative_to(SOURCES)}": path.read_bytes() for path in SOURCES.rglob("*.py")}
    assert kit.sources() == expected


def test_a_host_that_was_not_converged_says_so(tmp_path, monkeypatch, capsys):
    with pytest.raises(OpsError, match="converge the host"):
        installation.Installation.load(str(tmp_path / "host.json"))
    monkeypatch.setattr(installation.Installation, "load", not_converged)
    assert cli.main(["status"]) == cli.EXIT_ERROR
    assert "Fix: " in capsys.readouterr().err


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyError("a defect")])
def test_what_nobody_expected_is_no_finding_about_the_agents(error, monkeypatch, capsys):
    def broken(**_options):
        raise error

    monkeypatch.setattr(installation.Installation, "load", broken)
    assert cli.main(["status"]) == cli.EXIT_ERROR
    assert str(error) in capsys.readouterr().err


def not_converged(**_options):
    raise OpsError("does not exist", where="/x", fix="converge the host")


@pytest.mark.parametrize("name", sorted({*cli.commands()} - {"run"}))
def test_every_command_has_its_help(name, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main([name, "--help"])
    assert ended.value.code == 0
    assert f"hermes-ops {name}" in capsys.readouterr().out


def test_the_help_lists_every_command(capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["--help"])
    assert ended.value.code == 0
    said = capsys.readouterr().out
    assert cli.commands() == sorted(path.stem for path in (SOURCES / "commands").glob("[!_]*.py"))
    assert [name for name in cli.commands() if f"\n    {name}" not in said] == []


@pytest.mark.parametrize("name", ["no", "__init__", "_private", "backup.py", "../cli", "-x", ""])
def test_what_is_no_command_is_refused(name, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main([name])
    assert ended.value.code == cli.EXIT_ERROR
    assert "usage: hermes-ops" in capsys.readouterr().err


def test_only_the_command_that_is_called_is_imported():
    code = f"""
import sys
sys.path.insert(0, {str(SOURCES.parent)!r})
from hermes_ops import cli
try:
    cli.main(["debug", "--help"])
except SystemExit:
    print([name for name in sys.modules if name.startswith("hermes_ops.commands.")])
"""
    answer = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.splitlines()[-1] == "['hermes_ops.commands.debug']"


# On a host


@pytest.fixture
def commands(tmp_path, monkeypatch):
    (tmp_path / "bin").mkdir()
    monkeypatch.setattr(kit, "COMMAND", str(tmp_path / "bin" / "hermes-ops"))
    monkeypatch.setattr(kit, "WRAPPER", str(tmp_path / "bin" / "hermes"))
    monkeypatch.setattr(kit, "HOST_FILE", str(tmp_path / "etc" / "host.json"))
    return tmp_path


def place(commands):
    """The directory of a kit with these sources."""
    return str(commands / "lib" / hashlib.sha256(repr(sorted(kit.sources().items())).encode()).hexdigest()[:16])


def plan_kit(commands):
    return kit.plan_kit(HOST, place(commands))


@pytest.fixture
def have(commands, monkeypatch):
    """A function that replaces this kit with another one, which prints its name."""

    def choose(word):
        files = {
            "hermes_ops/__init__.py": b"",
            "hermes_ops/cli.py": b"from .word import WORD\n\ndef main():\n    print(WORD)\n    return 3\n",
            "hermes_ops/word.py": f"WORD = {word!r}\n".encode(),
        }
        monkeypatch.setattr(kit, "sources", lambda: files)
        return os.path.basename(place(commands))

    return choose


def said(commands, **options):
    answer = subprocess.run([commands / "bin/hermes-ops"], capture_output=True, text=True, check=False, **options)
    return answer.stdout.strip() or answer.stderr


def kits(commands):
    return sorted(os.listdir(commands / "lib"))


def test_check_then_apply_then_nothing(commands):
    plan = plan_kit(commands)
    version = os.path.basename(place(commands))
    assert plan.diff("commands")["after"].startswith(f"{commands}/lib/{version}: this version\n")
    assert plan.diff("commands")["before"] == ""
    assert os.listdir(commands) == ["bin"]
    assert os.listdir(commands / "bin") == []
    plan.apply()
    assert not plan_kit(commands).changed
    assert json.loads((commands / "etc/host.json").read_text()) == HOST
    assert kits(commands) == [version]
    answer = subprocess.run([commands / "bin/hermes-ops", "--version"], capture_output=True, text=True, check=True)
    assert answer.stdout.startswith("hermes-ops ")
    assert version in answer.stdout


def test_the_kit_is_complete_with_the_byte_code_of_its_interpreter(commands, have):
    version = have("hello")
    plan_kit(commands).apply()
    code = f"import sys; sys.path.insert(0, {str(commands / 'lib' / version)!r}); import hermes_ops.cli"
    answer = subprocess.run([kit.INTERPRETER, "-I", "-v", "-c", code], capture_output=True, text=True, check=True)
    loaded = re.findall(r"^# code object from '?(\S+?)'?$", answer.stderr, re.M)
    ours = [os.path.relpath(path, commands / "lib" / version) for path in loaded if path.startswith(str(commands))]
    assert [re.sub(r"\.cpython-\d+", "", path) for path in ours] == [
        f"hermes_ops/__pycache__/{module}.pyc" for module in ("__init__", "cli", "word")
    ]


def test_others_can_read_it_and_not_change_it_whatever_our_umask_is(commands, have):
    have("hello")
    before = os.umask(0o077)
    try:
        plan_kit(commands).apply()
    finally:
        os.umask(before)
    modes = {oct(path.stat().st_mode & 0o777) for path in [commands / "lib", *(commands / "lib").rglob("*")]}
    assert modes == {"0o755", "0o644"}
    assert (commands / "bin/hermes-ops").stat().st_mode & 0o777 == 0o755


def test_neither_environment_nor_working_directory_decides_what_is_imported(commands, have, tmp_path):
    have("ours")
    plan_kit(commands).apply()
    planted = tmp_path / "planted"
    (planted / "hermes_ops").mkdir(parents=True)
    for name in ("hermes_ops/__init__.py", "hermes_ops/cli.py", "sitecustomize.py", "usercustomize.py", "sys.py"):
        (planted / name).write_text("import os\nos.write(1, b'planted')\n")
    (planted / "hermes_ops/cli.py").write_text("def main():\n    print('planted')\n")
    environment = {**os.environ, "PYTHONPATH": str(planted), "PYTHONSTARTUP": str(planted / "sys.py")}
    assert said(commands, cwd=planted, env={**environment, "PYTHONUSERBASE": str(planted)}) == "ours"


def test_another_version_comes_beside_the_one_that_may_be_running(commands, have):
    first = have("first")
    plan_kit(commands).apply()
    second = have("second")
    plan = plan_kit(commands)
    assert plan.diff("")["before"] == f"{commands}/bin/hermes-ops: another version\n"
    assert said(commands) == "first"
    plan.apply()
    assert said(commands) == "second"
    assert kits(commands) == sorted([first, second])
    # Back to the first, then to a third one: the first stays, because it was in use until then, although it is the
    # oldest.
    have("first")
    plan_kit(commands).apply()
    assert said(commands) == "first"
    third = have("third")
    plan = plan_kit(commands)
    assert f"{commands}/lib/{second}: another version\n" in plan.diff("")["before"]
    plan.apply()
    assert kits(commands) == sorted([first, third])
    assert not plan_kit(commands).changed


def test_what_somebody_changed_is_put_right(commands, have):
    version = have("hello")
    plan_kit(commands).apply()
    (commands / "bin/hermes").chmod(0o700)
    (commands / "bin/hermes-ops").write_text("#!/bin/sh\n")
    (commands / "lib" / version / "hermes_ops/word.py").write_text("WORD = 'other'\n")
    (commands / "lib" / version / "hermes_ops").chmod(0o777)
    plan = plan_kit(commands)
    assert [os.path.basename(d.what) for d in plan.differences] == [version, "hermes-ops", "hermes"]
    plan.apply()
    assert not plan_kit(commands).changed
    assert said(commands) == "hello"


def test_byte_code_that_only_root_could_read_is_made_readable(commands, have):
    """After an upgrade of the interpreter, root's next call writes new byte code with the command's umask."""
    version = have("hello")
    plan_kit(commands).apply()
    code = next((commands / "lib" / version / "hermes_ops/__pycache__").glob("word.*"))
    code.with_name("word.cpython-399.pyc").write_bytes(b"of another interpreter")
    code.with_name("word.cpython-399.pyc").chmod(0o600)
    code.write_bytes(b"of another interpreter")
    assert said(commands) == "hello"
    plan_kit(commands).apply()
    assert not plan_kit(commands).changed


def test_killed_at_any_moment_the_command_works(commands, have, tmp_path_factory, killed_at):
    """Killed before each change of the disk: the old command or the new one works, and the next run finishes."""
    for word in ("first", "second"):
        have(word)
        plan_kit(commands).apply()
    before = shutil.copytree(commands, tmp_path_factory.mktemp("before") / "it")
    third, words = have("third"), []
    while not killed_at(len(words), lambda: plan_kit(commands).apply()):
        words.append(said(commands))
        plan_kit(commands).apply()
        assert said(commands) == "third"
        assert not plan_kit(commands).changed
        assert third in kits(commands)
        assert len(kits(commands)) == 2
        shutil.rmtree(commands)
        shutil.copytree(before, commands)
    assert set(words) == {"second", "third"}


def test_what_a_killed_run_left_of_another_version_goes(commands, have, killed_at):
    have("first")
    assert not killed_at(8, lambda: plan_kit(commands).apply())
    assert [name.endswith(".partial") for name in kits(commands)] == [True]
    second = have("second")
    plan_kit(commands).apply()
    assert kits(commands) == [second]


CHANGES = ("open", "os.chmod", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "subprocess.Popen")


def is_change(event, arguments):
    """Whether a process is about to change the disk, or to start another one."""
    return event in CHANGES and (event != "open" or arguments[2] & (os.O_WRONLY | os.O_RDWR))


@pytest.fixture
def killed_at(killed_at_change):
    return functools.partial(killed_at_change, is_change=is_change)


def test_a_host_of_an_earlier_version_is_not_worked_on(tmp_path):
    path = tmp_path / "host.json"
    path.write_text(json.dumps({**HOST, "user": "hermes", "hermes_home": "/h"}))
    with pytest.raises(OpsError, match="earlier version"):
        installation.Installation.load(str(path))
