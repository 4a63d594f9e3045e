// out (M, N) = a (M, K) b (K, N), on processors whose own library leaves much of them unused.
//
// As Goto and van de Geijn (2008, doi 10.1145/1356052.1356053): a panel of b, laid out as tiles read it, stays in the
// third-level cache, a block of a in the second, and the columns of a tile in the first. Laying out is a twentieth of
// the time by whole vectors; lane by lane it was a quarter. Every element is summed up in the same order, however many
// rows and threads there are.
//
// N is a multiple of LANES. Of each operand one stride is 1; those are in elements.
#include "tile.hpp"

#include <omp.h>
#include <utility>

#if !defined(ELEMENT_FLOAT32)
#error "the products of bf16 are left to the library"
#endif

constexpr long INNER = 640;            // of a panel and a block: small layers' whole inner size, so sums are stored once
constexpr long COLUMNS = 1536;         // of a panel
constexpr long BLOCK = 8;              // tiles of a block, one below the other
constexpr long STRIPE = WIDE * LANES;  // columns of a tile

// Exchange the lanes of a that have the bit STEP with those of b that do not.
template <int STEP, int... LANE>
static inline void exchange(Floats& a, Floats& b, std::integer_sequence<int, LANE...>) {
    const Floats low = __builtin_shufflevector(a, b, (LANE & STEP ? int(LANES) + LANE - STEP : LANE)...);
    const Floats high = __builtin_shufflevector(a, b, (LANE & STEP ? int(LANES) + LANE : LANE + STEP)...);
    a = low, b = high;
}

template <int STEP>
static inline void turn(Floats* rows) {
#pragma GCC unroll 16
    for (int i = 0; i < LANES; i++)
        if (!(i & STEP)) exchange<STEP>(rows[i], rows[i + STEP], std::make_integer_sequence<int, LANES>{});
    if constexpr (2 * STEP < LANES) turn<2 * STEP>(rows);
}

// Rows (count, steps), count at most LANES, as columns: element k of row i at to[k * width + i]. What stands up to LANES
// elements after the last one may be overwritten.
static inline void transpose(const float* from, long ld, long count, long steps, float* to, long width) {
    long k = 0;
    for (; k + LANES <= steps; k += LANES) {
        Floats rows[LANES];
#pragma GCC unroll 16
        for (int i = 0; i < LANES; i++) rows[i] = i < count ? load(from + i * ld + k) : Floats{};
        turn<1>(rows);
#pragma GCC unroll 16
        for (int i = 0; i < LANES; i++) store(to + (k + i) * width, rows[i]);
    }
    for (; k < steps; k++)
        for (long i = 0; i < count; i++) to[k * width + i] = from[i * ld + k];
}

struct Matrix {
    const float* data;
    long row, column;  // from one to the next

    Matrix at(long i, long j) const { return {data + i * row + j * column, row, column}; }
};

// Columns (steps, count) of b, count at most a stripe: one after the other, a stripe apart.
static void lay_stripe(Matrix b, long steps, long count, float* to) {
    for (long j = 0; j < count; j += LANES)
        if (b.column != 1)
            transpose(b.data + j * b.column, b.column, LANES, steps, to + j, STRIPE);
        else
            for (long k = 0; k < steps; k++) store(to + k * STRIPE + j, load(b.data + k * b.row + j));
}

// Rows (count, steps) of a, count at most those of a tile, as columns.
static void lay_rows(Matrix a, long count, long steps, float* to) {
    if (a.column == 1) return transpose(a.data, a.row, count, steps, to, TALL);
    for (long k = 0; k < steps; k++)
        for (long i = 0; i < count; i++) to[k * TALL + i] = a.data[i * a.row + k * a.column];
}

static void multiply(const float* rows, const float* stripe, long steps, float* out, long ld, long count, long columns,
                     bool adding) {
    const Unit *a = reinterpret_cast<const Unit*>(rows), *b = reinterpret_cast<const Unit*>(stripe);
    if (columns == STRIPE) return tile_of<WIDE>(count, a, 1, TALL, b, STRIPE, steps, out, ld, adding);
    for (long j = 0; j < columns; j += LANES)
        tile_of<1>(count, a, 1, TALL, b + j, STRIPE, steps, out + j, ld, adding);
}

static thread_local Scratch panels, blocks;  // of the thread that calls · of every one that multiplies

KERNEL void product(const float* left, long left_row, long left_column, const float* right, long right_row,
                    long right_column, float* out, long ld, long num_rows, long num_columns, long num_steps) {
    const Matrix a{left, left_row, left_column}, b{right, right_row, right_column};
    const long inner = std::min(INNER, num_steps), width = std::min(COLUMNS, padded(num_columns, STRIPE));
    const long num_tiles = (num_rows + TALL - 1) / TALL, threads = omp_get_max_threads();
    const long num_blocks = padded((num_tiles + BLOCK - 1) / BLOCK, threads);  // the same number for each thread
    panels.reserve(4 * inner * width);
    float* const panel = panels.take<float>(inner * width);
#pragma omp parallel
    {
        blocks.reserve(4 * (inner * BLOCK * TALL + LANES));
        float* const block = blocks.take<float>(inner * BLOCK * TALL + LANES);
        for (long column = 0; column < num_columns; column += COLUMNS) {
            const long columns = std::min(COLUMNS, num_columns - column);
            for (long step = 0; step < num_steps; step += INNER) {
                const long steps = std::min(INNER, num_steps - step);
#pragma omp for schedule(static)
                for (long j = 0; j < columns; j += STRIPE)
                    lay_stripe(b.at(step, column + j), steps, std::min(STRIPE, columns - j), panel + j * steps);
#pragma omp for schedule(dynamic, 1)
                for (long number = 0; number < num_blocks; number++) {
                    const long row = number * num_tiles / num_blocks * TALL;
                    const long end = std::min(num_rows, (number + 1) * num_tiles / num_blocks * TALL), rows = end - row;
                    for (long i = 0; i < rows; i += TALL)
                        lay_rows(a.at(row + i, step), std::min(TALL, rows - i), steps, block + i * steps);
                    for (long j = 0; j < columns; j += STRIPE)
                        for (long i = 0; i < rows; i += TALL)
                            multiply(block + i * steps, panel + j * steps, steps, out + (row + i) * ld + column + j, ld,
                                     std::min(TALL, rows - i), std::min(STRIPE, columns - j), step > 0);
                }
            }
        }
    }
}
