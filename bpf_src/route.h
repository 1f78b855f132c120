// SPDX-License-Identifier: GPL-2.0-only
/* By route: the kernel says which way a packet goes, and we send it there at once.
 *
 * So neither a FORWARD policy, nor connection tracking, nor reverse path filters meet a
 * packet whose addresses we changed. Where the kernel's answer is more than an interface
 * and a next hop, the packet is left to the node's stack: it goes to the backend with the
 * client's own source, and a *transit* record tells to_wire what it is masqueraded as.
 */
#pragma once
#include "flow.h"
#include "forward.h"

enum { KP_AF_INET = 2, KP_AF_INET6 = 10 };

/* Bytes of the longest IP packet that leaves: of a segmented one, of its segments. */
KP_INLINE u32 kp_longest(struct kp_context *ctx)
{
	struct kp_packet *pkt = ctx->pkt;
	u32 header = sizeof(struct kp_udphdr), gso_size = ctx->skb->gso_size;

	if (!gso_size)
		return pkt->end - KP_L3;
	if (pkt->proto == KP_PROTO_TCP) {
		struct kp_tcphdr *tcp = kp_bytes(ctx, pkt->l4, sizeof(*tcp));

		header = tcp ? (tcp->offset >> 4) * 4 : sizeof(*tcp);
	}
	return pkt->l4 - KP_L3 + header + gso_size;
}

/* Asks for the way from `src` to `dst`, as a packet that came in by `ifindex` would go.
 * Returns BPF_FIB_LKUP_RET_*; pkt->fib then has interface and next hop, or the MTU that a
 * packet of `len` bytes does not fit (0: it does not matter). */
KP_INLINE int kp_fib_ask(struct kp_context *ctx, u32 ifindex, const struct kp_addr *src,
			 const struct kp_addr *dst, u32 len)
{
	struct kp_packet *pkt = ctx->pkt;
	struct bpf_fib_lookup *fib = &pkt->fib;

	__builtin_memset(fib, 0, sizeof(*fib));
	fib->family = pkt->ipv6 ? KP_AF_INET6 : KP_AF_INET;
	fib->l4_protocol = pkt->proto;
	fib->sport = pkt->becomes.src_port;
	fib->dport = pkt->becomes.dst_port;
	fib->tot_len = len < 0xffff ? len : 0xffff;
	fib->ifindex = ifindex;
	if (pkt->ipv6) {
		kp_addr_to_ipv6(fib->ipv6_src, src);
		kp_addr_to_ipv6(fib->ipv6_dst, dst);
	} else {
		fib->ipv4_src = src->word32[3];
		fib->ipv4_dst = dst->word32[3];
	}
	return kp_fib_lookup(ctx->skb, fib, sizeof(*fib), 0);
}

/* A pod's interface may not forward for all the kernel knows: then an uplink's routes. */
KP_INLINE int kp_fib(struct kp_context *ctx, const struct kp_addr *src, const struct kp_addr *dst,
		     u32 len)
{
	int answer = kp_fib_ask(ctx, ctx->skb->ifindex, src, dst, len);

	if (answer == BPF_FIB_LKUP_RET_FWD_DISABLED && ctx->config->uplink_ifindex)
		answer = kp_fib_ask(ctx, ctx->config->uplink_ifindex, src, dst, len);
	return answer;
}

KP_INLINE bool kp_fib_knows(int answer)
{
	return answer == BPF_FIB_LKUP_RET_SUCCESS || answer == BPF_FIB_LKUP_RET_NO_NEIGH;
}

/* A packet that a smaller link may cut to pieces: RFC 791, but not RFC 8200. */
KP_INLINE bool kp_may_be_cut(struct kp_context *ctx)
{
	struct kp_iphdr *ip = kp_bytes(ctx, KP_L3, sizeof(*ip));

	return !ctx->pkt->ipv6 && ip && !(ip->frag & kp_htons(0x4000));
}

/* ---- by the stack, where that is needed --------------------------------------------- */

/* What pkt->transit asks for. Written once a tick while such packets come, and last of
 * all: the verifier is to see one way through what comes before. KP_DROP_NO_PORT: another
 * connection has the same ends. */
