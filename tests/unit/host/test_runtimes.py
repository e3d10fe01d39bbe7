# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The users who have a runtime, and their numbers, which nobody else may get while anything of theirs is left."""

from __future__ import annotations

import dataclasses
import json
import threading

import pytest
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.host import runtimes
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.host.runtimes import Users
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.errors import OpsError

UUID = "6ba7b810-9dad-11d1-80b4-00c04fd430c8"


@pytest.fixture
def users(tmp_path):
    (tmp_path / "ops/runtimes").mkdir(parents=True, mode=0o700)
    return Users(str(tmp_path / "ops"))


def numbers(users):
    return {user.name: user.number for user in users.all()}


def test_numbers_are_given_once_and_in_order(users):
    users.enrol(["ada", "bob"])
    users.enrol(["cleo", "ada"])
    assert numbers(users) == {"ada": 0, "bob": 1, "cleo": 2}


def test_only_the_number_of_a_user_who_is_forgotten_is_given_again(users):
    ada, bob = users.enrol(["ada", "bob"])
    users.write(dataclasses.replace(ada, off=True))
    users.forget(bob)
    users.enrol(["cleo", "dan"])
    assert numbers(users) == {"ada": 0, "cleo": 1, "dan": 2}


def test_one_who_is_off_is_so_until_enrolled_again(users):
    (ada,) = users.enrol(["ada"])
    users.write(dataclasses.replace(ada, off=True))
    assert users.get("ada").off
    assert users.enrol(["ada"]) == [ada]
    assert not users.get("ada").off


def test_units_call_a_user_by_the_id(users):
    ada, uuid = users.enrol(["ada", UUID])
    assert users.get(ada.id) == ada
    assert users.get(uuid.id) == users.get(UUID.upper()) == uuid


def test_an_id_of_nobody_is_a_name_of_somebody(users):
    """32 hex digits are an id that an application may use, too."""
    (odd,) = users.enrol(["0" * 32])
    assert odd.id != "0" * 32
    assert users.get("0" * 32) == odd


def test_who_has_no_runtime_is_told_how_to_get_one(users):
    assert users.find("ada") is None
    with pytest.raises(OpsError, match=r"has no runtime here.*ensure"):
        users.get("ada")


@pytest.mark.parametrize(
    "record",
    ["[]", "{}", '{"name": "bob", "number": 0}', '{"name": "ada", "number": -1}', '{"name": "ada", "number": "x"}'],
)
def test_a_record_that_is_not_the_user_s_is_not_used(users, record, tmp_path):
    (ada,) = users.enrol(["ada"])
    (tmp_path / f"ops/runtimes/{ada.id}.json").write_text(record, encoding="utf-8")
    with pytest.raises(OpsError, match=ada.id):
        users.all()


def test_other_files_beside_the_records_are_left_alone(users, tmp_path):
    users.enrol(["ada"])
    (tmp_path / "ops/runtimes/notes.json").write_text("mine", encoding="utf-8")
    assert numbers(users) == {"ada": 0}


def test_a_record_says_who_and_no_more(users, tmp_path):
    (ada,) = users.enrol(["ada"])
    path = tmp_path / f"ops/runtimes/{ada.id}.json"
    assert json.loads(path.read_text(encoding="utf-8")) == {"name": "ada", "number": 0, "off": False}
    assert path.stat().st_mode & 0o777 == 0o600


def test_two_at_once_never_give_one_number_twice(users):
    names = [f"user {number}" for number in range(20)]

    def enrol(name):
        with users.lock():
            users.enrol([name])

    threads = [threading.Thread(target=enrol, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(numbers(users).values()) == list(range(20))


def test_names_follow_from_the_id():
    one = runtimes.User(UUID, 5)
    assert one.container == "hermes-user-6ba7b8109dad11d180b400c04fd430c8"
    account = one.account(700_000, "/data")
    assert (account.uid, account.gid, account.home) == (700_005, 700_005, f"/data/users/{one.id}")
