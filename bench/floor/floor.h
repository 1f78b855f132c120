// SPDX-License-Identifier: GPL-2.0-only
/* Where bench/journeys.py lays a flow key into the frame: KEY_AT there. */
#pragma once
#include "packet.h"

#define KP_KEY_AT 80

KP_INLINE struct kp_flow_key *kp_ready_key(struct __sk_buff *skb)
{
	struct kp_flow_key *key = (void *)KP_CONTEXT(skb, data) + KP_KEY_AT;

	return (void *)(key + 1) <= (void *)KP_CONTEXT(skb, data_end) ? key : NULL;
}
