# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A profile's home: made, mended, seeded; what is the agent's stays the agent's."""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path

import pytest
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.agent import home as profile
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.errors import OpsError
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.files import Owner
from hypothesis import given, settings
from hypothesis import strategies as st

ME = Owner.current()


def plan(home, owner=ME, **texts):
    texts = {"soul": None, "user_profile": None, "memory": None, **texts}
    return profile.plan_profile(str(home), owner, **texts)


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def public():
    """A directory whose parents everybody may pass, which pytest's own are not."""
    with tempfile.TemporaryDirectory() as directory:
        os.chmod(directory, 0o755)
        yield Path(directory)


@pytest.fixture
def home(tmp_path):
    home = tmp_path / ".hermes"
    plan(home).apply()
    return home


def test_a_home_is_made_private_and_then_left_alone(tmp_path):
    home = tmp_path / "deep" / "below" / ".hermes"
    first = plan(home)
    assert first.changed
    assert not home.exists()
    first.apply()
    assert mode(home) == mode(home / "memories") == 0o700
    assert not plan(home).changed


def test_soul_stays_as_declared(home):
    plan(home, soul="You are terse.").apply()
    assert (home / "SOUL.md").read_text() == "You are terse.\n"
    (home / "SOUL.md").write_text("I am verbose now.")
    mended = plan(home, soul="You are terse.")
    assert [(d.before, d.after) for d in mended.differences] == [("I am verbose now.", "You are terse.\n")]
    mended.apply()
    assert (home / "SOUL.md").read_text() == "You are terse.\n"


def test_an_undeclared_soul_is_the_agent_s(home):
    (home / "SOUL.md").write_text("mine")
    (home / "SOUL.md").chmod(0o600)
    assert not plan(home).changed


def test_memories_are_seeded_once(home):
    plan(home, user_profile="Ada", memory="She likes tea.").apply()
    (home / "memories/USER.md").write_text("Ada, who moved to Paris")
    assert not plan(home, user_profile="Ada", memory="She likes tea.").changed
    assert (home / "memories/USER.md").read_text() == "Ada, who moved to Paris"
    assert (home / "memories/MEMORY.md").read_text() == "She likes tea.\n"


@pytest.mark.parametrize(("key", "limit"), [("user_profile", 1375), ("memory", 2200)])
def test_a_seed_that_hermes_would_cut_is_refused(home, key, limit):
    plan(home, **{key: "x" * limit})
    with pytest.raises(OpsError, match=f"has {limit + 1} characters"):
        plan(home, **{key: "x" * (limit + 1)})


@pytest.mark.parametrize("name", [".env", "config.yaml", "webhook_subscriptions.json", "auth.json", "backup.zip"])
def test_files_that_hermes_left_readable_are_closed(home, name):
    (home / name).write_text("secret")
    (home / name).chmod(0o644)
    plan(home).apply()
    assert mode(home / name) == 0o600
    assert not plan(home).changed


def test_files_of_the_user_keep_their_mode(home):
    (home / "notes.txt").write_text("")
    (home / "notes.txt").chmod(0o644)
    assert not plan(home).changed


