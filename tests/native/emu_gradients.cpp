// The gradient kernels in the emulator, on heap buffers of the exact size, against plain loops in double.
// Three schedules, whose results are compared bit for bit. Usage: emu_gradients all | race.
#include "emu_checks.h"
#include "pyface/channel_dot.h"
#include "pyface/conv2d_weight_grad.h"

namespace {

using namespace pyface;
using namespace pyface::checks;

size_t size(int64_t v) { return static_cast<size_t>(v); }

// ---- conv2d_weight_grad

struct ConvCase {
  int64_t n, in_h, in_w, in_channels, out_channels;
  int kernel, stride, pad;
  bool transposed;
  int64_t splits;
  bool scaled;

  int64_t out(int64_t in) const {
    return transposed ? (in - 1) * stride - 2 * pad + kernel : (in + 2 * pad - kernel) / stride + 1;
  }
};

template <class T>
std::vector<double> weight_grad_truth(const ConvCase& k, const Buffer<T>& x, const Buffer<T>& dy,
                                      const Buffer<float>& style, const Buffer<float>& demod) {
  const int64_t out_h = k.out(k.in_h), out_w = k.out(k.in_w), taps = int64_t{k.kernel} * k.kernel;
  std::vector<double> dw(size(k.in_channels * k.out_channels * taps));
  for (int64_t n = 0; n < k.n; n++)
    for (int64_t oy = 0; oy < (k.transposed ? k.in_h : out_h); oy++)
      for (int64_t ox = 0; ox < (k.transposed ? k.in_w : out_w); ox++)
        for (int64_t tap = 0; tap < taps; tap++) {
          const int64_t cy = oy * k.stride - k.pad + tap / k.kernel,
                        cx = ox * k.stride - k.pad + tap % k.kernel;
          const int64_t h = k.transposed ? out_h : k.in_h, w = k.transposed ? out_w : k.in_w;
          if (cy < 0 || cx < 0 || cy >= h || cx >= w) continue;
          const int64_t in_at =
              k.transposed ? (n * k.in_h + oy) * k.in_w + ox : (n * k.in_h + cy) * k.in_w + cx;
          const int64_t out_at = k.transposed ? (n * out_h + cy) * out_w + cx : (n * out_h + oy) * out_w + ox;
          for (int64_t o = 0; o < k.out_channels; o++)
            for (int64_t i = 0; i < k.in_channels; i++) {
              const double factor =
                  k.scaled ? style[size(n * k.in_channels + i)] * demod[size(n * k.out_channels + o)] : 1;
              dw[size(k.transposed ? (i * taps + tap) * k.out_channels + o
                                   : (o * taps + tap) * k.in_channels + i)] +=
                  factor * x[size(in_at * k.in_channels + i)] * dy[size(out_at * k.out_channels + o)];
            }
        }
  return dw;
}

template <class T>
void test_weight_grad(const ConvCase& k, bool all_schedules) {
  const int64_t out_h = k.out(k.in_h), out_w = k.out(k.in_w), taps = int64_t{k.kernel} * k.kernel;
  Buffer<T> x(size(k.n * k.in_h * k.in_w * k.in_channels)), dy(size(k.n * out_h * out_w * k.out_channels));
  Buffer<float> style(size(k.n * k.in_channels)), demod(size(k.n * k.out_channels));
  fill(x), fill(dy), fill(style), fill(demod);
  const std::vector<double> truth = weight_grad_truth(k, x, dy, style, demod);
  const std::string name = "conv2d_weight_grad " + std::to_string(k.in_channels) + " -> " +
                           std::to_string(k.out_channels) + (k.transposed ? " transposed" : "");
  Buffer<T> first(truth.size());
  for (int schedule = 0; schedule < (all_schedules ? 3 : 1); schedule++) {
    Buffer<T> dw(truth.size());
    Conv2dWeightGradParams p{x.data,
                             dy.data,
                             k.scaled ? style.data : nullptr,
                             k.scaled ? demod.data : nullptr,
                             dw.data,
                             nullptr,
                             dtype_of<T>(),
                             k.n,
                             k.in_h,
                             k.in_w,
                             k.in_channels,
                             out_h,
                             out_w,
                             k.out_channels,
                             k.kernel,
                             k.kernel,
                             k.stride,
                             k.pad,
                             k.pad,
                             k.transposed,
                             k.splits};
    Buffer<float> workspace(size(conv2d_weight_grad_workspace(p)));
    p.workspace = workspace.data;
    validate(p);
    launch_conv2d_weight_grad_emu(p, schedule);
    if (schedule == 0) {
      expect_close(dw, truth, name);
      std::memcpy(first.data, dw.data, dw.size * sizeof(T));
    }
    expect(std::memcmp(first.data, dw.data, dw.size * sizeof(T)) == 0,
           name + ": schedule " + std::to_string(schedule) + " gives other bits");
  }
  expect(taps > 0, name);
}

// Tiles 128x128, 128x64, 64x64 and single elements; ragged channels and pixels; parts with and without tiles.
const ConvCase kConvCases[] = {
    {1, 5, 7, 72, 136, 3, 1, 1, false, 1, false}, {2, 4, 5, 40, 136, 1, 1, 0, false, 2, true},
    {2, 6, 5, 24, 40, 3, 2, 1, false, 3, true},   {1, 3, 4, 24, 16, 3, 2, 1, true, 2, false},
    {2, 3, 3, 5, 7, 3, 1, 1, false, 2, true},     {1, 4, 4, 3, 72, 1, 1, 0, false, 1, false},
    {3, 2, 3, 9, 6, 3, 2, 0, true, 1, true},      {1, 9, 9, 8, 8, 3, 2, 0, false, 70, false}};

// ---- channel_dot and conv_epilogue_grad

struct SumCase {
  int64_t n, c, hw, chunks;
  bool per_sample;
};

template <class T>
void test_channel_dot(const SumCase& k, int schedule) {
  Buffer<T> a(size(k.n * k.c * k.hw)), b(size(k.n * k.c * k.hw));
  fill(a), fill(b);
  const int64_t noises = k.per_sample ? k.n : 1;
  Buffer<float> dot(size(k.n * k.c)), sum(size(k.c)), place(size(noises * k.hw));
  Buffer<float> workspace(size(channel_dot_workspace(dtype_of<T>(), k.n, k.c, k.hw, k.chunks)));
  const ChannelDotParams p{a.data,        b.data, dot.data, sum.data, place.data,   workspace.data,
                           dtype_of<T>(), k.n,    k.c,      k.hw,     k.per_sample, k.chunks};
  validate(p);
  launch_channel_dot_emu(p, schedule);
  std::vector<double> dots(dot.size), sums(sum.size), places(place.size);
  for (int64_t n = 0; n < k.n; n++)
    for (int64_t at = 0; at < k.hw; at++)
      for (int64_t c = 0; c < k.c; c++) {
        const size_t i = size((n * k.hw + at) * k.c + c);
        dots[size(n * k.c + c)] += a[i] * b[i];
        sums[size(c)] += a[i];
        places[size((k.per_sample ? n * k.hw : 0) + at)] += a[i];
      }
  const std::string name = "channel_dot of " + std::to_string(k.c) + " channels";
  expect_close(dot, dots, name + ": dot");
  expect_close(sum, sums, name + ": sum");
  expect_close(place, places, name + ": place_sum");
}

double derivative_of(Act act, double z, double alpha) {
  const double s = 1 / (1 + std::exp(-z));
  switch (act) {
    case Act::kRelu:
      return z > 0 ? 1 : 0;
    case Act::kLrelu:
      return z > 0 ? 1 : alpha;
    case Act::kTanh:
      return 1 - std::tanh(z) * std::tanh(z);
    case Act::kSwish:
      return s * (1 + z * (1 - s));
    default:
      return 1;
  }
}
template <class T>
void test_epilogue_grad(const SumCase& k, Act act, int schedule) {
  const size_t count = size(k.n * k.c * k.hw), noises = size(k.per_sample ? k.n * k.hw : k.hw);
  Buffer<T> dy(count), x(count), dx(count);
  Buffer<float> demod(size(k.n * k.c)), noise(noises), bias(size(k.c)), next(size(k.n * k.c));
  Buffer<float> d_demod(demod.size), d_noise(noises), d_bias(bias.size), d_next(next.size);
  fill(dy), fill(x), fill(demod), fill(noise), fill(bias), fill(next);
  const double alpha = 0.2, gain = 1.4, clamp = 0.875;  // exact in each type
  Buffer<float> workspace(size(channel_dot_workspace(dtype_of<T>(), k.n, k.c, k.hw, k.chunks)));
  const ConvEpilogueGradParams p{
      dy.data,      x.data,      demod.data,  noise.data,     bias.data,     next.data, dx.data, d_demod.data,
      d_noise.data, d_bias.data, d_next.data, workspace.data, dtype_of<T>(), k.n,       k.c,     k.hw,
      k.per_sample, act,         alpha,       gain,           clamp,         k.chunks};
  validate(p);
  launch_conv_epilogue_grad_emu(p, schedule);
  std::vector<double> dxs(count), demods(demod.size), noise_sums(noises), biases(bias.size), nexts(next.size);
  for (int64_t n = 0; n < k.n; n++)
    for (int64_t at = 0; at < k.hw; at++)
      for (int64_t c = 0; c < k.c; c++) {
        const size_t i = size((n * k.hw + at) * k.c + c), nc = size(n * k.c + c);
        const size_t place = size((k.per_sample ? n * k.hw : 0) + at);
        const double z = x[i] * demod[nc] + noise[place] + bias[size(c)];
        const double free = gain * act_of(act, z, alpha);
        // The slope reads the output as it was rounded, that of swish the input.
        const double rounded =
            act == Act::kSwish ? free
                               : static_cast<double>(dev::widen(dev::narrow<T>(static_cast<float>(free))));
        const double dz =
            std::fabs(rounded) >= clamp ? 0 : dy[i] * next[nc] * gain * derivative_of(act, z, alpha);
        dxs[i] = dz * demod[nc];
        demods[nc] += dz * x[i];
        noise_sums[place] += dz;
        biases[size(c)] += dz;
        nexts[nc] += dy[i] * std::fmin(std::fmax(free, -clamp), clamp);
      }
  const std::string name = "conv_epilogue_grad act " + std::to_string(static_cast<int>(act));
  expect_close(dx, dxs, name + ": dx");
  const double loose = sizeof(T) == 2 ? 2e3 : 4;  // the kernel reads the output as it was rounded
  expect_close(d_demod, demods, name + ": d_demod", loose);
  expect_close(d_noise, noise_sums, name + ": d_noise", loose);
  expect_close(d_bias, biases, name + ": d_bias", loose);
  expect_close(d_next, nexts, name + ": d_next", loose);
}

const SumCase kSumCases[] = {{2, 24, 70, 2, true},    {3, 5, 33, 1, false}, {1, 264, 9, 1, true},
                             {2, 40, 130, 33, false}, {1, 3, 600, 4, true}, {2, 8, 1, 1, false}};

template <class T>
void test_type(int schedule) {
  for (const SumCase& k : kSumCases) {
    test_channel_dot<T>(k, schedule);
    test_epilogue_grad<T>(k, Act::kLrelu, schedule);
  }
  for (Act act : {Act::kLinear, Act::kRelu, Act::kTanh, Act::kSwish})
    test_epilogue_grad<T>({2, 6, 7, 1, true}, act, schedule);
}

// Devices before sm_80 have neither the matrix instructions nor asynchronous copies.
void test_old_device() {
  emu_capability = 75;
  test_weight_grad<float>(kConvCases[5], false);
  Buffer<__half> x(64 * 64), dw(64 * 64);
  fill(x);
  expect_error("compute capability is 7.5; allowed: 8.0 and up", [&] {
    launch_conv2d_weight_grad_emu(
        {x.data, x.data, nullptr, nullptr, dw.data, nullptr, DType::kF16, 1, 8,     8, 64,
         8,      8,      64,      1,       1,       1,       0,           0, false, 1},
        0);
  });
  emu_capability = 90;
}

void run_all() {
  test_old_device();
  for (const ConvCase& k : kConvCases) {
    test_weight_grad<float>(k, true);
    test_weight_grad<__half>(k, true);
    test_weight_grad<__nv_bfloat16>(k, true);
  }
  for (int schedule = 0; schedule < 3; schedule++) {
    test_type<float>(schedule);
    test_type<__half>(schedule);
    test_type<__nv_bfloat16>(schedule);
  }
}

void run_race() {
  test_weight_grad<float>({1, 4, 5, 8, 8, 3, 1, 1, false, 2, true}, false);
  test_weight_grad<__half>({1, 6, 6, 24, 136, 1, 1, 0, false, 1, false}, false);
  test_weight_grad<__nv_bfloat16>({2, 5, 4, 16, 8, 3, 2, 1, true, 2, true}, false);
  test_weight_grad<__half>({2, 8, 4, 72, 72, 1, 1, 0, false, 1, true}, false);
  test_weight_grad<__half>({2, 5, 5, 3, 5, 3, 1, 1, false, 1, false}, false);
  test_channel_dot<float>({2, 24, 70, 2, true}, 0);
  test_channel_dot<float>({1, 5, 66, 33, false}, 0);
  test_epilogue_grad<__half>({2, 24, 70, 2, true}, Act::kLrelu, 0);
}

}  // namespace

int main(int argc, char** argv) { return run_checks(argc, argv, run_all, run_race); }
