# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Updates of tenants that run, in a real API server: canaries and batches, what stops them, the way back, and runs that
are killed on the way."""

from __future__ import annotations

import base64
import itertools
import json
from collections.abc import Iterator
from typing import Any

import pytest
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.errors import OpsError
from ansible_collections.alwayson.hermes.plugins.module_utils.tenants.cluster import Cluster, Unreachable
from player import Player
from space import TEMPLATE, Space

OLD, NEW, BAD, WORSE = (f"registry.example.com/hermes-agent:{tag}" for tag in ("1", "2", "bad-registry", "bad-name"))
# Seconds as the player counts them.
WAIT = 600
FORMER = "alwayson.hermes/former"


@pytest.fixture
def applied(player: Player, monkeypatch: pytest.MonkeyPatch) -> None:
    """The player's events have what is applied among them."""
    apply = Cluster.apply

    def record(self: Cluster, wanted: dict[str, Any], *, check: bool) -> None:
        if wanted["kind"] == "StatefulSet" and not check:
            image = wanted["spec"]["template"]["spec"]["containers"][0]["image"]
            player.events.append(("applied", wanted["metadata"]["name"].removeprefix("hermes-"), image))
        apply(self, wanted, check=check)

    monkeypatch.setattr(Cluster, "apply", record)


def tenants(count: int, **differs: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"name": f"t{number}", **differs.get(f"t{number}", {})} for number in range(count)]


def update(space: Space, declared: list[dict[str, Any]], image: str = NEW, *, batch: int = 2, **more: Any):
    """Another image, and with it another secret."""
    agent = {**TEMPLATE["agent"], "secrets": {"MODEL_API_KEY": f"sk-for-{image}"}}
    rest = {"batch": batch, "canaries": tuple(more.pop("canaries", ()))}
    return space.converge(*declared, template={"image": image, "agent": agent}, declared=rest, wait=WAIT, **more)


def runs(space: Space, tenant: str) -> tuple[str, str]:
    """The image of the tenant's pod, and the key of the model that it can read."""
    pod = space.server.ask("GET", f"/api/v1/namespaces/{space.namespace}/pods/hermes-{tenant}-0")
    assert pod["status"]["conditions"][0]["status"] == "True"
    (secret,) = space.secrets(tenant)
    (name,) = {each["secret"]["secretName"] for each in pod["spec"]["volumes"] if "secret" in each}
    assert secret["metadata"]["name"] == name
    assert FORMER not in space.get("StatefulSet", tenant)["metadata"]["annotations"]
    return pod["spec"]["containers"][0]["image"], base64.b64decode(secret["data"]["MODEL_API_KEY"]).decode()


def of(image: str) -> tuple[str, str]:
    return image, f"sk-for-{image}"


def check_order(events: list[tuple[str, str, str]], *expected: set[str]) -> None:
    """The batches were *expected*, and none was begun before the one before it was ready."""
    order = [tenant for word, tenant, _image in events if word == "applied"]
    begun = 0
    for batch in expected:
        assert set(order[begun : begun + len(batch)]) == batch
        begun += len(batch)
    assert len(order) == begun
    for former, later in itertools.pairwise(expected):
        ready = max(events.index(("ready", tenant, NEW)) for tenant in former)
        assert ready < min(events.index(("applied", tenant, NEW)) for tenant in later)


def test_canaries_come_first_then_batches_and_who_has_an_image_of_its_own_stays(space, player, applied):
    declared = tenants(7, t6={"image": OLD, "agent": {"secrets": {"MODEL_API_KEY": "sk-own"}}})
    made = update(space, declared, OLD)
    assert (set(made.words.values()), made.errors) == ({"created"}, {})
    # All are made at once.
    assert {word for word, *_rest in player.events[:2]} == {"applied"}
    player.events.clear()

    before = space.versions()
    checked = update(space, declared, canaries=["t4", "t2", "t6"], check=True)
    assert (space.written(before), checked.changed) == (set(), True)
    assert checked.words == {**{f"t{number}": "changed" for number in range(6)}, "t6": "unchanged"}

    done = update(space, declared, canaries=["t4", "t2", "t6"])
    assert (done.words, done.errors) == (checked.words, {})
    check_order(player.events, {"t2", "t4"}, {"t0", "t1"}, {"t3", "t5"})
    assert {runs(space, f"t{number}") for number in range(6)} == {of(NEW)}
    assert runs(space, "t6") == (OLD, "sk-own")
    before = space.versions()
    again = update(space, declared)
    assert (again.changed, space.written(before)) == (False, set())


