// The vector types of vector_portable.h for AVX2 with FMA and F16C: 8 rows in a vector.
//
// vpmaddubsw multiplies unsigned with signed bytes and adds pairs into int16 with saturation, so what goes in is
// bounded:
//   4 bits: a pair is at most 2 * 15 * 127 = 3,810, eight of them 30,480;
//   5 bits: 2 * 31 * 127 = 7,874, four of them 31,496;
//   6 bits: 2 * 63 * 127 = 16,002; sums wrap, so four of them that start centred end right: -32...31, 4 * 2 * 32 * 127 = 32,512;
//   8 bits signed, as |w| times a with w's sign: 2 * 128 * 127 = 32,512.
// Of the 16 registers a tile has 10 for sums, 2 for weights, one for a row's activations and one for products; a sixth row of
// sums made it slower. A product is three operations: vpmaddubsw, vpaddw, and the load that two vectors share.
#define TK_LANES 8
#define TK_ABREAST 2
#define TK_TILE 5
#define TK_DIRECT(bits) ((bits) == 4 ? 8 : 4)
#define TK_UNROLL _Pragma("GCC unroll 16")
// Keeps the compiler from computing a pointer from others.
#define TK_OPAQUE(p) __asm__("" : "+r"(p))
// Keeps the compiler from taking one row's products all in a row, where each waits for the one before.
#define TK_IN_ORDER(x) __asm__ volatile("" : "+x"(x))
#define TK_CENTRED(bits) ((bits) == 6)
#define TK_START_6BIT(group) (TK_PIECE_PAIRS_6BIT + (group))
#define TK_DOTS_5BIT 4
#define TK_DOTS_6BIT 4

typedef __m256 vf;
typedef __m256i vi;
typedef __m256i vb;
typedef __m256i vw;
typedef __m256i va;
typedef __m256i vs;
typedef __m256i vr;

TK_INLINE vf vf_load(const float *p) { return _mm256_loadu_ps(p); }
TK_INLINE void vf_store(float *p, vf a) { _mm256_storeu_ps(p, a); }
TK_INLINE vf vf_set1(float x) { return _mm256_set1_ps(x); }
TK_INLINE vf vf_add(vf a, vf b) { return _mm256_add_ps(a, b); }
TK_INLINE vf vf_sub(vf a, vf b) { return _mm256_sub_ps(a, b); }
TK_INLINE vf vf_mul(vf a, vf b) { return _mm256_mul_ps(a, b); }
TK_INLINE vf vf_div(vf a, vf b) { return _mm256_div_ps(a, b); }
TK_INLINE vf vf_fma(vf a, vf b, vf c) { return _mm256_fmadd_ps(a, b, c); }
TK_INLINE vf vf_fma_spread(vf a, const float *b, vf c) { return vf_fma(a, vf_set1(*b), c); }
TK_INLINE vf vf_max(vf a, vf b) { return _mm256_max_ps(a, b); }
TK_INLINE vf vf_min(vf a, vf b) { return _mm256_min_ps(a, b); }
TK_INLINE vf vf_zero_below(vf a, vf x, vf border) {
    return _mm256_andnot_ps(_mm256_cmp_ps(x, border, _CMP_LT_OQ), a);
}
TK_INLINE vf vf_abs(vf a) { return _mm256_and_ps(a, _mm256_castsi256_ps(_mm256_set1_epi32(0x7fffffff))); }
TK_INLINE vf vf_from_vi(vi a) { return _mm256_cvtepi32_ps(a); }
TK_INLINE vf vf_as_float(vi a) { return _mm256_castsi256_ps(a); }
TK_INLINE vi vf_as_int(vf a) { return _mm256_castps_si256(a); }
TK_INLINE vf vf_load_f16(const void *p) { return _mm256_cvtph_ps(_mm_loadu_si128(p)); }
TK_INLINE void vf_store_f16(uint16_t *p, vf a) {
    _mm_storeu_si128((void *)p, _mm256_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
TK_INLINE void vf_store_low_bytes(int8_t *p, vf a) {
    const __m256i low = _mm256_and_si256(_mm256_castps_si256(a), _mm256_set1_epi32(0xff));
    const __m128i pairs = _mm_packus_epi32(_mm256_castsi256_si128(low), _mm256_extracti128_si256(low, 1));
    _mm_storel_epi64((void *)p, _mm_packus_epi16(pairs, pairs));
}
TK_INLINE vf vf_load_bf16(const void *p) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128(p)), 16));
}

