// Compares an instruction set of CKernels with the portable one, bit for bit, on inputs that a seed makes:
//
//   check SET
//
// SET must be what tk_isa_best picks on this machine. Every function of the kernels' table runs with both on the same
// input, in buffers that are filled alike before, so that a stray write shows too. Exits with 1 where anything differs.
// Floats that are both NaN are equal, as CKernels.h allows, except where it says what becomes of a NaN.
#include "layout.h"

#include <stdio.h>
#include <stdlib.h>

static tk_isa isa;
static size_t compared, different;

// xorshift64
static uint64_t state = 88172645463325252u;
static uint64_t random_bits(void) {
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state;
}
static size_t below(size_t n) { return random_bits() % n; }
static size_t between(size_t low, size_t high) { return low + below(high - low + 1); }

// From -spread to spread.
static float plain(float spread) { return ((float)below(2000001) - 1e6f) * 1e-6f * spread; }

// What kernels must not trip over: zeros of both signs, infinities, NaNs, denormals, borders of f16 and of exp.
static float odd(void) {
    static const uint32_t patterns[] = {
        0x00000000, 0x80000000, 0x7f800000, 0xff800000, 0x7fc00000, 0xffc12345, 0x7f801000, 0xff812345, 0x00000001,
        0x807fffff, 0x00800000, 0x7f7fffff, 0xff7fffff, 0x477fefff, 0x477ff000, 0x38800000, 0x387fffff, 0x33000000,
        0x33000001, 0xb3800000, 0x42b20000, 0xc2d00000, 0x0d800000, 0x0d7fffff, 0x3f800000, 0xbf800000,
    };
    return below(4) == 0 ? tk_from_bits((uint32_t)random_bits())
                         : tk_from_bits(patterns[below(sizeof patterns / sizeof *patterns)]);
}

// Odd values in every third array only, so that most results are numbers.
static void fill(float *x, size_t n, float spread) {
    const bool wild = below(3) == 0;
    for (size_t i = 0; i < n; ++i) {
        x[i] = wild && below(4) == 0 ? odd() : plain(spread);
    }
}

static void *room(size_t bytes) {
    void *p = aligned_alloc(64, (bytes + 127) / 64 * 64);
    if (p == NULL) {
        fputs("check: no memory\n", stderr);
        exit(1);
    }
    return p;
}
static float *floats(size_t n) { return room(n * sizeof(float)); }

// A buffer for each of the two sets, filled alike.
typedef struct { uint8_t *expected, *found; size_t bytes; } twins;

static twins pair_of(size_t bytes) {
    const twins both = {room(bytes), room(bytes), bytes};
    memset(both.expected, 0xa5, bytes);
    memset(both.found, 0xa5, bytes);
    return both;
}
static twins copies_of(const void *source, size_t bytes) {
    const twins both = {room(bytes), room(bytes), bytes};
    memcpy(both.expected, source, bytes);
    memcpy(both.found, source, bytes);
    return both;
}

static void report(const char *what, size_t at, uint32_t expected, uint32_t found) {
    if (++different <= 20) {
        printf("%s: %s differs at %zu: %08x, portable %08x\n", tk_isa_name(isa), what, at, found, expected);
    }
}

static bool same_float(const uint8_t *a, const uint8_t *b) {
    const float x = tk_load_f32(a), y = tk_load_f32(b);
    return tk_bits(x) == tk_bits(y) || (x != x && y != y);
}

// Compares and frees. The first `exact` bytes must be the same, the rest are floats.
static void compare_from(const char *what, twins both, size_t exact) {
    ++compared;
    for (size_t i = 0; i < both.bytes;) {
        const bool byte = i < exact;
        if (byte ? both.expected[i] != both.found[i] : !same_float(both.expected + i, both.found + i)) {
            report(
                what, i, byte ? both.expected[i] : (uint32_t)tk_load_i32(both.expected + i),
                byte ? both.found[i] : (uint32_t)tk_load_i32(both.found + i));
            break;
        }
        i += byte ? 1 : 4;
    }
    free(both.expected);
    free(both.found);
}
static void compare_bytes(const char *what, twins both) { compare_from(what, both, both.bytes); }
static void compare_floats(const char *what, twins both) { compare_from(what, both, 0); }

