// Sizes of formats, panels and activation rows.
#include "layout.h"

static const struct {
    uint16_t block;
    uint16_t bytes;
    tk_activation activation;
} formats[TK_FORMAT_COUNT] = {
    [TK_FORMAT_F32] = {1, 4, TK_ACTIVATION_F32},
    [TK_FORMAT_F16] = {1, 2, TK_ACTIVATION_F32},
    [TK_FORMAT_BF16] = {1, 2, TK_ACTIVATION_F32},
    [TK_FORMAT_Q8_0] = {32, 34, TK_ACTIVATION_A8_32},
    [TK_FORMAT_Q4_0] = {32, 18, TK_ACTIVATION_A8_32},
    [TK_FORMAT_Q4_K] = {256, 144, TK_ACTIVATION_A8_256},
    [TK_FORMAT_Q5_K] = {256, 176, TK_ACTIVATION_A8_256},
    [TK_FORMAT_Q6_K] = {256, 210, TK_ACTIVATION_A8_256},
};

static bool known(tk_format format) { return (unsigned)format < TK_FORMAT_COUNT; }

size_t tk_block_size(tk_format format) { return known(format) ? formats[format].block : 0; }

size_t tk_block_bytes(tk_format format) { return known(format) ? formats[format].bytes : 0; }

tk_activation tk_activation_for(tk_format format) {
    return known(format) ? formats[format].activation : TK_ACTIVATION_F32;
}

size_t tk_row_bytes(tk_format format, size_t columns) {
    return known(format) ? columns / formats[format].block * formats[format].bytes : 0;
}

size_t tk_panel_bytes(tk_format format, size_t columns) {
    const size_t blocks = known(format) ? columns / formats[format].block : 0;
    switch (format) {
        case TK_FORMAT_Q8_0:
            return tk_scale_section(blocks) + blocks * TK_Q8_0_GROUPS;
        case TK_FORMAT_Q4_0:
            return tk_scale_section(blocks) + blocks * TK_Q4_0_GROUPS;
        case TK_FORMAT_Q4_K:
            return blocks * TK_Q4_K_BYTES;
        case TK_FORMAT_Q5_K:
            return blocks * TK_Q5_K_BYTES;
        case TK_FORMAT_Q6_K:
            return tk_scale_section(blocks) + blocks * TK_Q6_K_BYTES;
        default:
            return TK_PANEL_ROWS * tk_row_bytes(format, columns);
    }
}

size_t tk_panel_count(size_t rows) { return (rows + TK_PANEL_ROWS - 1) / TK_PANEL_ROWS; }

size_t tk_down_parts(tk_format format, size_t columns) {
    const size_t block = tk_block_size(format);
    for (size_t parts = 4; parts > 1; parts /= 2) {
        if (block != 0 && columns % (parts * block) == 0) {
            return parts;
        }
    }
    return 1;
}

size_t tk_activation_block(tk_activation activation) {
    switch (activation) {
        case TK_ACTIVATION_A8_32:
            return 32;
        case TK_ACTIVATION_A8_256:
            return 256;
        default:
            return 1;
    }
}

size_t tk_encoded_row_bytes(tk_activation activation, size_t columns) {
    return activation == TK_ACTIVATION_F32 ? columns * 4 : columns + columns / tk_activation_block(activation) * 4;
}

size_t tk_prepared_row_bytes(tk_activation activation, size_t columns) {
    if (activation == TK_ACTIVATION_F32) {
        return columns * 4;
    }
    const size_t blocks = columns / tk_activation_block(activation);
    if (activation == TK_ACTIVATION_A8_32) {
        return (tk_prepared_sums(columns, blocks) + blocks * TK_SUMS_A8_32 + 63) / 64 * 64;
    }
    // An odd number of lines: otherwise the same piece of many rows would lie in few sets of the first-level cache.
    return ((columns / 64 * TK_PIECE_BYTES + blocks * 4 + 63) / 64 | 1) * 64;
}

void tk_decode_row(tk_activation activation, const void *encoded, size_t columns, float *out) {
    if (activation == TK_ACTIVATION_F32) {
        memcpy(out, encoded, columns * 4);
        return;
    }
    const int8_t *quants = encoded;
    const size_t block = tk_activation_block(activation);
    for (size_t b = 0; b < columns / block; ++b) {
        const float scale = tk_load_f32(quants + columns + b * 4);
        for (size_t i = b * block; i < (b + 1) * block; ++i) {
            out[i] = scale * (float)quants[i];
        }
    }
}

size_t tk_kv_page_bytes(size_t kv_heads, size_t head_dim) { return kv_heads * head_dim * 2 * TK_PAGE_TOKENS * 2; }

size_t tk_span_count(size_t tokens) { return (tokens + TK_SPAN_TOKENS - 1) / TK_SPAN_TOKENS; }

size_t tk_partial_floats(size_t head_dim) { return 16 + head_dim; }

size_t tk_attention_scratch_floats(size_t rows, size_t heads, size_t kv_heads, size_t head_dim) {
    return rows * (heads / kv_heads) * (TK_SPAN_TOKENS + 2 * tk_partial_floats(head_dim));
}
