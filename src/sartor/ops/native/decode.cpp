// Attention of a running batch over a paged cache, on the processor.
//
// A page holds PAGE tokens of one sequence, laid out for the dot product: keys with their head's elements down and the
// page's tokens across, values the other way round. All pages of a key/value head lie together, as a block reads those of
// one head, mostly one after the other. A block of queries keeps a running maximum, sum and output (Milakov
// and Gimelshein 2018, arXiv 1805.02867), so pages are read once each: those that a group of spans shares for all rows
// of the block together, then each span's own. Scores and sums are fp32; operands are of the element type.
//
// H query heads · G key/value heads · D head size, a multiple of 16.
#include "numbers.hpp"

#include <algorithm>
#include <cstdlib>
#include <omp.h>
#include <vector>

constexpr long PAGE = 16;                             // tokens
constexpr long PER_PAGE = PAGE / LANES;               // vectors
constexpr long STRETCH = 16;                          // pages at a time: the scores of a block stay in the first cache
constexpr long AHEAD = 2;                             // pages that are asked for before they are read
constexpr long LINE = 16;                             // units of a line of the caches
constexpr long ROWS = 48;                             // of a block: tokens times the query heads of a group
constexpr long FEW = 16;                              // tokens that one thread writes: more are shared out
constexpr float NONE = -INFINITY;

// ---- small products -------------------------------------------------------------------------------------------------

// c (NUM_ROWS, columns) = a · b, where the columns come in vectors at `b[0]`, `b[1]`, …, parts of pages, steps in units.
template <int NUM_ROWS, int VECTORS>
static inline void across(const Unit* a, long a_row, const Unit* const* b, long steps, float* c, long c_row) {
    Floats sums[NUM_ROWS][VECTORS];  // in registers, as long as every loop over it is unrolled
#pragma GCC unroll 6
    for (int i = 0; i < NUM_ROWS; i++)
#pragma GCC unroll 4
        for (int j = 0; j < VECTORS; j++) sums[i][j] = Floats{};
#pragma GCC unroll 8
    for (long k = 0; k < steps; k++) {
        Words right[VECTORS];
#pragma GCC unroll 4
        for (int j = 0; j < VECTORS; j++) right[j] = at<Words>(b[j] + k * PAGE);
#pragma GCC unroll 6
        for (int i = 0; i < NUM_ROWS; i++) {
            Unit left = a[i * a_row + k];
#pragma GCC unroll 4
            for (int j = 0; j < VECTORS; j++) sums[i][j] = dot(sums[i][j], left, right[j]);
        }
    }
#pragma GCC unroll 6
    for (int i = 0; i < NUM_ROWS; i++)
#pragma GCC unroll 4
        for (int j = 0; j < VECTORS; j++) store(c + i * c_row + j * LANES, sums[i][j]);
}

// c (NUM_ROWS, columns) += a · b, where `b[0]`, `b[1]`, … hold PAGE steps each, with `width` columns.
template <int NUM_ROWS, int VECTORS>
static inline void down(const Unit* a, long a_row, const Unit* const* b, long num_b, long width, float* c, long c_row) {
    Floats sums[NUM_ROWS][VECTORS];  // in registers, as long as every loop over it is unrolled
#pragma GCC unroll 6
    for (int i = 0; i < NUM_ROWS; i++)
#pragma GCC unroll 4
        for (int j = 0; j < VECTORS; j++) sums[i][j] = load(c + i * c_row + j * LANES);
    for (long n = 0; n < num_b; n++)
        for (long k = 0; k < PAGE / PER; k++) {
            Words right[VECTORS];
#pragma GCC unroll 4
            for (int j = 0; j < VECTORS; j++)
                right[j] = at<Words>(b[n] + k * width + j * LANES);
#pragma GCC unroll 6
            for (int i = 0; i < NUM_ROWS; i++) {
                Unit left = a[i * a_row + n * PAGE / PER + k];
#pragma GCC unroll 4
                for (int j = 0; j < VECTORS; j++) sums[i][j] = dot(sums[i][j], left, right[j]);
            }
        }
#pragma GCC unroll 6
    for (int i = 0; i < NUM_ROWS; i++)
#pragma GCC unroll 4
        for (int j = 0; j < VECTORS; j++) store(c + i * c_row + j * LANES, sums[i][j]);
}

