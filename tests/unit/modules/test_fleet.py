# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The report about a fleet, also with the answer of a hostile host."""

from __future__ import annotations

import datetime
import json
import re
from dataclasses import replace
from typing import Any

import html5lib
import pytest
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.supervise.problems import Health, Problem
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.watch.findings import Finding, Report
from ansible_collections.alwayson.hermes.plugins.plugin_utils import fleet
from hypothesis import example, given
from hypothesis import strategies as st

NOW = datetime.datetime(2026, 11, 20, 10, 30, tzinfo=fleet.UTC)
HOUR = 3600


def answer(said: Any, rc: int = 0) -> dict[str, Any]:
    """The registered result of a task when hermes-ops printed *said*."""
    return {"rc": rc, "stdout": json.dumps(said), "stderr": "", "changed": False}


def status(*findings: Finding, well: bool = True, **more: Any) -> dict[str, Any]:
    """The output of hermes-ops status --json on a host with one agent; *more* replaces keys."""
    problems = [] if well else [Problem("port_in_use", "port 8642 is taken", "stop it")]
    check = Report(list(findings), [Health("default", problems)], {"agents": {}})
    return {
        "release": {"id": "0.19.0", "version": "0.19.0"},
        "agents": {
            "default": {
                "active": "active",
                "running_release": "0.19.0",
                "platforms": {"discord": "connected"},
                "restart_pending": [],
                "drift": [],
            }
        },
        "check": check.as_dict(),
        "timers": {"backup": {"active": True, "last": None, "next": NOW.timestamp() + 17 * HOUR}},
        "last": {"backup": {"status": "success", "message": "1 archive", "finished": NOW.timestamp() - 7 * HOUR}},
        **more,
    }


FULL = Finding("disk_full", "/ has 4 % of its space free", "free space below /")
OLD = Finding("sqlite_wal", "the release's SQLite is 3.40.1", "build it on a newer Python", False)
UNREACHABLE = {"unreachable": True, "msg": "ssh: Connection timed out"}
ANSWERS = {
    "a-well": answer(status()),
    "b-old-sqlite": answer(status(OLD)),
    "c-full": answer(status(FULL, OLD)),
    "d-gone": UNREACHABLE,
}


def parse(page: str) -> Any:
    """The document as a browser has it; any error in it fails the test."""
    return html5lib.HTMLParser(strict=True, namespaceHTMLElements=False).parse(page)


def words(element: Any) -> str:
    return " ".join(" ".join(element.itertext()).split())


def tags(document: Any) -> set[str]:
    return {element.tag for element in document.iter() if isinstance(element.tag, str)}


def test_what_is_wrong_comes_first():
    hosts = fleet.status(ANSWERS)
    assert [(host.name, host.state) for host in hosts] == [
        ("c-full", "trouble"),
        ("d-gone", "unreachable"),
        ("a-well", "well"),
        ("b-old-sqlite", "well"),
    ]
    assert [str(finding) for finding in hosts[0].failures] == ["/ has 4 % of its space free. Fix: free space below /"]


def test_the_terminal():
    assert fleet.status_lines(fleet.status(ANSWERS), NOW) == [
        "2 of 4 hosts need attention",
        "c-full: / has 4 % of its space free. Fix: free space below /",
        "d-gone: ssh: Connection timed out. Fix: start the host, or repair the connection to it",
        "Worth a look: the release's SQLite is 3.40.1. Fix: build it on a newer Python; or acknowledge sqlite_wal "
        "(c-full, b-old-sqlite)",
        "",
        "HOST          STATE        RELEASE  BACKUP           REHEARSAL  UPDATE  AGENTS",
        "c-full        in trouble   0.19.0   success 7 h ago  -          -       default",
        "d-gone        unreachable  -        -                -          -       -",
        "a-well        well         0.19.0   success 7 h ago  -          -       default",
        "b-old-sqlite  well         0.19.0   success 7 h ago  -          -       default",
    ]


def test_a_warning_that_is_acknowledged_is_not_shown_and_a_failure_always_is():
    known = {"reason": "our rule", "until": "2027-03-31"}
    (host,) = fleet.status({"host": answer(status(replace(OLD, acknowledged=known)))})
    assert (host.state, host.warnings) == ("well", [])
    assert "SQLite" not in fleet.page([host], NOW)
    # Only a broken or hostile host answers so.
    (host,) = fleet.status({"host": answer(status(replace(FULL, acknowledged=known)))})
    assert (host.state, len(host.failures)) == ("trouble", 1)


