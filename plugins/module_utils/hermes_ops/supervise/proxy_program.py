# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The program of the proxy: JavaScript that nginx runs for each request, in its own process (njs).

It is the second implementation of the rule for ids and keys (``docs/runtimes-keys.md``), beside
``description/runtime_ids.py`` and ``runtime_keys.py``. It is limited to what njs 0.7.9 (Debian 12) knows, and Node
loads it too, for the vectors.
"""

from __future__ import annotations

import json

_PROGRAM = r"""
import crypto from 'crypto';
import fs from 'fs';

const CONTROL = /[\u0000-\u001f\u007f-\u009f]/;
const UUID = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/i;
// What a caller sent: the user's id, and the rest, as it goes on to the agent. Other characters do not belong there.
const SENT = /^\/u\/([\x21-\x2e\x30-\x3e\x40-\x7e]+)(\/[\x21-\x7e]*)$/;
// What a sender of webhooks calls: the user's hex digits, the token, the webhook's name, a query.
const HOOK = /^\/w\/([0-9a-f]{32})\/(hw[0-9]{1,3}_[\w-]{43})\/([a-z0-9][a-z0-9_-]*)(\?[\x21-\x7e]*)?$/;

// Why systemd says that an agent could not be started (SERVICE_RESULT in systemd.exec(5)), for callers.
const RESULTS = {
    'core-dump': 'it crashed',
    'oom-kill': 'it needed more memory than it may use',
    'protocol': 'it did not say that it is ready',
    'resources': 'the host has no resources left for it',
    'signal': 'it was killed',
    'start-limit-hit': 'it failed too often in a short time',
    'timeout': 'it was not healthy in time',
    'watchdog': 'it stopped answering',
};
// The same for exit statuses: the agent's own (EX_CONFIG in sysexits.h), and those of podman-run(1).
const STATUSES = {
    '78': 'its description or a secret is wrong',
    '125': 'podman could not start it',
    '126': 'podman could not run its program',
    '127': 'its image lacks its program',
};
// Seconds. By then the front has ended that could not reach its agent, so that the next call starts both again.
const RETRY_AFTER = 10;

// The 32 hex digits of a user's id, or null: it is none.
function hex_of(user) {
    // A character has one byte that does not continue another. (A length counts UTF-16 in Node, characters in njs.)
    const length = new TextEncoder().encode(user).filter((byte) => (byte & 0xc0) !== 0x80).length;
    if (length < 1 || length > 256 || CONTROL.test(user)) {
        return null;
    }
    if (UUID.test(user)) {
        return user.toLowerCase().split('-').join('');
    }
    const digits = crypto.createHash('sha256').update('alwayson.hermes/user/1\0').update(user).digest('hex');
    const variant = '01234567cdef'[parseInt(digits[16], 16) % 12];
    return digits.slice(0, 16) + variant + digits.slice(17, 32);
}

function code(secret, text) {
    return crypto.createHmac('sha256', secret).update(text);
}

function key_of(secret, hex, version) {
    return `hu${version}_` + code(secret, `alwayson.hermes/key/${version}/${hex}`).digest('base64url');
}

function webhook_token_of(secret, hex, name, version) {
    return `hw${version}_` + code(secret, `alwayson.hermes/webhook/${version}/${hex}/${name}`).digest('base64url');
}

function api_key_of(secret, hex) {
    return code(secret, `alwayson.hermes/api/1/${hex}`).digest('hex');
}

// Takes as long for any two texts of the same length. The length of a key is no secret.
function same(one, other) {
    let different = one.length ^ other.length;
    for (let i = 0; i < one.length; i++) {
        different |= one.charCodeAt(i) ^ other.charCodeAt(i);
    }
    return different === 0;
}

// The secret and the accepted versions; null: there are none. Read for each request: a few bytes in memory, and
// a version that was removed is refused from that moment, also by workers that an earlier nginx left with a stream.
function secrets() {
    try {
        const read = JSON.parse(fs.readFileSync(`${RUNTIMES}/proxy/secrets.json`));
        return read.secret.length >= 32 && Array.isArray(read.versions) ? read : null;
    } catch (error) {
        return null;
    }
}

