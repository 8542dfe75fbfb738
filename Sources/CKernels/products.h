// Matrix products, written once over the vector types of an instruction set.
//
// A core computes one panel times `R` prepared activation rows over the blocks first ..< last, into result[R][16].
// Its unpacked weight vectors serve all R rows. R is a constant in each instance, so that sums live in registers;
// TK_TILE is the largest R for which there are enough of them.

#define TK_H (16 / TK_LANES)
#define TK_UNROLL _Pragma("GCC unroll 8")

typedef void tk_core(
    const uint8_t *panel, size_t columns, size_t first, size_t last, const uint8_t *rows, size_t stride,
    float *result);

#define TK_CORE(name)                                                                                                  \
    TK_INLINE void name(                                                                                               \
        const int R, const uint8_t *panel, size_t columns, size_t first, size_t last, const uint8_t *rows,             \
        size_t stride, float *result)

#define TK_CORE_INSTANCE(name, R)                                                                                      \
    static void name##_##R(                                                                                            \
        const uint8_t *panel, size_t columns, size_t first, size_t last, const uint8_t *rows, size_t stride,           \
        float *result) {                                                                                               \
        name(R, panel, columns, first, last, rows, stride, result);                                                    \
    }

#if TK_TILE == 8
#define TK_CORE_INSTANCES(name)                                                                                        \
    TK_CORE_INSTANCE(name, 1) TK_CORE_INSTANCE(name, 2) TK_CORE_INSTANCE(name, 4) TK_CORE_INSTANCE(name, 8)
#define TK_CORE_ROW(name) {name##_1, name##_2, name##_4, name##_8}
#else
#define TK_CORE_INSTANCES(name) TK_CORE_INSTANCE(name, 1) TK_CORE_INSTANCE(name, 2) TK_CORE_INSTANCE(name, 4)
#define TK_CORE_ROW(name) {name##_1, name##_2, name##_4}
#endif

TK_INLINE void clear(const int R, vf *acc) {
    TK_UNROLL
    for (int i = 0; i < R * TK_H; ++i) {
        acc[i] = vf_set1(0);
    }
}

TK_INLINE void store(const int R, const vf *acc, float *result) {
    TK_UNROLL
    for (int i = 0; i < R * TK_H; ++i) {
        vf_store(result + i * TK_LANES, acc[i]);
    }
}

// f32, f16, bf16: acc = fma(w, x, acc) in order of k.
#define TK_FLOAT_CORE(name, load, size)                                                                                \
    TK_CORE(name) {                                                                                                    \
        (void)columns;                                                                                                 \
        vf acc[TK_TILE * TK_H];                                                                                        \
        clear(R, acc);                                                                                                 \
        for (size_t k = first; k < last; ++k) {                                                                        \
            TK_UNROLL                                                                                                  \
            for (int h = 0; h < TK_H; ++h) {                                                                           \
                const vf w = load((const void *)(panel + k * 16 * size + h * TK_LANES * size));                        \
                TK_UNROLL                                                                                              \
                for (int r = 0; r < R; ++r) {                                                                          \
                    acc[r * TK_H + h] = vf_fma(w, vf_set1(tk_load_f32(rows + r * stride + k * 4)), acc[r * TK_H + h]); \
                }                                                                                                      \
            }                                                                                                          \
        }                                                                                                              \
        store(R, acc, result);                                                                                         \
    }                                                                                                                  \
    TK_CORE_INSTANCES(name)

TK_FLOAT_CORE(core_f32, vf_load, 4)
TK_FLOAT_CORE(core_f16, vf_load_f16, 2)
TK_FLOAT_CORE(core_bf16, vf_load_bf16, 2)

