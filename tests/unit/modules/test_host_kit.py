# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The way from a task to the kit on its host and back: real ansible-playbook, this machine as the host."""

from __future__ import annotations

import getpass
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml
from ansible_collections.alwayson.hermes.plugins.action import host_kit as action
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.host import kit
from ansible_collections.alwayson.hermes.plugins.modules import host_kit

PLUGINS = Path(__file__).resolve().parents[3] / "plugins"
COLLECTIONS = PLUGINS.parent / ".cache/collections"
# They run on the controller, or are the one that is sent.
ON_THE_CONTROLLER = {
    *("aws_host", "aws_image", "declarations", "dlm_policy", "fleet_report", "host_kit", "node_lost", "tenants"),
    *("tenants_capacity", "tenants_exec", "tenants_restore", "tenants_status"),
}


@pytest.fixture
def sources(tmp_path):
    """A copy of the kit's sources, in the directory that is returned."""
    shutil.copytree(PLUGINS / "module_utils/hermes_ops", tmp_path / "kit/hermes_ops")
    return tmp_path / "kit"


# Versions


@pytest.mark.parametrize("change", ["another byte", "one more file", "one file less", "another place"])
def test_a_version_is_its_sources_and_their_places(sources, change):
    before = host_kit.version_of(str(sources))
    assert before == host_kit.version_of(str(PLUGINS / "module_utils"))
    assert re.fullmatch(r"[0-9a-f]{16}", before)
    path = sources / "hermes_ops/system/text.py"
    if change == "another byte":
        path.write_bytes(path.read_bytes() + b"\n")
    elif change == "one more file":
        path.with_name("more.py").touch()
    else:
        path.rename(path.with_name("moved.py") if change == "another place" else sources / "gone")
    assert host_kit.version_of(str(sources)) != before


def test_byte_code_is_no_part_of_a_version(sources):
    before = host_kit.version_of(str(sources))
    subprocess.run([sys.executable, "-m", "compileall", "-q", str(sources)], check=True)
    assert host_kit.version_of(str(sources)) == before


def test_the_host_s_kit_is_run_by_one_interpreter():
    assert host_kit.INTERPRETER == kit.INTERPRETER


def test_every_module_that_works_on_a_host_is_run_by_the_action():
    """The work of each such module is in the kit; the other modules run on the controller."""
    # An action that adds files of the controller to the arguments.
    adding = {"image": "alwayson.hermes.image"}
    modules = {path.stem for path in (PLUGINS / "modules").glob("*.py")} - ON_THE_CONTROLLER
    routing = yaml.safe_load((PLUGINS.parent / "meta/runtime.yml").read_text())["plugin_routing"]["modules"]
    assert routing == {name: {"action_plugin": adding.get(name, "alwayson.hermes.host_kit")} for name in modules}
    work = (PLUGINS / "module_utils/hermes_ops/modules").glob("[!_]*.py")
    assert {path.stem for path in work} == modules | {"call", "sources"}


def test_modules_import_nothing_of_the_kit():
    """Otherwise Ansible would pack and send the kit with each module."""
    for path in (PLUGINS / "modules").glob("*.py"):
        # Those for AWS are never sent anywhere.
        if path.stem in ("aws_host", "aws_image", "dlm_policy"):
            continue
        assert not re.search(r"^\s*(from|import) .*\.hermes_ops", path.read_text(), re.M), path


# Tasks


class Controller:
    """Runs a task of the module info, with a place for kits on this machine."""

    def __init__(self, top: Path) -> None:
        self.top = top
        self.kits = top / "kits"
        # Another collection: with a DIRECTORY of the test's own.
        self.collection = top / "collections/ansible_collections/alwayson/hermes"
        for name in ("plugins", "meta", "galaxy.yml"):
            copy = shutil.copytree if (PLUGINS.parent / name).is_dir() else shutil.copy
            self.collection.mkdir(parents=True, exist_ok=True)
            copy(PLUGINS.parent / name, self.collection / name)
        path = self.collection / "plugins/modules/host_kit.py"
        self.passing = top / "passing"
        text = path.read_text().replace('"/usr/local/lib/hermes-ops"', repr(str(self.kits)))
        text = text.replace('"/run/hermes-ops-kit"', repr(str(self.passing)))
        # The tests may run as any user.
        path.write_text(text.replace("return os.geteuid() == 0", "return True"))

    @property
    def place(self) -> Path:
        return self.kits / host_kit.version_of(str(self.collection / "plugins/module_utils"))

    def put_down(self) -> None:
        """Install the kit, as the module kit does."""
        shutil.copytree(self.collection / "plugins/module_utils/hermes_ops", self.place / "hermes_ops")

    def run(self, *options: str, module: str = "info", **arguments: object) -> dict[str, object]:
        """The task's result; ``said`` has all other output."""
        if module == "info":
            arguments = {"agents": [], "ops_dir": str(self.top / "ops"), **arguments}
        words = {name: value for name, value in arguments.items() if value is not None}
        environment = {
            **os.environ,
            "ANSIBLE_COLLECTIONS_PATH": str(self.top / "collections"),
            "ANSIBLE_LOAD_CALLBACK_PLUGINS": "1",
            "ANSIBLE_STDOUT_CALLBACK": "ansible.builtin.minimal",
            "ANSIBLE_LOCAL_TEMP": str(self.top / "local"),
            "ANSIBLE_REMOTE_TEMP": str(self.top / "remote"),
        }
        task = ["-m", f"alwayson.hermes.{module}", "-a", json.dumps(words)]
        answer = subprocess.run(
            ["ansible", "localhost", "-c", "local", *task, *options],
            env=environment,
            cwd=self.top,
            capture_output=True,
            text=True,
            check=False,
        )
        _status, _arrow, said = answer.stdout.partition("=> ")
        return {**json.loads(said), "said": answer.stdout + answer.stderr}


