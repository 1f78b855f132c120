// SPDX-License-Identifier: GPL-2.0-only
/* What both hooks of the wire do with connections through Services. A packet that is none
 * of theirs goes on untouched: the wire carries the node's own traffic, too.
 *
 * What we route out by ourselves comes by to_wire once more, which knows it by a mark.
 */
#pragma once
#include "carry.h"
#include "enter.h"
#include "lb.h"
#include "verdict.h"

/* Verdict for a flow that is to be treated as a new one. */
#define KP_AFRESH (-2)

/* ---- a known connection -------------------------------------------------------- */

/* Endpoints changed since this flow was judged: look up once more who is a pod here. */
KP_INLINE int kp_judge_at_wire(struct kp_context *ctx, struct kp_flow *flow)
{
	const u16 elsewhere = KP_FLOW_BY_STACK | KP_FLOW_HAIRPIN | KP_FLOW_FROM_NODE;
	struct kp_endpoint *pod;

	kp_step(ctx, KP_STEP_FLOW_JUDGED_AGAIN);
	if (ctx->pkt->proto == KP_PROTO_UDP && flow->flags & KP_FLOW_ALIAS && flow->service &&
	    !(kp_member_flags(&flow->nat_addr, flow->nat_port, flow->service) &
	      KP_MEMBER_SERVING)) {
		kp_step(ctx, KP_STEP_BACKEND_GONE);
		return KP_AFRESH; /* A43, at once */
	}
	flow->epoch = kp_epoch(ctx);
	if (!(flow->flags & KP_FLOW_ALIAS)) {
		pod = flow->flags & elsewhere ? NULL : kp_pod(&flow->masq_addr);
		if (pod)
			kp_flow_ends(flow, pod, NULL);
	} else if (!(flow->flags & (KP_FLOW_BY_STACK | KP_FLOW_HAIRPIN))) {
		pod = kp_pod(&flow->nat_addr);
		flow->backend_ifindex = 0;
		if (pod && flow->flags & KP_FLOW_FROM_NODE) {
			flow->backend_ifindex = pod->ifindex;
			kp_mac_copy(flow->backend_mac, pod->pod_mac);
		} else if (pod) {
			kp_flow_ends(flow, NULL, pod);
		}
	}
	return KP_NEXT;
}

/* Client to Service: to the backend that was chosen for it. */
KP_INLINE int kp_wire_to_backend(struct kp_context *ctx, const struct kp_flow *flow)
{
	struct kp_packet *pkt = ctx->pkt;
	bool fast = ctx->config->flags & KP_CONFIG_LOCAL_FAST_PATH;

	pkt->becomes.src = flow->masq_addr;
	pkt->becomes.src_port = flow->client_port;
	pkt->becomes.dst = flow->nat_addr;
	pkt->becomes.dst_port = flow->nat_port;
	kp_to_rewrite(ctx, KP_STEP_DESTINATION_REWRITTEN);
	if (flow->flags & KP_FLOW_HAIRPIN)
		kp_into_node(ctx, flow->client_ifindex, flow->client_mac);
	else if (flow->flags & KP_FLOW_BY_STACK)
		kp_leave_it_to_stack(ctx);
	else if (!flow->backend_ifindex)
		pkt->out = KP_OUT_ROUTE;
	else if (ctx->hook == KP_HOOK_FROM_WIRE && !fast)
		kp_leave_it_to_stack(ctx);
	else if (ctx->hook == KP_HOOK_FROM_WIRE && pkt->ttl <= 1)
		kp_step(ctx, KP_STEP_TTL_SPENT);
	else
		kp_into_pod(ctx, flow->backend_ifindex, flow->backend_mac, flow->client_mac);
	return KP_PASS_TO_BACKEND;
}

/* Backend to client: it shows the Service's address again. */
KP_INLINE int kp_wire_to_client(struct kp_context *ctx, const struct kp_flow *flow)
{
	struct kp_packet *pkt = ctx->pkt;

	pkt->becomes.src = flow->nat_addr;
	pkt->becomes.src_port = flow->nat_port;
	pkt->becomes.dst = flow->masq_addr;
	pkt->becomes.dst_port = flow->client_port;
	kp_to_rewrite(ctx, KP_STEP_SOURCE_REWRITTEN);
	if (flow->flags & KP_FLOW_MASQUERADED)
		kp_step(ctx, KP_STEP_MASQUERADE_UNDONE);
	if (flow->flags & KP_FLOW_FROM_NODE)
		kp_into_node(ctx, flow->client_ifindex, flow->client_mac);
	else if (ctx->hook == KP_HOOK_TO_WIRE)
		kp_leave_it_to_stack(ctx); /* which has found the way already */
	else if (flow->client_ifindex)
		kp_into_pod(ctx, flow->client_ifindex, flow->client_mac, flow->backend_mac);
	else
		pkt->out = KP_OUT_ROUTE;
	return KP_PASS_REPLY;
}

