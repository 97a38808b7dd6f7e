// conv2d in the emulator against plain loops in double: every tile, ragged sizes, types, geometries, splits,
// epilogues and heads. Usage: emu_conv2d all | race.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>
#include <vector>

#include "emu_checks.h"
#include "pyface/conv2d.h"

namespace {

using namespace pyface;
using namespace pyface::checks;

size_t size(int64_t v) { return static_cast<size_t>(v); }

struct Case {
  int64_t n, h, w, in, out;
  int kernel = 3, stride = 1, pad = 1;
  bool transposed = false;
  int output_padding = 0;
  int tile = -1, splits = 0;
  bool styled = true, finished = true, noise_per_sample = true, next = true;
  Act act = Act::kLrelu;
  int heads = 0;
  bool skip = false, add = false, keep_y = true;
  int64_t shift = 0;  // elements that x and weight begin behind a 16-byte boundary

  int64_t out_size(int64_t in_size) const {
    return transposed ? (in_size - 1) * stride - 2 * pad + kernel + output_padding
                      : (in_size + 2 * pad - kernel) / stride + 1;
  }
  std::string text() const {
    std::string t = "conv2d";
    for (int64_t v : {n, h, w, in, out, int64_t{kernel}, int64_t{stride}, int64_t{pad}})
      t += " " + std::to_string(v);
    return t + (transposed ? " transposed" : "") + " tile " + std::to_string(tile) + " splits " +
           std::to_string(splits) + " act " + std::to_string(int(act)) + " heads " + std::to_string(heads);
  }
};

// Inputs of a case and the outputs that plain loops give.
template <class T>
struct Problem {
  const Case& c;
  int64_t out_h, out_w;
  Buffer<T> x, weight, y;
  Buffer<float> style, demod, noise, bias, next, heads, head_bias, skip, filter, image;
  std::vector<double> true_y, true_image;

  explicit Problem(const Case& k)
      : c(k),
        out_h(k.out_size(k.h)),
        out_w(k.out_size(k.w)),
        x(size(k.n * k.h * k.w * k.in + k.shift)),
        weight(size(k.out * k.kernel * k.kernel * k.in + k.shift)),
        y(size(k.n * out_h * out_w * k.out)),
        style(size(k.n * k.in)),
        demod(size(k.n * k.out)),
        noise(size((k.noise_per_sample ? k.n : 1) * out_h * out_w)),
        bias(size(k.out)),
        next(size(k.n * k.out)),
        heads(size(k.n * k.heads * k.out)),
        head_bias(size(k.heads)),
        skip(size(k.n * k.heads * (out_h / 2) * (out_w / 2))),
        filter(16),
        image(size(k.n * k.heads * out_h * out_w)) {
    fill(x), fill(weight), fill(style), fill(demod), fill(noise), fill(bias), fill(next), fill(heads);
    fill(head_bias), fill(skip), fill(filter), fill(image);
    solve();
  }

