// A synthesis layer on the CPU: y = next_style * clamp(lrelu(conv3x3(x) * demod + noise + bias)). Bound by
// arithmetic. x comes multiplied by its style and in the layout that the version asks for, as the layer
// before writes it, and weights are put in order once: neither is part of the time.
//
// From the folder of the project. With AMX:
// g++ -std=gnu++17 -O3 -ffp-contract=fast -fno-math-errno -fno-trapping-math -fopenmp -march=x86-64-v4
//   -mprefer-vector-width=512 -mavx512bf16 -mamx-tile -mamx-bf16 -DPYFACE_ISA_NS=isa_amx -I csrc
//   -I csrc/include bench/kernels/styled_conv.cpp csrc/cpu/styled_conv.cpp csrc/cpu/dispatch/threads.cpp
//   -o styled_conv && ./styled_conv n=1 in=128 out=128 h=64 w=64
// Without: isa_avx512 and no -mavx512bf16 -mamx-tile -mamx-bf16, or as in bias_act.cpp; the versions on tiles
// are left out then, and the shipped kernel computes in float32.
#include "pyface/styled_conv.h"

#include "cpu/styled_conv_plan.h"
#include "ladder.h"
#if defined(__AMX_BF16__)
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace pyface::PYFACE_ISA_NS {
void pack_styled_conv(const PackStyledConvParams& p, int threads);
void block_activations(const BlockActivationsParams& p, int threads);
void styled_conv(const StyledConvParams& p, int threads);
}  // namespace pyface::PYFACE_ISA_NS

