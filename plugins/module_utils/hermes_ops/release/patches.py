# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Apply the patches of a release, each exactly or not at all."""

from __future__ import annotations

import os
import re
from typing import NoReturn

from ..system.errors import OpsError
from ..system.process import Completed
from .request import read_patches
from .workshop import Workshop


def apply_patches(shop: Workshop, tree: str) -> list[str]:
    """Apply the patches to *tree*, each exactly: where a context differs, a person has to look.

    git applies them. Hosts have it (base_packages), it applies a patch as a whole or not at all, never guesses (GNU
    patch does by default), and writes nothing outside *tree*, not even through a link.

    :returns: the files that were changed
    :raises OpsError: a patch does not apply; names the patch, the file, and the lines that were not found
    """
    changed: list[str] = []
    for name, text in read_patches(shop.request):
        path = shop.write("patch", text if text.endswith("\n") else text + "\n")
        checked = _apply(shop, tree, "--check", "--verbose", path)
        if not checked.ok:
            _explain(shop, name, checked.stderr, there=_apply(shop, tree, "--check", "--reverse", path).ok)
        _apply(shop, tree, path)
        stats = _apply(shop, tree, "--numstat", "-z", path).stdout.split("\0")
        changed += [os.path.join(tree, entry.split("\t")[-1]) for entry in stats if entry]
    return changed


def _apply(shop: Workshop, tree: str, *arguments: str) -> Completed:
    # git must ignore a repository that the tree happens to lie in.
    env = {"GIT_CEILING_DIRECTORIES": os.path.dirname(tree)}
    argv = ["git", "apply", "--whitespace=nowarn", *arguments]
    return shop.run(argv, env=env, cwd=tree)


def _explain(shop: Workshop, name: str, said: str, *, there: bool) -> NoReturn:
    """:raises OpsError: explains the output of ``git apply --check --verbose``"""
    if there:
        raise OpsError(f"{shop.about}: {name} is in it already; nothing was changed", fix="take it out of patches")
    missing = re.search(r"^error: while searching for:\n(.*?)\nerror: ", said, re.MULTILINE | re.DOTALL)
    errors = [line[len("error: ") :] for line in said.splitlines() if line.startswith("error: ")]
    errors = [line for line in errors if line != "while searching for:"]
    lines = f"; these lines were not found:\n{missing[1]}\n" if missing else "; "
    raise OpsError(
        f"{shop.about}: {name} does not apply ({', '.join(errors)}){lines}nothing was changed",
        fix="adapt the patch to this version, or take it out of patches",
    )
