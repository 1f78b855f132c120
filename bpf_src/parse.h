// SPDX-License-Identifier: GPL-2.0-only
/* From bytes to struct kp_packet. The only reader of headers besides those that rewrite.
 *
 * Every parser fills ctx->pkt and returns KP_NEXT, or a verdict where the packet's stay
 * ends here: not ours to touch, or malformed.
 */
#pragma once
#include "packet.h"

/* IPv6 extension headers walked (RFC 8200, 4.1 lists seven kinds, each once). */
#define KP_EXTENSION_HEADERS 7
/* Link, network and transport header without options. */
#define KP_LINEAR (KP_L3 + sizeof(struct kp_ip6hdr) + sizeof(struct kp_tcphdr))

enum {
	KP_ICMP_ECHO_REPLY = 0,
	KP_ICMP_UNREACHABLE = 3,
	KP_ICMP_ECHO = 8,
	KP_ICMP_TIME_EXCEEDED = 11,
	KP_ICMP_PARAMETER_PROBLEM = 12,
	KP_ICMPV6_ERROR_MAX = 127, /* RFC 4443: below 128 is an error */
	KP_ICMPV6_ECHO = 128,
	KP_ICMPV6_ECHO_REPLY = 129,
	KP_ICMPV6_ND_FIRST = 133, /* RFC 4861: router solicitation to redirect */
	KP_ICMPV6_ND_LAST = 137,
};

KP_INLINE bool kp_icmp_is_error(u8 proto, u8 type)
{
	if (proto == KP_PROTO_ICMPV6)
		return type <= KP_ICMPV6_ERROR_MAX;
	return type == KP_ICMP_UNREACHABLE || type == KP_ICMP_TIME_EXCEEDED ||
	       type == KP_ICMP_PARAMETER_PROBLEM;
}

KP_INLINE bool kp_icmp_is_echo(u8 proto, u8 type)
{
	if (proto == KP_PROTO_ICMPV6)
		return type == KP_ICMPV6_ECHO || type == KP_ICMPV6_ECHO_REPLY;
	return type == KP_ICMP_ECHO || type == KP_ICMP_ECHO_REPLY;
}

/* Neighbour discovery between global addresses: a router must not take part. */
KP_INLINE bool kp_icmp_is_neighbour(u8 proto, u8 type)
{
	return proto == KP_PROTO_ICMPV6 && type >= KP_ICMPV6_ND_FIRST && type <= KP_ICMPV6_ND_LAST;
}

/* The first `size` bytes of the transport header; NULL where the packet ends before,
 * even though the frame may go on: padding is no header. */
KP_INLINE void *kp_l4_bytes(struct kp_context *ctx, u32 size)
{
	if (ctx->pkt->l4 + size > ctx->pkt->end)
		return NULL;
	return kp_bytes(ctx, ctx->pkt->l4, size);
}

