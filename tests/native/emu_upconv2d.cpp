// upconv2d in the emulator against plain loops in double: every tile, ragged sizes, types, numbers of steps,
// filters and epilogues. Usage: emu_upconv2d all | race.
#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "emu_checks.h"
#include "pyface/upconv2d.h"

namespace {

using namespace pyface;
using namespace pyface::checks;

size_t size(int64_t v) { return static_cast<size_t>(v); }

struct Case {
  int64_t n, h, w, in, out;
  int tile = -1, steps = 0;
  bool styled = true, finished = true, noise_per_sample = true, matrix = false;
  Act act = Act::kLrelu;
  int64_t shift = 0;  // elements that x and weight begin behind a 16-byte boundary

  std::string text() const {
    std::string t = "upconv2d";
    for (int64_t v : {n, h, w, in, out}) t += " " + std::to_string(v);
    return t + " tile " + std::to_string(tile) + " steps " + std::to_string(steps) + " act " +
           std::to_string(int(act)) + (matrix ? " matrix" : "");
  }
};

constexpr double kGain = 1.4, kClamp = 6.0;

// Inputs of a case and the outputs that plain loops give.
template <class T>
struct Problem {
  const Case& c;
  Buffer<T> x, weight, y;
  Buffer<float> style, demod, noise, bias, next, filter;
  double down[4], across[4];

  explicit Problem(const Case& k)
      : c(k),
        x(size(k.n * k.h * k.w * k.in + k.shift)),
        weight(size(k.out * 9 * k.in + k.shift)),
        y(size(k.n * 4 * k.h * k.w * k.out)),
        style(size(k.n * k.in)),
        demod(size(k.n * k.out)),
        noise(size((k.noise_per_sample ? k.n : 1) * 4 * k.h * k.w)),
        bias(size(k.out)),
        next(size(k.n * k.out)),
        filter(k.matrix ? 16 : 4) {
    fill(x), fill(weight), fill(style), fill(demod), fill(noise), fill(bias), fill(next);
    for (size_t i = 0; i < 4; i++) {
      across[i] = 0.1 + 0.2 * static_cast<double>(i);  // not symmetric: a filter the wrong way round shows
      down[i] = k.matrix ? 0.4 - 0.05 * static_cast<double>(i * i) : across[i];
    }
    for (size_t i = 0; i < filter.size; i++)
      filter.data[i] = static_cast<float>(k.matrix ? down[i / 4] * across[i % 4] : across[i]);
  }

