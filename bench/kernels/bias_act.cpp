// bias_act on the CPU: y = clamp(gain * lrelu(x + bias)), float32, NCHW. Bound by memory.
//
// From the folder of the project (for AVX2 isa_avx2 and -march=x86-64-v3, for older ones isa_baseline alone):
// g++ -std=gnu++17 -O3 -ffp-contract=fast -fno-math-errno -fno-trapping-math -fopenmp -march=x86-64-v4
//   -mprefer-vector-width=512 -DPYFACE_ISA_NS=isa_avx512 -I csrc -I csrc/include bench/kernels/bias_act.cpp
//   csrc/cpu/bias_act.cpp csrc/cpu/dispatch/threads.cpp -o bias_act && ./bias_act n=1 c=128 h=256 w=256
#include "pyface/bias_act.h"

#include "ladder.h"

namespace pyface::PYFACE_ISA_NS {
void bias_act(const BiasActParams& p, int threads);
}

namespace {

using pyface::Act;

struct Settings {
  int64_t n, c, area;
  Act act;
  double alpha, gain, clamp;
};

template <class F>
inline F activate(Act act, F v, F alpha) {
  switch (act) {
    case Act::kRelu:
      return v < 0 ? F(0) : v;
    case Act::kLrelu:
      return v < 0 ? v * alpha : v;
    default:
      return v;
  }
}

// As the formula is read: four passes over memory, and each element finds its channel by division.
// Every pass beyond the first reads and writes what the last one wrote.
template <class F>
LADDER_SCALAR void version_1(const Settings& s, const float* x, const float* bias, F* y) {
  const int64_t count = s.n * s.c * s.area;
  for (int64_t i = 0; i < count; ++i) y[i] = F(x[i]) + F(bias[i / s.area % s.c]);
  for (int64_t i = 0; i < count; ++i) y[i] = activate(s.act, y[i], F(s.alpha));
  for (int64_t i = 0; i < count; ++i) y[i] = y[i] * F(s.gain);
  for (int64_t i = 0; i < count; ++i) {
    y[i] = y[i] > F(s.clamp) ? F(s.clamp) : y[i] < F(-s.clamp) ? F(-s.clamp) : y[i];
  }
}

// One pass: each element is read and written once, everything between happens in registers.
// The division and the choice of the activation stay in the loop.
LADDER_SCALAR void version_2(const Settings& s, const float* x, const float* bias, float* y) {
  const int64_t count = s.n * s.c * s.area;
  for (int64_t i = 0; i < count; ++i) {
    const float v = activate(s.act, x[i] + bias[i / s.area % s.c], float(s.alpha)) * float(s.gain);
    y[i] = std::min(std::max(v, float(-s.clamp)), float(s.clamp));
  }
}

// Rows of one channel: bias, gain and clamp are constants of a row, and no element divides.
// Still one element at a time, with the choice of the activation inside.
LADDER_SCALAR void version_3(const Settings& s, const float* x, const float* bias, float* y) {
  const float alpha = float(s.alpha), gain = float(s.gain), clamp = float(s.clamp);
  for (int64_t row = 0; row < s.n * s.c; ++row) {
    const float b = bias[row % s.c];
    for (int64_t i = row * s.area; i < (row + 1) * s.area; ++i) {
      y[i] = std::min(std::max(activate(s.act, x[i] + b, alpha) * gain, -clamp), clamp);
    }
  }
}

template <Act kAct>
LADDER_LOOPS void row_of(const float* x, float b, float* y, int64_t count, float alpha, float gain,
                         float clamp) {
#pragma GCC ivdep
  for (int64_t i = 0; i < count; ++i) {
    const float v = activate(kAct, x[i] + b, alpha) * gain, low = v < -clamp ? -clamp : v;
    y[i] = low > clamp ? clamp : low;
  }
}

// The activation is a parameter of the template, so that the row is free of branches and becomes vectors.
// From here on the time is that of the memory; the shipped kernel adds types, layouts, threads and NaN.
void version_4(const Settings& s, const float* x, const float* bias, float* y) {
  const auto row = s.act == Act::kLrelu  ? row_of<Act::kLrelu>
                   : s.act == Act::kRelu ? row_of<Act::kRelu>
                                         : row_of<Act::kLinear>;
  for (int64_t r = 0; r < s.n * s.c; ++r) {
    row(x + r * s.area, bias[r % s.c], y + r * s.area, s.area, float(s.alpha), float(s.gain), float(s.clamp));
  }
}

// The kernel that ships: csrc/cpu/bias_act.cpp.
void version_5(const Settings& s, const float* x, const float* bias, float* y) {
  const pyface::BiasActParams p{x,       bias,   y,      pyface::DType::kF32, s.n, s.c, s.area, s.act,
                                s.alpha, s.gain, s.clamp};
  pyface::PYFACE_ISA_NS::bias_act(p, 1);
}

}  // namespace

int main(int count, char** arguments) {
  const ladder::Sizes sizes(count, arguments, {{"n", 1}, {"c", 128}, {"h", 256}, {"w", 256}});
  const Settings s{sizes["n"], sizes["c"], sizes["h"] * sizes["w"], Act::kLrelu, 0.2, std::sqrt(2.0), 2.0};
  const int64_t elements = s.n * s.c * s.area;
  const ladder::Buffer<float> x(elements), bias(s.c), y(elements);
  const ladder::Buffer<double> truth(elements);
  ladder::Random random(1);
  random.fill(x, -3, 3);
  random.fill(bias, -1, 1);
  version_1(s, x.get(), bias.get(), truth.get());
  using Function = void (*)(const Settings&, const float*, const float*, float*);
  const auto rung = [&](const char* what, Function function) {
    return ladder::Version{
        what, [&, function] { function(s, x.get(), bias.get(), y.get()); },
        [&] { return ladder::max_error(truth.get(), elements, [&](int64_t i) { return y[i]; }); }, 1e-6,
        function == version_5};
  };
  ladder::Work work{"bias_act", std::to_string(s.n) + "x" + std::to_string(s.c) + "x" +
                                    std::to_string(sizes["h"]) + "x" + std::to_string(sizes["w"])};
  work.bytes = 8.0 * elements + 4.0 * s.c;
  work.flops = 5.0 * elements;
  work.poison = [&] { ladder::spoil(y); };
  return ladder::climb(work,
                       {rung("a pass per term, a division per element", version_1<float>),
                        rung("one pass", version_2), rung("rows of a channel, no division", version_3),
                        rung("activation known to the compiler: vectors", version_4),
                        rung("csrc/cpu/bias_act.cpp", version_5)},
                       sizes["rounds"]);
}
