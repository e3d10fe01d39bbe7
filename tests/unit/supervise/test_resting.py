# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""An agent stays up for its own work and its cron jobs, and is woken for the next one."""

from __future__ import annotations

import json
import uuid
from collections import Counter
from collections.abc import Callable

import pytest
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.agent.work import Work
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.supervise import resting

USER = "0123456789abcdef" * 2
BEGAN = 1_795_363_200.0
HOUR = 3600.0


class Agent:
    """An agent in simulated time. *work* tells what it does, by the seconds since the rest began."""

    def __init__(self, work: Callable[[float], Work]) -> None:
        self.work = work
        self.clock = BEGAN
        self.looks: list[float] = []
        self.wakes: list[float | None] = []
        self.lines: list[str] = []

    @property
    def age(self) -> float:
        return self.clock - BEGAN

    def look(self) -> Work:
        self.looks.append(self.age)
        assert len(self.looks) < 10_000
        return self.work(self.age)

    def sleep(self, seconds: float) -> None:
        self.clock += seconds

    def rest(self) -> Agent:
        resting.rest(self.look, self.sleep, lambda: self.clock, self.wakes.append, self.lines.append)
        return self


def job(due: float, ended: float | None = None) -> tuple[float, float]:
    """Both in seconds since the rest began."""
    return (BEGAN + due, 0.0 if ended is None else BEGAN + ended)


def test_an_agent_without_work_sleeps_at_once():
    agent = Agent(lambda age: Work()).rest()
    assert (agent.looks, agent.wakes, agent.lines) == ([0.0], [None], ["sleeps"])


def test_it_stays_while_it_works_and_looks_more_and_more_rarely():
    agent = Agent(
        lambda age: Work(["a turn"], {"a": job(HOUR)}) if age < 100 else Work([], {"a": job(2 * HOUR)})
    ).rest()
    assert agent.looks == [0, 5, 15, 35, 65, 95, 125]
    # The first is for a host that goes down meanwhile.
    assert agent.wakes == [BEGAN + HOUR, BEGAN + 2 * HOUR]
    assert agent.lines == ["stays awake: a turn", "sleeps until 2026-11-22 18:00 UTC, for cron"]


def test_what_cannot_be_read_keeps_nobody_awake_for_long_and_is_told():
    agent = Agent(lambda age: Work(unread=["state.db"])).rest()
    assert agent.looks == [0.0, 5.0, 15.0]
    assert agent.lines[-1] == "sleeps; cannot read state.db"
    # A single look that failed ends no turn.
    turn = Agent(lambda age: Work(unread=["state.db"]) if age == 5 else Work(["a turn"]) if age < 50 else Work()).rest()
    assert turn.age >= 50


def test_a_job_within_a_minute_is_waited_for_and_a_later_one_is_not():
    assert Agent(lambda age: Work([], {"a": job(61)})).rest().looks == [0.0]

    def soon(age: float) -> Work:
        return Work([], {"a": job(59) if age < 70 else job(HOUR) if age < 90 else job(HOUR, 90)})

    agent = Agent(soon).rest()
    assert 90 <= agent.age <= 125
    assert agent.wakes[-1] == BEGAN + HOUR


def test_a_woken_agent_stays_until_the_job_has_run_even_if_nothing_shows_that_it_does():
    """A repeated script of 0.18.2: its time moves on when it starts, and only the end is seen."""

    def script(age: float) -> Work:
        return Work(
            [], {"a": job(-3, -HOUR) if age < 2 else job(HOUR, -HOUR) if age < 1000 else job(HOUR + 1000, 1000)}
        )

    agent = Agent(script).rest()
    assert 1000 <= agent.age <= 1030
    assert agent.lines[0] == "stays awake: cron job a is due"
    assert agent.wakes[-1] == BEGAN + HOUR + 1000


def test_a_started_job_that_never_ends_is_waited_for_as_long_as_a_script_may_run():
    agent = Agent(lambda age: Work([], {"a": job(-3) if age < 2 else job(24 * HOUR)})).rest()
    assert resting.RUN_SECONDS <= agent.age <= resting.RUN_SECONDS + 30
    assert agent.wakes[-1] == BEGAN + 24 * HOUR


def test_a_job_that_hermes_does_not_start_is_tried_again_later():
    agent = Agent(lambda age: Work([], {"a": job(-3), "b": job(9 * HOUR)})).rest()
    assert resting.START_SECONDS <= agent.age <= resting.START_SECONDS + 30
    assert agent.wakes[-1] == agent.clock + resting.AGAIN_SECONDS


def test_a_job_that_claims_to_have_ended_but_stays_due_keeps_nobody_awake_for_ever():
    assert Agent(lambda age: Work([], {"a": job(-3, age)})).rest().age <= resting.START_SECONDS + 30


@pytest.mark.parametrize("later", [{}, {"b": job(HOUR)}])
def test_a_job_that_is_gone_or_disabled_is_not_waited_for(later):
    agent = Agent(lambda age: Work([], {"a": job(-3)} if age < 2 else later)).rest()
    assert agent.looks == [0.0, 5.0]


def test_a_job_of_every_minute_keeps_its_agent_awake():
    def minutely(age: float) -> Work:
        past = age // 60 * 60
        return Work([], {"a": job(past + 60, past)} if age < 1000 else {})

    assert Agent(minutely).rest().age >= 1000


