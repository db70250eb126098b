// All layers of a forward in one call, for processors with AVX-512 and bfloat16 products.
//
// A matrix lies in blocks of 32 outputs, pairs (bfloat16) or fours (8 bits) of inputs side by side, so that one
// instruction multiplies 16 outputs. Every output is summed over its inputs in their order, in one lane, whatever the
// number of rows: a row's result is the same bits alone and among others, and no row pays for another's shape.
// T rows, D hidden, H query heads, G key/value heads, K head dim, O outputs of a matrix.

#include <immintrin.h>
#include <omp.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <sched.h>
#include <vector>

namespace {

using bf16 = uint16_t;

constexpr int BLOCK = 32;       // outputs of a block: two vectors
constexpr int ROWS = 12;        // rows of a tile: 24 sums stay in registers
constexpr int SOME = 4;         // rows of a piece of work where each row is for itself
constexpr int SCORES = 1 << 16; // attention weights of a thread at a time
constexpr int MOST_QUERIES = 32; // rows of a request whose attention is one piece of work
constexpr int QUERIES = 4;      // query rows that are multiplied at a time
constexpr int WEIGHED = 5;      // query rows whose values are summed at a time
constexpr int DISTANCE = 8192;  // bytes that weights are asked for before they are used
constexpr int MOST_THREADS = 128;
constexpr int PATIENCE = 2000;  // turns of waiting before the processor is left to others
constexpr int ZERO = 128;       // weights of 8 bits are stored unsigned around it

struct Matrix {
    const void *weight;
    const float *scale; // per output, of 8 bits; null for bfloat16
    const float *bias;  // per output, or null
    int64_t outputs, inputs;
};

struct Panel { // of B of an adapter, for 32 outputs: [pairs, 32, 2], acting on inner values from `left` on
    const bf16 *weight;
    int64_t left, pairs;
};

struct LowRank {
    Matrix a; // no weight where the adapter leaves this group alone
    const Panel *b;
};

struct Group {
    Matrix matrix;
    const LowRank *adapters;
};

struct Layer {
    const float *norm, *mlp_norm, *q_norm, *k_norm;
    Group qkv, o, gate_up, down;
};

struct Model {
    int64_t layers, hidden, heads, kv_heads, head_dim, inner, widest_rank;
    float eps;
    const Layer *layer;
};

struct Segment { // rows of one request; keys are in `slots`; mask [rows, keys] or null where all is seen
    int64_t first, last, keys;
    const int64_t *slots;
    const uint8_t *mask;
};

struct Batch {
    int64_t rows, segments;
    const Segment *segment;
    const int64_t *write;   // slot of each row
    const int32_t *adapter; // of each row, -1 for none
    const int64_t *positions;
    const float *cos, *sin; // of all positions: [., K / 2]
    const float *scale;     // of each row's queries, or null
    bf16 *x, *keys, *values;
    int64_t layer_stride; // from a layer's keys to the next's
};

inline __m512 load(const bf16 *from) {
    return _mm512_castsi512_ps(
        _mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i *>(from))), 16));
}

inline void store(bf16 *to, __m512 values) {
    _mm256_storeu_si256(reinterpret_cast<__m256i *>(to), (__m256i)_mm512_cvtneps_pbh(values));
}

inline __m512i four_bytes(const void *from) {
    int32_t bits;
    std::memcpy(&bits, from, 4);
    return _mm512_set1_epi32(bits);
}

// Adds four products of unsigned weights and signed values to each of 16 sums. The intrinsic would do, but g++ 12 copies
// every sum twice on its way through a loop.
inline void add_fours(__m512i &sums, __m512i weights, const int8_t *values) {
    typedef int32_t __attribute__((may_alias)) Four;
    asm("vpdpbusd %2%{1to16%}, %1, %0" : "+v"(sums) : "v"(weights), "m"(*reinterpret_cast<const Four *>(values)));
}

inline __m512 exponential(__m512 x) {
    const __mmask16 seen = _mm512_cmp_ps_mask(x, _mm512_set1_ps(-87.0f), _CMP_GE_OQ);
    x = _mm512_max_ps(x, _mm512_set1_ps(-87.0f));
    const __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(1.44269504f)), 0);
    __m512 r = _mm512_fnmadd_ps(n, _mm512_set1_ps(0.693359375f), x);
    r = _mm512_fnmadd_ps(n, _mm512_set1_ps(-2.12194440e-4f), r);
    __m512 y = _mm512_set1_ps(1.9875691500e-4f);
    y = _mm512_fmadd_ps(y, r, _mm512_set1_ps(1.3981999507e-3f));
    y = _mm512_fmadd_ps(y, r, _mm512_set1_ps(8.3334519073e-3f));
    y = _mm512_fmadd_ps(y, r, _mm512_set1_ps(4.1665795894e-2f));
    y = _mm512_fmadd_ps(y, r, _mm512_set1_ps(1.6666665459e-1f));
    y = _mm512_fmadd_ps(y, r, _mm512_set1_ps(5.0000001201e-1f));
    y = _mm512_fmadd_ps(y, _mm512_mul_ps(r, r), _mm512_add_ps(r, _mm512_set1_ps(1.0f)));
    return _mm512_maskz_scalef_ps(seen, y, n);
}