// Both for any number of rows: f<rows> is called on six at a time, and on the rest.
#define BY_ROWS(f)                                                                                                     \
    for (; rows >= 6; rows -= 6, a += 6 * a_row, c += 6 * c_row) f(6);                                                 \
    switch (rows) {                                                                                                    \
        case 5: f(5); break;                                                                                           \
        case 4: f(4); break;                                                                                           \
        case 3: f(3); break;                                                                                           \
        case 2: f(2); break;                                                                                           \
        case 1: f(1); break;                                                                                           \
    }

template <int VECTORS>
static void across_rows(long rows, const Unit* a, long a_row, const Unit* const* b, long steps, float* c, long c_row) {
#define CALL(n) across<n, VECTORS>(a, a_row, b, steps, c, c_row)
    BY_ROWS(CALL)
#undef CALL
}

template <int VECTORS>
static void down_rows(long rows, const Unit* a, long a_row, const Unit* const* b, long num_b, long width, float* c,
                      long c_row) {
#define CALL(n) down<n, VECTORS>(a, a_row, b, num_b, width, c, c_row)
    BY_ROWS(CALL)
#undef CALL
}

// ---- a block of queries ---------------------------------------------------------------------------------------------

struct Shape {
    long heads, groups, size;  // H, G, D
    long num_pages;            // of the cache
    float scale, softcap;
    long window;

    long page_units() const { return size / PER * PAGE; }  // of one head, keys or values
};

// Rows of queries of one key/value head, with what they have gathered so far.
struct Block {
    Shape shape;
    const Unit *keys, *values;
    long head;
    std::vector<Unit> queries;      // (rows, D / PER)
    std::vector<long> positions;    // of each row
    std::vector<float> top, total;  // of each row
    std::vector<float> gathered;    // (rows, D)
    std::vector<float> scores;      // (rows, STRETCH · PAGE)
    std::vector<Element> weights;   // the same, as operands

    void clear(long rows) {
        queries.resize(rows * shape.size / PER);
        positions.resize(rows);
        top.assign(rows, NONE);
        total.assign(rows, 0.0f);
        gathered.assign(rows * shape.size, 0.0f);
        scores.resize(rows * STRETCH * PAGE);
        weights.resize(rows * STRETCH * PAGE);
    }

    const Unit* page(const Unit* of, long number) const {
        return of + (head * shape.num_pages + number) * shape.page_units();
    }

    // Ask for a page before it is read: the processor itself looks no further than the end of one.
    void fetch(const Unit* page) const {
        for (long unit = 0; unit < shape.page_units(); unit += LINE) __builtin_prefetch(page + unit);
    }

    // Rows `first` to `end` look at `num_pages` pages whose tokens stand at `place` and after.
    void look(long first, long end, const int32_t* pages, long num_pages, long place) {
        const long lowest = *std::min_element(&positions[first], &positions[first] + (end - first));
        const long highest = *std::max_element(&positions[first], &positions[first] + (end - first));
        for (; num_pages && place + PAGE <= lowest - shape.window + 1; num_pages--, pages++) place += PAGE;
        num_pages = std::min(num_pages, (highest - place) / PAGE + 1);
        for (; num_pages > 0; num_pages -= STRETCH, pages += STRETCH, place += STRETCH * PAGE)
            look_at(first, end - first, pages, std::min(num_pages, STRETCH), place);
    }

