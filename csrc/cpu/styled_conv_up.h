// Layers that double the size: rows of the transposed convolution, two (even, odd) for each row of in_row
// positions, and the filter over them.
#pragma once
#include "cpu/styled_conv_layer.h"

namespace pyface::PYFACE_ISA_NS {
namespace {

template <class Products>
struct UpLayer : Layer<Products> {
  using Base = Layer<Products>;
  using Base::Base;
  using Base::in_at;
  using Base::in_blocks;
  using Base::in_plane;
  using Base::in_row;
  using Base::kBlock;
  using Base::kParts;
  using Base::offsets;
  using Base::out_at;
  using Base::out_groups;
  using Base::out_plane;
  using Base::p;
  using Base::plan;
  using Base::rectify;
  using Base::sides;
  using Base::weight_of;
  using typename Base::Ahead;
  using typename Base::T;

  // Rows [first, last) of one group of output channels, and three rows of before: odd of the last but one,
  // even and odd of the last.
  struct Rows {
    float *even = nullptr, *odd = nullptr, *before = nullptr;
    int64_t group = 0, first = 0, last = 0;
  };
  const float* even_row(const Rows& rows, int64_t row) const {
    return row >= rows.first ? rows.even + (row - rows.first) * plan.double_row
                             : rows.before + plan.double_row;
  }
  const float* odd_row(const Rows& rows, int64_t row) const {
    if (row >= rows.first) return rows.odd + (row - rows.first) * plan.double_row;
    return rows.before + (row == rows.first - 1 ? 2 : 0) * plan.double_row;
  }

  // The filter over rows whose products are there, piece by piece.
  struct Filtering {
    Rows rows;
    int64_t row = 0, column = 0;  // where it goes on
    FilteredRows<T> f;
    FilterState state;
  };

  // Makes `at.row`, or the first row after it that has output, ready; false where there is none.
  bool begin_row(Filtering& at, int64_t emit) const {
    for (; at.row < at.rows.last; ++at.row) {
      const int64_t n = at.row / (p.in_h + 1), i = at.row % (p.in_h + 1);
      if (i == 0 || at.row < emit) continue;
      const int64_t side = n * sides.channels + at.rows.group * kOut, y = 2 * i - 2;
      at.f = {{odd_row(at.rows, at.row - 2), even_row(at.rows, at.row - 1), odd_row(at.rows, at.row - 1),
               even_row(at.rows, at.row), odd_row(at.rows, at.row)},
              sides.demod + side,
              sides.bias + at.rows.group * kOut,
              sides.style + side,
              {sides.noise_row(n, y), sides.noise_row(n, y + 1)},
              sides.noise_scale,
              {out_at(at.rows.group, {n, y, 0}), out_at(at.rows.group, {n, y + 1, 0})}};
      at.state = FilterState();
      at.column = 0;
      return true;
    }
    return false;
  }

  // Filters `columns` columns; rows of before are replaced when all is done, and at.rows.last becomes 0.
  void filter_some(Filtering& at, int64_t columns, int64_t emit) const {
    const int64_t width = p.out_w() + 2;
    while (columns > 0 && at.row < at.rows.last) {
      const int64_t end = at.column + columns < width ? at.column + columns : width;
      filter_columns<Products>(at.f, at.state, at.column, end, out_plane, rectify);
      columns -= end - at.column;
      at.column = end;
      if (end < width) return;
      ++at.row;
      begin_row(at, emit);
    }
    if (at.rows.last > 0 && at.row >= at.rows.last) {
      const size_t bytes = plan.double_row * sizeof(float);
      const int64_t last = at.rows.last;
      __builtin_memmove(at.rows.before, odd_row(at.rows, last - 2), bytes);
      __builtin_memcpy(at.rows.before + plan.double_row, even_row(at.rows, last - 1), bytes);
      __builtin_memcpy(at.rows.before + 2 * plan.double_row, odd_row(at.rows, last - 1), bytes);
      at.rows.last = 0;
    }
  }

