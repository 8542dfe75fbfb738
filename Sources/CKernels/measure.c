// What the processor can do at most, in the instructions that the products use: the denominators of benchmarks.
#include "CKernels.h"

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

// Hides a register's or an array's content from the optimiser, so that equal work is not done once and for all.
#if defined(__aarch64__)
#define TK_OPAQUE(x) __asm__ volatile("" : "+w"(x))
#else
#define TK_OPAQUE(x) __asm__ volatile("" : "+x"(x))
#endif
#define TK_OPAQUE_WIDE(x) __asm__ volatile("" : "+v"(x))
#define TK_OPAQUE_MEMORY(p) __asm__ volatile("" : : "r"(p) : "memory")

// ---------------------------------------------------------------------------------------------------------------------
// Portable

static uint64_t read_portable(const uint8_t *memory, size_t bytes) {
    uint64_t sums[8] = {0};
    for (size_t i = 0; i < bytes; i += 64) {
        for (size_t j = 0; j < 8; ++j) {
            uint64_t word;
            __builtin_memcpy(&word, memory + i + 8 * j, 8);
            sums[j] ^= word;
        }
    }
    return sums[0] ^ sums[1] ^ sums[2] ^ sums[3] ^ sums[4] ^ sums[5] ^ sums[6] ^ sums[7];
}

static uint64_t integers_portable(size_t rounds) {
    uint8_t weights[64];
    int8_t activations[4] = {1, -2, 3, -4};
    int32_t sums[16] = {0};
    for (size_t i = 0; i < 64; ++i) {
        weights[i] = (uint8_t)(i & 15);
    }
    for (size_t round = 0; round < rounds; ++round) {
        TK_OPAQUE_MEMORY(weights);
        TK_OPAQUE_MEMORY(activations);
        for (size_t lane = 0; lane < 16; ++lane) {
            for (size_t j = 0; j < 4; ++j) {
                sums[lane] += weights[4 * lane + j] * activations[j];
            }
        }
    }
    TK_OPAQUE_MEMORY(sums);
    return rounds * 64;
}

static uint64_t floats_portable(size_t rounds) {
    float weights[16], sums[16] = {0}, activation = 0.5f;
    for (size_t lane = 0; lane < 16; ++lane) {
        weights[lane] = (float)lane;
    }
    for (size_t round = 0; round < rounds; ++round) {
        TK_OPAQUE_MEMORY(weights);
        for (size_t lane = 0; lane < 16; ++lane) {
            sums[lane] = __builtin_fmaf(weights[lane], activation, sums[lane]);
        }
    }
    TK_OPAQUE_MEMORY(sums);
    return rounds * 16;
}

#if defined(__x86_64__)

// ---------------------------------------------------------------------------------------------------------------------
// AVX2: products of 4-bit weights are added in 16 bits eight times before they are widened.

#define TK_AVX2 __attribute__((target("avx2,fma")))

TK_AVX2 static uint64_t read_avx2(const uint8_t *memory, size_t bytes) {
    __m256i sums[4] = {_mm256_setzero_si256(), _mm256_setzero_si256(), _mm256_setzero_si256(), _mm256_setzero_si256()};
    for (size_t i = 0; i < bytes; i += 128) {
        for (size_t j = 0; j < 4; ++j) {
            sums[j] = _mm256_xor_si256(sums[j], _mm256_loadu_si256((const void *)(memory + i + 32 * j)));
        }
    }
    uint64_t words[4];
    _mm256_storeu_si256(
        (void *)words, _mm256_xor_si256(_mm256_xor_si256(sums[0], sums[1]), _mm256_xor_si256(sums[2], sums[3])));
    return words[0] ^ words[1] ^ words[2] ^ words[3];
}

TK_AVX2 static uint64_t integers_avx2(size_t rounds) {
    enum { SUMS = 6, DOTS = 8 };
    __m256i weights = _mm256_set1_epi8(3), activations = _mm256_set1_epi8(-2), total[SUMS];
    for (size_t i = 0; i < SUMS; ++i) {
        total[i] = _mm256_setzero_si256();
    }
    for (size_t round = 0; round < rounds; ++round) {
        __m256i sums[SUMS];
        for (size_t i = 0; i < SUMS; ++i) {
            sums[i] = _mm256_setzero_si256();
        }
        for (size_t dot = 0; dot < DOTS; ++dot) {
            for (size_t i = 0; i < SUMS; ++i) {
                TK_OPAQUE(weights);
                sums[i] = _mm256_add_epi16(sums[i], _mm256_maddubs_epi16(weights, activations));
            }
        }
        for (size_t i = 0; i < SUMS; ++i) {
            total[i] = _mm256_add_epi32(total[i], _mm256_madd_epi16(sums[i], _mm256_set1_epi16(1)));
        }
    }
    for (size_t i = 0; i < SUMS; ++i) {
        TK_OPAQUE(total[i]);
    }
    return rounds * SUMS * DOTS * 32;
}

