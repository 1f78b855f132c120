// SPDX-License-Identifier: GPL-2.0-only
/* The packet at hand: one context, handed through every stage.
 *
 * A stage returns a verdict, which ends the packet's stay (verdict.h), or KP_NEXT.
 */
#pragma once
#include "kernel.h"
#include "abi.h"
#include "abi_assert.h"
#include "maps.h"

#define KP_NEXT (-1)

/* No transport header starts behind this offset; every offset is masked to twice
 * that, which is how the verifier knows too. */
#define KP_L4_MAX 512
#define KP_OFFSET_MASK 1023

/* Marks of a packet that `kpbpf trace` sends through by test-run: it changes no map, and
 * is not counted. */
#define KP_TRACE_MARK3 0x6b706270
#define KP_TRACE_MARK4 0x74726163

struct kp_tuple {
	struct kp_addr src;
	struct kp_addr dst;
	__be16 src_port; /* ICMP echo: the identifier, in both */
	__be16 dst_port;
};

enum kp_fragment_kind {
	KP_FRAGMENT_NONE,
	KP_FRAGMENT_FIRST,
	KP_FRAGMENT_LATER, /* carries no ports */
};

/* What is known of the packet so far. It lives in a per-CPU map, not on the stack:
 * the verifier follows every value on the stack down every path, and would try all
 * families times protocols times fragments; of a map's content it knows nothing. */
struct kp_packet {
	u64 cleared[0]; /* KP_CLEARED words from here are zero for every packet */
	u32 steps; /* enum kp_step, one bit each */
	u32 ifindex; /* deliver straight into the pod behind this interface; 0: to the stack */
	u32 fragment_id; /* as it stands in the packet */
	u32 end; /* offset behind the IP packet's last byte */
	u16 l4; /* offset of the transport header */
	u8 mac[6]; /* of the pod behind ifindex */
	u8 proto;
	u8 ipv6;
	u8 fragment; /* enum kp_fragment_kind */
	u8 ttl; /* hop limit */
	u8 control; /* TCP flags; SCTP: type of the first chunk */
	u8 icmp_error; /* an ICMP error: judged by the packet that it quotes */
	u8 rewrite; /* becomes differs from was: to be written */
	u8 trace; /* `kpbpf trace`: no map is changed */
	struct kp_tuple was; /* as it came */
	struct kp_tuple becomes; /* as it leaves, where `rewrite` says so */
	u8 verdict; /* enum kp_verdict */
};

#define KP_CLEARED 4

_Static_assert(__builtin_offsetof(struct kp_packet, was) == KP_CLEARED * 8, "all are cleared");
_Static_assert(sizeof(struct kp_packet) <= sizeof(struct kp_scratch), "scratch is too small");

/* Handed through every stage. */
struct kp_context {
	struct __sk_buff *skb;
	const struct kp_config *config;
	struct kp_packet *pkt;
	u64 clock_ns; /* kp_now_ns asks once; 0: nobody has asked */
	u16 tick;
	u8 hook; /* enum kp_hook */
};

/* CLOCK_MONOTONIC. Reading it costs as much as half a lookup, so a known flow looks
 * at its tick first: jiffies are there for nothing. */
KP_INLINE u64 kp_now_ns(struct kp_context *ctx)
{
	if (!ctx->clock_ns)
		ctx->clock_ns = kp_clock_ns();
	return ctx->clock_ns;
}

KP_INLINE void kp_step(struct kp_context *ctx, u32 step)
{
	ctx->pkt->steps |= 1u << step;
}

/* pkt->becomes is decided: the packet is to be rewritten. */
KP_INLINE void kp_to_rewrite(struct kp_context *ctx, u32 step)
{
	ctx->pkt->rewrite = 1;
	kp_step(ctx, step);
}

/* Link-layer addresses stand at even places everywhere; said so, they are copied in
 * three moves instead of six. */
struct kp_mac {
	u16 word[3];
};

KP_INLINE void kp_mac_copy(void *to, const void *from)
{
	*(struct kp_mac *)to = *(const struct kp_mac *)from;
}

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

/* A field of the context. The verifier wants context + constant in one instruction,
 * which compilers like to split; so it is spelled out. */
#define KP_CONTEXT(skb, field)                                                                 \
	({                                                                                     \
		u64 value_;                                                                    \
		asm volatile("%0 = *(u32 *)(%1 + %2)"                                          \
			     : "=r"(value_)                                                    \
			     : "r"(skb), "i"(__builtin_offsetof(struct __sk_buff, field)));    \
		value_;                                                                        \
	})

/* What is stored is to be read back from memory: see struct kp_packet. */
#define KP_FORGET() asm volatile("" ::: "memory")

/* Keeps the compiler from working out addresses within what a pointer points to before
 * the pointer was compared with NULL, which the verifier refuses. */
#define KP_OPAQUE(pointer) asm volatile("" : "+r"(pointer))

KP_INLINE u32 kp_linear_len(const struct kp_context *ctx)
{
	return KP_CONTEXT(ctx->skb, data_end) - KP_CONTEXT(ctx->skb, data);
}

/* Makes the first `len` bytes of the frame, or all of a shorter one, reachable by
 * kp_bytes. Pointers got earlier are void afterwards. */
KP_INLINE void kp_linear(struct kp_context *ctx, u32 len)
{
	if (len > ctx->skb->len)
		len = ctx->skb->len;
	if (unlikely(kp_linear_len(ctx) < len))
		kp_pull(ctx->skb, len);
}

/* `size` bytes of the frame at `offset`, to read and write in place; NULL where the
 * frame's linear part ends before. */
KP_INLINE void *kp_bytes(const struct kp_context *ctx, u32 offset, u32 size)
{
	void *start = (void *)KP_CONTEXT(ctx->skb, data) + (offset & KP_OFFSET_MASK);

	return start + size <= (void *)KP_CONTEXT(ctx->skb, data_end) ? start : NULL;
}
