# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Homes of another user, and mounts that only the test sees."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.files import Account


@pytest.fixture
def nobody() -> Account:
    return Account.named("nobody")


@pytest.fixture
def mounted() -> Callable[[Path, Path, Callable[[], None]], None]:
    """Calls a function in a process of its own, in which one directory is mounted on another."""
    if os.geteuid() != 0 or not shutil.which("unshare") or subprocess.run(["unshare", "-m", "true"]).returncode:
        pytest.skip("SKIPPED, NOT PROVED: mounts need root and a namespace for them")

    def call(what: Path, on: Path, act: Callable[[], None]) -> None:
        child = os.fork()
        if child == 0:
            status = 1
            try:
                unshare()
                subprocess.run(["mount", "--make-rprivate", "/"], check=True)
                subprocess.run(["mount", "--bind", str(what), str(on)], check=True)
                act()
                status = 0
            except BaseException:
                traceback.print_exc()
                sys.stderr.flush()
            finally:
                os._exit(status)
        assert os.waitpid(child, 0)[1] == 0

    return call


def unshare() -> None:
    """A mount namespace of our own (unshare(2), CLONE_NEWNS)."""
    if ctypes.CDLL(None, use_errno=True).unshare(0x00020000):
        raise OSError(ctypes.get_errno(), "unshare")


@pytest.fixture
def nest() -> Callable[[Path, int], None]:
    """Makes nested directories, deeper than a path can name, each with a file in it."""

    def make(directory: Path, depth: int) -> None:
        descriptor = os.open(directory, os.O_RDONLY)
        for _level in range(depth):
            os.close(os.open("file", os.O_WRONLY | os.O_CREAT, dir_fd=descriptor))
            os.mkdir("d", dir_fd=descriptor)
            below = os.open("d", os.O_RDONLY, dir_fd=descriptor)
            os.close(descriptor)
            descriptor = below
        os.close(descriptor)

    return make
