"""What is remembered of a connection: states, time-outs, partners, and being judged again."""

from __future__ import annotations

import pytest

from kpbpf import address
from maps.abi import Flow, FlowFlag, State, Step
from tests.datapath.node import SECOND, TIMEOUTS, Node, coarse_now_ns
from tests.datapath.packets import CLIENT_SEQ, SERVER_SEQ, End, Net, Talk


def known(node: Node, talk: Talk, backend: str) -> tuple[Talk, Talk]:
    """Open a connection to a Service of one backend; return both views of it."""
    node.serve(talk.dst, [End(backend, talk.dst.port)], talk.proto)
    node.from_pod(node.client, talk.opening())
    return talk, talk.to(backend, talk.dst.port)


def found(node: Node, talk: Talk) -> Flow:
    flow = node.flow(talk)
    assert flow, f"no record of {talk}"
    return flow


def states(node: Node, *talks: Talk) -> set[str]:
    """The states of records, one word if all agree."""
    return {State(found(node, talk).state).name for talk in talks}


# ---- what a record says -------------------------------------------------------------------


def test_alias_names_the_backend_and_record_names_the_service(
    node: Node, net: Net, proto: str
) -> None:
    service = node.serve(End(net.service, 80), [End(net.server, 80)], proto)
    talk = net.to_service(proto)
    node.from_pod(node.client, talk.opening())
    alias, record = found(node, talk), found(node, talk.to(net.server, 80))
    assert alias.nat_addr == address.from_text(net.server)
    assert record.nat_addr == address.from_text(net.service)
    assert alias.flags & FlowFlag.ALIAS
    assert not record.flags & FlowFlag.ALIAS
    for flow in (alias, record):
        assert (flow.nat_port, flow.client_port, flow.service) == (80, 40000, service)
        assert flow.flags & FlowFlag.TRANSLATED
        assert (flow.client_ifindex, flow.backend_ifindex) == (
            node.client.ifindex,
            node.server.ifindex,
        )
        assert address.mac_text(flow.client_mac) == node.client.mac
        assert address.mac_text(flow.backend_mac) == node.server.mac
        assert abs(flow.last_seen_ns - coarse_now_ns()) < SECOND


def test_connection_from_elsewhere_is_remembered_on_entering_the_pod(
    node: Node, net: Net, proto: str
) -> None:
    talk = net.talk(proto, End(net.outside, 5000), End(net.server, 80))
    node.to_pod(node.server, talk.opening()).expect("direct", talk.opening())
    flow = found(node, talk)
    assert (flow.client_ifindex, flow.backend_ifindex) == (0, node.server.ifindex)
    result = node.from_pod(node.server, talk.answer())
    result.expect("direct", talk.answer())
    assert Step.FLOW_KNOWN in result.steps
    assert node.flow_count() == 1


def test_replies_to_what_the_stack_brought_never_take_the_fast_path(
    node: Node, net: Net, proto: str
) -> None:
    """A hostPort's address translation, by others, sees both ways: also once judged again."""
    talk = net.talk(proto, End(net.client, 5000), End(net.server, 80))
    node.to_pod(node.server, talk.opening()).expect("direct", talk.opening())
    for _ in range(2):
        node.from_pod(node.server, talk.answer()).expect("direct", talk.answer())
        node.raise_epoch(udp=proto == "UDP")
    assert Step.FLOW_JUDGED_AGAIN in node.from_pod(node.server, talk.answer()).steps
    # The other pod itself, straight: then nobody has translated anything.
    result = node.from_pod(node.client, talk.more())
    result.expect("direct", talk.more(), into=node.server)
    result = node.from_pod(node.server, talk.answer())
    result.expect("direct", talk.answer(), into=node.client)


# ---- states -------------------------------------------------------------------------------


