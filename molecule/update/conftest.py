# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Fixtures of this scenario: a host that is updated, and faults at an exact system call of a step of the update."""

from __future__ import annotations

import json
import subprocess
import textwrap
from collections.abc import Iterator
from typing import Any

import pytest
from control import Controller, controller
from inside import inside

__all__ = ["controller"]

INDEX = "http://127.0.0.1:18090"
PINGS = "http://127.0.0.1:18091"
UPDATE_CHECK = "22222222-2222-4222-8222-222222222222"
OPS = "/var/lib/hermes/ops"
JOURNAL = f"{OPS}/update/journal.json"
HOME = "/var/lib/hermes/agents/default/.hermes"
# Every release that the tests offer is in this range; the hosts start below 0.19.
RANGE = ">=0.18.2,<0.30"

# File with the fault of the made-up release on this host: TOLD in tests/fakes/package_index.py.
TOLD = "/run/made-up"
# Orders for files/obey.py.
ORDERS = "/run/orders"


class Host:
    """The box, as root operates it."""

    def __init__(self, controller: Controller) -> None:
        self.controller = controller
        self.box = controller.box
        self.shell = controller.shell

    # The index.

    def control(self, method: str, path: str, value: Any = None, server: str = INDEX) -> Any:
        script = f'curl --silent --show-error --fail --request {method} --data-raw "$1" {server}/control{path}'
        return json.loads(self.shell(script, "" if value is None else json.dumps(value)))

    def offer(self, version: str, wrong: str = "") -> None:
        """Offer a made-up release in the index, with a fault.

        A release that is built already only gets the new fault.

        :param wrong: a key of WRONG in tests/fakes/package_index.py, ``broken``, or empty for a good release
        """
        self.control("POST", "/offer", {version: "broken" if wrong == "broken" else "good"})
        self.controller.write(TOLD, wrong)

    def pings(self) -> list[str]:
        """The kinds of pings that the update has sent since the last call."""
        found = [p["kind"] for p in self.control("GET", "/pings", server=PINGS) if p["uuid"] == UPDATE_CHECK]
        self.control("DELETE", "", server=PINGS)
        return found

    # Running updates.

    def set(self, **settings: Any) -> None:
        """Change /etc/hermes-ops/update.json; site.yml would do the same, but more slowly.

        :param settings: ``version`` of the release, and settings of the update
        """
        script = """
            import json, sys
            path = "/etc/hermes-ops/update.json"
            with open(path) as stream:
                values = json.load(stream)
            with open(path, "w") as stream:
                given = json.loads(sys.argv[1])
                release = {**values["release"], **{key: given.pop(key) for key in list(given) if key == "version"}}
                json.dump({**values, **given, "release": release}, stream)
        """
        self.shell('python3 -c "$1" "$2"', textwrap.dedent(script), json.dumps(settings))

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run ``hermes-ops`` as a person would."""
        return subprocess.run(
            [*inside(self.box), "hermes-ops", *arguments], capture_output=True, text=True, check=False
        )

    def update(self, *arguments: str) -> dict[str, Any]:
        """Run an update by hand; returns its JSON, with exit status and log."""
        done = self.command("update", *arguments, "--json")
        assert done.returncode in (0, 1), done.stderr
        return {**json.loads(done.stdout), "rc": done.returncode, "log": done.stderr}

    def by_timer(self) -> dict[str, Any]:
        """Run the timer's own unit until it is inactive or failed; returns the update's status."""
        self.shell("systemctl reset-failed hermes-update.service; systemctl start hermes-update.service || true")
        self.shell(
            "while :; do case $(systemctl show --property ActiveState --value hermes-update.service) in "
            "inactive | failed) break ;; esac; sleep 0.5; done"
        )
        return self.status()

    def forgive(self) -> None:
        """Let failed or rolled-back releases be tried again; they are still installed, so nothing is built."""
        self.shell(f"rm --force {OPS}/update/failed.json")

    def status(self) -> dict[str, Any]:
        return json.loads(self.controller.read(f"{OPS}/status/update.json"))

    def log(self) -> str:
        return self.shell("journalctl --unit hermes-update --lines 60 --output cat --no-pager")

    def orders(self, *orders: tuple[str, int, str]) -> None:
        """Order commands for files/obey.py: (step, number of events after it, command). ``$PPID`` is the updater."""
        self.controller.write(ORDERS, json.dumps([dict(zip(("step", "after", "command"), order)) for order in orders]))

    def orders_done(self) -> bool:
        return json.loads(self.controller.read(ORDERS)) == []

    # Checks.

    @property
    def release(self) -> str:
        return self.shell("readlink /opt/hermes/current").strip().rpartition("/")[2]

    def words(self, home: str = HOME) -> set[str]:
        """All messages in all sessions of the default agent, or of a copy of its home."""
        script = """
            import json, sqlite3, sys
            database = sqlite3.connect(f"file:{sys.argv[1]}/state.db?mode=ro", uri=True)
            said = database.execute("SELECT content FROM messages WHERE role IN ('user', 'assistant')")
            json.dump(sorted({str(row[0]) for row in said}), sys.stdout)
        """
        return set(json.loads(self.shell('python3 -c "$1" "$2"', textwrap.dedent(script), home)))

    def clean(self) -> None:
        """Check that nothing of an update is left."""
        left = self.shell(
            f"ls -d {JOURNAL} /var/lib/hermes/scratch/* "
            "/etc/systemd/system/hermes-update-recovery.service "
            "/opt/hermes/releases/*.partial /opt/hermes/releases/*.work 2>/dev/null || true"
        )
        assert not left
        assert self.shell("systemctl is-active hermes-canary.service || true").strip() == "inactive"


@pytest.fixture
def box(controller: Controller) -> Iterator[Host]:
    made = Host(controller)
    yield made
    made.shell(f"rm -f {ORDERS}")


@pytest.fixture
def well(box: Host, agent: Any) -> Any:
    """A function that checks that the agent answers, runs the release with a version, and remembers everything."""
    before = box.words()

    def check(version: str, scope: str = "system") -> None:
        assert box.release.startswith(f"{version}-"), box.status()
        answer = agent().reply("well?")
        assert answer == "The model heard: well?"
        health = json.loads(box.shell(f"curl --silent --fail {agent().url}/health"))
        assert health["version"] == version
        assert agent("jobs", scope=scope).show("ActiveState") == "active"
        assert before <= box.words(), before - box.words()
        box.clean()

    return check
