# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Updates that ask the agents of tenants, in a real API server: before and after, who is blamed, and who cannot be
asked. What the agents answer is played; test_nodes.py has real ones."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.errors import OpsError
from ansible_collections.alwayson.hermes.plugins.module_utils.tenants import lease, verify
from ansible_collections.alwayson.hermes.plugins.module_utils.tenants.cluster import Cluster, NotAllowed
from ansible_collections.alwayson.hermes.plugins.module_utils.tenants.verify import Look
from played_node import PlayedNode, put
from player import Player
from space import Space
from test_rollout import BAD, FORMER, NEW, OLD, Killed, of, runs, tenants, update

MUTE, MID = "registry.example.com/hermes-agent:mute", "registry.example.com/hermes-agent:3"


@dataclass
class Agents:
    """How the agents of tenants answer.

    :param ill: tenants that have not replied for long
    :param meanwhile: is called with the name of each tenant that is asked, and the causes it had before
    """

    space: Space
    player: Player
    ill: set[str] = field(default_factory=set)
    meanwhile: Callable[[str, Sequence[str] | None], object] = lambda *_: None

    def look(self, _cluster: Cluster, tenant: Any, before: Sequence[str] | None = None) -> Look:
        self.player.events.append(("asked", tenant.name, "before" if before is None else f"after {[*before]}"))
        self.meanwhile(tenant.name, before)
        pod = self.space.server.ask("GET", f"/api/v1/namespaces/{self.space.namespace}/pods/{tenant.object}-0")
        mute = tenant.name in self.ill or "mute" in pod["spec"]["containers"][0]["image"]
        causes = ("no_reply",) if mute else ()
        return Look(causes, "it does not reply" if mute and "no_reply" not in (before or ()) else None)


@pytest.fixture
def agents(space: Space, player: Player, monkeypatch: pytest.MonkeyPatch) -> Agents:
    agents = Agents(space, player)
    monkeypatch.setattr(verify, "look", agents.look)
    return agents


def asked(agents: Agents) -> list[tuple[str, str]]:
    return [(tenant, when) for word, tenant, when in agents.player.events if word == "asked"]


def former(space: Space, tenant: str) -> dict[str, Any]:
    return json.loads(space.get("StatefulSet", tenant)["metadata"]["annotations"][FORMER])


def test_each_is_asked_before_its_turn_and_when_it_is_ready(space, agents):
    # New ones are not.
    update(space, tenants(3), OLD, reply=True)
    assert asked(agents) == []
    done = update(space, tenants(3), reply=True)
    assert (done.errors, done.warnings) == ({}, [])
    events = agents.player.events
    for first, then in (("t0", "t1"), ("t0", "t2")):
        assert events.index(("ready", first, NEW)) < events.index(("asked", first, "after []"))
        assert events.index(("asked", first, "after []")) < events.index(("asked", then, "before"))
        assert events.index(("asked", then, "before")) < events.index(("ready", then, NEW))
    assert len(asked(agents)) == 6
    # Without a change, and without the question, nobody is.
    update(space, tenants(3), reply=True)
    update(space, tenants(3), OLD)
    assert len(asked(agents)) == 6


def test_those_that_do_not_reply_any_more_go_back_and_no_other_is_tried(space, agents):
    update(space, tenants(5), OLD)
    failed = update(space, tenants(5, t1={"image": MUTE}), reply=True)
    assert failed.words == {
        **{"t0": "changed", "t1": "rolled back", "t2": "changed"},
        **dict.fromkeys(("t3", "t4"), "not tried"),
    }
    (error,) = failed.errors.values()
    assert "hermes-t1-0: is ready, and not as well as before: it does not reply; it was rolled back" in str(error)
    assert [runs(space, f"t{number}")[0] for number in range(5)] == [NEW, OLD, NEW, OLD, OLD]


def test_those_that_did_not_reply_before_are_not_blamed(space, agents):
    update(space, tenants(2), OLD)
    agents.ill = {"t0"}
    done = update(space, tenants(2), reply=True)
    assert (done.errors, done.warnings) == ({}, [])
    assert ("t0", "after ['no_reply']") in asked(agents)
    assert {runs(space, name) for name in ("t0", "t1")} == {of(NEW)}


def test_those_that_cannot_be_asked_before_are_told_and_need_only_be_ready(space, agents):
    update(space, tenants(4), OLD)

    def refuse(name: str, _before: Any) -> None:
        if name != "t3":
            raise OpsError("cannot be asked how it is: status 2: invalid choice: 'verify'", where=f"hermes-{name}-0")

    agents.meanwhile = refuse
    done = update(space, tenants(4, t1={"image": MUTE}), reply=True)
    assert done.errors == {}
    (warning,) = done.warnings
    assert ": 3, such as t0: hermes-t0-0: cannot be asked how it is: status 2" in warning
    assert [name for name, when in asked(agents) if when != "before"] == ["t3"]
    assert former_gone(space, 4)


def former_gone(space: Space, count: int) -> bool:
    found = (space.get("StatefulSet", f"t{number}")["metadata"]["annotations"] for number in range(count))
    return not any(FORMER in each for each in found)


