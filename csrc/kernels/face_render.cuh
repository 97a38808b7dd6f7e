// The face renderer on a GPU: one thread per pixel of a tile, then four threads per pixel at its edges.
#pragma once
#include "kernels/device.cuh"
#include "kernels/face_pixel.cuh"
#include "kernels/face_setup.cuh"
#include "pyface/face_render.h"

namespace pyface::dev {

constexpr int kTileWidth = 32, kTileHeight = 16, kTileThreads = 128;
constexpr int kTilePixels = kTileWidth * kTileHeight;
// The pixels that touch the four sides of a tile: the edge test of the tile looks at them.
constexpr int kTileRing = 2 * (kTileWidth + kTileHeight);
constexpr int kTilePitch = kTileWidth + 2;

// Shared memory of a block.
struct FaceTile {
  Scene scene;
  uint16_t seen[(kTileHeight + 2) * kTilePitch];  // class and brightness of each pixel: class * 256 + light
  uint16_t edges[kTilePixels];                    // pixels of the tile to be drawn again, in any order
  int edge_count;
};

// Column and row in the tile of its i-th sample: patches of 8 x 4 pixels for the threads of a warp, whose
// rays then stay together; behind the pixels of the tile, its ring.
__device__ __forceinline__ void tile_position(int i, int& column, int& row) {
  if (i < kTilePixels) {
    const int patch = i >> 5, lane = i & 31;
    column = (patch & 3) * 8 + (lane & 7);
    row = (patch >> 2) * 4 + (lane >> 3);
    return;
  }
  i -= kTilePixels;
  if (i < 2 * kTileWidth) {
    column = i & (kTileWidth - 1);
    row = i < kTileWidth ? -1 : kTileHeight;
  } else {
    i -= 2 * kTileWidth;
    row = i & (kTileHeight - 1);
    column = i < kTileHeight ? -1 : kTileWidth;
  }
}
__device__ __forceinline__ int seen_at(int column, int row) { return (row + 1) * kTilePitch + column + 1; }

__device__ __forceinline__ uint8_t to_byte(float v) {
  return static_cast<uint8_t>(static_cast<int>(v + 0.5f));
}

__device__ __forceinline__ bool seen_differ(int a, int b) {
  const int light = (a & 255) - (b & 255);
  return (a >> 8) != (b >> 8) || light > kEdgeLight || light < -kEdgeLight;
}

__device__ __forceinline__ void store_colours(const FaceRenderParams& p, int64_t at,
                                              const Sample<float>& linear) {
  if (p.vis) {
    p.vis[3 * at] = to_byte(srgb255(linear.vis.x));
    p.vis[3 * at + 1] = to_byte(srgb255(linear.vis.y));
    p.vis[3 * at + 2] = to_byte(srgb255(linear.vis.z));
  }
  if (p.nir) p.nir[at] = to_byte(srgb255(linear.nir));
}

// The sum over four neighbouring lanes, in the same order on each.
__device__ __forceinline__ float sum_of_four(float v) {
  v += __shfl_xor_sync(0xffffffffu, v, 1);
  return v + __shfl_xor_sync(0xffffffffu, v, 2);
}

// One sample at the centre of a pixel: kept for the edge test and, unless it lies on the ring, written out.
__device__ __forceinline__ void keep_centre(const FaceRenderParams& p, FaceTile& tile, int64_t image,
                                            int first_x, int first_y, int i, const Sample<float>& sample) {
  int column, row;
  tile_position(i, column, row);
  const int x = first_x + column, y = first_y + row;
  const int label = static_cast<int>(sample.label + 0.5f);
  const float light =
      0.3f * srgb255(sample.vis.x) + 0.6f * srgb255(sample.vis.y) + 0.1f * srgb255(sample.vis.z);
  tile.seen[seen_at(column, row)] = static_cast<uint16_t>(label << 8 | to_byte(light));
  if (i >= kTilePixels) return;
  const int64_t at = (image * p.size + y) * p.size + x;
  store_colours(p, at, sample);
  if (p.segmentation) p.segmentation[at] = static_cast<uint8_t>(label);
  if (p.depth) p.depth[at] = sample.depth;
}

__device__ __forceinline__ void find_edges(FaceTile& tile, int size, int first_x, int first_y) {
  for (int i = threadIdx.x; i < kTilePixels; i += kTileThreads) {
    int column, row;
    tile_position(i, column, row);
    const int x = first_x + column, y = first_y + row, at = seen_at(column, row);
    if (x >= size || y >= size) continue;
    const int own = tile.seen[at];
    const bool edge = (x > 0 && seen_differ(own, tile.seen[at - 1])) ||
                      (x + 1 < size && seen_differ(own, tile.seen[at + 1])) ||
                      (y > 0 && seen_differ(own, tile.seen[at - kTilePitch])) ||
                      (y + 1 < size && seen_differ(own, tile.seen[at + kTilePitch]));
    if (edge) tile.edges[atomicAdd(&tile.edge_count, 1)] = static_cast<uint16_t>(i);
  }
}

// Pass 0 draws the tile and its ring, pass 1 replaces the colours of edge pixels by the mean of four samples;
// class and depth stay. Both passes go through the one copy of the scene code.
static __global__ void __launch_bounds__(kTileThreads)
    face_render_kernel(FaceRenderParams p, int64_t first_image, int tiles_x, int tiles) {
  PYFACE_SHARED(memory);
  FaceTile& tile = *reinterpret_cast<FaceTile*>(memory);
  const int64_t image = first_image + blockIdx.x / tiles;
  const int place = static_cast<int>(blockIdx.x % tiles);
  const int first_x = place % tiles_x * kTileWidth, first_y = place / tiles_x * kTileHeight;
  if (threadIdx.x == 0) {
    tile.edge_count = 0;
    setup_scene(p.params + image * kFaceParamCount, tile.scene);
  }
  __syncthreads();
  const float step = 2.f / static_cast<float>(p.size);
  const int passes = p.vis || p.nir ? 2 : 1;
  PYFACE_NO_UNROLL
  for (int pass = 0; pass < passes; ++pass) {
    const int samples = pass ? 4 * tile.edge_count : passes == 2 ? kTilePixels + kTileRing : kTilePixels;
    PYFACE_NO_UNROLL
    for (int start = 0; start < samples; start += kTileThreads) {
      const int i = start + static_cast<int>(threadIdx.x);
      const bool active = i < samples;
      int pixel = active ? i : 0, column, row;
      float sub_x = 0.f, sub_y = 0.f;
      if (pass) {
        pixel = tile.edges[active ? i >> 2 : 0];
        sub_x = kSubX[i & 3];
        sub_y = kSubY[i & 3];
      }
      tile_position(pixel, column, row);
      const int x = first_x + column, y = first_y + row;
      const bool drawn = active && x >= 0 && x < p.size && y >= 0 && y < p.size;
      Sample<float> sample = {};
      if (drawn)
        render_sample(tile.scene, (static_cast<float>(x) + 0.5f + sub_x) * step - 1.f,
                      1.f - (static_cast<float>(y) + 0.5f + sub_y) * step, sample);
      if (pass) {
        sample.vis = {0.25f * sum_of_four(sample.vis.x), 0.25f * sum_of_four(sample.vis.y),
                      0.25f * sum_of_four(sample.vis.z)};
        sample.nir = 0.25f * sum_of_four(sample.nir);
        if (drawn && (i & 3) == 0) store_colours(p, (image * p.size + y) * p.size + x, sample);
      } else if (drawn) {
        keep_centre(p, tile, image, first_x, first_y, i, sample);
      }
    }
    __syncthreads();
    if (pass == 0 && passes == 2) {
      find_edges(tile, p.size, first_x, first_y);
      __syncthreads();
    }
  }
}

// One block per image, one thread per landmark.
constexpr int kLandmarkThreads = 96;
static __global__ void __launch_bounds__(kLandmarkThreads)
    face_landmarks_kernel(FaceRenderParams p, int64_t first_image) {
  PYFACE_SHARED(memory);
  Scene& scene = *reinterpret_cast<Scene*>(memory);
  const int64_t image = first_image + blockIdx.x;
  if (threadIdx.x == 0) setup_scene(p.params + image * kFaceParamCount, scene);
  __syncthreads();
  const int i = threadIdx.x;
  if (i >= kFaceLandmarks) return;
  P3 at, direction;
  landmark_ray(scene, i, at, direction);
  landmark_walk(scene, at, direction);
  project(scene, at, p.size, p.landmarks + (image * kFaceLandmarks + i) * 2);
}

template <class Launcher>
void run_face_render(const FaceRenderParams& p, const Launcher& launch) {
  static_assert(kLandmarkThreads >= kFaceLandmarks, "one thread per landmark");
  const int64_t tiles_x = ceil_div(p.size, kTileWidth), tiles = tiles_x * ceil_div(p.size, kTileHeight);
  const bool pictures = p.vis || p.nir || p.segmentation || p.depth;
  const int64_t most = std::max<int64_t>(1, (launch.index_limit() - 1) / tiles);  // images in one launch
  for (int64_t first = 0; first < p.n; first += most) {
    const auto images = static_cast<unsigned>(std::min(most, p.n - first));
    if (pictures) {
      launch("face_render_kernel", face_render_kernel, dim3(images * static_cast<unsigned>(tiles)),
             dim3(kTileThreads), sizeof(FaceTile), p, first, static_cast<int>(tiles_x),
             static_cast<int>(tiles));
    }
    if (p.landmarks) {
      launch("face_landmarks_kernel", face_landmarks_kernel, dim3(images), dim3(kLandmarkThreads),
             sizeof(Scene), p, first);
    }
  }
}

}  // namespace pyface::dev
