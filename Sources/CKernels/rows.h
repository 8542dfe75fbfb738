// Operations on rows of floats, written once over the vector types of an instruction set.

// Sixteen lanes, whatever the width of a vector: the unit of every canonical order over a row.
typedef struct { vf v[16 / TK_LANES]; } v16;

#define TK_V16_EACH _Pragma("GCC unroll 8") for (int i = 0; i < 16 / TK_LANES; ++i)

TK_INLINE v16 v16_load(const float *p) { v16 r; TK_V16_EACH r.v[i] = vf_load(p + i * TK_LANES); return r; }
TK_INLINE void v16_store(float *p, v16 a) { TK_V16_EACH vf_store(p + i * TK_LANES, a.v[i]); }
TK_INLINE v16 v16_set1(float x) { v16 r; TK_V16_EACH r.v[i] = vf_set1(x); return r; }
TK_INLINE v16 v16_add(v16 a, v16 b) { TK_V16_EACH a.v[i] = vf_add(a.v[i], b.v[i]); return a; }
TK_INLINE v16 v16_sub(v16 a, v16 b) { TK_V16_EACH a.v[i] = vf_sub(a.v[i], b.v[i]); return a; }
TK_INLINE v16 v16_mul(v16 a, v16 b) { TK_V16_EACH a.v[i] = vf_mul(a.v[i], b.v[i]); return a; }
TK_INLINE v16 v16_div(v16 a, v16 b) { TK_V16_EACH a.v[i] = vf_div(a.v[i], b.v[i]); return a; }
TK_INLINE v16 v16_max(v16 a, v16 b) { TK_V16_EACH a.v[i] = vf_max(a.v[i], b.v[i]); return a; }
TK_INLINE v16 v16_min(v16 a, v16 b) { TK_V16_EACH a.v[i] = vf_min(a.v[i], b.v[i]); return a; }
TK_INLINE v16 v16_abs(v16 a) { TK_V16_EACH a.v[i] = vf_abs(a.v[i]); return a; }
TK_INLINE v16 v16_fma(v16 a, v16 b, v16 c) { TK_V16_EACH c.v[i] = vf_fma(a.v[i], b.v[i], c.v[i]); return c; }
TK_INLINE v16 v16_load_f16(const uint16_t *p) {
    v16 r;
    TK_V16_EACH r.v[i] = vf_load_f16(p + i * TK_LANES);
    return r;
}
TK_INLINE void v16_store_low_bytes(int8_t *p, v16 a) { TK_V16_EACH vf_store_low_bytes(p + i * TK_LANES, a.v[i]); }
TK_INLINE void v16_store_f16(uint16_t *p, v16 a) { TK_V16_EACH vf_store_f16(p + i * TK_LANES, a.v[i]); }

// The first n < 16 lanes; the others are `fill`, and are not stored.
TK_INLINE v16 v16_load_some(const float *p, size_t n, float fill) {
    float lanes[16];
    for (size_t l = 0; l < 16; ++l) {
        lanes[l] = l < n ? p[l] : fill;
    }
    return v16_load(lanes);
}
TK_INLINE void v16_store_some(float *p, size_t n, v16 a) {
    float lanes[16];
    v16_store(lanes, a);
    memcpy(p, lanes, n * sizeof(float));
}

// The tree at the end of a strided sum.
TK_INLINE float v16_sum(v16 a) {
    float lanes[16];
    v16_store(lanes, a);
    for (int w = 8; w > 0; w /= 2) {
        for (int l = 0; l < w; ++l) {
            lanes[l] = lanes[l] + lanes[l + w];
        }
    }
    return lanes[0];
}

TK_INLINE float v16_maximum(v16 a) {
    float lanes[16];
    v16_store(lanes, a);
    for (int w = 8; w > 0; w /= 2) {
        for (int l = 0; l < w; ++l) {
            lanes[l] = lanes[l] > lanes[l + w] ? lanes[l] : lanes[l + w];
        }
    }
    return lanes[0];
}

