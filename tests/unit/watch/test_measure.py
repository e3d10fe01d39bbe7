# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How a host and its agents are: what becomes a finding, and that hostile content becomes no error."""

from __future__ import annotations

import base64
import contextlib
import functools
import json
import os
import shutil
import socket
import sqlite3
import subprocess
import time
from types import SimpleNamespace

import pytest
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.supervise import health
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.errors import OpsError
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.files import Owner
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.systemd import Unit
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.watch import measure
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.watch.measure import Process, Settings, Turns
from hypothesis import example, given
from hypothesis import strategies as st

NOW = 1_795_000_000.0
HOUR, DAY = 3600, 86400
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)


def causes(findings):
    return [(finding.cause, "failure" if finding.failure else "warning") for finding in findings]


# --- thresholds ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "values",
    [{"memory": "4 GB"}, {"memory": "-1"}, {"disk_percent": 101}, {"restarts": -1}, {"reply_seconds": 0}],
)
def test_thresholds_that_make_no_sense_are_refused(values):
    with pytest.raises(OpsError):
        Settings(**values)


@pytest.mark.parametrize(("text", "expected"), [("0", 0), ("512", 512), ("1K", 1024), ("4G", 4 * 2**30)])
def test_sizes_as_systemd_writes_them(text, expected):
    assert measure.size(text, "x") == expected


# --- disks -----------------------------------------------------------------------------------------------------


def statvfs(free=50, inodes=50, flags=0, reserved=0):
    return SimpleNamespace(
        f_flag=flags, f_blocks=100, f_bfree=free + reserved, f_bavail=free, f_files=100, f_ffree=inodes, f_frsize=4096
    )


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (statvfs(), []),
        (statvfs(free=10), []),
        (statvfs(free=9), [("disk_full", "failure")]),
        (statvfs(inodes=9), [("disk_full", "failure")]),
        (statvfs(flags=os.ST_RDONLY), [("read_only", "failure")]),
        (SimpleNamespace(**{**vars(statvfs()), "f_blocks": 0, "f_files": 0}), []),
    ],
)
def test_disks(status, expected):
    found = measure.disk_findings("/data", status, Settings())
    assert causes(found) == expected
    assert all("/data" in finding.what for finding in found)


def test_what_root_keeps_for_itself_is_not_free():
    (finding,) = measure.disk_findings("/data", statvfs(free=0, reserved=20), Settings())
    assert "has 0 % of its space free" in finding.what


@pytest.mark.parametrize(
    ("declared", "fstab", "expected"),
    [
        (False, "", []),
        (True, "", ["volume_missing"]),
        (False, "LABEL=data /somewhere ext4 nofail 0 2\n# x {} y\n", []),
        (False, "# a comment\n\nLABEL=data {} ext4 nofail 0 2\n", ["volume_missing"]),
    ],
)
def test_a_volume_that_is_not_mounted(tmp_path, declared, fstab, expected):
    found = measure.volume_findings(str(tmp_path), declared, fstab.replace("{}", str(tmp_path)))
    assert [finding.cause for finding in found] == expected


def test_a_volume_that_is_mounted():
    assert measure.volume_findings("/", True, "x / ext4") == []


# --- jobs, clock -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", ["failed", "rolled_back"])
def test_a_job_that_failed(status):
    (finding,) = measure.job_findings("update", {"status": status, "message": "the canary did not answer"})
    assert finding.cause == f"update_{status}"
    assert "the canary did not answer" in finding.what


@given(JSON)
def test_a_job_may_have_written_anything(value):
    status = value if isinstance(value, dict) else {"status": value}
    measure.job_findings("update", status)
    measure.backup_findings(status, NOW, NOW, Settings())


def test_a_job_that_went_well():
    for status in ("success", "held", "up_to_date"):
        assert measure.job_findings("update", {"status": status}) == []
    assert measure.job_findings("update", {}) == []


@pytest.mark.parametrize(
    ("status", "since", "expected"),
    [
        ({}, NOW - HOUR, []),
        ({}, NOW - 37 * HOUR, ["backup_old"]),
        ({"status": "success", "finished": NOW - 35 * HOUR}, NOW - 90 * DAY, []),
        ({"status": "success", "finished": NOW - 37 * HOUR}, NOW - 90 * DAY, ["backup_old"]),
        ({"status": "failed", "finished": NOW}, NOW, ["backup_failed"]),
    ],
)
def test_backups(status, since, expected):
    assert [f.cause for f in measure.backup_findings(status, since, NOW, Settings())] == expected


