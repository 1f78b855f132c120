// SPDX-License-Identifier: GPL-2.0-only
/* A new connection to a Service: which backend, and as which client it sees us.
 *
 * The choice stands in ctx->pkt->becomes: dst the backend, src the client as the
 * backend will see it. That is the client itself, save for three cases: a masquerade, one
 * that reaches itself (hairpin), and two connections that would be one on the backend's
 * side (another source port).
 */
#pragma once
#include "frontend.h"
#include "masquerade.h"
#include "remember.h"

/* Draws before we give up; the later half may change the source port as well. */
#define KP_TRIES 6

/* ---- which backend ---------------------------------------------------------- */

/* A17: uniform. False when the set was replaced since the frontend was read. */
KP_INLINE bool kp_backend_random(struct kp_context *ctx)
{
	struct kp_packet *pkt = ctx->pkt;
	struct kp_backend_key key = {.base = pkt->frontend.base};
	struct kp_backend *backend;

	key.slot = (u64)kp_random() * kp_set_size(pkt) >> 32;
	if (pkt->only_local)
		key.slot += pkt->frontend.count;
	backend = kp_lookup(MAP(kp_backends), &key);
	if (!backend)
		return false;
	pkt->becomes.dst = backend->addr;
	pkt->becomes.dst_port = backend->port;
	pkt->here = !!(backend->flags & KP_BACKEND_HERE);
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
KP_INLINE bool kp_backend_by_affinity(struct kp_context *ctx)
{
	struct kp_packet *pkt = ctx->pkt;
	const struct kp_frontend *frontend = &pkt->frontend;
	struct kp_affinity_key key = {.client = pkt->was.src, .service = frontend->service};
	struct kp_affinity *last;
	u32 flags;

	if (!frontend->affinity_sec)
		return false;
	last = kp_lookup(MAP(kp_affinities), &key);
	if (!last ||
	    (s64)(kp_now_ns(ctx) - last->last_used_ns) > (s64)frontend->affinity_sec * KP_SEC_NS)
		return false;
	pkt->becomes.dst = last->addr;
	pkt->becomes.dst_port = last->port;
	flags = kp_member_flags(&pkt->becomes.dst, pkt->becomes.dst_port, frontend->service);
	if (!(flags & (pkt->only_local ? KP_MEMBER_LOCAL : KP_MEMBER_CLUSTER)))
		return false;
	pkt->here = !!(flags & KP_MEMBER_HERE);
	kp_step(ctx, KP_STEP_AFFINITY);
	return true;
}

KP_INLINE void kp_affinity_remember(struct kp_context *ctx)
{
	struct kp_packet *pkt = ctx->pkt;
	struct kp_affinity_key key = {.client = pkt->was.src, .service = pkt->frontend.service};
	struct kp_affinity now = {
		.last_used_ns = kp_now_ns(ctx),
		.addr = pkt->becomes.dst,
		.port = pkt->becomes.dst_port,
	};

	if (pkt->frontend.affinity_sec && !pkt->trace)
		kp_update(MAP(kp_affinities), &key, &now, BPF_ANY);
}

/* ---- the whole choice ------------------------------------------------------- */

/* Nothing to be served here, but maybe the address is a Service's all the same (A22). */
KP_INLINE int kp_no_frontend(struct kp_context *ctx)
{
	u32 flags = ctx->config->flags;

	if (flags & KP_CONFIG_SERVICE_RANGES && !(flags & KP_CONFIG_HAND_OVER) &&
	    kp_in_range(KP_RANGE_SERVICES, &ctx->pkt->was.dst))
		return KP_DROP_UNKNOWN_SERVICE;
	return KP_PASS_DIRECT;
}

/* A frontend's packet that does not get a backend, or KP_NEXT. The middle of a TCP
 * connection may be the node's own connection tracking's, from before our time. */
KP_INLINE int kp_not_to_be_served(struct kp_context *ctx)
{
	struct kp_packet *pkt = ctx->pkt;

	if (ctx->config->flags & KP_CONFIG_HAND_OVER)
		return KP_PASS_UNTRACKED;
	if (pkt->fragment == KP_FRAGMENT_LATER)
		return KP_DROP_FRAGMENT_UNKNOWN;
	if (pkt->proto == KP_PROTO_TCP && !kp_opens(ctx))
		return KP_PASS_UNTRACKED;
	if (pkt->frontend.flags & KP_FRONTEND_WHOLE_ADDRESS)
		return KP_DROP_UNKNOWN_PORT;
	return KP_NEXT;
}

/* Does the client reach itself? A pod by its interface; the node where it is the backend. */
KP_INLINE bool kp_is_itself(struct kp_context *ctx)
{
	struct kp_packet *pkt = ctx->pkt;

	if (pkt->target.ifindex)
		return pkt->target.ifindex == ctx->skb->ifindex;
	return ctx->hook == KP_HOOK_TO_WIRE && pkt->here;
}

/* Decides ctx->pkt->becomes.src, as the backend at becomes.dst is to see the client.
 * False: with no source port that would be free. */
KP_INLINE bool kp_choose_source(struct kp_context *ctx, bool early, bool other_port)
{
	struct kp_packet *pkt = ctx->pkt;

	pkt->masquerade = 0;
	pkt->becomes.src = pkt->was.src;
	pkt->becomes.src_port = pkt->was.src_port;
	if (kp_is_itself(ctx))
		pkt->becomes.src = pkt->ipv6 ? ctx->config->hairpin6 : ctx->config->hairpin4;
	else if (!pkt->here && kp_is_masqueraded(ctx))
		return kp_masquerade(ctx, early);
	if (other_port)
		kp_other_port(ctx);
	return true;
}

/* Leaves ctx->pkt->becomes decided and both records written; pkt->target is the backend's
 * pod where it is one of this node. */
KP_INLINE int kp_choose(struct kp_context *ctx)
{
	struct kp_packet *pkt = ctx->pkt;
	bool early;
	int verdict;

	if (!kp_has_ports(pkt))
		return KP_PASS_DIRECT;
	if (!kp_frontend_find(ctx))
		return kp_no_frontend(ctx);
	kp_step(ctx, KP_STEP_SERVICE);
	kp_now_ns(ctx);
	KP_FORGET();
	verdict = kp_not_to_be_served(ctx);
	if (verdict != KP_NEXT)
		return verdict;
	for (int try = 0; try < KP_TRIES; try++) {
		/* Linux 6.1 has a loop begin behind a jump only: nothing is to be loaded ahead. */
		KP_FORGET();
		verdict = kp_nothing_to_choose(ctx);
		if (verdict != KP_NEXT)
			return verdict;
		/* A client keeps its backend, and rather leaves with another port. */
		pkt->sticky = kp_backend_by_affinity(ctx);
		KP_FORGET();
		if (!pkt->sticky && !kp_backend_random(ctx)) {
			if (!kp_frontend_read(ctx))
				return KP_DROP_NO_BACKEND;
			continue;
		}
		kp_target_find(ctx);
		early = try < KP_TRIES / 2;
		if (!kp_blur(ctx, kp_choose_source(ctx, early, pkt->sticky ? try : !early)))
			continue;
		verdict = kp_remember_translated(ctx, pkt->frontend.service, 0);
		if (verdict == KP_NEXT)
			kp_affinity_remember(ctx);
		if (verdict != KP_DROP_NO_PORT)
			return verdict;
	}
	return KP_DROP_NO_PORT;
}

/* A direct connection whose key a translated one already has: it goes on with
 * another source port, as if the destination were a Service of one backend. */
KP_INLINE int kp_divert(struct kp_context *ctx)
{
	struct kp_packet *pkt = ctx->pkt;
	int verdict = KP_DROP_NO_PORT;

	pkt->becomes = pkt->was;
	kp_target_find(ctx);
	if (!kp_has_ports(pkt))
		return verdict;
	for (int try = 0; try < KP_TRIES / 2 && verdict == KP_DROP_NO_PORT; try++) {
		kp_other_port(ctx);
		verdict = kp_remember_translated(ctx, 0, 1);
	}
	return verdict;
}