KP_INLINE int kp_wire_known(struct kp_context *ctx, struct kp_flow *flow, bool from_client,
			    struct kp_flow_key *key)
{
	struct kp_flow copy;
	int verdict;

	if (unlikely(flow->epoch != kp_epoch(ctx))) {
		if (ctx->pkt->trace) { /* which leaves the record as it is */
			copy = *flow;
			flow = &copy;
		}
		verdict = kp_judge_at_wire(ctx, flow);
		if (verdict != KP_NEXT)
			return verdict;
	}
	verdict = from_client ? kp_wire_to_backend(ctx, flow) : kp_wire_to_client(ctx, flow);
	kp_flow_seen(ctx, flow, from_client, key);
	return verdict;
}

/* ---- a new one ------------------------------------------------------------------- */

/* Could this packet begin something? */
KP_INLINE bool kp_may_be_first(struct kp_context *ctx)
{
	return ctx->pkt->fragment != KP_FRAGMENT_LATER &&
	       (ctx->pkt->proto == KP_PROTO_UDP || kp_opens(ctx));
}

/* A connection that begins where one of ours has just ended: its answers are not ours. */
KP_INLINE void kp_forget_ended(struct kp_context *ctx, const struct kp_flow_key *key)
{
	if (ctx->pkt->steps & 1u << KP_STEP_FLOW_EXPIRED && !ctx->pkt->trace)
		kp_delete(MAP(kp_flows), key);
}

/* To a pod of this node, or to the node itself. */
KP_INLINE void kp_wire_way_here(struct kp_context *ctx)
{
	struct kp_packet *pkt = ctx->pkt;
	struct kp_ethhdr *eth = kp_bytes(ctx, 0, KP_L3);
	struct kp_mac own = {};

	if (ctx->hook == KP_HOOK_TO_WIRE) {
		if (KP_L3 && eth)
			kp_mac_copy(&own, eth->src);
		if (pkt->target.ifindex)
			kp_into_pod(ctx, pkt->target.ifindex, pkt->target.pod_mac, (u8 *)&own);
		else
			kp_into_node(ctx, ctx->skb->ifindex, (u8 *)&own);
	} else if (!pkt->target.ifindex || !(ctx->config->flags & KP_CONFIG_LOCAL_FAST_PATH)) {
		kp_leave_it_to_stack(ctx);
	} else if (pkt->ttl <= 1) {
		kp_step(ctx, KP_STEP_TTL_SPENT);
	} else {
		kp_into_pod(ctx, pkt->target.ifindex, pkt->target.pod_mac, pkt->target.node_mac);
	}
}

KP_INLINE int kp_wire_new(struct kp_context *ctx)
{
	struct kp_packet *pkt = ctx->pkt;
	int verdict = kp_choose(ctx);

	if (verdict != KP_NEXT)
		return verdict;
	KP_FORGET();
	kp_to_rewrite(ctx, KP_STEP_DESTINATION_REWRITTEN);
	if (pkt->here)
		kp_wire_way_here(ctx);
	else
		pkt->out = KP_OUT_ROUTE;
	return KP_PASS_TO_BACKEND;
}

/* ---- a direct one, in whose way one of ours is -------------------------------------- */

/* What was diverted before, or NULL. `key` is that of the record in the way. */
KP_INLINE struct kp_flow *kp_wire_diverted(struct kp_context *ctx, struct kp_flow *in_the_way,
					   struct kp_flow_key *key, bool high)
{
	struct kp_flow *flow;

	key->diverted = 1;
	flow = kp_flow_find(ctx, key);
	if (!flow || !kp_from_client(flow, high))
		return NULL;
	kp_flow_hold(ctx, in_the_way, flow);
	return flow;
}

/* It goes on with another source port, which its sender does not learn of: see kp_divert.
 * What leaves the node has to take one that no socket of the node has. */
KP_INLINE int kp_wire_divert(struct kp_context *ctx)
{
	struct kp_packet *pkt = ctx->pkt;
	bool leaves = ctx->hook == KP_HOOK_TO_WIRE;
	int verdict;

	if (!kp_may_be_first(ctx))
		return KP_PASS_DIRECT;
	pkt->becomes = pkt->was;
	pkt->masquerade = leaves;
	pkt->here = !leaves;
	kp_target_find(ctx);
	if (!leaves)
		kp_other_port(ctx);
	else if (!kp_blur(ctx, kp_draw_port(ctx)) || kp_socket_in_the_way(ctx))
		return KP_DROP_NO_PORT;
	verdict = kp_remember_translated(ctx, 0, 1);
	if (verdict != KP_NEXT)
		return verdict;
	KP_FORGET();
	kp_to_rewrite(ctx, KP_STEP_SOURCE_REWRITTEN);
	if (leaves)
		pkt->out = KP_OUT_ROUTE;
	else
		kp_wire_way_here(ctx);
	return KP_PASS_TO_BACKEND;
}
