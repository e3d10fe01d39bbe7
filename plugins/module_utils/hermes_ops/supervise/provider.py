# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether an agent certainly has no provider of models. Runs in a worker, as the agent's user.

Hermes looks for a provider in this order (0.18.2 and 0.19.0, hermes_cli/auth.py: resolve_provider, and
hermes_cli/runtime_provider.py): ``model.provider`` and ``model.base_url``, keys in the environment and ``.env``, logins
in ``auth.json``, credentials of AWS. Without any it answers each message with "No inference provider configured".

Each of these has more sources than can be followed from outside: plug-ins, logins of other programs, stores of secrets.
So any trace of a provider counts as one, and so does everything that cannot be read.
"""

from __future__ import annotations

import glob
import json
import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

from ..agent import config, dotenv
from ..description.schema import PROFILES_DIRECTORY
from ..description.secrets import leaves_of, names_secret
from ..system import yaml_edit
from ..system.errors import OpsError
from ..system.files import read_bytes

# Names of variables that may select a provider or give access to one, besides those of secrets.
_LEADING = re.compile(r"AWS_\w+|GOOGLE_\w+|VERTEX_\w+|AZURE_\w+|HERMES_INFERENCE_\w+|\w+_BASE_URL")
# Secrets of other things: the agent's own servers, and platforms. And a directory that is named like a password.
_OTHER = re.compile(r"PWD|API_SERVER_KEY|\w*WEBHOOK_SECRET|\w+_(BOT|APP|USER)_TOKEN")
# Keys of config.yaml below which other providers may be declared.
_SECTIONS = ("custom_providers", "fallback_model", "fallback_providers", "plugins", "providers", "secrets")
# Below the user's home: logins of other programs that Hermes uses as well.
_LOGINS = (".aws", ".claude", ".codex", ".config/gcloud", ".config/github-copilot", ".gemini", ".qwen")
# Hermes' own files with logins, besides auth.json, and a directory for plug-ins, below a home.
_OWN_LOGINS = (".anthropic_oauth.json", "plugins/model-providers")
# In the pool of auth.json, fields with a credential itself.
_CREDENTIALS = frozenset({"access_token", "agent_key", "api_key", "refresh_token", "token"})
_LARGEST = 2**20
# Hermes' default managed scope (hermes_cli/managed_scope.py).
_MANAGED = "/etc/hermes"


def has_none(home: str, pid: int) -> bool:
    """Whether the gateway certainly has no provider.

    :param home: its HERMES_HOME
    :param pid: its process
    """
    if not yaml_edit.available():
        return False
    try:
        return not any(_traces(home, pid))
    except (OpsError, OSError, RecursionError, ValueError):
        return False


def _traces(home: str, pid: int) -> Iterator[bool]:
    """Whether each place in turn holds a trace of a provider, the cheapest first.

    :raises OpsError: a place cannot be read; likewise OSError, RecursionError and ValueError
    """
    environment = _environment(pid)
    managed = environment.get("HERMES_MANAGED_DIR") or _MANAGED
    user_home = environment.get("HOME") or os.path.expanduser("~")
    above, _name = os.path.split(os.path.normpath(home))
    # A profile also sees the logins of the home that it lies in.
    own = [home, *([os.path.dirname(above)] if os.path.basename(above) == PROFILES_DIRECTORY else [])]
    yield _in_variables(environment)
    for directory in (*own, managed):
        yield _in_variables(dotenv.read_env(os.path.join(directory, dotenv.FILE_NAME)))
    for directory in (home, managed):
        yield _in_config(config.read_config(os.path.join(directory, config.FILE_NAME)))
    for directory in {*own, os.path.join(user_home, ".hermes")}:
        yield _in_logins(read_bytes(os.path.join(directory, "auth.json"), _LARGEST))
        yield any(os.path.lexists(os.path.join(directory, name)) for name in _OWN_LOGINS)
    yield any(os.path.lexists(os.path.join(user_home, name)) for name in _LOGINS)
    yield _may_ask_aws(pid)


def _environment(pid: int) -> dict[str, str]:
    with open(f"/proc/{pid}/environ", "rb") as stream:
        words = stream.read(_LARGEST).decode("utf-8", "replace").split("\0")
    return dict(word.split("=", 1) for word in words if "=" in word)


def _in_variables(variables: Mapping[str, str]) -> bool:
    names = [name for name, value in variables.items() if value]
    return any(_LEADING.fullmatch(name) or (names_secret(name) and not _OTHER.fullmatch(name)) for name in names)


def _in_config(tree: Mapping[Any, Any]) -> bool:
    model = tree.get("model")
    named = model.get("provider") if isinstance(model, dict) else None
    if any(tree.get(name) for name in _SECTIONS) or (named and named != "auto"):
        return True
    # A path may hold any key of the file.
    return any(value and path[-1] in ("api_key", "base_url") for path, value, _before in leaves_of(tree) if path)


def _in_logins(content: bytes | None) -> bool:
    store = json.loads(content) if content else {}
    if not isinstance(store, dict) or any(store.get(key) for key in ("active_provider", "providers", "systems")):
        return True
    pool = store.get("credential_pool") or {}
    lists = list(pool.values()) if isinstance(pool, dict) else [pool]
    return any(not isinstance(entries, list) or not all(map(_is_left, entries)) for entries in lists)


def _is_left(entry: Any) -> bool:
    """Whether an entry of the pool is only what remains of a variable: Hermes notes each one that it has seen."""
    if not isinstance(entry, dict) or _CREDENTIALS & entry.keys():
        return False
    return str(entry.get("source")).startswith("env:")


def _may_ask_aws(pid: int) -> bool:
    """Whether the gateway's release can ask the cloud for credentials, which nobody else sees."""
    with open(f"/proc/{pid}/cmdline", "rb") as stream:
        python = stream.read(4096).split(b"\0")[0].decode("utf-8", "replace")
    release = os.path.dirname(os.path.dirname(python))
    if not os.path.exists(os.path.join(release, "pyvenv.cfg")):
        return True
    return bool(glob.glob(f"{glob.escape(release)}/lib/python*/site-packages/botocore"))
