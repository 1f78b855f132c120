// SPDX-License-Identifier: GPL-2.0-only
/* Hook from_wire: a packet enters the node (tc ingress of an uplink).
 *
 * What is for a Service's NodePort, load balancer's, external or cluster IP goes to a
 * backend: straight into a pod of this node, or out again, masqueraded. The answer to a
 * masquerade goes on to the client behind it. All else is the node's, and not touched.
 * Built twice: with -DKP_NO_ETHERNET, from_wire_l3, for devices without an Ethernet header.
 */
#include "icmp.h"
#include "wire.h"

/* Is this one of ours to change? An answer to a pod that is not masqueraded is to_pod's. */
KP_INLINE bool kp_is_for_us(const struct kp_flow *flow, bool from_client)
{
	if (flow->flags & KP_FLOW_ALIAS) /* clients of this node do not come by wire */
		return from_client && !flow->client_ifindex;
	if (from_client || !kp_is_translated_record(flow) || flow->flags & KP_FLOW_TRANSIT)
		return false;
	return flow->flags & KP_FLOW_MASQUERADED || !flow->client_ifindex;
}

/* Does a client outside speak straight to a backend, with the port that its connection
 * through a Service has there? */
KP_INLINE bool kp_is_in_the_way(const struct kp_flow *flow)
{
	return kp_is_translated_record(flow) && !flow->client_ifindex &&
	       !(flow->flags & (KP_FLOW_MASQUERADED | KP_FLOW_TRANSIT));
}

KP_INLINE int kp_from_wire(struct kp_context *ctx)
{
	struct kp_packet *pkt = ctx->pkt;
	int verdict = KP_AFRESH;
	struct kp_flow_key key;
	struct kp_flow *flow;
	bool high, from_client;

	if (!kp_has_ports(pkt))
		return KP_PASS_DIRECT;
	high = kp_flow_key(&key, &pkt->was.src, pkt->was.src_port, &pkt->was.dst,
			   pkt->was.dst_port, pkt->proto);
	flow = kp_flow_find(ctx, &key);
	if (!flow)
		kp_forget_ended(ctx, &key);
	from_client = flow && kp_from_client(flow, high);
	if (unlikely(from_client && kp_is_in_the_way(flow))) {
		flow = kp_wire_diverted(ctx, flow, &key, high);
		if (!flow)
			return kp_wire_divert(ctx);
	}
	if (flow && !kp_is_for_us(flow, from_client))
		return KP_PASS_DIRECT;
	if (flow)
		verdict = kp_wire_known(ctx, flow, from_client, &key);
	if (verdict != KP_AFRESH)
		return verdict;
	return kp_may_be_first(ctx) ? kp_wire_new(ctx) : KP_PASS_DIRECT;
}

KP_PROGRAM(from_wire) int from_wire(struct __sk_buff *skb)
{
	struct kp_context ctx = {.skb = skb, .hook = KP_HOOK_FROM_WIRE};
	int verdict;

	if (!kp_context_init(&ctx))
		return KP_ACT_DROP;
	verdict = !KP_L3 || skb->pkt_type == KP_PACKET_HOST ? kp_enter(&ctx) : KP_PASS_NOT_OURS;
	if (verdict == KP_NEXT)
		verdict = ctx.pkt->icmp_error ? kp_icmp_error(&ctx) : kp_from_wire(&ctx);
	ctx.pkt->verdict = verdict;
	KP_FORGET();
	return kp_end(&ctx, kp_carry_out(&ctx));
}