// Pairs [first, first + 16) of 16 rows as columns: to[pair * 16 + row].
inline void turn_sixteen(const bf16 *const *rows, int64_t first, int32_t *to) {
    __m512i a[16], b[16];
#pragma GCC unroll 16
    for (int i = 0; i < 16; i++) a[i] = _mm512_loadu_si512(rows[i] + 2 * first);
#pragma GCC unroll 8
    for (int i = 0; i < 16; i += 2) {
        b[i] = _mm512_unpacklo_epi32(a[i], a[i + 1]);
        b[i + 1] = _mm512_unpackhi_epi32(a[i], a[i + 1]);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 16; i += 4) {
        a[i] = _mm512_unpacklo_epi64(b[i], b[i + 2]);
        a[i + 1] = _mm512_unpackhi_epi64(b[i], b[i + 2]);
        a[i + 2] = _mm512_unpacklo_epi64(b[i + 1], b[i + 3]);
        a[i + 3] = _mm512_unpackhi_epi64(b[i + 1], b[i + 3]);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        const __m512i low = _mm512_shuffle_i32x4(a[i], a[i + 4], 0x88), high = _mm512_shuffle_i32x4(a[i], a[i + 4], 0xdd);
        const __m512i more = _mm512_shuffle_i32x4(a[i + 8], a[i + 12], 0x88),
                      most = _mm512_shuffle_i32x4(a[i + 8], a[i + 12], 0xdd);
        _mm512_storeu_si512(to + i * 16, _mm512_shuffle_i32x4(low, more, 0x88));
        _mm512_storeu_si512(to + (8 + i) * 16, _mm512_shuffle_i32x4(low, more, 0xdd));
        _mm512_storeu_si512(to + (4 + i) * 16, _mm512_shuffle_i32x4(high, most, 0x88));
        _mm512_storeu_si512(to + (12 + i) * 16, _mm512_shuffle_i32x4(high, most, 0xdd));
    }
}

// Work in phases. Each thread has a run of pieces of its own, then helps the others with theirs; the next phase begins
// when all are done. So a thread that the system has put aside holds up nobody, unless in the middle of a piece.
struct alignas(64) Phase {
    std::atomic<int64_t> next[MOST_THREADS]{}, done{0};
};

struct Crew { // one thread's view of the phases of a forward
    Phase *phase;
    int64_t thread = omp_get_thread_num(), threads = omp_get_num_threads();
    template <class Work> void together(int64_t pieces, Work work) {
        Phase &own = *phase++;
        for (int64_t turn = 0; turn < threads; turn++) {
            const int64_t whose = (thread + turn) % threads, first = pieces * whose / threads;
            const int64_t count = pieces * (whose + 1) / threads - first;
            for (int64_t i; (i = own.next[whose].fetch_add(1, std::memory_order_relaxed)) < count;) {
                work(first + i);
                own.done.fetch_add(1, std::memory_order_release);
            }
        }
        for (int64_t turns = 0; own.done.load(std::memory_order_acquire) < pieces; turns++)
            turns < PATIENCE ? _mm_pause() : void(sched_yield());
    }
};

// Rows as an operand of products: bfloat16 [T, inputs], and the same rounded to 8 bits where the matrix wants it, with
// the factor that undoes it and the sum of the rounded values, of each row.
struct Operand {
    const bf16 *x;
    const int8_t *whole;
    const float *factor;
    const int32_t *total;
    int64_t stride;
};

enum class Into { floats, halves, sum };

// Where outputs go: float32 or bfloat16 [T, stride], set or, for bfloat16, added to.
struct Target {
    Into into;
    void *to;
    int64_t stride;
};

// Lines of memory to be fetched while a tile is computed: so many for each step along the inputs.
struct Ahead {
    const char *from;
    int64_t lines;
};

inline void fetch(const Ahead &ahead, int64_t step) {
    const char *from = ahead.from + step * ahead.lines * 64;
    for (int64_t i = 0; i < ahead.lines; i++) _mm_prefetch(from + i * 64, _MM_HINT_T1);
}