def test_without_canaries_the_first_of_those_that_change_is_one(space, player, applied):
    update(space, tenants(5), OLD)
    player.events.clear()
    update(space, tenants(5, t0={"image": OLD, "agent": {"secrets": {"MODEL_API_KEY": f"sk-for-{OLD}"}}}), batch=3)
    check_order(player.events, {"t1"}, {"t2", "t3", "t4"})


def test_a_canary_that_does_not_get_ready_goes_back_and_no_other_is_tried(space, player, applied):
    update(space, tenants(4), OLD)
    player.events.clear()
    failed = update(space, tenants(4), BAD)
    assert failed.words == {"t0": "rolled back", **{f"t{number}": "not tried" for number in (1, 2, 3)}}
    assert failed.changed
    (error,) = failed.errors.values()
    assert "hermes-t0-0: is not ready after 600 s: ImagePullBackOff: it is bad; it was rolled back" in str(error)
    assert "not tried: 3" in str(error)
    assert [event for event in player.events if event[0] != "bad"] == [
        ("applied", "t0", BAD),
        ("applied", "t0", OLD),
        ("ready", "t0", OLD),
    ]
    assert {runs(space, f"t{number}") for number in range(4)} == {of(OLD)}
    # It is as it was declared before.
    before = space.versions()
    assert not update(space, tenants(4), OLD).changed
    assert space.written(before) == set()
    # The same is tried again, and another one is what it takes.
    assert update(space, tenants(4), BAD).words == failed.words
    assert update(space, tenants(4)).errors == {}
    assert {runs(space, f"t{number}") for number in range(4)} == {of(NEW)}


def test_of_a_batch_only_those_go_back_that_are_not_ready(space, player):
    update(space, tenants(6), OLD)
    failed = update(space, tenants(6, t2={"image": BAD}))
    assert failed.words == {
        **{"t0": "changed", "t1": "changed", "t2": "rolled back"},
        **{f"t{number}": "not tried" for number in (3, 4, 5)},
    }
    assert list(failed.errors) == ["t2"]
    assert [runs(space, f"t{number}") for number in range(6)] == [of(NEW), of(NEW), *[of(OLD)] * 4]


@pytest.mark.parametrize(
    ("image", "why"),
    [(WORSE, "InvalidImageName: it is bad"), ("hermes-agent:bad-description", "its description or a secret is wrong")],
    ids=["name", "description"],
)
def test_what_cannot_heal_is_told_early(space, player, image, why):
    update(space, tenants(2), OLD)
    player.jumps = False
    begun = player.now
    failed = update(space, tenants(2), image)
    assert player.now - begun < WAIT
    assert f"is not ready: {why}; it was rolled back" in str(failed.errors["t0"])
    assert runs(space, "t0") == of(OLD)


def test_those_that_were_not_ready_before_stop_nothing_and_are_named(space, player, applied):
    made = update(space, tenants(5, t0={"image": BAD}, t3={"image": BAD}), OLD)
    assert list(made.errors) == ["t0", "t3"]
    player.events.clear()
    done = update(space, tenants(5, t0={"image": WORSE}))
    assert list(done.errors) == ["t0"]
    assert "rolled back" not in str(done.errors["t0"])
    assert done.words == {f"t{number}": "changed" for number in range(5)}
    check_order([event for event in player.events if event[1] in ("t1", "t2", "t4")], {"t1"}, {"t2", "t4"})
    order = [tenant for word, tenant, _image in player.events if word == "applied"]
    assert set(order[3:]) == {"t0", "t3"}
    assert {runs(space, f"t{number}") for number in range(1, 5)} == {of(NEW)}


def test_a_tenant_that_is_refused_stops_no_other(space, player):
    update(space, tenants(3), OLD)
    done = update(space, tenants(3, t0={"node_selector": {"no label": "x"}}))
    assert list(done.errors) == ["t0"]
    assert "is refused" in str(done.errors["t0"])
    assert [runs(space, name) for name in ("t1", "t2")] == [of(NEW)] * 2
    assert update(space, tenants(3)).errors == {}
    assert runs(space, "t0") == of(NEW)