@pytest.fixture
def controller(tmp_path):
    return Controller(tmp_path)


def sent(controller, result) -> bool:
    return "hermes-ops.zip" in str(result["said"])


def test_a_host_without_the_kit_is_sent_it_once(controller):
    for options in (("--check",), ()):
        result = controller.run("-vvv", *options)
        assert result["system"]["id"]
        assert sent(controller, result) == ("--check" in options)
        assert not controller.kits.exists()
        assert list((controller.top / "remote").iterdir()) == []
    assert [path.name for path in controller.passing.iterdir()] == [controller.place.name]


def test_a_sent_kit_that_somebody_changed_is_sent_again(controller):
    controller.run()
    (controller.passing / controller.place.name / "hermes_ops/cli.py").write_text("raise SystemExit('changed')\n")
    result = controller.run("-vvv")
    assert result["system"]["id"]
    assert sent(controller, result)


def test_a_sent_kit_goes_when_no_run_can_need_it_any_more(controller):
    controller.run()
    controller.put_down()
    passing = controller.passing / controller.place.name
    controller.run()
    assert passing.exists()
    os.utime(passing, (0, 0))
    controller.run()
    assert list(controller.passing.iterdir()) == []


def test_a_kit_for_which_there_is_no_room_is_an_error(controller):
    controller.passing.write_text("in the way")
    message = str(controller.run()["msg"])
    assert message.startswith(f"{controller.passing}: the kit cannot be unpacked: ")
    assert message.endswith("Fix: make room in /run")


def test_what_takes_long_is_said_before_it_is_done(controller):
    missing = {"packages": ["no-such-package"]}
    first, second = controller.run(**missing)["awaited"]
    assert "no-such-package" in second
    said = controller.run(**missing)["said"]
    assert f"localhost: {first}\nlocalhost: {second}\n" in said
    assert first not in controller.run("--check", **missing)["said"]
    assert first not in controller.run()["said"]


def test_a_host_that_cannot_be_converged_is_refused_with_every_reason(controller):
    arguments = {"packages": ["no-such-package"], "release": {"version": "0.19.0", "python": "/no/such/python"}}
    objections = controller.run(**arguments)["objections"]
    refused = controller.run(refuse_as="zeus", **arguments)
    assert "FAILED!" in refused["said"]
    assert any("/no/such/python" in each for each in objections)
    assert refused["msg"] == f"zeus: {'; '.join(objections)}"
    assert "no-such-package" not in refused["said"]


def test_a_host_that_has_the_kit_is_sent_the_arguments(controller):
    controller.put_down()
    result = controller.run("-vvv")
    assert result["system"]["id"]
    assert not sent(controller, result)


@pytest.mark.parametrize("damage", ["changed", "gone"])
def test_a_kit_that_somebody_changed_is_not_run(controller, damage):
    controller.put_down()
    path = controller.place / "hermes_ops/cli.py"
    if damage == "changed":
        path.write_text("raise SystemExit('changed by hand')\n")
    else:
        path.unlink()
    result = controller.run("-vvv")
    assert result["system"]["id"]
    assert sent(controller, result)


def test_what_is_sent_is_the_whole_kit_byte_for_byte(controller, tmp_path):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(action.constants, "DEFAULT_LOCAL_TMP", str(tmp_path))
        with zipfile.ZipFile(action.archive()) as archive:
            assert {name: archive.read(name) for name in archive.namelist()} == kit.sources()


