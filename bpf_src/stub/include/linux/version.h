// SPDX-License-Identifier: GPL-2.0-only
/* bcc writes the version into the object; the kernel has ignored it since 5.0. */
#pragma once
#define LINUX_VERSION_CODE 0
#define KERNEL_VERSION(a, b, c) (((a) << 16) + ((b) << 8) + (c))
