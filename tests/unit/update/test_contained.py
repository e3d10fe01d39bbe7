# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A release that is new to the volume of an agent's container: its data are kept before, and go back with the image."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import time
from pathlib import Path

import pytest
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.description.declaration import resolve_alone
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.host import held
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.supervise import health
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.supervise.entrypoint import Container
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.supervise.problems import Health, Problem
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.errors import OpsError
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.files import Account
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.update import contained

FORMER, NEW, NEWER = "0.18.2-1111", "0.19.0-2222", "0.19.1-3333"


class Killed(BaseException):
    """Plays SIGKILL: none of the kit's code runs after it."""


class Box:
    """A volume on which an agent has lived, and images with releases."""

    def __init__(self, top: Path) -> None:
        self.top, self.home = top, top / "data/.hermes"
        self.directory = top / "data/.hermes-ops-update"
        self.home.mkdir(parents=True)
        self.clock = time.time()
        self.left: int | None = None
        declared = resolve_alone(
            {"name": "ada"}, "x", user="x", data_dir=str(top / "data"), home=str(self.home), given=["API_SERVER_KEY"]
        )
        self.container = Container(declared, Account.current(), {"API_SERVER_KEY": "k" * 16}, ())
        with self.database() as database:
            database.execute("CREATE TABLE schema_version (version INTEGER)")
            database.execute("INSERT INTO schema_version VALUES (1)")
            database.execute("CREATE TABLE said (text TEXT)")
        self.speak("first")

    @contextlib.contextmanager
    def database(self):
        with contextlib.closing(sqlite3.connect(self.home / "state.db", isolation_level=None)) as database:
            yield database

    def speak(self, text: str) -> None:
        with self.database() as database:
            database.execute("INSERT INTO said VALUES (?)", (text,))

    @property
    def heard(self) -> list[str]:
        with self.database() as database:
            return [row[0] for row in database.execute("SELECT text FROM said ORDER BY rowid")]

    @property
    def schema(self) -> int:
        with self.database() as database:
            return database.execute("SELECT version FROM schema_version").fetchone()[0]

    def begin(self, release: str) -> list[str]:
        link = self.top / "root/current"
        link.parent.mkdir(exist_ok=True)
        link.unlink(missing_ok=True)
        link.symlink_to(f"releases/{release}")
        return [*contained.begin(self.container, str(self.top / "root"))]

    def start(self, release: str) -> list[str]:
        """Start an image; its Hermes migrates what another one has left."""
        said = self.begin(release)
        wanted = {FORMER: 1, NEW: 2, NEWER: 3}[release]
        with self.database() as database:
            database.execute("UPDATE schema_version SET version = max(version, ?)", (wanted,))
        return said

    @property
    def copies(self) -> list[str]:
        top = self.directory / "copies"
        return sorted(str(path.relative_to(top)) for path in top.rglob("*") if path.is_file())

    @property
    def aside(self) -> list[list[str]]:
        """What each database has heard that was set aside."""
        found = []
        for path in (self.directory / "set-aside").rglob("state.db"):
            with contextlib.closing(sqlite3.connect(path)) as database:
                found.append([row[0] for row in database.execute("SELECT text FROM said ORDER BY rowid")])
        return found

    def tick(self) -> None:
        if self.left is not None:
            self.left -= 1
            if self.left < 0:
                raise Killed

    def killed_after(self, count: int, release: str) -> bool:
        """Whether a start was killed at its *count*-th change to the volume."""
        self.left = count
        with contextlib.suppress(Killed):
            self.begin(release)
        killed = self.left < 0
        self.left = None
        return killed


@pytest.fixture
def boxes(tmp_path, monkeypatch, played_workers):
    """A function that makes the volume of a test."""
    made = []

    def make() -> Box:
        made.append(Box(tmp_path / str(len(made))))
        return made[-1]

    def ticking(original):
        def call(*arguments, **options):
            for box in made:
                box.tick()
            return original(*arguments, **options)

        return call

    for name in ("rename", "replace", "unlink", "link", "mkdir", "rmdir"):
        monkeypatch.setattr(os, name, ticking(getattr(os, name)))
    now = time.time
    monkeypatch.setattr(time, "time", lambda: made[-1].clock if made else now())
    return make


@pytest.fixture
def box(boxes) -> Box:
    return boxes()


