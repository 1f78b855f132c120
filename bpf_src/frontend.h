// SPDX-License-Identifier: GPL-2.0-only
/* What a Service is to a client: which frontend, which of its two sets, whether the
 * backend sees the client itself. The hook tells where the client is: a pod (from_pod),
 * outside (from_wire), or this node (to_wire).
 */
#pragma once
#include "flow.h"

KP_INLINE bool kp_in_range(u32 scope, const struct kp_addr *addr)
{
	struct kp_range_key key = {.prefix = 32 + 128, .scope = scope, .addr = *addr};

	return kp_lookup(MAP(kp_ranges), &key);
}

/* ---- which frontend ----------------------------------------------------------- */

/* A NodePort of this node? What a process of the node sends to itself leaves by no uplink. */
KP_INLINE bool kp_may_be_node_port(struct kp_context *ctx)
{
	const struct kp_config *config = ctx->config;
	u16 port = kp_ntohs(ctx->pkt->was.dst_port);
	struct kp_address *address;

	if (ctx->hook == KP_HOOK_TO_WIRE || !config->node_port_first ||
	    port < config->node_port_first || port > config->node_port_last)
		return false;
	address = kp_lookup(MAP(kp_addresses), &ctx->pkt->was.dst);
	return address && address->flags & KP_ADDRESS_NODE_PORT;
}

KP_INLINE bool kp_frontend_read(struct kp_context *ctx)
{
	struct kp_packet *pkt = ctx->pkt;
	struct kp_frontend *found = kp_lookup(MAP(kp_frontends), &pkt->where);

	if (found)
		pkt->frontend = *found;
	return found;
}

/* The frontend that this packet is for, in pkt->where and pkt->frontend; false: none. */
KP_INLINE bool kp_frontend_find(struct kp_context *ctx)
{
	struct kp_packet *pkt = ctx->pkt;

	pkt->where = (struct kp_frontend_key){
		.addr = pkt->was.dst,
		.port = pkt->was.dst_port,
		.proto = pkt->proto,
	};
	if (kp_frontend_read(ctx))
		return true;
	if (kp_may_be_node_port(ctx)) {
		kp_addr_from_ipv4(&pkt->where.addr, 0);
		if (pkt->ipv6)
			pkt->where.addr.word64[1] = 0;
		if (!kp_frontend_read(ctx))
			return false;
		kp_step(ctx, KP_STEP_NODE_PORT);
		return true;
	}
	pkt->where.port = 0;
	pkt->where.proto = 0;
	return kp_frontend_read(ctx);
}

/* ---- for which client ----------------------------------------------------------- */

/* SEMANTICS A42: is the client a pod of this node, as far as it is told apart at all? */
KP_INLINE bool kp_client_is_local(struct kp_context *ctx)
{
	u32 flags = ctx->config->flags;

	if (!(flags & KP_CONFIG_DETECT_LOCAL))
		return false;
	if (flags & KP_CONFIG_DETECT_BY_RANGE)
		return kp_in_range(KP_RANGE_PODS, &ctx->pkt->was.src);
	return ctx->hook == KP_HOOK_FROM_POD;
}

/* Only endpoints of this node? The node itself, and its pods, get past an
 * externalTrafficPolicy Local: they are in the cluster. */
KP_INLINE bool kp_only_local(struct kp_context *ctx)
{
	u32 flags = ctx->pkt->frontend.flags;

	if (!(flags & KP_FRONTEND_EXTERNAL))
		return flags & KP_FRONTEND_LOCAL_ONLY;
	if (!(flags & KP_FRONTEND_EXTERNAL_LOCAL) || ctx->hook == KP_HOOK_TO_WIRE)
		return false;
	return ctx->hook == KP_HOOK_FROM_WIRE || !kp_client_is_local(ctx);
}

/* Does a backend elsewhere see this node as its client? One of this node never does. */
KP_INLINE bool kp_is_masqueraded(struct kp_context *ctx)
{
	u32 flags = ctx->pkt->frontend.flags;

	if (ctx->hook == KP_HOOK_TO_WIRE)
		return true; /* the node, whose address depends on the way out */
	if (flags & KP_FRONTEND_EXTERNAL)
		return !(flags & KP_FRONTEND_EXTERNAL_LOCAL);
	if (ctx->config->flags & KP_CONFIG_MASQUERADE_ALL)
		return true;
	return ctx->config->flags & KP_CONFIG_DETECT_LOCAL && !kp_client_is_local(ctx);
}

KP_INLINE u32 kp_set_size(const struct kp_packet *pkt)
{
	return pkt->only_local ? pkt->frontend.local_count : pkt->frontend.count;
}

/* Also decides pkt->only_local. */
KP_INLINE int kp_nothing_to_choose(struct kp_context *ctx)
{
	struct kp_packet *pkt = ctx->pkt;

	pkt->only_local = kp_only_local(ctx);
	KP_FORGET();
	if (!pkt->frontend.count)
		return KP_DROP_NO_BACKEND; /* A19 */
	if (pkt->frontend.flags & KP_FRONTEND_SOURCE_RANGES &&
	    !kp_in_range(pkt->frontend.service, &pkt->was.src))
		return KP_DROP_SOURCE_RANGE; /* A30 */
	if (!kp_set_size(pkt))
		return KP_DROP_NO_LOCAL_BACKEND; /* A20, A21 */
	return KP_NEXT;
}