    void look_at(long first, long rows, const int32_t* pages, long num_pages, long place) {
        const Unit *of_keys[STRETCH * PER_PAGE], *of_values[STRETCH];
        const long row = STRETCH * PAGE, units = shape.size / PER, num_vectors = num_pages * PER_PAGE;
        const Unit* asked = &queries[first * units];
        for (long p = 0; p < num_pages; p++) of_values[p] = page(values, pages[p]);
        for (long v = 0; v < num_vectors; v++) of_keys[v] = page(keys, pages[v / PER_PAGE]) + v % PER_PAGE * LANES;
        for (long p = 0; p < std::min(num_pages, AHEAD); p++) fetch(of_keys[p * PER_PAGE]);
        long v = 0;
        for (; v + WIDE <= num_vectors; v += WIDE) {
            for (long p = (v + PER_PAGE - 1) / PER_PAGE; p * PER_PAGE < v + WIDE; p++) {
                fetch(of_values[p]);
                if (p + AHEAD < num_pages) fetch(of_keys[(p + AHEAD) * PER_PAGE]);
            }
            across_rows<WIDE>(rows, asked, units, of_keys + v, units, &scores[v * LANES], row);
        }
        switch (num_vectors - v) {
            case 3: across_rows<3>(rows, asked, units, of_keys + v, units, &scores[v * LANES], row); break;
            case 2: across_rows<2>(rows, asked, units, of_keys + v, units, &scores[v * LANES], row); break;
            case 1: across_rows<1>(rows, asked, units, of_keys + v, units, &scores[v * LANES], row); break;
        }
        for (long r = 0; r < rows; r++) weigh(first + r, &scores[r * row], &weights[r * row], num_pages, place);
        const Unit* shares = reinterpret_cast<const Unit*>(weights.data());
        for (long d = 0; d < shape.size;) {
            float* into = &gathered[first * shape.size + d];
            if (d + WIDE * LANES <= shape.size) {
                down_rows<WIDE>(rows, shares, row / PER, of_values, num_pages, shape.size, into, shape.size);
                d += WIDE * LANES;
                for (long n = 0; n < num_pages; n++) of_values[n] += WIDE * LANES;
            } else {
                down_rows<1>(rows, shares, row / PER, of_values, num_pages, shape.size, into, shape.size);
                d += LANES;
                for (long n = 0; n < num_pages; n++) of_values[n] += LANES;
            }
        }
    }

    // Scores become weights against the row's new maximum; what it gathered before is scaled to it.
    void weigh(long r, float* score, Element* weight, long num_pages, long place) {
        const long last = positions[r] - place, since = last - shape.window;  // visible: since < number <= last
        Floats best = all(NONE);
        for (long j = 0; j < num_pages * PAGE; j += LANES) {
            Ints number = lanes() + int(j);
            Floats value = load(score + j) * shape.scale;
            if (shape.softcap > 0)
                for (long lane = 0; lane < LANES; lane++)
                    value[lane] = shape.softcap * tanhf(value[lane] / shape.softcap);
            value = number <= int(last) ? value : all(NONE);
            if (since >= 0) value = number > int(since) ? value : all(NONE);
            store(score + j, value);
            best = larger(best, value);
        }
        const float highest = std::max(top[r], largest(best));
        const bool sees = highest > NONE;
        Floats summed{};
        for (long j = 0; j < num_pages * PAGE; j += LANES) {
            Floats value = sees ? exponential(load(score + j) - highest) : Floats{};
            summed += value;
            store(weight + j, value);
        }
        if (!sees) return;
        const float shrink = top[r] > NONE ? expf(top[r] - highest) : 0.0f;
        total[r] = total[r] * shrink + sum(summed);
        top[r] = highest;
        if (shrink != 1.0f)
            for (long d = 0; d < shape.size; d += LANES)
                store(&gathered[r * shape.size + d], load(&gathered[r * shape.size + d]) * shrink);
    }
};

// ---- what torch calls -----------------------------------------------------------------------------------------------

// The first token of a part of all, moved on to where a page begins to be written: no two parts write one page.
static long start_of(long part, long parts, const int64_t* slots, long num_tokens) {
    long t = part * num_tokens / parts;
    while (t > 0 && t < num_tokens && slots[t] / PAGE == slots[t - 1] / PAGE) t++;
    return t;
}

// Put keys and values (T, G, D), with their distances between tokens and between heads, into their slots. The first
// token of a page clears its values: a weight of zero times what happened to be in memory need not be zero.
KERNEL void write(const Element* key, long key_token, long key_head, const Element* value, long value_token,
                  long value_head, const int64_t* slots, Unit* keys, Element* values, long num_pages, long num_tokens,
                  long groups, long size) {
    const long units = size / PER, parts = num_tokens < FEW ? 1 : omp_get_max_threads();
#pragma omp parallel for schedule(static) if (parts > 1)
    for (long part = 0; part < parts; part++) {
        const long end = start_of(part + 1, parts, slots, num_tokens);
        for (long t = start_of(part, parts, slots, num_tokens); t < end; t++)
            for (long g = 0; g < groups; g++) {
                const long page = g * num_pages + slots[t] / PAGE, place = slots[t] % PAGE;
                const Element *k = key + t * key_token + g * key_head, *v = value + t * value_token + g * value_head;
                Unit* to = keys + page * units * PAGE + place;
                for (long p = 0; p < units; p++) memcpy(to + p * PAGE, k + p * PER, sizeof(Unit));
                Element* into = values + page * size * PAGE;
                if (place == 0) memset(into, 0, size * PAGE * sizeof(Element));
                into += place / PER * size * PER + place % PER;
                for (long d = 0; d < size; d++) into[d * PER] = v[d];
            }
    }
}