  template <int kTiles, class Side>
  void four_phases(const Rows& rows, int64_t local, int64_t next, const Side& side) const {
    const int64_t begin = rows.first * in_row, stride = 2 * kOut;
    const T* a[2] = {in_at(begin + local), in_at(begin + local + kTile)};
    const T* next_a[2] = {in_at(begin + next), in_at(begin + next + kTile)};
    float* even = rows.even + local * stride;
    float* odd = rows.odd + local * stride;
    float* ee[2] = {even, even + kTile * stride};
    float* eo[2] = {even + kOut, even + kTile * stride + kOut};
    float* oe[2] = {odd, odd + kTile * stride};
    float* oo[2] = {odd + kOut, odd + kTile * stride + kOut};
    const T* w = weight_of(rows.group, 0);
    const int64_t tap = in_blocks * kOut * kBlock * kParts;
    Products::template multiply<4, kTiles>(a, next_a, in_plane, offsets, w, in_blocks, ee, stride, side);
    Products::template multiply<2, kTiles>(a, next_a, in_plane, offsets + 4, w + 4 * tap, in_blocks, eo,
                                           stride, side);
    Products::template multiply<2, kTiles>(a, next_a, in_plane, offsets + 6, w + 6 * tap, in_blocks, oe,
                                           stride, side);
    Products::template multiply<1, kTiles>(a, next_a, in_plane, offsets + 8, w + 8 * tap, in_blocks, oo,
                                           stride, side);
  }

  // Rows of in_row positions [begin, end). The filter goes over some rows during the products of the next
  // ones.
  void range(int worker, int64_t begin, int64_t end, int64_t first_group, int64_t last_group) const {
    [[maybe_unused]] const typename Products::Session session;
    float* own = reinterpret_cast<float*>(static_cast<char*>(p.workspace) + plan.shared_bytes +
                                          worker * plan.worker_bytes);
    float* before = own + 4 * plan.rows_floats;
    const int64_t start = begin < 2 ? 0 : begin - 2, state = 3 * plan.double_row;
    __builtin_memset(before, 0, (plan.groups_inside ? last_group - first_group : 1) * state * sizeof(float));
    Filtering waiting;
    Ahead ahead{};
    int turn = 0;
    constexpr int64_t kPiece = 4;  // columns at a time: fewer would move the state too often
    const auto piece = [&](int64_t group, int64_t first, float* kept) {
      const int64_t last = first + plan.chunk_rows < end ? first + plan.chunk_rows : end;
      const Rows rows{own + turn * 2 * plan.rows_floats,
                      own + (turn * 2 + 1) * plan.rows_floats,
                      kept,
                      group,
                      first,
                      last};
      turn ^= 1;
      const int64_t count = (last - first) * in_row;
      const int64_t columns = (waiting.rows.last - waiting.row) * (p.out_w() + 2);
      const int64_t steps = (count + 2 * kTile - 1) / (2 * kTile) * 9 * this->tap_steps();
      const int64_t rate = columns > 0 ? (columns * 256 + steps - 1) / steps : 0;  // columns / 256 a step
      int64_t due = 0;
      const auto filter = [&](int64_t) {
        ahead.step();
        due += rate;
        if (due < kPiece * 256) return;
        const int64_t whole = due / 256;
        due -= whole * 256;
        filter_some(waiting, whole, begin);
      };
      for (int64_t local = 0; local < count; local += 2 * kTile) {
        const int64_t next = local + 3 * kTile < count ? local + 2 * kTile : 0;
        if (count - local > kTile) {
          four_phases<2>(rows, local, next, filter);
        } else {
          four_phases<1>(rows, local, next, filter);
        }
      }
      filter_some(waiting, columns, begin);
      if (!plan.groups_inside && first == start) __builtin_memset(kept, 0, state * sizeof(float));
      waiting.rows = rows;
      waiting.row = first;
      begin_row(waiting, begin);
    };
    if (plan.groups_inside) {
      for (int64_t first = start; first < end; first += plan.chunk_rows) {
        for (int64_t group = first_group; group < last_group; ++group) {
          piece(group, first, before + (group - first_group) * state);
        }
      }
    } else {
      for (int64_t group = first_group; group < last_group; ++group) {
        ahead = this->ahead_of(group, first_group, last_group);
        for (int64_t first = start; first < end; first += plan.chunk_rows) piece(group, first, before);
      }
    }
    filter_some(waiting, (end - start) * (p.out_w() + 2), begin);
  }

  void run() const {
    this->share(p.n * (p.in_h + 1),
                [&](int worker, int64_t begin, int64_t end, int64_t first_group, int64_t last_group) {
                  range(worker, begin, end, first_group, last_group);
                });
  }
};

}  // namespace
}  // namespace pyface::PYFACE_ISA_NS
