# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Compares an agent's ``.env`` with its declared environment: we own the declared keys in it, not the file."""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..description.checks import check_value
from ..description.secrets import is_secret_setting
from ..system.errors import OpsError
from ..system.files import read_text
from ..system.plan import HIDDEN, Difference
from .dotenv import FILE_NAME, LARGEST, Binding, check_name, edit, parse, read_env
from .part import FILE_MODE, Part, mode_of, replace, wrong_mode

RECORD = "env"
# The form of the record that :func:`decide` returns.
RECORD_FORM = {"salt": str, "keys": {str: str}}


@dataclass
class EnvPlan:
    """The result of :func:`plan_env`.

    :param text: the new content; None when it does not change
    :param record: the record, for :meth:`Records.write_applied`
    :param restart: reasons to restart the gateway, one for each key that changes
    :param drift: names of keys that somebody changed since we wrote them
    :param left: names of keys that are no longer declared but stay, because somebody changed them
    :param generated: names of keys that get a new random value
    """

    differences: list[Difference] = field(default_factory=list)
    text: str | None = None
    record: dict[str, Any] = field(default_factory=dict)
    restart: list[str] = field(default_factory=list)
    drift: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    generated: list[str] = field(default_factory=list)


def fingerprint(salt: str, name: str, value: str) -> str:
    """The salted hash of a value, for the record.

    It shows whether the value changed, but neither the value nor whether it is used elsewhere.
    """
    return hmac.new(bytes.fromhex(salt), f"{name}={value}".encode("utf-8", "surrogatepass"), hashlib.sha256).hexdigest()


def drifted(path: str, record: Mapping[str, Any]) -> list[str]:
    """The names of the keys in the file at *path* that no longer hold the values in *record*.

    :raises OpsError: when the file cannot be read
    """
    known: Mapping[str, str] = record.get("keys", {})
    values = read_env(path) if known else {}
    return [
        name
        for name, mark in known.items()
        if name not in values or fingerprint(record["salt"], name, values[name]) != mark
    ]


def as_text(value: Any) -> Any:
    """A setting's value as text for the file."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, int) else value


def new_secret() -> str:
    """256 random bits as 64 hexadecimal digits (Hermes requires at least 16 characters for an API key)."""
    return secrets.token_hex(32)


def check_declared(settings: Mapping[str, Any], hidden: Mapping[str, Any], generate: Iterable[str]) -> None:
    """:raises OpsError: for the first name or value that cannot be written as declared"""
    for name in (*settings, *hidden, *generate):
        check_name(name)
    for name, value in (*settings.items(), *hidden.items()):
        check_value(name, value, name)
    for name, value in settings.items():
        if name in hidden:
            raise OpsError("is declared twice, as a setting and as a secret", where=name, fix="keep one")
        if is_secret_setting(name, value):
            raise OpsError("is a secret, by its name or its form", where=name, fix="declare it as a secret")


def names_in(home: str) -> list[str]:
    """In a worker: the names of the variables in ``<home>/.env``.

    :raises OpsError: it cannot be read
    """
    return sorted(read_env(os.path.join(home, FILE_NAME)))


def refuse_elsewhere(names: Iterable[str], elsewhere: Iterable[str], home: str) -> None:
    """:raises OpsError: ``.env`` has one of the variables that its gateway gets from a source of secrets, too"""
    doubled = sorted(set(names).intersection(elsewhere))
    if doubled:
        raise OpsError(
            f"has {', '.join(doubled)}, and so has the agent's source of secrets; Hermes would use the one here",
            where=os.path.join(home, FILE_NAME),
            fix="remove it here, or there",
        )


def plan_env(
    text: str | None,
    *,
    settings: Mapping[str, str],
    hidden: Mapping[str, str],
    generate: Iterable[str],
    record: Mapping[str, Any],
    path: str = FILE_NAME,
    make_secret: Callable[[], str] = new_secret,
) -> EnvPlan:
    """Decide how ``.env`` has to change.

    A key that is no longer declared is removed if it still holds the value that we wrote. A key that somebody changed
    since is no longer ours: it stays and is named in ``left``.

    :param text: the file's content; None when the file does not exist
    :param settings: declared values that may be shown
    :param hidden: declared values that may not be shown
    :param generate: names that get a random value when neither declared nor in the file
    :param record: the record that the last run returned
    """
    check_declared(settings, hidden, generate)
    plan = EnvPlan()
    present = {binding.name: binding for binding in parse(text or "")}
    known: Mapping[str, str] = record.get("keys", {})
    salt = record.get("salt") or secrets.token_hex(16)

    def unchanged(name: str) -> bool:
        value = present[name].value
        return value is not None and hmac.compare_digest(fingerprint(salt, name, value), known[name])

    wanted = {**settings, **hidden}
    plan.generated = [
        name for name in generate if name not in wanted and (name not in present or present[name].raw == "")
    ]
    wanted.update({name: make_secret() for name in plan.generated})
    # An existing generated value is never rotated, and it is not drift when somebody else rotates it. The old
    # fingerprint is kept: it tells later whether the value is still ours.
    keys = {name: known[name] for name in generate if name in known}
    keys.update({name: fingerprint(salt, name, value) for name, value in wanted.items()})

    change: dict[str, str] = {}
    for name, value in wanted.items():
        if name in present and present[name].value == value:
            continue
        change[name] = value
        if name in known and name not in plan.generated and not (name in present and unchanged(name)):
            plan.drift.append(name)
        plan.differences.append(_difference(name, present.get(name), value, shown=name in settings))
    leaving = [name for name in known if name not in keys and name in present]
    gone = [name for name in leaving if unchanged(name)]
    plan.left = [name for name in leaving if name not in gone]
    plan.differences += [Difference(name, HIDDEN, None) for name in gone]

    if change or gone:
        plan.text = edit(text or "", change, gone, path)
        plan.restart = [f"env: {name}" for name in (*change, *gone)]
    plan.record = {"salt": salt, "keys": keys} if keys else {}
    return plan


def _difference(name: str, present: Binding | None, value: str, *, shown: bool) -> Difference:
    if shown:
        before = None if present is None else present.raw or ""
        return Difference(name, before, value)
    if present is None:
        return Difference(name, None, HIDDEN)
    return Difference(name, HIDDEN, f"{HIDDEN}, changed")


def decide(home: str, declared: Mapping[str, Any], record: Mapping[str, Any]) -> Part:
    """Compare ``<home>/.env`` with the declaration; see :mod:`part`.

    :param declared: ``settings``, ``secrets``, ``generate`` and ``elsewhere`` of :class:`converge.Env`
    :raises OpsError: when the file is not UTF-8 text, or a value cannot be written in its syntax
    """
    path = os.path.join(home, FILE_NAME)
    text, mode = read_text(path, LARGEST), mode_of(path)
    plan = plan_env(
        text,
        settings=declared["settings"],
        hidden=declared["secrets"],
        generate=declared["generate"],
        record=record,
        path=path,
    )
    after = text if plan.text is None else plan.text
    refuse_elsewhere((binding.name for binding in parse(after or "")), declared["elsewhere"], home)
    part = Part(
        path,
        [*plan.differences, *wrong_mode(mode, FILE_MODE)],
        record=plan.record,
        restart=plan.restart,
        drift=list(plan.drift),
        left=list(plan.left),
        generated=plan.generated,
        before=text,
    )
    if part.differences:
        content = plan.text if plan.text is not None else text or ""
        part.steps.append(lambda: replace(path, text, content))
    return part
