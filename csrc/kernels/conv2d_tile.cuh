// What the tensor-core convolutions have in common: the style in shared memory, and the way from sums in
// registers to outputs, partial sums and heads.
#pragma once
#include "kernels/conv2d_geometry.cuh"
#include "kernels/mma_tiles.cuh"

namespace pyface::dev {

// Whether a tile may hold pixels of several images.
template <class Tile>
constexpr bool kManyImages = Tile::kRows == 64;

// What the epilogue holds in shared memory, in bytes from its begin; it lies where the stages were.
template <class Tile>
struct EpilogueMemory {
  static constexpr int kStagedPitch =
      Tile::kColumns + 8;  // rows 16 bytes apart modulo 128: no bank conflicts
  static constexpr int kPixel = 0, kNoise = kPixel + Tile::kRows * 4, kSlot = kNoise + Tile::kRows * 4;
  static constexpr int kBias = kSlot + (kManyImages<Tile> ? Tile::kRows * 4 : 0);
  static constexpr int kHeads = kBias + Tile::kColumns * 4;
  static constexpr int kHeadSums = kHeads + kMaxHeads * kStagedPitch * 2;
  static constexpr int kStaged = kHeadSums + Tile::kWarpsN * Tile::kRows * kMaxHeads * 4;
  static constexpr int kDemod = kStaged + Tile::kRows * kStagedPitch * 2;
  // next_style follows demod; each has a row for each image of the tile.
  static constexpr int bytes(int slots) { return kDemod + 2 * slots * Tile::kColumns * 4; }
};

__device__ __forceinline__ int padded_channels(int channels) { return (channels + 31) & ~31; }

// Where the columns of a tile lie, and the images of its rows: `slots` of them from `image` on.
struct TilePlace {
  int image, slots, column;
};

// to[slot, c] = from[image, column + c], 0 beyond the last channel, `other` where there is no tensor.
__device__ __forceinline__ void read_rows(float* to, const float* from, float other, const TilePlace& place,
                                          int width, int channels) {
  for (int s = 0; s < place.slots; s++) {
    const float* row = from ? from + size_t(place.image + s) * channels : nullptr;
    for (int c = threadIdx.x; c < width; c += blockDim.x)
      to[s * width + c] = !row ? other : place.column + c < channels ? row[place.column + c] : 0.f;
  }
}

// The style of the tile's images as T: rows of padded_channels, zeros at their ends.
template <class T>
__device__ __forceinline__ void read_style(T* to, const float* from, const TilePlace& place, int channels) {
  const int padded = padded_channels(channels);
  for (int s = 0; s < place.slots; s++) {
    const float* row = from + size_t(place.image + s) * channels;
    for (int i = threadIdx.x; i < padded; i += blockDim.x)
      to[s * padded + i] = narrow<T>(i < channels ? row[i] : 0.f);
  }
}

// Writes the sums of this split as they are.
template <class Tile>
__device__ __forceinline__ void write_partial(const float (&acc)[Tile::kFragmentsM][Tile::kFragmentsN][4],
                                              float* partial, const ConvShape& s, const int* pixels,
                                              int column) {
  float* base = partial + size_t(blockIdx.z) * s.n * s.out_h * s.out_w * s.out_channels;
  PYFACE_UNROLL
  for (int i = 0; i < Tile::kFragmentsM; i++) {
    PYFACE_UNROLL
    for (int half = 0; half < 2; half++) {
      const int pixel = pixels[fragment_row<Tile>(i, half * 2)];
      if (pixel < 0) continue;
      PYFACE_UNROLL
      for (int j = 0; j < Tile::kFragmentsN; j++) {
        const int o = column + fragment_column<Tile>(j, 0);
        float* to = base + size_t(pixel) * s.out_channels + o;
        if (o + 1 < s.out_channels && !(s.out_channels & 1)) {
          *reinterpret_cast<Vec<float, 2>*>(to) = {acc[i][j][half * 2], acc[i][j][half * 2 + 1]};
        } else {
          if (o < s.out_channels) to[0] = acc[i][j][half * 2];
          if (o + 1 < s.out_channels) to[1] = acc[i][j][half * 2 + 1];
        }
      }
    }
  }
}

// Sums to outputs: into `staged` in shared memory, and for the heads into `head_sums`.
template <class T, class Tile>
__device__ __forceinline__ void finish_sums(const float (&acc)[Tile::kFragmentsM][Tile::kFragmentsN][4],
                                            unsigned char* memory, int slots, const ConvEpilogue<false>& e,
                                            bool with_heads) {
  using Memory = EpilogueMemory<Tile>;
  const auto* noise = reinterpret_cast<const float*>(memory + Memory::kNoise);
  const auto* slot_of = reinterpret_cast<const int*>(memory + Memory::kSlot);
  const auto* bias = reinterpret_cast<const float*>(memory + Memory::kBias);
  const auto* demod = reinterpret_cast<const float*>(memory + Memory::kDemod);
  const float* next_style = demod + slots * Tile::kColumns;
  const T* heads = reinterpret_cast<const T*>(memory + Memory::kHeads);
  auto* head_sums = reinterpret_cast<float*>(memory + Memory::kHeadSums);
  T* staged = reinterpret_cast<T*>(memory + Memory::kStaged);
  float dots[Tile::kFragmentsM][4] = {};
  PYFACE_UNROLL
  for (int j = 0; j < Tile::kFragmentsN; j += 2) {
    PYFACE_UNROLL
    for (int i = 0; i < Tile::kFragmentsM; i++) {
      uint32_t fragment[4];  // of the outputs before next_style, as A
      PYFACE_UNROLL
      for (int half = 0; half < 2; half++) {
        const int row = fragment_row<Tile>(i, half * 2);
        const int slot = kManyImages<Tile> ? slot_of[row] * Tile::kColumns : 0;
        PYFACE_UNROLL
        for (int side = 0; side < 2; side++) {
          const int c = fragment_column<Tile>(j + side, 0);
          const auto scale = *reinterpret_cast<const Vec<float, 2>*>(demod + slot + c);
          const auto shift = *reinterpret_cast<const Vec<float, 2>*>(bias + c);
          const auto next = *reinterpret_cast<const Vec<float, 2>*>(next_style + slot + c);
          float v[2] = {acc[i][j + side][half * 2] * scale.v[0] + noise[row] + shift.v[0],
                        acc[i][j + side][half * 2 + 1] * scale.v[1] + noise[row] + shift.v[1]};
          e.activation.apply(v);
          if (with_heads) fragment[side * 2 + half] = pack_pair<T>(v[0], v[1]);
          *reinterpret_cast<uint32_t*>(staged + row * Memory::kStagedPitch + c) =
              pack_pair<T>(v[0] * next.v[0], v[1] * next.v[1]);
        }
      }
      if (with_heads) {
        const T* from = heads + (threadIdx.x >> 2 & 7) * Memory::kStagedPitch + fragment_column<Tile>(j, 0);
        const uint32_t b[2] = {*reinterpret_cast<const uint32_t*>(from),
                               *reinterpret_cast<const uint32_t*>(from + 8)};
        mma_m16n8k16<kIsBfloat16<T>>(dots[i], fragment, b);
      }
    }
  }
  if (!with_heads) return;
  PYFACE_UNROLL
  for (int i = 0; i < Tile::kFragmentsM; i++) {
    PYFACE_UNROLL
    for (int half = 0; half < 2; half++) {
      const int row =
          Tile::warp_column() / Tile::kWarpColumns * Tile::kRows + fragment_row<Tile>(i, half * 2);
      *reinterpret_cast<Vec<float, 2>*>(head_sums + row * kMaxHeads + (threadIdx.x & 3) * 2) = {
          dots[i][half * 2], dots[i][half * 2 + 1]};
    }
  }
}

// From sums to memory: partial sums, or outputs and heads. Thread r < kRows brings the pixel of row r and its
// slot. Shared memory is free.
template <class T, class Tile>
__device__ __forceinline__ void finish_tile(const float (&acc)[Tile::kFragmentsM][Tile::kFragmentsN][4],
                                            const ConvArguments<T>& a, unsigned char* memory,
                                            const TilePlace& place, int pixel_of_thread, int slot) {
  using Memory = EpilogueMemory<Tile>;
  const ConvShape& s = a.shape;
  const int thread = threadIdx.x;
  auto* pixels = reinterpret_cast<int*>(memory + Memory::kPixel);
  const int image_pixels = s.out_h * s.out_w;
  if (thread < Tile::kRows) {
    pixels[thread] = pixel_of_thread;
    if (kManyImages<Tile>) reinterpret_cast<int*>(memory + Memory::kSlot)[thread] = slot;
    const int image = place.image + slot;
    reinterpret_cast<float*>(memory + Memory::kNoise)[thread] =
        a.epilogue.noise && pixel_of_thread >= 0
            ? a.epilogue.noise[a.epilogue.noise_per_sample ? pixel_of_thread
                                                           : pixel_of_thread - image * image_pixels]
            : 0.f;
  }
  if (a.partial) {
    __syncthreads();
    write_partial<Tile>(acc, a.partial, s, pixels, place.column);
    return;
  }
  auto* demod = reinterpret_cast<float*>(memory + Memory::kDemod);
  read_rows(demod, a.epilogue.demod, 1.f, place, Tile::kColumns, s.out_channels);
  read_rows(demod + place.slots * Tile::kColumns, a.epilogue.next_style, 1.f, place, Tile::kColumns,
            s.out_channels);
  for (int c = thread; c < Tile::kColumns; c += Tile::kThreads) {
    const bool ok = a.epilogue.bias && place.column + c < s.out_channels;
    reinterpret_cast<float*>(memory + Memory::kBias)[c] = ok ? a.epilogue.bias[place.column + c] : 0.f;
  }
  const bool with_heads = a.heads.weights != nullptr;  // then one image and all channels lie in this tile
  if (with_heads) {
    T* heads = reinterpret_cast<T*>(memory + Memory::kHeads);
    for (int at = thread; at < kMaxHeads * Tile::kColumns; at += Tile::kThreads) {
      const int k = at / Tile::kColumns, o = at - k * Tile::kColumns;
      const bool ok = k < a.heads.count && o < s.out_channels;
      const float* row = a.heads.weights + (size_t(place.image) * a.heads.count + k) * s.out_channels;
      heads[k * Memory::kStagedPitch + o] = narrow<T>(ok ? row[o] : 0.f);
    }
  }
  __syncthreads();
  finish_sums<T, Tile>(acc, memory, place.slots, a.epilogue, with_heads);
  __syncthreads();

  const T* staged = reinterpret_cast<const T*>(memory + Memory::kStaged);
  if (a.y && s.out_channels % 8 == 0) {
    constexpr int kChunks = Tile::kColumns / 8;
    for (int at = thread; at < Tile::kRows * kChunks; at += Tile::kThreads) {
      const int row = at / kChunks, o = place.column + at % kChunks * 8;
      if (pixels[row] < 0 || o >= s.out_channels) continue;
      *reinterpret_cast<Vec<T, 8>*>(a.y + (size_t(pixels[row]) * s.out_channels + o)) =
          *reinterpret_cast<const Vec<T, 8>*>(staged + row * Memory::kStagedPitch + at % kChunks * 8);
    }
  } else if (a.y) {
    for (int at = thread; at < Tile::kRows * Tile::kColumns; at += Tile::kThreads) {
      const int row = at / Tile::kColumns, c = at % Tile::kColumns, o = place.column + c;
      if (pixels[row] < 0 || o >= s.out_channels) continue;
      a.y[size_t(pixels[row]) * s.out_channels + o] = staged[row * Memory::kStagedPitch + c];
    }
  }
  if (!with_heads) return;
  const auto* head_sums = reinterpret_cast<const float*>(memory + Memory::kHeadSums);
  for (int at = thread; at < Tile::kRows * a.heads.count; at += Tile::kThreads) {
    const int k = at / Tile::kRows, row = at % Tile::kRows, pixel = pixels[row];
    if (pixel < 0) continue;
    float sum = 0.f;
    PYFACE_UNROLL
    for (int part = 0; part < Tile::kWarpsN; part++)
      sum += head_sums[(part * Tile::kRows + row) * kMaxHeads + k];
    const int position = pixel - place.image * image_pixels, y = position / s.out_w;
    write_head(a.heads, sum, k, place.image, y, position - y * s.out_w, s.out_h, s.out_w);
  }
}

}  // namespace pyface::dev
