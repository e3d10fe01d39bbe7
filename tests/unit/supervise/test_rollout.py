# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A changed declaration goes to all agents of users, or to none, and cuts no work. Here on a host that is a fake."""

from __future__ import annotations

import contextlib
import copy

import pytest
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.supervise import rollout
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.supervise.rollout import Journal, Rollout
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.errors import OpsError, Refused

OLD, NEW, NEWER = "old", "new", "newer"


class Killed(BaseException):
    """SIGKILL."""


class Host:
    """Agents that start with what is theirs: that of their own, else that of all.

    :param bad: (user, edition) with which an agent fails; the user None: any
    :param busy: user -> looks at it for which it is at work
    :param kill: the change at which the process is killed, counted from 0; before it takes effect, or after
    """

    def __init__(self, running=(), asleep=(), bad=(), busy=None, kill=None, after=False):
        self.agents = dict.fromkeys(running, OLD)
        self.asleep = [*asleep]
        self.all, self.own = OLD, {}
        self.proven, self.target = OLD, NEW
        self.bad, self.busy = set(bad), dict(busy or {})
        self.failed, self.held = {}, set()
        self.kept = None
        self.changes, self.kill, self.after = 0, kill, after
        self.history = []
        self.cut = []
        self.slept = 0.0
        self.meanwhile = lambda: None

    def _change(self, what):
        """Do *what*, unless the process is killed here."""
        number, self.changes = self.changes, self.changes + 1
        if number == self.kill and not self.after:
            raise Killed
        what()
        if number == self.kill:
            raise Killed

    def _start(self, user):
        edition = self.own.get(user, self.all)
        self.history.append((user, edition))
        self.agents.pop(user, None)
        if (user, edition) in self.bad or (None, edition) in self.bad:
            self.failed[user] = "it was not healthy in time"
            if user not in self.asleep:
                self.asleep.append(user)
            return self.failed[user]
        self.agents[user] = edition
        self.failed.pop(user, None)
        if user in self.asleep:
            self.asleep.remove(user)
        return None

    def call(self, user):
        """As a caller does."""
        return None if user in self.agents else self._start(user)

    # --- what the machine sees of it

    def journal(self):
        return copy.deepcopy(self.kept)

    def write(self, journal):
        self._change(lambda: setattr(self, "kept", copy.deepcopy(journal)))

    def forget(self):
        self._change(lambda: setattr(self, "kept", None))

    def running(self):
        return dict(self.agents)

    def sleepers(self):
        return list(self.asleep)

    def is_busy(self, user):
        self.busy[user] = self.busy.get(user, 0) - 1
        return self.busy[user] >= 0

    def lend(self, users, edition):
        self._change(lambda: setattr(self, "own", dict.fromkeys(users, edition)))

    def switch(self, edition):
        def do():
            self.all, self.own = edition, {}

        self._change(do)

    def restart(self, users):
        self.cut += [user for user in users if self.busy.get(user, 0) > 0]
        self._change(lambda: self.held.update(users))
        results = {}
        for user in [user for user in users if user in self.agents]:
            self._change(lambda user=user: results.update({user: self._start(user)}))
        self._change(lambda: self.held.difference_update(users))
        return results

    def wake(self, user):
        found = []
        self._change(lambda: found.append(self.call(user)))
        return found[0]

    def failure(self, user):
        return self.failed.get(user)

    def release(self, users):
        self.held -= set(users)

    def prove(self):
        self._change(lambda: setattr(self, "proven", self.target))

    def sleep(self, seconds):
        self.slept += seconds
        self.meanwhile()

    def now(self):
        return self.slept

    def name(self, user):
        return user


def roll(host, canaries=(), again=False):
    if again:
        host.kept = None
    return Rollout(host, "image 2", host.target, host.proven, [*canaries], lambda text: None).run()


USERS = [f"u{number}" for number in range(12)]


def has_all(host, edition):
    """Whether all agents run and start with it, and nothing is left."""
    return (
        set(host.agents.values()) <= {edition}
        and (host.all, host.own, host.proven, host.held, host.kept) == (edition, {}, edition, set(), None)
        and not host.cut
    )


def has_all_former(host):
    """Whether all went back."""
    return set(host.agents.values()) == {OLD} and (host.all, host.own, host.proven) == (OLD, {}, OLD)


