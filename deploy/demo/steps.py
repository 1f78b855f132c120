"""The steps of the demo: what is done, shown and seen in each.

A step prints the commands it runs and returns a sentence of what was seen; it raises where what
it promises does not hold. In which order they come is run.py's, what runs meanwhile cluster.py's.
"""

from __future__ import annotations

import shutil
import socket
import textwrap
import time
from collections import Counter

from deploy.demo.cluster import (
    DIRECTORY,
    MANIFESTS,
    PREFIX,
    DemoApi,
    DemoKpbpf,
    ask,
    serve_in_child,
)
from kpbpf.datapath.attach import Attachment, attachments
from maps.abi import ABI_VERSION
from tests.lab.agent import ROOT, until
from tests.lab.sockets import Answer, Download, ask_tcp
from tests.lab.world import Place, World

WEB = {4: "10.96.0.10", 6: "fd96::10"}
IDLE = {4: "10.96.0.20", 6: "fd96::20"}
HAIRPIN = {4: "169.254.107.112", 6: "fd6b:7062:7066::1"}
LEAVING = ("10.42.0.4", "fd42::4")  # the endpoint that is taken out: pod web-2
APPLY = ".venv/bin/python deploy/demo/run.py --apply"
NODE_PORT, HEALTH_PORT, METRICS_PORT = 30080, 10256, 10249
METRICS = (
    "kubeproxy_sync_proxy_rules_endpoint_changes_total",
    "kpbpf_reflector_lists_total",
    "kpbpf_endpoints",
)
OUTAGE_SEC = 2.0
SOON_SEC = 15.0
SHOWN_LINES = 9


