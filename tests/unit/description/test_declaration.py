# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What an agent may declare: each mistake is one error that names host, agent, key and fix."""

from __future__ import annotations

import copy
import json
import os
import string
import subprocess

import pytest
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.agent.config import shown
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.description import checks, declaration
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.description.agent import (
    Agent,
    Declared,
    Limits,
)
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.errors import OpsError
from hypothesis import given
from hypothesis import strategies as st

KEY = "0123456789abcdef0123456789abcdef"
HERMES = [path for path in os.environ.get("TEST_HERMES_VENVS", "").split(":") if path]


def resolve(*agents):
    """The output of the filter, read again as the module reads it."""
    found = declaration.resolve(list(agents), host="box", data_dir="/data", managed_root="/etc/hermes-ops/managed")
    plain = {name: each.to_plain() for name, each in found.items()}
    assert {name: Declared.from_plain(json.loads(json.dumps(each)), "") for name, each in plain.items()} == found
    return plain


def platforms(agent) -> list[str]:
    return Agent.from_plain(agent["gateway"], "").platforms


def refusal(*agents) -> str:
    with pytest.raises(OpsError) as caught:
        resolve(*agents)
    text = str(caught.value)
    assert text.startswith("box: hermes_agents")
    assert "Fix: " in text
    return text


def test_the_default_agent_needs_nothing():
    agent = resolve({"name": "default"})["default"]
    assert agent["home"] == agent["gateway"]["home"] == "/data/agents/default/.hermes"
    assert agent["gateway"]["directory"] == "/data/agents/default"
    assert agent["gateway"]["user"] == "hermes-default"
    assert agent["gateway"]["unit"] == "hermes-gateway@default.service"
    assert agent["gateway"]["api"] == {"enabled": True, "host": "127.0.0.1", "port": 8642, "tailnet": False}
    assert platforms(agent) == ["api_server"]


def test_a_description_is_the_same_wherever_the_agent_runs():
    described = {
        "name": "coder",
        "drain": 5,
        "limits": {"memory": "2G"},
        "health": {"platforms": ["irc"], "timeout": 9},
        "config": {"platforms": {"webhook": {"extra": {"rate_limit": 5}}}, "model": {"default": "a/b"}},
        "settings": {"A": "b"},
        "secrets": {"A_TOKEN": "top-secret", "API_SERVER_KEY": KEY},
    }
    elsewhere = {
        "api": {"host": "0.0.0.0", "port": 9001},
        "webhook": {"host": "0.0.0.0", "port": 9002},
        "user": "ada",
        "home": "/home/ada/.hermes",
        "config_scope": "managed",
        "sandbox": {"open": ["home"], "paths": ["/srv/x"]},
        "secrets_from": {"file": "/etc/x.yaml"},
    }
    closed = {"api": {"enabled": False}, "webhook": {"enabled": False}}
    found = []
    for placed, data_dir in (({"api": {"port": 8700}}, "/data"), (closed, "/data"), (elsewhere, "/srv")):
        agents = [{**described, **placed}]
        found += declaration.resolve(agents, host="box", data_dir=data_dir, managed_root=f"{data_dir}/m").values()
    description = found[0].description
    assert [each.description for each in found] == [description] * 3
    assert len({str(each.agent) for each in found}) == 3
    assert description.settings == {"A": "b"}
    assert description.config["platforms"] == described["config"]["platforms"]
    assert "agent" not in description.config
    assert description.limits == Limits("2G", None, 1024)
    assert [each.agent.platforms for each in found] == [
        ["irc", "api_server"],
        ["irc"],
        ["irc", "api_server", "webhook"],
    ]
    assert declaration.describe(described, "it") == description
    for each in found:
        assert (each.agent.drain, each.agent.limits, each.agent.health) == (5, description.limits, description.health)


def test_every_agent_has_a_home_and_a_user_of_its_own():
    found = resolve({"name": "default"}, {"name": "coder", "api": {"port": 8643}})
    assert found["coder"]["home"] == "/data/agents/coder/.hermes"
    assert len({agent["gateway"]["user"] for agent in found.values()}) == 2


