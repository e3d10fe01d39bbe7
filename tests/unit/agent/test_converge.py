# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The declaration of a home, from the agent's description and its placement."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from typing import Any

import pytest
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.agent.converge import (
    AgentHome,
    Config,
    Env,
    converge,
    desired,
)
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.description import declaration
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.description.agent import Declared, Server
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.host.records import Records, Separated
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.errors import OpsError
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.files import Account

KEY = "0123456789abcdef0123456789abcdef"
OPEN = {"API_SERVER_ENABLED": "true", "API_SERVER_HOST": "127.0.0.1", "API_SERVER_PORT": "8642"}
HOOK = {"webhooks": [{"name": "a"}]}


def resolved(**words: Any) -> Declared:
    agents = [{"name": "default", **words}]
    return declaration.resolve(agents, host="box", data_dir="/data", managed_root="/managed")["default"]


def home_of(**words: Any) -> AgentHome:
    found = resolved(**words)
    return desired(found.description, found.agent)


def config_of(**words: Any) -> Any:
    config = home_of(**words).config
    assert config is not None
    return config.declared


def test_the_api_server_opens_where_the_agent_is_placed_and_gets_a_key():
    assert home_of().env == Env(OPEN, {}, ("API_SERVER_KEY",))
    elsewhere = {"API_SERVER_ENABLED": "true", "API_SERVER_HOST": "::1", "API_SERVER_PORT": "9000"}
    assert home_of(api={"host": "::1", "port": 9000}).env == Env(elsewhere, {}, ("API_SERVER_KEY",))


def test_a_declared_key_is_the_one_of_the_api_server():
    assert home_of(secrets={"API_SERVER_KEY": KEY}).env == Env(OPEN, {"API_SERVER_KEY": KEY}, ())


def test_an_api_server_that_is_disabled_has_neither_address_nor_key():
    assert home_of(api={"enabled": False}).env == Env({"API_SERVER_ENABLED": "false"}, {}, ())


def test_declared_settings_come_first_and_become_text():
    found = home_of(settings={"A": True, "B": 5, "C": "x"}).env
    assert found is not None
    assert list(found.settings.items()) == [("A", "true"), ("B", "5"), ("C", "x"), *OPEN.items()]


def test_settings_that_are_no_text_yet_become_text():
    """The module takes them as Ansible has them."""
    found = resolved()
    description = replace(found.description, settings={"A": True, "B": 5})
    assert desired(description, found.agent).env == Env({"A": "true", "B": "5", **OPEN}, {}, ("API_SERVER_KEY",))


def test_webhooks_open_the_server_where_the_agent_is_placed():
    assert config_of(**HOOK)["platforms"] == {
        "webhook": {"enabled": True, "extra": {"host": "127.0.0.1", "port": 8644}}
    }
    elsewhere = config_of(webhook={"host": "::1", "port": 9000})["platforms"]
    assert elsewhere == {"webhook": {"enabled": True, "extra": {"host": "::1", "port": 9000}}}


def test_without_the_server_for_webhooks_config_is_as_described():
    for words in ({}, {"webhook": {"enabled": False}}, {"webhooks": [{"name": "a", "state": "absent"}]}):
        found = resolved(**words)
        ours = {**declaration.GROWTH_LIMITS, "agent": {"restart_drain_timeout": 30}}
        config = declaration.merge(ours, found.description.config)
        assert desired(found.description, found.agent).config == Config(config)
        assert "platforms" not in found.description.config


def test_what_is_declared_beside_the_address_stays():
    declared = {"webhook": {"extra": {"rate_limit": 5}}, "api_server": {}}
    webhook = {"enabled": True, "extra": {"host": "127.0.0.1", "port": 8644, "rate_limit": 5}}
    assert config_of(config={"platforms": declared}, **HOOK)["platforms"] == {"webhook": webhook, "api_server": {}}


def test_a_new_file_gets_the_keys_of_every_agent_then_the_address_then_the_declared_ones():
    declared = {
        "model": {"default": "a/b"},
        "platforms": {"telegram": {"x": 1}, "webhook": {"extra": {"rate_limit": 5}}},
        "agent": {"max_turns": 9},
        "updates": {"check": True},
    }
    config = config_of(config=declared, **HOOK)
    assert list(config) == [*declaration.BASE_CONFIG, "agent", "sessions", "platforms", "model"]
    assert json.dumps(config["platforms"]) == (
        '{"webhook": {"enabled": true, "extra": {"host": "127.0.0.1", "port": 8644, "rate_limit": 5}}, '
        '"telegram": {"x": 1}}'
    )
    assert config["updates"] == {"check": True}
    assert config["agent"] == {"restart_drain_timeout": 30, "max_turns": 9}


LIMITS = [("sessions", "auto_prune"), ("sessions", "retention_days"), ("cron", "output_retention")]
PRUNED = {"sessions": {"auto_prune": True, "retention_days": 365}}