/* Ports, TCP flags, ICMP identifier. A protocol without ports has zero in both. */
KP_INLINE int kp_parse_l4(struct kp_context *ctx)
{
	struct kp_packet *pkt = ctx->pkt;
	void *l4;

	KP_FORGET();
	if (pkt->fragment == KP_FRAGMENT_LATER)
		return KP_NEXT;
	if (unlikely(pkt->l4 > KP_LINEAR - sizeof(struct kp_tcphdr)))
		kp_linear(ctx, pkt->l4 + sizeof(struct kp_tcphdr));
	if (pkt->proto == KP_PROTO_TCP) {
		struct kp_tcphdr *tcp = l4 = kp_l4_bytes(ctx, sizeof(*tcp));

		if (!l4)
			return KP_DROP_SHORT;
		pkt->was.src_port = tcp->src;
		pkt->was.dst_port = tcp->dst;
		pkt->control = tcp->flags;
	} else if (pkt->proto == KP_PROTO_UDP) {
		struct kp_udphdr *udp = l4 = kp_l4_bytes(ctx, sizeof(*udp));

		if (!l4)
			return KP_DROP_SHORT;
		pkt->was.src_port = udp->src;
		pkt->was.dst_port = udp->dst;
	} else if (pkt->proto == KP_PROTO_SCTP) {
		/* Common header of 12 bytes, then the type of the first chunk. */
		__be16 *ports = l4 = kp_l4_bytes(ctx, 16);

		if (!l4)
			return KP_DROP_SHORT;
		pkt->was.src_port = ports[0];
		pkt->was.dst_port = ports[1];
		pkt->control = ((u8 *)l4)[12];
	} else if (pkt->proto == (pkt->ipv6 ? KP_PROTO_ICMPV6 : KP_PROTO_ICMP)) {
		struct kp_icmphdr *icmp = l4 = kp_l4_bytes(ctx, sizeof(*icmp));

		if (!l4)
			return KP_DROP_SHORT;
		if (kp_icmp_is_neighbour(pkt->proto, icmp->type))
			return KP_PASS_NOT_OURS;
		if (kp_icmp_is_echo(pkt->proto, icmp->type))
			pkt->was.src_port = pkt->was.dst_port = icmp->id;
		pkt->icmp_error = kp_icmp_is_error(pkt->proto, icmp->type);
	}
	return KP_NEXT;
}

/* RFC 791. Multicast, broadcast and what is unspecified (DHCP's source) stay with the host. */
KP_INLINE int kp_parse_ipv4(struct kp_context *ctx)
{
	struct kp_packet *pkt = ctx->pkt;
	struct kp_iphdr *ip = kp_bytes(ctx, KP_L3, sizeof(*ip));
	u32 header, total;

	if (!ip)
		return KP_DROP_SHORT;
	header = (ip->version_ihl & 0xf) * 4;
	total = kp_ntohs(ip->total_len);
	if (!total && ctx->skb->gso_size) /* BIG TCP: longer than the field can say */
		total = ctx->skb->len - KP_L3;
	if (ip->version_ihl >> 4 != 4 || header < sizeof(*ip) || total < header)
		return KP_DROP_BAD_IP;
	if (KP_L3 + total > ctx->skb->len)
		return KP_DROP_SHORT;
	if ((ip->dst & kp_htonl(0xf0000000)) == kp_htonl(0xe0000000) || ip->dst == 0xffffffff ||
	    !ip->src || !ip->dst)
		return KP_PASS_NOT_OURS;
	kp_addr_from_ipv4(&pkt->was.src, ip->src);
	kp_addr_from_ipv4(&pkt->was.dst, ip->dst);
	pkt->proto = ip->proto;
	pkt->ttl = ip->ttl;
	pkt->l4 = KP_L3 + header;
	pkt->end = KP_L3 + total;
	if (unlikely(ip->frag & kp_htons(0x3fff))) {
		pkt->fragment = ip->frag & kp_htons(0x1fff) ? KP_FRAGMENT_LATER : KP_FRAGMENT_FIRST;
		pkt->fragment_id = ip->id;
	}
	return KP_NEXT;
}

KP_INLINE bool kp_is_extension(u8 proto)
{
	return proto == KP_PROTO_HOP_BY_HOP || proto == KP_PROTO_ROUTING ||
	       proto == KP_PROTO_FRAGMENT || proto == KP_PROTO_AH || proto == KP_PROTO_DEST_OPTIONS;
}

/* Walks the extension headers to the transport header. ctx->pkt->l4 and ctx->pkt->proto
 * come in as the first header behind the fixed one. */