// What a caller sent: [, user, path], or null: no address of an agent.
function sent(r) {
    return SENT.exec(r.variables.request_uri || '');
}

function hook(r) {
    return HOOK.exec(r.variables.request_uri || '');
}

// $way_user: the hex digits of the user to whose agent this request may go; empty: nobody's.
function user(r) {
    const called = hook(r);
    return called ? receiver(r, called) : caller(r);
}

// The user whose webhook is called, with its token.
function receiver(r, called) {
    const kept = secrets();
    const hex = called[1];
    const accepted =
        kept && kept.versions.some((each) => same(webhook_token_of(kept.secret, hex, called[3], each), called[2]));
    return accepted && r.method === 'POST' && reachable(hex) ? hex : '';
}

// The user who calls, with their key.
function caller(r) {
    const kept = secrets();
    const asked = sent(r);
    const bearer = /^Bearer +(\S+)$/i.exec(r.headersIn.Authorization || '');
    if (!kept || !asked || !bearer) {
        return '';
    }
    let hex;
    try {
        hex = hex_of(decodeURIComponent(asked[1]));
    } catch (error) {
        return '';
    }
    const accepted = kept.versions.filter((version) => same(key_of(kept.secret, hex, version), bearer[1]));
    return hex && accepted.length && reachable(hex) ? hex : '';
}

function reachable(hex) {
    return exists(`${RUNTIMES}/sockets/${hex}.sock`);
}

function exists(path) {
    try {
        fs.accessSync(path);
        return true;
    } catch (error) {
        return false;
    }
}

// $way_path: where the request goes at the agent, as sent, with its query.
function path(r) {
    const called = hook(r);
    return called ? `/webhooks/${called[3]}${called[4] || ''}` : sent(r)[2];
}

// $way_webhooks: address and port at which the agent takes webhooks; empty: this is none, or nobody's.
function webhooks(r) {
    try {
        const hex = hook(r) ? r.variables.way_user : '';
        return hex && fs.readFileSync(`${RUNTIMES}/webhooks/${hex}`, 'utf8');
    } catch (error) {
        return '';
    }
}

// $way_place: the same for the log, without a query.
function place(r) {
    return r.variables.way_user ? path(r).split('?')[0] : '';
}

// $way_authorization: what the agent asks for.
function authorization(r) {
    return `Bearer ${api_key_of(secrets().secret, r.variables.way_user)}`;
}

// Why the agent does not answer, in words for its callers.
function reason(hex) {
    let failed;
    try {
        failed = fs.readFileSync(`${RUNTIMES}/failed/${hex}`, 'utf8').trim().split(' ');
    } catch (error) {
        return 'The agent ended the connection without an answer';
    }
    const exited = /^[0-9]{1,3}$/.test(failed[1]) ? `it ended with exit status ${failed[1]}` : 'it ended too early';
    const why = failed[0] === 'exit-code' ? STATUSES[failed[1]] || exited : RESULTS[failed[0]];
    return `The agent could not be started: ${typeof why === 'string' ? why : 'see its log on the host'}`;
}

function say(r, status, type, message) {
    r.headersOut['Content-Type'] = 'application/json';
    if (status === 503) {
        r.headersOut['Retry-After'] = RETRY_AFTER;
    }
    r.return(status, JSON.stringify({error: {message: message, type: type}}) + '\n');
}

// For whatever is wrong with a call there is one answer: nobody learns which users there are.
function nobody(r) {
    if (secrets()) {
        say(r, 404, 'not_found', 'There is nothing here for this key');
    } else {
        say(r, 503, 'agent_unavailable', 'The proxy has no secret to check keys with');
    }
}

// The agent did not answer the call of its user.
function unavailable(r) {
    say(r, 503, 'agent_unavailable', reason(r.variables.way_user));
}

export default {
    hex_of, key_of, webhook_token_of, api_key_of, user, path, webhooks, place, authorization, nobody, unavailable
};
"""


def render(runtimes: str) -> str:
    """:param runtimes: directory with the sockets of the users, the secret, and why agents could not be started"""
    return (
        f"// Written by the Ansible collection alwayson.hermes.\nconst RUNTIMES = {json.dumps(runtimes)};\n{_PROGRAM}"
    )