TK_AVX2 static uint64_t floats_avx2(size_t rounds) {
    enum { SUMS = 12 };
    __m256 weights = _mm256_set1_ps(3), activations = _mm256_set1_ps(0.5f), sums[SUMS];
    for (size_t i = 0; i < SUMS; ++i) {
        sums[i] = _mm256_setzero_ps();
    }
    for (size_t round = 0; round < rounds; ++round) {
        TK_OPAQUE(weights);
        for (size_t i = 0; i < SUMS; ++i) {
            sums[i] = _mm256_fmadd_ps(weights, activations, sums[i]);
        }
    }
    for (size_t i = 0; i < SUMS; ++i) {
        TK_OPAQUE(sums[i]);
    }
    return rounds * SUMS * 8;
}

// ---------------------------------------------------------------------------------------------------------------------
// AVX-512, without and with VNNI

#define TK_AVX512 __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq")))
#define TK_AVX512VNNI __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")))

TK_AVX512 static uint64_t read_avx512(const uint8_t *memory, size_t bytes) {
    __m512i sums[4] = {_mm512_setzero_si512(), _mm512_setzero_si512(), _mm512_setzero_si512(), _mm512_setzero_si512()};
    for (size_t i = 0; i < bytes; i += 256) {
        for (size_t j = 0; j < 4; ++j) {
            sums[j] = _mm512_xor_si512(sums[j], _mm512_loadu_si512(memory + i + 64 * j));
        }
    }
    uint64_t words[8];
    _mm512_storeu_si512(
        words, _mm512_xor_si512(_mm512_xor_si512(sums[0], sums[1]), _mm512_xor_si512(sums[2], sums[3])));
    return words[0] ^ words[1] ^ words[2] ^ words[3] ^ words[4] ^ words[5] ^ words[6] ^ words[7];
}

TK_AVX512 static uint64_t integers_avx512(size_t rounds) {
    enum { SUMS = 12, DOTS = 8 };
    __m512i weights = _mm512_set1_epi8(3), activations = _mm512_set1_epi8(-2), total[SUMS];
    for (size_t i = 0; i < SUMS; ++i) {
        total[i] = _mm512_setzero_si512();
    }
    for (size_t round = 0; round < rounds; ++round) {
        __m512i sums[SUMS];
        for (size_t i = 0; i < SUMS; ++i) {
            sums[i] = _mm512_setzero_si512();
        }
        for (size_t dot = 0; dot < DOTS; ++dot) {
            for (size_t i = 0; i < SUMS; ++i) {
                TK_OPAQUE_WIDE(weights);
                sums[i] = _mm512_add_epi16(sums[i], _mm512_maddubs_epi16(weights, activations));
            }
        }
        for (size_t i = 0; i < SUMS; ++i) {
            total[i] = _mm512_add_epi32(total[i], _mm512_madd_epi16(sums[i], _mm512_set1_epi16(1)));
        }
    }
    for (size_t i = 0; i < SUMS; ++i) {
        TK_OPAQUE_WIDE(total[i]);
    }
    return rounds * SUMS * DOTS * 64;
}

TK_AVX512VNNI static uint64_t integers_avx512vnni(size_t rounds) {
    enum { SUMS = 16 };
    __m512i weights = _mm512_set1_epi8(3), activations = _mm512_set1_epi8(-2), sums[SUMS];
    for (size_t i = 0; i < SUMS; ++i) {
        sums[i] = _mm512_setzero_si512();
    }
    for (size_t round = 0; round < rounds; ++round) {
        TK_OPAQUE_WIDE(weights);
        for (size_t i = 0; i < SUMS; ++i) {
            sums[i] = _mm512_dpbusd_epi32(sums[i], weights, activations);
        }
    }
    for (size_t i = 0; i < SUMS; ++i) {
        TK_OPAQUE_WIDE(sums[i]);
    }
    return rounds * SUMS * 64;
}

TK_AVX512 static uint64_t floats_avx512(size_t rounds) {
    enum { SUMS = 16 };
    __m512 weights = _mm512_set1_ps(3), activations = _mm512_set1_ps(0.5f), sums[SUMS];
    for (size_t i = 0; i < SUMS; ++i) {
        sums[i] = _mm512_setzero_ps();
    }
    for (size_t round = 0; round < rounds; ++round) {
        TK_OPAQUE_WIDE(weights);
        for (size_t i = 0; i < SUMS; ++i) {
            sums[i] = _mm512_fmadd_ps(weights, activations, sums[i]);
        }
    }
    for (size_t i = 0; i < SUMS; ++i) {
        TK_OPAQUE_WIDE(sums[i]);
    }
    return rounds * SUMS * 16;
}

