# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The host of a soak: a box with two agents, each on a disk that can be filled, and everything that is done to it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from load import HEARD, text_of

ROOT = Path(__file__).resolve().parents[2]
BOX_PROGRAM = ROOT / "tests/hosts/box.py"
BOX = "hermes-soak"
SUITE = "bookworm+0.18.2+0.19.0"
OLD, NEW = "0.18.2", "0.19.0"

# Agents -> ports of their API. The second one has a disk of its own.
PORTS = {"default": 8642, "small": 8643}
KEY = "the-key-of-the-soak-s-agents"
DATA = "/var/lib/hermes"
# Disks -> where they are mounted, their size in MiB, and the agents that cannot write when they are full.
DISKS: dict[str, tuple[str, int, tuple[str, ...]]] = {
    "data": (DATA, 2048, ("default",)),
    "small": (f"{DATA}/agents/small", 1024, ("small",)),
}
# In memory, because Docker can limit the size of nothing else. A container that does nothing keeps the contents while
# the box is without power.
KEEPER = f"{BOX}-keeper"

# The units in which jobs are killed: the kit's own, and one in which a person's restore runs.
BACKUP, UPDATE, RESTORE = "hermes-backup.service", "hermes-update-by-hand.service", "soak-restore.service"
# For the timers, because the soak starts every job itself.
NEVER = "*-01-01 00:00:00"
# The findings of `hermes-ops check` about how jobs ended; the next success of the job ends them.
OF_JOBS = ("update_", "backup_", "unit_failed")


class HostError(Exception):
    """The soak cannot go on."""


def command(*words: str | Path, check: bool = True, timeout: float | None = 600) -> subprocess.CompletedProcess[str]:
    """Run a command of this machine.

    :raises HostError: it failed and *check* is set, or did not end within *timeout* seconds
    """
    try:
        done = subprocess.run(
            [str(word) for word in words], capture_output=True, text=True, check=False, timeout=timeout
        )
    except subprocess.TimeoutExpired:
        raise HostError(f"{' '.join(map(str, words))}: does not end") from None
    if check and done.returncode:
        raise HostError(f"{' '.join(map(str, words))}: {(done.stderr or done.stdout).strip()[-2000:]}")
    return done