def test_a_home_and_a_user_that_are_there_are_taken():
    declared = {"name": "default", "user": "ada", "home": "/home/ada/.hermes/"}
    work = {"name": "work", "user": "ada", "home": "/home/ada/.hermes/profiles/work", "api": {"port": 8643}}
    found = resolve(declared, work)
    assert [agent["gateway"]["home"] for agent in found.values()] == [
        "/home/ada/.hermes",
        "/home/ada/.hermes/profiles/work",
    ]
    assert {agent["gateway"]["user"] for agent in found.values()} == {"ada"}
    # What is ours about them lies where it does for all.
    assert found["work"]["gateway"]["directory"] == "/data/agents/work"


def test_a_name_of_25_characters_still_makes_a_user():
    longest = "a" * 25
    assert resolve({"name": longest, "api": {"port": 8700}})[longest]["gateway"]["user"] == "hermes-" + longest
    longer = {"name": "a" * 26, "api": {"port": 8700}}
    assert "declare user" in refusal(longer)
    resolve({**longer, "user": "short"})


def test_names_that_hermes_keeps_for_itself_may_be_used():
    resolve({"name": "test", "api": {"port": 8700}}, {"name": "hermes", "api": {"port": 8701}})


def test_what_upstream_retired_is_not_written():
    gateway = resolve({"name": "default"})["default"]["config"]["gateway"]
    assert set(gateway) == {"respawn_storm"}


def test_cron_jobs_stay_in_the_gateway_s_unit():
    assert resolve({"name": "default"})["default"]["config"]["cron"]["require_restart_safe_scope"] is False


@pytest.mark.parametrize("name", ["hermes_profiles", "hermes_user", "hermes_home", "base_user_managed"])
def test_a_variable_of_earlier_versions_is_refused_with_what_takes_its_place(name):
    declaration.refuse_replaced(["hermes_agents", "hermes_home_of_mine"], "box")
    with pytest.raises(OpsError) as caught:
        declaration.refuse_replaced(["hermes_agents", name], "box")
    assert str(caught.value).startswith(f"box: {name}: is not used any more. Fix: ")


def test_declared_config_wins_over_ours():
    agent = resolve({"name": "default", "config": {"updates": {"check": True}}})["default"]
    assert agent["config"]["updates"]["check"] is True
    assert agent["config"]["security"]["tirith_enabled"] is False


def test_webhooks_open_the_server_on_loopback():
    agent = resolve({"name": "default", "webhooks": [{"name": "a"}]})["default"]
    assert agent["gateway"]["webhook"] == {"enabled": True, "host": "127.0.0.1", "port": 8644, "tailnet": False}
    assert platforms(agent) == ["api_server", "webhook"]


def test_a_subscription_that_shall_be_gone_opens_no_server():
    gateway = resolve({"name": "default", "webhooks": [{"name": "a", "state": "absent"}]})["default"]["gateway"]
    assert not gateway["webhook"]["enabled"]


def test_a_cron_only_agent_has_no_platform_and_no_server():
    agent = resolve({"name": "nightly", "api": {"enabled": False}})["nightly"]
    assert platforms(agent) == []
    assert not agent["gateway"]["api"]["enabled"]
    assert not agent["gateway"]["webhook"]["enabled"]


def test_a_bot_token_makes_its_platform_expected():
    agent = resolve({"name": "default", "secrets": {"DISCORD_BOT_TOKEN": "t" * 30}})["default"]
    assert platforms(agent) == ["discord", "api_server"]


def test_an_absent_agent_needs_no_port():
    assert resolve({"name": "default"}, {"name": "old", "state": "absent"})["old"]["state"] == "absent"


def test_secrets_are_nowhere_but_in_their_place():
    agent = resolve(
        {
            "name": "default",
            "secrets": {"OPENROUTER_API_KEY": "top-secret-1"},
            "webhooks": [{"name": "a", "secret": "top-secret-2"}],
        }
    )["default"]
    assert "top-secret" not in str(agent["gateway"])
    assert "top-secret" not in str(agent["config"]) + str(agent["settings"])


def test_settings_become_text():
    settings = resolve({"name": "default", "settings": {"A": True, "B": 5, "C": "x"}})["default"]["settings"]
    assert (settings["A"], settings["B"], settings["C"]) == ("true", "5", "x")


