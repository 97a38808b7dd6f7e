// What every kernel body stands on, under nvcc and under the emulator: numbers, vectors, fast division, and
// wrappers for tensor cores and asynchronous copies.
#pragma once
#ifdef __CUDACC__
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#define PYFACE_SHARED(name) extern __shared__ __align__(16) unsigned char name[]
#define PYFACE_UNROLL _Pragma("unroll")
#define PYFACE_NO_UNROLL _Pragma("unroll 1")
#define PYFACE_PLACE
#define PYFACE_AT
#else
#include "emu/cuda_emu.h"
// Dynamic shared memory of the block, as bytes; its size is the third launch argument.
#define PYFACE_SHARED(name) unsigned char* name = ::pyface::emu::block->shared
#define PYFACE_UNROLL
#define PYFACE_NO_UNROLL
// The line of kernel source a wrapper is called from, for the emulator's messages.
#define PYFACE_PLACE , PYFACE_EMU_PLACE
#define PYFACE_AT \
  , { file, line }
#endif

#include <algorithm>
#include <cstdint>
#include <string>

#include "pyface/check.h"
#include "pyface/types.h"

namespace pyface::dev {

// ---- numbers: 16-bit types compute in float32, float64 in float64

template <class T>
struct AccumulatorOf {
  using type = float;
};
template <>
struct AccumulatorOf<double> {
  using type = double;
};
template <class T>
using Accumulator = typename AccumulatorOf<T>::type;

__device__ __forceinline__ float widen(float v) { return v; }
__device__ __forceinline__ double widen(double v) { return v; }
__device__ __forceinline__ float widen(__half v) { return __half2float(v); }
__device__ __forceinline__ float widen(__nv_bfloat16 v) { return __bfloat162float(v); }

template <class T>
__device__ __forceinline__ T narrow(Accumulator<T> v);
template <>
__device__ __forceinline__ float narrow<float>(float v) {
  return v;
}
template <>
__device__ __forceinline__ double narrow<double>(double v) {
  return v;
}
template <>
__device__ __forceinline__ __half narrow<__half>(float v) {
  return __float2half_rn(v);
}
template <>
__device__ __forceinline__ __nv_bfloat16 narrow<__nv_bfloat16>(float v) {
  return __float2bfloat16_rn(v);
}

// ---- vectors: N elements that move in 16-byte accesses

template <class T, int N>
struct alignas(sizeof(T) * N < 16 ? sizeof(T) * N : 16) Vec {
  T v[N];
};
// Elements in a 16-byte access.
template <class T>
constexpr int kVector = 16 / int(sizeof(T));

// out[k] = p[k]; p is aligned for Vec<T, N>.
template <int N, class T>
__device__ __forceinline__ void read_vector(const T* p, Accumulator<T> (&out)[N]) {
  const Vec<T, N> in = *reinterpret_cast<const Vec<T, N>*>(p);
  PYFACE_UNROLL
  for (int k = 0; k < N; k++) out[k] = widen(in.v[k]);
}
template <int N, class T>
__device__ __forceinline__ void write_vector(T* p, const Accumulator<T> (&in)[N]) {
  Vec<T, N> out;
  PYFACE_UNROLL
  for (int k = 0; k < N; k++) out.v[k] = narrow<T>(in[k]);
  *reinterpret_cast<Vec<T, N>*>(p) = out;
}
inline bool aligned16(const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; }

// ---- division of 32-bit numbers below 2^31 by a number known at launch: one multiplication and a shift
// (Granlund and Montgomery, "Division by invariant integers using multiplication", 1994)

struct FastDiv {
  uint32_t divisor = 1, multiplier = 1, shift = 0;
  FastDiv() = default;
  explicit FastDiv(uint32_t d) : divisor(d) {
    while ((uint64_t{1} << shift) < d) shift++;
    multiplier = static_cast<uint32_t>(((uint64_t{1} << 32) * ((uint64_t{1} << shift) - d)) / d + 1);
  }
  __device__ __forceinline__ uint32_t operator()(uint32_t n) const {
    return (__umulhi(n, multiplier) + n) >> shift;
  }
  // Returns n % divisor and leaves n / divisor in n.
  __device__ __forceinline__ uint32_t split(uint32_t& n) const {
    const uint32_t quotient = (*this)(n), rest = n - quotient * divisor;
    n = quotient;
    return rest;
  }
};

// ---- host: type dispatch

template <class T>
struct Type {
  using type = T;
};
// Calls f(Type<T>{}) with the C++ type of `dtype`.
template <class F>
void with_type(DType dtype, F&& f) {
  switch (dtype) {
    case DType::kF32:
      return f(Type<float>{});
    case DType::kF64:
      return f(Type<double>{});
    case DType::kBF16:
      return f(Type<__nv_bfloat16>{});
    case DType::kF16:
      return f(Type<__half>{});
  }
}

constexpr int64_t kIndexLimit = int64_t{1} << 31;
inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// ---- tensor cores and asynchronous copies

// `v`, which the compiler has to keep: it would rather make it anew from the thread's index at every turn.
__device__ __forceinline__ int kept(int v) {
#if defined(__CUDACC__)
  asm volatile("" : "+r"(v));
#endif
  return v;
}

// d(16x8, f32) += a(16x16) * b(16x8) by one warp; fragment layout of PTX mma.m16n8k16. Needs sm_80.
template <bool kBfloat16>
__device__ __forceinline__ void mma_m16n8k16(float (&d)[4], const uint32_t (&a)[4],
                                             const uint32_t (&b)[2] PYFACE_PLACE) {
#if !defined(__CUDACC__)
  emu::mma_m16n8k16<kBfloat16>(d, a, b PYFACE_AT);
#elif defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
  __trap();
#else
  if constexpr (kBfloat16) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
        "{%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};\n"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  } else {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
        "{%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};\n"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  }
#endif
}

