# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is asked of an agent in its container by commands beside its gateway, as a user without a name."""

from __future__ import annotations

import io
import json
import os
import sqlite3
import subprocess
import sys
import tarfile
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

    def call(self, action: str, *words: str, given: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        command = [sys.executable, "-B", "-c", COMMAND, self.contained.kit, "agent", action, *words]
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
