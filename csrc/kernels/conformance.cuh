// One warp, one hardware primitive: see pyface/conformance.h for the layouts.
#pragma once
#include "kernels/device.cuh"
#include "pyface/conformance.h"

namespace pyface::dev {

template <bool kBfloat16>
__global__ void __launch_bounds__(32)
    mma_kernel(const uint32_t* __restrict__ input, float* __restrict__ output) {
  const int lane = threadIdx.x, group = lane >> 2, pair = lane & 3;
  const uint32_t* a = input;                                     // [16][8] pairs
  const uint32_t* b = input + 128;                               // [8][8] pairs
  const float* c = reinterpret_cast<const float*>(input + 192);  // [16][8]
  const uint32_t fa[4] = {a[group * 8 + pair], a[(group + 8) * 8 + pair], a[group * 8 + pair + 4],
                          a[(group + 8) * 8 + pair + 4]};
  const uint32_t fb[2] = {b[group * 8 + pair], b[group * 8 + pair + 4]};
  float d[4];
  PYFACE_UNROLL
  for (int i = 0; i < 4; i++) d[i] = c[(group + (i >> 1) * 8) * 8 + pair * 2 + (i & 1)];
  mma_m16n8k16<kBfloat16>(d, fa, fb);
  PYFACE_UNROLL
  for (int i = 0; i < 4; i++) output[(group + (i >> 1) * 8) * 8 + pair * 2 + (i & 1)] = d[i];
}

template <bool kTransposed>
__global__ void __launch_bounds__(32)
    ldmatrix_kernel(const unsigned char* __restrict__ input, uint32_t* __restrict__ output) {
  PYFACE_SHARED(memory);
  const int lane = threadIdx.x;
  for (int i = 0; i < 16; i++) memory[lane * 16 + i] = input[lane * 16 + i];
  __syncthreads();
  uint32_t out[4];
  ldmatrix_x4<kTransposed>(out, memory + lane * 16);
  PYFACE_UNROLL
  for (int i = 0; i < 4; i++) output[lane * 4 + i] = out[i];
}

static __global__ void __launch_bounds__(32)
    shuffles_kernel(const float* __restrict__ input, float* __restrict__ output) {
  const int lane = threadIdx.x;
  const float v = input[lane];
  output[lane] = __shfl_xor_sync(0xffffffffu, v, 5);
  output[32 + lane] = __shfl_sync(0xffffffffu, v, 7 * lane % 32);
  output[64 + lane] = __shfl_down_sync(0xffffffffu, v, 3);
  output[96 + lane] = __shfl_up_sync(0xffffffffu, v, 2);
}

// Two groups in flight: the first wait covers one of them, the second both.
static __global__ void __launch_bounds__(32)
    async_copy_kernel(const unsigned char* __restrict__ input, unsigned char* __restrict__ output) {
  PYFACE_SHARED(memory);
  const int lane = threadIdx.x;
  if (lane < 16) async_copy16(memory + lane * 16, input + lane * 16, 4 * (lane % 5));
  async_commit();
  if (lane >= 16) async_copy16(memory + lane * 16, input + lane * 16, 4 * (lane % 5));
  async_commit();
  async_wait<1>();
  __syncthreads();
  const int other = 15 - lane % 16;  // what another lane copied
  if (lane < 16) {
    for (int i = 0; i < 16; i++) output[other * 16 + i] = memory[other * 16 + i];
  }
  async_wait<0>();
  __syncthreads();
  if (lane >= 16) {
    for (int i = 0; i < 16; i++) output[(other + 16) * 16 + i] = memory[(other + 16) * 16 + i];
  }
}

template <class Launcher>
void run_conformance(const ConformanceParams& p, const Launcher& launch) {
  const auto* bytes = static_cast<const unsigned char*>(p.input);
  const auto* words = static_cast<const uint32_t*>(p.input);
  const auto* floats = static_cast<const float*>(p.input);
  const dim3 one(1), warp(32);
  auto* float_out = static_cast<float*>(p.output);
  auto* word_out = static_cast<uint32_t*>(p.output);
  switch (p.primitive) {
    case Primitive::kMmaF16:
      return launch("mma_kernel<f16>", mma_kernel<false>, one, warp, 0, words, float_out);
    case Primitive::kMmaBF16:
      return launch("mma_kernel<bf16>", mma_kernel<true>, one, warp, 0, words, float_out);
    case Primitive::kLdmatrix:
      return launch("ldmatrix_kernel", ldmatrix_kernel<false>, one, warp, 512, bytes, word_out);
    case Primitive::kLdmatrixTrans:
      return launch("ldmatrix_kernel<trans>", ldmatrix_kernel<true>, one, warp, 512, bytes, word_out);
    case Primitive::kShuffles:
      return launch("shuffles_kernel", shuffles_kernel, one, warp, 0, floats, float_out);
    case Primitive::kAsyncCopy:
      return launch("async_copy_kernel", async_copy_kernel, one, warp, 512, bytes,
                    static_cast<unsigned char*>(p.output));
  }
}

}  // namespace pyface::dev
