# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""An agent's home is created, corrected and seeded; the agent's own data stays."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.agent import converge as agent
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.agent import parts, removal
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.host.records import Records
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.errors import OpsError
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.files import Account
from hypothesis import given, settings
from hypothesis import strategies as st

ME = Account.current()
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="SKIPPED, NOT PROVED: only root can act as somebody else")


def converge(home, account=ME, *, check=False, skipped=(), **texts):
    """The differences that converging the home reported."""
    records = Records(str(home.parent / "ops"), "p")
    desired = agent.AgentHome(home=agent.Home(**texts, skipped=skipped))
    return agent.converge_home(str(home), account, records, desired, check=check).parts["home"].differences


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def home(tmp_path):
    home = tmp_path / ".hermes"
    converge(home)
    return home


def test_a_home_is_made_private_and_then_left_alone(tmp_path):
    home = tmp_path / "deep" / "below" / ".hermes"
    assert converge(home, check=True)
    assert not home.exists()
    assert converge(home)
    assert mode(home) == mode(home / "memories") == 0o700
    assert not converge(home)


def test_soul_stays_as_declared(home):
    converge(home, soul="You are terse.")
    assert (home / "SOUL.md").read_text() == "You are terse.\n"
    (home / "SOUL.md").write_text("I am verbose now.")
    mended = converge(home, soul="You are terse.")
    assert [(d.before, d.after) for d in mended] == [("I am verbose now.", "You are terse.\n")]
    assert (home / "SOUL.md").read_text() == "You are terse.\n"


def test_an_undeclared_soul_is_the_agent_s(home):
    (home / "SOUL.md").write_text("mine")
    (home / "SOUL.md").chmod(0o600)
    assert not converge(home)


def test_memories_are_seeded_once(home):
    converge(home, user="Ada", memory="She likes tea.")
    (home / "memories/USER.md").write_text("Ada, who moved to Paris")
    assert not converge(home, user="Ada", memory="She likes tea.")
    assert (home / "memories/USER.md").read_text() == "Ada, who moved to Paris"
    assert (home / "memories/MEMORY.md").read_text() == "She likes tea.\n"


@pytest.mark.parametrize(("key", "limit"), [("user", 1375), ("memory", 2200)])
def test_a_seed_that_hermes_would_cut_is_refused(home, key, limit):
    converge(home, **{key: "x" * limit}, check=True)
    with pytest.raises(OpsError, match=f"has {limit + 1} characters"):
        converge(home, **{key: "x" * (limit + 1)})


@pytest.mark.parametrize("name", [".env", "config.yaml", "webhook_subscriptions.json", "auth.json", "backup.zip"])
def test_files_that_hermes_left_readable_are_closed(home, name):
    (home / name).write_text("secret")
    (home / name).chmod(0o644)
    converge(home)
    assert mode(home / name) == 0o600
    assert not converge(home)


def test_files_of_the_user_keep_their_mode(home):
    (home / "notes.txt").write_text("")
    (home / "notes.txt").chmod(0o644)
    assert not converge(home)


