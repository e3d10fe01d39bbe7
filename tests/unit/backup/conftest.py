# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs workers in the test's own process, so that a test can act between two of their steps."""

from __future__ import annotations

import importlib
import json

import pytest
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.backup import extracting, making
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system import worker


class Inline:
    """A worker without a process of its own."""

    def __init__(self, account, function, arguments=(), limits=None, descriptors=(), where=None):
        module, name = function.split(":")
        self.function = getattr(importlib.import_module(f"{worker.PACKAGE}.{module}"), name)
        self.arguments = json.loads(json.dumps(arguments))

    def result(self):
        return json.loads(json.dumps(self.function(*self.arguments), allow_nan=False))

    def end(self):
        pass


@pytest.fixture
def inline(monkeypatch):
    for module in (worker, extracting, making):
        monkeypatch.setattr(module, "Worker", Inline)


@pytest.fixture
def inline_worker():
    return Inline