// Not inlined, and sums handed over in memory: loops alone have registers enough.
template <int R>
[[gnu::noinline]] void sums_of_bytes(const Matrix &m, int64_t block, const Operand &in, const int64_t *rows,
                                     const Ahead &ahead, __m512 *sums) {
    const uint8_t *w = static_cast<const uint8_t *>(m.weight) + block * m.inputs * BLOCK;
    const int8_t *x[R];
    __m512i first[R], second[R];
#pragma GCC unroll 16
    for (int r = 0; r < R; r++) {
        x[r] = in.whole + rows[r] * in.stride;
        first[r] = second[r] = _mm512_setzero_si512();
    }
    for (int64_t i = 0; i < m.inputs; i += 4) {
        fetch(ahead, i / 4);
        const __m512i low = _mm512_loadu_si512(w + i * BLOCK), high = _mm512_loadu_si512(w + i * BLOCK + 64);
#pragma GCC unroll 16
        for (int r = 0; r < R; r++) {
            add_fours(first[r], low, x[r] + i);
            add_fours(second[r], high, x[r] + i);
        }
    }
    const __m512 scale = _mm512_loadu_ps(m.scale + block * BLOCK);
    const __m512 scales = _mm512_loadu_ps(m.scale + block * BLOCK + 16);
#pragma GCC unroll 16
    for (int r = 0; r < R; r++) {
        const __m512i zero = _mm512_set1_epi32(ZERO * in.total[rows[r]]);
        const __m512 factor = _mm512_set1_ps(in.factor[rows[r]]);
        const __m512 low = _mm512_cvtepi32_ps(_mm512_sub_epi32(first[r], zero));
        const __m512 high = _mm512_cvtepi32_ps(_mm512_sub_epi32(second[r], zero));
        sums[2 * r] = _mm512_mul_ps(low, _mm512_mul_ps(scale, factor));
        sums[2 * r + 1] = _mm512_mul_ps(high, _mm512_mul_ps(scales, factor));
    }
}

// Adds to `sums` what `pairs` pairs of R rows bring to 32 outputs. weight: [pairs, 32, 2].
template <int R>
[[gnu::noinline]] void add_pairs(const bf16 *weight, int64_t pairs, const bf16 *const *x, const Ahead &ahead,
                                 __m512 *sums) {
    __m512 one[R], two[R];
#pragma GCC unroll 16
    for (int r = 0; r < R; r++) {
        one[r] = sums[2 * r];
        two[r] = sums[2 * r + 1];
    }
    for (int64_t i = 0; i < pairs; i++) {
        fetch(ahead, i);
        const __m512bh low = (__m512bh)_mm512_loadu_si512(weight + i * 2 * BLOCK);
        const __m512bh high = (__m512bh)_mm512_loadu_si512(weight + i * 2 * BLOCK + 32);
#pragma GCC unroll 16
        for (int r = 0; r < R; r++) {
            const __m512bh pair = (__m512bh)four_bytes(x[r] + 2 * i);
            one[r] = _mm512_dpbf16_ps(one[r], low, pair);
            two[r] = _mm512_dpbf16_ps(two[r], high, pair);
        }
    }
#pragma GCC unroll 16
    for (int r = 0; r < R; r++) {
        sums[2 * r] = one[r];
        sums[2 * r + 1] = two[r];
    }
}

struct Rows { // rows on which the same adapter acts, or none (-1)
    int64_t adapter;
    std::vector<int64_t> rows;
};

struct Inner { // A x of the rows that have an adapter
    const bf16 *values;
    int64_t stride;
};

inline void put(const Group &g, int64_t output, __m512 y, const Target &out, int64_t row) {
    if (g.matrix.bias) y = _mm512_add_ps(y, _mm512_loadu_ps(g.matrix.bias + output));
    const int64_t place = row * out.stride + output;
    if (out.into == Into::floats) return _mm512_storeu_ps(static_cast<float *>(out.to) + place, y);
    bf16 *half = static_cast<bf16 *>(out.to) + place;
    store(half, out.into == Into::sum ? _mm512_add_ps(y, load(half)) : y);
}

// 32 outputs of R rows. panel: of the adapter that acts on all of them, or null.
template <int R>
void tile(const Group &g, int64_t block, const Operand &in, const int64_t *rows, const Panel *panel, const Inner &inner,
          const Target &out, const Ahead &ahead) {
    __m512 sums[2 * R];
    const bf16 *x[R];
    if (g.matrix.scale)
        sums_of_bytes<R>(g.matrix, block, in, rows, ahead, sums);
    else {
        for (int r = 0; r < R; r++) {
            x[r] = in.x + rows[r] * in.stride;
            sums[2 * r] = sums[2 * r + 1] = _mm512_setzero_ps();
        }
        const bf16 *weight = static_cast<const bf16 *>(g.matrix.weight) + block * g.matrix.inputs * BLOCK;
        add_pairs<R>(weight, g.matrix.inputs / 2, x, ahead, sums);
    }
    if (panel) {
        for (int r = 0; r < R; r++) x[r] = inner.values + rows[r] * inner.stride + panel->left;
        add_pairs<R>(panel->weight, panel->pairs, x, Ahead{nullptr, 0}, sums);
    }
    for (int i = 0; i < 2 * R; i++) put(g, block * BLOCK + i % 2 * 16, sums[i], out, rows[i / 2]);
}

