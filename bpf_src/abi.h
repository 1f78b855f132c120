/* What the programs and the Python side share: every enum, limit and map layout. Here are
 * the words, the configuration and what the programs write; abi_service.h and abi_node.h
 * have the rest.
 *
 * Written by hand, for readers. maps/gen.py turns it into maps/abi.py (the same
 * names, as Python enums and packers) and abi_assert.h (size and offset of every
 * field); both are committed and compared by the checks. Rules that gen.py holds:
 * no implicit padding, explicit enum numbers that are never used again, and one
 * comment behind every member, which is the text that the CLI and docs show.
 *
 * __be16 is network byte order; everything else is host order. Addresses are
 * 16 bytes, IPv4 as ::ffff:a.b.c.d. Times are CLOCK_MONOTONIC nanoseconds.
 */
#pragma once

/* Raised when a map's layout changes; pins of another version are never opened. */
#define KP_ABI_VERSION 2

/* An address of either family; aligned so that it compares as two words. */
struct kp_addr {
	union {
		u8 bytes[16];
		u32 word32[4];
		u64 word64[2];
	};
};

/* ---- where a packet is seen, and how its stay ends ------------------------ */

enum kp_hook {
	KP_HOOK_FROM_POD = 0, /* leaving a pod: its host-side interface, tc ingress */
	KP_HOOK_TO_POD = 1, /* entering a pod: its host-side interface, tc egress */
	KP_HOOK_FROM_WIRE = 2, /* entering the node: an uplink, tc ingress */
	KP_HOOK_TO_WIRE = 3, /* leaving the node: an uplink, tc egress */
	KP_HOOK_SOCKET = 4, /* a process connects, sends or receives: no packet yet */
};

/* 0 to 31: the packet goes on. 64 to 127: it is dropped, or refused with an answer. */
enum kp_verdict {
	KP_PASS_NOT_OURS = 0, /* not IP, VLAN-tagged, or link-scope traffic: untouched */
	KP_PASS_DIRECT = 1, /* no Service involved: goes on as it is */
	KP_PASS_TO_BACKEND = 2, /* sent to a Service: now addressed to a backend */
	KP_PASS_REPLY = 3, /* answer of a backend: shows the Service's address again */
	KP_PASS_ICMP_ERROR = 4, /* ICMP error about a translated packet: translated back */
	KP_PASS_UNTRACKED = 5, /* connection to a Service that we did not open: left to the node's own tracking */

	KP_DROP_SHORT = 64, /* frame ends inside a header */
	KP_DROP_BAD_IP = 65, /* IP header that contradicts itself */
	KP_DROP_EXTENSION_HEADERS = 66, /* more IPv6 extension headers than we walk */
	KP_DROP_FRAGMENT_UNKNOWN = 67, /* later fragment whose first was not seen */
	KP_DROP_SPOOFED_SOURCE = 68, /* source address that is not this pod's */
	KP_DROP_NO_BACKEND = 69, /* Service without endpoints: refused */
	KP_DROP_NO_LOCAL_BACKEND = 70, /* traffic policy Local, and no endpoint on this node */
	KP_DROP_NO_FLOW = 71, /* middle of a TCP connection to a Service that we do not know: refused */
	KP_DROP_REFUSAL_RATE = 72, /* would be refused, but too many were this second: no answer */
	KP_DROP_NO_PORT = 73, /* would be mixed up with another connection, and no source port is free */
	KP_DROP_FLOW_TABLE = 74, /* the flow table did not take the connection */
	KP_DROP_REWRITE = 75, /* the kernel would not let us rewrite the packet */
	KP_DROP_NOT_CONFIGURED = 76, /* the daemon has not written its configuration yet */
	KP_DROP_SOURCE_RANGE = 77, /* source address outside the Service's loadBalancerSourceRanges */
	KP_DROP_TOO_BIG = 78, /* larger than the MTU on its way: its sender is told */
	KP_DROP_UNKNOWN_PORT = 79, /* the address of a Service, but none of its ports: refused */
	KP_DROP_UNKNOWN_SERVICE = 80, /* in the range of cluster IPs, but of no Service */
};

