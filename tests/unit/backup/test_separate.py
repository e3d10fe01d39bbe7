# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""An adopted home is taken apart: wherever it is killed, each agent is unchanged or has a home of its own."""

from __future__ import annotations

import contextlib
import functools
import importlib
import io
import json
import os
import re
import shutil
import signal
import stat
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.agent import carry, stream
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.backup import separable, separate
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.commands import separate as command
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.description import declaration
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.description.agent import Agent
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.host import (
    groundwork,
    guard,
    installation,
    logs,
)
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.host.installation import Installation
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.host.undertaking import Interrupted
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.supervise import health, units
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.errors import OpsError
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.files import Account
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.process import Completed
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.systemd import Manager
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.worker import Limits
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.watch import info

KIT = separate.__name__.rsplit(".", 2)[0]
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="SKIPPED, NOT PROVED: only root gives homes to other users")
SETTINGS = logs.Settings(days=7, max_size="50M", paths=(), journal_max_use="500M", journal_days=0)


def declared(top: Path, *, adopted: bool = True) -> dict[str, Agent]:
    """The description of each agent, as site.yml makes it."""
    where = {"default": top / "ada/.hermes", "work": top / "ada/.hermes/profiles/work"}
    agents = []
    for number, (name, home) in enumerate(where.items()):
        agents.append({"name": name, "api": {"port": 8642 + number}, "webhook": {"port": 8652 + number}})
        if adopted:
            agents[-1].update({"user": "ada", "home": str(home)})
    found = declaration.resolve(agents, host="box", data_dir=str(top / "data"), managed_root=str(top / "managed"))
    return {name: each.agent for name, each in found.items()}


class Host(Installation):
    """A host whose systemd is a directory: a unit runs while it has a file there."""

    def __init__(self, top: Path) -> None:
        super().__init__(
            {
                "scope": "system",
                "data_dir": str(top / "data"),
                "ops_dir": str(top / "data/ops"),
                "root": str(top / "opt"),
                "managed_root": str(top / "managed"),
            }
        )
        self.top = top

    def home_in_unit(self, name: str) -> Path:
        """The home in which the gateway of agent *name* would run if it were started now."""
        text = (self.top / f"units/hermes-gateway@{name}.service.d/agent.conf").read_text()
        return Path(re.search(r"^Environment=HERMES_HOME=(.*)$", text, re.M).group(1))

    def call(self, verb: str, *arguments: str) -> Completed:
        sys.audit("systemctl", verb)
        names = [argument for argument in arguments if argument.startswith("hermes-gateway@")]
        running = {name: self.top / "running" / name for name in names}
        if verb == "show":
            blocks = (
                f"ActiveState={'active' if running[name].exists() else 'inactive'}\nSubState=running\nMainPID=1"
                for name in names
            )
            return Completed((), 0, "\n\n".join(blocks), "")
        for name, path in running.items():
            if verb == "start" and not path.exists():
                home = self.home_in_unit(name.partition("@")[2].partition(".")[0])
                assert str(home) not in [other.read_text() for other in path.parent.iterdir()]
                path.write_text(str(home))
                (home / "gateway.pid").write_text("1")
            if verb == "stop":
                path.unlink(missing_ok=True)
        return Completed((), 0, "", "")

    def look(self, agent: Agent) -> health.Health:
        result = health.Health(agent.name)
        path = self.top / "running" / agent.unit
        if not path.exists() or path.read_text() != agent.home:
            result.problems.append(health.Problem("not_running", "it does not run", "start it"))
        if agent.user != "ada" and (self.top / "sick").exists():
            result.problems.append(health.Problem("sick", "it is sick", "heal it"))
        return result


def fill(top: Path) -> None:
    """Ada's home, with one profile that is an agent, and one that is not declared."""
    home = top / "ada/.hermes"
    job = {"name": "tidy", "workdir": f"{home}/workspace", "script": f"{home}/scripts/tidy.sh", "prompt": f"in {home}"}
    for name, text in {
        "config.yaml": f"terminal:\n  cwd: {home}/workspace\n",
        "cron/jobs.json": json.dumps({"jobs": [job, {"name": "other", "workdir": "/srv"}]}),
        "memories/MEMORY.md": "of default\n",
        "logs/agent.log": f"{home}\n",
        "profiles/work/config.yaml": "model: of work\n",
        "profiles/work/memories/MEMORY.md": "of work\n",
        "profiles/notes/config.yaml": "model: of nobody\n",
    }.items():
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text(text)
    (home / "profiles/work/link").symlink_to(home / "memories")


@pytest.fixture
def host(tmp_path, monkeypatch):
    """Two agents in one home, converged; workers are plain calls, and all users are the test's own."""
    host = Host(tmp_path)
    monkeypatch.setattr(Manager, "call", lambda _self, *words, **_options: host.call(*words))
    monkeypatch.setattr(Manager, "reachable", True)
    monkeypatch.setattr(health, "wait", lambda agents, *_more: [host.look(agent) for agent in agents])
    monkeypatch.setattr(guard, "UNIT_DIRECTORY", str(tmp_path / "guards"))
    monkeypatch.setitem(units.UNIT_DIRECTORIES, "system", str(tmp_path / "units"))
    monkeypatch.setattr(installation, "AGENTS", str(tmp_path / "agents"))
    monkeypatch.setattr(logs, "CONFIG", str(tmp_path / "logrotate-{}"))
    monkeypatch.setattr(logs, "UNIT", str(tmp_path / "logrotate@{}.service"))
    me = Account.current()
    monkeypatch.setattr(Account, "named", lambda name: Account(name, me.uid, me.gid, "/nonexistent"))
    monkeypatch.setattr(separate, "make_user", lambda user, _home, _data_dir: None)
    for module in (separable, separate):
        monkeypatch.setattr(module, "work", called)
    monkeypatch.setattr(separate, "carry_over", copied)
    # fsync is slow, and these tests cut no power.
    monkeypatch.setattr(os, "sync", lambda: None)
    monkeypatch.setattr(os, "fsync", lambda _descriptor: None)
    converge(host)
    return host


