# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""docs/once.md forgets nothing: no path that the collection makes on a host, no feature, no secret.

Its commands are run as they stand by molecule/secrets/tests/test_taking_away.py.
"""

from __future__ import annotations

import ast
import itertools
import re
import shlex
import subprocess
import textwrap
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops import cli
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.description.schema import (
    AGENT_KEYS,
    SUBSCRIPTION_KEYS,
)
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.host import (
    disk_watch,
    firewall,
    groundwork,
    held,
    installation,
    jobs,
    metadata,
    runtime_walls,
    settings,
    tailnet,
    tailnet_files,
    volume_mount,
)
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.supervise import units
from ansible_collections.alwayson.hermes.plugins.modules import agents, host_kit

ROOT = Path(__file__).resolve().parents[3]
PAGE = (ROOT / "docs/once.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^## ([^\n]+)\n(.*?)(?=^## |\Z)", PAGE, re.M | re.S))
COMMON = yaml.safe_load((ROOT / "roles/common/defaults/main.yml").read_text(encoding="utf-8"))

# Paths in the sources that the collection only reads, runs or recommends, and directories of others, whose files of
# ours are looked up one by one below. /var/tmp is for a moment. The builder of an image forgets its keys and journal.
NOT_OURS = {
    "/etc/default/tailscaled",
    "/etc/fstab",
    "/etc/hermes",
    "/etc/machine-id",
    "/etc/os-release",
    "/etc/pip.conf",
    "/etc/resolv.conf",
    "/etc/ssh",
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/subuid",
    "/etc/systemd/system",
    "/etc/systemd/user",
    "/usr/lib/nginx/modules/ngx_http_js_module.so",
    "/usr/local/bin",
    "/usr/local/sbin",
    # Within a container (hermes-ops agent).
    "/etc/hermes/agent.json",
    "/opt/data",
    "/opt/plugins",
    "/run/secrets/hermes",
    "/var/lib/hermes-ops",
    "/var/log/journal/*",
    # An example.
    "/etc/application/alice.key",
    "/var/lib/systemd/linger",
    "/var/lib/systemd/timers",
    "/var/tmp",
}
# Nothing of ours lies below these.
FOREIGN = ("/run/", "/usr/bin", "/usr/sbin", "/usr/share/")


def expanded(text: str) -> Iterator[str]:
    """The words that a shell makes of the braces in *text*."""
    parts = [part.split(",") for part in re.split(r"\{([^}]*)\}", text)]
    alternatives = [part if number % 2 else [",".join(part)] for number, part in enumerate(parts)]
    return map("".join, itertools.product(*alternatives))


def named() -> set[str]:
    """The paths in the tables about an uninstall, with ``*`` for a name."""
    cells = re.findall(r"^\| (.+?) \|", SECTIONS["Uninstall"], re.M)
    words = [word for cell in cells for word in re.findall(r"`(/[^`]+)`", cell)]
    return {re.sub(r"<\w+>", "*", word).rstrip("/") for each in words for word in expanded(each)}


def texts(tree: ast.AST) -> Iterator[str]:
    """The texts in a program, with ``*`` for what it computes; without documentation."""
    inner = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    for node in ast.walk(tree):
        # A statement that is only a text documents something.
        for child in ast.iter_child_nodes(node) if isinstance(node, ast.Expr) else ():
            inner.add(id(child))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in inner:
            yield node.value.replace("{}", "*")
        elif isinstance(node, ast.JoinedStr):
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else "*" for part in node.values)


def literals() -> Iterator[tuple[str, str]]:
    """Each absolute path in the sources, with its file."""
    places = r"(?<![\w/.:}])/(?:etc|opt|run|srv|usr|var)/[\w.@/*-]*[\w@*]"
    for path in sorted(ROOT.glob("plugins/*/**/*.py")):
        # Most of what modules name is documentation.
        if path.parent == ROOT / "plugins/modules":
            continue
        for text in texts(ast.parse(path.read_text(encoding="utf-8"))):
            yield from ((found, path.name) for found in re.findall(places, text))
    for path in sorted({*ROOT.glob("roles/*/[dtv]*/*.yml"), *ROOT.glob("playbooks/**/*.yml")}):
        text = re.sub(r"\{\{.*?\}\}", "*", re.sub(r"^ *#.*", "", path.read_text(encoding="utf-8"), flags=re.M))
        yield from ((found, str(path.relative_to(ROOT))) for found in re.findall(places, text))


def computed() -> Iterator[str]:
    """The paths whose names the sources compute, and all units in systemd's directories."""
    for job in jobs.JOBS.values():
        yield from (f"{jobs.UNIT_DIRECTORY}/{unit}" for unit in (job.service, job.timer))
        yield settings.path_of(job.name)
        if job.name != "heartbeat":
            # A timer with a period has no stamp (systemd.timer(5), Persistent=).
            yield f"{jobs.STAMP_DIRECTORY}/stamp-{job.timer}"
    for name in installation.JOURNALS:
        unit = f"hermes-{name}-recovery.service"
        yield from (f"{jobs.UNIT_DIRECTORY}/{unit}", f"{jobs.UNIT_DIRECTORY}/multi-user.target.wants/{unit}")
    for scope in units.UNIT_DIRECTORIES:
        of_scope = units.UnitSettings(scope, "/opt/hermes", 252, 10, 300)
        yield from (of_scope.template_path, of_scope.dashboard_path, of_scope.drop_in_path("x"))
    yield from (f"{groundwork.LINGER}/x", f"{host_kit.DIRECTORY}/x")
    yield from (volume_mount.path_of(COMMON["hermes_data_dir"]), volume_mount.AFTER_PATH)
    yield from (table.unit_path for table in (firewall.TABLE, metadata.TABLE, runtime_walls.TABLE))
    yield from (tailnet.DROP_IN, tailnet_files.UNIT_PATH)
    yield volume_mount.waiting_path("<uuid>").replace("\\x3cuuid\\x3e", "x")
    yield from (disk_watch.PATH, held.DIRECTORY, f"{COMMON['hermes_data_dir']}/ops/{held.RESERVE_FILE}")
    yield from (COMMON[name] for name in ("hermes_data_dir", "hermes_root", "hermes_managed_root"))


