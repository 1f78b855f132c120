// SPDX-License-Identifier: GPL-2.0-only
/* The kernel as the programs see it: types, packet headers, helpers, map access.
 *
 * Two compilers read this source. bcc (KP_BCC) loads it for real: maps are file
 * descriptors that the loader made, kp_NAME_FD. Plain clang compiles the same
 * text in the checks as a second opinion; there a map is only a symbol. Nothing
 * below this file knows which of them is at work.
 */
#pragma once

#ifdef KP_BCC
#define KP_SECTION ".bpf.fn."
#define MAP(name) ((void *)bpf_pseudo_fd(1, name##_FD))
#define KP_MAP(name, kind, key, value, entries, flags)
#else
#define KP_SECTION "tc/"
#include <linux/bpf.h>
#include <linux/types.h>
typedef __u8 u8;
typedef __u16 u16;
typedef __u32 u32;
typedef __u64 u64;
typedef __s64 s64;
typedef _Bool bool;
#define true 1
#define false 0
#define NULL ((void *)0)
#define MAP(name) ((void *)&name)
#define KP_MAP(name, kind, key, value, entries, flags) extern char name[];
char _license[] __attribute__((section("license"), used)) = "GPL";
#endif

#undef __always_inline
#define __always_inline inline __attribute__((always_inline))
#define KP_INLINE static __always_inline
/* Begins a program; bcc finds it, and the verifier its source lines, by this section. Its
 * name may be a macro: the same source makes from_wire and from_wire_l3. */
#define KP_TEXT(name) #name
#define KP_PROGRAM(name) __attribute__((section(KP_SECTION KP_TEXT(name)), used))
#define unlikely(x) __builtin_expect(!!(x), 0)
#define likely(x) __builtin_expect(!!(x), 1)

#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define kp_htons(x) ((__be16)__builtin_bswap16(x))
#define kp_htonl(x) ((__be32)__builtin_bswap32(x))
#else
#define kp_htons(x) ((__be16)(x))
#define kp_htonl(x) ((__be32)(x))
#endif
#define kp_ntohs(x) kp_htons(x)
#define kp_ntohl(x) kp_htonl(x)

/* Packet headers, as in RFC 791, 8200, 9293, 768, 792, 4443 and 9260. */

/* Where the network header stands: on devices without an Ethernet header at the start. */
#ifdef KP_NO_ETHERNET
#define KP_L3 0
#else
#define KP_L3 14
#endif

enum {
	KP_ETH_LEN = 14,
	KP_ETH_P_IP = 0x0800,
	KP_ETH_P_IPV6 = 0x86dd,
	KP_PROTO_HOP_BY_HOP = 0,
	KP_PROTO_ICMP = 1,
	KP_PROTO_TCP = 6,
	KP_PROTO_UDP = 17,
	KP_PROTO_ROUTING = 43,
	KP_PROTO_FRAGMENT = 44,
	KP_PROTO_AH = 51,
	KP_PROTO_ICMPV6 = 58,
	KP_PROTO_NONE = 59,
	KP_PROTO_DEST_OPTIONS = 60,
	KP_PROTO_SCTP = 132,
	KP_TCP_FIN = 0x01,
	KP_TCP_SYN = 0x02,
	KP_TCP_RST = 0x04,
	KP_TCP_ACK = 0x10,
	KP_PACKET_HOST = 0, /* __sk_buff.pkt_type: addressed to this machine */
};

struct kp_ethhdr {
	u8 dst[6];
	u8 src[6];
	__be16 proto;
};

struct kp_iphdr {
	u8 version_ihl;
	u8 tos;
	__be16 total_len;
	__be16 id;
	__be16 frag; /* 0x2000 more fragments, 0x1fff offset in 8 bytes */
	u8 ttl;
	u8 proto;
	u16 check;
	u32 src;
	u32 dst;
};

struct kp_ip6hdr {
	__be32 version_class_label;
	__be16 payload_len;
	u8 next;
	u8 hop_limit;
	u32 src[4];
	u32 dst[4];
};

