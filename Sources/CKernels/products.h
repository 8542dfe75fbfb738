// Matrix products, written once over the vector types of an instruction set.
//
// A tile adds the products of a unit, up to 256 values of k of one panel, with up to TK_TILE activation rows. Its sums live
// in registers, so the number of rows is a constant in each instance; TK_ABREAST vectors of weights share what it loads of a
// row. Few rows (TK_DIRECT) take the weights straight from the panel (`direct_...`); for more, a unit is first unpacked to
// bytes in a buffer that stays in the first-level cache (`shared_...`). A core goes over units first and panels second, so
// that the rows' values stay in that cache too.

#define TK_H (16 / TK_LANES)

enum {
    TK_FLOATS = 8,    // rows of a tile of floats at most
    TK_CHUNK = 32,    // rows that share an unpacked unit at most
    TK_PANELS = 4,    // panels that a core takes at most, but 8 for floats and one row
    TK_RUN = 16,      // panels that few rows take one after the other before they turn to another matrix
    TK_UNIT = 256,    // values of k in a unit
};

// Whether `panels` panels and `count` rows are taken line after line, from one panel on to the next.
TK_INLINE bool in_order(size_t panels, size_t count) { return tk_reads_in_order && panels == 1 && count <= TK_TILE; }

// Whether a direct tile of q6_K takes quad after quad, each line once and in order: where registers hold the sums of a row's
// four quarters.
TK_INLINE bool by_quads(const int R) { return TK_LANES == 16 && R == 1; }

// How far ahead a core asks memory. A row that is taken quad after quad leaves it to the hardware's prefetcher where that
// reads in order.
TK_INLINE size_t bytes_ahead(size_t panels, size_t count, bool is_q6_K) {
    if (!in_order(panels, count)) {
        return tk_reads_in_order ? TK_AHEAD : TK_AHEAD_TWICE;
    }
    if (count > 1) {
        return TK_AHEAD_IN_ORDER;
    }
    return !is_q6_K ? TK_AHEAD_BURSTS : by_quads(1) ? 0 : TK_AHEAD_IN_ORDER;
}

// Whether lines are asked for twice. The wide set is for processors that read in order.
#ifdef TK_WIDE
TK_INLINE bool asks_twice(size_t ahead) { return (void)ahead, false; }
#else
TK_INLINE bool asks_twice(size_t ahead) { return ahead == TK_AHEAD_TWICE; }
#endif

// Asks memory for what lies `ahead` bytes after a line of the panel. Several rows in half-wide vectors compute for so long that
// a second request only costs.
TK_INLINE void prefetch(const int R, const uint8_t *line, size_t ahead) {
    __builtin_prefetch(line + ahead, 0, 2);
    if (asks_twice(ahead) && (R == 1 || TK_LANES == 16)) {
        __builtin_prefetch(line + TK_AHEAD_NEAR, 0, 3);
    }
}

TK_INLINE void prefetch_lines(const uint8_t *lines, size_t bytes, size_t ahead) {
    if (ahead > 0) {
        for (size_t i = 0; i < bytes; i += 64) {
            __builtin_prefetch(lines + i + ahead, 0, 2);
        }
    }
}

// A direct tile of one row asks for many lines at once where that keeps the hardware's prefetcher going; otherwise for one line
// as it takes one, since many at once make what is needed now wait.
TK_INLINE bool in_bursts(const int R, size_t ahead) { return R == 1 && !asks_twice(ahead); }

TK_INLINE void prefetch_line(const int R, const uint8_t *line, size_t ahead) {
    if (!in_bursts(R, ahead)) {
        prefetch(R, line, ahead);
    }
}

// Brings bytes that are needed now and then into a cache, so that what is read between them is read in order.
TK_INLINE void touch(const uint8_t *p, size_t bytes) {
    for (size_t i = 0; i < bytes; i += 64) {
        (void)*(const volatile uint8_t *)(p + i);
    }
}

// `panels` panels, panel_bytes apart, times `count` prepared rows over the blocks first ..< last, into
// result[panels][count][16].
typedef void tk_core(
    const uint8_t *panel, size_t panel_bytes, size_t panels, size_t columns, size_t first, size_t last,
    const uint8_t *rows, size_t stride, size_t count, float *result);

#define TK_CORE(name)                                                                                                  \
    static void name(                                                                                                  \
        const uint8_t *panel, size_t panel_bytes, size_t panels, size_t columns, size_t first, size_t last,            \
        const uint8_t *rows, size_t stride, size_t count, float *result)

// ---------------------------------------------------------------------------------------------------------------------
// f32, f16, bf16: acc = fma(w, x, acc) in order of k. A chain of these waits for each one's latency, so few rows take
// several panels at once.

typedef void tk_float_tile(
    const uint8_t *panel, size_t panel_bytes, size_t k_count, const uint8_t *rows, size_t stride, float *acc);

#define TK_FLOAT_TILE(name, load, size, P, R)                                                                          \
    static void name##_##P##_##R(                                                                                      \
        const uint8_t *panel, size_t panel_bytes, size_t k_count, const uint8_t *rows, size_t stride, float *acc) {    \
        for (int h = 0; h < TK_H; ++h) {                                                                               \
            const uint8_t *weights = panel + h * TK_LANES * size;                                                      \
            vf sum[P * R];                                                                                             \
            TK_UNROLL                                                                                                  \
            for (int i = 0; i < P * R; ++i) {                                                                          \
                sum[i] = vf_load(acc + i * 16 + h * TK_LANES);                                                         \
            }                                                                                                          \
            for (size_t k = 0; k < k_count; ++k) {                                                                     \
                TK_UNROLL                                                                                              \
                for (int p = 0; p < P; ++p) {                                                                          \
                    const vf w = load((const void *)(weights + p * panel_bytes + k * 16 * size));                      \
                    TK_UNROLL                                                                                          \
                    for (int r = 0; r < R; ++r) {                                                                      \
                        sum[p * R + r] = vf_fma(w, vf_set1(tk_load_f32(rows + r * stride + k * 4)), sum[p * R + r]);   \
                    }                                                                                                  \
                }                                                                                                      \
            }                                                                                                          \
            TK_UNROLL                                                                                                  \
            for (int i = 0; i < P * R; ++i) {                                                                          \
                vf_store(acc + i * 16 + h * TK_LANES, sum[i]);                                                         \
            }                                                                                                          \
        }                                                                                                              \
    }

// Panels that R rows take at once.
TK_INLINE size_t float_panels(size_t R) { return R == 1 ? 8 : R == 2 ? 4 : R <= 4 ? 2 : 1; }

