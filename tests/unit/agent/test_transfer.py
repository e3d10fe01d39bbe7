# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Porting skills and an OpenClaw home: everything is listed, nothing is overwritten, no link is followed."""

from __future__ import annotations

import os
import stat
import subprocess
from dataclasses import replace
from pathlib import Path

import described
import pytest
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops import cli
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.agent import parcel, transfer
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.host.installation import Installation
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.supervise import health
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.errors import OpsError
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.files import Account
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.systemd import Unit
from hypothesis import example, given
from hypothesis import strategies as st

OWNER = Account.current()
DEFAULT_SOUL = "You are Hermes Agent."


def write(top, files):
    for relative, content in files.items():
        path = Path(top, relative)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return top


@pytest.fixture
def source(tmp_path):
    return tmp_path / "source"


@pytest.fixture
def home(tmp_path):
    (tmp_path / "home").mkdir()
    return tmp_path / "home"


def items_of(source, home, check=False):
    with parcel.packed(str(source)) as (index, descriptor):
        return transfer.port(source.name, index, descriptor, str(home), OWNER, soul=DEFAULT_SOUL, check=check)


def ported(source, home, check=False):
    """What ``hermes-ops port`` does, as (status, source, target)."""
    return [(item.status, item.source, item.target) for item in items_of(source, home, check)]


def everything(top):
    return {
        str(path.relative_to(top)): path.read_text() if path.is_file() else None
        for path in sorted(Path(top).rglob("*"))
    }


SKILL = "---\nname: bread\ndescription: Bakes bread.\n---\nBake.\n"


@pytest.mark.parametrize(
    ("directory", "target"),
    [
        ("skills/kitchen/bread", "skills/kitchen/bread"),
        ("skills/kitchen/oven/bread", "skills/kitchen/oven/bread"),
        ("skills/bread", "skills/imported/bread"),
        ("kitchen/bread", "skills/kitchen/bread"),
        ("bread", "skills/imported/bread"),
        (".", "skills/imported/source"),
    ],
)
def test_where_a_skill_goes(source, home, directory, target):
    write(source, {f"{directory}/SKILL.md": SKILL, f"{directory}/scripts/bake.sh": "#!/bin/sh\n"})
    (source / directory / "scripts/bake.sh").chmod(0o755)
    assert ported(source, home, check=True) == [("ported", os.path.normpath(directory), target)]
    assert everything(home) == {}
    ported(source, home)
    assert (home / target / "SKILL.md").read_text() == SKILL
    modes = {name: stat.S_IMODE((home / target / name).stat().st_mode) for name in ("", "SKILL.md", "scripts/bake.sh")}
    assert modes == {"": 0o700, "SKILL.md": 0o600, "scripts/bake.sh": 0o700}
    before = everything(home)
    assert ported(source, home) == [("there already", os.path.normpath(directory), target)]
    assert everything(home) == before


@pytest.mark.parametrize(
    "present",
    [
        {"skills/kitchen/bread/SKILL.md": "other"},
        {"skills/kitchen/bread/SKILL.md": SKILL, "skills/kitchen/bread/more.md": "x"},
        # Hermes knows a skill by the name in its file, in whatever directory that lies.
        {"skills/baking/bread/SKILL.md": "other"},
        {"skills/baking/loaf/SKILL.md": SKILL + "more"},
        {"skills/kitchen/bread": "a file"},
    ],
)
def test_a_conflict_is_reported_and_nothing_overwritten(source, home, present):
    write(source, {"skills/kitchen/bread/SKILL.md": SKILL, "skills/kitchen/soup/SKILL.md": "soup"})
    write(home, present)
    found = ported(source, home)
    assert [(status, source) for status, source, _target in found] == [
        ("conflict", "skills/kitchen/bread"),
        ("ported", "skills/kitchen/soup"),
    ]
    assert {path: text for path, text in everything(home).items() if text is not None} == {
        **present,
        "skills/kitchen/soup/SKILL.md": "soup",
    }


def test_the_same_skill_elsewhere_is_there_already(source, home):
    write(source, {"skills/bread/SKILL.md": SKILL})
    write(home, {"skills/baking/loaf/SKILL.md": SKILL})
    assert ported(source, home) == [("there already", "skills/bread", "skills/baking/loaf")]


