#!/usr/bin/env python3
# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Measures site.yml, and compares it with a baseline on the same machine in the same run. Run by hand; prints Markdown.

    script/bootstrap && .venv/bin/python bench/bench.py [BENCH …]

``first``     bare host to first answer, against bench/by_hand.sh
``again``     no-change site.yml: module runs on the host, and time against 11 pings; the same for each further agent
``everything``  module runs of a no-change site.yml with every role on
``fleet``     no-change site.yml on 1, 4 and 8 hosts; the controller's processor time for each of 24
``replace``   a used data volume on a fresh host to healthy agents, against bench/replace_by_hand.sh; and on a bare host
``exposure``  systemd's exposure level of the gateway's sandbox
``backup``    a home of 1 GB backed up, verified and restored: time and peak memory
``check``     a check of the host, as every two minutes: time and memory
``secrets``   a look at a source with 20 parameters, as every minute: time and memory, against one HTTP request
``aws``       aws_provision of a host that is as declared, against stock modules: time, and calls counted at the server
``image``     the size of both images of an agent, and from the start of a container to an agent that answers
``runtimes``  agents of 200 users: calls, memory, and a no-change site.yml (bench/runtimes.py measures on the host)
``stream``    an answer that is streamed for half an hour, through the proxy, from an agent that rests after 30 s
``tenants``   a thousand tenants in an API server of Kubernetes, and twenty that run on real nodes (bench/tenants.py)
``update_downtime``  how long the agent is away during an update and a rollback, against a plain restart
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BOX = ROOT / "tests" / "hosts" / "box.py"
BIN = ROOT / ".venv" / "bin"
SUITE = "bookworm"
RUNS = 5
# Where bench/runtimes.py lies on a host.
PROGRAM = "/usr/local/lib/runtimes.py"


def run(*command: str | Path, check: bool = True, **environment: str) -> str:
    done = subprocess.run(
        [str(word) for word in command],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}", **environment},
    )
    if check and done.returncode:
        sys.exit(f"{' '.join(map(str, command))} failed:\n{done.stdout[-3000:]}{done.stderr[-3000:]}")
    return done.stdout


def seconds(action: Callable[[], object]) -> float:
    start = time.monotonic()
    action()
    return time.monotonic() - start


