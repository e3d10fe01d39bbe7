# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a rollout does on a host: files of units and editions, and the commands in their order.

systemd and podman are stand-ins here, which start an agent as its unit file says.
"""

from __future__ import annotations

import dataclasses
import glob
import json
import os
import re
import types

import pytest
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.agent.work import Work
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.description.runtimes import Runtimes
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.host import runtimes as places
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.host.runtimes import User
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.supervise import (
    editions,
    rollout,
    runtime_files,
    runtime_fleet,
    runtime_units,
    runtimes,
)
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.supervise.rollout import Journal
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.supervise.runtime_host import Host
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.errors import OpsError
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.files import Account
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.systemd import Manager

SECRET = "0123456789abcdef0123456789abcdef"
USERS = [User(name, number) for number, name in enumerate(("ada", "bob", "cy"))]
ADA, BOB, CY = (user.id for user in USERS)


def declared(number=1, **more):
    agent = {"config": {"model": {"default": "stub"}}, "secrets": {"MODEL_API_KEY": f"sk-{number}"}, "drain": 7}
    return Runtimes(image=f"localhost/hermes-agent:{number}", secret=SECRET, agent=agent, **more)


class Systemd:
    """Starts agents by their unit files. A container gets the label that is written there."""

    def __init__(self, etc, run, failed):
        self.etc, self.run, self.failed = etc, run, failed
        self.loaded = {}
        self.containers = {}
        self.starting = set()
        self.bad = set()
        self.gone = set()
        self.calls = []
        self.end = lambda verb: None

    def text_of(self, user):
        own = self.run / f"hermes-user-agent@{user}.service"
        return (own if own.exists() else self.etc / "hermes-user-agent@.service").read_text(encoding="utf-8")

    def start(self, user):
        text = self.loaded[user]
        image = re.search(r"localhost/hermes-agent:\d", text)[0]
        shared = re.search(r"--volume=([^:\s]+)/agent.json:", text)[1]
        assert os.path.exists(f"{shared}/agent.json")
        secrets = re.search(r"--volume=([^:\s]+):/run/secrets", text)[1].replace("%i", user)
        assert os.path.exists(f"{secrets}/MODEL_API_KEY")
        self.containers.pop(user, None)
        failed = self.failed / user
        if image in self.bad:
            failed.write_text("exit-code 78\n", encoding="utf-8")
            return
        failed.unlink(missing_ok=True)
        self.containers[user] = re.search(r"--label=hermes.edition=(\w+)", text)[1]

    def call(self, verb, *words, **more):
        self.calls.append((verb, *words))
        self.end(verb)
        if verb == "daemon-reload":
            self.loaded = {user.id: self.text_of(user.id) for user in USERS}
        for word in words:
            user = re.search(r"@(\w+)\.service", word)
            if verb == "try-restart" and user and user[1] in self.containers:
                self.start(user[1])
        return types.SimpleNamespace(ok=True)

    def ask(self, *words):
        assert "--state=activating" in words
        text = "".join(f"hermes-user-agent@{user}.service loaded activating start\n" for user in self.starting)
        return types.SimpleNamespace(stdout=text)

    def units(self, names):
        found = {}
        for name in names:
            up = re.search(r"@(\w+)\.", name)[1] in self.containers
            unit = Manager("system", Account.current())._unit(name, {})
            found[name] = dataclasses.replace(unit, active="active", sub="running", pid=1) if up else unit
        return found


@pytest.fixture
def systemd(tmp_path, monkeypatch):
    for name in ("RUN", "SHARED", "USERS", "SOCKETS", "STARTING", "FAILED"):
        path = getattr(places, name).replace("/run/hermes-runtimes", f"{tmp_path}/run")
        monkeypatch.setattr(places, name, path)
    monkeypatch.setattr(runtime_units, "SHARED", f"{tmp_path}/run/shared")
    monkeypatch.setattr(runtime_units, "USERS", f"{tmp_path}/run/users")
    monkeypatch.setattr(runtime_files.grp, "getgrnam", lambda name: types.SimpleNamespace(gr_gid=os.getgid()))
    monkeypatch.setattr(runtimes.resting, "set_wakes", lambda directory, users: None)
    monkeypatch.setattr(runtime_files, "PROXY_SECRETS", f"{tmp_path}/run/proxy/secrets.json")
    monkeypatch.setattr(runtime_files, "_WRITTEN", f"{tmp_path}/run/written")
    runtime_files.make_places()
    for name in ("etc", "lent", "data", "data/ops", "data/ops/runtimes"):
        (tmp_path / name).mkdir()
    for module in (runtime_units, runtime_fleet):
        monkeypatch.setattr(module, "UNIT_DIRECTORY", str(tmp_path / "etc"))
    monkeypatch.setattr(runtime_fleet, "LENT", str(tmp_path / "lent"))
    monkeypatch.setattr(runtime_fleet.time, "sleep", lambda seconds: None)
    # Not what is tested, and the directory of a test may be anybody's.
    for module in (editions, runtime_fleet, places):
        monkeypatch.setattr(module, "check_ops", lambda ops_dir: None)
    stand_in = Systemd(tmp_path / "etc", tmp_path / "lent", tmp_path / "run/failed")
    monkeypatch.setattr(Host, "manager", stand_in)

    def podman(words, **more):
        assert words[0] == runtime_fleet.PODMAN
        if words[1] == "image":
            return types.SimpleNamespace(rc=int(words[-1] in stand_in.gone))
        listed = [
            {"Names": [f"hermes-user-{user}"], "Labels": {"hermes.edition": edition} if edition else None}
            for user, edition in stand_in.containers.items()
        ]
        listed.append({"Names": ["hermes-user-of-somebody-else"], "Labels": {}})
        return types.SimpleNamespace(stdout=json.dumps(listed))

    def wake(host, user):
        stand_in.calls.append(("call", user.id))
        stand_in.start(user.id)
        return user.id in stand_in.containers

    monkeypatch.setattr(runtime_fleet, "run", podman)
    monkeypatch.setattr(runtimes, "wake", wake)
    monkeypatch.setattr(runtimes, "read_work", lambda home, account, since: Work())
    return stand_in


@pytest.fixture
def host(systemd, tmp_path):
    """One whose agents have the first edition, and which declares the second."""
    found = Host(declared(), str(tmp_path / "data"), str(tmp_path / "data/ops"))
    for user in USERS:
        found.users.write(user)
        with open(user.socket, "wb"):
            pass
    runtimes.boot(found, print)
    assert runtime_fleet.rollout(found, lambda text: None) == []
    for user in (ADA, BOB):
        systemd.start(user)
    systemd.calls.clear()
    changed = dataclasses.replace(found, settings=declared(2))
    runtimes.boot(changed, print)
    return changed


OLD, NEW = declared().edition.id, declared(2).edition.id


def test_two_editions_differ_in_what_containers_get_and_in_nothing_else():
    one = declared()
    assert one.edition.id == declared(idle=11, listen="127.0.0.1:1", users=("x",)).edition.id
    assert len({one.edition.id, NEW, declared(plugins={"p": "/srv/p"}).edition.id}) == 3
    assert one.edition.id != dataclasses.replace(one, secret=SECRET[::-1]).edition.id
    assert declared(2).having(one.edition).edition == one.edition


def test_it_reaches_those_that_run_and_then_those_that_wake(host, systemd):
    said = []
    assert runtime_fleet.rollout(host, said.append) == []
    assert systemd.containers == {ADA: NEW, BOB: NEW}
    assert editions.former(host.settings, host.ops_dir).id == NEW
    assert editions.journal(host.ops_dir) is None
    assert os.listdir(systemd.run) == []
    assert systemd.text_of(CY) == systemd.loaded[CY]
    assert NEW in systemd.loaded[CY]
    assert os.listdir(places.SHARED) == [NEW]
    assert {path: os.listdir(path) for path in glob.glob(f"{places.USERS}/*/secrets")} == {
        f"{places.USERS}/{user.id}/secrets": [NEW] for user in USERS
    }
    assert not any("sk-" in line for line in said)


def test_until_the_canaries_have_passed_it_is_theirs_alone(host, systemd):
    seen = []

    def look(verb):
        if verb == "try-restart" and not seen:
            seen.append([edition in systemd.loaded[user] for user, edition in ((ADA, NEW), (BOB, OLD), (CY, OLD))])
            seen.append(editions.in_effect(host.settings, host.ops_dir).id)

    systemd.end = look
    runtime_fleet.rollout(host, lambda text: None)
    assert seen == [[True, True, True], OLD]


def test_a_bad_one_leaves_units_and_agents_as_they_were(host, systemd):
    before = (systemd.etc / "hermes-user-agent@.service").read_text(encoding="utf-8")
    systemd.bad.add("localhost/hermes-agent:2")
    with pytest.raises(OpsError) as caught:
        runtime_fleet.rollout(host, lambda text: None)
    for word in ("image localhost/hermes-agent:2", "secret MODEL_API_KEY", "user ada", "description or a secret"):
        assert word in str(caught.value)
    assert systemd.containers == {ADA: OLD, BOB: OLD}
    assert (systemd.etc / "hermes-user-agent@.service").read_text(encoding="utf-8") == before
    assert os.listdir(systemd.run) == []
    assert str(editions.failure(host.settings, host.ops_dir)) == str(caught.value)
    assert editions.in_effect(host.settings, host.ops_dir).id == OLD


@pytest.mark.parametrize("running", [False, True])
def test_nobody_waits_for_a_former_edition_that_nobody_could_be_woken_with(host, systemd, monkeypatch, running):
    """As on another host with the same data. Those that still run are not risked for it."""
    systemd.gone.add(declared().image)
    if not running:
        systemd.containers.clear()
    lent = []
    lend = runtime_fleet.HostFleet.lend
    monkeypatch.setattr(runtime_fleet.HostFleet, "lend", lambda self, *words: lent.append(words) or lend(self, *words))
    assert runtime_fleet.rollout(host, lambda text: None) == []
    assert bool(lent) == running
    assert editions.former(host.settings, host.ops_dir) == host.settings.edition


@pytest.mark.parametrize("damage", ["cut off", "another kit"])
def test_a_former_edition_that_cannot_be_used_keeps_nobody_waiting(host, systemd, damage):
    path = f"{host.ops_dir}/runtimes.proven.json"
    if damage == "cut off":
        with open(path, "w", encoding="utf-8") as stream:
            stream.write('{"id": "')
    else:
        editions.prove(host.ops_dir, dataclasses.replace(declared().edition, agent={"no_such_key": 1}))
    # What the units need at a boot.
    assert editions.in_effect(host.settings, host.ops_dir) == host.settings.edition
    assert editions.wanted(host.settings, host.ops_dir) == [host.settings.edition]
    said = []
    assert runtime_fleet.rollout(host, said.append) == []
    assert said[0].startswith(f"there is nothing to go back to: {path}:")
    assert systemd.containers == {ADA: NEW, BOB: NEW}
    assert editions.former(host.settings, host.ops_dir).id == NEW


def test_a_damaged_journal_begins_the_rollout_anew(host, systemd):
    editions.write_journal(host.ops_dir, Journal(NEW, rollout.BATCHES))
    with open(f"{host.ops_dir}/runtimes.rollout.json", "w", encoding="utf-8") as stream:
        stream.write("[" * 9)
    assert editions.in_effect(host.settings, host.ops_dir).id == OLD
    assert runtime_fleet.rollout(host, lambda text: None) == []
    assert systemd.containers == {ADA: NEW, BOB: NEW}
    assert editions.journal(host.ops_dir) is None


def test_an_edition_is_gone_with_its_image_or_a_plugin(systemd, tmp_path):
    edition = declared().edition
    assert not runtime_fleet._is_gone(edition)
    assert runtime_fleet._is_gone(dataclasses.replace(edition, plugins={"notes": f"{tmp_path}/notes"}))
    systemd.gone.add(edition.image)
    assert runtime_fleet._is_gone(edition)


def test_no_call_reaches_an_agent_from_the_last_look_until_it_is_restarted(host, systemd):
    runtime_fleet.HostFleet(host, [declared().edition, host.settings.edition]).restart([ADA, BOB])
    fronts = [runtime_units.FRONT.format(user) for user in (ADA, BOB)]
    agents = [runtime_units.AGENT.format(user) for user in (ADA, BOB)]
    assert systemd.calls == [
        ("kill", "--signal=SIGSTOP", *fronts),
        ("try-restart", *agents),
        ("kill", "--signal=SIGCONT", *fronts),
    ]


def test_one_that_has_got_work_is_let_go_on(host, systemd, monkeypatch):
    busy = Work(busy=["a turn of api_server"])
    home = USERS[0].home(host.data_dir)
    monkeypatch.setattr(runtimes, "read_work", lambda where, account, since: busy if where == home else Work())
    fleet = runtime_fleet.HostFleet(host, [declared().edition, host.settings.edition])
    assert fleet.restart([ADA, BOB]) == {BOB: None}
    assert systemd.calls[1:3] == [
        ("kill", "--signal=SIGCONT", runtime_units.FRONT.format(ADA)),
        ("try-restart", runtime_units.AGENT.format(BOB)),
    ]


def test_a_front_is_stopped_between_two_calls(host, systemd, monkeypatch):
    fleet = runtime_fleet.HostFleet(host, [declared().edition, host.settings.edition])
    open_ones = {USERS[0].socket: [2, 1, 0]}
    monkeypatch.setattr(runtime_fleet, "accepted", lambda path: open_ones[path].pop(0) if open_ones[path] else 0)
    assert fleet.restart([ADA]) == {ADA: None}
    words = [call[1] if call[0] == "kill" else call[0] for call in systemd.calls]
    stop, go_on = "--signal=SIGSTOP", "--signal=SIGCONT"
    assert words == [stop, go_on, stop, go_on, stop, "try-restart", go_on]


@pytest.mark.parametrize("looks", [0, 1])
def test_one_with_a_connection_that_stays_open_is_let_go_on(host, systemd, monkeypatch, looks):
    """Also if its front was not yet stopped at the first look."""
    fleet = runtime_fleet.HostFleet(host, [declared().edition, host.settings.edition])
    monkeypatch.setattr(runtime_fleet, "_MOMENT", 0.0)
    seen = []
    monkeypatch.setattr(
        runtime_fleet,
        "accepted",
        lambda path: int((seen.append(1) or len(seen) > 2 * looks) and path == USERS[0].socket),
    )
    assert fleet.restart([ADA, BOB]) == {BOB: None}
    assert [call for call in systemd.calls if call[0] == "try-restart"] == [
        ("try-restart", runtime_units.AGENT.format(BOB))
    ]
    last = [call[1] for call in systemd.calls if runtime_units.FRONT.format(ADA) in call]
    assert last[-1] == "--signal=SIGCONT"


def test_a_kernel_that_lists_no_unix_sockets_holds_nobody_up(host, systemd, monkeypatch):
    def fail(_path):
        raise OSError("no such table")

    monkeypatch.setattr(runtime_fleet, "accepted", fail)
    fleet = runtime_fleet.HostFleet(host, [declared().edition, host.settings.edition])
    assert fleet.restart([ADA]) == {ADA: None}


def test_what_cannot_be_read_may_be_work(host, systemd, monkeypatch):
    monkeypatch.setattr(runtimes, "read_work", lambda home, account, since: Work(unread=["state.db"]))
    fleet = runtime_fleet.HostFleet(host, [declared().edition, host.settings.edition])
    assert fleet.is_busy(ADA)


def test_one_that_is_being_started_may_have_any_edition_and_is_waited_for(host, systemd):
    systemd.starting = {CY}
    fleet = runtime_fleet.HostFleet(host, [host.settings.edition])
    assert fleet.running()[CY] == ""
    assert CY not in fleet.sleepers()
    assert fleet.is_busy(CY)


def test_nobody_is_woken_whose_home_is_being_restored(host, systemd):
    fleet = runtime_fleet.HostFleet(host, [declared().edition, host.settings.edition])
    assert fleet.sleepers() == [CY]
    os.unlink(USERS[2].socket)
    assert fleet.sleepers() == []


def test_fronts_go_on_whatever_happens(host, systemd):
    def end(verb):
        if verb == "try-restart":
            raise SystemExit(143)

    systemd.end = end
    with pytest.raises(SystemExit):
        runtime_fleet.HostFleet(host, [declared().edition, host.settings.edition]).restart([ADA])
    assert systemd.calls[-1] == ("kill", "--signal=SIGCONT", runtime_units.FRONT.format(ADA))


def test_who_is_removed_or_stopped_meanwhile_is_nobody_s_failure(host, systemd):
    fleet = runtime_fleet.HostFleet(host, [declared().edition, host.settings.edition])
    host.users.forget(USERS[0])
    host.users.write(dataclasses.replace(USERS[1], off=True))
    for user in (ADA, BOB):
        (systemd.failed / user).write_text("exit-code 1\n", encoding="utf-8")
        assert (fleet.failure(user), fleet.wake(user), fleet.is_busy(user)) == (None, None, True)
    assert fleet.running() == {}
    assert fleet.sleepers() == [CY]


@pytest.mark.parametrize(("name", "message"), [("nobody", "has no runtime here"), ("cy", "cannot be a canary")])
def test_a_canary_that_cannot_be_one_stops_it_before_anything_changes(host, systemd, name, message):
    host.users.write(dataclasses.replace(USERS[2], off=True))
    named = dataclasses.replace(host, settings=dataclasses.replace(host.settings, canaries=(name,)))
    with pytest.raises(OpsError, match=message):
        runtime_fleet.rollout(named, lambda text: None)
    assert systemd.calls == []
    assert editions.journal(host.ops_dir) is None


def test_an_agent_that_failed_is_woken_by_a_front_that_knows_nothing_of_it(host, systemd):
    (systemd.failed / CY).write_text("exit-code 78\n", encoding="utf-8")
    fleet = runtime_fleet.HostFleet(host, [declared().edition, host.settings.edition])
    assert fleet.wake(CY) is None
    assert systemd.calls[0] == ("stop", *(f"hermes-user{kind}@{CY}.service" for kind in ("", "-rest", "-agent")))


@pytest.mark.parametrize(
    ("phase", "target", "effective"),
    [
        (rollout.CANARIES, NEW, OLD),
        (rollout.BATCHES, NEW, NEW),
        (rollout.BACK, NEW, OLD),
        (rollout.FAILED, NEW, OLD),
        (rollout.BATCHES, "another", OLD),
    ],
)
def test_which_edition_a_woken_agent_gets_also_by_a_run_of_site_yml_in_between(host, phase, target, effective):
    editions.write_journal(host.ops_dir, Journal(target, phase))
    assert editions.in_effect(host.settings, host.ops_dir).id == effective
    assert editions.is_due(host.settings, host.ops_dir)
    assert (editions.failure(host.settings, host.ops_dir) is None) == (phase != rollout.FAILED)


def test_records_with_secrets_are_root_s_alone(host):
    editions.write_journal(host.ops_dir, Journal(NEW))
    paths = glob.glob(f"{host.ops_dir}/runtimes.*")
    assert len(paths) == 3
    assert {os.stat(path).st_mode & 0o777 for path in paths} == {0o600}


def test_a_rollout_that_was_killed_leaves_no_front_stopped(host):
    texts = runtime_units.render(host.settings, host.settings.edition, host.data_dir, host.ops_dir)
    text = texts[f"{runtime_units.UNIT_DIRECTORY}/{places.ROLLOUT}"]
    assert "ExecStopPost=-/bin/systemctl kill --signal=SIGCONT hermes-user@*.service\n" in text


def test_an_unfinished_or_another_edition_is_due(host):
    assert editions.is_due(host.settings, host.ops_dir)
    assert not editions.is_due(declared(), host.ops_dir)


def test_what_differs_is_said_without_a_secret():
    one, other = declared(), declared(2, plugins={"notes": "/srv/notes"})
    assert editions.changes(one.edition, other.edition) == (
        "image localhost/hermes-agent:2, secret MODEL_API_KEY, plugin notes"
    )
    assert editions.changes(None, one.edition) == "image localhost/hermes-agent:1"
    assert editions.changes(one.edition, dataclasses.replace(one.edition, id="x")) == "secret of this host"