/* What a packet did on its way, one bit each; `kpbpf trace` tells them in words. */
enum kp_step {
	KP_STEP_FLOW_KNOWN = 0, /* the flow table knows this connection */
	KP_STEP_FLOW_EXPIRED = 1, /* an older record of it had timed out */
	KP_STEP_FLOW_JUDGED_AGAIN = 2, /* endpoints changed since it was judged: looked up again */
	KP_STEP_SOURCE_CHECKED = 3, /* the source address is the pod's own */
	KP_STEP_SERVICE = 4, /* the destination is a Service */
	KP_STEP_AFFINITY = 5, /* session affinity named the backend */
	KP_STEP_BACKEND_RANDOM = 6, /* a backend was drawn at random */
	KP_STEP_BACKEND_GONE = 7, /* its UDP backend is gone: a new one is chosen */
	KP_STEP_SOURCE_PORT = 8, /* another source port, to keep two connections apart */
	KP_STEP_HAIRPIN = 9, /* the pod reaches itself: it sees the hairpin address as the client */
	KP_STEP_FLOW_CREATED = 10, /* a flow record is made */
	KP_STEP_DESTINATION_REWRITTEN = 11, /* destination rewritten */
	KP_STEP_SOURCE_REWRITTEN = 12, /* source rewritten */
	KP_STEP_LOCAL_POD = 13, /* handed straight into the other pod of this node */
	KP_STEP_TO_STACK = 14, /* handed to the node's network stack */
	KP_STEP_REFUSED = 15, /* answered with a TCP reset or ICMP port unreachable */
	KP_STEP_FRAGMENT = 16, /* a later fragment: ports are those of its first */
	KP_STEP_ICMP_INNER = 17, /* judged by the packet quoted inside an ICMP error */
	KP_STEP_TTL_SPENT = 18, /* TTL used up: left to the stack, which says so to the sender */
	KP_STEP_NODE_PORT = 19, /* the destination is a NodePort of this node */
	KP_STEP_MASQUERADED = 20, /* the backend sees the node as its client */
	KP_STEP_MASQUERADE_UNDONE = 21, /* the reply goes to the client behind the masquerade */
	KP_STEP_ROUTED = 22, /* routed by us, past the node's network stack */
	KP_STEP_TO_NODE = 23, /* handed to the node's own sockets */
};

/* ---- configuration: one entry ---------------------------------------------- */

enum kp_config_flag {
	KP_CONFIG_READY = 0x1, /* the daemon has written this entry */
	KP_CONFIG_LOCAL_FAST_PATH = 0x2, /* hand packets between two pods of the node over directly */
	KP_CONFIG_MASQUERADE_ALL = 0x4, /* pods that reach a ClusterIP are masqueraded too */
	KP_CONFIG_DETECT_LOCAL = 0x8, /* it is told apart which clients are pods of this node */
	KP_CONFIG_DETECT_BY_RANGE = 0x10, /* namely by address, KP_RANGE_PODS; else by interface */
	KP_CONFIG_SOCKET_HOST = 0x20, /* the node's processes get their backend when they connect */
	KP_CONFIG_SOCKET_PODS = 0x40, /* those of pods as well */
	KP_CONFIG_LOCALHOST_NODE_PORTS = 0x80, /* NodePorts are reached at 127.0.0.0/8, too */
	KP_CONFIG_SERVICE_RANGES = 0x100, /* there are entries of KP_RANGE_SERVICES */
	KP_CONFIG_HAND_OVER = 0x200, /* new connections are another proxy's; known ones stay ours */
};

/* State of a flow, and the index of its time-out in kp_config.timeout_sec. */
enum kp_state {
	KP_STATE_TCP_NEW = 0, /* SYN seen, no answer yet */
	KP_STATE_TCP_ESTABLISHED = 1, /* both sides have spoken */
	KP_STATE_TCP_CLOSING = 2, /* FIN from both sides, or a reset */
	KP_STATE_UDP_NEW = 3, /* no answer yet */
	KP_STATE_UDP_STREAM = 4, /* both sides have spoken */
	KP_STATE_SCTP_NEW = 5, /* INIT seen, no answer yet */
	KP_STATE_SCTP_ESTABLISHED = 6, /* both sides have spoken */
	KP_STATE_SCTP_CLOSING = 7, /* ABORT or SHUTDOWN COMPLETE seen */
	KP_STATE_ICMP = 8, /* echo request and its replies */
	KP_STATE_OTHER = 9, /* a protocol without ports */
};

#define KP_STATES 16

struct kp_config {
	u32 flags; /* enum kp_config_flag */
	u32 epoch; /* raised after endpoints change: known flows are judged once more */
	u32 udp_epoch; /* raised after a UDP backend left: known UDP flows are judged once more */
	u32 refusals_per_sec; /* refusals answered per CPU and second */
	u32 timeout_sec[KP_STATES]; /* by enum kp_state: a flow idle for longer is forgotten */
	struct kp_addr hairpin4; /* the client that a pod sees when it reaches itself by a Service */
	struct kp_addr hairpin6; /* the same for IPv6 */
	struct kp_addr node4; /* this node's first address, of which masquerade falls back on; zero: none */
	struct kp_addr node6; /* the same for IPv6 */
	u64 node_netns; /* cookie of the node's network namespace */
	u32 uplink_ifindex; /* an uplink that routes; 0: none */
	u16 node_port_first; /* NodePorts in use lie between these two; 0: there are none */
	u16 node_port_last;
	u16 masquerade_first; /* source ports of masqueraded connections, first and last */
	u16 masquerade_last;
	u32 zero;
};

