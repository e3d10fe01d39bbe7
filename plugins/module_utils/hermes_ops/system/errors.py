# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The one error of the kit, and the one kind of it that is no failure."""

from __future__ import annotations

import os


class OpsError(Exception):
    """An error for the operator: what is wrong, where, and how to fix it.

    :param what: one sentence, without a trailing full stop
    :param where: the file (with ``:line`` or ``: key``), unit, URL or agent
    :param fix: what the operator should do, as an imperative
    """

    # Of the command that it ends.
    exit_status = 2

    def __init__(self, what: str, *, where: str | None = None, fix: str | None = None) -> None:
        self.what = what
        self.where = where
        self.fix = fix
        super().__init__(str(self))

    def __str__(self) -> str:
        text = f"{self.where}: {self.what}" if self.where else self.what
        return f"{text}. Fix: {self.fix}" if self.fix else text


class Refused(OpsError):
    """Another job is under way. Nothing was changed, and the same command can succeed once that job is over.

    The job that goes on does the work or reports its own failure, so a unit that was refused has not failed.
    """

    exit_status = 3


def as_error(caught: Exception) -> OpsError:
    """*caught* as an :class:`OpsError`, so that the caller can go on with the other agents.

    An agent's data may trigger a defect of the kit. The defect then counts as a failure for this agent only, and the
    error names the place in the kit.
    """
    if isinstance(caught, OpsError):
        return caught
    if isinstance(caught, OSError):
        return OpsError(str(caught.strerror or caught), where=caught.filename)
    import traceback

    frames = traceback.extract_tb(caught.__traceback__)
    place = f" ({os.path.basename(frames[-1].filename)}:{frames[-1].lineno})" if frames else ""
    # Without the exception's own text, which may quote a secret.
    return OpsError(f"failed with {type(caught).__name__}{place}", fix="report it: this is a defect")