namespace {

using pyface::DType;

// in and out are multiples of 32, w of 32: the versions on the way know no others.
struct Layer {
  int64_t n, in, out, h, w;
  const float *x, *weight, *demod, *noise, *bias, *style;  // x [n, in, h, w], weight [out, in, 3, 3]
  float alpha, clamp;
  int64_t area() const { return h * w; }
};

template <class F>
inline F finish(const Layer& s, F sum, int64_t n, int64_t o, int64_t pixel) {
  F v = sum * F(s.demod[n * s.out + o]) + F(s.noise[pixel]) + F(s.bias[o]);
  v = v < 0 ? v * F(s.alpha) : v;
  return std::min(std::max(v, F(-s.clamp)), F(s.clamp)) * F(s.style[n * s.out + o]);
}

// As the definition is read, NCHW: each output sums over its inputs and nine taps, of which those outside of
// the picture are left out; then everything else happens to it.
template <class F>
LADDER_SCALAR void version_1(const Layer& s, F* y) {
  for (int64_t n = 0; n < s.n; ++n) {
    for (int64_t o = 0; o < s.out; ++o) {
      for (int64_t pixel = 0; pixel < s.area(); ++pixel) {
        const int64_t row = pixel / s.w, column = pixel % s.w;
        F sum = 0;
        for (int64_t i = 0; i < s.in; ++i) {
          const float* plane = s.x + (n * s.in + i) * s.area();
          const float* taps = s.weight + (o * s.in + i) * 9;
          for (int64_t tap = 0; tap < 9; ++tap) {
            const int64_t r = row + tap / 3 - 1, c = column + tap % 3 - 1;
            if (r < 0 || r >= s.h || c < 0 || c >= s.w) continue;
            sum += F(plane[r * s.w + c]) * F(taps[tap]);
          }
        }
        y[(n * s.out + o) * s.area() + pixel] = finish(s, sum, n, o, pixel);
      }
    }
  }
}

// ---- NHWC with a border of zeros, weights [tap][in][out]

struct Nhwc {
  ladder::Buffer<float> x, weight, packed, y;
  int64_t row;
  explicit Nhwc(const Layer& s)
      : x(s.n * (s.h + 2) * (s.w + 2) * s.in),
        weight(9 * s.in * s.out),
        packed(9 * s.in * s.out),
        y(s.n * s.area() * s.out),
        row((s.w + 2) * s.in) {
    for (int64_t n = 0; n < s.n; ++n) {
      for (int64_t i = 0; i < s.in; ++i) {
        for (int64_t p = 0; p < s.area(); ++p)
          at(s, n, p)[row + s.in + i] = s.x[(n * s.in + i) * s.area() + p];
      }
    }
    for (int64_t o = 0; o < s.out; ++o) {
      for (int64_t i = 0; i < s.in; ++i) {
        for (int64_t tap = 0; tap < 9; ++tap) {
          const float v = s.weight[(o * s.in + i) * 9 + tap];
          weight[(tap * s.in + i) * s.out + o] = v;
          packed[((o / 32 * 9 + tap) * s.in + i) * 32 + o % 32] = v;
        }
      }
    }
  }
  // The upper left neighbour of a pixel.
  float* at(const Layer& s, int64_t n, int64_t pixel) const {
    return x.get() + (n * (s.h + 2) + pixel / s.w) * row + pixel % s.w * s.in;
  }
  double value(const Layer& s, int64_t i) const {
    const int64_t n = i / (s.out * s.area()), o = i / s.area() % s.out;
    return y[(n * s.area() + i % s.area()) * s.out + o];
  }
};

LADDER_LOOPS void add_scaled(float* sums, const float* weight, float v, int64_t count) {
#pragma GCC ivdep
  for (int64_t o = 0; o < count; ++o) sums[o] += weight[o] * v;
}

// Channels innermost: one input value meets a row of weights, one for each output channel: vectors, and no
// test at the borders, which are zeros. The sums of a pixel are read and written once per product.
void version_2(const Layer& s, const Nhwc& t) {
  for (int64_t n = 0; n < s.n; ++n) {
    for (int64_t pixel = 0; pixel < s.area(); ++pixel) {
      float* sums = t.y.get() + (n * s.area() + pixel) * s.out;
      std::memset(sums, 0, s.out * sizeof(float));
      for (int64_t tap = 0; tap < 9; ++tap) {
        const float* from = t.at(s, n, pixel) + tap / 3 * t.row + tap % 3 * s.in;
        for (int64_t i = 0; i < s.in; ++i) {
          add_scaled(sums, t.weight.get() + (tap * s.in + i) * s.out, from[i], s.out);
        }
      }
      for (int64_t o = 0; o < s.out; ++o) sums[o] = finish(s, sums[o], n, o, pixel);
    }
  }
}

typedef float V16 __attribute__((vector_size(64), may_alias));

// Weights in groups of 32 output channels, in the order in which they are read; the sums of eight pixels by
// 32 channels stay in registers for all taps and inputs, and each weight that is loaded serves eight pixels.
void version_3(const Layer& s, const Nhwc& t) {
  constexpr int kPixels = 8;
  for (int64_t group = 0; group < s.out / 32; ++group) {
    for (int64_t first = 0; first < s.n * s.area(); first += kPixels) {
      const int64_t n = first / s.area(), pixel = first % s.area();
      const float* weight = t.packed.get() + group * 9 * s.in * 32;
      V16 sums[kPixels][2] = {};
      for (int64_t tap = 0; tap < 9; ++tap) {
        const float* from = t.at(s, n, pixel) + tap / 3 * t.row + tap % 3 * s.in;
        for (int64_t i = 0; i < s.in; ++i, weight += 32) {
          const V16 low = *reinterpret_cast<const V16*>(weight);
          const V16 high = *reinterpret_cast<const V16*>(weight + 16);
#pragma GCC unroll 8
          for (int m = 0; m < kPixels; ++m) {
            const float v = from[m * s.in + i];
            sums[m][0] += low * v;
            sums[m][1] += high * v;
          }
        }
      }
      for (int m = 0; m < kPixels; ++m) {
        float* to = t.y.get() + (first + m) * s.out + group * 32;
        for (int o = 0; o < 32; ++o) to[o] = finish(s, sums[m][o / 16][o % 16], n, group * 32 + o, pixel + m);
      }
    }
  }
}

// ---- blocked, as the engine keeps activations (csrc/include/pyface/styled_conv.h)

// On AMX, float32 activations are three bfloat16 ones whose sum they are, in planes one after another.
struct Blocked {
#if defined(__AMX_BF16__)
  static constexpr int64_t kFloatParts = 3;
#else
  static constexpr int64_t kFloatParts = 1;
#endif
  static int64_t parts_of(DType type) { return type == DType::kF32 ? kFloatParts : 1; }
  static int64_t bytes_of(DType type) { return parts_of(type) == 3 ? 6 : int64_t(pyface::dtype_size(type)); }

  DType dtype;
  int64_t block, plane, row;
  ladder::Buffer<char> x, weight, y, workspace;
  ladder::Buffer<float> sums;
  pyface::StyledConvParams p{};

