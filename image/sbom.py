# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the image consists of, as a bill of materials in CycloneDX 1.6 (https://cyclonedx.org/docs/1.6/json/)."""

from __future__ import annotations

import re
import time
import urllib.parse
import uuid
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

# For identifiers that follow from the content.
_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "https://github.com/alwayson-hermes/alwayson.hermes")


def document(
    status: str,
    system: Mapping[str, str],
    distributions: Iterable[tuple[str, str]],
    programs: Iterable[tuple[str, str]],
    collection: str,
    epoch: int,
) -> dict[str, Any]:
    """The bill of materials.

    :param status: the content of dpkg's status file
    :param system: the values of /etc/os-release
    :param distributions: name and version of each Python package of the release
    :param programs: name and version of each program from npm
    :param collection: the version of the collection, whose kit is in the image
    :param epoch: the time of the document, seconds since 1970
    """
    python = [_component("library", *each, _purl("pypi", None, _normal(each[0]), each[1])) for each in distributions]
    npm = [_component("application", *each, _purl("npm", None, *each)) for each in programs]
    kit = _component("application", "hermes-ops", collection, _purl("generic", "alwayson", "hermes-ops", collection))
    components = sorted([*_debian(status, system), *python, *npm, kit], key=lambda each: each["bom-ref"])
    (hermes,) = (each for each in python if each["name"] == "hermes-agent")
    serial = uuid.uuid5(_NAMESPACE, "\n".join([str(epoch), *(each["bom-ref"] for each in components)]))
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{serial}",
        "version": 1,
        "metadata": {
            "timestamp": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(epoch)),
            "component": {"type": "container", "name": "hermes", "version": hermes["version"], "bom-ref": "image"},
        },
        "components": components,
    }


def packages(status: str) -> Iterator[dict[str, str]]:
    """The installed packages in dpkg's status file: their fields, those of more lines by the first one."""
    for paragraph in status.strip().split("\n\n"):
        fields = dict(re.findall(r"^(\S+): *(.*)$", paragraph, re.MULTILINE))
        if fields.get("Status", "").endswith(" installed"):
            yield fields


def _debian(status: str, system: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    for package in packages(status):
        name, version = package["Package"], package["Version"]
        qualifiers = {"arch": package["Architecture"], "distro": f"{system['ID']}-{system['VERSION_ID']}"}
        # Security advisories name the source package; its version is given where it differs: "gcc-14 (14.2.0-19)".
        source, _space, other = package.get("Source", name).partition(" ")
        if source != name or other:
            qualifiers["upstream"] = f"{source}@{other.strip('()')}" if other else source
        yield _component("library", name, version, _purl("deb", system["ID"], name, version, qualifiers))


def _component(kind: str, name: str, version: str, purl: str) -> dict[str, Any]:
    return {"type": kind, "bom-ref": purl, "name": name, "version": version, "purl": purl}


def _purl(
    kind: str, namespace: str | None, name: str, version: str, qualifiers: Mapping[str, str] | None = None
) -> str:
    """A package's URL: https://github.com/package-url/purl-spec."""
    path = "/".join(urllib.parse.quote(part, safe="") for part in (kind, namespace, name) if part)
    words = "&".join(
        f"{key}={urllib.parse.quote(value, safe=':')}" for key, value in sorted((qualifiers or {}).items())
    )
    return f"pkg:{path}@{urllib.parse.quote(version, safe=':')}{'?' if words else ''}{words}"


def _normal(name: str) -> str:
    """The name of a Python package in the one form that packages are compared in (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()
