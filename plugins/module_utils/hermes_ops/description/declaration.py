# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What an agent may declare, and what follows from it.

:func:`resolve` turns ``hermes_agents`` as a person writes it into one complete, checked description of
every agent. It runs on the controller (filter ``resolve_agents``) and costs the host nothing.
"""

from __future__ import annotations

import copy
import difflib
import ipaddress
import os
import re
from collections.abc import Mapping
from typing import Any

from ..system.errors import OpsError
from ..system.systemd import check_path
from .secrets import is_secret_setting, secret_paths

# The agent that is meant where several are declared and none is named.
DEFAULT_PROFILE = "default"

# Characters; Hermes cuts what is longer (0.19.0, documented limits of the memory tool).
MEMORY_LIMITS = {"memories/USER.md": 1375, "memories/MEMORY.md": 2200}
# Part of a unit's name, a path and, unless one is declared, a user's name.
AGENT_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
# Hermes takes a home for a profile of another one when its parent directory has this name (0.18.2 and 0.19.0
# hermes_cli/main.py: _apply_profile_override, hermes_constants.py: get_default_hermes_root).
PROFILES_DIRECTORY = "profiles"
# What useradd(8) of Debian and Ubuntu accepts; a longer name does not fit into utmp.
USER_NAME = re.compile(r"[a-z_][a-z0-9_-]{0,31}")
USER_PREFIX = "hermes-"
# Variables of versions in which all agents of a host shared a home and a user -> what is declared instead.
REPLACED_VARIABLES = {
    "hermes_profiles": "declare hermes_agents, a list as before: each agent gets a home and a user of its own",
    "hermes_user": "declare user for the agents in hermes_agents that an existing user is to run",
    "hermes_home": "declare home for the agent in hermes_agents that is to adopt it",
    "base_user_managed": "leave it out: a user that exists is never changed",
}
# 0.19.0 gateway/platforms/api_server.py and hermes_cli/auth.py: has_usable_secret(min_length=16).
API_KEY_MINIMUM = 16
PLACEHOLDER_SECRETS = frozenset(
    {
        "*",
        "**",
        "***",
        "changeme",
        "dummy",
        "example",
        "none",
        "null",
        "placeholder",
        "your-api-key",
        "your_api_key",
        "your_api_key_here",
    }
)
# What `hermes webhook subscribe` accepts as a name (0.18.2 and 0.19.0 hermes_cli/webhook.py).
SUBSCRIPTION_NAME = re.compile(r"[a-z0-9][a-z0-9_-]*")
# 0.19.0 gateway/platforms/webhook.py: this value switches the signature check off.
UNSIGNED_WEBHOOK = "INSECURE_NO_AUTH"

# A token that lets a platform connect, and the platform's name in gateway_state.json (0.19.0 gateway/config.py).
PLATFORM_TOKENS = {
    "DISCORD_BOT_TOKEN": "discord",
    "SLACK_BOT_TOKEN": "slack",
    "TELEGRAM_BOT_TOKEN": "telegram",
}

# What every agent gets unless its own ``config`` says otherwise. The unit is the supervisor, and this collection
# the updater:
BASE_CONFIG: dict[str, Any] = {
    "gateway": {
        # systemd delays restarts. Hermes' own breaker sleeps before it opens a port, which looks alive.
        "respawn_storm": {"max_starts": 0},
    },
    "updates": {"check": False},
    # Both grow for ever otherwise (docs/logs.md). Hermes removes sessions only that have ended, at its start, once a
    # day at most; it does so by default in later versions, and keeps so many outputs of each cron job.
    "sessions": {"auto_prune": True, "retention_days": 90},
    "cron": {
        "output_retention": 50,
        # Jobs run in the gateway's own unit, within its sandbox and limits. By default, from 0.21.1 on, each one
        # starts in the user's own manager, which is not there. Older versions ignore the key.
        "require_restart_safe_scope": False,
    },
    "security": {
        # A gateway that installs packages into its release is another release.
        "allow_lazy_installs": False,
        # Downloads a binary at start.
        "tirith_enabled": False,
    },
}

# Keys of config.yaml that have a place of their own in the declaration.
OWNED_CONFIG = {
    ("platforms", "api_server", "enabled"): "api.enabled",
    ("platforms", "api_server", "extra", "host"): "api.host",
    ("platforms", "api_server", "extra", "port"): "api.port",
    ("platforms", "api_server", "extra", "key"): "secrets.API_SERVER_KEY",
    ("platforms", "webhook", "enabled"): "webhook.enabled",
    ("platforms", "webhook", "extra", "host"): "webhook.host",
    ("platforms", "webhook", "extra", "port"): "webhook.port",
    ("agent", "restart_drain_timeout"): "drain",
}
# The same in .env.
OWNED_ENV = {
    "API_SERVER_ENABLED": "api.enabled",
    "API_SERVER_HOST": "api.host",
    "API_SERVER_PORT": "api.port",
    "WEBHOOK_ENABLED": "webhook.enabled",
    "WEBHOOK_PORT": "webhook.port",
}

# Hermes strips what is not ASCII from values of these names (0.18.2 and 0.19.0 hermes_cli/env_loader.py).
CREDENTIAL_SUFFIXES = ("_API_KEY", "_TOKEN", "_SECRET", "_KEY")
# Where the gateway expands references; not below `platforms` (0.18.2 and 0.19.0).
EXPANDED_CONFIG = ("custom_providers", "mcp_servers", "model")
ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")

# What a sandbox opens on request; what each door lifts is the supervisor's to know.
DOORS = ("browser", "devices", "home", "metadata", "sudo", "system", "user_manager")

# systemd.resource-control(5); a value it does not know is no limit, without an error.
LIMITS = {
    "memory": (
        re.compile(r"[1-9]\d*[KMGT]?|([1-9]\d?|100)%|infinity", re.ASCII),
        "write bytes, K, M, G or T (4G, 1536M), a percentage of the machine's memory (50%), or infinity",
    ),
    "cpu": (re.compile(r"[1-9]\d*%", re.ASCII), "write a percentage of one CPU, such as 150%"),
    "tasks": (re.compile(r"[1-9]\d*", re.ASCII), "write 1 or more"),
}

# The tables below are the schema: name -> type. A dict as type is a nested table, _TEXTS a list of text.
_TEXTS = [str]
_API = {"enabled": bool, "host": str, "port": int}
_WEBHOOK = {"enabled": bool, "host": str, "port": int}
_LIMITS = {"memory": str, "cpu": str, "tasks": int}
_SANDBOX = {"enabled": bool, "open": _TEXTS, "paths": _TEXTS}
_HEALTH = {"platforms": _TEXTS, "reply": bool, "webhook": str, "timeout": int}
_SUBSCRIPTION = {
    "name": str,
    "state": str,
    "description": str,
    "prompt": str,
    "secret": str,
    "events": _TEXTS,
    "skills": _TEXTS,
    "deliver": str,
    "deliver_only": bool,
    "deliver_extra": dict,
    "enabled": bool,
    "script": str,
    # A mapping or a list of them; Hermes takes both.
    "filters": object,
}
AGENT_KEYS: dict[str, Any] = {
    "name": str,
    "state": str,
    "purge": bool,
    "user": str,
    "home": str,
    "config": dict,
    "config_scope": str,
    "settings": dict,
    "secrets": dict,
    "api": _API,
    "webhook": _WEBHOOK,
    "webhooks": list,
    "webhooks_purge": bool,
    "soul": str,
    "user_profile": str,
    "memory": str,
    "limits": _LIMITS,
    "drain": int,
    "sandbox": _SANDBOX,
    "health": _HEALTH,
}
_TYPE_NAMES = {bool: "true or false", dict: "a mapping", int: "a whole number", list: "a list", str: "text"}


def merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """*base* with the leaves of *over* on top; lists are replaced as a whole. Neither argument changes."""
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


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server bound to *host*."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def resolve(
    agents: Any,
    *,
    host: str,
    data_dir: str,
    managed_root: str,
) -> dict[str, dict[str, Any]]:
    """Check *agents* and complete them.

    :param agents: the list ``hermes_agents``
    :param host: the inventory's name of the host, for error messages
    :param data_dir: absolute path of the directory below which the agents live
    :param managed_root: directory below which the managed scope of each agent lies
    :returns: name -> complete description, in the declared order. Secrets are in ``secrets`` and in
        ``webhooks[].secret`` and nowhere else; ``gateway`` is all that units, health checks and the host's own
        kit have to know, and goes through output and records as it is
    :raises OpsError: for the first thing that cannot work; names host, agent and key
    """
    for name, path in (("hermes_data_dir", data_dir), ("hermes_managed_root", managed_root)):
        check_path(path, f"{host}: {name}")
    where = f"{host}: hermes_agents"
    if not isinstance(agents, list) or not agents:
        raise OpsError("must be a list of at least one agent", where=where, fix="declare one: [{name: default}]")
    resolved: dict[str, dict[str, Any]] = {}
    for number, declared in enumerate(agents, start=1):
        if not isinstance(declared, dict):
            raise OpsError(f"entry {number} is not a mapping", where=where, fix="write it as {name: …}")
        agent = _resolve_one(declared, number, where, data_dir, managed_root)
        if agent["name"] in resolved:
            raise OpsError(f"agent {agent['name']} is declared twice", where=where, fix="merge the two, or rename one")
        resolved[agent["name"]] = agent
    _check_across(resolved, where)
    return resolved


def home_arguments(home: str) -> list[str]:
    """The arguments with which ``hermes`` uses exactly *home*, whatever ``active_profile`` in it says.

    The profile is always named, since the file ``active_profile`` wins over a HERMES_HOME that is no directory of a
    profile, and a ``-p`` behind the command selects a profile unless one is named before (0.18.2 and 0.19.0
    hermes_cli/main.py: _apply_profile_override). In a HERMES_HOME below ``profiles/`` the name ``default`` would mean
    the home above it (hermes_constants.py: get_default_hermes_root).
    """
    above, name = os.path.split(os.path.normpath(home))
    return ["--profile", name if os.path.basename(above) == PROFILES_DIRECTORY else "default"]


def refuse_replaced(variables: Mapping[str, Any], host: str) -> None:
    """:raises OpsError: when one of *variables* (name -> value) is a variable of earlier versions that is declared"""
    for name, fix in REPLACED_VARIABLES.items():
        if variables.get(name) is not None:
            raise OpsError("is not used any more", where=f"{host}: {name}", fix=f"{fix}; see docs/agents.md")


def _resolve_one(declared: dict[str, Any], number: int, where: str, data_dir: str, managed_root: str) -> dict[str, Any]:
    name = declared.get("name")
    if not isinstance(name, str) or not AGENT_NAME.fullmatch(name):
        raise OpsError(
            f"entry {number} has the name {name!r}",
            where=where,
            fix="use lower-case letters, digits, '-' and '_' (at most 64, starting with a letter or digit)",
        )
    if name == PROFILES_DIRECTORY:
        raise OpsError(
            f"entry {number} has the name {name!r}, by which Hermes knows the directory of its profiles",
            where=where,
            fix="use another name",
        )
    where = f"{where}: agent {name}"
    _check_table(declared, AGENT_KEYS, where, "")

    directory = f"{data_dir.rstrip('/')}/agents/{name}"
    home = _home(declared, directory, data_dir, where)
    user = _user(declared, where)
    is_default = name == DEFAULT_PROFILE
    state = _choice(declared, "state", ("present", "absent"), where)

    api = {"enabled": True, "host": "127.0.0.1", "port": 8642 if is_default else None, **declared.get("api", {})}
    subscriptions = declared.get("webhooks", [])
    webhook = {
        "enabled": "webhook" in declared or any(_is_wanted(subscription) for subscription in subscriptions),
        "host": "127.0.0.1",
        "port": 8644 if is_default else None,
        **declared.get("webhook", {}),
    }
    for key, server in (("api", api), ("webhook", webhook)):
        if server["enabled"] and state == "present":
            _check_port(server["port"], f"{where}: {key}.port")

    secrets = {key: _env_text(key, value, f"{where}: secrets") for key, value in declared.get("secrets", {}).items()}
    settings = {key: _env_text(key, value, f"{where}: settings") for key, value in declared.get("settings", {}).items()}
    _check_env(settings, secrets, where)
    _check_api_key(api, secrets, where)
    _check_webhooks(webhook, subscriptions, where)
    for key, file in (("user_profile", "memories/USER.md"), ("memory", "memories/MEMORY.md")):
        if len(declared.get(key, "")) > MEMORY_LIMITS[file]:
            raise OpsError(
                f"has {len(declared[key])} characters; Hermes keeps {MEMORY_LIMITS[file]}",
                where=f"{where}: {key}",
                fix="shorten it, or put the rest into a skill",
            )

    settings["API_SERVER_ENABLED"] = str(api["enabled"]).lower()
    if api["enabled"]:
        settings["API_SERVER_HOST"] = api["host"]
        settings["API_SERVER_PORT"] = str(api["port"])

    drain = declared.get("drain", 30)
    config = merge(BASE_CONFIG, {"agent": {"restart_drain_timeout": drain}})
    if webhook["enabled"]:
        server = {"enabled": True, "extra": {"host": webhook["host"], "port": webhook["port"]}}
        config["platforms"] = {"webhook": server}
    own_config = declared.get("config", {})
    _check_config(own_config, where)

    health = declared.get("health", {})
    platforms = list(health.get("platforms", sorted({p for t, p in PLATFORM_TOKENS.items() if secrets.get(t)})))
    if api["enabled"]:
        platforms.append("api_server")
    if webhook["enabled"]:
        platforms.append("webhook")
    if "webhook" in health and health["webhook"] not in [s["name"] for s in subscriptions if _is_wanted(s)]:
        raise OpsError(
            f"names the subscription {health['webhook']!r}, which is not declared",
            where=f"{where}: health.webhook",
            fix="declare it under webhooks",
        )
    if health.get("reply") and not api["enabled"]:
        raise OpsError("a reply needs the API server", where=f"{where}: health.reply", fix="enable api, or drop it")

    return {
        "name": name,
        "state": state,
        "purge": declared.get("purge", False),
        "home": home,
        "config": merge(config, own_config),
        "settings": settings,
        "secrets": secrets,
        "generate": ["API_SERVER_KEY"] if api["enabled"] and "API_SERVER_KEY" not in secrets else [],
        "webhooks": subscriptions,
        "webhooks_purge": declared.get("webhooks_purge", False),
        "soul": declared.get("soul"),
        "user_profile": declared.get("user_profile"),
        "memory": declared.get("memory"),
        "gateway": {
            "name": name,
            "state": state,
            "user": user,
            "home": home,
            "directory": directory,
            "unit": f"hermes-gateway@{name}.service",
            "config_scope": _choice(declared, "config_scope", ("home", "managed"), where),
            "managed_dir": f"{managed_root}/{name}",
            "api": api,
            "webhook": webhook,
            "drain": drain,
            "limits": _limits(declared.get("limits", {}), where),
            "sandbox": _sandbox(declared.get("sandbox", {}), where),
            "health": {
                "platforms": platforms,
                "reply": health.get("reply", False),
                "webhook": health.get("webhook"),
                "timeout": health.get("timeout", 120),
            },
        },
    }


def _home(declared: dict[str, Any], directory: str, data_dir: str, where: str) -> str:
    """The agent's HERMES_HOME: below *directory*, or the declared one, which is adopted."""
    if "home" not in declared:
        return f"{directory}/.hermes"
    home = declared["home"].rstrip("/")
    check_path(home, f"{where}: home")
    if f"{data_dir}/".startswith(f"{home}/"):
        raise OpsError(
            f"{home} holds hermes_data_dir ({data_dir}), which is root's",
            where=f"{where}: home",
            fix="declare another hermes_data_dir",
        )
    parents = home.split("/")[:-1]
    if ".hermes" in parents and parents[-1] != PROFILES_DIRECTORY:
        # With HERMES_HOME below its user's ~/.hermes Hermes takes the latter, unless it is a profile's directory.
        raise OpsError(
            f"{home} lies in another home of Hermes, which Hermes would use instead",
            where=f"{where}: home",
            fix="declare the home itself, or one of its profiles (…/.hermes/profiles/<name>)",
        )
    return home


