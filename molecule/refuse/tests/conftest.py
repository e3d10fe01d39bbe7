# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Fixtures of this scenario: runs of site.yml, and a host that has to be as it was."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "shared"))

from control import controller, differences
from killer import killer

__all__ = ["controller", "killer"]


@pytest.fixture
def unharmed(controller: Any, agent: Any) -> Iterator[None]:
    """The host is the same after the test as before, and its agent never stopped answering."""
    before, pid = controller.manifest(), agent().pid
    assert pid
    yield
    assert not differences(before, controller.manifest())
    assert agent().pid == pid
    assert agent().reply("well?") == "The model heard: well?"
