// Rows of packed weights made into numbers again. Plain twins, with the same meaning: ops/quantised.py.
//
// Rows are either `rows`, by their numbers, or (where that is null) those from `first` on. `ld` is the distance from
// one row of the result to the next, in elements.
#include "numbers.hpp"
#if defined(__AVX2__)
#include <immintrin.h>
#endif

constexpr long BLOCK = 64, GROUP = 256;

// Few rows, as of a short prompt, are not worth waking other threads for.
#define EACH_ROW                                                                    \
    _Pragma("omp parallel for schedule(static) if (num_rows * width > 65536)")      \
    for (long place = 0; place < num_rows; place++)

// A codebook times a scale, in registers: `of` gives the numbers of LANES codes.
struct Table {
#if defined(__AVX512F__)
    __m512 all;
    Table(const float* book, float scale) : all(_mm512_loadu_ps(book) * scale) {}
    Floats of(Ints codes) const { return (Floats)_mm512_permutexvar_ps((__m512i)codes, all); }
#elif defined(__AVX2__)
    __m256 low, high;
    Table(const float* book, float scale) : low(_mm256_loadu_ps(book) * scale), high(_mm256_loadu_ps(book + 8) * scale) {}
    Floats of(Ints codes) const {
        const __m256i index = (__m256i)codes;
        const __m256 over_7 = _mm256_castsi256_ps(_mm256_slli_epi32(index, 28));  // in the sign bit
        return _mm256_blendv_ps(_mm256_permutevar8x32_ps(low, index), _mm256_permutevar8x32_ps(high, index), over_7);
    }
#else
    float all[16];
    Table(const float* book, float scale) {
        for (int code = 0; code < 16; code++) all[code] = book[code] * scale;
    }
    Floats of(Ints codes) const {
        Floats found{};
        for (int lane = 0; lane < LANES; lane++) found[lane] = all[codes[lane]];
        return found;
    }
#endif
};

// The codes of LANES columns, from half as many bytes: the first of two in the upper half of a byte.
static inline Ints nibbles(const uint8_t* from) {
#if defined(__AVX2__)
    __m128i bytes = LANES == 16 ? _mm_loadl_epi64((const __m128i*)from) : _mm_cvtsi32_si128(at<int>(from));
    __m128i mask = _mm_set1_epi8(15);
    __m128i codes = _mm_unpacklo_epi8(_mm_and_si128(_mm_srli_epi16(bytes, 4), mask), _mm_and_si128(bytes, mask));
#if defined(__AVX512F__)
    return (Ints)_mm512_cvtepu8_epi32(codes);
#else
    return (Ints)_mm256_cvtepu8_epi32(codes);
#endif
#else
    Ints codes{};
    for (int lane = 0; lane < LANES; lane++) codes[lane] = lane % 2 ? from[lane / 2] & 15 : from[lane / 2] >> 4;
    return codes;
#endif
}

static inline Floats widened(const int8_t* from) {
#if defined(__AVX2__) && !defined(__AVX512F__)
    return (Floats)_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i*)from)));
#else
    typedef int8_t Bytes __attribute__((vector_size(LANES)));
    return __builtin_convertvector(at<Bytes>(from), Floats);
#endif
}

// a * b, rounded before anything is added to it: a compiler would fuse the two, and the twin rounds twice.
static inline float rounded_product(float a, float b) {
    float product = a * b;
    asm volatile("" : "+m"(product));
    return product;
}

KERNEL void four_bits(const uint8_t* codes, const uint8_t* scales, const float* groups, const float* scale_book,
                      float offset, const float* book, const int64_t* rows, long first, Element* out, long ld,
                      long num_rows, long width) {
    long num_bytes = (width + 1) / 2, num_blocks = (width + BLOCK - 1) / BLOCK;
    EACH_ROW {
        long row = rows ? rows[place] : first + place;
        const uint8_t* from = codes + row * num_bytes;
        Element* to = out + place * ld;
        for (long block = 0; block < num_blocks; block++) {
            long number = row * num_blocks + block, start = block * BLOCK;
            float largest = rounded_product(scale_book[scales[number]], groups[number / GROUP]) + offset;
            const Table table(book, largest);
            long end = start + BLOCK < width ? start + BLOCK : width, i = start;
            for (; i + LANES <= end; i += LANES) store(to + i, table.of(nibbles(from + i / 2)));
            for (; i < end; i++) narrow(book[i % 2 ? from[i / 2] & 15 : from[i / 2] >> 4] * largest, to + i);
        }
    }
}

KERNEL void eight_bits(const int8_t* codes, const bf16* steps, const int64_t* rows, long first, Element* out, long ld,
                       long num_rows, long width) {
    long num_blocks = (width + BLOCK - 1) / BLOCK;
    EACH_ROW {
        long row = rows ? rows[place] : first + place;
        const int8_t* from = codes + row * width;
        Element* to = out + place * ld;
        for (long block = 0; block < num_blocks; block++) {
            long start = block * BLOCK, end = start + BLOCK < width ? start + BLOCK : width, i = start;
            float step = widen(steps[row * num_blocks + block]);
            for (; i + LANES <= end; i += LANES) store(to + i, widened(from + i) * step);
            for (; i < end; i++) narrow(float(from[i]) * step, to + i);
        }
    }
}

// How many of the 15 edges between the numbers of a codebook lie below each value.
KERNEL void places_of(const float* values, const float* edges, uint8_t* places, long count) {
    _Pragma("omp parallel for schedule(static)") for (long i = 0; i < count; i++) {
        int place = 0;
        for (int edge = 0; edge < 15; edge++) place += values[i] > edges[edge];
        places[i] = uint8_t(place);
    }
}
