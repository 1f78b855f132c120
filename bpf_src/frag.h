// SPDX-License-Identifier: GPL-2.0-only
/* Later fragments carry no ports: they take those of the first one of their datagram. */
#pragma once
#include "packet.h"

KP_INLINE int kp_fragment(struct kp_context *ctx)
{
	struct kp_packet *pkt = ctx->pkt;
	struct kp_fragment_key key = {
		.src = pkt->was.src,
		.dst = pkt->was.dst,
		.id = pkt->fragment_id,
		.ifindex = ctx->skb->ifindex,
		.proto = pkt->ipv6 ? 0 : pkt->proto, /* RFC 791 and RFC 8200, 4.5 */
	};
	struct kp_fragment *first;

	if (pkt->fragment == KP_FRAGMENT_FIRST) {
		struct kp_fragment ports = {
			.src_port = pkt->was.src_port,
			.dst_port = pkt->was.dst_port,
			.proto = pkt->proto,
		};

		if (!pkt->trace)
			kp_update(MAP(kp_fragments), &key, &ports, BPF_ANY);
		return KP_NEXT;
	}
	first = kp_lookup(MAP(kp_fragments), &key);
	if (!first)
		return KP_DROP_FRAGMENT_UNKNOWN;
	pkt->was.src_port = first->src_port;
	pkt->was.dst_port = first->dst_port;
	pkt->proto = first->proto;
	kp_step(ctx, KP_STEP_FRAGMENT);
	return KP_NEXT;
}
