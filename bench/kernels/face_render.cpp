// The face renderer on the CPU: VIS, NIR, segmentation and depth of one face. Bound by arithmetic that nobody
// counts: rays walk as far as the picture asks. max_error is the share of pixels, of the four pictures
// together, that are off by more than one step (0.01 head units of depth): versions round differently.
//
// From the folder of the project (for AVX2 isa_avx2 and -march=x86-64-v3, for older ones isa_baseline alone):
// g++ -std=gnu++17 -O3 -ffp-contract=fast -fno-math-errno -fno-trapping-math -fopenmp -march=x86-64-v4
//   -mprefer-vector-width=512 -DPYFACE_ISA_NS=isa_avx512 -I csrc -I csrc/include
//   bench/kernels/face_render.cpp csrc/cpu/face_render.cpp csrc/cpu/dispatch/threads.cpp -o face_render &&
//   ./face_render size=128
#include "pyface/face_render.h"

#include "kernels/face_pixel.cuh"
#include "kernels/face_setup.cuh"
#include "ladder.h"

namespace pyface::PYFACE_ISA_NS {

void face_render(const FaceRenderParams& p, int threads);

namespace {

constexpr int kWidth = Lanes<Packet>::kWidth;

struct Pictures {
  int size;
  ladder::Buffer<uint8_t> vis, nir, segmentation;
  ladder::Buffer<float> depth;
  explicit Pictures(int side)
      : size(side), vis(3 * side * side), nir(side * side), segmentation(side * side), depth(side * side) {}
};

// What is known of the pixels after one sample each, for the choice of those at edges.
struct Seen {
  std::vector<int> label, light;
  explicit Seen(int size) : label(size * size), light(size * size) {}
  bool is_edge(int size, int x, int y) const {
    const auto differs = [&](int at, int other) {
      return label[at] != label[other] || std::abs(light[at] - light[other]) > kEdgeLight;
    };
    const int at = y * size + x;
    return (x > 0 && differs(at, at - 1)) || (x + 1 < size && differs(at, at + 1)) ||
           (y > 0 && differs(at, at - size)) || (y + 1 < size && differs(at, at + size));
  }
};

inline uint8_t to_byte(float v) { return static_cast<uint8_t>(static_cast<int>(v + 0.5f)); }

void keep(const Pictures& to, Seen& seen, int at, float r, float g, float b, float nir, float label,
          float depth) {
  to.vis[3 * at] = to_byte(r), to.vis[3 * at + 1] = to_byte(g), to.vis[3 * at + 2] = to_byte(b);
  to.nir[at] = to_byte(nir), to.segmentation[at] = to_byte(label), to.depth[at] = depth;
  seen.label[at] = to.segmentation[at];
  seen.light[at] = to_byte(0.3f * r + 0.6f * g + 0.1f * b);
}

// Image coordinates of a place in pixels.
inline float across(float x, int size) { return x * 2.f / size - 1.f; }
inline float upwards(float y, int size) { return 1.f - y * 2.f / size; }

// ---- one sample at a time

LADDER_SCALAR void centres_by_sample(const Scene& scene, const Pictures& to, Seen& seen) {
  for (int at = 0; at < to.size * to.size; ++at) {
    Sample<float> s;
    render_sample<float>(scene, across(at % to.size + 0.5f, to.size), upwards(at / to.size + 0.5f, to.size),
                         s);
    keep(to, seen, at, srgb255(s.vis.x), srgb255(s.vis.y), srgb255(s.vis.z), srgb255(s.nir), s.label,
         s.depth);
  }
}

LADDER_SCALAR void edges_by_sample(const Scene& scene, const Pictures& to, const Seen& seen) {
  for (int at = 0; at < to.size * to.size; ++at) {
    const int x = at % to.size, y = at / to.size;
    if (!seen.is_edge(to.size, x, y)) continue;
    float sum[4] = {};
    for (int k = 0; k < 4; ++k) {
      Sample<float> s;
      render_sample<float>(scene, across(x + 0.5f + kSubX[k], to.size), upwards(y + 0.5f + kSubY[k], to.size),
                           s);
      sum[0] += s.vis.x, sum[1] += s.vis.y, sum[2] += s.vis.z, sum[3] += s.nir;
    }
    for (int c = 0; c < 3; ++c) to.vis[3 * at + c] = to_byte(srgb255(0.25f * sum[c]));
    to.nir[at] = to_byte(srgb255(0.25f * sum[3]));
  }
}

// ---- a packet of samples at a time

// `wide` pixels of a packet lie side by side, the rest below.
LADDER_LOOPS void centres_by_packet(const Scene& scene, const Pictures& to, Seen& seen, int wide) {
  const int down = kWidth / wide;
  for (int top = 0; top < to.size; top += down) {
    for (int left = 0; left < to.size; left += wide) {
      Packet x, y;
      for (int i = 0; i < kWidth; ++i) {
        x[i] = across(left + i % wide + 0.5f, to.size);
        y[i] = upwards(top + i / wide + 0.5f, to.size);
      }
      Sample<Packet> s;
      render_sample<Packet>(scene, x, y, s);
      const Packet r = srgb255(s.vis.x), g = srgb255(s.vis.y), b = srgb255(s.vis.z), nir = srgb255(s.nir);
      for (int i = 0; i < kWidth; ++i) {
        const int column = left + i % wide, row = top + i / wide;
        if (column >= to.size || row >= to.size) continue;
        keep(to, seen, row * to.size + column, r[i], g[i], b[i], nir[i], s.label[i], s.depth[i]);
      }
    }
  }
}

LADDER_LOOPS void edges_by_packet(const Scene& scene, const Pictures& to, const Seen& seen) {
  constexpr int kPixels = kWidth / 4;
  int at[kPixels], count = 0;
  const auto draw = [&] {
    Packet x, y;
    for (int i = 0; i < kWidth; ++i) {
      const int pixel = at[i / 4 < count ? i / 4 : count - 1];
      x[i] = across(pixel % to.size + 0.5f + kSubX[i % 4], to.size);
      y[i] = upwards(pixel / to.size + 0.5f + kSubY[i % 4], to.size);
    }
    Sample<Packet> s;
    render_sample<Packet>(scene, x, y, s);
    const Packet channels[4] = {s.vis.x, s.vis.y, s.vis.z, s.nir};
    for (int j = 0; j < count; ++j) {
      for (int c = 0; c < 4; ++c) {
        const Packet& v = channels[c];
        const float mean = 0.25f * ((v[4 * j] + v[4 * j + 1]) + (v[4 * j + 2] + v[4 * j + 3]));
        (c < 3 ? to.vis[3 * at[j] + c] : to.nir[at[j]]) = to_byte(srgb255(mean));
      }
    }
    count = 0;
  };
  for (int pixel = 0; pixel < to.size * to.size; ++pixel) {
    if (!seen.is_edge(to.size, pixel % to.size, pixel / to.size)) continue;
    at[count] = pixel;
    if (++count == kPixels) draw();
  }
  if (count > 0) draw();
}

// ---- the versions

// A ray per pixel, one after the other; then four more at each pixel whose neighbour differs.
// The scene code is that of the GPU: a template over the number, here one float.
void version_1(const float* params, const Pictures& to) {
  Scene scene;
  Seen seen(to.size);
  setup_scene(params, scene);
  centres_by_sample(scene, to, seen);
  edges_by_sample(scene, to, seen);
}

// The same template over a packet of neighbours in a row: 16 rays in one vector with AVX-512, masks for
// branches, and a step is left out where no ray of the packet needs it. Edges are still single rays.
void version_2(const float* params, const Pictures& to) {
  Scene scene;
  Seen seen(to.size);
  setup_scene(params, scene);
  centres_by_packet(scene, to, seen, kWidth);
  edges_by_sample(scene, to, seen);
}

// Packets of blocks four pixels wide: their rays meet the same parts of the face more often than those of a
// row, so more steps are left out.
void version_3(const float* params, const Pictures& to) {
  Scene scene;
  Seen seen(to.size);
  setup_scene(params, scene);
  centres_by_packet(scene, to, seen, 4);
  edges_by_sample(scene, to, seen);
}

// The four rays of each edge pixel in packets as well, those of several pixels together.
// The shipped kernel works in strips of rows, for threads, and makes landmarks too.
void version_4(const float* params, const Pictures& to) {
  Scene scene;
  Seen seen(to.size);
  setup_scene(params, scene);
  centres_by_packet(scene, to, seen, 4);
  edges_by_packet(scene, to, seen);
}

// The kernel that ships: csrc/cpu/face_render.cpp.
void version_5(const float* params, const Pictures& to) {
  face_render(
      {params, to.vis.get(), to.nir.get(), to.segmentation.get(), to.depth.get(), nullptr, 1, to.size}, 1);
}

// The share of pixels of `b` that are not those of `a`.
double share_off(const Pictures& a, const Pictures& b) {
  int64_t off = 0, all = 0;
  const auto count = [&](const ladder::Buffer<uint8_t>& from, const ladder::Buffer<uint8_t>& to, int step) {
    for (int64_t i = 0; i < from.size(); ++i) off += std::abs(from[i] - to[i]) > step;
    all += from.size();
  };
  count(a.vis, b.vis, 1);
  count(a.nir, b.nir, 1);
  count(a.segmentation, b.segmentation, 0);
  for (int64_t i = 0; i < a.depth.size(); ++i) {
    off += !(a.depth[i] == b.depth[i] || std::fabs(a.depth[i] - b.depth[i]) <= 0.01f);
  }
  return static_cast<double>(off) / static_cast<double>(all + a.depth.size());
}

int run(int64_t size, int64_t rounds) {
  std::vector<float> params(kFaceParamCount);
  for (int i = 0; i < kFaceParamCount; ++i) params[i] = kFaceParams[i].def;
  params[kFP_yaw] = 0.3f;
  params[kFP_glasses] = 1.f;
  const Pictures truth(static_cast<int>(size)), drawn(static_cast<int>(size));
  version_1(params.data(), truth);
  using Function = void (*)(const float*, const Pictures&);
  const auto rung = [&](const char* what, Function function) {
    return ladder::Version{what, [&, function] { function(params.data(), drawn); },
                           [&] { return share_off(truth, drawn); }, 1e-3, function == version_5};
  };
  const std::string side = std::to_string(size);
  ladder::Work work{"face_render", "1 face, " + side + "x" + side};
  work.bytes = 9.0 * size * size + 4.0 * kFaceParamCount;
  work.poison = [&] {
    ladder::spoil(drawn.vis);
    ladder::spoil(drawn.nir);
    ladder::spoil(drawn.segmentation);
    ladder::spoil(drawn.depth);
  };
  return ladder::climb(work,
                       {rung("a ray at a time", version_1), rung("packets of a row", version_2),
                        rung("packets of blocks", version_3), rung("edges in packets too", version_4),
                        rung("csrc/cpu/face_render.cpp", version_5)},
                       rounds);
}

}  // namespace
}  // namespace pyface::PYFACE_ISA_NS

int main(int count, char** arguments) {
  const ladder::Sizes sizes(count, arguments, {{"size", 128}});
  if (sizes["size"] < pyface::kFaceMinSize || sizes["size"] > pyface::kFaceMaxSize) {
    std::fprintf(stderr, "size must be %d to %d\n", pyface::kFaceMinSize, pyface::kFaceMaxSize);
    return 2;
  }
  return pyface::PYFACE_ISA_NS::run(sizes["size"], sizes["rounds"]);
}
