# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A host under load, with one fault after the other; called by script/soak.

Ends with status 0 only if every fault healed, and every acknowledged message is where the documentation says.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence

import faults
import ledger
from faults import Fault
from host import BOX, DISKS, KEEPER, KEY, NEW, OLD, PORTS, ROOT, Host, HostError
from ledger import Full, Recovery
from load import Users

RESULTS = ROOT / ".cache" / "soak"
# Seconds without help; for each documented command to work; after which the soak ends.
UNAIDED = 60.0
AIDED = 20.0
BOUND = 240.0
# Seconds for a job that runs to its end. Before a job was timed, a fault strikes within these.
JOB_SECONDS = 300.0
USUAL = {"site": 10.0, "update": 20.0, "rollback": 15.0, "backup": 2.0, "restore": 5.0}
RECOVER_RESTORE = "hermes-ops restore --recover"
# docs/recovery.md: what to type, from the most specific on.
REMEDIES = (
    "hermes-ops update --recover",
    RECOVER_RESTORE,
    f"systemctl start {' '.join(f'hermes-gateway@{agent}' for agent in PORTS)}",
)


class NotHealed(Exception):
    """Why a fault counts as not healed."""


class Soak:
    def __init__(self, host: Host) -> None:
        self.host = host
        self.users = Users(PORTS, lambda: host.address, KEY)
        self.took = dict(USUAL)
        self.full: list[Full] = []
        self.recoveries: list[Recovery] = []
        # The numbers in data that was set aside and is removed already.
        self.aside: set[int] = set()

    def run(self, seed: int, seconds: float) -> ledger.Balance:
        """Strike until *seconds* are over or a fault does not heal; then count."""
        self.host.up()
        self.users.begin()
        # The first reply of a gateway takes longest.
        self.settle(0.0)
        deadline = time.monotonic() + seconds
        for fault in faults.draw(seed, tuple(PORTS), tuple(DISKS)):
            self.one(fault)
            if self.recoveries[-1].problem or time.monotonic() > deadline:
                break
        self.users.end()
        kept, aside = self.host.numbers()
        return ledger.balance(self.users.messages, kept, aside | self.aside, self.full)

    # --- one fault ---------------------------------------------------------------------------------------------

    def one(self, fault: Fault) -> None:
        helped: list[str] = []
        seconds, problem = None, ""
        try:
            self.host.forget_requests()
            self.make_ready(fault.jobs)
            time.sleep(fault.quiet)
            running = self.strike(fault)
            since = time.time()
            seconds = self.recovery(fault, running, since, helped)
            self.finish(fault, running)
            self.aside |= self.host.tidy()
        except (NotHealed, HostError) as error:
            seconds, problem = None, str(error)
        self.recoveries.append(Recovery(fault.number, fault.kind, str(fault), seconds, tuple(helped), problem))
        result = f"{seconds:.1f} s" if seconds is not None else f"DID NOT HEAL: {problem}"
        say(f"{fault.number:4}  {fault}: {result}{''.join(f', with {each}' for each in helped)}")

    def make_ready(self, jobs: Sequence[str]) -> None:
        """An update needs the old release to begin with, and a rollback the new one."""
        for job in jobs:
            start = {"update": OLD, "rollback": NEW}.get(job)
            if start:
                if self.host.version != start:
                    self.complete("rollback" if start == OLD else "update")
                return

    def strike(self, fault: Fault) -> dict[str, subprocess.Popen[bytes]]:
        """Let *fault* happen.

        :returns: the jobs that were started, which it may have ended
        """
        host = self.host
        running = {job: host.start(job, fault.agent) for job in fault.jobs}
        if fault.kind == faults.TWO_JOBS:
            for job, process in running.items():
                wait(job, process)
            return running
        if running:
            time.sleep(fault.moment * self.took[fault.jobs[0]])
        if fault.kind in faults.KILLS:
            host.kill(fault.jobs[0], running[fault.jobs[0]])
        elif fault.kind == faults.GATEWAY_KILLED:
            host.kill_gateway(fault.agent)
        elif fault.kind == faults.POWER_CUT:
            host.cut_power()
        else:
            self.fill(fault)
        return running

    def fill(self, fault: Fault) -> None:
        began = time.time()
        try:
            self.host.fill(fault.disk)
            time.sleep(fault.full)
        finally:
            self.host.free(fault.disk)
            self.full.append(Full(DISKS[fault.disk][2], began, time.time()))

    def recovery(
        self, fault: Fault, running: dict[str, subprocess.Popen[bytes]], since: float, helped: list[str]
    ) -> float:
        """Wait until all is well and no job is under way.

        :param since: when the fault had happened
        :param helped: gets the commands that were needed
        :returns: seconds from then until all agents were healthy and had answered, and stayed so
        :raises NotHealed: not within the bound
        """
        remedies = list(REMEDIES)
        if fault.kind == faults.RESTORE_KILLED and wait("restore", running["restore"]):
            # Nothing else undoes it before the next boot or restore (docs/backups.md), so nobody waits for it to heal.
            remedies.remove(RECOVER_RESTORE)
            self.remedy(RECOVER_RESTORE, helped)
        well_since, patience = None, since + UNAIDED
        while True:
            now = time.time()
            problems = self.problems(since)
            well_since = None if problems else well_since or time.time()
            if well_since and not self.host.busy() and all(each.poll() is not None for each in running.values()):
                return well_since - since
            if now - since > BOUND:
                raise NotHealed("; ".join(problems) or f"{', '.join(running) or 'a job'} does not end")
            if now > patience and problems and remedies and not self.host.busy():
                self.remedy(remedies.pop(0), helped)
                patience = time.time() + AIDED
            time.sleep(0.2)

    def problems(self, since: float, *, of_jobs: bool = False) -> list[str]:
        """Why all is not well: agents that have answered nothing since then, and what the check of the host says."""
        silent = [f"agent {agent} has answered nothing" for agent in self.users.silent_since(since)]
        return silent or self.host.problems(of_jobs=of_jobs)

    def remedy(self, command: str, helped: list[str]) -> None:
        self.host.shell(command, check=False)
        helped.append(command)

    def finish(self, fault: Fault, running: dict[str, subprocess.Popen[bytes]]) -> None:
        """Run the jobs again that were not done; nothing of the fault may be left then.

        :raises NotHealed: a job fails, or something is left
        """
        for job, process in running.items():
            # A kill that came too late has harmed nothing. An update may have gone on by itself.
            if process.returncode != 0:
                self.complete(job, fault.agent)
        self.settle(time.time())

    def settle(self, since: float) -> None:
        """Wait until all is well, jobs and their units included.

        :param since: every agent has to answer a message that was sent after it
        :raises NotHealed: something is left
        """
        deadline = time.monotonic() + BOUND
        while problems := self.problems(since, of_jobs=True):
            if time.monotonic() > deadline:
                raise NotHealed(f"with no job under way: {'; '.join(problems)}")
            time.sleep(0.2)

    def complete(self, job: str, agent: str = "default") -> None:
        """Run *job* to its end, which has to be good."""
        if self.host.version == {"update": NEW, "rollback": OLD}.get(job):
            return
        began = time.monotonic()
        if status := wait(job, self.host.start(job, agent)):
            raise NotHealed(f"{job} ends with status {status}; see {job}.log")
        self.took[job] = time.monotonic() - began


