# Copyright (c) 2026, the alwayson.hermes authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Calls to the API server of a cluster, with Kubernetes' own client, and its errors in words."""

from __future__ import annotations

import contextlib
import json
import os
import random
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, TypeVar

from ..hermes_ops.system.errors import OpsError
from ..hermes_ops.system.worker import parse
from .objects import MANAGER

try:
    import urllib3
    import websocket
    import yaml
    from kubernetes import client, config
    from kubernetes.client.exceptions import ApiException
    from kubernetes.dynamic import DynamicClient
    from kubernetes.dynamic.exceptions import DynamicApiError, NotFoundError
    from kubernetes.stream import stream
except ImportError:
    client = None

# Calls that are under way at one time.
CALLS = 8
# Seconds for one call, and objects in one page of a list.
_TIMEOUT, _PAGE = 60, 500
# Bytes of what a node says of its pods.
_MEASURED = 32 * 2**20
# Calls that are repeated, with longer and longer pauses, which the server may ask for (Retry-After).
_AGAIN = (429, 500, 502, 503, 504)
_ATTEMPTS = 6
# The status of a server that has too much to do, and how often as many calls are made then.
_TOO_MANY, _ROUNDS = 429, 5

_Result = TypeVar("_Result")


class Unreachable(OpsError):
    """The API server does not answer, or does not know who we are. No other call would fare better."""


def at_once(
    names: Iterable[str], act: Callable[[str], _Result]
) -> Iterator[tuple[str, _Result | None, OpsError | None]]:
    """Call *act* with each of *names*, some of them at a time. If the cluster is gone, the rest is not tried.

    :returns: each name, with what *act* returned or its error
    """
    gone: list[Unreachable] = []

    def one(name: str) -> tuple[str, _Result | None, OpsError | None]:
        try:
            if gone:
                raise gone[0]
            return name, act(name), None
        except OpsError as error:
            if isinstance(error, Unreachable):
                gone.append(error)
            return name, None, error

    with ThreadPoolExecutor(CALLS) as pool:
        yield from pool.map(one, names)


class Changed(OpsError):
    """The object is not what it was when it was looked at."""


class NotAllowed(OpsError):
    """The login lacks the right."""


