/* Every map, one line each: name, kind, key, value, entries, flags.
 *
 * maps/gen.py reads these lines too; maps/table.py creates, checks and pins the
 * maps, and hands them to the compiler as file descriptors. Kinds are those of
 * bpf(2). NO_PREALLOC: memory grows with use.
 */
#pragma once
#include "abi.h"
#include "abi_node.h"
#include "abi_service.h"

/* Written by the programs. */
KP_MAP(kp_flows, LRU_HASH, struct kp_flow_key, struct kp_flow, 262144, 0)
KP_MAP(kp_fragments, LRU_HASH, struct kp_fragment_key, struct kp_fragment, 8192, 0)
KP_MAP(kp_affinities, LRU_HASH, struct kp_affinity_key, struct kp_affinity, 65536, 0)
KP_MAP(kp_sockets, LRU_HASH, struct kp_socket_key, struct kp_socket, 65536, 0)
KP_MAP(kp_counters, PERCPU_ARRAY, u32, struct kp_counter, 640, 0)
KP_MAP(kp_drops, LRU_HASH, struct kp_dropped_key, struct kp_dropped, 4096, 0)
KP_MAP(kp_buckets, PERCPU_ARRAY, u32, struct kp_bucket, 1, 0)
KP_MAP(kp_scratches, PERCPU_ARRAY, u32, struct kp_scratch, 1, 0)

/* Written by the daemon. */
KP_MAP(kp_configs, ARRAY, u32, struct kp_config, 1, 0)
KP_MAP(kp_frontends, HASH, struct kp_frontend_key, struct kp_frontend, 262144, NO_PREALLOC)
KP_MAP(kp_backends, HASH, struct kp_backend_key, struct kp_backend, 1048576, NO_PREALLOC)
KP_MAP(kp_members, HASH, struct kp_member_key, struct kp_member, 524288, NO_PREALLOC)
KP_MAP(kp_ranges, LPM_TRIE, struct kp_range_key, u32, 65536, NO_PREALLOC)
KP_MAP(kp_addresses, HASH, struct kp_address_key, struct kp_address, 1024, NO_PREALLOC)
KP_MAP(kp_devices, HASH, u32, struct kp_device, 64, NO_PREALLOC)
KP_MAP(kp_endpoints, HASH, struct kp_endpoint_key, struct kp_endpoint, 4096, NO_PREALLOC)
KP_MAP(kp_names, HASH, struct kp_name_key, struct kp_name, 131072, NO_PREALLOC)
