# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Follows docs/recovery.md: breaks the host for each of its steps, and types the commands of that step."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest

testinfra_hosts = ["ansible://operate-bookworm"]

PAGE = Path(__file__).resolve().parents[3] / "docs/recovery.md"
HOME = "/var/lib/hermes/agents/default/.hermes"
OPS = "/var/lib/hermes/ops"
UNIT = "hermes-gateway@default.service"


def steps() -> dict[str, list[str]]:
    """The steps of the page, in order: name -> the lines to type, with their prompts."""
    found = {}
    for name, text in re.findall(r"^## \d+\. (.+?)$(.*?)(?=^## |\Z)", PAGE.read_text(encoding="utf-8"), re.M | re.S):
        block, after = re.search(r"```console\n(.*?)```(.*)", text, re.S).groups()
        inline = re.findall(r"`(hermes-ops [^`]+)`", after)
        found[name] = [*block.splitlines(), *(f"# {command}" for command in inline)]
    return found


STEPS = steps()


class Host:
    """The broken host, and the machine that converges it."""

    def __init__(self, controller: Any, agent: Callable[..., Any], wait_until: Callable[..., Any]) -> None:
        self.shell, self.write, self.read = controller.shell, controller.write, controller.read
        self.controller, self.agent, self.wait_until = controller, agent(), wait_until
        # Placeholders of the page, for values that only the reader knows -> those values.
        self.known: dict[str, str] = {}

    def answers(self) -> bool:
        if not self.agent.is_healthy():
            return False
        return self.agent.reply("well?") == "The model heard: well?"

    def type(self, line: str) -> str:
        """Type a line of the page, and return its output."""
        prompt, _, command = line.partition(" ")
        for word, value in self.known.items():
            command = command.replace(word, value)
        if prompt == "$":
            program, playbook = command.split()
            assert program == "ansible-playbook"
            run = self.controller.run(playbook=playbook)
            assert run.rc == 0, run.output
            return run.output
        assert prompt == "#"
        return self.shell(f"cd /root && {command}")


@pytest.fixture
def broken(controller: Any, agent: Any, wait_until: Any) -> Host:
    host = Host(controller, agent, wait_until)
    wait_until(host.answers, "the agent answers before anything is broken")
    return host


# --- faults ----------------------------------------------------------------------------------------------------


@contextmanager
def nothing_known(host: Host) -> Iterator[None]:
    """The agent is down, and the check reports it. The next step has the fix."""
    host.shell(f"systemctl stop {UNIT}")
    # Its exit status reports the failure.
    look = "hermes-ops check || test $? -eq 1"
    assert "fix: systemctl start" in " ".join(host.shell(look).split()).lower()
    host.known = {"hermes-ops check": look}
    yield
    host.shell(f"systemctl start {UNIT}")


@contextmanager
def down(host: Host) -> Iterator[None]:
    host.shell(f"systemctl stop {UNIT}")
    assert not host.agent.is_healthy()
    yield


@contextmanager
def settings_broken(host: Host) -> Iterator[None]:
    config, env = host.read(f"{HOME}/config.yaml"), host.read(f"{HOME}/.env")
    host.write(f"{HOME}/config.yaml", config + b"\nmodel: [\n")
    host.write(f"{HOME}/.env", "API_SERVER_KEY=short\n")
    host.shell(f"systemctl restart {UNIT}")
    host.wait_until(lambda: "config_unparsable" in host.shell("hermes-ops check --json || true"), "it runs on defaults")
    assert not host.agent.is_healthy()
    yield
    assert host.read(f"{HOME}/config.yaml") == config
    assert host.read(f"{HOME}/.env") == env


@contextmanager
def bad_release(host: Host) -> Iterator[str]:
    """Another release, whose gateway is alive and does nothing; yields its id."""
    current = host.shell("basename $(readlink /opt/hermes/current)").strip()
    bad = f"{current}-bad"
    host.shell(f"cd /opt/hermes/releases && cp --archive --link {current} {bad} && rm {bad}/bin/hermes")
    host.write(f"/opt/hermes/releases/{bad}/bin/hermes", "#!/bin/sh\nexec sleep infinity\n")
    host.shell(f"chmod 0755 /opt/hermes/releases/{bad}/bin/hermes")
    yield bad
    assert host.shell("basename $(readlink /opt/hermes/current)").strip() == current
    host.shell(f"rm --recursive /opt/hermes/releases/{bad}")


