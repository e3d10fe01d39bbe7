# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Turns a declaration into complete descriptions.

:func:`resolve` takes ``hermes_agents`` as a person writes it and returns one complete, checked description of every
agent. It runs on the controller (filter ``resolve_agents``), so it costs the host nothing.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Collection
from typing import Any

from ..system.errors import OpsError
from ..system.paths import check_path
from . import checks, sources
from .agent import Agent, Declared, Description, HealthCheck, Placement, Sandbox, Server
from .schema import AGENT_KEYS, DEFAULT_PROFILE, GATEWAY_UNIT, PROFILES_DIRECTORY, check_table, choice

# Variables of older versions, in which all agents of a host shared a home and a user -> their replacement.
REPLACED_VARIABLES = {
    "hermes_profiles": "declare hermes_agents, a list as before: each agent gets a home and a user of its own",
    "hermes_user": "declare user for the agents in hermes_agents that an existing user is to run",
    "hermes_home": "declare home for the agent in hermes_agents that is to adopt it",
    "base_user_managed": "leave it out: a user that exists is never changed",
}
# The ports at which an agent serves that declares none.
PORTS = {"api": 8642, "webhook": 8644}
# The keys of a declaration that only a host has a use for.
OF_THE_HOST = ("user", "sandbox", "limits", "config_scope", "purge", "secrets_from")
# The token with which a platform connects -> its name in gateway_state.json (0.19.0 gateway/config.py).
PLATFORM_TOKENS = {
    "DISCORD_BOT_TOKEN": "discord",
    "SLACK_BOT_TOKEN": "slack",
    "TELEGRAM_BOT_TOKEN": "telegram",
}

# The configuration of every agent, unless its own ``config`` overrides it. systemd supervises the gateway and this
# collection updates it, so Hermes must do neither.
BASE_CONFIG: dict[str, Any] = {
    "gateway": {
        # systemd delays restarts. Hermes' own breaker would sleep before it opens a port, and look alive meanwhile.
        "respawn_storm": {"max_starts": 0},
    },
    "updates": {"check": False},
    "cron": {
        # Jobs run in the gateway's own unit, within its sandbox and limits. By default, from 0.21.1 on, each job
        # starts in the user's own manager, which does not run here. Older versions ignore the key.
        "require_restart_safe_scope": False,
    },
    "security": {
        # The gateway would install packages into its release, which must stay as it was built.
        "allow_lazy_installs": False,
        # The gateway would download a binary at start.
        "tirith_enabled": False,
    },
}

# Also the configuration of every agent, except in an adopted home, whose owner decides what is removed. Without limits,
# sessions and outputs of cron jobs grow for ever (docs/logs.md). Hermes removes only sessions that have ended, at its
# start, and at most once a day. Later versions prune by default and keep as many outputs a job.
GROWTH_LIMITS: dict[str, Any] = {
    "sessions": {"auto_prune": True, "retention_days": 90},
    "cron": {"output_retention": 50},
}


def merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """*base* overridden by the leaves of *over*; lists are replaced as a whole. Neither argument changes."""
    merged = copy.deepcopy(base)
    for key, value in over.items():
        if isinstance(value, dict) and isinstance(merged.get(key), dict):
            merged[key] = merge(merged[key], value)
        else:
            merged[key] = copy.deepcopy(value)
    return merged


def leaves(tree: dict[str, Any], path: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], Any]]:
    """Every leaf of *tree* with its path; an empty mapping is a leaf."""
    found: list[tuple[tuple[str, ...], Any]] = []
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            found.extend(leaves(value, (*path, key)))
        else:
            found.append(((*path, key), value))
    return found


