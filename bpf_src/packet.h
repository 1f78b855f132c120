// SPDX-License-Identifier: GPL-2.0-only
/* The packet at hand: one context, handed through every stage.
 *
 * A stage returns a verdict, which ends the packet's stay (verdict.h), or KP_NEXT.
 */
#pragma once
#include "kernel.h"
#include "abi.h"
#include "addr.h"
#include "abi_assert.h"
#include "maps.h"

#define KP_NEXT (-1)
#define KP_SEC_NS 1000000000ll

/* No transport header starts behind this offset; every offset is masked to twice
 * that, which is how the verifier knows too. */
#define KP_L4_MAX 512
#define KP_OFFSET_MASK 1023

/* Marks of a packet that `kpbpf trace` sends through by test-run: it changes no map, and
 * is not counted. */
#define KP_TRACE_MARK3 0x6b706270
#define KP_TRACE_MARK4 0x74726163

/* Mark, in cb[2], of a packet that we have routed out: it comes by to_wire once more. */
#define KP_ROUTED_MARK 0x6b70726f

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

/* How a packet goes on that does not just go its way. */
enum kp_out {
	KP_OUT_STACK, /* it just does */
	KP_OUT_PEER, /* into the pod behind the interface, past both ends of its veth pair */
	KP_OUT_DEVICE, /* leaves by the interface */
	KP_OUT_NODE, /* enters by the interface once more, for the node's own sockets */
	KP_OUT_ROUTE, /* leaves as the kernel's routes say: see route.h */
};

/* What is known of the packet so far. It lives in a per-CPU map, not on the stack:
 * the verifier follows every value on the stack down every path, and would try all
 * families times protocols times fragments; of a map's content it knows nothing. */
struct kp_packet {
	u64 cleared[0]; /* KP_CLEARED words from here are zero for every packet */
	u32 steps; /* enum kp_step, one bit each */
	u32 ifindex; /* of the interface that `out` is about */
	u32 fragment_id; /* as it stands in the packet */
	u32 end; /* offset behind the IP packet's last byte */
	u16 l4; /* offset of the transport header */
	u8 out; /* enum kp_out */
	u8 proto;
	u8 ipv6;
	u8 fragment; /* enum kp_fragment_kind */
	u8 ttl; /* hop limit */
	u8 control; /* TCP flags; SCTP: type of the first chunk */
	u8 icmp_error; /* an ICMP error: judged by the packet that it quotes */
	u8 rewrite; /* becomes differs from was: to be written */
	u8 trace; /* `kpbpf trace`: no map is changed */
	u8 here; /* a new connection's backend is an endpoint of this node */
	u8 masquerade; /* a new connection shows its backend another client */
	u8 verdict; /* enum kp_verdict */
	u8 blurred; /* see kp_blur */
	u8 only_local; /* a new connection may only go to endpoints of this node */
	struct kp_tuple was; /* as it came */
	struct kp_tuple becomes; /* as it leaves, where `rewrite` says so */
	u8 mac[6]; /* of whoever gets it: a pod, or for KP_OUT_NODE the uplink */
	u8 node_mac[6]; /* the node's, which a pod sees; not set by from_pod */
	u32 transit; /* kp_route has left it to the stack, which is to masquerade: see kp_transit_put */
	struct bpf_fib_lookup fib; /* question and answer of route.h */
	struct kp_frontend_key where; /* a new connection: what it is for, and where that stands */
	struct kp_frontend frontend;
	struct kp_endpoint target; /* its backend's pod; no ifindex: none of this node */
	struct kp_flow_key key; /* of its records, one after the other */
	u8 sticky; /* its backend is the one that the client had last */
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

/* The same value; but the verifier, which would follow both down every path from here on,
 * knows it no more. For paths that few packets take. */
KP_INLINE bool kp_blur(struct kp_context *ctx, bool value)
{
	ctx->pkt->blurred = value;
	KP_FORGET();
	return ctx->pkt->blurred;
}

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
