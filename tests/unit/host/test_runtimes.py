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
    users.enrol(["ada", "bob"], 100)
    users.enrol(["cleo", "ada"], 100)
    assert numbers(users) == {"ada": 0, "bob": 1, "cleo": 2}


def test_only_the_number_of_a_user_who_is_forgotten_is_given_again(users):
    ada, bob = users.enrol(["ada", "bob"], 100)
    users.write(dataclasses.replace(ada, off=True))
    users.forget(bob)
    users.enrol(["cleo", "dan"], 100)
    assert numbers(users) == {"ada": 0, "cleo": 1, "dan": 2}


def test_one_who_is_off_is_so_until_enrolled_again(users):
    (ada,) = users.enrol(["ada"], 100)
    users.write(dataclasses.replace(ada, off=True))
    assert users.get("ada").off
    assert users.enrol(["ada"], 100) == [ada]
    assert not users.get("ada").off


def test_units_call_a_user_by_the_id(users):
    ada, uuid = users.enrol(["ada", UUID], 100)
    assert users.by_id(ada.id) == ada
    assert users.by_id(uuid.id) == users.get(UUID.upper()) == uuid
    assert users.by_id("0" * 32) is users.by_id("../x") is None


def test_the_digits_of_another_user_are_an_id_like_any_other(users):
    """They follow from a name that everybody may know, and applications take any text for an id."""
    (ada,) = users.enrol(["ada"], 100)
    assert users.find(ada.id) is None
    (mallory,) = users.enrol([ada.id], 100)
    assert users.get(ada.id) == mallory != ada


def test_a_user_for_whom_the_network_has_no_address_is_not_remembered(users):
    with pytest.raises(OpsError, match="has room for 2 users"):
        users.enrol(["ada", "bob", "cleo"], 2)
    assert numbers(users) == {"ada": 0, "bob": 1}


def test_one_who_is_forgotten_while_others_are_listed_is_in_nobody_s_way(users, monkeypatch):
    ada, bob = users.enrol(["ada", "bob"], 100)
    ids = users.ids()
    users.forget(bob)
    monkeypatch.setattr(users, "ids", lambda: ids)
    assert users.all() == [ada]


def test_who_has_no_runtime_is_told_how_to_get_one(users):
    assert users.find("ada") is None
    with pytest.raises(OpsError, match=r"has no runtime here.*ensure"):
        users.get("ada")


@pytest.mark.parametrize(
    "record",
    ["[]", "{}", '{"name": "bob", "number": 0}', '{"name": "ada", "number": -1}', '{"name": "ada", "number": "x"}'],
)
def test_a_record_that_is_not_the_user_s_is_not_used(users, record, tmp_path):
    (ada,) = users.enrol(["ada"], 100)
    (tmp_path / f"ops/runtimes/{ada.id}.json").write_text(record, encoding="utf-8")
    with pytest.raises(OpsError, match=ada.id):
        users.all()


def test_other_files_beside_the_records_are_left_alone(users, tmp_path):
    users.enrol(["ada"], 100)
    (tmp_path / "ops/runtimes/notes.json").write_text("mine", encoding="utf-8")
    assert numbers(users) == {"ada": 0}


def test_a_record_says_who_and_no_more(users, tmp_path):
    (ada,) = users.enrol(["ada"], 100)
    path = tmp_path / f"ops/runtimes/{ada.id}.json"
    assert json.loads(path.read_text(encoding="utf-8")) == {"name": "ada", "number": 0, "off": False}
    assert path.stat().st_mode & 0o777 == 0o600


def test_two_at_once_never_give_one_number_twice(users):
    names = [f"user {number}" for number in range(20)]

    def enrol(name):
        with users.lock():
            users.enrol([name], 100)

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
