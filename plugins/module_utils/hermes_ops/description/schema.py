# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The schema of a declaration: its keys, their types, and the names and values that are accepted."""

from __future__ import annotations

import re
from typing import Any

from ..system.errors import OpsError

# The agent that a command uses when several are declared and none is named.
DEFAULT_PROFILE = "default"
# By which systemd knows the gateway of an agent.
GATEWAY_UNIT = "hermes-gateway@{}.service"

# Characters; Hermes cuts longer files (0.19.0, documented limits of the memory tool).
MEMORY_LIMITS = {"memories/USER.md": 1375, "memories/MEMORY.md": 2200}
# The name becomes a part of the unit's name, of paths and, unless a user is declared, of the user's name.
AGENT_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
# When the parent directory of a home has this name, Hermes treats the home as a profile of another home (0.18.2 and
# 0.19.0 hermes_cli/main.py: _apply_profile_override, hermes_constants.py: get_default_hermes_root).
PROFILES_DIRECTORY = "profiles"
# The names that useradd(8) of Debian and Ubuntu accepts; a longer name does not fit into utmp.
USER_NAME = re.compile(r"[a-z_][a-z0-9_-]{0,31}")
USER_PREFIX = "hermes-"
# In place of a server's address: the server listens on loopback, and tailscaled forwards the tailnet's connections.
TAILNET = "tailnet"
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
# The names that `hermes webhook subscribe` accepts (0.18.2 and 0.19.0 hermes_cli/webhook.py).
SUBSCRIPTION_NAME = re.compile(r"[a-z0-9][a-z0-9_-]*")
# This secret switches the signature check off (0.19.0 gateway/platforms/webhook.py).
UNSIGNED_WEBHOOK = "INSECURE_NO_AUTH"

# Keys of config.yaml that must not be declared in ``config`` -> the key of the declaration to use instead.
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
# The same for variables of .env.
OWNED_ENV = {
    "API_SERVER_ENABLED": "api.enabled",
    "API_SERVER_HOST": "api.host",
    "API_SERVER_PORT": "api.port",
    "WEBHOOK_ENABLED": "webhook.enabled",
    "WEBHOOK_PORT": "webhook.port",
}

# Hermes strips non-ASCII characters from variables with these endings (0.18.2 and 0.19.0 hermes_cli/env_loader.py).
CREDENTIAL_SUFFIXES = ("_API_KEY", "_TOKEN", "_SECRET", "_KEY")
# Keys below which the gateway expands references; `platforms` is not one of them (0.18.2 and 0.19.0).
EXPANDED_CONFIG = ("custom_providers", "mcp_servers", "model")
ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")

# The parts of a sandbox that can be opened. The package `supervise` defines what each one lifts.
DOORS = ("browser", "devices", "home", "metadata", "sudo", "system", "user_manager")

# Forms that systemd.resource-control(5) accepts. systemd ignores other values without an error, so they limit nothing.
LIMITS = {
    "memory": (
        re.compile(r"[1-9]\d*[KMGT]?|([1-9]\d?|100)%|infinity", re.ASCII),
        "write bytes, K, M, G or T (4G, 1536M), a percentage of the machine's memory (50%), or infinity",
    ),
    "cpu": (re.compile(r"[1-9]\d*%", re.ASCII), "write a percentage of one CPU, such as 150%"),
    "tasks": (re.compile(r"[1-9]\d*", re.ASCII), "write 1 or more"),
}

# The tables below are the schema: name -> type. A dict as type is a nested table, _TEXTS is a list of text.
_TEXTS = [str]
_API = {"enabled": bool, "host": str, "port": int}
_WEBHOOK = {"enabled": bool, "host": str, "port": int}
_LIMITS = {"memory": str, "cpu": str, "tasks": int}
_SANDBOX = {"enabled": bool, "open": _TEXTS, "paths": _TEXTS}
_SOURCE = {"ssm": str, "region": str, "endpoint": str, "command": _TEXTS, "file": str, "identity": str}
_HEALTH = {"platforms": _TEXTS, "reply": bool, "webhook": str, "timeout": int}
SUBSCRIPTION_KEYS: dict[str, Any] = {
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
    "secrets_from": _SOURCE,
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


def check_table(declared: dict[str, Any], table: dict[str, Any], where: str, prefix: str = "") -> None:
    """:raises OpsError: when *declared* has a key that is not in *table*, or a value of another type"""
    for key, value in declared.items():
        if key not in table:
            import difflib

            close = difflib.get_close_matches(str(key), list(table), n=1)
            raise OpsError(
                f"unknown key {prefix}{key}",
                where=where,
                fix=f"did you mean {prefix}{close[0]}?" if close else "known keys: " + ", ".join(sorted(table)),
            )
        expected = table[key]
        kind = expected if isinstance(expected, type) else type(expected)
        # In Python a bool is an int, but it is not accepted for one here.
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
            check_table(value, expected, where, f"{prefix}{key}.")


def choice(declared: dict[str, Any], key: str, choices: tuple[str, ...], where: str) -> str:
    """The value of *key* in *declared*; without one, the first of *choices*.

    :raises OpsError: the value is not one of *choices*
    """
    value = declared.get(key, choices[0])
    if value not in choices:
        raise OpsError(f"is {value!r}", where=f"{where}: {key}", fix="use one of: " + ", ".join(choices))
    return value
