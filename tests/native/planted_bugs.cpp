// Small kernels, each once right and once with a planted bug that the emulator has to report.
// Usage: planted_bugs NAME right|wrong. Prints what the emulator said, or "no error".
#include <cstdio>
#include <map>
#include <string>
#include <vector>

#include "emu/launcher.h"
#include "kernels/device.cuh"

namespace {

using namespace pyface;
using namespace pyface::dev;

// y = x read through a shared tile, backwards: every thread needs what another one wrote.
template <bool kWrong>
__global__ void missing_barrier(const float* x, float* y) {
  PYFACE_SHARED(memory);
  float* tile = reinterpret_cast<float*>(memory);
  tile[threadIdx.x] = x[threadIdx.x];
  if (!kWrong) __syncthreads();
  y[threadIdx.x] = tile[blockDim.x - 1 - threadIdx.x];
}

template <bool kWrong>
__global__ void short_tile(const float* x, float* y) {
  PYFACE_SHARED(memory);
  float* tile = reinterpret_cast<float*>(memory);
  tile[threadIdx.x + (kWrong ? 1 : 0)] = x[threadIdx.x];
  __syncthreads();
  y[threadIdx.x] = tile[threadIdx.x];
}

// Two groups of copies are under way; the result needs the first one.
template <bool kWrong>
__global__ void lax_wait(const float* x, float* y) {
  PYFACE_SHARED(memory);
  const int t = threadIdx.x;
  async_copy16(memory + t * 16, x + t * 4, 16);
  async_commit();
  async_copy16(memory + 1024 + t * 16, x + t * 4, 16);
  async_commit();
  async_wait<kWrong ? 2 : 1>();
  __syncthreads();
  y[t] = reinterpret_cast<float*>(memory)[63 - t];
}

template <bool kWrong>
__global__ void divergent_barrier(const float* x, float* y) {
  if (kWrong && threadIdx.x >= 40) return;
  __syncthreads();
  y[threadIdx.x] = x[63 - threadIdx.x];
}

template <bool kWrong>
__global__ void two_barriers(const float* x, float* y) {
  if (kWrong && threadIdx.x % 2) {
    __syncthreads();
  } else {
    __syncthreads();
  }
  y[threadIdx.x] = x[63 - threadIdx.x];
}

template <bool kWrong>
__global__ void divergent_shuffle(const float* x, float* y) {
  float v = x[threadIdx.x];
  if (!kWrong || threadIdx.x % 2) v = __shfl_xor_sync(0xffffffffu, v, 31);
  if (threadIdx.x >= 32) v = x[63 - threadIdx.x];
  y[threadIdx.x] = threadIdx.x < 32 ? x[63 - threadIdx.x] : v;
}

template <bool kWrong>
__global__ void shuffle_outside_mask(const float* x, float* y) {
  const unsigned mask = kWrong ? 0xffffu : 0xffffffffu;
  y[threadIdx.x] = x[63 - threadIdx.x];
  const float other = __shfl_sync(mask, x[threadIdx.x], 3);
  if (other != x[threadIdx.x / 32 * 32 + 3]) y[threadIdx.x] = -1.f;
}

template <bool kWrong>
__global__ void uninitialised_shared(const float* x, float* y) {
  PYFACE_SHARED(memory);
  float* tile = reinterpret_cast<float*>(memory);
  if (!kWrong || threadIdx.x != 7) tile[threadIdx.x] = x[threadIdx.x];
  __syncthreads();
  y[threadIdx.x] = tile[63 - threadIdx.x];
}

template <bool kWrong>
__global__ void misaligned_ldmatrix(const float* x, float* y) {
  PYFACE_SHARED(memory);
  const int t = threadIdx.x;
  for (int i = 0; i < 4; i++) reinterpret_cast<float*>(memory)[t * 4 + i] = 0.f;
  __syncthreads();
  uint32_t out[4];
  ldmatrix_x4(out, memory + t % 32 * 16 + (kWrong ? 2 : 0));
  y[t] = x[63 - t] + static_cast<float>(out[0]);
}

using Kernel = void (*)(const float*, float*);

struct Planted {
  Kernel right, wrong;
  size_t shared;
};
#define PLANTED(name, shared)                  \
  {                                            \
    #name, { name<false>, name<true>, shared } \
  }
const std::map<std::string, Planted> kPlanted = {
    PLANTED(missing_barrier, 256),    PLANTED(short_tile, 256),           PLANTED(lax_wait, 2048),
    PLANTED(divergent_barrier, 0),    PLANTED(two_barriers, 0),           PLANTED(divergent_shuffle, 0),
    PLANTED(shuffle_outside_mask, 0), PLANTED(uninitialised_shared, 256), PLANTED(misaligned_ldmatrix, 2048)};

// Launches 64 threads; all kernels but short_tile reverse x.
std::string run(const std::string& name, bool wrong, int schedule) {
  const Planted& planted = kPlanted.at(name);
  std::vector<float> storage(64 * 4 + 4), y(64, -1.f);
  float* x = reinterpret_cast<float*>((reinterpret_cast<uintptr_t>(storage.data()) + 15) & ~uintptr_t{15});
  for (int i = 0; i < 256; i++) x[i] = static_cast<float>(i);
  try {
    EmuLauncher("planted", schedule)(name.c_str(), wrong ? planted.wrong : planted.right, dim3(1), dim3(64),
                                     planted.shared, static_cast<const float*>(x), y.data());
  } catch (const std::exception& error) {
    return error.what();
  }
  for (int i = 0; i < 64; i++) {
    const float truth = x[name == "short_tile" ? i : 63 - i];
    if (!(y[static_cast<size_t>(i)] == truth)) return "wrong value at thread " + std::to_string(i);
  }
  return "no error";
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3 || !kPlanted.count(argv[1])) return 2;
  for (int schedule = 0; schedule < 3; schedule++) {
    std::printf("%s\n", run(argv[1], std::string(argv[2]) == "wrong", schedule).c_str());
  }
  return 0;
}
