// Which instruction sets there are, and the calls into them.
#include "table.h"

#if defined(__x86_64__)
#include <cpuid.h>
#elif defined(__aarch64__)
#include <sys/auxv.h>
#endif

bool tk_reads_in_order = false;

#if defined(__x86_64__)
static bool made_by_amd(void) {
    uint32_t a, b, c, d;
    return __get_cpuid(0, &a, &b, &c, &d) != 0 && b == signature_AMD_ebx && c == signature_AMD_ecx;
}

__attribute__((constructor)) static void know_the_vendor(void) {
    tk_reads_in_order = made_by_amd();
}
#endif

// Null where the build does not have the instruction set.
static const tk_table *const tables[TK_ISA_COUNT] = {
    [TK_ISA_PORTABLE] = &tk_table_portable,
#if defined(__x86_64__)
    [TK_ISA_AVX2] = &tk_table_avx2,
    [TK_ISA_AVX512] = &tk_table_avx512,
    [TK_ISA_AVX512VNNI] = &tk_table_avx512vnni,
    [TK_ISA_AVX512VNNI_WIDE] = &tk_table_avx512vnni_wide,
#elif defined(__aarch64__)
    [TK_ISA_NEON] = &tk_table_neon,
#endif
};

#if defined(__x86_64__)

// What processor and operating system both support: the latter must save the registers (XCR0).
static bool supported(tk_isa isa) {
    uint32_t a, b, c, d;
    if (__get_cpuid(1, &a, &b, &c, &d) == 0) {
        return false;
    }
    const uint32_t osxsave = 1u << 27, fma = 1u << 12, f16c = 1u << 29;
    if ((c & (osxsave | fma | f16c)) != (osxsave | fma | f16c)) {
        return false;
    }
    uint32_t enabled, upper;
    __asm__("xgetbv" : "=a"(enabled), "=d"(upper) : "c"(0));
    if (__get_cpuid_count(7, 0, &a, &b, &c, &d) == 0) {
        return false;
    }
    const uint32_t avx2 = 1u << 5, vnni = 1u << 11;
    const uint32_t avx512 = 1u << 16 | 1u << 17 | 1u << 30 | 1u << 31;  // F, DQ, BW, VL
    const bool has_avx2 = (enabled & 0x6) == 0x6 && (b & avx2) != 0;
    const bool has_avx512 = has_avx2 && (enabled & 0xe6) == 0xe6 && (b & avx512) == avx512;
    switch (isa) {
        case TK_ISA_AVX2:
            return has_avx2;
        case TK_ISA_AVX512:
            return has_avx512;
        case TK_ISA_AVX512VNNI:
        case TK_ISA_AVX512VNNI_WIDE:
            return has_avx512 && (c & vnni) != 0;
        default:
            return false;
    }
}

#elif defined(__aarch64__)

// NEON itself belongs to every 64-bit Arm processor.
static bool supported(tk_isa isa) { return isa == TK_ISA_NEON && (getauxval(AT_HWCAP) & HWCAP_ASIMDDP) != 0; }

#else

static bool supported(tk_isa isa) {
    (void)isa;
    return false;
}

#endif

bool tk_isa_available(tk_isa isa) {
    return isa == TK_ISA_PORTABLE || ((unsigned)isa < TK_ISA_COUNT && tables[isa] != NULL && supported(isa));
}

tk_isa tk_isa_best(void) {
    tk_isa best = TK_ISA_PORTABLE;
    for (int isa = 0; isa < TK_ISA_COUNT; ++isa) {
        if (tk_isa_available((tk_isa)isa)) {
            best = (tk_isa)isa;
        }
    }
#if defined(__x86_64__)
    if (best == TK_ISA_AVX512VNNI_WIDE && !made_by_amd()) {
        best = TK_ISA_AVX512VNNI;
    }
#endif
    return best;
}

const char *tk_isa_name(tk_isa isa) {
    static const char *const names[TK_ISA_COUNT] = {"portable", "avx2",            "avx512",
                                                    "avx512vnni", "avx512vnni-wide", "neon"};
    return (unsigned)isa < TK_ISA_COUNT ? names[isa] : "unknown";
}

// Callers choose once, with tk_isa_available: CPUID is far too slow to ask in every call.
static const tk_table *table(tk_isa isa) {
    const tk_table *const chosen = (unsigned)isa < TK_ISA_COUNT ? tables[isa] : NULL;
    return chosen != NULL ? chosen : &tk_table_portable;
}

