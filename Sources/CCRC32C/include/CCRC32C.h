// CRC-32C (RFC 3720, appendix B.4) with the processor's instruction for it. The portable one is in Wire.
#ifndef TRAMONTANE_CCRC32C_H
#define TRAMONTANE_CCRC32C_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __clang__
#pragma clang assume_nonnull begin
#endif

// Whether this build and this processor have the instruction.
bool tc_crc32c_available(void);

// The state of a checksum after `count` more bytes: from all ones on, without the final complement. `bytes` may lie
// anywhere. Only where tc_crc32c_available is true; elsewhere it returns `state`.
uint32_t tc_crc32c(uint32_t state, const void *bytes, size_t count);

#ifdef __clang__
#pragma clang assume_nonnull end
#endif

#endif