KP_INLINE int kp_parse_extensions(struct kp_context *ctx)
{
	struct kp_packet *pkt = ctx->pkt;
	u32 offset = pkt->l4;

	for (int i = 0; i <= KP_EXTENSION_HEADERS; i++) {
		u8 proto = pkt->proto, next[8];

		if (offset > KP_L4_MAX)
			return KP_DROP_EXTENSION_HEADERS;
		pkt->l4 = offset;
		if (!kp_is_extension(proto))
			return KP_NEXT;
		if (kp_load(ctx->skb, offset, next, sizeof(next)))
			return KP_DROP_SHORT;
		pkt->proto = next[0];
		if (proto == KP_PROTO_FRAGMENT) {
			__be16 place = *(__be16 *)(next + 2);

			pkt->fragment_id = *(u32 *)(next + 4);
			if (place & kp_htons(0xfff8)) {
				/* What follows is data, whatever next[0] calls it. */
				pkt->fragment = KP_FRAGMENT_LATER;
				return KP_NEXT;
			}
			if (place & kp_htons(1))
				pkt->fragment = KP_FRAGMENT_FIRST;
			offset += 8;
		} else {
			offset += proto == KP_PROTO_AH ? (next[1] + 2) * 4 : (next[1] + 1) * 8;
		}
	}
	return KP_DROP_EXTENSION_HEADERS;
}

/* RFC 8200. Link-local and multicast traffic (neighbour discovery, MLD) stays with the host. */
KP_INLINE int kp_parse_ipv6(struct kp_context *ctx)
{
	struct kp_packet *pkt = ctx->pkt;
	struct kp_ip6hdr *ip = kp_bytes(ctx, KP_L3, sizeof(*ip));

	if (!ip)
		return KP_DROP_SHORT;
	if ((ip->version_class_label & kp_htonl(0xf0000000)) != kp_htonl(0x60000000))
		return KP_DROP_BAD_IP;
	if (KP_L3 + sizeof(*ip) + kp_ntohs(ip->payload_len) > ctx->skb->len)
		return KP_DROP_SHORT;
	if ((ip->dst[0] & kp_htonl(0xff000000)) == kp_htonl(0xff000000) ||
	    (ip->dst[0] & kp_htonl(0xffc00000)) == kp_htonl(0xfe800000) ||
	    (ip->src[0] & kp_htonl(0xffc00000)) == kp_htonl(0xfe800000) ||
	    !(ip->src[0] | ip->src[1] | ip->src[2] | ip->src[3]) ||
	    !(ip->dst[0] | ip->dst[1] | ip->dst[2] | ip->dst[3]))
		return KP_PASS_NOT_OURS;
	kp_addr_from_ipv6(&pkt->was.src, ip->src);
	kp_addr_from_ipv6(&pkt->was.dst, ip->dst);
	pkt->ipv6 = 1;
	pkt->proto = ip->next;
	pkt->ttl = ip->hop_limit;
	pkt->l4 = KP_L3 + sizeof(*ip);
	pkt->end = pkt->l4 + kp_ntohs(ip->payload_len);
	if (!ip->payload_len && ctx->skb->gso_size) /* BIG TCP */
		pkt->end = ctx->skb->len;
	return kp_parse_extensions(ctx);
}

KP_INLINE int kp_parse(struct kp_context *ctx)
{
	struct kp_packet *pkt = ctx->pkt;
	int verdict;

	if (ctx->skb->vlan_present)
		return KP_PASS_NOT_OURS;
	kp_linear(ctx, KP_LINEAR);
	pkt->was.src_port = pkt->was.dst_port = 0;
	if (ctx->skb->protocol == kp_htons(KP_ETH_P_IP))
		verdict = kp_parse_ipv4(ctx);
	else if (ctx->skb->protocol == kp_htons(KP_ETH_P_IPV6))
		verdict = kp_parse_ipv6(ctx);
	else
		return KP_PASS_NOT_OURS;
	if (verdict == KP_NEXT)
		verdict = kp_parse_l4(ctx);
	if (unlikely(!pkt->l4)) /* not even the addresses were there */
		__builtin_memset(&pkt->was, 0, sizeof(pkt->was));
	return verdict;
}