def test_tcp_connection_from_syn_to_the_second_fin(node: Node, net: Net) -> None:
    talk, inside = known(node, net.to_service(), net.remote)
    both = (talk, inside)
    assert states(node, *both) == {"TCP_NEW"}
    node.to_pod(node.client, inside.answer())
    assert states(node, *both) == {"TCP_ESTABLISHED"}
    node.from_pod(node.client, talk.tcp("FA", seq=CLIENT_SEQ + 1, ack=SERVER_SEQ + 1))
    assert states(node, *both) == {"TCP_ESTABLISHED"}
    assert all(found(node, view).flags & FlowFlag.CLIENT_FIN for view in both)
    node.to_pod(node.client, inside.back.tcp("FA", seq=SERVER_SEQ + 1, ack=CLIENT_SEQ + 2))
    assert states(node, *both) == {"TCP_CLOSING"}
    assert all(found(node, view).flags & FlowFlag.BACKEND_FIN for view in both)


@pytest.mark.parametrize("by", ["client", "backend"])
def test_reset_closes_both_records(node: Node, net: Net, by: str) -> None:
    talk, inside = known(node, net.to_service(), net.remote)
    node.to_pod(node.client, inside.answer())
    if by == "client":
        node.from_pod(node.client, talk.tcp("R"))
    else:
        node.to_pod(node.client, inside.back.tcp("R"))
    assert states(node, talk, inside) == {"TCP_CLOSING"}


def test_data_after_a_stray_reset_goes_on(node: Node, net: Net) -> None:
    talk, inside = known(node, net.to_service(), net.remote)
    node.to_pod(node.client, inside.answer())
    node.to_pod(node.client, inside.back.tcp("R", seq=1))
    node.idle(2)
    node.from_pod(node.client, talk.more()).expect("to_backend", inside.more())
    assert states(node, talk, inside) == {"TCP_ESTABLISHED"}


def test_syn_on_a_closing_connection_starts_anew(node: Node, net: Net) -> None:
    talk, _ = known(node, net.to_service(), net.remote)
    node.from_pod(node.client, talk.tcp("R"))
    node.serve(talk.dst, [End(net.second_remote, 80)])
    fresh = talk.to(net.second_remote, 80)
    result = node.from_pod(node.client, talk.opening())
    result.expect("to_backend", fresh.opening())
    assert Step.FLOW_EXPIRED in result.steps
    assert states(node, talk, fresh) == {"TCP_NEW"}


def test_repeated_syn_keeps_its_backend(node: Node, net: Net) -> None:
    talk, inside = known(node, net.to_service(), net.remote)
    node.serve(talk.dst, [End(net.second_remote, 80)])
    node.from_pod(node.client, talk.opening()).expect("to_backend", inside.opening())


def test_udp_becomes_a_stream_when_answered(node: Node, net: Net) -> None:
    talk, inside = known(node, net.to_service("UDP"), net.remote)
    node.from_pod(node.client, talk.more())
    assert states(node, talk, inside) == {"UDP_NEW"}
    node.to_pod(node.client, inside.answer())
    assert states(node, talk, inside) == {"UDP_STREAM"}


def test_sctp_is_established_by_its_answer_and_closed_by_abort(node: Node, net: Net) -> None:
    talk, inside = known(node, net.to_service("SCTP"), net.remote)
    assert states(node, talk, inside) == {"SCTP_NEW"}
    node.to_pod(node.client, inside.answer())
    assert states(node, talk, inside) == {"SCTP_ESTABLISHED"}
    node.from_pod(node.client, talk.sctp_abort()).expect("to_backend", inside.sctp_abort())
    assert states(node, talk, inside) == {"SCTP_CLOSING"}


def test_direct_tcp_joined_in_the_middle_counts_as_established(node: Node, net: Net) -> None:
    talk = net.talk("TCP", End(net.client, 40000), End(net.outside, 80))
    node.from_pod(node.client, talk.more()).expect("direct", talk.more())
    assert states(node, talk) == {"TCP_ESTABLISHED"}


# ---- time-outs ----------------------------------------------------------------------------


