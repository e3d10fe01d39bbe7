# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The modules config, env and webhook as Ansible runs them: arguments in, JSON out, files changed or not."""

from __future__ import annotations

import json
import os
import pwd
import stat
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.agent import config, converge, dotenv, webhooks
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.host.records import Records
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.files import Owner
from ansible_collections.alwayson.hermes.plugins.modules import config as config_module
from ansible_collections.alwayson.hermes.plugins.modules import env as env_module
from ansible_collections.alwayson.hermes.plugins.modules import webhook as webhook_module

testing = pytest.importorskip("ansible.module_utils.testing", reason="this ansible-core cannot run modules in tests")

SECRET = "s3cret-'value'"
DECLARED = {
    config_module: {"config": {"platforms": {"webhook": {"enabled": True}}, "model": {"default": "off"}}},
    env_module: {"settings": {"PORT": 8642, "ON": True}, "secrets": {"MY_TOKEN": SECRET}, "generate": ["A_KEY"]},
    webhook_module: {"webhooks": [{"name": "hook", "prompt": "p", "secret": SECRET}]},
}
RESTART = {
    config_module: ["config: platforms.webhook.enabled"],
    env_module: ["env: PORT", "env: ON", "env: MY_TOKEN", "env: A_KEY"],
}
FILES = {
    config_module: config.FILE_NAME,
    env_module: dotenv.FILE_NAME,
    webhook_module: webhooks.FILE_NAME,
}
modules = pytest.mark.parametrize("module", DECLARED, ids=lambda module: module.__name__.rpartition(".")[2])


@pytest.fixture
def run(tmp_path, capsys):
    def call(module, *, owner=None, **options):
        arguments = {
            "profile": "default",
            "home": str(call.home),
            "owner": owner or Owner.current().name,
            "ops_dir": call.records.ops_dir,
            "_ansible_diff": True,
            **DECLARED[module],
            **options,
        }
        with testing.patch_module_args(arguments), pytest.raises(SystemExit):
            module.main()
        output = capsys.readouterr().out
        assert SECRET not in output
        return json.loads(output)

    call.home = tmp_path / "home"
    call.records = Records(str(tmp_path / "ops"), "default")
    umask = os.umask(0o022)
    yield call
    os.umask(umask)


@modules
def test_check_mode_where_nothing_exists(run, module, open_to_all):
    run.home = open_to_all / "home"
    result = run(module, owner="no-such-user", _ansible_check_mode=True)
    assert result["changed"]
    assert result["diff"]["after"]
    assert not run.home.exists()
    assert not os.path.exists(run.records.ops_dir)


@modules
def test_check_apply_again(run, module):
    run.home.mkdir()
    checked = run(module, _ansible_check_mode=True)
    applied = run(module)
    assert applied["changed"]
    assert checked["diff"] == applied["diff"] or module is webhook_module  # created_at
    assert applied.get("restart") == RESTART.get(module)
    assert run.records.restart_reasons() == RESTART.get(module, [])
    path = run.home / FILES[module]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    before = path.read_bytes()
    for check_mode in (True, False):
        again = run(module, _ansible_check_mode=check_mode)
        assert not again["changed"]
        assert again["diff"]["after"] == again["diff"]["before"] == ""
        assert not again.get("restart")
    assert path.read_bytes() == before