// Four 8x8 matrices of 16-bit elements from shared memory; lane 8*m + r points at row r of matrix m.
template <bool kTransposed = false>
__device__ __forceinline__ void ldmatrix_x4(uint32_t (&out)[4], const void* row PYFACE_PLACE) {
#if !defined(__CUDACC__)
  emu::ldmatrix_x4(out, row, kTransposed PYFACE_AT);
#else
  const uint32_t address = static_cast<uint32_t>(__cvta_generic_to_shared(row));
  if constexpr (kTransposed) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3},[%4];\n"
                 : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
                 : "r"(address)
                 : "memory");
  } else {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3},[%4];\n"
                 : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
                 : "r"(address)
                 : "memory");
  }
#endif
}

// Copies `valid` (0 to 16) bytes from global to shared memory and zero-fills to 16, asynchronously from sm_80
// on.
__device__ __forceinline__ void async_copy16(void* to, const void* from, int valid PYFACE_PLACE) {
#if !defined(__CUDACC__)
  emu::async_copy(to, from, 16, valid PYFACE_AT);
#elif defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
  for (int i = 0; i < 16; i++) {
    static_cast<char*>(to)[i] = i < valid ? static_cast<const char*>(from)[i] : char{0};
  }
#else
  const uint32_t address = static_cast<uint32_t>(__cvta_generic_to_shared(to));
  asm volatile("cp.async.cg.shared.global [%0],[%1],16,%2;\n" ::"r"(address), "l"(from), "r"(valid)
               : "memory");
#endif
}
// The same with all 16 bytes or none: half the instructions, since hardware knows only these two.
__device__ __forceinline__ void async_copy16_if(void* to, const void* from, bool valid PYFACE_PLACE) {
#if !defined(__CUDACC__)
  emu::async_copy(to, from, 16, valid ? 16 : 0 PYFACE_AT);
#elif defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
  async_copy16(to, from, valid ? 16 : 0);
#else
  const uint32_t address = static_cast<uint32_t>(__cvta_generic_to_shared(to));
  asm volatile(
      "{ .reg .pred ignored; setp.eq.s32 ignored,%2,0;\n"
      "cp.async.cg.shared.global [%0],[%1],16,ignored; }\n" ::"r"(address),
      "l"(from), "r"(int(valid))
      : "memory");
#endif
}
__device__ __forceinline__ void async_commit() {
#if !defined(__CUDACC__)
  emu::async_commit();
#elif !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
  asm volatile("cp.async.commit_group;\n" ::: "memory");
#endif
}
// Waits until at most kPending groups of this thread are on their way.
template <int kPending>
__device__ __forceinline__ void async_wait() {
#if !defined(__CUDACC__)
  emu::async_wait(kPending);
#elif !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
  asm volatile("cp.async.wait_group %0;\n" ::"n"(kPending) : "memory");
#endif
}

}  // namespace pyface::dev
