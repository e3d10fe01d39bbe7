# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""tests/hosts/built.py builds once for all who ask at the same time, and again after a change."""

from __future__ import annotations

import importlib.util
import shutil
import threading
import time
from pathlib import Path

import pytest

FILE = Path(__file__).resolve().parents[2] / "hosts/built.py"


@pytest.fixture
def built(tmp_path, monkeypatch):
    spec = importlib.util.spec_from_file_location("built", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "ROOT", tmp_path)
    monkeypatch.setattr(shutil, "which", lambda _name: "/usr/bin/go")
    return module


@pytest.fixture
def ingredient(tmp_path):
    path = tmp_path / "ingredient"
    path.write_text("1")
    return path


def test_all_who_ask_at_once_get_what_one_built(built, ingredient):
    made, got = [], []

    def build(target):
        made.append(target)
        time.sleep(0.3)
        (target / "program").write_text("it")

    threads = [threading.Thread(target=lambda: got.append(built.once("x", [ingredient], build))) for _each in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1
    assert len(got) == 4
    assert len(set(got)) == 1
    assert (got[0] / "program").read_text() == "it"


def test_a_change_and_a_build_that_was_cut_off_are_built_again(built, ingredient):
    def fail(target):
        (target / "half").write_text("")
        raise SystemExit("no")

    with pytest.raises(SystemExit):
        built.once("x", [ingredient], fail)
    first = built.once("x", [ingredient], lambda target: (target / "program").write_text("it"))
    assert [path.name for path in first.iterdir()] == ["program"]
    ingredient.write_text("2")
    assert built.once("x", [ingredient], lambda _target: None) != first
    assert not first.exists()


def test_without_go_it_says_so(built, ingredient, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda _name: None)
    with pytest.raises(SystemExit, match="no Go to build x"):
        built.once("x", [ingredient], lambda _target: None)


def test_a_command_that_fails_is_quoted(built):
    assert built.run("sh", "-c", "echo told; echo noise >&2") == "told\n"
    with pytest.raises(SystemExit, match="the reason"):
        built.run("sh", "-c", "echo the reason >&2; exit 1")
