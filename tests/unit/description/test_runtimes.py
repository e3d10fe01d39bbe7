# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is declared of runtimes, and what is refused before anything is done."""

from __future__ import annotations

import pytest
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.description.runtimes import Runtimes
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.errors import OpsError
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.typed import parse, plain

SECRET = "0123456789abcdef0123456789abcdef"
MODEL = {"provider": "custom", "default": "stub"}


def declared(**more):
    values = {"image": "localhost/hermes-agent:1", "secret": SECRET, "agent": {"config": {"model": MODEL}}, **more}
    return parse(Runtimes, values, "runtimes")


def test_what_is_written_on_a_host_is_read_back():
    one = declared(users=["ada@example.com"], plugins={"notes": "/srv/notes"}, versions=[2, 1])
    assert parse(Runtimes, plain(one), "runtimes") == one


def test_a_description_that_is_printed_shows_no_secret():
    assert SECRET not in repr(declared(agent={"secrets": {"MODEL_API_KEY": "sk-12345678901234567890"}}))
    assert "sk-1234" not in repr(declared(agent={"secrets": {"MODEL_API_KEY": "sk-12345678901234567890"}}))


def test_an_agent_serves_its_network_and_lives_on_the_volume():
    agent = declared(agent={"limits": {"memory": "1G"}, "drain": 7}).supervised
    assert (agent.home, agent.api.host, agent.api.port) == ("/opt/data/.hermes", "0.0.0.0", 8642)
    assert (agent.limits.memory, agent.drain) == ("1G", 7)
    assert list(agent.servers) == ["api"]


def test_an_agent_takes_webhooks_if_one_is_declared():
    agent = declared(agent={"webhooks": [{"name": "push", "prompt": "x"}]}).supervised
    assert (agent.webhook.host, agent.webhook.port) == ("0.0.0.0", 8644)
    assert list(agent.servers) == ["api", "webhook"]


@pytest.mark.parametrize(
    ("wrong", "where", "fix"),
    [
        ({"image": "Not an image"}, "image", "localhost/hermes-agent:1"),
        ({"secret": "short"}, "secret", "32"),
        ({"versions": []}, "versions", "accepted"),
        ({"versions": [0]}, "version", "1 to 999"),
        ({"users": ["ada", "ada"]}, "users", "remove one"),
        (
            {"users": ["6BA7B810-9DAD-11D1-80B4-00C04FD430C8", "6ba7b810-9dad-11d1-80b4-00c04fd430c8"]},
            "users",
            "remove one",
        ),
        ({"users": ["a\nb"]}, "user", "without"),
        ({"idle": 9}, "idle", "10 to 86400"),
        ({"start": 601}, "start", "5 to 600"),
        ({"plugins": {"../x": "/srv"}}, "plugins", "lower-case"),
        ({"plugins": {"x": "/srv/$(id)"}}, "plugins: x", "absolute path"),
        ({"plugins": {"x": "relative"}}, "plugins: x", "absolute path"),
        ({"first_uid": 1000}, "first_uid", "524288"),
        ({"agent": {"name": "ada"}}, "agent: name", "leave it out"),
        ({"agent": {"home": "/srv"}}, "agent: home", "/opt/data/.hermes"),
        ({"agent": {"secrets_from": {"ssm": "/x"}}}, "agent: secrets_from", "hand the secrets in"),
        ({"agent": {"api": {"host": "127.0.0.1"}}}, "agent: api.host", "leave it out"),
        ({"agent": {"api": {"enabled": False}}}, "agent: api.enabled", "leave it out"),
        ({"agent": {"webhook": {"host": "::1"}}}, "agent: webhook.host", "leave it out"),
        ({"agent": {"webhook": {"port": 8642}}}, "agent", "each its own"),
        ({"agent": {"secrets": {"API_SERVER_KEY": SECRET}}}, "API_SERVER_KEY", "leave it out"),
        ({"agent": {"limits": {"memory": "much"}}}, "limits.memory", "bytes"),
        ({"agent": {"confg": {}}}, "agent", "config"),
    ],
    ids=lambda value: str(value)[:40] if isinstance(value, dict) else None,
)
def test_a_mistake_is_one_error_that_says_where_and_what_to_do(wrong, where, fix):
    with pytest.raises(OpsError) as caught:
        declared(**wrong)
    assert where in str(caught.value.where)
    assert fix in str(caught.value.fix)
