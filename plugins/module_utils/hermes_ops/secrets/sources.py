# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reads sources of secrets, several at once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from functools import partial
from typing import Union

from ..description.agent import Source
from ..system.errors import OpsError, as_error

# What a source gives: secrets by name, or why there are none.
Answer = Union[dict[str, str], OpsError]


def read_all(sources: Mapping[str, Source]) -> dict[str, Answer]:
    """What each of *sources* gives, by the same keys. One that is slow does not delay the others."""
    read_ssm = _of_aws() if any(source.ssm for source in sources.values()) else _run
    found: dict[str, Answer] = {}

    def read(name: str, source: Source) -> None:
        try:
            found[name] = read_ssm(source) if source.ssm else _run(source)
        except Exception as caught:
            found[name] = as_error(caught)

    threads = [threading.Thread(target=read, args=each) for each in sources.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return {name: found[name] for name in sources}


def _run(source: Source) -> dict[str, str]:
    """Imports what reads files and commands only where there are some, like :func:`_of_aws`."""
    from . import programs

    return programs.read_file(source) if source.file else programs.read_command(source)


def _of_aws() -> Callable[[Source], dict[str, str]]:
    """Reads a path of the parameter store. The credentials of the instance serve all of a run.

    Imported only where it is used, because HTTP and TLS are a good part of what a look costs.
    """
    from . import ssm

    return partial(ssm.read, instance=ssm.Instance())
