# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is asked of an agent in its container by commands beside its gateway, as a user without a name."""

from __future__ import annotations

import fcntl
import io
import itertools
import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.backup import extracting

COMMAND = "import sys; sys.path.insert(0, sys.argv.pop(1)); from hermes_ops.cli import main; sys.exit(main())"
SECRETS = {"API_SERVER_KEY": "a-key-of-at-least-sixteen-characters", "MODEL_TOKEN": "sk-secret-of-ada-4711"}
DECLARED: dict[str, Any] = {
    "name": "ada",
    "config": {"model": {"default": "a/b"}},
    "webhooks": [{"name": "claude-context", "prompt": "{body}", "secret": "secret-of-the-webhook-0123"}],
    "memory": "The zebra likes hay.",
}


class Box:
    """A volume on which an agent has lived, a description and secrets."""

    def __init__(self, top: Path, contained: Any) -> None:
        self.top, self.contained = top, contained
        self.data = top / "data"
        self.home = self.data / ".hermes"
        self.data.mkdir()
        contained.give(self.data)
        program = top / "root/releases/1/bin/hermes"
        program.parent.mkdir(parents=True)
        program.write_text("#!/bin/sh\n")
        program.chmod(0o755)
        (top / "root/current").symlink_to("releases/1")
        (top / "root/releases/1/release.json").write_text('{"version": "0.19.0"}')
        (top / "agent.json").write_text(json.dumps(DECLARED))
        (top / "secrets").mkdir()
        for name, value in SECRETS.items():
            (top / "secrets" / name).write_text(value)
        done = self.call("run")
        assert done.returncode == 0, done.stderr

    def call(
        self, action: str, *words: str, given: bytes = b"", before: str = ""
    ) -> subprocess.CompletedProcess[bytes]:
        """Run ``hermes-ops agent``, after the program *before* in the same process."""
        command = [sys.executable, "-B", "-c", f"{before}\n{COMMAND}", self.contained.kit, "agent", action, *words]
        places = {"description": "agent.json", "secrets": "secrets", "data": "data", "root": "root"}
        argv = self.contained.argv([*command, *(f"--{name}={self.top / path}" for name, path in places.items())], {})
        environ = {"PATH": os.environ["PATH"], "UID_": str(self.contained.uid)}
        return subprocess.run(argv, env=environ, input=given, capture_output=True, timeout=120, check=False)


@pytest.fixture
def box(public: Path, contained: Any) -> Box:
    return Box(public, contained)


@pytest.mark.parametrize(
    ("words", "given"), [(["zebra hay"], b""), (["-"], b"zebra hay\n"), (["-", "--bytes=5"], b"zebra and no end")]
)
def test_its_memories_are_searched(box, words, given):
    done = box.call("memory", *words, given=given)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(b"agent ada: 1 found\n")
    assert b"      The zebra likes hay.\n" in done.stdout


@pytest.mark.parametrize("action", [["memory", "-"], ["tell"]])
def test_a_text_that_was_cut_off_is_not_used(box, action):
    done = box.call(*action, "--bytes=100", given=b"zebra\nhay")
    assert (done.returncode, done.stdout) == (2, b"")
    assert b"standard input: ended after 9 bytes" in done.stderr
    assert not (box.home / "context").exists()


def test_a_text_is_kept_if_its_gateway_does_not_answer(box):
    given = "Über Heu\nDas Zebra will mehr.\n".encode()
    done = box.call("tell", "--check", given=given)
    assert (done.returncode, done.stderr) == (0, b"")
    assert "would tell: agent ada, by http://127.0.0.1:8644/webhooks/claude-context: Über Heu" in done.stdout.decode()
    assert not (box.home / "context").exists()

    done = box.call("tell", f"--bytes={len(given)}", given=given)
    assert done.returncode == 1
    assert done.stderr.startswith(b"hermes-ops: kept, but not delivered: ")
    (kept,) = (box.home / "context").iterdir()
    assert kept.read_text() == "# Über Heu\n\nDas Zebra will mehr.\n"


def test_a_bundle_has_no_secret_and_says_what_is_wrong(box):
    (box.home / "config.yaml").write_text("model: {default: c/d, api_key: sk-of-the-agent-itself-4711}\n")
    (box.home / "gateway_state.json").write_text(json.dumps({"said": [*SECRETS.values()]}))
    done = box.call("debug")
    assert (done.returncode, done.stderr) == (0, b"")
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
        parts = {each.name.partition("/")[2]: archive.extractfile(each).read().decode() for each in archive}
    assert "model.default" in parts["check.txt"]
    assert '"problem"' in parts["health.json"]
    assert '"version": "0.19.0"' in parts["release.json"]
    assert "MemTotal" in parts["system/memory.txt"]
    assert "c/d" in parts["agents/ada/config.yaml.json"]
    assert "API_SERVER_KEY" in parts["about.txt"]
    secrets = (*SECRETS.values(), DECLARED["webhooks"][0]["secret"], "sk-of-the-agent-itself-4711")
    assert [name for name, text in parts.items() if any(secret in text for secret in secrets)] == []
    assert "zebra" not in "".join(parts.values())