def test_patience_is_not_a_matter_of_the_clock():
    """A clock that is set forward by a day ends no wait; set back by a day, it makes none longer."""
    for jump in (-86_400.0, 86_400.0):
        agent = Agent(lambda age: Work([], {"a": job(-2 * 86_400.0)}))
        slept: list[float] = []

        def sleep(seconds: float, agent: Agent = agent, slept: list[float] = slept, jump: float = jump) -> None:
            slept.append(seconds)
            agent.clock += seconds + (jump if len(slept) == 1 else 0)

        agent.sleep = sleep
        agent.rest()
        assert resting.START_SECONDS <= sum(slept) <= resting.START_SECONDS + 30


def test_no_wake_is_further_than_a_year_away():
    far = resting.next_due({"a": (253_402_214_400.0, 0.0)}, BEGAN)
    assert far == BEGAN + 366 * 86_400
    assert resting.next_due({}, BEGAN) is None


def test_the_timer_s_command():
    argv = resting.wake_timer(USER, BEGAN + 0.5)
    assert argv[0] == "systemd-run"
    assert f"--unit=hermes-user-wake@{USER}" in argv
    assert "--timer-property=AccuracySec=1s" in argv
    assert [word for word in argv if word.startswith("--on-calendar=")] == [
        "--on-calendar=2026-11-22 16:00:00 UTC",
        "--on-calendar=2026-11-22 16:15:00 UTC",
        "--on-calendar=2026-11-22 17:00:00 UTC",
        # What is mended in the morning is tried on the same day.
        "--on-calendar=2026-11-22 20:00:00 UTC",
        "--on-calendar=2026-11-23 04:00:00 UTC",
        "--on-calendar=2026-11-23 16:00:00 UTC",
    ]
    assert argv[-4:] == ["systemctl", "--no-block", "start", f"hermes-user-rest@{USER}.service"]


def test_agents_with_the_same_time_are_woken_within_a_minute_and_none_too_early():
    users = [uuid.uuid5(uuid.NAMESPACE_URL, str(number)).hex for number in range(200)]
    wakes = [resting.wake_at(user, BEGAN + 0.5) for user in users]
    assert min(wakes) >= BEGAN + 1
    assert max(wakes) <= BEGAN + 60
    assert max(Counter(wakes).values()) < 12
    # Users whose ids differ in their last or first digits only.
    for ids in (range(200), [number << 100 for number in range(200)]):
        assert len({resting.wake_at(f"{user:032x}", BEGAN) for user in ids}) == 59


def test_after_a_boot_overdue_agents_are_woken_one_after_the_other():
    late = {f"{number:032x}": BEGAN - 1000 + number for number in range(200)}
    wakes = resting.boot_wakes({**late, "a" * 32: BEGAN + HOUR, "b" * 32: None, "c" * 32: 0.0}, BEGAN)
    assert len(set(wakes.values())) == len(wakes) == 202
    assert wakes["c" * 32] == min(wakes.values()) == BEGAN + 30
    assert wakes[f"{199:032x}"] == BEGAN + 430
    assert wakes["a" * 32] == resting.wake_at("a" * 32, BEGAN + HOUR)


@pytest.fixture
def timers(systemd, monkeypatch) -> list[list[str]]:
    """The timers that are made."""
    made: list[list[str]] = []
    monkeypatch.setattr(resting, "run", lambda argv, timeout: made.append(argv))
    return made


def test_a_wake_is_recorded_replaced_and_set_again_after_a_boot(timers, systemd, tmp_path):
    due = resting.time.time() + HOUR
    resting.set_wake(str(tmp_path), USER, due)
    assert systemd.verbs == [f"stop hermes-user-wake@{USER}.timer"]
    assert timers == [resting.wake_timer(USER, resting.wake_at(USER, due))]
    assert json.loads((tmp_path / f"{USER}.next").read_text()) == {"due": due}
    resting.set_wakes(str(tmp_path), [USER])
    assert timers[1] == timers[0]
    resting.set_wake(str(tmp_path), USER, None)
    assert resting.recorded(str(tmp_path)) == {USER: None}
    assert len(timers) == 2
    assert len(systemd.verbs) == 3
    resting.forget_wake(str(tmp_path), USER)
    resting.forget_wake(str(tmp_path), USER)
    assert resting.recorded(str(tmp_path)) == {}


def test_after_a_boot_who_was_awake_is_woken_and_who_is_gone_is_not(timers, tmp_path):
    resting.record(str(tmp_path), "a" * 32, None)
    resting.record(str(tmp_path), "b" * 32, resting.time.time() + HOUR)
    resting.set_wakes(str(tmp_path), ["a" * 32, "c" * 32])
    assert [argv[-1] for argv in timers] == [f"hermes-user-rest@{'c' * 32}.service"]


def test_a_wake_in_the_past_comes_at_once(timers, tmp_path):
    """systemd would never start a timer whose time is over."""
    before = resting.time.time()
    resting.set_wake(str(tmp_path), USER, before - HOUR)
    stamp = next(word for word in timers[0] if word.startswith("--on-calendar="))
    assert stamp >= f"--on-calendar={resting.time.strftime('%Y-%m-%d %H:%M:%S', resting.time.gmtime(before + 1))}"


@pytest.mark.parametrize("content", ["", "[]", "[" * 10**4, "{}", '{"due": "soon"}', '{"due": NaN}', '{"due": 1e400}'])
def test_an_agent_with_a_damaged_record_is_overdue(content, tmp_path):
    (tmp_path / f"{USER}.next").write_text(content)
    (tmp_path / f"{USER}.json").write_text("{}")
    (tmp_path / "lock").write_text("")
    assert resting.recorded(str(tmp_path)) == {USER: 0.0}
