// Every op in the emulator, on heap buffers of the exact size, against plain loops in double. Three
// schedules; drawn faces against each other and the ranges of their outputs. Usage: emu_suite all | race.
// `race` runs the kernels in which threads exchange data, in small sizes.
#include <cmath>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "emu_checks.h"
#include "pyface/bias_act.h"
#include "pyface/conformance.h"
#include "pyface/face_params.h"
#include "pyface/face_render.h"
#include "pyface/modulated_conv2d.h"
#include "pyface/upfirdn2d.h"

namespace {

using namespace pyface;
using namespace pyface::checks;

// ---- bias_act

template <class T>
void test_bias_act(int64_t outer, int64_t channels, int64_t inner, Act act, int schedule) {
  const size_t n = static_cast<size_t>(outer * channels * inner);
  Buffer<T> x(n), y(n), dx(n), bias(static_cast<size_t>(channels));
  fill(x), fill(bias);
  const double alpha = 0.2, gain = 1.5, clamp = 0.9;
  launch_bias_act_emu(
      {x.data, bias.data, y.data, dtype_of<T>(), outer, channels, inner, act, alpha, gain, clamp}, schedule);
  launch_bias_act_grad_emu({x.data, act == Act::kSwish ? x.data : y.data, bias.data, dx.data, dtype_of<T>(),
                            outer, channels, inner, act, alpha, gain, clamp},
                           schedule);
  std::vector<double> truth(n);
  for (size_t i = 0; i < n; i++) {
    const double v =
        act_of(act, x[i] + bias[i / static_cast<size_t>(inner) % static_cast<size_t>(channels)], alpha);
    truth[i] = std::fmin(std::fmax(v * gain, -clamp), clamp);
  }
  expect_close(y, truth, "bias_act act " + std::to_string(static_cast<int>(act)));
  bool finite = true;
  for (size_t i = 0; i < n; i++) finite = finite && std::isfinite(dx[i]);
  expect(finite, "bias_act_grad left elements unwritten");
}

// ---- upfirdn2d

struct UpfirdnCase {
  int64_t n, c, h, w;
  int up, down, pad0, pad1, taps_h, taps_w;
  bool channels_last;
};

template <class T>
void test_upfirdn2d(const UpfirdnCase& k, int schedule) {
  using A = dev::Accumulator<T>;
  const int64_t out_h = (k.h * k.up + k.pad0 + k.pad1 - k.taps_h) / k.down + 1;
  const int64_t out_w = (k.w * k.up + k.pad0 + k.pad1 - k.taps_w) / k.down + 1;
  Buffer<T> x(static_cast<size_t>(k.n * k.c * k.h * k.w)), y(static_cast<size_t>(k.n * k.c * out_h * out_w));
  Buffer<A> filter(static_cast<size_t>(k.taps_h * k.taps_w));
  fill(x), fill(filter);
  launch_upfirdn2d_emu({x.data, filter.data, y.data,          dtype_of<T>(), k.n,    k.c,      k.h,      k.w,
                        out_h,  out_w,       k.channels_last, false,         false,  k.taps_h, k.taps_w, k.up,
                        k.up,   k.down,      k.down,          k.pad0,        k.pad0, 1.25},
                       schedule);
  const auto at = [&](int64_t n, int64_t c, int64_t r, int64_t q, int64_t h, int64_t w) {
    return static_cast<size_t>(k.channels_last ? ((n * h + r) * w + q) * k.c + c
                                               : ((n * k.c + c) * h + r) * w + q);
  };
  std::vector<double> truth(y.size);
  for (int64_t n = 0; n < k.n; n++)
    for (int64_t c = 0; c < k.c; c++)
      for (int64_t oy = 0; oy < out_h; oy++)
        for (int64_t ox = 0; ox < out_w; ox++) {
          double sum = 0;
          for (int ky = 0; ky < k.taps_h; ky++)
            for (int kx = 0; kx < k.taps_w; kx++) {
              const int64_t uy = oy * k.down + ky - k.pad0, ux = ox * k.down + kx - k.pad0;
              if (uy < 0 || ux < 0 || uy % k.up || ux % k.up || uy / k.up >= k.h || ux / k.up >= k.w)
                continue;
              sum += filter[static_cast<size_t>((k.taps_h - 1 - ky) * k.taps_w + k.taps_w - 1 - kx)] *
                     x[at(n, c, uy / k.up, ux / k.up, k.h, k.w)];
            }
          truth[at(n, c, oy, ox, out_h, out_w)] = sum * 1.25;
        }
  expect_close(y, truth,
               "upfirdn2d up " + std::to_string(k.up) + " down " + std::to_string(k.down) + " taps " +
                   std::to_string(k.taps_h) + "x" + std::to_string(k.taps_w) +
                   (k.channels_last ? " NHWC" : " NCHW"));
}

const UpfirdnCase kUpfirdnCases[] = {
    {1, 7, 37, 70, 1, 1, 2, 1, 4, 4, false}, {1, 2, 19, 35, 2, 1, 2, 1, 4, 4, false},
    {1, 2, 19, 35, 2, 1, 3, 2, 4, 4, false}, {1, 1, 40, 130, 1, 2, 1, 1, 4, 4, false},
    {1, 1, 33, 40, 1, 2, 3, 2, 8, 7, false}, {1, 1, 20, 33, 2, 1, 4, 3, 6, 8, false},
    {2, 3, 9, 7, 3, 2, -1, 4, 5, 6, false},  {1, 8, 9, 11, 1, 1, 2, 1, 4, 4, true},
    {2, 4, 5, 6, 2, 1, 2, 1, 4, 4, true},    {1, 4, 12, 9, 1, 2, 1, 1, 4, 4, true},
    {1, 4, 12, 9, 1, 1, 3, 3, 7, 8, true},   {1, 3, 6, 5, 2, 1, 1, 2, 4, 4, true}};

// ---- modulated convolution passes

template <class T>
void test_modulated(int64_t n, int64_t c, int64_t hw, bool channels_last, int schedule) {
  using A = dev::Accumulator<T>;
  const auto size = [](int64_t v) { return static_cast<size_t>(v); };
  Buffer<T> x(size(n * c * hw)), y(size(n * c * hw)), z(size(n * c * hw));
  Buffer<A> demod(size(n * c)), next(size(n * c)), bias(size(c)), noise(size(n * hw));
  fill(x), fill(demod), fill(next), fill(bias), fill(noise);
  launch_modulate_emu({x.data, demod.data, z.data, dtype_of<T>(), n, c, hw, channels_last}, schedule);
  launch_conv_epilogue_emu({x.data, demod.data, noise.data, bias.data, next.data, y.data, dtype_of<T>(), n, c,
                            hw, channels_last, true, Act::kLrelu, 0.2, 1.4, 1.1},
                           schedule);
  std::vector<double> modulated(x.size), fused(x.size);
  for (int64_t i = 0; i < n; i++)
    for (int64_t k = 0; k < c; k++)
      for (int64_t p = 0; p < hw; p++) {
        const size_t at = size(channels_last ? (i * hw + p) * c + k : (i * c + k) * hw + p),
                     nc = size(i * c + k);
        modulated[at] = x[at] * demod[nc];
        const double v =
            act_of(Act::kLrelu, modulated[at] + noise[size(i * hw + p)] + bias[size(k)], 0.2) * 1.4;
        fused[at] = std::fmin(std::fmax(v, -1.1), 1.1) * next[nc];
      }
  expect_close(z, modulated, "modulate");
  expect_close(y, fused, "conv_epilogue");
}

template <class T>
void test_pack_weight(int64_t out, int64_t in, int64_t taps, int schedule) {
  using A = dev::Accumulator<T>;
  const auto size = [](int64_t v) { return static_cast<size_t>(v); };
  for (int form = 0; form < 4; form++) {
    const bool transposed = form & 1, flip = form & 2;
    Buffer<A> weight(size(out * in * taps)), back(weight.size);
    Buffer<T> packed(weight.size);
    fill(weight);
    launch_pack_weight_emu({weight.data, packed.data, dtype_of<T>(), out, in, taps, transposed, flip, 0.7},
                           schedule);
    launch_unpack_weight_emu({packed.data, back.data, dtype_of<T>(), out, in, taps, transposed, flip, 2.0},
                             schedule);
    std::vector<double> there(weight.size), again(weight.size);
    for (int64_t o = 0; o < out; o++)
      for (int64_t i = 0; i < in; i++)
        for (int64_t t = 0; t < taps; t++) {
          const int64_t place = flip ? taps - 1 - t : t;
          const size_t at = size(transposed ? (i * taps + place) * out + o : (o * taps + place) * in + i);
          const size_t learned = size((o * in + i) * taps + t);
          there[at] = weight[learned] * 0.7;
          again[learned] = packed[at] * 2.0;
        }
    expect_close(packed, there, "pack_weight");
    expect_close(back, again, "unpack_weight");
  }
}

template <class A>
void test_demodulate(int64_t n, int64_t out, int64_t in, int schedule) {
  const auto size = [](int64_t v) { return static_cast<size_t>(v); };
  Buffer<A> weight_sq(size(out * in)), styles(size(n * in)), demod(size(n * out));
  fill(weight_sq), fill(styles);
  for (size_t i = 0; i < weight_sq.size; i++) weight_sq.data[i] *= weight_sq.data[i];
  launch_demodulate_emu({weight_sq.data, styles.data, demod.data, dtype_of<A>(), n, out, in, 1e-8}, schedule);
  std::vector<double> truth(demod.size);
  for (int64_t i = 0; i < n; i++)
    for (int64_t o = 0; o < out; o++) {
      double sum = 1e-8;
      for (int64_t k = 0; k < in; k++)
        sum += weight_sq[size(o * in + k)] * styles[size(i * in + k)] * styles[size(i * in + k)];
      truth[size(i * out + o)] = 1 / std::sqrt(sum);
    }
  expect_close(demod, truth, "demodulate");
}

// ---- faces

// A default face; one with glasses, beard, long curly hair, open mouth and turned head.
constexpr int kFaces = 2;
struct FaceRows : Buffer<float> {
  FaceRows() : Buffer(size_t{kFaces} * kFaceParamCount) {
    for (size_t i = 0; i < size; i++) data[i] = kFaceParams[i % kFaceParamCount].def;
    float* row = data + kFaceParamCount;
    row[kFP_glasses] = row[kFP_beard] = row[kFP_moustache] = row[kFP_hair_length] = row[kFP_fringe] = 1;
    row[kFP_glasses_tint] = row[kFP_hair_curl] = row[kFP_freckles] = row[kFP_au12] = row[kFP_au25] = 0.6f;
    row[kFP_background_kind] = 3, row[kFP_clothes_kind] = 1, row[kFP_clothes_pattern] = 0.6f;
    row[kFP_yaw] = 0.4f, row[kFP_age] = 0.9f;
  }
};

struct Faces {
  Buffer<uint8_t> vis, nir, segmentation;
  Buffer<float> depth, landmarks;