def test_a_login_that_may_not_ask_is_told_once_and_asks_no_more(space, agents):
    update(space, tenants(5), OLD)

    def refuse(name: str, _before: Any) -> None:
        raise NotAllowed("is not allowed: pods/exec", where=f"Pod hermes-{name}-0", fix="give the login this right")

    agents.meanwhile = refuse
    done = update(space, tenants(5), reply=True)
    assert done.errors == {}
    (warning,) = done.warnings
    assert "Pod hermes-t0-0: is not allowed: pods/exec. Fix: give the login this right" in warning
    assert asked(agents) == [("t0", "before")]
    assert {runs(space, f"t{number}") for number in range(5)} == {of(NEW)}


@pytest.mark.parametrize("image", [NEW, MUTE])
def test_a_run_that_is_killed_while_it_asks_is_ended_by_the_next(space, agents, image):
    update(space, tenants(3), OLD)
    agents.ill = {"t1"}

    def kill(_name: str, before: Any) -> None:
        if before is not None:
            raise Killed

    agents.meanwhile = kill
    with pytest.raises(Killed):
        update(space, tenants(3), image, canaries=["t0", "t1"], reply=True)
    assert {name: former(space, name)["had"] for name in ("t0", "t1")} == {"t0": [], "t1": ["no_reply"]}
    agents.meanwhile = lambda *_: None
    agents.player.events.clear()
    ended = update(space, tenants(3), image, canaries=["t0", "t1"], reply=True)
    assert set(asked(agents)[:2]) == {("t0", "after []"), ("t1", "after ['no_reply']")}
    if image == NEW:
        assert ended.errors == {}
        assert {runs(space, f"t{number}") for number in range(3)} == {of(NEW)}
    else:
        assert ended.words == {"t0": "rolled back", "t1": "changed", "t2": "not tried"}
        assert [runs(space, f"t{number}") for number in range(3)] == [of(OLD), of(MUTE), of(OLD)]


def test_another_change_before_it_was_asked_goes_back_to_what_was_well(space, agents):
    update(space, tenants(1), OLD)

    def kill(_name: str, before: Any) -> None:
        if before is not None:
            raise Killed

    agents.meanwhile = kill
    with pytest.raises(Killed):
        update(space, tenants(1), MUTE, reply=True)
    agents.meanwhile = lambda *_: None
    failed = update(space, tenants(1), BAD, reply=True)
    assert failed.words == {"t0": "rolled back"}
    assert runs(space, "t0") == of(OLD)


def test_one_goes_back_to_what_it_ran_when_it_was_its_turn(space, agents):
    update(space, tenants(2), OLD)

    def meanwhile(name: str, before: Any) -> None:
        if (name, before) == ("t0", []):
            # Somebody else's run, of a version that knew no Lease.
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(lease, "held", lambda _cluster: contextlib.nullcontext())
                update(space, [{"name": "t1"}], MID)

    agents.meanwhile = meanwhile
    failed = update(space, tenants(2, t1={"image": BAD}), reply=True)
    assert failed.words == {"t0": "changed", "t1": "rolled back"}
    assert [runs(space, name) for name in ("t0", "t1")] == [of(NEW), of(MID)]


PROBLEM = {"cause": "no_reply", "what": "it is mute", "fix": "see"}
HOSTILE = {"cause": "\x1b[2J" + "x" * 900, "what": "\x1b[2J" + "y" * 900, "fix": ""}


def said(*problems: Any) -> str:
    """A program that says so."""
    return f"print({json.dumps(json.dumps({'problems': problems}))})"


@pytest.mark.parametrize(
    ("program", "before", "expected"),
    [
        (said(), None, Look((), None)),
        (f"{said(PROBLEM)}; sys.exit(1)", [], Look(("no_reply",), "it is mute")),
        (said(PROBLEM), ["no_reply"], Look(("no_reply",), None)),
        (f"{said()}; sys.exit(1)", [], Look((), "it says that it is not healthy")),
    ],
)
def test_an_answer_of_a_pod_is_understood(space, node, program, before, expected):
    assert answer(space, node, program, before) == expected


@pytest.mark.parametrize(
    ("program", "error"),
    [
        ("sys.stderr.write('invalid choice'); sys.exit(2)", "status 2: invalid choice"),
        ("print('[' * 100000)", "does not say how it is"),
        (said(1), "does not say how it is"),
        ("sys.stdout.write('x' * 3000000)", "wrote more than 1048576 bytes"),
        ("os.kill(os.getppid(), 9)", "could not be run"),
    ],
)
def test_an_answer_of_a_pod_is_bounded_and_checked(space, node, program, error):
    with pytest.raises(OpsError, match=error):
        answer(space, node, program, [])


def answer(space: Space, node: PlayedNode, program: str, before: list[str] | None) -> Look:
    """What is made of the answer of a pod in which the *program* is the kit."""
    space.converge({"name": "acme"})
    node.run(space.namespace, "hermes-acme")
    put(node, f"assert words[:4] == ['hermes-ops', 'agent', 'verify', '--json'], words\n{program}")
    (tenant,) = space.declared({"name": "acme"}).tenants
    with Cluster(space.server.kubeconfig, "", space.namespace) as cluster:
        return verify.look(cluster, tenant, before)


def test_what_an_agent_says_of_itself_harms_no_terminal(space, node):
    found = answer(space, node, f"{said(*[HOSTILE] * 99)}; sys.exit(1)", [])
    assert found.causes == ()
    assert found.worse.startswith("\\x1b[2Jyyy")
    assert len(found.worse) <= 300
