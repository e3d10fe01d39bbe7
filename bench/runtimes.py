# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Measures agents of users on a host with 200 of them: in the host, as an application and an administrator see it."""

from __future__ import annotations

import http.client
import json
import re
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

RUNS = 5
# Users whose agents run while their declaration changes.
ROLLED = 20
ROLLOUT = "hermes-runtimes-rollout.service"
ASKED = json.dumps({"model": "hermes-agent", "messages": [{"role": "user", "content": "hello"}]})


def hermes_ops(*words: str) -> str:
    return subprocess.run(["hermes-ops", "runtime", *words], capture_output=True, text=True, check=True).stdout.strip()


def call(address: tuple[str, int], path: str, key: str, body: str | None = None) -> float:
    """Seconds to the first byte of an answer."""
    connection = http.client.HTTPConnection(*address, timeout=120)
    began = time.monotonic()
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    connection.request("POST" if body else "GET", path, body, headers)
    response = connection.getresponse()
    response.read(1)
    took = time.monotonic() - began
    if response.status != 200:
        sys.exit(f"{path}: {response.status} {response.read()!r}")
    connection.close()
    return took


def user(number: int, path: str, body: str | None = None) -> float:
    name = f"user-{number}"
    return call(("127.0.0.1", 8640), f"/u/{name}{path}", hermes_ops("key", name), body)


def own_memory(unit: str) -> int:
    """Bytes that the processes of *unit* have for themselves, without what runs in a container."""
    group = subprocess.run(
        ["systemctl", "show", "--property=ControlGroup", "--value", unit], capture_output=True, text=True, check=True
    ).stdout.strip()
    total = 0
    for process in Path("/proc").glob("[0-9]*"):
        try:
            cgroups = (process / "cgroup").read_text()
            if group in cgroups and "libpod-payload" not in cgroups:
                rollup = (process / "smaps_rollup").read_text()
                total += sum(int(kib) for kib in re.findall(r"^Private_\w+:\s+(\d+) kB", rollup, re.M)) * 1024
        except OSError:
            continue
    return total


def resident() -> int:
    """Bytes of memory of systemd itself."""
    return int(re.findall(r"^VmRSS:\s+(\d+)", Path("/proc/1/status").read_text(), re.M)[0]) * 1024


def median(action: Callable[[int], float], numbers: range) -> float:
    return statistics.median(action(number) for number in numbers)


def stamps() -> list[int]:
    """When the last rollout began and ended, in microseconds since boot; 0: not yet."""
    shown = [f"--property=ExecMain{word}TimestampMonotonic" for word in ("Start", "Exit")]
    done = subprocess.run(["systemctl", "show", "--value", *shown, ROLLOUT], capture_output=True, text=True, check=True)
    return [int(word) for word in done.stdout.split()]


def roll() -> None:
    """Call the agents of some users all the time, until a declaration that was changed meanwhile is rolled out."""
    keys = {number: hermes_ops("key", f"user-{number}") for number in range(ROLLED)}
    begun, ended = stamps()
    over, awake, failed, calls = threading.Event(), threading.Barrier(ROLLED + 1), list[str](), list[float]()

    def caller(number: int) -> None:
        def ask() -> None:
            calls.append(call(("127.0.0.1", 8640), f"/u/user-{number}/health", keys[number]))

        ask()
        awake.wait()
        while not over.wait(0.5):
            try:
                ask()
            except (OSError, http.client.HTTPException, SystemExit) as error:
                failed.append(str(error))

    threads = [threading.Thread(target=caller, args=(number,), daemon=True) for number in range(ROLLED)]
    for thread in threads:
        thread.start()
    awake.wait()
    calls.clear()
    print("ready", flush=True)
    deadline = time.monotonic() + 600
    while (now := stamps())[0] == begun or now[1] in (0, ended) or now[1] < now[0]:
        if time.monotonic() > deadline:
            sys.exit(f"no rollout within 600 s: {now}")
        time.sleep(0.5)
    over.set()
    for thread in threads:
        thread.join()
    print(
        f"| rolling change of {ROLLED} running users; {len(calls)} calls meanwhile, {len(failed)} failed, the longest "
        f"{max(calls):.1f} s | {(now[1] - now[0]) / 1e6:.0f} s | | | ≤ 60 s, none failed |"
    )
    if failed:
        sys.exit("\n".join(failed[:5]))


def stream() -> None:
    """Read an answer that is streamed for half an hour, a piece each minute, while nobody else calls the agent."""
    words = [f"word{number}" for number in range(25)]
    connection = http.client.HTTPConnection("127.0.0.1", 8640, timeout=600)
    headers = {"Authorization": f"Bearer {hermes_ops('key', 'user-0')}", "Content-Type": "application/json"}
    asked = {"model": "hermes-agent", "stream": True, "messages": [{"role": "user", "content": " ".join(words)}]}
    began = time.monotonic()
    connection.request("POST", "/u/user-0/v1/chat/completions", json.dumps(asked), headers)
    response = connection.getresponse()
    text, gaps, last = "", list[float](), began
    for line in response:
        if line.startswith(b"data: {"):
            delta = json.loads(line[6:])["choices"][0]["delta"].get("content")
            if delta:
                text += delta
                gaps.append(time.monotonic() - last)
                last = time.monotonic()
    took = time.monotonic() - began
    if text != f"The model heard: {' '.join(words)}" or took < 1800:
        sys.exit(f"after {took:.0f} s the stream ended with: {text!r}")
    print(f"| a streamed answer, whole, with up to {max(gaps):.0f} s of silence | {took / 60:.0f} min | | | 30 min |")


def main() -> None:
    """
    :param argv: ``idle``: print the memory of systemd; ``measure``, with that from before there were users; ``roll``;
        or ``stream``
    """
    if sys.argv[1] == "idle":
        print(resident())
        return
    if sys.argv[1] in ("roll", "stream"):
        {"roll": roll, "stream": stream}[sys.argv[1]]()
        return
    idle = (resident() - int(sys.argv[2])) / 200
    cold = median(lambda number: user(number, "/health"), range(RUNS))
    answer = median(lambda number: user(number, "/v1/chat/completions", ASKED), range(RUNS, 2 * RUNS))
    status = json.loads(hermes_ops("status", "user-0", "--json"))
    variables = dict(
        line.split("=", 1) for line in Path(f"/run/hermes-runtimes/users/{status['id']}/address").read_text().split()
    )
    key = hermes_ops("key", "user-0")
    host, port = variables["ADDRESS"].split(":")
    through = median(lambda _n: call(("127.0.0.1", 8640), "/u/user-0/health", key), range(100))
    direct = median(lambda _n: call((host, int(port)), "/health", key), range(100))
    units = [f"hermes-user-agent@{status['id']}", f"hermes-user@{status['id']}"]
    running = sum(map(own_memory, units))
    print(f"| cold call to first byte of /health, 200 users | {cold:.2f} s | | | ≤ 1.5 s |")
    print(f"| cold call to first answer of the agent | {answer:.2f} s | | | ≤ 4 s |")
    print(
        f"| warm call, added by the way through | {1000 * (through - direct):.1f} ms | {1000 * direct:.1f} ms directly "
        "| | ≤ 3 ms |"
    )
    print(f"| added memory for each running user, beside Hermes' own | {running / 1e6:.1f} MB | | | ≤ 6 MB |")
    print(f"| idle users: memory of systemd for each | {idle / 1e6:.3f} MB | | | ≤ 0.1 MB |")


if __name__ == "__main__":
    main()