def _user(declared: dict[str, Any], where: str) -> str:
    """The UNIX user that runs the agent."""
    user = declared.get("user", USER_PREFIX + declared["name"])
    if user == "root":
        raise OpsError("is root", where=f"{where}: user", fix="leave it out, or declare an unprivileged user")
    if not USER_NAME.fullmatch(user):
        if "user" not in declared:
            raise OpsError(
                f"the user {user} would have more than the 32 characters that a user's name may have",
                where=where,
                fix="declare user",
            )
        raise OpsError(
            f"{user[:40]!r} is no name of a user",
            where=f"{where}: user",
            fix="use at most 32 lower-case letters, digits, '-' and '_', starting with a letter or '_'; "
            "the text for USER.md is declared as user_profile",
        )
    return user


def _is_wanted(subscription: Any) -> bool:
    return not isinstance(subscription, dict) or subscription.get("state") != "absent"


def _check_across(resolved: dict[str, dict[str, Any]], where: str) -> None:
    """What two agents must not share: a home, a port, a bot token."""
    _check_homes(resolved, where)
    ports: dict[int, str] = {}
    tokens: dict[tuple[str, str], str] = {}
    for name, profile in resolved.items():
        if profile["state"] == "absent":
            continue
        for key in ("api", "webhook"):
            server = profile["gateway"][key]
            if not server["enabled"]:
                continue
            port = server["port"]
            here = f"agent {name}: {key}.port"
            if port in ports:
                raise OpsError(
                    f"port {port} is declared twice: {ports[port]} and {here}", where=where, fix="give each its own"
                )
            ports[port] = here
        for key, value in profile["secrets"].items():
            if not key.endswith(("_BOT_TOKEN", "_APP_TOKEN")) or not value:
                continue
            other = tokens.setdefault((key, value), name)
            if other != name:
                raise OpsError(
                    f"agent {other} and agent {name} have the same {key}",
                    where=where,
                    fix="give each agent a bot of its own; a platform lets a token connect once",
                )


