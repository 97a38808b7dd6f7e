// The gradient of a 3x3 convolution's weight on a GPU, float16, NHWC, stride 1, padding 1:
// dw[o, tap, i] = sum over all pixels of dy[pixel, o] * x[pixel moved by tap, i]. Bound by arithmetic.
//
// From the folder of the project:
// nvcc -std=c++17 -O3 --expt-relaxed-constexpr -arch=native -I csrc -I csrc/include
//   bench/kernels/conv2d_weight_grad.cu csrc/cuda/conv2d_weight_grad.cu -o conv2d_weight_grad_gpu
//   && ./conv2d_weight_grad_gpu n=8 in=256 out=256 h=32 w=32
// In the emulator, to see that it is right:
// g++ -std=gnu++17 -O1 -pthread -x c++ -I csrc -I csrc/include bench/kernels/conv2d_weight_grad.cu
//   csrc/emu/conv2d_weight_grad.cpp -o conv2d_weight_grad_emu
//   && ./conv2d_weight_grad_emu n=1 in=16 out=24 h=4 w=5
#include "pyface/conv2d_weight_grad.h"

#include "kernels/mma_tiles.cuh"
#include "ladder.cuh"

namespace {

using ladder::Half;
using namespace pyface::dev;

struct Settings {
  int n, in, out, h, w;
  __host__ __device__ int pixels() const { return n * h * w; }
};

// The value of x that tap `tap` of `pixel` looks at begins here; null outside the picture.
template <class T>
__host__ __device__ const T* looked_at(const T* x, const Settings& s, int pixel, int tap) {
  const int column = pixel % s.w + tap % 3 - 1, row = pixel / s.w % s.h + tap / 3 - 1;
  if (row < 0 || row >= s.h || column < 0 || column >= s.w) return nullptr;
  return x + (int64_t{pixel / (s.w * s.h)} * s.h * s.w + row * s.w + column) * s.in;
}

// As the definition is read: a thread an element of dw, which goes through all pixels.
// Every value is read from global memory 9 * in or out times.
__global__ void version_1(const Half* x, const Half* dy, Half* dw, Settings s) {
  const int64_t element = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (element >= int64_t{s.out} * 9 * s.in) return;
  const int i = int(element % s.in), tap = int(element / s.in % 9), o = int(element / s.in / 9);
  float sum = 0;
  for (int pixel = 0; pixel < s.pixels(); ++pixel) {
    const Half* seen = looked_at(x, s, pixel, tap);
    if (seen) sum += __half2float(dy[int64_t{pixel} * s.out + o]) * __half2float(seen[i]);
  }
  dw[element] = __float2half_rn(sum);
}

// A block a tap and 32 x 32 channels: 32 pixels at a time lie in shared memory, each value of which is used
// 32 times; a thread keeps four sums.
__global__ void __launch_bounds__(256) version_2(const Half* x, const Half* dy, Half* dw, Settings s) {
  PYFACE_SHARED(memory);
  float (*rows)[33] = reinterpret_cast<float (*)[33]>(memory);
  float (*columns)[33] = rows + 32;
  const int tap = blockIdx.z, first_o = blockIdx.y * 32, first_i = blockIdx.x * 32;
  const int lane = int(threadIdx.x) % 32, strip = int(threadIdx.x) / 32;
  float sum[4] = {};
  for (int base = 0; base < s.pixels(); base += 32) {
    for (int k = strip; k < 32; k += 8) {
      const int pixel = base + k;
      const bool there = pixel < s.pixels();
      const Half* seen = there ? looked_at(x, s, pixel, tap) : nullptr;
      rows[k][lane] =
          there && first_o + lane < s.out ? __half2float(dy[int64_t{pixel} * s.out + first_o + lane]) : 0.f;
      columns[k][lane] = seen && first_i + lane < s.in ? __half2float(seen[first_i + lane]) : 0.f;
    }
    __syncthreads();
    for (int k = 0; k < 32; ++k) {
      PYFACE_UNROLL
      for (int j = 0; j < 4; ++j) sum[j] += rows[k][strip * 4 + j] * columns[k][lane];
    }
    __syncthreads();
  }
  PYFACE_UNROLL
  for (int j = 0; j < 4; ++j) {
    const int o = first_o + strip * 4 + j, i = first_i + lane;
    if (o < s.out && i < s.in) dw[(int64_t{o} * 9 + tap) * s.in + i] = __float2half_rn(sum[j]);
  }
}

// Tensor cores: 64 x 64 channels a block, 32 x 32 a warp; both operands lie in shared memory as they do in
// global memory, ldmatrix.trans turns them. Copies still wait for each other, and few channels fill few
// blocks.
using Tile = MmaTile<64, 64, 32, 32, 1, 1>;
__global__ void __launch_bounds__(Tile::kThreads)
    version_3(const Half* x, const Half* dy, Half* dw, Settings s) {
  PYFACE_SHARED(memory);
  Half* rows = reinterpret_cast<Half*>(memory);
  Half* columns = rows + 32 * 64;
  const int tap = blockIdx.z, first_o = blockIdx.y * 64, first_i = blockIdx.x * 64;
  float sum[Tile::kFragmentsM][Tile::kFragmentsN][4] = {};
  for (int base = 0; base < s.pixels(); base += 32) {
    for (int q = threadIdx.x; q < 32 * 8; q += Tile::kThreads) {
      const int k = q / 8, chunk = q % 8, pixel = base + k, o = first_o + chunk * 8, i = first_i + chunk * 8;
      const bool there = pixel < s.pixels();
      const Half* seen = there ? looked_at(x, s, pixel, tap) : nullptr;
      float a[8] = {}, b[8] = {};
      if (there && o < s.out) read_vector(dy + int64_t{pixel} * s.out + o, a);
      if (seen && i < s.in) read_vector(seen + i, b);
      write_vector(rows + Swizzle<64>::at(k, chunk), a);
      write_vector(columns + Swizzle<64>::at(k, chunk), b);
    }
    __syncthreads();
    PYFACE_UNROLL
    for (int k = 0; k < 32; k += 16) {
      uint32_t a[Tile::kFragmentsM][4], b[4];
      PYFACE_UNROLL
      for (int m = 0; m < Tile::kFragmentsM; ++m) load_a_across<64>(a[m], rows, Tile::warp_row() + m * 16, k);
      PYFACE_UNROLL
      for (int j = 0; j < Tile::kFragmentsN; j += 2) {
        load_b_across<64>(b, columns, Tile::warp_column() + j * 8, k);
        const uint32_t first[2] = {b[0], b[1]}, second[2] = {b[2], b[3]};
        PYFACE_UNROLL
        for (int m = 0; m < Tile::kFragmentsM; ++m) {
          mma_m16n8k16<false>(sum[m][j], a[m], first);
          mma_m16n8k16<false>(sum[m][j + 1], a[m], second);
        }
      }
    }
    __syncthreads();
  }
  PYFACE_UNROLL
  for (int m = 0; m < Tile::kFragmentsM; ++m) {
    PYFACE_UNROLL
    for (int j = 0; j < Tile::kFragmentsN; ++j) {
      PYFACE_UNROLL
      for (int e = 0; e < 4; ++e) {
        const int o = first_o + fragment_row<Tile>(m, e), i = first_i + fragment_column<Tile>(j, e);
        if (o < s.out && i < s.in) dw[(int64_t{o} * 9 + tap) * s.in + i] = __float2half_rn(sum[m][j][e]);
      }
    }
  }
}

pyface::Conv2dWeightGradParams parameters(const Settings& s, int multiprocessors) {
  pyface::Conv2dWeightGradParams p{};
  p.dtype = pyface::DType::kF16, p.n = s.n, p.in_h = p.out_h = s.h, p.in_w = p.out_w = s.w;
  p.in_channels = s.in, p.out_channels = s.out;
  p.kernel_h = p.kernel_w = 3, p.stride = p.pad_y = p.pad_x = 1;
  p.splits = pyface::conv2d_weight_grad_splits(p, multiprocessors);
  return p;
}

// The kernel that ships: csrc/kernels/conv2d_weight_grad.cuh.
void shipped(pyface::Conv2dWeightGradParams p, const Half* x, const Half* dy, Half* dw, float* workspace) {
  p.x = x, p.dy = dy, p.dw = dw, p.workspace = workspace;
#ifdef __CUDACC__
  pyface::launch_conv2d_weight_grad_cuda(p, nullptr);
#else
  pyface::launch_conv2d_weight_grad_emu(p, 2);
#endif
}

// Version 1 in double on the CPU, a pixel after the other.
void in_double(const Settings& s, const Half* x, const Half* dy, double* dw) {
  std::vector<double> seen(s.in);
  for (int pixel = 0; pixel < s.pixels(); ++pixel) {
    for (int tap = 0; tap < 9; ++tap) {
      const Half* from = looked_at(x, s, pixel, tap);
      if (!from) continue;
      for (int i = 0; i < s.in; ++i) seen[i] = ladder::to_double(from[i]);
      for (int o = 0; o < s.out; ++o) {
        const double g = ladder::to_double(dy[int64_t{pixel} * s.out + o]);
        double* to = dw + (int64_t{o} * 9 + tap) * s.in;
        for (int i = 0; i < s.in; ++i) to[i] += g * seen[i];
      }
    }
  }
}

}  // namespace

