// SPDX-License-Identifier: GPL-2.0-only
/* The first file that bcc includes; it also takes its presence for that of a kernel tree. */
#pragma once
#define CONFIG_BPF_SYSCALL 1
#include <linux/types.h>
