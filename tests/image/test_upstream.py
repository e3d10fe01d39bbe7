# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""An image with a supervisor of its own, as upstream's is: our entrypoint runs first, then its own as if alone.

The image is a stand-in: tests/fakes/upstream.
"""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import agent_image
import box
import pytest
from containers import KEY, ROOT, Container, declared, docker, until
from hermes_ops.host import kit

ANSWER = "The model heard: hello"
COMMAND, KIT = "/usr/local/bin/hermes-ops", "/usr/local/lib/hermes-ops"
# Of each process: its id, its user, and its command line.
PROCESSES = """
import json, os
found = []
for pid in filter(str.isdigit, os.listdir("/proc")):
    with open(f"/proc/{pid}/cmdline") as stream:
        found.append([int(pid), os.stat(f"/proc/{pid}").st_uid, stream.read().split("\\0")])
print(json.dumps(found))
"""


@pytest.fixture(scope="session")
def upstream(image: str) -> str:
    name = "hermes-test-image:upstream"
    context = ROOT / "tests/fakes/upstream"
    given = [
        f"--build-arg={key}={value}" for key, value in (("AGENT", image), ("BASE", box.base_of(agent_image.SUITE)))
    ]
    # The same builder as for the image itself.
    environment = {**os.environ, "DOCKER_BUILDKIT": "0"}
    docker("build", f"--tag={name}", f"--file={context}/Containerfile", *given, str(context), env=environment)
    return name


@pytest.fixture
def agent(upstream: str, network: str, tmp_path: Path) -> Iterator[Container]:
    """An agent that is declared, but not started, in a container of the image with our entrypoint."""
    command = tmp_path / "hermes-ops"
    command.write_text(kit.launcher(KIT))
    with declared(upstream, network, tmp_path) as container:
        container.rights = ()
        container.mounts = (f"{command}:{COMMAND}:ro", f"{ROOT}/plugins/module_utils:{KIT}:ro")
        python = "/opt/hermes/current/bin/python"
        container.words = (python, "-I", COMMAND, "agent", "run", "--entrypoint", "/init", "gateway", "run")
        container.home = "/opt/data"
        yield container


def processes(agent: Container) -> dict[str, tuple[int, int, list[str]]]:
    """PID, user and command of the supervisor and of the gateway."""
    found = json.loads(agent.execute("python3", "-c", PROCESSES))
    return {
        "supervisor": next(each for each in found if each[0] == 1),
        "gateway": next((each for each in found if each[2][-3:-1] == ["gateway", "run"]), None),
    }


def test_its_entrypoint_is_called_with_its_words_and_drops_root_itself(agent):
    agent.declare(soul="Be brief.")
    agent.start()
    assert agent.reply("hello") == ANSWER
    log = agent.log().splitlines()
    assert "init: uid 0, gateway run" in log
    # Ours was first.
    assert any(line.startswith("hermes-ops: config.yaml") for line in log[: log.index("init: uid 0, gateway run")])
    found = processes(agent)
    assert found["supervisor"][1:] == [0, ["s6-svscan", "/run/service", ""]]
    assert found["gateway"][1] == 10000
    owners = agent.on_volume("find", "/opt/data", "-printf", "%U:%G\n").split()
    assert set(owners) == {"10000:10000"}


def test_files_of_root_are_given_to_the_user_before(agent):
    agent.on_volume("sh", "-c", "umask 077; echo THEIRS=1 >/opt/data/.env; mkdir /opt/data/logs")
    agent.start()
    assert agent.reply("hello") == ANSWER
    env = agent.on_volume("stat", "--format=%u %a", "/opt/data/.env", "/opt/data/logs")
    assert env == "10000 600\n10000 700\n"
    assert "THEIRS=1" in agent.on_volume("cat", "/opt/data/.env")


def test_its_supervisor_starts_a_killed_gateway_again(agent):
    agent.start()
    before = processes(agent)["gateway"][0]
    agent.execute("python3", "-c", f"import os; os.kill({before}, {signal.SIGKILL})")
    until(lambda: (now := processes(agent)["gateway"]) and now[0] != before, "another gateway runs")
    until(agent.is_healthy, "the agent answers")
    # With the secrets, which only our entrypoint knows.
    assert agent.reply("hello") == ANSWER


def test_a_stop_is_clean(agent):
    agent.start()
    assert agent.stop() == 0
    # After the SIGTERM of a supervisor, Hermes notes that it is running, for the next boot (0.19.0 gateway/run.py).
    log = agent.on_volume("cat", "/opt/data/logs/gateway.log")
    assert re.search(r"SessionDB close done.*Gateway stopped", log, re.DOTALL)


def test_secrets_are_written_nowhere(agent):
    agent.start()
    assert agent.reply("hello") == ANSWER
    found = agent.on_volume("sh", "-c", f"grep -r -l -e sk-test -e {KEY} /opt/data || true")
    assert found == ""
    assert KEY not in agent.log()


def test_a_wrong_description_touches_nothing_and_calls_nothing(agent):
    agent.declare(unknown=1)
    assert "init" not in agent.refused("unknown").stdout
