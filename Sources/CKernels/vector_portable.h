// The vector types of one instruction set, here in plain C: the specification of the others.
//
// A vector holds TK_LANES rows of a panel (16 / TK_LANES vectors make a panel's width):
//   vf  float lanes          vi  int32 lanes         vb  4 bytes for each lane, as in a panel's 64-byte groups
//   va  running sums of products of 4-bit to 6-bit weights with int8 activations, maybe narrower than int32
//   vs  a small integer scale for each lane, in the form that va wants
//   vw  signed weight bytes, in the form that their product wants
//   vr  four int8 activations of a row, for all lanes
#define TK_LANES 16
// A tile of products has up to TK_TILE rows times TK_ABREAST vectors of weights: as many sums as registers hold, besides what
// they are made of. The vectors abreast share each vr.
#define TK_ABREAST 1
#define TK_TILE 8
// Up to how many rows take weights of so many bits straight from the panel: unpacking is a store and more for each vector.
#define TK_DIRECT(bits) 8
#define TK_UNROLL
#define TK_IN_ORDER(x) ((void)(x))
#define TK_OPAQUE(p) ((void)(p))
// Whether sums of K formats start at minus the middle of the weights' range times the sum of the activations that will go in
// (va_start reads it from a piece, layout.h; for 6 bits and the group of four values at TK_START_6BIT), so that they stay small;
// otherwise at zero.
#define TK_CENTRED(bits) ((void)(bits), false)
#define va_start(sum) ((void)(sum), va_zero())
#define TK_START_6BIT(group) 0
// How many va_dot may follow before va_add_scaled must empty the sums, for weights of 5 and 6 bits; for 4 bits, 8.
#define TK_DOTS_5BIT 8
#define TK_DOTS_6BIT 4

typedef struct { float v[TK_LANES]; } vf;
typedef struct { int32_t v[TK_LANES]; } vi;
typedef struct { uint8_t v[4 * TK_LANES]; } vb;
typedef struct { int8_t v[4 * TK_LANES]; } vw;
typedef vi va;
typedef vi vs;
typedef const int8_t *vr;

#define TK_EACH for (int l = 0; l < TK_LANES; ++l)

TK_INLINE vf vf_load(const float *p) { vf r; memcpy(&r, p, sizeof r); return r; }
TK_INLINE void vf_store(float *p, vf a) { memcpy(p, &a, sizeof a); }
TK_INLINE vf vf_set1(float x) { vf r; TK_EACH r.v[l] = x; return r; }
TK_INLINE vf vf_add(vf a, vf b) { TK_EACH a.v[l] = a.v[l] + b.v[l]; return a; }
TK_INLINE vf vf_sub(vf a, vf b) { TK_EACH a.v[l] = a.v[l] - b.v[l]; return a; }
TK_INLINE vf vf_mul(vf a, vf b) { TK_EACH a.v[l] = a.v[l] * b.v[l]; return a; }
TK_INLINE vf vf_div(vf a, vf b) { TK_EACH a.v[l] = a.v[l] / b.v[l]; return a; }
TK_INLINE vf vf_fma(vf a, vf b, vf c) { TK_EACH c.v[l] = __builtin_fmaf(a.v[l], b.v[l], c.v[l]); return c; }
// The second factor is *b in every lane.
TK_INLINE vf vf_fma_spread(vf a, const float *b, vf c) { return vf_fma(a, vf_set1(*b), c); }
// The second operand where the comparison is false, so also where either is NaN: what x86's maxps and minps do.
TK_INLINE vf vf_max(vf a, vf b) { TK_EACH b.v[l] = a.v[l] > b.v[l] ? a.v[l] : b.v[l]; return b; }
TK_INLINE vf vf_min(vf a, vf b) { TK_EACH b.v[l] = a.v[l] < b.v[l] ? a.v[l] : b.v[l]; return b; }
// 0 where x < border, `a` elsewhere, also where x is NaN.
TK_INLINE vf vf_zero_below(vf a, vf x, vf border) { TK_EACH a.v[l] = x.v[l] < border.v[l] ? 0 : a.v[l]; return a; }
TK_INLINE vf vf_abs(vf a) { TK_EACH a.v[l] = tk_from_bits(tk_bits(a.v[l]) & 0x7fffffff); return a; }
TK_INLINE vf vf_from_vi(vi a) { vf r; TK_EACH r.v[l] = (float)a.v[l]; return r; }
TK_INLINE vf vf_as_float(vi a) { vf r; memcpy(&r, &a, sizeof r); return r; }
TK_INLINE vi vf_as_int(vf a) { vi r; memcpy(&r, &a, sizeof r); return r; }
TK_INLINE vf vf_load_f16(const void *p) {
    vf r;
    TK_EACH r.v[l] = tk_half_to_float(tk_load_u16((const uint8_t *)p + 2 * l));
    return r;
}
TK_INLINE void vf_store_f16(uint16_t *p, vf a) { TK_EACH p[l] = tk_float_to_half(a.v[l]); }
// The lowest byte of each lane.
TK_INLINE void vf_store_low_bytes(int8_t *p, vf a) { TK_EACH p[l] = (int8_t)(tk_bits(a.v[l]) & 0xff); }
TK_INLINE vf vf_load_bf16(const void *p) {
    vf r;
    TK_EACH r.v[l] = tk_from_bits((uint32_t)tk_load_u16((const uint8_t *)p + 2 * l) << 16);
    return r;
}

