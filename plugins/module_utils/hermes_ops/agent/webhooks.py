# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A profile's webhook subscriptions: entries of a JSON file that the running gateway reads again by itself.

Facts from gateway/platforms/webhook.py and hermes_cli/webhook.py of 0.18.2 and 0.19.0, the same in both save for
``script`` and ``filters``, which 0.19.0 brought.
"""

from __future__ import annotations

import copy
import json
import os
import secrets
import stat
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..description.declaration import check_subscription
from ..host.records import Records
from ..system.errors import OpsError
from ..system.files import Owner, acting_as, read_json, write_atomic
from ..system.plan import HIDDEN, Difference, Plan
from .config import shown
from .dotenv import fingerprint

FILE_NAME = "webhook_subscriptions.json"
MODE = 0o600
RECORD = "webhooks"

# What an entry has to hold, and what it holds when nothing is declared, as `hermes webhook subscribe` writes it.
DEFAULTS: dict[str, Any] = {
    "description": "",
    "events": [],
    "prompt": "",
    "skills": [],
    "deliver": "log",
}
# Fields that an entry holds only when they are declared.
OPTIONAL = ("deliver_only", "deliver_extra", "enabled", "script", "filters")

# The gateway compares modification times as floats of seconds: leave room for their precision and coarse clocks.
_STEP_NS = 10_000_000


def new_secret() -> str:
    """An HMAC secret as `hermes webhook subscribe` makes it."""
    return secrets.token_urlsafe(32)


def read_subscriptions(path: str) -> dict[str, dict[str, Any]]:
    """The subscriptions in *path*; ``{}`` when there is no such file.

    :raises OpsError: when the gateway could not use the file either; says the line or the entry
    """
    value = read_json(path)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise OpsError("is no JSON object", where=f"{path}:1", fix="repair or remove it; it was left as it is")
    for name, entry in value.items():
        if not isinstance(entry, dict):
            raise OpsError(
                "is no JSON object, so that the gateway reads none of the subscriptions",
                where=f"{path}: {name}",
                fix="repair or remove the entry; the file was left as it is",
            )
    return value


def drifted(path: str, record: Mapping[str, Any]) -> list[str]:
    """Which subscriptions in *path* no longer hold what *record* says we wrote; names only.

    :raises OpsError: when the gateway could not use the file either
    """
    marks: Mapping[str, str] = record.get("marks", {})
    entries = read_subscriptions(path) if marks else {}
    return [
        name
        for name, mark in marks.items()
        if _mark(record["salt"], name, entries.get(name, {}), record["routes"][name]) != mark
    ]


def _mark(salt: str, name: str, entry: Mapping[str, Any], fields: Iterable[str]) -> str:
    """What we remember of the *fields* of an entry, its secret perhaps among them."""
    ours = {field: entry[field] for field in fields if field in entry}
    return fingerprint(salt, name, json.dumps(ours, sort_keys=True))


def check_declared(webhooks: Iterable[Mapping[str, Any]]) -> None:
    """:raises OpsError: for the first subscription that Hermes would not take"""
    seen = set()
    for webhook in webhooks:
        name = webhook["name"]
        check_subscription(webhook, f"webhook {name}")
        if name in seen:
            raise OpsError("is declared twice", where=f"webhook {name}", fix="keep one")
        seen.add(name)


@dataclass
class WebhookPlan:
    """What :func:`plan_webhooks` decides.

    :param entries: what the file has to hold
    :param routes: the fields we wrote, by name, to remember
    :param generated: names that get a new secret
    """

    entries: dict[str, dict[str, Any]]
    differences: list[Difference] = field(default_factory=list)
    routes: dict[str, list[str]] = field(default_factory=dict)
    generated: list[str] = field(default_factory=list)


def plan_webhooks(
    entries: Mapping[str, Mapping[str, Any]],
    webhooks: Iterable[Mapping[str, Any]],
    record: Mapping[str, Any],
    *,
    purge: bool,
    now: str,
    make_secret: Callable[[], str] = new_secret,
) -> WebhookPlan:
    """Decide how the subscriptions have to change.

    Of an entry only the declared fields are ours, and those that were declared the last time: these go back to
    Hermes' default. ``created_at``, the secret and fields that we do not know stay. A subscription that left the
    declaration goes, changed by hand or not: what is not declared must not be callable because of us.

    :param entries: what the file holds
    :param webhooks: declared subscriptions; a field that is None is not declared
    :param record: what was remembered the last time
    :param purge: remove what is not declared, whoever made it
    :param now: ``created_at`` of new entries
    """
    webhooks = list(webhooks)
    check_declared(webhooks)
    known: Mapping[str, list[str]] = record.get("routes", {})
    plan = WebhookPlan({name: copy.deepcopy(dict(entry)) for name, entry in entries.items()})
    wanted = {webhook["name"]: webhook for webhook in webhooks if webhook.get("state") != "absent"}
    unwanted = {webhook["name"] for webhook in webhooks} - wanted.keys()
    for name in list(plan.entries):
        if name not in wanted and (purge or name in known or name in unwanted):
            plan.differences.append(Difference(name, _shown(plan.entries.pop(name)), None))
    for name, webhook in wanted.items():
        declared = {
            key: value
            for key, value in webhook.items()
            if value is not None and (key in DEFAULTS or key in OPTIONAL or key == "secret")
        }
        plan.routes[name] = sorted(declared)
        old = plan.entries.get(name)
        entry = _entry(old or {}, declared, known.get(name, []))
        if not entry.get("secret"):
            entry["secret"] = make_secret()
            plan.generated.append(name)
        entry.setdefault("created_at", now)
        if entry == old:
            continue
        plan.entries[name] = entry
        plan.differences.extend(_differences(name, old, entry))
    return plan


def _entry(old: Mapping[str, Any], declared: Mapping[str, Any], known: Iterable[str]) -> dict[str, Any]:
    entry = copy.deepcopy(dict(old))
    for key in set(known) - declared.keys():
        if key in OPTIONAL:
            entry.pop(key, None)
        elif key in DEFAULTS:
            entry[key] = copy.deepcopy(DEFAULTS[key])
    for key, value in DEFAULTS.items():
        entry.setdefault(key, copy.deepcopy(value))
    return {**entry, **copy.deepcopy(dict(declared))}


def _shown(entry: Mapping[str, Any]) -> str:
    return json.dumps(shown(("webhook",), dict(entry)), ensure_ascii=False)


def _differences(name: str, old: Mapping[str, Any] | None, new: Mapping[str, Any]) -> list[Difference]:
    if old is None:
        return [Difference(name, None, _shown(new))]
    found = []
    for key in {**old, **new}:
        if key in old and key in new and old[key] == new[key]:
            continue
        before, after = (
            json.dumps(shown((name, key), entry[key]), ensure_ascii=False) if key in entry else None
            for entry in (old, new)
        )
        found.append(Difference(f"{name}.{key}", before, f"{HIDDEN}, changed" if before == after else after))
    return found


@dataclass
class WebhookResult:
    """What :func:`converge_webhooks` did, or in check mode would do."""

    plan: Plan
    webhooks: WebhookPlan


def converge_webhooks(
    home: str,
    owner: Owner,
    records: Records,
    webhooks: Iterable[Mapping[str, Any]],
    *,
    purge: bool = False,
    check_mode: bool = False,
) -> WebhookResult:
    """Make the profile's subscriptions what is declared; a running gateway takes them at its next request.

    :raises OpsError: when the file is not what Hermes writes, or a declared subscription is not what it takes
    """
    path = os.path.join(home, FILE_NAME)
    declared = list(webhooks)

    def decide() -> WebhookResult:
        record = records.applied(RECORD)
        with acting_as(owner):
            entries = read_subscriptions(path)
            status = os.stat(path) if os.path.exists(path) else None
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        wanted = plan_webhooks(entries, declared, record, purge=purge, now=now)
        plan = Plan(list(wanted.differences))
        newest = record.get("mtime_ns", 0)
        if status is not None:
            mode = stat.S_IMODE(status.st_mode)
            if mode != MODE:
                plan.add(Difference("mode", f"{mode:04o}", f"{MODE:04o}"))
            if status.st_mtime_ns < newest:
                # Copied back from somewhere with its time: the gateway would take it for one it has seen.
                plan.add(Difference("modification time", "older than what the gateway has read", "newer"))
        salt = record.get("salt") or secrets.token_hex(16)
        marks = {name: _mark(salt, name, wanted.entries[name], fields) for name, fields in wanted.routes.items()}
        remembered: dict[str, Any] = {}
        if wanted.routes or newest:
            remembered = {"salt": salt, "routes": wanted.routes, "marks": marks, "mtime_ns": newest}
        if plan.changed:
            floor = max(newest, status.st_mtime_ns if status is not None else 0)
            plan.actions.append(lambda: records.keep(path, owner))
            plan.actions.append(lambda: remembered.update(mtime_ns=_write(path, wanted.entries, owner, floor)))
        if plan.changed or remembered != record:
            plan.actions.append(lambda: records.write_applied(RECORD, remembered))
        return WebhookResult(plan, wanted)

    result = decide()
    if check_mode or not result.plan.actions:
        return result
    records.prepare()
    with records.lock():
        # Somebody may have written between the first look and the lock.
        result = decide()
        result.plan.apply()
    return result


def forget_time(records: Records) -> None:
    """The gateway is about to begin anew: no file is older than what it has read."""
    record = records.applied(RECORD)
    if record.get("mtime_ns"):
        records.write_applied(RECORD, {**record, "mtime_ns": 0})


def _write(path: str, entries: Mapping[str, Any], owner: Owner, floor: int) -> int:
    """Write *entries* with a modification time later than *floor* nanoseconds, and return that time."""
    with acting_as(owner):
        write_atomic(path, json.dumps(entries, indent=2, ensure_ascii=False), mode=MODE)
        status = os.stat(path)
        if status.st_mtime_ns >= floor + _STEP_NS:
            return status.st_mtime_ns
        os.utime(path, ns=(status.st_atime_ns, floor + _STEP_NS))
        return floor + _STEP_NS
