# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""An image built from this checkout, and an agent that it can run."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "hosts"))
sys.path.insert(0, str(Path(__file__).resolve().parent))
import agent_image
from containers import Container, declared, model_server


@pytest.fixture(scope="session")
def image() -> str:
    return agent_image.build()


@pytest.fixture(scope="session")
def network(image: str) -> Iterator[str]:
    with model_server(image) as name:
        yield name


@pytest.fixture
def agent(image: str, network: str, tmp_path: Path) -> Iterator[Container]:
    """An agent that is declared, but not started."""
    with declared(image, network, tmp_path) as container:
        yield container
