# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the playbook built: in the registry, and as an agent."""

from __future__ import annotations

import json
import re

KEY = "0123456789abcdef0123456789abcdef"
MODEL = {"provider": "custom", "default": "stub-model", "base_url": "http://127.0.0.1:18080/v1"}
DECLARED = {"name": "ada", "config": {"model": {**MODEL, "api_key": "${MODEL_API_KEY}"}}}
# In the box's network, where the model server is.
RUN = (
    "podman run --detach --name ada --network=host --read-only --tmpfs=/tmp --cap-drop=all "
    "--security-opt=no-new-privileges --volume=ada:/opt/data --volume=/root/agent.json:/etc/hermes/agent.json:ro "
    f"--env=API_SERVER_KEY={KEY} --env=MODEL_API_KEY=none"
)


def tags(host) -> list[str]:
    return json.loads(host.check_output("curl --fail --silent http://127.0.0.1:5000/v2/hermes-agent/tags/list"))["tags"]


def test_one_image_is_built_and_nothing_of_its_stages_is_kept(host):
    (tag,) = tags(host)
    assert re.fullmatch(r"0\.19\.0-slim-[0-9a-f]{12}", tag)
    listed = host.check_output("podman image ls --format '{{.Repository}}:{{.Tag}}'").split()
    assert [name for name in listed if "hermes-agent" in name] == [f"127.0.0.1:5000/hermes-agent:{tag}"]
    assert host.check_output("podman image ls --quiet --filter label=io.alwayson.hermes.stage=yes") == ""
    assert host.check_output("find /tmp -name 'hermes-image-*'") == ""


def test_an_agent_runs_in_the_image_that_a_host_pulls(host, wait_until):
    (tag,) = tags(host)
    name = f"127.0.0.1:5000/hermes-agent:{tag}"
    host.check_output(f"podman image rm {name}")
    host.check_output("printf %s >/root/agent.json", json.dumps(DECLARED))
    host.check_output(f"{RUN} {name}")
    wait_until(lambda: host.run("curl --fail --silent http://127.0.0.1:8642/health").rc == 0, "the agent answers")
    said = {"model": "hermes-agent", "messages": [{"role": "user", "content": "hello"}]}
    answer = host.check_output(
        "curl --fail --silent http://127.0.0.1:8642/v1/chat/completions --header %s --header %s --data %s",
        f"Authorization: Bearer {KEY}",
        "Content-Type: application/json",
        json.dumps(said),
    )
    assert json.loads(answer)["choices"][0]["message"]["content"] == "The model heard: hello"
    host.check_output("podman stop --time=30 ada")
    assert host.check_output("podman inspect --format '{{.State.ExitCode}}' ada") == "0"
