// The face renderer on the CPU: packets of neighbouring pixels, then four more samples where the picture has
// edges.
#include "pyface/face_render.h"

#include <cstdlib>
#include <cstring>

#include "cpu/parallel.h"
#include "kernels/face_pixel.cuh"
#include "kernels/face_setup.cuh"

namespace pyface::PYFACE_ISA_NS {
namespace {

constexpr int kWidth = Lanes<Packet>::kWidth;
constexpr int kStripRows = 32;

// Class and brightness of the rows of one strip and one row around it, to find edges.
struct Edges {
  uint8_t* label;
  uint8_t* light;
  int first;  // row of the picture that the buffers start with
};

inline Packet centre(const int* index, float scale, float offset) {
  Packet r;
  for (int i = 0; i < kWidth; ++i) r[i] = (static_cast<float>(index[i]) + 0.5f) * scale + offset;
  return r;
}

inline Packet packet(const float* lane) {
  Packet r;
  std::memcpy(&r, lane, sizeof r);
  return r;
}

inline uint8_t to_byte(float v) { return static_cast<uint8_t>(static_cast<int>(v + 0.5f)); }

void store(const FaceRenderParams& p, int64_t image, int x, int y, const Sample<Packet>& s,
           const Packet* rgbn, int lane) {
  int64_t at = (image * p.size + y) * p.size + x;
  if (p.vis)
    for (int c = 0; c < 3; ++c) p.vis[3 * at + c] = to_byte(rgbn[c][lane]);
  if (p.nir) p.nir[at] = to_byte(rgbn[3][lane]);
  if (p.segmentation) p.segmentation[at] = static_cast<uint8_t>(static_cast<int>(s.label[lane] + 0.5f));
  if (p.depth) p.depth[at] = s.depth[lane];
}

// One sample at the centre of each pixel of the rows [first, last).
void first_pass(const FaceRenderParams& p, const Scene& scene, int64_t image, int first, int last,
                int keep_first, int keep_last, const Edges& edges) {
  const float step = 2.f / static_cast<float>(p.size);
  const int across = 4, down = kWidth / across;
  int px[kWidth], py[kWidth];
  for (int y0 = first; y0 < last; y0 += down) {
    for (int x0 = 0; x0 < p.size; x0 += across) {
      for (int i = 0; i < kWidth; ++i) {
        px[i] = x0 + i % across;
        py[i] = y0 + i / across;
      }
      Sample<Packet> s;
      render_sample<Packet>(scene, centre(px, step, -1.f), -centre(py, step, -1.f), s);
      Packet out[4] = {srgb255(s.vis.x), srgb255(s.vis.y), srgb255(s.vis.z), srgb255(s.nir)};
      for (int i = 0; i < kWidth; ++i) {
        if (px[i] >= p.size || py[i] >= last) continue;
        int at = (py[i] - edges.first) * p.size + px[i];
        edges.label[at] = static_cast<uint8_t>(static_cast<int>(s.label[i] + 0.5f));
        edges.light[at] = to_byte(0.3f * out[0][i] + 0.6f * out[1][i] + 0.1f * out[2][i]);
        if (py[i] >= keep_first && py[i] < keep_last) store(p, image, px[i], py[i], s, out, i);
      }
    }
  }
}

bool is_edge(const Edges& e, int size, int x, int y) {
  int at = (y - e.first) * size + x;
  auto differs = [&](int other) {
    int d = static_cast<int>(e.light[at]) - static_cast<int>(e.light[other]);
    return e.label[at] != e.label[other] || d > kEdgeLight || d < -kEdgeLight;
  };
  return (x > 0 && differs(at - 1)) || (x + 1 < size && differs(at + 1)) || (y > 0 && differs(at - size)) ||
         (y + 1 < size && differs(at + size));
}

// Replaces the colours of edge pixels by the mean of four samples on a rotated grid; class and depth stay.
void second_pass(const FaceRenderParams& p, const Scene& scene, int64_t image, int first, int last,
                 const Edges& edges) {
  constexpr int kBatch = kWidth / 4;
  const float step = 2.f / static_cast<float>(p.size);
  int px[kBatch], py[kBatch], count = 0;
  auto flush = [&] {
    Packet x{}, y{};
    for (int i = 0; i < kWidth; ++i) {
      int j = i / 4 < count ? i / 4 : count - 1;
      x[i] = (static_cast<float>(px[j]) + 0.5f + kSubX[i % 4]) * step - 1.f;
      y[i] = 1.f - (static_cast<float>(py[j]) + 0.5f + kSubY[i % 4]) * step;
    }
    Sample<Packet> s;
    render_sample<Packet>(scene, x, y, s);
    const Packet channel[4] = {s.vis.x, s.vis.y, s.vis.z, s.nir};
    for (int j = 0; j < count; ++j) {
      float mean[4];
      for (int c = 0; c < 4; ++c)
        mean[c] = srgb255(0.25f * ((channel[c][4 * j] + channel[c][4 * j + 1]) +
                                   (channel[c][4 * j + 2] + channel[c][4 * j + 3])));
      int64_t at = (image * p.size + py[j]) * p.size + px[j];
      if (p.vis)
        for (int c = 0; c < 3; ++c) p.vis[3 * at + c] = to_byte(mean[c]);
      if (p.nir) p.nir[at] = to_byte(mean[3]);
    }
    count = 0;
  };
  for (int y = first; y < last; ++y) {
    for (int x = 0; x < p.size; ++x) {
      if (!is_edge(edges, p.size, x, y)) continue;
      px[count] = x;
      py[count] = y;
      if (++count == kBatch) flush();
    }
  }
  if (count) flush();
}

void find_landmarks(const Scene& scene, int size, float* out) {
  P3 from[kFaceLandmarks] = {}, dir[kFaceLandmarks] = {};
  for (int i = 0; i < kFaceLandmarks; ++i) landmark_ray(scene, i, from[i], dir[i]);
  for (int i = 0; i < kFaceLandmarks; i += kWidth) {
    float lane[6][kWidth];
    for (int j = 0; j < kWidth; ++j) {
      int k = i + j < kFaceLandmarks ? i + j : kFaceLandmarks - 1;
      lane[0][j] = from[k].x, lane[1][j] = from[k].y, lane[2][j] = from[k].z;
      lane[3][j] = dir[k].x, lane[4][j] = dir[k].y, lane[5][j] = dir[k].z;
    }
    V3<Packet> p = {packet(lane[0]), packet(lane[1]), packet(lane[2])};
    V3<Packet> d = {packet(lane[3]), packet(lane[4]), packet(lane[5])};
    landmark_walk(scene, p, d);
    for (int j = 0; j < kWidth && i + j < kFaceLandmarks; ++j)
      project(scene, {p.x[j], p.y[j], p.z[j]}, size, out + 2 * (i + j));
  }
}

void render_strip(const FaceRenderParams& p, int64_t image, int strip) {
  Scene scene;
  setup_scene(p.params + image * kFaceParamCount, scene);
  if (strip == 0 && p.landmarks) find_landmarks(scene, p.size, p.landmarks + image * kFaceLandmarks * 2);
  if (!p.vis && !p.nir && !p.segmentation && !p.depth) return;
  int first = strip * kStripRows, last = first + kStripRows < p.size ? first + kStripRows : p.size;
  int halo_first = first > 0 ? first - 1 : 0, halo_last = last < p.size ? last + 1 : p.size;
  auto* buffer = static_cast<uint8_t*>(std::malloc(2 * static_cast<size_t>(kStripRows + 2) * p.size));
  Edges edges{buffer, buffer + static_cast<size_t>(kStripRows + 2) * p.size, halo_first};
  first_pass(p, scene, image, halo_first, halo_last, first, last, edges);
  if (p.vis || p.nir) second_pass(p, scene, image, first, last, edges);
  std::free(buffer);
}

}  // namespace

void face_render(const FaceRenderParams& p, int threads) {
  const int64_t strips = (p.size + kStripRows - 1) / kStripRows, work = p.n * strips;
  threads = worker_count(threads, work * kWorkPerThread);
  if (threads <= 1) {
    for (int64_t i = 0; i < work; ++i) render_strip(p, i / strips, static_cast<int>(i % strips));
    return;
  }
#pragma omp parallel for schedule(dynamic) num_threads(threads)
  for (int64_t i = 0; i < work; ++i) render_strip(p, i / strips, static_cast<int>(i % strips));
}

}  // namespace pyface::PYFACE_ISA_NS