// exp: x = n ln 2 + r, |r| <= ln 2 / 2; exp r by a polynomial; times 2^n as two factors, since 2^n alone may be
// denormal or infinite where the result is not. Adding 1.5 * 2^23 rounds to an integer, which then stands in the low
// bits. NaN passes through min and max as their second operand.
TK_INLINE vf vf_exp(vf x) {
    x = vf_max(vf_set1(-104.0f), x);
    x = vf_min(vf_set1(89.0f), x);
    const vf rounder = vf_set1(0x1.8p23f);
    const vf shifted = vf_fma(x, vf_set1(0x1.715476p0f), rounder);
    const vf n = vf_sub(shifted, rounder);
    vf r = vf_fma(n, vf_set1(-0x1.62e4p-1f), x);
    r = vf_fma(n, vf_set1(-0x1.7f7d1cp-20f), r);
    // 1 + r + r^2/2 + ...: Taylor to r^7, whose remainder is below 2^-27 here.
    vf p = vf_set1(0x1.a01a02p-13f);
    p = vf_fma(p, r, vf_set1(0x1.6c16c2p-10f));
    p = vf_fma(p, r, vf_set1(0x1.111112p-7f));
    p = vf_fma(p, r, vf_set1(0x1.555556p-5f));
    p = vf_fma(p, r, vf_set1(0x1.555556p-3f));
    p = vf_fma(p, r, vf_set1(0.5f));
    p = vf_fma(p, r, vf_set1(1.0f));
    p = vf_fma(p, r, vf_set1(1.0f));
    const vi exponent = vi_sub(vf_as_int(shifted), vi_set1(0x4b400000));
    const vi half = vi_shift_right(exponent, 1);
    const vf first = vf_as_float(vi_shift_left(vi_add(half, vi_set1(127)), 23));
    const vf second = vf_as_float(vi_shift_left(vi_add(vi_sub(exponent, half), vi_set1(127)), 23));
    return vf_mul(vf_mul(p, first), second);
}

// What a difference of scores weighs in attention (CKernels.h).
TK_INLINE vf vf_weight(vf x) {
    const vf border = vf_set1(-69.0f);
    return vf_zero_below(vf_exp(vf_max(border, x)), x, border);
}

TK_INLINE v16 v16_weight(v16 a) { TK_V16_EACH a.v[i] = vf_weight(a.v[i]); return a; }
TK_INLINE v16 v16_exp(v16 a) { TK_V16_EACH a.v[i] = vf_exp(a.v[i]); return a; }

TK_INLINE v16 v16_silu(v16 x) {
    return v16_div(x, v16_add(v16_set1(1.0f), v16_exp(v16_sub(v16_set1(-0.0f), x))));
}

static void exponential(const float *in, size_t n, float *out) {
    size_t i = 0;
    for (; i + 16 <= n; i += 16) {
        v16_store(out + i, v16_exp(v16_load(in + i)));
    }
    if (i < n) {
        v16_store_some(out + i, n - i, v16_exp(v16_load_some(in + i, n - i, 0)));
    }
}

static void silu_multiply(const float *gate, const float *up, size_t n, float *out) {
    size_t i = 0;
    for (; i + 16 <= n; i += 16) {
        v16_store(out + i, v16_mul(v16_silu(v16_load(gate + i)), v16_load(up + i)));
    }
    if (i < n) {
        const v16 product = v16_mul(v16_silu(v16_load_some(gate + i, n - i, 0)), v16_load_some(up + i, n - i, 0));
        v16_store_some(out + i, n - i, product);
    }
}

