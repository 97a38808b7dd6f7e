// A synthesis layer that doubles the size on a GPU: style, transposed 3x3 convolution, filter [1, 3, 3, 1],
// then next_style * clamp(gain * lrelu(v * demod + noise + bias)), float16, NHWC. Bound by arithmetic where
// channels are many, by memory where they are few.
//
// From the folder of the project:
// nvcc -std=c++17 -O3 --expt-relaxed-constexpr -arch=native -I csrc -I csrc/include
//   bench/kernels/upconv2d.cu csrc/cuda/upconv2d.cu -o upconv2d_gpu
//   && ./upconv2d_gpu n=8 in=512 out=256 h=64 w=64
// In the emulator, to see that it is right:
// g++ -std=gnu++17 -O1 -pthread -x c++ -I csrc -I csrc/include bench/kernels/upconv2d.cu
//   csrc/emu/upconv2d.cpp -o upconv2d_emu && ./upconv2d_emu n=1 in=16 out=16 h=5 w=6
#include "pyface/upconv2d.h"

#include "kernels/mma_tiles.cuh"
#include "ladder.cuh"

namespace {

using ladder::Half;

constexpr float kTaps[4] = {0.125f, 0.375f, 0.375f, 0.125f};
constexpr float kAlpha = 0.2f, kGain = 1.4142135f, kClamp = 8.f;

struct Settings {
  int n, h, w, in, out;
  __host__ __device__ int64_t inputs() const { return int64_t{n} * h * w * in; }
  __host__ __device__ int64_t sums() const { return int64_t{n} * (2 * h + 1) * (2 * w + 1) * out; }
  __host__ __device__ int64_t outputs() const { return int64_t{n} * 4 * h * w * out; }
};
struct Sides {
  const float *style, *demod, *noise, *bias, *next;  // [n, in], [n, out], [2h, 2w], [out], [n, out]
};

__host__ __device__ inline float finish(float v, float next) {
  v = (v < 0.f ? v * kAlpha : v) * kGain;
  return (v > kClamp ? kClamp : v < -kClamp ? -kClamp : v) * next;
}

// A kernel for each part, an element a thread, as the definition is read: the style's product and the
// transposed convolution go through memory, the filter reads 16 of its sums for each output.
__global__ void apply_style(const Half* x, const float* style, Half* styled, Settings s) {
  const int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i >= s.inputs()) return;
  const int64_t sample = i / s.in / s.h / s.w;
  styled[i] = __float2half_rn(__half2float(x[i]) * style[sample * s.in + i % s.in]);
}
__global__ void transposed(const Half* x, const Half* weight, const float* demod, Half* u, Settings s) {
  const int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i >= s.sums()) return;
  const int64_t o = i % s.out, column = i / s.out % (2 * s.w + 1),
                row = i / s.out / (2 * s.w + 1) % (2 * s.h + 1);
  const int64_t sample = i / s.out / (2 * s.w + 1) / (2 * s.h + 1);
  float sum = 0.f;
  for (int64_t ky = row % 2; ky < 3 && ky <= row; ky += 2) {
    for (int64_t kx = column % 2; kx < 3 && kx <= column; kx += 2) {
      const int64_t iy = (row - ky) / 2, ix = (column - kx) / 2;
      if (iy >= s.h || ix >= s.w) continue;
      for (int64_t c = 0; c < s.in; ++c) {
        sum += __half2float(x[((sample * s.h + iy) * s.w + ix) * s.in + c]) *
               __half2float(weight[(o * 9 + ky * 3 + kx) * s.in + c]);
      }
    }
  }
  u[i] = __float2half_rn(sum * demod[sample * s.out + o]);
}
__global__ void filter_elements(const Half* u, Sides t, Half* y, Settings s) {
  const int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i >= s.outputs()) return;
  const int64_t o = i % s.out, place = i / s.out % (4 * s.h * s.w), sample = i / s.out / (4 * s.h * s.w);
  const int64_t row = place / (2 * s.w), column = place % (2 * s.w);
  const float taps[4] = {0.125f, 0.375f, 0.375f, 0.125f};
  float v = t.noise[place] + t.bias[o];
  for (int ky = 0; ky < 4; ++ky) {
    for (int kx = 0; kx < 4; ++kx) {
      const int64_t uy = row - 1 + ky, ux = column - 1 + kx;
      if (uy < 0 || ux < 0 || uy > 2 * s.h || ux > 2 * s.w) continue;
      v += 4.f * taps[ky] * taps[kx] *
           __half2float(u[((sample * (2 * s.h + 1) + uy) * (2 * s.w + 1) + ux) * s.out + o]);
    }
  }
  y[i] = __float2half_rn(finish(v, t.next[sample * s.out + o]));
}