  // Of the transposed convolution; 0 outside.
  double doubled(int64_t n, int64_t uy, int64_t ux, int64_t o) const {
    double sum = 0;
    for (int64_t ky = 0; ky < 3; ky++)
      for (int64_t kx = 0; kx < 3; kx++) {
        if ((uy - ky) % 2 || (ux - kx) % 2) continue;
        const int64_t iy = (uy - ky) / 2, ix = (ux - kx) / 2;
        if (uy < ky || ux < kx || iy >= c.h || ix >= c.w) continue;
        for (int64_t i = 0; i < c.in; i++)
          sum += x[size(c.shift + ((n * c.h + iy) * c.w + ix) * c.in + i)] *
                 (c.styled ? style[size(n * c.in + i)] : 1.0) *
                 weight[size(c.shift + (o * 9 + ky * 3 + kx) * c.in + i)];
      }
    return sum;
  }
  std::vector<double> truth() const {
    std::vector<double> result(y.size);
    const int64_t out_w = 2 * c.w, pixels = 4 * c.h * c.w, columns = 2 * c.w + 1;
    std::vector<double> u(size((2 * c.h + 1) * columns));
    for (int64_t n = 0; n < c.n; n++)
      for (int64_t o = 0; o < c.out; o++) {
        for (size_t at = 0; at < u.size(); at++)
          u[at] = doubled(n, int64_t(at) / columns, int64_t(at) % columns, o);
        for (int64_t p = 0; p < pixels; p++) {
          double v = 0;
          for (int64_t s = 0; s < 4; s++)
            for (int64_t t = 0; t < 4; t++) {
              const int64_t uy = p / out_w - 1 + s, ux = p % out_w - 1 + t;
              if (uy < 0 || ux < 0 || uy > 2 * c.h || ux > 2 * c.w) continue;
              v += 4 * down[3 - s] * across[3 - t] * u[size(uy * columns + ux)];
            }
          if (c.finished) {
            v = v * demod[size(n * c.out + o)] + bias[size(o)] +
                noise[size((c.noise_per_sample ? n : 0) * pixels + p)];
            v = std::fmin(std::fmax(act_of(c.act, v, 0.2) * kGain, -kClamp), kClamp);
            v *= next[size(n * c.out + o)];
          }
          result[size((n * pixels + p) * c.out + o)] = v;
        }
      }
    return result;
  }
  Upconv2dParams params() {
    const bool f = c.finished;
    return {x.data + c.shift,
            weight.data + c.shift,
            c.styled ? style.data : nullptr,
            filter.data,
            f ? demod.data : nullptr,
            f ? noise.data : nullptr,
            f ? bias.data : nullptr,
            f ? next.data : nullptr,
            y.data,
            dtype_of<T>(),
            c.n,
            c.h,
            c.w,
            c.in,
            c.out,
            c.matrix,
            c.noise_per_sample,
            f ? c.act : Act::kLinear,
            0.2,
            f ? kGain : 1.0,
            f ? kClamp : -1.0,
            c.tile,
            c.steps};
  }
};

template <class T>
void test_case(const Case& c, int schedule) {
  Problem<T> problem(c);
  const Upconv2dParams p = problem.params();
  validate(p);
  const Upconv2dPlan plan = plan_upconv2d_emu(p, schedule);
  const bool aligned = c.in % 8 == 0 && c.out % 8 == 0 && c.shift == 0;
  expect(plan.tensor_cores == (aligned && !std::is_same_v<T, float>), c.text() + ": tensor cores");
  expect(c.steps == 0 || plan.steps == c.steps, c.text() + ": steps");
  launch_upconv2d_emu(p, schedule);
  // x * style and u are rounded too, and the clamp, or tanh, hides how large the sums are.
  expect_close(problem.y, problem.truth(),
               c.text() + " dtype " + std::to_string(int(p.dtype)) + " schedule " + std::to_string(schedule),
               c.act == Act::kTanh ? 8 : 2);
}

Case with(Case c, void (*change)(Case&)) {
  change(c);
  return c;
}

std::vector<Case> cases() {
  std::vector<Case> all;
  for (int tile = -1; tile < kUpconvTiles; tile++) {
    Case c{2, 1, 1, 8, 8};
    c.tile = tile;
    all.push_back(c);
    c = {1, 3, 5, 24, 40, tile};
    all.push_back(c);
    c = {1, 11, 18, 40, 72, tile, tile == 2 ? 1 : 2};  // columns, channels and turns that are not full
    c.matrix = true, c.noise_per_sample = false;
    all.push_back(c);
    c = {1, 19, 9, 16, 16, tile, 1};  // segments of one step
    c.styled = tile % 2 == 0;
    all.push_back(c);
    c = {1, 30, 4, 16, 8, tile, tile == 2 ? 2 : 3};  // carried over several steps
    c.finished = tile % 2 == 0;
    all.push_back(c);
  }
  all.push_back({1, 4, 6, 7, 5});  // rows that are not aligned
  all.push_back({1, 9, 10, 8, 3});
  all.push_back(with({1, 4, 6, 8, 8}, [](Case& c) { c.shift = 1; }));  // nor is the tensor
  all.push_back({1, 3, 3, 0, 8});                                      // the epilogue of nothing
  all.push_back(with({1, 5, 6, 16, 24}, [](Case& c) { c.act = Act::kLinear; }));
  all.push_back(with({1, 5, 6, 16, 24}, [](Case& c) { c.act = Act::kRelu; }));
  all.push_back(with({1, 5, 6, 16, 24}, [](Case& c) { c.act = Act::kTanh; }));
  all.push_back(with({1, 17, 6, 16, 24}, [](Case& c) { c.act = Act::kSwish; }));
  all.push_back(with({1, 5, 6, 5, 3}, [](Case& c) { c.act = Act::kTanh; }));
  return all;
}

void test_errors() {
  const Case c{1, 4, 4, 16, 16};
  Problem<__half> problem(c);
  const auto refuse = [&](const std::string& text, auto change) {
    Upconv2dParams p = problem.params();
    change(p);
    expect_error(text, [&] {
      validate(p);
      launch_upconv2d_emu(p, 0);
    });
  };
  refuse("upconv2d: x is a null pointer", [](Upconv2dParams& p) { p.x = nullptr; });
  refuse("upconv2d: filter is a null pointer", [](Upconv2dParams& p) { p.filter = nullptr; });
  refuse("upconv2d: dtype is 1; allowed: 0 float32, 2 bfloat16, 3 float16",
         [](Upconv2dParams& p) { p.dtype = DType::kF64; });
  refuse("upconv2d: tile is 3; allowed: -1 to 2", [](Upconv2dParams& p) { p.tile = 3; });
  refuse("upconv2d: in_channels is 4104; allowed: 0 to 4096",
         [](Upconv2dParams& p) { p.in_channels = 4104; });
  refuse("upconv2d: h is -1; allowed: 0 to 1048576", [](Upconv2dParams& p) { p.h = -1; });
  refuse("upconv2d: act is 12; allowed: 0 linear", [](Upconv2dParams& p) { p.act = Act(12); });
  refuse("upconv2d: x or y is 4294967296 elements a sample; allowed: fewer than 2147483648",
         [](Upconv2dParams& p) { p.h = p.w = 1 << 13; });
  refuse("upconv2d: weight is 2415919104 elements; allowed: fewer than 2147483648",
         [](Upconv2dParams& p) { p.in_channels = 4096, p.out_channels = 1 << 16; });
  emu_capability = 75;
  refuse("upconv2d: compute capability of the device is 75; allowed: 80 and up", [](Upconv2dParams&) {});
  emu_capability = 90;
}

// What the rule chooses for pictures of the generator, on a device with one multiprocessor.
void test_plans() {
  const auto plan = [](int64_t n, int64_t side, int64_t in, int64_t out) {
    Upconv2dParams p{};
    p.dtype = DType::kF16, p.n = n, p.h = p.w = side, p.in_channels = in, p.out_channels = out;
    p.clamp = -1, p.tile = -1;
    return plan_upconv2d_emu(p, 0);
  };
  expect(plan(8, 4, 512, 512).tile == 2, "4 pixels wide: the narrow tile");
  expect(plan(8, 64, 512, 256).tile == 0, "64 pixels wide: the large tile");
  expect(plan(8, 512, 64, 32).tile == 1, "few channels: the tile of 32");
  for (int64_t side : {1, 4, 7, 16, 64, 513}) {
    const Upconv2dPlan q = plan(3, side, 64, 48);
    const int64_t rows = int64_t{q.steps} * q.rows - 2;
    expect(q.segments * rows + 1 >= side && (q.segments - 1) * rows + 1 < std::max<int64_t>(side, 2),
           "segments cover " + std::to_string(side) + " rows, and no less do");
    expect(q.shared_bytes <= 99 * 1024, "shared memory");
    expect(q.blocks == 3 * q.segments * q.column_tiles * q.channel_tiles, "blocks");
  }
}

void run_all() {
  test_errors();
  test_plans();
  for (const Case& c : cases()) {
    test_case<__half>(c, 0);
    test_case<__nv_bfloat16>(c, 0);
    if (c.tile <= 0) test_case<float>(c, 0);
    for (int schedule = 1; schedule < 3 && c.tile >= 0; schedule++) {  // what threads exchange is the same
      test_case<__half>(c, schedule);
      if (c.tile == 1) test_case<__nv_bfloat16>(c, schedule);
      if (c.tile == 0) test_case<float>(c, schedule);
    }
  }
}

void run_race() {
  for (int tile = 0; tile < kUpconvTiles; tile++) test_case<__half>({1, 17, 3, 32, 8, tile, 2}, 0);
  test_case<__nv_bfloat16>({1, 11, 17, 24, 40, 1, 2}, 0);
  test_case<float>({1, 11, 5, 20, 8, -1, 2}, 0);
}

}  // namespace

int main(int argc, char** argv) { return run_checks(argc, argv, run_all, run_race); }