def test_an_agent_that_is_not_healthy():
    finding = Finding("port_in_use", "port 8642 is taken", "stop it", agent="default")
    (host,) = fleet.status({"host": answer(status(finding, well=False))})
    assert (host.state, host.named) == ("trouble", "default (not healthy)")
    assert str(host.failures[0]) == "agent default: port 8642 is taken. Fix: stop it"


def test_agents_are_named_as_tell_wants_them_on_the_terminal_and_on_the_page():
    said = status()
    said["agents"]["research_2"] = said["agents"]["default"]
    said["check"]["agents"].append({"agent": "research_2", "healthy": False})
    hosts = fleet.status({"host": answer(said)})
    assert fleet.status_lines(hosts, NOW)[-1].endswith("  default, research_2 (not healthy)")
    (summary,) = parse(fleet.page(hosts, NOW)).findall(".//details/summary")
    assert words(summary).endswith("agents: default, research_2 (not healthy)")


def test_what_waits_and_what_was_changed_by_hand():
    said = status()
    said["agents"]["default"].update(restart_pending=["config: model"], drift=["env: TOKEN"])
    (host,) = fleet.status({"host": answer(said)})
    assert host.state == "well"
    assert host.agents[0].notes == [
        "active on 0.19.0, discord connected",
        "restart pending: config: model",
        "changed by hand: env: TOKEN",
    ]


def test_jobs():
    said = status(
        timers={
            "heartbeat": {"active": True, "last": NOW.timestamp() - 70, "next": NOW.timestamp() + 50},
            "update": {"active": False, "last": None, "next": None},
        },
        last={"update": {"status": "rolled_back", "message": "no reply", "finished": NOW.timestamp() - 50 * HOUR}},
    )
    (host,) = fleet.status({"host": answer(said)})
    assert [(job.name, job.well, job.status, job.notes) for job in host.jobs] == [
        ("heartbeat", True, "", ["next 2026-11-20 10:30 UTC"]),
        ("update", False, "rolled_back", ["no reply", "its timer does not run"]),
    ]
    assert "heartbeat 2026-11-20 10:28 UTC , now next" in words(parse(fleet.page([host], NOW)))
    assert host.last("update", NOW) == "rolled_back 2 d ago"
    assert host.last("heartbeat", NOW) == "-"


OLDER = {key: value for key, value in status().items() if key not in ("check", "timers", "last")}
SILENT = {
    "without the kit": (
        {"rc": 2, "msg": "[Errno 2] No such file or directory: b'/usr/local/bin/hermes-ops'", "stdout": ""},
        "there is no hermes-ops. Fix: converge the host: alwayson.hermes.site",
    ),
    "without the kit, since ansible-core 2.19": (
        {
            "rc": 2,
            "msg": "Error executing command.",
            "stdout": "",
            "stderr": "",
            "cmd": "/usr/local/bin/hermes-ops status",
        },
        "there is no hermes-ops. Fix: converge the host: alwayson.hermes.site",
    ),
    "another file that is missing": (
        {"rc": 2, "stdout": "", "stderr": "hermes-ops: ss: cannot be run (No such file or directory)", "start": "now"},
        "hermes-ops: ss: cannot be run (No such file or directory)",
    ),
    "another program that is missing": (
        {"rc": 2, "msg": "[Errno 2] No such file or directory: b'/usr/bin/sudo'", "stdout": ""},
        "[Errno 2] No such file or directory: b'/usr/bin/sudo'",
    ),
    "a module that is missing": (
        {
            "rc": 127,
            "msg": "MODULE FAILURE",
            "module_stderr": "/bin/sh: 1: /usr/bin/python3: No such file or directory",
        },
        "/bin/sh: 1: /usr/bin/python3: No such file or directory",
    ),
    "an error of the kit": (
        {"rc": 2, "stdout": "", "stderr": "hermes-ops: /etc/hermes-ops/host.json: does not exist. Fix: site.yml"},
        "hermes-ops: /etc/hermes-ops/host.json: does not exist. Fix: site.yml",
    ),
    "no rights": ({"failed": True, "msg": "Missing sudo password"}, "Missing sudo password"),
    "nothing": ({}, "hermes-ops said nothing"),
    "no JSON": ({"rc": 0, "stdout": "hello"}, "hello"),
    "another JSON": ({"rc": 0, "stdout": "[1]"}, "[1]"),
    "an older kit": (
        answer(OLDER),
        "its hermes-ops is too old to say whether its agents are healthy. Fix: converge the host: alwayson.hermes.site",
    ),
}