def test_two_skills_of_one_name(source, home):
    write(source, {"a/bread/SKILL.md": SKILL, "b/loaf/SKILL.md": SKILL + "more", "c/loaf/SKILL.md": "loaf"})
    assert [status for status, _source, _target in ported(source, home)] == ["ported", "conflict", "ported"]


def test_a_skill_within_a_skill_belongs_to_it(source, home):
    write(source, {"bread/SKILL.md": SKILL, "bread/references/old/SKILL.md": "old", "README.md": "x"})
    assert ported(source, home) == [("ported", "bread", "skills/imported/bread"), ("left", "README.md", "")]
    assert (home / "skills/imported/bread/references/old/SKILL.md").exists()


@pytest.mark.parametrize(
    "kind", ["link to a file", "link to a directory", "pipe", "the skill itself", "name", "control"]
)
def test_tricks_are_refused(source, home, tmp_path, kind):
    (tmp_path / "secret").write_text("secret")
    write(source, {"evil/SKILL.md": "x", "good/SKILL.md": "x"})
    if kind == "link to a file":
        (source / "evil/notes.md").symlink_to(tmp_path / "secret")
    elif kind == "link to a directory":
        (source / "evil/notes").symlink_to("/etc")
    elif kind == "pipe":
        os.mkfifo(source / "evil/pipe")
    elif kind == "the skill itself":
        (source / "evil/SKILL.md").unlink()
        (source / "evil/SKILL.md").symlink_to(tmp_path / "secret")
    elif kind == "name":
        (source / "evil").rename(source / "..evil")
    elif kind == "control":
        (source / "evil/\x1b[2J.md").write_text("x")
    statuses = {source.strip("."): status for status, source, _target in ported(source, home)}
    assert statuses == {"evil": "refused", "good": "ported"}
    assert not any("evil" in path for path in everything(home))


def test_the_name_of_a_file_is_no_line_of_ours():
    item = transfer.Item("left", "x\nported         all -> skills/all\x1b[2J")
    assert len(str(item).splitlines()) == 1
    assert "\x1b" not in str(item)


def test_a_file_that_becomes_a_link_is_not_followed(source, home, tmp_path, monkeypatch):
    """Root may port a directory that somebody else changes at the same time."""
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/notes.md").write_text("secret")
    write(source, {"bread/SKILL.md": SKILL, "bread/references/notes.md": "x"})

    def swapped(*arguments, copy=parcel._copy):
        if not (source / "away").exists():
            (source / "bread/references").rename(source / "away")
            (source / "bread/references").symlink_to(tmp_path / "elsewhere")
        return copy(*arguments)

    monkeypatch.setattr(parcel, "_copy", swapped)
    top = os.open(source, os.O_RDONLY)
    with open(tmp_path / "packed", "w+b") as target, pytest.raises(OpsError, match="cannot be read"):
        parcel.pack(top, target.fileno())
    os.close(top)
    assert b"secret" not in (tmp_path / "packed").read_bytes()


def test_half_a_skill_is_never_seen(source, home, monkeypatch):
    write(source, {"bread/SKILL.md": SKILL, "bread/a.md": "a", "bread/z.md": "z" * 100})
    with monkeypatch.context() as patched:
        # As on a full disk.
        patched.setattr(transfer, "_LIMITS", replace(transfer._LIMITS, file=50))
        with pytest.raises(OpsError, match="cannot be written"):
            ported(source, home)
    assert everything(home) == {"skills": None, "skills/imported": None}
    # Left behind by a killed run.
    write(home, {f"skills/imported/.bread{transfer._UNFINISHED}/SKILL.md": SKILL})
    assert ported(source, home) == [("ported", "bread", "skills/imported/bread")]
    assert sorted(os.listdir(home / "skills/imported")) == ["bread"]


def test_what_is_made_anew_is_left(source, home):
    write(source, {"bread/SKILL.md": SKILL, "bread/.git/config": "x", "node_modules/a/SKILL.md": "x"})
    assert ported(source, home) == [
        ("ported", "bread", "skills/imported/bread"),
        ("left", "bread/.git", ""),
        ("left", "node_modules", ""),
    ]
    assert not (home / "skills/imported/bread/.git").exists()


