"""Whatever happens, in any order: the maps become what the API says, and harm nobody on the way."""

from __future__ import annotations

import os
import signal

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.cluster.apiserver import ApiServer
from tests.cluster.behaviour import Behaviour
from tests.cluster.daemon import Cluster
from tests.cluster.inside import Inside
from tests.cluster.interleaving import ROCK, Act, acts, begin, end, happen
from tests.lab.agent import until

REAL_EXAMPLES = max(4, int(os.environ.get("KPBPF_EXAMPLES", "0")) // 20)
LONGEST_PAUSE_SEC = 60.0
"""Who failed often asks again after half a minute."""


@given(acts=acts("restart", "work", "work", "work"), bookmark_sec=st.sampled_from([0.01, 60.0]))
def test_the_maps_become_what_a_compile_from_scratch_makes(
    acts: list[Act], bookmark_sec: float
) -> None:
    behaviour = Behaviour(fresh_wait_sec=0.05, bookmark_sec=bookmark_sec)
    with ApiServer(tls=False, behaviour=behaviour) as server:
        begin(server)
        node = Inside(server)
        try:
            node.converges()
            for act in acts:
                if act.what == "restart":
                    node.restart()
                elif act.what == "work":
                    node.work()
                else:
                    happen(server, act)
                assert ROCK in node.lines()
            end(server)
            node.converges()
        finally:
            node.close()


@settings(max_examples=REAL_EXAMPLES, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(acts=acts("restart", "kill"))
def test_so_they_do_with_a_real_process_and_real_maps(resting: Cluster, acts: list[Act]) -> None:
    resting.have_none()
    resting.reset()
    begin(resting.server)
    resting.start()
    for act in acts:
        if act.what in ("restart", "kill"):
            resting.stop(signal.SIGTERM if act.what == "restart" else signal.SIGKILL)
            resting.kpbpf.launch()
        else:
            happen(resting.server, act)
        until(lambda: ROCK in resting.lines(), "a Service that nobody touched is there", 1)
    end(resting.server)
    resting.converges(LONGEST_PAUSE_SEC)