/* ---- flows ----------------------------------------------------------------- */

/* A connection in either direction: the smaller (address, port) first, see flow.h. */
struct kp_flow_key {
	struct kp_addr low;
	struct kp_addr high;
	__be16 low_port; /* ICMP echo: the identifier, in both ports */
	__be16 high_port;
	u8 proto; /* IP protocol number */
	u8 diverted; /* 1: direct connection whose plain key a translated one already has */
	u16 zero;
};

enum kp_flow_flag {
	KP_FLOW_ALIAS = 0x1, /* keyed (client, Service); else keyed as the backend sees it */
	KP_FLOW_TRANSLATED = 0x2, /* goes through a Service */
	KP_FLOW_HAIRPIN = 0x4, /* client and backend are one pod */
	KP_FLOW_CLIENT_IS_HIGH = 0x8, /* the client is the key's second address */
	KP_FLOW_CLIENT_FIN = 0x10, /* the client has sent FIN */
	KP_FLOW_BACKEND_FIN = 0x20, /* the backend has sent FIN */
	KP_FLOW_MASQUERADED = 0x40, /* the backend sees the node, masq_addr, as its client */
	KP_FLOW_FROM_NODE = 0x80, /* the client is a process of this node */
	KP_FLOW_BY_STACK = 0x100, /* the node's stack brings its packets: never the fast path */
	KP_FLOW_TRANSIT = 0x200, /* keyed (client, backend): a masqueraded packet on its way through the stack */
};

struct kp_flow {
	u64 last_seen_ns; /* to within a tick */
	struct kp_addr nat_addr; /* alias: the backend; translated: the Service that replies show */
	__be16 nat_port; /* alias: the backend's port; translated: the Service's port */
	__be16 client_port; /* alias: the client's as the backend sees it; translated: its own */
	u16 flags; /* enum kp_flow_flag */
	u16 tick; /* of last_seen_ns, in 1024 jiffies: in the same tick nothing is refreshed */
	u32 client_ifindex; /* host-side interface of the client, 0: not a pod of this node; FROM_NODE: where it left */
	u32 backend_ifindex; /* the same of the other end */
	u8 client_mac[6]; /* of the pod behind client_ifindex */
	u8 backend_mac[6]; /* of the pod behind backend_ifindex */
	u32 epoch; /* kp_config.epoch (UDP: udp_epoch) under which it was judged */
	u32 service; /* Service port id, 0: none */
	u32 created_sec; /* when it was made */
	u8 state; /* enum kp_state */
	u8 zero[7];
	struct kp_addr masq_addr; /* masqueraded; alias: the node's address that the backend sees; else the client's own */
};

/* Ports of a fragmented datagram, for its later fragments. */
struct kp_fragment_key {
	struct kp_addr src;
	struct kp_addr dst;
	u32 id; /* the IP identification, as it stands in the packet */
	u32 ifindex; /* where it was seen: a pod cannot speak for another */
	u8 proto; /* IPv4: IP protocol number; IPv6: 0, the id alone is enough */
	u8 zero[7];
};

struct kp_fragment {
	__be16 src_port;
	__be16 dst_port;
	u8 proto; /* of the transport header, which IPv6 may have behind more headers */
	u8 zero[3];
};

/* ---- names: what the numbers are called, for people ------------------------ */

enum kp_name_kind {
	KP_NAME_SERVICE = 0, /* id of a Service port: namespace/name:port/family */
	KP_NAME_ENDPOINT = 1, /* id of an endpoint: how it was found, and the pod where known */
};

struct kp_name_key {
	u32 kind; /* enum kp_name_kind */
	u32 id;
};

struct kp_name {
	u8 text[200]; /* UTF-8, zero padded: two names of 63 bytes, a port's, a family */
};

/* ---- counters and the memory of what was dropped --------------------------- */

#define KP_VERDICTS 128 /* kp_counters has a slot for each hook and verdict: hook * 128 + verdict */

struct kp_counter {
	u64 packets;
	u64 bytes;
};

/* Who was dropped, why and when; ports of the client are left out on purpose. */
struct kp_dropped_key {
	struct kp_addr src;
	struct kp_addr dst;
	__be16 dst_port;
	u8 proto;
	u8 hook; /* enum kp_hook */
	u8 verdict; /* enum kp_verdict */
	u8 zero[3];
};

struct kp_dropped {
	u64 packets;
	u64 last_seen_ns;
	u32 ifindex; /* of the last one */
	u32 zero;
};

/* Tokens for refusals, one bucket per CPU. */
struct kp_bucket {
	u64 since_ns; /* start of the present second */
	u32 spent; /* refusals answered since */
	u32 zero;
};

/* Room for what a program notes of one packet (struct kp_packet): never read from outside. */
struct kp_scratch {
	u64 words[40];
};
