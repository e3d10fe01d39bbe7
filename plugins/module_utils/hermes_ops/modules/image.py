# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Build the image of an agent."""

from __future__ import annotations

from typing import Any

from ..host import kit
from ..release import image
from ..system.typed import parse
from .call import Call


def work(call: Call) -> dict[str, Any]:
    # From the collection's directory image; taken out, because the result repeats the arguments.
    programs = {name: text.encode() for name, text in call.params.pop("recipe").items()}
    params = dict(call.params)
    engine, push = image.find_engine(params.pop("engine")), params.pop("push")
    wanted = parse(image.Image, params, "image")
    plan, reference = image.plan_image(wanted, image.context(wanted, recipe(programs)), engine, push=push)
    return {**call.done(plan, "image"), "image": reference, "engine": engine}


def recipe(programs: dict[str, bytes]) -> dict[str, bytes]:
    """What every image is made of, by its place in the collection: the kit, and *programs* of the directory image."""
    return {
        **{f"plugins/module_utils/{path}": data for path, data in kit.sources().items()},
        **{f"image/{name}": data for name, data in programs.items()},
    }
