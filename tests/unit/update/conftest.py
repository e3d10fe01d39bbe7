# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Workers in the test's own process, so that a kill at any of their events is a kill of ours."""

from __future__ import annotations

import importlib
import json

import pytest
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system import worker
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.update import frozen


class PlayedWorker:
    """What goes in and comes out is JSON, as with a real one."""

    def __init__(self, owner, function, arguments=(), limits=None, descriptors=(), where=None) -> None:
        module, name = function.split(":")
        call = getattr(importlib.import_module(f"{worker.PACKAGE}.{module}"), name)
        self.value, self.error = None, None
        try:
            self.value = json.loads(json.dumps(call(*json.loads(json.dumps(list(arguments))))))
        except Exception as error:
            self.error = error

    def result(self):
        if self.error:
            raise self.error
        return self.value

    def end(self) -> None:
        pass


@pytest.fixture
def played_worker() -> type[PlayedWorker]:
    return PlayedWorker


@pytest.fixture
def real_workers() -> None:
    """For tests of what a worker keeps from root."""


@pytest.fixture(autouse=True)
def played_workers(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if "real_workers" not in request.fixturenames:
        monkeypatch.setattr(worker, "Worker", PlayedWorker)
        monkeypatch.setattr(frozen, "Worker", PlayedWorker)