// The four phases of the transposed convolution as matrix products on tensor cores, a launch each: pixels of
// one phase by output channels, summed over its 4, 2, 2 or 1 taps and the input channels, 32 a turn.
using Tile = pyface::dev::MmaTile<64, 64, 32, 32, 3, 4>;

template <bool kStyled>
__global__ void __launch_bounds__(Tile::kThreads)
    phase_product(const Half* __restrict__ x, const Half* __restrict__ style, const Half* __restrict__ weight,
                  const float* __restrict__ demod, Half* __restrict__ u, int a, int b, Settings s) {
  using namespace pyface::dev;
  PYFACE_SHARED(memory);
  Half* stages = reinterpret_cast<Half*>(memory);
  const int thread = threadIdx.x, chunk = thread & 3, sample = blockIdx.z;
  const int columns = s.w + 1 - b, positions = (s.h + 1 - a) * columns;
  const int first = blockIdx.x * Tile::kRows, channel = blockIdx.y * Tile::kColumns;
  const int turns = (s.in + Tile::kDepth - 1) / Tile::kDepth, taps_x = b ? 1 : 2, taps = (a ? 1 : 2) * taps_x;
  const Half* image = x + size_t(sample) * s.h * s.w * s.in;
  const RowReads<Tile> reads;
  float sums[Tile::kFragmentsM][Tile::kFragmentsN][4] = {};
  const auto load = [&](int k, int stage) {
    Half* to = stages + stage * Tile::kStageElements;
    const int tap = k / turns, dy = tap / taps_x, dx = tap % taps_x, c = k % turns * Tile::kDepth + chunk * 8;
    PYFACE_UNROLL
    for (int i = 0; i < 2; ++i) {
      const int row = (thread >> 2) + i * 32, position = first + row;
      const int iy = position / columns - dy, ix = position % columns - dx;
      const bool inside =
          c < s.in && position < positions && unsigned(iy) < unsigned(s.h) && unsigned(ix) < unsigned(s.w);
      async_copy16(to + Swizzle<Tile::kDepth>::at(row, chunk),
                   inside ? image + (size_t(iy) * s.w + ix) * s.in + c : x, inside ? 16 : 0);
      const bool known = c < s.in && channel + row < s.out;
      const int at = (a + 2 * dy) * 3 + b + 2 * dx;
      async_copy16(to + Tile::kRows * Tile::kDepth + Swizzle<Tile::kDepth>::at(row, chunk),
                   known ? weight + (size_t(channel + row) * 9 + at) * s.in + c : weight, known ? 16 : 0);
    }
  };
  run_stages<Tile::kStages>(taps * turns, load, [&](int k, int stage) {
    const Half* tile = stages + stage * Tile::kStageElements;
    multiply_rows<Half, Tile>(
        sums, tile, tile + Tile::kRows * Tile::kDepth, reads, [&](uint32_t (&fragment)[4], int, int depth) {
          if constexpr (kStyled) {
            PYFACE_UNROLL
            for (int r = 0; r < 4; ++r) {
              const int c = k % turns * Tile::kDepth + depth + (r >> 1) * 8 + (thread & 3) * 2;
              const Half* from = style + size_t(sample) * s.in + (c < s.in ? c : 0);
              fragment[r] = multiply_pairs<Half>(fragment[r], *reinterpret_cast<const uint32_t*>(from));
            }
          }
        });
  });
  PYFACE_UNROLL
  for (int i = 0; i < Tile::kFragmentsM; ++i) {
    PYFACE_UNROLL
    for (int j = 0; j < Tile::kFragmentsN; ++j) {
      PYFACE_UNROLL
      for (int e = 0; e < 4; e += 2) {
        const int position = first + fragment_row<Tile>(i, e), o = channel + fragment_column<Tile>(j, e);
        if (position >= positions || o >= s.out) continue;
        const float* scale = demod + size_t(sample) * s.out + o;
        const int row = position / columns * 2 + a, column = position % columns * 2 + b;
        Half* to = u + ((size_t(sample) * (2 * s.h + 1) + row) * (2 * s.w + 1) + column) * s.out + o;
        *reinterpret_cast<uint32_t*>(to) =
            pack_pair<Half>(sums[i][j][e] * scale[0], sums[i][j][e + 1] * scale[1]);
      }
    }
  }
}

