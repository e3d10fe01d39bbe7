# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The operator's playbooks as a person or a program runs them from elsewhere: what they print, and what they do."""

from __future__ import annotations

import base64
import json
import os
import re
import tarfile
import urllib.parse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

testinfra_hosts = ["ansible://operate-bookworm"]

HOME = "/var/lib/hermes/agents/default/.hermes"
# The files that these playbooks may change.
PLACES = (*(f"{HOME}/{name}" for name in ("SOUL.md", "context", "memories", "skills")), "/etc")


@pytest.fixture
def play(controller: Any) -> Callable[..., Any]:
    """A function that runs ``alwayson.hermes.<name>`` with variables and options of ansible-playbook."""

    def run(name: str, variables: dict[str, Any] | None = None, *options: str) -> Any:
        return controller.run(variables, *options, playbook=f"alwayson.hermes.{name}")

    return run


def left_behind(controller: Any) -> str:
    """Temporary files of these playbooks on the host."""
    return controller.shell("ls -d /tmp/*.hermes-* /var/tmp/*.hermes-* 2>/dev/null || true")


# --- tell and memory_query -------------------------------------------------------------------------------------


NOTE = """We moved the “zebra” to hall 7.

It eats {{ 6 * 7 }} kg of hay; its keeper's word is \x1b[31mred\x1b[0m.
"""


def test_tell_is_kept_said_answered_and_found_again(controller, play, model, tmp_path):
    note = tmp_path / "note.md"
    note.write_text(NOTE)
    # The path is relative to the current directory, not to the playbook.
    what = {"tell_topic": "The move of the zebra", "tell_file": os.path.relpath(note)}
    before = controller.manifest(PLACES)

    looked = play("tell", what, "--check")
    assert looked.rc == 0, looked.output
    assert looked.changed == 0
    assert "would tell: agent default" in looked.text
    assert controller.manifest(PLACES) == before
    assert model.requests() == []

    told = play("tell", what)
    assert told.rc == 0, told.output
    assert told.changed == 1
    assert "answer: The model heard: Incoming context (topic: The move of the zebra)" in told.text
    # Control characters of a terminal are escaped.
    assert "\x1b" not in told.output
    (path,) = re.findall(rf"kept: +({HOME}/context/\S+-the-move-of-the-zebra\.md)", told.output)
    assert controller.read(path).decode() == f"# The move of the zebra\n\n{NOTE}"
    assert controller.shell('stat --format "%U %a" "$1"', path) == "hermes-default 600\n"
    # The agent gets the text word for word; the host's journal does not.
    assert "It eats {{ 6 * 7 }} kg of hay" in json.dumps(model.requests(), ensure_ascii=False)
    assert "kg of hay" not in controller.shell("journalctl --boot --no-pager --identifier ansible-command || true")

    found = play("memory_query", {"memory_query": '"kg of hay" zebra'})
    assert found.rc == 0, found.output
    assert found.changed == 0
    assert f"context/{Path(path).name}:" not in found.text  # the words are in two paragraphs of the file
    found = play("memory_query", {"memory_query": '"kg of hay"'})
    assert f"context/{Path(path).name}:5" in found.text
    assert "(webhook), assistant" in found.text
    assert "\x1b" not in found.output
    assert "agent work: nothing found" in found.text


def test_tell_says_what_is_missing(controller, play):
    before = controller.manifest(PLACES)
    for variables, said in (
        ({}, "-e tell_topic="),
        ({"tell_topic": "x", "tell_body": "y", "tell_file": "/dev/null"}, "-e tell_file=FILE"),
        ({"tell_topic": "x", "tell_body": "y", "tell_webhook": "other"}, "it has: claude-context"),
        ({"tell_topic": "x", "tell_body": "y", "tell_agent": "other"}, "known ones: default, work"),
    ):
        run = play("tell", variables)
        assert run.rc != 0
        assert said in run.text
        assert "Traceback" not in run.output
    assert controller.manifest(PLACES) == before
    assert "-e memory_query=" in play("memory_query").text


def test_what_cannot_be_said_is_kept(controller, play, agent, wait_until):
    controller.shell("systemctl stop hermes-gateway@default")
    try:
        run = play("tell", {"tell_topic": "While you slept", "tell_body": "The zebra left."})
    finally:
        controller.shell("systemctl start hermes-gateway@default")
    assert run.rc != 0
    assert "kept, but not delivered" in run.text
    assert "Send it again once that is done: the agent has not got it." in run.text
    assert "The zebra left." in controller.shell(f"cat {HOME}/context/*-while-you-slept.md")
    wait_until(agent().is_healthy, "the agent is back")


# --- restart ---------------------------------------------------------------------------------------------------


