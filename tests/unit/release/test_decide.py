# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is decided about releases, without a machine."""

from __future__ import annotations

import dataclasses
import os
import re

import pytest
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.release import (
    decide,
    observe,
    pins,
    uv,
    versions,
)
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.release.observe import (
    Installed,
    Observed,
    Tree,
)
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.release.request import (
    Request,
    shipped_lock,
)
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.errors import OpsError
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.process import Completed
from hypothesis import example, given
from hypothesis import strategies as st
from packaging.specifiers import SpecifierSet
from packaging.version import Version

COMMIT = "85d304931fbec22337afa88b21cfc8b3d66b8e8c"
GIT = {"method": "git", "url": "https://example.org/hermes.git", "ref": "v2026.7.20", "commit": COMMIT}

numbers = st.integers(0, 3)
version_texts = st.builds(
    lambda release_, pre, post, dev: ".".join(map(str, release_)) + pre + post + dev,
    st.lists(numbers, min_size=1, max_size=4),
    st.sampled_from(["", "a1", "b2", "rc1", "rc2"]),
    st.sampled_from(["", ".post1"]),
    st.sampled_from(["", ".dev1"]),
)
clauses = st.one_of(
    st.builds("{}{}".format, st.sampled_from([">=", "<=", ">", "<", "==", "!="]), version_texts),
    st.builds(
        "{}{}.*".format,
        st.sampled_from(["==", "!="]),
        st.lists(numbers, min_size=1, max_size=3).map(dotted := lambda n: ".".join(map(str, n))),
    ),
    st.lists(numbers, min_size=2, max_size=4).map(lambda n: "~=" + dotted(n)),
)


@given(version_texts, version_texts)
def test_versions_sort_as_packaging_sorts_them(one: str, other: str) -> None:
    assert (versions.version_key(one) < versions.version_key(other)) == (Version(one) < Version(other))
    assert (versions.version_key(one) == versions.version_key(other)) == (Version(one) == Version(other))


@example("0.dev1", ">=0.dev1,<0.post1")
@example("1a1.post1", ">1a1.dev1")
@given(version_texts, st.lists(clauses, min_size=1, max_size=3).map(",".join))
def test_a_version_is_in_a_range_when_packaging_says_so(version: str, specifier: str) -> None:
    oracle = SpecifierSet(specifier)
    expected = oracle.contains(version, prereleases=True) and (not Version(version).is_prerelease or oracle.prereleases)
    assert versions.satisfies(version, specifier) == bool(expected)


@pytest.mark.parametrize("specifier", ["", "latest", "0.19.0 or newer", ">=0.18,", "~=1", ">=0.18.*", "===0.19", "1!2"])
def test_what_is_no_range_is_refused(specifier: str) -> None:
    with pytest.raises(OpsError):
        Request(version=specifier)


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"commit": "85d3049"}, "commit"),
        ({"ref": "--upload-pack=x"}, "ref"),
        ({"ref": None}, "ref"),
        ({"url": "https://user:secret@example.org/x.git"}, "url"),
        ({"url": "https://ghp_secret@example.org/x.git"}, "url"),
        ({"url": "HTTP://secret@example.org/x.git"}, "url"),
        ({"url": "ssh://git:secret@example.org/x.git"}, "url"),
        ({"url": "https://[secret"}, "url"),
        ({"url": "--upload-pack=touch /x"}, "url"),
        ({"extras": ("a b",)}, "extras"),
    ],
)
def test_a_request_that_makes_no_sense_is_refused_and_shows_no_secret(wrong: dict, named: str) -> None:
    with pytest.raises(OpsError) as error:
        Request(**{**GIT, **wrong})
    assert error.value.where == named
    assert "secret" not in str(error.value)


@pytest.mark.parametrize("url", ["git@example.org:x/y.git", "ssh://git@example.org:22/x.git"])
def test_the_user_of_ssh_is_no_secret(url: str) -> None:
    assert decide.release_id(Request(**{**GIT, "url": url}), None)


