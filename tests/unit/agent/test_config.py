# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Declared keys in config.yaml: the plan, the text, the files."""

from __future__ import annotations

import copy
import stat

import pytest
import yaml
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.agent import config, parts
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.agent import converge as agent
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.agent.converge import AgentHome, Config
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.description import declaration
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.description.declaration import leaves
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.host.records import Records
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system import yaml_edit
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.errors import OpsError
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.files import Account
from ansible_collections.alwayson.hermes.plugins.module_utils.hermes_ops.system.plan import HIDDEN
from hypothesis import example, given
from hypothesis import strategies as st

FOREIGN = """\
# Top of a file that somebody cares for
model: openai/gpt-x   # the cheap one
platforms:
  # webhooks come from the build server
  webhook:
    enabled: yes
    extra: {host: 127.0.0.1, 'port': 8644, nothing: ~}
    list:
    - a   # first
    - b
    # end of the list

  telegram:
    prompt: |
      hello
      # no comment
      bye

octal: 012
ratio: 1:30
null_key: null
quoted: "it''s"
empty:
'on': "off"
42: a number for a key
# Bottom
"""


def changed(text, declared, record=None):
    plan = config.plan_config(yaml_edit.load(text, "f"), declared, record)
    return (config.edited(text, plan, "f") if plan.edits else text), plan


def record_of(plan, version=None):
    return {"keys": plan.keys, "created": plan.created, "config_version": version}


# The text


def test_only_the_lines_of_changed_keys_change():
    declared = {
        "platforms": {"webhook": {"enabled": False, "extra": {"port": 9000}}, "telegram": {"mode": "off"}},
        "octal": 12,
        "42": "other",
    }
    text, _plan = changed(FOREIGN, declared)
    expected = (
        FOREIGN.replace("enabled: yes", "enabled: false")
        .replace("'port': 8644", "'port': 9000")
        .replace("      bye\n", "      bye\n    mode: 'off'\n")
        .replace("octal: 012", "octal: 12")
        .replace("42: a number for a key", "42: other")
    )
    assert text == expected


def test_written_and_removed_again_is_the_old_text():
    declared = {"new": {"deep": {"list": [1, {"a": "on"}], "text": "two\nlines\n"}}, "platforms": {"x": {"y": None}}}
    text, plan = changed(FOREIGN, declared)
    assert text != FOREIGN
    back, _plan = changed(text, {}, record_of(plan))
    assert back == FOREIGN


@pytest.mark.parametrize(
    "value", ["off", "yes", "012", "1:30", "null", "~", "", "1e3", "2026-01-01", "0x1f", "=", "<<"]
)
def test_strings_stay_strings(value):
    text, _plan = changed("", {"approvals": {"mode": value}, value: value} if value else {"a": value})
    assert value in str(yaml.safe_load(text).values())
    assert all(isinstance(key, str) for key in yaml.safe_load(text))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "# only a comment",
        "---\n",
        "\ufeff",
        "\ufeff# x\na: 1\n",
        "a: 1",
        "---\na: 1\n...\n",
        "{}\n",
        "{a: 1}",
        "a: 1\r\nb: 2\r\n",
        "a: 1\n\n\n",
        "a: 1\n# tail",
        "a: |\n  x\n",
        "a: >-\n  x\n\n# c\n",
        "a:\n- 1\n",
        "a:\n",
        "a: &x {b: 1}\nc: *x\n",
        "'a': 1\n",
        "a: 'x\n\n  y'\n",
        "%YAML 1.1\n---\na: 1\n",
    ],
)
def test_odd_files_take_a_key_and_give_it_back(text):
    after, plan = changed(text, {"new": {"key": "value"}})
    assert yaml_edit.load(after, "f")["new"] == {"key": "value"}
    assert ("\r\n" in text) == ("\r\n" in after)
    back, _plan = changed(after, {}, record_of(plan))
    assert yaml_edit.same(yaml_edit.load(back, "f"), yaml_edit.load(text, "f"))
    assert back.rstrip("\r\n") == text.rstrip("\r\n") or text == "{}\n"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a: &x {b: 1}\nc: *x\n", 2),
        ("base: &b {d: 1, e: {f: 2}}\nc:\n  <<: *b\n", 2),
        ("c: {d: 1}\nc: {e: 2}\n", 2),
    ],
)
def test_anchors_merges_and_duplicates_in_the_way_are_refused(text, line):
    with pytest.raises(OpsError) as caught:
        changed(text, {"c": {"e": {"g": 1}, "b": 5}})
    assert caught.value.where == f"f:{line}"