// Block formats take one vector's width of rows after the other, in a loop that is not unrolled: with both halves of a
// panel at once, AVX2's sixteen registers would not do. The sums acc may then lie in memory; they change once a block.
TK_CORE(core_q8_0) {
    const uint8_t *groups = panel + tk_scale_section(columns / 32);
    const size_t scales = tk_prepared_scales(columns), sums = tk_prepared_sums(columns, columns / 32);
    vf acc[TK_TILE * TK_H];
    clear(R, acc);
    for (size_t b = first; b < last; ++b) {
        for (int h = 0; h < TK_H; ++h) {
            const uint8_t *w = groups + b * TK_Q8_0_GROUPS + h * 4 * TK_LANES;
            const vf d = vf_load_f16(panel + b * 32 + h * 2 * TK_LANES);
            vi isum[TK_TILE];
            TK_UNROLL
            for (int r = 0; r < R; ++r) {
                isum[r] = vi_set1(0);
            }
            TK_UNROLL
            for (int g = 0; g < 8; ++g) {
                const vw q = vw_load(w + g * 64);
                TK_UNROLL
                for (int r = 0; r < R; ++r) {
                    isum[r] = vw_dot(isum[r], q, (const int8_t *)rows + r * stride + b * 32 + g * 4);
                }
            }
            TK_UNROLL
            for (int r = 0; r < R; ++r) {
                const uint8_t *row = rows + r * stride;
                const vf scale = vf_mul(d, vf_set1(tk_load_f32(row + scales + b * 4)));
                const vi exact = vw_finish(isum[r], tk_load_i32(row + sums + b * 4));
                acc[r * TK_H + h] = vf_fma(vf_from_vi(exact), scale, acc[r * TK_H + h]);
            }
        }
    }
    store(R, acc, result);
}
TK_CORE_INSTANCES(core_q8_0)

TK_CORE(core_q4_0) {
    const uint8_t *groups = panel + tk_scale_section(columns / 32);
    const size_t scales = tk_prepared_scales(columns), sums = tk_prepared_sums(columns, columns / 32);
    vf acc[TK_TILE * TK_H];
    clear(R, acc);
    for (size_t b = first; b < last; ++b) {
        for (int h = 0; h < TK_H; ++h) {
            const uint8_t *w = groups + b * TK_Q4_0_GROUPS + h * 4 * TK_LANES;
            const vf d = vf_load_f16(panel + b * 32 + h * 2 * TK_LANES);
            va sum[TK_TILE];
            TK_UNROLL
            for (int r = 0; r < R; ++r) {
                sum[r] = va_zero();
            }
            TK_UNROLL
            for (int v = 0; v < 4; ++v) {
                const vb q = vb_load(w + v * 64), low = vb_and(q, 15), high = vb_right(q, 4, 15);
                TK_UNROLL
                for (int r = 0; r < R; ++r) {
                    const int8_t *a = (const int8_t *)rows + r * stride + b * 32 + v * 4;
                    sum[r] = va_dot(va_dot(sum[r], low, a), high, a + 16);
                }
            }
            TK_UNROLL
            for (int r = 0; r < R; ++r) {
                const uint8_t *row = rows + r * stride;
                const vf scale = vf_mul(d, vf_set1(tk_load_f32(row + scales + b * 4)));
                const vi bias = vi_set1(-8 * tk_load_i32(row + sums + b * 4));
                acc[r * TK_H + h] =
                    vf_fma(vf_from_vi(va_add_scaled(bias, sum[r], vs_one())), scale, acc[r * TK_H + h]);
            }
        }
    }
    store(R, acc, result);
}
TK_CORE_INSTANCES(core_q4_0)

// The 8 scales and 8 minima (6 bits each) of 16 rows from the 12 x 16 bytes of a q4_K or q5_K header:
// sc[j] = b[j] & 63, m[j] = b[j+4] & 63 for j < 4; the others' low nibbles are in b[8...11], their high bits on top of
// the first eight bytes.
TK_INLINE void unpack_scales(const uint8_t *packed, uint8_t sc[8 * 16], uint8_t m[8 * 16]) {
    TK_UNROLL
    for (int i = 0; i < TK_H; ++i) {
        const int o = i * 4 * TK_LANES;
        const vb a = vb_load(packed + o), b = vb_load(packed + 64 + o), c = vb_load(packed + 128 + o);
        vb_store(sc + o, vb_and(a, 63));
        vb_store(m + o, vb_and(b, 63));
        vb_store(sc + 64 + o, vb_or(vb_and(c, 15), vb_right(a, 2, 0x30)));
        vb_store(m + 64 + o, vb_or(vb_right(c, 4, 15), vb_right(b, 2, 0x30)));
    }
}