@pytest.mark.parametrize("config_scope", ["home", "managed"])
def test_in_an_adopted_home_nothing_is_removed_until_that_is_declared(tmp_path, config_scope):
    def run(**words):
        agents = [{"name": "default", "user": "ada", "config_scope": config_scope, **words}]
        found = declaration.resolve(agents, host="box", data_dir=str(tmp_path), managed_root=str(tmp_path / "managed"))
        one = found["default"]
        outcome = converge(one.description, one.agent, Account.current(), records, check=True)
        said = {each.what.removeprefix("managed: "): each.after for each in outcome.parts["config"].differences}
        return {what: after for what, after in said.items() if "/" not in what}

    records = Records(str(tmp_path / "ops"), "default")
    home = tmp_path / "hers/.hermes"
    home.mkdir(parents=True)
    limits = [".".join(path) for path in LIMITS]
    adopted = run(home=str(home))
    assert set(limits) & set(adopted) == set()
    # All else is as for any other agent.
    assert {*adopted, *limits} == set(run())
    declared = run(home=str(home), config=PRUNED)
    assert {name: declared[name] for name in limits if name in declared} == {limits[0]: "true", limits[1]: "365"}


def test_an_agent_that_was_separated_keeps_what_it_brought(tmp_path):
    found, records = resolved(), Records(str(tmp_path / "ops"), "default")
    placement = replace(found.agent, home=str(tmp_path / ".hermes"), directory=str(tmp_path))
    records.prepare()
    for adopted in (False, True):
        if adopted:
            records.write_separated(Separated("/home/ada/.hermes", "ada", "/aside"))
        outcome = converge(found.description, placement, Account.current(), records, check=True)
        assert ("sessions.auto_prune" in {each.what for each in outcome.parts["config"].differences}) != adopted


def test_neither_the_description_nor_what_every_agent_gets_is_changed():
    found = resolved(config={"a": {"b": [1]}}, settings={"A": "b"}, **HOOK)
    before, common = copy.deepcopy(found), copy.deepcopy(declaration.BASE_CONFIG)
    home = desired(found.description, found.agent)
    assert home.config is not None
    home.config.declared["a"]["b"].append(2)
    home.config.declared["updates"]["check"] = True
    assert (found, declaration.BASE_CONFIG) == (before, common)


def test_a_key_from_a_source_is_neither_generated_nor_left_in_the_file(tmp_path):
    found = resolved()
    records = Records(str(tmp_path / "ops"), "default")
    here = replace(found.agent, home=str(tmp_path / "home"))
    env_file = tmp_path / "home/.env"

    def run(*elsewhere):
        return converge(found.description, here, Account.current(), records, check=False, elsewhere=elsewhere)

    run()
    assert "API_SERVER_KEY" in env_file.read_text()
    assert run("API_SERVER_KEY", "OTHER").restart == ["env: API_SERVER_KEY"]
    assert "API_SERVER_KEY" not in env_file.read_text()
    assert not run("API_SERVER_KEY", "OTHER").changed
    # And back.
    assert run().parts["env"].generated == ["API_SERVER_KEY"]


def test_a_variable_in_env_that_a_source_has_too_is_refused_before_anything_is_written(tmp_path):
    found = resolved(soul="New.")
    records = Records(str(tmp_path / "ops"), "default")
    here = replace(found.agent, home=str(tmp_path / "home"))
    converge(found.description, here, Account.current(), records, check=False)
    with (tmp_path / "home/.env").open("a") as stream:
        stream.write("MINE=1\nOTHER=\n")
    (tmp_path / "home/SOUL.md").unlink()
    for check in (True, False):
        with pytest.raises(OpsError, match="has MINE, OTHER, and so has the agent's source") as caught:
            converge(found.description, here, Account.current(), records, check=check, elsewhere=("MINE", "OTHER", "X"))
        assert caught.value.where == str(tmp_path / "home/.env")
    assert not (tmp_path / "home/SOUL.md").exists()


def test_the_keys_go_where_the_placement_has_them():
    here = home_of().config
    assert here is not None
    assert here.managed_dir is None
    managed = home_of(config_scope="managed").config
    assert managed is not None
    assert managed.managed_dir == "/managed/default"


def test_an_agent_that_moves_to_another_address_is_restarted_for_that_and_keeps_its_key(tmp_path):
    found = resolved(settings={"A": "b"}, **HOOK)
    records = Records(str(tmp_path / "ops"), "default")

    def run(placement, *, check=False):
        return converge(found.description, placement, Account.current(), records, check=check)

    here = replace(found.agent, home=str(tmp_path / "home"))
    assert run(here).parts["env"].generated == ["API_SERVER_KEY"]
    first = (tmp_path / "home/.env").read_text()
    assert not run(here, check=True).changed
    there = replace(here, api=Server(True, "127.0.0.1", 9001), webhook=Server(True, "127.0.0.1", 9002))
    assert run(there).restart == ["config: platforms.webhook.extra.port", "env: API_SERVER_PORT"]
    assert (tmp_path / "home/.env").read_text() == first.replace("8642", "9001")
    closed = replace(here, api=Server(False, "127.0.0.1", 0), webhook=Server(False, "127.0.0.1", 0))
    outcome = run(closed)
    assert (tmp_path / "home/.env").read_text() == "A=b\nAPI_SERVER_ENABLED=false\n"
    assert "platforms" not in (tmp_path / "home/config.yaml").read_text()
    assert not run(closed, check=True).changed
    assert "env: API_SERVER_KEY" in outcome.restart