using Tile = void (*)(const Group &, int64_t, const Operand &, const int64_t *, const Panel *, const Inner &,
                      const Target &, const Ahead &);
constexpr Tile TILES[ROWS] = {tile<1>, tile<2>, tile<3>, tile<4>,  tile<5>,  tile<6>,
                              tile<7>, tile<8>, tile<9>, tile<10>, tile<11>, tile<12>};

int64_t blocks_of(const Matrix &matrix) { return (matrix.outputs + BLOCK - 1) / BLOCK; }

// One block of outputs of all rows.
void multiply(const Group &g, int64_t block, const Operand &in, const std::vector<Rows> &groups, const Inner &inner,
              const Target &out) {
    const int64_t size = g.matrix.inputs * BLOCK * (g.matrix.scale ? 1 : 2);
    // The first tile waits for memory, so it asks early; while the second computes, the next block comes in.
    const char *weight = static_cast<const char *>(g.matrix.weight) + block * size;
    const Ahead soon{weight + DISTANCE, 2}, next{weight + size, 2}, none{nullptr, 0};
    int64_t done = 0;
    for (const Rows &own : groups) {
        const int64_t count = own.rows.size(), tiles = (count + ROWS - 1) / ROWS;
        const LowRank *low = own.adapter < 0 ? nullptr : &g.adapters[own.adapter];
        const Panel *panel = low && low->a.weight ? &low->b[block] : nullptr;
        for (int64_t i = 0; i < tiles; i++, done++) {
            const int64_t first = count * i / tiles, last = count * (i + 1) / tiles;
            TILES[last - first - 1](g, block, in, &own.rows[first], panel, inner, out,
                                    done == 0 ? soon : done == 1 ? next : none);
        }
    }
}

// RMSNorm of a row of `size` values: mean square in float32, one rounding.
template <class Put> inline void normed(const bf16 *x, const float *weight, int64_t size, float eps, Put put) {
    __m512 squares = _mm512_setzero_ps();
    for (int64_t i = 0; i < size; i += 16) squares = _mm512_fmadd_ps(load(x + i), load(x + i), squares);
    const __m512 factor = _mm512_set1_ps(1.0f / std::sqrt(_mm512_reduce_add_ps(squares) / float(size) + eps));
    for (int64_t i = 0; i < size; i += 16)
        put(i, _mm512_mul_ps(_mm512_mul_ps(load(x + i), factor), _mm512_loadu_ps(weight + i)));
}

// A row rounded to 8 bits.
void round_row(const bf16 *x, int64_t size, int8_t *whole, float &factor, int32_t &total) {
    __m512 peaks = _mm512_setzero_ps();
    __m512i totals = _mm512_setzero_si512();
    for (int64_t i = 0; i < size; i += 16) peaks = _mm512_max_ps(peaks, _mm512_abs_ps(load(x + i)));
    const float peak = _mm512_reduce_max_ps(peaks);
    const __m512 scale = _mm512_set1_ps(peak > 0 ? 127.0f / peak : 0.0f);
    for (int64_t i = 0; i < size; i += 16) {
        const __m512i rounded = _mm512_cvtps_epi32(_mm512_mul_ps(load(x + i), scale));
        totals = _mm512_add_epi32(totals, rounded);
        _mm_storeu_si128(reinterpret_cast<__m128i *>(whole + i), _mm512_cvtepi32_epi8(rounded));
    }
    factor = peak / 127.0f;
    total = _mm512_reduce_add_epi32(totals);
}

struct Memory { // of one forward at a time; grows and stays
    std::vector<char> bytes;
    int64_t used = 0;
    void reset(int64_t size) {
        if (int64_t(bytes.size()) < size + 64) {
            bytes = {}; // nothing in it is needed any more
            bytes.resize(size + 64);
        }
        used = (64 - reinterpret_cast<uintptr_t>(bytes.data()) % 64) % 64;
    }
    template <class T> T *take(int64_t count) {
        T *place = reinterpret_cast<T *>(bytes.data() + used);
        used += (count * int64_t(sizeof(T)) + 63) / 64 * 64;
        return place;
    }
};

