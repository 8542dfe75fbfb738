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

TC_TARGET static uint32_t by_instruction(uint32_t state, const uint8_t *p, size_t count) {
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

#define TC_TARGET_WIDE __attribute__((target("avx512f,vpclmulqdq,sse4.2,pclmul")))

// Vectors side by side in the wide loop.
enum { LANES = 4 };

// Lanes of 128 bits moved over `distance` bits, before what stands there is added. The halves of a lane are 64 bits apart,
// and a product of two reversed halves comes out one bit too low: so x^(distance + 63) for the earlier half and
// x^(distance - 1) for the later one, modulo the polynomial, bits reversed, in the upper 32 bits of 64.
#define FOLD_512 0x1c19243bull, 0x75bba45bull
#define FOLD_LANES 0xe9a5d8beull, 0x1426a815ull

TC_TARGET_WIDE static __m512i factors(uint64_t earlier, uint64_t later) {
    return _mm512_broadcast_i32x4(_mm_set_epi64x((int64_t)(later << 32), (int64_t)(earlier << 32)));
}

TC_TARGET_WIDE static __m512i folded(__m512i lanes, __m512i factors, __m512i next) {
    const __m512i earlier = _mm512_clmulepi64_epi128(lanes, factors, 0x00);
    const __m512i later = _mm512_clmulepi64_epi128(lanes, factors, 0x11);
    return _mm512_ternarylogic_epi64(earlier, later, next, 0x96);
}

// All whole blocks of LANES vectors; at least one. The rest is the instruction's, on what is left of the lanes.
TC_TARGET_WIDE static uint32_t by_lanes(uint32_t state, const uint8_t *p, size_t count) {
    __m512i lanes[LANES];
    for (int i = 0; i < LANES; ++i) lanes[i] = _mm512_loadu_si512(p + 64 * i);
    lanes[0] = _mm512_xor_si512(lanes[0], _mm512_zextsi128_si512(_mm_cvtsi32_si128((int)state)));
    const __m512i far = factors(FOLD_LANES);
    for (p += 64 * LANES, count -= 64 * LANES; count >= 64 * LANES; p += 64 * LANES, count -= 64 * LANES) {
        for (int i = 0; i < LANES; ++i) lanes[i] = folded(lanes[i], far, _mm512_loadu_si512(p + 64 * i));
    }
    const __m512i near = factors(FOLD_512);
    for (int i = 1; i < LANES; ++i) lanes[i] = folded(lanes[i - 1], near, lanes[i]);
    uint8_t last[64];
    _mm512_storeu_si512(last, lanes[LANES - 1]);
    return by_instruction(by_instruction(0, last, sizeof last), p, count);
}

uint32_t tc_crc32c(uint32_t state, const void *bytes, size_t count) {
    if (count >= 64 * LANES && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("vpclmulqdq")) {
        return by_lanes(state, bytes, count);
    }
    return by_instruction(state, bytes, count);
}

#else

bool tc_crc32c_available(void) { return false; }

uint32_t tc_crc32c(uint32_t state, const void *bytes, size_t count) {
    (void)bytes;
    (void)count;
    return state;
}

#endif
