// bias_act on a GPU: y = clamp(gain * lrelu(x + bias)), float16, NCHW. Bound by memory.
//
// From the folder of the project:
// nvcc -std=c++17 -O3 --expt-relaxed-constexpr -arch=native -I csrc -I csrc/include bench/kernels/bias_act.cu
//   csrc/cuda/bias_act.cu -o bias_act_gpu && ./bias_act_gpu n=4 c=128 h=256 w=256
// In the emulator, to see that it is right:
// g++ -std=gnu++17 -O1 -pthread -x c++ -I csrc -I csrc/include bench/kernels/bias_act.cu
// csrc/emu/bias_act.cpp
//   -o bias_act_emu && ./bias_act_emu n=1 c=4 h=8 w=16
#include "pyface/bias_act.h"

#include "ladder.cuh"

namespace {

using ladder::Half;
using pyface::dev::FastDiv;

struct Settings {
  int64_t n, c, area;
  int act;
  float alpha, gain, clamp;
  int64_t count() const { return n * c * area; }
};

template <class F>
__host__ __device__ F activate(int act, F v, F alpha) {
  switch (act) {
    case int(pyface::Act::kRelu):
      return v < 0 ? F(0) : v;
    case int(pyface::Act::kLrelu):
      return v < 0 ? v * alpha : v;
    default:
      return v;
  }
}

// One thread for each element, which finds its channel by 64-bit divisions and the activation by a switch.
// A warp moves 64 bytes an access, and its divisions take longer than the memory.
__global__ void version_1(const Half* x, const Half* bias, Half* y, Settings s) {
  const int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i >= s.n * s.c * s.area) return;
  float v = activate(s.act, __half2float(x[i]) + __half2float(bias[i / s.area % s.c]), s.alpha) * s.gain;
  v = v > s.clamp ? s.clamp : v < -s.clamp ? -s.clamp : v;
  y[i] = __float2half_rn(v);
}

// Threads stride over the elements with 32-bit numbers, and divide by a multiplication and a shift.
// The activation is one slope: v, or v * slope below zero.
__global__ void __launch_bounds__(256)
    version_2(const Half* __restrict__ x, const Half* __restrict__ bias, Half* __restrict__ y, uint32_t count,
              FastDiv area, FastDiv channels, float slope, float gain, float clamp) {
  for (uint32_t i = blockIdx.x * blockDim.x + threadIdx.x; i < count; i += gridDim.x * blockDim.x) {
    uint32_t row = area(i);
    float v = __half2float(x[i]) + __half2float(bias[channels.split(row)]);
    v = (v < 0.f ? v * slope : v) * gain;
    v = v > clamp ? clamp : v < -clamp ? -clamp : v;
    y[i] = __float2half_rn(v);
  }
}

// Eight elements of one row a thread, in 16-byte accesses: a warp moves 512 bytes at once, and one division
// serves eight elements. Needs rows that are multiples of eight; the shipped kernel has ways for all others.
__global__ void __launch_bounds__(256)
    version_3(const Half* __restrict__ x, const Half* __restrict__ bias, Half* __restrict__ y,
              uint32_t vectors, FastDiv row_vectors, FastDiv channels, float slope, float gain, float clamp) {
  for (uint32_t i = blockIdx.x * blockDim.x + threadIdx.x; i < vectors; i += gridDim.x * blockDim.x) {
    uint32_t row = row_vectors(i);
    const float b = __half2float(bias[channels.split(row)]);
    float v[8];
    pyface::dev::read_vector(x + size_t{i} * 8, v);
    PYFACE_UNROLL
    for (int k = 0; k < 8; ++k) {
      const float t = v[k] + b, a = (t < 0.f ? t * slope : t) * gain;
      v[k] = a > clamp ? clamp : a < -clamp ? -clamp : a;
    }
    pyface::dev::write_vector(y + size_t{i} * 8, v);
  }
}

