# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The build of Tailscale for tests: scenarios that run side by side share it."""

from __future__ import annotations

import importlib.util
import os
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def tailnet(tmp_path, monkeypatch):
    specification = importlib.util.spec_from_file_location("tests_tailnet", ROOT / "tests/hosts/tailnet.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    monkeypatch.setattr(module, "CACHE", tmp_path / "cache")
    monkeypatch.setattr(module.shutil, "which", lambda _name: "/usr/bin/go")

    def build(target: Path) -> None:
        with (tmp_path / "builds").open("a") as stream:
            stream.write("begun\n")
        time.sleep(0.2)
        (target / "tailscaled").write_text("built")

    monkeypatch.setattr(module, "build", build)
    return module


def run(tailnet) -> int:
    """:returns: the process"""
    pid = os.fork()
    if pid == 0:
        try:
            tailnet.main()
        except BaseException:
            os._exit(1)
        os._exit(0)
    return pid


def test_scenarios_that_need_it_at_once_build_it_once(tailnet, tmp_path):
    """And one that was killed meanwhile, or an older version, is in nobody's way."""
    for name in ("0123456789ab", "0123456789ab.partial"):
        (tailnet.CACHE / name).mkdir(parents=True)
    started = [run(tailnet) for _each in range(3)]
    assert [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in started] == [0, 0, 0]
    assert (tmp_path / "builds").read_text() == "begun\n"
    (built,) = (path for path in tailnet.CACHE.iterdir() if path.name != "lock")
    assert (built / "tailscaled").read_text() == "built"
    assert not built.name.endswith(".partial")
