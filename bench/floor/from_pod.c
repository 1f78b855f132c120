// SPDX-License-Identifier: GPL-2.0-only
/* The physical floor beside which bench/packet.py measures: one lookup that hits, by a key
 * that lies ready in the frame, and a byte of its value written to the frame. It writes what
 * stands there already, but the processor cannot know: the next run has to wait for the
 * value, as the next run of a program that rewrites packets has. */
#include "floor.h"

KP_PROGRAM(from_pod) int from_pod(struct __sk_buff *skb)
{
	struct kp_flow_key *key = kp_ready_key(skb);
	struct kp_flow *flow;

	if (!key)
		return 2;
	flow = kp_lookup(MAP(kp_flows), key);
	if (!flow)
		return 2;
	key->proto = flow->state + KP_PROTO_TCP - KP_STATE_TCP_ESTABLISHED;
	return -1;
}
