// upfirdn2d on a GPU: twice the size by the filter [1, 3, 3, 1], float16, NCHW. Bound by memory.
//
// From the folder of the project:
// nvcc -std=c++17 -O3 --expt-relaxed-constexpr -arch=native -I csrc -I csrc/include
// bench/kernels/upfirdn2d.cu
//   csrc/cuda/upfirdn2d.cu -o upfirdn2d_gpu && ./upfirdn2d_gpu planes=512 h=128 w=128
// In the emulator, to see that it is right:
// g++ -std=gnu++17 -O1 -pthread -x c++ -I csrc -I csrc/include bench/kernels/upfirdn2d.cu
//   csrc/emu/upfirdn2d.cpp -o upfirdn2d_emu && ./upfirdn2d_emu planes=2 h=8 w=16
#include "pyface/upfirdn2d.h"

#include "ladder.cuh"

namespace {

using ladder::Half;

struct Settings {
  int64_t planes;
  int h, w;  // of the input
  int64_t outputs() const { return planes * 4 * h * w; }
};

constexpr int kPad = 2;

// Tap of [1, 3, 3, 1] / 8, times the gain of 2 along each axis.
__host__ __device__ inline float tap(int k) { return k == 0 || k == 3 ? 0.25f : 0.75f; }

// One thread for each output, as the definition is read: sixteen taps, each of which asks whether it meets a
// pixel or a zero that was put between, in 64-bit numbers.
__global__ void version_1(const Half* x, Half* y, Settings s) {
  const int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i >= s.planes * 4 * s.h * s.w) return;
  const int64_t column = i % (2 * s.w), row = i / (2 * s.w) % (2 * s.h), plane = i / (4 * int64_t{s.h} * s.w);
  float sum = 0;
  for (int ky = 0; ky < 4; ++ky) {
    for (int kx = 0; kx < 4; ++kx) {
      const int64_t at_y = row + ky - kPad, at_x = column + kx - kPad;
      if (at_y < 0 || at_x < 0 || at_y % 2 || at_x % 2 || at_y / 2 >= s.h || at_x / 2 >= s.w) continue;
      sum += tap(ky) * tap(kx) * __half2float(x[(plane * s.h + at_y / 2) * s.w + at_x / 2]);
    }
  }
  y[i] = __float2half_rn(sum);
}

// The pixel nearer to an output weighs 3/4, the other one 1/4, along each axis: four products, no test of
// zeros. Grid of planes, rows and columns: no division.
__global__ void __launch_bounds__(256)
    version_2(const Half* __restrict__ x, Half* __restrict__ y, int h, int w) {
  const int column = blockIdx.x * 32 + threadIdx.x % 32, row = blockIdx.y * 8 + threadIdx.x / 32;
  if (column >= 2 * w || row >= 2 * h) return;
  const Half* plane = x + size_t{blockIdx.z} * h * w;
  const int near_y = row / 2, far_y = row % 2 ? near_y + 1 : near_y - 1;
  const int near_x = column / 2, far_x = column % 2 ? near_x + 1 : near_x - 1;
  const auto at = [&](int r, int c) {
    return r >= 0 && r < h && c >= 0 && c < w ? __half2float(plane[r * w + c]) : 0.f;
  };
  const float near = 0.75f * at(near_y, near_x) + 0.25f * at(near_y, far_x);
  const float far = 0.75f * at(far_y, near_x) + 0.25f * at(far_y, far_x);
  y[(size_t{blockIdx.z} * 2 * h + row) * 2 * w + column] = __float2half_rn(0.75f * near + 0.25f * far);
}