def test_the_data_go_back_with_the_image_and_what_came_since_is_set_aside(box):
    assert box.start(FORMER) == []
    assert box.start(FORMER) == []
    box.speak("before")
    assert box.start(NEW) == [f"{NEW} is on trial: the data as {FORMER} left it is kept until it has run for an hour"]
    box.speak("lost on trial")
    # It crashes and is started again: it is the same trial.
    assert box.start(NEW) == []
    (said,) = box.start(FORMER)
    assert said.startswith("put back state.db of ada as before the update, the later versions are in ")
    assert (box.schema, box.heard, box.copies) == (1, ["first", "before"], [])
    assert box.aside == [["first", "before", "lost on trial"]]
    # The next trial begins anew, and only the last data that were replaced are kept.
    box.speak("after")
    box.start(NEW)
    assert box.aside == []
    box.start(FORMER)
    assert (box.schema, box.heard) == (1, ["first", "before", "after"])


def test_what_was_not_migrated_stays(box):
    box.start(FORMER)
    box.begin(NEW)
    box.speak("told on trial")
    assert box.start(FORMER) == []
    assert (box.heard, box.copies, box.aside) == (["first", "told on trial"], [], [])


@pytest.mark.parametrize("seconds", [contained.FRESH + 1, -contained.FRESH - 1])
def test_later_the_data_stay(box, seconds):
    box.start(FORMER)
    box.start(NEW)
    box.speak("told since")
    box.clock += seconds
    assert box.begin(NEW) == []
    assert box.copies == []
    # Going back is an update as any other.
    box.begin(FORMER)
    assert (box.schema, box.heard, box.aside) == (2, ["first", "told since"], [])
    assert "data/state.db" in box.copies


def test_one_that_is_started_again_and_again_stays_on_trial(box):
    box.start(FORMER)
    for _ in range(5):
        box.start(NEW)
        box.clock += 0.9 * contained.FRESH
    box.start(FORMER)
    assert (box.schema, box.heard) == (1, ["first"])


def test_a_release_that_has_filled_the_volume_leaves_room_for_going_back(box, monkeypatch):
    write, reserve = contained.write_json, box.directory / "copies/reserve"

    def full(*words):
        if reserve.exists():
            raise OpsError("cannot be written (No space left on device)")
        write(*words)

    box.start(FORMER)
    box.start(NEW)
    assert reserve.stat().st_blocks * 512 >= 2**24
    monkeypatch.setattr(contained, "write_json", full)
    assert box.start(NEW) == []
    assert box.copies
    box.start(FORMER)
    assert (box.schema, box.heard, box.copies) == (1, ["first"], [])


def test_a_third_release_goes_back_to_the_one_that_was_good(box):
    box.start(FORMER)
    box.start(NEW)
    box.speak("lost")
    assert box.start(NEWER) == []
    assert box.schema == 3
    box.start(FORMER)
    assert (box.schema, box.heard) == (1, ["first"])


def looked(monkeypatch, *causes: str, reply: str | None = None):
    """Have the agent look as if it had problems; returns what it is asked."""
    asked = []

    def check(agent, _account, _state):
        return Health(agent.name, [Problem(cause, f"it has {cause}", "mend it", True) for cause in causes])

    def prove(agent, _account, key):
        asked.append((agent.health.reply, key))
        return reply, None if reply or not agent.health.reply else Problem("no_reply", "it does not reply", "see")

    monkeypatch.setattr(health, "check", check)
    monkeypatch.setattr(health, "prove", prove)
    return asked


@pytest.mark.parametrize(
    ("causes", "reply", "before", "good"),
    [
        ((), "hello", (), True),
        ((), None, (), False),
        ((), None, ("no_reply",), True),
        (("no_provider",), None, (), False),
        (("no_provider",), None, ("no_provider", "x"), True),
        (("platform_missing", "port_in_use"), "hello", ("platform_missing",), False),
    ],
)
def test_one_that_is_as_well_as_before_is_not_on_trial_any_more(box, monkeypatch, causes, reply, before, good):
    box.start(FORMER)
    box.start(NEW)
    asked = looked(monkeypatch, *causes, reply=reply)
    _found, problems = contained.verify(box.container, before, 0)
    assert (problems == []) is good
    assert bool(box.copies) != good
    # One that has another problem is not asked for a reply.
    assert asked == ([] if causes else [("no_reply" not in before, "k" * 16)])
    box.speak("told")
    box.begin(FORMER)
    assert box.schema == (2 if good else 1)
    assert ("told" in box.heard) == good