def processor(action: Callable[[], object]) -> float:
    """Seconds of processor time of the programs that *action* starts."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    action()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def box(name: str, host: str = SUITE, *options: str) -> None:
    """A host, by default a bare one, with the model server of the tests."""
    run(sys.executable, BOX, "up", name, host, *options)
    run("docker", "cp", ROOT / "tests/fakes", f"{name}:/usr/local/lib/fakes")
    run("docker", "exec", name, "systemd-run", "--quiet", "python3", "/usr/local/lib/fakes/model_server.py")


def down(*names: str) -> None:
    run(sys.executable, BOX, "down", *names)


class Site:
    """A directory as a user has it: an inventory and settings, nothing else.

    :param hosts: names of boxes; or names of hosts -> their boxes
    :param declared: more that every agent declares
    """

    def __init__(self, directory: Path, hosts: list[str] | dict[str, str], agents: int = 1, **declared: object) -> None:
        self.directory = directory
        (directory / "ansible.cfg").write_text(
            f"[defaults]\ncollections_path = {ROOT}/.cache/collections\ninventory = hosts.json\n"
            "forks = 8\nhost_key_checking = false\n[connection]\npipelining = true\n"
        )
        boxes = hosts if isinstance(hosts, dict) else {name: name for name in hosts}
        inventory = {
            "hermes": {
                "hosts": {name: {"ansible_host": box} for name, box in boxes.items()},
                "vars": {
                    "ansible_connection": "community.docker.docker",
                    "ansible_python_interpreter": "/usr/bin/python3",
                    "hermes_agents": [{**self.agent(number), **declared} for number in range(agents)],
                },
            }
        }
        (directory / "hosts.json").write_text(json.dumps(inventory))

    @staticmethod
    def agent(number: int) -> dict[str, object]:
        return {
            "name": f"a{number}" if number else "default",
            "api": {"port": 8642 + number},
            "webhook": {"port": 8700 + number},
            "config": {
                "model": {
                    "provider": "custom",
                    "default": "stub-model",
                    "base_url": "http://127.0.0.1:18080/v1",
                    "api_key": "${MODEL_API_KEY}",
                },
                "approvals": {"mode": "off"},
            },
            "secrets": {"MODEL_API_KEY": "sk-bench"},
            "webhooks": [{"name": "claude-context", "prompt": "{body}"}],
        }

    def play(self, playbook: str | Path, *arguments: str, **environment: str) -> str:
        return run(
            BIN / "ansible-playbook",
            playbook,
            *arguments,
            ANSIBLE_CONFIG=str(self.directory / "ansible.cfg"),
            NO_COLOR="1",
            **environment,
        )

    def site(self, *arguments: str, **environment: str) -> str:
        return self.play("alwayson.hermes.site", *arguments, **environment)

    def module_runs(self, *arguments: str) -> int:
        """How often a no-change run executes something on the host; with pipelining, once for each module run."""
        output = self.site("-vvv", *arguments)
        changed = re.findall(r"changed=(\d+)", output)
        assert set(changed) == {"0"}, "the host is not converged"
        return len(re.findall(r"^<\S+> EXEC ", output, re.M))


def pings(directory: Path, number: int) -> Path:
    playbook = directory / f"ping{number}.yml"
    tasks = "".join("    - ansible.builtin.ping:\n" for _each in range(number))
    playbook.write_text(f"- hosts: all\n  become: true\n  gather_facts: false\n  tasks:\n{tasks}")
    return playbook


def pairs(action: Callable[[], object], floor: Callable[[], object]) -> tuple[float, float, float]:
    """Median times of both actions, and the median ratio of the pairs."""
    rows = [(seconds(action), seconds(floor)) for _each in range(RUNS)]
    return (
        statistics.median(row[0] for row in rows),
        statistics.median(row[1] for row in rows),
        statistics.median(row[0] / row[1] for row in rows),
    )


# With health.reply the run ends when the agent has answered, like by_hand.sh.
ANSWERED = json.dumps({"hermes_agents": [{**Site.agent(0), "health": {"reply": True}}]})


def first(directory: Path) -> None:
    rows = []
    for number in range(3):
        ours, floor = f"bench-ours-{number}", f"bench-floor-{number}"
        box(ours)
        box(floor)
        site = Site(directory, [ours])
        run("docker", "cp", ROOT / "bench/by_hand.sh", f"{floor}:/root/by_hand.sh")
        by_hand = seconds(lambda floor=floor: run("docker", "exec", floor, "sh", "/root/by_hand.sh"))
        with_ansible = seconds(lambda site=site: site.site("--extra-vars", ANSWERED))
        rows.append((with_ansible, by_hand))
        down(ours, floor)
    ratio = statistics.median(a / b for a, b in rows)
    a, b = (statistics.median(row[i] for row in rows) for i in (0, 1))
    print(f"| bare host to first answer | {a:.1f} s | {b:.1f} s by hand | {ratio:.2f} × | ≤ 1.5 × |")


# The number of module runs of a no-change run with one agent, when the budgets were set.
PINGS = 11
FURTHER = 4


def again(directory: Path) -> None:
    one, more = (directory / name for name in ("one", "more"))
    for name in (one, more):
        name.mkdir()
        box(f"bench-{name.name}")
    one, more = Site(one, ["bench-one"]), Site(more, ["bench-more"], agents=1 + FURTHER)
    one.site()
    more.site()
    runs = one.module_runs()
    print(f"| no change, one agent: module runs | {runs} | | | ≤ 7 |")
    playbook = pings(one.directory, PINGS)
    ours, floor, ratio = pairs(one.site, lambda: one.play(playbook))
    print(f"| no change, one agent: time | {ours:.1f} s | {floor:.1f} s for {PINGS} pings | {ratio:.2f} × | ≤ 1.2 × |")
    print(f"| each further agent: module runs | {(more.module_runs() - runs) / FURTHER:g} | | | 0 |")
    longer = statistics.median(seconds(more.site) - seconds(one.site) for _each in range(RUNS))
    print(f"| each further agent: time | {longer / FURTHER:.2f} s | | | ≤ 0.15 s |")
    down("bench-one", "bench-more")


# Every optional feature of a host.
EVERYTHING = {
    "hermes_version": ">=0.19,<0.20",
    "heartbeat_enabled": True,
    "heartbeat_ping_url": "http://127.0.0.1:18080/ping",
    "backup_restic_repository": "/var/lib/hermes-restic",
    "backup_restic_password": "of the bench",
    "backup_rehearsal_enabled": True,
    "auto_update_enabled": True,
    "dashboard_enabled": True,
    "audit_enabled": True,
    "audit_url": "http://127.0.0.1:19532",
}


def everything(directory: Path) -> None:
    box("bench-everything")
    site = Site(directory, ["bench-everything"])
    variables = ("--extra-vars", json.dumps(EVERYTHING))
    site.site(*variables)
    print(f"| no change, one agent, everything on: module runs | {site.module_runs(*variables)} | | | ≤ 12 |")
    down("bench-everything")


def fleet(directory: Path) -> None:
    names = [f"bench-fleet-{number}" for number in range(8)]
    for name in names:
        box(name)
    Site(directory, names).site()
    times = {}
    for count in (1, 4, 8):
        site = Site(directory, names[:count])
        times[count] = statistics.median(seconds(site.site) for _each in range(3))
    # Three names for each host, because this measures the controller's work for each name.
    site = Site(directory, {f"{name}-{number}": name for name in names for number in range(3)})
    playbook = pings(directory, PINGS)
    ours, floor = (processor(action) / 24 for action in (site.site, lambda: site.play(playbook)))
    down(*names)
    growth = ", ".join(
        f"{count}: {took:.1f} s ({took / times[1] / count:.2f} of linear)" for count, took in times.items()
    )
    print(f"| no change, hosts | {growth} | | | below linear |")
    ratio = f"{ours / floor:.2f} × | ≤ 1.37 × |"
    print(f"| no change, 24 hosts: processor for each | {ours:.2f} s | {floor:.2f} s for {PINGS} pings | {ratio}")


# The first run formats the disk; the others must find what it holds.
VOLUME = {"data_volume_enabled": True, "data_volume_format": True, "data_volume_min_size": "100M"}


def replace(directory: Path) -> None:
    name, disk = "bench-replace", f"--disk={directory / 'volume'}"
    prepared = f"{SUITE}+0.19.0"

    def fresh(host: str) -> None:
        down(name)
        box(name, host, disk)
        run("docker", "cp", ROOT / "molecule/shared/udev.sh", f"{name}:/root/udev.sh")
        run("docker", "exec", name, "systemd-run", "--quiet", "sh", "/root/udev.sh")

    fresh(prepared)
    device = run("losetup", "--noheadings", "--output", "NAME", "--associated", directory / "volume").strip()
    variables = ("--extra-vars", json.dumps({**VOLUME, "data_volume_device": device}))
    site = Site(directory, [name])
    site.site(*variables)
    rows = []
    for _each in range(3):
        fresh(prepared)
        ours = seconds(lambda: site.site(*variables))
        fresh(prepared)
        run("docker", "cp", ROOT / "bench/replace_by_hand.sh", f"{name}:/root/by_hand.sh")
        rows.append((ours, seconds(lambda: run("docker", "exec", name, "sh", "/root/by_hand.sh"))))
    ratio = statistics.median(a / b for a, b in rows)
    a, b = (statistics.median(row[i] for row in rows) for i in (0, 1))
    print(f"| fresh host, used volume, to healthy | {a:.1f} s | {b:.1f} s by hand | {ratio:.2f} × | ≤ 15 s, ≤ 1.6 × |")
    fresh(SUITE)
    print(f"| bare host, used volume, to healthy | {seconds(lambda: site.site(*variables)):.1f} s | | | ≤ 30 s |")
    run(sys.executable, BOX, "down", name, disk)


def exposure(directory: Path) -> None:
    box("bench-exposure")
    Site(directory, ["bench-exposure"]).site()
    text = run(
        "docker", "exec", "bench-exposure", "systemd-analyze", "security", "--no-pager", "hermes-gateway@default"
    )
    down("bench-exposure")
    figure = re.search(r"exposure level for .*: ([\d.]+)", text)
    print(f"| exposure of the gateway unit | {figure.group(1) if figure else '?'} | | | ≤ 2.5 |")


# Wall time, and the peak memory of the command and its children, as /usr/bin/time -v counts.
COST = """
import json, resource, subprocess, sys, time
start = time.monotonic()
subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL)
print(json.dumps([time.monotonic() - start, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024]))
"""


def cost(name: str, *command: str) -> tuple[float, float]:
    """Seconds and MiB of a command in the box *name*."""
    return tuple(json.loads(run("docker", "exec", name, "python3", "-c", COST, *command)))


def check(directory: Path) -> None:
    box("bench-check")
    site = Site(directory, ["bench-check"], agents=2)
    site.site()
    for command, budget in (("check", "≤ 0.35 s, ≤ 35 MiB"), ("status", "")):
        rows = [cost("bench-check", "hermes-ops", command) for _each in range(RUNS)]
        took, memory = (statistics.median(row[column] for row in rows) for column in (0, 1))
        print(f"| hermes-ops {command}, two agents | {took:.2f} s, {memory:.0f} MiB | | | {budget} |")
    down("bench-check")


ASK = """
import http.client
connection = http.client.HTTPConnection("127.0.0.1", 14566)
connection.request("GET", "/asked")
connection.getresponse().read()
"""


def secrets(directory: Path) -> None:
    """A look at a source with 20 parameters, in two pages, of which none changed."""
    name = "bench-secrets"
    box(name, f"{SUITE}+0.19.0")
    run("docker", "exec", name, "systemd-run", "--quiet", "python3", "/usr/local/lib/fakes/parameter_store.py")
    values = json.dumps({f"/hermes/bench/NAME_{number}": "x" * 40 for number in range(20)})
    put = ("curl", "--silent", "--retry", "20", "--retry-connrefused", "--request", "PUT", "--data", values)
    run("docker", "exec", name, *put, "http://127.0.0.1:14566/parameters")
    site = Site(directory, [name], secrets_from={"ssm": "/hermes/bench", "endpoint": "http://127.0.0.1:14566"})
    site.site("--extra-vars", '{"secrets_enabled": true, "secrets_interval": 86400}')
    rows = [(*cost(name, "hermes-ops", "secrets"), *cost(name, "python3", "-I", "-c", ASK)) for _each in range(RUNS)]
    took, memory, floor, least = (statistics.median(column) for column in zip(*rows))
    print(
        f"| secrets fetched, 20 parameters | {took:.2f} s, {memory:.0f} MiB "
        f"| {floor:.2f} s, {least:.0f} MiB for a Python that sends one HTTP request | {took / floor:.2f} × "
        "| ≤ 0.15 s, < 25 MB |"
    )
    down(name)


# The longest time without an answer while a command runs, and until the next answer after it.
AWAY = """
import subprocess, sys, time, urllib.request
command = subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL)
away, last, ended = 0.0, time.monotonic(), None
while ended is None or last < ended:
    try:
        urllib.request.urlopen("http://127.0.0.1:8642/health", timeout=5).read()
        now = time.monotonic()
        away, last = max(away, now - last), now
    except OSError:
        pass
    time.sleep(0.005)
    if ended is None and command.poll() is not None:
        ended = time.monotonic()