class Cluster:
    """A namespace of a cluster. Its methods may be called from several threads.

    :param kubeconfig: path of a kubeconfig; empty: as kubectl finds it
    :param context: of the kubeconfig; empty: its current one
    :param namespace: that of the tenants; objects without a namespace are the cluster's
    :raises OpsError: there is no such login
    """

    def __init__(self, kubeconfig: str, context: str, namespace: str) -> None:
        if client is None:
            raise OpsError(
                "is missing", where="Python's package kubernetes", fix="pip install kubernetes, where Ansible is"
            )
        self.namespace = namespace
        # Called before each write; it raises an error if none may be made any more.
        self.fence: Callable[[], None] | None = None
        self._configuration = configuration = client.Configuration()
        try:
            config.load_kube_config(kubeconfig or None, context or None, configuration)
        # The client lets through what it meets in a file that is none.
        except (config.ConfigException, OSError, ValueError, TypeError, AttributeError, yaml.YAMLError) as error:
            said = " ".join(str(error).split())
            where = kubeconfig or "the kubeconfig"
            raise Unreachable(f"cannot be used: {said}", where=where, fix="name another, or its context") from None
        configuration.connection_pool_maxsize = CALLS
        configuration.retries = urllib3.Retry(
            total=_ATTEMPTS, status_forcelist=_AGAIN, allowed_methods=None, backoff_factor=0.2, raise_on_status=False
        )
        with contextlib.ExitStack() as stack, self._told("the cluster"):
            # It keeps what the server can do in a file, by default one that others could have put there.
            files = stack.enter_context(tempfile.TemporaryDirectory(prefix="hermes-tenants-"))
            calls = client.ApiClient(configuration)
            stack.callback(calls.close)
            self._client = DynamicClient(calls, cache_file=os.path.join(files, "resources.json"))
            self._open = stack.pop_all()

    def __enter__(self) -> Cluster:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()

    def get(self, api: str, kind: str, name: str) -> dict[str, Any] | None:
        """The object; None: there is none."""
        with self._told(f"{kind} {name}"):
            return self._ask_for("get", api, kind, name=name)

    def all(self, api: str, kind: str, selector: str = "") -> dict[str, dict[str, Any]]:
        """The objects of a kind in the namespace, by name."""
        return {each["metadata"]["name"]: each for each in self._listed(api, kind, label_selector=selector)}

    def selected(self, api: str, kind: str, fields: str) -> list[dict[str, Any]]:
        """The objects of a kind in the namespace whose *fields* are as given.

        :param fields: a selector of fields, of those that the server knows for this kind
        """
        return list(self._listed(api, kind, field_selector=fields))

    def everywhere(self, api: str, kind: str) -> list[dict[str, Any]]:
        """The objects of a kind in all namespaces.

        :raises NotAllowed: the login may not see them
        """
        return list(self._listed(api, kind, namespace=None))

    def _listed(self, api: str, kind: str, **words: Any) -> Iterator[dict[str, Any]]:
        page = ""
        with self._told(f"each {kind}"):
            while True:
                asked = {name: value for name, value in {**words, "_continue": page}.items() if value != ""}
                answer = self._ask("get", api, kind, limit=_PAGE, **asked)
                yield from answer.get("items", ())
                page = answer.get("metadata", {}).get("continue", "")
                if not page:
                    return

    def measured(self, node: str) -> Any:
        """What the kubelet of a *node* measures of pods and their volumes (its API ``stats/v1alpha1``), in whatever
        form: nobody else has looked at it.

        :raises OpsError: it does not answer, or this login may not ask
        """
        with self._told(f"Node {node}"):
            path = f"/api/v1/nodes/{node}/proxy/stats/summary"
            answer = self._client.request("get", path, serialize=False, _request_timeout=_TIMEOUT)
            said, deadline = bytearray(), time.monotonic() + _TIMEOUT
            try:
                for piece in answer.stream():
                    said += piece
                    if len(said) > _MEASURED or time.monotonic() > deadline:
                        raise OpsError("says too much, or too slowly", where=f"Node {node}", fix="see its kubelet")
            finally:
                answer.close()
            return parse(bytes(said))

    def create(self, wanted: dict[str, Any]) -> None:
        """Make the object *wanted*.

        :raises Changed: it is there
        """
        kind, name = wanted["kind"], wanted["metadata"]["name"]
        with self._told(f"{kind} {name}"):
            self._ask("create", wanted["apiVersion"], kind, body=wanted)

    def apply(self, wanted: dict[str, Any], *, check: bool) -> None:
        """Have the fields of *wanted* in the object of that name, and leave all others alone.

        :param check: have the server only say whether it would
        :raises OpsError: it refuses, or somebody else changes one of the fields, too
        """
        kind, name = wanted["kind"], wanted["metadata"]["name"]
        more = {"dry_run": "All"} if check else {}
        with self._told(f"{kind} {name}"):
            self._ask("server_side_apply", wanted["apiVersion"], kind, body=wanted, field_manager=MANAGER, **more)

    def annotate(self, found: dict[str, Any], api: str, kind: str, name: str, value: str | None) -> None:
        """Set an annotation of the object *found*; None removes it."""
        self.patch(found, api, kind, {"metadata": {"annotations": {name: value}}})

    def patch(self, found: dict[str, Any], api: str, kind: str, body: dict[str, Any], *, check: bool = False) -> None:
        """Merge *body* into the object *found*. If *body* has its resourceVersion, nobody changed the object meanwhile.

        :param check: have the server only say whether it would
        """
        where = found["metadata"]["name"]
        more = {"dry_run": "All"} if check else {}
        with self._told(f"{kind} {where}"):
            self._ask("patch", api, kind, name=where, body=body, content_type="application/merge-patch+json", **more)

    def delete(self, found: dict[str, Any], api: str, kind: str) -> None:
        """Remove just the object *found*, not one of the same name that somebody made meanwhile."""
        metadata = found["metadata"]
        body = {"preconditions": {"uid": metadata["uid"]}, "propagationPolicy": "Background"}
        with self._told(f"{kind} {metadata['name']}"):
            self._ask_for("delete", api, kind, name=metadata["name"], body=body)

    def execute(self, pod: str, container: str, command: list[str]) -> websocket.WebSocket:
        """Start *command* in a container. What goes in and out has a channel's number in front (channel.k8s.io).

        The stream is the caller's to close.
        """
        # The client takes it from there only.
        websocket.setdefaulttimeout(_TIMEOUT)
        # A client of its own: while it connects, it cannot be used by another thread.
        with client.ApiClient(self._configuration) as calls:
            method = client.CoreV1Api(calls).connect_get_namespaced_pod_exec
            streams = dict.fromkeys(("stdin", "stdout", "stderr"), True)
            words = {"container": container, "command": command, **streams, "tty": False}
            try:
                return stream(method, pod, self.namespace, **words, _preload_content=False).sock
            except ApiException as error:
                raise _refused(error, f"Pod {pod}") from None

    def _ask_for(self, verb: str, api: str, kind: str, **words: Any) -> dict[str, Any] | None:
        """Like :meth:`_ask`, for what may not be there; None: it is not."""
        try:
            return self._ask(verb, api, kind, **words)
        except NotFoundError:
            return None

    def _ask(self, verb: str, api: str, kind: str, **words: Any) -> dict[str, Any]:
        if verb != "get" and self.fence:
            self.fence()
        resource = self._client.resources.get(api_version=api, kind=kind)
        if resource.namespaced:
            words.setdefault("namespace", self.namespace)
        left = _ROUNDS
        while True:
            left -= 1
            try:
                answer = getattr(self._client, verb)(resource, serialize=False, _request_timeout=_TIMEOUT, **words)
                return json.loads(answer.data)
            except DynamicApiError as error:
                if error.status != _TOO_MANY or not left:
                    raise
                # All calls come again at the second that the server asks for, and the same one may come last each time.
                time.sleep(random.random())

    @contextlib.contextmanager
    def _told(self, where: str) -> Iterator[None]:
        """Errors of the client are ours, about *where*."""
        try:
            yield
        except DynamicApiError as error:
            raise _error(error, where) from None
        except urllib3.exceptions.HTTPError as error:
            raise Unreachable(
                f"does not answer: {getattr(error, 'reason', error)}",
                where="the API server",
                fix="see to it that it runs",
            ) from None