def test_all_that_run_get_it_and_none_that_sleeps_is_started():
    host = Host(USERS, asleep=["s"])
    assert roll(host) == []
    assert has_all(host, NEW)
    assert sorted(host.history) == sorted((user, NEW) for user in USERS)
    assert host.call("s") is None
    assert host.agents["s"] == NEW


def test_agents_that_are_slow_to_look_at_and_at_work_hold_up_the_others_once(monkeypatch):
    hostile = [f"h{number}" for number in range(10)]
    host = Host([*hostile, *(f"u{number}" for number in range(200))], busy=dict.fromkeys(hostile, 10**6))
    is_busy, updated = host.is_busy, []

    def look(user):
        host.slept += 10 if user in hostile else 0
        if set(host.agents.values()) == {OLD, NEW} and list(host.agents.values()).count(OLD) == len(hostile):
            updated.append(host.slept)
        return is_busy(user)

    monkeypatch.setattr(host, "is_busy", look)
    assert roll(host) == hostile
    # Once for the canary, and once for the first batch at most.
    assert updated[0] <= 2 * 10 * len(hostile) + 60


def test_at_most_half_are_restarted_at_once(monkeypatch):
    sizes = []
    host = Host([f"u{number}" for number in range(100)])
    restart = host.restart
    monkeypatch.setattr(host, "restart", lambda users: sizes.append(len(users)) or restart(users))
    host.agents = dict.fromkeys(USERS, OLD)
    roll(host)
    assert max(sizes) == len(USERS) // 2
    sizes.clear()
    host.agents, host.target = dict.fromkeys((f"u{number}" for number in range(100)), NEW), NEWER
    roll(host)
    assert max(sizes) == 10


def test_nothing_is_done_if_nothing_changed():
    host = Host(USERS)
    host.target = OLD
    assert roll(host) == []
    assert host.changes == 0


def test_without_a_user_it_is_good_as_it_is():
    host = Host()
    roll(host)
    assert has_all(host, NEW)


def test_the_first_declaration_has_nothing_to_go_back_to():
    host = Host(["u1"], bad=[(None, NEW)])
    host.proven = None
    roll(host)
    assert host.proven == NEW
    assert host.kept is None


def test_if_nobody_runs_one_is_started_for_it():
    host = Host(asleep=USERS)
    roll(host)
    assert host.history == [("u0", NEW)]
    assert has_all(host, NEW)


@pytest.mark.parametrize("running", [True, False])
def test_a_bad_one_ends_at_the_canary_and_all_is_as_before(running):
    host = Host(USERS if running else (), asleep=() if running else USERS, bad=[(None, NEW)])
    with pytest.raises(OpsError, match=r"rolled back: image 2: user u0: it was not healthy in time"):
        roll(host)
    # The first alone does not decide.
    assert [user for user, edition in host.history if edition == NEW] == ["u0", "u1"]
    assert (host.agents["u0"], host.agents["u1"]) == (OLD, OLD)
    assert (host.all, host.own, host.proven, host.kept.phase) == (OLD, {}, OLD, rollout.FAILED)


def test_one_that_fails_after_its_start_is_bad_too():
    host = Host(USERS)

    def end():
        for user in [user for user, edition in host.agents.items() if edition == NEW]:
            del host.agents[user]
            host.failed[user] = "it ended with status 1"

    host.meanwhile = end
    with pytest.raises(OpsError, match="u0: it ended with status 1"):
        roll(host)
    assert set(host.agents.values()) == {OLD}
    assert len(host.agents) == len(USERS)


def test_a_canary_that_was_restarted_is_awake_while_it_is_watched(monkeypatch):
    """Its front ended with the restart. Without a call it sleeps at once, and whatever is wrong stays unseen."""
    host = Host(["u1", "u2"])
    seen = []
    for name in ("restart", "wake", "sleep"):
        do = getattr(host, name)
        monkeypatch.setattr(host, name, lambda what, name=name, do=do: seen.append((name, what)) or do(what))
    roll(host, ["u1"])
    assert seen[:3] == [("restart", ["u1"]), ("wake", "u1"), ("sleep", rollout.PROOF)]