// The end of a q4_K or q5_K super-block for one vector of rows: minima, then both fused multiply-adds.
#define TK_K_FINISH()                                                                                                  \
    do {                                                                                                               \
        const vf d = vf_load_f16(block + h * 2 * TK_LANES);                                                            \
        const vf dmin = vf_load_f16(block + TK_K_DMIN + h * 2 * TK_LANES);                                             \
        vi minima[4];                                                                                                  \
        TK_UNROLL                                                                                                      \
        for (int i = 0; i < 4; ++i) {                                                                                  \
            minima[i] = vi_pairs_u8(m + i * 32 + h * TK_LANES, m + i * 32 + 16 + h * TK_LANES);                        \
        }                                                                                                              \
        TK_UNROLL                                                                                                      \
        for (int r = 0; r < R; ++r) {                                                                                  \
            const uint8_t *row = rows + r * stride;                                                                    \
            const uint8_t *sums32 = row + sums + b * TK_SUMS_A8_256 + 32;                                              \
            vi msum = vi_set1(0);                                                                                      \
            TK_UNROLL                                                                                                  \
            for (int i = 0; i < 4; ++i) {                                                                              \
                msum = vi_dot_pairs(msum, minima[i], sums32 + i * 4);                                                  \
            }                                                                                                          \
            const float scale = tk_load_f32(row + scales + b * 4);                                                     \
            vf total = acc[r * TK_H + h];                                                                              \
            total = vf_fma(vf_from_vi(isum[r]), vf_mul(d, vf_set1(scale)), total);                                     \
            acc[r * TK_H + h] = vf_fma(vf_from_vi(msum), vf_mul(dmin, vf_set1(-scale)), total);                        \
        }                                                                                                              \
    } while (0)

TK_CORE(core_q4_K) {
    const size_t scales = tk_prepared_scales(columns), sums = tk_prepared_sums(columns, columns / 256);
    vf acc[TK_TILE * TK_H];
    clear(R, acc);
    for (size_t b = first; b < last; ++b) {
        const uint8_t *block = panel + b * TK_Q4_K_BYTES;
        uint8_t sc[8 * 16], m[8 * 16];
        unpack_scales(block + TK_K_SCALES, sc, m);
        for (int h = 0; h < TK_H; ++h) {
            const uint8_t *w = block + TK_K_HEADER + h * 4 * TK_LANES;
            vi isum[TK_TILE];
            TK_UNROLL
            for (int r = 0; r < R; ++r) {
                isum[r] = vi_set1(0);
            }
            for (int c = 0; c < 4; ++c) {
                va low_sum[TK_TILE], high_sum[TK_TILE];
                TK_UNROLL
                for (int r = 0; r < R; ++r) {
                    low_sum[r] = high_sum[r] = va_zero();
                }
                TK_UNROLL
                for (int v = 0; v < 8; ++v) {
                    const vb q = vb_load(w + c * 512 + v * 64), low = vb_and(q, 15), high = vb_right(q, 4, 15);
                    TK_UNROLL
                    for (int r = 0; r < R; ++r) {
                        const int8_t *a = (const int8_t *)rows + r * stride + b * 256 + c * 64 + v * 4;
                        low_sum[r] = va_dot(low_sum[r], low, a);
                        high_sum[r] = va_dot(high_sum[r], high, a + 32);
                    }
                }
                const vs low_scale = vs_load_u8(sc + c * 32 + h * TK_LANES);
                const vs high_scale = vs_load_u8(sc + c * 32 + 16 + h * TK_LANES);
                TK_UNROLL
                for (int r = 0; r < R; ++r) {
                    isum[r] = va_add_scaled(isum[r], low_sum[r], low_scale);
                    isum[r] = va_add_scaled(isum[r], high_sum[r], high_scale);
                }
            }
            TK_K_FINISH();
        }
    }
    store(R, acc, result);
}
TK_CORE_INSTANCES(core_q4_K)

