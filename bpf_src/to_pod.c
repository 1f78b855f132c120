// SPDX-License-Identifier: GPL-2.0-only
/* Hook to_pod: a packet enters a pod by the node's stack (tc egress of its host-side
 * interface).
 *
 * A backend's reply shows the Service's address again; anything new is remembered,
 * so that the answer needs one lookup.
 */
#include "enter.h"
#include "icmp.h"
#include "verdict.h"

KP_INLINE int kp_to_pod_new(struct kp_context *ctx, struct kp_flow_key *key, bool high)
{
	struct kp_flow flow = kp_flow_fresh(ctx, high);

	if (ctx->pkt->proto == KP_PROTO_TCP && ctx->pkt->control & KP_TCP_RST)
		return KP_PASS_DIRECT; /* a connection's end, and no beginning */
	flow.flags |= KP_FLOW_BY_STACK;
	flow.backend_ifindex = ctx->skb->ifindex;
	if (kp_flow_put(ctx, key, &flow, BPF_ANY) != KP_NEXT)
		return KP_DROP_FLOW_TABLE;
	return KP_PASS_DIRECT;
}

KP_INLINE int kp_to_pod(struct kp_context *ctx)
{
	struct kp_packet *pkt = ctx->pkt;
	struct kp_flow_key key;
	struct kp_flow *flow;
	bool high, from_client;
	int verdict = KP_PASS_DIRECT;

	high = kp_flow_key(&key, &pkt->was.src, pkt->was.src_port, &pkt->was.dst,
			   pkt->was.dst_port, pkt->proto);
	flow = kp_flow_find(ctx, &key);
	if (!flow)
		return kp_to_pod_new(ctx, &key, high);
	if (flow->flags & KP_FLOW_ALIAS) /* a Service's address from elsewhere: not our doing */
		return KP_PASS_DIRECT;
	from_client = kp_from_client(flow, high);
	if (!from_client && kp_is_translated_record(flow)) {
		pkt->becomes.src = flow->nat_addr;
		pkt->becomes.src_port = flow->nat_port;
		pkt->becomes.dst = pkt->was.dst;
		pkt->becomes.dst_port = flow->client_port;
		kp_to_rewrite(ctx, KP_STEP_SOURCE_REWRITTEN);
		verdict = KP_PASS_REPLY;
	}
	kp_flow_seen(ctx, flow, from_client, &key);
	return verdict;
}

KP_PROGRAM(to_pod) int to_pod(struct __sk_buff *skb)
{
	struct kp_context ctx = {.skb = skb, .hook = KP_HOOK_TO_POD};
	int verdict, problem = KP_NEXT;

	if (!kp_context_init(&ctx))
		return KP_ACT_DROP;
	verdict = kp_enter(&ctx);
	if (verdict == KP_NEXT)
		verdict = ctx.pkt->icmp_error ? kp_icmp_error(&ctx) : kp_to_pod(&ctx);
	ctx.pkt->verdict = verdict;
	KP_FORGET();
	if (ctx.pkt->rewrite)
		problem = kp_rewrite(&ctx);
	return kp_end(&ctx, problem == KP_NEXT ? ctx.pkt->verdict : problem);
}