def is_named(path: str) -> bool:
    return any(fnmatch(path, name) or fnmatch(path, f"{name}/*") or fnmatch(name, path) for name in named())


def test_every_path_in_the_sources_is_on_the_page_or_not_ours():
    found = dict(literals())
    assert {"/usr/local/bin/hermes", "/var/cache/hermes-ops/restic", "/var/lib/logrotate/hermes-*.status"} <= set(found)
    ours = {path: where for path, where in found.items() if path not in NOT_OURS and not path.startswith(FOREIGN)}
    assert {path: where for path, where in ours.items() if not is_named(path)} == {}


def test_every_path_that_is_computed_is_on_the_page():
    assert [path for path in computed() if not is_named(path)] == []


def test_every_user_and_package_is_on_the_page():
    assert f"':{groundwork.COMMENT}:'" in SECTIONS["Uninstall"]
    packages = yaml.safe_load((ROOT / "roles/common/vars/main.yml").read_text(encoding="utf-8"))["common_packages"]
    assert [name for name in re.findall(r"\['([\w-]+)'\]", packages) if name not in SECTIONS["Uninstall"]] == []


@pytest.mark.parametrize("section", ["Uninstall", "Leave the collection, and keep Hermes"])
def test_every_feature_is_switched_off(section):
    (block,) = re.findall(r"```yaml\n(.*?)```", SECTIONS[section], re.S)
    # It is indented, as a part of a step.
    block = textwrap.dedent(block)
    declared = {name: value for name, value in yaml.safe_load(block).items() if name != "hermes_agents"}
    switches = {name: False for name in COMMON if name.endswith("_enabled")}
    # The data stay on their volume until the end.
    del switches["data_volume_enabled"]
    # Without agents there is nothing to watch, but who leaves keeps them.
    assert declared == {**switches, **({} if section == "Uninstall" else {"gateway_min_free_mb": 0})}


@pytest.mark.parametrize("section", ["Uninstall", "Leave the collection, and keep Hermes"])
def test_a_node_that_is_kept_keeps_its_program_identity_and_packet_filter(section, tmp_path):
    kept = {"etc/hermes-ops/firewall.nft", "opt/hermes/tailscale/0a1b/tailscaled", "var/lib/hermes/tailscale/state"}
    gone = {"etc/hermes-ops/host.json", "etc/hermes-ops/agents/a.json", "var/lib/hermes/ops/tailnet.json"}
    for path in kept | gone | {"opt/hermes/releases/r/bin/hermes"}:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text("")
    examples = re.findall(r"^ *```console\n(.*?)^ *```", SECTIONS[section], re.M | re.S)
    (rest,) = [each for each in examples if "/usr/local/lib/hermes-ops" in each]
    assert not re.search(r"systemctl stop .*'hermes-\*'", rest), "this would stop hermes-firewall"
    removing = "".join(re.findall(r"\$ sudo ((?:find|rm) (?:.*\\\n)*.*\n)", rest))
    commands = removing.replace(" /", f" {tmp_path}/")
    # They run here, as whoever runs the tests.
    assert all(word.startswith(f"{tmp_path}/") for word in shlex.split(commands) if "/" in word)
    subprocess.run(["sh", "-ec", commands], check=True)
    left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert left == kept | ({"opt/hermes/releases/r/bin/hermes"} if section != "Uninstall" else set())


def of_agents(arguments: dict[str, dict[str, Any]], prefix: str = "") -> Iterator[str]:
    """The secret keys of an agent."""
    for name, rule in arguments.items():
        if rule.get("no_log"):
            yield f"{prefix}{name}"
        yield from of_agents(rule.get("options", {}), f"{prefix}{name}[].")


def secrets() -> set[str]:
    found = set(of_agents(agents.AGENT_ARGUMENTS))
    for path in ROOT.glob("roles/*/meta/argument_specs.yml"):
        entry, *_others = yaml.safe_load(path.read_text(encoding="utf-8"))["argument_specs"].values()
        options = entry.get("options") or {}
        found |= {name for name, rule in options.items() if rule.get("no_log")}
    return found - {"hermes_agents"}


def test_every_secret_has_a_line_on_its_rotation():
    rows = re.findall(r"^\| (`[^|]*) \|", SECTIONS["Rotate a secret"], re.M)
    lines = {name for row in rows for name in re.findall(r"`([^`]+)`", row)}
    assert {"secrets", "webhooks[].secret", "backup_restic_password"} <= secrets()
    assert {*AGENT_KEYS, *(f"webhooks[].{key}" for key in SUBSCRIPTION_KEYS)} >= set(of_agents(agents.AGENT_ARGUMENTS))
    # The key that a host generates, the one that is no secret, but replaced like one, and where others come from.
    assert lines == secrets() | {"secrets.API_SERVER_KEY", "backup_age_recipient", "secrets_from"}


@pytest.mark.parametrize("line", re.findall(r"(?:sudo )(hermes-ops [a-z][^`\n]*)", PAGE))
def test_every_command_is_one(line):
    _program, *arguments = shlex.split(line)
    assert cli.parser([arguments[0]]).parse_args(arguments)