def test_what_is_stored_of_a_url_holds_no_credentials() -> None:
    request = Request(**GIT)
    # Past the refusal: world-readable files hold the identity.
    object.__setattr__(request, "url", "https://hunter2@example.org/hermes.git")
    assert decide.identity(request, None) == decide.identity(Request(**GIT), None)


def installed(request: Request, version: str, used: float = 0, *, intact: bool = True) -> Installed:
    name = decide.release_id(request, version)
    return Installed(name, {"version": version, "identity": decide.identity(request, version)}, used, intact)


def test_an_id_is_readable_and_differs_with_all_that_makes_the_release_another() -> None:
    base = Request(version="0.19.0")
    others = [
        Request(version="0.18.2"),
        Request(version="0.19.0", extras=("messaging",)),
        Request(version="0.19.0", python="3.12"),
        Request(version="0.19.0", lock="none"),
        Request(version="0.19.0", lock="a==1"),
    ]
    names = [decide.release_id(request, request.version) for request in [base, *others]]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"0\.1[89]\.[02]-[0-9a-f]{8}", name) for name in names)
    assert decide.release_id(Request(**GIT), None).startswith("v2026.7.20-")
    assert "/" not in decide.release_id(Request(**{**GIT, "ref": "feature/x"}), None)


def test_the_order_of_extras_a_range_and_downloads_do_not_make_another_release() -> None:
    one = Request(version="0.19.0", extras=("sms", "messaging"))
    other = Request(version=">=0.18", extras=("messaging", "sms", "sms"), python_downloads=True)
    assert decide.release_id(one, "0.19.0") == decide.release_id(other, "0.19.0")


@pytest.mark.parametrize("spelt", ["0.19", "v0.19", "0.19.0.0", "0.19.0"])
def test_a_version_has_one_normal_form(spelt) -> None:
    request = Request(version=spelt)
    assert request == Request(version="0.19.0")
    there = installed(Request(version="0.19.0"), "0.19.0")
    assert not decide.decide(request, Observed((there,), there.id), current=True, keep=2).build
    assert shipped_lock(request, request.version) == pins.HERMES["0.19.0"]


@given(version_texts)
def test_the_normal_form_is_the_same_version_and_there_is_only_one(text: str) -> None:
    form = versions.normal(text)
    assert Version(form) == Version(text)
    assert versions.normal(form) == form
    assert versions.normal(f"v{Version(text)}") == form
    assert versions.normal(re.sub(r"^[\d.]*\d", lambda release: release[0] + ".0", text)) == form
    assert versions.is_version(form)


def test_what_is_no_version_stays_as_it_is() -> None:
    for text in (">=0.19,<0.20", "0.19.0-22c8bba0", "latest", ""):
        assert versions.normal(text) == text


def test_the_shipped_locks_are_found_by_the_normal_form() -> None:
    assert all(versions.normal(version) == version for version in pins.HERMES)


def test_what_is_there_and_current_leaves_nothing_to_do() -> None:
    request = Request(version="0.19.0")
    there = installed(request, "0.19.0")
    decision = decide.decide(request, Observed((there,), there.id), current=True, keep=2)
    assert (decision.build, decision.switch, decision.remove) == (False, False, ())


def test_a_release_whose_interpreter_is_gone_is_built_again_beside_it() -> None:
    request = Request(version="0.19.0")
    there = installed(request, "0.19.0", intact=False)
    decision = decide.decide(request, Observed((there,), there.id), current=True, keep=2)
    assert (decision.build, decision.switch, decision.release_id) == (True, True, f"{there.id}-2")


def locked(release: Installed, *, value: bool = False, suffix: str = "") -> Installed:
    return dataclasses.replace(release, id=release.id + suffix, stamp={**release.stamp, "locked": value})


