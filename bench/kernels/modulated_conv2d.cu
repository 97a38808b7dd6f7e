// What surrounds the convolution of a modulated convolution on a GPU, in one go between two convolutions:
// y = next_style * clamp(gain * lrelu(x * demod + noise + bias)), float16, NHWC. Bound by memory.
//
// From the folder of the project:
// nvcc -std=c++17 -O3 --expt-relaxed-constexpr -arch=native -I csrc -I csrc/include
//   bench/kernels/modulated_conv2d.cu csrc/cuda/modulated_conv2d.cu -o modulated_conv2d_gpu
//   && ./modulated_conv2d_gpu n=4 c=128 h=256 w=256
// In the emulator, to see that it is right:
// g++ -std=gnu++17 -O1 -pthread -x c++ -I csrc -I csrc/include bench/kernels/modulated_conv2d.cu
//   csrc/emu/modulated_conv2d.cpp -o modulated_conv2d_emu && ./modulated_conv2d_emu n=2 c=16 h=4 w=8
#include "pyface/modulated_conv2d.h"

#include "ladder.cuh"

namespace {

using ladder::Half;
using pyface::dev::FastDiv;

struct Settings {
  int64_t n, c, area;
  float alpha, gain, clamp;
  __host__ __device__ int64_t count() const { return n * c * area; }
};
struct Sides {
  const float *demod, *noise, *bias, *style;  // [n, c], [area], [c], [n, c]
};

// A kernel per term, as separate operations of a framework: style and demodulation are the first two, with a
// round of the whole tensor through memory and a rounding each. 64-bit divisions find sample and channel.
__global__ void scale(Half* y, const Half* x, const float* by, Settings s) {
  const int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i < s.count()) y[i] = __float2half_rn(__half2float(x[i]) * by[i / (s.c * s.area) * s.c + i % s.c]);
}
__global__ void add_noise(Half* y, const float* noise, Settings s) {
  const int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i < s.count()) y[i] = __float2half_rn(__half2float(y[i]) + noise[i / s.c % s.area]);
}
__global__ void add_bias(Half* y, const float* bias, Settings s) {
  const int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i < s.count()) y[i] = __float2half_rn(__half2float(y[i]) + bias[i % s.c]);
}
__global__ void activate(Half* y, Settings s) {
  const int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i >= s.count()) return;
  const float v = __half2float(y[i]), a = (v < 0.f ? v * s.alpha : v) * s.gain;
  y[i] = __float2half_rn(a > s.clamp ? s.clamp : a < -s.clamp ? -s.clamp : a);
}

__device__ __forceinline__ float finish(const Settings& s, float v, float style) {
  v = (v < 0.f ? v * s.alpha : v) * s.gain;
  return (v > s.clamp ? s.clamp : v < -s.clamp ? -s.clamp : v) * style;
}

// All terms in one kernel: each element is read and written once and rounded once.
// Still one element a thread, and 64-bit divisions.
__global__ void version_2(const Half* x, Sides t, Half* y, Settings s) {
  const int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i >= s.count()) return;
  const int64_t side = i / (s.c * s.area) * s.c + i % s.c;
  const float v = __half2float(x[i]) * t.demod[side] + t.noise[i / s.c % s.area] + t.bias[i % s.c];
  y[i] = __float2half_rn(finish(s, v, t.style[side]));
}

// Eight channels of one pixel a thread, in 16-byte accesses, the sides in 16-byte accesses too; one noise a
// thread, 32-bit strides, division by multiplication. Needs channels that are a multiple of eight.
__global__ void __launch_bounds__(256)
    version_3(const Half* __restrict__ x, Sides t, Half* __restrict__ y, uint32_t vectors,
              FastDiv channel_vectors, FastDiv area, Settings s) {
  for (uint32_t i = blockIdx.x * blockDim.x + threadIdx.x; i < vectors; i += gridDim.x * blockDim.x) {
    uint32_t sample = i;
    const uint32_t c = channel_vectors.split(sample) * 8, place = area.split(sample);
    const size_t side = size_t{sample} * s.c + c;
    float v[8], demod[8], bias[8], style[8];
    pyface::dev::read_vector(x + size_t{i} * 8, v);
    pyface::dev::read_vector(t.demod + side, demod);
    pyface::dev::read_vector(t.bias + c, bias);
    pyface::dev::read_vector(t.style + side, style);
    const float noise = t.noise[place];
    PYFACE_UNROLL
    for (int k = 0; k < 8; ++k) v[k] = finish(s, v[k] * demod[k] + (bias[k] + noise), style[k]);
    pyface::dev::write_vector(y + size_t{i} * 8, v);
  }
}

