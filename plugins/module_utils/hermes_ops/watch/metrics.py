# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A report in the text format of Prometheus, for node_exporter's textfile collector."""

from __future__ import annotations

from collections import Counter
from typing import Any

from .findings import Finding, Report


def textfile(report: Report, now: float) -> str:
    """*report* in the text format of Prometheus (https://prometheus.io/docs/instrumenting/exposition_formats/)."""
    figures = report.figures
    lines = []

    def metric(name: str, text: str, values: list[tuple[dict[str, str], Any]]) -> None:
        if values:
            lines.append(f"# HELP {name} {text}")
            lines.append(f"# TYPE {name} gauge")
            lines.extend(f"{name}{_labels(labels)} {float(value):.15g}" for labels, value in values)

    def per_agent(key: str) -> list[tuple[dict[str, str], Any]]:
        found = figures.get("agents", {}).items()
        return [({"agent": name}, values[key]) for name, values in found if values.get(key) is not None]

    metric("hermes_check_timestamp_seconds", "Time of the last check of the host.", [({}, round(now))])
    metric("hermes_healthy", "Whether there is no failure on the host.", [({}, report.healthy)])
    causes = Counter((finding.cause, finding.agent or "", _severity(finding)) for finding in report.findings)
    metric(
        "hermes_finding",
        "Number of findings, by cause.",
        [
            ({"cause": cause, "agent": agent, "severity": severity}, number)
            for (cause, agent, severity), number in sorted(causes.items())
        ],
    )
    metric(
        "hermes_gateway_healthy",
        "Whether the agent is healthy.",
        [({"agent": result.agent}, result.ok) for result in report.agents],
    )
    metric("hermes_gateway_memory_bytes", "Memory of the gateway's unit.", per_agent("memory_bytes"))
    metric("hermes_gateway_open_files", "Open file descriptors of the gateway.", per_agent("open_files"))
    metric("hermes_gateway_restarts", "Restarts by systemd within the last hour.", per_agent("restarts"))
    metric("hermes_turns", "Messages to the agent within the last hour.", per_agent("turns"))
    metric("hermes_turns_failed", "Messages among hermes_turns without an answer.", per_agent("turns_failed"))
    users = figures.get("users", {}).items()
    metric("hermes_users", "Users who have an agent of their own.", [({"state": state}, n) for state, n in users])
    disks = figures.get("disks", {}).items()
    metric(
        "hermes_disk_free_ratio",
        "Free share of the file system.",
        [({"path": path}, disk["free_percent"] / 100) for path, disk in disks],
    )
    if figures.get("clock_offset") is not None:
        metric(
            "hermes_clock_offset_seconds",
            "How far the ping server's clock is ahead of the host's.",
            [({}, figures["clock_offset"])],
        )
    return "\n".join(lines) + "\n"


def _severity(finding: Finding) -> str:
    return "acknowledged" if finding.acknowledged else "failure" if finding.failure else "warning"


def _labels(labels: dict[str, str]) -> str:
    escaped = {
        name: value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") for name, value in labels.items()
    }
    return "{" + ",".join(f'{name}="{value}"' for name, value in escaped.items()) + "}" if labels else ""
