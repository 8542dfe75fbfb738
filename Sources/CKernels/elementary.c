// Double-precision elementary functions for tables and statistics: the same bits on every machine and libm.
#include "layout.h"

static double from_bits64(uint64_t bits) {
    double x;
    memcpy(&x, &bits, 8);
    return x;
}

static uint64_t bits64(double x) {
    uint64_t bits;
    memcpy(&bits, &x, 8);
    return bits;
}

// Adding and subtracting 1.5 * 2^52 rounds to the nearest integer (ties to even) for |x| < 2^51.
static const double rounder = 0x1.8p52;

double tk_exp_f64(double x) {
    if (x != x) {
        return x;
    }
    if (x > 709.9) {
        return from_bits64(0x7ff0000000000000);
    }
    if (x < -745.2) {
        return 0;
    }
    // x = n ln 2 + r with |r| <= ln 2 / 2, where Taylor's terms beyond r^14 are below half an ulp.
    const double n = __builtin_fma(x, 0x1.71547652b82fep0, rounder) - rounder;
    const double r = __builtin_fma(-n, 0x1.abc9e3b39803fp-56, __builtin_fma(-n, 0x1.62e42fefa39efp-1, x));
    double p = 1;
    for (int i = 14; i > 0; --i) {
        p = __builtin_fma(p, r / i, 1);
    }
    // Two factors, since 2^n alone may be denormal or infinite where the result is not.
    const int64_t exponent = (int64_t)n;
    const int64_t half = exponent / 2;
    return p * from_bits64((uint64_t)(half + 1023) << 52) * from_bits64((uint64_t)(exponent - half + 1023) << 52);
}

double tk_log_f64(double x) {
    if (!(x > 0)) {
        return x == 0 ? from_bits64(0xfff0000000000000) : from_bits64(0x7ff8000000000000);
    }
    uint64_t bits = bits64(x);
    if (bits >= 0x7ff0000000000000) {
        return x;
    }
    int64_t exponent = 0;
    if (bits < 0x0010000000000000) {
        bits = bits64(x * 0x1p54);
        exponent = -54;
    }
    // x = m 2^e with m in (sqrt(1/2), sqrt(2)]; log m = 2 atanh((m - 1) / (m + 1)).
    exponent += (int64_t)(bits >> 52) - 1023;
    double m = from_bits64((bits & 0x000fffffffffffff) | 0x3ff0000000000000);
    if (m > 0x1.6a09e667f3bcdp0) {
        m *= 0.5;
        exponent += 1;
    }
    const double s = (m - 1) / (m + 1);
    const double square = s * s;
    double p = 0;
    for (int i = 25; i > 1; i -= 2) {
        p = __builtin_fma(p, square, 1.0 / i);
    }
    const double tail = __builtin_fma(2 * s * square, p, (double)exponent * 0x1.abc9e3b39803fp-56);
    return __builtin_fma((double)exponent, 0x1.62e42fefa39efp-1, 2 * s + tail);
}

double tk_pow_f64(double base, double exponent) { return tk_exp_f64(exponent * tk_log_f64(base)); }

// sin(x + quarter * pi / 2). pi / 2 as the sum of three doubles; the products are exact inside each fma.
static double sine(double x, uint64_t quarter) {
    const double n = __builtin_fma(x, 0x1.45f306dc9c883p-1, rounder) - rounder;
    double r = __builtin_fma(-n, 0x1.921fb54442d18p0, x);
    r = __builtin_fma(-n, 0x1.1a62633145c07p-54, r);
    r = __builtin_fma(-n, -0x1.f1976b7ed8fbcp-110, r);
    const uint64_t quadrant = ((uint64_t)(int64_t)n + quarter) & 3;
    // Taylor series on |r| <= pi / 4: sine to r^19, cosine to r^20.
    const double square = r * r;
    double p = 1;
    if (quadrant & 1) {
        for (int i = 20; i > 0; i -= 2) {
            p = __builtin_fma(p, -square / (i * (i - 1)), 1);
        }
    } else {
        for (int i = 19; i > 1; i -= 2) {
            p = __builtin_fma(p, -square / (i * (i - 1)), 1);
        }
        p *= r;
    }
    return quadrant & 2 ? -p : p;
}

// Beyond 2^50 a double does not tell where in the circle it is; NaN then, and for infinities.
static bool has_angle(double x) { return x > -0x1p50 && x < 0x1p50; }

double tk_sin_f64(double x) { return has_angle(x) ? sine(x, 0) : from_bits64(0x7ff8000000000000); }

double tk_cos_f64(double x) { return has_angle(x) ? sine(x, 1) : from_bits64(0x7ff8000000000000); }

void tk_rotary_table(
    double theta, size_t head_dim, size_t position_begin, size_t count, float *cosines, float *sines) {
    const size_t half = head_dim / 2;
    for (size_t i = 0; i < half; ++i) {
        const double frequency = tk_pow_f64(theta, -2.0 * (double)i / (double)head_dim);
        for (size_t p = 0; p < count; ++p) {
            const double angle = (double)(position_begin + p) * frequency;
            cosines[p * half + i] = (float)tk_cos_f64(angle);
            sines[p * half + i] = (float)tk_sin_f64(angle);
        }
    }
}