@pytest.mark.parametrize(
    "wrong", ["", "{", "[]", '{"release": 3}', '{"since": 1' + "0" * 400 + "}", "[" * 4000, "x" * 9000]
)
def test_a_record_that_the_agent_broke_is_none(box, wrong):
    box.start(FORMER)
    (box.directory / "record.json").write_text(wrong)
    assert box.start(NEW) == []
    assert json.loads((box.directory / "record.json").read_text())["release"] == NEW


def test_a_record_that_is_a_pipe_or_a_link_harms_nobody(box, tmp_path):
    box.start(FORMER)
    record = box.directory / "record.json"
    record.unlink()
    os.mkfifo(record)
    box.begin(FORMER)
    record.unlink()
    other = tmp_path / "other"
    other.write_text("of somebody else")
    record.symlink_to(other)
    box.begin(NEW)
    assert other.read_text() == "of somebody else"
    assert not record.is_symlink()


def test_copies_that_the_agent_made_useless_do_not_keep_it_from_running(box):
    box.start(FORMER)
    box.start(NEW)
    box.speak("told")
    copy = box.directory / "copies/data/state.db"
    copy.unlink()
    copy.mkdir()
    (said,) = box.begin(FORMER)
    assert "not all data could be put back" in said
    assert (box.directory / "set-aside/before-the-update").is_dir()
    assert box.begin(FORMER) == []


def test_without_space_for_copies_nothing_is_touched(box, monkeypatch):
    box.start(FORMER)
    before = sorted(box.home.rglob("*"))
    monkeypatch.setattr(held, "spare", lambda *_: 3)
    for _ in range(2):
        with pytest.raises(contained.NotCopied, match="has room for 0 MB more") as caught:
            box.begin(NEW)
        assert caught.value.exit_status == 73
    assert (sorted(box.home.rglob("*")), box.copies) == (before, [])
    assert box.begin(FORMER) == []
    monkeypatch.undo()


def test_a_damaged_database_keeps_another_release_from_starting_and_not_the_one_that_ran(box):
    box.start(FORMER)
    (box.home / "state.db").write_bytes(b"SQLite format 3\0" + b"\xff" * 5000)
    with pytest.raises(contained.NotCopied, match=r"state\.db"):
        box.begin(NEW)
    assert box.begin(FORMER) == []


def test_without_a_home_or_a_release_there_is_nothing_to_keep(box, tmp_path):
    box.start(FORMER)
    box.home.rename(tmp_path / "away")
    box.begin(NEW)
    assert box.copies == []
    (box.top / "root/current").unlink()
    assert [*contained.begin(box.container, str(box.top / "root"))] == []


@pytest.mark.parametrize("then", [FORMER, NEW])
@pytest.mark.parametrize("way", ["forth", "back"])
def test_killed_anywhere_it_is_begun_again(boxes, way, then):
    """Whatever is started next, the former release has its data again, and with them all that was told before."""
    count, killed = 0, True
    while killed:
        box = boxes()
        box.start(FORMER)
        box.speak("before")
        if way == "back":
            box.start(NEW)
            box.speak("on trial")
        killed = box.killed_after(count, NEW if way == "forth" else FORMER)
        box.start(then)
        assert box.heard[:2] == ["first", "before"]
        box.start(FORMER)
        assert (box.schema, box.heard, box.copies) == (1, ["first", "before"], [])
        assert box.aside in ([], [["first", "before", "on trial"]], [["first", "before"]])
        count += 1
    assert count > 7


def test_one_that_has_begun_to_go_back_does_so_however_late(boxes):
    count, killed, ends = 0, True, []
    while killed:
        box = boxes()
        box.start(FORMER)
        box.start(NEW)
        box.speak("on trial")
        killed = box.killed_after(count, FORMER)
        box.clock += 2 * contained.FRESH
        box.begin(FORMER)
        ends.append((box.schema, box.heard))
        count += 1
    begun = ends.index((1, ["first"]))
    assert ends[:begun] == [(2, ["first", "on trial"])] * begun
    assert ends[begun:] == [(1, ["first"])] * (len(ends) - begun)
    assert 0 < begun < 5