struct Forward {
    const Model &model;
    const Batch &batch;
    bf16 *x, *normed_x, *q, *attended, *inner_x, *low;
    float *mixed, *gated, *factor;
    int8_t *whole;
    int32_t *total;
    std::vector<Rows> groups;
    struct Task {                              // rows of a segment that attend together
        int64_t segment, first, last;
    };
    std::vector<Task> tasks;

    int64_t width() const { return model.heads * model.head_dim; }
    int64_t kv_width() const { return model.kv_heads * model.head_dim; }

    Forward(const Model &m, const Batch &b, Memory &memory, int64_t threads) : model(m), batch(b), x(b.x) {
        const int64_t rows = b.rows, widest = std::max({m.hidden, m.inner, width()});
        const int64_t mixed_width = width() + 2 * kv_width();
        memory.reset(rows * (2 * (m.hidden + 2 * width() + m.inner + m.widest_rank) +
                             4 * (mixed_width + 2 * m.inner + 2) + widest) +
                     16 * 64);
        normed_x = memory.take<bf16>(rows * m.hidden);
        q = memory.take<bf16>(rows * width());
        attended = memory.take<bf16>(rows * width());
        inner_x = memory.take<bf16>(rows * m.inner);
        low = memory.take<bf16>(rows * m.widest_rank);
        mixed = memory.take<float>(rows * mixed_width);
        gated = memory.take<float>(rows * 2 * m.inner);
        factor = memory.take<float>(rows);
        total = memory.take<int32_t>(rows);
        whole = memory.take<int8_t>(rows * widest);
        for (int64_t row = 0; row < rows; row++) {
            const int64_t adapter = b.adapter[row];
            const auto same = [&](const Rows &own) { return own.adapter == adapter; };
            auto own = std::find_if(groups.begin(), groups.end(), same);
            if (own == groups.end()) own = groups.insert(own, Rows{adapter, {}});
            own->rows.push_back(row);
        }
        const int64_t share = m.heads / m.kv_heads;
        for (int64_t s = 0; s < b.segments; s++) {
            const Segment &own = b.segment[s];
            const int64_t most = std::clamp<int64_t>(SCORES / ((own.keys + 15) * share), 1, MOST_QUERIES);
            if (own.last == own.first) continue;
            const int64_t count = own.last - own.first, even = m.kv_heads % threads ? std::min(count, threads) : 1;
            const int64_t parts = std::max((count + most - 1) / most, even);
            for (int64_t i = 0; i < parts; i++)
                tasks.push_back(Task{s, own.first + count * i / parts, own.first + count * (i + 1) / parts});
        }
    }

    // Asks for the beginning of this thread's share of a matrix that is needed next.
    void ask(const Crew &crew, const Matrix &matrix) const {
        const int64_t size = matrix.inputs * BLOCK * (matrix.scale ? 1 : 2);
        const char *from = static_cast<const char *>(matrix.weight) + blocks_of(matrix) * crew.thread / crew.threads * size;
        for (int64_t i = 0; i < DISTANCE; i += 64) _mm_prefetch(from + i, _MM_HINT_T1);
    }

    // Pieces of work on some rows each.
    template <class Work> void by_rows(Crew &crew, Work work) {
        crew.together((batch.rows + SOME - 1) / SOME, [&](int64_t i) {
            for (int64_t row = i * SOME; row < std::min((i + 1) * SOME, batch.rows); row++) work(row);
        });
    }

    void norm(Crew &crew, const float *weight, bool whole_too) {
        by_rows(crew, [&](int64_t row) {
            bf16 *to = normed_x + row * model.hidden;
            normed(x + row * model.hidden, weight, model.hidden, model.eps,
                   [&](int64_t i, __m512 values) { store(to + i, values); });
            if (whole_too) round_row(to, model.hidden, whole + row * model.hidden, factor[row], total[row]);
        });
    }

    void round_rows(Crew &crew, const Group &g, const bf16 *from) {
        const int64_t size = g.matrix.inputs;
        if (g.matrix.scale)
            by_rows(crew, [&](int64_t row) {
                round_row(from + row * size, size, whole + row * size, factor[row], total[row]);
            });
    }

    void group(Crew &crew, const Group &g, const bf16 *from, const Target &out) {
        const Operand in{from, whole, factor, total, g.matrix.inputs};
        const Inner inner{low, model.widest_rank};
        for (const Rows &own : groups) {
            if (own.adapter < 0 || !g.adapters[own.adapter].a.weight) continue;
            const Group first{g.adapters[own.adapter].a, nullptr};
            const std::vector<Rows> rows{Rows{-1, own.rows}};
            crew.together(blocks_of(first.matrix), [&](int64_t block) {
                multiply(first, block, in, rows, inner, Target{Into::halves, low, model.widest_rank});
            });
        }
        crew.together(blocks_of(g.matrix), [&](int64_t block) { multiply(g, block, in, groups, inner, out); });
    }

