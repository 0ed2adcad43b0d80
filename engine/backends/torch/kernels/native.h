// Shared by all kernels: vectors and aligned memory.

#pragma once

#include <immintrin.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <memory>

constexpr int kLanes = 16;  // float32 numbers in a vector

struct Free {
    void operator()(void* p) const { std::free(p); }
};
template <typename T>
using Buffer = std::unique_ptr<T[], Free>;

// Returns uninitialized memory, aligned to a cache line; empty if memory is short.
template <typename T>
Buffer<T> buffer(int64_t count) {
    const int64_t bytes = (count * int64_t(sizeof(T)) + 63) / 64 * 64;
    return Buffer<T>(static_cast<T*>(std::aligned_alloc(64, std::max<int64_t>(bytes, 64))));
}

inline __m512bh as_bf16(__m512i x) { return (__m512bh)x; }