// Runs a statement with both sets: `set` is the one, `out` its buffer of `both`.
#define WITH_EACH(both, ...)                                                                                           \
    for (int turn = 0; turn < 2; ++turn) {                                                                             \
        const tk_isa set = turn == 0 ? TK_ISA_PORTABLE : isa;                                                          \
        void *const out = turn == 0 ? (both).expected : (both).found;                                                  \
        __VA_ARGS__;                                                                                                   \
    }

// ---------------------------------------------------------------------------------------------------------------------
// Products

static const char *const format_names[TK_FORMAT_COUNT] = {"f32",  "f16",  "bf16", "q8_0",
                                                          "q4_0", "q4_K", "q5_K", "q6_K"};

// Random bytes; unless `wild`, the floats and the scales among them are below 2.
static uint8_t *random_panels(tk_format format, size_t columns, size_t panels, bool wild) {
    const size_t bytes = tk_panel_bytes(format, columns), blocks = columns / tk_block_size(format);
    uint8_t *weights = room(bytes * panels);
    for (size_t i = 0; i < bytes * panels; ++i) {
        weights[i] = (uint8_t)random_bits();
    }
    for (size_t p = 0; p < panels && !wild; ++p) {
        uint8_t *panel = weights + p * bytes;
        size_t stride = 32, length = 32, size = 2;
        switch (format) {
            case TK_FORMAT_F32:
                stride = length = 64;
                size = 4;
                break;
            case TK_FORMAT_Q4_K:
            case TK_FORMAT_Q5_K:
                stride = format == TK_FORMAT_Q4_K ? TK_Q4_K_BYTES : TK_Q5_K_BYTES;
                length = TK_K_SCALES;
                break;
            default:
                break;
        }
        for (size_t b = 0; b < blocks; ++b) {
            for (size_t i = size - 1; i < length; i += size) {
                panel[b * stride + i] &= 0xbf;
            }
        }
    }
    return weights;
}

// `count` encoded rows: some quantised, some of bytes that only a faulty peer would send.
static uint8_t *random_rows(tk_activation activation, size_t columns, size_t count) {
    const size_t bytes = tk_encoded_row_bytes(activation, columns);
    uint8_t *encoded = room(bytes * count);
    float *row = floats(columns);
    for (size_t r = 0; r < count; ++r) {
        for (size_t i = 0; i < columns; ++i) {
            row[i] = plain(4);
        }
        tk_quantise(TK_ISA_PORTABLE, activation, row, columns, encoded + r * bytes);
        if (activation != TK_ACTIVATION_F32 && below(3) == 0) {
            for (size_t i = 0; i < columns; ++i) {
                const size_t extreme = below(3);
                encoded[r * bytes + i] = extreme == 0 ? 0x80 : extreme == 1 ? 0x7f : (uint8_t)random_bits();
            }
        }
    }
    free(row);
    return encoded;
}

static void check_product(tk_format format, size_t columns, size_t rows, size_t count, bool wild) {
    const tk_activation activation = tk_activation_for(format);
    const size_t panels = tk_panel_count(rows), begin = below(panels), end = between(begin + 1, panels);
    const size_t parts = below(2) == 0 ? 1 : tk_down_parts(format, columns);
    const size_t encoded_bytes = tk_encoded_row_bytes(activation, columns);
    const size_t stride = tk_prepared_row_bytes(activation, columns), out_stride = rows + below(5);
    uint8_t *weights = random_panels(format, columns, panels, wild), *up = random_panels(format, columns, panels, wild);
    uint8_t *encoded = random_rows(activation, columns, count), *prepared = room(stride * count);
    tk_prepare(TK_ISA_PORTABLE, activation, encoded, encoded_bytes, columns, count, prepared);

    const twins again = pair_of(stride * count);
    memset(again.expected, 0, again.bytes);
    memset(again.found, 0, again.bytes);
    WITH_EACH(again, tk_prepare(set, activation, encoded, encoded_bytes, columns, count, out))
    compare_bytes("tk_prepare", again);

    char what[64];
    const twins product = pair_of(out_stride * count * 4);
    WITH_EACH(
        product, tk_matmul(
                     set, format, weights, columns, rows, begin, end, prepared, stride, count, parts, out, out_stride))
    snprintf(what, sizeof what, "tk_matmul %s %zu x %zu, %zu rows", format_names[format], rows, columns, count);
    compare_floats(what, product);

    const twins gated = pair_of(out_stride * count * 4);
    WITH_EACH(
        gated, tk_matmul_gate_up(
                   set, format, weights, up, columns, rows, begin, end, prepared, stride, count, out, out_stride))
    snprintf(what, sizeof what, "tk_matmul_gate_up %s %zu x %zu, %zu rows", format_names[format], rows, columns, count);
    compare_floats(what, gated);
    free(weights);
    free(up);
    free(encoded);
    free(prepared);
}

