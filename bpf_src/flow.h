// SPDX-License-Identifier: GPL-2.0-only
/* Connections we remember: find, keep alive, forget.
 *
 * A connection has one *record*, keyed as the backend sees it. One that goes
 * through a Service has an *alias* as well, keyed (client, Service). Each alone
 * tells its packets all they need, so a known packet costs one lookup. The two
 * are partners: once a tick (some seconds) the one in use refreshes the other.
 *
 * Keys are the same for both directions: the end with the smaller words first.
 */
#pragma once
#include "packet.h"

KP_INLINE bool kp_end_less(const struct kp_addr *a, __be16 a_port, const struct kp_addr *b,
			   __be16 b_port)
{
	if (a->word64[1] != b->word64[1])
		return a->word64[1] < b->word64[1];
	if (a->word64[0] != b->word64[0])
		return a->word64[0] < b->word64[0];
	return a_port < b_port;
}

/* Returns whether the source is the key's second address. */
KP_INLINE bool kp_flow_key(struct kp_flow_key *key, const struct kp_addr *src, __be16 src_port,
			   const struct kp_addr *dst, __be16 dst_port, u8 proto)
{
	key->proto = proto;
	key->diverted = 0;
	key->zero = 0;
	if (kp_end_less(src, src_port, dst, dst_port)) {
		key->low = *src;
		key->high = *dst;
		key->low_port = src_port;
		key->high_port = dst_port;
		return false;
	}
	key->low = *dst;
	key->high = *src;
	key->low_port = dst_port;
	key->high_port = src_port;
	return true;
}

/* Only these go to Services. */
KP_INLINE bool kp_has_ports(const struct kp_packet *pkt)
{
	return pkt->proto == KP_PROTO_TCP || pkt->proto == KP_PROTO_UDP ||
	       pkt->proto == KP_PROTO_SCTP;
}

KP_INLINE bool kp_from_client(const struct kp_flow *flow, bool src_is_high)
{
	return !!(flow->flags & KP_FLOW_CLIENT_IS_HIGH) == src_is_high;
}

/* Keyed as the backend sees it, and replies are to show a Service. */
KP_INLINE bool kp_is_translated_record(const struct kp_flow *flow)
{
	return (flow->flags & (KP_FLOW_TRANSLATED | KP_FLOW_ALIAS)) == KP_FLOW_TRANSLATED;
}

KP_INLINE u32 kp_epoch(struct kp_context *ctx)
{
	return ctx->pkt->proto == KP_PROTO_UDP ? ctx->config->udp_epoch : ctx->config->epoch;
}

/* ---- states ---------------------------------------------------------------- */

KP_INLINE bool kp_is_new(u8 state)
{
	return state == KP_STATE_TCP_NEW || state == KP_STATE_UDP_NEW || state == KP_STATE_SCTP_NEW;
}

KP_INLINE bool kp_is_closing(u8 state)
{
	return state == KP_STATE_TCP_CLOSING || state == KP_STATE_SCTP_CLOSING;
}

/* RFC 9260: INIT opens, ABORT and SHUTDOWN COMPLETE end. */
enum { KP_SCTP_INIT = 1, KP_SCTP_ABORT = 6, KP_SCTP_SHUTDOWN_COMPLETE = 14 };

KP_INLINE bool kp_opens(struct kp_context *ctx)
{
	struct kp_packet *pkt = ctx->pkt;

	if (pkt->proto == KP_PROTO_TCP)
		return (pkt->control & (KP_TCP_SYN | KP_TCP_ACK)) == KP_TCP_SYN;
	return pkt->proto == KP_PROTO_SCTP && pkt->control == KP_SCTP_INIT;
}

