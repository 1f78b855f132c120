// SPDX-License-Identifier: GPL-2.0-only
/* What the floor does besides its lookup: the cost of a test-run. */
#include "floor.h"

KP_PROGRAM(to_pod) int to_pod(struct __sk_buff *skb)
{
	struct kp_flow_key *key = kp_ready_key(skb);

	if (!key)
		return 2;
	key->proto = KP_PROTO_TCP;
	return -1;
}
