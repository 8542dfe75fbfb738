#include "CCRC32C.h"

#include <string.h>

#if defined(__x86_64__)

#include <immintrin.h>

#define TC_TARGET __attribute__((target("sse4.2,pclmul")))

bool tc_crc32c_available(void) { return __builtin_cpu_supports("sse4.2") && __builtin_cpu_supports("pclmul"); }

// The instruction takes three cycles and one can start in each, so three runs of RUN bytes go side by side.
enum { RUN = 1024 };

// x^(8n - 33) modulo the polynomial, bits reversed, for n = RUN and 2 * RUN.
#define SHIFT_RUN 0x170076faull
#define SHIFT_TWO_RUNS 0xa51b6135ull

// A state moved over n zero bytes: a product without carries, brought back to 32 bits by the instruction itself.
TC_TARGET static uint64_t shifted(uint64_t state, uint64_t factor) {
    const __m128i product =
        _mm_clmulepi64_si128(_mm_cvtsi64_si128((int64_t)state), _mm_cvtsi64_si128((int64_t)factor), 0);
    return _mm_crc32_u64(0, (uint64_t)_mm_cvtsi128_si64(product));
}

TC_TARGET static uint64_t word(uint64_t state, const uint8_t *bytes) {
    uint64_t next;
    memcpy(&next, bytes, 8);
    return _mm_crc32_u64(state, next);
}

TC_TARGET uint32_t tc_crc32c(uint32_t state, const void *bytes, size_t count) {
    const uint8_t *p = bytes;
    uint64_t first = state;
    for (; count >= 3 * RUN; count -= 3 * RUN, p += 3 * RUN) {
        uint64_t second = 0, third = 0;
        for (size_t i = 0; i < RUN; i += 8) {
            first = word(first, p + i);
            second = word(second, p + RUN + i);
            third = word(third, p + 2 * RUN + i);
        }
        first = shifted(first, SHIFT_TWO_RUNS) ^ shifted(second, SHIFT_RUN) ^ third;
    }
    for (; count >= 8; count -= 8, p += 8) {
        first = word(first, p);
    }
    for (; count > 0; --count, ++p) {
        first = _mm_crc32_u8((uint32_t)first, *p);
    }
    return (uint32_t)first;
}

#else

bool tc_crc32c_available(void) { return false; }

uint32_t tc_crc32c(uint32_t state, const void *bytes, size_t count) {
    (void)bytes;
    (void)count;
    return state;
}

#endif