static void rmsnorm(const float *x, const float *weight, size_t n, float epsilon, float *out) {
    v16 sum = v16_set1(0);
    size_t i = 0;
    for (; i + 16 <= n; i += 16) {
        const v16 v = v16_load(x + i);
        sum = v16_fma(v, v, sum);
    }
    if (i < n) {
        // fma(0, 0, s) leaves s as it is: sums of squares are never -0.
        const v16 v = v16_load_some(x + i, n - i, 0);
        sum = v16_fma(v, v, sum);
    }
    const float factor = 1.0f / __builtin_sqrtf(v16_sum(sum) / (float)n + epsilon);
    const v16 scale = v16_set1(factor);
    for (i = 0; i + 16 <= n; i += 16) {
        v16_store(out + i, v16_mul(v16_mul(v16_load(x + i), scale), v16_load(weight + i)));
    }
    if (i < n) {
        const v16 v = v16_mul(v16_load_some(x + i, n - i, 0), scale);
        v16_store_some(out + i, n - i, v16_mul(v, v16_load_some(weight + i, n - i, 0)));
    }
}

TK_INLINE float maximum(const float *x, size_t n) {
    v16 best = v16_set1(-__builtin_inff());
    size_t i = 0;
    for (; i + 16 <= n; i += 16) {
        best = v16_max(best, v16_load(x + i));
    }
    if (i < n) {
        best = v16_max(best, v16_load_some(x + i, n - i, -__builtin_inff()));
    }
    return v16_maximum(best);
}

// x_i = exp(x_i - m), in attention its weight; returns their strided sum.
TK_INLINE float exponentials(float *x, size_t n, float m, const bool weights) {
    const v16 offset = v16_set1(m);
    v16 sum = v16_set1(0);
    size_t i = 0;
    for (; i + 16 <= n; i += 16) {
        const v16 difference = v16_sub(v16_load(x + i), offset);
        const v16 e = weights ? v16_weight(difference) : v16_exp(difference);
        v16_store(x + i, e);
        sum = v16_add(sum, e);
    }
    if (i < n) {
        const v16 difference = v16_sub(v16_load_some(x + i, n - i, 0), offset);
        v16_store_some(x + i, n - i, weights ? v16_weight(difference) : v16_exp(difference));
        // Adding +0 leaves the other lanes as they are: exponentials are never -0.
        sum = v16_add(sum, v16_load_some(x + i, n - i, 0));
    }
    return v16_sum(sum);
}

static void softmax(float *x, size_t n) {
    const float sum = exponentials(x, n, maximum(x, n), false);
    const v16 divisor = v16_set1(sum);
    size_t i = 0;
    for (; i + 16 <= n; i += 16) {
        v16_store(x + i, v16_div(v16_load(x + i), divisor));
    }
    for (; i < n; ++i) {
        x[i] = x[i] / sum;
    }
}

static void add(float *x, const float *y, size_t n) {
    size_t i = 0;
    for (; i + 16 <= n; i += 16) {
        v16_store(x + i, v16_add(v16_load(x + i), v16_load(y + i)));
    }
    for (; i < n; ++i) {
        x[i] = x[i] + y[i];
    }
}

static void scale(const float *x, float factor, size_t n, float *out) {
    size_t i = 0;
    for (; i + 16 <= n; i += 16) {
        v16_store(out + i, v16_mul(v16_load(x + i), v16_set1(factor)));
    }
    for (; i < n; ++i) {
        out[i] = x[i] * factor;
    }
}

static void combine(float *x, const float *const *outputs, const float *weights, size_t count, size_t n) {
    if (count == 0) {
        return;
    }
    for (size_t i = 0; i < n; i += 16) {
        const size_t some = n - i < 16 ? n - i : 16;
        v16 y = v16_set1(0);
        for (size_t e = 0; e < count; ++e) {
            const v16 output = some == 16 ? v16_load(outputs[e] + i) : v16_load_some(outputs[e] + i, some, 0);
            const v16 weighted = v16_mul(output, v16_set1(weights[e]));
            y = e == 0 ? weighted : v16_add(y, weighted);
        }
        if (some == 16) {
            v16_store(x + i, v16_add(v16_load(x + i), y));
        } else {
            v16_store_some(x + i, some, v16_add(v16_load_some(x + i, some, 0), y));
        }
    }
}

