// SPDX-License-Identifier: GPL-2.0-only
/* A process's call at hand: it connects, sends, receives, or asks who its peer is.
 *
 * One context, and the one door in and out of the socket programs. There is no packet yet:
 * what is judged is the address that a process names, and what is changed is that address,
 * so that the packets of the connection cost nothing later. Verdicts are those of packets:
 * to_backend and reply where an address was replaced, untracked where a Service was seen and
 * left to the programs on packets, a refusal where the call fails at once.
 *
 * What a socket was given stands in kp_sockets, in two directions. (cookie, Service) ->
 * backend, for datagrams of unconnected sockets only: they keep their backend while it
 * serves. (cookie, backend) -> Service, for the way back: the Service that this socket last
 * used that backend for.
 */
#pragma once
#include "kernel.h"
#include "abi.h"
#include "abi_assert.h"
#include "addr.h"
#include "maps.h"

#define KP_SEC_NS 1000000000ll
#define KP_ECONNREFUSED 111

/* What a program answers: the call goes on, or fails: with EPERM unless told otherwise. */
#define KP_CALL_GO 1
#define KP_CALL_FAIL 0

static u64 (*const kp_socket_cookie)(struct bpf_sock_addr *sock) =
	(void *)BPF_FUNC_get_socket_cookie;
static u64 (*const kp_netns_cookie)(struct bpf_sock_addr *sock) =
	(void *)BPF_FUNC_get_netns_cookie;
static long (*const kp_set_retval)(int retval) = (void *)BPF_FUNC_set_retval;

/* Where a call goes to, or an answer came from. */
struct kp_peer {
	struct kp_addr addr;
	__be16 port;
};

/* Handed through every stage. */
struct kp_call {
	struct bpf_sock_addr *sock;
	const struct kp_config *config;
	struct kp_peer named; /* by the process; where something came from: by the kernel */
	u64 cookie; /* of the socket */
	u64 netns; /* of its network namespace */
	u64 now_ns;
	u8 proto;
	bool host; /* a socket of the node's own namespace */
};

/* ---- addresses ---------------------------------------------------------------- */

/* A field of the context, which is to be read and written in one instruction of four bytes. */
#define KP_FIELD(sock, field) (*(volatile u32 *)&(sock)->field)

/* A field of its struct bpf_sock. Spelled out, because compilers like to choose between two of
 * them first and to read then, and the verifier knows constant offsets only. */
#define KP_OF_SOCKET(sk, field)                                                                \
	({                                                                                     \
		u64 value_;                                                                    \
		asm volatile("%0 = *(u32 *)(%1 + %2)"                                          \
			     : "=r"(value_)                                                    \
			     : "r"(sk), "i"(__builtin_offsetof(struct bpf_sock, field)));      \
		(u32)value_;                                                                   \
	})

KP_INLINE bool kp_peer_equal(const struct kp_peer *peer, const struct kp_addr *addr, __be16 port)
{
	return peer->port == port && kp_addr_equal(&peer->addr, addr);
}

KP_INLINE bool kp_is_ipv4(const struct kp_addr *addr)
{
	return !addr->word64[0] && addr->word32[2] == kp_htonl(0xffff);
}

KP_INLINE bool kp_is_zero(const struct kp_addr *addr)
{
	return !addr->word64[0] && !addr->word64[1];
}

/* 127.0.0.0/8; and 0.0.0.0, which the kernel takes for it. */
KP_INLINE bool kp_is_loopback4(const struct kp_addr *addr)
{
	return kp_is_ipv4(addr) && (addr->bytes[12] == 127 || !addr->word32[3]);
}

/* `ipv6`: the address has the form of an IPv6 one; it may be an IPv4-mapped one. No field of
 * the context, because the verifier wants the other family's code gone, not skipped. */
