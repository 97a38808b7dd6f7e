// Barriers, warp collectives, atomics and asynchronous copies of the emulator.
#pragma once
#include <type_traits>

#include "emu/block.h"

namespace pyface::emu {

inline void warp_barrier(const char* what, const Place& at, unsigned mask) {
  check_mask(what, at, mask);
  wait_at(State::kAtWarpBarrier, what, at, mask);
}

// The value that lane `source` brought; a lane outside the mask has none.
template <class V>
V shuffle(V value, int source, const char* what, const Place& at, unsigned mask) {
  static_assert(sizeof(V) <= sizeof(uint64_t), "a shuffle moves at most 8 bytes");
  Warp& warp = block->warps[self->warp];
  std::memcpy(&warp.value[self->lane], &value, sizeof value);
  warp_barrier(what, at, mask);
  if (!(mask & block->lanes_of(self->warp)) || !((mask & block->lanes_of(self->warp)) >> source & 1u)) {
    throw Error(text(what, at) + ": lane " + std::to_string(self->lane) + " reads lane " +
                std::to_string(source) + ", which takes no part");
  }
  V result;
  std::memcpy(&result, &warp.value[source], sizeof result);
  warp_barrier(what, at, mask);
  return result;
}

// D(16x8, f32) = A(16x16, row-major) * B(16x8, column-major) + C with the PTX fragment layout of m16n8k16.
template <bool kBfloat16>
void mma_m16n8k16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], const Place& at) {
  Warp& warp = block->warps[self->warp];
  for (int i = 0; i < 12; i++) {  // registers of a, then of b; the low half of each first
    const uint32_t word = i < 8 ? a[i / 2] : b[i / 2 - 4];
    const uint16_t bits = static_cast<uint16_t>(word >> (i % 2 * 16));
    warp.fragment[self->lane][i] = kBfloat16 ? bfloat16_bits_to_float(bits) : half_bits_to_float(bits);
  }
  warp_barrier("mma.sync", at, ~0u);
  const auto element = [&](int lane, int reg, int high) { return warp.fragment[lane][reg * 2 + high]; };
  const int group = static_cast<int>(self->lane) >> 2, pair = static_cast<int>(self->lane) & 3;
  float result[4];
  for (int i = 0; i < 4; i++) {
    const int row = group + (i >> 1) * 8, column = pair * 2 + (i & 1);
    float sum = 0;
    for (int k = 0; k < 16; k++) {
      const int k_pair = (k & 7) >> 1;
      sum += element((row & 7) * 4 + k_pair, (row >> 3) + ((k >> 3) << 1), k & 1) *
             element(column * 4 + k_pair, 4 + (k >> 3), k & 1);
    }
    result[i] = d[i] + sum;
  }
  warp_barrier("mma.sync", at, ~0u);
  for (int i = 0; i < 4; i++) d[i] = result[i];
}

// Four 8x8 matrices of 16-bit elements; lane 8*m + r gives the address of row r of matrix m.
inline void ldmatrix_x4(uint32_t (&out)[4], const void* row, bool transposed, const Place& at) {
  if (reinterpret_cast<uintptr_t>(row) & 15) {
    throw Error(text("ldmatrix", at) + ": lane " + std::to_string(self->lane) +
                " gives an address that is not 16-byte aligned");
  }
  Warp& warp = block->warps[self->warp];
  const int lane = static_cast<int>(self->lane);
  warp.row[lane] = row;
  warp_barrier("ldmatrix", at, ~0u);
  for (int matrix = 0; matrix < 4; matrix++) {
    out[matrix] = 0;
    for (int half = 0; half < 2; half++) {
      const int r = transposed ? lane % 4 * 2 + half : lane / 4;
      const int c = transposed ? lane / 4 : lane % 4 * 2 + half;
      uint16_t bits;
      std::memcpy(&bits, static_cast<const char*>(warp.row[matrix * 8 + r]) + c * 2, sizeof bits);
      out[matrix] |= static_cast<uint32_t>(bits) << (16 * half);
    }
  }
  warp_barrier("ldmatrix", at, ~0u);
}

