// SPDX-License-Identifier: GPL-2.0-only
/* Hook from_pod: a packet leaves a pod (tc ingress of its host-side interface).
 *
 * Known: one lookup tells whether it goes to a backend, is a backend's reply, or is
 * direct, and which pod of this node it is for, if any. New: the source must be the
 * pod's own; a Service gets a backend, or the packet is refused.
 */
#include "carry.h"
#include "enter.h"
#include "icmp.h"
#include "lb.h"
#include "verdict.h"

/* Verdict of kp_known for a flow that is to be treated as a new one. */
#define KP_AFRESH (-2)

/* ---- a new connection -------------------------------------------------------- */

KP_INLINE int kp_new_direct(struct kp_context *ctx, struct kp_flow_key *key)
{
	struct kp_packet *pkt = ctx->pkt;
	bool high = kp_flow_key(key, &pkt->was.src, pkt->was.src_port, &pkt->was.dst,
				pkt->was.dst_port, pkt->proto);
	struct kp_flow flow = kp_flow_fresh(ctx, high);

	kp_flow_ends(&flow, kp_pod(&pkt->was.src), kp_pod(&pkt->was.dst));
	if (kp_flow_put(ctx, key, &flow, BPF_ANY) != KP_NEXT)
		return KP_DROP_FLOW_TABLE;
	kp_forward(ctx, flow.backend_ifindex, flow.backend_mac);
	return KP_PASS_DIRECT;
}

/* Both records are written, ctx->pkt->becomes is decided: on the way. */
KP_INLINE int kp_new_translated(struct kp_context *ctx)
{
	struct kp_packet *pkt = ctx->pkt;

	KP_FORGET();
	kp_to_rewrite(ctx, KP_STEP_DESTINATION_REWRITTEN);
	if (pkt->target.ifindex == ctx->skb->ifindex)
		kp_forward_hairpin(ctx, pkt->target.pod_mac);
	else if (pkt->target.ifindex)
		kp_forward(ctx, pkt->target.ifindex, pkt->target.pod_mac);
	else if (pkt->masquerade)
		pkt->out = KP_OUT_ROUTE;
	else
		kp_step(ctx, KP_STEP_TO_STACK);
	return KP_PASS_TO_BACKEND;
}

KP_INLINE int kp_new(struct kp_context *ctx, struct kp_flow_key *key)
{
	int verdict;

	if (!kp_source_is_own(ctx))
		return KP_DROP_SPOOFED_SOURCE;
	verdict = kp_choose(ctx);
	if (verdict == KP_PASS_DIRECT)
		return kp_new_direct(ctx, key);
	if (verdict != KP_NEXT)
		return verdict;
	return kp_new_translated(ctx);
}

/* ---- a known connection ------------------------------------------------------ */

/* Where the two ends of a flow are now. A client whose packets the stack brings, or who is
 * a process of the node, stays where it was: handed over directly, the answers would go
 * past what others do to them (a hostPort's address translation). */
KP_INLINE void kp_look_up_ends(struct kp_flow *flow, bool from_client, struct kp_endpoint *own,
			       struct kp_endpoint *other)
{
	if (from_client) {
		flow->flags &= ~KP_FLOW_BY_STACK;
		return kp_flow_ends(flow, own, other);
	}
	if (flow->flags & KP_FLOW_BY_STACK)
		other = NULL;
	if (flow->flags & KP_FLOW_FROM_NODE) {
		flow->backend_ifindex = own->ifindex;
		kp_mac_copy(flow->backend_mac, own->pod_mac);
		return;
	}
	kp_flow_ends(flow, other, own);
}

/* Endpoints changed since this flow was judged, or it comes from another interface
 * than it did: look the ends up once more. */
