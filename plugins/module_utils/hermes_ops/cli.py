# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The command ``hermes-ops``: the kit without a controller."""

from __future__ import annotations

import argparse
import json
import os
import sys
from typing import Any

from . import __version__, health, info
from .errors import OpsError
from .files import Owner, read_json
from .records import Records
from .systemd import Manager

# Written by the module kit; names and paths only.
HOST_FILE = "/etc/hermes-ops/host.json"

EXIT_OK = 0
EXIT_UNHEALTHY = 1
EXIT_ERROR = 2


def say(text: object) -> None:
    """The command's output, line by line."""
    sys.stdout.write(f"{text}\n")


def load_host(path: str = HOST_FILE) -> dict[str, Any]:
    """What the host was converged with: user, scope, hermes_home, ops_dir, root.

    :raises OpsError: when it was not
    """
    host = read_json(path)
    if host is None:
        raise OpsError("does not exist", where=path, fix="converge the host: site.yml")
    return host


def load_profiles(host: dict[str, Any]) -> list[dict[str, Any]]:
    """The profiles as they were last converged."""
    directory = os.path.join(host["ops_dir"], "profiles")
    try:
        names = sorted(os.listdir(directory))
    except FileNotFoundError:
        return []
    except PermissionError:
        raise OpsError("may only be read by root", where=directory, fix="use sudo") from None
    profiles = [Records(host["ops_dir"], name).applied("gateway") for name in names]
    return [profile for profile in profiles if profile]


def status(arguments: argparse.Namespace) -> int:
    host = load_host()
    found = info.gather(
        profiles=load_profiles(host),
        scope=host["scope"],
        user=host["user"],
        hermes_home=host["hermes_home"],
        ops_dir=host["ops_dir"],
        root=host["root"],
    )
    if arguments.json:
        say(json.dumps(found, indent=2))
        return EXIT_OK
    release = found["release"]
    say(f"release  {release['id'] if release else 'none'}")
    for name, profile in found["profiles"].items():
        platforms = ", ".join(f"{key} {value}" for key, value in profile["platforms"].items()) or "no platform"
        say(f"profile  {name}: {profile['active']}, pid {profile['pid']}, {platforms}")
        for reason in profile["restart_pending"]:
            say(f"         restart pending: {reason}")
        for drift in profile["drift"]:
            say(f"         changed by hand: {drift}")
    return EXIT_OK


def check(arguments: argparse.Namespace) -> int:
    host = load_host()
    profiles = [profile for profile in load_profiles(host) if profile["state"] == "present"]
    known = [profile["name"] for profile in profiles]
    if arguments.profile:
        profiles = [profile for profile in profiles if profile["name"] == arguments.profile]
        if not profiles:
            raise OpsError(f"there is no profile {arguments.profile!r}", fix="known ones: " + ", ".join(known))
    owner = Owner.named(host["user"])
    results = health.wait(profiles, Manager(host["scope"], owner), owner)
    if arguments.json:
        say(json.dumps([result.as_dict() for result in results], indent=2))
    else:
        for result in results:
            say(result)
    return EXIT_OK if all(result.ok for result in results) else EXIT_UNHEALTHY


def parser() -> argparse.ArgumentParser:
    main = argparse.ArgumentParser(
        prog="hermes-ops",
        description="Operate the Hermes agents of this host.",
        epilog="exit status: 0 all is well, 1 an agent is not healthy, 2 the command could not do its work",
    )
    main.add_argument("--version", action="version", version=f"hermes-ops {__version__}")
    commands = main.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, function, text in (
        ("status", status, "what is installed, running, declared and drifted"),
        ("check", check, "wait until every agent is healthy, or say why not"),
    ):
        command = commands.add_parser(name, help=text, description=text)
        command.add_argument("--json", action="store_true", help="print JSON for programs")
        command.set_defaults(function=function)
    commands.choices["check"].add_argument("--profile", help="this profile only")
    return main


def main(argv: list[str] | None = None) -> int:
    arguments = parser().parse_args(argv)
    try:
        return arguments.function(arguments)
    except OpsError as error:
        sys.stderr.write(f"hermes-ops: {error}\n")
        return EXIT_ERROR
