# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""``hermes-ops module``: do the work of a module of the Ansible collection. JSON in, JSON out."""

from __future__ import annotations

import argparse
import importlib
import json
import pkgutil
import sys

from .. import modules
from ..cli import EXIT_OK, EXIT_UNHEALTHY, say
from ..modules.call import Call, answer

SUMMARY = "do the work of a module of the Ansible collection (for its own use)"


def arguments(parser: argparse.ArgumentParser) -> None:
    names = sorted({module.name for module in pkgutil.iter_modules(modules.__path__)} - {"call"})
    parser.add_argument("name", choices=names, help="the module; reads its call as JSON from standard input")


def work(arguments: argparse.Namespace) -> int:
    call = Call(**json.load(sys.stdin))
    result = answer(importlib.import_module(f"{modules.__name__}.{arguments.name}").work, call)
    say(json.dumps(result))
    return EXIT_UNHEALTHY if result.get("failed") else EXIT_OK
