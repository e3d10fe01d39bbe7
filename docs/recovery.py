# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Writes docs/recovery.md: names, paths, commands, causes and fixes are taken from the code itself.

``python docs/recovery.py`` writes the page; tests/unit/docs/test_operators.py fails when that is due. For each step of
the page, molecule/operate/tests/test_recovery.py breaks a host, follows the step, and sees it work.
"""

from __future__ import annotations

import ast
import inspect
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import jinja2
import yaml

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "recovery.md"

if __name__ == "__main__":
    sys.path.insert(0, str(ROOT / ".cache" / "collections"))

from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops import cli  # noqa: E402
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.backup import archives  # noqa: E402
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.description import declaration  # noqa: E402
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.host import (  # noqa: E402
    installation,
    jobs,
    kit,
    volume,
)
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.supervise import (  # noqa: E402
    health,
    journal,
    servers,
    systemd,
)
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.watch import (  # noqa: E402
    agent,
    expiry,
    findings,
    history,
    host_findings,
    look,
    process,
    serving,
    turns,
)


def defaults() -> dict[str, str]:
    """The default values of the variables that all roles share."""
    values = yaml.safe_load((ROOT / "roles/common/defaults/main.yml").read_text())
    return {name: jinja2.Template(value).render(values) for name, value in values.items() if isinstance(value, str)}


VALUES = defaults()
HOST = installation.Installation(
    {
        "scope": VALUES["gateway_scope"],
        "data_dir": VALUES["hermes_data_dir"],
        "ops_dir": VALUES["hermes_ops_dir"],
        "root": VALUES["hermes_root"],
        "managed_root": VALUES["hermes_managed_root"],
    }
)
AGENT = declaration.resolve([{"name": "default"}], host="", data_dir=HOST.data_dir, managed_root=HOST.managed_root)[
    "default"
].agent
UNIT = AGENT.unit


def ops(command: str) -> str:
    """A command line of the kit.

    :raises ValueError: when there is no such command
    """
    cli.commands().index(command.split()[0])
    return f"{Path(kit.COMMAND).name} {command}"


# The steps, in order: name, when to take it, commands, result. Each is tried on a broken host.
STEPS: list[dict[str, Any]] = [
    {
        "name": "What is wrong?",
        "when": "Each line names a cause and its fix; problems come first. Often that is all you need.",
        "commands": [ops("check"), ops("status"), f"journalctl --unit {UNIT} --lines 50 --no-pager"],
        "then": "`check` ends with 0 when all is well, 1 when something is wrong, 2 when it could not check.",
    },
    {
        "name": "An agent is down, or deaf",
        "when": "Its unit is not active, or it is active and the agent does not answer.",
        "commands": [f"systemctl restart {UNIT}", ops("check --wait")],
        "then": "At worst the agent's current work is interrupted. Automatic restarts are reported for an hour.",
    },
    {
        "name": "config.yaml or .env is broken",
        "when": "`config_unparsable`, `bad_configuration`, `key_too_short`, or it began with an edit.",
        "commands": [ops("restore --kept"), ops("check --wait")],
        "then": "Both files are as they were when the agent was last well. Then correct the declaration, or the next "
        "`site.yml` writes the same again.",
    },
    {
        "name": "It began with an update",
        "when": "Agents have been unwell since the release that `status` names was installed.",
        "commands": [ops("rollback"), ops("check --wait")],
        "then": "The previous release runs again; `--data` puts migrated databases back as well. The release that you "
        "rolled back from is not installed again automatically.",
    },
    {
        "name": "An update was cut off",
        "when": "Power failed or the update was killed, and nothing has finished it (a boot does so automatically).",
        "commands": [ops("update --recover"), ops("status")],
        "then": "The update is finished or undone, whichever leads to agents that answer. An undone update is reported "
        "until one succeeds.",
    },
    {
        "name": "Memories, sessions or skills are gone",
        "when": "The agent answers, but has forgotten what it knew; or a database is damaged.",
        "commands": [ops("backups"), ops("restore --force"), ops("check --wait")],
        "then": "The newest backup is back; for an older one, add its path from the list. The replaced home is set "
        "aside, the last line says where. `--force` is needed because the home may know more than the backup.",
    },
    {
        "name": "The host is gone",
        "when": "A new host is ready; the backups are on the old disk, or in restic's repository.",
        "controller": ["ansible-playbook alwayson.hermes.site"],
        "then": f"Then, on the new host: `{ops('backups')}` lists the backups, `{ops('restore ARCHIVE')}` takes the "
        "path of an archive, or `restic:` and a snapshot's number from that list.",
    },
    {
        "name": "Somebody else has to look",
        "when": "Nothing above helped.",
        "commands": [ops("debug")],
        "then": "A bundle without secrets, sessions or memories. It is searched for secrets before it is written.",
    },
]

PLACES = [
    ("agents' homes", f"{HOST.data_dir}/agents/NAME/.hermes, or as declared"),
    ("their settings", f"{health.config.FILE_NAME}, {health.dotenv.FILE_NAME}, {servers.webhooks.FILE_NAME} in it"),
    ("their logs", f"journalctl --unit {UNIT.replace('default', 'NAME')}; logs/ in the home"),
    ("units", f"{UNIT.replace('default', 'NAME')}, {', '.join(job.timer for job in jobs.JOBS.values())}"),
    ("last copies that worked", f"{HOST.ops_dir}/agents/NAME/kept/"),
    ("backups", archives.directory_of(HOST)),
    ("replaced data", f"{HOST.ops_dir}/set-aside/"),
    ("how jobs ended", f"{HOST.ops_dir}/status/"),
    ("an update's journal", f"{HOST.ops_dir}/{installation.JOURNALS['update']}"),
    ("releases", f"{HOST.root}/releases/, {HOST.root}/current"),
]

# Expressions that the code puts into a fix -> the text that the page shows for them.
KNOWN = {
    "unit.log": f"journalctl -u {UNIT}",
    "self.gateway.log": f"journalctl -u {UNIT}",
    "self.gateway.restart": f"systemctl restart {UNIT}",
    "data_dir": HOST.data_dir,
    "missing.fix": volume.not_mounted(HOST.data_dir).fix,
    "path": "that path",
    "name": "that unit",
    "key": "api",
    "server.port": "PORT",
}


# The modules that name causes.
MODULES = (
    health,
    systemd,
    journal,
    servers,
    agent,
    serving,
    expiry,
    findings,
    history,
    host_findings,
    look,
    process,
    turns,
)


def causes() -> dict[str, str]:
    """Every cause that the code names -> the fix that `check` prints for it."""
    found: dict[str, str] = {}
    for module in MODULES:
        for call in ast.walk(ast.parse(inspect.getsource(module))):
            name = ast.unparse(call.func).rpartition(".")[2] if isinstance(call, ast.Call) else ""
            known = name in ("Problem", "Finding", "_find")
            if known and len(call.args) >= 3 and isinstance(call.args[0], ast.Constant):
                found.setdefault(call.args[0].value, said(call.args[2], module))
    return found


def said(node: ast.AST, module: ModuleType) -> str:
    """The text of the expression *node*; an ellipsis replaces values that only a host knows."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.Attribute):
        return KNOWN.get(ast.unparse(node), "")
    if isinstance(node, ast.Name):
        return str(getattr(module, node.id, ""))
    if isinstance(node, ast.JoinedStr):
        return "".join(said(part, module) for part in node.values)
    if isinstance(node, ast.FormattedValue):
        return KNOWN.get(ast.unparse(node.value)) or said(node.value, module) or "…"
    if isinstance(node, ast.Call) and ast.unparse(node.func) == "unit.command":
        return f"systemctl {said(node.args[0], module)} {UNIT}"
    if isinstance(node, ast.IfExp):
        return f"{said(node.body, module)} / {said(node.orelse, module)}"
    return ""


