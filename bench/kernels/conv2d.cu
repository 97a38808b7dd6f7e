// A 3x3 convolution with its style before and its epilogue after, float16, NHWC, on a GPU:
// y = clamp(gain * lrelu(demod * (weight * (style x)) + noise + bias)). Bound by arithmetic from some 64
// channels on.
//
// From the folder of the project:
// nvcc -std=c++17 -O3 --expt-relaxed-constexpr -arch=native -I csrc -I csrc/include
//   bench/kernels/conv2d.cu csrc/cuda/conv2d.cu -o conv2d_gpu && ./conv2d_gpu n=4 in=128 out=128 h=128 w=128
// In the emulator, to see that it is right:
// g++ -std=gnu++17 -O1 -pthread -x c++ -I csrc -I csrc/include bench/kernels/conv2d.cu csrc/emu/conv2d.cpp
//   -o conv2d_emu && ./conv2d_emu n=1 in=32 out=24 h=5 w=6
#include "pyface/conv2d.h"

#include "kernels/mma_tiles.cuh"
#include "ladder.cuh"

namespace {

using ladder::Half;
using pyface::dev::ceil_div;
using pyface::dev::Vec;

struct Settings {
  int n, h, w, in, out;
  float alpha, gain, clamp;
  __host__ __device__ int64_t pixels() const { return int64_t{n} * h * w; }
};
struct Sides {
  const float *style, *demod, *noise, *bias;  // [n, in], [n, out], [h * w], [out]
};

// What comes before and after the convolution in versions 1 to 3, eight channels a thread.
__global__ void before(const Half* x, const float* style, Half* styled, Settings s) {
  const int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x, vectors = s.in / 8;
  if (i >= s.pixels() * vectors) return;
  const int64_t side = i / (vectors * s.h * s.w) * s.in + i % vectors * 8;
  float v[8];
  pyface::dev::read_vector(x + i * 8, v);
  for (int k = 0; k < 8; ++k) v[k] *= style[side + k];
  pyface::dev::write_vector(styled + i * 8, v);
}
__global__ void after(Half* y, Sides t, Settings s) {
  const int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x, vectors = s.out / 8;
  if (i >= s.pixels() * vectors) return;
  const int64_t pixel = i / vectors, o = i % vectors * 8, area = int64_t{s.h} * s.w;
  float v[8];
  pyface::dev::read_vector(y + i * 8, v);
  for (int k = 0; k < 8; ++k) {
    const float a = v[k] * t.demod[pixel / area * s.out + o + k] + t.noise[pixel % area] + t.bias[o + k];
    const float b = (a < 0.f ? a * s.alpha : a) * s.gain;
    v[k] = b > s.clamp ? s.clamp : b < -s.clamp ? -s.clamp : b;
  }
  pyface::dev::write_vector(y + i * 8, v);
}

// An output a thread: every thread reads all its inputs and weights from memory (in fact from caches).
__global__ void version_1(const Half* x, const Half* weight, Half* y, Settings s) {
  const int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i >= s.pixels() * s.out) return;
  const int64_t o = i % s.out, pixel = i / s.out, n = pixel / (int64_t{s.h} * s.w);
  const int oy = int(pixel / s.w % s.h), ox = int(pixel % s.w);
  float sum = 0.f;
  for (int tap = 0; tap < 9; ++tap) {
    const int iy = oy + tap / 3 - 1, ix = ox + tap % 3 - 1;
    if (iy < 0 || ix < 0 || iy >= s.h || ix >= s.w) continue;
    const Half* from = x + ((n * s.h + iy) * s.w + ix) * s.in;
    const Half* filter = weight + (o * 9 + tap) * s.in;
    for (int c = 0; c < s.in; ++c) sum += __half2float(from[c]) * __half2float(filter[c]);
  }
  y[i] = __float2half_rn(sum);
}

