#!/usr/bin/env python3
# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Boxes: hosts with systemd, as containers, for tests and demo.

The options with which systemd boots in a container depend on the machine (cgroup layout, whether it may be privileged)
and on the version of systemd. They are found by trying, once, and remembered in .cache/hosts.

A suite (``bookworm``) names a bare host. A suite with versions of Hermes (``bookworm+0.19.0``) names a prepared one:
the collection has already installed the packages and built these releases on it (prepared.yml), which are the two slow
steps. A prepared host has nothing else: no user, no data, and no current release.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
CACHE = ROOT / ".cache" / "hosts"

DEBIAN = ("bookworm", "trixie", "forky")
UBUNTU = ("jammy", "noble")

# The distributions' bundles of trusted certificate authorities; the boxes have Debian's.
CA_BUNDLES = (Path("/etc/ssl/certs/ca-certificates.crt"), Path("/etc/pki/tls/certs/ca-bundle.crt"))
BOX_CA_BUNDLE = "/etc/ssl/certs/ca-certificates.crt"

# Also where an ordinary user does not look.
SEARCH_PATH = f"{os.defpath}:/usr/local/sbin:/usr/sbin:/sbin"

BOOT_SECONDS = 30

# The directory of the releases on a host, and in an image. A container cannot rename a directory of its image
# (overlayfs), and removing a release renames it. So each box starts with a copy.
RELEASES, KEPT = "/opt/hermes", "/usr/share/hermes-test-releases"
# The versions in a prepared image; a box gets those that its name lists.
VERSIONS = ("0.18.2", "0.19.0")
# The ingredients of a prepared image, besides the bare one; of the kit only the files that a build imports.
PREPARED = HERE / "prepared.yml"
MADE_OF = (
    Path(__file__),
    PREPARED,
    ROOT / "roles/base/defaults/main.yml",
    ROOT / "roles/base/tasks/packages.yml",
    ROOT / "plugins/module_utils/hermes_ops/modules/release.py",
    ROOT / "plugins/module_utils/hermes_ops/release/build.py",
)
LABEL = "hermes-test-prepared"


class BoxError(Exception):
    """A problem of this machine that the person who runs the tests has to solve."""


def say(text: str) -> None:
    print(f"box: {text}", file=sys.stderr, flush=True)


