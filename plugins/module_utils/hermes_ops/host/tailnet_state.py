# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The identity of the node, kept on the data volume: /var/lib/tailscale becomes a link into it.

The directory is moved once. At every moment of the move, a tailscaled that starts finds the identity whole: first the
volume gets a copy under its final name, then the link takes the place of the directory in one system call. So a power
cut at any moment needs no repair at the next boot. A move that was killed is finished by the next one.

tailscaled must not run meanwhile, and the caller may be connected through it. So systemd runs the move, and starts
tailscaled at its end, even if the caller is gone or the move was killed.
"""

from __future__ import annotations

import base64
import ctypes
import json
import os
import shutil
import sys

from ..system import trees
from ..system.errors import OpsError
from ..system.files import check_trusted, ensure_directory, failure, read_json, read_text, sync_directory
from ..system.plan import Difference, Plan
from ..system.process import run
from ..system.systemd import Manager
from .tailnet import UNIT

# Where tailscaled keeps its state (tailscaled.service: StateDirectory=, --state=).
PLACE = "/var/lib/tailscale"
# The directory that was there, until it is forgotten.
ASIDE = "/var/lib/.tailscale.moved"
STATE = "tailscaled.state"
MODE = 0o700
MOVE_UNIT = "hermes-tailnet-move.service"
SYSTEMCTL = "/usr/bin/systemctl"
# Seconds: the directory has a few files.
TIMEOUT = 120.0
# renameat2(2)
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2


def target_of(data_dir: str) -> str:
    return os.path.join(data_dir, "tailscale")


def has_identity(directory: str) -> bool:
    """Whether *directory* holds the state of a node that has ever logged in. One that cannot be read counts."""
    text = read_text(os.path.join(directory, STATE))
    if not text:
        return False
    try:
        state = json.loads(text)
        # 1.102: ipn/store.go, one entry for each profile that has logged in; feature/tpm, sealed by the machine's TPM.
        return "nonce" in state or bool(json.loads(base64.b64decode(state.get("_profiles", "e30="))))
    except (ValueError, AttributeError):
        return True


def steps(data_dir: str, place: str = PLACE, aside: str = ASIDE) -> list[str]:
    """What is to be done, in this order, to have the state on the data volume; nothing if it is there.

    :raises OpsError: there are two identities, or something else is in the way
    """
    target = target_of(data_dir)
    rest = ["forget"] if os.path.lexists(aside) or os.path.lexists(_partial(target)) else []
    if os.path.islink(place):
        if os.readlink(place) != target:
            raise OpsError(
                f"is a link to {os.readlink(place)}",
                where=place,
                fix=f"move that directory to {target}, with tailscaled stopped, and remove the link",
            )
        if has_identity(aside) and not has_identity(target):
            return ["copy back", "commit", "forget"]
        return rest if os.path.isdir(target) else ["make", *rest]
    if not os.path.lexists(place):
        return ["link"] if os.path.isdir(target) else ["make", "link"]
    if not os.path.isdir(place):
        raise OpsError("is not a directory", where=place, fix="move it away")
    if os.path.isdir(target) and not has_identity(place):
        return ["exchange", "forget"]
    if not has_identity(target) or _is_earlier_copy(target, place):
        return ["copy", "commit", "exchange", "forget"]
    raise OpsError(
        f"is a node of the tailnet, and {target} holds another node",
        where=place,
        fix="keep one of the two: to be the node on the data volume, stop tailscaled and move "
        f"{place} away; to stay the present one, move {target} away. Then converge again",
    )


def _partial(target: str) -> str:
    return f"{target}.partial"


def _is_earlier_copy(target: str, place: str) -> bool:
    """Whether *target* is what a killed move has copied from *place*, which tailscaled may have changed since."""
    key = _machine_key(place)
    if not key or key != _machine_key(target):
        return False
    copy, original = (os.stat(os.path.join(directory, STATE)) for directory in (target, place))
    return copy.st_mtime_ns <= original.st_mtime_ns


def _machine_key(directory: str) -> str | None:
    """The secret that tailscaled makes once, before the first login (1.102 ipn/store.go); None if there is none."""
    try:
        return json.loads(read_text(os.path.join(directory, STATE)) or "{}").get("_machinekey")
    except (ValueError, AttributeError):
        return None


def check_target(target: str) -> None:
    """:raises OpsError: somebody other than root made *target*, on a used volume: tailscaled writes there as root"""
    if os.path.lexists(target):
        check_trusted(target, f"move it away; or, if it is this host's identity: chown -R root: {target}")


def plan_moved(data_dir: str, manager: Manager) -> Plan:
    """Compare the host with one whose node lives on the data volume."""
    plan = Plan()
    target = target_of(data_dir)
    check_target(target)
    todo = steps(data_dir)
    if not todo:
        return plan
    if "nonce" in (read_json(os.path.join(PLACE, STATE)) or {}):
        raise OpsError(
            "is sealed by this machine's TPM, so no other host can become this node",
            where=os.path.join(PLACE, STATE),
            fix="unseal it: add --encrypt-state=false to FLAGS in /etc/default/tailscaled, then: "
            f"systemctl restart {UNIT}",
        )
    before = "a directory" if os.path.isdir(PLACE) and not os.path.islink(PLACE) else None
    plan.add(Difference(PLACE, before, f"a link to {target}"), lambda: _move_detached(data_dir, manager))
    return plan


def _move_detached(data_dir: str, manager: Manager) -> None:
    manager.call("reset-failed", MOVE_UNIT, check=False)
    # Wherever this very kit lies: it may have been sent for this run only.
    code = (
        f"import sys; sys.path.insert(0, sys.argv[1]); from hermes_ops.host import {__name__.rpartition('.')[2]} as m; "
    )
    done = run(
        [
            *("systemd-run", "--quiet", "--wait", "--collect", "--pipe", f"--unit={MOVE_UNIT}"),
            f"--property=ExecStopPost=-{SYSTEMCTL} start {UNIT}",
            *(sys.executable, "-I", "-c", f"{code}sys.exit(m.main(sys.argv[2]))", sys.path[0], data_dir),
        ],
        timeout=TIMEOUT,
        check=False,
    )
    if not done.ok:
        raise OpsError(
            f"tailscaled's state could not be moved: {done.last_words}",
            where=PLACE,
            fix=f"see journalctl --unit {MOVE_UNIT}, and converge again: nothing is lost",
        )


def main(data_dir: str) -> int:
    """What the transient unit does. Its ``ExecStopPost=`` starts tailscaled again, however this ends."""
    try:
        Manager.of_host().call("stop", UNIT)
        move(data_dir)
    except OpsError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0


def move(data_dir: str, place: str = PLACE, aside: str = ASIDE) -> None:
    """Do what :func:`steps` says. tailscaled must not run."""
    target = target_of(data_dir)
    partial = _partial(target)
    check_trusted(data_dir, "check that its volume is mounted")
    try:
        for step in steps(data_dir, place, aside):
            if step == "make":
                ensure_directory(target, mode=MODE)
            elif step in ("copy", "copy back"):
                _copy(place if step == "copy" else aside, partial)
            elif step == "link":
                os.symlink(target, place)
                sync_directory(os.path.dirname(place))
            elif step == "exchange":
                _exchange(place, aside, target)
            elif step == "commit":
                _commit(partial, target)
            else:
                trees.remove(aside)
                trees.remove(partial)
    except OSError as error:
        raise failure("moved", place, error) from None


def _copy(source: str, partial: str) -> None:
    trees.remove(partial)
    shutil.copytree(source, partial, symlinks=True)
    os.chmod(partial, MODE)
    run(["sync", "--file-system", partial], timeout=TIMEOUT)


def _commit(partial: str, target: str) -> None:
    """Give the copy its final name. What had that name becomes the partial one, to be forgotten."""
    if os.path.isdir(target):
        _swap(partial, target)
    else:
        os.rename(partial, target)
    sync_directory(os.path.dirname(target))


def _exchange(place: str, aside: str, target: str) -> None:
    """Put a link to *target* in the place of the directory *place*, which goes to *aside*, at one moment."""
    trees.remove(aside)
    os.symlink(target, aside)
    _swap(place, aside)
    sync_directory(os.path.dirname(place))


def _swap(one: str, other: str) -> None:
    """Let two paths of one file system change their names, at one moment."""
    renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    if renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE):
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error), one)