def _check_homes(resolved: dict[str, dict[str, Any]], where: str) -> None:
    """Homes lie apart, or one is a Hermes profile below another."""
    for name, agent in resolved.items():
        for other, others in resolved.items():
            home, outer = agent["home"], others["home"]
            if name == other or not f"{home}/".startswith(f"{outer}/"):
                continue
            if home == outer:
                raise OpsError(
                    f"agent {name} and agent {other} have the same home {home}", where=where, fix="give each its own"
                )
            if home.rpartition("/")[0] != f"{outer}/{PROFILES_DIRECTORY}":
                raise OpsError(
                    f"the home of agent {name} ({home}) lies in that of agent {other}",
                    where=where,
                    fix=f"move it out of {outer}",
                )
            if others["purge"] and agent["state"] == "present":
                raise OpsError(
                    f"its home holds that of agent {name}, which is present",
                    where=f"{where}: agent {other}: purge",
                    fix="leave purge out",
                )


def _check_table(declared: dict[str, Any], table: dict[str, Any], where: str, prefix: str) -> None:
    for key, value in declared.items():
        if key not in table:
            close = difflib.get_close_matches(str(key), list(table), n=1)
            raise OpsError(
                f"unknown key {prefix}{key}",
                where=where,
                fix=f"did you mean {prefix}{close[0]}?" if close else "known keys: " + ", ".join(sorted(table)),
            )
        expected = table[key]
        kind = expected if isinstance(expected, type) else type(expected)
        # A bool is an int to Python, but not to a reader.
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise OpsError(
                f"must be {_TYPE_NAMES[kind]}, not {type(value).__name__}",
                where=f"{where}: {prefix}{key}",
                fix="unquote it" if kind in (bool, int) and isinstance(value, str) else f"write {_TYPE_NAMES[kind]}",
            )
        if kind is int and value < 0:
            raise OpsError(f"is {value}", where=f"{where}: {prefix}{key}", fix="write a number that is not negative")
        if expected is _TEXTS and not all(isinstance(part, str) for part in value):
            raise OpsError("must be a list of text", where=f"{where}: {prefix}{key}", fix="quote its elements")
        if isinstance(expected, dict):
            _check_table(value, expected, where, f"{prefix}{key}.")


