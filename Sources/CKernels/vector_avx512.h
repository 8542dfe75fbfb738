// The vector types of vector_portable.h for AVX-512 (F, BW, VL, DQ), with TK_VNNI also VNNI: 16 rows in a vector.
//
// Without VNNI the bounds of vector_avx2.h hold. vpdpbusd adds four products to an int32 exactly, so with VNNI sums would never
// have to be emptied; but to multiply an int32 by a scale and add it takes three operations of the two ports that also
// compute the products, and an int16 one (vpdpwssd). Centred sums are int16:
//   4 bits, -8...7: 8 * 4 * 8 * 127 = 32,512; 5 bits, -16...15: 4 * 4 * 16 * 127; 6 bits, -32...31: 2 * 4 * 32 * 127, the same.
// On AMD's processors vpmulld is one operation and vpaddd goes to other ports, so with TK_WIDE sums are plain int32s: a
// multiplication for each sub-block, none for its centre, and no more starts than sub-blocks. There unpacking at once as
// many rows' weights also hides behind the products.
// Signed weights become unsigned by adding 128, and 128 times the sum of the activations is taken off again.
#define TK_LANES 16
#define TK_ABREAST 1
#define TK_TILE 8
#define TK_UNROLL _Pragma("GCC unroll 16")
// Keeps the compiler from computing a pointer from others.
#define TK_OPAQUE(p) __asm__("" : "+r"(p))
// Keeps the compiler from taking one row's products all in a row, where each waits for the one before.
#define TK_IN_ORDER(x) __asm__ volatile("" : "+v"(x))

typedef __m512 vf;
typedef __m512i vi;
typedef __m512i vb;
typedef __m512i vw;
typedef __m512i va;
typedef __m512i vs;
typedef const int8_t *vr;

TK_INLINE vf vf_load(const float *p) { return _mm512_loadu_ps(p); }
TK_INLINE void vf_store(float *p, vf a) { _mm512_storeu_ps(p, a); }
TK_INLINE vf vf_set1(float x) { return _mm512_set1_ps(x); }
TK_INLINE vf vf_add(vf a, vf b) { return _mm512_add_ps(a, b); }
TK_INLINE vf vf_sub(vf a, vf b) { return _mm512_sub_ps(a, b); }
TK_INLINE vf vf_mul(vf a, vf b) { return _mm512_mul_ps(a, b); }
TK_INLINE vf vf_div(vf a, vf b) { return _mm512_div_ps(a, b); }
TK_INLINE vf vf_fma(vf a, vf b, vf c) { return _mm512_fmadd_ps(a, b, c); }
// The multiply-add spreads its operand itself. Clang would load one vector for all that share a factor; but 12 multiply-adds
// with 6 such loads and 2 conversions of halves take 13.5 cycles on Zen 4, and these 12.
TK_INLINE vf vf_fma_spread(vf a, const float *b, vf c) {
    __asm__("vfmadd231ps %2%{1to16%}, %1, %0" : "+v"(c) : "v"(a), "m"(*b));
    return c;
}
TK_INLINE vf vf_max(vf a, vf b) { return _mm512_max_ps(a, b); }
TK_INLINE vf vf_min(vf a, vf b) { return _mm512_min_ps(a, b); }
TK_INLINE vf vf_zero_below(vf a, vf x, vf border) {
    return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x, border, _CMP_NLT_UQ), a);
}
TK_INLINE vf vf_abs(vf a) { return _mm512_abs_ps(a); }
TK_INLINE vf vf_from_vi(vi a) { return _mm512_cvtepi32_ps(a); }
TK_INLINE vf vf_as_float(vi a) { return _mm512_castsi512_ps(a); }
TK_INLINE vi vf_as_int(vf a) { return _mm512_castps_si512(a); }
TK_INLINE vf vf_load_f16(const void *p) { return _mm512_cvtph_ps(_mm256_loadu_si256(p)); }
TK_INLINE void vf_store_f16(uint16_t *p, vf a) {
    _mm256_storeu_si256((void *)p, _mm512_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
TK_INLINE void vf_store_low_bytes(int8_t *p, vf a) {
    _mm_storeu_si128((void *)p, _mm512_cvtepi32_epi8(_mm512_castps_si512(a)));
}
TK_INLINE vf vf_load_bf16(const void *p) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256(p)), 16));
}

TK_INLINE vi vi_set1(int32_t x) { return _mm512_set1_epi32(x); }
TK_INLINE vi vi_add(vi a, vi b) { return _mm512_add_epi32(a, b); }
TK_INLINE vi vi_sub(vi a, vi b) { return _mm512_sub_epi32(a, b); }
#define vi_shift_left(a, n) _mm512_slli_epi32(a, n)
#define vi_shift_right(a, n) _mm512_srai_epi32(a, n)

TK_INLINE vb vb_load(const void *p) { return _mm512_loadu_si512(p); }
TK_INLINE void vb_store(void *p, vb a) { _mm512_storeu_si512(p, a); }
TK_INLINE vb vb_or(vb a, vb b) { return _mm512_or_si512(a, b); }
TK_INLINE vb vb_and(vb a, uint8_t mask) { return _mm512_and_si512(a, _mm512_set1_epi8((char)mask)); }
#define vb_left(a, n, mask) vb_and(_mm512_slli_epi16(a, n), mask)
#define vb_right(a, n, mask) vb_and(_mm512_srli_epi16(a, n), mask)

TK_INLINE __m512i widen_u8(const void *p) { return _mm512_cvtepu8_epi32(_mm_loadu_si128(p)); }
TK_INLINE __m512i widen_i8(const void *p) { return _mm512_cvtepi8_epi32(_mm_loadu_si128(p)); }
// The low half of each lane of `low`, and `high` on top of it.
TK_INLINE __m512i join_pairs(__m512i low, __m512i high) {
    return _mm512_mask_blend_epi16(0xaaaaaaaa, low, _mm512_slli_epi32(high, 16));
}

