# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The copy of a home on which a canary runs. Workers prepare it, look at it and remove it, as the agent's user.

Tokens and jobs are removed from the copy. A managed scope, which overrides every other source of settings in Hermes,
switches off everything that a gateway does besides serving the API.

Sources: Hermes 0.18.2 and 0.19.0, gateway/config.py (what enables a platform), hermes_cli/env_loader.py (the order of
the sources), hermes_cli/managed_scope.py, gateway/run.py (what starts besides the platforms), cron/jobs.py.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from typing import Any

from ..agent import config, dotenv
from ..agent.state import checked
from ..agent.state import look as look_at_state
from ..description.agent import Server
from ..description.declaration import BASE_CONFIG, merge
from ..system import trees
from ..system.files import ensure_directory, failure, read_bytes, read_json, read_text, write_atomic, write_json
from . import servers

# A gateway resumes work at its start that was interrupted less than this many seconds ago; 0 would mean always
# (gateway/run.py). The canary must not resume any: the real agent is still doing that work.
_NEVER_FRESH = 0.001
# The managed scope of the canary, inside the copy.
MANAGED_NAME = ".canary"

# Every platform but the API server: gateway/config.py (Platform) and plugins/platforms of 0.19.0, 0.18.2 has no other.
PLATFORMS = (
    "bluebubbles", "dingtalk", "discord", "email", "feishu", "google_chat", "homeassistant", "irc", "line", "matrix",
    "mattermost", "msgraph_webhook", "ntfy", "photon", "qqbot", "raft", "relay", "signal", "simplex", "slack", "sms",
    "teams", "telegram", "webhook", "wecom", "wecom_callback", "weixin", "whatsapp", "whatsapp_cloud", "yuanbao",
)  # fmt: skip
# Variables in .env that belong to a platform, by prefix.
_PLATFORM_VARIABLE = re.compile(
    "(" + "|".join([*(name.upper() for name in PLATFORMS), "GATEWAY_RELAY", "HASS", "MSGRAPH", "QQ", "TWILIO"]) + ")_.+"
)
# Every platform that a variable can enable needs one of these. They are set to empty in the managed scope, because
# Hermes may also get variables from a password manager.
_ENABLING_VARIABLES = (
    "BLUEBUBBLES_PASSWORD", "DINGTALK_CLIENT_SECRET", "DISCORD_BOT_TOKEN", "EMAIL_PASSWORD", "FEISHU_APP_SECRET",
    "GATEWAY_RELAY_URL", "HASS_TOKEN", "MATRIX_ACCESS_TOKEN", "MATRIX_PASSWORD", "MATTERMOST_TOKEN",
    "MSGRAPH_WEBHOOK_ENABLED", "QQ_APP_ID", "QQ_CLIENT_SECRET", "SIGNAL_HTTP_URL", "SLACK_BOT_TOKEN",
    "TELEGRAM_BOT_TOKEN", "TWILIO_ACCOUNT_SID", "WEBHOOK_ENABLED", "WECOM_CALLBACK_CORP_SECRET", "WECOM_SECRET",
    "WEIXIN_ACCOUNT_ID", "WEIXIN_TOKEN", "WHATSAPP_CLOUD_ACCESS_TOKEN", "WHATSAPP_ENABLED", "YUANBAO_APP_SECRET",
)  # fmt: skip
# Variables that would direct Hermes away from its copy.
_LEADING_AWAY = ("HERMES_HOME", "HERMES_KANBAN_HOME", "HERMES_MANAGED_DIR")

# Files that make a gateway act on its own, or that describe another process: scheduled jobs, hooks, webhooks, the
# previous gateway, supervised processes, and gateway.json, the predecessor of config.yaml.
_REMOVED = (
    "cron/jobs.json",
    "gateway.json",
    "gateway.lock",
    "gateway.pid",
    "gateway_state.json",
    "hooks",
    "processes.json",
    "webhook_subscriptions.json",
)
# Logins with a refresh token that works only once: if the canary used it, the real agent would be logged out.
_LOGINS = ("auth.json", ".anthropic_oauth.json")
_REFRESH_TOKENS = ("refresh_token", "refreshToken")
# Longest text, in characters, that is taken from the state of the copy's gateway.
_WORD = 300


