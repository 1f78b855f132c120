// SPDX-License-Identifier: GPL-2.0-only
/* Socket load balancing: a process that names a Service gets a backend in its place, when it
 * connects (TCP, UDP) or sends a datagram. Answers, and getpeername, show the Service.
 *
 * Attached at the root of cgroup2, by kpbpf/datapath/cgroup.py.
 */
#include "socket_lb.h"

/* ---- connect ------------------------------------------------------------------ */

KP_INLINE int kp_connect(struct bpf_sock_addr *sock, bool ipv6)
{
	struct kp_call call = {};
	struct kp_peer to = {};
	u32 service;
	int verdict;

	if (!kp_call_enter(&call, sock, ipv6))
		return KP_CALL_GO;
	verdict = kp_balance(&call, &to, &service);
	if (verdict == KP_PASS_TO_BACKEND)
		kp_named_replace(&call, &to, ipv6);
	else
		kp_socket_forget(&call);
	return kp_call_end(&call, verdict);
}

/* ---- a datagram that names its destination -------------------------------------- */

/* The backend that this socket's datagrams to this Service have gone to, while it serves.
 * From now on what comes from there is the Service's again. */
KP_INLINE bool kp_backend_kept(const struct kp_call *call, struct kp_peer *to)
{
	struct kp_socket *kept = kp_socket_find(call, &call->named, KP_WAY_TO_BACKEND);
	struct kp_socket *back;

	if (!kept)
		return false;
	to->addr = kept->addr;
	to->port = kept->port;
	if (!(kp_member_is(kept->service, to) & KP_MEMBER_SERVING))
		return false;
	back = kp_socket_find(call, to, KP_WAY_TO_SERVICE);
	if (back && kp_peer_equal(&call->named, &back->addr, back->port)) {
		if (kp_socket_idle(call, kept) && kp_socket_idle(call, back))
			return false;
		kp_socket_touch(call, back);
	} else {
		if (kp_socket_idle(call, kept))
			return false;
		kp_socket_put(call, to, KP_WAY_TO_SERVICE, &call->named, kept->service);
	}
	kp_socket_touch(call, kept);
	return true;
}

KP_INLINE int kp_sendmsg(struct bpf_sock_addr *sock, bool ipv6)
{
	struct kp_call call = {};
	struct kp_peer to = {};
	int verdict = KP_PASS_TO_BACKEND;
	u32 service;

	/* A connected socket's peer was decided on then. (The kernel names it for itself, where an
	 * IPv6 socket is connected to an IPv4 address.) */
	if (!kp_call_enter(&call, sock, ipv6) || kp_is_peer(&call))
		return KP_CALL_GO;
	if (!kp_backend_kept(&call, &to)) {
		verdict = kp_balance(&call, &to, &service);
		if (verdict == KP_PASS_TO_BACKEND)
			kp_socket_put(&call, &call.named, KP_WAY_TO_BACKEND, &to, service);
	}
	if (verdict == KP_PASS_TO_BACKEND)
		kp_named_replace(&call, &to, ipv6);
	else
		kp_socket_forget(&call);
	return kp_call_end(&call, verdict);
}

/* ---- who was that? -------------------------------------------------------------- */

/* A peer that stands for a Service is shown as it. Only these are counted. */
KP_INLINE int kp_show_service(struct bpf_sock_addr *sock, bool ipv6)
{
	struct kp_call call = {};
	struct kp_socket *back;
	struct kp_peer service;

	if (!kp_call_enter(&call, sock, ipv6))
		return KP_CALL_GO;
	back = kp_socket_find(&call, &call.named, KP_WAY_TO_SERVICE);
	if (!back)
		return KP_CALL_GO;
	kp_socket_touch(&call, back);
	service.addr = back->addr;
	service.port = back->port;
	kp_named_replace(&call, &service, ipv6);
	return kp_call_end(&call, KP_PASS_REPLY);
}

/* ---- the programs ---------------------------------------------------------------- */

KP_PROGRAM(connect4) int connect4(struct bpf_sock_addr *sock)
{
	return kp_connect(sock, false);
}

KP_PROGRAM(connect6) int connect6(struct bpf_sock_addr *sock)
{
	return kp_connect(sock, true);
}

KP_PROGRAM(sendmsg4) int sendmsg4(struct bpf_sock_addr *sock)
{
	return kp_sendmsg(sock, false);
}

KP_PROGRAM(sendmsg6) int sendmsg6(struct bpf_sock_addr *sock)
{
	return kp_sendmsg(sock, true);
}

KP_PROGRAM(recvmsg4) int recvmsg4(struct bpf_sock_addr *sock)
{
	return kp_show_service(sock, false);
}

KP_PROGRAM(recvmsg6) int recvmsg6(struct bpf_sock_addr *sock)
{
	return kp_show_service(sock, true);
}

KP_PROGRAM(getpeername4) int getpeername4(struct bpf_sock_addr *sock)
{
	return kp_show_service(sock, false);
}

KP_PROGRAM(getpeername6) int getpeername6(struct bpf_sock_addr *sock)
{
	return kp_show_service(sock, true);
}