// cp.async: the bytes land only when a wait covers their group, the latest moment PTX allows.
inline void async_copy(void* to, const void* from, int bytes, int valid, const Place& at) {
  if ((reinterpret_cast<uintptr_t>(to) | reinterpret_cast<uintptr_t>(from)) &
      static_cast<uintptr_t>(bytes - 1)) {
    throw Error(text("cp.async", at) + ": thread " + std::to_string(self->linear) +
                " gives an address that is not aligned to " + std::to_string(bytes) + " bytes");
  }
  if (valid < 0 || valid > bytes) {
    throw Error(text("cp.async", at) + ": source size " + std::to_string(valid) + "; allowed: 0 to " +
                std::to_string(bytes));
  }
  self->copies.push_back({to, from, bytes, bytes - valid, self->committed_groups});
}
inline void async_commit() { self->committed_groups++; }
inline void async_wait(int pending_groups) {
  auto& copies = self->copies;
  const auto lands = [&](const AsyncCopy& copy) {
    return copy.group < self->committed_groups - pending_groups;
  };
  for (const AsyncCopy& copy : copies) {
    if (!lands(copy)) continue;
    const int valid = copy.bytes - copy.zero_filled;
    if (valid) std::memcpy(copy.to, copy.from, static_cast<size_t>(valid));
    std::memset(static_cast<char*>(copy.to) + valid, 0, static_cast<size_t>(copy.zero_filled));
  }
  copies.erase(std::remove_if(copies.begin(), copies.end(), lands), copies.end());
}

}  // namespace pyface::emu

#define threadIdx (::pyface::emu::self->index)
#define blockIdx (::pyface::emu::block->index)
#define blockDim (::pyface::emu::block->size)
#define gridDim (::pyface::emu::block->grid)

inline void __syncthreads(PYFACE_EMU_PLACE) {
  pyface::emu::wait_at(pyface::emu::State::kAtBlockBarrier, "__syncthreads", {file, line}, 0);
}
inline void __syncwarp(unsigned mask = ~0u, PYFACE_EMU_PLACE) {
  pyface::emu::warp_barrier("__syncwarp", {file, line}, mask);
}
template <class V>
V __shfl_sync(unsigned mask, V value, int lane, PYFACE_EMU_PLACE) {
  return pyface::emu::shuffle(value, lane & 31, "__shfl_sync", {file, line}, mask);
}
template <class V>
V __shfl_xor_sync(unsigned mask, V value, int flip, PYFACE_EMU_PLACE) {
  return pyface::emu::shuffle(value, static_cast<int>(pyface::emu::self->lane) ^ (flip & 31),
                              "__shfl_xor_sync", {file, line}, mask);
}
template <class V>
V __shfl_down_sync(unsigned mask, V value, int by, PYFACE_EMU_PLACE) {
  const int lane = static_cast<int>(pyface::emu::self->lane), source = lane + by;
  return pyface::emu::shuffle(value, source < 32 ? source : lane, "__shfl_down_sync", {file, line}, mask);
}
template <class V>
V __shfl_up_sync(unsigned mask, V value, int by, PYFACE_EMU_PLACE) {
  const int lane = static_cast<int>(pyface::emu::self->lane), source = lane - by;
  return pyface::emu::shuffle(value, source >= 0 ? source : lane, "__shfl_up_sync", {file, line}, mask);
}

// Atomic under OS threads, plain between fibers.
template <class V>
V atomicAdd(V* address, V value) {
#ifdef PYFACE_EMU_THREADS
  V before, after;
  __atomic_load(address, &before, __ATOMIC_RELAXED);
  do {
    after = before + value;
  } while (!__atomic_compare_exchange(address, &before, &after, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
  return before;
#else
  const V before = *address;
  *address = before + value;
  return before;
#endif
}
