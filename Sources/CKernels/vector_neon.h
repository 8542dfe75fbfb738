// The vector types of vector_portable.h for NEON with the dot product (Armv8.2 FEAT_DotProd): 4 rows in a vector.
//
// sdot adds four products of signed bytes to an int32 exactly: weights of up to 6 bits are signed bytes too, and running
// sums never have to be emptied.
#define TK_LANES 4
#define TK_ABREAST 1
#define TK_TILE 8
#define TK_DIRECT(bits) 8
#define TK_UNROLL _Pragma("GCC unroll 16")
// Keeps the compiler from taking one row's products all in a row, where each waits for the one before.
#define TK_IN_ORDER(x) __asm__ volatile("" : "+w"(x))
// Keeps the compiler from computing a pointer from others.
#define TK_OPAQUE(p) __asm__("" : "+r"(p))
#define TK_CENTRED(bits) ((void)(bits), false)
#define va_start(sum) ((void)(sum), va_zero())
#define TK_START_6BIT(group) 0
#define TK_DOTS_5BIT 8
#define TK_DOTS_6BIT 4

typedef float32x4_t vf;
typedef int32x4_t vi;
typedef uint8x16_t vb;
typedef int8x16_t vw;
typedef int32x4_t va;
typedef int32x4_t vs;
typedef const int8_t *vr;

// Loads and stores are of bytes, which may lie anywhere.
TK_INLINE vf vf_load(const float *p) { return vreinterpretq_f32_u8(vld1q_u8((const uint8_t *)p)); }
TK_INLINE void vf_store(float *p, vf a) { vst1q_u8((uint8_t *)p, vreinterpretq_u8_f32(a)); }
TK_INLINE vf vf_set1(float x) { return vdupq_n_f32(x); }
TK_INLINE vf vf_add(vf a, vf b) { return vaddq_f32(a, b); }
TK_INLINE vf vf_sub(vf a, vf b) { return vsubq_f32(a, b); }
TK_INLINE vf vf_mul(vf a, vf b) { return vmulq_f32(a, b); }
TK_INLINE vf vf_div(vf a, vf b) { return vdivq_f32(a, b); }
TK_INLINE vf vf_fma(vf a, vf b, vf c) { return vfmaq_f32(c, a, b); }
TK_INLINE vf vf_fma_spread(vf a, const float *b, vf c) { return vf_fma(a, vf_set1(*b), c); }
// Not fmax and fmin: those order zeros and keep a NaN from either side.
TK_INLINE vf vf_max(vf a, vf b) { return vbslq_f32(vcgtq_f32(a, b), a, b); }
TK_INLINE vf vf_min(vf a, vf b) { return vbslq_f32(vcltq_f32(a, b), a, b); }
TK_INLINE vf vf_zero_below(vf a, vf x, vf border) {
    return vreinterpretq_f32_u32(vbicq_u32(vreinterpretq_u32_f32(a), vcltq_f32(x, border)));
}
TK_INLINE vf vf_abs(vf a) { return vabsq_f32(a); }
TK_INLINE vf vf_from_vi(vi a) { return vcvtq_f32_s32(a); }
TK_INLINE vf vf_as_float(vi a) { return vreinterpretq_f32_s32(a); }
TK_INLINE vi vf_as_int(vf a) { return vreinterpretq_s32_f32(a); }
TK_INLINE vf vf_load_f16(const void *p) { return vcvt_f32_f16(vreinterpret_f16_u8(vld1_u8(p))); }
TK_INLINE void vf_store_f16(uint16_t *p, vf a) { vst1_u8((uint8_t *)p, vreinterpret_u8_f16(vcvt_f16_f32(a))); }
TK_INLINE void vf_store_low_bytes(int8_t *p, vf a) {
    const uint16x4_t pairs = vmovn_u32(vreinterpretq_u32_f32(a));
    const uint32_t bytes = vget_lane_u32(vreinterpret_u32_u8(vmovn_u16(vcombine_u16(pairs, pairs))), 0);
    memcpy(p, &bytes, 4);
}
TK_INLINE vf vf_load_bf16(const void *p) {
    return vreinterpretq_f32_u32(vshll_n_u16(vreinterpret_u16_u8(vld1_u8(p)), 16));
}