  Blocked(const Layer& s, DType type)
      : dtype(type),
        block(64 * parts_of(type) / bytes_of(type)),
        plane(pyface::blocked_positions(s.n, s.h, s.w) * block),
        row(s.w + 1),
        x(s.in * pyface::blocked_positions(s.n, s.h, s.w) * bytes_of(type)),
        weight(9 * s.in * s.out * bytes_of(type)),
        y(s.out * pyface::blocked_positions(s.n, s.h, s.w) * bytes_of(type)),
        workspace(pyface::StyledConvPlan(params(s, type), 1).bytes()),
        sums(s.n * s.area() * s.out) {
    const ladder::Buffer<float> ones(s.n * s.in);
    for (int64_t i = 0; i < ones.size(); ++i) ones[i] = 1;
    pyface::PYFACE_ISA_NS::block_activations({s.x, ones.get(), x.get(), type, s.n, s.in, s.h, s.w, false}, 1);
    pyface::PYFACE_ISA_NS::pack_styled_conv({s.weight, weight.get(), type, s.out, s.in, 1}, 1);
    p = params(s, type);
    p.x = x.get(), p.weight = weight.get(), p.y = y.get(), p.workspace = workspace.get();
  }
  static pyface::StyledConvParams params(const Layer& s, DType type) {
    pyface::StyledConvParams p{};
    p.demod = s.demod, p.noise = s.noise, p.bias = s.bias, p.next_style = s.style, p.dtype = type;
    p.n = p.x_batch = p.y_batch = s.n, p.in_channels = s.in, p.out_channels = s.out;
    p.in_h = s.h, p.in_w = s.w, p.up = 1, p.alpha = s.alpha, p.clamp = s.clamp;
    p.noise_gain = 1, p.groups_inside = -1, p.number_bytes = bytes_of(type);
    return p;
  }
  // Element of channel 0 of a pixel.
  int64_t at(const Layer& s, int64_t n, int64_t pixel) const {
    return ((n * (s.h + 1) + 1 + pixel / s.w) * row + 1 + pixel % s.w) * block;
  }
  double value(const Layer& s, int64_t i) const {
    const int64_t n = i / (s.out * s.area()), o = i / s.area() % s.out;
    const int64_t from = o / block * parts_of(dtype) * plane + at(s, n, i % s.area()) + o % block;
    if (bytes_of(dtype) == 4) return reinterpret_cast<const float*>(y.get())[from];
    double sum = 0;
    for (int64_t part = 0; part < parts_of(dtype); ++part) {
      sum += ladder::from_bf16(reinterpret_cast<const uint16_t*>(y.get())[from + part * plane]);
    }
    return sum;
  }
};

#if defined(__AMX_BF16__)

// Whether this CPU and this system have tiles; Linux wants to be asked, since their state is large.
bool tiles_usable() {
  constexpr long kRequestPermission = 0x1023, kTileData = 18;
  return __builtin_cpu_supports("amx-bf16") && syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}

// Eight tiles of 16 rows of 64 bytes, as long as one of these lives.
struct Tiles {
  Tiles() {
    struct alignas(64) {
      uint8_t palette = 1, start_row = 0, reserved[14] = {};
      uint16_t row_bytes[16] = {};
      uint8_t rows[16] = {};
    } configuration;
    for (int tile = 0; tile < 8; ++tile) configuration.row_bytes[tile] = 64, configuration.rows[tile] = 16;
    _tile_loadconfig(&configuration);
  }
  ~Tiles() { _tile_release(); }
};

// Sums of 32 pixels of a row by the 32 output channels of a group, `stride` floats from pixel to pixel.
inline void multiply(const Layer& s, const Blocked& t, int64_t group, int64_t at, float* to, int64_t stride) {
  const uint16_t* weight = reinterpret_cast<const uint16_t*>(t.weight.get()) + group * 9 * s.in * 32;
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  for (int64_t block = 0; block < s.in / 32; ++block) {
    const uint16_t* from = reinterpret_cast<const uint16_t*>(t.x.get()) + block * t.plane + at;
    for (int64_t tap = 0; tap < 9; ++tap, weight += 1024) {
      const uint16_t* a = from + ((tap / 3 - 1) * t.row + tap % 3 - 1) * 32;
      _tile_loadd(4, a, 64);
      _tile_loadd(5, a + 512, 64);
      _tile_loadd(6, weight, 64);
      _tile_loadd(7, weight + 512, 64);
      _tile_dpbf16ps(0, 4, 6);
      _tile_dpbf16ps(1, 4, 7);
      _tile_dpbf16ps(2, 5, 6);
      _tile_dpbf16ps(3, 5, 7);
    }
  }
  _tile_stored(0, to, stride * 4);
  _tile_stored(1, to + 16, stride * 4);
  _tile_stored(2, to + 16 * stride, stride * 4);
  _tile_stored(3, to + 16 * stride + 16, stride * 4);
}

// One pixel and 32 channels of the output from their sums.
inline void finish_pixel(const Layer& s, const Blocked& t, int64_t group, int64_t n, int64_t pixel,
                         const float* sums) {
  __m512 half[2];
  for (int i = 0; i < 2; ++i) {
    const int64_t o = group * 32 + i * 16, side = n * s.out + o;
    const __m512 shift = _mm512_add_ps(_mm512_loadu_ps(s.bias + o), _mm512_set1_ps(s.noise[pixel]));
    __m512 v = _mm512_fmadd_ps(_mm512_loadu_ps(sums + i * 16), _mm512_loadu_ps(s.demod + side), shift);
    v = _mm512_max_ps(v, _mm512_mul_ps(v, _mm512_set1_ps(s.alpha)));
    v = _mm512_max_ps(_mm512_min_ps(v, _mm512_set1_ps(s.clamp)), _mm512_set1_ps(-s.clamp));
    half[i] = _mm512_mul_ps(v, _mm512_loadu_ps(s.style + side));
  }
  uint16_t* to = reinterpret_cast<uint16_t*>(t.y.get()) + group * t.plane + t.at(s, n, pixel);
  *reinterpret_cast<__m512bh*>(to) = _mm512_cvtne2ps_pbh(half[1], half[0]);
}

// bfloat16 on AMX: tiles of 16 pixels by 32 inputs times 32 inputs by 16 outputs, two by two, so that a tile
// that is loaded serves twice. All sums go to memory, and a second pass does the rest.
void version_5(const Layer& s, const Blocked& t) {
  const Tiles tiles;
  std::memset(t.y.get(), 0, t.y.size());
  for (int64_t group = 0; group < s.out / 32; ++group) {
    for (int64_t at = 0; at < s.n * s.area(); at += 32) {
      multiply(s, t, group, t.at(s, at / s.area(), at % s.area()), t.sums.get() + at * s.out + group * 32,
               s.out);
    }
  }
  for (int64_t at = 0; at < s.n * s.area(); ++at) {
    for (int64_t group = 0; group < s.out / 32; ++group) {
      finish_pixel(s, t, group, at / s.area(), at % s.area(), t.sums.get() + at * s.out + group * 32);
    }
  }
}

// The rest happens to 32 pixels by 32 channels as soon as their sums are there, in 4 KB of the L1 cache.
// The sums never reach memory; but the tile unit rests while the vector unit works.
void version_6(const Layer& s, const Blocked& t) {
  const Tiles tiles;
  alignas(64) float sums[32 * 32];
  std::memset(t.y.get(), 0, t.y.size());
  for (int64_t group = 0; group < s.out / 32; ++group) {
    for (int64_t at = 0; at < s.n * s.area(); at += 32) {
      const int64_t n = at / s.area(), pixel = at % s.area();
      multiply(s, t, group, t.at(s, n, pixel), sums, 32);
      for (int m = 0; m < 32; ++m) finish_pixel(s, t, group, n, pixel + m, sums + m * 32);
    }
  }
}

#endif

// Versions 4 (float32) and 7 (bfloat16), the kernel that ships: csrc/cpu/styled_conv.cpp. What happens to one
// pair of tiles is done between the tile instructions of the next one, in pieces of the picture that stay in
// the L2 cache; activations are prefetched.
void shipped(const Layer&, const Blocked& t) { pyface::PYFACE_ISA_NS::styled_conv(t.p, 1); }

std::vector<ladder::Version> versions_of(const Layer& s, const ladder::Buffer<double>& truth,
                                         const ladder::Buffer<float>& nchw, const Nhwc& nhwc,
                                         const Blocked& f32, [[maybe_unused]] const Blocked* bf16) {
  const int64_t outputs = truth.size();
  const auto rung = [&s, &truth, outputs](const char* what, auto run, auto value, bool half,
                                          bool ships = false) {
    const double values = double(s.n) * s.area() * (s.in + s.out) + 9.0 * s.in * s.out;
    return ladder::Version{
        what,
        run,
        [&truth, outputs, value] { return ladder::max_error(truth.get(), outputs, value); },
        half ? 2e-2 : 1e-5,
        ships,
        half ? "bfloat16" : "float32",
        values * (half ? 2 : 4)};
  };
  const auto in_rows = [&](int64_t i) { return nhwc.value(s, i); };
  std::vector<ladder::Version> found = {
      rung(
          "naive loops, NCHW", [&] { version_1(s, nchw.get()); }, [&](int64_t i) { return nchw[i]; }, false),
      rung(
          "channels innermost, borders of zeros", [&] { version_2(s, nhwc); }, in_rows, false),
      rung("packed weights, sums in registers", [&] { version_3(s, nhwc); }, in_rows, false)};
  found.push_back(rung(
      "csrc/cpu/styled_conv.cpp in float32", [&] { shipped(s, f32); },
      [&](int64_t i) { return f32.value(s, i); }, false, true));
#if defined(__AMX_BF16__)
  const auto in_blocks = [&s, bf16](int64_t i) { return bf16->value(s, i); };
  found.push_back(
      rung("AMX tiles, then an epilogue pass", [&s, bf16] { version_5(s, *bf16); }, in_blocks, true));
  found.push_back(
      rung("AMX tiles, epilogue of each pair", [&s, bf16] { version_6(s, *bf16); }, in_blocks, true));
  found.push_back(
      rung("csrc/cpu/styled_conv.cpp in bfloat16", [&s, bf16] { shipped(s, *bf16); }, in_blocks, true, true));
#endif
  return found;
}

}  // namespace