def clear(directory: int) -> None:
    """Remove everything in a copy, whatever files the agent left there.

    :param directory: descriptor of the copy
    :raises OpsError: something could not be removed
    """
    try:
        os.fchmod(directory, 0o700)
        trees.empty(directory)
    except OSError as error:
        raise failure("removed", "a copy of its home", error) from None


def lend_env(source: str, home: str) -> None:
    """Copy ``.env``, which holds the model's keys, from the home *source* to the copy *home*."""
    target = os.path.join(home, dotenv.FILE_NAME)
    text = read_bytes(os.path.join(source, dotenv.FILE_NAME))
    if text is not None:
        write_atomic(target, text, mode=0o600)


def fit(home: str, scope: str, api: dict[str, Any], key: str, around: str | None) -> bool:
    """Prepare the copy *home* for a canary.

    :param scope: directory of the agent's managed scope
    :param api: host and port of the canary's API server
    :param key: API key of the canary's API server
    :param around: enclosing home, whose logins Hermes uses when this one has none
    :returns: whether the model may depend on a login that only the real agent may renew
    :raises OpsError: a file in the copy does not parse; names the file and the line
    """
    managed_config = config.read_config(os.path.join(scope, config.FILE_NAME))
    managed_env = read_text(os.path.join(scope, dotenv.FILE_NAME)) or ""
    managed = os.path.join(home, MANAGED_NAME)
    for name in (*_REMOVED, MANAGED_NAME):
        _remove(home, name)
    path = os.path.join(home, config.FILE_NAME)
    own_config = config.read_config(path)
    if not own_config:
        # Hermes ignores the managed config.yaml when the home has none.
        write_atomic(path, "{}\n", mode=0o600)
    path = os.path.join(home, dotenv.FILE_NAME)
    write_atomic(path, _without_platforms(read_text(path) or "", path), mode=0o600)
    renewed = _take_logins(home)
    ensure_directory(managed, mode=0o700)
    imposed = merge(managed_config, settings(api, {**own_config, **managed_config}))
    # JSON is valid YAML. Values that JSON cannot express, such as dates, become text: none of our settings is one.
    write_atomic(os.path.join(managed, config.FILE_NAME), json.dumps(imposed, default=str), mode=0o600)
    path = os.path.join(managed, dotenv.FILE_NAME)
    text = _without_platforms(managed_env, path)
    write_atomic(path, dotenv.edit(text, variables(api, key, home), (), path), mode=0o600)
    if around is not None:
        renewed |= _has_login(read_json(os.path.join(around, _LOGINS[0])))
    return renewed


def look(home: str, api: dict[str, Any]) -> dict[str, Any]:
    """The state of the gateway on the copy, as plain values of limited length.

    :returns: ``pid``, ``state``, ``platforms`` (name -> ``state``, ``error_message``, ``error_code``), and once it is
        running also ``problem`` of its API server (cause, what, fix; or None) and ``version``
    """
    state = checked(look_at_state(home))
    said: dict[str, Any] = {
        "pid": state.get("pid", 0),
        "state": _word(state.get("gateway_state", "not started")),
        "platforms": {
            _word(name): {key: _word(value[key]) for key in ("state", "error_message", "error_code") if value.get(key)}
            for name, value in sorted(state.get("platforms", {}).items())[:100]
        },
    }
    if said["state"] == "running":
        answer = servers.look({"api": api})["api"]
        problem = servers.judge("its API server", Server(**api), "hermes-agent", answer)
        said["problem"] = [problem.cause, _word(problem.what), _word(problem.fix)] if problem else None
        said["version"] = servers.version_of(answer)
    return said


