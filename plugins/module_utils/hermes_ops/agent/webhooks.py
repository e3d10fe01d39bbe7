# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""An agent's webhook subscriptions: entries of a JSON file that a running gateway reads again when it changes.

Facts from gateway/platforms/webhook.py and hermes_cli/webhook.py of 0.18.2 and 0.19.0, the same in both except for
``script`` and ``filters``, which are new in 0.19.0.
"""

from __future__ import annotations

import copy
import json
import os
import secrets
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..description.checks import check_subscription
from ..description.hiding import shown
from ..host.records import Records
from ..system.errors import OpsError
from ..system.files import read_json, read_text
from ..system.plan import HIDDEN, Difference
from .env import fingerprint
from .part import FILE_MODE, Part, mode_of, replace, wrong_mode

FILE_NAME = "webhook_subscriptions.json"
RECORD = "webhooks"
# The form of the record that :func:`decide` returns.
RECORD_FORM = {"salt": str, "routes": {str: [str]}, "marks": {str: str}, "mtime_ns": int}
# Bytes of the largest file that is read.
LARGEST = 2**20

# Fields that every entry has, with their values when nothing is declared, as `hermes webhook subscribe` writes them.
DEFAULTS: dict[str, Any] = {
    "description": "",
    "events": [],
    "prompt": "",
    "skills": [],
    "deliver": "log",
}
# Fields that an entry holds only when they are declared.
OPTIONAL = ("deliver_only", "deliver_extra", "enabled", "script", "filters")

# The gateway compares modification times as floats of seconds. The step allows for their precision and coarse clocks.
_STEP_NS = 10_000_000
# The year 2242. For later times a float is too coarse for the step, and some file systems cannot store them.
_LATEST_NS = 2**33 * 10**9


def new_secret() -> str:
    """A random HMAC secret, in the form of `hermes webhook subscribe`."""
    return secrets.token_urlsafe(32)


def read_subscriptions(path: str) -> dict[str, dict[str, Any]]:
    """The subscriptions in *path*; ``{}`` when there is no such file.

    :raises OpsError: when the gateway could not use the file either; names the line or the entry
    """
    value = read_json(path, LARGEST)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise OpsError("is not a JSON object", where=f"{path}:1", fix="repair or remove it; it was left as it is")
    for name, entry in value.items():
        if not isinstance(entry, dict):
            raise OpsError(
                "is not a JSON object, so the gateway reads none of the subscriptions",
                where=f"{path}: {name}",
                fix="repair or remove the entry; the file was left as it is",
            )
    return value


def drifted(path: str, record: Mapping[str, Any]) -> list[str]:
    """The names of the subscriptions in *path* that no longer hold the values in *record*.

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
    """The salted hash of the *fields* of an entry, for the record; the fields may include its secret."""
    ours = {field: entry[field] for field in fields if field in entry}
    return fingerprint(salt, name, json.dumps(ours, sort_keys=True))


def check_declared(webhooks: Iterable[Mapping[str, Any]]) -> None:
    """:raises OpsError: for the first subscription that Hermes would not accept"""
    seen = set()
    for webhook in webhooks:
        name = webhook["name"]
        check_subscription(webhook, f"webhook {name}")
        if name in seen:
            raise OpsError("is declared twice", where=f"webhook {name}", fix="keep one")
        seen.add(name)


@dataclass
class WebhookPlan:
    """The result of :func:`plan_webhooks`.

    :param entries: the content that the file must have
    :param routes: the declared fields of each subscription, for the record
    :param generated: names of subscriptions that get a new secret
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

    We own the declared fields of an entry, and those that were declared in the last run, which return to Hermes'
    defaults. ``created_at``, the secret and unknown fields stay. A subscription that is no longer declared is removed,
    even if it was changed by hand: it must not stay callable because we once made it.

    :param entries: the present content of the file
    :param webhooks: declared subscriptions; a field that is None is not declared
    :param record: the record of the last run
    :param purge: remove every subscription that is not declared, whoever made it
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


def decide(home: str, declared: Mapping[str, Any], record: Mapping[str, Any]) -> Part:
    """Compare the subscriptions in *home* with the declaration; see :mod:`part`.

    A running gateway reads the file again at its next request.

    :param declared: ``webhooks`` and ``purge`` of :class:`converge.Webhooks`
    :raises OpsError: when Hermes could not use the file, or would not accept a declared subscription
    """
    path = os.path.join(home, FILE_NAME)
    text = read_text(path, LARGEST)
    entries = read_subscriptions(path)
    mode, written = mode_of(path), os.stat(path).st_mtime_ns if text is not None else 0
    if written > _LATEST_NS:
        raise OpsError(
            "has a modification time so far in the future that the gateway would not notice a change",
            where=path,
            fix="touch it, and restart the gateway",
        )
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    plan = plan_webhooks(entries, declared["webhooks"], record, purge=declared["purge"], now=now)
    part = Part(path, [*plan.differences, *wrong_mode(mode, FILE_MODE)], generated=plan.generated, before=text)
    newest = record.get("mtime_ns", 0)
    if text is not None and written < newest:
        # The file was restored with its old time, so the gateway would not read it again.
        part.differences.append(Difference("modification time", "older than what the gateway has read", "newer"))
    salt = record.get("salt") or secrets.token_hex(16)
    marks = {name: _mark(salt, name, plan.entries[name], fields) for name, fields in plan.routes.items()}
    if plan.routes or newest:
        part.record = {"salt": salt, "routes": plan.routes, "marks": marks, "mtime_ns": newest}
    if part.differences:
        floor = max(newest, written)
        part.steps.append(lambda: part.record.update(mtime_ns=_write(path, text, plan.entries, floor)))
    return part


def forget_time(records: Records) -> None:
    """Forget the recorded modification time, because the gateway is about to start and will read any file."""
    record = records.applied(RECORD)
    if record.get("mtime_ns"):
        records.write_applied(RECORD, {**record, "mtime_ns": 0})


def _write(path: str, before: str | None, entries: Mapping[str, Any], floor: int) -> int:
    """Write *entries*, with a modification time later than *floor* (nanoseconds); return that time."""
    text = json.dumps(entries, indent=2, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:
        # A lone surrogate, which JSON can express as an escape and UTF-8 cannot.
        text = json.dumps(entries, indent=2)
    replace(path, before, text)
    status = os.stat(path)
    if status.st_mtime_ns >= floor + _STEP_NS:
        return status.st_mtime_ns
    os.utime(path, ns=(status.st_atime_ns, floor + _STEP_NS))
    return floor + _STEP_NS