@pytest.mark.parametrize(
    ("offset", "expected"), [(None, None), (29, None), (-29, None), (31, "31 s behind"), (-300, "300 s ahead")]
)
def test_the_clock(offset, expected):
    found = measure.clock_findings(offset, Settings())
    assert [expected in finding.what for finding in found] == ([True] if expected else [])


# --- certificates and tokens -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """A function that makes a certificate with openssl, valid for so many days."""
    if not shutil.which("openssl"):
        pytest.skip("openssl is not on this machine")
    directory = tmp_path_factory.mktemp("certificates")

    @functools.cache
    def make(days):
        path = directory / f"{days}.pem"
        command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
        command += ["-keyout", str(directory / "key"), "-subj", "/CN=x", "-days", str(days), "-out", str(path)]
        subprocess.run(command, check=True, capture_output=True)
        shown = subprocess.run(
            ["openssl", "x509", "-in", str(path), "-noout", "-enddate"], check=True, capture_output=True, text=True
        ).stdout
        end = time.strptime(shown.strip().removeprefix("notAfter="), "%b %d %H:%M:%S %Y GMT")
        return path, time.mktime(end) - time.timezone

    return make


# Beyond 2049 the time is written in another way.
@pytest.mark.parametrize("days", [1, 20, 10000])
def test_certificates_are_read_as_openssl_reads_them(certificate, days):
    path, end = certificate(days)
    assert measure.pem_end(path.read_text()) == end


def test_of_a_chain_the_first_end_counts(certificate):
    (soon, end), (late, _end) = certificate(1), certificate(20)
    text = f"some words\n{late.read_text()}{soon.read_text()}"
    assert measure.pem_end(text) == end


def test_certificates_become_findings(certificate, tmp_path):
    path, end = certificate(20)

    def found(now):
        return causes(measure.certificate_findings(str(path), now, Settings()))

    assert found(end - 15 * DAY) == []
    assert found(end - 13 * DAY) == [("expiry", "warning")]
    assert found(end + 1) == [("expiry", "failure")]
    path = tmp_path / "none.pem"
    assert found(NOW) == [("expiry_unknown", "warning")]
    path.write_bytes(b"\xff\xfe")
    assert found(NOW) == [("expiry_unknown", "warning")]


def der(tag, *parts):
    content = b"".join(parts)
    return bytes([tag, len(content)]) + content


def test_a_certificate_of_the_first_version():
    # It does not say its version.
    times = der(0x30, der(0x17, b"260101000000Z"), der(0x18, b"20501224120000Z"))
    body = der(0x30, der(2, b"\7"), der(0x30, b"\5\0"), der(0x30), times)
    assert time.gmtime(measure.certificate_end(der(0x30, body)))[:4] == (2050, 12, 24, 12)


@given(st.binary(max_size=80))
def test_what_is_no_certificate(data):
    with pytest.raises(ValueError, match=r"."):
        measure.certificate_end(data)


@given(st.data())
def test_a_certificate_that_was_damaged(certificate, data):
    path, _end = certificate(20)
    body = path.read_text().split("-----")[2]
    der = bytearray(base64.b64decode(body))
    der[data.draw(st.integers(0, 140))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(ValueError):
        measure.certificate_end(bytes(der))
    text = data.draw(st.text())
    with contextlib.suppress(ValueError):
        measure.pem_end(f"-----BEGIN CERTIFICATE-----{text}-----END CERTIFICATE-----")


def token(payload):
    return f"e30.{base64.urlsafe_b64encode(payload.encode()).decode().rstrip('=')}.c2ln"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (token(json.dumps({"exp": NOW})), NOW),
        (token(json.dumps({"exp": "soon"})), None),
        (token(json.dumps([NOW])), None),
        (token("{"), None),
        ("MTk4NjIyNDgzNDc.GXXXXX.a-Discord-token", None),
        ("xoxb-1-2-3", None),
        ("", None),
    ],
)
def test_tokens_that_say_when_they_end(value, expected):
    assert measure.token_end(value) == expected


@given(JSON | st.text())
def test_a_token_may_hold_anything(value):
    measure.token_end(token(value if isinstance(value, str) else json.dumps(value)))
    if isinstance(value, str):
        measure.token_end(value)


# --- turns -----------------------------------------------------------------------------------------------------

