# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Action image: like that of every module, with the collection's directory image among the arguments."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ansible_collections.alwayson.hermes.plugins.action import host_kit

# The Containerfile, and the programs that its stages run.
RECIPE = Path(__file__).resolve().parents[2] / "image"


class ActionModule(host_kit.ActionModule):
    def _checked(self, name: str, specification: dict[str, Any]) -> dict[str, Any]:
        files = sorted(path for path in RECIPE.iterdir() if path.is_file())
        recipe = {path.name: path.read_text(encoding="utf-8") for path in files}
        return {**super()._checked(name, specification), "recipe": recipe}