// The style on the fragments, which saves its pass; and in the filter's pass eight channels a thread in
// 16-byte accesses, which makes one pass over u and y of it.
__global__ void __launch_bounds__(256)
    filter_vectors(const Half* __restrict__ u, Sides t, Half* __restrict__ y, pyface::dev::FastDiv vectors,
                   pyface::dev::FastDiv width, Settings s) {
  uint32_t pixel = blockIdx.x * blockDim.x + threadIdx.x;
  const int o = int(vectors.split(pixel)) * 8, sample = blockIdx.y;
  uint32_t row = pixel;
  const int column = int(width.split(row));
  if (int(row) >= 2 * s.h) return;
  const float taps[4] = {0.125f, 0.375f, 0.375f, 0.125f};
  const Half* image = u + size_t(sample) * (2 * s.h + 1) * (2 * s.w + 1) * s.out + o;
  float sums[8] = {};
  PYFACE_UNROLL
  for (int ky = 0; ky < 4; ++ky) {
    PYFACE_UNROLL
    for (int kx = 0; kx < 4; ++kx) {
      const int uy = int(row) - 1 + ky, ux = column - 1 + kx;
      if (uy < 0 || ux < 0 || uy > 2 * s.h || ux > 2 * s.w) continue;
      float v[8];
      pyface::dev::read_vector(image + (size_t(uy) * (2 * s.w + 1) + ux) * s.out, v);
      PYFACE_UNROLL
      for (int k = 0; k < 8; ++k) sums[k] += 4.f * taps[ky] * taps[kx] * v[k];
    }
  }
  PYFACE_UNROLL
  for (int k = 0; k < 8; ++k) {
    const float v = sums[k] + t.noise[pixel] + t.bias[o + k];
    sums[k] = finish(v, t.next[size_t(sample) * s.out + o + k]);
  }
  pyface::dev::write_vector(y + (size_t(sample) * 4 * s.h * s.w + pixel) * s.out + o, sums);
}

// The kernel that ships: csrc/kernels/upconv2d.cuh. u stays in shared memory, and all four phases are one
// product. steps = 1: a block's few rows compute their upper halo again; 0: blocks walk down.
void shipped(const Settings& s, const Half* x, const Half* weight, const float* filter, const Sides& t,
             Half* y, int steps) {
  pyface::Upconv2dParams p{};
  p.x = x, p.weight = weight, p.style = t.style, p.filter = filter, p.demod = t.demod, p.noise = t.noise;
  p.bias = t.bias, p.next_style = t.next, p.y = y, p.dtype = pyface::DType::kF16;
  p.n = s.n, p.h = s.h, p.w = s.w, p.in_channels = s.in, p.out_channels = s.out;
  p.act = pyface::Act::kLrelu, p.alpha = kAlpha, p.gain = kGain, p.clamp = kClamp, p.tile = -1,
  p.steps = steps;
#ifdef __CUDACC__
  pyface::launch_upconv2d_cuda(p, nullptr);
#else
  pyface::launch_upconv2d_emu(p, 2);
#endif
}

