# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A declaration that cannot work is refused with one error that names host, agent, key and fix, before any change.

Each case is a separate host for Ansible, and all of these hosts are this box. So one run refuses all cases.
"""

from __future__ import annotations

TOKEN = "12345:a-bot-token-of-the-tests"

# name -> hermes_agents, and what the error says after the host and the variable
DECLARATIONS = {
    "one name twice": (
        [{"name": "default"}, {"name": "default"}],
        "agent default is declared twice. Fix: merge the two, or rename one",
    ),
    "one port twice": (
        [{"name": "default"}, {"name": "work", "api": {"port": 8642}}],
        "port 8642 is declared twice: agent default: api.port and agent work: api.port. Fix: give each its own",
    ),
    "no port": (
        [{"name": "work"}],
        "agent work: api.port: is not declared. Fix: give the agent a port of its own",
    ),
    "one bot in two agents": (
        [
            {"name": "default", "secrets": {"TELEGRAM_BOT_TOKEN": TOKEN}},
            {"name": "work", "api": {"port": 8643}, "secrets": {"TELEGRAM_BOT_TOKEN": TOKEN}},
        ],
        "agent default and agent work have the same TELEGRAM_BOT_TOKEN. Fix: give each agent a bot",
    ),
    "open to the network without a key": (
        [{"name": "default", "api": {"host": "0.0.0.0"}}],
        "agent default: api.host: 0.0.0.0 can be reached from the network, and there is no key. "
        "Fix: declare secrets.API_SERVER_KEY",
    ),
    "open to the network with a placeholder": (
        [{"name": "default", "api": {"host": "0.0.0.0"}, "secrets": {"API_SERVER_KEY": "changeme"}}],
        "agent default: secrets.API_SERVER_KEY: is shorter than 16 characters or a placeholder",
    ),
    "unsigned calls from the network": (
        [
            {
                "name": "default",
                "webhook": {"host": "0.0.0.0"},
                "webhooks": [{"name": "open", "secret": "INSECURE_NO_AUTH", "prompt": "{body}"}],
            }
        ],
        "agent default: webhooks[1].secret: takes unsigned calls on 0.0.0.0",
    ),
    "a secret in the configuration": (
        [{"name": "default", "config": {"model": {"api_key": "sk-of-the-tests-0123456789"}}}],
        "agent default: config.model.api_key: is a secret, and config.yaml is no place for one. "
        'Fix: move it to secrets.MODEL_API_KEY and write "${MODEL_API_KEY}" here',
    ),
    "a secret in the settings": (
        [{"name": "default", "settings": {"OPENROUTER_API_KEY": "sk-of-the-tests-0123456789"}}],
        "agent default: settings.OPENROUTER_API_KEY: is a secret, and settings are shown in output and "
        "diffs. Fix: move it to secrets.OPENROUTER_API_KEY",
    ),
    "an unknown key": (
        [{"name": "default", "confg": {}}],
        "agent default: unknown key confg. Fix: did you mean config?",
    ),
    "an unknown key within": (
        [{"name": "default", "limits": {"memroy": "1G"}}],
        "agent default: unknown key limits.memroy. Fix: did you mean limits.memory?",
    ),
    "a number in quotes": (
        [{"name": "default", "api": {"port": "8642"}}],
        "agent default: api.port: must be a whole number, not str. Fix: unquote it",
    ),
    "a webhook with an unknown field": (
        [{"name": "default", "webhooks": [{"name": "deploy", "promt": "{body}"}]}],
        "agent default: webhooks[1]: unknown key promt. Fix: did you mean prompt?",
    ),
    "a webhook without a name": (
        [{"name": "default", "webhooks": [{"prompt": "{body}"}]}],
        "agent default: webhooks[1]: must be a mapping with a name.",
    ),
    "a webhook that the gateway would not take": (
        [{"name": "default", "webhooks": [{"name": "Deploy!", "prompt": "{body}"}]}],
        "agent default: webhooks[1]: 'Deploy!' is not a valid webhook name. Fix: use lower-case letters",
    ),
    "one home twice": (
        [
            {"name": "a", "home": "/srv/h", "api": {"port": 8650}},
            {"name": "b", "home": "/srv/h", "api": {"port": 8651}},
        ],
        "agent a and agent b have the same home /srv/h. Fix: give each its own",
    ),
    "a name that is too long for a user": (
        [{"name": "a" * 26, "api": {"port": 8650}}],
        f"agent {'a' * 26}: the user hermes-{'a' * 26} would have more than the 32 characters that a user's name may "
        "have. Fix: declare user",
    ),
    "a webhook that delivers to nobody": (
        [{"name": "default", "webhooks": [{"name": "deploy", "deliver_only": True}]}],
        "agent default: webhooks[1]: is deliver_only without a target to deliver to. Fix: set deliver to a platform",
    ),
}


# Variables of earlier versions, alone or together with the new one.
REPLACED = {
    "all profiles in one home": (
        {"hermes_profiles": [{"name": "default"}]},
        "hermes_profiles: is not used any more. Fix: declare hermes_agents",
    ),
    "one user for all": ({"hermes_user": "ada"}, "hermes_user: is not used any more. Fix: declare user for the agents"),
    "one home for all": ({"hermes_home": "/h"}, "hermes_home: is not used any more. Fix: declare home for the agent"),
    "a user that is not to be managed": ({"base_user_managed": False}, "base_user_managed: is not used any more."),
}


def test_variables_of_earlier_versions_are_refused(run_as, unharmed):
    run, cases = run_as({case: variables for case, (variables, _error) in REPLACED.items()})
    for case, (_variables, error) in REPLACED.items():
        assert f"{cases[case].name}: {error}" in run.text, case
        assert (cases[case].failed, cases[case].changed) == (1, 0), case


# Variables of roles, also of those that would run last.
VARIABLES = {
    "two roles": (
        {"backup_keep": "seven", "gateway_scope": "both"},
        "gateway_scope: is 'both'. Fix: known ones are system, user (role common; ",
        "backup_keep: is 'seven', not a whole number. Fix: write a whole number (role backup; ",
    ),
    "a secret": (
        {"backup_restic_environment": [TOKEN]},
        "backup_restic_environment: is not a mapping. Fix: write a mapping (role backup; ",
    ),
    "what only the host used to find": (
        {"hermes_version": "latest", "backup_restic_repository": "/mnt/backup", "backup_timezone": "Europe/Lodnon"},
        "hermes_version: 'latest' is neither a version nor a range. Fix: write 0.19.0",
        "backup_restic_password: is missing. Fix: declare one",
        "backup_timezone: 'Europe/Lodnon' is not a time zone. Fix: did you mean Europe/London?",
    ),
    "a slip": (
        {"backup_restic_repo": "/mnt/backup"},
        "backup_restic_repo: is not a variable of this collection. Fix: did you mean backup_restic_repository?",
    ),
    "an extra that does not exist": (
        {"install_extras": ["homeassistent"]},
        "install_extras: hermes-agent 0.19.0 has no extra homeassistent. Fix: did you mean homeassistant?",
    ),
    "credentials in the URL": (
        {"install_index_url": "https://me:tell-nobody@127.0.0.1:9/simple"},
        "install_index_url: holds a user name or a password. Fix: move them to install_index_username and",
    ),
}


def test_variables_of_all_roles_are_refused_at_once(run_as, unharmed):
    run, cases = run_as({case: variables for case, (variables, *_errors) in VARIABLES.items()})
    for case, (_variables, *errors) in VARIABLES.items():
        for error in errors:
            assert f"{cases[case].name}: {error}" in run.text, case
        assert (cases[case].failed, cases[case].changed) == (1, 0), case
    assert "Look at the host" not in run.output
    for secret in (TOKEN, "tell-nobody"):
        assert secret not in run.output


def test_declarations_are_refused(run_as, unharmed):
    run, cases = run_as({case: {"hermes_agents": agents} for case, (agents, _error) in DECLARATIONS.items()})
    for case, (_agents, error) in DECLARATIONS.items():
        assert f"{cases[case].name}: hermes_agents: {error}" in run.text, case
        assert cases[case].failed == 1, case
        assert cases[case].changed == 0, case
    for noise in ("Traceback", "caused by", "Finalization", "Look at the host"):
        assert noise not in run.output
    for secret in (TOKEN, "sk-of-the-tests-0123456789"):
        assert secret not in run.output


# A package that the host lacks. Nothing of it may be asked for before the host is refused.
MISSING = {"base_packages": ["no-such-package-of-the-tests"]}
ELSEWHERE = "name a suitable one in install_python, declare install_python_downloads: true, or use another system"
# Releases that this host (Debian 12, which has Python 3.11) cannot run.
UNFIT = {
    "an interpreter that is not there": (
        {"hermes_version": "0.18.2", "install_python": "3.8"},
        f"install_python: this host has no Python 3.8. Fix: install it, {ELSEWHERE}",
    ),
    "an interpreter by its path": (
        {"hermes_version": "0.18.2", "install_python": "/opt/python/bin/python3"},
        f"install_python: this host has no Python at /opt/python/bin/python3. Fix: install it, {ELSEWHERE}",
    ),
    "a tag that needs a newer Python": (
        {"install_method": "git", "install_url": "https://127.0.0.1:9/hermes.git", "install_channel": "v0.22.*"},
        "install_channel: hermes-agent v0.22.* requires Python >=3.14,<3.15, and this host has Python 3.11. "
        f"Fix: {ELSEWHERE} (docs/releases.md, What fits together)",
    ),
    "wheels that are not there": (
        {"install_method": "path", "install_path": "/srv/nowhere"},
        "install_path: /srv/nowhere: there is no such directory on the host. Fix: copy the tree or the wheels there",
    ),
}


def test_releases_that_the_host_cannot_run_are_refused_before_packages(run_as, unharmed):
    run, cases = run_as({case: {**MISSING, **variables} for case, (variables, _error) in UNFIT.items()})
    for case, (_variables, error) in UNFIT.items():
        assert f"{cases[case].name}: {error}" in run.text, case
        assert (cases[case].failed, cases[case].changed) == (1, 0), case
    for later in ("not everything is there yet", "Packages are installed", "no-such-package", "Traceback"):
        assert later not in run.output


RELEASES = {
    "a version that does not exist": (
        {"hermes_version": "0.19.99"},
        "hermes-agent 0.19.99: the index has no such version (hermes-agent==0.19.99); nothing was changed. "
        "Fix: correct version, or name an index that has it",
    ),
    "another file than the pinned one": (
        {"hermes_version": "0.18.2", "install_lock": "hermes-agent[homeassistant]==0.18.2 --hash=sha256:" + 64 * "0"},
        "another file than the pinned one was offered",
    ),
    "an index that does not answer": (
        {
            "hermes_version": "0.18.2",
            "install_index_url": "http://127.0.0.1:9/simple",
            "install_index_username": "me",
            "install_index_password": "tell-nobody",
        },
        "hermes-agent 0.18.2: the index 127.0.0.1:9 cannot be reached; nothing was changed",
    ),
}


def test_releases_are_refused(run_as, unharmed):
    run, cases = run_as({case: variables for case, (variables, _error) in RELEASES.items()})
    for case, (_variables, error) in RELEASES.items():
        assert error in cases[case].error, case
        assert cases[case].failed == 1, case
        assert cases[case].changed == 0, case
    assert "Traceback" not in run.output
    assert "tell-nobody" not in run.output