def test_a_merge_key_elsewhere_is_no_obstacle():
    text = "base: &b {d: 1}\nc:\n  <<: *b\nother: 1\n"
    assert changed(text, {"other": 2, "c": {"own": 3}})[0] == text.replace("other: 1", "other: 2").replace(
        "<<: *b\n", "<<: *b\n  own: 3\n"
    )


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a: 1\nb: [SECRETVALUE\nc: 1\n", 3),
        ("a: 1\nb: SECRETVALUE: x\n", 2),
        ("- SECRETVALUE\n", 1),
        ("a: 1\n\tb: SECRETVALUE\n", 2),
        ("a: 1\nb: \x01SECRETVALUE\n", 2),
        ("a: !SECRET SECRETVALUE\n", 1),
    ],
)
def test_what_does_not_parse_is_refused_with_its_line_and_without_its_content(text, line):
    with pytest.raises(OpsError) as caught:
        yaml_edit.load(text, "config.yaml")
    assert caught.value.where == f"config.yaml:{line}"
    assert "SECRETVALUE" not in str(caught.value)


scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(10**12), 10**12)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs", "Cc"], include_characters="\n\t"), max_size=12)
    | st.sampled_from(["off", "012", "1:30", "a: b", "# x", "- x", "two\nlines", "{x}", "*a", "&a", "!t", "|", " "])
)
names = st.sampled_from(["a", "b", "c", "on", "7", "a b", "x:y", "# n", "-"]) | st.text(
    st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=6
)
trees = st.dictionaries(
    names,
    st.recursive(
        scalars,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
        max_leaves=8,
    ),
    max_size=4,
)


def commented(tree, flow, indent):
    """A file as a person may have written it, with a comment on every line that can bear one."""
    text = yaml.safe_dump(tree, sort_keys=False, default_flow_style=flow, allow_unicode=True, indent=indent)
    if any(isinstance(token, yaml.ScalarToken) and "\n" in token.value for token in yaml.scan(text)) or flow:
        return "# top\n" + text + "# bottom\n"
    return (
        "# top\n"
        + "".join(f"{line}\n# below {number}\n" for number, line in enumerate(text.splitlines()))
        + "# bottom\n"
    )


@given(tree=trees, declared=trees, flow=st.sampled_from([None, False, True]), indent=st.sampled_from([2, 4]))
@example(tree={"a": {"b": "x"}}, declared={"a": {"b": {"c": 1}}}, flow=False, indent=2)
def test_declared_keys_arrive_and_foreign_keys_and_comments_survive(tree, declared, flow, indent):
    text = commented(tree, flow, indent)
    before = yaml_edit.load(text, "f")
    after, plan = changed(text, declared)
    seen = yaml_edit.load(after, "f")
    for keys, value in leaves(declared):
        found = config._get(seen, keys)
        assert found == value or (value == {} and isinstance(found, dict))
    for key in before.keys() - declared.keys():
        if not isinstance(key, int):
            assert yaml_edit.same(seen[key], before[key])
    assert after.startswith("# top\n")
    assert after.rstrip().endswith("# bottom") or not tree
    # A second run has nothing to do; removing the declaration restores the text, unless an old value was replaced.
    again = config.plan_config(seen, declared, record_of(plan))
    assert (again.edits, again.drift) == ([], [])
    new = all(
        config._get(before, keys) is config._ABSENT
        and all(config._get(before, keys[:depth]) is not None for depth in range(1, len(keys)))
        for keys, _value in leaves(declared)
    )
    if new and tree and not any(difference.before for difference in plan.differences):
        assert changed(after, {}, record_of(plan))[0] == text


small = st.recursive(
    st.sampled_from([1, "off", None, [1, {"x": "y"}]]),
    lambda inner: st.dictionaries(st.sampled_from(["a", "b"]), inner, max_size=2),
    max_leaves=5,
)
declarations = st.dictionaries(st.sampled_from(["a", "b", "c"]), small, max_size=3)