#elif defined(__aarch64__)

// ---------------------------------------------------------------------------------------------------------------------
// NEON with the dot product

#define TK_NEON __attribute__((target("arch=armv8.2-a+dotprod")))

TK_NEON static uint64_t read_neon(const uint8_t *memory, size_t bytes) {
    uint8x16_t sums[4] = {vdupq_n_u8(0), vdupq_n_u8(0), vdupq_n_u8(0), vdupq_n_u8(0)};
    for (size_t i = 0; i < bytes; i += 64) {
        for (size_t j = 0; j < 4; ++j) {
            sums[j] = veorq_u8(sums[j], vld1q_u8(memory + i + 16 * j));
        }
    }
    const uint64x2_t words = vreinterpretq_u64_u8(veorq_u8(veorq_u8(sums[0], sums[1]), veorq_u8(sums[2], sums[3])));
    return vgetq_lane_u64(words, 0) ^ vgetq_lane_u64(words, 1);
}

TK_NEON static uint64_t integers_neon(size_t rounds) {
    enum { SUMS = 16 };
    int8x16_t weights = vdupq_n_s8(3), activations = vdupq_n_s8(-2);
    int32x4_t sums[SUMS];
    for (size_t i = 0; i < SUMS; ++i) {
        sums[i] = vdupq_n_s32(0);
    }
    for (size_t round = 0; round < rounds; ++round) {
        TK_OPAQUE(weights);
        for (size_t i = 0; i < SUMS; ++i) {
            sums[i] = vdotq_s32(sums[i], weights, activations);
        }
    }
    for (size_t i = 0; i < SUMS; ++i) {
        TK_OPAQUE(sums[i]);
    }
    return rounds * SUMS * 16;
}

TK_NEON static uint64_t floats_neon(size_t rounds) {
    enum { SUMS = 16 };
    float32x4_t weights = vdupq_n_f32(3), activations = vdupq_n_f32(0.5f), sums[SUMS];
    for (size_t i = 0; i < SUMS; ++i) {
        sums[i] = vdupq_n_f32(0);
    }
    for (size_t round = 0; round < rounds; ++round) {
        TK_OPAQUE(weights);
        for (size_t i = 0; i < SUMS; ++i) {
            sums[i] = vfmaq_f32(sums[i], weights, activations);
        }
    }
    for (size_t i = 0; i < SUMS; ++i) {
        TK_OPAQUE(sums[i]);
    }
    return rounds * SUMS * 4;
}

#endif

// ---------------------------------------------------------------------------------------------------------------------

uint64_t tk_measure_read(tk_isa isa, const void *memory, size_t bytes) {
    switch (isa) {
#if defined(__x86_64__)
        case TK_ISA_AVX2:
            return read_avx2(memory, bytes);
        case TK_ISA_AVX512:
        case TK_ISA_AVX512VNNI:
        case TK_ISA_AVX512VNNI_WIDE:
            return read_avx512(memory, bytes);
#elif defined(__aarch64__)
        case TK_ISA_NEON:
            return read_neon(memory, bytes);
#endif
        default:
            return read_portable(memory, bytes);
    }
}

uint64_t tk_measure_integers(tk_isa isa, size_t rounds) {
    switch (isa) {
#if defined(__x86_64__)
        case TK_ISA_AVX2:
            return integers_avx2(rounds);
        case TK_ISA_AVX512:
            return integers_avx512(rounds);
        case TK_ISA_AVX512VNNI:
        case TK_ISA_AVX512VNNI_WIDE:
            return integers_avx512vnni(rounds);
#elif defined(__aarch64__)
        case TK_ISA_NEON:
            return integers_neon(rounds);
#endif
        default:
            return integers_portable(rounds);
    }
}

uint64_t tk_measure_floats(tk_isa isa, size_t rounds) {
    switch (isa) {
#if defined(__x86_64__)
        case TK_ISA_AVX2:
            return floats_avx2(rounds);
        case TK_ISA_AVX512:
        case TK_ISA_AVX512VNNI:
        case TK_ISA_AVX512VNNI_WIDE:
            return floats_avx512(rounds);
#elif defined(__aarch64__)
        case TK_ISA_NEON:
            return floats_neon(rounds);
#endif
        default:
            return floats_portable(rounds);
    }
}