@pytest.mark.parametrize("asked", ["0.19.0", "0.19", ">=0.18,<0.20"])
def test_a_release_without_its_lock_is_noticed_and_built_again_beside_it(asked) -> None:
    request = Request(version=asked)
    there = locked(installed(Request(version="0.19.0"), "0.19.0"))
    decision = decide.decide(request, Observed((there,), there.id), current=True, keep=2)
    assert (decision.build, decision.switch, decision.release_id) == (True, True, f"{there.id}-2")
    # Nothing of another's is taken for it, nor overwritten.
    foreign = Observed((there,), there.id, foreign=(f"{there.id}-2",))
    assert decide.decide(request, foreign, current=True, keep=2).release_id == f"{there.id}-3"
    again = locked(installed(Request(version="0.19.0"), "0.19.0"), value=True, suffix="-2")
    decision = decide.decide(request, Observed((there, again), again.id), current=True, keep=2)
    assert (decision.build, decision.switch, decision.release_id) == (False, False, again.id)


def test_a_release_that_has_no_lock_to_use_stays() -> None:
    for request in (Request(version="0.17.0"), Request(version="0.19.0", lock="none")):
        there = locked(installed(request, request.version))
        decision = decide.decide(request, Observed((there,), there.id), current=True, keep=2)
        assert (decision.build, decision.release_id) == (False, there.id)
    request = Request(**GIT)
    there = locked(
        dataclasses.replace(
            installed(request, None), stamp={"version": "0.19.0", "identity": decide.identity(request, None)}
        )
    )
    assert not decide.decide(request, Observed((there,), there.id), current=True, keep=2).build


def test_within_a_range_the_current_version_stays_even_with_other_extras() -> None:
    old = installed(Request(version="0.19.0"), "0.19.0")
    newer = installed(Request(version="0.19.3"), "0.19.3")
    wider = Request(version=">=0.18,<0.20", extras=("messaging",))
    assert decide.choose_version(Request(version=">=0.18,<0.20"), Observed((old, newer), old.id)) == "0.19.0"
    assert decide.choose_version(wider, Observed((old, newer), old.id)) == "0.19.0"


def test_outside_a_range_the_newest_installed_that_fits_is_taken_else_the_index_is_asked() -> None:
    request = Request(version=">=0.18,<0.20")
    releases = tuple(installed(request, version) for version in ("0.18.2", "0.18.10", "0.17.0"))
    assert decide.choose_version(request, Observed(releases, releases[2].id)) == "0.18.10"
    assert decide.choose_version(request, Observed(releases[2:], releases[2].id)) is None


def test_a_git_release_never_stands_for_a_published_one() -> None:
    git = Request(**GIT)
    there = Installed("v2026.7.20-x", {"version": "0.19.0", "identity": decide.identity(git, None)}, 0, True)
    assert decide.choose_version(Request(version=">=0.18"), Observed((there,), there.id)) is None


def test_wheels_on_the_host_give_the_newest_in_the_range() -> None:
    tree = Tree("wheels", "", ("0.18.2", "0.19.0", "0.20.0"))
    request = Request(method="path", path="/srv/wheels", version="<0.20")
    assert decide.choose_version(request, Observed(tree=tree)) == "0.19.0"


def test_a_path_without_version_takes_the_newest_wheel() -> None:
    tree = Tree("wheels", "", ("0.18.2", "0.19.0"))
    decision = decide.decide(Request(method="path", path="/srv/wheels"), Observed(tree=tree), current=True, keep=2)
    assert decision.version == "0.19.0"
    assert decision.release_id is not None


