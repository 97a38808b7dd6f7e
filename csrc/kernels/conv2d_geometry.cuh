// Which output pixels a block of a convolution computes, and which input pixels and taps they take.
#pragma once
#include "kernels/conv2d_epilogue.cuh"

namespace pyface::dev {

// Sizes of one launch. A transposed convolution of stride s is s * s plain ones (phases), each with the taps
// that meet its output pixels: blockIdx.y. blockIdx.x runs over the column tiles (output channels), then the
// row tiles of a group of images, then the groups; blockIdx.z over the splits of the sum.
struct ConvShape {
  int n, h, w, in_channels, out_h, out_w, out_channels;
  int kernel, stride, pad_y, pad_x;
  bool transposed;
  int group;   // images whose pixels follow each other in row tiles; 1: a tile lies in one image
  int splits;  // of the sum over taps and channels
  FastDiv column_tiles, row_tiles;
};

// One axis of one phase: output position q lies at first + q * step and takes, from tap a of `taps`, input
// q * source_step + offset(a) with the weight's tap tap(a).
struct PhaseAxis {
  int first, step, count, source_step;
  int first_tap, tap_step, taps, first_offset, offset_step;
  __device__ __forceinline__ int tap(int a) const { return first_tap + a * tap_step; }
  __device__ __forceinline__ int offset(int a) const { return first_offset + a * offset_step; }
};

// Phase 0 has the most taps.
__device__ __forceinline__ PhaseAxis phase_axis(const ConvShape& s, int phase, int out, int pad) {
  if (!s.transposed) return {0, 1, out, s.stride, 0, 1, s.kernel, -pad, 1};
  const int first = (phase + s.stride - pad % s.stride) % s.stride;
  const int taps = phase < s.kernel ? (s.kernel - phase + s.stride - 1) / s.stride : 0;
  const int count = first < out ? (out - first + s.stride - 1) / s.stride : 0;
  return {first, s.stride, count, 1, phase, s.stride, taps, (first + pad - phase) / s.stride, -1};
}

// The part of the work that one block does.
struct ConvBlock {
  PhaseAxis y, x;
  int positions;            // of one image in this phase
  int first_image, images;  // of the group
  int first_row;            // of the group's rows: image * positions + position
  int column;               // first output channel

