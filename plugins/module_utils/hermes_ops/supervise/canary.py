# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A release tried on a copy of a home, where it can do no harm.

The canary is a gateway of its own, in a transient unit of the system's manager. It sees nothing of the agent but the
copy, and of what a gateway does it only does two things: it serves the API, on a free port of the loopback address,
and it answers a chat. Messaging platforms, webhooks, cron, kanban, hooks, plugins and MCP servers are off. That is
said three times over: the copy has neither tokens nor jobs any more (:func:`prepare`); a managed scope, which in Hermes
wins over every other source of settings, switches them off; and a canary whose own state file names another platform
is ended at once.

Sources: Hermes 0.18.2 and 0.19.0, gateway/config.py (what enables a platform), hermes_cli/env_loader.py (the order of
the sources), hermes_cli/managed_scope.py, gateway/run.py (what is started beside the platforms), cron/jobs.py.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import time
from typing import Any

from ..agent import config, dotenv, env
from ..agent.state import read_state
from ..description.declaration import BASE_CONFIG, merge
from ..host.installation import Installation
from ..system.errors import OpsError
from ..system.files import (
    Owner,
    acting_as,
    ensure_directory,
    read_bytes,
    read_json,
    read_text,
    remove_tree,
    write_atomic,
    write_json,
)
from ..system.process import run
from ..system.systemd import COMMAND_TIMEOUT, Manager, Unit, check_path
from . import health, units
from .health import Problem

UNIT = "hermes-canary.service"
# How long it has to stay the same process. Hermes' own periodic work begins at once and comes again after 30 s (the
# heartbeat of its loop) and 60 s (cron, housekeeping): what does not die of its start dies of its first round, and a
# death within 20 s has been seen in the wild.
STABLE_SECONDS = 30.0
# What a stop may take: nothing is to be drained.
STOP_SECONDS = units.STOP_MARGIN
# Where Hermes looks for a managed scope that nobody named (hermes_cli/managed_scope.py).
DEFAULT_MANAGED_DIR = "/etc/hermes"
# Work that was interrupted less than so many seconds ago a gateway takes up again at its start (gateway/run.py); with 0
# it always would. The agent itself is still at it.
_NEVER_FRESH = 0.001
# Ours, in the copy.
MANAGED_NAME = ".canary"
LOOPBACK = "127.0.0.1"

# Every platform but the API server: gateway/config.py (Platform) and plugins/platforms of 0.19.0, 0.18.2 has no other.
PLATFORMS = (
    "bluebubbles", "dingtalk", "discord", "email", "feishu", "google_chat", "homeassistant", "irc", "line", "matrix",
    "mattermost", "msgraph_webhook", "ntfy", "photon", "qqbot", "raft", "relay", "signal", "simplex", "slack", "sms",
    "teams", "telegram", "webhook", "wecom", "wecom_callback", "weixin", "whatsapp", "whatsapp_cloud", "yuanbao",
)  # fmt: skip
# Whose variables in .env are those of a platform.
_PLATFORM_VARIABLE = re.compile(
    "(" + "|".join([*(name.upper() for name in PLATFORMS), "GATEWAY_RELAY", "HASS", "MSGRAPH", "QQ", "TWILIO"]) + ")_.+"
)
# Without these no variable enables a platform, wherever it comes from: Hermes can ask a password manager for more.
_ENABLING_VARIABLES = (
    "BLUEBUBBLES_PASSWORD", "DINGTALK_CLIENT_SECRET", "DISCORD_BOT_TOKEN", "EMAIL_PASSWORD", "FEISHU_APP_SECRET",
    "GATEWAY_RELAY_URL", "HASS_TOKEN", "MATRIX_ACCESS_TOKEN", "MATRIX_PASSWORD", "MATTERMOST_TOKEN",
    "MSGRAPH_WEBHOOK_ENABLED", "QQ_APP_ID", "QQ_CLIENT_SECRET", "SIGNAL_HTTP_URL", "SLACK_BOT_TOKEN",
    "TELEGRAM_BOT_TOKEN", "TWILIO_ACCOUNT_SID", "WEBHOOK_ENABLED", "WECOM_CALLBACK_CORP_SECRET", "WECOM_SECRET",
    "WEIXIN_ACCOUNT_ID", "WEIXIN_TOKEN", "WHATSAPP_CLOUD_ACCESS_TOKEN", "WHATSAPP_ENABLED", "YUANBAO_APP_SECRET",
)  # fmt: skip
# What would lead it away from its copy.
_LEADING_AWAY = ("HERMES_HOME", "HERMES_KANBAN_HOME", "HERMES_MANAGED_DIR")