// Tiles of 64 pixels and 64 channels through shared memory, multiplied by tensor cores; one tile at a time,
// so that copying and multiplying wait for each other.
using Tile = pyface::dev::MmaTile<64, 64, 32, 32, 1, 4>;
__global__ void __launch_bounds__(Tile::kThreads)
    version_2(const Half* __restrict__ x, const Half* __restrict__ weight, Half* __restrict__ y, Settings s) {
  using Exchange = pyface::dev::Swizzle<Tile::kDepth>;
  PYFACE_SHARED(memory);
  Half* tile_x = reinterpret_cast<Half*>(memory);
  Half* tile_w = tile_x + Tile::kRows * Tile::kDepth;
  const int64_t first = int64_t{blockIdx.x} * Tile::kRows;
  const int column = int(blockIdx.y) * Tile::kColumns, chunk = threadIdx.x & 3;
  const pyface::dev::RowReads<Tile> reads;
  float acc[Tile::kFragmentsM][Tile::kFragmentsN][4] = {};
  for (int tap = 0; tap < 9; ++tap) {
    for (int c = 0; c < s.in; c += Tile::kDepth) {
      __syncthreads();
      for (int row = int(threadIdx.x >> 2); row < Tile::kRows; row += Tile::kThreads / 4) {
        const int64_t pixel = first + row;
        const int iy = int(pixel / s.w % s.h) + tap / 3 - 1, ix = int(pixel % s.w) + tap % 3 - 1;
        const bool in_x = pixel < s.pixels() && iy >= 0 && ix >= 0 && iy < s.h && ix < s.w;
        const int64_t at = (pixel / (int64_t{s.h} * s.w) * s.h + iy) * s.w + ix, o = column + row;
        Vec<Half, 8> from_x{}, from_w{};
        if (in_x) from_x = *reinterpret_cast<const Vec<Half, 8>*>(x + at * s.in + c + chunk * 8);
        if (o < s.out)
          from_w = *reinterpret_cast<const Vec<Half, 8>*>(weight + (o * 9 + tap) * s.in + c + chunk * 8);
        *reinterpret_cast<Vec<Half, 8>*>(tile_x + Exchange::at(row, chunk)) = from_x;
        *reinterpret_cast<Vec<Half, 8>*>(tile_w + Exchange::at(row, chunk)) = from_w;
      }
      __syncthreads();
      pyface::dev::multiply_rows<Half, Tile>(acc, tile_x, tile_w, reads, [](uint32_t (&)[4], int, int) {});
    }
  }
  for (int i = 0; i < Tile::kFragmentsM; ++i) {
    for (int j = 0; j < Tile::kFragmentsN; ++j) {
      for (int e = 0; e < 4; ++e) {
        const int64_t pixel = first + pyface::dev::fragment_row<Tile>(i, e);
        const int o = column + pyface::dev::fragment_column<Tile>(j, e);
        if (pixel < s.pixels() && o < s.out) y[pixel * s.out + o] = __float2half_rn(acc[i][j][e]);
      }
    }
  }
}

// The kernels that ship. Version 3, csrc/kernels/conv2d.cuh: copies run ahead of products through stages,
// tiles are 128 pixels by 32, 64 or 128 channels. Version 4, csrc/kernels/conv2d_patch.cuh: the pixels that
// nine taps meet are copied once for all of them. Version 5, with sides: style and epilogue take no pass of
// their own, and the tile is the rule's.
void shipped(const Settings& s, const Half* x, const Half* weight, const Sides* t, Half* y, int tile) {
  pyface::Conv2dParams p{};
  p.x = x, p.weight = weight, p.y = y;
  p.dtype = pyface::DType::kF16, p.n = s.n, p.h = p.out_h = s.h, p.w = p.out_w = s.w;
  p.in_channels = s.in, p.out_channels = s.out, p.kernel = 3, p.stride = p.pad_y = p.pad_x = 1;
  p.gain = 1, p.clamp = -1, p.tile = tile, p.splits = 1;
  if (t) {
    p.style = t->style, p.demod = t->demod, p.noise = t->noise, p.bias = t->bias;
    p.act = pyface::Act::kLrelu, p.alpha = s.alpha, p.gain = s.gain, p.clamp = s.clamp;
  }
#ifdef __CUDACC__
  pyface::launch_conv2d_cuda(p, nullptr);
#else
  pyface::launch_conv2d_emu(p, 2);
#endif
}

// Version 1 in double on the CPU, with what comes before and after.
void in_double(const Settings& s, const Half* x, const Half* weight, const Sides& t, double* y) {
  std::vector<double> turned(size_t(9) * s.in * s.out), sum(s.out);  // [tap, in, out]
  for (int64_t o = 0; o < s.out; ++o)
    for (int64_t k = 0; k < int64_t{9} * s.in; ++k)
      turned[k * s.out + o] = ladder::to_double(weight[o * 9 * s.in + k]);
  for (int64_t pixel = 0; pixel < s.pixels(); ++pixel) {
    const int64_t area = int64_t{s.h} * s.w, n = pixel / area;
    std::fill(sum.begin(), sum.end(), 0.0);
    for (int64_t tap = 0; tap < 9; ++tap) {
      const int64_t iy = pixel / s.w % s.h + tap / 3 - 1, ix = pixel % s.w + tap % 3 - 1;
      if (iy < 0 || ix < 0 || iy >= s.h || ix >= s.w) continue;
      for (int64_t c = 0; c < s.in; ++c) {
        const double v = ladder::to_double(x[((n * s.h + iy) * s.w + ix) * s.in + c]) * t.style[n * s.in + c];
        const double* filter = turned.data() + (tap * s.in + c) * s.out;
        for (int64_t o = 0; o < s.out; ++o) sum[o] += v * filter[o];
      }
    }
    for (int64_t o = 0; o < s.out; ++o) {
      double v = sum[o] * t.demod[n * s.out + o] + t.noise[pixel % area] + t.bias[o];
      v = (v < 0 ? v * s.alpha : v) * s.gain;
      y[pixel * s.out + o] = std::min(std::max(v, -double(s.clamp)), double(s.clamp));
    }
  }
}