TK_INLINE vi vi_set1(int32_t x) { return _mm256_set1_epi32(x); }
TK_INLINE vi vi_add(vi a, vi b) { return _mm256_add_epi32(a, b); }
TK_INLINE vi vi_sub(vi a, vi b) { return _mm256_sub_epi32(a, b); }
#define vi_shift_left(a, n) _mm256_slli_epi32(a, n)
#define vi_shift_right(a, n) _mm256_srai_epi32(a, n)

TK_INLINE vb vb_load(const void *p) { return _mm256_loadu_si256(p); }
TK_INLINE void vb_store(void *p, vb a) { _mm256_storeu_si256(p, a); }
TK_INLINE vb vb_or(vb a, vb b) { return _mm256_or_si256(a, b); }
TK_INLINE vb vb_and(vb a, uint8_t mask) { return _mm256_and_si256(a, _mm256_set1_epi8((char)mask)); }
#define vb_left(a, n, mask) vb_and(_mm256_slli_epi16(a, n), mask)
#define vb_right(a, n, mask) vb_and(_mm256_srli_epi16(a, n), mask)

// Opaque, so that it is loaded once for all vectors abreast.
TK_INLINE vr vr_load(const void *p) {
    vr four = _mm256_set1_epi32(tk_load_i32(p));
    TK_IN_ORDER(four);
    return four;
}
TK_INLINE va va_zero(void) { return _mm256_setzero_si256(); }
TK_INLINE va va_start(const void *sums) { return vr_load(sums); }
TK_INLINE va va_dot(va sum, vb weights, vr a) {
    return _mm256_add_epi16(sum, _mm256_maddubs_epi16(weights, a));
}
// The scale stands twice in each lane, once for each int16 sum.
TK_INLINE vs vs_load_u8(const uint8_t *p) {
    const __m256i bytes = _mm256_setr_epi32(
        (int)0xff00ff00, (int)0xff01ff01, (int)0xff02ff02, (int)0xff03ff03, (int)0xff04ff04, (int)0xff05ff05,
        (int)0xff06ff06, (int)0xff07ff07);
    return _mm256_shuffle_epi8(_mm256_broadcastq_epi64(_mm_loadl_epi64((const void *)p)), bytes);
}
TK_INLINE vs vs_load_i8(const int8_t *p) {
    const __m128i x = _mm_loadl_epi64((const void *)p);
    return _mm256_cvtepi8_epi16(_mm_unpacklo_epi8(x, x));
}
TK_INLINE vi va_total(va sum) { return _mm256_madd_epi16(sum, _mm256_set1_epi16(1)); }
TK_INLINE vi va_add_scaled(vi total, va sum, vs scale) {
    return _mm256_add_epi32(total, _mm256_madd_epi16(sum, scale));
}

TK_INLINE __m128i interleave(const void *even, const void *odd) {
    return _mm_unpacklo_epi8(_mm_loadl_epi64(even), _mm_loadl_epi64(odd));
}
TK_INLINE vi vi_pairs_u8(const uint8_t *even, const uint8_t *odd) {
    return _mm256_cvtepu8_epi16(interleave(even, odd));
}
TK_INLINE vi vi_pairs_i8(const int8_t *even, const int8_t *odd) { return _mm256_cvtepi8_epi16(interleave(even, odd)); }
TK_INLINE vi vi_dot_pairs(vi sum, vi pairs, vr two) {
    return _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, two));
}

TK_INLINE vw vw_load(const void *p) { return _mm256_loadu_si256(p); }
TK_INLINE vi vw_start(const void *activations) {
    (void)activations;
    return _mm256_setzero_si256();
}
TK_INLINE vi vw_dot(vi sum, vw weights, vr a) {
    const __m256i x = _mm256_sign_epi8(a, weights);
    const __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(weights), x);
    return _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}
