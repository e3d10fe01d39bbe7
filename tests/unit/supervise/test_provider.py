# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Agents without a provider of models, and those that only look so, judged by us and by the real Hermes."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.supervise import provider

HERMES = [path for path in os.environ.get("TEST_HERMES_VENVS", "").split(":") if path]
POOLED = {"source": "env:OPENROUTER_API_KEY", "auth_type": "api_key", "secret_fingerprint": "sha256:00"}


def pool(**entry: str) -> str:
    return json.dumps({"version": 1, "providers": {}, "credential_pool": {"openrouter": [{**POOLED, **entry}]}})


# The environment of the gateway, and files below the home of its user.
NONE: dict[str, tuple[dict[str, str], dict[str, str]]] = {
    "nothing": ({}, {}),
    "an empty configuration": ({}, {".hermes/config.yaml": "", ".hermes/.env": ""}),
    "a model only": ({}, {".hermes/config.yaml": "model: {default: x/y, provider: auto}\n"}),
    "other keys": (
        {"API_SERVER_KEY": "0123456789abcdef"},
        {
            ".hermes/.env": "API_SERVER_KEY=0123456789abcdef\nDISCORD_BOT_TOKEN=x.y.z\nOPENROUTER_API_KEY=\n",
            ".hermes/config.yaml": "platforms: {api_server: {extra: {port: 8642}}}\nmemory: {provider: ''}\n",
        },
    ),
    "no login": ({}, {".hermes/auth.json": '{"version": 1, "providers": {}, "credential_pool": {"openrouter": []}}'}),
}
SOME = {
    "a provider": ({}, {".hermes/config.yaml": "model: {provider: openrouter}\n"}),
    "an endpoint": ({}, {".hermes/config.yaml": "model: {default: x, base_url: 'http://127.0.0.1:11434/v1'}\n"}),
    "a key in .env": ({}, {".hermes/.env": "GLM_API_KEY=0123456789abcdef\n"}),
    "a key in the environment": ({"OPENROUTER_API_KEY": "sk-or-v1-0123456789abcdef"}, {}),
    "a provider in the environment": ({"HERMES_INFERENCE_PROVIDER": "openrouter"}, {}),
    "a token in the environment": ({"ANTHROPIC_TOKEN": "sk-ant-oat01-0123456789abcdef"}, {}),
    "a managed provider": ({"HERMES_MANAGED_DIR": "{}/managed"}, {"managed/config.yaml": "model: {provider: xai}\n"}),
    "a managed key": ({"HERMES_MANAGED_DIR": "{}/managed"}, {"managed/.env": "XAI_API_KEY=0123456789abcdef\n"}),
    "a key in the pool": ({}, {".hermes/auth.json": pool(source="manual", access_token="sk-or-0123456789abcdef")}),
    "AWS": ({"AWS_PROFILE": "work"}, {}),
}
# Hermes finds none, or is not asked; we cannot know.
UNSURE: dict[str, tuple[dict[str, str], dict[str, str]]] = {
    "an unknown provider's key": ({"TAVILY_API_KEY": "0123456789abcdef"}, {}),
    "a provider below another key": ({}, {".hermes/config.yaml": "fallback_providers: [{provider: x}]\n"}),
    "a login of another program": ({}, {".codex/auth.json": "{}"}),
    "a plug-in": ({}, {".hermes/plugins/model-providers/mine/plugin.yaml": ""}),
    "a broken configuration": ({}, {".hermes/config.yaml": "a: [\n"}),
    "broken logins": ({}, {".hermes/auth.json": "{"}),
    "strange logins": ({}, {".hermes/auth.json": '{"credential_pool": [1]}'}),
    "a store of secrets": ({}, {".hermes/config.yaml": "secrets: {bitwarden: {enabled: true}}\n"}),
    "AWS, which the release may ask": ({}, {"release/lib/python3.13/site-packages/botocore/x": ""}),
}