def called(_account, function, *arguments, **_options):
    module, name = function.split(":")
    return getattr(importlib.import_module(f"{KIT}.{module}"), name)(*arguments)


def copied(_old, home, _new, copy):
    ignored = shutil.ignore_patterns(*separable.LEFT_OUT)

    def left_out(path, names):
        return ignored(path, names) if path == home else []

    shutil.copytree(home, copy, symlinks=True, ignore=left_out)


def converge(host: Host) -> None:
    """What site.yml leaves on a host that has never seen a separation."""
    for name in ("ada", "data", "opt", "running", "units", "guards"):
        shutil.rmtree(host.top / name, ignore_errors=True)
        (host.top / name).mkdir(mode=0o755)
    fill(host.top)
    for name, agent in declared(host.top).items():
        (host.top / "data/agents" / name).mkdir(parents=True)
        host.records(name).prepare()
        host.records(name).write_agent(agent)
    for path, text in written(host, declared(host.top)).items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    for agent in declared(host.top).values():
        host.call("start", agent.unit)
    host.__dict__.pop("agents", None)


def written(host: Host, agents: dict[str, Agent]) -> dict[Path, str]:
    """What site.yml writes for *agents* on a host where everything is on."""
    unit_settings = units.UnitSettings("system", host.root, 252, 10, 300)
    homes = [logs.Home(each.name, each.home, each.user, logs.group_of(each.user)) for each in agents.values()]
    rotations = logs.rotations(SETTINGS, homes)
    first = agents["default"]
    return {
        **{Path(installation.AGENTS, f"{name}.json"): published(agent) for name, agent in agents.items()},
        **{Path(logs.CONFIG.format(each.name)): each.config for each in rotations},
        **{Path(logs.UNIT.format(each.name)): logs.render_unit(each) for each in rotations},
        Path(unit_settings.dashboard_path): units.render_dashboard(
            unit_settings, first, host.account_of(first), "127.0.0.1", 9119
        ),
        **{
            Path(unit_settings.drop_in_path(name)): units.render_drop_in(unit_settings, agent, host.account_of(agent))
            for name, agent in agents.items()
        },
    }


def published(agent: Agent) -> str:
    """The public facts about an agent; none of these agents has a managed scope."""
    said = {"name": agent.name, "user": agent.user, "home": agent.home, "managed_dir": None}
    return json.dumps(said, indent=2) + "\n"


def tree(top: Path) -> dict[str, object]:
    """What is in *top*, without what a gateway leaves when it runs."""
    found: dict[str, object] = {}
    for directory, names, files in os.walk(top):
        for name in names + files:
            path = Path(directory, name)
            key = str(path.relative_to(top))
            if name != "gateway.pid":
                found[key] = os.readlink(path) if path.is_symlink() else path.read_bytes() if path.is_file() else None
    return found


def run(host: Host, *names: str, say=lambda _text: None) -> list[dict]:
    return separate.Separate(host, say).separate(list(names))


def recover(host: Host, *, boot: bool = False) -> str | None:
    host.__dict__.pop("agents", None)
    with host.lock("separate"):
        return separate.Separate(host, lambda _text: None).recover(boot=boot)


def is_apart(host: Host, name: str) -> bool:
    return host.records(name).agent().user != "ada"


def check_before(host: Host) -> None:
    """Nothing is left of a separation that was undone."""
    assert tree(host.top / "ada")[".hermes/profiles/work/memories/MEMORY.md"] == b"of work\n"
    assert {path: path.read_text() for path in written(host, declared(host.top))} == written(host, declared(host.top))
    assert sorted(os.listdir(host.top / "data/agents")) == ["default", "work"]
    assert os.listdir(host.top / "data/agents/work") == []


# What is chosen


def test_those_that_share_a_home_or_a_user_are_chosen_the_inner_ones_first(host):
    chosen = separable.choose(list(declared(host.top).values()), [], [])
    assert [agent.name for agent in chosen] == ["work", "default"]


def test_agents_with_homes_of_their_own_stay_also_where_a_user_is_shared(host):
    agents = [replace(agent, user="team") for agent in declared(host.top, adopted=False).values()]
    assert separable.choose(agents, [], []) == []
    with pytest.raises(OpsError, match="agent work has a home of its own already"):
        separable.choose(agents, ["work"], [])


def test_a_home_that_holds_another_agents_is_not_separated_alone(host):
    with pytest.raises(OpsError, match=r"holds that of agent work.*hermes-ops separate work default"):
        run(host, "default")
    check_before(host)


def test_an_agent_that_is_not_there_is_named(host):
    with pytest.raises(OpsError, match=r"there is no agent 'wrok'.*default, work"):
        run(host, "wrok")


# What is refused, before anything is changed


@pytest.mark.parametrize(
    ("entry", "what"),
    [
        (("Ada's own", "/home/x", 1500), "user hermes-work exists already and is not this agent's"),
        (("Hermes agent", "/var/lib/other", 900), "user hermes-work exists already and is not this agent's"),
    ],
)
def test_a_user_of_somebody_else_is_not_taken(host, monkeypatch, entry, what):
    gecos, home, uid = entry
    account = separable.pwd.struct_passwd(("hermes-work", "x", uid, uid, gecos, home, "/bin/sh"))
    monkeypatch.setattr(separable.pwd, "getpwnam", lambda _name: account)
    with pytest.raises(OpsError, match=what):
        run(host)
    check_before(host)