@given(
    used=st.lists(st.integers(0, 5), min_size=1, max_size=7),
    current=st.integers(0, 6),
    wanted=st.integers(0, 7),
    keep=st.integers(1, 4),
    switch=st.booleans(),
    busy=st.sets(st.integers(0, 6)),
)
def test_pruning_spares_what_is_needed_and_goes_by_last_use(used, current, wanted, keep, switch, busy) -> None:
    releases = tuple(Installed(f"r{n}", {"version": "1"}, when, True) for n, when in enumerate(used))
    observed = Observed(releases, f"r{current}" if current < len(used) else None)
    in_use = [f"r{n}" for n in busy]
    gone = decide.superfluous(observed, f"r{wanted}", switch=switch, keep=keep, in_use=in_use)
    assert not {observed.current, f"r{wanted}", *in_use} & set(gone)
    others = [r for r in releases if r.id not in (f"r{wanted}", observed.current)]
    kept = [r for r in others if r.id not in gone]
    if not busy and not (switch and observed.current):
        assert len(kept) <= max(keep, 0)
        assert all(a.used <= b.used for a in others if a.id in gone for b in kept)


def test_the_release_that_was_current_is_the_last_to_go() -> None:
    releases = tuple(Installed(name, {"version": "1"}, 5 - n, True) for n, name in enumerate("abc"))
    gone = decide.superfluous(Observed(releases, "c"), "new", switch=True, keep=1)
    assert gone == ("b", "a")


def test_describe_names_each_thing_once_and_is_empty_without_work() -> None:
    request = Request(version=">=0.18")
    decision = decide.Decision(None, None, True, True, ("old",), ("x.partial",))
    plan = decide.describe(decision, Observed(current="old2"), request)
    assert [d.what for d in plan.differences] == [
        "release the newest hermes-agent >=0.18",
        "current",
        "release old",
        "unfinished x.partial",
    ]
    assert not decide.describe(decide.Decision("1", "r", False, False), Observed(), request).changed


def test_stamps_that_do_not_parse_and_foreign_directories_are_no_releases(tmp_path) -> None:
    for name, text in (("good-1", '{"version": "1", "identity": {}}'), ("bad-1", "{"), ("c.partial", "{}")):
        (tmp_path / "releases" / name).mkdir(parents=True)
        (tmp_path / "releases" / name / "release.json").write_text(text)
    (tmp_path / "releases" / "theirs").mkdir()
    os.symlink("releases/good-1", tmp_path / "current")
    observed = observe.observe(str(tmp_path))
    assert [r.id for r in observed.releases] == ["good-1"]
    assert observed.current == "good-1"
    assert observed.garbage == ("c.partial",)


def test_a_tree_is_known_by_its_contents_not_by_its_times(tmp_path) -> None:
    (tmp_path / "pyproject.toml").write_text("[project]\n")
    (tmp_path / ".git").mkdir()
    request = Request(method="path", path=str(tmp_path))
    before = observe.examine(request)
    os.utime(tmp_path / "pyproject.toml", (1, 1))
    (tmp_path / ".git" / "index").write_text("x")
    assert observe.examine(request) == before
    (tmp_path / "pyproject.toml").write_text("[project] \n")
    assert observe.examine(request) != before


def test_a_directory_of_wheels_without_the_version_says_what_it_has(tmp_path) -> None:
    (tmp_path / "hermes_agent-0.18.2-py3-none-any.whl").write_text("")
    assert observe.examine(Request(method="path", path=str(tmp_path))).versions == ("0.18.2",)
    with pytest.raises(OpsError, match=r"has hermes-agent 0\.18\.2, not 0\.19\.0"):
        observe.examine(Request(method="path", path=str(tmp_path), version="0.19.0"))


def test_declared_index_goes_before_variables_and_those_before_pip() -> None:
    environ = {"UV_DEFAULT_INDEX": "https://uv.example/simple", "SSL_CERT_FILE": "/env.pem"}
    pip = {
        "index-url": "https://pip.example/simple",
        "extra-index-url": "https://more.example/simple",
        "cert": "/pip.pem",
    }
    declared = uv.Index(url="https://own.example/simple", username="me", password="p@ss/word", ca_bundle="/own.pem")
    got = uv.index_environment(declared, environ, pip)
    assert got["UV_DEFAULT_INDEX"] == got["PIP_INDEX_URL"] == "https://me:p%40ss%2Fword@own.example/simple"
    assert got["UV_INDEX"] == ""
    assert got["SSL_CERT_FILE"] == got["PIP_CERT"] == "/own.pem"
    got = uv.index_environment(uv.Index(), environ, pip)
    assert (got["UV_DEFAULT_INDEX"], got["SSL_CERT_FILE"]) == ("https://uv.example/simple", "/env.pem")
    got = uv.index_environment(uv.Index(), {}, pip)
    assert (got["UV_DEFAULT_INDEX"], got["PIP_CERT"]) == ("https://pip.example/simple", "/pip.pem")
    assert got["UV_INDEX"] == "https://more.example/simple"