def _choice(declared: dict[str, Any], key: str, choices: tuple[str, ...], where: str) -> str:
    value = declared.get(key, choices[0])
    if value not in choices:
        raise OpsError(f"is {value!r}", where=f"{where}: {key}", fix="use one of: " + ", ".join(choices))
    return value


def _check_port(port: Any, where: str) -> None:
    if port is None:
        raise OpsError("is not declared", where=where, fix="give the agent a port of its own, or enabled: false")
    if not 1 <= port <= 65535:
        raise OpsError(f"is {port}", where=where, fix="use a port between 1024 and 65535")
    if port < 1024:
        raise OpsError(
            f"is {port}: the agent runs unprivileged and cannot bind it", where=where, fix="use a port from 1024 on"
        )


def _env_text(key: Any, value: Any, where: str) -> str:
    if not isinstance(key, str) or not ENV_NAME.fullmatch(key):
        raise OpsError(f"{key!r} is no name for a variable", where=where, fix="use letters, digits and '_'")
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (str, int, float)):
        check_value(key, str(value), f"{where}.{key}")
        return str(value)
    raise OpsError(f"must be text, not {type(value).__name__}", where=f"{where}.{key}", fix="quote it")


def check_value(name: str, value: object, where: str) -> None:
    """:raises OpsError: when Hermes could not read *value* as it is; the value is not part of the message"""
    if not isinstance(value, str):
        raise OpsError(f"is {type(value).__name__}, not a string", where=where, fix="put it into quotes")
    if "\0" in value:
        raise OpsError("holds a NUL, which no environment variable can", where=where, fix="remove it")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise OpsError("is not text (lone surrogate)", where=where, fix="give it as UTF-8 text") from None
    if name.endswith(CREDENTIAL_SUFFIXES) and not value.isascii():
        raise OpsError(
            "holds characters that are not ASCII; Hermes would strip them from a credential",
            where=where,
            fix="copy it again from its issuer; look for typographic quotes and invisible characters",
        )


