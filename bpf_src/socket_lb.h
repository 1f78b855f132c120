// SPDX-License-Identifier: GPL-2.0-only
/* A process names a Service: which one it is, and which backend it gets.
 *
 * For the node's own sockets; for those of pods as well where the configuration says so, save
 * for what depends on the pod's address, which a socket does not know yet: that is left to
 * the programs on packets, which do the same for every packet.
 */
#pragma once
#include "socket.h"

/* Verdict of kp_draw where it drew none that will do. */
#define KP_ANOTHER (-1)

/* ---- which Service ------------------------------------------------------------ */

/* NodePorts are served at the node's addresses that were chosen for it; and at loopback
 * addresses of IPv4, for the node's own processes only (A32, A33). */
KP_INLINE bool kp_is_node_port(const struct kp_call *call)
{
	const struct kp_config *config = call->config;
	u16 port = kp_ntohs(call->named.port);
	struct kp_address *own;

	if (!config->node_port_first || port < config->node_port_first ||
	    port > config->node_port_last)
		return false;
	if (kp_is_loopback4(&call->named.addr))
		return call->host && config->flags & KP_CONFIG_LOCALHOST_NODE_PORTS;
	own = kp_lookup(MAP(kp_addresses), &call->named.addr);
	return own && own->flags & KP_ADDRESS_NODE_PORT;
}

/* False: no Service there. An unspecified address, under which NodePorts are kept, is
 * nothing that could be named. */
KP_INLINE bool kp_frontend_named(const struct kp_call *call, struct kp_frontend_key *key)
{
	key->addr = call->named.addr;
	key->port = call->named.port;
	key->proto = call->proto;
	if (!kp_is_loopback4(&key->addr) && !kp_is_zero(&key->addr) &&
	    kp_lookup(MAP(kp_frontends), key))
		return true;
	if (!kp_is_node_port(call))
		return false;
	if (kp_is_ipv4(&key->addr))
		kp_addr_from_ipv4(&key->addr, 0);
	else
		key->addr = (struct kp_addr){};
	return kp_lookup(MAP(kp_frontends), key);
}

/* A22: the address of a Service, but none of its ports. */
KP_INLINE bool kp_port_unknown(const struct kp_call *call)
{
	struct kp_frontend_key key = {.addr = call->named.addr};
	struct kp_frontend *rest = kp_lookup(MAP(kp_frontends), &key);

	return rest && rest->flags & KP_FRONTEND_WHOLE_ADDRESS;
}

/* A pod's own address decides there, and who masquerades it. */
KP_INLINE bool kp_left_to_packets(const struct kp_call *call, const struct kp_frontend *frontend)
{
	u32 detect = call->config->flags & (KP_CONFIG_DETECT_LOCAL | KP_CONFIG_DETECT_BY_RANGE);

	if (call->host)
		return false;
	return frontend->affinity_sec || frontend->flags & KP_FRONTEND_SOURCE_RANGES ||
	       call->config->flags & KP_CONFIG_MASQUERADE_ALL ||
	       (frontend->flags & KP_FRONTEND_EXTERNAL_LOCAL && detect != KP_CONFIG_DETECT_LOCAL);
}

KP_INLINE bool kp_in_range(u32 service, const struct kp_addr *addr)
{
	struct kp_range_key key = {.prefix = 160, .scope = service, .addr = *addr};

	return kp_lookup(MAP(kp_ranges), &key);
}

/* A30: the client's own address; or the Service's, where the node is in range. */
KP_INLINE bool kp_source_in_range(const struct kp_call *call, u32 service)
{
	const struct kp_config *config = call->config;
	struct kp_addr client;

	kp_client(call, &client);
	if (kp_in_range(service, &client))
		return true;
	return kp_addr_equal(&client, &call->named.addr) &&
	       kp_in_range(service, kp_is_ipv4(&client) ? &config->node4 : &config->node6);
}

/* ---- which backend ------------------------------------------------------------ */

/* The node's processes and pods of this node have the whole cluster's endpoints, save for
 * internalTrafficPolicy Local at a ClusterIP (A26, A28). */
KP_INLINE bool kp_local_set(const struct kp_frontend *frontend)
{
	return (frontend->flags & (KP_FRONTEND_EXTERNAL | KP_FRONTEND_LOCAL_ONLY)) ==
	       KP_FRONTEND_LOCAL_ONLY;
}

/* A17: uniform, by `random`; then the one `shift` places behind. False when the set was
 * replaced since the frontend was read. */
KP_INLINE bool kp_backend_at(const struct kp_frontend *frontend, u32 random, u32 shift,
			     struct kp_peer *to)
{
	bool local = kp_local_set(frontend);
	u32 size = local ? frontend->local_count : frontend->count;
	struct kp_backend_key key = {.base = frontend->base};
	struct kp_backend *backend;

	key.slot = ((u32)((u64)random * size >> 32) + shift) % size;
	if (local)
		key.slot += frontend->count;
	backend = kp_lookup(MAP(kp_backends), &key);
	if (!backend)
		return false;
	to->addr = backend->addr;
	to->port = backend->port;
	return true;
}