def test_nothing_to_port(source, home):
    write(source, {"README.md": "x"})
    with pytest.raises(OpsError, match="nothing to port"):
        ported(source, home)
    with pytest.raises(OpsError, match="cannot be opened"):
        ported(source / "none", home)


# An OpenClaw home


OPENCLAW = {
    "openclaw.json": "{}",
    ".env": "KEY=secret",
    "credentials/telegram.json": "{}",
    "agents/main/sessions/one.jsonl": "{}",
    "skills/shared/SKILL.md": "shared",
    "workspace/SOUL.md": "# Soul\n\nYou are Claw.\n",
    "workspace/IDENTITY.md": "# Identity\n\nName: Claw\n",
    "workspace/USER.md": "# User\n\n- Likes tea\n- Lives in York\n",
    "workspace/MEMORY.md": "# Memory\n\n## House\n\n- The key is\n  under the mat\n",
    "workspace/AGENTS.md": "Rules.\n",
    "workspace/memory/2026-02-09.md": "A day.\n",
    "workspace/skills/bread/SKILL.md": SKILL,
    "workspace/projects/x/SKILL.md": "no skill of the agent",
    "workspace/tool.py": "x",
}


@pytest.mark.parametrize("workspace", ["workspace", "workspace-main"])
def test_an_openclaw_home(source, home, workspace):
    write(source, {path.replace("workspace/", f"{workspace}/"): text for path, text in OPENCLAW.items()})
    write(home, {"SOUL.md": DEFAULT_SOUL, "memories/MEMORY.md": "\n"})
    found = ported(source, home)
    assert {path: text for path, text in everything(home).items() if text is not None} == {
        "SOUL.md": "# Soul\n\nYou are Claw.\n\n# Identity\n\nName: Claw\n",
        "memories/USER.md": "Likes tea\n§\nLives in York\n",
        "memories/MEMORY.md": "House: The key is under the mat\n",
        "context/openclaw/AGENTS.md": "Rules.\n",
        "context/openclaw/IDENTITY.md": "# Identity\n\nName: Claw\n",
        "context/openclaw/MEMORY.md": OPENCLAW["workspace/MEMORY.md"],
        "context/openclaw/SOUL.md": OPENCLAW["workspace/SOUL.md"],
        "context/openclaw/USER.md": OPENCLAW["workspace/USER.md"],
        "context/openclaw/memory/2026-02-09.md": "A day.\n",
        "skills/openclaw-imports/bread/SKILL.md": SKILL,
        "skills/openclaw-imports/shared/SKILL.md": "shared",
    }
    assert {path for status, path, _target in found if status == "left"} == {
        ".env",
        "agents",
        "credentials",
        "openclaw.json",
        f"{workspace}/projects",
        f"{workspace}/tool.py",
    }
    assert {stat.S_IMODE(path.stat().st_mode) & 0o077 for path in (home / "context").rglob("*")} == {0}
    assert {status for status, _path, _target in ported(source, home)} == {"there already", "left"}


def test_what_the_agent_knows_stays(source, home):
    write(source, OPENCLAW)
    theirs = {
        "SOUL.md": "Somebody else.",
        "memories/USER.md": "Likes coffee\n",
        "memories/MEMORY.md": "Rain\n",
        "context/openclaw/AGENTS.md": "Other rules.\n",
    }
    write(home, theirs)
    conflicts = {target for status, _source, target in ported(source, home) if status == "conflict"}
    assert conflicts == set(theirs)
    assert {path: text for path, text in everything(home).items() if path in theirs} == theirs


def test_a_link_where_a_text_goes_is_a_conflict_or_replaced_never_followed(source, home, tmp_path):
    write(source, OPENCLAW)
    (tmp_path / "outside").write_text("")
    (home / "memories").mkdir()
    (home / "memories/USER.md").symlink_to(tmp_path / "outside")
    ported(source, home)
    assert (tmp_path / "outside").read_text() == ""


