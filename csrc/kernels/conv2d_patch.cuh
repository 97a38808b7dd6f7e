// The convolution of 3x3 taps and stride 1 over patches: a block's rows are 8 x 16 pixels of one image, and
// the 10 x 18 pixels that their taps meet lie in shared memory, 32 channels at a time. conv2d_kernel copies
// every pixel nine times, once a tap; here a tap is another address of the same tile, since ldmatrix takes
// any rows.
#pragma once
#include "kernels/conv2d_tile.cuh"

namespace pyface::dev {

constexpr int kPatchRows = 8, kPatchColumns = 16;
constexpr int kHaloColumns = kPatchColumns + 2, kHaloPixels = (kPatchRows + 2) * kHaloColumns;
constexpr int kHaloPitch = 24;  // a multiple of 8: the exchange of chunks is the same in every row of pixels
constexpr int kHaloElements = (kPatchRows + 2) * kHaloPitch * 32;
constexpr int kHaloSlices = 6;  // of a halo, one a turn: a 16-byte copy for each of 120 threads
constexpr int kSlicePixels = kHaloPixels / kHaloSlices;

// Two halos, then the stages of the weight.
template <class Tile>
constexpr int kPatchBytes = (2 * kHaloElements + Tile::kStages * Tile::kColumns * Tile::kDepth) * 2;

// Turn k multiplies tap k % 9 of channels k / 9 * 32 and on. The turns of taps 0 to 5 copy a slice each of
// the next channels' halo: its buffer is free once the barrier of tap 0 has been passed, and the slices have
// landed kStages - 1 turns after they were asked for, which is before the next tap 0.
template <class T, class Tile>
__global__ void __launch_bounds__(Tile::kThreads, Tile::kBlocks)
    conv2d_patch_kernel(const ConvArguments<T> a) {
  constexpr int kDepth = Tile::kDepth, kCopyRows = Tile::kThreads / 4, kTaps = 9;
  constexpr int kCopies = Tile::kColumns / kCopyRows;
  static_assert(Tile::kRows == kPatchRows * kPatchColumns && Tile::kRows <= Tile::kThreads, "a row a thread");
  static_assert(kSlicePixels * kHaloSlices == kHaloPixels && kSlicePixels * 4 <= Tile::kThreads, "slices");
  static_assert(kHaloSlices - 1 + Tile::kStages - 1 <= kTaps, "slices land before the next tap 0");
  PYFACE_SHARED(memory);
  const ConvShape& s = a.shape;
  const int thread = threadIdx.x, copy_row = thread >> 2, chunk = thread & 3;
  uint32_t image = blockIdx.x;
  const int column = int(s.column_tiles.split(image)) * Tile::kColumns;
  const int patch = int(s.row_tiles.split(image)), across = (s.out_w + kPatchColumns - 1) / kPatchColumns;
  const int top = patch / across * kPatchRows, left = patch % across * kPatchColumns;
  const TilePlace place{int(image), 1, column};
  const int channels = s.in_channels, filter_size = kTaps * channels;
  T* halos = reinterpret_cast<T*>(memory);
  T* stages = halos + 2 * kHaloElements;
  T* style = reinterpret_cast<T*>(memory + a.style_offset);
  if (a.style) read_style(style, a.style, place, channels);

  // Columns beyond the last channel repeat it: they are not written.
  uint32_t filter[kCopies];
  PYFACE_UNROLL
  for (int i = 0; i < kCopies; i++) {
    const int o = column + copy_row + i * kCopyRows;
    filter[i] = uint32_t(kept((o < s.out_channels ? o : s.out_channels - 1) * filter_size + chunk * 8));
  }
  const int first_y = top + (s.transposed ? s.pad_y - 2 : -s.pad_y);
  const int first_x = left + (s.transposed ? s.pad_x - 2 : -s.pad_x);
  const auto copy_slice = [&](int slice, int channel) {
    const int pixel = slice * kSlicePixels + copy_row;
    const int hy = pixel * 3641 >> 16, hx = pixel - hy * kHaloColumns;  // / 18, up to 180
    const int iy = first_y + hy, ix = first_x + hx;
    const int at = channel + chunk * 8;
    const bool inside = unsigned(iy) < unsigned(s.h) && unsigned(ix) < unsigned(s.w) && at < channels;
    const uint32_t from =
        ((image * uint32_t(s.h) + uint32_t(iy)) * uint32_t(s.w) + uint32_t(ix)) * uint32_t(channels) +
        uint32_t(at);
    if (copy_row < kSlicePixels)
      async_copy16_if(
          halos + (channel >> 5 & 1) * kHaloElements + Swizzle<kDepth>::at(hy * kHaloPitch + hx, chunk),
          a.x + size_t(from), inside);
  };
  const int copy_to = kept(Swizzle<kDepth>::at(copy_row, chunk));  // kCopyRows on the exchange is the same
  int load_tap = 0, load_channel = 0, turn_tap = 0, turn_channel = 0;
  const auto load = [&](int k, int stage) {
    if (k == 0) {
      for (int slice = 0; slice < kHaloSlices; slice++) copy_slice(slice, 0);
    }
    if (k >= Tile::kStages - 1) {  // in turn k - (kStages - 1)
      if (turn_tap < kHaloSlices && turn_channel + kDepth < channels)
        copy_slice(turn_tap, turn_channel + kDepth);
      if (++turn_tap == kTaps) turn_tap = 0, turn_channel += kDepth;
    }
    T* to = stages + stage * Tile::kColumns * kDepth + copy_to;
    const uint32_t from = uint32_t(load_tap * channels + load_channel);
    PYFACE_UNROLL
    for (int i = 0; i < kCopies; i++) {
      async_copy16_if(to + i * kCopyRows * kDepth, a.weight + size_t(filter[i] + from),
                      load_channel + chunk * 8 < channels);
    }
    if (++load_tap == kTaps) load_tap = 0, load_channel += kDepth;
  };

  float acc[Tile::kFragmentsM][Tile::kFragmentsN][4] = {};
  RowReads<Tile> reads;
  int reads_a[3];  // of the three columns of taps
  PYFACE_UNROLL
  for (int kx = 0; kx < 3; kx++) {
    const int lane = thread & 31;
    reads_a[kx] = kept(
        Swizzle<kDepth>::at(Tile::warp_row() / kPatchColumns * kHaloPitch + kx + (lane & 15), lane >> 4));
  }
  const T* row_style = style + kept((thread & 3) * 2);
  int tap_y = 0, tap_x = 0, channel = 0;
  const auto multiply = [&](int, int stage) {
    const int ky = s.transposed ? 2 - tap_y : tap_y, kx = s.transposed ? 2 - tap_x : tap_x;
    reads.a = kx == 0 ? reads_a[0] : kx == 1 ? reads_a[1] : reads_a[2];
    const T* halo = halos + (channel >> 5 & 1) * kHaloElements + ky * kHaloPitch * kDepth;
    multiply_rows<T, Tile, kHaloPitch * Tile::kDepth>(
        acc, halo, stages + stage * Tile::kColumns * kDepth, reads, [&](uint32_t (&f)[4], int, int depth) {
          if (!a.style) return;
          PYFACE_UNROLL
          for (int r = 0; r < 4; r++) {
            f[r] = multiply_pairs<T>(
                f[r], *reinterpret_cast<const uint32_t*>(row_style + channel + depth + (r >> 1) * 8));
          }
        });
    if (++tap_x < 3) return;
    tap_x = 0;
    if (++tap_y < 3) return;
    tap_y = 0;
    channel += kDepth;
  };
  run_stages<Tile::kStages>(kTaps * ((channels + kDepth - 1) / kDepth), load, multiply);

  const int oy = top + thread / kPatchColumns, ox = left + thread % kPatchColumns;
  const bool inside = thread < Tile::kRows && oy < s.out_h && ox < s.out_w;
  finish_tile<T, Tile>(acc, a, memory, place, inside ? (int(image) * s.out_h + oy) * s.out_w + ox : -1, 0);
}

}  // namespace pyface::dev
