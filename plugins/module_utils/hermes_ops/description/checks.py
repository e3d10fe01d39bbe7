# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Checks of a declaration. Every error names the key and a fix."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

from ..system.errors import OpsError
from ..system.paths import check_path
from .agent import Declared, Description, Limits, Placement, Sandbox, Server
from .schema import (
    AGENT_NAME,
    API_KEY_MINIMUM,
    CREDENTIAL_SUFFIXES,
    DOORS,
    ENV_NAME,
    EXPANDED_CONFIG,
    LIMITS,
    MEMORY_LIMITS,
    OWNED_CONFIG,
    OWNED_ENV,
    PLACEHOLDER_SECRETS,
    PROFILES_DIRECTORY,
    SUBSCRIPTION_KEYS,
    SUBSCRIPTION_NAME,
    TAILNET,
    UNSIGNED_WEBHOOK,
    USER_NAME,
    USER_PREFIX,
    check_table,
    choice,
)
from .secrets import is_secret_setting, secret_paths


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server bound to *host*."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def is_wanted(subscription: Any) -> bool:
    """Whether a declared webhook subscription is to exist. A malformed one counts, and is refused later."""
    return not isinstance(subscription, dict) or subscription.get("state") != "absent"


def name_of(declared: Any, where: str) -> str:
    """The agent's name.

    :param declared: the agent's entry, of which nothing is known yet
    """
    if not isinstance(declared, dict):
        raise OpsError("is not a mapping", where=where, fix="write it as {name: …}")
    name = declared.get("name")
    if not isinstance(name, str) or not AGENT_NAME.fullmatch(name):
        raise OpsError(
            f"has the name {name!r}",
            where=where,
            fix="use lower-case letters, digits, '-' and '_' (at most 64, starting with a letter or digit)",
        )
    if name == PROFILES_DIRECTORY:
        raise OpsError(
            f"has the name {name!r}, which Hermes uses for the directory of its profiles",
            where=where,
            fix="use another name",
        )
    return name


def home_of(declared: dict[str, Any], directory: str, data_dir: str, where: str) -> str:
    """The agent's HERMES_HOME: the declared one, which is adopted, else one below *directory*."""
    home = _home(declared, directory, where)
    if f"{data_dir}/".startswith(f"{home}/"):
        raise OpsError(
            f"{home} holds hermes_data_dir ({data_dir}), which belongs to root",
            where=f"{where}: home",
            fix="declare another hermes_data_dir",
        )
    return home


def home_within(declared: dict[str, Any], directory: str, where: str) -> str:
    """As :func:`home_of`, for an agent of which only *directory* outlives its container."""
    home = _home(declared, directory, where)
    if not f"{home}/".startswith(f"{directory}/"):
        raise OpsError(
            f"{home} does not lie in {directory}, which alone outlives the container",
            where=f"{where}: home",
            fix=f"leave it out, or declare a home there, such as {directory} itself",
        )
    return home


def _home(declared: dict[str, Any], directory: str, where: str) -> str:
    if "home" not in declared:
        return f"{directory}/.hermes"
    home = declared["home"].rstrip("/")
    check_path(home, f"{where}: home")
    parents = home.split("/")[:-1]
    if ".hermes" in parents and parents[-1] != PROFILES_DIRECTORY:
        # When HERMES_HOME lies below its user's ~/.hermes and is not a profile, Hermes uses ~/.hermes instead.
        raise OpsError(
            f"{home} lies in another home of Hermes, which Hermes would use instead",
            where=f"{where}: home",
            fix="declare the home itself, or one of its profiles (…/.hermes/profiles/<name>)",
        )
    return home


def user_of(declared: dict[str, Any], where: str) -> str:
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
            f"{user[:40]!r} is not a valid user name",
            where=f"{where}: user",
            fix="use at most 32 lower-case letters, digits, '-' and '_', starting with a letter or '_'; "
            "the text for USER.md is declared as user_profile",
        )
    return user


def server_of(declared: dict[str, Any], default: Server, is_checked: bool, where: str) -> Server:
    """The server with the fields of *declared*, and of *default* for the rest.

    :param is_checked: whether its port must be valid
    """
    server = replace(default, **declared)
    if server.host == TAILNET:
        server = replace(server, host=default.host, tailnet=True)
    if server.enabled and is_checked:
        _check_port(server.port, "port" in declared, f"{where}.port")
    return server


def check_tailnet(placement: Placement, is_node: bool, where: str) -> None:
    """:raises OpsError: a server is to be reached from a tailnet, and the host is no node of one"""
    for key, server in placement.servers.items():
        if server.tailnet and not is_node:
            raise OpsError(
                "is tailnet, and this host is no node of one",
                where=f"{where}: {key}.host",
                fix="set tailscale_enabled: true, or declare an address",
            )


