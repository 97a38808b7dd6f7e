// The core of the tensor-core kernels: swizzled tiles in shared memory, fragments, the loop over stages.
//
// How a kernel uses it (see conv2d.cuh, the plainest user):
//   using Tile = MmaTile<128, 128, 64, 64, 3, 2>;      // block tile, warp tile, stages, blocks an SM
//   T* stages = reinterpret_cast<T*>(memory);           // Tile::kStageElements each: A rows, then B rows
//   float acc[Tile::kFragmentsM][Tile::kFragmentsN][4] = {};
//   const RowReads<Tile> reads;
//   run_stages<Tile::kStages>(count,
//       [&](int k, int stage) { /* async_copy16 of both tiles of turn k to `stage`, at Swizzle<..>::at */ },
//       [&](int k, int stage) { multiply_rows<T, Tile>(acc, a, b, reads, adjust); });
//   // shared memory is free again; element e of acc[i][j] is at fragment_row<Tile>(i, e) and
//   // fragment_column<Tile>(j, e) of the block tile.
//
// A tile in shared memory has rows of 32, 64 or 128 16-bit elements. Its 16-byte chunks are exchanged within
// a row (Swizzle), so that the 8 rows which ldmatrix reads at once, and the rows which neighbouring threads
// copy, lie in different banks. Operands come in two orders:
//   depth along a row   A [rows][depth], B [columns][depth]: load_a, load_b. Convolutions: channels
//   innermost. rows along depth    A [depth][rows], B [depth][columns]: load_a_across, load_b_across
//   (ldmatrix.trans).
//                       Weight gradients: the sum runs over pixels, channels lie innermost.
// `load_a*` give the 16x16 fragment a of mma_m16n8k16; `load_b*` give two 16x8 fragments, {b[0], b[1]} and
// {b[2], b[3]}. Positions (row, column, depth) are multiples of 8 (depth of 16) relative to the tile.
#pragma once
#include <cstring>
#include <type_traits>

#include "kernels/device.cuh"

