# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The heartbeat, with a server that speaks the Healthchecks protocol, and with servers that misbehave."""

from __future__ import annotations

import json
import re
import socket
import stat
import threading
import time
import urllib.error
import urllib.request

import pytest
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops import cli
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.commands import heartbeat as command_heartbeat
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.host import settings
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.host.installation import Installation
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.supervise.problems import Health
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.errors import OpsError
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.watch import (
    declared,
    drill,
    heartbeat,
    look,
    metrics,
    pings,
)
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.watch.findings import Finding, Report
from healthchecks_server import PingServer
from hypothesis import given
from hypothesis import strategies as st

HOST, WORK, BACKUP = (f"{digit * 8}-{digit * 4}-4111-8111-{digit * 12}" for digit in "123")


@pytest.fixture
def server(monkeypatch):
    """A ping server of our own; ``.url(uuid)``, ``.state``."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with PingServer(("127.0.0.1", 0)) as running:
        running.url = lambda uuid=HOST: f"http://127.0.0.1:{running.server_port}/{uuid}"
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        yield running
        running.state.forget()
        running.shutdown()


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch):
    monkeypatch.setattr(pings, "BACK_OFF", 0.01)


def send(url, event="success", body="all is well", seconds=20.0):
    (answer,) = pings.send([pings.Ping("it", url, event, body)], time.monotonic() + seconds).values()
    return answer


# --- the protocol ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("event", ["success", "start", "fail"])
def test_a_ping_arrives(server, event):
    assert send(server.url(), event, "two\nlines, ä").problem is None
    (ping,) = server.state.pings
    assert (ping["uuid"], ping["kind"], ping["method"], ping["body"]) == (HOST, event, "POST", "two\nlines, ä")
    assert server.state.checks() == {HOST: {"success": "up", "start": "started", "fail": "down"}[event]}


def test_a_url_may_end_with_a_slash(server):
    assert send(server.url() + "/", "fail").problem is None
    assert [ping["kind"] for ping in server.state.pings] == ["fail"]


def test_a_body_has_an_end(server):
    assert send(server.url(), body="x" * 10**6).problem is None
    assert len(server.state.pings[0]["body"]) == pings.BODY_BYTES


def test_the_server_speaks_all_of_the_protocol(server):
    def call(path, method="GET", body=None):
        request = urllib.request.Request(f"{server.url()}{path}", body, method=method)
        try:
            with urllib.request.urlopen(request, timeout=5) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, b""

    rid = "0d338dcc-a054-41ec-b909-0242ac120002"
    assert call("") == (200, b"OK")
    assert call("/start", "HEAD") == (200, b"")
    assert call(f"/7?rid={rid}", "POST", b"exited") == (200, b"OK")
    assert call("/0") == (200, b"OK")
    assert call("/log", "POST", b"a line") == (200, b"OK")
    assert call("/fail?rid=nonsense")[0] == 400
    assert call("/256")[0] == call("/stop")[0] == call("/start/more")[0] == 404
    kinds = [(ping["kind"], ping["status"], ping["rid"]) for ping in server.state.pings]
    assert kinds == [
        *[("success", None, None), ("start", None, None), ("fail", 7, rid), ("success", 0, None), ("log", None, None)]
    ]
    assert server.state.checks() == {HOST: "up"}


# --- a server that misbehaves ----------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", [{"status": 500}, {"status": 429}, {"cut": True}, {"garbage": True}])
def test_what_passes_is_tried_again(server, fault):
    server.state.faults = [{**fault, "times": 2}]
    assert send(server.url()).problem is None
    assert len(server.state.seen) == 3
    assert len(server.state.pings) == 1


@pytest.mark.parametrize(
    ("fault", "attempts", "problem"),
    [
        ({"status": 500}, pings.ATTEMPTS, "answers with status 500"),
        ({"status": 404}, 1, "does not know this check"),
        ({"status": 403}, 1, "answers with status 403"),
        ({"unknown": True}, 1, "does not know this check"),
        ({"redirect": "http://127.0.0.1:1/elsewhere"}, 1, "redirects (status 302)"),
        ({"cut": True}, pings.ATTEMPTS, "not HTTP"),
        ({"garbage": True}, pings.ATTEMPTS, "not HTTP"),
    ],
)
def test_what_does_not_pass_is_said(server, fault, attempts, problem):
    server.state.faults = [{**fault, "times": 0}]
    answer = send(server.url())
    assert problem in answer.problem
    assert HOST not in answer.problem
    assert len(server.state.seen) == attempts


def test_a_server_that_hangs_is_tried_again(server, monkeypatch):
    monkeypatch.setattr(pings, "ATTEMPT_SECONDS", 0.3)
    server.state.faults = [{"hold": True}]
    assert send(server.url()).problem is None
    assert server.state.seen == ["success", "success"]


@pytest.mark.parametrize("fault", [{"hold": True}, {"drip": 0.05}])
def test_nothing_takes_longer_than_it_may(server, fault):
    server.state.faults = [{**fault, "times": 0}]
    started = time.monotonic()
    answer = send(server.url(), seconds=1.0)
    assert "does not answer in time" in answer.problem
    # The connection is abandoned: a slow answer alone would last for minutes.
    assert time.monotonic() - started < 10


def test_a_server_that_hangs_holds_up_nobody_else(server):
    server.state.faults = [{"hold": True, "times": 1}]
    all_of_them = [pings.Ping(uuid, server.url(uuid), "success", "x") for uuid in (HOST, WORK, BACKUP)]
    answers = pings.send(all_of_them, time.monotonic() + 3.0)
    assert [answers[uuid].problem is None for uuid in (HOST, WORK, BACKUP)].count(True) == 2


def test_a_server_that_is_gone():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    assert send(f"http://127.0.0.1:{port}/{HOST}").problem == "the ping server cannot be reached (Connection refused)"


def test_a_name_that_nobody_knows():
    assert "cannot be reached" in send(f"http://ping.invalid/{HOST}").problem


def test_a_server_without_a_good_certificate(server):
    # It speaks no TLS at all.
    answer = send(server.url().replace("http://", "https://"))
    assert "cannot be reached" in answer.problem
    assert HOST not in answer.problem


def test_a_proxy_of_the_environment_is_used(server, monkeypatch):
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.delenv("no_proxy", raising=False)
    assert send(f"http://ping.invalid/{HOST}").problem is None
    assert [ping["uuid"] for ping in server.state.pings] == [HOST]


def test_the_clock_of_the_server(server):
    assert abs(send(server.url()).offset) < 20
    server.state.faults = [{"clock": 3600}]
    assert 3500 < send(server.url()).offset < 3700
    assert pings._offset("no date") is None
    assert pings._offset(None) is None


@given(st.text())
def test_the_server_may_say_any_date(text):
    pings._offset(text)


# --- settings --------------------------------------------------------------------------------------------------

URL = f"https://hc-ping.com/{HOST}"


@pytest.mark.parametrize(
    "values",
    [
        {"ping_url": URL},
        {"agent_urls": {"work": f"http://[::1]:8000/ping/{HOST}"}},
        {"textfile": "/var/lib/prometheus/node-exporter/hermes.prom"},
        {"ping_url": URL, "job_urls": {"backup": URL}, "check": {"reply_minutes": 60}},
    ],
)
def test_good_settings(values):
    settings.parse(declared.Settings, values, "here")


@pytest.mark.parametrize(
    "values",
    [
        *({}, {"job_urls": {"backup": URL}}, {"ping_url": URL, "job_urls": {"lunch": URL}}),
        *({"ping_url": URL + url} for url in ("?rid=1", "#x", " ", "\n", "ä")),
        *(
            {"ping_url": url}
            for url in ("hc-ping.com/x", "file:///x", "https:///x", "https://me:pw@x/y", "https://[::1")
        ),
        *({"ping_url": "https://x:99999/y"}, {"agent_urls": {"work": 7}}, {"agent_urls": {"work": ""}}),
        *({"textfile": "hermes.prom"}, {"textfile": "/x/hermes.txt"}, {"ping_url": URL, "period": 20}),
        {"ping_url": URL, "check": {"reply_minutes": 1, "reply_seconds": 61}},
        {"ping_url": URL, "check": {"disk": 1}},
    ],
)
def test_bad_settings_name_no_url(values):
    with pytest.raises(OpsError) as caught:
        settings.parse(declared.Settings, values, "here")
    assert caught.value.fix
    assert HOST not in str(caught.value)
    assert "me:pw" not in str(caught.value)


# --- what is said ----------------------------------------------------------------------------------------------

DISK = Finding("disk_full", "/ has 1 % of its space free", "free space")
DOWN = Finding("not_running", "the unit is failed", "see its log", agent="work")
SQLITE = Finding("sqlite_wal", "the release's SQLite is 3.40.1", "another Python", failure=False)


def report(*findings):
    return Report(list(findings), [Health("default"), Health("work")])


def said(values, found):
    return {ping.name: (ping.event, ping.body) for ping in heartbeat.pings_of(declared.Settings(**values), found)}


@pytest.mark.parametrize(
    "loud",
    [
        [
            Finding("expiry", f"the token T{number:060} has expired", "get a new one", agent="first")
            for number in range(100)
        ],
        [Finding("rehearsal_failed", "the last rehearsal: first: " + "x" * 20_000, "see the log")],
        [Finding("rehearsal_failed", "the last rehearsal: first: bad\nagent work: fine", "see the log")],
    ],
    ids=["many", "long", "lines"],
)
def test_no_agent_has_the_room_of_the_others(loud):
    body = said({"ping_url": URL}, report(*loud, DOWN, SQLITE))["ping_url"][1].encode()[: pings.BODY_BYTES].decode()
    assert str(DOWN) in body.splitlines()
    assert "agent work: fine" not in body.splitlines()
    assert body.startswith(str(loud[0])[:400].replace("\n", " "))


def test_the_host_says_all_and_an_agent_its_own():
    urls = {"ping_url": URL, "agent_urls": {"work": URL, "default": URL, "gone": URL}}
    assert said(urls, report(SQLITE)) == {
        "ping_url": ("success", "2 agents healthy, 1 warning"),
        "agent_urls: work": ("success", "1 agent healthy"),
        "agent_urls: default": ("success", "1 agent healthy"),
    }
    pings = said(urls, report(DISK, DOWN, SQLITE))
    assert pings["ping_url"] == ("fail", "\n".join(map(str, (DISK, DOWN, SQLITE))))
    assert pings["agent_urls: work"] == ("fail", str(DOWN))
    assert pings["agent_urls: default"][0] == "success"
    assert "Fix: free space" in pings["ping_url"][1]


def test_without_a_url_of_the_host_all_agents_say_what_is_wrong_with_it():
    pings = said({"agent_urls": {"work": URL, "default": URL}}, report(DISK, DOWN))
    assert pings["agent_urls: work"] == ("fail", f"{DISK}\n{DOWN}")
    assert pings["agent_urls: default"] == ("fail", str(DISK))


# --- the command -----------------------------------------------------------------------------------------------


@pytest.fixture
def host(tmp_path, monkeypatch):
    (tmp_path / "ops").mkdir(mode=0o700)
    names = ("scope", "data_dir", "root", "managed_root")
    found = Installation({**dict.fromkeys(names, ""), "ops_dir": str(tmp_path / "ops")})
    monkeypatch.setattr(Installation, "load", lambda **_options: found)
    monkeypatch.setattr(settings, "DIRECTORY", str(tmp_path))
    return found


@pytest.fixture
def beat(host, server, tmp_path, monkeypatch):
    """A function that runs the command on a host where *findings* are found; gives its exit status."""

    def run(*findings, command=("heartbeat",), **more):
        monkeypatch.setattr(look, "look", lambda *_arguments: report(*findings))
        (tmp_path / "heartbeat.json").write_text(json.dumps({"ping_url": server.url(), **more}))
        return cli.main(list(command))

    return run


def test_all_is_well(beat, server, capsys):
    assert beat() == cli.EXIT_OK
    assert [(ping["kind"], ping["body"]) for ping in server.state.pings] == [("success", "2 agents healthy")]
    assert capsys.readouterr().out == "2 agents healthy\n"


def test_something_is_wrong(beat, server):
    assert beat(DISK) == cli.EXIT_OK
    assert [(ping["kind"], ping["body"]) for ping in server.state.pings] == [("fail", str(DISK))]


def test_nobody_hears_it(beat, server, capsys):
    server.state.faults = [{"status": 500, "times": 0}]
    assert beat() == cli.EXIT_UNHEALTHY
    output = capsys.readouterr()
    assert "ping_url: the ping server answers with status 500" in output.err
    assert HOST not in output.out + output.err


def test_a_check_that_failed_sends_nothing(beat, server, monkeypatch, capsys):
    def broken(*_arguments):
        raise OpsError("may only be read by root", where="/x", fix="use sudo")

    (beat(), server.state.forget())
    monkeypatch.setattr(look, "look", broken)
    assert cli.main(["heartbeat"]) == cli.EXIT_ERROR
    assert server.state.seen == []
    assert "may only be read by root" in capsys.readouterr().err


def test_settings_that_cannot_be_read_send_nothing(beat, server, tmp_path, capsys):
    (beat(), server.state.forget())
    (tmp_path / "heartbeat.json").write_text(f'{{"ping_url": "{server.url()}", "ping": 1}}')
    assert cli.main(["heartbeat"]) == cli.EXIT_ERROR
    assert server.state.seen == []
    assert HOST not in capsys.readouterr().err


def test_never_two_at_once(beat, server, host, capsys):
    with host.lock("heartbeat"):
        assert beat() == cli.EXIT_ERROR
    assert server.state.seen == []
    assert "another heartbeat has not ended yet" in capsys.readouterr().err


def test_a_disk_that_takes_nothing_is_no_reason_to_be_silent(beat, server, monkeypatch):
    def full(*_arguments):
        raise OpsError("cannot be written (Read-only file system)")

    monkeypatch.setattr(Installation, "lock", full)
    assert beat(DISK) == cli.EXIT_OK
    assert [ping["kind"] for ping in server.state.pings] == ["fail"]


def test_it_ends_within_its_period(beat, server, monkeypatch):
    monkeypatch.setattr(command_heartbeat, "SHARE", 1 / 30)
    server.state.faults = [{"hold": True, "times": 0}]
    started = time.monotonic()
    assert beat(period=30) == cli.EXIT_UNHEALTHY
    assert time.monotonic() - started < 15


def test_a_host_without_a_heartbeat(host, capsys):
    assert cli.main(["heartbeat"]) == cli.EXIT_ERROR
    assert "heartbeat_ping_url" in capsys.readouterr().err


# --- jobs ------------------------------------------------------------------------------------------------------


def test_a_job_reports_to_its_own_url_or_the_host_s(beat, server, host):
    beat(job_urls={"backup": server.url(BACKUP)})
    server.state.forget()
    assert heartbeat.report(host, "backup", "start", "")
    assert heartbeat.report(host, "backup", "fail", "the disk is full")
    assert heartbeat.report(host, "update", "success", "0.18.2 -> 0.19.0")
    assert [(ping["uuid"], ping["kind"], ping["body"]) for ping in server.state.pings] == [
        (BACKUP, "start", ""),
        (BACKUP, "fail", "the disk is full"),
        # A success would end an alarm of the host itself.
        (HOST, "log", "0.18.2 -> 0.19.0"),
    ]


def test_how_a_job_ended_is_told_also_where_it_cannot_be_written_down(beat, server, host, monkeypatch):
    beat(job_urls={"backup": server.url(BACKUP)})
    heartbeat.conclude(host, "backup", False, "backed up: default", archives=[])
    assert host.read_status("backup")["status"] == "success"

    def full(*_arguments, **_more):
        raise OpsError("cannot be written (No space left on device)", where="status/backup.json")

    monkeypatch.setattr(Installation, "write_status", full)
    with pytest.raises(OpsError, match="No space left"):
        heartbeat.conclude(host, "backup", False, "backed up: default")
    kind, body = [(ping["kind"], ping["body"]) for ping in server.state.pings if ping["uuid"] == BACKUP][-1]
    assert kind == "fail"
    assert "this result cannot be recorded" in body


def test_a_job_s_report_never_raises(beat, server, host, tmp_path, monkeypatch):
    assert heartbeat.report(host, "backup", "start", "") is False
    (tmp_path / "heartbeat.json").write_text("{")
    assert heartbeat.report(host, "backup", "start", "") is False
    beat(ping_url="", textfile=str(tmp_path / "x.prom"))
    assert heartbeat.report(host, "backup", "start", "") is False
    beat()
    monkeypatch.setattr(heartbeat, "REPORT_SECONDS", 0.5)
    server.state.faults = [{"hold": True, "times": 0}]
    assert heartbeat.report(host, "backup", "start", "") is False


# --- the drill -------------------------------------------------------------------------------------------------


def test_a_drill_sends_a_failure_and_takes_it_back(beat, server, capsys):
    assert beat(command=("drill", "start")) == cli.EXIT_OK
    assert [ping["kind"] for ping in server.state.pings] == ["fail"]
    assert "this is a drill" in server.state.pings[0]["body"]
    assert "failures are sent" in capsys.readouterr().out
    beat()
    assert [ping["kind"] for ping in server.state.pings] == ["fail", "fail"]
    assert beat(command=("drill", "stop")) == cli.EXIT_OK
    assert server.state.checks() == {HOST: "up"}


def test_a_drill_may_be_silent(beat, server, host, capsys):
    assert beat(DISK, command=("drill", "start", "--silence")) == cli.EXIT_OK
    assert beat() == cli.EXIT_OK
    assert heartbeat.report(host, "update", "start", "") is False
    assert server.state.seen == []
    capsys.readouterr()
    assert beat(command=("drill", "show", "--json")) == cli.EXIT_OK
    assert json.loads(capsys.readouterr().out) == {"drill": "silence"}
    assert beat(command=("drill", "stop", "--json")) == cli.EXIT_OK
    assert json.loads(capsys.readouterr().out) == {"drill": None}
    assert [ping["kind"] for ping in server.state.pings] == ["success"]


def test_a_drill_that_was_forgotten_ends(beat, server, host, monkeypatch):
    beat(command=("drill", "start", "--silence", "--minutes", "5"))
    now = time.time()
    monkeypatch.setattr(drill.time, "time", lambda: now + 299)
    assert drill.of(host) == drill.SILENCE
    monkeypatch.setattr(drill.time, "time", lambda: now + 302)
    assert drill.of(host) is None


def test_a_drill_without_a_url_says_so(beat, tmp_path, capsys):
    textfile = str(tmp_path / "x.prom")
    assert beat(command=("drill", "start"), ping_url="", textfile=textfile) == cli.EXIT_ERROR
    assert "could raise an alert" in capsys.readouterr().err


# --- the textfile ----------------------------------------------------------------------------------------------

# https://prometheus.io/docs/instrumenting/exposition_formats/#text-format-details
VALUE = r"[+-]?(\d+(\.\d+)?(e[+-]\d+)?)"
LABEL = r'[a-zA-Z_]\w*="(\\[\\"n]|[^\\"\n])*"'
SAMPLE = re.compile(rf"([a-z_]+)(\{{{LABEL}(,{LABEL})*\}})? {VALUE}")


def check_exposition(text):
    """Every line is what the format allows; each metric is described once, before its samples, which stand together."""
    assert text.endswith("\n")
    described, seen = [], set()
    for line in text[:-1].split("\n"):
        if line.startswith("# HELP "):
            described.append(line.split(" ")[2])
        elif line.startswith("# TYPE "):
            assert line == f"# TYPE {described[-1]} gauge"
        else:
            sample = SAMPLE.fullmatch(line)
            assert sample, line
            assert sample[1] == described[-1]
            assert sample[0].rpartition(" ")[0] not in seen, "the same twice"
            seen.add(sample[0].rpartition(" ")[0])
    assert len(described) == len(set(described))


FIGURES = {
    "disks": {"/": {"free_bytes": 1, "free_percent": 12.5}},
    "clock_offset": -0.5,
    "users": {"known": 20, "running": 3, "failed": 1},
    "agents": {"default": {"memory_bytes": 123456789012, "open_files": 40, "restarts": 0, "turns": 7, "up": True}},
}


def test_the_textfile_of_a_host():
    found = report(DISK, DOWN, SQLITE)
    found.figures = FIGURES
    text = metrics.textfile(found, 1_795_000_000.5)
    check_exposition(text)
    for line in (
        "hermes_check_timestamp_seconds 1795000000",
        "hermes_healthy 0",
        'hermes_finding{cause="not_running",agent="work",severity="failure"} 1',
        'hermes_gateway_memory_bytes{agent="default"} 123456789012',
        'hermes_users{state="running"} 3',
        'hermes_disk_free_ratio{path="/"} 0.125',
        "hermes_clock_offset_seconds -0.5",
    ):
        assert line in text.splitlines()


@given(path=st.text(), cause=st.text(), value=st.floats(allow_nan=False, allow_infinity=False))
def test_whatever_the_names_are(path, cause, value):
    finding = Finding(cause, "x", "y")
    disks = {path: {"free_percent": value}}
    # Line breaks of Unicode are not line breaks in this format.
    check_exposition(metrics.textfile(Report([finding, finding], [], {"disks": disks}), 0))


def test_the_textfile_is_readable_by_all(beat, tmp_path, capsys):
    path = tmp_path / "hermes.prom"
    assert beat(DISK, textfile=str(path)) == cli.EXIT_OK
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    check_exposition(path.read_text())
    assert beat(textfile=str(tmp_path / "missing/hermes.prom")) == cli.EXIT_UNHEALTHY
    assert "make its directory" in capsys.readouterr().err
