// SPDX-License-Identifier: GPL-2.0-only
/* A new connection to a Service: which backend, and as which client it sees us.
 *
 * The choice stands in ctx->pkt->becomes: dst the backend, src the client as the
 * backend will see it. That is the client itself, save for two cases: a pod that
 * reaches itself (hairpin), and two connections that would be one on the backend's
 * side (another source port).
 */
#pragma once
#include "flow.h"
#include "pod.h"

/* Draws before we give up; the later half may change the source port as well. */
#define KP_TRIES 8
#define KP_PORT_FIRST 32768
#define KP_PORT_COUNT 28232

KP_INLINE struct kp_frontend_key kp_frontend_key_of(const struct kp_packet *pkt)
{
	return (struct kp_frontend_key){
		.addr = pkt->was.dst,
		.port = pkt->was.dst_port,
		.proto = pkt->proto,
	};
}

/* ---- which backend ---------------------------------------------------------- */

KP_INLINE u32 kp_set_size(const struct kp_frontend *frontend)
{
	return frontend->flags & KP_FRONTEND_LOCAL_ONLY ? frontend->local_count : frontend->count;
}

/* A17: uniform. False when the set was replaced since the frontend was read. */
KP_INLINE bool kp_backend_random(struct kp_context *ctx, const struct kp_frontend *frontend)
{
	struct kp_backend_key key = {.base = frontend->base};
	struct kp_backend *backend;

	key.slot = (u64)kp_random() * kp_set_size(frontend) >> 32;
	if (frontend->flags & KP_FRONTEND_LOCAL_ONLY)
		key.slot += frontend->count;
	backend = kp_lookup(MAP(kp_backends), &key);
	if (!backend)
		return false;
	ctx->pkt->becomes.dst = backend->addr;
	ctx->pkt->becomes.dst_port = backend->port;
	kp_step(ctx, KP_STEP_BACKEND_RANDOM);
	return true;
}

KP_INLINE u32 kp_member_flags(const struct kp_addr *addr, __be16 port, u32 service)
{
	struct kp_member_key key = {.addr = *addr, .service = service, .port = port};
	struct kp_member *member = kp_lookup(MAP(kp_members), &key);

	return member ? member->flags : 0;
}

/* A34: the backend this client had last, while it is still in the set. */
KP_INLINE bool kp_backend_by_affinity(struct kp_context *ctx, const struct kp_frontend *frontend)
{
	struct kp_packet *pkt = ctx->pkt;
	struct kp_affinity_key key = {.client = pkt->was.src, .service = frontend->service};
	struct kp_affinity *last;
	u32 set = frontend->flags & KP_FRONTEND_LOCAL_ONLY ? KP_MEMBER_LOCAL : KP_MEMBER_CLUSTER;

	if (!frontend->affinity_sec)
		return false;
	last = kp_lookup(MAP(kp_affinities), &key);
	if (!last ||
	    (s64)(kp_now_ns(ctx) - last->last_used_ns) > (s64)frontend->affinity_sec * KP_SEC_NS)
		return false;
	pkt->becomes.dst = last->addr;
	pkt->becomes.dst_port = last->port;
	if (!(kp_member_flags(&pkt->becomes.dst, pkt->becomes.dst_port, frontend->service) & set))
		return false;
	kp_step(ctx, KP_STEP_AFFINITY);
	return true;
}

KP_INLINE void kp_affinity_remember(struct kp_context *ctx, const struct kp_frontend *frontend)
{
	struct kp_packet *pkt = ctx->pkt;
	struct kp_affinity_key key = {.client = pkt->was.src, .service = frontend->service};
	struct kp_affinity now = {
		.last_used_ns = kp_now_ns(ctx),
		.addr = pkt->becomes.dst,
		.port = pkt->becomes.dst_port,
	};

	if (frontend->affinity_sec && !pkt->trace)
		kp_update(MAP(kp_affinities), &key, &now, BPF_ANY);
}

/* ---- told apart from every other connection --------------------------------- */

/* Writes the record of the connection was -> becomes, unless another one lives under
 * its key. What has ended there, or is left of this very connection, is overwritten;
 * where nothing is, another CPU must not come between. */
KP_INLINE bool kp_record_take(struct kp_context *ctx, const struct kp_flow_key *key,
			      const struct kp_flow *record)
{
	struct kp_flow *other = kp_lookup(MAP(kp_flows), key);

	if (!other)
		return kp_flow_put(ctx, key, record, BPF_NOEXIST) == KP_NEXT;
	if (kp_flow_alive(ctx, other) &&
	    !(other->flags & KP_FLOW_TRANSLATED && other->client_port == record->client_port &&
	      other->nat_port == record->nat_port &&
	      kp_addr_equal(&other->nat_addr, &record->nat_addr)))
		return false;
	return kp_flow_put(ctx, key, record, BPF_ANY) == KP_NEXT;
}

KP_INLINE void kp_other_port(struct kp_context *ctx)
{
	u32 port = KP_PORT_FIRST + ((u64)kp_random() * KP_PORT_COUNT >> 32);

	ctx->pkt->becomes.src_port = kp_htons(port);
	kp_step(ctx, KP_STEP_SOURCE_PORT);
}

/* Writes both records of the connection was -> becomes; KP_DROP_NO_PORT where it
 * would be mixed up with another. `key` is scratch. */
