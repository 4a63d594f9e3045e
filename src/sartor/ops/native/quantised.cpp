// Rows of packed weights made into numbers again. Plain twins, with the same meaning: ops/quantised.py.
//
// Rows are either `rows`, by their numbers, or (where that is null) those from `first` on. `ld` is the distance from
// one row of the result to the next, in elements.
#include "numbers.hpp"
#if defined(__SSE2__)
#include <immintrin.h>
#endif

constexpr long BLOCK = 64, GROUP = 256;
typedef uint8_t Bytes __attribute__((vector_size(16)));
typedef int8_t SignedBytes __attribute__((vector_size(16)));

// Few rows, as of a short prompt, are not worth waking other threads for.
#define EACH_ROW                                                                    \
    _Pragma("omp parallel for schedule(static) if (num_rows * width > 65536)")      \
    for (long place = 0; place < num_rows; place++)

// Whole vectors of AVX2 have half of our lanes, and gcc 12 splits what it does not know into single lanes.
#if defined(__AVX2__) && !defined(__AVX512F__)
template <typename Whole, typename Half>
static inline Whole whole(Half low, Half high) {
    Half parts[2] = {low, high};
    return at<Whole>(parts);
}

static inline Ints widen_all(Bytes bytes) {
    __m128i low = (__m128i)bytes;
    return whole<Ints>(_mm256_cvtepu8_epi32(low), _mm256_cvtepu8_epi32(_mm_srli_si128(low, 8)));
}

static inline Floats widen_all(SignedBytes bytes) {
    __m128i low = (__m128i)bytes, high = _mm_srli_si128(low, 8);
    return whole<Floats>(_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(low)), _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(high)));
}

static inline __m256 pick_half(const __m256* table, __m256i index) {
    __m256 low = _mm256_permutevar8x32_ps(table[0], index), high = _mm256_permutevar8x32_ps(table[1], index);
    return _mm256_blendv_ps(low, high, _mm256_castsi256_ps(_mm256_slli_epi32(index, 28)));
}
#else
static inline Ints widen_all(Bytes bytes) { return __builtin_convertvector(bytes, Ints); }
static inline Floats widen_all(SignedBytes bytes) { return __builtin_convertvector(bytes, Floats); }
#endif

// table[index] in every lane, for indices below 16.
static inline Floats pick(Floats table, Ints index) {
#if defined(__AVX512F__)
    return (Floats)_mm512_permutexvar_ps((__m512i)index, (__m512)table);
#elif defined(__AVX2__)
    __m256 tables[2];
    __m256i indices[2];
    put(tables, table);
    put(indices, index);
    return whole<Floats>(pick_half(tables, indices[0]), pick_half(tables, indices[1]));
#else
    Floats found{};
    for (int lane = 0; lane < LANES; lane++) found[lane] = table[index[lane]];
    return found;
#endif
}

// The codes of 16 columns, from 8 bytes: the first of two in the upper half of a byte.
static inline Ints nibbles(const uint8_t* from) {
#if defined(__SSE2__)
    __m128i eight = _mm_loadl_epi64((const __m128i*)from), mask = _mm_set1_epi8(15);
    __m128i upper = _mm_and_si128(_mm_srli_epi16(eight, 4), mask), lower = _mm_and_si128(eight, mask);
    return widen_all((Bytes)_mm_unpacklo_epi8(upper, lower));
#else
    Bytes codes;
    for (int byte = 0; byte < 8; byte++) codes[2 * byte] = from[byte] >> 4, codes[2 * byte + 1] = from[byte] & 15;
    return widen_all(codes);
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
            Floats table = load(book) * largest;
            long end = start + BLOCK < width ? start + BLOCK : width, i = start;
            for (; i + LANES <= end; i += LANES) store(to + i, pick(table, nibbles(from + i / 2)));
            for (; i < end; i++) narrow(table[i % 2 ? from[i / 2] & 15 : from[i / 2] >> 4], to + i);
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
            for (; i + LANES <= end; i += LANES)
                store(to + i, widen_all(at<SignedBytes>(from + i)) * step);
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
