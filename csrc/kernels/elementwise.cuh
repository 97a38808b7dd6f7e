// The frame of the elementwise ops on dense [n, c, hw] or [n, hw, c] tensors: each thread takes 16 bytes,
// knows the sample, channel and place of its elements by one or two fast divisions, and hands them to the
// op's body.
#pragma once
#include "kernels/device.cuh"

namespace pyface::dev {

// How the elements of one 16-byte access lie.
enum class Access : int {
  kRow,       // all in one channel of one sample, next to each other in space (n, c, hw order)
  kChannels,  // at one place, channels next to each other (n, hw, c order)
  kScattered  // anything: each element finds its own coordinates
};

struct Extent {
  FastDiv inner, outer;  // in units of accesses for kRow and kChannels, of elements for kScattered
  uint32_t accesses, channels, places;
  bool channels_last;
};

// Sample, channel and place (position in h*w) of the kN elements of access `index`.
template <int kN, Access kAccess>
struct Coordinates {
  static constexpr int kOwn = kAccess == Access::kScattered ? kN : 1;
  uint32_t sample[kOwn], channel[kOwn], place[kOwn];
  uint32_t channels, places;

  __device__ __forceinline__ Coordinates(const Extent& e, uint32_t index)
      : channels(e.channels), places(e.places) {
    PYFACE_UNROLL
    for (int k = 0; k < kOwn; k++) {
      uint32_t rest = kAccess == Access::kScattered ? index * kN + k : index;
      const uint32_t fast = e.inner.split(rest), slow = e.outer.split(rest);
      sample[k] = rest;
      if constexpr (kAccess == Access::kRow) {
        place[k] = fast * kN, channel[k] = slow;
      } else if constexpr (kAccess == Access::kChannels) {
        channel[k] = fast * kN, place[k] = slow;
      } else {
        channel[k] = e.channels_last ? fast : slow;
        place[k] = e.channels_last ? slow : fast;
      }
    }
  }

  // out[k] = table[offset of element k]; `offset` maps an own coordinate to an index.
  template <Access kContiguous, class C, class A, class Offset>
  __device__ __forceinline__ void gather(const C* table, A (&out)[kN], Offset offset) const {
    if constexpr (kAccess == Access::kScattered) {
      PYFACE_UNROLL
      for (int k = 0; k < kN; k++) out[k] = widen(table[offset(k)]);
    } else if constexpr (kAccess == kContiguous) {
      read_vector(table + offset(0), out);
    } else {
      const A one = widen(table[offset(0)]);
      PYFACE_UNROLL
      for (int k = 0; k < kN; k++) out[k] = one;
    }
  }
  template <class C, class A>
  __device__ __forceinline__ void per_channel(const C* table, A (&out)[kN]) const {
    gather<Access::kChannels>(table, out, [&](int k) { return channel[k]; });
  }
  template <class C, class A>
  __device__ __forceinline__ void per_sample_channel(const C* table, A (&out)[kN]) const {
    gather<Access::kChannels>(table, out, [&](int k) { return size_t{sample[k]} * channels + channel[k]; });
  }
  template <class C, class A>
  __device__ __forceinline__ void per_place(const C* table, bool per_sample, A (&out)[kN]) const {
    gather<Access::kRow>(
        table, out, [&](int k) { return (per_sample ? size_t{sample[k]} * places : size_t{0}) + place[k]; });
  }
};

// Body: `using Element`, and apply<kN, kAccess>(element offset, coordinates).
template <class Body, int kN, Access kAccess>
__global__ void __launch_bounds__(256) elementwise_kernel(Body body, Extent extent) {
  const uint32_t step = gridDim.x * blockDim.x;
  for (uint32_t i = blockIdx.x * blockDim.x + threadIdx.x; i < extent.accesses; i += step) {
    body.template apply<kN, kAccess>(size_t{i} * kN, Coordinates<kN, kAccess>(extent, i));
  }
}

// Runs `body` over n x c x hw elements. `vectorizable`: every pointer the body reads in vectors is 16-byte
// aligned. Tensors of 2^31 elements or more go in slices of whole samples.
template <class Body, class Launcher>
void run_elementwise(const char* op, Body body, int64_t n, int64_t c, int64_t hw, bool channels_last,
                     bool vectorizable, const Launcher& launch) {
  using T = typename Body::Element;
  constexpr int kWide = sizeof(T) == 8 ? 1 : kVector<T>;
  const int64_t per_sample = c * hw;
  if (n * per_sample == 0) return;
  PYFACE_CHECK(per_sample < launch.index_limit(), op, "x", std::to_string(per_sample) + " elements a sample",
               "fewer than " + std::to_string(launch.index_limit()));
  const int64_t samples_at_once = std::max<int64_t>(1, (launch.index_limit() - 1) / per_sample);
  const auto go = [&](auto kernel, const char* name, int width, int64_t inner, int64_t outer,
                      int64_t samples) {
    const int64_t accesses = samples * per_sample / width;
    const Extent extent{FastDiv(uint32_t(inner)),
                        FastDiv(uint32_t(outer)),
                        uint32_t(accesses),
                        uint32_t(c),
                        uint32_t(hw),
                        channels_last};
    const int64_t blocks = std::min<int64_t>(ceil_div(accesses, 256), int64_t{launch.multiprocessors()} * 16);
    launch(name, kernel, dim3(unsigned(blocks)), dim3(256), 0, body, extent);
  };
  for (int64_t first = 0; first < n; first += samples_at_once) {
    const int64_t samples = std::min(samples_at_once, n - first);
    const int64_t fast = channels_last ? c : hw, slow = channels_last ? hw : c;
    if constexpr (kWide > 1) {
      if (vectorizable && channels_last && c % kWide == 0) {
        go(elementwise_kernel<Body, kWide, Access::kChannels>, "elementwise_kernel (channels)", kWide,
           c / kWide, hw, samples);
      } else if (vectorizable && !channels_last && hw % kWide == 0) {
        go(elementwise_kernel<Body, kWide, Access::kRow>, "elementwise_kernel (row)", kWide, hw / kWide, c,
           samples);
      } else if (vectorizable && per_sample * samples % kWide == 0) {
        go(elementwise_kernel<Body, kWide, Access::kScattered>, "elementwise_kernel (scattered)", kWide, fast,
           slow, samples);
      } else {
        go(elementwise_kernel<Body, 1, Access::kScattered>, "elementwise_kernel (single)", 1, fast, slow,
           samples);
      }
    } else {
      go(elementwise_kernel<Body, 1, Access::kScattered>, "elementwise_kernel (single)", 1, fast, slow,
         samples);
    }
    body.advance(size_t(samples), size_t(c), size_t(hw));
    vectorizable = vectorizable && (samples * per_sample) % kWide == 0;
  }
}

}  // namespace pyface::dev
