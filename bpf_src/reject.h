// SPDX-License-Identifier: GPL-2.0-only
/* Refusal: the packet itself is turned into its answer and goes back where it came from.
 *
 * TCP gets a reset (RFC 9293, 3.5.2), everything else "port unreachable" (RFC 792,
 * RFC 4443) that quotes as far as the ports. So a client learns at once. The sender of a
 * packet too big for its way is told the MTU, whatever the protocol.
 */
#pragma once
#include "forward.h"

#define KP_ANSWER_TTL 64
#define KP_QUOTED_L4 8
/* Of TCP the whole header: the kernel lets nobody cut off a checksum that a device is still
 * to fill in. */
#define KP_QUOTED_TCP 20

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

/* Devices without an Ethernet header have nothing to swap. */
KP_INLINE bool kp_swap_macs(struct kp_context *ctx)
{
	struct kp_ethhdr *eth;
	struct kp_mac mac;

	if (!KP_L3)
		return true;
	eth = kp_bytes(ctx, 0, sizeof(*eth));
	if (!eth)
		return false;
	kp_mac_copy(&mac, eth->dst);
	kp_mac_copy(eth->dst, eth->src);
	kp_mac_copy(eth->src, &mac);
	return true;
}

/* ---- TCP: reset ------------------------------------------------------------- */

/* Link and network layer of a packet that goes back with `len` bytes behind its
 * IP header or headers: options and extensions stay. */
