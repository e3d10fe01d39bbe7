# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The tables of "What fits together" in docs/releases.md say what the code knows, and nothing else."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.host import groundwork
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.release import fitness, pins
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.release.versions import satisfies, version_key

ROOT = Path(__file__).resolve().parents[3]
# The suites of the tests -> the name of the system, and its own Python.
SYSTEMS = {
    "bookworm": ("Debian 12", "3.11"),
    "trixie": ("Debian 13", "3.13"),
    "forky": ("Debian testing", "3.14"),
    "jammy": ("Ubuntu 22.04", "3.10"),
    "noble": ("Ubuntu 24.04", "3.12"),
}
PYTHONS = ("3.11", "3.12", "3.13")


@pytest.fixture(scope="module")
def section() -> str:
    text = (ROOT / "docs/releases.md").read_text(encoding="utf-8")
    return text.split("### What fits together\n")[1].split("\n### ")[0]


def rows(section: str, first: str) -> list[list[str]]:
    """The rows of the table whose first column is headed *first*, with the heading."""
    (table,) = re.findall(rf"^\| {first} \|.*\n(?:\|.*\n)+", section, re.M)
    lines = [line.strip("| ").split(" | ") for line in table.splitlines()]
    return [lines[0], *lines[2:]]


def names(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def expected_rows() -> list[list[str]]:
    """The rows as they follow from the shipped locks and from what is known about versions and tags."""

    def row(versions: str, methods: str, python: str, lock: str) -> list[str]:
        fits = ["yes" if satisfies(own, python) else "no" for _name, own in SYSTEMS.values()]
        return [versions, methods, f"`{python}`", lock, *fits]

    found = []
    for python, versions in fitness.PACKAGES.items():
        for lock in ("none", "shipped"):
            those = [version for version in versions if (version in pins.HERMES) == (lock == "shipped")]
            found.append(row(", ".join(f"`{version}`" for version in those), "`pypi`, `path`", python, lock))
    for python, tags in fitness.TAGS.items():
        found.append(row(f"`{tags[0]}` to `{tags[-1]}`", "`git`", python, "the tree's"))
    return found


def test_the_table_of_versions_is_what_the_code_knows(section):
    heading, *lines = rows(section, "Hermes")
    assert heading[:4] == ["Hermes", "`install_method`", "Python", "lock"]
    assert heading[4:] == [f"{name} ({python})" for name, python in SYSTEMS.values()]
    assert lines == expected_rows()
    assert {version for line in lines for version in names(line[0])} >= set(pins.HERMES)


def test_the_systems_are_those_of_the_tests_and_of_the_role_base():
    box = runpy.run_path(str(ROOT / "tests/hosts/box.py"))
    assert tuple(SYSTEMS) == box["DEBIAN"] + box["UBUNTU"]
    for system, version in groundwork.SYSTEMS.items():
        numbered = [name.split()[1] for name, _python in SYSTEMS.values() if name.lower().startswith(system)]
        assert min((number for number in numbered if number != "testing"), key=version_key) == version


def test_the_table_of_extras_is_what_the_locks_have(section):
    _heading, *lines = rows(section, "extra")
    listed = [extra for line in lines for extra in names(line[0])]
    assert len(listed) == len(set(listed))
    said = {extra: line[1] for line in lines for extra in names(line[0])}
    for version, extras in pins.EXTRAS.items():
        assert set(listed) == set(extras.split())
        for extra in listed:
            able = [python for python in PYTHONS if extra not in pins.LACKING[version].get(python, ())]
            # Those of a range in the first table, or by their numbers.
            words = "every Python above" if able == list(PYTHONS) else f"Python {' and '.join(able)}"
            assert said[extra].startswith(words), extra


def test_the_tables_have_the_date_of_the_check_and_the_machines(section):
    (date,) = re.findall(r"Checked on (\d{4}-\d\d-\d\d)", section)
    assert f"read on {date}" in Path(fitness.__file__).read_text(encoding="utf-8")
    assert f"made for {' and '.join(fitness.MACHINES.values())}, " in section


def test_the_lock_is_made_for_what_the_tables_say():
    text = (ROOT / "script/lock").read_text(encoding="utf-8")
    versions, pythons, machines = (
        re.findall(r'"([^"]+)"', re.search(rf"^{name} = \((.*)\)$", text, re.M)[1])
        for name in ("HERMES_VERSIONS", "PYTHONS", "MACHINES")
    )
    assert (versions, tuple(pythons), machines) == (list(pins.HERMES), PYTHONS, list(fitness.MACHINES))
    assert [python for python in ("3.10", *PYTHONS, "3.14") if satisfies(python, pins.REQUIRES_PYTHON)] == pythons
