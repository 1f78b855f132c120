// SPDX-License-Identifier: GPL-2.0-only
/* Rewrites addresses and ports: pkt->was becomes pkt->becomes, checksums with it.
 *
 * Everything is written in place: RFC 1624, equation 3. Only a checksum that offload has
 * left unfinished goes through bpf_l4_csum_replace, which alone can tell it for certain.
 */
#pragma once
#include "packet.h"
#include "sctp.h"

/* One's complement sum of what changes from `was` to `becomes` in an address. */
KP_INLINE u64 kp_addr_diff(const struct kp_addr *was, const struct kp_addr *becomes, bool ipv6)
{
	u64 diff = (u64)(u32)~was->word32[3] + becomes->word32[3];

	if (ipv6) {
		diff += (u64)(u32)~was->word32[0] + becomes->word32[0];
		diff += (u64)(u32)~was->word32[1] + becomes->word32[1];
		diff += (u64)(u32)~was->word32[2] + becomes->word32[2];
	}
	return diff;
}

KP_INLINE u32 kp_fold32(u64 sum)
{
	sum = (sum & 0xffffffff) + (sum >> 32);
	return (sum & 0xffffffff) + (sum >> 32);
}

KP_INLINE u16 kp_fold16(u32 sum)
{
	sum = (sum & 0xffff) + (sum >> 16);
	return (sum & 0xffff) + (sum >> 16);
}

/* A checksum field after the words it covers changed by `diff`. */
KP_INLINE u16 kp_checksum_moved(u16 check, u32 diff)
{
	return ~kp_fold16((u16)~check + (u32)kp_fold16(diff));
}

KP_INLINE u32 kp_sum_address(const struct kp_addr *addr, bool ipv6)
{
	u64 sum = addr->word32[3];

	if (ipv6)
		sum += (u64)addr->word32[0] + addr->word32[1] + addr->word32[2];
	return kp_fold32(sum);
}

/* The pseudo header of a transport checksum: RFC 9293, 3.1; RFC 8200, 8.1. */
KP_INLINE u64 kp_sum_pseudo(struct kp_context *ctx, u8 proto, u32 len)
{
	struct kp_packet *pkt = ctx->pkt;

	return (u64)kp_sum_address(&pkt->was.src, pkt->ipv6) +
	       kp_sum_address(&pkt->was.dst, pkt->ipv6) + kp_htons(proto) + kp_htons(len);
}

/* Might the device still have to finish this checksum (CHECKSUM_PARTIAL)? Then its field
 * holds the sum of the pseudo header and nothing more, which another one does once in
 * 65,536 times. `len` is the length that the pseudo header has. */
KP_INLINE bool kp_may_be_unfinished(struct kp_context *ctx, u16 check, u32 len)
{
	struct kp_packet *pkt = ctx->pkt;
	u16 pseudo = kp_fold16(kp_fold32(kp_sum_pseudo(ctx, pkt->proto, len)));

	return ctx->skb->gso_size || pkt->fragment || check == pseudo ||
	       ((u16)(check + 1) <= 1 && (u16)(pseudo + 1) <= 1); /* 0xffff is 0 */
}

/* One's complement sum of what changes in the ports. */
KP_INLINE u32 kp_ports_diff(const struct kp_packet *pkt)
{
	return (u16)~pkt->was.src_port + pkt->becomes.src_port + (u16)~pkt->was.dst_port +
	       pkt->becomes.dst_port;
}

/* A finished one is moved in place; else the kernel's helper does it, which knows better
 * and costs as much as a lookup. What the device has summed up itself (CHECKSUM_COMPLETE,
 * skb->csum) covers the addresses and this field: in IPv4 the header checksum makes up
 * for the addresses, in IPv6 this field does, and the helper reckons with IPv4 only. */
