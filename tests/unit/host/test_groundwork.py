# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The state of a host is read correctly, whatever it is."""

from __future__ import annotations

import dataclasses
import grp
import os
import pwd
from pathlib import Path

import described
import pytest
import yaml
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.host import accounts, groundwork
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.host.records import Records
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.host.volume import unit_of
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.modules import call
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.errors import OpsError
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.process import Completed


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('ID=debian\nNAME="Debian GNU/Linux"\nVERSION_ID="12"\n', ("debian", "Debian GNU/Linux", "12")),
        ("NAME='Ubuntu'\nVERSION_ID=\"24.04\"\nID=ubuntu\nID_LIKE=debian\n", ("ubuntu", "Ubuntu", "24.04")),
        # Debian testing.
        ('# a comment\n\nID=debian\nNAME="Debian GNU/Linux"\n', ("debian", "Debian GNU/Linux", "")),
        ("garbage", ("", "", "")),
    ],
)
def test_system(tmp_path, text, expected):
    (tmp_path / "os-release").write_text(text)
    found = groundwork.system(str(tmp_path / "os-release"))
    assert (found["id"], found["name"], found["version"]) == expected


def test_packages_that_are_removed_or_unknown_are_missing(monkeypatch):
    said = "installed git\nconfig-files logrotate\nnot-installed age\n"
    monkeypatch.setattr(groundwork, "run", lambda argv, **options: Completed(tuple(argv), 1, said, "no packages found"))
    monkeypatch.setattr(groundwork.os.path, "exists", lambda path: True)
    assert groundwork.missing_packages(["git", "logrotate", "age", "restic"]) == ["logrotate", "age", "restic"]
    assert groundwork.missing_packages([]) == []


def test_without_dpkg_all_is_missing(monkeypatch):
    monkeypatch.setattr(groundwork.os.path, "exists", lambda path: False)
    assert groundwork.missing_packages(["git"]) == ["git"]


ME = pwd.getpwuid(os.geteuid()).pw_name
NOBODY_S_UID = 3_999_999


def agent(directory, user="no-such-user", state="present", doors=()):
    return described.agent(user=user, directory=str(directory), state=state, sandbox={"open": list(doors)})


def test_each_missing_user_is_made_once_with_the_home_of_its_first_agent(tmp_path):
    agents = [agent(tmp_path / "a"), agent(tmp_path / "b"), agent(tmp_path / "c", user=ME)]
    home = str(tmp_path / "a")
    assert groundwork.missing_users(agents) == [{"name": "no-such-user", "home": home, "uid": None, "gid": None}]


@pytest.mark.skipif(os.geteuid() != 0, reason="SKIPPED, NOT PROVED: only root can give directories to somebody else")
def test_a_user_and_its_group_get_the_numbers_that_their_directory_came_with(tmp_path):
    def numbers(user="no-such-user"):
        (found,) = groundwork.missing_users([agent(tmp_path / "a", user=user)])
        return found["uid"], found["gid"]

    (tmp_path / "a").mkdir()
    assert numbers() == (None, None)
    os.chown(tmp_path / "a", NOBODY_S_UID, NOBODY_S_UID + 1)
    assert numbers() == (NOBODY_S_UID, NOBODY_S_UID + 1)
    # A group of that name is there.
    assert numbers("shadow") == (NOBODY_S_UID, grp.getgrnam("shadow").gr_gid)
    # Another one's.
    os.chown(tmp_path / "a", NOBODY_S_UID, grp.getgrnam("daemon").gr_gid)
    assert numbers() == (NOBODY_S_UID, None)


@pytest.mark.skipif(os.geteuid() != 0, reason="SKIPPED, NOT PROVED: only root can give directories to somebody else")
def test_a_number_that_a_directory_came_with_is_given_before_a_free_one(tmp_path):
    (tmp_path / "b").mkdir()
    os.chown(tmp_path / "b", NOBODY_S_UID, NOBODY_S_UID)
    agents = [agent(tmp_path / "a", user="no-user-a"), agent(tmp_path / "b", user="no-user-b")]
    assert [user["name"] for user in groundwork.missing_users(agents)] == ["no-user-b", "no-user-a"]