print(away, command.returncode)
"""
# A large database that is not being written.
LARGE = """
import sqlite3
database = sqlite3.connect("/var/lib/hermes/agents/default/.hermes/large.db")
database.execute("CREATE TABLE t (x)")
database.executemany("INSERT INTO t VALUES (?)", [("x" * 1000000,)] * 300)
database.commit()
"""


def update_downtime(directory: Path) -> None:
    name = "bench-update"
    box(name)
    site = Site(directory, [name])
    updates = {"auto_update_enabled": True, "auto_update_stable_seconds": 3, "auto_update_canary": False}
    site.site("--extra-vars", json.dumps({**updates, "hermes_version": ">=0.18.2,<0.19"}))
    site.site("--extra-vars", json.dumps({**updates, "hermes_version": ">=0.18.2,<0.20"}))
    run("docker", "exec", "--user", "hermes-default", name, "python3", "-c", LARGE)

    def away(*command: str) -> float:
        text = run("docker", "exec", name, "python3", "-c", AWAY, *command)
        took, status = text.split()
        assert status == "0", f"{' '.join(command)} ended with {status}"
        return float(took)

    rows = []
    for _each in range(RUNS):
        # Otherwise the release that was rolled back by hand would not be installed again.
        run("docker", "exec", name, "rm", "-f", "/var/lib/hermes/ops/update/failed.json")
        for command in (("hermes-ops", "update"), ("hermes-ops", "rollback")):
            rows.append((away(*command), away("systemctl", "restart", "hermes-gateway@default")))
    down(name)
    ratio = statistics.median(ours / floor for ours, floor in rows)
    ours, floor = (statistics.median(row[column] for row in rows) for column in (0, 1))
    print(f"| update, seen by a user | {ours:.2f} s | {floor:.2f} s for a restart | {ratio:.2f} × | ≤ 1.1 × |")


# A home of 1 GB, half of it incompressible files, half a database.
HOME = "/var/lib/hermes/agents/default/.hermes"
FILL = f"""
set -e
head -c 512M /dev/urandom | split -b 8M - {HOME}/workspace/part-
python3 - <<'END'
import sqlite3
with sqlite3.connect("{HOME}/large.db") as database:
    database.execute("PRAGMA journal_mode = WAL")
    database.execute("CREATE TABLE said (text)")
    words = ("so it was said, number %d; " * 40)
    database.executemany("INSERT INTO said VALUES (?)", ((words % ((n,) * 40),) for n in range(470_000)))
