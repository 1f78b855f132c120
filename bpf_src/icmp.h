// SPDX-License-Identifier: GPL-2.0-only
/* ICMP errors about translated packets (A38): without them path MTU discovery breaks.
 *
 * The packet that an error quotes finds the flow (quote.h); what its sender once sent is
 * written inside, its address and the other's outside, and the error goes to it. Rare, so
 * plain: bytes are loaded and stored by helper.
 */
#pragma once
#include "pod.h"
#include "quote.h"
#include "route.h"

enum {
	KP_IPV4_CHECK = 10, /* offsets in the IP header */
	KP_IPV4_SRC = 12,
	KP_IPV6_SRC = 8,
	KP_ICMP_CHECK = 2,
};

/* The checksum at `offset` after what it covers moved by `diff`; its own move is
 * added to *total. False where the quote ends before it. */
KP_INLINE bool kp_quote_checksum(struct kp_context *ctx, u32 offset, u32 diff, u64 *total)
{
	u16 was, becomes;

	if (kp_load(ctx->skb, offset, &was, sizeof(was)))
		return false;
	becomes = kp_checksum_moved(was, diff);
	if (kp_store(ctx->skb, offset, &becomes, sizeof(becomes), BPF_F_RECOMPUTE_CSUM))
		return false;
	*total += (u16)~was + becomes;
	return true;
}

KP_INLINE bool kp_store_addresses(struct kp_context *ctx, u32 l3, const struct kp_tuple *to)
{
	if (ctx->pkt->ipv6)
		return !kp_store(ctx->skb, l3 + KP_IPV6_SRC, &to->src, 16, BPF_F_RECOMPUTE_CSUM) &&
		       !kp_store(ctx->skb, l3 + KP_IPV6_SRC + 16, &to->dst, 16, BPF_F_RECOMPUTE_CSUM);
	return !kp_store(ctx->skb, l3 + KP_IPV4_SRC, &to->src.word32[3], 4, BPF_F_RECOMPUTE_CSUM) &&
	       !kp_store(ctx->skb, l3 + KP_IPV4_SRC + 4, &to->dst.word32[3], 4, BPF_F_RECOMPUTE_CSUM);
}

KP_INLINE u32 kp_tuple_diff(const struct kp_tuple *was, const struct kp_tuple *becomes, bool ipv6)
{
	return kp_fold32(kp_addr_diff(&was->src, &becomes->src, ipv6) +
			 kp_addr_diff(&was->dst, &becomes->dst, ipv6));
}

/* Writes quote->becomes inside and ctx->pkt->becomes outside, with every checksum but a
 * quoted SCTP's: that covers what is not quoted, so nobody can tell. */
KP_INLINE int kp_quote_rewrite(struct kp_context *ctx, const struct kp_quote *quote)
{
	struct kp_packet *pkt = ctx->pkt;
	__be16 ports[2] = {quote->becomes.src_port, quote->becomes.dst_port};
	u32 inner = kp_tuple_diff(&quote->was, &quote->becomes, pkt->ipv6);
	u32 outer = kp_tuple_diff(&pkt->was, &pkt->becomes, pkt->ipv6);
	u32 port = (u16)~quote->was.src_port + ports[0] + (u16)~quote->was.dst_port + ports[1];
	u64 total = (u64)inner + port, unused = 0;
	u16 udp_check = 0;

	if (!kp_store_addresses(ctx, quote->l3, &quote->becomes) ||
	    !kp_store_addresses(ctx, KP_L3, &pkt->becomes) ||
	    kp_store(ctx->skb, quote->l4, ports, sizeof(ports), BPF_F_RECOMPUTE_CSUM))
		return KP_DROP_REWRITE;
	if (quote->proto == KP_PROTO_UDP)
		kp_load(ctx->skb, quote->l4 + 6, &udp_check, sizeof(udp_check));
	if (quote->proto == KP_PROTO_TCP || udp_check)
		kp_quote_checksum(ctx, quote->l4 + (udp_check ? 6 : 16),
				  kp_fold32((u64)inner + port), &total);
	if (pkt->ipv6) {
		total += outer; /* ICMPv6 covers its own addresses too: RFC 4443, 2.3 */
	} else if (!kp_quote_checksum(ctx, quote->l3 + KP_IPV4_CHECK, inner, &total) ||
		   !kp_quote_checksum(ctx, KP_L3 + KP_IPV4_CHECK, outer, &unused)) {
		return KP_DROP_REWRITE;
	}
	if (!kp_quote_checksum(ctx, pkt->l4 + KP_ICMP_CHECK, kp_fold32(total), &unused))
		return KP_DROP_REWRITE;
	kp_step(ctx, KP_STEP_ICMP_INNER);
	return KP_PASS_ICMP_ERROR;
}

/* ---- which way it goes ---------------------------------------------------------- */

/* By route, if the kernel has one: else nothing is changed, and the stack takes it along. */
KP_INLINE bool kp_error_by_route(struct kp_context *ctx)
{
	struct kp_packet *pkt = ctx->pkt;

	if (pkt->ttl <= 1 && ctx->hook != KP_HOOK_TO_WIRE)
		return false;
	if (!kp_fib_knows(kp_fib(ctx, &pkt->becomes.src, &pkt->becomes.dst, 0)))
		return false;
	pkt->out = KP_OUT_ROUTE;
	return true;
}

/* At the wire, to the client: a pod of this node, the node, or somebody outside. */
KP_INLINE bool kp_error_to_client(struct kp_context *ctx, const struct kp_flow *flow)
{
	if (flow->flags & KP_FLOW_FROM_NODE) {
		kp_into_node(ctx, flow->client_ifindex, flow->client_mac);
		return true;
	}
	if (!flow->client_ifindex)
		return kp_error_by_route(ctx);
	kp_into_pod(ctx, flow->client_ifindex, flow->client_mac, flow->backend_mac);
	return true;
}