#define TK_FLOAT_CORE(name, load, size)                                                                                \
    TK_FLOAT_TILE(name, load, size, 8, 1)                                                                              \
    TK_FLOAT_TILE(name, load, size, 4, 2)                                                                              \
    TK_FLOAT_TILE(name, load, size, 2, 3)                                                                              \
    TK_FLOAT_TILE(name, load, size, 2, 4)                                                                              \
    TK_FLOAT_TILE(name, load, size, 1, 1)                                                                              \
    TK_FLOAT_TILE(name, load, size, 1, 2)                                                                              \
    TK_FLOAT_TILE(name, load, size, 1, 3)                                                                              \
    TK_FLOAT_TILE(name, load, size, 1, 4)                                                                              \
    TK_FLOAT_TILE(name, load, size, 1, 5)                                                                              \
    TK_FLOAT_TILE(name, load, size, 1, 6)                                                                              \
    TK_FLOAT_TILE(name, load, size, 1, 7)                                                                              \
    TK_FLOAT_TILE(name, load, size, 1, 8)                                                                              \
    TK_CORE(name) {                                                                                                    \
        static tk_float_tile *const together[] = {name##_8_1, name##_4_2, name##_2_3, name##_2_4};                     \
        static tk_float_tile *const alone[] = {                                                                        \
            name##_1_1, name##_1_2, name##_1_3, name##_1_4, name##_1_5, name##_1_6, name##_1_7, name##_1_8};           \
        tk_float_tile *const tile = panels > 1 ? together[count - 1] : alone[count - 1];                               \
        (void)columns;                                                                                                 \
        memset(result, 0, panels * count * 16 * sizeof(float));                                                        \
        for (size_t k = first; k < last; k += TK_UNIT) {                                                               \
            tile(                                                                                                      \
                panel + k * 16 * size, panel_bytes, last - k < TK_UNIT ? last - k : TK_UNIT, rows + k * 4, stride,     \
                result);                                                                                               \
        }                                                                                                              \
    }

TK_FLOAT_CORE(core_f32, vf_load, 4)
TK_FLOAT_CORE(core_f16, vf_load_f16, 2)
TK_FLOAT_CORE(core_bf16, vf_load_bf16, 2)

// ---------------------------------------------------------------------------------------------------------------------
// Block formats

// What a tile reads. A sub-block is a run of k with one multiplier: 32 values, in q6_K 16.
typedef struct {
    const uint8_t *quants;         // direct: as in the panel; shared: groups of 64 bytes in order of k
    const uint8_t *block;          // the super-block in the panel: q6_K begins with its multipliers
    const uint8_t *rows;           // the first row's int8 values, or its pieces, from the unit's first k on
    const uint8_t *scales;         // the first row's, from the unit's first block on
    const uint8_t *sums;           // the same for blocks of 32
    size_t stride;                 // bytes from row to row
    size_t blocks;                 // in the unit
    size_t ahead;                  // bytes that memory is asked for in advance
    vf d[8][TK_H];                 // of each block
    vf minus_dmin[TK_H];           // q4_K, q5_K
    vi middles[4][TK_H];           // q4_K and q5_K multipliers of two sub-blocks each times the middle that centred sums lack
    uint8_t sc[8 * 16], m[8 * 16]; // q4_K and q5_K multipliers and minima of each sub-block
    vs multipliers[16][TK_H];      // shared: of each sub-block of a K format
    vi pairs[8][TK_H];             // shared: of two sub-blocks each: q4_K and q5_K minima, q6_K multipliers
} tk_unit;

// Adds the products of a unit and R rows to acc[R][16].
typedef void tk_tile(const tk_unit *unit, size_t first_row, float *acc);

#define TK_TILE_INSTANCE(name, R)                                                                                      \
    static void name##_##R(const tk_unit *unit, size_t first_row, float *acc) { name(R, unit, first_row, acc); }
#define TK_FIVE_TILES(name)                                                                                            \
    TK_TILE_INSTANCE(name, 1)                                                                                          \
    TK_TILE_INSTANCE(name, 2)                                                                                          \
    TK_TILE_INSTANCE(name, 3)                                                                                          \
    TK_TILE_INSTANCE(name, 4)                                                                                          \
    TK_TILE_INSTANCE(name, 5)
#if TK_TILE == 5
#define TK_TILES(name)                                                                                                 \
    TK_FIVE_TILES(name)                                                                                                \
    static tk_tile *const name##s[TK_TILE] = {name##_1, name##_2, name##_3, name##_4, name##_5};
#else
#define TK_TILES(name)                                                                                                 \
    TK_FIVE_TILES(name)                                                                                                \
    TK_TILE_INSTANCE(name, 6)                                                                                          \
    TK_TILE_INSTANCE(name, 7)                                                                                          \
    TK_TILE_INSTANCE(name, 8)                                                                                          \
    static tk_tile *const name##s[TK_TILE] = {                                                                         \
        name##_1, name##_2, name##_3, name##_4, name##_5, name##_6, name##_7, name##_8};
#endif

// As few tiles as there can be, of nearly as many rows each.
TK_INLINE void each_tile(tk_tile *const *tiles, const tk_unit *unit, size_t count, float *result) {
    if (count <= TK_TILE) {
        tiles[count - 1](unit, 0, result);
        return;
    }
    uint32_t first = 0, rest = (uint32_t)count;
    for (uint32_t left = (rest + TK_TILE - 1) / TK_TILE; left > 0; --left) {
        const uint32_t R = (rest + left - 1) / left;
        tiles[R - 1](unit, first, result + first * 16);
        first += R;
        rest -= R;
    }
}

// How far ahead of the lines that it takes a tile asks memory: 0, for lines that it has, where another has asked already.
TK_INLINE size_t tile_ahead(const tk_unit *unit, size_t first_row, int h) {
    return first_row == 0 && h == 0 ? unit->ahead : 0;
}

// Sums of R rows are [R][TK_ABREAST] vectors.
enum { TK_SUMS = TK_TILE * TK_ABREAST };

TK_INLINE void clear(const int R, vi *sums) {
    TK_UNROLL
    for (int i = 0; i < R * TK_ABREAST; ++i) {
        sums[i] = vi_set1(0);
    }
}

TK_INLINE void clear_partial(const int R, va *sums) {
    TK_UNROLL
    for (int i = 0; i < R * TK_ABREAST; ++i) {
        sums[i] = va_zero();
    }
}

// Where sums of products with weights of `bits` bits start: centred ones, which the rows have at `offset`, or zero.
TK_INLINE void start_partial(const int R, const int bits, va *sums, const int8_t *const *a, size_t offset) {
    if (!TK_CENTRED(bits)) {
        clear_partial(R, sums);
        return;
    }
    TK_UNROLL
    for (int r = 0; r < R; ++r) {
        const va start = va_start(a[r] + offset);
        TK_UNROLL
        for (int i = 0; i < TK_ABREAST; ++i) {
            sums[r * TK_ABREAST + i] = start;
        }
    }
}

// Adds the products of two multipliers for each lane with two sums of the activations.
TK_INLINE void add_pairs(const int R, vi *isum, const vi *pairs, const int8_t *const *a, size_t offset) {
    TK_UNROLL
    for (int r = 0; r < R; ++r) {
        const vr two = vr_load(a[r] + offset);
        TK_UNROLL
        for (int i = 0; i < TK_ABREAST; ++i) {
            isum[r * TK_ABREAST + i] = vi_dot_pairs(isum[r * TK_ABREAST + i], pairs[i], two);
        }
    }
}

// The rows' values, a pointer in a register for each: an index register would cost every product a second operation.
TK_INLINE void point_to_rows(const int R, const int8_t **a, const tk_unit *unit, size_t first_row) {
    TK_UNROLL
    for (int r = 0; r < R; ++r) {
        a[r] = (const int8_t *)unit->rows + (first_row + r) * unit->stride;
        TK_OPAQUE(a[r]);
    }
}

TK_INLINE void advance(const int R, const int8_t **a, size_t values) {
    TK_UNROLL
    for (int r = 0; r < R; ++r) {
        a[r] += values;
        TK_OPAQUE(a[r]);
    }
}

// Vectors of weights times four values of each row.
TK_INLINE void dot(const int R, va *sums, const vb *weights, const int8_t *const *a, size_t k) {
    TK_UNROLL
    for (int r = 0; r < R; ++r) {
        const vr four = vr_load(a[r] + k);
        va *sum = sums + r * TK_ABREAST;
        TK_UNROLL
        for (int i = 0; i < TK_ABREAST; ++i) {
            sum[i] = va_dot(sum[i], weights[i], four);
            TK_IN_ORDER(sum[i]);
        }
    }
}

TK_INLINE void load_bytes(vb *bytes, const uint8_t *p) {
    TK_UNROLL
    for (int i = 0; i < TK_ABREAST; ++i) {
        bytes[i] = vb_load(p + i * 4 * TK_LANES);
    }
}

// The same, and keeps the compiler from reading them again for each use: Zen 4 loads one vector of 64 bytes in a cycle.
TK_INLINE void take_bytes(vb *bytes, const uint8_t *p) {
    load_bytes(bytes, p);
    TK_UNROLL
    for (int i = 0; i < TK_ABREAST; ++i) {
        TK_IN_ORDER(bytes[i]);
    }
}

// Weights computed from bytes of the panel: `expression` of i, the vector abreast.
#define TK_WEIGHTS(name, expression)                                                                                   \
    vb name[TK_ABREAST];                                                                                               \
    TK_UNROLL                                                                                                          \
    for (int i = 0; i < TK_ABREAST; ++i) {                                                                             \
        name[i] = expression;                                                                                          \
    }

// total = fma(float(isum), d * scale, total)
TK_INLINE void add_block(const int R, const vi *isum, const vf *d, const uint8_t *scales, size_t stride, vf *total) {
    TK_UNROLL
    for (int i = 0; i < R * TK_ABREAST; ++i) {
        const vf scale = vf_mul(d[i % TK_ABREAST], vf_set1(tk_load_f32(scales + i / TK_ABREAST * stride)));
        total[i] = vf_fma(vf_from_vi(isum[i]), scale, total[i]);
    }
}

TK_INLINE float *sum_at(float *acc, int i) { return acc + i / TK_ABREAST * 16 + i % TK_ABREAST * TK_LANES; }

TK_INLINE void load_sums(const int R, vf *sums, float *acc) {
    TK_UNROLL
    for (int i = 0; i < R * TK_ABREAST; ++i) {
        sums[i] = vf_load(sum_at(acc, i));
    }
}

TK_INLINE void store_sums(const int R, const vf *sums, float *acc) {
    TK_UNROLL
    for (int i = 0; i < R * TK_ABREAST; ++i) {
        vf_store(sum_at(acc, i), sums[i]);
    }
}

TK_INLINE void tile_q8_0(const int R, const tk_unit *unit, size_t first_row, float *acc) {
    const size_t offset = first_row * unit->stride, stride = unit->stride;
    for (int h = 0; h < TK_H; h += TK_ABREAST) {
        const size_t ahead = tile_ahead(unit, first_row, h);
        const int8_t *a[TK_TILE];
        vf total[TK_SUMS];
        point_to_rows(R, a, unit, first_row);
        load_sums(R, total, acc + h * TK_LANES);
        for (size_t b = 0; b < unit->blocks; ++b, advance(R, a, 32)) {
            const uint8_t *w = unit->quants + b * TK_Q8_0_GROUPS + h * 4 * TK_LANES;
            vi isum[TK_SUMS];
            if (in_bursts(R, ahead)) {
                prefetch_lines(w, TK_Q8_0_GROUPS, ahead);
            }
            TK_UNROLL
            for (int i = 0; i < R * TK_ABREAST; ++i) {
                isum[i] = vw_start(unit->sums + offset + i / TK_ABREAST * stride + b * TK_SUMS_A8_32);
            }
            TK_UNROLL
            for (int g = 0; g < 8; ++g) {
                vw q[TK_ABREAST];
                prefetch_line(R, w + g * 64, ahead);
                TK_UNROLL
                for (int i = 0; i < TK_ABREAST; ++i) {
                    q[i] = vw_load(w + g * 64 + i * 4 * TK_LANES);
                }
                TK_UNROLL
                for (int r = 0; r < R; ++r) {
                    const vr four = vr_load(a[r] + g * 4);
                    vi *sum = isum + r * TK_ABREAST;
                    TK_UNROLL
                    for (int i = 0; i < TK_ABREAST; ++i) {
                        sum[i] = vw_dot(sum[i], q[i], four);
                        TK_IN_ORDER(sum[i]);
                    }
                }
            }
            add_block(R, isum, unit->d[b] + h, unit->scales + offset + b * 4, stride, total);
        }
        store_sums(R, total, acc + h * TK_LANES);
    }
}
TK_TILES(tile_q8_0)

// The weights' -8 is taken out of the sums: sum (q-8)*a = sum q*a - 8 * sum a.
TK_INLINE void tile_q4_0(const int R, const tk_unit *unit, size_t first_row, float *acc) {
    const bool apart = R * TK_ABREAST > 8;  // bytes would not stay in a register for their second half
    const size_t offset = first_row * unit->stride, stride = unit->stride;
    for (int h = 0; h < TK_H; h += TK_ABREAST) {
        const size_t ahead = tile_ahead(unit, first_row, h);
        const int8_t *a[TK_TILE];
        vf total[TK_SUMS];
        point_to_rows(R, a, unit, first_row);
        load_sums(R, total, acc + h * TK_LANES);
        for (size_t b = 0; b < unit->blocks; ++b, advance(R, a, 32)) {
            const uint8_t *w = unit->quants + b * TK_Q4_0_GROUPS + h * 4 * TK_LANES;
            va sum[TK_SUMS];
            vi isum[TK_SUMS];
            if (in_bursts(R, ahead)) {
                prefetch_lines(w, TK_Q4_0_GROUPS, ahead);
            }
            clear_partial(R, sum);
            TK_UNROLL
            for (int v = 0; v < 4; ++v) {
                vb q[TK_ABREAST];
                prefetch_line(R, w + v * 64, ahead);
                load_bytes(q, w + v * 64);
                TK_WEIGHTS(low, vb_and(q[i], 15))
                dot(R, sum, low, a, v * 4);
                if (!apart) {
                    TK_WEIGHTS(high, vb_right(q[i], 4, 15))
                    dot(R, sum, high, a, v * 4 + 16);
                }
            }
            TK_UNROLL
            for (int v = 0; v < 4; ++v) {
                if (apart) {
                    vb q[TK_ABREAST];
                    load_bytes(q, w + v * 64);
                    TK_WEIGHTS(high, vb_right(q[i], 4, 15))
                    dot(R, sum, high, a, v * 4 + 16);
                }
            }
            TK_UNROLL
            for (int i = 0; i < R * TK_ABREAST; ++i) {
                const uint8_t *bias = unit->sums + offset + i / TK_ABREAST * stride + b * TK_SUMS_A8_32;
                isum[i] = vi_add(va_total(sum[i]), vi_set1(tk_load_i32(bias)));
            }
            add_block(R, isum, unit->d[b] + h, unit->scales + offset + b * 4, stride, total);
        }
        store_sums(R, total, acc + h * TK_LANES);
    }
}
TK_TILES(tile_q4_0)

// Formats of blocks of 32, eight to a unit.
#define TK_32_CORE(name, bytes, tiles)                                                                                 \
    TK_CORE(name) {                                                                                                    \
        const size_t groups = tk_scale_section(columns / 32);                                                          \
        const size_t scales = tk_prepared_scales(columns), sums = tk_prepared_sums(columns, columns / 32);             \
        tk_unit unit;                                                                                                  \
        unit.stride = stride;                                                                                          \
        unit.ahead = bytes_ahead(panels, count, false);                                                                \
        memset(result, 0, panels * count * 16 * sizeof(float));                                                        \
        if (in_order(panels, count)) {                                                                                 \
            touch(panel + first * 32, (last - first) * 32);                                                            \
        }                                                                                                              \
        for (size_t b = first; b < last; b += 8) {                                                                     \
            unit.blocks = last - b < 8 ? last - b : 8;                                                                 \
            unit.rows = rows + b * 32;                                                                                 \
            unit.scales = rows + scales + b * 4;                                                                       \
            unit.sums = rows + sums + b * TK_SUMS_A8_32;                                                               \
            for (size_t p = 0; p < panels; ++p) {                                                                      \
                const uint8_t *d = panel + p * panel_bytes + b * 32;                                                   \
                unit.quants = panel + p * panel_bytes + groups + b * bytes;                                            \
                for (size_t i = 0; i < unit.blocks; ++i) {                                                             \
                    TK_UNROLL                                                                                          \
                    for (int h = 0; h < TK_H; ++h) {                                                                   \
                        unit.d[i][h] = vf_load_f16(d + i * 32 + h * 2 * TK_LANES);                                     \
                    }                                                                                                  \
                }                                                                                                      \
                each_tile(tiles, &unit, count, result + p * count * 16);                                               \
            }                                                                                                          \
        }                                                                                                              \
    }

TK_32_CORE(core_q8_0, TK_Q8_0_GROUPS, tile_q8_0s)
TK_32_CORE(core_q4_0, TK_Q4_0_GROUPS, tile_q4_0s)

// ---------------------------------------------------------------------------------------------------------------------
// q4_K and q5_K

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

// What a unit has from a header of weights of `bits` bits.
TK_INLINE void unpack_header(const uint8_t *block, const int bits, tk_unit *unit) {
    unpack_scales(block + TK_K_SCALES, unit->sc, unit->m);
    TK_UNROLL
    for (int h = 0; h < TK_H; ++h) {
        unit->d[0][h] = vf_load_f16(block + h * 2 * TK_LANES);
        unit->minus_dmin[h] = vf_sub(vf_set1(-0.0f), vf_load_f16(block + TK_K_DMIN + h * 2 * TK_LANES));
        if (!TK_CENTRED(bits)) {
            continue;
        }
        TK_UNROLL
        for (int i = 0; i < 4; ++i) {
            const uint8_t *sc = unit->sc + i * 32 + h * TK_LANES;
            const vi multipliers = vi_pairs_u8(sc, sc + 16);
            unit->middles[i][h] = bits == 4 ? vi_shift_left(multipliers, 3) : vi_shift_left(multipliers, 4);
        }
    }
}

// The multipliers of sub-block j and, below, the minima (q6_K: the multipliers) of sub-blocks 2 * pair and 2 * pair + 1, for
// vectors h and on. Direct tiles widen bytes, which hides behind their products, where few rows would feel that vectors are
// stored and loaded; shared tiles load what widen_multipliers() widened once.
TK_INLINE void multipliers_of(vs *result, const int bits, const bool shared, const tk_unit *unit, int j, int h) {
    TK_UNROLL
    for (int i = 0; i < TK_ABREAST; ++i) {
        const size_t o = j * 16 + (h + i) * TK_LANES;
        result[i] = shared ? unit->multipliers[j][h + i] :
            bits == 6 ? vs_load_i8((const int8_t *)unit->block + o) : vs_load_u8(unit->sc + o);
    }
}

TK_INLINE void pairs_of(vi *result, const int bits, const bool shared, const tk_unit *unit, int pair, int h) {
    const int8_t *multipliers = (const int8_t *)unit->block;
    TK_UNROLL
    for (int i = 0; i < TK_ABREAST; ++i) {
        const size_t o = pair * 32 + (h + i) * TK_LANES;
        result[i] = shared ? unit->pairs[pair][h + i] :
            bits == 6 ? vi_pairs_i8(multipliers + o, multipliers + o + 16) : vi_pairs_u8(unit->m + o, unit->m + o + 16);
    }
}

// Adds sums of the products of sub-block j, scaled.
TK_INLINE void scale_sums(
    const int R, const int bits, const bool shared, const tk_unit *unit, int j, int h, const va *sums, vi *isum) {
    vs scales[TK_ABREAST];
    multipliers_of(scales, bits, shared, unit, j, h);
    TK_UNROLL
    for (int i = 0; i < R * TK_ABREAST; ++i) {
        isum[i] = va_add_scaled(isum[i], sums[i], scales[i % TK_ABREAST]);
        // Here and now: clang puts it off, until the registers do not hold the sums of all that wait for it.
        TK_IN_ORDER(isum[i]);
    }
}

TK_INLINE void widen_multipliers(const int bits, tk_unit *unit) {
    const int sub_blocks = bits == 6 ? 16 : 8, pairs = bits == 6 && TK_CENTRED(6) ? 0 : sub_blocks / 2;
    for (int h = 0; h < TK_H; h += TK_ABREAST) {
        for (int j = 0; j < sub_blocks; ++j) {
            multipliers_of(unit->multipliers[j] + h, bits, false, unit, j, h);
        }
        for (int i = 0; i < pairs; ++i) {
            pairs_of(unit->pairs[i] + h, bits, false, unit, i, h);
        }
    }
}

// acc = fma(float(isum), d * scale, acc); acc = fma(float(msum), -(dmin * scale), acc). a: the rows' first pieces.
TK_INLINE void add_k_block(
    const int R, const bool shared, const tk_unit *unit, int h, const int8_t *const *a, const vi *isum,
    const uint8_t *scales, float *acc) {
    const vf *d = unit->d[0] + h, *minus_dmin = unit->minus_dmin + h;
    vi minima[4][TK_ABREAST];
    TK_UNROLL
    for (int i = 0; i < 4; ++i) {
        pairs_of(minima[i], 4, shared, unit, i, h);
    }
    // Row after row where registers do not hold the sums of the minima of all.
    const int step = TK_ABREAST > 1 ? 1 : R;
    TK_UNROLL
    for (int first = 0; first < R; first += step) {
        vi msum[TK_SUMS];
        clear(step, msum);
        TK_UNROLL
        for (int i = 0; i < 4; ++i) {
            add_pairs(step, msum, minima[i], a + first, i * TK_PIECE_BYTES + TK_PIECE_SUMS);
        }
        TK_UNROLL
        for (int i = 0; i < step * TK_ABREAST; ++i) {
            const int r = first + i / TK_ABREAST, w = i % TK_ABREAST;
            float *sum = acc + r * 16 + w * TK_LANES;
            const vf scale = vf_set1(tk_load_f32(scales + r * unit->stride));
            if (step < R) {
                TK_IN_ORDER(msum[i]);
            }
            const vf total = vf_fma(vf_from_vi(isum[r * TK_ABREAST + w]), vf_mul(d[w], scale), vf_load(sum));
            vf_store(sum, vf_fma(vf_from_vi(msum[i]), vf_mul(minus_dmin[w], scale), total));
        }
    }
}

// A quarter of a super-block's bytes at once.
TK_INLINE void prefetch_quarter(const tk_unit *unit, const size_t block_bytes, size_t ahead, int quarter) {
    prefetch_lines(unit->block + quarter * (block_bytes / 4), block_bytes / 4, ahead);
}

// Both halves of each weight byte at once need sums of both; where registers do not hold them, one half after the other.
TK_INLINE bool halves_apart(const int R) { return TK_LANES < 16 && R * TK_ABREAST > 3; }

TK_INLINE void direct_q4_K(const int R, const tk_unit *unit, size_t first_row, float *acc) {
    for (int h = 0; h < TK_H; h += TK_ABREAST) {
        const size_t ahead = tile_ahead(unit, first_row, h);
        const uint8_t *w = unit->quants + h * 4 * TK_LANES;
        const int8_t *a[TK_TILE];
        vi isum[TK_SUMS];
        point_to_rows(R, a, unit, first_row);
        clear(R, isum);
        for (int c = 0; c < 4; ++c, w += 512, advance(R, a, TK_PIECE_BYTES)) {
            if (in_bursts(R, ahead)) {
                prefetch_quarter(unit, TK_Q4_K_BYTES, ahead, c);
            }
            prefetch_line(R, unit->block + c * 64, ahead);
            if (TK_CENTRED(4)) {
                add_pairs(R, isum, unit->middles[c] + h, a, TK_PIECE_SUMS);
            }
            va low[TK_SUMS], high[TK_SUMS];
            start_partial(R, 4, low, a, TK_PIECE_START_4BIT);
            start_partial(R, 4, high, a, TK_PIECE_START_4BIT + 2);
            TK_UNROLL
            for (int v = 0; v < 8; ++v) {
                vb q[TK_ABREAST];
                prefetch_line(R, w + v * 64, ahead);
                load_bytes(q, w + v * 64);
                TK_WEIGHTS(low_weights, vb_and(q[i], 15))
                dot(R, low, low_weights, a, v * 4);
                if (!halves_apart(R)) {
                    TK_WEIGHTS(high_weights, vb_right(q[i], 4, 15))
                    dot(R, high, high_weights, a, v * 4 + 32);
                }
            }
            scale_sums(R, 4, false, unit, 2 * c, h, low, isum);
            TK_UNROLL
            for (int v = 0; v < 8; ++v) {
                if (halves_apart(R)) {
                    vb q[TK_ABREAST];
                    load_bytes(q, w + v * 64);
                    TK_WEIGHTS(high_weights, vb_right(q[i], 4, 15))
                    dot(R, high, high_weights, a, v * 4 + 32);
                }
            }
            scale_sums(R, 4, false, unit, 2 * c + 1, h, high, isum);
        }
        advance(R, a, -(size_t)4 * TK_PIECE_BYTES);
        add_k_block(R, false, unit, h, a, isum, unit->scales + first_row * unit->stride, acc + h * TK_LANES);
    }
}
TK_TILES(direct_q4_K)

// Groups 0...3 and 4...7 of a chunk: bit v of `fifths[0]` goes on top of group v's low nibble, of `fifths[1]` on top of its high
// one. Shifts are constants.
#define TK_FIRST_FIFTHS(each)                                                                                          \
    each(0, vb_left(fifths[0][i], 4, 16), vb_left(fifths[1][i], 4, 16))                                                \
    each(1, vb_left(fifths[0][i], 3, 16), vb_left(fifths[1][i], 3, 16))                                                \
    each(2, vb_left(fifths[0][i], 2, 16), vb_left(fifths[1][i], 2, 16))                                                \
    each(3, vb_left(fifths[0][i], 1, 16), vb_left(fifths[1][i], 1, 16))
#define TK_LAST_FIFTHS(each)                                                                                           \
    each(4, vb_and(fifths[0][i], 16), vb_and(fifths[1][i], 16))                                                        \
    each(5, vb_right(fifths[0][i], 1, 16), vb_right(fifths[1][i], 1, 16))                                              \
    each(6, vb_right(fifths[0][i], 2, 16), vb_right(fifths[1][i], 2, 16))                                              \
    each(7, vb_right(fifths[0][i], 3, 16), vb_right(fifths[1][i], 3, 16))

#define TK_Q5_HIGH(v, low_fifth, high_fifth)                                                                           \
    {                                                                                                                  \
        vb q[TK_ABREAST];                                                                                              \
        load_bytes(q, w + TK_Q5_K_LOW + v * 64);                                                                       \
        TK_WEIGHTS(high_weights, vb_or(vb_right(q[i], 4, 15), high_fifth))                                             \
        dot(R, high, high_weights, a, v * 4 + 32);                                                                     \
    }
#define TK_Q5_LOW(v, low_fifth, high_fifth)                                                                            \
    {                                                                                                                  \
        vb q[TK_ABREAST];                                                                                              \
        prefetch_line(R, w + TK_Q5_K_LOW + v * 64, ahead);                                                             \
        load_bytes(q, w + TK_Q5_K_LOW + v * 64);                                                                       \
        TK_WEIGHTS(low_weights, vb_or(vb_and(q[i], 15), low_fifth))                                                    \
        dot(R, low, low_weights, a, v * 4);                                                                            \
        if (!halves_apart(R)) {                                                                                        \
            TK_WEIGHTS(high_weights, vb_or(vb_right(q[i], 4, 15), high_fifth))                                         \
            dot(R, high, high_weights, a, v * 4 + 32);                                                                 \
        }                                                                                                              \
    }

TK_INLINE void direct_q5_K(const int R, const tk_unit *unit, size_t first_row, float *acc) {
    for (int h = 0; h < TK_H; h += TK_ABREAST) {
        const size_t ahead = tile_ahead(unit, first_row, h);
        const uint8_t *w = unit->quants + h * 4 * TK_LANES;
        const int8_t *a[TK_TILE];
        vi isum[TK_SUMS];
        point_to_rows(R, a, unit, first_row);
        clear(R, isum);
        for (int c = 0; c < 4; ++c, w += TK_Q5_K_CHUNK, advance(R, a, TK_PIECE_BYTES)) {
            if (in_bursts(R, ahead)) {
                prefetch_quarter(unit, TK_Q5_K_BYTES, ahead, c);
            }
            prefetch_line(R, unit->block + c * 64, ahead);
            prefetch_line(R, w, ahead);
            prefetch_line(R, w + 64, ahead);
            if (TK_CENTRED(5)) {
                add_pairs(R, isum, unit->middles[c] + h, a, TK_PIECE_SUMS);
            }
            vb fifths[2][TK_ABREAST];
            load_bytes(fifths[0], w);
            load_bytes(fifths[1], w + 64);
            TK_UNROLL
            for (int part = 0; part < 8 / TK_DOTS_5BIT; ++part) {
                va low[TK_SUMS], high[TK_SUMS];
                start_partial(R, 5, low, a, TK_PIECE_START_5BIT + part * 2);
                start_partial(R, 5, high, a, TK_PIECE_START_5BIT + part * 2 + 4);
                if (part == 0) {
                    TK_FIRST_FIFTHS(TK_Q5_LOW)
                }
                if (part == 1 || TK_DOTS_5BIT == 8) {
                    TK_LAST_FIFTHS(TK_Q5_LOW)
                }
                scale_sums(R, 5, false, unit, 2 * c, h, low, isum);
                if (part == 0 && halves_apart(R)) {
                    TK_FIRST_FIFTHS(TK_Q5_HIGH)
                }
                if ((part == 1 || TK_DOTS_5BIT == 8) && halves_apart(R)) {
                    TK_LAST_FIFTHS(TK_Q5_HIGH)
                }
                scale_sums(R, 5, false, unit, 2 * c + 1, h, high, isum);
            }
        }
        advance(R, a, -(size_t)4 * TK_PIECE_BYTES);
        add_k_block(R, false, unit, h, a, isum, unit->scales + first_row * unit->stride, acc + h * TK_LANES);
    }
}
TK_TILES(direct_q5_K)

// An unpacked unit of q4_K or q5_K; `dots` products fit into va, and start in the pieces at `start`.
TK_INLINE void shared_k(
    const int R, const int bits, const int dots, const size_t start, const size_t block_bytes, const tk_unit *unit,
    size_t first_row, float *acc) {
    for (int h = 0; h < TK_H; h += TK_ABREAST) {
        const size_t ahead = tile_ahead(unit, first_row, h);
        const uint8_t *w = unit->quants + h * 4 * TK_LANES;
        const int8_t *a[TK_TILE];
        vi isum[TK_SUMS];
        point_to_rows(R, a, unit, first_row);
        clear(R, isum);
        for (int c = 0; c < 4; ++c, w += 1024, advance(R, a, TK_PIECE_BYTES)) {
            prefetch_quarter(unit, block_bytes, ahead, c);
            if (TK_CENTRED(bits)) {
                add_pairs(R, isum, unit->middles[c] + h, a, TK_PIECE_SUMS);
            }
            TK_UNROLL
            for (int g0 = 0; g0 < 16; g0 += dots) {
                va sums[TK_SUMS];
                start_partial(R, bits, sums, a, start + g0 / dots * 2);
                TK_UNROLL
                for (int g = g0; g < g0 + dots; ++g) {
                    vb weights[TK_ABREAST];
                    load_bytes(weights, w + g * 64);
                    dot(R, sums, weights, a, g * 4);
                }
                scale_sums(R, bits, true, unit, 2 * c + g0 / 8, h, sums, isum);
            }
        }
        advance(R, a, -(size_t)4 * TK_PIECE_BYTES);
        add_k_block(R, true, unit, h, a, isum, unit->scales + first_row * unit->stride, acc + h * TK_LANES);
    }
}

TK_INLINE void shared_q4_K(const int R, const tk_unit *unit, size_t first_row, float *acc) {
    shared_k(R, 4, 8, TK_PIECE_START_4BIT, TK_Q4_K_BYTES, unit, first_row, acc);
}
TK_TILES(shared_q4_K)

TK_INLINE void shared_q5_K(const int R, const tk_unit *unit, size_t first_row, float *acc) {
    shared_k(R, 5, TK_DOTS_5BIT, TK_PIECE_START_5BIT, TK_Q5_K_BYTES, unit, first_row, acc);
}
TK_TILES(shared_q5_K)

TK_INLINE void unpack_q4_K(const tk_unit *unit, uint8_t *quants) {
    for (int c = 0; c < 4; ++c) {
        TK_UNROLL
        for (int i = 0; i < 8 * TK_H; ++i) {
            const vb q = vb_load(unit->quants + c * 512 + i * 4 * TK_LANES);
            vb_store(quants + c * 1024 + i * 4 * TK_LANES, vb_and(q, 15));
            vb_store(quants + c * 1024 + 512 + i * 4 * TK_LANES, vb_right(q, 4, 15));
        }
    }
}

#define TK_UNPACK_Q5(v, low_fifth, high_fifth)                                                                         \
    TK_UNROLL                                                                                                          \
    for (int i = 0; i < TK_H; ++i) {                                                                                   \
        const vb q = vb_load(w + TK_Q5_K_LOW + v * 64 + i * 4 * TK_LANES);                                             \
        vb_store(quants + v * 64 + i * 4 * TK_LANES, vb_or(vb_and(q, 15), low_fifth));                                 \
        vb_store(quants + 512 + v * 64 + i * 4 * TK_LANES, vb_or(vb_right(q, 4, 15), high_fifth));                     \
    }

TK_INLINE void unpack_q5_K(const tk_unit *unit, uint8_t *quants) {
    const uint8_t *w = unit->quants;
    for (int c = 0; c < 4; ++c, w += TK_Q5_K_CHUNK, quants += 1024) {
        vb fifths[2][TK_H];
        TK_UNROLL
        for (int i = 0; i < TK_H; ++i) {
            fifths[0][i] = vb_load(w + i * 4 * TK_LANES);
            fifths[1][i] = vb_load(w + 64 + i * 4 * TK_LANES);
        }
        TK_FIRST_FIFTHS(TK_UNPACK_Q5)
        TK_LAST_FIFTHS(TK_UNPACK_Q5)
    }
}

// Formats of super-blocks, one to a unit. `open` finds the unit in a panel.
#define TK_K_CORE(name, open, format, bits)                                                                            \
    TK_CORE(name) {                                                                                                    \
        const size_t scales = columns / 64 * TK_PIECE_BYTES;                                                           \
        _Alignas(64) uint8_t quants[16 * TK_UNIT];                                                                     \
        tk_unit unit;                                                                                                  \
        unit.stride = stride;                                                                                          \
        unit.blocks = 1;                                                                                               \
        unit.ahead = bytes_ahead(panels, count, bits == 6);                                                            \
        memset(result, 0, panels * count * 16 * sizeof(float));                                                        \
        for (size_t b = first; b < last; ++b) {                                                                        \
            unit.rows = rows + b * 4 * TK_PIECE_BYTES;                                                                 \
            unit.scales = rows + scales + b * 4;                                                                       \
            for (size_t p = 0; p < panels; ++p) {                                                                      \
                open(panel + p * panel_bytes, columns, b, &unit);                                                      \
                if (count <= TK_DIRECT(bits)) {                                                                        \
                    each_tile(direct_##format##s, &unit, count, result + p * count * 16);                              \
                } else {                                                                                               \
                    widen_multipliers(bits, &unit);                                                                    \
                    unpack_##format(&unit, quants);                                                                    \
                    unit.quants = quants;                                                                              \
                    each_tile(shared_##format##s, &unit, count, result + p * count * 16);                              \
                }                                                                                                      \
            }                                                                                                          \
        }                                                                                                              \
    }

TK_INLINE void open_q4_K(const uint8_t *panel, size_t columns, size_t b, tk_unit *unit) {
    const uint8_t *block = panel + b * TK_Q4_K_BYTES;
    (void)columns;
    unit->block = block;
    unpack_header(block, 4, unit);
    unit->quants = block + TK_K_HEADER;
}
TK_K_CORE(core_q4_K, open_q4_K, q4_K, 4)

TK_INLINE void open_q5_K(const uint8_t *panel, size_t columns, size_t b, tk_unit *unit) {
    const uint8_t *block = panel + b * TK_Q5_K_BYTES;
    (void)columns;
    unit->block = block;
    unpack_header(block, 5, unit);
    unit->quants = block + TK_K_HEADER;
}
TK_K_CORE(core_q5_K, open_q5_K, q5_K, 5)

// ---------------------------------------------------------------------------------------------------------------------
// q6_K

// Where the integer sums of one vector of R rows start: sc * sum (q-32)*a = sc * sum q*a - 32 * (sc * sum a), and centred sums
// are sum (q-32)*a already. Pieces have the sums of 16 activations times -16.
TK_INLINE void start_q6_K(
    const int R, const bool shared, const tk_unit *unit, int h, const int8_t *const *a, vi *isum) {
    clear(R, isum);
    if (TK_CENTRED(6)) {
        return;
    }
    TK_UNROLL
    for (int i = 0; i < 8; ++i) {
        vi multipliers[TK_ABREAST];
        pairs_of(multipliers, 6, shared, unit, i, h);
        add_pairs(R, isum, multipliers, a, i / 2 * TK_PIECE_BYTES + TK_PIECE_START_5BIT + i % 2 * 4);
    }
    TK_UNROLL
    for (int i = 0; i < R * TK_ABREAST; ++i) {
        isum[i] = vi_shift_left(isum[i], 1);
    }
}

// Half n of a super-block has four quarters of 32 values, and a quarter two halves s of one multiplier each. Chunk 2n+s has
// the four halves s in four quads, quad u four values of each quarter: low bits of quarters 0 and 1 in the low nibbles of its
// two groups of ql, of 2 and 3 in the high ones; high bits in the four bit pairs of its group of qh.
#define TK_Q6_QUARTERS(each)                                                                                           \
    each(0, vb_and(q[i], 15), vb_left(top[i], 4, 0x30))                                                                \
    each(1, vb_and(q[i], 15), vb_left(top[i], 2, 0x30))                                                                \
    each(2, vb_right(q[i], 4, 15), vb_and(top[i], 0x30))                                                               \
    each(3, vb_right(q[i], 4, 15), vb_right(top[i], 2, 0x30))

// Where a quarter's four values of quad 4s+u, and the start of their sums, are in the rows' pieces.
#define TK_Q6_VALUES(quarter, u) (quarter / 2 * TK_PIECE_BYTES + (quarter % 2 * 8 + s * 4 + u) * 4)
#define TK_Q6_START(quarter, u) (quarter / 2 * TK_PIECE_BYTES + TK_START_6BIT(quarter % 2 * 8 + s * 4 + u))

// Quarter after quarter: each reads the chunk's lines again.
#define TK_DIRECT_Q6(quarter, low_bits, high_bits)                                                                     \
    TK_UNROLL                                                                                                          \
    for (int u0 = 0; u0 < 4; u0 += TK_DOTS_6BIT) {                                                                     \
        va sums[TK_SUMS];                                                                                              \
        start_partial(R, 6, sums, a, TK_Q6_START(quarter, u0));                                                        \
        TK_UNROLL                                                                                                      \
        for (int u = u0; u < u0 + TK_DOTS_6BIT; ++u) {                                                                 \
            const uint8_t *quad = chunk + u * TK_Q6_K_QUAD;                                                            \
            vb q[TK_ABREAST], top[TK_ABREAST];                                                                         \
            if (quarter < 3) {                                                                                         \
                prefetch(R, quad + quarter * 64, ahead);                                                               \
            } else if (u == 0) {                                                                                       \
                prefetch(R, unit->block + (2 * n + s) * 64, ahead);                                                    \
            }                                                                                                          \
            load_bytes(q, quad + TK_Q6_K_LOW + quarter % 2 * 64);                                                      \
            load_bytes(top, quad);                                                                                     \
            TK_WEIGHTS(weights, vb_or(low_bits, high_bits))                                                            \
            dot(R, sums, weights, a, TK_Q6_VALUES(quarter, u));                                                        \
        }                                                                                                              \
        scale_sums(R, 6, false, unit, n * 8 + quarter * 2 + s, h, sums, isum);                                         \
    }

#define TK_DIRECT_Q6_QUAD(quarter, low_bits, high_bits)                                                                \
    {                                                                                                                  \
        const vb *q = low[quarter % 2];                                                                                \
        TK_WEIGHTS(weights, vb_or(low_bits, high_bits))                                                                \
        dot(R, sums[quarter], weights, a, TK_Q6_VALUES(quarter, u));                                                   \
    }

TK_INLINE void direct_q6_K(const int R, const tk_unit *unit, size_t first_row, float *acc) {
    for (int h = 0; h < TK_H; h += TK_ABREAST) {
        const size_t ahead = tile_ahead(unit, first_row, h);
        const uint8_t *w = unit->quants + h * 4 * TK_LANES;
        const int8_t *a[TK_TILE];
        vi isum[TK_SUMS];
        vf total[TK_SUMS];
        point_to_rows(R, a, unit, first_row);
        start_q6_K(R, false, unit, h, a, isum);
        for (int n = 0; n < 2; ++n, w += 2 * TK_Q6_K_CHUNK, advance(R, a, 2 * TK_PIECE_BYTES)) {
            TK_UNROLL
            for (int s = 0; s < 2; ++s) {
                const uint8_t *chunk = w + s * TK_Q6_K_CHUNK;
                if (!by_quads(R)) {
                    TK_Q6_QUARTERS(TK_DIRECT_Q6)
                    continue;
                }
                prefetch_line(R, unit->block + (2 * n + s) * 64, ahead);
                TK_UNROLL
                for (int u0 = 0; u0 < 4; u0 += TK_DOTS_6BIT) {
                    va sums[4][TK_SUMS];
                    TK_UNROLL
                    for (int quarter = 0; quarter < 4; ++quarter) {
                        start_partial(R, 6, sums[quarter], a, TK_Q6_START(quarter, u0));
                    }
                    TK_UNROLL
                    for (int u = u0; u < u0 + TK_DOTS_6BIT; ++u) {
                        const uint8_t *quad = chunk + u * TK_Q6_K_QUAD;
                        vb top[TK_ABREAST], low[2][TK_ABREAST];
                        prefetch_line(R, quad, ahead);
                        prefetch_line(R, quad + TK_Q6_K_LOW, ahead);
                        prefetch_line(R, quad + TK_Q6_K_LOW + 64, ahead);
                        take_bytes(top, quad);
                        take_bytes(low[0], quad + TK_Q6_K_LOW);
                        take_bytes(low[1], quad + TK_Q6_K_LOW + 64);
                        TK_Q6_QUARTERS(TK_DIRECT_Q6_QUAD)
                    }
                    TK_UNROLL
                    for (int quarter = 0; quarter < 4; ++quarter) {
                        scale_sums(R, 6, false, unit, n * 8 + quarter * 2 + s, h, sums[quarter], isum);
                    }
                }
            }
        }
        load_sums(R, total, acc + h * TK_LANES);
        add_block(R, isum, unit->d[0] + h, unit->scales + first_row * unit->stride, unit->stride, total);
        store_sums(R, total, acc + h * TK_LANES);
    }
}
TK_TILES(direct_q6_K)

TK_INLINE void shared_q6_K(const int R, const tk_unit *unit, size_t first_row, float *acc) {
    for (int h = 0; h < TK_H; h += TK_ABREAST) {
        const size_t ahead = tile_ahead(unit, first_row, h);
        const uint8_t *w = unit->quants + h * 4 * TK_LANES;
        const int8_t *a[TK_TILE];
        vi isum[TK_SUMS];
        vf total[TK_SUMS];
        point_to_rows(R, a, unit, first_row);
        start_q6_K(R, true, unit, h, a, isum);
        for (int c = 0; c < 4; ++c, w += 1024, advance(R, a, TK_PIECE_BYTES)) {
            prefetch_quarter(unit, TK_Q6_K_BYTES, ahead, c);
            TK_UNROLL
            for (int g0 = 0; g0 < 16; g0 += TK_DOTS_6BIT) {
                va sums[TK_SUMS];
                start_partial(R, 6, sums, a, TK_START_6BIT(g0));
                TK_UNROLL
                for (int g = g0; g < g0 + TK_DOTS_6BIT; ++g) {
                    vb weights[TK_ABREAST];
                    load_bytes(weights, w + g * 64);
                    dot(R, sums, weights, a, g * 4);
                }
                scale_sums(R, 6, true, unit, 4 * c + g0 / 4, h, sums, isum);
            }
        }
        load_sums(R, total, acc + h * TK_LANES);
        add_block(R, isum, unit->d[0] + h, unit->scales + first_row * unit->stride, unit->stride, total);
        store_sums(R, total, acc + h * TK_LANES);
    }
}
TK_TILES(shared_q6_K)

#define TK_UNPACK_Q6(quarter, low_bits, high_bits)                                                                     \
    TK_UNROLL                                                                                                          \
    for (int u = 0; u < 4; ++u) {                                                                                      \
        vb q[TK_H], top[TK_H];                                                                                         \
        TK_UNROLL                                                                                                      \
        for (int i = 0; i < TK_H; ++i) {                                                                               \
            const int o = i * 4 * TK_LANES;                                                                            \
            q[i] = vb_load(w + u * TK_Q6_K_QUAD + TK_Q6_K_LOW + quarter % 2 * 64 + o);                                 \
            top[i] = vb_load(w + u * TK_Q6_K_QUAD + o);                                                                \
            vb_store(quants + quarter * 512 + u * 64 + o, vb_or(low_bits, high_bits));                                 \
        }                                                                                                              \
    }

TK_INLINE void unpack_q6_K(const tk_unit *unit, uint8_t *quants) {
    const uint8_t *w = unit->quants;
    for (int n = 0; n < 2; ++n, quants += 3 * 512) {
        for (int s = 0; s < 2; ++s, w += TK_Q6_K_CHUNK, quants += 256) {
            TK_Q6_QUARTERS(TK_UNPACK_Q6)
        }
    }
}

TK_INLINE void open_q6_K(const uint8_t *panel, size_t columns, size_t b, tk_unit *unit) {
    unit->block = panel + tk_scale_section(columns / 256) + b * TK_Q6_K_BYTES;
    TK_UNROLL
    for (int h = 0; h < TK_H; ++h) {
        unit->d[0][h] = vf_load_f16(panel + b * 32 + h * 2 * TK_LANES);
    }
    unit->quants = unit->block + TK_Q6_K_SCALES;
}
TK_K_CORE(core_q6_K, open_q6_K, q6_K, 6)

// ---------------------------------------------------------------------------------------------------------------------

static tk_core *const cores[TK_FORMAT_COUNT] = {
    [TK_FORMAT_F32] = core_f32,   [TK_FORMAT_F16] = core_f16,   [TK_FORMAT_BF16] = core_bf16,
    [TK_FORMAT_Q8_0] = core_q8_0, [TK_FORMAT_Q4_0] = core_q4_0, [TK_FORMAT_Q4_K] = core_q4_K,
    [TK_FORMAT_Q5_K] = core_q5_K, [TK_FORMAT_Q6_K] = core_q6_K,
};

// How a product is cut: `rows` rows at a time go over `group` panels, which stay in the second-level cache, before the
// next rows.
typedef struct { size_t rows, group; } tk_cut;

TK_INLINE tk_cut cut(tk_format format, size_t panel_bytes, size_t count) {
    const size_t rows = tk_activation_for(format) == TK_ACTIVATION_F32 ? TK_FLOATS : TK_CHUNK;
    const size_t fitting = (512 << 10) / (panel_bytes + 1);
    return (tk_cut){.rows = rows, .group = count <= rows ? 64 : fitting < TK_PANELS ? TK_PANELS : fitting};
}

// Whether R rows take panel after panel, in runs.
TK_INLINE bool takes_runs(tk_format format, size_t R) {
    return tk_activation_for(format) != TK_ACTIVATION_F32 && in_order(1, R);
}

// Panels that R rows take at once. Floats: so that there are enough chains of sums. Otherwise a run where weights come fastest
// in order, so that gate and up take turns less often; elsewhere several if the rows are too long for the first-level cache.
TK_INLINE size_t together(tk_format format, size_t R, size_t stride) {
    if (tk_activation_for(format) == TK_ACTIVATION_F32) {
        return float_panels(R);
    }
    return takes_runs(format, R) ? TK_RUN : R * stride > (16 << 10) ? TK_PANELS : 1;
}

enum { TK_RESULT = TK_PANELS * TK_CHUNK * 16 };  // floats that are computed at once at most
_Static_assert(TK_RUN * TK_TILE * 16 <= TK_RESULT, "a run's results");

// Panels times R rows, in `parts` parts of the inner dimension.
static void panel_product(
    tk_format format, const uint8_t *panel, size_t panel_bytes, size_t panels, size_t columns, const uint8_t *rows,
    size_t stride, size_t R, size_t parts, float *result) {
    tk_core *const core = cores[format];
    const size_t part = columns / tk_block_size(format) / parts;
    core(panel, panel_bytes, panels, columns, 0, part, rows, stride, R, result);
    if (parts == 1) {
        return;
    }
    float others[3][TK_RESULT];
    for (size_t p = 1; p < parts; ++p) {
        core(panel, panel_bytes, panels, columns, p * part, (p + 1) * part, rows, stride, R, others[p - 1]);
    }
    for (size_t i = 0; i < panels * R * 16; ++i) {
        const float front = result[i] + others[0][i];
        result[i] = parts == 4 ? front + (others[1][i] + others[2][i]) : front;
    }
}

// The same, or a run of panels one after the other.
TK_INLINE void panel_products(
    tk_format format, const uint8_t *panel, size_t panel_bytes, size_t panels, size_t columns, const uint8_t *rows,
    size_t stride, size_t R, size_t parts, float *result) {
    const size_t step = takes_runs(format, R) ? 1 : panels;
    for (size_t p = 0; p < panels; p += step) {
        panel_product(
            format, panel + p * panel_bytes, panel_bytes, step, columns, rows, stride, R, parts, result + p * R * 16);
    }
}

// Calls of one matrix or two: gate and up, whose results go through SwiGLU.
typedef struct {
    tk_format format;
    const uint8_t *panels, *up_panels;  // up_panels: null for one matrix
    size_t columns, rows_total, parts;
    const uint8_t *activations;
    size_t stride;
    float *out;
    size_t out_stride;
} tk_product;

TK_INLINE void product(const tk_product *job, size_t panel_begin, size_t panel_end, size_t count) {
    const size_t panel_bytes = tk_panel_bytes(job->format, job->columns);
    const tk_cut sizes = cut(job->format, panel_bytes * (job->up_panels != NULL ? 2 : 1), count);
    for (size_t first = panel_begin, last; first < panel_end; first = last) {
        last = panel_end - first < sizes.group ? panel_end : first + sizes.group;
        for (size_t i = 0, R, left = (count + sizes.rows - 1) / sizes.rows; left > 0; i += R, --left) {
            R = (count - i + left - 1) / left;
            const uint8_t *rows = job->activations + i * job->stride;
            const size_t panels = together(job->format, R, job->stride);
            for (size_t p = first, P; p < last; p += P) {
                P = last - p < panels ? 1 : panels;
                float result[TK_RESULT], up[TK_RESULT];
                panel_products(
                    job->format, job->panels + p * panel_bytes, panel_bytes, P, job->columns, rows, job->stride, R,
                    job->parts, result);
                if (job->up_panels != NULL) {
                    panel_products(
                        job->format, job->up_panels + p * panel_bytes, panel_bytes, P, job->columns, rows, job->stride,
                        R, job->parts, up);
                    silu_multiply(result, up, P * R * 16, result);
                }
                for (size_t q = 0; q < P; ++q) {
                    const size_t begin = (p + q) * 16;
                    const size_t width = job->rows_total - begin < 16 ? job->rows_total - begin : 16;
                    float *out = job->out + i * job->out_stride + begin;
                    for (size_t r = 0; r < R; ++r, out += job->out_stride) {
                        const float *sums = result + (q * R + r) * 16;
                        if (width == 16) {
                            memcpy(out, sums, 16 * sizeof(float));  // of a known size: no call
                        } else {
                            memcpy(out, sums, width * sizeof(float));
                        }
                    }
                }
            }
        }
    }
}

static void matmul(
    tk_format format, const void *panels, size_t columns, size_t rows_total, size_t panel_begin, size_t panel_end,
    const void *activations, size_t stride, size_t count, size_t parts, float *out, size_t out_stride) {
    const tk_product job = {format, panels, NULL, columns, rows_total, parts, activations, stride, out, out_stride};
    product(&job, panel_begin, panel_end, count);
}

static void matmul_gate_up(
    tk_format format, const void *gate_panels, const void *up_panels, size_t columns, size_t rows_total,
    size_t panel_begin, size_t panel_end, const void *activations, size_t stride, size_t count, float *out,
    size_t out_stride) {
    const tk_product job = {
        format, gate_panels, up_panels, columns, rows_total, 1, activations, stride, out, out_stride};
    product(&job, panel_begin, panel_end, count);
}