def test_a_kit_that_breaks_down_is_an_error_with_its_words(controller):
    path = controller.collection / "plugins/module_utils/hermes_ops/modules/info.py"
    path.write_text("raise KeyError('a defect')\n")
    controller.put_down()
    result = controller.run()
    assert result["msg"].startswith(f"{controller.place}: ended with status 2 and no answer: Traceback ")
    assert "a defect" in result["msg"]
    assert result["msg"].endswith(f"Fix: remove {controller.place}, and run again; it will be sent again")


def test_another_user_than_root_is_refused_before_a_kit_is_sent(controller):
    path = controller.collection / "plugins/modules/host_kit.py"
    root = "def is_root() -> bool:\n    return "
    path.write_text(path.read_text().replace(f"{root}True", f"{root}False"))
    result = controller.run("-vvv")
    assert result["msg"].startswith(f"not root: Ansible works as {getpass.getuser()} here. Fix: let it become root ")
    assert not sent(controller, result)


def test_an_error_of_the_kit_is_the_module_s(controller):
    controller.put_down()
    result = controller.run("-vvv", module="release", method="pypi", version="0.19.0", keep=0)
    assert result["msg"] == "keep: is less than 1. Fix: keep at least one release to go back to"
    assert result["fix"] == "keep at least one release to go back to"


@pytest.mark.parametrize(
    ("words", "error"),
    [
        ({"ops_dir": "ops"}, "info: ops_dir: is 'ops'. Fix: write a path that begins with /"),
        # Neither the home directory nor the variables of the controller mean anything on a host.
        ({"ops_dir": "/ops", "root": "~/hermes"}, "info: root: is '~/hermes'. Fix: write a path that begins with /"),
        ({"ops_dir": "/ops", "root": "$HOME"}, "info: root: is '$HOME'. Fix: write a path that begins with /"),
        ({"ops_dir": "/ops", "scope": "both"}, "info: value of scope must be one of: system, user, got: both"),
        (
            {"ops_dir": "/ops", "scpe": "user"},
            "info: no such option: scpe. Fix: known ones are agents, data_dir, ops_dir, packages, ",
        ),
        ({"ops_dir": None}, "info: missing required arguments: ops_dir"),
    ],
)
def test_what_is_wrong_with_arguments_is_said_before_the_host_is_asked(controller, words, error):
    result = controller.run("-vvv", **words)
    assert str(result["msg"]).startswith(error)
    assert "EXEC" not in str(result["said"])


def test_the_texts_that_may_not_be_shown_are_found_wherever_they_are():
    specification = {
        "a": {"type": "dict", "no_log": True},
        "b": {
            "type": "list",
            "elements": "dict",
            "options": {"c": {"type": "str", "no_log": True}, "d": {"type": "str"}},
        },
        "e": {"type": "str", "no_log": True},
    }
    arguments = {"a": {"x": ["1", 2, {"y": "3"}], "z": ""}, "b": [{"c": "4", "d": "5"}, {"c": None}], "e": None}
    assert list(action.secrets(specification, arguments)) == ["1", "3", "4"]


def test_secrets_are_in_no_argument_that_is_shown_and_in_no_process_list(controller):
    """Ansible itself passes arguments in files or pipes; the kit gets them through a pipe."""
    path = controller.collection / "plugins/module_utils/hermes_ops/modules/timer.py"
    path.write_text(
        "import contextlib, glob\n"
        "def work(call):\n"
        "    seen = False\n"
        "    for path in glob.glob('/proc/[0-9]*/cmdline'):\n"
        "        # It may have ended.\n"
        "        with contextlib.suppress(OSError), open(path, 'rb') as stream:\n"
        "            seen = seen or b'hunter2' in stream.read()\n"
        "    return {'seen': seen, 'got': len(call.params['settings']['a'])}\n"
    )
    controller.put_down()
    arguments = controller.top / "arguments.json"
    arguments.write_text(json.dumps({"name": "backup", "settings": {"a": "hunter2-hunter2"}}))
    playbook = controller.top / "play.yml"
    playbook.write_text(
        json.dumps(
            [
                {
                    "hosts": "localhost",
                    "gather_facts": False,
                    "tasks": [{"alwayson.hermes.timer": {"name": "{{ name }}", "settings": "{{ settings }}"}}],
                }
            ]
        )
    )
    environment = {**os.environ, "ANSIBLE_COLLECTIONS_PATH": str(controller.top / "collections")}
    answer = subprocess.run(
        ["ansible-playbook", "-c", "local", "-vvv", "-e", f"@{arguments}", str(playbook)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.returncode == 0, answer.stdout
    assert re.search(r"^ *\"?got\"?: 15", answer.stdout, re.M), answer.stdout
    assert re.search(r"^ *\"?seen\"?: false", answer.stdout, re.M)
    assert "hunter2" not in answer.stdout + answer.stderr
