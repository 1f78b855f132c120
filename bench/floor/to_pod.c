// SPDX-License-Identifier: GPL-2.0-only
/* A program that does nothing but load those 40 bytes: what a test-run itself costs. */
#include "kernel.h"

KP_PROGRAM(to_pod) int to_pod(struct __sk_buff *skb)
{
	u64 key[5];

	return kp_load(skb, 80, key, sizeof(key)) ? 2 : -1;
}
