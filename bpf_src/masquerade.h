// SPDX-License-Identifier: GPL-2.0-only
/* Masquerade: a backend elsewhere sees this node as its client, so that it answers us.
 *
 * The node's address is that of the uplink by which the packet leaves. The source port is
 * the client's own where that is free, else drawn; free means that no connection which we
 * know has it with this backend, and no socket of the node either.
 */
#pragma once
#include "route.h"
#include "flow.h"

/* Ports looked at from a random one on, each time a port is drawn. */
#define KP_PORTS_TRIED 16
/* enum values of the kernel's TCP_LISTEN and BPF_F_CURRENT_NETNS. */
#define KP_TCP_LISTEN 10
#define KP_THIS_NETNS ((u64)-1)

/* Leaves the address in pkt->becomes.src; false: the node has none of that family. */
KP_INLINE bool kp_masquerade_address(struct kp_context *ctx)
{
	const struct kp_config *config = ctx->config;
	struct kp_packet *pkt = ctx->pkt;
	const struct kp_addr *own = NULL;
	struct kp_device *device = NULL;
	int answer;

	answer = kp_fib(ctx, &pkt->was.src, &pkt->becomes.dst, 0);
	if (kp_fib_knows(answer) || answer == BPF_FIB_LKUP_RET_FRAG_NEEDED)
		device = kp_lookup(MAP(kp_devices), &pkt->fib.ifindex);
	if (device)
		own = pkt->ipv6 ? &device->masquerade6 : &device->masquerade4;
	if (!own || !(own->word64[0] | own->word64[1])) /* a tunnel's may end in zeros */
		own = pkt->ipv6 ? &config->node6 : &config->node4;
	pkt->becomes.src = *own;
	return own->word64[0] | own->word64[1];
}

/* Has the node a socket of its own between becomes.src and becomes.dst? */
KP_INLINE bool kp_socket_in_the_way(struct kp_context *ctx)
{
	struct kp_packet *pkt = ctx->pkt;
	struct bpf_sock_tuple tuple = {};
	u32 size = pkt->ipv6 ? sizeof(tuple.ipv6) : sizeof(tuple.ipv4);
	struct bpf_sock *socket;
	bool taken = true;

	if (pkt->ipv6) { /* as the socket's packets come in */
		kp_addr_to_ipv6(tuple.ipv6.saddr, &pkt->becomes.dst);
		kp_addr_to_ipv6(tuple.ipv6.daddr, &pkt->becomes.src);
		tuple.ipv6.sport = pkt->becomes.dst_port;
		tuple.ipv6.dport = pkt->becomes.src_port;
	} else {
		tuple.ipv4.saddr = pkt->becomes.dst.word32[3];
		tuple.ipv4.daddr = pkt->becomes.src.word32[3];
		tuple.ipv4.sport = pkt->becomes.dst_port;
		tuple.ipv4.dport = pkt->becomes.src_port;
	}
	if (pkt->proto == KP_PROTO_TCP) {
		socket = kp_tcp_socket(ctx->skb, &tuple, size, KP_THIS_NETNS, 0);
		if (socket)
			taken = socket->state != KP_TCP_LISTEN;
	} else if (pkt->proto == KP_PROTO_UDP) {
		socket = kp_udp_socket(ctx->skb, &tuple, size, KP_THIS_NETNS, 0);
	} else {
		return false;
	}
	if (!socket)
		return false;
	kp_release(socket);
	return taken;
}

/* Is this record's time over? Without a branch, which the verifier would follow so many
 * times. One that is closing still keeps its port: the backend remembers it, too. */
KP_INLINE bool kp_is_over(const struct kp_config *config, u64 now, const struct kp_flow *flow)
{
	u64 limit = config->timeout_sec[flow->state & (KP_STATES - 1)] * (u64)KP_SEC_NS;

	return (flow->last_seen_ns + limit - now) >> 63;
}

/* Draws a source port that no record has with becomes.dst yet. False: of those
 * looked at, none. */
KP_INLINE bool kp_draw_port(struct kp_context *ctx)
{
	const struct kp_config *config = ctx->config;
	struct kp_packet *pkt = ctx->pkt;
	u64 count = (u64)config->masquerade_last - config->masquerade_first + 1;
	u64 start = kp_random();
	u64 now = kp_now_ns(ctx);
	bool high = kp_blur(ctx, kp_flow_key(&pkt->key, &pkt->becomes.src, 0, &pkt->becomes.dst,
					     pkt->becomes.dst_port, pkt->proto));
	struct kp_flow *other;

	kp_step(ctx, KP_STEP_SOURCE_PORT);
	for (u64 i = 0; i < KP_PORTS_TRIED; i++) {
		__be16 port = kp_htons((u16)(config->masquerade_first + (start + i) % count));

		if (high)
			pkt->key.high_port = port;
		else
			pkt->key.low_port = port;
		pkt->becomes.src_port = port;
		other = kp_lookup(MAP(kp_flows), &pkt->key);
		if (kp_blur(ctx, !other || kp_is_over(config, now, other)))
			return true;
	}
	return false;
}

KP_INLINE bool kp_is_masquerade_port(struct kp_context *ctx, __be16 port)
{
	u16 number = kp_ntohs(port);

	return number >= ctx->config->masquerade_first && number <= ctx->config->masquerade_last;
}

/* Decides pkt->becomes.src. `own`: with the client's own port, where it is one of those for
 * masquerade; else with one that is drawn. False: no port was found this time. */
KP_INLINE bool kp_masquerade(struct kp_context *ctx, bool own)
{
	struct kp_packet *pkt = ctx->pkt;

	if (!kp_masquerade_address(ctx))
		return false;
	pkt->masquerade = 1;
	kp_step(ctx, KP_STEP_MASQUERADED);
	/* A process of the node has its port already, where it keeps its address. */
	if (own && ctx->hook == KP_HOOK_TO_WIRE && kp_addr_equal(&pkt->becomes.src, &pkt->was.src))
		return true;
	own = kp_blur(ctx, own && kp_is_masquerade_port(ctx, pkt->was.src_port));
	if (!own && !kp_draw_port(ctx))
		return false;
	return !kp_socket_in_the_way(ctx);
}
