# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Writes docs/recovery.md: names, paths, commands, causes and fixes are those of the code itself.

``python docs/recovery.py`` writes the page; tests/unit/test_operators_docs.py says when that is due. The steps
are data, so that molecule/operate/tests/test_recovery.py can break a host, follow one, and see it work.
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
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.host import installation, jobs, kit  # noqa: E402
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
    """The variables that all roles share, as they are without a declaration."""
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
IDENTIFIER = f"hermes-gateway-{AGENT.name}"


def ops(command: str) -> str:
    """A command line of the kit.

    :raises ValueError: when there is no such command
    """
    cli.commands().index(command.split()[0])
    return f"{Path(kit.COMMAND).name} {command}"


# What to do, in this order: a name, when, the commands, and what follows from them. Each is tried on a broken host.
STEPS: list[dict[str, Any]] = [
    {
        "name": "What is wrong?",
        "when": "Each line names a cause and its fix; what is wrong comes first. Often that is all you need.",
        "commands": [ops("check"), ops("status"), f"journalctl --identifier {IDENTIFIER} --lines 50 --no-pager"],
        "then": "`check` ends with 0 when all is well, 1 when something is not, 2 when it could not look.",
    },
    {
        "name": "An agent is down, or deaf",
        "when": "Its unit is not active, or it is and nothing comes back.",
        "commands": [f"systemctl restart {UNIT}", ops("check --wait")],
        "then": "What the agent was doing is interrupted, at most. Restarts by themselves are named for an hour more.",
    },
    {
        "name": "config.yaml or .env is broken",
        "when": "`config_unparsable`, `bad_configuration`, `key_too_short`, or it began with an edit.",
        "commands": [ops("restore --kept"), ops("check --wait")],
        "then": "Both files are as they were when the agent last was well. Then correct the declaration, or the next "
        "`site.yml` writes the same again.",
    },
    {
        "name": "It began with an update",
        "when": "Agents that were well are not since `status` names a new release.",
        "commands": [ops("rollback"), ops("check --wait")],
        "then": "The release that ran before runs again; `--data` puts migrated databases back as well. The one you "
        "left is not installed again by itself.",
    },
    {
        "name": "An update was cut off",
        "when": "Power or `kill` came in between, and nobody finished it (a boot does that by itself).",
        "commands": [ops("update --recover"), ops("status")],
        "then": "It is finished or undone, whatever leads to agents that answer. What was undone is named "
        "until an update succeeds.",
    },
    {
        "name": "Memories, sessions or skills are gone",
        "when": "The agent answers, but does not know what it knew; or a database is damaged.",
        "commands": [ops("backups"), ops("restore --force"), ops("check --wait")],
        "then": "The newest backup is back; an older one: its path from the list instead of nothing. What was there is "
        "set aside, the last line says where. `--force` because the home may know more than the backup.",
    },
    {
        "name": "The host is gone",
        "when": "A new one stands ready; the backups are on the old disk, or in restic's repository.",
        "controller": ["ansible-playbook alwayson.hermes.site"],
        "then": f"Then, on it: `{ops('backups')}` lists what there is, `{ops('restore ARCHIVE')}` takes the path of an "
        "archive, or `restic:` and a snapshot's number from that list.",
    },
    {
        "name": "Somebody else has to look",
        "when": "Nothing above helped.",
        "commands": [ops("debug")],
        "then": "A bundle without secrets, sessions or memories, searched before it is written.",
    },
]

PLACES = [
    ("agents' homes", f"{HOST.data_dir}/agents/NAME/.hermes, or as declared"),
    ("their settings", f"{health.config.FILE_NAME}, {health.dotenv.FILE_NAME}, {servers.webhooks.FILE_NAME} in it"),
    ("their logs", f"journalctl --identifier {IDENTIFIER.replace('default', 'NAME')}; logs/ in the home"),
    ("units", f"{UNIT.replace('default', 'NAME')}, {', '.join(job.timer for job in jobs.JOBS.values())}"),
    ("last copies that worked", f"{HOST.ops_dir}/agents/NAME/kept/"),
    ("backups", archives.directory_of(HOST)),
    ("what was set aside", f"{HOST.ops_dir}/set-aside/"),
    ("how jobs ended", f"{HOST.ops_dir}/status/"),
    ("an update's journal", f"{HOST.ops_dir}/{installation.JOURNALS['update']}"),
    ("releases", f"{HOST.root}/releases/, {HOST.root}/current"),
]

# What stands for a value in a fix, in the words of the code.
KNOWN = {
    "unit.log": f"journalctl -u {UNIT}",
    "self.gateway.log": f"journalctl -u {UNIT}",
    "self.gateway.restart": f"systemctl restart {UNIT}",
    "data_dir": HOST.data_dir,
    "path": "that path",
    "name": "that unit",
    "key": "api",
    "server.port": "PORT",
}


# Where causes are named.
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
    """What `check` calls a cause -> the fix it prints, of every cause that is named in the code."""
    found: dict[str, str] = {}
    for module in MODULES:
        for call in ast.walk(ast.parse(inspect.getsource(module))):
            name = ast.unparse(call.func).rpartition(".")[2] if isinstance(call, ast.Call) else ""
            known = name in ("Problem", "Finding", "_find")
            if known and len(call.args) >= 3 and isinstance(call.args[0], ast.Constant):
                found.setdefault(call.args[0].value, said(call.args[2], module))
    return found


def said(node: ast.AST, module: ModuleType) -> str:
    """The text that the expression *node* stands for; what is only known on a host is an ellipsis."""
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
    """Causes that are put right the same way, and that way."""
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
        f"Print this page and keep it by the machine. As root on the host; for another agent than `{AGENT.name}` "
        f"say `--agent NAME`, and its unit's name. In user scope write `systemctl --user -M hermes-NAME@`.",
    ]
    for number, step in enumerate(STEPS, start=1):
        commands = [f"# {command}" for command in step.get("commands", [])]
        commands += [f"$ {command}" for command in step.get("controller", [])]
        lines += ["", f"## {number}. {step['name']}", "", step["when"], "", "```console", *commands, "```"]
        lines += ["", step["then"]]
    lines += ["", "## Where things are", "", "| what | where |", "|---|---|"]
    lines += [f"| {what} | `{where}` |" for what, where in PLACES]
    lines += ["", "## What `check` says, and what to do", "", "| cause | fix |", "|---|---|", *table()]
    lines += ["", "What else it says names its own fix."]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