def table() -> Iterator[str]:
    """Table rows: causes with the same fix, and that fix."""
    together: dict[str, list[str]] = {}
    for cause, fix in causes().items():
        if fix:
            together.setdefault(fix, []).append(cause)
    for names, fix in sorted((sorted(names), fix) for fix, names in together.items()):
        yield f"| {', '.join(f'`{name}`' for name in names)} | {fix} |"


def page() -> str:
    lines = [
        "# Recovery",
        "",
        "<!-- Written by docs/recovery.py from the code; a test compares. Change that, not this. -->",
        "",
        f"Print this page and keep it by the machine. Run the commands as root on the host. For an agent other than "
        f"`{AGENT.name}` add `--agent NAME`, and use its unit's name. In user scope write "
        f"`systemctl --user -M hermes-NAME@`.",
    ]
    for number, step in enumerate(STEPS, start=1):
        commands = [f"# {command}" for command in step.get("commands", [])]
        commands += [f"$ {command}" for command in step.get("controller", [])]
        lines += ["", f"## {number}. {step['name']}", "", step["when"], "", "```console", *commands, "```"]
        lines += ["", step["then"]]
    lines += ["", "## Where things are", "", "| what | where |", "|---|---|"]
    lines += [f"| {what} | `{where}` |" for what, where in PLACES]
    lines += ["", "## Causes that `check` reports, and what to do", "", "| cause | fix |", "|---|---|", *table()]
    lines += ["", "All other messages name their own fix."]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