@pytest.mark.parametrize("state", list(TIMEOUTS), ids=lambda state: state.short)
def test_flow_is_forgotten_when_idle_for_longer_than_its_state_allows(
    node: Node, net: Net, state: State
) -> None:
    talk = net.talk("UDP", End(net.client, 40000), End(net.outside, 80))
    node.from_pod(node.client, talk.opening())
    # A node that booted moments ago has no long past to put a packet into.
    node.change_config(timeout_sec=tuple(20 + i for i in range(16)))
    for idle_sec, forgotten in ((20 + state - 1, False), (20 + state + 1, True)):
        node.change_flow(talk, state=state, last_seen_ns=coarse_now_ns())
        node.idle(idle_sec)
        steps = node.from_pod(node.client, talk.more()).steps
        assert (Step.FLOW_EXPIRED in steps) == forgotten
        assert (Step.FLOW_KNOWN in steps) != forgotten


def test_tcp_data_to_a_service_after_the_time_out_is_not_ours_any_more(
    node: Node, net: Net
) -> None:
    talk, inside = known(node, net.to_service(), net.remote)
    node.idle(TIMEOUTS[State.TCP_NEW] + 1)
    node.from_pod(node.client, talk.more()).expect("untracked", talk.more())
    node.from_pod(node.client, talk.opening()).expect("to_backend", inside.opening())


def test_long_time_outs_do_not_overflow(node: Node, net: Net) -> None:
    node.change_config(timeout_sec=(0xFFFFFFFF,) * 16)
    talk, inside = known(node, net.to_service("UDP"), net.remote)
    node.idle(5)
    node.from_pod(node.client, talk.more()).expect("to_backend", inside.more())


# ---- partners -----------------------------------------------------------------------------


def test_alias_in_use_refreshes_its_record(node: Node, net: Net) -> None:
    talk, inside = known(node, net.to_service("UDP"), net.remote)
    node.idle(1.5)
    node.from_pod(node.client, talk.more())
    assert found(node, talk).last_seen_ns == found(node, inside).last_seen_ns
    assert coarse_now_ns() - found(node, talk).last_seen_ns < SECOND


def test_nothing_is_written_twice_in_a_tick(node: Node, net: Net) -> None:
    talk, inside = known(node, net.to_service("UDP"), net.remote)
    node.to_pod(node.client, inside.answer())
    unchanged = []
    for _ in range(3):  # a tick may end between two of them, not between all
        node.from_pod(node.client, talk.more())
        before = node.written(["flows"])
        node.from_pod(node.client, talk.more())
        node.to_pod(node.client, inside.answer())
        unchanged.append(node.written(["flows"]) == before)
    assert any(unchanged)


def test_record_in_use_refreshes_its_alias(node: Node, net: Net, proto: str) -> None:
    talk, inside = known(node, net.to_service(proto), net.remote)
    node.idle(1.5)
    node.to_pod(node.client, inside.answer())
    assert found(node, talk).last_seen_ns == found(node, inside).last_seen_ns
    assert coarse_now_ns() - found(node, talk).last_seen_ns < SECOND


def test_hairpin_partners_refresh_each_other(node: Node, net: Net) -> None:
    talk = net.to_service("UDP")
    node.serve(talk.dst, [End(net.client, 8080)], "UDP")
    inside = talk.to(net.client).seen_as(net.hairpin)
    node.from_pod(node.client, talk.opening())
    for packet in (inside.answer(), talk.more()):
        node.idle(1.5)
        node.from_pod(node.client, packet)
        assert found(node, talk).last_seen_ns == found(node, inside).last_seen_ns
        assert coarse_now_ns() - found(node, talk).last_seen_ns < SECOND
    assert states(node, talk, inside) == {"UDP_STREAM"}


# ---- judged again -------------------------------------------------------------------------


