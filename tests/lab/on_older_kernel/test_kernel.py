"""Older kernel, same programs: the verifier of 6.1 takes them, and clsact carries them."""

from __future__ import annotations

import json
import os

from tests.lab.lab import Lab


def test_this_is_the_debian_kernel() -> None:
    assert os.uname().release.startswith("6.1.")


def test_every_program_passes_the_verifier_and_is_attached_by_clsact(lab: Lab) -> None:
    veth = lab.client.host_ifname
    for direction in ("ingress", "egress"):
        shown = lab.world.node.run("tc", "-j", "filter", "show", "dev", veth, direction)
        ours = [filter_["options"] for filter_ in json.loads(shown) if "options" in filter_]
        assert len(ours) == 1
        assert ours[0]["direct-action"]
        assert ours[0]["prog"]["jited"]
    print(lab.kpbpf.ask("prog", "ls"))