namespace pyface::dev {

template <class T>
constexpr bool kIsBfloat16 = std::is_same_v<T, __nv_bfloat16>;

// ---- pairs of 16-bit numbers in one register, the first one in the low half

template <class T>
__device__ __forceinline__ uint32_t multiply_pairs(uint32_t a, uint32_t b) {
#if !defined(__CUDACC__)
  const auto product = [](uint32_t p, uint32_t q) {
    return uint32_t{narrow<T>(widen(T{uint16_t(p)}) * widen(T{uint16_t(q)})).bits};
  };
  return product(a & 0xffffu, b & 0xffffu) | product(a >> 16, b >> 16) << 16;
#elif defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
  __trap();
  return 0;
#else
  uint32_t result;
  if constexpr (kIsBfloat16<T>) {  // mul.bf16x2 needs sm_90; adding -0 gives the same bits
    asm("fma.rn.bf16x2 %0,%1,%2,%3;\n" : "=r"(result) : "r"(a), "r"(b), "r"(0x80008000u));
  } else {
    asm("mul.rn.f16x2 %0,%1,%2;\n" : "=r"(result) : "r"(a), "r"(b));
  }
  return result;
#endif
}

template <class T>
__device__ __forceinline__ uint32_t pack_pair(float low, float high) {
#if !defined(__CUDACC__)
  return uint32_t{narrow<T>(low).bits} | uint32_t{narrow<T>(high).bits} << 16;
#else
  uint32_t bits;
  if constexpr (kIsBfloat16<T>) {
    const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
    memcpy(&bits, &pair, sizeof bits);
  } else {
    const __half2 pair = __floats2half2_rn(low, high);
    memcpy(&bits, &pair, sizeof bits);
  }
  return bits;
#endif
}

// ---- tiles in shared memory

template <int kWidth>
struct Swizzle {
  static_assert(kWidth == 32 || kWidth == 64 || kWidth == 128, "rows of 64, 128 or 256 bytes");
  static constexpr int kChunks = kWidth / 8;
  // Where chunk `chunk` (8 elements) of row `row` lies, in elements.
  static __device__ __forceinline__ int at(int row, int chunk) {
    return row * kWidth + ((chunk ^ (kWidth == 32 ? row >> 1 & 3 : row & 7)) << 3);
  }
};

template <int kWidth, class T>
__device__ __forceinline__ void load_a(uint32_t (&a)[4], const T* tile, int row, int depth) {
  const int lane = threadIdx.x & 31;
  ldmatrix_x4(a, tile + Swizzle<kWidth>::at(row + (lane & 15), (depth >> 3) + (lane >> 4)));
}
template <int kWidth, class T>
__device__ __forceinline__ void load_b(uint32_t (&b)[4], const T* tile, int column, int depth) {
  const int lane = threadIdx.x & 31;
  ldmatrix_x4(
      b, tile + Swizzle<kWidth>::at(column + (lane >> 4 << 3) + (lane & 7), (depth >> 3) + (lane >> 3 & 1)));
}
template <int kWidth, class T>
__device__ __forceinline__ void load_a_across(uint32_t (&a)[4], const T* tile, int row, int depth) {
  const int lane = threadIdx.x & 31;
  ldmatrix_x4<true>(
      a, tile + Swizzle<kWidth>::at(depth + (lane >> 4 << 3) + (lane & 7), (row >> 3) + (lane >> 3 & 1)));
}
template <int kWidth, class T>
__device__ __forceinline__ void load_b_across(uint32_t (&b)[4], const T* tile, int column, int depth) {
  const int lane = threadIdx.x & 31;
  ldmatrix_x4<true>(
      b, tile + Swizzle<kWidth>::at(depth + (lane >> 3 & 1) * 8 + (lane & 7), (column >> 3) + (lane >> 4)));
}

// ---- the block's tile

// A block computes kRows x kColumns, each warp kWarpRows x kWarpColumns of it; a turn is 32 deep. kStages
// turns are in shared memory, kBlocks blocks are wanted on a multiprocessor.
template <int kRows_, int kColumns_, int kWarpRows_, int kWarpColumns_, int kStages_, int kBlocks_>
struct MmaTile {
  static constexpr int kRows = kRows_, kColumns = kColumns_, kDepth = 32;
  static constexpr int kWarpRows = kWarpRows_, kWarpColumns = kWarpColumns_;
  static constexpr int kStages = kStages_, kBlocks = kBlocks_;
  static constexpr int kWarpsM = kRows / kWarpRows, kWarpsN = kColumns / kWarpColumns;
  static constexpr int kThreads = kWarpsM * kWarpsN * 32;
  static constexpr int kFragmentsM = kWarpRows / 16, kFragmentsN = kWarpColumns / 8;
  static constexpr int kStageElements = (kRows + kColumns) * kDepth;
  static constexpr int kStagesBytes = kStages * kStageElements * 2;
  static_assert(kRows % kWarpRows == 0 && kColumns % kWarpColumns == 0, "warps cover the block");
  static_assert(kWarpRows % 16 == 0 && kWarpColumns % 16 == 0, "fragments come in pairs of columns");