@pytest.mark.parametrize("epoch_of", ["TCP", "UDP"])
def test_backend_that_left_the_node_is_reached_by_the_stack(
    node: Node, net: Net, epoch_of: str
) -> None:
    talk, inside = known(node, net.to_service(epoch_of), net.server)
    node.remove_endpoint(node.server)
    node.raise_epoch(udp=epoch_of == "UDP")
    result = node.from_pod(node.client, talk.more())
    result.expect("to_backend", inside.more())
    assert Step.FLOW_JUDGED_AGAIN in result.steps
    assert found(node, talk).backend_ifindex == 0
    assert Step.FLOW_JUDGED_AGAIN not in node.from_pod(node.client, talk.more()).steps


def test_backend_behind_another_interface_gets_packets_there(node: Node, net: Net) -> None:
    talk, inside = known(node, net.to_service(), net.server)
    moved = node.other._replace(addresses=node.server.addresses)
    node.add_endpoint(moved)
    node.raise_epoch()
    node.from_pod(node.client, talk.more()).expect("to_backend", inside.more(), into=moved)
    assert found(node, talk).backend_ifindex == moved.ifindex
    node.from_pod(moved, inside.answer()).expect("reply", talk.answer(), into=node.client)


def test_client_behind_another_interface_is_answered_there(node: Node, net: Net) -> None:
    talk, inside = known(node, net.to_service(), net.server)
    moved = node.other._replace(addresses=node.client.addresses)
    node.add_endpoint(moved)
    node.raise_epoch()
    node.from_pod(node.server, inside.answer()).expect("reply", talk.answer(), into=moved)
    node.from_pod(moved, talk.more()).expect("to_backend", inside.more(), into=node.server)


def test_direct_flow_is_judged_again_too(node: Node, net: Net) -> None:
    talk = net.talk("TCP", End(net.client, 40000), End(net.server, 80))
    node.from_pod(node.client, talk.opening()).expect("direct", talk.opening(), into=node.server)
    node.remove_endpoint(node.server)
    node.raise_epoch()
    node.from_pod(node.client, talk.more()).expect("direct", talk.more())


def test_hairpin_flow_is_judged_again(node: Node, net: Net) -> None:
    talk = net.to_service()
    node.serve(talk.dst, [End(net.client, 80)])
    inside = talk.to(net.client, 80).seen_as(net.hairpin)
    node.from_pod(node.client, talk.opening())
    node.raise_epoch()
    for _ in range(2):
        result = node.from_pod(node.client, talk.more())
        result.expect("to_backend", inside.more(), into=node.client)
        result = node.from_pod(node.client, inside.answer())
        result.expect("reply", talk.answer(), into=node.client)


# ---- nobody else rides on a flow ----------------------------------------------------------


def test_new_flow_with_another_pods_address_is_dropped(node: Node, net: Net, proto: str) -> None:
    talk = net.to_service(proto)
    node.serve(talk.dst, [End(net.remote, 80)], proto)
    node.from_pod(node.other, talk.opening()).expect("spoofed_source")
    direct = net.talk(proto, End(net.client, 1), End(net.outside, 80))
    node.from_pod(node.other, direct.opening()).expect("spoofed_source")
    assert node.flow_count() == 0


def test_known_flow_is_not_for_another_pod(node: Node, net: Net, proto: str) -> None:
    talk, inside = known(node, net.to_service(proto), net.server)
    node.from_pod(node.other, talk.more()).expect("spoofed_source")
    node.from_pod(node.other, inside.answer()).expect("spoofed_source")
    node.from_pod(node.client, talk.more()).expect("to_backend", inside.more(), into=node.server)


def test_no_pod_speaks_with_a_services_or_the_hairpin_address(node: Node, net: Net) -> None:
    talk, _ = known(node, net.to_service(), net.server)
    node.from_pod(node.server, talk.answer()).expect("spoofed_source")
    hairpin = net.talk("TCP", End(net.hairpin, 40000), End(net.server, 80))
    node.from_pod(node.other, hairpin.opening()).expect("spoofed_source")


def test_address_that_no_pod_has_is_dropped(node: Node, net: Net) -> None:
    talk = net.talk("UDP", End(net.outside, 53), End(net.router, 53))
    node.from_pod(node.client, talk.opening()).expect("spoofed_source")