KP_INLINE int kp_remember_translated(struct kp_context *ctx, struct kp_flow_key *key,
				     const struct kp_endpoint *target, u32 service, u8 diverted)
{
	struct kp_packet *pkt = ctx->pkt;
	bool high = kp_flow_key(key, &pkt->becomes.src, pkt->becomes.src_port, &pkt->becomes.dst,
				pkt->becomes.dst_port, pkt->proto);
	struct kp_flow flow = kp_flow_fresh(ctx, high);
	u8 both = KP_FLOW_TRANSLATED;

	if (!kp_addr_equal(&pkt->becomes.src, &pkt->was.src))
		both |= KP_FLOW_HAIRPIN;
	kp_flow_ends(&flow, kp_pod(&pkt->was.src), target);
	flow.service = service;
	flow.flags |= both;
	flow.nat_addr = pkt->was.dst;
	flow.nat_port = pkt->was.dst_port;
	flow.client_port = pkt->was.src_port;
	if (!kp_record_take(ctx, key, &flow))
		return KP_DROP_NO_PORT;

	high = kp_flow_key(key, &pkt->was.src, pkt->was.src_port, &pkt->was.dst, pkt->was.dst_port,
			   pkt->proto);
	key->diverted = diverted;
	flow.flags = both | KP_FLOW_ALIAS | (high ? KP_FLOW_CLIENT_IS_HIGH : 0);
	flow.nat_addr = pkt->becomes.dst;
	flow.nat_port = pkt->becomes.dst_port;
	flow.client_port = pkt->becomes.src_port;
	return kp_flow_put(ctx, key, &flow, BPF_ANY);
}

/* ---- the whole choice ------------------------------------------------------- */

KP_INLINE int kp_nothing_to_choose(const struct kp_frontend *frontend)
{
	if (!frontend->count)
		return KP_DROP_NO_BACKEND; /* A19 */
	if (!kp_set_size(frontend))
		return KP_DROP_NO_LOCAL_BACKEND; /* A20 */
	return KP_NEXT;
}

/* Leaves ctx->pkt->becomes decided and both records written; *target is the backend's
 * pod where it is one of this node. `key` is scratch. */
KP_INLINE int kp_choose(struct kp_context *ctx, const struct kp_frontend_key *where,
			struct kp_flow_key *key, struct kp_endpoint **target)
{
	struct kp_packet *pkt = ctx->pkt;
	struct kp_frontend *found = kp_lookup(MAP(kp_frontends), where);
	struct kp_frontend frontend;
	int verdict;
	bool sticky;

	if (!found)
		return KP_PASS_DIRECT;
	kp_step(ctx, KP_STEP_SERVICE);
	frontend = *found;
	if (pkt->fragment == KP_FRAGMENT_LATER)
		return KP_DROP_FRAGMENT_UNKNOWN;
	if (pkt->proto == KP_PROTO_TCP && !kp_opens(ctx))
		return KP_DROP_NO_FLOW;
	for (int try = 0; try < KP_TRIES; try++) {
		verdict = kp_nothing_to_choose(&frontend);
		if (verdict != KP_NEXT)
			return verdict;
		/* A client keeps its backend, and rather leaves with another port; SCTP cannot. */
		sticky = (try == 0 || pkt->proto != KP_PROTO_SCTP) &&
			 kp_backend_by_affinity(ctx, &frontend);
		if (!sticky && !kp_backend_random(ctx, &frontend)) {
			found = kp_lookup(MAP(kp_frontends), where);
			if (!found)
				return KP_DROP_NO_BACKEND;
			frontend = *found;
			continue;
		}
		pkt->becomes.src = pkt->was.src;
		pkt->becomes.src_port = pkt->was.src_port;
		*target = kp_pod(&pkt->becomes.dst);
		if (*target && (*target)->ifindex == ctx->skb->ifindex)
			pkt->becomes.src = pkt->ipv6 ? ctx->config->hairpin6 : ctx->config->hairpin4;
		if (try >= (sticky ? 1 : KP_TRIES / 2) && pkt->proto != KP_PROTO_SCTP)
			kp_other_port(ctx);
		verdict = kp_remember_translated(ctx, key, *target, frontend.service, 0);
		if (verdict == KP_NEXT)
			kp_affinity_remember(ctx, &frontend);
		if (verdict != KP_DROP_NO_PORT)
			return verdict;
	}
	return KP_DROP_NO_PORT;
}

/* A direct connection whose key a translated one already has: it goes on with
 * another source port, as if the destination were a Service of one backend. */
KP_INLINE int kp_divert(struct kp_context *ctx, struct kp_flow_key *key,
			struct kp_endpoint **target)
{
	struct kp_packet *pkt = ctx->pkt;
	int verdict = KP_DROP_NO_PORT;

	*target = kp_pod(&pkt->was.dst);
	pkt->becomes = pkt->was;
	if (pkt->proto != KP_PROTO_TCP && pkt->proto != KP_PROTO_UDP)
		return verdict;
	for (int try = 0; try < KP_TRIES / 2 && verdict == KP_DROP_NO_PORT; try++) {
		kp_other_port(ctx);
		verdict = kp_remember_translated(ctx, key, *target, 0, 1);
	}
	return verdict;
}