# What the file holds, and what is said of it after its path.
BROKEN = {
    "a tab": (config_module, b"model:\n  default: x\n\tprovider: y\n", ":3: is not YAML (found "),
    "an open bracket": (config_module, b"a: 1\nb: [1, 2\nc: 3\n", ":3: is not YAML ("),
    "one key twice": (config_module, b"model: {default: x}\nmodel: {default: y}\n", ":2: "),
    "no mapping": (config_module, b"- a\n- list\n", ":1: is a list, not a mapping"),
    "another encoding": (config_module, "# grün\na: ä\n".encode("latin-1"), ":1: is not UTF-8 text"),
    "an environment in another encoding": (env_module, "A=1\nB=ä\n".encode("latin-1"), ":2: is not UTF-8 text"),
    "webhooks in another encoding": (webhook_module, b"fine\n\xff\n", ":2: is not UTF-8 text"),
    "half a JSON": (webhook_module, b'{"a":\n', ":2: is not JSON"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_one_clear_message(case, run):
    module, content, error = BROKEN[case]
    run.home.mkdir()
    path = run.home / FILES[module]
    path.write_bytes(content)
    before = path.stat()
    result = run(module)
    assert result["failed"]
    assert result["msg"].startswith(f"profile default: {path}{error}")
    # Nothing is written: not the file, nothing beside it, and nothing is remembered.
    assert path.read_bytes() == content
    assert (path.stat().st_ino, path.stat().st_ctime_ns) == (before.st_ino, before.st_ctime_ns)
    assert os.listdir(run.home) == [path.name]
    assert not os.path.exists(run.records.ops_dir)


@pytest.mark.parametrize("module", [config_module, env_module])
def test_a_run_killed_before_it_wrote_is_finished_by_the_next(run, module, monkeypatch):
    run.home.mkdir()
    with monkeypatch.context() as patch:
        # As on a full disk.
        patch.setattr(converge, "LIMITS", replace(converge.LIMITS, file=1))
        result = run(module)
    assert result["failed"]
    assert str(run.home / FILES[module]) in result["msg"]
    assert "cannot be written" in result["msg"]
    assert os.listdir(run.home) == []
    assert run.records.restart_reasons() == RESTART[module]
    assert run(module)["restart"] == RESTART[module]
    assert run.records.restart_reasons() == RESTART[module]


@pytest.fixture
def open_to_all():
    # The directories of pytest are the tester's own: another user does not get through them.
    with tempfile.TemporaryDirectory() as directory:
        os.chmod(directory, 0o755)
        yield Path(directory)


@modules
def test_as_another_user(run, module, open_to_all):
    if os.geteuid() != 0:
        pytest.skip("only root can act as another user")
    nobody = pwd.getpwnam("nobody")
    run.home = open_to_all / "home"
    run.home.mkdir()
    os.chown(run.home, nobody.pw_uid, nobody.pw_gid)
    target = open_to_all / "target"
    target.write_text("{}")
    (run.home / FILES[module]).symlink_to(target)
    assert run(module, owner="nobody")["changed"]
    status = os.lstat(run.home / FILES[module])
    assert (status.st_uid, stat.S_IMODE(status.st_mode)) == (nobody.pw_uid, 0o600)
    assert target.read_text() == "{}"
    assert os.stat(run.records.directory).st_uid == 0


@modules
def test_modules_import_nothing_but_what_a_bare_host_has(module):
    # PyYAML comes with the role base; check mode runs before it.
    code = f"import sys; sys.modules['yaml'] = None; import {module.__name__}"
    path = os.pathsep.join(sys.path)
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": path})


@pytest.mark.parametrize(
    ("module", "options"),
    [
        (webhook_module, {"webhooks": [{"name": "hook", "deliver_extra": {"bot_token": "hunter2-hunter2"}}]}),
        (webhook_module, {"webhooks": [{"name": "hook", "prompt": "call it with --token hunter2-hunter2"}]}),
        (config_module, {"config": {"slack": {"clientSecret": "hunter2-hunter2"}}}),
        (config_module, {"config": {"x": {"url": "https://hooks.slack.com/services/T0/B0/hunter2-hunter2"}}}),
        (config_module, {"config": {"x": {"args": ["--token", "hunter2-hunter2"]}}}),
        (env_module, {"settings": {"botPass": "hunter2-hunter2"}}),
    ],
)
def test_free_form_arguments_show_no_secret(run, module, options):
    """Neither in the arguments, which -vvv shows, nor in the diff."""
    run.home.mkdir()
    shown = json.dumps(run(module, **options))
    assert "hunter2" not in shown
    assert "(secret)" in shown
    assert json.loads(shown)["invocation"]["module_args"]["profile"] == "default"