def test_if_the_canary_is_refused_the_next_one_is_the_canary(space, player):
    update(space, tenants(4), OLD)
    done = update(space, tenants(4, t0={"node_selector": {"no label": "x"}}), BAD)
    assert "is refused" in str(done.errors["t0"])
    assert done.words == {"t1": "rolled back", "t2": "not tried", "t3": "not tried"}
    assert {runs(space, f"t{number}") for number in range(1, 4)} == {of(OLD)}


def test_a_cluster_that_goes_away_ends_an_update_and_the_next_run_goes_on(space, player, monkeypatch):
    update(space, tenants(3), OLD)
    listed = Cluster.all

    def away(self: Cluster, api: str, kind: str, selector: str = "") -> dict[str, dict[str, Any]]:
        if kind == "Pod":
            raise Unreachable("does not answer", where="the API server")
        return listed(self, api, kind, selector)

    with monkeypatch.context() as patch:
        patch.setattr(Cluster, "all", away)
        outcome = update(space, tenants(3))
    assert list(outcome.errors) == ["t0"]
    assert isinstance(outcome.errors["t0"], Unreachable)
    assert (outcome.words, outcome.changed) == ({"t0": "changed", "t1": "not tried", "t2": "not tried"}, True)
    ended = update(space, tenants(3))
    assert (ended.errors, ended.changed) == ({}, True)
    assert {runs(space, f"t{number}") for number in range(3)} == {of(NEW)}


def test_one_that_cannot_go_back_is_told_why(space, player, monkeypatch):
    update(space, tenants(2), OLD)
    apply = Cluster.apply

    def refuse(self: Cluster, wanted: dict[str, Any], *, check: bool) -> None:
        if FORMER in wanted["metadata"].get("annotations", {}) and OLD in json.dumps(wanted["spec"]):
            raise OpsError("is refused: by a test", where="StatefulSet hermes-t0")
        apply(self, wanted, check=check)

    with monkeypatch.context() as patch:
        patch.setattr(Cluster, "apply", refuse)
        failed = update(space, tenants(2), BAD)
    assert "it could not be rolled back: StatefulSet hermes-t0: is refused: by a test" in str(failed.errors["t0"])
    assert failed.words == {"t0": "changed", "t1": "not tried"}
    # It still says what it ran.
    assert update(space, tenants(2), BAD).words == {"t0": "rolled back", "t1": "not tried"}
    assert runs(space, "t0") == of(OLD)


class Killed(BaseException):
    pass


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize(("image", "expected"), [(NEW, NEW), (BAD, OLD)], ids=["good", "bad"])
def test_a_run_that_is_killed_is_ended_by_the_next(space, player, monkeypatch, image, expected, after):
    """At each write, before or after it is done."""
    calls = {name: getattr(Cluster, name) for name in ("apply", "annotate", "delete")}
    for number in itertools.count():
        update(space, tenants(2), OLD)
        assert [runs(space, name) for name in ("t0", "t1")] == [of(OLD)] * 2
        left = iter(range(number))

        def call(name: str, *words: Any, left: Iterator[int] = left, **more: Any) -> None:
            kills = next(left, None) is None
            if after or not kills:
                calls[name](*words, **more)
            if kills:
                raise Killed

        with monkeypatch.context() as patch:
            for name in calls:
                patch.setattr(Cluster, name, lambda *words, name=name, **more: call(name, *words, **more))
            try:
                update(space, tenants(2), image)
                break
            except Killed:
                pass
        ended = update(space, tenants(2), image)
        assert [runs(space, name) for name in ("t0", "t1")] == [of(expected)] * 2
        assert list(ended.errors) == (["t0"] if image == BAD else [])
    assert number > 5


def test_who_is_killed_while_it_waits_goes_on_with_those_that_are_not_ready(space, player, applied, monkeypatch):
    update(space, tenants(4), OLD)
    player.events.clear()

    def sleep(_seconds: float) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(player, "sleep", sleep)
        with pytest.raises(Killed):
            update(space, tenants(4), BAD)
    note = json.loads(space.get("StatefulSet", "t0")["metadata"]["annotations"][FORMER])
    assert "sk-for" not in json.dumps(note)
    # It differs in nothing, and is not ready: it goes back, and no other is tried.
    failed = update(space, tenants(4), BAD)
    assert failed.words == {"t0": "rolled back", **{f"t{number}": "not tried" for number in (1, 2, 3)}}
    assert [tenant for word, tenant, _image in player.events if word == "applied"] == ["t0", "t0"]
    assert runs(space, "t0") == of(OLD)
