// Causal attention over a forest of token runs, forward and backward, on the processor.
//
// Flash attention's arithmetic (Dao 2023, arXiv 2307.08691), except that forward a block of queries holds its whole row
// of scores: segments are short. Backward goes by chunks of keys. A node sees its ancestors whole and itself causally; a
// node without parent is a segment of its own. Scores and sums are fp32; operands are of the element type.
//
// H query heads · G key/value heads · D head size, a multiple of 16. `ld` is the distance between rows, in elements.
#include "tile.hpp"

#include <omp.h>
#include <vector>

constexpr long BLOCK = 48;    // queries at a time
constexpr long CHUNK = 256;   // keys at a time in the backward: all of a step then stays in the second-level cache
constexpr long WHOLE = 1L << 40;

// ---- a small matrix product: c (rows, columns) = or += a (rows, steps) b (steps, columns), steps counted in units ----

// Query i sees key j when j <= i + ahead, so about half of a square on the diagonal is nothing, and is left out: its rows
// where keys are the columns, its steps where a product adds up over keys, or over queries.
struct Seen {
    enum Kind { BY_KEYS, OVER_KEYS, OVER_QUERIES } kind;
    long ahead;

    long first_row(long column) const { return kind == BY_KEYS ? std::max(0L, column - ahead) : 0; }
    long first_step(long row) const { return kind == OVER_QUERIES ? std::max(0L, row - ahead) / PER : 0; }
    long end_step(long end_row, long steps) const {
        return kind == OVER_KEYS ? std::min(steps, (std::max(0L, end_row + ahead) + PER - 1) / PER) : steps;
    }
};

template <int VECTORS>
static void rows_of(long first, long rows, const Unit* a, long a_row, long a_step, const Unit* b, long b_step, long steps,
                    float* c, long c_row, bool adding, Seen seen) {
    for (long row = first; row < rows;) {
        const long count = std::min(TALL, rows - row), from = seen.first_step(row);
        const long taken = std::max(0L, seen.end_step(row + count, steps) - from);
        const Unit *left = a + row * a_row + from * a_step, *right = b + from * b_step;
        tile_of<VECTORS>(count, left, a_row, a_step, right, b_step, taken, c + row * c_row, c_row, adding);
        row += count;
    }
}

static void product(long rows, long columns, const Unit* a, long a_row, long a_step, const Unit* b, long b_step,
                    long steps, float* c, long c_row, bool adding, Seen seen) {
    long column = 0;
    for (; column + WIDE * LANES <= columns; column += WIDE * LANES)
        rows_of<WIDE>(seen.first_row(column), rows, a, a_row, a_step, b + column, b_step, steps, c + column, c_row,
                      adding, seen);
    const long first = seen.first_row(column);
    b += column, c += column;
    switch ((columns - column) / LANES) {
        case 3: return rows_of<3>(first, rows, a, a_row, a_step, b, b_step, steps, c, c_row, adding, seen);
        case 2: return rows_of<2>(first, rows, a, a_row, a_step, b, b_step, steps, c, c_row, adding, seen);
        case 1: return rows_of<1>(first, rows, a, a_row, a_step, b, b_step, steps, c, c_row, adding, seen);
    }
}

// ---- operands laid out for it -------------------------------------------------------------------------------------------

// Rows (count, D) as columns: unit p of row i at to[p * width + i]. Rows beyond count are zero.
static void as_columns(const Element* from, long ld, long count, long head_size, Unit* to, long width) {
    const Unit* units = reinterpret_cast<const Unit*>(from);
    for (long i = 0; i < count; i += LANES)
        transpose(units + i * (ld / PER), ld / PER, std::min(LANES, count - i), head_size / PER, to + i, width);
}

#if !defined(ELEMENT_FLOAT32)
static inline Words side_by_side(Halves low, Halves high) {
    return __builtin_convertvector(low, Words) | (__builtin_convertvector(high, Words) << 16);
}
#endif

