// SPDX-License-Identifier: GPL-2.0-only
/* Hook to_wire: a packet leaves the node (tc egress of an uplink).
 *
 * A reply of this node to an outside client shows the Service's address again. A process
 * of the node that sends to a Service, and did not get its backend when it connected, gets
 * it here. All else goes its way.
 * Built twice: with -DKP_NO_ETHERNET, to_wire_l3, for devices without an Ethernet header.
 */
#include "icmp.h"
#include "wire.h"

/* Is this one of ours to change? */
KP_INLINE bool kp_is_for_us(const struct kp_flow *flow, bool from_client)
{
	if (flow->flags & KP_FLOW_ALIAS)
		return from_client && flow->flags & KP_FLOW_FROM_NODE;
	return !from_client && (flow->flags & (KP_FLOW_TRANSLATED | KP_FLOW_MASQUERADED)) ==
				       KP_FLOW_TRANSLATED;
}

/* The middle of a pod's TCP connection to a Service, which nobody has translated: neither
 * we nor the node's own connection tracking know it. */
KP_INLINE int kp_nobodys(struct kp_context *ctx)
{
	struct kp_packet *pkt = ctx->pkt;
	struct kp_endpoint *pod;

	if (ctx->config->flags & KP_CONFIG_HAND_OVER || !kp_frontend_find(ctx))
		return KP_PASS_DIRECT;
	pod = kp_pod(&pkt->was.src);
	if (!pod)
		return KP_PASS_DIRECT;
	kp_step(ctx, KP_STEP_SERVICE);
	pkt->ifindex = pod->ifindex;
	kp_mac_copy(pkt->mac, pod->pod_mac);
	kp_mac_copy(pkt->node_mac, pod->node_mac);
	return KP_DROP_NO_FLOW;
}

KP_INLINE int kp_to_wire_new(struct kp_context *ctx)
{
	bool forwarded = ctx->skb->ingress_ifindex;

	if (!kp_may_be_first(ctx))
		return forwarded && ctx->pkt->proto == KP_PROTO_TCP ? kp_nobodys(ctx) :
								      KP_PASS_DIRECT;
	return forwarded ? KP_PASS_DIRECT : kp_wire_new(ctx);
}

/* Has a socket of the node, or what somebody else masquerades, got the source port that a
 * masqueraded connection of ours has with this backend? */
KP_INLINE bool kp_is_in_the_way(const struct kp_flow *flow)
{
	return (flow->flags & (KP_FLOW_ALIAS | KP_FLOW_MASQUERADED)) == KP_FLOW_MASQUERADED;
}

KP_INLINE int kp_to_wire(struct kp_context *ctx)
{
	struct kp_packet *pkt = ctx->pkt;
	int verdict = KP_AFRESH;
	struct kp_flow_key key;
	struct kp_flow *flow;
	bool high, from_client;

	if (!kp_has_ports(pkt) || ctx->skb->cb[2] == KP_ROUTED_MARK)
		return KP_PASS_DIRECT;
	high = kp_flow_key(&key, &pkt->was.src, pkt->was.src_port, &pkt->was.dst,
			   pkt->was.dst_port, pkt->proto);
	flow = kp_flow_find(ctx, &key);
	if (!flow)
		kp_forget_ended(ctx, &key);
	from_client = flow && kp_from_client(flow, high);
	if (flow && unlikely(flow->flags & KP_FLOW_TRANSIT))
		return kp_transit(ctx, flow, from_client);
	if (unlikely(from_client && kp_is_in_the_way(flow))) {
		flow = kp_wire_diverted(ctx, flow, &key, high);
		if (!flow)
			return kp_wire_divert(ctx);
	}
	if (flow && !kp_is_for_us(flow, from_client))
		return KP_PASS_DIRECT;
	if (flow)
		verdict = kp_wire_known(ctx, flow, from_client, &key);
	return verdict == KP_AFRESH ? kp_to_wire_new(ctx) : verdict;
}

KP_PROGRAM(to_wire) int to_wire(struct __sk_buff *skb)
{
	struct kp_context ctx = {.skb = skb, .hook = KP_HOOK_TO_WIRE};
	int verdict;

	if (!kp_context_init(&ctx))
		return KP_ACT_DROP;
	verdict = kp_enter(&ctx);
	if (verdict == KP_NEXT)
		verdict = ctx.pkt->icmp_error ? kp_icmp_error(&ctx) : kp_to_wire(&ctx);
	ctx.pkt->verdict = verdict;
	KP_FORGET();
	return kp_end(&ctx, kp_carry_out(&ctx));
}
