# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module agents as Ansible runs it: arguments in, JSON out, files and units changed or not."""

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
from typing import Any

import pytest
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.agent import config, converge, dotenv, webhooks
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.description import declaration
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.host import groundwork, installation
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.host.records import Records
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.modules import agents as work
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.supervise import gateway
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system import systemd as systemd_module
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.errors import OpsError
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.files import Account
from ansible_collections.alwayson.hermes.plugins.modules import agents

SECRET = "s3cret-'value'"
UNIT = "hermes-gateway@default.service"
# One part of an agent's files each, with the keys that follow from the addresses of its servers.
DECLARED: dict[str, dict[str, Any]] = {
    "config": {"config": {"model": {"default": "off"}}, "webhook": {"port": 8700}},
    "env": {"settings": {"PORT": 8642, "ON": True}, "secrets": {"MY_TOKEN": SECRET}, "api": {"port": 8701}},
    "webhooks": {"webhooks": [{"name": "hook", "prompt": "p", "secret": SECRET}]},
}
# Every config.yaml says how long the gateway drains. Every `.env` says whether the API server is open, which it is only
# where `api` is declared.
DRAIN, CLOSED = "config: agent.restart_drain_timeout", "env: API_SERVER_ENABLED"
RESTART = {
    "config": [DRAIN, *(f"config: platforms.webhook.{key}" for key in ("enabled", "extra.host", "extra.port")), CLOSED],
    "env": [
        *(DRAIN, "env: PORT", "env: ON", "env: API_SERVER_ENABLED", "env: API_SERVER_HOST", "env: API_SERVER_PORT"),
        *("env: MY_TOKEN", "env: API_SERVER_KEY"),
    ],
    "webhooks": [DRAIN, CLOSED],
}
FILES = {"config": config.FILE_NAME, "env": dotenv.FILE_NAME, "webhooks": webhooks.FILE_NAME}
parts = pytest.mark.parametrize("part", DECLARED)
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="SKIPPED, NOT PROVED: only root can act as somebody else")


class Host:
    """The host on which the module runs.

    :ivar recorded: by agent, the reasons for a restart that were recorded when the units were last examined; None if
        they never were
    """

    def __init__(self, top: Path, run_module: Any) -> None:
        self.top = top
        self.run_module = run_module
        self.home = top / "home"
        self.ops = str(top / "ops")
        self.records = Records(self.ops, "default")
        self.recorded: dict[str, list[str]] | None = None

    def agent(self, name: str = "default", *, account: str | None = None, **declared: Any) -> dict[str, Any]:
        """A description as from the filter, with only the *declared* content in its files.

        In addition config.yaml says how long it drains, and `.env` that the API server is closed.
        """
        user = account or Account.current().name
        words = {"name": name, "api": {"enabled": False}, "state": declared.pop("state", "present")}
        words.update({key: declared.pop(key) for key in ("api", "webhook") if key in declared})
        described = declaration.resolve(
            [words], host="box", data_dir=str(self.top), managed_root=str(self.top / "managed")
        )
        (agent,) = (each.to_plain() for each in described.values())
        home = str(self.home if name == "default" else self.top / name)
        scope = declared.pop("config_scope", "home")
        agent.update({"home": home, "config": {}, "settings": {}, **declared})
        agent["gateway"].update(home=home, user=user, config_scope=scope)
        return agent

    def run(self, *described: dict[str, Any], **internal: Any) -> dict[str, Any]:
        self.recorded = None
        # Without the watch over the disks, which test_disks.py is about.
        given = {"agents": list(described), "ops_dir": self.ops, "min_free_mb": 0, **internal}
        output = self.run_module(agents, given)
        warnings = self.run_module.warnings
        assert SECRET not in output + "".join(warnings)
        return {**json.loads(output), "warnings": warnings}