// Rows (count, D) with PER rows side by side in each unit: element d of rows i, i + 1 at to[(i / PER) * D + d].
static void interleave(const Element* from, long ld, long count, long head_size, Unit* to) {
    const long whole = padded(count);
    for (long i = 0; i < whole; i += PER)
        for (long d = 0; d < head_size; d += LANES) {
#if defined(ELEMENT_FLOAT32)
            put(to + i * head_size + d, i < count ? load(from + i * ld + d) : Floats{});
#else
            const Halves none{};
            Halves low = i < count ? at<Halves>(from + i * ld + d) : none;
            Halves high = i + 1 < count ? at<Halves>(from + (i + 1) * ld + d) : none;
            put(to + i / 2 * head_size + d, side_by_side(low, high));
#endif
        }
}

// ---- the forest -------------------------------------------------------------------------------------------------------

struct Node {
    long begin, length, depth, packed;  // in the batch · tokens · positions before it · in the tree's packed operands
    int parent;
};

struct Tree {
    int first, end;
    long packed;  // padded tokens of all of its nodes
};

struct Forest {
    std::vector<Node> nodes;
    std::vector<Tree> trees;
    long widest = 0;   // packed tokens of the largest tree
    long longest = 0;  // padded keys of the longest path

    Forest(const int32_t* offsets, const int32_t* parents, int num_nodes) {
        std::vector<long> path(num_nodes);
        for (int n = 0; n < num_nodes; n++) {
            int parent = parents[n];
            if (parent < 0) trees.push_back({n, n, 0});
            Tree& tree = trees.back();
            long length = offsets[n + 1] - offsets[n];
            long depth = parent < 0 ? 0 : nodes[parent].depth + nodes[parent].length;
            nodes.push_back({offsets[n], length, depth, tree.packed, parent});
            tree.packed += padded(length);
            tree.end = n + 1;
            path[n] = padded(length) + (parent < 0 ? 0 : path[parent]);
            widest = std::max(widest, tree.packed);
            longest = std::max(longest, path[n]);
        }
    }
};

// Keys that a block of queries sees in one node: `width` columns of its row of scores, from `column` on.
struct Span {
    long packed, depth, length, column, width;

    // Of a query at this depth: the keys low <= j < high.
    long low(long at, long window) const { return window ? std::max(0L, at - window + 1 - depth) : 0; }
    long high(long at) const { return std::min(length, at + 1 - depth); }
};

// The spans that a block of queries sees, none wider than `widest`, each in columns of its own; gives their columns.
static long see(const Forest& forest, int node, long first, long count, long window, long widest,
                std::vector<Span>& spans) {
    spans.clear();
    long columns = 0, start = forest.nodes[node].depth + first;
    for (int at = node; at >= 0; at = forest.nodes[at].parent) {
        const Node& keys = forest.nodes[at];
        const long length = at == node ? first + count : keys.length;
        for (long from = 0; from < length; from += widest) {
            const long part = std::min(widest, length - from);
            if (window && keys.depth + from + part <= start - window + 1) continue;
            spans.push_back({keys.packed + from, keys.depth + from, part, columns, padded(part)});
            columns += padded(part);
        }
    }
    return columns;
}

// ---- memory of a thread, kept between calls -----------------------------------------------------------------------------

static thread_local Scratch scratch;

// How a tree is divided into tasks: by the heads that share keys; or, where those would be too few for the threads, by
// head, and by every other block of queries.
struct Division {
    int heads, stripes, tasks;  // of a task · that a head is cut into · of a tree

    Division(const Forest& forest, int num_heads, int num_groups) {
        bool many = long(forest.trees.size()) * num_groups >= 4L * omp_get_max_threads();
        heads = many ? num_heads / num_groups : 1;
        stripes = many ? 1 : 2;
        tasks = num_heads / heads * stripes;
    }
    long first_head(long task) const { return task / stripes * heads; }
    bool has(long task, long first) const { return first / BLOCK % stripes == task % stripes; }
};

