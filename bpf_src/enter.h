// SPDX-License-Identifier: GPL-2.0-only
/* The one door in: what every program does first. */
#pragma once
#include "frag.h"
#include "parse.h"

/* A tick: 1024 jiffies, which is 1 second at 1000 Hz, 4 at 250, 10 at 100. */
#define KP_TICK_SHIFT 10

/* False only where an array map has no slot 0, which the verifier cannot know. */
KP_INLINE bool kp_context_init(struct kp_context *ctx)
{
	u32 zero = 0;

	ctx->config = kp_slot(MAP(kp_configs), &zero);
	ctx->pkt = kp_slot(MAP(kp_scratches), &zero);
	if (!ctx->config || !ctx->pkt)
		return false;
	for (int i = 0; i < KP_CLEARED; i++)
		ctx->pkt->cleared[i] = 0;
	ctx->tick = kp_jiffies() >> KP_TICK_SHIFT;
	ctx->pkt->trace = ctx->skb->cb[3] == KP_TRACE_MARK3 && ctx->skb->cb[4] == KP_TRACE_MARK4;
	return true;
}

KP_INLINE bool kp_at_wire(const struct kp_context *ctx)
{
	return ctx->hook == KP_HOOK_FROM_WIRE || ctx->hook == KP_HOOK_TO_WIRE;
}

/* The wire carries the node's own traffic too: what we cannot read is not ours there. */
KP_INLINE int kp_unreadable(struct kp_context *ctx, int verdict)
{
	return kp_at_wire(ctx) && verdict >= KP_DROP_SHORT ? KP_PASS_NOT_OURS : verdict;
}

KP_INLINE int kp_enter(struct kp_context *ctx)
{
	int verdict = kp_parse(ctx);

	if (verdict != KP_NEXT)
		return kp_unreadable(ctx, verdict);
	if (!(ctx->config->flags & KP_CONFIG_READY))
		return kp_unreadable(ctx, KP_DROP_NOT_CONFIGURED);
	KP_FORGET();
	if (unlikely(ctx->pkt->fragment))
		return kp_unreadable(ctx, kp_fragment(ctx));
	return KP_NEXT;
}
