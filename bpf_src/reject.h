// SPDX-License-Identifier: GPL-2.0-only
/* Refusal: the packet itself is turned into its answer and goes back to the pod.
 *
 * TCP gets a reset (RFC 9293, 3.5.2), everything else "port unreachable" (RFC 792,
 * RFC 4443) that quotes as far as the ports. So a client learns at once.
 */
#pragma once
#include "nat.h"

#define KP_ANSWER_TTL 64
#define KP_QUOTED_L4 8

/* So many a second and CPU: a flood of refusals would cost more than it helps. */
KP_INLINE bool kp_may_refuse(struct kp_context *ctx)
{
	u32 zero = 0;
	struct kp_bucket *bucket = kp_slot(MAP(kp_buckets), &zero);

	if (!bucket || ctx->pkt->trace)
		return ctx->pkt->trace;
	if (kp_now_ns(ctx) - bucket->since_ns >= KP_SEC_NS) {
		bucket->since_ns = kp_now_ns(ctx);
		bucket->spent = 0;
	}
	return bucket->spent++ < ctx->config->refusals_per_sec;
}

KP_INLINE void kp_swap_macs(struct kp_ethhdr *eth)
{
	struct kp_mac mac;

	kp_mac_copy(&mac, eth->dst);
	kp_mac_copy(eth->dst, eth->src);
	kp_mac_copy(eth->src, &mac);
}

/* ---- TCP: reset ------------------------------------------------------------- */

/* Link and network layer of a packet that goes back with `len` bytes behind its
 * IP header or headers: options and extensions stay. */
KP_INLINE bool kp_turn_around(struct kp_context *ctx, u32 len)
{
	struct kp_packet *pkt = ctx->pkt;
	struct kp_ethhdr *eth = kp_bytes(ctx, 0, KP_ETH_LEN + sizeof(struct kp_iphdr));

	if (!eth)
		return false;
	kp_swap_macs(eth);
	if (pkt->ipv6) {
		struct kp_ip6hdr *ip = kp_bytes(ctx, KP_ETH_LEN, sizeof(*ip));

		if (!ip)
			return false;
		kp_addr_to_ipv6(ip->src, &pkt->was.dst);
		kp_addr_to_ipv6(ip->dst, &pkt->was.src);
		ip->payload_len = kp_htons(pkt->l4 - KP_ETH_LEN - sizeof(*ip) + len);
		ip->hop_limit = KP_ANSWER_TTL;
	} else {
		struct kp_iphdr *ip = (void *)(eth + 1);
		__be16 total = kp_htons(pkt->l4 - KP_ETH_LEN + len);
		u32 diff = (u16)~ip->total_len + total + (u16)~ip->frag + kp_htons(0x4000) +
			   (u16)~kp_htons(ip->ttl << 8) + kp_htons(KP_ANSWER_TTL << 8);

		ip->src = pkt->was.dst.word32[3];
		ip->dst = pkt->was.src.word32[3];
		ip->total_len = total;
		ip->frag = kp_htons(0x4000); /* do not fragment */
		ip->ttl = KP_ANSWER_TTL;
		ip->check = kp_checksum_moved(ip->check, diff);
	}
	return true;
}

/* Sequence space that a segment takes: its data, SYN and FIN. */
KP_INLINE u32 kp_segment_len(const struct kp_packet *pkt, const struct kp_tcphdr *tcp)
{
	u32 bytes = pkt->end - pkt->l4, header = (tcp->offset >> 4) * 4;

	return (bytes > header ? bytes - header : 0) + !!(tcp->flags & KP_TCP_SYN) +
	       !!(tcp->flags & KP_TCP_FIN);
}

KP_INLINE bool kp_reset(struct kp_context *ctx)
{
	struct kp_packet *pkt = ctx->pkt;
	struct kp_tcphdr *tcp = kp_bytes(ctx, pkt->l4, sizeof(*tcp));
	struct kp_tcphdr reset = {.src = pkt->was.dst_port, .dst = pkt->was.src_port, .offset = 5 << 4};
	u32 *word = (u32 *)&reset;
	u64 sum = kp_sum_pseudo(ctx, KP_PROTO_TCP, sizeof(reset));

	if (!tcp)
		return false;
	if (tcp->flags & KP_TCP_ACK) {
		reset.seq = tcp->ack;
		reset.flags = KP_TCP_RST;
	} else {
		reset.ack = kp_htonl(kp_ntohl(tcp->seq) + kp_segment_len(ctx->pkt, tcp));
		reset.flags = KP_TCP_RST | KP_TCP_ACK;
	}
	for (int i = 0; i < 5; i++)
		sum += word[i];
	reset.check = ~kp_fold16(kp_fold32(sum));

	if (kp_change_tail(ctx->skb, pkt->l4 + sizeof(reset), 0) ||
	    !kp_turn_around(ctx, sizeof(reset)))
		return false;
	tcp = kp_bytes(ctx, pkt->l4, sizeof(*tcp));
	if (!tcp)
		return false;
	*tcp = reset;
	return true;
}