static inline Floats keep(Floats value, long low, long high, long column) {
    Ints place = lanes() + int32_t(column);
    return (place >= int32_t(low)) & (place < int32_t(high)) ? value : Floats{};
}

// Scores of a row become weights (not yet divided by their sum); gives the sum and takes the row's maximum into `most`.
static float soften(const float* scores, Element* weights, const std::vector<Span>& spans, long at, long window,
                    float scale, float& most) {
    Floats top = all(-INFINITY);
    for (const Span& span : spans) {
        long low = span.low(at, window), high = span.high(at);
        for (long j = low / LANES * LANES; j < high; j += LANES) {
            Ints place = lanes() + int32_t(j);
            Floats score = load(scores + span.column + j);
            top = larger(top, (place >= int32_t(low)) & (place < int32_t(high)) ? score : all(-INFINITY));
        }
    }
    most = largest(top) * scale;
    const float steep = scale * PER_NAT, shift = most * PER_NAT;
    Floats total{};
    for (const Span& span : spans) {
        long low = span.low(at, window), high = span.high(at);
        for (long j = 0; j < span.width; j += LANES) {
            Floats weight{};
            if (j < high && j + LANES > low)
                weight = keep(two_to(load(scores + span.column + j) * steep - shift), low, high, j);
            total += weight;
            store(weights + span.column + j, weight);
        }
    }
    return sum(total);
}

// Output (T, H, D) of strides (ld_out, D, 1), and the log-sum-exp of each score row, (H, T), for the backward.
KERNEL void attention(const Element* query, const Element* key, const Element* value, long ld, Element* out,
                      long ld_out, float* logsumexp, const int32_t* offsets, const int32_t* parents, int num_nodes,
                      int num_heads, int num_groups, long head_size, float scale, long window) {
    const Forest forest(offsets, parents, num_nodes);
    const long num_tokens = offsets[num_nodes], together = num_heads / num_groups;
    const Division division(forest, num_heads, num_groups);
#pragma omp parallel for schedule(dynamic, 1)
    for (long number = 0; number < long(forest.trees.size()) * division.tasks; number++) {
        const Tree& tree = forest.trees[number / division.tasks];
        const long task = number % division.tasks, first_head = division.first_head(task);
        const long group = first_head / together;
        scratch.reserve(4 * (head_size * tree.packed / PER * 2 + BLOCK * forest.longest * 2 + BLOCK * head_size) + 512);
        Unit* keys = scratch.take<Unit>(head_size / PER * tree.packed);
        Unit* values = scratch.take<Unit>(tree.packed / PER * head_size);
        float* scores = scratch.take<float>(BLOCK * forest.longest);
        Element* weights = scratch.take<Element>(BLOCK * forest.longest);
        float* sums = scratch.take<float>(BLOCK * head_size);
        std::vector<Span> spans;
        for (int n = tree.first; n < tree.end; n++) {
            const Node& node = forest.nodes[n];
            const long start = node.begin * ld + group * head_size;
            as_columns(key + start, ld, node.length, head_size, keys + node.packed, tree.packed);
            interleave(value + start, ld, node.length, head_size, values + node.packed / PER * head_size);
        }
        for (long head = first_head; head < first_head + division.heads; head++)
            for (int n = tree.first; n < tree.end; n++) {
                const Node& node = forest.nodes[n];
                for (long first = 0; first < node.length; first += BLOCK) {
                    if (!division.has(task, first)) continue;
                    const long count = std::min(BLOCK, node.length - first), row = node.begin + first;
                    const long columns = see(forest, n, first, count, window, WHOLE, spans);
                    const Unit* queries = reinterpret_cast<const Unit*>(query + row * ld + head * head_size);
                    const long start = node.depth + first;
                    for (const Span& span : spans)
                        product(count, span.width, queries, ld / PER, 1, keys + span.packed, tree.packed,
                                head_size / PER, scores + span.column, columns, false,
                                {Seen::BY_KEYS, start - span.depth});
                    float inverse[BLOCK];
                    for (long i = 0; i < count; i++) {
                        float most, total = soften(scores + i * columns, weights + i * columns, spans,
                                                   start + i, window, scale, most);
                        inverse[i] = 1.0f / total;
                        logsumexp[head * num_tokens + row + i] = most + std::log(total);
                    }
                    for (const Span& span : spans)
                        product(count, head_size, reinterpret_cast<const Unit*>(weights + span.column), columns / PER,
                                1, values + span.packed / PER * head_size, head_size, span.width / PER, sums, head_size,
                                &span != spans.data(), {Seen::OVER_KEYS, start - span.depth});
                    for (long i = 0; i < count; i++)
                        for (long d = 0; d < head_size; d += LANES)
                            store(out + (row + i) * ld_out + head * head_size + d,
                                  load(sums + i * head_size + d) * inverse[i]);
                }
            }
    }
}

