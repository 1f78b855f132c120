// SPDX-License-Identifier: GPL-2.0-only
/* The two records of a new connection through a Service, told apart from every other's.
 *
 * pkt->was is what its client sees, pkt->becomes what its backend will see.
 */
#pragma once
#include "flow.h"
#include "pod.h"

#define KP_PORT_FIRST 32768
#define KP_PORT_COUNT 28232

/* Of several that find the same record at its end, one takes its place. */
KP_INLINE bool kp_record_claim(struct kp_context *ctx, struct kp_flow *ended)
{
	u64 seen = ended->last_seen_ns;

	return ctx->pkt->trace || __sync_bool_compare_and_swap(&ended->last_seen_ns, seen,
							       kp_now_ns(ctx));
}

/* Writes the record of the connection was -> becomes, unless another one lives under
 * its key. What has ended there, or is left of this very connection, is overwritten;
 * where nothing is, another CPU must not come between. */
KP_INLINE bool kp_record_take(struct kp_context *ctx, const struct kp_flow_key *key,
			      const struct kp_flow *record)
{
	struct kp_flow *other = kp_lookup(MAP(kp_flows), key);

	if (!other)
		return kp_flow_put(ctx, key, record, BPF_NOEXIST) == KP_NEXT;
	if (other->flags & KP_FLOW_TRANSLATED && other->client_port == record->client_port &&
	    other->nat_port == record->nat_port &&
	    kp_addr_equal(&other->nat_addr, &record->nat_addr) &&
	    kp_addr_equal(&other->masq_addr, &record->masq_addr))
		return kp_flow_put(ctx, key, record, BPF_ANY) == KP_NEXT;
	if (kp_flow_alive(ctx, other) || !kp_record_claim(ctx, other))
		return false;
	return kp_flow_put(ctx, key, record, BPF_ANY) == KP_NEXT;
}

KP_INLINE void kp_other_port(struct kp_context *ctx)
{
	u32 port = KP_PORT_FIRST + ((u64)kp_random() * KP_PORT_COUNT >> 32);

	ctx->pkt->becomes.src_port = kp_htons(port);
	kp_step(ctx, KP_STEP_SOURCE_PORT);
}

/* pkt->target: the pod at becomes.dst, if it is one of this node. */
KP_INLINE void kp_target_find(struct kp_context *ctx)
{
	struct kp_packet *pkt = ctx->pkt;
	struct kp_endpoint *pod = kp_pod(&pkt->becomes.dst);

	pkt->target.ifindex = 0;
	if (pod) {
		pkt->target = *pod;
		pkt->here = 1;
	}
	KP_FORGET();
}

/* Where this connection's client and backend are reached again: see pod.h. */
KP_INLINE void kp_new_ends(struct kp_context *ctx, struct kp_flow *flow)
{
	struct kp_endpoint *client = NULL, *target = &ctx->pkt->target;

	if (ctx->hook == KP_HOOK_FROM_POD)
		client = kp_pod(&ctx->pkt->was.src);
	kp_flow_ends(flow, client, target->ifindex ? target : NULL);
	if (ctx->hook == KP_HOOK_TO_WIRE) {
		struct kp_ethhdr *eth = kp_bytes(ctx, 0, KP_L3);

		flow->client_ifindex = ctx->skb->ifindex;
		if (KP_L3 && eth)
			kp_mac_copy(flow->client_mac, eth->src);
	}
}

KP_INLINE u16 kp_new_flags(struct kp_context *ctx)
{
	struct kp_packet *pkt = ctx->pkt;
	u16 flags = KP_FLOW_TRANSLATED;

	if (pkt->masquerade)
		flags |= KP_FLOW_MASQUERADED;
	else if (!kp_addr_equal(&pkt->becomes.src, &pkt->was.src))
		flags |= KP_FLOW_HAIRPIN;
	if (ctx->hook == KP_HOOK_TO_WIRE)
		flags |= KP_FLOW_FROM_NODE;
	if (ctx->hook == KP_HOOK_FROM_WIRE && pkt->here && !pkt->target.ifindex)
		flags |= KP_FLOW_BY_STACK;
	return flags;
}

/* Writes both records of the connection was -> becomes; KP_DROP_NO_PORT where it
 * would be mixed up with another. */
KP_INLINE int kp_remember_translated(struct kp_context *ctx, u32 service, u8 diverted)
{
	struct kp_packet *pkt = ctx->pkt;
	struct kp_flow_key *key = &pkt->key;
	bool high = kp_blur(ctx, kp_flow_key(key, &pkt->becomes.src, pkt->becomes.src_port,
					     &pkt->becomes.dst, pkt->becomes.dst_port, pkt->proto));
	struct kp_flow flow = kp_flow_fresh(ctx, high);
	u16 both = kp_new_flags(ctx);

	kp_new_ends(ctx, &flow);
	flow.service = service;
	flow.flags |= both;
	flow.nat_addr = pkt->was.dst;
	flow.nat_port = pkt->was.dst_port;
	flow.client_port = pkt->was.src_port;
	flow.masq_addr = pkt->was.src;
	if (!kp_blur(ctx, kp_record_take(ctx, key, &flow)))
		return KP_DROP_NO_PORT;

	high = kp_blur(ctx, kp_flow_key(key, &pkt->was.src, pkt->was.src_port, &pkt->was.dst,
					pkt->was.dst_port, pkt->proto));
	key->diverted = diverted;
	flow.flags = both | KP_FLOW_ALIAS | (high ? KP_FLOW_CLIENT_IS_HIGH : 0);
	flow.nat_addr = pkt->becomes.dst;
	flow.nat_port = pkt->becomes.dst_port;
	flow.client_port = pkt->becomes.src_port;
	flow.masq_addr = pkt->becomes.src;
	return kp_flow_put(ctx, key, &flow, BPF_ANY);
}
