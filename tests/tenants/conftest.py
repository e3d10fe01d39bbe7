# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A real API server, without anything that would act on what it holds; and a whole cluster."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

# script/bootstrap links the checkout there, under the name that Ansible expects.
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / ".cache/collections"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "fakes"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "hosts"))
sys.path.insert(0, str(Path(__file__).resolve().parent))
import agent_image
import whole
from ansible_collections.alwayson.hermes.plugins.module_utils.tenants import readiness
from api_server import ApiServer
from containers import model_server
from played_node import PlayedNode
from player import Player
from space import Space

BUILDER = Path(__file__).resolve().parents[1] / "hosts/kubernetes_programs.py"


@pytest.fixture(scope="session")
def programs() -> Path:
    done = subprocess.run([sys.executable, BUILDER], stdout=subprocess.PIPE, text=True, check=True)
    return Path(done.stdout.strip())


@pytest.fixture(scope="session")
def server(programs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    with ApiServer(programs, tmp_path_factory.mktemp("cluster")) as server:
        yield server


@pytest.fixture
def namespace(server: ApiServer) -> str:
    """The name of a namespace that is this test's own, and is not there yet."""
    server.count += 1
    return f"tenants-{server.count}"


@pytest.fixture(scope="session")
def cluster(programs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[whole.Cluster]:
    """A cluster of two nodes."""
    with contextlib.ExitStack() as stack:
        model = stack.enter_context(model_server(agent_image.build()))
        yield whole.cluster(stack, programs, tmp_path_factory.mktemp("whole"), model, network=model)


@pytest.fixture(scope="session")
def node_program() -> Path:
    done = subprocess.run(
        [sys.executable, BUILDER.with_name("kubelet.py")], stdout=subprocess.PIPE, text=True, check=True
    )
    return Path(done.stdout.strip())


@pytest.fixture
def node(server: ApiServer, node_program: Path, tmp_path: Path) -> Iterator[PlayedNode]:
    """A node on which commands are executed by a program of the test."""
    with PlayedNode(server, node_program, tmp_path / "container") as node:
        yield node


@pytest.fixture
def space(server: ApiServer, namespace: str) -> Space:
    return Space(server, namespace)


@pytest.fixture
def player(space: Space, monkeypatch: pytest.MonkeyPatch) -> Iterator[Player]:
    with Player(space) as player:
        monkeypatch.setattr(readiness, "time", player)
        yield player