@pytest.fixture
def host(tmp_path, run_module, monkeypatch, systemd):
    monkeypatch.setattr(systemd_module, "version", lambda: 252)
    monkeypatch.setattr(installation, "AGENTS", str(tmp_path / "published"))
    host = Host(tmp_path, run_module)
    plan = gateway.plan_gateways

    def plan_gateways(where, described, manager, records, *more):
        host.recorded = {name: each.restart_reasons() for name, each in records.items()}
        return plan(where, described, manager, records, *more)

    monkeypatch.setattr(gateway, "plan_gateways", plan_gateways)
    umask = os.umask(0o022)
    yield host
    os.umask(umask)


@parts
def test_check_mode_where_nothing_exists(host, part, open_to_all, systemd):
    host.home = open_to_all / "home"
    result = host.run(host.agent(account="no-such-user", **DECLARED[part]), _ansible_check_mode=True)
    assert result["changed"]
    assert result["agents"]["default"]["changed"]
    headers = [each["after_header"] for each in result["diff"]]
    files = [name for name in FILES.values() if name in (FILES[part], config.FILE_NAME, dotenv.FILE_NAME)]
    assert headers == [f"default: {host.home}/", *(f"default: {host.home}/{name}" for name in files), "units"]
    assert all(each["after"] for each in result["diff"])
    assert not host.home.exists()
    assert not os.path.exists(host.ops)
    assert systemd.asked == []


def test_the_disks_are_watched_before_a_gateway_starts(host, systemd):
    given = {"min_free_mb": 256}
    checked = host.run(host.agent(), _ansible_check_mode=True, **given)
    assert systemd.asked == []
    applied = host.run(host.agent(), **given)
    assert checked["diff"] == applied["diff"]
    assert "disks" in [each["after_header"] for each in applied["diff"]]
    assert systemd.verbs.index("start hermes-disks.service") < systemd.verbs.index(f"start {UNIT}")
    assert not host.run(host.agent(), **given)["changed"]
    systemd.asked.clear()
    removed = host.run(host.agent(), min_free_mb=0)
    assert [each["after_header"] for each in removed["diff"]] == ["disks"]
    assert "disable --now hermes-disks.service" in systemd.verbs
    refused = host.run(host.agent(), min_free_mb=-1)
    assert "is -1. Fix: declare megabytes, or 0" in refused["msg"]


@parts
def test_check_apply_again(host, part, systemd):
    host.home.mkdir()
    agent = host.agent(**DECLARED[part])
    checked = host.run(agent, _ansible_check_mode=True)
    assert systemd.asked == []
    applied = host.run(agent)
    assert applied["changed"]
    assert checked["diff"] == applied["diff"] or part == "webhooks"  # created_at
    assert applied["agents"]["default"]["restart"] == checked["agents"]["default"]["restart"] == RESTART[part]
    assert host.recorded == {"default": RESTART[part]}
    assert f"start {UNIT}" in systemd.verbs
    path = host.home / FILES[part]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    before = path.read_bytes()
    systemd.asked.clear()
    for check_mode in (True, False):
        again = host.run(agent, _ansible_check_mode=check_mode)
        assert not again["changed"]
        assert again["diff"] == []
        assert not again["agents"]["default"]["restart"]
        assert again["restarted"] == {}
    assert path.read_bytes() == before
    assert systemd.asked == []


def test_what_came_of_each_file_is_said_with_its_name(host):
    declared = {**DECLARED["env"], **DECLARED["config"], "webhooks": [{"name": "hook", "prompt": "p"}]}
    first = host.run(host.agent(**declared))
    assert first["agents"]["default"]["generated"] == [
        {"file": ".env", "key": "API_SERVER_KEY"},
        {"file": "webhook_subscriptions.json", "key": "hook"},
    ]
    assert first["units"] == [UNIT]
    for name, word in (("config.yaml", "off"), (".env", "8642")):
        path = host.home / name
        path.write_text(path.read_text().replace(word, "1234"))
    assert host.run(host.agent(**declared))["agents"]["default"]["drift"] == [
        {"file": "config.yaml", "key": "model.default", "found": "1234", "declared": "off"},
        {"file": ".env", "key": "PORT"},
    ]


