// SPDX-License-Identifier: GPL-2.0-only
/* SCTP's checksum after its ports changed, without reading the packet.
 *
 * The checksum is CRC32c over the whole packet (RFC 9260, 6.8 and appendix A), which is
 * linear: whatever stands behind, a change `delta` of the first word moves it by
 * delta * x^(8 n) mod P in GF(2)[x], n being the packet's length. Numbers are polynomials with
 * x^0 as their highest bit, and the checksum stands in the packet with its lowest byte
 * first, so all is done in that byte order.
 *
 * What this cannot do: the first fragment of an IP datagram does not say how long the
 * whole is, so its ports stay (KP_DROP_REWRITE). Addresses inside INIT are not looked at.
 */
#pragma once
#include "packet.h"

#define KP_CRC32C 0x82f63b78u /* P, without x^32 */
#define KP_CRC32C_INVERSE 0xdea713f1u /* 1 / (P, with x^32), mod x^32, lowest bit x^0 */
#define KP_SCTP_CHECK 8 /* offset in the common header */
/* Bits of 8 n that are left once its first five are dealt with; of most packets: */
#define KP_EXPONENT_BITS 14
#define KP_EXPONENT_BITS_USUAL 9

/* A product of two, which stands in 64 bits, mod P: so many times P are added as make its
 * lower half, which are the powers too high, vanish. */
KP_INLINE u32 kp_crc_reduce(u64 product)
{
	const u64 modulus = (u64)KP_CRC32C << 1 | 1;
	u32 low = product, times = 0;

#pragma unroll
	for (int i = 0; i < 32; i++)
		if (KP_CRC32C_INVERSE >> i & 1)
			times ^= low << i;
#pragma unroll
	for (int i = 0; i < 33; i++)
		if (modulus >> i & 1)
			product ^= (u64)times << i;
	return product >> 32;
}

KP_INLINE u32 kp_crc_multiply(u32 a, u32 b)
{
	u64 product = 0;

#pragma unroll
	for (int i = 0; i < 32; i++)
		product ^= ((u64)a << (i + 1)) & -(u64)(b >> i & 1);
	return kp_crc_reduce(product);
}

/* a * a, or with `once_more` a * a * x: a zero goes between each two bits. */
KP_INLINE u32 kp_crc_square(u32 a, u32 once_more)
{
	u64 wide = a;

	wide = (wide | wide << 16) & 0x0000ffff0000ffffull;
	wide = (wide | wide << 8) & 0x00ff00ff00ff00ffull;
	wide = (wide | wide << 4) & 0x0f0f0f0f0f0f0f0full;
	wide = (wide | wide << 2) & 0x3333333333333333ull;
	wide = (wide | wide << 1) & 0x5555555555555555ull;
	return kp_crc_reduce(wide << 1 >> once_more);
}

/* x^(8 n) mod P, of the exponent's first bits at once, then bit by bit. */
KP_INLINE u32 kp_crc_power(u32 n)
{
	u32 exponent = (n & 0xffff) * 8;
	int bits = n >> 11 ? KP_EXPONENT_BITS : KP_EXPONENT_BITS_USUAL;
	u32 power = 0x80000000 >> (exponent >> bits);

#pragma nounroll
	while (bits-- > 0)
		power = kp_crc_square(power, exponent >> bits & 1);
	return power;
}

/* The checksum of a packet of `len` bytes after its ports went from `was` to `becomes`. 0
 * stays: a device is still to fill it in (CHECKSUM_PARTIAL), or both ends agreed to do
 * without (RFC 9653). One in 2^32 is 0 by itself, and is then wrong. */
KP_INLINE u32 kp_sctp_checksum_moved(u32 check, const struct kp_tuple *was,
				     const struct kp_tuple *becomes, u32 len)
{
	u32 delta = (kp_ntohs(was->src_port ^ becomes->src_port) << 16) |
		    kp_ntohs(was->dst_port ^ becomes->dst_port);

	if (!check)
		return 0;
	delta = kp_crc_multiply(__builtin_bswap32(delta), kp_crc_power(len));
	return check ^ kp_htonl(__builtin_bswap32(delta));
}

KP_INLINE bool kp_ports_equal(const struct kp_tuple *a, const struct kp_tuple *b)
{
	return a->src_port == b->src_port && a->dst_port == b->dst_port;
}

/* The packet at hand; *diff is the one's complement sum of the checksum's own change. A
 * large packet that is to be cut (gso_size) has none yet. */
KP_INLINE int kp_sctp_move_checksum(struct kp_context *ctx, u64 *diff)
{
	struct kp_packet *pkt = ctx->pkt;
	u32 was, *check;

	*diff = 0;
	if (kp_ports_equal(&pkt->was, &pkt->becomes) || ctx->skb->gso_size)
		return KP_NEXT;
	check = kp_bytes(ctx, pkt->l4 + KP_SCTP_CHECK, sizeof(*check));
	if (pkt->fragment || !check)
		return KP_DROP_REWRITE;
	was = *check;
	*check = kp_sctp_checksum_moved(was, &pkt->was, &pkt->becomes, pkt->end - pkt->l4);
	*diff = (u64)(u32)~was + *check;
	return KP_NEXT;
}