// A thread makes 4 x 4 outputs from a window of 4 x 4 inputs in registers: one load an output instead of
// four, separable sums, and 8-byte stores.
__global__ void __launch_bounds__(256)
    version_3(const Half* __restrict__ x, Half* __restrict__ y, int h, int w) {
  const int left = (blockIdx.x * 32 + threadIdx.x % 32) * 2, top = (blockIdx.y * 8 + threadIdx.x / 32) * 2;
  if (left >= w || top >= h) return;
  const Half* plane = x + size_t{blockIdx.z} * h * w;
  float wide[4][4];  // rows of the window, filtered along x
  PYFACE_UNROLL
  for (int r = 0; r < 4; ++r) {
    const int row = top + r - 1;
    float v[4];
    PYFACE_UNROLL
    for (int c = 0; c < 4; ++c) {
      const int column = left + c - 1;
      v[c] = row >= 0 && row < h && column >= 0 && column < w ? __half2float(plane[row * w + column]) : 0.f;
    }
    wide[r][0] = 0.75f * v[1] + 0.25f * v[0], wide[r][1] = 0.75f * v[1] + 0.25f * v[2];
    wide[r][2] = 0.75f * v[2] + 0.25f * v[1], wide[r][3] = 0.75f * v[2] + 0.25f * v[3];
  }
  Half* to = y + (size_t{blockIdx.z} * 2 * h + 2 * top) * 2 * w + 2 * left;
  PYFACE_UNROLL
  for (int r = 0; r < 4; ++r) {
    if (2 * top + r >= 2 * h) return;
    const int near = r / 2 + 1, far = r % 2 ? near + 1 : near - 1;
    pyface::dev::Vec<Half, 4> out;
    PYFACE_UNROLL
    for (int c = 0; c < 4; ++c) out.v[c] = __float2half_rn(0.75f * wide[near][c] + 0.25f * wide[far][c]);
    *reinterpret_cast<pyface::dev::Vec<Half, 4>*>(to + size_t(r) * 2 * w) = out;
  }
}

// The window comes from a tile in shared memory that the block loads once, in rows: every input is read from
// memory once but for the rim of the tile. The tests at the borders are made while loading.
constexpr int kTileX = 64, kTileY = 16, kPitch = kTileX + 2;
__global__ void __launch_bounds__(256)
    version_4(const Half* __restrict__ x, Half* __restrict__ y, int h, int w) {
  PYFACE_SHARED(memory);
  float* tile = reinterpret_cast<float*>(memory);
  const int left = blockIdx.x * kTileX, top = blockIdx.y * kTileY;
  const Half* plane = x + size_t{blockIdx.z} * h * w;
  for (int i = threadIdx.x; i < kPitch * (kTileY + 2); i += 256) {
    const int row = top + i / kPitch - 1, column = left + i % kPitch - 1;
    tile[i] = row >= 0 && row < h && column >= 0 && column < w ? __half2float(plane[row * w + column]) : 0.f;
  }
  __syncthreads();
  const int own_x = threadIdx.x % 32 * 2, own_y = threadIdx.x / 32 * 2;
  if (left + own_x >= w || top + own_y >= h) return;
  float wide[4][4];
  PYFACE_UNROLL
  for (int r = 0; r < 4; ++r) {
    const float* v = tile + (own_y + r) * kPitch + own_x;
    wide[r][0] = 0.75f * v[1] + 0.25f * v[0], wide[r][1] = 0.75f * v[1] + 0.25f * v[2];
    wide[r][2] = 0.75f * v[2] + 0.25f * v[1], wide[r][3] = 0.75f * v[2] + 0.25f * v[3];
  }
  Half* to = y + (size_t{blockIdx.z} * 2 * h + 2 * (top + own_y)) * 2 * w + 2 * (left + own_x);
  PYFACE_UNROLL
  for (int r = 0; r < 4; ++r) {
    if (2 * (top + own_y) + r >= 2 * h) return;
    const int near = r / 2 + 1, far = r % 2 ? near + 1 : near - 1;
    pyface::dev::Vec<Half, 4> out;
    PYFACE_UNROLL
    for (int c = 0; c < 4; ++c) out.v[c] = __float2half_rn(0.75f * wide[near][c] + 0.25f * wide[far][c]);
    *reinterpret_cast<pyface::dev::Vec<Half, 4>*>(to + size_t(r) * 2 * w) = out;
  }
}

// The kernel that ships, for any filter up to 8 x 8, factors 1/1, 2/1 and 1/2, and both memory orders:
// csrc/kernels/upfirdn2d.cuh.
void shipped(const Settings& s, const Half* x, const float* filter, Half* y) {
  pyface::Upfirdn2dParams p{};
  p.x = x, p.filter = filter, p.y = y, p.dtype = pyface::DType::kF16;
  p.n = 1, p.c = s.planes, p.in_h = s.h, p.in_w = s.w, p.out_h = 2 * s.h, p.out_w = 2 * s.w;
  p.separable = true, p.filter_h = p.filter_w = 4, p.gain = 4;
  p.up_x = p.up_y = 2, p.down_x = p.down_y = 1, p.pad_x0 = p.pad_y0 = kPad;
#ifdef __CUDACC__
  pyface::launch_upfirdn2d_cuda(p, nullptr);
#else
  pyface::launch_upfirdn2d_emu(p, 2);
#endif
}

