// conv_epilogue on the CPU: y = next_style * clamp(gain * lrelu(x * demod + noise + bias)), bfloat16, NHWC:
// all that happens to the output of a modulated convolution. Bound by memory.
//
// From the folder of the project (for AVX2 isa_avx2 and -march=x86-64-v3, for older ones isa_baseline alone):
// g++ -std=gnu++17 -O3 -ffp-contract=fast -fno-math-errno -fno-trapping-math -fopenmp -march=x86-64-v4
//   -mprefer-vector-width=512 -DPYFACE_ISA_NS=isa_avx512 -I csrc -I csrc/include
//   bench/kernels/conv_epilogue.cpp csrc/cpu/modulated_conv2d.cpp csrc/cpu/dispatch/threads.cpp
//   -o conv_epilogue && ./conv_epilogue n=1 c=128 h=256 w=256
#include "ladder.h"
#include "pyface/modulated_conv2d.h"

namespace pyface::PYFACE_ISA_NS {
void conv_epilogue(const ConvEpilogueParams& p, int threads);
}

namespace {

struct Settings {
  int64_t n, c, area;
  const float *demod, *noise, *bias, *style;
  float alpha, gain, clamp;
};

inline double load(double v) { return v; }
inline float load(uint16_t v) { return ladder::from_bf16(v); }
inline void store(double* to, double v) { *to = v; }
inline void store(uint16_t* to, double v) { *to = ladder::to_bf16(float(v)); }

// As the formula is read: seven passes over memory, each rounded to bfloat16, as a chain of torch operations.
// Each element finds its pixel and channel by division.
template <class T>
LADDER_SCALAR void version_1(const Settings& s, const uint16_t* x, T* y) {
  const int64_t count = s.n * s.c * s.area;
  const auto sample_channel = [&](int64_t i) { return i / (s.c * s.area) * s.c + i % s.c; };
  for (int64_t i = 0; i < count; ++i) store(y + i, load(x[i]) * s.demod[sample_channel(i)]);
  for (int64_t i = 0; i < count; ++i) store(y + i, load(y[i]) + s.noise[i / s.c % s.area]);
  for (int64_t i = 0; i < count; ++i) store(y + i, load(y[i]) + s.bias[i % s.c]);
  for (int64_t i = 0; i < count; ++i) store(y + i, load(y[i]) < 0 ? load(y[i]) * s.alpha : load(y[i]));
  for (int64_t i = 0; i < count; ++i) store(y + i, load(y[i]) * s.gain);
  for (int64_t i = 0; i < count; ++i) {
    const auto v = load(y[i]);
    store(y + i, v > s.clamp ? s.clamp : v < -s.clamp ? -s.clamp : v);
  }
  for (int64_t i = 0; i < count; ++i) store(y + i, load(y[i]) * s.style[sample_channel(i)]);
}

inline float finish(const Settings& s, float v, float style) {
  v = (v < 0 ? v * s.alpha : v) * s.gain;
  return (v > s.clamp ? s.clamp : v < -s.clamp ? -s.clamp : v) * style;
}

// One pass, in float32 between one load and one rounding: more exact, and a seventh of the traffic.
// The divisions stay.
LADDER_SCALAR void version_2(const Settings& s, const uint16_t* x, uint16_t* y) {
  const int64_t count = s.n * s.c * s.area;
  for (int64_t i = 0; i < count; ++i) {
    const int64_t at = i / (s.c * s.area) * s.c + i % s.c;
    const float v = load(x[i]) * s.demod[at] + s.noise[i / s.c % s.area] + s.bias[i % s.c];
    store(y + i, finish(s, v, s.style[at]));
  }
}

// Pixel after pixel: the sides are rows of channels that stay in the cache, the noise is one number a pixel.
// No division; the sign of a value and the test for NaN when it is rounded are branches.
LADDER_SCALAR void version_3(const Settings& s, const uint16_t* x, uint16_t* y) {
  for (int64_t pixel = 0; pixel < s.n * s.area; ++pixel, x += s.c, y += s.c) {
    const float *demod = s.demod + pixel / s.area * s.c, *style = s.style + pixel / s.area * s.c;
    const float noise = s.noise[pixel % s.area];
    for (int64_t c = 0; c < s.c; ++c) {
      store(y + c, finish(s, load(x[c]) * demod[c] + (s.bias[c] + noise), style[c]));
    }
  }
}

LADDER_LOOPS void pixel_of(const Settings& s, const uint16_t* x, const float* demod, const float* style,
                           float noise, uint16_t* y) {
  const float *bias = s.bias, alpha = s.alpha, gain = s.gain, clamp = s.clamp;
  const int64_t channels = s.c;
#pragma GCC ivdep
  for (int64_t c = 0; c < channels; ++c) {
    const uint32_t wide = static_cast<uint32_t>(x[c]) << 16;
    float v;
    __builtin_memcpy(&v, &wide, 4);
    v = v * demod[c] + (bias[c] + noise);
    v = (v < 0 ? v * alpha : v) * gain;
    v = v < -clamp ? -clamp : v;
    v = (v > clamp ? clamp : v) * style[c];
    uint32_t bits;
    __builtin_memcpy(&bits, &v, 4);
    const uint32_t rounding = v == v ? 0x7fffu + ((bits >> 16) & 1u) : 0u;
    y[c] = static_cast<uint16_t>((bits + rounding) >> 16);
  }
}

// The same without a branch: every choice is a select, bfloat16 is made by shifts, and the loop becomes
// vectors of whole channels. The shipped kernel adds types, layouts, absent sides and threads.
void version_4(const Settings& s, const uint16_t* x, uint16_t* y) {
  for (int64_t pixel = 0; pixel < s.n * s.area; ++pixel, x += s.c, y += s.c) {
    const int64_t sample = pixel / s.area * s.c;
    pixel_of(s, x, s.demod + sample, s.style + sample, s.noise[pixel % s.area], y);
  }
}

// The kernel that ships: csrc/cpu/modulated_conv2d.cpp.
void version_5(const Settings& s, const uint16_t* x, uint16_t* y) {
  pyface::ConvEpilogueParams p{};
  p.x = x, p.demod = s.demod, p.noise = s.noise, p.bias = s.bias, p.next_style = s.style, p.y = y;
  p.dtype = pyface::DType::kBF16, p.n = s.n, p.c = s.c, p.hw = s.area, p.channels_last = true;
  p.act = pyface::Act::kLrelu, p.alpha = s.alpha, p.gain = s.gain, p.clamp = s.clamp;
  pyface::PYFACE_ISA_NS::conv_epilogue(p, 1);
}

}  // namespace