AGO = NOW - 600


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([], (0, 0)),
        ([("a", "user"), ("a", "assistant")], (1, 0)),
        ([("a", "user")], (1, 1)),
        ([("a", "user"), ("a", "assistant"), ("a", "tool")], (1, 1)),
        ([("a", "user"), ("a", "assistant"), ("a", "tool"), ("a", "assistant")], (1, 0)),
        # Said again, and answered then.
        ([("a", "user"), ("a", "user"), ("a", "assistant")], (2, 1)),
        # Two conversations at the same time.
        ([("a", "user"), ("b", "user"), ("b", "assistant"), ("a", "assistant")], (2, 0)),
        # The message itself was said long before.
        ([("a", "assistant")], (0, 0)),
    ],
)
def test_turns(rows, expected):
    newest_first = [(session, role, AGO) for session, role in reversed(rows)]
    assert measure.count_turns(newest_first, NOW) == Turns(*expected)


def test_only_the_last_hour_counts_and_not_what_may_still_be_answered():
    rows = [
        ("now", "user", NOW - 5),
        ("working", "tool", NOW - 5),
        ("working", "user", NOW - 900),
        ("answered", "assistant", NOW - 5),
        ("answered", "user", NOW - 6),
        ("given up", "user", NOW - measure.PENDING - 1),
        ("long ago", "user", NOW - HOUR - 1),
    ]
    assert measure.count_turns(rows, NOW) == Turns(2, 1)


@pytest.mark.parametrize(
    ("turns", "expected"),
    [
        ((0, 0), []),
        ((5, 0), []),
        ((1, 1), [("provider_errors", "warning")]),
        ((20, 2), []),
        ((19, 2), [("provider_errors", "failure")]),
    ],
)
def test_turns_become_findings(turns, expected):
    assert causes(measure.turn_findings(Turns(*turns), Settings(), "default")) == expected


SCHEMA = "CREATE TABLE messages (id INTEGER PRIMARY KEY, session_id TEXT, role TEXT, timestamp REAL, observed INTEGER)"
INSERT = "INSERT INTO messages (session_id, role, timestamp, observed) VALUES (?, ?, ?, ?)"


@pytest.fixture
def database(tmp_path):
    """A function that makes a state.db and fills it."""

    def make(rows, schema=SCHEMA):
        path = tmp_path / "state.db"
        path.unlink(missing_ok=True)
        with contextlib.closing(sqlite3.connect(path)) as connection, connection:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute(schema)
            if rows:
                connection.executemany(INSERT, rows)
        return path

    return make


def turns_in(tmp_path, now=NOW):
    return measure.read_turns(str(tmp_path), Owner.current(), now)


def test_the_database_is_counted(database, tmp_path):
    assert turns_in(tmp_path) == Turns(0, 0)
    database(
        [
            ("old", "user", NOW - 3 * HOUR, 0),
            ("a", "user", AGO, 0),
            ("a", "session_meta", AGO, 0),
            ("b", "user", AGO, None),
            ("b", "assistant", AGO, 0),
            # Said in a group, to others.
            ("c", "user", AGO, 1),
        ]
    )
    assert turns_in(tmp_path) == Turns(2, 1)


def test_a_writer_and_a_reader_do_not_disturb_each_other(database, tmp_path):
    with contextlib.closing(sqlite3.connect(database([("a", "user", AGO, 0)]), timeout=0)) as writer:
        writer.execute("BEGIN IMMEDIATE")
        writer.execute(INSERT, ("b", "user", AGO, 0))
        assert turns_in(tmp_path) == Turns(1, 1)
        writer.execute("COMMIT")
    assert turns_in(tmp_path) == Turns(2, 2)


def test_a_database_that_somebody_locked_says_so_soon(database, tmp_path):
    with contextlib.closing(sqlite3.connect(database([]))) as writer:
        writer.execute("PRAGMA journal_mode=DELETE")
        writer.execute("BEGIN EXCLUSIVE")
        with pytest.raises(OpsError, match=r"state\.db: cannot be read \(database is locked\)"):
            turns_in(tmp_path)


@pytest.mark.parametrize(
    "schema",
    [
        "CREATE TABLE messages (id INTEGER PRIMARY KEY)",
        # Somebody's idea of a joke: it never ends.
        "CREATE VIEW messages AS WITH RECURSIVE n(i) AS (VALUES(1) UNION ALL SELECT i + 1 FROM n) SELECT i AS id, "
        "'a' AS session_id, 'user' AS role, 0.0 AS timestamp, 0 AS observed FROM n",
    ],
)
def test_a_database_of_another_kind(database, tmp_path, monkeypatch, schema):
    monkeypatch.setattr(measure, "DATABASE_SECONDS", 0.2)
    database([], schema)
    with pytest.raises(OpsError, match="cannot be read") as caught:
        turns_in(tmp_path)
    assert caught.value.fix