static bool all_finite(const void *x, size_t n) {
    const uint8_t *bytes = x;
    uint32_t infinite = 0;
    for (size_t i = 0; i < n; ++i) {
        uint32_t bits;
        memcpy(&bits, bytes + 4 * i, sizeof bits);
        infinite |= (bits & 0x7f800000) == 0x7f800000;
    }
    return infinite == 0;
}

static void f32_to_f16(const float *in, size_t n, uint16_t *out) {
    size_t i = 0;
    for (; i + 16 <= n; i += 16) {
        v16_store_f16(out + i, v16_load(in + i));
    }
    for (; i < n; ++i) {
        out[i] = tk_float_to_half(in[i]);
    }
}

static void f16_to_f32(const uint16_t *in, size_t n, float *out) {
    size_t i = 0;
    for (; i + 16 <= n; i += 16) {
        v16_store(out + i, v16_load_f16(in + i));
    }
    for (; i < n; ++i) {
        out[i] = tk_half_to_float(in[i]);
    }
}

static void quantise(tk_activation activation, const float *row, size_t columns, void *encoded) {
    if (activation == TK_ACTIVATION_F32) {
        memcpy(encoded, row, columns * 4);
        return;
    }
    int8_t *quants = encoded;
    const size_t block = tk_activation_block(activation);
    for (size_t b = 0; b < columns / block; ++b) {
        const float *x = row + b * block;
        v16 largest = v16_set1(0);
        for (size_t i = 0; i < block; i += 16) {
            largest = v16_max(largest, v16_abs(v16_load(x + i)));
        }
        const float amax = v16_maximum(largest);
        // Below 2^-100 the inverse would overflow.
        const bool zero = amax < 0x1p-100f;
        const float scale = zero ? 0 : amax / 127.0f;
        const v16 inverse = v16_set1(zero ? 0 : 127.0f / amax);
        for (size_t i = 0; i < block; i += 16) {
            v16 v = v16_mul(v16_load(x + i), inverse);
            v = v16_min(v16_max(v, v16_set1(-127.0f)), v16_set1(127.0f));
            // The integer stands in the low bits; the byte is its two's complement.
            v16_store_low_bytes(quants + b * block + i, v16_add(v, v16_set1(0x1.8p23f)));
        }
        memcpy(quants + columns + b * 4, &scale, 4);
    }
}

// The pieces and scales of an a8_256 row.
static void prepare_pieces(const uint8_t *source, size_t columns, uint8_t *row) {
    for (size_t c = 0; c < columns / 64; ++c) {
        int8_t quants[64];
        int16_t eighths[8], sums[24] = {0};
        memcpy(quants, source + c * 64, 64);
        for (size_t k = 0; k < 64; ++k) {
            quants[k] = quants[k] < -127 ? -127 : quants[k];
        }
        for (size_t i = 0; i < 8; ++i) {
            int16_t sum = 0;
            for (size_t k = i * 8; k < i * 8 + 8; ++k) {
                sum = (int16_t)(sum + quants[k]);
            }
            eighths[i] = sum;
            sums[i] = (int16_t)(-32 * sum);
        }
        for (size_t i = 0; i < 4; ++i) {
            sums[8 + i] = (int16_t)(-16 * (eighths[2 * i] + eighths[2 * i + 1]));
        }
        for (size_t i = 0; i < 2; ++i) {
            sums[14 + i] = (int16_t)(eighths[4 * i] + eighths[4 * i + 1] + eighths[4 * i + 2] + eighths[4 * i + 3]);
            sums[12 + i] = (int16_t)(-8 * sums[14 + i]);
        }
        for (size_t k = 0; k < 64; ++k) {
            int16_t *sum = sums + 16 + k / 16 * 2 + k / 2 % 2;
            *sum = (int16_t)(*sum - 32 * quants[k]);
        }
        memcpy(row + c * TK_PIECE_BYTES, quants, 64);
        memcpy(row + c * TK_PIECE_BYTES + 64, sums, sizeof sums);
    }
    memcpy(row + columns / 64 * TK_PIECE_BYTES, source + columns, columns / 256 * 4);
}