def test_an_agent_that_left_the_declaration_gets_its_user_on_a_fresh_host(tmp_path, monkeypatch):
    """Without it, each job would fail for all agents of the host: `there is no user`."""
    monkeypatch.setattr(groundwork, "HOST_FILE", str(tmp_path / "host.json"))
    ops, new = tmp_path / "ops", agent(tmp_path / "new", user="no-user-new")
    old = described.agent("old", user="no-user-old", directory=str(tmp_path / "old"))

    def missing():
        return [user["name"] for user in groundwork.look([new], "system", str(tmp_path), str(ops), [])["missing_users"]]

    assert missing() == ["no-user-new"]
    Records(str(ops), "old").write_agent(old)
    assert missing() == ["no-user-new", "no-user-old"]
    Records(str(ops), "old").write_agent(dataclasses.replace(old, state="absent"))
    assert missing() == ["no-user-new"]


def test_no_directory_is_given_away_through_a_link():
    """`agents/work -> /etc` on a used volume would make /etc the agent's; the module file follows links by default."""
    tasks = yaml.safe_load((Path(__file__).parents[3] / "roles/base/tasks/ground.yml").read_text())
    made = [task["ansible.builtin.file"] for task in tasks if "ansible.builtin.file" in task]
    assert len(made) == 2
    assert all(arguments["follow"] is False for arguments in made)


def test_no_number_of_the_system_itself_is_given_to_a_user():
    assert not accounts.FIXED_NUMBERS & set(groundwork.SYSTEM_NUMBERS)


@pytest.mark.skipif(os.geteuid() != 0, reason="SKIPPED, NOT PROVED: only root can give directories to somebody else")
def test_no_new_user_gets_the_number_of_an_agent_that_left_the_declaration(tmp_path, monkeypatch):
    """Its directory came with a data volume, with its secrets, and this host has no user of that number."""
    (first, second, third), data = (NOBODY_S_UID, NOBODY_S_UID - 1, NOBODY_S_UID - 2), tmp_path / "data"
    monkeypatch.setattr(groundwork, "SYSTEM_NUMBERS", range(first, third - 1, -1))

    def made():
        return [user["uid"] for user in groundwork.numbered(groundwork.missing_users(agents), str(data))]

    agents = [agent(data / "agents/new", user="no-user-new"), agent(data / "agents/own", user="no-user-own")]
    # Without such a directory, useradd chooses.
    assert made() == [None, None]
    for name, uid in (("old", first), ("own", second)):
        (data / "agents" / name).mkdir(parents=True)
        os.chown(data / "agents" / name, uid, uid)
    assert made() == [second, third]
    (data / "agents/old").rmdir()
    assert made() == [second, None]


@pytest.mark.skipif(os.geteuid() != 0, reason="SKIPPED, NOT PROVED: only root can give directories to somebody else")
@pytest.mark.parametrize(
    ("owner", "user", "fix"),
    [
        (0, "no-such-user", None),
        (NOBODY_S_UID, "no-such-user", None),
        ("daemon", "daemon", None),
        ("daemon", "no-such-user", "give user daemon another id"),
        ("daemon", "nobody", "give user daemon another id"),
        (NOBODY_S_UID, "nobody", "give nobody another id"),
    ],
)
def test_a_home_of_another_user_is_told_before_anything_is_given_away(tmp_path, owner, user, fix):
    (tmp_path / "a").mkdir()
    os.chown(tmp_path / "a", pwd.getpwnam(owner).pw_uid if isinstance(owner, str) else owner, -1)
    said = groundwork.foreign_homes([agent(tmp_path / "a", user=user), agent(tmp_path / "b", user=user)], "/data")
    assert len(said) == bool(fix)
    assert all(fix in each and f"{user}: {tmp_path}/a" in each for each in said)