def run(
    *command: str, check: bool = True, timeout: float | None = None, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run *command* and keep its output.

    :raises BoxError: when it fails and *check* is set
    """
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=timeout, env=env)
    except subprocess.TimeoutExpired:
        done = subprocess.CompletedProcess(command, 124, "", f"no answer within {timeout:.0f} s")
    if check and done.returncode:
        raise BoxError(f"{' '.join(command)}: {(done.stderr or done.stdout).strip()}")
    return done


def as_root(*command: str) -> tuple[str, ...]:
    return command if os.geteuid() == 0 else ("sudo", *command)


@contextlib.contextmanager
def alone(name: str) -> Iterator[None]:
    """Exclusive access: of two scenarios that need the same thing at once, the second waits and finds it made."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / f"{name}.lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


# --- the engine ------------------------------------------------------------------------------------------------


def engine_answers() -> bool:
    return shutil.which("docker") is not None and run("docker", "info", check=False).returncode == 0


def install_packages(*names: str) -> None:
    if shutil.which("apt-get") is None:
        raise BoxError(f"missing here: {', '.join(names)}. Fix: install what provides them and run this again")
    with alone("apt"):
        say(f"installing {', '.join(names)}")
        run(*as_root("apt-get", "update", "-qq"))
        run(*as_root("env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "install", "-qq", "--yes", *names))


def ensure_engine() -> None:
    """Install and start Docker's engine if it does not run."""
    with alone("engine"):
        if engine_answers():
            return
        if shutil.which("dockerd") is None:
            install_packages("docker.io")
        if engine_answers():
            return
        if Path("/run/systemd/system").is_dir():
            say("starting docker.service")
            run(*as_root("systemctl", "start", "docker"))
        else:
            log = CACHE / "dockerd.log"
            say(f"starting dockerd (log: {log})")
            with log.open("a") as handle:
                # It keeps running after this program, because it runs the boxes. close_fds keeps our lock out of it.
                subprocess.Popen(
                    as_root("dockerd"),
                    stdin=subprocess.DEVNULL,
                    stdout=handle,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
        deadline = time.monotonic() + BOOT_SECONDS
        while not engine_answers():
            if time.monotonic() > deadline:
                reason = run("docker", "info", check=False).stderr.strip().splitlines()[-1:]
                raise BoxError(f"Docker's engine does not answer: {' '.join(reason)}")
            time.sleep(0.2)


# --- the image -------------------------------------------------------------------------------------------------


def image_exists(name: str) -> bool:
    return run("docker", "image", "inspect", name, check=False).returncode == 0


def bootstrapped_base(suite: str) -> str:
    """A base image made from Debian's packages, in place of a registry's."""
    name = f"hermes-test-base:{suite}"
    if image_exists(name):
        return name
    if suite not in DEBIAN:
        raise BoxError(f"no base image for {suite} can be pulled here, and only Debian's can be made from packages")
    if shutil.which("mmdebstrap") is None:
        install_packages("mmdebstrap")
    say(f"no registry: making the base of {suite} with mmdebstrap")
    archive = CACHE / f"base-{suite}.tar"
    options = ["--variant=minbase", "--include=ca-certificates"]
    if suite == "forky":
        # Mirrors of testing may lag behind so far that apt refuses their index.
        options.append('--aptopt=Acquire::Check-Valid-Until "false"')
    run("mmdebstrap", "--quiet", *options, suite, str(archive))
    run("docker", "import", str(archive), name)
    archive.unlink()
    return name


def base_of(suite: str) -> str:
    name = f"debian:{suite}" if suite in DEBIAN else f"ubuntu:{suite}"
    if image_exists(name) or run("docker", "pull", "--quiet", name, check=False, timeout=300).returncode == 0:
        return name
    return bootstrapped_base(suite)


def digest(*contents: bytes) -> str:
    return hashlib.sha256(b"\0".join(contents)).hexdigest()[:12]


def ensure_image(host: str) -> str:
    """The image of a host, built once for its ingredients: for each suite one for bare hosts, one for prepared ones.

    :param host: a suite, or a suite and versions of Hermes: see above
    :returns: its name
    """
    suite, *versions = host.split("+")
    bare = f"hermes-test-host:{suite}-{digest((HERE / 'Dockerfile').read_bytes())}"
    with alone(f"image-{suite}"):
        if not image_exists(bare):
            base = base_of(suite)
            say(f"building {bare} on {base}")
            run("docker", "build", "--build-arg", f"BASE={base}", "--tag", bare, str(HERE))
    if not versions:
        return bare
    recipe = digest(bare.encode(), *(path.read_bytes() for path in with_imports(*MADE_OF)))
    prepared = f"hermes-test-host:{suite}-prepared-{recipe}"
    with alone(f"image-{suite}-prepared"):
        if not image_exists(prepared):
            say(f"building {prepared} on {bare}")
            prepare(bare, prepared)
    return prepared


def with_imports(*files: Path) -> list[Path]:
    """*files*, and the files of their directory that they import."""
    found = list(files)
    for file in found:
        imports = re.findall(r"^\s*from \.(\w+| import .+)", file.read_text(encoding="utf-8"), re.MULTILINE)
        paths = {file.with_name(f"{name}.py") for name in re.findall(r"\w+", " ".join(imports))}
        found += sorted(path for path in paths - set(found) if path.exists())
    return found


def prepare(bare: str, prepared: str) -> None:
    """Make the image *prepared* from a host of the image *bare*.

    Nothing runs in its container, not even systemd, so the image has nothing that a host generates at its first boot.
    """
    container = f"{LABEL}-{os.getpid()}"
    # If this program is killed, the container is gone within the hour.
    run("docker", "run", "--detach", "--rm", "--init", "--name", container, *trust(), bare, "sleep", "3600")
    try:
        run(
            *(str(Path(sys.executable).with_name("ansible-playbook")), "--inventory", f"{container},"),
            *("--connection", "community.docker.docker", "--extra-vars", json.dumps({"versions": VERSIONS})),
            str(PREPARED),
            env={
                **{name: value for name, value in os.environ.items() if not name.startswith(("ANSIBLE_", "MOLECULE_"))},
                "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
                "ANSIBLE_COLLECTIONS_PATH": str(ROOT / ".cache/collections"),
            },
        )
        run("docker", "exec", container, "mv", RELEASES, KEPT)
        run(
            *("docker", "commit", "--change", f"LABEL {LABEL}=true"),
            *("--change", 'CMD ["/lib/systemd/systemd"]', container, prepared),
        )
    finally:
        run("docker", "rm", "--force", "--volumes", container, check=False)
    # Removes prepared images that are older than a day and not used by a container.
    run("docker", "image", "prune", "--all", "--force", "--filter", f"label={LABEL}", "--filter", "until=24h")


# --- boxes -----------------------------------------------------------------------------------------------------


TMPFS = ("--tmpfs=/run", "--tmpfs=/run/lock", "--tmpfs=/tmp:exec")


def ways_to_boot() -> list[list[str]]:
    """Options under which systemd may boot in a container, the least rights first."""
    unified = Path("/sys/fs/cgroup/unified")
    layouts = [["--cgroupns=host", "--volume=/sys/fs/cgroup:/sys/fs/cgroup:rw"]]
    if unified.is_dir():
        # On a hybrid machine version 2 is mounted separately. New versions of systemd accept nothing else.
        layouts.append(["--cgroupns=host", f"--volume={unified}:/sys/fs/cgroup:rw"])
    layouts.append(["--cgroupns=private"])
    some_rights = [
        "--cap-add=SYS_ADMIN",
        "--cap-add=NET_ADMIN",
        # Lets root in the box see who owns a socket, as on a real host.
        "--cap-add=SYS_PTRACE",
        "--security-opt=seccomp=unconfined",
        "--security-opt=apparmor=unconfined",
    ]
    return [rights + layout for rights in (some_rights, ["--privileged"]) for layout in layouts]


def trust() -> list[str]:
    """Options that mount this machine's certificate authorities, so that a private one is trusted in the box, too."""
    bundle = next((path for path in CA_BUNDLES if path.is_file()), None)
    return [f"--volume={bundle.resolve()}:{BOX_CA_BUNDLE}:ro"] if bundle else []


def wait_for_boot(name: str) -> str:
    """Wait until systemd in the box has booted.

    :returns: what ``systemctl is-system-running`` says, or why that cannot be known
    """
    deadline = time.monotonic() + BOOT_SECONDS
    while True:
        # --wait only works once systemd answers.
        ask = ("docker", "exec", name, "systemctl", "is-system-running", "--wait")
        state = run(*ask, check=False, timeout=BOOT_SECONDS)
        word = (state.stdout or state.stderr).strip()
        alive = run("docker", "inspect", "--format", "{{.State.Running}}", name, check=False).stdout.strip() == "true"
        if word in ("running", "degraded") or not alive or time.monotonic() > deadline:
            return word
        time.sleep(0.1)


def start(name: str, image: str, options: list[str]) -> str:
    """Start a container under *options*.

    :returns: the state of its systemd, ``running`` when all is well
    """
    run("docker", "rm", "--force", "--volumes", name, check=False)
    made = run("docker", "run", "--detach", "--name", name, "--hostname", name, *options, image, check=False)
    if made.returncode:
        return made.stderr.strip()
    return wait_for_boot(name)


# The size of a disk. Only what is written to it takes space.
DISK_BYTES = 400 * 2**20


def attached(disk: Path) -> str:
    """The loop device of the file *disk*; "" if it has none."""
    done = run(*as_root("losetup", "--noheadings", "--output", "NAME", "--associated", str(disk)))
    return done.stdout.strip()


def attach(disk: Path) -> str:
    """The loop device of the file *disk*, which is made if it is missing. Boxes that name the same file share it."""
    with alone("disks"):
        if not disk.exists():
            with disk.open("wb") as stream:
                stream.truncate(DISK_BYTES)
        return attached(disk) or run(*as_root("losetup", "--find", "--show", str(disk))).stdout.strip()


def detach(disk: Path) -> None:
    with alone("disks"):
        if disk.exists():
            if device := attached(disk):
                run(*as_root("losetup", "--detach", device))
            disk.unlink()


def boot(name: str, image: str, suite: str, extra: list[str]) -> None:
    """Start the container *name* of *image*, a host of *suite*, with the least rights under which systemd boots."""
    engine = run("docker", "version", "--format", "{{.Server.Version}}").stdout.strip()
    ways = ways_to_boot()
    machine = hashlib.sha256(repr((ways, suite, platform.release(), engine)).encode()).hexdigest()[:12]
    known = CACHE / f"boots-{suite}-{machine}"
    order = list(range(len(ways)))
    if known.exists():
        order.insert(0, order.pop(int(known.read_text())))
    states = []
    for number in order:
        state = start(name, image, [*TMPFS, *trust(), *ways[number], *extra])
        if state == "running":
            known.write_text(str(number))
            return
        states.append(f"  {' '.join(ways[number])}: {state}")
    run("docker", "rm", "--force", "--volumes", name, check=False)
    raise BoxError(f"systemd of {suite} boots in no container here:\n" + "\n".join(states))


def up(name: str, host: str, authorized_key: Path | None, extra: list[str]) -> None:
    """Start the box *name*; one that already runs from the same image is left as it is."""
    suite, *versions = host.split("+")
    image = ensure_image(host)
    present = run("docker", "inspect", "--format", "{{.Config.Image}} {{.State.Running}}", name, check=False)
    if present.stdout.strip() != f"{image} true":
        boot(name, image, suite, extra)
        if versions:
            kept = " ".join(f"releases/{version}-*" for version in versions)
            copy = f"mkdir {RELEASES}; cd {KEPT}; cp --archive --parents tools {kept} {RELEASES}"
            run("docker", "exec", name, "sh", "-ec", copy)
    if authorized_key:
        run("docker", "cp", str(authorized_key), f"{name}:/home/ops/.ssh/authorized_keys")
        run("docker", "exec", name, "chown", "ops:ops", "/home/ops/.ssh/authorized_keys")


def reboot(name: str) -> None:
    run("docker", "restart", "--time", "60", name)
    state = wait_for_boot(name)
    if state != "running":
        raise BoxError(f"{name} is not well after its reboot: {state}")


def address(name: str) -> str:
    form = "{{range .NetworkSettings.Networks}}{{.IPAddress}} {{end}}"
    return run("docker", "inspect", "--format", form, name).stdout.split()[0]


def known_host(text: str) -> str:
    suite, *versions = text.split("+")
    if suite not in DEBIAN + UBUNTU or not set(versions) <= set(VERSIONS):
        suites, there = ", ".join(DEBIAN + UBUNTU), " or ".join(f"+{version}" for version in VERSIONS)
        raise argparse.ArgumentTypeError(f"{text!r} is none of {suites}, with {there} or without")
    return text


def main() -> int:
    parser = argparse.ArgumentParser(description="Hosts with systemd, as containers, for tests and demo.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("engine", help="install and start Docker's engine where none answers")
    packages = commands.add_parser(
        "packages", help="install what tests on this machine itself need, where it is missing"
    )
    packages.add_argument(
        "names",
        nargs="+",
        metavar="PROGRAM[=PACKAGE[+PACKAGE]]",
        help="a program, and its packages if they have other names",
    )
    hosts = "a suite (bare), or a suite and versions of Hermes (prepared): bookworm, bookworm+0.19.0"
    image = commands.add_parser("image", help="build the image of a host, print its name")
    image.add_argument("host", type=known_host, help=hosts)
    base = commands.add_parser("base", help="pull or make the image that a suite's hosts are built on, print its name")
    base.add_argument("suite", choices=DEBIAN + UBUNTU)
    box = commands.add_parser("up", help="start a box and wait until it has booted; prints its address")
    box.add_argument("name")
    box.add_argument("host", type=known_host, help=hosts)
    box.add_argument("--authorized-key", type=Path, help="public key with which the user ops may log in")
    box.add_argument("--disk", type=Path, help="file that the box gets as a disk, a loop device; made if missing")
    box.add_argument("--docker", action="append", default=[], metavar="OPTION", help="one more option of docker run")
    for word, text in (("reboot", "restart a box"), ("address", "print its address")):
        commands.add_parser(word, help=text).add_argument("name")
    down = commands.add_parser("down", help="remove boxes and all that is in them")
    down.add_argument("names", nargs="+")
    down.add_argument("--disk", type=Path, action="append", default=[], help="file of a disk that is removed, too")
    arguments = parser.parse_args()
    try:
        if arguments.command == "packages":
            pairs = [name.partition("=")[::2] for name in arguments.names]
            missing = [package or name for name, package in pairs if shutil.which(name, path=SEARCH_PATH) is None]
            if missing:
                # Without what is only useful to people, such as the graphics of an emulator.
                install_packages("--no-install-recommends", *(each for names in missing for each in names.split("+")))
            return 0
        ensure_engine()
        if arguments.command == "image":
            print(ensure_image(arguments.host))
        elif arguments.command == "base":
            with alone(f"image-{arguments.suite}"):
                print(base_of(arguments.suite))
        elif arguments.command == "up":
            disk = [f"--device={attach(arguments.disk)}"] if arguments.disk else []
            up(arguments.name, arguments.host, arguments.authorized_key, [*disk, *arguments.docker])
            print(address(arguments.name))
        elif arguments.command == "address":
            print(address(arguments.name))
        elif arguments.command == "reboot":
            reboot(arguments.name)
        elif arguments.command == "down":
            for name in arguments.names:
                run("docker", "rm", "--force", "--volumes", name, check=False)
            for disk in arguments.disk:
                detach(disk)
    except BoxError as error:
        say(f"error: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