// Version 1 in double on the CPU.
void in_double(const Settings& s, const ladder::Buffer<Half>& x, const ladder::Buffer<Half>& weight,
               const Sides& t, double* y) {
  const int64_t rows = 2 * s.h + 1, columns = 2 * s.w + 1;
  std::vector<double> u(rows * columns);
  for (int64_t plane = 0; plane < int64_t{s.n} * s.out; ++plane) {
    const int64_t sample = plane / s.out, o = plane % s.out;
    std::fill(u.begin(), u.end(), 0.0);
    for (int64_t at = 0; at < int64_t{s.h} * s.w * 9; ++at) {
      const int64_t tap = at % 9, place = at / 9;
      double sum = 0;
      for (int64_t c = 0; c < s.in; ++c) {
        sum += ladder::to_double(x[(sample * s.h * s.w + place) * s.in + c]) * t.style[sample * s.in + c] *
               ladder::to_double(weight[(o * 9 + tap) * s.in + c]);
      }
      u[(place / s.w * 2 + tap / 3) * columns + place % s.w * 2 + tap % 3] += sum;
    }
    for (int64_t place = 0; place < int64_t{4} * s.h * s.w; ++place) {
      double v = 0;
      for (int64_t k = 0; k < 16; ++k) {
        const int64_t uy = place / (2 * s.w) - 1 + k / 4, ux = place % (2 * s.w) - 1 + k % 4;
        if (uy < 0 || ux < 0 || uy >= rows || ux >= columns) continue;
        v += 4.0 * kTaps[k / 4] * kTaps[k % 4] * u[uy * columns + ux];
      }
      v = v * t.demod[plane] + t.noise[place] + t.bias[o];
      v = (v < 0 ? v * double{kAlpha} : v) * double{kGain};
      y[(sample * 4 * s.h * s.w + place) * s.out + o] =
          std::min(std::max(v, -double{kClamp}), double{kClamp}) * t.next[plane];
    }
  }
}

}  // namespace