def test_what_has_failed_is_not_tried_again_until_somebody_asks_or_declares_another():
    host = Host(USERS, bad=[(None, NEW)])
    for _try in range(2):
        with pytest.raises(OpsError, match="rolled back"):
            roll(host)
    assert [each for each in host.history if each[1] == NEW] == [("u0", NEW), ("u1", NEW)]
    host.bad.clear()
    assert roll(host, again=True) == []
    assert has_all(host, NEW)

    host.bad.add((None, NEWER))
    host.target = NEWER
    with pytest.raises(OpsError):
        roll(host)
    host.target = NEW
    roll(host)
    assert has_all(host, NEW)


def test_a_bad_batch_brings_back_those_before_it():
    host = Host(USERS, bad=[("u4", NEW), ("u5", NEW)])
    with pytest.raises(OpsError, match=r"user u4: .*user u5: "):
        roll(host)
    assert set(host.agents.values()) == {OLD}
    assert set(host.agents) == set(USERS)
    assert ("u11", NEW) not in host.history
    assert host.all == OLD


def test_a_disk_that_it_has_filled_does_not_keep_a_bad_one(monkeypatch):
    host = Host(USERS, bad=[("u7", NEW), ("u8", NEW)])
    write = host.write

    def full(journal):
        if host.failed:
            raise OpsError("the disk is full")
        write(journal)

    monkeypatch.setattr(host, "write", full)
    with pytest.raises(OpsError, match=r"was rolled back: .*u7"):
        roll(host, ["u1"])
    assert (host.all, host.own, set(host.agents.values())) == (OLD, {}, {OLD})


@pytest.mark.parametrize("user", ["u0", "u5"])
@pytest.mark.parametrize("editions", [[NEW], [NEW, OLD]])
def test_no_user_decides_alone(user, editions):
    """An agent can fail because of its own data, or on purpose: as the first canary, or later."""
    host = Host(USERS, bad=[(user, edition) for edition in editions])
    said = []
    assert Rollout(host, "image 2", NEW, OLD, [], said.append).run() == []
    assert host.agents == dict.fromkeys(set(USERS) - {user}, NEW)
    assert (host.all, host.own, host.proven, host.kept) == (NEW, {}, NEW, None)
    assert said[-1] == f"not healthy with it, and left so: user {user}: it was not healthy in time"


def test_whoever_is_named_as_a_canary_decides_alone():
    host = Host(USERS, bad=[("u3", NEW)])
    with pytest.raises(OpsError, match="user u3"):
        roll(host, ["u3"])
    assert has_all_former(host)


def test_the_only_user_decides():
    host = Host(["u0"], bad=[("u0", NEW)])
    with pytest.raises(OpsError, match="user u0"):
        roll(host)
    assert has_all_former(host)


@pytest.mark.parametrize(("every", "goes_on"), [(12, True), (6, False)])
def test_of_many_a_tenth_may_fail(every, goes_on):
    users = [f"u{number}" for number in range(100)]
    host = Host(users, bad=[(user, NEW) for user in users[11::every]])
    with contextlib.nullcontext() if goes_on else pytest.raises(OpsError, match=r"user u11: .*; user u17: "):
        roll(host)
    assert set(host.agents.values()) == {NEW if goes_on else OLD}


def test_a_canary_that_failed_is_back_while_another_one_is_asked():
    host = Host(USERS, bad=[("u0", NEW)])
    seen = []
    host.meanwhile = lambda: seen.append(dict(host.agents))
    roll(host)
    assert (seen[0]["u0"], seen[0]["u1"]) == (OLD, NEW)


def test_an_agent_that_cannot_be_started_either_way_is_named():
    host = Host(USERS, bad=[("u4", NEW), ("u4", OLD), ("u5", NEW), ("u6", NEW)])
    with pytest.raises(OpsError, match=r"cannot be started with the former one either: u4"):
        roll(host)
    assert set(host.agents) == set(USERS) - {"u4"}


@pytest.mark.parametrize("number", [2, 3, 12, 30])
@pytest.mark.parametrize("where", [slice(2), slice(-2, None)])
def test_who_is_ill_with_the_former_one_too_does_not_count(number, where):
    users = [f"u{each}" for each in range(number)]
    ill = users[where]
    host = Host(users, bad=[(user, edition) for user in ill for edition in (NEW, OLD)])
    if number == 2:
        # Nobody says that it is good.
        with pytest.raises(OpsError, match="user u0: "):
            roll(host)
        return
    assert roll(host) == []
    assert host.agents == dict.fromkeys(set(users) - set(ill), NEW)
    assert (host.all, host.own, host.kept) == (NEW, {}, None)