def test_a_link_in_the_home_is_the_user_s_choice(home, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (home / "skills").rmdir()
    (home / "skills").symlink_to(elsewhere)
    assert not converge(home)
    (home / ".env").symlink_to(elsewhere / "env")
    assert not converge(home)


def test_something_in_the_way_is_named(home):
    (home / "logs").rmdir()
    (home / "logs").write_text("")
    with pytest.raises(OpsError, match="logs: is not a directory"):
        converge(home)


@needs_root
def test_what_root_left_behind_is_given_back(public, nobody):
    home = public / ".hermes"
    converge(home, nobody)
    assert home.stat().st_uid == nobody.uid
    (home / "state.db").write_text("")
    (home / "sessions/1.json").write_text("")
    # Closed to the agent's user, which finds what is in it only when it has been given the directory.
    (home / "logs/today/now").mkdir(parents=True)
    (home / "logs/today").chmod(0o700)
    (home / "logs/today/now/log").write_text("")
    other = home / "profiles/other"
    other.mkdir(parents=True)
    converge(home, nobody, skipped=("profiles",))
    for path in ("state.db", "sessions/1.json", "logs/today", "logs/today/now", "logs/today/now/log"):
        assert (home / path).stat().st_uid == nobody.uid, path
    # Another profile is left to its own run of the module.
    assert other.stat().st_uid == 0
    assert not converge(home, nobody, skipped=("profiles",))


@needs_root
def test_a_home_of_root_is_given_to_the_agent(public, nobody):
    home = public / ".hermes"
    converge(home)
    (home / "SOUL.md").write_text("root's")
    (home / "SOUL.md").chmod(0o600)
    # Check mode cannot know more: only the agent's user reads the home.
    checked = [(each.what, each.after) for each in converge(home, nobody, soul="mine", check=True)]
    assert (f"{home} owner", str(nobody.uid)) in checked
    assert (home / "SOUL.md").stat().st_uid == 0
    converge(home, nobody, soul="mine")
    assert {path.stat().st_uid for path in [home, *home.iterdir()]} == {nobody.uid}
    assert (home / "SOUL.md").read_text() == "mine\n"


@needs_root
def test_a_home_of_another_user_is_refused(public, nobody):
    home = public / ".hermes"
    home.mkdir()
    os.chown(home, 4711, 4711)
    with pytest.raises(OpsError, match="belongs to user id 4711"):
        converge(home, nobody)


@pytest.fixture
def victim() -> Iterator[Path]:
    """A directory of root's that everybody may enter, where a worker sees it."""
    with tempfile.TemporaryDirectory(dir="/var/lib") as directory:
        os.chmod(directory, 0o755)
        yield Path(directory)


@needs_root
def test_root_writes_nothing_through_the_agent_s_links(public, nobody, victim):
    home = public / ".hermes"
    converge(home, nobody)
    (home / "memories").rmdir()
    (home / "memories").symlink_to(victim)
    with pytest.raises(OpsError, match=r"memories/USER\.md: cannot be written"):
        converge(home, nobody, user="Ada")
    assert os.listdir(victim) == []


@needs_root
def test_an_agent_that_swaps_its_home_for_a_link_gains_nothing(public, nobody, victim):
    agents = public / "agents"
    agents.mkdir()
    (victim / "passwd").write_text("root's")
    os.chown(agents, nobody.uid, nobody.gid)
    records_home = agents / ".hermes"
    agents_records = Records(str(public / "ops"), "p")
    desired = agent.AgentHome(home=agent.Home())
    agent.converge_home(str(records_home), nobody, agents_records, desired, check=False)
    records_home.rename(agents / ".h")
    records_home.symlink_to(victim)
    with pytest.raises(OpsError, match="symbolic link that root did not make"):
        agent.converge_home(str(records_home), nobody, agents_records, desired, check=False)
    with pytest.raises(OpsError, match=r"is a symbolic link\. Fix: remove what it leads to, and the link, by hand"):
        removal.remove(str(records_home), nobody)
    assert (victim / "passwd").stat().st_uid == 0
    assert os.listdir(victim) == ["passwd"]


@needs_root
def test_root_makes_no_directory_where_a_link_of_the_agent_s_leads(public, nobody):
    mine, victim = public / "mine", public / "victim"
    mine.mkdir()
    victim.mkdir()
    (mine / "deep").symlink_to(victim)
    os.chown(mine, nobody.uid, nobody.gid)
    home = mine / "deep/er/.hermes"
    with pytest.raises(OpsError, match="symbolic link that root did not make"):
        agent.converge_home(
            str(home), nobody, Records(str(public / "ops"), "p"), agent.AgentHome(home=agent.Home()), check=False
        )
    assert os.listdir(victim) == []


@needs_root
def test_a_purge_takes_the_agent_s_directory_out_of_root_s(public, nobody):
    directory, other = public / "agents" / "coder", public / "agents" / "other"
    for path in (directory, other):
        path.mkdir(parents=True)
        os.chown(path, nobody.uid, nobody.gid)
    (public / "agents").chmod(0o711)
    (directory / ".hermes" / "skills").mkdir(parents=True)
    (directory / ".bashrc").write_text("")
    (directory / "locked").mkdir(mode=0o000)
    for path in (directory / ".hermes", directory):
        removal.remove(str(path), nobody)
    assert os.listdir(public / "agents") == ["other"]


def test_a_home_with_profiles_in_it_is_not_purged(home):
    (home / "profiles" / "notes").mkdir(parents=True)
    with pytest.raises(OpsError, match="holds profiles of its own: notes"):
        removal.refuse_profiles(str(home), ME)


def test_a_state_file_of_a_dead_gateway_is_not_taken_for_a_live_one(home):
    assert removal.running(str(home), ME) == 0
    (home / "gateway_state.json").write_text(f'{{"pid": {os.getpid()}}}')
    assert removal.running(str(home), ME) == 0


@settings(max_examples=settings.default.max_examples // 4)
@given(st.text(max_size=200).filter(lambda text: "\r" not in text))
def test_any_text_can_be_a_soul(home, text):
    text = text.encode("utf-8", "ignore").decode()
    # As the worker does it.
    request = {"home": [{"soul": text, "user": None, "memory": None}, {}]}
    parts.apply(str(home), request, [])
    assert parts.look(str(home), request, False)["parts"]["home"]["differences"] == []
    assert (home / "SOUL.md").read_text().rstrip("\n") == text.rstrip("\n")