@pytest.mark.skipif(os.geteuid() != 0, reason="SKIPPED, NOT PROVED: only root can give directories to somebody else")
def test_another_agent_that_could_read_the_home_of_one_that_left_the_declaration_is_told(tmp_path, monkeypatch):
    """Its number on the volume is that of this host's other agent, and its own user would be made with another one."""
    monkeypatch.setattr(groundwork, "HOST_FILE", str(tmp_path / "host.json"))
    ops, home = tmp_path / "ops", tmp_path / "agents/old"
    home.mkdir(parents=True)
    Records(str(ops), "old").write_agent(described.agent("old", user="no-user-old", directory=str(home)))

    def told(user):
        agents = [agent(tmp_path / "new", user=user)]
        return groundwork.look(agents, "system", str(tmp_path), str(ops), [])["foreign_homes"]

    os.chown(home, NOBODY_S_UID, -1)
    assert told("daemon") == []
    os.chown(home, pwd.getpwnam("daemon").pw_uid, -1)
    (said,) = told("daemon")
    assert said.startswith(f"{home} of agent old belongs to user id ")
    # Somebody who is no agent must not keep all of them from being converged.
    assert told("no-such-user") == []


@pytest.mark.skipif(os.geteuid() != 0, reason="SKIPPED, NOT PROVED: only root can give directories to somebody else")
def test_no_user_is_made_whose_group_would_be_another_one_s(tmp_path, monkeypatch):
    (tmp_path / "a").mkdir()
    os.chown(tmp_path / "a", NOBODY_S_UID, NOBODY_S_UID)
    monkeypatch.setattr(groundwork, "name_of_group", {NOBODY_S_UID: "games"}.get)
    monkeypatch.setattr(groundwork, "account_of", lambda _name: None)
    (said,) = groundwork.foreign_homes([agent(tmp_path / "a")], "/data")
    assert f"belongs to group id {NOBODY_S_UID} (games), which user no-such-user would need" in said
    assert "give group games another id (groupmod -g)" in said
    # Its own; or the user is there, and its files can belong to any group.
    assert groundwork.foreign_homes([agent(tmp_path / "a", user="games")], "/data") == []
    monkeypatch.setattr(groundwork, "account_of", lambda _name: pwd.getpwuid(0))
    os.chown(tmp_path / "a", 0, -1)
    assert groundwork.foreign_homes([agent(tmp_path / "a")], "/data") == []


@pytest.mark.skipif(os.geteuid() != 0, reason="SKIPPED, NOT PROVED: only root can give directories to somebody else")
@pytest.mark.parametrize("can", [True, False])
def test_a_volume_that_is_mounted_is_mapped_when_it_is_mounted_again(tmp_path, monkeypatch, can):
    data, units = tmp_path / "data", tmp_path / "units"
    (data / "a").mkdir(parents=True)
    os.chown(data / "a", pwd.getpwnam("daemon").pw_uid, -1)
    monkeypatch.setattr(groundwork.volume_mount, "UNIT_DIRECTORY", str(units))
    monkeypatch.setattr(groundwork.volume_numbers, "can_map", lambda: can)

    def told():
        (said,) = groundwork.foreign_homes([agent(data / "a")], str(data))
        return f"Fix: stop the agents, unmount {data} and run this again" in said

    # No data volume of ours.
    assert not told()
    units.mkdir()
    (units / unit_of(str(data))).touch()
    assert told() is can


@pytest.mark.skipif(os.geteuid() != 0, reason="SKIPPED, NOT PROVED: the directories above the agents' are root's")
def test_directories_that_are_not_as_they_should_be(tmp_path):
    data, nobody = tmp_path / "data", pwd.getpwnam("nobody")
    own = data / "agents/a"
    paths = [data, data / "agents", own]

    def wrong():
        return [found["path"] for found in groundwork.wrong_directories([agent(own, user="nobody")], str(data))]

    assert wrong() == [str(path) for path in paths]
    own.mkdir(parents=True)
    for path in paths:
        path.chmod(0o711)
    assert wrong() == [str(own)]
    own.chmod(0o700)
    os.chown(own, nobody.pw_uid, nobody.pw_gid)
    assert wrong() == []
    data.chmod(0o755)
    assert wrong() == [str(data)]
    own.rmdir()
    own.symlink_to("/root")
    assert wrong() == [str(data), str(own)]


