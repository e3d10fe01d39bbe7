# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a host keeps of the modules it was sent, and how they run from there. Scenario `default` does it for real."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
import types
import zipfile
from pathlib import Path

import pytest
import yaml
from ansible_collections.alwayson.hermes.plugins.action.cached_module import Kept, fingerprint
from ansible_collections.alwayson.hermes.plugins.module_utils import module_cache
from hypothesis import given, settings
from hypothesis import strategies as st

PLUGINS = Path(module_cache.__file__).resolve().parent.parent
PACKAGE = "ansible_collections/alwayson/hermes/plugins"
# Answers with the arguments that it was called with, by way of something that it imports.
MODULE = """
import json, sys
from ansible_collections.alwayson.hermes.plugins.module_utils.echo import answer
if __name__ == "__main__":
    print(json.dumps(answer(json.load(sys.stdin)["ANSIBLE_MODULE_ARGS"])))
"""
FILES = {
    f"{PACKAGE}/modules/echo.py": MODULE,
    f"{PACKAGE}/module_utils/echo.py": "def answer(arguments):\n    return {'said': arguments}\n",
}


@pytest.fixture
def sent(tmp_path, monkeypatch) -> Path:
    """We run as a module that Ansible sent, as an archive, and are asked to keep it."""
    archive = tmp_path / "AnsiballZ_echo.zip"
    with zipfile.ZipFile(archive, "w") as payload:
        for name, text in FILES.items():
            payload.writestr(name, text)
    loader = types.SimpleNamespace(archive=str(archive))
    monkeypatch.setattr(module_cache.basic, "__spec__", types.SimpleNamespace(loader=loader))
    monkeypatch.setenv(module_cache.VARIABLE, str(tmp_path / "cache" / "this"))
    mask = os.umask(0o077)
    yield tmp_path / "cache" / "this"
    os.umask(mask)


def call(tree: Path, arguments: object, **internal: object) -> subprocess.CompletedProcess[str]:
    """Run the carrier as Ansible does: with the arguments filled in, by its standard input."""
    request = {"tree": str(tree), "module": "alwayson.hermes.echo", "arguments": arguments, **internal}
    # As ansible.executor.module_common does for modules with JSON arguments.
    encoded = json.dumps(request).encode()
    code = (PLUGINS / "modules/cached_module.py").read_bytes()
    code = code.replace(b'"<<INCLUDE_ANSIBLE_MODULE_COMPLEX_ARGS>>"', repr(encoded).encode())
    code = code.replace(b"<<INCLUDE_ANSIBLE_MODULE_JSON_ARGS>>", encoded)
    done = subprocess.run([sys.executable, "-"], input=code, capture_output=True, check=False)
    return subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())


def test_a_host_without_the_code_says_so_and_does_nothing(tmp_path):
    assert json.loads(call(tmp_path / "nothing", {}).stdout) == {"cached": False}
    assert list(tmp_path.iterdir()) == []


def test_what_was_kept_runs_with_its_arguments_and_ansible_s_own(sent):
    module_cache.keep()
    done = call(sent, {"a": "b"}, _ansible_check_mode=True, _ansible_module_name="alwayson.hermes.cached_module")
    assert json.loads(done.stdout) == {
        "said": {"a": "b", "_ansible_check_mode": True, "_ansible_module_name": "alwayson.hermes.echo"}
    }, done.stderr


