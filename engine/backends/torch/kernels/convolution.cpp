// A 3 x 3 convolution in bfloat16 (stride 1, padding 1) for processors with AVX-512 BF16, by
// Winograd's minimal filtering F(2 x 2, 3 x 3): four outputs take 16 multiplications instead of 36
// (Lavin and Gray, 2016).
//
// A tile of 4 x 4 inputs produces 2 x 2 outputs, in three steps. The inputs of all channels are
// transformed (V = B^T d B). Each of the 16 positions of the transformed tiles is one matrix product
// with the transformed weights (U = G g G^T, packed beforehand). The products are transformed back
// (A^T M A). Transforms and sums are float32; V and U are rounded to bfloat16.
//
// Layout (a uint32 holds a pair of bfloat16):
//   x, out  [N][H][W][channels]
//   V       [16][tiles][C / 2] pairs    each 32 channels in the order 0, 2, .., 30, 1, 3, .., 31
//   U       [K / 64][16][C / 2][64] pairs of channels, in the same order
//   M       [16][kTiles][64] float32, stays in the cache
// C is a multiple of 32, K of 64.

#include <omp.h>

#include "native.h"

namespace {

constexpr int kVectors = 4;             // vectors of output channels computed together
constexpr int kOutputs = kVectors * kLanes;
constexpr int kRows = 6;                // tiles in one call of the innermost product
constexpr int kTiles = 48;              // tiles computed with one read of the weights
constexpr int kPositions = 16;          // positions in a transformed tile
constexpr int64_t kCacheBytes = 2 << 20;  // bytes of V per thread, which stay in its cache
// Distance between positions of M. One more vector avoids conflicts in the cache.
constexpr int kStride = kTiles * kOutputs + kLanes;

struct Shape {
    int64_t images, height, width, in, out;
    int64_t tile_rows() const { return (height + 1) / 2; }
    int64_t tile_columns() const { return (width + 1) / 2; }
    int64_t tiles() const { return images * tile_rows() * tile_columns(); }
};

// Transforms one row or column of a tile in place: B^T d.
inline void transform_line(__m512& a, __m512& b, __m512& c, __m512& d) {
    const __m512 first = _mm512_sub_ps(a, c), second = _mm512_add_ps(b, c);
    const __m512 third = _mm512_sub_ps(c, b), fourth = _mm512_sub_ps(b, d);
    a = first, b = second, c = third, d = fourth;
}

inline void transform_tile(__m512 (&d)[kPositions]) {
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) transform_line(d[i], d[4 + i], d[8 + i], d[12 + i]);
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) transform_line(d[4 * i], d[4 * i + 1], d[4 * i + 2], d[4 * i + 3]);
}

// Computes V of one tile. `step` is the distance between positions.
void transform_input(const uint16_t* x, const Shape& s, int64_t tile, uint32_t* v, int64_t step) {
    const int64_t column = tile % s.tile_columns() * 2 - 1;
    const int64_t row = tile / s.tile_columns() % s.tile_rows() * 2 - 1;
    const uint16_t* image = x + tile / (s.tile_columns() * s.tile_rows()) * s.height * s.width * s.in;
    const uint16_t* from[kPositions];
    for (int i = 0; i < kPositions; ++i) {
        const int64_t y = row + i / 4, z = column + i % 4;
        const bool inside = y >= 0 && y < s.height && z >= 0 && z < s.width;
        from[i] = inside ? image + (y * s.width + z) * s.in : nullptr;
    }
    const __m512i high = _mm512_set1_epi32(int(0xffff0000u));
    for (int64_t c = 0; c < s.in; c += 2 * kLanes) {
        __m512 even[kPositions], odd[kPositions];
#pragma GCC unroll 16
        for (int i = 0; i < kPositions; ++i) {
            const __m512i both = from[i] ? _mm512_loadu_si512(from[i] + c) : _mm512_setzero_si512();
            even[i] = _mm512_castsi512_ps(_mm512_slli_epi32(both, 16));
            odd[i] = _mm512_castsi512_ps(_mm512_and_si512(both, high));
        }
        transform_tile(even);
        transform_tile(odd);
#pragma GCC unroll 16
        for (int i = 0; i < kPositions; ++i)
            _mm512_store_si512(v + i * step + c / 2, (__m512i)_mm512_cvtne2ps_pbh(odd[i], even[i]));
    }
}