KP_INLINE void kp_named_read(struct kp_call *call, bool ipv6)
{
	struct bpf_sock_addr *sock = call->sock;
	struct kp_addr *addr = &call->named.addr;

	if (ipv6) {
		addr->word32[0] = KP_FIELD(sock, user_ip6[0]);
		addr->word32[1] = KP_FIELD(sock, user_ip6[1]);
		addr->word32[2] = KP_FIELD(sock, user_ip6[2]);
		addr->word32[3] = KP_FIELD(sock, user_ip6[3]);
	} else {
		kp_addr_from_ipv4(addr, KP_FIELD(sock, user_ip4));
	}
	call->named.port = KP_FIELD(sock, user_port);
}

/* Puts another address in the place of the one that was named. */
KP_INLINE void kp_named_replace(const struct kp_call *call, const struct kp_peer *peer, bool ipv6)
{
	struct bpf_sock_addr *sock = call->sock;

	if (ipv6) {
		KP_FIELD(sock, user_ip6[0]) = peer->addr.word32[0];
		KP_FIELD(sock, user_ip6[1]) = peer->addr.word32[1];
		KP_FIELD(sock, user_ip6[2]) = peer->addr.word32[2];
		KP_FIELD(sock, user_ip6[3]) = peer->addr.word32[3];
	} else {
		KP_FIELD(sock, user_ip4) = peer->addr.word32[3];
	}
	KP_FIELD(sock, user_port) = peer->port;
}

/* Whom a Service sees as the client: the address that the socket is bound to, else the node's. */
KP_INLINE void kp_client(const struct kp_call *call, struct kp_addr *client)
{
	struct bpf_sock *sk = call->sock->sk;

	if (kp_is_ipv4(&call->named.addr)) {
		kp_addr_from_ipv4(client, KP_OF_SOCKET(sk, src_ip4));
		if (!client->word32[3])
			*client = call->config->node4;
		return;
	}
	client->word32[0] = KP_OF_SOCKET(sk, src_ip6[0]);
	client->word32[1] = KP_OF_SOCKET(sk, src_ip6[1]);
	client->word32[2] = KP_OF_SOCKET(sk, src_ip6[2]);
	client->word32[3] = KP_OF_SOCKET(sk, src_ip6[3]);
	if (kp_is_zero(client))
		*client = call->config->node6;
}

/* The address that was named is the one that the socket is connected to. */
KP_INLINE bool kp_is_peer(const struct kp_call *call)
{
	const struct kp_addr *addr = &call->named.addr;
	struct bpf_sock *sk = call->sock->sk;

	if (sk->dst_port != call->named.port)
		return false;
	if (kp_is_ipv4(addr))
		return KP_OF_SOCKET(sk, dst_ip4) == addr->word32[3];
	return KP_OF_SOCKET(sk, dst_ip6[0]) == addr->word32[0] &&
	       KP_OF_SOCKET(sk, dst_ip6[1]) == addr->word32[1] &&
	       KP_OF_SOCKET(sk, dst_ip6[2]) == addr->word32[2] &&
	       KP_OF_SOCKET(sk, dst_ip6[3]) == addr->word32[3];
}

/* ---- in and out --------------------------------------------------------------- */

/* False: not our business, and not counted. Another kpbpf's node, say: its programs and
 * ours run one behind the other. */
KP_INLINE bool kp_call_enter(struct kp_call *call, struct bpf_sock_addr *sock, bool ipv6)
{
	u32 zero = 0, flags;

	call->sock = sock;
	call->proto = sock->protocol;
	call->config = kp_slot(MAP(kp_configs), &zero);
	if (!call->config || (call->proto != KP_PROTO_TCP && call->proto != KP_PROTO_UDP))
		return false;
	flags = call->config->flags;
	if (!(flags & KP_CONFIG_READY) || !call->config->node_netns)
		return false;
	call->netns = kp_netns_cookie(sock);
	call->host = call->netns == call->config->node_netns;
	if (!(flags & (call->host ? KP_CONFIG_SOCKET_HOST : KP_CONFIG_SOCKET_PODS)))
		return false;
	call->cookie = kp_socket_cookie(sock);
	call->now_ns = kp_clock_ns();
	kp_named_read(call, ipv6);
	return true;
}