@settings(max_examples=settings.default.max_examples // 4)
@given(st.dictionaries(st.text(), st.text() | st.integers() | st.booleans() | st.none() | st.lists(st.text())))
def test_arguments_arrive_whatever_is_in_them(kept, arguments):
    done = call(kept, arguments)
    assert json.loads(done.stdout)["said"] == {**arguments, "_ansible_module_name": "alwayson.hermes.echo"}, done.stderr


@pytest.fixture(scope="module")
def kept(tmp_path_factory) -> Path:
    tree = tmp_path_factory.mktemp("kept")
    for name, text in FILES.items():
        (tree / name).parent.mkdir(parents=True)
        (tree / name).write_text(text)
    return tree


def test_all_may_read_it_and_its_owner_alone_change_it(sent):
    module_cache.keep()
    for path in (sent, *sent.rglob("*")):
        assert path.stat().st_mode & 0o777 == (0o755 if path.is_dir() else 0o644), path


def test_nothing_is_kept_unless_asked_for(sent, monkeypatch):
    monkeypatch.delenv(module_cache.VARIABLE)
    module_cache.keep()
    assert not sent.parent.exists()


def test_nothing_is_kept_of_a_module_that_did_not_come_as_an_archive(sent, monkeypatch):
    monkeypatch.setattr(module_cache.basic, "__spec__", types.SimpleNamespace(loader=object()))
    module_cache.keep()
    assert not sent.parent.exists()


def test_a_module_cut_off_while_it_is_kept_does_not_count(sent, monkeypatch):
    """What it imports is there before it is, and each file at once."""
    link, linked = os.link, []

    def cut_off(source: str, target: str) -> None:
        if len(linked) == 1:
            raise OSError(28, "No space left on device")
        linked.append(target)
        link(source, target)

    monkeypatch.setattr(os, "link", cut_off)
    module_cache.keep()
    assert [Path(path).name for path in linked] == ["echo.py"]
    assert [str(path.relative_to(sent)) for path in sent.rglob("*") if path.is_file()] == [
        f"{PACKAGE}/module_utils/echo.py"
    ]
    assert json.loads(call(sent, {}).stdout) == {"cached": False}


def test_another_version_is_removed_but_not_while_it_runs(sent):
    old, running = sent.parent / "old", sent.parent / "running"
    old.mkdir(parents=True)
    running.mkdir()
    descriptor = os.open(running, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_SH)
    module_cache.keep()
    assert sorted(path.name for path in sent.parent.iterdir()) == ["running", "this"]
    os.close(descriptor)
    module_cache.keep()
    assert [path.name for path in sent.parent.iterdir()] == ["this"]


def test_a_running_module_holds_its_tree(kept):
    tree = kept.parent / "waiting"
    shutil.copytree(kept, tree)
    # Says that it runs, and then waits for us on a pipe.
    os.mkfifo(tree / "go")
    waiting = f"print('here', flush=True)\nopen({str(tree / 'go')!r}).read()\n" + MODULE
    (tree / PACKAGE / "modules/echo.py").write_text(waiting)
    request = {"tree": str(tree), "module": "alwayson.hermes.echo", "arguments": {}}
    code = (PLUGINS / "modules/cached_module.py").read_text()
    code = code.replace('"<<INCLUDE_ANSIBLE_MODULE_COMPLEX_ARGS>>"', repr(json.dumps(request)))
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"here\n"
        descriptor = os.open(tree, os.O_RDONLY)
        with pytest.raises(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        (tree / "go").write_text("")
        process.communicate()
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(descriptor)


def test_the_fingerprint_is_of_what_is_sent(tmp_path):
    plugins = tmp_path / "plugins"
    for directory in ("modules", "module_utils"):
        shutil.copytree(PLUGINS / directory, plugins / directory)
    first = fingerprint(plugins)
    assert fingerprint(PLUGINS) == first
    seen = {first}
    for change in ("modules/info.py", "module_utils/common.py", "module_utils/hermes_ops/files.py"):
        with (plugins / change).open("a") as stream:
            stream.write("# changed\n")
        seen.add(fingerprint(plugins))
    (plugins / "modules/info.py").rename(plugins / "modules/other.py")
    seen.add(fingerprint(plugins))
    assert len(seen) == 5


def test_a_host_that_lacked_one_module_is_asked_for_those_that_it_was_sent_since(tmp_path, monkeypatch):
    monkeypatch.setattr("ansible.constants.DEFAULT_LOCAL_TMP", str(tmp_path))
    assert Kept("a").may_have("info")
    Kept("a").add("info")
    assert [Kept("a").may_have(module) for module in ("info", "kit")] == [True, False]
    # A run in check mode keeps nothing.
    Kept("checked").add()
    assert not Kept("checked").may_have("info")
    assert Kept("another").may_have("info")


def test_every_module_runs_that_way():
    """But for the one that works on the controller alone, and the carrier."""
    routed = yaml.safe_load((PLUGINS.parent / "meta/runtime.yml").read_text())["plugin_routing"]["modules"]
    modules = {path.stem for path in (PLUGINS / "modules").glob("*.py")} - {"fleet_report", "cached_module"}
    assert routed == {name: {"action_plugin": "alwayson.hermes.cached_module"} for name in modules}
