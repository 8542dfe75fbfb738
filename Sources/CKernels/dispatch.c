// Which instruction sets there are, and the calls into them.
#include "table.h"

static const tk_table *table(tk_isa isa) {
    switch (tk_isa_available(isa) ? isa : TK_ISA_PORTABLE) {
        default:
            return &tk_table_portable;
    }
}

bool tk_isa_available(tk_isa isa) {
    switch (isa) {
        case TK_ISA_PORTABLE:
            return true;
        default:
            return false;
    }
}

tk_isa tk_isa_best(void) {
    tk_isa best = TK_ISA_PORTABLE;
    for (int isa = 0; isa < TK_ISA_COUNT; ++isa) {
        if (tk_isa_available((tk_isa)isa)) {
            best = (tk_isa)isa;
        }
    }
    return best;
}

const char *tk_isa_name(tk_isa isa) {
    static const char *const names[TK_ISA_COUNT] = {"portable", "avx2", "avx512", "avx512vnni"};
    return (unsigned)isa < TK_ISA_COUNT ? names[isa] : "unknown";
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

bool tk_all_finite(tk_isa isa, const float *x, size_t n) { return table(isa)->all_finite(x, n); }

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
    tk_isa isa, const tk_kv_view *kv, const float *q, size_t heads, size_t tokens, size_t kv_head_begin,
    size_t kv_head_end, float *scratch, float *out) {
    table(isa)->attention(kv, q, heads, tokens, kv_head_begin, kv_head_end, scratch, out);
}

void tk_attention_span(
    tk_isa isa, const tk_kv_view *kv, const float *q, size_t heads, size_t tokens, size_t kv_head, size_t span,
    float *scratch, float *partial) {
    table(isa)->attention_span(kv, q, heads, tokens, kv_head, span, scratch, partial);
}

void tk_attention_merge(tk_isa isa, float *partials, size_t spans, size_t group, size_t head_dim, float *out) {
    table(isa)->attention_merge(partials, spans, group, head_dim, out);
}
