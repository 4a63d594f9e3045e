// out (M, N) = a (M, K) b (K, N), on processors whose own library leaves much of them unused.
//
// As Goto and van de Geijn (2008, doi 10.1145/1356052.1356053): a panel of b, laid out as tiles read it, stays in the
// third-level cache, a block of a in the second, and the columns of a tile in the first. Laying out is a twentieth of
// the time by whole vectors; lane by lane it was a quarter. Every element is summed up in the same order, however many
// rows and threads there are.
//
// N is a multiple of LANES. Of each operand one stride is 1; those are in elements.
//
// `lay` and `product_laid` are the same with a b that is laid out once for many products, and rows of a as they are.
#include "tile.hpp"

#include <omp.h>

#if !defined(ELEMENT_FLOAT32)
#error "the products of bf16 are left to the library"
#endif

constexpr long INNER = 640;            // of a panel and a block: small layers' whole inner size, so sums are stored once
constexpr long COLUMNS = 1536;         // of a panel
constexpr long BLOCK = 8;              // tiles of a block, one below the other
constexpr long STRIPE = WIDE * LANES;  // columns of a tile
static_assert(64 % STRIPE == 0, "ops/product.py makes room for columns in units of 64");
constexpr long LAID_BLOCK = 16;        // of what `product_laid` multiplies: more would not stay in the second cache
constexpr long SHARES = 4;             // of it for each thread, at least: one of them may be held up

struct Matrix {
    const Unit* data;
    long row, column;  // from one to the next

    Matrix at(long i, long j) const { return {data + i * row + j * column, row, column}; }
};

// Columns (steps, count) of b, count at most a stripe: one after the other, a stripe apart.
static void lay_stripe(Matrix b, long steps, long count, Unit* to) {
    for (long j = 0; j < count; j += LANES)
        if (b.column != 1)
            transpose(b.data + j * b.column, b.column, LANES, steps, to + j, STRIPE);
        else
            for (long k = 0; k < steps; k++) put(to + k * STRIPE + j, at<Words>(b.data + k * b.row + j));
}

// Rows (count, steps) of a, count at most those of a tile, as columns.
static void lay_rows(Matrix a, long count, long steps, Unit* to) {
    if (a.column == 1) return transpose(a.data, a.row, count, steps, to, TALL);
    for (long k = 0; k < steps; k++)
        for (long i = 0; i < count; i++) to[k * TALL + i] = a.data[i * a.row + k * a.column];
}

static void multiply(const Unit* rows, long row, long column, const Unit* stripe, long steps, float* out, long ld,
                     long count, long columns, bool adding) {
    if (columns == STRIPE) return tile_of<WIDE>(count, rows, row, column, stripe, STRIPE, steps, out, ld, adding);
    for (long j = 0; j < columns; j += LANES)
        tile_of<1>(count, rows, row, column, stripe + j, STRIPE, steps, out + j, ld, adding);
}

static thread_local Scratch panels, blocks;  // of the thread that calls · of every one that multiplies

KERNEL void product(const Unit* left, long left_row, long left_column, const Unit* right, long right_row,
                    long right_column, float* out, long ld, long num_rows, long num_columns, long num_steps) {
    const Matrix a{left, left_row, left_column}, b{right, right_row, right_column};
    const long inner = std::min(INNER, num_steps), width = std::min(COLUMNS, padded(num_columns, STRIPE));
    const long num_tiles = (num_rows + TALL - 1) / TALL, threads = omp_get_max_threads();
    const long num_blocks = padded((num_tiles + BLOCK - 1) / BLOCK, threads);  // the same number for each thread
    panels.reserve(4 * inner * width);
    Unit* const panel = panels.take<Unit>(inner * width);
#pragma omp parallel
    {
        blocks.reserve(4 * (inner * BLOCK * TALL + LANES));
        Unit* const block = blocks.take<Unit>(inner * BLOCK * TALL + LANES);
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
                            multiply(block + i * steps, 1, TALL, panel + j * steps, steps,
                                     out + (row + i) * ld + column + j, ld, std::min(TALL, rows - i),
                                     std::min(STRIPE, columns - j), step > 0);
                }
            }
        }
    }
}

// All of b (K, N) as `product_laid` reads it: INNER steps after one another, in them stripe after stripe.
KERNEL void lay(const Unit* right, long row, long column, Unit* to, long num_columns, long num_steps) {
    const Matrix b{right, row, column};
    const long width = padded(num_columns, STRIPE);
    for (long step = 0; step < num_steps; step += INNER) {
        const long steps = std::min(INNER, num_steps - step);
#pragma omp parallel for schedule(static)
        for (long j = 0; j < num_columns; j += STRIPE)
            lay_stripe(b.at(step, j), steps, std::min(STRIPE, num_columns - j), to + step * width + j * steps);
    }
}

// Rows of a stand `row` apart, in themselves without gaps. Blocks of rows are shared out, and where those are few, columns:
// so a stripe is read from memory once, and multiplied with all of a block. `adding`: to what is in `out`.
KERNEL void product_laid(const Unit* left, long row, const Unit* laid, float* out, long ld, long num_rows,
                         long num_columns, long num_steps, long adding) {
    if (!num_rows) return;
    const long width = padded(num_columns, STRIPE), num_stripes = width / STRIPE, threads = omp_get_max_threads();
    const long num_tiles = (num_rows + TALL - 1) / TALL, shares = SHARES * threads;
    const long least = std::min(num_tiles, (shares + num_stripes - 1) / num_stripes);  // where stripes are few: low ranks
    const long num_blocks = std::max(least, (num_tiles + LAID_BLOCK - 1) / LAID_BLOCK);
    const long num_parts = std::clamp((shares + num_blocks - 1) / num_blocks, 1L, num_stripes);
#pragma omp parallel for collapse(2) schedule(dynamic, 1)
    for (long part = 0; part < num_parts; part++)
        for (long number = 0; number < num_blocks; number++) {
            const long first = part * num_stripes / num_parts * STRIPE, top = number * num_tiles / num_blocks * TALL;
            const long last = std::min(num_columns, (part + 1) * num_stripes / num_parts * STRIPE);
            const long end = std::min(num_rows, (number + 1) * num_tiles / num_blocks * TALL);
            for (long step = 0; step < num_steps; step += INNER) {
                const long steps = std::min(INNER, num_steps - step);
                for (long j = first; j < last; j += STRIPE)
                    for (long i = top; i < end; i += TALL)
                        multiply(left + i * row + step, row, 1, laid + step * width + j * steps, steps,
                                 out + i * ld + j, ld, std::min(TALL, end - i), std::min(STRIPE, last - j),
                                 adding || step > 0);
            }
        }
}
