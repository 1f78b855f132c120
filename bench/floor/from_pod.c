// SPDX-License-Identifier: GPL-2.0-only
/* The physical floor beside which bench/packet.py measures: one lookup that hits, by a key
 * that lies ready in the frame, and a word of its value written to the frame. It writes what
 * stands there already, but the processor cannot know: the next run has to wait for the
 * value, as the next run of a program that rewrites packets has. */
#include "packet.h"

KP_PROGRAM(from_pod) int from_pod(struct __sk_buff *skb)
{
	struct kp_flow_key key;
	struct kp_flow *flow;
	u8 proto;

	if (kp_load(skb, 80, &key, sizeof(key)))
		return 2;
	flow = kp_lookup(MAP(kp_flows), &key);
	if (!flow)
		return 2;
	proto = flow->state + KP_PROTO_TCP - KP_STATE_TCP_ESTABLISHED;
	return kp_store(skb, 80 + __builtin_offsetof(struct kp_flow_key, proto), &proto, 1, 0) ? 2 : -1;
}
