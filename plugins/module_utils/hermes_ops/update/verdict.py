# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Decides which release to go to, and whether an agent is worse than before. Values in, values out."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..release.decide import choose_id
from ..release.observe import Installed, Observed
from ..release.request import Request
from ..release.versions import is_version, normal, satisfies, tag_key, version_key
from ..supervise import health
from ..supervise.supervisor import State
from ..system.errors import OpsError


@dataclass(frozen=True)
class Target:
    """A release that can be built.

    :param request: of one exact release
    :param observed: the releases on the host, one of which it may be
    """

    request: Request
    observed: Observed = field(default_factory=Observed)

    @property
    def version(self) -> str:
        """The name that people use: the version, or the tag."""
        return self.request.ref or self.request.version or ""

    @property
    def id(self) -> str:
        return choose_id(self.request, self.request.version, self.observed)

    def is_older_than(self, other: Installed) -> bool:
        """Whether it is an earlier release than *other*, of the same kind (version or git tag)."""
        identity, tags = other.stamp["identity"], self.request.method == "git"
        if (identity["method"] == "git") != tags:
            return False
        if tags:
            return tag_key(self.version) < tag_key(identity["ref"])
        return version_key(self.version) < version_key(other.version)


def choose(current: Installed, target: Target, failed: dict[str, Any], asked: bool) -> tuple[str, str]:
    """Whether to go from *current* to *target*.

    :param failed: releases that are not tried again automatically
    :param asked: a person named this very version
    :returns: ``available``, ``up_to_date`` or ``held``, and a sentence
    """
    if target.id == current.id:
        return "up_to_date", f"{target.id} is the newest, and current"
    if target.is_older_than(current):
        return "up_to_date", f"{current.id} is current, and newer than {target.version}, the newest that is offered"
    if target.id in failed and not asked:
        known = failed[target.id]
        return "held", f"{target.id} is not tried again until there is a newer one: {known['reason']} ({known['when']})"
    return "available", f"{target.id} can replace {current.id}"


def narrowed(request: Request, version: str) -> Request:
    """*request*, narrowed to *version* in its range, or to the tag *version* in its channel.

    :raises OpsError: *version* is not within it
    """
    if request.method == "git":
        if request.is_offered(version):
            return dataclasses.replace(request, channel=version)
    elif is_version(version) and satisfies(version, request.version or ""):
        return dataclasses.replace(request, version=version)
    raise OpsError(
        f"{version} is not within {request.channel or request.version}",
        where="--version",
        fix="name one that is, or declare another range",
    )


def choose_rollback(observed: Observed, failed: dict[str, Any], to: str | None) -> Installed:
    """The release to go back to: the one that *to* names, by id or version, or the one that was used last.

    :raises OpsError: there is none
    """
    there = [r for r in observed.releases if r.intact and r.id != observed.current]
    if to is not None:
        there = [release for release in there if is_called(release, to)]
    else:
        there = [release for release in there if release.id not in failed]
    if not there:
        known = ", ".join(release.id for release in observed.releases if release.id != observed.current) or "none"
        raise OpsError(
            f"there is no release {to} to go back to" if to else "there is no release to go back to",
            fix=f"other releases on this host: {known}; hermes-ops rollback --to ID",
        )
    return max(there, key=lambda release: release.used)


def is_called(release: Installed, name: str) -> bool:
    """Whether *name* is the id or the version of *release*."""
    return name == release.id or normal(name) == normal(release.version)


def to_start(stopped: list[str], states: Mapping[str, State], *, respect: bool) -> list[str]:
    """Which gateways have to run after an undo.

    :param stopped: agents whose gateways were stopped for the update
    :param states: by agent how its gateway is now
    :param respect: the gateways were started again since. Then an inactive one was stopped by a person, and stays
        stopped, because the supervisor restarts any gateway that ends on its own
    """
    ours = [name for name in stopped if name in states and not (respect and states[name].stopped)]
    others = [name for name, state in states.items() if name not in ours and not state.ended]
    return ours + others


def worse(before: dict[str, list[str]], result: health.Health) -> list[health.Problem]:
    """The problems that a gateway did not have before."""
    return [problem for problem in result.problems if problem.cause not in before.get(result.agent, [])]
