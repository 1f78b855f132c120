"""A daemon that starts while a manifest cannot be read takes nobody's backends away."""

from __future__ import annotations

from tests.lab.agent import until
from tests.lab.lab import Lab, LabService
from tests.lab.manifests import Endpoint
from tests.lab.sockets import ask_tcp

BROKEN = "kind: Service\nmetadata: [this is: not YAML\n"


def test_a_file_that_is_broken_at_a_restart_harms_nobody_until_it_is_mended(
    lab: Lab, family: int
) -> None:
    def server(service: LabService) -> str:
        return ask_tcp(lab.client, service.addresses[family], service.port).server

    with lab.service(lab.a) as broken, lab.service(lab.a) as removed, lab.service(lab.a) as other:
        lab.kpbpf.stop()
        broken.path.write_text(BROKEN)
        removed.path.unlink()
        lab.kpbpf.start()
        assert server(broken) == server(removed) == "pod-a"
        other.put(lab.b)
        assert server(other) == "pod-b"
        assert "left as before" in lab.kpbpf.cli("status").stdout
        broken.write([Endpoint(lab.b)])
        broken.settle()
        assert server(broken) == "pod-b"
        until(lambda: removed.backends(family, "TCP") is None, "the removed Service is gone")
        until(lambda: "left as before" not in lab.kpbpf.cli("status").stdout, "status forgets it")
