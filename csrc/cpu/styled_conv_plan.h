// How a synthesis layer is cut: taps and phases, tiles, chunks that stay in the L2 cache, and the workspace.
#pragma once
#include "cpu/parallel.h"
#include "pyface/styled_conv.h"

namespace pyface {
namespace {  // every instruction set has copies of its own

// One tap: where it lies in the kernel, and which neighbour of a position it multiplies.
struct StyledTap {
  int kernel_y, kernel_x, dy, dx;
};

// Taps in the order of packed weights. up = 2: u[2 i + a] = sum of x[i] w[a] and x[i - 1] w[a + 2], in phases
// (even, even), (even, odd), (odd, even), (odd, odd) of 4, 2, 2 and 1 taps.
inline StyledTap styled_tap(int up, int tap) {
  if (up == 1) return {tap / 3, tap % 3, tap / 3 - 1, tap % 3 - 1};
  constexpr StyledTap kUp[9] = {{0, 0, 0, 0},  {0, 2, 0, -1}, {2, 0, -1, 0}, {2, 2, -1, -1}, {0, 1, 0, 0},
                                {2, 1, -1, 0}, {1, 0, 0, 0},  {1, 2, 0, -1}, {1, 1, 0, 0}};
  return kUp[tap];
}

// Taps of the phase that begins with tap `first`.
inline int styled_phase_taps(int up, int first) {
  if (up == 1) return 9;
  return first == 0 ? 4 : first == 8 ? 1 : 2;
}

struct StyledConvPlan {
  static constexpr int64_t kCacheBytes = 512 << 10;  // activations or rows that are worked on at a time
  static constexpr int64_t kMostSplitPairs = 32;     // whose sums wait in the L2 cache
  int workers;
  int64_t row_tiles = 0;  // up = 1: tiles of a row where rows are whole tiles, else 0: tiles run on over rows
  int64_t tiles = 0;      // of 16 positions
  int64_t chunk_pairs = 0;  // pairs of tiles for which all output channels are computed before the next ones
  int64_t chunk_rows = 0, double_row = 0, rows_floats = 0;  // up = 2
  bool split_groups = false;                   // threads share the output channels instead of the positions
  int ahead_lines = 0;                         // of the next group's weights that are fetched in each step
  bool weights_once = false;                   // all positions are one pair of tiles
  bool splits = false;                         // up = 1: one block of input channels after another
  bool groups_inside = false;                  // up = 2: all output channels of a chunk of rows
  int64_t shared_bytes = 0, worker_bytes = 0;  // of the workspace
  int64_t sums_bytes = 0, values_bytes = 0;

  StyledConvPlan(const StyledConvParams& p, int threads) {
    const int64_t in = padded_channels(p.in_channels), out = padded_channels(p.out_channels);
    const int64_t size = p.number_bytes, chunk = p.chunk_bytes ? p.chunk_bytes : kCacheBytes;
    const int64_t positions = p.n * p.in_h * p.in_w, weight_bytes = in * out * 9 * size;
    // Few positions wait for the weights, which is work as well.
    workers = worker_count(threads, larger_of(positions, 256) * in / 64 * out / 16);
    split_groups =
        workers > 1 && out / kStyledChannels >= 2 * workers && positions * in * size < weight_bytes;
    if (p.up == 1) {
      row_tiles = p.in_w % 16 == 0 ? p.in_w / 16 : 0;
      tiles = row_tiles ? p.n * p.in_h * row_tiles : (p.n * (p.in_h + 1) * (p.in_w + 1) + 15) / 16;
      chunk_pairs = larger_of(1, chunk / (in * size * 32));
      chunk_pairs = smaller_of(chunk_pairs, (tiles + 1) / 2);
      // Float32 has its own AMX products (three parts a number), or none.
      splits = p.dtype == DType::kBF16 && row_tiles > 0 && in > kStyledChannels;
      if (splits) {
        const int64_t row = larger_of(row_tiles / 2, 1);
        chunk_pairs = smaller_of(chunk_pairs, kMostSplitPairs);
        if (chunk_pairs > row) chunk_pairs = chunk_pairs / row * row;
      }
      sums_bytes = 2 * 32 * kStyledChannels * 4 * (splits ? chunk_pairs : 1);
      values_bytes = 2 * 32 * kStyledChannels * size;
      shared_bytes = p.heads ? p.n * out * kStyledHeadChannels * size : 0;
      const int64_t head_pairs = split_groups ? (tiles + 1) / 2 : splits ? 2 * chunk_pairs : chunk_pairs;
      worker_bytes = sums_bytes + values_bytes + (p.heads ? head_pairs * 32 * kStyledHeadChannels * 4 : 0);
    } else {
      const int64_t row = p.in_w + 1;
      double_row = 2 * row * kStyledChannels;
      chunk_rows = smaller_of(larger_of(1, chunk / 1024 / p.in_w), p.n * (p.in_h + 1));
      rows_floats = chunk_rows * double_row + 32 * 2 * kStyledChannels;
      groups_inside = p.groups_inside >= 0 ? p.groups_inside == 1 : weight_bytes <= (int64_t{1} << 20);
      worker_bytes = (4 * rows_floats + (groups_inside ? out / kStyledChannels : 1) * 3 * double_row) * 4;
    }
    worker_bytes = (worker_bytes + 63) / 64 * 64;
    // Weights that do not stay in the cache between the chunks are fetched while the group before is at work.
    const int64_t pairs = p.up == 1 ? chunk_pairs : (p.n * (p.in_h + 1) * (p.in_w + 1) + 31) / 32;
    if (weight_bytes > kCacheBytes) ahead_lines = int((32 + pairs - 1) / pairs);
    weights_once = pairs == 1 && !splits;
  }
  int64_t bytes() const { return shared_bytes + workers * worker_bytes; }

 private:
  static int64_t larger_of(int64_t a, int64_t b) { return a > b ? a : b; }
  static int64_t smaller_of(int64_t a, int64_t b) { return a < b ? a : b; }
};

}  // namespace
}  // namespace pyface