    // Norms of heads, rotation, and what is kept of a row.
    void place(Crew &crew, const Layer &own, int64_t layer) {
        const int64_t dim = model.head_dim, half = dim / 2;
        by_rows(crew, [&](int64_t row) {
            float *from = mixed + row * (width() + 2 * kv_width());
            const float *cos = batch.cos + batch.positions[row] * half, *sin = batch.sin + batch.positions[row] * half;
            const int64_t slot = layer * batch.layer_stride + batch.write[row] * kv_width();
            for (int64_t h = 0; h < model.heads + model.kv_heads; h++, from += dim) {
                const bool query = h < model.heads;
                if (const float *weight = query ? own.q_norm : own.k_norm) norm_head(from, weight);
                const float scale = query && batch.scale ? batch.scale[row] : 1.0f;
                turn(from, cos, sin, scale, half,
                     query ? q + row * width() + h * dim : batch.keys + slot + (h - model.heads) * dim);
            }
            for (int64_t i = 0; i < kv_width(); i += 16) store(batch.values + slot + i, _mm512_loadu_ps(from + i));
        });
    }

    void norm_head(float *head, const float *weight) const {
        __m512 squares = _mm512_setzero_ps();
        for (int64_t i = 0; i < model.head_dim; i += 16)
            squares = _mm512_fmadd_ps(_mm512_loadu_ps(head + i), _mm512_loadu_ps(head + i), squares);
        const float mean = _mm512_reduce_add_ps(squares) / float(model.head_dim);
        const __m512 factor = _mm512_set1_ps(1.0f / std::sqrt(mean + model.eps));
        for (int64_t i = 0; i < model.head_dim; i += 16)
            _mm512_storeu_ps(head + i, _mm512_mul_ps(_mm512_mul_ps(_mm512_loadu_ps(head + i), factor),
                                                     _mm512_loadu_ps(weight + i)));
    }

    static void turn(const float *head, const float *cos, const float *sin, float scale, int64_t half, bf16 *to) {
        for (int64_t i = 0; i < half; i += 8) {
            const __m256 first = _mm256_loadu_ps(head + i), second = _mm256_loadu_ps(head + half + i);
            const __m256 c = _mm256_loadu_ps(cos + i), s = _mm256_loadu_ps(sin + i), factor = _mm256_set1_ps(scale);
            const __m256 one = _mm256_sub_ps(_mm256_mul_ps(first, c), _mm256_mul_ps(second, s));
            const __m256 two = _mm256_add_ps(_mm256_mul_ps(second, c), _mm256_mul_ps(first, s));
            _mm_storeu_si128(reinterpret_cast<__m128i *>(to + i), (__m128i)_mm256_cvtneps_pbh(_mm256_mul_ps(one, factor)));
            _mm_storeu_si128(reinterpret_cast<__m128i *>(to + half + i),
                             (__m128i)_mm256_cvtneps_pbh(_mm256_mul_ps(two, factor)));
        }
    }

    void attend(Crew &crew, int64_t layer) {
        crew.together(tasks.size() * model.kv_heads, [&](int64_t i) {
            const Task &task = tasks[i / model.kv_heads];
            attend_rows(batch.segment[task.segment], layer, i % model.kv_heads, task.first, task.last);
        });
    }