# What a gateway acts on without being asked, or takes for its own: scheduled jobs, hooks, the process it was before,
# processes to look after, the configuration before config.yaml.
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
# Where logins lie whose refresh token works once: if the copy used it, the agent itself would be logged out.
_LOGINS = ("auth.json", ".anthropic_oauth.json")
_REFRESH_TOKENS = ("refresh_token", "refreshToken")


class CanaryFailed(OpsError):
    """The release does not work on the copy.

    :param log: the last lines of the canary's log
    """

    def __init__(self, what: str, *, where: str, fix: str, log: list[str]) -> None:
        self.log = log
        super().__init__(what, where=where, fix=fix)

    def __str__(self) -> str:
        return "\n".join([super().__str__(), *(f"  | {line}" for line in self.log)])


# The copy.


def prepare(host: Installation, profile: dict[str, Any], home: str) -> dict[str, Any]:
    """Make a copy of a profile's home fit for the canary, and describe the profile that it has become.

    :param profile: whose home it is a copy of
    :param home: the copy: the agent's own directory, below the data directory and outside of Hermes' home, which
        the canary does not see
    :returns: the description, in the form of *profile*; ``health.reply`` says whether it can answer a chat: with a
        login that only the real agent may renew it cannot
    :raises OpsError: when a file of it does not parse; says which, and the line
    """
    check_path(home, "the canary's home")
    # Below a directory "profiles" Hermes takes it for a profile of another home (hermes_constants.py).
    if os.path.commonpath([home, host.hermes_home]) in (home, host.hermes_home) or "profiles" in home.split(os.sep):
        raise OpsError("is no place for a copy", where=home, fix=f"take one outside of {host.hermes_home}")
    own_scope = profile["config_scope"] == "managed"
    source = profile["managed_dir"] if own_scope else DEFAULT_MANAGED_DIR
    managed_config = config.read_config(os.path.join(source, config.FILE_NAME))
    managed_env = read_text(os.path.join(source, dotenv.FILE_NAME)) or ""
    api = {"enabled": True, "host": LOOPBACK, "port": _free_port()}
    managed = os.path.join(home, MANAGED_NAME)
    with acting_as(host.owner):
        for name in (*_REMOVED, MANAGED_NAME):
            _remove(home, name)
        path = os.path.join(home, config.FILE_NAME)
        own_config = config.read_config(path)
        if not own_config:
            # Without it Hermes does not look at the managed one either.
            write_atomic(path, "{}\n", mode=0o600)
        path = os.path.join(home, dotenv.FILE_NAME)
        write_atomic(path, _without_platforms(read_text(path) or "", path), mode=0o600)
        renewed = _take_logins(home)
        ensure_directory(managed, mode=0o700)
        imposed = merge(managed_config, settings(api, {**own_config, **managed_config}))
        # JSON is YAML; what JSON has no words for (a date) is no setting of ours.
        write_atomic(os.path.join(managed, config.FILE_NAME), json.dumps(imposed, default=str), mode=0o600)
        path = os.path.join(managed, dotenv.FILE_NAME)
        text = _without_platforms(managed_env, path)
        write_atomic(path, dotenv.edit(text, variables(api, home), (), path), mode=0o600)
    if profile["name"] != "default":
        # A profile without a login of its own uses that of the default one (hermes_cli/auth.py).
        with acting_as(host.owner):
            renewed |= _has_login(read_json(os.path.join(host.hermes_home, _LOGINS[0])))
    return {
        **profile,
        "home": home,
        "unit": UNIT,
        "config_scope": "managed",
        "managed_dir": managed,
        "api": api,
        "webhook": {**profile["webhook"], "enabled": False},
        "health": {**profile["health"], "platforms": ["api_server"], "reply": not renewed, "webhook": None},
    }


