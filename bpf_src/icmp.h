// SPDX-License-Identifier: GPL-2.0-only
/* ICMP errors about translated packets (A38): without them path MTU discovery breaks.
 *
 * An error quotes the start of the packet it is about. That packet finds the flow;
 * the quote is translated back to what its sender once sent, and the error's own
 * addresses with it. Rare, so plain: bytes are loaded and stored by helper.
 */
#pragma once
#include "forward.h"
#include "lb.h"

/* The packet inside: where it stands, what it says, what it is to say. */
struct kp_quote {
	struct kp_tuple was;
	struct kp_tuple becomes;
	u16 l3;
	u16 l4;
	u8 proto;
};

enum {
	KP_IPV4_CHECK = 10, /* offsets in the IP header */
	KP_IPV4_SRC = 12,
	KP_IPV6_SRC = 8,
	KP_ICMP_CHECK = 2,
};

/* False: no quote of a packet with ports that we could know. */
KP_INLINE bool kp_quote_parse(struct kp_context *ctx, struct kp_quote *quote)
{
	__be16 ports[2];

	quote->l3 = ctx->pkt->l4 + sizeof(struct kp_icmphdr);
	if (ctx->pkt->ipv6) {
		struct kp_ip6hdr ip;

		if (kp_load(ctx->skb, quote->l3, &ip, sizeof(ip)))
			return false;
		kp_addr_from_ipv6(&quote->was.src, ip.src);
		kp_addr_from_ipv6(&quote->was.dst, ip.dst);
		quote->proto = ip.next;
		quote->l4 = quote->l3 + sizeof(ip);
		if (ip.next == KP_PROTO_FRAGMENT) { /* its first 8 bytes are the header itself */
			u8 fragment[4];

			if (kp_load(ctx->skb, quote->l4, fragment, sizeof(fragment)) ||
			    fragment[2] || fragment[3] & 0xf8)
				return false;
			quote->proto = fragment[0];
			quote->l4 += 8;
		}
	} else {
		struct kp_iphdr ip;

		if (kp_load(ctx->skb, quote->l3, &ip, sizeof(ip)) ||
		    ip.frag & kp_htons(0x1fff) || (ip.version_ihl & 0xf) < 5)
			return false;
		kp_addr_from_ipv4(&quote->was.src, ip.src);
		kp_addr_from_ipv4(&quote->was.dst, ip.dst);
		quote->proto = ip.proto;
		quote->l4 = quote->l3 + (ip.version_ihl & 0xf) * 4;
	}
	if (quote->proto != KP_PROTO_TCP && quote->proto != KP_PROTO_UDP &&
	    quote->proto != KP_PROTO_SCTP)
		return false;
	if (kp_load(ctx->skb, quote->l4, ports, sizeof(ports)))
		return false;
	quote->was.src_port = ports[0];
	quote->was.dst_port = ports[1];
	quote->becomes = quote->was;
	return true;
}

/* The flow of the quoted packet; *from_client: whether the client had sent it. A packet
 * straight from a backend to the ports of a connection through a Service belongs to a
 * diverted one. */
KP_INLINE struct kp_flow *kp_quote_flow(const struct kp_quote *quote, bool into_pod,
					bool *from_client)
{
	struct kp_flow_key key;
	bool high = kp_flow_key(&key, &quote->was.src, quote->was.src_port, &quote->was.dst,
				quote->was.dst_port, quote->proto);
	struct kp_flow *flow = kp_lookup(MAP(kp_flows), &key);

	if (flow && !into_pod && kp_is_translated_record(flow) && !kp_from_client(flow, high)) {
		key.diverted = 1;
		flow = kp_lookup(MAP(kp_flows), &key);
	}
	if (flow)
		*from_client = kp_from_client(flow, high);
	return flow;
}

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

/* Writes quote->becomes inside and ctx->pkt->becomes outside, with every checksum. */
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
	    !kp_store_addresses(ctx, KP_ETH_LEN, &pkt->becomes) ||
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
		   !kp_quote_checksum(ctx, KP_ETH_LEN + KP_IPV4_CHECK, outer, &unused)) {
		return KP_DROP_REWRITE;
	}
	if (!kp_quote_checksum(ctx, pkt->l4 + KP_ICMP_CHECK, kp_fold32(total), &unused))
		return KP_DROP_REWRITE;
	kp_step(ctx, KP_STEP_ICMP_INNER);
	return KP_PASS_ICMP_ERROR;
}

/* Into a pod, about what it sent: it knows the Service, not the backend. */
KP_INLINE void kp_quote_for_client(struct kp_context *ctx, struct kp_quote *quote,
				   const struct kp_flow *flow)
{
	quote->becomes.src_port = flow->client_port;
	quote->becomes.dst = flow->nat_addr;
	quote->becomes.dst_port = flow->nat_port;
	if (kp_addr_equal(&ctx->pkt->was.src, &quote->was.dst)) /* the backend's own word */
		ctx->pkt->becomes.src = flow->nat_addr;
}

KP_INLINE int kp_icmp_error_to_pod(struct kp_context *ctx)
{
	struct kp_quote quote = {};
	struct kp_flow *flow;
	bool from_client;

	if (!kp_quote_parse(ctx, &quote))
		return KP_PASS_DIRECT;
	flow = kp_quote_flow(&quote, true, &from_client);
	if (!flow || !kp_is_translated_record(flow) || !from_client)
		return KP_PASS_DIRECT;
	ctx->pkt->becomes = ctx->pkt->was;
	kp_quote_for_client(ctx, &quote, flow);
	return kp_quote_rewrite(ctx, &quote);
}

/* Out of a pod, about what it received: a client speaks of the Service, which is to
 * reach the backend; a pod that reaches itself speaks to the hairpin address. */
KP_INLINE int kp_icmp_error_from_pod(struct kp_context *ctx)
{
	struct kp_packet *pkt = ctx->pkt;
	struct kp_quote quote = {};
	struct kp_flow *flow;
	bool from_client, hairpin;

	if (!kp_source_is_own(ctx))
		return KP_DROP_SPOOFED_SOURCE;
	if (!kp_quote_parse(ctx, &quote))
		return KP_PASS_DIRECT;
	flow = kp_quote_flow(&quote, false, &from_client);
	if (!flow)
		return KP_PASS_DIRECT;
	hairpin = flow->flags & KP_FLOW_HAIRPIN;
	pkt->becomes = pkt->was;
	if (flow->flags & KP_FLOW_ALIAS && !from_client) {
		quote.becomes.src = flow->nat_addr;
		quote.becomes.src_port = flow->nat_port;
		quote.becomes.dst_port = flow->client_port;
		pkt->becomes.dst = flow->nat_addr;
		if (hairpin) {
			quote.becomes.dst = pkt->ipv6 ? ctx->config->hairpin6 : ctx->config->hairpin4;
			pkt->becomes.src = quote.becomes.dst;
		}
	} else if (hairpin && from_client) {
		kp_quote_for_client(ctx, &quote, flow);
		quote.becomes.src = pkt->was.src;
		pkt->becomes.dst = pkt->was.src;
	} else {
		return KP_PASS_DIRECT;
	}
	if (hairpin)
		kp_forward_hairpin(ctx, flow->client_mac);
	return kp_quote_rewrite(ctx, &quote);
}