    // Rows [first, last) of a segment under one key head.
    void attend_rows(const Segment &own, int64_t layer, int64_t g, int64_t first, int64_t last) {
        const int64_t dim = model.head_dim, share = model.heads / model.kv_heads, pairs = dim / 2;
        const int64_t offset = layer * batch.layer_stride + g * dim, queries = (last - first) * share;
        int64_t keys = own.keys;
        if (own.mask) // none of the rows sees what is behind
            for (bool seen = false; !seen && keys > 1; keys -= !seen)
                for (int64_t row = first; row < last && !seen; row++)
                    seen = own.mask[(row - own.first) * own.keys + keys - 1];
        const int64_t padded = (keys + 15) / 16 * 16;
        static thread_local std::vector<float> scores;
        static thread_local std::vector<int32_t> columns;
        static thread_local std::vector<const bf16 *> q_rows;
        static thread_local std::vector<bf16 *> outs;
        scores.resize(queries * padded);
        columns.resize(pairs * 16);
        q_rows.resize(queries + QUERIES);
        outs.resize(queries);
        for (int64_t i = 0; i < queries; i++) {
            const int64_t place = (first + i / share) * width() + (g * share + i % share) * dim;
            q_rows[i] = q + place;
            outs[i] = attended + place;
        }
        for (int64_t i = queries; i < queries + QUERIES; i++) q_rows[i] = q_rows[queries - 1];
        const __m512 factor = _mm512_set1_ps(1.0f / std::sqrt(float(dim)));
        for (int64_t key = 0; key < padded; key += 16) {
            const bf16 *from[16];
            for (int64_t j = 0; j < 16; j++)
                from[j] = batch.keys + offset + own.slots[std::min(key + j, keys - 1)] * kv_width();
            int64_t turned = 0;
            for (; turned + 16 <= pairs; turned += 16) turn_sixteen(from, turned, &columns[turned * 16]);
            for (; turned < pairs; turned++)
                for (int64_t j = 0; j < 16; j++) std::memcpy(&columns[turned * 16 + j], from[j] + 2 * turned, 4);
            const __mmask16 there = key + 16 <= keys ? 0xffff : __mmask16((1 << (keys - key)) - 1);
            for (int64_t i = 0; i < queries; i += QUERIES) {
                __m512 sum[QUERIES];
#pragma GCC unroll 4
                for (int k = 0; k < QUERIES; k++) sum[k] = _mm512_setzero_ps();
                for (int64_t p = 0; p < pairs; p++) {
                    const __m512bh column = (__m512bh)_mm512_loadu_si512(&columns[p * 16]);
#pragma GCC unroll 4
                    for (int k = 0; k < QUERIES; k++)
                        sum[k] = _mm512_dpbf16_ps(sum[k], column, (__m512bh)four_bytes(q_rows[i + k] + 2 * p));
                }
                for (int k = 0; k < QUERIES && i + k < queries; k++) {
                    __mmask16 seen = there;
                    if (own.mask) {
                        const uint8_t *row = own.mask + (first - own.first + (i + k) / share) * own.keys + key;
                        seen &= _mm_test_epi8_mask(_mm_maskz_loadu_epi8(there, row), _mm_set1_epi8(-1));
                    }
                    _mm512_storeu_ps(&scores[(i + k) * padded + key],
                                     _mm512_mask_mul_ps(_mm512_set1_ps(-INFINITY), seen, sum[k], factor));
                }
            }
        }
        for (int64_t i = 0; i < queries; i++) {
            float *row = &scores[i * padded];
            __m512 peaks = _mm512_set1_ps(-INFINITY);
            for (int64_t key = 0; key < padded; key += 16) peaks = _mm512_max_ps(peaks, _mm512_loadu_ps(row + key));
            const __m512 peak = _mm512_set1_ps(_mm512_reduce_max_ps(peaks));
            for (int64_t key = 0; key < padded; key += 16)
                _mm512_storeu_ps(row + key, exponential(_mm512_sub_ps(_mm512_loadu_ps(row + key), peak)));
        }
        const bf16 *values = batch.values + offset;
        for (int64_t column = 0; column < dim; column += dim - column >= 64 ? 64 : 16)
            for (int64_t i = 0; i < queries; i += WEIGHED) {
                const Weigh weigh = WEIGH[dim - column >= 64][std::min<int64_t>(queries - i, WEIGHED) - 1];
                (this->*weigh)(own, keys, padded, values, column, &scores[i * padded], &outs[i]);
            }
    }

    // V vectors of columns of the weighted values of R query rows. Keys come one after the other, and one that is not
    // seen adds nothing: so a row's result does not depend on what stands between the keys that it sees.
    template <int R, int V>
    void weigh(const Segment &own, int64_t keys, int64_t padded, const bf16 *values, int64_t column,
               const float *weights, bf16 *const *outs) const {
        __m512 sum[R][V], total[R];
#pragma GCC unroll 8
        for (int r = 0; r < R; r++) {
            total[r] = _mm512_setzero_ps();
#pragma GCC unroll 4
            for (int v = 0; v < V; v++) sum[r][v] = _mm512_setzero_ps();
        }
        for (int64_t key = 0; key < keys; key++) {
            const bf16 *from = values + own.slots[key] * kv_width() + column;
            __m512 value[V];
#pragma GCC unroll 4
            for (int v = 0; v < V; v++) value[v] = load(from + 16 * v);
#pragma GCC unroll 8
            for (int r = 0; r < R; r++) {
                const __m512 weight = _mm512_set1_ps(weights[r * padded + key]);
                total[r] = _mm512_add_ps(total[r], weight);
#pragma GCC unroll 4
                for (int v = 0; v < V; v++) sum[r][v] = _mm512_fmadd_ps(weight, value[v], sum[r][v]);
            }
        }
#pragma GCC unroll 8
        for (int r = 0; r < R; r++)
#pragma GCC unroll 4
            for (int v = 0; v < V; v++) store(outs[r] + column + 16 * v, _mm512_div_ps(sum[r][v], total[r]));
    }