def wait(job: str, process: subprocess.Popen[bytes]) -> int:
    try:
        return process.wait(JOB_SECONDS)
    except subprocess.TimeoutExpired:
        raise NotHealed(f"{job} does not end within {JOB_SECONDS:.0f} s") from None


def say(text: str) -> None:
    print(f"soak: {text}", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="script/soak",
        description="Start a host with two agents (a container with systemd, the real Hermes, a model server of the "
        "tests), send messages all the time, and let one fault happen after the other: kills, power cuts, full disks, "
        "two jobs at once. Status 0 only if every fault healed and no acknowledged message is missing. "
        "The result is in .cache/soak/.",
    )
    parser.add_argument(
        "--seed", type=int, help="of the faults; the same seed draws the same ones (default: a new one)"
    )
    parser.add_argument("--minutes", type=float, default=10.0, help="for how long faults happen (%(default)s)")
    arguments = parser.parse_args()
    seed = arguments.seed if arguments.seed is not None else random.SystemRandom().randrange(1_000_000)
    say(f"seed {seed}, {arguments.minutes:g} minutes")
    shutil.rmtree(RESULTS, ignore_errors=True)
    RESULTS.mkdir(parents=True)
    soak = Soak(Host(RESULTS))
    try:
        result = soak.run(seed, arguments.minutes * 60)
    except (HostError, NotHealed) as error:
        say(f"error: {error}")
        return 2
    return report(soak, seed, result)


def report(soak: Soak, seed: int, result: ledger.Balance) -> int:
    """Print and write the result; a host with a fault is left for whoever looks into it.

    :returns: the exit status
    """
    table = ledger.table(soak.recoveries, result)
    summary = ledger.as_dict(seed, soak.recoveries, result)
    (RESULTS / "result.json").write_text(json.dumps(summary, indent=2) + "\n")
    (RESULTS / "result.md").write_text(f"{table}\n")
    print(f"\n{table}\n", flush=True)
    if summary["passed"]:
        soak.host.down()
        return 0
    soak.host.bundle()
    say(f"FAILED with seed {seed}. Lost messages: {', '.join(str(each.number) for each in result.lost) or 'none'}")
    say(f"See {RESULTS}, and the host: docker exec -it {BOX} bash; docker rm --force {BOX} {KEEPER} removes it")
    return 1


if __name__ == "__main__":
    sys.exit(main())