  static __device__ __forceinline__ int warp_row() { return int(threadIdx.x >> 5) % kWarpsM * kWarpRows; }
  static __device__ __forceinline__ int warp_column() {
    return int(threadIdx.x >> 5) / kWarpsM * kWarpColumns;
  }
};

// Where element `e` of acc[i][j] of this thread lies in the block's tile.
template <class Tile>
__device__ __forceinline__ int fragment_row(int i, int e) {
  return Tile::warp_row() + i * 16 + (e >> 1) * 8 + int(threadIdx.x >> 2 & 7);
}
template <class Tile>
__device__ __forceinline__ int fragment_column(int j, int e) {
  return Tile::warp_column() + j * 8 + int(threadIdx.x & 3) * 2 + (e & 1);
}

// Where this thread reads fragments of both tiles, as load_a and load_b: made once, before the turns. 16 rows
// on, the exchange of chunks is the same; 16 deeper it is so but for one bit.
template <class Tile>
struct RowReads {
  int a, b;
  __device__ __forceinline__ RowReads() {
    const int lane = threadIdx.x & 31;
    a = kept(Swizzle<Tile::kDepth>::at(Tile::warp_row() + (lane & 15), lane >> 4));
    b = kept(Swizzle<Tile::kDepth>::at(Tile::warp_column() + (lane >> 4 << 3) + (lane & 7), lane >> 3 & 1));
  }
};

// acc += a * b^T over one turn: a is [kRows][32], b [kColumns][32], both swizzled. adjust(fragment, i, depth)
// may change A fragment i of this warp before it is used; register r of it holds row fragment_row(i, 2 * (r &
// 1)) at depths depth + 8 * (r >> 1) + 2 * (lane & 3) and one more. kStep: elements from a row of `a` to the
// one 16 rows on.
template <class T, class Tile, int kStep = 16 * Tile::kDepth, class Adjust>
__device__ __forceinline__ void multiply_rows(float (&acc)[Tile::kFragmentsM][Tile::kFragmentsN][4],
                                              const T* a, const T* b, const RowReads<Tile>& reads,
                                              const Adjust& adjust) {
  PYFACE_UNROLL
  for (int depth = 0; depth < Tile::kDepth; depth += 16) {
    const T* from_a = a + (reads.a ^ depth);
    const T* from_b = b + (reads.b ^ depth);
    uint32_t fa[Tile::kFragmentsM][4];
    PYFACE_UNROLL
    for (int i = 0; i < Tile::kFragmentsM; i++) ldmatrix_x4(fa[i], from_a + i * kStep);
    PYFACE_UNROLL
    for (int i = 0; i < Tile::kFragmentsM; i++) adjust(fa[i], i, depth);
    PYFACE_UNROLL
    for (int j = 0; j < Tile::kFragmentsN; j += 2) {
      uint32_t pair[4];
      ldmatrix_x4(pair, from_b + j * 8 * Tile::kDepth);
      const uint32_t first[2] = {pair[0], pair[1]}, second[2] = {pair[2], pair[3]};
      PYFACE_UNROLL
      for (int i = 0; i < Tile::kFragmentsM; i++) {
        mma_m16n8k16<kIsBfloat16<T>>(acc[i][j], fa[i], first);
        mma_m16n8k16<kIsBfloat16<T>>(acc[i][j + 1], fa[i], second);
      }
    }
  }
}

// Calls multiply(k, stage) for k = 0 .. count - 1, each after load(k, stage) has landed for all threads of
// the block; loads run kStages - 1 turns ahead, in order. The last stage is first written after a block
// barrier, so that it may hold what all threads read before they come here. When it returns, nothing is on
// its way and every thread is through with shared memory.
template <int kStages, class Load, class Multiply>
__device__ __forceinline__ void run_stages(int count, Load&& load, Multiply&& multiply) {
  PYFACE_UNROLL
  for (int k = 0; k < kStages - 1; k++) {
    if (k < count) load(k, k);
    async_commit();
  }
  int stage = 0, ahead = kStages - 1;
  PYFACE_NO_UNROLL
  for (int k = 0; k < count; k++) {
    async_wait<kStages - 2>();
    __syncthreads();
    if (k + kStages - 1 < count) load(k + kStages - 1, ahead);
    async_commit();
    multiply(k, stage);
    stage = stage + 1 == kStages ? 0 : stage + 1;
    ahead = ahead + 1 == kStages ? 0 : ahead + 1;
  }
  async_wait<0>();
  __syncthreads();
}

}  // namespace pyface::dev