class Host:
    """The box, its disks, and the directory from which it is converged.

    :param directory: for the inventory and the logs
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.address = ""
        self._turns = 100

    # --- up and down -------------------------------------------------------------------------------------------

    def up(self) -> None:
        """Make the box and converge it."""
        self.down()
        volumes = {name: f"{BOX}-{name}" for name in DISKS}
        image = command(sys.executable, BOX_PROGRAM, "image", SUITE, timeout=None).stdout.strip()
        for name, volume in volumes.items():
            options = ("type=tmpfs", "device=tmpfs", f"o=size={DISKS[name][1]}m,mode=0755")
            command("docker", "volume", "create", *(f"--opt={option}" for option in options), volume)
        mounts = [f"--volume={volume}:{DISKS[name][0]}" for name, volume in volumes.items()]
        command("docker", "run", "--detach", "--name", KEEPER, *mounts, image, "sleep", "infinity")
        command(sys.executable, BOX_PROGRAM, "up", BOX, SUITE, *(f"--docker={mount}" for mount in mounts))
        self._look_up()
        self._start_model()
        self._write_inventory()
        for job in ("site", "backup"):
            if self.start(job).wait():
                raise HostError(f"the host cannot be prepared; see {self.directory}/{job}.log")

    def down(self) -> None:
        command("docker", "rm", "--force", "--volumes", BOX, KEEPER, check=False)
        command("docker", "volume", "rm", "--force", *(f"{BOX}-{name}" for name in DISKS), check=False)

    def _look_up(self) -> None:
        """The box may have another address after each boot."""
        self.address = command(sys.executable, BOX_PROGRAM, "address", BOX).stdout.strip()

    def _start_model(self) -> None:
        unit = (
            "[Service]\\nExecStart=/usr/bin/python3 /usr/local/lib/fakes/model_server.py\\nRestart=always\\n"
            "[Install]\\nWantedBy=multi-user.target\\n"
        )
        command("docker", "cp", ROOT / "tests/fakes", f"{BOX}:/usr/local/lib/fakes")
        self.shell(
            f"printf '{unit}' >/etc/systemd/system/model-server.service; systemctl --quiet enable --now model-server"
        )

    # --- commands ----------------------------------------------------------------------------------------------

    def shell(self, script: str, *, check: bool = True) -> str:
        """Run *script* as root in the box, and return what it prints."""
        return command("docker", "exec", BOX, "sh", "-ec", script, check=check).stdout

    def start(self, job: str, agent: str = "default") -> subprocess.Popen[bytes]:
        """Start a job, as a person or a timer would; its output goes to a log.

        :param agent: whose home a restore replaces
        """
        commands = {
            "backup": ("systemctl", "start", BACKUP),
            "restore": (
                *("systemd-run", "--quiet", "--collect", "--wait", f"--unit={RESTORE}"),
                *("hermes-ops", "restore", "--force", "--agent", agent),
            ),
            "update": ("hermes-ops", "update", "--version", NEW),
            "rollback": ("hermes-ops", "rollback", "--to", OLD),
        }
        line = ["docker", "exec", BOX, *commands[job]] if job in commands else self._site()
        environment = {
            **os.environ,
            "PATH": f"{ROOT}/.venv/bin:{os.environ['PATH']}",
            "ANSIBLE_CONFIG": str(self.directory / "ansible.cfg"),
            "ANSIBLE_NOCOLOR": "1",
        }
        with (self.directory / f"{job}.log").open("ab") as log:
            log.write(f"$ {' '.join(line)}\n".encode())
            log.flush()
            return subprocess.Popen(
                line, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, start_new_session=True
            )

    def kill(self, job: str, process: subprocess.Popen[bytes]) -> None:
        """Kill a job with SIGKILL, with all its processes."""
        if job == "site":
            end_at_once(process)
            return
        unit = {"backup": BACKUP, "restore": RESTORE}.get(job, UPDATE)
        # Nothing is killed if it has ended already.
        self.shell(f"systemctl kill --signal=KILL {unit}", check=False)

    @property
    def version(self) -> str:
        return self.shell("readlink /opt/hermes/current").strip().rpartition("/")[2].partition("-")[0]

    # --- the declaration ---------------------------------------------------------------------------------------

    def _site(self) -> list[str]:
        """A run of site.yml with a change for every agent, which restarts it."""
        self._turns += 1
        agents = json.dumps({"hermes_agents": [self._agent(name) for name in PORTS]})
        return ["ansible-playbook", "--extra-vars", agents, "alwayson.hermes.site"]

    def _agent(self, name: str) -> dict[str, Any]:
        return {
            "name": name,
            # From outside of the box, as users come; with a real key, without which that would be refused.
            "api": {"host": "0.0.0.0", "port": PORTS[name]},
            "config": {
                "model": {
                    "provider": "custom",
                    "default": "stub-model",
                    "base_url": "http://127.0.0.1:18080/v1",
                    "api_key": "${MODEL_API_KEY}",
                },
                "approvals": {"mode": "off"},
                "agent": {"max_turns": self._turns},
            },
            "secrets": {"MODEL_API_KEY": "sk-soak", "API_SERVER_KEY": KEY},
        }

    def _write_inventory(self) -> None:
        (self.directory / "ansible.cfg").write_text(
            f"[defaults]\ncollections_path = {ROOT}/.cache/collections\ninventory = hosts.json\n"
            "[connection]\npipelining = true\n"
        )
        variables = {
            "ansible_connection": "community.docker.docker",
            "ansible_python_interpreter": "/usr/bin/python3",
            "hermes_version": f">={OLD},<0.20",
            "gateway_restart_sec": 2,
            "backup_calendar": NEVER,
            "auto_update_enabled": True,
            "auto_update_calendar": NEVER,
            # A canary would take most of the soak's time; the scenario update kills those.
            "auto_update_canary": False,
            "auto_update_stable_seconds": 3,
            # Low, because the disks are small.
            "auto_update_min_free_mb": 50,
            # Figures of the last hour, which is full of faults, are no failure here.
            "heartbeat_enabled": True,
            "heartbeat_textfile": "/var/lib/hermes.prom",
            "heartbeat_restarts": 100000,
            "heartbeat_provider_error_percent": 100,
        }
        inventory = {"hermes": {"hosts": {BOX: {}}, "vars": variables}}
        (self.directory / "hosts.json").write_text(json.dumps(inventory))

    # --- faults ------------------------------------------------------------------------------------------------

    def kill_gateway(self, agent: str) -> None:
        self.shell(f"systemctl kill --signal=KILL hermes-gateway@{agent}.service")

    def cut_power(self) -> None:
        """End every process at once, and boot again."""
        command("docker", "kill", "--signal=KILL", BOX)
        command("docker", "start", BOX)
        self._look_up()

    def fill(self, disk: str) -> None:
        """Fill *disk* to its last byte."""
        place, size, _agents = DISKS[disk]
        # fallocate(1) takes nothing if it cannot have all, so dd takes the rest.
        self.shell(
            f"cd {place}; free=$(df --output=avail -k . | tail -n 1); fallocate --length $((free * 95 / 100))K filler; "
            f"dd if=/dev/zero of=filler.rest bs=1M count={size} || dd if=/dev/zero of=filler.end bs=4k || true",
            check=False,
        )

    def free(self, disk: str) -> None:
        self.shell(f"rm -f {DISKS[disk][0]}/filler*")

    # --- what it says ------------------------------------------------------------------------------------------

    def busy(self) -> bool:
        """Whether a job is under way, or systemd is about to start a killed one again."""
        ask = "systemctl list-units --no-legend --state=active,activating,deactivating"
        return bool(self.shell(f"{ask} 'hermes-update*.service' 'hermes-restore*.service' {BACKUP} {RESTORE}").strip())

    def problems(self, *, of_jobs: bool) -> list[str]:
        """The failures that ``hermes-ops check`` reports.

        :param of_jobs: also how jobs ended, and failed units
        """
        said = command("docker", "exec", BOX, "hermes-ops", "check", "--json", check=False, timeout=120)
        try:
            findings = json.loads(said.stdout)["findings"]
        except ValueError:
            return [(said.stderr or said.stdout).strip()[-500:] or "no answer"]
        return [
            f"{each['cause']}: {each['what']}"
            for each in findings
            if (of_jobs if each["cause"].startswith(OF_JOBS) else each["failure"])
        ]

    def forget_requests(self) -> None:
        """The model server remembers every request, which would fill the memory."""
        self.shell("curl --silent --max-time 10 --request DELETE http://127.0.0.1:18080/control", check=False)

    def numbers(self) -> tuple[set[int], set[int]]:
        """The numbers of the messages in the agents' sessions, and of those in data that was set aside."""
        text = text_of(0).replace("0", r"(\d+)")
        command("docker", "cp", Path(__file__).with_name("sessions.py"), f"{BOX}:/root/sessions.py")
        done = command("docker", "exec", BOX, "python3", "/root/sessions.py", DATA, text, HEARD + text)
        found = json.loads(done.stdout)
        return set(found["kept"]), set(found["aside"])

    def tidy(self) -> set[int]:
        """Remove what was set aside once a disk is half full of it, as an operator has to.

        :returns: the numbers of the messages in it
        """
        places = " ".join(place for place, _size, _agents in DISKS.values())
        used = self.shell(f"df --output=pcent {places} | tail -n +2").replace("%", "").split()
        if max(map(int, used)) < 50:
            return set()
        _kept, aside = self.numbers()
        homes = f"{DATA}/agents/*/.hermes"
        self.shell(f"rm -rf {DATA}/ops/set-aside/* {homes}/.hermes-ops-set-aside-* {homes}/.hermes-ops-undone-*")
        return aside

    def bundle(self) -> None:
        """Everything that somebody needs who looks into a fault that did not heal."""
        scripts = {
            "check.txt": "hermes-ops check",
            "status.json": "hermes-ops status --json",
            "journal.txt": "journalctl --no-pager --lines 20000",
            "units.txt": "systemctl list-units --all --no-pager 'hermes*'; df -h; find /var/lib/hermes/ops",
        }
        for name, script in scripts.items():
            done = command("docker", "exec", BOX, "sh", "-c", script, check=False)
            (self.directory / name).write_text(done.stdout + done.stderr)
        self.shell("cd /root && rm -f hermes-debug-* && hermes-ops debug", check=False)
        made = self.shell("ls /root/hermes-debug-*.tar.gz", check=False).split()
        for path in made:
            command("docker", "cp", f"{BOX}:{path}", self.directory, check=False)


def end_at_once(process: subprocess.Popen[bytes]) -> None:
    """Kill a run of ansible-playbook with its workers, each of which has its own session."""
    family = [process.pid]
    for pid in family:
        family += map(int, command("pgrep", "--parent", str(pid), check=False).stdout.split())
    for pid in family:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.wait()