// One chunk of 64 values of q5_K: like q4_K's, with bits 2c and 2c+1 of qh on top of the nibbles. `fifth` moves a bit
// of qh to bit 4; shifts are constants.
#define TK_Q5_CHUNK(c, fifth_low, fifth_high)                                                                          \
    do {                                                                                                               \
        const vs low_scale = vs_load_u8(sc + c * 32 + h * TK_LANES);                                                   \
        const vs high_scale = vs_load_u8(sc + c * 32 + 16 + h * TK_LANES);                                             \
        TK_UNROLL                                                                                                      \
        for (int v0 = 0; v0 < 8; v0 += TK_DOTS_5BIT) {                                                                 \
            va low_sum[TK_TILE], high_sum[TK_TILE];                                                                    \
            TK_UNROLL                                                                                                  \
            for (int r = 0; r < R; ++r) {                                                                              \
                low_sum[r] = high_sum[r] = va_zero();                                                                  \
            }                                                                                                          \
            TK_UNROLL                                                                                                  \
            for (int v = v0; v < v0 + TK_DOTS_5BIT; ++v) {                                                             \
                const vb q = vb_load(w + c * 512 + v * 64), top = vb_load(qh + v * 64);                                \
                const vb low = vb_or(vb_and(q, 15), fifth_low), high = vb_or(vb_right(q, 4, 15), fifth_high);          \
                TK_UNROLL                                                                                              \
                for (int r = 0; r < R; ++r) {                                                                          \
                    const int8_t *a = (const int8_t *)rows + r * stride + b * 256 + c * 64 + v * 4;                    \
                    low_sum[r] = va_dot(low_sum[r], low, a);                                                           \
                    high_sum[r] = va_dot(high_sum[r], high, a + 32);                                                   \
                }                                                                                                      \
            }                                                                                                          \
            TK_UNROLL                                                                                                  \
            for (int r = 0; r < R; ++r) {                                                                              \
                isum[r] = va_add_scaled(isum[r], low_sum[r], low_scale);                                               \
                isum[r] = va_add_scaled(isum[r], high_sum[r], high_scale);                                             \
            }                                                                                                          \
        }                                                                                                              \
    } while (0)

TK_CORE(core_q5_K) {
    const size_t scales = tk_prepared_scales(columns), sums = tk_prepared_sums(columns, columns / 256);
    vf acc[TK_TILE * TK_H];
    clear(R, acc);
    for (size_t b = first; b < last; ++b) {
        const uint8_t *block = panel + b * TK_Q5_K_BYTES;
        uint8_t sc[8 * 16], m[8 * 16];
        unpack_scales(block + TK_K_SCALES, sc, m);
        for (int h = 0; h < TK_H; ++h) {
            const uint8_t *qh = block + TK_Q5_K_HIGH + h * 4 * TK_LANES;
            const uint8_t *w = block + TK_Q5_K_LOW + h * 4 * TK_LANES;
            vi isum[TK_TILE];
            TK_UNROLL
            for (int r = 0; r < R; ++r) {
                isum[r] = vi_set1(0);
            }
            TK_Q5_CHUNK(0, vb_left(top, 4, 16), vb_left(top, 3, 16));
            TK_Q5_CHUNK(1, vb_left(top, 2, 16), vb_left(top, 1, 16));
            TK_Q5_CHUNK(2, vb_and(top, 16), vb_right(top, 1, 16));
            TK_Q5_CHUNK(3, vb_right(top, 2, 16), vb_right(top, 3, 16));
            TK_K_FINISH();
        }
    }
    store(R, acc, result);
}
TK_CORE_INSTANCES(core_q5_K)

// 16 values each of two of the four quarters of a q6_K half: those whose low bits share the groups of ql at `low`.
#define TK_Q6_PAIR(low_offset, quarter, high_of_first, high_of_second)                                                 \
    do {                                                                                                               \
        const vs first_scale = vs_load_i8(sc + (n * 8 + s + quarter * 2) * 16 + h * TK_LANES);                         \
        const vs second_scale = vs_load_i8(sc + (n * 8 + s + quarter * 2 + 4) * 16 + h * TK_LANES);                    \
        TK_UNROLL                                                                                                      \
        for (int u0 = 0; u0 < 4; u0 += TK_DOTS_6BIT) {                                                                 \
            va first_sum[TK_TILE], second_sum[TK_TILE];                                                                \
            TK_UNROLL                                                                                                  \
            for (int r = 0; r < R; ++r) {                                                                              \
                first_sum[r] = second_sum[r] = va_zero();                                                              \
            }                                                                                                          \
            TK_UNROLL                                                                                                  \
            for (int u = u0; u < u0 + TK_DOTS_6BIT; ++u) {                                                             \
                const vb q = vb_load(ql + (n * 16 + low_offset + s * 4 + u) * 64);                                     \
                const vb top = vb_load(qh + (n * 8 + s * 4 + u) * 64);                                                 \
                const vb one = vb_or(vb_and(q, 15), high_of_first);                                                    \
                const vb two = vb_or(vb_right(q, 4, 15), high_of_second);                                              \
                TK_UNROLL                                                                                              \
                for (int r = 0; r < R; ++r) {                                                                          \
                    const int8_t *a = (const int8_t *)rows + r * stride + b * 256 + n * 128 + quarter * 32 + s * 16;   \
                    first_sum[r] = va_dot(first_sum[r], one, a + u * 4);                                               \
                    second_sum[r] = va_dot(second_sum[r], two, a + 64 + u * 4);                                        \
                }                                                                                                      \
            }                                                                                                          \
            TK_UNROLL                                                                                                  \
            for (int r = 0; r < R; ++r) {                                                                              \
                isum[r] = va_add_scaled(isum[r], first_sum[r], first_scale);                                           \
                isum[r] = va_add_scaled(isum[r], second_sum[r], second_scale);                                         \
            }                                                                                                          \
        }                                                                                                              \
    } while (0)

