// SPDX-License-Identifier: GPL-2.0-only
/* The local fast path: straight into another pod of this node, as a router would. */
#pragma once
#include "nat.h"

/* Decides whether this packet goes straight to the pod behind `ifindex`, or by the
 * node's stack. A spent TTL is left to the stack, which tells the sender. */
KP_INLINE bool kp_forward(struct kp_context *ctx, u32 ifindex, const u8 *mac)
{
	struct kp_packet *pkt = ctx->pkt;

	if (!ifindex || !(ctx->config->flags & KP_CONFIG_LOCAL_FAST_PATH)) {
		kp_step(ctx, KP_STEP_TO_STACK);
		return false;
	}
	if (pkt->ttl <= 1) {
		kp_step(ctx, KP_STEP_TTL_SPENT);
		return false;
	}
	pkt->ifindex = ifindex;
	kp_mac_copy(pkt->mac, mac);
	return true;
}

/* A pod that reaches itself: only we can bring its packets back to it. */
KP_INLINE void kp_forward_hairpin(struct kp_context *ctx, const u8 *mac)
{
	kp_step(ctx, KP_STEP_HAIRPIN);
	ctx->pkt->ifindex = ctx->skb->ifindex;
	kp_mac_copy(ctx->pkt->mac, mac);
}

/* The last step of a packet that kp_forward took: link-layer addresses and TTL. */
KP_INLINE int kp_hand_over(struct kp_context *ctx)
{
	struct kp_packet *pkt = ctx->pkt;
	struct kp_ethhdr *eth;

	eth = kp_bytes(ctx, 0, KP_ETH_LEN + sizeof(struct kp_iphdr));
	if (!eth)
		return KP_DROP_REWRITE;
	/* From the node's address, as the sender knows it. */
	kp_mac_copy(eth->src, eth->dst);
	kp_mac_copy(eth->dst, pkt->mac);
	if (pkt->ttl > 1) {
		if (pkt->ipv6) {
			((struct kp_ip6hdr *)(eth + 1))->hop_limit = pkt->ttl - 1;
		} else {
			struct kp_iphdr *ip = (void *)(eth + 1);

			ip->ttl = pkt->ttl - 1;
			ip->check = kp_checksum_moved(ip->check, (u16)~kp_htons(0x0100));
		}
	}
	kp_step(ctx, KP_STEP_LOCAL_POD);
	return KP_NEXT;
}
