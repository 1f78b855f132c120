// SPDX-License-Identifier: GPL-2.0-only
/* The one door out: counts by hook and verdict, remembers drops, answers the kernel. */
#pragma once
#include "packet.h"

/* TC_ACT_UNSPEC, which is also TCX_NEXT: other people's programs have their turn. */
#define KP_ACT_PASS (-1)
#define KP_ACT_DROP 2

KP_INLINE void kp_count(struct kp_context *ctx, int verdict)
{
	u32 slot = ctx->hook * KP_VERDICTS + (verdict & (KP_VERDICTS - 1));
	struct kp_counter *counter = kp_slot(MAP(kp_counters), &slot);

	if (counter) {
		counter->packets++;
		counter->bytes += ctx->skb->len;
	}
}

KP_INLINE void kp_remember_drop(struct kp_context *ctx, int verdict)
{
	struct kp_packet *pkt = ctx->pkt;
	struct kp_dropped_key key = {
		.src = pkt->was.src,
		.dst = pkt->was.dst,
		.dst_port = pkt->was.dst_port,
		.proto = pkt->proto,
		.hook = ctx->hook,
		.verdict = verdict,
	};
	struct kp_dropped *known = kp_lookup(MAP(kp_drops), &key);

	if (known) {
		known->packets++;
		known->last_seen_ns = kp_now_ns(ctx);
		known->ifindex = ctx->skb->ifindex;
	} else {
		struct kp_dropped first = {
			.packets = 1,
			.last_seen_ns = kp_now_ns(ctx),
			.ifindex = ctx->skb->ifindex,
		};

		kp_update(MAP(kp_drops), &key, &first, BPF_ANY);
	}
}

/* What was rewritten, for a trace to tell: nobody else asks. */
KP_INLINE void kp_note_rewriting(struct kp_context *ctx, int verdict)
{
	struct kp_packet *pkt = ctx->pkt;

	if (!pkt->rewrite || verdict >= KP_DROP_SHORT)
		return;
	if (!kp_addr_equal(&pkt->was.dst, &pkt->becomes.dst))
		kp_step(ctx, KP_STEP_DESTINATION_REWRITTEN);
	if (!kp_addr_equal(&pkt->was.src, &pkt->becomes.src))
		kp_step(ctx, KP_STEP_SOURCE_REWRITTEN);
	if (verdict == KP_PASS_TO_BACKEND && pkt->was.src_port != pkt->becomes.src_port)
		kp_step(ctx, KP_STEP_SOURCE_PORT);
}

/* The next hop is the one that route.h was told: so the kernel keeps that neighbour fresh. */
KP_INLINE int kp_leave_by_route(struct kp_context *ctx)
{
	struct kp_packet *pkt = ctx->pkt;
	struct bpf_redir_neigh hop = {.nh_family = pkt->fib.family};

	*(volatile u32 *)&ctx->skb->cb[2] = KP_ROUTED_MARK;
	__builtin_memcpy(hop.ipv6_nh, pkt->fib.ipv6_dst, sizeof(hop.ipv6_nh));
	return kp_redirect_neigh(pkt->ifindex, &hop, sizeof(hop), 0);
}

KP_INLINE int kp_leave(struct kp_context *ctx)
{
	struct kp_packet *pkt = ctx->pkt;

	if (likely(pkt->out == KP_OUT_PEER))
		return kp_redirect_peer(pkt->ifindex, 0);
	if (pkt->out == KP_OUT_ROUTE)
		return kp_leave_by_route(ctx);
	return kp_redirect(pkt->ifindex, pkt->out == KP_OUT_NODE ? BPF_F_INGRESS : 0);
}

/* A refused packet was turned into its answer and goes back as ctx->pkt->out says. */
KP_INLINE int kp_end(struct kp_context *ctx, int verdict)
{
	struct kp_packet *pkt = ctx->pkt;

	if (unlikely(pkt->trace)) {
		kp_note_rewriting(ctx, verdict);
		*(volatile u32 *)&ctx->skb->cb[0] = verdict;
		*(volatile u32 *)&ctx->skb->cb[1] = pkt->steps;
	} else {
		kp_count(ctx, verdict);
		if (verdict >= KP_DROP_SHORT)
			kp_remember_drop(ctx, verdict);
	}
	if (pkt->out)
		return kp_leave(ctx);
	return verdict >= KP_DROP_SHORT ? KP_ACT_DROP : KP_ACT_PASS;
}