def _check_port(port: int, is_declared: bool, where: str) -> None:
    if not port and not is_declared:
        raise OpsError("is not declared", where=where, fix="give the agent a port of its own, or enabled: false")
    if not 1 <= port <= 65535:
        raise OpsError(f"is {port}", where=where, fix="use a port between 1024 and 65535")
    if port < 1024:
        raise OpsError(
            f"is {port}: the agent runs unprivileged and cannot bind it", where=where, fix="use a port from 1024 on"
        )


def env_texts(declared: dict[str, Any], table: str, where: str) -> dict[str, str]:
    """The variables in the table *table* (``settings`` or ``secrets``), as text for ``.env``."""
    return {key: _env_text(key, value, f"{where}: {table}") for key, value in declared.get(table, {}).items()}


def _env_text(key: Any, value: Any, where: str) -> str:
    if not isinstance(key, str) or not ENV_NAME.fullmatch(key):
        raise OpsError(f"{key!r} is not a valid variable name", where=where, fix="use letters, digits and '_'")
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (str, int, float)):
        check_value(key, str(value), f"{where}.{key}")
        return str(value)
    raise OpsError(f"must be text, not {type(value).__name__}", where=f"{where}.{key}", fix="quote it")


def check_value(name: str, value: object, where: str) -> None:
    """:raises OpsError: when Hermes could not read *value* unchanged; the message does not quote the value"""
    if not isinstance(value, str):
        raise OpsError(f"is {type(value).__name__}, not a string", where=where, fix="put it into quotes")
    if "\0" in value:
        raise OpsError("holds a NUL, which no environment variable can hold", where=where, fix="remove it")
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


def check_texts(declared: dict[str, Any], where: str) -> None:
    """:raises OpsError: when Hermes would cut a text off"""
    for key, file in (("user_profile", "memories/USER.md"), ("memory", "memories/MEMORY.md")):
        if len(declared.get(key, "")) > MEMORY_LIMITS[file]:
            raise OpsError(
                f"has {len(declared[key])} characters; Hermes keeps {MEMORY_LIMITS[file]}",
                where=f"{where}: {key}",
                fix="shorten it, or put the rest into a skill",
            )


def check_env(settings: dict[str, str], secrets: dict[str, str], where: str) -> None:
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


def refuse_doubled(description: Description, given: Collection[str], source: str, where: str) -> None:
    """:raises OpsError: a variable is declared, and is one of those that *source* has *given* as well"""
    for table in ("settings", "secrets"):
        for name in getattr(description, table):
            if name in given:
                raise OpsError(
                    f"comes from {source} as well; Hermes would use the declared one",
                    where=f"{where}: {table}.{name}",
                    fix="remove it here, or there",
                )


def is_api_key(key: str) -> bool:
    """Whether Hermes opens the port of its API server with *key*."""
    return len(key.strip()) >= API_KEY_MINIMUM and key.strip().lower() not in PLACEHOLDER_SECRETS


def check_api_key(api: Server, secrets: dict[str, str], where: str, *, may_follow: bool = False) -> None:
    """:param may_follow: whether the key may come from a source that only the host can read; else it generates one"""
    if not api.enabled:
        return
    key = secrets.get("API_SERVER_KEY")
    real = key is not None and is_api_key(key)
    if key is not None and not real:
        raise OpsError(
            f"is shorter than {API_KEY_MINIMUM} characters or a placeholder: Hermes would not open the port",
            where=f"{where}: secrets.API_SERVER_KEY",
            fix="declare a real one (openssl rand -hex 32), or on loopback none at all: the host generates it",
        )
    if not is_loopback(api.host) and not (real or may_follow):
        raise OpsError(
            f"{api.host} can be reached from the network, and there is no key",
            where=f"{where}: api.host",
            fix="declare secrets.API_SERVER_KEY (openssl rand -hex 32), or bind 127.0.0.1",
        )


def check_webhooks(subscriptions: list[Any], where: str) -> None:
    names: set[str] = set()
    for number, subscription in enumerate(subscriptions, start=1):
        here = f"{where}: webhooks[{number}]"
        if not isinstance(subscription, dict) or not subscription.get("name"):
            raise OpsError("must be a mapping with a name", where=here, fix="write it as {name: …, prompt: …}")
        check_table(subscription, SUBSCRIPTION_KEYS, here)
        choice(subscription, "state", ("present", "absent"), here)
        check_subscription(subscription, here)
        if subscription["name"] in names:
            raise OpsError(f"{subscription['name']} is declared twice", where=here, fix="remove one")
        names.add(subscription["name"])