def test_a_stopped_agent_is_started_and_no_other_restarted(controller, play, agent):
    default, work = agent(), agent("work", port=8643)
    pids = default.pid, work.pid
    assert "name one: default, work" in play("restart").text
    controller.shell("systemctl stop hermes-gateway@work")
    looked = play("restart", {"restart_agent": "work"}, "--check")
    assert (looked.rc, looked.changed) == (0, 0), looked.output
    assert "agent work: would be started" in looked.text
    run = play("restart", {"restart_agent": "work"})
    assert run.rc == 0, run.output
    assert "agent work: healthy" in run.text
    assert work.reply("well?") == "The model heard: well?"
    run = play("restart", {"restart_agent": "default"})
    assert run.rc == 0, run.output
    assert default.pid != pids[0]


# --- skill_port ------------------------------------------------------------------------------------------------


def skill(name: str, what: str) -> str:
    return f"---\nname: {name}\ndescription: {what}\n---\nDo it.\n"


@pytest.fixture
def claw(tmp_path: Path, controller: Any) -> Any:
    """The home of an OpenClaw agent on this machine; files that it leaves in the agent ``work`` are removed again."""
    files = {
        "openclaw.json": "{}",
        ".env": "TOKEN=never-to-be-ported",
        "workspace/IDENTITY.md": "Name: Claw\n",
        "workspace/MEMORY.md": "# Memory\n\n- The ferry leaves at nine\n",
        "workspace/memory/2026-02-09.md": "It rained.\n",
        "workspace/skills/sourdough/SKILL.md": skill("sourdough", "Bakes bread that rises."),
        "workspace/skills/sourdough/scripts/bake.sh": "#!/bin/sh\n",
        "workspace/skills/soup/SKILL.md": skill("soup", "Theirs."),
    }
    for name, text in files.items():
        (tmp_path / "claw" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "claw" / name).write_text(text)
    (tmp_path / "claw/workspace/skills/sourdough/scripts/bake.sh").chmod(0o755)
    home = "/var/lib/hermes/agents/work/.hermes"
    ours = f"{home}/skills/kitchen/soup"
    controller.shell('runuser -u hermes-work -- sh -c \'mkdir -p "$1"; touch "$1/SKILL.md"\' sh "$1"', ours)
    controller.write(f"{ours}/SKILL.md", skill("soup", "Ours."))
    yield tmp_path / "claw"
    controller.shell(f"cd {home} && rm -rf context skills/* memories/*.md")


def test_skill_port(controller, play, agent, model, claw):
    home = "/var/lib/hermes/agents/work/.hermes"
    what = {"skill_port_source": str(claw), "skill_port_agent": "work"}
    places = tuple(f"{home}/{name}" for name in ("SOUL.md", "context", "memories", "skills"))
    work = agent("work", port=8643)
    assert work.reply("hello") == "The model heard: hello"

    before = controller.manifest(places)
    looked = play("skill_port", what, "--check")
    assert looked.changed == 0
    assert "nothing was changed" in looked.text
    assert controller.manifest(places) == before
    assert not left_behind(controller)

    run = play("skill_port", what)
    assert run.rc != 0  # there is a conflict
    assert run.changed == 1
    lines = [line.strip(" -'\",") for line in run.output.splitlines()]
    for status, source in (
        ("ported", "workspace/skills/sourdough -> skills/openclaw-imports/sourdough"),
        ("conflict", "workspace/skills/soup -> skills/kitchen/soup"),
        ("ported", "workspace/IDENTITY.md -> SOUL.md"),
        ("ported", "workspace/MEMORY.md -> memories/MEMORY.md"),
        ("ported", "workspace/memory/2026-02-09.md -> context/openclaw/memory/2026-02-09.md"),
        ("left", "openclaw.json"),
        ("left", ".env"),
    ):
        assert any(line.startswith(f"{status} ") and source in line for line in lines), (status, source, run.output)
    assert "Ours." in controller.read(f"{home}/skills/kitchen/soup/SKILL.md").decode()
    ported, user = f"{home}/skills/openclaw-imports/sourdough", "hermes-work"
    listed = controller.shell('cd "$1" && find . -printf "%P %u %m\\n" | sort', ported)
    assert listed == f" {user} 700\nSKILL.md {user} 600\nscripts {user} 700\nscripts/bake.sh {user} 700\n"
    assert "never-to-be-ported" not in controller.shell(f"grep -r never-to-be {home} || true")
    assert not left_behind(controller)

    # The agent's prompt has the new skill, the persona and the memories.
    model.tell("DELETE", "")
    assert work.reply("hello again") == "The model heard: hello again"
    prompt = json.dumps(model.requests())
    assert "Bakes bread that rises." in prompt
    assert "Ours." in prompt
    assert "Theirs." not in prompt
    assert "Name: Claw" in prompt
    assert "The ferry leaves at nine" in prompt

    pid = work.pid
    again = play("skill_port", what)
    assert again.changed == 0
    assert "conflict" in again.text
    assert work.pid == pid