# The rest of the environment of a gateway's unit.
UNIT = {
    "USER": "hermes-default",
    "LOGNAME": "hermes-default",
    "SHELL": "/bin/bash",
    "PWD": "/var/lib/hermes/agents/default",
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "LANG": "C.UTF-8",
    "INVOCATION_ID": "a2d91ce8e5ae4185bf595f01c78899ff",
    "JOURNAL_STREAM": "9:102446250",
    "SYSTEMD_EXEC_PID": "1007",
    "PYTHONUNBUFFERED": "1",
    "HERMES_DISABLE_LAZY_INSTALLS": "1",
}


def written(tmp_path: Path, environment: dict[str, str], files: dict[str, str]) -> dict[str, str]:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / ".hermes").mkdir(exist_ok=True)
    own = {"HOME": str(tmp_path), "HERMES_HOME": str(tmp_path / ".hermes")}
    return {**UNIT, **own, **{name: value.replace("{}", str(tmp_path)) for name, value in environment.items()}}


@pytest.fixture
def has_none(tmp_path) -> Iterator[Callable[..., bool]]:
    """A function that judges a gateway with this environment and these files."""
    started = []

    def judge(environment: dict[str, str], files: dict[str, str]) -> bool:
        environment = written(tmp_path, environment, files)
        (tmp_path / "release/bin").mkdir(parents=True, exist_ok=True)
        (tmp_path / "release/pyvenv.cfg").touch()
        # Started as a gateway is: the first word of its command line is the release's Python.
        python = str(tmp_path / "release/bin/python")
        process = subprocess.Popen([python, "60"], executable="/usr/bin/sleep", env=environment)
        started.append(process)
        # The kernel shows environment and command line a moment after the program has been started.
        while not Path(f"/proc/{process.pid}/cmdline").read_bytes():
            time.sleep(0.001)
        return provider.has_none(str(tmp_path / ".hermes"), process.pid)

    yield judge
    for process in started:
        process.kill()
        process.wait()


@pytest.mark.parametrize("case", NONE)
def test_an_agent_without_any_provider(case, has_none):
    assert has_none(*NONE[case])


@pytest.mark.parametrize("case", [*SOME, *UNSURE])
def test_any_trace_of_a_provider_counts_as_one(case, has_none):
    assert not has_none(*{**SOME, **UNSURE}[case])


def test_a_key_that_left_leaves_no_provider_behind(has_none):
    """Hermes goes on to name the provider, and sends its requests without a key."""
    assert has_none({}, {".hermes/auth.json": pool()})


def test_a_profile_sees_the_logins_of_the_home_around_it(tmp_path, has_none):
    assert has_none({}, {})
    written(tmp_path, {}, {"shared/auth.json": '{"active_provider": "nous"}', "shared/profiles/work/SOUL.md": ""})
    assert not provider.has_none(str(tmp_path / "shared/profiles/work"), os.getpid())


def test_a_process_that_cannot_be_read_or_is_no_release_is_not_judged(tmp_path, has_none):
    assert not provider.has_none(str(tmp_path), 2**22 + 1)
    assert has_none({}, {})
    process = subprocess.Popen(["/usr/bin/sleep", "60"], env=written(tmp_path, {}, {}))
    try:
        assert not provider.has_none(str(tmp_path / ".hermes"), process.pid)
    finally:
        process.kill()
        process.wait()


RESOLVE = """
from hermes_cli.env_loader import load_hermes_dotenv
load_hermes_dotenv()
from hermes_cli.auth import AuthError
from hermes_cli.runtime_provider import resolve_runtime_provider
try:
    print(resolve_runtime_provider()["provider"])
except AuthError as error:
    print(error.code)
"""


@pytest.mark.parametrize("venv", HERMES or ["none"])
@pytest.mark.parametrize("case", [*NONE, *SOME])
def test_hermes_judges_the_same(case, venv, tmp_path):
    if venv == "none":
        pytest.skip("no real Hermes: set TEST_HERMES_VENVS to virtual environments that have it")
    environment = written(tmp_path, *{**NONE, **SOME}[case])
    command = [f"{venv}/bin/python", "-c", RESOLVE]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert (done.stdout.split()[-1] == "no_provider_configured") == (case in NONE)