struct kp_tcphdr {
	__be16 src;
	__be16 dst;
	__be32 seq;
	__be32 ack;
	u8 offset; /* header length in 4 bytes, upper half */
	u8 flags;
	__be16 window;
	u16 check;
	u16 urgent;
};

struct kp_udphdr {
	__be16 src;
	__be16 dst;
	__be16 len;
	u16 check;
};

struct kp_icmphdr {
	u8 type;
	u8 code;
	u16 check;
	__be16 id; /* echo only */
	__be16 seq;
};

/* Kernel helpers, declared here because bcc's own declarations differ by version. */
static void *(*const kp_lookup)(void *map, const void *key) = (void *)BPF_FUNC_map_lookup_elem;
/* The same for arrays, where the kernel inlines it. */
static void *(*const kp_slot)(void *map, const void *index) =
	(void *)BPF_FUNC_map_lookup_elem;
static long (*const kp_update)(void *map, const void *key, const void *value, u64 flags) =
	(void *)BPF_FUNC_map_update_elem;
static long (*const kp_delete)(void *map, const void *key) = (void *)BPF_FUNC_map_delete_elem;
static u64 (*const kp_jiffies)(void) = (void *)BPF_FUNC_jiffies64;
static u64 (*const kp_clock_ns)(void) = (void *)BPF_FUNC_ktime_get_coarse_ns;
static u32 (*const kp_random)(void) = (void *)BPF_FUNC_get_prandom_u32;
static long (*const kp_pull)(struct __sk_buff *skb, u32 len) = (void *)BPF_FUNC_skb_pull_data;
static long (*const kp_load)(const struct __sk_buff *skb, u32 offset, void *to, u32 len) =
	(void *)BPF_FUNC_skb_load_bytes;
static long (*const kp_store)(struct __sk_buff *skb, u32 offset, const void *from, u32 len, u64 flags) =
	(void *)BPF_FUNC_skb_store_bytes;
static long (*const kp_l4_csum)(struct __sk_buff *skb, u32 offset, u64 from, u64 to, u64 flags) =
	(void *)BPF_FUNC_l4_csum_replace;
static long (*const kp_csum_update)(struct __sk_buff *skb, u32 diff) = (void *)BPF_FUNC_csum_update;
static long (*const kp_change_tail)(struct __sk_buff *skb, u32 len, u64 flags) =
	(void *)BPF_FUNC_skb_change_tail;
static long (*const kp_adjust_room)(struct __sk_buff *skb, int len, u32 mode, u64 flags) =
	(void *)BPF_FUNC_skb_adjust_room;
static long (*const kp_change_head)(struct __sk_buff *skb, u32 len, u64 flags) =
	(void *)BPF_FUNC_skb_change_head;
static long (*const kp_redirect)(u32 ifindex, u64 flags) = (void *)BPF_FUNC_redirect;
static long (*const kp_redirect_peer)(u32 ifindex, u64 flags) = (void *)BPF_FUNC_redirect_peer;
static long (*const kp_redirect_neigh)(u32 ifindex, const struct bpf_redir_neigh *hop, int size,
				       u64 flags) = (void *)BPF_FUNC_redirect_neigh;
static long (*const kp_fib_lookup)(struct __sk_buff *skb, struct bpf_fib_lookup *fib, int size,
				   u32 flags) = (void *)BPF_FUNC_fib_lookup;
static struct bpf_sock *(*const kp_tcp_socket)(struct __sk_buff *skb,
					       const struct bpf_sock_tuple *tuple, u32 size,
					       u64 netns, u64 flags) =
	(void *)BPF_FUNC_skc_lookup_tcp;
static struct bpf_sock *(*const kp_udp_socket)(struct __sk_buff *skb,
					       const struct bpf_sock_tuple *tuple, u32 size,
					       u64 netns, u64 flags) =
	(void *)BPF_FUNC_sk_lookup_udp;
static long (*const kp_release)(struct bpf_sock *socket) = (void *)BPF_FUNC_sk_release;