KP_INLINE int kp_judge_again(struct kp_context *ctx, struct kp_flow *flow, bool from_client)
{
	struct kp_packet *pkt = ctx->pkt;
	struct kp_addr far = flow->flags & KP_FLOW_ALIAS ? flow->nat_addr : pkt->was.dst;
	struct kp_endpoint *own, *other;

	kp_step(ctx, KP_STEP_FLOW_JUDGED_AGAIN);
	own = kp_pod(&pkt->was.src);
	if (!own || own->ifindex != ctx->skb->ifindex)
		return KP_DROP_SPOOFED_SOURCE;
	if (pkt->proto == KP_PROTO_UDP && flow->flags & KP_FLOW_ALIAS && flow->service &&
	    !(kp_member_flags(&far, flow->nat_port, flow->service) & KP_MEMBER_SERVING)) {
		kp_step(ctx, KP_STEP_BACKEND_GONE);
		return KP_AFRESH; /* A43, at once */
	}
	if (pkt->proto == KP_PROTO_UDP && from_client && !(flow->flags & KP_FLOW_TRANSLATED) &&
	    kp_frontend_find(ctx))
		return KP_AFRESH; /* it began before there was the Service */
	flow->epoch = kp_epoch(ctx);
	other = flow->flags & KP_FLOW_HAIRPIN ? own : kp_pod(&far);
	kp_look_up_ends(flow, from_client, own, other);
	return KP_NEXT;
}

/* Client to Service: to the backend that was chosen for it. */
KP_INLINE int kp_to_backend(struct kp_context *ctx, const struct kp_flow *flow)
{
	struct kp_packet *pkt = ctx->pkt;

	pkt->becomes.src = flow->masq_addr;
	pkt->becomes.src_port = flow->client_port;
	pkt->becomes.dst = flow->nat_addr;
	pkt->becomes.dst_port = flow->nat_port;
	kp_to_rewrite(ctx, KP_STEP_DESTINATION_REWRITTEN);
	if (unlikely(flow->flags & KP_FLOW_HAIRPIN))
		kp_forward_hairpin(ctx, flow->client_mac);
	else if (unlikely(flow->flags & KP_FLOW_MASQUERADED))
		pkt->out = KP_OUT_ROUTE;
	else
		kp_forward(ctx, flow->backend_ifindex, flow->backend_mac);
	return KP_PASS_TO_BACKEND;
}

/* A reply's way to its client: false where the stack is to bring it. */
KP_INLINE bool kp_way_to_client(struct kp_context *ctx, const struct kp_flow *flow)
{
	if (flow->flags & KP_FLOW_HAIRPIN) {
		kp_forward_hairpin(ctx, flow->backend_mac);
		return true;
	}
	if (unlikely(flow->flags & KP_FLOW_FROM_NODE)) {
		kp_into_node(ctx, flow->client_ifindex, flow->client_mac);
		return true;
	}
	if (likely(flow->client_ifindex) || flow->flags & KP_FLOW_BY_STACK)
		return kp_forward(ctx, flow->client_ifindex, flow->client_mac);
	if (!(ctx->config->flags & KP_CONFIG_LOCAL_FAST_PATH)) {
		kp_step(ctx, KP_STEP_TO_STACK);
		return false;
	}
	ctx->pkt->out = KP_OUT_ROUTE;
	return true;
}

/* Backend to client. Handed over or routed here, it shows the Service's address from here
 * on; by the stack, to_pod of the client or to_wire puts it back: a Service's address as a
 * source would be a martian on the way. */
KP_INLINE int kp_to_client(struct kp_context *ctx, const struct kp_flow *flow)
{
	struct kp_packet *pkt = ctx->pkt;

	if (!kp_way_to_client(ctx, flow))
		return KP_PASS_DIRECT;
	pkt->becomes.src = flow->nat_addr;
	pkt->becomes.src_port = flow->nat_port;
	pkt->becomes.dst = flow->masq_addr;
	pkt->becomes.dst_port = flow->client_port;
	kp_to_rewrite(ctx, KP_STEP_SOURCE_REWRITTEN);
	return KP_PASS_REPLY;
}