@given(steps=st.lists(declarations, min_size=1, max_size=4))
@example(steps=[{"a": {"b": {"a": 1}}}, {"a": {"b": {}}}, {"a": {"b": 1}}, {"a": {"a": 1}}])
def test_a_history_of_declarations_leaves_nothing_behind(steps):
    text, record = FOREIGN, None
    for declared in [*steps, {}]:
        text, plan = changed(text, declared, record)
        record = record_of(plan)
        seen = yaml_edit.load(text, "f")
        assert plan.drift == plan.left == []
        assert config.plan_config(seen, declared, record).edits == []
        assert {name: seen[name] for name in seen if name in ("a", "b", "c")} == declared
    assert text == FOREIGN


# The plan


def test_a_hand_made_change_is_drift_and_put_right():
    _text, plan = changed("", {"approvals": {"mode": "smart"}, "a": 1})
    text, again = changed("approvals:\n  mode: 'off'\n", {"approvals": {"mode": "smart"}, "a": 1}, record_of(plan))
    assert again.drift == [
        {"key": "approvals.mode", "found": "off", "declared": "smart"},
        {"key": "a", "found": None, "declared": 1},
    ]
    assert text == "approvals:\n  mode: smart\na: 1\n"


def test_what_hermes_migrated_is_no_drift():
    _text, plan = changed("_config_version: 33\n", {"a": 1})
    _text, again = changed("_config_version: 39\na: 2\n", {"a": 1}, record_of(plan, 33))
    assert (again.drift, again.migrated) == ([], [{"key": "a", "found": 2, "declared": 1}])


def test_a_changed_declaration_is_no_drift():
    text, plan = changed("", {"a": 1})
    assert changed(text, {"a": 2}, record_of(plan))[1].drift == []


def test_what_upstream_retired_leaves_the_file_where_we_wrote_it():
    retired = {"gateway": {"multiplex_profiles": False, "auto_multiplex_migration": False}}
    written, before = changed("# hers\nmodel: x\n", declaration.merge(declaration.BASE_CONFIG, retired))
    assert "multiplex" in written
    after, plan = changed(written, declaration.BASE_CONFIG, record_of(before))
    assert yaml.safe_load(after) == {"model": "x", **declaration.BASE_CONFIG}
    assert after.startswith("# hers\nmodel: x\n")
    assert {difference.what for difference in plan.differences} == {
        "gateway.multiplex_profiles",
        "gateway.auto_multiplex_migration",
    }
    # A key that somebody else changed stays.
    theirs = "gateway:\n  multiplex_profiles: false\n"
    assert changed(theirs, declaration.BASE_CONFIG)[0].startswith(theirs)


def test_a_key_changed_by_hand_stays_when_it_leaves_the_declaration():
    _text, plan = changed("", {"a": {"b": 1}})
    text, again = changed("a:\n  b: 2\n", {}, record_of(plan))
    assert (text, again.left, again.keys) == ("a:\n  b: 2\n", [{"key": "a.b", "found": 2}], [])


def test_an_empty_mapping_means_that_there_is_one():
    text, plan = changed("", {"a": {"b": 1}})
    text, plan = changed(text, {"a": {}}, record_of(plan))
    assert text == "a: {}\n"
    text, again = changed("a: {theirs: 1}\n", {"a": {}}, record_of(plan))
    assert (again.edits, again.drift) == ([], [])


def test_a_parent_stays_in_its_place_when_its_last_key_is_exchanged():
    _text, plan = changed("", {"a": {"b": 1}})
    assert changed("a: # mine\n  b: 1\nz: 1\n", {"a": {"c": 2}}, record_of(plan))[0] == "a: # mine\n  c: 2\nz: 1\n"


def test_line_breaks_are_those_of_the_file():
    assert changed("a: 1\r\n", {"b": {"c": 1}})[0] == "a: 1\r\nb:\r\n  c: 1\r\n"


def test_long_values_stay_on_one_line():
    assert changed("", {"a": "word " * 60 + "end"})[0].count("\n") == 1


def test_foreign_siblings_keep_a_parent_alive():
    _text, plan = changed("", {"a": {"b": {"c": 1}}})
    assert changed("a:\n  b:\n    c: 1\n  z: 1\n", {}, record_of(plan))[0] == "a:\n  z: 1\n"


def test_a_parent_that_was_there_stays():
    text, plan = changed("a: {}\n", {"a": {"b": 1}})
    assert changed(text, {}, record_of(plan))[0] == "a: {}\n"