class Steps:
    """The parts of one demo, and what is done with them."""

    def __init__(self, keep: bool) -> None:
        self.keep = keep
        self.world = World(PREFIX)
        self.api = DemoApi(self.world)
        self.kpbpf = DemoKpbpf(self.world, DIRECTORY)
        self.kpbpf.outlives = keep

    # ---- what there must be -------------------------------------------------------------------

    def make_pods(self) -> str:
        """The World, three pods, and what answers in them."""
        self.world.build()
        for name in ("client", "web-1", "web-2"):
            pod = self.world.add_pod(name)
            say(f"{pod.name:<10} {pod.addresses[4]:<13} {pod.addresses[6]}")
        remote = self.world.remote.addresses
        say(f"{'remote':<10} {remote[4]:<13} {remote[6]}")
        serve_in_child(self.world, self.keep)
        return "three pods on plain veth; servers in two of them and on the remote side"

    def start_api(self) -> str:
        """The API server, with the objects of the manifests."""
        say("There is no cluster on this machine. An API server of kpbpf's own, from its tests,")
        say("plays it: lists, watches, TLS, tokens and RBAC as the real one's. It runs on the")
        say("remote side, and knows the daemon by the rights that deploy/base/rbac.yaml gives it.")
        for source in sorted(MANIFESTS.glob("*.yaml")):
            shutil.copy(source, self.kpbpf.manifests)
        files = sorted(self.kpbpf.manifests.glob("*.yaml"))
        argv = self.api.start(files, self.keep)
        say_long(["nsenter", f"--net={self.world.remote.netns}", *argv])
        self.kpbpf.kubeconfig = self.api.told["kubeconfig"]
        held = ", ".join(
            f"{len(self.api.objects(resource))} {resource}"
            for resource in ("pods", "services", "endpointslices")
        )
        return f"{self.api.told['url']} is ready, with {held}"

    def start_daemon(self) -> str:
        """kpbpf, as an operator starts it."""
        self._say_run()
        start = time.monotonic()
        self.kpbpf.start()
        took = time.monotonic() - start
        return f"in sync: programs compiled and loaded, Services in the kernel, in {took:.1f} s"

    def _say_run(self) -> None:
        say(f"$ kpbpf run {' '.join(self.kpbpf.sources())}")

    def find_pods(self) -> str:
        """Nobody attached them: the daemon found them by what the API says."""
        expected = {f"default/{name}": "route" for name in self.world.pods}

        def found() -> dict[str, str]:
            return {row["pod"]: row["found"] for row in self.kpbpf.rows("ep", "ls")}

        until(lambda: found() == expected, "the pods are found", SOON_SEC)
        self._show("ep", "ls")
        return "of each pod the interface was found, by the node's routes, and is served"

    # ---- traffic ---------------------------------------------------------------------------

    def reach(self) -> str:
        """A pod asks a Service."""
        for family, address in WEB.items():
            answers = self._ask(address)
            seen = Counter(answer.server for answer in answers)
            shares = ", ".join(f"{server} {times}" for server, times in sorted(seen.items()))
            say(f"60 connections to {address} port 80, answered by: {shares}")
            assert set(seen) == {"pod-web-1", "pod-web-2", "remote"}, seen
            clients = {answer.client for answer in answers}
            assert clients == {self.world.pods["client"].addresses[family]}, clients
        return "every backend answers, and sees the client's own address"

    def hairpin(self) -> str:
        """A pod asks its own Service."""
        for family, address in WEB.items():
            answers = self._ask(address, "web-1")
            clients = {answer.client for answer in answers if answer.server == "pod-web-1"}
            say(f"web-1 -> {address} -> web-1, which sees {' '.join(clients)}")
            assert clients == {HAIRPIN[family]}, answers
        return "the pod is its own backend, and sees the hairpin address as its client"

    def refused(self) -> str:
        """A pod asks a Service that has nobody to answer."""
        for address in IDLE.values():
            start = time.monotonic()
            try:
                ask_tcp(self.world.pods["client"], address, 80)
            except ConnectionRefusedError as error:
                took = time.monotonic() - start
                say(f"connect to {address} port 80: {error.strerror}, after {took * 1000:.1f} ms")
                assert took < 0.5
            else:
                raise AssertionError("the connection was accepted")
        return "the client need not wait for a time-out"

    def from_outside(self) -> str:
        """A client outside the cluster asks a NodePort."""
        remote, node = self.world.remote, self.world.node
        for family, address in node.addresses.items():
            answers = [ask_tcp(remote, address, NODE_PORT) for _ in range(60)]
            seen = {answer.server: answer.client for answer in answers}
            for server, client in sorted(seen.items()):
                say(f"remote -> {address} port {NODE_PORT} -> {server}, which sees {client}")
            clients = dict.fromkeys(("pod-web-1", "pod-web-2"), remote.addresses[family])
            assert seen == {**clients, "remote": address}, seen
        return "pods of this node see the client itself, another node's see this node"

    def from_node(self) -> str:
        """A process of the node asks the Service, and its NodePort."""
        node = self.world.node
        places = [(address, 80) for address in WEB.values()]
        places += [(address, NODE_PORT) for address in (*node.addresses.values(), "127.0.0.1")]
        for address, port in places:
            family = 6 if ":" in address else 4
            with node.socket(family, socket.SOCK_STREAM) as client:
                client.connect((address, port))
                client.sendall(b"who\n")
                server, _, _ = client.makefile("rb").readline().decode().partition(" ")
                peer = client.getpeername()[:2]
            say(f"node -> {address} port {port} -> {server}; getpeername: {peer[0]} port {peer[1]}")
            assert server in ("pod-web-1", "pod-web-2", "remote"), server
            assert peer == (address, port), peer
        return "it got its backend as it connected; its packets need no translation"

    # ---- changes ---------------------------------------------------------------------------

    def remove_endpoint(self) -> str:
        """An endpoint is taken out of its EndpointSlices."""
        path = self.kpbpf.manifests / "web.yaml"
        lines = path.read_text().splitlines(keepends=True)
        say(f"$ sed -i '/10.42.0.4/d; /fd42::4/d' {path}")
        path.write_text("".join(line for line in lines if not any(ip in line for ip in LEAVING)))
        say(f"$ {APPLY} {path}")
        self.api.apply(path)
        took = self._has_backends(2)
        self._asks({"pod-web-1", "remote"})
        return f"in the kernel {took * 1000:.0f} ms later; web-2 is not asked any more"

    def lose_api(self) -> str:
        """The API server is out of reach for a while, and something changes meanwhile."""
        client, path = self.world.pods["client"], self.kpbpf.manifests / "web.yaml"
        before = len(self.kpbpf.log_file.read_text())
        with Download(client, WEB[4], 80) as download:
            say("The API server closes its port and drops every connection. The daemon's log:")
            self.api.order("/refuse", {})
            self.api.order("/drop", {})
            until(lambda: bool(self._log_line("cannot be reached", before)), "a word", SOON_SEC)
            say(self._log_line("cannot be reached", before))
            shutil.copy(MANIFESTS / path.name, path)
            say("Behind its closed door web-2 becomes an endpoint again:")
            say(f"$ {APPLY} {path}")
            self.api.apply(path)
            health = ask(self.world.node, HEALTH_PORT, "/healthz")
            say(f"$ curl http://127.0.0.1:{HEALTH_PORT}/healthz        # {health.code}")
            assert health.code == 200, health
            self._asks({"pod-web-1", "remote"})
            assert download.grows(), f"the download stopped: {download.fault}"
            say("A download goes on, new connections are answered, as if nothing had happened.")
            time.sleep(OUTAGE_SEC)
            say("The API server opens its port again.")
            self.api.order("/accept", {})
            took = self._has_backends(3)
            assert download.grows(), f"the download stopped: {download.fault}"
            assert not download.fault, download.fault
        self._asks({"pod-web-1", "pod-web-2", "remote"})
        return f"what changed meanwhile is in the kernel {took:.1f} s after its return"

    def restart(self) -> str:
        """The daemon ends and starts while a pod downloads."""
        assert self.kpbpf.daemon is not None
        with Download(self.world.pods["client"], WEB[4], 80) as download:
            assert download.grows(), f"no download: {download.fault}"
            before = download.received
            say(f"$ kill {self.kpbpf.daemon.pid}")
            self.kpbpf.stop()
            assert download.grows(), f"stopped while the daemon was down: {download.fault}"
            down = download.received
            self._say_run()
            self.kpbpf.start()
            assert download.grows(), f"stopped after the restart: {download.fault}"
        say(f"{before:,} bytes before, {down - before:,} without a daemon,")
        say(f"{download.received - down:,} after. The daemon's log:")
        say(self._log_line("in sync after"))
        assert not download.fault, download.fault
        return "every byte was the right one"

    def remove_programs(self) -> str:
        """Somebody takes kpbpf's programs off a pod's interface."""
        pod = self.world.pods["web-1"]
        told = len(self.api.events("ProgramsRestored"))
        victim = next(one for one in self._attached(pod) if one.program == "from_pod")
        if victim.mechanism == "tcx":
            links = self.kpbpf.home.links_dir(ABI_VERSION)
            pin = links / f"{victim.ifindex}-{victim.program}"
            command = ["bpftool", "link", "detach", "pinned", str(pin)]
        else:
            command = ["tc", "filter", "del", "dev", pod.host_ifname, "ingress"]
        say(f"$ {' '.join(command)}")
        self.world.node.run(*command)
        took = until(
            lambda: all(one.program_id for one in self._attached(pod)), "they are back", SOON_SEC
        )
        until(lambda: len(self.api.events("ProgramsRestored")) > told, "an Event", SOON_SEC)
        event = self.api.events("ProgramsRestored")[-1]
        regarding = event["regarding"]
        say(f"{event['type']} {event['reason']} {regarding['kind']} {regarding['name']}:")
        say(event["note"])
        self._asks({"pod-web-1", "pod-web-2", "remote"}, "web-1")
        return f"back after {took * 1000:.0f} ms, and the Event is at the API server"

    # ---- what there is to see -----------------------------------------------------------------

    def look(self) -> str:
        """The listings, the account of health, and metrics."""
        client = self.world.pods["client"].addresses[4]
        self._show("svc", "ls", has=("default/web:http", WEB[4], WEB[6], "default/idle:http"))
        self._show("flow", "ls", has=(client, WEB[4]), lines=4)
        self._show("drop", "ls", has=("no_backend", IDLE[4], IDLE[6]))
        until(lambda: self.kpbpf.cli("status").returncode == 0, "all is well", SOON_SEC)
        self._show("status", has=("API server",), lines=8)
        names = "|".join(METRICS)
        say(f"$ curl -s http://127.0.0.1:{METRICS_PORT}/metrics | grep -E '^({names})'")
        text = ask(self.world.node, METRICS_PORT, "/metrics").text
        lines = [line for line in text.splitlines() if line.startswith(METRICS)]
        for line in lines:
            say(line)
        assert all(any(line.startswith(name) for line in lines) for name in METRICS), lines
        print()
        return "Services, connections, drops and health are told by name"

    def _show(self, *command: str, has: tuple[str, ...] = (), lines: int = SHOWN_LINES) -> None:
        """Print what a command says, in full or its begin."""
        say(f"$ kpbpf {' '.join(command)}")
        shown = self.kpbpf.ask(*command)
        rows = shown.splitlines()
        for row in rows[:lines]:
            say(row)
        if len(rows) > lines:
            say(f"... and {len(rows) - lines} more")
        print()
        missing = [word for word in has if word not in shown]
        assert not missing, f"kpbpf {' '.join(command)} does not show {missing}"

    # ---- what is seen ---------------------------------------------------------------------------

    def _ask(self, address: str, client: str = "client") -> list[Answer]:
        return [ask_tcp(self.world.pods[client], address, 80) for _ in range(60)]

    def _asks(self, servers: set[str], client: str = "client") -> None:
        """Whether these answer, and only these, in both families."""
        for address in WEB.values():
            seen = {answer.server for answer in self._ask(address, client)}
            assert seen == servers, seen

    def _has_backends(self, count: int) -> float:
        """Wait until the Service has so many in both families; how many seconds that took."""
        return until(
            lambda: all(
                len(self.kpbpf.backends(address, 80, "TCP") or ()) == count
                for address in WEB.values()
            ),
            f"the Service has {count} backends",
            SOON_SEC,
        )

    def _log_line(self, words: str, start: int = 0) -> str:
        """The last line of the daemon's log behind `start` with these words; "": there is none."""
        lines = self.kpbpf.log_file.read_text()[start:].splitlines()
        return next((line for line in reversed(lines) if words in line), "")

    def _attached(self, pod: Place) -> list[Attachment]:
        with self.world.node.inside():
            index = socket.if_nametoindex(pod.host_ifname)
            return [one for one in attachments(self.kpbpf.home) if one.ifindex == index]


def say(text: str) -> None:
    """Print a line of a step."""
    print(f"   {text}".rstrip(), flush=True)


def say_long(argv: list[str]) -> None:
    """Print a command on as many lines as it needs; paths are as seen from the repository."""
    command = " ".join(argv).replace(f"{ROOT}/", "")
    lines = textwrap.wrap(command, 94, break_long_words=False, break_on_hyphens=False)
    say("$ " + " \\\n        ".join(lines))
