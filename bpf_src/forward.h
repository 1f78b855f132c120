// SPDX-License-Identifier: GPL-2.0-only
/* Past the node's stack: straight into a pod of this node, as a router would, or to the
 * node's own sockets. Routes to other machines are in route.h.
 */
#pragma once
#include "nat.h"

KP_INLINE void kp_leave_it_to_stack(struct kp_context *ctx)
{
	ctx->pkt->out = KP_OUT_STACK;
	kp_step(ctx, KP_STEP_TO_STACK);
}

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
	pkt->out = KP_OUT_PEER;
	pkt->ifindex = ifindex;
	kp_mac_copy(pkt->mac, mac);
	return true;
}

/* A pod that reaches itself: only we can bring its packets back to it. */
KP_INLINE void kp_forward_hairpin(struct kp_context *ctx, const u8 *mac)
{
	kp_step(ctx, KP_STEP_HAIRPIN);
	ctx->pkt->out = KP_OUT_PEER;
	ctx->pkt->ifindex = ctx->skb->ifindex;
	kp_mac_copy(ctx->pkt->mac, mac);
}

/* At the wire: into a pod in any case. The other end of its veth pair is reached from tc
 * ingress only; and where the fast path is off, to_pod is to see the packet. */
KP_INLINE void kp_into_pod(struct kp_context *ctx, u32 ifindex, const u8 *mac, const u8 *node_mac)
{
	struct kp_packet *pkt = ctx->pkt;
	bool fast = ctx->config->flags & KP_CONFIG_LOCAL_FAST_PATH;

	pkt->out = fast && ctx->hook == KP_HOOK_FROM_WIRE ? KP_OUT_PEER : KP_OUT_DEVICE;
	pkt->ifindex = ifindex;
	kp_mac_copy(pkt->mac, mac);
	kp_mac_copy(pkt->node_mac, node_mac);
}

/* To the node's own sockets, by the uplink that they think of. */
KP_INLINE void kp_into_node(struct kp_context *ctx, u32 ifindex, const u8 *mac)
{
	struct kp_packet *pkt = ctx->pkt;

	kp_step(ctx, KP_STEP_TO_NODE);
	if (ctx->hook == KP_HOOK_FROM_WIRE && ifindex == ctx->skb->ifindex)
		return; /* it is there */
	pkt->out = KP_OUT_NODE;
	pkt->ifindex = ifindex;
	kp_mac_copy(pkt->mac, mac);
	kp_mac_copy(pkt->node_mac, mac);
}

/* One hop less to go; the node's own packets have not come any way yet. */
KP_INLINE void kp_count_hop(struct kp_context *ctx, void *l3)
{
	struct kp_packet *pkt = ctx->pkt;

	if (pkt->ttl <= 1 || ctx->hook == KP_HOOK_TO_WIRE || pkt->out == KP_OUT_NODE)
		return;
	if (pkt->ipv6) {
		((struct kp_ip6hdr *)l3)->hop_limit = pkt->ttl - 1;
	} else {
		struct kp_iphdr *ip = l3;

		ip->ttl = pkt->ttl - 1;
		ip->check = kp_checksum_moved(ip->check, (u16)~kp_htons(0x0100));
	}
}

/* The Ethernet header of a packet that came by a device without one. By route, the kernel
 * fills in the addresses. */
KP_INLINE int kp_add_link_header(struct kp_context *ctx)
{
	struct kp_packet *pkt = ctx->pkt;
	struct kp_ethhdr *eth;

	if (kp_change_head(ctx->skb, KP_ETH_LEN, 0))
		return KP_DROP_REWRITE;
	eth = kp_bytes(ctx, 0, sizeof(*eth));
	if (!eth)
		return KP_DROP_REWRITE;
	eth->proto = pkt->ipv6 ? kp_htons(KP_ETH_P_IPV6) : kp_htons(KP_ETH_P_IP);
	if (pkt->out == KP_OUT_ROUTE)
		return KP_NEXT;
	kp_mac_copy(eth->dst, pkt->mac);
	kp_mac_copy(eth->src, pkt->node_mac);
	return KP_NEXT;
}

/* The last step of a packet that does not just go its way: link-layer addresses and TTL. */
KP_INLINE int kp_hand_over(struct kp_context *ctx)
{
	struct kp_packet *pkt = ctx->pkt;
	struct kp_ethhdr *eth = kp_bytes(ctx, 0, KP_L3 + sizeof(struct kp_iphdr));

	if (!eth)
		return KP_DROP_REWRITE;
	kp_count_hop(ctx, (void *)eth + KP_L3);
	if (pkt->out == KP_OUT_PEER || pkt->out == KP_OUT_DEVICE)
		kp_step(ctx, KP_STEP_LOCAL_POD);
	if (!KP_L3)
		return kp_add_link_header(ctx);
	if (pkt->out == KP_OUT_ROUTE)
		return KP_NEXT;
	/* From the node's address; in from_pod as the sender knows it. */
	if (ctx->hook == KP_HOOK_FROM_POD && pkt->out == KP_OUT_PEER)
		kp_mac_copy(eth->src, eth->dst);
	else
		kp_mac_copy(eth->src, pkt->node_mac);
	kp_mac_copy(eth->dst, pkt->mac);
	return KP_NEXT;
}