def resolve(
    agents: Any,
    *,
    host: str,
    data_dir: str,
    managed_root: str,
    tailnet: bool = False,
) -> dict[str, Declared]:
    """Check *agents* and complete them.

    :param agents: the list ``hermes_agents``
    :param host: the inventory's name of the host, for error messages
    :param data_dir: absolute path of the directory that holds the agents' directories
    :param managed_root: directory that holds the managed scopes of the agents
    :param tailnet: whether the host is to be a node of a tailnet
    :returns: the agents by name, in the declared order. Secrets are only in ``secrets`` and ``webhooks[].secret`` of
        the description
    :raises OpsError: for the first mistake; names host, agent and key
    """
    for name, path in (("hermes_data_dir", data_dir), ("hermes_managed_root", managed_root)):
        check_path(path, f"{host}: {name}")
    where = f"{host}: hermes_agents"
    if not isinstance(agents, list) or not agents:
        raise OpsError("must be a list of at least one agent", where=where, fix="declare one: [{name: default}]")
    resolved: dict[str, Declared] = {}
    for number, declared in enumerate(agents, start=1):
        name = checks.name_of(declared, f"{where}: entry {number}")
        one = _resolve_one(declared, f"{where}: agent {name}", data_dir, managed_root)
        checks.check_tailnet(one.agent, tailnet, f"{where}: agent {name}")
        if name in resolved:
            raise OpsError(f"agent {name} is declared twice", where=where, fix="merge the two, or rename one")
        resolved[name] = one
    checks.check_across(resolved, where)
    return resolved


def resolve_alone(
    declared: Any, where: str, *, user: str, data_dir: str, home: str, given: Collection[str]
) -> Declared:
    """Check and complete *declared*, an entry of ``hermes_agents``, for a container that is this agent's alone.

    The platform decides who runs it and within which limits, so :data:`OF_THE_HOST` is checked, but not used. The
    agent's directory is *data_dir*, with the layout that it has on a host.

    :param user: the name, for errors, of the user that runs it
    :param data_dir: absolute path of the directory that outlives the container
    :param home: the HERMES_HOME of one that declares none
    :param given: the names of the secrets that the platform hands in
    :raises OpsError: for the first mistake; names the agent and the key
    """
    where = f"{where}: agent {checks.name_of(declared, where)}"
    description = describe(declared, where)
    if choice(declared, "state", ("present", "absent"), where) == "absent":
        raise OpsError("is absent", where=f"{where}: state", fix="remove the container, or leave it out")
    if sources.source_of(declared.get("secrets_from"), f"{where}: secrets_from") and not given:
        raise OpsError(
            "is declared, but a container gets its secrets handed in, and got none",
            where=f"{where}: secrets_from",
            fix="mount them as files, or set them in its environment; or leave it out",
        )
    checks.user_of(declared, where)
    checks.sandbox_of(declared.get("sandbox", {}), where)
    choice(declared, "config_scope", ("home", "managed"), where)
    placement = Placement(
        name=description.name,
        user=user,
        home=checks.home_within({"home": home, **declared}, data_dir, where),
        directory=data_dir,
        unit="",
        sandbox=Sandbox(False, (), ()),
        config_scope="home",
        managed_dir="",
        **_servers(declared, "0.0.0.0", PORTS, where, is_checked=True),
    )
    checks.check_tailnet(placement, False, where)
    checks.check_api_key(placement.api, description.secrets, where, may_follow="API_SERVER_KEY" in given)
    checks.check_servers(description, placement, where)
    checks.refuse_doubled(description, given, "the platform", where)
    resolved = Declared(description, Agent.of(description, placement, state="present", source=None), purge=False)
    checks.check_across({description.name: resolved}, where)
    return resolved


def home_arguments(home: str) -> list[str]:
    """The arguments with which ``hermes`` uses exactly *home*, whatever the file ``active_profile`` in it says.

    They always name the profile, for two reasons (0.18.2 and 0.19.0 hermes_cli/main.py: _apply_profile_override): the
    file ``active_profile`` wins over a HERMES_HOME that is not the directory of a profile, and a ``-p`` after the
    command selects a profile unless one was named before. For a HERMES_HOME below ``profiles/`` the name is that of its
    directory: ``default`` would select the home above (hermes_constants.py: get_default_hermes_root).
    """
    above, name = os.path.split(os.path.normpath(home))
    return ["--profile", name if os.path.basename(above) == PROFILES_DIRECTORY else "default"]


def refuse_replaced(variables: Collection[str], host: str) -> None:
    """:raises OpsError: when *variables* holds the name of a variable of older versions"""
    for name, fix in REPLACED_VARIABLES.items():
        if name in variables:
            raise OpsError("is not used any more", where=f"{host}: {name}", fix=f"{fix}; see docs/agents.md")