int main(int count, char** arguments) {
  const ladder::Sizes sizes(count, arguments, {{"n", 8}, {"in", 512}, {"out", 256}, {"h", 64}, {"w", 64}});
  const Settings s{int(sizes["n"]), int(sizes["h"]), int(sizes["w"]), int(sizes["in"]), int(sizes["out"])};
  if (s.in % 8 || s.out % 8 || s.sums() >= int64_t{1} << 31 || s.inputs() >= int64_t{1} << 31) {
    std::fprintf(stderr, "in and out must be multiples of 8, and all elements fewer than 2^31\n");
    return 2;
  }
  const ladder::Buffer<Half> x(s.inputs()), weight(int64_t{9} * s.in * s.out), half_style(s.n * s.in);
  const ladder::Buffer<float> style(s.n * s.in), demod(s.n * s.out), next(s.n * s.out), bias(s.out),
      noise(4 * s.h * s.w), filter(4);
  const ladder::Buffer<double> truth(s.outputs());
  ladder::Random random(1);
  for (int64_t i = 0; i < x.size(); ++i) x[i] = __float2half_rn(random.next(-2, 2));
  for (int64_t i = 0; i < weight.size(); ++i) weight[i] = __float2half_rn(random.next(-1, 1));
  random.fill(style, 0.5f, 1.5f);
  for (int64_t i = 0; i < style.size(); ++i) half_style[i] = __float2half_rn(style[i]);
  const float scale = 1.f / std::sqrt(9.f * float(s.in));
  random.fill(demod, 0.5f * scale, 1.5f * scale);
  random.fill(next, 0.5f, 1.5f);
  random.fill(bias, -1, 1);
  random.fill(noise, -0.5f, 0.5f);
  std::copy(kTaps, kTaps + 4, filter.get());
  if (ladder::missing_device().empty()) {
    in_double(s, x, weight, {style.get(), demod.get(), noise.get(), bias.get(), next.get()}, truth.get());
  }
  const ladder::DeviceBuffer<Half> device_x(x), device_weight(weight), device_half_style(half_style),
      styled(s.inputs()), u(s.sums()), y(s.outputs());
  const ladder::DeviceBuffer<float> device_style(style), device_demod(demod), device_next(next),
      device_bias(bias), device_noise(noise), device_filter(filter);
  const Sides sides{device_style.get(), device_demod.get(), device_noise.get(), device_bias.get(),
                    device_next.get()};
  const Half *px = device_x.get(), *pw = device_weight.get();
  Half* py = y.get();
  const auto launch = ladder::launcher("upconv2d");
  const auto blocks = [](int64_t elements) { return dim3(unsigned((elements + 255) / 256)); };
  const auto phases = [&](auto kernel, const Half* from) {
    for (int phase = 0; phase < 4; ++phase) {
      const int a = phase / 2, b = phase % 2, positions = (s.h + 1 - a) * (s.w + 1 - b);
      const dim3 grid(unsigned(positions + 63) / 64, unsigned(s.out + 63) / 64, unsigned(s.n));
      launch("phase_product", kernel, grid, dim3(Tile::kThreads), Tile::kStagesBytes, from,
             device_half_style.get(), pw, sides.demod, u.get(), a, b, s);
    }
  };
  const auto rung = [&](const char* what, std::function<void()> run, bool ships = false) {
    return ladder::Version{what,   std::move(run), [&] { return y.max_error(truth); },
                           0x1p-8, ships,          "float16"};
  };
  ladder::Work work{"upconv2d", std::to_string(s.n) + "x" + std::to_string(s.in) + "x" + std::to_string(s.h) +
                                    "x" + std::to_string(s.w) + " to " + std::to_string(s.out) + " channels"};
  work.bytes =
      2.0 * (s.inputs() + s.outputs() + weight.size()) + 4.0 * (s.n * s.in + 2 * s.n * s.out + noise.size());
  work.flops = 18.0 * s.inputs() * s.out;
  work.poison = [&] { y.spoil(), u.spoil(), styled.spoil(); };
  return ladder::climb_on_device(work,
                                 {rung("style, transposed convolution and filter with an element a thread",
                                       [&] {
                                         launch("apply_style", apply_style, blocks(s.inputs()), dim3(256), 0,
                                                px, sides.style, styled.get(), s);
                                         launch("transposed", transposed, blocks(s.sums()), dim3(256), 0,
                                                styled.get(), pw, sides.demod, u.get(), s);
                                         launch("filter_elements", filter_elements, blocks(s.outputs()),
                                                dim3(256), 0, u.get(), sides, py, s);
                                       }),
                                  rung("four phases as products on tensor cores",
                                       [&] {
                                         launch("apply_style", apply_style, blocks(s.inputs()), dim3(256), 0,
                                                px, sides.style, styled.get(), s);
                                         phases(phase_product<false>, styled.get());
                                         launch("filter_elements", filter_elements, blocks(s.outputs()),
                                                dim3(256), 0, u.get(), sides, py, s);
                                       }),
                                  rung("style on the fragments, filter for eight channels a thread",
                                       [&] {
                                         phases(phase_product<true>, px);
                                         const dim3 grid(blocks(s.outputs() / 8 / s.n).x, unsigned(s.n));
                                         launch("filter_vectors", filter_vectors, grid, dim3(256), 0, u.get(),
                                                sides, py, pyface::dev::FastDiv(uint32_t(s.out / 8)),
                                                pyface::dev::FastDiv(uint32_t(2 * s.w)), s);
                                       }),
                                  rung("one kernel, all phases one product, one step a block",
                                       [&] { shipped(s, px, pw, device_filter.get(), sides, py, 1); }),
                                  rung(
                                      "csrc/kernels/upconv2d.cuh: blocks walk down",
                                      [&] { shipped(s, px, pw, device_filter.get(), sides, py, 0); }, true)},
                                 sizes["rounds"]);
}