/* Does this packet change the state of its connection, or end it? */
KP_INLINE bool kp_is_control(struct kp_context *ctx)
{
	struct kp_packet *pkt = ctx->pkt;

	if (pkt->proto == KP_PROTO_TCP)
		return pkt->control & (KP_TCP_SYN | KP_TCP_FIN | KP_TCP_RST);
	return pkt->proto == KP_PROTO_SCTP &&
	       (pkt->control == KP_SCTP_INIT || pkt->control == KP_SCTP_ABORT ||
		pkt->control == KP_SCTP_SHUTDOWN_COMPLETE);
}

KP_INLINE u8 kp_first_state(struct kp_context *ctx)
{
	switch (ctx->pkt->proto) {
	case KP_PROTO_TCP: /* joined in the middle: it stands already */
		return kp_opens(ctx) ? KP_STATE_TCP_NEW : KP_STATE_TCP_ESTABLISHED;
	case KP_PROTO_UDP:
		return KP_STATE_UDP_NEW;
	case KP_PROTO_SCTP:
		return kp_opens(ctx) ? KP_STATE_SCTP_NEW : KP_STATE_SCTP_ESTABLISHED;
	case KP_PROTO_ICMP:
	case KP_PROTO_ICMPV6:
		return KP_STATE_ICMP;
	}
	return KP_STATE_OTHER;
}

/* Returns state | flags << 8 after this packet. A closing connection that still
 * carries data without both FINs was not closed: a stray reset must not end it. */
KP_INLINE u32 kp_next_state(struct kp_context *ctx, const struct kp_flow *flow,
			    bool from_client)
{
	struct kp_packet *pkt = ctx->pkt;
	u32 state = flow->state, flags = flow->flags;

	if (!from_client && kp_is_new(state))
		state++;
	if (pkt->proto == KP_PROTO_TCP) {
		const u32 both = KP_FLOW_CLIENT_FIN | KP_FLOW_BACKEND_FIN;

		if (pkt->control & KP_TCP_FIN)
			flags |= from_client ? KP_FLOW_CLIENT_FIN : KP_FLOW_BACKEND_FIN;
		if ((flags & both) == both || pkt->control & KP_TCP_RST)
			state = KP_STATE_TCP_CLOSING;
		else if (state == KP_STATE_TCP_CLOSING)
			state = KP_STATE_TCP_ESTABLISHED;
	} else if (pkt->proto == KP_PROTO_SCTP && (pkt->control == KP_SCTP_ABORT ||
						   pkt->control == KP_SCTP_SHUTDOWN_COMPLETE)) {
		state = KP_STATE_SCTP_CLOSING;
	}
	return state | flags << 8;
}

/* ---- find and forget ------------------------------------------------------- */

/* Signed: another CPU may have seen a later packet before we got here. */
KP_INLINE s64 kp_idle_ns(struct kp_context *ctx, const struct kp_flow *flow)
{
	return kp_now_ns(ctx) - flow->last_seen_ns;
}

KP_INLINE bool kp_flow_expired(struct kp_context *ctx, const struct kp_flow *flow)
{
	u32 state = flow->state & (KP_STATES - 1);

	return kp_idle_ns(ctx, flow) > (s64)(ctx->config->timeout_sec[state] * KP_SEC_NS);
}

/* Is a record that stands in the way of a new connection worth respecting? */
KP_INLINE bool kp_flow_alive(struct kp_context *ctx, const struct kp_flow *flow)
{
	return !kp_flow_expired(ctx, flow) && !kp_is_closing(flow->state);
}

/* The record of this packet's connection, or NULL where it is to be made anew. */
KP_INLINE struct kp_flow *kp_flow_find(struct kp_context *ctx, const struct kp_flow_key *key)
{
	struct kp_flow *flow = kp_lookup(MAP(kp_flows), key);

	if (!flow)
		return NULL;
	if (unlikely(flow->tick != ctx->tick && kp_flow_expired(ctx, flow)) ||
	    (kp_is_closing(flow->state) && kp_opens(ctx))) {
		kp_step(ctx, KP_STEP_FLOW_EXPIRED);
		return NULL;
	}
	kp_step(ctx, KP_STEP_FLOW_KNOWN);
	return flow;
}