TK_INLINE vi vi_set1(int32_t x) { return vdupq_n_s32(x); }
TK_INLINE vi vi_add(vi a, vi b) { return vaddq_s32(a, b); }
TK_INLINE vi vi_sub(vi a, vi b) { return vsubq_s32(a, b); }
#define vi_shift_left(a, n) vshlq_n_s32(a, n)
#define vi_shift_right(a, n) vshrq_n_s32(a, n)

TK_INLINE vb vb_load(const void *p) { return vld1q_u8(p); }
TK_INLINE void vb_store(void *p, vb a) { vst1q_u8(p, a); }
TK_INLINE vb vb_or(vb a, vb b) { return vorrq_u8(a, b); }
TK_INLINE vb vb_and(vb a, uint8_t mask) { return vandq_u8(a, vdupq_n_u8(mask)); }
#define vb_left(a, n, mask) vb_and(vshlq_n_u8(a, n), mask)
#define vb_right(a, n, mask) vb_and(vshrq_n_u8(a, n), mask)

// Four bytes, in each lane.
TK_INLINE int8x16_t four_bytes(const int8_t *a) { return vreinterpretq_s8_s32(vdupq_n_s32(tk_load_i32(a))); }
TK_INLINE int32x4_t widen_u8(const uint8_t *p) {
    const uint16x8_t x = vmovl_u8(vcreate_u8((uint32_t)tk_load_i32(p)));
    return vreinterpretq_s32_u32(vmovl_u16(vget_low_u16(x)));
}
TK_INLINE int32x4_t widen_i8(const int8_t *p) {
    const int16x8_t x = vmovl_s8(vcreate_s8((uint32_t)tk_load_i32(p)));
    return vmovl_s16(vget_low_s16(x));
}

TK_INLINE vr vr_load(const int8_t *p) { return p; }
TK_INLINE va va_zero(void) { return vdupq_n_s32(0); }
TK_INLINE va va_dot(va sum, vb weights, vr a) {
    return vdotq_s32(sum, vreinterpretq_s8_u8(weights), four_bytes(a));
}
TK_INLINE vs vs_load_u8(const uint8_t *p) { return widen_u8(p); }
TK_INLINE vs vs_load_i8(const int8_t *p) { return widen_i8(p); }
TK_INLINE vi va_total(va sum) { return sum; }
TK_INLINE vi va_add_scaled(vi total, va sum, vs scale) { return vmlaq_s32(total, sum, scale); }

TK_INLINE vi vi_pairs_u8(const uint8_t *even, const uint8_t *odd) {
    return vsliq_n_s32(widen_u8(even), widen_u8(odd), 16);
}
TK_INLINE vi vi_pairs_i8(const int8_t *even, const int8_t *odd) {
    return vsliq_n_s32(widen_i8(even), widen_i8(odd), 16);
}
TK_INLINE vi vi_dot_pairs(vi sum, vi pairs, vr two) {
    const int16x8_t w = vreinterpretq_s16_s32(pairs), x = vreinterpretq_s16_s32(vdupq_n_s32(tk_load_i32(two)));
    const int32x4_t front = vmull_s16(vget_low_s16(w), vget_low_s16(x)), back = vmull_high_s16(w, x);
    return vaddq_s32(sum, vpaddq_s32(front, back));
}

TK_INLINE vw vw_load(const void *p) { return vreinterpretq_s8_u8(vld1q_u8(p)); }
TK_INLINE vi vw_start(const void *activations) {
    (void)activations;
    return vdupq_n_s32(0);
}
TK_INLINE vi vw_dot(vi sum, vw weights, vr a) { return vdotq_s32(sum, weights, four_bytes(a)); }
