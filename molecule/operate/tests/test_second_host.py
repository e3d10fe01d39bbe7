# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""An agent moves to another host, with another release of Hermes."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
from inside import inside

testinfra_hosts = ["ansible://operate-bookworm"]

FIRST = "operate-trixie"
ARCHIVE = "/root/of-the-first.tar.gz"


def first(script: str, check: bool = True) -> str:
    """Run *script* on the first host."""
    done = subprocess.run([*inside(FIRST), "sh", "-ec", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0 or not check, done.stderr
    return done.stdout


@pytest.fixture
def older(controller: Any) -> Iterator[None]:
    """The second host, converged by site.yml with an older release than the first."""
    controller.converge({"hermes_version": "0.18.2"})
    yield
    controller.converge()


@pytest.mark.usefixtures("older")
def test_restored_on_another_host_with_another_release(controller, agent, wait_until):
    home = "/var/lib/hermes/agents/work/.hermes"
    first(
        f"echo 'learnt on the first host' >{home}/memories/MEMORY.md; "
        f"chown hermes-work:hermes-work {home}/memories/MEMORY.md"
    )
    key = first(f". {home}/.env; echo $API_SERVER_KEY").strip()
    question = {"model": "m", "messages": [{"role": "user", "content": "asked on the first host"}]}

    def asked() -> bool:
        """Whether the first host's agent answers. The tests of that host run in parallel, and may have broken it."""
        done = first(
            f"curl --silent --fail --max-time 60 -H 'Authorization: Bearer {key}' -H 'Content-Type: application/json' "
            f"--data-raw '{json.dumps(question)}' http://127.0.0.1:8643/v1/chat/completions || true"
        )
        return "asked on the first host" in done

    wait_until(asked, "the first host's agent answers", seconds=300)
    backup = "hermes-ops backup --agent work --output /root/for-the-second --json || true"
    made = wait_until(lambda: first(backup), "a backup of the first host", seconds=300)
    copy = subprocess.run([*inside(FIRST), "cat", json.loads(made)[0]["path"]], capture_output=True, check=True)
    controller.write(ARCHIVE, copy.stdout)

    said = controller.shell(f"hermes-ops restore --force --agent work {ARCHIVE}")
    assert f"of work on {FIRST}" in said
    work = agent("work", port=8643)
    assert "0.18.2" in controller.shell("readlink /opt/hermes/current")
    assert work.read("memories/MEMORY.md") == "learnt on the first host\n"
    assert "asked on the first host" in controller.shell("hermes-ops memory --agent work 'asked on the first host'")
    assert work.reply("well?") == "The model heard: well?"
    # The next run writes this host's own declaration, and nothing else has to be done.
    assert work.key != key
    controller.shell("hermes-ops check")
