// Weights to floats, as ggml's reference computes them (ggml-quants.c, dequantize_row_*), to the last bit.
#include "layout.h"

// The values of a super-block's sub-block j from the packed 6-bit scales and minima.
static void scale_and_minimum(const uint8_t *packed, size_t j, uint8_t *sc, uint8_t *m) {
    if (j < 4) {
        *sc = packed[j] & 63;
        *m = packed[j + 4] & 63;
    } else {
        *sc = (uint8_t)((packed[j + 4] & 15) | (packed[j - 4] >> 6 << 4));
        *m = (uint8_t)((packed[j + 4] >> 4) | (packed[j] >> 6 << 4));
    }
}

static void dequantise_block(tk_format format, const uint8_t *block, float *out) {
    switch (format) {
        case TK_FORMAT_F32:
            *out = tk_load_f32(block);
            break;
        case TK_FORMAT_F16:
            *out = tk_half_to_float(tk_load_u16(block));
            break;
        case TK_FORMAT_BF16:
            *out = tk_from_bits((uint32_t)tk_load_u16(block) << 16);
            break;
        case TK_FORMAT_Q8_0: {
            const float d = tk_half_to_float(tk_load_u16(block));
            for (size_t i = 0; i < 32; ++i) {
                out[i] = d * (float)(int8_t)block[2 + i];
            }
            break;
        }
        case TK_FORMAT_Q4_0: {
            const float d = tk_half_to_float(tk_load_u16(block));
            for (size_t i = 0; i < 16; ++i) {
                out[i] = d * (float)((block[2 + i] & 15) - 8);
                out[i + 16] = d * (float)((block[2 + i] >> 4) - 8);
            }
            break;
        }
        case TK_FORMAT_Q4_K:
        case TK_FORMAT_Q5_K: {
            const bool fifth = format == TK_FORMAT_Q5_K;
            const float d = tk_half_to_float(tk_load_u16(block));
            const float dmin = tk_half_to_float(tk_load_u16(block + 2));
            const uint8_t *high = block + 16, *low = fifth ? block + 48 : block + 16;
            for (size_t j = 0; j < 8; ++j) {
                uint8_t sc, m;
                scale_and_minimum(block + 4, j, &sc, &m);
                const float scale = d * (float)sc, minimum = dmin * (float)m;
                for (size_t i = 0; i < 32; ++i) {
                    const uint8_t byte = low[j / 2 * 32 + i];
                    const int nibble = j % 2 ? byte >> 4 : byte & 15;
                    const int q = nibble + (fifth ? (high[i] >> j & 1) << 4 : 0);
                    const float product = scale * (float)q;
                    out[j * 32 + i] = product - minimum;
                }
            }
            break;
        }
        case TK_FORMAT_Q6_K: {
            const uint8_t *low = block, *high = block + 128;
            const int8_t *scales = (const int8_t *)block + 192;
            const float d = tk_half_to_float(tk_load_u16(block + 208));
            for (size_t i = 0; i < 256; ++i) {
                const size_t half = i / 128, quarter = i / 32 % 4, l = i % 32;
                const uint8_t byte = low[half * 64 + quarter % 2 * 32 + l];
                const int nibble = quarter < 2 ? byte & 15 : byte >> 4;
                const int q = nibble + ((high[half * 32 + l] >> (2 * quarter) & 3) << 4) - 32;
                const float scale = d * (float)scales[i / 16];
                out[i] = scale * (float)q;
            }
            break;
        }
        default:
            break;
    }
}

void tk_dequantise_row(tk_format format, const void *row, size_t columns, float *out) {
    const size_t block = tk_block_size(format), bytes = tk_block_bytes(format);
    for (size_t b = 0; block != 0 && b < columns / block; ++b) {
        dequantise_block(format, (const uint8_t *)row + b * bytes, out + b * block);
    }
}

// Copies bytes first ..< first + count of row r's field, of which a panel's groups hold 4 for each row.
static void gather(const uint8_t *groups, size_t r, size_t count, uint8_t *out) {
    for (size_t i = 0; i < count; ++i) {
        out[i] = groups[i / 4 * 64 + r * 4 + i % 4];
    }
}