// int32 arithmetic wraps, as in the other sets.
TK_INLINE vi vi_set1(int32_t x) { vi r; TK_EACH r.v[l] = x; return r; }
TK_INLINE vi vi_add(vi a, vi b) { TK_EACH a.v[l] = (int32_t)((uint32_t)a.v[l] + (uint32_t)b.v[l]); return a; }
TK_INLINE vi vi_sub(vi a, vi b) { TK_EACH a.v[l] = (int32_t)((uint32_t)a.v[l] - (uint32_t)b.v[l]); return a; }
#define vi_shift_left(a, n) vi_shift_left_(a, n)
TK_INLINE vi vi_shift_left_(vi a, int n) { TK_EACH a.v[l] = (int32_t)((uint32_t)a.v[l] << n); return a; }
// Shifts copy the sign.
#define vi_shift_right(a, n) vi_shift_right_(a, n)
TK_INLINE vi vi_shift_right_(vi a, int n) { TK_EACH a.v[l] = a.v[l] >> n; return a; }

#define TK_EACH_BYTE for (int l = 0; l < 4 * TK_LANES; ++l)
TK_INLINE vb vb_load(const void *p) { vb r; memcpy(&r, p, sizeof r); return r; }
TK_INLINE void vb_store(void *p, vb a) { memcpy(p, &a, sizeof a); }
TK_INLINE vb vb_or(vb a, vb b) { TK_EACH_BYTE a.v[l] |= b.v[l]; return a; }
TK_INLINE vb vb_and(vb a, uint8_t mask) { TK_EACH_BYTE a.v[l] &= mask; return a; }
// Bytewise shifts, then a mask.
#define vb_left(a, n, mask) vb_left_(a, n, mask)
TK_INLINE vb vb_left_(vb a, int n, uint8_t mask) { TK_EACH_BYTE a.v[l] = (uint8_t)(a.v[l] << n) & mask; return a; }
#define vb_right(a, n, mask) vb_right_(a, n, mask)
TK_INLINE vb vb_right_(vb a, int n, uint8_t mask) { TK_EACH_BYTE a.v[l] = (uint8_t)(a.v[l] >> n) & mask; return a; }

// The sum of four products in each lane; `a` points to the four activations.
TK_INLINE vr vr_load(const int8_t *p) { return p; }
TK_INLINE va va_zero(void) { return vi_set1(0); }
TK_INLINE va va_dot(va sum, vb weights, vr a) {
    TK_EACH for (int j = 0; j < 4; ++j) sum.v[l] += weights.v[4 * l + j] * a[j];
    return sum;
}
TK_INLINE vs vs_load_u8(const uint8_t *p) { vs r; TK_EACH r.v[l] = p[l]; return r; }
TK_INLINE vs vs_load_i8(const int8_t *p) { vs r; TK_EACH r.v[l] = p[l]; return r; }
TK_INLINE vi va_total(va sum) { return sum; }
TK_INLINE vi va_add_scaled(vi total, va sum, vs scale) { TK_EACH total.v[l] += sum.v[l] * scale.v[l]; return total; }

// Two small integers for each lane, as int16 pairs, and their products with two activations' sums, added up.
TK_INLINE vi vi_pairs_u8(const uint8_t *even, const uint8_t *odd) {
    vi r;
    TK_EACH r.v[l] = even[l] | odd[l] << 16;
    return r;
}
TK_INLINE vi vi_pairs_i8(const int8_t *even, const int8_t *odd) {
    vi r;
    TK_EACH r.v[l] = (int32_t)((uint32_t)(even[l] & 0xffff) | (uint32_t)odd[l] << 16);
    return r;
}
TK_INLINE vi vi_dot_pairs(vi sum, vi pairs, vr two) {
    const int16_t first = (int16_t)tk_load_u16(two);
    const int16_t second = (int16_t)tk_load_u16((const uint8_t *)two + 2);
    TK_EACH sum.v[l] += (int16_t)(pairs.v[l] & 0xffff) * first + (int16_t)(pairs.v[l] >> 16) * second;
    return sum;
}

// Signed 8-bit weights. A sum of their products starts from the sums of the activations that will go in (layout.h).
TK_INLINE vw vw_load(const void *p) { vw r; memcpy(&r, p, sizeof r); return r; }
TK_INLINE vi vw_start(const void *activations) { (void)activations; return vi_set1(0); }
TK_INLINE vi vw_dot(vi sum, vw weights, vr a) {
    TK_EACH for (int j = 0; j < 4; ++j) sum.v[l] += weights.v[4 * l + j] * a[j];
    return sum;
}
