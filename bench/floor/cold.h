// SPDX-License-Identifier: GPL-2.0-only
/* A run of a cold build: the same frame, but another client port, drawn at random, so that
 * a long test-run meets flow after flow while the program itself stays hot. The mark says
 * where in the frame the port stands, the priority where in the key for the bare lookup. */
#pragma once

static __always_inline void kp_another_flow(struct __sk_buff *skb)
{
	u32 port_at = skb->mark, key_at = skb->priority;
	u32 ttl_at = skb->protocol == kp_htons(KP_ETH_P_IP) ? 22 : 21;
	u16 port = kp_htons(KP_COLD_FIRST + ((u64)kp_random() * KP_COLD_FLOWS >> 32));
	u8 ttl = 255;

	kp_store(skb, port_at, &port, sizeof(port), 0);
	kp_store(skb, key_at, &port, sizeof(port), 0);
	kp_store(skb, ttl_at, &ttl, sizeof(ttl), 0);
}