// What the backward knows of a block's queries: position, log-sum-exp, and Σ output · upstream.
struct Rows {
    long count, at[BLOCK];
    float logsumexp[BLOCK], delta[BLOCK];
};

// Weights and score gradients of a block on one span of keys, from scores and their upstream gradients: row by row for
// the queries' gradient, and with PER rows side by side for the keys' and values'.
static void score_gradients(const Rows& rows, const Span& span, const float* scores, const float* upstream, long window,
                            float scale, Unit* weights_by_pair, Unit* slopes_by_pair, Element* slopes) {
    for (long pair = 0; pair * PER < rows.count; pair++)
        for (long j = 0; j < span.width; j += LANES) {
            Floats weight[PER], slope[PER];
            for (long z = 0; z < PER; z++) {
                weight[z] = slope[z] = Floats{};
                const long i = pair * PER + z, place = i * span.width + j;
                const long low = span.low(rows.at[i], window), high = span.high(rows.at[i]);
                if (i < rows.count && j < high && j + LANES > low) {
                    Floats chance = two_to(load(scores + place) * (scale * PER_NAT) - rows.logsumexp[i] * PER_NAT);
                    weight[z] = j >= low && j + LANES <= high ? chance : keep(chance, low, high, j);
                    slope[z] = weight[z] * scale * (load(upstream + place) - rows.delta[i]);
                }
                store(slopes + place, slope[z]);
            }
            const long place = pair * span.width + j;
#if defined(ELEMENT_FLOAT32)
            put(weights_by_pair + place, weight[0]);
            put(slopes_by_pair + place, slope[0]);
#else
            put(weights_by_pair + place, side_by_side(rounded(weight[0]), rounded(weight[1])));
            put(slopes_by_pair + place, side_by_side(rounded(slope[0]), rounded(slope[1])));
#endif
        }
}

struct Task {
    const Forest& forest;
    const Tree& tree;
    long head_size, ld, ld_out, window;
    float scale;
    Unit *keys, *values, *keys_by_row, *weights_by_pair, *slopes_by_pair, *queries_by_pair, *upstream_by_pair;
    float *scores, *upstream_scores, *sums;
    Element* slopes;

    static size_t bytes(const Tree& tree, long head_size) {
        const long operands = 3 * head_size * tree.packed / PER, scores = 2 * BLOCK * CHUNK;
        const long pairs = 2 * BLOCK / PER * CHUNK + 2 * (BLOCK + LANES) / PER * head_size;
        return 4 * (operands + scores + pairs + BLOCK * CHUNK + BLOCK * head_size) + 1024;
    }

