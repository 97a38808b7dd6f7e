// The parts of a synthesis layer that all threads read.
#pragma once
#include "cpu/styled_conv_plan.h"
#include "cpu/styled_conv_vector.h"

namespace pyface::PYFACE_ISA_NS {
namespace {

template <class Products>
struct Layer {
  using T = typename Products::T;
  static constexpr int64_t kBlock = Products::kBlock, kParts = Products::kParts;

  const StyledConvParams& p;
  const StyledConvPlan plan;
  const Sides sides;
  const Rectify rectify;
  const int64_t in_blocks, out_groups, in_plane, out_plane, in_row, in_first, out_row, out_first;
  int64_t offsets[9];

  explicit Layer(const StyledConvParams& params, int threads)
      : p(params),
        plan(params, threads),
        sides(params),
        rectify(params.alpha, params.clamp),
        in_blocks(padded_channels(params.in_channels) / kBlock),
        out_groups(padded_channels(params.out_channels) / kOut),
        in_plane(blocked_positions(params.x_batch, params.in_h, params.in_w) * kBlock),
        out_plane(blocked_positions(params.y_batch, params.out_h(), params.out_w()) * kBlock),
        in_row(params.in_w + 1),
        in_first((params.x_first * (params.in_h + 1) + 1) * (params.in_w + 1) + 1),
        out_row(params.out_w() + 1),
        out_first((params.y_first * (params.out_h() + 1) + 1) * (params.out_w() + 1) + 1) {
    for (int tap = 0; tap < 9; ++tap) {
      const StyledTap t = styled_tap(p.up, tap);
      offsets[tap] = (t.dy * in_row + t.dx) * kBlock;
    }
  }

  // Steps of the products of one tap.
  int64_t tap_steps() const { return in_blocks * Products::kSteps; }

  const T* in_at(int64_t position) const {
    return static_cast<const T*>(p.x) + (in_first + position) * kBlock;
  }
  T* out_at(int64_t group, const Place& at) const {
    const int64_t position = out_first + (at.n * (p.out_h() + 1) + at.y) * out_row + at.x;
    return static_cast<T*>(p.y) + group * (kOut / kBlock) * kParts * out_plane + position * kBlock;
  }
  const T* weight_of(int64_t group, int first_tap) const {
    const int64_t tap_elements = kOut * kBlock * kParts;
    return static_cast<const T*>(p.weight) + (group * 9 + first_tap) * in_blocks * tap_elements;
  }

  // The weights of the group of output channels after `group` of [begin, end), on their way to the cache; its
  // own, a little ahead, where each is read once.
  struct Ahead {
    const char* at;
    int lines;  // in each step
    PYFACE_INLINE void step() {
      for (int i = 0; i < lines; ++i, at += 64) __builtin_prefetch(at, 0, 2);
    }
  };
  Ahead ahead_of(int64_t group, int64_t begin, int64_t end) const {
    constexpr int64_t kNear = 16 << 10;  // bytes
    if (plan.weights_once) {
      return {reinterpret_cast<const char*>(weight_of(group, 0)) + kNear, plan.ahead_lines};
    }
    const T* next = weight_of(group + 1 < end ? group + 1 : begin, 0);
    return {reinterpret_cast<const char*>(next), end - begin > 1 ? plan.ahead_lines : 0};
  }

  // body(worker, first and end position unit, first and end group) in each thread.
  template <class Body>
  void share(int64_t units, const Body& body) const {
    if (plan.split_groups) {
      parallel_ranges(plan.workers, out_groups, 1, [&](int worker, int64_t begin, int64_t end) {
        body(worker, int64_t{0}, units, begin, end);
      });
    } else {
      parallel_ranges(plan.workers, units, 1, [&](int worker, int64_t begin, int64_t end) {
        body(worker, begin, end, int64_t{0}, out_groups);
      });
    }
  }
};

}  // namespace
}  // namespace pyface::PYFACE_ISA_NS