def test_keys_of_the_managed_scope_stand_in_its_file(host):
    managed = host.top / "managed" / "default"
    result = host.run(host.agent(config_scope="managed", **DECLARED["config"]))
    assert f"default: {managed}/config.yaml" in [each["after_header"] for each in result["diff"]]
    assert "enabled: true" in (managed / "config.yaml").read_text()
    assert "enabled" not in (host.home / "config.yaml").read_text()


# The content of the file, and the error after its path.
BROKEN = {
    "a tab": ("config", b"model:\n  default: x\n\tprovider: y\n", ":3: is not YAML (found "),
    "an open bracket": ("config", b"a: 1\nb: [1, 2\nc: 3\n", ":3: is not YAML ("),
    "one key twice": ("config", b"model: {default: x}\nmodel: {default: y}\n", ":2: "),
    "no mapping": ("config", b"- a\n- list\n", ":1: is a list, not a mapping"),
    "another encoding": ("config", "# grün\na: ä\n".encode("latin-1"), ":1: is not UTF-8 text"),
    "an environment in another encoding": ("env", "A=1\nB=ä\n".encode("latin-1"), ":2: is not UTF-8 text"),
    "webhooks in another encoding": ("webhooks", b"fine\n\xff\n", ":2: is not UTF-8 text"),
    "half a JSON": ("webhooks", b'{"a":\n', ":2: is not JSON"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_one_clear_message(case, host, systemd):
    part, content, error = BROKEN[case]
    host.home.mkdir()
    path = host.home / FILES[part]
    path.write_bytes(content)
    before = path.stat()
    result = host.run(host.agent(**{**DECLARED["config"], **DECLARED["env"], **DECLARED["webhooks"]}))
    assert result["failed"]
    assert result["msg"].startswith(f"agent default: {path}{error}")
    # Nothing is written: neither the file, nor one beside it, nor a record.
    assert path.read_bytes() == content
    assert (path.stat().st_ino, path.stat().st_ctime_ns) == (before.st_ino, before.st_ctime_ns)
    assert os.listdir(host.home) == [path.name]
    assert not os.path.exists(host.ops)
    assert systemd.asked == []


def test_one_broken_agent_keeps_no_other_from_being_converged(host, systemd):
    described = [host.agent(name, **DECLARED["config"]) for name in ("bob", "default", "eve")]
    for name in ("bob", "eve"):
        (host.top / name).mkdir()
        (host.top / name / "config.yaml").write_text("- a\n")
    result = host.run(*described)
    assert result["failed"]
    errors = result["msg"].splitlines()
    assert [error.partition(" is ")[0] for error in errors] == [
        f"agent {name}: {host.top / name}/config.yaml:1:" for name in ("bob", "eve")
    ]
    assert result["errors"] == {
        name: error.removeprefix(f"agent {name}: ") for name, error in zip(("bob", "eve"), errors)
    }
    # The other agent runs as declared; the units of the broken ones wait for a run that can converge their homes.
    assert list(result["agents"]) == ["default"]
    assert result["changed"]
    assert result["units"] == [UNIT]
    assert "enabled: true" in (host.home / "config.yaml").read_text()
    assert host.recorded["default"] == RESTART["config"]
    assert any(verb.startswith("start ") and UNIT in verb for verb in systemd.verbs)
    assert not any(name in verb for verb in systemd.verbs for name in ("bob", "eve"))
    for name in ("bob", "eve"):
        # What all units share has changed.
        (reason,) = Records(host.ops, name).restart_reasons()
        assert reason.endswith("/hermes-gateway@.service")
        assert Records(host.ops, name).agent() is None
    assert {each["after_header"].partition(":")[0] for each in result["diff"]} == {"default", "units"}
    assert [path.name for path in (host.top / "system").glob("*@*.d")] == [f"{UNIT}.d"]
    assert not host.run(host.agent(**DECLARED["config"]), *described[::2])["changed"]
    systemd.asked.clear()
    for name in ("bob", "eve"):
        (host.top / name / "config.yaml").unlink()
    repaired = host.run(*described)
    assert [repaired["agents"][name]["changed"] for name in ("bob", "default", "eve")] == [True, False, True]
    assert any(verb.startswith("start ") and "@bob" in verb and "@eve" in verb for verb in systemd.verbs)


def test_a_broken_agent_does_not_keep_another_one_running(host, systemd):
    """The operator takes an agent away, or has its gateway restarted, whatever the agent beside it has written."""
    host.run(host.agent(), host.agent("bob"), host.agent("eve"))
    (host.top / "bob/config.yaml").write_text("- a\n")
    systemd.asked.clear()
    changed = (host.agent(settings={"PORT": "1"}), host.agent("bob", settings={"PORT": "1"}))
    result = host.run(*changed, host.agent("eve", state="absent", purge=True))
    assert result["failed"]
    assert result["msg"].startswith(f"agent bob: {host.top}/bob/config.yaml:1: ")
    assert result["restarted"] == {"default": ["env: PORT"]}
    assert result["purged"] == ["eve"]
    assert f"restart {UNIT}" in systemd.verbs
    assert any("@eve" in verb for verb in systemd.verbs)
    assert not any("@bob" in verb for verb in systemd.verbs)


def test_the_gateway_of_a_broken_agent_is_restarted_later_for_what_all_units_share(host, systemd):
    bob = host.agent("bob")
    host.run(host.agent(), bob)
    (host.top / "bob/config.yaml").write_text("- a\n")
    systemd.asked.clear()
    settings = {"restart_sec": 11}
    assert list(host.run(host.agent(), bob, **settings)["errors"]) == ["bob"]
    assert not any("@bob." in verb for verb in systemd.verbs)
    (host.top / "bob/config.yaml").unlink()
    (reason,) = (each for each in host.run(host.agent(), bob, **settings)["restarted"]["bob"] if "unit" in each)
    assert reason.endswith("hermes-gateway@.service")


def test_a_defect_that_one_agent_found_keeps_no_other_from_being_converged(host, systemd, monkeypatch):
    whole = converge.converge

    def defective(description, *arguments, **options):
        if description.name == "default":
            raise TypeError("no mapping")
        return whole(description, *arguments, **options)

    monkeypatch.setattr(converge, "converge", defective)
    result = host.run(host.agent(), host.agent("other", settings={"A": "b"}))
    assert result["failed"] is True
    assert "agent default: failed with TypeError (test_agents.py:" in result["msg"]
    assert "A=b" in (host.top / "other/.env").read_text()


@pytest.mark.parametrize("part", ["config", "env"])
def test_a_run_killed_before_it_wrote_is_finished_by_the_next(host, part, monkeypatch, systemd):
    host.home.mkdir()
    agent = host.agent(**DECLARED[part])
    with monkeypatch.context() as patch:
        # As on a full disk.
        patch.setattr(converge, "LIMITS", replace(converge.LIMITS, file=1))
        result = host.run(agent)
    assert result["failed"]
    # The first of its files.
    assert f"{host.home / config.FILE_NAME}: cannot be written" in result["msg"]
    assert not [path for path in host.home.rglob("*") if path.is_file()]
    assert host.records.restart_reasons() == RESTART[part]
    assert systemd.asked == []
    assert host.run(agent)["agents"]["default"]["restart"] == RESTART[part]
    assert host.recorded == {"default": RESTART[part]}


# Restarts


def test_exactly_those_are_restarted_that_need_it(host, systemd):
    quiet = host.agent("quiet")
    host.run(host.agent(), quiet)
    systemd.asked.clear()
    changed = host.agent(settings={"PORT": "1"})
    for check_mode in (True, False):
        result = host.run(changed, quiet, _ansible_check_mode=check_mode)
        assert result["restarted"] == {"default": ["env: PORT"]}
        assert {each["after_header"] for each in result["diff"]} == {f"default: {host.home}/.env", "units"}
        assert systemd.verbs == ([] if check_mode else [f"restart {UNIT}"])
    assert host.records.restart_reasons() == []
    assert not host.run(changed, quiet)["changed"]
    assert systemd.verbs == [f"restart {UNIT}"]


def test_a_restart_that_a_killed_run_asked_for_is_done_by_the_next(host, systemd, monkeypatch):
    host.run(host.agent())
    changed = host.agent(settings={"PORT": "1"})

    def killed(*_arguments):
        raise OpsError("killed")

    for place, step in ((gateway, "plan_gateways"), (gateway.GatewayPlan, "restart_due")):
        with monkeypatch.context() as patch:
            patch.setattr(place, step, killed)
            assert host.run(changed)["failed"]
    systemd.asked.clear()
    result = host.run(changed)
    assert not result["agents"]["default"]["changed"]
    assert result["restarted"] == {"default": ["env: PORT"]}
    assert systemd.verbs[-1] == f"restart {UNIT}"
    assert not host.run(changed)["changed"]


def test_a_manager_that_nothing_needs_any_more_runs_no_longer_than_that(host, systemd, monkeypatch, tmp_path):
    user = host.agent()["gateway"]["user"]
    (tmp_path / "linger").mkdir()
    (tmp_path / "linger" / user).touch()
    monkeypatch.setattr(groundwork, "LINGER", str(tmp_path / "linger"))
    monkeypatch.setattr(groundwork, "COMMENT", pwd.getpwnam(user).pw_gecos.split(",")[0])
    asked = []
    monkeypatch.setattr(work, "run", lambda argv, **options: asked.append((argv, len(systemd.asked))))
    checked = host.run(host.agent(), _ansible_check_mode=True)
    assert f"{tmp_path}/linger/{user}: present" in checked["diff"][-1]["before"]
    assert asked == []
    host.run(host.agent())
    # Lingering ends after all calls about units.
    assert [argv for argv, _after in asked] == [["loginctl", "disable-linger", user]]
    assert asked[0][1] == len(systemd.asked)


# Agents that are absent


def test_an_absent_agent_is_stopped_and_purged_where_that_is_declared(host, systemd):
    host.run(host.agent(), host.agent("other", config_scope="managed", **DECLARED["config"]))
    gone = [host.agent(state="absent"), host.agent("other", state="absent", purge=True, config_scope="managed")]
    systemd.asked.clear()
    checked = host.run(*gone, _ansible_check_mode=True)
    assert checked["purged"] == ["other"]
    assert systemd.asked == []
    assert (host.top / "other").exists()
    result = host.run(*gone)
    assert result["purged"] == ["other"]
    assert checked["diff"] == result["diff"]
    assert [each["before_header"] for each in result["diff"]] == ["units", "other: purged"]
    assert {f"disable --now {UNIT}", "disable --now hermes-gateway@other.service"} <= set(systemd.verbs)
    assert result["agents"] == {}
    assert result["units"] == []
    assert host.home.exists()
    for path in (host.top / "other", host.top / "managed/other", Path(host.ops, "agents/other")):
        assert not path.exists()
    assert not host.run(*gone)["changed"]


def test_a_home_that_cannot_be_purged_keeps_no_other(host, systemd):
    names = ("bob", "eve")
    host.run(*(host.agent(name) for name in names))
    (host.top / "bob/profiles/carol").mkdir(parents=True)
    result = host.run(*(host.agent(name, state="absent", purge=True) for name in names))
    assert result["failed"]
    assert result["msg"].startswith(f"agent bob: {host.top}/bob: holds profiles of its own: carol. Fix: ")
    assert result["purged"] == ["eve"]
    assert (host.top / "bob").exists()
    assert not (host.top / "eve").exists()


# What a run takes away


def test_an_agent_that_leaves_the_list_is_said_until_it_is_decided(host, systemd):
    left = Records(host.ops, "left")
    assert host.run(host.agent(), host.agent("left"))["warnings"] == []
    systemd.asked.clear()
    for check_mode in (True, False, False):
        marked = left.is_undeclared()
        (warning,) = host.run(host.agent(), _ansible_check_mode=check_mode)["warnings"]
        assert warning.startswith("agent left left hermes_agents, but not ")
        # It lies elsewhere than a home of its own, so its place belongs to the declaration.
        assert f"home: {host.top}/left, state: absent" in warning
        assert "purge: true" in warning
        assert left.is_undeclared() == (marked or not check_mode)
    assert systemd.asked == []
    assert host.run(host.agent(), host.agent("left"))["warnings"] == []
    assert not left.is_undeclared()
    assert host.run(host.agent(), host.agent("left", state="absent"))["warnings"] == []
    assert host.run(host.agent())["warnings"] == []


MODEL = {"model": {"default": "a/b", "provider": "openrouter"}, "display": {"compact": True}}
KEYS = {"OPENROUTER_API_KEY": SECRET, "DISCORD_BOT_TOKEN": "x.y.z", "HF_TOKEN": SECRET}


def test_a_model_and_keys_that_a_run_takes_away_are_said(host, systemd):
    declared = host.agent(config=MODEL, secrets=KEYS)
    assert host.run(declared)["warnings"] == []
    for check_mode in (True, False):
        (warning,) = host.run(host.agent(), _ansible_check_mode=check_mode)["warnings"]
        assert warning.endswith(
            "loses what is no longer declared: model.default, model.provider, OPENROUTER_API_KEY, HF_TOKEN"
        )
    assert host.run(host.agent())["warnings"] == []


@pytest.mark.parametrize(
    "changed",
    [
        {"config": {"model": {"default": "c/d", "provider": "nous"}}, "secrets": {**KEYS, "HF_TOKEN": "other"}},
        {"config": MODEL, "secrets": KEYS, "config_scope": "managed"},
        {"config": MODEL, "secrets": {name: KEYS[name] for name in KEYS if name != "DISCORD_BOT_TOKEN"}},
    ],
    ids=["another model", "another scope", "another secret"],
)
def test_what_is_replaced_or_moved_is_not_said_to_be_lost(host, systemd, changed):
    host.run(host.agent(config=MODEL, secrets=KEYS))
    assert host.run(host.agent(**changed))["warnings"] == []


# Rights and secrets


@pytest.fixture
def open_to_all():
    # The directories of pytest are the tester's own: another user does not get through them.
    with tempfile.TemporaryDirectory() as directory:
        os.chmod(directory, 0o755)
        yield Path(directory)


@parts
def test_as_another_user(host, part, open_to_all):
    if os.geteuid() != 0:
        pytest.skip("only root can act as another user")
    nobody = pwd.getpwnam("nobody")
    host.home = open_to_all / "home"
    host.home.mkdir()
    target = host.home / "target"
    target.write_text("{}")
    for path in (host.home, target):
        os.chown(path, nobody.pw_uid, nobody.pw_gid)
    (host.home / FILES[part]).symlink_to(target)
    assert host.run(host.agent(account="nobody", **DECLARED[part]))["changed"]
    status = os.lstat(host.home / FILES[part])
    assert (status.st_uid, stat.S_IMODE(status.st_mode)) == (nobody.pw_uid, 0o600)
    assert target.read_text() == "{}"
    assert os.stat(host.records.directory).st_uid == 0


def test_it_imports_nothing_but_what_a_bare_host_has():
    # PyYAML comes with the role base; check mode runs before it.
    code = f"import sys; sys.modules['yaml'] = None; import {work.__name__}"
    path = os.pathsep.join(sys.path)
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": path})


@pytest.mark.parametrize("broken", [False, True])
@pytest.mark.parametrize(
    "declared",
    [
        {"webhooks": [{"name": "hook", "deliver_extra": {"bot_token": "hunter2-hunter2"}}]},
        {"webhooks": [{"name": "hook", "prompt": "call it with --token hunter2-hunter2"}]},
        {"config": {"slack": {"clientSecret": "hunter2-hunter2"}}},
        {"config": {"x": {"url": "https://hooks.slack.com/services/T0/B0/hunter2-hunter2"}}},
        {"config": {"x": {"args": ["--token", "hunter2-hunter2"]}}},
        {"settings": {"botPass": "hunter2-hunter2"}},
        {"secrets": {"MY_TOKEN": "hunter2-hunter2"}},
        {"webhooks": [{"name": "hook", "secret": "hunter2-hunter2"}]},
    ],
)
def test_arguments_show_no_secret(host, declared, broken):
    """Neither the arguments, which -vvv shows, nor the diff; also if an agent's files are broken."""
    host.home.mkdir()
    if broken:
        (host.home / "webhook_subscriptions.json").write_text("{")
    result = host.run(host.agent(**declared))
    # A secret under settings is refused.
    assert bool(result.get("failed")) == (broken or "settings" in declared)
    shown = json.dumps(result)
    assert "hunter2" not in shown
    assert "(secret)" in shown
    (argument,) = result["invocation"]["module_args"]["agents"]
    assert argument["name"] == "default"


@pytest.mark.parametrize(
    "replaced",
    [
        {"secrets": {"MY_TOKEN": "another"}},
        {"webhooks": [{"name": "hook", "prompt": "p", "secret": "another"}]},
        {"secrets": {}, "webhooks": []},
    ],
)
def test_an_old_secret_is_not_shown_when_it_is_replaced_or_removed(host, replaced):
    """Ansible cannot mask the old secret, because the arguments do not have it; every run checks the output for it."""
    declared = {"secrets": DECLARED["env"]["secrets"], **DECLARED["webhooks"]}
    host.run(host.agent(**declared))
    result = host.run(host.agent(**{**declared, **replaced}))
    for name in replaced:
        file = FILES["env" if name == "secrets" else name]
        assert f"default: {host.home}/{file}" in [each["after_header"] for each in result["diff"]]
        assert SECRET not in (host.home / file).read_text()


@needs_root
def test_a_look_without_the_agent_s_user_is_not_root_s(tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    assert work.reader(str(home)).uid == Account.named("nobody").uid
    os.chown(home, 4711, 4712)
    assert (work.reader(str(home)).uid, work.reader(str(home)).gid) == (4711, 4712)
    assert work.reader(str(tmp_path / "none")).uid == Account.named("nobody").uid


@needs_root
def test_a_home_whose_user_is_only_planned_is_never_looked_at_as_root(tmp_path):
    """In check mode a link in the place of the home does not reveal the owner of its target."""
    theirs, ours = tmp_path / "theirs", tmp_path / "ours"
    for path in (theirs, ours):
        path.mkdir()
    daemon, nobody = Account.named("daemon").uid, Account.named("nobody").uid
    os.chown(theirs, daemon, -1)
    links = {}
    for name, target, owner in (("to_ours", ours, daemon), ("to_theirs", theirs, 0)):
        links[name] = tmp_path / name
        links[name].symlink_to(target)
        os.chown(links[name], owner, -1, follow_symlinks=False)
    seen = {path.name: work.reader(str(path)).uid for path in (theirs, ours, *links.values(), tmp_path / "nothing")}
    assert seen == {"theirs": daemon, "ours": nobody, "to_ours": daemon, "to_theirs": nobody, "nothing": nobody}
