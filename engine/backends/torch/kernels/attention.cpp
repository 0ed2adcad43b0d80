// Attention in bfloat16 for processors with AVX-512 BF16: softmax(q k^T * scale) v.
//
// The scores stay in the cache. The kernel processes a block of queries with one block of keys after
// another. It keeps the running maximum and sum of every query and rescales the output when a
// maximum grows (online softmax: Milakov and Gimelshein, 2018; blocks: FlashAttention, Dao et al.,
// 2022). Scores, sums and outputs are float32; weights are rounded to bfloat16 before they are
// multiplied with v.
//
// Layout: keys and values are packed first, so that both products use vdpbf16ps on full vectors:
//   keys    [keys / 16][D / 2][16] pairs (k[j][2i], k[j][2i + 1])     one lane per key
//   values  [keys / 2][Dv][16] pairs (v[2j][d], v[2j + 1][d])         one lane per channel
// A uint32 holds a pair of bfloat16. Keys are padded with zeros to full vectors, and the scores of
// the padding are set to minus infinity. D must be even.

#include <omp.h>

#include <cmath>
#include <limits>

#include "native.h"

namespace {

constexpr int kRows = 24;           // queries in a block
constexpr int kKeys = 512;          // keys in a block; its scores and weights fit into the cache
constexpr int kBlocksPerTask = 4;   // blocks of queries in one task of a thread

struct Strides {
    int64_t batch, head, token;
};

inline uint32_t pair(uint16_t low, uint16_t high) { return uint32_t(low) | uint32_t(high) << 16; }

// 2^x for x <= 0. scalef applies the integer part; a polynomial computes the fraction in [-1/2, 1/2]
// (error below 3e-7).
inline __m512 exp2_negative(__m512 x) {
    x = _mm512_max_ps(_mm512_set1_ps(-126.0f), x);  // with this order of arguments NaN stays NaN
    const __m512 whole = _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    const __m512 f = _mm512_sub_ps(x, whole);
    __m512 y = _mm512_set1_ps(1.33335581e-3f);
    y = _mm512_fmadd_ps(y, f, _mm512_set1_ps(9.61812911e-3f));
    y = _mm512_fmadd_ps(y, f, _mm512_set1_ps(5.55041087e-2f));
    y = _mm512_fmadd_ps(y, f, _mm512_set1_ps(2.40226507e-1f));
    y = _mm512_fmadd_ps(y, f, _mm512_set1_ps(6.93147181e-1f));
    y = _mm512_fmadd_ps(y, f, _mm512_set1_ps(1.0f));
    return _mm512_scalef_ps(y, whole);
}

void pack_keys(const uint16_t* k, int64_t token, int keys, int width, uint32_t* packed) {
    const int pairs = width / 2, tiles = (keys + kLanes - 1) / kLanes;
    for (int t = 0; t < tiles; ++t) {
        uint32_t* tile = packed + int64_t(t) * pairs * kLanes;
        for (int lane = 0; lane < kLanes; ++lane) {
            const int j = t * kLanes + lane;
            const uint16_t* row = k + j * token;
            for (int i = 0; i < pairs; ++i)
                tile[i * kLanes + lane] = j < keys ? pair(row[2 * i], row[2 * i + 1]) : 0;
        }
    }
}

void pack_values(const uint16_t* v, int64_t token, int keys, int width, int vectors, uint32_t* packed) {
    for (int j = 0; j < keys; j += 2) {
        const uint16_t* even = v + j * token;
        const uint16_t* odd = j + 1 < keys ? even + token : nullptr;
        uint32_t* row = packed + int64_t(j / 2) * vectors * kLanes;
        for (int d = 0; d < width; ++d) row[d] = pair(even[d], odd ? odd[d] : 0);
        std::fill(row + width, row + vectors * kLanes, 0u);
    }
}

// Computes the scores of 12 queries and 32 keys.
void score_tile(const uint32_t* q, const uint32_t* k0, const uint32_t* k1, int pairs, float* scores) {
    __m512 left[12], right[12];
    for (int r = 0; r < 12; ++r) left[r] = right[r] = _mm512_setzero_ps();
    for (int i = 0; i < pairs; ++i) {
        const __m512bh a = as_bf16(_mm512_load_si512(k0 + i * kLanes));
        const __m512bh b = as_bf16(_mm512_load_si512(k1 + i * kLanes));
#pragma GCC unroll 12
        for (int r = 0; r < 12; ++r) {
            const __m512bh one = as_bf16(_mm512_set1_epi32(int(q[r * pairs + i])));
            left[r] = _mm512_dpbf16_ps(left[r], one, a);
            right[r] = _mm512_dpbf16_ps(right[r], one, b);
        }
    }
#pragma GCC unroll 12
    for (int r = 0; r < 12; ++r) {
        _mm512_store_ps(scores + r * kKeys, left[r]);
        _mm512_store_ps(scores + r * kKeys + kLanes, right[r]);
    }
}

// out += weights * values, for ROWS queries and W vectors of channels.
template <int ROWS, int W>
void value_tile(const uint32_t* weights, const uint32_t* values, int pairs, int vectors, float* out) {
    __m512 sum[ROWS][W];
    for (int r = 0; r < ROWS; ++r)
        for (int w = 0; w < W; ++w)
            sum[r][w] = _mm512_load_ps(out + (int64_t(r) * vectors + w) * kLanes);
    for (int j = 0; j < pairs; ++j) {
        __m512bh v[W];
#pragma GCC unroll 8
        for (int w = 0; w < W; ++w)
            v[w] = as_bf16(_mm512_load_si512(values + (int64_t(j) * vectors + w) * kLanes));
#pragma GCC unroll 12
        for (int r = 0; r < ROWS; ++r) {
            const __m512bh one = as_bf16(_mm512_set1_epi32(int(weights[r * (kKeys / 2) + j])));
#pragma GCC unroll 8
            for (int w = 0; w < W; ++w) sum[r][w] = _mm512_dpbf16_ps(sum[r][w], one, v[w]);
        }
    }
    for (int r = 0; r < ROWS; ++r)
        for (int w = 0; w < W; ++w)
            _mm512_store_ps(out + (int64_t(r) * vectors + w) * kLanes, sum[r][w]);
}

template <int ROWS, int W>
void value_rows(const uint32_t* weights, const uint32_t* values, int pairs, int vectors, float* out) {
    for (int r = 0; r < kRows; r += ROWS)
        value_tile<ROWS, W>(weights + r * (kKeys / 2), values, pairs, vectors,
                            out + int64_t(r) * vectors * kLanes);
}

void add_values(const uint32_t* weights, const uint32_t* values, int pairs, int vectors, float* out) {
    for (int done = 0; done < vectors;) {
        const int left = vectors - done;
        const int w = left == 6 ? 3 : left == 8 || left == 4 || left == 9 ? 4 : std::min(left, 5);
        const uint32_t* v = values + done * kLanes;
        float* o = out + done * kLanes;
        switch (w) {
            case 1: value_rows<12, 1>(weights, v, pairs, vectors, o); break;
            case 2: value_rows<12, 2>(weights, v, pairs, vectors, o); break;
            case 3: value_rows<8, 3>(weights, v, pairs, vectors, o); break;
            case 4: value_rows<6, 4>(weights, v, pairs, vectors, o); break;
            default: value_rows<4, 5>(weights, v, pairs, vectors, o); break;
        }
        done += w;
    }
}

struct Scratch {
    explicit Scratch(int pairs, int vectors)
        : query(buffer<uint32_t>(kRows * pairs)),
          scores(buffer<float>(kRows * kKeys)),
          weights(buffer<uint32_t>(kRows * kKeys / 2)),
          out(buffer<float>(int64_t(kRows) * vectors * kLanes)) {}
    Buffer<uint32_t> query;
    Buffer<float> scores;
    Buffer<uint32_t> weights;
    Buffer<float> out;
    float max_score[kRows], sum[kRows];
};

// Turns the scores of one block of keys into weights, updates maxima and sums, and rescales the
// output. `scale` includes log2(e).
void softmax_block(Scratch& s, int keys, int padded, int vectors, float scale) {
    const __m512 c = _mm512_set1_ps(scale);
    for (int r = 0; r < kRows; ++r) {
        float* row = s.scores.get() + r * kKeys;
        for (int j = keys; j < padded; ++j) row[j] = -std::numeric_limits<float>::infinity();
        __m512 top = _mm512_load_ps(row);
        for (int j = kLanes; j < padded; j += kLanes) top = _mm512_max_ps(top, _mm512_load_ps(row + j));
        const float old_max = s.max_score[r];
        const float max_score = std::max(old_max, _mm512_reduce_max_ps(top) * scale);
        const float rescale = std::exp2(old_max - max_score);
        s.max_score[r] = max_score;
        const __m512 shift = _mm512_set1_ps(-max_score);
        __m512 total = _mm512_setzero_ps();
        uint32_t* weights = s.weights.get() + r * (kKeys / 2);
        for (int j = 0; j < padded; j += 2 * kLanes) {
            const __m512 a = exp2_negative(_mm512_fmadd_ps(_mm512_load_ps(row + j), c, shift));
            const __m512 b = exp2_negative(_mm512_fmadd_ps(_mm512_load_ps(row + j + kLanes), c, shift));
            total = _mm512_add_ps(total, _mm512_add_ps(a, b));
            _mm512_store_si512(weights + j / 2, (__m512i)_mm512_cvtne2ps_pbh(b, a));
        }
        s.sum[r] = s.sum[r] * rescale + _mm512_reduce_add_ps(total);
        if (rescale != 1.0f) {
            const __m512 by = _mm512_set1_ps(rescale);
            float* out = s.out.get() + int64_t(r) * vectors * kLanes;
            for (int w = 0; w < vectors; ++w)
                _mm512_store_ps(out + w * kLanes, _mm512_mul_ps(_mm512_load_ps(out + w * kLanes), by));
        }
    }
}

// Computes the output of one block of queries.
void attend_block(Scratch& s, const uint16_t* q, int64_t q_token, int rows, const uint32_t* keys,
                  const uint32_t* values, int count, int width, int vectors, float scale, uint16_t* out,
                  int64_t out_token) {
    const int pairs = width / 2;
    for (int r = 0; r < kRows; ++r)
        for (int i = 0; i < pairs; ++i)
            s.query[r * pairs + i] = r < rows ? pair(q[r * q_token + 2 * i], q[r * q_token + 2 * i + 1]) : 0;
    std::fill(s.max_score, s.max_score + kRows, -std::numeric_limits<float>::infinity());
    std::fill(s.sum, s.sum + kRows, 0.0f);
    std::fill(s.out.get(), s.out.get() + int64_t(kRows) * vectors * kLanes, 0.0f);
    for (int first = 0; first < count; first += kKeys) {
        const int block_keys = std::min(kKeys, count - first);
        const int padded = (block_keys + 2 * kLanes - 1) / (2 * kLanes) * (2 * kLanes);
        for (int j = 0; j < padded; j += 2 * kLanes) {
            const uint32_t* tile = keys + int64_t((first + j) / kLanes) * pairs * kLanes;
            for (int r = 0; r < kRows; r += 12)
                score_tile(s.query.get() + r * pairs, tile, tile + pairs * kLanes, pairs,
                           s.scores.get() + r * kKeys + j);
        }
        softmax_block(s, block_keys, padded, vectors, scale);
        add_values(s.weights.get(), values + int64_t(first / 2) * vectors * kLanes, padded / 2, vectors,
                   s.out.get());
    }
    for (int r = 0; r < rows; ++r) {
        const __m512 by = _mm512_set1_ps(1.0f / s.sum[r]);
        const float* from = s.out.get() + int64_t(r) * vectors * kLanes;
        for (int w = 0; w < vectors; ++w) {
            const int left = std::min(kLanes, width - w * kLanes);
            const __m256i half = (__m256i)_mm512_cvtneps_pbh(_mm512_mul_ps(_mm512_load_ps(from + w * kLanes), by));
            _mm256_mask_storeu_epi16(out + r * out_token + w * kLanes, __mmask16((1u << left) - 1), half);
        }
    }
}

}  // namespace

