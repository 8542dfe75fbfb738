// Offsets inside panels and prepared rows; see CKernels.h for the pictures.
#ifndef TK_LAYOUT_H
#define TK_LAYOUT_H

#include "CKernels.h"

#include <string.h>

#ifdef __clang__
#pragma STDC FP_CONTRACT OFF
#endif

// Bytes that memory is asked for in advance: the hardware's prefetcher stops at every page, and loses its way between panels.
enum { TK_AHEAD = 4608 };
// A tile of few rows asks for every line twice, a page and more ahead into the second-level cache and shortly before it takes
// it into the first, since every computation between two loads keeps later loads waiting.
enum { TK_AHEAD_TWICE = 6144, TK_AHEAD_NEAR = 1024 };
// AMD's processors read faster what is read in order, so there few rows take one panel after the other, and ask once. One row
// with little to compute is fastest if short bursts of requests only keep the hardware's prefetcher going; otherwise requests
// lead, line by line.
enum { TK_AHEAD_BURSTS = 1024, TK_AHEAD_IN_ORDER = 9216 };
extern bool tk_reads_in_order;

#define TK_INLINE static inline __attribute__((always_inline, unused))

enum {
    TK_Q8_0_GROUPS = 512,    // bytes of a block's quants in a panel
    TK_Q4_0_GROUPS = 256,
    TK_K_HEADER = 256,       // q4_K, q5_K: d, dmin, scales of 16 rows
    TK_K_DMIN = 32,
    TK_K_SCALES = 64,
    TK_Q4_K_BYTES = 2304,
    TK_Q5_K_CHUNK = 640,     // bytes of 64 values of k: their fifth bits, then
    TK_Q5_K_LOW = 128,       // qs
    TK_Q5_K_BYTES = 2816,
    TK_Q6_K_SCALES = 256,
    TK_Q6_K_CHUNK = 768,     // bytes of 64 values of k
    TK_Q6_K_QUAD = 192,      // bytes of 16 of them: a group of qh, then
    TK_Q6_K_LOW = 64,        // the two groups of ql that it completes
    TK_Q6_K_BYTES = 3328,
};

// Bytes of a section of 16 f16 scales for each of `blocks` blocks.
TK_INLINE size_t tk_scale_section(size_t blocks) { return (blocks * 32 + 63) / 64 * 64; }

// A prepared a8_32 row: int8 x columns, padded to 64; then f32 scale for each block; then for each block the sum of its
// int8 values times -8 and times -128, int32s.
TK_INLINE size_t tk_prepared_scales(size_t columns) { return (columns + 63) / 64 * 64; }
TK_INLINE size_t tk_prepared_sums(size_t columns, size_t blocks) { return tk_prepared_scales(columns) + blocks * 4; }
enum { TK_SUMS_A8_32 = 8 };

// A prepared a8_256 row: a piece for each 64 values, then f32 scale for each block. A piece has all that belongs to its
// values, so that one pointer leads to it: 64 int8, then int16 sums of them: 8 sums of 8 times -32, 4 sums of 16 times -16 and
// 2 sums of 32 times -8, where centred sums of products with weights of 6, 5 and 4 bits start, 2 sums of 32, and for each
// 16 values the sum of the first two of every four times -32 and that of the last two, where centred sums of pairs start.
enum {
    TK_PIECE_BYTES = 112,
    TK_PIECE_START_6BIT = 64,
    TK_PIECE_START_5BIT = 80,
    TK_PIECE_START_4BIT = 88,
    TK_PIECE_SUMS = 92,
    TK_PIECE_PAIRS_6BIT = 96,
};

TK_INLINE uint16_t tk_load_u16(const void *p) {
    uint16_t x;
    memcpy(&x, p, 2);
    return x;
}
TK_INLINE int32_t tk_load_i32(const void *p) {
    int32_t x;
    memcpy(&x, p, 4);
    return x;
}
TK_INLINE float tk_load_f32(const void *p) {
    float x;
    memcpy(&x, p, 4);
    return x;
}
TK_INLINE uint32_t tk_bits(float x) {
    uint32_t b;
    memcpy(&b, &x, 4);
    return b;
}
TK_INLINE float tk_from_bits(uint32_t b) {
    float x;
    memcpy(&x, &b, 4);
    return x;
}

// f16 to f32 without hardware. Signalling NaNs become quiet, as vcvtph2ps and fcvtl do.
TK_INLINE float tk_half_to_float(uint16_t h) {
    const uint32_t sign = (uint32_t)(h & 0x8000) << 16;
    const uint32_t exponent = (h >> 10) & 31;
    uint32_t mantissa = h & 0x3ff;
    if (exponent == 31) {
        return tk_from_bits(sign | 0x7f800000 | mantissa << 13 | (mantissa ? 0x400000 : 0));
    }
    if (exponent == 0) {
        // A denormal is an integer times 2^-24; both are exact in f32.
        const float value = (float)mantissa * 0x1p-24f;
        return tk_from_bits(tk_bits(value) | sign);
    }
    return tk_from_bits(sign | (exponent + 112) << 23 | mantissa << 13);
}

// f32 to f16, round to nearest even.
TK_INLINE uint16_t tk_float_to_half(float x) {
    const uint32_t bits = tk_bits(x);
    const uint16_t sign = (uint16_t)(bits >> 16 & 0x8000);
    const uint32_t magnitude = bits & 0x7fffffff;
    if (magnitude > 0x7f800000) {
        return (uint16_t)(sign | 0x7e00 | (magnitude >> 13 & 0x3ff));
    }
    if (magnitude >= 0x477ff000) {  // 65520 and more round to infinity
        return sign | 0x7c00;
    }
    if (magnitude < 0x38800000) {
        // Below 2^-14: adding 0.5 lets the f32 addition round to a multiple of 2^-24.
        return (uint16_t)(sign | (tk_bits(tk_from_bits(magnitude) + 0.5f) - 0x3f000000));
    }
    const uint32_t odd = magnitude >> 13 & 1;
    return (uint16_t)(sign | ((magnitude + 0xfff + odd - 0x38000000) >> 13));
}

#endif