def _error(error: DynamicApiError, where: str) -> OpsError:
    try:
        message = str(json.loads(error.body)["message"])
    except (ValueError, KeyError, TypeError):
        message = str(error.reason)
    if error.status == 401:
        return Unreachable("is not accepted", where="the login of the kubeconfig", fix="renew it")
    if error.status == 403 and "exceeded quota" in message:
        return OpsError(f"is refused: {message}", where=where, fix="raise the quota, or declare less")
    if error.status == 403:
        return NotAllowed(f"is not allowed: {message}", where=where, fix="give the login this right")
    if error.status == 409 and "conflict" in message.lower():
        return OpsError(
            f"is changed by somebody else, too: {message}",
            where=where,
            fix="have them leave it, or declare it so that both want the same",
        )
    if error.status == 409:
        return Changed(f"was changed meanwhile: {message}", where=where, fix="run this again")
    if error.status == _TOO_MANY or error.status >= 500:
        return OpsError(f"failed in the API server: {message}", where=where, fix="run this again, when it is well")
    return OpsError(f"is refused: {message}", where=where, fix="correct what is declared")


def _refused(error: ApiException, where: str) -> OpsError:
    """Why a stream was not opened. The client keeps the answer of the server only as the cause of its error."""
    cause = error.__context__
    if not isinstance(cause, websocket.WebSocketBadStatusException):
        return Unreachable(
            f"does not answer: {cause or error.reason}", where="the API server", fix="see to it that it runs"
        )
    answer = ApiException(status=cause.status_code, reason=f"status {cause.status_code}")
    answer.body = cause.resp_body
    return _error(answer, where)