def test_what_lies_in_the_place_of_the_database(tmp_path):
    path = tmp_path / "state.db"
    os.mkfifo(path)
    with pytest.raises(OpsError, match="no regular file"):
        turns_in(tmp_path)
    path.unlink()
    path.write_bytes(b"SQLite format 3\0 and then nothing of the kind" * 100)
    with pytest.raises(OpsError, match="cannot be read"):
        turns_in(tmp_path)


VALUE = st.none() | st.integers(-(2**63), 2**63 - 1) | st.floats() | st.text(max_size=5) | st.binary(max_size=5)
ROLES = VALUE | st.sampled_from(["user", "assistant", "tool", b"user"])
TIMES = VALUE | st.floats(NOW - 3 * HOUR, NOW)


@given(rows=st.lists(st.tuples(VALUE, ROLES, TIMES, VALUE), max_size=20))
def test_rows_may_hold_anything(tmp_path_factory, rows):
    directory = tmp_path_factory.mktemp("home")
    with contextlib.closing(sqlite3.connect(directory / "state.db")) as connection, connection:
        # No types: SQLite keeps what it is given.
        connection.execute("CREATE TABLE messages (id INTEGER PRIMARY KEY, session_id, role, timestamp, observed)")
        connection.executemany(INSERT, rows)
    turns = turns_in(directory)
    assert 0 <= turns.failed <= turns.total <= len(rows)


@example(flips=[(3990, 128)])
@given(flips=st.lists(st.tuples(st.integers(0, 8191), st.integers(0, 255)), min_size=1, max_size=20))
def test_a_database_that_was_damaged(tmp_path_factory, flips):
    path = tmp_path_factory.mktemp("home") / "state.db"
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(SCHEMA)
        connection.executemany(INSERT, [("a", "user", AGO, 0)] * 20)
    data = bytearray(path.read_bytes())
    for at, value in flips:
        data[at % len(data)] = value
    path.write_bytes(data)
    with contextlib.suppress(OpsError):
        turns_in(path.parent)


# --- processes -------------------------------------------------------------------------------------------------


def test_a_process_with_and_without_a_connection_of_its_own():
    def connected():
        return measure.look_at_process(os.getpid(), Owner.current(), None).connected

    if connected():
        pytest.skip("this process has a connection already")
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert connected() is False
        script = "import socket, sys; s = socket.create_connection(('127.0.0.1', int(sys.argv[1]))); sys.stdin.read()"
        command = ["python3", "-c", script, str(server.getsockname()[1])]
        with subprocess.Popen(command, stdin=subprocess.PIPE) as client:
            accepted, _address = server.accept()
            # Somebody came to us: that is no connection to a platform.
            assert connected() is False
            assert measure.look_at_process(client.pid, Owner.current(), None).connected is True
            accepted.close()
            client.stdin.close()


def test_memory_and_descriptors_of_a_process():
    mine = measure.look_at_process(os.getpid(), Owner.current(), None)
    assert mine.memory > 5 * 2**20
    with contextlib.ExitStack() as stack:
        for _each in range(50):
            stack.enter_context(open(os.devnull))
        assert measure.look_at_process(os.getpid(), Owner.current(), None).descriptors == mine.descriptors + 50
    assert measure.look_at_process(os.getpid(), Owner.current(), 2**40).memory > 2**39


def test_a_process_that_is_gone():
    assert measure.look_at_process(2**22 + 1, Owner.current(), None) == Process(-1, None, 0)


def test_memory_becomes_a_finding():
    assert measure.memory_findings(4 * 2**30, Settings(), "default") == []
    (finding,) = measure.memory_findings(5 * 2**30, Settings(), "default")
    assert "5.0 GiB" in finding.what


CONNECTED = {"state": "connected"}


@pytest.mark.parametrize(
    ("platforms", "connection", "expected"),
    [
        ({"discord": CONNECTED, "slack": CONNECTED}, False, ["discord", "slack"]),
        ({"discord": CONNECTED}, True, []),
        ({"discord": CONNECTED}, None, []),
        ({"discord": {"state": "retrying"}}, False, []),
        # These are called, and call nobody.
        ({"api_server": CONNECTED, "webhook": CONNECTED}, False, []),
    ],
)
def test_platforms_that_hear_nothing(platforms, connection, expected):
    assert measure.deaf_platforms({"platforms": platforms}, Process(10, connection, 0)) == expected