@pytest.mark.parametrize("case", SILENT)
def test_a_host_that_does_not_say_how_it_is(case):
    registered, finding = SILENT[case]
    (host,) = fleet.status({"host": registered})
    assert (host.state, [str(found) for found in host.failures]) == ("unknown", [finding])
    assert parse(fleet.page([host], NOW)) is not None


def test_the_page():
    hosts = fleet.status(ANSWERS)
    document = parse(fleet.page(hosts, NOW))
    assert words(document.find(".//h1")) == "2 of 4 hosts need attention"
    assert words(document.find(".//header/p")) == "Hermes fleet, looked at on 2026-11-20 10:30 UTC"
    wrong, warnings, cards = document.findall(".//main/section")
    assert [words(article) for article in wrong.findall("article")] == [
        "c-full / has 4 % of its space free Fix: free space below /",
        "d-gone ssh: Connection timed out Fix: start the host, or repair the connection to it",
    ]
    assert words(warnings.find("article")).endswith("or acknowledge sqlite_wal c-full, b-old-sqlite")
    assert [words(host.find("summary")) for host in cards.findall("details")] == [
        "c-full in trouble Hermes 0.19.0 agents: default",
        "d-gone unreachable",
        "a-well well Hermes 0.19.0 agents: default",
        "b-old-sqlite well Hermes 0.19.0 agents: default",
    ]
    # Hosts that are well are folded.
    assert ["open" in host.attrib for host in cards.findall("details")] == [True, True, False, False]
    assert "success 2026-11-20 03:30 UTC , 7 h ago 1 archive next 2026-11-21 03:30 UTC" in words(cards)


def test_the_page_of_a_fleet_that_is_well():
    document = parse(fleet.page(fleet.status({"a": answer(status()), "b": answer(status())}), NOW))
    assert words(document.find(".//h1")) == "2 hosts, all well"
    assert len(document.findall(".//main/section")) == 1


def test_the_page_stands_alone_and_can_be_used_without_seeing_it():
    document = parse(fleet.page(fleet.status(ANSWERS), NOW))
    (policy,) = [meta.get("content") for meta in document.findall(".//meta") if meta.get("http-equiv")]
    assert policy == "default-src 'none'; style-src 'unsafe-inline'"
    names = {element.get("id") for element in document.iter() if element.get("id")}
    assert len(names) == sum(1 for element in document.iter() if element.get("id"))
    for element in document.iter():
        assert element.tag not in ("script", "img", "link", "iframe", "object", "form")
        assert not {"src", "style"} & set(element.attrib)
        assert element.get("href", "#")[:1] == "#"
        assert not element.get("href") or element.get("href")[1:] in names
        assert not element.get("aria-labelledby") or element.get("aria-labelledby") in names
    assert document.find(".").get("lang") == "en"
    # No level of headings is skipped.
    levels = [int(element.tag[1]) for element in document.iter() if element.tag in ("h1", "h2", "h3", "h4")]
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in zip(levels, levels[1:]))