// The weights' -32 is taken out of the sums: sc * sum (q-32)*a = sc * sum q*a - 32 * (sc * sum a).
TK_CORE(core_q6_K) {
    const uint8_t *blocks = panel + tk_scale_section(columns / 256);
    const size_t scales = tk_prepared_scales(columns), sums = tk_prepared_sums(columns, columns / 256);
    vf acc[TK_TILE * TK_H];
    clear(R, acc);
    for (size_t b = first; b < last; ++b) {
        const int8_t *sc = (const int8_t *)blocks + b * TK_Q6_K_BYTES;
        for (int h = 0; h < TK_H; ++h) {
            const uint8_t *ql = (const uint8_t *)sc + TK_Q6_K_LOW + h * 4 * TK_LANES;
            const uint8_t *qh = (const uint8_t *)sc + TK_Q6_K_HIGH + h * 4 * TK_LANES;
            vi isum[TK_TILE], bias[TK_TILE];
            TK_UNROLL
            for (int r = 0; r < R; ++r) {
                isum[r] = bias[r] = vi_set1(0);
            }
            for (int i = 0; i < 8; ++i) {
                const vi pairs = vi_pairs_i8(sc + i * 32 + h * TK_LANES, sc + i * 32 + 16 + h * TK_LANES);
                TK_UNROLL
                for (int r = 0; r < R; ++r) {
                    bias[r] = vi_dot_pairs(bias[r], pairs, rows + r * stride + sums + b * TK_SUMS_A8_256 + i * 4);
                }
            }
            TK_UNROLL
            for (int r = 0; r < R; ++r) {
                isum[r] = vi_sub(isum[r], vi_shift_left(bias[r], 5));
            }
            for (int n = 0; n < 2; ++n) {
                for (int s = 0; s < 2; ++s) {
                    TK_Q6_PAIR(0, 0, vb_left(top, 4, 0x30), vb_and(top, 0x30));
                    TK_Q6_PAIR(8, 1, vb_left(top, 2, 0x30), vb_right(top, 2, 0x30));
                }
            }
            const vf d = vf_load_f16(panel + b * 32 + h * 2 * TK_LANES);
            TK_UNROLL
            for (int r = 0; r < R; ++r) {
                const vf scale = vf_mul(d, vf_set1(tk_load_f32(rows + r * stride + scales + b * 4)));
                acc[r * TK_H + h] = vf_fma(vf_from_vi(isum[r]), scale, acc[r * TK_H + h]);
            }
        }
    }
    store(R, acc, result);
}
TK_CORE_INSTANCES(core_q6_K)

// By format, then by R: 1, 2, 4 and perhaps 8.
static tk_core *const cores[TK_FORMAT_COUNT][4] = {
    [TK_FORMAT_F32] = TK_CORE_ROW(core_f32),   [TK_FORMAT_F16] = TK_CORE_ROW(core_f16),
    [TK_FORMAT_BF16] = TK_CORE_ROW(core_bf16), [TK_FORMAT_Q8_0] = TK_CORE_ROW(core_q8_0),
    [TK_FORMAT_Q4_0] = TK_CORE_ROW(core_q4_0), [TK_FORMAT_Q4_K] = TK_CORE_ROW(core_q4_K),
    [TK_FORMAT_Q5_K] = TK_CORE_ROW(core_q5_K), [TK_FORMAT_Q6_K] = TK_CORE_ROW(core_q6_K),
};