END
chown -R hermes-default:hermes-default {HOME}/workspace {HOME}/large.db*
"""


def backup(directory: Path) -> None:
    box("bench-backup")
    Site(directory, ["bench-backup"]).site()

    _seconds, empty = cost("bench-backup", "hermes-ops", "backup")
    run("docker", "exec", "bench-backup", "bash", "-c", FILL)
    for command in (("backup",), ("verify",), ("restore", "--force")):
        took, peak = cost("bench-backup", "hermes-ops", *command)
        print(
            f"| 1 GB home: hermes-ops {command[0]} | {took:.0f} s, {peak:.0f} MiB at most "
            f"| {empty:.0f} MiB for an empty one's backup | {peak / empty:.2f} × | flat |"
        )
    down("bench-backup")


def aws(directory: Path) -> None:
    sys.path.insert(0, str(ROOT / "tests/fakes"))
    import aws_server

    server = aws_server.AwsServer()
    os.environ.update(server.environment, AWS_DEFAULT_REGION="eu-central-1")
    import boto3

    subnet = boto3.client("ec2").describe_subnets()["Subnets"][0]["SubnetId"]
    declared = {
        "aws_region": "eu-central-1",
        "aws_subnet": subnet,
        "aws_image": "/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default-arm64",
        "aws_ssh_keys": ["ssh-ed25519 AAAA ada"],
        "aws_secrets_path": "/hermes/atlas",
        "aws_secrets": {"OPENROUTER_API_KEY": "sk-bench"},
        "ansible_python_interpreter": str(BIN / "python"),
    }
    (directory / "hosts.json").write_text(json.dumps({"hermes": {"hosts": {"atlas": declared}}}))
    (directory / "ansible.cfg").write_text(f"[defaults]\ncollections_path = {ROOT}/.cache/collections\n")

    def play(playbook: str | Path, *arguments: str) -> str:
        words = ("-i", directory / "hosts.json", playbook, *arguments)
        return run(BIN / "ansible-playbook", *words, ANSIBLE_CONFIG=str(directory / "ansible.cfg"), NO_COLOR="1")

    play("alwayson.hermes.aws_provision", "-e", "aws_create_volume=true")
    took, calls = {}, {}
    for name in ("alwayson.hermes.aws_provision", ROOT / "bench/aws_stock.yml"):
        play(name)
        server.calls.clear()
        took[name] = statistics.median(seconds(lambda name=name: play(name)) for _run in range(RUNS))
        calls[name] = len(server.calls) / RUNS
    ours, stock = took.values()
    print(
        f"| AWS, no change: time | {ours:.1f} s | {stock:.1f} s with stock modules | {ours / stock:.2f} × | ≤ 0.5 × |"
    )
    ours, stock = calls.values()
    print(f"| AWS, no change: calls | {ours:.0f} | {stock:.0f} with stock modules | {ours / stock:.2f} × | ≤ 0.5 × |")
    server.stop()


def image(directory: Path) -> None:
    sys.path.insert(0, str(ROOT / "tests/hosts"))
    import agent_image
    import containers

    for variant, budget in (("slim", 420), ("browser", 900)):
        name = agent_image.build(variant)
        size = int(run("docker", "image", "inspect", "--format", "{{.Size}}", name)) / 1e6
        print(f"| image {variant} | {size:.0f} MB | | | ≤ {budget} MB |")
    first, again = [], []
    name = agent_image.build()
    with containers.model_server(name) as network:
        for number in range(RUNS):
            (directory / str(number)).mkdir()
            with containers.declared(name, network, directory / str(number)) as agent:
                first.append(seconds(agent.start))
                agent.stop()
                agent.remove()
                again.append(seconds(agent.start))
    print(f"| container on an empty volume to healthy agent | {statistics.median(first):.1f} s | | | ≤ 2.5 s |")
    print(f"| container on its volume to healthy agent | {statistics.median(again):.1f} s | | | ≤ 1.5 s |")


MODELS = "bench-models"


def host_of_users(directory: Path, name: str) -> tuple[Site, dict[str, object]]:
    """A host for agents of users with the bench's program, and what to declare for it; its models are on another."""
    sys.path[:0] = [str(ROOT / "tests/hosts")]
    import agent_image

    image = agent_image.build()
    podman = ("--docker=--security-opt=systempaths=unconfined", "--docker=--volume=/var/lib/containers")
    box(name, f"{SUITE}+0.19.0", *podman)
    box(MODELS)
    # Containers do not reach the host, so their models are elsewhere.
    server = ("python3", "/usr/local/lib/fakes/model_server.py", "--host=0.0.0.0", "--port=18090")
    run("docker", "exec", MODELS, "systemd-run", "--quiet", *server)
    address = run(sys.executable, BOX, "address", MODELS).strip()
    install = "apt-get update -qq && apt-get install -qq --yes --no-install-recommends podman crun netavark iptables"
    run("docker", "exec", "--env=DEBIAN_FRONTEND=noninteractive", name, "sh", "-c", install)
    run("sh", "-c", f"docker save {image} | docker exec --interactive {name} podman load --quiet")
    run("docker", "cp", ROOT / "bench/runtimes.py", f"{name}:{PROGRAM}")
    model = {"provider": "custom", "default": "stub-model", "base_url": f"http://{address}:18090/v1"}
    return Site(directory, [name]), {
        "runtimes_enabled": True,
        "runtimes_image": f"localhost/{image}",
        "runtimes_secret": "the-secret-of-the-host-of-the-bench",
        "runtimes_egress": [f"{address}/32"],
        "runtimes_agent": {
            "config": {"model": {**model, "api_key": "${MODEL_API_KEY}"}},
            "secrets": Site.agent(0)["secrets"],
        },
    }