@pytest.mark.parametrize("name", ["workspace/SOUL.md", "workspace/MEMORY.md", "workspace/memory/2026-02-09.md"])
def test_texts_that_are_links_or_no_text_are_refused(source, home, tmp_path, name):
    write(source, OPENCLAW)
    (tmp_path / "secret").write_text("secret")
    (source / name).unlink()
    (source / name).symlink_to(tmp_path / "secret")
    assert ("refused", name) in {(status, path) for status, path, _target in ported(source, home)}
    (source / name).unlink()
    (source / name).write_bytes(b"\xff\xfe")
    assert ("refused", name) in {(status, path) for status, path, _target in ported(source, home)}
    assert not any("secret" in (text or "") for text in everything(home).values())


# A source that somebody hostile filled

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="SKIPPED, NOT PROVED: only root can act as somebody else")


def test_names_in_a_skill_are_those_hermes_knows():
    names = {
        "---\nname: bread\n---\n": "bread",
        "---  \nother: x\nname:\t'bread' \n---": "bread",
        '---\nname: "white bread"\n---\n': "white bread",
        "---\nname: bread\n": "d",
        "name: bread\n---\n": "d",
        "---\nname:\n---\n": "d",
        "": "d",
    }
    assert {text: transfer._name(text.encode(), "d") for text in names} == names


def test_a_skill_that_a_pattern_would_take_hours_for(source, home):
    write(source, {"bread/SKILL.md": "---\n" + 'name: "\n' * 500 + "name:" + " " * 3000})
    assert ported(source, home) == [("ported", "bread", "skills/imported/bread")]


def test_a_hole_is_no_skill(source, home):
    write(source, {"bread/SKILL.md": SKILL})
    os.truncate(source / "bread/SKILL.md", 3 * 2**30)
    with pytest.raises(OpsError, match="is too large") as caught:
        ported(source, home, check=True)
    assert caught.value.where == "bread/SKILL.md"


def test_directories_without_end(public, home, nest):
    write(public, {"bread/SKILL.md": SKILL})
    nest(public / "bread", 1500)
    with pytest.raises(OpsError, match="is nested more than 32 levels deep"):
        ported(public, home, check=True)


def test_skills_that_are_there_without_end(source, public, nest):
    write(source, {"bread/SKILL.md": SKILL})
    (public / "skills/deep").mkdir(parents=True)
    nest(public / "skills/deep", 1500)
    assert ported(source, public) == [("ported", "bread", "skills/imported/bread")]


def test_only_skills_and_texts_are_taken_along(source):
    """A large home is no trouble, and its secrets stay where they are."""
    write(source, {**OPENCLAW, "agents/main/state.sqlite": ""})
    os.truncate(source / "agents/main/state.sqlite", 2 * parcel.LARGEST)
    with parcel.packed(str(source)) as (index, descriptor):
        taken = os.pread(descriptor, 10_000, 0)
    assert b"Bakes bread" in taken
    assert b"KEY=secret" not in taken
    assert index["entries"][".env"][3] is None


@needs_root
def test_a_source_of_another_agent_is_read_as_that_agent(public, home, nobody):
    """The source is not read as root, because a link in it could then expose any file."""
    source, secret = public / "theirs", public / "secret"
    write(source, {"bread/SKILL.md": SKILL})
    secret.mkdir(mode=0o700)
    (secret / "SKILL.md").write_text("root's")
    subprocess.run(["chown", "-R", f"{nobody.uid}:{nobody.gid}", str(source)], check=True)
    (source / "skills").symlink_to(secret)
    with pytest.raises(OpsError, match="symbolic link that root did not make"):
        ported(source / "skills", home)
    (source / "skills").unlink()
    (source / "bread/notes.md").write_text("root's")
    (source / "bread/notes.md").chmod(0o600)
    with pytest.raises(OpsError, match=r"bread/notes\.md: cannot be read"):
        ported(source, home)


# Texts


@pytest.mark.parametrize(
    "answer", [None, [["ported", "a", "b"]], [["ported", "a", "b", None]], [["\x1b[2J", "", "", ""]]]
)
def test_an_answer_that_is_none_is_refused(home, monkeypatch, answer):
    monkeypatch.setattr(transfer, "work", lambda *_arguments, **_options: answer)
    with pytest.raises(OpsError, match="malformed answer"):
        transfer.port("x", {}, 0, str(home), Account.current(), soul=None, check=True)