def test_a_name_that_no_user_can_have_is_refused(host):
    agent = replace(declared(host.top)["work"], name="w" * 40)
    with pytest.raises(OpsError, match="more than the 32 characters"):
        separable.check_user(f"hermes-{agent.name}", agent, [agent])


def test_a_user_that_runs_another_agent_is_refused(host):
    default, work = declared(host.top).values()
    with pytest.raises(OpsError, match="runs agent default already"):
        separable.check_user("hermes-work", work, [replace(default, user="hermes-work"), work])


@pytest.mark.parametrize("stopped", ["default", "work"])
def test_an_agent_that_does_not_run_is_refused_and_so_are_the_others(host, stopped):
    host.call("stop", f"hermes-gateway@{stopped}.service")
    with pytest.raises(OpsError, match=f"agent {stopped} does not run"):
        run(host)
    check_before(host)


def test_a_unit_that_somebody_changed_is_refused(host):
    path = host.top / "units/hermes-gateway@default.service.d/agent.conf"
    path.write_text(path.read_text() + "Nice=5\n")
    with pytest.raises(OpsError, match="is not what the host was converged to"):
        run(host)
    assert not is_apart(host, "work")


def test_what_is_in_the_way_is_left_alone(host):
    (host.top / "data/agents/work.new").mkdir()
    (host.top / "data/agents/work.new/file").touch()
    with pytest.raises(OpsError, match=r"work.new: is in the way"):
        run(host)
    assert (host.top / "data/agents/work.new/file").exists()


def test_a_full_disk_is_refused(host, monkeypatch):
    monkeypatch.setattr(separable, "RESERVE", 1 << 60)
    with pytest.raises(OpsError, match="has 0 MiB for the copies"):
        run(host)
    check_before(host)


def test_gateways_of_users_own_managers_are_refused(host):
    host.scope = "user"
    with pytest.raises(OpsError, match="gateway_scope: system"):
        run(host)


@pytest.mark.parametrize(
    ("job", "path", "words"),
    [
        ("update", "update/journal.json", "an update was interrupted.*update --recover"),
        ("restore", "agents/work/restore.json", "a restore .* was interrupted.*restore --recover"),
    ],
)
def test_nothing_is_begun_on_top_of_another_interrupted_job(host, job, path, words):
    journal = host.top / "data/ops" / path
    journal.parent.mkdir(exist_ok=True)
    journal.write_text("{}")
    assert host.unfinished(job)
    with pytest.raises(OpsError, match=words):
        run(host)
    check_before(host)


def test_the_restore_of_another_agent_keeps_nobody_from_a_separation(host):
    journal = host.top / "data/ops/agents/other/restore.json"
    journal.parent.mkdir()
    journal.write_text("{}")
    run(host)
    assert journal.exists()


def test_check_changes_nothing_and_says_the_same(host):
    before = tree(host.top)
    said = separate.Separate(host, pytest.fail).check([])
    assert tree(host.top) == before
    done = run(host)
    for one in (*said, *done):
        del one["jobs"], one["aside"]
    assert said == done


# What it does


def test_each_agent_has_a_home_and_a_user_of_its_own_afterwards(host):
    original = tree(host.top / "ada/.hermes")
    results = run(host)
    assert [result["agent"] for result in results] == ["work", "default"]
    for name in ("default", "work"):
        home = host.top / "data/agents" / name / ".hermes"
        assert (home / "memories/MEMORY.md").read_text() == f"of {name}\n"
        assert not (home / "profiles").exists()
        assert host.home_in_unit(name) == home
        assert (host.top / f"running/hermes-gateway@{name}.service").read_text() == str(home)
    assert (host.top / "data/agents/work/.hermes/link").is_symlink()
    assert not (host.top / "ada/.hermes").exists()
    aside = {result["agent"]: Path(result["aside"]) for result in results}
    kept = {**{f"profiles/work/{path}": what for path, what in tree(aside["work"]).items()}, **tree(aside["default"])}
    assert {**kept, "profiles/work": None} == original
    assert sorted(os.listdir(host.top / "data/agents")) == ["default", "work"]
    assert os.listdir(host.top / "guards/multi-user.target.wants") == []
    assert not host.unfinished("separate")


def test_one_profile_leaves_and_the_home_around_it_stays_as_it_is(host):
    before = tree(host.top / "ada/.hermes")
    run(host, "work")
    after = tree(host.top / "ada/.hermes")
    assert after == {path: what for path, what in before.items() if not path.startswith("profiles/work")}
    assert not is_apart(host, "default")
    assert (host.top / "running/hermes-gateway@default.service").read_text() == str(host.top / "ada/.hermes")


def test_afterwards_the_host_is_as_site_yml_would_have_it(host):
    run(host)
    expected = written(host, declared(host.top, adopted=False))
    assert {path: path.read_text() for path in expected} == expected
    for name, agent in declared(host.top, adopted=False).items():
        assert host.records(name).agent() == agent