def runtimes(directory: Path) -> None:
    name = "bench-runtimes"
    site, declared = host_of_users(directory, name)
    site.site("--extra-vars", json.dumps(declared))
    none = run("docker", "exec", name, "python3", PROGRAM, "idle").strip()
    declared["runtimes_users"] = [f"user-{number}" for number in range(200)]
    site.site("--extra-vars", json.dumps(declared))
    print(run("docker", "exec", name, "python3", PROGRAM, "measure", none), end="", flush=True)
    took = []
    for _each in range(RUNS):
        output = site.site(
            "--extra-vars", json.dumps(declared), ANSIBLE_CALLBACKS_ENABLED="ansible.posix.profile_tasks"
        )
        took.append(float(re.findall(r"runtimes : Users have their agents -+ ([\d.]+)s", output)[0]))
    print(
        f"| no change, 200 declared users: the module run | {statistics.median(took):.1f} s | | | ≤ 2 s |", flush=True
    )
    callers = subprocess.Popen(["docker", "exec", name, "python3", PROGRAM, "roll"], stdout=subprocess.PIPE, text=True)
    if (ready := callers.stdout.readline()) != "ready\n":
        sys.exit(f"the agents that are to be called: {ready}")
    declared["runtimes_agent"]["soul"] = "Be kind."
    site.site("--extra-vars", json.dumps(declared))
    rolled = callers.communicate()[0]
    if callers.returncode:
        sys.exit(rolled)
    print(rolled, end="")
    down(name, MODELS)


