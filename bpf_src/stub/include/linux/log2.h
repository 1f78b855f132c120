// SPDX-License-Identifier: GPL-2.0-only
/* bcc rounds the sizes of its own ring buffers; we have none. */
#pragma once
#define roundup_pow_of_two(n) (n)