KP_INLINE void kp_call_count(int verdict)
{
	u32 slot = KP_HOOK_SOCKET * KP_VERDICTS + (verdict & (KP_VERDICTS - 1));
	struct kp_counter *counter = kp_slot(MAP(kp_counters), &slot);

	if (counter)
		counter->packets++;
}

KP_INLINE void kp_call_remember_drop(const struct kp_call *call, int verdict)
{
	struct kp_dropped_key key = {
		.dst = call->named.addr,
		.dst_port = call->named.port,
		.proto = call->proto,
		.hook = KP_HOOK_SOCKET,
		.verdict = verdict,
	};
	struct kp_dropped now = {.packets = 1, .last_seen_ns = call->now_ns};
	struct kp_dropped *known;

	kp_client(call, &key.src);
	known = kp_lookup(MAP(kp_drops), &key);
	if (known) {
		known->packets++;
		known->last_seen_ns = call->now_ns;
	} else {
		kp_update(MAP(kp_drops), &key, &now, BPF_ANY);
	}
}

/* The one door out. A process whose Service has nobody to answer hears so at once; who is
 * outside of loadBalancerSourceRanges hears EPERM. */
KP_INLINE int kp_call_end(const struct kp_call *call, int verdict)
{
	kp_call_count(verdict);
	if (verdict < KP_DROP_SHORT)
		return KP_CALL_GO;
	kp_call_remember_drop(call, verdict);
	if (verdict != KP_DROP_SOURCE_RANGE)
		kp_set_retval(-KP_ECONNREFUSED);
	return KP_CALL_FAIL;
}

/* ---- what a socket was given --------------------------------------------------- */

KP_INLINE struct kp_socket *kp_socket_find(const struct kp_call *call, const struct kp_peer *peer,
					   u8 way)
{
	struct kp_socket_key key = {
		.cookie = call->cookie,
		.addr = peer->addr,
		.port = peer->port,
		.proto = call->proto,
		.way = way,
	};

	return kp_lookup(MAP(kp_sockets), &key);
}

/* From here on, `peer` stands for `other` in that direction. */
KP_INLINE void kp_socket_put(const struct kp_call *call, const struct kp_peer *peer, u8 way,
			     const struct kp_peer *other, u32 service)
{
	struct kp_socket_key key = {
		.cookie = call->cookie,
		.addr = peer->addr,
		.port = peer->port,
		.proto = call->proto,
		.way = way,
	};
	struct kp_socket value = {
		.last_used_ns = call->now_ns,
		.netns = call->netns,
		.addr = other->addr,
		.port = other->port,
		.service = service,
	};

	kp_update(MAP(kp_sockets), &key, &value, BPF_ANY);
}

/* Without a Service now: an answer from there shows nobody else's address any more. */
KP_INLINE void kp_socket_forget(const struct kp_call *call)
{
	struct kp_socket_key key = {
		.cookie = call->cookie,
		.addr = call->named.addr,
		.port = call->named.port,
		.proto = call->proto,
		.way = KP_WAY_TO_SERVICE,
	};

	if (unlikely(kp_lookup(MAP(kp_sockets), &key)))
		kp_delete(MAP(kp_sockets), &key);
}

/* Written once a second, not with every datagram. */
KP_INLINE void kp_socket_touch(const struct kp_call *call, struct kp_socket *given)
{
	if ((s64)(call->now_ns - given->last_used_ns) > KP_SEC_NS)
		given->last_used_ns = call->now_ns;
}

KP_INLINE bool kp_socket_idle(const struct kp_call *call, const struct kp_socket *given)
{
	s64 limit = call->config->timeout_sec[KP_STATE_UDP_STREAM] * KP_SEC_NS;

	return (s64)(call->now_ns - given->last_used_ns) > limit;
}
