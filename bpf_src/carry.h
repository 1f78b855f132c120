// SPDX-License-Identifier: GPL-2.0-only
/* What was decided is carried out: refuse, find the way, rewrite, hand over. */
#pragma once
#include "reject.h"
#include "route.h"

KP_INLINE bool kp_is_refused(int verdict)
{
	return verdict == KP_DROP_NO_BACKEND || verdict == KP_DROP_NO_FLOW ||
	       verdict == KP_DROP_UNKNOWN_PORT || verdict == KP_DROP_TOO_BIG;
}

/* Returns the verdict under which the packet is counted. */
KP_INLINE int kp_carry_out(struct kp_context *ctx)
{
	struct kp_packet *pkt = ctx->pkt;
	int problem = KP_NEXT;

	pkt->transit = 0;

	if (pkt->out == KP_OUT_ROUTE && pkt->verdict < KP_DROP_SHORT)
		kp_route(ctx);
	if (pkt->verdict >= KP_DROP_SHORT) {
		pkt->out = KP_OUT_STACK;
		return kp_is_refused(pkt->verdict) ? kp_refuse(ctx, pkt->verdict) : pkt->verdict;
	}
	if (pkt->rewrite)
		problem = kp_rewrite(ctx);
	if (pkt->out && problem == KP_NEXT)
		problem = kp_hand_over(ctx);
	if (problem == KP_NEXT && ctx->hook != KP_HOOK_TO_WIRE && pkt->transit)
		problem = kp_transit_put(ctx);
	if (problem == KP_NEXT)
		return pkt->verdict;
	pkt->out = KP_OUT_STACK;
	return problem;
}
