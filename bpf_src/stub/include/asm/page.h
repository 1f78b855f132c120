// SPDX-License-Identifier: GPL-2.0-only
/* bcc counts the pages of its perf buffers; we have none. */
#pragma once
#define PAGE_SIZE 4096