@contextmanager
def badly_updated(host: Host) -> Iterator[None]:
    with bad_release(host) as bad:
        host.shell(f"ln --symbolic --force --no-dereference releases/{bad} /opt/hermes/current")
        host.shell(f"systemctl restart {UNIT} hermes-gateway@work.service")
        host.wait_until(lambda: not host.agent.is_healthy(), "the bad release is bad")
        yield


@contextmanager
def cut_off(host: Host) -> Iterator[None]:
    """The command that changes the release is killed while it waits for agents that will never answer."""
    journal = f"{OPS}/update/journal.json"
    with bad_release(host) as bad:
        host.shell(f"systemd-run --quiet --unit cut-off hermes-ops rollback --here --to {bad}")
        host.wait_until(lambda: '"verify"' in host.shell(f"cat {journal} 2>/dev/null || true"), "it waits for agents")
        host.shell("systemctl kill --signal SIGKILL cut-off")
        host.wait_until(lambda: "active" not in host.shell("systemctl is-active cut-off || true").split(), "it is dead")
        host.shell("systemctl reset-failed cut-off || true")
        assert not host.agent.is_healthy()
        assert json.loads(host.read(journal))["target"] == bad
        yield
        assert host.shell(f"test -e {journal} || echo gone").strip() == "gone"
        # Otherwise check would keep reporting it.
        host.shell(f"rm {OPS}/status/update.json")


@contextmanager
def knowing(host: Host, word: str) -> Iterator[str]:
    """The agent knows *word* from a conversation and from its memory; yields the path of an archive with it."""
    assert word in host.agent.reply(f"Remember {word}.")
    host.shell(
        'echo "The keeper said $1." | runuser -u hermes-default -- tee "$2" >/dev/null',
        word,
        f"{HOME}/memories/MEMORY.md",
    )
    host.shell("hermes-ops backup --agent default")
    archives = json.loads(host.shell("hermes-ops backups --agent default --json"))["archives"]
    yield max(archives, key=lambda archive: archive["created"])["path"]
    found = host.shell('hermes-ops memory --agent default -- "$1"', word)
    assert "memories/MEMORY.md" in found
    assert "session " in found


@contextmanager
def data_lost(host: Host) -> Iterator[None]:
    with knowing(host, "quagga"):
        host.shell(f"systemctl stop {UNIT}; cd {HOME} && rm state.db* memories/*; systemctl start {UNIT}")
        host.wait_until(host.answers, "the agent is back, and knows nothing")
        assert "nothing found" in host.shell("hermes-ops memory --agent default quagga")
        yield


@contextmanager
def host_lost(host: Host) -> Iterator[None]:
    """Everything that a new machine would not have is gone; an archive was elsewhere."""
    with knowing(host, "okapi") as archive:
        host.shell(f"cp {archive} /root/")
        host.shell(
            "systemctl stop 'hermes-*.timer' 'hermes-*.service'; systemctl disable 'hermes-gateway@default' || true;"
            "rm -rf /opt/hermes /etc/hermes-ops /etc/systemd/system/hermes* /etc/systemd/system/*.wants/hermes*"
            " /usr/local/bin/hermes* /var/lib/hermes/agents/*/.hermes /var/lib/hermes/ops; systemctl daemon-reload"
        )
        host.known = {"ARCHIVE": f"/root/{os.path.basename(archive)}"}
        yield
        host.shell(f"rm /root/{os.path.basename(archive)}")


@contextmanager
def beyond_us(host: Host) -> Iterator[None]:
    host.shell("echo nonsense >/root/nothing")
    yield
    assert host.shell("stat --format %a /root/hermes-debug-*.tar.gz") == "600\n"
    host.shell("rm /root/nothing /root/hermes-debug-*.tar.gz")


BREAKS: dict[str, Callable[[Host], AbstractContextManager[None]]] = {
    "What is wrong?": nothing_known,
    "An agent is down, or deaf": down,
    "config.yaml or .env is broken": settings_broken,
    "It began with an update": badly_updated,
    "An update was cut off": cut_off,
    "Memories, sessions or skills are gone": data_lost,
    "The host is gone": host_lost,
    "Somebody else has to look": beyond_us,
}


def test_every_step_is_tried():
    assert list(STEPS) == list(BREAKS)
    assert all(STEPS.values())


@pytest.mark.parametrize("name", STEPS)
def test_the_page_leads_back(name, broken):
    with BREAKS[name](broken):
        for line in STEPS[name]:
            broken.type(line)
    broken.wait_until(broken.answers, "the agent answers again")