def test_cron_jobs_find_what_they_found_and_an_owners_words_stay(host):
    old, new = host.top / "ada/.hermes", host.top / "data/agents/default/.hermes"
    result = run(host)[1]
    tidy, other = json.loads((new / "cron/jobs.json").read_text())["jobs"]
    assert tidy == {
        "name": "tidy",
        "workdir": f"{new}/workspace",
        "script": f"{new}/scripts/tidy.sh",
        "prompt": f"in {old}",
    }
    assert other == {"name": "other", "workdir": "/srv"}
    assert result["jobs"] == [f"tidy: script is {new}/scripts/tidy.sh", f"tidy: workdir is {new}/workspace"]
    # Named, not changed; a log is history.
    assert result["naming"] == ["config.yaml", "cron/jobs.json"]
    assert (new / "config.yaml").read_text() == f"terminal:\n  cwd: {old}/workspace\n"


def test_the_command_says_what_to_change_in_the_declaration(host):
    lines = command.lines(run(host), check=False)
    assert lines[-1] == "now remove home and user of work, default in hermes_agents, and run site.yml"
    assert command.lines([], check=False) == ["no adopted agents share a home or a user"]


def test_a_declaration_that_leads_back_is_an_objection(host):
    def objections(agents):
        return info._separated(list(agents.values()), host.ops_dir)

    assert objections(declared(host.top)) == []
    run(host)
    assert objections(declared(host.top, adopted=False)) == []
    first, second = objections(declared(host.top))
    assert "agent default was separated from" in first
    assert "Fix: remove home and user of this agent in hermes_agents" in first
    assert "agent work was separated from" in second
    only_user = {"work": replace(declared(host.top, adopted=False)["work"], user="ada")}
    assert "its declared user would lead back" in objections(only_user)[0]


def test_who_is_left_behind_comes_with_the_next_run(host, monkeypatch):
    """The state after a first run that was killed between the two agents."""
    run(host, "work")
    host.__dict__.pop("agents")
    assert [result["agent"] for result in run(host)] == ["default"]


def test_a_second_run_finds_nothing_to_do(host):
    run(host)
    host.__dict__.pop("agents")
    assert run(host) == []


@pytest.mark.parametrize("version", ["0.21.4", "0.22.0", "v0.21.4.post1"])
def test_a_shared_home_is_named_once_one_gateway_serves_all_of_it(host, version):
    (said,) = separable.shared_homes(list(declared(host.top).values()), version)
    assert said == (
        f"{host.top}/ada/.hermes holds the homes of default and work, and Hermes {version} serves all of them from "
        "the gateway of default"
    )
    assert separable.shared_homes(list(declared(host.top, adopted=False).values()), version) == []


@pytest.mark.parametrize("version", [None, "", "main", "0.21.3", "0.19.0", "0.21.4rc1"])
def test_a_shared_home_is_nothing_to_name_before(host, version):
    assert separable.shared_homes(list(declared(host.top).values()), version) == []


# What goes wrong


def test_an_agent_that_is_not_healthy_goes_back_and_its_copy_is_kept(host):
    (host.top / "sick").touch()
    before = tree(host.top / "ada")
    said = []
    with pytest.raises(OpsError, match=r"not healthy in its own home, so the separation was undone.*it is sick"):
        run(host, say=said.append)
    assert tree(host.top / "ada") == before
    assert not is_apart(host, "work")
    assert host.home_in_unit("work") == host.top / "ada/.hermes/profiles/work"
    assert (host.top / "running/hermes-gateway@work.service").read_text() == str(host.home_in_unit("work"))
    (kept,) = (host.top / "data/agents").glob("work.undone-*")
    assert (kept / ".hermes/memories/MEMORY.md").read_text() == "of work\n"
    assert f"the copy is in {kept}" in said
    assert host.records("work").separated() is None


def test_a_home_that_changes_while_it_is_copied_goes_back(host, monkeypatch):
    def changing(old, home, new, copy):
        copied(old, home, new, copy)
        Path(home, "memories/MEMORY.md").write_text("somebody's\n")

    monkeypatch.setattr(separate, "carry_over", changing)
    with pytest.raises(OpsError, match="changed while it was copied"):
        run(host)
    assert sorted(os.listdir(host.top / "data/agents")) == ["default", "work"]
    assert not is_apart(host, "work")
    assert (host.top / "running/hermes-gateway@work.service").exists()


def test_a_copy_that_cannot_be_removed_is_kept_and_the_agent_runs(host, monkeypatch):
    def refused(account, function, *arguments, **options):
        if function.endswith(":discard"):
            raise OpsError("will not go")
        return called(account, function, *arguments, **options)

    def broken(*arguments):
        copied(*arguments)
        raise OpsError("no more")

    monkeypatch.setattr(separate, "work", refused)
    monkeypatch.setattr(separate, "carry_over", broken)
    with pytest.raises(OpsError, match="no more"):
        run(host, "work")
    assert len(list((host.top / "data/agents").glob("work.undone-*"))) == 1
    assert (host.top / "running/hermes-gateway@work.service").exists()
    assert not host.unfinished("separate")


def test_a_home_in_which_somebody_else_works_goes_back(host):
    with open(host.top / "ada/.hermes/profiles/work/memories/MEMORY.md") as held:
        pid = os.fork()
        if pid == 0:
            signal.pause()
        held.fileno()
        try:
            with pytest.raises(OpsError, match=rf"is used by process .*{pid} \("):
                run(host, "work")
        finally:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
    check_before(host)


def test_what_else_was_in_the_agents_directory_is_named(host):
    (host.top / "data/agents/work/notes.txt").write_text("of ada")
    said = []
    run(host, "work", say=said.append)
    assert (host.top / "data/agents/work.before/notes.txt").read_text() == "of ada"
    assert any("work.before" in str(line) for line in said)


