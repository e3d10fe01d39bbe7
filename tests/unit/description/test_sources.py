# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The key secrets_from: what is accepted, and what is refused before anything changes."""

from __future__ import annotations

import pytest
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.description import declaration, sources
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.description.agent import Agent, Source
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.errors import OpsError


def resolve(source, **more):
    agents = [{"name": "default", "secrets_from": source, **more}]
    return declaration.resolve(agents, host="h", data_dir="/data", managed_root="/m")["default"].agent


@pytest.mark.parametrize(
    "source",
    [
        {"ssm": "/hermes/prod/work"},
        {"ssm": "/a", "region": "us-gov-west-1", "endpoint": "https://vpce-1.ssm.eu-west-1.vpce.amazonaws.com"},
        {"ssm": "/a", "endpoint": "http://127.0.0.1:4566"},
        {"command": ["/usr/bin/vault", "kv", "get", "-format=json", "secret/x"]},
        {"file": "/etc/x.env.age", "identity": "/etc/identity"},
        {"file": "/etc/x.yaml"},
        {"file": "/etc/x.yaml", "identity": "/etc/identity"},
    ],
)
def test_a_source_survives_the_way_to_the_host_and_back(source):
    agent = resolve(source)
    assert agent.source == Source(**{**source, "command": tuple(source.get("command", ()))})
    assert Agent.from_plain(agent.to_plain(), "it") == agent


def test_without_a_source_and_from_an_older_record():
    agent = declaration.resolve([{"name": "default"}], host="h", data_dir="/data", managed_root="/m")["default"].agent
    assert agent.source is None
    plain = agent.to_plain()
    assert Agent.from_plain(plain, "it") == agent
    del plain["source"]
    assert Agent.from_plain(plain, "it") == agent


TOKEN = "hvs.CAESIJ0123456789abcdefghij"


@pytest.mark.parametrize(
    ("source", "where", "what"),
    [
        ({}, "secrets_from", "names no source"),
        ({"region": "eu-west-1"}, "secrets_from", "names no source"),
        ({"ssm": "/a", "file": "/b"}, "secrets_from", "names ssm and file"),
        ({"file": "/b.age", "identity": "/i", "region": "eu-west-1"}, "secrets_from.region", "does not go with file"),
        ({"command": ["/x"], "identity": "/i"}, "secrets_from.identity", "does not go with command"),
        ({"ssm": "a/b"}, "secrets_from.ssm", "not a path"),
        ({"ssm": "/a/"}, "secrets_from.ssm", "not a path"),
        ({"ssm": "/a//b"}, "secrets_from.ssm", "not a path"),
        ({"ssm": "/a\n"}, "secrets_from.ssm", "not a path"),
        ({"ssm": "/a", "region": "Ireland"}, "secrets_from.region", "not a region"),
        ({"ssm": "/a", "endpoint": "http://10.0.0.1"}, "secrets_from.endpoint", "in clear text"),
        ({"ssm": "/a", "endpoint": "https://u:p@x"}, "secrets_from.endpoint", "holds a secret"),
        ({"ssm": "/a", "endpoint": "https://x/path"}, "secrets_from.endpoint", "not the URL"),
        ({"ssm": "/a", "endpoint": "https://[::1"}, "secrets_from.endpoint", "not the URL"),
        ({"ssm": "/a", "endpoint": "x"}, "secrets_from.endpoint", "not the URL"),
        ({"command": []}, "secrets_from.command", "not a command"),
        ({"command": ["/x", "a\0b"]}, "secrets_from.command", "not a command"),
        ({"command": ["vault"]}, "secrets_from.command", "cannot be used"),
        ({"command": ["/x", "-token", TOKEN]}, "secrets_from.command", "holds a secret"),
        ({"command": "/x y"}, "secrets_from.command", "must be a list"),
        ({"command": ["/x", 1]}, "secrets_from.command", "list of text"),
        ({"file": "x.age", "identity": "/i"}, "secrets_from.file", "cannot be used"),
        ({"file": "/x.age"}, "secrets_from.identity", "is not declared"),
        ({"file": "/x", "identity": "i"}, "secrets_from.identity", "cannot be used"),
        ({"vault": "/x"}, "", "unknown key secrets_from.vault"),
    ],
)
def test_a_source_that_cannot_be_is_refused(source, where, what):
    with pytest.raises(OpsError) as caught:
        resolve(source)
    assert what in str(caught.value)
    assert str(caught.value.where).endswith(where)
    assert "h: hermes_agents: agent default" in str(caught.value)
    assert caught.value.fix
    assert TOKEN not in str(caught.value)


def test_an_api_that_the_network_reaches_may_have_its_key_from_a_source():
    assert resolve({"ssm": "/a"}, api={"host": "0.0.0.0"}).api.host == "0.0.0.0"


@pytest.mark.parametrize(
    ("scope", "enabled", "what"),
    [("system", False, "secrets_enabled is false"), ("user", True, "needs gateway_scope: system")],
)
def test_a_host_that_cannot_use_it_refuses(scope, enabled, what):
    with pytest.raises(OpsError, match=what):
        sources.check_host([resolve({"ssm": "/a"})], scope, enabled=enabled, where="h: hermes_agents")
    sources.check_host([resolve({"ssm": "/a"}, state="absent")], scope, enabled=enabled, where="h")
    sources.check_host([resolve({"ssm": "/a"})], "system", enabled=True, where="h")