def describe(declared: Any, where: str) -> Description:
    """The description in *declared*, an entry of ``hermes_agents``. It is the same wherever the agent is placed.

    :raises OpsError: for the first mistake in it, or in the name or type of a key
    """
    name = checks.name_of(declared, where)
    check_table(declared, AGENT_KEYS, where)
    checks.check_texts(declared, where)
    config, webhooks = declared.get("config", {}), declared.get("webhooks", [])
    checks.check_config(config, where)
    settings, secrets = (checks.env_texts(declared, table, where) for table in ("settings", "secrets"))
    checks.check_env(settings, secrets, where)
    checks.check_webhooks(webhooks, where)
    return Description(
        name=name,
        drain=declared.get("drain", 30),
        limits=checks.limits_of(declared.get("limits", {}), where),
        health=_health(declared.get("health", {}), secrets, webhooks, where),
        config=merge(BASE_CONFIG, config),
        settings=settings,
        secrets=secrets,
        webhooks=tuple(webhooks),
        webhooks_purge=declared.get("webhooks_purge", False),
        soul=declared.get("soul"),
        user_profile=declared.get("user_profile"),
        memory=declared.get("memory"),
    )


def _health(declared: dict[str, Any], secrets: dict[str, str], webhooks: list[Any], where: str) -> HealthCheck:
    """The conditions under which the agent counts as healthy."""
    connecting = sorted({platform for token, platform in PLATFORM_TOKENS.items() if secrets.get(token)})
    named = [subscription["name"] for subscription in webhooks if checks.is_wanted(subscription)]
    if "webhook" in declared and declared["webhook"] not in named:
        raise OpsError(
            f"names the subscription {declared['webhook']!r}, which is not declared",
            where=f"{where}: health.webhook",
            fix="declare it under webhooks",
        )
    return HealthCheck(
        platforms=tuple(declared.get("platforms", connecting)),
        reply=declared.get("reply", False),
        webhook=declared.get("webhook"),
        timeout=declared.get("timeout", 120),
    )


def _resolve_one(declared: dict[str, Any], where: str, data_dir: str, managed_root: str) -> Declared:
    description = describe(declared, where)
    state = choice(declared, "state", ("present", "absent"), where)
    placement = _placement(declared, state, where, data_dir, managed_root)
    source = sources.source_of(declared.get("secrets_from"), f"{where}: secrets_from")
    checks.check_api_key(placement.api, description.secrets, where, may_follow=source is not None)
    checks.check_servers(description, placement, where)
    agent = Agent.of(description, placement, state=state, source=source)
    return Declared(description, agent, declared.get("purge", False))


def _placement(declared: dict[str, Any], state: str, where: str, data_dir: str, managed_root: str) -> Placement:
    name = declared["name"]
    directory = f"{data_dir.rstrip('/')}/agents/{name}"
    # Only the default agent has default ports.
    ports = PORTS if name == DEFAULT_PROFILE else dict.fromkeys(PORTS, 0)
    return Placement(
        name=name,
        user=checks.user_of(declared, where),
        home=checks.home_of(declared, directory, data_dir, where),
        directory=directory,
        unit=GATEWAY_UNIT.format(name),
        sandbox=checks.sandbox_of(declared.get("sandbox", {}), where),
        config_scope=choice(declared, "config_scope", ("home", "managed"), where),
        managed_dir=f"{managed_root}/{name}",
        **_servers(declared, "127.0.0.1", ports, where, is_checked=state == "present"),
    )


def _servers(
    declared: dict[str, Any], host: str, ports: dict[str, int], where: str, *, is_checked: bool
) -> dict[str, Server]:
    """The agent's servers, at *host* and *ports* unless it declares others.

    :param is_checked: whether their ports must be valid
    """
    wanted = any(checks.is_wanted(subscription) for subscription in declared.get("webhooks", []))
    enabled = {"api": True, "webhook": "webhook" in declared or wanted}
    return {
        key: checks.server_of(declared.get(key, {}), Server(enabled[key], host, port), is_checked, f"{where}: {key}")
        for key, port in ports.items()
    }