def test_what_took_the_place_of_the_original_is_not_moved(host, monkeypatch):
    """Another directory appears in the place of the original during the run."""
    home = host.top / "ada/.hermes/profiles/work"

    def swapped(agents, *_more):
        if agents[0].user != "ada":
            home.rename(host.top / "ada/taken")
            home.mkdir()
        return [host.look(agent) for agent in agents]

    said = []
    monkeypatch.setattr(health, "wait", swapped)
    run(host, "work", say=said.append)
    assert f"{home} is not the directory that was copied, so it stays where it is" in said
    assert home.is_dir()
    assert (host.top / "ada/taken/memories/MEMORY.md").read_text() == "of work\n"


# Killed

EVENTS = ("systemctl", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.chown", "os.symlink")


@pytest.fixture
def killed_at(killed_at_change):
    """Killed right before a change of the disk, or an order to systemd."""
    return functools.partial(killed_at_change, is_change=lambda event, _arguments: event in EVENTS)


def check_whole(host: Host, original: dict[str, object]) -> None:
    """The original is complete, in place or set aside, and the unit's home has the agent's data."""
    places = [host.top / "ada/.hermes/profiles/work", *(host.top / "data/ops/set-aside").glob("work-*")]
    assert [tree(place) for place in places if place.exists()] == [original]
    assert tree(host.home_in_unit("work")) == original


def check_recovered(host: Host) -> None:
    """The agent is separated or not, and nothing is left over."""
    assert not host.unfinished("separate")
    assert list((host.top / "guards").rglob("*.service")) == []
    gone = not (host.top / "ada/.hermes/profiles/work").exists()
    assert is_apart(host, "work") == gone == bool(host.records("work").separated())
    agents = {**declared(host.top), **({"work": declared(host.top, adopted=False)["work"]} if gone else {})}
    assert {path: path.read_text() for path in written(host, agents)} == written(host, agents)
    assert host.records("work").agent() == agents["work"]
    left = [name for name in os.listdir(host.top / "data/agents") if ".undone-" not in name]
    assert sorted(left) == ["default", "work"]


def test_killed_anywhere_one_of_the_two_is_whole_and_the_next_finishes_or_undoes(host, killed_at):
    original = tree(host.top / "ada/.hermes/profiles/work")
    ends = set()
    for number in range(1000):
        converge(host)
        over = killed_at(number, lambda: run(host, "work"))
        check_whole(host, original)
        recover(host)
        check_whole(host, original)
        check_recovered(host)
        assert (host.top / "running/hermes-gateway@work.service").read_text() == str(host.home_in_unit("work"))
        ends.add(is_apart(host, "work"))
        if over:
            break
    assert number > 30
    assert ends == {True, False}


@pytest.mark.parametrize("step", ["_copy", "_switch", "_start", "_set_aside"])
def test_killed_anywhere_while_it_recovers_the_next_recovers(host, monkeypatch, step, killed_at):
    original = tree(host.top / "ada/.hermes/profiles/work")
    whole = getattr(separate.Separate, step)

    def stop_there(self, *arguments):
        whole(self, *arguments)
        os.kill(os.getpid(), signal.SIGKILL)

    for number in range(1000):
        converge(host)
        with monkeypatch.context() as patch:
            patch.setattr(separate.Separate, step, stop_there)
            assert not killed_at(1000, lambda: run(host, "work"))
        # The power was cut: nothing runs.
        shutil.rmtree(host.top / "running")
        (host.top / "running").mkdir()
        over = killed_at(number, lambda: recover(host, boot=True))
        check_whole(host, original)
        recover(host)
        check_whole(host, original)
        check_recovered(host)
        assert is_apart(host, "work") == (step == "_set_aside")
        if over:
            break
    assert number >= 3


def test_an_original_that_cannot_be_set_aside_blocks_nobody(host, monkeypatch):
    """Another agent of the same user has put a link in the place of its parent, while its gateway was started."""
    profiles, start = host.top / "ada/.hermes/profiles", separate.Separate._start

    def started(self, *arguments):
        start(self, *arguments)
        profiles.rename(host.top / "ada/.hermes/moved")
        profiles.symlink_to("/etc")

    def refuse(path):
        if path == str(profiles):
            raise OpsError("is reached through a link", where=path)
        return opened(path)

    opened = separate.opened
    monkeypatch.setattr(separate.Separate, "_start", started)
    monkeypatch.setattr(separate, "opened", refuse)
    said = []
    (result,) = run(host, "work", say=said.append)
    assert result["aside"] == str(profiles / "work")
    assert any("cannot be set aside" in str(line) for line in said)
    assert not host.unfinished("separate")
    assert is_apart(host, "work")


def test_a_gateway_that_does_not_start_again_blocks_nobody(host, monkeypatch):
    """Another agent of the same user has removed its home meanwhile."""

    def removed(_old, home, *_more):
        shutil.rmtree(home)
        raise OpsError("is gone", where=home)

    def failing(verb, *names):
        if verb == "start":
            raise OpsError("exited with status 1", where="systemctl start")
        return call(verb, *names)

    call = host.call
    monkeypatch.setattr(separate, "carry_over", removed)
    monkeypatch.setattr(host, "call", failing)
    with pytest.raises(OpsError, match="is gone"):
        run(host, "work")
    assert not host.unfinished("separate")
    assert {path: path.read_text() for path in written(host, declared(host.top))} == written(host, declared(host.top))


def test_a_signal_leads_back(host, monkeypatch):
    """A closed terminal interrupts the copy."""
    job = separate.Separate(host, lambda _text: None)

    def ended(*_arguments):
        os.kill(os.getpid(), signal.SIGHUP)

    monkeypatch.setattr(separate, "carry_over", ended)
    with contextlib.ExitStack() as stack:
        for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
            stack.callback(signal.signal, number, signal.getsignal(number))
        job.undertaking.listen([signal.SIGHUP])
        with pytest.raises(Interrupted, match="SIGHUP"):
            job.separate(["work"])
    check_before(host)
    assert (host.top / "running/hermes-gateway@work.service").exists()


# With workers, as two users


@pytest.fixture
def place():
    """A directory that every user may enter, unlike pytest's own."""
    path = Path(tempfile.mkdtemp(prefix="hermes-separate-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


def give(path: Path, account: Account) -> None:
    for each in (path, *path.rglob("*")):
        os.chown(each, account.uid, account.gid, follow_symlinks=False)


@needs_root
def test_all_of_a_home_arrives_as_it_is_and_belongs_to_the_other_user(place):
    old, new = Account.named("nobody"), Account.named("daemon")
    home, top = place / "old", place / "new"
    fill(place)
    (place / "ada/.hermes").rename(home)
    (home / "state.db").write_bytes(b"\0" * 10000 + b"data")
    os.truncate(home / "state.db", 64 * 2**20)
    os.link(home / "config.yaml", home / "config.yaml.again")
    os.mkfifo(home / "pipe")
    (home / b"\xff\n name".decode(errors="surrogateescape")).write_text("odd")
    (home / "own.sh").touch()
    (home / "skills/.hermes-ops-mine").mkdir(parents=True)
    give(home, old)
    (home / "own.sh").chmod(0o6755)
    (home / "logs").chmod(0o500)
    (home / ".hermes-ops-set-aside-20260101T000000Z").mkdir(0o700)
    top.mkdir()
    os.chown(top, new.uid, new.gid)
    separate.carry_over(old, str(home), new, str(top / "home"))
    seen = [
        separable.work(account, "agent.carry:survey", str(path), separable.LEFT_OUT, [])
        for account, path in ((old, home), (new, top / "home"))
    ]
    assert seen[0] == {**seen[1], "size": seen[0]["size"]}
    # A hole stays one.
    assert seen[1]["size"] < 2**20
    assert {path.lstat().st_uid for path in (top / "home").rglob("*")} == {new.uid}
    assert (top / "home/own.sh").stat().st_mode & 0o7777 == 0o755
    assert (top / "home/config.yaml").stat().st_ino == (top / "home/config.yaml.again").stat().st_ino
    assert not (top / "home/profiles").exists()
    assert not list((top / "home").glob(".hermes-ops-*"))
    assert (top / "home/skills/.hermes-ops-mine").is_dir()
    # Root's process did not open anything: neither user could read the other's.
    assert (top / "home").stat().st_mode & 0o777 == home.stat().st_mode & 0o777


def test_a_file_that_is_larger_than_anybody_can_read_is_compared_by_what_is_in_it(tmp_path):
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        with open(tmp_path / name / "file", "wb") as stream:
            # Ends on no block's border, and differs in where the holes are.
            os.truncate(stream.fileno(), 2**41 + 5)
            if name == "other":
                os.pwrite(stream.fileno(), bytes(3 * 2**16), 2**40)
            os.pwrite(stream.fileno(), b"x" * 2**17 + b"/home/ada", 2**40 + 70_000)
        os.utime(tmp_path / name / "file", (1, 1))

    def survey(name):
        arguments = (str(tmp_path / name), [], ["/home/ada"])
        return separable.work(Account.current(), "agent.carry:survey", *arguments, limits=Limits(seconds=20.0))

    one, other = survey("one"), survey("other")
    assert one == {**other, "size": one["size"]}
    assert one["naming"] == ["file"]
    with open(tmp_path / "other/file", "r+b") as stream:
        os.pwrite(stream.fileno(), b"y", 2**39)
    os.utime(tmp_path / "other/file", (1, 1))
    assert survey("other")["digest"] != one["digest"]


@needs_root
def test_what_cannot_be_read_is_named_and_nothing_is_left_out_silently(place):
    old, new = Account.named("nobody"), Account.named("daemon")
    fill(place)
    home = place / "ada/.hermes"
    give(home, old)
    os.chown(home / "config.yaml", 0, 0)
    (home / "config.yaml").chmod(0o600)
    with pytest.raises(OpsError, match=r"config.yaml: cannot be read"):
        separable.work(old, "agent.carry:survey", str(home), [], [])
    (place / "new").mkdir()
    os.chown(place / "new", new.uid, new.gid)
    with pytest.raises(OpsError, match=r"cannot be copied: .*config.yaml"):
        separate.carry_over(old, str(home), new, str(place / "new/home"))


@needs_root
def test_a_copy_that_cannot_be_written_says_why(place):
    old, new = Account.named("nobody"), Account.named("daemon")
    fill(place)
    home = place / "ada/.hermes"
    (home / "large").write_bytes(os.urandom(4 * 2**20))
    give(home, old)
    (place / "new").mkdir()
    with pytest.raises(OpsError, match="cannot be made"):
        separate.carry_over(old, str(home), new, str(place / "new/home"))


@needs_root
def test_a_link_in_the_place_of_a_copy_leads_the_copy_nowhere(place):
    """A hostile stream of the old user must not be written anywhere but into the new home."""
    old, new = Account.named("nobody"), Account.named("daemon")
    fill(place)
    home = place / "ada/.hermes"
    (place / "outside").mkdir()
    (home / "way").symlink_to(place / "outside")
    (home / "hard").write_text("x")
    give(home, old)
    (place / "outside").chmod(0o777)
    (place / "new").mkdir()
    os.chown(place / "new", new.uid, new.gid)
    separate.carry_over(old, str(home), new, str(place / "new/home"))
    assert os.listdir(place / "outside") == []
    assert os.readlink(place / "new/home/way") == str(place / "outside")


def entry(name: str, kind: int, **more: object) -> bytes:
    header = json.dumps({"name": name, "kind": kind, "mode": 0o700, "mtime": 1, **more}).encode()
    return len(header).to_bytes(4, "big") + header


def part(start: int, data: bytes) -> bytes:
    return start.to_bytes(8, "big") + len(data).to_bytes(4, "big") + data


END_OF_FILE, END = part(0, b""), bytes(4)


@pytest.mark.parametrize(
    "said",
    [
        entry("../outside", stat.S_IFDIR),
        entry("..", stat.S_IFDIR),
        entry("way", stat.S_IFLNK, target="..") + entry("way/outside", stat.S_IFDIR),
        entry("outside", stat.S_IFREG, same="../kept"),
        entry("", stat.S_IFDIR),
        b"\xff\xff\xff\xff",
        entry("cut", stat.S_IFREG, size=3) + bytes(8) + (3).to_bytes(4, "big") + b"ab",
        b"",
        *(
            entry("file", kind, size=3) + part(0, b"abc") + END_OF_FILE + END
            for kind in (0, stat.S_IFREG | 0o100, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFSOCK, stat.S_IFDIR, stat.S_IFIFO)
        ),
        *(entry("file", kind, same="file") + END for kind in (0, stat.S_IFIFO)),
        entry("file", stat.S_IFREG, size=3) + part(0, b"abcd") + END_OF_FILE + END,
        entry("file", stat.S_IFREG, size=3) + part(2**64 - 1, b"abc") + END_OF_FILE + END,
        entry("file", stat.S_IFREG, size=2**21) + part(0, bytes(2**20 + 1)) + END_OF_FILE + END,
        entry("file", stat.S_IFREG, size=3) + part(0, b"ab") + part(1, b"b") + END_OF_FILE + END,
        entry("file", stat.S_IFREG, size=3) + part(0, b"abc") + END,
        entry("file", stat.S_IFREG, size="3") + END_OF_FILE + END,
        entry("file", stat.S_IFREG) + END_OF_FILE + END,
        entry("link", stat.S_IFLNK, target=None) + END,
        (2).to_bytes(4, "big") + b"[]" + END,
        (2).to_bytes(4, "big") + b"{x" + END,
        END + b"x",
    ],
    ids=[
        *("above", "itself", "through a link", "a link to above", "twice", "endless", "cut in a file", "cut"),
        *("no kind", "half a kind", "a device", "a disk", "a socket", "a long directory", "a long pipe"),
        *("a name of no kind", "a name of a pipe", "overlong", "far overlong", "a long part", "overlapping"),
        *("no end of a file", "a size in words", "no size", "a link to nothing", "no mapping", "no JSON", "more after"),
    ],
)
def test_a_stream_leads_nowhere_else_and_is_whole_or_an_error(tmp_path, said):
    (tmp_path / "kept").write_text("x")
    with pytest.raises(OpsError, match="cannot be copied"):
        stream.unpack(io.BytesIO(entry("", stat.S_IFDIR) + said), str(tmp_path / "home"))
    assert sorted(os.listdir(tmp_path)) == ["home", "kept"]
    assert (tmp_path / "kept").stat().st_nlink == 1


@pytest.mark.parametrize("said", [END, entry("", stat.S_IFREG, size=0) + END_OF_FILE + END, entry("x", stat.S_IFDIR)])
def test_a_stream_begins_with_a_directory(tmp_path, said):
    with pytest.raises(OpsError, match="cannot be copied"):
        stream.unpack(io.BytesIO(said), str(tmp_path / "home"))


def test_a_stream_with_all_that_may_be_in_it_is_taken(tmp_path):
    size = 2 * stream._CHUNK
    said = [
        entry("", stat.S_IFDIR),
        *(entry("file", stat.S_IFREG, size=size), part(0, b"a"), part(size - 1, b"z"), END_OF_FILE),
        entry("again", stat.S_IFREG, same="file"),
        entry("link", stat.S_IFLNK, target="nowhere"),
        entry("pipe", stat.S_IFIFO),
        END,
    ]
    stream.unpack(io.BytesIO(b"".join(said)), str(tmp_path / "home"))
    assert (tmp_path / "home/again").read_bytes() == b"a" + bytes(size - 2) + b"z"
    assert sorted(os.listdir(tmp_path / "home")) == ["again", "file", "link", "pipe"]


def test_a_file_that_is_cut_short_while_it_is_sent_is_an_error(tmp_path, monkeypatch):
    path = tmp_path / "file"
    path.write_bytes(b"abcdef")

    def where_bytes_are(descriptor, size):
        os.truncate(path, 3)
        yield 0, size

    monkeypatch.setattr(stream, "extents", where_bytes_are)
    with open(tmp_path / "stream", "wb") as out, pytest.raises(OpsError, match="file: was cut short meanwhile"):
        stream.Writer(out.fileno()).add(str(path), "file", path.lstat())


def test_a_survey_of_another_shape_is_refused():
    good = {"digest": "0", "entries": 1, "size": 1, "naming": [], "more": 0}
    assert separable.Survey.of(good, "x").entries == 1
    for bad in (None, [], {}, {**good, "size": "1"}, {**good, "size": True}, {**good, "naming": {}}):
        with pytest.raises(OpsError, match="x: cannot be looked at"):
            separable.Survey.of(bad, "x")


def test_what_an_agent_calls_its_files_forges_no_line(host):
    work = host.top / "ada/.hermes/profiles/work"
    (work / "x\nagent bob: went\x1b[2J").write_text(str(work))
    (result,) = run(host, "work")
    assert result["naming"] == ["x agent bob: went\\x1b[2J"]


def test_secrets_in_an_agents_words_are_hidden_and_names_of_files_are_not():
    token = "sk-proj-Ab1Cd2Ef3Gh4Ij5Kl6Mn7Op8Qr9St0"
    (line,) = separable.lines([f"report {token}: workdir is /srv/x", None, 3])
    assert token not in line
    assert line.endswith(": workdir is /srv/x")
    assert separable.paths([f"skills/{token}.md"]) == [f"skills/{token}.md"]


@pytest.mark.parametrize(
    ("name", "counts"), [("notes", True), ("profiles/work", False), (".hermes-ops-set-aside-1", False)]
)
def test_who_works_in_what_is_not_copied_does_not_count(tmp_path, name, counts):
    (tmp_path / name).mkdir(parents=True)
    with open(tmp_path / name / "file", "w") as held:
        pid = os.fork()
        if pid == 0:
            signal.pause()
        held.fileno()
        try:
            found = carry.who_works(str(tmp_path), separable.LEFT_OUT)
        finally:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
    assert any(line.startswith(f"{pid} (") for line in found) == counts


@needs_root
def test_a_new_user_does_not_get_the_number_of_a_home_without_a_user(tmp_path, monkeypatch):
    """useradd(8) knows the host's users only. The number would open a home that came with a data volume to it."""
    called, first = [], 54321
    monkeypatch.setattr(groundwork, "SYSTEM_NUMBERS", range(first, first - 2, -1))
    monkeypatch.setattr(separate, "run", lambda argv, **_options: called.append(argv))
    home = tmp_path / "agents/old"
    home.mkdir(parents=True)
    separate.make_user("no-such-user", "/data/agents/work", str(tmp_path))
    os.chown(home, first, first)
    separate.make_user("no-such-user", "/data/agents/work", str(tmp_path))
    separate.make_user("daemon", "/data/agents/work", str(tmp_path))
    free, not_free = called
    assert free[-3:] == ["--home-dir", "/data/agents/work", "no-such-user"]
    assert "--uid" not in free
    assert not_free[not_free.index("--uid") + 1] == str(first - 1)


@needs_root
def test_the_parent_of_a_home_is_looked_at_through_no_link_of_an_agents(host, place):
    agent = replace(declared(host.top)["default"], home=str(place / "ada/.hermes"))
    (place / "real/.hermes").mkdir(parents=True)
    place.chmod(0o777)
    (place / "ada").symlink_to(place / "real")
    with pytest.raises(OpsError, match="a symbolic link that root did not make"):
        separable.aside_parent(host, agent, [agent], -1)


def test_a_home_that_no_rename_leads_out_of_is_refused(host):
    agent = declared(host.top)["default"]
    with pytest.raises(OpsError, match="lies on a file system of its own"):
        separable.aside_parent(host, agent, [agent], -1)


@needs_root
def test_a_journal_that_others_could_have_written_is_not_followed(host):
    before = tree(host.top / "ada")
    (host.top / "data/ops").chmod(0o777)
    journal = {
        **{
            name: declared(host.top, adopted=adopted)["work"].to_plain()
            for name, adopted in (("before", True), ("after", False))
        },
        **{"verbose": False},
        **{"original": (host.top / "ada").stat().st_ino, "aside": str(host.top / "taken"), "began": 0, "step": "aside"},
    }
    (host.top / "data/ops/separate.json").write_text(json.dumps(journal))
    with pytest.raises(OpsError, match="cannot be trusted"):
        separate.Separate(host, pytest.fail).recover(boot=True)
    assert tree(host.top / "ada") == before


@pytest.mark.parametrize("text", ["", "[", "[]", '{"jobs": 1}', '{"jobs": [1, {"workdir": 3}]}', "[" * 100000])
def test_damaged_cron_jobs_stay_as_they_are(tmp_path, text):
    (tmp_path / "cron").mkdir()
    (tmp_path / "cron/jobs.json").write_text(text)
    assert carry.move_jobs(str(tmp_path), "/old", "/new") == []
    assert (tmp_path / "cron/jobs.json").read_text() == text


def test_a_path_is_found_where_two_parts_of_a_large_file_meet(tmp_path):
    (tmp_path / "large").write_bytes(b"x" * (carry._CHUNK - 3) + b"/home/ada/.hermes")
    (tmp_path / "none").write_bytes(b"x" * carry._CHUNK)
    assert carry.survey(str(tmp_path), [], ["/home/ada"])["naming"] == ["large"]


@pytest.mark.parametrize(
    "change",
    [
        lambda home: (home / "a").write_text("y"),
        lambda home: (home / "a").chmod(0o640),
        lambda home: (home / "a").rename(home / "b"),
        lambda home: os.utime(home / "a", (1, 1)),
        lambda home: (home / "empty").mkdir(),
        lambda home: (home / "link").symlink_to("a"),
    ],
    ids=["content", "mode", "name", "time", "directory", "link"],
)
def test_surveys_differ_by_any_change(tmp_path, change):
    (tmp_path / "a").write_text("x")
    before = carry.survey(str(tmp_path), [], [])["digest"]
    assert carry.survey(str(tmp_path), [], [])["digest"] == before
    change(tmp_path)
    assert carry.survey(str(tmp_path), [], [])["digest"] != before
