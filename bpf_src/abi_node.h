/* Layouts of the node: its addresses, its uplinks, its sockets, its pods. Rules as in abi.h. */
#pragma once
#include "abi.h"

/* ---- the node itself ---------------------------------------------------------- */

enum kp_address_flag {
	KP_ADDRESS_NODE = 0x1, /* an address of this node */
	KP_ADDRESS_NODE_PORT = 0x2, /* at which NodePorts are served: nodePortAddresses */
};

/* An address of this node. */
struct kp_address_key {
	struct kp_addr addr;
};

struct kp_address {
	u32 flags; /* enum kp_address_flag */
};

enum kp_device_flag {
	KP_DEVICE_NO_ETHERNET = 0x1, /* packets have no Ethernet header there */
};

/* An uplink of this node, keyed by its ifindex. */
struct kp_device {
	struct kp_addr masquerade4; /* what a backend reached that way sees as its client; zero: none */
	struct kp_addr masquerade6; /* the same for IPv6 */
	u32 flags; /* enum kp_device_flag */
	u8 mac[6]; /* its own */
	u8 zero[6];
};

/* ---- sockets that were given a backend ---------------------------------------- */

enum kp_way {
	KP_WAY_TO_BACKEND = 0, /* address and port are the Service's, the value the backend's */
	KP_WAY_TO_SERVICE = 1, /* the other way round */
};

struct kp_socket_key {
	u64 cookie; /* of the socket */
	struct kp_addr addr;
	__be16 port;
	u8 proto;
	u8 way; /* enum kp_way */
	u8 zero[4];
};

struct kp_socket {
	u64 last_used_ns;
	u64 netns; /* cookie of its network namespace */
	struct kp_addr addr;
	__be16 port;
	u16 zero;
	u32 service; /* Service port id */
};

/* ---- pods ------------------------------------------------------------------ */

enum kp_mode {
	KP_MODE_VETH = 0, /* programs at the host end of a veth pair */
};

/* A pod of this node, by address. One pod has one id and an entry for each address. */
struct kp_endpoint_key {
	struct kp_addr addr;
};

struct kp_endpoint {
	u32 id;
	u32 ifindex; /* host-side interface */
	u8 pod_mac[6];
	u8 node_mac[6];
	u8 mode; /* enum kp_mode */
	u8 zero[3];
};