TK_INLINE vi vi_pairs_u8(const uint8_t *even, const uint8_t *odd) { return join_pairs(widen_u8(even), widen_u8(odd)); }
TK_INLINE vi vi_pairs_i8(const int8_t *even, const int8_t *odd) { return join_pairs(widen_i8(even), widen_i8(odd)); }
// Instructions with an operand in memory spread it themselves.
TK_INLINE vr vr_load(const int8_t *p) { return p; }
TK_INLINE va va_zero(void) { return _mm512_setzero_si512(); }

#ifdef TK_VNNI

typedef int32_t __attribute__((aligned(1), may_alias)) int32_unaligned;

#ifdef TK_WIDE
#define TK_CENTRED(bits) ((void)(bits), false)
#define TK_START_6BIT(group) 0
#define TK_DIRECT(bits) TK_CHUNK
#define TK_DOTS_5BIT 8
#define TK_DOTS_6BIT 4
#else
#define TK_CENTRED(bits) ((void)(bits), true)
#define TK_START_6BIT(group) (TK_PIECE_START_6BIT + (group) / 2 * 2)
#define TK_DIRECT(bits) 16
#define TK_DOTS_5BIT 4
#define TK_DOTS_6BIT 2
#endif

TK_INLINE va va_dot(va sum, vb weights, vr a) {
    return _mm512_dpbusd_epi32(sum, weights, _mm512_set1_epi32(tk_load_i32(a)));
}
// Above the int16 lies what follows it in memory; that half of the sum is never read.
TK_INLINE va va_start(const void *sum) { return _mm512_set1_epi32(tk_load_i32(sum)); }
TK_INLINE vs vs_load_u8(const uint8_t *p) { return widen_u8(p); }
TK_INLINE vi va_total(va sum) { return sum; }
#ifdef TK_WIDE
TK_INLINE vs vs_load_i8(const int8_t *p) { return widen_i8(p); }
TK_INLINE vi va_add_scaled(vi total, va sum, vs scale) {
    return _mm512_add_epi32(total, _mm512_mullo_epi32(sum, scale));
}
#else
TK_INLINE vs vs_load_i8(const int8_t *p) { return _mm512_and_si512(widen_i8(p), _mm512_set1_epi32(0xffff)); }
// The scale's upper half is 0. Clang would make a multiplication and an addition of the intrinsic.
TK_INLINE vi va_add_scaled(vi total, va sum, vs scale) {
    __asm__("vpdpwssd %2, %1, %0" : "+v"(total) : "v"(sum), "v"(scale));
    return total;
}
#endif

TK_INLINE vi vi_dot_pairs(vi sum, vi pairs, vr two) {
    __asm__("vpdpwssd %2%{1to16%}, %1, %0" : "+v"(sum) : "v"(pairs), "m"(*(const int32_unaligned *)two));
    return sum;
}

TK_INLINE vw vw_load(const void *p) { return _mm512_xor_si512(_mm512_loadu_si512(p), _mm512_set1_epi8(-128)); }
TK_INLINE vi vw_start(const void *activations) {
    return _mm512_set1_epi32(tk_load_i32((const uint8_t *)activations + 4));
}
TK_INLINE vi vw_dot(vi sum, vw weights, vr a) { return va_dot(sum, weights, a); }

#else

#define TK_CENTRED(bits) ((bits) == 6)
#define TK_START_6BIT(group) (TK_PIECE_PAIRS_6BIT + (group))
#define TK_DIRECT(bits) ((bits) == 4 ? 16 : 8)
#define TK_DOTS_5BIT 4
#define TK_DOTS_6BIT 4

TK_INLINE va va_start(const void *sums) { return _mm512_set1_epi32(tk_load_i32(sums)); }

TK_INLINE va va_dot(va sum, vb weights, vr a) {
    return _mm512_add_epi16(sum, _mm512_maddubs_epi16(weights, _mm512_set1_epi32(tk_load_i32(a))));
}
TK_INLINE vs vs_load_u8(const uint8_t *p) {
    const __m512i x = widen_u8(p);
    return join_pairs(x, x);
}
TK_INLINE vs vs_load_i8(const int8_t *p) {
    const __m512i x = widen_i8(p);
    return join_pairs(x, x);
}
TK_INLINE vi va_total(va sum) { return _mm512_madd_epi16(sum, _mm512_set1_epi16(1)); }
TK_INLINE vi va_add_scaled(vi total, va sum, vs scale) {
    return _mm512_add_epi32(total, _mm512_madd_epi16(sum, scale));
}

TK_INLINE vi vi_dot_pairs(vi sum, vi pairs, vr two) {
    return _mm512_add_epi32(sum, _mm512_madd_epi16(pairs, _mm512_set1_epi32(tk_load_i32(two))));
}

TK_INLINE vw vw_load(const void *p) { return _mm512_loadu_si512(p); }
TK_INLINE vi vw_start(const void *activations) {
    (void)activations;
    return _mm512_setzero_si512();
}
TK_INLINE vi vw_dot(vi sum, vw weights, vr a) {
    const __m512i x = _mm512_set1_epi32(tk_load_i32(a));
    const __m512i with_sign = _mm512_mask_sub_epi8(x, _mm512_movepi8_mask(weights), _mm512_setzero_si512(), x);
    const __m512i pairs = _mm512_maddubs_epi16(_mm512_abs_epi8(weights), with_sign);
    return _mm512_add_epi32(sum, _mm512_madd_epi16(pairs, _mm512_set1_epi16(1)));
}

#endif
