# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is in the image, and what is not."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import agent_image
import pytest
import yaml
from containers import ROOT, docker, printed

# Bytes that "slim" may take.
BUDGET = 420 * 10**6
INSIDE = Path(__file__).with_name("inside.py")
# By two libraries that know nothing of us: whether a document is valid, and each URL that of its package.
JUDGE = """
import json, sys
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packageurl import PackageURL
text = sys.stdin.read()
error = JsonStrictValidator(SchemaVersion.V1_6).validate_str(text)
urls = [each["purl"] for each in json.loads(text)["components"]]
print(json.dumps([error and str(error), [url for url in urls if PackageURL.from_string(url).to_string() != url]]))
"""


@pytest.fixture(scope="session")
def content(image: str) -> dict[str, Any]:
    return json.loads(printed(image, INSIDE))


def inspect(image: str, what: str) -> Any:
    return json.loads(docker("image", "inspect", "--format", f"{{{{json .{what}}}}}", image).stdout)


def test_labels_and_defaults(image):
    config = inspect(image, "Config")
    assert docker("image", "inspect", config["Labels"].pop("org.opencontainers.image.base.name"))
    assert config["Labels"] == {
        "org.opencontainers.image.title": "Hermes agent",
        "org.opencontainers.image.version": value_of("roles/common/defaults/main.yml", "hermes_version"),
        "io.alwayson.hermes.collection": value_of("galaxy.yml", "version"),
        "io.alwayson.hermes.variant": "slim",
        "io.alwayson.hermes.sbom": "/usr/share/hermes/sbom.cdx.json",
    }
    assert config["User"] == "10000:10000"
    assert list(config["Volumes"]) == ["/opt/data"]
    assert sorted(config["ExposedPorts"]) == ["8642/tcp", "8644/tcp"]


def value_of(file: str, key: str) -> str:
    return yaml.safe_load((ROOT / file).read_text(encoding="utf-8"))[key]


def test_it_is_small(image):
    assert inspect(image, "Size") <= BUDGET


def test_nothing_is_in_it_that_no_agent_needs(content):
    assert content["tools"] == []
    assert content["full"] == []
    assert content["rights"] == {"lent": [], "open": [], "foreign": ["/opt/data"]}


def test_all_modules_are_compiled_and_all_byte_code_is_used(content):
    assert (content["byte_code"]["missing"], content["byte_code"]["unused"]) == ([], [])
    assert content["byte_code"]["right"] > 1000


def test_the_bill_of_materials_is_that_of_the_image(content):
    named: dict[str, list[list[str]]] = {"deb": [], "pypi": [], "generic": []}
    for each in content["sbom"]["components"]:
        kind = re.match(r"pkg:(\w+)/", each["purl"])[1]
        named[kind].append([each["name"], each["version"], *re.findall(r"[?&]arch=(\w+)", each["purl"])])
    assert sorted(named["deb"]) == content["installed"]["deb"]
    assert sorted(named["pypi"]) == content["installed"]["pypi"]
    assert [name for name, _version in named["generic"]] == ["hermes-ops"]


def test_the_bill_of_materials_is_valid(content):
    python = ROOT / ".cache/venv/cyclonedx/bin/python"
    if not python.exists():
        pytest.skip("SKIPPED, NOT PROVED: there is no validator. Fix: script/bootstrap cyclonedx")
    text = json.dumps(content["sbom"])
    done = subprocess.run([python, "-c", JUDGE], input=text, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == [None, []]


def test_the_manifest_is_that_of_the_image(image, content):
    assert printed(image, ROOT / "image/manifest.py") == content["manifest"]


def test_another_build_is_equal(image, content):
    other = agent_image.build(anew=True)
    try:
        manifest = json.loads(printed(other, INSIDE))["manifest"]
        assert set(manifest.splitlines()) ^ set(content["manifest"].splitlines()) == set()
        # That is also what is not in the list: dates.
        assert inspect(other, "RootFS") == inspect(image, "RootFS")
        assert inspect(other, "Config") == inspect(image, "Config")
    finally:
        docker("image", "rm", other)
