# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Sources are read side by side, and a look every minute imports no more than it needs."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.description.agent import Source
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.secrets import programs, sources, ssm
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.errors import OpsError

KIT = Path(__file__).resolve().parents[3] / "plugins/module_utils"
BOTH = {"one": Source(ssm="/shared"), "two": Source(ssm="/shared"), "three": Source(file="/x.age", identity="/y")}


def test_agents_that_share_a_source_share_its_credentials_and_no_error(monkeypatch):
    instances = []

    def read(source, instance):
        instances.append(instance)
        return {"A": source.ssm}

    monkeypatch.setattr(ssm, "read", read)
    monkeypatch.setattr(programs, "read_file", lambda source: {}[source])
    found = sources.read_all(BOTH)
    assert (found["one"], found["two"]) == ({"A": "/shared"}, {"A": "/shared"})
    assert len(set(instances)) == 1
    # A defect of one reader is the error of its agent.
    assert isinstance(found["three"], OpsError)
    assert "KeyError" in str(found["three"])
    assert list(found) == list(BOTH)


def test_a_slow_source_delays_no_other(monkeypatch):
    answered = threading.Event()

    def read(_source, instance):
        answered.set()
        return {"A": "1"}

    monkeypatch.setattr(ssm, "read", read)
    # Ends only because the others do not wait for it.
    monkeypatch.setattr(programs, "read_file", lambda _source: {"A": str(answered.wait(30))})
    order = {"three": BOTH["three"], "one": BOTH["one"]}
    assert sources.read_all(order) == {"three": {"A": "True"}, "one": {"A": "1"}}


def test_a_look_imports_neither_what_errors_need_nor_what_other_sources_need():
    unneeded = {"difflib", "http", "pkgutil", "ssl", "traceback", "urllib.request", "uuid", "yaml"}
    program = (
        f"import sys; sys.path.insert(0, {str(KIT)!r}); import hermes_ops.cli, hermes_ops.commands.secrets;"
        f"print(*{unneeded} & set(sys.modules))"
    )
    # Neither site's nor a pytest plugin's imports.
    done = subprocess.run([sys.executable, "-I", "-S", "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