// How many of the remaining rows the next core takes.
TK_INLINE size_t next_tile(size_t remaining) {
    size_t tile = TK_TILE;
    while (tile > remaining) {
        tile /= 2;
    }
    return tile;
}

// Panels that are multiplied with one tile of rows before the next tile: they stay in the second-level cache, and so
// the rows are read less often.
TK_INLINE size_t panel_group(size_t panel_bytes) {
    return panel_bytes < (128 << 10) ? (256 << 10) / (panel_bytes + 1) : 1;
}

// One panel times R rows, in `parts` parts of the inner dimension.
static void panel_product(
    tk_format format, const uint8_t *panel, size_t columns, const uint8_t *rows, size_t stride, size_t R, size_t parts,
    float *result) {
    tk_core *core = cores[format][R == 8 ? 3 : R / 2];
    const size_t part = columns / tk_block_size(format) / parts;
    core(panel, columns, 0, part, rows, stride, result);
    if (parts == 1) {
        return;
    }
    float others[3][TK_TILE * 16];
    for (size_t p = 1; p < parts; ++p) {
        core(panel, columns, p * part, (p + 1) * part, rows, stride, others[p - 1]);
    }
    for (size_t i = 0; i < R * 16; ++i) {
        const float front = result[i] + others[0][i];
        result[i] = parts == 4 ? front + (others[1][i] + others[2][i]) : front;
    }
}

static void matmul(
    tk_format format, const void *panels, size_t columns, size_t rows_total, size_t panel_begin, size_t panel_end,
    const void *activations, size_t stride, size_t count, size_t parts, float *out, size_t out_stride) {
    const size_t panel_bytes = tk_panel_bytes(format, columns), group = panel_group(panel_bytes);
    for (size_t first = panel_begin, last; first < panel_end; first = last) {
        last = panel_end - first < group ? panel_end : first + group;
        for (size_t i = 0, R; i < count; i += R) {
            R = next_tile(count - i);
            const uint8_t *rows = (const uint8_t *)activations + i * stride;
            for (size_t p = first; p < last; ++p) {
                const uint8_t *panel = (const uint8_t *)panels + p * panel_bytes;
                const size_t width = rows_total - p * 16 < 16 ? rows_total - p * 16 : 16;
                float result[TK_TILE * 16];
                panel_product(format, panel, columns, rows, stride, R, parts, result);
                for (size_t r = 0; r < R; ++r) {
                    memcpy(out + (i + r) * out_stride + p * 16, result + r * 16, width * sizeof(float));
                }
            }
        }
    }
}

static void matmul_gate_up(
    tk_format format, const void *gate_panels, const void *up_panels, size_t columns, size_t rows_total,
    size_t panel_begin, size_t panel_end, const void *activations, size_t stride, size_t count, float *out,
    size_t out_stride) {
    const size_t panel_bytes = tk_panel_bytes(format, columns), group = panel_group(2 * panel_bytes);
    for (size_t first = panel_begin, last; first < panel_end; first = last) {
        last = panel_end - first < group ? panel_end : first + group;
        for (size_t i = 0, R; i < count; i += R) {
            R = next_tile(count - i);
            const uint8_t *rows = (const uint8_t *)activations + i * stride;
            for (size_t p = first; p < last; ++p) {
                const uint8_t *gate_panel = (const uint8_t *)gate_panels + p * panel_bytes;
                const uint8_t *up_panel = (const uint8_t *)up_panels + p * panel_bytes;
                const size_t width = rows_total - p * 16 < 16 ? rows_total - p * 16 : 16;
                float gate[TK_TILE * 16], up[TK_TILE * 16];
                panel_product(format, gate_panel, columns, rows, stride, R, 1, gate);
                panel_product(format, up_panel, columns, rows, stride, R, 1, up);
                silu_multiply(gate, up, R * 16, gate);
                for (size_t r = 0; r < R; ++r) {
                    memcpy(out + (i + r) * out_stride + p * 16, gate + r * 16, width * sizeof(float));
                }
            }
        }
    }
}