def luminance(colour: str) -> float:
    """Relative luminance of #rrggbb (WCAG 2.2)."""
    parts = [int(colour[index : index + 2], 16) / 255 for index in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_every_text_can_be_read_on_its_ground(theme):
    block = fleet.page(fleet.status(ANSWERS), NOW).split("--page:")[1 + theme].split("}")[0]
    colours = dict(re.findall(r"--([\w-]+): (#\w{6})", "--page:" + block))
    pairs = [(text, ground) for text in ("text", "faint") for ground in ("page", "card")]
    pairs += [(name, f"{name}-back") for name in ("bad", "odd", "good")]
    for text, ground in pairs:
        lighter, darker = sorted((luminance(colours[text]), luminance(colours[ground])), reverse=True)
        assert (lighter + 0.05) / (darker + 0.05) >= 4.5, (text, ground)


EVIL = "<script>alert(1)</script>\"'&{{ 7 * 7 }}\x1b[31m\u202e\r\n"


def evil_status() -> dict[str, Any]:
    """The answer of a host in which every text, including keys, is an attack."""

    def spoil(value: Any, key: str = "") -> Any:
        if isinstance(value, dict):
            return {name: spoil(item, name) for name, item in value.items()}
        if isinstance(value, list):
            return [spoil(item, key) for item in value]
        return value + EVIL if isinstance(value, str) and key != "severity" else value

    said = status(FULL, Finding("x", "what", "fix", False, "default"))
    said["agents"]["default"].update(restart_pending=["x"], drift=["y"])
    said["agents"][EVIL] = said["agents"]["default"]
    said["timers"][EVIL] = said["timers"]["backup"]
    said["last"][EVIL] = said["last"]["backup"]
    return spoil(said)


def test_nothing_that_a_host_says_is_more_than_text():
    hosts = fleet.status({EVIL: answer(evil_status()), "gone": {"unreachable": True, "msg": EVIL}})
    document = parse(fleet.page(hosts, NOW))
    assert tags(document) <= tags(parse(fleet.page(fleet.status(ANSWERS), NOW)))
    shown = words(document.find(".//body"))
    assert shown.count("<script>alert(1)</script>\"'&{{ 7 * 7 }}\\x1b[31m\\u202e") > 10
    for line in [shown, *fleet.status_lines(hosts, NOW)]:
        assert not set("\x1b\u202e\r\n") & set(line)


def test_an_answer_without_end():
    long = "x" * 10**4
    said = status(*(Finding(long, f"{number} {long}", long) for number in range(500)))
    said["agents"] = {f"{number}": {"active": long, "drift": [long, long]} for number in range(500)}
    text = json.dumps(said)
    assert len(text) > 10**7
    page = fleet.page(fleet.status({"host": {"rc": 0, "stdout": text}}), NOW)
    assert len(page) < 5 * 10**5
    assert parse(page) is not None


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@given(st.dictionaries(st.sampled_from([*status(), "jobs"]), JSON), st.booleans())
@example({"last": {"backup": {"finished": 1e300}}}, True)
@example({"last": {"backup": {"finished": float("nan")}}}, True)
@example({"check": {"healthy": "yes", "findings": [[], 1, {"severity": []}], "agents": [[]]}}, True)
def test_any_document_is_shown_somehow(said, whole):
    said = {**status(), **said} if whole else said
    hosts = fleet.status({"host": answer(said), "deep": {"rc": 0, "stdout": "[" * 10**5}})
    assert parse(fleet.page(hosts, NOW)) is not None
    assert fleet.status_lines(hosts, NOW)


def test_how_a_command_ended_on_each_host():
    found = fleet.outcomes(
        {
            "first": answer({"status": "success", "message": "0.18.2 -> 0.19.0"}),
            "second": answer({"status": "rolled_back", "message": "no reply"}, rc=1),
            "third": {"skipped": True},
            "fourth": {},
            "fifth": UNREACHABLE,
            "sixth": {"rc": 2, "stdout": "", "stderr": "hermes-ops: runs already. Fix: wait"},
            "seventh": answer(status(FULL)["check"], rc=1),
        }
    )
    assert [outcome.host for outcome in found if outcome.wrong] == ["second", "fifth", "sixth", "seventh"]
    assert fleet.outcome_lines(found) == [
        "HOST     RESULT",
        "first    success      0.18.2 -> 0.19.0",
        "second   rolled_back  no reply",
        "third    not reached  nothing was done",
        "fourth   not reached  nothing was done",
        "fifth    unreachable  ssh: Connection timed out",
        "sixth    error        hermes-ops: runs already. Fix: wait",
        "seventh  not healthy  1 failure: / has 4 % of its space free",
    ]


def test_backups_on_each_host():
    made = {"agent": "default", "path": "/o/default-1.tar.gz", "size": 9, "problems": {}}
    many = [{**made, "path": f"/var/lib/hermes/ops/backups/agent{number}.tar.gz"} for number in range(20)]
    found = fleet.outcomes(
        {
            "first": answer([made, {**made, "path": "/o/work-1.tar.gz"}]),
            "second": answer([{**made, "problems": {"state.db": "is damaged"}}], rc=1),
            "third": answer([]),
            "fourth": answer(many),
        }
    )
    assert [outcome.host for outcome in found if outcome.wrong] == ["second"]
    lines = fleet.outcome_lines(found)[1:]
    assert lines[:4] == [
        "first   success  /o/default-1.tar.gz",
        "                 /o/work-1.tar.gz",
        "second  failed   /o/default-1.tar.gz (state.db is damaged)",
        "third   success  no archive",
    ]
    assert [line.split()[-1] for line in lines[4:]] == [each["path"] for each in many]