void tk_matmul(
    tk_isa isa, tk_format format, const void *panels, size_t columns, size_t rows_total, size_t panel_begin,
    size_t panel_end, const void *activations, size_t activation_stride, size_t count, size_t parts, float *out,
    size_t out_stride) {
    table(isa)->matmul(
        format, panels, columns, rows_total, panel_begin, panel_end, activations, activation_stride, count, parts, out,
        out_stride);
}

void tk_matmul_gate_up(
    tk_isa isa, tk_format format, const void *gate_panels, const void *up_panels, size_t columns, size_t rows_total,
    size_t panel_begin, size_t panel_end, const void *activations, size_t activation_stride, size_t count, float *out,
    size_t out_stride) {
    table(isa)->matmul_gate_up(
        format, gate_panels, up_panels, columns, rows_total, panel_begin, panel_end, activations, activation_stride,
        count, out, out_stride);
}

void tk_quantise(tk_isa isa, tk_activation activation, const float *row, size_t columns, void *encoded) {
    table(isa)->quantise(activation, row, columns, encoded);
}

void tk_prepare(
    tk_isa isa, tk_activation activation, const void *encoded, size_t encoded_stride, size_t columns, size_t count,
    void *prepared) {
    table(isa)->prepare(activation, encoded, encoded_stride, columns, count, prepared);
}

void tk_exp(tk_isa isa, const float *in, size_t n, float *out) { table(isa)->exponential(in, n, out); }

void tk_silu_multiply(tk_isa isa, const float *gate, const float *up, size_t n, float *out) {
    table(isa)->silu_multiply(gate, up, n, out);
}

void tk_rmsnorm(tk_isa isa, const float *x, const float *weight, size_t n, float epsilon, float *out) {
    table(isa)->rmsnorm(x, weight, n, epsilon, out);
}

void tk_softmax(tk_isa isa, float *x, size_t n) { table(isa)->softmax(x, n); }

void tk_add(tk_isa isa, float *x, const float *y, size_t n) { table(isa)->add(x, y, n); }

void tk_scale(tk_isa isa, const float *x, float factor, size_t n, float *out) {
    table(isa)->scale(x, factor, n, out);
}

void tk_combine(
    tk_isa isa, float *x, const float *const *outputs, const float *weights, size_t count, size_t n) {
    table(isa)->combine(x, outputs, weights, count, n);
}

bool tk_all_finite(tk_isa isa, const void *x, size_t n) { return table(isa)->all_finite(x, n); }

void tk_f32_to_f16(tk_isa isa, const float *in, size_t n, uint16_t *out) { table(isa)->f32_to_f16(in, n, out); }

void tk_f16_to_f32(tk_isa isa, const uint16_t *in, size_t n, float *out) { table(isa)->f16_to_f32(in, n, out); }

void tk_route(
    tk_isa isa, const float *logits, size_t experts, size_t used, float *scratch, int32_t *chosen, float *weights) {
    table(isa)->route(logits, experts, used, scratch, chosen, weights);
}

void tk_rotary_apply(
    tk_isa isa, float *row, size_t heads, size_t head_dim, const float *cosines, const float *sines) {
    table(isa)->rotary_apply(row, heads, head_dim, cosines, sines);
}

void tk_kv_store(tk_isa isa, const tk_kv_view *kv, size_t position, const float *keys, const float *values) {
    table(isa)->kv_store(kv, position, keys, values);
}

void tk_attention(
    tk_isa isa, const tk_kv_view *kv, const float *q, size_t q_stride, size_t rows, size_t heads, size_t tokens,
    size_t kv_head_begin, size_t kv_head_end, float *scratch, float *out, size_t out_stride) {
    table(isa)->attention(
        kv, q, q_stride, rows, heads, tokens, kv_head_begin, kv_head_end, scratch, out, out_stride);
}

void tk_attention_span(
    tk_isa isa, const tk_kv_view *kv, const float *q, size_t heads, size_t tokens, size_t kv_head, size_t span,
    float *scratch, float *partial) {
    table(isa)->attention_span(kv, q, heads, tokens, kv_head, span, scratch, partial);
}

void tk_attention_merge(tk_isa isa, float *partials, size_t spans, size_t group, size_t head_dim, float *out) {
    table(isa)->attention_merge(partials, spans, group, head_dim, out);
}
