# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The schema of a declaration: which keys there are and what type each one has, and the names that count."""

from __future__ import annotations

import difflib
import re
from typing import Any

from ..system.errors import OpsError

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
    """:raises OpsError: when *declared* has a key that *table* does not know, or a value of another type"""
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
            check_table(value, expected, where, f"{prefix}{key}.")


def choice(declared: dict[str, Any], key: str, choices: tuple[str, ...], where: str) -> str:
    """What *declared* says for *key*: one of *choices*, or else the first of them."""
    value = declared.get(key, choices[0])
    if value not in choices:
        raise OpsError(f"is {value!r}", where=f"{where}: {key}", fix="use one of: " + ", ".join(choices))
    return value