/* At the wire, to the backend. Into a pod without the fast path, and to a backend that is
 * no pod of ours but of this node, the stack brings it. */
KP_INLINE bool kp_error_to_backend(struct kp_context *ctx, const struct kp_flow *flow)
{
	bool fast = ctx->config->flags & KP_CONFIG_LOCAL_FAST_PATH;

	if (flow->flags & KP_FLOW_HAIRPIN) { /* the node reaches itself */
		kp_into_node(ctx, flow->client_ifindex, flow->client_mac);
		return true;
	}
	if (flow->flags & KP_FLOW_BY_STACK ||
	    (flow->backend_ifindex && ctx->hook == KP_HOOK_FROM_WIRE && !fast)) {
		kp_leave_it_to_stack(ctx);
		return true;
	}
	if (!flow->backend_ifindex)
		return kp_error_by_route(ctx);
	kp_into_pod(ctx, flow->backend_ifindex, flow->backend_mac, flow->client_mac);
	return true;
}

/* ---- at each hook ----------------------------------------------------------------- */

/* Into a pod, about what it sent: it knows the Service, not the backend. */
KP_INLINE bool kp_error_at_to_pod(enum kp_quoted quoted)
{
	return quoted == KP_QUOTED_CLIENT || quoted == KP_QUOTED_TRANSIT;
}

/* Out of a pod, about what it received. A client speaks of the Service, which is to reach
 * the backend. What a backend says to a pod of this node is to_pod's, to others goes from
 * here; nobody speaks about other pods' connections. */
KP_INLINE bool kp_error_at_from_pod(struct kp_context *ctx, const struct kp_flow *flow,
				    enum kp_quoted quoted)
{
	u32 own = quoted == KP_QUOTED_BACKEND ? flow->client_ifindex : flow->backend_ifindex;

	if (quoted != KP_QUOTED_BACKEND && quoted != KP_QUOTED_CLIENT)
		return false;
	if (own != ctx->skb->ifindex)
		return false;
	if (flow->flags & KP_FLOW_HAIRPIN) {
		kp_forward_hairpin(ctx, flow->client_mac);
		return true;
	}
	if (quoted == KP_QUOTED_BACKEND)
		return !(flow->flags & KP_FLOW_MASQUERADED) || kp_error_by_route(ctx);
	if (flow->client_ifindex && !(flow->flags & KP_FLOW_FROM_NODE))
		return false;
	if (!(ctx->config->flags & KP_CONFIG_LOCAL_FAST_PATH))
		return false; /* to_wire's, as replies are */
	return kp_error_to_client(ctx, flow);
}

/* From the wire: what is for a masquerade, a Service's address, or a client outside. */
KP_INLINE bool kp_error_at_from_wire(struct kp_context *ctx, const struct kp_flow *flow,
				     enum kp_quoted quoted)
{
	if (quoted == KP_QUOTED_BACKEND)
		return !flow->client_ifindex && kp_error_to_backend(ctx, flow);
	if (quoted == KP_QUOTED_CLIENT &&
	    (flow->flags & KP_FLOW_MASQUERADED || !flow->client_ifindex))
		return kp_error_to_client(ctx, flow);
	return false;
}

/* To the wire: the word of the node, or of a pod by the stack, to a client outside; that
 * of a process of the node about a Service's reply. */
KP_INLINE bool kp_error_at_to_wire(struct kp_context *ctx, const struct kp_flow *flow,
				   enum kp_quoted quoted)
{
	if (quoted == KP_QUOTED_BACKEND)
		return flow->flags & KP_FLOW_FROM_NODE && kp_error_to_backend(ctx, flow);
	if (quoted == KP_QUOTED_CLIENT)
		return !flow->client_ifindex && !(flow->flags & KP_FLOW_MASQUERADED);
	return quoted == KP_QUOTED_TRANSIT;
}

/* False: the stack takes it along as it is. */
KP_INLINE bool kp_error_way(struct kp_context *ctx, const struct kp_flow *flow,
				enum kp_quoted quoted)
{
	switch (ctx->hook) {
	case KP_HOOK_TO_POD:
		return kp_error_at_to_pod(quoted);
	case KP_HOOK_FROM_POD:
		return kp_error_at_from_pod(ctx, flow, quoted);
	case KP_HOOK_FROM_WIRE:
		return kp_error_at_from_wire(ctx, flow, quoted);
	}
	return kp_error_at_to_wire(ctx, flow, quoted);
}

/* An ICMP error at any hook. One that is not about a translated packet goes its way. */
KP_INLINE int kp_icmp_error(struct kp_context *ctx)
{
	struct kp_quote quote = {};
	enum kp_quoted quoted;
	struct kp_flow *flow;
	bool from_client;

	if (ctx->hook == KP_HOOK_FROM_POD && !kp_source_is_own(ctx))
		return KP_DROP_SPOOFED_SOURCE;
	if (!kp_quote_parse(ctx, &quote))
		return KP_PASS_DIRECT;
	flow = kp_quote_flow(ctx, &quote, &from_client);
	if (!flow)
		return KP_PASS_DIRECT;
	quoted = kp_quoted(flow, from_client);
	if (quoted == KP_QUOTED_OTHER)
		return KP_PASS_DIRECT;
	kp_quote_translate(ctx, &quote, flow, quoted);
	if (!kp_error_way(ctx, flow, quoted))
		return KP_PASS_DIRECT;
	return kp_quote_rewrite(ctx, &quote);
}
