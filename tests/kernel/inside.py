# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Tries quotas in the machine of machine.py: on its first disk as ext4, on its second one as xfs, and an ext4 without
quotas on its third one. Prints a line of JSON for each thing that it tried."""

from __future__ import annotations

import contextlib
import errno
import glob
import json
import os
import re
import shutil
import sqlite3
import subprocess
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

from hermes_ops.description.runtimes import Runtimes
from hermes_ops.host import volume, volume_mount
from hermes_ops.host.runtimes import User
from hermes_ops.host.volume import Decision, Volume
from hermes_ops.host.volume_numbers import Numbers
from hermes_ops.supervise import runtime_disk, runtime_files, runtimes
from hermes_ops.supervise.runtime_host import Host
from hermes_ops.system.errors import OpsError
from hermes_ops.system.quota import Limits

MIB = 2**20
SPACE = 64 * MIB


class Quiet(Host):
    """A host without systemd."""

    class _Manager:
        def call(self, *_words: str, **_options: object) -> None:
            pass

    manager = _Manager()


@dataclass
class Disk:
    """A data volume with the directories of two users."""

    kind: str
    device: str
    quota: bool = True

    @property
    def where(self) -> str:
        return f"/mnt/{self.kind}-{os.path.basename(self.device)}"

    @property
    def declared(self) -> Volume:
        return Volume(
            device=self.device, fstype=self.kind, label="hermes-data", format=True, min_size="64M", timeout=0,
            data_dir=self.where, quota=self.quota,
        )  # fmt: skip

    def host(self, disk: str = "64M") -> Host:
        settings = Runtimes(image="localhost/hermes-agent:1", secret="x" * 32, agent={}, disk=disk)
        return Quiet(settings, self.where, f"{self.where}/ops")

    def decide(self) -> Decision:
        return volume.decide(self.declared, "", wait=False)

    def make(self) -> None:
        os.makedirs(self.where, exist_ok=True)
        volume_mount._make(self.declared, self.decide())

    def mount(self) -> None:
        """As the unit does."""
        unit = volume_mount.render_mount(self.where, "x", self.kind, Numbers(), udev=False, quota=self.quota)
        (options,) = re.findall(r"^Options=nofail,(.*)$", unit, re.M)
        subprocess.run(["mount", "-t", self.kind, "-o", options, self.device, self.where], check=True)

    def unmount(self) -> None:
        subprocess.run(["umount", self.where], check=True)

    def users(self, *names: str) -> list[User]:
        """Users with a directory each."""
        host = self.host()
        with host.users.lock():
            users = host.users.enrol(names or ("ada", "bob"), 100)
            os.makedirs(f"{self.where}/users", mode=0o711, exist_ok=True)
            for user in users:
                runtime_files.make_directory(host, user)
        return users

    def percent(self, user: User) -> int:
        host = self.host()
        return runtime_disk.usage(host, host.account_of(user).uid).percent


def as_user(host: Host, user: User, work: Iterable[int]) -> tuple[int, str]:
    """How far *work* came as the user, and by which error it was ended; "": by none."""
    read, write = os.pipe()
    if not os.fork():
        account = host.account_of(user)
        os.setgroups([])
        os.setresgid(account.gid, account.gid, account.gid)
        os.setresuid(account.uid, account.uid, account.uid)
        done, error = 0, ""
        try:
            for reached in work:
                done = reached
        except OSError as raised:
            error = errno.errorcode[raised.errno or 0]
        except sqlite3.Error as raised:
            error = str(raised)
        os.write(write, json.dumps([done, error]).encode())
        os._exit(0)
    os.close(write)
    os.wait()
    with os.fdopen(read, "rb") as stream:
        done, error = json.loads(stream.read())
    return done, error


def written(path: str, most: int) -> Iterator[int]:
    """Write up to *most* bytes to a new file."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    for done in range(0, most, MIB):
        # Of the last MiB, a part may have had room.
        if os.write(descriptor, b"x" * MIB) == MIB:
            yield done + MIB
    os.fsync(descriptor)


def made(directory: str, most: int) -> Iterator[int]:
    """Make a directory and up to *most* empty files in it."""
    os.mkdir(directory)
    for number in range(most):
        os.close(os.open(f"{directory}/{number}", os.O_WRONLY | os.O_CREAT, 0o600))
        yield number + 1