def stream(directory: Path) -> None:
    name = "bench-stream"
    site, declared = host_of_users(directory, name)
    declared |= {"runtimes_users": ["user-0"], "runtimes_idle": 30}
    site.site("--extra-vars", json.dumps(declared))
    slow = json.dumps([{"pause": 60, "times": 0}])
    control = "http://127.0.0.1:18090/control/faults"
    run("docker", "exec", MODELS, "curl", "--silent", "--fail", "--data-binary", slow, control)
    print(run("docker", "exec", name, "python3", PROGRAM, "stream"), end="")
    down(name, MODELS)


def tenants(_directory: Path) -> None:
    print(run(sys.executable, ROOT / "bench/tenants.py"), end="")


def main() -> None:
    benches = {
        "first": first,
        "again": again,
        "everything": everything,
        "fleet": fleet,
        "replace": replace,
        "exposure": exposure,
        "backup": backup,
        "check": check,
        "secrets": secrets,
        "aws": aws,
        "image": image,
        "runtimes": runtimes,
        "stream": stream,
        "tenants": tenants,
        "update_downtime": update_downtime,
    }
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bench", nargs="*", choices=[[], *benches], help="default: all")
    chosen = parser.parse_args().bench or list(benches)
    print("| what | ours | floor | ratio | budget |\n|---|---|---|---|---|", flush=True)
    for name in chosen:
        with tempfile.TemporaryDirectory() as directory:
            benches[name](Path(directory))
            sys.stdout.flush()


if __name__ == "__main__":
    main()