def test_a_link_in_the_home_is_the_user_s_choice(home, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (home / "skills").rmdir()
    (home / "skills").symlink_to(elsewhere)
    assert not plan(home).changed
    (home / ".env").symlink_to(elsewhere / "env")
    assert not plan(home).changed


def test_something_in_the_way_is_named(home):
    (home / "logs").rmdir()
    (home / "logs").write_text("")
    with pytest.raises(OpsError, match="logs: is not a directory"):
        plan(home)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to somebody else")
def test_what_root_left_behind_is_given_back(public):
    nobody = Owner.named("nobody")
    os.chown(public, nobody.uid, nobody.gid)
    home = public / ".hermes"
    plan(home, owner=nobody).apply()
    assert home.stat().st_uid == nobody.uid
    (home / "state.db").write_text("")
    (home / "sessions/1.json").write_text("")
    other = home / "profiles/other"
    other.mkdir(parents=True)
    mended = plan(home, owner=nobody)
    mended.apply()
    assert (home / "state.db").stat().st_uid == (home / "sessions/1.json").stat().st_uid == nobody.uid
    # Another profile is its own module run's business.
    assert other.stat().st_uid == 0
    assert not plan(home, owner=nobody).changed


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as somebody else")
def test_root_writes_nothing_through_the_agent_s_links(public):
    nobody = Owner.named("nobody")
    home, victim = public / ".hermes", public / "victim"
    home.mkdir()
    os.chown(home, nobody.uid, nobody.gid)
    plan(home, owner=nobody).apply()
    victim.mkdir()
    victim.chmod(0o755)
    (home / "memories").rmdir()
    (home / "memories").symlink_to(victim)
    with pytest.raises(OpsError, match="cannot be written"):
        plan(home, owner=nobody, user_profile="Ada").apply()
    assert os.listdir(victim) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as somebody else")
def test_an_agent_that_swaps_its_home_for_a_link_gains_nothing(public):
    nobody = Owner.named("nobody")
    agents, victim = public / "agents", public / "victim"
    agents.mkdir()
    victim.mkdir()
    (victim / "passwd").write_text("root's")
    os.chown(agents, nobody.uid, nobody.gid)
    plan(agents / ".hermes", owner=nobody).apply()
    pending = profile.plan_removal(str(agents / ".hermes"), nobody)
    (agents / ".hermes").rename(agents / ".h")
    (agents / ".hermes").symlink_to(victim)
    with pytest.raises(OpsError, match="symbolic link that root did not make"):
        plan(agents / ".hermes", owner=nobody)
    with pytest.raises(OpsError, match="symbolic link that root did not make"):
        pending.apply()
    assert (victim / "passwd").stat().st_uid == 0
    assert os.listdir(victim) == ["passwd"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to somebody else")
def test_a_purge_removes_what_root_left_behind_and_follows_no_link(public):
    nobody = Owner.named("nobody")
    home, victim = public / "profiles" / "coder", public / "victim"
    plan(home, nobody).apply()
    os.chown(home.parent, nobody.uid, nobody.gid)
    (home / "roots").mkdir(mode=0o700)
    (home / "roots/file").write_text("")
    victim.mkdir()
    (victim / "file").write_text("")
    (home / "link").symlink_to(victim)
    profile.plan_removal(str(home), nobody).apply()
    assert not home.exists()
    assert os.listdir(victim) == ["file"]


@pytest.mark.skipif(os.geteuid() != 0, reason="SKIPPED, NOT PROVED: only root can give files to somebody else")
def test_a_purge_takes_the_agent_s_directory_out_of_root_s(public):
    nobody = Owner.named("nobody")
    directory, other = public / "agents" / "coder", public / "agents" / "other"
    for path in (directory, other):
        path.mkdir(parents=True)
        os.chown(path, nobody.uid, nobody.gid)
    (public / "agents").chmod(0o711)
    plan(directory / ".hermes", nobody).apply()
    (directory / ".bashrc").write_text("")
    (directory / "locked").mkdir(mode=0o000)
    profile.plan_removal(str(directory / ".hermes"), nobody, str(directory)).apply()
    assert os.listdir(public / "agents") == ["other"]
    assert not profile.plan_removal(str(directory / ".hermes"), nobody, str(directory)).changed


def test_a_home_with_profiles_in_it_is_not_purged(home):
    (home / "profiles" / "notes").mkdir(parents=True)
    with pytest.raises(OpsError, match="holds profiles of its own: notes"):
        profile.plan_removal(str(home), ME)


def test_a_purge_leaves_nothing(home):
    profile.plan_removal(str(home), ME).apply()
    assert not home.exists()
    assert not profile.plan_removal(str(home), ME).changed


def test_a_state_file_of_a_dead_gateway_is_not_taken_for_a_live_one(home):
    assert profile.running(str(home), ME) == 0
    (home / "gateway_state.json").write_text(f'{{"pid": {os.getpid()}}}')
    assert profile.running(str(home), ME) == 0


@settings(max_examples=settings.default.max_examples // 4)
@given(st.text(max_size=200).filter(lambda text: "\r" not in text))
def test_any_text_can_be_a_soul(home, text):
    text = text.encode("utf-8", "ignore").decode()
    plan(home, soul=text).apply()
    assert not plan(home, soul=text).changed
    assert (home / "SOUL.md").read_text().rstrip("\n") == text.rstrip("\n")