KP_INLINE int kp_transit_put(struct kp_context *ctx)
{
	struct kp_packet *pkt = ctx->pkt;
	struct kp_flow_key *key = &pkt->key;
	bool high = kp_blur(ctx, kp_flow_key(key, &pkt->was.src, pkt->was.src_port,
					     &pkt->becomes.dst, pkt->becomes.dst_port,
					     pkt->proto));
	struct kp_flow *other = kp_lookup(MAP(kp_flows), key), flow;

	if (other && !(other->flags & KP_FLOW_TRANSIT) && kp_flow_alive(ctx, other))
		return KP_DROP_NO_PORT;
	if (other && other->tick == ctx->tick && other->client_port == pkt->fib.sport)
		return KP_NEXT;
	flow = kp_flow_fresh(ctx, high);
	flow.flags |= KP_FLOW_TRANSLATED | KP_FLOW_TRANSIT;
	flow.nat_addr = pkt->was.dst;
	flow.nat_port = pkt->was.dst_port;
	kp_addr_from_ipv6(&flow.masq_addr, pkt->fib.ipv6_src);
	flow.client_port = pkt->fib.sport;
	return kp_flow_put(ctx, key, &flow, BPF_ANY);
}

/* At to_wire: masquerades what the stack has brought there. */
KP_INLINE int kp_transit(struct kp_context *ctx, const struct kp_flow *flow, bool from_client)
{
	struct kp_packet *pkt = ctx->pkt;

	if (!from_client)
		return KP_PASS_DIRECT;
	pkt->becomes = pkt->was;
	pkt->becomes.src = flow->masq_addr;
	pkt->becomes.src_port = flow->client_port;
	kp_step(ctx, KP_STEP_MASQUERADED);
	kp_to_rewrite(ctx, KP_STEP_SOURCE_REWRITTEN);
	return KP_PASS_TO_BACKEND;
}

/* Decided to be sent by route, but the stack is to do it: a packet to a backend keeps the
 * client's source, which is no martian; a reply is restored by to_wire, or goes as it is.
 * At to_wire, the stack has done its part already. */
KP_INLINE void kp_route_by_stack(struct kp_context *ctx)
{
	struct kp_packet *pkt = ctx->pkt;

	kp_leave_it_to_stack(ctx);
	if (ctx->hook == KP_HOOK_TO_WIRE)
		return;
	if (pkt->verdict == KP_PASS_TO_BACKEND) {
		pkt->transit = !kp_addr_equal(&pkt->becomes.src, &pkt->was.src) ||
			       pkt->becomes.src_port != pkt->was.src_port;
		kp_addr_to_ipv6(pkt->fib.ipv6_src, &pkt->becomes.src);
		pkt->fib.sport = pkt->becomes.src_port;
		pkt->becomes.src = pkt->was.src;
		pkt->becomes.src_port = pkt->was.src_port;
	} else if (ctx->hook == KP_HOOK_FROM_POD) {
		pkt->rewrite = 0;
		pkt->verdict = KP_PASS_DIRECT;
	}
}

/* Carries out KP_OUT_ROUTE: pkt->becomes goes where its addresses lead. Of a packet that is
 * too big (pkt->verdict), the MTU stands in pkt->fib. */
KP_INLINE void kp_route(struct kp_context *ctx)
{
	struct kp_packet *pkt = ctx->pkt;
	int answer;

	if (pkt->ttl <= 1 && ctx->hook != KP_HOOK_TO_WIRE) {
		kp_step(ctx, KP_STEP_TTL_SPENT);
	} else {
		answer = kp_fib(ctx, &pkt->becomes.src, &pkt->becomes.dst, kp_longest(ctx));
		if (kp_fib_knows(answer)) {
			pkt->ifindex = pkt->fib.ifindex;
			kp_step(ctx, KP_STEP_ROUTED);
			return;
		}
		if (answer == BPF_FIB_LKUP_RET_FRAG_NEEDED && !kp_may_be_cut(ctx)) {
			pkt->verdict = KP_DROP_TOO_BIG;
			return;
		}
	}
	kp_route_by_stack(ctx);
}
