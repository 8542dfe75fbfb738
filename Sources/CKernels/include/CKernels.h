// CKernels: all arithmetic of Tramontane, and nothing else.
//
// This header is the contract of the numerics (version 2): what every operation computes, in which order of
// floating-point operations, and how weights and activations lie in memory. The portable implementation is the
// specification; every other instruction set gives the same bits (where a result is NaN its payload may differ).
//
// Rules that hold for every function here
// - Nothing is allocated, nothing is global and mutable: any thread may call anything, scratch comes from the caller.
// - `isa` is an instruction set for which `tk_isa_available` is true; the caller asks once and keeps it. One that this
//   build does not have means portable; one that the processor does not have is an illegal instruction.
// - Counts are trusted: the caller has checked shapes against buffers. Contents are not: any bytes are harmless.
// - Pointers to floats are aligned to 4 bytes; 64 is faster. Weights may lie anywhere. Sizes are in bytes if named so.
// - fp contraction is off, fused multiply-adds are explicit: fma(a, b, c) rounds once. No flush to zero.
//
// Sums over a vector ("16-lane strided tree"): lane l of 16 starts at 0 and takes the elements i with i mod 16 = l in
// order; then for w in 8, 4, 2, 1: lane l += lane l + w. Lane 0 is the sum.
#ifndef TRAMONTANE_CKERNELS_H
#define TRAMONTANE_CKERNELS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __clang__
#pragma clang assume_nonnull begin
#else
#define _Nonnull
#endif