@pytest.mark.parametrize(
    ("agents", "words"),
    [
        ([], ["must be a list of at least one agent"]),
        (["x"], ["entry 1: is not a mapping"]),
        ([{}], ["entry 1: has the name None"]),
        ([{"name": "Bad Name"}], ["'Bad Name'"]),
        ([{"name": "profiles", "api": {"port": 8700}}], ["entry 1: ", "'profiles'", "another name"]),
        ([{"name": "default", "user": "root"}], ["agent default: user", "unprivileged"]),
        ([{"name": "default", "user": "A"}], ["agent default: user", "'A'", "32"]),
        ([{"name": "default", "user": "x" * 33}], ["agent default: user", "32"]),
        ([{"name": "default", "user": "She lives in London.\n"}], ["user", "declared as user_profile"]),
        ([{"name": "default", "home": "ada/.hermes"}], ["agent default: home", "absolute"]),
        ([{"name": "default", "home": "/"}], ["agent default: home"]),
        ([{"name": "default", "home": "/data"}], ["agent default: home", "holds hermes_data_dir (/data)"]),
        ([{"name": "default", "home": "/home/ada/.hermes/a/b"}], ["default: home", "which Hermes would use instead"]),
        (
            [{"name": "a", "home": "/x/h", "api": {"port": 8700}}, {"name": "b", "home": "/x/h", "state": "absent"}],
            ["agent a and agent b", "the same home /x/h"],
        ),
        (
            [{"name": "a", "home": "/x/h", "state": "absent"}, {"name": "b", "home": "/x/h/b", "state": "absent"}],
            ["home of agent b (/x/h/b) lies in that of agent a", "out of /x/h"],
        ),
        (
            [
                {"name": "a", "home": "/x/h", "state": "absent", "purge": True},
                {"name": "b", "home": "/x/h/profiles/b", "api": {"port": 8700}},
            ],
            ["agent a: purge", "holds that of agent b"],
        ),
        ([{"name": "default"}, {"name": "default"}], ["agent default is declared twice"]),
        ([{"name": "default", "confg": {}}], ["agent default", "unknown key confg", "did you mean config?"]),
        ([{"name": "default", "api": {"prot": 1}}], ["unknown key api.prot", "did you mean api.port?"]),
        ([{"name": "default", "zzz": 1}], ["unknown key zzz", "known keys: "]),
        ([{"name": "default", "webhooks": [{"name": "a", "promt": ""}]}], ["webhooks[1]", "did you mean prompt?"]),
        ([{"name": "default", "api": {"port": "8642"}}], ["api.port", "a whole number", "unquote it"]),
        ([{"name": "default", "api": {"port": True}}], ["api.port", "a whole number"]),
        ([{"name": "default", "drain": -1}], ["drain", "-1"]),
        ([{"name": "default", "api": {"port": 80}}], ["api.port", "unprivileged"]),
        ([{"name": "default", "api": {"port": 70000}}], ["api.port", "70000"]),
        ([{"name": "a"}], ["agent a", "api.port", "not declared"]),
        (
            [{"name": "a", "api": {"port": 8700}}, {"name": "b", "api": {"port": 8700}}],
            ["port 8700 is declared twice", "agent a: api.port", "agent b: api.port"],
        ),
        ([{"name": "default", "webhook": {"port": 8642}}], ["port 8642 is declared twice", "webhook.port"]),
        (
            [
                {"name": "a", "api": {"port": 8700}, "secrets": {"DISCORD_BOT_TOKEN": "same"}},
                {"name": "b", "api": {"port": 8701}, "secrets": {"DISCORD_BOT_TOKEN": "same"}},
            ],
            ["agent a and agent b", "DISCORD_BOT_TOKEN"],
        ),
        ([{"name": "default", "api": {"host": "0.0.0.0"}}], ["0.0.0.0", "reached from the network", "openssl rand"]),
        (
            [{"name": "default", "api": {"host": "0.0.0.0"}, "secrets": {"API_SERVER_KEY": "changeme"}}],
            ["API_SERVER_KEY", "placeholder"],
        ),
        ([{"name": "default", "secrets": {"API_SERVER_KEY": "short"}}], ["secrets.API_SERVER_KEY", "16"]),
        (
            [{"name": "default", "config": {"model": {"api_key": "abcdef"}}}],
            ["config.model.api_key", "secrets.MODEL_API_KEY", "${MODEL_API_KEY}"],
        ),
        (
            [{"name": "default", "config": {"platforms": {"discord": {"token": "abcdef"}}}}],
            ["config.platforms.discord.token", "environment variable"],
        ),
        ([{"name": "default", "config": {"x": {"y": "sk-" + "a" * 30}}}], ["config.x.y", "is a secret"]),
        ([{"name": "default", "settings": {"OPENAI_API_KEY": "abc"}}], ["settings.OPENAI_API_KEY", "move it to"]),
        ([{"name": "default", "settings": {"API_SERVER_PORT": "1"}}], ["API_SERVER_PORT", "api.port"]),
        (
            [{"name": "default", "config": {"platforms": {"webhook": {"extra": {"port": 1}}}}}],
            ["config.platforms.webhook.extra.port", "webhook.port"],
        ),
        ([{"name": "default", "config": {"platforms": {"webhook": None}}}], ["config.platforms.webhook", "mapping"]),
        ([{"name": "default", "config": {"platforms": {"api_server": {"extra": []}}}}], ["platforms.api_server.extra"]),
        ([{"name": "default", "config": {"agent": None}}], ["config.agent", "must be a mapping"]),
        (
            [{"name": "default", "config": {"platforms": {"webhook": {"enabled": {"a": 1}}}}}],
            ["config.platforms.webhook.enabled", "webhook.enabled instead"],
        ),
        (
            [{"name": "default", "webhooks": [{"name": "a", "state": "absent"}], "health": {"webhook": "a"}}],
            ["health.webhook", "not declared"],
        ),
        ([{"name": "default", "health": {"platforms": [{"a": 1}]}}], ["health.platforms", "list of text"]),
        ([{"name": "default", "sandbox": {"open": [{}]}}], ["sandbox.open", "list of text"]),
        ([{"name": "default", "sandbox": {"paths": [1]}}], ["sandbox.paths", "list of text"]),
        ([{"name": "default", "webhooks": [{"name": "a", "events": [True]}]}], ["webhooks[1]: events", "list of text"]),
        ([{"name": "default", "webhooks": [{"name": "a", "skills": [None]}]}], ["webhooks[1]: skills", "list of text"]),
        ([{"name": "default", "user_profile": "x" * 1376}], ["default: user_profile", "1376", "1375"]),
        ([{"name": "default", "memory": "x" * 2201}], ["default: memory", "2201", "2200"]),
        ([{"name": "default", "secrets": {"X_API_KEY": "\u201cabc\u201d"}}], ["secrets.X_API_KEY", "not ASCII"]),
        ([{"name": "default", "secrets": {"X": "a\0b"}}], ["secrets.X", "NUL"]),
        ([{"name": "default", "settings": {"A B": "x"}}], ["'A B'", "not a valid variable name"]),
        ([{"name": "default", "settings": {"A": ["x"]}}], ["settings.A", "must be text"]),
        ([{"name": "default", "webhook": {"enabled": False}, "webhooks": [{"name": "a"}]}], ["webhook.enabled"]),
        ([{"name": "default", "webhooks": [{"name": "a"}, {"name": "a"}]}], ["webhooks[2]", "twice"]),
        (
            [{"name": "default", "webhook": {"host": "::"}, "webhooks": [{"name": "a", "secret": "INSECURE_NO_AUTH"}]}],
            ["webhooks[1].secret", "unsigned"],
        ),
        ([{"name": "default", "state": "gone"}], ["state", "present, absent"]),
        ([{"name": "default", "sandbox": {"open": ["window"]}}], ["no door 'window'", "sudo"]),
        ([{"name": "default", "sandbox": {"paths": ["srv"]}}], ["sandbox.paths", "absolute"]),
        ([{"name": "default", "health": {"webhook": "a"}}], ["health.webhook", "not declared"]),
        (
            [{"name": "default", "api": {"enabled": False}, "health": {"reply": True}}],
            ["health.reply", "needs the API server"],
        ),
    ],
)
def test_what_cannot_work_is_refused(agents, words):
    text = refusal(*agents)
    for word in words:
        assert word in text