    Task(const Forest& forest, const Tree& tree, long head_size, long ld, long ld_out, long window, float scale)
        : forest(forest), tree(tree), head_size(head_size), ld(ld), ld_out(ld_out), window(window), scale(scale) {
        keys = scratch.take<Unit>(head_size / PER * tree.packed);
        values = scratch.take<Unit>(head_size / PER * tree.packed);
        keys_by_row = scratch.take<Unit>(tree.packed / PER * head_size);
        scores = scratch.take<float>(BLOCK * CHUNK);
        upstream_scores = scratch.take<float>(BLOCK * CHUNK);
        weights_by_pair = scratch.take<Unit>(BLOCK / PER * CHUNK);
        slopes_by_pair = scratch.take<Unit>(BLOCK / PER * CHUNK);
        queries_by_pair = scratch.take<Unit>((BLOCK + LANES) / PER * head_size);
        upstream_by_pair = scratch.take<Unit>((BLOCK + LANES) / PER * head_size);
        slopes = scratch.take<Element>(BLOCK * CHUNK);
        sums = scratch.take<float>(BLOCK * head_size);
    }

    void pack(const Element* key, const Element* value) {
        for (int n = tree.first; n < tree.end; n++) {
            const Node& node = forest.nodes[n];
            as_columns(key + node.begin * ld, ld, node.length, head_size, keys + node.packed, tree.packed);
            as_columns(value + node.begin * ld, ld, node.length, head_size, values + node.packed, tree.packed);
            interleave(key + node.begin * ld, ld, node.length, head_size, keys_by_row + node.packed / PER * head_size);
        }
    }

    // One block of queries of one head: its own gradient goes out, those of its keys and values are added to the sums.
    void block(int n, long first, const Element* query, const Element* out, const Element* upstream,
               const float* logsumexp, Element* to, float* key_sums, float* value_sums, std::vector<Span>& spans) {
        const Node& node = forest.nodes[n];
        const long count = std::min(BLOCK, node.length - first), row = node.begin + first;
        const long pairs = (count + PER - 1) / PER;
        const Unit* queries = reinterpret_cast<const Unit*>(query + row * ld);
        const Unit* upstreams = reinterpret_cast<const Unit*>(upstream + row * ld_out);
        interleave(query + row * ld, ld, count, head_size, queries_by_pair);
        interleave(upstream + row * ld_out, ld_out, count, head_size, upstream_by_pair);
        const Rows rows = known(node.depth + first, count, out + row * ld_out, upstream + row * ld_out, logsumexp + row);
        see(forest, n, first, count, window, CHUNK, spans);
        for (const Span& span : spans) {
            const long size = head_size, at = span.packed * size, ahead = node.depth + first - span.depth;
            product(count, span.width, queries, ld / PER, 1, keys + span.packed, tree.packed, size / PER, scores,
                    span.width, false, {Seen::BY_KEYS, ahead});
            product(count, span.width, upstreams, ld_out / PER, 1, values + span.packed, tree.packed, size / PER,
                    upstream_scores, span.width, false, {Seen::BY_KEYS, ahead});
            score_gradients(rows, span, scores, upstream_scores, window, scale, weights_by_pair, slopes_by_pair, slopes);
            product(count, size, reinterpret_cast<const Unit*>(slopes), span.width / PER, 1, keys_by_row + at / PER,
                    size, span.width / PER, sums, size, &span != spans.data(), {Seen::OVER_KEYS, ahead});
            product(span.width, size, weights_by_pair, 1, span.width, upstream_by_pair, size, pairs, value_sums + at,
                    size, true, {Seen::OVER_QUERIES, ahead});
            product(span.width, size, slopes_by_pair, 1, span.width, queries_by_pair, size, pairs, key_sums + at, size,
                    true, {Seen::OVER_QUERIES, ahead});
        }
        for (long i = 0; i < count; i++)
            for (long d = 0; d < head_size; d += LANES) store(to + (row + i) * ld + d, load(sums + i * head_size + d));
    }