// The kernel that ships: csrc/kernels/modulated_conv2d.cuh.
void shipped(const Settings& s, const Half* x, const Sides& t, Half* y) {
  pyface::ConvEpilogueParams p{};
  p.x = x, p.demod = t.demod, p.noise = t.noise, p.bias = t.bias, p.next_style = t.style, p.y = y;
  p.dtype = pyface::DType::kF16, p.n = s.n, p.c = s.c, p.hw = s.area, p.channels_last = true;
  p.act = pyface::Act::kLrelu, p.alpha = s.alpha, p.gain = s.gain, p.clamp = s.clamp;
#ifdef __CUDACC__
  pyface::launch_conv_epilogue_cuda(p, nullptr);
#else
  pyface::launch_conv_epilogue_emu(p, 2);
#endif
}

// Version 1 in double on the CPU.
void in_double(const Settings& s, const Half* x, const Sides& t, double* y) {
  for (int64_t i = 0; i < s.count(); ++i) {
    const int64_t side = i / (s.c * s.area) * s.c + i % s.c;
    double v = ladder::to_double(x[i]) * t.demod[side] + t.noise[i / s.c % s.area] + t.bias[i % s.c];
    v = (v < 0 ? v * s.alpha : v) * s.gain;
    y[i] = std::min(std::max(v, -double(s.clamp)), double(s.clamp)) * t.style[side];
  }
}

}  // namespace

int main(int count, char** arguments) {
  const ladder::Sizes sizes(count, arguments, {{"n", 4}, {"c", 128}, {"h", 256}, {"w", 256}});
  const Settings s{sizes["n"], sizes["c"], sizes["h"] * sizes["w"], 0.2f, 1.4142135f, 4.f};
  if (s.c % 8 || s.count() >= int64_t{1} << 31) {
    std::fprintf(stderr, "c must be a multiple of 8, and all elements fewer than 2^31\n");
    return 2;
  }
  const ladder::Buffer<Half> x(s.count());
  const ladder::Buffer<float> demod(s.n * s.c), style(s.n * s.c), bias(s.c), noise(s.area);
  const ladder::Buffer<double> truth(s.count());
  ladder::Random random(1);
  for (int64_t i = 0; i < x.size(); ++i) x[i] = __float2half_rn(random.next(-2, 2));
  random.fill(demod, 0.5f, 1.5f);
  random.fill(style, 0.5f, 1.5f);
  random.fill(bias, -1, 1);
  random.fill(noise, -0.5f, 0.5f);
  if (ladder::missing_device().empty()) {
    in_double(s, x.get(), {demod.get(), noise.get(), bias.get(), style.get()}, truth.get());
  }
  const ladder::DeviceBuffer<Half> device_x(x), y(s.count());
  const ladder::DeviceBuffer<float> device_demod(demod), device_style(style), device_bias(bias),
      device_noise(noise);
  const Sides sides{device_demod.get(), device_noise.get(), device_bias.get(), device_style.get()};
  const auto launch = ladder::launcher("conv_epilogue");
  const dim3 blocks(unsigned((s.count() + 255) / 256));
  const auto rung = [&](const char* what, double roundings, std::function<void()> run, bool ships = false) {
    return ladder::Version{what,  std::move(run), [&] { return y.max_error(truth); }, roundings * 0x1p-11,
                           ships, "float16"};
  };
  const Half* px = device_x.get();
  Half* py = y.get();
  ladder::Work work{"modulated_conv2d", std::to_string(s.n) + "x" + std::to_string(s.c) + "x" +
                                            std::to_string(sizes["h"]) + "x" + std::to_string(sizes["w"])};
  work.bytes = 4.0 * s.count() + 4.0 * (2 * s.n * s.c + s.c + s.area);
  work.flops = 8.0 * s.count();
  work.poison = [&] { y.spoil(); };
  return ladder::climb_on_device(
      work,
      {rung("a kernel per term", 6,
            [&] {
              launch("scale", scale, blocks, dim3(256), 0, py, px, sides.demod, s);
              launch("add_noise", add_noise, blocks, dim3(256), 0, py, sides.noise, s);
              launch("add_bias", add_bias, blocks, dim3(256), 0, py, sides.bias, s);
              launch("activate", activate, blocks, dim3(256), 0, py, s);
              launch("scale", scale, blocks, dim3(256), 0, py, py, sides.style, s);
            }),
       rung("one kernel, an element a thread", 1,
            [&] { launch("version_2", version_2, blocks, dim3(256), 0, px, sides, py, s); }),
       rung("eight channels a thread", 1,
            [&] {
              const int64_t vectors = s.count() / 8, most = int64_t{launch.multiprocessors()} * 16;
              launch("version_3", version_3, dim3(unsigned(std::min((vectors + 255) / 256, most))), dim3(256),
                     0, px, sides, py, vectors, FastDiv{uint32_t(s.c / 8)}, FastDiv{uint32_t(s.area)}, s);
            }),
       rung(
           "csrc/kernels/modulated_conv2d.cuh", 1, [&] { shipped(s, px, sides, py); }, true)},
      sizes["rounds"]);
}
