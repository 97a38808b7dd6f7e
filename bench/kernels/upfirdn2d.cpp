// upfirdn2d on the CPU: twice the size by the filter [1, 3, 3, 1], float32, NCHW. Bound by memory.
//
// From the folder of the project (for AVX2 isa_avx2 and -march=x86-64-v3, for older ones isa_baseline alone):
// g++ -std=gnu++17 -O3 -ffp-contract=fast -fno-math-errno -fno-trapping-math -fopenmp -march=x86-64-v4
//   -mprefer-vector-width=512 -DPYFACE_ISA_NS=isa_avx512 -I csrc -I csrc/include bench/kernels/upfirdn2d.cpp
//   csrc/cpu/upfirdn2d.cpp csrc/cpu/dispatch/threads.cpp -o upfirdn2d && ./upfirdn2d planes=128 h=128 w=128
#include "pyface/upfirdn2d.h"

#include "ladder.h"

namespace pyface::PYFACE_ISA_NS {
void upfirdn2d(const Upfirdn2dParams& p, int threads);
}

namespace {

constexpr float kFilter[4] = {0.125f, 0.375f, 0.375f, 0.125f};  // along each axis; sums to 1
constexpr int kPad = 2;                                         // zeros before the first zero-inserted row
constexpr float kGain = 4;                                      // the picture has four times the pixels

struct Settings {
  int64_t planes, h, w;
  float* scratch;  // (2 h + 3) * (2 w + 3) and more
};

// As the definition is read: the padded picture with zeros between its pixels is made, then each output is
// the sum of 16 products, of which 12 are by one of those zeros.
template <class F>
LADDER_SCALAR void version_1(const Settings& s, const float* x, F* y) {
  const int64_t width = 2 * s.w + 3, height = 2 * s.h + 3;
  for (int64_t plane = 0; plane < s.planes; ++plane, x += s.h * s.w, y += 4 * s.h * s.w) {
    std::memset(s.scratch, 0, width * height * sizeof(float));
    for (int64_t i = 0; i < s.h; ++i) {
      for (int64_t j = 0; j < s.w; ++j) s.scratch[(2 * i + kPad) * width + 2 * j + kPad] = x[i * s.w + j];
    }
    for (int64_t i = 0; i < 2 * s.h; ++i) {
      for (int64_t j = 0; j < 2 * s.w; ++j) {
        F sum = 0;
        for (int ky = 0; ky < 4; ++ky) {
          for (int kx = 0; kx < 4; ++kx) {
            sum += F(kFilter[ky]) * F(kFilter[kx]) * F(s.scratch[(i + ky) * width + j + kx]);
          }
        }
        y[i * 2 * s.w + j] = sum * F(kGain);
      }
    }
  }
}

// No zeros are made: an output meets the four pixels that its phase reaches, found and bounded one by one.
// A quarter of the products, and the picture is read where it lies; but the tests cost more than that saves.
LADDER_SCALAR void version_2(const Settings& s, const float* x, float* y) {
  for (int64_t plane = 0; plane < s.planes; ++plane, x += s.h * s.w, y += 4 * s.h * s.w) {
    for (int64_t i = 0; i < 2 * s.h; ++i) {
      for (int64_t j = 0; j < 2 * s.w; ++j) {
        float sum = 0;
        for (int64_t ky = i % 2; ky < 4; ky += 2) {
          const int64_t row = (i + ky - kPad) / 2;
          if (i + ky < kPad || row >= s.h) continue;
          for (int64_t kx = j % 2; kx < 4; kx += 2) {
            const int64_t column = (j + kx - kPad) / 2;
            if (j + kx < kPad || column >= s.w) continue;
            sum += kFilter[ky] * kFilter[kx] * x[row * s.w + column];
          }
        }
        y[i * 2 * s.w + j] = sum * kGain;
      }
    }
  }
}

// The filter is a product of two: rows of the whole plane first, then columns, two products each time.
// The plane between goes through memory, and the ends of rows are still tested at every pixel.
LADDER_SCALAR void version_3(const Settings& s, const float* x, float* y) {
  const float near = 2 * kFilter[1], far = 2 * kFilter[0];
  for (int64_t plane = 0; plane < s.planes; ++plane, x += s.h * s.w, y += 4 * s.h * s.w) {
    for (int64_t i = 0; i < 2 * s.h; ++i) {
      const int64_t row = i / 2, other = i % 2 ? row + 1 : row - 1;
      for (int64_t j = 0; j < s.w; ++j) {
        const float v = other >= 0 && other < s.h ? x[other * s.w + j] : 0.f;
        s.scratch[i * s.w + j] = near * x[row * s.w + j] + far * v;
      }
    }
    for (int64_t i = 0; i < 2 * s.h; ++i) {
      for (int64_t j = 0; j < 2 * s.w; ++j) {
        const int64_t column = j / 2, other = j % 2 ? column + 1 : column - 1;
        const float v = other >= 0 && other < s.w ? s.scratch[i * s.w + other] : 0.f;
        y[i * 2 * s.w + j] = near * s.scratch[i * s.w + column] + far * v;
      }
    }
  }
}

LADDER_LOOPS void blend_rows(const float* row, const float* other, float* to, int64_t count, float near,
                             float far) {
#pragma GCC ivdep
  for (int64_t j = 0; j < count; ++j) to[j] = near * row[j] + far * other[j];
}
LADDER_LOOPS void both_phases(const float* from, float* to, int64_t count, float near, float far) {
#pragma GCC ivdep
  for (int64_t j = 0; j < count; ++j) {
    to[2 * j] = near * from[j] + far * from[j - 1];
    to[2 * j + 1] = near * from[j] + far * from[j + 1];
  }
}

// One output row at a time through a row buffer with a zero at both ends, which never leaves the L1 cache.
// Nothing is tested in the loops, which become vectors; both phases of a row are made together and
// interleave.
void version_4(const Settings& s, const float* x, float* y) {
  const float near = 2 * kFilter[1], far = 2 * kFilter[0];
  float *zeros = s.scratch, *row = s.scratch + s.w + 16;
  std::memset(s.scratch, 0, (2 * s.w + 32) * sizeof(float));
  for (int64_t plane = 0; plane < s.planes; ++plane, x += s.h * s.w) {
    for (int64_t i = 0; i < 2 * s.h; ++i, y += 2 * s.w) {
      const int64_t other = i % 2 ? i / 2 + 1 : i / 2 - 1;
      blend_rows(x + i / 2 * s.w, other >= 0 && other < s.h ? x + other * s.w : zeros, row + 1, s.w, near,
                 far);
      both_phases(row + 1, y, s.w, near, far);
    }
  }
}

// The kernel that ships, for any filter, factors and padding: csrc/cpu/upfirdn2d.cpp.
// Short rows go in batches: a row that is read back at once would wait for its stores.
void version_5(const Settings& s, const float* x, float* y) {
  pyface::Upfirdn2dParams p{};
  p.x = x, p.filter = kFilter, p.y = y, p.dtype = pyface::DType::kF32;
  p.n = 1, p.c = s.planes, p.in_h = s.h, p.in_w = s.w, p.out_h = 2 * s.h, p.out_w = 2 * s.w;
  p.separable = true, p.filter_h = p.filter_w = 4, p.gain = kGain;
  p.up_x = p.up_y = 2, p.down_x = p.down_y = 1, p.pad_x0 = p.pad_y0 = kPad;
  pyface::PYFACE_ISA_NS::upfirdn2d(p, 1);
}

}  // namespace