static void check_products(void) {
    for (int f = 0; f < TK_FORMAT_COUNT; ++f) {
        const tk_format format = (tk_format)f;
        const size_t block = tk_block_size(format);
        const size_t longest = block == 1 ? 300 : block == 32 ? 12 : 4;
        for (size_t trial = 0; trial < 60; ++trial) {
            check_product(format, block * between(1, longest), between(1, 40), 1 + trial % 20, trial % 5 == 4);
        }
        // Many panels at once, several chunks of rows, rows that do not fit the first-level cache.
        check_product(format, block == 1 ? 280 : 256, 150, 1, false);
        check_product(format, block == 1 ? 9 : 512, 70, 3, false);
        check_product(format, block == 1 ? 9 : 512, 70, 43, false);
    }
}

static void check_quantisation(void) {
    for (size_t trial = 0; trial < 60; ++trial) {
        const tk_activation activation = (tk_activation)(trial % 3);
        const size_t columns = tk_activation_block(activation) * between(1, 4);
        float *row = floats(columns);
        fill(row, columns, trial % 5 == 4 ? 0x1p-99f : 5);
        // Zeros, and halves that round to even.
        for (size_t i = 0; i < columns && trial % 7 == 6; ++i) {
            row[i] = trial % 2 == 0 ? 0 : i % 32 == 0 ? 127 : (float)below(254) - 126.5f;
        }
        const twins encoded = pair_of(tk_encoded_row_bytes(activation, columns));
        WITH_EACH(encoded, tk_quantise(set, activation, row, columns, out))
        compare_from("tk_quantise", encoded, activation == TK_ACTIVATION_F32 ? 0 : columns);
        free(row);
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// Rows

static void check_f16(void) {
    enum { CHUNK = 4096 };
    uint16_t halves[CHUNK];
    float wide[CHUNK];
    // Every f16 there is.
    for (size_t first = 0; first < 65536; first += CHUNK) {
        for (size_t i = 0; i < CHUNK; ++i) {
            halves[i] = (uint16_t)(first + i);
        }
        const twins both = pair_of(sizeof wide);
        WITH_EACH(both, tk_f16_to_f32(set, halves, CHUNK, out))
        memcpy(wide, both.expected, sizeof wide);
        compare_bytes("tk_f16_to_f32", both);
        // Each one, the middle to the next one and the floats beside them.
        for (int step = -1; step <= 1; ++step) {
            for (size_t i = 0; i < CHUNK; ++i) {
                const uint32_t middle = wide[i] == wide[i] ? 0x1000 : 0;
                wide[i] = tk_from_bits(tk_bits(tk_half_to_float(halves[i])) + (i % 2 == 0 ? middle : 0) + (uint32_t)step);
            }
            const twins narrow = pair_of(sizeof halves);
            WITH_EACH(narrow, tk_f32_to_f16(set, wide, CHUNK, out))
            compare_bytes("tk_f32_to_f16", narrow);
        }
    }
    for (size_t trial = 0; trial < 30; ++trial) {
        const size_t n = between(1, 70);
        for (size_t i = 0; i < n; ++i) {
            wide[i] = below(2) == 0 ? odd() : tk_from_bits((uint32_t)random_bits());
            halves[i] = (uint16_t)random_bits();
        }
        const twins narrow = pair_of(n * 2), back = pair_of(n * 4);
        WITH_EACH(narrow, tk_f32_to_f16(set, wide, n, out))
        compare_bytes("tk_f32_to_f16", narrow);
        WITH_EACH(back, tk_f16_to_f32(set, halves, n, out))
        compare_bytes("tk_f16_to_f32", back);
    }
}

static void check_rows(void) {
    for (size_t trial = 0; trial < 120; ++trial) {
        const size_t n = trial < 40 ? trial + 1 : between(1, 300);
        float *x = floats(n), *y = floats(n);
        fill(x, n, trial % 4 == 3 ? 110 : 8);
        fill(y, n, 3);
        const float factor = below(8) == 0 ? odd() : plain(2);

        const twins exponentials = pair_of(n * 4);
        WITH_EACH(exponentials, tk_exp(set, x, n, out))
        compare_floats("tk_exp", exponentials);
        const twins silu = pair_of(n * 4);
        WITH_EACH(silu, tk_silu_multiply(set, x, y, n, out))
        compare_floats("tk_silu_multiply", silu);
        const twins norm = pair_of(n * 4);
        WITH_EACH(norm, tk_rmsnorm(set, x, y, n, 1e-5f, out))
        compare_floats("tk_rmsnorm", norm);
        const twins softmax = copies_of(x, n * 4);
        WITH_EACH(softmax, tk_softmax(set, out, n))
        compare_floats("tk_softmax", softmax);
        const twins sum = copies_of(x, n * 4);
        WITH_EACH(sum, tk_add(set, out, y, n))
        compare_floats("tk_add", sum);
        const twins scaled = pair_of(n * 4);
        WITH_EACH(scaled, tk_scale(set, x, factor, n, out))
        compare_floats("tk_scale", scaled);

        float *outputs[4], weights[4];
        const size_t count = between(1, 4);
        for (size_t e = 0; e < count; ++e) {
            outputs[e] = floats(n);
            fill(outputs[e], n, 3);
            weights[e] = plain(1);
        }
        const twins combined = copies_of(x, n * 4);
        WITH_EACH(combined, tk_combine(set, out, (const float *const *)outputs, weights, count, n))
        compare_floats("tk_combine", combined);
        for (size_t e = 0; e < count; ++e) {
            free(outputs[e]);
        }

        const twins finite = pair_of(sizeof(bool));
        WITH_EACH(finite, *(bool *)out = tk_all_finite(set, x, n))
        compare_bytes("tk_all_finite", finite);

        // Chosen experts, then their weights.
        const size_t used = between(1, n < 8 ? n : 8);
        float *scratch = floats(n);
        for (size_t i = 0; i < n && trial % 6 == 5; ++i) {
            x[i] = (float)below(3);
        }
        const twins routed = pair_of(used * 8);
        WITH_EACH(routed, tk_route(set, x, n, used, scratch, out, (float *)out + used))
        compare_from("tk_route", routed, used * 4);
        free(scratch);
        free(x);
        free(y);
    }
}

static void check_rotary(void) {
    static const size_t dimensions[] = {2, 10, 16, 32, 48, 64, 70, 128};
    for (size_t trial = 0; trial < 24; ++trial) {
        const size_t head_dim = dimensions[trial % 8], heads = between(1, 4);
        float *row = floats(heads * head_dim), *cosines = floats(head_dim), *sines = floats(head_dim);
        fill(row, heads * head_dim, 4);
        tk_rotary_table(1e6, head_dim, below(70000), 1, cosines, sines);
        const twins both = copies_of(row, heads * head_dim * 4);
        WITH_EACH(both, tk_rotary_apply(set, out, heads, head_dim, cosines, sines))
        compare_floats("tk_rotary_apply", both);
        free(row);
        free(cosines);
        free(sines);
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// Attention

static void check_attention(size_t group, size_t kv_heads, size_t head_dim, size_t tokens) {
    const size_t heads = group * kv_heads, pages = (tokens + TK_PAGE_TOKENS - 1) / TK_PAGE_TOKENS;
    const size_t page_bytes = tk_kv_page_bytes(kv_heads, head_dim), page_stride = page_bytes + 64;
    const size_t spans = tk_span_count(tokens), record = tk_partial_floats(head_dim);
    int32_t *numbers = room(pages * sizeof(int32_t));
    for (size_t i = 0; i < pages; ++i) {
        numbers[i] = (int32_t)(pages - 1 - i);
    }
    const twins pool = pair_of(pages * page_stride);
    const size_t rows = 1 + below(tokens < 4 ? tokens : 4), width = heads * head_dim;
    float *keys = floats(kv_heads * head_dim), *values = floats(kv_heads * head_dim), *q = floats(rows * width);
    for (size_t t = 0; t < tokens; ++t) {
        for (size_t i = 0; i < kv_heads * head_dim; ++i) {
            keys[i] = plain(2);
            values[i] = below(64) == 0 ? plain(0x1p-14f) : plain(2);
        }
        // One of the last token, so that most results are numbers.
        if (tokens % 2 == 0 && t + 1 == tokens) {
            values[below(kv_heads * head_dim)] = odd();
        }
        WITH_EACH(pool, {
            const tk_kv_view kv = {out, page_stride, numbers, kv_heads, head_dim};
            tk_kv_store(set, &kv, t, keys, values);
        })
    }
    const tk_kv_view kv = {pool.expected, page_stride, numbers, kv_heads, head_dim};
    for (size_t i = 0; i < rows * width; ++i) {
        q[i] = plain(2);
    }

    float *scratch = floats(tk_attention_scratch_floats(rows, heads, kv_heads, head_dim));
    const twins attention = pair_of(rows * width * 4);
    WITH_EACH(
        attention,
        tk_attention(set, &kv, q, width, rows, heads, tokens - rows + 1, 0, kv_heads, scratch, out, width))
    compare_floats("tk_attention", attention);

    const size_t kv_head = below(kv_heads);
    const twins partials = pair_of(spans * group * record * 4), merged = pair_of(group * head_dim * 4);
    for (size_t s = 0; s < spans; ++s) {
        WITH_EACH(
            partials,
            tk_attention_span(set, &kv, q, heads, tokens, kv_head, s, scratch, (float *)out + s * group * record))
    }
    const twins to_merge = copies_of(partials.expected, partials.bytes);
    compare_floats("tk_attention_span", partials);
    WITH_EACH(
        merged,
        tk_attention_merge(
            set, (float *)(turn == 0 ? to_merge.expected : to_merge.found), spans, group, head_dim, out))
    compare_floats("tk_attention_merge", merged);
    compare_floats("tk_attention_merge's partials", to_merge);
    compare_bytes("tk_kv_store", pool);
    free(numbers);
    free(keys);
    free(values);
    free(q);
    free(scratch);
}

static void check_attentions(void) {
    check_attention(4, 2, 32, 1);
    check_attention(1, 1, 16, 31);
    check_attention(7, 1, 64, 32);
    check_attention(3, 3, 10, 33);
    check_attention(6, 1, 80, 100);
    check_attention(2, 2, 32, 511);
    check_attention(4, 1, 32, 513);
    check_attention(3, 2, 26, 1060);
}

static void check_measurements(void) {
    enum { BYTES = 1024 };
    uint64_t words[BYTES / 8];
    for (size_t i = 0; i < BYTES / 8; ++i) {
        words[i] = random_bits();
    }
    const twins read = pair_of(8);
    WITH_EACH(read, *(uint64_t *)out = tk_measure_read(set, words, BYTES))
    compare_bytes("tk_measure_read", read);
    // Each set has its own number of operations to a round; it must count them.
    const uint64_t integers = tk_measure_integers(isa, 1), multiplied = tk_measure_floats(isa, 1);
    const twins counts = pair_of(16);
    memcpy(counts.expected, (uint64_t[]){3 * integers, 3 * multiplied}, 16);
    memcpy(counts.found, (uint64_t[]){tk_measure_integers(isa, 3), tk_measure_floats(isa, 3)}, 16);
    compare_bytes("tk_measure_integers, tk_measure_floats", counts);
}

int main(int count, char **arguments) {
    isa = tk_isa_best();
    if (count != 2 || strcmp(arguments[1], tk_isa_name(isa)) != 0) {
        fprintf(
            stderr, "check: the best instruction set here is %s, not %s\n", tk_isa_name(isa),
            count == 2 ? arguments[1] : "told");
        return 1;
    }
    check_products();
    check_quantisation();
    check_f16();
    check_rows();
    check_rotary();
    check_attentions();
    check_measurements();
    printf("%s: %zu comparisons with portable, %zu different\n", tk_isa_name(isa), compared, different);
    return different == 0 ? 0 : 1;
}