// q, out [B, H, L, D]; k, v [B, H, S, D]; bfloat16. `strides` are in elements; channels are
// contiguous; D is even. Returns 0, or 1 if memory is short.
extern "C" int diffedit_attention(const uint16_t* q, const uint16_t* k, const uint16_t* v, uint16_t* out,
                                  int64_t batch, int64_t heads, int64_t queries, int64_t keys,
                                  int64_t width, const int64_t* strides, float scale, int threads) {
    const Strides qs{strides[0], strides[1], strides[2]}, ks{strides[3], strides[4], strides[5]},
        vs{strides[6], strides[7], strides[8]}, os{strides[9], strides[10], strides[11]};
    const int pairs = int(width) / 2, vectors = (int(width) + kLanes - 1) / kLanes;
    const int64_t padded = (keys + 2 * kLanes - 1) / (2 * kLanes) * (2 * kLanes);
    const int64_t key_size = padded * pairs, value_size = padded / 2 * vectors * kLanes;
    const int64_t images = batch * heads;
    const Buffer<uint32_t> packed_keys = buffer<uint32_t>(images * key_size);
    const Buffer<uint32_t> packed_values = buffer<uint32_t>(images * value_size);
    if (!packed_keys || !packed_values) return 1;
    const int64_t task_rows = kRows * kBlocksPerTask;
    const int64_t tasks = (queries + task_rows - 1) / task_rows;
    int failed = 0;
#pragma omp parallel num_threads(threads) reduction(| : failed)
    {
        Scratch scratch(pairs, vectors);
        const bool ready = scratch.query && scratch.scores && scratch.weights && scratch.out;
        failed |= !ready;
#pragma omp for schedule(static)
        for (int64_t n = 0; n < images; ++n) {
            const int64_t b = n / heads, h = n % heads;
            uint32_t* to = packed_keys.get() + n * key_size;
            std::fill(to, to + key_size, 0u);
            pack_keys(k + b * ks.batch + h * ks.head, ks.token, int(keys), int(width), to);
            to = packed_values.get() + n * value_size;
            std::fill(to, to + value_size, 0u);
            pack_values(v + b * vs.batch + h * vs.head, vs.token, int(keys), int(width), vectors, to);
        }
#pragma omp for schedule(dynamic)
        for (int64_t n = 0; n < images * tasks; ++n) {
            if (!ready) continue;
            const int64_t image = n / tasks, b = image / heads, h = image % heads;
            const int64_t first = n % tasks * task_rows, last = std::min(queries, first + task_rows);
            for (int64_t r = first; r < last; r += kRows)
                attend_block(scratch, q + b * qs.batch + h * qs.head + r * qs.token, qs.token,
                             int(std::min<int64_t>(kRows, last - r)), packed_keys.get() + image * key_size,
                             packed_values.get() + image * value_size, int(keys), int(width), vectors,
                             scale * 1.44269504f, out + b * os.batch + h * os.head + r * os.token, os.token);
        }
    }
    return failed;
}