KP_INLINE u32 kp_member_is(u32 service, const struct kp_peer *peer)
{
	struct kp_member_key key = {.addr = peer->addr, .service = service, .port = peer->port};
	struct kp_member *member = kp_lookup(MAP(kp_members), &key);

	return member ? member->flags : 0;
}

/* A34: the node is one client, whichever of its processes asks, by socket or by packet. */
KP_INLINE struct kp_affinity_key kp_affinity_of(const struct kp_call *call, u32 service)
{
	struct kp_affinity_key key = {.service = service};

	kp_client(call, &key.client);
	return key;
}

KP_INLINE bool kp_backend_by_affinity(const struct kp_call *call,
				      const struct kp_frontend *frontend, struct kp_peer *to)
{
	struct kp_affinity_key key;
	struct kp_affinity *last;

	if (!frontend->affinity_sec)
		return false;
	key = kp_affinity_of(call, frontend->service);
	last = kp_lookup(MAP(kp_affinities), &key);
	if (!last ||
	    (s64)(call->now_ns - last->last_used_ns) > (s64)frontend->affinity_sec * KP_SEC_NS)
		return false;
	to->addr = last->addr;
	to->port = last->port;
	return kp_member_is(frontend->service, to) &
	       (kp_local_set(frontend) ? KP_MEMBER_LOCAL : KP_MEMBER_CLUSTER);
}

KP_INLINE void kp_affinity_remember(const struct kp_call *call,
				    const struct kp_frontend *frontend, const struct kp_peer *to)
{
	struct kp_affinity_key key;
	struct kp_affinity now = {
		.last_used_ns = call->now_ns,
		.addr = to->addr,
		.port = to->port,
	};

	if (!frontend->affinity_sec)
		return;
	key = kp_affinity_of(call, frontend->service);
	kp_update(MAP(kp_affinities), &key, &now, BPF_ANY);
}

/* This socket has the backend for another Service: an answer would not tell which one. */
KP_INLINE bool kp_ambiguous(const struct kp_call *call, const struct kp_peer *to)
{
	struct kp_socket *back;

	if (call->proto != KP_PROTO_UDP)
		return false;
	back = kp_socket_find(call, to, KP_WAY_TO_SERVICE);
	return back && !kp_peer_equal(&call->named, &back->addr, back->port) &&
	       !kp_socket_idle(call, back);
}

KP_INLINE int kp_nothing_to_draw(const struct kp_call *call, const struct kp_frontend *frontend)
{
	if (kp_left_to_packets(call, frontend))
		return KP_PASS_UNTRACKED;
	if (!frontend->count)
		return KP_DROP_NO_BACKEND; /* A19 */
	if (frontend->flags & KP_FRONTEND_SOURCE_RANGES &&
	    !kp_source_in_range(call, frontend->service))
		return KP_DROP_SOURCE_RANGE;
	if (kp_local_set(frontend) && !frontend->local_count)
		return KP_PASS_UNTRACKED; /* A20: dropped, so its packets must come by */
	return KP_PASS_TO_BACKEND;
}

/* One attempt. A backend that this socket has for another Service is the last one's choice. */
KP_INLINE int kp_draw(const struct kp_call *call, const struct kp_frontend_key *where, u32 random,
		      u32 shift, struct kp_peer *to, u32 *service)
{
	struct kp_frontend *found = kp_lookup(MAP(kp_frontends), where);
	struct kp_frontend frontend;
	int verdict;

	if (!found)
		return KP_DROP_NO_BACKEND;
	frontend = *found;
	verdict = kp_nothing_to_draw(call, &frontend);
	if (verdict != KP_PASS_TO_BACKEND)
		return verdict;
	if (!kp_backend_by_affinity(call, &frontend, to)) {
		if (!kp_backend_at(&frontend, random, shift, to))
			return KP_ANOTHER;
		if (shift < 2 && kp_ambiguous(call, to))
			return KP_ANOTHER;
	}
	kp_affinity_remember(call, &frontend, to);
	kp_socket_put(call, to, KP_WAY_TO_SERVICE, &call->named, frontend.service);
	*service = frontend.service;
	return KP_PASS_TO_BACKEND;
}

/* KP_PASS_TO_BACKEND: *to is the backend, and the way back is remembered. */
KP_INLINE int kp_balance(const struct kp_call *call, struct kp_peer *to, u32 *service)
{
	struct kp_frontend_key where = {};
	u32 random = kp_random();
	int verdict;

	if (!kp_frontend_named(call, &where))
		return kp_port_unknown(call) ? KP_DROP_UNKNOWN_PORT : KP_PASS_DIRECT;
	if (call->config->flags & KP_CONFIG_HAND_OVER)
		return KP_PASS_UNTRACKED;
	/* No loop: Linux 6.1 takes one only in some of the orders that compilers put it in. */
	verdict = kp_draw(call, &where, random, 0, to, service);
	if (unlikely(verdict == KP_ANOTHER))
		verdict = kp_draw(call, &where, random, 1, to, service);
	if (unlikely(verdict == KP_ANOTHER))
		verdict = kp_draw(call, &where, random, 2, to, service);
	return verdict == KP_ANOTHER ? KP_DROP_NO_BACKEND : verdict;
}