def test_who_fails_with_the_new_one_alone_goes_on_with_the_former_one():
    users = [f"u{each}" for each in range(12)]
    host = Host(users, bad=[("u1", NEW), ("u2", NEW), ("u2", OLD)])
    assert roll(host) == []
    assert host.agents == {**dict.fromkeys(set(users) - {"u2"}, NEW), "u1": OLD}


def test_what_failed_before_is_tried_if_there_is_nothing_any_more_to_go_back_to():
    host = Host(USERS)
    host.kept = Journal(NEW, rollout.FAILED, problem="a bad day")
    host.proven = None
    assert roll(host) == []
    assert has_all(host, NEW)


def test_while_canaries_are_tried_who_wakes_gets_the_former_one():
    host = Host(USERS, asleep=["s"])
    woken = []

    def call():
        if not woken:
            host.call("s")
            woken.append(host.agents["s"])

    host.meanwhile = call
    roll(host)
    assert woken == [OLD]
    # It runs, so it got the new one in a batch.
    assert has_all(host, NEW)


def test_named_canaries_are_first_and_all_of_them():
    host = Host(USERS, asleep=["s"], bad=[("s", NEW)])
    with pytest.raises(OpsError, match="user s"):
        roll(host, canaries=["u7", "s"])
    assert [each for each in host.history if each[1] == NEW] == [("s", NEW)]
    assert set(host.agents.values()) == {OLD}
    host.bad = {("u7", NEW)}
    with pytest.raises(OpsError, match="user u7"):
        roll(host, canaries=["u7", "u8"], again=True)
    assert [each for each in host.history if each[1] == NEW][1:] in ([("u7", NEW)], [("u7", NEW), ("u8", NEW)])
    assert set(host.agents.values()) == {OLD}


def test_a_canary_that_somebody_woke_just_before_gets_it_all_the_same(monkeypatch):
    host = Host(asleep=["s"])
    lend = host.lend
    monkeypatch.setattr(host, "lend", lambda *words: host.call("s") or lend(*words))
    proved = []
    host.meanwhile = lambda: proved.append(host.agents["s"])
    roll(host)
    assert proved == [NEW]


def test_an_agent_at_work_is_waited_for():
    host = Host(USERS, busy={"u0": 3, "u4": 7})
    assert roll(host, canaries=["u0"]) == []
    assert has_all(host, NEW)


def test_who_works_all_the_time_keeps_the_former_one_until_the_next_start():
    host = Host(USERS, busy={"u4": 10**6})
    assert roll(host) == ["u4"]
    assert host.agents.pop("u4") == OLD
    assert has_all(host, NEW)
    assert rollout.PATIENCE <= host.slept <= 2 * rollout.PATIENCE


def test_agents_at_which_each_look_lasts_are_not_waited_for_any_longer(monkeypatch):
    host = Host(["u1", "u2"], busy={"u2": 10**6})
    look = host.is_busy
    looks = []

    def slow(user):
        host.slept += 15.0 * (user == "u2")
        looks.append(user)
        return look(user)

    monkeypatch.setattr(host, "is_busy", slow)
    assert roll(host) == ["u2"]
    assert host.slept <= rollout.PATIENCE + rollout.PROOF + 60


def test_without_a_free_canary_nothing_changes_and_the_next_run_tries_again():
    host = Host(["u1", "u2"], busy={"u1": 10**4, "u2": 10**4})
    with pytest.raises(Refused):
        roll(host)
    assert has_all(host, OLD)
    assert host.history == []
    host.busy.clear()
    roll(host)
    assert has_all(host, NEW)


def test_a_canary_that_does_not_become_free_brings_the_other_back():
    host = Host(["u1", "u2"], busy={"u2": 10**4})
    with pytest.raises(Refused):
        roll(host, canaries=["u1", "u2"])
    assert has_all(host, OLD)


def test_an_agent_that_does_not_take_it_is_not_restarted_for_ever(monkeypatch):
    host = Host(["u1", "u2", "u3"])
    monkeypatch.setattr(host, "restart", dict.fromkeys)
    roll(host)


