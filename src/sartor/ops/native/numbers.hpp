// Element types and vectors that every kernel here shares. Written with the compiler's portable vector type, so that the
// same source serves AVX-512, AVX2 and NEON. Where AVX-512 or AVX2 has an instruction of its own (for bf16, powers of two,
// sums over lanes, codebooks), that stands beside the portable form.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>
#if defined(__AVX512F__)
#include <immintrin.h>
#endif

struct bf16 {
    uint16_t bits;
};

// The type of activations and weights: every kernel is compiled once for each of the two.
#ifdef ELEMENT_FLOAT32
typedef float Element;
#else
typedef bf16 Element;
#endif

#define KERNEL extern "C" __attribute__((visibility("default")))

// One register of the processor, or two where they are short: what is wider, gcc 12 splits into single lanes.
#if defined(__AVX512F__)
constexpr long LANES = 16;
#else
constexpr long LANES = 8;
#endif
// A tile of a product has at most TALL rows of WIDE vectors: its sums, a row of the right side and one factor are all in
// registers, of which AVX-512 has 32, AVX2 16 (and NEON 32 of half the size).
constexpr long TALL = 6;
static_assert(16 % LANES == 0, "ops/native/__init__.py leaves other widths than multiples of 16 to the twins");
constexpr int WIDE = LANES == 16 ? 4 : 2;
typedef float Floats __attribute__((vector_size(4 * LANES)));
typedef int32_t Ints __attribute__((vector_size(4 * LANES)));
typedef uint32_t Words __attribute__((vector_size(4 * LANES)));
typedef uint16_t Halves __attribute__((vector_size(2 * LANES)));

// A vector at any address. A fixed-size memcpy is one load or store.
template <typename Vector>
static inline Vector at(const void* from) {
    Vector value;
    memcpy(&value, from, sizeof(Vector));
    return value;
}
template <typename Vector>
static inline void put(void* to, Vector value) {
    memcpy(to, &value, sizeof(Vector));
}

static inline Floats all(float value) { return value - Floats{}; }

static inline Floats load(const float* from) { return at<Floats>(from); }

static inline Floats load(const bf16* from) {
    return (Floats)(__builtin_convertvector(at<Halves>(from), Words) << 16);
}

static inline void store(float* to, Floats value) { put(to, value); }

// Round to nearest, ties to even.
static inline Halves rounded(Floats value) {
#if defined(__AVX512BF16__)
    return (Halves)_mm512_cvtneps_pbh((__m512)value);
#else
    Words bits = (Words)value;
    return __builtin_convertvector((bits + 0x7fff + ((bits >> 16) & 1)) >> 16, Halves);
#endif
}

static inline void store(bf16* to, Floats value) { put(to, rounded(value)); }

static inline float widen(float value) { return value; }
static inline float widen(bf16 value) {
    uint32_t bits = uint32_t(value.bits) << 16;
    float wide;
    memcpy(&wide, &bits, 4);
    return wide;
}

static inline void narrow(float value, float* to) { *to = value; }
static inline void narrow(float value, bf16* to) {
    uint32_t bits;
    memcpy(&bits, &value, 4);
    to->bits = uint16_t((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

static inline float sum(Floats value) {
#if defined(__AVX512F__)
    return _mm512_reduce_add_ps((__m512)value);
#endif
    float total = 0;
    for (int lane = 0; lane < LANES; lane++) total += value[lane];
    return total;
}

static inline Floats larger(Floats a, Floats b) { return a > b ? a : b; }

static inline Floats smaller(Floats a, Floats b) { return a < b ? a : b; }

static inline float largest(Floats value) {
#if defined(__AVX512F__)
    return _mm512_reduce_max_ps((__m512)value);
#endif
    float best = value[0];
    for (int lane = 1; lane < LANES; lane++) best = value[lane] > best ? value[lane] : best;
    return best;
}

// 2^x to 2e-7 (Cephes' polynomial on the fraction). Far above it is infinite with AVX-512, else 2^127: a gate divides by
// either. Far below it is 0, and at minus infinity too, the score of what is not seen: there the fraction is no number,
// but scalef by minus infinity gives 0 even of that, and without AVX-512 x is bounded first.
static inline Floats two_to(Floats x) {
#if defined(__AVX512F__)
    Floats count = (Floats)_mm512_roundscale_ps((__m512)x, 0);
#else
    const Floats shift = all(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer
    x = smaller(all(127.0f), larger(all(-127.0f), x));  // in this order NaN stays NaN
    Floats count = (x + shift) - shift;
#endif
    Floats rest = x - count;
    Floats power = all(1.535336188319500e-4f);
    power = power * rest + 1.339887440266574e-3f;
    power = power * rest + 9.618437357674640e-3f;
    power = power * rest + 5.550332471162809e-2f;
    power = power * rest + 2.402264791363012e-1f;
    power = power * rest + 6.931472028550421e-1f;
    power = power * rest + 1.0f;
#if defined(__AVX512F__)
    return (Floats)_mm512_scalef_ps((__m512)power, (__m512)count);
#else
    return power * (Floats)((__builtin_convertvector(count, Ints) + 127) << 23);
#endif
}

constexpr float PER_NAT = 1.44269504088896341f;  // log2(e)

static inline Floats exponential(Floats x) { return two_to(x * PER_NAT); }

// Lane numbers: 0 1 2 …
static inline Ints lanes() {
    const int32_t numbers[] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    return at<Ints>(numbers);
}

// What products step over: elements along the inner size, side by side. Two bf16, or one float.
typedef uint32_t Unit;
constexpr long PER = sizeof(Unit) / sizeof(Element);

// sum + a · b in every lane, over the elements of a unit.
static inline Floats dot(Floats sum, Unit a, Words b) {
#if defined(ELEMENT_FLOAT32)
    float factor;
    memcpy(&factor, &a, 4);
    return sum + (Floats)b * factor;
#elif defined(__AVX512BF16__)
    return (Floats)_mm512_dpbf16_ps((__m512)sum, (__m512bh)_mm512_set1_epi32(int(a)), (__m512bh)b);
#else
    Words both = a + Words{}, high = Words{} + 0xffff0000u;
    sum += (Floats)(both << 16) * (Floats)(b << 16);
    return sum + (Floats)(both & high) * (Floats)(b & high);
#endif
}