  // All outputs of the rows; what the kernels leave out keeps the bytes `untouched`.
  Faces(const FaceRows& rows, int size, int schedule, int untouched)
      : vis(pixels(size) * 3),
        nir(pixels(size)),
        segmentation(pixels(size)),
        depth(pixels(size)),
        landmarks(size_t{kFaces} * kFaceLandmarks * 2) {
    std::memset(vis.data, untouched, vis.size);
    std::memset(nir.data, untouched, nir.size);
    launch_face_render_emu(
        {rows.data, vis.data, nir.data, segmentation.data, depth.data, landmarks.data, kFaces, size},
        schedule);
  }
  static size_t pixels(int size) { return size_t{kFaces} * static_cast<size_t>(size * size); }
};

template <class T>
bool same_bytes(const Buffer<T>& a, const Buffer<T>& b) {
  return std::memcmp(a.data, b.data, a.size * sizeof(T)) == 0;
}

void expect_same(const Faces& a, const Faces& b, const std::string& what) {
  expect(same_bytes(a.vis, b.vis) && same_bytes(a.nir, b.nir), what + ": pictures");
  expect(same_bytes(a.segmentation, b.segmentation) && same_bytes(a.depth, b.depth), what + ": labels");
  expect(same_bytes(a.landmarks, b.landmarks), what + ": landmarks");
}

void expect_face_ranges(const Faces& faces, int size) {
  bool labels = true, points = true;
  for (size_t i = 0; i < faces.depth.size; i++) {
    const float depth = faces.depth.data[i];
    const int seen = faces.segmentation.data[i];
    labels = labels && seen <= kClassEars;
    labels = labels && (seen == kClassBackground ? std::isinf(depth) : depth > 5 && depth < 12);
  }
  for (size_t i = 0; i < faces.landmarks.size; i++)
    points = points && faces.landmarks.data[i] > 0 && faces.landmarks.data[i] < static_cast<float>(size);
  expect(labels, "face_render: classes and depth");
  expect(points, "face_render: landmarks in the picture");
}

void test_face_render(int size) {
  const FaceRows rows;
  const Faces first(rows, size, 0, 0xff);
  expect_face_ranges(first, size);
  for (int schedule = 1; schedule < 3; schedule++)
    expect_same(first, Faces(rows, size, schedule, 0), "face_render, schedule " + std::to_string(schedule));
  emu_index_limit = 3;  // one image a launch
  expect_same(first, Faces(rows, size, 0, 0), "face_render in slices");
  emu_index_limit = int64_t{1} << 31;
  Buffer<float> depth(first.depth.size);  // without pictures the kernel takes one pass
  launch_face_render_emu({rows.data, nullptr, nullptr, nullptr, depth.data, nullptr, kFaces, size}, 0);
  expect(same_bytes(depth, first.depth), "face_render: depth alone");
}

// ---- hardware primitives

template <bool kBfloat16>
void test_mma(int schedule) {
  std::vector<uint16_t> a(256), b(128);
  std::vector<float> c(128), out(128);
  const auto bits = [](int v) {
    return kBfloat16 ? __float2bfloat16_rn(static_cast<float>(v)).bits
                     : __float2half_rn(static_cast<float>(v)).bits;
  };
  const auto value = [](size_t i) { return static_cast<int>(i * 37 % 17) - 8; };
  for (size_t i = 0; i < 256; i++) a[i] = bits(value(i));
  for (size_t i = 0; i < 128; i++) b[i] = bits(value(i + 5)), c[i] = static_cast<float>(i);
  std::vector<unsigned char> input(1280);
  std::memcpy(input.data(), a.data(), 512);
  std::memcpy(input.data() + 512, b.data(), 256);
  std::memcpy(input.data() + 768, c.data(), 512);
  launch_conformance_emu({kBfloat16 ? Primitive::kMmaBF16 : Primitive::kMmaF16, input.data(), out.data()},
                         schedule);
  for (size_t r = 0; r < 16; r++)
    for (size_t q = 0; q < 8; q++) {
      float sum = c[r * 8 + q];
      for (size_t k = 0; k < 16; k++) sum += static_cast<float>(value(r * 16 + k) * value(q * 16 + k + 5));
      expect(out[r * 8 + q] == sum, "mma at " + std::to_string(r) + "," + std::to_string(q));
    }
}

void test_primitives(int schedule) {
  test_mma<false>(schedule);
  test_mma<true>(schedule);
  std::vector<uint16_t> matrices(256);
  for (size_t i = 0; i < 256; i++) matrices[i] = static_cast<uint16_t>(i * 3 + 1);
  std::vector<uint32_t> plain(128), trans(128);
  launch_conformance_emu({Primitive::kLdmatrix, matrices.data(), plain.data()}, schedule);
  launch_conformance_emu({Primitive::kLdmatrixTrans, matrices.data(), trans.data()}, schedule);
  bool same = true;
  for (size_t lane = 0; lane < 32; lane++)
    for (size_t m = 0; m < 4; m++)
      for (size_t half = 0; half < 2; half++) {
        const size_t row = lane / 4, column = lane % 4 * 2 + half;
        same = same && (plain[lane * 4 + m] >> (16 * half) & 0xffff) == matrices[m * 64 + row * 8 + column];
        same = same && (trans[lane * 4 + m] >> (16 * half) & 0xffff) == matrices[m * 64 + column * 8 + row];
      }
  expect(same, "ldmatrix");
  std::vector<float> values(32), shuffled(128);
  for (size_t i = 0; i < 32; i++) values[i] = static_cast<float>(i * i);
  launch_conformance_emu({Primitive::kShuffles, values.data(), shuffled.data()}, schedule);
  same = true;
  for (size_t i = 0; i < 32; i++) {
    same = same && shuffled[i] == values[i ^ 5] && shuffled[32 + i] == values[7 * i % 32];
    same = same && shuffled[64 + i] == values[i + 3 < 32 ? i + 3 : i] &&
           shuffled[96 + i] == values[i >= 2 ? i - 2 : i];
  }
  expect(same, "shuffles");
  alignas(16) unsigned char bytes[512], copied[512];
  for (size_t i = 0; i < 512; i++) bytes[i] = static_cast<unsigned char>(i % 251 + 1);
  launch_conformance_emu({Primitive::kAsyncCopy, bytes, copied}, schedule);
  same = true;
  for (size_t i = 0; i < 512; i++) same = same && copied[i] == (i % 16 < i / 16 % 5 * 4 ? bytes[i] : 0);
  expect(same, "cp.async");
}

template <class T>
void test_type(int schedule) {
  for (Act act : {Act::kLinear, Act::kRelu, Act::kLrelu, Act::kTanh, Act::kSwish}) {
    test_bias_act<T>(2, 5, 63, act, schedule);
    test_bias_act<T>(3, 4, 16, act, schedule);
    test_bias_act<T>(7, 16, 1, act, schedule);
    test_bias_act<T>(3, 1025, 3, act, schedule);
  }
  for (const UpfirdnCase& k : kUpfirdnCases) test_upfirdn2d<T>(k, schedule);
  for (bool channels_last : {false, true}) {
    test_modulated<T>(2, 8, 24, channels_last, schedule);
    test_modulated<T>(3, 5, 21, channels_last, schedule);
    test_pack_weight<T>(5, 33, channels_last ? 9 : 6, schedule);
  }
}

void test_fast_division() {
  bool same = true;
  for (uint32_t d :
       {1u, 2u, 3u, 5u, 7u, 63u, 64u, 65u, 641u, 65535u, 65537u, 1000003u, 0x7ffffffeu, 0x7fffffffu}) {
    const dev::FastDiv divide(d);
    for (uint32_t n : {0u, 1u, d - 1, d, d + 1, 2 * d - 1, 12345678u, 0x7ffffffeu, 0x7fffffffu}) {
      if (n > 0x7fffffffu) continue;
      same = same && divide(n) == n / d;
    }
    for (int i = 0; i < 1000; i++) {
      const uint32_t n = static_cast<uint32_t>((uniform() + 1) * 1073741823.0);
      same = same && divide(n) == n / d;
    }
  }
  expect(same, "FastDiv");
}

// As with 2^31 elements and more: every op in slices of few samples.
void test_slices() {
  emu_index_limit = 200;
  test_bias_act<float>(5, 4, 16, Act::kLrelu, 0);
  test_bias_act<__half>(7, 5, 9, Act::kTanh, 0);
  for (bool channels_last : {false, true}) {
    test_modulated<float>(5, 8, 12, channels_last, 0);
    test_modulated<__half>(5, 5, 21, channels_last, 0);
    test_upfirdn2d<float>({3, 4, 5, 6, 1, 1, 2, 1, 4, 4, channels_last}, 0);
  }
  emu_index_limit = int64_t{1} << 31;
}

void run_all() {
  test_fast_division();
  test_slices();
  test_face_render(33);
  for (int schedule = 0; schedule < 3; schedule++) {
    test_type<float>(schedule);
    test_type<double>(schedule);
    test_type<__half>(schedule);
    test_type<__nv_bfloat16>(schedule);
    test_demodulate<float>(5, 9, 12, schedule);
    test_demodulate<float>(3, 17, 130, schedule);
    test_demodulate<double>(2, 4, 64, schedule);
    test_primitives(schedule);
  }
}

void run_race() {
  for (const UpfirdnCase& k : kUpfirdnCases) {
    if (k.h * k.w <= 37 * 70 && k.n * k.c <= 8) test_upfirdn2d<float>(k, 0);
  }
  test_demodulate<float>(5, 9, 12, 0);
  test_demodulate<double>(2, 4, 65, 0);
  test_bias_act<float>(2, 5, 63, Act::kLrelu, 0);
  test_modulated<float>(2, 8, 24, true, 0);
  test_pack_weight<float>(5, 33, 9, 0);
  test_primitives(0);
  expect_face_ranges(Faces(FaceRows(), 24, 0, 0), 24);
}

}  // namespace

int main(int argc, char** argv) { return run_checks(argc, argv, run_all, run_race); }