def check_servers(description: Description, placement: Placement, where: str) -> None:
    """:raises OpsError: *description* needs another server than *placement* has"""
    webhook = placement.webhook
    if any(is_wanted(subscription) for subscription in description.webhooks) and not webhook.enabled:
        raise OpsError(
            "is false, but webhooks are declared", where=f"{where}: webhook.enabled", fix="enable it, or remove them"
        )
    if webhook.tailnet or not is_loopback(webhook.host):
        for number, subscription in enumerate(description.webhooks, start=1):
            if subscription.get("secret") == UNSIGNED_WEBHOOK:
                place = TAILNET if webhook.tailnet else webhook.host
                raise OpsError(
                    f"takes unsigned calls on {place}, which can be reached from the network",
                    where=f"{where}: webhooks[{number}].secret",
                    fix="leave the secret out: the host generates one",
                )
    if description.health.reply and not placement.api.enabled:
        raise OpsError("a reply needs the API server", where=f"{where}: health.reply", fix="enable api, or drop it")


def check_subscription(subscription: Mapping[str, Any], where: str) -> None:
    """:raises OpsError: for a subscription that Hermes would not take"""
    name = subscription["name"]
    if not SUBSCRIPTION_NAME.fullmatch(name):
        raise OpsError(
            f"{name!r} is not a valid webhook name",
            where=where,
            fix="use lower-case letters, digits, hyphens and underscores, beginning with a letter or digit",
        )
    if subscription.get("secret") == "":
        raise OpsError(
            "has an empty secret, which the gateway refuses", where=where, fix="leave it out to have one generated"
        )
    if subscription.get("deliver_only") and subscription.get("deliver") in (None, "log"):
        # With one such route the whole webhook platform does not start.
        raise OpsError(
            "is deliver_only without a target to deliver to",
            where=where,
            fix="set deliver to a platform, for example telegram",
        )
    if not isinstance(subscription.get("filters"), (dict, list, type(None))):
        raise OpsError("has filters that are not a list or mapping", where=where, fix="write a list of mappings")


def check_config(config: dict[str, Any], where: str) -> None:
    for path, place in OWNED_CONFIG.items():
        found: Any = config
        for depth, name in enumerate(path):
            if not isinstance(found, dict):
                # A value here would replace the mapping that holds the key of *place*.
                raise OpsError(
                    "must be a mapping",
                    where=f"{where}: config{_dotted(path[:depth])}",
                    fix=f"leave it out, or write a mapping: {place} sets a key in it",
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


def limits_of(declared: dict[str, Any], where: str) -> Limits:
    for key, (pattern, fix) in LIMITS.items():
        if key in declared and not pattern.fullmatch(str(declared[key])):
            raise OpsError(f"is {declared[key]!r}, which systemd would ignore", where=f"{where}: limits.{key}", fix=fix)
    return Limits(**{"memory": "4G", "cpu": None, "tasks": 1024, **declared})


def sandbox_of(declared: dict[str, Any], where: str) -> Sandbox:
    doors, paths = tuple(declared.get("open", ())), tuple(declared.get("paths", ()))
    for door in doors:
        if door not in DOORS:
            raise OpsError(
                f"there is no door {door!r}", where=f"{where}: sandbox.open", fix="known doors: " + ", ".join(DOORS)
            )
    for path in paths:
        check_path(path, f"{where}: sandbox.paths")
    return Sandbox(declared.get("enabled", True), doors, paths)


def check_across(resolved: dict[str, Declared], where: str) -> None:
    """:raises OpsError: when two agents share a home, a port or a bot token"""
    _check_homes(resolved, where)
    ports: dict[int, str] = {}
    tokens: dict[tuple[str, str], str] = {}
    for name, declared in resolved.items():
        if not declared.agent.present:
            continue
        for key, server in declared.agent.servers.items():
            here = f"agent {name}: {key}.port"
            other = ports.setdefault(server.port, here)
            if other != here:
                raise OpsError(
                    f"port {server.port} is declared twice: {other} and {here}", where=where, fix="give each its own"
                )
        for key, value in declared.description.secrets.items():
            if not key.endswith(("_BOT_TOKEN", "_APP_TOKEN")) or not value:
                continue
            other = tokens.setdefault((key, value), name)
            if other != name:
                raise OpsError(
                    f"agent {other} and agent {name} have the same {key}",
                    where=where,
                    fix="give each agent a bot of its own; a platform lets a token connect once",
                )


def _check_homes(resolved: dict[str, Declared], where: str) -> None:
    """:raises OpsError: when a home lies in another one, unless it is a Hermes profile of that home"""
    for name, declared in resolved.items():
        for other, others in resolved.items():
            home, outer = declared.agent.home, others.agent.home
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
            if others.purge and declared.agent.present:
                raise OpsError(
                    f"its home holds that of agent {name}, which is present",
                    where=f"{where}: agent {other}: purge",
                    fix="leave purge out",
                )