KP_INLINE bool kp_turn_around(struct kp_context *ctx, u32 len)
{
	struct kp_packet *pkt = ctx->pkt;

	if (!kp_swap_macs(ctx))
		return false;
	if (pkt->ipv6) {
		struct kp_ip6hdr *ip = kp_bytes(ctx, KP_L3, sizeof(*ip));

		if (!ip)
			return false;
		kp_addr_to_ipv6(ip->src, &pkt->was.dst);
		kp_addr_to_ipv6(ip->dst, &pkt->was.src);
		ip->payload_len = kp_htons(pkt->l4 - KP_L3 - sizeof(*ip) + len);
		ip->hop_limit = KP_ANSWER_TTL;
	} else {
		struct kp_iphdr *ip = kp_bytes(ctx, KP_L3, sizeof(*ip));
		__be16 total = kp_htons(pkt->l4 - KP_L3 + len);
		u32 diff;

		if (!ip)
			return false;
		diff = (u16)~ip->total_len + total + (u16)~ip->frag + kp_htons(0x4000) +
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

/* ---- ICMP: port unreachable, or too big ---------------------------------------- */

/* RFC 792 and RFC 4443; for a packet that is too big RFC 1191 and RFC 4443, 3.2: the MTU
 * stands where an echo has its numbers, which is what route.h was told. */
KP_INLINE struct kp_icmphdr kp_complaint(struct kp_context *ctx, int verdict)
{
	struct kp_packet *pkt = ctx->pkt;
	bool too_big = verdict == KP_DROP_TOO_BIG;

	if (pkt->ipv6)
		return (struct kp_icmphdr){
			.type = too_big ? 2 : 1,
			.code = too_big ? 0 : 4,
			.seq = too_big ? kp_htons(pkt->fib.mtu_result) : 0,
		};
	return (struct kp_icmphdr){
		.type = 3,
		.code = too_big ? 4 : 3,
		.seq = too_big ? kp_htons(pkt->fib.mtu_result) : 0,
	};
}

struct kp_complaint4 {
	struct kp_iphdr ip;
	struct kp_icmphdr icmp;
};

struct kp_complaint6 {
	struct kp_ip6hdr ip;
	struct kp_icmphdr icmp;
};

KP_INLINE u64 kp_sum_icmp(const struct kp_icmphdr *icmp)
{
	const u32 *word = (const u32 *)icmp;

	return (u64)word[0] + word[1];
}

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

KP_INLINE bool kp_complain_ipv4(struct kp_context *ctx, struct kp_icmphdr icmp, u32 quoted)
{
	struct kp_complaint4 head = {
		.ip.version_ihl = 0x45,
		.ip.tos = 0xc0, /* internetwork control: RFC 1812, 4.3.2.5 */
		.ip.total_len = kp_htons(sizeof(head) + quoted),
		.ip.ttl = KP_ANSWER_TTL,
		.ip.proto = KP_PROTO_ICMP,
		.ip.src = ctx->pkt->was.dst.word32[3],
		.ip.dst = ctx->pkt->was.src.word32[3],
		.icmp = icmp,
	};
	u32 *word = (u32 *)&head.ip;
	u64 ip_sum = 0, icmp_sum = kp_sum_icmp(&icmp);

	for (int i = 0; i < 5; i++)
		ip_sum += word[i];
	head.ip.check = ~kp_fold16(kp_fold32(ip_sum));
	if (!kp_sum_bytes(ctx, KP_L3, quoted, &icmp_sum))
		return false;
	head.icmp.check = ~kp_fold16(kp_fold32(icmp_sum));
	return !kp_adjust_room(ctx->skb, sizeof(head), BPF_ADJ_ROOM_MAC, 0) &&
	       !kp_store(ctx->skb, KP_L3, &head, sizeof(head), 0);
}

KP_INLINE bool kp_complain_ipv6(struct kp_context *ctx, struct kp_icmphdr icmp, u32 quoted)
{
	struct kp_complaint6 head = {
		.ip.version_class_label = kp_htonl(0x60000000),
		.ip.payload_len = kp_htons(sizeof(head.icmp) + quoted),
		.ip.next = KP_PROTO_ICMPV6,
		.ip.hop_limit = KP_ANSWER_TTL,
		.icmp = icmp,
	};
	u64 sum = kp_sum_icmp(&icmp) +
		  kp_sum_pseudo(ctx, KP_PROTO_ICMPV6, sizeof(head.icmp) + quoted);

	kp_addr_to_ipv6(head.ip.src, &ctx->pkt->was.dst);
	kp_addr_to_ipv6(head.ip.dst, &ctx->pkt->was.src);
	if (!kp_sum_bytes(ctx, KP_L3, quoted, &sum))
		return false;
	head.icmp.check = ~kp_fold16(kp_fold32(sum));
	return !kp_adjust_room(ctx->skb, sizeof(head), BPF_ADJ_ROOM_MAC, 0) &&
	       !kp_store(ctx->skb, KP_L3, &head, sizeof(head), 0);
}

KP_INLINE bool kp_complain(struct kp_context *ctx, int verdict)
{
	bool tcp = ctx->pkt->proto == KP_PROTO_TCP;
	u32 quoted = ctx->pkt->l4 - KP_L3 + (tcp ? KP_QUOTED_TCP : KP_QUOTED_L4);
	struct kp_icmphdr icmp = kp_complaint(ctx, verdict);

	if (kp_change_tail(ctx->skb, KP_L3 + quoted, 0))
		return false;
	return (ctx->pkt->ipv6 ? kp_complain_ipv6(ctx, icmp, quoted) :
				 kp_complain_ipv4(ctx, icmp, quoted)) &&
	       kp_swap_macs(ctx);
}

/* ------------------------------------------------------------------------------ */

/* Where the answer goes: into the pod; out by the same device; to the node's own process.
 * A pod whose packet has come as far as the wire gets it by its host's end, which to_wire
 * has put in pkt->ifindex. */
KP_INLINE int kp_send_back(struct kp_context *ctx)
{
	struct kp_packet *pkt = ctx->pkt;

	if (ctx->hook == KP_HOOK_TO_WIRE && pkt->ifindex) {
		pkt->out = KP_OUT_DEVICE;
		pkt->ttl = 0; /* the answer is as young as can be */
		return kp_hand_over(ctx);
	}
	pkt->ifindex = ctx->skb->ifindex;
	pkt->out = ctx->hook == KP_HOOK_FROM_POD  ? KP_OUT_PEER :
		   ctx->hook == KP_HOOK_FROM_WIRE ? KP_OUT_DEVICE :
						    KP_OUT_NODE;
	return KP_NEXT;
}

/* Nothing is answered that is an answer of that kind itself, nor a later fragment, nor a
 * TCP segment in fragments by a reset: no client sends one. */
KP_INLINE bool kp_is_answered(const struct kp_packet *pkt, bool reset)
{
	if (reset)
		return !(pkt->control & KP_TCP_RST) && !pkt->fragment;
	return !pkt->icmp_error && pkt->fragment != KP_FRAGMENT_LATER;
}

/* Returns the verdict under which the packet is counted. */
KP_INLINE int kp_refuse(struct kp_context *ctx, int verdict)
{
	struct kp_packet *pkt = ctx->pkt;
	bool reset = pkt->proto == KP_PROTO_TCP && verdict != KP_DROP_TOO_BIG;

	if (!kp_is_answered(pkt, reset))
		return verdict;
	if (!kp_may_refuse(ctx))
		return KP_DROP_REFUSAL_RATE;
	if (!(reset ? kp_reset(ctx) : kp_complain(ctx, verdict)) || kp_send_back(ctx) != KP_NEXT) {
		pkt->out = KP_OUT_STACK;
		return KP_DROP_REWRITE;
	}
	kp_step(ctx, KP_STEP_REFUSED);
	return verdict;
}
