# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The canary on a real host: on a copy of a home full of tokens and jobs it only answers."""

from __future__ import annotations

import json
import subprocess
import textwrap
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from inside import inside

testinfra_hosts = ["ansible://update-small"]

COPY = "/var/lib/hermes/agents/default/a-copy"
# The prompt that the copy's cron job would send to the model.
CRON_PROMPT = "the job of the copy ran"

# The beginning of every script: copies the default agent's home, with platforms declared and a job that is due.
COPIED = f"""
    import json, os, re, shutil, subprocess, sys, time
    launcher = open("/usr/local/bin/hermes-ops").read()
    sys.path.insert(0, re.search("/usr/local/lib/hermes-ops/[0-9a-f]+", launcher)[0])
    from hermes_ops.supervise import canary
    from hermes_ops.host.installation import Installation
    host = Installation.load()
    agent = host.select("default")[0]
    release = os.path.basename(os.readlink("/opt/hermes/current"))
    shutil.rmtree("{COPY}", ignore_errors=True)
    subprocess.run(["cp", "-a", agent.home, "{COPY}"], check=True)
    shutil.rmtree("{COPY}/logs")
    with open("{COPY}/.env", "a") as env:
        env.write("\\nTELEGRAM_BOT_TOKEN=123456789:AAFakeFakeFakeFakeFakeFakeFakeFakeFak\\n")
        env.write("EMAIL_ADDRESS=a@b.invalid\\nEMAIL_PASSWORD=x\\nEMAIL_IMAP_HOST=b.invalid\\nEMAIL_SMTP_HOST=b.invalid\\n")
    with open("{COPY}/config.yaml", "a") as config:
        config.write("\\ndiscord: {{enabled: true, token: x}}\\n")
    past = time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime(time.time() - 5))
    job = {{
        "id": "abc123abc123", "name": "due", "prompt": "{CRON_PROMPT}", "enabled": True, "state": "scheduled",
        "schedule": {{"kind": "interval", "minutes": 1, "display": "every 1m"}}, "schedule_display": "every 1m",
        "repeat": {{"times": None, "completed": 0}}, "created_at": past, "next_run_at": past, "last_run_at": None,
        "deliver": "local",
    }}
    os.makedirs("{COPY}/cron", exist_ok=True)
    with open("{COPY}/cron/jobs.json", "w") as jobs:
        json.dump({{"jobs": [job], "updated_at": past}}, jobs)
    subprocess.run(["chown", "-R", "hermes-default:hermes-default", "{COPY}"], check=True)
"""


@pytest.fixture
def run(controller: Any) -> Iterator[Callable[[str], Any]]:
    """A function that runs a script after :data:`COPIED` and returns the JSON that it prints."""

    def script(text: str) -> Any:
        source = textwrap.dedent(COPIED) + textwrap.dedent(text)
        command = [*inside(controller.box), "python3", "-"]
        done = subprocess.run(command, input=source, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    yield script
    controller.shell(f"rm -rf {COPY}")


def test_it_answers_a_chat_and_does_nothing_else(run, model, agent):
    before = agent().pid
    answer = run("""
        described = canary.prepare(host, agent, agent.home.replace(".hermes", "a-copy"))
        answer = canary.boot(host, release, described, reply=True, timeout=120, stable=10)
        with open(described.home + "/logs/gateway.log") as log:
            answer["connecting"] = [line.split("Connecting to ")[1] for line in log if "Connecting to " in line]
        with open(described.home + "/gateway_state.json") as state:
            answer["platforms"] = list(json.load(state)["platforms"])
        print(json.dumps(answer))
    """)
    assert answer["reply"] == "The model heard: Health check: answer with one short word."
    assert answer["platforms"] == ["api_server"]
    assert answer["connecting"] == ["api_server...\n"]
    asked = json.dumps(model.requests())
    assert "Health check" in asked
    assert CRON_PROMPT not in asked
    # The agent itself was not restarted.
    assert agent().pid == before


def test_with_its_safeguards_away_the_job_of_the_copy_would_run(run, model):
    """Proves that the previous test can fail."""
    run("""
        copied = agent.home.replace(".hermes", "a-copy")
        jobs = f"{copied}/cron/jobs.json"
        subprocess.run(["cp", "-a", jobs, "/root/jobs.json"], check=True)
        described = canary.prepare(host, agent, copied)
        subprocess.run(["cp", "-a", "/root/jobs.json", jobs], check=True)
        print(json.dumps(canary.boot(host, release, described, reply=True, timeout=120, stable=20)))
    """)
    assert CRON_PROMPT in json.dumps(model.requests())


def test_it_sees_no_home_and_writes_nowhere_but_into_the_copy(run):
    seen = run("""
        described = canary.prepare(host, agent, agent.home.replace(".hermes", "a-copy"))
        look = '''
            ls -A /var/lib/hermes; echo --
            for place in /var/lib/hermes /var/lib/hermes/agents/default/.hermes /etc /opt/hermes /usr /tmp $HOME; do
                touch $place/by-the-canary 2>/dev/null && echo $place
            done
            cat /etc/hermes-ops/managed/* 2>/dev/null
            rm $HOME/by-the-canary
        '''
        given = [f"--property={n}={v}" for n, v in canary.properties(host, described, 60.0, online=True)]
        done = subprocess.run(
            ["systemd-run", "--quiet", "--pipe", "--wait", "--collect", *given, "sh", "-c", look],
            stdout=subprocess.PIPE, text=True, check=True,
        )
        print(json.dumps(done.stdout.split()))
    """)
    # It has a private /tmp.
    assert seen == ["agents", "--", "/tmp", COPY]


def test_a_platform_that_is_started_nevertheless_is_its_end(run):
    said = run("""
        described = canary.prepare(host, agent, agent.home.replace(".hermes", "a-copy"))
        path = described.managed_dir + "/config.yaml"
        with open(path) as stream:
            settings = json.load(stream)
        settings["platforms"]["signal"] = {
            "enabled": True, "extra": {"http_url": "http://127.0.0.1:1", "account": "+1"}
        }
        with open(path, "w") as stream:
            json.dump(settings, stream)
        # 0.18.2 wants both.
        with open(described.managed_dir + "/.env", "a") as stream:
            stream.write("\\nSIGNAL_HTTP_URL=http://127.0.0.1:1\\nSIGNAL_ACCOUNT=+1\\n")
        try:
            canary.boot(host, release, described, reply=True, timeout=120, stable=5)
            said = "it passed"
        except canary.CanaryFailed as error:
            said = str(error)
        print(json.dumps(said))
    """)
    assert "started signal although that was switched off" in said


def test_one_that_was_left_over_is_ended_by_the_next(run, controller):
    controller.shell("systemd-run --quiet --unit hermes-canary.service sleep 600")
    answer = run("""
        described = canary.prepare(host, agent, agent.home.replace(".hermes", "a-copy"))
        print(json.dumps(canary.boot(host, release, described, reply=False, timeout=120, stable=1)))
    """)
    assert answer["reply"] is None
    assert controller.shell("systemctl list-units --all --no-legend 'hermes-canary*'") == ""