// The 32 bytes of qh, transposed as 8 x 8 bits: byte 4m + j has bit m of bytes j, 4 + j, ..., 28 + j. Its own inverse.
static void transpose_fifths(uint8_t *qh) {
    for (size_t j = 0; j < 4; ++j) {
        uint8_t bits[8] = {0};
        for (size_t m = 0; m < 8; ++m) {
            for (size_t v = 0; v < 8; ++v) {
                bits[m] |= (uint8_t)((qh[4 * v + j] >> m & 1) << v);
            }
        }
        for (size_t m = 0; m < 8; ++m) {
            qh[4 * m + j] = bits[m];
        }
    }
}

// Row r's block b as it was before the panel was made: the inverse of the interleaving.
static void extract_block(tk_format format, const uint8_t *panel, size_t blocks, size_t b, size_t r, uint8_t *block) {
    const uint8_t *groups = panel + tk_scale_section(blocks);
    switch (format) {
        case TK_FORMAT_Q8_0:
            memcpy(block, panel + b * 32 + r * 2, 2);
            gather(groups + b * TK_Q8_0_GROUPS, r, 32, block + 2);
            break;
        case TK_FORMAT_Q4_0:
            memcpy(block, panel + b * 32 + r * 2, 2);
            gather(groups + b * TK_Q4_0_GROUPS, r, 16, block + 2);
            break;
        case TK_FORMAT_Q4_K:
        case TK_FORMAT_Q5_K: {
            const bool fifth = format == TK_FORMAT_Q5_K;
            const uint8_t *source = panel + b * (fifth ? TK_Q5_K_BYTES : TK_Q4_K_BYTES);
            memcpy(block, source + r * 2, 2);
            memcpy(block + 2, source + TK_K_DMIN + r * 2, 2);
            for (size_t i = 0; i < 12; ++i) {
                block[4 + i] = source[TK_K_SCALES + i * 16 + r];
            }
            if (!fifth) {
                gather(source + TK_K_HEADER, r, 128, block + 16);
                break;
            }
            for (size_t c = 0; c < 4; ++c) {
                const uint8_t *chunk = source + TK_K_HEADER + c * TK_Q5_K_CHUNK;
                gather(chunk, r, 8, block + 16 + c * 8);
                gather(chunk + TK_Q5_K_LOW, r, 32, block + 48 + c * 32);
            }
            transpose_fifths(block + 16);
            break;
        }
        case TK_FORMAT_Q6_K: {
            const uint8_t *source = groups + b * TK_Q6_K_BYTES;
            for (size_t n = 0; n < 2; ++n) {
                for (size_t s = 0; s < 2; ++s) {
                    const uint8_t *chunk = source + TK_Q6_K_SCALES + (2 * n + s) * TK_Q6_K_CHUNK;
                    for (size_t u = 0; u < 4; ++u) {
                        const uint8_t *quad = chunk + u * TK_Q6_K_QUAD;
                        gather(quad, r, 4, block + 128 + n * 32 + s * 16 + u * 4);
                        gather(quad + TK_Q6_K_LOW, r, 4, block + n * 64 + s * 16 + u * 4);
                        gather(quad + TK_Q6_K_LOW + 64, r, 4, block + n * 64 + 32 + s * 16 + u * 4);
                    }
                }
            }
            for (size_t i = 0; i < 16; ++i) {
                block[192 + i] = source[i * 16 + r];
            }
            memcpy(block + 208, panel + b * 32 + r * 2, 2);
            break;
        }
        default: {
            const size_t bytes = tk_block_bytes(format);
            memcpy(block, panel + (b * 16 + r) * bytes, bytes);
            break;
        }
    }
}

void tk_dequantise_panel(
    tk_format format, const void *panel, size_t columns, size_t rows, float *out, size_t out_stride) {
    const size_t block = tk_block_size(format);
    const size_t blocks = block == 0 ? 0 : columns / block;
    for (size_t r = 0; r < rows; ++r) {
        for (size_t b = 0; b < blocks; ++b) {
            uint8_t bytes[256];
            extract_block(format, panel, blocks, b, r, bytes);
            dequantise_block(format, bytes, out + r * out_stride + b * block);
        }
    }
}

void tk_bf16_to_f32(const uint16_t *in, size_t n, float *out) {
    for (size_t i = 0; i < n; ++i) {
        out[i] = tk_from_bits((uint32_t)in[i] << 16);
    }
}