SECRETS = [
    (
        {"custom_providers": [{"api_key": "hunter2"}]},
        "config.custom_providers[0].api_key",
        "${CUSTOM_PROVIDERS_0_API_KEY}",
    ),
    ({"x": {"tokens": ["hunter2"]}}, "config.x.tokens[0]", "environment variable"),
    ({"x": [["sk-hunter2hunter2hunter2"]]}, "config.x[0][0]", "environment variable"),
    ({"mcp_servers": {"x": {"env": {"A_KEY": "hunter2"}}}}, "mcp_servers.x.env.A_KEY", "${MCP_SERVERS_X_ENV_A_KEY}"),
    ({"mcp_servers": {"x": {"headers": {"Authorization": "Bearer hunter2"}}}}, "headers.Authorization", "secrets."),
    ({"mcp_servers": {"x": {"args": ["Bearer hunter2hunter2"]}}}, "config.mcp_servers.x.args[0]", "secrets."),
    ({"x": {"y": "Basic aHVudGVyMjpodW50ZXIy"}}, "config.x.y", "secret"),
    ({"x": {"url": "https://me:hunter2@example.org/"}}, "config.x.url", "secret"),
    ({"x": {"url": "postgres://${USER}:hunter2@example.org/"}}, "config.x.url", "secret"),
    ({"x": {"url": "https://hunter2@example.org/x.git"}}, "config.x.url", "secret"),
    ({"x": {"password": 1234567}}, "config.x.password", "secret"),
]


