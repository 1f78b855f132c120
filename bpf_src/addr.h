// SPDX-License-Identifier: GPL-2.0-only
/* Addresses of both families in one form, as struct kp_addr has them. */
#pragma once
#include "kernel.h"
#include "abi.h"

KP_INLINE bool kp_addr_equal(const struct kp_addr *a, const struct kp_addr *b)
{
	return a->word64[1] == b->word64[1] && a->word64[0] == b->word64[0];
}

/* Addresses are written and read as words of 8 bytes: a load that spans two smaller
 * stores waits for them. Packets hold them at even places; every architecture that
 * runs us takes such loads. */
KP_INLINE void kp_addr_from_ipv4(struct kp_addr *addr, u32 ipv4)
{
	addr->word64[0] = 0;
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
	addr->word64[1] = (u64)ipv4 << 32 | 0xffff0000;
#else
	addr->word64[1] = 0xffffull << 32 | ipv4;
#endif
}

KP_INLINE void kp_addr_from_ipv6(struct kp_addr *addr, const u32 *ipv6)
{
	addr->word64[0] = *(const u64 *)ipv6;
	addr->word64[1] = *(const u64 *)(ipv6 + 2);
}

KP_INLINE void kp_addr_to_ipv6(u32 *ipv6, const struct kp_addr *addr)
{
	*(u64 *)ipv6 = addr->word64[0];
	*(u64 *)(ipv6 + 2) = addr->word64[1];
}