    Rows known(long depth, long count, const Element* out, const Element* upstream, const float* logsumexp) const {
        Rows rows;
        rows.count = count;
        for (long i = 0; i < count; i++) {
            Floats both{};
            for (long d = 0; d < head_size; d += LANES) both += load(out + i * ld_out + d) * load(upstream + i * ld_out + d);
            rows.at[i] = depth + i, rows.logsumexp[i] = logsumexp[i], rows.delta[i] = sum(both);
        }
        for (long i = count; i < BLOCK; i++) rows.at[i] = 0, rows.logsumexp[i] = rows.delta[i] = 0;
        return rows;
    }
};

// Gradients of query, key and value, in the layout of query, key and value; `upstream` is laid out like `out`. The order
// of every sum depends on shapes and the number of threads alone.
KERNEL void attention_backward(const Element* query, const Element* key, const Element* value, long ld,
                               const Element* out, const Element* upstream, long ld_out, const float* logsumexp,
                               Element* to_query, Element* to_key, Element* to_value, const int32_t* offsets,
                               const int32_t* parents, int num_nodes, int num_heads, int num_groups, long head_size,
                               float scale, long window) {
    static thread_local Scratch shared;
    const Forest forest(offsets, parents, num_nodes);
    const long num_tokens = offsets[num_nodes], num_trees = long(forest.trees.size());
    const long together = num_heads / num_groups;
    const Division division(forest, num_heads, num_groups);
    const int tasks = division.tasks;
    // Gradients of keys and of values that a task adds up, over its heads: 2 (packed, D) blocks for each task.
    std::vector<long> start(num_trees + 1);
    for (long t = 0; t < num_trees; t++) start[t + 1] = start[t] + 2 * tasks * forest.trees[t].packed * head_size;
    shared.reserve(start[num_trees] * sizeof(float) + 64);
    float* const sums = shared.take<float>(start[num_trees]);
#pragma omp parallel for schedule(dynamic, 1)
    for (long number = 0; number < num_trees * tasks; number++) {
        const Tree& tree = forest.trees[number / tasks];
        const long share = number % tasks, first_head = division.first_head(share), group = first_head / together;
        const long size = tree.packed * head_size;
        float* key_sums = sums + start[number / tasks] + share * 2 * size;
        std::fill(key_sums, key_sums + 2 * size, 0.0f);
        scratch.reserve(Task::bytes(tree, head_size));
        Task task(forest, tree, head_size, ld, ld_out, window, scale);
        task.pack(key + group * head_size, value + group * head_size);
        std::vector<Span> spans;
        for (long head = first_head; head < first_head + division.heads; head++)
            for (int n = tree.first; n < tree.end; n++)
                for (long first = 0; first < forest.nodes[n].length; first += BLOCK)
                    if (division.has(share, first))
                        task.block(n, first, query + head * head_size, out + head * head_size, upstream + head * head_size,
                               logsumexp + head * num_tokens, to_query + head * head_size, key_sums, key_sums + size,
                               spans);
    }
#pragma omp parallel for schedule(static) collapse(2)
    for (int n = 0; n < num_nodes; n++)
        for (long group = 0; group < num_groups; group++) {
            const Node& node = forest.nodes[n];
            long t = 0;
            while (forest.trees[t].end <= n) t++;
            const long size = forest.trees[t].packed * head_size, parts = tasks / num_groups;
            const float* from = sums + start[t] + group * parts * 2 * size + node.packed * head_size;
            for (long i = 0; i < node.length; i++)
                for (long d = 0; d < head_size; d += LANES) {
                    Floats of_key{}, of_value{};
                    for (long part = 0; part < parts; part++) {
                        of_key += load(from + part * 2 * size + i * head_size + d);
                        of_value += load(from + (part * 2 + 1) * size + i * head_size + d);
                    }
                    store(to_key + (node.begin + i) * ld + group * head_size + d, of_key);
                    store(to_value + (node.begin + i) * ld + group * head_size + d, of_value);
                }
        }
}
