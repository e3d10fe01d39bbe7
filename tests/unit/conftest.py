# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Makes `import ansible_collections.alwayson.hermes…` find this checkout, wherever it lies."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

ROOT = Path(__file__).resolve().parents[2]

# script/bootstrap places the checkout there under the name that Ansible wants.
COLLECTIONS = ROOT / ".cache" / "collections"

if (COLLECTIONS / "ansible_collections/alwayson/hermes").resolve() != ROOT:
    raise RuntimeError(f"{COLLECTIONS} does not lead back to this checkout. Fix: run script/bootstrap")

# The servers in tests/fakes import each other as they do in a box.
sys.path[:0] = [str(COLLECTIONS), str(ROOT / "tests/fakes")]

# The machine may be busy with other tests: time says nothing about ours.
settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")

# For tests that build releases.


@pytest.fixture(scope="session")
def ground() -> Iterator[Path]:
    """A directory that every user may enter, unlike pytest's own: releases are proved as nobody."""
    path = Path(tempfile.mkdtemp(prefix="hermes-release-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(scope="session")
def pinned_uv(ground: Path) -> Path:
    """uv, fetched as a release fetches it; kept between runs."""
    from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.release import pins as locks
    from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.release import uv
    from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.errors import OpsError

    kept = ROOT / ".cache" / f"uv-{locks.UV_VERSION}"
    if not kept.exists():
        root = ground / "uv"
        (root / "tools").mkdir(parents=True)
        (root / "work" / "tmp").mkdir(parents=True)
        with open(root / "lock", "w") as stream:
            tool = uv.Uv(str(root), str(root / "work"), uv.Index(), timeout=300, lock=stream.fileno())
            try:
                tool.ensure()
            except OpsError as error:
                if "cannot be reached" not in str(error):
                    raise
                pytest.skip(f"SKIPPED, NOT PROVED: building releases, because no package index answers: {error}")
        kept.parent.mkdir(parents=True, exist_ok=True)
        # Another worker may look for it at this very moment.
        whole = shutil.copy2(root / "tools" / "uv", kept.parent / f"{kept.name}.{os.getpid()}")
        os.replace(whole, kept)
    return kept


@pytest.fixture
def root(ground: Path, pinned_uv: Path) -> Path:
    """A place for releases, with uv in it."""
    path = Path(tempfile.mkdtemp(dir=ground))
    path.chmod(0o755)
    (path / "opt" / "tools").mkdir(parents=True)
    shutil.copy2(pinned_uv, path / "opt" / "tools" / "uv")
    return path / "opt"


@pytest.fixture
def leave_uncompiled(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """A function after which releases are built without byte code.

    That is most of the work of building Hermes itself; that there is some, test_release_build.py proves once for a
    release from an index and once for one from git.
    """
    from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.release import build, uv
    from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.process import Completed

    call, run = uv.Uv.__call__, build.run

    def install(self: uv.Uv, *arguments: str, **options: Any) -> str:
        return call(self, *(argument for argument in arguments if argument != "--compile-bytecode"), **options)

    def unless_it_compiles(argv: Sequence[str], **options: Any) -> Completed:
        return Completed(tuple(argv), 0, "", "") if "compileall" in argv else run(argv, **options)

    def leave() -> None:
        monkeypatch.setattr(uv.Uv, "__call__", install)
        monkeypatch.setattr(build, "run", unless_it_compiles)

    return leave


@pytest.fixture
def uncompiled(leave_uncompiled: Callable[[], None]) -> None:
    leave_uncompiled()


@pytest.fixture(scope="session")
def package_index():
    """tests/fakes/package_index.py."""
    import package_index

    return package_index


@pytest.fixture(scope="session")
def published(package_index):
    """What is really published of Hermes; files are kept between runs."""
    return package_index.RealIndex(package_index.real_index(), ROOT / ".cache" / "published")
