/* Layouts of what is served: frontends, backends, affinity, ranges. Rules as in abi.h. */
#pragma once
#include "abi.h"

/* A NodePort has the unspecified address of its family. Port and protocol 0 stand for all
 * the rest of a ClusterIP, which is refused (KP_FRONTEND_WHOLE_ADDRESS). */
struct kp_frontend_key {
	struct kp_addr addr;
	__be16 port;
	u8 proto;
	u8 zero[5];
};

enum kp_frontend_flag {
	KP_FRONTEND_LOCAL_ONLY = 0x1, /* internalTrafficPolicy Local: only endpoints of this node */
	KP_FRONTEND_EXTERNAL = 0x2, /* NodePort, load balancer's or external IP: not a ClusterIP */
	KP_FRONTEND_EXTERNAL_LOCAL = 0x4, /* externalTrafficPolicy Local */
	KP_FRONTEND_SOURCE_RANGES = 0x8, /* loadBalancerSourceRanges hold here: see kp_ranges */
	KP_FRONTEND_WHOLE_ADDRESS = 0x10, /* not a port: what no port of this ClusterIP takes */
};

/* Backends of a set stand at (base, 0..count-1); those of the local set behind them. */
struct kp_frontend {
	u32 service; /* Service port id: one namespace/name:port in one family */
	u32 base; /* the backend set; fresh for every new set */
	u32 count; /* endpoints for cluster-wide traffic */
	u32 local_count; /* endpoints on this node */
	u32 affinity_sec; /* session affinity ClientIP time-out, 0: none */
	u32 flags; /* enum kp_frontend_flag */
};

struct kp_backend_key {
	u32 base;
	u32 slot;
};

enum kp_backend_flag {
	KP_BACKEND_HERE = 0x1, /* an endpoint of this node: never masqueraded */
};

struct kp_backend {
	struct kp_addr addr;
	__be16 port;
	u16 flags; /* enum kp_backend_flag */
	u8 zero[4];
};

/* Is this address still an endpoint of that Service port? For UDP and affinity only. */
struct kp_member_key {
	struct kp_addr addr;
	u32 service;
	__be16 port;
	u8 zero[2];
};

enum kp_member_flag {
	KP_MEMBER_CLUSTER = 0x1, /* in the set for cluster-wide traffic */
	KP_MEMBER_LOCAL = 0x2, /* in the set of this node */
	KP_MEMBER_SERVING = 0x4, /* still serves: known UDP flows stay */
	KP_MEMBER_HERE = 0x8, /* an endpoint of this node */
};

struct kp_member {
	u32 flags; /* enum kp_member_flag */
};

struct kp_affinity_key {
	struct kp_addr client;
	u32 service;
	u32 zero;
};

struct kp_affinity {
	u64 last_used_ns; /* refreshed by each new connection */
	struct kp_addr addr;
	__be16 port;
	u8 zero[6];
};

enum kp_range_scope {
	KP_RANGE_PODS = 0xffffff01, /* addresses of pods: kube-proxy's clusterCIDR, or NodeCIDR */
	KP_RANGE_SERVICES = 0xffffff02, /* cluster IPs are allocated from here */
};

/* A range of addresses. `scope` is the id of the Service port that it may reach, or an
 * enum kp_range_scope. */
struct kp_range_key {
	u32 prefix; /* bits that count: 32 of the scope, and 0 to 128 of the address */
	u32 scope;
	struct kp_addr addr;
};