@pytest.mark.parametrize(
    ("heartbeat", "expected"),
    [
        ({"pid": 7, "monotonic": 100.0}, 50.0),
        ({"pid": 8, "monotonic": 100.0}, 0.0),
        ({"pid": 7, "monotonic": 1e9}, 0.0),
        ({"pid": 7}, 0.0),
        (None, 0.0),
    ],
)
def test_an_event_loop_that_stands_still(heartbeat, expected):
    assert measure.frozen_for(heartbeat, 7, 150.0) == expected


@given(JSON)
def test_the_event_loop_may_say_anything(value):
    assert measure.frozen_for(value, 7, 150.0) >= 0
    assert measure.frozen_for({"pid": 7, "monotonic": value}, 7, 150.0) >= 0


# --- what only time shows --------------------------------------------------------------------------------------


def test_restarts_within_the_hour():
    samples = []
    for minutes, count in [(0, 5), (2, 5), (30, 7), (58, 8), (59, 1), (60, 2)]:
        samples = measure.remember_restarts(samples, count, NOW + 60 * minutes)
    # Two, one, and two after somebody had started it by hand.
    assert measure.climbed(samples) == 5
    assert measure.climbed(measure.remember_restarts(samples, 2, NOW + 110 * 60)) == 2


@given(JSON)
def test_samples_may_be_anything(value):
    samples = value if isinstance(value, list) else [value]
    measure.climbed(measure.remember_restarts(samples, 1, NOW))
    kept = measure.remember_hour(value, 7, Process(1, None, 1), NOW)
    assert kept["hours"][-1][0] == NOW // HOUR
    measure.climb_findings(kept["hours"], "default")
    measure.climb_findings(measure.remember_hour({"pid": 7, "hours": value}, 7, Process(1, None, 1), NOW)["hours"], "x")


def hours(files, memory=lambda number: 0):
    kept = {}
    for number in range(20):
        # Twice an hour: what is let go of within it does not count.
        for more in (50, 0):
            process = Process(files(number) + more, None, memory(number))
            kept = measure.remember_hour(kept, 7, process, NOW + HOUR * number + more)
    return kept["hours"]


def test_what_only_climbs():
    assert causes(measure.climb_findings(hours(lambda number: 30 + 20 * number), "x")) == [("climbs", "warning")]
    both = measure.climb_findings(hours(lambda number: 30 + 20 * number, lambda number: 2**26 * (number + 1)), "x")
    assert [finding.what.split(" only")[0] for finding in both] == ["its open files", "its memory (MiB)"]
    assert measure.climb_findings(hours(lambda number: 30 + number), "x") == []
    assert measure.climb_findings(hours(lambda number: 30 + 20 * (number % 6)), "x") == []
    assert measure.climb_findings(hours(lambda number: 30 + 20 * number)[:11], "x") == []


def test_another_process_starts_anew():
    kept = {"pid": 7, "hours": [[1, 1, 1], [2, 2, 2]]}
    assert measure.remember_hour(kept, 8, Process(5, None, 6), NOW)["hours"] == [[NOW // HOUR, 5, 6]]


# --- an agent's health -----------------------------------------------------------------------------------------


def unit(active="active", sub="running", age=1000.0, restarts=0):
    entered = time.clock_gettime(time.CLOCK_MONOTONIC) - age
    pid = os.getpid() if active == "active" else 0
    return Unit("hermes-gateway@default.service", "loaded", active, sub, True, pid, restarts, "", 0, entered, False)


PROBLEM = health.Problem("no_answer", "the api server does not answer", "see the log")
HOPELESS = health.Problem("port_in_use", "port 1 is taken", "stop it", True)


@pytest.mark.parametrize(
    ("problem", "state", "excuse", "failure"),
    [
        (PROBLEM, unit, None, True),
        (PROBLEM, functools.partial(unit, "failed", "failed"), None, True),
        (PROBLEM, functools.partial(unit, "activating", "auto-restart"), None, True),
        # On its way up or down. (Made by the test itself: what waits for its turn grows old.)
        (PROBLEM, functools.partial(unit, "activating", "start"), None, False),
        (PROBLEM, functools.partial(unit, "deactivating", "stop-sigterm"), None, False),
        (PROBLEM, functools.partial(unit, age=20.0), None, False),
        (HOPELESS, functools.partial(unit, age=20.0), None, True),
        (HOPELESS, functools.partial(unit, "failed", "failed"), "an update is running", False),
    ],
)
def test_an_agent_that_is_not_healthy(problem, state, excuse, failure):
    (finding,) = measure.health_findings(health.Health("default", [problem]), state(), excuse)
    assert finding.failure is failure
    assert finding.profile == "default"
    assert finding.fix == problem.fix
    assert (excuse or "") in finding.what