def test_a_bare_model_is_kept_as_what_it_means():
    text, plan = changed("model: x/y # mine\n", {"model": {"provider": "p"}})
    assert yaml.safe_load(text) == {"model": {"default": "x/y", "provider": "p"}}
    assert "# mine" in text
    assert plan.restart == []


def test_a_leaf_that_becomes_a_mapping_and_back():
    text, plan = changed("", {"a": [1]})
    text, plan = changed(text, {"a": {"b": 1}}, record_of(plan))
    assert yaml.safe_load(text) == {"a": {"b": 1}}
    text, plan = changed(text, {"a": [1]}, record_of(plan))
    assert yaml.safe_load(text) == {"a": [1]}


@pytest.mark.parametrize(
    ("declared", "restart"),
    [
        ({"model": {"default": "x"}}, []),
        ({"approvals": {"mode": "off"}}, []),
        ({"approvals": {"timeout": 1}}, ["config: approvals.timeout"]),
        ({"platforms": {"webhook": {"extra": {"port": 1}}}}, ["config: platforms.webhook.extra.port"]),
    ],
)
def test_what_needs_a_restart(declared, restart):
    text, plan = changed("", declared)
    assert plan.restart == restart
    assert changed(text, {}, record_of(plan))[1].restart == restart


@pytest.mark.parametrize("one", [True, 1, 1.0, "1"])
@pytest.mark.parametrize("other", [True, 1, 1.0, "1"])
def test_types_matter(one, other):
    text, _plan = changed("", {"a": one})
    assert bool(changed(text, {"a": other})[1].edits) == (type(one) is not type(other))


@pytest.mark.parametrize(
    ("keys", "value", "hidden"),
    [
        (("model", "api_key"), "abc", True),
        (("model", "api_key"), "${OPENROUTER_API_KEY}", False),
        (("model", "max_tokens"), 5, False),
        (("platforms", "x", "extra", "key"), "abc", True),
        (("mcp_servers", "x", "env", "FOO"), "abc", True),
        (("a", "url"), "https://u:p@host/", True),
        (("a", "note"), "sk-" + 20 * "x", True),
        (("a", "password"), 123456, True),
        (("a", "headers", "X"), "", False),
        (("a", "note"), "plain", False),
        (("platforms", "x"), {"bot_token": "abc"}, True),
        (("a",), [{"password": "abc"}], True),
    ],
)
def test_secrets_are_hidden(keys, value, hidden):
    assert (HIDDEN in str(config.shown(keys, value))) is hidden


def test_old_secrets_are_not_in_the_differences():
    text = "model: {api_key: oldvalue}\nx: {api_key: oldvalue, a: 1}\n"
    plan = changed(text, {"model": {"api_key": "newvalue"}, "x": 5})[1]
    assert "value" not in repr(plan.differences)
    assert all(difference.before != difference.after for difference in plan.differences)


# The files


@pytest.fixture
def the_agent(tmp_path):
    home = tmp_path / "home"
    home.mkdir()

    def converge(declared, *, managed_dir=None, check=False):
        desired = AgentHome(config=Config(copy.deepcopy(declared), managed_dir))
        records = Records(str(tmp_path / "ops"), "p")
        return agent.converge_home(str(home), Account.current(), records, desired, check=check).parts["config"]

    converge.home = str(home)
    converge.file = home / "config.yaml"
    converge.managed = tmp_path / "etc" / "p"
    return converge


def test_converge_twice(the_agent):
    assert the_agent({"a": 1}, check=True).differences
    assert not the_agent.file.exists()
    assert the_agent({"a": 1}).restart == ["config: a"]
    assert stat.S_IMODE(the_agent.file.stat().st_mode) == 0o600
    before = the_agent.file.stat().st_ctime_ns
    again = the_agent({"a": 1})
    assert (again.differences, again.restart) == ([], [])
    assert the_agent.file.stat().st_ctime_ns == before


def test_a_wrong_mode_is_put_right(the_agent):
    the_agent({"a": 1})
    the_agent.file.chmod(0o644)
    assert the_agent({"a": 1}).differences
    assert stat.S_IMODE(the_agent.file.stat().st_mode) == 0o600