  __device__ __forceinline__ ConvBlock(const ConvShape& s, int tile_rows, int tile_columns) {
    const int phase = blockIdx.y, phases = s.transposed ? s.stride : 1;
    y = phase_axis(s, phase / phases, s.out_h, s.pad_y);
    x = phase_axis(s, phase % phases, s.out_w, s.pad_x);
    positions = y.count * x.count;
    uint32_t group = blockIdx.x;
    column = int(s.column_tiles.split(group)) * tile_columns;
    first_row = int(s.row_tiles.split(group)) * tile_rows;
    first_image = int(group) * s.group;
    images = s.n - first_image < s.group ? s.n - first_image : s.group;
  }
  __device__ __forceinline__ int rows() const { return images * positions; }
  // Images that the rows from first_row on touch; row r lies in slot(r) of them.
  __device__ __forceinline__ int slots(int tile_rows) const {
    const int end = first_row + tile_rows < rows() ? first_row + tile_rows : rows();
    return (end - 1) / positions - first_row / positions + 1;
  }
  __device__ __forceinline__ int first_slot_image() const { return first_image + first_row / positions; }
};

// One row of the product: an output pixel.
struct ConvRow {
  uint32_t source;  // element of x at which tap offset (0, 0) of this pixel begins, modulo 2^32
  uint32_t taps;    // bit a * x.taps + b: tap (a, b) lies inside the image
  int slot;         // its image among those of the tile
  int pixel;        // (n * out_h + oy) * out_w + ox, or -1 beyond the last row
};

__device__ __forceinline__ ConvRow locate_row(const ConvShape& s, const ConvBlock& b, int tile_row) {
  const int row = b.first_row + tile_row;
  if (row >= b.rows()) return {0, 0, 0, -1};
  const int image = row / b.positions, position = row - image * b.positions;
  const int qy = position / b.x.count, qx = position - qy * b.x.count;
  const int n = b.first_image + image, iy = qy * b.y.source_step, ix = qx * b.x.source_step;
  uint32_t columns = 0, taps = 0;
  for (int a = 0; a < b.x.taps; a++) columns |= uint32_t(unsigned(ix + b.x.offset(a)) < unsigned(s.w)) << a;
  for (int a = 0; a < b.y.taps; a++)
    if (unsigned(iy + b.y.offset(a)) < unsigned(s.h)) taps |= columns << (a * b.x.taps);
  const uint32_t source =
      ((uint32_t(n) * uint32_t(s.h) + uint32_t(iy)) * uint32_t(s.w) + uint32_t(ix)) * uint32_t(s.in_channels);
  const int pixel = (n * s.out_h + b.y.first + qy * b.y.step) * s.out_w + b.x.first + qx * b.x.step;
  return {source, taps, image - b.first_row / b.positions, pixel};
}

template <class T>
struct ConvArguments {
  const T* x;
  const T* weight;
  const float* style;
  T* y;
  float* partial;  // [splits, pixels, out_channels]: written instead of y
  ConvShape shape;
  ConvEpilogue<false> epilogue;
  Heads heads;
  int style_offset;  // of shared memory
};

// The turns of the sum that a block takes: those of its split.
struct ConvTurns {
  int turns_a_tap, begin, end;
  __device__ __forceinline__ ConvTurns(const ConvShape& s, const ConvBlock& b, int depth) {
    turns_a_tap = s.in_channels > depth ? (s.in_channels + depth - 1) / depth : 1;
    const int turns = b.y.taps * b.x.taps * turns_a_tap;
    const int turns_a_split = (turns + s.splits - 1) / s.splits;
    begin = int(blockIdx.z) * turns_a_split;
    end = begin + turns_a_split < turns ? begin + turns_a_split : turns;
  }
  __device__ __forceinline__ int count() const { return end - begin; }
};

// Walks the sum over taps and channels in turns of `depth` channels. Offsets are kept, not computed anew: a
// step within a tap is two additions.
struct ConvWalk {
  int tap_y, tap_x, channel;
  uint32_t source;  // elements from ConvRow::source, modulo 2^32
  int weight;       // elements from the filter's begin

  __device__ __forceinline__ ConvWalk(const ConvShape& s, const ConvBlock& b, const ConvTurns& turns,
                                      int depth) {
    const int tap = turns.begin / turns.turns_a_tap;
    channel = (turns.begin - tap * turns.turns_a_tap) * depth;
    tap_y = b.x.taps ? tap / b.x.taps : 0;
    tap_x = tap - tap_y * b.x.taps;
    place(s, b);
  }
  // Whether the next turn has another tap.
  __device__ __forceinline__ bool advance(const ConvShape& s, const ConvBlock& b, int depth) {
    channel += depth;
    source += uint32_t(depth);
    weight += depth;
    if (channel < s.in_channels) return false;
    channel = 0;
    if (++tap_x >= b.x.taps) {
      tap_x = 0;
      tap_y++;
    }
    place(s, b);
    return true;
  }
  // The bit of ConvRow::taps.
  __device__ __forceinline__ int bit(const ConvBlock& b) const { return tap_y * b.x.taps + tap_x; }

 private:
  __device__ __forceinline__ void place(const ConvShape& s, const ConvBlock& b) {
    source = (uint32_t(b.y.offset(tap_y)) * uint32_t(s.w) + uint32_t(b.x.offset(tap_x))) *
                 uint32_t(s.in_channels) +
             uint32_t(channel);
    weight = (b.y.tap(tap_y) * s.kernel + b.x.tap(tap_x)) * s.in_channels + channel;
  }
};

}  // namespace pyface::dev