def _check_env(settings: dict[str, str], secrets: dict[str, str], where: str) -> None:
    for key in [*settings, *secrets]:
        if key in OWNED_ENV:
            raise OpsError(f"{key} has a place of its own", where=where, fix=f"declare {OWNED_ENV[key]} instead")
    for key, value in settings.items():
        if key in secrets:
            raise OpsError(f"{key} is in settings and in secrets", where=where, fix="keep it in secrets")
        if is_secret_setting(key, value):
            raise OpsError(
                "is a secret, and settings are shown in output and diffs",
                where=f"{where}: settings.{key}",
                fix=f"move it to secrets.{key}",
            )


def _check_api_key(api: dict[str, Any], secrets: dict[str, str], where: str) -> None:
    if not api["enabled"]:
        return
    key = secrets.get("API_SERVER_KEY")
    real = key is not None and len(key.strip()) >= API_KEY_MINIMUM and key.strip().lower() not in PLACEHOLDER_SECRETS
    if key is not None and not real:
        raise OpsError(
            f"is shorter than {API_KEY_MINIMUM} characters or a placeholder: Hermes would not open the port",
            where=f"{where}: secrets.API_SERVER_KEY",
            fix="declare a real one (openssl rand -hex 32), or on loopback none at all: the host generates it",
        )
    if not is_loopback(api["host"]) and not real:
        raise OpsError(
            f"{api['host']} can be reached from the network, and there is no key",
            where=f"{where}: api.host",
            fix="declare secrets.API_SERVER_KEY (openssl rand -hex 32), or bind 127.0.0.1",
        )