int main(int count, char** arguments) {
  const ladder::Sizes sizes(count, arguments, {{"planes", 128}, {"h", 128}, {"w", 128}});
  const int64_t h = sizes["h"], w = sizes["w"], inputs = sizes["planes"] * h * w, outputs = 4 * inputs;
  const ladder::Buffer<float> x(inputs), y(outputs), scratch((2 * h + 3) * (2 * w + 3) + 64);
  const ladder::Buffer<double> truth(outputs);
  const Settings s{sizes["planes"], h, w, scratch.get()};
  ladder::Random(1).fill(x, -1, 1);
  version_1(s, x.get(), truth.get());
  using Function = void (*)(const Settings&, const float*, float*);
  const auto rung = [&](const char* what, Function function) {
    return ladder::Version{
        what, [&, function] { function(s, x.get(), y.get()); },
        [&] { return ladder::max_error(truth.get(), outputs, [&](int64_t i) { return y[i]; }); }, 1e-6,
        function == version_5};
  };
  ladder::Work work{"upfirdn2d", std::to_string(s.planes) + "x" + std::to_string(h) + "x" +
                                     std::to_string(w) + " to twice the size"};
  work.bytes = 4.0 * (inputs + outputs);
  work.flops = 3.0 * (outputs / 2) + 3.0 * outputs;
  work.poison = [&] { ladder::spoil(y); };
  return ladder::climb(
      work,
      {rung("zeros inserted, 16 products an output", version_1<float>),
       rung("the four products of each phase", version_2), rung("separable, plane after plane", version_3),
       rung("row after row in the L1 cache, vectors", version_4), rung("csrc/cpu/upfirdn2d.cpp", version_5)},
      sizes["rounds"]);
}
