# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Prove that a release that was built starts."""

from __future__ import annotations

import os
import re

from ..system.errors import OpsError
from ..system.process import run
from .versions import normal
from .workshop import Workshop

# Extras that bring aiohttp (0.19.0 METADATA). Without it the gateway has neither API server nor webhooks.
AIOHTTP_EXTRAS = frozenset({"all", "homeassistant", "matrix", "messaging", "slack", "sms", "teams", "termux-all"})
_SAID_VERSION = re.compile(r"\bv?(\d+\.\d+[0-9A-Za-z.]*)")


def prove(shop: Workshop, expected: str | None) -> str:
    """Start the new release as an unprivileged user and without network; returns the version that it reports.

    :raises OpsError: it does not start, lacks a package that its extras promise, or is another version
    """
    home = os.path.join(shop.work, "home")
    os.chmod(shop.work, 0o711)
    os.mkdir(home)
    if shop.nobody:
        os.chown(home, shop.nobody.uid, shop.nobody.gid)
    # `hermes --version` asks the index for updates (0.19.0 hermes_cli/banner.py). With a dead proxy that fails at once.
    dead = dict.fromkeys(("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"),
                         "http://127.0.0.1:9")  # fmt: skip
    env = {**dead, "HOME": home, "HERMES_HOME": os.path.join(home, "hermes"), "no_proxy": "", "NO_PROXY": ""}
    modules = ["gateway", *(["aiohttp"] if AIOHTTP_EXTRAS.intersection(shop.request.extras) else [])]
    said = ""
    for argv in (
        [shop.python, "-c", f"import {', '.join(modules)}"],
        [os.path.join(shop.partial, "bin", "hermes"), "--version"],
    ):
        done = run(argv, timeout=120, check=False, env=env, cwd=home, user=shop.nobody, pass_fds=(shop.descriptor,))
        if not done.ok:
            raise OpsError(
                f"{shop.about}: built, but {' '.join(map(os.path.basename, argv))} fails: {done.last_words}; "
                "nothing was changed",
                fix="take another version; check that all users may enter the install root",
            )
        said = done.stdout
    match = _SAID_VERSION.search(said)
    if match is None:
        raise OpsError(f"{shop.about}: bin/hermes --version names no version; nothing was changed")
    version = normal(match[1])
    # A tree may have no version of its own, or a newer one than its tag.
    if (shop.tree.versions if shop.tree else shop.request.method == "pypi") and version != expected:
        raise OpsError(f"{shop.about}: built, but it reports version {version}; nothing was changed")
    return version