KP_INLINE int kp_rewrite_transport_checksum(struct kp_context *ctx, u32 addresses)
{
	struct kp_packet *pkt = ctx->pkt;
	u32 ports = kp_ports_diff(pkt);
	u32 offset = pkt->l4 + (pkt->proto == KP_PROTO_TCP ? 16 : 6);
	u64 flags = pkt->proto == KP_PROTO_UDP ? BPF_F_MARK_MANGLED_0 : 0;
	u32 len = pkt->end - pkt->l4;
	u16 *check;

	if (pkt->proto == KP_PROTO_UDP) {
		struct kp_udphdr *udp = kp_bytes(ctx, pkt->l4, sizeof(*udp));

		if (!udp)
			return KP_DROP_REWRITE;
		len = kp_ntohs(udp->len);
	}
	check = kp_bytes(ctx, offset, sizeof(*check));
	if (!check)
		return KP_DROP_REWRITE;
	if (pkt->proto == KP_PROTO_UDP && !*check) { /* it has none */
		kp_csum_update(ctx->skb, kp_fold32((pkt->ipv6 ? (u64)addresses : 0) + ports));
		return KP_NEXT;
	}
	if (!kp_may_be_unfinished(ctx, *check, len)) {
		*check = kp_checksum_moved(*check, kp_fold32((u64)addresses + ports));
		if (pkt->proto == KP_PROTO_UDP && !*check)
			*check = 0xffff;
		if (!pkt->ipv6)
			kp_csum_update(ctx->skb, ~addresses);
		return KP_NEXT;
	}
	if (kp_l4_csum(ctx->skb, offset, 0, addresses, flags | BPF_F_PSEUDO_HDR))
		return KP_DROP_REWRITE;
	if (!kp_ports_equal(&pkt->was, &pkt->becomes) &&
	    kp_l4_csum(ctx->skb, offset, 0, ports, flags))
		return KP_DROP_REWRITE;
	if (pkt->ipv6)
		kp_csum_update(ctx->skb, addresses);
	return KP_NEXT;
}

KP_INLINE int kp_rewrite_addresses(struct kp_context *ctx, u32 diff)
{
	struct kp_packet *pkt = ctx->pkt;

	if (pkt->ipv6) {
		struct kp_ip6hdr *ip = kp_bytes(ctx, KP_L3, sizeof(*ip));

		if (!ip)
			return KP_DROP_REWRITE;
		kp_addr_to_ipv6(ip->src, &pkt->becomes.src);
		kp_addr_to_ipv6(ip->dst, &pkt->becomes.dst);
	} else {
		struct kp_iphdr *ip = kp_bytes(ctx, KP_L3, sizeof(*ip));

		if (!ip)
			return KP_DROP_REWRITE;
		ip->src = pkt->becomes.src.word32[3];
		ip->dst = pkt->becomes.dst.word32[3];
		ip->check = kp_checksum_moved(ip->check, diff);
	}
	return KP_NEXT;
}

/* SCTP's checksum covers nothing of IP's header (sctp.h). What a device has summed up sees
 * the ports, the checksum, and IPv6's addresses change. */
KP_INLINE int kp_rewrite_sctp_checksum(struct kp_context *ctx, u32 addresses)
{
	struct kp_packet *pkt = ctx->pkt;
	u64 diff;
	int verdict = kp_sctp_move_checksum(ctx, &diff);

	if (verdict != KP_NEXT)
		return verdict;
	diff += (pkt->ipv6 ? (u64)addresses : 0) + kp_ports_diff(pkt);
	kp_csum_update(ctx->skb, kp_fold32(diff));
	return KP_NEXT;
}

KP_INLINE int kp_rewrite_ports(struct kp_context *ctx)
{
	struct kp_packet *pkt = ctx->pkt;
	__be16 *ports;

	if (kp_ports_equal(&pkt->was, &pkt->becomes))
		return KP_NEXT;
	if (pkt->proto != KP_PROTO_TCP && pkt->proto != KP_PROTO_UDP && pkt->proto != KP_PROTO_SCTP)
		return KP_DROP_REWRITE;
	ports = kp_bytes(ctx, pkt->l4, 4);
	if (!ports)
		return KP_DROP_REWRITE;
	ports[0] = pkt->becomes.src_port;
	ports[1] = pkt->becomes.dst_port;
	return KP_NEXT;
}

KP_INLINE int kp_rewrite(struct kp_context *ctx)
{
	struct kp_packet *pkt = ctx->pkt;
	bool later = pkt->fragment == KP_FRAGMENT_LATER;
	u32 diff = kp_fold32(kp_addr_diff(&pkt->was.src, &pkt->becomes.src, pkt->ipv6) +
			     kp_addr_diff(&pkt->was.dst, &pkt->becomes.dst, pkt->ipv6));
	int verdict;

	if (!later && (pkt->proto == KP_PROTO_TCP || pkt->proto == KP_PROTO_UDP)) {
		verdict = kp_rewrite_transport_checksum(ctx, diff);
		if (verdict != KP_NEXT)
			return verdict;
	} else if (!later && pkt->proto == KP_PROTO_SCTP) {
		verdict = kp_rewrite_sctp_checksum(ctx, diff);
		if (verdict != KP_NEXT)
			return verdict;
	} else if (pkt->ipv6) {
		kp_csum_update(ctx->skb, diff);
	}
	verdict = kp_rewrite_addresses(ctx, diff);
	if (verdict != KP_NEXT)
		return verdict;
	return later ? KP_NEXT : kp_rewrite_ports(ctx);
}