// The kernel that ships: csrc/kernels/bias_act.cuh.
void shipped(const Settings& s, const Half* x, const Half* bias, Half* y) {
  const pyface::BiasActParams p{
      x, bias, y, pyface::DType::kF16, s.n, s.c, s.area, pyface::Act(s.act), s.alpha, s.gain, s.clamp};
#ifdef __CUDACC__
  pyface::launch_bias_act_cuda(p, nullptr);
#else
  pyface::launch_bias_act_emu(p, 2);
#endif
}

// Version 1 in double on the CPU.
void in_double(const Settings& s, const Half* x, const Half* bias, double* y) {
  for (int64_t i = 0; i < s.count(); ++i) {
    const double sum = ladder::to_double(x[i]) + ladder::to_double(bias[i / s.area % s.c]);
    const double v = activate(s.act, sum, double(s.alpha)) * s.gain;
    y[i] = std::min(std::max(v, -double(s.clamp)), double(s.clamp));
  }
}

}  // namespace

int main(int count, char** arguments) {
  const ladder::Sizes sizes(count, arguments, {{"n", 4}, {"c", 128}, {"h", 256}, {"w", 256}});
  const Settings s{sizes["n"], sizes["c"], sizes["h"] * sizes["w"], int(pyface::Act::kLrelu), 0.2f,
                   1.4142135f, 2.f};
  if (s.area % 8 || s.count() >= int64_t{1} << 31) {
    std::fprintf(stderr, "h * w must be a multiple of 8, and all elements fewer than 2^31\n");
    return 2;
  }
  const ladder::Buffer<Half> x(s.count()), bias(s.c);
  const ladder::Buffer<double> truth(s.count());
  ladder::Random random(1);
  for (int64_t i = 0; i < x.size(); ++i) x[i] = __float2half_rn(random.next(-3, 3));
  for (int64_t i = 0; i < s.c; ++i) bias[i] = __float2half_rn(random.next(-1, 1));
  if (ladder::missing_device().empty()) in_double(s, x.get(), bias.get(), truth.get());
  const ladder::DeviceBuffer<Half> device_x(x), device_bias(bias), y(s.count());
  const auto launch = ladder::launcher("bias_act");
  const auto blocks = [&](int64_t items) { return dim3(unsigned((items + 255) / 256)); };
  const auto striding = [&](int64_t items) {
    return dim3(unsigned(std::min<int64_t>((items + 255) / 256, int64_t{launch.multiprocessors()} * 16)));
  };
  const auto rung = [&](const char* what, std::function<void()> run, bool ships = false) {
    return ladder::Version{what,    std::move(run), [&] { return y.max_error(truth); },
                           0x1p-11, ships,          "float16"};
  };
  const FastDiv area{uint32_t(s.area)}, row_vectors{uint32_t(s.area / 8)}, channels{uint32_t(s.c)};
  const Half *px = device_x.get(), *pb = device_bias.get();
  ladder::Work work{"bias_act", std::to_string(s.n) + "x" + std::to_string(s.c) + "x" +
                                    std::to_string(sizes["h"]) + "x" + std::to_string(sizes["w"])};
  work.bytes = 4.0 * s.count() + 2.0 * s.c;
  work.flops = 5.0 * s.count();
  work.poison = [&] { y.spoil(); };
  return ladder::climb_on_device(
      work,
      {rung("a thread per element, 64-bit divisions",
            [&] { launch("version_1", version_1, blocks(s.count()), dim3(256), 0, px, pb, y.get(), s); }),
       rung("32-bit strides, division by multiplication",
            [&] {
              launch("version_2", version_2, striding(s.count()), dim3(256), 0, px, pb, y.get(), s.count(),
                     area, channels, s.alpha, s.gain, s.clamp);
            }),
       rung("16-byte accesses",
            [&] {
              launch("version_3", version_3, striding(s.count() / 8), dim3(256), 0, px, pb, y.get(),
                     s.count() / 8, row_vectors, channels, s.alpha, s.gain, s.clamp);
            }),
       rung(
           "csrc/kernels/bias_act.cuh", [&] { shipped(s, px, pb, y.get()); }, true)},
      sizes["rounds"]);
}