/* ---- the others: port unreachable -------------------------------------------- */

struct kp_unreachable4 {
	struct kp_iphdr ip;
	struct kp_icmphdr icmp;
};

struct kp_unreachable6 {
	struct kp_ip6hdr ip;
	struct kp_icmphdr icmp;
};

/* Sum of `len` bytes at `offset`; both are multiples of 4 apart from the link header. */
KP_INLINE bool kp_sum_bytes(struct kp_context *ctx, u32 offset, u32 len, u64 *sum)
{
	u32 word;

	for (u32 at = 0; at < KP_L4_MAX; at += 4) {
		if (at >= len)
			return true;
		if (kp_load(ctx->skb, offset + at, &word, 4))
			return false;
		*sum += word;
	}
	return false;
}

KP_INLINE bool kp_unreachable_ipv4(struct kp_context *ctx, u32 quoted)
{
	struct kp_unreachable4 head = {
		.ip.version_ihl = 0x45,
		.ip.tos = 0xc0, /* internetwork control: RFC 1812, 4.3.2.5 */
		.ip.total_len = kp_htons(sizeof(head) + quoted),
		.ip.ttl = KP_ANSWER_TTL,
		.ip.proto = KP_PROTO_ICMP,
		.ip.src = ctx->pkt->was.dst.word32[3],
		.ip.dst = ctx->pkt->was.src.word32[3],
		.icmp.type = 3,
		.icmp.code = 3,
	};
	u32 *word = (u32 *)&head.ip;
	u64 ip_sum = 0, icmp_sum = *(u32 *)&head.icmp;

	for (int i = 0; i < 5; i++)
		ip_sum += word[i];
	head.ip.check = ~kp_fold16(kp_fold32(ip_sum));
	if (!kp_sum_bytes(ctx, KP_ETH_LEN, quoted, &icmp_sum))
		return false;
	head.icmp.check = ~kp_fold16(kp_fold32(icmp_sum));
	return !kp_adjust_room(ctx->skb, sizeof(head), BPF_ADJ_ROOM_MAC, 0) &&
	       !kp_store(ctx->skb, KP_ETH_LEN, &head, sizeof(head), 0);
}

KP_INLINE bool kp_unreachable_ipv6(struct kp_context *ctx, u32 quoted)
{
	struct kp_unreachable6 head = {
		.ip.version_class_label = kp_htonl(0x60000000),
		.ip.payload_len = kp_htons(sizeof(head.icmp) + quoted),
		.ip.next = KP_PROTO_ICMPV6,
		.ip.hop_limit = KP_ANSWER_TTL,
		.icmp.type = 1,
		.icmp.code = 4,
	};
	u64 sum = *(u32 *)&head.icmp +
		  kp_sum_pseudo(ctx, KP_PROTO_ICMPV6, sizeof(head.icmp) + quoted);

	kp_addr_to_ipv6(head.ip.src, &ctx->pkt->was.dst);
	kp_addr_to_ipv6(head.ip.dst, &ctx->pkt->was.src);
	if (!kp_sum_bytes(ctx, KP_ETH_LEN, quoted, &sum))
		return false;
	head.icmp.check = ~kp_fold16(kp_fold32(sum));
	return !kp_adjust_room(ctx->skb, sizeof(head), BPF_ADJ_ROOM_MAC, 0) &&
	       !kp_store(ctx->skb, KP_ETH_LEN, &head, sizeof(head), 0);
}

KP_INLINE bool kp_unreachable(struct kp_context *ctx)
{
	u32 quoted = ctx->pkt->l4 - KP_ETH_LEN + KP_QUOTED_L4;
	struct kp_ethhdr *eth;

	if (kp_change_tail(ctx->skb, KP_ETH_LEN + quoted, 0))
		return false;
	if (!(ctx->pkt->ipv6 ? kp_unreachable_ipv6(ctx, quoted) : kp_unreachable_ipv4(ctx, quoted)))
		return false;
	eth = kp_bytes(ctx, 0, sizeof(*eth));
	if (!eth)
		return false;
	kp_swap_macs(eth);
	return true;
}

/* ------------------------------------------------------------------------------ */

/* Returns the verdict under which the packet is counted. A reset is never answered, nor
 * a segment in fragments, which no client sends. */
KP_INLINE int kp_refuse(struct kp_context *ctx, int verdict)
{
	struct kp_packet *pkt = ctx->pkt;
	bool tcp = pkt->proto == KP_PROTO_TCP;

	if (tcp && (pkt->control & KP_TCP_RST || pkt->fragment))
		return verdict;
	if (!kp_may_refuse(ctx))
		return KP_DROP_REFUSAL_RATE;
	if (!(tcp ? kp_reset(ctx) : kp_unreachable(ctx)))
		return KP_DROP_REWRITE;
	pkt->ifindex = ctx->skb->ifindex;
	kp_step(ctx, KP_STEP_REFUSED);
	return verdict;
}
