# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The playbook init writes an inventory that site accepts, hides the secrets, and overwrites nothing."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.description import declaration

ROOT = Path(__file__).resolve().parents[3]
FILES = ["ansible.cfg", "group_vars/hermes/main.yml", "group_vars/hermes/vault.yml", "hosts.yml"]
KEY, TOKEN, PASSWORD = "sk-or-of-the-test", "12345:a-token", "the vault's password"
ANSWERS = {
    "init_host": "agent.example.org",
    "init_user": "admin",
    "init_provider": "openrouter",
    "init_base_url": "",
    "init_model": "anthropic/claude-sonnet-4.5",
    "init_api_key": KEY,
    "init_interface": "discord",
    "init_token": TOKEN,
    "init_allowed_users": "123456789012345678",
    "init_vault_password": PASSWORD,
}
pytestmark = pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")


@pytest.fixture
def init(user):
    """Run the playbook with answers from a file; returns its status and what it said."""
    user.environment["ANSIBLE_COLLECTIONS_PATH"] = str(ROOT / ".cache/collections")
    user.environment["PWD"] = str(user.home / "new")
    user.directory = user.home / "new"
    user.directory.mkdir()

    def run(**answers):
        (user.home / "answers.json").write_text(json.dumps({**ANSWERS, **answers}))
        words = ("ansible-playbook", "-vvv", "--extra-vars", f"@{user.home}/answers.json", "alwayson.hermes.init")
        done = subprocess.run(
            words, cwd=user.directory, env=user.environment, capture_output=True, text=True, check=False
        )
        return done.returncode, done.stdout + done.stderr

    return run


def files(directory):
    return {str(path.relative_to(directory)): path.read_text() for path in directory.rglob("*") if path.is_file()}


def inventory(user, host):
    """The variables of *host*, as Ansible reads them from what was written."""
    (user.home / "password").write_text(PASSWORD)
    words = ("ansible-inventory", "--vault-password-file", str(user.home / "password"), "--host", host)
    return json.loads(user.asks(*words))


@pytest.mark.parametrize(
    ("answers", "secrets"),
    [
        ({}, {"OPENROUTER_API_KEY": KEY, "DISCORD_BOT_TOKEN": TOKEN}),
        (
            {"init_provider": "anthropic", "init_interface": "telegram"},
            {"ANTHROPIC_API_KEY": KEY, "TELEGRAM_BOT_TOKEN": TOKEN},
        ),
        (
            {
                "init_host": "localhost",
                "init_provider": "custom",
                "init_base_url": "http://127.0.0.1:18080/v1",
                "init_interface": "api",
            },
            {"MODEL_API_KEY": KEY},
        ),
    ],
)
def test_what_it_writes_is_accepted_and_hides_the_secrets(init, user, answers, secrets):
    status, said = init(**answers)
    assert status == 0, said
    written = files(user.directory)
    assert sorted(written) == FILES
    assert not any(secret in text for secret in (KEY, TOKEN, PASSWORD) for text in (said, *written.values()))
    found = inventory(user, {**ANSWERS, **answers}["init_host"])
    vault = {name[len("vault_") :].upper(): value for name, value in found.items() if name.startswith("vault_")}
    assert vault == secrets
    (agent,) = found["hermes_agents"]
    assert agent["secrets"] == {name: f"{{{{ vault_{name.lower()} }}}}" for name in secrets}
    (resolved,) = declaration.resolve([agent], host="h", data_dir="/d", managed_root="/m").values()
    assert resolved.description.config["model"]["default"] == ANSWERS["init_model"]
    assert "alwayson.hermes.site" in said


def test_nothing_is_overwritten(init, user):
    (user.directory / "hosts.yml").write_text("mine")
    status, said = init()
    assert status == 2
    assert "has hosts.yml already. Nothing was written. Fix: " in said
    assert files(user.directory) == {"hosts.yml": "mine"}


@pytest.mark.parametrize(
    ("answers", "words"),
    [
        (
            {"init_provider": "openruter", "init_interface": "slack", "init_model": "", "init_vault_password": ""},
            [
                "init_provider: is openruter. Fix: name one of openrouter",
                "init_model: is empty. Fix: name a model",
                "init_interface: is slack. Fix: name api, discord or telegram",
                "init_vault_password: is empty. Fix: give one",
            ],
        ),
        (
            {"init_provider": "custom", "init_host": "", "init_token": "", "init_allowed_users": ""},
            [
                "init_host: is empty.",
                "init_base_url: is empty.",
                "init_token: is empty.",
                "init_allowed_users: is empty.",
            ],
        ),
        ({"init_api_key": ""}, ["init_api_key: is empty. Fix: give the key"]),
    ],
)
def test_wrong_answers_write_nothing(init, user, answers, words):
    status, said = init(**answers)
    assert status == 2
    assert [each for each in words if each not in said] == []
    assert files(user.directory) == {}
    assert KEY not in said


def test_it_asks_a_person(init, user):
    said = user.types(
        "ansible-playbook alwayson.hermes.init",
        ("The host", "agent.example.org"),
        ("The user to log in as", "admin"),
        ("The provider of the model", ""),
        ("The provider's URL", ""),
        ("The model", ""),
        ("The provider's API key", KEY),
        ("Where you talk to the agent", ""),
        ("The bot's token", ""),
        ("Who may talk to it there", ""),
        ("A new password", PASSWORD),
        ("confirm A new password", PASSWORD),
    )
    assert KEY not in said
    assert sorted(files(user.directory)) == FILES
    assert inventory(user, "agent.example.org")["vault_openrouter_api_key"] == KEY
