# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What can be known of the image without building it: tests/image has the rest."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import re
from pathlib import Path
from types import ModuleType

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[3]
CONTAINERFILE = (ROOT / "image/Containerfile").read_text(encoding="utf-8")


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / f"image/{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


manifest, sbom = load("manifest"), load("sbom")

STATUS = """\
Package: libstdc++6
Status: install ok installed
Architecture: arm64
Source: gcc-14 (14.2.0-19)
Version: 1:14.2.0-19+b1
Description: the library
 of a compiler
 Version: 0 is not a field here

Package: gone
Status: deinstall ok config-files
Architecture: all
Version: 1.0

Package: tzdata
Status: install ok installed
Architecture: all
Version: 2026a~1
"""
SYSTEM = {"ID": "debian", "VERSION_ID": "13"}
RELEASE = [("hermes-agent", "0.19.0"), ("ruamel.yaml", "0.18.1+local")]
BROWSER = [("agent-browser", "0.26.0")]


def test_the_bill_of_materials_names_packages_as_scanners_do():
    bill = sbom.document(STATUS, SYSTEM, RELEASE, BROWSER, "0.1.0", 86400)
    assert [(each["name"], each["version"], each["purl"]) for each in bill["components"]] == [
        (
            "libstdc++6",
            "1:14.2.0-19+b1",
            "pkg:deb/debian/libstdc%2B%2B6@1:14.2.0-19%2Bb1?arch=arm64&distro=debian-13&upstream=gcc-14%4014.2.0-19",
        ),
        ("tzdata", "2026a~1", "pkg:deb/debian/tzdata@2026a~1?arch=all&distro=debian-13"),
        ("hermes-ops", "0.1.0", "pkg:generic/alwayson/hermes-ops@0.1.0"),
        ("agent-browser", "0.26.0", "pkg:npm/agent-browser@0.26.0"),
        ("hermes-agent", "0.19.0", "pkg:pypi/hermes-agent@0.19.0"),
        ("ruamel.yaml", "0.18.1+local", "pkg:pypi/ruamel-yaml@0.18.1%2Blocal"),
    ]
    assert len({each["bom-ref"] for each in bill["components"]}) == 6
    assert bill["metadata"]["timestamp"] == "1970-01-02T00:00:00Z"
    assert bill["metadata"]["component"]["version"] == "0.19.0"


def test_the_bill_of_materials_follows_from_what_is_there():
    bill = sbom.document(STATUS, SYSTEM, RELEASE, BROWSER, "0.1.0", 86400)
    assert sbom.document(STATUS, SYSTEM, RELEASE[::-1], BROWSER, "0.1.0", 86400) == bill
    other = sbom.document(STATUS, SYSTEM, RELEASE[:1], BROWSER, "0.1.0", 86400)
    assert other["serialNumber"] != bill["serialNumber"]


def test_the_manifest_lists_everything_but_what_an_engine_mounts(tmp_path):
    for name in ("bin", "dev/pts", "opt/data/home"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "bin/b").write_text("content")
    (tmp_path / "bin/a").symlink_to("b")
    # A name that is no text.
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/z\xff")).write_text("")
    for path, mode in (("bin", 0o755), ("bin/b", 0o4755), ("opt", 0o700), ("z\udcff", 0o600)):
        (tmp_path / path).chmod(mode)
    owner = f"{os.geteuid()}:{(tmp_path / 'bin').stat().st_gid}"

    def sha256(text: str) -> str:
        return hashlib.sha256(text.encode()).hexdigest()

    assert list(manifest.lines(str(tmp_path))) == [
        f"040755 {owner} - /bin",
        f"120777 {owner} b /bin/a",
        f"104755 {owner} {sha256('content')} /bin/b",
        f"040700 {owner} - /opt",
        f"100600 {owner} {sha256('')} /z\udcff",
    ]


@pytest.mark.parametrize(
    ("pattern", "file", "key"),
    [
        (r"^ARG HERMES_VERSION=(\S+)$", "roles/common/defaults/main.yml", "hermes_version"),
        (r'io\.alwayson\.hermes\.collection="(\S+)"', "galaxy.yml", "version"),
    ],
)
def test_versions_are_those_of_the_collection(pattern, file, key):
    found = set(re.findall(pattern, CONTAINERFILE, re.MULTILINE))
    assert found == {yaml.safe_load((ROOT / file).read_text())[key]}


def test_an_argument_has_one_default():
    defaults = set(re.findall(r"^ARG (\w+=.*)$", CONTAINERFILE, re.MULTILINE))
    names = [default.partition("=")[0] for default in defaults]
    assert sorted(names) == sorted(set(names))


def test_no_architecture_is_named():
    assert not re.search(r"amd64|x86|arm64|aarch64|linux-gnu", CONTAINERFILE)


def test_the_entrypoint_ends_the_gateway_cleanly():
    words = json.loads(re.search(r"^ENTRYPOINT (\[.*\])$", CONTAINERFILE, re.MULTILINE)[1])
    # SIGTERM (15) becomes SIGINT (2).
    assert words[: words.index("--")] == ["dumb-init", "--single-child", "--rewrite", "15:2"]