struct Task {
    int group;
    long begin, end, head;  // tokens of the forward; key/value head
};

// Spans: starts (S + 1) among the tokens, tokens cached before each, page tables one after the other with their starts
// (S + 1). Groups: (first span, end span, pages that all share), three numbers each. out (T, H, D) is contiguous.
KERNEL void attend(const Element* query, long query_token, long query_head, Element* out, const Unit* keys,
                   const Unit* values, const int32_t* starts, const int32_t* before, const int32_t* tables,
                   const int32_t* table_starts, const int32_t* groups, long num_groups, long heads, long num_kv_heads,
                   long size, long num_pages, float scale, float softcap, long window) {
    const Shape shape{heads, num_kv_heads, size, num_pages, scale, softcap, window};
    const long stacked = heads / num_kv_heads, tokens = std::max(1L, ROWS / stacked);
    std::vector<Task> tasks;
    for (int n = 0; n < num_groups; n++)
        for (long begin = starts[groups[3 * n]], end = starts[groups[3 * n + 1]]; begin < end; begin += tokens)
            for (long head = 0; head < num_kv_heads; head++)
                tasks.push_back({n, begin, std::min(begin + tokens, end), head});
#pragma omp parallel
    {
        Block block{};
        block.shape = shape, block.keys = keys, block.values = values;
#pragma omp for schedule(dynamic, 1)
        for (long n = 0; n < long(tasks.size()); n++) {
            const Task task = tasks[n];
            const int32_t* group = groups + 3 * task.group;
            const int first = group[0], last = group[1], shared = group[2];
            block.head = task.head;
            block.clear((task.end - task.begin) * stacked);
            int span = first;
            for (long t = task.begin, row = 0; t < task.end; t++) {
                while (starts[span + 1] <= t) span++;
                for (long h = 0; h < stacked; h++, row++) {
                    block.positions[row] = before[span] + t - starts[span];
                    const Element* from = query + t * query_token + (task.head * stacked + h) * query_head;
                    memcpy(&block.queries[row * size / PER], from, size * sizeof(Element));
                }
            }
            if (shared) block.look(0, (task.end - task.begin) * stacked, tables + table_starts[first], shared, 0);
            for (span = first; span < last && starts[span] < task.end; span++) {
                const long begin = std::max(task.begin, long(starts[span]));
                const long end = std::min(task.end, long(starts[span + 1]));
                if (begin >= end) continue;
                const long num_own = table_starts[span + 1] - table_starts[span] - shared;
                block.look((begin - task.begin) * stacked, (end - task.begin) * stacked,
                           tables + table_starts[span] + shared, num_own, shared * PAGE);
            }
            for (long t = task.begin, row = 0; t < task.end; t++)
                for (long h = 0; h < stacked; h++, row++)
                    for (long d = 0; d < size; d += LANES)
                        store(out + (t * heads + task.head * stacked + h) * size + d,
                              load(&block.gathered[row * size + d]) * (1.0f / block.total[row]));
        }
    }
}

// The place of the first largest element of each row.
KERNEL void best(const Element* logits, int64_t* found, long num_rows, long width) {
#pragma omp parallel for schedule(static)
    for (long row = 0; row < num_rows; row++) {
        const Element* at = logits + row * width;
        Floats top = all(NONE);
        long i = 0;
        for (; i + LANES <= width; i += LANES) top = larger(load(at + i), top);
        float most = largest(top);
        for (; i < width; i++) most = std::max(most, widen(at[i]));
        found[row] = 0;
        for (long j = 0; j < width; j++)
            if (widen(at[j]) == most) {
                found[row] = j;
                break;
            }
    }
}
