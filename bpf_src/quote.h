// SPDX-License-Identifier: GPL-2.0-only
/* The packet that an ICMP error quotes, and what its sender knows it as (A38).
 *
 * An error quotes the start of the packet it is about, as it looked where it got stuck. If
 * that was behind our translation, the quote is to be put back to what the sender once
 * sent, and the error's own addresses with it. Nothing here writes to the packet: icmp.h.
 */
#pragma once
#include "nat.h"
#include "flow.h"

/* The packet inside: where it stands, what it says, what it is to say. */
struct kp_quote {
	struct kp_tuple was;
	struct kp_tuple becomes;
	u16 l3;
	u16 l4;
	u8 proto;
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

/* The flow of the quoted packet; *from_client: whether the client had sent it. What a pod
 * has received straight from a backend, to the ports of a connection through a Service,
 * belongs to a diverted one. */
KP_INLINE struct kp_flow *kp_quote_flow(struct kp_context *ctx, const struct kp_quote *quote,
					bool *from_client)
{
	struct kp_flow_key key;
	bool high = kp_flow_key(&key, &quote->was.src, quote->was.src_port, &quote->was.dst,
				quote->was.dst_port, quote->proto);
	struct kp_flow *flow = kp_lookup(MAP(kp_flows), &key);

	if (flow && ctx->hook == KP_HOOK_FROM_POD && kp_is_translated_record(flow) &&
	    !kp_from_client(flow, high)) {
		key.diverted = 1;
		flow = kp_lookup(MAP(kp_flows), &key);
	}
	if (flow)
		*from_client = kp_from_client(flow, high);
	return flow;
}

/* Whose packet is quoted, as it went on from us? */
enum kp_quoted {
	KP_QUOTED_OTHER, /* one that we did not translate */
	KP_QUOTED_CLIENT, /* a client's, as its backend is to see it */
	KP_QUOTED_BACKEND, /* a backend's reply, as its client is to see it */
	KP_QUOTED_TRANSIT, /* a client's, already for the backend, not yet masqueraded */
};

KP_INLINE enum kp_quoted kp_quoted(const struct kp_flow *flow, bool from_client)
{
	if (flow->flags & KP_FLOW_TRANSIT)
		return from_client ? KP_QUOTED_TRANSIT : KP_QUOTED_OTHER;
	if (flow->flags & KP_FLOW_ALIAS)
		return from_client ? KP_QUOTED_OTHER : KP_QUOTED_BACKEND;
	return from_client && kp_is_translated_record(flow) ? KP_QUOTED_CLIENT : KP_QUOTED_OTHER;
}

/* Decides quote->becomes and pkt->becomes: the quote as its sender sent it, and the error
 * from whoever that one thinks it has spoken to, if it is that one's own word, or goes out
 * again: a router drops what has its own address as its source. */
KP_INLINE void kp_quote_translate(struct kp_context *ctx, struct kp_quote *quote,
				  const struct kp_flow *flow, enum kp_quoted quoted)
{
	struct kp_packet *pkt = ctx->pkt;
	bool own_word = kp_addr_equal(&pkt->was.src, &quote->was.dst);
	bool leaves_again = quoted == KP_QUOTED_CLIENT ? !flow->client_ifindex :
			    quoted == KP_QUOTED_BACKEND && !flow->backend_ifindex &&
				    !(flow->flags & KP_FLOW_BY_STACK);

	pkt->becomes = pkt->was;
	if (quoted == KP_QUOTED_BACKEND) {
		quote->becomes.src = flow->nat_addr;
		quote->becomes.src_port = flow->nat_port;
		quote->becomes.dst = flow->masq_addr;
		quote->becomes.dst_port = flow->client_port;
	} else {
		quote->becomes.dst = flow->nat_addr;
		quote->becomes.dst_port = flow->nat_port;
	}
	if (quoted == KP_QUOTED_CLIENT) {
		quote->becomes.src = flow->masq_addr;
		quote->becomes.src_port = flow->client_port;
	}
	pkt->becomes.dst = quote->becomes.src;
	if (own_word || (leaves_again && ctx->hook != KP_HOOK_TO_POD))
		pkt->becomes.src = quote->becomes.dst;
}