def test_a_backup_is_one_of_a_host(box, tmp_path):
    database = box.home / "state.db"
    with sqlite3.connect(database) as opened:
        opened.execute("CREATE TABLE hay (bales)")
        opened.execute("INSERT INTO hay VALUES (7)")
    opened.close()
    box.contained.give(database)
    done = box.call("backup")
    assert (done.returncode, done.stderr) == (0, b"")
    archive = tmp_path / "ada-20261123T100000Z.tar.gz"
    archive.write_bytes(done.stdout)
    manifest = extracting.verify(str(archive))
    assert (manifest.agent, manifest.release, manifest.version, manifest.env) == ("ada", "1", "0.19.0", "exclude")
    assert manifest.problems == {}
    with tarfile.open(archive) as opened:
        assert {"home/state.db", "home/memories/MEMORY.md"} <= {*opened.getnames()}
    assert b"sk-secret-of-ada" not in done.stdout


# Ends like a kill, in place of a rename, all but the first few of them.
KILL = """
import itertools, os
done, rename = itertools.count(), os.rename
def killed(*words, **more):
    os._exit(9) if next(done) == {number} else rename(*words, **more)
os.rename = killed
"""


def spoken(box: Box, *said: str) -> None:
    """Have somebody have *said* something to the agent just now."""
    path = box.home / "state.db"
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE IF NOT EXISTS messages (role, content, timestamp)")
        database.executemany("INSERT INTO messages VALUES ('user', ?, ?)", [(text, time.time()) for text in said])
    database.close()
    box.contained.give(path)


def heard(home: Path) -> list[str]:
    with sqlite3.connect(home / "state.db") as database:
        found = [text for (text,) in database.execute("SELECT content FROM messages")]
    database.close()
    return found


@pytest.fixture
def archive(box: Box) -> bytes:
    """Of a home that knows a lion, has a file that the present one has not, and secrets of its own."""
    spoken(box, "a lion")
    (box.home / "only-there").write_text("x")
    box.contained.give(box.home / "only-there")
    done = box.call("backup")
    assert done.returncode == 0, done.stderr
    (box.home / "only-there").unlink()
    (box.home / ".env").write_text("OF_THIS_PLACE=1\n")
    box.contained.give(box.home / ".env")
    return done.stdout


def left(box: Box) -> list[str]:
    """What a restore has beside the home."""
    return sorted(each.name for each in box.data.iterdir() if each.name.startswith(".hermes-ops-") and each.is_dir())


def test_a_restore_replaces_the_home_and_keeps_the_former_one(box, archive):
    records = left(box)
    spoken(box, "a mouse")
    # Standard input has no end.
    with open(box.top / "given", "wb") as file:
        file.write(archive + b"and no end")
    given = (box.top / "given").read_bytes()
    refused = box.call("restore", f"--bytes={len(archive)}", given=given)
    assert refused.returncode == 2
    assert b"the home knows more than the backup" in refused.stderr
    assert heard(box.home) == ["a lion", "a mouse"]

    done = box.call("restore", f"--bytes={len(archive)}", "--force", given=given)
    assert done.returncode == 0, done.stderr
    assert re.match(rb"restored: \d+ files of ada on .*; what was there is kept: --former\n", done.stdout)
    assert heard(box.home) == ["a lion"]
    assert (box.home / "only-there").exists()
    assert (box.home / ".env").read_text() == "OF_THIS_PLACE=1\n"
    assert left(box) == [".hermes-ops-former", *records]
    assert heard(box.data / ".hermes-ops-former") == ["a lion", "a mouse"]

    for said in (["a lion", "a mouse"], ["a lion"]):
        done = box.call("restore", "--former")
        assert done.returncode == 0, done.stderr
        assert heard(box.home) == said
        assert left(box) == [".hermes-ops-former", *records]
    # One former home is kept, and the agent starts with what is there.
    spoken(box, "a bee")
    assert box.call("restore", "--force", given=archive).returncode == 0
    assert heard(box.data / ".hermes-ops-former") == ["a lion", "a bee"]
    assert box.call("run").returncode == 0
    assert heard(box.home) == ["a lion"]