def stored(path: str, most: int) -> Iterator[int]:
    """Store rows of a MiB each in the database at *path*, until it has *most*."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute("PRAGMA journal_mode=WAL")
        database.execute("CREATE TABLE IF NOT EXISTS messages (content BLOB)")
        (done,) = database.execute("SELECT count(*) FROM messages").fetchone()
        while done < most:
            database.execute("INSERT INTO messages VALUES (zeroblob(?))", (MIB,))
            done += 1
            yield done


def refused(work: Callable[[], object], *words: str) -> None:
    said = "nothing"
    try:
        work()
    except OpsError as error:
        said = str(error)
    assert all(word in said for word in words), said


def planned(host: Host) -> list[tuple[str, str | None, str | None]]:
    """What is planned; it is done, too, and then nothing is left to do."""
    plan = runtime_disk.plan_limits(host, host.users.all())
    plan.apply()
    again = runtime_disk.plan_limits(host, host.users.all())
    assert not again.changed, again.differences
    return [(each.what, each.before, each.after) for each in plan.differences]


# --- what is tried -----------------------------------------------------------------------------------------------


def one_fills_its_own_and_harms_no_other(disk: Disk) -> None:
    host = disk.host()
    ada, bob = disk.users()
    runtime_disk.check(host)
    assert planned(host) == [], "limits were set with the directories"
    done, error = as_user(host, ada, written(f"{ada.directory(disk.where)}/full", 200 * MIB))
    assert error == "EDQUOT", error
    # The directory counts, too, and what xfs sets aside beyond the end of a file that grows.
    assert SPACE - 8 * MIB <= done <= SPACE, done
    assert disk.percent(ada) >= runtime_disk.NEARLY_FULL, disk.percent(ada)
    assert as_user(host, bob, written(f"{bob.directory(disk.where)}/some", 32 * MIB)) == (32 * MIB, "")
    assert 50 <= disk.percent(bob) < 60, disk.percent(bob)
    # It can help itself.
    os.unlink(f"{ada.directory(disk.where)}/full")
    assert as_user(host, ada, written(f"{ada.directory(disk.where)}/less", 8 * MIB)) == (8 * MIB, "")


def files_are_limited_too(disk: Disk) -> None:
    host = disk.host()
    ada, bob = host.users.all()
    most = host.settings.disk_limits.files
    assert most == 4096, most
    done, error = as_user(host, ada, made(f"{ada.directory(disk.where)}/many", 2 * most))
    assert error == "EDQUOT", error
    # Its directory, the file of before, and the new directory.
    assert done == most - 3, done
    assert disk.percent(ada) == 100, disk.percent(ada)
    assert as_user(host, bob, made(f"{bob.directory(disk.where)}/few", 10)) == (10, "")
    shutil.rmtree(f"{ada.directory(disk.where)}/many")


def a_database_outlives_it(disk: Disk) -> None:
    """Hermes keeps its sessions in one. For SQLite this error is another one than a full disk."""
    host = disk.host()
    ada, _bob = host.users.all()
    path = f"{ada.directory(disk.where)}/state.db"
    done, error = as_user(host, ada, stored(path, 200))
    assert error == "disk I/O error", error
    assert 40 <= done < 64, done
    os.unlink(f"{ada.directory(disk.where)}/less")
    # What was stored is there, and there is room for more.
    assert as_user(host, ada, stored(path, done + 2)) == (done + 2, "")
    with sqlite3.connect(path) as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    database.close()
    for each in glob.glob(f"{path}*"):
        os.unlink(each)


def a_remount_keeps_it(disk: Disk) -> None:
    before = disk.percent(disk.host().users.get("bob"))
    disk.unmount()
    if disk.kind == "ext4":
        subprocess.run(["e2fsck", "-f", "-n", disk.device], check=True, stdout=subprocess.DEVNULL)
    disk.mount()
    host = disk.host()
    ada, bob = host.users.all()
    assert disk.percent(bob) == before
    assert planned(host) == []
    assert as_user(host, ada, written(f"{ada.directory(disk.where)}/again", 200 * MIB))[1] == "EDQUOT"
    os.unlink(f"{ada.directory(disk.where)}/again")


def another_declaration_is_planned_and_holds_at_once(disk: Disk) -> None:
    small, large = "64 MiB, 4096 files", "96 MiB, 6144 files"
    host = disk.host("96M")
    ada, _bob = host.users.all()
    path = f"{ada.directory(disk.where)}/full"
    assert planned(host) == [("disk of ada", small, large), ("disk of bob", small, large)]
    done, error = as_user(host, ada, written(path, 200 * MIB))
    assert (error, done > SPACE) == ("EDQUOT", True), (error, done)
    # Nothing is lost when it is less again, and nothing can be added.
    size = os.path.getsize(path)
    assert planned(disk.host()) == [("disk of ada", large, small), ("disk of bob", large, small)]
    assert os.path.getsize(path) == size
    assert disk.percent(ada) > 100
    assert as_user(host, ada, written(f"{path}er", MIB))[1] == "EDQUOT"
    assert planned(disk.host("")) == [("disk of ada", small, None), ("disk of bob", small, None)]
    assert as_user(host, ada, written(f"{path}est", 16 * MIB)) == (16 * MIB, "")
    planned(disk.host())


def a_purge_removes_it(disk: Disk) -> None:
    host = disk.host()
    ada, bob = host.users.all()
    uid = host.account_of(ada).uid
    assert runtime_disk.usage(host, uid).limits == host.settings.disk_limits
    runtimes.remove(host, ada, purge=True)
    usage, patience = runtime_disk.usage(host, uid), 100
    while usage.files and patience:
        # xfs frees files a moment later.
        time.sleep(0.1)
        usage, patience = runtime_disk.usage(host, uid), patience - 1
    assert (usage.space, usage.files, usage.limits) == (0, 0, Limits()), usage
    assert runtime_disk.usage(host, host.account_of(bob).uid).limits == host.settings.disk_limits
    # The next one gets the number, and a limit of their own.
    cleo, _bob = disk.users("cleo", "bob")
    assert host.account_of(cleo).uid == uid
    assert runtime_disk.usage(host, uid).limits == host.settings.disk_limits


def without_quotas_it_is_refused_until_the_fix_is_done(disk: Disk) -> None:
    plain = replace(disk, quota=False)
    plain.make()
    plain.mount()
    # Before there are records, its volume may not be mounted.
    runtime_disk.check(plain.host())
    os.makedirs(plain.host().ops_dir)
    refused(lambda: runtime_disk.check(plain.host()), "data_volume_quota: true", "usrquota")
    assert planned(plain.host("")) == []
    refused(disk.decide, "made without quotas", f"tune2fs -O quota {disk.device}")
    plain.unmount()
    # The words of the error.
    subprocess.run(f"e2fsck -f {disk.device} && tune2fs -O quota {disk.device}", shell=True, check=True)
    plain.mount()
    refused(lambda: runtime_disk.check(plain.host()), "no user quotas in force")
    refused(disk.decide, "is mounted without quotas")
    plain.unmount()
    disk.mount()
    assert not disk.decide().mount
    one_fills_its_own_and_harms_no_other(disk)


TRIED: tuple[Callable[[Disk], None], ...] = (
    one_fills_its_own_and_harms_no_other,
    files_are_limited_too,
    a_database_outlives_it,
    a_remount_keeps_it,
    another_declaration_is_planned_and_holds_at_once,
    a_purge_removes_it,
)


def main() -> None:
    # There is neither podman nor tmpfs of the host's units here.
    runtimes.PODMAN = "/bin/true"
    runtimes.resting.forget_wake = lambda *_words: None
    runtime_files.make_places()
    for disk in (Disk("ext4", "/dev/vda"), Disk("xfs", "/dev/vdb")):
        disk.make()
        disk.mount()
        for work in TRIED:
            tried(work, disk)
    tried(without_quotas_it_is_refused_until_the_fix_is_done, Disk("ext4", "/dev/vdc"))


def tried(work: Callable[[Disk], None], disk: Disk) -> None:
    began, problem = time.monotonic(), ""
    try:
        work(disk)
    except Exception:  # the next one is tried as well
        problem = traceback.format_exc()
    seconds = round(time.monotonic() - began, 1)
    print(json.dumps({"tried": work.__name__, "on": disk.kind, "problem": problem, "seconds": seconds}), flush=True)


if __name__ == "__main__":
    main()