def test_a_record_that_is_none_is_refused():
    plain = resolve({"name": "default"})["default"]["gateway"]
    for wrong in (
        {**plain, "home": None},
        {**plain, "api": {**plain["api"], "port": "high"}},
        {**plain, "sandbox": {**plain["sandbox"], "paths": [1]}},
        {key: value for key, value in plain.items() if key != "user"},
        {**plain, "users": []},
        None,
    ):
        with pytest.raises(OpsError, match=r"^/record.json: "):
            Agent.from_plain(wrong, "/record.json")


def test_nobody_sees_a_secret_of_a_description_that_is_printed():
    declared = {
        "name": "default",
        "secrets": {"A_TOKEN": "top-secret"},
        "webhooks": [{"name": "a", "secret": "top-secret"}],
    }
    found = declaration.resolve([declared], host="box", data_dir="/data", managed_root="/m")
    assert "top-secret" not in repr(found)


@pytest.mark.parametrize(("config", "place", "fix"), SECRETS)
def test_a_secret_is_refused_wherever_it_stands_and_hidden_where_it_is_shown(config, place, fix):
    text = refusal({"name": "default", "config": config})
    assert place in text
    assert fix in text
    for value in ("hunter2", "aHVudGVy", "1234567"):
        assert value not in text
        assert value not in str(shown((), config))


def test_what_an_environment_holds_is_allowed_and_hidden():
    config = {"mcp_servers": {"x": {"env": {"NODE_ENV": "production", "HOST": "${X_HOST}"}}}}
    resolve({"name": "default", "config": config})
    assert "production" not in str(shown((), config))
    assert "${X_HOST}" in str(shown((), config))


@pytest.mark.parametrize(
    "config",
    [
        {"custom_providers": [{"api_key": "${A_KEY}"}]},
        {"mcp_servers": {"x": {"headers": {"Authorization": "Bearer ${X_TOKEN}"}, "env": {"FOO": "${env:FOO}"}}}},
        {"mcp_servers": {"x": {"env": {"EMPTY": "", "PORT": 8080, "ON": True, "DEEP": {}}}}},
        {"x": {"url": "https://${USER}:${PASSWORD}@example.org/", "git": "ssh://git@example.org/x"}},
        {"x": {"url": "https://example.org/@me:you", "note": "Basic knowledge of a bearer token"}},
        {"secrets": {"onepassword": {"env": {"OPENAI_API_KEY": "op://vault/item/api key"}}}},
        {"x": {"key": [], "token": {}}},
    ],
)
def test_references_and_plain_values_are_no_secrets(config):
    resolve({"name": "default", "config": config})
    assert shown((), config) == config