#ifdef __cplusplus
extern "C" {
#endif

// Version of the order of operations below. It changes with any change of a result's bits.
#define TK_NUMERICS_VERSION 2

// ---------------------------------------------------------------------------------------------------------------------
// Instruction sets

typedef enum tk_isa {
    TK_ISA_PORTABLE = 0,
    TK_ISA_AVX2 = 1,        // AVX2, FMA, F16C
    TK_ISA_AVX512 = 2,      // AVX-512 F, BW, VL, DQ
    TK_ISA_AVX512VNNI = 3,  // the same with VNNI
    TK_ISA_AVX512VNNI_WIDE = 4,  // the same where int32s are multiplied as fast as int16s: AMD's processors
    TK_ISA_NEON = 5,        // NEON of Armv8.2 with the dot product
    TK_ISA_COUNT = 6,
} tk_isa;

// Whether this build and this processor (and its operating system) have `isa`.
bool tk_isa_available(tk_isa isa);
// The fastest that is available.
tk_isa tk_isa_best(void);
// "portable", "avx2", "avx512", "avx512vnni", "avx512vnni-wide", "neon"; "unknown" otherwise.
const char *tk_isa_name(tk_isa isa);

// One look's pause, for a thread that looks again and again for what another one writes.
static inline void tk_pause(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("isb");
#endif
}

// ---------------------------------------------------------------------------------------------------------------------
// Weight formats and panels
//
// Blocks are ggml's. A matrix has `rows` outputs and `columns` inputs (k), columns is a multiple of the block.
//
//   format  block  bytes  fields of a block (f16 little-endian)              value
//   f32         1      4
//   f16         1      2
//   bf16        1      2                                                     upper half of an f32
//   q8_0       32     34  d f16, qs[32] int8                                 d*q
//   q4_0       32     18  d f16, qs[16]: low nibbles k 0-15, high 16-31      d*(q-8)
//   q4_K      256    144  d, dmin f16, scales[12], qs[128]                   d*sc*q - dmin*m
//   q5_K      256    176  d, dmin f16, scales[12], qh[32], qs[128]           d*sc*q - dmin*m
//   q6_K      256    210  ql[128], qh[64], scales[16] int8, d f16            d*sc*(q-32)
//
// Panel layout, version 3. Matrices that are multiplied are stored as panels of 16 rows (the last one is padded with
// zero bytes). Panel p holds rows 16p...16p+15; all panels of a matrix have the same size, tk_panel_bytes. A vector
// register then holds the same k of many rows, so a product needs no sums across lanes:
//
//             k=0        k=1              one 64-byte group of a quantised format (4 values of k, 16 rows):
//   f32:  r0 r1 ... r15 | r0 r1 ...        byte  0 1 2 3   4 5 6 7   ...  60 61 62 63
//   (16 values for each k)                 row   0 0 0 0   1 1 1 1   ...  15 15 15 15
//                                          j     0 1 2 3   0 1 2 3   ...   0  1  2  3
//
//   f32 f16 bf16   for each k: 16 values, r = 0...15
//   q8_0   +------ d: 16 f16 for each block, padded to a multiple of 64 bytes ------+
//          +------ for each block 512 bytes: for g in 0...7: group of quants 32b+4g+j ------+
//   q4_0   +------ d as in q8_0 ------+
//          +------ for each block 256 bytes: for v in 0...3: group of qs[4v+j] ------+
//   q4_K   for each super-block (2304 bytes):
//          | 16 d | 16 dmin | scales[0] of 16 rows | ... | scales[11] of 16 rows |   256 bytes
//          | for c in 0...3, v in 0...7: group of qs[32c+4v+j] |                     2048 bytes
//   q5_K   for each super-block (2816 bytes): the header of q4_K, then for c in 0...3
//          | two groups of fifth bits | for v in 0...7: group of qs[32c+4v+j] |      128 + 512 bytes
//          bit v of byte j of the group w in 0...1 is the fifth bit of value 64c+32w+4v+j, which is bit 2c+w of qh[4v+j]
//   q6_K   +------ d: 16 f16 for each super-block, padded to a multiple of 64 bytes ------+
//          +------ for each super-block 256 + 3072 bytes: scales[i] of 16 rows for i in 0...15, then for n, s in 0...1, u in 0...3
//                  | group of qh[32n+16s+4u+j] | group of ql[64n+16s+4u+j] | group of ql[64n+32+16s+4u+j] | ------+
//
// To add a format: an entry in the tables of formats.c and its layout here; in products.h a core (for a format of
// super-blocks: `open_...`, which finds a block and its scales, how `multipliers_of` and `pairs_of` read its multipliers,
// `direct_...`, `unpack_...` and `shared_...` tiles) and its row in `cores`; its dequantisation in dequantise.c; its name in
// KernelsTests.

typedef enum tk_format {
    TK_FORMAT_F32 = 0,
    TK_FORMAT_F16 = 1,
    TK_FORMAT_BF16 = 2,
    TK_FORMAT_Q8_0 = 3,
    TK_FORMAT_Q4_0 = 4,
    TK_FORMAT_Q4_K = 5,
    TK_FORMAT_Q5_K = 6,
    TK_FORMAT_Q6_K = 7,
    TK_FORMAT_COUNT = 8,
} tk_format;

enum { TK_PANEL_ROWS = 16 };

// Values in a block (1, 32 or 256) and bytes of a block; 0 for an unknown format.
size_t tk_block_size(tk_format format);
size_t tk_block_bytes(tk_format format);
// Bytes of a row-major row of `columns` values.
size_t tk_row_bytes(tk_format format, size_t columns);
// Bytes of a panel of 16 rows.
size_t tk_panel_bytes(tk_format format, size_t columns);
// Panels of a matrix: rows / 16, rounded up.
size_t tk_panel_count(size_t rows);
// Parts of the inner dimension of an expert's down projection: 4, or 2, or 1 where a part would not be whole blocks.
size_t tk_down_parts(tk_format format, size_t columns);

// Values of one row-major row (embedding lookup), as ggml's reference dequantises them, to the last bit.
void tk_dequantise_row(tk_format format, const void *row, size_t columns, float *out);
// The first `rows` (1...16) rows of a panel; row r goes to out + r * out_stride (in floats).
void tk_dequantise_panel(
    tk_format format, const void *panel, size_t columns, size_t rows, float *out, size_t out_stride);

// ---------------------------------------------------------------------------------------------------------------------
// Activations
//
// An encoded row is what crosses the wire and what quantisation gives: int8 x columns, then f32 x columns/block scales
// (f32: the plain row). Quantisation of a block: amax = max |x|; scale = amax / 127; inv = 127 / amax;
// q = round to nearest even (x * inv), kept within -127...127. A block with amax < 2^-100 is zeros with scale 0.
//
// A prepared row is what products read: the encoded row and sums of its int8 values, a multiple of 64 bytes. Opaque (layout.h);
// made by tk_prepare in the caller's scratch. A byte -128, which only a faulty peer sends, is taken as -127.

typedef enum tk_activation {
    TK_ACTIVATION_F32 = 0,
    TK_ACTIVATION_A8_32 = 1,   // scale for 32 values: q8_0, q4_0
    TK_ACTIVATION_A8_256 = 2,  // scale for 256 values: q4_K, q5_K, q6_K
} tk_activation;

// What products with weights of `format` take.
tk_activation tk_activation_for(tk_format format);
size_t tk_activation_block(tk_activation activation);
size_t tk_encoded_row_bytes(tk_activation activation, size_t columns);
size_t tk_prepared_row_bytes(tk_activation activation, size_t columns);

// One f32 row (columns a multiple of the block) to an encoded row.
void tk_quantise(tk_isa isa, tk_activation activation, const float *row, size_t columns, void *encoded);
// `count` encoded rows, `encoded_stride` bytes apart, any alignment, to prepared rows, tk_prepared_row_bytes apart.
void tk_prepare(
    tk_isa isa, tk_activation activation, const void *encoded, size_t encoded_stride, size_t columns, size_t count,
    void *prepared);
// An encoded row back to floats: scale * q.
void tk_decode_row(tk_activation activation, const void *encoded, size_t columns, float *out);

// ---------------------------------------------------------------------------------------------------------------------
// Products: out[i][r] = sum over k of weight[r][k] * activation[i][k]
//
// Canonical order, for each output alone; acc starts at 0; no dependence on the other rows, panels or threads:
//   f32 f16 bf16   acc = fma(w_k, x_k, acc), k in order.
//   q8_0 q4_0      for each block: isum = sum q*a, an exact int32 (q-8 for q4_0);
//                  acc = fma(float(isum), d * scale, acc).
//   q4_K q5_K      for each super-block: isum = sum over the 8 sub-blocks of sc * sum q*a, msum = sum of m * sum a,
//                  exact int32s; acc = fma(float(isum), d * scale, acc); acc = fma(float(msum), -(dmin * scale), acc).
//   q6_K           isum = sum over the 16 sub-blocks of sc * sum (q-32)*a; acc = fma(float(isum), d * scale, acc).
// With parts = 2 or 4, the blocks are cut into that many equal runs; each has its own acc; the result is p0+p1 or
// (p0+p1)+(p2+p3).
//
//   panels              the matrix's first panel
//   rows_total          rows of the matrix; outputs of padding rows are not written
//   panel_begin, _end   the panels to compute, so that threads share the work
//   activations         f32: rows activation_stride bytes apart; else prepared rows with activation_stride =
//                       tk_prepared_row_bytes
//   count               activation rows, 0 or more
//   out                 output r of activation row i is out[i * out_stride + r] (out_stride in floats)

void tk_matmul(
    tk_isa isa, tk_format format, const void *panels, size_t columns, size_t rows_total, size_t panel_begin,
    size_t panel_end, const void *activations, size_t activation_stride, size_t count, size_t parts, float *out,
    size_t out_stride);

// Gate and up of an expert in one pass, same shapes and format: out = silu(gate) * up.
void tk_matmul_gate_up(
    tk_isa isa, tk_format format, const void *gate_panels, const void *up_panels, size_t columns, size_t rows_total,
    size_t panel_begin, size_t panel_end, const void *activations, size_t activation_stride, size_t count, float *out,
    size_t out_stride);

// ---------------------------------------------------------------------------------------------------------------------
// Elementary functions
//
// Single precision: within 2 ulp (exp, denormal results included) and 4 ulp (silu). Double precision: within 1e-14
// relative, or absolute for sine and cosine of |x| <= 2^30; they feed tables and statistics, not inner loops.

// out_i = exp(in_i); NaN stays NaN. in and out may be the same.
void tk_exp(tk_isa isa, const float *in, size_t n, float *out);
// out_i = silu(gate_i) * up_i with silu(x) = x / (1 + exp(-x)).
void tk_silu_multiply(tk_isa isa, const float *gate, const float *up, size_t n, float *out);
double tk_exp_f64(double x);
double tk_log_f64(double x);
double tk_sin_f64(double x);
double tk_cos_f64(double x);
// base > 0: exp(exponent * log(base)).
double tk_pow_f64(double base, double exponent);

// ---------------------------------------------------------------------------------------------------------------------
// Vectors

// scale = 1 / sqrt(sum x_i^2 / n + epsilon), the sum by fma(x, x, lane) in the strided tree;
// out_i = (x_i * scale) * weight_i. out may be x.
void tk_rmsnorm(tk_isa isa, const float *x, const float *weight, size_t n, float epsilon, float *out);
// In place: exp(x_i - max) / sum, the sum in the strided tree. n >= 1.
void tk_softmax(tk_isa isa, float *x, size_t n);
// x_i += y_i
void tk_add(tk_isa isa, float *x, const float *y, size_t n);
// out_i = x_i * factor
void tk_scale(tk_isa isa, const float *x, float factor, size_t n, float *out);
// The mixture's sum: y = outputs[0] * weights[0] (rounded), then y + outputs[e] * weights[e] in order, then x += y.
void tk_combine(
    tk_isa isa, float *x, const float *_Nonnull const *_Nonnull outputs, const float *weights, size_t count, size_t n);
// Whether none of n floats is infinite or NaN. They may lie anywhere.
bool tk_all_finite(tk_isa isa, const void *x, size_t n);

// Round to nearest even. NaN keeps its sign and upper payload bits and becomes quiet, as the hardware does it.
void tk_f32_to_f16(tk_isa isa, const float *in, size_t n, uint16_t *out);
void tk_f16_to_f32(tk_isa isa, const uint16_t *in, size_t n, float *out);
void tk_bf16_to_f32(const uint16_t *in, size_t n, float *out);

// Router: softmax over `experts` logits, the `used` best (equal: lower index first; NaN last), best first; weights are
// p / sum of the chosen p (added in that order). 1 <= used <= experts. scratch: `experts` floats.
void tk_route(
    tk_isa isa, const float *logits, size_t experts, size_t used, float *scratch, int32_t *chosen, float *weights);

// ---------------------------------------------------------------------------------------------------------------------
// Rotary position embedding, half-split pairs (i, i + head_dim/2)

// cos and sin of (position * theta^(-2i/head_dim)), in double, rounded to f32:
// [count][head_dim / 2] for positions position_begin, position_begin + 1, ...
void tk_rotary_table(
    double theta, size_t head_dim, size_t position_begin, size_t count, float *cosines, float *sines);
// In place on `heads` heads of one row. cosines, sines: the head_dim/2 values of the row's position.
// x_i = fma(x_i, c, -(x_h * s)), x_h = fma(x_h, c, x_i * s).
void tk_rotary_apply(
    tk_isa isa, float *row, size_t heads, size_t head_dim, const float *cosines, const float *sines);

// ---------------------------------------------------------------------------------------------------------------------
// Attention over pages of 32 tokens
//
// One page of one layer, all f16: for each kv head K then V.
//
//   | head 0: K [head_dim][32] | head 0: V [32][head_dim] | head 1: K ... |     tk_kv_page_bytes bytes
//
// K is transposed so that a vector holds one dimension of 16 tokens; V is not, so that it holds 16 dimensions of a
// token: no sums across lanes in either product.

enum { TK_PAGE_TOKENS = 32, TK_SPAN_PAGES = 16, TK_SPAN_TOKENS = 512 };

// One sequence's pages in one layer's pool: token t lies in page pages[t / 32], at base + pages[t / 32] * page_stride.
typedef struct tk_kv_view {
    void *base;
    size_t page_stride;    // bytes from page to page
    const int32_t *pages;  // page numbers, first token first
    size_t kv_heads;
    size_t head_dim;  // even
} tk_kv_view;

size_t tk_kv_page_bytes(size_t kv_heads, size_t head_dim);

// Stores one token's keys and values, each [kv_heads][head_dim], rounded to f16 (nearest even).
void tk_kv_store(tk_isa isa, const tk_kv_view *kv, size_t position, const float *keys, const float *values);

// Attention of `rows` query rows of one sequence that follow each other. The first attends to the first `tokens` (>= 1:
// its position + 1) tokens, row i to the first tokens + i. A page is read from memory once for all of them; the result of
// a row is the same as alone.
//
// Canonical order, for each query head; group = heads / kv_heads consecutive query heads share a kv head. A span is 512
// tokens (16 pages) from position 0. In a span, t from its start, invisible tokens skipped:
//   score_t = (sum of fma(q_d, K[d][t], .) over d in order, from 0) * (1 / sqrt(head_dim))
//   m = max score_t; p_t = w(score_t - m); l = sum p_t in the strided tree; o_d = fma(p_t, V[t][d], o_d), t in order
// Spans merge in order, starting with the first: M = max(m, m'); c = w(m - M); c' = w(m' - M);
//   l = fma(l, c, l' * c'); o = fma(o, c, o' * c'). The result is o_d / l.
// w(x) = exp(x), but 0 where x < -69: exp(-69) is above 2^-100 and the smallest f16 is 2^-24, so no p_t * V[t][d] is
// denormal. Processors take a hundred cycles for a multiply-add with a denormal number, and nobody can see what is left out.
//
// Computes the kv heads kv_head_begin ..< kv_head_end, that is the query heads group * kv_head_begin ..< group *
// kv_head_end, of q and out: row i is [heads][head_dim] at q + i * q_stride and out + i * out_stride (in floats).
// scratch: tk_attention_scratch_floats floats.
size_t tk_attention_scratch_floats(size_t rows, size_t heads, size_t kv_heads, size_t head_dim);
void tk_attention(
    tk_isa isa, const tk_kv_view *kv, const float *q, size_t q_stride, size_t rows, size_t heads, size_t tokens,
    size_t kv_head_begin, size_t kv_head_end, float *scratch, float *out, size_t out_stride);

// The same for one row in pieces, so that spans run in parallel. A partial is, for each query head of the group, a record of
// tk_partial_floats floats: m, l, 14 unused, o[head_dim]; a span's partial is `group` records.
size_t tk_span_count(size_t tokens);
size_t tk_partial_floats(size_t head_dim);
// One span of one kv head. scratch: (heads / kv_heads) * 512 floats. q: [heads][head_dim].
void tk_attention_span(
    tk_isa isa, const tk_kv_view *kv, const float *q, size_t heads, size_t tokens, size_t kv_head, size_t span,
    float *scratch, float *partial);
// Merges `spans` >= 1 partials that lie span after span, and divides. out: [group][head_dim]. The first is overwritten.
void tk_attention_merge(tk_isa isa, float *partials, size_t spans, size_t group, size_t head_dim, float *out);

// ---------------------------------------------------------------------------------------------------------------------
// Measurements: what the processor can do at most, for benchmarks to be held against. They compute nothing.

// Loads `bytes` bytes (a multiple of 256) once, in vectors of `isa`. The result keeps the loads from being left out.
uint64_t tk_measure_read(tk_isa isa, const void *memory, size_t bytes);
// Multiply-adds of 4-bit weights and int8 activations, exact sums in int32, all in registers: the instructions of a
// product and nothing around them. Returns how many there were; they grow with `rounds`.
uint64_t tk_measure_integers(tk_isa isa, size_t rounds);
// The same with fused multiply-adds of float32.
uint64_t tk_measure_floats(tk_isa isa, size_t rounds);

#ifdef __cplusplus
}
#endif

#ifdef __clang__
#pragma clang assume_nonnull end
#endif

#endif
