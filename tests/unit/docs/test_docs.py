# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The pages in docs/ match the code: every key of an agent, every door, every cause and finding."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.description import declaration, schema
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.supervise import (
    health,
    journal,
    servers,
    systemd,
    units,
)
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.watch import (
    agent,
    drill,
    expiry,
    findings,
    growth,
    history,
    host_findings,
    look,
    metrics,
    process,
    runtimes,
    serving,
    sources,
    tailnet,
    turns,
)

ROOT = Path(__file__).resolve().parents[3]
DOCS = ROOT / "docs"


def first_cells(page: str) -> set[str]:
    """Everything in code style in the first column of the tables of *page*."""
    rows = re.findall(r"^\| (`[^|]*) \|", (DOCS / page).read_text(encoding="utf-8"), re.M)
    return {name for row in rows for name in re.findall(r"`([^`]+)`", row)}


def keys(table: dict[str, Any], prefix: str = "") -> Iterator[str]:
    """The keys of a table of schema.py as the page writes them."""
    for name, kind in table.items():
        if isinstance(kind, dict):
            yield from keys(kind, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


def causes(module: Any, name: str) -> set[str]:
    """The first argument of every *name*\\ (…) in *module*."""
    calls = (node for node in ast.walk(ast.parse(inspect.getsource(module))) if isinstance(node, ast.Call))
    return {
        call.args[0].value
        for call in calls
        if ast.unparse(call.func).rpartition(".")[2] == name and isinstance(call.args[0], ast.Constant)
    }


# What agents get in their config.yaml.
GIVEN = {
    ".".join(path)
    for given in (declaration.BASE_CONFIG, declaration.GROWTH_LIMITS)
    for path, _value in declaration.leaves(given)
}


@pytest.mark.parametrize("key", [*keys(schema.AGENT_KEYS), *keys(schema.SUBSCRIPTION_KEYS, "webhooks[].")])
def test_every_key_of_an_agent_is_described(key):
    assert key in first_cells("agents.md")


def test_no_key_is_described_that_does_not_exist():
    known = {*keys(schema.AGENT_KEYS), *keys(schema.SUBSCRIPTION_KEYS, "webhooks[].")}
    known |= {name for name, kind in schema.AGENT_KEYS.items() if isinstance(kind, dict)}
    known |= GIVEN
    assert first_cells("agents.md") - known == set()


def test_what_every_agent_gets_is_described():
    assert first_cells("agents.md") >= GIVEN


def test_every_door_is_described():
    assert set(units.DOORS) <= first_cells("units.md")
    listed = re.search(r"^\| `sandbox\.open` .*$", (DOCS / "agents.md").read_text(encoding="utf-8"), re.M)
    assert set(re.findall(r"`(\w+)`", listed[0])) == set(units.DOORS)


def test_every_directive_of_the_sandbox_is_described():
    page = (DOCS / "units.md").read_text(encoding="utf-8")
    assert [name for name in units.SANDBOX if f"`{name}" not in page] == []


def test_every_cause_of_ill_health_is_described():
    known = set().union(*(causes(module, "Problem") for module in (health, journal, servers, systemd, agent)))
    assert "port_in_use" in known
    page = (DOCS / "troubleshooting.md").read_text(encoding="utf-8")
    assert known == set(re.findall(r"^\| `([a-z_]+)` \|", page, re.M))


def test_every_finding_is_described():
    page = (DOCS / "monitoring.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| (`[a-z_]+`(?:, `[a-z_]+`)*) \| .*\| .*\|.*\|$", page, re.M)
    modules = (
        agent,
        serving,
        drill,
        expiry,
        findings,
        growth,
        history,
        host_findings,
        look,
        process,
        runtimes,
        sources,
        tailnet,
        turns,
    )
    known = set().union(*(causes(module, call) for module in modules for call in ("Finding", "_find")))
    assert "disk_full" in known
    # Causes that the code builds from a job's name.
    known |= {"backup_failed", "rehearsal_failed", "update_failed", "update_rolled_back"}
    assert {
        cause for cell in listed for cause in re.findall(r"`([a-z_]+)`", cell) if "heartbeat_" not in cause
    } == known


def test_every_threshold_is_the_documented_one():
    page = (DOCS / "monitoring.md").read_text(encoding="utf-8")
    defaults = yaml.safe_load((ROOT / "roles/heartbeat/defaults/main.yml").read_text(encoding="utf-8"))
    ours = findings.Settings()
    for name, value in vars(ours).items():
        assert defaults[f"heartbeat_{name}"] == value
    for name in ("disk_percent", "memory", "provider_error_percent", "restarts", "clock_seconds", "expiry_days"):
        assert f"`heartbeat_{name}`, {defaults[f'heartbeat_{name}']}" in page
    for name, metric in re.findall(r"`(hermes_(\w+))", page.partition("## node_exporter")[2]):
        assert f'metric("{name}"' in re.sub(r"metric\(\s+", "metric(", inspect.getsource(metrics)), metric


def test_examples_are_yaml():
    """Examples are valid YAML, and the agents in them resolve."""
    for page in (ROOT / "README.md", *DOCS.glob("*.md"), *ROOT.glob("roles/*/README.md")):
        for indent, block in re.findall(r"^( *)```yaml\n(.*?)^\1```", page.read_text(encoding="utf-8"), re.M | re.S):
            parsed = yaml.safe_load(re.sub(f"^{indent}", "", block, flags=re.M))
            if isinstance(parsed, dict) and "hermes_agents" in parsed:
                declaration.resolve(
                    parsed["hermes_agents"],
                    host=page.name,
                    data_dir="/data",
                    managed_root="/managed",
                    tailnet=parsed.get("tailscale_enabled", False),
                )


def test_links_lead_somewhere():
    for page in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *DOCS.glob("*.md"), *ROOT.glob("roles/*/README.md")):
        for link in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text(encoding="utf-8")):
            assert (page.parent / link).exists(), f"{page.relative_to(ROOT)}: {link}"