def _check_webhooks(webhook: dict[str, Any], subscriptions: list[Any], where: str) -> None:
    if any(_is_wanted(subscription) for subscription in subscriptions) and not webhook["enabled"]:
        raise OpsError(
            "is false, but webhooks are declared", where=f"{where}: webhook.enabled", fix="enable it, or remove them"
        )
    names: set[str] = set()
    for number, subscription in enumerate(subscriptions, start=1):
        here = f"{where}: webhooks[{number}]"
        if not isinstance(subscription, dict) or not subscription.get("name"):
            raise OpsError("must be a mapping with a name", where=here, fix="write it as {name: …, prompt: …}")
        _check_table(subscription, _SUBSCRIPTION, here, "")
        _choice(subscription, "state", ("present", "absent"), here)
        check_subscription(subscription, here)
        if subscription["name"] in names:
            raise OpsError(f"{subscription['name']} is declared twice", where=here, fix="remove one")
        names.add(subscription["name"])
        if subscription.get("secret") == UNSIGNED_WEBHOOK and not is_loopback(webhook["host"]):
            raise OpsError(
                f"takes unsigned calls on {webhook['host']}, which can be reached from the network",
                where=f"{here}.secret",
                fix="leave the secret out: the host generates one",
            )


def check_subscription(subscription: Mapping[str, Any], where: str) -> None:
    """:raises OpsError: for a subscription that Hermes would not take"""
    name = subscription["name"]
    if not SUBSCRIPTION_NAME.fullmatch(name):
        raise OpsError(
            f"{name!r} is no name of a webhook",
            where=where,
            fix="use lower-case letters, digits, hyphens and underscores, beginning with a letter or digit",
        )
    if subscription.get("secret") == "":
        raise OpsError(
            "has an empty secret, which the gateway refuses", where=where, fix="leave it out to have one generated"
        )
    if subscription.get("deliver_only") and subscription.get("deliver") in (None, "log"):
        # One such route keeps the whole webhook platform from starting.
        raise OpsError(
            "is deliver_only without a target to deliver to",
            where=where,
            fix="set deliver to a platform, for example telegram",
        )
    if not isinstance(subscription.get("filters"), (dict, list, type(None))):
        raise OpsError("has filters that are no list", where=where, fix="write a list of mappings")