static void prepare(
    tk_activation activation, const void *encoded, size_t encoded_stride, size_t columns, size_t count,
    void *prepared) {
    const size_t bytes = tk_prepared_row_bytes(activation, columns);
    for (size_t i = 0; i < count; ++i) {
        const uint8_t *source = (const uint8_t *)encoded + i * encoded_stride;
        uint8_t *row = (uint8_t *)prepared + i * bytes;
        if (activation == TK_ACTIVATION_F32) {
            memcpy(row, source, columns * 4);
            continue;
        }
        if (activation == TK_ACTIVATION_A8_256) {
            prepare_pieces(source, columns, row);
            continue;
        }
        const size_t blocks = columns / 32;
        int8_t *quants = (int8_t *)row;
        memcpy(quants, source, columns);
        for (size_t k = 0; k < columns; ++k) {
            quants[k] = quants[k] < -127 ? -127 : quants[k];
        }
        memset(row + columns, 0, tk_prepared_scales(columns) - columns);
        memcpy(row + tk_prepared_scales(columns), source + columns, blocks * 4);
        uint8_t *sums = row + tk_prepared_sums(columns, blocks);
        for (size_t b = 0; b < blocks; ++b) {
            int32_t sum = 0;
            for (size_t k = b * 32; k < b * 32 + 32; ++k) {
                sum += quants[k];
            }
            const int32_t both[2] = {-8 * sum, -128 * sum};
            memcpy(sums + b * TK_SUMS_A8_32, both, sizeof both);
        }
    }
}

static void route(
    const float *logits, size_t experts, size_t used, float *scratch, int32_t *chosen, float *weights) {
    memcpy(scratch, logits, experts * sizeof(float));
    softmax(scratch, experts);
    float sum = 0;
    for (size_t n = 0; n < used; ++n) {
        size_t best = experts;
        for (size_t e = 0; e < experts; ++e) {
            bool taken = false;
            for (size_t i = 0; i < n; ++i) {
                taken |= chosen[i] == (int32_t)e;
            }
            // A NaN is not greater than anything, and anything that is not one goes before it.
            if (!taken && (best == experts || scratch[e] > scratch[best] ||
                           (scratch[best] != scratch[best] && scratch[e] == scratch[e]))) {
                best = e;
            }
        }
        chosen[n] = (int32_t)best;
        weights[n] = scratch[best];
        sum = n == 0 ? weights[n] : sum + weights[n];
    }
    for (size_t n = 0; n < used; ++n) {
        weights[n] = weights[n] / sum;
    }
}

static void rotary_apply(float *row, size_t heads, size_t head_dim, const float *cosines, const float *sines) {
    const size_t half = head_dim / 2;
    for (size_t h = 0; h < heads; ++h) {
        float *front = row + h * head_dim, *back = front + half;
        size_t i = 0;
        for (; i + 16 <= half; i += 16) {
            const v16 a = v16_load(front + i), b = v16_load(back + i);
            const v16 c = v16_load(cosines + i), s = v16_load(sines + i);
            v16_store(front + i, v16_fma(a, c, v16_sub(v16_set1(-0.0f), v16_mul(b, s))));
            v16_store(back + i, v16_fma(b, c, v16_mul(a, s)));
        }
        for (; i < half; ++i) {
            const float a = front[i], b = back[i];
            const float first = b * sines[i], second = a * sines[i];
            front[i] = __builtin_fmaf(a, cosines[i], -first);
            back[i] = __builtin_fmaf(b, cosines[i], second);
        }
    }
}
