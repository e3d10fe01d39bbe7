# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""uv finds the made-up releases of the tests as on a host; and the newest version that an index offers."""

from __future__ import annotations

import io
import json
import subprocess
import threading
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.release import build, decide, observe
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.release.request import Request
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.release.uv import Index
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.errors import OpsError


@pytest.fixture
def server(package_index: Any, published: Any) -> Iterator[Any]:
    try:
        published.files()
    except urllib.error.URLError as error:
        pytest.skip(f"SKIPPED, NOT PROVED: made-up releases, because no package index answers: {error}")
    with package_index.PackageIndex(("127.0.0.1", 0), published) as made:
        thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        made.url = f"http://127.0.0.1:{made.server_port}"
        yield made
        made.state.forget()
        made.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def own_cache(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Clears the cache of an index's answers between tests."""
    monkeypatch.setenv("UV_CACHE_DIR", str(root.parent / "cache"))
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")


CACHE = Path(__file__).resolve().parents[3] / ".cache" / "uv"


def control(server: Any, method: str, path: str, value: Any = None) -> Any:
    data = None if value is None else json.dumps(value).encode()
    with urllib.request.urlopen(urllib.request.Request(server.url + path, data, method=method)) as answer:
        return json.load(answer)


def test_the_newest_of_a_range_is_what_is_offered_and_nothing_is_built(server, root):
    index = Index(url=f"{server.url}/simple")
    control(server, "POST", "/control/offer", {"0.19.1": "good", "0.19.3": "good", "0.20.0rc1": "good"})
    asked = Request(version=">=0.18,<0.21", extras=("sms",))
    found = build.newest(asked, index, root=str(root))
    assert found == Request(version="0.19.3", extras=("sms",))
    assert build.newest(Request(version="<0.19.3"), index, root=str(root)).version == "0.19.1"
    control(server, "DELETE", "/control")
    # uv caches an index's answer for some minutes if the index sends a lifetime; this one sends none.
    assert build.newest(Request(version=">0.18,<0.20"), index, root=str(root)).version == "0.19.0"
    assert list((root / "releases").iterdir()) == []
    assert not (root / "current").exists()
    with pytest.raises(OpsError, match="no such version"):
        build.newest(Request(version=">=0.40"), index, root=str(root))


def test_what_is_exact_is_the_newest_without_a_question(server, root):
    asked = Request(version="0.19.0")
    assert build.newest(asked, Index(url=f"{server.url}/simple"), root=str(root)) is asked
    assert server.state.requests == []


@pytest.mark.parametrize(("fault", "said"), [("gone", "cannot be reached"), ("error", "503"), ("hang", "within 3 s")])
def test_an_index_in_trouble_is_named_and_nothing_stays_behind(server, root, fault, said):
    control(server, "POST", "/control/fault", fault)
    with pytest.raises(OpsError, match=said) as error:
        build.newest(Request(version=">=0.19"), Index(url=f"{server.url}/simple"), root=str(root), timeout=3)
    assert error.value.fix
    assert "nothing was changed" in str(error.value)
    assert list((root / "releases").iterdir()) == []


@pytest.mark.usefixtures("uncompiled")
def test_a_made_up_release_installs_and_says_its_version(server, root, package_index, monkeypatch):
    # Only the offer of Hermes itself changes.
    monkeypatch.setenv("UV_CACHE_DIR", str(CACHE))
    control(server, "POST", "/control/offer", {"0.19.5": "good"})
    outcome = build.ensure(Request(version="0.19.5"), Index(url=f"{server.url}/simple"), root=str(root))
    assert outcome.stamp["version"] == "0.19.5"
    (code,) = (root / "current/lib").glob("python3*/site-packages/gateway/run.py")
    assert code.read_text().endswith(package_index.added(server.state.dies_after)["gateway/run.py"])


def test_a_broken_file_is_refused(server, root):
    control(server, "POST", "/control/offer", {"0.19.7": "broken"})
    with pytest.raises(OpsError, match=r"0\.19\.7: (a broken file|another file than the pinned one) was offered"):
        build.ensure(Request(version="0.19.7"), Index(url=f"{server.url}/simple"), root=str(root))
    assert list((root / "releases").iterdir()) == []


@pytest.mark.usefixtures("server")
def test_what_is_made_up_is_python_and_always_the_same(package_index, published):
    wheel = published.fetch(package_index.name_of(package_index.BASE))
    one, other = (package_index.make_up(wheel, "0.19.9", 1.5) for _ in range(2))
    assert one == other
    with zipfile.ZipFile(io.BytesIO(one)) as made:
        assert "Timer(1.5," in made.read("gateway/run.py").decode()
        for place in package_index.added():
            compile(made.read(place), place, "exec")


def repository(path: Path, *tags: str) -> dict[str, str]:
    """Empty commits with annotated tags, a plain one last; returns tag -> commit."""
    git = ["git", "-c", "user.name=t", "-c", "user.email=t@example.org", "-C", str(path)]
    path.mkdir()
    subprocess.run([*git, "init", "--quiet", "--initial-branch", "v9999.1.1"], check=True)
    commits = {}
    for number, tag in enumerate(tags, start=1):
        subprocess.run([*git, "commit", "--quiet", "--allow-empty", "--message", tag], check=True)
        note = ["--annotate", "--message", tag] if number < len(tags) else []
        subprocess.run([*git, "tag", *note, tag], check=True)
        done = subprocess.run([*git, "rev-parse", f"{tag}^0"], check=True, capture_output=True, text=True)
        commits[tag] = done.stdout.strip()
    return commits


TAGS = ("v2026.9.24", "v2026.10.1", "v2026.10.9rc1", "v0.22.10", "v0.22.9", "nightly", "v2026.9.3")


@pytest.mark.parametrize(
    ("channel", "newest"),
    [
        ("v2026.*", "v2026.10.1"),
        ("v2026.9.*", "v2026.9.24"),
        ("v2026.*rc*", "v2026.10.9rc1"),
        # The versions followed the years.
        ("v*", "v0.22.10"),
        ("v0.22.9", "v0.22.9"),
        ("*.9.3", "v2026.9.3"),
    ],
)
def test_the_newest_tag_of_a_channel_and_its_commit(server, root, tmp_path, channel, newest):
    commits = repository(tmp_path / "repository", *TAGS)
    asked = Request(method="git", url=(tmp_path / "repository").as_uri(), channel=channel)
    # uv always comes from an index, whatever the source of Hermes is.
    found = build.newest(asked, Index(url=f"{server.url}/simple"), root=str(root))
    assert (found.ref, found.commit, found.channel) == (newest, commits[newest], None)


@pytest.mark.parametrize("channel", ["nightly", "v2027.*"])
def test_a_channel_without_a_version_is_an_error_that_says_so(server, root, tmp_path, channel):
    repository(tmp_path / "repository", *TAGS)
    asked = Request(method="git", url=(tmp_path / "repository").as_uri(), channel=channel)
    with pytest.raises(OpsError, match="there is no such tag") as error:
        build.newest(asked, Index(url=f"{server.url}/simple"), root=str(root))
    assert "git ls-remote" in error.value.fix


def test_a_repository_out_of_reach_is_named(server, root, tmp_path):
    asked = Request(method="git", url=(tmp_path / "nowhere").as_uri(), channel="v*")
    with pytest.raises(OpsError, match="git failed") as error:
        build.newest(asked, Index(url=f"{server.url}/simple"), root=str(root))
    assert "nowhere" in str(error.value)
    assert error.value.fix
    assert list((root / "releases").iterdir()) == []


def installed(name: str, ref: str, used: float = 0.0, url: str = "https://example.org/h.git") -> observe.Installed:
    value = {"method": "git", "extras": ["homeassistant"], "url": url, "ref": ref, "commit": name[0] * 40}
    return observe.Installed(name, {"id": name, "version": "0.21.0", "identity": value}, used, True)


CHANNEL = Request(method="git", url="https://example.org/h.git", channel="v2026.*")


def test_within_a_channel_the_current_release_stays_and_else_the_newest_installed_is_taken():
    older, newer, foreign = (
        installed("a", "v2026.7.7", 3.0),
        installed("b", "v2026.10.1", 1.0),
        installed("c", "v2026.11.1", url="https://example.com/h.git"),
    )
    observed = observe.Observed((older, newer, foreign), current="a")
    assert decide.pin_installed(CHANNEL, observed).ref == "v2026.7.7"
    assert decide.pin_installed(CHANNEL, observe.Observed((older, newer, foreign))).commit == "b" * 40
    assert decide.decide(CHANNEL, observed, current=True, keep=1).release_id.startswith("v2026.7.7-")
    decision = decide.decide(CHANNEL, observe.Observed((foreign,)), current=True, keep=1)
    assert (decision.build, decision.release_id) == (True, None)