// Multiplies kRows tiles with the weights of 64 output channels, at one position.
void multiply(const uint32_t* v, const uint32_t* u, int64_t pairs, float* m) {
    __m512 sum[kRows][kVectors];
    for (int r = 0; r < kRows; ++r)
        for (int k = 0; k < kVectors; ++k) sum[r][k] = _mm512_setzero_ps();
    for (int64_t i = 0; i < pairs; ++i) {
        __m512bh weights[kVectors];
#pragma GCC unroll 4
        for (int k = 0; k < kVectors; ++k)
            weights[k] = as_bf16(_mm512_load_si512(u + i * kOutputs + k * kLanes));
#pragma GCC unroll 6
        for (int r = 0; r < kRows; ++r) {
            const __m512bh one = as_bf16(_mm512_set1_epi32(int(v[r * pairs + i])));
#pragma GCC unroll 4
            for (int k = 0; k < kVectors; ++k) sum[r][k] = _mm512_dpbf16_ps(sum[r][k], one, weights[k]);
        }
    }
    for (int r = 0; r < kRows; ++r)
        for (int k = 0; k < kVectors; ++k) _mm512_store_ps(m + r * kOutputs + k * kLanes, sum[r][k]);
}

// Writes the 2 x 2 outputs of one tile for 64 channels, starting at channel `first`.
void write_outputs(const float* m, const float* bias, const Shape& s, int64_t tile, int64_t first,
                   uint16_t* out) {
    const int64_t column = tile % s.tile_columns() * 2;
    const int64_t row = tile / s.tile_columns() % s.tile_rows() * 2;
    const int64_t image = tile / (s.tile_columns() * s.tile_rows());
    for (int k = 0; k < kVectors; ++k) {
        const __m512 b = _mm512_loadu_ps(bias + first + k * kLanes);
        __m512 upper[4], lower[4];
#pragma GCC unroll 4
        for (int i = 0; i < 4; ++i) {
            const float* at = m + i * kStride + k * kLanes;
            const __m512 p = _mm512_load_ps(at), q = _mm512_load_ps(at + 4 * kStride);
            const __m512 r = _mm512_load_ps(at + 8 * kStride);
            const __m512 t = _mm512_load_ps(at + 12 * kStride);
            upper[i] = _mm512_add_ps(_mm512_add_ps(p, q), r);
            lower[i] = _mm512_sub_ps(_mm512_sub_ps(q, r), t);
        }
        for (int y = 0; y < 2 && row + y < s.height; ++y) {
            const __m512* line = y ? lower : upper;
            const __m512 left = _mm512_add_ps(_mm512_add_ps(line[0], line[1]), line[2]);
            const __m512 right = _mm512_sub_ps(_mm512_sub_ps(line[1], line[2]), line[3]);
            uint16_t* to = out + ((image * s.height + row + y) * s.width + column) * s.out + first + k * kLanes;
            _mm256_storeu_si256((__m256i*)to, (__m256i)_mm512_cvtneps_pbh(_mm512_add_ps(left, b)));
            if (column + 1 < s.width)
                _mm256_storeu_si256((__m256i*)(to + s.out), (__m256i)_mm512_cvtneps_pbh(_mm512_add_ps(right, b)));
        }
    }
}

}  // namespace

// x [N, H, W, C], out [N, H, W, K] bfloat16; bias [K] float32. Returns 0, or 1 if memory is short.
extern "C" int diffedit_convolution(const uint16_t* x, const uint32_t* weights, const float* bias,
                                    uint16_t* out, int64_t images, int64_t height, int64_t width,
                                    int64_t in, int64_t channels, int threads) {
    const Shape s{images, height, width, in, channels};
    const int64_t pairs = in / 2, total = s.tiles(), channel_blocks = channels / kOutputs;
    const int64_t fits = std::max<int64_t>(1, kCacheBytes * threads / (kPositions * kTiles * pairs * 4));
    const int64_t blocks = std::min(fits, (total + kTiles - 1) / kTiles);
    const int64_t capacity = blocks * kTiles, step = capacity * pairs + kLanes;
    const Buffer<uint32_t> v = buffer<uint32_t>(kPositions * step);
    if (!v) return 1;
    int failed = 0;
#pragma omp parallel num_threads(threads) reduction(| : failed)
    {
        const Buffer<float> m = buffer<float>(kPositions * kStride);
        failed |= !m;
        for (int64_t start = 0; start < total; start += capacity) {
            const int64_t count = std::min(capacity, total - start);
            const int64_t groups = (count + kTiles - 1) / kTiles;
#pragma omp for schedule(static)
            for (int64_t t = 0; t < count; ++t) transform_input(x, s, start + t, v.get() + t * pairs, step);
#pragma omp for schedule(dynamic)
            for (int64_t n = 0; n < groups * channel_blocks; ++n) {
                if (!m) continue;
                const int64_t k = n / groups, first = n % groups * kTiles;
                const int64_t tiles = std::min<int64_t>(kTiles, count - first);
                for (int64_t position = 0; position < kPositions; ++position) {
                    const uint32_t* u = weights + (k * kPositions + position) * pairs * kOutputs;
                    for (int64_t r = 0; r < tiles; r += kRows)
                        multiply(v.get() + position * step + (first + r) * pairs, u, pairs,
                                 m.get() + position * kStride + r * kOutputs);
                }
                for (int64_t t = 0; t < tiles; ++t)
                    write_outputs(m.get() + t * kOutputs, bias, s, start + first + t, k * kOutputs, out);
            }
        }
    }
    return failed;
}