    using Weigh = void (Forward::*)(const Segment &, int64_t, int64_t, const bf16 *, int64_t, const float *,
                                    bf16 *const *) const;
    static constexpr Weigh WEIGH[2][WEIGHED] = {
        {&Forward::weigh<1, 1>, &Forward::weigh<2, 1>, &Forward::weigh<3, 1>, &Forward::weigh<4, 1>,
         &Forward::weigh<5, 1>},
        {&Forward::weigh<1, 4>, &Forward::weigh<2, 4>, &Forward::weigh<3, 4>, &Forward::weigh<4, 4>,
         &Forward::weigh<5, 4>},
    };

    void activate(Crew &crew) {
        const int64_t vectors = model.inner / 16, count = batch.rows * vectors, piece = 48;
        crew.together((count + piece - 1) / piece, [&](int64_t part) {
            for (int64_t i = part * piece; i < std::min((part + 1) * piece, count); i++) {
                const int64_t row = i / vectors, column = i % vectors * 16;
                const float *gate = gated + row * 2 * model.inner + column;
                const __m512 g = _mm512_loadu_ps(gate), up = _mm512_loadu_ps(gate + model.inner);
                const __m512 power = exponential(_mm512_sub_ps(_mm512_setzero_ps(), g));
                const __m512 silu = _mm512_div_ps(g, _mm512_add_ps(_mm512_set1_ps(1.0f), power));
                store(inner_x + row * model.inner + column, _mm512_mul_ps(silu, up));
            }
        });
    }

    // What one thread does of a layer.
    void run(Crew &crew, int64_t layer) {
        const Layer &own = model.layer[layer];
        ask(crew, own.qkv.matrix);
        norm(crew, own.norm, own.qkv.matrix.scale);
        group(crew, own.qkv, normed_x, Target{Into::floats, mixed, width() + 2 * kv_width()});
        place(crew, own, layer);
        ask(crew, own.o.matrix);
        attend(crew, layer);
        round_rows(crew, own.o, attended);
        group(crew, own.o, attended, Target{Into::sum, x, model.hidden});
        ask(crew, own.gate_up.matrix);
        norm(crew, own.mlp_norm, own.gate_up.matrix.scale);
        group(crew, own.gate_up, normed_x, Target{Into::floats, gated, 2 * model.inner});
        ask(crew, own.down.matrix);
        activate(crew);
        round_rows(crew, own.down, inner_x);
        group(crew, own.down, inner_x, Target{Into::sum, x, model.hidden});
    }

    // Of a layer, at most.
    int64_t phases() const { return 11 + 4 * groups.size(); }
};

} // namespace

extern "C" {

void *unmask_memory() { return new Memory; }

void unmask_release(void *memory) { delete static_cast<Memory *>(memory); }

// All layers, in place on the rows in batch->x.
void unmask_layers(const Model *model, const Batch *batch, void *memory, int threads) {
    threads = std::min(threads, MOST_THREADS);
    Forward forward(*model, *batch, *static_cast<Memory *>(memory), threads);
    const std::unique_ptr<Phase[]> phases(new Phase[model->layers * forward.phases()]);
#pragma omp parallel num_threads(threads)
    {
        Crew crew{phases.get()};
        for (int64_t layer = 0; layer < model->layers; layer++) forward.run(crew, layer);
    }
}

// One matrix: x [rows, inputs] to out [rows, outputs], both bfloat16, the outputs up to whole blocks.
void unmask_product(const Matrix *matrix, const bf16 *x, int64_t rows, bf16 *out, void *memory, int threads) {
    const int64_t inputs = matrix->inputs, outputs = (matrix->outputs + BLOCK - 1) / BLOCK * BLOCK;
    Memory &own = *static_cast<Memory *>(memory);
    threads = std::min(threads, MOST_THREADS);
    own.reset(rows * (inputs + 8) + 3 * 64);
    int8_t *whole = own.take<int8_t>(rows * inputs);
    float *factor = own.take<float>(rows);
    int32_t *total = own.take<int32_t>(rows);
    std::vector<Rows> all{Rows{-1, {}}};
    for (int64_t row = 0; row < rows; row++) {
        all[0].rows.push_back(row);
        if (matrix->scale) round_row(x + row * inputs, inputs, whole + row * inputs, factor[row], total[row]);
    }
    const Target target{Into::halves, out, outputs};
    Phase phase;
#pragma omp parallel num_threads(threads)
    Crew{&phase}.together(blocks_of(*matrix), [&](int64_t block) {
        multiply(Group{*matrix, nullptr}, block, Operand{x, whole, factor, total, inputs}, all, Inner{}, target);
    });
}
}