int main(int count, char** arguments) {
  const ladder::Sizes sizes(count, arguments, {{"n", 8}, {"in", 256}, {"out", 256}, {"h", 32}, {"w", 32}});
  const Settings s{int(sizes["n"]), int(sizes["in"]), int(sizes["out"]), int(sizes["h"]), int(sizes["w"])};
  const int64_t pixels = sizes["n"] * sizes["h"] * sizes["w"], weights = int64_t{s.out} * 9 * s.in;
  if (s.in % 8 || s.out % 8 || pixels * std::max(s.in, s.out) >= int64_t{1} << 31) {
    std::fprintf(stderr, "in and out must be multiples of 8, and all elements fewer than 2^31\n");
    return 2;
  }
  const ladder::Buffer<Half> x(pixels * s.in), dy(pixels * s.out);
  const ladder::Buffer<double> truth(weights);
  ladder::Random random(1);
  for (int64_t i = 0; i < x.size(); ++i) x[i] = __float2half_rn(random.next(-1, 1));
  for (int64_t i = 0; i < dy.size(); ++i) dy[i] = __float2half_rn(random.next(-1, 1));
  if (ladder::missing_device().empty()) in_double(s, x.get(), dy.get(), truth.get());
  const auto launch = ladder::launcher("conv2d_weight_grad");
  const auto p = parameters(s, ladder::missing_device().empty() ? launch.multiprocessors() : 1);
  const ladder::DeviceBuffer<Half> device_x(x), device_dy(dy), dw(weights);
  const ladder::DeviceBuffer<float> workspace(std::max<int64_t>(1, conv2d_weight_grad_workspace(p)));
  const Half *px = device_x.get(), *pdy = device_dy.get();
  const auto rung = [&](const char* what, std::function<void()> run, bool ships = false) {
    return ladder::Version{what,        std::move(run), [&] { return dw.max_error(truth); },
                           2 * 0x1p-11, ships,          "float16"};
  };
  ladder::Work work{"conv2d_weight_grad", std::to_string(s.n) + "x" + std::to_string(s.in) + "->" +
                                              std::to_string(s.out) + "x" + std::to_string(s.h) + "x" +
                                              std::to_string(s.w)};
  work.bytes = 2.0 * (pixels * (s.in + s.out) + weights);
  work.flops = 2.0 * pixels * weights;
  work.poison = [&] { dw.spoil(); };
  const auto grid = [&](int side) {
    return dim3(unsigned((s.in + side - 1) / side), unsigned((s.out + side - 1) / side), 9);
  };
  return ladder::climb_on_device(work,
                                 {rung("a thread an element",
                                       [&] {
                                         launch("version_1", version_1, dim3(unsigned((weights + 255) / 256)),
                                                dim3(256), 0, px, pdy, dw.get(), s);
                                       }),
                                  rung("tiles in shared memory",
                                       [&] {
                                         launch("version_2", version_2, grid(32), dim3(256),
                                                64 * 33 * sizeof(float), px, pdy, dw.get(), s);
                                       }),
                                  rung("tensor cores",
                                       [&] {
                                         launch("version_3", version_3, grid(64), dim3(Tile::kThreads),
                                                2 * 32 * 64 * sizeof(Half), px, pdy, dw.get(), s);
                                       }),
                                  rung(
                                      "csrc/kernels/conv2d_weight_grad.cuh",
                                      [&] { shipped(p, px, pdy, dw.get(), workspace.get()); }, true)},
                                 sizes["rounds"]);
}