int main(int count, char** arguments) {
  const ladder::Sizes sizes(count, arguments, {{"n", 1}, {"c", 128}, {"h", 256}, {"w", 256}});
  const int64_t n = sizes["n"], c = sizes["c"], area = sizes["h"] * sizes["w"], elements = n * c * area;
  const ladder::Buffer<uint16_t> x(elements), y(elements);
  const ladder::Buffer<float> demod(n * c), style(n * c), bias(c), noise(area);
  const ladder::Buffer<double> truth(elements);
  ladder::Random random(1);
  for (int64_t i = 0; i < elements; ++i) x[i] = ladder::to_bf16(random.next(-2, 2));
  random.fill(demod, 0.5f, 1.5f);
  random.fill(style, 0.5f, 1.5f);
  random.fill(bias, -1, 1);
  random.fill(noise, -0.5f, 0.5f);
  const Settings s{n, c, area, demod.get(), noise.get(), bias.get(), style.get(), 0.2f, 1.41421356f, 4.f};
  version_1(s, x.get(), truth.get());
  using Function = void (*)(const Settings&, const uint16_t*, uint16_t*);
  const auto rung = [&](const char* what, Function function, double roundings) {
    const auto value = [&](int64_t i) { return ladder::from_bf16(y[i]); };
    return ladder::Version{what,
                           [&, function] { function(s, x.get(), y.get()); },
                           [&, value] { return ladder::max_error(truth.get(), elements, value); },
                           roundings * 0x1p-8,
                           function == version_5,
                           "bfloat16"};
  };
  ladder::Work work{"conv_epilogue", std::to_string(n) + "x" + std::to_string(c) + "x" +
                                         std::to_string(sizes["h"]) + "x" + std::to_string(sizes["w"])};
  work.bytes = 4.0 * elements + 4.0 * (2 * n * c + c + area);
  work.flops = 8.0 * elements;
  work.poison = [&] { ladder::spoil(y); };
  return ladder::climb(
      work,
      {rung("a pass per term, each rounded", version_1<uint16_t>, 7),
       rung("one pass in float32", version_2, 1), rung("pixel after pixel, no division", version_3, 1),
       rung("no branches: vectors of channels", version_4, 1),
       rung("csrc/cpu/modulated_conv2d.cpp", version_5, 1)},
      sizes["rounds"]);
}
