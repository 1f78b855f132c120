// SPDX-License-Identifier: GPL-2.0-only
/* Opcodes of BPF instructions, which bcc's linux/bpf.h wants and no program here names. */
#pragma once