@pytest.mark.parametrize("value", ["https://me:hunter2@example.org/", "Bearer hunter2hunter2"])
def test_settings_that_look_like_a_secret_are_refused(value):
    assert "hunter2" not in refusal({"name": "default", "settings": {"PLAIN": value}})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("memory", value) for value in ("4GB", "lots", "0", "0G", "101%", "4 G", "4G\nUser=root", "")),
        *(("cpu", value) for value in ("150", "0%", "all", "150%%", "")),
        ("tasks", 0),
    ],
)
def test_limits_that_systemd_would_ignore_are_refused(key, value):
    assert f"agent default: limits.{key}" in refusal({"name": "default", "limits": {key: value}})


@pytest.mark.parametrize("memory", ["4G", "1536M", "1073741824", "50%", "100%", "infinity"])
def test_limits_that_systemd_knows(memory):
    resolve({"name": "default", "limits": {"memory": memory, "cpu": "250%", "tasks": 1}})


UNUSABLE_PATHS = [
    "/srv/a b",
    "/srv/100%",
    "/srv/a\nUser=root",
    '/srv/"a"',
    "/srv/a'b",
    "/srv/a:b",
    "/srv/\\x",
    "/srv/../etc",
]


@pytest.mark.parametrize("path", UNUSABLE_PATHS)
def test_a_path_that_means_something_else_in_a_unit_is_refused(path):
    assert "sandbox.paths" in refusal({"name": "default", "sandbox": {"paths": [path]}})
    assert "default: home" in refusal({"name": "default", "home": path})
    for key in ("data_dir", "managed_root"):
        paths = {"data_dir": "/data", "managed_root": "/m", key: path}
        with pytest.raises(OpsError, match=key) as caught:
            declaration.resolve([{"name": "default"}], host="box", **paths)
        assert caught.value.fix


def test_a_path_may_hold_any_letter():
    resolve({"name": "default", "sandbox": {"paths": ["/srv/Müsik/a-b_c.d+e,f=g@h~"]}})


@pytest.mark.parametrize("value", ["${MODEL_API_KEY}", "", None, True])
def test_what_is_no_secret_is_not_taken_for_one(value):
    resolve({"name": "default", "config": {"model": {"api_key": value}}})


@pytest.mark.parametrize("key", ["max_tokens", "keyboard", "token_budget", "monkey"])
def test_names_that_only_look_like_secrets(key):
    resolve({"name": "default", "config": {"x": {key: "plain text"}}})


@pytest.mark.parametrize("secret", ["sk-" + "a" * 30, "hunter2hunter2"])
def test_no_refusal_shows_a_secret(secret):
    assert secret not in refusal({"name": "default", "config": {"model": {"api_key": secret}}})
    assert secret not in refusal({"name": "default", "settings": {"X_TOKEN": secret}})


@pytest.mark.parametrize(("host", "answer"), [("127.0.0.1", True), ("127.9.9.9", True), ("::1", True)])
def test_loopback(host, answer):
    assert checks.is_loopback(host) is answer


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "100.64.0.1", "example.org", ""])
def test_everything_else_can_be_reached(host):
    assert not checks.is_loopback(host)


def test_what_is_beside_the_keys_with_a_place_of_their_own_can_be_declared():
    declared = {"platforms": {"webhook": {"extra": {"rate_limit": 5}}, "api_server": {}}, "agent": {"max_turns": 9}}
    config = resolve({"name": "default", "config": declared, "webhooks": [{"name": "a"}]})["default"]["config"]
    assert config["platforms"] == declared["platforms"]
    assert config["agent"] == declared["agent"]


def test_seeds_up_to_the_limit():
    resolve({"name": "default", "user_profile": "x" * 1375, "memory": "x" * 2200})


def test_the_declaration_is_left_as_it_was():
    declared = {"name": "default", "config": {"a": {"b": [1]}}, "api": {"port": 9000}}
    before = copy.deepcopy(declared)
    resolve(declared)["default"]["config"]["a"]["b"].append(2)
    assert declared == before