def test_skill_port_refuses_links(controller, play, claw):
    (claw / "workspace/skills/sourdough/passwd").symlink_to("/etc/passwd")
    (claw / "workspace/skills/shadow").symlink_to("/etc")
    run = play("skill_port", {"skill_port_source": str(claw / "workspace/skills"), "skill_port_agent": "work"})
    assert run.rc != 0
    assert re.search(r"refused +sourdough: \S*passwd is not a regular file", run.text)
    assert not controller.shell("find /var/lib/hermes/agents/work/.hermes/skills -name 'passwd*' -o -name 'shadow*'")
    assert "DIRECTORY" in play("skill_port", {"skill_port_source": "/nowhere"}).text
    assert not left_behind(controller)


# --- debug -----------------------------------------------------------------------------------------------------


@pytest.fixture
def secrets(controller: Any, agent: Any) -> list[str]:
    """The secrets of this host; see group_vars/hermes.yml."""
    declared = ["the-model-s-key", "the-secret-of-the-tests"]
    pings = re.findall(r"[0-9a-f]{8}-\S{27}", controller.read("/etc/hermes-ops/heartbeat.json").decode())
    assert len(pings) > 1
    return [*declared, *pings, agent().key, agent("work", port=8643).key]


def test_debug_has_no_secret(controller, play, secrets, tmp_path):
    forms = [form for secret in secrets for form in every_form(secret)]
    # A process in the gateway's unit logs the secrets.
    told = "".join(f"the journal says {form} here\n" for form in forms)
    say = (
        "group=$(systemctl show --property ControlGroup --value hermes-gateway@default); "
        # Some machines have both versions of cgroups.
        "for top in /sys/fs/cgroup /sys/fs/cgroup/systemd /sys/fs/cgroup/unified; do "
        'if [ -d "$top$group" ]; then echo $$ >"$top$group/cgroup.procs"; fi; done; '
        # journald looks up the unit of the process, so the process has to live long enough.
        '{ printf %s "$1"; sleep 2; } | systemd-cat --identifier hermes-gateway-default; journalctl --sync'
    )
    controller.shell(say, told)
    before = controller.manifest(PLACES)
    assert play("debug", {"debug_directory": str(tmp_path)}, "--check").rc == 0
    assert list(tmp_path.iterdir()) == []

    run = play("debug", {"debug_directory": str(tmp_path / "bundles"), "debug_lines": 1000})
    assert run.rc == 0, run.output
    assert controller.manifest(PLACES) == before
    assert not left_behind(controller)
    (bundle,) = (tmp_path / "bundles").iterdir()
    assert str(bundle) in run.text
    assert bundle.stat().st_mode & 0o777 == 0o600
    members = contents(bundle)
    assert members["journal/hermes-gateway-default.txt"].count("the journal says") >= len(forms)
    everything = "\n".join([*members, *members.values()])
    assert [form for form in forms if form in everything] == []
    # The bundle is still useful.
    assert json.loads(members["check.json"])["agents"]
    assert json.loads(members["agents/default/config.yaml.json"])["model"]["default"] == "stub-model"
    assert "MODEL_API_KEY" in members["agents/default/env_names.txt"]
    assert "ExecStart=" in members["units/hermes-gateway@default.service.txt"]
    assert "state.db" in members["agents/work/home.txt"]


def test_debug_hides_a_secret_that_is_broken_over_lines(controller, play, tmp_path):
    broken = "/var/lib/hermes/ops/status/broken.json"
    controller.shell('printf "the-model-\\n  s-key" >"$1"', broken)
    try:
        run = play("debug", {"debug_directory": str(tmp_path)})
    finally:
        controller.shell('rm "$1"', broken)
    assert run.rc == 0, run.output
    (bundle,) = tmp_path.iterdir()
    assert contents(bundle)["jobs/broken.json"] == "(secret)"
    assert not left_behind(controller)


def every_form(secret: str) -> list[str]:
    return [
        secret,
        base64.b64encode(secret.encode()).decode(),
        base64.b64encode(f"user:{secret}".encode()).decode(),
        secret.encode().hex(),
        urllib.parse.quote(secret, safe=""),
        json.dumps({"key": secret})[9:-2],
    ]


def contents(bundle: Path) -> dict[str, str]:
    with tarfile.open(bundle) as archive:
        return {
            member.name.partition("/")[2]: archive.extractfile(member).read().decode()
            for member in archive.getmembers()
        }