  double sum_at(int64_t n, int64_t oy, int64_t ox, int64_t o) const {
    double sum = 0;
    for (int ky = 0; ky < c.kernel; ky++)
      for (int kx = 0; kx < c.kernel; kx++) {
        int64_t iy = c.transposed ? oy + c.pad - ky : oy * c.stride - c.pad + ky;
        int64_t ix = c.transposed ? ox + c.pad - kx : ox * c.stride - c.pad + kx;
        if (c.transposed && (iy % c.stride || ix % c.stride)) continue;
        if (c.transposed) iy /= c.stride, ix /= c.stride;
        if (iy < 0 || ix < 0 || iy >= c.h || ix >= c.w) continue;
        for (int64_t i = 0; i < c.in; i++) {
          const double a = x[size(c.shift + ((n * c.h + iy) * c.w + ix) * c.in + i)];
          sum += a * (c.styled ? style[size(n * c.in + i)] : 1.0) *
                 weight[size(c.shift + (o * c.kernel * c.kernel + ky * c.kernel + kx) * c.in + i)];
        }
      }
    return sum;
  }
  double finished(double v, int64_t n, int64_t position, int64_t o) const {
    if (!c.finished) return v;
    v = v * demod[size(n * c.out + o)] + bias[size(o)] +
        noise[size((c.noise_per_sample ? n : 0) * out_h * out_w + position)];
    return std::fmin(std::fmax(act_of(c.act, v, 0.2) * kGain, -kClamp), kClamp);
  }
  // Zeros between the pixels, then the filter turned by 180 degrees, as upfirdn2d with padding (2, 1).
  double upsampled(int64_t plane, int64_t oy, int64_t ox) const {
    double sum = 0;
    for (int64_t ky = 0; ky < 4; ky++)
      for (int64_t kx = 0; kx < 4; kx++) {
        const int64_t uy = oy + ky - 2, ux = ox + kx - 2;
        if (uy < 0 || ux < 0 || uy % 2 || ux % 2 || uy >= out_h || ux >= out_w) continue;
        sum += 4 * filter[size((3 - ky) * 4 + 3 - kx)] *
               skip[size((plane * (out_h / 2) + uy / 2) * (out_w / 2) + ux / 2)];
      }
    return sum;
  }
  void solve() {
    true_y.resize(y.size), true_image.resize(image.size);
    std::vector<double> v(size(c.out));
    for (int64_t n = 0; n < c.n; n++)
      for (int64_t p = 0; p < out_h * out_w; p++) {
        for (int64_t o = 0; o < c.out; o++) {
          v[size(o)] = finished(sum_at(n, p / out_w, p % out_w, o), n, p, o);
          true_y[size((n * out_h * out_w + p) * c.out + o)] =
              v[size(o)] * (c.finished && c.next ? next[size(n * c.out + o)] : 1.0);
        }
        for (int64_t k = 0; k < c.heads; k++) {
          double sum = head_bias[size(k)];
          for (int64_t o = 0; o < c.out; o++) sum += heads[size((n * c.heads + k) * c.out + o)] * v[size(o)];
          sum = std::fmin(std::fmax(sum, -kHeadClamp), kHeadClamp);
          const size_t at = size((n * c.heads + k) * out_h * out_w + p);
          true_image[at] = sum + (c.skip  ? upsampled(n * c.heads + k, p / out_w, p % out_w)
                                  : c.add ? image[at]
                                          : 0.0);
        }
      }
  }
  Conv2dParams params() {
    const bool f = c.finished;
    return {x.data + c.shift,
            weight.data + c.shift,
            c.styled ? style.data : nullptr,
            f ? demod.data : nullptr,
            f ? noise.data : nullptr,
            f ? bias.data : nullptr,
            f && c.next ? next.data : nullptr,
            c.keep_y ? y.data : nullptr,
            c.heads ? heads.data : nullptr,
            c.heads ? head_bias.data : nullptr,
            c.skip ? skip.data : nullptr,
            c.skip ? filter.data : nullptr,
            c.heads ? image.data : nullptr,
            nullptr,
            0,
            dtype_of<T>(),
            c.n,
            c.h,
            c.w,
            c.in,
            out_h,
            out_w,
            c.out,
            c.kernel,
            c.stride,
            c.pad,
            c.pad,
            c.transposed,
            c.noise_per_sample,
            f ? c.act : Act::kLinear,
            0.2,
            f ? kGain : 1.0,
            f ? kClamp : -1.0,
            c.heads,
            kHeadClamp,
            c.add,
            c.tile,
            c.splits};
  }
  static constexpr double kGain = 1.4, kClamp = 6.0, kHeadClamp = 12.0;
};

// The images are float32, but what they sum was rounded to T where it came out of registers.
template <class T>
void expect_image(const Buffer<float>& image, const std::vector<double>& truth, const std::string& what) {
  double error = 0, scale = 1e-3;
  bool nan = false;
  for (size_t i = 0; i < image.size; i++) {
    nan = nan || std::isnan(image[i]);
    error = std::fmax(error, std::fabs(image[i] - truth[i]));
    scale = std::fmax(scale, std::fabs(truth[i]));
  }
  expect(!nan && error <= 2 * tolerance<T>() * scale, what + ": image, error " + std::to_string(error));
}

template <class T>
Conv2dPlan test_case(const Case& c, int schedule) {
  Problem<T> problem(c);
  Conv2dParams p = problem.params();
  validate(p);
  const Conv2dPlan plan = plan_conv2d_emu(p, schedule);
  Buffer<float> workspace(size(plan.workspace_bytes / 4));
  p.workspace = workspace.data;
  p.workspace_bytes = plan.workspace_bytes;
  launch_conv2d_emu(p, schedule);
  const std::string what =
      c.text() + " dtype " + std::to_string(int(p.dtype)) + " schedule " + std::to_string(schedule);
  // The style and its product with x are rounded too, and the clamp hides how large the sums are.
  if (c.keep_y) expect_close(problem.y, problem.true_y, what, 2);
  if (c.heads) expect_image<T>(problem.image, problem.true_image, what);
  return plan;
}

Case with(Case c, void (*change)(Case&)) {
  change(c);
  return c;
}

// What every type takes: all geometries, ragged everywhere.
std::vector<Case> geometries() {
  std::vector<Case> all;
  for (int tile = -1; tile < 4; tile++) {
    const int64_t in = tile == 2 ? 40 : 8;  // the large tiles take long
    Case c{2, 7, 9, in, 72};
    c.tile = tile;
    all.push_back(c);
    c = {1, 12, 13, 40, 130};
    c.tile = tile, c.kernel = 1, c.pad = 0, c.styled = tile % 2 == 0;
    all.push_back(c);
    c = {2, 9, 11, in, 36};
    c.tile = tile, c.stride = 2, c.noise_per_sample = false;
    all.push_back(c);
    c = {1, 6, 5, in, 33};
    c.tile = tile, c.stride = 2, c.transposed = true, c.pad = tile % 2 + 1 > 1 ? 1 : 0,
    c.output_padding = tile & 1;
    all.push_back(c);
    c = {2, 6, 5, in, 24};
    c.tile = tile, c.splits = 3, c.next = false;
    all.push_back(c);
  }
  all.push_back(with({2, 5, 6, 8, 16}, [](Case& c) { c.stride = 1, c.transposed = true, c.splits = 2; }));
  all.push_back(
      with({2, 5, 6, 8, 16}, [](Case& c) { c.kernel = 1, c.pad = 0, c.stride = 2, c.transposed = true; }));
  all.push_back(with({2, 5, 6, 8, 16}, [](Case& c) { c.kernel = 1, c.pad = 0, c.stride = 2; }));
  all.push_back(with({9, 4, 4, 32, 64}, [](Case& c) { c.tile = 2; }));  // images share tiles
  all.push_back(with({70, 1, 1, 16, 16}, [](Case& c) { c.kernel = 1, c.pad = 0; }));
  all.push_back(with({2, 5, 6, 13, 19}, [](Case& c) { c.splits = 2; }));  // rows that are not aligned
  all.push_back(with({2, 5, 6, 16, 16}, [](Case& c) { c.shift = 1; }));   // nor is the tensor
  all.push_back(with({1, 5, 6, 16, 16}, [](Case& c) { c.finished = false; }));
  for (Act act : {Act::kLinear, Act::kRelu, Act::kTanh, Act::kSwish})
    all.push_back(with(
        {2, 5, 6, 16, 24}, act == Act::kLinear ? [](Case& c) { c.act = Act::kLinear; }
                           : act == Act::kRelu ? [](Case& c) { c.act = Act::kRelu; }
                           : act == Act::kTanh ? [](Case& c) { c.act = Act::kTanh; }
                                               : [](Case& c) { c.act = Act::kSwish; }));
  for (int tile = 4; tile < kConvTiles; tile++) {  // patches
    all.push_back({2, 11, 19, tile == 6 ? 72 : 40, 40});
    all.back().tile = tile, all.back().pad = tile - 4;
    all.push_back({1, 9, 16, 8, 24});
    all.back().tile = tile, all.back().transposed = true,
    all.back().act = tile == 5 ? Act::kTanh : Act::kRelu;
  }
  return all;
}

std::vector<Case> head_cases() {
  std::vector<Case> all;
  for (int tile = 0; tile < kConvTiles; tile++) {
    Case c{2, 8, 8, 8, tile % 4 == 0 ? 104 : tile == 3 || tile == 6 ? 32 : 60};
    c.tile = tile, c.heads = 3 + tile % 2, c.skip = true;
    all.push_back(c);
    c.skip = false, c.add = tile % 2, c.keep_y = false, c.heads = 8;
    all.push_back(c);
  }
  Case c{2, 6, 10, 16, 72};  // by a pass over y
  c.tile = 2, c.heads = 5, c.skip = true, c.next = false;
  all.push_back(c);
  c.splits = 2, c.skip = false, c.add = true, c.out = 20;
  all.push_back(c);
  return all;
}

// Every case in one of the three orders, each tile in all of them.
template <class T>
void test_type(int order) {
  for (const Case& c : geometries()) test_case<T>(c, order++ % 3);
  for (Case c : head_cases()) {
    if (std::is_same_v<T, float>) c.keep_y = true, c.next = false;
    const Conv2dPlan plan = test_case<T>(c, order++ % 3);
    const bool fused = !std::is_same_v<T, float> && c.splits < 2 && plan.group == 1 && c.out <= plan.columns;
    expect(plan.fused_heads == fused, c.text() + ": heads fused");
  }
}
template <class T>
void test_tile(int tile, int schedule) {
  Case c{2, 8, 8, 24, 24};
  c.tile = tile, c.heads = 2;
  test_case<T>(c, schedule);
}

void test_errors() {
  const Case c{1, 4, 4, 16, 16};
  Problem<__half> problem(c);
  const auto refuse = [&](const std::string& text, auto change) {
    Conv2dParams p = problem.params();
    change(p);
    expect_error(text, [&] {
      validate(p);
      launch_conv2d_emu(p, 0);
    });
  };
  refuse("conv2d: x is a null pointer", [](Conv2dParams& p) { p.x = nullptr; });
  refuse("conv2d: dtype is 1; allowed: 0 float32, 2 bfloat16",
         [](Conv2dParams& p) { p.dtype = DType::kF64; });
  refuse("conv2d: kernel is 5; allowed: 1 or 3", [](Conv2dParams& p) { p.kernel = 5; });
  refuse("conv2d: stride is 3; allowed: 1 to 2", [](Conv2dParams& p) { p.stride = 3; });
  refuse("conv2d: workspace_bytes is 0; allowed: 2048 and more", [](Conv2dParams& p) { p.splits = 2; });
  refuse("conv2d: head_count is 0; allowed: 1 to 8", [](Conv2dParams& p) { p.heads = p.bias; });
  refuse("conv2d: y is a null pointer", [](Conv2dParams& p) { p.y = nullptr; });
  refuse("conv2d: tile is 9; allowed: -1 to 6", [](Conv2dParams& p) { p.tile = 9; });
  refuse("elements a sample; allowed: fewer than", [](Conv2dParams& p) { p.h = p.w = 1 << 14; });
  refuse("conv2d: tile is 4; allowed: 0 to 3 where", [](Conv2dParams& p) {
    p.tile = 4;
    p.stride = 2;
  });
  emu_capability = 75;
  refuse("conv2d: compute capability of the device is 75; allowed: 80 and up", [](Conv2dParams&) {});
  emu_capability = 90;
}

// As with 2^31 elements and more: several launches.
void test_slices() {
  emu_index_limit = 6000;
  test_case<__half>({5, 5, 6, 16, 24}, 0);
  test_case<float>(with({5, 5, 6, 16, 24}, [](Case& c) { c.heads = 2, c.next = false, c.splits = 2; }), 0);
  emu_index_limit = int64_t{1} << 31;
}

void run_all() {
  test_errors();
  test_slices();
  test_type<__half>(0);
  test_type<__nv_bfloat16>(1);
  test_type<float>(2);
  for (int schedule = 0; schedule < 3; schedule++) {
    for (int tile = 0; tile < kConvTiles; tile++)
      tile % 2 ? test_tile<__half>(tile, schedule) : test_tile<__nv_bfloat16>(tile, schedule);
  }
}

void run_race() {
  test_case<__half>(
      with({1, 8, 8, 40, 104}, [](Case& c) { c.tile = 0, c.kernel = 1, c.pad = 0, c.heads = 2; }), 0);
  for (int tile : {2, 3, 6}) {  // a thread each of the system: few of them
    Case c{2, 8, 8, tile == 6 ? 40 : 8, 24};
    c.tile = tile, c.heads = 2;
    test_case<__half>(c, 0);
  }
  test_case<__nv_bfloat16>(with({5, 3, 3, 72, 16}, [](Case& c) { c.tile = 2, c.splits = 2; }), 0);
  test_case<float>({2, 5, 6, 40, 24}, 0);
}

}  // namespace

int main(int argc, char** argv) { return run_checks(argc, argv, run_all, run_race); }