/* ---- keep alive ------------------------------------------------------------ */

/* The partner's key follows from the record at hand: `key` is rewritten to it. Alias: as
 * the backend sees it. Record: as the client does. */
KP_INLINE void kp_partner_key(struct kp_context *ctx, const struct kp_flow *flow,
			      bool from_client, struct kp_flow_key *key)
{
	struct kp_packet *pkt = ctx->pkt;
	const struct kp_addr *backend = from_client ? &pkt->was.dst : &pkt->was.src;
	struct kp_addr client = flow->masq_addr, far = flow->nat_addr;
	bool diverted;

	/* A diverted connection's "Service" is its backend itself. */
	diverted = !(flow->flags & KP_FLOW_ALIAS) && kp_addr_equal(&far, backend) &&
		   !flow->service;
	kp_flow_key(key, &client, flow->client_port, &far, flow->nat_port, pkt->proto);
	key->diverted = diverted;
}

/* Called for every packet of a known connection; does something for few of them. */
KP_INLINE void kp_flow_seen(struct kp_context *ctx, struct kp_flow *flow, bool from_client,
			    struct kp_flow_key *key)
{
	struct kp_flow *partner;
	u32 next;

	if (likely(flow->tick == ctx->tick && !kp_is_control(ctx) &&
		   (from_client || !kp_is_new(flow->state))))
		return;
	if (ctx->pkt->trace)
		return;
	next = kp_next_state(ctx, flow, from_client);
	flow->last_seen_ns = kp_now_ns(ctx);
	flow->tick = ctx->tick;
	flow->state = next;
	flow->flags = next >> 8;
	if (!(flow->flags & KP_FLOW_TRANSLATED))
		return;
	kp_partner_key(ctx, flow, from_client, key);
	partner = kp_lookup(MAP(kp_flows), key);
	if (!partner)
		return;
	partner->last_seen_ns = kp_now_ns(ctx);
	partner->tick = ctx->tick;
	partner->state = next;
	partner->flags |= (next >> 8) & (KP_FLOW_CLIENT_FIN | KP_FLOW_BACKEND_FIN);
}

/* A diverted connection is told from the one in its way by that one's record, which stays
 * as long as it is needed for this. */
KP_INLINE void kp_flow_hold(struct kp_context *ctx, struct kp_flow *in_the_way,
			    const struct kp_flow *diverted)
{
	if (ctx->pkt->trace || in_the_way->tick == ctx->tick)
		return;
	in_the_way->last_seen_ns = kp_now_ns(ctx);
	in_the_way->tick = ctx->tick;
	if (!kp_is_closing(diverted->state))
		in_the_way->state = diverted->state;
}

/* ---- make -------------------------------------------------------------------- */

/* What every new record begins with. */
KP_INLINE struct kp_flow kp_flow_fresh(struct kp_context *ctx, bool client_is_high)
{
	return (struct kp_flow){
		.last_seen_ns = kp_now_ns(ctx),
		.tick = ctx->tick,
		.state = kp_first_state(ctx),
		.flags = client_is_high ? KP_FLOW_CLIENT_IS_HIGH : 0,
		.epoch = kp_epoch(ctx),
		.created_sec = kp_now_ns(ctx) / KP_SEC_NS,
	};
}

/* `how`: BPF_ANY, or BPF_NOEXIST. */
KP_INLINE int kp_flow_put(struct kp_context *ctx, const struct kp_flow_key *key,
			  const struct kp_flow *flow, u64 how)
{
	kp_step(ctx, KP_STEP_FLOW_CREATED);
	if (!ctx->pkt->trace && kp_update(MAP(kp_flows), key, flow, how))
		return KP_DROP_FLOW_TABLE;
	return KP_NEXT;
}