int main(int count, char** arguments) {
  const ladder::Sizes sizes(count, arguments, {{"n", 1}, {"in", 128}, {"out", 128}, {"h", 64}, {"w", 64}});
  const int64_t n = sizes["n"], in = sizes["in"], out = sizes["out"], h = sizes["h"], w = sizes["w"];
  if (in % 32 || out % 32 || w % 32) {
    std::fprintf(stderr, "in, out and w must be multiples of 32\n");
    return 2;
  }
#if defined(__AMX_BF16__)
  if (!tiles_usable()) {
    std::fprintf(stderr, "this CPU or system has no AMX with bfloat16\n");
    return 3;
  }
#endif
  const ladder::Buffer<float> x(n * in * h * w), weight(out * in * 9), demod(n * out), noise(h * w),
      bias(out);
  const ladder::Buffer<float> style(n * out), nchw(n * out * h * w);
  const ladder::Buffer<double> truth(nchw.size());
  ladder::Random random(1);
  random.fill(x, -1, 1);
  random.fill(weight, -1, 1);
  random.fill(demod, 0.5f / std::sqrt(in), 1.5f / std::sqrt(in));
  random.fill(noise, -0.5f, 0.5f);
  random.fill(bias, -0.5f, 0.5f);
  random.fill(style, 0.5f, 1.5f);
  const Layer s{n,           in,          out,        h,           w,    x.get(), weight.get(),
                demod.get(), noise.get(), bias.get(), style.get(), 0.2f, 4.f};
  version_1(s, truth.get());
  const Nhwc nhwc(s);
  const Blocked f32(s, DType::kF32);
#if defined(__AMX_BF16__)
  const Blocked bf16(s, DType::kBF16), *half = &bf16;
#else
  const Blocked* half = nullptr;
#endif
  ladder::Work work{"styled_conv", std::to_string(n) + "x" + std::to_string(in) + "x" + std::to_string(h) +
                                       "x" + std::to_string(w) + " to " + std::to_string(out) + " channels"};
  work.flops = 18.0 * n * in * out * h * w;
  work.poison = [&] {
    ladder::spoil(nchw);
    ladder::spoil(nhwc.y);
    ladder::spoil(f32.y);
    if (half != nullptr) ladder::spoil(half->y);
  };
  return ladder::climb(work, versions_of(s, truth, nchw, nhwc, f32, half), sizes["rounds"]);
}