def test_scopes(the_agent):
    the_agent.file.write_text("mine: 1\n")
    the_agent({"a": 1})
    managed = {"managed_dir": str(the_agent.managed)}
    assert the_agent({"a": 1}, **managed).restart == ["config: a"]
    assert the_agent.file.read_text() == "mine: 1\n"
    assert (the_agent.managed / "config.yaml").read_text() == "a: 1\n"
    assert stat.S_IMODE((the_agent.managed / "config.yaml").stat().st_mode) == 0o644
    assert stat.S_IMODE(the_agent.managed.stat().st_mode) == 0o755
    assert not the_agent({"a": 1}, **managed).differences
    the_agent({"a": 1})
    assert (the_agent.managed / "config.yaml").read_text() == ""
    assert the_agent.file.read_text() == "mine: 1\na: 1\n"


def test_the_managed_scope_needs_a_config_in_the_home(the_agent):
    managed = {"managed_dir": str(the_agent.managed)}
    assert the_agent({"a": 1}, **managed, check=True).differences
    assert not the_agent.file.exists()
    assert f"config: {the_agent.file}" in the_agent({"a": 1}, **managed).restart
    assert yaml_edit.load(the_agent.file.read_text(), "") in (None, {})
    assert stat.S_IMODE(the_agent.file.stat().st_mode) == 0o600
    assert not the_agent({"a": 1}, **managed).differences
    # Somebody's own, and one that went missing.
    the_agent.file.write_text("mine: 1\n")
    assert not the_agent({"a": 1}, **managed).differences
    the_agent.file.unlink()
    assert the_agent({"a": 1}, **managed).restart == [f"config: {the_agent.file}"]


def test_a_refused_file_is_untouched(the_agent):
    the_agent.file.write_bytes(b"a: [1\n")
    for check_mode in (True, False):
        with pytest.raises(OpsError):
            the_agent({"b": 1}, check=check_mode)
    the_agent.file.write_bytes(b"a: \xff\n")
    with pytest.raises(OpsError, match="UTF-8"):
        the_agent({"b": 1})
    assert the_agent.file.read_bytes() == b"a: \xff\n"


@pytest.mark.parametrize(
    "text",
    [
        "a: !hunter2secret x",
        "a: !<'hunter2secret> x",
        "a: *hunter2secret",
        "a: &hunter2secret 1\nb: &hunter2secret 2",
        "a: !hunter2secret!x y",
        "a: !!bool hunter2secret",
        "a: !!timestamp hunter2secret",
        "a: !!int ''",
        "a: !!binary hunter2sécret",
        "a: [hunter2secret",
        "hunter2secret\na: 1",
        "a: hunter2secret\n  b: %hunter2secret",
    ],
)
@pytest.mark.parametrize("libyaml", [True, False])
def test_no_error_quotes_the_file(text, libyaml, monkeypatch):
    if not libyaml:
        monkeypatch.delattr(yaml_edit.yaml, "CSafeLoader", raising=False)
    with pytest.raises(OpsError, match=r"config\.yaml") as caught:
        yaml_edit.load(text, "config.yaml")
    assert "hunter2" not in str(caught.value)


def test_an_error_says_what_is_wrong():
    # libyaml's words, or Python's.
    with pytest.raises(OpsError, match=r"config.yaml:2: is not YAML \((did not find )?expected ',' or '\]'"):
        yaml_edit.load("a: [1\n", "config.yaml")


def test_check_mode_without_pyyaml(the_agent, monkeypatch):
    monkeypatch.setattr(yaml_edit, "yaml", None)

    def look():
        # In this process, which has no PyYAML.
        request = {"config": [{"keys": {"a": 1}, "beside": False}, {}]}
        return parts.look(the_agent.home, request, False)["parts"]["config"]

    assert look()["differences"] == [["a", None, "1"]]
    assert look()["unpredicted"] is None
    the_agent.file.write_text("a: 1\n")
    assert look()["unpredicted"] == "there is no PyYAML on the host"
    assert look()["differences"]
    with pytest.raises(OpsError, match="python3-yaml"):
        the_agent({"a": 1})


def test_drifted(the_agent, tmp_path):
    assert config.drifted(str(the_agent.file), {}) == []
    the_agent({"a": {"b": 1, "c": {}}, "d": 2})
    record = Records(str(tmp_path / "ops"), "p").applied("config")
    the_agent.file.write_text("a: {b: 1, c: {theirs: 1}}\n")
    assert config.drifted(str(the_agent.file), record) == ["d"]


def test_read_config(the_agent):
    assert config.read_config(str(the_agent.file)) == {}
    the_agent.file.write_text("a: off\n")
    assert config.read_config(str(the_agent.file)) == {"a": False}