def lend_env(host: Installation, profile: dict[str, Any], home: str) -> None:
    """Put ``.env`` of *profile* into a copy that comes out of a backup, which has none: the model's keys."""
    with acting_as(host.owner):
        text = read_bytes(os.path.join(profile["home"], dotenv.FILE_NAME))
        if text is not None:
            write_atomic(os.path.join(home, dotenv.FILE_NAME), text, mode=0o600)


def settings(api: dict[str, Any], present: dict[Any, Any]) -> dict[str, Any]:
    """What config.yaml of the managed scope imposes.

    :param api: host and port of the API server
    :param present: what is set otherwise: Hermes also reads a platform's settings at the top level
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
            # An external memory would learn from the copy's chat.
            "memory": {"provider": ""},
            "multiplex_profiles": False,
            "platforms": platforms,
            **{name: off for name in PLATFORMS if isinstance(present.get(name), dict)},
        },
    )


def variables(api: dict[str, Any], home: str) -> dict[str, str]:
    """What ``.env`` of the managed scope imposes: it is read last (hermes_cli/env_loader.py)."""
    return {
        **dict.fromkeys(_ENABLING_VARIABLES, ""),
        "API_SERVER_ENABLED": "true",
        "API_SERVER_HOST": api["host"],
        "API_SERVER_KEY": env.new_secret(),
        "API_SERVER_PORT": str(api["port"]),
        "GATEWAY_MULTIPLEX_PROFILES": "false",
        "HERMES_AUTO_CONTINUE_FRESHNESS": str(_NEVER_FRESH),
        "HERMES_ACCEPT_HOOKS": "0",
        "HERMES_DISABLE_LAZY_INSTALLS": "1",
        "HERMES_ENABLE_PROJECT_PLUGINS": "0",
        "HERMES_GATEWAY_MAX_STARTS": "0",
        "HERMES_HOME": home,
        # No plugins, which most platforms are, no MCP servers, no shell hooks.
        "HERMES_SAFE_MODE": "1",
    }


def _without_platforms(text: str, path: str) -> str:
    names = [binding.name for binding in dotenv.parse(text)]
    return dotenv.edit(text, {}, [n for n in names if _PLATFORM_VARIABLE.fullmatch(n) or n in _LEADING_AWAY], path)


def _take_logins(home: str) -> bool:
    """Take away what renews a login; returns whether the model may hang on it."""
    renewed = False
    for name in _LOGINS:
        path = os.path.join(home, name)
        store = read_json(path)
        if store is not None:
            renewed |= _has_login(store) or (name != "auth.json" and _refreshes(store))
            write_json(path, _without_refresh(store))
    return renewed


def _has_login(store: Any) -> bool:
    """Whether the active provider of an auth.json is one with a login."""
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
    # A copied link may lead back to the agent's own files.
    path = first if os.path.islink(first) else os.path.join(home, name)
    if os.path.isdir(path) and not os.path.islink(path):
        remove_tree(path)
    else:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)


def _free_port() -> int:
    with socket.socket() as server:
        server.bind((LOOPBACK, 0))
        return server.getsockname()[1]


# The process.


def boot(
    host: Installation,
    release: str,
    canary: dict[str, Any],
    *,
    reply: bool,
    timeout: float,
    stable: float = STABLE_SECONDS,
) -> dict[str, Any]:
    """Let *release* run on the copy: start, answer, stay, stop. One at a time on a host.

    :param release: id of a release that is installed
    :param canary: from :func:`prepare`
    :param reply: have it answer a chat as well, if it can
    :param timeout: seconds until it must be healthy; also how long another canary is waited for
    :param stable: seconds that it must stay the same, healthy process after that
    :returns: ``version`` as it says itself, ``reply`` (None when it was not asked), ``seconds`` until it was healthy
    :raises CanaryFailed: when it does not do all that; carries the last lines of its log
    """
    reply = reply and canary["health"]["reply"]
    # Whatever happens to us, it is gone after this.
    longest = timeout + health.REPLY_TIMEOUT + stable + 60
    with host.lock("canary", timeout=timeout):
        manager = Manager("system", host.owner)
        # Left over from a run that was killed.
        end(manager)
        attempt = _Attempt(host.owner, release, canary, manager)
        program = os.path.join(host.root, "releases", release, "bin", "hermes")
        try:
            run(
                [
                    *("systemd-run", "--quiet", "--collect", f"--unit={UNIT}", "--service-type=exec"),
                    *(f"--property={name}={value}" for name, value in properties(host, canary, longest, online=reply)),
                    *(program, "--profile", "default", "gateway", "run"),
                ],
                timeout=COMMAND_TIMEOUT,
            )
        except OpsError as error:
            end(manager)
            raise attempt.failed(Problem("not_started", f"does not start ({error.what})", "see its log")) from None
        try:
            answer = attempt.await_health(timeout)
            seconds = attempt.age
            said = attempt.ask() if reply else None
            attempt.stay(stable)
            attempt.stop()
        finally:
            end(manager)
        return {"version": answer.get("version"), "reply": said, "seconds": seconds}


def properties(
    host: Installation, canary: dict[str, Any], longest: float, *, online: bool
) -> list[tuple[str, str | float]]:
    """The directives of its unit: the sandbox of a gateway, closer.

    :param longest: seconds after which systemd ends it
    :param online: it has to reach a model
    """
    home, limits = canary["home"], canary["limits"]
    # Hides whatever lies there, other profiles, keys and backups included; the copy is put back into it.
    hidden = units.data_paths(host.data_dir, host.hermes_home)
    network = {} if online else {"IPAddressAllow": "localhost", "IPAddressDeny": "any"}
    return [
        *{**units.SANDBOX, **network}.items(),
        *(("TemporaryFileSystem", f"{path}:ro") for path in hidden),
        ("InaccessiblePaths", f"-{host.managed_root}"),
        ("BindReadOnlyPaths", host.root),
        ("BindPaths", home),
        ("ReadWritePaths", home),
        ("User", host.user),
        ("WorkingDirectory", home),
        ("Environment", f"HOME={home}"),
        ("Environment", f"HERMES_HOME={home}"),
        ("Environment", f"HERMES_MANAGED_DIR={canary['managed_dir']}"),
        ("Environment", "PYTHONUNBUFFERED=1"),
        ("SyslogIdentifier", UNIT),
        ("MemoryMax", limits["memory"]),
        ("TasksMax", limits["tasks"]),
        # Where memory or time is short the real gateways go first.
        ("OOMScoreAdjust", 900),
        ("Nice", 10),
        ("KillSignal", "SIGINT"),
        ("KillMode", "mixed"),
        ("TimeoutStopSec", STOP_SECONDS),
        ("RuntimeMaxSec", longest),
    ]


def end(manager: Manager) -> None:
    """End it, whatever it does; no error when there is none."""
    manager.call("kill", "--signal=KILL", UNIT, check=False)
    manager.call("stop", UNIT, check=False)
    manager.call("reset-failed", UNIT, check=False)


class _Attempt:
    """One start of the canary, from its first second to its last."""

    def __init__(self, owner: Owner, release: str, canary: dict[str, Any], manager: Manager) -> None:
        self.owner = owner
        self.release = release
        self.canary = canary
        self.manager = manager
        self.began = time.time()
        self.started = time.monotonic()

    @property
    def age(self) -> float:
        return time.monotonic() - self.started

    def failed(self, problem: Problem) -> CanaryFailed:
        """The error, with the cause that the log names in front."""
        run(["journalctl", "--sync"], timeout=COMMAND_TIMEOUT, check=False)
        lines = run(
            [
                *("journalctl", "--identifier", UNIT, f"--since=@{int(self.began)}", "--boot", "--no-pager"),
                *("--output", "cat", "--lines", str(health.JOURNAL_LINES)),
            ],
            timeout=COMMAND_TIMEOUT,
            check=False,
        ).stdout.splitlines()
        lines = [line.rstrip() for line in lines if line.strip()]
        cause = health.explain_journal(lines)
        known = f": {cause.what}" if cause and cause.cause != problem.cause else ""
        return CanaryFailed(
            f"on a copy of the home it {problem.what}{known}; the agent itself was not touched",
            where=f"release {self.release}, profile {self.canary['name']}",
            fix=cause.fix if cause else problem.fix,
            log=lines,
        )

    def await_health(self, timeout: float) -> dict[str, Any]:
        """:returns: what it answers at ``/health``"""
        while True:
            problem, answer = self._look()
            if problem is None:
                return answer
            if problem.final or self.age >= timeout:
                raise self.failed(problem)
            time.sleep(health.POLL_SECONDS)

    def ask(self) -> str:
        with acting_as(self.owner):
            key = dotenv.read_env(os.path.join(self.canary["managed_dir"], dotenv.FILE_NAME))["API_SERVER_KEY"]
        try:
            return health.ask(self.canary["api"], key, health.REPLY_PROMPT)
        except OpsError as error:
            problem, _answer = self._look()
            if problem is None or problem.cause != "ended":
                problem = Problem("no_reply", f"does not answer a chat ({error.what})", error.fix or "see its log")
            raise self.failed(problem) from None

    def stay(self, stable: float) -> None:
        """From now on: on a busy host the start alone may take longer than *stable*."""
        until = time.monotonic() + stable
        while (left := until - time.monotonic()) > 0:
            time.sleep(min(1.0, left))
            problem, _answer = self._look()
            if problem is not None:
                raise self.failed(problem)

    def stop(self) -> None:
        began = time.monotonic()
        self.manager.call("stop", UNIT, timeout=2 * STOP_SECONDS + COMMAND_TIMEOUT)
        if time.monotonic() - began >= STOP_SECONDS:
            raise self.failed(
                Problem("no_stop", f"does not stop within {STOP_SECONDS:g} s and had to be killed", "see its log")
            )

    def _look(self) -> tuple[Problem | None, dict[str, Any]]:
        unit: Unit = self.manager.units([UNIT])[UNIT]
        if not unit.running:
            return Problem("ended", f"ended by itself after {self.age:.0f} s", "see its log", True), {}
        state = read_state(self.canary["home"], self.owner)
        # Before anything else: it must not even get to try.
        others = sorted(state.get("platforms", {}).keys() - {"api_server"})
        if others:
            what = f"started {', '.join(others)} although that was switched off"
            return Problem("platform_started", what, "report it: this collection does not know the release", True), {}
        if state.get("pid") != unit.pid or state.get("gateway_state") != "running":
            said = state.get("gateway_state", "not started")
            return Problem("not_ready", f"is not ready ({said}) after {self.age:.0f} s", "see its log"), {}
        problems = health.platform_problems(state, ["api_server"])
        if problems:
            return Problem(problems[0].cause, f"is not healthy: {problems[0].what}", problems[0].fix), {}
        problem, answer = health.server_problem("its API server", self.canary["api"], "hermes-agent")
        if problem:
            return Problem(problem.cause, f"is not healthy: {problem.what}", problem.fix), {}
        return None, answer