def _word(value: Any) -> str:
    return str(value)[:_WORD]


def settings(api: dict[str, Any], present: dict[Any, Any]) -> dict[str, Any]:
    """The settings that config.yaml of the managed scope imposes.

    :param api: host and port of the API server
    :param present: the agent's own settings. Hermes also reads settings of a platform at the top level, so platforms
        found there are switched off there, too
    """
    off = {"enabled": False}
    platforms: dict[str, Any] = dict.fromkeys(PLATFORMS, off)
    platforms["api_server"] = {"enabled": True, "extra": {"host": api["host"], "port": api["port"]}}
    return merge(
        BASE_CONFIG,
        {
            "agent": {"gateway_auto_continue_freshness": _NEVER_FRESH, "restart_drain_timeout": 0},
            "cron": {"provider": ""},
            "gateway": {"platforms": platforms, "relay_url": ""},
            "hooks_auto_accept": False,
            "kanban": {"dispatch_in_gateway": False},
            # An external memory would store the canary's chat.
            "memory": {"provider": ""},
            "multiplex_profiles": False,
            "platforms": platforms,
            **{name: off for name in PLATFORMS if isinstance(present.get(name), dict)},
        },
    )


def variables(api: dict[str, Any], key: str, home: str) -> dict[str, str]:
    """The variables that ``.env`` of the managed scope imposes: Hermes reads it last (hermes_cli/env_loader.py)."""
    return {
        **dict.fromkeys(_ENABLING_VARIABLES, ""),
        "API_SERVER_ENABLED": "true",
        "API_SERVER_HOST": api["host"],
        "API_SERVER_KEY": key,
        "API_SERVER_PORT": str(api["port"]),
        "GATEWAY_MULTIPLEX_PROFILES": "false",
        "HERMES_AUTO_CONTINUE_FRESHNESS": str(_NEVER_FRESH),
        "HERMES_ACCEPT_HOOKS": "0",
        "HERMES_DISABLE_LAZY_INSTALLS": "1",
        "HERMES_ENABLE_PROJECT_PLUGINS": "0",
        "HERMES_GATEWAY_MAX_STARTS": "0",
        "HERMES_HOME": home,
        # Loads no plugins (most platforms are plugins), no MCP servers and no shell hooks.
        "HERMES_SAFE_MODE": "1",
    }


def is_lent(name: str) -> bool:
    """Whether the canary gets the agent's variable *name*."""
    return not _PLATFORM_VARIABLE.fullmatch(name) and name not in _LEADING_AWAY


def _without_platforms(text: str, path: str) -> str:
    names = [binding.name for binding in dotenv.parse(text)]
    return dotenv.edit(text, {}, [name for name in names if not is_lent(name)], path)


def _take_logins(home: str) -> bool:
    """Remove the refresh tokens from all logins; returns whether the model may depend on one of them."""
    renewed = False
    for name in _LOGINS:
        path = os.path.join(home, name)
        store = read_json(path)
        if store is not None:
            renewed |= _has_login(store) or (name != "auth.json" and _refreshes(store))
            write_json(path, _without_refresh(store))
    return renewed


def _has_login(store: Any) -> bool:
    """Whether the active provider of an auth.json uses a login that has to be renewed."""
    if not isinstance(store, dict) or not isinstance(store.get("providers"), dict):
        return False
    return _refreshes(store["providers"].get(store.get("active_provider")))


def _refreshes(value: Any) -> bool:
    return _without_refresh(value) != value


def _without_refresh(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_refresh(below) for key, below in value.items() if key not in _REFRESH_TOKENS}
    return [_without_refresh(below) for below in value] if isinstance(value, list) else value


def _remove(home: str, name: str) -> None:
    first = os.path.join(home, name.split("/", 1)[0])
    # Never follow a copied link: it may point to the agent's own files.
    path = first if os.path.islink(first) else os.path.join(home, name)
    if os.path.isdir(path) and not os.path.islink(path):
        trees.remove(path)
    else:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