// Version 1 in double on the CPU.
void in_double(const Settings& s, const Half* x, double* y) {
  for (int64_t i = 0; i < s.outputs(); ++i) {
    const int64_t column = i % (2 * s.w), row = i / (2 * s.w) % (2 * s.h),
                  plane = i / (4 * int64_t{s.h} * s.w);
    double sum = 0;
    for (int ky = row % 2; ky < 4; ky += 2) {
      for (int kx = column % 2; kx < 4; kx += 2) {
        const int64_t at_y = row + ky - kPad, at_x = column + kx - kPad;
        if (at_y < 0 || at_x < 0 || at_y / 2 >= s.h || at_x / 2 >= s.w) continue;
        sum += double(tap(ky)) * tap(kx) * ladder::to_double(x[(plane * s.h + at_y / 2) * s.w + at_x / 2]);
      }
    }
    y[i] = sum;
  }
}

}  // namespace

int main(int count, char** arguments) {
  const ladder::Sizes sizes(count, arguments, {{"planes", 512}, {"h", 128}, {"w", 128}});
  const Settings s{sizes["planes"], int(sizes["h"]), int(sizes["w"])};
  if (s.w % 2 || s.planes > 65535) {
    std::fprintf(stderr, "w must be even, and planes at most 65535\n");
    return 2;
  }
  const int64_t inputs = s.planes * s.h * s.w;
  const ladder::Buffer<Half> x(inputs);
  const ladder::Buffer<float> filter(4);
  const ladder::Buffer<double> truth(s.outputs());
  ladder::Random random(1);
  for (int64_t i = 0; i < inputs; ++i) x[i] = __float2half_rn(random.next(-1, 1));
  for (int k = 0; k < 4; ++k) filter[k] = tap(k) / 2;
  if (ladder::missing_device().empty()) in_double(s, x.get(), truth.get());
  const ladder::DeviceBuffer<Half> device_x(x), y(s.outputs());
  const ladder::DeviceBuffer<float> device_filter(filter);
  const auto launch = ladder::launcher("upfirdn2d");
  const auto rung = [&](const char* what, std::function<void()> run, bool ships = false) {
    return ladder::Version{what,    std::move(run), [&] { return y.max_error(truth); },
                           0x1p-10, ships,          "float16"};
  };
  const auto grid = [&](int across, int down) {
    return dim3(unsigned((2 * s.w + across - 1) / across), unsigned((2 * s.h + down - 1) / down),
                unsigned(s.planes));
  };
  const Half* px = device_x.get();
  ladder::Work work{"upfirdn2d", std::to_string(s.planes) + "x" + std::to_string(s.h) + "x" +
                                     std::to_string(s.w) + " to twice the size"};
  work.bytes = 2.0 * (inputs + s.outputs());
  work.flops = 3.0 * (s.outputs() / 2) + 3.0 * s.outputs();
  work.poison = [&] { y.spoil(); };
  const unsigned single = unsigned((s.outputs() + 255) / 256), shared = kPitch * (kTileY + 2) * sizeof(float);
  return ladder::climb_on_device(
      work,
      {rung("sixteen taps an output",
            [&] { launch("version_1", version_1, dim3(single), dim3(256), 0, px, y.get(), s); }),
       rung("the four products of each phase",
            [&] { launch("version_2", version_2, grid(32, 8), dim3(256), 0, px, y.get(), s.h, s.w); }),
       rung("4x4 outputs from registers",
            [&] { launch("version_3", version_3, grid(128, 32), dim3(256), 0, px, y.get(), s.h, s.w); }),
       rung("inputs through shared memory",
            [&] {
              launch("version_4", version_4, grid(2 * kTileX, 2 * kTileY), dim3(256), shared, px, y.get(),
                     s.h, s.w);
            }),
       rung(
           "csrc/kernels/upfirdn2d.cuh", [&] { shipped(s, px, device_filter.get(), y.get()); }, true)},
      sizes["rounds"]);
}