@pytest.mark.skipif(not HERMES, reason="SKIPPED, NOT PROVED: which home Hermes uses (TEST_HERMES_VENVS names none)")
@pytest.mark.parametrize("venv", HERMES, ids=os.path.basename)
@pytest.mark.parametrize(
    ("user_home", "home"),
    [
        ("agents/a", "agents/a/.hermes"),
        # Declared users and homes: at home, elsewhere, and a profile of a home that is adopted.
        ("ada", "agents/a/.hermes"),
        ("ada", "ada/.hermes"),
        ("ada", "srv/hermes"),
        ("ada", "ada/.hermes/profiles/work"),
        ("ada", "srv/hermes/profiles/work"),
    ],
)
def test_hermes_uses_exactly_that_home_whatever_active_profile_says(venv, tmp_path, user_home, home):
    around = [tmp_path / home, *(tmp_path / home).parents]
    for path in (each for each in (*around, tmp_path / user_home / ".hermes") if each.is_relative_to(tmp_path)):
        (path / "profiles/other").mkdir(parents=True, exist_ok=True)
        (path / "active_profile").write_text("other\n")
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path / user_home), "HERMES_HOME": str(tmp_path / home)}
    command = [f"{venv}/bin/hermes", *declaration.home_arguments(str(tmp_path / home)), "config", "path"]
    answer = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == str(tmp_path / home / "config.yaml")


names = st.text(string.ascii_lowercase, min_size=1, max_size=3)
trees = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda children: st.dictionaries(names, children, max_size=4),
    max_leaves=10,
)


@given(st.dictionaries(names, trees, max_size=4), st.dictionaries(names, trees, max_size=4))
def test_merge_puts_every_leaf_on_top(base, over):
    merged = declaration.merge(base, over)
    for path, value in declaration.leaves(over):
        found = merged
        for part in path:
            found = found[part]
        # A declared empty mapping does not empty the one that is there.
        if value != {}:
            assert found == value
    assert declaration.merge(merged, over) == merged


@given(
    st.recursive(
        st.none() | st.booleans() | st.text() | st.integers(),
        lambda c: st.lists(c) | st.dictionaries(st.text(), c),
        max_leaves=20,
    )
)
def test_any_nonsense_is_an_error_of_ours(nonsense):
    with pytest.raises(OpsError):
        declaration.resolve(nonsense, host="box", data_dir="/d", managed_root="/m")
    with pytest.raises(OpsError):
        resolve({"name": "default", "bogus": nonsense})


def on_a_tailnet(*agents, tailnet=True):
    found = declaration.resolve(list(agents), host="box", data_dir="/data", managed_root="/m", tailnet=tailnet)
    return found["default"].agent


def test_a_server_for_the_tailnet_listens_on_loopback():
    agent = on_a_tailnet({"name": "default", "api": {"host": "tailnet"}, "webhook": {"host": "tailnet"}})
    for server in (agent.api, agent.webhook):
        assert (server.host, server.tailnet) == ("127.0.0.1", True)


def test_a_host_without_a_tailnet_refuses_it():
    with pytest.raises(OpsError, match=r"agent default: api\.host: is tailnet") as refused:
        on_a_tailnet({"name": "default", "api": {"host": "tailnet"}}, tailnet=False)
    assert "tailscale_enabled" in refused.value.fix


def test_what_is_off_needs_no_tailnet():
    on_a_tailnet({"name": "default", "api": {"host": "tailnet", "enabled": False}}, tailnet=False)


def test_an_unsigned_webhook_is_not_for_the_tailnet():
    webhooks = [{"name": "a", "secret": "INSECURE_NO_AUTH"}]
    with pytest.raises(OpsError, match="takes unsigned calls on tailnet"):
        on_a_tailnet({"name": "default", "webhook": {"host": "tailnet"}, "webhooks": webhooks})


@pytest.mark.parametrize("table", ["settings", "secrets"])
def test_a_variable_that_is_declared_and_given_is_refused(table):
    description = declaration.describe({"name": "work", table: {"A_WORD": "x", "B": "y"}}, "work")
    checks.refuse_doubled(description, ["C"], "secrets_from", "agent work")
    with pytest.raises(OpsError, match="comes from secrets_from as well") as caught:
        checks.refuse_doubled(description, ["A_WORD", "C"], "secrets_from", "agent work")
    assert caught.value.where == f"agent work: {table}.A_WORD"
