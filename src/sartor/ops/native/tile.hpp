// The tile of a matrix product that stays in registers, and the memory for what tiles read.
#pragma once
#include "numbers.hpp"

#include <algorithm>
#include <cstdlib>
#include <utility>

static inline long padded(long count, long unit = LANES) { return (count + unit - 1) / unit * unit; }

// c (ROWS, VECTORS · LANES) = or += a (ROWS, steps) b (steps, VECTORS · LANES), steps counted in units.
template <int ROWS, int VECTORS>
static inline void tile(const Unit* a, long a_row, long a_step, const Unit* b, long b_step, long steps, float* c,
                        long c_row, bool adding) {
    Floats sums[ROWS][VECTORS] = {};  // in registers, as long as every loop over it is unrolled
#pragma GCC unroll 6
    for (int i = 0; i < ROWS; i++) __builtin_prefetch(c + i * c_row, 1);  // it is written when the sums are there
    // A neighbour on the same core leaves a thread half of the decoder: what a loop adds to each step is then what takes
    // longest. Asked for here: unrolled by hand, gcc 12 does not keep the sums in registers.
#pragma GCC unroll 8
    for (long k = 0; k < steps; k++) {
        Words right[VECTORS];
#pragma GCC unroll 4
        for (int j = 0; j < VECTORS; j++) right[j] = at<Words>(b + k * b_step + j * LANES);
#pragma GCC unroll 6
        for (int i = 0; i < ROWS; i++) {
            Unit left = a[i * a_row + k * a_step];
#pragma GCC unroll 4
            for (int j = 0; j < VECTORS; j++) sums[i][j] = dot(sums[i][j], left, right[j]);
        }
    }
#pragma GCC unroll 6
    for (int i = 0; i < ROWS; i++)
#pragma GCC unroll 4
        for (int j = 0; j < VECTORS; j++) {
            float* to = c + i * c_row + j * LANES;
            store(to, adding ? load(to) + sums[i][j] : sums[i][j]);
        }
}

// The same with 1 to TALL rows.
template <int VECTORS>
static inline void tile_of(long rows, const Unit* a, long a_row, long a_step, const Unit* b, long b_step, long steps,
                           float* c, long c_row, bool adding) {
    switch (rows) {
        case 6: return tile<6, VECTORS>(a, a_row, a_step, b, b_step, steps, c, c_row, adding);
        case 5: return tile<5, VECTORS>(a, a_row, a_step, b, b_step, steps, c, c_row, adding);
        case 4: return tile<4, VECTORS>(a, a_row, a_step, b, b_step, steps, c, c_row, adding);
        case 3: return tile<3, VECTORS>(a, a_row, a_step, b, b_step, steps, c, c_row, adding);
        case 2: return tile<2, VECTORS>(a, a_row, a_step, b, b_step, steps, c, c_row, adding);
        case 1: return tile<1, VECTORS>(a, a_row, a_step, b, b_step, steps, c, c_row, adding);
    }
}

// Lanes of a and b by their numbers. Each compiler has its own word for it; GCC knows clang's only from version 12 on.
#if defined(__clang__)
#define LANES_OF(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define LANES_OF(a, b, ...) __builtin_shuffle(a, b, Words{__VA_ARGS__})
#endif

// Exchange the lanes of a that have the bit STEP with those of b that do not.
template <int STEP, int... LANE>
static inline void exchange(Words& a, Words& b, std::integer_sequence<int, LANE...>) {
    const Words low = LANES_OF(a, b, (LANE & STEP ? uint32_t(LANES) + LANE - STEP : LANE)...);
    const Words high = LANES_OF(a, b, (LANE & STEP ? uint32_t(LANES) + LANE : LANE + STEP)...);
    a = low, b = high;
}

template <int STEP>
static inline void turn(Words* rows) {
#pragma GCC unroll 16
    for (int i = 0; i < LANES; i++)
        if (!(i & STEP)) exchange<STEP>(rows[i], rows[i + STEP], std::make_integer_sequence<int, LANES>{});
    if constexpr (2 * STEP < LANES) turn<2 * STEP>(rows);
}

// Rows (count, steps), count at most LANES, as columns: unit k of row i at to[k * width + i], and zeros after the last row,
// as far as LANES go.
static inline void transpose(const Unit* from, long ld, long count, long steps, Unit* to, long width) {
    long k = 0;
    for (; k + LANES <= steps; k += LANES) {
        Words rows[LANES];
#pragma GCC unroll 16
        for (int i = 0; i < LANES; i++) rows[i] = i < count ? at<Words>(from + i * ld + k) : Words{};
        turn<1>(rows);
#pragma GCC unroll 16
        for (int i = 0; i < LANES; i++) put(to + (k + i) * width, rows[i]);
    }
    for (; k < steps; k++)
        for (long i = 0; i < LANES; i++) to[k * width + i] = i < count ? from[i * ld + k] : 0;
}

// Memory that is kept from call to call.
struct Scratch {
    char* memory = nullptr;
    size_t size = 0, used = 0;

    void reserve(size_t bytes) {
        used = 0;
        if (bytes <= size) return;
        std::free(memory);
        size = (bytes + 4095) / 4096 * 4096;
        memory = static_cast<char*>(std::aligned_alloc(4096, size));
    }
    template <typename T>
    T* take(long count) {
        T* place = reinterpret_cast<T*>(memory + used);
        used += (count * sizeof(T) + 63) / 64 * 64;
        return place;
    }
    ~Scratch() { std::free(memory); }
};
