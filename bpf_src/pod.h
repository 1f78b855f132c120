// SPDX-License-Identifier: GPL-2.0-only
/* The pods of this node: who has which address, behind which interface. */
#pragma once
#include "flow.h"

KP_INLINE struct kp_endpoint *kp_pod(const struct kp_addr *addr)
{
	return kp_lookup(MAP(kp_endpoints), addr);
}

/* A pod may only speak with addresses of its own. */
KP_INLINE bool kp_source_is_own(struct kp_context *ctx)
{
	struct kp_endpoint *pod = kp_pod(&ctx->pkt->was.src);

	kp_step(ctx, KP_STEP_SOURCE_CHECKED);
	return pod && pod->ifindex == ctx->skb->ifindex;
}

/* Where a flow's packets are handed over; NULL: that end is no pod of this node, and there
 * is room for the node's address that the pod at the other end sees. */
KP_INLINE void kp_flow_ends(struct kp_flow *flow, const struct kp_endpoint *client,
			    const struct kp_endpoint *backend)
{
	KP_OPAQUE(client);
	KP_OPAQUE(backend);
	flow->client_ifindex = client ? client->ifindex : 0;
	if (client)
		kp_mac_copy(flow->client_mac, client->pod_mac);
	else if (backend)
		kp_mac_copy(flow->client_mac, backend->node_mac);
	flow->backend_ifindex = backend ? backend->ifindex : 0;
	if (backend)
		kp_mac_copy(flow->backend_mac, backend->pod_mac);
	else if (client)
		kp_mac_copy(flow->backend_mac, client->node_mac);
}