dim3 blocks_for(int64_t threads) { return dim3(unsigned(ceil_div(threads, 256))); }

}  // namespace

int main(int count, char** arguments) {
  const ladder::Sizes sizes(count, arguments, {{"n", 4}, {"in", 128}, {"out", 128}, {"h", 128}, {"w", 128}});
  const Settings s{int(sizes["n"]),   int(sizes["h"]),
                   int(sizes["w"]),   int(sizes["in"]),
                   int(sizes["out"]), 0.2f,
                   1.4142135f,        4.f};
  const int64_t in_count = s.pixels() * s.in, out_count = s.pixels() * s.out;
  if (s.in % 32 || s.out % 8 || std::max(in_count, out_count) >= int64_t{1} << 31) {
    std::fprintf(stderr, "in must be a multiple of 32, out of 8, and all elements fewer than 2^31\n");
    return 2;
  }
  const ladder::Buffer<Half> x(in_count), weight(int64_t{9} * s.in * s.out);
  const ladder::Buffer<float> style(s.n * s.in), demod(s.n * s.out), bias(s.out), noise(s.h * s.w);
  const ladder::Buffer<double> truth(out_count);
  ladder::Random random(1);
  for (int64_t i = 0; i < x.size(); ++i) x[i] = __float2half_rn(random.next(-2, 2));
  const float spread = 1.f / std::sqrt(9.f * float(s.in));
  for (int64_t i = 0; i < weight.size(); ++i) weight[i] = __float2half_rn(random.next(-spread, spread));
  random.fill(style, 0.5f, 1.5f);
  random.fill(demod, 0.5f, 1.5f);
  random.fill(bias, -1, 1);
  random.fill(noise, -0.5f, 0.5f);
  if (ladder::missing_device().empty()) {
    in_double(s, x.get(), weight.get(), {style.get(), demod.get(), noise.get(), bias.get()}, truth.get());
  }
  const ladder::DeviceBuffer<Half> device_x(x), device_weight(weight), styled(in_count), y(out_count);
  const ladder::DeviceBuffer<float> device_style(style), device_demod(demod), device_bias(bias),
      device_noise(noise);
  const Sides sides{device_style.get(), device_demod.get(), device_noise.get(), device_bias.get()};
  const auto launch = ladder::launcher("conv2d");
  const Half *px = device_x.get(), *pw = device_weight.get();
  Half *ps = styled.get(), *py = y.get();
  const auto with_passes = [&](std::function<void()> convolve) {
    return [&, convolve = std::move(convolve)] {
      launch("before", before, blocks_for(in_count / 8), dim3(256), 0, px, sides.style, ps, s);
      convolve();
      launch("after", after, blocks_for(out_count / 8), dim3(256), 0, py, sides, s);
    };
  };
  const double fused = 2.0 * (in_count + out_count + weight.size()) +
                       4.0 * (style.size() + demod.size() + bias.size() + noise.size());
  const double passes = fused + 4.0 * (in_count + out_count);
  const auto rung = [&](const char* what, double bytes, std::function<void()> run, bool ships = false) {
    return ladder::Version{what,      std::move(run), [&] { return y.max_error(truth); }, 4 * 0x1p-11, ships,
                           "float16", bytes};
  };
  ladder::Work work{"conv2d", std::to_string(s.n) + "x" + std::to_string(s.in) + "to" +
                                  std::to_string(s.out) + "x" + std::to_string(s.h) + "x" +
                                  std::to_string(s.w)};
  work.bytes = fused;
  work.flops = 18.0 * double(in_count) * s.out;
  work.poison = [&] { y.spoil(), styled.spoil(); };
  return ladder::climb_on_device(
      work,
      {rung("an output a thread", passes, with_passes([&] {
              launch("version_1", version_1, blocks_for(out_count), dim3(256), 0, ps, pw, py, s);
            })),
       rung("tiles, tensor cores", passes, with_passes([&] {
              launch("version_2", version_2,
                     dim3(unsigned(ceil_div(s.pixels(), Tile::kRows)),
                          unsigned(ceil_div(s.out, Tile::kColumns))),
                     dim3(Tile::kThreads), Tile::kStagesBytes, ps, pw, py, s);
            })),
       rung("copies ahead in stages", passes, with_passes([&] {
              shipped(s, ps, pw, nullptr, py, s.out <= 32 ? 3 : s.out <= 64 ? 1 : 0);
            })),
       rung("pixels once for nine taps", passes, with_passes([&] {
              shipped(s, ps, pw, nullptr, py, s.out <= 32 ? 6 : s.out <= 64 ? 5 : 4);
            })),
       rung(
           "style and epilogue in it", fused, [&] { shipped(s, px, pw, &sides, py, -1); }, true)},
      sizes["rounds"]);
}