def test_entries_are_what_is_said_below_which_headings():
    text = "# Title\n\nAbout.\n\n## House\n* key\n1. mat\n### Cellar\nwine\nand beer\n\n## House\n- key\n## Car\nred\n"
    assert transfer.entries_of(text) == [
        "About.",
        "House: key",
        "House: mat",
        "House: Cellar: wine and beer",
        "Car: red",
    ]
    # Already in the form of Hermes.
    assert transfer.entries_of("one\n§\ntwo\n") == ["one", "two"]


@example("- \n1", 2)
@given(st.text(alphabet="#-* a§\n\r\tb1.)", max_size=200), st.integers(0, 50))
def test_entries_fit_and_are_read_by_hermes_as_written(text, limit):
    kept = transfer.fitting(transfer.entries_of(text), limit)
    joined = transfer.ENTRY_DELIMITER.join(kept)
    assert len(joined) <= limit
    # As tools/memory_tool.py splits them.
    assert [entry.strip() for entry in joined.split(transfer.ENTRY_DELIMITER) if entry.strip()] == kept


def test_what_does_not_fit_is_said(source, home):
    write(source, {"SOUL.md": "x", "MEMORY.md": "\n\n".join(f"fact {number} " + "x" * 500 for number in range(10))})
    (item,) = [item for item in items_of(source, home, check=True) if item.target == "memories/MEMORY.md"]
    assert "4 of 10 entries" in str(item)


def test_the_persona_that_hermes_writes_is_found(tmp_path):
    assert transfer.default_soul(str(tmp_path)) is None
    path = "current/lib/python3.11/site-packages/hermes_cli/default_soul.py"
    write(tmp_path, {path: 'DEFAULT_SOUL_MD = ("You are "\n    "Hermes.")\nOTHER = 1\n'})
    assert transfer.default_soul(str(tmp_path)) == "You are Hermes."


# The command


@pytest.fixture
def host(home, tmp_path, monkeypatch):
    installed = Installation(
        {
            **dict.fromkeys(("scope", "data_dir", "managed_root"), "x"),
            "ops_dir": str(tmp_path / "ops"),
            "root": str(tmp_path / "root"),
        }
    )
    calls = []

    class Manager:
        scope, account = "system", OWNER
        unit = Unit("", "loaded", "active", "running", True, os.getpid(), 0, "", 0, 0.0, False)

        def units(self, names):
            return dict.fromkeys(names, self.unit)

        def call(self, *arguments, **_options):
            # The reason is recorded before the restart, after the skills are in place.
            assert installed.records("default").restart_reasons()
            assert (home / "skills").exists()
            calls.append(arguments)

    manager = Manager()
    installed.__dict__.update(agents=[described.agent(home=str(home), drain=0)], manager_of=lambda _agent: manager)
    monkeypatch.setattr(Installation, "load", lambda: installed)
    monkeypatch.setattr(health, "wait", lambda agents, manager_of: [health.Health("default")])
    installed.calls = calls
    return installed


def test_the_command_restarts_the_agent_for_new_skills_only(host, source, home, capsys):
    write(source, {"bread/SKILL.md": SKILL})
    assert cli.main(["port", str(source), "--check"]) == cli.EXIT_OK
    assert "nothing was changed" in capsys.readouterr().out
    assert everything(home) == {}
    assert cli.main(["port", str(source)]) == cli.EXIT_OK
    assert host.calls == [("restart", "hermes-gateway@default.service")]
    assert not host.records("default").restart_reasons()
    assert "ported         bread -> skills/imported/bread: 1 files" in capsys.readouterr().out
    assert cli.main(["port", str(source), "--json"]) == cli.EXIT_OK
    assert len(host.calls) == 1
    assert '"status": "there already"' in capsys.readouterr().out


def test_the_command_says_that_something_was_not_ported(host, source, home, capsys):
    write(source, {"bread/SKILL.md": SKILL})
    write(home, {"skills/bread/SKILL.md": "other"})
    assert cli.main(["port", str(source)]) == cli.EXIT_UNHEALTHY
    assert "conflict" in capsys.readouterr().out
    assert host.calls == []


def test_not_during_an_update(host, source, capsys):
    write(source, {"bread/SKILL.md": SKILL})
    with host.lock("update"):
        assert cli.main(["port", str(source)]) == cli.EXIT_ERROR
    assert "an update is running" in capsys.readouterr().err