def _check_config(config: dict[str, Any], where: str) -> None:
    for path, place in OWNED_CONFIG.items():
        found: Any = config
        for depth, name in enumerate(path):
            if not isinstance(found, dict):
                # It would take away what belongs to the place.
                raise OpsError(
                    "must be a mapping",
                    where=f"{where}: config{_dotted(path[:depth])}",
                    fix=f"leave it out, or write a mapping: {place} lies in it",
                )
            if name not in found:
                break
            found = found[name]
        else:
            raise OpsError(
                "has a place of its own", where=f"{where}: config{_dotted(path)}", fix=f"declare {place} instead"
            )
    for path in secret_paths(config):
        name = re.sub(r"\W", "_", "_".join(str(part) for part in path)).upper()
        raise OpsError(
            "is a secret, and config.yaml is no place for one",
            where=f"{where}: config{_dotted(path)}",
            fix=f'move it to secrets.{name} and write "${{{name}}}" here'
            if path[0] in EXPANDED_CONFIG
            else "move it to secrets, under the name of Hermes' environment variable for it",
        )


def _dotted(path: tuple[str | int, ...]) -> str:
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)


def _limits(declared: dict[str, Any], where: str) -> dict[str, Any]:
    for key, (pattern, fix) in LIMITS.items():
        if key in declared and not pattern.fullmatch(str(declared[key])):
            raise OpsError(f"is {declared[key]!r}, which systemd would ignore", where=f"{where}: limits.{key}", fix=fix)
    return {"memory": "4G", "cpu": None, "tasks": 1024, **declared}


def _sandbox(declared: dict[str, Any], where: str) -> dict[str, Any]:
    sandbox = {"enabled": True, "open": [], "paths": [], **declared}
    for door in sandbox["open"]:
        if door not in DOORS:
            raise OpsError(
                f"there is no door {door!r}", where=f"{where}: sandbox.open", fix="known doors: " + ", ".join(DOORS)
            )
    for path in sandbox["paths"]:
        check_path(path, f"{where}: sandbox.paths")
    return sandbox
