// SPDX-License-Identifier: GPL-2.0-only
/* Included by bcc, and needed by nobody. */
#pragma once