def test_a_home_that_is_not_there_yet_is_restored(box, archive):
    shutil.rmtree(box.home)
    assert box.call("restore", given=archive).returncode == 0
    assert heard(box.home) == ["a lion"]
    done = box.call("restore", "--former")
    assert done.returncode == 2
    assert b"there is no former home" in done.stderr


def test_nothing_is_restored_while_its_gateway_runs(box, archive):
    spoken(box, "a mouse")
    with open(box.data / ".hermes-ops-running") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        for words in (["--force"], ["--former"]):
            done = box.call("restore", *words, given=archive)
            assert done.returncode == 74
            assert b"another container runs on this volume" in done.stderr
    assert heard(box.home) == ["a lion", "a mouse"]


@pytest.mark.parametrize(("words", "again"), [(["--force"], "restore"), (["--force"], "run"), (["--former"], "run")])
def test_a_restore_that_is_killed_leaves_a_whole_home(box, archive, words, again):
    spoken(box, "a mouse")
    assert box.call("restore", "--force", given=archive).returncode == 0
    spoken(box, "a bee")
    records = left(box)
    for number in itertools.count():
        status = box.call("restore", *words, given=archive, before=KILL.format(number=number)).returncode
        if status != 9:
            break
        if again == "restore":
            assert box.call("restore", *words, given=archive).returncode == 0
        else:
            assert box.call("run").returncode == 0
        assert heard(box.home) in (["a lion", "a bee"], ["a lion", "a mouse"], ["a lion"])
        assert left(box) == records
    assert status == 0
    assert number >= 3


def hostile(change: str, archive: bytes) -> bytes:
    """The *archive*, made into one that is none of ours."""
    if change == "cut off":
        return archive[: len(archive) // 2]
    if change == "changed":
        with tarfile.open(fileobj=io.BytesIO(archive)) as before:
            return repacked(
                (each, before.extractfile(each) and before.extractfile(each).read()[::-1]) for each in before
            )
    member = tarfile.TarInfo({"out": "home/../../escaped", "absolute": "/tmp/escaped", "device": "home/null"}[change])
    if change == "device":
        member.type = tarfile.CHRTYPE
    with tarfile.open(fileobj=io.BytesIO(archive)) as before:
        members = [(each, before.extractfile(each) and before.extractfile(each).read()) for each in before]
    return repacked([members[0], (member, b""), *members[1:]])


def repacked(members: Any) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz", format=tarfile.PAX_FORMAT) as made:
        for member, data in members:
            member.size = len(data or b"")
            made.addfile(member, io.BytesIO(data or b""))
    return out.getvalue()


@pytest.mark.parametrize("change", ["cut off", "changed", "out", "absolute", "device"])
def test_an_archive_that_is_none_changes_nothing(box, archive, change):
    records = left(box)
    given = hostile(change, archive)
    done = box.call("restore", "--force", f"--bytes={len(given)}", given=given)
    assert done.returncode == 2
    assert b"standard input" in done.stderr
    assert heard(box.home) == ["a lion"]
    assert not (box.home / "only-there").exists()
    assert not (box.data / ".hermes-ops-former").exists()
    assert box.call("run").returncode == 0
    assert left(box) == records


def test_an_archive_that_ends_early_is_not_used(box, archive):
    done = box.call("restore", "--force", f"--bytes={len(archive) + 7}", given=archive)
    assert done.returncode == 2
    assert b"standard input: ended 7 bytes early" in done.stderr
    assert not (box.home / "only-there").exists()


def test_only_with_its_option_a_start_keeps_the_data_from_another_release(box):
    def install(number: int) -> None:
        (box.top / f"root/releases/{number}").symlink_to("1")
        (box.top / "root/current").unlink()
        (box.top / "root/current").symlink_to(f"releases/{number}")

    with sqlite3.connect(box.home / "state.db") as database:
        database.execute("CREATE TABLE said (text TEXT)")
    box.contained.give(box.home / "state.db")
    kept = box.data / ".hermes-ops-update"
    for number in (2, 3):
        install(number)
        assert box.call("run").returncode == 0
    assert not kept.exists()
    assert box.call("run", "--trial").stdout == b""
    install(4)
    assert box.call("run", "--trial").stdout.startswith(
        b"hermes-ops: 4 is on trial: the data as 3 left it is kept until "
    )
    assert (kept / "copies/data/state.db").stat().st_uid == box.contained.uid

    done = box.call("verify", "--json", "--wait=0")
    assert (done.returncode, done.stderr) == (1, b"")
    assert [each["cause"] for each in json.loads(done.stdout)["problems"]] == ["not_ready"]
    assert (kept / "copies/data").is_dir()
    assert box.call("verify", "--wait=0", "--before=x,not_ready").returncode == 0
    assert not (kept / "copies").exists()