def test_after_a_killed_run_another_declaration_begins_with_the_former_one():
    host = Host(USERS)
    host.kept = Journal(NEW, rollout.BATCHES)
    host.all = NEW
    host.agents["u0"] = NEW
    host.target = NEWER
    host.bad.add((None, NEWER))
    with pytest.raises(OpsError):
        roll(host)
    assert [edition for _user, edition in host.history].count(NEWER) == 2
    assert set(host.agents.values()) == {OLD}
    assert (host.all, host.proven) == (OLD, OLD)


def test_going_back_restarts_nobody_who_did_not_get_the_new_one():
    host = Host(USERS, bad=[(None, NEW)])
    host.agents["u9"] = "at work since an edition before"
    with pytest.raises(OpsError):
        roll(host)
    assert {user for user, _edition in host.history} == {"u0", "u1"}


# --- killed at each point ----------------------------------------------------------------------------------------


def count(**more):
    """The changes of a run that is not killed."""
    host = Host(**more)
    with contextlib.suppress(OpsError):
        roll(host)
    return host.changes


GOOD = {"running": USERS[:6], "asleep": ["s"]}
ASLEEP = {"asleep": ["s", "t"]}
BAD = {**GOOD, "bad": [(None, NEW)]}
BAD_BATCH = {**GOOD, "bad": [("u3", NEW), ("u4", NEW)]}
BAD_ASLEEP = {**ASLEEP, "bad": [(None, NEW)]}


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("case", [GOOD, ASLEEP, BAD, BAD_BATCH, BAD_ASLEEP])
def test_killed_anywhere_it_goes_on_or_back(case, after):
    changes = count(**case)
    assert changes > 5
    for kill in range(changes):
        host = Host(**case, kill=kill, after=after)
        try:
            with pytest.raises(Killed):
                roll(host)
        except OpsError as error:
            raise AssertionError(f"change {kill} was not reached") from error
        if "bad" in case:
            with pytest.raises(OpsError, match="rolled back"):
                roll(host)
            assert (host.all, host.own, host.proven, host.kept.phase) == (OLD, {}, OLD, rollout.FAILED), kill
            assert set(host.agents.values()) <= {OLD}, kill
        else:
            assert roll(host) == []
            assert has_all(host, NEW), kill
        assert set(case.get("running", ())) <= set(host.agents), kill
        assert host.held == set(), kill


@pytest.mark.parametrize(
    "bad",
    [
        [("u0", NEW)],
        [("u4", NEW)],
        [("u0", NEW), ("u0", OLD), ("u1", NEW), ("u1", OLD)],
        [("u3", NEW), ("u3", OLD), ("u4", NEW)],
    ],
)
def test_killed_anywhere_no_user_decides_alone(bad):
    case = {**GOOD, "bad": bad}
    others = set(GOOD["running"]) - {user for user, _edition in bad}
    for kill in range(count(**case)):
        host = Host(**case, kill=kill)
        with pytest.raises(Killed):
            roll(host)
        assert roll(host) == []
        assert {user: host.agents.get(user) for user in others} == dict.fromkeys(others, NEW), kill
        assert (host.all, host.own, host.proven, host.kept, host.held) == (NEW, {}, NEW, None, set()), kill


@pytest.mark.parametrize("case", [GOOD, BAD_BATCH])
def test_killed_anywhere_a_reverted_declaration_leaves_nothing(case):
    for kill in range(count(**case)):
        host = Host(**case, kill=kill)
        with pytest.raises(Killed):
            roll(host)
        host.target = OLD if host.proven == OLD else NEW
        roll(host)
        assert has_all(host, host.target), kill


@pytest.mark.parametrize("case", [GOOD, BAD, BAD_BATCH, BAD_ASLEEP])
def test_a_reboot_in_between_loses_what_is_in_memory_and_nothing_else(case):
    for kill in range(count(**case)):
        host = Host(**case, kill=kill)
        with pytest.raises(Killed):
            roll(host)
        host.asleep += host.agents
        host.agents, host.own, host.failed, host.held = {}, {}, {}, set()
        try:
            roll(host)
        except OpsError:
            assert "bad" in case
        assert host.all == host.proven, kill
        assert host.own == {}, kill
        assert set(host.agents.values()) <= {host.proven}, kill