def test_a_directory_that_its_user_hides_from_root_is_left_to_the_agent(tmp_path, monkeypatch):
    """A FUSE file system over it: the module file would fail, and with it the run for all agents of the host."""
    lstat, data = os.lstat, tmp_path / "data"
    hidden, other = data / "agents/a", data / "agents/b"
    hidden.mkdir(parents=True)

    def look(path):
        if str(path) == str(hidden):
            raise PermissionError(13, "Permission denied", str(path))
        return lstat(path)

    monkeypatch.setattr(os, "lstat", look)
    wrong = groundwork.wrong_directories([agent(hidden, user="nobody"), agent(other, user="nobody")], str(data))
    assert [found["path"] for found in wrong if found["owner"] != "root"] == [str(other)]


def lingering(agents, scope):
    return groundwork.missing_linger(agents, scope), groundwork.needless_linger(agents, scope)


def test_who_lingers(tmp_path, monkeypatch):
    monkeypatch.setattr(groundwork, "LINGER", str(tmp_path))
    ours = pwd.struct_passwd(("ours", "x", 1, 1, groundwork.COMMENT, "/", "/bin/sh"))
    hers = pwd.struct_passwd(("hers", "x", 2, 2, "Ada", "/", "/bin/sh"))
    monkeypatch.setattr(groundwork, "account_of", {"ours": ours, "hers": hers}.get)
    agents = [agent("/a", "ours"), agent("/b", "hers")]
    assert lingering(agents, "system") == ([], [])
    assert lingering(agents, "user") == (["hers", "ours"], [])
    door = [agent("/a", "ours", doors=["user_manager"]), agent("/c", "ours")]
    assert lingering(door, "system") == (["ours"], [])
    (tmp_path / "ours").touch()
    (tmp_path / "hers").touch()
    assert lingering(door, "system") == ([], [])
    # A person's own lingering stays on.
    assert lingering(agents, "system") == ([], ["ours"])
    assert lingering([agent("/a", "ours", state="absent")], "user") == ([], ["ours"])


def test_a_host_of_an_earlier_version_is_recognised(tmp_path, monkeypatch):
    monkeypatch.setattr(groundwork, "HOST_FILE", str(tmp_path / "host.json"))
    ops = tmp_path / "ops"
    assert groundwork.superseded(str(ops)) is None
    records = Records(str(ops), "default")
    records.prepare()
    records.write_applied("gateway", {"name": "default", "home": "/h", "user": "hermes-default"})
    (tmp_path / "host.json").write_text('{"ops_dir": "/o"}')
    assert groundwork.superseded(str(ops)) is None
    # The place of the records in earlier versions.
    old = ops / "profiles/default"
    (old / "applied").mkdir(parents=True)
    assert groundwork.superseded(str(ops)) is None
    (old / "applied/gateway.json").write_text('{"name": "default", "home": "/h"}')
    assert groundwork.superseded(str(ops)) == str(old)
    (tmp_path / "host.json").write_text('{"ops_dir": "/o", "hermes_home": "/h"}')
    assert groundwork.superseded(str(ops)) == str(tmp_path / "host.json")


@pytest.mark.parametrize(
    ("check_mode", "state", "planned"),
    [(True, "present", True), (True, "absent", True), (False, "absent", True), (False, "present", False)],
)
def test_whose_rights_a_module_uses_where_the_user_is_not_there(check_mode, state, planned, tmp_path):
    asked = call.Call({"scope": "system"}, check_mode=check_mode)
    one = agent(tmp_path, state=state)
    if not planned:
        with pytest.raises(OpsError, match="no user 'no-such-user'"):
            call.manager_of(asked)(one)
        return
    # Texts use the name and the home of the planned user; files are read as the current user.
    account = call.manager_of(asked)(one).account
    assert (account.name, account.home, account.uid) == ("no-such-user", str(tmp_path), os.geteuid())
