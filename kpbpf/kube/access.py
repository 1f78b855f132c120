"""Where the API server is, and who we are to it: a kubeconfig, or the pod's service account.

Everything about tokens, certificates, exec plugins and proxies is the kubernetes package's;
this says when it reads them again, and puts its errors into words. No request is made here.
"""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml
from kubernetes.client import ApiClient, Configuration
from kubernetes.config import ConfigException, load_kube_config
from kubernetes.config.incluster_config import InClusterConfigLoader

from kpbpf.errors import Fix
from kpbpf.kube.refusals import ApiRefused
from kpbpf.settings.settings import Api

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")

REREAD_SEC = 60.0
"""A kubeconfig that names a token file is read again after so long: projected tokens rotate.

The package does the same by itself for a service account and for what an exec plugin said
expires; anything else is read again when the server does not accept it any more.
"""

HOST_ENV, PORT_ENV = "KUBERNETES_SERVICE_HOST", "KUBERNETES_SERVICE_PORT"

# What the package raises for a kubeconfig that is not one, beside its own ConfigException.
_BROKEN = (
    ConfigException,
    yaml.YAMLError,
    OSError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
)


class Access:
    """The servers, our credentials, and a client of the package that holds both. Any thread.

    Fix when there is no way to know the server, or no valid credentials to begin with.
    """

    def __init__(self, api: Api, service_account: Path = SERVICE_ACCOUNT) -> None:
        self._api = api
        self._account = service_account
        self._lock = threading.Lock()
        self._masters = tuple(_url(master) for master in api.masters)
        try:
            self._load()
        except _BROKEN as error:
            raise self._unusable(error) from None

    @property
    def servers(self) -> tuple[str, ...]:
        """URLs of the API server, to be tried in turn."""
        return self._masters or (self._configuration.host.rstrip("/"),)

    @property
    def advice(self) -> str:
        """What to do when no server can be reached."""
        if self._api.kubeconfig is None and not self._masters:
            return (
                "if this is the address of the `kubernetes` Service, it cannot be reached before "
                "kpbpf itself has made that Service on this node: give --master, or the "
                f"environment {HOST_ENV} and {PORT_ENV}, the address of a real API server"
            )
        given = "--master" if self._masters else f"clusters[].server in {self._api.kubeconfig}"
        return f"is it up, and is {given} right?"

    def client(self) -> tuple[Any, dict[str, str]]:
        """The package's client as of now, and the headers that say who we are.

        ApiRefused when the credentials cannot be read again.
        """
        with self._lock:
            try:
                if self._reread and time.monotonic() - self._loaded > REREAD_SEC:
                    self._load()
                return self._client, self._headers()
            except _BROKEN as error:
                raise self._unreadable(error) from None

    def renew(self, refused: dict[str, str]) -> None:
        """Read the credentials again, unless others than the refused ones are here already."""
        with self._lock:
            try:
                if self._headers() == refused:
                    self._load()
            except _BROKEN as error:
                raise self._unreadable(error) from None

    # ---- inside -------------------------------------------------------------------------

    def _headers(self) -> dict[str, str]:
        settings = self._configuration.auth_settings().values()
        return {
            one["key"]: str(one["value"]).strip()
            for one in settings
            if one["in"] == "header" and one["value"]
        }

    def _load(self) -> None:
        configuration = Configuration()
        kubeconfig = self._api.kubeconfig
        self._reread = False
        if kubeconfig is not None:
            text = kubeconfig.read_text()
            load_kube_config(str(kubeconfig), None, configuration, persist_config=False)
            self._reread = "tokenFile" in text
            if configuration.host == Configuration().host and "localhost" not in text:
                raise ConfigException("the cluster of its current context has no server")
        elif not self._masters or (self._account / "token").exists():
            environ = _environ_of(self._masters[0]) if self._masters else os.environ
            token, ca = str(self._account / "token"), str(self._account / "ca.crt")
            InClusterConfigLoader(token, ca, environ=environ).load_and_set(configuration)
        if self._masters:
            configuration.host = self._masters[0]
        # The connections of an older client live on until they are closed.
        self._configuration, self._client = configuration, ApiClient(configuration)
        self._loaded = time.monotonic()

    def _unusable(self, error: Exception) -> Fix:
        kubeconfig = self._api.kubeconfig
        why = _why(error)
        if kubeconfig is not None:
            do = "give --kubeconfig a file that `kubectl --kubeconfig` works with"
            return Fix(f"kubeconfig {kubeconfig} cannot be used", why, do)
        if not self._masters and not os.environ.get(HOST_ENV):
            return Fix(
                "no API server is known",
                f"no kubeconfig and no --master are given, and this is no pod: {HOST_ENV} is not "
                "set",
                "give --kubeconfig FILE, or --master URL, or manifests alone without any of them",
            )
        return Fix(
            f"the pod's service account in {self._account} cannot be used",
            why,
            "let the pod have one (serviceAccountName, and automountServiceAccountToken not "
            "false), or give --kubeconfig FILE",
        )

    def _unreadable(self, error: Exception) -> ApiRefused:
        source = self._api.kubeconfig or self._account
        return ApiRefused(f"the credentials in {source} cannot be read again: {_why(error)}")


def _url(master: str) -> str:
    try:
        parts = urlsplit(master)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise Fix(
            f"--master {master} cannot be used",
            "it is not the URL of a server",
            "write it as https://ADDRESS:PORT, an IPv6 address in brackets",
        )
    return master.rstrip("/")


def _environ_of(url: str) -> dict[str, str]:
    """The environment that the package wants to see; the address itself is not used."""
    parts = urlsplit(url)
    return {HOST_ENV: parts.hostname or "", PORT_ENV: str(parts.port or 443)}


def _why(error: Exception) -> str:
    if isinstance(error, OSError):
        place = f"{error.filename}: " if error.filename else ""
        return f"{place}{error.strerror or error}"
    said = " ".join(str(error).split())
    return f"{type(error).__name__}: {said}" if isinstance(error, LookupError) else said