KP_INLINE int kp_known(struct kp_context *ctx, struct kp_flow *flow, bool from_client,
		       struct kp_flow_key *key)
{
	u32 own = from_client ? flow->client_ifindex : flow->backend_ifindex;
	struct kp_flow copy;
	int verdict;

	if (flow->flags & KP_FLOW_ALIAS && !from_client)
		return KP_DROP_SPOOFED_SOURCE; /* only we speak with a Service's address */
	if (unlikely(own != ctx->skb->ifindex || flow->epoch != kp_epoch(ctx))) {
		if (ctx->pkt->trace) { /* which leaves the record as it is */
			copy = *flow;
			flow = &copy;
		}
		verdict = kp_judge_again(ctx, flow, from_client);
		if (verdict != KP_NEXT)
			return verdict;
	}
	if (!(flow->flags & KP_FLOW_TRANSLATED)) {
		kp_forward(ctx, from_client ? flow->backend_ifindex : flow->client_ifindex,
			   from_client ? flow->backend_mac : flow->client_mac);
		verdict = KP_PASS_DIRECT;
	} else if (from_client) {
		verdict = kp_to_backend(ctx, flow);
	} else {
		verdict = kp_to_client(ctx, flow);
	}
	kp_flow_seen(ctx, flow, from_client, key);
	return verdict;
}

/* ---- either ------------------------------------------------------------------ */

/* Could an unknown packet belong to a diverted connection that has outlived the one in
 * whose way it was? None that opens a connection. */
KP_INLINE bool kp_may_be_diverted(struct kp_context *ctx)
{
	u8 proto = ctx->pkt->proto;

	return proto == KP_PROTO_UDP ||
	       ((proto == KP_PROTO_TCP || proto == KP_PROTO_SCTP) && !kp_opens(ctx));
}

KP_INLINE int kp_from_pod(struct kp_context *ctx)
{
	struct kp_packet *pkt = ctx->pkt;
	struct kp_flow_key key;
	struct kp_flow *flow;
	bool high, from_client, in_the_way;
	int verdict;

	high = kp_flow_key(&key, &pkt->was.src, pkt->was.src_port, &pkt->was.dst,
			   pkt->was.dst_port, pkt->proto);
	flow = kp_flow_find(ctx, &key);
	from_client = flow && kp_from_client(flow, high);
	in_the_way = from_client && kp_is_translated_record(flow);
	if (unlikely(from_client && kp_opens(ctx) && kp_is_new(flow->state) &&
		     !(flow->flags & KP_FLOW_TRANSLATED)))
		flow = NULL; /* it asks again: by now there may be the Service */
	if (unlikely(in_the_way || (!flow && kp_may_be_diverted(ctx)))) {
		/* Straight to a backend, with the ports of a connection through a Service. */
		key.diverted = 1;
		flow = kp_flow_find(ctx, &key);
		from_client = flow && kp_from_client(flow, high);
		if (!from_client)
			flow = NULL;
		if (!flow && in_the_way) {
			if (!kp_source_is_own(ctx))
				return KP_DROP_SPOOFED_SOURCE;
			verdict = kp_divert(ctx);
			return verdict == KP_NEXT ? kp_new_translated(ctx) : verdict;
		}
	}
	verdict = flow ? kp_known(ctx, flow, from_client, &key) : KP_AFRESH;
	return verdict == KP_AFRESH ? kp_new(ctx, &key) : verdict;
}

KP_PROGRAM(from_pod) int from_pod(struct __sk_buff *skb)
{
	struct kp_context ctx = {.skb = skb, .hook = KP_HOOK_FROM_POD};
	int verdict;

	if (!kp_context_init(&ctx))
		return KP_ACT_DROP;
	verdict = kp_enter(&ctx);
	if (verdict == KP_NEXT)
		verdict = ctx.pkt->icmp_error ? kp_icmp_error(&ctx) : kp_from_pod(&ctx);
	ctx.pkt->verdict = verdict;
	KP_FORGET();
	return kp_end(&ctx, kp_carry_out(&ctx));
}