def test_pips_files_and_variables_are_read(tmp_path) -> None:
    (tmp_path / "pip.conf").write_text(
        "[global]\nindex-url = https://a/simple\ncert = /a.pem\n[install]\ncert = /b.pem\n"
    )
    environ = {
        "HOME": str(tmp_path),
        "PIP_CONFIG_FILE": str(tmp_path / "pip.conf"),
        "PIP_INDEX_URL": "https://v/simple",
    }
    got = uv.pip_settings(environ)
    assert (got["index-url"], got["cert"]) == ("https://v/simple", "/b.pem")


def test_an_index_with_a_password_in_it_is_refused_without_repeating_it() -> None:
    with pytest.raises(OpsError) as error:
        uv.Index(url="https://me:hunter2@own.example/simple")
    assert "hunter2" not in str(error.value)


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (
            "error: Failed to fetch: `http://me:hunter2@10.0.0.1:9/simple/x/`\n  Connection refused",
            "10.0.0.1:9 cannot be reached",
        ),
        ("Hash mismatch for `rich==14.3.3`\n Expected:", "(rich==14.3.3)"),
        ("no trusted hash was provided for: `aiohttp`", "the lock has no hash (aiohttp)"),
        (
            "Failed to fetch: https://own.example/x\n HTTP status server error (502 Bad Gateway)",
            "answers with an error (502",
        ),
        ("hermes-agent was not found in the package registry", "no such version"),
        ("No space left on device (os error 28)", "disk is full"),
        ("https://own.example/simple/: invalid peer certificate: UnknownIssuer", "own.example is not trusted"),
        (
            "HTTP status client error (401 Unauthorized) for url (https://own.example/simple/)",
            "own.example refuses access",
        ),
        ("there is no version of hermes-agent==0.99.0 and you", "no such version (hermes-agent==0.99.0)"),
        (
            "Because the current Python version (3.10.13) does not satisfy Python>=3.11,<3.14 and you",
            "requires Python >=3.11,<3.14, this interpreter is Python 3.10.13",
        ),
    ],
)
def test_what_uv_says_becomes_one_sentence_with_the_host_and_without_the_password(said: str, expected: str) -> None:
    error = uv.explain(Completed(("uv",), 1, "", said), "hermes-agent 0.19.0")
    assert expected in str(error)
    assert "hunter2" not in str(error)
    assert error.fix


@given(st.text())
def test_redacting_leaves_no_credentials(text: str) -> None:
    assert "hunter2" not in uv.redact(f"https://me:hunter2@example.org/{text}").split("/", 3)[2]


@pytest.mark.parametrize("version", ["0.19.0", "0.18.2"])
def test_the_shipped_locks_pin_every_line_with_hashes(version: str) -> None:
    entries = pins.HERMES[version].replace(" \\\n", "").strip().splitlines()
    assert f"hermes-agent=={version}" in pins.HERMES[version]
    assert {"aiohttp", "discord-py", "slack-bolt", "python-telegram-bot"} <= {e.split("==")[0] for e in entries}
    for entry in entries:
        assert re.fullmatch(r"[a-z0-9.-]+==\S+( ; [^-]+)?( --hash=sha256:[0-9a-f]{64})+", entry), entry


def test_requests_are_values() -> None:
    assert dataclasses.replace(Request(version="1"), version="2") == Request(version="2")
